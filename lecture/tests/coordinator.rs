//! The coordinator and its servers, in this process: who is asked for what, and what is done when one is gone.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::time::Duration;

use lecture::coord::{Coord, Options};
use lecture::peers::Peers;
use lecture::protocol::{Ended, LAST, NUMBERED, OPERATION};
use lecture::srv::Srv;
use processes::os::{Port, draw_port};
use tempfile::TempDir;
use yfs_rpc::PollMgr;

struct Server {
    port: Port,
    file: PathBuf,
    running: Option<Srv>,
}

/// Servers with a coordinator, and one who asks.
struct Bank {
    servers: Vec<Server>,
    coordinator: String,
    _running: Coord,
    _port: Port,
    peers: Peers,
    _folder: TempDir,
}

impl Bank {
    fn new(count: usize, alone: bool) -> Bank {
        let folder = tempfile::tempdir().unwrap();
        let server =
            |at: usize| Server { port: draw_port().unwrap(), file: folder.path().join(at.to_string()), running: None };
        let servers: Vec<Server> = (0..count).map(server).collect();
        let port = draw_port().unwrap();
        let name = port.number.to_string();
        let names = servers.iter().map(|server| server.port.number.to_string()).collect();
        let options = Options { name: name.clone(), servers: names, alone, test: true };
        let running = Coord::start(&PollMgr::shared(), options).unwrap();
        let peers = Peers::new(&PollMgr::shared(), "test");
        let mut bank = Bank { servers, coordinator: name, _running: running, _port: port, peers, _folder: folder };
        (0..count).for_each(|at| bank.start(at));
        bank
    }

    fn name(&self, at: usize) -> String {
        self.servers[at].port.number.to_string()
    }

    fn start(&mut self, at: usize) {
        let name = self.name(at);
        self.servers[at].running = Some(Srv::start(&PollMgr::shared(), &name, &self.servers[at].file).unwrap());
    }

    fn stop(&mut self, at: usize) {
        self.servers[at].running.take().unwrap().shutdown();
    }

    /// Sends an operation to the coordinator.
    fn send(&self, op: &str) -> (Ended, String) {
        self.send_to(&self.coordinator, op)
    }

    fn send_to(&self, name: &str, op: &str) -> (Ended, String) {
        let patience = Duration::from_secs(10);
        let (status, answer) = self.peers.call(name, OPERATION, (op.to_owned(),), patience).unwrap();
        (Ended::from_wire(status).unwrap(), answer)
    }

    fn numbered(&self, at: usize, number: u64, op: &str) -> (Ended, String) {
        let patience = Duration::from_secs(10);
        let (status, answer) = self.peers.call(&self.name(at), NUMBERED, (number, op.to_owned()), patience).unwrap();
        (Ended::from_wire(status).unwrap(), answer)
    }

    fn executed(&self, op: &str) -> String {
        let (status, answer) = self.send(op);
        assert_eq!(status, Ended::Executed, "{op}: {answer}");
        answer
    }

    fn stopped(&self, op: &str) -> String {
        let (status, answer) = self.send(op);
        assert_eq!(status, Ended::Stopped, "{op}: {answer}");
        answer
    }

    /// The last line of a server that runs.
    fn last(&self, at: usize) -> String {
        // Anew: the server may have been started again since.
        let peers = Peers::new(&PollMgr::shared(), "test");
        peers.call(&self.name(at), LAST, (), Duration::from_secs(10)).unwrap().1.1
    }
}

#[test]
fn of_two_servers_both_are_needed_and_what_was_under_way_is_finished_first() {
    let mut bank = Bank::new(2, false);
    assert_eq!(bank.executed("deposit alice 100"), "100");
    bank.stop(1);
    let why = format!("stopped: operation 2 has 1 of 2 answers that it needs ({}: no answer)", bank.name(1));
    assert_eq!(bank.stopped("withdraw alice 30"), why);
    assert_eq!(bank.stopped("read alice"), why, "it is operation 2 that waits, whatever is asked");
    assert_eq!(bank.last(0), "2 withdraw alice 30 -> 70 | alice 70");
    bank.start(1);
    assert_eq!(bank.executed("deposit bob 1"), "1");
    let last = "3 deposit bob 1 -> 1 | alice 70, bob 1";
    assert_eq!((&*bank.last(0), &*bank.last(1)), (last, last));
    // The first to be asked is gone, not the last.
    bank.stop(0);
    bank.stopped("deposit bob 1");
    bank.start(0);
    assert_eq!(bank.executed("read bob"), "2");
    assert_eq!(bank.last(0), bank.last(1));
}

#[test]
fn of_three_servers_two_are_enough_and_who_missed_something_stays_behind() {
    let mut bank = Bank::new(3, false);
    bank.stop(2);
    assert_eq!(bank.executed("deposit alice 5"), "5");
    bank.start(2);
    assert_eq!(bank.executed("deposit alice 5"), "10");
    assert_eq!(bank.last(2), "", "it lacks the first, and takes no other");
    bank.stop(0);
    let why = bank.stopped("read alice");
    assert!(why.contains("operation 3 has 1 of 2 answers") && why.contains("it has 0 operations"), "{why}");
}

#[test]
fn a_coordinator_by_itself_goes_on_with_whom_it_reaches() {
    let mut bank = Bank::new(2, true);
    assert_eq!(bank.executed("deposit alice 5"), "5");
    bank.stop(1);
    assert_eq!(bank.executed("deposit alice 5"), "10");
    bank.start(1);
    assert_eq!(bank.executed("deposit alice 5"), "15");
    assert_eq!(bank.last(1), "1 deposit alice 5 -> 5 | alice 5", "it was taken for dead");
    bank.stop(0);
    let why = bank.stopped("read alice");
    assert!(why.contains("has 0 of 1 answers"), "{why}");
}

#[test]
fn servers_that_differ_are_not_served() {
    let bank = Bank::new(2, false);
    bank.send_to(&bank.name(0), "deposit alice 5");
    bank.send_to(&bank.name(1), "deposit alice 6");
    let why = bank.stopped("read alice");
    assert!(why.contains("the servers differ: \"1 deposit alice") && why.contains("alice 6"), "{why}");
}

#[test]
fn two_coordinators_that_reach_the_same_servers_get_in_each_others_way() {
    let bank = Bank::new(2, false);
    bank.executed("deposit alice 5");
    // Another one, or a client that goes past the coordinator.
    bank.send_to(&bank.name(0), "deposit alice 1");
    let why = bank.stopped("read alice");
    assert!(why.contains("refuses operation 2, read alice: its operation 2 is deposit alice 1"), "{why}");
}

#[test]
fn a_bonus_is_drawn_once_and_what_is_no_operation_is_refused() {
    let bank = Bank::new(2, false);
    let total: u64 = bank.executed("bonus alice").parse().unwrap();
    assert!((1..=20).contains(&total));
    assert_eq!(bank.last(0), format!("1 deposit alice {total} -> {total} | alice {total}"));
    assert_eq!(bank.last(0), bank.last(1));
    let (status, why) = bank.send("burn alice");
    assert!(status == Ended::NoOp && why.contains("is no operation"), "{why}");
}

#[test]
fn a_server_executes_a_number_once_and_none_out_of_turn() {
    let bank = Bank::new(1, false);
    assert_eq!(bank.numbered(0, 2, "deposit alice 5"), (Ended::Lacking, "it has 0 operations".to_owned()));
    assert_eq!(bank.numbered(0, 0, "deposit alice 5").0, Ended::Another);
    for _ in 0..2 {
        assert_eq!(bank.numbered(0, 1, "deposit alice 5"), (Ended::Executed, "5".to_owned()));
    }
    let another = (Ended::Another, "its operation 1 is deposit alice 5".to_owned());
    assert_eq!(bank.numbered(0, 1, "deposit alice 6"), another);
    assert_eq!(bank.numbered(0, 2, "read alice").0, Ended::Executed);
    assert_eq!(bank.numbered(0, 1, "deposit alice 5"), (Ended::Another, "it has 2 operations".to_owned()));
    assert_eq!(bank.numbered(0, u64::MAX, "read alice").0, Ended::Lacking);
    assert_eq!(bank.numbered(0, 3, "bonus alice").1, "refused: a bonus has to be drawn first", "none draws by itself");
}
