//! What the layer above asks of config because of the state that a node holds or lacks (docs/protocols.md, rules 0 and 1).
//!
//! A node whose log names it, but which has lost its state, wants to be removed, and removes nobody. It can ask how all
//! other members stand.

use std::collections::BTreeMap;

use rt::time::{Instant, now};

use crate::config::Config;
use crate::detector::FailureDetector;
use crate::view::ViewId;

/// How a member stands, as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Answers,
    /// It answers that it wants to be removed: it has lost its state.
    AsksRemoval,
    /// Its port refuses connections: its process is gone.
    Refuses,
    /// Nothing is heard of it.
    Silent,
}

impl Config {
    /// Whether this node holds the state, or will be given it. While false, heartbeats are answered "remove me", and this
    /// node proposes nobody's removal by itself.
    pub fn set_role(&self, holder: bool) {
        let mut state = self.state.lock();
        state.wants_out = !holder;
        state.may_remove = holder;
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
