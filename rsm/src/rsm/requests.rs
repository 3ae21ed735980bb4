//! A request's way: the primary stamps it, all backups execute it, the primary executes it and answers the client.
//!
//! Until all have it the request stays outstanding, and its stamp is sent again; a new view drops it. A client is told BUSY
//! before that, and asks again. What is acknowledged, and what is answered, is on the disk first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rt::probe::observe;
use rt::time::{Instant, now};
use yfs_config::ViewId;
use yfs_rpc::CallError;
use yfs_rpc::marshall::Bytes;

use super::Inner;
use crate::events::{Event, request_digest};
use crate::journal::Position;
use crate::protocol::{ClientStatus, INVOKE, OPEN, RsmStatus, SessionStatus, Viewstamp};
use crate::replica::{Replica, Verdict};
use crate::state_machine::{self, StateMachine};

/// So much of a request's arguments is logged: enough to tell what was asked for.
const LOGGED_ARGS_BYTES: usize = 512;
/// How long a client's request may wait for the backups before the client is told BUSY (lab: 1 s a backup).
const INVOKE_PATIENCE: Duration = Duration::from_secs(1);
/// The total time of one try to hand a request to a backup; it is tried again as long as the request is outstanding.
const INVOKE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before a request is handed to a backup again that did not take it.
const INVOKE_AGAIN: Duration = Duration::from_millis(20);
/// A backup that refuses a request for so long has lost its place: a new view re-syncs it.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(300);
/// The same for one that asks to be removed: that is to happen first.
const PATIENCE_WITH_ASKERS: Duration = Duration::from_secs(2);
/// Requests longer than this are refused: to the backups they go with a few bytes more, in a PDU of at most 10 MiB.
const MAX_REQUEST_BYTES: usize = 9 << 20;

/// The answer to a request of a session that this primary doesn't stamp.
fn unstamped(status: SessionStatus) -> (ClientStatus, Bytes) {
    (ClientStatus::OK, state_machine::answer(status as i32, &Bytes::default()))
}

/// The answer to a request that isn't stamped now: in a session the client is told that it wasn't executed.
fn not_now(procno: u32) -> (ClientStatus, Bytes) {
    if state_machine::is_of_sessions(procno) {
        unstamped(SessionStatus::BUSY)
    } else {
        (ClientStatus::BUSY, Bytes::default())
    }
}

impl<S: StateMachine> Inner<S> {
    /// Handler: executes a client's request on the replicas, if this is the primary.
    pub(super) fn client_invoke(self: &Arc<Self>, procno: u32, req: Bytes) -> (ClientStatus, Bytes) {
        let _turn = self.invoke_turn.lock();
        let deadline = now() + INVOKE_PATIENCE;
        let outstanding = {
            let mut state = self.state.lock();
            if state.replica.wants_renewal() && self.cfg.request_same(ViewId(state.replica.vid())) {
                let last = state.replica.last_myvs();
                tracing::info!(node = %self.me, %last, "the view's numbers come to their end: a new view begins again");
            }
            match state.replica.may_stamp() {
                Ok(()) => {}
                Err(ClientStatus::BUSY) => return not_now(procno),
                Err(status) => return (status, Bytes::default()),
            }
            if !state.machine.knows(procno, &req.0) || req.0.len() > MAX_REQUEST_BYTES {
                return (ClientStatus::ERR, Bytes::default());
            }
            // What is executed here is kept in memory until the disk has it.
            if self.journal.is_behind() {
                return not_now(procno);
            }
            if state.lab_backups && state_machine::is_of_sessions(procno) {
                // Not executed without its session: the client wouldn't learn that it may be executed again.
                return unstamped(SessionStatus::NOSESSION);
            }
            let stamped = state.replica.stamp();
            observe(|| Event::Stamped { vs: stamped.vs, request: request_digest(procno, &req.0) });
            state.request = Some((procno, req, BTreeMap::new()));
            stamped
        };
        let vs = outstanding.vs;
        if outstanding.missing.is_empty() {
            self.execute_as_primary(vs);
        }
        for backup in &outstanding.missing {
            self.send_invoke(backup, vs);
        }
        let mut state = self.state.lock();
        loop {
            let anothers = rt::probe::weakened("mutant-anothers-answer");
            if let Some((_, answer, logged)) = state.answer.take_if(|(answered, ..)| *answered == vs || anothers) {
                drop(state);
                return self.answer(vs, answer, logged, deadline);
            }
            let dropped = state.replica.outstanding().is_none_or(|o| o.vs != vs);
            // Told BUSY, the client asks again; the request itself stays outstanding until all have it or the view
            // changes, because its stamp must not be given to another one.
            if dropped || state.stopping || !self.invoke_cond.wait_until(&mut state, deadline) {
                if let Some((_, answer, logged)) = state.answer.take_if(|(answered, ..)| *answered == vs) {
                    drop(state);
                    return self.answer(vs, answer, logged, deadline);
                }
                return (ClientStatus::BUSY, Bytes::default());
            }
        }
    }

    /// Answers once the request is on this node's own disk, too (rule 4): it may be the next primary again.
    fn answer(&self, vs: Viewstamp, answer: Bytes, logged: Position, deadline: Instant) -> (ClientStatus, Bytes) {
        let unsynced = rt::probe::weakened("S11-answer-before-sync");
        if !unsynced && !self.journal.wait(logged, Some(deadline)).unwrap_or(false) {
            return (ClientStatus::BUSY, Bytes::default());
        }
        observe(|| Event::Answered { vs });
        (ClientStatus::OK, answer)
    }

    /// Hands the outstanding request to a backup, again and again until it has it or the request is dropped.
    fn send_invoke(self: &Arc<Self>, backup: &str, vs: Viewstamp) {
        let request = {
            let state = self.state.lock();
            let wanted = state.replica.outstanding().is_some_and(|o| o.vs == vs && o.missing.contains(backup));
            if !wanted || state.stopping {
                return;
            }
            state.request.as_ref().map(|(procno, req, _)| (*procno, vs, req.clone()))
        };
        let Some(request) = request else { return };
        // This may be the RPC runtime's thread, which can't wait for a name's address: the heartbeater does.
        let Some(client) = self.handles.client_at_hand(backup) else {
            self.cfg.suspect(backup);
            return self.send_invoke_again(backup.to_owned(), vs);
        };
        let (weak, name) = (Arc::downgrade(self), backup.to_owned());
        client.call_async(INVOKE, request, INVOKE_TIMEOUT, move |answer| {
            if let Some(rsm) = weak.upgrade() {
                rsm.invoke_answered(&name, vs, answer);
            }
        });
    }

    fn send_invoke_again(self: &Arc<Self>, backup: String, vs: Viewstamp) {
        let weak = Arc::downgrade(self);
        self.options.pollmgr.run_at(now() + INVOKE_AGAIN, move || {
            if let Some(rsm) = weak.upgrade() {
                rsm.send_invoke(&backup, vs);
            }
        });
    }

    fn invoke_answered(self: &Arc<Self>, backup: &str, vs: Viewstamp, answer: Result<(i32, i32), CallError>) {
        if matches!(answer, Ok((status, _)) if status == RsmStatus::OK as i32) {
            self.switches.breakpoint1();
            self.partition1();
            let all = self.state.lock().replica.acknowledged(vs, backup);
            if all {
                self.execute_as_primary(vs);
            }
            return;
        }
        if rt::probe::weakened("H9-invoke-sent-once") {
            return;
        }
        let (refused_for, news) = match answer {
            // Its disk can't keep up: a new view wouldn't help.
            Ok((status, _)) if status == RsmStatus::BUSY as i32 => (Duration::ZERO, false),
            Ok(_) => {
                let mut state = self.state.lock();
                let refusing = state.request.as_mut().map(|(_, _, refusing)| refusing);
                let since = refusing.map(|refusing| match refusing.get(backup) {
                    Some(since) => (since.elapsed(), false),
                    None => {
                        refusing.insert(backup.to_owned(), now());
                        (Duration::ZERO, true)
                    }
                });
                since.unwrap_or_default()
            }
            Err(_) => (Duration::ZERO, true),
        };
        if news {
            // Whether it is gone, or asks to be, is for config to find out.
            self.cfg.suspect(backup);
        }
        let patience = if self.cfg.asks_removal(backup) { PATIENCE_WITH_ASKERS } else { REFUSAL_PATIENCE };
        if refused_for > patience && self.cfg.request_same(ViewId(vs.vid)) {
            tracing::warn!(node = %self.me, peer = backup, %vs, "a backup refuses a request: a new view re-syncs it");
        }
        self.send_invoke_again(backup.to_owned(), vs);
    }

    /// All backups have executed the request: now the primary does, unless a new view has dropped it.
    fn execute_as_primary(&self, vs: Viewstamp) {
        {
            let mut state = self.state.lock();
            if state.replica.outstanding().is_none_or(|o| o.vs != vs) {
                return;
            }
            let Some((procno, req, _)) = state.request.take() else { return };
            let (answer, ran) = state.machine.execute(procno, &req.0);
            state.replica.executed(vs);
            observe(|| state.executed(vs, procno, &req, ran, true));
            self.log_executed(vs, procno, &req.0, ran);
            state.log_request(&self.journal, vs, procno, &req);
            let logged = state.logged;
            state.answer = Some((vs, answer, logged));
            let effects = state.machine.state.take_effects();
            if !effects.is_empty() {
                state.effects.push_back((logged, effects));
            }
        }
        self.invoke_cond.notify_all();
    }

    /// Without `ran` the request was executed before, and is only answered again.
    fn log_executed(&self, vs: Viewstamp, procno: u32, req: &[u8], ran: bool) {
        if tracing::enabled!(tracing::Level::TRACE) {
            let (procedure, args) = state_machine::inner(procno, req);
            // The opening of a session runs nothing of the state machine's, and isn't one that was executed before.
            let ran = ran || procedure == OPEN.number;
            let args = args.get(..LOGGED_ARGS_BYTES).unwrap_or(args);
            tracing::trace!(node = %self.me, %vs, procedure, args, ran, "executed");
        }
    }

    /// Handler: the primary's request, executed here if it is the next one.
    pub(super) fn invoke(&self, proc: u32, vs: Viewstamp, req: &Bytes) -> (RsmStatus, i32) {
        let logged = {
            let mut state = self.state.lock();
            match state.replica.check_invoke(vs) {
                Verdict::Execute if self.journal.is_behind() => return (RsmStatus::BUSY, 0),
                Verdict::Execute if !state.machine.knows(proc, &req.0) && !self.has_lab_primary(&state.replica) => {
                    drop(state);
                    let (procedure, _) = state_machine::inner(proc, &req.0);
                    let procedure = format_args!("{procedure:#x}").to_string();
                    tracing::error!(node = %self.me, %vs, procedure, "the primary executes a procedure that this program \
                        doesn't have: it is of another version. This node asks to be removed");
                    self.cfg.ask_removal(true);
                    return (RsmStatus::ERR, 0);
                }
                Verdict::Execute => {
                    let (_, ran) = state.machine.execute(proc, &req.0);
                    state.replica.executed(vs);
                    // The primary sends them.
                    drop(state.machine.state.take_effects());
                    observe(|| state.executed(vs, proc, req, ran, false));
                    self.log_executed(vs, proc, &req.0, ran);
                    state.log_request(&self.journal, vs, proc, req);
                }
                Verdict::Again => {}
                Verdict::Refuse => {
                    if state.replica.has_missed(vs) && self.has_lab_primary(&state.replica) {
                        // A lab primary uses up a stamp that a backup didn't answer, and goes on behind the gap.
                        self.cfg.request_same(ViewId(vs.vid));
                    }
                    tracing::debug!(node = %self.me, %vs, last = %state.replica.last_myvs(), "request refused");
                    return (RsmStatus::ERR, 0);
                }
            }
            state.logged
        };
        // What is acknowledged is on the disk.
        let unsynced = rt::probe::weakened("mutant-backup-acks-unsynced");
        let on_disk = if unsynced { Ok(true) } else { self.journal.wait(logged, Some(now() + INVOKE_TIMEOUT)) };
        match on_disk {
            Ok(true) => {}
            // Only late.
            Ok(false) => return (RsmStatus::BUSY, 0),
            Err(_) => return (RsmStatus::ERR, 0),
        }
        self.switches.breakpoint1();
        (RsmStatus::OK, 0)
    }

    /// Whether the latest view's primary is a node of the lab, as far as is known.
    fn has_lab_primary(&self, replica: &Replica) -> bool {
        replica.primary().is_some_and(|primary| self.handles.is_ours(primary) == Some(false))
    }
}
