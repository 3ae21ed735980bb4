//! Breaks real services and looks at what their clients see: processes of `lock_server` on free ports of this machine,
//! in temporary folders, and clients in this process.
//!
//! | file | what |
//! |---|---|
//! | checks | `torture kills`: one file a check |
//! | soak | `torture soak`: everything at once, for a chosen time |
//! | cluster | the nodes: started, killed, stopped, cut off, asked, and ended whatever happens |
//! | keepers | clients that know exactly what the service must know, and the audit |
//! | users | caching clients whose calls must be linearizable |
//! | load, answers | what both share: threads, and when they were answered |
//! | counter_node | a replicated counter as a process |
//! | distribution, flat | figures, pure |
//!
//! How things end early, and what is needed of the operating system, is in the crate `processes`.

mod answers;
mod checks;
mod cluster;
mod counter_node;
mod distribution;
mod flat;
mod keepers;
mod load;
mod soak;
mod users;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

use checks::Setup;
use cluster::Program;
use processes::{Trouble, os, trouble};

/// Breaks real lock services and looks at what their clients see.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
Services run on free ports of this machine, in folders under $TMPDIR, which are removed unless something failed. Nothing
is left running, however this ends.

Exit status: 0 if all held, 1 if not, 2 after a wrong command line, 130 after Ctrl-C, 141 if nobody
reads what it says."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Runs the checks, some minutes; prints a line for each, with its figures.
    Kills {
        /// Only these checks.
        #[arg(value_name = "CHECK", value_parser = PossibleValuesParser::new(checks::CHECKS.map(|(name, _)| name)))]
        checks: Vec<String>,

        /// Instead of each check's own number of rounds.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,

        #[command(flatten)]
        service: Service,
    },
    /// Kills, stops and cuts off nodes under load for a chosen time, and watches what the nodes use.
    Soak {
        /// For how long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,

        /// How many nodes.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
        nodes: u8,

        #[command(flatten)]
        service: Service,
    },
    /// A node of a replicated counter; for the checks.
    #[command(hide = true)]
    CounterNode { first: String, me: String },
}

#[derive(clap::Args, Debug)]
struct Service {
    /// The folder of lock_server.
    #[arg(long, value_name = "FOLDER", default_value = "bin")]
    bin: PathBuf,

    /// Keep the logs and disks of the nodes in any case.
    #[arg(long)]
    keep: bool,
}

fn main() {
    let status = match Arguments::parse().command {
        Command::CounterNode { first, me } => {
            trouble::exit_status("torture", counter_node::run(&first, &me).map(|()| true).map_err(Into::into))
        }
        Command::Kills { checks, rounds, service } => {
            set_up();
            trouble::exit_status("torture", setup(&service, rounds).and_then(|setup| checks::run(&setup, &checks)))
        }
        Command::Soak { seconds, nodes, service } => {
            set_up();
            let time = Duration::from_secs(seconds);
            trouble::exit_status(
                "torture",
                setup(&service, None).and_then(|setup| soak::run(&setup.lock_server, usize::from(nodes), time)),
            )
        }
    };
    // Threads of clients may still wait for a service that is gone.
    rt::process::exit(status)
}

fn set_up() {
    os::catch_interrupts();
    rt::process::raise_file_limit();
}

fn setup(service: &Service, rounds: Option<u32>) -> Result<Setup, Trouble> {
    let Service { bin, keep } = service;
    let lock_server = bin.join("lock_server");
    let path = std::path::absolute(&lock_server).map_err(|e| e.to_string())?;
    if !rt::fs::exists(&path).unwrap_or_default() {
        return Err(Trouble::Failed(format!("there is no {}: run make first", lock_server.display())));
    }
    let this = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    Ok(Setup {
        lock_server: Program { path, arguments: Vec::new(), keep: *keep },
        counter_node: Program { path: this, arguments: vec!["counter-node".to_owned()], keep: *keep },
        rounds,
    })
}
