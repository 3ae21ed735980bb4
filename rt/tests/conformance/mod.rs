//! What every backend must do, checked through rt's public types only.
//!
//! [`checks`] lists all of it. rt/tests/os.rs runs the list on the operating system, sim/tests/conformance.rs on the
//! simulator. Deadlines stand where a broken backend would hang: no check is slow where all is well.
#![allow(clippy::unwrap_used, reason = "tests")]

mod files;
mod locks;
mod sockets;

use std::path::Path;
use std::time::Duration;

use rt::time::{self, Instant};

/// A check, given an empty folder.
pub(crate) type Check = fn(&Path);

/// Every check and its name.
pub(crate) fn checks() -> impl Iterator<Item = (&'static str, Check)> {
    [locks::CHECKS, sockets::CHECKS, files::CHECKS].into_iter().flatten().copied()
}

/// When to give up.
fn soon() -> Instant {
    time::now() + Duration::from_secs(20)
}

/// Long enough to be told from nothing.
const SHORT: Duration = Duration::from_millis(20);
