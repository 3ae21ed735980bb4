//! What programs hold: polls, ports, streams.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rt::backend::{Listener, Poll, Registry, SocketId, Stream, Waker};
use rt::net::{Event, Interest, Token};
use rt::time::Instant;

use super::connection::Wire;
use super::{Inner, Net, Watch, address};

/// Names a socket: which connection's end, or which port.
#[derive(Clone, Copy)]
enum Socket {
    End(u64, usize),
    Port(u64),
}

impl From<Socket> for SocketId {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::End(connection, side) => SocketId(connection << 2 | side as u64),
            Socket::Port(port) => SocketId(port << 2 | 2),
        }
    }
}

impl From<SocketId> for Socket {
    fn from(id: SocketId) -> Self {
        match id.0 & 2 {
            0 => Socket::End(id.0 >> 2, (id.0 & 1) as usize),
            _ => Socket::Port(id.0 >> 2),
        }
    }
}

/// A poll.
pub struct NetPoll {
    registry: NetRegistry,
}

impl NetPoll {
    pub(super) fn new(net: Net, id: u64) -> Self {
        NetPoll { registry: NetRegistry { net, id } }
    }
}

impl Drop for NetPoll {
    fn drop(&mut self) {
        let NetRegistry { net, id } = &self.registry;
        net.lock().polls.remove(id);
    }
}

impl Poll for NetPoll {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.registry.clone())
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let NetRegistry { net, id } = &self.registry;
        let deadline = timeout.map(|timeout| net.kernel.local_now() + timeout);
        net.wait(deadline, |inner| {
            // The process is dead, or its machine is off.
            let poll = inner.polls.get_mut(id).ok_or(ErrorKind::NotConnected)?;
            if poll.due.is_empty() {
                return Ok(Err(address(&poll.key)));
            }
            events.extend(std::mem::take(&mut poll.due).into_values());
            Ok(Ok(()))
        })?;
        Ok(())
    }
}

#[derive(Clone)]
struct NetRegistry {
    net: Net,
    id: u64,
}

impl Inner {
    fn watch(&mut self, socket: SocketId) -> io::Result<&mut Option<Watch>> {
        let watch = match Socket::from(socket) {
            Socket::End(connection, side) => {
                self.connections.get_mut(connection).map(|connection| &mut connection.ends[side].watch)
            }
            Socket::Port(port) => self.ports.get_mut(&port).map(|port| &mut port.watch),
        };
        watch.ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl NetRegistry {
    fn watch(&self, socket: SocketId, watched: bool, watch: Option<(Token, Interest)>) -> io::Result<()> {
        let mut inner = self.net.lock();
        let place = inner.watch(socket)?;
        if place.is_some() != watched || place.is_some_and(|before| before.poll != self.id) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let after = watch.map(|(token, interest)| Watch { poll: self.id, token, interest });
        let before = std::mem::replace(place, after);
        if let (Some(before), Some(poll)) = (before, inner.polls.get_mut(&self.id)) {
            poll.due.remove(&before.token);
        }
        if after.is_some() {
            match Socket::from(socket) {
                Socket::End(connection, side) => inner.fire_end(connection, side),
                Socket::Port(port) => inner.fire_port(port),
            }
        }
        Ok(())
    }
}

impl Registry for NetRegistry {
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
        Ok(())
    }
}

/// A port, listening or not.
pub struct NetPort {
    net: Net,
    id: u64,
    addr: SocketAddr,
}

impl NetPort {
    pub(super) fn new(net: Net, id: u64, addr: SocketAddr) -> Self {
        NetPort { net, id, addr }
    }
}

impl Drop for NetPort {
    fn drop(&mut self) {
        self.net.lock().close_port(self.id);
    }
}

impl Listener for NetPort {
    fn id(&self) -> SocketId {
        Socket::Port(self.id).into()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn listen(&self) -> io::Result<()> {
        self.net.lock().listen(self.id)
    }

    fn accept(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let mut inner = self.net.lock();
        let port = inner.ports.get_mut(&self.id).filter(|port| port.listens).ok_or(ErrorKind::InvalidInput)?;
        let connection = port.accepted.pop_front().ok_or(ErrorKind::WouldBlock)?;
        let peer = inner.connections.get(connection).ok_or(ErrorKind::ConnectionAborted)?.ends[0].addr;
        drop(inner);
        Ok((Box::new(NetStream::new(self.net.clone(), connection, 1)), peer))
    }
}

/// One end of a connection.
pub struct NetStream {
    net: Net,
    connection: u64,
    side: usize,
}

impl NetStream {
    pub(super) fn new(net: Net, connection: u64, side: usize) -> Self {
        NetStream { net, connection, side }
    }
}

impl Drop for NetStream {
    fn drop(&mut self) {
        self.net.lock().close_end(self.connection, self.side);
    }
}

impl Stream for NetStream {
    fn id(&self) -> SocketId {
        Socket::End(self.connection, self.side).into()
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.net.lock().read(self.connection, self.side, buffer)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.net.lock().write(self.connection, self.side, bytes)
    }

    fn write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&bytes.iter().flat_map(|b| b.iter().copied()).collect::<Vec<_>>())
    }

    fn shutdown(&self) -> io::Result<()> {
        self.net.lock().shutdown(self.connection, self.side)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        let inner = self.net.lock();
        let connection = inner.connections.get(self.connection).ok_or(ErrorKind::NotConnected)?;
        match connection.ends[self.side].wire {
            Wire::Open => Ok(connection.ends[1 - self.side].addr),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let inner = self.net.lock();
        let connection = inner.connections.get(self.connection).ok_or(ErrorKind::NotConnected)?;
        Ok(connection.ends[self.side].addr)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        let mut inner = self.net.lock();
        let connection = inner.connections.get_mut(self.connection).ok_or(ErrorKind::NotConnected)?;
        Ok(connection.ends[self.side].error.take().map(io::Error::from))
    }

    fn wait(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<bool> {
        self.net.wait(deadline, |inner| {
            let connection = inner.connections.get_mut(self.connection).ok_or(ErrorKind::NotConnected)?;
            let end = &mut connection.ends[self.side];
            let (readable, writable) = end.ready();
            if !end.owned || end.failed || readable && interest.read || writable && interest.write {
                return Ok(Ok(()));
            }
            Ok(Err(address(end.key.get_or_insert_default())))
        })
    }
}
