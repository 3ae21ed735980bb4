//! The seam: how something other than the operating system takes its place.
//!
//! [`enter`] puts a [`Backend`] in place for the calling OS thread, until its guard is dropped. While it is there, every
//! free function of this crate is answered by it, what is made (polls, sockets, files, threads) is made by it and
//! belongs to it for good, and whoever waits for a lock or a condition waits in its [`Backend::park`].
//!
//! # What rt relies on
//! 1. **One at a time.** Of the threads that share a backend, one runs, until it switches to another. They may be
//!    coroutines on one OS thread, or OS threads that pass a baton (each of which enters the backend).
//! 2. **Switches happen inside the backend's calls only**, and never in [`Backend::unpark`], [`Backend::now`],
//!    [`Backend::random`] or [`Waker::wake`]. `park`, `yield_point`, `exit`, [`Poll::poll`] and [`Stream::wait`] are
//!    there to switch; every other call may.
//! 3. **Wake-ups may be spurious**, lost never: `unpark` reaches whoever has parked before it.
//! 4. **A key is an address.** Two keys are equal or not, and that is all they tell: who orders by them, or prints them,
//!    does not repeat a run. A backend's own objects may park on addresses of their own.
//! 5. **Time saturates.** A deadline of [`Instant::NEVER`], or a time-out that reaches it, never comes.
//! 6. **The caller's node** is [`Node::current`]: it tells whose address, clock, files and limits are meant.
//!
//! # What a backend of coroutines must know
//! - rt keeps two things in thread-locals, the held ranks and the current node. Such a backend gives each thread its
//!   [`TaskLocals`] and swaps them at each switch.
//! - [`current`] is kept on the stacks of blocked threads. A stack that is thrown away without unwinding leaks what lies
//!   on it, this reference to the backend too. A stack that is unwound runs destructors, which call the backend.
//! - A panic unwinds out of the `body` given to [`Backend::spawn`]; the backend catches it there and decides (the
//!   operating system's ends the process). `std::thread::panicking()` speaks of the OS thread: if a destructor blocks
//!   while its thread unwinds, and the backend switches, the others see themselves panicking (and rank violations go
//!   unreported, lest a panic in a destructor abort). It is best to end the run instead.
//! - It can't see what doesn't come through rt: a loop that spins on an atomic or on `try_lock` never switches, and
//!   entered spans of tracing are thread-locals too, so a span may not be held across a blocking call.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

pub use crate::objects::*;
use crate::sync::ranks;
use crate::thread::{self, Node};
use crate::time::Instant;

/// Something that [`crate::probe::observe`] reports: to be printed, or cast to the type that it is.
pub trait Event: Any + Debug {}

impl<E: Any + Debug> Event for E {}

/// What takes the operating system's place.
pub trait Backend {
    /// The time on the caller's clock; it never goes back.
    fn now(&self) -> Instant;

    /// As [`crate::time::machine_clock`]. Never switches.
    fn machine_clock(&self) -> Duration {
        self.now().since_start()
    }

    /// A random number, all bits uniform.
    fn random(&self) -> u64;

    /// Starts a thread that runs `body`; [`Node::current`] is `node` inside. The new thread doesn't run before the
    /// caller switches.
    ///
    /// # Errors
    /// When there is no thread to give; `body` is dropped.
    fn spawn(&self, node: &Node, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()>;

    /// Blocks the caller until `unpark(key, _)` or `deadline`, or for a shorter time. False if the deadline passed.
    fn park(&self, key: usize, deadline: Option<Instant>) -> bool;

    /// Lets at least one of the threads parked on `key` go on, at least `count` if there are so many. Never switches,
    /// and may be called by a thread that is unwinding.
    fn unpark(&self, key: usize, count: usize);

    /// Called before each lock is taken: another thread may go first. Without this, threads switch only where they
    /// block.
    fn yield_point(&self) {}

    /// Ends the caller's node: none of its threads runs again.
    fn exit(&self, status: i32) -> !;

    /// As [`crate::probe::observe`]. Never switches.
    fn observe(&self, _event: &dyn Event) {}

    /// As [`crate::probe::weakened`]. Never switches.
    fn is_weakened(&self, _name: &str) -> bool {
        false
    }

    /// How many files and sockets the caller's node may have open.
    fn file_limit(&self) -> u64;

    /// As [`crate::net::Poll::new`].
    ///
    /// # Errors
    /// When the node has too many files open.
    fn poll(&self) -> io::Result<Box<dyn Poll>>;

    /// As [`crate::net::TcpPort::bind`].
    ///
    /// # Errors
    /// `AddrInUse`, or too many files open.
    fn bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>>;

    /// As [`crate::net::TcpStream::connect`].
    ///
    /// # Errors
    /// What is known at once; that nobody listens there may come later.
    fn connect(&self, addr: SocketAddr) -> io::Result<Box<dyn Stream>>;

    /// As [`crate::net::resolve`].
    ///
    /// # Errors
    /// When there is no such name.
    fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>>;

    /// As [`crate::fs::File::append`].
    ///
    /// # Errors
    /// `NotFound` if the folder isn't there, and what else befalls disks.
    fn append(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// As [`crate::fs::File::create_new`].
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` if the folder isn't there.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// As [`crate::fs::read`].
    ///
    /// # Errors
    /// `NotFound`, and what else befalls disks.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// As [`crate::fs::exists`].
    ///
    /// # Errors
    /// When it can't be told.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// As [`crate::fs::list`].
    ///
    /// # Errors
    /// `NotFound`.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// As [`crate::fs::rename`]. A crash before [`Backend::sync_dir`] leaves the old name or the new one.
    ///
    /// # Errors
    /// `NotFound`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// As [`crate::fs::remove_file`].
    ///
    /// # Errors
    /// `NotFound`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// As [`crate::fs::create_dir_all`].
    ///
    /// # Errors
    /// When a file is in the way.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// As [`crate::fs::sync_dir`].
    ///
    /// # Errors
    /// `NotFound`, and what else befalls disks.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Backend>>> = const { RefCell::new(None) };
}

/// Puts a backend in place for the calling OS thread, until the guard is dropped.
#[must_use = "the backend is in place until this is dropped"]
pub fn enter(backend: Rc<dyn Backend>) -> Entered {
    Entered { before: CURRENT.replace(Some(backend)), _this_thread: PhantomData }
}

/// A backend is in place; what was there before comes back when this is dropped.
pub struct Entered {
    before: Option<Rc<dyn Backend>>,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

/// The backend in place on this OS thread; `None` means the operating system.
pub fn current() -> Option<Rc<dyn Backend>> {
    // While the OS thread ends there is none any more.
    CURRENT.try_with(|current| current.borrow().clone()).unwrap_or(None)
}

/// What rt keeps in thread-locals for one thread. For backends that switch between threads on one OS thread: a new
/// thread starts with the default, and its own are in place exactly while it runs.
#[derive(Default)]
pub struct TaskLocals {
    held: ranks::List,
    node: Option<Node>,
}

impl TaskLocals {
    /// Exchanges `self` with what is in place: once before the thread is resumed, once after it has stopped.
    pub fn swap(&mut self) {
        ranks::swap(&mut self.held);
        thread::swap_current(&mut self.node);
    }
}

/// Blocks for `duration`.
pub(crate) fn sleep(backend: &dyn Backend, duration: Duration) {
    let until = backend.now() + duration;
    // Nobody else knows this address.
    let bed = 0_u8;
    while backend.park(ptr::from_ref(&bed).addr(), Some(until)) {}
}
