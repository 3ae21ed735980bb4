//! What the layer above asks of config because of the state that a node holds or lacks (docs/protocols.md, rules 0 and 1).
//!
//! A node whose log names it, but which has lost its state, wants to be removed, and removes nobody; and so does one that
//! crashes in a loop. A node can ask how all other members stand.

use std::collections::BTreeMap;

use rt::time::{Instant, now};

use crate::config::Config;
use crate::detector::FailureDetector;
use crate::view::ViewId;

/// What a member is, and so whether it may propose that others leave: one that holds the state has to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the state.
    Holder,
    /// It is to be given the state. Only the last member of a view is one of these, so of two others one is a holder.
    Joiner,
    /// It has lost the state, and wants to be removed.
    Lost,
    /// It holds the state, and has been restarted again and again: it asks to be removed for a moment, and removes nobody.
    Unsteady,
}

impl Role {
    /// Whether it answers heartbeats "remove me".
    pub(crate) fn asks_removal(self) -> bool {
        matches!(self, Role::Lost | Role::Unsteady)
    }

    /// Whether a member of this view may propose to remove another one.
    pub(crate) fn may_remove(self, members: usize) -> bool {
        match self {
            Role::Holder => true,
            Role::Joiner => members > 2,
            Role::Lost | Role::Unsteady => false,
        }
    }
}

/// How a member stands, as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Answers,
    /// It answers that it wants to be removed: it has lost its state, or is in trouble for now.
    AsksRemoval,
    /// Its port refuses connections: its process is gone.
    Refuses,
    /// Nothing is heard of it.
    Silent,
}

impl Config {
    /// Tells what this node is. One that is [`Role::Lost`] or [`Role::Unsteady`] answers heartbeats "remove me".
    pub fn set_role(&self, role: Role) {
        self.change(|state| state.role = role);
    }

    /// How the other members of the last view stand. Asks all of them; blocks for at most a ping's time.
    pub fn survey(&self) -> BTreeMap<String, Standing> {
        let known = |detector: &FailureDetector, now: Instant| {
            detector.peers().iter().all(|peer| detector.standing(peer, now) != Standing::Silent)
        };
        self.probe(known);
        let state = self.state.lock();
        let time = now();
        state.detector.peers().into_iter().map(|peer| (peer.clone(), state.detector.standing(&peer, time))).collect()
    }

    /// Whether the last that was heard of `name`, a moment ago, is that it wants to be removed.
    pub fn asks_removal(&self, name: &str) -> bool {
        self.state.lock().detector.standing(name, now()) == Standing::AsksRemoval
    }

    /// The layer above needs a new view with the same members after view `vid`: the heartbeater proposes it.
    /// True if nobody had asked for it.
    pub fn request_same(&self, vid: ViewId) -> bool {
        let mut state = self.state.lock();
        let news = state.views.vid() == vid && state.same_wanted != Some(vid);
        if news {
            state.same_wanted = Some(vid);
            state.kicked = true;
            self.changed.notify_all();
        }
        news
    }
}
