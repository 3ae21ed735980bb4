//! What passes, in the log: a line at TRACE under the target [`TARGET`] for each request and reply that leaves or comes in.
//!
//! `client`, `xid` and whether it is a request tell a message from all others; one that is sent again, and a second bind,
//! are the same message. `procedure` is the request's (0: nobody knows any more), `args` the beginning of its arguments,
//! `value` the reply's status, `peer` the address at the other end. A line is written before its message leaves: where it
//! comes in it is later. Nothing is looked at, and nothing allocated, while nobody listens at this level.

use std::fmt;

use tracing::Level;

use crate::connection::Connection;
use crate::pdu::{ClientNonce, ReplyHeader, RequestHeader};

/// The lines' target.
pub const TARGET: &str = "yfs_rpc::message";

/// So much of the arguments is logged: enough to tell what is asked for.
const ARGS_BYTES: usize = 512;

/// The other end, asked for only if the line is written.
struct Peer<'a>(&'a Connection);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.peer_addr() {
            Ok(addr) => addr.fmt(f),
            Err(_) => f.write_str("gone"),
        }
    }
}

fn beginning(args: &[u8]) -> &[u8] {
    args.get(..ARGS_BYTES).unwrap_or(args)
}

fn are_wanted() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// A request is about to leave.
pub(crate) fn request_sent(connection: &Connection, pdu: &[u8]) {
    if let Some((header, args)) = are_wanted().then(|| RequestHeader::parse(pdu)).flatten() {
        let RequestHeader { xid, procedure, client_nonce, .. } = header;
        let (client, xid, args) = (client_nonce.0, xid.0, beginning(args));
        tracing::trace!(target: TARGET, client, xid, procedure, args, peer = %Peer(connection), "request sent");
    }
}

/// A request has come.
pub(crate) fn request_received(connection: &Connection, header: &RequestHeader, args: &[u8]) {
    let RequestHeader { xid, procedure, client_nonce, .. } = *header;
    let (client, xid, args) = (client_nonce.0, xid.0, beginning(args));
    tracing::trace!(target: TARGET, client, xid, procedure, args, peer = %Peer(connection), "request received");
}

/// The reply to a request is about to leave.
pub(crate) fn reply_sent(connection: &Connection, client: ClientNonce, procedure: u32, pdu: &[u8]) {
    if let Some((ReplyHeader { xid, value }, _)) = are_wanted().then(|| ReplyHeader::parse(pdu)).flatten() {
        let (client, xid) = (client.0, xid.0);
        tracing::trace!(target: TARGET, client, xid, procedure, value, peer = %Peer(connection), "reply sent");
    }
}

/// A reply has come; `procedure` finds what was asked.
pub(crate) fn reply_received(
    connection: &Connection,
    client: ClientNonce,
    header: &ReplyHeader,
    procedure: impl FnOnce() -> u32,
) {
    if are_wanted() {
        let (client, xid, value, procedure) = (client.0, header.xid.0, header.value, procedure());
        tracing::trace!(target: TARGET, client, xid, procedure, value, peer = %Peer(connection), "reply received");
    }
}
