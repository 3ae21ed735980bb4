//! The lock server: the lock table on the replicated state machine, and the threads that talk to lock clients (lab 7).
//!
//! Every node executes acquire, release and stat on its own [`LockTable`]; only the primary tells clients, and only what
//! the table says is due. The state machine never waits for a client, and holds nothing of the RSM: its effects go to the
//! [`Board`], from which revoker and retryer send.
//!
//! # Invariants
//! 1. Before each message its sender asks `amiprimary()`. A node that was deposed meanwhile may still send one: clients
//!    take revoke and retry for hints only.
//! 2. No thread waits for a client: messages are called asynchronously, with [`MESSAGE_TIME`] in all and bounded in
//!    number (see the board).
//! 3. A client's name is text from outside: only a numeric `host:port` is ever connected to; nothing is resolved.
//!
//! # Threads and locks
//! | thread | what |
//! |---|---|
//! | `revoker`, `retryer` | send what the board says is due, each its kind |
//!
//! | lock | rank | guards | notified |
//! |---|---|---|---|
//! | `Shared::state` | 60 | the board | `changed`: the board changed, or the threads are to stop |
//! | `RpcCourier::known` | 61 | the names of the clients that there are connections to | |
//!
//! # Deviations from the lab
//! The lab's threads each wait for one client at a time, and forget what they could not deliver. Here the board keeps
//! what is due; a new primary derives it from the state (`due`), so that a hand-off isn't lost with the primary.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{JoinHandle, Node};
use rt::time::Instant;
use yfs_rpc::Handles;
use yfs_rpc::marshall::UnmarshalError;
use yfs_rsm::{Options, Rsm, RsmError, StateMachine};

use crate::hint_board::{Board, Kind, Message, Next, TURN};
use crate::lock_protocol::{ACQUIRE, ClientId, LockId, RELEASE, RETRY, REVOKE, STAT, Status, Xid, refusal_to_wire};
use crate::lock_table::{Effect, LockTable, StateError};

/// How long a message may take: as long as a client that was told to ask has its turn.
pub const MESSAGE_TIME: Duration = TURN;
/// Connections to clients that are kept, or a quarter of the file limit if that is less; at one more all are given up.
/// The server itself takes less than the other three, so that members can be connected to.
const CONNECTIONS: u64 = 16_384;
/// How often a node with hints to send looks whether it is the primary again.
const PRIMARY_POLL: Duration = Duration::from_millis(20);
/// When a node that isn't the primary forgets its hints. A new primary gets them from the state.
const DEPOSED: Duration = Duration::from_secs(10);
/// How long a shutdown waits for revoker and retryer.
const JOIN_TIME: Duration = Duration::from_secs(5);

const KNOWN_RANK: Rank = Rank::new(61, "lock_server.known");
const BOARD_RANK: Rank = Rank::new(60, "lock_server.board");

impl StateMachine for LockTable {
    type Effect = Effect;

    fn marshal_state(&self) -> Vec<u8> {
        self.marshal()
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.unmarshal(state).map_err(|e| {
            tracing::error!(error = %e, "the lock table's state is refused");
            match e {
                StateError::Unreadable(e) => e,
                StateError::Foreign | StateError::Version(_) | StateError::Damaged(_) => UnmarshalError::NotText,
            }
        })
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        LockTable::take_effects(self)
    }

    fn due(&self) -> Vec<Effect> {
        LockTable::due(self)
    }
}

/// A node of the lock service.
#[doc(alias = "lock_server_cache_rsm")]
pub struct LockServer {
    rsm: Rsm<LockTable>,
    hinter: Hinter,
}

impl LockServer {
    /// Starts a node; the options say where, and in which service.
    ///
    /// # Errors
    /// When the node's port or files can't be had.
    pub fn start(options: Options) -> Result<LockServer, RsmError> {
        let handles = Handles::new(&options.pollmgr, options.rpc.clone());
        let rsm = Rsm::new(options, LockTable::new())?;
        rsm.reg(ACQUIRE, |table: &mut LockTable, (lock, client, xid): (LockId, ClientId, Xid)| {
            let (status, known) = table.acquire(lock, &client, xid);
            tracing::debug!(%lock, %client, %xid, ?status, "acquire");
            (number(status), known.map_or(0, refusal_to_wire))
        });
        rsm.reg(RELEASE, |table: &mut LockTable, (lock, client, xid): (LockId, ClientId, Xid)| {
            let status = table.release(lock, &client, xid);
            tracing::debug!(%lock, %client, %xid, ?status, "release");
            (number(status), 0)
        });
        rsm.reg(STAT, |table: &mut LockTable, (lock,): (LockId,)| {
            (number(Status::Ok), i32::try_from(table.stat(lock)).unwrap_or(i32::MAX))
        });
        let courier = RpcCourier::new(rsm.clone(), handles);
        let hinter = Hinter::start(&Node::new(rsm.me()), Arc::new(courier)).map_err(RsmError::Thread)?;
        let board = hinter.shared.clone();
        rsm.on_effects(move |effects| board.apply(effects));
        rsm.start()?;
        Ok(LockServer { rsm, hinter })
    }

    /// The state machine under it.
    pub fn rsm(&self) -> &Rsm<LockTable> {
        &self.rsm
    }

    /// Stops the node. Also done by dropping it.
    pub fn shutdown(&self) {
        self.rsm.shutdown();
        self.hinter.stop();
    }
}

impl Drop for LockServer {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn number(status: Status) -> i32 {
    yfs_rpc::Status::from(status).number()
}

/// What revoker and retryer need from outside.
pub(crate) trait Courier: Send + Sync + 'static {
    /// Whether this node is the primary now.
    fn amiprimary(&self) -> bool;

    /// Sends a message without waiting; `done` is called, once, with whether it was answered, at once or later.
    fn carry(&self, message: &Message, done: Box<dyn FnOnce(bool) + Send>);
}

/// Messages by RPC.
struct RpcCourier {
    rsm: Rsm<LockTable>,
    handles: Handles,
    /// Whom `handles` has connections to.
    known: Mutex<BTreeSet<ClientId>>,
    most: usize,
}

impl RpcCourier {
    fn new(rsm: Rsm<LockTable>, handles: Handles) -> Self {
        let most = usize::try_from(CONNECTIONS.min(rt::process::file_limit() / 4)).unwrap_or(usize::MAX);
        RpcCourier { rsm, handles, known: Mutex::new(KNOWN_RANK, BTreeSet::new()), most }
    }

    fn client(&self, id: &ClientId) -> Option<Arc<yfs_rpc::Client>> {
        if !is_address(id.as_str()) {
            return None;
        }
        let full = {
            let mut known = self.known.lock();
            let full = known.len() >= self.most && !known.contains(id);
            if full {
                known.clear();
            }
            known.insert(id.clone());
            full
        };
        if full {
            self.handles.clear();
        }
        self.handles.client(id.as_str()).ok()
    }
}

impl Courier for RpcCourier {
    fn amiprimary(&self) -> bool {
        self.rsm.amiprimary()
    }

    fn carry(&self, message: &Message, done: Box<dyn FnOnce(bool) + Send>) {
        let id = message.to.client.clone();
        let Some(client) = self.client(&id) else {
            tracing::debug!(client = %id, "the client's name is no address: it can't be told anything");
            return done(false);
        };
        let procedure = match message.kind {
            Kind::Revoke => REVOKE,
            Kind::Retry => RETRY,
        };
        let handles = self.handles.clone();
        client.call_async(procedure, (message.lock, message.to.xid), MESSAGE_TIME, move |answer| {
            if answer.is_err() {
                handles.forget(id.as_str());
            }
            done(answer.is_ok());
        });
    }
}

/// Whether a client's name is a numeric address with a port.
fn is_address(name: &str) -> bool {
    name.parse::<SocketAddr>().is_ok_and(|addr| addr.port() != 0)
}

/// Revoker and retryer.
pub(crate) struct Hinter {
    pub(crate) shared: Arc<Shared>,
    threads: [JoinHandle; 2],
}

/// What the two threads, the state machine's effects and the messages' answers share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Notified when something was put on the board, a message was answered, or `stopping` was set.
    changed: Condvar,
}

struct State {
    board: Board,
    /// Since when this node isn't the primary, as far as the threads know, and nothing was put on the board.
    deposed: Option<Instant>,
    stopping: bool,
}

impl Hinter {
    pub(crate) fn start(node: &Node, courier: Arc<dyn Courier>) -> std::io::Result<Hinter> {
        let state = State { board: Board::new(), deposed: None, stopping: false };
        let shared = Arc::new(Shared { state: Mutex::new(BOARD_RANK, state), changed: Condvar::new() });
        let spawn = |name, kind| {
            let (shared, courier) = (shared.clone(), courier.clone());
            node.spawn(name, move || send_hints(&shared, kind, &*courier))
        };
        let threads = [spawn("revoker", Kind::Revoke)?, spawn("retryer", Kind::Retry)?];
        Ok(Hinter { shared, threads })
    }

    pub(crate) fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
        let deadline = rt::time::now() + JOIN_TIME;
        for thread in &self.threads {
            if !thread.join_until(deadline) {
                tracing::warn!(?thread, "revoker or retryer still runs");
            }
        }
    }
}

impl Shared {
    /// Effects of the primary's requests, in their order.
    pub(crate) fn apply(&self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        {
            let mut state = self.state.lock();
            // It is the primary again, whatever a thread was told before.
            state.deposed = None;
            state.board.apply(effects, rt::time::now());
        }
        self.changed.notify_all();
    }
}

/// The life of the revoker and the retryer (lab: `revoker`, `retryer`).
fn send_hints(shared: &Arc<Shared>, kind: Kind, courier: &dyn Courier) {
    while let Some(message) = wait_for_message(shared, kind, courier) {
        // Asked again for each message (invariant 1): the last may have waited long on the board.
        if !courier.amiprimary() {
            shared.answered(&message, false);
            continue;
        }
        tracing::debug!(?kind, lock = %message.lock, client = %message.to.client, xid = %message.to.xid, "hint");
        let (board, told) = (shared.clone(), message.clone());
        courier.carry(&message, Box::new(move |delivered| board.answered(&told, delivered)));
    }
}

/// The next message while this node is the primary; none when the thread is to end.
fn wait_for_message(shared: &Shared, kind: Kind, courier: &dyn Courier) -> Option<Message> {
    loop {
        // Not under the lock: it takes the RSM's.
        let primary = courier.amiprimary();
        let now = rt::time::now();
        let mut state = shared.state.lock();
        if state.stopping {
            return None;
        }
        if primary {
            state.deposed = None;
            match state.board.next(kind, now) {
                Next::Send(message) => return Some(message),
                Next::Wait(Some(until)) => {
                    shared.changed.wait_until(&mut state, until);
                }
                Next::Wait(None) => shared.changed.wait(&mut state),
            }
        } else if state.board.is_empty() {
            state.deposed = None;
            shared.changed.wait(&mut state);
        } else {
            if now - *state.deposed.get_or_insert(now) >= DEPOSED {
                state.board.clear();
            }
            shared.changed.wait_until(&mut state, now + PRIMARY_POLL);
        }
    }
}

impl Shared {
    fn answered(&self, message: &Message, delivered: bool) {
        self.state.lock().board.sent(message, delivered, rt::time::now());
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::lock_table::Claim;

    type Done = Box<dyn FnOnce(bool) + Send>;

    /// Delivers to everybody but those named `dead...`; they never answer.
    struct FakeCourier {
        primary: AtomicBool,
        told: Mutex<Vec<(Kind, String)>>,
        silent: Mutex<Vec<Done>>,
    }

    impl Courier for FakeCourier {
        fn amiprimary(&self) -> bool {
            self.primary.load(Ordering::SeqCst)
        }

        fn carry(&self, message: &Message, done: Done) {
            self.told.lock().push((message.kind, message.to.client.to_string()));
            if message.to.client.as_str().starts_with("dead") {
                self.silent.lock().push(done);
            } else {
                done(true);
            }
        }
    }

    fn fake(primary: bool) -> (Arc<FakeCourier>, Hinter) {
        let courier = Arc::new(FakeCourier {
            primary: AtomicBool::new(primary),
            told: Mutex::new(Rank::new(200, "test.told"), Vec::new()),
            silent: Mutex::new(Rank::new(201, "test.silent"), Vec::new()),
        });
        let hinter = Hinter::start(&Node::new("test"), courier.clone()).unwrap();
        (courier, hinter)
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = rt::time::now() + Duration::from_secs(20);
        while !condition() {
            assert!(rt::time::now() < deadline, "{what}");
            rt::time::sleep(Duration::from_millis(1));
        }
    }

    fn revoke(lock: u64, client: &str) -> Effect {
        Effect::Revoke { lock: LockId(lock), owner: Claim { client: ClientId::new(client), xid: Xid(1) } }
    }

    #[test]
    fn the_living_are_told_while_the_dead_are_silent() {
        let (courier, hinter) = fake(true);
        hinter.shared.apply((0..50).map(|lock| revoke(lock, "dead")).collect());
        hinter.shared.apply(vec![revoke(50, "alive")]);
        let alive = (Kind::Revoke, "alive".to_owned());
        eventually("alive is told", || courier.told.lock().contains(&alive));
        hinter.stop();
    }

    #[test]
    fn only_the_primary_tells() {
        let (courier, hinter) = fake(false);
        hinter.shared.apply(vec![revoke(1, "alive")]);
        rt::time::sleep(Duration::from_millis(60));
        assert!(courier.told.lock().is_empty());
        courier.primary.store(true, Ordering::SeqCst);
        eventually("told once it is the primary", || courier.told.lock().len() == 1);
        hinter.stop();
    }

    #[test]
    fn only_numeric_addresses_are_connected_to() {
        for good in ["127.0.0.1:4000", "[::1]:4000"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "localhost:4000", "127.0.0.1", "127.0.0.1:0", "4000", "evil.example:80", "127.0.0.1:4000:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_foreign_state_is_refused() {
        let mut table = LockTable::new();
        assert!(StateMachine::unmarshal_state(&mut table, &[0; 64]).is_err());
        let state = table.marshal_state();
        assert!(StateMachine::unmarshal_state(&mut table, &state).is_ok());
    }
}
