//! One run: what its director does, and what came of it.
//!
//! 1. **Faults.** Nodes and clients start; faults come as the plan has it. The oracles look for anything wrong.
//! 2. **Majority.** The faults end. A majority of the latest view is well (of each view that may have been chosen to
//!    follow it, too), the rest is dead and stays so. Every request has to complete in [`PATIENCE`].
//! 3. **Unrest**, in some runs. One node comes and goes, and views must not change for ever.
//! 4. **All.** All nodes are well and come together: one view with all of them, one primary, equal states.

mod stranger;
mod unrest;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rt::thread::Node;
use rt::time::{Instant, sleep};
use trace::Kind;
use yfs_rpc::{Client as RpcClient, PollMgr};
use yfs_rsm::protocol::{BREAKPOINT, CUT_MEMBERS, NET_REPAIR};

use crate::cluster::{Cluster, Kill, Phase};
use crate::counter::CounterService;
use crate::dice::Dice;
use crate::disk::{DiskFaults, Tearing};
use crate::kernel::{Kernel, Report};
use crate::locks::LockService;
use crate::net::{Conditions, LinkState};
use crate::oracles::Oracles;
use crate::plan::{Fault, Plan};
use crate::recording::Recording;
use crate::service::Service;
use crate::world::{World, host_of};

/// How long a request may take once a majority is well, and how long all nodes may take to come together.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A run that isn't over by then hangs.
const LIMIT: Duration = Duration::from_secs(600);
/// Faults go on until so many requests were acknowledged meanwhile, but not for ever; and a breath is so long at most.
const REQUESTS_UNDER_FAULTS: u64 = 100;
const MAX_FAULT_TIME: Duration = Duration::from_secs(40);
const BREATH: Duration = Duration::from_secs(6);
/// How long the director waits for the first nodes to join before faults begin.
const START: Duration = Duration::from_secs(20);
/// Requests that a run acknowledges at least.
const REQUESTS: u64 = 200;
/// Requests that must have been completed after the faults.
const FURTHER_REQUESTS: u64 = 60;
/// How long a round may take that was under way when the faults ended.
const SETTLING: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(50);

/// What all runs have in common.
#[derive(Clone)]
pub struct Settings {
    /// How many nodes; drawn from these.
    pub nodes: RangeInclusive<usize>,
    /// These faults and no others; empty: drawn.
    pub only: Vec<Fault>,
    /// A mistake to be put back.
    pub mistake: Option<&'static str>,
    /// Whether to print a trace.
    pub traced: bool,
    /// Where to keep what happens, for a picture.
    pub recording: Recording,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { nodes: 3..=7, only: Vec::new(), mistake: None, traced: false, recording: Recording::default() }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Its finding, counters, trace.
    pub report: Report,
    /// Requests that the service has acknowledged.
    pub acknowledged: u64,
    /// The number of the last view.
    pub views: u64,
    /// It ended early, with too many disks lost.
    pub cut_short: bool,
}

/// Runs a seed, with one of the services that there are.
pub fn run_seed(seed: u64, settings: &Settings) -> Outcome {
    let plan = Plan::new(seed, &settings.nodes, &settings.only);
    let kernel = Kernel::new(seed, plan.schedule.clone(), false);
    let service: Arc<dyn Service> = match plan.service {
        0 => Arc::new(CounterService::new(&kernel)),
        _ => Arc::new(LockService::new(&kernel)),
    };
    run_on(kernel, plan, settings, service, seed)
}

/// Runs a seed with a service of the caller's.
pub fn run_service(seed: u64, settings: &Settings, service: Arc<dyn Service>) -> Outcome {
    let plan = Plan::new(seed, &settings.nodes, &settings.only);
    let kernel = Kernel::new(seed, plan.schedule.clone(), false);
    run_on(kernel, plan, settings, service, seed)
}

fn run_on(kernel: Kernel, plan: Plan, settings: &Settings, service: Arc<dyn Service>, seed: u64) -> Outcome {
    if settings.traced {
        kernel.trace_to(|line| rt::console::say(line));
    }
    let unique = service.unique_requests();
    let oracles = Oracles::new(kernel.clone(), unique);
    let (observer, world) = (oracles.clone(), World::new(kernel.clone()));
    let disks = world.disks.clone();
    let disk_failed = move |node: &Node| host_of(node).is_some_and(|host| disks.has_failed(host));
    let world = world
        .with_observer(Arc::new(move |node, event| observer.observe(node, event, disk_failed(node))))
        .with_recording(settings.recording.clone())
        .with_mistake(settings.mistake);
    // A sector is written or not: what a crash leaves of the last append is a beginning of it, or zeros behind that.
    world.disks.set_tearing(Tearing { zeros: 256, garbage: 0 });
    kernel.note("seed", || format!("{seed}: {plan:?}"));
    let cluster = Cluster::new(world.clone(), plan, service, oracles.clone());
    let director = Node::new("director");
    let mut script = Director { cluster: cluster.clone(), dice: cluster.plan().dice.clone(), kernel: kernel.clone() };
    let report = world.run(&director, Instant::ZERO + LIMIT, move || script.direct());
    let (acknowledged, views) = (oracles.acknowledged(), u64::from(oracles.latest_view().0));
    let cut_short = report.counts.keys().any(|what| what.starts_with("outage: "));
    Outcome { seed, report, acknowledged, views, cut_short }
}

struct Director {
    cluster: Cluster,
    dice: Dice,
    kernel: Kernel,
}

impl Director {
    fn direct(&mut self) {
        for part in [Self::begin, Self::faults, Self::majority, Self::unrest, Self::all] {
            part(self);
            if self.kernel.is_over() {
                return;
            }
        }
        if let Err(wrong) = self.cluster.service().check() {
            self.kernel.find(wrong);
        }
        self.kernel.end();
    }

    fn begin(&mut self) {
        let plan = self.cluster.plan().clone();
        self.cluster.start(0);
        for member in 1..plan.nodes {
            sleep(self.dice.between(Duration::ZERO, Duration::from_millis(100)));
            self.cluster.start(member);
        }
        if !plan.rough_start {
            let everybody = plan.nodes;
            self.wait(START, |cluster| {
                let replicas = cluster.replicas();
                replicas.len() == everybody && replicas.iter().all(|(_, r)| r.view().1.len() == everybody)
            });
        }
        for client in 0..plan.clients {
            self.cluster.start_client(client);
        }
        let conditions = self.conditions(&plan);
        self.cluster.world().net.set_conditions(conditions);
    }

    /// Waits for a condition; false if it doesn't come in time.
    fn wait(&self, patience: Duration, done: impl Fn(&Cluster) -> bool) -> bool {
        let deadline = self.kernel.now() + patience;
        while !done(&self.cluster) {
            if self.kernel.now() >= deadline {
                return false;
            }
            sleep(LOOK);
        }
        true
    }

    fn conditions(&mut self, plan: &Plan) -> Conditions {
        let base = [(20, 80), (100, 400), (500, 3_000)][self.dice.below(3) as usize];
        let mut conditions = Conditions {
            delay: (Duration::from_micros(base.0), Duration::from_micros(base.1)),
            ..Conditions::default()
        };
        if plan.has(Fault::Slow) {
            conditions.slow_links = 1 + self.dice.below(200);
            conditions.short_reads = self.dice.below(200);
            conditions.short_writes = self.dice.below(200);
        }
        if plan.has(Fault::Rpc) {
            for faults in [&mut conditions.requests, &mut conditions.replies] {
                faults.dropped = self.dice.below(60);
                faults.doubled = self.dice.below(100);
                faults.delayed = self.dice.below(60);
                faults.reordered = self.dice.below(60);
            }
        }
        conditions
    }

    fn faults(&mut self) {
        let plan = self.cluster.plan().clone();
        let acted: Vec<Fault> = plan.faults.iter().copied().filter(|fault| !is_passive(*fault)).collect();
        let (end, latest) = (self.kernel.now() + plan.fault_time, self.kernel.now() + MAX_FAULT_TIME);
        loop {
            let pause = self.dice.between(Duration::ZERO, plan.pace * 2);
            let busy = self.cluster.oracles().acknowledged() >= REQUESTS_UNDER_FAULTS;
            if self.kernel.now() + pause >= if busy { end } else { latest } {
                return;
            }
            sleep(pause);
            if self.dice.one_in(2) {
                // A fault only counts if it hits something: the service gets to work in between.
                let wanted = self.cluster.oracles().acknowledged() + self.dice.below(40);
                self.wait(BREATH, |cluster| cluster.oracles().acknowledged() >= wanted);
            }
            if let Some(fault) = self.dice.pick(&acted).copied() {
                self.inject(fault);
            }
        }
    }

    fn a_node(&mut self) -> Option<usize> {
        let alive = self.cluster.alive();
        self.dice.pick(&alive).copied()
    }

    /// The machine of a node or of a client.
    fn a_host(&mut self) -> IpAddr {
        let (nodes, clients) = (self.cluster.len() as u64, self.cluster.plan().clients as u64);
        match self.dice.below(nodes * 2 + clients) {
            n if n < nodes * 2 => self.cluster.host((n / 2) as usize),
            n => Cluster::client_host((n - nodes * 2) as usize),
        }
    }

    fn two_hosts(&mut self) -> Option<(IpAddr, IpAddr)> {
        let (a, b) = (self.a_host(), self.a_host());
        let client = |host: IpAddr| (0..self.cluster.plan().clients).any(|c| Cluster::client_host(c) == host);
        (a != b && !(client(a) && client(b))).then_some((a, b))
    }

    /// Shows in a picture what is done to a node, or to all.
    fn show(&self, node: &str, what: impl FnOnce() -> String) {
        self.cluster.show(node, Kind::Fault, what);
    }

    fn show_between(&self, a: IpAddr, b: IpAddr, what: &str) {
        self.show("", || format!("{what}: {}, {}", self.cluster.named(a), self.cluster.named(b)));
    }

    /// How long a fault lasts.
    fn spell(&mut self) -> Duration {
        let (least, most) = [(5, 200), (200, 1_500), (1_500, 4_000), (4_000, 12_000)][self.dice.below(4) as usize];
        self.dice.between(Duration::from_millis(least), Duration::from_millis(most))
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Crash => {
                let Some(victim) = self.a_node() else { return };
                let turns = self.dice.below(3_000);
                self.kernel.crash_after(&Node::new(&self.cluster.name(victim)), turns);
            }
            Fault::Breakpoint => self.lab_fault(),
            Fault::PowerOff => {
                let Some(victim) = self.a_node() else { return };
                if self.dice.one_in(2) {
                    self.wait_for_an_append(victim);
                }
                self.kernel.count("fault: power off");
                self.cluster.kill(victim, Kill::Power);
                self.cluster.plan_restart(victim);
            }
            Fault::PowerCut => {
                self.kernel.count("fault: power cut");
                for member in self.cluster.alive() {
                    self.cluster.kill(member, Kill::Power);
                    self.cluster.plan_restart(member);
                }
            }
            Fault::LostDisk | Fault::BitFlip => self.disk_gone(fault),
            Fault::Pause => self.pause(),
            Fault::Partition => self.partition(),
            Fault::OneWay => {
                let Some((a, b)) = self.two_hosts() else { return };
                self.kernel.count("fault: one-way cut");
                let spell = self.spell();
                self.show("", || {
                    format!(
                        "one-way cut, {} to {}, for {}",
                        self.cluster.named(a),
                        self.cluster.named(b),
                        briefly(spell)
                    )
                });
                self.cut(&[(a, b)], spell);
            }
            Fault::Connections => self.connections(),
            Fault::Disk => self.disk_trouble(),
            Fault::Stranger => self.stranger(),
            Fault::Rpc | Fault::Slow | Fault::Clock | Fault::Spurious | Fault::CrashLoop | Fault::SmallestApart => {}
        }
    }

    /// Waits until the node has written something that isn't synced: that is the moment that counts.
    fn wait_for_an_append(&self, member: usize) {
        let (host, deadline) = (self.cluster.host(member), self.kernel.now() + Duration::from_secs(2));
        while !self.cluster.world().disks.has_unsynced(host) && self.kernel.now() < deadline {
            sleep(Duration::from_micros(100));
        }
    }

    fn disk_gone(&mut self, fault: Fault) {
        let Some(victim) = self.a_node() else { return };
        // More would be an outage (rule 3).
        let name = self.cluster.name(victim);
        let mut views = self.cluster.oracles().views_to_come();
        views.push(self.cluster.oracles().latest_view().1);
        if views.iter().any(|view| view.contains(&name) && 2 * (self.cluster.voteless(view) + 1) >= view.len()) {
            return;
        }
        self.cluster.kill(victim, Kill::Process);
        if fault == Fault::LostDisk {
            self.cluster.lose_disk(victim);
        } else {
            self.cluster.flip_bit(victim);
        }
        let pause = self.cluster.plan_restart(victim);
        if fault == Fault::LostDisk && self.dice.one_in(3) {
            self.new_disk_hangs(victim, pause);
        }
    }

    /// The new disk hangs while the node starts, which is in `pause`, perhaps for so long that it asks to be removed. And
    /// perhaps nobody can remove it: the others have no power meanwhile, and are back when it goes on.
    fn new_disk_hangs(&mut self, victim: usize, pause: Duration) {
        let faults = DiskFaults { hangs_after: Some(self.dice.below(5)), ..DiskFaults::default() };
        self.cluster.set_disk_faults(victim, faults);
        let few = self.dice.between(Duration::from_millis(1_900), Duration::from_millis(2_600));
        let spell = pause + if self.dice.one_in(2) { few } else { self.spell() };
        let cluster = self.cluster.clone();
        self.kernel.after(spell, move || cluster.heal_disk(victim));
        if self.dice.one_in(2) {
            self.kernel.count("fault: power cut");
            for member in self.cluster.alive() {
                self.cluster.kill(member, Kill::Power);
                let early = self.dice.between(Duration::ZERO, Duration::from_millis(500));
                let cluster = self.cluster.clone();
                self.kernel.after(spell.saturating_sub(early), move || cluster.start(member));
            }
        }
    }

    fn pause(&mut self) {
        let spell = self.spell();
        let node = if self.dice.one_in(5) {
            let client = self.dice.below(self.cluster.plan().clients as u64) as usize;
            Node::new(&Cluster::client_host(client).to_string())
        } else {
            let Some(victim) = self.a_node() else { return };
            Node::new(&self.cluster.name(victim))
        };
        self.kernel.count("fault: pause");
        self.kernel.note(node.name(), || format!("paused for {spell:?}"));
        self.show(node.name(), || format!("paused for {}", briefly(spell)));
        self.kernel.pause(&node, spell);
    }

    /// Cuts directions between machines for a while.
    fn cut(&mut self, links: &[(IpAddr, IpAddr)], spell: Duration) {
        let until = self.kernel.now() + spell;
        links.iter().for_each(|(from, to)| self.cluster.cut(*from, *to, until));
        let (links, cluster) = (links.to_vec(), self.cluster.clone());
        self.kernel.after(spell, move || {
            // Later everything has been healed, and other links may be cut.
            if cluster.phase() == Phase::Faults {
                links.iter().for_each(|(from, to)| cluster.end_cut(*from, *to));
            }
        });
    }

    fn partition(&mut self) {
        let nodes: Vec<IpAddr> = (0..self.cluster.len()).map(|m| self.cluster.host(m)).collect();
        let clients: Vec<IpAddr> = (0..self.cluster.plan().clients).map(Cluster::client_host).collect();
        // A part of the nodes; clients are with one side, or with both.
        let inside: BTreeSet<IpAddr> = nodes.iter().copied().filter(|_| self.dice.one_in(2)).collect();
        let clients_too = self.dice.one_in(2);
        let sides: BTreeSet<IpAddr> = clients.iter().copied().filter(|_| clients_too && self.dice.one_in(2)).collect();
        let everybody: Vec<IpAddr> = if clients_too { nodes.iter().chain(&clients).copied().collect() } else { nodes };
        let within = |host: &IpAddr| inside.contains(host) || sides.contains(host);
        let partial = self.dice.one_in(3);
        let mut links = Vec::new();
        for a in &everybody {
            for b in &everybody {
                if within(a) && !within(b) && !(partial && self.dice.one_in(3)) {
                    links.extend([(*a, *b), (*b, *a)]);
                }
            }
        }
        if !links.is_empty() {
            self.kernel.count(if partial { "fault: partial partition" } else { "fault: partition" });
            self.kernel.note("director", || format!("partition: {inside:?} {sides:?}, partial: {partial}"));
            let spell = self.spell();
            self.show("", || {
                let hosts = |sides: bool| everybody.iter().filter(move |host| within(host) == sides);
                let names = |side| hosts(side).map(|host| self.cluster.named(*host)).collect::<Vec<_>>().join(" ");
                let what = if partial { "partial partition" } else { "partition" };
                format!("{what}: {} | {}, for {}", names(true), names(false), briefly(spell))
            });
            self.cut(&links, spell);
        }
    }

    fn connections(&mut self) {
        let net = self.cluster.world().net.clone();
        match self.dice.below(4) {
            0 => {
                // Who refuses is taken for dead; all of them together would be everybody's end.
                let Some(victim) = self.a_node() else { return };
                let until = self.kernel.now() + self.dice.between(Duration::ZERO, Duration::from_millis(400));
                self.show(&self.cluster.name(victim), || "refuses connections".to_owned());
                net.refuse(self.cluster.host(victim), until);
            }
            1 => {
                let Some((a, b)) = self.two_hosts() else { return };
                self.show_between(a, b, "a connection is half-open");
                net.half_open(a, b);
            }
            2 => {
                let Some((a, b)) = self.two_hosts() else { return };
                self.show_between(a, b, "connections break");
                net.break_connections(a, b);
            }
            _ => {
                let Some((a, b)) = self.two_hosts() else { return };
                self.show_between(a, b, "a connection breaks at the next message");
                net.break_at_next_frame(a, b);
            }
        }
    }

    fn disk_trouble(&mut self) {
        let Some(victim) = self.a_node() else { return };
        // Now and then, or the next time for sure.
        let odds = if self.dice.one_in(2) { 1024 } else { 1 + self.dice.below(200) };
        let faults = match self.dice.below(5) {
            0 => DiskFaults { write_errors: odds, ..DiskFaults::default() },
            1 => DiskFaults { sync_errors: odds, ..DiskFaults::default() },
            2 => DiskFaults { full: true, ..DiskFaults::default() },
            3 => DiskFaults { hung: true, ..DiskFaults::default() },
            _ => DiskFaults { slow: true, ..DiskFaults::default() },
        };
        self.cluster.set_disk_faults(victim, faults);
        let (cluster, spell) = (self.cluster.clone(), self.spell());
        self.kernel.after(spell, move || cluster.heal_disk(victim));
    }

    /// What the lab's testers do to a node, through its test port.
    fn lab_fault(&mut self) {
        let Some(victim) = self.a_node() else { return };
        let what = self.dice.below(6);
        if what >= 4 {
            let (cluster, spell) = (self.cluster.clone(), self.spell());
            self.kernel.after(spell, move || repair(&cluster, victim));
        }
        self.kernel.count(match what {
            0..4 => "fault: breakpoint",
            4 => "fault: lab partition",
            _ => "fault: cut from members",
        });
        self.show(&self.cluster.name(victim), || match what {
            0..4 => format!("a tester sets breakpoint {}", what + 1),
            4 => "a tester has it cut off at its next request".to_owned(),
            _ => "a tester cuts it off from the members".to_owned(),
        });
        let cluster = self.cluster.clone();
        if what < 4 {
            cluster.tester_begins(victim);
        }
        tell_tester(&self.cluster, victim, move |client| {
            let patience = Duration::from_secs(2);
            match what {
                0..4 => {
                    let answer = client.call(BREAKPOINT, (what as i32 + 1,), patience);
                    cluster.tester_ends(victim, answer.map_or_else(|error| error.may_have_executed(), |_| true));
                }
                4 => drop(client.call(NET_REPAIR, (0,), patience)),
                _ => drop(client.call(CUT_MEMBERS, (0,), patience)),
            }
            // The node may only have listened when everything was healed already.
            if cluster.phase() != Phase::Faults {
                repair(&cluster, victim);
            }
        });
    }

    /// The end of all faults, and a majority that is well.
    fn majority(&mut self) {
        self.cluster.set_phase(Phase::Majority);
        let world = self.cluster.world().clone();
        world.net.heal_all();
        for member in 0..self.cluster.len() {
            self.cluster.heal_disk(member);
            let node = Node::new(&self.cluster.name(member));
            self.kernel.spare(&node);
            // Who was stopped in the middle of a round finishes it now, and not when nobody expects it any more.
            self.kernel.resume(&node);
        }
        self.kill_the_armed();
        let mut well = BTreeSet::new();
        let mut cut_off = Vec::new();
        if !self.enlarge(&mut well) {
            return self.outage();
        }
        for member in 0..self.cluster.len() {
            if well.contains(&member) {
                repair(&self.cluster, member);
                self.cluster.start(member);
            } else {
                self.cluster.set_out(member, true);
                match self.dice.below(4) {
                    0 => self.cluster.kill(member, Kill::Process),
                    1 => self.cluster.kill(member, Kill::Power),
                    // It answers, and does nothing that takes a disk.
                    2 => self.cluster.set_disk_faults(member, DiskFaults { hung: true, ..DiskFaults::default() }),
                    // It is dead for those who are well; clients reach it as before.
                    _ => cut_off.push(member),
                }
            }
        }
        self.note_well(&well);
        for member in cut_off {
            self.kernel.count("fault: cut off from a majority");
            self.show(&self.cluster.name(member), || "cut off from the majority".to_owned());
            for other in (0..self.cluster.len()).filter(|other| *other != member) {
                let (a, b) = (self.cluster.host(member), self.cluster.host(other));
                world.net.set_link(a, b, LinkState::Cut);
                world.net.set_link(b, a, LinkState::Cut);
            }
        }
        let (healed, before) = (self.kernel.now(), self.cluster.completed_requests());
        // A pause may go on for a while, and a time-out of TCP's.
        let grace = Duration::from_secs(12);
        let enough = |cluster: &Cluster| {
            cluster.completed_requests() >= before + FURTHER_REQUESTS && cluster.oracles().acknowledged() >= REQUESTS
        };
        while !enough(&self.cluster) || !self.no_old_request(healed) {
            let late = |since: &Instant| self.kernel.now() > (*since).max(healed + grace) + PATIENCE;
            let pending = self.cluster.pending();
            if let Some((what, since)) = pending.iter().find(|(_, since)| late(since)) {
                let view = self.cluster.oracles().latest_view();
                let since = since.since_start();
                return self.kernel.find(format!(
                    "stuck: {what} isn't complete, since {since:?}, though a majority is well: {well:?} of view {view:?}"
                ));
            }
            if late(&healed) && !enough(&self.cluster) {
                return self.kernel.find(format!("idle: clients make no progress with a majority well: {pending:?}"));
            }
            if self.kernel.is_over() {
                return;
            }
            // A round that was under way when the rest died may choose a view of which it is too large a part.
            if self.kernel.now() < healed + SETTLING && !self.is_majority(&well) {
                let before = well.clone();
                if !self.enlarge(&mut well) {
                    return self.outage();
                }
                for member in well.difference(&before) {
                    for other in 0..self.cluster.len() {
                        let (a, b) = (self.cluster.host(*member), self.cluster.host(other));
                        world.net.set_link(a, b, LinkState::Open);
                        world.net.set_link(b, a, LinkState::Open);
                    }
                    self.cluster.set_out(*member, false);
                    self.cluster.heal_disk(*member);
                    self.cluster.start(*member);
                    // Its tester may have cut it off late.
                    repair(&self.cluster, *member);
                }
                self.note_well(&well);
            }
            sleep(LOOK);
        }
    }

    /// Disks were lost, and those that are left are no majority: the run ends. That may only be for the reasons that are known.
    fn outage(&self) {
        self.kernel.count("outage: too many disks lost");
        self.kernel.end();
    }

    /// Who is to die at a breakpoint would do so now.
    fn kill_the_armed(&self) {
        for member in self.cluster.alive().into_iter().filter(|m| self.cluster.may_exit(*m)) {
            self.cluster.kill(member, Kill::Process);
        }
    }

    fn note_well(&self, well: &BTreeSet<usize>) {
        self.kernel.note("director", || {
            let well: Vec<String> = well.iter().map(|m| self.cluster.name(*m)).collect();
            format!("well: {well:?}")
        });
    }

    fn no_old_request(&self, healed: Instant) -> bool {
        self.cluster.pending().iter().all(|(_, since)| *since > healed)
    }

    /// Whether these nodes are a majority of the last view that one of them knows, of the latest, and of each that may
    /// have been chosen to follow it; those that can't vote don't count.
    fn is_majority(&self, well: &BTreeSet<usize>) -> bool {
        let oracles = self.cluster.oracles();
        let mut views = oracles.views_to_come();
        views.push(oracles.latest_view().1);
        let (known, voters) = self.cluster.voters(well);
        views.push(known);
        views.iter().all(|view| {
            let inside = voters.iter().filter(|m| view.contains(&self.cluster.name(**m))).count();
            2 * inside > view.len()
        })
    }

    /// Adds nodes until these are a majority; one that holds the state comes first. False: too many disks are lost.
    fn enlarge(&mut self, well: &mut BTreeSet<usize>) -> bool {
        let (_, latest) = self.cluster.oracles().latest_view();
        let mut order: Vec<usize> = (0..self.cluster.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.dice.below(at as u64 + 1) as usize);
        }
        for member in order {
            if self.is_majority(well) {
                break;
            }
            let name = self.cluster.name(member);
            if latest.contains(&name) || self.cluster.oracles().views_to_come().iter().any(|view| view.contains(&name))
            {
                well.insert(member);
            }
        }
        self.is_majority(well)
    }

    /// All nodes come together.
    fn all(&mut self) {
        self.all_well(Phase::All);
        self.cluster.stop_clients();
        self.come_together(|cluster| {
            let states: BTreeSet<Vec<u8>> = cluster.replicas().iter().map(|(_, r)| r.state()).collect();
            cluster.is_together() && cluster.pending().is_empty() && states.len() == 1
        });
    }

    /// Every node is well, and runs.
    fn all_well(&mut self, phase: Phase) {
        self.cluster.set_phase(phase);
        self.cluster.world().net.heal_all();
        for member in 0..self.cluster.len() {
            let was_out = self.cluster.set_out(member, false);
            self.cluster.heal_disk(member);
            self.cluster.start(member);
            if was_out {
                // It is still as its tester left it.
                repair(&self.cluster, member);
            }
        }
    }

    /// Waits for all nodes; if they don't come that is wrong.
    fn come_together(&self, done: impl Fn(&Cluster) -> bool) -> bool {
        let came = self.wait(PATIENCE * 2, done);
        if !came && !self.kernel.is_over() {
            let views: Vec<_> = self.cluster.replicas().iter().map(|(m, r)| (*m, r.view(), r.is_primary())).collect();
            let pending = self.cluster.pending();
            let what = if self.cluster.is_together() && pending.is_empty() { "states differ" } else { "apart" };
            self.kernel.find(format!("{what}: with all nodes well they don't come together: {views:?}, {pending:?}"));
        }
        came
    }
}

/// A duration for people.
fn briefly(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

/// Whether a class of faults is there all the time, or in a phase of its own, and not injected at some moment.
fn is_passive(fault: Fault) -> bool {
    let unrest = matches!(fault, Fault::CrashLoop | Fault::SmallestApart);
    unrest || matches!(fault, Fault::Rpc | Fault::Slow | Fault::Clock | Fault::Spurious)
}

/// Takes the lab's partitions of a node back.
fn repair(cluster: &Cluster, member: usize) {
    if cluster.alive().contains(&member) {
        tell_tester(cluster, member, |client| {
            // The node may be paused. If it has died there is nothing to repair.
            let again = |procedure| (0..20).any(|_| client.call(procedure, (1,), Duration::from_secs(1)).is_ok());
            let _ = again(NET_REPAIR) && again(CUT_MEMBERS);
        });
    }
}

/// Talks to a node's test server, from its own machine.
fn tell_tester(cluster: &Cluster, member: usize, say: impl FnOnce(&RpcClient) + Send + 'static) {
    let host = cluster.host(member);
    // It belongs to the machine, and not to the node.
    let tester = Node::new(&host.to_string());
    let told = tester.spawn("tester", move || {
        let Ok(pollmgr) = PollMgr::new() else { return };
        let Ok(address) = format!("127.0.0.1:{}", crate::cluster::TEST_PORT).parse() else { return };
        let client = RpcClient::new_on(&pollmgr, address, yfs_rpc::Options::default());
        say(&client);
    });
    if let Err(error) = told {
        cluster.world().kernel.find(format!("no thread: {error}"));
    }
}
