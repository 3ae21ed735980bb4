//! Whether what a process uses grows without end. Pure.
//!
//! The median of the last third of the samples is held against that of the first third, after a warm-up. A factor and a
//! slack allow for what isn't growth: caches that fill, files that grow until they are written anew.

/// How much more may be used late than early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// Percent of the early median.
    pub(crate) percent: u64,
    /// And so much more.
    pub(crate) slack: u64,
}

/// What is to be said of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The median of the first third.
    pub(crate) early: u64,
    /// The median of the last third.
    pub(crate) late: u64,
    pub(crate) is_flat: bool,
}

/// Of ten samples the first one is warm-up.
const WARM_UP: usize = 10;
/// With fewer there is nothing to say.
const LEAST: usize = 6;

/// Judges samples that were taken at even intervals; `None` if there are too few.
pub(crate) fn judge(samples: &[u64], allowance: Allowance) -> Option<Judgement> {
    let samples = samples.get(samples.len() / WARM_UP..)?;
    if samples.len() < LEAST {
        return None;
    }
    let third = samples.len() / 3;
    let (early, late) = (median(samples.get(..third)?)?, median(samples.get(samples.len() - third..)?)?);
    let allowed = early.saturating_mul(allowance.percent) / 100 + allowance.slack;
    Some(Judgement { early, late, is_flat: late <= allowed })
}

fn median(samples: &[u64]) -> Option<u64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_MORE: Allowance = Allowance { percent: 150, slack: 5 };

    #[test]
    fn what_stays_is_flat() {
        let judgement = Judgement { early: 100, late: 100, is_flat: true };
        assert_eq!(judge(&[100; 30], HALF_MORE), Some(judgement));
        // A saw is flat, as is what falls.
        let saw: Vec<u64> = (0..90).map(|i| 100 + i % 9 * 50).collect();
        assert!(judge(&saw, HALF_MORE).is_some_and(|judgement| judgement.is_flat));
        let falling: Vec<u64> = (0..90).rev().collect();
        assert!(judge(&falling, HALF_MORE).is_some_and(|judgement| judgement.is_flat));
    }

    #[test]
    fn what_grows_is_not() {
        let growing: Vec<u64> = (0..90).map(|i| 100 + 10 * i).collect();
        let judgement = judge(&growing, HALF_MORE);
        assert_eq!(judgement, Some(Judgement { early: 320, late: 860, is_flat: false }));
    }

    #[test]
    fn the_warm_up_and_single_peaks_do_not_count() {
        let samples: Vec<u64> = (0..50).map(|i| if i < 5 { 1 } else { 100 }).collect();
        assert!(judge(&samples, HALF_MORE).is_some_and(|judgement| judgement.is_flat));
        let mut peak = vec![100; 30];
        peak[28] = 10_000;
        assert!(judge(&peak, HALF_MORE).is_some_and(|judgement| judgement.is_flat));
    }

    #[test]
    fn the_allowance_is_a_factor_and_a_slack() {
        let step = |late: u64| [[100; 15], [late; 15]].concat();
        let is_flat = |late| judge(&step(late), HALF_MORE).map(|judgement| judgement.is_flat);
        assert_eq!((is_flat(155), is_flat(156)), (Some(true), Some(false)));
    }

    #[test]
    fn few_samples_say_nothing() {
        assert_eq!(judge(&[], HALF_MORE), None);
        assert_eq!(judge(&[1, 2, 3, 4, 5], HALF_MORE), None);
        assert!(judge(&[1; 6], HALF_MORE).is_some());
    }
}
