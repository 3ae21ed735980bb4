//! What one node has promised, accepted and learnt, and how it answers (lab: `class acceptor`, without its shell).
//!
//! Pure: no I/O, no lock, no clock. Each input returns a [`Step`]: the answer, and the record that must be on the disk
//! before the answer leaves.
//!
//! Invariants:
//! 1. `views` has no gap; its last key is the node's last instance. Promise and accepted value belong to the next one.
//! 2. A promise is never taken back: while the instance lasts, `promised` only grows. Accepting n promises n.
//! 3. Votes are given only in instance last + 1, only to a member of the last view who proposes under its own name, and
//!    only for values that may follow it ([`Value::may_follow`]). A node that knows no view casts no vote.
//! 4. An instance's value never changes once it is known.
//!
//! Deviations from the lab: it votes in any instance and for anybody, so that promises given ahead are lost when the
//! views between are learnt, and a stranger's number can poison it (S7, S13). It takes an empty value for "nothing
//! accepted" (H6: here it is an `Option`), and stops on a decide that it doesn't expect (H16: here such a decide is
//! committed if it is for the next instance, otherwise refused).
//!
//! Left out: dropping the oldest views (H22). `views` may begin anywhere, so a shorter log can be read.

use std::collections::BTreeMap;

use crate::protocol::{AcceptArg, DecideArg, PaxosStatus, PrepareArg, PrepareRes};
use crate::record::{DiskId, Record, RestoreError, ServiceId, parse_text};
use crate::{Instance, ProposalNumber, Value};

/// An acceptor's answer, and what comes before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step<R> {
    /// To be on the disk before the answer leaves.
    pub record: Option<Record>,
    /// The answer's status.
    pub status: PaxosStatus,
    /// The answer.
    pub result: R,
    /// The sender speaks of an instance beyond the next one.
    pub behind: bool,
}

impl<R> Step<R> {
    fn ok(result: R) -> Self {
        Step { record: None, status: PaxosStatus::OK, result, behind: false }
    }

    fn refuse(result: R) -> Self {
        Step { record: None, status: PaxosStatus::ERR, result, behind: false }
    }
}

/// An acceptor's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptorState {
    me: String,
    #[doc(alias = "values")]
    views: BTreeMap<Instance, Value>,
    #[doc(alias = "n_h")]
    promised: Option<ProposalNumber>,
    #[doc(alias = "n_a")]
    accepted: Option<(ProposalNumber, Value)>,
    /// `None` in a log of the lab, or of a node that joined through one of the lab.
    service: Option<ServiceId>,
    disk: Option<DiskId>,
    /// See [`Record::Starts`]; `None` if the log doesn't say.
    starts: Option<u32>,
    /// See [`Record::Lived`].
    lived: bool,
    /// Nodes of the last view, and those that are to be added in the next: see [`Record::Added`].
    added: BTreeMap<String, (Instance, DiskId)>,
}

impl AcceptorState {
    /// A node that knows nothing yet.
    pub fn new(me: &str) -> Self {
        AcceptorState {
            me: me.to_owned(),
            views: BTreeMap::new(),
            promised: None,
            accepted: None,
            service: None,
            disk: None,
            starts: None,
            lived: false,
            added: BTreeMap::new(),
        }
    }

    /// The number of the service, if it is known.
    pub fn service(&self) -> Option<ServiceId> {
        self.service
    }

    /// The number of this node's disk, once its log has one.
    pub fn disk(&self) -> Option<DiskId> {
        self.disk
    }

    /// How many lives before this one were short, one after the other.
    pub fn short_lives(&self) -> u32 {
        self.starts.unwrap_or(0)
    }

    /// How many short lives came before the last one that counts, if that was a short one.
    pub(crate) fn counted(&self) -> Option<u32> {
        self.starts.filter(|_| !self.lived)
    }

    #[cfg(test)]
    pub(crate) fn without_disk(self) -> Self {
        AcceptorState { disk: None, starts: None, lived: false, ..self }
    }

    /// Whether a node on this disk may vote in the instances to come, as far as this node's rounds show (rule 3).
    pub fn has_added(&self, node: &str, disk: DiskId) -> bool {
        let Some((since, _)) = self.added.get(node).filter(|(_, added)| *added == disk) else { return false };
        let mut views = (*since..=self.instance()).map(|instance| self.views.get(&instance));
        *since <= self.instance() && views.all(|view| view.is_some_and(|view| view.contains(node)))
    }

    /// The last decided instance; 0 if there is none.
    #[doc(alias = "instance_h")]
    pub fn instance(&self) -> Instance {
        self.views.last_key_value().map_or(0, |(instance, _)| *instance)
    }

    /// The value of an instance, if it is known.
    pub fn value(&self, instance: Instance) -> Option<&Value> {
        self.views.get(&instance)
    }

    /// All known instances and their values.
    pub fn views(&self) -> &BTreeMap<Instance, Value> {
        &self.views
    }

    /// The highest number promised in the next instance.
    pub fn promised(&self) -> Option<&ProposalNumber> {
        self.promised.as_ref()
    }

    /// The value accepted last in the next instance.
    pub fn accepted(&self) -> Option<&(ProposalNumber, Value)> {
        self.accepted.as_ref()
    }

    /// Whether nothing has ever been promised, accepted or learnt: the node of an empty log.
    pub fn is_new(&self) -> bool {
        self.views.is_empty() && self.promised.is_none() && self.accepted.is_none()
    }

    fn last_view(&self) -> Option<&Value> {
        self.views.last_key_value().map(|(_, value)| value)
    }

    fn is_in_last_view(&self, node: &str) -> bool {
        self.last_view().is_some_and(|view| view.contains(node))
    }

    /// Where `instance` lies. `None` for one that can't be voted on by anybody: 0, or one after the last number.
    fn place(&self, instance: Instance) -> Option<std::cmp::Ordering> {
        let next = self.instance().checked_add(1)?;
        (instance != 0).then(|| instance.cmp(&next))
    }

    /// As [`AcceptorState::place`], for a vote.
    fn place_of_vote(&self, instance: Instance) -> Option<std::cmp::Ordering> {
        let place = self.place(instance)?;
        Some(if rt::probe::weakened("S7-votes-ahead") { place.min(std::cmp::Ordering::Equal) } else { place })
    }

    /// Answers [`crate::protocol::PREPAREREQ`].
    #[doc(alias = "preparereq")]
    pub fn prepare(&mut self, src: &str, arg: &PrepareArg) -> Step<PrepareRes> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let nothing = PrepareRes { n_a: ProposalNumber { n: 0, node: self.me.clone() }, ..PrepareRes::default() };
        match self.place_of_vote(arg.instance) {
            Some(Less) => match self.views.get(&arg.instance) {
                Some(value) => Step::ok(PrepareRes::old(self.service, &self.me, value)),
                None => Step::refuse(nothing),
            },
            Some(Equal) if arg.n.n == 0 => Step::ok(nothing),
            Some(Equal) if !self.may_propose(src, &arg.n) => Step::refuse(nothing),
            Some(Equal) if self.promised.as_ref().is_some_and(|promised| arg.n <= *promised) => Step::ok(nothing),
            Some(Equal) => {
                self.promised = Some(arg.n.clone());
                let res = match &self.accepted {
                    Some((n_a, v_a)) => {
                        PrepareRes { accept: true, n_a: n_a.clone(), v_a: v_a.as_str().to_owned(), ..nothing }
                    }
                    None => PrepareRes { accept: true, ..nothing },
                };
                Step { record: Some(Record::PropSeen(arg.n.clone())), ..Step::ok(res) }
            }
            Some(Greater) => Step { behind: true, ..Step::refuse(nothing) },
            None => Step::refuse(nothing),
        }
    }

    /// Whether `src` may propose with this number (invariant 3).
    fn may_propose(&self, src: &str, n: &ProposalNumber) -> bool {
        self.is_in_last_view(src) && n.node == src || rt::probe::weakened("S13-strangers-count")
    }

    fn has_promised_above(&self, n: &ProposalNumber) -> bool {
        let promised = self.promised.as_ref().filter(|_| !rt::probe::weakened("mutant-promise-unchecked"));
        promised.is_some_and(|promised| n < promised)
    }

    /// Answers [`crate::protocol::ACCEPTREQ`].
    #[doc(alias = "acceptreq")]
    pub fn accept(&mut self, src: &str, arg: &AcceptArg) -> Step<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self.place_of_vote(arg.instance) {
            Some(Less) => Step::ok(false),
            Some(Equal) if !self.may_propose(src, &arg.n) || arg.n.n == 0 => Step::refuse(false),
            Some(Equal) if self.has_promised_above(&arg.n) => Step::ok(false),
            Some(Equal) => {
                let Some(value) = self.next_value(&arg.v) else { return Step::refuse(false) };
                // Asked again: it's on the disk already. A number stands for one value.
                if let Some((_, accepted)) = self.accepted.as_ref().filter(|(n_a, _)| *n_a == arg.n) {
                    return Step::ok(*accepted == value);
                }
                self.promised = Some(arg.n.clone());
                self.accepted = Some((arg.n.clone(), value.clone()));
                Step { record: Some(Record::Accepted(arg.n.clone(), value)), ..Step::ok(true) }
            }
            Some(Greater) => Step { behind: true, ..Step::refuse(false) },
            None => Step::refuse(false),
        }
    }

    /// Answers [`crate::protocol::DECIDEREQ`]. With a [`Record::Done`] in the step, the value has been committed.
    #[doc(alias = "decidereq")]
    pub fn decide(&mut self, src: &str, arg: &DecideArg) -> Step<i32> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let member = self.is_in_last_view(src);
        match self.place(arg.instance) {
            // Late, and old news.
            Some(Less) => match (self.views.get(&arg.instance), Value::parse(&arg.v)) {
                (Some(known), Ok(told)) if known.same_view(&told) => Step::ok(0),
                _ => Step::refuse(0),
            },
            Some(Equal) if member => match self.learn(arg.instance, &arg.v) {
                Some(record) => Step { record: Some(record), ..Step::ok(0) },
                None => Step::refuse(0),
            },
            Some(Greater) => {
                assert!(!rt::probe::weakened("H16-decide-stops"), "a decide after a gap");
                Step { behind: true, ..Step::refuse(0) }
            }
            Some(Equal) | None => Step::refuse(0),
        }
    }

    /// Takes over the value of instance last + 1, which somebody trusted says is decided. `None`: it isn't the next
    /// instance, or no value that may be.
    #[doc(alias = "commit")]
    pub fn learn(&mut self, instance: Instance, text: &str) -> Option<Record> {
        if self.place(instance) != Some(std::cmp::Ordering::Equal) {
            return None;
        }
        let value = self.next_value(text)?;
        self.commit(instance, value.clone());
        Some(Record::Done(instance, value))
    }

    /// The value that `text` is, if it may be that of the next instance.
    fn next_value(&self, text: &str) -> Option<Value> {
        let value = Value::parse(text).ok()?;
        let may_follow = |last: &Value| value.may_follow(last) || rt::probe::weakened("S7-votes-ahead");
        self.last_view().is_none_or(may_follow).then_some(value)
    }

    fn commit(&mut self, instance: Instance, value: Value) {
        let before = self.views.insert(instance, value);
        assert!(before.is_none(), "invariant 4: the value of instance {instance} was known");
        self.promised = None;
        self.accepted = None;
        if let Some(view) = self.views.get(&instance) {
            self.added.retain(|node, _| view.contains(node));
        }
    }

    /// Takes over what another node's log has decided beyond this one's; its promises and votes are not this node's
    /// (H27). Returns the records to write. On an error nothing has changed.
    ///
    /// # Errors
    /// When the text isn't a log that goes on where this one ends.
    pub fn restore(&mut self, text: &str) -> Result<Vec<Record>, RestoreError> {
        let mut after = self.clone();
        let mut missing = Vec::new();
        let mut before: Option<Instance> = None;
        for record in parse_text(text)? {
            let Record::Done(instance, value) = &record else { continue };
            let expected = before.map_or(*instance, |i| i.saturating_add(1));
            if *instance != expected {
                return Err(RestoreError::Sequence { expected, found: *instance });
            }
            before = Some(*instance);
            match after.views.get(instance) {
                Some(known) if known.same_view(value) => {}
                Some(_) => return Err(RestoreError::OtherValue(*instance)),
                // Older than what a shortened log begins with.
                None if *instance <= after.instance() => {}
                None if !after.views.is_empty() && *instance != after.instance().saturating_add(1) => {
                    return Err(RestoreError::Sequence { expected: after.instance() + 1, found: *instance });
                }
                None => {
                    if after.last_view().is_some_and(|last| !value.may_follow(last)) {
                        return Err(RestoreError::Step(*instance));
                    }
                    after.commit(*instance, value.clone());
                    missing.push(record);
                }
            }
        }
        if rt::probe::weakened("H27-join-forgets-promises") {
            (after.promised, after.accepted) = (None, None);
        }
        *self = after;
        Ok(missing)
    }

    /// Takes over a record of this node's own log, at its start.
    ///
    /// # Errors
    /// What is wrong with it.
    #[doc(alias = "logread")]
    pub fn replay(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::PropSeen(_) if rt::probe::weakened("mutant-promise-not-read") => {}
            Record::Accepted(..) if rt::probe::weakened("mutant-vote-not-read") => {}
            Record::PropSeen(n) => self.promised = self.promised.take().max(Some(n)),
            Record::Accepted(n, value) => {
                self.promised = self.promised.take().max(Some(n.clone()));
                if self.accepted.as_ref().is_none_or(|(n_a, _)| *n_a <= n) {
                    self.accepted = Some((n, value));
                }
            }
            Record::Done(instance, value) => {
                if !self.views.is_empty() && Some(instance) != self.instance().checked_add(1) {
                    return Err(format!("instance {instance} comes after {}", self.instance()));
                }
                self.commit(instance, value);
            }
            Record::Service(service) => self.service = Some(service),
            Record::Disk(disk, _) => self.disk = Some(disk),
            Record::Starts(short) => (self.starts, self.lived) = (Some(short), false),
            Record::Lived => self.lived = true,
            Record::Added(instance, node, disk) => {
                self.added.insert(node, (instance, disk));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
