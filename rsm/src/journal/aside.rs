//! What is left of a node's earlier lives: journals set aside, and unfinished new ones.

use std::path::{Path, PathBuf};

use rt::fs;

use super::disk::{exists, sync_folder};
use super::error::{JournalError, io};
use super::{Recovered, file_name};
use crate::protocol::Viewstamp;

/// So many files of one name are set aside at most. A run of the lab's tester, which removes Paxos logs only, makes 16.
pub(super) const MAX_ASIDE: usize = 100;

/// The journal of an earlier life that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Where it was.
    pub from: PathBuf,
    /// Where it is.
    pub to: PathBuf,
    /// The last view in which that node was in sync, and its last request; `None` if the file can't be read.
    pub said: Option<(u32, Viewstamp)>,
}

/// Gives the journal of an earlier life of node `me` another name, `rsm-<me>.log.aside`, or `.aside.2` and so on, for
/// sure: a node without its Paxos log is a new node, whatever its name was used for. `None` if there was none, or one
/// without a request, which is removed: a first node can end before its first view. `says` is what was read of it.
///
/// # Errors
/// What the operating system says, or if there are too many.
pub fn set_aside(dir: &Path, me: &str, says: Option<Recovered>) -> Result<Option<Aside>, JournalError> {
    let path = dir.join(file_name(me));
    if !exists(&path)? {
        return Ok(None);
    }
    let said = says.map(|recovered| (recovered.mark, recovered.last()));
    if said.is_some_and(|(_, last)| last == Viewstamp::default()) {
        fs::remove_file(&path).map_err(io(&path, "remove"))?;
        sync_folder(&path)?;
        return Ok(None);
    }
    let name = |number| if number == 1 { ".aside".to_owned() } else { format!(".aside.{number}") };
    for to in (1..=MAX_ASIDE).map(|number| fs::beside(&path, &name(number))) {
        if !exists(&to)? {
            fs::rename(&path, &to).map_err(io(&path, "set aside"))?;
            sync_folder(&path)?;
            return Ok(Some(Aside { from: path, to, said }));
        }
    }
    Err(JournalError::Aside { path })
}

/// Removes what a crash has left of a new generation, which may be what fills the disk. The caller has the lock of the
/// Paxos log.
///
/// # Errors
/// What the operating system says.
pub fn clean_up(dir: &Path, me: &str) -> Result<(), JournalError> {
    let new = fs::beside(&dir.join(file_name(me)), ".new");
    fs::remove_leftover(&new).map_err(io(&new, "remove"))
}
