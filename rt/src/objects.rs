//! What a backend's objects can do: a poll with its registry and wakers, listeners, streams, files.
//!
//! The operating system's objects implement these traits too, so that the public types in [`crate::net`] and
//! [`crate::fs`] are written once. Without the feature `sim` the `Any...` types are the operating system's own and
//! nothing is dispatched; with it they are boxes, and an object belongs to the backend that made it for good.
//!
//! The meaning of each method, its errors among it, is that of the public method of the same name.
#![cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "public as rt::backend's only with the feature"))]

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::net::{Event, Interest, Token};
use crate::time::Instant;

/// Names a socket to the registry of its own backend: unique while the socket is open. It means nothing to another
/// backend, so sockets and polls must not be mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// Behind [`crate::net::Poll`]. Events are edges: one is due when a socket is registered or reregistered ready, and
/// when something happens to it; not while it merely stays ready. Too many events are allowed, too few are not.
pub trait Poll: Send + Sync {
    /// The same registry each time.
    fn registry(&self) -> AnyRegistry;
    /// Appends to `events`, at least one if any is due; waits for that, at most `timeout`. May end early with none.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()>;
}

/// Behind [`crate::net::Registry`]. Called from any thread, during a `poll` too. A socket may be watched by one poll.
pub trait Registry: Send + Sync {
    /// Begins to watch a stream or a listener.
    fn register(&self, socket: SocketId, token: Token, interest: Interest) -> io::Result<()>;
    /// Replaces token and interest, and begins anew: what is due already is due again.
    fn reregister(&self, socket: SocketId, token: Token, interest: Interest) -> io::Result<()>;
    /// Forgets the socket, and its events that are due.
    fn deregister(&self, socket: SocketId) -> io::Result<()>;
    /// At most one for a poll.
    fn waker(&self, token: Token) -> io::Result<AnyWaker>;
}

/// Behind [`crate::net::Waker`].
pub trait Waker: Send + Sync {
    /// Makes a readable event due under the waker's token.
    fn wake(&self) -> io::Result<()>;
}

/// Behind [`crate::net::TcpPort`] and [`crate::net::TcpListener`]: the same object before and after `listen`. Dropping
/// it frees the address and resets the connections that nobody has accepted.
pub trait Listener: Send + Sync {
    /// Its name in the registry.
    fn id(&self) -> SocketId;
    /// The address taken.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// From now on connections are taken; before, they are refused.
    fn listen(&self) -> io::Result<()>;
    /// The next connection, or `WouldBlock`.
    fn accept(&self) -> io::Result<(AnyStream, SocketAddr)>;
}

/// Behind [`crate::net::TcpStream`]. Dropping it closes the connection; the peer reads what is under way, then the
/// end, or gets a reset if this side left bytes unread.
pub trait Stream: Send + Sync {
    /// Its name in the registry.
    fn id(&self) -> SocketId;
    /// Never blocks; 0 for an empty buffer or the end.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Never blocks.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Never blocks.
    fn write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ends both directions.
    fn shutdown(&self) -> io::Result<()>;
    /// `NotConnected` until the connection is made.
    fn peer_addr(&self) -> io::Result<SocketAddr>;
    /// The address of this end.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// How the connection attempt, or the connection, failed; `None` the next time.
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// Blocks, by level: returns true at once if the stream is ready or has failed.
    fn wait(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<bool>;
}

/// Behind [`crate::fs::File`]. Dropping it closes the file and gives its lock back.
pub trait File: Send + Sync {
    /// After an error any part of the bytes may be there.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// What was written, and the length that was set, survive a crash from now on.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts off, or fills up with zeros; what is written next comes at the new end.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// False if the file is locked through another `File`.
    fn try_lock(&self) -> io::Result<bool>;
    /// False if `path` names another file, or none. By default nobody but the program removes and replaces files.
    fn is_at(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

#[cfg(feature = "sim")]
mod any {
    use std::sync::Arc;

    /// Any backend's poll.
    pub type AnyPoll = Box<dyn super::Poll>;
    /// Any backend's registry.
    pub type AnyRegistry = Arc<dyn super::Registry>;
    /// Any backend's waker.
    pub type AnyWaker = Box<dyn super::Waker>;
    /// Any backend's listener.
    pub type AnyListener = Box<dyn super::Listener>;
    /// Any backend's stream.
    pub type AnyStream = Box<dyn super::Stream>;
    /// Any backend's file.
    pub type AnyFile = Box<dyn super::File>;
}

#[cfg(not(feature = "sim"))]
mod any {
    use std::sync::Arc;

    use crate::{fs, net};

    pub type AnyPoll = net::os::Poll;
    pub type AnyRegistry = Arc<net::os::Registry>;
    pub type AnyWaker = net::os::Waker;
    pub type AnyListener = net::os::Listener;
    pub type AnyStream = net::os::Stream;
    pub type AnyFile = fs::os::File;
}

pub use any::*;

/// An object of the operating system's on its way to its `Any...` type.
#[cfg(not(feature = "sim"))]
pub(crate) fn any<T>(object: T) -> T {
    object
}

/// An object of the operating system's on its way to its `Any...` type.
#[cfg(feature = "sim")]
pub(crate) fn any<T>(object: T) -> Box<T> {
    Box::new(object)
}
