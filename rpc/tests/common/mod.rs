//! A peer that speaks raw bytes, and what the tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rt::net::{Interest, TcpListener, TcpPort, TcpStream};
use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::JoinHandle;
use rt::time::{Instant, now};
use yfs_rpc::pdu::{self, ClientNonce, HEADER_BYTES, ReplyHeader, RequestHeader, ServerNonce, Verbatim, Xid};
use yfs_rpc::{Client, Options, PollMgr, Procedure, Server, Status};

/// What must happen happens within this time, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Adds 1.
pub(crate) const ADD: Procedure<(i32,), i32> = Procedure::new(0x101);
/// Returns its argument.
pub(crate) const ECHO: Procedure<(String,), String> = Procedure::new(0x102);

pub(crate) const BIND: u32 = 1;

pub(crate) fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A started server with [`ADD`] and [`ECHO`], and what `more` registers.
pub(crate) fn server_at(addr: SocketAddr, options: Options, more: impl FnOnce(&Server)) -> Server {
    let server = Server::bind_on(&PollMgr::new().unwrap(), addr, options).unwrap();
    server.reg(ADD, |n: i32| (Status::OK, n + 1));
    server.reg_inline(ECHO, |text: String| (Status::OK, text));
    more(&server);
    server.start().unwrap();
    server
}

pub(crate) fn server() -> Server {
    server_at(anywhere(), Options::default(), |_| {})
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "{what}: not within {PATIENCE:?}");
        rt::time::sleep(Duration::from_millis(5));
    }
}

/// A listener that is waited for.
pub(crate) struct RawListener(TcpListener);

impl RawListener {
    pub(crate) fn new() -> Self {
        RawListener(TcpPort::bind(anywhere()).unwrap().listen().unwrap())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection; `None` if none comes before the deadline.
    pub(crate) fn accept_until(&self, deadline: Instant) -> Option<Raw> {
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return Some(Raw { stream, kept: Vec::new() }),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            if now() >= deadline {
                return None;
            }
            rt::time::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn accept(&self) -> Raw {
        self.accept_until(now() + PATIENCE).expect("a connection")
    }
}

/// One end of a connection, waited for.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    kept: Vec<u8>,
}

impl Raw {
    /// # Errors
    /// When nobody takes the connection.
    pub(crate) fn try_connect(addr: SocketAddr) -> io::Result<Raw> {
        let stream = TcpStream::connect(addr)?;
        stream.wait(Interest::WRITE, Some(now() + PATIENCE))?;
        stream.take_error()?.map_or(Ok(Raw { stream, kept: Vec::new() }), Err)
    }

    pub(crate) fn connect(addr: SocketAddr) -> Raw {
        Raw::try_connect(addr).unwrap()
    }

    /// Connects and binds; returns the server's nonce too.
    pub(crate) fn bound(addr: SocketAddr, client: ClientNonce) -> (Raw, ServerNonce) {
        let mut raw = Raw::connect(addr);
        raw.send(&request(1, BIND, client, ServerNonce(0), &0_i32.to_be_bytes()));
        let (header, result) = raw.reply();
        assert_eq!(header, ReplyHeader { xid: Xid(1), value: 0 });
        let nonce = u32::from_be_bytes(result.try_into().expect("a nonce and nothing else"));
        (raw, ServerNonce(nonce))
    }

    /// Writes all of it; false if the connection dies, or the peer doesn't read for long.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.stream.wait(Interest::WRITE, Some(now() + PATIENCE)).unwrap() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads some bytes; `None` when the connection has ended.
    pub(crate) fn read_until(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => return Ok(Some(count)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.stream.wait(Interest::READ, Some(deadline))? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next PDU; `None` when the connection has ended.
    pub(crate) fn pdu(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(length) = self.kept.first_chunk::<4>().map(|field| u32::from_be_bytes(*field) as usize) {
                assert!((HEADER_BYTES..=pdu::MAX_PDU_BYTES).contains(&length), "a PDU of {length} bytes");
                if self.kept.len() >= length {
                    return Some(self.kept.drain(..length).collect());
                }
            }
            let count = self.read_until(&mut buffer, now() + PATIENCE).unwrap()?;
            self.kept.extend_from_slice(&buffer[..count]);
        }
    }

    /// The next reply.
    pub(crate) fn reply(&mut self) -> (ReplyHeader, Vec<u8>) {
        let pdu = self.pdu().expect("a reply");
        let (header, result) = ReplyHeader::parse(&pdu).expect("a reply");
        (header, result.to_vec())
    }

    /// Whether the connection still stands, as a byte more shows; nothing is read.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.stream.write(&[0]), Err(e) if e.kind() != io::ErrorKind::WouldBlock)
    }

    /// Waits until the peer has closed the connection, whatever it sends before.
    pub(crate) fn wait_for_end(&self) {
        let mut buffer = vec![0; 64 << 10];
        let deadline = now() + PATIENCE;
        while self.read_until(&mut buffer, deadline).expect("the peer closes the connection").is_some() {}
    }
}

/// A request's bytes.
pub(crate) fn request(xid: i32, procedure: u32, client: ClientNonce, server: ServerNonce, args: &[u8]) -> Vec<u8> {
    let header =
        RequestHeader { xid: Xid(xid), procedure, client_nonce: client, server_nonce: server, xid_rep: Xid(0) };
    pdu::request(&header, &Verbatim(args)).unwrap()
}

/// Lets those who wait go on, once.
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn new() -> Arc<Gate> {
        Arc::new(Gate { open: Mutex::new(Rank::new(10, "test.gate"), false), opened: Condvar::new() })
    }

    pub(crate) fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }

    pub(crate) fn wait(&self) {
        let mut open = self.open.lock();
        while !*open {
            assert!(self.opened.wait_until(&mut open, now() + PATIENCE), "the gate stays closed");
        }
    }
}

/// A client that goes about its business beside whatever the test does to the server.
pub(crate) struct Bystander {
    stopping: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    thread: JoinHandle,
}

impl Bystander {
    pub(crate) fn start(addr: SocketAddr) -> Self {
        let (stopping, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, count) = (stopping.clone(), calls.clone());
        let thread = rt::thread::spawn("bystander", move || {
            let client = Client::new_on(&PollMgr::new().unwrap(), addr, Options::default());
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.call(ADD, (n,), PATIENCE), Ok((0, n + 1)));
                assert_eq!(client.call(ECHO, ("bystander".into(),), PATIENCE), Ok((0, "bystander".into())));
                n += 1;
                count.fetch_add(1, Ordering::Relaxed);
                rt::time::sleep(Duration::from_millis(1));
            }
        });
        Bystander { stopping, calls, thread: thread.unwrap() }
    }

    /// Waits until it has been served a few times more.
    pub(crate) fn is_served(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        eventually("a bystander is served", || self.calls.load(Ordering::Relaxed) > before + 3);
    }

    pub(crate) fn stop(self) {
        self.is_served();
        self.stopping.store(true, Ordering::Relaxed);
        assert!(self.thread.join_until(now() + PATIENCE));
    }
}

/// The memory that the process has in use.
pub(crate) fn resident_bytes() -> usize {
    let status = String::from_utf8(rt::fs::read("/proc/self/status".as_ref()).unwrap()).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}
