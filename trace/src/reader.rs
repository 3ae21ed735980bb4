//! Files of events, read and put together.

use std::io;
use std::path::{Path, PathBuf};

use crate::event::Event;

/// Why events can't be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file can't be read.
    File(PathBuf, io::Error),
    /// A line is no event.
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::File(path, error) => write!(f, "{}: {error}", path.display()),
            ReadError::Line { path, line, why } => write!(f, "{}:{line}: no event: {why}", path.display()),
        }
    }
}

impl std::error::Error for ReadError {}

/// The events of some processes' files, in the order of their times.
///
/// # Errors
/// [`ReadError`]. A last line without its end is what a killed process was writing, and is left out.
pub fn read(paths: &[impl AsRef<Path>]) -> Result<Vec<Event>, ReadError> {
    let mut all = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let bytes = rt::fs::read(path).map_err(|error| ReadError::File(path.to_owned(), error))?;
        all.push(parse(&bytes).map_err(|(line, why)| ReadError::Line { path: path.to_owned(), line, why })?);
    }
    Ok(merge(all))
}

/// The events of one file; the number of the first bad line, and what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Vec<Event>, (usize, String)> {
    let mut events = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match serde_json::from_slice(line) {
            Ok(event) => events.push(event),
            // The last piece has no end: it is empty, or torn.
            Err(_) if lines.peek().is_none() => {}
            Err(error) => return Err((number + 1, error.to_string())),
        }
    }
    Ok(events)
}

/// Events of several sources in the order of their times; what happened at the same time stays as it was in its source.
pub fn merge(sources: Vec<Vec<Event>>) -> Vec<Event> {
    let mut all: Vec<Event> = sources.into_iter().flatten().collect();
    all.sort_by_key(|event| event.at);
    all
}

/// Events as the lines of a file.
pub fn to_lines(events: &[Event]) -> String {
    let lines = events.iter().filter_map(|event| serde_json::to_string(event).ok());
    lines.flat_map(|line| [line, "\n".to_owned()]).collect()
}

/// What each page begins with, and no trace.
pub(crate) const PAGE: &str = "<!DOCTYPE html>";

/// Writes a page to a file, in the place of a page that is there.
///
/// # Errors
/// When something else is there: a trace that was named by mistake isn't lost. Else what the operating system says.
pub fn write_page(path: &Path, html: &str) -> io::Result<()> {
    let mut file = rt::fs::File::append(path)?;
    // A device or a pipe takes what it is given.
    if rt::fs::is_file(path)? {
        let there = rt::fs::read(path)?;
        if !there.is_empty() && !there.starts_with(PAGE.as_bytes()) {
            return Err(io::Error::other("this is no page, and would be lost: name another file, or remove it"));
        }
        file.set_len(0)?;
    }
    file.write_all(html.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    fn event(at: u64, node: &str) -> Event {
        Event::new(at, node, Kind::Note, "x")
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut sent = event(3, "A \"</script>\n");
        (sent.kind, sent.message, sent.peer) = (Kind::Sent, Some("1.2".to_owned()), Some("B".to_owned()));
        let events = vec![event(1, ""), sent];
        assert_eq!(parse(to_lines(&events).as_bytes()), Ok(events));
    }

    #[test]
    fn a_page_replaces_a_page_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_page(&path, "<!DOCTYPE html>long").unwrap();
        write_page(&path, "<!DOCTYPE html>").unwrap();
        assert_eq!(rt::fs::read(&path).unwrap(), b"<!DOCTYPE html>");
        let trace = folder.path().join("trace");
        rt::fs::File::append(&trace).unwrap().write_all(b"{}\n").unwrap();
        assert!(write_page(&trace, "<!DOCTYPE html>").unwrap_err().to_string().contains("name another file"));
        assert_eq!(rt::fs::read(&trace).unwrap(), b"{}\n");
        assert!(write_page(folder.path(), "").is_err());
    }

    #[test]
    fn times_decide_the_order_and_ties_keep_theirs() {
        let merged =
            merge(vec![vec![event(1, "a1"), event(5, "a2"), event(5, "a3")], vec![event(0, "b1"), event(5, "b2")]]);
        let nodes: Vec<_> = merged.iter().map(|event| event.node.as_str()).collect();
        assert_eq!(nodes, ["b1", "a1", "a2", "a3", "b2"]);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_any_other_is_an_error() {
        let whole = to_lines(&[event(1, "a"), event(2, "b")]);
        for end in whole.len() / 2 + 1..whole.len() {
            assert_eq!(
                parse(&whole.as_bytes()[..end]).map(|events| events.len()),
                Ok(if end == whole.len() - 1 { 2 } else { 1 })
            );
        }
        let (line, _) = parse(b"{\"at\":1,\"node\":\"a\",\"kind\":\"note\",\"text\":\"\"}\nnonsense\n").unwrap_err();
        assert_eq!(line, 2);
        assert_eq!(parse(b"\n\n").unwrap_err().0, 1);
        assert_eq!(parse(b""), Ok(Vec::new()));
        assert!(parse(b"{\"at\":1,\"node\":\"a\",\"kind\":\"dance\",\"text\":\"\"}\n").is_err());
    }

    #[test]
    fn an_error_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        rt::fs::File::append(&path).unwrap().write_all(b"{}\n").unwrap();
        let error = read(&[&path]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:1: no event: missing field", path.display())), "{error}");
        let error = read(&[dir.path().join("none")]).unwrap_err().to_string();
        assert!(error.contains("none: No such file"), "{error}");
    }
}
