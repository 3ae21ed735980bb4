//! The log lines of the code under test, in the trace of a run.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// A line of the log; see [`crate::world::World`].
pub struct LogLine(String);

impl fmt::Debug for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes events of tracing into the trace of the run that is under way. Spans are ignored: they would mix between
/// simulated threads.
pub struct LogLines;

impl LogLines {
    /// From now on, for the whole process.
    pub fn install() {
        // Only once; a second time it is there already.
        let _ = tracing::subscriber::set_global_default(LogLines);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string can't fail. Each event has its node as the line's beginning.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "node" => Ok(()),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

impl Subscriber for LogLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        if rt::backend::current().is_some() {
            rt::probe::observe(|| {
                let mut fields = Fields::default();
                event.record(&mut fields);
                LogLine(format!("{}{}", fields.message, fields.others))
            });
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
