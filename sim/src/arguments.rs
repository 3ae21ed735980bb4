//! What the command line asks for, and how a worker is told.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rt::time::{Instant, now};
use sim::canaries::{CANARIES, unknown};
use sim::plan::Fault;
use sim::run::Settings;
use sim::workers;

/// Runs whole clusters of the lock service in one process, under a simulated clock, network and disk, with faults that
/// follow from a seed, and looks for anything that must not happen.
#[derive(Parser, Debug)]
#[command(
    name = "sim",
    version,
    after_help = "\
Examples:
  sim --seeds 500                  500 runs, each with another seed
  sim --seed 17                    one run, with its trace
  sim --seed 17 --html run.html    the same as a page for a browser: who said what to whom, and when
  sim --seed 17 --columns --from 2 --to 2.5
                                   half a second of it as columns, for the terminal
  sim --seeds 500 --only crash     with crashes and nothing else
  sim --canaries                   puts known mistakes back, one by one, and expects to find each

Exit status: 0 if nothing was found, 1 if something was, 2 if the command line is wrong or the result can't be written."
)]
pub(crate) struct Arguments {
    /// Run so many seeds.
    #[arg(long, value_name = "N", group = "mode", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: Option<u64>,

    /// Replay one seed, and print its trace, one line an event.
    #[arg(long, value_name = "S", group = "mode")]
    pub(crate) seed: Option<u64>,

    /// Of the one seed: write a page with its space-time diagram to this file, to be opened in a browser, and print no trace.
    #[arg(long, value_name = "FILE", requires = "seed")]
    pub(crate) html: Option<std::path::PathBuf>,

    /// Of the one seed: print a column for each node and client, and no trace.
    #[arg(long, requires = "seed")]
    pub(crate) columns: bool,

    /// How wide the columns are together.
    #[arg(long, value_name = "CHARACTERS", default_value_t = 160)]
    pub(crate) width: usize,

    /// In the page and the columns: only from this second of the run on.
    #[arg(long, value_name = "SECONDS", requires = "seed", value_parser = seconds)]
    pub(crate) from: Option<f64>,

    /// In the page and the columns: only up to this second of the run.
    #[arg(long, value_name = "SECONDS", requires = "seed", value_parser = seconds)]
    pub(crate) to: Option<f64>,

    /// Run each of N seeds twice, and compare.
    #[arg(long, value_name = "N", group = "mode", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) verify_determinism: Option<u64>,

    /// Put known mistakes back, one by one (all, or those of a NAME: a mistake's, as H1-serves-after-restart, or a
    /// hole's, as H1), and expect to find each.
    #[arg(long, value_name = "NAME", num_args = 0.., group = "mode", value_parser = mistakes)]
    pub(crate) canaries: Option<Vec<String>>,

    /// Replay the seeds of a file: one a line, with its options after it.
    #[arg(long, value_name = "FILE", group = "mode")]
    pub(crate) regressions: Option<std::path::PathBuf>,

    /// A worker: the first seed, and how many.
    #[arg(long, num_args = 2, hide = true, group = "mode")]
    pub(crate) worker: Option<Vec<u64>>,

    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) start: u64,

    /// How many nodes a service has, drawn for each seed: a number, or a range from 1..7.
    #[arg(long, value_name = "N..M", default_value = "3..7", value_parser = node_range)]
    pub(crate) nodes: RangeInclusive<usize>,

    /// How many runs at the same time; the machine's cores by default.
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,

    /// Only faults of this class (may be repeated).
    #[arg(long, value_name = "FAULT", value_enum)]
    pub(crate) only: Vec<Fault>,

    /// Begin no further run after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) time: Option<u64>,

    /// Put a known mistake back (see --canaries).
    #[arg(long, value_name = "NAME", value_parser = mistake)]
    pub(crate) mistake: Option<&'static str>,
}

impl Arguments {
    /// How each seed is run.
    pub(crate) fn settings(&self) -> Result<Settings, String> {
        Ok(Settings {
            nodes: self.nodes.clone(),
            only: self.only.clone(),
            mistake: self.mistake,
            ..Settings::default()
        })
    }

    /// So many seeds from the first one on.
    pub(crate) fn range(&self, count: u64) -> Result<Range<u64>, String> {
        let end = self.start.checked_add(count);
        end.map(|end| self.start..end).ok_or_else(|| format!("there are no {count} seeds from {} on", self.start))
    }

    /// When no further run begins.
    pub(crate) fn until(&self) -> Instant {
        self.time.map_or(Instant::NEVER, |seconds| now() + Duration::from_secs(seconds))
    }

    /// How many workers at once.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
    }

    /// The command of a worker that does what the arguments ask for, with this mistake.
    pub(crate) fn worker(&self, mistake: Option<&'static str>) -> Result<Vec<OsString>, String> {
        let program = workers::this_program().map_err(|error| no_worker(&error))?;
        let all = self.run_options(mistake);
        Ok(std::iter::once(program.into_os_string()).chain(all.into_iter().map(OsString::from)).collect())
    }

    /// The command that shows this seed's run.
    pub(crate) fn command(&self, seed: u64) -> String {
        let own = ["sim".to_owned(), "--seed".to_owned(), seed.to_string()];
        own.into_iter().chain(self.run_options(self.mistake)).collect::<Vec<_>>().join(" ")
    }

    /// The options that decide what a seed's run is.
    fn run_options(&self, mistake: Option<&str>) -> Vec<String> {
        let nodes = format!("{}..{}", self.nodes.start(), self.nodes.end());
        let mut all = vec!["--nodes".to_owned(), nodes];
        for fault in &self.only {
            all.extend(["--only".to_owned(), fault_name(*fault)]);
        }
        if let Some(mistake) = mistake {
            all.extend(["--mistake".to_owned(), mistake.to_owned()]);
        }
        all
    }
}

pub(crate) fn no_worker(error: &std::io::Error) -> String {
    format!("no worker can be started: {error}")
}

fn fault_name(fault: Fault) -> String {
    fault.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn node_range(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{text:?}: {e}"));
    let range = number(least)?..=number(most.trim_start_matches('='))?;
    if range.is_empty() || *range.start() < 1 || *range.end() > 7 {
        return Err("a range of 1..7, as 3..5".to_owned());
    }
    Ok(range)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds, as 2.5".to_owned())?;
    if (0.0..1e9).contains(&seconds) { Ok(seconds) } else { Err("a number of seconds from 0 on".to_owned()) }
}

/// The name of a mistake, or of the hole of some.
fn mistakes(name: &str) -> Result<String, String> {
    if CANARIES.iter().any(|canary| canary.is_called(name)) { Ok(name.to_owned()) } else { Err(unknown()) }
}

fn mistake(name: &str) -> Result<&'static str, String> {
    CANARIES.iter().map(|canary| canary.name).find(|known| *known == name).ok_or_else(unknown)
}
