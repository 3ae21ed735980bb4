//! The coordinator (the lecture's `coord.py`).

mod common;

use std::error::Error;

use clap::Parser;
use lecture::coord::{Coord, MAX_SERVERS, Options};
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, node_name};

/// Takes operations from clients and gives them one order: each gets a number, and goes to all servers.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Example:
  srv /tmp/a 5001 &
  srv /tmp/b 5002 &
  coord 5099 5001 5002 &
  client 5099

An operation is answered when a majority of the servers has executed it; of two servers that is both: with one dead it
stops, says so, and goes on when the server is back. A server that lacks the last operation is sent it. If one lacks more
(its file was lost), it stays stopped: stop the servers, copy the longest file over that one's file, start them again. It
runs until Ctrl-C.

Exit status: 0 after Ctrl-C, 1 if the port can't be used, 2 after a wrong command line."
)]
struct Arguments {
    /// Where it listens: a port of this machine, or host:port.
    #[arg(value_name = "PORT", value_parser = node_name)]
    port: String,

    /// The servers.
    #[arg(value_name = "SRV", required = true, num_args = 1..=MAX_SERVERS, value_parser = node_name)]
    servers: Vec<String>,

    /// Take a server that doesn't answer for dead, and go on without it. Wrong, as step 4 of the lecture shows.
    #[arg(long)]
    alone: bool,

    /// Let `cut` cut it off from servers, on 127.0.0.1 only.
    #[arg(long)]
    test: bool,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("coord", Some(&arguments.port), LevelFilter::INFO);
    common::end("coord", run(arguments).map(|()| 0));
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { port: name, servers, alone, test, .. } = arguments;
    common::ensure_distinct::<Arguments>("coord", &[std::slice::from_ref(&name), &*servers].concat());
    let coord = Coord::start(&PollMgr::shared(), Options { name, servers, alone, test })?;
    common::serve(|| None)?;
    coord.shutdown();
    Ok(())
}
