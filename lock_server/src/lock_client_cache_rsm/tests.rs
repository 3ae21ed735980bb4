//! The client's threads against a service in this process: a lock table, whose hints are delivered directly, with faults.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::lock_protocol::refusal_to_wire;
use crate::lock_table::{Effect, LockTable};

const LOCK: LockId = LockId(1);
const SERVICE_RANK: Rank = Rank::new(70, "test.service");
const CLIENTS_RANK: Rank = Rank::new(71, "test.clients");
const SEEN_RANK: Rank = Rank::new(72, "test.seen");

#[derive(Default, Clone, Copy, Debug, PartialEq)]
struct Faults {
    /// Of 100 calls, how many are not executed, and not answered.
    lost: u64,
    /// Of 100 calls, how many are executed, and not answered.
    unanswered: u64,
    /// Of 100 hints, how many are lost.
    lost_hints: u64,
    /// Of 100 hints, how many come twice, one of them at the next hint only, with a forged one between.
    doubled_hints: u64,
}

/// The service.
struct Fake {
    table: Mutex<LockTable>,
    clients: Mutex<BTreeMap<ClientId, Weak<Inner>>>,
    late: Mutex<Vec<(bool, ClientId, LockId, Xid)>>,
    faults: Faults,
    down: AtomicBool,
    /// As a lab server it says nothing of the xids that it knows.
    lab: AtomicBool,
    acquires: AtomicUsize,
}

impl Fake {
    fn new(faults: Faults) -> Arc<Fake> {
        Arc::new(Fake {
            table: Mutex::new(SERVICE_RANK, LockTable::new()),
            clients: Mutex::new(CLIENTS_RANK, BTreeMap::new()),
            late: Mutex::new(SEEN_RANK, Vec::new()),
            faults,
            down: AtomicBool::new(false),
            lab: AtomicBool::new(false),
            acquires: AtomicUsize::new(0),
        })
    }

    fn client(self: &Arc<Fake>, name: &str, options: LockClientOptions) -> LockClient {
        let id = ClientId::new(name);
        let client = LockClient::with_service(&id, options, Box::new(self.clone())).unwrap();
        self.clients.lock().insert(id, Arc::downgrade(&client.inner));
        client
    }

    fn owner(&self) -> Option<String> {
        self.table.lock().owner(LOCK).map(ClientId::to_string)
    }

    fn call(&self, run: impl FnOnce(&mut LockTable) -> (Status, Option<Xid>)) -> Result<(i32, i32), RsmClientError> {
        let chance = rt::random::below(100);
        if self.down.load(Ordering::SeqCst) {
            rt::time::sleep(Duration::from_millis(1));
            return Err(RsmClientError::Unknown);
        }
        if chance < self.faults.lost {
            return Err(RsmClientError::Unknown);
        }
        let (status, known, effects) = {
            let mut table = self.table.lock();
            let (status, known) = run(&mut table);
            let mut effects = table.take_effects();
            // As the board does: what is due is told again.
            if status == Status::Retry && effects.is_empty() {
                effects = table.due();
            }
            (status, known, effects)
        };
        effects.into_iter().for_each(|effect| self.tell(effect));
        if chance < self.faults.lost + self.faults.unanswered {
            return Err(RsmClientError::Unknown);
        }
        let known = known.filter(|_| !self.lab.load(Ordering::SeqCst));
        Ok((yfs_rpc::Status::from(status).number(), known.map_or(0, refusal_to_wire)))
    }

    fn tell(&self, effect: Effect) {
        let hint = match effect {
            Effect::Revoke { lock, owner } => (true, owner.client, lock, owner.xid),
            Effect::Retry { lock, waiters } => (false, waiters[0].client.clone(), lock, waiters[0].xid),
            Effect::Overtaken { lock, waiter } => (false, waiter.client, lock, waiter.xid),
            Effect::Anew | Effect::Settled { .. } => return,
        };
        let late = self.late.lock().pop();
        if rt::random::below(100) >= self.faults.lost_hints {
            self.deliver(&hint);
        }
        if let Some(late) = late {
            self.deliver(&late);
        }
        if rt::random::below(100) < self.faults.doubled_hints {
            self.deliver(&(!hint.0, hint.1.clone(), hint.2, Xid(rt::random::u64())));
            self.late.lock().push(hint);
        }
    }

    fn deliver(&self, (revoke, client, lock, xid): &(bool, ClientId, LockId, Xid)) {
        let client = self.clients.lock().get(client).cloned();
        let Some(client) = client else { return };
        let event = |cached: &mut CachedLock| if *revoke { cached.revoke(*xid) } else { cached.retry(*xid) };
        assert_eq!(hint(&client, *lock, event), (HintStatus::Ok, 0));
    }
}

impl Service for Arc<Fake> {
    fn acquire(&self, lock: LockId, id: &ClientId, xid: Xid, _total: Duration) -> Result<(i32, i32), RsmClientError> {
        self.acquires.fetch_add(1, Ordering::SeqCst);
        self.call(|table| table.acquire(lock, id, xid))
    }

    fn release(&self, lock: LockId, id: &ClientId, xid: Xid, _total: Duration) -> Result<i32, RsmClientError> {
        self.call(|table| (table.release(lock, id, xid), None)).map(|(status, _)| status)
    }

    fn stat(&self, lock: LockId, _total: Duration) -> Result<(i32, i32), RsmClientError> {
        Ok((0, i32::try_from(self.table.lock().stat(lock)).unwrap()))
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = now() + Duration::from_secs(20);
    while !condition() {
        assert!(now() < deadline, "{what}");
        rt::time::sleep(Duration::from_millis(1));
    }
}

fn options() -> LockClientOptions {
    LockClientOptions::default()
}

#[test]
fn a_lock_stays_cached_until_somebody_else_wants_it() {
    let fake = Fake::new(Faults::default());
    let (a, b) = (fake.client("a", options()), fake.client("b", options()));
    for _ in 0..10 {
        drop(a.lock(LOCK).unwrap());
    }
    assert_eq!((fake.acquires.load(Ordering::SeqCst), a.stat(LOCK)), (1, Ok(1)));
    assert_eq!(fake.owner().as_deref(), Some("a"));
    b.acquire(LOCK).unwrap();
    assert_eq!(fake.owner().as_deref(), Some("b"));
    assert_eq!(a.release(LOCK), Err(NotHeld));
    b.release(LOCK).unwrap();
}

#[test]
fn a_held_lock_is_waited_for() {
    let fake = Fake::new(Faults::default());
    let (a, b) = (fake.client("a", options()), fake.client("b", options()));
    let guard = a.lock(LOCK).unwrap();
    let soon = now() + Duration::from_millis(50);
    assert_eq!(b.acquire_until(LOCK, soon), Err(AcquireError::TimedOut));
    assert!(now() >= soon);
    eventually("b has left the queue", || fake.table.lock().due().len() == 1);
    assert_eq!(b.try_acquire(LOCK), Ok(false));
    assert_eq!(a.try_acquire(LOCK), Ok(false), "another thread of the same client has it");
    drop(guard);
    eventually("b gets it", || b.try_acquire(LOCK) == Ok(true));
    assert!(b.try_lock(LOCK).unwrap().is_none());
    b.release(LOCK).unwrap();
    assert_eq!(b.try_lock(LOCK).unwrap().map(|guard| guard.id()), Some(LOCK));
}

#[test]
fn dropping_a_client_gives_its_locks_back() {
    let fake = Fake::new(Faults::default());
    let client = fake.client("a", options());
    for lock in 0..100 {
        client.acquire(lock).unwrap();
        if lock % 2 == 0 {
            client.release(lock).unwrap();
        }
    }
    drop(client);
    let table = fake.table.lock();
    assert!((0..100).all(|lock| table.owner(LockId(lock)).is_none()));
}

#[test]
fn dropping_a_client_of_a_dead_service_takes_bounded_time() {
    let fake = Fake::new(Faults::default());
    let client = fake.client("a", LockClientOptions { close_within: Duration::from_millis(200), ..options() });
    client.acquire(LOCK).unwrap();
    fake.down.store(true, Ordering::SeqCst);
    let began = now();
    drop(client);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn an_acquire_that_nobody_answers_fails_and_blocks_nobody_later() {
    let fake = Fake::new(Faults::default());
    let (a, b) = (fake.client("a", options()), fake.client("b", options()));
    fake.down.store(true, Ordering::SeqCst);
    let error = a.acquire(LOCK).unwrap_err();
    assert_eq!(error, AcquireError::Unanswered(RsmClientError::Unknown));
    assert!(error.may_block_others());
    // The service had granted it after all.
    fake.table.lock().acquire(LOCK, a.id(), Xid(1));
    fake.down.store(false, Ordering::SeqCst);
    b.acquire(LOCK).unwrap();
    assert_eq!(fake.owner().as_deref(), Some("b"));
}

#[test]
fn a_given_up_acquire_that_comes_to_life_blocks_nobody() {
    let fake = Fake::new(Faults::default());
    let (a, b) = (fake.client("a", options()), fake.client("b", options()));
    fake.down.store(true, Ordering::SeqCst);
    a.acquire(LOCK).unwrap_err();
    let xid = a.inner.table.lock().last_xid;
    fake.down.store(false, Ordering::SeqCst);
    let is_releasing = || a.inner.table.lock().locks.get(&LOCK).is_some_and(|entry| entry.lock.is_releasing());
    eventually("the release that ends it is executed", || !is_releasing());
    assert_eq!(fake.table.lock().acquire(LOCK, a.id(), xid).0, Status::Ok, "a copy, behind it");
    assert_eq!(b.acquire_until(LOCK, now() + Duration::from_secs(20)), Ok(()), "a answers the revoke");
    assert_eq!(fake.owner().as_deref(), Some("b"));
    b.release(LOCK).unwrap();
    a.acquire(LOCK).unwrap();
    a.release(LOCK).unwrap();
    b.acquire(LOCK).unwrap();
    eventually("now it is forgotten", || !a.inner.table.lock().locks.contains_key(&LOCK));
}

#[test]
fn few_locks_are_cached_if_few_may_be() {
    let fake = Fake::new(Faults::default());
    let client = fake.client("a", LockClientOptions { cache_limit: 2, ..options() });
    for lock in 0..10 {
        drop(client.lock(lock).unwrap());
    }
    let cached = || (0..10).filter(|lock| fake.table.lock().owner(LockId(*lock)).is_some()).count();
    eventually("eight are given back", || cached() == 2);
    assert_eq!(client.inner.table.lock().free, 2);
    eventually("and forgotten", || client.inner.table.lock().locks.len() == 2);
}

#[test]
fn a_name_that_comes_back_300_times_gets_its_locks() {
    let fake = Fake::new(Faults::default());
    let mut last_xid = Xid(0);
    for time in 0..300 {
        let client = fake.client("a", options());
        let before = fake.acquires.load(Ordering::SeqCst);
        if time % 2 == 0 {
            client.acquire(LOCK).unwrap();
            drop(client.lock(2).unwrap());
        } else {
            assert_eq!(client.try_acquire(LOCK), Ok(true));
            drop(client.try_lock(2).unwrap().unwrap());
        }
        assert!(fake.acquires.load(Ordering::SeqCst) - before <= 4, "a lock is asked for at most twice");
        let xid = client.inner.table.lock().last_xid;
        assert!(xid > last_xid, "{xid} after {last_xid}");
        last_xid = xid;
    }
    assert_eq!(fake.client("b", options()).stat(LOCK), Ok(300));
}

/// A client of a service that knows `known` of one by this name, for lock 1.
fn late_client(fake: &Arc<Fake>, name: &str, known: u64) -> LockClient {
    assert_eq!(fake.table.lock().acquire(LOCK, &ClientId::new(name), Xid(known)).0, Status::Ok);
    assert_eq!(fake.table.lock().release(LOCK, &ClientId::new(name), Xid(known)), Status::Ok);
    fake.client(name, options())
}

#[test]
fn higher_xids_of_an_earlier_client_are_exceeded_at_once() {
    for known in [1 << 41, 1 << 57, 1 << 63, u64::MAX - (2 << 40)] {
        let fake = Fake::new(Faults::default());
        assert_eq!(late_client(&fake, "a", known).try_acquire(LOCK), Ok(true));
        assert_eq!(fake.acquires.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_lab_server_that_tells_no_xid_is_asked_with_higher_ones() {
    for tries in [false, true] {
        let fake = Fake::new(Faults::default());
        fake.lab.store(true, Ordering::SeqCst);
        let (near, far) = (late_client(&fake, "a", 1 << 58), LockId(2));
        let get = |lock| if tries { near.try_acquire(lock) } else { near.acquire(lock).map(|()| true) };
        assert_eq!(get(LOCK), Ok(true));
        assert_eq!(fake.acquires.load(Ordering::SeqCst), 5);
        // Too far for one acquire; the next goes on from there.
        fake.table.lock().acquire(far, near.id(), Xid(14 << 56));
        assert_eq!(get(far), Err(AcquireError::Refused(Status::RpcErr)));
        assert_eq!(get(far), Ok(true));
    }
}

#[test]
fn threads_that_are_refused_together_raise_the_xids_once() {
    let fake = Fake::new(Faults::default());
    let client = fake.client("a", options());
    let mut table = client.inner.table.lock();
    let first = table.last_xid;
    // Another thread's xid, refused for another lock.
    let known = refusal_from_wire(refusal_to_wire(Xid(1 << 57)));
    assert!(table.raise_xids(first, known));
    let raised = table.last_xid;
    assert!(raised >= known.unwrap());
    assert!(table.raise_xids(Xid(first.0 + 1), known));
    assert_eq!(table.last_xid, raised, "of a service that tells");
    assert!(table.raise_xids(raised, None));
    assert_eq!(table.last_xid, Xid(raised.0 + XID_JUMP));
    assert!(table.raise_xids(Xid(raised.0 - 1), None));
    assert_eq!(table.last_xid, Xid(raised.0 + XID_JUMP), "of one that doesn't");
}

#[test]
fn the_end_of_the_numbers_is_an_error() {
    let refused = AcquireError::Refused(Status::RpcErr);
    for (lab, known) in [(false, u64::MAX), (false, u64::MAX - (1 << 39)), (true, u64::MAX)] {
        let fake = Fake::new(Faults::default());
        fake.lab.store(lab, Ordering::SeqCst);
        let client = late_client(&fake, "a", known);
        for _ in 0..40 {
            assert_eq!(client.acquire(LOCK), Err(refused.clone()));
            assert_eq!(client.try_acquire(LOCK), Err(refused.clone()));
        }
        client.acquire(2).unwrap();
        assert_eq!(client.release(2), Ok(()), "other locks are to be had");
    }
}

#[test]
fn a_client_that_has_used_up_its_xids_keeps_what_it_has() {
    let fake = Fake::new(Faults::default());
    let refused = AcquireError::Refused(Status::RpcErr);
    let (a, b) = (Arc::new(fake.client("a", options())), fake.client("b", options()));
    let held = b.lock(3).unwrap();
    a.inner.table.lock().last_xid = Xid(u64::MAX - 2);
    drop(a.lock(LOCK).unwrap());
    // The last one joins the queue; there is none left to ask with when the lock is free.
    let was_refused = Arc::new(AtomicBool::new(false));
    let (waiting, told, hears) = (a.clone(), refused.clone(), was_refused.clone());
    let waiter =
        rt::thread::spawn("waiter", move || hears.store(waiting.acquire(3) == Err(told), Ordering::SeqCst)).unwrap();
    eventually("a waits", || a.inner.table.lock().last_xid == Xid(u64::MAX));
    drop(held);
    assert!(waiter.join_until(now() + Duration::from_secs(20)));
    assert!(was_refused.load(Ordering::SeqCst));
    assert_eq!(a.acquire(2), Err(refused.clone()));
    assert_eq!(a.try_acquire(2), Err(refused));
    assert_eq!(a.try_acquire(LOCK), Ok(true), "it is cached");
    a.release(LOCK).unwrap();
    b.acquire(3).unwrap();
    b.acquire(LOCK).unwrap();
}

struct Recorder(Mutex<Vec<(LockId, Option<String>)>>, Arc<Fake>);

impl LockReleaseUser for Recorder {
    fn dorelease(&self, lock: LockId) {
        let owner = self.1.table.lock().owner(lock).map(ClientId::to_string);
        self.0.lock().push((lock, owner));
    }
}

#[test]
fn the_user_is_told_before_a_lock_goes_back() {
    let fake = Fake::new(Faults::default());
    let recorder = Arc::new(Recorder(Mutex::new(Rank::new(80, "test.recorder"), Vec::new()), fake.clone()));
    let a = fake.client("a", LockClientOptions { release_user: Some(recorder.clone()), ..options() });
    let b = fake.client("b", options());
    drop(a.lock(LOCK).unwrap());
    let held = b.lock(LOCK).unwrap();
    assert_eq!(*recorder.0.lock(), [(LOCK, Some("a".to_owned()))], "while the service still knew it as a's");
    assert_eq!(a.try_acquire(LOCK), Ok(false));
    drop(held);
    drop(a);
    assert_eq!(recorder.0.lock().len(), 1, "leaving the queue is none of its business");
}

/// Threads that take the lock in turn; true holders are counted outside.
fn contend(faults: Faults, clients: usize, threads: usize, times: usize) {
    let fake = Fake::new(faults);
    let clients: Vec<_> = (0..clients).map(|n| Arc::new(fake.client(&n.to_string(), options()))).collect();
    let (inside, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let mut handles = Vec::new();
    for client in clients.iter().flat_map(|client| std::iter::repeat_n(client, threads)) {
        let (client, inside, turns) = (client.clone(), inside.clone(), turns.clone());
        handles.push(rt::thread::spawn("contender", move || {
            for turn in 0..times {
                let got = match turn % 4 {
                    0 => client.try_acquire(LOCK) == Ok(true),
                    1 => client.acquire_until(LOCK, now() + Duration::from_millis(2)).is_ok(),
                    _ => {
                        // Only a call that wasn't answered may end it without the lock.
                        while let Err(error) = client.acquire(LOCK) {
                            assert_eq!(error, AcquireError::Unanswered(RsmClientError::Unknown));
                        }
                        true
                    }
                };
                if got {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "held twice");
                    turns.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1, "held twice");
                    client.release(LOCK).unwrap();
                }
            }
        }));
    }
    let deadline = now() + Duration::from_secs(100);
    for handle in handles {
        assert!(handle.unwrap().join_until(deadline), "a thread never got the lock");
    }
    assert!(turns.load(Ordering::SeqCst) >= u64::try_from(clients.len() * threads * times / 2).unwrap());
    drop(clients);
    assert_eq!(fake.owner(), None);
}

#[test]
fn threads_take_turns() {
    contend(Faults::default(), 3, 2, 400);
}

#[test]
fn h07_lost_doubled_late_and_forged_hints_do_no_harm() {
    contend(Faults { lost_hints: 3, doubled_hints: 50, ..Faults::default() }, 3, 2, 60);
}

#[test]
fn lost_calls_and_lost_answers_do_no_harm() {
    contend(Faults { lost: 10, unanswered: 10, ..Faults::default() }, 3, 2, 200);
}
