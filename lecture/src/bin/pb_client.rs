//! The client of the bank's server with a backup.

mod common;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use lecture::bank::Op;
use lecture::client::operations;
use lecture::pb_client::{Answered, PbClient};
use lecture::peers::Peers;
use processes::os::interrupted;
use rt::console::say;
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, FAILED, node_name};

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

    /// Send these operations, one after the other, and none at random.
    #[arg(long = "do", value_name = "OPERATION", conflicts_with_all = ["ops", "seed", "bonus"])]
    operations: Vec<Op>,

    /// End after so many operations.
    #[arg(long, value_name = "N")]
    ops: Option<usize>,

    /// Rest so long after each operation.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pause: u64,

    /// Give an operation up after so long.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    within: u64,

    /// What the operations follow from [default: drawn].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Have some operations whose outcome is left to chance.
    #[arg(long)]
    bonus: bool,

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
    let Arguments { view_server, operations: given, ops, pause, within, seed, bonus, .. } = arguments;
    let mut client = PbClient::new(Peers::new(&PollMgr::shared(), "client"), &view_server).until(interrupted);
    let (within, pause) = (Duration::from_millis(within), Duration::from_millis(pause));
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
    let at_random = given.is_empty();
    if at_random {
        let seed = seed.unwrap_or_else(rt::random::u64);
        for op in operations(seed, bonus).take(ops.unwrap_or(usize::MAX)) {
            if interrupted() {
                break;
            }
            send(op)?;
            rt::time::sleep(pause);
        }
    } else {
        given.into_iter().take_while(|_| !interrupted()).try_for_each(send)?;
    }
    if at_random {
        say(format_args!("{count} operations, {answered} answered, {again} of them sent more than once"))?;
    }
    Ok(if answered == count { 0 } else { FAILED })
}
