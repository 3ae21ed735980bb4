//! Breaks a node on purpose, through its test port (lab: `rsm_tester`).

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rt::console::{complain, end, say};
use yfs_rpc::{Client, Options, Procedure, names};
use yfs_rsm::protocol::{BREAKPOINT, CUT_MEMBERS, NET_REPAIR, TestStatus};

/// How long the node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Break a lock_server on purpose, to test the others.
#[derive(Parser)]
#[command(
    version,
    after_help = "The test port of a lock_server is the port of its name plus one:\n  \
    rsm_tester 21001 breakpoint 1     the node named 21000 dies in the middle of its next request\n  \
    rsm_tester 21001 partition 0      it is cut off in the middle of its next request\n  \
    rsm_tester 21001 partition 1      it is connected again"
)]
struct Arguments {
    /// The test port of the node: a port of this machine, or host:port
    node: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Cut the node off from everybody but its test port (0), or heal it (1)
    Partition {
        /// 0: cut off in the middle of the next request; 1: heal
        #[arg(value_parser = clap::value_parser!(i32).range(0..=1))]
        heal: i32,
    },
    /// Cut the node off from the other members at once, but not from its clients (0), or heal it (1)
    CutMembers {
        /// 0: cut off; 1: heal
        #[arg(value_parser = clap::value_parser!(i32).range(0..=1))]
        heal: i32,
    },
    /// Have the node die at a place in its program
    Breakpoint {
        /// 1: in the middle of a request; 2: after a new view; 3: proposing, after the promises; 4: after the accepts
        b: i32,
    },
}

fn main() -> ExitCode {
    let Arguments { node, what } = Arguments::parse();
    let addr = match names::resolve(&node) {
        Ok(addr) => addr,
        Err(error) => {
            complain(format_args!("rsm_tester: {error}"));
            return ExitCode::from(2);
        }
    };
    let client = Client::new(addr, Options::default());
    let call = |procedure: Procedure<(i32,), i32>, arg: i32| client.call(procedure, (arg,), PATIENCE);
    let (name, answer) = match what {
        What::Partition { heal } => ("net_repair".to_owned(), call(NET_REPAIR, heal)),
        What::CutMembers { heal } => ("cut_members".to_owned(), call(CUT_MEMBERS, heal)),
        What::Breakpoint { b } => (format!("breakpoint {b}"), call(BREAKPOINT, b)),
    };
    match answer {
        Ok((status, _)) if status == TestStatus::OK as i32 => {
            if let Err(unsaid) = say(format_args!("{name} returned {status}")) {
                end("rsm_tester", &unsaid, 1);
            }
            ExitCode::SUCCESS
        }
        Ok((status, _)) => {
            complain(format_args!("rsm_tester: {name} was refused (status {status})"));
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(format_args!(
                "rsm_tester: no test server answers on {addr}: {error}. \
                 Is the lock_server running? Its test port is its own port plus one."
            ));
            ExitCode::FAILURE
        }
    }
}
