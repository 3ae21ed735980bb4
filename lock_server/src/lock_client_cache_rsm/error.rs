//! What can go wrong for a user of the lock client, and what may have happened nevertheless.

use std::net::SocketAddr;

use yfs_rsm::RsmClientError;

use crate::lock_protocol::Status;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The port for revoke and retry can't be had.
    #[error("can't listen for the lock service's messages at {at}: {error}")]
    Listen {
        /// The address tried.
        at: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The operating system refused something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It isn't known how servers reach this client.
    #[error("listening at all addresses: say by `advertise` at which one servers reach this client")]
    NoAddress,
    /// The address to be advertised is none.
    #[error("'{0}' is no numeric host:port")]
    BadAddress(String),
    /// No seed answered.
    #[error("no lock service: {0}")]
    Service(#[from] RsmClientError),
}

/// Why a thread didn't get a lock. It doesn't have it in any of these cases, and need not do anything about it: what the
/// service may have done, the client undoes by itself as soon as it can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The deadline passed. The client leaves the queue, and gives the lock back should the service have granted it.
    #[error("the lock wasn't to be had in time")]
    TimedOut,
    /// The service didn't answer. It may think that this client has the lock, or waits for it, until it answers again
    /// and the client has given it back.
    #[error("the lock service didn't answer: {0}")]
    Unanswered(RsmClientError),
    /// The service refused; nothing has happened. It is full (IOERR); or (RPCERR) it knows xids of an earlier client by
    /// this name to which this one can't rise: near the end of the numbers, or a lab server's, which doesn't say how high
    /// they are. A client that has used up its own xids is refused without asking. One with another port gets the lock.
    #[error("the lock service refused: {0:?}")]
    Refused(Status),
    /// The service answered with a status that no lock service has. As for `Unanswered`, anything may have happened.
    #[error("the lock service gave the unknown answer {0}")]
    Strange(i32),
}

impl AcquireError {
    /// Whether the service may, for now, keep the lock from others on this client's behalf.
    pub fn may_block_others(&self) -> bool {
        match self {
            AcquireError::TimedOut | AcquireError::Strange(_) => true,
            AcquireError::Unanswered(error) => super::may_be_executed(error),
            AcquireError::Refused(_) => false,
        }
    }
}

/// Why a lock's count isn't known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatError {
    /// The service didn't answer.
    #[error("the lock service didn't answer: {0}")]
    Unanswered(#[from] RsmClientError),
    /// The service answered with this status.
    #[error("the lock service refused: status {0}")]
    Refused(i32),
}
