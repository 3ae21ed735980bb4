//! The faults that come while requests are under way: which, when, and to whom.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rt::thread::Node;
use rt::time::sleep;
use trace::Kind;
use yfs_rpc::{Client as RpcClient, PollMgr};
use yfs_rsm::protocol::{BREAKPOINT, CUT_MEMBERS, NET_REPAIR};

use super::Director;
use crate::cluster::{Cluster, Kill, Phase};
use crate::disk::DiskFaults;
use crate::net::Conditions;
use crate::plan::{Fault, Plan};

/// Faults go on until so many requests were acknowledged meanwhile, but not for ever; and a breath is so long at most.
const REQUESTS_UNDER_FAULTS: u64 = 100;
const MAX_FAULT_TIME: Duration = Duration::from_secs(40);
const BREATH: Duration = Duration::from_secs(6);

impl Director {
    /// The network under faults; in all other runs it only has a delay.
    pub(super) fn conditions(&mut self, plan: &Plan) -> Conditions {
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

    pub(super) fn faults(&mut self) {
        let plan = self.cluster.plan().clone();
        let acted: Vec<Fault> = plan.faults.iter().copied().filter(|fault| !is_passive(*fault)).collect();
        let (end, latest) = (self.kernel.now() + plan.fault_time, self.kernel.now() + MAX_FAULT_TIME);
        if plan.rough_start && plan.has(Fault::Crash) {
            self.crash();
        }
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
    pub(super) fn show(&self, node: &str, what: impl FnOnce() -> String) {
        self.cluster.show(node, Kind::Fault, what);
    }

    pub(super) fn show_between(&self, a: IpAddr, b: IpAddr, what: &str) {
        self.show("", || format!("{what}: {}, {}", self.cluster.named(a), self.cluster.named(b)));
    }

    /// How long a fault lasts.
    fn spell(&mut self) -> Duration {
        let (least, most) = [(5, 200), (200, 1_500), (1_500, 4_000), (4_000, 12_000)][self.dice.below(4) as usize];
        self.dice.between(Duration::from_millis(least), Duration::from_millis(most))
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Crash => self.crash(),
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

    /// A node, at some switch between its threads; or the primary, while a joiner fetches the state from it.
    fn crash(&mut self) {
        let joined = if self.dice.one_in(2) { self.wait_for_joiners() } else { None };
        let soon = [10, 30, 100][self.dice.below(3) as usize];
        let Some(victim) = self.a_node() else { return };
        let name = self.cluster.name(victim);
        let (name, turns) = match joined {
            Some(primary) => (if self.dice.one_in(4) { name } else { primary }, self.dice.below(soon)),
            None => (name, self.dice.below(3_000)),
        };
        self.kernel.crash_after(&Node::new(&name), turns);
    }

    /// Waits until the node has written something that isn't synced: that is the moment that counts.
    fn wait_for_an_append(&self, member: usize) {
        let (host, deadline) = (self.cluster.host(member), self.kernel.now() + Duration::from_secs(2));
        while !self.cluster.world().disks.has_unsynced(host) && self.kernel.now() < deadline {
            sleep(Duration::from_micros(100));
        }
    }

    /// Waits until a node has joined, or two or three, if any is away, but not for ever. The primary then.
    fn wait_for_joiners(&mut self) -> Option<String> {
        let (oracles, deadline) = (self.cluster.oracles().clone(), self.kernel.now() + BREATH);
        let mut wanted = 1 + self.dice.below(3);
        let mut before = oracles.latest_view().1.len();
        while before < self.cluster.len() && self.kernel.now() < deadline {
            sleep(Duration::from_micros(200));
            let members = oracles.latest_view().1;
            wanted -= u64::from(members.len() > before);
            before = members.len();
            if wanted == 0 || before == self.cluster.len() {
                return members.into_iter().next();
            }
        }
        None
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
        if fault == Fault::LostDisk && self.dice.one_in(2) {
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
pub(super) fn repair(cluster: &Cluster, member: usize) {
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
