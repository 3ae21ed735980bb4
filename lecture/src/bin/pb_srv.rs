//! The bank's server with a backup.

mod common;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lecture::pb_server::{Options, PbServer};
use rt::console::say;
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, node_name};

/// A bank's server that is primary, backup or idle, as the view server says.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Example:
  view_server 5000 &
  pb_srv /tmp/a 5001 5000 &
  pb_srv /tmp/b 5002 5000 &
  pb_client 5000
  cat /tmp/b

Each line of the file is an operation: its number, what it was, what was answered, and the accounts after it. The file is to
be looked at: a server that is started again begins with nothing and an empty file, and fetches the complete state when it
becomes the backup. If the view server was started again, all servers have to be, and what they have is lost.

The bank holds 100 accounts, whose names are 1 to 32 letters a-z, A-Z and digits, and no more than 18446744073709551615 in
each. After 20000 operations the log is full, and the server refuses. It runs until Ctrl-C.

Exit status: 0 after Ctrl-C, 1 if the file or the port can't be used, 2 after a wrong command line."
)]
struct Arguments {
    /// The file; it is created if it isn't there, and emptied if it is a server's.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where it listens, and its name: a port of this machine, or host:port.
    #[arg(value_name = "PORT", value_parser = node_name)]
    port: String,

    /// The view server.
    #[arg(value_name = "VIEWSERVER", value_parser = node_name)]
    view_server: String,

    /// How often it pings: as the view server was told, which otherwise takes it for dead again and again.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    interval: u64,

    /// Let `cut` cut it off from others, on 127.0.0.1 only.
    #[arg(long)]
    test: bool,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("pb_srv", Some(&arguments.port), LevelFilter::INFO);
    common::end("pb_srv", run(arguments).map(|()| 0));
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { file, port: name, view_server, interval, test, .. } = arguments;
    let path = file.display().to_string();
    let options = Options { name, view_server, file: Some(file), interval: Duration::from_millis(interval), test };
    let server = PbServer::start(&PollMgr::shared(), &options)?;
    common::serve(|| server.broken())?;
    server.shutdown();
    say(format_args!("{} operations in {path}", server.accounts().0))?;
    Ok(())
}
