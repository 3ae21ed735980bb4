//! The client of the bank on yfs-rsm.

mod common;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use lecture::bank::Op;
use lecture::client::operations;
use lecture::rsm_bank::{ACCOUNTS, call};
use processes::os::interrupted;
use rt::console::say;
use rt::time::now;
use tracing_subscriber::filter::LevelFilter;
use yfs_rsm::RsmClient;

use common::{Common, FAILED, node_name};

/// After Ctrl-C the last answer may take so long.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Sends operations to the bank on yfs-rsm until Ctrl-C.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Examples:
  rsm_client 5001 5002 5003                   operations at random
  rsm_client 5001 --do 'deposit alice 100' --do 'read alice'
  rsm_client 5001 --accounts                  all accounts

One server is enough if it lives. Operations: deposit NAME AMOUNT, withdraw NAME AMOUNT, transfer FROM TO AMOUNT, read NAME,
bonus NAME. Each is executed once, whoever dies meanwhile.

Exit status: 0 if all was answered, 1 if not, 2 after a wrong command line, 141 if nobody reads what it says. After Ctrl-C it
waits for the last answer, for a second."
)]
struct Arguments {
    /// Replicas: ports of this machine, or host:port.
    #[arg(value_name = "SERVER", required = true, value_parser = node_name)]
    servers: Vec<String>,

    /// Send these operations, one after the other, and none at random.
    #[arg(long = "do", value_name = "OPERATION", conflicts_with_all = ["ops", "seed", "bonus"])]
    operations: Vec<Op>,

    /// Show all accounts, at the end.
    #[arg(long)]
    accounts: bool,

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
    arguments.common.set_up("rsm_client", None, LevelFilter::OFF);
    let work = move || common::end("rsm_client", run(arguments));
    let ended = match rt::thread::spawn("rsm_client.operations", work) {
        Ok(operations) => common::serve(|| None).map(|()| {
            // It ends the process.
            operations.join_until(now() + LAST_ANSWER);
        }),
        Err(error) => Err(format!("no thread: {error}").into()),
    };
    let ended =
        ended.and_then(|()| Err("no answer to the last operation: it may have been executed, or may yet be".into()));
    common::end("rsm_client", ended);
}

/// Gives the exit status.
fn run(arguments: Arguments) -> Result<i32, Box<dyn Error>> {
    let Arguments { servers, operations: given, accounts, ops, pause, within, seed, bonus, .. } = arguments;
    let (within, pause) = (Duration::from_millis(within), Duration::from_millis(pause));
    let client = RsmClient::connect(&servers, within)?;
    let (mut count, mut answered, mut primary) = (0_u64, 0_u64, None);
    let mut send = |op: Op| -> Result<(), Box<dyn Error>> {
        count += 1;
        match call(&client, op.clone(), within) {
            Ok(answer) => {
                if client.primary() != primary {
                    primary = client.primary();
                    say(format_args!("# the primary is {}", primary.as_deref().unwrap_or("not known")))?;
                }
                answered += 1;
                say(format_args!("{op} -> {answer}"))?;
            }
            Err(error) => say(format_args!("{op}: {error}"))?,
        }
        Ok(())
    };
    let at_random = given.is_empty() && !accounts;
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
        say(format_args!("{count} operations, {answered} answered"))?;
    }
    if accounts {
        let (_, (operations, accounts)) = client.call(ACCOUNTS, (), within)?;
        say(format_args!("after {operations} operations: {accounts}"))?;
    }
    Ok(if answered == count { 0 } else { FAILED })
}
