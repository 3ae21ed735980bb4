//! What Paxos reports to a simulator ([`rt::probe`]): what an acceptor's disk holds, once it does, in the order of
//! `paxos.state`; and a proposer's rounds.

use crate::{Instance, ProposalNumber, ServiceId, Value};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A log was read: its own at a start, or what another node's has beyond it.
    Restored {
        /// The number of its service, if it is known.
        service: Option<ServiceId>,
        /// All instances that are known, and their values.
        values: Vec<(Instance, Value)>,
        /// The highest number promised in the instance after them.
        promised: Option<ProposalNumber>,
        /// The value accepted last in that instance.
        accepted: Option<(ProposalNumber, Value)>,
    },
    /// A promise is on the disk.
    Promised {
        /// In which instance.
        instance: Instance,
        /// The number promised.
        n: ProposalNumber,
    },
    /// A vote is on the disk.
    Accepted {
        /// In which instance.
        instance: Instance,
        /// The proposal's number; it is promised, too.
        n: ProposalNumber,
        /// Its value.
        value: Value,
    },
    /// A decided value is on the disk.
    Committed {
        /// Which instance's.
        instance: Instance,
        /// The value.
        value: Value,
    },
    /// Something about the disk or this life is on the disk, and no vote.
    DiskNoted,
    /// It is on the disk that a node is about to be added, with nothing inherited.
    Adding {
        /// In which instance.
        instance: Instance,
        /// Which node.
        member: String,
    },
    /// A proposer begins a round.
    RoundBegun {
        /// For which instance.
        instance: Instance,
        /// With which number.
        n: u32,
    },
    /// Its round has ended: somebody has promised a higher number.
    RoundRejected {
        /// For which instance it was.
        instance: Instance,
    },
}
