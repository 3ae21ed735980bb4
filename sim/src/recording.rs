//! What happens in a run, for a picture of it: what the code under test logs, and what is done to it.
//!
//! Invariant: recording draws nothing, waits for nothing and adds nothing to the run's hash: a run that is recorded is the run
//! that isn't.
#![expect(clippy::disallowed_types, reason = "the simulator's own lock; it is never held across a switch")]

use std::sync::{Arc, Mutex, PoisonError};

use rt::time::Instant;
use trace::{Event, Kind, Picture};

/// Events, if anybody wants them. Clones are the same recording.
#[derive(Clone, Default)]
pub struct Recording(Option<Arc<Mutex<Vec<Event>>>>);

/// A time as an event has it.
pub fn micros(at: Instant) -> u64 {
    u64::try_from(at.since_start().as_micros()).unwrap_or(u64::MAX)
}

impl Recording {
    /// One that keeps what it is given. The default one doesn't.
    pub fn new() -> Self {
        Recording(Some(Arc::default()))
    }

    /// Keeps an event.
    pub fn push(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = &self.0 {
            let event = event();
            events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }

    /// Keeps what was done to a node, or to all if it has no name.
    pub fn note(&self, at: Instant, node: &str, kind: Kind, text: impl FnOnce() -> String) {
        self.push(|| Event::new(micros(at), node, kind, text()));
    }

    /// The picture of what was kept.
    pub fn picture(&self, title: String, command: String, finding: Option<(Instant, String)>) -> Picture {
        let events = self.0.as_ref().map(|events| events.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let finding = finding.map(|(at, what)| (micros(at), what));
        Picture { title, command, events: trace::merge(events.into_iter().collect()), finding, ..Picture::default() }
    }
}
