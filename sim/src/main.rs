//! The simulator's command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use rt::time::{Instant, now};
use sim::canaries::{CANARIES, Canary};
use sim::masks::Masks;
use sim::plan::Fault;
use sim::run::{Outcome, Settings, run_seed};
use sim::totals::{Summary, Totals};
use sim::trace::LogLines;
use sim::workers::{self, Job};

/// From so many seeds on, a fault that was never injected is an error.
const ENOUGH_SEEDS: u64 = 200;
/// A run takes some seconds at most. One that takes so long will never end.
const SPINS: Duration = Duration::from_secs(600);

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
  sim --seeds 500 --only crash     with crashes and nothing else
  sim --canaries                   puts known mistakes back, one by one, and expects to find each

Exit status: 0 if nothing was found, 1 if something was, 2 after a wrong command line."
)]
struct Arguments {
    /// Run so many seeds.
    #[arg(long, value_name = "N", group = "mode")]
    seeds: Option<u64>,

    /// Replay one seed, and print its trace, one line an event.
    #[arg(long, value_name = "S", group = "mode")]
    seed: Option<u64>,

    /// Run each of N seeds twice, and compare.
    #[arg(long, value_name = "N", group = "mode")]
    verify_determinism: Option<u64>,

    /// Put known mistakes back, one by one (all, or those whose names begin with NAME), and expect to find each.
    #[arg(long, value_name = "NAME", num_args = 0.., group = "mode")]
    canaries: Option<Vec<String>>,

    /// Replay the seeds of a file: one a line, with its options after it.
    #[arg(long, value_name = "FILE", group = "mode")]
    regressions: Option<std::path::PathBuf>,

    /// A worker: the first seed, and how many.
    #[arg(long, num_args = 2, hide = true, group = "mode")]
    worker: Option<Vec<u64>>,

    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 1)]
    start: u64,

    /// How many nodes a service has, drawn for each seed: a number, or a range from 1..7.
    #[arg(long, value_name = "N..M", default_value = "3..7", value_parser = node_range)]
    nodes: RangeInclusive<usize>,

    /// How many runs at the same time; the machine's cores by default.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// Only faults of this class (may be repeated).
    #[arg(long, value_name = "FAULT", value_enum)]
    only: Vec<Fault>,

    /// Begin no further run after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,

    /// Which known holes are masked: `all`, `none`, or names with commas between them.
    #[arg(long, value_name = "NAMES", default_value = "all", value_delimiter = ',')]
    known_open: Vec<String>,

    /// Put a known mistake back (see --canaries).
    #[arg(long, value_name = "NAME", value_parser = mistake)]
    mistake: Option<&'static str>,
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

fn mistake(name: &str) -> Result<&'static str, String> {
    let canary = CANARIES.iter().find(|canary| canary.name == name);
    canary.map(|canary| canary.name).ok_or_else(|| {
        let names: Vec<_> = CANARIES.iter().map(|canary| canary.name).collect();
        format!("there is no such mistake; there are: {}", names.join(" "))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let masks = match Masks::named(arguments.known_open.iter().map(String::as_str)) {
        Ok(masks) => masks,
        Err(error) => return wrong(&error),
    };
    let settings = Settings {
        nodes: arguments.nodes.clone(),
        only: arguments.only.clone(),
        masks,
        mistake: arguments.mistake,
        traced: false,
    };
    if let Some(worker) = &arguments.worker {
        return work(worker, until(&arguments), &settings);
    }
    if let Some(seed) = arguments.seed {
        return replay(seed, settings);
    }
    if let Some(seeds) = arguments.verify_determinism {
        return verify(arguments.start, seeds, &settings);
    }
    if let Some(names) = &arguments.canaries {
        return canaries(names, &arguments);
    }
    if let Some(file) = &arguments.regressions {
        return regressions(file);
    }
    match arguments.seeds {
        Some(seeds) => run(seeds, &arguments, &settings),
        None => wrong("say what to do: --seeds N, --seed S, --canaries, or --help"),
    }
}

/// When no further run begins.
fn until(arguments: &Arguments) -> Instant {
    arguments.time.map_or(Instant::NEVER, |seconds| now() + Duration::from_secs(seconds))
}

fn wrong(what: &str) -> ExitCode {
    // Not eprintln: it panics if nobody can be told.
    let _ = writeln!(std::io::stderr(), "sim: {what}");
    ExitCode::from(2)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
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
            writeln!(io::stdout(), "{}", Summary::from(&outcome).to_line())?;
        }
        totals.counts.iter().try_for_each(|(what, times)| writeln!(io::stdout(), "count\t{what}\t{times}"))
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
            let _ = writeln!(io::stderr(), "seed {seed} hasn't ended in {SPINS:?} of real time");
            rt::process::exit(1);
        }
    }
}

/// A panic of the code under test is a finding, and need not be reported a second time.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

fn replay(seed: u64, settings: Settings) -> ExitCode {
    LogLines::install();
    let outcome = run_seed(seed, &Settings { traced: true, ..settings });
    let Outcome { report, acknowledged, views, cut_short, .. } = outcome;
    let simulated = report.ended_at.since_start();
    say(&format!(
        "seed {seed}: {acknowledged} requests acknowledged, view {views}, {simulated:?} simulated, {} turns, hash {:016x}{}",
        report.turns,
        report.hash,
        if cut_short { ", cut short at a masked hole" } else { "" }
    ));
    match report.finding {
        None => ExitCode::SUCCESS,
        Some(finding) => {
            say(&format!("FOUND: {finding}"));
            ExitCode::FAILURE
        }
    }
}

fn verify(start: u64, seeds: u64, settings: &Settings) -> ExitCode {
    quiet_panics();
    for seed in start..start.saturating_add(seeds) {
        let hashes = [0, 1].map(|_| run_seed(seed, settings).report.hash);
        if hashes[0] != hashes[1] {
            say(&format!("seed {seed}: two runs differ"));
            return ExitCode::FAILURE;
        }
    }
    say(&format!("{seeds} seeds, each run twice: the same"));
    ExitCode::SUCCESS
}

fn jobs(arguments: &Arguments) -> usize {
    arguments.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
}

/// The command of a worker that does what the arguments ask for.
fn worker(arguments: &Arguments, mistake: Option<&'static str>) -> io::Result<Vec<OsString>> {
    let nodes = format!("{}..{}", arguments.nodes.start(), arguments.nodes.end());
    let mut all = vec!["--nodes".to_owned(), nodes, "--known-open".to_owned(), arguments.known_open.join(",")];
    for fault in &arguments.only {
        all.extend(["--only".to_owned(), fault_name(*fault)]);
    }
    if let Some(mistake) = mistake {
        all.extend(["--mistake".to_owned(), mistake.to_owned()]);
    }
    Ok(std::iter::once(workers::this_program()?.into_os_string()).chain(all.into_iter().map(OsString::from)).collect())
}

fn no_worker(error: &io::Error) -> ExitCode {
    wrong(&format!("no worker can be started: {error}"))
}

fn fault_name(fault: Fault) -> String {
    use clap::ValueEnum;
    fault.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn run(seeds: u64, arguments: &Arguments, settings: &Settings) -> ExitCode {
    let began = now();
    let command = match worker(arguments, arguments.mistake) {
        Ok(command) => command,
        Err(error) => return no_worker(&error),
    };
    let job = Job {
        seeds: arguments.start..arguments.start.saturating_add(seeds),
        command,
        jobs: jobs(arguments),
        until: until(arguments),
        stop_at_finding: false,
    };
    let terminal = std::io::stderr().is_terminal();
    let (shown, told) = (std::cell::Cell::new(began), std::cell::RefCell::new(BTreeSet::new()));
    let totals = workers::run(&job, |totals| {
        // A long run is worth watching; the end says it once more.
        for (seed, finding) in &totals.findings {
            if told.borrow_mut().insert(*seed) {
                let _ = writeln!(std::io::stderr(), "\rFOUND: seed {seed}: {finding}");
            }
        }
        let every = if terminal { Duration::from_millis(900) } else { Duration::from_secs(30) };
        if shown.get().elapsed() >= every {
            shown.set(now());
            let line = format!("{} of {seeds} seeds, {} findings", totals.seeds, totals.findings.len());
            let _ = write!(std::io::stderr(), "{}", if terminal { format!("\r{line}  ") } else { format!("{line}\n") });
        }
    });
    if terminal {
        let _ = writeln!(std::io::stderr());
    }
    match totals {
        Ok(totals) => conclude(&totals, settings, began.elapsed()),
        Err(error) => no_worker(&error),
    }
}

/// Prints the totals; what they lack is an error.
fn conclude(totals: &Totals, settings: &Settings, took: Duration) -> ExitCode {
    let hours = totals.simulated.as_secs_f64() / 3600.0;
    let rate = totals.seeds as f64 / took.as_secs_f64().max(0.001) * 3600.0;
    say(&format!("{:>12} seeds in {:.0} s ({rate:.0} an hour)", totals.seeds, took.as_secs_f64()));
    say(&format!("{hours:>12.2} simulated hours"));
    say(&format!("{:>12} requests acknowledged", totals.acknowledged));
    say(&format!("{:>12} view changes", totals.views));
    for (what, times) in &totals.counts {
        say(&format!("{times:>12} {what}"));
    }
    let masked: Vec<_> = settings.masks.names().collect();
    say(&format!(
        "known to be open, and masked: {}",
        if masked.is_empty() { "nothing".to_owned() } else { masked.join(", ") }
    ));
    if totals.cut_short > 0 {
        say(&format!("{:>12} seeds ended early at one of these", totals.cut_short));
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
        let missing =
            sim::expected_counters(&settings.masks, all).into_iter().filter(|c| !totals.counts.contains_key(*c));
        wrong.extend(missing.map(|counter| format!("it never happened: {counter}")));
    }
    for line in &wrong {
        say(&format!("ERROR: {line}"));
    }
    for (seed, finding) in &totals.findings {
        say(&format!("FOUND: seed {seed}: {finding}"));
    }
    if wrong.is_empty() && totals.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn canaries(names: &[String], arguments: &Arguments) -> ExitCode {
    let chosen = |canary: &&Canary| names.is_empty() || names.iter().any(|name| canary.name.starts_with(name.as_str()));
    if CANARIES.iter().find(chosen).is_none() {
        return wrong("no known mistake has such a name");
    }
    let mut survivors = Vec::new();
    for canary in CANARIES.iter().filter(chosen) {
        let began = now();
        let command = match worker(arguments, Some(canary.name)) {
            Ok(command) => command,
            Err(error) => return no_worker(&error),
        };
        let job = Job {
            seeds: arguments.start..arguments.start.saturating_add(canary.seeds),
            command,
            jobs: jobs(arguments),
            until: Instant::NEVER,
            stop_at_finding: true,
        };
        match workers::run(&job, |_| {}) {
            Err(error) => return no_worker(&error),
            Ok(totals) => match totals.findings.first_key_value() {
                Some((seed, finding)) => {
                    let finding: String = finding.chars().take(110).collect();
                    let took = began.elapsed().as_secs_f64();
                    say(&format!(
                        "found     {:<40} seed {seed:>5} {:>5} runs {took:>6.1} s  {finding}",
                        canary.name, totals.seeds
                    ));
                }
                None => {
                    say(&format!("SURVIVED  {:<40} {} runs", canary.name, totals.seeds));
                    survivors.push(canary.name);
                }
            },
        }
    }
    if survivors.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("{} mistakes were not found: {}", survivors.len(), survivors.join(" ")));
    ExitCode::FAILURE
}

/// Each line of the file is a seed and options, `#` begins a comment.
fn regressions(file: &std::path::Path) -> ExitCode {
    let text = match rt::fs::read(file).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return wrong(&format!("{}: not text", file.display())),
        Err(error) => return wrong(&format!("{}: {error}", file.display())),
    };
    quiet_panics();
    let (mut count, mut failed) = (0, false);
    for line in text.lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        let Some((seed, options)) = words.split_first() else { continue };
        let bad_line = |why: &str| wrong(&format!("{}: {line}: {why}", file.display()));
        let Arguments { seed, nodes, only, mistake, known_open, .. } =
            match Arguments::try_parse_from(["sim", "--seed", seed].iter().chain(options)) {
                Ok(arguments) => arguments,
                Err(error) => return bad_line(error.to_string().lines().next().unwrap_or_default()),
            };
        let Some(seed) = seed else { return bad_line("no seed") };
        let masks = match Masks::named(known_open.iter().map(String::as_str)) {
            Ok(masks) => masks,
            Err(error) => return bad_line(&error),
        };
        count += 1;
        let outcome = run_seed(seed, &Settings { nodes, only, masks, mistake, traced: false });
        if let Some(finding) = outcome.report.finding {
            failed = true;
            say(&format!("FOUND: {line}: {finding}"));
        }
    }
    say(&format!("{count} seeds of {}", file.display()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
