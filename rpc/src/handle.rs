//! A node's clients of its peers, by name (lab: `handle.h`, class `handle` and its manager).
//!
//! One client a peer, made when first asked for and replaced when its server proves to be another one. Deviation from
//! the lab: the manager belongs to a node, not to the process, and nobody waits for a bind: calls bind by themselves.
//!
//! Locks: `rpc.handle` guards the table; clients are made with the lock released, because a name may have to be resolved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rt::sync::{Mutex, Rank};

use crate::names;
use crate::options::Options;
use crate::pollmgr::PollMgr;
use crate::rpcc::Client;

const STATE_RANK: Rank = Rank::new(90, "rpc.handle");

struct State {
    clients: BTreeMap<String, Arc<Client>>,
    /// The node is cut off: clients don't send (lab: `net_repair`).
    cut_off: bool,
}

struct Inner {
    pollmgr: PollMgr,
    options: Options,
    state: Mutex<State>,
}

/// The clients of one node. Cloning it gives another handle to the same ones.
#[derive(Clone)]
#[doc(alias = "handle")]
#[doc(alias = "handle_mgr")]
pub struct Handles(Arc<Inner>);

impl Handles {
    /// No clients yet.
    pub fn new(pollmgr: &PollMgr, options: Options) -> Self {
        let state = State { clients: BTreeMap::new(), cut_off: false };
        Handles(Arc::new(Inner { pollmgr: pollmgr.clone(), options, state: Mutex::new(STATE_RANK, state) }))
    }

    /// The client of a node (lab: `handle::safebind`). May ask the name service, unless the name's host is a number.
    ///
    /// # Errors
    /// When the name is malformed or can't be resolved.
    #[doc(alias = "safebind")]
    pub fn client(&self, name: &str) -> std::io::Result<Arc<Client>> {
        match self.current(name) {
            Some(client) => Ok(client),
            None => Ok(self.make(name, names::resolve(name)?)),
        }
    }

    /// As [`Handles::client`], where nobody may wait for the name service: `None` if it would have to be asked.
    pub fn client_at_hand(&self, name: &str) -> Option<Arc<Client>> {
        self.current(name).or_else(|| Some(self.make(name, names::number(name)?)))
    }

    fn make(&self, name: &str, address: SocketAddr) -> Arc<Client> {
        let made = Arc::new(Client::new_on(&self.0.pollmgr, address, self.0.options.clone()));
        let (client, _replaced) = {
            let mut state = self.0.state.lock();
            match state.clients.get(name).filter(|client| !client.is_outdated()) {
                // Somebody else was faster.
                Some(client) => (client.clone(), Some(made)),
                None => {
                    made.set_reachable(!state.cut_off);
                    (made.clone(), state.clients.insert(name.to_owned(), made))
                }
            }
        };
        client
    }

    fn current(&self, name: &str) -> Option<Arc<Client>> {
        self.0.state.lock().clients.get(name).filter(|client| !client.is_outdated()).cloned()
    }

    /// Whether a node is known to be one of ours, or of the lab: see [`Client::is_ours`]. Makes no client, and never blocks.
    pub fn is_ours(&self, name: &str) -> Option<bool> {
        self.current(name)?.is_ours()
    }

    /// Drops a node's client; its outstanding calls end when the last user drops it.
    pub fn forget(&self, name: &str) {
        let _forgotten = self.0.state.lock().clients.remove(name);
    }

    /// While true no client sends, those that are made later included.
    pub fn set_cut_off(&self, cut_off: bool) {
        let mut state = self.0.state.lock();
        state.cut_off = cut_off;
        for client in state.clients.values() {
            client.set_reachable(!cut_off);
        }
    }

    /// Drops all clients, at the end of a node.
    pub fn clear(&self) {
        let _forgotten = std::mem::take(&mut self.0.state.lock().clients);
    }
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handles")
    }
}
