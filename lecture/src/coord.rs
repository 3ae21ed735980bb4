//! The coordinator (the lecture's `coord.py`): gives the clients' operations one order, so that all servers execute the
//! same ones in the same order.
//!
//! One operation at a time gets the next number, goes to each server, and is answered when a majority of them has
//! executed it. Of two servers that is both: with one dead it stops, and says so; when that server is back it first
//! finishes what it had begun. A bonus is drawn here, once, so that what the servers execute is deterministic.
//!
//! A coordinator that dies between two servers leaves them one operation apart. The next one finishes that operation before
//! it serves, and a server that comes back and lacks only the last one is sent it.
//!
//! [`Options::alone`] is the design that ends in a split brain: who can't be reached counts as dead, and the coordinator
//! goes on with the servers that it reaches. Nothing tells a dead server from one behind a cut cable.
//!
//! Invariants: 1. A number is given to one operation only, as long as there is one coordinator. 2. Operation n + 1 is not
//! sent before a majority has executed operation n (with `alone`: whoever is left).
//!
//! Threads: those of its port. Locks: `lecture.turn`, a turn lock: one operation is under way at a time, calls included;
//! `lecture.stopped`, taken for a moment, and never during calls.
//!
//! Left out: a server that lacks more than the last operation never gets them. With three servers, one that hangs takes its
//! whole patience of each operation.

use std::collections::BTreeSet;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};
use yfs_rpc::marshall::{Marshal, Unmarshal};
use yfs_rpc::{CallError, PollMgr, Procedure, Server};

use crate::bank::{MAX_BONUS, Op};
use crate::file::operation_of;
use crate::peers::{Peers, StartError, cannot_listen, listen};
use crate::protocol::{Ended, LAST, NUMBERED, OPERATION};

const TURN_RANK: Rank = Rank::new(10, "lecture.turn");
const STOPPED_RANK: Rank = Rank::new(11, "lecture.stopped");
/// How long a server may take. Clients wait longer than for all servers together.
const PATIENCE: Duration = Duration::from_millis(300);
/// So many servers at most: their patience together is less than a client's.
pub const MAX_SERVERS: usize = 3;

/// What to do with a server that lacks more than the last operation.
const LACKING: &str = "stop the servers, copy the longest file over its file, start them again";

/// What a coordinator is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its own name.
    pub name: String,
    /// The servers.
    pub servers: Vec<String>,
    /// Goes on with the servers that it reaches, if there is only one.
    pub alone: bool,
    /// Lets the story cut it off from servers.
    pub test: bool,
}

/// A coordinator. Dropping it ends it.
pub struct Coord(Server);

impl Coord {
    /// Serves at the port that its name says. No server is asked for anything before the first operation.
    ///
    /// # Errors
    /// When the port can't be used.
    pub fn start(pollmgr: &PollMgr, options: Options) -> Result<Coord, StartError> {
        let server = listen(pollmgr, &options.name)?;
        let peers = Peers::new(pollmgr, &options.name);
        if options.test {
            peers.serve_cut(&server)?;
        }
        let (name, servers) = (options.name.clone(), options.servers.join(" "));
        tracing::info!(node = name, kind = "start", servers, alone = options.alone, "coordinator");
        let turn = Turn { options, peers, last: None, under_way: None, left_out: BTreeSet::new() };
        let turns = Turns { turn: Mutex::new(TURN_RANK, turn), stopped: Mutex::new(STOPPED_RANK, None) };
        server.reg(OPERATION, move |text: String| match text.parse::<Op>() {
            Ok(op) => turns.operation(op),
            Err(no_op) => (Ended::NoOp, format!("{no_op}")),
        });
        server.start().map_err(|e| cannot_listen(&name, &e))?;
        Ok(Coord(server))
    }

    /// Closes the port; what is under way is finished first.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }
}

/// Why it can't go on, and since when that was last tried.
#[derive(Clone)]
struct Stopped {
    at: Instant,
    why: String,
}

/// Those who wait for their turn.
struct Turns {
    turn: Mutex<Turn>,
    stopped: Mutex<Option<Stopped>>,
}

impl Turns {
    fn operation(&self, op: Op) -> (Ended, String) {
        let came = now();
        let stopped = self.stopped.lock().clone();
        // While it is stopped, one at a time tries whether it still is. The others aren't kept waiting: there may be many.
        let mut turn = match (self.turn.try_lock(), stopped) {
            (Some(turn), _) => turn,
            (None, Some(stopped)) => return stopped.answer(),
            (None, None) => self.turn.lock(),
        };
        // Nor are those who have waited already.
        let stopped = self.stopped.lock().clone();
        if let Some(stopped) = stopped.as_ref().filter(|stopped| stopped.at > came) {
            return stopped.answer();
        }
        let (stopped_now, answer) = match turn.execute(op) {
            Ok(answer) => (None, (Ended::Executed, answer)),
            Err(why) => {
                if stopped.is_none_or(|stopped| stopped.why != why) {
                    tracing::warn!(node = turn.options.name, kind = "fault", why, "stopped");
                }
                let stopped = Stopped { at: now(), why };
                (Some(stopped.clone()), stopped.answer())
            }
        };
        *self.stopped.lock() = stopped_now;
        answer
    }
}

impl Stopped {
    fn answer(&self) -> (Ended, String) {
        (Ended::Stopped, format!("stopped: {}", self.why))
    }
}

/// What one operation after the other needs.
struct Turn {
    options: Options,
    peers: Peers,
    /// The last operation that a majority has executed, and what it was; 0 before the first one. Not known before the
    /// servers were asked.
    last: Option<(u64, Option<Op>)>,
    /// Has a number, and was perhaps executed by a minority.
    under_way: Option<(u64, Op)>,
    /// With `alone`: taken for dead.
    left_out: BTreeSet<String>,
}

impl Turn {
    fn execute(&mut self, op: Op) -> Result<String, String> {
        if self.last.is_none() {
            self.begin()?;
        }
        if self.under_way.is_some() {
            self.send()?;
        }
        let number = self.last_number() + 1;
        self.under_way = Some((number, op.drawn(|| 1 + rt::random::below(MAX_BONUS))));
        self.send()
    }

    fn last_number(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.0)
    }

    /// Learns where the servers are. The last operation is finished, as its coordinator may have died before it was.
    fn begin(&mut self) -> Result<(), String> {
        let (mut number, mut op, is_everywhere) = self.ask_last()?;
        if let (Some(begun), false) = (op.clone(), is_everywhere) {
            tracing::info!(node = self.options.name, kind = "note", number, "finishes what was begun: {begun}");
            self.under_way = Some((number, begun));
            self.send()?;
            // Asked once more: their last lines can be compared now.
            self.last = None;
            (number, op, _) = self.ask_last()?;
        }
        self.last = Some((number, op));
        tracing::info!(node = self.options.name, kind = "primary", last = self.last_number(), "serves");
        Ok(())
    }

    /// Sends the operation under way to the servers. Ends when enough of them have executed it.
    fn send(&mut self) -> Result<String, String> {
        let Some((number, op)) = self.under_way.clone() else { return Err("nothing is under way".to_owned()) };
        let mut silent = Vec::new();
        let mut answers = Vec::new();
        for server in self.servers() {
            match self.give(&server, number, &op) {
                Ok((status, answer)) => match Ended::from_wire(status) {
                    Some(Ended::Executed) => answers.push(answer),
                    Some(Ended::Lacking) => silent.push((server, format!("{answer}: {LACKING}"))),
                    Some(Ended::Broken) => silent.push((server, answer)),
                    _ => return Err(format!("server {server} refuses operation {number}, {op}: {answer}")),
                },
                Err(error) => silent.push((server, no_answer(error))),
            }
        }
        self.enough(answers.len(), silent, &format!("operation {number}"))?;
        let answer = answers.pop().unwrap_or_default();
        if let Some(other) = answers.iter().find(|other| **other != answer) {
            return Err(format!("the servers answer operation {number}, {op}, with {other} and with {answer}"));
        }
        tracing::debug!(node = self.options.name, kind = "execute", number, answer, "{op}");
        (self.last, self.under_way) = (Some((number, Some(op))), None);
        Ok(answer)
    }

    /// Has a server execute an operation; if it lacks the last one, that one first.
    fn give(&self, server: &str, number: u64, op: &Op) -> Result<(i32, String), CallError> {
        let answer = self.ask(server, NUMBERED, || (number, op.to_string()))?;
        let Some((last, Some(last_op))) = &self.last else { return Ok(answer) };
        if Ended::from_wire(answer.0) != Some(Ended::Lacking) {
            return Ok(answer);
        }
        match self.ask(server, NUMBERED, || (*last, last_op.to_string()))? {
            (status, _) if Ended::from_wire(status) == Some(Ended::Executed) => {
                self.ask(server, NUMBERED, || (number, op.to_string()))
            }
            _ => Ok(answer),
        }
    }

    /// The last operation, its number, and whether all servers that answer have it.
    fn ask_last(&mut self) -> Result<(u64, Option<Op>, bool), String> {
        let mut silent = Vec::new();
        let mut lasts = Vec::new();
        for server in self.servers() {
            match self.ask(&server, LAST, || ()) {
                Ok((_, last)) => lasts.push(last),
                Err(error) => silent.push((server, no_answer(error))),
            }
        }
        self.enough(lasts.len(), silent, "the question where the servers are")?;
        let (number, line) = lasts.iter().max().cloned().unwrap_or_default();
        if let Some((_, other)) = lasts.iter().find(|last| last.0 == number && last.1 != line) {
            return Err(format!("the servers differ: \"{line}\", \"{other}\""));
        }
        let op = (number > 0).then(|| operation_of(&line, number)).transpose();
        let op = op.map_err(|why| format!("a server's last line is \"{line}\": {why}"))?;
        Ok((number, op, lasts.iter().all(|last| last.0 == number)))
    }

    /// Asks a server; once more if it was started again since: what is asked here may be asked twice.
    fn ask<A: Marshal, R: Unmarshal>(
        &self,
        server: &str,
        procedure: Procedure<A, R>,
        args: impl Fn() -> A,
    ) -> Result<(i32, R), CallError> {
        match self.peers.call(server, procedure, args(), PATIENCE) {
            Err(CallError::OldServer) => self.peers.call(server, procedure, args(), PATIENCE),
            answer => answer,
        }
    }

    /// The servers that aren't taken for dead.
    fn servers(&self) -> Vec<String> {
        self.options.servers.iter().filter(|server| !self.left_out.contains(*server)).cloned().collect()
    }

    /// Whether so many answers are enough; with `alone` those who gave none are dead from now on.
    fn enough(&mut self, answers: usize, silent: Vec<(String, String)>, what: &str) -> Result<(), String> {
        let Options { name, servers, alone, .. } = &self.options;
        let needed = if *alone { 1 } else { servers.len() / 2 + 1 };
        if answers < needed {
            let why: Vec<String> = silent.iter().map(|(server, why)| format!("{server}: {why}")).collect();
            return Err(format!("{what} has {answers} of {needed} answers that it needs ({})", why.join("; ")));
        }
        if *alone {
            for (server, why) in silent {
                tracing::warn!(node = name, kind = "fault", server, why, "goes on without it");
                self.left_out.insert(server);
            }
        }
        Ok(())
    }
}

fn no_answer(error: CallError) -> String {
    match error {
        CallError::Timeout | CallError::Bind => "no answer".to_owned(),
        other => other.to_string(),
    }
}
