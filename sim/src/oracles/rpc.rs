//! At most once, and the bounds of the reply windows.

use std::collections::{BTreeMap, BTreeSet};

use yfs_rpc::events::Event;
use yfs_rpc::pdu::{ClientNonce, ServerNonce, Xid};
use yfs_rpc::reply_window::{Limits, Sizes};

use super::Violation;

/// What the servers of a node have handled since it started.
#[derive(Debug, Default)]
pub(super) struct Handled {
    requests: BTreeSet<(ServerNonce, ClientNonce, Xid)>,
    /// Up to where each client has its replies, as it said with a new request. (No run is so long that numbers wrap.)
    acknowledged: BTreeMap<(ServerNonce, ClientNonce), Xid>,
}

pub(super) fn take(handled: &mut Handled, event: &Event) -> Result<(), Violation> {
    match event {
        Event::Admitted { server, client, xid, xid_rep } => {
            if !handled.requests.insert((*server, *client, *xid)) {
                return Err(("handled-twice", format!("request {xid:?} of {client:?}")));
            }
            if xid_rep < xid {
                let last = handled.acknowledged.entry((*server, *client)).or_insert(*xid_rep);
                *last = (*last).max(*xid_rep);
            }
        }
        Event::Windows { server, client, sizes } => {
            if let Some(what) = exceeded(sizes) {
                return Err(("window-bounds", format!("{what}: {sizes:?}")));
            }
            let wanted = handled.unacknowledged(*server, *client);
            if sizes.replies > wanted {
                return Err(("window-bounds", format!("{client:?} waits for {wanted} replies: {sizes:?}")));
            }
        }
    }
    Ok(())
}

impl Handled {
    /// How many requests of a client were handled whose replies it hasn't said that it has.
    fn unacknowledged(&self, server: ServerNonce, client: ClientNonce) -> usize {
        let after = self.acknowledged.get(&(server, client)).map_or(i32::MIN, |last| last.0 + 1);
        self.requests.range((server, client, Xid(after))..=(server, client, Xid(i32::MAX))).count()
    }
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
