//! Who has joined in vain: who did not come into sync, and who left soon (L8). Each such try stops the service for a moment,
//! or for seconds, so the next one waits.
//!
//! All members remember who left soon, as any of them may be the primary next. What a node learns of views that didn't name
//! it doesn't count: it hears of those all at once.
//!
//! Bounded: of many names the ones whose wait ends first are forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use rt::time::Instant;

/// After a failed sync a name isn't admitted for so long; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The same for one that leaves soon.
const FIRST_WAIT_OF_LEAVERS: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(30);
/// A name that has neither left nor waited for so long starts afresh: longer than two that take turns are each away.
const FORGIVEN: Duration = Duration::from_secs(60);
/// Who leaves within so many times [`Timing::silence_of_lab`] of being added has left soon. Of two members that don't reach
/// each other one is removed after that silence (neither knows yet that the other is no lab node), and either may be the
/// one: who stayed the first time and goes the second was there for two silences, and the other one's return between them.
///
/// [`Timing::silence_of_lab`]: yfs_config::Timing::silence_of_lab
const STEADY: u32 = 5;
const MAX_NAMES: usize = 64;

/// What a node remembers of joiners that failed.
#[derive(Clone, Debug)]
pub(crate) struct Joiners {
    /// Who leaves within this time of being added has left soon.
    steady: Duration,
    /// Not before this time the name is admitted, and it has been quiet since then; and the last wait.
    waits: BTreeMap<String, (Instant, Duration)>,
    /// When members were added, as far as this node has seen it.
    added: BTreeMap<String, Instant>,
}

impl Joiners {
    /// Nobody has joined yet. `silence_of_lab`: after so long a silence a member is removed that may be a lab node.
    pub(crate) fn new(silence_of_lab: Duration) -> Joiners {
        Joiners { steady: silence_of_lab.saturating_mul(STEADY), waits: BTreeMap::new(), added: BTreeMap::new() }
    }

    /// `name` was added, and did not come into sync.
    pub(crate) fn failed(&mut self, name: &str, now: Instant) {
        self.keep_away(name, FIRST_WAIT, now);
    }

    /// A view follows another one; both name this node.
    pub(crate) fn view_changed(&mut self, before: &[String], after: &[String], now: Instant) {
        for name in before.iter().filter(|name| !after.contains(name)) {
            // One that failed to come into sync waits already.
            if self.is_kept_away(name, now) {
                continue;
            }
            let soon = self.added.get(name).is_some_and(|since| now - *since < self.steady);
            if soon && !rt::probe::weakened("L8-comes-and-goes") {
                self.keep_away(name, FIRST_WAIT_OF_LEAVERS, now);
            } else if let Some((quiet_since, _)) = self.waits.get_mut(name).filter(|(until, _)| now - *until < FORGIVEN)
            {
                // It doesn't wait, and nothing is forgotten: of two members that don't reach each other each is well as
                // long as the other one waits.
                *quiet_since = now;
            }
        }
        self.added.retain(|name, _| after.contains(name));
        for name in after.iter().filter(|name| !before.contains(name)) {
            self.added.insert(name.clone(), now);
        }
    }

    fn keep_away(&mut self, name: &str, first_wait: Duration, now: Instant) {
        let wait = match self.waits.get(name) {
            Some((until, wait)) if now - *until < FORGIVEN => (*wait * 2).clamp(first_wait, MAX_WAIT),
            _ => first_wait,
        };
        self.waits.insert(name.to_owned(), (now + wait, wait));
        if self.waits.len() > MAX_NAMES {
            let first = self.waits.iter().min_by_key(|(_, (until, _))| *until).map(|(name, _)| name.clone());
            first.and_then(|name| self.waits.remove(&name));
        }
    }

    /// Whether `name` has to wait.
    pub(crate) fn is_kept_away(&self, name: &str, now: Instant) -> bool {
        self.waits.get(name).is_some_and(|(until, _)| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Joiners {
        Joiners::new(yfs_config::Timing::default().silence_of_lab)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn view(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn each_failure_doubles_the_wait_and_many_names_are_bounded() {
        let mut joiners = new();
        assert!(!joiners.is_kept_away("a", at(0)));
        joiners.failed("a", at(0));
        assert!(joiners.is_kept_away("a", at(4)) && !joiners.is_kept_away("a", at(5)));
        joiners.failed("a", at(6));
        assert!(joiners.is_kept_away("a", at(15)) && !joiners.is_kept_away("a", at(16)));
        joiners.failed("a", at(1000));
        assert!(!joiners.is_kept_away("a", at(1005)), "forgiven");
        for n in 0..1000 {
            joiners.failed(&n.to_string(), at(2000));
        }
        assert!(joiners.waits.len() <= MAX_NAMES);
    }

    #[test]
    fn l08_who_leaves_soon_waits_longer_each_time() {
        let mut joiners = new();
        let (with, without) = (view("p a"), view("p"));
        let mut time = 100;
        for wait in [1, 2, 4, 8, 16, 30, 30] {
            joiners.view_changed(&without, &with, at(time));
            joiners.view_changed(&with, &with, at(time + 3));
            joiners.view_changed(&with, &without, at(time + 4));
            assert!(joiners.is_kept_away("a", at(time + 4 + wait - 1)), "{wait}");
            assert!(!joiners.is_kept_away("a", at(time + 4 + wait)), "{wait}");
            time += 4 + wait;
        }
        joiners.view_changed(&without, &with, at(time + 600));
        joiners.view_changed(&with, &without, at(time + 601));
        assert!(!joiners.is_kept_away("a", at(time + 602)), "forgiven");
    }

    #[test]
    fn l08_who_was_well_for_a_while_does_not_wait_and_is_not_forgiven() {
        let mut joiners = new();
        let (with, without) = (view("p a"), view("p"));
        for (added, left) in [(0, 1), (2, 3), (5, 25)] {
            joiners.view_changed(&without, &with, at(added));
            joiners.view_changed(&with, &without, at(left));
        }
        assert!(!joiners.is_kept_away("a", at(25)));
        joiners.view_changed(&without, &with, at(25));
        joiners.view_changed(&with, &without, at(45));
        assert!(!joiners.is_kept_away("a", at(45)));
        joiners.view_changed(&without, &with, at(100));
        joiners.view_changed(&with, &without, at(104));
        assert!(joiners.is_kept_away("a", at(107)) && !joiners.is_kept_away("a", at(108)), "1, 2, 4; it left at 45");
    }

    /// Two members that don't reach each other, and both reach the primary: so long after they have met one is removed, and
    /// so long after that it is back at the earliest. By default, and where all takes longer.
    const APART: [(Duration, Duration); 4] = [
        (Duration::from_millis(4000), Duration::from_millis(200)),
        (Duration::from_millis(4000), Duration::from_millis(1050)),
        (Duration::from_millis(4500), Duration::from_millis(1200)),
        (Duration::from_millis(4000), Duration::from_millis(2000)),
    ];

    /// Both have met at `time`; one of the two goes, and comes back. When they meet again.
    fn goes(joiners: &mut Joiners, which: usize, mut time: Duration, (alone, away): (Duration, Duration)) -> Duration {
        let (both, one) = (view("p a b"), [view("p b"), view("p a")]);
        let now = |time| Instant::from_start(time);
        time += alone;
        joiners.view_changed(&both, &one[which], now(time));
        time += away;
        while joiners.is_kept_away(["a", "b"][which], now(time)) {
            time += Duration::from_millis(50);
        }
        joiners.view_changed(&one[which], &both, now(time));
        time
    }

    fn both() -> Joiners {
        let mut joiners = new();
        joiners.view_changed(&view("p"), &view("p a b"), at(0));
        joiners
    }

    #[test]
    fn l08_two_members_apart_change_views_rarely_whichever_goes_each_time() {
        const LASTS: Duration = Duration::from_secs(120);
        fn most_views(joiners: &Joiners, time: Duration, times: (Duration, Duration)) -> u32 {
            let tries = [0, 1].map(|which| {
                let mut joiners = joiners.clone();
                let back = goes(&mut joiners, which, time, times);
                // It's removed and added.
                if back > LASTS { 1 } else { 2 + most_views(&joiners, back, times) }
            });
            if time + times.0 > LASTS { 0 } else { tries[0].max(tries[1]) }
        }
        let views = APART.map(|times| most_views(&both(), Duration::ZERO, times));
        assert!(views.iter().all(|views| (28..=30).contains(views)), "{views:?}");
    }

    #[test]
    fn l08_two_members_apart_change_views_ever_more_rarely_in_any_regular_order() {
        for times in APART {
            for order in [&[0][..], &[0, 1], &[0, 0, 1, 1], &[0, 0, 0, 1, 1, 1], &[0, 0, 1]] {
                let (mut joiners, mut time, mut views) = (both(), Duration::ZERO, [0, 0]);
                for which in order.iter().cycle() {
                    time = goes(&mut joiners, *which, time, times);
                    let Some(views) = views.get_mut(time.as_secs() as usize / 120) else { break };
                    *views += 2;
                }
                assert!(views[1] * 5 <= views[0] * 4, "{times:?} {order:?}: {views:?}");
            }
        }
    }

    #[test]
    fn l08_who_stays_or_was_there_before_does_not_wait() {
        let mut joiners = new();
        joiners.view_changed(&view("p"), &view("p a"), at(0));
        joiners.view_changed(&view("p a"), &view("p"), at(20));
        joiners.view_changed(&view("p b"), &view("p"), at(20));
        assert!(!joiners.is_kept_away("a", at(20)) && !joiners.is_kept_away("b", at(20)));
        assert!(joiners.added.is_empty());
    }

    #[test]
    fn l08_a_failed_sync_counts_once_and_waits_no_less() {
        let mut joiners = new();
        joiners.view_changed(&view("p"), &view("p a"), at(0));
        joiners.failed("a", at(4));
        joiners.view_changed(&view("p a"), &view("p"), at(4));
        assert!(joiners.is_kept_away("a", at(8)) && !joiners.is_kept_away("a", at(9)));
        joiners.view_changed(&view("p"), &view("p b"), at(10));
        joiners.view_changed(&view("p b"), &view("p"), at(11));
        joiners.failed("b", at(13));
        assert!(joiners.is_kept_away("b", at(17)), "no less than the first wait after a failed sync");
    }
}
