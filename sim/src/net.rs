//! The simulated network: machines, the links between them, TCP, and what goes wrong with all that.
//!
//! A machine is an IP address; a node's is the one in its name, 127.0.0.1 if there is none. What a node binds to
//! 127.0.0.1 or 0.0.0.0 is bound on its own machine, and reached under the machine's address.
//!
//! Invariants:
//! 1. Each direction of a connection is a queue of packets that arrive in order, each once. The dice say when. Where
//!    faults hit whole frames (PDUs), what arrives is still a stream of whole frames.
//! 2. A packet arrives only if its link is open and its receiver on. Else the whole queue waits, and comes a short time
//!    after both are true again; nothing is lost but with an end, or by a fault that says so.
//! 3. A machine that doesn't know (any more) what a packet belongs to answers with a reset. A machine that is off doesn't
//!    answer.
//! 4. At most [`WINDOW`] bytes of a direction are unread, doubled frames aside. A writer that was told `WouldBlock` gets
//!    an event when there is room.
//! 5. Events are edges: an end's readiness is put down for its poll when something happens to the end. Woken is who
//!    waits for that poll or that end, nobody else.
//! 6. A kernel's timer carries numbers, and finds nobody if what it was set for is gone. Numbers aren't used twice.
//! 7. Nothing is ordered by memory addresses; everything is in the order of numbers, or of IP addresses.
#![expect(clippy::disallowed_types, reason = "a backend's own lock; it is never held across a switch")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rt::net::{Event, Interest, Token};
use rt::thread::Node;
use rt::time::Instant;

use crate::kernel::Kernel;
use crate::world::host_of;

mod conditions;
mod connection;
mod frames;
mod objects;

pub use conditions::{Conditions, FrameFaults, LinkState};
use connection::{Connection, Connections};
pub use objects::{NetPoll, NetPort, NetStream};

/// Bytes of one direction that are unread, under way or arrived.
pub const WINDOW: usize = 256 << 10;
/// An end whose bytes aren't acknowledged for so long gives the connection up. (Linux takes 15 minutes.)
pub const STALL_TIME_OUT: Duration = Duration::from_secs(8);
/// An attempt to connect that isn't answered for so long fails. It counts from when the network is first found cut.
pub const CONNECT_TIME_OUT: Duration = Duration::from_secs(60);
/// Connections that a listener holds for its owner.
const BACKLOG: usize = 1024;
/// Ports for those who don't care.
const FREE_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The faults that are counted.
const FAULTS: [&str; 20] = [
    "fault: request dropped",
    "fault: reply dropped",
    "fault: request doubled",
    "fault: reply doubled",
    "fault: request delayed",
    "fault: reply delayed",
    "fault: request reordered",
    "fault: reply reordered",
    "fault: connection broken",
    "fault: late bytes of a broken connection",
    "fault: half-open",
    "fault: connect refused",
    "fault: link cut held bytes",
    "fault: link cut held a connect",
    "fault: packets to a machine that is off",
    "fault: connection timed out",
    "fault: slow link delivery",
    "fault: short read",
    "fault: short write",
    "fault: process died with connections",
];

/// The counters that many runs of a cluster together don't lack. The network also counts in "message: other" and
/// "reply: other" (nobody asked on this connection), and in "fault: connect timed out": callers give up sooner.
pub fn counters() -> Vec<&'static str> {
    FAULTS.into_iter().chain(frames::counters()).collect()
}

/// The network of one run. Clones are the same one.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Mutex<Inner>>,
    kernel: Kernel,
}

/// Who is told of events.
#[derive(Clone, Copy)]
struct Watch {
    poll: u64,
    token: Token,
    interest: Interest,
}

struct PollState {
    host: usize,
    due: BTreeMap<Token, Event>,
    /// Its address is what the poll's thread parks on.
    key: Box<u8>,
}

struct Port {
    host: usize,
    addr: SocketAddr,
    listens: bool,
    /// Connections that wait for their owner.
    accepted: VecDeque<u64>,
    watch: Option<Watch>,
}

struct Machine {
    ip: IpAddr,
    name: String,
    off: bool,
    refuses_until: Instant,
    next_port: u16,
    listeners: BTreeMap<u16, u64>,
    /// Bound, listening or not: port and number.
    bound: BTreeSet<(u16, u64)>,
    /// With an end here, or to a port here.
    connections: BTreeSet<u64>,
}

#[derive(Clone, Copy, Default)]
struct Link {
    cut: bool,
    /// What a packet takes at least, and how much slower than others it is; drawn when first used.
    drawn: Option<(Duration, u32)>,
}

struct Inner {
    this: Weak<Mutex<Inner>>,
    kernel: Kernel,
    conditions: Conditions,
    last_number: u64,
    hosts: BTreeMap<IpAddr, usize>,
    machines: Vec<Machine>,
    links: BTreeMap<(usize, usize), Link>,
    connections: Connections,
    ports: BTreeMap<u64, Port>,
    polls: BTreeMap<u64, PollState>,
}

/// A key to park on, good as long as the byte is there.
fn address(byte: &u8) -> usize {
    std::ptr::from_ref(byte).addr()
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    // A panic under the lock would be a fault of the simulator's; the run ends anyway.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sockets, for programs.
impl Net {
    /// An empty network, in default conditions.
    pub fn new(kernel: &Kernel) -> Self {
        let inner = Arc::new_cyclic(|this| {
            Mutex::new(Inner {
                this: this.clone(),
                kernel: kernel.clone(),
                conditions: Conditions::default(),
                last_number: 0,
                hosts: BTreeMap::new(),
                machines: Vec::new(),
                links: BTreeMap::new(),
                connections: Connections::default(),
                ports: BTreeMap::new(),
                polls: BTreeMap::new(),
            })
        });
        Net { inner, kernel: kernel.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// A poll of the caller's machine.
    pub fn poll(&self) -> NetPoll {
        let mut inner = self.lock();
        let (host, id) = (inner.own_host(), inner.number());
        inner.polls.insert(id, PollState { host, due: BTreeMap::new(), key: Box::new(0) });
        NetPoll::new(self.clone(), id)
    }

    /// A port of the caller's machine; 0 is any that is free.
    ///
    /// # Errors
    /// `AddrInUse`; `AddrNotAvailable` if the address is another machine's.
    pub fn bind(&self, mut addr: SocketAddr) -> io::Result<NetPort> {
        let mut inner = self.lock();
        let host = inner.own_host();
        if inner.host_at(addr.ip(), host) != host {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        if addr.port() == 0 {
            addr.set_port(inner.machines[host].free_port().ok_or(ErrorKind::AddrInUse)?);
        }
        if inner.machines[host].listeners.contains_key(&addr.port()) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let id = inner.number();
        inner.machines[host].bound.insert((addr.port(), id));
        inner.ports.insert(id, Port { host, addr, listens: false, accepted: VecDeque::new(), watch: None });
        Ok(NetPort::new(self.clone(), id, addr))
    }

    /// Begins to connect the caller's machine with another one.
    ///
    /// # Errors
    /// `AddrNotAvailable` if no port is left.
    pub fn connect(&self, addr: SocketAddr) -> io::Result<NetStream> {
        let mut inner = self.lock();
        let from = inner.own_host();
        let to = inner.host_at(addr.ip(), from);
        let ip = if from == to { addr.ip() } else { inner.machines[from].ip };
        let port = inner.machines[from].free_port().ok_or(ErrorKind::AddrNotAvailable)?;
        let connection = inner.open_connection(from, SocketAddr::new(ip, port), to, addr);
        Ok(NetStream::new(self.clone(), connection, 0))
    }

    /// Waits until `look` gives something, or for the deadline; false then. What it gives else is the key to park on.
    fn wait(
        &self,
        deadline: Option<Instant>,
        mut look: impl FnMut(&mut Inner) -> io::Result<Result<(), usize>>,
    ) -> io::Result<bool> {
        loop {
            let looked = look(&mut self.lock())?;
            let Err(key) = looked else { return Ok(true) };
            // A thread that unwinds must not switch.
            if std::thread::panicking() || deadline.is_some_and(|deadline| self.kernel.local_now() >= deadline) {
                return Ok(false);
            }
            self.kernel.park(key, deadline);
        }
    }
}

/// Faults. To be called by whoever directs the run, on a thread of its own or from a kernel's timer. Each is done at
/// once.
impl Net {
    /// Sets how the network behaves from now on. What is under way stays as it is.
    pub fn set_conditions(&self, conditions: Conditions) {
        let mut inner = self.lock();
        inner.conditions = conditions;
        for link in inner.links.values_mut() {
            link.drawn = None;
        }
    }

    /// The process on this machine has died: the machine closes its sockets. Peers see the end, or a reset where bytes
    /// were unread; its ports refuse connections.
    pub fn process_died(&self, host: IpAddr) {
        let mut inner = self.lock();
        let host = inner.host(host);
        inner.machine_noted(host, "process died");
        let ports: Vec<u64> = inner.ports.iter().filter(|(_, port)| port.host == host).map(|(id, _)| *id).collect();
        ports.into_iter().for_each(|port| inner.close_port(port));
        for (connection, side) in inner.forget_process(host) {
            inner.kernel.count("fault: process died with connections");
            inner.close_end(connection, side);
        }
    }

    /// The machine loses its power: its sockets are gone, and nobody is told.
    pub fn power_off(&self, host: IpAddr) {
        let mut inner = self.lock();
        let host = inner.host(host);
        inner.machine_noted(host, "power off");
        inner.machines[host].off = true;
        for (connection, side) in inner.forget_process(host) {
            inner.vanish_end(connection, side);
        }
        for (connection, side) in inner.ends_at(host) {
            inner.vanish_end(connection, side);
        }
    }

    /// The machine is back, and knows of no connection: it answers with resets, and refuses connections until somebody
    /// listens.
    pub fn power_on(&self, host: IpAddr) {
        let mut inner = self.lock();
        let host = inner.host(host);
        inner.machine_noted(host, "power on");
        inner.machines[host].off = false;
        for other in 0..inner.machines.len() {
            inner.heal(other, host);
        }
    }

    /// Cuts or opens one direction. Connections whose bytes aren't acknowledged for [`STALL_TIME_OUT`] end at the
    /// sender's side; the receiver isn't told.
    pub fn set_link(&self, from: IpAddr, to: IpAddr, state: LinkState) {
        let mut inner = self.lock();
        let (from, to) = (inner.host(from), inner.host(to));
        inner.set_link(from, to, state == LinkState::Cut);
    }

    /// Breaks the connections between two machines: both ends are reset now. In some cases bytes that were under way
    /// arrive still, up to 500 ms later, perhaps not all, and their receiver sees the reset only then.
    pub fn break_connections(&self, a: IpAddr, b: IpAddr) {
        let mut inner = self.lock();
        for connection in inner.between_ips(a, b) {
            inner.break_connection(connection, None);
        }
    }

    /// Breaks each connection between two machines when either side has written the next whole frame, which arrives
    /// late (or half of it), as described at [`Net::break_connections`]: the moment that chance rarely hits.
    pub fn break_at_next_frame(&self, a: IpAddr, b: IpAddr) {
        let mut inner = self.lock();
        for connection in inner.between_ips(a, b) {
            inner.break_next(connection);
        }
    }

    /// One end of each connection between two machines fails with a time-out and is forgotten; what is under way is
    /// lost. The other end hears of it when it sends (a reset), or never.
    pub fn half_open(&self, a: IpAddr, b: IpAddr) {
        let mut inner = self.lock();
        for connection in inner.between_ips(a, b) {
            inner.half_open(connection);
        }
    }

    /// Until this true time connections to the machine are refused though somebody listens.
    pub fn refuse(&self, host: IpAddr, until: Instant) {
        let mut inner = self.lock();
        let host = inner.host(host);
        inner.machine_noted(host, "refuses connections");
        inner.machines[host].refuses_until = until;
    }

    /// All links are open and none is slow, nobody refuses, frames pass. Delays and short reads and writes stay, and so
    /// do machines that are off.
    pub fn heal_all(&self) {
        let mut inner = self.lock();
        inner.kernel.note("network", || "all links heal".to_owned());
        inner.conditions.slow_links = 0;
        inner.conditions.requests = FrameFaults::NONE;
        inner.conditions.replies = FrameFaults::NONE;
        for machine in &mut inner.machines {
            machine.refuses_until = Instant::ZERO;
        }
        let links: Vec<(usize, usize)> = inner.links.keys().copied().collect();
        for (from, to) in links {
            if let Some((_, slow_by)) = inner.links.get_mut(&(from, to)).and_then(|link| link.drawn.as_mut()) {
                *slow_by = 1;
            }
            inner.set_link(from, to, false);
        }
    }
}

impl Machine {
    fn free_port(&mut self) -> Option<u16> {
        for _ in FREE_PORTS {
            let port = self.next_port;
            self.next_port = if port == *FREE_PORTS.end() { *FREE_PORTS.start() } else { port + 1 };
            if self.bound.range((port, 0)..=(port, u64::MAX)).next().is_none() {
                return Some(port);
            }
        }
        None
    }
}

impl Inner {
    /// A number that nothing else has.
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Does something later, while no thread runs.
    fn after(&self, pause: Duration, act: impl FnOnce(&mut Inner) + Send + 'static) {
        self.at(self.kernel.now() + pause, act);
    }

    fn at(&self, at: Instant, act: impl FnOnce(&mut Inner) + Send + 'static) {
        let this = self.this.clone();
        self.kernel.at(at, move || {
            if let Some(inner) = this.upgrade() {
                act(&mut lock(&inner));
            }
        });
    }

    /// The machine at an address.
    fn host(&mut self, ip: IpAddr) -> usize {
        if let Some(host) = self.hosts.get(&ip) {
            return *host;
        }
        let host = self.machines.len();
        self.hosts.insert(ip, host);
        self.machines.push(Machine {
            ip,
            name: ip.to_string(),
            off: false,
            refuses_until: Instant::ZERO,
            next_port: *FREE_PORTS.start(),
            listeners: BTreeMap::new(),
            bound: BTreeSet::new(),
            connections: BTreeSet::new(),
        });
        host
    }

    /// The caller's machine.
    fn own_host(&mut self) -> usize {
        self.host(host_of(&Node::current()).unwrap_or(LOCALHOST))
    }

    /// The machine that is meant by an address on the machine `own`.
    fn host_at(&mut self, ip: IpAddr, own: usize) -> usize {
        if ip.is_loopback() || ip.is_unspecified() { own } else { self.host(ip) }
    }

    fn machine_noted(&self, host: usize, what: &'static str) {
        self.kernel.note(&self.machines[host].name, || what.to_owned());
    }

    /// Whether packets pass.
    fn is_open(&self, from: usize, to: usize) -> bool {
        !self.machines[to].off && (from == to || !self.links.get(&(from, to)).is_some_and(|link| link.cut))
    }

    fn set_link(&mut self, from: usize, to: usize, cut: bool) {
        let link = self.links.entry((from, to)).or_default();
        if from == to || std::mem::replace(&mut link.cut, cut) == cut {
            return;
        }
        let [a, b] = [&self.machines[from], &self.machines[to]];
        self.kernel.note(&a.name, || format!("-> {} {}", b.name, if cut { "cut" } else { "open" }));
        if !cut {
            self.heal(from, to);
        }
    }

    /// How long a packet takes, and whether that is because the link is slow.
    fn delay(&mut self, from: usize, to: usize) -> (Duration, bool) {
        let Conditions { delay, jitter, loopback, slow_links, slow_by, .. } = self.conditions;
        if from == to {
            return (self.kernel.between(loopback.0, loopback.1), false);
        }
        let link = self.links.entry((from, to)).or_default();
        let (least, slow_by) = *link.drawn.get_or_insert_with(|| {
            let least = self.kernel.between(delay.0, delay.1);
            let slow = self.kernel.chance(slow_links);
            let by = slow_by.0 + self.kernel.below((slow_by.1 + 1).saturating_sub(slow_by.0));
            (least, if slow { by as u32 } else { 1 })
        });
        ((least + self.kernel.between(Duration::ZERO, jitter)) * slow_by, slow_by > 1)
    }

    /// The connections between two machines.
    fn between(&self, a: usize, b: usize) -> Vec<u64> {
        let ours = self.machines[a].connections.iter();
        let between = |number: &&u64| {
            let hosts = self.connections.get(**number).map(Connection::hosts);
            hosts == Some([a, b]) || hosts == Some([b, a])
        };
        ours.filter(between).copied().collect()
    }

    fn between_ips(&mut self, a: IpAddr, b: IpAddr) -> Vec<u64> {
        let (a, b) = (self.host(a), self.host(b));
        self.between(a, b)
    }

    /// The ends of connections on a machine.
    fn ends_at(&self, host: usize) -> Vec<(u64, usize)> {
        let mut ends = Vec::new();
        for number in &self.machines[host].connections {
            let Some(connection) = self.connections.get(*number) else { continue };
            ends.extend((0..2).filter(|side| connection.ends[*side].host == host).map(|side| (*number, side)));
        }
        ends
    }

    /// Forgets the polls and ports of a machine, and gives its connections.
    fn forget_process(&mut self, host: usize) -> Vec<(u64, usize)> {
        let kernel = self.kernel.clone();
        self.polls.retain(|_, poll| {
            if poll.host == host {
                kernel.unpark(address(&poll.key), usize::MAX);
            }
            poll.host != host
        });
        self.machines[host].listeners.clear();
        self.machines[host].bound.clear();
        self.ports.retain(|_, port| port.host != host);
        let mut ends = self.ends_at(host);
        ends.retain(|(number, side)| self.connections.get(*number).is_some_and(|c| c.ends[*side].owned));
        ends
    }

    fn listen(&mut self, id: u64) -> io::Result<()> {
        let port = self.ports.get_mut(&id).ok_or(ErrorKind::NotConnected)?;
        let listeners = &mut self.machines[port.host].listeners;
        if listeners.contains_key(&port.addr.port()) {
            return Err(ErrorKind::AddrInUse.into());
        }
        listeners.insert(port.addr.port(), id);
        port.listens = true;
        Ok(())
    }

    fn close_port(&mut self, id: u64) {
        let Some(port) = self.ports.remove(&id) else { return };
        let machine = &mut self.machines[port.host];
        machine.bound.remove(&(port.addr.port(), id));
        if port.listens {
            machine.listeners.remove(&port.addr.port());
        }
        for connection in port.accepted {
            self.reset_end(connection, 1);
        }
    }

    /// Something has happened to a listener.
    fn fire_port(&mut self, id: u64) {
        let Some(Port { accepted, watch: Some(watch), .. }) = self.ports.get(&id) else { return };
        let (poll, event) = (watch.poll, Event { token: watch.token, readable: !accepted.is_empty(), writable: false });
        self.fire(poll, event);
    }

    /// Puts an event down, and wakes who waits for it.
    fn fire(&mut self, poll: u64, event: Event) {
        let Some(poll) = self.polls.get_mut(&poll) else { return };
        if !event.readable && !event.writable {
            return;
        }
        let idle = poll.due.is_empty();
        let due = poll.due.entry(event.token).or_insert(event);
        due.readable |= event.readable;
        due.writable |= event.writable;
        // Whoever waits has seen that nothing was due.
        if idle {
            self.kernel.unpark(address(&poll.key), usize::MAX);
        }
    }
}
