//! Pictures of traces: the files of a run's processes as a page for a browser, or as columns for a terminal.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rt::console::{complain, say_part};
use trace::{Picture, columns, html, read};

/// Puts the traces of several processes together, and draws what they did and said to each other.
#[derive(Parser, Debug)]
#[command(
    name = "trace",
    version,
    after_help = "\
Examples:
  trace --html run.html a.jsonl b.jsonl c.jsonl    a page, to be opened in a browser
  trace a.jsonl b.jsonl c.jsonl                    columns, for the terminal

Exit status: 0 if the picture is there, 1 if a file can't be read or written, 2 if the command line is wrong."
)]
struct Arguments {
    /// Files of events, one of each process.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Write a page to this file; it is replaced. Without, columns go to standard output.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// The page's title.
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,

    /// The columns' width together.
    #[arg(long, value_name = "CHARACTERS", env = "COLUMNS", default_value_t = 120)]
    width: usize,
}

fn main() -> ExitCode {
    match draw(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("trace: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn draw(arguments: &Arguments) -> Result<(), String> {
    let events = read(&arguments.files).map_err(|error| error.to_string())?;
    let names: Vec<String> = arguments.files.iter().map(|file| file.display().to_string()).collect();
    let picture = Picture {
        title: arguments.title.clone().unwrap_or_else(|| names.join(" ")),
        command: format!(
            "trace --html {} {}",
            arguments.html.as_deref().unwrap_or(Path::new("FILE")).display(),
            names.join(" ")
        ),
        zero: events.first().map_or(0, |event| event.at),
        events,
        ..Picture::default()
    };
    let Some(file) = &arguments.html else {
        return say_part(columns(&picture, arguments.width)).map_err(|unsaid| unsaid.to_string());
    };
    let page = html(&picture.title, std::slice::from_ref(&picture));
    page.left_out.iter().for_each(|what| complain(format_args!("trace: {what}")));
    trace::write_file(file, page.html.as_bytes()).map_err(|error| format!("{}: {error}", file.display()))
}
