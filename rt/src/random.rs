//! Randomness. Not for secrets.

use std::time::Duration;

/// A random number, all bits uniform.
pub fn u64() -> u64 {
    redirect!(backend => backend.random());
    os::u64()
}

/// A random number, all bits uniform.
pub fn u32() -> u32 {
    (u64() >> 32) as u32
}

/// A random number in `0..bound`; 0 if `bound` is 0.
pub fn below(bound: u64) -> u64 {
    if bound == 0 { 0 } else { ((u128::from(u64()) * u128::from(bound)) >> 64) as u64 }
}

/// A random duration in `0..bound`.
pub fn duration_below(bound: Duration) -> Duration {
    Duration::from_nanos(below(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
}

mod os {
    #![expect(clippy::disallowed_methods, reason = "the operating system's backend")]
    pub(crate) fn u64() -> u64 {
        rand::random()
    }
}
