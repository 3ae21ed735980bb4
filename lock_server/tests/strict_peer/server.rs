//! The lab's server (`rpcs`): a thread a request, replies kept for clients that send again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rt::net::{TcpListener, TcpPort};
use rt::sync::{Mutex, Rank};
use rt::time::now;

use crate::client::Answer;
use crate::socket::Socket;
use crate::wire::{BIND, Enc, OLDSRV, Request, garbage, reply};

/// What a server does with its requests: procedure and arguments in, status and whole result out. It panics on what a
/// C++ server would abort on.
pub(crate) type Handler = Arc<dyn Fn(u32, &[u8]) -> Answer + Send + Sync>;

enum Slot {
    /// Procedure and arguments of a request that is being executed.
    InProgress(u32, Vec<u8>),
    Done(u32, Vec<u8>, Vec<u8>),
}

#[derive(Default)]
struct State {
    /// By client nonce and xid.
    window: BTreeMap<(u32, i32), Slot>,
    /// By client nonce: where replies go.
    newest: BTreeMap<u32, (usize, Arc<Socket>)>,
    sockets: Vec<Arc<Socket>>,
    /// How many connections were accepted.
    opened: usize,
}

struct Inner {
    nonce: u32,
    handler: Handler,
    state: Mutex<State>,
    stopping: AtomicBool,
}

/// Ends when dropped or stopped.
pub(crate) struct StrictServer {
    addr: SocketAddr,
    inner: Arc<Inner>,
}

/// A port that is taken and doesn't answer yet.
pub(crate) struct Reserved(TcpPort);

impl Reserved {
    pub(crate) fn any() -> Reserved {
        Reserved(TcpPort::bind(([127, 0, 0, 1], 0).into()).unwrap())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    pub(crate) fn serve(self, handler: Handler) -> StrictServer {
        let addr = self.0.local_addr().unwrap();
        let state = Mutex::new(Rank::new(405, "strict.server"), State::default());
        let inner = Arc::new(Inner { nonce: garbage() | 1, handler, state, stopping: AtomicBool::new(false) });
        let (listener, serving) = (self.0.listen().unwrap(), inner.clone());
        rt::thread::spawn("strict listener", move || serving.accept(&listener)).unwrap();
        StrictServer { addr, inner }
    }
}

impl StrictServer {
    pub(crate) fn start(handler: Handler) -> StrictServer {
        Reserved::any().serve(handler)
    }

    pub(crate) fn name(&self) -> String {
        self.addr.port().to_string()
    }

    /// As if the process had died: connections are reset, new ones refused.
    pub(crate) fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        let sockets = std::mem::take(&mut self.inner.state.lock().sockets);
        sockets.iter().for_each(|socket| socket.close());
    }

    /// Breaks all connections, and goes on.
    pub(crate) fn break_connections(&self) {
        let sockets = std::mem::take(&mut self.inner.state.lock().sockets);
        sockets.iter().for_each(|socket| socket.close());
    }
}

impl Drop for StrictServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.stopping() {
            if let Ok((stream, _)) = listener.accept() {
                let (socket, reading) = (Arc::new(Socket::of(stream)), self.clone());
                let order = {
                    let mut state = self.state.lock();
                    state.sockets.push(socket.clone());
                    state.opened += 1;
                    state.opened
                };
                rt::thread::spawn("strict reader", move || reading.read(&socket, order)).unwrap();
            } else {
                rt::time::sleep(Duration::from_millis(2));
            }
        }
    }

    fn read(self: Arc<Self>, socket: &Arc<Socket>, order: usize) {
        while !self.stopping() {
            match socket.pdu(now() + crate::PATIENCE, || self.stopping()) {
                Ok(pdu) => self.dispatch(socket, order, Request::parse(&pdu)),
                Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
                Err(_) => break,
            }
        }
        socket.close();
    }

    fn dispatch(self: &Arc<Self>, socket: &Arc<Socket>, order: usize, request: Request) {
        assert!(request.xid >= 1 && request.xid_rep < request.xid, "{request:?}");
        assert_ne!(request.client, 0, "a client that wants at-most-once");
        if request.server != 0 && request.server != self.nonce {
            socket.send(&reply(request.xid, OLDSRV, &[]));
            return;
        }
        assert_eq!(request.server == 0, request.procedure == BIND, "a client binds first, and once: {request:?}");
        let key = (request.client, request.xid);
        {
            let mut state = self.state.lock();
            let again = match state.window.get(&key) {
                None => None,
                Some(Slot::InProgress(procedure, args)) => Some((*procedure, args.clone(), None)),
                Some(Slot::Done(procedure, args, kept)) => Some((*procedure, args.clone(), Some(kept.clone()))),
            };
            // The one that was opened last, as the lab has it: what an older one still holds may be read later.
            if state.newest.get(&request.client).is_none_or(|(newest, _)| *newest <= order) {
                state.newest.insert(request.client, (order, socket.clone()));
            }
            if let Some((procedure, args, kept)) = again {
                assert_eq!((procedure, &args), (request.procedure, &request.args), "a request that changes");
                drop(state);
                if let Some(kept) = kept {
                    socket.send(&kept);
                }
                return;
            }
            let forgotten = (request.client, i32::MIN)..=(request.client, request.xid_rep);
            let old: Vec<_> = state.window.range(forgotten).map(|(key, _)| *key).collect();
            old.iter().for_each(|key| drop(state.window.remove(key)));
            state.window.insert(key, Slot::InProgress(request.procedure, request.args.clone()));
        }
        let executing = self.clone();
        rt::thread::spawn("strict handler", move || executing.execute(request)).unwrap();
    }

    fn execute(&self, request: Request) {
        let (value, result) = if request.procedure == BIND {
            // The argument is not looked at, but it is one int.
            assert_eq!(request.args.len(), 4, "bind's argument");
            (0, Enc::new().u32(self.nonce).0)
        } else {
            (self.handler)(request.procedure, &request.args)
        };
        let bytes = reply(request.xid, value, &result);
        let socket = {
            let mut state = self.state.lock();
            let slot = Slot::Done(request.procedure, request.args, bytes.clone());
            state.window.insert((request.client, request.xid), slot);
            state.newest.get(&request.client).map(|(_, socket)| socket.clone())
        };
        if let Some(socket) = socket.filter(|_| !self.stopping()) {
            socket.send(&bytes);
        }
    }
}
