//! What the primary has to tell lock clients, whom and when; pure. Revoker and retryer ask it what to send next and tell
//! it how it went.
//!
//! A hint may get lost: its client was paused, a queue was full, the primary died. Clients of ours ask again by
//! themselves, lab clients don't. So what is due for a lock stays on the board until the table says that something else
//! is, and is sent again now and then.
//!
//! - A **revoke** goes to the owner: again after a failure (1 s, doubling to 30 s), and rarely if it was delivered (2 s,
//!   doubling to 60 s; an owner may well hold its lock for long).
//! - A **retry** goes to the first in line, to the next one at once if that fails, and to the next one after
//!   [`TURN`] if it was delivered but the lock is still free. After the last in line it begins anew, with the same pauses.
//! - A client that **lost its place** is told once; after failures again, [`LAST_CALLS`] times in all.
//!
//! # Invariants
//! 1. A lock is on the board at most once a kind, and a queued lock is queued exactly once.
//! 2. A client has at most [`IN_FLIGHT_A_CLIENT`] messages under way, all have at most [`IN_FLIGHT`] a kind: a dead client
//!    delays its own hints only, and no thread waits for it.
//! 3. The board holds at most [`ENTRIES`] entries; what comes then isn't told, but for what our clients find themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::time::Instant;

use crate::lock_protocol::{ClientId, LockId};
use crate::lock_table::{Claim, Effect};

/// How long a client that was told to ask has its turn.
pub const TURN: Duration = Duration::from_millis(500);
/// Messages of a kind under way at once.
pub const IN_FLIGHT: usize = 256;
/// Messages under way to one client.
pub const IN_FLIGHT_A_CLIENT: usize = 8;
/// Entries on the board.
pub const ENTRIES: usize = 1 << 20;
/// How often a client that lost its place is told.
pub const LAST_CALLS: u32 = 4;

/// Until a message that failed is sent again, at first and at most.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Until a message that was delivered is sent again, at first and at most.
const AFTER_DELIVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Until a client with too many messages under way is looked at again.
const CROWDED: Duration = Duration::from_millis(50);

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The revoker.
    Revoke,
    /// The retryer.
    Retry,
}

/// A message to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Revoke or retry.
    pub kind: Kind,
    /// The lock it is about.
    pub lock: LockId,
    /// Whom to tell, and about which acquire of it.
    pub to: Claim,
    entry: u64,
}

/// What a thread does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this, then call [`Board::sent`].
    Send(Message),
    /// Wait until then, or until the board changes.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Entry {
    lock: LockId,
    kind: Kind,
    /// Who may be told, in this order; of a revoke one.
    line: Vec<Claim>,
    /// Index into `line`.
    turn: usize,
    /// How often the whole line was told, or failed to be.
    rounds: u32,
    /// When it is queued; none while its message is under way.
    at: Option<Instant>,
    /// Told a few times only, and not replaced by what becomes due for the lock.
    last_call: bool,
}

/// What is due.
#[derive(Debug, Default)]
pub struct Board {
    entries: BTreeMap<u64, Entry>,
    next_entry: u64,
    /// Derived: the entry that holds what is due for a lock.
    by_lock: BTreeMap<LockId, u64>,
    /// Derived: the entries with a time.
    queue: BTreeSet<(Kind, Instant, u64)>,
    /// Messages under way, by client and by kind.
    to_client: BTreeMap<ClientId, usize>,
    of_kind: BTreeMap<Kind, usize>,
}

impl Board {
    /// An empty board.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is due any more. Messages under way stay counted.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_lock.clear();
        self.queue.clear();
    }

    /// The table's effects, in their order.
    pub fn apply(&mut self, effects: Vec<Effect>, now: Instant) {
        for effect in effects {
            match effect {
                Effect::Anew => self.clear(),
                Effect::Settled { lock } => self.remove(lock),
                Effect::Revoke { lock, owner } => self.put(lock, Kind::Revoke, vec![owner], now),
                Effect::Retry { lock, waiters } => self.put(lock, Kind::Retry, waiters, now),
                Effect::Overtaken { lock, waiter } => {
                    self.insert(lock, Kind::Retry, vec![waiter], now, true);
                }
            }
        }
    }

    /// What the thread of a kind does now.
    pub fn next(&mut self, kind: Kind, now: Instant) -> Next {
        loop {
            if self.of_kind.get(&kind).is_some_and(|count| *count >= IN_FLIGHT) {
                return Next::Wait(None);
            }
            let from = (kind, Instant::ZERO, 0);
            let Some(&(queued, at, id)) = self.queue.range(from..).next() else { return Next::Wait(None) };
            if queued != kind {
                return Next::Wait(None);
            }
            if at > now {
                return Next::Wait(Some(at));
            }
            self.queue.remove(&(queued, at, id));
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Some(to) = entry.line.get(entry.turn).cloned() else { continue };
            let crowd = self.to_client.entry(to.client.clone()).or_default();
            if *crowd >= IN_FLIGHT_A_CLIENT {
                let later = now + CROWDED;
                entry.at = Some(later);
                self.queue.insert((kind, later, id));
                continue;
            }
            *crowd += 1;
            *self.of_kind.entry(kind).or_default() += 1;
            entry.at = None;
            return Next::Send(Message { kind, lock: entry.lock, to, entry: id });
        }
    }

    /// The message was answered, or failed.
    pub fn sent(&mut self, message: &Message, delivered: bool, now: Instant) {
        if let Some(count) = self.of_kind.get_mut(&message.kind) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.to_client.get_mut(&message.to.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.to_client.remove(&message.to.client);
            }
        }
        if message.kind == Kind::Revoke && rt::probe::weakened("mutant-revoke-sent-once") {
            return;
        }
        let Some(entry) = self.entries.get_mut(&message.entry) else { return };
        if entry.last_call && (delivered || entry.rounds + 1 >= LAST_CALLS) {
            self.entries.remove(&message.entry);
            return;
        }
        // Else the line has changed meanwhile, and the turn with it.
        if entry.line.get(entry.turn) == Some(&message.to) {
            entry.turn += 1;
        }
        let pause = if entry.turn < entry.line.len() {
            if delivered { TURN } else { Duration::ZERO }
        } else {
            entry.turn = 0;
            entry.rounds = entry.rounds.saturating_add(1);
            let (first, most) = if delivered { AFTER_DELIVERY } else { AFTER_FAILURE };
            first.saturating_mul(1 << (entry.rounds - 1).min(16)).min(most)
        };
        let at = now + pause;
        entry.at = Some(at);
        self.queue.insert((message.kind, at, message.entry));
    }

    /// This is due for the lock from now on.
    fn put(&mut self, lock: LockId, kind: Kind, line: Vec<Claim>, now: Instant) {
        // The same free lock with a longer or shorter queue: who has its turn keeps it.
        if let Some(entry) = self.by_lock.get(&lock).and_then(|id| self.entries.get_mut(id))
            && entry.kind == kind
            && entry.line.first() == line.first()
        {
            entry.turn = entry.turn.min(line.len().saturating_sub(1));
            entry.line = line;
            return;
        }
        self.remove(lock);
        if let Some(id) = self.insert(lock, kind, line, now, false) {
            self.by_lock.insert(lock, id);
        }
    }

    fn insert(&mut self, lock: LockId, kind: Kind, line: Vec<Claim>, now: Instant, last_call: bool) -> Option<u64> {
        if self.entries.len() >= ENTRIES {
            return None;
        }
        let id = self.next_entry;
        self.next_entry += 1;
        self.entries.insert(id, Entry { lock, kind, line, turn: 0, rounds: 0, at: Some(now), last_call });
        self.queue.insert((kind, now, id));
        Some(id)
    }

    fn remove(&mut self, lock: LockId) {
        let Some(id) = self.by_lock.remove(&lock) else { return };
        let Some(entry) = self.entries.remove(&id) else { return };
        if let Some(at) = entry.at {
            self.queue.remove(&(entry.kind, at, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_protocol::Xid;

    const LOCK: LockId = LockId(1);

    fn claim(client: &str) -> Claim {
        Claim { client: ClientId::new(client), xid: Xid(1) }
    }

    fn retry(clients: &[&str]) -> Effect {
        Effect::Retry { lock: LOCK, waiters: clients.iter().map(|c| claim(c)).collect() }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    /// Sends what is due now; the names of those told, in order.
    fn tell(board: &mut Board, kind: Kind, now: Instant, delivered: impl Fn(&str) -> bool) -> Vec<String> {
        let mut told = Vec::new();
        while let Next::Send(message) = board.next(kind, now) {
            told.push(message.to.client.to_string());
            board.sent(&message, delivered(message.to.client.as_str()), now);
        }
        told
    }

    #[test]
    fn retry_walks_past_the_dead() {
        let mut board = Board::new();
        board.apply(vec![retry(&["a", "b", "c", "d"])], at(0));
        assert_eq!(tell(&mut board, Kind::Retry, at(0), |c| c == "c"), ["a", "b", "c"]);
        assert_eq!(board.next(Kind::Retry, at(499)), Next::Wait(Some(at(500))));
        assert_eq!(tell(&mut board, Kind::Retry, at(500), |_| true), ["d"], "c had its turn");
        assert_eq!(board.next(Kind::Retry, at(500)), Next::Wait(Some(at(2500))));
        board.apply(vec![Effect::Settled { lock: LOCK }], at(600));
        assert_eq!(board.next(Kind::Retry, at(20_000)), Next::Wait(None));
        assert!(board.is_empty() && board.queue.is_empty() && board.to_client.is_empty());
    }

    #[test]
    fn a_longer_queue_leaves_the_turn_where_it_is() {
        let mut board = Board::new();
        board.apply(vec![retry(&["a", "b"])], at(0));
        assert_eq!(tell(&mut board, Kind::Retry, at(0), |_| true), ["a"]);
        board.apply(vec![retry(&["a", "b", "c"])], at(1));
        assert_eq!(board.next(Kind::Retry, at(1)), Next::Wait(Some(at(500))));
        assert_eq!(tell(&mut board, Kind::Retry, at(500), |_| false), ["b", "c"]);
        board.apply(vec![retry(&["b", "c"])], at(600));
        assert_eq!(tell(&mut board, Kind::Retry, at(600), |_| true), ["b"], "a new head is told at once");
    }

    #[test]
    fn revoke_is_repeated_until_something_else_is_due() {
        let mut board = Board::new();
        board.apply(vec![Effect::Revoke { lock: LOCK, owner: claim("a") }], at(0));
        assert_eq!(board.next(Kind::Retry, at(0)), Next::Wait(None));
        assert_eq!(tell(&mut board, Kind::Revoke, at(0), |_| false), ["a"]);
        assert_eq!(tell(&mut board, Kind::Revoke, at(1000), |_| false), ["a"]);
        assert_eq!(board.next(Kind::Revoke, at(2999)), Next::Wait(Some(at(3000))));
        board.apply(vec![retry(&["b"])], at(2000));
        assert_eq!(board.next(Kind::Revoke, at(9000)), Next::Wait(None));
        assert_eq!(tell(&mut board, Kind::Retry, at(9000), |_| true), ["b"]);
    }

    #[test]
    fn an_answer_to_what_is_not_due_any_more_changes_nothing() {
        let mut board = Board::new();
        board.apply(vec![retry(&["a"])], at(0));
        let Next::Send(message) = board.next(Kind::Retry, at(0)) else { panic!("nothing to send") };
        board.apply(vec![Effect::Anew, Effect::Revoke { lock: LOCK, owner: claim("a") }], at(1));
        board.sent(&message, true, at(2));
        assert_eq!(board.next(Kind::Retry, at(99_000)), Next::Wait(None));
        assert_eq!(tell(&mut board, Kind::Revoke, at(2), |_| true), ["a"]);
    }

    #[test]
    fn a_last_call_is_made_a_few_times_only() {
        let mut board = Board::new();
        board.apply(vec![Effect::Overtaken { lock: LOCK, waiter: claim("a") }], at(0));
        board.apply(vec![retry(&["b"])], at(0));
        let mut calls = 0;
        for second in 0..100 {
            let told = tell(&mut board, Kind::Retry, at(second * 1000), |c| c == "b");
            calls += u32::try_from(told.iter().filter(|c| *c == "a").count()).unwrap();
        }
        assert_eq!(calls, LAST_CALLS);
        assert_eq!(board.len(), 1, "b's stays");
    }

    #[test]
    fn a_dead_client_occupies_a_few_places_only() {
        let mut board = Board::new();
        for lock in 0..100 {
            board.apply(vec![Effect::Revoke { lock: LockId(lock), owner: claim("dead") }], at(0));
        }
        board.apply(vec![Effect::Revoke { lock: LockId(100), owner: claim("alive") }], at(0));
        let mut under_way = Vec::new();
        while let Next::Send(message) = board.next(Kind::Revoke, at(0)) {
            under_way.push(message);
        }
        assert_eq!(under_way.len(), IN_FLIGHT_A_CLIENT + 1);
        assert!(under_way.iter().any(|m| m.to.client.as_str() == "alive"));
        for message in &under_way {
            board.sent(message, false, at(60));
        }
        assert!(board.to_client.is_empty());
        assert!(matches!(board.next(Kind::Revoke, at(60)), Next::Send(_)));
    }

    #[test]
    fn a_crowded_client_is_told_everything_in_the_end() {
        let locks = 3 * IN_FLIGHT_A_CLIENT as u64 + 1;
        let mut board = Board::new();
        for lock in 0..locks {
            board.apply(vec![Effect::Revoke { lock: LockId(lock), owner: claim("slow") }], at(0));
        }
        let mut told = BTreeSet::new();
        for round in 0..4 {
            let time = at(round * 50);
            let mut under_way = Vec::new();
            while let Next::Send(message) = board.next(Kind::Revoke, time) {
                assert!(told.insert(message.lock), "lock {} twice", message.lock);
                under_way.push(message);
            }
            assert!(under_way.len() <= IN_FLIGHT_A_CLIENT);
            // The others are looked at again soon, and not only when a lock changes.
            let soon = if round < 3 { time + CROWDED } else { at(2000) };
            let waits = if round < 3 { board.next(Kind::Revoke, time) } else { Next::Wait(Some(soon)) };
            assert_eq!(waits, Next::Wait(Some(soon)));
            under_way.iter().for_each(|message| board.sent(message, true, time));
        }
        assert_eq!(told.len() as u64, locks);
    }
}
