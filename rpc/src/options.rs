//! Settings of a client or a server, and what both agree on.

use std::time::Duration;

/// The procedure that binds a client to a server (lab: `rpc_const::bind`).
pub(crate) const BIND: u32 = 1;

/// What our clients put into bind's argument, where the lab's put 0. A lab server ignores it; a server of ours that
/// sees it answers with the same number after its nonce: then both know that the other is none of the lab's.
pub(crate) const HELLO: i32 = 0x5946_5301;

/// Settings that the lab takes from the environment, and bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of 100 PDUs sent, before how many the connection is shut down (lab: `RPC_LOSSY`).
    pub lossy_percent: u8,
    /// After how many requests a server logs its counts a procedure; 0: never (lab: `RPC_COUNT`).
    pub count_every: u32,
    /// Connections that a server holds at once; further ones wait in the kernel.
    pub max_connections: usize,
    /// For how long a peer may keep a server waiting for the rest of a request, or with replies that it doesn't read.
    pub peer_patience: Duration,
    /// A client's calls fail when its connection attempts have been refused for so long: nobody listens there. `None`:
    /// they go on to their deadlines, as the lab's do.
    pub refused_patience: Option<Duration>,
}

/// Descriptors that a server leaves to others, and one in so many of all: a lock server connects to clients and members.
const RESERVED_DESCRIPTORS: u64 = 64;
const RESERVED_PART: u64 = 4;

impl Default for Options {
    /// No loss, no counts, as many connections as the process's file limit allows.
    fn default() -> Self {
        let limit = rt::process::file_limit();
        let connections = limit.saturating_sub(limit / RESERVED_PART).saturating_sub(RESERVED_DESCRIPTORS).max(16);
        Options {
            lossy_percent: 0,
            count_every: 0,
            max_connections: usize::try_from(connections).unwrap_or(usize::MAX),
            peer_patience: Duration::from_secs(10),
            refused_patience: None,
        }
    }
}

impl Options {
    /// Whether the next PDU is to be lost.
    pub(crate) fn loses(&self) -> bool {
        self.lossy_percent > 0 && rt::random::below(100) < u64::from(self.lossy_percent)
    }
}
