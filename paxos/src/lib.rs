//! yfs-paxos: agreement on the sequence of views (lab 6).
//!
//! One Paxos instance decides one value, and a value is a view: the names of its members. Instance i + 1 is run among
//! the members of the value of instance i. A node is both: an [`Acceptor`], which votes and remembers, and a
//! [`Proposer`], which runs rounds. What either decides is pure ([`state`], [`ballot`]); the log ([`log`]) makes it
//! last; the layer above hears of decided values through [`PaxosChange`].
//!
//! | module | what | lab |
//! |---|---|---|
//! | [`protocol`] | procedures, arguments, results | paxos_protocol.h |
//! | [`value`] | a view as a value, and which values may follow it | config::members, config::value |
//! | [`state`] | what an acceptor has promised, accepted and learnt; its answers | class acceptor |
//! | [`ballot`] | one round's votes | locals of proposer::run |
//! | [`record`], [`log`] | the log's text, the log's file | log.cc |
//! | [`acceptor`] | handlers, disk, upcalls | class acceptor |
//! | [`proposer`] | prepare, accept, decide | class proposer |
//! | [`events`] | what a simulator is told | |
//!
//! Locks: see [`ranks`].

pub mod acceptor;
pub mod ballot;
mod calls;
pub mod events;
pub mod log;
pub mod proposer;
pub mod protocol;
pub mod record;
pub mod state;
pub mod value;

pub use acceptor::{Acceptor, OnFatal, PaxosChange};
pub use log::LogError;
pub use proposer::{Outcome, Proposer};
pub use protocol::ProposalNumber;
pub use record::{DiskId, RestoreError, ServiceId};
pub use value::{Value, ValueError};

/// The number of a Paxos instance, and so of a view. The first is 1; 0 means that nothing is decided yet.
pub type Instance = u32;

/// The locks of this crate, in the order in which a thread may take them.
pub mod ranks {
    use rt::sync::Rank;

    /// [`crate::Proposer`]: whose turn it is, and the numbers used so far. Held for moments only.
    pub const TURN: Rank = Rank::new(40, "paxos.turn");
    /// [`crate::Acceptor`]: state, log and upcalls due. Held across a write to the disk; never across an RPC or upcall.
    pub const STATE: Rank = Rank::new(50, "paxos.state");
    /// [`crate::Acceptor`]: since when it writes. Held for moments only.
    pub const WRITING: Rank = Rank::new(52, "paxos.writing");
    /// The answers that a proposer's step has got so far. Held for moments only.
    pub const ANSWERS: Rank = Rank::new(55, "paxos.answers");
}
