//! Real calls of the rpc crate, recorded by two processes' worth of recorders, and put together again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::thread::Node;
use trace::{Event, Kind, Lines, Picture, Recorder, columns, pairs, read};
use yfs_paxos::protocol::{AcceptArg, PrepareArg, ProposalNumber};
use yfs_rpc::marshall::{Bytes, encode};
use yfs_rpc::{Client, Options, PollMgr, Procedure, Server, Status};
use yfs_rsm::protocol::{SessionId, Viewstamp};

const ADD: Procedure<(u32, u32), u32> = Procedure::new(0x77);

fn describe(procedure: u32, args: &[u8]) -> Option<String> {
    (procedure == ADD.number && args.len() == 8).then(|| format!("add {} {}", args[3], args[7]))
}

fn has(events: &[Event], node: &str, kind: Kind, text: &str) -> bool {
    events.iter().any(|e| (e.node.as_str(), e.kind, e.text.as_str()) == (node, kind, text))
}

/// One test, as it takes the lines of the whole process.
#[test]
fn calls_are_recorded_at_both_ends_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.jsonl");
    // What a killed process left is cut off.
    rt::fs::File::append(&path)
        .unwrap()
        .write_all(b"{\"at\":1,\"node\":\"old\",\"kind\":\"start\",\"text\":\"\"}\n{\"at\":")
        .unwrap();
    let lines = Lines::new().alias("server", "S").describe(describe);
    assert!(Recorder::append(&path, lines, |error| panic!("{error}")).unwrap().install());

    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Node::new("server").enter(|| {
        let server = Server::bind_on(&PollMgr::new().unwrap(), free, Options::default()).unwrap();
        server.reg(ADD, |a: u32, b: u32| {
            tracing::info!(kind = "execute", node = "server", "add {a} {b}");
            (Status::OK, a + b)
        });
        server.start().unwrap();
        server
    });
    let addr = server.local_addr();
    Node::new("client").enter(|| {
        let client = Client::new_on(&PollMgr::new().unwrap(), addr, Options::default());
        assert_eq!(client.call(ADD, (2, 3), Duration::from_secs(20)), Ok((0, 5)));
        tracing::info!(sum = 5, "done");
        tracing::debug!("of no interest");
    });
    assert!(server.shutdown());

    let events = read(&[&path]).unwrap();
    assert!(has(&events, "old", Kind::Start, ""));
    for (node, kind) in [("client", Kind::Sent), ("S", Kind::Received)] {
        assert!(has(&events, node, kind, "bind"), "{events:?}");
        assert!(has(&events, node, kind, "add 2 3"), "{events:?}");
    }
    for (node, kind) in [("S", Kind::Sent), ("client", Kind::Received)] {
        assert!(has(&events, node, kind, "reply to procedure 0x77"), "{events:?}");
    }
    assert!(has(&events, "S", Kind::Execute, "add 2 3"));
    assert!(has(&events, "client", Kind::Note, "done sum=5"));
    assert!(!events.iter().any(|event| event.text.contains("interest")));
    let found = pairs(&events);
    assert_eq!((found.arrows.len(), found.lost.len(), found.unsent.len()), (4, 0, 0), "{events:?}");
    assert!(found.arrows.iter().all(|arrow| events[arrow.sent].at <= events[arrow.received].at));
    let text = columns(&Picture { events, ..Picture::default() }, 120);
    assert!(text.contains("-> S add 2 3") && text.contains("<- S reply to add 2 3"), "{text}");
}

#[test]
fn the_stacks_procedures_are_known_by_their_numbers_and_arguments() {
    let described = |number: u32, args: Vec<u8>| trace::stack::describe(number, &args, &[describe]);
    let lock = encode(&(7u64, "c:1", 3u64));
    let vs = Viewstamp { vid: 3, seqno: 4 };
    let acquire = yfs_lock::lock_protocol::ACQUIRE.number;
    let request = encode(&(SessionId { number: 1, owner: 2 }, 5u64, 4u64, vec![1u64, 2], acquire, Bytes(lock.clone())));
    let n = ProposalNumber { n: 2, node: "A".to_owned() };
    use yfs_paxos::protocol as paxos;
    use yfs_rsm::protocol as rsm;
    assert_eq!(described(acquire, lock.clone()), "acquire 7");
    assert_eq!(described(rsm::CLIENT_INVOKE.number, encode(&(acquire, Bytes(lock)))), "client_invoke acquire 7");
    let invoke = encode(&(rsm::REQUEST.number, vs, Bytes(request)));
    assert_eq!(described(rsm::INVOKE.number, invoke.clone()), "invoke (3,4) acquire 7");
    assert_eq!(described(rsm::TRANSFERREQ.number, encode(&("A", vs, 5u32))), "transfer of view 5, has (3,4)");
    assert_eq!(described(rsm::TRANSFERDONEREQ.number, encode(&("A", 5u32))), "transferdone of view 5");
    assert_eq!(described(rsm::JOINREQ.number, encode(&("A", vs))), "join has (3,4)");
    assert_eq!(described(rsm::NET_REPAIR.number, encode(&0i32)), "net_repair cut");
    assert_eq!(described(rsm::OPEN.number, encode(&1u64)), "open session");
    let prepare = encode(&("A", PrepareArg { instance: 3, n: n.clone() }));
    assert_eq!(described(paxos::PREPAREREQ.number, prepare), "prepare 3 n=2");
    let accept = encode(&("A", AcceptArg { instance: 3, n, v: "A B".to_owned() }));
    assert_eq!(described(paxos::ACCEPTREQ.number, accept), "accept 3 n=2: A B");
    assert_eq!(described(paxos::HEARTBEAT.number, encode(&("A", 3u32))), "heartbeat");
    assert_eq!(described(paxos::DISKREQ.number, Vec::new()), "disk");
    assert_eq!(described(0xabc, Vec::new()), "procedure 0xabc");
    // Arguments may be cut off anywhere.
    for end in 0..invoke.len() {
        assert!(described(rsm::INVOKE.number, invoke[..end].to_vec()).starts_with("invoke"));
    }
}

/// A disk that takes nothing is said once, and isn't asked again.
#[test]
fn a_file_that_cannot_be_written_is_said_once() {
    let said = Arc::new(AtomicUsize::new(0));
    let (count, why) = (said.clone(), Arc::new(Mutex::new(Rank::new(200, "test.why"), String::new())));
    let seen = why.clone();
    let recorder = Recorder::append(std::path::Path::new("/dev/full"), Lines::new(), move |error| {
        count.fetch_add(1, Ordering::Relaxed);
        *seen.lock() = error.to_string();
    });
    tracing::subscriber::with_default(recorder.unwrap(), || {
        for _ in 0..3 {
            tracing::info!("lost");
        }
    });
    assert_eq!(said.load(Ordering::Relaxed), 1);
    assert!(why.lock().contains("No space left"));
}
