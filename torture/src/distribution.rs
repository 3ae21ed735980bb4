//! What many measured times have in common. Pure.

use std::fmt;
use std::time::Duration;

/// Times, in any order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distribution(Vec<Duration>);

impl Distribution {
    pub(crate) const fn new() -> Self {
        Distribution(Vec::new())
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The least time that is not exceeded by so many of a hundred; 0 if there are none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn max(&self) -> Duration {
        self.percentile(100)
    }
}

/// Least, median, 90th and 99th percentile, greatest.
impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, p50, p90, p99, max] = [0, 50, 90, 99, 100].map(|percent| self.percentile(percent).as_secs_f64());
        write!(f, "min {min:.3} p50 {p50:.3} p90 {p90:.3} p99 {p99:.3} max {max:.3} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u64>) -> Distribution {
        Distribution(times.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let hundred = of((1..=100).rev());
        let at = [0, 1, 50, 90, 99, 100].map(|percent| hundred.percentile(percent).as_millis());
        assert_eq!(at, [1, 1, 50, 90, 99, 100]);
        let three = of([30, 10, 20]);
        assert_eq!([0, 33, 34, 50, 67, 100].map(|p| three.percentile(p).as_millis()), [10, 10, 20, 20, 30, 30]);
        assert_eq!(three.to_string(), "min 0.010 p50 0.020 p90 0.030 p99 0.030 max 0.030 s");
    }

    #[test]
    fn none_and_one() {
        assert_eq!((of([]).len(), of([]).percentile(50), of([]).max()), (0, Duration::ZERO, Duration::ZERO));
        assert_eq!([0, 50, 100].map(|percent| of([7]).percentile(percent).as_millis()), [7; 3]);
    }
}
