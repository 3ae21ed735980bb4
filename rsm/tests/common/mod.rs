//! A cluster of replicas of a log in one process, on free ports.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part of it, and a test may fail")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rt::time::now;
use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, RsmClient, StateMachine};

/// What is replicated: every number that was appended, in order.
#[derive(Default)]
pub(crate) struct Numbers(pub(crate) Vec<u64>);

impl StateMachine for Numbers {
    type Effect = u64;

    fn marshal_state(&self) -> Vec<u8> {
        encode(&self.0)
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.0 = decode(state)?;
        Ok(())
    }

    fn due(&self) -> Vec<u64> {
        vec![self.0.len() as u64]
    }
}

pub(crate) const APPEND: Procedure<(u64,), u64> = Procedure::new(0x100);

/// Generous: a test that waits so long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + DEADLINE;
    while !condition() {
        assert!(now() < deadline, "waited in vain: {what}");
        rt::time::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Option<Rsm<Numbers>>>,
    pub(crate) names: Vec<String>,
}

impl Cluster {
    /// `count` replicas that have joined one after the other.
    pub(crate) fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { dir, nodes: Vec::new(), names: Vec::new() };
        for at in 0..count {
            cluster.nodes.push(None);
            cluster.names.push("0".to_owned());
            cluster.restart(at);
            let name = cluster.node(at).me().to_owned();
            cluster.names[at] = name;
            cluster.wait_for_members(&(0..=at).collect::<Vec<_>>());
        }
        cluster
    }

    pub(crate) fn node(&self, at: usize) -> &Rsm<Numbers> {
        self.nodes[at].as_ref().expect("the node runs")
    }

    pub(crate) fn options(&self, at: usize) -> Options {
        Options { dir: self.dir.path().into(), ..Options::new(&self.names[0], &self.names[at]) }
    }

    /// The folder of all nodes' files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn paxos_log(&self, at: usize) -> PathBuf {
        self.dir().join(format!("paxos-{}.log", self.names[at]))
    }

    pub(crate) fn rsm_log(&self, at: usize) -> PathBuf {
        self.dir().join(format!("rsm-{}.log", self.names[at]))
    }

    /// Removes the files of a node that doesn't run.
    pub(crate) fn lose_disk(&self, at: usize) {
        rt::fs::remove_file(&self.paxos_log(at)).unwrap();
        rt::fs::remove_file(&self.rsm_log(at)).unwrap();
    }

    /// Starts a node with the same names and folder as before.
    pub(crate) fn restart(&mut self, at: usize) {
        self.start_with(at, self.options(at));
    }

    pub(crate) fn start_with(&mut self, at: usize, options: Options) {
        let rsm = Rsm::new(options, Numbers::default()).unwrap();
        rsm.reg(APPEND, |numbers: &mut Numbers, (n,): (u64,)| {
            numbers.0.push(n);
            (0, numbers.0.len() as u64)
        });
        rsm.start().unwrap();
        self.nodes[at] = Some(rsm);
    }

    /// Stops a node as if it had died.
    pub(crate) fn kill(&mut self, at: usize) {
        let node = self.nodes[at].take().expect("the node runs");
        assert!(node.shutdown(), "a thread of node {at} goes on");
    }

    /// Waits until the latest view of all running nodes among `at` has these members, and they are in sync.
    pub(crate) fn wait_for_members(&self, at: &[usize]) {
        let mut wanted: Vec<&str> = at.iter().map(|at| self.names[*at].as_str()).collect();
        wanted.sort_unstable();
        wait_until(&format!("members {wanted:?}"), || {
            at.iter().all(|at| {
                let (_, members) = self.node(*at).view();
                let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
                members.sort_unstable();
                members == wanted
            }) && at.iter().any(|at| self.node(*at).amiprimary())
        });
    }

    /// Waits until all these nodes have the same state, and returns it.
    pub(crate) fn wait_for_equal_states(&self, at: &[usize]) -> Vec<u64> {
        let state = |at: usize| self.node(at).inspect(|numbers| numbers.0.clone());
        wait_until("equal states", || {
            let first = (self.node(at[0]).last_executed(), state(at[0]));
            at.iter().all(|at| (self.node(*at).last_executed(), state(*at)) == first)
        });
        state(at[0])
    }

    pub(crate) fn client(&self) -> RsmClient {
        RsmClient::connect(&self.names, DEADLINE).unwrap()
    }

    /// The running node that serves.
    pub(crate) fn primary(&self) -> usize {
        let mut primary = None;
        wait_until("a primary", || {
            primary = self.nodes.iter().position(|node| node.as_ref().is_some_and(Rsm::amiprimary));
            primary.is_some()
        });
        primary.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter().flatten() {
            node.shutdown();
        }
    }
}

pub(crate) fn append(client: &RsmClient, n: u64) -> u64 {
    let (_, length) = client.call(APPEND, (n,), DEADLINE).unwrap();
    length
}
