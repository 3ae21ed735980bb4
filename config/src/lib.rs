//! yfs-config: the sequence of views, and who is in the present one (lab 7's `config`).
//!
//! A view is a numbered list of members; its number is that of the Paxos instance that decided it, among the members of
//! the view before. The layer above adds members ([`Config::add`]); a heartbeater finds out who is gone and proposes the
//! view without it. The layer above hears of new views through [`ViewChange`].
//!
//! | module | what | lab |
//! |---|---|---|
//! | [`view`] | all views by number | acceptor's values, as config sees them |
//! | [`detector`] | whom to ping, whom to suspect: time comes in as an argument | inside config::heartbeater |
//! | [`config`] | methods, handlers, upcalls | class config |
//! | `changes` | rounds for the next view; catching up | config::add, remove_wo |
//! | `roles` | what the layer above asks because of the state it holds or lacks | |
//! | `heartbeater` | the thread: pings, removals, catching up | config::heartbeater, doheartbeat |
//! | [`events`] | what a simulator is told | |
//! | [`options`] | timers and their defaults | constants |
//!
//! Locks: see [`ranks`].

mod changes;
pub mod config;
pub mod detector;
pub mod events;
mod heartbeater;
pub mod options;
mod roles;
pub mod view;

pub use config::{Config, ViewChange};
pub use options::{Options, Timing};
pub use roles::{Role, Standing};
pub use view::ViewId;
pub use yfs_paxos::{LogError, OnFatal, Outcome, RestoreError, Value};

/// The locks of this crate, in the order in which a thread may take them.
pub mod ranks {
    use rt::sync::Rank;

    /// [`crate::Config`]: the heartbeater's handle. Held for moments only.
    pub const THREAD: Rank = Rank::new(29, "config.thread");
    /// [`crate::Config`]: views, detector, what is asked of the heartbeater. Never held across disk, call or upcall.
    pub const STATE: Rank = Rank::new(30, "config.state");
}
