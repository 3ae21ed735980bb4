//! At-most-once, at length: a million calls through a proxy that cuts connections and repeats requests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use common::{PATIENCE, Raw, RawListener, anywhere, server_at};
use rt::time::{Instant, now};
use yfs_rpc::{CallError, Client, Options, PollMgr, Procedure, Status};

const CLIENTS: usize = 4;
const CALLS: usize = 1_000_000;
const OUTSTANDING: usize = 256;

/// (client, call) to their sum: on the poll thread, and on the workers.
const SHORT: Procedure<(u32, u32), u32> = Procedure::new(1001);
const LONG: Procedure<(u32, u32), u32> = Procedure::new(1002);

/// One call in so many goes to the workers.
const LONG_EVERY: u32 = 16;

/// Of so many requests one meets this fate, on average.
const CUT: u64 = 5_000;
const TWICE: u64 = 100;
const REMEMBERED: u64 = 200;
const LATE: u64 = 200;
const ELSEWHERE: u64 = 5_000;
const MEMORY: usize = 200;
/// A proxy's connection that is silent for so long is cut: a repeated request may have led a reply elsewhere.
const SILENCE: Duration = Duration::from_millis(200);

fn one_in(count: u64) -> bool {
    rt::random::below(count) == 0
}

/// What the proxy does to one client's connections, one after the other.
struct Proxy {
    listener: RawListener,
    server: SocketAddr,
    stopping: AtomicBool,
    cuts: AtomicUsize,
    repeated: AtomicUsize,
}

impl Proxy {
    fn start(server: SocketAddr) -> Arc<Proxy> {
        let proxy = Arc::new(Proxy {
            listener: RawListener::new(),
            server,
            stopping: AtomicBool::new(false),
            cuts: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
        });
        let of_thread = proxy.clone();
        rt::thread::spawn("proxy", move || of_thread.run()).unwrap();
        proxy
    }

    fn run(&self) {
        let mut old = VecDeque::new();
        while !self.stopping.load(Ordering::Relaxed) {
            let Some(client) = self.listener.accept_until(now() + SILENCE) else { continue };
            let client = Arc::new(client);
            let server = Arc::new(Raw::connect(self.server));
            let (from, to) = (server.clone(), client.clone());
            let replies = rt::thread::spawn("proxy.replies", move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(Some(count)) = from.read_until(&mut buffer, Instant::NEVER) {
                    to.send(&buffer[..count]);
                }
                let _ = to.stream.shutdown();
            });
            self.carry_requests(&client, &server, &mut old);
            let _ = client.stream.shutdown();
            let _ = server.stream.shutdown();
            self.cuts.fetch_add(1, Ordering::Relaxed);
            assert!(replies.unwrap().join_until(now() + PATIENCE));
        }
    }

    /// Until the connection dies or is cut.
    fn carry_requests(&self, client: &Raw, server: &Raw, old: &mut VecDeque<Vec<u8>>) {
        let mut buffer = vec![0; 64 << 10];
        let mut kept = Vec::new();
        let mut out = Vec::new();
        while let Ok(Some(count)) = client.read_until(&mut buffer, now() + SILENCE) {
            kept.extend_from_slice(&buffer[..count]);
            let mut start = 0;
            let mut cut = false;
            while let Some(length) = kept[start..].first_chunk::<4>().map(|field| u32::from_be_bytes(*field) as usize) {
                let Some(request) = kept.get(start..start + length) else { break };
                start += length;
                out.extend_from_slice(request);
                if one_in(TWICE) {
                    out.extend_from_slice(request);
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                }
                if one_in(REMEMBERED) {
                    old.push_back(request.to_vec());
                    if old.len() > MEMORY {
                        old.pop_front();
                    }
                }
                if one_in(LATE)
                    && let Some(old) = old.get(rt::random::below(old.len() as u64) as usize)
                {
                    out.extend_from_slice(old);
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                }
                if one_in(ELSEWHERE)
                    && let Ok(elsewhere) = Raw::try_connect(self.server)
                {
                    old.iter().for_each(|request| _ = elsewhere.send(request));
                    self.repeated.fetch_add(old.len(), Ordering::Relaxed);
                }
                if one_in(CUT) {
                    // Anywhere in what would go out next.
                    out.truncate(rt::random::below(out.len() as u64 + 1) as usize);
                    cut = true;
                    break;
                }
            }
            kept.drain(..start);
            if !server.send(&out) || cut {
                return;
            }
            out.clear();
        }
    }
}

/// One client's calls, so many at a time.
struct Caller {
    number: u32,
    client: Client,
    next: AtomicUsize,
    answered: AtomicUsize,
    failed: AtomicUsize,
}

impl Caller {
    fn call_next(self: &Arc<Self>) {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        if call >= CALLS / CLIENTS {
            return;
        }
        let call = call as u32;
        let caller = self.clone();
        let procedure = if call.is_multiple_of(LONG_EVERY) { LONG } else { SHORT };
        let done = move |reply: Result<(i32, u32), CallError>| {
            if reply != Ok((0, caller.number + call)) {
                eprintln!("client {}, call {call}: {reply:?}", caller.number);
                caller.failed.fetch_add(1, Ordering::Relaxed);
            }
            caller.answered.fetch_add(1, Ordering::Relaxed);
            caller.call_next();
        };
        self.client.call_async(procedure, (self.number, call), 10 * PATIENCE, done);
    }
}

#[test]
fn none_of_a_million_calls_is_executed_twice_or_lost() {
    let executions: Arc<Vec<AtomicU8>> = Arc::new((0..CALLS).map(|_| AtomicU8::new(0)).collect());
    let again = Arc::new(AtomicUsize::new(0));
    let server = server_at(anywhere(), Options::default(), |server| {
        let execute = |client: u32, call: u32, executions: &[AtomicU8], again: &AtomicUsize| {
            let count = &executions[client as usize * (CALLS / CLIENTS) + call as usize];
            if count.fetch_add(1, Ordering::Relaxed) > 0 {
                again.fetch_add(1, Ordering::Relaxed);
            }
            (Status::OK, client + call)
        };
        let (counts, twice) = (executions.clone(), again.clone());
        server.reg_inline(SHORT, move |client, call| execute(client, call, &counts, &twice));
        let (counts, twice) = (executions.clone(), again.clone());
        server.reg(LONG, move |client, call| execute(client, call, &counts, &twice));
    });
    let pollmgr = PollMgr::new().unwrap();
    let proxies: Vec<_> = (0..CLIENTS).map(|_| Proxy::start(server.local_addr())).collect();
    let callers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let addr = proxies[number].listener.addr();
            Arc::new(Caller {
                number: number as u32,
                client: Client::new_on(&pollmgr, addr, Options::default()),
                next: AtomicUsize::new(0),
                answered: AtomicUsize::new(0),
                failed: AtomicUsize::new(0),
            })
        })
        .collect();
    for caller in &callers {
        (0..OUTSTANDING).for_each(|_| caller.call_next());
    }

    let sum = |of: fn(&Caller) -> &AtomicUsize| callers.iter().map(|c| of(c).load(Ordering::Relaxed)).sum::<usize>();
    let deadline = now() + 10 * PATIENCE;
    while sum(|caller| &caller.answered) < CALLS {
        assert_eq!(again.load(Ordering::Relaxed), 0, "executed again");
        assert!(now() < deadline, "{} of {CALLS} calls are answered", sum(|caller| &caller.answered));
        rt::time::sleep(Duration::from_millis(20));
    }
    for proxy in &proxies {
        proxy.stopping.store(true, Ordering::Relaxed);
        assert!(proxy.cuts.load(Ordering::Relaxed) > 5, "no test without cuts");
        assert!(proxy.repeated.load(Ordering::Relaxed) > 1000, "no test without repetitions");
    }
    assert_eq!(sum(|caller| &caller.failed), 0);
    for (call, count) in executions.iter().enumerate() {
        assert_eq!(count.load(Ordering::Relaxed), 1, "call {call}");
    }
    assert!(server.shutdown());
}
