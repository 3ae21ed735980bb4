//! Clients that know exactly what the service must know.
//!
//! A keeper acquires and releases locks that nobody else uses, without a cache, one request at a time. So each request has
//! one right answer, and when it has its answer the keeper knows of each of its locks whether it is held. The audit asks
//! the service, as another client: a held lock must be refused, a released one granted.
//!
//! Lock: `torture.keeper` guards a keeper; its thread has it as long as it runs, and then the audit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{Instant, sleep};
use yfs_lock::lock_protocol::{ACQUIRE, ClientId, LockId, RELEASE, Status, Xid};
use yfs_rsm::{RsmClient, RsmClientError};

use crate::answers::Answers;
use crate::load::{Reins, Threads};
use crate::trouble::{Trouble, ensure};

const KEEPER_RANK: Rank = Rank::new(1, "torture.keeper");
/// Locks of a keeper.
const LOCKS: u64 = 8;
/// The locks of keeper n begin with n times this.
const STRIDE: u64 = 1000;
/// Longer than any check waits for the service.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two requests of a keeper.
const PAUSE: Duration = Duration::from_millis(1);

struct Keeper {
    number: usize,
    client: RsmClient,
    id: ClientId,
    xid: u64,
    /// The locks, and whether it holds them.
    locks: BTreeMap<u64, bool>,
}

/// Some keepers.
pub(crate) struct Keepers {
    keepers: Vec<Arc<Mutex<Keeper>>>,
    auditor: Mutex<Keeper>,
    answers: Arc<Answers>,
    threads: Threads,
}

impl Keeper {
    fn connect(nodes: &[String], number: usize) -> Result<Keeper, Trouble> {
        let client = RsmClient::connect(nodes, PATIENCE).map_err(|e| format!("keeper {number} can't connect: {e}"))?;
        // No address: the service sends nothing there.
        let id = ClientId::new(&format!("keeper-{number}"));
        let first = number as u64 * STRIDE;
        Ok(Keeper { number, client, id, xid: 0, locks: (first..first + LOCKS).map(|lock| (lock, false)).collect() })
    }

    fn acquire(&mut self, lock: u64) -> Result<i32, RsmClientError> {
        self.xid += 1;
        let args = (LockId(lock), self.id.clone(), Xid(self.xid));
        self.client.call(ACQUIRE, args, PATIENCE).map(|(status, _)| status)
    }

    fn release(&mut self, lock: u64) -> Result<i32, RsmClientError> {
        let args = (LockId(lock), self.id.clone(), Xid(self.xid));
        self.client.call(RELEASE, args, PATIENCE).map(|(status, _)| status)
    }

    fn run(&mut self, reins: &Reins, answers: &Answers) {
        while reins.goes_on() {
            let lock = self.number as u64 * STRIDE + rt::random::below(LOCKS);
            let held = self.locks.get(&lock).copied().unwrap_or_default();
            let (what, answer) = if held { ("release", self.release(lock)) } else { ("acquire", self.acquire(lock)) };
            if answer != Ok(Status::Ok as i32) {
                let Keeper { number, .. } = self;
                reins.fail(format!("keeper {number}'s {what} of lock {lock}, which is its own, gave {answer:?}"));
                return;
            }
            self.locks.insert(lock, !held);
            answers.note(self.number);
            sleep(PAUSE);
        }
    }
}

impl Keepers {
    pub(crate) fn connect(nodes: &[String], count: usize) -> Result<Keepers, Trouble> {
        let keeper = |number| Ok(Arc::new(Mutex::new(KEEPER_RANK, Keeper::connect(nodes, number)?)));
        Ok(Keepers {
            keepers: (0..count).map(keeper).collect::<Result<_, Trouble>>()?,
            auditor: Mutex::new(KEEPER_RANK, Keeper::connect(nodes, count)?),
            answers: Arc::new(Answers::new(count)),
            threads: Threads::new(),
        })
    }

    /// Lets them go on.
    pub(crate) fn run(&mut self) -> Result<(), Trouble> {
        self.threads.allow();
        self.answers.resume();
        for keeper in &self.keepers {
            let (keeper, answers) = (keeper.clone(), self.answers.clone());
            self.threads.spawn("keeper", move |reins| keeper.lock().run(reins, &answers))?;
        }
        Ok(())
    }

    /// Lets each have its answer, and stops.
    pub(crate) fn pause(&mut self, within: Duration) -> Result<(), Trouble> {
        self.threads.stop(within)
    }

    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Waits until each keeper had an answer after that; gives how long it took from now.
    pub(crate) fn await_all_since(&self, since: Instant, within: Duration) -> Result<Duration, Trouble> {
        self.threads.await_within(within, "each client has an answer", || self.answers.all_since(since))
    }

    /// Waits until one keeper had an answer after that; gives how long it took from now.
    pub(crate) fn await_any_since(&self, since: Instant, within: Duration) -> Result<Duration, Trouble> {
        self.threads.await_within(within, "a client has an answer", || self.answers.any_since(since))
    }

    /// Asks the service about each lock, while the keepers pause; gives how many are held.
    pub(crate) fn audit(&self) -> Result<usize, Trouble> {
        let mut auditor = self.auditor.lock();
        let mut held_locks = 0;
        for keeper in &self.keepers {
            // The keepers' threads have ended.
            let Some(keeper) = keeper.try_lock() else { continue };
            for (lock, held) in &keeper.locks {
                let expected = if *held { Status::Retry } else { Status::Ok } as i32;
                let (asked, left) = (auditor.acquire(*lock), auditor.release(*lock));
                ensure(asked == Ok(expected), || {
                    let number = keeper.number;
                    format!("keeper {number} holds lock {lock}: {held}; another client's acquire gave {asked:?}")
                })?;
                ensure(left == Ok(Status::Ok as i32), || format!("lock {lock} can't be left: {left:?}"))?;
                held_locks += usize::from(*held);
            }
        }
        Ok(held_locks)
    }
}
