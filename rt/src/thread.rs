//! Threads: each has a name and belongs to a node.
//!
//! A panic on a spawned thread ends the process: half a node is worse than none.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, Rank};
use crate::time::Instant;

/// Which node a thread works for. Several nodes may live in one process.
#[derive(Clone, PartialEq, Eq)]
pub struct Node(Arc<str>);

thread_local! {
    static CURRENT: RefCell<Option<Node>> = const { RefCell::new(None) };
}

impl Node {
    /// A node by its name.
    pub fn new(name: &str) -> Self {
        Node(name.into())
    }

    /// The node of the calling thread: the one it was spawned on, or an unnamed one.
    pub fn current() -> Self {
        CURRENT.with_borrow(|current| current.clone()).unwrap_or_else(|| Node::new(""))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `work` on this thread as this node's: what it spawns belongs to the node.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let result = work();
        CURRENT.set(before);
        result
    }

    /// Starts a thread of this node. The name should be that of the thread's role.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle> {
        let done = Arc::new(Done { ended: Mutex::new(DONE_RANK, false), signal: Condvar::new() });
        let (node, at_end) = (self.clone(), done.clone());
        let body = Box::new(move || {
            CURRENT.set(Some(node));
            work();
            *at_end.ended.lock() = true;
            at_end.signal.notify_all();
        });
        redirect!(backend => backend.spawn(self, name, body).map(|()| JoinHandle { done }));
        os::spawn(name, body).map(|()| JoinHandle { done })
    }
}

/// Exchanges `node` with the calling thread's.
#[cfg(feature = "sim")]
pub(crate) fn swap_current(node: &mut Option<Node>) {
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, node));
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Starts a thread that belongs to the caller's node; see [`Node::spawn`].
///
/// # Errors
/// When the operating system has no thread to give.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle> {
    Node::current().spawn(name, work)
}

const DONE_RANK: Rank = Rank::new(u16::MAX, "thread.done");

struct Done {
    /// Set, and `signal` notified, when the thread's work has returned.
    ended: Mutex<bool>,
    signal: Condvar,
}

/// Waits for a thread to end. Dropping it lets the thread go on by itself.
pub struct JoinHandle {
    done: Arc<Done>,
}

impl JoinHandle {
    /// Waits for the thread until `deadline`. False if it still runs then.
    pub fn join_until(&self, deadline: Instant) -> bool {
        let mut ended = self.done.ended.lock();
        while !*ended {
            if !self.done.signal.wait_until(&mut ended, deadline) {
                return *ended;
            }
        }
        true
    }
}

impl fmt::Debug for JoinHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinHandle")
    }
}

mod os {
    #![expect(clippy::disallowed_methods, reason = "the operating system's backend")]
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Exit status of a process that one of its threads' panics ended; the same as Rust's own for main.
    const PANICKED: i32 = 101;

    pub(crate) fn spawn(name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The panic hook has reported it already.
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                crate::process::exit(PANICKED);
            }
        })?;
        Ok(())
    }
}
