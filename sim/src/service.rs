//! What is simulated: a service of replicas, and its clients.
//!
//! Implement [`Service`] for a state machine of one's own, and give it to [`crate::run::run_service`]:
//! examples/counter.rs is the whole of it.

use std::sync::Arc;
use std::time::Duration;

use rt::time::Instant;
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rpc::PollMgr;
use yfs_rsm::{Options, Rsm, RsmClient, RsmError, StateMachine};

use crate::cluster::Cluster;

/// A replica that runs.
pub trait Replica: Send + Sync {
    /// The latest view that it knows, the primary first.
    fn view(&self) -> (u32, Vec<String>);
    /// Its state's bytes.
    fn state(&self) -> Vec<u8>;
    /// Whether it is the primary, and serves.
    fn is_primary(&self) -> bool;
}

impl<S: StateMachine> Replica for Rsm<S> {
    fn view(&self) -> (u32, Vec<String>) {
        Rsm::view(self)
    }

    fn state(&self) -> Vec<u8> {
        self.inspect(StateMachine::marshal_state)
    }

    fn is_primary(&self) -> bool {
        self.amiprimary()
    }
}

impl Replica for LockServer {
    fn view(&self) -> (u32, Vec<String>) {
        self.rsm().view()
    }

    fn state(&self) -> Vec<u8> {
        Replica::state(self.rsm())
    }

    fn is_primary(&self) -> bool {
        self.rsm().amiprimary()
    }
}

/// A service and what its clients do.
pub trait Service: Send + Sync + 'static {
    /// Starts a replica, on its node's first thread.
    ///
    /// # Errors
    /// Those of [`Rsm::new`] and [`Rsm::start`].
    fn start(&self, options: Options) -> Result<Arc<dyn Replica>, RsmError>;

    /// The life of a client, on its node's first thread: it works as long as [`Client::goes_on`].
    fn client(&self, client: &Client);

    /// Whether no two requests of clients are the same bytes, so that one that is executed twice is a mistake. Not so
    /// where a service tells repetitions itself.
    fn unique_requests(&self) -> bool {
        false
    }

    /// Looks at the whole run at its end.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A client's side of the simulation.
#[derive(Clone)]
pub struct Client {
    /// Its number, from 0.
    pub number: usize,
    /// How many threads it should have.
    pub threads: usize,
    /// How many keys clients contend for.
    pub keys: u64,
    /// The nodes of the service.
    pub seeds: Vec<String>,
    /// Its poll manager.
    pub pollmgr: PollMgr,
    pub(crate) cluster: Cluster,
}

impl Client {
    /// No request is ever given up: whatever happens, it ends when the service is well.
    pub const FOR_EVER: Duration = Duration::from_secs(100_000);

    /// Runs as many threads as the client should have, each given its number, and waits for them.
    pub fn each_thread(&self, work: impl Fn(&Client, usize) + Send + Sync + 'static) {
        let work = Arc::new(work);
        let start = |thread| {
            let (client, work) = (self.clone(), work.clone());
            rt::thread::spawn("user", move || work(&client, thread))
        };
        let threads: Vec<_> = (0..self.threads).map(start).collect();
        for thread in threads {
            match thread {
                Ok(thread) => drop(thread.join_until(Instant::NEVER)),
                Err(error) => self.found(format!("no thread: {error}")),
            }
        }
    }

    /// A client of the replicas; `None` if there is none, which is a finding.
    pub fn connect(&self) -> Option<RsmClient> {
        let connected = RsmClient::connect_on(&self.pollmgr, yfs_rpc::Options::default(), &self.seeds, Self::FOR_EVER);
        connected.map_err(|error| self.found(format!("client {} can't connect: {error}", self.number))).ok()
    }

    /// Whether another request is wanted.
    pub fn goes_on(&self) -> bool {
        self.cluster.clients_go_on()
    }

    /// Does a request, which has to complete in bounded time once the faults are over.
    pub fn request<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let number = self.cluster.begun(&format!("client {}: {what}", self.number));
        let result = work();
        self.cluster.completed(number);
        result
    }

    /// The time on no clock of anybody's, for histories.
    pub fn true_time(&self) -> Instant {
        self.cluster.world().kernel.now()
    }

    /// Sleeps for a while, at most `most`.
    pub fn idle(&self, most: Duration) {
        rt::time::sleep(rt::random::duration_below(most));
    }

    /// Something is wrong.
    pub fn found(&self, finding: String) {
        self.cluster.world().kernel.find(finding);
    }
}
