//! Nodes in one process, over real connections.
#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{now, sleep};
use tempfile::TempDir;
use yfs_config::{Config, LogError, OnFatal, Options, Outcome, Timing, ViewChange, ViewId};
use yfs_rpc::{Handles, PollMgr, Reach, Server};

/// Ten times what anything here should need, and more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a node's owner has heard.
pub(crate) struct Events {
    pub(crate) views: Mutex<Vec<ViewId>>,
    pub(crate) majority: Mutex<Vec<bool>>,
}

impl ViewChange for Events {
    fn commit_change(&self, vid: ViewId) {
        self.views.lock().push(vid);
    }

    fn majority_changed(&self, present: bool) {
        self.majority.lock().push(present);
    }
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) config: Arc<Config>,
    pub(crate) events: Arc<Events>,
    pub(crate) server: Server,
    pub(crate) handles: Handles,
    dir: PathBuf,
}

fn free_port() -> u16 {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), yfs_rpc::Options::default()).unwrap();
    let port = server.local_addr().port();
    server.shutdown();
    port
}

/// Names of nodes whose ports are free, smallest first.
pub(crate) fn names(count: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    while names.len() < count {
        let name = free_port().to_string();
        // All of one length, so that their order as strings is no surprise.
        if name.len() == 5 && !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    names
}

impl Node {
    /// Starts a node whose log lies in `dir`.
    pub(crate) fn start(name: &str, dir: &Path, timing: &Timing) -> Node {
        let port: u16 = name.parse().unwrap();
        let (handles, server) = (
            Handles::new(&PollMgr::shared(), yfs_rpc::Options::default()),
            Server::bind(([127, 0, 0, 1], port).into(), yfs_rpc::Options::default()).unwrap(),
        );
        let options = Options { me: name.into(), dir: dir.to_owned(), timing: timing.clone() };
        // A test's folder goes before its nodes do.
        let on_fatal: OnFatal = Arc::new(|error| assert!(matches!(error, LogError::Gone { .. }), "{error}"));
        let config = Config::new(options, server.clone(), handles.clone(), on_fatal).unwrap();
        let events = Arc::new(Events {
            views: Mutex::new(Rank::new(20, "test.views"), Vec::new()),
            majority: Mutex::new(Rank::new(20, "test.majority"), Vec::new()),
        });
        let change: Weak<dyn ViewChange> = Arc::downgrade(&events) as Weak<dyn ViewChange>;
        config.set_view_change(change);
        server.start().unwrap();
        config.start().unwrap();
        Node { name: name.into(), config, events, server, handles, dir: dir.to_owned() }
    }

    /// As `kill -9` does it, as far as one process can.
    pub(crate) fn kill(self) {
        self.handles.clear();
        self.server.shutdown();
        assert!(self.config.shutdown(now() + PATIENCE));
        // Its log is closed when the last one lets go of it.
        let gone = Arc::downgrade(&self.config);
        drop(self.config);
        wait_until("the node is gone", || gone.strong_count() == 0);
    }

    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.handles.set_cut_off(cut_off);
        self.server.set_reachable(if cut_off { Reach::Nobody } else { Reach::All });
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8(rt::fs::read(&self.dir.join(format!("paxos-{}.log", self.name))).unwrap()).unwrap()
    }

    pub(crate) fn members(&self) -> Vec<String> {
        self.config.last_view().map_or(Vec::new(), |(_, view)| view.members().to_vec())
    }
}

/// Waits for a condition, with patience.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(5));
    }
}

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) names: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) timing: Timing,
}

impl Cluster {
    /// Nodes that have joined one after the other; node i is the i-th smallest name.
    pub(crate) fn new(size: usize, timing: Timing) -> Cluster {
        let dir = TempDir::new().unwrap();
        let names = names(size);
        let nodes: Vec<Node> = names.iter().map(|name| Node::start(name, dir.path(), &timing)).collect();
        assert!(nodes[0].config.bootstrap().unwrap());
        let cluster = Cluster { dir, names, nodes, timing };
        for joiner in 1..size {
            cluster.join(0, joiner);
        }
        cluster.wait_for_view(size as u32, &cluster.names.clone());
        cluster
    }

    /// The node `primary` adds the node `joiner`.
    pub(crate) fn join(&self, primary: usize, joiner: usize) {
        let (primary, joiner) = (&self.nodes[primary].config, &self.nodes[joiner].config);
        let deadline = now() + PATIENCE;
        loop {
            let outcome = primary.add(joiner.myaddr(), primary.vid(), None);
            if outcome == Outcome::Decided {
                break;
            }
            assert!(now() < deadline, "join failed: {outcome:?}");
            sleep(Duration::from_millis(20));
        }
        joiner.restore(&primary.dump(), None).unwrap();
    }

    pub(crate) fn wait_for_view(&self, vid: u32, members: &[String]) {
        for node in self.nodes.iter().filter(|node| members.contains(&node.name)) {
            wait_until(&format!("{} is in view {vid} = {members:?}", node.name), || {
                node.config.get_view(ViewId(vid)).is_some_and(|view| view.members() == members)
            });
        }
    }

    /// Kills the node with this name.
    pub(crate) fn kill(&mut self, name: &str) {
        let at = self.nodes.iter().position(|node| node.name == name).unwrap();
        self.nodes.remove(at).kill();
    }

    pub(crate) fn restart(&mut self, name: &str) {
        self.nodes.push(Node::start(name, self.dir.path(), &self.timing));
    }

    pub(crate) fn without(&self, gone: &[usize]) -> Vec<String> {
        self.names.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, name)| name.clone()).collect()
    }
}
