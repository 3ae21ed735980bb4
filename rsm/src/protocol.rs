//! The RSM's messages: client to node, node to node, tester to node (lab: `rsm_protocol.h`).

use yfs_rpc::marshall::Bytes;
use yfs_rpc::{Procedure, wire_status, wire_struct};

wire_struct! {
    /// A request's place: the view it was stamped in, and its number there, from 1.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Viewstamp {
        /// The view; 0 before the first.
        pub vid: u32,
        /// The number in the view.
        pub seqno: u32,
    }
}

impl std::fmt::Display for Viewstamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({},{})", self.vid, self.seqno)
    }
}

wire_struct! {
    /// The answer to transferreq.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct TransferRes {
        /// The marshalled state; empty if the asker's is the same.
        pub state: Bytes,
        /// The last request executed in that state.
        pub last: Viewstamp,
    }
}

wire_status! {
    /// Answers to clients.
    pub enum ClientStatus {
        /// Done.
        OK = 0,
        /// The request can't be executed by anybody.
        ERR = 1,
        /// Another node is the primary: ask for the members.
        NOTPRIMARY = 2,
        /// The view is changing: ask again.
        BUSY = 3,
    }
}

wire_status! {
    /// Answers to other nodes.
    pub enum RsmStatus {
        /// Done.
        OK = 0,
        /// Refused.
        ERR = 1,
        /// Not now: ask again.
        BUSY = 2,
    }
}

wire_status! {
    /// Answers to testers.
    pub enum TestStatus {
        /// Done.
        OK = 0,
        /// There is no such thing.
        ERR = 1,
    }
}

/// Client to primary: procedure, marshalled arguments -> (int return value, string marshalled result), in a string.
pub const CLIENT_INVOKE: Procedure<(u32, Bytes), Bytes> = Procedure::new(0x9001);
/// Client to any node -> the view's members, and once more the primary as the last.
pub const CLIENT_MEMBERS: Procedure<(i32,), Vec<String>> = Procedure::new(0x9002);

/// Primary to backup: procedure, viewstamp, marshalled arguments.
pub const INVOKE: Procedure<(u32, Viewstamp, Bytes), i32> = Procedure::new(0x10001);
/// Backup to primary: its name, its last request executed, the view to be in sync in.
pub const TRANSFERREQ: Procedure<(String, Viewstamp, u32), TransferRes> = Procedure::new(0x10002);
/// Backup to primary: its name, the view it is in sync in.
pub const TRANSFERDONEREQ: Procedure<(String, u32), i32> = Procedure::new(0x10003);
/// Joiner to primary: its name, its last request executed -> the Paxos log as text.
pub const JOINREQ: Procedure<(String, Viewstamp), Bytes> = Procedure::new(0x10004);

/// Tester to node: 0 cuts it off in the middle of its next request, 1 heals.
pub const NET_REPAIR: Procedure<(i32,), i32> = Procedure::new(0x12001);
/// Tester to node: where to die.
pub const BREAKPOINT: Procedure<(i32,), i32> = Procedure::new(0x12002);
/// Tester to node, not in the lab: 0 cuts it off from the members at once, but not from its clients; 1 heals.
pub const CUT_MEMBERS: Procedure<(i32,), i32> = Procedure::new(0x12003);
