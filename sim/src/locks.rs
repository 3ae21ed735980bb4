//! The lock service, and caching clients that contend for a few locks.

use std::sync::Arc;
use std::time::Duration;

use rt::time::now;
use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rsm::{Options, RsmError};

use crate::kernel::Kernel;
use crate::oracles::LockOracle;
use crate::service::{Client, Replica, Service};

/// The service.
pub struct LockService {
    oracle: LockOracle,
}

impl LockService {
    /// The service, watched by a lock oracle.
    pub fn new(kernel: &Kernel) -> Self {
        LockService { oracle: LockOracle::new(kernel.clone()) }
    }
}

impl Service for LockService {
    fn start(&self, options: Options) -> Result<Arc<dyn Replica>, RsmError> {
        Ok(Arc::new(LockServer::start(options)?))
    }

    fn client(&self, client: &Client) {
        let options = LockClientOptions {
            listen: None,
            advertise: None,
            patience: Client::FOR_EVER,
            close_within: Duration::from_secs(20),
            // Some clients give each lock back at once: contended or not, there is something to do for the service.
            cache_limit: if client.number.is_multiple_of(2) { 0 } else { 100 },
            release_user: None,
            rpc: yfs_rpc::Options::default(),
            pollmgr: client.pollmgr.clone(),
        };
        let locks = match LockClient::connect(&client.seeds, options) {
            Ok(locks) => locks,
            Err(error) => return client.found(format!("a client can't connect: {error}")),
        };
        let oracle = self.oracle.clone();
        client.each_thread(move |client, thread| use_locks(&oracle, client, thread, &locks));
    }

    fn check(&self) -> Result<(), String> {
        self.oracle.check()
    }
}

/// A thread that takes locks and gives them back.
fn use_locks(oracle: &LockOracle, client: &Client, thread: usize, locks: &LockClient) {
    let user = (client.number * 16 + thread) as u32;
    while client.goes_on() {
        let lock = rt::random::below(client.keys);
        let how = rt::random::below(10);
        let has = client.request(&format!("thread {thread} acquires {lock}"), || {
            let asked = oracle.asked(user, lock);
            let has = match how {
                0 => locks.try_acquire(lock).unwrap_or(false),
                1 => locks.acquire_until(lock, now() + rt::random::duration_below(Duration::from_secs(2))).is_ok(),
                _ => locks.acquire(lock).is_ok(),
            };
            if has {
                oracle.granted(asked);
            } else {
                oracle.refused(asked);
            }
            if how > 1 && !has {
                client.found(format!("client {}: acquire gave up", client.number));
            }
            has
        });
        if has {
            if rt::random::below(2) == 0 {
                client.idle(Duration::from_millis(10));
            }
            let releasing = oracle.releasing(user, lock);
            if let Err(error) = locks.release(lock) {
                client.found(format!("client {}: a lock that it has can't be released: {error}", client.number));
            }
            oracle.released(releasing);
        }
        client.idle(Duration::from_millis(25));
    }
}
