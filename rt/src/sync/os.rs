//! The operating system's locks: parking_lot's.
#![expect(clippy::disallowed_types, reason = "the operating system's backend")]

pub(super) use parking_lot::MutexGuard;

use crate::time::{self, Instant};

// An alias, so that clippy doesn't see parking_lot's lock wherever ours is written.
pub(super) type Mutex<T> = parking_lot::Mutex<T>;

pub(super) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(super) const fn new() -> Self {
        Condvar(parking_lot::Condvar::new())
    }

    pub(super) fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(guard);
    }

    pub(super) fn wait_until<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        match time::os::instant(deadline.since_start()) {
            Some(instant) => !self.0.wait_until(guard, instant).timed_out(),
            None => {
                self.0.wait(guard);
                true
            }
        }
    }

    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}
