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
/// A name that has been quiet for so long after its wait starts afresh: longer than two that take turns are each away.
const FORGIVEN: Duration = Duration::from_secs(60);
/// Who leaves within this time of being added has left soon. Of two members that don't reach each other one is removed
/// after 4 s (config::Timing::silence_of_lab: neither knows yet that the other is no lab node), and either may be the one:
/// who stayed the first time and goes the second has been there for 9 s.
const STEADY: Duration = Duration::from_secs(10);
const MAX_NAMES: usize = 64;

/// What a node remembers of joiners that failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joiners {
    /// Not before this time the name is admitted; and the last wait.
    waits: BTreeMap<String, (Instant, Duration)>,
    /// When members were added, as far as this node has seen it.
    added: BTreeMap<String, Instant>,
}

impl Joiners {
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
            let soon = self.added.get(name).is_some_and(|since| now - *since < STEADY);
            if soon && !rt::probe::weakened("L8-comes-and-goes") {
                self.keep_away(name, FIRST_WAIT_OF_LEAVERS, now);
            }
            // Who was there for longer doesn't wait, and nothing is forgotten: of two members that don't reach each other
            // each is well as long as the other one waits.
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

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn view(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn each_failure_doubles_the_wait_and_many_names_are_bounded() {
        let mut joiners = Joiners::default();
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
        let mut joiners = Joiners::default();
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
        let mut joiners = Joiners::default();
        let (with, without) = (view("p a"), view("p"));
        for (added, left) in [(0, 1), (2, 3), (5, 15)] {
            joiners.view_changed(&without, &with, at(added));
            joiners.view_changed(&with, &without, at(left));
        }
        assert!(!joiners.is_kept_away("a", at(15)));
        joiners.view_changed(&without, &with, at(15));
        joiners.view_changed(&with, &without, at(16));
        assert!(joiners.is_kept_away("a", at(19)) && !joiners.is_kept_away("a", at(20)), "1, 2, 4");
    }

    /// Of two members that don't reach each other, which both reach the primary, one goes 4 s after they have met, and is
    /// back after a second at the earliest. Whichever it is, each time: in two minutes they change 40 views at most.
    #[test]
    fn l08_two_members_apart_change_views_ever_more_rarely() {
        fn most_views(joiners: &Joiners, mut time: Duration) -> u32 {
            let (both, one) = (view("p a b"), [view("p b"), view("p a")]);
            time += Duration::from_secs(4);
            let goes = |which: usize| {
                let mut joiners = joiners.clone();
                let now = |time| Instant::from_start(time);
                joiners.view_changed(&both, &one[which], now(time));
                let mut back = time + Duration::from_millis(1050);
                while joiners.is_kept_away(["a", "b"][which], now(back)) {
                    back += Duration::from_millis(50);
                }
                joiners.view_changed(&one[which], &both, now(back));
                if back > LASTS { 1 } else { 2 + most_views(&joiners, back) }
            };
            if time > LASTS { 0 } else { goes(0).max(goes(1)) }
        }
        const LASTS: Duration = Duration::from_secs(120);
        let mut joiners = Joiners::default();
        joiners.view_changed(&view("p"), &view("p a b"), at(0));
        let views = most_views(&joiners, Duration::ZERO);
        assert!((30..=40).contains(&views), "{views}");
    }
    #[test]
    fn l08_who_stays_or_was_there_before_does_not_wait() {
        let mut joiners = Joiners::default();
        joiners.view_changed(&view("p"), &view("p a"), at(0));
        joiners.view_changed(&view("p a"), &view("p"), at(10));
        joiners.view_changed(&view("p b"), &view("p"), at(10));
        assert!(!joiners.is_kept_away("a", at(10)) && !joiners.is_kept_away("b", at(10)));
        assert!(joiners.added.is_empty());
    }

    #[test]
    fn l08_a_failed_sync_counts_once_and_waits_no_less() {
        let mut joiners = Joiners::default();
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
