//! What a node reports of the others to a simulator ([`rt::probe`]), in the order of `config.state`.

use std::time::Duration;

use crate::ViewId;
use crate::detector::Reason;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member has answered a ping.
    Answered {
        /// Which one.
        peer: String,
    },
    /// All members have answered, and one more is proposed.
    Adding {
        /// The view that it is to follow.
        vid: ViewId,
        /// Which one.
        member: String,
        /// How long ago they were asked, by this node's clock.
        asked_ago: Duration,
    },
    /// The members are asked whether they are well, before one is removed.
    Probing,
    /// The heartbeater proposes a view without a member.
    Removing {
        /// The view that it is a member of.
        vid: ViewId,
        /// Which one.
        member: String,
        /// Why.
        reason: Reason,
    },
    /// What the heartbeater wanted to propose came to nothing.
    Failed {
        /// The view that was to be followed by another one.
        vid: ViewId,
    },
}
