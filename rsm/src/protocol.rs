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

wire_struct! {
    /// A client's session: how many were opened before it, and a number that its client has drawn for it, so that no id
    /// comes again when a service goes on from an older state.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub struct SessionId {
        /// Counts the sessions.
        pub number: u64,
        /// The client's number: another one for each OPEN, also if one isn't answered.
        pub owner: u64,
    }
}

wire_status! {
    /// What became of a request in a session, or of one for a session: the value beside the result.
    pub enum SessionStatus {
        /// It was executed, now or before.
        OK = 0,
        /// Not executed now, nor in future: the session isn't there, or the number was given up.
        EXPIRED = 1,
        /// Not executed: too far above what is answered.
        AHEAD = 2,
        /// Not executed: the view has lab members, which know no sessions. Requests have to come without one.
        NOSESSION = 3,
        /// Not executed: the primary doesn't serve yet, or is about another request, or there is no room for a session or
        /// a reply. Ask again. (Told BUSY by [`ClientStatus`] a client doesn't know whether it was.)
        BUSY = 4,
        /// It was executed before; its reply was too large to be kept.
        UNKEPT = 5,
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

/// A procedure of every state machine of ours, inside client_invoke and invoke: opens a session. Lab nodes would abort.
pub const OPEN: Procedure<(u64,), SessionId> = Procedure::new(0x5946_0001);
/// A session, a number in it, the number below which the client has all answers, from there on the numbers that it has
/// given up, a procedure, its marshalled arguments.
pub type RequestArgs = (SessionId, u64, u64, Vec<u64>, u32, Bytes);
/// The session and the number in it that are answered, and what client_invoke answers without a session. Two clients may
/// have drawn one nonce: then one may be given the other's answer.
pub type RequestRes = (SessionId, u64, Bytes);
/// A procedure of every state machine of ours, inside client_invoke and invoke. Lab nodes would abort.
pub const REQUEST: Procedure<RequestArgs, RequestRes> = Procedure::new(0x5946_0002);

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
