//! What goes over the wire between proposers and acceptors (lab: `paxos_protocol.h`).
//!
//! The bytes are the lab's: a struct is its fields in order. A result is always complete, whatever the status says.

use yfs_rpc::{Procedure, wire_status, wire_struct};

use crate::record::ServiceId;
use crate::{Instance, Value};

wire_struct! {
    /// A proposal's number: unique, because the proposer's name is part of it, and ordered.
    #[doc(alias = "prop_t")]
    #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub struct ProposalNumber {
        /// What is compared first. Real proposals have 1 and more; 0 only asks.
        pub n: u32,
        /// The proposer's name; it breaks ties.
        #[doc(alias = "m")]
        pub node: String,
    }
}

impl std::fmt::Display for ProposalNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.n, self.node)
    }
}

wire_struct! {
    /// "Will you promise `n` in `instance`?"
    #[doc(alias = "preparearg")]
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PrepareArg {
        /// The instance.
        pub instance: Instance,
        /// The proposal's number. With `n` = 0 the caller only asks for the value of an instance.
        pub n: ProposalNumber,
    }
}

wire_struct! {
    /// The answer to [`PREPAREREQ`].
    #[doc(alias = "prepareres")]
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct PrepareRes {
        /// The instance is decided already; `v_a` is its value.
        pub oldinstance: bool,
        /// The promise is given.
        pub accept: bool,
        /// The number of the value accepted last, if `v_a` isn't empty. Of an old instance: the number of the service, and
        /// the name of who answers; lab nodes don't read it, and their own may be anything.
        pub n_a: ProposalNumber,
        /// The value accepted last, or the decided one; empty if there is none.
        pub v_a: String,
    }
}

impl PrepareRes {
    /// The answer for an old instance.
    pub(crate) fn old(service: Option<ServiceId>, me: &str, value: &Value) -> Self {
        let n_a = ProposalNumber { n: service.map_or(0, ServiceId::number), node: me.to_owned() };
        PrepareRes { oldinstance: true, accept: false, n_a, v_a: value.as_str().to_owned() }
    }

    /// The number of the service that a node of ours is in, if this is an old instance's value and the node knows it.
    pub fn service(&self) -> Option<ServiceId> {
        ServiceId::new(self.n_a.n).filter(|_| self.oldinstance)
    }
}

wire_struct! {
    /// "Accept `v` as proposal `n` in `instance`."
    #[doc(alias = "acceptarg")]
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AcceptArg {
        /// The instance.
        pub instance: Instance,
        /// The proposal's number.
        pub n: ProposalNumber,
        /// The value.
        pub v: String,
    }
}

wire_struct! {
    /// "`v` is the value of `instance`."
    #[doc(alias = "decidearg")]
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DecideArg {
        /// The instance.
        pub instance: Instance,
        /// The value.
        pub v: String,
    }
}

wire_status! {
    /// The status of every answer in this protocol.
    #[doc(alias = "paxos_protocol::status")]
    pub enum PaxosStatus {
        /// The result says the rest.
        OK = 0,
        /// The acceptor can't vote on this: an instance too far ahead, or a sender that isn't in its last view.
        ERR = 1,
    }
}

/// Proposer to acceptor: asks for a promise, or (with n = 0) for the value of an instance.
pub const PREPAREREQ: Procedure<(String, PrepareArg), PrepareRes> = Procedure::new(0x11001);
/// Proposer to acceptor: asks to accept a value.
pub const ACCEPTREQ: Procedure<(String, AcceptArg), bool> = Procedure::new(0x11002);
/// Proposer to acceptor: tells a decided value. The result means nothing.
pub const DECIDEREQ: Procedure<(String, DecideArg), i32> = Procedure::new(0x11003);
/// Ours: asks the node of this name for the number of its disk ([`crate::DiskId`]). Who has another name says ERR: an address
/// has many names, and a member must have one. The answer comes only if the disk has just done a write, if need be of
/// this: a node whose disk hangs must not become a member.
pub const DISKREQ: Procedure<(String,), u64> = Procedure::new(0x11005);
/// Config to config: the sender's name and view number; the result is the receiver's view number.
pub const HEARTBEAT: Procedure<(String, u32), i32> = Procedure::new(0x11004);

#[cfg(test)]
mod tests {
    use super::*;
    use yfs_rpc::marshall::{decode, encode};

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().map(|b| (b as char).to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn n(n: u32, node: &str) -> ProposalNumber {
        ProposalNumber { n, node: node.into() }
    }

    // The bodies of PDUs between C++ nodes, after the header.
    #[test]
    fn prepare_bytes_are_those_of_the_lab() {
        let args = ("41000".to_string(), PrepareArg { instance: 2, n: n(1, "41000") });
        assert_eq!(
            encode(&args),
            hex("000000053431303030000000020000000100000005").into_iter().chain(*b"41000").collect::<Vec<_>>()
        );
        let res = PrepareRes { oldinstance: false, accept: true, n_a: n(0, "41000"), v_a: String::new() };
        let bytes = hex("000100000000000000053431303030").into_iter().chain([0; 4]).collect::<Vec<_>>();
        assert_eq!(encode(&res), bytes);
        assert_eq!(decode::<PrepareRes>(&bytes), Ok(res));
    }

    #[test]
    fn accept_and_decide_bytes_are_those_of_the_lab() {
        let accept = ("41000".to_string(), AcceptArg { instance: 2, n: n(1, "41000"), v: "41000 42000 ".into() });
        let bytes = hex("00000005343130303000000002000000010000000534313030300000000c343130303020343230303020");
        assert_eq!(encode(&accept), bytes);
        let decide = ("41000".to_string(), DecideArg { instance: 2, v: "41000 42000 ".into() });
        assert_eq!(
            encode(&decide),
            hex("0000000534313030300000000200 00000c343130303020343230303020".replace(' ', "").as_str())
        );
    }

    #[test]
    fn numbers_are_ordered_by_n_and_then_by_name() {
        assert!(n(2, "1") > n(1, "9"));
        assert!(n(1, "9") > n(1, "1"));
        assert_eq!(PREPAREREQ.number, 0x11001);
        assert_eq!(HEARTBEAT.number, 0x11004);
    }
}
