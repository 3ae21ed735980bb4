//! The operating system's TCP: mio to watch, socket2 for the sockets.
#![expect(unsafe_code, reason = "poll(2) for one socket; neither mio nor socket2 has it")]
#![expect(clippy::disallowed_methods, reason = "the operating system's backend")]

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use socket2::{Domain, Protocol, SockAddr, Type};

use super::{Event, Interest, Token};
use crate::objects::{self, AnyListener, AnyPoll, AnyRegistry, AnyStream, AnyWaker, SocketId, any};
use crate::time::Instant;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;
/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;
/// Descriptors that connections leave to files, or an eighth of a small limit: nobody who connects, or is connected to,
/// may keep a node from opening a file.
const LEFT_TO_FILES: u64 = 32;
/// Buffers that the kernel takes in one write (IOV_MAX); it refuses more.
const BUFFERS: usize = 1024;

pub(crate) struct Poll {
    poll: mio::Poll,
    events: mio::Events,
    registry: Arc<Registry>,
}

pub(crate) fn poll() -> io::Result<AnyPoll> {
    let poll = mio::Poll::new()?;
    let registry = Arc::new(Registry(poll.registry().try_clone()?));
    Ok(any(Poll { poll, events: mio::Events::with_capacity(EVENTS), registry }))
}

impl objects::Poll for Poll {
    fn registry(&self) -> AnyRegistry {
        self.registry.clone()
    }

    fn poll(&mut self, out: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        out.extend(self.events.iter().map(|e| {
            let failed = e.is_error();
            Event {
                token: Token(e.token().0),
                readable: failed || e.is_readable() || e.is_read_closed(),
                writable: failed || e.is_writable() || e.is_write_closed(),
            }
        }));
        Ok(())
    }
}

pub(crate) struct Registry(mio::Registry);

fn mio_interest(interest: Interest) -> mio::Interest {
    match (interest.read, interest.write) {
        (false, true) => mio::Interest::WRITABLE,
        (true, true) => mio::Interest::READABLE | mio::Interest::WRITABLE,
        // mio has no "nothing": one event too many now and then does no harm.
        (_, false) => mio::Interest::READABLE,
    }
}

impl Registry {
    /// Runs `call` on the socket's descriptor. The caller has the socket borrowed, so it is open.
    fn with<T>(socket: SocketId, call: impl FnOnce(&mut SourceFd<'_>) -> io::Result<T>) -> io::Result<T> {
        let fd = RawFd::try_from(socket.0).map_err(|_| io::ErrorKind::InvalidInput)?;
        call(&mut SourceFd(&fd))
    }
}

impl objects::Registry for Registry {
    fn register(&self, socket: SocketId, token: Token, interest: Interest) -> io::Result<()> {
        Self::with(socket, |fd| self.0.register(fd, mio::Token(token.0), mio_interest(interest)))
    }

    fn reregister(&self, socket: SocketId, token: Token, interest: Interest) -> io::Result<()> {
        Self::with(socket, |fd| self.0.reregister(fd, mio::Token(token.0), mio_interest(interest)))
    }

    fn deregister(&self, socket: SocketId) -> io::Result<()> {
        Self::with(socket, |fd| self.0.deregister(fd))
    }

    fn waker(&self, token: Token) -> io::Result<AnyWaker> {
        Ok(any(Waker(mio::Waker::new(&self.0, mio::Token(token.0))?)))
    }
}

pub(crate) struct Waker(mio::Waker);

impl objects::Waker for Waker {
    fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

/// A port that is taken, and later listens.
pub(crate) struct Listener(socket2::Socket);

/// A connection, or an attempt at one.
pub(crate) struct Stream(socket2::Socket);

fn new_socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A connection of a dead node must not keep its successor from the port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// EMFILE if this new descriptor leaves too few: the lowest free one is always taken, so a high one means that.
fn leave_some_to_files(descriptor: RawFd) -> io::Result<()> {
    let limit = crate::process::file_limit();
    let most = limit.saturating_sub(LEFT_TO_FILES.min(limit / 8));
    if u64::from(descriptor.unsigned_abs()) < most { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMFILE)) }
}

pub(crate) fn bind(addr: SocketAddr) -> io::Result<AnyListener> {
    let socket = new_socket(addr)?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(any(Listener(socket)))
}

pub(crate) fn connect(addr: SocketAddr) -> io::Result<AnyStream> {
    let socket = new_socket(addr)?;
    leave_some_to_files(socket.as_raw_fd())?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SockAddr::from(addr)) {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => other?,
    }
    Ok(any(Stream(socket)))
}

pub(crate) fn resolve(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(host_port.to_socket_addrs()?.collect())
}

fn id(socket: &socket2::Socket) -> SocketId {
    // A descriptor isn't negative.
    SocketId(u64::from(socket.as_raw_fd().unsigned_abs()))
}

impl objects::Listener for Listener {
    fn id(&self) -> SocketId {
        id(&self.0)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        internet(self.0.local_addr()?)
    }

    fn listen(&self) -> io::Result<()> {
        self.0.listen(BACKLOG)
    }

    fn accept(&self) -> io::Result<(AnyStream, SocketAddr)> {
        // Before a connection is taken: later it couldn't go back.
        leave_some_to_files(self.0.try_clone()?.as_raw_fd())?;
        let (socket, addr) = retry(|| self.0.accept())?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        Ok((any(Stream(socket)), internet(addr)?))
    }
}

impl objects::Stream for Stream {
    fn id(&self) -> SocketId {
        id(&self.0)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry(|| (&self.0).read(buffer))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        retry(|| (&self.0).write(bytes))
    }

    fn write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(BUFFERS)];
        retry(|| (&self.0).write_vectored(bytes))
    }

    fn shutdown(&self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Both)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        internet(self.0.peer_addr()?)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        internet(self.0.local_addr()?)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self.0.take_error()? {
            None if is_connected_to_itself(&self.0)? => Ok(Some(io::ErrorKind::ConnectionRefused.into())),
            error => Ok(error),
        }
    }

    fn wait(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<bool> {
        wait(&self.0, interest, deadline)
    }
}

/// Whether the kernel, looking for a free port for our end, took the very port that nobody listened on.
fn is_connected_to_itself(socket: &socket2::Socket) -> io::Result<bool> {
    match socket.peer_addr() {
        Ok(peer) => Ok(socket.local_addr()? == peer),
        Err(_) => Ok(false),
    }
}

fn wait(socket: &socket2::Socket, interest: Interest, deadline: Option<Instant>) -> io::Result<bool> {
    let mut events = 0;
    if interest.read {
        events |= libc::POLLIN;
    }
    if interest.write {
        events |= libc::POLLOUT;
    }
    loop {
        let timeout_ms = match deadline {
            None => -1,
            Some(deadline) => {
                let left = deadline - crate::time::now();
                // Rounded up, so that the wait never ends before the deadline and spins.
                i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
            }
        };
        let mut fd = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
        // SAFETY: poll reads and writes one pollfd at the pointer, which points to one.
        let ready = unsafe { libc::poll(&mut fd, 1, timeout_ms) };
        if ready > 0 {
            return Ok(true);
        }
        if ready == 0 {
            if deadline.is_some_and(|d| crate::time::now() >= d) {
                return Ok(false);
            }
            continue;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn internet(addr: SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Stream as _;

    #[test]
    fn a_connection_to_itself_counts_as_refused() {
        let socket = new_socket("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.bind(&SockAddr::from("127.0.0.1:0".parse::<SocketAddr>().unwrap())).unwrap();
        let own = socket.local_addr().unwrap();
        if let Err(e) = socket.connect(&own) {
            assert_eq!(e.raw_os_error(), Some(libc::EINPROGRESS));
        }
        let deadline = crate::time::now() + Duration::from_secs(20);
        assert!(wait(&socket, Interest::WRITE, Some(deadline)).unwrap());
        assert!(socket.take_error().unwrap().is_none(), "the kernel sees nothing wrong");
        let error = Stream(socket).take_error().unwrap().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
