//! What an operator can do about an error: at the start, while a node runs, and when it is started over from.

use std::io::ErrorKind;

use yfs_config::LogError;

use crate::journal::JournalError;
use crate::pair::PairError;
use crate::rsm::RsmError;

const OTHER_VERSION: &str = "another version of this program wrote it, or another program: use that one, or a newer version; \
                             never move it away";
const ODD_FILE: &str = "something else is in its place: move that away";
/// Both texts about damage: a copy is as good as a disk that lost what was acknowledged since.
const PAXOS_DAMAGED: &str = "move it and rsm-ME.log away, and let the node join another one, as a new node: FIRST must not be \
                             ME then. Only a copy made after the node last ran may be put in its place";
const JOURNAL_DAMAGED: &str = "if other nodes hold the state, move it away, but keep paxos-ME.log, and start the node again: it \
                               is sent the state by the others. If none does, keep it. Only a copy made after the node last \
                               ran may be put in its place";
const VOTES_LOST: &str = "move both away; the node is then added again as a new one: FIRST must not be ME then. If no other \
                          node has the state, start over from this one instead";
/// Nobody could send the state to a node that is to be the only one.
const LAST_DAMAGED: &str = "it may be all that is left, so keep it: start over from another node, or put a copy in its place \
                            that was made after the node last ran";

impl RsmError {
    /// What went wrong with a node, and what to do about it.
    pub fn explain(&self) -> String {
        let advice = match self {
            RsmError::Listen { error, .. } => match error.kind() {
                ErrorKind::AddrInUse => {
                    "stop the program that uses the port (perhaps this node already runs), or choose another"
                }
                ErrorKind::AddrNotAvailable => "ME must be an address of this machine",
                ErrorKind::PermissionDenied => {
                    "choose a port above 1023, or run the node as a user that may use this one"
                }
                _ => "the operating system refused it",
            },
            RsmError::TestPort { .. } => "leave the port after ME's free, or choose another ME",
            RsmError::Log(error) => return explain_log(error),
            RsmError::Journal(error) => return explain_journal(error),
            RsmError::Pair(PairError::OtherNode { .. }) => {
                "put this node's own one in its place; if that is lost, move this one away, but keep paxos-ME.log, and start \
                 the node again: it is sent the state by the others, if there are any"
            }
            RsmError::Pair(PairError::OtherDisk { .. } | PairError::VotesLost { .. }) => VOTES_LOST,
            // The file is as it was written.
            RsmError::State { .. } => OTHER_VERSION,
            RsmError::Procedure { .. } => {
                "start the version that wrote it once more, without clients that call it (docs/durable-state.md)"
            }
            _ => return self.to_string(),
        };
        format!("{self}: {advice}")
    }

    /// What went wrong with [`start_over`](crate::start_over()), and what to do about it.
    pub fn explain_start_over(&self) -> String {
        let advice = match self {
            RsmError::Log(LogError::Damaged { .. }) | RsmError::Journal(JournalError::Damaged { .. }) => LAST_DAMAGED,
            RsmError::Log(LogError::InUse { .. }) => "the node runs in this folder: stop it first",
            RsmError::Answers { .. } => {
                "stop all nodes first; if they can still form a view, start them instead, and don't start over"
            }
            RsmError::NoState { .. } => {
                "give this command in the folder, and with the name, that the node was started with; if you did, start over \
                 from another node"
            }
            RsmError::Apart { .. } => "start over from another node, or put back the log that the node ran with",
            _ => return self.explain(),
        };
        format!("{self}: {advice}")
    }
}

/// What went wrong with the Paxos log, and what to do about it.
pub(crate) fn explain_log(error: &LogError) -> String {
    let advice = match error {
        LogError::Io { source, .. } => of_file(source.kind()),
        LogError::NoFile { .. } => ODD_FILE,
        LogError::InUse { .. } => "this node already runs in this folder",
        LogError::Damaged { .. } => PAXOS_DAMAGED,
        LogError::Gone { .. } => {
            "if it was moved away, put it back; if not, the node's votes are lost: move rsm-ME.log away, too, and let the node \
             join another one, as a new node: FIRST must not be ME then"
        }
        LogError::Failed { .. } => return error.to_string(),
    };
    format!("{error}: {advice}")
}

/// What went wrong with the journal, and what to do about it.
pub(crate) fn explain_journal(error: &JournalError) -> String {
    let advice = match error {
        JournalError::Io { source, .. } => of_file(source.kind()),
        JournalError::NoFile { .. } => ODD_FILE,
        JournalError::Aside { .. } => {
            "the node has lost its Paxos log that often; remove some of those that you don't need"
        }
        JournalError::Damaged { .. } => JOURNAL_DAMAGED,
        JournalError::Format { .. } => OTHER_VERSION,
        JournalError::Gone { .. } => {
            "if it was moved away, put it back; if not, start the node again: it is sent the state by the others, if there \
             are any"
        }
        JournalError::TooLong { .. } | JournalError::Stopped { .. } => return error.to_string(),
    };
    format!("{error}: {advice}")
}

/// What to do when the operating system refuses something about a file.
fn of_file(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on its disk, then start again",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "start in a folder that may be written to",
        ErrorKind::NotFound => "start in the folder where the node's log is, or is to be",
        ErrorKind::IsADirectory => ODD_FILE,
        _ => "see what is wrong with its disk, then start again",
    }
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
