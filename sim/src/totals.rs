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
    /// It ended at a hole that is masked.
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
    /// One line.
    pub fn to_line(&self) -> String {
        let Summary { seed, acknowledged, views, simulated, turns, hash, cut_short, finding } = self;
        let nanos = simulated.as_nanos();
        let finding = finding.as_deref().unwrap_or("-").replace('\n', " | ");
        format!("seed\t{seed}\t{acknowledged}\t{views}\t{nanos}\t{turns}\t{hash}\t{}\t{finding}", u8::from(*cut_short))
    }

    /// The other way round; `None` if the line is another one.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        if fields.next() != Some("seed") {
            return None;
        }
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (seed, acknowledged, views, nanos) = (number()?, number()?, number()?, number()?);
        let (turns, hash, cut_short) = (number()?, number()?, number()? == 1);
        let finding = fields.next().filter(|text| *text != "-").map(str::to_owned);
        let simulated = Duration::from_nanos(nanos);
        Some(Summary { seed, acknowledged, views, simulated, turns, hash, cut_short, finding })
    }
}

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Those that ended at a hole that is masked.
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

    /// Adds to a counter.
    pub fn count(&mut self, what: &str, times: u64) {
        *self.counts.entry(what.to_owned()).or_default() += times;
    }
}
