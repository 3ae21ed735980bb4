//! A replica of the bank on yfs-rsm.

mod common;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use lecture::file::advised;
use lecture::rsm_bank;
use tracing_subscriber::filter::LevelFilter;
use yfs_rsm::Options;

use common::{Common, node_name};

/// A replica of the bank, where Paxos takes the view server's place.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Example:
  rsm_srv 5001 5001 &
  rsm_srv 5001 5002 &
  rsm_srv 5001 5003 &
  rsm_client 5001 5002 5003

Its files, paxos-ME.log and rsm-ME.log, are in the folder that it is started in. One that was killed is started again with the
same command line, also the first one. It runs until Ctrl-C.

Exit status: 0 after Ctrl-C, 1 if it can't start or can't go on, 2 after a wrong command line."
)]
struct Arguments {
    /// A node of the service to join, or ME to be its first.
    #[arg(value_name = "FIRST", value_parser = node_name)]
    first: String,

    /// Where it listens, and its name: a port of this machine, or host:port.
    #[arg(value_name = "ME", value_parser = node_name)]
    me: String,

    /// A further node to join through, should FIRST be gone (may be repeated).
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    also: Vec<String>,

    /// The folder of its files.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("rsm_srv", Some(&arguments.me), LevelFilter::INFO);
    common::end("rsm_srv", run(arguments).map(|()| 0));
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { first, me, also, dir, .. } = arguments;
    rt::fs::create_dir_all(&dir).map_err(|e| format!("{}: {}", dir.display(), advised(&e)))?;
    tracing::info!(node = me.as_str(), kind = "start", first, "replica");
    let rsm = rsm_bank::start(Options { also, dir, ..Options::new(&first, &me) }).map_err(|e| e.explain())?;
    common::serve(|| None)?;
    rsm.shutdown();
    Ok(())
}
