//! The node that votes and remembers, with its handlers, its disk and its upcalls (lab: `class acceptor`).
//!
//! What it answers is decided in [`crate::state`]; here the answer waits for the disk, and decided values are told to
//! the layer above.
//!
//! Invariants:
//! 1. A record is on the disk before the answer that depends on it leaves. If that fails, the node votes no more and its
//!    owner is told, once: [`OnFatal`].
//! 2. [`PaxosChange::paxos_commit`] is called once for each decided instance, in their order, with no lock held (H28);
//!    but not for those that the log held at the start.
//! 3. DISKREQ costs at most one write in 250 ms, whoever asks how often, and holds at most one thread. What it writes takes
//!    one byte of the disk, ever, and none of the log.
//!
//! Threads: handlers run on the server's workers for peers; they may wait for the disk, and nothing else. Upcalls run
//! on whichever thread committed, one at a time: a thread that finds another one at it leaves its own to that one.
//! Locks: `paxos.state` ([`ranks::STATE`]).
//!
//! Deviations from the lab: the port isn't opened here, and the first value isn't committed by the constructor: the
//! owner calls [`Acceptor::bootstrap`]. Committing doesn't unlock the caller's mutex halfway.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::fs::File;
use rt::probe::observe;
use rt::sync::Mutex;
use rt::time::{Instant, now};
use yfs_rpc::{Server, Workers};

use crate::events::Event;
use crate::log::{self, Log, LogError};
use crate::protocol::{
    ACCEPTREQ, AcceptArg, DECIDEREQ, DISKREQ, DecideArg, PREPAREREQ, PaxosStatus, PrepareArg, PrepareRes,
};
use crate::record::{DiskId, Record, RestoreError, ServiceId};
use crate::state::{AcceptorState, Step};
use crate::{Instance, ProposalNumber, Value, ranks};

/// What Paxos tells the layer above. Called with no lock held.
#[doc(alias = "paxos_change")]
pub trait PaxosChange: Send + Sync {
    /// `instance` is decided. Called for each instance once, in order. A receiver ignores an older one all the same.
    fn paxos_commit(&self, instance: Instance, value: &Value);

    /// `peer`, which may be anybody, speaks of `instance`, which is beyond the next one: if it is right it knows values that
    /// this node doesn't. Must not block.
    fn fallen_behind(&self, _peer: &str, _instance: Instance) {}
}

/// Called once, with no lock held, when the log could not be written: the node can't vote any more and must stop.
pub type OnFatal = Arc<dyn Fn(&LogError) + Send + Sync>;

/// For how long a write that was done shows that the disk works. One that begins to hang in that time is found out as
/// late as one that does so just after it was asked. Four writes a second are nothing, whoever asks.
const PROOF_LASTS: Duration = Duration::from_millis(250);

/// What the disk does.
#[derive(Default)]
struct Writing {
    /// Since when it has been at work on what was appended last.
    since: Option<Instant>,
    /// When the last write began that was done; none since one failed.
    proven: Option<Instant>,
    /// Somebody waits for one that is to show that the disk works.
    proving: bool,
}

/// What is written to see whether the disk works: one byte, again and again, in the file that is locked for the log. It
/// is on the same disk, stays as long as the node has the log, and nobody reads it.
struct Proof {
    path: PathBuf,
    file: File,
}

impl Proof {
    /// Beside the log at `path`, which is open.
    fn open(path: &Path) -> Result<Self, LogError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        match File::append(&path) {
            Ok(file) => Ok(Proof { path, file }),
            Err(source) => Err(LogError::Io { path, doing: "open", source }),
        }
    }

    /// Returns when the byte is on the disk.
    fn write(&mut self) -> Result<(), LogError> {
        let path = &self.path;
        let io = |doing| move |source| LogError::Io { path: path.clone(), doing, source };
        // A sync of what didn't change would prove nothing.
        self.file.set_len(0).map_err(io("write"))?;
        self.file.write_all(b".").map_err(io("write"))?;
        self.file.sync_data().map_err(io("sync"))
    }
}

struct Inner {
    paxos: AcceptorState,
    log: Log,
    proof: Proof,
    /// Decided, and not yet told above.
    due: VecDeque<(Instance, Value)>,
    /// A thread is telling them.
    telling: bool,
    change: Option<Weak<dyn PaxosChange>>,
    failed: bool,
    /// When this node last promised or accepted a proposal of another node.
    other_proposer: Option<Instant>,
}

/// A node's acceptor.
#[doc(alias = "acceptor")]
pub struct Acceptor {
    me: String,
    on_fatal: OnFatal,
    state: Mutex<Inner>,
    /// The number of this node's disk, which its log has had since it was opened.
    disk: Option<DiskId>,
    writing: Mutex<Writing>,
}

impl Acceptor {
    /// The acceptor of the node `me`, whose log lies in `dir`.
    ///
    /// # Errors
    /// When the log can't be used.
    pub fn open(dir: &Path, me: &str, on_fatal: OnFatal) -> Result<Arc<Self>, LogError> {
        let path = dir.join(log::file_name(me));
        let (log, paxos) = Log::open(&path, me)?;
        let proof = Proof::open(&path)?;
        observe(|| restored(&paxos));
        let due = VecDeque::new();
        let disk = paxos.disk();
        let inner = Inner { paxos, log, proof, due, telling: false, change: None, failed: false, other_proposer: None };
        Ok(Arc::new(Acceptor {
            me: me.to_owned(),
            on_fatal,
            state: Mutex::new(ranks::STATE, inner),
            disk,
            writing: Mutex::new(ranks::WRITING, Writing::default()),
        }))
    }

    /// Who is told of decided values. To be called before [`Acceptor::register`].
    pub fn set_change(&self, change: Weak<dyn PaxosChange>) {
        self.state.lock().change = Some(change);
    }

    /// Registers the handlers. The server keeps only a weak reference. Who speaks in this node's own name isn't this node:
    /// it doesn't send itself anything.
    pub fn register(self: &Arc<Self>, server: &Server) {
        let others = |acceptor: &Weak<Self>, src: &str| acceptor.upgrade().filter(|acceptor| acceptor.me != src);
        let acceptor = Arc::downgrade(self);
        server.reg_on(Workers::Peers, PREPAREREQ, move |src: String, arg: PrepareArg| match others(&acceptor, &src) {
            Some(acceptor) => acceptor.preparereq(&src, &arg),
            None => (PaxosStatus::ERR, PrepareRes::default()),
        });
        let acceptor = Arc::downgrade(self);
        server.reg_on(Workers::Peers, DISKREQ, move |name: String| {
            match acceptor.upgrade().filter(|a| a.me == name).and_then(|a| a.prove_disk()) {
                Some(DiskId(disk)) => (PaxosStatus::OK, disk),
                None => (PaxosStatus::ERR, 0),
            }
        });
        let acceptor = Arc::downgrade(self);
        server.reg_on(Workers::Peers, ACCEPTREQ, move |src: String, arg: AcceptArg| match others(&acceptor, &src) {
            Some(acceptor) => acceptor.acceptreq(&src, &arg),
            None => (PaxosStatus::ERR, false),
        });
        let acceptor = Arc::downgrade(self);
        server.reg_on(Workers::Peers, DECIDEREQ, move |src: String, arg: DecideArg| match others(&acceptor, &src) {
            Some(acceptor) => acceptor.decidereq(&src, &arg),
            None => (PaxosStatus::ERR, 0),
        });
    }

    /// This node's name.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// The last decided instance that this node knows; 0 if there is none.
    pub fn instance(&self) -> Instance {
        self.state.lock().paxos.instance()
    }

    /// The value of an instance, if it is known.
    pub fn value(&self, instance: Instance) -> Option<Value> {
        self.state.lock().paxos.value(instance).cloned()
    }

    /// All known instances and their values.
    pub fn values(&self) -> Vec<(Instance, Value)> {
        self.state.lock().paxos.views().iter().map(|(instance, value)| (*instance, value.clone())).collect()
    }

    /// Whether the log is empty: a new node, or one that lost its disk.
    pub fn is_new(&self) -> bool {
        self.state.lock().paxos.is_new()
    }

    /// The highest number promised in the next instance.
    pub fn promised(&self) -> Option<ProposalNumber> {
        self.state.lock().paxos.promised().cloned()
    }

    /// For how long the disk has not been done with what was written: one that works takes milliseconds.
    pub fn stalled(&self) -> Duration {
        self.writing.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The number of this node's disk.
    pub fn disk(&self) -> Option<DiskId> {
        self.disk
    }

    /// Whether an old instance's value, as a node of ours has told it, is of this node's service: another one's nodes may
    /// have the same names, and views of the same numbers. `None`: one of both doesn't know its service.
    pub fn is_of_this_service(&self, res: &PrepareRes) -> Option<bool> {
        let mine = self.state.lock().paxos.service();
        mine.zip(res.service()).map(|(mine, theirs)| mine == theirs)
    }

    /// Looks whether the log still has its name. If it hasn't, that is an error of the disk. Not while it is written.
    pub fn look(&self) {
        let looked = match self.state.try_lock() {
            Some(mut inner) if !inner.failed => self.on_disk(&mut inner, false, |inner| inner.log.look_for()),
            _ => return,
        };
        if let Err(error) = looked {
            self.fatal(&error);
        }
    }

    /// How many lives of this node before this one were short, one after the other: they ended before
    /// [`Acceptor::note_lived`].
    pub fn short_lives(&self) -> u32 {
        self.state.lock().paxos.short_lives()
    }

    /// Counts this life among the short ones, until [`Acceptor::note_lived`]. Waits for the disk.
    pub fn note_started(&self) {
        self.step(0, |paxos| {
            let record = Some(Record::Starts(paxos.short_lives()));
            Step { record, status: PaxosStatus::OK, result: (), behind: false }
        });
    }

    /// Writes down that this life isn't a short one. Waits for the disk.
    pub fn note_lived(&self) {
        self.step(0, |paxos| {
            // It can't fail.
            let _ = paxos.replay(Record::Lived);
            Step { record: Some(Record::Lived), status: PaxosStatus::OK, result: (), behind: false }
        });
    }

    /// Handler: the number of this node's disk, if that works: a write was done lately, and none is under way, or one is
    /// done now. One that hangs keeps the first asker waiting; one that fails says nothing, as to those who ask
    /// meanwhile.
    fn prove_disk(&self) -> Option<DiskId> {
        {
            let mut writing = self.writing.lock();
            if writing.proving {
                return None;
            }
            // While another write is under way the disk may have begun to hang.
            if writing.since.is_none() && writing.proven.is_some_and(|at| at.elapsed() < PROOF_LASTS) {
                return self.disk;
            }
            writing.proving = true;
        }
        // After what is written to the log: a disk that hangs, or an error, is the same for both.
        let proven = {
            let mut inner = self.state.lock();
            if inner.failed { None } else { Some(self.on_disk(&mut inner, true, |inner| inner.proof.write())) }
        };
        self.writing.lock().proving = false;
        match proven? {
            Ok(()) => self.disk,
            Err(error) => {
                self.fatal(&error);
                None
            }
        }
    }

    /// Whether a node on this disk may vote in the instances to come, as far as this node's rounds show (rule 3).
    pub fn has_added(&self, node: &str, disk: DiskId) -> bool {
        self.state.lock().paxos.has_added(node, disk)
    }

    /// Writes down that a node on this disk is about to be added in the next instance. False if that can't be written.
    pub(crate) fn note_added(&self, instance: Instance, node: &str, disk: DiskId) -> bool {
        let record = Record::Added(instance, node.to_owned(), disk);
        let (status, ()) = self.step(instance, |paxos| {
            // It can't fail.
            let _ = paxos.replay(record.clone());
            Step { record: Some(record), status: PaxosStatus::OK, result: (), behind: false }
        });
        status == PaxosStatus::OK
    }

    /// Whether another node's round got a vote here within the last `time`: then it's better to wait how that ends.
    pub fn is_in_other_round(&self, time: Duration) -> bool {
        let inner = self.state.lock();
        let promised_other = inner.paxos.promised().is_some_and(|n| n.node != self.me);
        promised_other && inner.other_proposer.is_some_and(|at| at.elapsed() < time)
    }

    /// Commits view 1, this node alone. For the first node of a new service only: its owner knows that it is one.
    /// False if this node isn't new.
    ///
    /// # Errors
    /// When the log can't be written.
    pub fn bootstrap(&self) -> Result<bool, LogError> {
        {
            let mut inner = self.state.lock();
            if !inner.paxos.is_new() {
                return Ok(false);
            }
            let Some(done) = inner.paxos.learn(1, &self.me) else { return Ok(false) };
            let service = Record::Service(ServiceId::drawn());
            // It can't fail.
            let _ = inner.paxos.replay(service.clone());
            self.write(&mut inner, 1, &[service, done])?;
        }
        self.tell();
        Ok(true)
    }

    /// The log as text, for a node that joins.
    pub fn dump(&self) -> String {
        self.state.lock().log.dump().to_owned()
    }

    /// Takes over the decided values of another node's log that are missing here, and the number of its service, if this
    /// node knows none; own promises stay (H27). Returns the last instance.
    ///
    /// # Errors
    /// When the text isn't a log that goes on where this one ends, or this one can't be written.
    pub fn restore(&self, text: &str, service: Option<ServiceId>) -> Result<Instance, RestoreError> {
        let written = {
            let mut inner = self.state.lock();
            if inner.failed {
                return Err(RestoreError::Log);
            }
            let mut records = inner.paxos.restore(text)?;
            if let Some(service) = service.filter(|_| inner.paxos.service().is_none()) {
                let record = Record::Service(service);
                // It can't fail.
                let _ = inner.paxos.replay(record.clone());
                records.insert(0, record);
            }
            let last = inner.paxos.instance();
            let written = self.write(&mut inner, last, &records);
            if written.is_ok() {
                observe(|| restored(&inner.paxos));
            }
            written
        };
        if let Err(error) = written {
            self.fatal(&error);
            return Err(RestoreError::Log);
        }
        self.tell();
        Ok(self.instance())
    }

    /// Commits the value of the next instance, as a member of the last view has it: false if it isn't the next one or
    /// can't follow.
    pub fn commit(&self, instance: Instance, value: &str) -> bool {
        let committed = self.commit_untold(instance, value);
        self.tell();
        committed
    }

    /// As [`Acceptor::commit`], but leaves the upcall to the next [`Acceptor::tell`].
    pub(crate) fn commit_untold(&self, instance: Instance, value: &str) -> bool {
        let (_, committed) = self.step(instance, |paxos| {
            let record = paxos.learn(instance, value);
            let result = record.is_some();
            let status = if result { PaxosStatus::OK } else { PaxosStatus::ERR };
            Step { record, status, result, behind: false }
        });
        committed
    }

    /// Handler: a promise, or an old instance's value.
    pub(crate) fn preparereq(&self, src: &str, arg: &PrepareArg) -> (PaxosStatus, PrepareRes) {
        let (behind, (status, res)) = self.step_of(src, arg.instance, |paxos| paxos.prepare(src, arg));
        if res.accept {
            tracing::debug!(node = %self.me, instance = arg.instance, n = arg.n.n, proposer = src, "promise");
        }
        self.follow_up(src, arg.instance, behind);
        (status, res)
    }

    /// Handler: a vote.
    pub(crate) fn acceptreq(&self, src: &str, arg: &AcceptArg) -> (PaxosStatus, bool) {
        let (behind, (status, accepted)) = self.step_of(src, arg.instance, |paxos| paxos.accept(src, arg));
        if accepted {
            let (n, value) = (arg.n.n, arg.v.trim_end());
            tracing::debug!(node = %self.me, instance = arg.instance, n, proposer = src, value, "accept");
        }
        self.follow_up(src, arg.instance, behind);
        (status, accepted)
    }

    /// Handler: a decided value. Never stops the node, whatever it says (H16).
    pub(crate) fn decidereq(&self, src: &str, arg: &DecideArg) -> (PaxosStatus, i32) {
        let (behind, (status, res)) = self.step_of(src, arg.instance, |paxos| paxos.decide(src, arg));
        if status == PaxosStatus::ERR {
            // Without the sender and the value: they may be anything.
            tracing::debug!(node = %self.me, instance = arg.instance, "decide refused");
        }
        self.follow_up(src, arg.instance, behind);
        (status, res)
    }

    fn step_of<R: Default>(
        &self,
        src: &str,
        instance: Instance,
        input: impl FnOnce(&mut AcceptorState) -> Step<R>,
    ) -> (bool, (PaxosStatus, R)) {
        let mut behind = false;
        let mut voted = false;
        let (status, result) = self.step(instance, |paxos| {
            let step = input(paxos);
            behind = step.behind;
            voted = matches!(step.record, Some(Record::PropSeen(_) | Record::Accepted(..)));
            step
        });
        if voted && src != self.me {
            self.state.lock().other_proposer = Some(rt::time::now());
        }
        (behind, (status, result))
    }

    /// One input, about `instance`: decided, written, and only then answered.
    fn step<R: Default>(
        &self,
        instance: Instance,
        input: impl FnOnce(&mut AcceptorState) -> Step<R>,
    ) -> (PaxosStatus, R) {
        let (step, written) = {
            let mut inner = self.state.lock();
            if inner.failed {
                return (PaxosStatus::ERR, R::default());
            }
            let step = input(&mut inner.paxos);
            let written = self.write(&mut inner, instance, step.record.as_slice());
            (step, written)
        };
        match written {
            Ok(()) => (step.status, step.result),
            Err(error) => {
                self.fatal(&error);
                (PaxosStatus::ERR, R::default())
            }
        }
    }

    /// Writes records; promises and votes among them were asked for in `instance`.
    fn write(&self, inner: &mut Inner, instance: Instance, records: &[Record]) -> Result<(), LogError> {
        self.on_disk(inner, !records.is_empty(), |inner| inner.log.append(records))?;
        for record in records {
            observe(|| event(instance, record));
            if let Record::Done(instance, value) = record {
                tracing::info!(node = %self.me, instance, value = %value, "decide");
                inner.due.push_back((*instance, value.clone()));
            }
        }
        Ok(())
    }

    /// Has the disk do something; notes how that ends. If it `proves` that the disk works, and since when.
    fn on_disk(
        &self,
        inner: &mut Inner,
        proves: bool,
        work: impl FnOnce(&mut Inner) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let begun = now();
        self.writing.lock().since = Some(begun);
        let done = work(inner);
        let mut writing = self.writing.lock();
        writing.since = None;
        if done.is_err() {
            writing.proven = None;
            inner.failed = true;
        } else if proves {
            writing.proven = Some(begun);
        }
        done
    }

    fn fatal(&self, error: &LogError) {
        tracing::error!(node = %self.me, %error, "the Paxos log can't be written: this node stops voting");
        (self.on_fatal)(error);
    }

    fn follow_up(&self, src: &str, instance: Instance, behind: bool) {
        self.tell();
        if behind {
            let change = self.state.lock().change.as_ref().and_then(Weak::upgrade);
            if let Some(change) = change {
                change.fallen_behind(src, instance);
            }
        }
    }

    /// Tells the layer above what is decided, one by one, unless another thread is at it.
    pub(crate) fn tell(&self) {
        loop {
            let (change, instance, value) = {
                let mut inner = self.state.lock();
                if inner.telling && !rt::probe::weakened("H28-two-tell-at-once") {
                    return;
                }
                let Some((instance, value)) = inner.due.pop_front() else { return };
                inner.telling = true;
                (inner.change.as_ref().and_then(Weak::upgrade), instance, value)
            };
            if let Some(change) = change {
                change.paxos_commit(instance, &value);
            }
            self.state.lock().telling = false;
        }
    }
}

/// What a simulator is told of an acceptor that has read a log.
fn restored(paxos: &AcceptorState) -> Event {
    Event::Restored {
        service: paxos.service(),
        values: paxos.views().iter().map(|(instance, value)| (*instance, value.clone())).collect(),
        promised: paxos.promised().cloned(),
        accepted: paxos.accepted().cloned(),
    }
}

/// What a simulator is told of a record that was written; a promise or vote was asked for in `asked`.
fn event(asked: Instance, record: &Record) -> Event {
    match record.clone() {
        Record::PropSeen(n) => Event::Promised { instance: asked, n },
        Record::Accepted(n, value) => Event::Accepted { instance: asked, n, value },
        Record::Done(instance, value) => Event::Committed { instance, value },
        Record::Service(_) | Record::Disk(..) | Record::Starts(_) | Record::Lived => Event::DiskNoted,
        Record::Added(instance, member, _) => Event::Adding { instance, member },
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({})", self.me)
    }
}

#[cfg(test)]
#[path = "acceptor_tests.rs"]
mod tests;
