//! Our clients and testers against servers of the lab.

use std::process::{Command, Output};
use std::sync::Arc;

use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};

use crate::PATIENCE;
use crate::lab_node::LabNode;
use crate::lock_service::LabLockService;

fn connect(name: &str) -> Arc<LockClient> {
    let options = LockClientOptions { patience: PATIENCE, ..LockClientOptions::default() };
    Arc::new(LockClient::connect(&[name.to_owned()], options).unwrap())
}

#[test]
fn our_lock_client_and_a_lab_lock_server() {
    let service = LabLockService::start(2);
    let (one, two) = (connect(&service.server.name()), connect(&service.server.name()));
    one.acquire(1).unwrap();
    let waiting = two.clone();
    let waiter = rt::thread::spawn("waiter", move || waiting.acquire(1).unwrap()).unwrap();
    crate::eventually("two is sent to the queue", || service.granted(1) == 1);
    one.release(1).unwrap();
    assert!(waiter.join_until(rt::time::now() + PATIENCE));
    // Cached: no second grant.
    two.release(1).unwrap();
    two.acquire(1).unwrap();
    assert_eq!(two.stat(1).unwrap(), 2);
    service.server.break_connections();
    one.acquire(2).unwrap();
    one.release(2).unwrap();
    two.release(1).unwrap();
    assert_eq!((service.granted(1), service.granted(2)), (2, 1));
}

fn run(program: &str, args: &[&str]) -> (Output, String) {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn lock_tester_and_a_lab_lock_server() {
    let service = LabLockService::start(1);
    for test in ["1", "3", "5"] {
        let (output, text) = run(env!("CARGO_BIN_EXE_lock_tester"), &[&service.server.name(), test]);
        assert!(output.status.success(), "{output:?}");
        assert!(text.lines().last().unwrap().contains("passed all tests successfully"), "{text}");
    }
}

#[test]
fn lock_tester_and_a_lab_node() {
    let labs = LabNode::first();
    let (output, text) = run(env!("CARGO_BIN_EXE_lock_tester"), &[labs.name(), "1"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text.lines().last().unwrap().contains("passed all tests successfully"), "{text}");
}
