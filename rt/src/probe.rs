//! What a simulator sees of the code that it runs, and what it may change in it.
//!
//! Both are nothing without the feature `sim`: [`observe`] doesn't even make its event, and [`weakened`] is false.
//!
//! [`observe`] reports what happened, for a simulator's checks. [`weakened`] asks whether a known mistake is to be made
//! here: a simulator is only worth something if it finds the mistakes that it was built to find, so each has a name, and
//! the simulator puts it back in runs of its own.

use std::any::Any;
use std::fmt::Debug;

/// Reports an event of the caller's node. It happens at this point of the run: no other thread runs in between, so the
/// lock that orders such events should be held.
#[inline]
pub fn observe<E: Any + Debug>(event: impl FnOnce() -> E) {
    redirect!(backend => backend.observe(&event()));
    let _ = event;
}

/// Whether the mistake `name` is to be made here.
#[inline]
pub fn weakened(name: &'static str) -> bool {
    redirect!(backend => backend.is_weakened(name));
    let _ = name;
    false
}
