use proptest::prelude::*;

use super::*;
use crate::lock_protocol::{ClientId, LockId, Status};
use crate::lock_table::{Claim, Effect, LockTable};

fn at(seconds: u64) -> Instant {
    Instant::from_start(Duration::from_secs(seconds))
}

fn want(lock: &mut CachedLock, role: Role, xid: u64) -> Next {
    lock.want(role, || at(0), || Some(Xid(xid)))
}

/// A lock that was granted under this xid.
fn locked(xid: u64) -> CachedLock {
    let mut lock = CachedLock::default();
    assert_eq!(want(&mut lock, Role::Newcomer, xid), Next::Ask(Xid(xid)));
    assert_eq!(lock.answered(Answer::Granted, at(0)), Then::Nothing);
    lock
}

#[test]
fn a_cached_lock_costs_no_question() {
    let mut lock = locked(1);
    assert_eq!(lock.release(true), Ok(Then::Nothing));
    assert!(lock.is_free());
    assert_eq!(want(&mut lock, Role::Newcomer, 2), Next::Taken);
    assert_eq!(lock.release(false), Ok(Then::GiveBack(Xid(1))), "if there is room");
    assert_eq!(lock.given_back(), Then::Nothing);
    assert!(lock.is_idle());
    assert_eq!(lock.release(true), Err(NotHeld));
}

#[test]
fn h07_hints_neither_give_nor_take_a_lock() {
    let mut lock = locked(5);
    for xid in [0, 4, 5, 6, u64::MAX] {
        assert_eq!(lock.revoke(Xid(xid)), Then::Nothing);
        assert_eq!(lock.retry(Xid(xid)), Then::Nothing);
        assert!(lock.is_locked(), "a hint about {xid} takes nothing from the holder");
    }
    let mut lock = CachedLock::default();
    for xid in [0, 5, u64::MAX] {
        assert_eq!(lock.retry(Xid(xid)), Then::Nothing);
        assert_eq!(lock.revoke(Xid(xid)), Then::Nothing);
        assert!(lock.is_idle(), "a hint about {xid} gives nothing");
    }
}

#[test]
fn h07_stale_and_forged_revokes_leave_a_cached_lock_alone() {
    let mut lock = locked(5);
    lock.release(true).unwrap();
    assert_eq!(lock.revoke(Xid(4)), Then::Nothing);
    assert_eq!(lock.revoke(Xid(6)), Then::Nothing);
    assert!(lock.is_free());
    assert_eq!(lock.revoke(Xid(5)), Then::GiveBack(Xid(5)));
    assert_eq!(lock.revoke(Xid(5)), Then::Nothing, "doubled");
    lock.given_back();
    assert_eq!(lock.revoke(Xid(5)), Then::Nothing, "late");
    assert!(lock.is_idle());
}

#[test]
fn h07_a_revoke_may_come_before_the_answer() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    assert_eq!(lock.revoke(Xid(1)), Then::Nothing);
    lock.answered(Answer::Granted, at(0));
    assert!(lock.is_locked());
    assert_eq!(lock.release(true), Ok(Then::GiveBack(Xid(1))));
}

#[test]
fn h07_a_retry_may_come_before_the_answer() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    lock.retry(Xid(1));
    lock.answered(Answer::Queued, at(0));
    assert_eq!(want(&mut lock, Role::Asker, 2), Next::Ask(Xid(2)));
}

#[test]
fn h07_a_lost_retry_costs_a_second() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    lock.answered(Answer::Queued, at(0));
    assert_eq!(want(&mut lock, Role::Asker, 2), Next::AwaitHint(at(1)));
    assert_eq!(lock.want(Role::Asker, || at(1), || Some(Xid(2))), Next::Ask(Xid(2)));
    lock.answered(Answer::Queued, at(1));
    assert_eq!(lock.want(Role::Asker, || at(1), || Some(Xid(3))), Next::AwaitHint(at(3)), "then two");
    assert_eq!(lock.retry(Xid(1)), Then::Nothing, "the hint about the first acquire comes too late");
    assert_eq!(lock.retry(Xid(2)), Then::WakeAsker);
    assert_eq!(lock.want(Role::Asker, || at(2), || Some(Xid(3))), Next::Ask(Xid(3)));
}

#[test]
fn a_revoke_is_honoured_though_local_threads_wait() {
    let mut lock = locked(1);
    assert_eq!(want(&mut lock, Role::Newcomer, 2), Next::AwaitTurn);
    lock.begin_wait();
    lock.revoke(Xid(1));
    assert_eq!(lock.release(true), Ok(Then::GiveBack(Xid(1))));
    assert_eq!(lock.given_back(), Then::WakeWaiting);
    lock.end_wait();
    assert_eq!(want(&mut lock, Role::Waiting, 2), Next::Ask(Xid(2)));
}

#[test]
fn an_unanswered_acquire_is_sent_again_with_the_same_xid() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    lock.begin_wait();
    lock.revoke(Xid(1));
    assert_eq!(lock.answered(Answer::NoAnswer, at(0)), Then::WakeWaiting);
    lock.end_wait();
    assert_eq!(want(&mut lock, Role::Waiting, 2), Next::Ask(Xid(1)));
    lock.answered(Answer::Granted, at(0));
    assert_eq!(lock.release(true), Ok(Then::GiveBack(Xid(1))), "the revoke wasn't forgotten");
}

#[test]
fn an_acquire_in_doubt_stays_so_if_it_could_not_be_sent_again() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    assert_eq!(lock.answered(Answer::NotAsked, at(0)), Then::Nothing, "it was never sent");
    assert!(lock.is_idle());
    want(&mut lock, Role::Newcomer, 2);
    lock.begin_wait();
    lock.answered(Answer::NoAnswer, at(0));
    lock.end_wait();
    assert_eq!(want(&mut lock, Role::Waiting, 3), Next::Ask(Xid(2)));
    assert_eq!(lock.answered(Answer::NotAsked, at(0)), Then::GiveBack(Xid(2)), "the first call may have been executed");
}

#[test]
fn an_unanswered_acquire_that_nobody_wants_is_ended() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    assert_eq!(lock.answered(Answer::NoAnswer, at(0)), Then::GiveBack(Xid(1)));
    assert!(!lock.was_held());
    lock.given_back();
    assert!(!lock.is_idle(), "a copy may still be executed");
    assert_eq!(lock.revoke(Xid(1)), Then::GiveBack(Xid(1)), "it was");
    lock.given_back();
    want(&mut lock, Role::Newcomer, 2);
    lock.answered(Answer::Granted, at(0));
    lock.release(false).unwrap();
    lock.given_back();
    assert!(lock.is_idle(), "now it can't be");
}

/// A lock whose acquires with these xids were given up, and ended by releases.
fn given_up(xids: &[u64]) -> CachedLock {
    let mut lock = CachedLock::default();
    for xid in xids {
        assert_eq!(want(&mut lock, Role::Newcomer, *xid), Next::Ask(Xid(*xid)));
        assert_eq!(lock.answered(Answer::NoAnswer, at(0)), Then::GiveBack(Xid(*xid)));
        assert_eq!(lock.given_back(), Then::Nothing);
    }
    lock
}

#[test]
fn a_revoke_of_whatever_was_given_up_is_answered_by_a_release() {
    // A lab server says 0; any of the acquires may have come to life. The last xid ends them all.
    for about in [0, 3, 5] {
        let mut lock = given_up(&[3, 5]);
        assert_eq!(lock.revoke(Xid(about)), Then::GiveBack(Xid(5)), "about {about}");
        assert!(lock.is_releasing() && !lock.was_held(), "nobody here had it");
        assert_eq!(lock.revoke(Xid(about)), Then::Nothing, "it is on its way");
        assert_eq!(lock.given_back(), Then::Nothing);
        assert!(!lock.is_idle(), "another copy may come to life");
        assert_eq!(lock.revoke(Xid(about)), Then::GiveBack(Xid(5)), "as this one");
    }
    assert_eq!(given_up(&[3, 5]).revoke(Xid(6)), Then::Nothing, "it was never asked for with that");
}

#[test]
fn what_was_given_up_is_remembered_until_a_later_acquire_is_answered() {
    for answer in [Answer::Refused, Answer::NotAsked] {
        let mut lock = given_up(&[3]);
        want(&mut lock, Role::Newcomer, 5);
        assert_eq!(lock.answered(answer, at(0)), Then::Nothing);
        assert!(!lock.is_idle(), "{answer:?} says nothing about the first");
        assert_eq!(lock.revoke(Xid(3)), Then::GiveBack(Xid(3)));
    }
    let mut lock = given_up(&[3]);
    want(&mut lock, Role::Newcomer, 5);
    lock.answered(Answer::Queued, at(0));
    assert_eq!(lock.give_up(Role::Asker), Then::GiveBack(Xid(5)));
    lock.given_back();
    assert!(lock.is_idle(), "the first can't come to life any more");
    assert_eq!(lock.revoke(Xid(3)), Then::Nothing);
}

#[test]
fn waiting_threads_are_overtaken_a_few_times_only() {
    let mut lock = locked(1);
    lock.begin_wait();
    for _ in 0..OVERTAKES {
        assert_eq!(lock.release(true), Ok(Then::WakeWaiting));
        assert_eq!(want(&mut lock, Role::Newcomer, 2), Next::Taken);
    }
    assert_eq!(lock.release(true), Ok(Then::WakeWaiting));
    assert_eq!(want(&mut lock, Role::Newcomer, 2), Next::AwaitTurn);
    lock.begin_wait();
    lock.end_wait();
    assert_eq!(want(&mut lock, Role::Waiting, 2), Next::Taken);
}

#[test]
fn who_gives_up_hands_its_wake_up_on() {
    let mut lock = locked(1);
    lock.begin_wait();
    lock.begin_wait();
    assert_eq!(lock.release(true), Ok(Then::WakeWaiting));
    lock.end_wait();
    assert_eq!(lock.give_up(Role::Waiting), Then::WakeWaiting);
}

#[test]
fn who_waits_takes_over_from_an_asker_that_gives_up() {
    let mut lock = CachedLock::default();
    want(&mut lock, Role::Newcomer, 1);
    lock.answered(Answer::Queued, at(0));
    lock.begin_wait();
    assert_eq!(lock.give_up(Role::Asker), Then::WakeWaiting);
    lock.end_wait();
    assert_eq!(want(&mut lock, Role::Waiting, 2), Next::AwaitHint(at(1)));
    assert_eq!(lock.give_up(Role::Asker), Then::GiveBack(Xid(1)), "nobody wants it any more");
}

// One lock, a real lock table, several clients of several threads, and a network that loses, doubles and delays.

const LOCK: LockId = LockId(1);
const CLIENTS: usize = 3;
const THREADS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Thread {
    Idle,
    /// Waits to be woken.
    ForTurn {
        woken: bool,
    },
    ForHint {
        woken: bool,
        until: Instant,
    },
    /// Its acquire is under way.
    Calling,
    Holding,
}

struct Client {
    id: ClientId,
    lock: CachedLock,
    last_xid: u64,
    threads: [Thread; THREADS],
}

#[derive(Clone, Copy, Debug)]
struct Call {
    client: usize,
    xid: Xid,
    acquire: bool,
    /// The thread that waits for the answer; none: a copy that came back to life.
    caller: Option<usize>,
}

struct World {
    table: LockTable,
    clients: Vec<Client>,
    calls: Vec<Call>,
    hints: Vec<(usize, bool, Xid)>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let client = |n: usize| Client {
            id: ClientId::new(&n.to_string()),
            lock: CachedLock::default(),
            last_xid: 0,
            threads: [Thread::Idle; THREADS],
        };
        World {
            table: LockTable::new(),
            clients: (0..CLIENTS).map(client).collect(),
            calls: Vec::new(),
            hints: Vec::new(),
            now: at(0),
        }
    }

    /// A thread looks at the lock.
    fn run(&mut self, client: usize, thread: usize) {
        let c = &mut self.clients[client];
        let role = match c.threads[thread] {
            Thread::Idle => Role::Newcomer,
            Thread::ForTurn { .. } => {
                c.lock.end_wait();
                Role::Waiting
            }
            Thread::ForHint { .. } => Role::Asker,
            Thread::Calling | Thread::Holding => return,
        };
        let (now, last_xid) = (self.now, &mut c.last_xid);
        let next = c.lock.want(
            role,
            || now,
            || {
                *last_xid += 1;
                Some(Xid(*last_xid))
            },
        );
        c.threads[thread] = match next {
            Next::Taken => Thread::Holding,
            Next::Ask(xid) => {
                self.calls.push(Call { client, xid, acquire: true, caller: Some(thread) });
                Thread::Calling
            }
            Next::AwaitHint(until) => Thread::ForHint { woken: false, until },
            Next::AwaitTurn => {
                c.lock.begin_wait();
                Thread::ForTurn { woken: false }
            }
            Next::NoXid => panic!("there are xids"),
        };
    }

    fn then(&mut self, client: usize, then: Then) {
        let threads = &mut self.clients[client].threads;
        match then {
            Then::Nothing => {}
            Then::WakeWaiting => {
                let sleeps = |thread: &&mut Thread| **thread == Thread::ForTurn { woken: false };
                if let Some(thread) = threads.iter_mut().find(sleeps) {
                    *thread = Thread::ForTurn { woken: true };
                }
            }
            Then::WakeAsker => {
                for thread in threads {
                    if let Thread::ForHint { woken, .. } = thread {
                        *woken = true;
                    }
                }
            }
            Then::GiveBack(xid) => self.calls.push(Call { client, xid, acquire: false, caller: None }),
        }
    }

    fn release(&mut self, client: usize, thread: usize) {
        let c = &mut self.clients[client];
        if c.threads[thread] == Thread::Holding {
            c.threads[thread] = Thread::Idle;
            let then = c.lock.release(true).unwrap();
            self.then(client, then);
        }
    }

    fn give_up(&mut self, client: usize, thread: usize) {
        let c = &mut self.clients[client];
        let role = match c.threads[thread] {
            Thread::ForTurn { .. } => {
                c.lock.end_wait();
                Role::Waiting
            }
            Thread::ForHint { .. } => Role::Asker,
            _ => return,
        };
        c.threads[thread] = Thread::Idle;
        let then = c.lock.give_up(role);
        self.then(client, then);
    }

    /// The service executes a call; `answered`: the caller hears of it.
    fn execute(&mut self, call: Call, answered: bool) {
        let id = self.clients[call.client].id.clone();
        let status = if call.acquire {
            self.table.acquire(LOCK, &id, call.xid).0
        } else {
            self.table.release(LOCK, &id, call.xid)
        };
        let effects = self.table.take_effects();
        self.hint(&effects);
        match (call.acquire, call.caller) {
            (true, Some(thread)) if answered => {
                let answer = match status {
                    Status::Ok => Answer::Granted,
                    Status::Retry => Answer::Queued,
                    other => panic!("acquire {:?} answered {other:?}", call.xid),
                };
                self.answer(call, thread, answer);
            }
            (true, _) => self.lose(call),
            (false, _) if answered => {
                let then = self.clients[call.client].lock.given_back();
                self.then(call.client, then);
            }
            // The releaser sends it again.
            (false, _) => self.calls.push(call),
        }
    }

    fn answer(&mut self, call: Call, thread: usize, answer: Answer) {
        let now = self.now;
        let c = &mut self.clients[call.client];
        assert_eq!(c.threads[thread], Thread::Calling);
        let then = c.lock.answered(answer, now);
        c.threads[thread] = match answer {
            Answer::Granted => Thread::Holding,
            // Woken at once: it looks at the lock.
            Answer::Queued => Thread::ForHint { woken: true, until: now },
            Answer::Refused | Answer::NotAsked | Answer::NoAnswer => Thread::Idle,
        };
        self.then(call.client, then);
    }

    /// The caller gives up on an answer.
    fn lose(&mut self, call: Call) {
        if let Some(thread) = call.caller {
            self.answer(call, thread, Answer::NoAnswer);
        }
    }

    fn hint(&mut self, effects: &[Effect]) {
        for effect in effects {
            let (revoke, claim): (bool, &Claim) = match effect {
                Effect::Revoke { owner, .. } => (true, owner),
                Effect::Retry { waiters, .. } => (false, &waiters[0]),
                Effect::Overtaken { waiter, .. } => (false, waiter),
                Effect::Anew | Effect::Settled { .. } => continue,
            };
            let client = self.clients.iter().position(|c| c.id == claim.client).unwrap();
            self.hints.push((client, revoke, claim.xid));
        }
    }

    fn deliver(&mut self, (client, revoke, xid): (usize, bool, Xid)) {
        let lock = &mut self.clients[client].lock;
        let then = if revoke { lock.revoke(xid) } else { lock.retry(xid) };
        self.then(client, then);
    }

    fn step(&mut self, event: u8, pick: usize) {
        let (client, thread) = (pick % CLIENTS, pick / CLIENTS % THREADS);
        let call = (!self.calls.is_empty()).then(|| pick % self.calls.len());
        let hint = (!self.hints.is_empty()).then(|| pick % self.hints.len());
        match (event, call, hint) {
            // Spurious wake-ups included.
            (0..=2, ..) => self.run(client, thread),
            (3..=4, ..) => self.release(client, thread),
            (5..=8, Some(n), _) => {
                let call = self.calls.remove(n);
                self.execute(call, true);
            }
            (9, Some(n), _) => {
                let call = self.calls.remove(n);
                self.execute(call, false);
            }
            // Not executed; an acquire may come back to life later.
            (10, Some(n), _) if self.calls[n].acquire && self.calls[n].caller.is_some() => {
                let call = self.calls[n];
                self.calls[n].caller = None;
                self.lose(call);
            }
            (11..=12, _, Some(n)) => {
                let hint = self.hints.remove(n);
                self.deliver(hint);
            }
            (13, _, Some(n)) => self.deliver(self.hints[n]),
            (14, _, Some(n)) => {
                self.hints.remove(n);
            }
            (15, ..) => self.deliver((client, pick & 1 == 0, Xid((pick >> 1) as u64 % 12))),
            (16, ..) => self.give_up(client, thread),
            (17, ..) => self.now = self.now + Duration::from_millis(700),
            (18, ..) => {
                let due = self.table.due();
                self.hint(&due);
            }
            // No time is left to send it.
            (19, Some(n), _) if self.calls[n].acquire => {
                let call = self.calls.remove(n);
                if let Some(thread) = call.caller {
                    self.answer(call, thread, Answer::NotAsked);
                }
            }
            _ => {}
        }
    }

    fn check(&self) {
        let mut holders = 0;
        for client in &self.clients {
            let holding = client.threads.iter().filter(|t| **t == Thread::Holding).count();
            holders += holding;
            assert_eq!(holding > 0, client.lock.is_locked());
            if holding > 0 || client.lock.is_free() {
                assert_eq!(self.table.owner(LOCK), Some(&client.id), "has a lock that isn't its own");
            }
        }
        assert!(holders <= 1, "{holders} threads have the lock");
    }

    /// No more faults, no spurious wake-ups: all that want the lock get it.
    fn settle(&mut self) {
        for _ in 0..200 {
            for call in std::mem::take(&mut self.calls) {
                self.execute(call, true);
                self.check();
            }
            for hint in std::mem::take(&mut self.hints) {
                self.deliver(hint);
            }
            for client in 0..CLIENTS {
                for thread in 0..THREADS {
                    let runs = match self.clients[client].threads[thread] {
                        Thread::ForTurn { woken } => woken,
                        Thread::ForHint { woken, until } => woken || self.now >= until,
                        Thread::Holding => {
                            self.release(client, thread);
                            false
                        }
                        Thread::Idle | Thread::Calling => false,
                    };
                    if runs {
                        self.run(client, thread);
                    }
                    self.check();
                }
            }
            self.now = self.now + Duration::from_millis(100);
            let due = self.table.due();
            self.hint(&due);
        }
        for client in &self.clients {
            assert_eq!(client.threads, [Thread::Idle; THREADS], "client {} never got it: {:?}", client.id, client.lock);
        }
        // Nothing is left behind at the service either: whoever has it caches it.
        if let Some(owner) = self.table.owner(LOCK) {
            let client = self.clients.iter().find(|c| c.id == *owner).unwrap();
            let orphan = !client.lock.is_free();
            assert!(
                !orphan || client.lock.given_up.is_some(),
                "the service thinks that {owner} has it: {:?}",
                client.lock
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn h07_one_holder_and_everybody_served(events in prop::collection::vec((0..20_u8, any::<u16>()), 1..200)) {
        let mut world = World::new();
        for (event, pick) in events {
            world.step(event, usize::from(pick));
            world.check();
        }
        world.settle();
    }
}
