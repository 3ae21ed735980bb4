//! Connections: what their ends know, and what is under way between them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;

use rt::net::Event;
use rt::time::Instant;

use super::frames::{Framer, Info, OTHER, Procedure, procedure};
use super::{BACKLOG, CONNECT_TIME_OUT, Inner, STALL_TIME_OUT, WINDOW, Watch};

/// Frames longer than this pass without faults: nobody holds them whole.
const LONGEST_HIT: usize = 256 << 10;
/// Requests of a connection whose procedure is remembered for the reply's name.
const REMEMBERED: usize = 1024;
/// Content that goes into the run's hash, of each packet.
const HASHED: usize = 1 << 10;
/// A reordered frame waits so long for the next one.
const LONGEST_REORDERING: Duration = Duration::from_millis(50);

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

/// What owners do.
impl Inner {
    /// Begins to connect.
    pub(super) fn open_connection(&mut self, from: usize, ours: SocketAddr, to: usize, theirs: SocketAddr) -> u64 {
        let number = self.number();
        let ends = [End::new(from, ours, Wire::Connecting), End::new(to, theirs, Wire::Dead)];
        let connection = Connection {
            ends,
            flows: Default::default(),
            asked: BTreeMap::new(),
            breaks_next: false,
            times_out: false,
        };
        self.connections.insert(number, connection);
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
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(0) };
        let inbox = &mut connection.ends[side].inbox;
        let (front, back) = inbox.as_slices();
        let first = length.min(front.len());
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..length].copy_from_slice(&back[..length - first]);
        inbox.drain(..length);
        if inbox.is_empty() {
            // An idle connection holds no memory.
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
        let room = self.connections.get(&number).map_or(0, |connection| connection.room(side));
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
        if self.connections.get(&number).is_some_and(|connection| connection.room(side) == 0) {
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
        let Some(connection) = self.connections.get_mut(&number) else { return };
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
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let end = &mut connection.ends[side];
        end.owned = false;
        if mem::replace(&mut end.wire, Wire::Dead) == Wire::Open {
            self.enqueue(number, side, Kind::Reset);
        }
        self.forget_if_over(number);
    }

    fn owned_end(&mut self, number: u64, side: usize) -> io::Result<&mut End> {
        let end = self.connections.get_mut(&number).map(|connection| &mut connection.ends[side]);
        // Its machine is off, or its process dead.
        end.filter(|end| end.owned).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn set_blocked(&mut self, number: u64, side: usize, blocked: bool) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.ends[side].blocked = blocked;
        }
    }

    /// No more bytes follow from this side. Those that faults hold up come before.
    fn finish(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
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
        let Some(connection) = self.connections.get_mut(&number) else { return };
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
            let Some(connection) = inner.connections.get_mut(&number) else { return };
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

/// Packets.
impl Inner {
    /// Takes bytes from a writer.
    fn send(&mut self, number: u64, side: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            let same = connection.ends[0].host == connection.ends[1].host;
            let breaks = connection.breaks_next;
            let flow = &mut connection.flows[side];
            if flow.framer.at_start() && !flow.framer.is_plain() {
                let faults = if side == 0 { self.conditions.requests } else { self.conditions.replies };
                let hits = [faults.dropped, faults.doubled, faults.delayed, faults.reordered];
                flow.fate = Fate::Pass;
                if !same && hits != [0; 4] {
                    let mut roll = self.kernel.below(1024);
                    for (share, fate) in hits.into_iter().zip([Fate::Drop, Fate::Double, Fate::Delay, Fate::Reorder]) {
                        if roll < share {
                            flow.fate = fate;
                            break;
                        }
                        roll -= share;
                    }
                }
            }
            let (length, info) = flow.framer.cut(bytes);
            let (piece, rest) = bytes.split_at(length);
            bytes = rest;
            if let Some(info) = info
                && side == 0
            {
                connection.asked.insert(info.xid, procedure(info.word));
                if connection.asked.len() > REMEMBERED {
                    connection.asked.pop_first();
                }
            }
            if flow.fate == Fate::Pass {
                self.enqueue(number, side, Kind::Data(piece.to_vec(), info));
            } else {
                flow.captured.extend_from_slice(piece);
                if flow.framer.is_plain() || flow.captured.len() > LONGEST_HIT {
                    flow.fate = Fate::Pass;
                    let bytes = mem::take(&mut flow.captured);
                    self.enqueue(number, side, Kind::Data(bytes, info));
                } else if let Some(info) = info {
                    let fate = mem::take(&mut flow.fate);
                    let frame = Frame { bytes: mem::take(&mut flow.captured), info };
                    if !self.befall(number, side, fate, frame) {
                        // Nothing has passed, and so nobody was overtaken.
                        continue;
                    }
                }
            }
            if info.is_some() {
                self.release_pending(number, side);
                if breaks {
                    return self.break_connection(number, Some(side));
                }
            }
        }
    }

    /// Deals with a frame that doesn't just pass. False if nothing of it was sent yet.
    fn befall(&mut self, number: u64, side: usize, fate: Fate, frame: Frame) -> bool {
        let [request, reply] = match fate {
            Fate::Pass => ["", ""],
            Fate::Drop => ["fault: request dropped", "fault: reply dropped"],
            Fate::Double => ["fault: request doubled", "fault: reply doubled"],
            Fate::Delay => ["fault: request delayed", "fault: reply delayed"],
            Fate::Reorder => ["fault: request reordered", "fault: reply reordered"],
        };
        let what = if side == 0 { request } else { reply };
        self.kernel.count(what);
        self.note_fault(number, side, || format!("{what} xid={}", frame.info.xid));
        let micros = Duration::from_micros;
        let later = micros(100);
        match fate {
            Fate::Drop => false,
            Fate::Pass | Fate::Double => {
                let copy = frame.bytes.clone();
                self.enqueue(number, side, Kind::Data(copy, Some(frame.info)));
                if self.kernel.chance(512) {
                    self.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
                } else {
                    let most = micros([1_000, 10_000, 100_000, 2_000_000][self.kernel.below(4) as usize]);
                    let pause = self.kernel.between(later, most);
                    self.put_off(number, side, frame, pause);
                }
                true
            }
            Fate::Delay => {
                let most = micros([1_000, 10_000, 100_000, 2_000_000][self.kernel.below(4) as usize]);
                let pause = self.kernel.between(later, most);
                self.put_off(number, side, frame, pause);
                false
            }
            Fate::Reorder => {
                let held = self.put_off(number, side, frame, LONGEST_REORDERING);
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.flows[side].reordered.push(held);
                }
                false
            }
        }
    }

    /// Sends a frame later.
    fn put_off(&mut self, number: u64, side: usize, frame: Frame, pause: Duration) -> u64 {
        let held = self.number();
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.flows[side].delayed.insert(held, frame);
        }
        self.after(pause, move |inner| {
            let Some(connection) = inner.connections.get_mut(&number) else { return };
            let flow = &mut connection.flows[side];
            let Some(frame) = flow.delayed.remove(&held) else { return };
            flow.reordered.retain(|other| *other != held);
            if flow.is_amid() {
                flow.pending.push(frame);
            } else {
                inner.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
            }
            inner.forget_if_over(number);
        });
        held
    }

    /// A frame has passed: those come that have waited for this.
    fn release_pending(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let flow = &mut connection.flows[side];
        if flow.pending.is_empty() && flow.reordered.is_empty() {
            return;
        }
        let mut frames = mem::take(&mut flow.pending);
        for held in mem::take(&mut flow.reordered) {
            frames.extend(flow.delayed.remove(&held));
        }
        for frame in frames {
            self.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
        }
    }

    /// Puts a packet on its way.
    fn enqueue(&mut self, number: u64, side: usize, kind: Kind) {
        let Some(connection) = self.connections.get(&number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        let (delay, slow) = self.delay(from, to);
        if slow && matches!(kind, Kind::Data(..)) {
            self.kernel.count("fault: slow link delivery");
        }
        let arrives = self.kernel.now() + delay;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let flow = &mut connection.flows[side];
        if matches!(kind, Kind::Reset) && mem::replace(&mut flow.resets, true) {
            return;
        }
        flow.last_arrival = flow.last_arrival.max(arrives);
        if let Kind::Data(bytes, _) = &kind {
            flow.queued_bytes += bytes.len();
        }
        flow.queue.push_back(Packet { arrives: flow.last_arrival, kind });
        self.schedule(number, side);
    }

    /// Sets the timer of the next arrival.
    fn schedule(&mut self, number: u64, side: usize) {
        let pump = self.number();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let flow = &mut connection.flows[side];
        let Some(first) = flow.queue.front() else { return };
        if flow.held || flow.pump != 0 {
            return;
        }
        flow.pump = pump;
        let arrives = first.arrives;
        self.at(arrives, move |inner| inner.pump(number, side, pump));
    }

    /// Delivers what has arrived.
    fn pump(&mut self, number: u64, side: usize, pump: u64) {
        let now = self.kernel.now();
        match self.connections.get_mut(&number) {
            Some(connection) if connection.flows[side].pump == pump => connection.flows[side].pump = 0,
            _ => return,
        }
        while let Some(connection) = self.connections.get_mut(&number) {
            let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
            let flow = &mut connection.flows[side];
            if flow.held || flow.pump != 0 || flow.queue.front().is_none_or(|packet| packet.arrives > now) {
                break;
            }
            if !self.is_open(from, to) {
                self.hold(number, side);
                break;
            }
            let Some(connection) = self.connections.get_mut(&number) else { break };
            let flow = &mut connection.flows[side];
            let Some(packet) = flow.queue.pop_front() else { break };
            match &packet.kind {
                Kind::Data(bytes, _) => flow.queued_bytes -= bytes.len(),
                Kind::Reset => flow.resets = false,
                _ => {}
            }
            if matches!(packet.kind, Kind::Data(..) | Kind::Fin) {
                if self.is_open(to, from) {
                    self.acknowledged(number, side);
                } else {
                    self.stall(number, side);
                }
            }
            self.deliver(number, side, packet.kind);
        }
        self.schedule(number, side);
        self.forget_if_over(number);
    }

    /// Nothing gets through: what is under way waits.
    fn hold(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        let wire = connection.ends[side].wire;
        let flow = &mut connection.flows[side];
        if wire == Wire::Dead {
            // Nobody is left who would send it again, but a question is answered with a reset again.
            flow.queue.retain(|packet| matches!(packet.kind, Kind::Reset | Kind::Refused));
            flow.queued_bytes = 0;
            flow.forget_frames();
        }
        let Some(first) = flow.queue.front() else { return };
        flow.held = true;
        let handshake = matches!(first.kind, Kind::Syn | Kind::SynAck | Kind::Refused);
        let what = match (self.machines[to].off, handshake) {
            (true, _) => "fault: packets to a machine that is off",
            (false, true) => "fault: link cut held a connect",
            (false, false) => "fault: link cut held bytes",
        };
        self.kernel.count(what);
        self.kernel.note(&self.machines[from].name, || format!("-> {} {what}", self.machines[to].name));
        if handshake {
            self.time_out_connect(number);
        } else if wire != Wire::Dead {
            self.stall(number, side);
        }
    }

    fn acknowledged(&mut self, number: u64, side: usize) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.flows[side].stalled = None;
        }
    }

    /// What `side` has sent isn't acknowledged for now.
    fn stall(&mut self, number: u64, side: usize) {
        let stall = self.number();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let flow = &mut connection.flows[side];
        if flow.stalled.is_some() {
            return;
        }
        flow.stalled = Some(stall);
        self.after(STALL_TIME_OUT, move |inner| {
            let Some(connection) = inner.connections.get_mut(&number) else { return };
            if connection.flows[side].stalled == Some(stall) {
                inner.kernel.count("fault: connection timed out");
                inner.note_fault(number, side, || "the connection times out".to_owned());
                inner.fail_end(number, side, ErrorKind::TimedOut);
                inner.forget_if_over(number);
            }
        });
    }

    fn time_out_connect(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if mem::replace(&mut connection.times_out, true) {
            return;
        }
        self.after(CONNECT_TIME_OUT, move |inner| {
            let Some(connection) = inner.connections.get(&number) else { return };
            if connection.ends[0].wire == Wire::Connecting {
                inner.kernel.count("fault: connect timed out");
                inner.note_fault(number, 0, || "the connection attempt times out".to_owned());
                inner.fail_end(number, 0, ErrorKind::TimedOut);
                inner.forget_if_over(number);
            }
        });
    }

    /// Packets pass again from one machine to another.
    pub(super) fn heal(&mut self, from: usize, to: usize) {
        if !self.is_open(from, to) {
            return;
        }
        for number in self.between(from, to) {
            let Some(connection) = self.connections.get(&number) else { continue };
            for side in 0..2 {
                if connection.ends[side].host != from || connection.ends[1 - side].host != to {
                    continue;
                }
                self.resume(number, side);
                self.tell_of_room(number, 1 - side);
                if let Some(connection) = self.connections.get_mut(&number)
                    && !connection.flows[1 - side].held
                {
                    // The acknowledgement gets through.
                    connection.flows[1 - side].stalled = None;
                }
                break;
            }
        }
    }

    /// What was held is sent again, soon.
    fn resume(&mut self, number: u64, side: usize) {
        let soon = self.kernel.now() + self.kernel.between(Duration::from_millis(1), Duration::from_millis(200));
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let flow = &mut connection.flows[side];
        if mem::replace(&mut flow.held, false) {
            flow.delay_until(soon);
            self.schedule(number, side);
        }
    }

    fn deliver(&mut self, number: u64, side: usize, kind: Kind) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let there = 1 - side;
        let [from, to] = [connection.ends[side].host, connection.ends[there].host];
        let wire = connection.ends[there].wire;
        self.kernel.stir(number << 1 | side as u64);
        match kind {
            Kind::Syn => self.asked_for(number),
            Kind::SynAck if wire == Wire::Connecting => {
                connection.ends[there].wire = Wire::Open;
                // It needn't ask again.
                let flow = &mut connection.flows[there];
                flow.queue.retain(|packet| !matches!(packet.kind, Kind::Syn));
                let held = flow.held;
                self.kernel.note(&self.machines[to].name, || format!("connected to {}", self.machines[from].name));
                self.enqueue(number, there, Kind::Ack);
                if held {
                    self.stall(number, there);
                }
                self.fire_end(number, there);
            }
            Kind::Ack => {
                let Wire::Asked(listener) = wire else { return self.enqueue(number, there, Kind::Reset) };
                connection.ends[there].wire = Wire::Open;
                connection.ends[there].owned = true;
                match self.ports.get_mut(&listener) {
                    Some(port) => {
                        port.accepted.push_back(number);
                        self.fire_port(listener);
                    }
                    None => self.reset_end(number, there),
                }
            }
            Kind::Refused | Kind::Reset if wire == Wire::Connecting => {
                self.kernel.note(&self.machines[to].name, || format!("refused by {}", self.machines[from].name));
                self.fail_end(number, there, ErrorKind::ConnectionRefused);
            }
            Kind::Refused => {}
            Kind::Data(bytes, info) => {
                let end = &mut connection.ends[there];
                if wire != Wire::Open || end.shut {
                    // Nobody will read it.
                    if wire == Wire::Open {
                        self.fail_end(number, there, ErrorKind::BrokenPipe);
                    }
                    return self.enqueue(number, there, Kind::Reset);
                }
                if bytes.is_empty() {
                    // A question for room; see `probe`.
                    return;
                }
                end.inbox.extend(&bytes);
                self.kernel.stir(hash(&bytes));
                if mem::take(&mut connection.flows[side].late) {
                    self.kernel.count("fault: late bytes of a broken connection");
                    self.note_fault(number, side, || "late bytes of a broken connection".to_owned());
                }
                if let Some(info) = info {
                    self.count_frame(number, side, info);
                }
                self.fire_end(number, there);
            }
            Kind::Fin if wire == Wire::Open => {
                connection.ends[there].ended = true;
                self.fire_end(number, there);
            }
            Kind::Fin if wire == Wire::Closed => {}
            Kind::SynAck | Kind::Fin => self.enqueue(number, there, Kind::Reset),
            Kind::Reset if wire == Wire::Dead => {}
            Kind::Reset => {
                self.kernel.note(&self.machines[to].name, || format!("reset by {}", self.machines[from].name));
                self.fail_end(number, there, ErrorKind::ConnectionReset);
            }
        }
    }

    /// The first packet has come to the machine that is to be connected to.
    fn asked_for(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let [from, to] = connection.hosts();
        let machine = &self.machines[to];
        let listener = machine.listeners.get(&connection.ends[1].addr.port()).copied();
        let refuses = self.kernel.now() < machine.refuses_until;
        match listener {
            Some(_) if connection.ends[1].wire != Wire::Dead => {}
            Some(listener) if !refuses => {
                if self.ports.get(&listener).is_some_and(|port| port.accepted.len() >= BACKLOG) {
                    // It is asked again a second later.
                    self.after(Duration::from_secs(1), move |inner| inner.ask_again(number));
                    return;
                }
                connection.ends[1].wire = Wire::Asked(listener);
                self.enqueue(number, 1, Kind::SynAck);
            }
            _ => {
                if listener.is_some() {
                    self.kernel.count("fault: connect refused");
                    self.kernel.note(&machine.name, || format!("fault: refuses {}", self.machines[from].name));
                }
                self.enqueue(number, 1, Kind::Refused);
            }
        }
    }

    /// Side 0 still waits for an answer: it asks again.
    pub(super) fn ask_again(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.ends[0].wire != Wire::Connecting {
            return;
        }
        if !connection.flows[0].queue.iter().any(|packet| matches!(packet.kind, Kind::Syn)) {
            self.enqueue(number, 0, Kind::Syn);
        }
    }

    /// Counts a frame that has arrived.
    fn count_frame(&self, number: u64, side: usize, info: Info) {
        let Some(connection) = self.connections.get(&number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        let procedure = match side {
            0 => procedure(info.word),
            _ => connection.asked.get(&info.xid).copied().unwrap_or(&OTHER),
        };
        self.kernel.count(if side == 0 { procedure.message } else { procedure.reply });
        self.kernel.note(&self.machines[from].name, || {
            let Info { xid, word, length } = info;
            let what = if side == 0 { String::new() } else { format!(" reply {}", word as i32) };
            format!("-> {} {}{what} xid={xid} {length} bytes", self.machines[to].name, procedure.name)
        });
    }

    fn note_fault(&self, number: u64, side: usize, what: impl FnOnce() -> String) {
        let Some(connection) = self.connections.get(&number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        self.kernel.note(&self.machines[from].name, || format!("-> {} {}", self.machines[to].name, what()));
    }
}

impl Flow {
    /// Nothing that is under way arrives before this.
    fn delay_until(&mut self, at: Instant) {
        self.pump = 0;
        self.last_arrival = self.last_arrival.max(at);
        for packet in &mut self.queue {
            packet.arrives = packet.arrives.max(at);
        }
    }
}

/// Breaks and events.
impl Inner {
    /// This end has failed: what it has sent, and not yet delivered, is lost.
    fn fail_end(&mut self, number: u64, side: usize, error: ErrorKind) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.flows[side].clear();
        self.fail_only_end(number, side, error);
    }

    /// As [`Inner::fail_end`], but what is under way arrives.
    fn fail_only_end(&mut self, number: u64, side: usize, error: ErrorKind) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let end = &mut connection.ends[side];
        end.wire = Wire::Dead;
        if !mem::replace(&mut end.failed, true) && !end.shut {
            end.error = Some(error);
        }
        self.fire_end(number, side);
    }

    /// The machine has lost its power: it knows nothing any more. What is under way from it still arrives.
    pub(super) fn vanish_end(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let end = &mut connection.ends[side];
        end.wire = Wire::Dead;
        end.owned = false;
        end.watch = None;
        end.inbox = VecDeque::new();
        connection.flows[side].forget_frames();
        self.wake_waiters(number, side);
        if side == 1 {
            self.ask_again(number);
        }
        self.probe(number, 1 - side);
        self.forget_if_over(number);
    }

    /// Who waits for room asks for it now and then, and so finds out that nobody is there.
    fn probe(&mut self, number: u64, side: usize) {
        if self.connections.get(&number).is_some_and(|connection| connection.ends[side].blocked) {
            self.enqueue(number, side, Kind::Data(Vec::new(), None));
        }
    }

    /// Breaks a connection. Bytes that `late` has sent, or perhaps either side, arrive long after the sender knows.
    pub(super) fn break_connection(&mut self, number: u64, late: Option<usize>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.is_open() {
            return;
        }
        connection.breaks_next = false;
        let has_data =
            |side: &usize| connection.flows[*side].queue.iter().any(|packet| matches!(packet.kind, Kind::Data(..)));
        let sides: Vec<usize> = (0..2).filter(has_data).collect();
        let late = match late {
            Some(side) => sides.contains(&side).then_some(side),
            None if self.kernel.chance(512) => sides.get(self.kernel.below(sides.len() as u64) as usize).copied(),
            None => None,
        };
        self.kernel.count("fault: connection broken");
        self.note_fault(number, 0, || "fault: connection broken".to_owned());
        match late {
            Some(side) => {
                let late_by = self.kernel.between(Duration::from_millis(1), Duration::from_millis(500));
                let soon = self.kernel.now() + late_by;
                let cut = self.kernel.chance(256);
                let roll = self.kernel.roll();
                let Some(connection) = self.connections.get_mut(&number) else { return };
                let flow = &mut connection.flows[side];
                flow.forget_frames();
                flow.queue.retain(|packet| matches!(packet.kind, Kind::Data(..)));
                flow.late = true;
                flow.held = false;
                if cut
                    && let Some(Packet { kind: Kind::Data(bytes, info), .. }) = flow.queue.back_mut()
                    && bytes.len() > 1
                {
                    // Half a frame.
                    let kept = 1 + roll as usize % (bytes.len() - 1);
                    flow.queued_bytes -= bytes.len() - kept;
                    bytes.truncate(kept);
                    *info = None;
                }
                flow.delay_until(soon);
                self.enqueue(number, side, Kind::Reset);
                // The other direction's bytes find nobody.
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.flows[1 - side].clear();
                }
                self.fail_only_end(number, side, ErrorKind::ConnectionReset);
            }
            None => {
                self.fail_end(number, 0, ErrorKind::ConnectionReset);
                self.fail_end(number, 1, ErrorKind::ConnectionReset);
            }
        }
        self.forget_if_over(number);
    }

    /// The connection breaks when one side has written the next whole frame, which arrives late.
    pub(super) fn break_next(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.breaks_next = true;
        }
    }

    /// One end forgets the connection, and the other isn't told.
    pub(super) fn half_open(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if !connection.is_open() {
            return;
        }
        let side = self.kernel.below(2) as usize;
        self.kernel.count("fault: half-open");
        self.note_fault(number, side, || "fault: half-open".to_owned());
        self.fail_end(number, side, ErrorKind::TimedOut);
        self.probe(number, 1 - side);
        self.forget_if_over(number);
    }

    /// Something has happened to this end.
    pub(super) fn fire_end(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get(&number) else { return };
        let end = &connection.ends[side];
        let (readable, writable) = end.ready();
        if let Some(Watch { poll, token, interest }) = end.watch {
            let event = Event {
                token,
                readable: readable && interest.read || end.failed,
                writable: writable && interest.write || end.failed,
            };
            self.fire(poll, event);
        }
        self.wake_waiters(number, side);
    }

    fn wake_waiters(&self, number: u64, side: usize) {
        let key = self.connections.get(&number).and_then(|connection| connection.ends[side].key.as_deref());
        if let Some(key) = key {
            self.kernel.unpark(super::address(key), usize::MAX);
        }
    }

    fn forget_if_over(&mut self, number: u64) {
        if self.connections.get(&number).is_some_and(Connection::is_over)
            && let Some(connection) = self.connections.remove(&number)
        {
            for host in connection.hosts() {
                self.machines[host].connections.remove(&number);
            }
        }
    }
}

/// A number that tells bytes from others.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    for chunk in bytes[..bytes.len().min(HASHED)].chunks(8) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash
}
