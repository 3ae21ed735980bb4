//! The client of the bank's server with a backup.

mod common;
#[path = "common/work.rs"]
mod work;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use lecture::bank::Op;
use lecture::pb_client::{Answered, PbClient};
use lecture::peers::Peers;
use processes::os::interrupted;
use rt::console::say;
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, FAILED, node_name};
use work::{LONGEST_MS, Work};

/// Asks the view server for the primary and sends it operations until Ctrl-C; on an error or without an answer it asks again
/// and sends again.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Examples:
  pb_client 5000                              operations at random
  pb_client 5000 --do 'deposit alice 100' --do 'read alice'

Operations: deposit NAME AMOUNT, withdraw NAME AMOUNT, transfer FROM TO AMOUNT, read NAME, bonus NAME. One that is sent again
is executed once all the same.

Exit status: 0 if all was answered, 1 if not, 2 after a wrong command line, 141 if nobody reads what it says."
)]
struct Arguments {
    /// The view server: a port of this machine, or host:port.
    #[arg(value_name = "VIEWSERVER", value_parser = node_name)]
    view_server: String,

    #[command(flatten)]
    work: Work,

    /// Give an operation up after so long.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(..=LONGEST_MS))]
    within: u64,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("pb_client", None, LevelFilter::OFF);
    common::end("pb_client", run(arguments));
}

/// Gives the exit status.
fn run(arguments: Arguments) -> Result<i32, Box<dyn Error>> {
    let Arguments { view_server, work, within, .. } = arguments;
    let mut client = PbClient::new(Peers::new(&PollMgr::shared(), "client"), &view_server).until(interrupted);
    let (within, is_drawn) = (Duration::from_millis(within), work.named() == 0);
    let (mut count, mut answered, mut again, mut view) = (0_u64, 0_u64, 0_u64, 0);
    let mut send = |op: Op| -> Result<(), Box<dyn Error>> {
        count += 1;
        match client.call(&op, within) {
            Ok(Answered { answer, server, view: current, sent }) => {
                if current != view {
                    say(format_args!("# view {current}: the primary is {server}"))?;
                    view = current;
                }
                answered += 1;
                again += u64::from(sent > 1);
                let times = if sent > 1 { format!("   (sent {sent} times)") } else { String::new() };
                say(format_args!("{op} -> {answer}{times}"))?;
            }
            Err(unserved) => say(format_args!("{op}: {unserved}"))?,
        }
        Ok(())
    };
    for op in work.operations() {
        send(op)?;
    }
    if is_drawn {
        say(format_args!("{count} operations, {answered} answered, {again} of them sent more than once"))?;
    }
    Ok(if answered == count { 0 } else { FAILED })
}
