//! One value an instance, chosen by a majority of the view before; and what an acceptor has promised it keeps.
//!
//! Votes count for ever, also those of a node that has lost its disk since: what was chosen is chosen.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use yfs_paxos::events::Event;
use yfs_paxos::{Instance, ProposalNumber, Value};

use super::Violation;

/// The views, whoever knows them.
#[derive(Debug, Default)]
pub(super) struct Views {
    decided: BTreeMap<Instance, Value>,
    ballots: BTreeMap<Instance, BTreeMap<ProposalNumber, Ballot>>,
}

/// All that has to do with one number of an instance.
#[derive(Debug, Default)]
struct Ballot {
    /// Who promised it, and what each had accepted before.
    promises: BTreeMap<String, Option<(ProposalNumber, Value)>>,
    /// What is proposed with it, once somebody has voted for that.
    value: Option<Value>,
    votes: BTreeSet<String>,
}

impl Ballot {
    /// Whether a proposer that knows promises of a majority of `view` may propose `value`: that of the vote with the
    /// highest number among them, or any if there is none.
    fn may_propose(&self, value: &Value, view: &Value) -> bool {
        let promises = || self.promises.iter().filter(|(node, _)| view.contains(node)).map(|(_, accepted)| accepted);
        let without = promises().filter(|accepted| accepted.is_none()).count();
        is_majority(without, view)
            || promises().flatten().filter(|(_, accepted)| accepted.same_view(value)).any(|(highest, _)| {
                let up_to_it = promises().flatten().filter(|(n, _)| n <= highest).count();
                is_majority(without + up_to_it, view)
            })
    }

    fn is_chosen_by(&self, view: &Value) -> bool {
        is_majority(self.votes.iter().filter(|node| view.contains(node)).count(), view)
    }
}

/// Not [`Value::majority`]: that is what is looked at.
fn is_majority(some: usize, view: &Value) -> bool {
    2 * some > view.members().len()
}

/// What an acceptor has on its disk, at least.
#[derive(Debug, Default)]
pub(super) struct Votes {
    /// The last instance that it knows.
    instance: Instance,
    /// In the one after it.
    promised: Option<ProposalNumber>,
    accepted: Option<(ProposalNumber, Value)>,
}

fn forgotten<T>(what: String) -> Result<T, Violation> {
    Err(("vote-forgotten", what))
}

impl Views {
    pub(super) fn latest(&self) -> (Instance, Vec<String>) {
        self.decided.last_key_value().map_or((0, Vec::new()), |(vid, value)| (*vid, value.members().to_vec()))
    }

    pub(super) fn to_come(&self) -> Vec<Vec<String>> {
        let ballots = self.ballots.get(&(self.latest().0 + 1));
        let values = ballots.into_iter().flat_map(BTreeMap::values).filter_map(|ballot| ballot.value.as_ref());
        let views: BTreeSet<_> = values.map(|value| value.members().to_vec()).collect();
        views.into_iter().collect()
    }

    /// The view whose members vote in an instance. Unknown of the first one, which one node commits alone.
    pub(super) fn voters(&self, instance: Instance) -> Option<&Value> {
        self.decided.get(&instance.checked_sub(1)?)
    }

    pub(super) fn commit(&mut self, instance: Instance, value: &Value) -> Result<(), Violation> {
        match self.decided.get(&instance) {
            Some(known) if known.same_view(value) => return Ok(()),
            Some(known) => return Err(("two-values", format!("instance {instance}: {value}, elsewhere {known}"))),
            None => {}
        }
        let before = self.voters(instance);
        let after = instance.checked_add(1).and_then(|after| self.decided.get(&after));
        for (old, new) in [(before, Some(value)), (Some(value), after)] {
            if let (Some(old), Some(new)) = (old, new)
                && !new.may_follow(old)
            {
                return Err(("view-step", format!("instance {instance}: {new} comes after {old}")));
            }
        }
        if before.is_some() && !self.chosen(instance)?.is_some_and(|chosen| chosen.same_view(value)) {
            return Err(("decided-unchosen", format!("instance {instance}: no majority has voted for {value}")));
        }
        self.decided.insert(instance, value.clone());
        Ok(())
    }

    /// What a majority has voted for with one number. Every higher number has to stand for the same.
    fn chosen(&self, instance: Instance) -> Result<Option<&Value>, Violation> {
        let (Some(view), Some(ballots)) = (self.voters(instance), self.ballots.get(&instance)) else { return Ok(None) };
        let mut chosen = None;
        for (n, ballot) in ballots {
            let Some(value) = &ballot.value else { continue };
            match chosen {
                Some(chosen) if !value.same_view(chosen) => {
                    return Err((
                        "two-values",
                        format!("instance {instance}: {value} has votes as {n}, chosen is {chosen}"),
                    ));
                }
                None if ballot.is_chosen_by(view) => chosen = Some(value),
                _ => {}
            }
        }
        Ok(chosen)
    }

    pub(super) fn promise(&mut self, node: &str, instance: Instance, n: &ProposalNumber, votes: &Votes) {
        let ballot = self.ballots.entry(instance).or_default().entry(n.clone()).or_default();
        ballot.promises.insert(node.to_owned(), votes.accepted.clone());
    }

    pub(super) fn vote(
        &mut self,
        node: &str,
        instance: Instance,
        n: &ProposalNumber,
        value: &Value,
    ) -> Result<(), Violation> {
        let voters = self.voters(instance).cloned();
        let ballot = self.ballots.entry(instance).or_default().entry(n.clone()).or_default();
        match &ballot.value {
            Some(other) if !other.same_view(value) => {
                return Err((
                    "two-values",
                    format!("instance {instance}: {n} stands for {value}, elsewhere for {other}"),
                ));
            }
            Some(_) => {}
            None if voters.is_none_or(|view| ballot.may_propose(value, &view)) => ballot.value = Some(value.clone()),
            None => {
                let promises = &ballot.promises;
                let what = format!("instance {instance}: {value} is proposed as {n} after the promises {promises:?}");
                return Err(("wrong-proposal", what));
            }
        }
        ballot.votes.insert(node.to_owned());
        self.chosen(instance).map(|_| ())
    }

    /// A proposer is to add a member by its own word: a majority has promised that nothing was accepted before.
    fn adds(&self, node: &str, instance: Instance, member: &str) -> Result<(), Violation> {
        let (Some(view), Some(ballots)) = (self.voters(instance), self.ballots.get(&instance)) else { return Ok(()) };
        let last = ballots.iter().rev().find(|(n, _)| n.node == node);
        let free = last.map_or(0, |(_, ballot)| ballot.promises.values().filter(|accepted| accepted.is_none()).count());
        if 2 * free > view.members().len() {
            return Ok(());
        }
        let what =
            format!("instance {instance}: says that it adds {member}, and {free} of {view} have accepted nothing");
        Err(("added-by-another", what))
    }

    /// A replica speaks of a view that was decided.
    pub(super) fn is_known(&self, vid: u32, members: &[String]) -> Result<(), Violation> {
        match self.decided.get(&vid) {
            Some(known) if known.members() == members => Ok(()),
            known => Err(("two-values", format!("view {vid} is {members:?} here, decided is {known:?}"))),
        }
    }
}

/// Whether this says that something is on a disk that was to be written.
pub(super) fn is_durable(event: &dyn Any) -> bool {
    let written = |event| {
        matches!(
            event,
            &Event::Promised { .. }
                | &Event::Accepted { .. }
                | &Event::Committed { .. }
                | &Event::DiskNoted
                | &Event::Adding { .. }
        )
    };
    event.downcast_ref().is_some_and(written)
}

pub(super) fn take(views: &mut Views, votes: &mut Votes, node: &str, event: &Event) -> Result<(), Violation> {
    match event {
        Event::Restored { service, values, promised, accepted } => {
            if service.is_none() && !values.is_empty() {
                return Err(("service-unknown", "it knows views, and not the number of their service".to_owned()));
            }
            for (instance, value) in values {
                views.commit(*instance, value)?;
            }
            let instance = values.last().map_or(0, |(instance, _)| *instance);
            if instance < votes.instance {
                return forgotten(format!("it knows instance {instance}, it knew {}", votes.instance));
            }
            if instance == votes.instance && *promised < votes.promised {
                return forgotten(format!("promised: {promised:?}, before: {:?}", votes.promised));
            }
            let number = |accepted: &Option<(ProposalNumber, Value)>| accepted.as_ref().map(|(n, _)| n.clone());
            if instance == votes.instance && number(accepted) < number(&votes.accepted) {
                return forgotten(format!("accepted: {accepted:?}, before: {:?}", votes.accepted));
            }
            *votes = Votes { instance, promised: promised.clone(), accepted: accepted.clone() };
            // Its process may have died between the disk and the event.
            if let Some((n, value)) = accepted {
                views.vote(node, instance + 1, n, value)?;
            }
        }
        Event::Promised { instance, n } => {
            at_next(votes, *instance)?;
            if votes.promised.as_ref().is_some_and(|promised| n <= promised) {
                return forgotten(format!("instance {instance}: promises {n} after {:?}", votes.promised));
            }
            votes.promised = Some(n.clone());
            views.promise(node, *instance, n, votes);
        }
        Event::Accepted { instance, n, value } => {
            at_next(votes, *instance)?;
            if votes.promised.as_ref().is_some_and(|promised| n < promised) {
                return forgotten(format!("instance {instance}: accepts {n} after promising {:?}", votes.promised));
            }
            if let Some((_, other)) = votes.accepted.as_ref().filter(|(n_a, other)| n_a == n && other != value) {
                return forgotten(format!("instance {instance}: accepts {value} as {n}, which was {other}"));
            }
            votes.promised = Some(n.clone());
            votes.accepted = Some((n.clone(), value.clone()));
            views.vote(node, *instance, n, value)?;
        }
        Event::Committed { instance, value } => {
            views.commit(*instance, value)?;
            *votes = Votes { instance: *instance, ..Votes::default() };
        }
        Event::Adding { instance, member } => views.adds(node, *instance, member)?,
        Event::DiskNoted | Event::RoundBegun { .. } | Event::RoundRejected { .. } => {}
    }
    Ok(())
}

/// What was on disks of a node that were lost.
#[derive(Default)]
pub(super) struct LostDisks {
    votes: Vec<Votes>,
    /// Somebody has added the node since, by a round of its own.
    pub(super) added: bool,
}

impl LostDisks {
    pub(super) fn one_more(&mut self, votes: Option<Votes>) {
        self.votes.extend(votes);
        self.added = false;
    }

    /// The node votes only once it was added on its new disk, and never where it had voted before.
    pub(super) fn take(&self, event: &Event) -> Result<(), Violation> {
        let (Event::Promised { instance, .. } | Event::Accepted { instance, .. }) = event else { return Ok(()) };
        let mut before = self.votes.iter().filter(|votes| votes.instance + 1 == *instance);
        let what = match before.find_map(|votes| votes.promised.as_ref()) {
            Some(promised) => format!("votes in instance {instance}, and a lost disk had {promised}"),
            None if !self.added => format!("votes in instance {instance}, and nobody has added its new disk"),
            None => return Ok(()),
        };
        Err(("vote-after-lost-disk", what))
    }
}

/// Votes are given in the instance after the last one known.
fn at_next(votes: &Votes, instance: Instance) -> Result<(), Violation> {
    if instance == votes.instance + 1 {
        return Ok(());
    }
    Err(("voted-ahead", format!("votes in instance {instance}, and knows {}", votes.instance)))
}
