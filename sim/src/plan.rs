//! What a seed means: how many nodes and clients, which faults, how often, how long.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::dice::Dice;
use crate::kernel::Schedule;

/// A class of faults; each run has some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// A node's process dies at any switch between threads, and is started again.
    Crash,
    /// A node dies at one of the lab's breakpoints, or cuts itself off in the middle of a request.
    Breakpoint,
    /// A node's machine loses power: what wasn't synced is lost, and nobody is told.
    PowerOff,
    /// All machines lose power at once.
    PowerCut,
    /// A node loses its disk while it is down.
    LostDisk,
    /// A node or a client is stopped for a while.
    Pause,
    /// Some nodes are cut off from the others, and from the clients or not.
    Partition,
    /// One direction between two machines is cut.
    OneWay,
    /// Connections break, hang half-open, are refused.
    Connections,
    /// Requests and replies are dropped, doubled, delayed, reordered.
    Rpc,
    /// Slow links, short reads and writes.
    Slow,
    /// Errors on write and sync, full and slow disks.
    Disk,
    /// A bit of a node's disk flips while it is down.
    BitFlip,
    /// Clocks of different speed.
    Clock,
    /// Waits that end for no reason.
    Spurious,
    /// Somebody who is no member speaks as if it were one.
    Stranger,
    /// With all others well, one node crashes again and again, less than a second after each start.
    CrashLoop,
    /// With all others well, the smallest member doesn't reach another one, and isn't the primary.
    SmallestApart,
}

/// In one of so many runs a node crashes in a loop; in one of so many the smallest member doesn't reach another one.
const UNREST_IN: u64 = 200;

impl Fault {
    /// The classes of the first phase.
    pub const ALL: [Fault; 15] = [
        Fault::Crash,
        Fault::Breakpoint,
        Fault::PowerOff,
        Fault::PowerCut,
        Fault::LostDisk,
        Fault::Pause,
        Fault::Partition,
        Fault::OneWay,
        Fault::Connections,
        Fault::Rpc,
        Fault::Slow,
        Fault::Disk,
        Fault::BitFlip,
        Fault::Clock,
        Fault::Spurious,
    ];
}

/// A run, as its seed has it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes of the service.
    pub nodes: usize,
    /// Clients, each on a machine of its own.
    pub clients: usize,
    /// Threads of a client.
    pub threads: usize,
    /// What clients contend for.
    pub keys: u64,
    /// The classes of faults.
    pub faults: BTreeSet<Fault>,
    /// The mean time between two faults.
    pub pace: Duration,
    /// How long faults go on.
    pub fault_time: Duration,
    /// Faults begin before all nodes have joined.
    pub rough_start: bool,
    /// How threads take turns.
    pub schedule: Schedule,
    /// The greatest drift of a clock, in millionths.
    pub drift: u64,
    /// Which of the services that there are.
    pub service: u64,
    /// What the director draws from.
    pub dice: Dice,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, nodes: &RangeInclusive<usize>, only: &[Fault]) -> Self {
        let mut dice = Dice::new(seed);
        let (least, most) = (*nodes.start(), *nodes.end());
        // Mostly few: a service of seven is slow to simulate.
        let spread = (most - least + 1) as u64;
        let node_count = least + dice.below(spread).min(dice.below(spread)) as usize;
        let share = dice.below(3);
        let mut faults: BTreeSet<Fault> = Fault::ALL.into_iter().filter(|_| dice.below(4) <= share).collect();
        if !only.is_empty() {
            faults = only.iter().copied().collect();
        }
        let spurious = if faults.contains(&Fault::Spurious) { 1 + dice.below(30) } else { 0 };
        let yields = [0, 16, 64, 256][dice.below(4) as usize];
        let mut plan = Plan {
            nodes: node_count,
            clients: 2 + dice.below(3) as usize,
            threads: [1, 1, 2, 2, 5][dice.below(5) as usize],
            keys: [1, 2, 3, 4, 20][dice.below(5) as usize],
            pace: Duration::from_millis([150, 400, 1000, 2500][dice.below(4) as usize]),
            fault_time: dice.between(Duration::from_secs(4), Duration::from_secs(15)),
            rough_start: dice.one_in(4),
            schedule: Schedule { yields, spurious, turn: Duration::from_micros(1 + dice.below(6)) },
            drift: if faults.contains(&Fault::Clock) { 1 + dice.below(100_000) } else { 0 },
            service: dice.below(4),
            faults,
            dice: dice.fork(),
        };
        if only.is_empty() {
            if dice.one_in(4) {
                plan.faults.insert(Fault::Stranger);
            }
            let unrest = [Fault::CrashLoop, Fault::SmallestApart];
            plan.faults.extend(unrest.get(dice.below(UNREST_IN) as usize));
        }
        plan
    }

    /// Whether the run has a class of faults.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}
