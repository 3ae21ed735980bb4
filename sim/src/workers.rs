//! Many runs: in worker processes of some hundred seeds each, because what crashed nodes leave on their stacks leaks.
//!
//! A worker is this program again; it writes a line a run ([`Summary`]), and its counters at its end. A worker that dies
//! is a finding of the seed that it was at, and the rest of its seeds goes to another one.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};

use crate::totals::{Summary, Totals};

/// The most seeds that a worker runs.
const CHUNK: u64 = 200;
const RANK: Rank = Rank::new(1, "sim.workers");

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Further arguments of a worker.
    pub arguments: Vec<OsString>,
    /// How many workers at once.
    pub jobs: usize,
    /// No further worker begins after it.
    pub until: Instant,
    /// Whether the first finding is enough.
    pub stop_at_finding: bool,
}

struct State {
    todo: VecDeque<Range<u64>>,
    totals: Totals,
    failure: Option<io::Error>,
}

/// Runs the seeds of a job; `progress` is called now and then.
///
/// # Errors
/// When no worker can be started.
pub fn run(job: &Job, progress: impl Fn(&Totals)) -> io::Result<Totals> {
    let count = job.seeds.end - job.seeds.start;
    let chunk = (count / (job.jobs as u64 * 4)).clamp(1, CHUNK);
    let starts = (job.seeds.start..job.seeds.end).step_by(chunk as usize);
    let todo = starts.map(|start| start..(start + chunk).min(job.seeds.end)).collect();
    let state = Arc::new(Mutex::new(RANK, State { todo, totals: Totals::default(), failure: None }));
    let threads: Vec<_> = (0..job.jobs)
        .map(|_| {
            let (state, job) = (state.clone(), job.clone());
            rt::thread::spawn("sim.worker", move || work(&state, &job))
        })
        .collect::<io::Result<_>>()?;
    for thread in &threads {
        while !thread.join_until(now() + Duration::from_millis(500)) {
            progress(&state.lock().totals);
        }
    }
    let mut state = state.lock();
    match state.failure.take() {
        Some(error) => Err(error),
        None => Ok(std::mem::take(&mut state.totals)),
    }
}

fn work(state: &Mutex<State>, job: &Job) {
    loop {
        let range = {
            let mut state = state.lock();
            let enough = job.stop_at_finding && !state.totals.findings.is_empty();
            if enough || state.failure.is_some() || now() >= job.until {
                return;
            }
            match state.todo.pop_front() {
                Some(range) => range,
                None => return,
            }
        };
        if let Err(error) = run_worker(state, job, range) {
            state.lock().failure = Some(error);
        }
    }
}

fn run_worker(state: &Mutex<State>, job: &Job, range: Range<u64>) -> io::Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--worker")
        .arg(format!("{}", range.start))
        .arg(format!("{}", range.end - range.start))
        .args(&job.arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let next = follow(state, job, &mut child, range.clone());
    let mut why = String::new();
    if let Some(stderr) = &mut child.stderr {
        // Only for the message.
        let _ = io::Read::read_to_string(stderr, &mut why);
    }
    let status = child.wait()?;
    let mut state = state.lock();
    let enough = job.stop_at_finding && !state.totals.findings.is_empty();
    if next < range.end && !enough {
        let why = why.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
        state.totals.findings.insert(next, format!("the worker died: {status}: {why}"));
        if next + 1 < range.end {
            state.todo.push_front(next + 1..range.end);
        }
    }
    Ok(())
}

/// Takes a worker's lines in; returns the seed that it would have run next.
fn follow(state: &Mutex<State>, job: &Job, child: &mut Child, range: Range<u64>) -> u64 {
    let mut next = range.start;
    let Some(stdout) = child.stdout.take() else { return next };
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let mut state = state.lock();
        if let Some(run) = Summary::from_line(&line) {
            state.totals.add(&run);
            next = run.seed + 1;
        } else if let Some((what, times)) = line.strip_prefix("count\t").and_then(|rest| rest.split_once('\t')) {
            state.totals.count(what, times.parse().unwrap_or(0));
        }
        if job.stop_at_finding && !state.totals.findings.is_empty() {
            drop(state);
            // It has said all that matters.
            let _ = child.kill();
            break;
        }
    }
    next
}
