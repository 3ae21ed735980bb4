//! The durable log of a replica's state: `rsm-<me>.log`, beside the Paxos log. journal/format.rs has its bytes.
//!
//! A file is one generation: a base, which is a whole state, and the requests executed since. The state that it stands
//! for is the base with these requests executed on it, in order. A mark says that the node was in sync in a view with
//! the state as of there.
//!
//! Invariants:
//! 1. What [`Journal::wait`] has confirmed, and `on_synced` was told of, is on the disk, with everything that was
//!    appended before it since the last base.
//! 2. What is read of a file is a prefix of what was appended to it, one that holds all that was confirmed. What a crash
//!    leaves of the last write behind its whole frames is dropped, with a warning. Everything else that isn't as it was
//!    written is an error with the file and the byte, never another state.
//! 3. Nothing is ever appended to a file that was read: its bytes may be those of a failed sync, which the operating
//!    system reports once and then shows as long as it remembers them, and no sync of that file writes them again. The
//!    owner begins a new generation before it tells anybody what it has read.
//! 4. A generation has its name only when its base is on the disk: it is written to `rsm-<me>.log.new`, synced, renamed,
//!    and the folder synced. So a crash leaves the old one or the new one, and a base that isn't whole is damage. What a
//!    crash leaves of `.new` is never read, and removed by the next [`Journal::open`]; what an error leaves, at once.
//! 5. Requests follow each other without a gap: the next number in the same view, or the first of a later one; marks
//!    never fall. Asserted when they are appended, checked when they are read.
//! 6. After an error of the disk nothing more is written or confirmed: what was written isn't known. All who wait are
//!    told, and `on_fatal` once.
//!
//! Failure cases:
//!
//! | what | then |
//! |---|---|
//! | the process ends, at any moment | the file has what was written, perhaps a part of the last write; 2 |
//! | the machine loses power | the same; of what wasn't confirmed any prefix is left, perhaps with zeros behind it |
//! | the same, and the disk wrote a later part of one write before an earlier one | damage: it can't be told from what a disk spoils. An operator decides |
//! | one of them while a generation is replaced | the old one or the new one; nothing that only the new one has is confirmed yet |
//! | a write or a sync fails, a full disk among them | 6; the next start reads what is there and begins anew; 3 |
//! | the disk changes a byte of what was confirmed | an error, or nothing is missing: if it is the file's very last byte, and zero now |
//! | the disk turns the end of what was confirmed into zeros | not noticed, if what is left is a beginning; nor is a file that lost whole frames at its end |
//! | the file is gone at a start | the node has no state, as a new one |
//! | it is removed or replaced while the node runs | 6, once [`Journal::look`] has found it |
//!
//! Group commit: [`Journal::append`] only queues. A thread of its own, `rsm.journal`, takes all that is queued, writes it,
//! syncs, and tells. What is queued before a base isn't written: the base's state has it. The queue is bounded by its
//! owner, which takes no request while [`Journal::is_behind`]. What is long is written in chunks, and synced now and
//! then, so that [`Journal::stalled`] sees that the disk works, and no sync takes minutes.
//!
//! Lock: `rsm.journal` (27), for moments; never held while the disk works or a callback runs. `append` may be called
//! under `rsm.state`. Between processes there is none: who has the node's Paxos log (it is locked) has this one, too,
//! and opens it afterwards.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rt::probe::observe;
use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{JoinHandle, Node};
use rt::time::{Instant, now};
use yfs_paxos::DiskId;

use crate::events::Event;
use crate::protocol::Viewstamp;
pub use aside::{Aside, clean_up, set_aside};
use disk::{Disk, exists, read};
pub use error::JournalError;
use format::Order;

mod aside;
mod disk;
mod error;
mod format;

const JOURNAL_RANK: Rank = Rank::new(27, "rsm.journal");
/// A base isn't wanted before so many bytes came after the last one.
const LEAST_TAIL_BYTES: usize = 1 << 20;
/// Up to so many percent more come before one, by the node's name: all members get the same requests, and shouldn't all
/// write their states at the same one.
const MOST_TAIL_PERCENT: u32 = 50;
/// More than this in the queue means that the disk can't keep up.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// A disk that hasn't got on for so long can't keep up, either.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// What is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole state: begins a new generation.
    Base {
        /// The view in which the node was in sync with this state.
        mark: u32,
        /// The last request executed in it.
        last: Viewstamp,
        /// The marshalled state, of at most 1 GiB.
        state: Vec<u8>,
    },
    /// A request was executed.
    Request {
        /// Its place.
        vs: Viewstamp,
        /// The procedure.
        procedure: u32,
        /// The marshalled arguments, of at most 10 MiB.
        args: Vec<u8>,
    },
    /// The node is in sync in this view, with the state as of here.
    Mark {
        /// The view.
        vid: u32,
    },
    /// An operator starts over: the node is in sync in this view once its Paxos log has it, too (start_over.rs). The last
    /// item of its generation.
    StartOver {
        /// The first view with this node alone.
        vid: u32,
    },
}

impl Item {
    /// The last request executed, if it tells.
    fn last(&self) -> Option<Viewstamp> {
        match self {
            Item::Base { last, .. } => Some(*last),
            Item::Request { vs, .. } => Some(*vs),
            Item::Mark { .. } | Item::StartOver { .. } => None,
        }
    }
}

/// Whose a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node's name.
    pub name: String,
    /// The number of its disk, as in its Paxos log.
    pub disk: DiskId,
}

/// A request that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it begins in the file.
    pub offset: usize,
    /// Its place.
    pub vs: Viewstamp,
    /// The procedure.
    pub procedure: u32,
    /// The marshalled arguments.
    pub args: Vec<u8>,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose it is.
    pub owner: Owner,
    /// The last view in which the node was in sync.
    pub mark: u32,
    /// The last request executed in `state`.
    pub base_last: Viewstamp,
    /// The base.
    pub state: Vec<u8>,
    /// The requests executed since, in order.
    pub requests: Vec<Logged>,
    /// The view of an [`Item::StartOver`].
    pub start_over: Option<u32>,
}

impl Recovered {
    /// The last request executed.
    pub fn last(&self) -> Viewstamp {
        self.requests.last().map_or(self.base_last, |request| request.vs)
    }
}

/// How many items were appended, up to some item: its place in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// The name of a node's journal in its folder.
pub fn file_name(me: &str) -> String {
    format!("rsm-{me}.log")
}

/// A node's journal. Clones are the same one. Dropping it does not stop its thread; see [`Journal::stop`].
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    path: PathBuf,
    owner: Owner,
    is_in_memory: bool,
    state: Mutex<State>,
    /// Notified when something is appended, and when the node stops.
    work: Condvar,
    /// Notified when something is durable, when the disk failed, and when the node stops.
    progress: Condvar,
}

struct State {
    /// What may be appended; nothing but a base at first.
    order: Option<Order>,
    queue: Vec<Item>,
    queued_bytes: usize,
    appended: Position,
    /// What has left the queue.
    taken: Position,
    durable: Position,
    /// The bytes of the last base, and of what came after it.
    base_bytes: usize,
    tail_bytes: usize,
    /// Something is to be done by the disk: since when it hasn't got on.
    pending_since: Option<Instant>,
    /// Whether the file is still there is to be looked at.
    look: bool,
    failure: Option<JournalError>,
    stopping: bool,
    /// The disk, until the thread has it.
    disk: Option<Disk>,
    thread: Option<JoinHandle>,
}

impl Journal {
    /// Opens the journal of node `me` in `dir`, and hands over what it says; `None` if there is none. Drops a torn end.
    /// Takes no lock: the caller has that of the Paxos log, which is on `disk`. Whether what was read is this node's is
    /// not checked here ([`crate::pair`]); what is written says so.
    ///
    /// # Errors
    /// When the file is damaged or can't be read.
    pub fn open(dir: &Path, me: &str, disk: DiskId) -> Result<(Journal, Option<Recovered>), JournalError> {
        clean_up(dir, me)?;
        let recovered = Journal::look(dir, me)?;
        Ok((Journal::at(dir, me, disk), recovered))
    }

    /// The same, without a look at what it says.
    pub fn at(dir: &Path, me: &str, disk: DiskId) -> Journal {
        let path = dir.join(file_name(me));
        let owner = Owner { name: me.to_owned(), disk };
        let disk = Disk { path: path.clone(), owner: owner.clone(), generation: None };
        Journal::new(path, owner, Some(disk))
    }

    /// What the journal of node `me` in `dir` says. Changes nothing.
    ///
    /// # Errors
    /// When the file is damaged or can't be read.
    pub fn look(dir: &Path, me: &str) -> Result<Option<Recovered>, JournalError> {
        let path = dir.join(file_name(me));
        if exists(&path)? { read(&path, me).map(Some) } else { Ok(None) }
    }

    /// A journal without a file: what is appended counts as durable at once.
    pub fn memory() -> Journal {
        Journal::new(PathBuf::new(), Owner { name: String::new(), disk: DiskId(0) }, None)
    }

    fn new(path: PathBuf, owner: Owner, disk: Option<Disk>) -> Journal {
        let is_in_memory = disk.is_none();
        let state = State {
            order: None,
            queue: Vec::new(),
            queued_bytes: 0,
            appended: Position::default(),
            taken: Position::default(),
            durable: Position::default(),
            base_bytes: 0,
            tail_bytes: 0,
            pending_since: None,
            look: false,
            failure: None,
            stopping: false,
            disk,
            thread: None,
        };
        let state = Mutex::new(JOURNAL_RANK, state);
        Journal(Arc::new(Inner { path, owner, is_in_memory, state, work: Condvar::new(), progress: Condvar::new() }))
    }

    /// Writes what is queued, a base at least, as one generation, and returns when it is on the disk: all of it or nothing.
    /// Only before [`Journal::start`].
    ///
    /// # Errors
    /// When it may not be on the disk, which is not told to any `on_fatal`; the journal can't be used then.
    ///
    /// # Panics
    /// After [`Journal::start`].
    pub fn write_queued(&self) -> Result<(), JournalError> {
        if self.0.is_in_memory {
            return Ok(());
        }
        let (mut disk, (batch, position)) = {
            let mut state = self.0.state.lock();
            self.0.check(&state)?;
            let disk = state.disk.take().expect("the journal's thread isn't started");
            (disk, state.take())
        };
        self.0.write(&mut disk, batch, position)?;
        self.0.state.lock().disk = Some(disk);
        Ok(())
    }

    /// Starts the thread that writes, of this node. It calls `on_synced` when everything up to a position is on the disk,
    /// in order, and `on_fatal` if the disk fails, once; both without a lock. They
    /// may not call [`Journal::stop`], which would wait for them.
    ///
    /// # Errors
    /// When the operating system has no thread to give; the journal can't be used then.
    ///
    /// # Panics
    /// If it was started before, or failed.
    pub fn start(
        &self,
        node: &Node,
        on_synced: impl Fn(Position) + Send + 'static,
        on_fatal: impl Fn(&JournalError) + Send + 'static,
    ) -> io::Result<()> {
        let inner = self.0.clone();
        let disk = {
            let mut state = inner.state.lock();
            assert!(state.thread.is_none() && (state.disk.is_some() || inner.is_in_memory), "a journal starts once");
            state.disk.take()
        };
        let thread = node.spawn("rsm.journal", move || {
            if let Err(error) = inner.run(disk, on_synced) {
                on_fatal(&error);
            }
        })?;
        self.0.state.lock().thread = Some(thread);
        Ok(())
    }

    /// Queues an item, and returns its position. Waits for no disk. After a failure or a stop the position is one that
    /// never becomes durable.
    ///
    /// # Panics
    /// If it is out of order (invariant 5).
    pub fn append(&self, item: Item) -> Position {
        let bytes = format::frame_bytes(&item);
        let mut state = self.0.state.lock();
        state.check(&item);
        state.appended.0 += 1;
        if matches!(item, Item::Base { .. }) {
            (state.base_bytes, state.tail_bytes) = (bytes, 0);
            // Its state has what is queued.
            state.queue.clear();
            state.queued_bytes = 0;
        } else {
            state.tail_bytes = state.tail_bytes.saturating_add(bytes);
        }
        if state.failure.is_none() && !state.stopping {
            if self.0.is_in_memory {
                state.durable = state.appended;
            } else {
                state.queued_bytes += bytes;
                state.queue.push(item);
                state.pending_since.get_or_insert_with(now);
            }
        }
        let position = state.appended;
        drop(state);
        self.0.work.notify_one();
        position
    }

    /// Blocks until everything up to `position` is on the disk. False if it isn't at `until`.
    ///
    /// # Errors
    /// After a failure or a stop. What is waited for may be on the disk all the same.
    pub fn wait(&self, position: Position, until: Option<Instant>) -> Result<bool, JournalError> {
        let mut state = self.0.state.lock();
        let mut in_time = true;
        loop {
            if state.durable >= position {
                return Ok(true);
            }
            self.0.check(&state)?;
            if !in_time {
                return Ok(false);
            }
            match until {
                Some(until) => in_time = self.0.progress.wait_until(&mut state, until),
                None => self.0.progress.wait(&mut state),
            }
        }
    }

    /// Up to where everything is on the disk.
    pub fn durable(&self) -> Position {
        self.0.state.lock().durable
    }

    /// Whether so much was appended since the last base that the next item should be one.
    pub fn wants_base(&self) -> bool {
        let percent = 100 + crc32fast::hash(self.0.owner.name.as_bytes()) % (MOST_TAIL_PERCENT + 1);
        let state = self.0.state.lock();
        let most = LEAST_TAIL_BYTES.max(state.base_bytes.saturating_mul(2));
        !self.0.is_in_memory && state.tail_bytes > most.saturating_mul(percent as usize) / 100
    }

    /// For how long the disk hasn't got on with what it has to do: one that works takes milliseconds. A long state that is
    /// being written gets on all the time.
    pub fn stalled(&self) -> Duration {
        self.0.state.lock().pending_since.map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Whether the disk doesn't keep up, so that no more should be taken on.
    pub fn is_behind(&self) -> bool {
        self.queued_bytes() > MAX_QUEUED_BYTES || self.stalled() >= SLOW_DISK
    }

    /// Has the thread look whether the file still has its name. If it hasn't, that is an error of the disk.
    pub fn watch(&self) {
        if self.0.is_in_memory {
            return;
        }
        let mut state = self.0.state.lock();
        if state.failure.is_none() && !state.stopping && state.thread.is_some() {
            state.look = true;
            state.pending_since.get_or_insert_with(now);
            drop(state);
            self.0.work.notify_one();
        }
    }

    /// How many bytes are queued, without those that are being written.
    pub fn queued_bytes(&self) -> usize {
        self.0.state.lock().queued_bytes
    }

    /// Ends the thread after the write under way, if any; what is queued isn't written. Those who wait are told. False if
    /// the thread still runs at `deadline`.
    pub fn stop(&self, deadline: Instant) -> bool {
        let thread = {
            let mut state = self.0.state.lock();
            state.stopping = true;
            state.thread.take()
        };
        self.0.work.notify_all();
        self.0.progress.notify_all();
        let Some(thread) = thread else { return true };
        let has_ended = thread.join_until(deadline);
        if !has_ended {
            self.0.state.lock().thread = Some(thread);
        }
        has_ended
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({})", self.0.path.display())
    }
}

impl State {
    /// Asserts invariant 5.
    fn check(&mut self, item: &Item) {
        let checked = match (item, &mut self.order) {
            (Item::Base { mark, last, .. }, order) => {
                *order = Some(Order::new(*mark, *last));
                Ok(())
            }
            (_, None) => Err("nothing comes before the first base".to_owned()),
            (Item::Request { vs, .. }, Some(order)) => order.request(*vs),
            (Item::Mark { vid }, Some(order)) => order.mark(*vid),
            (Item::StartOver { vid }, Some(order)) => order.start_over(*vid),
        };
        assert_eq!(checked, Ok(()), "appended out of order");
    }

    /// What is queued, and the position of its last item.
    fn take(&mut self) -> (Vec<Item>, Position) {
        self.queued_bytes = 0;
        self.taken = self.appended;
        (std::mem::take(&mut self.queue), self.taken)
    }
}

impl Inner {
    /// An error if nothing is written any more.
    fn check(&self, state: &State) -> Result<(), JournalError> {
        if let Some(error) = &state.failure {
            return Err(error.clone());
        }
        if state.stopping {
            return Err(JournalError::Stopped { path: self.path.clone() });
        }
        Ok(())
    }

    /// The thread. Without a disk it only tells.
    fn run(&self, mut disk: Option<Disk>, on_synced: impl Fn(Position)) -> Result<(), JournalError> {
        loop {
            let (looks, batch, position) = {
                let mut state = self.state.lock();
                while state.taken == state.appended && !state.look && !state.stopping {
                    self.work.wait(&mut state);
                }
                if state.stopping {
                    return Ok(());
                }
                let looks = std::mem::take(&mut state.look);
                let has_more = state.taken < state.appended;
                let (batch, position) = state.take();
                (looks, batch, has_more.then_some(position))
            };
            if let Some(disk) = disk.as_ref().filter(|_| looks) {
                self.done(disk.look(), None)?;
            }
            let Some(position) = position else { continue };
            if let Some(disk) = &mut disk {
                self.write(disk, batch, position)?;
            }
            on_synced(position);
        }
    }

    /// Writes a batch that ends at `position`, and tells those who wait how it went.
    fn write(&self, disk: &mut Disk, batch: Vec<Item>, position: Position) -> Result<(), JournalError> {
        let last = batch.iter().rev().find_map(Item::last);
        let written = disk.write(batch, &|| self.gets_on());
        if let (Ok(()), Some(last)) = (&written, last) {
            observe(|| Event::OnDisk { last });
        }
        self.done(written, Some(position))
    }

    /// The disk works.
    fn gets_on(&self) {
        let mut state = self.state.lock();
        state.pending_since = state.pending_since.map(|_| now());
    }

    /// The disk has done something: written up to `position`, if that is what it was.
    fn done(&self, result: Result<(), JournalError>, position: Option<Position>) -> Result<(), JournalError> {
        {
            let mut state = self.state.lock();
            match &result {
                Ok(()) => {
                    state.durable = position.unwrap_or(state.durable);
                    state.pending_since = (state.appended > state.durable || state.look).then(now);
                }
                Err(error) => {
                    state.failure = Some(error.clone());
                    state.queue.clear();
                    state.queued_bytes = 0;
                }
            }
        }
        self.progress.notify_all();
        result
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
