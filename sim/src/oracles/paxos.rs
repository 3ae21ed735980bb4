//! One value an instance, and what an acceptor has promised it keeps.

use std::collections::BTreeMap;

use yfs_paxos::events::Event;
use yfs_paxos::{Instance, ProposalNumber, Value};

use super::Violation;

/// The views, whoever knows them.
#[derive(Debug, Default)]
pub(super) struct Views {
    decided: BTreeMap<Instance, Value>,
    /// What has got votes in the instance after the last one decided.
    voted_for: Vec<(Instance, Value)>,
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
        let next = self.latest().0 + 1;
        let voted_for = self.voted_for.iter().filter(|(instance, _)| *instance == next);
        voted_for.map(|(_, value)| value.members().to_vec()).collect()
    }

    fn commit(&mut self, instance: Instance, value: &Value) -> Result<(), Violation> {
        match self.decided.get(&instance) {
            Some(known) if known.same_view(value) => return Ok(()),
            Some(known) => return Err(("two-values", format!("instance {instance}: {value}, elsewhere {known}"))),
            None => {}
        }
        let before = instance.checked_sub(1).and_then(|before| self.decided.get(&before));
        let after = instance.checked_add(1).and_then(|after| self.decided.get(&after));
        for (old, new) in [(before, Some(value)), (Some(value), after)] {
            if let (Some(old), Some(new)) = (old, new)
                && !new.may_follow(old)
            {
                return Err(("view-step", format!("instance {instance}: {new} comes after {old}")));
            }
        }
        self.decided.insert(instance, value.clone());
        self.voted_for.retain(|(voted, _)| *voted > instance);
        Ok(())
    }

    fn vote(&mut self, instance: Instance, value: &Value) {
        let known = |(voted, other): &(Instance, Value)| *voted == instance && other.same_view(value);
        if instance > self.latest().0 && !self.voted_for.iter().any(known) {
            self.voted_for.push((instance, value.clone()));
        }
    }

    /// A replica speaks of a view that was decided.
    pub(super) fn is_known(&self, vid: u32, members: &[String]) -> Result<(), Violation> {
        match self.decided.get(&vid) {
            Some(known) if known.members() == members => Ok(()),
            known => Err(("two-values", format!("view {vid} is {members:?} here, decided is {known:?}"))),
        }
    }
}

pub(super) fn take(views: &mut Views, votes: &mut Votes, event: &Event) -> Result<(), Violation> {
    match event {
        Event::Restored { values, promised, accepted } => {
            for (instance, value) in values {
                views.commit(*instance, value)?;
            }
            let instance = values.last().map_or(0, |(instance, _)| *instance);
            if instance < votes.instance {
                return forgotten(format!("it knows instance {instance}, it knew {}", votes.instance));
            }
            if instance == votes.instance && *promised < votes.promised {
                return forgotten(format!("promised: {promised:?}, before the start: {:?}", votes.promised));
            }
            let number = |accepted: &Option<(ProposalNumber, Value)>| accepted.as_ref().map(|(n, _)| n.clone());
            if instance == votes.instance && number(accepted) < number(&votes.accepted) {
                return forgotten(format!("accepted: {accepted:?}, before the start: {:?}", votes.accepted));
            }
            *votes = Votes { instance, promised: promised.clone(), accepted: accepted.clone() };
            if let Some((_, value)) = accepted {
                views.vote(instance + 1, value);
            }
        }
        Event::Promised { instance, n } => {
            at_next(votes, *instance)?;
            if votes.promised.as_ref().is_some_and(|promised| n <= promised) {
                return forgotten(format!("instance {instance}: promises {n} after {:?}", votes.promised));
            }
            votes.promised = Some(n.clone());
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
            views.vote(*instance, value);
        }
        Event::Committed { instance, value } => {
            views.commit(*instance, value)?;
            *votes = Votes { instance: *instance, ..Votes::default() };
        }
    }
    Ok(())
}

/// Votes are given in the instance after the last one known.
fn at_next(votes: &Votes, instance: Instance) -> Result<(), Violation> {
    if instance == votes.instance + 1 {
        return Ok(());
    }
    forgotten(format!("votes in instance {instance} after {}", votes.instance))
}
