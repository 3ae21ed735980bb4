//! Locks with ranks, and condition variables with time-outs.
//!
//! A thread may take a lock only if its rank is higher than that of every lock it holds: then no two threads can wait
//! for each other. Debug builds check it at every `lock`. The table of ranks is in docs/architecture.md.
//!
//! A panic under a lock doesn't poison it: [`crate::thread::spawn`] ends the process instead.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::time::Instant;

mod os;
#[cfg(feature = "sim")]
mod parked;
pub(crate) mod ranks;

#[cfg(not(feature = "sim"))]
use os as imp;
#[cfg(feature = "sim")]
use parked as imp;

/// A lock's place in the order in which locks are taken, and its name in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    level: u16,
    name: &'static str,
}

impl Rank {
    /// A rank; higher levels are taken while lower ones are held.
    pub const fn new(level: u16, name: &'static str) -> Self {
        Rank { level, name }
    }
}

/// A mutual-exclusion lock around `T`.
pub struct Mutex<T: ?Sized> {
    rank: Rank,
    inner: imp::Mutex<T>,
}

impl<T> Mutex<T> {
    /// An unlocked lock.
    pub const fn new(rank: Rank, value: T) -> Self {
        Mutex { rank, inner: imp::Mutex::new(value) }
    }

    /// The value, once nobody else has the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock and takes it.
    ///
    /// # Panics
    /// In debug builds, if the thread holds a lock of the same or a higher rank.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = ranks::Held::take(self.rank);
        MutexGuard { inner: self.inner.lock(), held }
    }

    /// Takes the lock if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        Some(MutexGuard { inner, held: ranks::Held::take_unordered(self.rank) })
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mutex({})", self.rank.name)
    }
}

/// The right to use what a [`Mutex`] guards, until dropped.
pub struct MutexGuard<'a, T: ?Sized> {
    inner: imp::MutexGuard<'a, T>,
    // Dropped after `inner`, so that a rank counts as held as long as its lock is.
    held: ranks::Held,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition variable. Waiters must re-check their condition: wake-ups may be spurious.
pub struct Condvar {
    inner: imp::Condvar,
}

impl Condvar {
    /// A condition variable that nobody waits for.
    pub const fn new() -> Self {
        Condvar { inner: imp::Condvar::new() }
    }

    /// Gives the lock back, waits to be notified, takes the lock again.
    ///
    /// # Panics
    /// In debug builds, if the thread holds another lock of the same or a higher rank: it would take them in the wrong
    /// order when it wakes up.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.held.check_retake();
        self.inner.wait(&mut guard.inner);
    }

    /// As [`Condvar::wait`], at most until `deadline`. False if the deadline passed.
    pub fn wait_until<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        guard.held.check_retake();
        self.inner.wait_until(&mut guard.inner, deadline)
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}
