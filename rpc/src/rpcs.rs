//! The server side (lab: class `rpcs`).
//!
//! A request is read on the poll thread, checked against the reply window, and run there (`reg_inline`) or by workers
//! (`reg`, `reg_on`). It is answered when its handler returns, or later through a [`ReplyToken`] (`reg_async`).
//!
//! Invariants:
//! 1. At most once: of the requests with one client nonce and xid, at most one reaches a handler (reply_window.rs).
//! 2. Every request that reached a handler is answered once, also when the handler drops its token.
//! 3. Nothing that a peer sends stops the server: what can't be read is answered with an error, or its connection closed.
//! 4. Requests that wait are bounded: when a pool is full, the connections that feed it are not read.
//!
//! Threads: workers of three kinds, so that clients can't keep nodes from each other, nor joiners Paxos ([`Workers`]).
//! Locks: `rpcs.state` guards windows, connections, procedures and counts. Handlers run with no lock held; only the poll
//! thread's turn lock of the connection is held around an inline handler.
//!
//! Deviations from the lab: the handler's type makes it return a whole result; unknown procedures are answered; a
//! request of an unknown client nonce is refused instead of taken for new.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::net::{TcpPort, TcpStream};
use rt::probe::observe;
use rt::sync::{Mutex, Rank};
use rt::thread::Node;
use rt::time::now;

use crate::CallError;
use crate::connection::{Budget, Connection, Owner};
use crate::events::Event;
use crate::listener::Listener;
use crate::marshall::{Marshal, Unmarshal, decode, encode};
use crate::messages;
use crate::options::{BIND, HELLO, Options};
use crate::pdu::{self, ClientNonce, ReplyHeader, RequestHeader, ServerNonce, Xid};
use crate::pollmgr::PollMgr;
use crate::procedure::{Handler, Procedure, Status};
use crate::reply_window::{ReplyWindows, Verdict};
use crate::thr_pool::ThrPool;

/// How long `bind` waits for a port that is still in use.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_INTERVAL: Duration = Duration::from_millis(50);
/// How often slow peers are looked for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long `shutdown` waits for handlers to return.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Threads for each kind of handler; the lab has ten for all.
const CLIENT_THREADS: usize = 10;
const PEER_THREADS: usize = 8;
const JOIN_THREADS: usize = 2;

const STATE_RANK: Rank = Rank::new(110, "rpcs.state");

/// Who runs a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Requests of clients: may wait for other nodes.
    Clients,
    /// Requests of other nodes: may wait for the disk.
    Peers,
    /// Requests of other nodes that take whole rounds of Paxos.
    Joins,
}

/// From whom a server takes requests, for tests of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// From everybody.
    All,
    /// From clients only: the procedures of [`Server::reg`] and [`Server::reg_async`].
    ClientsOnly,
    /// From nobody.
    Nobody,
}

type Run = Arc<dyn Fn(&[u8], Pending) + Send + Sync>;

#[derive(Clone)]
struct Entry {
    /// None: on the poll thread.
    workers: Option<Workers>,
    /// Whether the procedure is for other nodes, not for clients.
    from_members: bool,
    run: Run,
}

struct State {
    windows: ReplyWindows,
    connections: BTreeMap<u64, Arc<Connection>>,
    procedures: BTreeMap<u32, Entry>,
    reach: Reach,
    counts: BTreeMap<u32, u64>,
    counted: u32,
    port: Option<TcpPort>,
    listener: Option<Arc<Listener>>,
}

impl State {
    /// Tells a simulator of the windows, after what a client did.
    fn report_sizes(&self, server: ServerNonce, client: ClientNonce) {
        observe(|| Event::Windows { server, client, sizes: self.windows.sizes(client) });
    }
}

pub(crate) struct Inner {
    options: Options,
    nonce: ServerNonce,
    pollmgr: PollMgr,
    local_addr: SocketAddr,
    budget: Arc<Budget>,
    clients: ThrPool,
    peers: ThrPool,
    joins: ThrPool,
    state: Mutex<State>,
    stopping: AtomicBool,
}

/// A server: procedures behind a port. Cloning it gives another handle to the same one.
#[derive(Clone)]
#[doc(alias = "rpcs")]
pub struct Server(Arc<Inner>);

/// How a handler that answers later does so. Dropping it answers [`CallError::Cancel`].
pub struct ReplyToken<R> {
    pending: Pending,
    result: PhantomData<fn(R)>,
}

impl<R: Marshal> ReplyToken<R> {
    /// Answers the request.
    pub fn reply(self, status: impl Into<Status>, result: &R) {
        self.pending.answer(status.into(), &encode(result));
    }
}

/// A request that has not been answered (invariant 2).
struct Pending {
    server: Arc<Inner>,
    /// Where the request came from. Not the connection itself: it may be closed long before the answer is there.
    asked_on: u64,
    client_nonce: ClientNonce,
    xid: Xid,
    procedure: u32,
    answered: bool,
}

impl Pending {
    fn answer(mut self, status: Status, result: &[u8]) {
        self.finish(status.number(), result);
    }

    fn refuse(mut self, error: CallError) {
        self.finish(error.code(), &[]);
    }

    fn finish(&mut self, value: i32, result: &[u8]) {
        self.answered = true;
        let header = ReplyHeader { xid: self.xid, value };
        let reply = pdu::reply(&header, &pdu::Verbatim(result)).unwrap_or_else(|error| {
            tracing::error!(%error, "a result is too long to be sent");
            refusal(self.xid, CallError::Cancel)
        });
        self.server.answer(self, reply);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered {
            self.finish(CallError::Cancel.code(), &[]);
        }
    }
}

fn refusal(xid: Xid, error: CallError) -> Vec<u8> {
    pdu::reply(&ReplyHeader { xid, value: error.code() }, &()).unwrap_or_default()
}

impl Server {
    /// A server on the process's default poll manager; see [`Server::bind_on`].
    ///
    /// # Errors
    /// As [`Server::bind_on`].
    pub fn bind(addr: SocketAddr, options: Options) -> io::Result<Server> {
        Self::bind_on(&PollMgr::shared(), addr, options)
    }

    /// Takes a port (0: any free one), waiting up to 2 s for it. It doesn't answer until [`Server::start`]. The
    /// server's threads belong to the caller's node.
    ///
    /// # Errors
    /// What the operating system says; `AddrInUse` after 2 s.
    pub fn bind_on(pollmgr: &PollMgr, addr: SocketAddr, options: Options) -> io::Result<Server> {
        let port = patiently(|| TcpPort::bind(addr))?;
        let node = Node::current();
        let state = State {
            windows: ReplyWindows::new(),
            connections: BTreeMap::new(),
            procedures: BTreeMap::new(),
            reach: Reach::All,
            counts: BTreeMap::new(),
            counted: 0,
            listener: None,
            port: None,
        };
        let inner = Arc::new(Inner {
            budget: Budget::new(options.peer_patience),
            options,
            nonce: ServerNonce(rt::random::u32() | 1),
            pollmgr: pollmgr.clone(),
            local_addr: port.local_addr()?,
            clients: ThrPool::new("rpcs.clients", node.clone(), CLIENT_THREADS),
            peers: ThrPool::new("rpcs.peers", node.clone(), PEER_THREADS),
            joins: ThrPool::new("rpcs.joins", node, if rt::probe::weakened("H26-one-pool") { 1 } else { JOIN_THREADS }),
            state: Mutex::new(STATE_RANK, state),
            stopping: AtomicBool::new(false),
        });
        inner.state.lock().port = Some(port);
        Ok(Server(inner))
    }

    /// What clients know this server by, as long as it runs ([`Client::server`](crate::Client::server)).
    pub fn nonce(&self) -> ServerNonce {
        self.0.nonce
    }

    /// The address taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Serves a procedure on the workers for clients (lab: `rpcs::reg`).
    pub fn reg<A, R>(&self, procedure: Procedure<A, R>, handler: impl Handler<A, R>)
    where
        A: Unmarshal + 'static,
        R: Marshal + 'static,
    {
        self.reg_on(Workers::Clients, procedure, handler);
    }

    /// Serves a procedure on workers of a kind.
    pub fn reg_on<A, R>(&self, workers: Workers, procedure: Procedure<A, R>, handler: impl Handler<A, R>)
    where
        A: Unmarshal + 'static,
        R: Marshal + 'static,
    {
        self.insert(Some(workers), workers != Workers::Clients, procedure, answer_at_once(handler));
    }

    /// Serves a procedure of other nodes on the poll thread itself. The handler must neither wait nor work long.
    pub fn reg_inline<A, R>(&self, procedure: Procedure<A, R>, handler: impl Handler<A, R>)
    where
        A: Unmarshal + 'static,
        R: Marshal + 'static,
    {
        self.insert(None, true, procedure, answer_at_once(handler));
    }

    /// Serves a procedure of clients on the poll thread by a handler that answers later. It must not wait.
    pub fn reg_async<A, R>(
        &self,
        procedure: Procedure<A, R>,
        handler: impl Fn(A, ReplyToken<R>) + Send + Sync + 'static,
    ) where
        A: Unmarshal + 'static,
        R: Marshal + 'static,
    {
        self.insert(None, false, procedure, move |args, pending| {
            handler(args, ReplyToken { pending, result: PhantomData });
        });
    }

    fn insert<A: Unmarshal + 'static, R>(
        &self,
        workers: Option<Workers>,
        from_members: bool,
        procedure: Procedure<A, R>,
        serve: impl Fn(A, Pending) + Send + Sync + 'static,
    ) {
        let run: Run = Arc::new(move |args: &[u8], pending: Pending| match decode::<A>(args) {
            Ok(args) => serve(args, pending),
            Err(error) => {
                tracing::debug!(%error, procedure = procedure.number, "arguments refused");
                pending.refuse(CallError::UnmarshalArgs);
            }
        });
        let mut state = self.0.state.lock();
        assert!(state.listener.is_none(), "procedures are registered before the port opens");
        let before = state.procedures.insert(procedure.number, Entry { workers, from_members, run });
        assert!(before.is_none(), "procedure {:#x} is registered twice", procedure.number);
    }

    /// Opens the port.
    ///
    /// # Errors
    /// What the operating system says; `AddrInUse` if somebody else listens there since.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let Some(port) = state.port.take() else { return Ok(()) };
        let listener = Listener::start(port, &self.0.pollmgr, Arc::downgrade(&self.0))?;
        state.listener = Some(listener);
        drop(state);
        watch_progress(Arc::downgrade(&self.0), &self.0.pollmgr);
        Ok(())
    }

    /// From whom requests are taken; the others' are dropped unanswered (lab: `rpcs::set_reachable`).
    pub fn set_reachable(&self, reach: Reach) {
        self.0.state.lock().reach = reach;
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.0.state.lock().connections.len()
    }

    /// Closes the port and all connections, drops the requests that wait, and gives the running handlers 10 s to return.
    /// Not to be called by a handler. False if one still runs.
    pub fn shutdown(&self) -> bool {
        let inner = &self.0;
        inner.stop();
        let pools = [&inner.clients, &inner.peers, &inner.joins];
        let deadline = now() + SHUTDOWN_PATIENCE;
        let ended = pools.iter().all(|pool| pool.join_until(deadline));
        // Handlers may hold what holds this server.
        let procedures = std::mem::take(&mut inner.state.lock().procedures);
        drop(procedures);
        ended
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.0.local_addr)
    }
}

fn answer_at_once<A, R: Marshal>(handler: impl Handler<A, R>) -> impl Fn(A, Pending) + Send + Sync + 'static {
    move |args, pending| {
        let (status, result) = handler.handle(args);
        pending.answer(status, &encode(&result));
    }
}

fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = now() + BIND_PATIENCE;
    loop {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && now() < deadline => rt::time::sleep(BIND_INTERVAL),
            other => return other,
        }
    }
}

/// Cuts off slow peers, once a second.
fn watch_progress(server: Weak<Inner>, pollmgr: &PollMgr) {
    let again = pollmgr.clone();
    pollmgr.at(now() + PROGRESS_INTERVAL, move || {
        let Some(inner) = server.upgrade().filter(|inner| !inner.stopping.load(Ordering::Relaxed)) else { return };
        let connections: Vec<_> = inner.state.lock().connections.values().cloned().collect();
        connections.iter().for_each(|connection| connection.check_progress());
        watch_progress(server, &again);
    });
}

impl Drop for Inner {
    /// Who didn't shut the server down leaves nothing behind either, but doesn't know when.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    /// Closes everything, waits for nothing.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let (port, listener, connections) = {
            let mut state = self.state.lock();
            (state.port.take(), state.listener.take(), std::mem::take(&mut state.connections))
        };
        drop(port);
        if let Some(listener) = listener {
            listener.close();
        }
        for connection in connections.into_values() {
            connection.close("the server shuts down");
        }
        [&self.clients, &self.peers, &self.joins].iter().for_each(|pool| pool.stop());
    }

    /// Whether one more connection may be accepted.
    pub(crate) fn has_room(&self) -> bool {
        self.state.lock().connections.len() < self.options.max_connections
    }

    /// Takes over an accepted connection.
    pub(crate) fn accepted(self: &Arc<Self>, stream: TcpStream) {
        let owner: Weak<Inner> = Arc::downgrade(self);
        let connection = Connection::start(&self.pollmgr, stream, true, owner, self.budget.clone());
        self.state.lock().connections.insert(connection.id(), connection.clone());
        if let Err(error) = connection.watch() {
            tracing::warn!(%error, "a connection can't be watched");
            self.state.lock().connections.remove(&connection.id());
        }
        if self.stopping.load(Ordering::Relaxed) {
            connection.close("the server shuts down");
        }
    }

    /// Keeps a reply for retransmissions and sends it on the client's newest live connection. One that wants no
    /// at-most-once has only the connection it asked on.
    fn answer(&self, asked: &Pending, reply: Vec<u8>) {
        let Pending { asked_on, client_nonce: nonce, xid, procedure, .. } = *asked;
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        let reply = Arc::new(reply);
        let connection = {
            let mut state = self.state.lock();
            let id = if nonce.0 == 0 { Some(asked_on) } else { state.windows.complete(nonce, xid, reply.clone()) };
            state.report_sizes(self.nonce, nonce);
            id.and_then(|id| state.connections.get(&id).cloned())
        };
        // No connection: the client asks again on its next one.
        if let Some(connection) = connection {
            self.send(&connection, nonce, procedure, &reply);
        }
    }

    fn send(&self, connection: &Connection, client: ClientNonce, procedure: u32, reply: &[u8]) {
        messages::reply_sent(connection, client, procedure, reply);
        if self.options.loses() {
            return connection.close("RPC_LOSSY");
        }
        let _ = connection.send(reply);
    }

    fn refuse(&self, connection: &Connection, asked: &RequestHeader, error: CallError) {
        self.send(connection, asked.client_nonce, asked.procedure, &refusal(asked.xid, error));
    }

    fn count(&self, state: &mut State, procedure: u32) {
        // Strangers' numbers would fill the table.
        let known = procedure == BIND || state.procedures.contains_key(&procedure);
        if self.options.count_every == 0 || !known {
            return;
        }
        *state.counts.entry(procedure).or_default() += 1;
        state.counted += 1;
        if state.counted >= self.options.count_every {
            state.counted = 0;
            let counts: Vec<_> = state.counts.iter().map(|(number, count)| format!("{number:x}:{count}")).collect();
            tracing::info!(port = self.local_addr.port(), counts = %counts.join(" "), "rpc stats");
        }
    }

    fn pool(&self, workers: Workers) -> &ThrPool {
        match workers {
            _ if rt::probe::weakened("H26-one-pool") => &self.joins,
            Workers::Clients => &self.clients,
            Workers::Peers => &self.peers,
            Workers::Joins => &self.joins,
        }
    }

    fn bind(&self, connection: &Arc<Connection>, header: &RequestHeader, args: &[u8]) {
        let xid = header.xid;
        let reply = match decode::<i32>(args) {
            // Clients of the lab abort on a byte that they don't expect; ours ask for it.
            Ok(HELLO) => pdu::reply(&ReplyHeader { xid, value: 0 }, &(self.nonce.0, HELLO)),
            Ok(_) => pdu::reply(&ReplyHeader { xid, value: 0 }, &self.nonce.0),
            Err(_) => return self.refuse(connection, header, CallError::UnmarshalArgs),
        };
        let bound = {
            let mut state = self.state.lock();
            let bound = state.windows.bind(header.client_nonce, connection.id());
            state.report_sizes(self.nonce, header.client_nonce);
            bound
        };
        if !bound {
            return connection.close("no room for another client");
        }
        self.send(connection, header.client_nonce, BIND, &reply.unwrap_or_default());
    }

    fn request(self: &Arc<Self>, connection: &Arc<Connection>, header: &RequestHeader, args: &[u8]) -> ControlFlow<()> {
        let RequestHeader { xid, client_nonce, .. } = *header;
        let entry = {
            let mut state = self.state.lock();
            self.count(&mut state, header.procedure);
            let entry = state.procedures.get(&header.procedure).cloned();
            let taken = match state.reach {
                Reach::All => true,
                Reach::ClientsOnly => entry.as_ref().is_none_or(|entry| !entry.from_members),
                Reach::Nobody => false,
            };
            if !taken {
                return ControlFlow::Continue(());
            }
            if header.server_nonce.0 != 0 && header.server_nonce != self.nonce {
                drop(state);
                self.refuse(connection, header, CallError::OldServer);
                return ControlFlow::Continue(());
            }
            if header.procedure == BIND {
                drop(state);
                self.bind(connection, header, args);
                return ControlFlow::Continue(());
            }
            let Some(entry) = entry else {
                drop(state);
                tracing::debug!(procedure = header.procedure, "unknown procedure");
                self.refuse(connection, header, CallError::UnmarshalArgs);
                return ControlFlow::Continue(());
            };
            // Before it counts as admitted: one that comes again is a new one.
            if entry.workers.is_some_and(|workers| self.pool(workers).is_overfull()) {
                drop(state);
                connection.close("too many requests wait for a worker");
                return ControlFlow::Break(());
            }
            if client_nonce.0 != 0 {
                let verdict = state.windows.admit(client_nonce, connection.id(), xid, header.xid_rep);
                if verdict == Verdict::New {
                    let xid_rep = header.xid_rep;
                    observe(|| Event::Admitted { server: self.nonce, client: client_nonce, xid, xid_rep });
                }
                state.report_sizes(self.nonce, client_nonce);
                drop(state);
                match verdict {
                    Verdict::New => {}
                    Verdict::InProgress => return ControlFlow::Continue(()),
                    Verdict::Done(reply) => {
                        self.send(connection, client_nonce, header.procedure, &reply);
                        return ControlFlow::Continue(());
                    }
                    Verdict::Forgotten => {
                        self.refuse(connection, header, CallError::AtMostOnce);
                        return ControlFlow::Continue(());
                    }
                }
            }
            entry
        };
        let (asked_on, procedure) = (connection.id(), header.procedure);
        let pending = Pending { server: self.clone(), asked_on, client_nonce, xid, procedure, answered: false };
        let waits = rt::probe::weakened("H26-one-pool").then_some(Workers::Peers);
        let Some(workers) = entry.workers.or(waits) else {
            (entry.run)(args, pending);
            return ControlFlow::Continue(());
        };
        let pool = self.pool(workers);
        let args = args.to_vec();
        let asker = Arc::downgrade(connection);
        pool.add(args.len(), move || {
            // Joins take seconds: those of peers that have gone must not keep others waiting.
            if workers != Workers::Joins || asker.upgrade().is_some_and(|asker| !asker.is_closed()) {
                (entry.run)(&args, pending);
            }
        });
        let asker = Arc::downgrade(connection);
        let resume = move || {
            if let Some(asker) = asker.upgrade() {
                asker.resume();
            }
        };
        if pool.wait_for_room(resume) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Owner for Inner {
    fn connected(self: Arc<Self>, _: &Arc<Connection>) {}

    fn pdu(self: Arc<Self>, connection: &Arc<Connection>, pdu: &[u8]) -> ControlFlow<()> {
        if self.stopping.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        match RequestHeader::parse(pdu) {
            Some((header, args)) => {
                messages::request_received(connection, &header, args);
                self.request(connection, &header, args)
            }
            None => {
                connection.close("not a request");
                ControlFlow::Break(())
            }
        }
    }

    fn closed(self: Arc<Self>, connection: &Arc<Connection>, why: &io::Error) {
        tracing::trace!(%why, "connection closed");
        let mut state = self.state.lock();
        state.connections.remove(&connection.id());
        state.windows.disconnected(connection.id());
    }
}
