//! A second backend takes the operating system's place: everything that rt offers runs under it, on one OS thread, in
//! virtual time, and the same way each time.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../conformance/mod.rs"]
mod conformance;
mod engine;
mod files;
mod net;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use rt::backend::TaskLocals;
use rt::fs::File;
use rt::net::{Interest, Poll, TcpListener, TcpPort, TcpStream, Token};
use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{self, Node};
use rt::time::{self, Instant};
use rt::{fs, process};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn conforms() {
    for (name, check) in conformance::checks() {
        for seed in 0..20 {
            println!("{name}, seed {seed}");
            Engine::run(seed, move || {
                let folder = Path::new("work");
                fs::create_dir_all(folder).unwrap();
                check(folder);
            });
        }
    }
}

/// Two threads; a time-out of an hour; a request and an answer through polls; a log.
fn program() {
    let log = Arc::new((Mutex::new(Rank::new(1, "log"), File::append(Path::new("log")).unwrap()), Condvar::new()));
    let listener = TcpPort::bind("10.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
    let addr = listener.local_addr().unwrap();
    let server_log = log.clone();
    let server = Node::new("server").spawn("serve", move || serve(&listener, &server_log.0)).unwrap();

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
    stream.write(format!("{:?}", time::now()).as_bytes()).unwrap();
}

fn note(file: &mut File, what: &str) {
    file.write_all(format!("{:?} {}: {what}\n", time::now(), Node::current().name()).as_bytes()).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn an_hour_costs_no_time_and_a_seed_repeats_its_run() {
    let run = |seed| {
        Engine::run(seed, || {
            program();
            let log = String::from_utf8(fs::read(Path::new("log")).unwrap()).unwrap();
            let expected = "t+3600s main: an hour has passed\n\
                            t+3600s server: how late is it?\n\
                            t+3600s main: t+3600s\n";
            assert_eq!(log, expected);
        })
    };
    let began = time::now();
    let reports: Vec<_> = (0..20).map(run).collect();
    assert!(time::now() - began < Duration::from_secs(60));
    for (seed, report) in (0..).zip(&reports) {
        assert_eq!(report.ended_at, Instant::ZERO + HOUR);
        assert_eq!(report.trace, run(seed).trace, "seed {seed}");
    }
    assert!(reports.iter().any(|report| report.trace != reports[0].trace), "seeds differ");
    assert!(!fs::exists(Path::new("log")).unwrap(), "the operating system has seen nothing of it");
}

#[test]
fn a_node_that_exits_never_runs_again() {
    let lock = Rank::new(1, "test");
    let report = Engine::run(1, move || {
        let beats = Arc::new(Mutex::new(lock, 0));
        let node = Node::new("doomed");
        let heart = beats.clone();
        let beating = node.spawn("heart", move || {
            loop {
                *heart.lock() += 1;
                time::sleep(Duration::from_secs(1));
            }
        });
        let doom = || {
            time::sleep(Duration::from_millis(2500));
            process::exit(3);
        };
        node.spawn("doom", doom).unwrap();
        assert!(!beating.unwrap().join_until(time::now() + HOUR));
        assert_eq!(*beats.lock(), 3);
    });
    assert_eq!(report.dead, [(Node::new("doomed"), 3)]);
}

#[test]
fn threads_take_turns_where_they_take_locks() {
    let turns = |seed| {
        let order = Arc::new(Mutex::new(Rank::new(1, "test"), String::new()));
        let written = order.clone();
        Engine::run(seed, move || {
            let threads = ["a", "b"].map(|name| {
                let order = written.clone();
                thread::spawn(name, move || (0..4).for_each(|_| order.lock().push_str(name))).unwrap()
            });
            assert!(threads.iter().all(|thread| thread.join_until(time::now() + HOUR)));
        });
        Arc::into_inner(order).unwrap().into_inner()
    };
    assert!((0..20).map(turns).any(|order| order != "aaaabbbb" && order != "bbbbaaaa"));
}

#[test]
fn a_panic_reaches_the_backend() {
    let run = || {
        Engine::run(1, || {
            let thread = thread::spawn("panics", || panic!("on purpose")).unwrap();
            thread.join_until(time::now() + HOUR);
        })
    };
    let panic = std::panic::catch_unwind(run).err().unwrap();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
    assert!(rt::backend::current().is_none(), "the operating system is back");
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
