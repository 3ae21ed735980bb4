//! The operating system's backend: what every backend must do, and what only this one does.
#![allow(clippy::unwrap_used, reason = "tests")]

mod conformance;

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use rt::net::{Interest, TcpListener, TcpPort, TcpStream};
use rt::sync::{Condvar, Mutex, MutexGuard, Rank};
use rt::thread;
use rt::time::{self, Instant};
use rt::{fs, process};

fn soon() -> Instant {
    time::now() + Duration::from_secs(20)
}

#[test]
fn conforms() {
    for (name, check) in conformance::checks() {
        println!("{name}");
        check(tempfile::tempdir().unwrap().path());
    }
}

// Locks.

const LOW: Rank = Rank::new(1, "low");
const HIGH: Rank = Rank::new(2, "high");

/// Whether `work` panics because of the order in which it takes locks, which only debug builds check.
fn violates_order(work: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => false,
        Err(panic) => {
            assert!(panic.downcast_ref::<String>().unwrap().starts_with("lock order: "));
            true
        }
    }
}

#[test]
fn locks_are_taken_in_the_order_of_their_ranks() {
    let (low, high) = (Mutex::new(LOW, 0), Mutex::new(HIGH, 0));
    let (same, changed) = (Mutex::new(HIGH, 0), Condvar::new());
    assert!(!violates_order(|| drop((low.lock(), high.lock()))));
    assert_eq!(violates_order(|| drop((high.lock(), low.lock()))), cfg!(debug_assertions));
    assert_eq!(violates_order(|| drop((high.lock(), same.lock()))), cfg!(debug_assertions));
    // try_lock can't wait for anybody.
    assert!(!violates_order(|| drop((high.lock(), low.try_lock().unwrap()))));
    // The panics have given all locks back, ranks included.
    assert!(!violates_order(|| drop((low.lock(), high.lock(), same.try_lock().unwrap()))));

    let wait = |mut guard: MutexGuard<'_, i32>| drop((changed.wait_until(&mut guard, time::now()), guard));
    assert!(!violates_order(|| {
        let _low = low.lock();
        wait(high.lock());
    }));
    // It would take the low lock again while it holds the high one.
    let waits_for_low = || {
        let low = low.lock();
        let _high = high.lock();
        wait(low);
    };
    assert_eq!(violates_order(waits_for_low), cfg!(debug_assertions));
}

#[test]
fn locks_hold_what_is_unsized_and_may_be_static() {
    static COUNTER: Mutex<u32> = Mutex::new(LOW, 0);
    *COUNTER.lock() += 1;
    assert_eq!(*COUNTER.lock(), 1);
    let boxed: Box<Mutex<dyn Fn() -> u32 + Send>> = Box::new(Mutex::new(LOW, || 7));
    assert_eq!((boxed.lock())(), 7);
    assert_eq!(format!("{boxed:?}"), "Mutex(low)");
    assert_eq!(Mutex::new(LOW, 5).into_inner(), 5);
}

// Sockets.

fn pair() -> (TcpStream, TcpStream, TcpListener) {
    let listener = TcpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(client.wait(Interest::WRITE, Some(soon())).unwrap());
    let deadline = soon();
    loop {
        match listener.accept() {
            Ok((server, _)) => return (client, server, listener),
            Err(e) => assert!(time::now() < deadline, "{e}"),
        }
    }
}

#[test]
fn the_port_of_an_outgoing_connection_can_be_listened_on() {
    let (client, server, _listener) = pair();
    let addr = client.local_addr().unwrap();
    let while_connected = TcpPort::bind(addr).unwrap().listen().unwrap();
    drop(while_connected);
    // Who closes first is left in TIME_WAIT.
    drop(client);
    assert!(server.wait(Interest::READ, Some(soon())).unwrap());
    drop(server);
    TcpPort::bind(addr).unwrap().listen().unwrap();
}

#[test]
fn the_port_of_a_listener_that_is_gone_can_be_listened_on() {
    let (client, server, listener) = pair();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let while_connected = TcpPort::bind(addr).unwrap().listen().unwrap();
    drop(while_connected);
    drop(server);
    assert!(client.wait(Interest::READ, Some(soon())).unwrap());
    drop(client);
    TcpPort::bind(addr).unwrap().listen().unwrap();
}

#[test]
fn any_number_of_buffers_is_written() {
    let (client, server, _listener) = pair();
    let buffers = vec![IoSlice::new(b"x"); 5000];
    let written = client.write_vectored(&buffers).unwrap();
    assert!(written > 0);
    assert!(server.wait(Interest::READ, Some(soon())).unwrap());
    assert!(server.read(&mut [0; 5000]).unwrap() > 0);
}

// The process.

#[test]
fn the_file_limit_is_raised_to_what_is_allowed() {
    let before = process::file_limit();
    let raised = process::raise_file_limit();
    assert!(raised >= before);
    assert_eq!(process::file_limit(), raised);
    assert_eq!(process::raise_file_limit(), raised);
}

#[test]
fn the_working_directory_has_an_empty_name() {
    let empty = std::path::Path::new("");
    fs::sync_dir(empty).unwrap();
    assert!(fs::list(empty).unwrap().iter().any(|name| name == "Cargo.toml"));
}

/// Runs the test `name` again, in a process of its own that may die of it. True in that process.
fn in_a_child(name: &str, expected: i32) -> bool {
    const CHILD: &str = "RT_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let child = Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(CHILD, "1").output();
    assert_eq!(child.unwrap().status.code(), Some(expected));
    false
}

#[test]
fn a_panic_on_a_spawned_thread_ends_the_process() {
    if in_a_child("a_panic_on_a_spawned_thread_ends_the_process", 101) {
        let thread = thread::spawn("panics", || panic!("on purpose")).unwrap();
        thread.join_until(soon());
        process::exit(0);
    }
}

#[test]
fn exit_ends_the_process_from_any_thread() {
    if in_a_child("exit_ends_the_process_from_any_thread", 7) {
        let thread = thread::spawn("exits", || process::exit(7)).unwrap();
        thread.join_until(soon());
        process::exit(0);
    }
}

#[test]
fn a_file_knows_whether_it_has_its_name_still() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("a"), folder.path().join("b"));
    let file = fs::File::create_new(&path).unwrap();
    assert!(file.is_at(&path).unwrap() && !file.is_at(&other).unwrap());
    fs::rename(&path, &other).unwrap();
    assert!(!file.is_at(&path).unwrap() && file.is_at(&other).unwrap());
    drop(fs::File::create_new(&path).unwrap());
    fs::rename(&path, &other).unwrap();
    assert!(!file.is_at(&other).unwrap());
}

/// Runs the test `name` again in a process of its own, with one of the shell's limits. It finds `value` in `variable`.
fn with_a_limit(limit: &str, name: &str, variable: &str, value: &std::path::Path) {
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$0\" --exact \"$1\"")])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(variable, value)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Without the program's own word the process would be killed.
#[test]
fn a_write_beyond_the_limit_of_a_files_size_is_an_error() {
    let of_child = "RT_TEST_FILE_SIZE";
    if let Some(path) = std::env::var_os(of_child) {
        process::outlive_file_size_limit();
        let mut file = fs::File::append(path.as_ref()).unwrap();
        file.write_all(&[0; 4096]).unwrap();
        let error = file.write_all(&[0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "a_write_beyond_the_limit_of_a_files_size_is_an_error";
    with_a_limit("-f 64", test, of_child, &folder.path().join("file"));
}

/// Nobody who connects, or is connected to, keeps a node from writing its files.
#[test]
fn connections_leave_descriptors_to_files() {
    let of_child = "RT_TEST_DESCRIPTORS";
    if let Some(folder) = std::env::var_os(of_child) {
        let listener = TcpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections = Vec::new();
        let error = loop {
            match TcpStream::connect(addr) {
                Ok(connection) => connections.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!((error.raw_os_error(), connections.len() > 30), (Some(libc::EMFILE), true));
        assert_eq!(listener.accept().err().unwrap().raw_os_error(), error.raw_os_error());
        let path = |n: usize| std::path::Path::new(&folder).join(n.to_string());
        let files: Vec<_> = (0..8).map(|n| fs::File::create_new(&path(n)).unwrap()).collect();
        // The connection that waits is taken when there is room.
        connections.truncate(20);
        drop(files);
        assert!(listener.accept().is_ok());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    with_a_limit("-n 64", "connections_leave_descriptors_to_files", of_child, folder.path());
}
