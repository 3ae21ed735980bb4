//! The client of the bank on yfs-rsm.

mod common;
#[path = "common/work.rs"]
mod work;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use lecture::bank::Op;
use lecture::rsm_bank::{ACCOUNTS, call};
use rt::console::say;
use rt::time::now;
use tracing_subscriber::filter::LevelFilter;
use yfs_rsm::{RsmClient, RsmClientError};

use common::{Common, FAILED, node_name};
use work::{LONGEST_MS, Work};

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

    /// Show all accounts, at the end.
    #[arg(long)]
    accounts: bool,

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
    arguments.common.set_up("rsm_client", None, LevelFilter::OFF);
    let outstanding = Arc::new(AtomicBool::new(false));
    let noted = outstanding.clone();
    let work = move || common::end("rsm_client", run(arguments, &noted));
    let ended = match rt::thread::spawn("rsm_client.operations", work) {
        Ok(operations) => common::serve(|| None).map(|()| {
            // It ends the process.
            operations.join_until(now() + LAST_ANSWER);
        }),
        Err(error) => Err(format!("no thread: {error}").into()),
    };
    let unanswered = if outstanding.load(Ordering::Relaxed) {
        "no answer to the last operation: it may have been executed, or may yet be"
    } else {
        "interrupted: no primary has answered yet"
    };
    common::end("rsm_client", ended.and_then(|()| Err(unanswered.into())));
}

/// Gives the exit status. Notes whether an operation is outstanding.
fn run(arguments: Arguments, outstanding: &AtomicBool) -> Result<i32, Box<dyn Error>> {
    let Arguments { servers, work, accounts, within, .. } = arguments;
    let (within, named) = (Duration::from_millis(within), work.named());
    let client = RsmClient::connect(&servers, within).map_err(unreached)?;
    let (mut count, mut answered, mut primary) = (0_u64, 0_u64, None);
    let mut send = |op: Op| -> Result<(), Box<dyn Error>> {
        count += 1;
        outstanding.store(true, Ordering::Relaxed);
        let outcome = call(&client, op.clone(), within);
        outstanding.store(false, Ordering::Relaxed);
        match outcome {
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
    let most = if accounts { named } else { usize::MAX };
    for op in work.operations().take(most) {
        send(op)?;
    }
    if named == 0 && !accounts {
        say(format_args!("{count} operations, {answered} answered"))?;
    }
    if accounts {
        let (_, (operations, accounts)) = client.call(ACCOUNTS, (), within).map_err(unreached)?;
        say(format_args!("after {operations} operations: {accounts}"))?;
    }
    Ok(if answered == count { 0 } else { FAILED })
}

/// Says what to do if nobody could be asked.
fn unreached(error: RsmClientError) -> Box<dyn Error> {
    match error {
        RsmClientError::Unreachable => {
            "no primary could be reached: check that most of the replicas run, and that one that runs is named".into()
        }
        other => other.into(),
    }
}
