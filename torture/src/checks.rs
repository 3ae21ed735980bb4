//! `torture kills`: one function a check, each with a service of its own. It gives its figures, or what failed.

mod all_killed;
mod cut_off;
mod exactly_once;
mod gaps;
mod restarts;
mod stops;

use std::time::Duration;

use rt::console::say;
use rt::time::now;

use crate::cluster::Program;
use crate::trouble::Trouble;

/// Members of a service.
const NODES: usize = 3;
/// Bounds only what no goal is set for.
const GENEROUS: Duration = Duration::from_secs(15);
/// How long calls may take to return once the service is back.
const PAUSE_PATIENCE: Duration = Duration::from_secs(20);

/// What a check needs.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The lock service's nodes.
    pub(crate) lock_server: Program,
    /// The counter's.
    pub(crate) counter_node: Program,
    /// Instead of a check's own number of rounds.
    pub(crate) rounds: Option<u32>,
}

impl Setup {
    fn rounds(&self, default: u32) -> u32 {
        self.rounds.unwrap_or(default)
    }
}

type Check = fn(&Setup) -> Result<String, Trouble>;

/// The checks, by the names that the command line takes.
pub(crate) const CHECKS: [(&str, Check); 6] = [
    ("all-killed", all_killed::check),
    ("restarts", restarts::check),
    ("stops", stops::check),
    ("cut-off", cut_off::check),
    ("gaps", gaps::check),
    ("exactly-once", exactly_once::check),
];

/// Runs some checks, all without names; true if all held.
pub(crate) fn run(setup: &Setup, names: &[String]) -> Result<bool, Trouble> {
    let began = now();
    let (mut held, mut failed) = (0, Vec::new());
    for (name, check) in CHECKS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let started = now();
        let outcome = check(setup);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(figures) => {
                say(format_args!("ok    {name:12} {figures} ({seconds:.0} s)"))?;
                held += 1;
            }
            Err(Trouble::Failed(what)) => {
                say(format_args!("FAIL  {name:12} {what} ({seconds:.0} s)"))?;
                failed.push(name);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    if failed.is_empty() {
        say(format_args!("\nPASS  {held} checks held, {seconds:.0} s"))?;
    } else {
        say(format_args!(
            "\nFAIL  {held} checks held, {} did not: {}; {seconds:.0} s",
            failed.len(),
            failed.join(", ")
        ))?;
    }
    Ok(failed.is_empty())
}
