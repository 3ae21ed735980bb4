//! The nodes of a service and its clients, on machines that can be killed and started again.
//!
//! Each node has a machine of its own, 10.0.0.N, and each client too, 10.0.1.N. The first node begins the service; after
//! that every node is always started with the same command line: it joins through any other one.
#![expect(clippy::disallowed_types, reason = "the simulator's own lock; it is never held across a switch")]

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rt::thread::Node;
use rt::time::Instant;
use trace::Kind;
use yfs_rpc::PollMgr;
use yfs_rsm::{Options, RsmError, Timing};

use crate::dice::Dice;
use crate::disk::DiskFaults;
use crate::kernel::Death;
use crate::net::LinkState;
use crate::oracles::Oracles;
use crate::plan::Plan;
use crate::service::{Client, Replica, Service};
use crate::world::World;

/// The port of a node's clients and peers; its testers use the next one.
const PORT: u16 = 5000;
/// The port of the lab's testers.
pub(crate) const TEST_PORT: u16 = PORT + 1;
/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Faults happen: nothing wrong may be done.
    Faults,
    /// A majority of the view is well and the rest dead: requests complete.
    Majority,
    /// One node comes and goes, the others are well: requests complete, and views become rare.
    Unrest,
    /// All are well: all come together.
    All,
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Its process dies; its files stay, its connections are closed.
    Process,
    /// Its machine has no power any more.
    Power,
}

struct Member {
    name: String,
    host: IpAddr,
    alive: bool,
    /// Counts its starts and ends, so that what was planned for an earlier life doesn't happen.
    life: u64,
    /// Never dropped: its destructor would shut the node down, which dies as a process does, or is left when the run ends.
    replica: Option<ManuallyDrop<Arc<dyn Replica>>>,
    /// Its process may end by itself: a disk fails, or a breakpoint is set.
    may_exit: bool,
    /// Testers that are about to set a breakpoint: perhaps in its next life.
    testers: u32,
    /// Its disk fails, so that its process ends by itself.
    disk_fails: bool,
    /// Its disk has any fault.
    disk_troubled: bool,
    /// A bit of its disk has flipped; it may find out when it starts.
    flipped: bool,
    /// It stays dead in this phase.
    out: bool,
}

struct State {
    members: Vec<Member>,
    phase: Phase,
    stop_clients: bool,
    dice: Dice,
    /// Directions that are cut, and until when.
    cuts: BTreeMap<(IpAddr, IpAddr), Instant>,
    requests: BTreeMap<u64, (String, Instant)>,
    next_request: u64,
    completed: u64,
}

struct Inner {
    world: World,
    plan: Plan,
    service: Arc<dyn Service>,
    oracles: Oracles,
    state: Mutex<State>,
}

/// The nodes and clients of a run. Clones are the same ones.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

impl Cluster {
    /// The nodes of a plan, none of them started.
    pub fn new(world: World, plan: Plan, service: Arc<dyn Service>, oracles: Oracles) -> Self {
        let member = |number: usize| {
            let host = IpAddr::from([10, 0, 0, number as u8 + 1]);
            Member {
                name: format!("{host}:{PORT}"),
                host,
                alive: false,
                life: 0,
                replica: None,
                may_exit: false,
                testers: 0,
                disk_fails: false,
                disk_troubled: false,
                flipped: false,
                out: false,
            }
        };
        let mut dice = plan.dice.clone();
        let state = State {
            members: (0..plan.nodes).map(member).collect(),
            phase: Phase::Faults,
            stop_clients: false,
            dice: dice.fork(),
            cuts: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            completed: 0,
        };
        let cluster = Cluster(Arc::new(Inner { world, plan, service, oracles, state: Mutex::new(state) }));
        let told = cluster.clone();
        cluster.world().kernel.on_death(move |node, death| told.on_death(node, death));
        cluster
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The world around it.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// The run's plan.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// The run's checks.
    pub fn oracles(&self) -> &Oracles {
        &self.0.oracles
    }

    /// What is simulated.
    pub fn service(&self) -> &Arc<dyn Service> {
        &self.0.service
    }

    /// How many nodes there are, dead ones too.
    pub fn len(&self) -> usize {
        self.0.plan.nodes
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A node's name.
    pub fn name(&self, member: usize) -> String {
        self.state().members[member].name.clone()
    }

    /// A node's machine.
    pub fn host(&self, member: usize) -> IpAddr {
        self.state().members[member].host
    }

    /// Who has a machine: a node's name, or else the machine's.
    pub(crate) fn named(&self, host: IpAddr) -> String {
        let state = self.state();
        let node = state.members.iter().find(|m| m.host == host);
        node.map_or_else(|| host.to_string(), |m| m.name.clone())
    }

    /// A client's machine.
    pub fn client_host(client: usize) -> IpAddr {
        IpAddr::from([10, 0, 1, client as u8 + 1])
    }

    /// The nodes that run.
    pub fn alive(&self) -> Vec<usize> {
        let state = self.state();
        (0..state.members.len()).filter(|m| state.members[*m].alive).collect()
    }

    /// Whether all nodes are in one view, which names all of them and has one primary.
    pub fn is_together(&self) -> bool {
        let replicas = self.replicas();
        let Some((_, one)) = replicas.first() else { return false };
        let view = one.view();
        replicas.len() == self.len()
            && view.1.len() == self.len()
            && replicas.iter().all(|(_, r)| r.view() == view)
            && replicas.iter().filter(|(_, r)| r.is_primary()).count() == 1
    }

    /// The nodes that run and have opened their port, with what they are.
    pub fn replicas(&self) -> Vec<(usize, Arc<dyn Replica>)> {
        let state = self.state();
        let replicas = state.members.iter().enumerate().filter(|(_, m)| m.alive);
        replicas.filter_map(|(number, m)| Some((number, Arc::clone(m.replica.as_ref()?)))).collect()
    }

    /// Starts a node, unless it runs.
    pub fn start(&self, member: usize) {
        let kernel = &self.world().kernel;
        let (node, host) = {
            let state = self.state();
            let m = &state.members[member];
            if m.alive || m.out {
                return;
            }
            (Node::new(&m.name), m.host)
        };
        let drift = {
            let mut state = self.state();
            let m = &mut state.members[member];
            (m.alive, m.life) = (true, m.life + 1);
            let drift = 2 * self.0.plan.drift + 1;
            state.dice.below(drift) as i64 - self.0.plan.drift as i64
        };
        kernel.add_node(&node, drift);
        self.world().net.power_on(host);
        if drift != 0 {
            kernel.count("fault: clock drift");
        }
        kernel.note(node.name(), || format!("starts; its clock gains {drift} millionths"));
        kernel.count("start");
        self.show(node.name(), Kind::Start, || "starts".to_owned());
        let cluster = self.clone();
        if let Err(error) = node.spawn("main", move || cluster.main_of(member)) {
            kernel.find(format!("no thread: {error}"));
        }
    }

    /// What the program `lock_server` does.
    fn main_of(&self, member: usize) {
        let me = self.name(member);
        let mut others: Vec<String> =
            (0..self.len()).map(|other| self.name(other)).filter(|name| *name != me).collect();
        // Once there is a service, its first node joins it as the others do (its production form: init was run once).
        let begins = member == 0 && self.0.oracles.latest_view().0 == 0;
        let first = if begins || others.is_empty() { me.clone() } else { others.remove(0) };
        let kernel = self.world().kernel.clone();
        let Ok(pollmgr) = PollMgr::new() else { return kernel.find("no poll manager".to_owned()) };
        let stops = self.clone();
        let options = Options {
            first,
            also: others,
            me,
            dir: PathBuf::new(),
            test_port: Some(TEST_PORT),
            timing: Timing::default(),
            rpc: yfs_rpc::Options::default(),
            pollmgr,
            on_fatal: Arc::new(move |reason| {
                stops.stops(member, reason);
                rt::process::exit(1)
            }),
        };
        match self.0.service.start(options) {
            Ok(replica) => {
                let mut state = self.state();
                let m = &mut state.members[member];
                // What flipped did no harm.
                (m.replica, m.flipped) = (Some(ManuallyDrop::new(replica)), false);
            }
            Err(error) => {
                self.stops(member, &format!("can't start: {error}"));
                if matches!(error, RsmError::Log(_) | RsmError::Journal(_)) {
                    self.unusable(member);
                }
                rt::process::exit(1);
            }
        }
    }

    /// The node is about to end by itself.
    fn stops(&self, member: usize, reason: &str) {
        let node = Node::new(&self.name(member));
        self.world().kernel.note(node.name(), || format!("stops: {reason}"));
        self.show(node.name(), Kind::Fault, || format!("stops: {reason}"));
        let (host, flipped) = {
            let state = self.state();
            let m = &state.members[member];
            (m.host, m.flipped)
        };
        self.0.oracles.node_stops(&node, reason, flipped || self.world().disks.has_failed(host));
    }

    /// Shows in a picture what happens to a node, or to all.
    pub(crate) fn show(&self, node: &str, kind: Kind, what: impl FnOnce() -> String) {
        self.world().recording.note(self.world().kernel.now(), node, kind, what);
    }

    /// The node's log is damaged: as it tells its operator, he puts it aside, and lets the node join as a new one.
    fn unusable(&self, member: usize) {
        let mut state = self.state();
        let m = &mut state.members[member];
        if m.flipped {
            self.world().disks.wipe(m.host);
            (m.flipped, m.may_exit) = (false, true);
            let node = Node::new(&m.name);
            drop(state);
            self.world().kernel.count("damage found");
            self.0.oracles.node_lost_disk(&node);
        }
    }

    /// A process has ended by itself, or at a switch where it was to.
    fn on_death(&self, node: &Node, death: &Death) {
        let member = self.state().members.iter().position(|m| m.name == node.name());
        let Some(member) = member else { return };
        let may_exit = self.may_exit(member);
        match death {
            Death::Exit(status) if !may_exit => {
                self.world().kernel.find(format!("exit: {node:?} ended by itself with status {status}"));
            }
            Death::Exit(_) => {}
            Death::Crash => self.world().kernel.count("fault: crash"),
        }
        self.show(node.name(), Kind::Crash, || match death {
            Death::Exit(status) => format!("exits with status {status}"),
            Death::Crash => "crashes".to_owned(),
        });
        self.buried(member, Kill::Process);
        self.plan_restart(member);
    }

    /// Ends a node. It is started again only by [`Cluster::start`].
    pub fn kill(&self, member: usize, how: Kill) {
        if !self.state().members[member].alive {
            return;
        }
        let node = Node::new(&self.name(member));
        self.world().kernel.note(node.name(), || format!("killed: {how:?}"));
        self.show(node.name(), Kind::Crash, || match how {
            Kill::Process => "killed".to_owned(),
            Kill::Power => "loses power".to_owned(),
        });
        self.world().kernel.crash(&node);
        self.buried(member, how);
    }

    fn buried(&self, member: usize, how: Kill) {
        let (node, host) = {
            let mut state = self.state();
            let m = &mut state.members[member];
            m.alive = false;
            m.life += 1;
            m.may_exit = false;
            m.replica = None;
            (Node::new(&m.name), m.host)
        };
        let World { net, disks, .. } = self.world();
        match how {
            Kill::Process => {
                net.process_died(host);
                disks.process_died(host);
            }
            Kill::Power => {
                net.power_off(host);
                disks.power_off(host);
            }
        }
        self.0.oracles.node_died(&node);
    }

    /// Lets a dead node start again: at once, soon, or later.
    pub fn plan_restart(&self, member: usize) -> Duration {
        let (life, pause) = {
            let mut state = self.state();
            let life = state.members[member].life;
            let (least, most) = match (state.phase, state.dice.below(4)) {
                (Phase::Faults, 0) => (0, 30),
                (Phase::Faults, 1) => (100, 500),
                (Phase::Faults, 2) => (500, 3_000),
                (Phase::Faults, _) => (2_000, 8_000),
                _ => (0, 100),
            };
            (life, state.dice.between(Duration::from_millis(least), Duration::from_millis(most)))
        };
        let cluster = self.clone();
        self.world().kernel.after(pause, move || {
            if cluster.state().members[member].life == life {
                cluster.start(member);
            }
        });
        pause
    }

    /// The node's disk is lost; it has to be dead.
    pub fn lose_disk(&self, member: usize) {
        let (node, host) = {
            let state = self.state();
            let m = &state.members[member];
            (Node::new(&m.name), m.host)
        };
        self.show(node.name(), Kind::Fault, || "its disk is lost".to_owned());
        self.world().disks.wipe(host);
        self.0.oracles.node_lost_disk(&node);
    }

    /// A bit of the node's disk flips; it has to be dead.
    pub fn flip_bit(&self, member: usize) {
        let host = self.host(member);
        if self.world().disks.flip_bit(host).is_some() {
            self.show(&self.name(member), Kind::Fault, || "a bit of its disk flips".to_owned());
            let mut state = self.state();
            state.members[member].flipped = true;
        }
    }

    /// A tester begins to set a breakpoint.
    pub fn tester_begins(&self, member: usize) {
        self.state().members[member].testers += 1;
    }

    /// A tester has set a breakpoint, or given up.
    pub fn tester_ends(&self, member: usize, set: bool) {
        let mut state = self.state();
        let m = &mut state.members[member];
        m.testers -= 1;
        m.may_exit |= set;
    }

    /// Whether the node may end by itself.
    pub fn may_exit(&self, member: usize) -> bool {
        let state = self.state();
        let m = &state.members[member];
        m.may_exit || m.disk_fails || m.flipped || m.testers > 0
    }

    /// From now on the node's disk fails, or not any more.
    pub fn set_disk_faults(&self, member: usize, faults: DiskFaults) {
        let host = {
            let mut state = self.state();
            let m = &mut state.members[member];
            m.disk_troubled = faults != DiskFaults::default();
            m.disk_fails = faults.write_errors > 0 || faults.sync_errors > 0 || faults.full;
            m.host
        };
        self.show(&self.name(member), Kind::Fault, || disk_fault(&faults));
        self.world().disks.set_faults(host, faults);
    }

    /// The node's disk is well again.
    pub fn heal_disk(&self, member: usize) {
        let (host, troubled) = {
            let mut state = self.state();
            let m = &mut state.members[member];
            m.disk_fails = false;
            (m.host, std::mem::take(&mut m.disk_troubled))
        };
        if troubled {
            self.show(&self.name(member), Kind::Fault, || "its disk is well again".to_owned());
        }
        self.world().disks.heal(host);
    }

    /// Cuts a direction between two machines, at least until then.
    pub fn cut(&self, from: IpAddr, to: IpAddr, until: Instant) {
        let mut state = self.state();
        let end = state.cuts.entry((from, to)).or_insert(until);
        *end = until.max(*end);
        drop(state);
        self.world().net.set_link(from, to, LinkState::Cut);
    }

    /// Ends a cut, unless another one goes on.
    pub fn end_cut(&self, from: IpAddr, to: IpAddr) {
        let mut state = self.state();
        if state.cuts.get(&(from, to)).is_some_and(|until| *until <= self.world().kernel.now()) {
            state.cuts.remove(&(from, to));
            drop(state);
            self.world().net.set_link(from, to, LinkState::Open);
        }
    }

    /// The node stays dead, or not any more. Whether it did before.
    pub fn set_out(&self, member: usize, out: bool) -> bool {
        std::mem::replace(&mut self.state().members[member].out, out)
    }

    /// The names of the nodes that aren't to stay dead or cut off.
    pub fn within_reach(&self) -> BTreeSet<String> {
        self.state().members.iter().filter(|m| !m.out).map(|m| m.name.clone()).collect()
    }

    /// How many of these names are nodes that can't vote: they know no view, as they lost their disk or haven't heard yet that
    /// they are members, or will find their disk spoilt.
    pub fn voteless(&self, names: &[String]) -> usize {
        let without = |name: &&String| {
            let member = self.state().members.iter().position(|m| m.name == **name);
            member.is_some_and(|m| self.state().members[m].flipped || self.view_on_disk(m).0 == 0)
        };
        names.iter().filter(without).count()
    }

    /// The last view that is known among these nodes once they are well, and those of them that can vote then: they know
    /// it, or learn it, as they know a view already. A node without any view votes only if the primary is among them, and
    /// has the disk as one that it added (rule 3).
    pub fn voters(&self, well: &BTreeSet<usize>) -> (Vec<String>, BTreeSet<usize>) {
        let known: BTreeMap<usize, (u32, Vec<String>)> = well.iter().map(|m| (*m, self.view_on_disk(*m))).collect();
        let Some(latest) = known.values().max_by_key(|(vid, _)| *vid).cloned() else { return Default::default() };
        let primary = well.iter().copied().find(|m| latest.1.first() == Some(&self.name(*m)));
        let votes = |m: &usize| known[m].0 > 0 || primary.is_some_and(|primary| self.has_added(primary, *m));
        (latest.1, well.iter().copied().filter(votes).collect())
    }

    /// Whether the disk of `node` says that it has added `other`, on the disk that that one has.
    fn has_added(&self, node: usize, other: usize) -> bool {
        let files = self.world().disks.files(self.host(other));
        let disk = files.iter().flat_map(|(_, bytes)| lines(bytes)).find_map(|line| line.strip_prefix("disk "));
        let Some(disk) = disk else { return false };
        let added = format!(" {} {disk}", self.name(other));
        let files = self.world().disks.files(self.host(node));
        files
            .iter()
            .flat_map(|(_, bytes)| lines(bytes))
            .any(|line| line.starts_with("added ") && line.ends_with(&added))
    }

    /// The last view on a node's disk; 0 and nobody if there is none.
    fn view_on_disk(&self, member: usize) -> (u32, Vec<String>) {
        let files = self.world().disks.files(self.host(member));
        let views = files.iter().flat_map(|(_, bytes)| lines(bytes)).filter_map(|line| {
            let mut words = line.strip_prefix("done ")?.split_whitespace();
            Some((words.next()?.parse().ok()?, words.map(str::to_owned).collect()))
        });
        views.max_by_key(|(vid, _)| *vid).unwrap_or_default()
    }

    /// What the run is doing.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// The run does something else now.
    pub fn set_phase(&self, phase: Phase) {
        self.world().kernel.note("director", || format!("phase: {phase:?}"));
        self.show("", Kind::Note, || format!("phase: {phase:?}"));
        self.state().phase = phase;
    }

    /// Starts a client.
    pub fn start_client(&self, number: usize) {
        let host = Self::client_host(number);
        let node = Node::new(&host.to_string());
        let kernel = &self.world().kernel;
        kernel.add_node(&node, 0);
        self.show(node.name(), Kind::Start, || "starts".to_owned());
        let cluster = self.clone();
        let seeds = (0..self.len()).map(|member| self.name(member)).collect();
        let started = node.spawn("client", move || {
            let Ok(pollmgr) = PollMgr::new() else { return };
            let (threads, keys) = (cluster.plan().threads, cluster.plan().keys);
            let client = Client { number, threads, keys, seeds, pollmgr, cluster: cluster.clone() };
            cluster.service().client(&client);
        });
        if let Err(error) = started {
            kernel.find(format!("no thread: {error}"));
        }
    }

    /// Whether clients are to do more.
    pub(crate) fn clients_go_on(&self) -> bool {
        !self.state().stop_clients
    }

    /// Clients finish what they do.
    pub fn stop_clients(&self) {
        self.state().stop_clients = true;
    }

    pub(crate) fn begun(&self, what: &str) -> u64 {
        let now = self.world().kernel.now();
        let mut state = self.state();
        state.next_request += 1;
        let number = state.next_request;
        state.requests.insert(number, (what.to_owned(), now));
        number
    }

    pub(crate) fn completed(&self, number: u64) {
        let mut state = self.state();
        state.requests.remove(&number);
        state.completed += 1;
    }

    /// How many requests of clients are complete.
    pub fn completed_requests(&self) -> u64 {
        self.state().completed
    }

    /// The requests that aren't complete, and since when.
    pub fn pending(&self) -> Vec<(String, Instant)> {
        self.state().requests.values().cloned().collect()
    }
}

/// A disk's trouble for people.
fn disk_fault(faults: &DiskFaults) -> String {
    let what = match faults {
        DiskFaults { hung: true, .. } => "hangs",
        DiskFaults { hangs_after: Some(_), .. } => "will hang soon",
        DiskFaults { full: true, .. } => "is full",
        DiskFaults { slow: true, .. } => "is slow",
        DiskFaults { write_errors: 1.., .. } => "fails to write",
        DiskFaults { sync_errors: 1.., .. } => "fails to sync",
        _ => "is well",
    };
    format!("its disk {what}")
}

/// The lines of a text file.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok())
}
