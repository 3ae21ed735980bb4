//! What a replica reports to a simulator ([`rt::probe`]), in the order of `rsm.state`; what is on its disk, by itself.

use crate::protocol::Viewstamp;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A replica was made; it has no state yet.
    Started {
        /// The last view of its log, 0 without one.
        vid: u32,
        /// That view's members.
        members: Vec<String>,
    },
    /// A replica has taken over the state from its disk, at its start.
    Recovered {
        /// The last request executed in it.
        last: Viewstamp,
        /// Its [`digest`].
        state: u64,
        /// Whether it counts: the node was in sync with it once, and has been a member since.
        holds: bool,
    },
    /// The first node begins a service in view 1.
    FirstView,
    /// A view was committed.
    ViewCommitted {
        /// Its number.
        vid: u32,
        /// Its members, the primary first.
        members: Vec<String>,
    },
    /// A backup has installed the primary's state.
    Installed {
        /// In which view.
        vid: u32,
        /// The last request executed in it.
        last: Viewstamp,
        /// Its [`digest`].
        state: u64,
    },
    /// A backup is in sync, and takes the view's requests from now on.
    InSync {
        /// In which view.
        vid: u32,
        /// The last request executed in its state.
        last: Viewstamp,
        /// The state's [`digest`].
        state: u64,
    },
    /// All members are in sync: the primary begins to serve.
    Serving {
        /// In which view.
        vid: u32,
    },
    /// A replica counts as one that holds the state.
    Holds,
    /// The primary serves in this view, and answers BUSY to a member that says it is in sync.
    DoneRefused {
        /// The view.
        vid: u32,
    },
    /// The primary has given a request its stamp.
    Stamped {
        /// The stamp.
        vs: Viewstamp,
        /// The request's [`request_digest`].
        request: u64,
    },
    /// A request was executed.
    Executed {
        /// Its stamp.
        vs: Viewstamp,
        /// Its [`request_digest`].
        request: u64,
        /// The [`request_digest`] of what the state machine ran: nothing, if the request opened a session, or was
        /// executed before.
        ran: Option<u64>,
        /// By the primary, after all others.
        as_primary: bool,
        /// The [`digest`] of the state after it.
        state: u64,
    },
    /// Everything up to a request is on this node's disk.
    OnDisk {
        /// The last request.
        last: Viewstamp,
    },
    /// The primary answers its client OK.
    Answered {
        /// The stamp of what is answered.
        vs: Viewstamp,
    },
}

/// A number for some bytes, the same in each build and run (FNV-1a).
pub fn digest(bytes: &[u8]) -> u64 {
    add(0xcbf2_9ce4_8422_2325, bytes)
}

/// A number for a request.
pub fn request_digest(procedure: u32, args: &[u8]) -> u64 {
    add(digest(&procedure.to_be_bytes()), args)
}

fn add(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
