//! The client of a replicated state machine (lab: class `rsm_client`).
//!
//! It knows the members that a node named last, and who of them is the primary. A request goes to the primary; if that
//! doesn't serve, another node is asked for the members, and the request is sent again, until its time is up.
//!
//! Invariants:
//! 1. A call ends by its deadline, with the answer, or an error that says whether it may have been executed (H14: with
//!    nobody left to ask it asks those it knows, the seeds among them, again).
//! 2. No node is asked again and again because it says BUSY: after [`MAX_BUSY`] in a row another one is asked who the
//!    primary is, the one that was asked longest ago (H10: a primary that is cut off from its backups says BUSY for
//!    ever, and others that are cut off name it).
//! 3. A call that a service of ours took is executed once at most, however often it is sent (H4): each copy has the same
//!    place in the same session (sessions.rs). When that no longer tells copies apart, because the service has dropped the
//!    session, or a lab node has come into it, the call ends with `Unknown` unless nobody can have executed it.
//!
//! Lab servers know no sessions: towards a primary of the lab, or one of ours with a lab backup, requests go as the lab's
//! do, and may be executed twice.
//!
//! Locks: `rsm_client.members` guards what is known; `rsm_client.asking` is a turn lock: one caller at a time asks for the
//! members, and those that waited use what it learnt; `rsm_client.session` guards the session (client_session.rs).
//!
//! Deviations from the lab: several seeds; calls of several threads are under way at once; BUSY costs milliseconds, not
//! three seconds; sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};
use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal, decode, encode};
use yfs_rpc::names::{self, BadName};
use yfs_rpc::{CallError, Client, Handles, Options, PollMgr, Procedure};

use crate::client_session::{ClientSession, Ended, Ticket};
use crate::protocol::{
    CLIENT_INVOKE, CLIENT_MEMBERS, ClientStatus, OPEN, REQUEST, RequestRes, SessionId, SessionStatus,
};

/// How long the primary may take for one try; the lab's five seconds would hide a dead one for too long.
const INVOKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take to name the members.
const MEMBERS_TIMEOUT: Duration = Duration::from_millis(300);
/// BUSYs in a row that are taken from one node before another one is asked, and for how long: a primary that is cut off
/// takes its time over each.
const MAX_BUSY: u32 = 3;
const BUSY_PATIENCE: Duration = Duration::from_millis(900);
/// A node where nobody has listened for so long is not waited for any longer.
const REFUSED_PATIENCE: Duration = Duration::from_millis(50);
/// After how long a caller's operator is told that the service doesn't answer.
const FIRST_WARNING: Duration = Duration::from_secs(1);
/// Pauses between tries double: to the first bound while a fail-over may be under way, so that a new primary is soon
/// found, then to the second, so that many clients are no burden to an outage.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE_AT_FIRST: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(200);

const ASKING_RANK: Rank = Rank::new(65, "rsm_client.asking");
const MEMBERS_RANK: Rank = Rank::new(70, "rsm_client.members");

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RsmClientError {
    /// A seed is no name of a node.
    #[error("{0}")]
    Seed(#[from] BadName),
    /// No seed was given.
    #[error("no server was named")]
    NoSeed,
    /// Nobody served the request in time, and nobody executed it.
    #[error("no primary could be reached in time; the request was not executed")]
    Unreachable,
    /// The request's time was up, or its session has ended; it was executed once, or it wasn't, or it will be.
    #[error("no answer; the request may have been executed")]
    Unknown,
    /// The state machine can't execute such a request.
    #[error("the service refused the request")]
    Refused,
    /// It was executed; the answer isn't the procedure's result, or was lost on its way and too large to be kept.
    #[error("the request was executed; its result can't be had")]
    Result,
}

struct Members {
    /// The members named last, then the seeds.
    names: Vec<String>,
    /// Which of them were asked, in what order: the next one is who was asked longest ago. Nodes that are cut off name
    /// each other, and must not keep the others from their turn.
    asked: BTreeMap<String, u64>,
    primary: Option<String>,
    /// Counts the answers, so that a caller sees that somebody else has asked meanwhile.
    answers: u64,
}

/// A client of a service of replicas. Shared by any number of threads.
#[doc(alias = "rsm_client")]
pub struct RsmClient {
    seeds: Vec<String>,
    handles: Handles,
    session: ClientSession,
    asking: Mutex<()>,
    members: Mutex<Members>,
}

impl Members {
    /// Whom to ask, first who was asked longest ago.
    fn in_turn(&self) -> Vec<String> {
        let mut names = self.names.clone();
        names.sort_by_key(|name| self.asked.get(name).copied());
        names
    }

    fn note_asked(&mut self, name: &str) {
        let turn = self.asked.values().max().map_or(0, |last| last + 1);
        self.asked.insert(name.to_owned(), turn);
    }
}

/// A call that is under way.
struct Call<'a> {
    session: &'a ClientSession,
    procedure: u32,
    args: Bytes,
    ticket: Option<Ticket>,
    is_answered: bool,
    /// It may have been executed, in its session or without one.
    perhaps_executed: bool,
    /// It may have been executed in its session: without it, it must not be sent again.
    perhaps_in_session: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            let unanswered = if self.perhaps_in_session { Ended::GivenUp } else { Ended::Unsent };
            self.session.ended(ticket, if self.is_answered { Ended::Answered } else { unanswered });
        }
    }
}

/// What one try came to.
enum Try {
    Answer(Bytes),
    Refused,
    /// Nobody can tell any more.
    Unknown,
    /// It was executed, and its answer is gone.
    Unkept,
    /// The service has no sessions as it is now.
    NoSession,
    /// Ask the same node again.
    Busy,
    /// Find out who the primary is.
    Elsewhere,
}

impl RsmClient {
    /// A client of the service that the seeds, names of any of its nodes, belong to. Waits up to `total` for one that
    /// answers.
    ///
    /// # Errors
    /// `Seed` or `NoSeed` at once, `Unreachable` after `total`.
    pub fn connect(seeds: &[String], total: Duration) -> Result<RsmClient, RsmClientError> {
        Self::connect_on(&PollMgr::shared(), Options::default(), seeds, total)
    }

    /// As [`RsmClient::connect`], on a poll manager and with settings of the caller's.
    ///
    /// # Errors
    /// As [`RsmClient::connect`].
    pub fn connect_on(
        pollmgr: &PollMgr,
        options: Options,
        seeds: &[String],
        total: Duration,
    ) -> Result<RsmClient, RsmClientError> {
        if seeds.is_empty() {
            return Err(RsmClientError::NoSeed);
        }
        for seed in seeds {
            names::address(seed)?;
        }
        let members = Members { names: seeds.to_vec(), asked: BTreeMap::new(), primary: None, answers: 0 };
        let client = RsmClient {
            seeds: seeds.to_vec(),
            handles: Handles::new(pollmgr, Options { refused_patience: Some(REFUSED_PATIENCE), ..options }),
            session: ClientSession::new(),
            asking: Mutex::new(ASKING_RANK, ()),
            members: Mutex::new(MEMBERS_RANK, members),
        };
        let deadline = now() + total;
        let mut patience = Patience::new();
        while !client.init_members(deadline, 0) {
            patience.wears(|| tracing::warn!(?seeds, "no node of the service answers; still trying"));
            if !patience.sleep_before(deadline) {
                return Err(RsmClientError::Unreachable);
            }
        }
        Ok(client)
    }

    /// The name of the node that is taken for the primary.
    pub fn primary(&self) -> Option<String> {
        self.members.lock().primary.clone()
    }

    /// Has the state machine execute a procedure, and returns its value and result. It is executed exactly once, whoever
    /// dies meanwhile; only in a service with lab nodes maybe more often, as in the lab.
    ///
    /// # Errors
    /// [`RsmClientError`]. After `Unknown` the request may have been executed, or may yet be, once at most; after `Result`
    /// it has been. After any other it was not executed, and won't be.
    pub fn call<A: Marshal, R: Unmarshal>(
        &self,
        procedure: Procedure<A, R>,
        args: A,
        total: Duration,
    ) -> Result<(i32, R), RsmClientError> {
        let answer = self.invoke(procedure.number, Bytes(encode(&args)), now() + total)?;
        let (value, Bytes(result)) = decode::<(i32, Bytes)>(&answer.0).map_err(|_| RsmClientError::Result)?;
        if value == CallError::UnmarshalArgs.code() {
            return Err(RsmClientError::Refused);
        }
        Ok((value, decode(&result).map_err(|_| RsmClientError::Result)?))
    }

    fn invoke(&self, procedure: u32, args: Bytes, deadline: Instant) -> Result<Bytes, RsmClientError> {
        let session = &self.session;
        let mut call = Call {
            session,
            procedure,
            args,
            ticket: None,
            is_answered: false,
            perhaps_executed: false,
            perhaps_in_session: false,
        };
        let (mut busy, mut asked) = (0, now());
        let mut patience = Patience::new();
        let mut tried = BTreeSet::new();
        loop {
            patience.wears(|| tracing::warn!(seeds = ?self.seeds, "the service doesn't serve; still trying"));
            let (primary, answers) = {
                let members = self.members.lock();
                (members.primary.clone(), members.answers)
            };
            let left = deadline - now();
            let outcome = match primary {
                Some(primary) if !left.is_zero() => {
                    let outcome = self.try_invoke(&primary, &mut call, left.min(INVOKE_TIMEOUT));
                    tried.insert(primary);
                    outcome
                }
                _ => Try::Elsewhere,
            };
            match outcome {
                Try::Answer(answer) => return Ok(answer),
                // Nodes of another version may refuse what an earlier primary has executed.
                Try::Refused if !call.perhaps_executed => return Err(RsmClientError::Refused),
                Try::Refused | Try::Unknown => return Err(RsmClientError::Unknown),
                Try::Unkept => return Err(RsmClientError::Result),
                Try::Busy if rt::probe::weakened("H10-clings-to-busy") => {}
                Try::Busy if busy < MAX_BUSY && asked.elapsed() < BUSY_PATIENCE => busy += 1,
                Try::Busy | Try::Elsewhere | Try::NoSession => {
                    self.doubt(answers);
                    self.init_members(deadline, answers);
                    (busy, asked) = (0, now());
                    // One that this call hasn't tried yet is tried at once: it may have just become the primary.
                    let is_new = |primary: &String| !tried.contains(primary);
                    if self.members.lock().primary.as_ref().is_some_and(is_new) && now() < deadline {
                        continue;
                    }
                }
            }
            if !patience.sleep_before(deadline) {
                let error = if call.perhaps_executed { RsmClientError::Unknown } else { RsmClientError::Unreachable };
                return Err(error);
            }
        }
    }

    /// One try: in the session, if the primary has sessions.
    fn try_invoke(&self, primary: &str, call: &mut Call<'_>, total: Duration) -> Try {
        let deadline = now() + total;
        let Ok(client) = self.handles.client(primary) else { return Try::Elsewhere };
        if client.bind(total).is_err() {
            return Try::Elsewhere;
        }
        let tried = match client.is_ours() {
            // Meanwhile another thread has learnt that the primary was replaced.
            None => Try::Elsewhere,
            Some(true) => self.try_in_session(primary, &client, call, deadline),
            Some(false) => Try::NoSession,
        };
        match tried {
            Try::NoSession if call.perhaps_in_session => Try::Unknown,
            Try::NoSession => {
                send(&client, call.procedure, call.args.clone(), deadline - now(), &mut call.perhaps_executed)
            }
            tried => tried,
        }
    }

    fn try_in_session(&self, primary: &str, client: &Client, call: &mut Call<'_>, deadline: Instant) -> Try {
        let ticket = match &mut call.ticket {
            Some(ticket) => {
                self.session.renew(ticket);
                ticket.clone()
            }
            None => match self.session.ticket(deadline, || self.open(primary, client, deadline - now())) {
                Ok(Some(ticket)) => call.ticket.insert(ticket).clone(),
                Ok(None) => return Try::Busy,
                Err(tried) => return tried,
            },
        };
        let args =
            Bytes(encode(&(ticket.session, ticket.seq, ticket.answered, &ticket.given_up, call.procedure, &call.args)));
        let tried = send(client, REQUEST.number, args, deadline - now(), &mut call.perhaps_in_session);
        call.perhaps_executed |= call.perhaps_in_session;
        let Try::Answer(answer) = tried else { return tried };
        match in_session::<RequestRes>(&answer) {
            // It is another client's, which has drawn the same nonce. The next nonce is another one.
            Some((_, Some((session, seq, _)))) if (session, seq) != (ticket.session, ticket.seq) => {
                self.handles.forget(primary);
                (call.perhaps_in_session, call.perhaps_executed) = (true, true);
                Try::Elsewhere
            }
            // One that can't be read is no result.
            Some((SessionStatus::OK, answer)) => {
                call.is_answered = true;
                Try::Answer(answer.map(|(.., answer)| answer).unwrap_or_default())
            }
            Some((SessionStatus::EXPIRED, _)) => {
                self.session.expired(ticket.session);
                if call.perhaps_in_session {
                    return Try::Unknown;
                }
                call.ticket = None;
                Try::Busy
            }
            Some((SessionStatus::UNKEPT, _)) => {
                call.is_answered = true;
                Try::Unkept
            }
            Some((SessionStatus::NOSESSION, _)) => Try::NoSession,
            Some((SessionStatus::BUSY, _)) => Try::Busy,
            _ => Try::Refused,
        }
    }

    /// Opens a session. One that the client isn't told of is dropped by the service some time.
    fn open(&self, primary: &str, client: &Client, total: Duration) -> Result<SessionId, Try> {
        let mut perhaps = false;
        // Drawn each time: a service that an operator has started over from an older state counts the same sessions again,
        // and late copies of requests in the old one must not fit into the new one.
        let owner = rt::random::u64();
        match send(client, OPEN.number, Bytes(encode(&(owner,))), total, &mut perhaps) {
            Try::Answer(answer) => match in_session::<SessionId>(&answer) {
                Some((SessionStatus::OK, Some(session))) if session.owner == owner => Ok(session),
                // Two clients have drawn the same nonce: this is the other one's answer. The next nonce is another one.
                Some((SessionStatus::OK, Some(SessionId { .. }))) => {
                    self.handles.forget(primary);
                    Err(Try::Elsewhere)
                }
                Some((SessionStatus::NOSESSION, _)) => Err(Try::NoSession),
                Some((SessionStatus::BUSY, _)) => Err(Try::Busy),
                _ => Err(Try::Refused),
            },
            tried => Err(tried),
        }
    }

    /// The primary named by the `seen`th answer doesn't serve: whoever calls next asks first, also if this call's time is
    /// up.
    fn doubt(&self, seen: u64) {
        let mut members = self.members.lock();
        if members.answers == seen {
            members.primary = None;
        }
    }

    /// Asks the nodes in turn who the members are, until one answers or each has been asked once (lab: `init_members`).
    /// Does nothing if somebody else got an answer after the `seen`th.
    fn init_members(&self, deadline: Instant, seen: u64) -> bool {
        let _turn = self.asking.lock();
        let names = {
            let members = self.members.lock();
            if members.answers > seen {
                return true;
            }
            members.in_turn()
        };
        for name in &names {
            self.members.lock().note_asked(name);
            let total = MEMBERS_TIMEOUT.min(deadline - now());
            if total.is_zero() {
                return false;
            }
            let answer = self.handles.client(name).ok().and_then(|c| c.call(CLIENT_MEMBERS, (0,), total).ok());
            if let Some((_, mut members)) = answer
                && let Some(primary) = members.pop()
                && !primary.is_empty()
            {
                self.learn(&members, primary);
                return true;
            }
            if rt::probe::weakened("H14-list-runs-dry") {
                self.members.lock().names.retain(|known| known != name);
            }
        }
        // All the members that were ever named last, and the seeds, are asked again next time.
        false
    }

    fn learn(&self, named: &[String], primary: String) {
        // Names of peers are used to connect: what is none is left out.
        let named = named.iter().filter(|name| names::address(name).is_ok());
        let mut seen = BTreeSet::new();
        let all: Vec<String> = named.chain(&self.seeds).filter(|name| seen.insert(name.as_str())).cloned().collect();
        let mut members = self.members.lock();
        members.asked.retain(|name, _| all.contains(name));
        members.names = all;
        members.primary = Some(primary).filter(|primary| names::address(primary).is_ok());
        members.answers += 1;
    }
}

impl std::fmt::Debug for RsmClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RsmClient({:?})", self.seeds)
    }
}

/// Sends a request once; notes if it may have been executed though there is no answer.
fn send(client: &Client, procedure: u32, args: Bytes, total: Duration, perhaps_executed: &mut bool) -> Try {
    match client.call(CLIENT_INVOKE, (procedure, args), total) {
        Ok((status, answer)) => match ClientStatus::from_wire(status) {
            Some(ClientStatus::OK) => Try::Answer(answer),
            Some(ClientStatus::NOTPRIMARY) => Try::Elsewhere,
            Some(ClientStatus::BUSY) => {
                // The backups may have executed it, and one of them be the next primary.
                *perhaps_executed = true;
                Try::Busy
            }
            Some(ClientStatus::ERR) | None => Try::Refused,
        },
        Err(error) => {
            *perhaps_executed |= error.may_have_executed();
            Try::Elsewhere
        }
    }
}

/// The answer to a request of sessions: what became of it, and the result if there is one.
fn in_session<R: Unmarshal>(answer: &Bytes) -> Option<(SessionStatus, Option<R>)> {
    let (status, Bytes(result)) = decode::<(i32, Bytes)>(&answer.0).ok()?;
    Some((SessionStatus::from_wire(status)?, decode(&result).ok()))
}

/// What a call's tries have cost so far: how long to pause before the next one, and when an operator should hear that it
/// takes long: after a second, then each time after twice as long.
struct Patience {
    pause: Duration,
    until: Instant,
    next: Duration,
}

impl Patience {
    fn new() -> Self {
        Patience { pause: FIRST_PAUSE, until: now() + FIRST_WARNING, next: FIRST_WARNING * 2 }
    }

    fn wears(&mut self, warn: impl FnOnce()) {
        if now() >= self.until {
            warn();
            self.until = now() + self.next;
            self.next *= 2;
        }
    }

    /// Pauses, but not beyond the deadline; false if that has passed.
    fn sleep_before(&mut self, deadline: Instant) -> bool {
        let left = deadline - now();
        rt::time::sleep(left.min(self.pause));
        let has_warned = self.next > FIRST_WARNING * 2;
        self.pause = (self.pause * 2).min(if has_warned { MAX_PAUSE } else { MAX_PAUSE_AT_FIRST });
        !left.is_zero()
    }
}

#[cfg(test)]
#[path = "rsm_client_tests.rs"]
mod tests;
