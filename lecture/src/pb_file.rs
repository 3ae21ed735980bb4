//! The file of a replicated server: what it has executed, to be looked at. Lines as in [`crate::file`].
//!
//! It is never read back: a server that was restarted has nothing, and fetches the state if it becomes a backup. Then the
//! file is written anew, and so it is when a server starts.

use std::path::{Path, PathBuf};

use rt::fs::{self, File};

use crate::file::{LedgerError, replay};
use crate::peers::StartError;

/// The file; none if a server keeps none.
pub(crate) struct Lines {
    file: Option<(PathBuf, File)>,
    /// Why it can't be written any more.
    broken: Option<String>,
}

impl Lines {
    /// Begins an empty file. One that isn't a server's stays as it is.
    pub(crate) fn begin(path: Option<&Path>) -> Result<Lines, StartError> {
        let Some(path) = path else { return Ok(Lines { file: None, broken: None }) };
        let refused = |why: String| StartError(format!("{}: {why}", path.display()));
        let file = open(path).map_err(|e| refused(e.to_string()))?;
        let mut lines = Lines { file: Some((path.to_owned(), file)), broken: None };
        lines.rewrite(&[]);
        lines.broken.take().map_or(Ok(lines), |why| Err(StartError(why)))
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: &str) {
        self.write(|file| file.write_all(format!("{line}\n").as_bytes()));
    }

    /// Writes other lines in their place.
    pub(crate) fn rewrite(&mut self, lines: &[String]) {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        self.write(|file| file.set_len(0).and_then(|()| file.write_all(text.as_bytes())));
    }

    /// Why it can't be written any more.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn write(&mut self, write: impl FnOnce(&mut File) -> std::io::Result<()>) {
        if let (Some((path, file)), None) = (&mut self.file, &self.broken) {
            self.broken = write(file).err().map(|error| format!("{}: {error}", path.display()));
        }
    }
}

/// Opens a file that is a server's, or empty. It may be cut short after its last line: it is emptied anyway.
fn open(path: &Path) -> Result<File, LedgerError> {
    let file = File::append(path)?;
    if !fs::is_file(path)? {
        return Err(LedgerError::NoFile);
    }
    if !file.try_lock()? {
        return Err(LedgerError::InUse);
    }
    replay(&fs::read(path)?).map(|_| file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_servers_file_is_emptied_even_if_it_is_cut_short_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        for (text, is_taken) in [
            ("", true),
            ("1 read alice -> 0 |\n", true),
            ("1 read alice -> 0 |\n2 depo", true),
            ("1 read alice -> 0 | \n", false),
            ("1 shopping list", false),
            ("hello\n2 depo", false),
        ] {
            let path = folder.path().join("a");
            let mut file = File::append(&path).unwrap();
            file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).unwrap();
            drop(file);
            assert_eq!(Lines::begin(Some(&path)).is_ok(), is_taken, "{text:?}");
            assert_eq!(fs::read(&path).unwrap(), if is_taken { b"" } else { text.as_bytes() }, "{text:?}");
        }
    }
}
