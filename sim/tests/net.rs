//! The simulated network does what it says, faults among it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rt::net::{Event, Interest, Poll, TcpListener, TcpPort, TcpStream, Token};
use rt::sync::{Mutex, Rank};
use rt::thread::Node;
use rt::time::{self, Instant};
use sim::kernel::{Kernel, Report, Schedule};
use sim::net::{CONNECT_TIME_OUT, Conditions, FrameFaults, LinkState, Net, STALL_TIME_OUT, WINDOW, counters};
use sim::world::World;

const RANK: Rank = Rank::new(1, "test");
const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const PORT: u16 = 5000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ip(host: &str) -> IpAddr {
    host.parse().unwrap()
}

/// Runs a program on a machine of its own.
fn run(seed: u64, program: impl FnOnce(&Net, &Kernel) + Send + 'static) -> Report {
    let kernel = Kernel::new(seed, Schedule::default(), false);
    let world = World::new(kernel.clone());
    let net = world.net.clone();
    let limit = Instant::ZERO + Duration::from_secs(3600);
    let report = world.run(&Node::new("director"), limit, move || {
        program(&net, &kernel);
        kernel.end();
    });
    assert_eq!(report.finding, None);
    report
}

/// Does something on another machine.
fn on<T: Send + 'static>(host: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let result = Arc::new(Mutex::new(RANK, None));
    let place = result.clone();
    let thread = Node::new(host).spawn("on", move || {
        let value = work();
        *place.lock() = Some(value);
    });
    assert!(thread.unwrap().join_until(Instant::NEVER));
    result.lock().take().unwrap()
}

fn addr(host: &str) -> SocketAddr {
    SocketAddr::new(ip(host), PORT)
}

fn listen(host: &str) -> TcpListener {
    let at = SocketAddr::new(ip("0.0.0.0"), PORT);
    on(host, move || TcpPort::bind(at).unwrap().listen().unwrap())
}

fn begin(from: &str, to: &str) -> TcpStream {
    let to = addr(to);
    on(from, move || TcpStream::connect(to).unwrap())
}

fn within(pause: Duration) -> Option<Instant> {
    Some(time::now() + pause)
}

/// Whether the attempt has ended, and how.
fn outcome(stream: &TcpStream, pause: Duration) -> Option<Result<(), ErrorKind>> {
    let ended = stream.wait(Interest::WRITE, within(pause)).unwrap();
    ended.then(|| stream.take_error().unwrap().map_or(Ok(()), |e| Err(e.kind())))
}

fn accept(listener: &TcpListener) -> TcpStream {
    for _ in 0..10_000 {
        match listener.accept() {
            Ok((stream, _)) => return stream,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        time::sleep(ms(1));
    }
    panic!("nobody connects");
}

/// A connection from A to B: A's end, B's end.
fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = begin(A, B);
    assert_eq!(outcome(&client, ms(1000)), Some(Ok(())));
    (client, accept(listener))
}

/// What comes within a time; and how it ended, if it did.
fn drain(stream: &TcpStream, pause: Duration) -> (Vec<u8>, Option<Result<(), ErrorKind>>) {
    let (mut bytes, mut buffer, deadline) = (Vec::new(), vec![0; 1 << 16], within(pause));
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, Some(Ok(()))),
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if !stream.wait(Interest::READ, deadline).unwrap() {
                    return (bytes, None);
                }
            }
            Err(e) => return (bytes, Some(Err(e.kind()))),
        }
    }
}

fn write_all(stream: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                assert!(stream.wait(Interest::WRITE, within(Duration::from_secs(100))).unwrap(), "no room");
            }
        }
    }
}

/// Writes it all, or fails.
fn try_write(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = stream.write(bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn frame(xid: u32, word: u32, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = [length as u32, xid, word].iter().flat_map(|w| w.to_be_bytes()).collect();
    bytes.resize(length, xid as u8);
    bytes
}

/// The xids of a stream of frames, each of them whole.
fn xids(mut bytes: &[u8]) -> Vec<u32> {
    let mut xids = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        let xid = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        let (first, rest) = bytes.split_at(length);
        assert!(first[12..].iter().all(|b| *b == xid as u8), "a whole frame");
        xids.push(xid);
        bytes = rest;
    }
    xids
}

#[test]
fn bytes_arrive_in_order_after_a_delay() {
    run(1, |net, _| {
        net.set_conditions(Conditions { delay: (ms(10), ms(10)), jitter: ms(5), ..Conditions::default() });
        let listener = listen(B);
        let before = time::now();
        let (client, server) = pair(&listener);
        assert!(time::now() - before >= ms(30), "three packets");
        assert_eq!(client.peer_addr().unwrap(), addr(B));
        assert_eq!(client.local_addr().unwrap().ip(), ip(A));
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(server.local_addr().unwrap(), addr(B));
        let text: Vec<u8> = (0..100_u8).collect();
        let before = time::now();
        for byte in &text {
            write_all(&client, &[*byte]);
        }
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(server.wait(Interest::READ, None).unwrap());
        assert!(time::now() - before >= ms(10));
        drop(client);
        assert_eq!(drain(&server, ms(100)), (text, Some(Ok(()))));
    });
}

#[test]
fn nobody_listening_is_known_after_a_round_trip() {
    run(2, |net, _| {
        net.set_conditions(Conditions { delay: (ms(10), ms(10)), ..Conditions::default() });
        let before = time::now();
        let client = begin(A, B);
        assert_eq!(outcome(&client, ms(15)), None);
        assert_eq!(outcome(&client, ms(100)), Some(Err(ErrorKind::ConnectionRefused)));
        assert!(time::now() - before >= ms(20));
        assert!(client.peer_addr().is_err());
    });
}

#[test]
fn a_machine_has_its_own_localhost() {
    run(3, |_, _| {
        let _listener = listen(B);
        let to = SocketAddr::new(ip("127.0.0.1"), PORT);
        let own = on(B, move || TcpStream::connect(to).unwrap());
        assert_eq!(outcome(&own, ms(100)), Some(Ok(())));
        assert_eq!(own.peer_addr().unwrap(), to);
        let other = on(A, move || TcpStream::connect(to).unwrap());
        assert_eq!(outcome(&other, ms(100)), Some(Err(ErrorKind::ConnectionRefused)));
        // The same port on another machine is another port.
        let _second = listen(A);
        let foreign = addr(B);
        assert_eq!(on(A, move || TcpPort::bind(foreign).err().unwrap().kind()), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn a_writer_that_is_not_read_stops_and_hears_of_room() {
    run(4, |_, _| {
        let listener = listen(B);
        let (client, server) = pair(&listener);
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&client, Token(1), Interest::BOTH).unwrap();
        let mut events: Vec<Event> = Vec::new();
        let chunk = vec![7; 1000];
        let mut written = 0;
        while let Ok(n) = client.write(&chunk) {
            written += n;
        }
        assert_eq!(written, WINDOW);
        poll.poll(&mut events, Some(ms(10))).unwrap();
        poll.poll(&mut events, Some(ms(100))).unwrap();
        assert_eq!(events, []);
        assert_eq!(client.write(&chunk).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(drain(&server, ms(100)).0.len(), WINDOW);
        poll.poll(&mut events, Some(ms(100))).unwrap();
        assert_eq!(events, [Event { token: Token(1), readable: false, writable: true }]);
        // Big streams pass.
        let big = Node::new(A).spawn("writer", move || write_all(&client, &vec![7; 10 * WINDOW]));
        let mut read = 0;
        while read < 10 * WINDOW {
            read += drain(&server, ms(10)).0.len();
        }
        assert!(big.unwrap().join_until(Instant::NEVER));
    });
}

#[test]
fn a_connect_over_a_cut_link_waits() {
    let report = run(5, |net, _| {
        let listener = listen(B);
        for (from, to) in [(A, B), (B, A)] {
            net.set_link(ip(from), ip(to), LinkState::Cut);
            let client = begin(A, B);
            assert_eq!(outcome(&client, ms(5000)), None);
            assert_eq!(listener.accept().err().unwrap().kind(), ErrorKind::WouldBlock);
            net.set_link(ip(from), ip(to), LinkState::Open);
            assert_eq!(outcome(&client, ms(500)), Some(Ok(())));
            drop(accept(&listener));
        }
        net.set_link(ip(A), ip(B), LinkState::Cut);
        let client = begin(A, B);
        assert_eq!(outcome(&client, CONNECT_TIME_OUT - ms(100)), None);
        assert_eq!(outcome(&client, ms(200)), Some(Err(ErrorKind::TimedOut)));
    });
    assert_eq!(report.counts["fault: link cut held a connect"], 3);
    assert_eq!(report.counts["fault: connect timed out"], 1);
}

#[test]
fn a_link_can_be_cut_one_way() {
    let report = run(6, |net, _| {
        let listener = listen(B);
        let (client, server) = pair(&listener);
        net.set_link(ip(A), ip(B), LinkState::Cut);
        write_all(&client, b"one ");
        write_all(&server, b"back");
        assert_eq!(drain(&client, ms(1000)), (b"back".to_vec(), None));
        assert_eq!(drain(&server, ms(1000)), (vec![], None));
        write_all(&client, b"two");
        net.set_link(ip(A), ip(B), LinkState::Open);
        assert_eq!(drain(&server, ms(300)), (b"one two".to_vec(), None));
        // The time-out has been called off.
        assert_eq!(drain(&client, STALL_TIME_OUT * 2), (vec![], None));
        assert_eq!(drain(&server, ms(1)), (vec![], None));
    });
    assert_eq!(report.counts["fault: link cut held bytes"], 1);
    assert!(!report.counts.contains_key("fault: connection timed out"));
}

#[test]
fn a_long_cut_ends_the_senders_side() {
    // Also if only the acknowledgements are cut off.
    for (from, to, arrives) in [(A, B, false), (B, A, true)] {
        let report = run(7, move |net, _| {
            let listener = listen(B);
            let (client, server) = pair(&listener);
            net.set_link(ip(from), ip(to), LinkState::Cut);
            write_all(&client, b"lost");
            assert_eq!(drain(&client, STALL_TIME_OUT - ms(1)), (vec![], None));
            assert_eq!(drain(&client, ms(2)), (vec![], Some(Err(ErrorKind::TimedOut))));
            assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
            net.heal_all();
            let got = if arrives { b"lost".to_vec() } else { vec![] };
            assert_eq!(drain(&server, ms(60_000)), (got, None));
            write_all(&server, b"who is there?");
            assert_eq!(drain(&server, ms(100)), (vec![], Some(Err(ErrorKind::ConnectionReset))));
        });
        assert_eq!(report.counts["fault: connection timed out"], 1);
    }
}

#[test]
fn a_dead_process_is_noticed() {
    run(8, |net, _| {
        let listener = listen(B);
        let (client, server) = pair(&listener);
        let (other, unread) = pair(&listener);
        let _waiting = begin(A, B);
        write_all(&server, b"last words");
        write_all(&other, b"unread");
        assert!(unread.wait(Interest::READ, None).unwrap());
        net.process_died(ip(B));
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::NotConnected);
        assert_eq!(drain(&client, ms(100)), (b"last words".to_vec(), Some(Ok(()))));
        assert_eq!(drain(&other, ms(100)), (vec![], Some(Err(ErrorKind::ConnectionReset))));
        let again = begin(A, B);
        assert_eq!(outcome(&again, ms(100)), Some(Err(ErrorKind::ConnectionRefused)));
        // The port is free for the next process, whatever becomes of the old handles.
        let next = listen(B);
        drop((listener, server, unread));
        pair(&next);
        // What is sent to a process that is gone comes back as a reset.
        write_all(&client, b"hello?");
        time::sleep(ms(100));
        assert!(client.write(b"?").is_err());
    });
}

#[test]
fn a_machine_without_power_is_silent_and_then_resets() {
    let report = run(9, |net, _| {
        let listener = listen(B);
        let (client, _server) = pair(&listener);
        let (idle, _other) = pair(&listener);
        let (patient, _third) = pair(&listener);
        net.power_off(ip(B));
        let mut written = 0;
        while let Ok(n) = client.write(&[7; 1000]) {
            written += n;
        }
        assert_eq!(written, WINDOW);
        let connecting = begin(A, B);
        assert_eq!(outcome(&connecting, ms(7_000)), None);
        assert_eq!(drain(&client, ms(1)), (vec![], None));
        net.power_on(ip(B));
        assert_eq!(drain(&client, ms(300)), (vec![], Some(Err(ErrorKind::ConnectionReset))));
        assert_eq!(outcome(&connecting, ms(300)), Some(Err(ErrorKind::ConnectionRefused)));
        // Who sends nothing hears nothing.
        assert_eq!(drain(&idle, ms(1000)), (vec![], None));
        write_all(&idle, b"x");
        assert_eq!(drain(&idle, ms(100)), (vec![], Some(Err(ErrorKind::ConnectionReset))));
        net.power_off(ip(B));
        write_all(&patient, b"x");
        assert_eq!(drain(&patient, STALL_TIME_OUT + ms(1)), (vec![], Some(Err(ErrorKind::TimedOut))));
    });
    assert!(report.counts["fault: packets to a machine that is off"] >= 3);
}

#[test]
fn a_connection_asked_for_when_the_power_went_is_asked_for_again() {
    for micros in (0..3000).step_by(50) {
        run(micros, move |net, _| {
            net.set_conditions(Conditions { delay: (ms(1), ms(1)), ..Conditions::default() });
            let listener = listen(B);
            let client = begin(A, B);
            time::sleep(Duration::from_micros(micros));
            net.power_off(ip(B));
            drop(listener);
            time::sleep(ms(100));
            net.power_on(ip(B));
            let next = listen(B);
            // It is connected with the new listener, or connected and then reset.
            match outcome(&client, ms(1000)) {
                Some(Ok(())) => {
                    write_all(&client, b"x");
                    match drain(&client, ms(1000)).1 {
                        None => assert_eq!(drain(&accept(&next), ms(100)).0, b"x"),
                        end => assert_eq!(end, Some(Err(ErrorKind::ConnectionReset))),
                    }
                }
                end => assert_eq!(end, Some(Err(ErrorKind::ConnectionReset))),
            }
        });
    }
}

#[test]
fn a_broken_connection_is_reset_at_both_ends() {
    let report = run(10, |net, _| {
        let listener = listen(B);
        let (client, server) = pair(&listener);
        net.break_connections(ip(B), ip(A));
        for end in [&client, &server] {
            assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert_eq!(drain(end, ms(1)), (vec![], Some(Ok(()))), "told once");
            assert!(end.write(b"x").is_err());
        }
        pair(&listener);
    });
    assert_eq!(report.counts["fault: connection broken"], 1);
}

#[test]
fn a_broken_connections_bytes_arrive_late() {
    let [mut whole, mut half, mut overtaken] = [0; 3];
    for seed in 0..40 {
        let seen = Arc::new(Mutex::new(RANK, (0, false)));
        let place = seen.clone();
        let report = run(seed, move |net, _| {
            let listener = listen(B);
            let (client, server) = pair(&listener);
            net.break_at_next_frame(ip(A), ip(B));
            assert_eq!(drain(&server, ms(10)), (vec![], None));
            write_all(&client, &frame(1, 0x9001, 100));
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            let (again, other) = pair(&listener);
            write_all(&again, &frame(1, 0x9001, 100));
            let overtaken = drain(&server, ms(5)) == (vec![], None);
            assert_eq!(drain(&other, ms(5)).0.len(), 100);
            let (late, end) = drain(&server, ms(600));
            let (late, end) = if overtaken { (late, end) } else { (vec![0; 100], end) };
            assert!(!late.is_empty() && matches!(end, Some(Err(ErrorKind::ConnectionReset) | Ok(()))));
            *place.lock() = (late.len(), overtaken);
        });
        assert_eq!(report.counts["fault: late bytes of a broken connection"], 1);
        let (late, by_others) = *seen.lock();
        overtaken += usize::from(by_others);
        if late < 100 {
            half += 1;
        } else {
            whole += 1;
        }
    }
    assert!(whole > 5 && half > 3 && overtaken > 30, "{whole} {half} {overtaken}");
}

#[test]
fn bytes_under_way_are_late_in_some_breaks() {
    let mut late = 0;
    for seed in 0..40 {
        let report = run(seed, |net, _| {
            let listener = listen(B);
            let (client, server) = pair(&listener);
            write_all(&client, &frame(1, 0x9001, 100));
            net.break_connections(ip(A), ip(B));
            assert_eq!(drain(&client, ms(1)).1, Some(Err(ErrorKind::ConnectionReset)));
            assert_eq!(drain(&server, ms(600)).1, Some(Err(ErrorKind::ConnectionReset)));
        });
        late += report.counts.get("fault: late bytes of a broken connection").copied().unwrap_or(0);
    }
    assert!((10..30).contains(&late), "{late}");
}

#[test]
fn the_other_end_of_a_half_open_connection_hears_when_it_sends() {
    let mut sides = [0, 0];
    for seed in 0..20 {
        let side = Arc::new(Mutex::new(RANK, 0));
        let place = side.clone();
        run(seed, move |net, _| {
            let listener = listen(B);
            let (client, server) = pair(&listener);
            net.half_open(ip(A), ip(B));
            let ends = [&client, &server];
            let ended = ends.map(|end| drain(end, ms(0)).1 == Some(Err(ErrorKind::TimedOut)));
            assert_ne!(ended[0], ended[1]);
            let other = ends[usize::from(ended[0])];
            assert_eq!(drain(other, ms(60_000)), (vec![], None));
            write_all(other, b"x");
            assert_eq!(drain(other, ms(10)).1, Some(Err(ErrorKind::ConnectionReset)));
            *place.lock() = usize::from(ended[0]);
        });
        sides[*side.lock()] += 1;
    }
    assert!(sides[0] > 3 && sides[1] > 3);
}

#[test]
fn a_machine_may_refuse_for_a_time() {
    let report = run(11, |net, kernel| {
        let listener = listen(B);
        net.refuse(ip(B), kernel.now() + ms(100));
        assert_eq!(outcome(&begin(A, B), ms(50)), Some(Err(ErrorKind::ConnectionRefused)));
        time::sleep(ms(100));
        pair(&listener);
        net.refuse(ip(B), kernel.now() + ms(100));
        net.heal_all();
        pair(&listener);
    });
    assert_eq!(report.counts["fault: connect refused"], 1);
}

/// Sends requests 0 to 999 and as many replies; gives what came of both, and the counts.
fn exchange(seed: u64, faults: FrameFaults, conditions: &Conditions) -> ([Vec<u32>; 2], Report) {
    let conditions = Conditions { requests: faults, replies: faults, ..conditions.clone() };
    let got = Arc::new(Mutex::new(RANK, [vec![], vec![]]));
    let place = got.clone();
    let report = run(seed, move |net, _| {
        net.set_conditions(conditions);
        let listener = listen(B);
        let (client, server) = pair(&listener);
        let (mut requests, mut replies) = (vec![], vec![]);
        for xid in 0..1000 {
            write_all(&client, &frame(xid, 0x10001, 24 + xid as usize % 100));
            write_all(&server, &frame(xid, 0, 24 + xid as usize % 7));
            requests.extend(drain(&server, ms(1)).0);
            replies.extend(drain(&client, ms(1)).0);
        }
        // The latest are ten seconds late.
        requests.extend(drain(&server, ms(11_000)).0);
        replies.extend(drain(&client, ms(11_000)).0);
        *place.lock() = [xids(&requests), xids(&replies)];
    });
    let got = got.lock().clone();
    (got, report)
}

#[test]
fn frames_are_dropped_doubled_delayed_and_reordered() {
    let all: Vec<u32> = (0..1000).collect();
    let none = FrameFaults::NONE;
    let calm = Conditions::default();
    let (got, report) = exchange(1, none, &calm);
    assert_eq!(got, [all.clone(), all.clone()]);
    assert!(report.counts.keys().all(|name| !name.starts_with("fault")), "{:?}", report.counts);
    assert_eq!([report.counts["message: invoke"], report.counts["reply: invoke"]], [1000, 1000]);

    let (got, report) = exchange(2, FrameFaults { dropped: 100, ..none }, &calm);
    for (got, name) in got.iter().zip(["fault: request dropped", "fault: reply dropped"]) {
        assert!(got.is_sorted() && got.len() as u64 == 1000 - report.counts[name] && got.len() < 950);
    }
    let (got, report) = exchange(3, FrameFaults { doubled: 100, ..none }, &calm);
    for (mut got, name) in got.into_iter().zip(["fault: request doubled", "fault: reply doubled"]) {
        assert!(got.len() as u64 == 1000 + report.counts[name] && got.len() > 1050);
        got.sort_unstable();
        got.dedup();
        assert_eq!(got, all);
    }
    let (got, report) = exchange(4, FrameFaults { delayed: 100, ..none }, &calm);
    for (mut got, name) in got.into_iter().zip(["fault: request delayed", "fault: reply delayed"]) {
        assert!(!got.is_sorted() && report.counts[name] > 50);
        got.sort_unstable();
        assert_eq!(got, all);
    }
    let (got, report) = exchange(5, FrameFaults { reordered: 100, ..none }, &calm);
    for (mut got, name) in got.into_iter().zip(["fault: request reordered", "fault: reply reordered"]) {
        assert!(!got.is_sorted() && report.counts[name] > 50);
        got.sort_unstable();
        assert_eq!(got, all);
    }
}

#[test]
fn short_reads_and_writes_lose_nothing() {
    let conditions = Conditions { short_reads: 500, short_writes: 500, ..Conditions::default() };
    let faults = FrameFaults { dropped: 0, doubled: 100, delayed: 100, reordered: 100 };
    let (got, report) = exchange(1, faults, &conditions);
    for mut got in got {
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), 1000);
    }
    assert!(report.counts["fault: short read"] > 100 && report.counts["fault: short write"] > 100);
}

#[test]
fn streams_that_are_no_frames_pass() {
    for seed in 0..20 {
        run(seed, |net, _| {
            let faults = FrameFaults { dropped: 256, doubled: 256, delayed: 256, reordered: 256 };
            let conditions = Conditions { requests: faults, short_writes: 200, ..Conditions::default() };
            net.set_conditions(conditions);
            let listener = listen(B);
            let (client, server) = pair(&listener);
            let text = b"this is no PDU, whatever the network may think of it".repeat(100);
            write_all(&client, &text);
            assert_eq!(drain(&server, ms(100)), (text, None));
            // Less than a length, and then the end.
            let (client, server) = pair(&listener);
            write_all(&client, b"abc");
            drop(client);
            assert_eq!(drain(&server, ms(3000)), (b"abc".to_vec(), Some(Ok(()))));
        });
    }
}

#[test]
fn what_faults_hold_up_comes_before_the_end() {
    for seed in 0..20 {
        run(seed, |net, _| {
            let faults = FrameFaults { delayed: 512, reordered: 512, ..FrameFaults::NONE };
            net.set_conditions(Conditions { requests: faults, ..Conditions::default() });
            let listener = listen(B);
            let (client, server) = pair(&listener);
            (0..10).for_each(|xid| write_all(&client, &frame(xid, 1, 30)));
            drop(client);
            let (bytes, end) = drain(&server, ms(10));
            let mut got = xids(&bytes);
            got.sort_unstable();
            assert_eq!((got, end), ((0..10).collect(), Some(Ok(()))));
        });
    }
}

#[test]
fn frames_longer_than_the_window_pass() {
    for seed in 0..10 {
        run(seed, |net, _| {
            let faults = FrameFaults { dropped: 256, doubled: 256, delayed: 256, reordered: 256 };
            net.set_conditions(Conditions { requests: faults, ..Conditions::default() });
            let listener = listen(B);
            let (client, server) = pair(&listener);
            let writer = Node::new(A).spawn("writer", move || {
                (0..5).for_each(|xid| write_all(&client, &frame(xid, 1, 1 << 20)));
                drop(client);
            });
            let mut got = Vec::new();
            loop {
                let (bytes, end) = drain(&server, ms(100));
                got.extend(bytes);
                if end.is_some() {
                    break;
                }
            }
            assert_eq!(xids(&got), [0, 1, 2, 3, 4]);
            assert!(writer.unwrap().join_until(Instant::NEVER));
        });
    }
}

#[test]
fn slow_links_are_slow_until_they_heal() {
    let report = run(12, |net, _| {
        net.set_conditions(Conditions { delay: (ms(1), ms(1)), slow_links: 1024, ..Conditions::default() });
        let listener = listen(B);
        let (client, server) = pair(&listener);
        write_all(&client, b"x");
        assert_eq!(drain(&server, ms(9)).0, b"");
        assert_eq!(drain(&server, ms(200)).0, b"x");
        net.heal_all();
        write_all(&client, b"y");
        assert_eq!(drain(&server, ms(3)).0, b"y");
    });
    assert_eq!(report.counts["fault: slow link delivery"], 1);
}

/// Everything at once, between four machines; in the end all is well again.
fn storm(seed: u64) -> Report {
    run(seed, |net, kernel| {
        let faults = FrameFaults { dropped: 20, doubled: 40, delayed: 40, reordered: 40 };
        net.set_conditions(Conditions {
            requests: faults,
            replies: faults,
            slow_links: 200,
            short_reads: 100,
            short_writes: 100,
            ..Conditions::default()
        });
        let hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let stop = Arc::new(Mutex::new(RANK, false));
        let mut threads = Vec::new();
        for host in hosts {
            let listener = listen(host);
            let stopped = stop.clone();
            let server = move || {
                let mut streams: Vec<(TcpStream, Vec<u8>)> = Vec::new();
                while !*stopped.lock() {
                    streams.extend(listener.accept().ok().map(|(stream, _)| (stream, vec![])));
                    streams.retain_mut(|(stream, got)| {
                        let mut buffer = [0; 4096];
                        loop {
                            match stream.read(&mut buffer) {
                                Ok(0) => return false,
                                Ok(n) => got.extend(&buffer[..n]),
                                Err(e) => return e.kind() == ErrorKind::WouldBlock,
                            }
                            while got.len() >= 24 && got.len() >= got[3] as usize {
                                let rest = got.split_off(got[3] as usize);
                                assert_eq!(xids(got).len(), 1);
                                let xid = u32::from_be_bytes(got[4..8].try_into().unwrap());
                                *got = rest;
                                if try_write(stream, &frame(xid, 0, 24)).is_err() {
                                    return false;
                                }
                            }
                        }
                    });
                    time::sleep(ms(1));
                }
            };
            threads.push(Node::new(host).spawn("server", server).unwrap());
            let stopped = stop.clone();
            let client = move || {
                let mut xid = 0;
                while !*stopped.lock() {
                    let to = hosts[rt::random::below(4) as usize];
                    let stream = TcpStream::connect(addr(to)).unwrap();
                    stream.wait(Interest::WRITE, within(ms(500))).unwrap();
                    for _ in 0..rt::random::below(20) {
                        xid += 1;
                        if try_write(&stream, &frame(xid, 0x10001, 100)).is_err() {
                            break;
                        }
                        drain(&stream, ms(rt::random::below(5)));
                    }
                }
            };
            threads.push(Node::new(host).spawn("client", client).unwrap());
        }
        for _ in 0..300 {
            time::sleep(kernel.between(ms(0), ms(100)));
            let a = ip(hosts[kernel.below(4) as usize]);
            let b = ip(hosts[kernel.below(4) as usize]);
            match kernel.below(7) {
                0 | 1 => net.set_link(a, b, LinkState::Cut),
                2 => net.set_link(a, b, LinkState::Open),
                3 => net.break_connections(a, b),
                4 => net.break_at_next_frame(a, b),
                5 => net.half_open(a, b),
                _ => net.refuse(a, kernel.now() + ms(50)),
            }
        }
        net.heal_all();
        *stop.lock() = true;
        threads.into_iter().for_each(|thread| assert!(thread.join_until(Instant::NEVER)));
        let listener = listen(B);
        let (client, server) = pair(&listener);
        (0..1000).for_each(|xid| write_all(&client, &frame(xid, 1, 30)));
        assert_eq!(xids(&drain(&server, ms(100)).0).len(), 1000);
    })
}

#[test]
fn a_seed_gives_one_run() {
    let mut all = std::collections::BTreeMap::new();
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..5 {
        let (first, second) = (storm(seed), storm(seed));
        assert_eq!((first.hash, first.turns, first.ended_at), (second.hash, second.turns, second.ended_at));
        assert_eq!(first.counts, second.counts);
        hashes.insert(first.hash);
        first.counts.into_iter().for_each(|(name, count)| *all.entry(name).or_insert(0) += count);
    }
    assert_eq!(hashes.len(), 5);
    let known = counters();
    for name in all.keys() {
        assert!(known.contains(name) || name.ends_with(": other"), "{name}");
    }
    println!("{all:#?}");
}

#[test]
fn counters_are_listed_once() {
    let mut names = counters();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
