//! The bank's server (the lecture's `srv.py`).

mod common;

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use lecture::srv::Srv;
use rt::console::say;
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, node_name};

/// A bank's server: executes deposits, withdrawals, transfers and reads, and keeps all of them in a file.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Example:
  srv /tmp/a 5001
  cat /tmp/a

Each line of the file is an operation: its number, what it was, what was answered, and the accounts after it. A server that
is started again goes on where its file ends.

The bank holds 100 accounts, whose names are 1 to 32 letters a-z, A-Z and digits, and no more than 18446744073709551615 in
each. It runs until Ctrl-C.

Exit status: 0 after Ctrl-C, 1 if the file or the port can't be used, 2 after a wrong command line."
)]
struct Arguments {
    /// The file; it is created if it isn't there.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where it listens: a port of this machine, or host:port.
    #[arg(value_name = "PORT", value_parser = node_name)]
    port: String,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("srv", Some(&arguments.port), LevelFilter::INFO);
    common::end("srv", run(&arguments).map(|()| 0));
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let srv = Srv::start(&PollMgr::shared(), &arguments.port, &arguments.file)?;
    common::serve(|| srv.broken())?;
    srv.shutdown();
    say(format_args!("{} operations in {}", srv.number(), arguments.file.display()))?;
    Ok(())
}
