//! Log lines (tracing) as events.
//!
//! What becomes an event, the first that fits:
//! 1. A line under the target `yfs_rpc::message`: a message, named by its client, its xid and whether it is a request.
//! 2. A line with a field `kind`, one of [`Kind`]'s names: what a program says of itself. Its text is the line's message;
//!    fields `message_id` and `peer` are the event's `message` and `peer`.
//! 3. A line in the stack's table, in the table's words.
//! 4. A line at INFO or above: a note, with its fields.
//!
//! The node is the line's field `node`, else the name that the process was given, else that of the thread's node.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use rt::thread::Node;
use rt::time::machine_clock;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use crate::event::{Event, Kind, REPLY};
use crate::stack::{self, Describer, Line, describe};

/// The target of the rpc crate's lines about messages.
const MESSAGES: &str = "yfs_rpc::message";
/// The stack's crates have targets that begin so.
const STACK: &str = "yfs_";
/// Who logs without a name.
const UNNAMED: &str = "unnamed";
/// A text is cut off behind so many characters: it is for looking at.
const TEXT_CHARACTERS: usize = 300;

/// How lines become events.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    process: Option<String>,
    aliases: BTreeMap<String, String>,
    describers: Vec<Describer>,
}

impl Lines {
    /// For a process with any number of nodes, with the stack's procedures.
    pub fn new() -> Self {
        Lines::default()
    }

    /// The process is one node, of this name.
    #[must_use]
    pub fn of_process(self, name: &str) -> Self {
        Lines { process: Some(name.to_owned()), ..self }
    }

    /// The node that logs, or is reached, under one name is to be called by the other.
    #[must_use]
    pub fn alias(mut self, name: &str, shown: &str) -> Self {
        self.aliases.insert(name.to_owned(), shown.to_owned());
        self
    }

    /// Has a program's own procedures described; asked before the stack's table.
    #[must_use]
    pub fn describe(mut self, describer: Describer) -> Self {
        self.describers.push(describer);
        self
    }

    /// Whether a line like this may become an event.
    pub fn wants(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
            || metadata.target().starts_with(STACK)
            || metadata.fields().field("kind").is_some()
    }

    /// The event of a line, now; `None` if it is none.
    pub fn read(&self, line: &tracing::Event<'_>) -> Option<Event> {
        let metadata = line.metadata();
        if !self.wants(metadata) {
            return None;
        }
        let mut fields = Fields::default();
        line.record(&mut fields);
        let mut event = if metadata.target() == MESSAGES {
            self.message(&fields)?
        } else if let Some(kind) = fields.get("kind").and_then(|name| Kind::from_name(&name)) {
            let mut event = Event::new(0, "", kind, fields.message.clone());
            (event.message, event.peer) = (fields.get("message_id"), fields.get("peer"));
            event
        } else {
            let (kind, text) = match stack::line(metadata.target(), &fields.message) {
                Some(Line::Hidden) => return None,
                Some(Line::Shown(kind, form)) => (kind, self.filled(form, &fields)),
                None if *metadata.level() <= Level::INFO => (Kind::Note, fields.line()),
                None => return None,
            };
            Event::new(0, "", kind, text)
        };
        if let Some((end, _)) = event.text.char_indices().nth(TEXT_CHARACTERS) {
            event.text.truncate(end);
            event.text.push('…');
        }
        let node = fields.get("node").or_else(|| self.process.clone());
        event.node = self.called(node.unwrap_or_else(thread_node));
        event.peer = event.peer.map(|peer| self.called(peer));
        event.at = u64::try_from(machine_clock().as_micros()).unwrap_or(u64::MAX);
        Some(event)
    }

    fn called(&self, name: String) -> String {
        self.aliases.get(&name).cloned().unwrap_or(name)
    }

    fn message(&self, fields: &Fields) -> Option<Event> {
        let (kind, reply) = match fields.message.as_str() {
            "request sent" => (Kind::Sent, ""),
            "request received" => (Kind::Received, ""),
            "reply sent" => (Kind::Sent, REPLY),
            "reply received" => (Kind::Received, REPLY),
            _ => return None,
        };
        let number = |name| fields.get(name)?.parse::<i64>().ok();
        let procedure = u32::try_from(number("procedure")?).ok()?;
        let asked = describe(procedure, &fields.args, &self.describers);
        let text = match number("value").unwrap_or(0) {
            _ if reply.is_empty() => asked,
            0 => format!("reply to {asked}"),
            // The transport's failures are negative.
            value if value < 0 => format!("reply to {asked}: error {value}"),
            value => format!("reply to {asked}: status {value}"),
        };
        let mut event = Event::new(0, "", kind, text);
        event.message = Some(format!("{:08x}.{}{reply}", number("client")?, number("xid")?));
        event.peer = fields.get("peer");
        Some(event)
    }

    /// A form of the table with the fields' values in it; of what was executed, what that was.
    fn filled(&self, form: &str, fields: &Fields) -> String {
        let mut text = form.to_owned();
        for (name, value) in &fields.others {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        if let Some(procedure) = fields.get("procedure").and_then(|number| number.parse().ok()) {
            text = format!("{text} {}", describe(procedure, &fields.args, &self.describers));
        }
        if fields.get("ran").as_deref() == Some("false") {
            text.push_str(" (not again)");
        }
        text
    }
}

/// The name of the thread's node. A thread without one is somebody, and not everybody.
fn thread_node() -> String {
    let node = Node::current();
    if node.name().is_empty() { UNNAMED.to_owned() } else { node.name().to_owned() }
}

/// What a line says.
#[derive(Default)]
struct Fields {
    message: String,
    args: Vec<u8>,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<String> {
        self.others.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
    }

    /// The line as a log would have it.
    fn line(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in self.others.iter().filter(|(name, _)| *name != "node") {
            // Writing to a string can't fail.
            let _ = write!(text, " {name}={value}");
        }
        text
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => self.others.push((name, value.to_owned())),
        }
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        if field.name() == "args" {
            self.args = value.to_vec();
        }
    }
}
