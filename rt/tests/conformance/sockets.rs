//! Sockets and polls.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rt::net::{Event, Interest, Poll, TcpListener, TcpPort, TcpStream, Token, resolve};
use rt::{thread, time};

use super::{Check, SHORT, soon};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("a_connection_is_accepted_and_carries_bytes", a_connection_is_accepted_and_carries_bytes),
    ("a_connection_that_nobody_takes_is_refused", a_connection_that_nobody_takes_is_refused),
    ("an_address_has_one_listener", an_address_has_one_listener),
    ("a_closed_connection_ends_after_its_last_byte", a_closed_connection_ends_after_its_last_byte),
    ("a_connection_closed_with_bytes_unread_breaks", a_connection_closed_with_bytes_unread_breaks),
    ("a_full_connection_becomes_writable_once_read", a_full_connection_becomes_writable_once_read),
    ("events_are_edges", events_are_edges),
    ("a_deregistered_stream_is_silent", a_deregistered_stream_is_silent),
    ("a_waker_ends_a_poll", a_waker_ends_a_poll),
    ("a_poll_ends_at_its_time_out", a_poll_ends_at_its_time_out),
    ("a_wait_for_a_stream_ends_with_bytes_or_at_its_deadline", a_wait_for_a_stream_ends_with_bytes_or_at_its_deadline),
    ("numeric_addresses_resolve", numeric_addresses_resolve),
];

const LISTENER: Token = Token(1);
const CLIENT: Token = Token(2);
const SERVER: Token = Token(3);
const WAKER: Token = Token(4);

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn listener() -> TcpListener {
    TcpPort::bind(any_port()).unwrap().listen().unwrap()
}

/// A connection: the end that connected, the end that was accepted.
fn pair() -> (TcpStream, TcpStream) {
    let listener = listener();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(client.wait(Interest::WRITE, Some(soon())).unwrap());
    let deadline = soon();
    loop {
        match listener.accept() {
            Ok((server, _)) => return (client, server),
            Err(e) => assert!(e.kind() == ErrorKind::WouldBlock && time::now() < deadline, "{e}"),
        }
        time::sleep(Duration::from_millis(1));
    }
}

/// The next event under `token` for which `wanted` holds.
fn event(poll: &mut Poll, token: Token, wanted: impl Fn(&Event) -> bool) -> Event {
    let (mut events, deadline) = (Vec::new(), soon());
    while time::now() < deadline {
        poll.poll(&mut events, Some(deadline - time::now())).unwrap();
        if let Some(event) = events.iter().find(|e| e.token == token && wanted(e)) {
            return *event;
        }
    }
    panic!("no such event under {token:?}");
}

/// The events within a short time.
fn events(poll: &mut Poll) -> Vec<Event> {
    let (mut all, mut events, deadline) = (Vec::new(), Vec::new(), time::now() + SHORT);
    while time::now() < deadline {
        poll.poll(&mut events, Some(deadline - time::now())).unwrap();
        all.append(&mut events);
    }
    all
}

/// Reads so many bytes, waiting for them.
fn read_exactly(stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match stream.read(&mut bytes[done..]) {
            Ok(0) => panic!("the stream ends after {done} bytes"),
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                assert!(stream.wait(Interest::READ, Some(soon())).unwrap());
            }
            Err(e) => panic!("{e}"),
        }
    }
    bytes
}

fn a_connection_is_accepted_and_carries_bytes(_: &Path) {
    let mut poll = Poll::new().unwrap();
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    assert_ne!(addr.port(), 0);
    poll.registry().register_listener(&listener, LISTENER).unwrap();
    assert_eq!(listener.accept().err().unwrap().kind(), ErrorKind::WouldBlock);

    let client = TcpStream::connect(addr).unwrap();
    poll.registry().register(&client, CLIENT, Interest::BOTH).unwrap();
    assert!(event(&mut poll, LISTENER, |e| e.readable).readable);
    let (server, peer) = listener.accept().unwrap();
    assert_eq!(listener.accept().err().unwrap().kind(), ErrorKind::WouldBlock);
    assert!(client.wait(Interest::WRITE, Some(soon())).unwrap());
    assert!(client.take_error().unwrap().is_none());
    assert_eq!((client.peer_addr().unwrap(), client.local_addr().unwrap()), (addr, peer));
    assert_eq!((server.peer_addr().unwrap(), server.local_addr().unwrap()), (peer, addr));

    poll.registry().register(&server, SERVER, Interest::READ).unwrap();
    assert_eq!(server.read(&mut [0; 8]).err().unwrap().kind(), ErrorKind::WouldBlock);
    assert_eq!(client.write_vectored(&[IoSlice::new(b"pi"), IoSlice::new(b"ng")]).unwrap(), 4);
    event(&mut poll, SERVER, |e| e.readable);
    assert_eq!(read_exactly(&server, 4), b"ping");
    assert_eq!(server.write(b"pong").unwrap(), 4);
    event(&mut poll, CLIENT, |e| e.readable);
    assert_eq!(read_exactly(&client, 4), b"pong");
    poll.registry().deregister(&client).unwrap();
    poll.registry().deregister(&server).unwrap();
    poll.registry().deregister_listener(&listener).unwrap();
}

fn a_connection_that_nobody_takes_is_refused(_: &Path) {
    // Taken, so that nobody else listens there, but not listening.
    let port = TcpPort::bind(any_port()).unwrap();
    let addr = port.local_addr().unwrap();
    let mut poll = Poll::new().unwrap();
    let refused = |e: std::io::Error| assert_eq!(e.kind(), ErrorKind::ConnectionRefused);
    match TcpStream::connect(addr) {
        Err(e) => refused(e),
        Ok(stream) => {
            poll.registry().register(&stream, CLIENT, Interest::BOTH).unwrap();
            event(&mut poll, CLIENT, |e| e.writable && e.readable);
            assert!(stream.wait(Interest::WRITE, Some(soon())).unwrap());
            refused(stream.take_error().unwrap().unwrap());
            assert!(stream.take_error().unwrap().is_none(), "told once");
            assert!(stream.peer_addr().is_err());
            poll.registry().deregister(&stream).unwrap();
        }
    }
    let listener = port.listen().unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(stream.wait(Interest::WRITE, Some(soon())).unwrap());
    assert!(stream.take_error().unwrap().is_none(), "taken now");
}

fn an_address_has_one_listener(_: &Path) {
    let first = listener();
    let addr = first.local_addr().unwrap();
    let second = TcpPort::bind(addr).and_then(TcpPort::listen);
    assert_eq!(second.err().unwrap().kind(), ErrorKind::AddrInUse);
    assert_ne!(listener().local_addr().unwrap(), addr);
    drop(first);
    let next = TcpPort::bind(addr).and_then(TcpPort::listen).unwrap();
    assert_eq!(next.local_addr().unwrap(), addr);
}

fn a_closed_connection_ends_after_its_last_byte(_: &Path) {
    let (client, server) = pair();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&server, SERVER, Interest::READ).unwrap();
    client.write(b"last").unwrap();
    client.shutdown().unwrap();
    event(&mut poll, SERVER, |e| e.readable);
    assert_eq!(read_exactly(&server, 4), b"last");
    assert!(server.wait(Interest::READ, Some(soon())).unwrap());
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    assert!(client.write(b"more").is_err());

    let (client, server) = pair();
    drop(client);
    assert!(server.wait(Interest::READ, Some(soon())).unwrap());
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
}

fn a_connection_closed_with_bytes_unread_breaks(_: &Path) {
    let (client, server) = pair();
    client.write(b"unread").unwrap();
    assert!(server.wait(Interest::READ, Some(soon())).unwrap());
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&client, CLIENT, Interest::READ).unwrap();
    drop(server);
    event(&mut poll, CLIENT, |e| e.readable && e.writable);
    assert_eq!(client.read(&mut [0; 8]).err().unwrap().kind(), ErrorKind::ConnectionReset);
}

fn a_full_connection_becomes_writable_once_read(_: &Path) {
    let (client, server) = pair();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&client, CLIENT, Interest::BOTH).unwrap();
    let chunk = [7; 1 << 16];
    let mut written = 0;
    let mut fill = || loop {
        match client.write(&chunk) {
            Ok(n) => written += n,
            Err(e) => return assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    };
    fill();
    // What was under way may have made room; after this, only reading makes more.
    events(&mut poll);
    fill();
    let server = Arc::new(server);
    let end = server.clone();
    let reader = thread::spawn("reader", move || {
        let mut left = written;
        while left > 0 {
            left -= read_exactly(&end, left.min(chunk.len())).len();
        }
    });
    while let Err(e) = client.write(b"x") {
        assert_eq!(e.kind(), ErrorKind::WouldBlock);
        event(&mut poll, CLIENT, |e| e.writable);
    }
    assert!(reader.unwrap().join_until(soon()));
}

fn events_are_edges(_: &Path) {
    let (client, server) = pair();
    let mut poll = Poll::new().unwrap();
    client.write(b"first").unwrap();
    assert!(server.wait(Interest::READ, Some(soon())).unwrap());
    poll.registry().register(&server, SERVER, Interest::READ).unwrap();
    event(&mut poll, SERVER, |e| e.readable);
    assert_eq!(events(&mut poll), [], "nothing has happened since");

    poll.registry().reregister(&server, SERVER, Interest::READ).unwrap();
    event(&mut poll, SERVER, |e| e.readable);
    client.write(b"second").unwrap();
    event(&mut poll, SERVER, |e| e.readable);

    poll.registry().reregister(&server, Token(9), Interest::BOTH).unwrap();
    event(&mut poll, Token(9), |e| e.readable && e.writable);
    assert!(server.wait(Interest::READ, Some(time::now())).unwrap(), "a wait looks at the state, not at events");
}

fn a_deregistered_stream_is_silent(_: &Path) {
    let (client, server) = pair();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&server, SERVER, Interest::READ).unwrap();
    poll.registry().deregister(&server).unwrap();
    client.write(b"unheard").unwrap();
    assert_eq!(events(&mut poll), []);
    assert!(poll.registry().deregister(&server).is_err(), "it isn't there");
    poll.registry().register(&server, SERVER, Interest::READ).unwrap();
    event(&mut poll, SERVER, |e| e.readable);
}

fn a_waker_ends_a_poll(_: &Path) {
    let mut poll = Poll::new().unwrap();
    let waker = poll.waker(WAKER).unwrap();
    waker.wake().unwrap();
    waker.wake().unwrap();
    event(&mut poll, WAKER, |e| e.readable);
    assert_eq!(events(&mut poll), [], "woken once for both");
    // Kept here too: a waker that is gone may take its wake with it.
    let waker = Arc::new(waker);
    let end = waker.clone();
    let other = thread::spawn("waker", move || {
        time::sleep(SHORT);
        end.wake().unwrap();
    });
    event(&mut poll, WAKER, |e| e.readable);
    assert!(other.unwrap().join_until(soon()));
}

fn a_poll_ends_at_its_time_out(_: &Path) {
    let mut poll = Poll::new().unwrap();
    let mut all = vec![Event { token: CLIENT, readable: true, writable: true }];
    let before = time::now();
    poll.poll(&mut all, Some(SHORT)).unwrap();
    assert!(all.is_empty());
    assert!(time::now() >= before + SHORT);
    poll.poll(&mut all, Some(Duration::ZERO)).unwrap();
    assert!(all.is_empty());
}

fn a_wait_for_a_stream_ends_with_bytes_or_at_its_deadline(_: &Path) {
    let (client, server) = pair();
    let deadline = time::now() + SHORT;
    assert!(!client.wait(Interest::READ, Some(deadline)).unwrap());
    assert!(time::now() >= deadline);
    let server = Arc::new(server);
    let end = server.clone();
    let answer = thread::spawn("answer", move || {
        time::sleep(SHORT);
        assert_eq!(end.write(b"answer").unwrap(), 6);
    });
    assert!(client.wait(Interest::READ, None).unwrap());
    assert_eq!(read_exactly(&client, 6), b"answer");
    assert!(answer.unwrap().join_until(soon()));
}

fn numeric_addresses_resolve(_: &Path) {
    assert_eq!(resolve("127.0.0.1:80").unwrap(), ["127.0.0.1:80".parse().unwrap()]);
    assert!(resolve("127.0.0.1").is_err());
}
