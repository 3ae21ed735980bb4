//! Locks that wait in the thread's backend, or in the operating system where there is none.
//!
//! A lock is still parking_lot's, but a thread with a backend never blocks in it: it tries, and parks on the lock's
//! address. Nothing is lost between the two, because only one thread runs at a time and `unpark` doesn't switch (rules
//! 1 and 2 in [`crate::backend`]). One object is used under one backend only.

use std::ops::{Deref, DerefMut};
use std::ptr;

use super::os;
use crate::backend::{self, Backend};
use crate::time::Instant;

pub(super) struct Mutex<T: ?Sized> {
    lot: Lot,
    inner: os::Mutex<T>,
}

/// Where threads park. It takes up room, so that no two have the same address, in whatever they are nested.
struct Lot(#[expect(dead_code, reason = "only its address counts")] u8);

impl Lot {
    fn key(&self) -> usize {
        ptr::from_ref(self).addr()
    }
}

impl<T> Mutex<T> {
    pub(super) const fn new(value: T) -> Self {
        Mutex { lot: Lot(0), inner: os::Mutex::new(value) }
    }

    pub(super) fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        let inner = match backend::current() {
            None => self.inner.lock(),
            Some(backend) => {
                backend.yield_point();
                self.lock_in(&*backend)
            }
        };
        MutexGuard { mutex: self, inner: Some(inner) }
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        Some(MutexGuard { mutex: self, inner: Some(self.inner.try_lock()?) })
    }

    fn lock_in(&self, backend: &dyn Backend) -> os::MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.inner.try_lock() {
                return guard;
            }
            backend.park(self.lot.key(), None);
        }
    }
}

pub(super) struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// `None` only while the thread waits for a condition variable, and for good if it is unwound there.
    inner: Option<os::MutexGuard<'a, T>>,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        let Some(inner) = &self.inner else { unreachable!("used while waiting") };
        inner
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        let Some(inner) = &mut self.inner else { unreachable!("used while waiting") };
        inner
    }
}

impl<T: ?Sized> MutexGuard<'_, T> {
    fn release(&mut self, backend: Option<&dyn Backend>) {
        // In this order: who is woken finds the lock free.
        if self.inner.take().is_some()
            && let Some(backend) = backend
        {
            backend.unpark(self.mutex.lot.key(), 1);
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.release(backend::current().as_deref());
    }
}

pub(super) struct Condvar {
    lot: Lot,
    inner: os::Condvar,
}

impl Condvar {
    pub(super) const fn new() -> Self {
        Condvar { lot: Lot(0), inner: os::Condvar::new() }
    }

    pub(super) fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        match (backend::current(), &mut guard.inner) {
            (None, Some(inner)) => self.inner.wait(inner),
            (None, None) => unreachable!("waits twice"),
            (Some(backend), _) => {
                self.wait_in(&*backend, guard, None);
            }
        }
    }

    pub(super) fn wait_until<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        match (backend::current(), &mut guard.inner) {
            (None, Some(inner)) => self.inner.wait_until(inner, deadline),
            (None, None) => unreachable!("waits twice"),
            (Some(backend), _) => self.wait_in(&*backend, guard, Some(deadline)),
        }
    }

    fn wait_in<T: ?Sized>(
        &self,
        backend: &dyn Backend,
        guard: &mut MutexGuard<'_, T>,
        deadline: Option<Instant>,
    ) -> bool {
        guard.release(Some(backend));
        let in_time = backend.park(self.lot.key(), deadline);
        guard.inner = Some(guard.mutex.lock_in(backend));
        in_time
    }

    pub(super) fn notify_one(&self) {
        self.notify(1, os::Condvar::notify_one);
    }

    pub(super) fn notify_all(&self) {
        self.notify(usize::MAX, os::Condvar::notify_all);
    }

    fn notify(&self, count: usize, otherwise: impl FnOnce(&os::Condvar)) {
        match backend::current() {
            None => otherwise(&self.inner),
            Some(backend) => backend.unpark(self.lot.key(), count),
        }
    }
}
