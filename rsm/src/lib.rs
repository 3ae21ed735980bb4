//! yfs-rsm: a replicated state machine (lab 7), to be embedded in a service of one's own.
//!
//! Implement [`StateMachine`] for a state, register procedures with [`Rsm::reg`], start a replica on each node, and call
//! the procedures through an [`RsmClient`]: examples/counter.rs is the whole of it.
//!
//! Layers: this crate is in charge of replication, yfs-config of the sequence of views, yfs-paxos of agreement on it.

mod advice;
mod client_session;
pub mod events;
mod foreign;
mod joiners;
pub mod journal;
pub mod pair;
pub mod protocol;
mod recovery;
pub mod replica;
mod rsm;
mod rsm_client;
mod sessions;
mod start_over;
pub mod state_machine;
mod test_server;

pub use journal::JournalError;
pub use pair::PairError;
pub use rsm::{OnFatal, Options, Rsm, RsmError};
pub use rsm_client::{RsmClient, RsmClientError};
pub use start_over::{Survivor, start_over};
pub use state_machine::StateMachine;
pub use yfs_config::{LogError, Timing};
