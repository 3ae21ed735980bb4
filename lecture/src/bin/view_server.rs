//! The view server.

mod common;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use lecture::view_server::ViewServer;
use lecture::views::Settings;
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, node_name};

/// Decides who is the primary and who the backup of a replicated server, view by view. Servers ping it, clients ask it.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Example:
  view_server 5000 &
  pb_srv /tmp/a 5001 5000 &
  pb_srv /tmp/b 5002 5000 &
  pb_srv /tmp/c 5003 5000 &
  pb_client 5000

The first view is formed when a server that lives would have pinged. A server that missed its pings is dead, one ping makes
it live again; servers that are neither primary nor backup replace a backup. What it knows is on no disk: started again it
doesn't know who has what was acknowledged. It seats no server that has been in a view before, and forms no view while it
hears one: stop all servers, then start them again, and the bank begins anew. If it hears none, as it is cut off from them,
it forms a view of those that it hears, and there are two banks. It runs until Ctrl-C.

Exit status: 0 after Ctrl-C, 1 if the port can't be used, 2 after a wrong command line."
)]
struct Arguments {
    /// Where it listens: a port of this machine, or host:port.
    #[arg(value_name = "PORT", value_parser = node_name)]
    port: String,

    /// Take a server for dead that missed so many pings in a row.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pings: u32,

    /// How often servers ping; they have to be told the same. One that pings slower is dead again and again.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    interval: u64,

    /// Change views whether or not their primary has acknowledged them. Wrong, as step 6 of the lecture shows.
    #[arg(long)]
    without_ack: bool,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("view_server", Some(&arguments.port), LevelFilter::INFO);
    common::end("view_server", run(&arguments).map(|()| 0));
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { port, pings, interval, without_ack, .. } = arguments;
    let settings = Settings { interval: Duration::from_millis(*interval), pings: *pings, acks: !without_ack };
    let server = ViewServer::start(&PollMgr::shared(), port, settings)?;
    common::serve(|| None)?;
    server.shutdown();
    Ok(())
}
