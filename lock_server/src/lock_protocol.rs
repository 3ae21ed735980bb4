//! What lock clients and lock servers say to each other (lab: `lock_protocol.h`).
//!
//! A client asks with `acquire`, `release` and `stat`, which travel through the replicated state machine; the primary
//! tells clients with `revoke` and `retry`. An acquire carries an xid, and so do the release that ends it and the hints
//! that concern it: it names one acquire of one lock by one client.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use yfs_rpc::Procedure;
use yfs_rpc::marshall::{Marshal, Unmarshal, UnmarshalError, Unmarshaller};

/// Names a lock.
#[doc(alias = "lockid_t")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(pub u64);

/// Numbers a client's acquires of a lock: each is higher than the one before.
#[doc(alias = "xid_t")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u64);

/// Names a client: the `host:port` where it serves `revoke` and `retry`. Any text, as it comes from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// The client of this name.
    pub fn new(name: &str) -> Self {
        ClientId(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for LockId {
    fn from(id: u64) -> Self {
        LockId(id)
    }
}

macro_rules! as_u64 {
    ($($name:ident)*) => {$(
        impl Marshal for $name {
            fn marshal(&self, out: &mut Vec<u8>) {
                self.0.marshal(out);
            }
        }

        impl Unmarshal for $name {
            fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
                Ok($name(input.read()?))
            }
        }
    )*};
}

as_u64! { LockId Xid }

impl Marshal for ClientId {
    fn marshal(&self, out: &mut Vec<u8>) {
        self.as_str().marshal(out);
    }
}

impl Unmarshal for ClientId {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        Ok(ClientId(input.read::<String>()?.into()))
    }
}

yfs_rpc::wire_status! {
    /// What the lock service answers.
    #[doc(alias = "lock_protocol::status")]
    pub enum Status {
        /// acquire: the client has the lock. release: it doesn't have it any more.
        #[doc(alias = "OK")]
        Ok = 0,
        /// acquire: another client has the lock; a `retry` will follow when it's worth to ask again.
        #[doc(alias = "RETRY")]
        Retry = 1,
        /// The request is older than another that the service has seen, or malformed.
        #[doc(alias = "RPCERR")]
        RpcErr = 2,
        /// release: the client never asked for that lock.
        #[doc(alias = "NOENT")]
        NoEnt = 3,
        /// The service is full.
        #[doc(alias = "IOERR")]
        IoErr = 4,
    }
}

yfs_rpc::wire_status! {
    /// What a lock client answers to a hint.
    #[doc(alias = "rlock_protocol::status")]
    pub enum HintStatus {
        /// Heard.
        #[doc(alias = "OK")]
        Ok = 0,
        /// Not understood.
        #[doc(alias = "RPCERR")]
        RpcErr = 1,
    }
}

/// How many of an xid's lower bits an acquire's result leaves out.
const XID_BLOCK_BITS: u32 = 33;

/// What an acquire results in that is refused for its xid: roughly the last xid that the service knows of the client for
/// this lock, which a client with the name of an earlier one can't know. Without its lower 33 bits, and one more, so that
/// it is never 0, which is what lab servers answer; lab clients don't look at it.
pub fn refusal_to_wire(known: Xid) -> i32 {
    let block = i32::try_from(known.0 >> XID_BLOCK_BITS).unwrap_or(i32::MAX);
    block.wrapping_add(1)
}

/// What the result of a refused acquire tells: the xid that the service knows is at most this. None: it tells nothing.
pub fn refusal_from_wire(result: i32) -> Option<Xid> {
    let block = u64::from(result.cast_unsigned().checked_sub(1)?);
    let rest = (1 << XID_BLOCK_BITS) - 1;
    (block <= u64::MAX >> XID_BLOCK_BITS).then_some(Xid(block << XID_BLOCK_BITS | rest))
}

/// Asks for a lock. The result is 0, but for RPCERR, where it is [`refusal_to_wire`]'s.
pub const ACQUIRE: Procedure<(LockId, ClientId, Xid), i32> = Procedure::new(0x7001);
/// Gives a lock back, or leaves the queue for it. The result is 0.
pub const RELEASE: Procedure<(LockId, ClientId, Xid), i32> = Procedure::new(0x7002);
/// How often a lock was granted.
pub const STAT: Procedure<(LockId,), i32> = Procedure::new(0x7003);
/// To the owner of a lock: somebody else wants it.
pub const REVOKE: Procedure<(LockId, Xid), i32> = Procedure::new(0x8001);
/// To a client that waits for a lock: ask again.
pub const RETRY: Procedure<(LockId, Xid), i32> = Procedure::new(0x8002);

#[cfg(test)]
mod tests {
    use super::*;
    use yfs_rpc::marshall::{decode, encode};

    #[test]
    fn the_bytes_are_the_labs() {
        let args = (LockId(0x0102), ClientId::new("127.0.0.1:4000"), Xid(7));
        let bytes = encode(&args);
        let expected = b"\0\0\0\0\0\0\x01\x02\0\0\0\x0e127.0.0.1:4000\0\0\0\0\0\0\0\x07";
        assert_eq!(bytes, expected);
        assert_eq!(decode::<(LockId, ClientId, Xid)>(&bytes), Ok(args));
    }

    #[test]
    fn a_refusal_tells_roughly_what_is_known() {
        let known = [0, 1, (1 << 33) - 1, 1 << 33, 1 << 40, 1 << 57, i64::MAX as u64, u64::MAX - (1 << 33), u64::MAX];
        for known in known {
            let result = refusal_to_wire(Xid(known));
            assert_ne!(result, 0);
            let most = refusal_from_wire(result).unwrap().0;
            assert!(most >= known && most - known < 1 << 33, "{known}: {most}");
        }
        assert_eq!([refusal_to_wire(Xid(0)), refusal_to_wire(Xid(u64::MAX))], [1, i32::MIN]);
        assert_eq!([0, -1, i32::MIN + 1].map(refusal_from_wire), [None; 3], "a lab server's, and nobody's");
    }

    #[test]
    fn the_numbers_are_the_labs() {
        assert_eq!(
            [ACQUIRE.number, RELEASE.number, STAT.number, REVOKE.number, RETRY.number],
            [0x7001, 0x7002, 0x7003, 0x8001, 0x8002]
        );
        let statuses = [Status::Ok, Status::Retry, Status::RpcErr, Status::NoEnt, Status::IoErr];
        for (number, status) in (0..).zip(statuses) {
            assert_eq!(Status::from_wire(number), Some(status));
            assert_eq!(yfs_rpc::Status::from(status).number(), number);
        }
        assert_eq!(Status::from_wire(5), None);
        assert_eq!(HintStatus::from_wire(1), Some(HintStatus::RpcErr));
    }
}
