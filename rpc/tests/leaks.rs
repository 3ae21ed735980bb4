//! What is shut down leaves no thread and no socket. A test binary of its own, because it counts the process's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{ADD, ECHO, PATIENCE, Raw, anywhere, eventually};
use rt::time::now;
use yfs_rpc::{CallError, Client, Options, PollMgr, Procedure, ReplyToken, Server, Status, Workers};

const PARKED: Procedure<(), i32> = Procedure::new(0x501);

fn open(kind: &str) -> usize {
    rt::fs::list(format!("/proc/self/{kind}").as_ref()).unwrap().len()
}

/// A server and clients at work: blocking calls, calls that hang, connections that say nothing.
fn work(shut_down: bool) {
    let ended = Arc::new(AtomicUsize::new(0));
    let cancelled = |ended: &Arc<AtomicUsize>| {
        let ended = ended.clone();
        move |reply| {
            assert_eq!(reply, Err(CallError::Cancel));
            ended.fetch_add(1, Ordering::Relaxed);
        }
    };
    let pollmgr = PollMgr::new().unwrap();
    let server = Server::bind_on(&pollmgr, anywhere(), Options::default()).unwrap();
    server.reg(ADD, |n: i32| (Status::OK, n + 1));
    server.reg_on(Workers::Peers, ECHO, |text: String| (Status::OK, text));
    server.reg_async(PARKED, |(), token: ReplyToken<i32>| {
        // Answered long after everything else is over.
        rt::thread::spawn("late", move || {
            rt::time::sleep(Duration::from_millis(300));
            token.reply(Status::OK, &1);
        })
        .unwrap();
    });
    server.start().unwrap();
    let silent = Raw::connect(server.local_addr());
    let clients: Vec<_> = (0..3).map(|_| Client::new_on(&pollmgr, server.local_addr(), Options::default())).collect();
    for client in &clients {
        assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
        assert_eq!(client.call(ECHO, ("x".into(),), PATIENCE), Ok((0, "x".into())));
        client.call_async(PARKED, (), PATIENCE, cancelled(&ended));
    }
    let unconnected = Client::new_on(&pollmgr, anywhere(), Options::default());
    unconnected.call_async(ADD, (1,), PATIENCE, cancelled(&ended));
    if shut_down {
        let began = now();
        assert!(server.shutdown());
        assert!(began.elapsed() < PATIENCE);
        drop(clients);
    } else {
        drop(clients);
        drop(server);
    }
    drop(unconnected);
    drop(silent);
    drop(pollmgr);
    eventually("all calls end", || ended.load(Ordering::Relaxed) == 4);
}

#[test]
fn nothing_is_left_behind() {
    // Whatever the test harness and the first use of things open.
    work(true);
    eventually("the first round ends", || open("task") <= 2);
    let (threads, descriptors) = (open("task"), open("fd"));
    for round in 0..20 {
        work(round % 2 == 0);
    }
    eventually("the threads end", || open("task") == threads);
    eventually("the sockets are closed", || open("fd") == descriptors);
}
