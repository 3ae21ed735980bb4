//! A network in memory, without delay or loss.
//!
//! What changes a socket calls `Inner::stir`, which makes events due and wakes everybody who waits for the network; they
//! look again.
#![expect(clippy::disallowed_types, reason = "a backend's own lock; it is never held across a switch")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rt::backend::{self, Listener, Poll, Registry, SocketId, Stream, Waker};
use rt::net::{Event, Interest, Token};
use rt::time::{self, Instant};

/// Bytes that a stream holds for its reader.
const ROOM: usize = 1 << 18;

#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    next_id: u64,
    next_port: u16,
    sockets: BTreeMap<SocketId, Socket>,
    /// The events that are due, by poll and token.
    due: BTreeMap<u64, BTreeMap<Token, Event>>,
}

struct Socket {
    local: SocketAddr,
    kind: Kind,
    /// Poll, token, interest.
    watch: Option<(u64, Token, Interest)>,
}

enum Kind {
    Port,
    Listener { accepted: VecDeque<SocketId> },
    Stream(End),
}

/// One end of a connection.
#[derive(Default)]
struct End {
    peer: Option<(SocketId, SocketAddr)>,
    inbox: VecDeque<u8>,
    /// The peer sends no more.
    ended: bool,
    /// We have shut it down.
    shut: bool,
    failed: bool,
    /// Why it failed, until told.
    error: Option<ErrorKind>,
}

impl Inner {
    fn add(&mut self, local: SocketAddr, kind: Kind) -> SocketId {
        self.next_id += 1;
        let id = SocketId(self.next_id);
        self.sockets.insert(id, Socket { local, kind, watch: None });
        id
    }

    fn free_port(&mut self) -> u16 {
        self.next_port += 1;
        10_000 + self.next_port
    }

    fn end(&mut self, id: SocketId) -> Option<&mut End> {
        match self.sockets.get_mut(&id) {
            Some(Socket { kind: Kind::Stream(end), .. }) => Some(end),
            _ => None,
        }
    }

    /// Readable, writable.
    fn ready(&self, id: SocketId) -> (bool, bool) {
        match self.sockets.get(&id).map(|s| &s.kind) {
            Some(Kind::Listener { accepted }) => (!accepted.is_empty(), false),
            Some(Kind::Stream(end)) => {
                let readable = end.failed || end.ended || end.shut || !end.inbox.is_empty();
                let full = match end.peer.and_then(|(peer, _)| self.sockets.get(&peer)) {
                    Some(Socket { kind: Kind::Stream(peer), .. }) => peer.inbox.len() >= ROOM,
                    _ => false,
                };
                (readable, end.failed || end.shut || !full)
            }
            Some(Kind::Port) | None => (false, false),
        }
    }

    /// Something has happened to the socket.
    fn stir(&mut self, id: SocketId) {
        let (readable, writable) = self.ready(id);
        if let Some((poll, token, interest)) = self.sockets.get(&id).and_then(|s| s.watch) {
            let (readable, writable) = (readable && interest.read, writable && interest.write);
            let failed = matches!(&self.sockets[&id].kind, Kind::Stream(end) if end.failed);
            self.fire(poll, Event { token, readable: readable || failed, writable: writable || failed });
        }
        wake_all();
    }

    fn fire(&mut self, poll: u64, event: Event) {
        if event.readable || event.writable {
            let due = self.due.entry(poll).or_default().entry(event.token).or_insert(event);
            due.readable |= event.readable;
            due.writable |= event.writable;
        }
    }

    fn close(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        match socket.kind {
            Kind::Port => {}
            Kind::Listener { accepted } => accepted.into_iter().for_each(|stream| self.close(stream)),
            Kind::Stream(End { peer, inbox, .. }) => {
                let Some((peer, _)) = peer else { return };
                let Some(end) = self.end(peer) else { return };
                end.ended = true;
                if !inbox.is_empty() {
                    (end.failed, end.error) = (true, Some(ErrorKind::ConnectionReset));
                }
                self.stir(peer);
            }
        }
    }
}

/// Where everybody parks who waits for the network.
static HERE: u8 = 0;

fn key() -> usize {
    (&raw const HERE).addr()
}

fn wake_all() {
    // Nobody waits any more if the run is over.
    if let Some(backend) = backend::current() {
        backend.unpark(key(), usize::MAX);
    }
}

/// Waits until `done` gives something, or for the deadline.
fn wait_for<T>(deadline: Option<Instant>, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let found = done();
        if found.is_some() || deadline.is_some_and(|d| time::now() >= d) {
            return found;
        }
        backend::current()?.park(key(), deadline);
    }
}

impl Net {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// An empty network.
    pub fn new(_kernel: &crate::kernel::Kernel) -> Self {
        Net::default()
    }

    pub fn poll(&self) -> NetPoll {
        let mut inner = self.lock();
        inner.next_id += 1;
        NetPoll { net: self.clone(), id: inner.next_id }
    }

    pub fn bind(&self, mut addr: SocketAddr) -> io::Result<Handle> {
        let mut inner = self.lock();
        if addr.port() == 0 {
            addr.set_port(inner.free_port());
        }
        if inner.sockets.values().any(|s| s.local == addr && matches!(s.kind, Kind::Listener { .. })) {
            return Err(ErrorKind::AddrInUse.into());
        }
        Ok(Handle { net: self.clone(), id: inner.add(addr, Kind::Port) })
    }

    pub fn connect(&self, addr: SocketAddr) -> io::Result<Handle> {
        let mut inner = self.lock();
        let ours = SocketAddr::new(addr.ip(), inner.free_port());
        let id = inner.add(ours, Kind::Stream(End::default()));
        let theirs = inner.add(addr, Kind::Stream(End { peer: Some((id, ours)), ..End::default() }));
        let mut listener = None;
        for (id, socket) in &mut inner.sockets {
            if let Kind::Listener { accepted } = &mut socket.kind
                && socket.local == addr
            {
                accepted.push_back(theirs);
                listener = Some(*id);
            }
        }
        match listener {
            Some(listener) => {
                inner.end(id).unwrap().peer = Some((theirs, addr));
                inner.stir(listener);
            }
            None => {
                inner.sockets.remove(&theirs);
                let end = inner.end(id).unwrap();
                (end.failed, end.error) = (true, Some(ErrorKind::ConnectionRefused));
            }
        }
        Ok(Handle { net: self.clone(), id })
    }
}

pub struct NetPoll {
    net: Net,
    id: u64,
}

impl Poll for NetPoll {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(NetPoll { net: self.net.clone(), id: self.id })
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let due = wait_for(timeout.map(|t| time::now() + t), || self.net.lock().due.remove(&self.id));
        events.extend(due.into_iter().flat_map(BTreeMap::into_values));
        Ok(())
    }
}

impl NetPoll {
    fn watch(&self, socket: SocketId, watched: bool, watch: Option<(Token, Interest)>) -> io::Result<()> {
        let mut inner = self.net.lock();
        let known = inner.sockets.get_mut(&socket).ok_or(ErrorKind::NotFound)?;
        if known.watch.is_some() != watched {
            return Err(ErrorKind::InvalidInput.into());
        }
        let before = known.watch.take();
        known.watch = watch.map(|(token, interest)| (self.id, token, interest));
        if let (Some((poll, token, _)), Some(due)) = (before, inner.due.get_mut(&self.id)) {
            assert_eq!(poll, self.id, "one poll for a socket");
            due.remove(&token);
        }
        inner.stir(socket);
        Ok(())
    }
}

impl Registry for NetPoll {
    fn register(&self, socket: SocketId, token: Token, interest: Interest) -> io::Result<()> {
        self.watch(socket, false, Some((token, interest)))
    }

    fn reregister(&self, socket: SocketId, token: Token, interest: Interest) -> io::Result<()> {
        self.watch(socket, true, Some((token, interest)))
    }

    fn deregister(&self, socket: SocketId) -> io::Result<()> {
        self.watch(socket, true, None)
    }

    fn waker(&self, token: Token) -> io::Result<Box<dyn Waker>> {
        Ok(Box::new(NetWaker { net: self.net.clone(), poll: self.id, token }))
    }
}

struct NetWaker {
    net: Net,
    poll: u64,
    token: Token,
}

impl Waker for NetWaker {
    fn wake(&self) -> io::Result<()> {
        self.net.lock().fire(self.poll, Event { token: self.token, readable: true, writable: false });
        wake_all();
        Ok(())
    }
}

/// A port, a listener or a stream.
pub struct Handle {
    net: Net,
    id: SocketId,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.net.lock().close(self.id);
    }
}

impl Handle {
    fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.net.lock().sockets[&self.id].local)
    }

    /// Does something to this end of a connection.
    fn end<T>(&self, work: impl FnOnce(&mut End) -> io::Result<T>) -> io::Result<T> {
        work(self.net.lock().end(self.id).ok_or(ErrorKind::NotConnected)?)
    }
}

impl Listener for Handle {
    fn id(&self) -> SocketId {
        self.id
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address()
    }

    fn listen(&self) -> io::Result<()> {
        let mut inner = self.net.lock();
        inner.sockets.get_mut(&self.id).unwrap().kind = Kind::Listener { accepted: VecDeque::new() };
        Ok(())
    }

    fn accept(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let mut inner = self.net.lock();
        let Kind::Listener { accepted } = &mut inner.sockets.get_mut(&self.id).unwrap().kind else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let id = accepted.pop_front().ok_or(ErrorKind::WouldBlock)?;
        let (_, peer) = inner.end(id).unwrap().peer.unwrap();
        Ok((Box::new(Handle { net: self.net.clone(), id }), peer))
    }
}

impl Stream for Handle {
    fn id(&self) -> SocketId {
        self.id
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.end(|end| {
            if let Some(error) = end.error.take() {
                return Err(error.into());
            }
            if end.inbox.is_empty() && !end.ended && !end.failed && !end.shut {
                return Err(ErrorKind::WouldBlock.into());
            }
            let length = buffer.len().min(end.inbox.len());
            for (to, byte) in buffer.iter_mut().zip(end.inbox.drain(..length)) {
                *to = byte;
            }
            Ok((length, end.peer))
        });
        let (length, peer) = read?;
        if let Some((peer, _)) = peer {
            self.net.lock().stir(peer);
        }
        Ok(length)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let peer = self.end(|end| match (end.error.take(), end.peer) {
            (Some(error), _) => Err(error.into()),
            (None, Some((peer, _))) if !end.shut && !end.failed => Ok(peer),
            _ => Err(ErrorKind::BrokenPipe.into()),
        })?;
        let mut inner = self.net.lock();
        let end = inner.end(peer).ok_or(ErrorKind::BrokenPipe)?;
        let length = bytes.len().min(ROOM - end.inbox.len());
        if length == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        end.inbox.extend(&bytes[..length]);
        inner.stir(peer);
        Ok(length)
    }

    fn write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&bytes.iter().flat_map(|b| b.iter().copied()).collect::<Vec<_>>())
    }

    fn shutdown(&self) -> io::Result<()> {
        let peer = self.end(|end| {
            end.shut = true;
            end.peer.ok_or_else(|| ErrorKind::NotConnected.into())
        })?;
        let mut inner = self.net.lock();
        if let Some(end) = inner.end(peer.0) {
            end.ended = true;
        }
        inner.stir(peer.0);
        inner.stir(self.id);
        Ok(())
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.end(|end| end.peer.map(|(_, addr)| addr).ok_or_else(|| ErrorKind::NotConnected.into()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address()
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.end(|end| Ok(end.error.take().map(io::Error::from)))
    }

    fn wait(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<bool> {
        let ready = || {
            let (readable, writable) = self.net.lock().ready(self.id);
            (readable && interest.read || writable && interest.write).then_some(())
        };
        Ok(wait_for(deadline, ready).is_some())
    }
}
