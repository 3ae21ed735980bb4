//! The replicated state machine: one replica, with its handlers (lab 7: class `rsm`).
//!
//! The primary stamps a request, sends it to all backups at once, executes it when all have executed it, and answers the
//! client: so an answered request is in the state of every member of the view. Views come from config; after each
//! change the members sync before the next request (recovery.rs). What follows from what is decided in replica.rs.
//!
//! Threads: client_invoke runs on the workers for clients, invoke, transferreq and transferdonereq on those for peers,
//! joinreq on those for joiners; answers of backups arrive on the poll thread; `rsm.recovery` joins and syncs.
//! Locks: `rsm.invoke` is the turn lock of client requests, held while one is outstanding; `rsm.state` guards replica,
//! state machine and answer, and is held across no RPC, no upcall and no wait for the disk.
//!
//! What a member has acknowledged is on its disk (journal.rs): a backup syncs before it acknowledges, the primary before it
//! answers the client; what executions ask to be sent leaves after that, too.
//!
//! Deviations from the lab: requests are sent to the backups in parallel; a stamp that was sent is sent again until all
//! have it or the view changes; nobody's mutex is unlocked by somebody else.

mod own_disk;
mod requests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::probe::observe;
use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{JoinHandle, Node};
use rt::time::{Instant, now};
use yfs_config::{Config, LogError, Role, Timing, ViewChange, ViewId};
use yfs_paxos::log::{self, Log};
use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal};
use yfs_rpc::{Handles, PollMgr, Procedure, Reach, Server, Workers, names};

use crate::advice;
use crate::events::{Event, digest, request_digest};
use crate::foreign::Foreign;
use crate::joiners::Joiners;
use crate::journal::{self, Item, Journal, JournalError, Position, Recovered};
use crate::pair::{PairError, Votes};
use crate::protocol::{
    CLIENT_INVOKE, CLIENT_MEMBERS, ClientStatus, INVOKE, JOINREQ, RsmStatus, TRANSFERDONEREQ, TRANSFERREQ, Viewstamp,
};
use crate::replica::Replica;
use crate::state_machine::{self, Machine, StateMachine};
use crate::test_server::{self, Partition, Switches};

/// Calls to other nodes end when nobody has listened there for so long.
const REFUSED_PATIENCE: Duration = Duration::from_millis(200);
/// How long `shutdown` waits for the threads of a replica.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

const INVOKE_RANK: Rank = Rank::new(10, "rsm.invoke");
pub(crate) const STATE_RANK: Rank = Rank::new(22, "rsm.state");
const SINK_RANK: Rank = Rank::new(21, "rsm.sink");
const PARTS_RANK: Rank = Rank::new(23, "rsm.parts");

/// Called when the node can't go on, with the reason for its operator.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Who a replica is, and where.
#[derive(Clone)]
pub struct Options {
    /// The node to join through; the node itself, to be the first of a new service.
    pub first: String,
    /// Further nodes to join through.
    pub also: Vec<String>,
    /// This node's name, and where it listens: `port`, `host:port`, or `0` for any free port of this machine.
    pub me: String,
    /// The folder of `paxos-<me>.log` and `rsm-<me>.log`.
    pub dir: PathBuf,
    /// Where testers may break this node; always on loopback. `None`: nowhere.
    pub test_port: Option<u16>,
    /// Timers of failure detection.
    pub timing: Timing,
    /// Settings of the RPC runtime.
    pub rpc: yfs_rpc::Options,
    /// The poll manager.
    pub pollmgr: PollMgr,
    /// Called when the node can't go on: it must be shut down or the process end. By default the process ends with
    /// status 1, after the reason was logged as an error.
    pub on_fatal: OnFatal,
}

impl Options {
    /// A replica `me` of the service that `first` belongs to, its log in the working folder, without a test port.
    pub fn new(first: &str, me: &str) -> Self {
        Options {
            first: first.to_owned(),
            also: Vec::new(),
            me: me.to_owned(),
            dir: PathBuf::from("."),
            test_port: None,
            timing: Timing::default(),
            rpc: yfs_rpc::Options::default(),
            pollmgr: PollMgr::shared(),
            on_fatal: Arc::new(|reason| {
                tracing::error!(reason, "the node stops");
                rt::process::exit(1);
            }),
        }
    }
}

/// Why a replica could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RsmError {
    /// A name is malformed.
    #[error("{0}")]
    Name(#[from] names::BadName),
    /// The port can't be used.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The test port can't be used.
    #[error("cannot listen on test port {port}: {error}")]
    TestPort {
        /// The port.
        port: u16,
        /// Why not.
        error: std::io::Error,
    },
    /// The Paxos log can't be used.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The log of requests and states can't be used.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The state in the node's log isn't one of this program's.
    #[error("{}: the state in it can't be read: {error}", path.display())]
    State {
        /// The log.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// The node's two logs don't belong together.
    #[error("{0}")]
    Pair(#[from] PairError),
    /// A request in the node's log calls a procedure that isn't registered.
    #[error(
        "{}: the request at byte {offset} calls procedure {procedure:#x}, which this program doesn't have",
        path.display()
    )]
    Procedure {
        /// The log.
        path: PathBuf,
        /// Where the request begins.
        offset: usize,
        /// The procedure.
        procedure: u32,
    },
    /// There is nothing to start over from.
    #[error("{}: no log of a node that is a member, and has a state", path.display())]
    NoState {
        /// The log that isn't there, or has no view with this node.
        path: PathBuf,
    },
    /// A node answers, so the service isn't to be started over.
    #[error("{name} answers, a member of the last view: nothing was changed")]
    Answers {
        /// The node.
        name: String,
    },
    /// The two logs aren't of the same time.
    #[error("the state is of view {state}, the Paxos log ends with view {vid}: they don't belong together")]
    Apart {
        /// The Paxos log's last view.
        vid: u32,
        /// The view that the state speaks of.
        state: u32,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

pub(crate) struct State<S: StateMachine> {
    pub(crate) replica: Replica,
    pub(crate) machine: Machine<S>,
    /// What is outstanding: procedure and arguments, and since when which backups refuse it.
    request: Option<(u32, Bytes, BTreeMap<String, Instant>)>,
    /// The answer to the last request executed as the primary; it may leave when this much is on the disk.
    answer: Option<(Viewstamp, Bytes, Position)>,
    /// What executions ask for, to be sent when this much is on the disk.
    pub(crate) effects: VecDeque<(Position, Vec<S::Effect>)>,
    /// How much of the journal describes this state.
    pub(crate) logged: Position,
    /// The view in which the state was in sync last, as the journal has it; 0 if it has none.
    mark: u32,
    pub(crate) foreign: Foreign,
    pub(crate) joiners: Joiners,
    /// A node that wants to join, and whose name nobody knows, is being looked at.
    pub(crate) looks_at_stranger: bool,
    /// The view that this node serves in has lab backups: no request in a session may go to them.
    pub(crate) lab_backups: bool,
    /// Lab members are several views ahead.
    pub(crate) left_behind: bool,
    /// When operators are to be told that nobody holds the state.
    pub(crate) outage_due: Option<Instant>,
    /// The disk hangs.
    pub(crate) disk_hangs: bool,
    /// The state was read from the disk, and hasn't been handed out since.
    pub(crate) is_from_disk: bool,
    /// The view in which the state was in sync last when it was read from the disk.
    pub(crate) mark_at_start: u32,
    /// A backup is being asked back whether requests are missing here.
    pub(crate) asks_back: bool,
    /// This node has been restarted again and again, and doesn't propose the same members before it has asked to be removed.
    pub(crate) unsteady: bool,
    pub(crate) stopping: bool,
}

impl<S: StateMachine> State<S> {
    /// The state is in sync in view `vid`: on the disk once `logged` is (rule 0). A new state has to be written whole.
    pub(crate) fn log_in_sync(&mut self, journal: &Journal, vid: u32, is_new: bool) {
        if is_new || self.mark == 0 {
            self.mark = vid;
            self.log_base(journal);
        } else {
            self.mark = vid;
            self.logged = journal.append(Item::Mark { vid });
        }
    }

    /// What this node is for the others.
    pub(crate) fn role(&self) -> Role {
        if self.unsteady && self.replica.wants_new_view() { Role::Unsteady } else { self.replica.role() }
    }

    fn log_base(&mut self, journal: &Journal) {
        let (last, state) = (self.replica.last_myvs(), self.machine.marshal_state());
        self.logged = journal.append(Item::Base { mark: self.mark, last, state });
    }

    fn log_request(&mut self, journal: &Journal, vs: Viewstamp, procno: u32, req: &Bytes) {
        let known = self.machine.knows(procno, &req.0);
        let (procedure, args) = if known { (procno, req.0.clone()) } else { (state_machine::NOTHING, Vec::new()) };
        self.logged = journal.append(Item::Request { vs, procedure, args });
        if journal.wants_base() {
            self.log_base(journal);
        }
    }

    /// What a simulator is told of a request that was executed.
    fn executed(&self, vs: Viewstamp, procno: u32, req: &Bytes, ran: bool, as_primary: bool) -> Event {
        let (inner, args) = state_machine::inner(procno, &req.0);
        let ran = ran.then(|| request_digest(inner, args));
        Event::Executed { vs, request: request_digest(procno, &req.0), ran, as_primary, state: self.digest() }
    }

    /// A number for the state.
    pub(crate) fn digest(&self) -> u64 {
        digest(&self.machine.marshal_state())
    }
}

type Sink<E> = Arc<dyn Fn(Vec<E>) + Send + Sync>;

/// What is started and has to be stopped.
#[derive(Default)]
struct Parts {
    /// What the journal had, until it is taken over at the start.
    recovered: Option<Recovered>,
    testsvr: Option<Server>,
    threads: Vec<JoinHandle>,
}

pub(crate) struct Inner<S: StateMachine> {
    pub(crate) me: String,
    pub(crate) first: String,
    options: Options,
    node: Node,
    pub(crate) cfg: Arc<Config>,
    pub(crate) handles: Handles,
    pub(crate) rsmrpc: Server,
    switches: Arc<Switches>,
    pub(crate) journal: Journal,
    invoke_turn: Mutex<()>,
    pub(crate) state: Mutex<State<S>>,
    /// Notified when the outstanding request is executed or dropped, and when the node stops.
    invoke_cond: Condvar,
    /// Notified when a view commits, when the primary answers, and when the node stops (lab: `recovery_cond`).
    pub(crate) recovery_cond: Condvar,
    /// Notified when a member is in sync, when a view commits, and when the node stops (lab: `sync_cond`).
    pub(crate) sync_cond: Condvar,
    sink: Mutex<Option<Sink<S::Effect>>>,
    parts: Mutex<Parts>,
}

/// A replica of a state machine. Dropping it does not stop it; see [`Rsm::shutdown`].
#[doc(alias = "rsm")]
pub struct Rsm<S: StateMachine>(pub(crate) Arc<Inner<S>>);

impl<S: StateMachine> Rsm<S> {
    /// A replica that is not yet started: procedures are registered next, then [`Rsm::start`] opens its port. Its log
    /// is read here.
    ///
    /// # Errors
    /// [`RsmError`].
    pub fn new(options: Options, state: S) -> Result<Self, RsmError> {
        let (me, server) = bind(&options)?;
        let first = if options.first == options.me { me.clone() } else { options.first.clone() };
        names::address(&first)?;
        let to_peers = yfs_rpc::Options { refused_patience: Some(REFUSED_PATIENCE), ..options.rpc.clone() };
        let handles = Handles::new(&options.pollmgr, to_peers);
        let on_fatal = options.on_fatal.clone();
        {
            // Before anything is written: the disk may be full of it. But another process may be writing it.
            let _lock = Log::lock(&options.dir.join(log::file_name(&me)))?;
            journal::clean_up(&options.dir, &me)?;
        }
        let cfg = Config::new(
            yfs_config::Options { me: me.clone(), dir: options.dir.clone(), timing: options.timing.clone() },
            server.clone(),
            handles.clone(),
            Arc::new(move |error| on_fatal(&advice::explain_log(error))),
        )?;
        let (vid, members) = match cfg.last_view() {
            Some((vid, view)) => (vid.0, view.members().to_vec()),
            None => (0, Vec::new()),
        };
        let view = |vid| cfg.get_view(ViewId(vid));
        let votes = Votes { me: &me, disk: cfg.disk(), vid, view: &view };
        let (journal, recovered) = own_disk::open_journal(&options.dir, first == me, &votes)?;
        observe(|| Event::Started { vid, members: members.clone() });
        let state = State {
            replica: Replica::new(&me, vid, members),
            machine: Machine::new(state),
            request: None,
            answer: None,
            effects: VecDeque::new(),
            logged: Position::default(),
            mark: 0,
            foreign: Foreign::default(),
            joiners: Joiners::new(options.timing.silence_of_lab),
            looks_at_stranger: false,
            lab_backups: false,
            left_behind: false,
            outage_due: None,
            disk_hangs: false,
            is_from_disk: false,
            mark_at_start: 0,
            asks_back: false,
            unsteady: false,
            stopping: false,
        };
        let inner = Arc::new(Inner {
            node: Node::new(&me),
            me,
            first,
            cfg,
            handles,
            rsmrpc: server,
            switches: Arc::new(Switches::new()),
            journal,
            invoke_turn: Mutex::new(INVOKE_RANK, ()),
            state: Mutex::new(STATE_RANK, state),
            invoke_cond: Condvar::new(),
            recovery_cond: Condvar::new(),
            sync_cond: Condvar::new(),
            sink: Mutex::new(SINK_RANK, None),
            parts: Mutex::new(PARTS_RANK, Parts { recovered, ..Parts::default() }),
            options,
        });
        let change: Weak<Inner<S>> = Arc::downgrade(&inner);
        inner.cfg.set_view_change(change);
        inner.cfg.set_joins_through(&inner.joins_through());
        inner.clone().register();
        Ok(Rsm(inner))
    }

    /// This node's name.
    pub fn me(&self) -> &str {
        &self.0.me
    }

    /// Registers a procedure of the state machine: a function of the state and the tuple of its arguments that returns
    /// a value and a result (lab: `rsm::reg`). The value isn't negative: -2 tells a client that its arguments couldn't be
    /// read, and that nothing was executed. See [`crate::state_machine`] for what it may do. To be called before
    /// [`Rsm::start`], which executes the requests in the node's log.
    ///
    /// # Panics
    /// If the number is taken, or is [`OPEN`](crate::protocol::OPEN)'s or [`REQUEST`](crate::protocol::REQUEST)'s.
    pub fn reg<A: Unmarshal + 'static, R: Marshal + 'static>(
        &self,
        procedure: Procedure<A, R>,
        handler: impl Fn(&mut S, A) -> (i32, R) + Send + Sync + 'static,
    ) {
        self.0.state.lock().machine.reg(procedure, handler);
    }

    /// Sets who gets the effects of executions: on the primary only, in order, one call at a time. It must not block.
    pub fn on_effects(&self, sink: impl Fn(Vec<S::Effect>) + Send + Sync + 'static) {
        *self.0.sink.lock() = Some(Arc::new(sink));
    }

    /// Opens the port, and begins to take part: as the first node of a new service, or by joining.
    ///
    /// # Errors
    /// [`RsmError`].
    pub fn start(&self) -> Result<(), RsmError> {
        let inner = &self.0;
        inner.start_journal()?;
        inner.note_short_lives();
        let address = inner.rsmrpc.local_addr().to_string();
        inner.rsmrpc.start().map_err(|error| RsmError::Listen { address, error })?;
        if let Some(port) = inner.options.test_port {
            let node: Weak<Inner<S>> = Arc::downgrade(inner);
            let rpc = inner.options.rpc.clone();
            let testsvr = test_server::start(&inner.options.pollmgr, rpc, port, inner.switches.clone(), node)
                .map_err(|error| RsmError::TestPort { port, error })?;
            inner.parts.lock().testsvr = Some(testsvr);
        }
        inner.cfg.set_role(inner.state.lock().role());
        inner.watch_disk();
        inner.cfg.start().map_err(RsmError::Thread)?;
        // What failed before was no life.
        inner.cfg.note_started();
        let recovering = inner.clone();
        let thread = inner.node.spawn("rsm.recovery", move || recovering.recovery()).map_err(RsmError::Thread)?;
        inner.parts.lock().threads.push(thread);
        Ok(())
    }

    /// Whether this node is the primary, and serves (lab: `amiprimary`).
    pub fn amiprimary(&self) -> bool {
        self.0.amiprimary()
    }

    /// The latest view: its number and its members, the primary first.
    pub fn view(&self) -> (u32, Vec<String>) {
        let state = self.0.state.lock();
        (state.replica.vid(), state.replica.members().to_vec())
    }

    /// The viewstamp of the last request executed here.
    pub fn last_executed(&self) -> Viewstamp {
        self.0.state.lock().replica.last_myvs()
    }

    /// Reads this replica's state, which may be behind.
    pub fn inspect<T>(&self, read: impl FnOnce(&S) -> T) -> T {
        read(&self.0.state.lock().machine.state)
    }

    /// Cuts this node off from the other members, but not from its clients, or connects it again: for tests.
    pub fn cut_members(&self, cut: bool) {
        Partition::cut_members(&*self.0, !cut);
    }

    /// Stops taking part, as if the node had died: port, threads and files are closed. False if a thread still runs
    /// after 10 s. Not to be called by a handler.
    pub fn shutdown(&self) -> bool {
        self.0.shutdown()
    }
}

impl<S: StateMachine> Clone for Rsm<S> {
    fn clone(&self) -> Self {
        Rsm(self.0.clone())
    }
}

impl<S: StateMachine> std::fmt::Debug for Rsm<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rsm({})", self.0.me)
    }
}

/// Takes the node's port, and returns its name.
fn bind(options: &Options) -> Result<(String, Server), RsmError> {
    let any = options.me == "0";
    let address = if any { "127.0.0.1:0".to_owned() } else { names::address(&options.me)? };
    let bound = rt::net::resolve(&address).and_then(|addresses| {
        let addr: SocketAddr = addresses.into_iter().next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        Node::new(&options.me).enter(|| Server::bind_on(&options.pollmgr, addr, options.rpc.clone()))
    });
    let server = bound.map_err(|error| RsmError::Listen { address, error })?;
    let me = if any { server.local_addr().port().to_string() } else { options.me.clone() };
    Ok((me, server))
}

impl<S: StateMachine> Inner<S> {
    /// The nodes to join through.
    pub(crate) fn joins_through(&self) -> Vec<String> {
        let names = std::iter::once(&self.first).chain(&self.options.also);
        names.filter(|name| **name != self.me).cloned().collect()
    }

    fn register(self: Arc<Self>) {
        // The server is ours: its handlers must not keep us.
        macro_rules! handler {
            (|$this:ident $(, $arg:ident : $type:ty)*| $body:expr, $otherwise:expr) => {{
                let weak = Arc::downgrade(&self);
                move |$($arg: $type),*| match weak.upgrade() {
                    Some($this) => $body,
                    None => $otherwise,
                }
            }};
        }
        self.rsmrpc.reg(
            CLIENT_INVOKE,
            handler!(
                |rsm, procno: u32, req: Bytes| rsm.client_invoke(procno, req),
                (ClientStatus::BUSY, Bytes::default())
            ),
        );
        let weak = Arc::downgrade(&self);
        self.rsmrpc.reg_async(CLIENT_MEMBERS, move |(_unused,): (i32,), token| {
            if let Some(rsm) = weak.upgrade() {
                token.reply(ClientStatus::OK, &rsm.client_members());
            }
        });
        self.rsmrpc.reg_on(
            Workers::Peers,
            INVOKE,
            handler!(|rsm, proc: u32, vs: Viewstamp, req: Bytes| rsm.invoke(proc, vs, &req), (RsmStatus::ERR, 0)),
        );
        self.rsmrpc.reg_on(
            Workers::Peers,
            TRANSFERREQ,
            handler!(
                |rsm, src: String, last: Viewstamp, vid: u32| rsm.transferreq(&src, last, vid),
                (RsmStatus::BUSY, Default::default())
            ),
        );
        self.rsmrpc.reg_on(
            Workers::Peers,
            TRANSFERDONEREQ,
            handler!(|rsm, m: String, vid: u32| rsm.transferdonereq(&m, vid), (RsmStatus::BUSY, 0)),
        );
        self.rsmrpc.reg_on(
            Workers::Joins,
            JOINREQ,
            handler!(|rsm, m: String, last: Viewstamp| rsm.joinreq(&m, last), (RsmStatus::BUSY, Bytes::default())),
        );
    }

    pub(crate) fn fatal(&self, reason: &str) {
        (self.options.on_fatal)(reason);
    }

    /// Hands out the effects that `take` finds due. One thread at a time: they stay in the order of `rsm.state`.
    pub(crate) fn emit(&self, take: impl FnOnce(&mut State<S>) -> Vec<S::Effect>) {
        let sink = self.sink.lock();
        let effects = take(&mut self.state.lock());
        if let Some(sink) = sink.as_ref().filter(|_| !effects.is_empty()) {
            sink(effects);
        }
    }

    /// Handler: the members of the latest view, and once more the primary (lab: `client_members`).
    fn client_members(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut members = state.replica.members().to_vec();
        members.push(self.primary_of(&state.replica));
        members
    }

    /// The primary of the latest view (lab: `set_primary`); before there is one, the node to join through.
    pub(crate) fn primary_of(&self, replica: &Replica) -> String {
        replica.primary().unwrap_or(&self.first).to_owned()
    }

    fn amiprimary(&self) -> bool {
        let state = self.state.lock();
        state.replica.is_primary() && !state.replica.in_view_change()
    }

    /// Cuts the node off in the middle of a request, if a tester asked for it (lab: `partition1`).
    fn partition1(&self) {
        if self.switches.partition1() {
            self.net_repair_wo(false);
        }
    }

    /// Cuts the node off from members and clients, or heals (lab: `net_repair_wo`).
    fn net_repair_wo(&self, heal: bool) {
        tracing::info!(node = %self.me, heal, "net_repair");
        self.handles.set_cut_off(!heal);
        self.rsmrpc.set_reachable(if heal { Reach::All } else { Reach::Nobody });
    }

    /// A view was committed (lab: `commit_change_wo`).
    fn commit_change_wo(&self, vid: ViewId) {
        let Some(view) = self.cfg.get_view(vid) else { return };
        let member = {
            let mut state = self.state.lock();
            let before = Some(state.replica.members().to_vec()).filter(|_| state.replica.is_member());
            if !state.replica.commit(vid.0, view.members().to_vec()) {
                return;
            }
            if let Some(before) = before.filter(|_| state.replica.is_member()) {
                state.joiners.view_changed(&before, view.members(), now());
            }
            observe(|| Event::ViewCommitted { vid: vid.0, members: view.members().to_vec() });
            if !rt::probe::weakened("S10-late-acknowledgement") {
                state.request = None;
            }
            state.left_behind = false;
            let (last, primary) = (state.replica.last_myvs(), self.primary_of(&state.replica));
            tracing::info!(node = %self.me, %vid, members = %view, primary, %last, "commit_change");
            state.replica.is_member()
        };
        self.invoke_cond.notify_all();
        self.recovery_cond.notify_all();
        self.sync_cond.notify_all();
        if member {
            self.switches.breakpoint2();
        }
    }

    fn shutdown(&self) -> bool {
        let deadline = now() + SHUTDOWN_PATIENCE;
        self.state.lock().stopping = true;
        self.invoke_cond.notify_all();
        self.recovery_cond.notify_all();
        self.sync_cond.notify_all();
        let Parts { testsvr, threads, .. } = std::mem::take(&mut *self.parts.lock());
        let mut ended = testsvr.is_none_or(|testsvr| testsvr.shutdown());
        ended &= self.cfg.shutdown(deadline);
        // Ends the calls that threads wait for.
        self.handles.clear();
        ended &= self.rsmrpc.shutdown();
        ended &= threads.iter().all(|thread| thread.join_until(deadline));
        ended &= self.journal.stop(deadline);
        *self.sink.lock() = None;
        ended
    }
}

impl<S: StateMachine> ViewChange for Inner<S> {
    fn commit_change(&self, vid: ViewId) {
        self.commit_change_wo(vid);
    }

    fn left_behind(&self) {
        self.state.lock().left_behind = true;
        self.recovery_cond.notify_all();
    }
}

impl<S: StateMachine> Partition for Inner<S> {
    fn net_repair(&self, heal: bool) {
        self.net_repair_wo(heal);
    }

    fn cut_members(&self, heal: bool) {
        self.handles.set_cut_off(!heal);
        self.rsmrpc.set_reachable(if heal { Reach::All } else { Reach::ClientsOnly });
    }

    fn breakpoint(&self, b: i32) {
        self.cfg.breakpoint(b);
    }
}

#[cfg(test)]
#[path = "rsm_tests.rs"]
mod tests;
