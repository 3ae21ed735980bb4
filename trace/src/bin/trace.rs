//! Pictures of traces: the files of a run's processes as a page for a browser, or as columns for a terminal.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rt::console::{complain, say_part};
use trace::{Picture, columns, html, read, window};

/// Puts the traces of several processes together, and draws what they did and said to each other.
#[derive(Parser, Debug)]
#[command(
    name = "trace",
    version,
    after_help = "\
Examples:
  trace --html run.html a.jsonl b.jsonl c.jsonl    a page, to be opened in a browser
  trace a.jsonl b.jsonl c.jsonl                    columns, for the terminal

Exit status: 0 if the picture is there, 1 if a file can't be read or written, 2 if the command line is wrong,
141 if nobody reads the columns."
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

    /// How wide the columns are together.
    #[arg(long, value_name = "CHARACTERS", default_value_t = 120)]
    width: usize,

    /// Only from this second after the first event on.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    from: Option<f64>,

    /// Only up to this second after the first event.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    to: Option<f64>,
}

fn main() -> ExitCode {
    match draw(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => rt::console::end("trace", &*error, 1),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
    seconds.ok_or_else(|| "a number of seconds is meant, as 1.5".to_owned())
}

fn draw(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let events = read(&arguments.files)?;
    let zero = events.first().map_or(0, |event| event.at);
    let names: Vec<String> = arguments.files.iter().map(|file| file.display().to_string()).collect();
    let picture = Picture {
        title: arguments.title.clone().unwrap_or_else(|| names.join(" ")),
        command: format!(
            "trace --html {} {}",
            arguments.html.as_deref().unwrap_or(Path::new("FILE")).display(),
            names.join(" ")
        ),
        zero,
        window: window(zero, arguments.from, arguments.to)?,
        events,
        ..Picture::default()
    };
    let Some(file) = &arguments.html else {
        return Ok(say_part(columns(&picture, arguments.width))?);
    };
    let page = html(&picture.title, std::slice::from_ref(&picture));
    page.left_out.iter().for_each(|what| complain(format_args!("trace: {what}")));
    Ok(trace::write_page(file, &page.html).map_err(|error| format!("{}: {error}", file.display()))?)
}
