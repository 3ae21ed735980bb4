//! What the lecture's programs share: logging, names, and how they end.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use lecture::file::advised;
use rt::console::complain;
use trace::{Lines, Recorder};
use tracing_subscriber::filter::LevelFilter;

/// Exit status for everything but a wrong command line, which is clap's 2.
pub(crate) const FAILED: i32 = 1;

/// How often a program that only serves looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// Settings that every program takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// How much to log to standard output: off, error, warn, info, debug or trace [default: info; a client's: off].
    #[arg(long, value_name = "LEVEL")]
    log: Option<LevelFilter>,

    /// Append what happens, messages included, to this file; `trace --html PAGE FILE ...` draws such files.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl Common {
    /// Starts logging, and from now on Ctrl-C is only noted. To be called once, first, with the program's name, for
    /// complaints, and a node's. In a trace a client is called as its file.
    pub(crate) fn set_up(&self, program: &'static str, node: Option<&str>, default: LevelFilter) {
        let log = tracing_subscriber::fmt()
            .log_internal_errors(false)
            .with_max_level(self.log.unwrap_or(default))
            .with_target(false)
            .without_time()
            .with_ansi(false);
        match &self.trace {
            None => log.init(),
            Some(file) => {
                let stem = file.file_stem().unwrap_or_default().to_string_lossy();
                let name = node.unwrap_or(&stem);
                let lines = Lines::new().of_process(name).alias("client", &stem).describe(lecture::traced::describe);
                let path = file.display().to_string();
                let unwritten = move |error: &_| complain(format_args!("{program}: {path}: no longer traced: {error}"));
                match Recorder::append(file, lines, unwritten) {
                    Ok(recorder) => drop(recorder.beside(log.finish()).install()),
                    Err(error) => end(program, Err(format!("{}: {}", file.display(), advised(&error)).into())),
                }
            }
        }
        processes::os::catch_interrupts();
        rt::process::outlive_file_size_limit();
    }
}

/// A name of a node, as the command lines have it: `port` or `host:port`.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    yfs_rpc::names::address(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Ends the program if its command line names a node twice.
#[allow(dead_code, reason = "not every program is told nodes that must differ")]
pub(crate) fn ensure_distinct<A: CommandFactory>(program: &'static str, names: &[String]) {
    let same = |one: &String, other: &String| yfs_rpc::names::address(one) == yfs_rpc::names::address(other);
    if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].iter().any(|n| same(n, name))) {
        let why = format!("{twice} is named twice: each node is a program of its own, with a port of its own");
        A::command().bin_name(program).error(ErrorKind::ValueValidation, why).exit();
    }
}

/// Returns at Ctrl-C, or fails with what `broken` says.
#[allow(dead_code, reason = "not every program serves")]
pub(crate) fn serve(broken: impl Fn() -> Option<String>) -> Result<(), Box<dyn Error>> {
    while !processes::os::interrupted() {
        if let Some(why) = broken() {
            return Err(why.into());
        }
        rt::time::sleep(LOOK);
    }
    Ok(())
}

/// Ends the program with what came of it.
pub(crate) fn end(program: &str, outcome: Result<i32, Box<dyn Error>>) -> ! {
    match outcome {
        Ok(status) => rt::process::exit(status),
        Err(error) => rt::console::end(program, &*error, FAILED),
    }
}
