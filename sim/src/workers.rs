//! Many runs: in worker processes of some hundred seeds each, because what crashed nodes leave on their stacks leaks.
//!
//! A worker is this program again; it writes a line a run ([`Summary`]), and its counters at its end. A worker that dies
//! is a finding of the seed that it was at, and the rest of its seeds goes to another one. One whose lines nobody reads
//! any more ends by itself.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::thread::JoinHandle;
use rt::time::{Instant, now};

use crate::totals::{Summary, Totals};

/// The most seeds that a worker runs.
const CHUNK: u64 = 200;
const RANK: Rank = Rank::new(1, "sim.workers");
const STDERR_RANK: Rank = Rank::new(2, "sim.worker's stderr");

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The seeds.
    pub seeds: Range<u64>,
    /// A worker's program and arguments. What follows them is `--worker`, the first seed, how many, and `--time` with the
    /// seconds that are left, if they are limited.
    pub command: Vec<OsString>,
    /// How many workers at once, at least one.
    pub jobs: usize,
    /// No further run begins after it.
    pub until: Instant,
    /// Whether the first finding is enough.
    pub stop_at_finding: bool,
}

/// This program, as it was when it was started: somebody may build a new one meanwhile.
///
/// # Errors
/// When it can't be told.
pub fn this_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

struct State {
    todo: Range<u64>,
    /// What dead workers left.
    left: Vec<Range<u64>>,
    totals: Totals,
    failure: Option<io::Error>,
}

impl State {
    /// The next worker's seeds.
    fn next(&mut self, chunk: u64) -> Option<Range<u64>> {
        if let Some(range) = self.left.pop() {
            return Some(range);
        }
        let start = self.todo.start;
        self.todo.start = start.saturating_add(chunk).min(self.todo.end);
        Some(start..self.todo.start).filter(|range| !range.is_empty())
    }

    /// Whether no more is wanted.
    fn enough(&self, job: &Job) -> bool {
        self.failure.is_some() || job.stop_at_finding && !self.totals.findings.is_empty()
    }
}

/// Runs the seeds of a job; `progress` is called now and then.
///
/// # Errors
/// When no worker can be started.
pub fn run(job: &Job, progress: impl Fn(&Totals)) -> io::Result<Totals> {
    let (todo, jobs) = (job.seeds.clone(), job.jobs.max(1));
    let chunk = (todo.end.saturating_sub(todo.start) / (jobs as u64 * 4)).clamp(1, CHUNK);
    let state = State { todo, left: Vec::new(), totals: Totals::default(), failure: None };
    let state = Arc::new(Mutex::new(RANK, state));
    let threads: Vec<_> = (0..jobs)
        .map(|_| {
            let (state, job) = (state.clone(), job.clone());
            rt::thread::spawn("sim.worker", move || work(&state, &job, chunk))
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

fn work(state: &Mutex<State>, job: &Job, chunk: u64) {
    loop {
        let range = {
            let mut state = state.lock();
            if state.enough(job) || now() >= job.until {
                return;
            }
            match state.next(chunk) {
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
    let [program, arguments @ ..] = &*job.command else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    command.args(arguments).arg("--worker").arg(range.start.to_string()).arg((range.end - range.start).to_string());
    if job.until < Instant::NEVER {
        let left = job.until - now();
        let seconds = left.as_secs().saturating_add(u64::from(left.subsec_nanos() > 0));
        command.arg("--time").arg(seconds.to_string());
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let why = child.stderr.take().map(Why::of).transpose()?;
    let next = follow(state, job, &mut child, range.clone());
    let status = child.wait()?;
    let why = why.map(Why::last_lines).unwrap_or_default();
    let mut state = state.lock();
    let unfinished = next < range.end && now() < job.until;
    if (unfinished || !status.success()) && !state.enough(job) {
        let seed = next.min(range.end - 1);
        state.totals.findings.insert(seed, format!("the worker died: {status}: {why}"));
        if seed + 1 < range.end {
            state.left.push(seed + 1..range.end);
        }
    }
    Ok(())
}

/// What a worker says on its standard error: read all the time, lest it wait for a reader.
struct Why {
    text: Arc<Mutex<String>>,
    reader: JoinHandle,
}

impl Why {
    fn of(mut stderr: ChildStderr) -> io::Result<Why> {
        let text = Arc::new(Mutex::new(STDERR_RANK, String::new()));
        let place = text.clone();
        let reader = rt::thread::spawn("sim.stderr", move || {
            let mut bytes = Vec::new();
            // Only for the message.
            let _ = stderr.read_to_end(&mut bytes);
            *place.lock() = String::from_utf8_lossy(&bytes).into_owned();
        })?;
        Ok(Why { text, reader })
    }

    /// The worker has ended; a child of its own could still hold the other end.
    fn last_lines(self) -> String {
        self.reader.join_until(now() + Duration::from_secs(1));
        let text = self.text.lock();
        let mut last: Vec<_> = text.lines().rev().take(3).collect();
        last.reverse();
        last.join(" | ")
    }
}

/// Takes a worker's lines in; returns the seed that it would have run next.
fn follow(state: &Mutex<State>, job: &Job, child: &mut Child, range: Range<u64>) -> u64 {
    let mut next = range.start;
    let Some(stdout) = child.stdout.take() else { return next };
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let mut state = state.lock();
        if let Some(run) = Summary::from_line(&line).filter(|run| range.contains(&run.seed)) {
            state.totals.add(&run);
            next = run.seed + 1;
        } else if let Some((what, times)) = line.strip_prefix("count\t").and_then(|rest| rest.split_once('\t')) {
            state.totals.count(what, times.parse().unwrap_or(0));
        }
        if state.enough(job) {
            drop(state);
            // It has said all that matters.
            let _ = child.kill();
            break;
        }
    }
    next
}
