//! Who seems to be gone (lab: inside `config::heartbeater` and `doheartbeat`).
//!
//! Pure: events and the time come in, whom to ping and whom to suspect come out.
//!
//! Roles are the lab's: the smallest member (by its name as a string) pings all, the others ping the smallest; whoever
//! the layer above has doubts about ([`FailureDetector::doubt`]) is pinged too. And all ping the primary: a service's first
//! node that lost its disk would begin a second service if nobody spoke to it (S6). Not one of the lab: it doesn't listen,
//! and might stop at a ping.
//!
//! A member is suspected when, since the first ping that it hasn't answered, it
//! 1. refuses connections for [`Timing::refused`], or
//! 2. is silent for [`Timing::silence`] of this node's own running time;
//!
//! or when, though it answers,
//!
//! 3. it stays behind for [`Timing::mismatch`] (one that is ahead is no suspect: this node is the one to catch up), or
//! 4. it asks to be removed.
//!
//! Nobody is suspected within [`Timing::newcomer`] of becoming a member, unless by a later member; nor in a round in
//! which this node finds that it was itself stopped or starved: then its memory of others' silence is moved forward by the
//! time that it missed.
//!
//! Deviations from the lab: one ping unanswered, or another view number, is no reason for a removal there (L1).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::time::Instant;
use yfs_paxos::value::majority_of;

use crate::Timing;
use crate::roles::Standing;

/// One that has just been added may know no view for a moment.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// Why a member should go. The dead go first: those who ask can vote until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its port refuses connections.
    Refused,
    /// It doesn't answer.
    Silent,
    /// It stays behind.
    Behind,
    /// It asks to be removed.
    Asked,
}

/// What a member's answer to a ping says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pong {
    /// It is in the same view, or ahead.
    Well,
    /// It is in an earlier view.
    Behind,
    /// It knows no view: it hasn't heard yet that it is a member, or has lost its disk. It can't vote (rule 3).
    Blank,
    /// "Remove me."
    Remove,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// It is no lab node, as far as is known.
    ours: bool,
    /// A ping is under way.
    outstanding: bool,
    /// When the last ping was sent.
    pinged: Option<Instant>,
    /// When the first ping was sent that hasn't been answered.
    waiting_since: Option<Instant>,
    refused_since: Option<Instant>,
    answered: Option<Instant>,
    behind_since: Option<Instant>,
    blank: bool,
    asked: bool,
    doubted: bool,
    spared_until: Option<Instant>,
}

impl Peer {
    /// Whether it has answered after `since`, as one that may vote.
    fn can_vote(&self, since: Instant) -> bool {
        self.answered >= Some(since) && !self.blank
    }
}

/// What one member knows of the others' lives.
#[derive(Clone, Debug)]
pub struct FailureDetector {
    me: String,
    timing: Timing,
    /// The other members of the view; empty if this node isn't one.
    peers: BTreeMap<String, Peer>,
    members: usize,
    /// The first one of the view.
    primary: String,
    ticked: Option<Instant>,
    /// This round nobody is suspected.
    late: bool,
}

impl FailureDetector {
    /// Knows nobody yet.
    pub fn new(me: &str, timing: Timing) -> Self {
        FailureDetector {
            me: me.to_owned(),
            timing,
            peers: BTreeMap::new(),
            members: 0,
            primary: String::new(),
            ticked: None,
            late: false,
        }
    }

    /// A new view.
    pub fn view_changed(&mut self, members: &[String], now: Instant) {
        let member = members.contains(&self.me);
        let was = std::mem::replace(&mut self.members, if member { members.len() } else { 0 });
        self.primary = members.first().cloned().unwrap_or_default();
        let mut before = std::mem::take(&mut self.peers);
        // To one that has just become a member itself the others are no newcomers. Those that are in the log at the start
        // are: they may be starting, too.
        let joined = was == 0 && self.ticked.is_some();
        for name in members.iter().filter(|m| member && **m != self.me) {
            let peer = match before.remove(name) {
                Some(peer) => Peer { behind_since: None, asked: false, doubted: false, ..peer },
                None => Peer { spared_until: (!joined).then(|| now + self.timing.newcomer), ..Peer::default() },
            };
            self.peers.insert(name.clone(), peer);
        }
    }

    /// The heartbeater has done its work and begins to wait for its next turn: its work wasn't lost time.
    pub fn rest(&mut self, now: Instant) {
        self.ticked = Some(now);
    }

    /// The heartbeater looks again. Finds out whether this node was stopped or starved since the last time.
    pub fn tick(&mut self, now: Instant) {
        let missed = self.ticked.map_or(Duration::ZERO, |before| (now - before).saturating_sub(self.timing.tick));
        self.ticked = Some(now);
        self.late = missed >= self.timing.late;
        if self.late {
            for peer in self.peers.values_mut() {
                for since in [&mut peer.waiting_since, &mut peer.behind_since].into_iter().flatten() {
                    *since = (*since + missed).min(now);
                }
            }
        }
    }

    /// Whom to ping now.
    pub fn to_ping(&self, now: Instant) -> Vec<String> {
        let smallest = self.peers.keys().next();
        let me_first = smallest.is_none_or(|smallest| self.me < *smallest);
        let due = |peer: &Peer| peer.pinged.is_none_or(|at| now - at >= self.timing.interval);
        let is_primary = |name: &String, peer: &Peer| *name == self.primary && peer.ours;
        // Whoever owes an answer is asked again, whatever the roles.
        let mine = |name: &String, peer: &Peer| {
            let role = me_first || Some(name) == smallest || is_primary(name, peer);
            role || peer.doubted || peer.waiting_since.is_some()
        };
        self.peers
            .iter()
            .filter(|(name, peer)| !peer.outstanding && due(peer) && mine(name, peer))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Everybody who can be pinged now, whatever the roles.
    pub fn everybody(&self) -> Vec<String> {
        self.peers.iter().filter(|(_, peer)| !peer.outstanding).map(|(name, _)| name.clone()).collect()
    }

    /// All other members.
    pub fn peers(&self) -> Vec<String> {
        self.peers.keys().cloned().collect()
    }

    /// A ping has been sent.
    pub fn pinged(&mut self, name: &str, now: Instant) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.outstanding = true;
            peer.pinged = Some(now);
            peer.waiting_since.get_or_insert(now);
        }
    }

    /// A ping has been answered.
    pub fn answered(&mut self, name: &str, pong: Pong, now: Instant) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        peer.outstanding = false;
        peer.waiting_since = None;
        peer.doubted = false;
        peer.answered = Some(now);
        peer.asked = pong == Pong::Remove;
        peer.blank = pong == Pong::Blank;
        match pong {
            Pong::Behind | Pong::Blank => drop(peer.behind_since.get_or_insert(now)),
            Pong::Well | Pong::Remove => peer.behind_since = None,
        }
    }

    /// A ping has ended without an answer. What was waited for is waited for still.
    pub fn unanswered(&mut self, name: &str) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.outstanding = false;
        }
    }

    /// What the connection to a member says: since when it is refused, and whether the peer is no lab node.
    pub fn observe(&mut self, name: &str, refused_since: Option<Instant>, ours: bool) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.refused_since = refused_since;
            peer.ours |= ours;
        }
    }

    /// The layer above has doubts about a member: it is pinged at once. False if it isn't one.
    pub fn doubt(&mut self, name: &str) -> bool {
        let Some(peer) = self.peers.get_mut(name) else { return false };
        peer.doubted = true;
        peer.pinged = None;
        true
    }

    /// The members that should go, and why; who should go first comes first.
    pub fn suspects(&self, now: Instant) -> Vec<(String, Reason)> {
        if self.late {
            return Vec::new();
        }
        let suspects = self.peers.iter().filter_map(|(name, peer)| Some((self.reason(peer, now)?, name)));
        let in_order: BTreeSet<(Reason, &String)> = suspects.collect();
        in_order.into_iter().map(|(reason, name)| (name.clone(), reason)).collect()
    }

    /// Whether the view without `gone` would have a majority that has answered after `since`: else the next death, or the
    /// one that is just being noticed, would leave it stuck (two of three die, and the one that comes back asks to be
    /// removed first).
    pub fn leaves_majority(&self, gone: &str, since: Instant) -> bool {
        let others = self.peers.iter().filter(|(name, peer)| *name != gone && peer.can_vote(since)).count();
        let enough = others + 1 >= majority_of(self.members.saturating_sub(1));
        self.members > 1 && (enough || rt::probe::weakened("mutant-removal-unguarded"))
    }

    /// Why this member should go, if it should.
    pub fn reason_of(&self, name: &str, now: Instant) -> Option<Reason> {
        self.reason(self.peers.get(name)?, now)
    }

    fn reason(&self, peer: &Peer, now: Instant) -> Option<Reason> {
        if !peer.asked && peer.spared_until.is_some_and(|until| now < until) {
            return None;
        }
        let silence = if peer.ours { self.timing.silence } else { self.timing.silence_of_lab };
        if let Some(since) = peer.waiting_since {
            // Not the connection's whole past: only what it says since this node wants an answer.
            if peer.refused_since.is_some_and(|refused| now - refused.max(since) >= self.timing.refused) {
                return Some(Reason::Refused);
            }
            if now - since >= silence {
                return Some(Reason::Silent);
            }
        }
        // Only now: one that asked and has died since is dead.
        if peer.asked {
            return Some(Reason::Asked);
        }
        let patience = if rt::probe::weakened("L1-behind-is-dead") { Duration::ZERO } else { self.timing.mismatch };
        peer.behind_since.filter(|since| now - *since >= patience).map(|_| Reason::Behind)
    }

    /// Whether a majority, this node among them, has answered lately.
    pub fn has_majority(&self, now: Instant) -> bool {
        let answered = self.peers.values().filter(|peer| self.is_recent(peer, now) && !peer.blank).count();
        self.members > 0 && answered + 1 >= majority_of(self.members)
    }

    /// The members that answer, and have known no view for some time, while too few others answer: their disks were lost.
    pub fn lost_disks(&self, now: Instant) -> Vec<String> {
        let is_lost = |peer: &Peer| peer.blank && peer.behind_since.is_some_and(|since| now - since >= LOST_AFTER);
        let lost = self.peers.iter().filter(|(_, peer)| self.is_recent(peer, now) && is_lost(peer));
        if self.has_majority(now) { Vec::new() } else { lost.map(|(name, _)| name.clone()).collect() }
    }

    /// Whether all members have answered after `since`.
    pub fn has_all(&self, since: Instant) -> bool {
        self.members > 0 && self.peers.values().all(|peer| peer.can_vote(since))
    }

    /// How a member stands.
    pub fn standing(&self, name: &str, now: Instant) -> Standing {
        let Some(peer) = self.peers.get(name) else { return Standing::Silent };
        if self.is_recent(peer, now) {
            return if peer.asked { Standing::AsksRemoval } else { Standing::Answers };
        }
        let refused = peer.refused_since.is_some_and(|since| now - since >= self.timing.refused);
        if refused && peer.waiting_since.is_some() { Standing::Refuses } else { Standing::Silent }
    }

    fn is_recent(&self, peer: &Peer, now: Instant) -> bool {
        peer.answered.is_some_and(|at| now - at < self.timing.lately)
    }

    /// This node's place among the members other than `gone`: the one at 0 proposes first.
    pub fn place(&self, gone: &str) -> usize {
        self.peers.keys().filter(|name| *name != gone && **name < self.me).count()
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
