//! Peers that lie, against a whole service with honest clients beside: nothing stops, no view changes, no lock is held
//! twice. (What single bytes do to a server is tested with the RPC runtime.)

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rt::time::now;
use tempfile::TempDir;
use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rpc::marshall::encode;
use yfs_rpc::pdu::Verbatim;
use yfs_rpc::{CallError, Client, Procedure, names};
use yfs_rsm::Options;

const PATIENCE: Duration = Duration::from_secs(60);
/// Every procedure that a node serves to clients and to other nodes, and some that nobody does.
const PROCEDURES: [u32; 16] = [
    2,
    0x7001,
    0x8001,
    0x9001,
    0x9002,
    0x10001,
    0x10002,
    0x10003,
    0x10004,
    0x11001,
    0x11002,
    0x11003,
    0x11004,
    0x12001,
    0x12002,
    0xffff_ffff,
];

/// Three nodes, two honest clients that take a lock in turn, and what `hostile` does to each node meanwhile.
fn beside_honest_clients(hostile: impl Fn(&Client, &[String], u32)) {
    let dir = TempDir::new().unwrap();
    let mut nodes: Vec<LockServer> = Vec::new();
    for count in 1..=3 {
        let first = nodes.first().map_or("0".to_owned(), |node| node.rsm().me().to_owned());
        let options = Options { dir: dir.path().to_owned(), ..Options::new(&first, "0") };
        nodes.push(LockServer::start(options).unwrap());
        eventually("all nodes are in the view", || nodes.iter().all(|node| node.rsm().view().1.len() == count));
    }
    let members: Vec<String> = nodes.iter().map(|node| node.rsm().me().to_owned()).collect();
    let before = nodes[0].rsm().view();
    let stop = Arc::new(AtomicBool::new(false));
    let holders = Arc::new(AtomicUsize::new(0));
    let turns = Arc::new(AtomicUsize::new(0));
    let honest: Vec<_> = (0..2)
        .map(|_| {
            let client = LockClient::connect(&members, LockClientOptions::default()).unwrap();
            let (stop, holders, turns) = (stop.clone(), holders.clone(), turns.clone());
            rt::thread::spawn("honest", move || {
                while !stop.load(Ordering::SeqCst) {
                    let guard = client.lock(1).unwrap();
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "held twice");
                    holders.fetch_sub(1, Ordering::SeqCst);
                    turns.fetch_add(1, Ordering::SeqCst);
                    drop(guard);
                }
            })
            .unwrap()
        })
        .collect();
    for name in &members {
        let client = Client::new(names::resolve(name).unwrap(), yfs_rpc::Options::default());
        hostile(&client, &members, before.0);
    }
    let reached = turns.load(Ordering::SeqCst);
    eventually("the honest clients go on", || turns.load(Ordering::SeqCst) > reached + 10);
    stop.store(true, Ordering::SeqCst);
    assert!(honest.iter().all(|thread| thread.join_until(now() + PATIENCE)));
    assert!(nodes.iter().all(|node| node.rsm().view() == before), "no view has changed");
    let state = |node: &LockServer| node.rsm().inspect(yfs_lock::lock_table::LockTable::marshal);
    eventually("all states are equal", || nodes.iter().all(|node| state(node) == state(&nodes[0])));
    for node in &nodes {
        node.shutdown();
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "{what}");
        rt::time::sleep(Duration::from_millis(5));
    }
}

/// Calls a procedure with arguments of the caller's making; the status, or the error.
fn call(client: &Client, procedure: u32, args: &[u8]) -> Result<i32, CallError> {
    // The result is of no interest: as bytes to the end it can't be wrong.
    struct Rest;
    impl yfs_rpc::marshall::Unmarshal for Rest {
        fn unmarshal(
            input: &mut yfs_rpc::marshall::Unmarshaller<'_>,
        ) -> Result<Self, yfs_rpc::marshall::UnmarshalError> {
            input.take(input.remaining()).map(|_| Rest)
        }
    }
    let procedure: Procedure<Verbatim<'_>, Rest> = Procedure::new(procedure);
    client.call(procedure, Verbatim(args), PATIENCE).map(|(status, _)| status)
}

#[test]
fn h15_requests_that_make_no_sense_stop_neither_node_nor_client() {
    beside_honest_clients(|client, _, _| {
        for procedure in PROCEDURES {
            for args in [&[][..], &[0], &[0xff; 3], &[0xff; 64], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xf0]] {
                let answer = call(client, procedure, args);
                assert_eq!(answer, Err(CallError::UnmarshalArgs), "{procedure:#x} {args:?}");
            }
            call(client, procedure, &[0; 100_000]).unwrap_err();
        }
    });
}

#[test]
fn h16_surprising_decides_and_heartbeats_of_strangers_stop_neither_node_nor_client() {
    beside_honest_clients(|client, members, vid| {
        let view: String = members.iter().map(|name| format!("{name} ")).collect();
        for src in ["1", "", "a b", "127.0.0.1:1", "\u{0}"] {
            for instance in [0, 1, vid, vid + 1, vid + 2, 1 << 31, u32::MAX] {
                for value in ["", " ", "1 ", "x x ", view.as_str(), &view.repeat(1000)] {
                    let n = (u32::MAX, src.to_owned());
                    let _ = call(client, 0x11001, &encode(&(src.to_owned(), instance, n.clone())));
                    let _ = call(client, 0x11002, &encode(&(src.to_owned(), instance, n, value.to_owned())));
                    let _ = call(client, 0x11003, &encode(&(src.to_owned(), instance, value.to_owned())));
                }
                let _ = call(client, 0x11004, &encode(&(src.to_owned(), instance)));
                let _ = call(client, 0x10003, &encode(&(src.to_owned(), instance)));
            }
        }
        // Members that speak of views far ahead, or long gone, are not believed without proof.
        for name in members {
            for instance in [0, vid + 1000, u32::MAX] {
                call(client, 0x11004, &encode(&(name.clone(), instance))).unwrap();
                let _ = call(client, 0x11003, &encode(&(name.clone(), instance, "1 ".to_owned())));
            }
        }
    });
}
