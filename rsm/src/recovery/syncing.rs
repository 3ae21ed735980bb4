//! A view's sync: the primary hands its state out, the backups fetch it and say that they are in sync.

use std::sync::Arc;
use std::time::Duration;

use rt::probe::observe;
use rt::sync::{Mutex, Rank};
use rt::time::now;
use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal};
use yfs_rpc::{CallError, Procedure};

use crate::events::Event;
use crate::protocol::{RsmStatus, TRANSFERDONEREQ, TRANSFERREQ, TransferRes, Viewstamp};
use crate::rsm::Inner;
use crate::state_machine::StateMachine;

/// How long a transfer may take, and the pause before it is asked for again (lab: 1 s).
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);
const TRANSFER_PAUSE: Duration = Duration::from_millis(20);
/// The primary removes members that have not come into sync for so long after the last one did.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
/// A wait that ends so much too late shows that this node itself was stopped or starved.
const OVERSLEPT: Duration = Duration::from_millis(150);
/// A backup that gets no state from its primary for so long proposes the view without it, again and again.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(4);
/// A node that can't read the service's state tries again after this time.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);
const SLOT_RANK: Rank = Rank::new(26, "rsm.answer");

impl<S: StateMachine> Inner<S> {
    /// The primary's part of a sync: hands out its state until all members have it (lab: `sync_with_backups`).
    pub(super) fn sync_with_backups(&self, vid_insync: u32) -> bool {
        let logged = {
            let mut state = self.state.lock();
            if state.replica.vid() != vid_insync || !state.replica.is_primary() || !state.replica.holds_state() {
                return false;
            }
            state.log_in_sync(&self.journal, vid_insync, false);
            state.logged
        };
        if !self.await_disk(logged, vid_insync) || !self.has_asked_the_others(vid_insync) {
            return false;
        }
        {
            let mut state = self.state.lock();
            if state.replica.vid() != vid_insync || state.stopping || !state.replica.holds_state() {
                return false;
            }
            state.replica.begin_sync();
            tracing::info!(node = %self.me, vid = vid_insync, backups = ?state.replica.backups(), "sync_with_backups");
            let mut deadline = now() + SYNC_PATIENCE;
            let mut left = state.replica.backups().len();
            while state.replica.vid() == vid_insync && !state.replica.is_synced() {
                if state.stopping || !state.replica.holds_state() {
                    return false;
                }
                let notified = self.sync_cond.wait_until(&mut state, deadline);
                if let Some(hopeless) = state.foreign.hopeless(vid_insync) {
                    drop(state);
                    self.remove_laggards(&[hopeless]);
                    state = self.state.lock();
                    continue;
                }
                if state.replica.backups().len() < left {
                    left = state.replica.backups().len();
                    deadline = now() + SYNC_PATIENCE;
                } else if !notified && (now() - deadline > OVERSLEPT || state.disk_hangs) {
                    // This node was stopped itself, or its disk was: nobody had a chance.
                    deadline = now() + SYNC_PATIENCE;
                } else if !notified && !rt::probe::weakened("L4-waits-for-ever") {
                    let laggards: Vec<String> = state.replica.backups().iter().cloned().collect();
                    drop(state);
                    self.remove_laggards(&laggards);
                    state = self.state.lock();
                    deadline = now() + SYNC_PATIENCE;
                }
            }
        }
        let Some(lab_backups) = self.has_lab_backups(vid_insync) else { return false };
        let mut serves = false;
        self.emit(|state| {
            if state.replica.vid() != vid_insync || state.stopping || !state.replica.holds_state() {
                return Vec::new();
            }
            serves = true;
            state.lab_backups = lab_backups;
            state.replica.end_view_change();
            observe(|| Event::Serving { vid: vid_insync });
            tracing::debug!(node = %self.me, vid = vid_insync, "serving");
            // The last primary may have died before it sent them. They come before those of any request that is served now,
            // and instead of those from before.
            state.effects.clear();
            if rt::probe::weakened("H12-nothing-due") { Vec::new() } else { state.machine.state.due() }
        });
        self.sync_cond.notify_all();
        serves
    }

    /// Whether any backup of view `vid` is of the lab, once all have answered. `None`: the view has changed, or the node
    /// stops.
    fn has_lab_backups(&self, vid: u32) -> Option<bool> {
        loop {
            let members = {
                let state = self.state.lock();
                if state.replica.vid() != vid || state.stopping {
                    return None;
                }
                state.replica.members().to_vec()
            };
            let mut unknown = false;
            for backup in members.iter().filter(|name| **name != self.me) {
                match self.is_of_the_lab(backup) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => unknown = true,
                }
            }
            if !unknown {
                return Some(false);
            }
            // One that stays silent is removed: that is a new view.
            let mut state = self.state.lock();
            if state.replica.vid() == vid && !state.stopping {
                self.sync_cond.wait_until(&mut state, now() + TRANSFER_PAUSE);
            }
        }
    }

    fn remove_laggards(&self, laggards: &[String]) {
        for name in laggards {
            tracing::warn!(node = %self.me, peer = %name, "a member doesn't come into sync: it is removed");
            self.state.lock().joiners.failed(name, now());
            if self.cfg.remove(name).is_decided() {
                return;
            }
        }
    }

    /// A backup's part of a sync: fetches the primary's state and says so (lab: `sync_with_primary`).
    pub(super) fn sync_with_primary(self: &Arc<Self>, vid_insync: u32) -> bool {
        let m = self.primary_of(&self.state.lock().replica);
        let mut patience = now() + TRANSFER_PATIENCE;
        while !self.statetransfer(&m, vid_insync) {
            if now() >= patience && !rt::probe::weakened("L4-waits-for-ever") {
                tracing::warn!(node = %self.me, primary = m, "the primary hands out no state: its removal is proposed");
                self.cfg.remove(&m);
                patience = now() + TRANSFER_PATIENCE;
            }
            let mut state = self.state.lock();
            if state.replica.vid() != vid_insync || state.stopping {
                return false;
            }
            self.recovery_cond.wait_until(&mut state, now() + TRANSFER_PAUSE);
            if state.replica.vid() != vid_insync || state.stopping {
                return false;
            }
        }
        // State and mark first (rule 0).
        let logged = self.state.lock().logged;
        if !self.await_disk(logged, vid_insync) {
            return false;
        }
        self.statetransferdone(&m, vid_insync)
    }

    /// Calls `m` and waits for its answer as long as the view stays: a primary that has fallen silent must not keep this
    /// node from the next view. `None`: the view has changed, or the node stops.
    fn call_in_view<A: Marshal, R: Unmarshal + Send + 'static>(
        self: &Arc<Self>,
        m: &str,
        procedure: Procedure<A, R>,
        args: A,
        vid: u32,
    ) -> Option<Result<(i32, R), CallError>> {
        let Ok(client) = self.handles.client(m) else { return Some(Err(CallError::Bind)) };
        let slot = Arc::new(Mutex::new(SLOT_RANK, None));
        let (filler, weak) = (slot.clone(), Arc::downgrade(self));
        // A call lives through broken connections. Only one that is given up early is made again.
        let lab = rt::probe::weakened("L5-done-counts-once");
        let timeout = if lab { TRANSFER_TIMEOUT / 10 } else { TRANSFER_TIMEOUT };
        client.call_async(procedure, args, timeout, move |answer| {
            *filler.lock() = Some(answer);
            if let Some(rsm) = weak.upgrade() {
                // Whoever found the slot empty waits by now.
                drop(rsm.state.lock());
                rsm.recovery_cond.notify_all();
            }
        });
        let mut state = self.state.lock();
        loop {
            let late = state.replica.vid() != vid && !rt::probe::weakened("mutant-late-state-installed");
            if late || state.stopping {
                return None;
            }
            let answer = slot.lock().take();
            if answer.is_some() {
                return answer;
            }
            self.recovery_cond.wait(&mut state);
        }
    }

    /// Fetches the state of `m`, and installs it if the view is still the same (lab: `statetransfer`).
    fn statetransfer(self: &Arc<Self>, m: &str, vid_insync: u32) -> bool {
        let last = self.state.lock().replica.last_myvs();
        let res = match self.call_in_view(m, TRANSFERREQ, (self.me.clone(), last, vid_insync), vid_insync) {
            Some(Ok((status, res))) if status == RsmStatus::OK as i32 => res,
            // It hasn't got as far as we have, or the view has changed.
            Some(Ok(_)) | None => return false,
            Some(Err(error)) => {
                tracing::info!(node = %self.me, primary = m, %error, "statetransfer: no answer");
                return false;
            }
        };
        let mut state = self.state.lock();
        let late = state.replica.vid() != vid_insync && !rt::probe::weakened("mutant-late-state-installed");
        if late || state.stopping {
            return false;
        }
        let keeps = last > res.last && rt::probe::weakened("mutant-newer-state-kept");
        let installs = last != res.last && !keeps;
        if installs {
            if let Err(error) = state.machine.unmarshal_state(&res.state.0) {
                state.foreign.unreadable(now());
                drop(state);
                tracing::error!(node = %self.me, primary = m, %error, "the primary's state can't be read: this node \
                    stays out of sync and asks to be removed");
                self.cfg.ask_removal(true);
                self.pause_until_commit(now() + UNREADABLE_PAUSE);
                return false;
            }
            state.replica.installed(res.last);
            observe(|| Event::Installed { vid: vid_insync, last: res.last, state: state.digest() });
        }
        // From here on it takes the view's requests: the primary may send the first one before it has answered us.
        state.replica.end_view_change();
        // An installed state begins a new log: older requests are never executed on it (rule 4).
        let is_new = installs && !rt::probe::weakened("S12-old-log-goes-on");
        state.log_in_sync(&self.journal, vid_insync, is_new);
        observe(|| Event::InSync { vid: vid_insync, last: state.replica.last_myvs(), state: state.digest() });
        tracing::info!(node = %self.me, primary = m, last = %res.last, bytes = res.state.0.len(), "statetransfer");
        true
    }

    /// Tells the primary that this node is in sync (lab: `statetransferdone`).
    fn statetransferdone(self: &Arc<Self>, m: &str, vid_insync: u32) -> bool {
        loop {
            let answer = self.call_in_view(m, TRANSFERDONEREQ, (self.me.clone(), vid_insync), vid_insync);
            if matches!(answer, Some(Ok((status, _))) if status == RsmStatus::OK as i32) {
                return true;
            }
            let mut state = self.state.lock();
            if state.replica.vid() != vid_insync || state.stopping {
                return false;
            }
            self.recovery_cond.wait_until(&mut state, now() + TRANSFER_PAUSE);
        }
    }

    /// Handler: a backup asks for the state (lab: `transferreq`).
    pub(crate) fn transferreq(&self, src: &str, last: Viewstamp, vid: u32) -> (RsmStatus, TransferRes) {
        let mut busy = (RsmStatus::BUSY, TransferRes::default());
        {
            let state = self.state.lock();
            // Strangers get nothing, and aren't worth a line in the log.
            if !state.replica.members().iter().any(|member| member == src) {
                return busy;
            }
            // For a primary that asks where this node stands.
            busy.1.last = state.replica.last_myvs();
            if !state.replica.may_transfer(vid) {
                return busy;
            }
            if last != state.replica.last_myvs() {
                drop(state);
                match self.is_of_the_lab(src) {
                    Some(false) => {}
                    Some(true) => {
                        self.refuse_transfer(src, vid);
                        return busy;
                    }
                    None => return busy,
                }
            }
        }
        if self.has_lost_requests(src, last, vid) {
            return busy;
        }
        let state = self.state.lock();
        if !state.replica.may_transfer(vid) {
            return busy;
        }
        let mine = state.replica.last_myvs();
        tracing::info!(node = %self.me, src, %last, %mine, vid, "transferreq");
        let bytes = if last == mine { Bytes::default() } else { Bytes(state.machine.marshal_state()) };
        (RsmStatus::OK, TransferRes { state: bytes, last: mine })
    }

    /// A lab node would take our state for one of its own kind, and say that it is in sync.
    fn refuse_transfer(&self, src: &str, vid: u32) {
        let news = {
            let mut state = self.state.lock();
            let member = state.replica.members().iter().any(|member| member == src);
            member && state.foreign.refuse(src, vid)
        };
        if news {
            tracing::warn!(node = %self.me, src, vid, "transferreq: a lab node can't read this node's state: it is not \
                handed out, and the lab node is to be removed");
            self.sync_cond.notify_all();
        }
    }

    /// Handler: a backup is in sync (lab: `transferdonereq`).
    pub(crate) fn transferdonereq(&self, m: &str, vid: u32) -> (RsmStatus, i32) {
        let status = {
            let replica = &mut self.state.lock().replica;
            let status = replica.transfer_done(m, vid);
            if status != RsmStatus::OK && replica.is_primary() && replica.vid() == vid && !replica.in_view_change() {
                observe(|| Event::DoneRefused { vid });
            }
            status
        };
        self.sync_cond.notify_all();
        (status, 0)
    }
}
