//! The lab's client of one server (`rpcc`), one call at a time.

use std::net::SocketAddr;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::now;

use crate::socket::Socket;
use crate::wire::{BIND, Enc, Request, garbage, only, parse_reply};

/// The pause before a request goes out again on a new connection (lab: 1 s, doubling; here tests wait for it).
const RETRANSMIT: Duration = Duration::from_millis(50);

/// Nobody answered in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Timeout;

/// Status and result.
pub(crate) type Answer = (i32, Vec<u8>);

struct State {
    socket: Option<Socket>,
    /// 0: not bound.
    server: u32,
    next_xid: i32,
}

pub(crate) struct StrictClient {
    addr: SocketAddr,
    pub(crate) nonce: u32,
    state: Mutex<State>,
}

impl StrictClient {
    pub(crate) fn new(addr: SocketAddr) -> StrictClient {
        let state = State { socket: None, server: 0, next_xid: 1 };
        StrictClient { addr, nonce: garbage() | 1, state: Mutex::new(Rank::new(400, "strict.client"), state) }
    }

    /// The client of a node or server by its name, a port.
    pub(crate) fn of(name: &str) -> StrictClient {
        let port = name.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        StrictClient::new(([127, 0, 0, 1], port).into())
    }

    /// A client that is bound.
    pub(crate) fn bound(name: &str) -> StrictClient {
        let client = StrictClient::of(name);
        client.bind(crate::PATIENCE).unwrap();
        client
    }

    /// Argument 0; the result is the server's nonce and not a byte more.
    pub(crate) fn bind(&self, total: Duration) -> Result<u32, Timeout> {
        let (status, result) = self.call(BIND, Enc::new().i32(0), total)?;
        assert_eq!(status, 0, "bind");
        let nonce = only("bind's result", &result, |dec| dec.u32());
        assert_ne!(nonce, 0);
        self.state.lock().server = nonce;
        Ok(nonce)
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.state.lock().server != 0
    }

    /// Pretends to have been bound to a server that is no more.
    pub(crate) fn remember(&self, server: u32) {
        self.state.lock().server = server;
    }

    /// Kills the connection; the next request finds out.
    pub(crate) fn break_connection(&self) {
        if let Some(socket) = &self.state.lock().socket {
            socket.close();
        }
    }

    pub(crate) fn call(&self, procedure: u32, args: Enc, total: Duration) -> Result<Answer, Timeout> {
        let mut state = self.state.lock();
        let xid = state.next_xid;
        state.next_xid += 1;
        let request = Request {
            xid,
            procedure,
            client: self.nonce,
            server: state.server,
            // One call at a time: all before are done with.
            xid_rep: xid - 1,
            args: args.0,
        };
        self.transmit(&mut state, &request, total)
    }

    /// Sends the request before the last one of this client once more, to the byte, and takes its answer.
    pub(crate) fn again(&self, procedure: u32, args: Enc, total: Duration) -> Result<Answer, Timeout> {
        let mut state = self.state.lock();
        let xid = state.next_xid - 1;
        let request =
            Request { xid, procedure, client: self.nonce, server: state.server, xid_rep: xid - 1, args: args.0 };
        self.transmit(&mut state, &request, total)
    }

    fn transmit(&self, state: &mut State, request: &Request, total: Duration) -> Result<Answer, Timeout> {
        let deadline = now() + total;
        let pdu = request.pdu();
        while now() < deadline {
            if state.socket.is_none() {
                state.socket = Socket::connect(self.addr).ok().filter(|socket| socket.send(&pdu));
            } else if !state.socket.as_ref().unwrap().send(&pdu) {
                state.socket = None;
            }
            while let Some(socket) = &state.socket {
                match socket.pdu(deadline, || false) {
                    Ok(reply) => {
                        let (xid, value, result) = parse_reply(&reply);
                        assert!(xid <= request.xid, "a reply to what nobody asked");
                        if xid == request.xid {
                            assert!(value >= 0 || result.is_empty(), "bytes after error {value}: {result:02x?}");
                            return Ok((value, result));
                        }
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::TimedOut => return Err(Timeout),
                    Err(_) => state.socket = None,
                }
            }
            rt::time::sleep(RETRANSMIT);
        }
        Err(Timeout)
    }
}
