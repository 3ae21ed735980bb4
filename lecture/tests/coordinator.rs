//! The coordinator and its servers, in this process: who is asked for what, and what is done when one is gone.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lecture::coord::{Coord, Options};
use lecture::peers::Peers;
use lecture::protocol::{Ended, LAST, NUMBERED, OPERATION};
use lecture::srv::Srv;
use processes::os::{Port, draw_port};
use rt::net::TcpPort;
use rt::time::now;
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
    running: Option<Coord>,
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
        let coordinator = port.number.to_string();
        let peers = Peers::new(&PollMgr::shared(), "test");
        let mut bank = Bank { servers, coordinator, running: None, _port: port, peers, _folder: folder };
        bank.start_coordinator(alone);
        (0..count).for_each(|at| bank.start(at));
        bank
    }

    /// The one that ran is gone, and another one in its place.
    fn start_coordinator(&mut self, alone: bool) {
        self.running = None;
        let servers = (0..self.servers.len()).map(|at| self.name(at)).collect();
        let options = Options { name: self.coordinator.clone(), servers, alone, test: true };
        self.running = Some(Coord::start(&PollMgr::shared(), options).unwrap());
        // Anew: it has to find the other one.
        self.peers = Peers::new(&PollMgr::shared(), "test");
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
    assert_eq!(bank.executed("deposit alice 5"), "10");
    bank.start(2);
    assert_eq!(bank.executed("deposit alice 5"), "15");
    assert_eq!(bank.last(2), "", "it lacks the first, and takes no other");
    bank.stop(0);
    let why = bank.stopped("read alice");
    assert!(why.contains("operation 4 has 1 of 2 answers") && why.contains(LACKING), "{why}");
}

const LACKING: &str = ": it has 0 operations: stop the servers, copy the longest file over its file, start them again)";

#[test]
fn a_server_that_comes_back_and_lacks_only_the_last_operation_is_sent_it() {
    let mut bank = Bank::new(3, false);
    assert_eq!(bank.executed("deposit alice 5"), "5");
    bank.stop(2);
    assert_eq!(bank.executed("deposit bob 7"), "7");
    bank.start(2);
    assert_eq!(bank.executed("deposit alice 5"), "10");
    assert_eq!(bank.last(2), "3 deposit alice 5 -> 10 | alice 10, bob 7");
    bank.stop(0);
    assert_eq!(bank.executed("read bob"), "7", "it counts");
}

#[test]
fn what_a_coordinator_died_over_the_next_one_finishes() {
    for behind in [0, 1] {
        let mut bank = Bank::new(2, false);
        bank.executed("deposit alice 5");
        // The coordinator reached one of them only.
        assert_eq!(bank.numbered(1 - behind, 2, "withdraw alice 2").0, Ended::Executed);
        bank.start_coordinator(false);
        assert_eq!(bank.executed("deposit bob 1"), "1");
        let last = "3 deposit bob 1 -> 1 | alice 3, bob 1";
        assert_eq!((&*bank.last(0), &*bank.last(1)), (last, last));
    }
}

#[test]
fn a_server_that_lost_its_file_stops_the_next_coordinator_which_says_what_to_do() {
    let mut bank = Bank::new(2, false);
    bank.executed("deposit alice 5");
    bank.executed("deposit alice 5");
    bank.stop(1);
    rt::fs::remove_file(&bank.servers[1].file).unwrap();
    bank.start(1);
    bank.start_coordinator(false);
    let why = format!("stopped: operation 2 has 1 of 2 answers that it needs ({}{LACKING}", bank.name(1));
    assert_eq!((bank.stopped("read alice"), bank.stopped("read alice")), (why.clone(), why));
    (0..2).for_each(|at| bank.stop(at));
    let longest = rt::fs::read(&bank.servers[0].file).unwrap();
    rt::fs::File::append(&bank.servers[1].file).unwrap().write_all(&longest).unwrap();
    (0..2).for_each(|at| bank.start(at));
    assert_eq!(bank.executed("read alice"), "10");
    assert_eq!(bank.last(0), bank.last(1));
}

#[test]
fn servers_that_differ_are_not_served_though_one_lacks_an_operation() {
    let bank = Bank::new(2, false);
    bank.send_to(&bank.name(0), "deposit alice 5");
    bank.send_to(&bank.name(1), "deposit alice 6");
    bank.send_to(&bank.name(1), "read bob");
    let why = bank.stopped("read alice");
    assert!(why.contains("the servers differ: \"2 read bob -> 0 | alice 6\", \"2 read bob -> 0 | alice 5\""), "{why}");
}

#[test]
fn while_it_is_stopped_nobody_waits_behind_another() {
    let mut bank = Bank::new(2, false);
    bank.executed("deposit alice 5");
    bank.stop(1);
    // It takes connections, and answers nothing.
    let address = format!("127.0.0.1:{}", bank.name(1)).parse().unwrap();
    let hangs = TcpPort::bind(address).unwrap().listen().unwrap();
    let (bank, began) = (Arc::new(bank), now());
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let bank = bank.clone();
            rt::thread::spawn("client", move || drop(bank.stopped("deposit alice 1"))).unwrap()
        })
        .collect();
    for client in clients {
        assert!(client.join_until(began + Duration::from_secs(20)));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "as long as a client waits: {took:?}");
    drop(hangs);
    let mut bank = Arc::into_inner(bank).unwrap();
    bank.start(1);
    let balance: u64 = bank.executed("read alice").parse().unwrap();
    assert!((6..=25).contains(&balance), "{balance}");
    assert_eq!(bank.last(0), bank.last(1));
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
