//! Joining and syncing (lab: `rsm::recovery` and what it calls).
//!
//! The recovery thread brings a node from wherever it stands into the service: it joins while the latest view doesn't
//! name it or was formed without it, and syncs while the view changes.
//!
//! A node that is started again takes part only in a view formed after that (rule 1). If its log has the state, it proposes
//! the same members again (but one that crashes in a loop asks to be removed first, for a second: L8); if not (it was to be sent it when it ended, or its disk was lost), it asks to be removed, and
//! to be added again.
//!
//! Invariants:
//! 1. A node serves, or hands out its state, in a view only after it was in sync in it (replica.rs), and what it hands
//!    out is on its own disk.
//! 2. A joiner is added when all members are in sync, one at a time, so at most the last member holds no state.
//! 3. A state that can't be read leaves the node out of sync; and nobody is handed one that it couldn't read (foreign.rs).
//! 4. If no member holds the state, the service is out, and says so (rule 5).
//! 5. A node whose disk was lost votes only after it was removed and added again: "you are a member" is said to the disk
//!    that was added, and to no other (rule 3; [`Config::has_added`](yfs_config::Config::has_added)).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rt::probe::observe;
use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};
use yfs_config::{Role, Standing, ViewId};
use yfs_paxos::DiskId;
use yfs_paxos::protocol::{HEARTBEAT, PaxosStatus};
use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal};
use yfs_rpc::{CallError, Procedure};

use crate::events::Event;
use crate::protocol::{CLIENT_MEMBERS, JOINREQ, RsmStatus, TRANSFERDONEREQ, TRANSFERREQ, TransferRes, Viewstamp};
use crate::rsm::Inner;
use crate::state_machine::StateMachine;

/// A joiner waits so long for the primary, which runs up to two rounds and syncs in between (lab: 120 s).
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How far back a node looks in its log for somebody who knows the primary, and how many it asks.
const MAX_VIEWS_ASKED: usize = 1000;
const MAX_CANDIDATES: usize = 16;
/// How long a node may take to name the members.
const MEMBERS_TIMEOUT: Duration = Duration::from_millis(500);
/// Pauses between tries to join.
const FIRST_JOIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_JOIN_PAUSE: Duration = Duration::from_secs(1);
/// How long a transfer may take, and the pause before it is asked for again (lab: 1 s).
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);
const TRANSFER_PAUSE: Duration = Duration::from_millis(20);
/// The primary removes members that have not come into sync for so long after the last one did.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
/// A wait that ends so much too late shows that this node itself was stopped or starved.
const OVERSLEPT: Duration = Duration::from_millis(150);
/// A backup that gets no state from its primary for so long proposes the view without it, again and again.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(4);
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
/// How long a joiner's request waits for the members to be in sync.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(5);
/// A larger state doesn't fit into an answer; a little below the longest PDU.
const MAX_STATE_BYTES: usize = (10 << 20) - (64 << 10);
/// How long an outage has to last to be told, and how often it is told again.
const OUTAGE_LASTS: Duration = Duration::from_secs(5);
const OUTAGE_TOLD_AGAIN: Duration = Duration::from_secs(60);
/// A node that can't read the service's state tries again after this time.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

const SLOT_RANK: Rank = Rank::new(26, "rsm.answer");

/// What a node that wants to join says when it is asked back.
struct Joiner {
    /// It asks to be removed, or may: a lab node can't say so.
    asks_removal: bool,
    /// `None` for a lab node.
    disk: Option<DiskId>,
    /// Its disk, if it knows no view: it is new, or its disk was lost.
    blank: Option<DiskId>,
}

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
        // It goes on listening for the one that was there before, after a restart too, until another node has joined.
        let mut listens = named && self.has_always_been_alone();
        // Only a node without a log, that is named as the first, begins a service.
        if listens && self.cfg.is_new() && !self.begin_unless_there_is_one() {
            return;
        }
        let mut pause = FIRST_JOIN_PAUSE;
        let mut tries = 0_u32;
        // Since when it takes part; until that was so for long enough once, which is written down here: this thread may
        // wait for the disk.
        let (mut since, mut lived) = (None, false);
        loop {
            let step = self.next_step();
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
                    drop(state);
                    listens = listens && self.has_always_been_alone();
                    if listens && self.is_named_elsewhere() == Some(true) {
                        return;
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
                        // After 1, 2, 4, 8 ... tries.
                        if u32::is_power_of_two(tries) {
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
                if state.stopping {
                    return false;
                }
            }
            match self.is_named_elsewhere() {
                Some(true) => return false,
                Some(false) => break,
                None => {}
            }
        }
        self.begin_service().inspect_err(|error| self.fatal(&error.explain())).is_ok()
    }

    /// Whether no view that this node knows ever named another one.
    fn has_always_been_alone(&self) -> bool {
        let alone = |vid| self.cfg.get_view(ViewId(vid)).is_some_and(|view| view.members() == [self.me.clone()]);
        (1..=self.cfg.vid().0).rev().all(alone)
    }

    /// Whether a node that spoke of a view names this one as a member: this is its service's first node, whose disk was
    /// lost. The node stops then. It is asked back, so that no stranger's word is enough. `None`: it doesn't answer.
    fn is_named_elsewhere(&self) -> Option<bool> {
        let Some((name, vid)) = self.cfg.take_heard_of_view() else { return Some(false) };
        let client = self.handles.client(&name).ok()?;
        let (_, members) = client.call(CLIENT_MEMBERS, (0,), MEMBERS_TIMEOUT).ok()?;
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

    fn next_step(&self) -> Step {
        let (step, role) = {
            let state = self.state.lock();
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
            (step, state.role())
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

    /// One try to come into a view that was formed with this node. False if it came to nothing.
    fn rejoin(self: &Arc<Self>) -> bool {
        let (member, left_behind) = {
            let mut state = self.state.lock();
            (state.replica.is_member(), std::mem::take(&mut state.left_behind))
        };
        if member && rt::probe::weakened("S3-same-members-again") {
            return self.cfg.propose_same().is_decided();
        }
        if member && !left_behind {
            self.warn_if_nobody_holds_the_state();
        }
        let mut asked = Vec::new();
        let (candidates, believed) = self.candidates();
        for (at, candidate) in candidates.into_iter().enumerate() {
            if at < believed && self.has_learnt_views_from(&candidate) {
                return true;
            }
            let Some(primary) = self.primary_by(&candidate) else { continue };
            if primary == self.me || asked.contains(&primary) {
                continue;
            }
            // A primary of ours would take this node for one that lost its state.
            if left_behind && self.is_of_the_lab(&primary) != Some(true) {
                continue;
            }
            let kept_away = self.state.lock().foreign.is_kept_away(now());
            if (!kept_away || self.is_of_the_lab(&primary) == Some(false)) && self.join(&primary) {
                return true;
            }
            asked.push(primary);
        }
        false
    }

    /// Whom to ask for the primary: the node to join through and the members of the last view, who are believed when they
    /// name views; then whoever was a member before (H25). The second value says how many are believed.
    fn candidates(&self) -> (Vec<String>, usize) {
        let mut names = vec![self.first.clone()];
        names.extend(self.joins_through().into_iter().filter(|name| *name != self.first));
        if rt::probe::weakened("H25-joiner-asks-first-only") {
            return (vec![self.first.clone()], 1);
        }
        let (last, mut add) = (self.cfg.vid().0, |view: &[String]| {
            view.iter().for_each(|name| {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            });
            names.len()
        });
        let believed = add(self.state.lock().replica.members());
        for vid in (1..last).rev().take(MAX_VIEWS_ASKED) {
            let Some(view) = self.cfg.get_view(ViewId(vid)) else { break };
            if add(view.members()) >= MAX_CANDIDATES {
                break;
            }
        }
        (names, believed)
    }

    /// Whether somebody who is believed knew views that this node hasn't heard of.
    fn has_learnt_views(&self) -> bool {
        let (candidates, believed) = self.candidates();
        candidates.iter().take(believed).any(|candidate| self.has_learnt_views_from(candidate))
    }

    /// Whether `name` knew views that this node hasn't heard of: one may name it, whose primary is dead. Only for a node
    /// that has a log: without one it must not vote where it may have voted before.
    fn has_learnt_views_from(&self, name: &str) -> bool {
        let before = self.cfg.vid();
        before > ViewId(0)
            && name != self.me
            && self.is_of_the_lab(name) == Some(false)
            && self.cfg.catch_up_from(name) > before
    }

    /// Whom `name` takes for the primary: nobody if it doesn't answer.
    fn primary_by(&self, name: &str) -> Option<String> {
        if name == self.me {
            return None;
        }
        let client = match self.handles.client(name) {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(node = %self.me, peer = name, %error, "a node to join through has no address");
                return None;
            }
        };
        let (_, mut members) = client.call(CLIENT_MEMBERS, (0,), MEMBERS_TIMEOUT).ok()?;
        members.pop().filter(|primary| yfs_rpc::names::address(primary).is_ok())
    }

    /// Says so, each minute, if every other member of the latest view has lost its state, as this node has: that is an
    /// outage, which only an operator can end (rule 5).
    fn warn_if_nobody_holds_the_state(&self) {
        let is_out = self.cfg.survey().values().all(|standing| *standing == Standing::AsksRemoval);
        let news = {
            let due = &mut self.state.lock().outage_due;
            // Others may ask to be removed for a moment, though they hold the state.
            let at = is_out.then(|| due.unwrap_or_else(|| now() + OUTAGE_LASTS));
            let news = at.is_some_and(|at| now() >= at);
            *due = if news { Some(now() + OUTAGE_TOLD_AGAIN) } else { at };
            news
        };
        if news {
            tracing::error!(node = %self.me, "no member holds the service's state any more: it is out until one that does is \
                started again, or an operator starts over (docs/durable-state.md)");
        }
    }

    /// Asks `m`, the primary, to be added, and learns the views from it (lab: `join`).
    fn join(&self, m: &str) -> bool {
        let (last, before) = {
            let state = self.state.lock();
            (state.replica.last_myvs(), state.replica.vid())
        };
        tracing::info!(node = %self.me, primary = m, %last, "join");
        let Ok(client) = self.handles.client(m) else { return false };
        let log = match client.call(JOINREQ, (self.me.clone(), last), JOIN_TIMEOUT) {
            Ok((status, Bytes(log))) if status == RsmStatus::OK as i32 => log,
            Ok((status, _)) => {
                tracing::info!(node = %self.me, primary = m, status, "join: not now");
                return false;
            }
            Err(error) => {
                tracing::info!(node = %self.me, primary = m, %error, "join: no answer");
                return false;
            }
        };
        let restored = str::from_utf8(&log)
            .map_err(|e| e.to_string())
            .and_then(|log| self.cfg.restore(log).map_err(|e| e.to_string()));
        match restored {
            Ok(vid) => {
                tracing::info!(node = %self.me, primary = m, %vid, "joined");
                // A lab primary only repeats the view that still names this node, until it has removed it.
                vid.0 > before && self.cfg.ismember(&self.me, vid)
            }
            Err(error) => {
                tracing::error!(node = %self.me, primary = m, error, "join: the log of the primary can't be used");
                false
            }
        }
    }

    /// Handler: adds `m` to the view, and answers with the Paxos log (lab: `joinreq`).
    pub(crate) fn joinreq(&self, m: &str, last: Viewstamp) -> (RsmStatus, Bytes) {
        let busy = (RsmStatus::BUSY, Bytes::default());
        // Nothing is logged of strangers' names before they are known to be some.
        let Ok(addr) = yfs_rpc::names::resolve(m) else { return (RsmStatus::ERR, Bytes::default()) };
        if self.is_other_name_of_a_member(m, addr) {
            tracing::debug!(node = %self.me, src = m, "joinreq: another name of a member");
            return (RsmStatus::ERR, Bytes::default());
        }
        let (listed, added, kept_away) = {
            let state = self.state.lock();
            let listed = state.replica.is_member() && state.replica.members().iter().any(|member| member == m);
            (listed, listed && !state.replica.is_proven(m), state.joiners.is_kept_away(m, now()))
        };
        if kept_away && !listed {
            return busy;
        }
        let Some(joiner) = self.ask_back(m) else {
            tracing::debug!(node = %self.me, src = m, "joinreq: no node answers at the name that wants to join");
            return busy;
        };
        tracing::info!(node = %self.me, src = m, %last, "joinreq");
        let disk_lost = listed && joiner.blank.is_some_and(|disk| !self.cfg.has_added(m, disk));
        if added && (!disk_lost || rt::probe::weakened("S4-member-again")) {
            // It hasn't heard of it. It has to learn the views, or it can't vote, and may be what the majority lacks: so
            // it is told even while this node is not in sync, or doesn't hold the state.
            return (RsmStatus::OK, Bytes(self.cfg.dump().into_bytes()));
        }
        if disk_lost {
            // What it promised is forgotten: it has to go before it may vote again (rule 3).
            tracing::info!(node = %self.me, src = m, "joinreq: a member that lost its disk has to be removed first");
            if !self.cfg.remove(m).is_decided() {
                return busy;
            }
        }
        let Some((mut vid, mut listed, proven)) = self.admissible(m) else { return busy };
        if proven && !joiner.asks_removal {
            tracing::warn!(node = %self.me, src = m, "joinreq in the name of a member that is well");
            return busy;
        }
        if proven {
            // It was in sync and asks again: it has lost its state, so it has to be a new member.
            tracing::info!(node = %self.me, src = m, "joinreq: a member that lost its state is removed first");
            if !self.cfg.remove(m).is_decided() {
                return busy;
            }
            let Some(now) = self.admissible(m) else { return busy };
            (vid, listed) = (now.0, now.1);
        }
        if !listed && self.is_of_the_lab(m) != Some(false) && last != self.state.lock().replica.last_myvs() {
            tracing::warn!(node = %self.me, src = m, %last, "joinreq: a lab node can't read this service's state, and has \
                another one: it is not added");
            return busy;
        }
        if !listed && !self.state_fits() {
            tracing::error!(node = %self.me, src = m, "joinreq: the state is too large to be transferred: nobody can join");
            return busy;
        }
        if !listed {
            // It may have been removed just now, soon after it was added.
            if self.state.lock().joiners.is_kept_away(m, now()) {
                return busy;
            }
            // Asked once more: it may have died while it waited, and one that is dead must not become a member.
            let Some(joiner) = self.ask_back(m) else { return busy };
            if !self.cfg.add(m, ViewId(vid), joiner.disk).is_decided() {
                return busy;
            }
        }
        // Another's round may have added a node of this name, on a disk that was lost since.
        let may_vote =
            joiner.blank.is_none_or(|disk| self.cfg.has_added(m, disk)) || rt::probe::weakened("S4-member-again");
        if may_vote && self.cfg.ismember(m, self.cfg.vid()) {
            (RsmStatus::OK, Bytes(self.cfg.dump().into_bytes()))
        } else {
            busy
        }
    }

    /// Whether the state can be sent in one answer. A member that can't fetch it would be removed again, and come again.
    fn state_fits(&self) -> bool {
        self.state.lock().machine.marshal_state().len() <= MAX_STATE_BYTES
    }

    /// Whether `name` is a node of the lab; `None` if it doesn't answer.
    fn is_of_the_lab(&self, name: &str) -> Option<bool> {
        let client = self.handles.client(name).ok()?;
        client.bind(MEMBERS_TIMEOUT).ok()?;
        Some(!client.is_ours())
    }

    /// What the node at a joiner's name says of itself. One that nobody can reach must not become a member.
    fn ask_back(&self, m: &str) -> Option<Joiner> {
        let vid = self.cfg.vid();
        // The first try may only find out that the client is bound to the server that was there before.
        let answer = (0..2).find_map(|_| {
            let client = self.handles.client(m).ok()?;
            client.bind(MEMBERS_TIMEOUT).ok()?;
            if !client.is_ours() {
                // A lab node stops at a heartbeat that is more than one view ahead of a round of its own.
                return Some(Joiner { asks_removal: true, disk: None, blank: None });
            }
            let disk = self.cfg.disk_of(m)?;
            let (status, theirs) = client.call(HEARTBEAT, (self.me.clone(), vid.0), MEMBERS_TIMEOUT).ok()?;
            let blank = (theirs == 0).then_some(disk);
            let asks_removal = status != PaxosStatus::OK as i32 && [0, vid.0].contains(&theirs.cast_unsigned());
            Some(Joiner { asks_removal, disk: Some(disk), blank })
        });
        if answer.is_none() && !self.cfg.ismember(m, vid) {
            // Strangers' names must not pile up.
            self.handles.forget(m);
        }
        answer
    }

    /// Whether `m` is not a member's name, but its address: a node that is a member twice would count twice.
    fn is_other_name_of_a_member(&self, m: &str, addr: SocketAddr) -> bool {
        let members = self.state.lock().replica.members().to_vec();
        let same = |name: &String| yfs_rpc::names::resolve(name).is_ok_and(|other| other == addr);
        m == self.me || addr == self.rsmrpc.local_addr() || members.iter().any(|name| name != m && same(name))
    }

    /// Waits until this node is the primary of a view in which all are in sync (invariant 2), or `m` is a member that
    /// isn't yet. Returns the view, whether it lists `m`, and whether `m` was in sync. `None`: not now.
    fn admissible(&self, m: &str) -> Option<(u32, bool, bool)> {
        let deadline = now() + ADMISSION_PATIENCE;
        let mut state = self.state.lock();
        loop {
            let replica = &state.replica;
            if !replica.is_primary() || !replica.holds_state() || state.stopping {
                return None;
            }
            let listed = replica.members().iter().any(|member| member == m);
            let proven = listed && replica.is_proven(m);
            if !replica.in_view_change() || listed || rt::probe::weakened("H3-joiners-outnumber") {
                return Some((replica.vid(), listed, proven));
            }
            if !self.sync_cond.wait_until(&mut state, deadline) {
                return None;
            }
        }
    }

    /// The primary's part of a sync: hands out its state until all members have it (lab: `sync_with_backups`).
    fn sync_with_backups(&self, vid_insync: u32) -> bool {
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
        let due = {
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
            drop(state);
            let Some(lab_backups) = self.has_lab_backups(vid_insync) else { return false };
            state = self.state.lock();
            if state.replica.vid() != vid_insync || state.stopping || !state.replica.holds_state() {
                return false;
            }
            state.lab_backups = lab_backups;
            state.replica.end_view_change();
            observe(|| Event::Serving { vid: vid_insync });
            if rt::probe::weakened("H12-nothing-due") { Vec::new() } else { state.machine.state.due() }
        };
        self.sync_cond.notify_all();
        // The last primary may have died before it sent them.
        self.emit(due);
        true
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
    fn sync_with_primary(self: &Arc<Self>, vid_insync: u32) -> bool {
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
        client.call_async(procedure, args, TRANSFER_TIMEOUT, move |answer| {
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

    /// Before a state that was read from the disk is handed out for the first time, all members are asked where they stand.
    /// False if it turned out that this node's disk has lost requests.
    fn has_asked_the_others(&self, vid: u32) -> bool {
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
    fn has_lost_requests(&self, src: &str, last: Viewstamp, vid: u32) -> bool {
        if !self.is_evidence(src, last, vid) {
            return false;
        }
        if !std::mem::replace(&mut self.state.lock().asks_back, true) {
            self.shows_lost_requests(src, vid);
            self.state.lock().asks_back = false;
        }
        true
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
        let status = self.state.lock().replica.transfer_done(m, vid);
        self.sync_cond.notify_all();
        (status, 0)
    }
}
