//! One run: what its director does, and what came of it.
//!
//! 1. **Faults.** Nodes and clients start; faults come as the plan has it. The oracles look for anything wrong.
//! 2. **Majority.** The faults end. A majority of the latest view is well (of each view that may have been chosen to
//!    follow it, too), the rest is dead and stays so. Every request has to complete in [`PATIENCE`].
//! 3. **Unrest**, in some runs. One node comes and goes, and views must not change for ever.
//! 4. **All.** All nodes are well and come together: one view with all of them, one primary, equal states.

mod faults;
mod stranger;
mod unrest;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rt::thread::Node;
use rt::time::{Instant, sleep};

use self::faults::repair;
use crate::cluster::{Cluster, Kill, Phase};
use crate::counter::CounterService;
use crate::dice::Dice;
use crate::disk::{DiskFaults, Tearing};
use crate::kernel::{Kernel, Report};
use crate::locks::LockService;
use crate::net::LinkState;
use crate::oracles::Oracles;
use crate::plan::{Fault, Plan};
use crate::recording::Recording;
use crate::service::Service;
use crate::world::{World, host_of};

/// How long a request may take once a majority is well, and how long all nodes may take to come together.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A run that isn't over by then hangs.
const LIMIT: Duration = Duration::from_secs(600);
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
