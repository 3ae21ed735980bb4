//! Changing views, and learning them from others (lab: `config::add`, `remove_wo`).
//!
//! A change is one round of Paxos for the view after the last one. It runs on the caller's thread, and only if a majority
//! has answered lately (config.rs, invariant 2); to find out, everybody is asked once.
//!
//! Learning: a node that is ahead answers a prepare with n = 0, which asks and promises nothing, with the value of an old
//! instance. (A lab node that isn't ahead takes it for a proposal, and promises a number below every real one.)

use std::sync::Weak;
use std::time::Duration;

use rt::probe::observe;
use rt::time::{Instant, now};
use yfs_paxos::protocol::{DISKREQ, PREPAREREQ, PaxosStatus, PrepareArg, PrepareRes};
use yfs_paxos::{DiskId, Instance, Outcome, ProposalNumber, ServiceId, Value};
use yfs_rpc::Client;

use crate::config::Config;
use crate::detector::FailureDetector;
use crate::events::Event;
use crate::view::ViewId;

/// The total time of one question while catching up.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

impl Config {
    /// Proposes view `vid + 1` with `new_m` as the last member, which is on `disk` (`None` for a lab node), if all members
    /// answer now: with one of them dead and not yet removed, a joiner that dies, too, could cost the majority. Blocks for
    /// at most a ping's time before the round.
    pub fn add(&self, new_m: &str, vid: ViewId, disk: Option<DiskId>) -> Outcome {
        let asked = now();
        if !self.probe(|detector, _| detector.has_all(asked)) && !rt::probe::weakened("L7-joiner-beside-the-dead") {
            return Outcome::NoMajority;
        }
        self.propose(Some(vid), disk.map(|disk| (new_m, disk)), |view| {
            observe(|| Event::Adding { vid, member: new_m.to_owned(), asked_ago: asked.elapsed() });
            view.with(new_m).ok()
        })
    }

    /// Whether `name`, on this disk, may vote from now on, as far as this node can tell: it was added to the view on this
    /// node's proposal, after it had asked for that, and has been a member since (rule 3).
    pub fn has_added(&self, name: &str, disk: DiskId) -> bool {
        self.acceptor.has_added(name, disk)
    }

    /// The disk of `name`, one of our nodes. `None`: it doesn't answer, or to another name.
    pub fn disk_of(&self, name: &str) -> Option<DiskId> {
        let client = self.handles.client(name).ok()?;
        let (status, disk) = client.call(DISKREQ, (name.to_owned(),), ASK_TIMEOUT).ok()?;
        (status == PaxosStatus::OK as i32).then_some(DiskId(disk))
    }

    /// Proposes the view without `m`, if a majority of that view answers now: else the next death, or one that hasn't been
    /// noticed, would end the service. Blocks for at most a ping's time before the round.
    pub fn remove(&self, m: &str) -> Outcome {
        let asked = now();
        if !self.probe(|detector, _| detector.leaves_majority(m, asked)) {
            return Outcome::NoMajority;
        }
        let role = self.state.lock().role;
        let may_go = |view: &Value| view.contains(m) && role.may_remove(view.members().len());
        self.propose(None, None, |view| may_go(view).then(|| view.without(m).ok()).flatten())
    }

    /// Proposes a view with the same members.
    pub fn propose_same(&self) -> Outcome {
        self.propose(None, None, |view| Some(view.clone()))
    }

    /// Runs one round for the view after the last one (which must be `vid`, if that is given).
    pub(crate) fn propose(
        &self,
        vid: Option<ViewId>,
        added: Option<(&str, DiskId)>,
        next: impl FnOnce(&Value) -> Option<Value>,
    ) -> Outcome {
        let Some((last, view)) = self.last_view() else { return Outcome::Impossible };
        if vid.is_some_and(|vid| vid != last) {
            return Outcome::Old;
        }
        let Some(value) = next(&view).filter(|_| view.contains(&self.options.me)) else { return Outcome::Impossible };
        if !self.check_majority() && !rt::probe::weakened("L2-numbers-crawl") {
            return Outcome::NoMajority;
        }
        let outcome = self.proposer.run_to_add(last.next().0, &view, &value, added);
        if outcome.is_decided() {
            self.wait_for(last.next());
        }
        outcome
    }

    /// Whether `enough` holds of the answers had lately, after asking everybody if need be.
    pub(crate) fn probe(&self, enough: impl Fn(&FailureDetector, Instant) -> bool) -> bool {
        let deadline = now() + self.options.timing.ping_timeout;
        let everybody = {
            let state = self.state.lock();
            if enough(&state.detector, now()) {
                return true;
            }
            state.detector.everybody()
        };
        everybody.iter().for_each(|peer| self.doheartbeat(peer));
        let mut state = self.state.lock();
        while !state.stopping && !enough(&state.detector, now()) {
            if !self.changed.wait_until(&mut state, deadline) {
                break;
            }
        }
        enough(&state.detector, now())
    }

    /// Whether a majority of the view answers now; tells operators if that has changed. Blocks for at most a ping's time.
    pub(crate) fn check_majority(&self) -> bool {
        let present = self.probe(FailureDetector::has_majority);
        self.note_majority(present);
        present
    }

    /// Tells the layer above if a majority was lost, or is back.
    pub(crate) fn note_majority(&self, present: bool) {
        let change = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.majority, present) == present {
                return;
            }
            state.change.as_ref().and_then(Weak::upgrade)
        };
        if present {
            tracing::info!(node = %self.options.me, "a majority answers again");
        } else {
            tracing::warn!(node = %self.options.me, "no majority of the view answers: no view can be formed");
        }
        if let Some(change) = change {
            change.majority_changed(present);
        }
    }

    /// Asks `name` for the views after the last one, as long as it is believed ([`Config::believes`]) and knows more; of a
    /// lab node only one is asked for. Blocks. Returns the last view's number.
    pub fn catch_up_from(&self, name: &str) -> ViewId {
        while self.ask_for_next(name) && self.is_ours(name) {}
        self.vid()
    }

    /// Whether `name` is known to be no lab node: it has told so when this node's client bound to it.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        self.handles.client(name).is_ok_and(|client| client.bind(ASK_TIMEOUT).is_ok() && client.is_ours() == Some(true))
    }

    /// Asks the node of `client`, one of ours through which this node would join, for the number of its service, if it knows
    /// one. An error says why this node may not join through it: it must know this node's last view, as this node does. Not
    /// for lab nodes: they may stop at a question about a later view.
    ///
    /// # Errors
    /// Why not, in words for operators.
    pub fn service_of(&self, client: &Client) -> Result<Option<ServiceId>, &'static str> {
        let last = self.last_view();
        let instance = last.as_ref().map_or(1, |(vid, _)| vid.0);
        let (_, res) = self.ask_for(client, instance).ok_or("it doesn't answer")?;
        let Some((_, view)) = last else { return Ok(res.service()) };
        let theirs = Value::parse(&res.v_a).ok().filter(|_| res.oldinstance);
        match theirs {
            None => Err("it doesn't know this node's last view: it is behind, or of another service"),
            Some(theirs) if !theirs.same_view(&view) || self.acceptor.is_of_this_service(&res) == Some(false) => {
                Err("it is of another service: has this node another one's files, or that one lost its disk?")
            }
            Some(_) => Ok(res.service()),
        }
    }

    /// Whether the node of `client`, one of ours, has views of another service than this node's, as far as both know.
    pub fn is_foreign(&self, client: &Client) -> bool {
        self.ask_for(client, 1).is_some_and(|(_, res)| self.acceptor.is_of_this_service(&res) == Some(false))
    }

    /// Tells operators if `name`, which stays behind, has views of another service.
    pub(crate) fn note_if_foreign(&self, name: &str) {
        let told = self.state.lock().told_foreign.contains(name);
        if !told && self.is_ours(name) && self.handles.client(name).is_ok_and(|client| self.is_foreign(&client)) {
            self.note_foreign(name, 1);
        }
    }

    /// A prepare with n = 0: it asks for a value, and for nothing else.
    fn ask_for(&self, client: &Client, instance: Instance) -> Option<(i32, PrepareRes)> {
        let arg = PrepareArg { instance, n: ProposalNumber { n: 0, node: self.options.me.clone() } };
        client.call(PREPAREREQ, (self.options.me.clone(), arg), ASK_TIMEOUT).ok()
    }

    /// Tells operators, once for each, that a node which is believed is of another service.
    fn note_foreign(&self, name: &str, instance: Instance) {
        if self.state.lock().told_foreign.insert(name.to_owned()) {
            tracing::error!(node = %self.options.me, peer = name, vid = instance, "this node's views are of another service \
                than that one's: one of both has lost its disk, and began anew. It has to be stopped, its files moved away, \
                and started again to join the other one");
        }
    }

    /// One step of catching up: true if `name` is believed, and knew the next view.
    pub(crate) fn ask_for_next(&self, name: &str) -> bool {
        let (instance, alone) = {
            let state = self.state.lock();
            if !state.believes(name) {
                return false;
            }
            (state.views.vid().next().0, state.is_alone(&self.options.me))
        };
        let Ok(client) = self.handles.client(name) else { return false };
        match self.ask_for(&client, instance) {
            Some((status, res)) if status == PaxosStatus::OK as i32 && res.oldinstance => {
                let ours = client.is_ours() != Some(false);
                let same = ours.then(|| self.acceptor.is_of_this_service(&res)).flatten();
                if same == Some(false) || alone && same.is_none() {
                    self.note_foreign(name, instance);
                    return false;
                }
                let committed = self.acceptor.commit(instance, &res.v_a);
                if committed {
                    tracing::debug!(node = %self.options.me, peer = name, vid = instance, "caught up");
                    self.wait_for(ViewId(instance));
                }
                committed
            }
            _ => false,
        }
    }
}
