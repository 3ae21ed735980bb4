//! Running rounds: prepare, accept, decide (lab: `class proposer`).
//!
//! Invariants:
//! 1. A node runs one round at a time ([`Outcome::Busy`] otherwise, as in the lab), and only among the members of its
//!    last view, of which it must be one, for the instance after it.
//! 2. It promises to itself, on the disk, before it asks anybody: a number is never used twice, not after a crash either.
//! 3. The number is above every number promised here and above its own last one; after a rejection it is doubled (L2), up to a
//!    bound: an acceptor that rejects everything must not drive it to the end of the numbers.
//! 4. Only who promised is asked to accept; decide goes to who accepted, and to others only if they are no lab nodes
//!    (those stop at a decide that they don't expect).
//! 5. A lab node is asked for its vote only if it knows the view before: it votes in any instance, keeps one vote for all
//!    of them, and stops at the decide of one that isn't its next.
//!
//! Threads: the caller's. All peers are asked at once, so a dead one costs nothing once a majority has answered; the
//! live ones get a moment more ([`GRACE`]), so that lab nodes, too, hear what was decided.
//! Locks: `paxos.turn` ([`ranks::TURN`]), for moments only: asking whether a round runs never waits for one (H13). Nothing is
//! held across a call or an upcall.
//!
//! Deviations from the lab: there the nodes are called one after the other, itself among them through the network.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rt::probe::observe;
use rt::sync::Mutex;
use yfs_rpc::{CallError, Handles};

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::calls::{Calls, Next};
use crate::events::Event;
use crate::protocol::{ACCEPTREQ, AcceptArg, DECIDEREQ, DecideArg, PREPAREREQ, PaxosStatus, PrepareArg, PrepareRes};
use crate::{DiskId, Instance, ProposalNumber, Value, ranks};

/// Each step waits at most this long (lab: 1 s a call).
pub const STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a step waits for the remaining live members once it has a majority.
pub const GRACE: Duration = Duration::from_millis(100);

/// After a rejection a number grows by at most so much: two days of the other's numbers are caught up with in a minute, and
/// the end of the numbers is 65,536 rejections away.
const MAX_STEP: u32 = 1 << 16;

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The proposed value was decided, by this round's own ballot, and it was not inherited.
    Decided,
    /// This round finished an earlier proposal: that one's value was decided.
    Inherited(Value),
    /// The instance is decided already; this node knows its value now, if it could be had.
    Old,
    /// Somebody has promised a higher number to another proposer.
    Rejected,
    /// No majority answered. Whether the value will be decided isn't known.
    NoMajority,
    /// This node is running another round.
    Busy,
    /// This node isn't in the view, or the value can't follow it.
    Impossible,
}

impl Outcome {
    /// Whether the instance has its value now.
    pub fn is_decided(&self) -> bool {
        matches!(self, Outcome::Decided | Outcome::Inherited(_) | Outcome::Old)
    }
}

#[derive(Default)]
struct Turn {
    /// The lab's `stable`, turned round.
    running: bool,
    /// The instance that `n` belongs to.
    instance: Instance,
    /// The highest number that this node has used there.
    n: u32,
    rejected: bool,
}

/// A node's proposer.
#[doc(alias = "proposer")]
pub struct Proposer {
    me: String,
    acceptor: Arc<Acceptor>,
    handles: Handles,
    turn: Mutex<Turn>,
    break1: AtomicBool,
    break2: AtomicBool,
}

impl Proposer {
    /// The proposer of the acceptor's node.
    pub fn new(acceptor: Arc<Acceptor>, handles: Handles) -> Self {
        Proposer {
            me: acceptor.me().to_owned(),
            acceptor,
            handles,
            turn: Mutex::new(ranks::TURN, Turn::default()),
            break1: AtomicBool::new(false),
            break2: AtomicBool::new(false),
        }
    }

    /// Whether a round is running. Never waits for it (H13).
    pub fn isrunning(&self) -> bool {
        self.turn.lock().running
    }

    /// Runs a round for `instance` among the members of `view` that proposes `value`. Blocks for at most three steps; to
    /// be called with no lock held that an upcall needs.
    pub fn run(&self, instance: Instance, view: &Value, value: &Value) -> Outcome {
        self.run_to_add(instance, view, value, None)
    }

    /// As [`Proposer::run`]. `added` is the node that the value adds, and its disk: they are written down once a majority
    /// has promised and nothing was accepted before ([`Acceptor::has_added`]).
    pub fn run_to_add(
        &self,
        instance: Instance,
        view: &Value,
        value: &Value,
        added: Option<(&str, DiskId)>,
    ) -> Outcome {
        {
            let mut turn = self.turn.lock();
            if turn.running {
                return Outcome::Busy;
            }
            turn.running = true;
        }
        let outcome = self.round(instance, view, value, added);
        tracing::debug!(node = %self.me, instance, value = %value, ?outcome, "round");
        {
            let mut turn = self.turn.lock();
            turn.running = false;
            turn.rejected = outcome == Outcome::Rejected;
            if turn.rejected {
                observe(|| Event::RoundRejected { instance });
            }
        }
        // Only now, so that the layer above may start the next round at once.
        self.acceptor.tell();
        outcome
    }

    fn round(&self, instance: Instance, view: &Value, value: &Value, added: Option<(&str, DiskId)>) -> Outcome {
        let last = self.acceptor.instance();
        if instance <= last {
            return Outcome::Old;
        }
        let is_last = self.acceptor.value(last).is_some_and(|known| known.same_view(view));
        if instance - 1 != last || !is_last || !view.contains(&self.me) || !value.may_follow(view) {
            return Outcome::Impossible;
        }
        let Some(n) = self.setn(instance) else { return Outcome::Rejected };
        let n = ProposalNumber { n, node: self.me.clone() };
        // Who leaves with this value, or refuses connections, needn't be waited for.
        let unlikely: BTreeSet<String> =
            view.members().iter().filter(|m| !value.contains(m) || self.is_refusing(m)).cloned().collect();
        let mut ballot = Ballot::new(view.clone(), value.clone());
        if let Some(outcome) = self.prepare(instance, &n, &unlikely, &mut ballot) {
            return outcome;
        }
        if let Some((node, disk)) =
            added.filter(|_| !ballot.is_inherited() || rt::probe::weakened("S5-inherited-add-counts"))
            && !self.acceptor.note_added(instance, node, disk)
        {
            return Outcome::NoMajority;
        }
        self.breakpoint1();
        if let Some(outcome) = self.accept(instance, &n, &unlikely, &mut ballot) {
            return outcome;
        }
        self.breakpoint2();
        self.decide(instance, view, &ballot);
        if ballot.is_inherited() { Outcome::Inherited(ballot.value().clone()) } else { Outcome::Decided }
    }

    /// The next round's number (invariant 3). `None` when there is no higher one.
    fn setn(&self, instance: Instance) -> Option<u32> {
        let promised = self.acceptor.promised().map_or(0, |n| n.n);
        let mut turn = self.turn.lock();
        if turn.instance != instance {
            *turn = Turn { running: true, instance, ..Turn::default() };
        }
        let seen = promised.max(turn.n);
        let least = seen.checked_add(1)?;
        let doubled = turn.rejected && !rt::probe::weakened("L2-numbers-crawl");
        turn.n = if doubled { least.max(seen.saturating_add(seen.min(MAX_STEP))) } else { least };
        observe(|| Event::RoundBegun { instance, n: turn.n });
        Some(turn.n)
    }

    fn is_refusing(&self, peer: &str) -> bool {
        peer != self.me && self.handles.client(peer).is_ok_and(|client| client.refused_since().is_some())
    }

    fn others<'a>(&self, members: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        members.into_iter().filter(|m| **m != self.me).cloned().collect()
    }

    /// Asks all members for promises. `Some`: the round ends here.
    fn prepare(
        &self,
        instance: Instance,
        n: &ProposalNumber,
        unlikely: &BTreeSet<String>,
        ballot: &mut Ballot,
    ) -> Option<Outcome> {
        let arg = PrepareArg { instance, n: n.clone() };
        let (status, res) = self.acceptor.preparereq(&self.me, &arg);
        if status != PaxosStatus::OK || res.oldinstance || !res.accept {
            return Some(if res.oldinstance { Outcome::Old } else { Outcome::Rejected });
        }
        ballot.promise(&self.me, Ok((status as i32, res)));
        let members = self.others(ballot.view().members());
        let voters = self.who_may_vote(instance, &members, unlikely);
        members.iter().filter(|m| !voters.contains(m)).for_each(|m| ballot.promise(m, Err(CallError::Timeout)));
        if ballot.is_lost() {
            return Some(Outcome::NoMajority);
        }
        let calls = Calls::start(&self.handles, &voters, PREPAREREQ, &(self.me.clone(), arg), STEP_TIMEOUT);
        calls.wait(unlikely, GRACE, |peer, answer: Result<(i32, PrepareRes), CallError>| {
            // A member's name, but not that member.
            let foreign = answer.as_ref().is_ok_and(|(_, res)| {
                self.handles.is_ours(peer) != Some(false) && self.acceptor.is_of_this_service(res) == Some(false)
            });
            ballot.promise(peer, if foreign { Err(CallError::Timeout) } else { answer });
            if ballot.decided().is_some() || ballot.is_lost() {
                Next::Stop
            } else if ballot.is_prepared() {
                Next::Enough
            } else {
                Next::More
            }
        });
        if let Some(decided) = ballot.decided() {
            self.acceptor.commit_untold(instance, decided.as_str());
            return Some(Outcome::Old);
        }
        if !ballot.is_prepared() {
            return Some(if ballot.is_outvoted() { Outcome::Rejected } else { Outcome::NoMajority });
        }
        ballot.end_of_prepare();
        None
    }

    /// Those of `members` who may be asked for a vote in `instance` (invariant 5). Lab nodes are asked first whether they
    /// know the instance before: by a prepare with n = 0, whose promise would be worth nothing.
    fn who_may_vote(&self, instance: Instance, members: &[String], unlikely: &BTreeSet<String>) -> Vec<String> {
        let ours = |m: &String| self.handles.is_ours(m) == Some(true);
        let (mut voters, labs): (Vec<&String>, Vec<&String>) = members.iter().partition(|m| ours(m));
        // With this node.
        let (majority, mut known) = (members.len().div_ceil(2) + 1, voters.len() + 1);
        let enough = known >= majority;
        let labs: Vec<String> = labs.into_iter().filter(|m| !enough || !unlikely.contains(*m)).cloned().collect();
        let n = ProposalNumber { n: 0, node: self.me.clone() };
        let arg = PrepareArg { instance: instance - 1, n };
        let total = if enough { GRACE } else { STEP_TIMEOUT };
        let mut up_to_date = BTreeSet::new();
        let calls = Calls::start(&self.handles, &labs, PREPAREREQ, &(self.me.clone(), arg), total);
        calls.wait(unlikely, GRACE, |peer, answer| {
            if matches!(answer, Ok((_, PrepareRes { oldinstance: true, .. }))) {
                up_to_date.insert(peer.to_owned());
                known += 1;
            }
            if known >= majority { Next::Enough } else { Next::More }
        });
        voters.extend(labs.iter().filter(|m| up_to_date.contains(*m)));
        voters.into_iter().cloned().collect()
    }

    /// Asks those who promised to accept. `Some`: the round ends here.
    fn accept(
        &self,
        instance: Instance,
        n: &ProposalNumber,
        unlikely: &BTreeSet<String>,
        ballot: &mut Ballot,
    ) -> Option<Outcome> {
        let arg = AcceptArg { instance, n: n.clone(), v: ballot.value().as_str().to_owned() };
        let peers = self.others(ballot.promised());
        let calls = Calls::start(&self.handles, &peers, ACCEPTREQ, &(self.me.clone(), arg.clone()), STEP_TIMEOUT);
        // Its own disk is at work while the others' are.
        let (status, accepted) = self.acceptor.acceptreq(&self.me, &arg);
        ballot.accept(&self.me, Ok((status as i32, accepted)));
        calls.wait(unlikely, GRACE, |peer, answer| {
            ballot.accept(peer, answer);
            if ballot.is_lost() {
                Next::Stop
            } else if ballot.is_chosen() {
                Next::Enough
            } else {
                Next::More
            }
        });
        if ballot.is_chosen() {
            None
        } else {
            Some(if ballot.is_outvoted() { Outcome::Rejected } else { Outcome::NoMajority })
        }
    }

    /// Commits the chosen value here, and tells the others.
    fn decide(&self, instance: Instance, view: &Value, ballot: &Ballot) {
        let value = ballot.value().as_str().to_owned();
        self.acceptor.commit_untold(instance, &value);
        let peers: Vec<String> = self
            .others(view.members())
            .into_iter()
            .filter(|m| ballot.accepted().contains(m) || self.handles.is_ours(m) == Some(true))
            .collect();
        let arg = DecideArg { instance, v: value };
        let calls = Calls::start(&self.handles, &peers, DECIDEREQ, &(self.me.clone(), arg), STEP_TIMEOUT);
        // The calls go on by themselves; it is only worth a moment that most know before the layer above goes on.
        calls.wait(&peers.iter().filter(|m| !ballot.accepted().contains(*m)).cloned().collect(), GRACE, |_, _| {
            Next::Enough
        });
    }

    /// Simulates failures, for the tester: 3 dies after the promises, 4 after the accepts of the next round.
    pub fn breakpoint(&self, b: i32) {
        match b {
            3 => self.break1.store(true, Ordering::Relaxed),
            4 => self.break2.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    fn breakpoint1(&self) {
        if self.break1.load(Ordering::Relaxed) {
            tracing::warn!(node = %self.me, "dying at breakpoint 1 of the proposer");
            rt::process::exit(1);
        }
    }

    fn breakpoint2(&self) {
        if self.break2.load(Ordering::Relaxed) {
            tracing::warn!(node = %self.me, "dying at breakpoint 2 of the proposer");
            rt::process::exit(1);
        }
    }
}

impl std::fmt::Debug for Proposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proposer({})", self.me)
    }
}
