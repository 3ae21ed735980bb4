//! How a check ends before its end, and waiting that notices a Ctrl-C.

use std::time::Duration;

use rt::console::{UNREAD, Unsaid, complain};
use rt::time::{now, sleep};

use crate::os;

const SLICE: Duration = Duration::from_millis(5);

/// Why something was not done to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It failed: what was seen.
    Failed(String),
    /// Ctrl-C.
    Interrupted,
    /// Whoever read what is said is gone.
    Unread,
}

impl From<Unsaid> for Trouble {
    fn from(unsaid: Unsaid) -> Self {
        if unsaid.is_unread() { Trouble::Unread } else { Trouble::Failed(unsaid.to_string()) }
    }
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Trouble::Failed(what)
    }
}

const FAILED: i32 = 1;
/// As of a shell: 128 and SIGINT.
const INTERRUPTED: i32 = 130;

/// The exit status of a program that said whether all was as it should be: 0, or 1 if not; 130 after Ctrl-C, 141 if nobody
/// reads what it says. Says what went wrong.
pub fn exit_status(program: &str, outcome: Result<bool, Trouble>) -> i32 {
    match outcome {
        Ok(true) => 0,
        Ok(false) => FAILED,
        Err(Trouble::Failed(what)) => {
            complain(format_args!("{program}: {what}"));
            FAILED
        }
        Err(Trouble::Interrupted) => {
            complain(format_args!("{program}: interrupted"));
            INTERRUPTED
        }
        Err(Trouble::Unread) => UNREAD,
    }
}

/// Fails with what was seen, unless a condition holds.
///
/// # Errors
/// [`Trouble::Failed`].
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Trouble> {
    if holds { Ok(()) } else { Err(Trouble::Failed(otherwise())) }
}

/// Does nothing for that long.
///
/// # Errors
/// [`Trouble::Interrupted`].
pub fn nap(duration: Duration) -> Result<(), Trouble> {
    let until = now() + duration;
    loop {
        if os::interrupted() {
            return Err(Trouble::Interrupted);
        }
        match until - now() {
            Duration::ZERO => return Ok(()),
            left => sleep(left.min(SLICE)),
        }
    }
}

/// Waits for a condition; gives how long that took.
///
/// # Errors
/// [`Trouble::Failed`] when the time is up, [`Trouble::Interrupted`], and what the condition says.
pub fn await_within(
    within: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool, Trouble>,
) -> Result<Duration, Trouble> {
    let began = now();
    while !condition()? {
        ensure(began.elapsed() < within, || format!("not within {within:?}: {what}"))?;
        nap(SLICE)?;
    }
    Ok(began.elapsed())
}

/// A random duration between two.
pub fn between(least_ms: u64, most_ms: u64) -> Duration {
    Duration::from_millis(least_ms) + rt::random::duration_below(Duration::from_millis(most_ms - least_ms + 1))
}
