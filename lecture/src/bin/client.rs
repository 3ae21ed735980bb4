//! The bank's client (the lecture's `client.py`).

mod common;
#[path = "common/work.rs"]
mod work;

use std::error::Error;

use clap::Parser;
use lecture::client::{Heard, Options, To, run};
use lecture::peers::Peers;
use rt::console::{Unsaid, say};
use tracing_subscriber::filter::LevelFilter;
use yfs_rpc::PollMgr;

use common::{Common, FAILED, node_name};
use work::Work;

/// Exit status if servers answered differently.
const DIFFERENT: i32 = 3;

/// Sends operations to every server named until Ctrl-C, and compares their answers.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Examples:
  client 5001                           one server
  client 5001 5002                      two servers, without anything that keeps them the same
  client 5099                           a coordinator, and whatever is behind it
  client --turn 5098 5099               two coordinators: asks one, and turns to the other if that doesn't answer
  client 5001 --do 'read alice'         one operation

Operations: deposit NAME AMOUNT, withdraw NAME AMOUNT, transfer FROM TO AMOUNT, read NAME, bonus NAME.

Exit status: 0 if all that was answered was answered alike, 1 if no server is left that answers, or an operation given with
--do was not executed, 2 after a wrong command line, 3 if servers answered differently, 141 if nobody reads what it says."
)]
struct Arguments {
    /// Servers or coordinators: ports of this machine, or host:port.
    #[arg(value_name = "PORT", required = true, value_parser = node_name)]
    servers: Vec<String>,

    /// Send each operation to one of them only; if it doesn't answer, to the next one.
    #[arg(long)]
    turn: bool,

    #[command(flatten)]
    work: Work,

    /// Say only what is out of the ordinary, and the totals.
    #[arg(long)]
    quiet: bool,

    /// For the lecture: never reach this server, as if the network were cut.
    #[arg(long, value_name = "PORT", value_parser = node_name)]
    cut: Vec<String>,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up("client", None, LevelFilter::OFF);
    common::end("client", send(arguments));
}

/// Gives the exit status.
fn send(arguments: Arguments) -> Result<i32, Box<dyn Error>> {
    let Arguments { servers, turn, work, quiet, cut, .. } = arguments;
    common::ensure_distinct::<Arguments>("client", &servers);
    let peers = Peers::new(&PollMgr::shared(), "client");
    if !cut.is_empty() {
        peers.cut(cut);
    }
    let options = Options { servers, to: if turn { To::One } else { To::All } };
    let hear = |heard: Heard| match heard {
        Heard::Agreed { .. } if quiet => Ok(()),
        heard => say(heard),
    };
    let named = work.named();
    let totals = run::<Unsaid>(&peers, &options, work.operations(), hear)?;
    if named == 0 {
        say(totals)?;
    }
    if totals.differing > 0 {
        return Ok(DIFFERENT);
    }
    let undone = totals.answered < named as u64;
    if totals.deserted {
        return Err("no server answers: start one, or name others".into());
    }
    Ok(if undone { FAILED } else { 0 })
}
