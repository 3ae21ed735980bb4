//! The simulator's backend does what every backend of rt must do.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../rt/tests/conformance/mod.rs"]
mod conformance;

use std::path::Path;
use std::time::Duration;

use rt::fs;
use rt::thread::Node;
use rt::time::Instant;
use sim::kernel::{Kernel, Schedule};
use sim::net::Conditions;
use sim::world::World;

const HOUR: Duration = Duration::from_secs(3600);

/// Runs all checks, for some seeds.
fn check_all(schedule: &Schedule, conditions: &Conditions) {
    for (name, check) in conformance::checks() {
        for seed in 0..200 {
            let kernel = Kernel::new(seed, schedule.clone(), false);
            let world = World::new(kernel.clone());
            world.net.set_conditions(conditions.clone());
            let report = world.run(&Node::new("127.0.0.1"), Instant::ZERO + HOUR, move || {
                let folder = Path::new("work");
                fs::create_dir_all(folder).unwrap();
                check(folder);
                kernel.end();
            });
            assert_eq!(report.finding, None, "{name}, seed {seed}");
        }
    }
}

fn many_switches() -> Schedule {
    Schedule { yields: 512, spurious: 0, ..Schedule::default() }
}

#[test]
fn conforms() {
    check_all(&many_switches(), &Conditions::default());
}

#[test]
fn conforms_without_delay() {
    let loopback = (Duration::ZERO, Duration::ZERO);
    check_all(&many_switches(), &Conditions { loopback, ..Conditions::default() });
}

#[test]
fn conforms_with_long_delays() {
    let loopback = (Duration::from_micros(100), Duration::from_millis(3));
    check_all(&Schedule::default(), &Conditions { loopback, ..Conditions::default() });
}
