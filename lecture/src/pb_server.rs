//! The replicated server: [`crate::pb`] behind a port. It pings the view server, forwards what clients ask for to its
//! backup, and fetches the state from its primary.
//!
//! Threads: those of its port; `pb.pinger` pings and learns views; `pb.fetcher` does what a backup has to do to count.
//!
//! Locks: `pb.turn` is held while one client's request is under way, calls included: the lecture's "one at a time".
//! `pb.state` guards the server; the pinger needs it, so it isn't held during calls, nor while a state that arrived is read
//! and written. `pb.lines` guards the file, and is taken under `pb.state`, so that lines are in the order of execution.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Condvar, Mutex, MutexGuard, Rank};
use rt::thread::JoinHandle;
use rt::time::{Instant, now};
use yfs_rpc::marshall::Bytes;
use yfs_rpc::{PollMgr, Workers};

use crate::bank::{Accounts, MAX_BONUS, Op};
use crate::pb::{Begun, Due, Outcome, Server};
use crate::pb_file::Lines;
use crate::pb_protocol::{COUNTS, Entry, FORWARD, Forward, PING, PeerStatus, Ping, REQUEST, RequestStatus, TRANSFER};
use crate::pb_state::{self, Executed};
use crate::peers::{Peers, StartError, cannot_listen, listen};
use crate::view_server::BEGIN_ANEW;
use crate::views::{Life, PingStatus, Role, View, ViewId};

const TURN_RANK: Rank = Rank::new(12, "pb.turn");
const STATE_RANK: Rank = Rank::new(32, "pb.state");
const LINES_RANK: Rank = Rank::new(33, "pb.lines");
/// How long a backup may take to accept a request.
const FORWARD_PATIENCE: Duration = Duration::from_millis(300);
/// How long a primary may take to give the state.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// After a transfer that failed.
const TRANSFER_PAUSE: Duration = Duration::from_millis(50);
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// A server, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, and where it listens.
    pub name: String,
    /// Who knows the view.
    pub view_server: String,
    /// Where it writes what it executes.
    pub file: Option<PathBuf>,
    /// How often it pings: as the view server expects.
    pub interval: Duration,
    /// Whether it can be cut off from others.
    pub test: bool,
}

struct State {
    server: Server,
    /// Whether the view server has answered, and how; what was logged of that.
    heard: Option<PingStatus>,
    /// The other one of the view, if it doesn't answer; what was logged of that.
    silent: Option<String>,
    stopping: bool,
}

struct Inner {
    peers: Peers,
    view_server: String,
    interval: Duration,
    life: Life,
    turn: Mutex<()>,
    state: Mutex<State>,
    lines: Mutex<Lines>,
    /// Notified when there is something to ping or to fetch, and when the server stops.
    changed: Condvar,
}

/// A replicated server. Dropping it ends it.
pub struct PbServer {
    server: yfs_rpc::Server,
    inner: Arc<Inner>,
    threads: Vec<JoinHandle>,
}

impl PbServer {
    /// Begins with an empty file and no state, and pings.
    ///
    /// # Errors
    /// When the port or the file can't be used, or there is no thread.
    pub fn start(pollmgr: &PollMgr, options: &Options) -> Result<PbServer, StartError> {
        let Options { name, view_server, file, interval, test } = options;
        let server = listen(pollmgr, name)?;
        let lines = Mutex::new(LINES_RANK, Lines::begin(file.as_deref())?);
        tracing::info!(node = name.as_str(), kind = "start", view_server, "server, without a state");
        let state = State { server: Server::new(name), heard: Some(PingStatus::OK), silent: None, stopping: false };
        let inner = Arc::new(Inner {
            peers: Peers::new(pollmgr, name),
            view_server: view_server.clone(),
            interval: *interval,
            life: Life(rt::random::u64()),
            turn: Mutex::new(TURN_RANK, ()),
            state: Mutex::new(STATE_RANK, state),
            lines,
            changed: Condvar::new(),
        });
        if *test {
            inner.peers.serve_cut(&server)?;
        }
        inner.serve(&server);
        server.start().map_err(|e| cannot_listen(name, &e))?;
        let (pinger, fetcher) = (inner.clone(), inner.clone());
        let threads = [
            rt::thread::spawn("pb.pinger", move || pinger.ping_loop()),
            rt::thread::spawn("pb.fetcher", move || fetcher.fetch_loop()),
        ];
        let threads = threads.into_iter().collect::<Result<_, _>>();
        let threads = threads.map_err(|e| StartError(format!("cannot start a thread: {e}")))?;
        Ok(PbServer { server, inner, threads })
    }

    /// The last view that it heard of, and what it believes to be in it.
    pub fn view(&self) -> (View, Role) {
        let state = self.inner.state.lock();
        (state.server.view().clone(), state.server.role())
    }

    /// Whether it has all that was ever acknowledged, as far as it knows.
    pub fn is_complete(&self) -> bool {
        self.inner.state.lock().server.is_complete()
    }

    /// How many operations it has executed, and the accounts after them.
    pub fn accounts(&self) -> (u64, Accounts) {
        let state = self.inner.state.lock();
        (state.server.state().len(), state.server.state().accounts().clone())
    }

    /// Cuts it off from these, and from nobody else.
    pub fn cut(&self, others: &[&str]) {
        self.inner.peers.cut(others.iter().map(|name| (*name).to_owned()));
    }

    /// Why the file can't be written any more.
    pub fn broken(&self) -> Option<String> {
        self.inner.lines.lock().broken().map(str::to_owned)
    }

    /// Closes the port, and ends the threads.
    pub fn shutdown(&self) {
        self.inner.stop();
        self.server.shutdown();
        let deadline = now() + SHUTDOWN_PATIENCE;
        for thread in &self.threads {
            thread.join_until(deadline);
        }
    }
}

impl Drop for PbServer {
    fn drop(&mut self) {
        self.inner.stop();
    }
}

impl Inner {
    fn name(&self) -> &str {
        self.peers.name()
    }

    fn stop(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }

    fn serve(self: &Arc<Self>, server: &yfs_rpc::Server) {
        let own = self.clone();
        server.reg(REQUEST, move |client: u64, number: u64, op: String| own.request(client, number, &op));
        let own = self.clone();
        server.reg_on(Workers::Peers, FORWARD, move |forward: Forward| (own.accept(forward), true));
        let own = self.clone();
        server.reg_on(Workers::Peers, TRANSFER, move |view: ViewId, backup: String| own.give(view, &backup));
        let own = self.clone();
        server.reg_on(Workers::Peers, COUNTS, move |view: ViewId, backup: String, length: u64| {
            (own.backup_counts(view, &backup, length), true)
        });
    }

    /// A client's request: the whole of it, the backup's acceptance included.
    fn request(&self, client: u64, number: u64, op: &str) -> (RequestStatus, String) {
        let op: Op = match op.parse() {
            Ok(op) => op,
            Err(error) => return (RequestStatus::REFUSED, format!("{error}")),
        };
        let entry = Entry { client, number, op: op.drawn(|| 1 + rt::random::below(MAX_BONUS)).to_string() };
        let _turn = self.turn.lock();
        // At most one that is under way from before, and this one.
        for _ in 0..2 {
            let (to, forward) = {
                let mut state = self.state.lock();
                match state.server.begin(entry.clone()) {
                    Begun::Answer(status, answer) => return (status, answer),
                    Begun::Executed(executed) => {
                        self.executed(&state, &entry, &executed);
                        return (RequestStatus::OK, executed.answer);
                    }
                    Begun::Forward(to, forward) => (to, forward),
                }
            };
            let outcome = self.forward(&to, &forward);
            let mut state = self.state.lock();
            self.note_silence(&mut state, forward.view, &to, outcome == Outcome::NoAnswer);
            let executed = state.server.forwarded(&forward, outcome);
            if let Some(executed) = &executed {
                self.executed(&state, &forward.entry, executed);
            }
            match executed {
                Some(executed) if (forward.entry.client, forward.entry.number) == (client, number) => {
                    return (RequestStatus::OK, executed.answer);
                }
                Some(_) => {}
                None if outcome == Outcome::Rejected || state.server.role() != Role::Primary => {
                    return (RequestStatus::NOTPRIMARY, String::new());
                }
                None => break,
            }
        }
        (RequestStatus::BUSY, String::new())
    }

    /// Has the backup accept a request.
    fn forward(&self, backup: &str, forward: &Forward) -> Outcome {
        let answer = self.peers.call(backup, FORWARD, (forward.clone(),), FORWARD_PATIENCE);
        match answer.map(|(status, _)| PeerStatus::from_wire(status)) {
            Ok(Some(PeerStatus::OK)) => Outcome::Accepted,
            Ok(Some(PeerStatus::REJECTED)) => {
                let (op, view) = (&forward.entry.op, forward.view.number);
                tracing::warn!(node = self.name(), kind = "note", view, "{backup} rejects what was forwarded: {op}");
                Outcome::Rejected
            }
            Ok(None) | Err(_) => Outcome::NoAnswer,
        }
    }

    /// What another server forwards to this one.
    fn accept(&self, forward: Forward) -> PeerStatus {
        let mut state = self.state.lock();
        match state.server.accept(forward.clone()) {
            Some(executed) => {
                if let Some(executed) = executed {
                    self.executed(&state, &forward.entry, &executed);
                }
                PeerStatus::OK
            }
            None => {
                let Forward { from, view, entry, .. } = forward;
                let (view, knows) = (view.number, state.server.view().id.number);
                tracing::info!(node = self.name(), kind = "note", view, knows, "rejects {}, from {from}", entry.op);
                PeerStatus::REJECTED
            }
        }
    }

    /// Writes the line of what was executed, while that is the last one: the state is locked.
    fn executed(&self, _: &MutexGuard<'_, State>, entry: &Entry, executed: &Executed) {
        self.lines.lock().add(&executed.line);
        let Executed { place, answer, .. } = executed;
        tracing::debug!(node = self.name(), kind = "execute", number = place, answer, "{}", entry.op);
    }

    fn give(&self, view: ViewId, backup: &str) -> (PeerStatus, Bytes) {
        let state = self.state.lock().server.give(view, backup);
        match state {
            Some(bytes) => (PeerStatus::OK, bytes),
            None => (PeerStatus::REJECTED, Bytes::default()),
        }
    }

    fn backup_counts(&self, view: ViewId, backup: &str, length: u64) -> PeerStatus {
        let mut state = self.state.lock();
        let counts = state.server.backup_counts(view, backup, length);
        drop(state);
        // The view can be acknowledged.
        self.changed.notify_all();
        if counts { PeerStatus::OK } else { PeerStatus::REJECTED }
    }

    /// The pinger's thread.
    fn ping_loop(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let knows = state.server.acknowledges();
            let began = now();
            drop(state);
            let interval = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
            let ping = Ping { name: self.name().to_owned(), life: self.life, knows, interval };
            let patience = self.interval.max(Duration::from_millis(100));
            let answer = self.peers.call(&self.view_server, PING, (ping,), patience);
            state = self.state.lock();
            self.learn(&mut state, answer.ok());
            let next = began + self.interval;
            while !state.stopping && state.server.acknowledges() == knows && now() < next {
                self.changed.wait_until(&mut state, next);
            }
        }
    }

    fn learn(&self, state: &mut State, answer: Option<(i32, View)>) {
        let node = self.name();
        let status = answer.as_ref().and_then(|(status, _)| PingStatus::from_wire(*status));
        if status != state.heard {
            let view = state.server.view().id;
            match status {
                None => tracing::warn!(node, kind = "note", "the view server doesn't answer: still in view {view}"),
                Some(PingStatus::OK) => tracing::info!(node, kind = "note", "the view server answers"),
                Some(PingStatus::STRANGER) => {
                    tracing::warn!(node, kind = "note", "the view names this server as it was before its restart");
                }
                Some(PingStatus::FOREIGN) => tracing::error!(
                    node,
                    kind = "note",
                    "the view server was restarted: it knows nothing of view {view}, and this server stays in it. \
                     {BEGIN_ANEW}"
                ),
                Some(PingStatus::FULL) => tracing::error!(node, kind = "note", "the view server has too many servers"),
                Some(PingStatus::NAME) => tracing::error!(node, kind = "note", "the view server doesn't take the name"),
            }
            state.heard = status;
        }
        let was = state.server.role();
        if let (Some(status), Some((_, view))) = (status, answer)
            && state.server.learn(status, view)
        {
            state.silent = None;
            let view = state.server.view();
            match state.server.role() {
                Role::Primary if state.server.is_complete() => tracing::info!(node, kind = "primary", "view {view}"),
                Role::Primary => tracing::error!(node, kind = "primary", "view {view}: without the state"),
                Role::Backup => tracing::info!(node, kind = "view", "backup in view {view}"),
                Role::Idle if was == Role::Idle => tracing::info!(node, kind = "view", "idle in view {view}"),
                Role::Idle => tracing::info!(node, kind = "view", "not in view {view} any more"),
            }
            self.changed.notify_all();
        }
    }

    /// Logs, once, that the other one of the view doesn't answer: nothing moves then. And when it does.
    fn note_silence(&self, state: &mut State, view: ViewId, other: &str, is_silent: bool) {
        if state.server.view().id != view || state.silent.is_some() == is_silent {
            return;
        }
        let node = self.name();
        match is_silent {
            true => tracing::warn!(
                node,
                kind = "note",
                "{other} doesn't answer: nobody is served until it does, or is in the view no longer"
            ),
            false => tracing::info!(node, kind = "note", "{other} answers"),
        }
        state.silent = is_silent.then(|| other.to_owned());
    }

    /// The fetcher's thread.
    fn fetch_loop(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let Some(due) = state.server.due() else {
                self.changed.wait(&mut state);
                continue;
            };
            drop(state);
            let (done, after) = self.do_due(due);
            state = after;
            if !done {
                let again = now() + TRANSFER_PAUSE;
                self.pause(&mut state, again);
            }
        }
    }

    fn pause(&self, state: &mut MutexGuard<'_, State>, until: Instant) {
        while !state.stopping && now() < until {
            self.changed.wait_until(state, until);
        }
    }

    /// Whether something came of it.
    fn do_due(&self, due: Due) -> (bool, MutexGuard<'_, State>) {
        let (name, node) = (self.name().to_owned(), self.name());
        let ok = |status: i32| PeerStatus::from_wire(status) == Some(PeerStatus::OK);
        match due {
            Due::Fetch(primary, view) => {
                let answer = self.peers.call(&primary, TRANSFER, (view, name), TRANSFER_PATIENCE);
                let read = match &answer {
                    Ok((status, Bytes(bytes))) if ok(*status) => pb_state::State::from_bytes(bytes).map(Some),
                    _ => Ok(None),
                };
                let mut state = self.state.lock();
                self.note_silence(&mut state, view, &primary, answer.is_err());
                let (fetched, lines) = match read {
                    Ok(Some(read)) => read,
                    Ok(None) => return (false, state),
                    Err(error) => {
                        tracing::error!(node, kind = "transfer", "the state of {primary} can't be used: {error}");
                        return (false, state);
                    }
                };
                if !state.server.install(view, fetched) {
                    return (false, state);
                }
                // Before anything is executed on top of it, but pings go on.
                let mut file = self.lines.lock();
                drop(state);
                file.rewrite(&lines);
                drop(file);
                let (view, operations) = (view.number, lines.len());
                tracing::info!(node, kind = "transfer", view, operations, "has the state of {primary}");
                (true, self.state.lock())
            }
            Due::Tell(primary, view, length) => {
                let answer = self.peers.call(&primary, COUNTS, (view, name, length), FORWARD_PATIENCE);
                let mut state = self.state.lock();
                self.note_silence(&mut state, view, &primary, answer.is_err());
                let told = answer.is_ok_and(|(status, _)| ok(status));
                if told {
                    state.server.told(view);
                }
                (told, state)
            }
        }
    }
}
