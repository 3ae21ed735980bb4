//! Locks, condition variables, threads, time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{self, Node};
use rt::{random, time};

use super::{Check, SHORT, soon};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("time_passes_while_a_thread_sleeps", time_passes_while_a_thread_sleeps),
    ("a_lock_keeps_others_out", a_lock_keeps_others_out),
    ("try_lock_fails_while_another_holds_the_lock", try_lock_fails_while_another_holds_the_lock),
    ("a_wait_ends_at_its_deadline", a_wait_ends_at_its_deadline),
    ("a_deadline_that_never_comes_is_none", a_deadline_that_never_comes_is_none),
    ("a_notification_ends_a_wait", a_notification_ends_a_wait),
    ("notify_all_reaches_every_waiter", notify_all_reaches_every_waiter),
    ("join_waits_for_the_end_of_the_thread", join_waits_for_the_end_of_the_thread),
    ("a_thread_belongs_to_its_spawners_node", a_thread_belongs_to_its_spawners_node),
    ("random_numbers_differ_and_keep_to_their_bounds", random_numbers_differ_and_keep_to_their_bounds),
];

const RANK: Rank = Rank::new(10, "test");

/// Everything is shared between threads, or may be.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Mutex<u8>>();
    shared::<Condvar>();
    shared::<thread::JoinHandle>();
    shared::<rt::fs::File>();
    shared::<rt::net::Poll>();
    shared::<rt::net::Registry>();
    shared::<rt::net::Waker>();
    shared::<rt::net::TcpPort>();
    shared::<rt::net::TcpListener>();
    shared::<rt::net::TcpStream>();
};

/// A lock and its condition variable, for two threads.
fn shared<T>(value: T) -> Arc<(Mutex<T>, Condvar)> {
    Arc::new((Mutex::new(RANK, value), Condvar::new()))
}

fn time_passes_while_a_thread_sleeps(_: &Path) {
    let before = time::now();
    time::sleep(SHORT);
    assert!(time::now() >= before + SHORT);
}

fn a_lock_keeps_others_out(_: &Path) {
    let counter = Arc::new(Mutex::new(RANK, 0));
    let threads: Vec<_> = (0..3)
        .map(|i| {
            let counter = counter.clone();
            let work = move || {
                for _ in 0..10 {
                    let mut counter = counter.lock();
                    let seen = *counter;
                    // Others want the lock now.
                    time::sleep(Duration::from_micros(100));
                    *counter = seen + 1;
                }
            };
            thread::spawn(&format!("counter{i}"), work).unwrap()
        })
        .collect();
    for thread in threads {
        assert!(thread.join_until(soon()));
    }
    assert_eq!(*counter.lock(), 30);
}

fn try_lock_fails_while_another_holds_the_lock(_: &Path) {
    let lock = Arc::new(Mutex::new(RANK, ()));
    let guard = lock.lock();
    let other = lock.clone();
    let thread = thread::spawn("other", move || assert!(other.try_lock().is_none())).unwrap();
    assert!(thread.join_until(soon()));
    drop(guard);
    assert!(lock.try_lock().is_some());
}

fn a_wait_ends_at_its_deadline(_: &Path) {
    let (lock, never) = &*shared(());
    let deadline = time::now() + SHORT;
    let mut guard = lock.lock();
    // True means woken for nothing.
    while never.wait_until(&mut guard, deadline) {}
    assert!(time::now() >= deadline);
    assert!(!never.wait_until(&mut guard, deadline), "a deadline in the past");
}

fn a_deadline_that_never_comes_is_none(_: &Path) {
    let pair = shared(false);
    let other = pair.clone();
    let waker = thread::spawn("waker", move || {
        time::sleep(SHORT);
        *other.0.lock() = true;
        other.1.notify_one();
    });
    let mut done = pair.0.lock();
    while !*done {
        assert!(pair.1.wait_until(&mut done, time::now() + Duration::MAX));
    }
    drop(done);
    assert!(waker.unwrap().join_until(soon()));
}

fn a_notification_ends_a_wait(_: &Path) {
    let pair = shared(0);
    let other = pair.clone();
    let thread = thread::spawn("ponger", move || {
        let (turn, changed) = &*other;
        for mine in (1..20).step_by(2) {
            let mut turn = turn.lock();
            while *turn != mine {
                changed.wait(&mut turn);
            }
            *turn += 1;
            changed.notify_one();
        }
    });
    let (turn, changed) = &*pair;
    for mine in (0..20).step_by(2) {
        let mut turn = turn.lock();
        while *turn != mine {
            assert!(changed.wait_until(&mut turn, soon()));
        }
        *turn += 1;
        changed.notify_one();
    }
    assert!(thread.unwrap().join_until(soon()));
    assert_eq!(*turn.lock(), 20);
}

fn notify_all_reaches_every_waiter(_: &Path) {
    /// How many wait, and whether they may stop.
    #[derive(Default)]
    struct Gate {
        waiting: u32,
        open: bool,
    }
    let pair = shared(Gate::default());
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let pair = pair.clone();
            let wait = move || {
                let (gate, changed) = &*pair;
                let mut gate = gate.lock();
                gate.waiting += 1;
                changed.notify_all();
                while !gate.open {
                    changed.wait(&mut gate);
                }
            };
            thread::spawn(&format!("waiter{i}"), wait).unwrap()
        })
        .collect();
    let (gate, changed) = &*pair;
    let mut gate = gate.lock();
    while gate.waiting < 4 {
        assert!(changed.wait_until(&mut gate, soon()));
    }
    gate.open = true;
    changed.notify_all();
    drop(gate);
    for thread in threads {
        assert!(thread.join_until(soon()));
    }
}

fn join_waits_for_the_end_of_the_thread(_: &Path) {
    let pair = shared(false);
    let other = pair.clone();
    let thread = thread::spawn("waiter", move || {
        let (stop, changed) = &*other;
        let mut stop = stop.lock();
        while !*stop {
            changed.wait(&mut stop);
        }
    })
    .unwrap();
    assert!(!thread.join_until(time::now() + SHORT), "it still waits");
    *pair.0.lock() = true;
    pair.1.notify_all();
    assert!(thread.join_until(soon()));
    assert!(thread.join_until(time::now()), "asked again, at once");
}

fn a_thread_belongs_to_its_spawners_node(_: &Path) {
    let check = || {
        assert_eq!(Node::current().name(), "n7");
        let inner = thread::spawn("inner", || assert_eq!(Node::current().name(), "n7"));
        assert!(inner.unwrap().join_until(soon()));
        assert_eq!(Node::current().name(), "n7");
    };
    let before = Node::current();
    assert!(Node::new("n7").spawn("outer", check).unwrap().join_until(soon()));
    assert_eq!(Node::current(), before);
}

fn random_numbers_differ_and_keep_to_their_bounds(_: &Path) {
    assert_ne!(random::u64(), random::u64());
    assert_eq!(random::below(0), 0);
    assert_eq!(random::below(1), 0);
    for _ in 0..1000 {
        assert!(random::below(7) < 7);
        assert!(random::duration_below(SHORT) < SHORT);
    }
}
