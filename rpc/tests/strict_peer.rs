//! Peers as strict, and as careless, as the lab's: they abort on a byte that is missing or too many, and leave garbage in
//! the fields of a header that nobody reads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{ADD, BIND, ECHO, PATIENCE, Raw, RawListener, request, server};
use rt::time::now;
use yfs_rpc::pdu::{ClientNonce, ReplyHeader, RequestHeader, ServerNonce, Xid};
use yfs_rpc::{CallError, Client, Options};

const ME: ClientNonce = ClientNonce(0x1234_5678);
/// What our clients ask with at bind.
const HELLO: i32 = 0x5946_5301;

fn bytes_of(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

#[test]
fn lab_client_gets_the_labs_bytes() {
    let server = server();
    for client in [ME, ClientNonce(0)] {
        let mut raw = Raw::connect(server.local_addr());
        raw.send(&request(1, BIND, client, ServerNonce(0), &[0; 4]));
        let reply = raw.pdu().unwrap();
        assert_eq!(reply.len(), 28, "a nonce and nothing else");
        assert_eq!(reply[..12], [0, 0, 0, 28, 0, 0, 0, 1, 0, 0, 0, 0]);
        let nonce = ServerNonce(u32::from_be_bytes(reply[24..].try_into().unwrap()));
        assert_ne!(nonce, ServerNonce(0));

        raw.send(&request(2, ADD.number, client, nonce, &41_i32.to_be_bytes()));
        let reply = raw.pdu().unwrap();
        assert_eq!(reply[..12], [0, 0, 0, 28, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(reply[24..], 42_i32.to_be_bytes());

        raw.send(&request(3, ECHO.number, client, nonce, &bytes_of("abc")));
        assert_eq!(raw.reply(), (ReplyHeader { xid: Xid(3), value: 0 }, bytes_of("abc")));

        // Nothing follows an error.
        for (xid, procedure, nonce, value) in
            [(4, 0x999, nonce, -2), (5, ADD.number, nonce, -2), (6, ADD.number, ServerNonce(nonce.0 ^ 2), -5)]
        {
            raw.send(&request(xid, procedure, client, nonce, &[1, 2, 3]));
            assert_eq!(raw.reply(), (ReplyHeader { xid: Xid(xid), value }, Vec::new()));
        }
    }
    assert!(server.shutdown());
}

#[test]
fn our_client_is_told_that_the_server_is_ours() {
    let server = server();
    let mut raw = Raw::connect(server.local_addr());
    raw.send(&request(1, BIND, ME, ServerNonce(0), &HELLO.to_be_bytes()));
    let (header, result) = raw.reply();
    assert_eq!((header.value, result.len()), (0, 8));
    assert_eq!(result[4..], HELLO.to_be_bytes());
    assert!(server.shutdown());
}

#[test]
fn repeated_requests_are_answered_without_being_executed_again() {
    let server = server();
    let (mut raw, nonce) = Raw::bound(server.local_addr(), ME);
    for _ in 0..3 {
        raw.send(&request(2, ADD.number, ME, nonce, &1_i32.to_be_bytes()));
        assert_eq!(raw.reply().1, 2_i32.to_be_bytes());
    }
    // Other arguments under the same xid: it is the same request.
    raw.send(&request(2, ADD.number, ME, nonce, &5_i32.to_be_bytes()));
    assert_eq!(raw.reply().1, 2_i32.to_be_bytes());
    // On a new connection too, and a second bind changes nothing.
    let (mut other, same) = Raw::bound(server.local_addr(), ME);
    assert_eq!(same, nonce);
    other.send(&request(2, ADD.number, ME, nonce, &7_i32.to_be_bytes()));
    assert_eq!(other.reply().1, 2_i32.to_be_bytes());
    assert!(server.shutdown());
}

/// A server of the lab, for one connection: checks each request to the last byte.
fn serve_strictly(raw: &mut Raw) {
    const NONCE: u32 = 0xfeed_beef;
    let mut client = None;
    let mut next = 1;
    while let Some(pdu) = raw.pdu() {
        let (header, args) = RequestHeader::parse(&pdu).unwrap();
        assert_eq!(header.xid, Xid(next), "one thread calls");
        next += 1;
        assert_eq!(*client.get_or_insert(header.client_nonce), header.client_nonce);
        assert_ne!(header.client_nonce, ClientNonce(0));
        assert_eq!(header.xid_rep, Xid(header.xid.0 - 1), "all before were answered");
        let (value, result) = match header.procedure {
            BIND => {
                assert_eq!((header.xid, header.server_nonce, args.len()), (Xid(1), ServerNonce(0), 4));
                (0, NONCE.to_be_bytes().to_vec())
            }
            number => {
                assert_eq!(header.server_nonce, ServerNonce(NONCE));
                match number {
                    n if n == ADD.number => {
                        let n = i32::from_be_bytes(args.try_into().unwrap());
                        (n, (n + 1).to_be_bytes().to_vec())
                    }
                    n if n == ECHO.number => {
                        assert_eq!(args[..4], ((args.len() - 4) as u32).to_be_bytes());
                        (0, args.to_vec())
                    }
                    _ => (-2, Vec::new()),
                }
            }
        };
        let mut reply = Vec::new();
        reply.extend_from_slice(&(24 + result.len() as u32).to_be_bytes());
        reply.extend_from_slice(&header.xid.0.to_be_bytes());
        reply.extend_from_slice(&value.to_be_bytes());
        reply.extend_from_slice(b"left over ..");
        reply.extend_from_slice(&result);
        raw.send(&reply);
    }
}

#[test]
fn lab_server_gets_the_labs_bytes() {
    let listener = RawListener::new();
    let addr = listener.addr();
    let server = rt::thread::spawn("strict server", move || serve_strictly(&mut listener.accept())).unwrap();
    let client = Client::new(addr, Options::default());
    client.bind(PATIENCE).unwrap();
    assert_eq!(client.is_ours(), Some(false));
    assert_eq!(client.call(ADD, (0,), PATIENCE), Ok((0, 1)));
    // Statuses are the protocol's, not ours to understand.
    assert_eq!(client.call(ADD, (3,), PATIENCE), Ok((3, 4)));
    assert_eq!(client.call(ECHO, ("abc".into(),), PATIENCE), Ok((0, "abc".into())));
    let unknown = yfs_rpc::Procedure::<(), ()>::new(0x999);
    assert_eq!(client.call(unknown, (), PATIENCE), Err(CallError::UnmarshalArgs));
    drop(client);
    assert!(server.join_until(now() + PATIENCE));
}

/// Bytes that are no reply end the connection or the call, never the client.
#[test]
fn garbage_from_a_server_stops_no_client() {
    let listener = RawListener::new();
    let client = Client::new(listener.addr(), Options::default());
    let caller = rt::thread::spawn("caller", move || {
        assert_eq!(client.call(ADD, (1,), PATIENCE), Err(CallError::UnmarshalReply));
        assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    })
    .unwrap();
    // Lengths that can't be, an end in the middle, replies to what nobody asked.
    for garbage in [&[0, 0, 0, 3][..], &[0xff; 100], &[0, 0, 0, 24, 0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        let raw = listener.accept();
        raw.send(garbage);
    }
    let mut raw = listener.accept();
    let mut answer = |xid: Option<i32>, result: &[u8]| {
        let asked =
            if let Some(xid) = xid { xid } else { i32::from_be_bytes(raw.pdu().unwrap()[4..8].try_into().unwrap()) };
        let header = [24 + result.len() as u32, asked as u32, 0, 1, 2, 3];
        raw.send(&[header.iter().flat_map(|field| field.to_be_bytes()).collect(), result.to_vec()].concat());
    };
    answer(Some(-1), b"nobody asked");
    answer(Some(i32::MAX), b"");
    answer(None, &[0, 0, 0, 9]);
    answer(None, b"not 4 bytes");
    answer(None, &2_i32.to_be_bytes());
    assert!(caller.join_until(now() + PATIENCE));
}
