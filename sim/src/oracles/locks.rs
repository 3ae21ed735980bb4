//! Mutual exclusion, seen at the API of lock clients.
//!
//! A user (a thread of a client) holds a lock from the return of acquire to the call of release: no two may at once, which
//! is looked at all the time. What a lock protects stays cached at a client until it is told to write it back: it has to
//! be told before anybody else gets the lock, and while none of its own users has it. What users did is kept, and at the
//! end of a run a search of another kind ([`crate::linear`]) looks at the whole.

use std::collections::BTreeMap;
#[expect(clippy::disallowed_types, reason = "of the simulator; it is never held across a switch")]
use std::sync::{Arc, Mutex, MutexGuard};

use rt::time::Instant;

use crate::kernel::Kernel;
use crate::linear::{Conclude, History, LockKind, LockOp, check_locks};

/// Steps of the search for each lock; a run takes some thousands.
const STEPS: u64 = 1_000_000;

/// Users of a client: their numbers begin with so many times the client's.
pub const USERS: u32 = 16;

/// What a user does to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Acquire.
    Acquire,
    /// Release.
    Release,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not.
    Pending,
    /// Well.
    Done,
    /// The lock wasn't to be had.
    Refused,
}

/// A call of a user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The user's number.
    pub user: u32,
    /// The lock.
    pub lock: u64,
    /// What was called.
    pub kind: Kind,
    /// When.
    pub since: Instant,
    /// What came of it.
    pub outcome: Outcome,
}

/// Names an operation that was begun.
#[derive(Debug)]
#[must_use]
pub struct Begun(usize);

#[derive(Debug, Default)]
struct Book {
    operations: History<Operation>,
    holders: BTreeMap<u64, u32>,
    /// The clients that cache what a lock protects.
    caches: BTreeMap<u64, u32>,
    /// The operations that wait for a lock.
    waiting: BTreeMap<usize, ()>,
}

/// Watches the users of a lock service. Clones are the same one.
#[derive(Clone)]
pub struct LockOracle {
    kernel: Kernel,
    #[expect(clippy::disallowed_types, reason = "as above")]
    book: Arc<Mutex<Book>>,
}

impl LockOracle {
    /// For the users of a run.
    pub fn new(kernel: Kernel) -> Self {
        LockOracle { kernel, book: Arc::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, user: u32, lock: u64, kind: Kind) -> Begun {
        let since = self.kernel.now();
        Begun(self.book().operations.invoke(Operation { user, lock, kind, since, outcome: Outcome::Pending }))
    }

    fn end(&self, begun: &Begun, outcome: Outcome) {
        let mut book = self.book();
        book.waiting.remove(&begun.0);
        book.operations.returned(begun.0, |operation| operation.outcome = outcome);
    }

    /// A user is about to call acquire. Each user has a number of its own.
    pub fn asked(&self, user: u32, lock: u64) -> Begun {
        let begun = self.begin(user, lock, Kind::Acquire);
        self.book().waiting.insert(begun.0, ());
        begun
    }

    /// Acquire has returned with the lock.
    pub fn granted(&self, asked: Begun) {
        self.end(&asked, Outcome::Done);
        let mut book = self.book();
        let Operation { user, lock, .. } = book.operations.calls()[asked.0].op;
        let before = book.holders.insert(lock, user);
        let cached = book.caches.insert(lock, user / USERS);
        let held = book.holders.values().filter(|holder| **holder == user).count();
        drop(book);
        if held > 1 {
            self.kernel.count("locks: another one acquired");
        }
        if let Some(before) = before {
            self.kernel.find(format!("two-holders: lock {lock} is granted to user {user} while user {before} has it"));
        }
        if let Some(other) = cached.filter(|client| *client != user / USERS) {
            self.kernel.find(format!(
                "not-written-back: lock {lock} is granted to user {user}, and client {other} wasn't told to write back"
            ));
        }
    }

    /// Acquire has returned without the lock.
    pub fn refused(&self, asked: Begun) {
        self.end(&asked, Outcome::Refused);
        self.kernel.count("locks: given up");
    }

    /// A user that holds a lock is about to call release.
    pub fn releasing(&self, user: u32, lock: u64) -> Begun {
        self.book().holders.remove(&lock);
        self.begin(user, lock, Kind::Release)
    }

    /// Release has returned.
    pub fn released(&self, releasing: Begun) {
        self.end(&releasing, Outcome::Done);
    }

    /// A client has been told to write back what a lock protects, and has done so.
    pub fn written_back(&self, client: u32, lock: u64) {
        let mut book = self.book();
        let holder = book.holders.get(&lock).copied();
        let cached = book.caches.remove(&lock);
        drop(book);
        if let Some(user) = holder {
            self.kernel.find(format!("back-in-use: client {client} gives lock {lock} back while user {user} has it"));
        }
        if cached != Some(client) {
            self.kernel.find(format!("back-unused: client {client} writes lock {lock} back, which {cached:?} caches"));
        }
    }

    /// A client has ended, and says that all its locks went back.
    pub fn closed(&self, client: u32) {
        self.kernel.count("locks: client ended");
        let left = self.book().caches.iter().find(|(_, cached)| **cached == client).map(|(lock, _)| *lock);
        if let Some(lock) = left {
            self.kernel.find(format!("not-written-back: client {client} ended with lock {lock} cached"));
        }
    }

    /// Who holds which lock: lock and user.
    pub fn holders(&self) -> Vec<(u64, u32)> {
        self.book().holders.iter().map(|(lock, user)| (*lock, *user)).collect()
    }

    /// Who waits for which lock, and since when, the longest first: user, lock, time.
    pub fn waiting(&self) -> Vec<(u32, u64, Instant)> {
        let book = self.book();
        let waiting = book.waiting.keys().map(|number| &book.operations.calls()[*number].op);
        waiting.map(|operation| (operation.user, operation.lock, operation.since)).collect()
    }

    /// All that users did, lock by lock, in the order of their calls.
    pub fn history(&self) -> Vec<(u64, LockOp)> {
        let book = self.book();
        let calls = book.operations.calls().iter().map(|call| {
            let Operation { user, lock, kind, outcome, .. } = call.op;
            let kind = match (kind, outcome) {
                (Kind::Release, _) => LockKind::Release,
                (Kind::Acquire, Outcome::Refused) => LockKind::TryAcquire(false),
                (Kind::Acquire, _) => LockKind::Acquire,
            };
            (lock, LockOp { client: user, thread: 0, kind, invoked: call.invoked, returned: call.returned })
        });
        calls.collect()
    }

    /// For the end of a run, when all users are done.
    ///
    /// # Errors
    /// When what they did can't be put in an order, or somebody still waits.
    pub fn check(&self) -> Result<(), String> {
        check_locks(self.history(), STEPS).conclude(&self.kernel)?;
        match self.waiting().first() {
            None => Ok(()),
            Some((user, lock, since)) => {
                Err(format!("still-waiting: user {user} for lock {lock} since {:?}", since.since_start()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Schedule;
    use crate::linear::CHECKED;

    fn oracle() -> (Kernel, LockOracle) {
        let kernel = Kernel::new(1, Schedule::default(), false);
        (kernel.clone(), LockOracle::new(kernel))
    }

    #[test]
    fn users_may_take_turns() {
        let (kernel, oracle) = oracle();
        let (one, two) = (oracle.asked(1, 7), oracle.asked(2, 7));
        let refused = oracle.asked(3, 7);
        oracle.granted(one);
        oracle.refused(refused);
        let other = oracle.asked(4, 8);
        oracle.granted(other);
        assert_eq!(oracle.holders(), [(7, 1), (8, 4)]);
        assert_eq!(oracle.waiting().iter().map(|(user, lock, _)| (*user, *lock)).collect::<Vec<_>>(), [(2, 7)]);
        assert!(oracle.check().is_err(), "user 2 waits");
        // The next user may have it before release has returned.
        let releasing = oracle.releasing(1, 7);
        oracle.granted(two);
        oracle.released(releasing);
        assert_eq!(oracle.check(), Ok(()));
        let history = oracle.history();
        assert_eq!(history.len(), 5);
        assert!(history.iter().all(|(_, operation)| operation.returned.is_some()));
        let report = kernel.report();
        assert_eq!((report.finding, report.counts.get(CHECKED)), (None, Some(&2)));
    }

    #[test]
    fn the_whole_is_looked_at_in_the_end() {
        let (_, oracle) = oracle();
        let (one, two) = (oracle.asked(1, 7), oracle.asked(2, 7));
        oracle.granted(one);
        oracle.granted(two);
        let wrong = oracle.check().unwrap_err();
        assert!(wrong.starts_with("not-linearizable: 7: "), "{wrong}");
        // A release that hasn't returned may have been done.
        let (_, oracle) = self::oracle();
        let one = oracle.asked(1, 7);
        oracle.granted(one);
        let _never = oracle.releasing(1, 7);
        let two = oracle.asked(2, 7);
        oracle.granted(two);
        assert_eq!(oracle.check(), Ok(()));
    }

    #[test]
    fn two_users_may_not_hold_a_lock_at_once() {
        let (kernel, oracle) = oracle();
        let (one, two) = (oracle.asked(1, 7), oracle.asked(2, 7));
        oracle.granted(one);
        oracle.granted(two);
        assert!(kernel.report().finding.is_some_and(|finding| finding.starts_with("two-holders: lock 7")));
    }

    #[test]
    fn a_lock_is_written_back_before_another_client_has_it() {
        let finding = |writes_back: bool| {
            let (kernel, oracle) = oracle();
            for user in [1, 2, USERS] {
                let asked = oracle.asked(user, 7);
                if user == USERS && writes_back {
                    oracle.written_back(0, 7);
                }
                oracle.granted(asked);
                let releasing = oracle.releasing(user, 7);
                oracle.released(releasing);
            }
            oracle.closed(2);
            kernel.report().finding
        };
        assert_eq!(finding(true), None);
        assert!(finding(false).is_some_and(|finding| finding.starts_with("not-written-back: lock 7")));
    }

    #[test]
    fn a_lock_is_not_written_back_while_somebody_has_it_nor_by_others() {
        for (client, wrong) in [(0, "back-in-use: "), (1, "back-unused: ")] {
            let (kernel, oracle) = oracle();
            let asked = oracle.asked(3, 7);
            oracle.granted(asked);
            if client == 1 {
                let releasing = oracle.releasing(3, 7);
                oracle.released(releasing);
            }
            oracle.written_back(client, 7);
            assert!(kernel.report().finding.is_some_and(|finding| finding.starts_with(wrong)));
        }
    }

    #[test]
    fn a_client_does_not_end_with_a_cache() {
        let (kernel, oracle) = oracle();
        let asked = oracle.asked(3, 7);
        oracle.granted(asked);
        let releasing = oracle.releasing(3, 7);
        oracle.released(releasing);
        oracle.closed(0);
        assert!(kernel.report().finding.is_some_and(|finding| finding.starts_with("not-written-back: client 0")));
    }

    #[test]
    fn a_user_may_not_be_granted_what_it_has() {
        let (kernel, oracle) = oracle();
        let (one, again) = (oracle.asked(1, 7), oracle.asked(1, 7));
        oracle.granted(one);
        oracle.granted(again);
        assert!(kernel.report().finding.is_some_and(|finding| finding.starts_with("two-holders: ")));
    }
}
