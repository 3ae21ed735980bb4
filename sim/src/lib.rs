//! Runs whole clusters in one process: the shipped code on a simulated clock, network and disk, one seed deciding all.

pub mod canaries;
pub mod cluster;
pub mod counter;
pub mod dice;
pub mod disk;
pub mod kernel;
pub mod linear;
pub mod locks;
pub mod net;
pub mod oracles;
pub mod plan;
pub mod recording;
pub mod run;
pub mod service;
pub mod totals;
pub mod trace;
pub mod workers;
pub mod world;

/// The faults that the director injects, by the names of their counters; without those of the phase of unrest, which is
/// rare (that it comes at all is shown by its canaries).
const DIRECTED: &[&str] = &[
    "fault: breakpoint",
    "fault: crash",
    "fault: cut from members",
    "fault: cut off from a majority",
    "fault: lab partition",
    "fault: one-way cut",
    "fault: partial partition",
    "fault: partition",
    "fault: pause",
    "fault: power cut",
    "fault: power off",
    "fault: spurious wake-up",
    "fault: clock drift",
];

/// The counters that many runs together must not lack; only messages if faults were chosen.
pub fn expected_counters(all_faults: bool) -> Vec<&'static str> {
    let all = DIRECTED.iter().copied().chain(disk::counters()).chain(net::counters()).chain([linear::CHECKED]);
    all.filter(|name| all_faults || !name.starts_with("fault: ")).collect()
}
