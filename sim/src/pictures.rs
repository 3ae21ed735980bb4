//! Pictures of one run: `--html` and `--columns`.

use rt::console::{complain, say_part};
use sim::plan::Plan;
use sim::recording::Recording;
use sim::run::{Outcome, Settings, run_seed};
use sim::trace::LogLines;
use trace::{Lines, Picture, columns, html, window};

use crate::arguments::Arguments;

/// Testers belong to no node, and are shown as one. They have their nodes' machines.
const TESTER: &str = "tester";
/// A service has so many nodes at most.
const MOST_NODES: usize = 7;

pub(crate) fn are_wanted(arguments: &Arguments) -> bool {
    arguments.html.is_some() || arguments.columns
}

/// Runs a seed, and draws it.
pub(crate) fn draw(seed: u64, arguments: &Arguments, settings: Settings) -> Result<Outcome, String> {
    let window = window(0, arguments.from, arguments.to)?;
    let machines = (1..=MOST_NODES).map(|number| format!("10.0.0.{number}"));
    LogLines::install_recording(machines.fold(Lines::new(), |lines, machine| lines.alias(&machine, TESTER)));
    let recording = Recording::new();
    let outcome = run_seed(seed, &Settings { recording: recording.clone(), ..settings.clone() });
    let plan = Plan::new(seed, &settings.nodes, &settings.only);
    let title = format!("Seed {seed}: {} nodes, {} clients", plan.nodes, plan.clients);
    let finding = outcome.report.finding.clone().map(|finding| (outcome.report.ended_at, finding));
    let picture = Picture { window, ..recording.picture(title, arguments.command(seed), finding) };
    if arguments.columns
        && let Err(unsaid) = say_part(columns(&picture, arguments.width))
    {
        rt::console::end("sim", &unsaid, 2);
    }
    if let Some(file) = &arguments.html {
        let page = html(&picture.title, std::slice::from_ref(&picture));
        page.left_out.iter().for_each(|what| complain(format_args!("sim: {}: {what}", file.display())));
        trace::write_page(file, &page.html).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(outcome)
}
