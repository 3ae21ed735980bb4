//! What an acceptor reports to a simulator ([`rt::probe`]): what its disk holds, once it does, in the order of
//! `paxos.state`.

use crate::{Instance, ProposalNumber, Value};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A log was read at a start.
    Restored {
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
}
