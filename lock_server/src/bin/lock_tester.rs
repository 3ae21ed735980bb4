//! Tests a lock service with six caching clients (the lab's `lock_tester`).
//!
//! Whether a lock is held twice is seen outside the lock service: each thread that has a lock says so in one table of
//! this process.

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rt::console::{end, say};
use rt::sync::{Mutex, Rank};
use rt::thread::JoinHandle;
use rt::time::{Instant, now, sleep};
use tracing_subscriber::filter::LevelFilter;
use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};
use yfs_lock::lock_protocol::LockId;

use common::{Common, FAILED, server_name};

/// Clients, and threads in tests 2, 3 and 5.
const CLIENTS: usize = 6;
/// How often a thread takes the lock in tests 3 to 5.
const TIMES: usize = 10;
/// How long a thread has the lock: in test 2, and in the others.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(10));
/// When the tester gives up.
const DEADLINE: Duration = Duration::from_secs(600);
/// How long clients may take to give their locks back at the end.
const CLOSE: Duration = Duration::from_secs(5);

const A: LockId = LockId(1);
const B: LockId = LockId(2);

const HOLDERS_RANK: Rank = Rank::new(100, "lock_tester.holders");

/// Tests a lock service: six clients take locks in turn, and no lock may ever be held twice.
///
/// Test 1: one client takes and gives back two locks. Test 2: six clients take one lock in turn and hold it for 1 s.
/// Test 3: six clients, ten times each. Test 4: two threads of one client, ten times each. Test 5: six threads over two
/// clients.
#[derive(Parser, Debug)]
#[command(
    name = "lock_tester",
    version,
    after_help = "\
Examples:
  lock_tester 21000           all tests, against the service that port 21000 of this machine belongs to
  lock_tester 10.0.0.5:21000 3

The last line says `passed all tests successfully`. Exit status: 0 if so, 1 if not or after 600 s, 2 after a wrong
command line, 141 if nobody reads what it says."
)]
struct Arguments {
    /// A server of the service: a port of this machine, or host:port.
    #[arg(value_name = "SERVER", value_parser = server_name)]
    server: String,

    /// Only this test.
    #[arg(value_name = "TEST", value_parser = clap::value_parser!(u8).range(1..=5))]
    test: Option<u8>,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up(LevelFilter::WARN);
    let started = now();
    let outcome = rt::thread::spawn("deadline", move || give_up_at(started + DEADLINE))
        .map_err(|e| format!("cannot start a thread: {e}").into())
        .and_then(|_deadline| run(&arguments, started))
        .and_then(|()| {
            let program = std::env::args().next().unwrap_or_else(|| "lock_tester".to_owned());
            Ok(say(format_args!("{program}: passed all tests successfully"))?)
        });
    if let Err(error) = outcome {
        end("lock_tester", &*error, FAILED);
    }
}

fn give_up_at(deadline: Instant) {
    sleep(deadline - now());
    fail(&format!("no end after {} s", DEADLINE.as_secs()));
}

fn fail(reason: &str) -> ! {
    end("lock_tester", &*Failure::from(reason), FAILED)
}

type Failure = Box<dyn Error + Send + Sync>;

fn run(arguments: &Arguments, started: Instant) -> Result<(), Failure> {
    let server = &arguments.server;
    let connect = |_| {
        let options = LockClientOptions {
            rpc: arguments.common.rpc(),
            patience: DEADLINE,
            close_within: CLOSE,
            ..LockClientOptions::default()
        };
        LockClient::connect(std::slice::from_ref(server), options)
            .map(Arc::new)
            .map_err(|e| format!("no lock service at {server}: {e}"))
    };
    let clients = (0..CLIENTS).map(connect).collect::<Result<Vec<_>, _>>()?;
    let tester = Tester { clients, holders: Arc::new(Mutex::new(HOLDERS_RANK, BTreeMap::new())), started };
    let wanted = |test| arguments.test.is_none_or(|only| only == test);
    if wanted(1) {
        tester.test1()?;
    }
    if wanted(2) {
        tester.in_threads("test 2: six clients, once each, holding for 1 s", &[0, 1, 2, 3, 4, 5], 1, HOLD.0)?;
    }
    if wanted(3) {
        tester.in_threads("test 3: six clients, ten times each", &[0, 1, 2, 3, 4, 5], TIMES, HOLD.1)?;
    }
    if wanted(4) {
        tester.in_threads("test 4: two threads of one client, ten times each", &[0, 0], TIMES, HOLD.1)?;
    }
    if wanted(5) {
        tester.in_threads(
            "test 5: six threads over two clients, ten times each",
            &[0, 1, 0, 1, 0, 1],
            TIMES,
            HOLD.1,
        )?;
    }
    Ok(())
}

struct Tester {
    clients: Vec<Arc<LockClient>>,
    holders: Arc<Mutex<BTreeMap<LockId, usize>>>,
    started: Instant,
}

impl Tester {
    /// One client takes and gives back two locks, one of them while it has the other.
    fn test1(&self) -> Result<(), Failure> {
        let began = now();
        let client = &self.clients[0];
        for _ in 0..2 {
            take(client, &self.holders, 0, A)?;
            give_back(client, &self.holders, 0, A)?;
        }
        take(client, &self.holders, 0, A)?;
        take(client, &self.holders, 0, B)?;
        give_back(client, &self.holders, 0, B)?;
        give_back(client, &self.holders, 0, A)?;
        self.passed("test 1: one client, two locks", began)
    }

    /// One thread for each of `clients`, which takes lock 1 `times` times.
    fn in_threads(&self, what: &str, clients: &[usize], times: usize, hold: Duration) -> Result<(), Failure> {
        let began = now();
        let deadline = self.started + DEADLINE;
        let threads: Vec<JoinHandle> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let (client, holders) = (self.clients[*client].clone(), self.holders.clone());
                rt::thread::spawn("tester", move || {
                    for _ in 0..times {
                        let turn = take(&client, &holders, number, A).and_then(|()| {
                            sleep(hold);
                            give_back(&client, &holders, number, A)
                        });
                        if let Err(reason) = turn {
                            fail(&reason);
                        }
                    }
                })
                .map_err(|e| format!("cannot start a thread: {e}"))
            })
            .collect::<Result<_, _>>()?;
        if !threads.iter().all(|thread| thread.join_until(deadline)) {
            return Err(format!("{what}: a thread never got the lock").into());
        }
        self.passed(what, began)
    }

    fn passed(&self, what: &str, began: Instant) -> Result<(), Failure> {
        Ok(say(format_args!("{what}: ok ({:.3} s)", began.elapsed().as_secs_f64()))?)
    }
}

type Holders = Mutex<BTreeMap<LockId, usize>>;

/// Takes a lock, and sees that no other thread of this process has it.
fn take(client: &LockClient, holders: &Holders, thread: usize, lock: LockId) -> Result<(), String> {
    client.acquire(lock).map_err(|e| format!("acquire of lock {lock} by {}: {e}", client.id()))?;
    let before = holders.lock().insert(lock, thread);
    match before {
        None => Ok(()),
        Some(other) => Err(format!("lock {lock} is held twice: by thread {other} and by thread {thread}")),
    }
}

/// The reverse; the table first, as somebody else may have the lock at once.
fn give_back(client: &LockClient, holders: &Holders, thread: usize, lock: LockId) -> Result<(), String> {
    let holder = holders.lock().remove(&lock);
    if holder != Some(thread) {
        return Err(format!("lock {lock} is held twice: thread {thread} has it, and so had {holder:?}"));
    }
    client.release(lock).map_err(|e| format!("release of lock {lock} by {}: {e}", client.id()))
}
