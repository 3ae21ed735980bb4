//! A connection: PDUs in and out of one socket (lab: `connection.h`).
//!
//! Reading happens on the poll thread. Writing happens where the PDU was made, if the socket has room and nobody else
//! is writing; what doesn't fit waits in a buffer that the poll thread empties. Replies that are made while a batch of
//! requests is being read leave in one write.
//!
//! Invariants:
//! 1. PDUs leave in the order of [`Connection::send`], whole or not at all; after a failure nothing leaves any more.
//! 2. [`Owner::closed`] is called exactly once, on the poll thread, and no PDU is handed over after it.
//! 3. What a connection holds of unfinished PDUs and unsent bytes is bounded, for each and for all of an owner's together
//!    ([`Budget`]): who exceeds that is cut off, and so is who sends or reads too slowly.
//! 4. From an accepted connection nothing is read while much is unsent, so that nobody asks faster than they listen.
//!    Where we asked, we always read: otherwise both ends could wait for each other.
//!
//! Locks: `connection.reading` is a turn lock of the poll thread, held while PDUs are handed over;
//! `connection.writing` guards the unsent bytes and is never held across a call out.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::net::{TcpStream, Token};
use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};

use crate::pdu::FrameDecoder;
use crate::pollmgr::{PollMgr, Source};

/// Reads before other connections get their turn.
const READS_PER_TURN: usize = 16;
/// Unsent bytes beyond which an accepted connection is not read.
const HIGH_WATER_BYTES: usize = 1 << 20;
/// Unsent bytes after which a peer that doesn't read is cut off.
const MAX_UNSENT_BYTES: usize = 64 << 20;
/// A peer must take so many bytes a second, or all there are. It is looked at in spans of the owner's patience.
/// A PDU that has begun must be whole within that patience, and one second more for each so many bytes.
const BYTES_PER_SECOND: usize = 64 << 10;
/// What every connection may hold in either direction, however many connections there are.
const FREE_BYTES: usize = 64 << 10;
/// What all connections of one owner together may hold beyond that, in each direction.
const MAX_TOTAL_BYTES: usize = 256 << 20;

const READING_RANK: Rank = Rank::new(1, "rpc.connection.reading");
const WRITING_RANK: Rank = Rank::new(120, "rpc.connection.writing");

/// Who a connection's PDUs are for. Called on the poll thread; must not block.
pub(crate) trait Owner: Send + Sync {
    /// The connection attempt has succeeded. Not called for accepted connections.
    fn connected(self: Arc<Self>, connection: &Arc<Connection>);
    /// A whole PDU, its length included. `Break` stops reading until [`Connection::resume`].
    fn pdu(self: Arc<Self>, connection: &Arc<Connection>, pdu: &[u8]) -> ControlFlow<()>;
    /// The connection is gone.
    fn closed(self: Arc<Self>, connection: &Arc<Connection>, why: &io::Error);
}

/// Why PDUs that were read wait in the decoder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The owner wants none until it says so.
    Owner,
    /// Too much is unsent.
    Backlog,
}

struct Reading {
    decoder: FrameDecoder,
    stop: Option<Stop>,
    /// Bytes of the decoder that are counted in `Budget`.
    counted: usize,
}

/// How fast the peer takes what waits.
struct Waiting {
    since: Instant,
    taken: usize,
}

struct Writing {
    /// Bytes not yet taken by the socket, from `start` on.
    unsent: Vec<u8>,
    start: usize,
    /// False until the connection attempt has succeeded.
    connected: bool,
    /// A batch of requests is being read: replies are collected.
    collecting: bool,
    /// Set while bytes wait.
    waiting: Option<Waiting>,
    /// Bytes of the buffer that are counted in `Budget`.
    counted: usize,
    /// Why nothing leaves any more.
    failed: Option<io::Error>,
}

/// What the connections of one owner share.
pub(crate) struct Budget {
    /// For how long a peer may keep an unfinished PDU, or bytes that it doesn't read, waiting.
    patience: Duration,
    unfinished: AtomicUsize,
    unsent: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Budget { patience, unfinished: AtomicUsize::new(0), unsent: AtomicUsize::new(0) })
    }
}

/// Has `total` hold what a connection holds now beyond its free share, instead of `counted`. False if it grew too big.
fn recount(total: &AtomicUsize, counted: &mut usize, held: usize) -> bool {
    let after = held.saturating_sub(FREE_BYTES);
    let before = std::mem::replace(counted, after);
    if after <= before {
        total.fetch_sub(before - after, Ordering::Relaxed);
        return true;
    }
    total.fetch_add(after - before, Ordering::Relaxed) + (after - before) <= MAX_TOTAL_BYTES
}

/// One socket, shared by the poll thread and whoever sends.
pub(crate) struct Connection {
    pub(crate) token: Token,
    stream: TcpStream,
    pollmgr: PollMgr,
    owner: Weak<dyn Owner>,
    budget: Arc<Budget>,
    reading: Mutex<Reading>,
    writing: Mutex<Writing>,
    /// Whether it was accepted, and not made by us.
    accepted: bool,
    /// How many bytes are unsent; changes under `writing` only.
    backlog: AtomicUsize,
    /// [`Connection::resume`] was called, and the poll thread hasn't seen it yet.
    resumed: AtomicBool,
    /// When the unfinished PDU's first byte came, in milliseconds since the clock's zero, plus one; 0: there is none.
    partial_since_ms: AtomicUsize,
    closed: AtomicBool,
}

/// Whether a PDU could be handed to the connection. What was sent may still be lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    Closed,
}

impl Connection {
    /// Takes over an accepted or just begun connection.
    pub(crate) fn start(
        pollmgr: &PollMgr,
        stream: TcpStream,
        accepted: bool,
        owner: Weak<dyn Owner>,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let writing = Writing {
            unsent: Vec::new(),
            start: 0,
            connected: accepted,
            collecting: false,
            waiting: None,
            counted: 0,
            failed: None,
        };
        Arc::new(Connection {
            token: pollmgr.token(),
            stream,
            pollmgr: pollmgr.clone(),
            owner,
            budget,
            reading: Mutex::new(READING_RANK, Reading { decoder: FrameDecoder::new(), stop: None, counted: 0 }),
            writing: Mutex::new(WRITING_RANK, writing),
            accepted,
            backlog: AtomicUsize::new(0),
            resumed: AtomicBool::new(false),
            partial_since_ms: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// A number that no other connection of the poll manager has.
    pub(crate) fn id(&self) -> u64 {
        self.token.0 as u64
    }

    /// From now on the owner is called.
    pub(crate) fn watch(self: &Arc<Self>) -> io::Result<()> {
        self.pollmgr.add(self.token, &self.stream, self.clone())
    }

    /// Sends a whole PDU. Never blocks, never calls the owner.
    pub(crate) fn send(&self, pdu: &[u8]) -> Sent {
        let mut writing = self.writing.lock();
        if writing.failed.is_some() {
            return Sent::Closed;
        }
        let mut rest = pdu;
        if writing.connected && !writing.collecting && writing.unsent.is_empty() {
            // Until the socket refuses: only then can the poll thread count on hearing of room.
            while !rest.is_empty() {
                match self.stream.write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        self.fail(&mut writing, e);
                        return Sent::Closed;
                    }
                }
            }
        }
        if rest.is_empty() {
            return Sent::Taken;
        }
        writing.unsent.extend_from_slice(rest);
        if !writing.collecting {
            writing.waiting.get_or_insert_with(|| Waiting { since: now(), taken: 0 });
        }
        if self.recount_unsent(&mut writing) { Sent::Taken } else { Sent::Closed }
    }

    /// The other end's address.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Reads again after the owner's `Break`.
    pub(crate) fn resume(&self) {
        self.resumed.store(true, Ordering::Release);
        self.pollmgr.again(self.token);
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Ends the connection; the owner's `closed` follows on the poll thread.
    pub(crate) fn close(&self, why: &str) {
        self.fail(&mut self.writing.lock(), io::Error::other(why.to_owned()));
    }

    /// Ends the connection if its peer is too slow, reading or writing. To be called once a second or so.
    pub(crate) fn check_progress(&self) {
        let time = now();
        let since = self.partial_since_ms.load(Ordering::Relaxed);
        if since != 0 {
            let began = Instant::from_start(Duration::from_millis(since as u64 - 1));
            // The decoder is the poll thread's, and so is this call.
            let buffered = self.reading.lock().decoder.buffered();
            let allowed = self.budget.patience + Duration::from_secs((buffered / BYTES_PER_SECOND) as u64);
            if time - began > allowed {
                return self.close("the peer sends a request too slowly");
            }
        }
        let mut writing = self.writing.lock();
        let Some(waiting) = writing.waiting.as_mut().filter(|waiting| time - waiting.since > self.budget.patience)
        else {
            return;
        };
        if (waiting.taken as u128) * 1000 < (BYTES_PER_SECOND as u128) * self.budget.patience.as_millis() {
            self.fail(&mut writing, io::Error::other("the peer reads too slowly"));
        } else {
            *waiting = Waiting { since: time, taken: 0 };
        }
    }

    fn fail(&self, writing: &mut Writing, why: io::Error) {
        if writing.failed.is_none() {
            writing.failed = Some(why);
            self.forget_unsent(writing);
            let _ = self.stream.shutdown();
            // The poll thread finds the failure and tells the owner.
            self.pollmgr.again(self.token);
        }
    }

    fn forget_unsent(&self, writing: &mut Writing) {
        writing.unsent = Vec::new();
        writing.start = 0;
        writing.waiting = None;
        recount(&self.budget.unsent, &mut writing.counted, 0);
        self.backlog.store(0, Ordering::Relaxed);
    }

    /// To be called when the buffer has changed. False if it was too much, and the connection has failed.
    fn recount_unsent(&self, writing: &mut Writing) -> bool {
        let backlog = writing.unsent.len() - writing.start;
        self.backlog.store(backlog, Ordering::Relaxed);
        let fits = recount(&self.budget.unsent, &mut writing.counted, writing.unsent.capacity());
        if fits && backlog <= MAX_UNSENT_BYTES {
            return true;
        }
        self.fail(writing, io::Error::other("the peer does not read what it asked for"));
        false
    }

    /// Writes what waits. `Err` ends the connection.
    fn flush(&self, writing: &mut Writing) -> io::Result<()> {
        if writing.unsent.is_empty() {
            return Ok(());
        }
        while let Some(unsent) = writing.unsent.get(writing.start..).filter(|unsent| !unsent.is_empty()) {
            match self.stream.write(unsent) {
                Ok(count) => {
                    writing.start += count;
                    if let Some(waiting) = &mut writing.waiting {
                        waiting.taken += count;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    writing.waiting.get_or_insert_with(|| Waiting { since: now(), taken: 0 });
                    // Keeps the buffer from growing over what was sent long ago.
                    if writing.start > writing.unsent.len() / 2 {
                        writing.unsent.drain(..writing.start);
                        writing.start = 0;
                    }
                    self.recount_unsent(writing);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        // An idle connection keeps no buffer.
        self.forget_unsent(writing);
        Ok(())
    }

    /// Tells whether the connection attempt has succeeded by now.
    fn finish_connecting(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            // Loopback connects a caller of a closed port to itself, sooner or later.
            Ok(peer) if peer == self.stream.local_addr()? => Err(io::ErrorKind::ConnectionRefused.into()),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn progress(self: &Arc<Self>, owner: &Arc<dyn Owner>, scratch: &mut [u8]) -> io::Result<ControlFlow<()>> {
        let connected = {
            let mut writing = self.writing.lock();
            if let Some(error) = writing.failed.take() {
                // Left failed for senders; the message goes to the owner.
                writing.failed = Some(io::ErrorKind::NotConnected.into());
                return Err(error);
            }
            writing.connected
        };
        if !connected {
            if !self.finish_connecting()? {
                return Ok(ControlFlow::Break(()));
            }
            self.writing.lock().connected = true;
            owner.clone().connected(self);
        }
        let mut reading = self.reading.lock();
        {
            let mut writing = self.writing.lock();
            self.flush(&mut writing)?;
            if self.is_backlogged() {
                // The poll thread comes again when the socket has room.
                return Ok(ControlFlow::Break(()));
            }
            writing.collecting = true;
        }
        let flow = self.read(owner, &mut reading, scratch);
        // Even after the peer's end of the stream the last replies are worth a try.
        let flushed = {
            let mut writing = self.writing.lock();
            writing.collecting = false;
            self.flush(&mut writing)
        };
        let flow = flow?;
        flushed?;
        Ok(flow)
    }

    /// Invariant 4.
    fn is_backlogged(&self) -> bool {
        self.accepted && self.backlog.load(Ordering::Relaxed) > HIGH_WATER_BYTES
    }

    fn read(
        self: &Arc<Self>,
        owner: &Arc<dyn Owner>,
        reading: &mut Reading,
        scratch: &mut [u8],
    ) -> io::Result<ControlFlow<()>> {
        if let Some(stop) = reading.stop {
            if stop == Stop::Owner && !self.resumed.swap(false, Ordering::Acquire) {
                return Ok(ControlFlow::Break(()));
            }
            self.decode(owner, reading, &[])?;
        }
        for _ in 0..READS_PER_TURN {
            match reading.stop {
                None => {}
                Some(Stop::Owner) => return Ok(ControlFlow::Break(())),
                // After a flush there may be room.
                Some(Stop::Backlog) => return Ok(ControlFlow::Continue(())),
            }
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(ControlFlow::Break(())),
                Err(e) => return Err(e),
            };
            self.decode(owner, reading, scratch.get(..count).unwrap_or_default())?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decode(self: &Arc<Self>, owner: &Arc<dyn Owner>, reading: &mut Reading, bytes: &[u8]) -> io::Result<()> {
        let mut whole = false;
        let mut stop = None;
        reading
            .decoder
            .feed(bytes, |pdu| {
                whole = true;
                if owner.clone().pdu(self, pdu).is_break() {
                    stop = Some(Stop::Owner);
                } else if self.is_backlogged() {
                    stop = Some(Stop::Backlog);
                }
                if stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        reading.stop = stop;
        let buffered = reading.decoder.buffered();
        if buffered == 0 || stop.is_some() {
            self.partial_since_ms.store(0, Ordering::Relaxed);
        } else if whole || self.partial_since_ms.load(Ordering::Relaxed) == 0 {
            let millis = usize::try_from(now().since_start().as_millis()).unwrap_or(usize::MAX - 1);
            self.partial_since_ms.store(millis + 1, Ordering::Relaxed);
        }
        if recount(&self.budget.unfinished, &mut reading.counted, buffered) {
            Ok(())
        } else {
            Err(io::Error::other("too many bytes of unfinished requests are held"))
        }
    }
}

impl Connection {
    /// Invariant 2: once.
    fn finish(self: &Arc<Self>, owner: Option<&Arc<dyn Owner>>, why: &io::Error) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        {
            let mut writing = self.writing.lock();
            writing.failed.get_or_insert_with(|| io::ErrorKind::NotConnected.into());
            self.forget_unsent(&mut writing);
        }
        let _ = self.stream.shutdown();
        self.pollmgr.remove(self.token, &self.stream);
        recount(&self.budget.unfinished, &mut self.reading.lock().counted, 0);
        if let Some(owner) = owner {
            owner.clone().closed(self, why);
        }
    }
}

impl Source for Connection {
    fn ready(self: Arc<Self>, scratch: &mut [u8]) -> ControlFlow<()> {
        let Some(owner) = self.owner.upgrade() else {
            self.finish(None, &io::ErrorKind::NotConnected.into());
            return ControlFlow::Break(());
        };
        if self.closed.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.progress(&owner, scratch).unwrap_or_else(|why| {
            self.finish(Some(&owner), &why);
            ControlFlow::Break(())
        })
    }
}
