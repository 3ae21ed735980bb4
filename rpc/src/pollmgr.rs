//! The poll manager: one thread that watches all sockets and runs all timers (lab: `pollmgr.h`).
//!
//! Sources are watched edge-triggered, for reading and writing alike, from registration to removal: nobody changes an
//! interest later. A source that stops before its socket says `WouldBlock` asks to be called again.
//!
//! Invariants:
//! 1. Sources and timers are called on the poll thread only, with no lock of the poll manager held, and must not block.
//! 2. After [`PollMgr::remove`] has been called on the poll thread a source is not called again.
//!
//! Threads: `pollmgr`, one for each poll manager. Locks: `rpc.pollmgr` guards the tables and is never held across a call
//! out. Deviation from the lab: the manager is a value, so that several nodes and a simulator can live in one process;
//! [`PollMgr::shared`] is the lab's single one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rt::net::{Event, Interest, Poll, Registry, TcpListener, TcpStream, Token, Waker};
use rt::sync::{Mutex, Rank};
use rt::thread::Node;
use rt::time::{Instant, now};

/// Bytes read from a socket at once; the buffer is the poll thread's, shared by all connections.
const READ_BYTES: usize = 64 * 1024;
const WAKER: Token = Token(0);
/// The kernel counts in an i32 of milliseconds; who sleeps for ever wakes up now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
const STATE_RANK: Rank = Rank::new(130, "rpc.pollmgr");

/// Something with a socket.
pub(crate) trait Source: Send + Sync {
    /// The socket may be ready for something, or [`PollMgr::again`] was called. `scratch` is room to read into.
    /// `Continue` asks to be called again after the other sources had their turn.
    fn ready(self: Arc<Self>, scratch: &mut [u8]) -> ControlFlow<()>;
}

type Timer = Box<dyn FnOnce() + Send>;

/// Names a timer that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId {
    pub(crate) when: Instant,
    number: u64,
}

struct State {
    sources: BTreeMap<Token, Arc<dyn Source>>,
    /// Sources to be called although their sockets are silent.
    again: BTreeSet<Token>,
    timers: BTreeMap<TimerId, Timer>,
    /// The next token and the next timer's number; never used twice.
    next: u64,
    /// Until when the poll thread sleeps at most; `None` while it is awake and looks at these tables before it sleeps.
    sleeps_until: Option<Instant>,
    stopping: bool,
}

struct Shared {
    registry: Registry,
    waker: Waker,
    state: Mutex<State>,
}

/// Ends the thread when the last handle is gone.
struct Stop(Arc<Shared>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.state.lock().stopping = true;
        self.0.wake();
    }
}

/// A handle to a poll manager. Its thread ends when the last handle, and with it the last connection, is gone.
#[derive(Clone)]
pub struct PollMgr {
    shared: Arc<Shared>,
    _stop: Arc<Stop>,
}

lazy_static::lazy_static! {
    static ref SHARED: PollMgr =
        PollMgr::on(&Node::new("")).expect("a process needs one descriptor and one thread for its poll manager");
}

impl PollMgr {
    /// The process's default poll manager. It belongs to no node and never ends.
    ///
    /// # Panics
    /// If the process has no descriptor or thread left for it at the first call.
    pub fn shared() -> PollMgr {
        SHARED.clone()
    }

    /// A poll manager of its own, whose thread belongs to the caller's node.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads.
    pub fn new() -> io::Result<PollMgr> {
        Self::on(&Node::current())
    }

    fn on(node: &Node) -> io::Result<PollMgr> {
        let poll = Poll::new()?;
        let shared = Arc::new(Shared {
            registry: poll.registry().clone(),
            waker: poll.waker(WAKER)?,
            state: Mutex::new(
                STATE_RANK,
                State {
                    sources: BTreeMap::new(),
                    again: BTreeSet::new(),
                    timers: BTreeMap::new(),
                    next: 1,
                    sleeps_until: None,
                    stopping: false,
                },
            ),
        });
        let of_thread = shared.clone();
        node.spawn("pollmgr", move || pollmgr_thread_main(poll, &of_thread))?;
        Ok(PollMgr { _stop: Arc::new(Stop(shared.clone())), shared })
    }

    /// A token that nobody else has.
    pub(crate) fn token(&self) -> Token {
        let mut state = self.shared.state.lock();
        state.next += 1;
        Token(state.next as usize)
    }

    /// Watches a connection until [`PollMgr::remove`].
    pub(crate) fn add(&self, token: Token, stream: &TcpStream, source: Arc<dyn Source>) -> io::Result<()> {
        self.shared.state.lock().sources.insert(token, source);
        self.shared.registry.register(stream, token, Interest::BOTH).inspect_err(|_| self.forget(token))
    }

    /// Watches a listener until [`PollMgr::remove_listener`].
    pub(crate) fn add_listener(&self, token: Token, listener: &TcpListener, source: Arc<dyn Source>) -> io::Result<()> {
        self.shared.state.lock().sources.insert(token, source);
        self.shared.registry.register_listener(listener, token).inspect_err(|_| self.forget(token))
    }

    /// Stops watching. Errors are of no use to anybody: the socket is about to be closed.
    pub(crate) fn remove(&self, token: Token, stream: &TcpStream) {
        let _ = self.shared.registry.deregister(stream);
        self.forget(token);
    }

    /// Stops watching a listener.
    pub(crate) fn remove_listener(&self, token: Token, listener: &TcpListener) {
        let _ = self.shared.registry.deregister_listener(listener);
        self.forget(token);
    }

    fn forget(&self, token: Token) {
        let source = {
            let mut state = self.shared.state.lock();
            state.again.remove(&token);
            state.sources.remove(&token)
        };
        // Its destructor may call us.
        drop(source);
    }

    /// Has the source called soon, as if its socket had become ready.
    pub(crate) fn again(&self, token: Token) {
        let asleep = {
            let mut state = self.shared.state.lock();
            state.again.insert(token);
            // Whoever comes next finds the wake-up under way.
            state.sleeps_until.take().is_some()
        };
        if asleep {
            self.shared.wake();
        }
    }

    /// Runs `timer` at `when`, on the poll thread.
    pub(crate) fn at(&self, when: Instant, timer: impl FnOnce() + Send + 'static) -> TimerId {
        let (id, oversleeps) = {
            let mut state = self.shared.state.lock();
            state.next += 1;
            let id = TimerId { when, number: state.next };
            state.timers.insert(id, Box::new(timer));
            (id, state.sleeps_until.take_if(|until| when < *until).is_some())
        };
        if oversleeps {
            self.shared.wake();
        }
        id
    }

    /// Drops a timer, if it hasn't run yet.
    pub(crate) fn cancel(&self, id: TimerId) {
        let timer = self.shared.state.lock().timers.remove(&id);
        // What it holds may call us when it is dropped.
        drop(timer);
    }

    /// Runs `work` at `when` on the poll thread; it must not block.
    pub fn run_at(&self, when: Instant, work: impl FnOnce() + Send + 'static) {
        self.at(when, work);
    }

    /// Runs `work` on the poll thread as soon as it can, even if this is the last handle.
    pub(crate) fn defer(&self, work: impl FnOnce() + Send + 'static) {
        let alive = self.clone();
        self.at(Instant::ZERO, move || {
            work();
            drop(alive);
        });
    }
}

impl std::fmt::Debug for PollMgr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PollMgr")
    }
}

impl Shared {
    fn wake(&self) {
        // Fails only when the eventfd's counter is full: then a wake-up is pending already.
        let _ = self.waker.wake();
    }

    /// What is due now, and how long to sleep if nothing is. None: stop.
    fn due(&self) -> Option<(Vec<Timer>, BTreeSet<Token>, Option<Duration>)> {
        let mut state = self.state.lock();
        if state.stopping {
            return None;
        }
        let time = now();
        let mut due = Vec::new();
        while let Some(entry) = state.timers.first_entry() {
            if entry.key().when > time {
                break;
            }
            due.push(entry.remove());
        }
        let again = std::mem::take(&mut state.again);
        let sleep = if !due.is_empty() || !again.is_empty() {
            Some(Duration::ZERO)
        } else {
            state.timers.first_key_value().map(|(id, _)| (id.when - time).min(LONGEST_SLEEP))
        };
        state.sleeps_until = match sleep {
            Some(Duration::ZERO) => None,
            Some(sleep) => Some(time + sleep),
            None => Some(Instant::NEVER),
        };
        Some((due, again, sleep))
    }

    fn is_awake(&self) {
        self.state.lock().sleeps_until = None;
    }

    fn source(&self, token: Token) -> Option<Arc<dyn Source>> {
        self.state.lock().sources.get(&token).cloned()
    }
}

fn pollmgr_thread_main(mut poll: Poll, shared: &Shared) {
    let mut events: Vec<Event> = Vec::new();
    let mut scratch = vec![0; READ_BYTES];
    while let Some((timers, again, sleep)) = shared.due() {
        for timer in timers {
            timer();
        }
        // A socket's error is its source's business; the poll's own would be a bug of ours or an exhausted kernel.
        if let Err(error) = poll.poll(&mut events, sleep) {
            tracing::error!(%error, "poll failed");
            rt::time::sleep(Duration::from_millis(10));
        }
        shared.is_awake();
        for token in again.into_iter().chain(events.drain(..).map(|event| event.token)) {
            let Some(source) = shared.source(token) else { continue };
            if source.ready(&mut scratch).is_continue() {
                shared.state.lock().again.insert(token);
            }
        }
    }
}
