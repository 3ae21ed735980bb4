//! The checks of a run: what the code under test reports ([`rt::probe`]) is held against what must never happen.
//!
//! | finding | what is wrong | rule |
//! |---|---|---|
//! | `two-values` | an instance has two values, or a number stands for two, or a vote is for another than the chosen one | Paxos |
//! | `wrong-proposal` | a value gets votes that the promises for its number don't allow | Paxos |
//! | `decided-unchosen` | a value is decided that no majority has voted for | Paxos |
//! | `voted-ahead` | a node votes in another instance than the one after its last | S7 |
//! | `numbers-crawl` | a number doesn't double after a rejection | L2 |
//! | `unguarded-removal` | a member is removed though no majority of the rest has just answered | 7 |
//! | `unguarded-addition` | a member is added though not all others have just answered | 2, L7 |
//! | `round-alone` | a node begins rounds though no majority answers it | L2 |
//! | `no-back-off` | a node whose removal or view came to nothing tries again without the pause | H11 |
//! | `needless-removal` | a member is to go for being behind a view that is younger than its patience | 7, L1 |
//! | `view-step` | a view differs from the one before by more than one name | 6 |
//! | `view-order` | a node skips a view, or goes back to one | 1 |
//! | `vote-forgotten` | a promise, vote or value that was on a disk is gone or taken back, though the disk isn't lost | 6, H5 |
//! | `answered-after-error` | a node goes on voting though it was told that its disk has failed | H5 |
//! | `added-by-another` | a node vouches for a joiner's disk after a round that may have finished another's | 3, S5 |
//! | `vote-after-lost-disk` | a node votes in an instance in which it had voted on a disk that was lost | 3 |
//! | `false-holder` | a node takes itself for one that holds the state: without one, or with one of its disk that wasn't in sync, or from before it left | 0, S1, S2, S3, H3 |
//! | `service-unknown` | a node knows views, and not the number of their service | S6 |
//! | `two-services` | a second first view | 3, S6 |
//! | `two-primaries` | two nodes serve in one view, or one does twice | H1 |
//! | `wrong-primary` | who serves isn't the first name of the view | |
//! | `served-without-state` | a primary serves that doesn't hold the state | 0, H1, H3 |
//! | `served-unsynced` | a primary serves before all members have its state | H2, rule 8 |
//! | `done-refused` | a primary that serves tells a member BUSY that says again that it is in sync | 8, L5 |
//! | `stamp-reused` | a stamp is given twice | 4, S9 |
//! | `out-of-turn` | a stamp is skipped or executed twice, or in a view that the node isn't in sync in | 4 |
//! | `unstamped` | a request is executed under a stamp that isn't its own | 4 |
//! | `not-replicated` | the primary executes what not all members have executed | H2 |
//! | `diverged` | equal viewstamps, unequal states, requests or pasts | H2 |
//! | `unknown-state` | somebody installs a state that nobody had | 8 |
//! | `answered-unexecuted` | a client is told OK for what the primary hasn't executed | 4 |
//! | `answered-undurable` | a client is told OK for what isn't on the disks of all members | 4, S11 |
//! | `lost-acknowledged` | a primary serves without a request that a client was told is done | 0, 4 |
//! | `executed-twice` | the state machine ran a request twice, in one history | H4 |
//! | `handled-twice` | one request of a client reaches a server's handler twice | rpc |
//! | `stopped-without-cause` | a node stops by itself, though its disk gave it no reason to | |
//! | `window-bounds` | the reply windows hold more than they may | rpc |
//!
//! Each check costs logarithmic time. Who reports is known by the name of his node, which has to be the name that views
//! have for it. One run has one service.

mod history;
pub mod locks;
mod paxos;
mod rounds;
mod rpc;
mod rsm;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
#[expect(clippy::disallowed_types, reason = "of the simulator; it is never held across a switch")]
use std::sync::{Arc, Mutex, MutexGuard};

pub use locks::LockOracle;
use rt::thread::Node;
use rt::time::Instant;
use yfs_rsm::protocol::Viewstamp;

use crate::kernel::Kernel;

/// What is wrong: the check's name, and what it saw.
type Violation = (&'static str, String);

/// The checks of one run. Clones are the same ones.
#[derive(Clone)]
pub struct Oracles {
    kernel: Kernel,
    #[expect(clippy::disallowed_types, reason = "as above")]
    state: Arc<Mutex<State>>,
}

struct State {
    views: paxos::Views,
    acceptors: BTreeMap<String, paxos::Votes>,
    /// The nodes whose disks were lost.
    lost: BTreeMap<String, paxos::LostDisks>,
    service: rsm::Service,
    /// What each node's process has proposed.
    rounds: BTreeMap<String, rounds::Rounds>,
    /// What each node's servers have handled.
    handled: BTreeMap<String, rpc::Handled>,
    /// Nothing is looked at any more: something was found.
    over: bool,
}

impl Oracles {
    /// The checks of a run. `unique_requests`: no two requests of clients are the same bytes, so
    /// one that is executed twice is a mistake.
    pub fn new(kernel: Kernel, unique_requests: bool) -> Self {
        let state = State {
            views: paxos::Views::default(),
            acceptors: BTreeMap::new(),
            lost: BTreeMap::new(),
            service: rsm::Service::new(unique_requests),
            rounds: BTreeMap::new(),
            handled: BTreeMap::new(),
            over: false,
        };
        #[expect(clippy::disallowed_types, reason = "as above")]
        let state = Arc::new(Mutex::new(state));
        Oracles { kernel, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under it would end the run anyway.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Something has happened at a node; see [`crate::world::Observer`]. Ends the run if it must not have.
    /// `disk_failed`: its process was told of an error of its disk before.
    pub fn observe(&self, node: &Node, event: &dyn Any, disk_failed: bool) {
        let violation = {
            let mut state = self.state();
            if state.over {
                return;
            }
            let lies = disk_failed && paxos::is_durable(event);
            let violation = match state.take(node.name(), event, self.kernel.now()) {
                Ok(()) if lies => Some(("answered-after-error", "its disk has failed, and it goes on".to_owned())),
                taken => taken.err(),
            };
            state.over = violation.is_some();
            violation
        };
        if let Some((check, what)) = violation {
            self.kernel.find(format!("{check}: {}: {what}", node.name()));
        }
    }

    /// A node's process has died; its disk is there.
    pub fn node_died(&self, node: &Node) {
        let mut state = self.state();
        state.service.forget(node.name());
        state.rounds.remove(node.name());
        state.handled.remove(node.name());
    }

    /// The disk of a node that is dead was lost: what it promised may be taken back.
    pub fn node_lost_disk(&self, node: &Node) {
        let mut state = self.state();
        let votes = state.acceptors.remove(node.name());
        state.lost.entry(node.name().to_owned()).or_default().one_more(votes);
        state.service.lost_disk(node.name());
    }

    /// A node can't go on, and stops. Its disk has to be the reason: it has failed (`disk_failed`: its process was told so
    /// before) or is damaged, or it was lost, and nothing is on the new one yet. Ends the run if it isn't.
    pub fn node_stops(&self, node: &Node, reason: &str, disk_failed: bool) {
        {
            let mut state = self.state();
            let blank = state.lost.contains_key(node.name()) && !state.acceptors.contains_key(node.name());
            if state.over || disk_failed || blank {
                return;
            }
            state.over = true;
        }
        self.kernel.find(format!("stopped-without-cause: {}: {reason}", node.name()));
    }

    /// How many requests have been acknowledged to clients.
    pub fn acknowledged(&self) -> u64 {
        self.state().service.acknowledged()
    }

    /// How many requests have been executed anywhere, those that were dropped again too.
    pub fn executed(&self) -> usize {
        self.state().service.executed()
    }

    /// In how many views somebody has served.
    pub fn served_views(&self) -> usize {
        self.state().service.served_views()
    }

    /// The last view that any disk has, the primary first; 0 and nobody before the first.
    pub fn latest_view(&self) -> (u32, Vec<String>) {
        self.state().views.latest()
    }

    /// What has got a vote for the view after the latest: it may be chosen, and nobody know it.
    pub fn views_to_come(&self) -> Vec<Vec<String>> {
        self.state().views.to_come()
    }

    /// The nodes alive that hold the state: they were in sync once and have been members ever since, as they know it.
    pub fn holders(&self) -> BTreeSet<String> {
        self.state().service.holders()
    }

    /// The last request that a node has executed; `None` if it is dead.
    pub fn position(&self, node: &Node) -> Option<Viewstamp> {
        self.state().service.position(node.name())
    }
}

impl State {
    fn take(&mut self, node: &str, event: &dyn Any, now: Instant) -> Result<(), Violation> {
        if let Some(event) = event.downcast_ref() {
            let votes = self.acceptors.entry(node.to_owned()).or_default();
            paxos::take(&mut self.views, votes, node, event)?;
            if let Some(lost) = self.lost.get(node) {
                lost.take(event)?;
            }
            if let yfs_paxos::events::Event::Adding { member, .. } = event
                && let Some(lost) = self.lost.get_mut(member)
            {
                lost.added = true;
            }
            self.rounds.entry(node.to_owned()).or_default().paxos(&self.views, node, event, now)?;
        }
        if let Some(event) = event.downcast_ref() {
            self.rounds.entry(node.to_owned()).or_default().config(&self.views, node, event, now)?;
        }
        if let Some(event) = event.downcast_ref() {
            if let yfs_rsm::events::Event::ViewCommitted { vid, members } = event {
                self.views.is_known(*vid, members)?;
            }
            // The first node has nobody who could add it.
            if let (yfs_rsm::events::Event::FirstView, Some(lost)) = (event, self.lost.get_mut(node)) {
                lost.added = true;
            }
            self.service.take(node, event)?;
        }
        if let Some(event) = event.downcast_ref() {
            rpc::take(self.handled.entry(node.to_owned()).or_default(), event)?;
        }
        Ok(())
    }
}
