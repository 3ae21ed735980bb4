//! yfs-rpc: remote procedure calls over TCP, at most once (lab 1).
//!
//! A [`Server`] registers typed [`Procedure`]s and opens a port; a [`Client`] calls them, waiting or with a completion.
//! The bytes are the lab's (marshall.rs, pdu.rs). A request that is sent again, because its connection died, is never
//! executed again (reply_window.rs).
//!
//! From the bottom: `pollmgr` watches sockets, `connection` carries PDUs, `rpcs` and `rpcc` are the two ends,
//! `handle` keeps a node's clients, `messages` logs what passes. docs/protocols.md has the messages, docs/architecture.md threads and locks.

mod connection;
mod error;
pub mod events;
mod handle;
mod listener;
pub mod marshall;
pub mod messages;
pub mod names;
mod options;
pub mod pdu;
mod pollmgr;
pub mod procedure;
pub mod reply_window;
mod rpcc;
mod rpcs;
mod thr_pool;

pub use error::CallError;
pub use handle::Handles;
pub use options::Options;
pub use pollmgr::PollMgr;
pub use procedure::{Handler, Procedure, Status};
pub use rpcc::{Client, TO_MAX};
pub use rpcs::{Reach, ReplyToken, Server, Workers};
