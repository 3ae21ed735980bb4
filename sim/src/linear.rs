//! The linearizability checker ([`::linear`]), and what a run makes of its verdict.

use std::fmt::Debug;

use crate::kernel::Kernel;

pub use ::linear::*;

/// The counter of histories that were checked to the end.
pub const CHECKED: &str = "linearizability: checked";

/// A verdict at the end of a run.
pub trait Conclude {
    /// What a run makes of it; counts the history, and one that was given up apart.
    ///
    /// # Errors
    /// A violation, as a finding.
    fn conclude(self, kernel: &Kernel) -> Result<(), String>;
}

impl<K: Debug> Conclude for Verdict<K> {
    fn conclude(self, kernel: &Kernel) -> Result<(), String> {
        match self {
            Verdict::Linearizable => kernel.count(CHECKED),
            Verdict::GaveUp => kernel.count("linearizability: gave up"),
            Verdict::Violation { key, explanation } => return Err(format!("not-linearizable: {key:?}: {explanation}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
