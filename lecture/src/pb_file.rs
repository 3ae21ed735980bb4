//! The file of a replicated server: what it has executed, to be looked at. Lines as in [`crate::file`].
//!
//! It is never read back: a server that was restarted has nothing, and fetches the state if it becomes a backup. Then the
//! file is written anew, and so it is when a server starts.

use std::path::{Path, PathBuf};

use rt::fs::File;

use crate::file::Ledger;
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
        drop(Ledger::open(path).map_err(|e| refused(e.to_string()))?);
        let file = File::append(path).map_err(|e| refused(e.to_string()))?;
        if !file.try_lock().map_err(|e| refused(e.to_string()))? {
            return Err(refused("another server uses this file: stop it, or choose another file".to_owned()));
        }
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
