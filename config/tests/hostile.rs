//! What peers say, true or not, neither stops a node nor makes it wait.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, Node, names, wait_until};
use std::time::Duration;
use tempfile::TempDir;
use yfs_config::{Options, Outcome, Timing, ViewId};
use yfs_paxos::ProposalNumber;
use yfs_paxos::protocol::{ACCEPTREQ, AcceptArg, DECIDEREQ, DecideArg, HEARTBEAT, PREPAREREQ, PrepareArg};
use yfs_rpc::{Client, Handles, PollMgr, Server, Workers};

const SECOND: Duration = Duration::from_secs(10);

fn client(name: &str) -> Client {
    Client::new(([127, 0, 0, 1], name.parse().unwrap()).into(), yfs_rpc::Options::default())
}

#[test]
fn h16_no_peer_s_word_stops_a_node_or_changes_its_view() {
    let cluster = Cluster::new(2, Timing::default());
    let target = &cluster.nodes[0];
    let client = client(&target.name);
    let other = cluster.names[1].clone();
    let before = target.log();
    for src in ["stranger", "", "a b", &"x".repeat(5_000)] {
        for vid in [0, 1, 2, 3, 4, u32::MAX] {
            client.call(HEARTBEAT, (src.to_owned(), vid), SECOND).unwrap();
            let n = ProposalNumber { n: u32::MAX, node: src.to_owned() };
            let (status, res) =
                client.call(PREPAREREQ, (src.to_owned(), PrepareArg { instance: vid, n: n.clone() }), SECOND).unwrap();
            assert!(!res.accept && (status == 1 || res.oldinstance), "{src} {vid}");
            for v in ["", "x", "a a", "stranger ", &"y ".repeat(10_000)] {
                let arg = AcceptArg { instance: vid, n: n.clone(), v: v.to_owned() };
                assert!(!client.call(ACCEPTREQ, (src.to_owned(), arg), SECOND).unwrap().1);
                let arg = DecideArg { instance: vid, v: v.to_owned() };
                client.call(DECIDEREQ, (src.to_owned(), arg), SECOND).unwrap();
            }
        }
    }
    // A member's word counts, but not every one.
    for instance in [2, 4, 1_000, u32::MAX] {
        for v in ["", "x ", "a b c d"] {
            let arg = DecideArg { instance, v: v.to_owned() };
            client.call(DECIDEREQ, (other.clone(), arg), SECOND).unwrap();
        }
        client.call(HEARTBEAT, (other.clone(), instance), SECOND).unwrap();
    }
    assert_eq!((target.config.vid(), target.log()), (ViewId(2), before));
    assert_eq!(target.config.propose_same(), Outcome::Decided);
}

/// Its own vote and its own word count more than all others when it is alone.
#[test]
fn nobody_speaks_in_a_node_s_own_name() {
    let cluster = Cluster::new(1, Timing::default());
    let node = &cluster.nodes[0];
    let (client, me, before) = (client(&node.name), node.name.clone(), node.log());
    let n = ProposalNumber { n: 9, node: me.clone() };
    let v = format!("{me} stranger ");
    let ask = (me.clone(), PrepareArg { instance: 2, n: n.clone() });
    assert_eq!(client.call(PREPAREREQ, ask, SECOND).unwrap().0, 1);
    assert_eq!(
        client.call(ACCEPTREQ, (me.clone(), AcceptArg { instance: 2, n, v: v.clone() }), SECOND),
        Ok((1, false))
    );
    assert_eq!(client.call(DECIDEREQ, (me.clone(), DecideArg { instance: 2, v }), SECOND), Ok((1, 0)));
    assert_eq!((node.config.vid(), node.log()), (ViewId(1), before));
}

#[test]
fn h13_heartbeats_and_isrunning_do_not_wait_for_a_round() {
    // The other member answers pings, and takes as long as it can over prepare.
    let dir = TempDir::new().unwrap();
    let names = names(2);
    let mute = Server::bind(([127, 0, 0, 1], names[1].parse().unwrap()).into(), yfs_rpc::Options::default()).unwrap();
    mute.reg_inline(HEARTBEAT, |_: String, vid: u32| (yfs_rpc::Status::OK, vid.cast_signed()));
    mute.reg_on(Workers::Peers, PREPAREREQ, |_: String, _: PrepareArg| {
        rt::time::sleep(Duration::from_secs(2));
        (yfs_rpc::Status::OK, yfs_paxos::protocol::PrepareRes::default())
    });
    mute.start().unwrap();
    let log = format!("done 1 {0}\ndone 2 {0} {1} \n", names[0], names[1]);
    rt::fs::File::append(&dir.path().join(format!("paxos-{}.log", names[0])))
        .unwrap()
        .write_all(log.as_bytes())
        .unwrap();
    let node = Node::start(&names[0], dir.path(), &Timing::default());
    let client = client(&node.name);
    let mut answered_during_a_round = false;
    for _ in 0..5 {
        let config = node.config.clone();
        let round = rt::thread::spawn("round", move || drop(config.propose_same())).unwrap();
        wait_until("the round runs", || node.config.isrunning());
        let answer = client.call(HEARTBEAT, (names[1].clone(), 2), SECOND);
        answered_during_a_round |= node.config.isrunning() && answer == Ok((0, 2));
        assert!(round.join_until(rt::time::now() + common::PATIENCE));
    }
    assert!(answered_during_a_round, "a round takes a second here");
    node.kill();
    mute.shutdown();
}

#[test]
fn a_new_node_hears_that_somebody_knows_a_view() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(&names(1)[0], dir.path(), &Timing::default());
    assert_eq!(node.config.take_heard_of_view(), None);
    let client = client(&node.name);
    // Who speaks in its own name isn't somebody else.
    assert_eq!(client.call(HEARTBEAT, (node.name.clone(), 7), SECOND), Ok((1, 0)));
    assert_eq!(node.config.take_heard_of_view(), None);
    // It answers, with its own number, which is none.
    assert_eq!(client.call(HEARTBEAT, ("41000".to_owned(), 7), SECOND), Ok((1, 0)));
    assert_eq!(node.config.take_heard_of_view(), Some(("41000".to_owned(), ViewId(7))));
    // Also when it wants to be removed: its disk may be lost, and whoever adds it has to know.
    node.config.ask_removal(true);
    node.config.set_disk_hangs(true);
    assert_eq!(client.call(HEARTBEAT, ("41000".to_owned(), 7), SECOND), Ok((1, 0)));
    let arg = PrepareArg { instance: 9, n: ProposalNumber { n: 1, node: "42000".into() } };
    assert_eq!(client.call(PREPAREREQ, ("42000".to_owned(), arg), SECOND).unwrap().0, 1);
    assert_eq!(node.config.take_heard_of_view(), Some(("42000".to_owned(), ViewId(8))));
    assert!(node.config.is_new());
}

#[test]
fn a_log_in_use_or_damaged_is_a_clear_error() {
    let dir = TempDir::new().unwrap();
    let name = names(1)[0].clone();
    let node = Node::start(&name, dir.path(), &Timing::default());
    let open = || {
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), yfs_rpc::Options::default()).unwrap();
        let handles = Handles::new(&PollMgr::shared(), yfs_rpc::Options::default());
        let options = Options { me: name.clone(), dir: dir.path().to_owned(), timing: Timing::default() };
        let error = yfs_config::Config::new(options, server.clone(), handles, std::sync::Arc::new(|_| ())).err();
        server.shutdown();
        error.map(|e| e.to_string())
    };
    assert!(open().is_some_and(|e| e.contains("in use by another process")));
    node.kill();
    let path = dir.path().join(format!("paxos-{name}.log"));
    let end = rt::fs::read(&path).unwrap().len();
    let record = "done 1 a\n";
    rt::fs::File::append(&path).unwrap().write_all(format!("{record}nonsense\n").as_bytes()).unwrap();
    let error = open().unwrap();
    assert!(error.contains(&format!("damaged at byte {}", end + record.len())), "{error}");
}
