//! When nodes propose: with a majority that answers, not too often, with numbers that get through, and nobody's removal
//! for nothing.
//!
//! Times are the run's own, those of the code are of a node's clock, which may be a tenth faster.

use std::collections::BTreeMap;
use std::time::Duration;

use rt::time::Instant;
use yfs_config::Timing;
use yfs_config::detector::Reason;
use yfs_config::events::Event;
use yfs_paxos::Instance;
use yfs_paxos::events::Event as Paxos;

use super::Violation;
use super::paxos::Views;

/// An answer counts for a second ([`Timing::lately`]). So much more is for what comes between looking and beginning.
const SLACK: Duration = Duration::from_millis(500);

/// A node may be stopped between looking whether a majority answers and beginning a round; not so often in a row.
const ROUNDS_ALONE: u32 = 2;

/// After a rejection a number doubles, up to here; then it grows by so much.
const MAX_DOUBLINGS: u32 = 16;

/// What a process has done since its start.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// When each peer answered last.
    answered: BTreeMap<String, Instant>,
    /// When it last began to ask who is well.
    probing: Option<Instant>,
    /// The last view it knows, and since when.
    view: Option<(Instance, Instant)>,
    /// How often it was rejected in an instance.
    rejected: (Instance, u32),
    /// How many rounds in a row it has begun without a majority in an instance.
    alone: (Instance, u32),
    /// How often its heartbeater has failed in a view, and when the last time.
    failed: Option<(Instance, u32, Instant)>,
}

/// What a node with the fastest clock that there is takes for `time`.
fn at_least(time: Duration) -> Duration {
    time * 9 / 10
}

impl Rounds {
    /// A proposer or acceptor reports.
    pub(super) fn paxos(&mut self, views: &Views, node: &str, event: &Paxos, now: Instant) -> Result<(), Violation> {
        let last = match event {
            Paxos::RoundBegun { instance, n } => return self.begins(views, node, *instance, *n, now),
            Paxos::RoundRejected { instance } => {
                let (before, times) = self.rejected;
                self.rejected = (*instance, if before == *instance { times + 1 } else { 1 });
                return Ok(());
            }
            Paxos::Restored { values, .. } => values.last().map_or(0, |(instance, _)| *instance),
            Paxos::Committed { instance, .. } => *instance,
            Paxos::Promised { .. } | Paxos::Accepted { .. } | Paxos::DiskNoted | Paxos::Adding { .. } => {
                return Ok(());
            }
        };
        if self.view.is_none_or(|(known, _)| known != last) {
            self.view = Some((last, now));
        }
        Ok(())
    }

    fn begins(&mut self, views: &Views, node: &str, instance: Instance, n: u32, now: Instant) -> Result<(), Violation> {
        let (rejected_in, times) = self.rejected;
        if rejected_in == instance && n >> times.min(MAX_DOUBLINGS) == 0 {
            let what = format!("begins a round of instance {instance} with {n} after {times} rejections");
            return Err(("numbers-crawl", what));
        }
        let lately = Timing::default().lately * 11 / 10 + SLACK;
        let answers = |peer: &String| self.answered.get(peer).is_some_and(|at| now - *at <= lately);
        let Some(view) = views.voters(instance) else { return Ok(()) };
        let present = view.members().iter().filter(|member| *member == node || answers(member)).count();
        let (before, alone) = self.alone;
        self.alone = match (2 * present > view.members().len(), before == instance) {
            (true, _) => (instance, 0),
            (false, true) => (instance, alone + 1),
            (false, false) => (instance, 1),
        };
        if self.alone.1 < ROUNDS_ALONE {
            return Ok(());
        }
        let what = format!("begins one more round of instance {instance}, though only {present} of {view} answer");
        Err(("round-alone", what))
    }

    /// Config reports.
    pub(super) fn config(&mut self, views: &Views, node: &str, event: &Event, now: Instant) -> Result<(), Violation> {
        if let Event::Removing { vid, member, .. } = event
            && let Some(view) = views.voters(vid.0 + 1)
        {
            let rest: Vec<&String> = view.members().iter().filter(|name| *name != member).collect();
            let answers = |name: &String| name == node || self.answered.get(name).copied() >= self.probing;
            let well = rest.iter().filter(|name| answers(name)).count();
            if self.probing.is_none() || 2 * well <= rest.len() {
                let what = format!("{member} is to leave view {vid}, and {well} of {rest:?} have answered just now");
                return Err(("unguarded-removal", what));
            }
        }
        match event {
            Event::Probing => self.probing = Some(now),
            Event::Answered { peer } => drop(self.answered.insert(peer.clone(), now)),
            // It is behind the view that the proposer is in: for so long, so that view is as old.
            Event::Removing { vid, member, reason: Reason::Behind } => {
                let patience = at_least(Timing::default().mismatch);
                if let Some((_, since)) = self.view.filter(|(last, since)| *last == vid.0 && now - *since < patience) {
                    let age = now - since;
                    let what = format!("view {vid} is to be left by {member} for being behind it, and is {age:?} old");
                    return Err(("needless-removal", what));
                }
            }
            Event::Removing { .. } => {}
            Event::Adding { vid, member, asked_ago } => {
                // Its clock may be a tenth slower.
                let (asked, view) = (*asked_ago * 9 / 8, views.voters(vid.0 + 1));
                let answers = |name: &&String| self.answered.get(*name).is_some_and(|at| now - *at <= asked);
                let others = view.iter().flat_map(|view| view.members()).filter(|name| *name != node);
                if let Some(silent) = others.into_iter().find(|name| !answers(name)) {
                    let what = format!("{member} is to follow view {vid}, and {silent} hasn't answered just now");
                    return Err(("unguarded-addition", what));
                }
            }
            Event::Failed { vid } => {
                let before = self.failed.filter(|(before, ..)| *before == vid.0);
                let times = before.map_or(1, |(_, times, _)| times + 1);
                self.failed = Some((vid.0, times, now));
                if let Some((_, times, last)) = before
                    && now - last < at_least(shortest_pause(times))
                {
                    let pause = now - last;
                    return Err(("no-back-off", format!("fails in view {vid} again, {pause:?} after time {times}")));
                }
            }
        }
        Ok(())
    }
}

/// The shortest pause after a node has failed so often in a view: half of what doubles each time.
fn shortest_pause(times: u32) -> Duration {
    let Timing { back_off, max_back_off, .. } = Timing::default();
    (back_off * (1 << times.saturating_sub(1).min(16))).min(max_back_off) / 2
}
