//! Mutual exclusion, seen at the API of lock clients.
//!
//! A user (a thread of a client) holds a lock from the return of acquire to the call of release: nobody may have both at
//! once. What users did is kept, for whoever wants to look at the whole.

use std::collections::BTreeMap;
#[expect(clippy::disallowed_types, reason = "of the simulator; it is never held across a switch")]
use std::sync::{Arc, Mutex, MutexGuard};

use rt::time::Instant;

use crate::kernel::Kernel;

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
    pub invoked: Instant,
    /// When it returned, if it has.
    pub returned: Option<Instant>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Names an operation that was begun.
#[derive(Debug)]
#[must_use]
pub struct Begun(usize);

#[derive(Debug, Default)]
struct Book {
    operations: Vec<Operation>,
    holders: BTreeMap<u64, u32>,
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
        let invoked = self.kernel.now();
        let mut book = self.book();
        book.operations.push(Operation { user, lock, kind, invoked, returned: None, outcome: Outcome::Pending });
        Begun(book.operations.len() - 1)
    }

    fn end(&self, begun: Begun, outcome: Outcome) -> Operation {
        let returned = self.kernel.now();
        let mut book = self.book();
        book.waiting.remove(&begun.0);
        let operation = &mut book.operations[begun.0];
        operation.returned = Some(returned);
        operation.outcome = outcome;
        operation.clone()
    }

    /// A user is about to call acquire. Each user has a number of its own.
    pub fn asked(&self, user: u32, lock: u64) -> Begun {
        let begun = self.begin(user, lock, Kind::Acquire);
        self.book().waiting.insert(begun.0, ());
        begun
    }

    /// Acquire has returned with the lock.
    pub fn granted(&self, asked: Begun) {
        let Operation { user, lock, .. } = self.end(asked, Outcome::Done);
        let before = self.book().holders.insert(lock, user);
        if let Some(before) = before {
            self.kernel.find(format!("two-holders: lock {lock} is granted to user {user} while user {before} has it"));
        }
    }

    /// Acquire has returned without the lock.
    pub fn refused(&self, asked: Begun) {
        self.end(asked, Outcome::Refused);
    }

    /// A user that holds a lock is about to call release.
    pub fn releasing(&self, user: u32, lock: u64) -> Begun {
        self.book().holders.remove(&lock);
        self.begin(user, lock, Kind::Release)
    }

    /// Release has returned.
    pub fn released(&self, releasing: Begun) {
        self.end(releasing, Outcome::Done);
    }

    /// Who holds which lock: lock and user.
    pub fn holders(&self) -> Vec<(u64, u32)> {
        self.book().holders.iter().map(|(lock, user)| (*lock, *user)).collect()
    }

    /// Who waits for which lock, and since when, the longest first: user, lock, time.
    pub fn waiting(&self) -> Vec<(u32, u64, Instant)> {
        let book = self.book();
        let waiting = book.waiting.keys().map(|number| &book.operations[*number]);
        waiting.map(|operation| (operation.user, operation.lock, operation.invoked)).collect()
    }

    /// All that users did, in the order of their calls.
    pub fn history(&self) -> Vec<Operation> {
        self.book().operations.clone()
    }

    /// For the end of a run, when all users are done. (That the locks can be explained one by one needs no search: they
    /// can if nobody's holding overlaps with another's, which is looked at all the time.)
    ///
    /// # Errors
    /// When somebody still waits.
    pub fn check(&self) -> Result<(), String> {
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
        assert!(history.iter().all(|operation| operation.returned.is_some()));
        assert_eq!(kernel.report().finding, None);
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
    fn a_user_may_not_be_granted_what_it_has() {
        let (kernel, oracle) = oracle();
        let (one, again) = (oracle.asked(1, 7), oracle.asked(1, 7));
        oracle.granted(one);
        oracle.granted(again);
        assert!(kernel.report().finding.is_some_and(|finding| finding.starts_with("two-holders: ")));
    }
}
