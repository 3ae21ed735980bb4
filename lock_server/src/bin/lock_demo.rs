//! Shows what a lock service does (the lab's `lock_demo`, and a little more).

mod common;

use std::time::Duration;

use clap::Parser;
use rt::console::say;
use rt::time::now;
use tracing_subscriber::filter::LevelFilter;
use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};

use common::{Common, FAILED, server_name};

const PATIENCE: Duration = Duration::from_secs(10);

/// Takes a lock with one client, then with another, and shows what that costs; then prints how often it was granted.
#[derive(Parser, Debug)]
#[command(
    name = "lock_demo",
    version,
    after_help = "\
Example:
  lock_demo 21000

Exit status: 0, 1 if the service doesn't answer, 2 after a wrong command line, 141 if nobody reads what it says."
)]
struct Arguments {
    /// A server of the service: a port of this machine, or host:port.
    #[arg(value_name = "SERVER", value_parser = server_name)]
    server: String,

    /// The lock to use.
    #[arg(value_name = "LOCK", default_value_t = 1)]
    lock: u64,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up(LevelFilter::WARN);
    if let Err(error) = run(&arguments) {
        rt::console::end(&format!("lock_demo: {}", arguments.server), &*error, FAILED);
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { server, lock, common } = arguments;
    let options = LockClientOptions { patience: PATIENCE, rpc: common.rpc(), ..LockClientOptions::default() };
    let connect = || LockClient::connect(std::slice::from_ref(server), options.clone());
    let (one, other) = (connect()?, connect()?);
    for (client, what) in [
        (&one, "asked the service"),
        (&one, "had it cached"),
        (&other, "asked the service, which called it back from the first"),
    ] {
        let began = now();
        let guard = client.lock(*lock)?;
        say(format_args!("{} has lock {lock} after {:?}: it {what}", client.id(), began.elapsed()))?;
        drop(guard);
    }
    say(format_args!("stat returned {}", one.stat(*lock)?))?;
    Ok(())
}
