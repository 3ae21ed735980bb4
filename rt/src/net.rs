//! TCP at the level of mio: one [`Poll`] watches many non-blocking sockets, edge-triggered. After an event a socket is
//! read or written until it says `WouldBlock`; only then can another event be counted on. Who stops earlier, or wants
//! to hear of something else, reregisters.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

// Trait objects bring their methods along.
use crate::objects::{AnyListener, AnyPoll, AnyRegistry, AnyStream, AnyWaker};
#[cfg(not(feature = "sim"))]
use crate::objects::{Listener as _, Poll as _, Registry as _, Stream as _, Waker as _};
use crate::time::Instant;

pub(crate) mod os;

/// Names a watched socket in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub usize);

/// What a socket is watched for. Errors and hang-ups are always reported, and sometimes more than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Bytes to read, a connection to accept, or the end of the stream.
    pub read: bool,
    /// Room to write, or the end of a connection attempt.
    pub write: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Writing only.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Both.
    pub const BOTH: Interest = Interest { read: true, write: true };
}

/// A socket became ready. An error or a hang-up shows as both readable and writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name the socket was registered under.
    pub token: Token,
    /// Reading makes progress or fails.
    pub readable: bool,
    /// Writing makes progress or fails.
    pub writable: bool,
}

/// Waits for sockets. One thread waits; any thread registers.
pub struct Poll {
    inner: AnyPoll,
    registry: Registry,
}

impl Poll {
    /// A poll that watches nothing.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        redirect!(backend => backend.poll().map(Self::of));
        os::poll().map(Self::of)
    }

    fn of(inner: AnyPoll) -> Self {
        let registry = Registry(inner.registry());
        Poll { inner, registry }
    }

    /// Where sockets are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Clears `events`, waits until something is ready or `timeout` has passed, and fills `events`.
    ///
    /// # Errors
    /// What the operating system says; an interrupted wait is none, it ends early.
    pub fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        self.inner.poll(events, timeout)
    }

    /// A waker whose call to [`Waker::wake`] shows up here as a readable event under `token`. One for a poll.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn waker(&self, token: Token) -> io::Result<Waker> {
        Ok(Waker(self.registry.0.waker(token)?))
    }
}

/// The sockets that a [`Poll`] watches.
#[derive(Clone)]
pub struct Registry(AnyRegistry);

impl Registry {
    /// Watches a stream. Events that are due already are reported.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn register(&self, stream: &TcpStream, token: Token, interest: Interest) -> io::Result<()> {
        self.0.register(stream.0.id(), token, interest)
    }

    /// Changes what a stream is watched for; events that are due already are reported again.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn reregister(&self, stream: &TcpStream, token: Token, interest: Interest) -> io::Result<()> {
        self.0.reregister(stream.0.id(), token, interest)
    }

    /// Stops watching a stream. To be called before the stream is dropped.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn deregister(&self, stream: &TcpStream) -> io::Result<()> {
        self.0.deregister(stream.0.id())
    }

    /// Watches a listener for connections to accept.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn register_listener(&self, listener: &TcpListener, token: Token) -> io::Result<()> {
        self.0.register(listener.0.id(), token, Interest::READ)
    }

    /// Stops watching a listener.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn deregister_listener(&self, listener: &TcpListener) -> io::Result<()> {
        self.0.deregister(listener.0.id())
    }
}

/// Ends a [`Poll::poll`] from another thread. To be kept as long as the poll is: dropping it may take its last wake
/// back.
pub struct Waker(AnyWaker);

impl Waker {
    /// Makes the poll return, now or the next time it is called.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

/// An address of ours; it doesn't answer until [`TcpPort::listen`].
pub struct TcpPort(AnyListener);

impl TcpPort {
    /// Takes an address; port 0 takes any free port.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there, and what else the operating system says.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        redirect!(backend => backend.bind(addr).map(TcpPort));
        os::bind(addr).map(TcpPort)
    }

    /// The address taken.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// From now on connections are taken.
    ///
    /// # Errors
    /// `AddrInUse` when somebody else was first.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen()?;
        Ok(TcpListener(self.0))
    }
}

/// Takes connections, without blocking.
pub struct TcpListener(AnyListener);

impl TcpListener {
    /// The next connection; `WouldBlock` if there is none.
    ///
    /// # Errors
    /// `WouldBlock`; out of descriptors (but for some that are left to files) shows as EMFILE or ENFILE, and the
    /// connection is still there later, without a new event. Any other error concerns the one connection: go on accepting.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().map(|(stream, addr)| (TcpStream(stream), addr))
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection, non-blocking. Shared freely: every method takes `&self`.
pub struct TcpStream(AnyStream);

impl TcpStream {
    /// Begins to connect. The stream becomes writable when it is decided; [`TcpStream::take_error`] then tells how.
    /// The socket sets SO_REUSEADDR, so that its port can be listened on when it is gone.
    ///
    /// # Errors
    /// What the operating system says at once; EMFILE when it has no descriptors but for some that are left to files.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        redirect!(backend => backend.connect(addr).map(TcpStream));
        os::connect(addr).map(TcpStream)
    }

    /// Reads what there is; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing yet, or how the connection died.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room, or how the connection died.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// Writes what there is room for, from several buffers; not always from all of them.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room, or how the connection died.
    pub fn write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(bytes)
    }

    /// Ends both directions; the peer sees the end of the stream.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn shutdown(&self) -> io::Result<()> {
        self.0.shutdown()
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// `NotConnected` before the connection is made.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    /// The address of this end.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The error that has happened on the socket, once. A stream that the operating system has connected to itself
    /// (it may, where nobody listens on the target's port) counts as refused.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.take_error()
    }

    /// Blocks until the stream is ready for `interest` or has failed; false if the deadline passed first. It looks at
    /// the stream as it is, whatever events a poll has reported.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn wait(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<bool> {
        self.0.wait(interest, deadline)
    }
}

/// The addresses of `host:port`. Asks the name service, and so may block, unless the host is a number.
///
/// # Errors
/// When the name can't be resolved or the text isn't `host:port`.
pub fn resolve(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    redirect!(backend => backend.resolve(host_port));
    os::resolve(host_port)
}
