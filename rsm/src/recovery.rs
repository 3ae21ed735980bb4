//! Joining and syncing (lab: `rsm::recovery` and what it calls).
//!
//! The recovery thread brings a node from wherever it stands into the service: it joins while the latest view doesn't
//! name it or was formed without it, and syncs while the view changes.
//!
//! A node that is started again takes part only in a view formed after that (rule 1). If its log has the state, it proposes
//! the same members again (but one that crashes in a loop asks to be removed first, for a second: L8); if not (it was to be
//! sent it when it ended, or its disk was lost), it asks to be removed, and to be added again.
//!
//! Invariants:
//! 1. A node serves, or hands out its state, in a view only after it was in sync in it (replica.rs), and what it hands
//!    out is on its own disk.
//! 2. A joiner is added when all members are in sync, one at a time, so at most the last member holds no state.
//! 3. A state that can't be read leaves the node out of sync; and nobody is handed one that it couldn't read (foreign.rs).
//! 4. If no member holds the state, the service is out, and says so (rule 5).
//! 5. A node whose disk was lost votes only after it was removed and added again: "you are a member" is said to the disk
//!    that was added, and to no other (rule 3; [`Config::has_added`](yfs_config::Config::has_added)).

mod evidence;
mod joining;
mod syncing;

use std::sync::Arc;
use std::time::Duration;

use rt::probe::observe;
use rt::sync::MutexGuard;
use rt::time::{Instant, now};
use yfs_config::{Role, ViewId};

use crate::events::Event;
use crate::protocol::CLIENT_MEMBERS;
use crate::rsm::{Inner, State};
use crate::state_machine::StateMachine;
use yfs_paxos::protocol::HEARTBEAT;

/// How long a node may take to name the members.
const MEMBERS_TIMEOUT: Duration = Duration::from_millis(500);
/// Pauses between tries to join.
const FIRST_JOIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_JOIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries to form a view after a start; the first is [`FIRST_JOIN_PAUSE`] at most.
const MAX_REPROPOSE_PAUSE: Duration = Duration::from_secs(1);
/// A node that has taken part for so long hasn't had a short life.
const STEADY_LIFE: Duration = Duration::from_secs(1);
/// After more short lives than these a node that holds the state asks to be removed, for so long, before it proposes the
/// same members.
const FEW_SHORT_LIVES: u32 = 4;
const ASKS_REMOVAL: Duration = Duration::from_secs(1);
/// The first node listens for so long before it begins a service; the others ping a member twice in that time.
const LISTEN: Duration = Duration::from_millis(300);
/// How often it listens, as long as somebody speaks of a view who then doesn't answer.
const MOST_LISTENING: usize = 10;

/// What the recovery thread does next.
enum Step {
    Join,
    /// A view with the same members, formed after this node's start.
    Propose,
    Sync(u32),
    Wait,
    Stop,
}

impl<S: StateMachine> Inner<S> {
    /// The recovery thread.
    pub(crate) fn recovery(self: &Arc<Self>) {
        let named = self.first == self.me || rt::probe::weakened("S6-first-begins-again");
        // Only a node without a log, that is named as the first, begins a service.
        if named && self.cfg.is_new() && !self.begin_unless_there_is_one() {
            return;
        }
        // Who has begun one goes on listening for the one that was there before, after a restart too, until another node
        // has joined.
        let mut listens = self.cfg.vid() > ViewId(0) && self.has_always_been_alone();
        let mut pause = FIRST_JOIN_PAUSE;
        let mut tries = 0_u32;
        // Since when it takes part; until that was so for long enough once, which is written down here: this thread may
        // wait for the disk.
        let (mut since, mut lived) = (None, false);
        loop {
            let step = self.next_step();
            listens = listens && self.has_always_been_alone();
            if listens && matches!(step, Step::Wait | Step::Join) && self.is_named_elsewhere() == Some(true) {
                return;
            }
            if matches!(step, Step::Join | Step::Propose) {
                since = None;
            }
            match step {
                Step::Stop => return,
                Step::Wait => {
                    pause = FIRST_JOIN_PAUSE;
                    let lives = *since.get_or_insert_with(now) + STEADY_LIFE;
                    if !lived && now() >= lives {
                        self.cfg.note_lived();
                        lived = true;
                    }
                    let mut state = self.state.lock();
                    // Looked at again under the lock, so that no commit is missed.
                    if !state.stopping && !state.replica.in_view_change() && !state.left_behind {
                        let until = if listens { now() + LISTEN } else { Instant::NEVER };
                        let until = if lived { until } else { until.min(lives) };
                        self.recovery_cond.wait_until(&mut state, until);
                    }
                }
                Step::Sync(vid_insync) => {
                    let synced = if self.state.lock().replica.is_primary() {
                        self.sync_with_backups(vid_insync)
                    } else {
                        self.sync_with_primary(vid_insync)
                    };
                    if synced {
                        tracing::info!(node = %self.me, vid = vid_insync, "in sync");
                    }
                }
                Step::Propose if rt::probe::weakened("H8-restart-unannounced") => {
                    self.pause_until_commit(now() + MAX_REPROPOSE_PAUSE);
                }
                Step::Propose if self.state.lock().unsteady => self.ask_to_be_removed(),
                Step::Propose => {
                    self.pause_until_commit(now() + rt::random::duration_below(pause));
                    if self.state.lock().replica.wants_new_view() && !self.cfg.propose_same().is_decided() {
                        pause = (pause * 2).min(MAX_REPROPOSE_PAUSE);
                        self.has_learnt_views();
                    } else {
                        pause = FIRST_JOIN_PAUSE;
                    }
                }
                Step::Join => {
                    if self.rejoin() {
                        pause = FIRST_JOIN_PAUSE;
                        tries = 0;
                    } else {
                        tries += 1;
                        // After 4, 8, 16 ... tries: nodes that are started together wait for each other a moment.
                        if tries >= 4 && u32::is_power_of_two(tries) {
                            tracing::warn!(node = %self.me, first = %self.first, tries, "can't join yet: no primary \
                                that admits this node was found; still trying");
                        }
                        self.pause_until_commit(now() + pause);
                        pause = (pause * 2).min(MAX_JOIN_PAUSE);
                    }
                }
            }
        }
    }

    /// The first node without a log is either new, or has lost its disk: then the others, who don't know that yet, ping it
    /// (rule 3). False if it must not begin a service.
    fn begin_unless_there_is_one(&self) -> bool {
        for _ in 0..MOST_LISTENING {
            let deadline = now() + LISTEN;
            {
                let mut state = self.state.lock();
                while !state.stopping && self.recovery_cond.wait_until(&mut state, deadline) {}
            }
            for name in self.joins_through() {
                if self.state.lock().stopping {
                    return false;
                }
                if self.knows_a_view(&name) {
                    self.fatal(&format!(
                        "this node has no log and was told to begin a service, but {name} (--also) has one. To join it start \
                         this node with {name}, and not itself, as FIRST"
                    ));
                    return false;
                }
            }
            // Whoever has spoken meanwhile.
            match self.is_named_elsewhere() {
                Some(true) => return false,
                Some(false) => break,
                None => {}
            }
        }
        if self.state.lock().stopping {
            return false;
        }
        self.begin_service().inspect_err(|error| self.fatal(&error.explain())).is_ok()
    }

    /// Whether `name` answers, and knows a view. A lab node isn't asked: it might stop at a heartbeat of another view.
    fn knows_a_view(&self, name: &str) -> bool {
        let Ok(client) = self.handles.client(name) else { return false };
        let is_ours = client.bind(MEMBERS_TIMEOUT).is_ok() && client.is_ours() == Some(true);
        is_ours && client.call(HEARTBEAT, (self.me.clone(), 1), MEMBERS_TIMEOUT).is_ok_and(|(_, vid)| vid > 0)
    }

    /// Whether no view that this node knows ever named another one.
    fn has_always_been_alone(&self) -> bool {
        let alone = |vid| self.cfg.get_view(ViewId(vid)).is_some_and(|view| view.members() == [self.me.clone()]);
        (1..=self.cfg.vid().0).rev().all(alone)
    }

    /// Whether a node that spoke of a view names this one as a member: this is its service's first node, whose disk was
    /// lost. The node stops then. It is asked back, as it may have meant another node. But who lies twice is believed, for
    /// there is no authentication: a stranger can stop a node that has always been alone. `None`: it doesn't answer.
    fn is_named_elsewhere(&self) -> Option<bool> {
        let Some((name, vid)) = self.cfg.take_heard_of_view() else { return Some(false) };
        let client = self.handles.client(&name).ok()?;
        let answer = client.call(CLIENT_MEMBERS, (0,), MEMBERS_TIMEOUT);
        // A node that joins this one names it, too, but not to warn it.
        let is_one_of_us = self.is_server_of_another(&name, &client);
        // Strangers' names must not pile up.
        self.handles.forget(&name);
        if is_one_of_us? {
            return Some(false);
        }
        let (_, mut members) = answer.ok()?;
        // The last one is the primary again; from a node without a view it is whom it would join.
        members.pop();
        let knows = self.cfg.ismember(&name, self.cfg.vid());
        if knows || !members.contains(&self.me) {
            return Some(false);
        }
        let began = if self.cfg.is_new() { "has no log" } else { "began a service of its own" };
        self.fatal(&format!(
            "this node {began}, and {name} names it as a member of view {vid}: its disk was lost, and there would be a second \
             service. If {name} is right, move this node's files away and start it as a node that joins: with {name}, and not \
             itself, as FIRST. If it isn't, stop {name}"
        ));
        Some(true)
    }

    /// Waits until the replica knows all views that are decided here, or the node stops. Another thread may be telling of
    /// them: whoever is asked by another node tells what is due.
    pub(crate) fn await_views(&self) -> MutexGuard<'_, State<S>> {
        let vid = self.cfg.decided().0;
        let mut state = self.state.lock();
        while state.replica.vid() < vid && !state.stopping {
            self.recovery_cond.wait(&mut state);
        }
        state
    }

    fn next_step(&self) -> Step {
        let (step, role) = {
            // A member that takes itself for none would join, and wait for those who wait for it.
            let state = self.await_views();
            let replica = &state.replica;
            let lost = replica.role() == Role::Lost;
            let step = if state.stopping {
                Step::Stop
            } else if !replica.is_member() || lost || state.left_behind {
                Step::Join
            } else if !replica.takes_part() {
                Step::Propose
            } else if replica.in_view_change() {
                Step::Sync(replica.vid())
            } else {
                Step::Wait
            };
            let role = state.role();
            if role == Role::Holder {
                observe(|| Event::Holds);
            }
            (step, role)
        };
        if role != Role::Lost || !rt::probe::weakened("H8-restart-unannounced") {
            self.cfg.set_role(role);
        }
        step
    }

    /// At the start: whether this node has had so many short lives that it asks to be removed first (L8).
    pub(crate) fn note_short_lives(&self) {
        let many = self.cfg.short_lives() > FEW_SHORT_LIVES && !rt::probe::weakened("L8-restarts-uncounted");
        self.state.lock().unsteady = many;
    }

    /// A member that crashes in a loop must not change views each time. Removed, it joins, and the primary keeps away those
    /// who leave soon (joiners.rs). If nobody removes it, it is needed, or all are like this: then it goes on as others do.
    fn ask_to_be_removed(&self) {
        let times = self.cfg.short_lives();
        tracing::warn!(node = %self.me, times, "restarted many times in short succession: this node asks to be removed, \
            and joins when the primary admits it");
        self.pause_until_commit(now() + ASKS_REMOVAL);
        self.state.lock().unsteady = false;
    }

    /// Waits until `deadline`, a new view, or the end.
    fn pause_until_commit(&self, deadline: Instant) {
        let mut state = self.state.lock();
        let vid = state.replica.vid();
        while state.replica.vid() == vid && !state.stopping && self.recovery_cond.wait_until(&mut state, deadline) {}
    }

    /// Whether `name` is a node of the lab; `None` if it doesn't answer.
    fn is_of_the_lab(&self, name: &str) -> Option<bool> {
        let client = self.handles.client(name).ok()?;
        client.bind(MEMBERS_TIMEOUT).ok()?;
        client.is_ours().map(|ours| !ours)
    }
}
