//! The client side (lab: class `rpcc`).
//!
//! A client has one connection at a time. It binds by itself before the first call, keeps every request until it is
//! answered or given up, and sends what is outstanding again, with the same xids, as soon as a connection that carried
//! it has died and another one stands. A connection that carried a call, and nothing back until the call's time was up, is
//! taken for dead: its peer may have vanished without a word.
//!
//! Invariants:
//! 1. Every call ends: with the answer, or with an error at its deadline at the latest. Completions run on the poll
//!    thread, with no lock held but the poll thread's turn lock, and never inside `call_async`.
//! 2. An xid is used once; on one connection requests leave in xid order. 1 is bind's: servers of the lab may take what
//!    is below the first xid that they see for forgotten.
//! 3. xid_rep only covers xids that are answered or given up: the smallest outstanding one, less one.
//! 4. Once the server's nonce has proved old, nothing is sent any more: every call ends with `OldServer`.
//!
//! Locks: `rpcc.state` guards everything; connections are called down to under it.
//!
//! Deviations from the lab: reconnecting is the poll thread's work and not the waiting caller's, at once and then with a
//! back-off from 10 ms; bind carries a number that tells our servers who asks, and is sent again while it is unanswered,
//! for a server that was unreachable on purpose has dropped it and kept the connection.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::net::TcpStream;
use rt::sync::{Condvar, Mutex, Rank};
use rt::time::{Instant, now};

use crate::CallError;
use crate::connection::{Budget, Connection, Owner, Sent};
use crate::marshall::{Marshal, Unmarshal, Unmarshaller, decode};
use crate::messages;
use crate::options::{BIND, HELLO, Options};
use crate::pdu::{self, ClientNonce, ReplyHeader, RequestHeader, ServerNonce, Xid};
use crate::pollmgr::{PollMgr, TimerId};
use crate::procedure::Procedure;

/// The lab's default total time of a call (lab: `rpcc::to_max`).
pub const TO_MAX: Duration = Duration::from_secs(120);

/// Pauses between connection attempts.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const MAX_BACK_OFF: Duration = Duration::from_millis(250);
/// A connection attempt without an answer is given up after this time.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// When an unanswered bind is sent again; it may be executed any number of times.
const BIND_AGAIN: Duration = Duration::from_millis(200);
/// After so many times without an answer its connection is given up.
const BIND_TIMES: u32 = 5;
const BIND_XID: Xid = Xid(1);
/// The grain of deadlines.
const TICK: Duration = Duration::from_millis(2);
/// Calls outstanding at once, and their bytes; a further one fails at once with [`CallError::Bind`].
const MAX_OUTSTANDING: usize = 1 << 16;
const MAX_OUTSTANDING_BYTES: usize = 256 << 20;

const STATE_RANK: Rank = Rank::new(100, "rpcc.state");
const SLOT_RANK: Rank = Rank::new(101, "rpcc.slot");

/// A reply's value and result bytes.
type RawReply = Result<(i32, Vec<u8>), CallError>;
type Completion = Box<dyn FnOnce(RawReply) + Send>;

/// Calls are counted on where xids wrap.
type CallNumber = u64;

const FIRST_CALL: CallNumber = 2;

const fn xid_of(number: CallNumber) -> Xid {
    // The low 32 bits.
    Xid(number as i32)
}

/// The latest call before `next` with this xid.
const fn number_of(xid: Xid, next: CallNumber) -> CallNumber {
    next.wrapping_sub((xid_of(next).0.wrapping_sub(xid.0) as u32) as u64)
}

struct Call {
    /// The whole request; the server nonce and xid_rep are written when it is sent.
    pdu: Vec<u8>,
    deadline: Instant,
    completion: Completion,
    /// The poll thread ends it at its deadline; otherwise the waiting caller does.
    timed: bool,
    /// Set when it has left on some connection, and so may have been executed: how many replies had come before.
    sent: Option<u64>,
}

enum Link {
    /// No connection; no new attempt before `until`.
    Down {
        until: Instant,
    },
    Connecting {
        connection: Arc<Connection>,
        since: Instant,
    },
    Up {
        connection: Arc<Connection>,
    },
}

enum Binding {
    Unbound,
    Asked {
        again: Instant,
        /// On this connection.
        times: u32,
    },
    Bound {
        server: ServerNonce,
        ours: bool,
    },
    /// Invariant 4.
    OldServer,
}

struct State {
    link: Link,
    binding: Binding,
    next: CallNumber,
    calls: BTreeMap<CallNumber, Call>,
    outstanding_bytes: usize,
    /// Threads that wait in `bind`.
    binders: usize,
    /// How often all calls and binds that were outstanding have failed.
    failures: u64,
    reachable: bool,
    back_off: Duration,
    /// Its bound: where calls end after [`Options::refused_patience`], each of them makes an attempt at least.
    max_back_off: Duration,
    refused_since: Option<Instant>,
    /// Replies that came, on all connections.
    heard: u64,
    /// The one timer that is set.
    timer: Option<TimerId>,
    /// The server has answered that it no longer knows.
    forgotten: bool,
    destroyed: bool,
}

struct Inner {
    name: String,
    addr: SocketAddr,
    nonce: ClientNonce,
    options: Options,
    pollmgr: PollMgr,
    budget: Arc<Budget>,
    state: Mutex<State>,
    /// Notified when the binding has changed, and when everything outstanding has failed.
    settled: Condvar,
}

/// A client of one server. Dropping it cancels what is outstanding.
#[doc(alias = "rpcc")]
pub struct Client(Arc<Inner>);

impl Client {
    /// A client on the process's default poll manager; see [`Client::new_on`].
    pub fn new(addr: SocketAddr, options: Options) -> Client {
        Self::new_on(&PollMgr::shared(), addr, options)
    }

    /// A client of the server at `addr`. Nothing is sent before the first call.
    pub fn new_on(pollmgr: &PollMgr, addr: SocketAddr, options: Options) -> Client {
        let state = State {
            link: Link::Down { until: Instant::ZERO },
            binding: Binding::Unbound,
            next: FIRST_CALL,
            calls: BTreeMap::new(),
            outstanding_bytes: 0,
            binders: 0,
            failures: 0,
            reachable: true,
            back_off: FIRST_BACK_OFF,
            max_back_off: options.refused_patience.map_or(MAX_BACK_OFF, |p| p.clamp(FIRST_BACK_OFF, MAX_BACK_OFF)),
            refused_since: None,
            heard: 0,
            timer: None,
            forgotten: false,
            destroyed: false,
        };
        Client(Arc::new(Inner {
            name: addr.to_string(),
            addr,
            nonce: ClientNonce(rt::random::u32() | 1),
            options,
            pollmgr: pollmgr.clone(),
            budget: Budget::new(Duration::MAX),
            state: Mutex::new(STATE_RANK, state),
            settled: Condvar::new(),
        }))
    }

    /// Binds to the server, if that hasn't happened yet. Calls do so by themselves.
    ///
    /// # Errors
    /// [`CallError::Bind`] if the server wasn't reached within `total`; [`CallError::OldServer`] if it was replaced.
    pub fn bind(&self, total: Duration) -> Result<(), CallError> {
        let deadline = now() + total;
        let mut state = self.0.state.lock();
        let failures = state.failures;
        state.binders += 1;
        self.0.advance(&mut state);
        let outcome = loop {
            match state.binding {
                Binding::Bound { .. } => break Ok(()),
                Binding::OldServer => break Err(CallError::OldServer),
                Binding::Unbound | Binding::Asked { .. } => {}
            }
            if state.failures != failures || !self.0.settled.wait_until(&mut state, deadline) {
                break Err(CallError::Bind);
            }
        };
        state.binders -= 1;
        outcome
    }

    /// Calls a procedure and waits for its status and result, at most for `total`.
    ///
    /// # Errors
    /// [`CallError`]; `may_have_executed` tells whether the server may have executed the request.
    pub fn call<A: Marshal, R: Unmarshal>(
        &self,
        procedure: Procedure<A, R>,
        args: A,
        total: Duration,
    ) -> Result<(i32, R), CallError> {
        typed(self.wait(self.0.request(procedure.number, &args)?, now() + total))
    }

    /// Calls a procedure; `done` gets its status and result, or why there are none, within `total`. It runs on the poll
    /// thread and must not block.
    pub fn call_async<A: Marshal, R: Unmarshal + 'static>(
        &self,
        procedure: Procedure<A, R>,
        args: A,
        total: Duration,
        done: impl FnOnce(Result<(i32, R), CallError>) + Send + 'static,
    ) {
        let deadline = now() + total;
        let completion: Completion = Box::new(move |reply| done(typed(reply)));
        let refused = match self.0.request(procedure.number, &args) {
            Ok(request) => self.0.begin(request, deadline, completion, true).err(),
            Err(error) => Some((error, completion)),
        };
        if let Some((error, completion)) = refused {
            self.0.pollmgr.defer(move || completion(Err(error)));
        }
    }

    /// Whether the server has told at bind that it is one of ours and not one of the lab's. `None` before the bind, and as
    /// soon as the server was replaced: another caller may learn that at any time.
    pub fn is_ours(&self) -> Option<bool> {
        self.0.state.lock().bound().map(|(_, ours)| ours)
    }

    /// The server that the client is bound to: the same number under each of its names, another one after each restart.
    /// `None` as for [`Client::is_ours`].
    pub fn server(&self) -> Option<ServerNonce> {
        self.0.state.lock().bound().map(|(server, _)| server)
    }

    /// Since when every connection attempt has been refused; `None` after one that succeeded or got no answer.
    pub fn refused_since(&self) -> Option<Instant> {
        self.0.state.lock().refused_since
    }

    /// Whether the server was replaced since the client bound to it, or has forgotten this client: a new one is needed then.
    pub fn is_outdated(&self) -> bool {
        let state = self.0.state.lock();
        state.forgotten || matches!(state.binding, Binding::OldServer)
    }

    /// While false no request leaves, and calls time out (lab: `rpcc::set_reachable`).
    pub fn set_reachable(&self, reachable: bool) {
        let mut state = self.0.state.lock();
        state.reachable = reachable;
        if reachable {
            self.0.send_all(&mut state);
            self.0.advance(&mut state);
        }
    }

    /// Ends every outstanding call with [`CallError::Cancel`] (lab: `rpcc::cancel`).
    pub fn cancel(&self) {
        self.0.fail_all(CallError::Cancel);
    }

    fn wait(&self, request: Vec<u8>, deadline: Instant) -> RawReply {
        let slot = Arc::new(Slot { reply: Mutex::new(SLOT_RANK, None), filled: Condvar::new() });
        let filler = slot.clone();
        let completion: Completion = Box::new(move |reply| {
            *filler.reply.lock() = Some(reply);
            filler.filled.notify_one();
        });
        let number = match self.0.begin(request, deadline, completion, false) {
            Ok(number) => number,
            Err((error, _)) => return Err(error),
        };
        let mut reply = slot.reply.lock();
        loop {
            if let Some(reply) = reply.take() {
                return reply;
            }
            if !slot.filled.wait_until(&mut reply, deadline) && reply.is_none() {
                drop(reply);
                if let Some(error) = self.0.give_up(number) {
                    return Err(error);
                }
                // The reply is on its way into the slot.
                reply = slot.reply.lock();
                while reply.is_none() {
                    slot.filled.wait(&mut reply);
                }
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let (link, timer) = {
            let mut state = self.0.state.lock();
            state.destroyed = true;
            (std::mem::replace(&mut state.link, Link::Down { until: Instant::ZERO }), state.timer.take())
        };
        if let Some(timer) = timer {
            self.0.pollmgr.cancel(timer);
        }
        if let Link::Connecting { connection, .. } | Link::Up { connection } = link {
            connection.close("the client is dropped");
        }
        self.0.fail_all(CallError::Cancel);
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.0.name)
    }
}

/// Where a blocked caller's reply is put.
struct Slot {
    reply: Mutex<Option<RawReply>>,
    /// Notified when the reply is there.
    filled: Condvar,
}

fn typed<R: Unmarshal>(reply: RawReply) -> Result<(i32, R), CallError> {
    let (value, result) = reply?;
    let result = decode(&result).map_err(|error| {
        tracing::warn!(%error, "a reply that isn't its procedure's result");
        CallError::UnmarshalReply
    })?;
    Ok((value, result))
}

impl Inner {
    /// A request whose xid, server nonce and xid_rep are still to be written.
    fn request(&self, procedure: u32, args: &impl Marshal) -> Result<Vec<u8>, CallError> {
        let header = RequestHeader {
            xid: Xid(0),
            procedure,
            client_nonce: self.nonce,
            server_nonce: ServerNonce(0),
            xid_rep: Xid(0),
        };
        pdu::request(&header, args).map_err(|error| {
            tracing::error!(%error, procedure, "arguments are too long to be sent");
            CallError::UnmarshalArgs
        })
    }

    /// Makes a call outstanding. With `timed` the poll thread ends it at its deadline; else the caller does.
    fn begin(
        self: &Arc<Self>,
        pdu: Vec<u8>,
        deadline: Instant,
        completion: Completion,
        timed: bool,
    ) -> Result<CallNumber, (CallError, Completion)> {
        let mut state = self.state.lock();
        if state.destroyed {
            return Err((CallError::Cancel, completion));
        }
        // The lab's servers can't count any further; a new client begins anew.
        if state.next >= i32::MAX as CallNumber && !matches!(state.binding, Binding::Bound { ours: true, .. }) {
            state.binding = Binding::OldServer;
        }
        if matches!(state.binding, Binding::OldServer) {
            return Err((CallError::OldServer, completion));
        }
        if state.calls.len() >= MAX_OUTSTANDING || state.outstanding_bytes >= MAX_OUTSTANDING_BYTES {
            return Err((CallError::Bind, completion));
        }
        let number = state.next;
        state.next += 1;
        state.outstanding_bytes += pdu.len();
        state.calls.insert(number, Call { pdu, deadline, completion, timed, sent: None });
        if timed {
            self.arm(&mut state, deadline);
        }
        self.send_call(&mut state, number);
        self.advance(&mut state);
        Ok(number)
    }

    /// Takes a call back whose time is up; `None` if its reply has come.
    fn give_up(&self, number: CallNumber) -> Option<CallError> {
        let mut state = self.state.lock();
        let call = state.remove(number)?;
        Some(state.time_is_up(&call))
    }

    /// Sends one outstanding call, if that is possible now.
    fn send_call(&self, state: &mut State, number: CallNumber) {
        let State { link, binding, calls, back_off, .. } = state;
        let (Link::Up { connection }, Binding::Bound { server, .. }, true) = (link, binding, state.reachable) else {
            return;
        };
        let oldest = calls.first_key_value().map_or(number, |(oldest, _)| *oldest);
        let Some(call) = calls.get_mut(&number) else { return };
        pdu::stamp(&mut call.pdu, xid_of(number), *server, xid_of(oldest - 1));
        messages::request_sent(connection, &call.pdu);
        if self.options.loses() {
            connection.close("RPC_LOSSY");
            // That says nothing about the server.
            *back_off = FIRST_BACK_OFF;
            return;
        }
        if connection.send(&call.pdu) == Sent::Taken {
            call.sent = Some(state.heard);
        }
    }

    /// Sends everything that is outstanding, on a new connection or after the bind.
    fn send_all(&self, state: &mut State) {
        let numbers: Vec<CallNumber> = state.calls.keys().copied().collect();
        for number in numbers {
            self.send_call(state, number);
        }
    }

    /// Sends the bind, for the first time or again.
    fn send_bind(self: &Arc<Self>, state: &mut State) {
        let (Link::Up { connection }, Binding::Unbound | Binding::Asked { .. }) = (&state.link, &state.binding) else {
            return;
        };
        let header = RequestHeader {
            xid: BIND_XID,
            procedure: BIND,
            client_nonce: self.nonce,
            server_nonce: ServerNonce(0),
            xid_rep: Xid(0),
        };
        if let Ok(pdu) = pdu::request(&header, &HELLO) {
            messages::request_sent(connection, &pdu);
            if self.options.loses() {
                connection.close("RPC_LOSSY");
                state.back_off = FIRST_BACK_OFF;
            } else {
                let _ = connection.send(&pdu);
            }
        }
        let again = now() + BIND_AGAIN;
        let times = if let Binding::Asked { times, .. } = state.binding { times + 1 } else { 1 };
        state.binding = Binding::Asked { again, times };
        self.arm(state, again);
    }

    /// Does what the outstanding calls need next: connect, bind, or wait.
    fn advance(self: &Arc<Self>, state: &mut State) {
        if state.destroyed || state.calls.is_empty() && state.binders == 0 || !state.reachable {
            return;
        }
        match (&state.link, &state.binding) {
            (_, Binding::OldServer) => {}
            (Link::Down { until }, _) => {
                let until = *until;
                if now() < until { self.arm(state, until) } else { self.connect(state) }
            }
            (Link::Connecting { since, .. }, _) => {
                let give_up = *since + CONNECT_PATIENCE;
                self.arm(state, give_up);
            }
            (Link::Up { .. }, Binding::Unbound) => self.send_bind(state),
            (Link::Up { connection }, Binding::Asked { again, times }) => {
                let again = *again;
                if now() < again {
                    self.arm(state, again);
                } else if *times >= BIND_TIMES {
                    connection.close("the server does not answer a bind");
                } else {
                    self.send_bind(state);
                }
            }
            (Link::Up { .. }, Binding::Bound { .. }) => {}
        }
    }

    fn connect(self: &Arc<Self>, state: &mut State) {
        let attempt = TcpStream::connect(self.addr).and_then(|stream| {
            let owner: Weak<Inner> = Arc::downgrade(self);
            let connection = Connection::start(&self.pollmgr, stream, false, owner, self.budget.clone());
            connection.watch()?;
            Ok(connection)
        });
        match attempt {
            Ok(connection) => {
                let since = now();
                state.link = Link::Connecting { connection, since };
                self.arm(state, since + CONNECT_PATIENCE);
            }
            Err(error) => {
                state.note_failure(&error);
                let until = state.back_off();
                state.link = Link::Down { until };
                self.arm(state, until);
            }
        }
    }

    /// Has `tick` called at `when`, or a little later.
    fn arm(self: &Arc<Self>, state: &mut State, when: Instant) {
        if state.timer.is_some_and(|set| set.when <= when) {
            return;
        }
        if let Some(later) = state.timer.take() {
            self.pollmgr.cancel(later);
        }
        let inner = Arc::downgrade(self);
        state.timer = Some(self.pollmgr.at(when, move || {
            if let Some(inner) = inner.upgrade() {
                inner.tick(when);
            }
        }));
    }

    /// Ends the timed calls whose time is up, and goes on with the connection.
    fn tick(self: &Arc<Self>, due: Instant) {
        let time = now();
        let mut ended = Vec::new();
        let hung = {
            let mut state = self.state.lock();
            // An earlier timer may have been set since this one went off.
            state.timer = state.timer.filter(|timer| timer.when != due);
            let late: Vec<CallNumber> =
                state.calls.iter().filter(|(_, c)| c.timed && c.deadline <= time).map(|c| *c.0).collect();
            for call in late.into_iter().filter_map(|number| state.remove(number)).collect::<Vec<_>>() {
                ended.push((state.time_is_up(&call), call));
            }
            self.advance(&mut state);
            if let Some(next) = state.calls.values().filter(|c| c.timed).map(|c| c.deadline).min() {
                // Deadlines close together are served together.
                self.arm(&mut state, next.max(time + TICK));
            }
            match &state.link {
                Link::Connecting { connection, since } if time - *since >= CONNECT_PATIENCE => Some(connection.clone()),
                _ => None,
            }
        };
        if let Some(connection) = hung {
            connection.close("no answer to the connection attempt");
        }
        for (error, call) in ended {
            (call.completion)(Err(error));
        }
    }

    /// Ends every call; on whatever thread, so the completions are handed to the poll thread.
    fn fail_all(&self, error: CallError) {
        let calls = self.take_calls(&mut self.state.lock());
        self.pollmgr.defer(move || calls.into_iter().for_each(|call| (call.completion)(Err(error))));
    }

    /// Everything outstanding is about to fail.
    fn take_calls(&self, state: &mut State) -> Vec<Call> {
        state.failures += 1;
        self.settled.notify_all();
        state.outstanding_bytes = 0;
        std::mem::take(&mut state.calls).into_values().collect()
    }

    /// The answer to bind.
    fn bound(&self, state: &mut State, result: &[u8]) -> Result<(), CallError> {
        let mut input = Unmarshaller::new(result);
        let server = ServerNonce(input.read().map_err(|_| CallError::Bind)?);
        let ours = input.remaining() > 0 && input.read::<i32>() == Ok(HELLO);
        state.binding = Binding::Bound { server, ours };
        self.settled.notify_all();
        self.send_all(state);
        Ok(())
    }
}

impl Owner for Inner {
    fn connected(self: Arc<Self>, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        state.refused_since = None;
        state.link = Link::Up { connection: connection.clone() };
        if let Binding::Asked { .. } = state.binding {
            state.binding = Binding::Unbound;
        }
        if state.reachable {
            self.send_bind(&mut state);
            self.send_all(&mut state);
        }
    }

    fn pdu(self: Arc<Self>, connection: &Arc<Connection>, pdu: &[u8]) -> ControlFlow<()> {
        let Some((header, result)) = ReplyHeader::parse(pdu) else {
            connection.close("not a reply");
            return ControlFlow::Break(());
        };
        let ReplyHeader { xid, value } = header;
        let mut state = self.state.lock();
        // Before anything that follows from it is sent.
        messages::reply_received(connection, self.nonce, &header, || state.procedure_of(xid));
        // Only now the connection has shown that it is good for something.
        state.back_off = FIRST_BACK_OFF;
        state.heard += 1;
        let failed = if xid == BIND_XID && matches!(state.binding, Binding::Asked { .. }) {
            let bound = if value < 0 { Err(CallError::Bind) } else { self.bound(&mut state, result) };
            bound.err().inspect(|_| state.binding = Binding::Unbound)
        } else if value == CallError::OldServer.code() {
            state.binding = Binding::OldServer;
            Some(CallError::OldServer)
        } else {
            let number = number_of(xid, state.next);
            let call = state.remove(number);
            // The server has perhaps dropped all that it knew of this nonce: then no later call will fare better.
            state.forgotten |= call.is_some() && value == CallError::AtMostOnce.code();
            drop(state);
            if let Some(call) = call {
                let reply = if value < 0 { Err(CallError::from_code(value)) } else { Ok((value, result.to_vec())) };
                (call.completion)(reply);
            }
            return ControlFlow::Continue(());
        };
        if let Some(error) = failed {
            let calls = self.take_calls(&mut state);
            drop(state);
            calls.into_iter().for_each(|call| (call.completion)(Err(error)));
        }
        ControlFlow::Continue(())
    }

    fn closed(self: Arc<Self>, connection: &Arc<Connection>, why: &io::Error) {
        tracing::trace!(%why, server = %self.addr, "connection closed");
        let mut state = self.state.lock();
        let until = match &state.link {
            Link::Up { connection: current } if current.id() == connection.id() => {
                // What is outstanding goes out again at once, unless this connection was good for nothing either.
                if state.back_off == FIRST_BACK_OFF { now() } else { state.back_off() }
            }
            Link::Connecting { connection: current, .. } if current.id() == connection.id() => {
                state.note_failure(why);
                state.back_off()
            }
            _ => return,
        };
        if until <= now() {
            state.back_off = FIRST_BACK_OFF * 2;
        }
        state.link = Link::Down { until };
        let hopeless = match (self.options.refused_patience, state.refused_since) {
            (Some(patience), Some(since)) if since.elapsed() >= patience => self.take_calls(&mut state),
            _ => Vec::new(),
        };
        self.advance(&mut state);
        drop(state);
        for call in hopeless {
            let error = if call.sent.is_some() { CallError::Timeout } else { CallError::Bind };
            (call.completion)(Err(error));
        }
    }
}

impl State {
    /// The server's nonce, and whether it is one of ours.
    fn bound(&self) -> Option<(ServerNonce, bool)> {
        match self.binding {
            Binding::Bound { server, ours } => Some((server, ours)),
            Binding::Unbound | Binding::Asked { .. } | Binding::OldServer => None,
        }
    }

    /// Why a call ends that was removed at its deadline. A connection on which nothing came since the call was sent is
    /// given up with it.
    fn time_is_up(&self, call: &Call) -> CallError {
        let Some(heard_before) = call.sent else { return CallError::Bind };
        if let Link::Up { connection } = &self.link
            && heard_before == self.heard
        {
            connection.close("the server has fallen silent");
        }
        CallError::Timeout
    }

    /// The procedure of a request that is outstanding, else 0.
    fn procedure_of(&self, xid: Xid) -> u32 {
        let call = self.calls.get(&number_of(xid, self.next));
        let asked = call.and_then(|call| RequestHeader::parse(&call.pdu)).map_or(0, |(header, _)| header.procedure);
        if xid == BIND_XID { BIND } else { asked }
    }

    fn remove(&mut self, number: CallNumber) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        self.outstanding_bytes -= call.pdu.len();
        Some(call)
    }

    /// When the next attempt may be made; the one after that will have to wait twice as long.
    fn back_off(&mut self) -> Instant {
        let until = now() + self.back_off;
        self.back_off = (self.back_off * 2).min(self.max_back_off);
        until
    }

    fn note_failure(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.refused_since.get_or_insert_with(now);
        } else {
            self.refused_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_their_xids_where_these_wrap() {
        for next in [3, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, (7 << 32) + 12_345] {
            for number in (next - 1_000.min(next - FIRST_CALL)).max(FIRST_CALL)..next {
                assert_eq!(number_of(xid_of(number), next), number);
            }
        }
        // What was never sent is no call's.
        assert!(number_of(Xid(-1), 10) > 10);
        assert!(number_of(Xid(11), 10) > 10);
    }
}
