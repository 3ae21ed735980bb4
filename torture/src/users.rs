//! Caching clients that want the same locks, whose calls are recorded and checked window by window.
//!
//! At the end of a window all users have stopped, and none has a lock: so each window's history begins with free locks,
//! can be checked by itself, and is then forgotten. A call that failed counts as one that didn't get the lock, which is
//! what the client promises.
//!
//! Lock: `torture.history` guards the calls; nothing is called with it taken.

use std::sync::Arc;
use std::time::Duration;

use linear::{History, LockKind, LockOp, Verdict, check_locks};
use rt::sync::{Mutex, Rank};
use rt::time::{now, sleep};
use yfs_lock::lock_client_cache_rsm::{AcquireError, LockClient, LockClientOptions};

use crate::answers::Answers;
use crate::load::{Reins, Threads};
use crate::trouble::{Trouble, between};

const HISTORY_RANK: Rank = Rank::new(4, "torture.history");
/// The locks begin here; keepers have those below.
const FIRST_LOCK: u64 = 1_000_000;
/// How long a user waits for a lock, and for a service that doesn't answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Steps of the checker a lock and window; some ten thousand are needed.
const STEPS: u64 = 20_000_000;

/// How many users, and what they share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) clients: u32,
    /// Of each client.
    pub(crate) threads: u32,
    pub(crate) locks: u64,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    lock: u64,
    client: u32,
    thread: u32,
    kind: LockKind,
}

type Record = Mutex<History<Op>>;

/// Some users.
pub(crate) struct Users {
    crowd: Crowd,
    clients: Vec<Arc<LockClient>>,
    record: Arc<Record>,
    answers: Arc<Answers>,
    threads: Threads,
    checked: usize,
}

/// A thread of a client.
struct User {
    client: Arc<LockClient>,
    number: u32,
    thread: u32,
    locks: u64,
    record: Arc<Record>,
    answers: Arc<Answers>,
}

impl User {
    fn run(&self, reins: &Reins) {
        while reins.goes_on() {
            let lock = FIRST_LOCK + rt::random::below(self.locks);
            match self.acquire(lock) {
                Ok(true) => {
                    sleep(between(0, 1));
                    let call = self.invoke(lock, LockKind::Release);
                    if let Err(error) = self.client.release(lock) {
                        return reins
                            .fail(format!("{} holds lock {lock}, and can't release it: {error}", self.client.id()));
                    }
                    self.returned(call, LockKind::Release);
                }
                Ok(false) => {}
                Err(error) => return reins.fail(format!("{} asks for lock {lock}: {error}", self.client.id())),
            }
            sleep(between(0, 2));
        }
    }

    /// Asks for a lock; true if it got it.
    fn acquire(&self, lock: u64) -> Result<bool, AcquireError> {
        let tries = rt::random::below(4) == 0;
        let call = self.invoke(lock, if tries { LockKind::TryAcquire(false) } else { LockKind::Acquire });
        let asked = if tries {
            self.client.try_acquire(lock)
        } else {
            self.client.acquire_until(lock, now() + PATIENCE).map(|()| true)
        };
        let got = match asked {
            Ok(got) => got,
            Err(AcquireError::TimedOut | AcquireError::Unanswered(_)) => false,
            Err(error) => return Err(error),
        };
        self.returned(call, if tries || !got { LockKind::TryAcquire(got) } else { LockKind::Acquire });
        if got {
            self.answers.note(self.number as usize);
        }
        Ok(got)
    }

    fn invoke(&self, lock: u64, kind: LockKind) -> usize {
        self.record.lock().invoke(Op { lock, client: self.number, thread: self.thread, kind })
    }

    fn returned(&self, call: usize, kind: LockKind) {
        self.record.lock().returned(call, |op| op.kind = kind);
    }
}

impl Users {
    pub(crate) fn connect(nodes: &[String], crowd: Crowd) -> Result<Users, Trouble> {
        let options = LockClientOptions { patience: PATIENCE, close_within: PATIENCE, ..LockClientOptions::default() };
        let connect = |_| LockClient::connect(nodes, options.clone()).map(Arc::new);
        let clients = (0..crowd.clients).map(connect).collect::<Result<_, _>>();
        Ok(Users {
            crowd,
            clients: clients.map_err(|e| format!("a lock client can't connect: {e}"))?,
            record: Arc::new(Mutex::new(HISTORY_RANK, History::default())),
            answers: Arc::new(Answers::new(crowd.clients as usize)),
            threads: Threads::new(),
            checked: 0,
        })
    }

    /// Begins a window.
    pub(crate) fn run(&mut self) -> Result<(), Trouble> {
        self.threads.allow();
        self.answers.resume();
        for (number, client) in (0..).zip(&self.clients) {
            for thread in 0..self.crowd.threads {
                let (record, answers) = (self.record.clone(), self.answers.clone());
                let user = User { client: client.clone(), number, thread, locks: self.crowd.locks, record, answers };
                self.threads.spawn("user", move |reins| user.run(reins))?;
            }
        }
        Ok(())
    }

    /// Ends a window, and checks what was called in it.
    pub(crate) fn pause_and_check(&mut self, within: Duration) -> Result<(), Trouble> {
        self.threads.stop(within)?;
        let history = std::mem::take(&mut *self.record.lock());
        self.checked += history.calls().len();
        let ops = history.calls().iter().map(|call| {
            let Op { lock, client, thread, kind } = call.op;
            (lock, LockOp { client, thread, kind, invoked: call.invoked, returned: call.returned })
        });
        match check_locks(ops, STEPS) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violation { key, explanation } => {
                Err(Trouble::Failed(format!("the calls on lock {key} have no order:\n{explanation}")))
            }
            Verdict::GaveUp => Err(Trouble::Failed(format!("{STEPS} steps were too few to check a window"))),
        }
    }

    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    pub(crate) fn await_since(&self, since: rt::time::Instant, within: Duration) -> Result<Duration, Trouble> {
        self.threads.await_within(within, "a contended lock is acquired", || self.answers.any_since(since))
    }

    /// How many calls were checked so far.
    pub(crate) fn checked(&self) -> usize {
        self.checked
    }
}
