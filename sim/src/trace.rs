//! The log lines of the code under test, in the trace of a run and in its recording.

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

/// An event of a picture; see [`crate::world::World`].
#[derive(Debug)]
pub struct Recorded(pub trace::Event);

/// Takes events of tracing into the trace of the run that is under way, and into its recording. Spans are ignored: they
/// would mix between simulated threads.
#[derive(Default)]
pub struct LogLines {
    /// How lines become events of a picture; without, they don't.
    recorded: Option<trace::Lines>,
}

impl LogLines {
    /// From now on, for the whole process.
    pub fn install() {
        // Only once; a second time it is there already.
        let _ = tracing::subscriber::set_global_default(LogLines::default());
    }

    /// As [`LogLines::install`], for runs that are recorded: lines become events as `lines` has it.
    pub fn install_recording(lines: trace::Lines) {
        let _ = tracing::subscriber::set_global_default(LogLines { recorded: Some(lines) });
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
        *metadata.level() <= Level::DEBUG || self.recorded.as_ref().is_some_and(|lines| lines.wants(metadata))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        if rt::backend::current().is_none() {
            return;
        }
        if let Some(event) = self.recorded.as_ref().and_then(|lines| lines.read(event)) {
            rt::probe::observe(|| Recorded(event));
        }
        if *event.metadata().level() <= Level::DEBUG {
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
