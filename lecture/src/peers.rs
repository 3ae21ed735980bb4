//! What a node of the lecture has of the network: its own port, the others by their names, and the partition that the
//! story puts between them.
//!
//! A partition is one-sided here: a node that is cut off from others calls none of them, and still answers those that call
//! it. All nodes of `make lecture` run on one machine, where no cable can be pulled.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use yfs_rpc::marshall::{Marshal, Unmarshal};
use yfs_rpc::{CallError, Handles, Options, PollMgr, Procedure, Server};

use crate::protocol::CUT;

/// Between what a node does and `rpc.handle`.
const CUT_RANK: Rank = Rank::new(85, "lecture.cut");
/// A call to a port at which nobody listens fails after this time.
const REFUSED_PATIENCE: Duration = Duration::from_millis(50);

/// Why a node can't start: one line, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Takes the port that a node's name says. It doesn't answer before [`Server::start`].
///
/// # Errors
/// When the port can't be had.
pub fn listen(pollmgr: &PollMgr, name: &str) -> Result<Server, StartError> {
    let address =
        yfs_rpc::names::resolve(name).map_err(|e| StartError(format!("{name}: {e}: check the host's name")))?;
    Server::bind_on(pollmgr, address, Options::default()).map_err(|e| cannot_listen(name, &e))
}

/// Says why a port can't be listened on, and what to do.
pub fn cannot_listen(name: &str, error: &io::Error) -> StartError {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => ": stop the program that uses the port, or choose another",
        ErrorKind::PermissionDenied => ": choose a port from 1024 on",
        ErrorKind::AddrNotAvailable => ": it must be an address of this machine",
        _ => "",
    };
    StartError(format!("cannot listen on {name}: {error}{advice}"))
}

struct Inner {
    name: String,
    handles: Handles,
    /// Those that nothing is sent to.
    cut: Mutex<BTreeSet<String>>,
}

/// The others, as one node reaches them. Clones are the same.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// The others of the node `name`; all of them are reached.
    pub fn new(pollmgr: &PollMgr, name: &str) -> Peers {
        let options = Options { refused_patience: Some(REFUSED_PATIENCE), ..Options::default() };
        let handles = Handles::new(pollmgr, options);
        Peers(Arc::new(Inner { name: name.to_owned(), handles, cut: Mutex::new(CUT_RANK, BTreeSet::new()) }))
    }

    /// The node that these are the others of.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Calls a procedure of another node, and waits for its status and result.
    ///
    /// # Errors
    /// [`CallError`]; into a partition it is the one of a network that answers nothing.
    pub fn call<A: Marshal, R: Unmarshal>(
        &self,
        peer: &str,
        procedure: Procedure<A, R>,
        args: A,
        within: Duration,
    ) -> Result<(i32, R), CallError> {
        let client = self.0.handles.client(peer).map_err(|_| CallError::Bind)?;
        client.set_reachable(!self.0.cut.lock().contains(peer));
        client.call(procedure, args, within)
    }

    /// From now on nothing is sent to these, and to all others again.
    pub fn cut(&self, peers: impl IntoIterator<Item = String>) {
        let peers: BTreeSet<String> = peers.into_iter().collect();
        let list = peers.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let what = if peers.is_empty() { "healed" } else { "cut off" };
        tracing::info!(node = self.name(), kind = "fault", from = list, "{what}");
        *self.0.cut.lock() = peers;
    }

    /// Lets whoever reaches the port cut this node off, for tests and the story. Loopback only.
    ///
    /// # Errors
    /// When the port can be reached from other machines.
    pub fn serve_cut(&self, server: &Server) -> Result<(), StartError> {
        if !server.local_addr().ip().is_loopback() {
            return Err(StartError(format!("{}: --test is for nodes on 127.0.0.1 only", self.name())));
        }
        let peers = self.clone();
        server.reg(CUT, move |others: Vec<String>| {
            peers.cut(others);
            (yfs_rpc::Status::OK, 0)
        });
        Ok(())
    }
}
