//! Finds again where a message that was sent was received.
//!
//! A message may be sent several times, as one that is sent again on a new connection, and come in several times, as one
//! that a network doubled. Each that came in belongs to the latest that had left by then; what has none that came in is
//! lost. Events may come in any order.

use std::collections::BTreeMap;

use crate::event::{Event, Kind, REPLY};

/// A message's way, by the numbers of its two events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// Where it left.
    pub sent: usize,
    /// Where it came in.
    pub received: usize,
}

/// What became of the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// What came in.
    pub arrows: Vec<Arrow>,
    /// What was sent and never came in, and the node that it was to go to, if that is known.
    pub lost: Vec<(usize, Option<String>)>,
    /// What came in and nobody has recorded as sent.
    pub unsent: Vec<usize>,
}

/// Finds them all.
pub fn pairs(events: &[Event]) -> Pairs {
    // By the message: the times of its sending, with the events' numbers.
    let mut sent: BTreeMap<&str, Vec<(u64, usize)>> = BTreeMap::new();
    for (number, event) in events.iter().enumerate().filter(|(_, event)| event.kind == Kind::Sent) {
        if let Some(message) = &event.message {
            sent.entry(message).or_default().push((event.at, number));
        }
    }
    for times in sent.values_mut() {
        times.sort_unstable();
    }
    let mut found = Pairs::default();
    let mut arrived = vec![false; events.len()];
    for (number, event) in events.iter().enumerate().filter(|(_, event)| event.kind == Kind::Received) {
        let times = event.message.as_deref().and_then(|message| sent.get(message));
        let before = times.map_or(&[][..], |times| &times[..times.partition_point(|(at, _)| *at <= event.at)]);
        match before.last() {
            Some((_, from)) => {
                arrived[*from] = true;
                found.arrows.push(Arrow { sent: *from, received: number });
            }
            None => found.unsent.push(number),
        }
    }
    found.arrows.sort_unstable();
    let peers = Peers::new(events, &found.arrows, &sent);
    let lost = events.iter().enumerate().filter(|(number, event)| event.kind == Kind::Sent && !arrived[*number]);
    found.lost = lost.map(|(number, event)| (number, peers.of(event))).collect();
    found
}

/// Who is meant by an address, as far as messages tell that came in.
struct Peers<'a> {
    events: &'a [Event],
    sent: &'a BTreeMap<&'a str, Vec<(u64, usize)>>,
    nodes: BTreeMap<&'a str, &'a str>,
}

impl<'a> Peers<'a> {
    fn new(events: &'a [Event], arrows: &[Arrow], sent: &'a BTreeMap<&'a str, Vec<(u64, usize)>>) -> Self {
        let names = events.iter().map(|event| event.node.as_str()).filter(|name| !name.is_empty());
        let mut nodes: BTreeMap<&str, &str> = names.map(|name| (name, name)).collect();
        for Arrow { sent, received } in arrows {
            if let Some(peer) = &events[*sent].peer {
                nodes.entry(peer).or_insert(&events[*received].node);
            }
        }
        Peers { events, sent, nodes }
    }

    fn of(&self, lost: &Event) -> Option<String> {
        // A reply goes to whoever asked: servers know their clients by ports that mean nothing.
        let asked = lost.message.as_deref().and_then(|message| message.strip_suffix(REPLY));
        let asker =
            asked.and_then(|message| self.sent.get(message)?.first()).map(|(_, n)| self.events[*n].node.clone());
        asker.or_else(|| self.nodes.get(lost.peer.as_deref()?).map(|name| (*name).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(at: u64, node: &str, kind: Kind, id: &str, peer: &str) -> Event {
        let mut event = Event::new(at, node, kind, id);
        (event.message, event.peer) = (Some(id.to_owned()), (!peer.is_empty()).then(|| peer.to_owned()));
        event
    }

    fn sent(at: u64, id: &str) -> Event {
        message(at, "A", Kind::Sent, id, "b:1")
    }

    fn received(at: u64, id: &str) -> Event {
        message(at, "B", Kind::Received, id, "a:999")
    }

    fn arrows(events: &[Event]) -> Vec<(usize, usize)> {
        pairs(events).arrows.iter().map(|arrow| (arrow.sent, arrow.received)).collect()
    }

    #[test]
    fn each_that_came_in_belongs_to_the_latest_that_had_left() {
        // Sent, and again; the first came late, the second twice.
        let events = [sent(10, "x"), sent(20, "x"), received(15, "x"), received(25, "x"), received(26, "x")];
        assert_eq!(arrows(&events), [(0, 2), (1, 3), (1, 4)]);
        assert_eq!(pairs(&events).lost, []);
        // The order of the events doesn't matter, and the same microsecond is early enough.
        let events = [received(20, "x"), sent(20, "x")];
        assert_eq!(arrows(&events), [(1, 0)]);
    }

    #[test]
    fn what_never_came_in_is_lost_and_its_goal_known_from_others() {
        let events = [sent(1, "x"), received(2, "x"), sent(3, "y"), sent(4, "y"), received(5, "y")];
        assert_eq!(pairs(&events).lost, [(2, Some("B".to_owned()))]);
        assert_eq!(pairs(&[sent(1, "x")]).lost, [(0, None)]);
    }

    #[test]
    fn a_lost_reply_goes_to_who_asked() {
        let events = [sent(1, "x"), received(2, "x"), message(3, "B", Kind::Sent, "x reply", "a:999")];
        assert_eq!(pairs(&events).lost, [(2, Some("A".to_owned()))]);
    }

    #[test]
    fn what_nobody_sent_has_no_arrow() {
        let events = [received(1, "x"), sent(2, "x"), received(3, "z")];
        let found = pairs(&events);
        assert_eq!((found.arrows.len(), found.unsent, found.lost.len()), (0, vec![0, 2], 1));
        let nameless = [Event::new(1, "A", Kind::Sent, "?"), Event::new(2, "B", Kind::Received, "?")];
        assert_eq!((pairs(&nameless).arrows.len(), pairs(&nameless).unsent.len()), (0, 1));
    }
}
