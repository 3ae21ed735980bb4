//! Time: a monotonic clock that starts at zero with the process, and sleep.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock: the time since the process (or the simulated node) started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The clock's zero.
    pub const ZERO: Instant = Instant(Duration::ZERO);
    /// The end of time, where sums saturate. As a deadline: never.
    pub const NEVER: Instant = Instant(Duration::MAX);

    /// The time since the clock's zero.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The point that lies `since_start` after the clock's zero.
    pub const fn from_start(since_start: Duration) -> Self {
        Instant(since_start)
    }

    /// `self - earlier`, or zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since `self`, or zero if it lies in the future.
    pub fn elapsed(self) -> Duration {
        now().saturating_since(self)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t+{:?}", self.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    /// Saturates at the end of time, so that "for ever" may be written as `Duration::MAX`.
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(rhs))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    /// Saturates at zero.
    fn sub(self, rhs: Instant) -> Duration {
        self.saturating_since(rhs)
    }
}

/// The time now.
pub fn now() -> Instant {
    redirect!(backend => backend.now());
    Instant(os::now())
}

/// The machine's monotonic clock, which all its processes share: the time since some moment before they began. In a
/// simulation it is the true time. It orders what different processes did, for people who look; no node may go by it.
pub fn machine_clock() -> Duration {
    redirect!(backend => backend.machine_clock());
    os::machine_clock()
}

/// Blocks the calling thread for `duration`.
pub fn sleep(duration: Duration) {
    redirect!(backend => crate::backend::sleep(&*backend, duration));
    os::sleep(duration);
}

pub(crate) mod os {
    #![expect(
        unsafe_code,
        clippy::disallowed_types,
        clippy::disallowed_methods,
        reason = "the operating system's backend"
    )]
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    static START: OnceLock<Instant> = OnceLock::new();

    pub(crate) fn now() -> Duration {
        START.get_or_init(Instant::now).elapsed()
    }

    /// The operating system's name for a point on our clock; `None` if it can't express it, which is to say never.
    pub(crate) fn instant(since_start: Duration) -> Option<Instant> {
        START.get_or_init(Instant::now).checked_add(since_start)
    }

    pub(crate) fn machine_clock() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: clock_gettime writes one timespec to the pointer, which points to one. This clock is always there.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
        seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
    }

    pub(crate) fn sleep(duration: Duration) {
        std::thread::sleep(duration);
    }
}
