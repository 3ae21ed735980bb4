//! What `make lecture` shows: steps that start the programs as one would by hand, break something, and look at what came
//! of it.
//!
//! A step is a function on a [`Stage`], which runs programs in a folder of the step's own, shows the commands and the
//! files, and keeps what was claimed. What must go wrong is claimed as well: if it doesn't, the step has failed.
//!
//! The main thread alone starts programs, since they end with the thread that started them: nothing is left running,
//! however the lecture ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use processes::os::{self, Port, Signal};
use processes::trouble::{Trouble, await_within};
use rt::console::say;
use rt::fs;
use rt::time::machine_clock;
use trace::event::REPLY;
use trace::{Event, Kind, Picture};
use yfs_rpc::PollMgr;

use crate::peers::Peers;
use crate::protocol::LAST;

mod compare;
mod step1;
mod step2;
mod step3;
mod step4;
mod step5;
mod step6;
mod step7;
mod step8;
mod timeline;

/// What was waited for, longer than a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A step of the lecture.
pub struct Step {
    /// From 1.
    pub number: u8,
    /// In a few words.
    pub title: &'static str,
    /// What to expect: a few sentences.
    pub expect: &'static str,
    /// What happens.
    pub run: fn(&mut Stage) -> Result<(), Trouble>,
}

/// The lecture.
pub const STEPS: [Step; 8] =
    [step1::STEP, step2::STEP, step3::STEP, step4::STEP, step5::STEP, step6::STEP, step7::STEP, step8::STEP];

/// A program that was started.
struct Running {
    /// As it was typed.
    command: String,
    /// Among those in the background, from 1; 0 if it isn't.
    number: usize,
    output: PathBuf,
    /// In the picture.
    lane: String,
    trace: Option<PathBuf>,
    process: Option<Child>,
}

/// One of the programs that a [`Stage`] has started in the background.
#[derive(Clone, Copy, Debug)]
pub struct Job(usize);

/// A part of a step, with programs of its own.
struct Scene {
    title: String,
    began: u64,
    /// The first of its programs.
    first: usize,
}

/// Where a step happens: a folder, and the programs that run in it. Dropping it ends them.
pub struct Stage {
    /// Where the programs are.
    programs: PathBuf,
    folder: PathBuf,
    jobs: Vec<Running>,
    ports: Vec<Port>,
    peers: Peers,
    failed: u32,
    is_traced: bool,
    scenes: Vec<Scene>,
    /// What the step itself does to the programs.
    events: Vec<Event>,
}

impl Stage {
    /// A stage for one step, in an empty folder; `is_traced` if there is to be a picture.
    pub fn new(programs: &Path, folder: &Path, is_traced: bool) -> Stage {
        let peers = Peers::new(&PollMgr::shared(), "lecture");
        let (programs, folder) = (programs.to_owned(), folder.to_owned());
        let (jobs, ports, scenes, events) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Stage { programs, folder, jobs, ports, peers, failed: 0, is_traced, scenes, events }
    }

    /// Shows a step, and gives whether all that it claims holds.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn show(&mut self, step: &Step) -> Result<bool, Trouble> {
        say(format_args!("\nStep {}: {}\n", step.number, step.title))?;
        for line in compare::wrapped(step.expect) {
            say(format_args!("  {line}"))?;
        }
        say("")?;
        self.scenes = vec![Scene { title: step.title.to_owned(), began: micros(), first: 0 }];
        (step.run)(self)?;
        Ok(self.failed == 0)
    }

    // --- programs ---

    /// A port that is free.
    ///
    /// # Errors
    /// [`Trouble`] if there is none.
    pub fn port(&mut self) -> Result<String, Trouble> {
        let port = os::draw_port().map_err(|e| e.to_string())?;
        let name = port.number.to_string();
        self.ports.push(port);
        Ok(name)
    }

    /// Starts a program in the background, as `PROGRAM ARGUMENTS &` does.
    ///
    /// # Errors
    /// [`Trouble`] if it can't be started.
    pub fn start(&mut self, program: &str, arguments: &[&str]) -> Result<Job, Trouble> {
        let typed = typed(program, arguments);
        say(format_args!("  $ {typed} &"))?;
        let number = 1 + self.jobs.iter().filter(|job| job.number > 0).count();
        self.spawn(program, arguments, typed, number)
    }

    /// Runs a program to its end, and shows what it says; gives its exit status and its output.
    ///
    /// # Errors
    /// [`Trouble`] if it can't be started, or doesn't end.
    pub fn run(&mut self, program: &str, arguments: &[&str]) -> Result<(i32, String), Trouble> {
        let typed = typed(program, arguments);
        say(format_args!("  $ {typed}"))?;
        let job = self.spawn(program, arguments, typed, 0)?;
        let status = self.await_end(job)?;
        let output = self.output(job);
        self.tell(&output)?;
        Ok((status.code().unwrap_or(-1), output))
    }

    fn spawn(&mut self, program: &str, arguments: &[&str], command: String, number: usize) -> Result<Job, Trouble> {
        let output = self.folder.join(format!("{}-{program}.out", self.jobs.len() + 1));
        let lane = self.lane(program, arguments);
        let mut process = Command::new(self.programs.join(program));
        process.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        let trace = (self.is_traced && !lane.is_empty())
            .then(|| self.folder.join(format!("{}-{program}.jsonl", self.jobs.len() + 1)));
        if let Some(trace) = &trace {
            process.arg("--trace").arg(trace);
        }
        os::write_output_to(&mut process, &output).map_err(|e| format!("{}: {e}", output.display()))?;
        let process = os::spawn(&mut process).map_err(|e| format!("{program} can't be started: {e}"))?;
        self.jobs.push(Running { command, number, output, lane, trace, process: Some(process) });
        Ok(Job(self.jobs.len() - 1))
    }

    /// How a program is called in the picture: a server by its file and its port, a client by its number.
    fn lane(&self, program: &str, arguments: &[&str]) -> String {
        let port = arguments.iter().find(|argument| argument.parse::<u16>().is_ok()).copied().unwrap_or_default();
        match (program, arguments) {
            ("srv" | "pb_srv", [file, port, ..]) => format!("{file} {port}"),
            ("rsm_srv", [_, me, ..]) => format!("replica {me}"),
            ("coord" | "view_server", _) => format!("{} {port}", program.replace('_', " ")),
            // It is no node.
            ("cut", _) => String::new(),
            _ => format!("client {}", 1 + self.jobs.iter().filter(|job| job.lane.starts_with("client ")).count()),
        }
    }

    /// What the programs did and said to each other, as far as they were traced, a picture a scene. Ends them.
    ///
    /// # Errors
    /// [`Trouble`] if a trace can't be read.
    pub fn pictures(mut self, step: &Step) -> Result<Vec<Picture>, Trouble> {
        self.end();
        let scenes = std::mem::take(&mut self.scenes);
        let next = |at: usize| scenes.get(at + 1).map_or((usize::MAX, u64::MAX), |next| (next.first, next.began));
        let picture = |(at, scene): (usize, &Scene)| {
            let (end, ended) = next(at);
            let jobs = &self.jobs[scene.first..end.min(self.jobs.len())];
            let own = self.events.iter().filter(|event| (scene.began..ended).contains(&event.at)).cloned().collect();
            let mut events = events(jobs, own)?;
            // Programs go on behind the scene.
            events.retain(|event| event.at < ended);
            let zero = events.first().map_or(0, |event| event.at);
            let title = format!("Step {}: {}", step.number, scene.title);
            let command = format!("make lecture STEP={}", step.number);
            Ok(Picture { title, command, events, zero, ..Picture::default() })
        };
        let pictures: Result<Vec<Picture>, Trouble> = scenes.iter().enumerate().map(picture).collect();
        Ok(pictures?.into_iter().filter(|picture| !picture.events.is_empty()).collect())
    }

    fn end(&mut self) {
        for process in self.jobs.iter_mut().filter_map(|job| job.process.as_mut()) {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a server of the bank with a file, and returns when it answers; gives its name as well.
    ///
    /// # Errors
    /// [`Trouble`] if it doesn't start.
    pub fn server(&mut self, file: &str) -> Result<(Job, String), Trouble> {
        let port = self.port()?;
        Ok((self.server_at(file, &port)?, port))
    }

    /// As [`Stage::server`], at a port.
    ///
    /// # Errors
    /// [`Trouble`] if it doesn't start.
    pub fn server_at(&mut self, file: &str, port: &str) -> Result<Job, Trouble> {
        let job = self.start("srv", &[file, port])?;
        self.await_that(&format!("the server {port} answers"), |stage| {
            Ok(stage.peers.call(port, LAST, (), Duration::from_millis(300)).is_ok())
        })?;
        Ok(job)
    }

    /// Starts a coordinator, and returns when it serves.
    ///
    /// # Errors
    /// [`Trouble`] if it doesn't start.
    pub fn coordinator(&mut self, options: &[&str], port: &str, servers: &[&str]) -> Result<Job, Trouble> {
        let job = self.start("coord", &[options, &[port], servers].concat())?;
        self.await_output(job, "kind=\"start\"")?;
        Ok(job)
    }

    /// What a program has said so far.
    pub fn output(&self, job: Job) -> String {
        text_of(&self.jobs[job.0].output)
    }

    /// Kills a program with SIGKILL.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn kill(&mut self, job: Job) -> Result<(), Trouble> {
        let Running { command, number, .. } = &self.jobs[job.0];
        say(format_args!("  $ kill -9 %{number}          # {command}"))?;
        if let Some(mut process) = self.jobs[job.0].process.take() {
            let killed = process.kill().and_then(|()| process.wait());
            killed.map_err(|e| format!("{} can't be killed: {e}", self.jobs[job.0].command))?;
            self.events.push(Event::new(micros(), &self.jobs[job.0].lane, Kind::Crash, "killed"));
        }
        Ok(())
    }

    /// Ends a program by Ctrl-C, and shows what it says last; gives its exit status.
    ///
    /// # Errors
    /// [`Trouble`] if it doesn't end.
    pub fn interrupt(&mut self, job: Job) -> Result<i32, Trouble> {
        say(format_args!("  ^C                  # {}", self.jobs[job.0].command))?;
        let before = self.output(job).len();
        if let Some(process) = &self.jobs[job.0].process {
            os::send(process, Signal::Interrupt).map_err(|e| format!("no Ctrl-C: {e}"))?;
        }
        let status = self.await_end(job)?;
        let output = self.output(job);
        self.tell(output[before..].lines().last().unwrap_or_default())?;
        Ok(status.code().unwrap_or(-1))
    }

    fn await_end(&mut self, job: Job) -> Result<ExitStatus, Trouble> {
        let mut ended = None;
        let what = format!("{} ends", self.jobs[job.0].command);
        self.await_that(&what, |stage| {
            let Some(process) = &mut stage.jobs[job.0].process else { return Ok(true) };
            ended = process.try_wait().map_err(|e| e.to_string())?;
            Ok(ended.is_some())
        })?;
        self.jobs[job.0].process = None;
        self.events.push(Event::new(micros(), &self.jobs[job.0].lane, Kind::Crash, "has ended"));
        ended.ok_or_else(|| Trouble::Failed(format!("not: {what}")))
    }

    // --- waiting and looking ---

    /// Waits until something is so. Background programs run until the story ends them: one that ends earlier ends it.
    ///
    /// # Errors
    /// [`Trouble`] if it isn't in time, or a program has ended, and what the condition says.
    pub fn await_that(
        &mut self,
        what: &str,
        mut so: impl FnMut(&mut Stage) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let waited = await_within(PATIENCE, what, || {
            if so(self)? {
                return Ok(true);
            }
            let Some(ended) = self.ended() else { return Ok(false) };
            // It may have come to be so before that, or thereby.
            if so(self)? { Ok(true) } else { Err(Trouble::Failed(format!("not: {what}: {ended}"))) }
        });
        let Err(Trouble::Failed(why)) = waited else { return waited.map(|_| ()) };
        let mut all = why;
        for job in &self.jobs {
            // Writing to a string can't fail.
            let _ = write!(all, "\n    {} said at last: {}", job.command, last_line(&text_of(&job.output)));
        }
        Err(Trouble::Failed(all))
    }

    /// A program that has ended, though the story didn't end it.
    fn ended(&mut self) -> Option<String> {
        self.jobs.iter_mut().find_map(|job| {
            let status = job.process.as_mut()?.try_wait().ok().flatten()?;
            let said = text_of(&job.output);
            // Its output is lost as well then.
            let hint = if said.is_empty() { "; is the disk full?" } else { "" };
            Some(format!("{} has ended ({status}), and said at last: {}{hint}", job.command, last_line(&said)))
        })
    }

    /// Waits until a program has said something.
    ///
    /// # Errors
    /// [`Trouble`] if it doesn't in time, or has ended.
    pub fn await_output(&mut self, job: Job, part: &str) -> Result<(), Trouble> {
        let what = format!("{} says {part:?}", self.jobs[job.0].command);
        self.await_that(&what, |stage| Ok(stage.output(job).contains(part)))
    }

    /// Waits until a server's file has so many lines.
    ///
    /// # Errors
    /// [`Trouble`] if it hasn't in time.
    pub fn await_lines(&mut self, file: &str, count: usize) -> Result<(), Trouble> {
        self.await_that(&format!("{file} has {count} lines"), |stage| Ok(stage.lines(file).len() >= count))
    }

    /// The whole lines of a file.
    pub fn lines(&self, file: &str) -> Vec<String> {
        let text = text_of(&self.folder.join(file));
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Shows the first lines of a file.
    ///
    /// # Errors
    /// [`Trouble`] if nobody reads.
    pub fn show_head(&self, file: &str, count: usize) -> Result<(), Trouble> {
        say(format_args!("  $ head -{count} {file}"))?;
        self.tell(&self.lines(file).into_iter().take(count).collect::<Vec<_>>().join("\n"))
    }

    /// Shows two files side by side, around the first line that differs; gives that line's number, from 1.
    ///
    /// # Errors
    /// [`Trouble`] if nobody reads.
    pub fn show_both(&self, one: &str, other: &str) -> Result<Option<usize>, Trouble> {
        say(format_args!("  $ diff --side-by-side {one} {other}"))?;
        let (left, right) = (self.lines(one), self.lines(other));
        for line in compare::side_by_side(&left, &right) {
            self.tell(&line)?;
        }
        Ok(compare::first_difference(&left, &right))
    }

    // --- telling ---

    /// Begins a part of the step, with new programs.
    ///
    /// # Errors
    /// [`Trouble`] if nobody reads.
    pub fn scene(&mut self, title: &str) -> Result<(), Trouble> {
        let scene = Scene { title: title.to_owned(), began: micros(), first: self.jobs.len() };
        self.scenes.push(scene);
        self.note(title)
    }

    /// Says what happens now, or why.
    ///
    /// # Errors
    /// [`Trouble`] if nobody reads.
    pub fn note(&self, what: impl Display) -> Result<(), Trouble> {
        Ok(say(format_args!("  # {what}"))?)
    }

    /// Shows what a program or a file says.
    ///
    /// # Errors
    /// [`Trouble`] if nobody reads.
    pub fn tell(&self, text: &str) -> Result<(), Trouble> {
        text.lines().try_for_each(|line| Ok(say(format_args!("      {line}"))?))
    }

    /// Says whether something that must be so is so.
    ///
    /// # Errors
    /// [`Trouble`] if nobody reads.
    pub fn claim(&mut self, what: impl Display, holds: bool) -> Result<(), Trouble> {
        self.failed += u32::from(!holds);
        Ok(say(format_args!("  {}  {what}", if holds { "PASS" } else { "FAIL" }))?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end();
    }
}

/// What these programs did and said to each other, and what was done to them.
fn events(jobs: &[Running], done: Vec<Event>) -> Result<Vec<Event>, Trouble> {
    let mut sources = vec![done];
    let mut lanes = BTreeMap::new();
    for Running { lane, trace, .. } in jobs {
        let Some(trace) = trace else { continue };
        if let Some((_, port)) = lane.rsplit_once(' ').filter(|_| !lane.starts_with("client ")) {
            lanes.insert(format!("127.0.0.1:{port}"), lane.clone());
        }
        // One that was killed at once may have written none.
        let is_there = fs::exists(trace).unwrap_or(false);
        let mut events = if is_there { trace::read(&[trace]).map_err(|e| e.to_string())? } else { Vec::new() };
        events.iter_mut().for_each(|event| event.node.clone_from(lane));
        sources.push(events);
    }
    let mut events = trace::merge(sources);
    // The story's own questions aren't part of the story.
    let exchange = |event: &Event| event.message.as_ref().map(|m| m.trim_end_matches(REPLY).to_owned());
    let asked = events.iter().filter(|event| event.kind == Kind::Sent && !event.is_reply());
    let asked: BTreeSet<String> = asked.filter_map(exchange).collect();
    events.retain(|event| exchange(event).is_none_or(|exchange| asked.contains(&exchange)));
    for peer in events.iter_mut().filter_map(|event| event.peer.as_mut()) {
        if let Some(lane) = lanes.get(peer) {
            peer.clone_from(lane);
        }
    }
    Ok(events)
}

/// Now, as events have it.
fn micros() -> u64 {
    u64::try_from(machine_clock().as_micros()).unwrap_or(u64::MAX)
}

fn last_line(said: &str) -> &str {
    said.lines().last().unwrap_or("nothing")
}

/// A command as it is typed.
fn typed(program: &str, arguments: &[&str]) -> String {
    let quoted = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
    [program].iter().chain(arguments).map(quoted).collect::<Vec<_>>().join(" ")
}

fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}
