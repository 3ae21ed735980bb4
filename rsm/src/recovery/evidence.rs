//! Whether this node's disk has lost requests that were acknowledged: then its state must not become the others'.

use yfs_config::ViewId;

use super::MEMBERS_TIMEOUT;
use crate::protocol::{TRANSFERREQ, Viewstamp};
use crate::rsm::Inner;
use crate::state_machine::StateMachine;

impl<S: StateMachine> Inner<S> {
    /// Before a state that was read from the disk is handed out for the first time, all members are asked where they stand.
    /// False if it turned out that this node's disk has lost requests.
    pub(super) fn has_asked_the_others(&self, vid: u32) -> bool {
        let others = {
            let state = self.state.lock();
            if !state.is_from_disk {
                return true;
            }
            state.replica.members().iter().filter(|name| **name != self.me).cloned().collect::<Vec<_>>()
        };
        // One that doesn't answer says it itself, when it asks for the state.
        let lost = others.iter().any(|name| self.shows_lost_requests(name, vid).unwrap_or(false));
        if !lost {
            self.state.lock().is_from_disk = false;
        }
        !lost
    }

    /// Whether `last`, the last request of the member `src`, shows that requests are missing here that were acknowledged.
    fn is_evidence(&self, src: &str, last: Viewstamp, vid: u32) -> bool {
        let state = self.state.lock();
        // It holds the state if it was in sync in the view of its last request, and is named by every one since (rule 0).
        let holds = last.vid <= vid && (last.vid..=vid).all(|since| self.cfg.ismember(src, ViewId(since)));
        // Who is named by the view of a stamp was in sync in it first, and has that on its disk.
        let unmarked = state.replica.is_of_an_earlier_life(last.vid)
            && last.vid > state.mark_at_start
            && self.cfg.ismember(&self.me, ViewId(last.vid));
        holds && (state.replica.is_overtaken_by(last) || unmarked)
    }

    /// Asks the member `src` of view `vid` where it stands. If that shows that requests are missing here, this node's disk
    /// has lost the end of its log, or was put back to an older one, and its state would be the end of them. It gives the state
    /// up, asks to be removed, and is sent the others'. `None`: no answer.
    fn shows_lost_requests(&self, src: &str, vid: u32) -> Option<bool> {
        if self.is_of_the_lab(src)? {
            return Some(false);
        }
        let mine = self.state.lock().replica.last_myvs();
        let client = self.handles.client(src).ok()?;
        let (_, theirs) = client.call(TRANSFERREQ, (self.me.clone(), mine, vid), MEMBERS_TIMEOUT).ok()?;
        if !self.is_evidence(src, theirs.last, vid) {
            return Some(false);
        }
        {
            let mut state = self.state.lock();
            if state.replica.vid() != vid || !state.replica.is_primary() {
                return None;
            }
            state.replica.state_lost();
        }
        tracing::error!(node = %self.me, %mine, peer = src, theirs = %theirs.last, "this node's log has lost requests that \
            were acknowledged: was its folder put back to an older state? It gives its state up, and joins again");
        self.sync_cond.notify_all();
        self.recovery_cond.notify_all();
        Some(true)
    }

    /// Whether the backup `src`, which says that it has executed `last`, must not be handed this node's state because of that.
    /// It is asked back, so that no stranger's word is enough; one at a time.
    pub(super) fn has_lost_requests(&self, src: &str, last: Viewstamp, vid: u32) -> bool {
        if !self.is_evidence(src, last, vid) {
            return false;
        }
        if !std::mem::replace(&mut self.state.lock().asks_back, true) {
            self.shows_lost_requests(src, vid);
            self.state.lock().asks_back = false;
        }
        true
    }
}
