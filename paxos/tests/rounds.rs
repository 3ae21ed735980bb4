//! Rounds over real connections.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{now, sleep};
use tempfile::TempDir;
use yfs_paxos::protocol::{ACCEPTREQ, AcceptArg, PREPAREREQ, PrepareArg};
use yfs_paxos::{Acceptor, Instance, OnFatal, Outcome, PaxosChange, ProposalNumber, Proposer, Value};
use yfs_rpc::{Handles, PollMgr, Server};

const PATIENCE: Duration = Duration::from_secs(60);

struct Views(Mutex<Vec<(Instance, String)>>);

impl PaxosChange for Views {
    fn paxos_commit(&self, instance: Instance, value: &Value) {
        self.0.lock().push((instance, value.to_string()));
    }
}

struct Node {
    name: String,
    acceptor: Arc<Acceptor>,
    proposer: Proposer,
    handles: Handles,
    server: Server,
    views: Arc<Views>,
}

/// Binds servers, whose ports are the names.
fn bind(count: usize) -> Vec<Server> {
    let mut servers: Vec<Server> = (0..count)
        .map(|_| Server::bind("127.0.0.1:0".parse().unwrap(), yfs_rpc::Options::default()).unwrap())
        .collect();
    servers.sort_by_key(|server| server.local_addr().port());
    servers
}

fn start(server: Server, dir: &Path, log: &str) -> Node {
    let name = server.local_addr().port().to_string();
    let handles = Handles::new(&PollMgr::shared(), yfs_rpc::Options::default());
    let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
    let acceptor = Acceptor::open(dir, &name, on_fatal).unwrap();
    if acceptor.is_new() {
        acceptor.restore(log, None).unwrap();
    }
    let views = Arc::new(Views(Mutex::new(Rank::new(20, "test"), Vec::new())));
    let change: Weak<dyn PaxosChange> = Arc::downgrade(&views) as Weak<dyn PaxosChange>;
    acceptor.set_change(change);
    acceptor.register(&server);
    server.start().unwrap();
    let proposer = Proposer::new(acceptor.clone(), handles.clone());
    Node { name, acceptor, proposer, handles, server, views }
}

/// Nodes that all know one view, of all of them.
fn nodes(count: usize, dir: &Path) -> (Vec<Node>, Value) {
    let servers = bind(count);
    let names: Vec<String> = servers.iter().map(|server| server.local_addr().port().to_string()).collect();
    let view = Value::of(&names).unwrap();
    let log = format!("done 5 {}\n", view.as_str());
    (servers.into_iter().map(|server| start(server, dir, &log)).collect(), view)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_round_decides_the_proposed_value_at_all_members() {
    let dir = TempDir::new().unwrap();
    let (nodes, view) = nodes(3, dir.path());
    let next = view.with("99999").unwrap();
    assert_eq!(nodes[0].proposer.run(6, &view, &next), Outcome::Decided);
    for node in &nodes {
        wait_until("all know it", || *node.views.0.lock() == [(6, next.to_string())]);
    }
    // Again, for an instance that is decided, and for one that can't be run yet, and a value that can't follow.
    assert_eq!(nodes[1].proposer.run(6, &view, &view), Outcome::Old);
    assert_eq!(nodes[1].proposer.run(8, &next, &next), Outcome::Impossible);
    assert_eq!(nodes[1].proposer.run(7, &view, &view), Outcome::Impossible);
    assert_eq!(nodes[1].proposer.run(7, &next, &Value::of(&["x"]).unwrap()), Outcome::Impossible);
    assert_eq!(nodes[1].proposer.run(7, &next, &view), Outcome::Decided, "three of four are a majority");
}

#[test]
fn the_log_of_a_round_is_the_lab_s() {
    let dir = TempDir::new().unwrap();
    let (nodes, view) = nodes(1, dir.path());
    let me = &nodes[0].name;
    let next = view.with("99999").unwrap();
    assert_eq!(nodes[0].proposer.run(6, &view, &next), Outcome::Decided);
    let expected = format!("done 5 {me} \npropseen 1 {me}\naccepted 1 {me} {me} 99999 \ndone 6 {me} 99999 \n");
    assert_eq!(nodes[0].acceptor.dump(), expected);
}

#[test]
fn an_accepted_value_of_a_dead_proposer_is_finished_by_the_next_round() {
    // Scenarios 6 and 7: the first dies after a majority has accepted and before anybody has heard decide.
    let dir = TempDir::new().unwrap();
    let (mut nodes, view) = nodes(4, dir.path());
    let (first, last) = (nodes[0].name.clone(), nodes[3].name.clone());
    let chosen = view.without(&last).unwrap();
    let n = ProposalNumber { n: 1, node: first.clone() };
    nodes.remove(0).server.shutdown();
    for node in &nodes[..2] {
        let client = nodes[0].handles.client(&node.name).unwrap();
        let arg = PrepareArg { instance: 6, n: n.clone() };
        assert!(client.call(PREPAREREQ, (first.clone(), arg), PATIENCE).unwrap().1.accept);
        let arg = AcceptArg { instance: 6, n: n.clone(), v: chosen.as_str().to_owned() };
        assert_eq!(client.call(ACCEPTREQ, (first.clone(), arg), PATIENCE), Ok((0, true)));
    }
    // All three that are left crash and come back: what they accepted is on their disks.
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    for node in nodes.drain(..) {
        node.handles.clear();
        node.server.shutdown();
    }
    for name in &names {
        let addr = ([127, 0, 0, 1], name.parse().unwrap()).into();
        let server = Server::bind(addr, yfs_rpc::Options::default()).unwrap();
        nodes.push(start(server, dir.path(), ""));
    }
    // The one that never heard of the value wants another; it finishes this one, which doesn't name it.
    let wanted = view.without(&first).unwrap();
    let deadline = now() + PATIENCE;
    let mut outcome = Outcome::NoMajority;
    while !outcome.is_decided() && now() < deadline {
        outcome = nodes[2].proposer.run(6, &view, &wanted);
    }
    assert_eq!(outcome, Outcome::Inherited(chosen.clone()));
    for node in &nodes {
        wait_until("all know it", || node.acceptor.value(6).as_ref() == Some(&chosen));
    }
    // It isn't a member any more.
    assert_eq!(nodes[2].proposer.run(7, &chosen, &chosen), Outcome::Impossible);
    assert_eq!(nodes[0].proposer.run(7, &chosen, &chosen.without(&first).unwrap()), Outcome::Decided);
}

#[test]
fn a_node_that_is_behind_learns_by_proposing() {
    let dir = TempDir::new().unwrap();
    let (nodes, view) = nodes(3, dir.path());
    let next = view.without(&nodes[2].name).unwrap();
    for node in &nodes[..2] {
        assert!(node.acceptor.commit(6, next.as_str()));
    }
    assert_eq!(nodes[2].proposer.run(6, &view, &view), Outcome::Old);
    assert_eq!(nodes[2].acceptor.value(6), Some(next));
    assert_eq!(nodes[2].views.0.lock().len(), 1, "and told its owner");
}

#[test]
fn a_rejected_number_is_doubled() {
    // L2: another proposer has counted far.
    let dir = TempDir::new().unwrap();
    let (nodes, view) = nodes(3, dir.path());
    for (node, other) in [(&nodes[1], &nodes[2]), (&nodes[2], &nodes[1])] {
        let client = nodes[0].handles.client(&node.name).unwrap();
        let arg = PrepareArg { instance: 6, n: ProposalNumber { n: 100_000, node: other.name.clone() } };
        assert!(client.call(PREPAREREQ, (other.name.clone(), arg), PATIENCE).unwrap().1.accept);
    }
    let rounds = (1..100).find(|_| nodes[0].proposer.run(6, &view, &view) == Outcome::Decided);
    assert!(rounds.is_some_and(|rounds| rounds <= 20), "{rounds:?}");
}

#[test]
fn without_a_majority_nothing_is_decided() {
    let dir = TempDir::new().unwrap();
    let (mut nodes, view) = nodes(4, dir.path());
    for node in nodes.drain(2..) {
        node.server.shutdown();
    }
    let next = view.without(view.members().last().unwrap()).unwrap();
    assert_eq!(nodes[0].proposer.run(6, &view, &next), Outcome::NoMajority);
    assert!(!nodes[0].proposer.isrunning());
    assert_eq!((nodes[0].acceptor.instance(), nodes[1].acceptor.instance()), (5, 5));
}

#[test]
fn many_proposers_at_once_decide_one_value_an_instance() {
    let dir = TempDir::new().unwrap();
    let (nodes, view) = nodes(3, dir.path());
    let nodes = Arc::new(nodes);
    let threads: Vec<_> = (0..3)
        .map(|at| {
            let (nodes, view) = (nodes.clone(), view.clone());
            let body = move || {
                let node = &nodes[at];
                let deadline = now() + PATIENCE;
                while node.acceptor.instance() < 15 && now() < deadline {
                    let last = node.acceptor.instance();
                    let Some(current) = node.acceptor.value(last) else { return };
                    // Two by turns add and remove the same name; the third wants no change.
                    let wanted = match at {
                        0 => current.with("99999").or_else(|_| current.without("99999")).unwrap(),
                        1 => view.clone(),
                        _ => current.clone(),
                    };
                    if !node.proposer.run(last + 1, &current, &wanted).is_decided() {
                        sleep(rt::random::duration_below(Duration::from_millis(20)));
                    }
                }
            };
            rt::thread::spawn("proposer", body).unwrap()
        })
        .collect();
    assert!(threads.iter().all(|thread| thread.join_until(now() + PATIENCE * 2)));
    wait_until("all are there", || nodes.iter().all(|node| node.acceptor.instance() >= 15));
    for instance in 6..=15 {
        let values: Vec<_> = nodes.iter().map(|node| node.acceptor.value(instance)).collect();
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "instance {instance}: {values:?}");
    }
    for node in nodes.iter() {
        let told: Vec<Instance> = node.views.0.lock().iter().map(|(instance, _)| *instance).collect();
        assert!(told.iter().copied().eq(6..6 + told.len() as u32), "{told:?}");
    }
}
