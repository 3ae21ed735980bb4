//! The systems of MIT 6.033, lecture 19 (2013): a bank's server, replicated, going wrong and repaired step by step.
//!
//! Each system is a few functions that work for one node of rt, so the same code runs as a program, in `make lecture`, and
//! in the simulator under a fixed seed, where what goes wrong goes wrong every time. They build on the rpc crate alone, up
//! to the last one, which is the bank on yfs-rsm. They are for looking at: simple, not fast, and kept no longer than the
//! lecture lasts.
//!
//! | file | what |
//! |---|---|
//! | bank | accounts, operations, answers: pure |
//! | file | a server's file |
//! | protocol | the messages |
//! | peers | a node's port, the others, and partitions |
//! | srv, client, coord | the bank's server, its client, and what gives operations an order |
//! | views, `view_server` | who is primary and who backup: pure, and behind a port |
//! | pb, `pb_state`, `pb_server`, `pb_file`, `pb_protocol` | the server with a backup: pure, and behind a port |
//! | `pb_client` | its client: asks the view server, sends again |
//! | `rsm_bank` | the bank on yfs-rsm |
//! | traced | what messages are called in pictures |
//! | story, `story/stepN` | what `make lecture` shows, a file a step |
//!
//! docs/lecture.md walks through them.

pub mod bank;
pub mod client;
pub mod coord;
pub mod file;
pub mod pb;
pub mod pb_client;
mod pb_file;
pub mod pb_protocol;
pub mod pb_server;
pub mod pb_state;
pub mod peers;
pub mod protocol;
pub mod rsm_bank;
pub mod srv;
pub mod story;
pub mod traced;
pub mod view_server;
pub mod views;
