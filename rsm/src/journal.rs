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
//!    owner begins a new generation ([`Journal::begin`]) before it tells anybody what it has read.
//! 4. A generation has its name only when its base is on the disk: it is written to `rsm-<me>.log.new`, synced, renamed,
//!    and the folder synced. So a crash leaves the old one or the new one, and a base that isn't whole is damage. What a
//!    crash leaves of `.new` is never read, and removed by the next [`Journal::open`].
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
//! | the file is gone | the node has no state, as a new one |
//!
//! Group commit: [`Journal::append`] only queues. A thread of its own, `rsm.journal`, takes all that is queued, writes it
//! in one write (with a base before it, in three, so that no state is copied), syncs once, and tells. What is queued
//! before a base isn't written: the base's state has it. The queue has no bound: its owners wait for what they append,
//! and have a few requests outstanding.
//!
//! Lock: `rsm.journal` (27), for moments; never held while the disk works or a callback runs. `append` may be called
//! under `rsm.state`. Between processes there is none: who has the node's Paxos log (it is locked) has this one, too,
//! and opens it afterwards.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rt::fs::{self, File};
use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{JoinHandle, Node};
use rt::time::{Instant, now};

use crate::protocol::Viewstamp;
use format::{Order, Refused, Scan, TooLong, Writer};

mod format;

const JOURNAL_RANK: Rank = Rank::new(27, "rsm.journal");
/// A base isn't wanted before so many bytes came after the last one.
const LEAST_TAIL_BYTES: usize = 1 << 20;

/// Why the journal can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("{}: can't {doing} it: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// It isn't what was written.
    #[error("{}: damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins that can't be read, counted from 0.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// Another version of this program wrote it.
    #[error("{}: of format {format}, which this version can't read", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A state, or a request's arguments, can't be written.
    #[error("{}: {bytes} bytes are too many: a state may have {}, a request {}", path.display(),
        format::MAX_STATE_BYTES, format::MAX_ARGS_BYTES)]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How many there are.
        bytes: usize,
    },
    /// It was stopped.
    #[error("{}: not written any more: the node stops", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

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
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The last view in which the node was in sync.
    pub mark: u32,
    /// The last request executed in `state`.
    pub base_last: Viewstamp,
    /// The base.
    pub state: Vec<u8>,
    /// The requests executed since, in order: place, procedure, arguments.
    pub requests: Vec<(Viewstamp, u32, Vec<u8>)>,
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
    /// Since when something is to be written.
    pending_since: Option<Instant>,
    failure: Option<JournalError>,
    stopping: bool,
    /// The disk, until the thread has it.
    disk: Option<Disk>,
    thread: Option<JoinHandle>,
}

impl Journal {
    /// Opens the journal of node `me` in `dir`, and hands over what it says; `None` if there is none. Drops a torn end.
    /// Takes no lock: the caller has that of the Paxos log.
    ///
    /// # Errors
    /// When the file is damaged or can't be read.
    pub fn open(dir: &Path, me: &str) -> Result<(Journal, Option<Recovered>), JournalError> {
        let path = dir.join(file_name(me));
        remove_leftover(&beside(&path, ".new"))?;
        let recovered = if exists(&path)? { Some(read(&path, me)?) } else { None };
        let disk = Disk { path: path.clone(), generation: None };
        Ok((Journal::new(path, Some(disk)), recovered))
    }

    /// A journal without a file: what is appended counts as durable at once.
    pub fn memory() -> Journal {
        Journal::new(PathBuf::new(), None)
    }

    fn new(path: PathBuf, disk: Option<Disk>) -> Journal {
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
            failure: None,
            stopping: false,
            disk,
            thread: None,
        };
        let state = Mutex::new(JOURNAL_RANK, state);
        Journal(Arc::new(Inner { path, is_in_memory, state, work: Condvar::new(), progress: Condvar::new() }))
    }

    /// Begins a new generation with this state, and returns when it is on the disk: what the node was given by
    /// [`Journal::open`] counts from then on. Only before [`Journal::start`]; later a base is appended.
    ///
    /// # Errors
    /// When it may not be on the disk, which is not told to any `on_fatal`; the journal can't be used then.
    ///
    /// # Panics
    /// After [`Journal::start`].
    pub fn begin(&self, mark: u32, last: Viewstamp, state: Vec<u8>) -> Result<(), JournalError> {
        self.append(Item::Base { mark, last, state });
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
    /// in order, and `on_fatal` if the disk fails, once; both without a lock. [`Journal::begin`] is told to neither. They
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
        let state = self.0.state.lock();
        !self.0.is_in_memory && state.tail_bytes > LEAST_TAIL_BYTES.max(state.base_bytes.saturating_mul(2))
    }

    /// For how long the disk has not been done with something: a disk that works takes milliseconds.
    pub fn stalled(&self) -> Duration {
        self.0.state.lock().pending_since.map_or(Duration::ZERO, Instant::elapsed)
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
            let (batch, position) = {
                let mut state = self.state.lock();
                while state.taken == state.appended && !state.stopping {
                    self.work.wait(&mut state);
                }
                if state.stopping {
                    return Ok(());
                }
                state.take()
            };
            if let Some(disk) = &mut disk {
                self.write(disk, batch, position)?;
            }
            on_synced(position);
        }
    }

    /// Writes a batch that ends at `position`, and tells those who wait how it went.
    fn write(&self, disk: &mut Disk, batch: Vec<Item>, position: Position) -> Result<(), JournalError> {
        let written = disk.write(batch);
        {
            let mut state = self.state.lock();
            match &written {
                Ok(()) => {
                    state.durable = position;
                    state.pending_since = (state.appended > position).then(now);
                }
                Err(error) => {
                    state.failure = Some(error.clone());
                    state.queue.clear();
                    state.queued_bytes = 0;
                }
            }
        }
        self.progress.notify_all();
        written
    }
}

/// The file, as its only writer has it.
struct Disk {
    path: PathBuf,
    /// `None` until this process has begun one.
    generation: Option<Generation>,
}

struct Generation {
    file: File,
    writer: Writer,
}

impl Disk {
    /// Writes items and returns when they are on the disk. What comes before the last base isn't written.
    fn write(&mut self, mut batch: Vec<Item>) -> Result<(), JournalError> {
        if let Some(at) = batch.iter().rposition(|item| matches!(item, Item::Base { .. })) {
            let mut items = batch.drain(at..);
            if let Some(Item::Base { mark, last, state }) = items.next() {
                let rest: Vec<Item> = items.collect();
                drop(batch);
                self.generation = Some(self.replace(mark, last, state, &rest)?);
            }
            return Ok(());
        }
        let path = &self.path;
        let Generation { file, writer } = self.generation.as_mut().expect("the first item is a base");
        let bytes = frames(path, writer, Vec::new(), &batch)?;
        drop(batch);
        file.write_all(&bytes).map_err(io(path, "write"))?;
        file.sync_data().map_err(io(path, "sync"))
    }

    /// Puts a new generation in the place of the one before, if any (invariant 4).
    fn replace(&self, mark: u32, last: Viewstamp, state: Vec<u8>, rest: &[Item]) -> Result<Generation, JournalError> {
        let path = &self.path;
        let new = beside(path, ".new");
        remove_leftover(&new)?;
        let (mut writer, head) = Writer::begin(mark, last, &state).map_err(too_long(path))?;
        let tail = frames(path, &mut writer, format::end_of_base(), rest)?;
        let mut file = File::create_new(&new).map_err(io(&new, "open"))?;
        for bytes in [head, state, tail] {
            file.write_all(&bytes).map_err(io(&new, "write"))?;
        }
        file.sync_data().map_err(io(&new, "sync"))?;
        fs::rename(&new, path).map_err(io(path, "replace"))?;
        sync_folder(path)?;
        Ok(Generation { file, writer })
    }
}

/// Adds the frames of requests and marks to `out`.
fn frames(path: &Path, writer: &mut Writer, mut out: Vec<u8>, items: &[Item]) -> Result<Vec<u8>, JournalError> {
    out.reserve_exact(items.iter().map(format::frame_bytes).sum());
    for item in items {
        writer.frame(&mut out, item).map_err(too_long(path))?;
    }
    Ok(out)
}

/// What the file at `path` says.
fn read(path: &Path, me: &str) -> Result<Recovered, JournalError> {
    let bytes = fs::read(path).map_err(io(path, "read"))?;
    let Scan { recovered, keep } = Scan::of(&bytes).map_err(|refused| match refused {
        Refused::Damaged { offset, what } => JournalError::Damaged { path: path.to_owned(), offset, what },
        Refused::Format(format) => JournalError::Format { path: path.to_owned(), format },
    })?;
    if keep < bytes.len() {
        let to = bytes.len();
        tracing::warn!(node = me, file = %path.display(), from = keep, to, "torn end of journal dropped");
    }
    Ok(recovered)
}

/// Gives the journal of an earlier life of node `me` another name, `rsm-<me>.log.aside`, for sure: a node without its
/// Paxos log is a new node, whatever its name was used for. One that was set aside before is replaced. Returns whether
/// there was one.
///
/// # Errors
/// What the operating system says.
pub fn set_aside(dir: &Path, me: &str) -> Result<bool, JournalError> {
    let path = dir.join(file_name(me));
    if !exists(&path)? {
        return Ok(false);
    }
    fs::rename(&path, &beside(&path, ".aside")).map_err(io(&path, "set aside"))?;
    sync_folder(&path)?;
    Ok(true)
}

/// The file beside the journal whose name ends in `end`.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn exists(path: &Path) -> Result<bool, JournalError> {
    fs::exists(path).map_err(io(path, "look for"))
}

fn remove_leftover(new: &Path) -> Result<(), JournalError> {
    if exists(new)? {
        fs::remove_file(new).map_err(io(new, "remove"))?;
    }
    Ok(())
}

fn sync_folder(path: &Path) -> Result<(), JournalError> {
    fs::sync_dir(path.parent().unwrap_or(Path::new(""))).map_err(io(path, "sync the folder of"))
}

/// An error of the operating system, about a file.
fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| JournalError::Io { path: path.to_owned(), doing, source: Arc::new(source) }
}

fn too_long(path: &Path) -> impl FnOnce(TooLong) -> JournalError {
    move |TooLong { bytes }| JournalError::TooLong { path: path.to_owned(), bytes }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
