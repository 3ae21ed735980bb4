//! The node's knowledge of views, and the ways to change it (lab: `class config`).
//!
//! Invariants:
//! 1. This state follows the acceptor's: a view is here once it is on the disk, and [`ViewChange::commit_change`] is
//!    called after that, with no lock held, in order.
//! 2. No round is started unless a majority of the view has answered a ping lately: nobody writes promises for ever
//!    against a dead majority.
//! 3. The heartbeat handler takes `config.state` for a moment; it waits for neither disk nor round (H13), and nothing
//!    that a heartbeat says stops the node (H16).
//! 4. Values are taken only from members of this node's own last view, or from a node that the owner says it joins
//!    through; from a lab node only one at a time, from one of ours only if it is of the same service, as far as both know:
//!    a node that lost its disk may have begun another one with the same names. Who is alone in its last view takes
//!    them only from one that tells the number which it knows.
//!
//! Threads: the heartbeater. Handlers run where their bytes are read. Rounds run on the caller's thread.
//! Locks: `config.state` ([`ranks::STATE`]).
//!
//! Deviations from the lab: another view number is no reason for a removal. A node that is behind asks a node that is
//! ahead, by a prepare with n = 0, which asks for a value and for nothing else. A heartbeat is answered ERR with the
//! *asker's* number by a node that wants to be removed (with 0 if it knows no view); a lab node that asks removes it for
//! any ERR. To a lab node that is behind for long we answer ERR, as the lab does: its round then learns the value.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::sync::{Condvar, Mutex};
use rt::thread::{JoinHandle, Node};
use rt::time::{Instant, now};
use yfs_paxos::protocol::{HEARTBEAT, PaxosStatus};
use yfs_paxos::value::check_name;
use yfs_paxos::{Acceptor, DiskId, Instance, LogError, OnFatal, PaxosChange, Proposer, RestoreError, ServiceId, Value};
use yfs_rpc::{Handles, Server};

use crate::detector::FailureDetector;
use crate::roles::Role;
use crate::view::{ViewId, Views};
use crate::{Options, ranks};

/// How long a caller waits for an upcall that another thread makes.
const UPCALL_PATIENCE: Duration = Duration::from_secs(1);
/// A node that asked to be removed itself spares others who ask for so long after that: what made it ask (a disk that hung,
/// short lives) may have come over all members, and the last of them would be alone.
const OWN_TROUBLE: Duration = Duration::from_secs(5);

/// What the layer above is told. Called with no lock held.
#[doc(alias = "config_view_change")]
pub trait ViewChange: Send + Sync {
    /// View `vid` is committed. Called for each view once, in order; not for those known at the start.
    fn commit_change(&self, vid: ViewId);

    /// A member that is of the lab is more than one view ahead: what is missing is in joinreq's log. Must not block.
    fn left_behind(&self) {}

    /// A majority of the view stopped answering, or answers again. For messages to operators.
    fn majority_changed(&self, _present: bool) {}
}

pub(crate) struct State {
    pub(crate) views: Views,
    pub(crate) detector: FailureDetector,
    /// When the last view was learnt.
    pub(crate) changed: Instant,
    /// A node that is ahead, and its view, to be asked.
    pub(crate) ahead: Option<(String, ViewId)>,
    /// Since when heartbeats show that this node is behind.
    pub(crate) behind_since: Option<Instant>,
    /// What this node is; it may ask to be removed because of that.
    pub(crate) role: Role,
    /// It asks to be removed, because its disk hangs.
    pub(crate) disk_hangs: bool,
    /// It asks to be removed, for another reason.
    pub(crate) asks_removal: bool,
    /// Until then those who ask to be removed stay.
    pub(crate) spares_askers_until: Instant,
    /// Until then lab nodes aren't pinged: they are several views ahead.
    pub(crate) lab_rests_until: Option<Instant>,
    /// A view with the same members is wanted after this one.
    pub(crate) same_wanted: Option<ViewId>,
    /// The nodes that this one joins through: they are believed as members are.
    pub(crate) through: Vec<String>,
    /// Who spoke last of a view, without being a member.
    pub(crate) heard: Option<(String, ViewId)>,
    pub(crate) majority: bool,
    /// The members of which operators were told that their disks are lost.
    pub(crate) told_lost: Vec<String>,
    /// The nodes of which operators were told that they are of another service.
    pub(crate) told_foreign: BTreeSet<String>,
    pub(crate) change: Option<Weak<dyn ViewChange>>,
    pub(crate) stopping: bool,
    /// The heartbeater should look at once.
    pub(crate) kicked: bool,
}

impl State {
    /// Whether this node, `me`, answers heartbeats "remove me".
    pub(crate) fn wants_out(&self, me: &str) -> bool {
        self.asks_removal || self.disk_hangs || self.role.asks_removal() && self.views.is_member(me)
    }

    /// Whether values are asked of a node, one by one (invariant 4). Not while this node knows no view: a first node that
    /// lost its disk, and knows view 1 alone when it dies, would take itself for the only member. It gets all views at
    /// once, from joinreq.
    pub(crate) fn believes(&self, name: &str) -> bool {
        let joins_through = self.through.iter().any(|known| known == name) && self.views.vid() > ViewId(0);
        self.views.is_member(name) || joins_through
    }

    /// Whether `me`, this node, is the only member of its last view. Then no view follows without its own vote: who is ahead
    /// is of another service, unless it tells that it is of this one.
    pub(crate) fn is_alone(&self, me: &str) -> bool {
        self.views.last().is_some_and(|last| last.members() == [me])
    }

    /// Keeps in mind that `name` spoke of a view to `me`, this node, if it isn't a member.
    pub(crate) fn hear(&mut self, me: &str, name: &str, vid: ViewId) {
        if vid > ViewId(0) && name != me && !self.views.is_member(name) && check_name(name).is_ok() {
            self.heard = Some((name.to_owned(), vid));
        }
    }
}

/// A node's views.
#[doc(alias = "config")]
pub struct Config {
    pub(crate) weak: Weak<Config>,
    pub(crate) options: Options,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) proposer: Proposer,
    pub(crate) handles: Handles,
    server: Server,
    pub(crate) state: Mutex<State>,
    /// Notified when: a view is committed, a ping is answered or ends, the heartbeater is kicked, the node stops.
    pub(crate) changed: Condvar,
    thread: Mutex<Option<JoinHandle>>,
}

impl Config {
    /// Reads the node's log and registers its handlers. The owner then sets who is told ([`Config::set_view_change`]),
    /// opens the port and calls [`Config::start`]. `on_fatal` is called when the log can't be written any more.
    ///
    /// # Errors
    /// When the log can't be used.
    pub fn new(options: Options, server: Server, handles: Handles, on_fatal: OnFatal) -> Result<Arc<Self>, LogError> {
        let acceptor = Acceptor::open(&options.dir, &options.me, on_fatal)?;
        let mut detector = FailureDetector::new(&options.me, options.timing.clone());
        let mut views = Views::default();
        for (instance, value) in acceptor.values() {
            views.commit(ViewId(instance), &value);
        }
        if let Some(view) = views.last() {
            detector.view_changed(view.members(), now());
            tracing::info!(node = %options.me, vid = %views.vid(), members = %view, "view from the log");
        }
        let state = State {
            views,
            detector,
            changed: now(),
            ahead: None,
            behind_since: None,
            role: Role::Holder,
            disk_hangs: false,
            asks_removal: false,
            spares_askers_until: Instant::ZERO,
            lab_rests_until: None,
            same_wanted: None,
            through: Vec::new(),
            heard: None,
            majority: true,
            told_lost: Vec::new(),
            told_foreign: BTreeSet::new(),
            change: None,
            stopping: false,
            kicked: false,
        };
        let config = Arc::new_cyclic(|weak: &Weak<Config>| Config {
            weak: weak.clone(),
            proposer: Proposer::new(acceptor.clone(), handles.clone()),
            acceptor,
            options,
            handles,
            server,
            state: Mutex::new(ranks::STATE, state),
            changed: Condvar::new(),
            thread: Mutex::new(ranks::THREAD, None),
        });
        let weak = config.weak.clone();
        config.acceptor.set_change(weak.clone());
        config.acceptor.register(&config.server);
        config.server.reg_inline(HEARTBEAT, move |m: String, vid: u32| match weak.upgrade() {
            Some(config) => config.heartbeat(&m, ViewId(vid)),
            None => (PaxosStatus::ERR, 0),
        });
        Ok(config)
    }

    /// Who is told of views. To be called before the port opens.
    pub fn set_view_change(&self, change: Weak<dyn ViewChange>) {
        self.state.lock().change = Some(change);
    }

    /// Names the nodes through which this one joins: when one of them is ahead, it is followed though it is no member of
    /// the last view here.
    pub fn set_joins_through(&self, names: &[String]) {
        self.state.lock().through = names.to_vec();
    }

    /// Starts the heartbeater.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(&self) -> std::io::Result<()> {
        let weak = self.weak.clone();
        let thread = Node::new(&self.options.me).spawn("heartbeater", move || crate::heartbeater::run(&weak))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Stops the heartbeater and waits for it, at most until `deadline`. False if it still runs then.
    pub fn shutdown(&self, deadline: Instant) -> bool {
        self.state.lock().stopping = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        thread.is_none_or(|thread| thread.join_until(deadline))
    }

    /// The node's server, for the layers above to register with (lab: `get_rpcs`).
    pub fn get_rpcs(&self) -> Server {
        self.server.clone()
    }

    /// The node's clients of other nodes.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// This node's name.
    pub fn myaddr(&self) -> &str {
        &self.options.me
    }

    /// The number of the last view; 0 if there is none.
    pub fn vid(&self) -> ViewId {
        self.state.lock().views.vid()
    }

    /// The number of the last view that is decided, as far as this node knows. Another thread may be about to tell of it.
    pub fn decided(&self) -> ViewId {
        ViewId(self.acceptor.instance())
    }

    /// A view.
    pub fn get_view(&self, vid: ViewId) -> Option<Value> {
        self.state.lock().views.get(vid).cloned()
    }

    /// The last view and its number.
    pub fn last_view(&self) -> Option<(ViewId, Value)> {
        let state = self.state.lock();
        Some((state.views.vid(), state.views.last()?.clone()))
    }

    /// Whether one of the last `views` views has named `m`.
    pub fn has_named(&self, m: &str, views: usize) -> bool {
        self.state.lock().views.latest().take(views).any(|view| view.contains(m))
    }

    /// Whether `name` is asked for views when it knows more of them: a member of the last view, or a node that this one joins
    /// through, but nobody while this node knows no view.
    pub fn believes(&self, name: &str) -> bool {
        self.state.lock().believes(name)
    }

    /// Whether `m` is a member of view `vid`.
    pub fn ismember(&self, m: &str, vid: ViewId) -> bool {
        self.state.lock().views.get(vid).is_some_and(|view| view.contains(m))
    }

    /// For how long the disk has not been done with something for the Paxos log.
    pub fn disk_stalled(&self) -> Duration {
        self.acceptor.stalled()
    }

    /// How many lives of this node before this one were short, one after the other (L8).
    pub fn short_lives(&self) -> u32 {
        self.acceptor.short_lives()
    }

    /// Counts this life among the short ones, until [`Config::note_lived`]. Waits for the disk.
    pub fn note_started(&self) {
        self.acceptor.note_started();
    }

    /// Writes down that this life isn't a short one. Waits for the disk.
    pub fn note_lived(&self) {
        self.acceptor.note_lived();
    }

    /// The number of the disk that the Paxos log is on.
    ///
    /// # Panics
    /// Never: each log that is open has one.
    pub fn disk(&self) -> DiskId {
        self.acceptor.disk().expect("each log has a disk line")
    }

    /// Whether the Paxos log is empty: a new node, or one that lost its disk.
    pub fn is_new(&self) -> bool {
        self.acceptor.is_new()
    }

    /// A node that isn't a member and spoke of a view, and which; told once. A first node that hears this may have
    /// lost its disk.
    pub fn take_heard_of_view(&self) -> Option<(String, ViewId)> {
        self.state.lock().heard.take()
    }

    /// Commits view 1, this node alone. For the first node of a new service only: its owner knows that it is one. False if
    /// the log isn't empty.
    ///
    /// # Errors
    /// When the log can't be written.
    pub fn bootstrap(&self) -> Result<bool, LogError> {
        self.acceptor.bootstrap()
    }

    /// The Paxos log as text, for a node that joins.
    pub fn dump(&self) -> String {
        self.acceptor.dump()
    }

    /// Takes over the views of another node's log that are missing here, and the number of its service; own promises stay
    /// (H27). Returns the last view's number.
    ///
    /// # Errors
    /// When the text isn't a log that goes on where this one ends, or this one can't be written.
    pub fn restore(&self, log: &str, service: Option<ServiceId>) -> Result<ViewId, RestoreError> {
        let vid = ViewId(self.acceptor.restore(log, service)?);
        self.wait_for(vid);
        Ok(vid)
    }

    /// Whether a round of this node is running. Doesn't wait for it (H13).
    pub fn isrunning(&self) -> bool {
        self.proposer.isrunning()
    }

    /// The layer above has seen a call to `name` fail: it is pinged at once, and removed if it is gone.
    pub fn suspect(&self, name: &str) {
        let mut state = self.state.lock();
        if state.detector.doubt(name) {
            state.kicked = true;
            self.changed.notify_all();
        }
    }

    /// From now on heartbeats are answered "remove me", until a view doesn't name this node, or until it is taken back.
    pub fn ask_removal(&self, wanted: bool) {
        self.change(|state| state.asks_removal = wanted);
    }

    /// Whether the disk hangs: a node that can't write asks to be removed, and removes nobody.
    pub fn set_disk_hangs(&self, hangs: bool) {
        self.change(|state| state.disk_hangs = hangs);
    }

    /// Changes what makes this node ask to be removed.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        let before = state.wants_out(&self.options.me);
        change(&mut state);
        if before || state.wants_out(&self.options.me) {
            state.spares_askers_until = now() + OWN_TROUBLE;
        }
    }

    /// Simulates failures, for the tester: 3 and 4 are the proposer's.
    pub fn breakpoint(&self, b: i32) {
        self.proposer.breakpoint(b);
    }

    /// Waits a moment for a view that is decided to be told here.
    pub(crate) fn wait_for(&self, vid: ViewId) {
        let deadline = now() + UPCALL_PATIENCE;
        let mut state = self.state.lock();
        while state.views.vid() < vid && self.changed.wait_until(&mut state, deadline) {}
    }

    /// Handler: a member says in which view it is (invariant 3).
    fn heartbeat(&self, m: &str, vid: ViewId) -> (PaxosStatus, i32) {
        let patience = self.options.timing.mismatch;
        while rt::probe::weakened("H13-heartbeat-waits") && self.proposer.isrunning() {
            rt::time::sleep(self.options.timing.tick);
        }
        let mut state = self.state.lock();
        let mine = state.views.vid();
        let surprise = mine != ViewId(0) && vid > mine.next();
        assert!(!(surprise && rt::probe::weakened("H16-heartbeat-stops")), "a heartbeat from views ahead");
        let trusted = m != self.options.me && state.believes(m);
        state.hear(&self.options.me, m, vid);
        if state.wants_out(&self.options.me) {
            // "Remove me": ERR, and the asker's own number. But one that knows no view says that in any case: it may have
            // lost its disk (rule 3).
            let known = mine != ViewId(0) || rt::probe::weakened("S4-blank-is-hidden");
            return (PaxosStatus::ERR, if known { vid.0.cast_signed() } else { 0 });
        }
        let ok = if vid == mine || !trusted {
            vid == mine
        } else if vid > mine {
            let since = *state.behind_since.get_or_insert_with(now);
            self.follow(&mut state, m, vid);
            since.elapsed() < patience
        } else {
            state.changed.elapsed() < patience || self.proposer.isrunning()
        };
        (if ok { PaxosStatus::OK } else { PaxosStatus::ERR }, mine.0.cast_signed())
    }

    /// Has the heartbeater ask `peer`, which is ahead.
    pub(crate) fn follow(&self, state: &mut State, peer: &str, vid: ViewId) {
        if state.ahead.is_none() {
            state.ahead = Some((peer.to_owned(), vid));
            state.kicked = true;
            self.changed.notify_all();
        }
    }
}

impl PaxosChange for Config {
    fn paxos_commit(&self, instance: Instance, value: &Value) {
        let vid = ViewId(instance);
        let (change, left) = {
            let mut state = self.state.lock();
            let before = state.views.last().cloned();
            if !state.views.commit(vid, value) {
                return;
            }
            let time = now();
            state.changed = time;
            state.behind_since = None;
            state.lab_rests_until = None;
            state.asks_removal &= value.contains(&self.options.me);
            state.detector.view_changed(value.members(), time);
            state.kicked = true;
            let left: Vec<String> = before
                .iter()
                .flat_map(|view| view.members())
                .filter(|m| !value.contains(m) && **m != self.options.me)
                .cloned()
                .collect();
            (state.change.as_ref().and_then(Weak::upgrade), left)
        };
        self.changed.notify_all();
        tracing::info!(node = %self.options.me, vid = %vid, members = %value, "view");
        for name in left {
            self.handles.forget(&name);
        }
        if let Some(change) = change {
            change.commit_change(vid);
        }
    }

    fn fallen_behind(&self, peer: &str, instance: Instance) {
        let mut state = self.state.lock();
        let vid = ViewId(instance.saturating_sub(1));
        state.hear(&self.options.me, peer, vid);
        if state.believes(peer) {
            self.follow(&mut state, peer, vid);
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({})", self.options.me)
    }
}
