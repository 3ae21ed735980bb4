//! What the simulated tests share: a run, and work on its machines.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rt::thread::{JoinHandle, Node};
use rt::time::Instant;
use sim::kernel::{Kernel, Schedule};
use sim::net::Net;
use sim::world::World;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs `program`, and gives the lines of the file `file` of each machine that it names. What it gives beside the names
/// isn't dropped: its threads are in the middle of something.
pub(crate) fn run<T>(
    seed: u64,
    program: impl FnOnce(Net) -> (Vec<&'static str>, T) + Send + 'static,
) -> Vec<Vec<String>> {
    let world = World::new(Kernel::new(seed, Schedule::default(), false));
    let (kernel, net, disks) = (world.kernel.clone(), world.net.clone(), world.disks.clone());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let out = lines.clone();
    let report = world.run(&Node::new("10.0.9.9"), Instant::from_start(Duration::from_secs(300)), move || {
        let (names, kept) = program(net);
        let lines_of = |name: &str| {
            let files = disks.files(name.split(':').next().unwrap().parse().unwrap());
            let (_, bytes) = files.into_iter().find(|(path, _)| path == Path::new("file")).unwrap();
            String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        };
        *out.lock().unwrap() = names.into_iter().map(lines_of).collect();
        std::mem::forget(kept);
        kernel.end();
    });
    assert_eq!(report.finding, None, "seed {seed}");
    std::mem::take(&mut *lines.lock().unwrap())
}

pub(crate) type Result<T> = Arc<Mutex<Option<T>>>;

/// Begins something on a machine.
pub(crate) fn begin<T: Send + 'static>(
    node: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (JoinHandle, Result<T>) {
    let result = Arc::new(Mutex::new(None));
    let place = result.clone();
    let thread = Node::new(node).spawn("main", move || {
        let value = work();
        *place.lock().unwrap() = Some(value);
    });
    (thread.unwrap(), result)
}

/// Does something on a machine, to its end.
pub(crate) fn on<T: Send + 'static>(node: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (thread, result) = begin(node, work);
    assert!(thread.join_until(Instant::NEVER));
    let result = result.lock().unwrap().take();
    result.unwrap()
}
