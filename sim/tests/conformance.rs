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
use sim::world::World;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn conforms() {
    for (name, check) in conformance::checks() {
        for seed in 0..20 {
            println!("{name}, seed {seed}");
            let schedule = Schedule { yields: 512, spurious: 0, ..Schedule::default() };
            let kernel = Kernel::new(seed, schedule, false);
            let world = World::new(kernel.clone());
            let report = world.run(&Node::new("127.0.0.1"), Instant::ZERO + HOUR, move || {
                let folder = Path::new("work");
                fs::create_dir_all(folder).unwrap();
                check(folder);
                kernel.end();
            });
            assert_eq!(report.finding, None);
        }
    }
}
