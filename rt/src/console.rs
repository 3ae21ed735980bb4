//! What programs say, on standard output and standard error. Libraries say nothing, and no node of a simulation does.
//!
//! `println` and `eprintln` panic when nobody takes what they say: a reader that has seen enough, as `head`, would make
//! a panic of a program's end. Here a line that standard output doesn't take is an error like any other. The program ends
//! with it in its own way, and then [`end`]s.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

/// Exit status of a program whose reader is gone: as a shell has it for one that SIGPIPE ended, 128 and the signal.
pub const UNREAD: i32 = 141;

/// Standard output doesn't take what is said.
#[derive(Debug)]
pub struct Unsaid(pub io::Error);

impl Unsaid {
    /// Whether the reader is gone, as one that has seen enough: that needs no word.
    pub fn is_unread(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

impl Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "standard output can't be written: {}", self.0)
    }
}

impl Error for Unsaid {}

/// Says a line on standard output.
///
/// # Errors
/// [`Unsaid`].
pub fn say(line: impl Display) -> Result<(), Unsaid> {
    say_part(format_args!("{line}\n"))
}

/// Says a part of a line on standard output, at once.
///
/// # Errors
/// [`Unsaid`].
pub fn say_part(part: impl Display) -> Result<(), Unsaid> {
    let mut out = io::stdout().lock();
    write!(out, "{part}").and_then(|()| out.flush()).map_err(Unsaid)
}

/// Says a line on standard error, if anybody hears it.
pub fn complain(line: impl Display) {
    let _unheard = writeln!(io::stderr(), "{line}");
}

/// Ends the program `program` because of `error`: says it, and exits with `status`. If the reader is gone it says
/// nothing, and the status is [`UNREAD`].
pub fn end(program: &str, error: &(dyn Error + 'static), status: i32) -> ! {
    if error.downcast_ref().is_some_and(Unsaid::is_unread) {
        crate::process::exit(UNREAD)
    }
    complain(format_args!("{program}: {error}"));
    crate::process::exit(status)
}
