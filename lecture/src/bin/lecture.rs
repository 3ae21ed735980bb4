//! The lecture, step by step.

use std::path::{Path, PathBuf};

use clap::Parser;
use lecture::file::advised;
use lecture::story::{STEPS, Stage};
use processes::os;
use processes::trouble::{Trouble, exit_status};
use rt::console::{complain, say};
use rt::fs;

/// Shows the lecture's story step by step: what to expect, what is typed, what happens, and whether it is as expected.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "\
The programs (srv, client, coord, cut; from step 5 on view_server, pb_srv, pb_client; in step 8 rsm_srv, rsm_client) run on
free ports of this machine, in a temporary folder. Nothing is left running, however this ends.

Exit status: 0 if all was as expected, what must go wrong included; 1 if not; 2 after a wrong command line, 130 after Ctrl-C,
141 if nobody reads what it says."
)]
struct Arguments {
    /// Only this step.
    #[arg(value_name = "STEP", value_parser = clap::value_parser!(u8).range(1..=STEPS.len() as i64))]
    step: Option<u8>,

    /// Put the files and what the programs say into this folder, which must be empty or not be there, and leave them.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Write a page with a picture of each step to this file; it is replaced.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    os::catch_interrupts();
    rt::process::exit(exit_status("lecture", run(&arguments)))
}

fn run(arguments: &Arguments) -> Result<bool, Trouble> {
    let here = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    let programs = here.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix("yfs-lecture-").tempdir().map_err(no_folder)?;
    let folder = match &arguments.keep {
        None => temporary.path().to_owned(),
        Some(folder) => {
            fs::create_dir_all(folder).map_err(no_folder)?;
            if !fs::list(folder).map_err(no_folder)?.is_empty() {
                return Err(Trouble::Failed(format!("{} is not empty: name another folder", folder.display())));
            }
            // The programs run in folders of their own.
            std::path::absolute(folder).map_err(no_folder)?
        }
    };
    if let Some(file) = &arguments.html {
        // That it can't be written is told now, not at the end.
        write(file, "<!DOCTYPE html><title>Lecture 19</title><p>The lecture has not come to its end.\n")?;
    }
    let (mut failed, mut pictures) = (Vec::new(), Vec::new());
    for step in STEPS.iter().filter(|step| arguments.step.is_none_or(|number| step.number == number)) {
        let folder = folder.join(format!("step{}", step.number));
        fs::create_dir_all(&folder).map_err(no_folder)?;
        let mut stage = Stage::new(programs, &folder, arguments.html.is_some());
        match stage.show(step) {
            Ok(true) => {}
            Ok(false) => failed.push(step.number.to_string()),
            Err(Trouble::Failed(what)) => {
                say(format_args!("  FAIL  {what}"))?;
                failed.push(step.number.to_string());
            }
            Err(other) => return Err(other),
        }
        if arguments.html.is_some() {
            pictures.extend(stage.pictures(step)?);
        }
    }
    if let Some(file) = &arguments.html {
        let page = trace::html("Lecture 19", &pictures);
        page.left_out.iter().for_each(|what| complain(format_args!("lecture: {what}")));
        write(file, &page.html)?;
        say(format_args!("\nPictures of what happened are in {}: open it in a browser", file.display()))?;
    }
    if !failed.is_empty() {
        // What was seen is kept.
        let folder = arguments.keep.clone().unwrap_or_else(|| temporary.keep());
        say(format_args!("\nFAIL  step {}: files and outputs are in {}", failed.join(", "), folder.display()))?;
        return Ok(false);
    }
    say("\nPASS  all was as expected, what must go wrong included")?;
    Ok(true)
}

fn write(file: &Path, page: &str) -> Result<(), Trouble> {
    Ok(trace::write_page(file, page).map_err(|e| format!("{}: {}", file.display(), advised(&e)))?)
}

fn no_folder(error: std::io::Error) -> Trouble {
    Trouble::Failed(format!("no folder for the programs' files: {}", advised(&error)))
}
