//! What servers, clients and the view server say to each other.
//!
//! | procedure | from, to | arguments | result |
//! |---|---|---|---|
//! | PING | server, view server | a [`Ping`] | the view |
//! | VIEW | client, view server | | the view |
//! | REQUEST | client, primary | client, number, operation | the answer |
//! | FORWARD | primary, backup | a [`Forward`] | |
//! | TRANSFER | backup, primary | view, name of the backup | the state |
//! | COUNTS | backup, primary | view, name, length of its log | |

use yfs_rpc::Procedure;
use yfs_rpc::marshall::Bytes;
use yfs_rpc::{wire_status, wire_struct};

use crate::views::{Life, View, ViewId};

/// A server lives.
pub const PING: Procedure<(Ping,), View> = Procedure::new(0x19011);
/// Which view is it?
pub const VIEW: Procedure<(), View> = Procedure::new(0x19012);
/// A client's operation: the client, its number, the operation's words.
pub const REQUEST: Procedure<(u64, u64, String), String> = Procedure::new(0x19013);
/// The primary's to its backup.
pub const FORWARD: Procedure<(Forward,), bool> = Procedure::new(0x19014);
/// A new backup asks for the complete state.
pub const TRANSFER: Procedure<(ViewId, String), Bytes> = Procedure::new(0x19015);
/// A backup has installed the state, and counts from now on.
pub const COUNTS: Procedure<(ViewId, String, u64), bool> = Procedure::new(0x19016);

wire_struct! {
    /// A server's sign of life.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Ping {
        /// Its name.
        pub name: String,
        /// Its life.
        pub life: Life,
        /// The last view that it knows, or as a primary acknowledges.
        pub knows: ViewId,
        /// How often it pings, in milliseconds: the view server should expect the same.
        pub interval: u64,
    }
}

wire_struct! {
    /// An operation at its place in the log.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Forward {
        /// The primary that forwards.
        pub from: String,
        /// The view in which it believes to be the primary.
        pub view: ViewId,
        /// Place in the log, from 1.
        pub place: u64,
        /// The operation.
        pub entry: Entry,
    }
}

wire_struct! {
    /// An operation in the log.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Entry {
        /// Whose it is.
        pub client: u64,
        /// Its number among that client's.
        pub number: u64,
        /// Its words.
        pub op: String,
    }
}

wire_status! {
    /// What comes of a client's request.
    pub enum RequestStatus {
        /// It was executed, now or before; the answer is with it.
        OK = 0,
        /// This server isn't the primary (the lecture's rule 3), or not any more: ask the view server.
        NOTPRIMARY = 1,
        /// Not now: the backup doesn't have the state yet, or doesn't answer.
        BUSY = 2,
        /// The words are no operation, or the log is full.
        REFUSED = 3,
        /// A later one of the client's was executed, so its answer is gone.
        STALE = 4,
    }
}

wire_status! {
    /// What comes of what servers tell each other.
    pub enum PeerStatus {
        /// Done.
        OK = 0,
        /// Not as long as the one who was asked is what it is (the lecture's rule 1).
        REJECTED = 1,
    }
}
