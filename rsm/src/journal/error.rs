//! What can be wrong with a journal.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside::MAX_ASIDE;
use super::format::{self, TooLong};

/// Why the journal can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("{}: can't {doing} it: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// It isn't what was written.
    #[error("{}: damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins that can't be read, counted from 0.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// It is no file.
    #[error("{}: no file, but a folder, a pipe or the like", path.display())]
    NoFile {
        /// What lies there.
        path: PathBuf,
    },
    /// Others of its name have been set aside, as many as may be.
    #[error("{}: can't be set aside: there are {MAX_ASIDE} already", path.display())]
    Aside {
        /// The file.
        path: PathBuf,
    },
    /// Another version of this program wrote it.
    #[error("{}: of format {format}, which this version can't read", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A state, or a request's arguments, can't be written.
    #[error("{}: {bytes} bytes are too many: a state may have {}, a request {}", path.display(),
        format::MAX_STATE_BYTES, format::MAX_ARGS_BYTES)]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How many there are.
        bytes: usize,
    },
    /// Its name has gone, or is another file's: what is written from now on would be lost when the process ends.
    #[error("{}: removed, or replaced by another file, while the node ran", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// It was stopped.
    #[error("{}: not written any more: the node stops", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

/// An error of the operating system, about a file.
pub(super) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError::Io { path: path.to_owned(), doing, source: Arc::new(source) }
}

pub(super) fn too_long(path: &Path) -> impl FnOnce(TooLong) -> JournalError {
    move |TooLong { bytes }| JournalError::TooLong { path: path.to_owned(), bytes }
}
