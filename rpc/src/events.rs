//! What a server reports to a simulator ([`rt::probe`]), in the order of `rpcs.state`.

use crate::pdu::{ClientNonce, ServerNonce, Xid};
use crate::reply_window::Sizes;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request is new, and goes to its handler. Not told of clients that want no at-most-once.
    Admitted {
        /// The server's nonce, another one after each restart.
        server: ServerNonce,
        /// Whose request.
        client: ClientNonce,
        /// Its number.
        xid: Xid,
        /// The client has the replies up to this number.
        xid_rep: Xid,
    },
    /// The reply windows may have changed.
    Windows {
        /// The server's nonce.
        server: ServerNonce,
        /// The client whose window it is.
        client: ClientNonce,
        /// How much is remembered.
        sizes: Sizes,
    },
}
