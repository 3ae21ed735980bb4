//! States that can't be read: the layout of a marshalled state is each implementation's own.
//!
//! Ours and the lab's can be members of one view as long as their last viewstamps are equal, so that nothing has to be
//! transferred. Where something has, neither may count as in sync, and the view must not go back and forth.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rt::time::now;
use tempfile::TempDir;

use crate::client::StrictClient;
use crate::lab_node::LabNode;
use crate::lock_service::{LabLockClient, client_invoke, client_members};
use crate::wire::{CLIENT_BUSY, Enc, OK, STAT};
use crate::{Ours, eventually, free_port};

/// Long enough for several removals and joins at the lab's cadence.
const WATCHED: Duration = Duration::from_secs(14);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lock_server(first: &str, me: &str, dir: &Path) -> Process {
    let out = std::os::fd::OwnedFd::from(log_file(dir));
    let child = Command::new(env!("CARGO_BIN_EXE_lock_server"))
        .args([first, me])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

#[expect(clippy::disallowed_types, reason = "a child's standard output has to be a file of the operating system")]
fn log_file(dir: &Path) -> std::fs::File {
    std::fs::File::create(dir.join("out")).unwrap()
}

fn log_of(dir: &Path) -> String {
    String::from_utf8_lossy(&rt::fs::read(&dir.join("out")).unwrap()).into_owned()
}

fn log_has(dir: &Path, words: &[&str]) -> bool {
    log_of(dir).lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn ours_says_that_it_cannot_read_a_lab_primarys_state_and_stays_out() {
    let labs = LabNode::first();
    eventually("it serves", || labs.is_in_sync());
    let client = LabLockClient::new(labs.name());
    assert_eq!(client.acquire(1, 0), OK);

    let dir = TempDir::new().unwrap();
    let me = free_port().to_string();
    let process = lock_server(labs.name(), &me, dir.path());
    eventually("it starts", || log_has(dir.path(), &["lock_server started"]));
    eventually("it says so", || log_has(dir.path(), &["ERROR", "state", "can't be read"]));
    eventually("it is removed", || labs.view().1.len() == 1);
    let removed = labs.view().0;
    let deadline = now() + WATCHED;
    while now() < deadline {
        assert_eq!(labs.transfers_done(), 0, "it never counts as in sync");
        rt::time::sleep(Duration::from_millis(20));
    }
    assert!(labs.view().0 <= removed + 2, "the view goes back and forth: {:?}", labs.view());
    assert!(log_of(dir.path()).len() < 100_000, "it says so again and again");
    // It can still be asked, and the service goes on.
    let (_, primary) = client_members(&StrictClient::bound(&me));
    assert_eq!(primary, labs.name());
    eventually("the lab's node serves", || client_invoke(&client.rsm, STAT, Enc::new().u64(1)).0 != CLIENT_BUSY);
    assert_eq!(client.release(1, 0), OK);
    drop(process);
}

#[test]
fn a_lab_node_is_not_handed_our_state() {
    let ours = Ours::service(2);
    let client = LabLockClient::new(ours.name(0));
    assert_eq!(client.acquire(1, 0), OK);
    let before = ours.view(0);
    // It panics if it is given a state that isn't of its own kind.
    let labs = LabNode::joining(ours.name(0));
    let deadline = now() + WATCHED / 2;
    while now() < deadline {
        assert!(!labs.is_in_sync(), "it can't be");
        assert_eq!(client.acquire(1, 0), OK, "the service goes on");
        rt::time::sleep(Duration::from_millis(50));
    }
    assert_eq!(ours.view(0), before);
}
