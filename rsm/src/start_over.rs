//! The operator's way out when the members that hold the state can't form a view any more: a majority of disks is lost, or
//! one of two (docs/durable-state.md). One survivor, named by its operator, goes on alone.
//!
//! What it gives up: what was acknowledged and isn't in the survivor's state; and the promise that there is one service,
//! unless each other node starts with an empty folder from now on: the old ones could form a view of their own.

use std::path::Path;

use rt::fs;
use rt::thread::Node;
use rt::time::now;
use yfs_config::LogError;
use yfs_paxos::{Acceptor, Instance};

use crate::journal::{Item, Journal};
use crate::protocol::Viewstamp;
use crate::rsm::RsmError;

/// How long the journal's thread may take to end.
const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What a node that doesn't run has on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The last view that it knows.
    pub vid: Instance,
    /// That view's members.
    pub members: Vec<String>,
    /// The last request in its state. The survivor with the greatest one is the best.
    pub last: Viewstamp,
    /// The view in which it was in sync with that state last.
    pub in_sync: u32,
}

/// Looks at what the node `me`, which must not run, has in `dir`. With `go_on`, makes it the only member of its service, so
/// that it serves alone when it is started next.
///
/// # Errors
/// When it runs, has no state to go on with, or a log can't be used.
pub fn start_over(dir: &Path, me: &str, go_on: bool) -> Result<Survivor, RsmError> {
    let log = dir.join(yfs_paxos::log::file_name(me));
    // To open it would make one.
    if !fs::exists(&log).map_err(|source| LogError::Io { path: log.clone(), doing: "look for", source })? {
        return Err(RsmError::NoState);
    }
    let acceptor = Acceptor::open(dir, me, std::sync::Arc::new(|_| {}))?;
    let (journal, recovered) = Journal::open(dir, me)?;
    let view = acceptor.value(acceptor.instance());
    let (Some(view), Some(recovered)) = (view, recovered) else { return Err(RsmError::NoState) };
    let last = recovered.requests.last().map_or(recovered.base_last, |(vs, ..)| *vs);
    let vid = acceptor.instance();
    let survivor = Survivor { vid, members: view.members().to_vec(), last, in_sync: recovered.mark };
    if !go_on {
        return Ok(survivor);
    }
    if !view.contains(me) {
        return Err(RsmError::NoState);
    }
    // The state first, as always (rule 0). One member leaves a view, as in any other.
    let leave: Vec<&String> = view.members().iter().filter(|member| *member != me).collect();
    let alone = vid + Instance::try_from(leave.len()).unwrap_or(Instance::MAX);
    journal.start(&Node::new(me), |_| {}, |_| {}).map_err(RsmError::Thread)?;
    journal.append(Item::Base { mark: recovered.mark, last: recovered.base_last, state: recovered.state });
    for (vs, procedure, args) in recovered.requests {
        journal.append(Item::Request { vs, procedure, args });
    }
    let position = journal.append(Item::Mark { vid: alone });
    journal.wait(position, None)?;
    journal.stop(now() + STOP_PATIENCE);
    let mut left = view.clone();
    for (instance, member) in (vid + 1..).zip(leave) {
        left = left.without(member).map_err(|_| RsmError::NoState)?;
        if !acceptor.commit(instance, left.as_str()) {
            return Err(RsmError::Log(LogError::Failed { path: log }));
        }
    }
    Ok(survivor)
}
