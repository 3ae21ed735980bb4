//! The scheduler does what it says: turns, time, dice, and what befalls nodes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rt::backend::TaskLocals;
use rt::fs::File;
use rt::net::{Interest, Poll, TcpListener, TcpPort, TcpStream, Token};
use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{self, Node};
use rt::time::{self, Instant};
use rt::{fs, process};
use sim::kernel::{Death, Kernel, Report, Schedule};
use sim::world::World;

const RANK: Rank = Rank::new(1, "test");
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Runs a program for at most a day, and ends the run with it.
fn run_under(schedule: Schedule, seed: u64, program: impl FnOnce(&Kernel) + Send + 'static) -> Report {
    let kernel = Kernel::new(seed, schedule, true);
    let world = World::new(kernel.clone());
    world.run(&Node::new("10.0.0.1"), Instant::ZERO + 24 * HOUR, move || {
        program(&kernel);
        kernel.end();
    })
}

/// As [`run_under`], and nothing is found.
fn run(seed: u64, program: impl FnOnce(&Kernel) + Send + 'static) -> Report {
    let report = run_under(Schedule { yields: 512, ..Schedule::default() }, seed, program);
    assert_eq!(report.finding, None);
    report
}

/// What several threads write.
type Log<T> = Arc<Mutex<Vec<T>>>;

fn log<T>() -> Log<T> {
    Arc::new(Mutex::new(RANK, Vec::new()))
}

fn read<T: Clone>(log: &Log<T>) -> Vec<T> {
    log.lock().clone()
}

/// A node whose thread notes its clock, in whole seconds, once a second.
fn clockwork(kernel: &Kernel, name: &str, drift: i64) -> (Node, Log<u64>) {
    let (node, ticks) = (Node::new(name), log());
    kernel.add_node(&node, drift);
    let written = ticks.clone();
    let tick = move || {
        loop {
            written.lock().push(time::now().since_start().as_secs());
            time::sleep(SECOND);
        }
    };
    node.spawn("tick", tick).unwrap();
    (node, ticks)
}

/// A log file, and a request and an answer through polls, after an hour's wait.
fn program() {
    let log = Arc::new((Mutex::new(RANK, File::append(Path::new("log")).unwrap()), Condvar::new()));
    let listener = TcpPort::bind("10.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
    let addr = listener.local_addr().unwrap();
    let server_log = log.clone();
    let server = thread::spawn("serve", move || serve(&listener, &server_log.0)).unwrap();

    let (file, never) = &*log;
    let mut file = file.lock();
    let deadline = time::now() + HOUR;
    while never.wait_until(&mut file, deadline) {}
    note(&mut file, "an hour has passed");
    drop(file);

    let mut poll = Poll::new().unwrap();
    let stream = TcpStream::connect(addr).unwrap();
    poll.registry().register(&stream, Token(1), Interest::BOTH).unwrap();
    let answer = exchange(&mut poll, &stream, b"how late is it?");
    note(&mut log.0.lock(), &String::from_utf8(answer).unwrap());
    assert!(server.join_until(time::now() + HOUR));
}

/// Sends a request, and reads the answer up to the end of the stream.
fn exchange(poll: &mut Poll, stream: &TcpStream, request: &[u8]) -> Vec<u8> {
    let (mut events, mut answer, mut buffer) = (Vec::new(), Vec::new(), [0; 5]);
    poll.poll(&mut events, None).unwrap();
    assert!(events[0].writable && stream.take_error().unwrap().is_none());
    assert_eq!(stream.write(request).unwrap(), request.len());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(_) => poll.poll(&mut events, None).unwrap(),
        }
    }
}

fn serve(listener: &TcpListener, log: &Mutex<File>) {
    let (mut poll, mut events) = (Poll::new().unwrap(), Vec::new());
    poll.registry().register_listener(listener, Token(1)).unwrap();
    poll.poll(&mut events, None).unwrap();
    let (stream, _) = listener.accept().unwrap();
    assert!(stream.wait(Interest::READ, None).unwrap());
    let mut request = [0; 100];
    let length = stream.read(&mut request).unwrap();
    note(&mut log.lock(), std::str::from_utf8(&request[..length]).unwrap());
    stream.write(b"it is late").unwrap();
}

fn note(file: &mut File, what: &str) {
    file.write_all(format!("{}: {what}\n", time::now().since_start().as_secs()).as_bytes()).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn an_hour_costs_no_time_and_a_seed_repeats_its_run() {
    let run = |seed| {
        run(seed, |kernel| {
            program();
            let log = String::from_utf8(fs::read(Path::new("log")).unwrap()).unwrap();
            assert_eq!(log, "3600: an hour has passed\n3600: how late is it?\n3600: it is late\n");
            kernel.note("test", || "the end".to_owned());
        })
    };
    let began = time::now();
    let reports: Vec<_> = (0..20).map(run).collect();
    assert!(began.elapsed() < Duration::from_secs(60));
    for (seed, report) in (0..).zip(&reports) {
        assert!(report.ended_at >= Instant::ZERO + HOUR && report.ended_at < Instant::ZERO + HOUR + SECOND);
        let again = run(seed);
        assert_eq!((report.hash, report.turns, report.ended_at), (again.hash, again.turns, again.ended_at));
        assert_eq!((&report.trace, &report.counts), (&again.trace, &again.counts));
        assert!(report.trace.last().unwrap().ends_with("the end"));
    }
    assert!(reports.iter().any(|report| report.hash != reports[0].hash), "seeds differ");
    assert!(!fs::exists(Path::new("log")).unwrap(), "the operating system has seen nothing of it");
}

#[test]
fn a_node_that_exits_never_runs_again() {
    run(1, |kernel| {
        let deaths = log();
        let told = deaths.clone();
        kernel.on_death(move |node, death| told.lock().push((node.clone(), death.clone())));
        let (node, ticks) = clockwork(kernel, "doomed", 0);
        let doom = || {
            time::sleep(secs(2.5));
            process::exit(3);
        };
        let doomed = node.spawn("doom", doom).unwrap();
        assert!(!doomed.join_until(time::now() + HOUR));
        assert_eq!(*ticks.lock(), [0, 1, 2]);
        assert_eq!(*deaths.lock(), [(node, Death::Exit(3))]);
    });
}

#[test]
fn a_node_may_end_itself_or_another_one() {
    run(1, |kernel| {
        let (node, ticks) = clockwork(kernel, "victim", 0);
        let after = log();
        let (written, itself) = (after.clone(), kernel.clone());
        let suicide = Node::new("suicide");
        kernel.add_node(&suicide, 0);
        let thread = suicide.spawn("main", move || {
            time::sleep(secs(1.5));
            itself.crash(&node);
            itself.crash(&Node::current());
            written.lock().push(());
        });
        assert!(!thread.unwrap().join_until(time::now() + HOUR));
        assert_eq!((read(&ticks), read(&after)), (vec![0, 1], vec![]));
    });
}

#[test]
fn the_dead_are_not_touched() {
    struct Witness(Arc<AtomicU32>);
    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicU32::new(0));
    let seen = drops.clone();
    run(1, move |kernel| {
        let node = Node::new("node");
        let lives = |seconds| {
            let witness = Witness(seen.clone());
            move || {
                let _witness = witness;
                time::sleep(Duration::from_secs(seconds));
            }
        };
        kernel.add_node(&node, 0);
        // One ends by itself, one is crashed, one has never run, and one is there when the run ends.
        node.spawn("ends", lives(1)).unwrap();
        node.spawn("sleeps", lives(10)).unwrap();
        time::sleep(secs(5.0));
        assert_eq!(seen.load(Ordering::Relaxed), 1);
        node.spawn("new", lives(0)).unwrap();
        kernel.crash(&node);
        Node::new("other").spawn("sleeps", lives(1000)).unwrap();
        time::sleep(secs(100.0));
        assert_eq!(seen.load(Ordering::Relaxed), 1);
    });
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn a_paused_node_stands_still_and_its_clock_goes_on() {
    for seed in 0..10 {
        run(seed, |kernel| {
            let (node, ticks) = clockwork(kernel, "paused", 0);
            let (_, others) = clockwork(kernel, "other", 0);
            time::sleep(secs(2.5));
            kernel.pause(&node, secs(10.0));
            // One that is new waits, too, and a thread that somebody wakes.
            let (late, written) = (Arc::new((Mutex::new(RANK, false), Condvar::new())), ticks.clone());
            let waits = late.clone();
            let new = node.spawn("new", move || {
                let mut told = waits.0.lock();
                while !*told {
                    waits.1.wait(&mut told);
                }
                drop(told);
                written.lock().push(1000 + time::now().since_start().as_secs());
            });
            time::sleep(secs(5.0));
            *late.0.lock() = true;
            late.1.notify_all();
            assert!(!new.unwrap().join_until(time::now() + secs(4.0)));
            assert_eq!(*ticks.lock(), [0, 1, 2]);
            time::sleep(secs(2.4));
            let mut after = ticks.lock().split_off(3);
            after.sort_unstable();
            assert_eq!(after, [12, 13, 1012]);
            assert_eq!(*others.lock(), (0..=13).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_paused_node_may_be_crashed_and_start_again() {
    run(1, |kernel| {
        let (node, ticks) = clockwork(kernel, "node", 0);
        time::sleep(secs(1.5));
        kernel.pause(&node, secs(10.0));
        time::sleep(SECOND);
        kernel.crash(&node);
        // Its clock begins anew, and the pause was its former life's.
        let (_, again) = clockwork(kernel, "node", 0);
        time::sleep(secs(2.5));
        assert_eq!((read(&ticks), read(&again)), (vec![0, 1], vec![0, 1, 2]));
    });
}

#[test]
fn a_node_crashes_after_so_many_turns() {
    let mut after = Vec::new();
    for seed in 0..10 {
        let seen = Arc::new(Mutex::new(RANK, 0));
        let place = seen.clone();
        run(seed, move |kernel| {
            let deaths = log();
            let told = deaths.clone();
            kernel.on_death(move |node, death| told.lock().push((node.clone(), death.clone())));
            let (spared, others) = clockwork(kernel, "spared", 0);
            let (node, ticks) = clockwork(kernel, "doomed", 0);
            time::sleep(secs(2.5));
            kernel.crash_after(&spared, 10);
            kernel.crash_after(&node, 10);
            time::sleep(SECOND);
            kernel.spare(&spared);
            time::sleep(secs(20.0));
            assert_eq!(*deaths.lock(), [(node, Death::Crash)]);
            let ticks = read(&ticks);
            assert!((4..14).contains(&ticks.len()) && others.lock().len() > 20, "{ticks:?}");
            *place.lock() = ticks.len();
        });
        after.push(*seen.lock());
    }
    assert!(after.iter().any(|ticks| *ticks != after[0]), "a switch at a lock is a turn, too: {after:?}");
}

#[test]
fn clocks_drift_and_deadlines_are_theirs() {
    run(1, |kernel| {
        time::sleep(secs(100.0));
        for (drift, took) in [(0, 10.0), (100_000, 10.0 / 1.1), (-100_000, 10.0 / 0.9), (37, 10.0 / 1.000_037)] {
            let node = Node::new(&format!("gains {drift}"));
            kernel.add_node(&node, drift);
            let (began, true_time) = (kernel.now(), kernel.clone());
            let thread = node.spawn("sleeps", move || {
                // It has begun a turn ago.
                let started = time::now();
                assert!(started - Instant::ZERO < secs(0.001));
                time::sleep(secs(10.0));
                let slept = time::now() - started;
                assert!(slept >= secs(10.0) && slept < secs(10.001), "{slept:?}");
                let slept = (true_time.now() - began).as_secs_f64();
                assert!((slept - took).abs() < 0.001, "{slept} for {took}");
            });
            assert!(thread.unwrap().join_until(time::now() + secs(20.0)));
        }
    });
}

#[test]
fn waits_may_end_for_no_reason() {
    let report = run_under(Schedule { spurious: 1024, ..Schedule::default() }, 1, |_| {
        let (lock, never) = (Mutex::new(RANK, ()), Condvar::new());
        let (mut guard, began) = (lock.lock(), time::now());
        let mut woken = 0;
        while never.wait_until(&mut guard, began + SECOND) {
            woken += 1;
        }
        assert!(woken > 100, "{woken}");
        assert!(began.elapsed() >= SECOND);
        drop(guard);
        // But nothing that rt promises ends early.
        time::sleep(SECOND);
        assert!(began.elapsed() >= SECOND * 2);
    });
    assert_eq!(report.finding, None);
    assert!(report.counts["fault: spurious wake-up"] > 200);
    let calm = run(1, |_| time::sleep(SECOND));
    assert!(calm.counts.is_empty());
}

#[test]
fn turns_cost_time() {
    let took = |turn, yields| {
        let report = run_under(Schedule { turn, yields, spurious: 0 }, 1, |_| {
            let lock = Mutex::new(RANK, ());
            (0..1000).for_each(|_| drop(lock.lock()));
        });
        (report.turns, report.ended_at.since_start())
    };
    let turn = Duration::from_millis(2);
    assert_eq!(took(turn, 0).0, 1);
    let (turns, time) = took(turn, 1024);
    assert!((1000..1010).contains(&turns), "{turns}");
    assert!(time > secs(0.9) && time < secs(1.1), "{time:?}");
    let (turns, time) = took(turn, 512);
    assert!((450..550).contains(&turns) && time > secs(0.4) && time < secs(0.6), "{turns} {time:?}");
}

#[test]
fn threads_take_turns_where_they_take_locks() {
    let turns = |seed| {
        let order = log();
        let written = order.clone();
        run(seed, move |_| {
            let threads = ["a", "b"].map(|name| {
                let order = written.clone();
                thread::spawn(name, move || (0..4).for_each(|_| order.lock().push(name))).unwrap()
            });
            assert!(threads.iter().all(|thread| thread.join_until(time::now() + HOUR)));
        });
        order.lock().concat()
    };
    assert!((0..20).map(turns).any(|order| order != "aaaabbbb" && order != "bbbbaaaa"));
}

#[test]
fn timers_fire_in_the_order_of_their_time() {
    run(1, |kernel| {
        let fired: Log<(u32, Duration)> = log();
        let start = kernel.now() + SECOND;
        for (number, pause) in [(0, 30), (1, 10), (2, 20), (3, 10), (4, 0), (5, 10)] {
            let (fired, clock) = (fired.clone(), kernel.clone());
            let at = start + Duration::from_millis(pause);
            kernel.at(at, move || fired.lock().push((number, clock.now() - start)));
        }
        let (last, again) = (fired.clone(), kernel.clone());
        // A timer may set another one.
        kernel.after(SECOND * 2, move || again.after(SECOND, move || last.lock().push((6, Duration::ZERO))));
        time::sleep(SECOND * 4);
        let fired = fired.lock();
        assert_eq!(fired.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [4, 1, 3, 5, 2, 0, 6]);
        assert!(fired[..6].is_sorted_by_key(|(_, at)| *at));
        assert!(fired[1].1 >= Duration::from_millis(10) && fired[1].1 < Duration::from_millis(11));
    });
}

#[test]
fn what_is_found_first_ends_the_run() {
    let beats = Arc::new(AtomicU32::new(0));
    let seen = beats.clone();
    let report = run_under(Schedule::default(), 1, move |kernel| {
        thread::spawn("beats", move || {
            loop {
                seen.fetch_add(1, Ordering::Relaxed);
                time::sleep(SECOND);
            }
        })
        .unwrap();
        time::sleep(secs(2.5));
        assert!(!kernel.is_over());
        kernel.find("something is wrong".to_owned());
        assert!(kernel.is_over());
        kernel.find("something else, too".to_owned());
        time::sleep(HOUR);
        unreachable!("the run goes on");
    });
    assert_eq!(report.finding.as_deref(), Some("something is wrong"));
    assert_eq!((beats.load(Ordering::Relaxed), report.ended_at.since_start().as_secs()), (3, 2));
    // The trace says what each thread does.
    let beats = report.trace.iter().find(|line| line.contains("10.0.0.1/beats")).unwrap();
    assert!(beats.contains("waits since "), "{beats}");
}

#[test]
fn threads_that_wait_for_each_other_are_a_finding() {
    let report = run_under(Schedule::default(), 1, |_| {
        let (lock, never) = (Mutex::new(RANK, ()), Condvar::new());
        time::sleep(SECOND);
        never.wait(&mut lock.lock());
    });
    assert_eq!(report.finding.as_deref(), Some("no thread will ever run again"));
    assert_eq!(report.ended_at.since_start().as_secs(), 1);
}

#[test]
fn a_run_beyond_its_limit_is_a_finding() {
    let limited = |program: fn()| {
        let kernel = Kernel::new(1, Schedule { turn: Duration::from_millis(1), yields: 1024, spurious: 0 }, false);
        World::new(kernel).run(&Node::new("main"), Instant::ZERO + SECOND * 10, program)
    };
    let sleeps = limited(|| time::sleep(SECOND * 11));
    // Nobody ever sleeps, and each gives way to the others.
    let spins = limited(|| {
        let lock = Mutex::new(RANK, ());
        loop {
            drop(lock.lock());
        }
    });
    for report in [sleeps, spins] {
        assert_eq!(report.finding.as_deref(), Some("the run isn't over after 10s"));
        assert!(report.ended_at.since_start() < secs(10.1));
    }
}

#[test]
fn a_panic_is_a_finding_that_names_its_thread() {
    let report = run_under(Schedule::default(), 1, |_| {
        let thread = Node::new("10.0.0.7").spawn("panics", || panic!("on purpose, {}", 1)).unwrap();
        thread.join_until(time::now() + HOUR);
    });
    assert_eq!(report.finding.as_deref(), Some("10.0.0.7/panics panicked: on purpose, 1"));
    let report = run_under(Schedule::default(), 1, |_| panic!("on purpose"));
    assert_eq!(report.finding.as_deref(), Some("10.0.0.1/main panicked: on purpose"));
    assert!(rt::backend::current().is_none(), "the operating system is back");
}

#[test]
fn a_destructor_that_blocks_in_a_panic_ends_the_run() {
    struct Sleeper;
    impl Drop for Sleeper {
        fn drop(&mut self) {
            // Not a sleep: that one insists on its deadline.
            let (lock, never) = (Mutex::new(RANK, ()), Condvar::new());
            never.wait(&mut lock.lock());
        }
    }
    let report = run_under(Schedule::default(), 1, |_| {
        let _sleeper = Sleeper;
        panic!("on purpose");
    });
    assert_eq!(report.finding.as_deref(), Some("10.0.0.1/main panicked: on purpose"));
}

#[test]
fn each_thread_has_locals_of_its_own() {
    let (low, high) = (Mutex::new(Rank::new(1, "low"), ()), Mutex::new(Rank::new(2, "high"), ()));
    let held = high.lock();
    let node = Node::current();
    let mut other = TaskLocals::default();
    other.swap();
    // Another thread, as it were: it holds nothing.
    drop(low.lock());
    other.swap();
    assert_eq!(Node::current(), node);
    let unordered = || drop(low.lock());
    let violation = std::panic::catch_unwind(std::panic::AssertUnwindSafe(unordered));
    assert_eq!(violation.is_err(), cfg!(debug_assertions));
    drop(held);
}

#[test]
fn threads_are_of_their_nodes() {
    run(1, |_| {
        let seen = log();
        let written = seen.clone();
        let outer = Node::new("outer").spawn("outer", move || {
            let inner = written.clone();
            let inner = thread::spawn("inner", move || inner.lock().push(Node::current()));
            assert!(inner.unwrap().join_until(time::now() + HOUR));
            written.lock().push(Node::current());
        });
        assert!(outer.unwrap().join_until(time::now() + HOUR));
        assert_eq!(*seen.lock(), [Node::new("outer"), Node::new("outer")]);
        assert_eq!(Node::current(), Node::new("10.0.0.1"));
    });
}
