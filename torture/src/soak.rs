//! `torture soak`: kills, stops, partitions and clients for a chosen time.
//!
//! The time goes by in windows. In each one keepers and users are at work, one thing is broken and healed, and all nodes
//! have to be members again; then the keepers are audited, the users' calls checked and forgotten, and what each process
//! uses is sampled. In the end that must have stayed flat. The last node is never killed, and so is this process with its
//! clients: what they hoard, they keep.

use std::fmt;
use std::time::Duration;

use rt::console::say;
use rt::time::{Instant, now};
use yfs_rsm::protocol::{CUT_MEMBERS, NET_REPAIR};

use crate::cluster::{Cluster, Program, Usage, usage_of};
use crate::distribution::Distribution;
use crate::flat::{Allowance, judge};
use crate::keepers::Keepers;
use crate::os::Signal;
use crate::trouble::{Trouble, between, nap};
use crate::users::{Crowd, Users};

const KEEPERS: usize = 4;
const CROWD: Crowd = Crowd { clients: 3, threads: 2, locks: 3 };
/// How long a window goes on before and after something is broken.
const QUIET: (u64, u64) = (1000, 4000);
/// How long the service may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long all nodes may take to be members again: one that left soon a few times is kept away for up to 30 s (L8).
const WHOLE_PATIENCE: Duration = Duration::from_secs(60);
/// How often a line of progress is printed.
const PROGRESS: Duration = Duration::from_secs(30);

type Kind = (&'static str, Allowance, fn(&Usage) -> u64);

/// What is sampled, and how much of it is no growth. Workers are started when they are first needed; files are written anew when a MiB was appended, and the Paxos log
/// isn't compacted.
const KINDS: [Kind; 4] = [
    ("RSS, KiB", Allowance { percent: 150, slack: 8 << 10 }, |usage| usage.rss_kib),
    ("threads", Allowance { percent: 125, slack: 24 }, |usage| usage.threads),
    ("descriptors", Allowance { percent: 150, slack: 16 }, |usage| usage.descriptors),
    ("disk, KiB", Allowance { percent: 200, slack: 4 << 10 }, |usage| usage.disk_kib),
];

/// What is broken in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A node is killed, and started again.
    Kill,
    /// All but the last node are.
    KillMost,
    /// A node is stopped.
    Stop,
    /// The primary is cut off from the members, not from clients.
    CutMembers,
    /// A node is cut off from all in the middle of a request.
    Partition,
    Nothing,
}

const FAULTS: [Fault; 6] =
    [Fault::Kill, Fault::KillMost, Fault::Stop, Fault::CutMembers, Fault::Partition, Fault::Nothing];

/// What was seen.
struct Seen {
    began: Instant,
    windows: u32,
    /// The longest time without an answer, for each time that something was broken, by what was.
    gaps: [Distribution; FAULTS.len()],
    /// Of each node, and of this process last.
    samples: Vec<Vec<Usage>>,
    names: Vec<String>,
    requests: u64,
    calls: usize,
}

/// Runs for that long, or until Ctrl-C; true if all was well.
pub(crate) fn run(program: &Program, nodes: usize, time: Duration) -> Result<bool, Trouble> {
    let mut cluster = Cluster::start(program, nodes)?;
    let mut seen = Seen::new(&cluster);
    say(format_args!("{nodes} nodes, {time:?}; Ctrl-C ends it with the summary so far"))?;
    let ended = soak(&mut cluster, &mut seen, time);
    let mut well = seen.summary()?;
    match ended {
        Ok(last) => say(format_args!("the nodes' states are equal at {last}"))?,
        Err(Trouble::Unread) => return Err(Trouble::Unread),
        Err(Trouble::Interrupted) => say("interrupted: the nodes' states were not compared")?,
        Err(Trouble::Failed(what)) => {
            say(format_args!("after {} windows: {what}", seen.windows))?;
            well = false;
        }
    }
    say(if well { "PASS" } else { "FAIL" })?;
    if well {
        cluster.passed();
    }
    Ok(well)
}

fn soak(cluster: &mut Cluster, seen: &mut Seen, time: Duration) -> Result<impl fmt::Display + use<>, Trouble> {
    let mut keepers = Keepers::connect(&cluster.names(), KEEPERS)?;
    let mut users = Users::connect(&cluster.names(), CROWD)?;
    let mut progress = now() + PROGRESS;
    while seen.began.elapsed() < time {
        let kind = rt::random::below(FAULTS.len() as u64) as usize;
        let fault = FAULTS[kind];
        let gap = window(cluster, &mut keepers, &mut users, fault).map_err(|trouble| match trouble {
            Trouble::Failed(what) => Trouble::Failed(format!("{fault:?}: {what}")),
            Trouble::Interrupted | Trouble::Unread => trouble,
        })?;
        seen.windows += 1;
        seen.gaps[kind].add(gap);
        (seen.requests, seen.calls) = (keepers.answers().count(), users.checked());
        seen.sample(cluster);
        if now() >= progress {
            seen.progress()?;
            progress = now() + PROGRESS;
        }
    }
    drop((keepers, users));
    cluster.compare_states()
}

/// One window; gives the longest time without an answer since something was broken.
fn window(cluster: &mut Cluster, keepers: &mut Keepers, users: &mut Users, fault: Fault) -> Result<Duration, Trouble> {
    let members = cluster.await_whole(WHOLE_PATIENCE)?;
    keepers.run()?;
    users.run()?;
    nap(between(QUIET.0, QUIET.1))?;
    keepers.answers().measure();
    inject(cluster, &members, fault)?;
    cluster.await_whole(WHOLE_PATIENCE)?;
    keepers.await_all_since(now(), PATIENCE)?;
    let gap = keepers.answers().longest_gap();
    nap(between(QUIET.0, QUIET.1))?;
    cluster.watch()?;
    keepers.pause(PATIENCE)?;
    users.pause_and_check(PATIENCE)?;
    keepers.audit()?;
    Ok(gap)
}

/// Breaks something, and heals it. Every other time the primary is the victim.
fn inject(cluster: &mut Cluster, members: &[usize], fault: Fault) -> Result<(), Trouble> {
    let last = cluster.len() - 1;
    let any = rt::random::below(members.len() as u64) as usize;
    let node = if rt::random::below(2) == 0 { members[0] } else { members[any] };
    match fault {
        Fault::Kill => restart(cluster, &[if node == last { 0 } else { node }]),
        Fault::KillMost => restart(cluster, &(0..last).collect::<Vec<_>>()),
        Fault::Stop => {
            cluster.signal(node, Signal::Stop)?;
            let napped = nap(between(100, 6000));
            cluster.signal(node, Signal::Continue)?;
            napped
        }
        Fault::CutMembers => {
            cluster.test_port(members[0], CUT_MEMBERS, 0)?;
            nap(between(100, 5000))?;
            cluster.test_port(members[0], CUT_MEMBERS, 1)
        }
        Fault::Partition => {
            cluster.test_port(node, NET_REPAIR, 0)?;
            nap(between(100, 5000))?;
            cluster.test_port(node, NET_REPAIR, 1)
        }
        Fault::Nothing => nap(between(100, 1000)),
    }
}

fn restart(cluster: &mut Cluster, nodes: &[usize]) -> Result<(), Trouble> {
    cluster.kill_all(nodes)?;
    nap(between(0, 1500))?;
    nodes.iter().try_for_each(|node| cluster.start_node(*node))
}

impl Seen {
    fn new(cluster: &Cluster) -> Seen {
        let mut names: Vec<String> = cluster.names().iter().map(|name| format!("node {name}")).collect();
        names.push("the clients".to_owned());
        Seen {
            began: now(),
            windows: 0,
            gaps: [const { Distribution::new() }; FAULTS.len()],
            samples: vec![Vec::new(); names.len()],
            names,
            requests: 0,
            calls: 0,
        }
    }

    fn sample(&mut self, cluster: &Cluster) {
        let nodes = (0..cluster.len()).map(|node| cluster.usage(node));
        for (samples, usage) in self.samples.iter_mut().zip(nodes.chain([usage_of("self")])) {
            samples.extend(usage);
        }
    }

    fn progress(&self) -> Result<(), Trouble> {
        let usages = self.samples.iter().filter_map(|samples| samples.last());
        let usages: Vec<String> = usages
            .map(|usage| {
                let Usage { rss_kib, threads, descriptors, disk_kib } = usage;
                format!("{:.1}/{threads}/{descriptors}/{disk_kib}", *rss_kib as f64 / 1024.0)
            })
            .collect();
        Ok(say(format_args!(
            "{:6.0} s  {} windows, {} requests, {} calls; longest gap {:.2} s; MiB/threads/descriptors/disk KiB: {}",
            self.began.elapsed().as_secs_f64(),
            self.windows,
            self.requests,
            self.calls,
            self.gaps.iter().map(Distribution::max).max().unwrap_or_default().as_secs_f64(),
            usages.join("  ")
        ))?)
    }

    /// Prints what was seen; true if it's well.
    fn summary(&self) -> Result<bool, Trouble> {
        say(format_args!("\n{:.0} s, {} windows", self.began.elapsed().as_secs_f64(), self.windows))?;
        say(format_args!("{} requests had the right answer, {} calls were linearizable", self.requests, self.calls))?;
        say("longest time without an answer:")?;
        for (fault, gaps) in FAULTS.iter().zip(&self.gaps).filter(|(_, gaps)| gaps.len() > 0) {
            say(format_args!("  {:4} {:10} {gaps}", gaps.len(), format!("{fault:?}")))?;
        }
        let mut well = true;
        for (name, samples) in self.names.iter().zip(&self.samples) {
            let mut judgements = Vec::new();
            for (kind, allowance, of) in KINDS {
                let values: Vec<u64> = samples.iter().map(of).collect();
                let Some(judgement) = judge(&values, allowance) else { continue };
                let verdict = if judgement.is_flat { "" } else { " GREW" };
                judgements.push(format!("{kind} {} -> {}{verdict}", judgement.early, judgement.late));
                well &= judgement.is_flat;
            }
            if judgements.is_empty() {
                judgements.push("too few samples to judge".to_owned());
            }
            say(format_args!("{name}: {}", judgements.join(", ")))?;
        }
        Ok(well)
    }
}
