//! The lecture's partition.

mod common;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use lecture::peers::Peers;
use lecture::protocol::CUT;
use rt::console::say;
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::{CallError, PollMgr};

use common::{Common, node_name};

const PATIENCE: Duration = Duration::from_secs(5);

/// Cuts a node of this machine that was started with --test off from others, as a broken network does.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Examples:
  cut 5099 5001 5003    5099 reaches neither 5001 nor 5003 any more
  cut 5099              5099 reaches everybody again

Exit status: 0, 1 if the node doesn't answer or wasn't started with --test, 2 after a wrong command line."
)]
struct Arguments {
    /// The node.
    #[arg(value_name = "NODE", value_parser = node_name)]
    node: String,

    /// Those that it is not to reach; without any it reaches all again.
    #[arg(value_name = "OTHER", value_parser = node_name)]
    others: Vec<String>,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("cut", None, LevelFilter::OFF);
    common::end("cut", run(arguments).map(|()| 0));
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { node, others, .. } = arguments;
    let peers = Peers::new(&PollMgr::shared(), "cut");
    peers.call(&node, CUT, (others.clone(),), PATIENCE).map_err(|error| {
        let advice = match error {
            CallError::UnmarshalArgs => "start it with --test",
            _ => "check that it runs, and its port",
        };
        format!("{node}: {error}: {advice}")
    })?;
    match &*others.join(", ") {
        "" => say(format_args!("{node} reaches everybody"))?,
        others => say(format_args!("{node} doesn't reach {others}"))?,
    }
    Ok(())
}
