//! The one door to the operating system.
//!
//! Everything the other crates need from outside the program is here: threads, locks, time, randomness, sockets,
//! files, exit, and what programs say. Two backends stand behind it: the operating system, and (with the feature `sim`, in the module
//! `backend`) whatever a simulator puts in place for the current thread. clippy forbids the ways around it.
//!
//! Nothing here retries, logs or decides; it is as thin as it can be.
#![allow(clippy::disallowed_macros, reason = "a thread's state lives here, where a backend can exchange it")]

/// Answers from the backend that is in place on this thread, if there is one; nothing without the feature `sim`.
macro_rules! redirect {
    ($backend:ident => $answer:expr) => {
        #[cfg(feature = "sim")]
        if let Some($backend) = crate::backend::current() {
            return $answer;
        }
    };
}

#[cfg(feature = "sim")]
pub mod backend;
pub mod console;
pub mod fs;
pub mod net;
mod objects;
pub mod probe;
pub mod process;
pub mod random;
pub mod sync;
pub mod thread;
pub mod time;
