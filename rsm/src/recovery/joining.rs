//! Coming into a view: the joiner's side, and the primary's, who adds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rt::time::now;
use yfs_config::{Standing, ViewId};
use yfs_paxos::protocol::{HEARTBEAT, PaxosStatus};
use yfs_paxos::{DiskId, ServiceId};
use yfs_rpc::Client;
use yfs_rpc::marshall::Bytes;

use super::MEMBERS_TIMEOUT;
use crate::protocol::{CLIENT_MEMBERS, JOINREQ, RsmStatus, Viewstamp};
use crate::rsm::Inner;
use crate::state_machine::StateMachine;

/// A joiner waits so long for the primary, which runs up to two rounds and syncs in between (lab: 120 s).
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How far back a node looks in its log for somebody who knows the primary, and how many it asks.
const MAX_VIEWS_ASKED: usize = 1000;
const MAX_CANDIDATES: usize = 16;
/// How long a joiner's request waits for the members to be in sync. Meanwhile others wait, perhaps a member among them
/// that has to hear that it is one before it comes into sync.
const ADMISSION_PATIENCE: Duration = Duration::from_millis(500);
/// A lab node asks again after half a minute only.
const ADMISSION_PATIENCE_OF_LAB: Duration = Duration::from_secs(5);
/// A larger state doesn't fit into an answer; a little below the longest PDU.
const MAX_STATE_BYTES: usize = (10 << 20) - (64 << 10);
/// How long an outage has to last to be told, and how often it is told again.
const OUTAGE_LASTS: Duration = Duration::from_secs(5);
const OUTAGE_TOLD_AGAIN: Duration = Duration::from_secs(60);

/// What a node that wants to join says when it is asked back.
struct Joiner {
    /// It asks to be removed, or may: a lab node can't say so.
    asks_removal: bool,
    /// `None` for a lab node.
    disk: Option<DiskId>,
    /// Its disk, if it knows no view: it is new, or its disk was lost.
    blank: Option<DiskId>,
}

impl<S: StateMachine> Inner<S> {
    /// One try to come into a view that was formed with this node. False if it came to nothing.
    pub(super) fn rejoin(self: &Arc<Self>) -> bool {
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
        for candidate in self.candidates() {
            if self.has_learnt_views_from(&candidate) {
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

    /// Whom to ask for the primary: the nodes to join through and the members of the last view, then whoever was a member
    /// before (H25).
    fn candidates(&self) -> Vec<String> {
        let mut names = vec![self.first.clone()];
        names.extend(self.joins_through().into_iter().filter(|name| *name != self.first));
        if rt::probe::weakened("H25-joiner-asks-first-only") {
            return vec![self.first.clone()];
        }
        let (last, mut add) = (self.cfg.vid().0, |view: &[String]| {
            view.iter().for_each(|name| {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            });
            names.len()
        });
        add(self.state.lock().replica.members());
        for vid in (1..last).rev().take(MAX_VIEWS_ASKED) {
            let Some(view) = self.cfg.get_view(ViewId(vid)) else { break };
            if add(view.members()) >= MAX_CANDIDATES {
                break;
            }
        }
        names
    }

    /// Whether somebody who is believed knew views that this node hasn't heard of.
    pub(super) fn has_learnt_views(&self) -> bool {
        self.candidates().iter().any(|candidate| self.has_learnt_views_from(candidate))
    }

    /// Whether `name` is believed and knew views that this node hasn't heard of: one may name it, whose primary is dead.
    fn has_learnt_views_from(&self, name: &str) -> bool {
        let before = self.cfg.vid();
        let asked = name != self.me && self.cfg.believes(name);
        asked && self.is_of_the_lab(name) == Some(false) && self.cfg.catch_up_from(name) > before
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
        if client.server() == Some(self.rsmrpc.nonce()) {
            tracing::warn!(node = %self.me, peer = name, "a node to join through is this node itself: to begin a service \
                FIRST has to be spelled as ME is");
            return None;
        }
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
        if client.bind(MEMBERS_TIMEOUT).is_err() {
            return false;
        }
        let ours = client.is_ours() != Some(false);
        let Some(mut service) = self.ask_service(m, &client, ours) else { return false };
        let log = match client.call(JOINREQ, (self.me.clone(), last), JOIN_TIMEOUT) {
            Ok((status, Bytes(log))) if status == RsmStatus::OK as i32 => log,
            Ok((status, _)) => {
                tracing::info!(node = %self.me, primary = m, status = ?RsmStatus::from_wire(status), "join: not now");
                return false;
            }
            Err(error) => {
                tracing::info!(node = %self.me, primary = m, %error, "join: no answer");
                return false;
            }
        };
        if service.is_none() && !rt::probe::weakened("S6-number-not-learnt") {
            // It may have begun its service between question and answer. Its client is bound: it is the same life of it.
            let Some(known) = self.ask_service(m, &client, ours) else { return false };
            service = known;
        }
        let restored = str::from_utf8(&log)
            .map_err(|e| e.to_string())
            .and_then(|log| self.cfg.restore(log, service).map_err(|e| e.to_string()));
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

    /// The number of the service of `m`, if it is of ours (`ours`), and knows it. `None`: this node can't join through it.
    fn ask_service(&self, m: &str, client: &Client, ours: bool) -> Option<Option<ServiceId>> {
        match ours.then(|| self.cfg.service_of(client)).transpose() {
            Ok(service) => Some(service.flatten()),
            Err(why) => {
                tracing::info!(node = %self.me, primary = m, why, "join: not through this primary");
                None
            }
        }
    }

    /// Handler: adds `m` to the view, and answers with the Paxos log (lab: `joinreq`).
    pub(crate) fn joinreq(&self, m: &str, last: Viewstamp) -> (RsmStatus, Bytes) {
        let answer = self.admit(m, last);
        if !self.cfg.ismember(m, self.cfg.vid()) {
            // Strangers' names, and connections to them, must not pile up.
            self.handles.forget(m);
        }
        answer
    }

    fn admit(&self, m: &str, last: Viewstamp) -> (RsmStatus, Bytes) {
        let busy = (RsmStatus::BUSY, Bytes::default());
        let (listed, added, kept_away) = {
            let state = self.state.lock();
            let listed = state.replica.is_member() && state.replica.members().iter().any(|member| member == m);
            (listed, listed && !state.replica.is_proven(m), state.joiners.is_kept_away(m, now()))
        };
        if kept_away && !listed {
            return busy;
        }
        let joiner = match self.look_at_joiner(m) {
            Ok(joiner) => joiner,
            Err(status) => return (status, Bytes::default()),
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
        let comes_soon = joiner.disk.is_some() && !rt::probe::weakened("H26-one-pool");
        let patience = if comes_soon { ADMISSION_PATIENCE } else { ADMISSION_PATIENCE_OF_LAB };
        let Some((mut vid, mut listed, proven)) = self.admissible(m, patience) else { return busy };
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
            let Some(now) = self.admissible(m, patience) else { return busy };
            (vid, listed) = (now.0, now.1);
        }
        if !listed && joiner.disk.is_none() && last != self.state.lock().replica.last_myvs() {
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

    /// Who wants to join as `m`. Names may take seconds to be resolved and asked, so of those that nobody knows one is looked
    /// at a time: they must not keep members from coming back.
    fn look_at_joiner(&self, m: &str) -> Result<Joiner, RsmStatus> {
        let known = self.joins_through().iter().any(|name| name == m) || self.cfg.has_named(m, MAX_VIEWS_ASKED);
        if !known && std::mem::replace(&mut self.state.lock().looks_at_stranger, true) {
            return Err(RsmStatus::BUSY);
        }
        let found = self.ask_joiner(m);
        if !known {
            self.state.lock().looks_at_stranger = false;
        }
        found
    }

    fn ask_joiner(&self, m: &str) -> Result<Joiner, RsmStatus> {
        // Nothing is logged of strangers' names before they are known to be some.
        let addr = yfs_rpc::names::resolve(m).map_err(|_| RsmStatus::ERR)?;
        if self.is_other_name_of_a_member(m, addr) {
            tracing::debug!(node = %self.me, src = m, "joinreq: another name of a member");
            return Err(RsmStatus::ERR);
        }
        self.ask_back(m).ok_or_else(|| {
            tracing::debug!(node = %self.me, src = m, "joinreq: no node answers at the name that wants to join");
            RsmStatus::BUSY
        })
    }

    /// Whether the state can be sent in one answer. A member that can't fetch it would be removed again, and come again.
    fn state_fits(&self) -> bool {
        self.state.lock().machine.marshal_state().len() <= MAX_STATE_BYTES
    }

    /// What the node at a joiner's name says of itself. One that nobody can reach must not become a member.
    fn ask_back(&self, m: &str) -> Option<Joiner> {
        let vid = self.cfg.vid();
        // The first try may only find out that the client is bound to the server that was there before.
        (0..2).find_map(|_| {
            let client = self.handles.client(m).ok()?;
            client.bind(MEMBERS_TIMEOUT).ok()?;
            if !client.is_ours()? {
                // It can't be asked for its name.
                if self.is_server_of_another(m, &client)? {
                    return None;
                }
                // A lab node stops at a heartbeat that is more than one view ahead of a round of its own.
                return Some(Joiner { asks_removal: true, disk: None, blank: None });
            }
            let disk = self.cfg.disk_of(m)?;
            let (status, theirs) = client.call(HEARTBEAT, (self.me.clone(), vid.0), MEMBERS_TIMEOUT).ok()?;
            if theirs != 0 && self.cfg.is_foreign(&client) {
                // It serves another service, and hasn't asked for anything: whoever has is not this node.
                return None;
            }
            let blank = (theirs == 0).then_some(disk);
            let asks_removal = status != PaxosStatus::OK as i32 && [0, vid.0].contains(&theirs.cast_unsigned());
            Some(Joiner { asks_removal, disk: Some(disk), blank })
        })
    }

    /// Whether `client`, of a node called `m`, is bound to this node, or to a member of another name: an address has many
    /// names. `None`: it isn't bound.
    pub(super) fn is_server_of_another(&self, m: &str, client: &Client) -> Option<bool> {
        let server = client.server()?;
        if server == self.rsmrpc.nonce() {
            return Some(true);
        }
        let members = self.state.lock().replica.members().to_vec();
        let mut others = members.iter().filter(|&name| name != m && *name != self.me);
        Some(others.any(|name| {
            // One that doesn't answer isn't the one that just did.
            let member = self.handles.client(name).ok().filter(|member| member.bind(MEMBERS_TIMEOUT).is_ok());
            member.and_then(|member| member.server()) == Some(server)
        }))
    }

    /// Whether `m` is not a member's name, but its address: a node that is a member twice would count twice.
    fn is_other_name_of_a_member(&self, m: &str, addr: SocketAddr) -> bool {
        let members = self.state.lock().replica.members().to_vec();
        let same = |name: &String| yfs_rpc::names::resolve(name).is_ok_and(|other| other == addr);
        m == self.me || addr == self.rsmrpc.local_addr() || members.iter().any(|name| name != m && same(name))
    }

    /// Waits until this node is the primary of a view in which all are in sync (invariant 2), or `m` is a member that
    /// isn't yet. Returns the view, whether it lists `m`, and whether `m` was in sync. `None`: not now.
    fn admissible(&self, m: &str, patience: Duration) -> Option<(u32, bool, bool)> {
        let deadline = now() + patience;
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
}
