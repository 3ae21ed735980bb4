//! A page that shows a trace: one file, without anything from a network, that a browser opens.
//!
//! The pictures are data in the page, as JSON; the page's own script (`page/`) draws them. Texts come from anywhere: none
//! becomes a part of the page but as text, and the data can't end the element that it stands in.

use serde_json::{Value, json};

use crate::event::Kind;
use crate::picture::{Layout, MAX_EVENTS, Means, Picture, short_names};
use crate::reader::PAGE;

const STYLE: &str = include_str!("page/page.css");
const BODY: &str = include_str!("page/body.html");
/// In the order in which they are read.
const SCRIPTS: [&str; 4] = [
    include_str!("page/model.js"),
    include_str!("page/draw.js"),
    include_str!("page/controls.js"),
    include_str!("page/check.js"),
];

/// A page, and what it leaves out.
#[derive(Clone, Debug)]
pub struct Page {
    /// The whole file.
    pub html: String,
    /// A sentence for each sort of event of which there were too many. The page says them, too.
    pub left_out: Vec<String>,
}

/// The page of some pictures, of which a reader sees one at a time.
pub fn html(title: &str, pictures: &[Picture]) -> Page {
    let (mut all, mut left_out) = (Vec::new(), Vec::new());
    for picture in pictures {
        let layout = Layout::new(picture, MAX_EVENTS);
        all.push(data(picture, &layout));
        left_out.extend(layout.left_out);
    }
    let data = escape_json(&Value::from(all).to_string());
    let title = escape_text(title);
    let scripts = SCRIPTS.join("\n");
    let html = format!(
        "{PAGE}\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         {BODY}<script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n\"use strict\";\n{scripts}</script>\n\
         </body>\n</html>\n"
    );
    Page { html, left_out }
}

/// What the page's script gets. Times are in microseconds from the picture's zero; an event's place in its list is its number.
fn data(picture: &Picture, layout: &Layout) -> Value {
    let time = |at: u64| i128::from(at) - i128::from(picture.zero);
    let lane = |node: &str| layout.lane(node).map_or(-1, |lane| lane as i64);
    let events: Vec<Value> = layout
        .events
        .iter()
        .map(|e| {
            let kind = Kind::ALL.iter().position(|kind| *kind == e.kind);
            json!([time(e.at) as i64, lane(&e.node), kind, e.text, e.message, e.peer])
        })
        .collect();
    let bars: Vec<Value> = layout
        .bars
        .iter()
        .map(|bar| {
            let (what, view) = match bar.means {
                Means::Alive => ("alive", None),
                Means::Primary(view) => ("primary", view),
            };
            json!([bar.lane, time(bar.from) as i64, time(bar.to) as i64, what, view])
        })
        .collect();
    json!({
        "title": picture.title,
        "command": picture.command,
        "kinds": Kind::ALL.map(Kind::name),
        "lanes": layout.lanes,
        "short": short_names(&layout.lanes),
        "events": events,
        "arrows": layout.pairs.arrows.iter().map(|arrow| [arrow.sent, arrow.received]).collect::<Vec<_>>(),
        "lost": layout.pairs.lost.iter().map(|(n, to)| json!([n, to.as_deref().map_or(-1, lane)])).collect::<Vec<_>>(),
        "bars": bars,
        "span": [time(layout.span.0) as i64, time(layout.span.1) as i64],
        "finding": picture.finding.as_ref().map(|(at, what)| json!([time(*at) as i64, what])),
        "leftOut": layout.left_out,
    })
}

/// JSON inside of a script element: no `<`, so that nothing in it ends the element or begins a comment.
fn escape_json(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn escape_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn texts_stay_texts() {
        let evil = "</script><script>alert(1)</script><!--\u{2028}\" & \\";
        let events = vec![Event::new(1, evil, Kind::Note, evil)];
        let picture = Picture {
            title: evil.into(),
            command: evil.into(),
            finding: Some((1, evil.into())),
            events,
            ..Picture::default()
        };
        let page = html(evil, &[picture]).html;
        // The two scripts' own ends, and no other one.
        assert_eq!(page.matches("</script").count(), 2);
        assert_eq!(page.matches("<script").count(), 2);
        assert!(!page.contains("<!--") && !page.contains("alert(1)</"));
        let from = page.find("id=\"data\">").unwrap() + 10;
        let data: Value = serde_json::from_str(&page[from..from + page[from..].find("</script").unwrap()]).unwrap();
        assert_eq!(
            (&data[0]["title"], &data[0]["lanes"][0], &data[0]["events"][0][3]),
            (&json!(evil), &json!(evil), &json!(evil))
        );
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = html("", &[Picture::default()]).html;
        for outside in ["http:", "https:", "src=", "@import", "url(", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn what_is_left_out_is_said() {
        let events = (0..MAX_EVENTS as u64 + 5).map(|at| Event::new(at, "A", Kind::Note, "x")).collect();
        let page = html("", &[Picture::default(), Picture { events, ..Picture::default() }]);
        assert_eq!(page.left_out.len(), 1);
        assert!(page.html.contains(&page.left_out[0]));
    }
}
