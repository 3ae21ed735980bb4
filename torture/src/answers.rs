//! When clients were answered, and how long they were not.
//!
//! Lock: `torture.answers` guards the times; nothing is called with it taken.

use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};

const ANSWERS_RANK: Rank = Rank::new(2, "torture.answers");

#[derive(Clone, Copy, Debug)]
struct Track {
    last: Instant,
    longest: Duration,
}

impl Track {
    fn note(&mut self, at: Instant) {
        self.longest = self.longest.max(at - self.last);
        self.last = at;
    }
}

#[derive(Debug)]
struct State {
    clients: Vec<Track>,
    all: Track,
    count: u64,
}

/// The answers to a number of clients.
#[derive(Debug)]
pub(crate) struct Answers(Mutex<State>);

impl Answers {
    pub(crate) fn new(clients: usize) -> Self {
        let track = Track { last: now(), longest: Duration::ZERO };
        Answers(Mutex::new(ANSWERS_RANK, State { clients: vec![track; clients], all: track, count: 0 }))
    }

    /// A client got an answer.
    pub(crate) fn note(&self, client: usize) {
        let mut state = self.0.lock();
        let at = now();
        state.count += 1;
        state.all.note(at);
        state.clients[client].note(at);
    }

    /// Clients begin, or begin again: what was before is no gap.
    pub(crate) fn resume(&self) {
        let mut state = self.0.lock();
        let track = Track { last: now(), longest: Duration::ZERO };
        state.all = track;
        state.clients.fill(track);
    }

    /// From now on gaps count: also the one that has begun with the last answer.
    pub(crate) fn measure(&self) {
        let mut state = self.0.lock();
        state.all.longest = Duration::ZERO;
        state.clients.iter_mut().for_each(|track| track.longest = Duration::ZERO);
    }

    /// The longest time in which nobody had an answer.
    pub(crate) fn longest_gap(&self) -> Duration {
        let mut all = self.0.lock().all;
        all.note(now());
        all.longest
    }

    /// Whether anybody had an answer after that.
    pub(crate) fn any_since(&self, since: Instant) -> bool {
        self.0.lock().all.last > since
    }

    /// Whether every client had an answer after that.
    pub(crate) fn all_since(&self, since: Instant) -> bool {
        self.0.lock().clients.iter().all(|track| track.last > since)
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_begins_with_the_last_answer_of_anybody() {
        let answers = Answers::new(2);
        let before = now();
        answers.note(0);
        answers.measure();
        rt::time::sleep(Duration::from_millis(20));
        assert!(answers.longest_gap() >= Duration::from_millis(20), "it goes on");
        answers.note(0);
        assert!(answers.any_since(before) && !answers.all_since(before));
        answers.note(1);
        assert!(answers.all_since(before));
        assert!(answers.longest_gap() >= Duration::from_millis(20));
        answers.measure();
        assert!(answers.longest_gap() < Duration::from_millis(20), "it's over");
        assert_eq!(answers.count(), 3);
    }
}
