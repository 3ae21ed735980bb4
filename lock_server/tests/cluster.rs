//! Whole services in one process: three nodes, caching clients, real sockets on free ports.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rt::sync::{Condvar, Mutex, Rank};
use rt::time::now;
use tempfile::TempDir;
use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};
use yfs_lock::lock_protocol::{ACQUIRE, ClientId, HintStatus, LockId, RELEASE, RETRY, REVOKE, Xid};
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rpc::Server;
use yfs_rsm::{Options, RsmClient};

const LOCK: LockId = LockId(1);
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    nodes: Vec<LockServer>,
    _dir: TempDir,
}

impl Cluster {
    fn start(nodes: usize) -> Cluster {
        let dir = TempDir::new().unwrap();
        let mut cluster = Cluster { nodes: Vec::new(), _dir: dir };
        for number in 0..nodes {
            let first = cluster.nodes.first().map_or("0".to_owned(), |node| node.rsm().me().to_owned());
            let node = start(&first, "0", cluster._dir.path());
            cluster.nodes.push(node);
            let all = |node: &LockServer| node.rsm().view().1.len() == number + 1;
            eventually("all nodes are in the view", || cluster.nodes.iter().all(all));
        }
        cluster
    }

    fn client(&self) -> LockClient {
        let options = LockClientOptions { patience: PATIENCE, ..LockClientOptions::default() };
        LockClient::connect(&self.seeds(), options).unwrap()
    }

    fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.rsm().me().to_owned()).collect()
    }

    /// The states of all nodes are the same bytes.
    fn agree(&self) -> bool {
        let states: Vec<Vec<u8>> =
            self.nodes.iter().map(|node| node.rsm().inspect(yfs_lock::lock_table::LockTable::marshal)).collect();
        states.windows(2).all(|pair| pair[0] == pair[1])
    }
}

fn start(first: &str, me: &str, dir: &Path) -> LockServer {
    LockServer::start(Options { dir: dir.to_owned(), ..Options::new(first, me) }).unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "{what}");
        rt::time::sleep(Duration::from_millis(2));
    }
}

/// Threads of clients that take the lock in turn, `times` each; held by one at a time.
fn contend(clients: &[Arc<LockClient>], times: usize) -> impl FnOnce() {
    let inside = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = clients
        .iter()
        .cloned()
        .map(|client| {
            let inside = inside.clone();
            rt::thread::spawn("contender", move || {
                for _ in 0..times {
                    let guard = client.lock(LOCK).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "held twice");
                    rt::time::sleep(Duration::from_millis(1));
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1, "held twice");
                    drop(guard);
                }
            })
            .unwrap()
        })
        .collect();
    move || {
        let deadline = now() + PATIENCE;
        assert!(threads.iter().all(|thread| thread.join_until(deadline)), "a client never got the lock");
    }
}

#[test]
fn clients_take_turns_and_the_nodes_agree() {
    let cluster = Cluster::start(3);
    let clients: Vec<_> = (0..4).map(|_| Arc::new(cluster.client())).collect();
    contend(&clients, 25)();
    let grants = clients[0].stat(LOCK).unwrap();
    assert!((4..=100).contains(&grants), "{grants}");
    drop(clients);
    eventually("the nodes agree", || cluster.agree());
    assert!(cluster.nodes[0].rsm().inspect(|table| table.owner(LOCK).is_none()), "all is given back");
}

#[test]
fn h12_a_contended_lock_changes_hands_though_the_primary_dies() {
    let mut cluster = Cluster::start(3);
    let (one, two) = (cluster.client(), cluster.client());
    let guard = one.lock(LOCK).unwrap();
    let waiting = rt::thread::spawn("waiter", move || drop(two.lock(LOCK).unwrap())).unwrap();
    eventually("two waits", || cluster.nodes[0].rsm().inspect(|table| table.due().len() == 2));
    cluster.nodes.remove(0).shutdown();
    drop(guard);
    assert!(waiting.join_until(now() + PATIENCE), "two never got the lock");
    eventually("the others go on", || cluster.agree());
}

#[test]
fn clients_go_on_while_the_primary_dies() {
    let mut cluster = Cluster::start(3);
    let clients: Vec<_> = (0..3).map(|_| Arc::new(cluster.client())).collect();
    let wait = contend(&clients, 60);
    eventually("they have begun", || cluster.nodes[0].rsm().inspect(|table| table.stat(LOCK) > 10));
    cluster.nodes.remove(0).shutdown();
    wait();
    drop(clients);
    eventually("the others agree", || cluster.agree());
}

/// What a client heard (true: revoke), and the signal for more.
type Heard = (Mutex<Vec<(bool, Xid)>>, Condvar);

/// A client of the lab: it asks again only when it is told to.
struct LabClient {
    rsm: RsmClient,
    id: ClientId,
    xid: u64,
    hints: Server,
    heard: Arc<Heard>,
}

impl LabClient {
    fn connect(cluster: &Cluster) -> LabClient {
        let hints = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), yfs_rpc::Options::default()).unwrap();
        let heard = Arc::new((Mutex::new(Rank::new(200, "test.heard"), Vec::new()), Condvar::new()));
        for (procedure, revoke) in [(REVOKE, true), (RETRY, false)] {
            let heard = heard.clone();
            hints.reg(procedure, move |_lock: LockId, xid: Xid| {
                heard.0.lock().push((revoke, xid));
                heard.1.notify_all();
                (HintStatus::Ok, 0)
            });
        }
        hints.start().unwrap();
        let id = ClientId::new(&hints.local_addr().to_string());
        LabClient { rsm: RsmClient::connect(&cluster.seeds(), PATIENCE).unwrap(), id, xid: 0, hints, heard }
    }

    fn acquire(&mut self) -> i32 {
        self.xid += 1;
        self.rsm.call(ACQUIRE, (LOCK, self.id.clone(), Xid(self.xid)), PATIENCE).unwrap().0
    }

    fn release(&self) -> i32 {
        self.rsm.call(RELEASE, (LOCK, self.id.clone(), Xid(self.xid)), PATIENCE).unwrap().0
    }

    fn wait_for(&self, revoke: bool) {
        let expected = (revoke, Xid(self.xid));
        let mut heard = self.heard.0.lock();
        while !heard.contains(&expected) {
            assert!(self.heard.1.wait_until(&mut heard, now() + PATIENCE), "never heard {expected:?}");
        }
    }
}

#[test]
fn lab_clients_are_told_when_to_ask_and_when_to_give_back() {
    let cluster = Cluster::start(2);
    let ours = cluster.client();
    let mut labs = LabClient::connect(&cluster);
    ours.acquire(LOCK).unwrap();
    assert_eq!(labs.acquire(), 1);
    ours.release(LOCK).unwrap();
    labs.wait_for(false);
    assert_eq!(labs.acquire(), 0);
    let waiting = rt::thread::spawn("waiter", move || drop(ours.lock(LOCK).unwrap())).unwrap();
    labs.wait_for(true);
    assert_eq!(labs.release(), 0);
    assert!(waiting.join_until(now() + PATIENCE));
}

#[test]
fn a_dead_client_in_front_of_the_queue_delays_nobody_for_long() {
    let cluster = Cluster::start(2);
    let owner = cluster.client();
    owner.acquire(LOCK).unwrap();
    for _ in 0..3 {
        let mut dead = LabClient::connect(&cluster);
        assert_eq!(dead.acquire(), 1);
        dead.hints.shutdown();
    }
    let mut alive = LabClient::connect(&cluster);
    assert_eq!(alive.acquire(), 1);
    let began = now();
    owner.release(LOCK).unwrap();
    alive.wait_for(false);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(alive.acquire(), 0);
}

#[test]
fn a_client_with_the_name_of_an_earlier_one_gets_its_locks() {
    let cluster = Cluster::start(2);
    let mut earlier = LabClient::connect(&cluster);
    earlier.xid = 1 << 62;
    assert_eq!(earlier.acquire(), 0);
    assert_eq!(earlier.release(), 0);
    let low = earlier.rsm.call(ACQUIRE, (LOCK, earlier.id.clone(), Xid(1)), PATIENCE).unwrap();
    assert_eq!(low, (2, (1 << 29) + 1), "RPCERR, and the upper bits of the last xid, plus 1");
    let advertise = Some(earlier.id.to_string());
    let options = LockClientOptions { patience: PATIENCE, advertise, ..LockClientOptions::default() };
    let client = LockClient::connect(&cluster.seeds(), options).unwrap();
    assert_eq!(client.try_acquire(LOCK), Ok(true));
    client.release(LOCK).unwrap();
    eventually("all nodes hold the same bytes", || cluster.agree());
}

#[test]
fn h07_a_strangers_hints_are_harmless() {
    let cluster = Cluster::start(1);
    let (one, two) = (cluster.client(), cluster.client());
    let guard = one.lock(LOCK).unwrap();
    let stranger = yfs_rpc::Client::new(one.id().as_str().parse().unwrap(), yfs_rpc::Options::default());
    for xid in [0, 1, 1 << 20, u64::MAX] {
        for procedure in [REVOKE, RETRY] {
            let (status, _) = stranger.call(procedure, (LOCK, Xid(xid)), PATIENCE).unwrap();
            assert_eq!(HintStatus::from_wire(status), Some(HintStatus::Ok));
        }
    }
    assert!(cluster.nodes[0].rsm().inspect(|table| table.owner(LOCK) == Some(one.id())));
    assert_eq!(two.try_acquire(LOCK), Ok(false));
    drop(guard);
    two.acquire(LOCK).unwrap();
}
