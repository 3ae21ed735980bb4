//! What many runs came to, and its form on the way from a worker.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::run::Outcome;

/// What a run came to, in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The run's seed.
    pub seed: u64,
    /// Requests acknowledged.
    pub acknowledged: u64,
    /// The last view.
    pub views: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Turns of threads.
    pub turns: u64,
    /// The run's hash.
    pub hash: u64,
    /// It ended early, with too many disks lost.
    pub cut_short: bool,
    /// What is wrong.
    pub finding: Option<String>,
}

impl From<&Outcome> for Summary {
    fn from(outcome: &Outcome) -> Self {
        Summary {
            seed: outcome.seed,
            acknowledged: outcome.acknowledged,
            views: outcome.views,
            simulated: outcome.report.ended_at.since_start(),
            turns: outcome.report.turns,
            hash: outcome.report.hash,
            cut_short: outcome.cut_short,
            finding: outcome.report.finding.clone(),
        }
    }
}

impl Summary {
    /// One line. A line break in the finding becomes a bar.
    pub fn to_line(&self) -> String {
        let Summary { seed, acknowledged, views, simulated, turns, hash, cut_short, finding } = self;
        let nanos = simulated.as_nanos();
        let finding = finding.as_ref().map_or("-".to_owned(), |text| format!("+{}", text.replace(['\n', '\r'], " | ")));
        format!("seed\t{seed}\t{acknowledged}\t{views}\t{nanos}\t{turns}\t{hash}\t{}\t{finding}", u8::from(*cut_short))
    }

    /// The other way round; `None` if the line is another one, or cut off where its writer died.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.splitn(9, '\t');
        if fields.next() != Some("seed") {
            return None;
        }
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (seed, acknowledged, views, nanos) = (number()?, number()?, number()?, number()?);
        let (turns, hash, cut_short) = (number()?, number()?, number()? == 1);
        let finding = match fields.next()? {
            "-" => None,
            text => Some(text.strip_prefix('+')?.to_owned()),
        };
        let simulated = Duration::from_nanos(nanos);
        Some(Summary { seed, acknowledged, views, simulated, turns, hash, cut_short, finding })
    }
}

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Those that ended early, with too many disks lost.
    pub cut_short: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Requests acknowledged.
    pub acknowledged: u64,
    /// View changes.
    pub views: u64,
    /// Turns of threads.
    pub turns: u64,
    /// Faults and messages.
    pub counts: BTreeMap<String, u64>,
    /// The findings, by seed.
    pub findings: BTreeMap<u64, String>,
}

impl Totals {
    /// Adds a run.
    pub fn add(&mut self, run: &Summary) {
        self.seeds += 1;
        self.cut_short += u64::from(run.cut_short);
        self.simulated += run.simulated;
        self.acknowledged += run.acknowledged;
        self.views += run.views.saturating_sub(1);
        self.turns += run.turns;
        if let Some(finding) = &run.finding {
            self.findings.insert(run.seed, finding.clone());
        }
    }

    /// Adds a run and its counters.
    pub fn take(&mut self, outcome: &Outcome) {
        self.add(&Summary::from(outcome));
        outcome.report.counts.iter().for_each(|(what, times)| self.count(what, *times));
    }

    /// How many faults were injected.
    pub fn faults(&self) -> u64 {
        self.counts.iter().filter(|(what, _)| what.starts_with("fault: ")).map(|(_, times)| times).sum()
    }

    /// Adds to a counter.
    pub fn count(&mut self, what: &str, times: u64) {
        *self.counts.entry(what.to_owned()).or_default() += times;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary() -> impl Strategy<Value = Summary> {
        let numbers = prop::array::uniform6(any::<u64>());
        (numbers, any::<bool>(), prop::option::of("\\PC*|[-+\t\r\n ]*")).prop_map(|(numbers, cut_short, finding)| {
            let [seed, acknowledged, views, nanos, turns, hash] = numbers;
            let simulated = Duration::from_nanos(nanos);
            Summary { seed, acknowledged, views, simulated, turns, hash, cut_short, finding }
        })
    }

    proptest! {
        #[test]
        fn lines_come_back(run in summary()) {
            let line = run.to_line();
            prop_assert!(!line.contains(['\n', '\r']));
            let finding = run.finding.as_ref().map(|text| text.replace(['\n', '\r'], " | "));
            prop_assert_eq!(Summary::from_line(&line), Some(Summary { finding, ..run }));
        }

        #[test]
        fn no_line_is_taken_for_another(run in summary(), at in any::<prop::sample::Index>(), other in "\\PC*") {
            let line = run.to_line();
            // Nothing but a finding's text may be missing at the end.
            let fields = line.splitn(9, '\t').take(8).map(|field| field.len() + 1).sum::<usize>();
            prop_assert_eq!(Summary::from_line(&line[..at.index(fields + 1)]), None);
            prop_assert_eq!(Summary::from_line(&format!("count\t{other}")), None);
        }
    }

    #[test]
    fn totals_add_up() {
        let mut totals = Totals::default();
        let run = Summary {
            seed: 3,
            acknowledged: 10,
            views: 4,
            simulated: Duration::from_secs(2),
            turns: 100,
            hash: 1,
            cut_short: false,
            finding: None,
        };
        totals.add(&run);
        totals.add(&Summary { seed: 4, views: 0, cut_short: true, finding: Some("wrong".to_owned()), ..run });
        totals.count("fault: crash", 2);
        totals.count("fault: crash", 1);
        totals.count("message: bind", 7);
        assert_eq!((totals.seeds, totals.cut_short, totals.acknowledged, totals.views), (2, 1, 20, 3));
        assert_eq!((totals.simulated, totals.turns, totals.faults()), (Duration::from_secs(4), 200, 3));
        assert_eq!(totals.findings.into_iter().collect::<Vec<_>>(), [(4, "wrong".to_owned())]);
    }
}
