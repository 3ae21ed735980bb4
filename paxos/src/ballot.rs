//! One round's votes (lab: the local variables of `proposer::run`, `prepare` and `accept`).
//!
//! Pure. The proposer feeds it the acceptors' answers; it says when a majority is there and which value to propose.
//!
//! Invariants:
//! 1. Only members of the instance's old view are counted, each once: a majority is of all its members, silent ones too.
//! 2. If any promise reported an accepted value, the value proposed is the one with the highest number; only otherwise
//!    it is the proposer's own.
//! 3. Only who promised is asked to accept (lab), so a lab node is never told a decided value that it didn't accept.

use std::collections::BTreeSet;

use yfs_rpc::CallError;

use crate::protocol::{PaxosStatus, PrepareRes};
use crate::{ProposalNumber, Value};

/// The votes of one round.
#[derive(Clone, Debug)]
pub struct Ballot {
    view: Value,
    proposed: Value,
    inherited: Option<(ProposalNumber, Value)>,
    decided: Option<Value>,
    promised: BTreeSet<String>,
    accepted: BTreeSet<String>,
    /// Who said no, or didn't answer, in the step under way.
    lost: BTreeSet<String>,
    outvoted: bool,
}

impl Ballot {
    /// A round among the members of `view` that proposes `proposed`.
    pub fn new(view: Value, proposed: Value) -> Self {
        Ballot {
            view,
            proposed,
            inherited: None,
            decided: None,
            promised: BTreeSet::new(),
            accepted: BTreeSet::new(),
            lost: BTreeSet::new(),
            outvoted: false,
        }
    }

    /// The view whose members vote.
    pub fn view(&self) -> &Value {
        &self.view
    }

    /// Counts an answer to prepare.
    pub fn promise(&mut self, from: &str, answer: Result<(i32, PrepareRes), CallError>) {
        if !self.view.contains(from) {
            return;
        }
        let res = match answer {
            Ok((status, res)) if status == PaxosStatus::OK as i32 => res,
            _ => {
                self.lost.insert(from.to_owned());
                return;
            }
        };
        // An empty text is no value, and then it means "none" (H6).
        let value = match res.v_a.as_str() {
            "" => None,
            text => match Value::parse(text) {
                Ok(value) if value.may_follow(&self.view) => Some(value),
                _ => {
                    self.lost.insert(from.to_owned());
                    return;
                }
            },
        };
        match (res.oldinstance, value) {
            (true, Some(value)) => self.decided = Some(value),
            (true, None) => drop(self.lost.insert(from.to_owned())),
            (false, value) if res.accept => {
                self.promised.insert(from.to_owned());
                if let Some(value) = value
                    && !rt::probe::weakened("mutant-nothing-inherited")
                    && self
                        .inherited
                        .as_ref()
                        .is_none_or(|(n, _)| (*n < res.n_a) != rt::probe::weakened("mutant-lowest-inherited"))
                {
                    self.inherited = Some((res.n_a, value));
                }
            }
            (false, _) => {
                self.outvoted = true;
                self.lost.insert(from.to_owned());
            }
        }
    }

    /// Counts an answer to accept.
    pub fn accept(&mut self, from: &str, answer: Result<(i32, bool), CallError>) {
        if !self.promised.contains(from) {
            return;
        }
        match answer {
            Ok((status, yes))
                if status == PaxosStatus::OK as i32 && (yes || rt::probe::weakened("mutant-any-answer-accepts")) =>
            {
                self.accepted.insert(from.to_owned());
            }
            answer => {
                self.outvoted |= answer.is_ok();
                self.lost.insert(from.to_owned());
            }
        }
    }

    /// To be called between the two steps.
    pub fn end_of_prepare(&mut self) {
        self.lost.clear();
        self.outvoted = false;
    }

    /// The instance's value, if an acceptor said that it is decided already.
    pub fn decided(&self) -> Option<&Value> {
        self.decided.as_ref()
    }

    /// A majority has promised.
    pub fn is_prepared(&self) -> bool {
        self.promised.len() >= self.view.majority()
    }

    /// A majority has accepted: the value is chosen.
    pub fn is_chosen(&self) -> bool {
        let twice = usize::from(rt::probe::weakened("mutant-own-vote-twice"));
        self.accepted.len() + twice >= self.view.majority()
    }

    /// So many are lost that this step can't get a majority any more.
    pub fn is_lost(&self) -> bool {
        self.view.members().len() - self.lost.len() < self.view.majority()
    }

    /// Somebody has promised a higher number to another proposer.
    pub fn is_outvoted(&self) -> bool {
        self.outvoted
    }

    /// The value to be accepted (invariant 2).
    pub fn value(&self) -> &Value {
        self.inherited.as_ref().map_or(&self.proposed, |(_, value)| value)
    }

    /// Whether [`Ballot::value`] is an earlier proposal's and not this round's own.
    pub fn is_inherited(&self) -> bool {
        self.inherited.is_some()
    }

    /// Who promised.
    pub fn promised(&self) -> &BTreeSet<String> {
        &self.promised
    }

    /// Who accepted.
    pub fn accepted(&self) -> &BTreeSet<String> {
        &self.accepted
    }
}

#[cfg(test)]
#[path = "ballot_tests.rs"]
mod tests;
