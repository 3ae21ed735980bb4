//! Why a call failed: the lab's seven codes.

/// A failure of the transport, as the lab's `rpc_const` has them. Protocol answers (BUSY, NOTPRIMARY, ...) are no
/// failures: they arrive as the call's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No answer within the call's total time.
    #[error("no answer in time")]
    Timeout,
    /// The server couldn't read the arguments, or doesn't know the procedure.
    #[error("the server doesn't know the procedure or couldn't read its arguments")]
    UnmarshalArgs,
    /// The answer isn't the procedure's result to the last byte.
    #[error("the answer is not this procedure's result")]
    UnmarshalReply,
    /// The server forgot the request's answer: it was executed, or it is too old to tell.
    #[error("the server no longer knows whether it executed the request")]
    AtMostOnce,
    /// The server that the client was bound to is gone, perhaps after it executed the request; another one answers at
    /// its address.
    #[error("the server was restarted since the client bound to it")]
    OldServer,
    /// The request was never sent: the server could not be reached in time, or too many calls were outstanding.
    #[error("the server could not be reached")]
    Bind,
    /// The call was cancelled on the caller's side, or abandoned by the server.
    #[error("the call was cancelled")]
    Cancel,
}

impl CallError {
    /// The lab's number for it, always negative.
    pub const fn code(self) -> i32 {
        match self {
            CallError::Timeout => -1,
            CallError::UnmarshalArgs => -2,
            CallError::UnmarshalReply => -3,
            CallError::AtMostOnce => -4,
            CallError::OldServer => -5,
            CallError::Bind => -6,
            CallError::Cancel => -7,
        }
    }

    /// The error with this number. Unknown negative numbers are taken for a server that gave up: [`CallError::Cancel`].
    pub const fn from_code(code: i32) -> Self {
        match code {
            -1 => CallError::Timeout,
            -2 => CallError::UnmarshalArgs,
            -3 => CallError::UnmarshalReply,
            -4 => CallError::AtMostOnce,
            -5 => CallError::OldServer,
            -6 => CallError::Bind,
            _ => CallError::Cancel,
        }
    }

    /// Whether the server may have executed the request. Where it says false, sending it again is safe.
    pub const fn may_have_executed(self) -> bool {
        match self {
            CallError::Bind | CallError::UnmarshalArgs => false,
            CallError::Timeout
            | CallError::UnmarshalReply
            | CallError::AtMostOnce
            | CallError::OldServer
            | CallError::Cancel => true,
        }
    }
}
