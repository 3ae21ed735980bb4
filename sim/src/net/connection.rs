//! Connections: what their ends know, and what their owners do.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::mem;
use std::net::SocketAddr;

use rt::time::Instant;

use super::frames::{Framer, Info, Procedure};
use super::{Inner, WINDOW, Watch};

mod breaks;
mod packets;
mod sending;

/// Room that an empty inbox keeps.
const KEPT: usize = 1 << 10;

/// What an end's machine knows of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Has asked for the connection.
    Connecting,
    /// Was asked, through this listener, and waits for the third packet.
    Asked(u64),
    /// Connected.
    Open,
    /// The owner has closed it; what was sent still arrives, then the end.
    Closed,
    /// Nothing: packets are answered with a reset.
    Dead,
}

/// One end of a connection. Side 0 connected, side 1 was connected to.
pub(super) struct End {
    pub(super) host: usize,
    pub(super) addr: SocketAddr,
    pub(super) wire: Wire,
    /// A program, or a listener, still has it.
    pub(super) owned: bool,
    pub(super) inbox: VecDeque<u8>,
    /// The peer sends no more.
    pub(super) ended: bool,
    /// Shut down by its owner.
    pub(super) shut: bool,
    pub(super) failed: bool,
    /// Why it failed, until told.
    pub(super) error: Option<ErrorKind>,
    /// The window is full, for all that this end knows.
    pub(super) blocked: bool,
    /// It will soon be told that there is room.
    unblocking: bool,
    pub(super) watch: Option<Watch>,
    /// Its address is what those park on who wait for this end.
    pub(super) key: Option<Box<u8>>,
}

impl End {
    fn new(host: usize, addr: SocketAddr, wire: Wire) -> Self {
        End {
            host,
            addr,
            wire,
            owned: wire == Wire::Connecting,
            inbox: VecDeque::new(),
            ended: false,
            shut: false,
            failed: false,
            error: None,
            blocked: false,
            unblocking: false,
            watch: None,
            key: None,
        }
    }

    /// Readable, writable.
    pub(super) fn ready(&self) -> (bool, bool) {
        let over = self.failed || self.shut;
        (over || self.ended || !self.inbox.is_empty(), over || self.wire == Wire::Open && !self.blocked)
    }
}

/// What a packet is.
enum Kind {
    /// Side 0 wants to connect.
    Syn,
    /// Side 1 agrees.
    SynAck,
    /// Side 0 has heard it.
    Ack,
    /// Side 1 doesn't agree.
    Refused,
    /// Bytes; they may end a frame.
    Data(Vec<u8>, Option<Info>),
    /// No more bytes follow.
    Fin,
    /// The connection is unknown, or broken.
    Reset,
}

struct Packet {
    arrives: Instant,
    kind: Kind,
}

/// A whole frame apart from the stream.
struct Frame {
    bytes: Vec<u8>,
    info: Info,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Pass,
    Drop,
    Double,
    Delay,
    Reorder,
}

/// One direction, by the side that sends.
#[derive(Default)]
pub(super) struct Flow {
    /// Under way, in the order of arrival.
    queue: VecDeque<Packet>,
    queued_bytes: usize,
    last_arrival: Instant,
    /// The timer of the next arrival; 0 if there is none.
    pump: u64,
    /// The link was cut, or the machine off, when the first of the queue arrived.
    held: bool,
    /// What was sent isn't acknowledged; which time-out that will lead to.
    stalled: Option<u64>,
    framer: Framer,
    /// What becomes of the frame that passes.
    fate: Fate,
    /// The beginning of a frame that doesn't just pass.
    captured: Vec<u8>,
    /// Whole frames that come later.
    delayed: BTreeMap<u64, Frame>,
    /// Those among `delayed` that come after the next frame.
    reordered: Vec<u64>,
    /// Whole frames that come when the one that passes has ended.
    pending: Vec<Frame>,
    /// A reset is among what is under way.
    resets: bool,
    /// What arrives was sent before the connection broke.
    late: bool,
}

impl Flow {
    fn clear(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.pump = 0;
        self.held = false;
        self.stalled = None;
        self.forget_frames();
        self.resets = false;
    }

    fn forget_frames(&mut self) {
        self.captured = Vec::new();
        self.delayed.clear();
        self.reordered.clear();
        self.pending.clear();
    }

    /// Bytes of a frame have passed, and the rest hasn't yet.
    fn is_amid(&self) -> bool {
        self.framer.is_plain() || self.fate == Fate::Pass && !self.framer.at_start()
    }
}

/// A connection, from its first packet to its last.
pub(super) struct Connection {
    pub(super) ends: [End; 2],
    flows: [Flow; 2],
    /// The procedures of the last requests, by xid.
    asked: BTreeMap<i32, &'static Procedure>,
    /// It breaks with the next whole frame.
    breaks_next: bool,
    /// The time-out of the attempt to connect runs.
    times_out: bool,
}

impl Connection {
    pub(super) fn hosts(&self) -> [usize; 2] {
        [self.ends[0].host, self.ends[1].host]
    }

    pub(super) fn is_open(&self) -> bool {
        self.ends.iter().all(|end| end.wire == Wire::Open)
    }

    /// What `side` may still write.
    fn room(&self, side: usize) -> usize {
        WINDOW.saturating_sub(self.flows[side].queued_bytes + self.ends[1 - side].inbox.len())
    }

    fn is_over(&self) -> bool {
        self.ends.iter().all(|end| !end.owned && matches!(end.wire, Wire::Closed | Wire::Dead))
            && self.flows.iter().all(|flow| flow.queue.is_empty() && flow.delayed.is_empty())
    }
}

/// All connections, by numbers that aren't used twice.
#[derive(Default)]
pub(super) struct Connections(Vec<Option<Box<Connection>>>);

impl Connections {
    fn insert(&mut self, connection: Connection) -> u64 {
        self.0.push(Some(Box::new(connection)));
        self.0.len() as u64 - 1
    }

    pub(super) fn get(&self, number: u64) -> Option<&Connection> {
        self.0.get(number as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Connection> {
        self.0.get_mut(number as usize)?.as_deref_mut()
    }

    fn remove(&mut self, number: u64) -> Option<Box<Connection>> {
        self.0.get_mut(number as usize)?.take()
    }
}

/// What owners do.
impl Inner {
    /// Begins to connect.
    pub(super) fn open_connection(&mut self, from: usize, ours: SocketAddr, to: usize, theirs: SocketAddr) -> u64 {
        let ends = [End::new(from, ours, Wire::Connecting), End::new(to, theirs, Wire::Dead)];
        let connection = Connection {
            ends,
            flows: Default::default(),
            asked: BTreeMap::new(),
            breaks_next: false,
            times_out: false,
        };
        let number = self.connections.insert(connection);
        self.machines[from].connections.insert(number);
        self.machines[to].connections.insert(number);
        self.kernel.note(&self.machines[from].name, || format!("connects to {theirs}"));
        self.enqueue(number, 0, Kind::Syn);
        number
    }

    pub(super) fn read(&mut self, number: u64, side: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.owned_end(number, side)?;
        if buffer.is_empty() {
            return Ok(0);
        }
        if end.inbox.is_empty() {
            return match end.error.take() {
                Some(error) => Err(error.into()),
                None if end.failed || end.ended || end.shut => Ok(0),
                None => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let mut length = buffer.len().min(end.inbox.len());
        if length > 1 && self.kernel.chance(self.conditions.short_reads) {
            length = 1 + self.kernel.below(length as u64 - 1) as usize;
            self.kernel.count("fault: short read");
        }
        let Some(connection) = self.connections.get_mut(number) else { return Ok(0) };
        let inbox = &mut connection.ends[side].inbox;
        let (front, back) = inbox.as_slices();
        let first = length.min(front.len());
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..length].copy_from_slice(&back[..length - first]);
        inbox.drain(..length);
        if inbox.is_empty() && inbox.capacity() > KEPT {
            // An idle connection holds little memory.
            *inbox = VecDeque::new();
        }
        self.tell_of_room(number, 1 - side);
        Ok(length)
    }

    pub(super) fn write(&mut self, number: u64, side: usize, bytes: &[u8]) -> io::Result<usize> {
        let end = self.owned_end(number, side)?;
        if let Some(error) = end.error.take() {
            return Err(error.into());
        }
        match end.wire {
            Wire::Open if !end.shut => {}
            Wire::Connecting | Wire::Asked(_) => return Err(ErrorKind::WouldBlock.into()),
            _ => return Err(ErrorKind::BrokenPipe.into()),
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let blocked = end.blocked;
        let room = self.connections.get(number).map_or(0, |connection| connection.room(side));
        if blocked || room == 0 {
            self.set_blocked(number, side, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut length = bytes.len().min(room);
        if length > 1 && self.kernel.chance(self.conditions.short_writes) {
            length = 1 + self.kernel.below(length as u64 - 1) as usize;
            self.kernel.count("fault: short write");
        }
        self.send(number, side, &bytes[..length]);
        if self.connections.get(number).is_some_and(|connection| connection.room(side) == 0) {
            self.set_blocked(number, side, true);
        }
        Ok(length)
    }

    pub(super) fn shutdown(&mut self, number: u64, side: usize) -> io::Result<()> {
        let end = self.owned_end(number, side)?;
        if mem::replace(&mut end.shut, true) {
            return Ok(());
        }
        let result = match end.wire {
            Wire::Open => {
                self.finish(number, side);
                Ok(())
            }
            Wire::Connecting => {
                end.wire = Wire::Dead;
                Err(ErrorKind::NotConnected.into())
            }
            _ => Err(ErrorKind::NotConnected.into()),
        };
        self.fire_end(number, side);
        result
    }

    /// The owner is gone.
    pub(super) fn close_end(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let end = &mut connection.ends[side];
        if !mem::replace(&mut end.owned, false) {
            return;
        }
        end.watch = None;
        let unread = !mem::take(&mut end.inbox).is_empty();
        match end.wire {
            Wire::Open if unread => {
                end.wire = Wire::Dead;
                connection.flows[side].forget_frames();
                self.enqueue(number, side, Kind::Reset);
            }
            Wire::Open => {
                end.wire = Wire::Closed;
                if !end.shut {
                    self.finish(number, side);
                }
            }
            Wire::Connecting => end.wire = Wire::Dead,
            Wire::Asked(_) | Wire::Closed | Wire::Dead => {}
        }
        self.wake_waiters(number, side);
        self.forget_if_over(number);
    }

    /// Resets a connection that nobody has accepted.
    pub(super) fn reset_end(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let end = &mut connection.ends[side];
        end.owned = false;
        if mem::replace(&mut end.wire, Wire::Dead) == Wire::Open {
            self.enqueue(number, side, Kind::Reset);
        }
        self.forget_if_over(number);
    }

    fn owned_end(&mut self, number: u64, side: usize) -> io::Result<&mut End> {
        let end = self.connections.get_mut(number).map(|connection| &mut connection.ends[side]);
        // Its machine is off, or its process dead.
        end.filter(|end| end.owned).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn set_blocked(&mut self, number: u64, side: usize, blocked: bool) {
        if let Some(connection) = self.connections.get_mut(number) {
            connection.ends[side].blocked = blocked;
        }
    }

    /// No more bytes follow from this side. Those that faults hold up come before.
    fn finish(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let flow = &mut connection.flows[side];
        let captured = mem::take(&mut flow.captured);
        let mut frames = mem::take(&mut flow.pending);
        frames.extend(mem::take(&mut flow.delayed).into_values());
        flow.reordered.clear();
        if flow.is_amid() {
            frames.clear();
        }
        for frame in frames {
            self.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
        }
        if !captured.is_empty() {
            self.enqueue(number, side, Kind::Data(captured, None));
        }
        self.enqueue(number, side, Kind::Fin);
    }

    /// `side` hears, after a while, that its peer has read.
    pub(super) fn tell_of_room(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let wide = connection.room(side) >= WINDOW / 4;
        let [from, to] = [connection.ends[1 - side].host, connection.ends[side].host];
        let end = &mut connection.ends[side];
        if !end.blocked || end.unblocking || !wide {
            return;
        }
        end.unblocking = true;
        let (delay, _) = self.delay(from, to);
        self.after(delay, move |inner| {
            let open = inner.is_open(from, to);
            let Some(connection) = inner.connections.get_mut(number) else { return };
            let end = &mut connection.ends[side];
            end.unblocking = false;
            // If not, it hears of it when the link is open again.
            if open {
                end.blocked = false;
                inner.fire_end(number, side);
            }
        });
    }
}
