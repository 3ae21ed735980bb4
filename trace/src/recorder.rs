//! A subscriber of tracing that writes a process's events to a file.
//!
//! Lock: `trace.recorder` guards the file. It ranks above all others, so that a line may be logged under any lock. An event
//! gets its time under it: a file's times only grow.

use std::fmt;
use std::io;
use std::path::Path;

use rt::fs::File;
use rt::sync::{Mutex, Rank};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber, span};

use crate::event::{Event, Kind};
use crate::lines::Lines;

const RANK: Rank = Rank::new(u16::MAX - 1, "trace.recorder");

type Unwritten = Box<dyn Fn(&io::Error) + Send + Sync>;

struct Output {
    /// None after an error.
    file: Option<File>,
}

/// Writes what is logged to a file, one line of JSON an event, as it happens. A killed process loses nothing but, perhaps,
/// the line that it was writing.
pub struct Recorder {
    lines: Lines,
    output: Mutex<Output>,
    unwritten: Unwritten,
    beside: Option<Box<dyn Subscriber + Send + Sync>>,
}

impl Recorder {
    /// Appends to a file. What is left of a line that a killed process was writing is cut off first.
    ///
    /// `unwritten` is told, once, when the file can't be written any more; no further event is recorded then.
    ///
    /// # Errors
    /// When the file can't be opened, or can't be read.
    pub fn append(
        path: &Path,
        lines: Lines,
        unwritten: impl Fn(&io::Error) + Send + Sync + 'static,
    ) -> io::Result<Recorder> {
        let file = File::append(path)?;
        // A pipe has no end to be torn, and would be read for ever.
        let there = if rt::fs::is_file(path)? { rt::fs::read(path)? } else { Vec::new() };
        if !there.is_empty() && there.last() != Some(&b'\n') {
            let whole = there.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            file.set_len(whole as u64)?;
        }
        let output = Mutex::new(RANK, Output { file: Some(file) });
        Ok(Recorder { lines, output, unwritten: Box::new(unwritten), beside: None })
    }

    /// Hands each line to another subscriber, too: a log for people.
    #[must_use]
    pub fn beside(self, other: impl Subscriber + Send + Sync) -> Recorder {
        Recorder { beside: Some(Box::new(other)), ..self }
    }

    /// From now on takes the lines of the whole process; false if another subscriber does so already.
    pub fn install(self) -> bool {
        tracing::subscriber::set_global_default(self).is_ok()
    }

    fn write(&self, mut make: impl FnMut() -> Option<Event>) {
        let mut output = self.output.lock();
        let Some(file) = &mut output.file else { return };
        // An event is text: that it can't be written as JSON doesn't happen.
        let Some(mut line) = make().and_then(|event| serde_json::to_vec(&event).ok()) else { return };
        line.push(b'\n');
        if let Err(error) = file.write_all(&line) {
            output.file = None;
            drop(output);
            (self.unwritten)(&error);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// Says something of the caller's node in words of the caller's; the same as a line with a field `kind`.
pub fn say(kind: Kind, text: &str) {
    tracing::info!(kind = kind.name(), "{text}");
}

impl Subscriber for Recorder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let other = self.beside.as_ref().map(|other| other.register_callsite(metadata));
        match (self.lines.wants(metadata), other) {
            (true, None) => Interest::always(),
            (false, None) => Interest::never(),
            (_, Some(other)) if other.is_sometimes() => other,
            (true, Some(_)) => Interest::always(),
            (false, Some(other)) => other,
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.wants(metadata) || self.beside.as_ref().is_some_and(|other| other.enabled(metadata))
    }

    fn event(&self, event: &tracing::Event<'_>) {
        self.write(|| self.lines.read(event));
        if let Some(other) = self.beside.as_ref().filter(|other| other.enabled(event.metadata())) {
            other.event(event);
        }
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        match &self.beside {
            Some(other) if other.enabled(attributes.metadata()) => other.new_span(attributes),
            _ => span::Id::from_u64(u64::MAX),
        }
    }

    // The stack has no spans; those of a program are the other subscriber's, if it made them.
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
