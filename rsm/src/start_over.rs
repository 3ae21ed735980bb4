//! The operator's way out when the members that hold the state can't form a view any more: a majority of disks is lost, or
//! one of two (docs/durable-state.md). One survivor, named by its operator, goes on alone.
//!
//! What it gives up: what was acknowledged and isn't in the survivor's state; and the promise that there is one service,
//! unless each other node starts with an empty folder from now on: the old ones could form a view of their own.
//!
//! Invariants:
//! 1. Each of the two logs is changed at once, or not at all: the journal by one new generation, which has all requests and
//!    ends with the view to come ([`Item::StartOver`]), then the Paxos log by one append. After a crash between the two that
//!    view isn't there, and the node doesn't start ([`crate::pair`]) until the command has been given again.
//! 2. Nothing is written if any member of the last view answers, nor without being told to.
//! 3. What is changed is what was looked at: the Paxos log is locked from before that on.

use std::path::Path;
use std::time::Duration;

use rt::fs;
use yfs_paxos::log::{self, Log};
use yfs_paxos::record::Record;
use yfs_paxos::{Instance, Value};
use yfs_rpc::{CallError, Client, PollMgr, names};

use crate::journal::{self, Item, Journal, Logged};
use crate::pair;
use crate::protocol::{CLIENT_MEMBERS, Viewstamp};
use crate::rsm::RsmError;

/// How long a member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// A port that refuses for so long has no node.
const REFUSED_PATIENCE: Duration = Duration::from_millis(50);
/// So many views are added at most to a Paxos log that is behind its state: a joiner has to be sent all of it.
const MAX_BEHIND: Instance = 1 << 16;

/// What a node that doesn't run has on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The last view that it knows.
    pub vid: Instance,
    /// That view's members.
    pub members: Vec<String>,
    /// The last request in its state.
    pub last: Viewstamp,
    /// The view in which it was in sync with that state last: the node with the greatest one is the best, and of several
    /// the one with the greatest last request.
    pub in_sync: u32,
}

/// Looks at what the node `me` has in `dir`, and changes nothing. With `go_on`, makes it the only member of its service, so that
/// it serves alone when it is started next.
///
/// # Errors
/// When it has no state, or a log can't be used; with `go_on` also when it or another member runs, or it isn't a member.
pub fn start_over(dir: &Path, me: &str, go_on: bool) -> Result<Survivor, RsmError> {
    let path = dir.join(log::file_name(me));
    let lock = match go_on {
        // Who only looks keeps nobody out.
        false => None,
        true if fs::exists(&path).unwrap_or(true) => Some(Log::lock(&path)?),
        // Nothing is made where there is no log.
        true => return Err(RsmError::NoState { path }),
    };
    let nothing_in = |path: &Path| RsmError::NoState { path: path.to_owned() };
    let votes =
        Log::look(&path, me)?.and_then(|paxos| Some((paxos.instance(), paxos.value(paxos.instance())?.clone())));
    let (vid, view) = votes.ok_or_else(|| nothing_in(&path))?;
    let journal = dir.join(journal::file_name(me));
    let recovered = Journal::look(dir, me)?.ok_or_else(|| nothing_in(&journal))?;
    pair::check_name(&journal, me, &recovered)?;
    // Who has started over is in sync in that view, once it is there.
    let started_over = recovered.start_over.filter(|&alone| alone <= vid);
    let in_sync = started_over.map_or(recovered.mark, |alone| alone.max(recovered.mark));
    let survivor = Survivor { vid, members: view.members().to_vec(), last: recovered.last(), in_sync };
    let Some(lock) = lock else { return Ok(survivor) };
    if !view.contains(me) {
        return Err(nothing_in(&path));
    }
    if let Some(name) = who_answers(view.members())? {
        return Err(RsmError::Answers { name });
    }
    // This may be what fills the disk.
    journal::clean_up(dir, me)?;
    let (mut log, paxos) = Log::open_locked(&path, me, lock)?;
    let disk = paxos.disk().ok_or_else(|| nothing_in(&path))?;
    let journal = Journal::at(dir, me, disk);
    let views = views_to_come(me, &view, &survivor)?;
    let alone = survivor.vid + Instance::try_from(views.len()).unwrap_or(Instance::MAX);
    // The state first, as always (rule 0).
    journal.append(Item::Base { mark: recovered.mark, last: recovered.base_last, state: recovered.state });
    for Logged { vs, procedure, args, .. } in recovered.requests {
        journal.append(Item::Request { vs, procedure, args });
    }
    journal.append(Item::StartOver { vid: alone });
    journal.write_queued()?;
    let records: Vec<Record> = (survivor.vid + 1..).zip(views).map(|(vid, view)| Record::Done(vid, view)).collect();
    log.append(&records)?;
    Ok(survivor)
}

/// The views after the last one, up to where `me` is alone and no viewstamp of the state is of a later one. One member leaves
/// a view, as in any other.
fn views_to_come(me: &str, view: &Value, survivor: &Survivor) -> Result<Vec<Value>, RsmError> {
    let state = survivor.in_sync.max(survivor.last.vid);
    let behind = state.saturating_sub(survivor.vid);
    if behind > MAX_BEHIND {
        return Err(RsmError::Apart { vid: survivor.vid, state });
    }
    let mut views = Vec::new();
    let mut left = view.clone();
    for member in view.members().iter().filter(|member| *member != me) {
        // A member that isn't the only one can always leave.
        let Ok(next) = left.without(member) else { break };
        left = next;
        views.push(left.clone());
    }
    let behind = usize::try_from(behind).unwrap_or(usize::MAX);
    views.resize(views.len().max(behind), left);
    Ok(views)
}

/// A node among `members` that runs, if one does.
fn who_answers(members: &[String]) -> Result<Option<String>, RsmError> {
    let pollmgr = PollMgr::new().map_err(RsmError::Thread)?;
    let options = yfs_rpc::Options { refused_patience: Some(REFUSED_PATIENCE), ..yfs_rpc::Options::default() };
    let answers = |name: &&String| {
        // A name that nobody knows has no node.
        let Ok(address) = names::resolve(name) else { return false };
        let client = Client::new_on(&pollmgr, address, options.clone());
        // Without a bind nobody has said anything that a node says.
        !matches!(client.call(CLIENT_MEMBERS, (0,), ANSWER_TIMEOUT), Err(CallError::Bind | CallError::Cancel))
    };
    Ok(members.iter().find(answers).cloned())
}

#[cfg(test)]
#[path = "start_over_tests.rs"]
mod tests;
