//! At most once, and the bounds of the reply windows.

use std::collections::BTreeSet;

use yfs_rpc::events::Event;
use yfs_rpc::pdu::{ClientNonce, ServerNonce, Xid};
use yfs_rpc::reply_window::{Limits, Sizes};

use super::Violation;

/// What the servers of a node have handled since it started.
pub(super) type Handled = BTreeSet<(ServerNonce, ClientNonce, Xid)>;

pub(super) fn take(handled: &mut Handled, event: &Event) -> Result<(), Violation> {
    match event {
        Event::Admitted { server, client, xid } => {
            if !handled.insert((*server, *client, *xid)) {
                return Err(("handled-twice", format!("request {xid:?} of {client:?}")));
            }
        }
        Event::Windows(sizes) => {
            if let Some(what) = exceeded(sizes) {
                return Err(("window-bounds", format!("{what}: {sizes:?}")));
            }
        }
    }
    Ok(())
}

/// What holds more than it may.
fn exceeded(sizes: &Sizes) -> Option<&'static str> {
    let Sizes { replies, reply_bytes, in_progress, gaps, connections, sharing, clients, held, limits } = sizes;
    let Limits {
        reply_bytes_per_client,
        held_bytes,
        in_progress_per_client,
        gaps_per_client,
        clients: most_clients,
        clients_per_connection,
        connections_per_client,
    } = limits;
    let bounds = [
        // The last reply is kept, whatever its size.
        ("replies of a client", *reply_bytes, if *replies > 1 { *reply_bytes_per_client } else { usize::MAX }),
        ("requests in progress of a client", *in_progress, *in_progress_per_client),
        ("gaps of a client", *gaps, *gaps_per_client),
        ("connections of a client", *connections, *connections_per_client),
        ("clients of a connection", *sharing, *clients_per_connection),
        ("clients", *clients, *most_clients),
        ("all replies and gaps", *held, *held_bytes),
    ];
    bounds.into_iter().find(|(_, size, bound)| size > bound).map(|(what, _, _)| what)
}
