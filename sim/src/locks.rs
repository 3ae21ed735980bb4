//! The lock service, and caching clients that contend for a few locks.
//!
//! What a thread of a client does, turn by turn, as the dice have it: it takes a lock, or two, the lower one first, so
//! that no two threads wait for each other for ever, and releases them in either order; it waits as long as it takes, for
//! a short while, or not at all; it names the lock that it releases, or drops its guard. What it gave up it often tries to
//! get again at once.
//!
//! Some clients end in the middle of a run and come back: at another port, so that the service takes them for others, or
//! at the same. They take all the time that they need to end: a lock that hasn't gone back within
//! [`LockClientOptions::close_within`] stays with a client that is gone; nobody is told, and nobody can free it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rt::random::{below, duration_below};
use rt::time::now;
use yfs_lock::lock_client_cache_rsm::{AcquireError, LockClient, LockClientOptions, LockGuard, LockReleaseUser};
use yfs_lock::lock_protocol::LockId;
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rsm::{Options, RsmError};

use crate::cluster::Cluster;
use crate::kernel::Kernel;
use crate::oracles::LockOracle;
use crate::oracles::locks::USERS;
use crate::service::{Client, Replica, Service};

/// Where clients listen that are known by one name all the time.
const PORT: u16 = 4000;
/// How many turns each thread of a client has that ends in the middle of a run.
const TURNS: (u64, u64) = (3, 40);
/// How long acquires wait that may be given up, at most, in milliseconds.
const PATIENCES: [u64; 4] = [3, 30, 300, 2_000];

/// The service.
pub struct LockService {
    oracle: LockOracle,
}

impl LockService {
    /// The service, watched by a lock oracle.
    pub fn new(kernel: &Kernel) -> Self {
        LockService { oracle: LockOracle::new(kernel.clone()) }
    }

    fn connect(&self, client: &Client, listen: Option<SocketAddr>) -> Option<LockClient> {
        let number = client.number as u32;
        let options = LockClientOptions {
            listen,
            advertise: None,
            patience: Client::FOR_EVER,
            close_within: Client::FOR_EVER,
            // Some clients give each lock back at once: contended or not, there is something to do for the service.
            cache_limit: if number.is_multiple_of(2) { 0 } else { 100 },
            release_user: Some(Arc::new(Cache { oracle: self.oracle.clone(), client: number })),
            rpc: yfs_rpc::Options::default(),
            pollmgr: client.pollmgr.clone(),
        };
        let locks = client.request("connects", || LockClient::connect(&client.seeds, options));
        locks.map_err(|error| client.found(format!("client {number} can't connect: {error}"))).ok()
    }
}

impl Service for LockService {
    fn start(&self, options: Options) -> Result<Arc<dyn Replica>, RsmError> {
        Ok(Arc::new(LockServer::start(options)?))
    }

    fn client(&self, client: &Client) {
        let listen = (below(4) == 0).then(|| SocketAddr::new(Cluster::client_host(client.number), PORT));
        while client.goes_on() {
            let turns = if below(3) == 0 { u64::MAX } else { TURNS.0 + below(TURNS.1) };
            let greedy = below(4) == 0;
            let Some(locks) = self.connect(client, listen).map(Arc::new) else { return };
            let (oracle, shared) = (self.oracle.clone(), locks.clone());
            client.each_thread(move |client, thread| {
                let number = client.number as u32 * USERS + thread as u32;
                let mut user = User { oracle: &oracle, client, number, locks: &shared, greedy, given_up: None };
                user.live(turns);
            });
            let Some(locks) = Arc::into_inner(locks) else {
                return client.found(format!("client {}: a thread that has ended has its lock client", client.number));
            };
            client.request("ends", || drop(locks));
            self.oracle.closed(client.number as u32);
            client.idle(Duration::from_millis(200));
        }
    }

    fn check(&self) -> Result<(), String> {
        self.oracle.check()
    }
}

/// What a client's locks protect; writing it back takes its time.
struct Cache {
    oracle: LockOracle,
    client: u32,
}

impl LockReleaseUser for Cache {
    fn dorelease(&self, lock: LockId) {
        if below(16) == 0 {
            rt::time::sleep(duration_below(Duration::from_millis(5)));
        }
        self.oracle.written_back(self.client, lock.0);
    }
}

/// A thread that takes locks and gives them back.
struct User<'a> {
    oracle: &'a LockOracle,
    client: &'a Client,
    number: u32,
    locks: &'a LockClient,
    /// It and the other threads of its client hardly ever leave a lock unwanted.
    greedy: bool,
    /// What it gave up last.
    given_up: Option<u64>,
}

/// How long a user waits for a lock.
#[derive(Clone, Copy)]
enum How {
    /// Not at all.
    Tries,
    /// For a while.
    WaitsFor(Duration),
    /// As long as it takes.
    Waits,
}

impl How {
    fn draw() -> How {
        match below(8) {
            0 => How::Tries,
            1 | 2 => {
                let most = PATIENCES[below(PATIENCES.len() as u64) as usize];
                How::WaitsFor(duration_below(Duration::from_millis(most)))
            }
            _ => How::Waits,
        }
    }
}

/// A lock that a user has.
struct Held<'a> {
    lock: u64,
    guard: Option<LockGuard<'a>>,
}

impl<'a> User<'a> {
    fn live(&mut self, turns: u64) {
        for _ in 0..turns {
            if !self.client.goes_on() {
                break;
            }
            self.take_a_turn();
            self.client.idle(Duration::from_millis(if self.greedy { 1 } else { 25 }));
        }
    }

    fn take_a_turn(&mut self) {
        let lock = self.given_up.take().filter(|_| below(2) == 0).unwrap_or_else(|| below(self.client.keys));
        let mut wanted = vec![lock];
        if below(4) == 0 {
            wanted.push(below(self.client.keys));
            wanted.sort_unstable();
            wanted.dedup();
        }
        let mut held = Vec::new();
        for lock in wanted {
            let Some(has) = self.acquire(lock, How::draw()) else { break };
            held.push(has);
        }
        if !held.is_empty() && (self.greedy || below(2) == 0) {
            self.client.idle(Duration::from_millis(if self.greedy { 30 } else { 10 }));
        }
        if below(2) == 0 {
            held.reverse();
        }
        held.into_iter().for_each(|has| self.release(has));
    }

    fn acquire(&mut self, lock: u64, how: How) -> Option<Held<'a>> {
        let (oracle, locks, guarded) = (self.oracle, self.locks, below(2) == 0);
        self.client.request(&format!("user {} acquires {lock}", self.number), || {
            let asked = oracle.asked(self.number, lock);
            let mut deadline = None;
            let result: Result<(bool, Option<LockGuard<'a>>), AcquireError> = match how {
                How::Tries if guarded => locks.try_lock(lock).map(|guard| (guard.is_some(), guard)),
                How::Tries => locks.try_acquire(lock).map(|has| (has, None)),
                How::WaitsFor(time) => {
                    let end = *deadline.insert(now() + time);
                    locks.acquire_until(lock, end).map(|()| (true, None))
                }
                How::Waits if guarded => locks.lock(lock).map(|guard| (true, Some(guard))),
                How::Waits => locks.acquire(lock).map(|()| (true, None)),
            };
            if let Ok((true, guard)) = result {
                oracle.granted(asked);
                return Some(Held { lock, guard });
            }
            oracle.refused(asked);
            self.given_up = Some(lock);
            if let Err(error) = result {
                let may_end = match error {
                    AcquireError::TimedOut | AcquireError::Unanswered(_) => deadline.is_some_and(|end| now() >= end),
                    AcquireError::Refused(_) | AcquireError::Strange(_) => false,
                };
                if !may_end {
                    self.client.found(format!("user {}: acquire gave up: {error}", self.number));
                }
            }
            None
        })
    }

    fn release(&self, Held { lock, guard }: Held<'_>) {
        let releasing = self.oracle.releasing(self.number, lock);
        match guard {
            Some(guard) => drop(guard),
            None => {
                if let Err(error) = self.locks.release(lock) {
                    self.client.found(format!("user {}: a lock that it has can't be released: {error}", self.number));
                }
            }
        }
        self.oracle.released(releasing);
    }
}
