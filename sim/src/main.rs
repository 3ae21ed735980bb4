//! The simulator's command line. A mode gives its exit status, or says why it could not be done, which is status 2.

mod arguments;
mod pictures;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arguments::{Arguments, no_worker};
use clap::Parser;
use rt::console::{self, complain};
use rt::time::{Instant, now};
use sim::canaries::{CANARIES, Canary};
use sim::run::{Outcome, Settings, run_seed};
use sim::totals::{Summary, Totals};
use sim::trace::LogLines;
use sim::workers::{self, Job};

/// From so many seeds on, a fault that was never injected is an error.
const ENOUGH_SEEDS: u64 = 200;
/// A run takes some seconds at most. One that takes so long will never end.
const SPINS: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    act(&Arguments::parse()).unwrap_or_else(|error| {
        complain(format_args!("sim: {error}"));
        ExitCode::from(2)
    })
}

fn act(arguments: &Arguments) -> Result<ExitCode, String> {
    let settings = arguments.settings()?;
    if let Some(worker) = &arguments.worker {
        return Ok(work(worker, arguments.until(), &settings));
    }
    if let Some(seed) = arguments.seed {
        return replay(seed, arguments, settings);
    }
    if let Some(seeds) = arguments.verify_determinism {
        return verify(arguments.range(seeds)?, &settings);
    }
    if let Some(names) = &arguments.canaries {
        return canaries(names, arguments);
    }
    if let Some(file) = &arguments.regressions {
        return regressions(file);
    }
    match arguments.seeds {
        Some(seeds) => run(seeds, arguments, &settings),
        None => Err("say what to do: --seeds N, --seed S, --canaries, or --help".to_owned()),
    }
}

/// Says a result. It may have taken hours: what standard output doesn't take goes to standard error.
fn say(result: &str) -> Result<(), String> {
    console::say(result).map_err(|unsaid| {
        complain(result);
        unsaid.to_string()
    })
}

fn status(nothing_found: bool) -> ExitCode {
    if nothing_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A worker's life; it ends early if nobody reads what it says.
fn work(range: &[u64], until: Instant, settings: &Settings) -> ExitCode {
    let [start, count] = *range else { return ExitCode::from(2) };
    quiet_panics();
    let at = Arc::new(AtomicU64::new(start));
    let watched = at.clone();
    if rt::thread::spawn("sim.watchdog", move || watch(&watched)).is_err() {
        return ExitCode::from(2);
    }
    let told = (|| {
        let mut totals = Totals::default();
        for seed in (start..start.saturating_add(count)).take_while(|_| now() < until) {
            at.store(seed, Ordering::Relaxed);
            let outcome = run_seed(seed, settings);
            totals.take(&outcome);
            console::say(Summary::from(&outcome).to_line())?;
        }
        totals.counts.iter().try_for_each(|(what, times)| console::say(format_args!("count\t{what}\t{times}")))
    })();
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends the process if a run takes too long: a thread that spins without a switch stops the simulated clock, too.
fn watch(at: &AtomicU64) {
    let mut last = (at.load(Ordering::Relaxed), now());
    loop {
        rt::time::sleep(Duration::from_secs(1));
        let seed = at.load(Ordering::Relaxed);
        if seed != last.0 {
            last = (seed, now());
        } else if last.1.elapsed() >= SPINS {
            complain(format_args!("seed {seed} hasn't ended in {SPINS:?} of real time"));
            rt::process::exit(1);
        }
    }
}

/// A panic of the code under test is a finding, and need not be reported a second time.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

fn replay(seed: u64, arguments: &Arguments, settings: Settings) -> Result<ExitCode, String> {
    let outcome = if pictures::are_wanted(arguments) {
        pictures::draw(seed, arguments, settings)?
    } else {
        LogLines::install();
        run_seed(seed, &Settings { traced: true, ..settings })
    };
    let Outcome { report, acknowledged, views, cut_short, .. } = outcome;
    if let Some(unsaid) = report.untraced {
        return Err(format!("seed {seed}: the run ends with its trace: {unsaid}"));
    }
    let simulated = report.ended_at.since_start();
    let mut result = format!(
        "seed {seed}: {acknowledged} requests acknowledged, view {views}, {simulated:?} simulated, {} turns, hash {:016x}{}",
        report.turns,
        report.hash,
        if cut_short { ", ended early: too many disks were lost" } else { "" }
    );
    if let Some(finding) = &report.finding {
        result += &format!("\nFOUND: {finding}");
    }
    say(&result)?;
    Ok(status(report.finding.is_none()))
}

fn verify(range: Range<u64>, settings: &Settings) -> Result<ExitCode, String> {
    quiet_panics();
    for seed in range.clone() {
        let hashes = [0, 1].map(|_| run_seed(seed, settings).report.hash);
        if hashes[0] != hashes[1] {
            say(&format!("seed {seed}: two runs differ"))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    say(&format!("{} seeds, each run twice: the same", range.end - range.start))?;
    Ok(ExitCode::SUCCESS)
}

fn run(seeds: u64, arguments: &Arguments, settings: &Settings) -> Result<ExitCode, String> {
    let began = now();
    let job = Job {
        seeds: arguments.range(seeds)?,
        command: arguments.worker(arguments.mistake)?,
        jobs: arguments.jobs(),
        until: arguments.until(),
        stop_at_finding: false,
    };
    let terminal = io::stderr().is_terminal();
    let (shown, told) = (std::cell::Cell::new(began), std::cell::RefCell::new(BTreeSet::new()));
    let totals = workers::run(&job, |totals| {
        // A long run is worth watching; the end says it once more.
        for (seed, finding) in &totals.findings {
            if told.borrow_mut().insert(*seed) {
                complain(format_args!("\rFOUND: seed {seed}: {finding}"));
            }
        }
        let every = if terminal { Duration::from_millis(900) } else { Duration::from_secs(30) };
        if shown.get().elapsed() >= every {
            shown.set(now());
            let line = format!("{} of {seeds} seeds, {} findings", totals.seeds, totals.findings.len());
            let _ = write!(io::stderr(), "{}", if terminal { format!("\r{line}  ") } else { format!("{line}\n") });
        }
    });
    if terminal {
        complain("");
    }
    conclude(&totals.map_err(|error| no_worker(&error))?, settings, began.elapsed())
}

/// Prints the totals; what they lack is an error.
fn conclude(totals: &Totals, settings: &Settings, took: Duration) -> Result<ExitCode, String> {
    let hours = totals.simulated.as_secs_f64() / 3600.0;
    let rate = totals.seeds as f64 / took.as_secs_f64().max(0.001) * 3600.0;
    let mut lines = vec![
        format!("{:>12} seeds in {:.0} s ({rate:.0} an hour)", totals.seeds, took.as_secs_f64()),
        format!("{hours:>12.2} simulated hours"),
        format!("{:>12} requests acknowledged", totals.acknowledged),
        format!("{:>12} view changes", totals.views),
    ];
    lines.extend(totals.counts.iter().map(|(what, times)| format!("{times:>12} {what}")));
    lines.push("known to be open, and masked: nothing".to_owned());
    if totals.cut_short > 0 {
        lines.push(format!("{:>12} seeds ended early: too many disks were lost", totals.cut_short));
    }
    let mut wrong: Vec<String> = Vec::new();
    if totals.acknowledged == 0 {
        wrong.push("no request was acknowledged".to_owned());
    }
    if totals.views == 0 {
        wrong.push("no view was formed".to_owned());
    }
    if totals.seeds >= ENOUGH_SEEDS {
        let all = settings.only.is_empty();
        let missing = sim::expected_counters(all).into_iter().filter(|c| !totals.counts.contains_key(*c));
        wrong.extend(missing.map(|counter| format!("it never happened: {counter}")));
    }
    lines.extend(wrong.iter().map(|line| format!("ERROR: {line}")));
    lines.extend(totals.findings.iter().map(|(seed, finding)| format!("FOUND: seed {seed}: {finding}")));
    say(&lines.join("\n"))?;
    Ok(status(wrong.is_empty() && totals.findings.is_empty()))
}

fn canaries(names: &[String], arguments: &Arguments) -> Result<ExitCode, String> {
    let chosen = |canary: &&Canary| names.is_empty() || names.iter().any(|name| canary.is_called(name));
    let mut survivors = Vec::new();
    for canary in CANARIES.iter().filter(chosen) {
        let began = now();
        let job = Job {
            seeds: arguments.range(canary.seeds)?,
            command: arguments.worker(Some(canary.name))?,
            jobs: arguments.jobs(),
            until: Instant::NEVER,
            stop_at_finding: true,
        };
        let totals = workers::run(&job, |_| {}).map_err(|error| no_worker(&error))?;
        if let Some((seed, finding)) = totals.findings.first_key_value() {
            let finding: String = finding.chars().take(110).collect();
            let took = began.elapsed().as_secs_f64();
            say(&format!(
                "found     {:<40} seed {seed:>5} {:>5} runs {took:>6.1} s  {finding}",
                canary.name, totals.seeds
            ))?;
        } else {
            say(&format!("SURVIVED  {:<40} {} runs", canary.name, totals.seeds))?;
            survivors.push(canary.name);
        }
    }
    if !survivors.is_empty() {
        say(&format!("{} mistakes were not found: {}", survivors.len(), survivors.join(" ")))?;
    }
    Ok(status(survivors.is_empty()))
}

/// Each line of the file is a seed and options, `#` begins a comment.
fn regressions(file: &std::path::Path) -> Result<ExitCode, String> {
    let name = file.display();
    let bytes = rt::fs::read(file).map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name}: not text"))?;
    quiet_panics();
    let (mut count, mut failed) = (0, false);
    for line in text.lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        let Some((seed, options)) = words.split_first() else { continue };
        let bad_line = |why: &str| format!("{name}: {line}: {why}");
        let arguments = Arguments::try_parse_from(["sim", "--seed", seed].iter().chain(options))
            .map_err(|error| bad_line(error.to_string().lines().next().unwrap_or_default()))?;
        let seed = arguments.seed.ok_or_else(|| bad_line("no seed"))?;
        let settings = arguments.settings().map_err(|error| bad_line(&error))?;
        count += 1;
        if let Some(finding) = run_seed(seed, &settings).report.finding {
            failed = true;
            say(&format!("FOUND: {line}: {finding}"))?;
        }
    }
    if count == 0 {
        return Err(format!("{name}: there is no seed in it"));
    }
    say(&format!("{count} seeds of {name}"))?;
    Ok(status(!failed))
}
