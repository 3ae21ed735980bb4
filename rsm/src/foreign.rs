//! Lab nodes in a service of ours, and the reverse: who can't read whose state.
//!
//! The layout of a marshalled state is each implementation's own. Members of both kinds get along as long as their last
//! viewstamps are equal, because then nothing is transferred. Where something would have to be, the lab's node must not
//! be handed bytes that it would take for its own kind, and ours must not be added again and again only to find that it
//! can't read what it gets: each time costs the service two view changes.

use std::time::Duration;

use rt::time::Instant;

/// After a state that can't be read, a node of ours asks a lab primary no sooner than after this time; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// What a node remembers of states that don't fit.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// Not before this time a lab primary is asked to add this node; and the last pause.
    kept_away: Option<(Instant, Duration)>,
    /// The lab node that was refused our state last, the view, and whether its removal has been tried.
    refused: Option<(String, u32, bool)>,
}

impl Foreign {
    /// A primary's state could not be read.
    pub(crate) fn unreadable(&mut self, now: Instant) {
        let pause = self.kept_away.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(MAX_PAUSE));
        self.kept_away = Some((now + pause, pause));
    }

    /// Whether a lab primary should be left alone for now.
    pub(crate) fn is_kept_away(&self, now: Instant) -> bool {
        self.kept_away.is_some_and(|(until, _)| now < until)
    }

    /// A lab member was refused this node's state in view `vid`. True if that is news.
    pub(crate) fn refuse(&mut self, name: &str, vid: u32) -> bool {
        if self.refused.as_ref().is_some_and(|(known, in_vid, _)| known == name && *in_vid == vid) {
            return false;
        }
        self.refused = Some((name.to_owned(), vid, false));
        true
    }

    /// The member that can't come into sync in view `vid`, once.
    pub(crate) fn hopeless(&mut self, vid: u32) -> Option<String> {
        let (name, _, tried) = self.refused.as_mut().filter(|(_, in_vid, tried)| *in_vid == vid && !tried)?;
        *tried = true;
        Some(name.clone())
    }
}
