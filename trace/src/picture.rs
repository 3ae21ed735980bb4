//! What is in a picture of a trace, however it is drawn: lanes, bars along them, messages between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::event::{Event, Kind, REPLY};
use crate::pairs::{Arrow, Pairs, pairs};

/// More events than this aren't put into one picture: a browser has to hold them, and nobody reads so many.
pub const MAX_EVENTS: usize = 50_000;

/// What is to be shown.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What it is a picture of, in a few words.
    pub title: String,
    /// The command that makes the run, or the picture, again.
    pub command: String,
    /// What happened, in the order of the times.
    pub events: Vec<Event>,
    /// The time, as the events have it, that is shown as 0.
    pub zero: u64,
    /// Only what happened in this time; all by default.
    pub window: Option<RangeInclusive<u64>>,
    /// When something wrong was found, and what.
    pub finding: Option<(u64, String)>,
}

/// The times between two numbers of seconds after `zero`; `None`: all.
///
/// # Errors
/// When there is none.
pub fn window(zero: u64, from: Option<f64>, to: Option<f64>) -> Result<Option<RangeInclusive<u64>>, String> {
    if from.is_none() && to.is_none() {
        return Ok(None);
    }
    let at = |seconds: f64| zero.saturating_add((seconds * 1e6) as u64);
    let window = from.map_or(0, at)..=to.map_or(u64::MAX, at);
    if window.is_empty() {
        Err("--from is later than --to: nothing is between them".to_owned())
    } else {
        Ok(Some(window))
    }
}

/// What a bar along a lane means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// The node is there.
    Alive,
    /// The node is the primary in this view, if the number is known.
    Primary(Option<u64>),
}

/// A time along a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) lane: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) means: Means,
}

/// A picture, laid out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// The nodes' names: servers first.
    pub(crate) lanes: Vec<String>,
    /// What is shown. A reply's text says to what.
    pub(crate) events: Vec<Event>,
    pub(crate) pairs: Pairs,
    pub(crate) bars: Vec<Bar>,
    /// The first time and the last.
    pub(crate) span: (u64, u64),
    /// What isn't shown, for the number of events: a sentence each.
    pub(crate) left_out: Vec<String>,
}

/// Whether it is about a heartbeat, or a ping: there are many, and mostly they say nothing.
pub(crate) fn is_heartbeat(event: &Event) -> bool {
    let text = event.text.strip_prefix("reply to ").unwrap_or(&event.text);
    event.kind.is_message() && matches!(text.split([' ', ':']).next(), Some("heartbeat" | "ping"))
}

impl Layout {
    pub(crate) fn new(picture: &Picture, most: usize) -> Layout {
        let mut events = picture.events.clone();
        // Messages have two ends; what says otherwise is no arrow, and no mark.
        events.retain(|event| !event.kind.is_message() || !event.node.is_empty());
        say_what_replies_answer(&mut events);
        let all = pairs(&events);
        let lanes = lanes(&events);
        let ends = (events.first().map_or(0, |e| e.at), events.last().map_or(0, |e| e.at));
        let bars = lanes.iter().enumerate().flat_map(|(lane, name)| bars(&events, lane, name, ends)).collect();
        let window = picture.window.clone().unwrap_or(0..=u64::MAX);
        let mut shown: BTreeSet<usize> = (0..events.len()).filter(|n| window.contains(&events[*n].at)).collect();
        // Of a message whose one end is shown the other one is, too.
        let halves = all.arrows.iter().filter(|a| shown.contains(&a.sent) != shown.contains(&a.received));
        let others: Vec<usize> = halves.flat_map(|arrow| [arrow.sent, arrow.received]).collect();
        shown.extend(others);
        let left_out = thin_out(&events, &mut shown, most);
        let span = match &picture.window {
            Some(window) => ((*window.start()).max(ends.0), (*window.end()).min(ends.1)),
            None => ends,
        };
        let mut layout = Layout { lanes, events: Vec::new(), pairs: Pairs::default(), bars, span, left_out };
        layout.keep(events, &all, &shown);
        layout
    }

    /// Takes the events that are shown, under new numbers.
    fn keep(&mut self, events: Vec<Event>, all: &Pairs, shown: &BTreeSet<usize>) {
        let numbers: BTreeMap<usize, usize> = shown.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let arrows = all.arrows.iter().filter_map(|arrow| {
            Some(Arrow { sent: *numbers.get(&arrow.sent)?, received: *numbers.get(&arrow.received)? })
        });
        self.pairs = Pairs {
            arrows: arrows.collect(),
            lost: all.lost.iter().filter_map(|(n, to)| Some((*numbers.get(n)?, to.clone()))).collect(),
            unsent: all.unsent.iter().filter_map(|n| numbers.get(n).copied()).collect(),
        };
        self.events = events.into_iter().enumerate().filter(|(n, _)| shown.contains(n)).map(|(_, e)| e).collect();
    }

    /// The number of a node's lane; none for what happens everywhere.
    pub(crate) fn lane(&self, node: &str) -> Option<usize> {
        self.lanes.iter().position(|lane| lane == node)
    }
}

/// Who sends a reply knows the procedure's number only: what was asked stands in the request.
fn say_what_replies_answer(events: &mut [Event]) {
    let requests = events.iter().filter(|event| event.kind.is_message() && !event.is_reply());
    let requests: BTreeMap<String, String> =
        requests.filter_map(|event| Some((event.message.clone()?, event.text.clone()))).collect();
    for event in events.iter_mut().filter(|event| event.kind.is_message()) {
        let asked = event.message.as_ref().and_then(|message| requests.get(message.strip_suffix(REPLY)?));
        if let Some(asked) = asked.filter(|_| event.text.starts_with("reply to ")) {
            let status = event.text.rsplit_once(": ").map(|(_, s)| s);
            let status = status.filter(|status| status.starts_with("status ") || status.starts_with("error "));
            event.text = status.map_or(format!("reply to {asked}"), |status| format!("reply to {asked}: {status}"));
        }
    }
}

/// The nodes: those first that have views, execute or serve, and then the others.
fn lanes(events: &[Event]) -> Vec<String> {
    let serves = |kind| matches!(kind, Kind::View | Kind::Primary | Kind::Execute | Kind::Transfer);
    let servers: BTreeSet<&str> = events.iter().filter(|e| serves(e.kind)).map(|e| e.node.as_str()).collect();
    let all: BTreeSet<&str> = events.iter().map(|event| event.node.as_str()).filter(|name| !name.is_empty()).collect();
    let (mut first, mut then): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|name| servers.contains(name));
    first.sort_by_cached_key(|name| by_numbers(name));
    then.sort_by_cached_key(|name| by_numbers(name));
    first.into_iter().chain(then).map(str::to_owned).collect()
}

/// A name's order among names: "client 2" comes before "client 10".
fn by_numbers(name: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut after_digit = false;
    for character in name.chars() {
        let digit = character.to_digit(10);
        if after_digit && digit.is_none() {
            parts.push((String::new(), 0));
        }
        after_digit = digit.is_some();
        if let Some((text, number)) = parts.last_mut() {
            match digit {
                Some(digit) => *number = number.saturating_mul(10).saturating_add(digit.into()),
                None => text.push(character),
            }
        }
    }
    parts
}

/// The number behind the word "view" in a text.
fn view_number(text: &str) -> Option<u64> {
    let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok());
    text.split("view ").skip(1).find_map(digits)
}

/// When a node is there, and when it is the primary: until it ends, or learns another view.
fn bars(events: &[Event], lane: usize, name: &str, (first, last): (u64, u64)) -> Vec<Bar> {
    let mut bars = Vec::new();
    let (mut alive, mut primary): (Option<u64>, Option<(u64, Option<u64>)>) = (None, None);
    let mut before = None;
    let mut end_all = |alive: &mut Option<u64>, primary: &mut Option<(u64, Option<u64>)>, to: u64| {
        bars.extend(alive.take().map(|from| Bar { lane, from, to, means: Means::Alive }));
        bars.extend(primary.take().map(|(from, view)| Bar { lane, from, to, means: Means::Primary(view) }));
    };
    for event in events.iter().filter(|event| event.node == name) {
        let at = event.at;
        match event.kind {
            // A killed process doesn't tell of its end: it was there at least until its last word.
            Kind::Start => {
                end_all(&mut alive, &mut primary, before.unwrap_or(at));
                alive = Some(at);
            }
            Kind::Crash => {
                if before.is_none() {
                    alive = Some(first);
                }
                end_all(&mut alive, &mut primary, at);
            }
            Kind::View => {
                let view = view_number(&event.text);
                if primary.is_some_and(|(_, of)| of.is_none() || view.is_none() || of < view) {
                    end_all(&mut None, &mut primary, at);
                }
            }
            Kind::Primary => {
                end_all(&mut None, &mut primary, at);
                primary = Some((at, view_number(&event.text)));
            }
            _ => {}
        }
        if before.is_none() && !matches!(event.kind, Kind::Start | Kind::Crash) {
            alive = Some(at);
        }
        before = Some(at);
    }
    end_all(&mut alive, &mut primary, last);
    bars.sort_by_key(|bar| (bar.from, bar.to));
    bars
}

/// Leaves out what matters least: heartbeats, then messages, then the rest, the earliest first. Says so.
fn thin_out(events: &[Event], shown: &mut BTreeSet<usize>, most: usize) -> Vec<String> {
    let mut said = Vec::new();
    type Class = (&'static str, fn(&Event) -> bool);
    let classes: [Class; 3] = [
        ("heartbeats' events", is_heartbeat),
        ("messages' events", |event| event.kind.is_message()),
        ("other events", |_| true),
    ];
    for (what, belongs) in classes {
        let surplus = shown.len().saturating_sub(most);
        let out: BTreeSet<usize> = shown.iter().copied().filter(|n| belongs(&events[*n])).take(surplus).collect();
        shown.retain(|number| !out.contains(number));
        if !out.is_empty() {
            said.push(format!("{} {what}, the earliest ones, are left out: {most} fit", out.len()));
        }
    }
    said
}

/// What can be left out of all names: a common beginning, up to a dot, and a common port.
pub(crate) fn short_names(names: &[String]) -> Vec<String> {
    let with_port = names.iter().filter_map(|name| name.rsplit_once(':')).map(|(_, port)| port);
    let ports: BTreeSet<&str> = with_port.collect();
    let hosts: Vec<&str> = names
        .iter()
        .map(|name| match name.rsplit_once(':') {
            Some((host, _)) if ports.len() == 1 => host,
            _ => name,
        })
        .collect();
    let parts = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
    let numbers: Vec<Vec<String>> = hosts.iter().filter(|host| host.contains('.')).map(|host| parts(host)).collect();
    let common = numbers.first().map_or(0, |one| {
        let same = |at: usize| numbers.iter().all(|other| other.len() == one.len() && other.get(at) == one.get(at));
        (0..one.len().saturating_sub(1)).take_while(|at| same(*at)).count()
    });
    let short: Vec<String> = hosts
        .iter()
        .map(|host| if host.contains('.') { parts(host)[common..].join(".") } else { (*host).to_owned() })
        .collect();
    let distinct = short.iter().collect::<BTreeSet<_>>().len() == names.len();
    if distinct { short } else { names.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, node: &str, kind: Kind, text: &str) -> Event {
        Event::new(at, node, kind, text)
    }

    fn message(at: u64, node: &str, kind: Kind, id: &str, text: &str) -> Event {
        Event { message: Some(id.to_owned()), ..event(at, node, kind, text) }
    }

    #[test]
    fn a_primary_is_one_until_it_ends_or_learns_a_later_view() {
        let events = [
            event(1, "A", Kind::Start, "starts"),
            event(2, "A", Kind::View, "view 1: A"),
            event(3, "A", Kind::Primary, "primary in view 1"),
            event(4, "A", Kind::View, "view 1: A"),
            event(5, "A", Kind::View, "view 2: A B"),
            event(6, "A", Kind::Primary, "primary in view 2"),
            event(8, "A", Kind::Crash, "killed"),
            event(9, "A", Kind::Start, "starts"),
        ];
        let bar = |from, to, means| Bar { lane: 0, from, to, means };
        let expected = [
            bar(1, 8, Means::Alive),
            bar(3, 5, Means::Primary(Some(1))),
            bar(6, 8, Means::Primary(Some(2))),
            bar(9, 20, Means::Alive),
        ];
        assert_eq!(bars(&events, 0, "A", (0, 20)), expected);
    }

    #[test]
    fn a_node_whose_end_nobody_saw_was_there_until_its_last_word() {
        let events = [event(3, "A", Kind::Note, "x"), event(5, "A", Kind::Note, "y"), event(9, "A", Kind::Start, "")];
        let times: Vec<_> = bars(&events, 0, "A", (0, 20)).iter().map(|bar| (bar.from, bar.to)).collect();
        assert_eq!(times, [(3, 5), (9, 20)]);
        assert_eq!(bars(&[event(4, "A", Kind::Crash, "")], 0, "A", (1, 9))[0].from, 1);
    }

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["client 10", "10.0.0.10:1", "client 2", "b", "10.0.0.9:1", "a 5"];
        names.sort_by_cached_key(|name| by_numbers(name));
        assert_eq!(names, ["10.0.0.9:1", "10.0.0.10:1", "a 5", "b", "client 2", "client 10"]);
    }

    #[test]
    fn replies_say_what_they_answer() {
        let mut events = [
            message(1, "A", Kind::Sent, "x", "invoke (3,4) acquire 7"),
            message(2, "A", Kind::Received, "x reply", "reply to invoke: status 3"),
            message(3, "A", Kind::Received, "y reply", "reply to ?"),
        ];
        say_what_replies_answer(&mut events);
        assert_eq!(events[1].text, "reply to invoke (3,4) acquire 7: status 3");
        assert_eq!(events[2].text, "reply to ?");
    }

    #[test]
    fn a_window_shows_whole_messages_and_bars_that_began_before() {
        let events = vec![
            event(1, "A", Kind::Start, ""),
            message(4, "A", Kind::Sent, "x", "x"),
            message(6, "B", Kind::Received, "x", "x"),
            message(7, "B", Kind::Sent, "y", "y"),
            message(9, "A", Kind::Received, "y", "y"),
        ];
        let picture = Picture { events, window: Some(5..=6), ..Picture::default() };
        let layout = Layout::new(&picture, MAX_EVENTS);
        assert_eq!(layout.events.iter().map(|e| e.at).collect::<Vec<_>>(), [4, 6]);
        assert_eq!((layout.pairs.arrows.len(), layout.span), (1, (5, 6)));
        assert_eq!(layout.bars.len(), 2);
    }

    #[test]
    fn a_window_is_between_two_times() {
        assert_eq!(window(0, None, None), Ok(None));
        assert_eq!(window(0, Some(1.5), Some(2.0)), Ok(Some(1_500_000..=2_000_000)));
        assert_eq!(window(7, Some(1.5), None), Ok(Some(1_500_007..=u64::MAX)));
        assert_eq!(window(7, None, Some(2.0)), Ok(Some(0..=2_000_007)));
        assert!(window(0, Some(2.0), Some(1.0)).is_err());
    }

    #[test]
    fn a_message_without_a_node_is_not_shown() {
        let events = vec![message(1, "", Kind::Sent, "m", "x"), message(2, "A", Kind::Received, "m", "x")];
        let layout = Layout::new(&Picture { events, ..Picture::default() }, MAX_EVENTS);
        assert_eq!((layout.events.len(), layout.pairs.unsent.len()), (1, 1));
    }

    #[test]
    fn what_does_not_fit_is_left_out_by_what_it_matters() {
        let mut events = vec![event(0, "A", Kind::View, "view 1")];
        for at in 1..5 {
            events.push(message(at, "A", Kind::Sent, "h", "heartbeat"));
            events.push(message(at, "A", Kind::Sent, "i", "invoke"));
        }
        let picture = Picture { events, ..Picture::default() };
        let layout = Layout::new(&picture, 3);
        assert_eq!(
            layout.events.iter().map(|e| (e.at, e.text.as_str())).collect::<Vec<_>>(),
            [(0, "view 1"), (3, "invoke"), (4, "invoke")]
        );
        assert_eq!(layout.left_out.len(), 2);
        assert!(layout.left_out[0].starts_with("4 heartbeats'"), "{:?}", layout.left_out);
        assert_eq!(Layout::new(&picture, 9).left_out, [] as [&str; 0]);
    }

    #[test]
    fn names_are_shortened_by_what_is_the_same_in_all() {
        let short = |names: &[&str]| short_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(short(&["10.0.0.1:5000", "10.0.0.2:5000", "10.0.1.1", "tester"]), ["0.1", "0.2", "1.1", "tester"]);
        assert_eq!(short(&["A", "B"]), ["A", "B"]);
        assert_eq!(short(&["h:1", "h:2"]), ["h:1", "h:2"]);
        assert_eq!(short(&["10.0.0.1:5000", "10.0.0.1"]), ["10.0.0.1:5000", "10.0.0.1"]);
    }
}
