//! Peers that are hostile or clumsy: nobody can stop a server by talking to it, and others notice nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{ADD, BIND, Bystander, ECHO, Gate, PATIENCE, Raw, anywhere, eventually, request, server, server_at};
use yfs_rpc::pdu::{self, ClientNonce, ReplyHeader, ServerNonce, Xid};
use yfs_rpc::{Client, Options, Procedure, Status, Workers};

const ME: ClientNonce = ClientNonce(0x1234_5678);
const NAMES: Procedure<(Vec<String>,), i32> = Procedure::new(0x301);
const BLOCKING: Procedure<(i32,), i32> = Procedure::new(0x302);
const FOR_MEMBERS: Procedure<(i32,), i32> = Procedure::new(0x303);
const JOIN: Procedure<(i32,), i32> = Procedure::new(0x304);

#[test]
fn h15_requests_that_make_no_sense_are_answered_with_an_error() {
    let server = server_at(anywhere(), Options::default(), |server| {
        server.reg(NAMES, |names: Vec<String>| (Status::OK, names.len() as i32));
    });
    let bystander = Bystander::start(server.local_addr());
    let (mut raw, nonce) = Raw::bound(server.local_addr(), ME);
    let cases: [(u32, &[u8]); 10] = [
        (0x999, &[]),
        (u32::MAX, &[0; 100]),
        (0, &[]),
        (ADD.number, &[]),
        (ADD.number, &[0, 0, 0]),
        (ADD.number, &[0; 5]),
        (ECHO.number, &[0xff, 0xff, 0xff, 0xff, b'x']),
        (ECHO.number, &[0, 0, 0, 2, 0xc3, 0x28]),
        (NAMES.number, &[0xff, 0xff, 0xff, 0xf0]),
        (NAMES.number, &[0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, b'x', 0, 0, 0, 0]),
    ];
    for (xid, (procedure, args)) in (2..).zip(cases) {
        raw.send(&request(xid, procedure, ME, nonce, args));
        assert_eq!(raw.reply(), (ReplyHeader { xid: Xid(xid), value: -2 }, Vec::new()), "{procedure:#x} {args:?}");
    }
    for args in [&[][..], &[0; 3], &[0; 5], &[0; 1000]] {
        raw.send(&request(100, BIND, ME, ServerNonce(0), args));
        assert_eq!(raw.reply(), (ReplyHeader { xid: Xid(100), value: -2 }, Vec::new()), "bind {args:?}");
    }
    // The connection has survived it all.
    raw.send(&request(200, ADD.number, ME, nonce, &1_i32.to_be_bytes()));
    assert_eq!(raw.reply().1, 2_i32.to_be_bytes());
    bystander.stop();
    assert!(server.shutdown());
}

#[test]
fn h15_bytes_that_are_no_requests_end_the_connection() {
    let server = server();
    let bystander = Bystander::start(server.local_addr());
    for length in (0..24).chain([pdu::MAX_PDU_BYTES as u32 + 1, 1 << 31, u32::MAX]) {
        let (raw, _) = Raw::bound(server.local_addr(), ME);
        raw.send(&length.to_be_bytes());
        raw.send(&[0; 100]);
        raw.wait_for_end();
    }
    for round in 0..200 {
        let raw = Raw::connect(server.local_addr());
        // Some begin like a request.
        let mut garbage = request(1, BIND, ME, ServerNonce(0), &[0; 4])[..round % 28].to_vec();
        garbage.extend((0..100).flat_map(|_| rt::random::u64().to_be_bytes()));
        raw.send(&garbage);
    }
    bystander.stop();
    eventually("the connections end", || server.connections() <= 1);
    assert!(server.shutdown());
}

#[test]
fn h15_absurd_headers_stop_nothing() {
    let server = server();
    let bystander = Bystander::start(server.local_addr());
    let (raw, nonce) = Raw::bound(server.local_addr(), ME);
    let odd = [i32::MIN, i32::MIN + 1, -1, 0, 1, 2, 1 << 30, i32::MAX - 1, i32::MAX];
    for xid in odd {
        for xid_rep in odd {
            let mut pdu = request(xid, ECHO.number, ME, nonce, &[0; 4]);
            pdu[20..24].copy_from_slice(&xid_rep.to_be_bytes());
            raw.send(&pdu);
        }
    }
    let mut raw = raw;
    for _ in 0..odd.len() * odd.len() {
        let (header, result) = raw.reply();
        assert!(header.value == -4 || (header.value, result.len()) == (0, 4), "{header:?}");
    }
    bystander.stop();
    assert!(server.shutdown());
}

#[test]
fn h18_unfinished_requests_are_cut_off() {
    let options = Options { peer_patience: Duration::from_secs(1), ..Options::default() };
    let server = server_at(anywhere(), options, |_| {});
    let bystander = Bystander::start(server.local_addr());
    let bind = request(1, BIND, ME, ServerNonce(0), &[0; 4]);

    let half: Vec<_> = (1..bind.len())
        .map(|length| {
            let raw = Raw::connect(server.local_addr());
            raw.send(&bind[..length]);
            raw
        })
        .collect();
    half.iter().for_each(Raw::wait_for_end);

    // A byte now and then doesn't help.
    let drip = Raw::connect(server.local_addr());
    let long = request(1, ECHO.number, ME, ServerNonce(0), &[0; 100_000]);
    let mut sent = 0;
    while drip.send(&long[sent..=sent]) {
        sent += 1;
        assert!(sent < 1000, "the connection lives");
        rt::time::sleep(Duration::from_millis(100));
    }

    // Who has sent whole requests only may wait for ever.
    let (mut idle, nonce) = Raw::bound(server.local_addr(), ME);
    rt::time::sleep(Duration::from_millis(2500));
    idle.send(&request(2, ADD.number, ME, nonce, &[0; 4]));
    assert_eq!(idle.reply().0.value, 0);
    bystander.stop();
    eventually("they are gone", || server.connections() <= 2);
    assert!(server.shutdown());
}

#[test]
fn h19_strangers_who_know_our_nonce_are_refused() {
    let server = server();
    let (_known, nonce) = Raw::bound(server.local_addr(), ME);
    let stranger = ClientNonce(0x0bad_0bad);
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request(2, ADD.number, stranger, nonce, &[0; 4]));
    assert_eq!(raw.reply(), (ReplyHeader { xid: Xid(2), value: -4 }, Vec::new()));
    // Nor without it.
    raw.send(&request(3, ADD.number, stranger, ServerNonce(0), &[0; 4]));
    assert_eq!(raw.reply(), (ReplyHeader { xid: Xid(3), value: -4 }, Vec::new()));
    assert!(server.shutdown());
}

#[test]
fn h19_inventing_nonces_drives_nobody_out() {
    let executed = Arc::new(AtomicUsize::new(0));
    let count = executed.clone();
    let server = server_at(anywhere(), Options::default(), |server| {
        server.reg(BLOCKING, move |n: i32| (Status::OK, n + count.fetch_add(1, Ordering::Relaxed) as i32));
    });
    let bystander = Bystander::start(server.local_addr());
    let (mut honest, nonce) = Raw::bound(server.local_addr(), ME);
    let asked = request(2, BLOCKING.number, ME, nonce, &7_i32.to_be_bytes());
    honest.send(&asked);
    assert_eq!(honest.reply().1, 7_i32.to_be_bytes());

    let mut flood = Raw::connect(server.local_addr());
    for batch in 0..20 {
        let nonces = (0..5000).map(|n| ClientNonce(0x4000_0000 + batch * 5000 + n));
        flood.send(&nonces.flat_map(|n| request(1, BIND, n, ServerNonce(0), &[0; 4])).collect::<Vec<u8>>());
        (0..5000).for_each(|_| assert_eq!(flood.reply().0.value, 0));
    }
    // Still remembered, and on another connection too.
    honest.send(&asked);
    assert_eq!(honest.reply().1, 7_i32.to_be_bytes());
    let mut next = Raw::connect(server.local_addr());
    next.send(&asked);
    assert_eq!(next.reply().1, 7_i32.to_be_bytes());
    assert_eq!(executed.load(Ordering::Relaxed), 1);
    bystander.stop();
    assert!(server.shutdown());
}

#[test]
fn h26_blocked_handlers_of_clients_keep_no_node_waiting() {
    let gate = Gate::new();
    let (for_clients, for_joins) = (gate.clone(), gate.clone());
    let running = Arc::new(AtomicUsize::new(0));
    let started = running.clone();
    let server = server_at(anywhere(), Options::default(), |server| {
        server.reg(BLOCKING, move |n: i32| {
            started.fetch_add(1, Ordering::Relaxed);
            for_clients.wait();
            (Status::OK, n)
        });
        server.reg_on(Workers::Joins, JOIN, move |n: i32| {
            for_joins.wait();
            (Status::OK, n)
        });
        server.reg_on(Workers::Peers, FOR_MEMBERS, |n: i32| (Status::OK, n));
    });
    let client = Client::new(server.local_addr(), Options::default());
    let answered = Arc::new(AtomicUsize::new(0));
    // More than the queue takes, so that the server stops reading from this client.
    let calls = 3000;
    for n in 0..calls {
        let answered = answered.clone();
        let procedure = if n % 100 == 0 { JOIN } else { BLOCKING };
        client.call_async(procedure, (n,), PATIENCE, move |reply| {
            assert_eq!(reply, Ok((0, n)));
            answered.fetch_add(1, Ordering::Relaxed);
        });
    }
    eventually("the workers are busy", || running.load(Ordering::Relaxed) >= 10);
    let node = Client::new(server.local_addr(), Options::default());
    for n in 0..100 {
        assert_eq!(node.call(FOR_MEMBERS, (n,), PATIENCE), Ok((0, n)));
        assert_eq!(node.call(ECHO, ("inline".into(),), PATIENCE), Ok((0, "inline".into())));
    }
    assert_eq!(answered.load(Ordering::Relaxed), 0);
    assert_eq!(running.load(Ordering::Relaxed), 10);
    gate.open();
    eventually("all are answered", || answered.load(Ordering::Relaxed) == calls as usize);
    assert!(server.shutdown());
}
