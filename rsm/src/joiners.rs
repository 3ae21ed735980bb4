//! Who has joined and not come into sync: each such try stops the service for seconds, so the next one waits.
//!
//! Bounded: of many names the ones whose wait ends first are forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use rt::time::Instant;

/// After a failed sync a name isn't admitted for so long; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_secs(30);
/// A name that has been quiet for so long after its wait starts afresh.
const FORGIVEN: Duration = Duration::from_secs(600);
const MAX_NAMES: usize = 64;

/// What a primary remembers of joiners that failed.
#[derive(Debug, Default)]
pub(crate) struct Joiners {
    /// Not before this time the name is admitted; and the last wait.
    waits: BTreeMap<String, (Instant, Duration)>,
}

impl Joiners {
    /// `name` was added, and did not come into sync.
    pub(crate) fn failed(&mut self, name: &str, now: Instant) {
        let wait = match self.waits.get(name) {
            Some((until, wait)) if now - *until < FORGIVEN => (*wait * 2).min(MAX_WAIT),
            _ => FIRST_WAIT,
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

    #[test]
    fn each_failure_doubles_the_wait_and_many_names_are_bounded() {
        let at = |seconds| Instant::from_start(Duration::from_secs(seconds));
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
}
