//! A trace for a terminal: a column a node, a line an event.

use crate::event::Kind;
use crate::picture::{Layout, Picture, is_heartbeat, short_names};

/// A column is at least so wide, whatever the terminal is.
const LEAST_COLUMN: usize = 9;
/// The time's column: seconds with six decimals, and two blanks.
const TIME: usize = 14;
/// Nothing is this wide.
const MOST_WIDTH: usize = 10_000;

/// The lines of a picture, each at most `width` characters long, if there is room for all columns. Heartbeats are left out.
pub fn columns(picture: &Picture, width: usize) -> String {
    let width = width.min(MOST_WIDTH);
    let layout = Layout::new(picture, usize::MAX);
    let names = short_names(&layout.lanes);
    let column = (width.saturating_sub(TIME) / names.len().max(1)).max(LEAST_COLUMN);
    let mut text = String::new();
    for (short, name) in names.iter().zip(&layout.lanes).filter(|(short, name)| short != name) {
        push_line(&mut text, &format!("{short} is {name}"));
    }
    let heads: String = names.iter().map(|name| cell(name, column)).collect();
    push_line(&mut text, &format!("{:>12}  {heads}", "seconds"));
    // Where each message goes, or comes from.
    let mut others: Vec<Option<usize>> = vec![None; layout.events.len()];
    let mut arrived = vec![false; layout.events.len()];
    for arrow in &layout.pairs.arrows {
        let lane = |number: usize| layout.lane(&layout.events[number].node);
        (others[arrow.sent], others[arrow.received]) = (lane(arrow.received), lane(arrow.sent));
        arrived[arrow.sent] = true;
    }
    for (number, to) in &layout.pairs.lost {
        others[*number] = to.as_ref().and_then(|to| layout.lane(to));
    }
    let mut heartbeats = 0;
    let mut finding = picture.finding.as_ref();
    for (number, event) in layout.events.iter().enumerate() {
        if is_heartbeat(event) {
            heartbeats += 1;
            continue;
        }
        if let Some((at, what)) = finding.take_if(|(at, _)| *at < event.at) {
            push_line(&mut text, &cut(&format!("{}  FOUND: {what}", time(*at, picture.zero)), width));
        }
        let other = others[number].and_then(|lane| names.get(lane)).map_or("?", String::as_str);
        let short = shorten(&event.text, &layout.lanes, &names);
        let said = match event.kind {
            Kind::Sent if arrived[number] => format!("-> {other} {short}"),
            Kind::Sent => format!("-x {other} {short}"),
            Kind::Received => format!("<- {other} {short}"),
            Kind::Crash => format!("CRASH {short}"),
            Kind::Fault => format!("FAULT {short}"),
            _ => short,
        };
        let time = time(event.at, picture.zero);
        match layout.lane(&event.node) {
            Some(lane) => {
                let blank = " ".repeat(lane * column);
                // A line has one event: what is to the right of it is empty.
                let room = width.saturating_sub(TIME + lane * column).max(LEAST_COLUMN);
                push_line(&mut text, &format!("{time}  {blank}{}", cut(&said, room)));
            }
            None => push_line(&mut text, &cut(&format!("{time}  -- {said} --"), width)),
        }
    }
    if let Some((at, what)) = finding {
        push_line(&mut text, &cut(&format!("{}  FOUND: {what}", time(*at, picture.zero)), width));
    }
    if heartbeats > 0 {
        push_line(&mut text, &format!("{heartbeats} events of heartbeats are left out"));
    }
    text
}

fn time(at: u64, zero: u64) -> String {
    format!("{:>12.6}", (i128::from(at) - i128::from(zero)) as f64 / 1e6)
}

/// A text without what all nodes' names have in common.
fn shorten(text: &str, lanes: &[String], names: &[String]) -> String {
    let changed = lanes.iter().zip(names).filter(|(lane, name)| lane != name);
    changed.fold(text.to_owned(), |text, (lane, name)| text.replace(lane.as_str(), name))
}

fn push_line(text: &mut String, line: &str) {
    // A terminal obeys control characters.
    text.extend(line.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }));
    text.push('\n');
}

/// The text in `room` characters.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

fn cell(text: &str, column: usize) -> String {
    format!("{:<column$}", cut(text, column - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn small() -> Picture {
        let lines = include_str!("../tests/small.jsonl");
        let events: Vec<Event> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Picture { zero: events[0].at, events, finding: Some((1_013_000, "two primaries".into())), ..Picture::default() }
    }

    #[test]
    fn columns_of_the_small_trace_are_these() {
        assert_eq!(columns(&small(), 100), include_str!("../tests/small.columns"));
    }

    #[test]
    fn no_line_is_wider_than_asked_for_and_narrow_ones_stay_columns() {
        for width in [60, 80, 100, 200] {
            for line in columns(&small(), width).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        assert!(columns(&small(), 1).lines().count() > 10);
        assert_eq!(columns(&Picture::default(), 80), "     seconds\n");
    }

    #[test]
    fn no_control_characters_and_no_width_trouble_a_terminal() {
        let evil = "a\u{1b}[2Jb\nc\rd\u{7}";
        let events = vec![Event::new(1, evil, Kind::Note, evil), Event::new(2, "", Kind::Fault, evil)];
        let picture = Picture { events, finding: Some((2, evil.into())), ..Picture::default() };
        for width in [0, 80, 70_000, usize::MAX] {
            let text = columns(&picture, width);
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            assert_eq!(text.lines().count(), 4);
        }
    }

    #[test]
    fn long_texts_are_cut_at_characters() {
        assert_eq!((cut("äöü", 3), cut("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }
}
