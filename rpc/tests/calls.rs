//! Calls: answered, refused, timed out, sent again, cancelled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{ADD, BIND, ECHO, PATIENCE, Raw, RawListener, anywhere, eventually, server, server_at};
use rt::net::TcpPort;
use rt::sync::{Mutex, Rank};
use rt::time::now;
use yfs_rpc::pdu::{self, ReplyHeader, RequestHeader, Verbatim, Xid};
use yfs_rpc::{CallError, Client, Options, Procedure, Reach, ReplyToken, Server, Status, Workers};

/// Answered when the test says so.
const PARKED: Procedure<(i32,), i32> = Procedure::new(0x201);
/// Never answered.
const DROPPED: Procedure<(i32,), i32> = Procedure::new(0x202);
/// For other nodes, on workers.
const FOR_MEMBERS: Procedure<(i32,), i32> = Procedure::new(0x203);
/// Returns so many bytes.
const MANY: Procedure<(u32,), String> = Procedure::new(0x204);

/// Long enough for a call to fail that must fail.
const SHORT: Duration = Duration::from_millis(300);

type Parked = Arc<Mutex<Vec<(i32, ReplyToken<i32>)>>>;

fn parking_lot() -> Parked {
    Arc::new(Mutex::new(Rank::new(10, "test.parked"), Vec::new()))
}

fn full_server(options: Options, parked: &Parked) -> Server {
    let parked = parked.clone();
    server_at(anywhere(), options, |server| {
        server.reg_async(PARKED, move |(n,), token| parked.lock().push((n, token)));
        server.reg_async(DROPPED, |(_,), _| {});
        server.reg_on(Workers::Peers, FOR_MEMBERS, |n: i32| (Status::OK, n));
        server.reg(MANY, |bytes: u32| (Status::OK, "x".repeat(bytes as usize)));
    })
}

fn client_of(server: &Server) -> Client {
    Client::new(server.local_addr(), Options::default())
}

fn count() -> (Arc<AtomicUsize>, impl Fn() -> usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let read = count.clone();
    (count, move || read.load(Ordering::Relaxed))
}

#[test]
fn calls_are_answered_by_every_kind_of_handler() {
    let parked = parking_lot();
    let server = full_server(Options::default(), &parked);
    let client = client_of(&server);
    assert_eq!(client.is_ours(), None);
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    assert_eq!(client.is_ours(), Some(true));
    assert_eq!(client.call(ECHO, ("inline".into(),), PATIENCE), Ok((0, "inline".into())));
    assert_eq!(client.call(FOR_MEMBERS, (3,), PATIENCE), Ok((0, 3)));
    let (done, answered) = count();
    client.call_async(PARKED, (4,), PATIENCE, move |reply| {
        assert_eq!(reply, Ok((7, 40)));
        done.fetch_add(1, Ordering::Relaxed);
    });
    eventually("the request arrives", || !parked.lock().is_empty());
    let token = parked.lock().pop().unwrap().1;
    token.reply(Status::new(7), &40);
    eventually("the answer arrives", || answered() == 1);
    assert!(server.shutdown());
}

#[test]
fn bind_is_done_once() {
    let server = server();
    let client = client_of(&server);
    assert_eq!(client.bind(PATIENCE), Ok(()));
    server.set_reachable(Reach::Nobody);
    assert_eq!(client.bind(PATIENCE), Ok(()));
    assert!(server.shutdown());
    assert_eq!(client.bind(PATIENCE), Ok(()));
}

#[test]
fn bind_to_nobody_fails_and_says_since_when() {
    let taken = TcpPort::bind(anywhere()).unwrap();
    let client = Client::new(taken.local_addr().unwrap(), Options::default());
    assert_eq!(client.refused_since(), None);
    let began = now();
    assert_eq!(client.bind(SHORT), Err(CallError::Bind));
    assert!(client.refused_since().is_some_and(|since| since >= began));
    assert_eq!(client.call(ADD, (1,), SHORT), Err(CallError::Bind));
    let listener = taken.listen().unwrap();
    // Whoever connects is served by the kernel, which is no refusal.
    let (done, ended) = count();
    client.call_async(ADD, (1,), PATIENCE, move |_| _ = done.fetch_add(1, Ordering::Relaxed));
    eventually("connected", || client.refused_since().is_none());
    drop(listener);
    drop(client);
    eventually("cancelled", || ended() == 1);
}

#[test]
fn call_that_is_not_answered_in_time_ends_and_the_next_one_works() {
    let parked = parking_lot();
    let server = full_server(Options::default(), &parked);
    let client = client_of(&server);
    client.bind(PATIENCE).unwrap();
    assert_eq!(client.call(PARKED, (1,), SHORT), Err(CallError::Timeout));
    let (done, ended) = count();
    client.call_async(PARKED, (2,), SHORT, move |reply| {
        assert_eq!(reply, Err(CallError::Timeout));
        done.fetch_add(1, Ordering::Relaxed);
    });
    eventually("the call ends", || ended() == 1);
    let tokens = std::mem::take(&mut *parked.lock());
    for (n, token) in tokens {
        token.reply(Status::OK, &n);
    }
    assert_eq!(client.call(ADD, (5,), PATIENCE), Ok((0, 6)));
    assert!(server.shutdown());
    assert_eq!(ended(), 1);
}

#[test]
fn unreachable_client_sends_nothing_until_it_is_reachable_again() {
    let parked = parking_lot();
    let server = full_server(Options::default(), &parked);
    for bound in [false, true] {
        let client = client_of(&server);
        if bound {
            client.bind(PATIENCE).unwrap();
        }
        client.set_reachable(false);
        // Not sent, so it can't have been executed.
        assert_eq!(client.call(PARKED, (1,), SHORT), Err(CallError::Bind));
        let (done, ended) = count();
        client.call_async(ADD, (1,), PATIENCE, move |reply| {
            assert_eq!(reply, Ok((0, 2)));
            done.fetch_add(1, Ordering::Relaxed);
        });
        rt::time::sleep(Duration::from_millis(50));
        assert_eq!(ended(), 0);
        client.set_reachable(true);
        eventually("the call that waited is answered", || ended() == 1);
        assert_eq!(client.call(ADD, (2,), PATIENCE), Ok((0, 3)));
    }
    assert!(parked.lock().is_empty());
    assert!(server.shutdown());
}

#[test]
fn unreachable_server_takes_nothing_until_it_is_reachable_again() {
    let parked = parking_lot();
    let server = full_server(Options::default(), &parked);
    let bound = client_of(&server);
    bound.bind(PATIENCE).unwrap();
    let unbound = client_of(&server);
    server.set_reachable(Reach::Nobody);
    assert_eq!(bound.call(PARKED, (1,), SHORT), Err(CallError::Timeout));
    assert_eq!(unbound.call(PARKED, (1,), SHORT), Err(CallError::Bind));
    let (done, ended) = count();
    unbound.call_async(ADD, (1,), PATIENCE, move |reply| {
        assert_eq!(reply, Ok((0, 2)));
        done.fetch_add(1, Ordering::Relaxed);
    });
    rt::time::sleep(Duration::from_millis(50));
    server.set_reachable(Reach::All);
    assert_eq!(bound.call(ADD, (2,), PATIENCE), Ok((0, 3)));
    eventually("the client whose bind was dropped is answered", || ended() == 1);
    assert!(parked.lock().is_empty());
    assert!(server.shutdown());
}

#[test]
fn server_cut_off_from_members_still_serves_clients() {
    let server = full_server(Options::default(), &parking_lot());
    server.set_reachable(Reach::ClientsOnly);
    let client = client_of(&server);
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    assert_eq!(client.call(FOR_MEMBERS, (1,), SHORT), Err(CallError::Timeout));
    assert_eq!(client.call(ECHO, (String::new(),), SHORT), Err(CallError::Timeout));
    assert_eq!(client.call(ADD, (2,), PATIENCE), Ok((0, 3)));
    server.set_reachable(Reach::All);
    assert_eq!(client.call(FOR_MEMBERS, (1,), PATIENCE), Ok((0, 1)));
    assert!(server.shutdown());
}

#[test]
fn restarted_server_takes_the_port_at_once_and_refuses_its_old_clients() {
    let first = server();
    let addr = first.local_addr();
    let client = Client::new(addr, Options::default());
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    assert!(first.shutdown());
    // The client's connection was open until now.
    let second = server_at(addr, Options::default(), |_| {});
    assert!(!client.is_outdated());
    assert_eq!(client.call(ADD, (2,), PATIENCE), Err(CallError::OldServer));
    assert!(client.is_outdated());
    assert_eq!(client.call(ADD, (3,), PATIENCE), Err(CallError::OldServer));
    assert_eq!(client.bind(PATIENCE), Err(CallError::OldServer));
    let client = Client::new(addr, Options::default());
    assert_eq!(client.call(ADD, (4,), PATIENCE), Ok((0, 5)));
    assert!(second.shutdown());
}

#[test]
fn port_that_is_taken_is_an_error() {
    let first = server();
    let second = Server::bind(first.local_addr(), Options::default());
    assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    assert!(first.shutdown());
}

#[test]
fn cancelled_and_dropped_clients_end_every_call_once() {
    let parked = parking_lot();
    let server = full_server(Options::default(), &parked);
    for by_drop in [false, true] {
        parked.lock().clear();
        let client = client_of(&server);
        let calls = 1000;
        let ends: Arc<Vec<AtomicUsize>> = Arc::new((0..calls).map(|_| AtomicUsize::new(0)).collect());
        for n in 0..calls {
            let ends = ends.clone();
            client.call_async(PARKED, (n as i32,), PATIENCE, move |reply| {
                // Some are answered just before they would be cancelled.
                assert!(reply == Err(CallError::Cancel) || reply == Ok((0, n as i32)), "{reply:?}");
                ends[n].fetch_add(1, Ordering::Relaxed);
            });
        }
        eventually("half arrive", || parked.lock().len() >= calls / 2);
        let answered: Vec<_> = parked.lock().drain(..calls / 4).collect();
        for (n, token) in answered {
            token.reply(Status::OK, &n);
        }
        if by_drop {
            drop(client);
        } else {
            client.cancel();
            assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
        }
        eventually("all end", || ends.iter().all(|end| end.load(Ordering::Relaxed) > 0));
        assert!(ends.iter().all(|end| end.load(Ordering::Relaxed) == 1));
    }
    assert!(server.shutdown());
}

#[test]
fn request_that_its_handler_abandons_is_cancelled() {
    let server = full_server(Options::default(), &parking_lot());
    let client = client_of(&server);
    assert_eq!(client.call(DROPPED, (1,), PATIENCE), Err(CallError::Cancel));
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    assert!(server.shutdown());
}

#[test]
fn replies_in_another_order_find_their_calls() {
    let parked = parking_lot();
    let server = full_server(Options::default(), &parked);
    let client = client_of(&server);
    let calls = 500;
    let (done, ended) = count();
    for n in 0..calls {
        let done = done.clone();
        client.call_async(PARKED, (n,), PATIENCE, move |reply| {
            assert_eq!(reply, Ok((0, -n)));
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    eventually("all arrive", || parked.lock().len() == calls as usize);
    let tokens = std::mem::take(&mut *parked.lock());
    for (n, token) in tokens.into_iter().rev() {
        token.reply(Status::OK, &-n);
    }
    eventually("all end", || ended() == calls as usize);
    assert!(server.shutdown());
}

#[test]
fn completion_may_call_again() {
    fn call(client: &Arc<Client>, left: i32, done: Arc<AtomicUsize>) {
        let again = client.clone();
        client.call_async(ADD, (left,), PATIENCE, move |reply| {
            assert_eq!(reply, Ok((0, left + 1)));
            match left {
                0 => _ = done.fetch_add(1, Ordering::Relaxed),
                _ => call(&again, left - 1, done),
            }
        });
    }
    let server = server();
    let client = Arc::new(client_of(&server));
    let (done, ended) = count();
    call(&client, 200, done);
    eventually("the chain ends", || ended() == 1);
    assert!(server.shutdown());
}

#[test]
fn big_pdus_pass_and_too_big_ones_are_refused_where_they_are_made() {
    let server = full_server(Options::default(), &parking_lot());
    let client = client_of(&server);
    let big = "x".repeat(1_000_000);
    assert!(client.call(ECHO, (big.clone(),), PATIENCE) == Ok((0, big)));
    assert!(client.call(MANY, (70_000,), PATIENCE) == Ok((0, "x".repeat(70_000))));
    let biggest = "x".repeat(pdu::MAX_PDU_BYTES - pdu::HEADER_BYTES - 4);
    assert!(client.call(ECHO, (biggest.clone(),), PATIENCE) == Ok((0, biggest.clone())));
    assert!(client.call(ECHO, (biggest + "x",), PATIENCE) == Err(CallError::UnmarshalArgs));
    assert!(client.call(MANY, (pdu::MAX_PDU_BYTES as u32,), PATIENCE) == Err(CallError::Cancel));
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    assert!(server.shutdown());
}

#[test]
fn wrong_types_and_unknown_procedures_are_errors() {
    let server = server();
    let client = client_of(&server);
    let unknown: Procedure<(i32,), i32> = Procedure::new(0x999);
    assert_eq!(client.call(unknown, (1,), PATIENCE), Err(CallError::UnmarshalArgs));
    let too_many: Procedure<(i32, i32), i32> = Procedure::new(ADD.number);
    assert_eq!(client.call(too_many, (1, 2), PATIENCE), Err(CallError::UnmarshalArgs));
    let too_few: Procedure<(), i32> = Procedure::new(ADD.number);
    assert_eq!(client.call(too_few, (), PATIENCE), Err(CallError::UnmarshalArgs));
    let other_result: Procedure<(i32,), String> = Procedure::new(ADD.number);
    assert_eq!(client.call(other_result, (1,), PATIENCE), Err(CallError::UnmarshalReply));
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    assert!(server.shutdown());
}

/// A server written out: takes a connection, and the bind on it if there is one.
fn next_request(raw: &mut Raw) -> (RequestHeader, Vec<u8>) {
    let pdu = raw.pdu().expect("a request");
    let (header, args) = RequestHeader::parse(&pdu).unwrap();
    if header.procedure == BIND {
        answer(raw, header.xid, &77_u32.to_be_bytes());
        return next_request(raw);
    }
    (header, args.to_vec())
}

fn answer(raw: &Raw, xid: Xid, result: &[u8]) {
    raw.send(&pdu::reply(&ReplyHeader { xid, value: 0 }, &Verbatim(result)).unwrap());
}

#[test]
fn requests_are_sent_again_when_their_connection_dies() {
    let listener = RawListener::new();
    let client = Arc::new(Client::new(listener.addr(), Options::default()));
    let (done, ended) = count();
    for n in 0..3 {
        let done = done.clone();
        client.call_async(ADD, (n,), PATIENCE, move |reply| {
            assert_eq!(reply, Ok((0, n + 1)));
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    let mut first = Vec::new();
    {
        let mut raw = listener.accept();
        first.extend((0..3).map(|_| next_request(&mut raw)));
    }
    // Another time, with one answered.
    {
        let mut raw = listener.accept();
        let again: Vec<_> = (0..3).map(|_| next_request(&mut raw)).collect();
        assert_eq!(again, first);
        answer(&raw, again[1].0.xid, &2_i32.to_be_bytes());
        eventually("one ends", || ended() == 1);
    }
    let mut raw = listener.accept();
    for request in [&first[0], &first[2]] {
        let (header, args) = next_request(&mut raw);
        assert_eq!((header.xid, &args), (request.0.xid, &request.1));
        let n = i32::from_be_bytes(args.try_into().unwrap());
        answer(&raw, header.xid, &(n + 1).to_be_bytes());
    }
    eventually("all end", || ended() == 3);
}

#[test]
fn connection_on_which_nothing_comes_back_is_given_up() {
    let listener = RawListener::new();
    let client = Client::new(listener.addr(), Options::default());
    let caller = rt::thread::spawn("caller", move || {
        assert_eq!(client.call(ADD, (1,), SHORT), Err(CallError::Timeout));
        assert_eq!(client.call(ADD, (2,), PATIENCE), Ok((0, 3)));
    });
    let mut raw = listener.accept();
    let (header, _) = next_request(&mut raw);
    assert_eq!(header.xid, Xid(2));
    raw.wait_for_end();
    let mut raw = listener.accept();
    let (header, _) = next_request(&mut raw);
    assert_eq!((header.xid, header.xid_rep), (Xid(3), Xid(2)));
    answer(&raw, header.xid, &3_i32.to_be_bytes());
    assert!(caller.unwrap().join_until(now() + PATIENCE));
}

#[test]
fn connection_on_which_no_bind_is_answered_is_given_up() {
    let listener = RawListener::new();
    let client = Client::new(listener.addr(), Options::default());
    let caller = rt::thread::spawn("caller", move || assert_eq!(client.bind(PATIENCE), Ok(())));
    let mut raw = listener.accept();
    let mut asked = 0;
    while let Some(bind) = raw.pdu() {
        let (header, _) = RequestHeader::parse(&bind).unwrap();
        assert_eq!((header.procedure, header.xid), (BIND, Xid(1)));
        asked += 1;
    }
    assert!(asked > 1);
    let mut raw = listener.accept();
    raw.pdu().unwrap();
    answer(&raw, Xid(1), &77_u32.to_be_bytes());
    assert!(caller.unwrap().join_until(now() + PATIENCE));
}

#[test]
fn replies_come_over_the_next_connection_if_the_first_is_cut_by_the_server() {
    // The server is made to lose connections before it answers.
    let options = Options { lossy_percent: 50, ..Options::default() };
    let server = full_server(options, &parking_lot());
    let client = client_of(&server);
    for n in 0..50 {
        assert_eq!(client.call(ADD, (n,), PATIENCE), Ok((0, n + 1)));
    }
    assert!(server.shutdown());
}
