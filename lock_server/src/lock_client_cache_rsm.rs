//! The caching lock client (lab 4 and 7): a lock that was used stays here until somebody else wants it.
//!
//! ```no_run
//! use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = LockClient::connect(&["127.0.0.1:21000".to_owned()], LockClientOptions::default())?;
//! let guard = client.lock(7)?; // from the service, or from the cache
//! drop(guard); // stays cached
//! # Ok(())
//! # }
//! ```
//!
//! What is decided about a lock is decided in [`crate::cached_lock`]; here are the threads and the calls around it.
//!
//! # Invariants
//! 1. A lock is this client's from the answer OK to an acquire on until a release is sent, and never on a hint's word
//!    (H7). Hints are checked by asking: after RETRY a client asks again by itself, after 1 s at first, so that a lost
//!    hint costs no more.
//! 2. Xids grow strictly, over all locks, and never wrap. An acquire that nobody answered is sent again with the same
//!    xid, or ended by a release with that xid, before the lock is asked for anew; the service answers the same again.
//! 3. Nothing calls the service with a lock taken, and no handler waits.
//! 4. An acquire that was given up may come to life behind the release that ended it: a copy of it waited somewhere. The
//!    lock is then nobody's, in the service's eyes this client's; the revoke that it sends is answered by a release.
//!
//! # Threads and locks
//! | thread | what |
//! |---|---|
//! | the caller's | asks the service; waits for retry and asks again, unless another thread of the client does already |
//! | `releaser` | gives revoked and abandoned locks back, one by one; tells the [`LockReleaseUser`] before |
//! | poll thread | the handlers of revoke and retry |
//!
//! | lock | rank | guards | notified |
//! |---|---|---|---|
//! | `Inner::table` | 20 | all of this client's locks | `work`: a lock is to be given back, or the client ends |
//! | | | | `Signals::turn`, a lock's: it may be taken or asked for |
//! | | | | `Signals::hint`, a lock's: a retry came for the asker |
//!
//! # Deviations from the lab
//! There is no retryer thread: the thread that waits asks again itself, which saves a wake-up in each hand-off. The port
//! for hints is one that is free, not a random one. Dropping a client gives its locks back; the lab's clients never end.

mod error;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::net::TcpStream;
use rt::sync::{Condvar, Mutex, MutexGuard, Rank};
use rt::thread::JoinHandle;
use rt::time::{Instant, now};
use yfs_rpc::{PollMgr, Server, names};
use yfs_rsm::{RsmClient, RsmClientError};

use crate::cached_lock::{Answer, CachedLock, Next, Role, Then};
use crate::lock_protocol::{
    ACQUIRE, ClientId, HintStatus, LockId, RELEASE, RETRY, REVOKE, STAT, Status, Xid, refusal_from_wire,
};

pub use crate::cached_lock::NotHeld;
pub use error::{AcquireError, ConnectError, StatError};

/// How long one call of release may take until it is sent anew: long enough to find a new primary.
const RELEASE_TIME: Duration = Duration::from_secs(5);
/// Pauses between releases that weren't answered, at first and at most.
const RELEASE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Threads that give locks back when a client ends.
const CLOSERS: usize = 8;
/// The first xid lies below, and after a refusal the next within as many above what the service knows, at random: another
/// program that had this address before hardly used the same ones, for which the service would repeat its answers.
const XID_RANGE: u64 = 1 << 40;
/// How far xids jump when the service knows higher ones of this client's name, and doesn't say which, as lab servers.
const XID_JUMP: u64 = 1 << 56;
/// How often an acquire is tried with higher xids. Once is enough where the service says what it knows.
const XID_RAISES: u32 = 8;

const TABLE_RANK: Rank = Rank::new(20, "lock_client.table");

/// Is told before a lock goes back to the service, to write back what it protects (lab: `lock_release_user`).
pub trait LockReleaseUser: Send + Sync + 'static {
    /// The lock, which nobody uses now, is about to go back. Runs on the releaser's thread; it must not use the client.
    fn dorelease(&self, lock: LockId);
}

/// Settings of a client.
#[derive(Clone)]
pub struct LockClientOptions {
    /// Where revoke and retry are served. Port 0 is any free one. `None`: a free port at the address of this machine from
    /// which the first seed is reached, which is 127.0.0.1 for a server of this machine.
    pub listen: Option<SocketAddr>,
    /// The numeric `host:port` at which servers reach `listen`, if it isn't that: behind a gateway, or for 0.0.0.0.
    pub advertise: Option<String>,
    /// How long the service may stay silent until a call fails.
    pub patience: Duration,
    /// How long dropping the client may take to give its locks back.
    pub close_within: Duration,
    /// How many unused locks are kept; further ones go back when they are released.
    pub cache_limit: usize,
    /// Told before a lock goes back.
    pub release_user: Option<Arc<dyn LockReleaseUser>>,
    /// Settings of the RPC runtime.
    pub rpc: yfs_rpc::Options,
    /// The poll manager.
    pub pollmgr: PollMgr,
}

impl Default for LockClientOptions {
    fn default() -> Self {
        LockClientOptions {
            listen: None,
            advertise: None,
            patience: Duration::from_secs(120),
            close_within: Duration::from_secs(5),
            cache_limit: 100_000,
            release_user: None,
            rpc: yfs_rpc::Options::default(),
            pollmgr: PollMgr::shared(),
        }
    }
}

/// A caching client of the lock service. Threads share it by reference.
#[doc(alias = "lock_client_cache_rsm")]
pub struct LockClient {
    inner: Arc<Inner>,
    releaser: JoinHandle,
    /// None in tests that deliver hints themselves.
    hints: Option<Server>,
}

/// A lock that is held; dropping it releases it.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a> {
    client: &'a LockClient,
    lock: LockId,
}

impl LockClient {
    /// A client of the service that the seeds are members of, or were lately. Returns once one of them has answered.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(seeds: &[String], options: LockClientOptions) -> Result<LockClient, ConnectError> {
        let at = options.listen.unwrap_or_else(|| SocketAddr::new(route_to(seeds), 0));
        let hints = Server::bind_on(&options.pollmgr, at, options.rpc.clone())
            .map_err(|error| ConnectError::Listen { at, error })?;
        let id = reached_at(&options, hints.local_addr())?;
        let rsm_client = RsmClient::connect_on(&options.pollmgr, options.rpc.clone(), seeds, options.patience)?;
        let mut client = LockClient::with_service(&id, options, Box::new(rsm_client))?;
        let (revoked, retried) = (Arc::downgrade(&client.inner), Arc::downgrade(&client.inner));
        hints.reg_inline(REVOKE, move |lock: LockId, xid: Xid| hint(&revoked, lock, |cached| cached.revoke(xid)));
        hints.reg_inline(RETRY, move |lock: LockId, xid: Xid| hint(&retried, lock, |cached| cached.retry(xid)));
        hints.start()?;
        client.hints = Some(hints);
        tracing::info!(%id, "lock client");
        Ok(client)
    }

    fn with_service(
        id: &ClientId,
        options: LockClientOptions,
        service: Box<dyn Service>,
    ) -> std::io::Result<LockClient> {
        let table = Table {
            locks: BTreeMap::new(),
            last_xid: Xid(1 + rt::random::below(XID_RANGE)),
            free: 0,
            releases: VecDeque::new(),
            ends: None,
        };
        let inner = Arc::new(Inner {
            id: id.clone(),
            service,
            options,
            table: Mutex::new(TABLE_RANK, table),
            work: Condvar::new(),
        });
        let at_work = inner.clone();
        let releaser = rt::thread::spawn("releaser", move || at_work.releaser())?;
        Ok(LockClient { inner, releaser, hints: None })
    }

    /// The name by which the service knows this client.
    pub fn id(&self) -> &ClientId {
        &self.inner.id
    }

    /// Waits for a lock, as long as it takes while the service answers (lab: `acquire`). Not for a thread that has it.
    ///
    /// # Errors
    /// [`AcquireError`]; the caller doesn't have the lock then.
    pub fn acquire(&self, lock: impl Into<LockId>) -> Result<(), AcquireError> {
        self.inner.acquire(lock.into(), None)
    }

    /// Waits for a lock until `deadline`. A lock that is cached and free is taken even if that has passed.
    ///
    /// # Errors
    /// [`AcquireError`]; the caller doesn't have the lock then.
    pub fn acquire_until(&self, lock: impl Into<LockId>, deadline: Instant) -> Result<(), AcquireError> {
        self.inner.acquire(lock.into(), Some(deadline))
    }

    /// Takes a lock if nobody has it; true if so. Asks the service once if the lock isn't cached.
    ///
    /// # Errors
    /// [`AcquireError`]; the caller doesn't have the lock then.
    pub fn try_acquire(&self, lock: impl Into<LockId>) -> Result<bool, AcquireError> {
        self.inner.try_acquire(lock.into())
    }

    /// Releases a lock that a thread of this client has: it stays cached, unless somebody else wants it (lab: `release`).
    ///
    /// # Errors
    /// [`NotHeld`].
    pub fn release(&self, lock: impl Into<LockId>) -> Result<(), NotHeld> {
        self.inner.release(lock.into())
    }

    /// As [`LockClient::acquire`], with a guard that releases the lock when it is dropped.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn lock(&self, lock: impl Into<LockId>) -> Result<LockGuard<'_>, AcquireError> {
        let lock = lock.into();
        self.inner.acquire(lock, None)?;
        Ok(LockGuard { client: self, lock })
    }

    /// As [`LockClient::try_acquire`], with a guard that releases the lock when it is dropped.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn try_lock(&self, lock: impl Into<LockId>) -> Result<Option<LockGuard<'_>>, AcquireError> {
        let lock = lock.into();
        // Made only if there is a lock to guard: dropping a guard releases.
        Ok(self.inner.try_acquire(lock)?.then(|| LockGuard { client: self, lock }))
    }

    /// How often the service has granted a lock (lab: `stat`).
    ///
    /// # Errors
    /// [`StatError`].
    pub fn stat(&self, lock: impl Into<LockId>) -> Result<u32, StatError> {
        let (status, count) = self.inner.service.stat(lock.into(), self.inner.options.patience)?;
        match Status::from_wire(status) {
            Some(Status::Ok) => Ok(u32::try_from(count).unwrap_or(0)),
            _ => Err(StatError::Refused(status)),
        }
    }
}

impl LockGuard<'_> {
    /// Which lock it is.
    pub fn id(&self) -> LockId {
        self.lock
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        // Somebody may have released it by its id: then there is nothing left to do.
        let _released_already = self.client.release(self.lock);
    }
}

impl Drop for LockClient {
    /// Gives the locks back, within `close_within`, and ends the client's threads.
    fn drop(&mut self) {
        let ends = now() + self.inner.options.close_within;
        let left = self.inner.close(ends);
        let helpers = (0..(left / CLOSERS).min(CLOSERS - 1)).filter_map(|_| {
            let at_work = self.inner.clone();
            rt::thread::spawn("releaser", move || at_work.releaser()).ok()
        });
        let helpers: Vec<JoinHandle> = helpers.collect();
        // A call that is under way when the time is over ends by itself.
        let joined_by = ends + RELEASE_TIME + RELEASE_PAUSE.1;
        for thread in helpers.iter().chain([&self.releaser]) {
            if !thread.join_until(joined_by) {
                tracing::warn!(id = %self.inner.id, "a releaser still runs");
            }
        }
        if let Some(hints) = &self.hints {
            hints.shutdown();
        }
    }
}

/// The address from which this machine reaches the first seed to which it has a way; nobody has to answer there.
fn route_to(seeds: &[String]) -> IpAddr {
    let route = |seed: &String| TcpStream::connect(names::resolve(seed).ok()?).ok()?.local_addr().ok();
    let address = seeds.iter().find_map(route).map(|addr| addr.ip());
    address.filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The name by which servers reach this client.
fn reached_at(options: &LockClientOptions, listening: SocketAddr) -> Result<ClientId, ConnectError> {
    let name = match &options.advertise {
        Some(name) => name.clone(),
        None if listening.ip().is_unspecified() => return Err(ConnectError::NoAddress),
        None => listening.to_string(),
    };
    match name.parse::<SocketAddr>() {
        Ok(addr) if addr.port() != 0 && !addr.ip().is_unspecified() => Ok(ClientId::new(&name)),
        _ => Err(ConnectError::BadAddress(name)),
    }
}

/// A revoke or retry for a client, which may be gone.
fn hint(inner: &Weak<Inner>, lock: LockId, event: impl FnOnce(&mut CachedLock) -> Then) -> (HintStatus, i32) {
    if let Some(inner) = inner.upgrade() {
        inner.hint(lock, event);
    }
    (HintStatus::Ok, 0)
}

/// The lock service, as the client needs it. Statuses and results are those of the wire.
trait Service: Send + Sync + 'static {
    fn acquire(&self, lock: LockId, id: &ClientId, xid: Xid, total: Duration) -> Result<(i32, i32), RsmClientError>;
    fn release(&self, lock: LockId, id: &ClientId, xid: Xid, total: Duration) -> Result<i32, RsmClientError>;
    fn stat(&self, lock: LockId, total: Duration) -> Result<(i32, i32), RsmClientError>;
}

impl Service for RsmClient {
    fn acquire(&self, lock: LockId, id: &ClientId, xid: Xid, total: Duration) -> Result<(i32, i32), RsmClientError> {
        self.call(ACQUIRE, (lock, id.clone(), xid), total)
    }

    fn release(&self, lock: LockId, id: &ClientId, xid: Xid, total: Duration) -> Result<i32, RsmClientError> {
        self.call(RELEASE, (lock, id.clone(), xid), total).map(|(status, _)| status)
    }

    fn stat(&self, lock: LockId, total: Duration) -> Result<(i32, i32), RsmClientError> {
        self.call(STAT, (lock,), total)
    }
}

/// Whether the service may have executed the request, or may yet do so.
fn may_be_executed(error: &RsmClientError) -> bool {
    matches!(error, RsmClientError::Unknown | RsmClientError::Result)
}

struct Inner {
    id: ClientId,
    service: Box<dyn Service>,
    options: LockClientOptions,
    table: Mutex<Table>,
    work: Condvar,
}

struct Table {
    locks: BTreeMap<LockId, Entry>,
    last_xid: Xid,
    /// How many locks are cached and free.
    free: usize,
    /// What the releaser has to give back.
    releases: VecDeque<(LockId, Xid)>,
    /// Until when the releaser works on, once the client ends.
    ends: Option<Instant>,
}

#[derive(Default)]
struct Entry {
    lock: CachedLock,
    /// Made when a thread first waits.
    signals: Option<Arc<Signals>>,
}

#[derive(Default)]
struct Signals {
    turn: Condvar,
    hint: Condvar,
}

impl Entry {
    fn signals(&mut self) -> Arc<Signals> {
        self.signals.get_or_insert_default().clone()
    }
}

impl Inner {
    fn acquire(&self, lock: LockId, deadline: Option<Instant>) -> Result<(), AcquireError> {
        let is_over = || deadline.is_some_and(|deadline| now() >= deadline);
        let mut role = Role::Newcomer;
        let mut raises = 0;
        let mut table = self.table.lock();
        loop {
            match table.want(lock, role) {
                Next::Taken => return Ok(()),
                Next::Ask(xid) => {
                    let (answered, result) = self.ask(table, lock, xid, deadline);
                    table = answered;
                    role = match result {
                        Ok(Status::Ok) => return Ok(()),
                        Ok(Status::Retry) => Role::Asker,
                        Ok(Status::RpcErr) if raises < XID_RAISES => {
                            raises += 1;
                            Role::Newcomer
                        }
                        Ok(status) => return Err(AcquireError::Refused(status)),
                        Err(error) => return Err(error),
                    };
                }
                Next::AwaitHint(until) => {
                    role = Role::Asker;
                    if is_over() {
                        self.give_up(table, lock, role);
                        return Err(AcquireError::TimedOut);
                    }
                    let signals = table.locks.entry(lock).or_default().signals();
                    signals.hint.wait_until(&mut table, deadline.map_or(until, |deadline| deadline.min(until)));
                }
                Next::AwaitTurn => {
                    if is_over() {
                        self.give_up(table, lock, role);
                        return Err(AcquireError::TimedOut);
                    }
                    self.await_turn(&mut table, lock, deadline);
                    role = Role::Waiting;
                }
                Next::NoXid => {
                    self.give_up(table, lock, role);
                    return Err(AcquireError::Refused(Status::RpcErr));
                }
            }
        }
    }

    fn try_acquire(&self, lock: LockId) -> Result<bool, AcquireError> {
        let patience = now() + self.options.patience;
        let mut role = Role::Newcomer;
        let mut table = self.table.lock();
        // What is on its way back is free soon.
        while table.locks.get(&lock).is_some_and(|entry| entry.lock.is_releasing()) {
            if now() >= patience {
                self.give_up(table, lock, role);
                return Err(AcquireError::TimedOut);
            }
            self.await_turn(&mut table, lock, Some(patience));
            role = Role::Waiting;
        }
        let mut raises = 0;
        loop {
            match table.want(lock, role) {
                Next::Taken => return Ok(true),
                Next::Ask(xid) => {
                    let (answered, result) = self.ask(table, lock, xid, Some(patience));
                    match result {
                        Ok(Status::Ok) => return Ok(true),
                        Ok(Status::Retry) => {
                            self.give_up(answered, lock, Role::Asker);
                            return Ok(false);
                        }
                        Ok(Status::RpcErr) if raises < XID_RAISES => {
                            raises += 1;
                            (table, role) = (answered, Role::Newcomer);
                        }
                        Ok(status) => return Err(AcquireError::Refused(status)),
                        Err(error) => return Err(error),
                    }
                }
                // The lock was abandoned in the queue a moment ago: it stays abandoned.
                Next::AwaitHint(_) => {
                    self.give_up(table, lock, Role::Asker);
                    return Ok(false);
                }
                Next::AwaitTurn => {
                    self.give_up(table, lock, role);
                    return Ok(false);
                }
                Next::NoXid => {
                    self.give_up(table, lock, role);
                    return Err(AcquireError::Refused(Status::RpcErr));
                }
            }
        }
    }

    /// Asks the service, with the table released, and has the lock hear the answer. An error is what the caller is told.
    /// After RPCERR there are higher xids to ask with, and the next is one of them.
    fn ask<'a>(
        &'a self,
        table: MutexGuard<'a, Table>,
        lock: LockId,
        xid: Xid,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Table>, Result<Status, AcquireError>) {
        drop(table);
        let patience = self.options.patience;
        let total = deadline.map_or(patience, |deadline| deadline.saturating_since(now()).min(patience));
        let called = self.service.acquire(lock, &self.id, xid, total);
        let mut known = 0;
        let (answer, mut result) = match called {
            Ok((status, told)) => match Status::from_wire(status) {
                Some(Status::Ok) => (Answer::Granted, Ok(Status::Ok)),
                Some(Status::Retry) => (Answer::Queued, Ok(Status::Retry)),
                Some(status) => {
                    known = told;
                    (Answer::Refused, Ok(status))
                }
                // A service that says what no lock service says: whether it has executed the request is anybody's guess.
                None => (Answer::NoAnswer, Err(AcquireError::Strange(status))),
            },
            Err(error) if !may_be_executed(&error) => (Answer::NotAsked, Err(AcquireError::Unanswered(error))),
            Err(_) if deadline.is_some_and(|deadline| now() >= deadline) => {
                (Answer::NoAnswer, Err(AcquireError::TimedOut))
            }
            Err(error) => (Answer::NoAnswer, Err(AcquireError::Unanswered(error))),
        };
        let mut table = self.table.lock();
        if result == Ok(Status::RpcErr) && !table.raise_xids(xid, refusal_from_wire(known)) {
            result = Err(AcquireError::Refused(Status::RpcErr));
        }
        self.event(&mut table, lock, |cached| cached.answered(answer, now()));
        (table, result)
    }

    fn await_turn(&self, table: &mut MutexGuard<'_, Table>, lock: LockId, deadline: Option<Instant>) {
        let entry = table.locks.entry(lock).or_default();
        entry.lock.begin_wait();
        let signals = entry.signals();
        match deadline {
            Some(deadline) => {
                signals.turn.wait_until(table, deadline);
            }
            None => signals.turn.wait(table),
        }
        if let Some(entry) = table.locks.get_mut(&lock) {
            entry.lock.end_wait();
        }
    }

    fn give_up(&self, mut table: MutexGuard<'_, Table>, lock: LockId, role: Role) {
        self.event(&mut table, lock, |cached| cached.give_up(role));
    }

    fn release(&self, lock: LockId) -> Result<(), NotHeld> {
        let mut table = self.table.lock();
        let cache = table.free < self.options.cache_limit;
        let Some(entry) = table.locks.get_mut(&lock) else { return Err(NotHeld) };
        let then = entry.lock.release(cache)?;
        let freed = entry.lock.is_free();
        table.free += usize::from(freed);
        self.perform(&mut table, lock, then);
        Ok(())
    }

    fn hint(&self, lock: LockId, event: impl FnOnce(&mut CachedLock) -> Then) {
        let mut table = self.table.lock();
        self.event(&mut table, lock, event);
    }

    /// Something happened to a lock: does what follows from it. Locks that aren't known don't care.
    fn event(&self, table: &mut Table, lock: LockId, event: impl FnOnce(&mut CachedLock) -> Then) {
        let Some(entry) = table.locks.get_mut(&lock) else { return };
        let was_free = entry.lock.is_free();
        let then = event(&mut entry.lock);
        let is_free = entry.lock.is_free();
        let is_idle = entry.lock.is_idle();
        table.free = table.free + usize::from(is_free) - usize::from(was_free);
        self.perform(table, lock, then);
        if is_idle {
            table.locks.remove(&lock);
        }
    }

    fn perform(&self, table: &mut Table, lock: LockId, then: Then) {
        let signals = || table.locks.get(&lock).and_then(|entry| entry.signals.as_ref());
        match then {
            Then::Nothing => {}
            Then::WakeWaiting => signals().into_iter().for_each(|signals| signals.turn.notify_one()),
            Then::WakeAsker => signals().into_iter().for_each(|signals| signals.hint.notify_one()),
            Then::GiveBack(xid) => {
                table.releases.push_back((lock, xid));
                self.work.notify_one();
            }
        }
    }

    /// The life of the releaser: gives locks back until the client ends.
    fn releaser(&self) {
        let mut table = self.table.lock();
        loop {
            let Some((lock, xid)) = table.releases.pop_front() else {
                if table.ends.is_some() {
                    return;
                }
                self.work.wait(&mut table);
                continue;
            };
            let was_held = table.locks.get(&lock).is_some_and(|entry| entry.lock.was_held());
            drop(table);
            if was_held && let Some(user) = &self.options.release_user {
                user.dorelease(lock);
            }
            let given_back = self.give_back(lock, xid);
            table = self.table.lock();
            if !given_back {
                tracing::warn!(id = %self.id, left = table.releases.len() + 1, "the service didn't take all locks back");
                table.releases.clear();
                return;
            }
            self.event(&mut table, lock, CachedLock::given_back);
        }
    }

    /// Has the service execute a release, whatever it answers; false if the client's end came first.
    fn give_back(&self, lock: LockId, xid: Xid) -> bool {
        let mut pause = RELEASE_PAUSE.0;
        loop {
            let ends = self.table.lock().ends;
            let total = ends.map_or(RELEASE_TIME, |ends| ends.saturating_since(now()).min(RELEASE_TIME));
            match self.service.release(lock, &self.id, xid, total) {
                Ok(status) => {
                    if Status::from_wire(status) != Some(Status::Ok) {
                        tracing::debug!(%lock, %xid, status, "release");
                    }
                    return true;
                }
                Err(error @ RsmClientError::Refused) => {
                    tracing::warn!(%lock, %xid, %error, "the service refuses a release");
                    return true;
                }
                Err(error) => tracing::debug!(%lock, %xid, %error, "release wasn't answered"),
            }
            let until = now() + pause;
            pause = (pause * 2).min(RELEASE_PAUSE.1);
            let mut table = self.table.lock();
            loop {
                if table.ends.is_some_and(|ends| now() >= ends) {
                    return false;
                }
                if now() >= until {
                    break;
                }
                self.work.wait_until(&mut table, until);
            }
        }
    }

    /// The client ends, at `ends` at the latest. How many locks have to go back.
    fn close(&self, ends: Instant) -> usize {
        let mut table = self.table.lock();
        table.ends = Some(ends);
        let locks: Vec<LockId> = table.locks.keys().copied().collect();
        for lock in locks {
            self.event(&mut table, lock, CachedLock::close);
        }
        self.work.notify_all();
        table.releases.len()
    }
}

impl Table {
    fn want(&mut self, lock: LockId, role: Role) -> Next {
        let entry = self.locks.entry(lock).or_default();
        let was_free = entry.lock.is_free();
        let last_xid = &mut self.last_xid;
        let next = entry.lock.want(role, now, || {
            *last_xid = Xid(last_xid.0.checked_add(1)?);
            Some(*last_xid)
        });
        self.free -= usize::from(was_free && next == Next::Taken);
        next
    }

    /// The service refused an xid, since another program had this address, and went further: to at most `known`, if it
    /// says so. The next xid is above; false, and nothing is changed, if there is none. A thread that was refused an xid
    /// from before another's refusal raises nothing once more.
    fn raise_xids(&mut self, refused: Xid, known: Option<Xid>) -> bool {
        let raised = match known {
            Some(known) if self.last_xid >= known => Some(self.last_xid.0),
            Some(known) if known.0 > u64::MAX - XID_RANGE => None,
            Some(known) => Some(known.0 + rt::random::below(XID_RANGE)),
            None => refused.0.checked_add(XID_JUMP),
        };
        let Some(raised) = raised else { return false };
        self.last_xid = self.last_xid.max(Xid(raised));
        true
    }
}
