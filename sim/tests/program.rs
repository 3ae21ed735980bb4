//! The program `sim`, from its command line to its exit status, and its workers.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "files that the program reads and writes")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rt::time::{Instant, now, sleep};
use sim::workers::{self, Job};

fn sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A device that takes nothing.
fn full() -> fs::File {
    fs::OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn seeds_are_run_and_counted() {
    let output = sim(&["--seeds", "6", "--nodes", "3", "--jobs", "2"]).output().unwrap();
    let text = stdout(&output);
    assert_eq!(status(&output), 0, "{text}");
    assert!(text.contains(" 6 seeds in "), "{text}");
    assert!(text.contains(" linearizability: checked\n") && text.contains(" start\n"), "{text}");
    // However the work is divided, the same comes out.
    let other = sim(&["--seeds", "6", "--nodes", "3", "--jobs", "1"]).output().unwrap();
    let results = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(results(&stdout(&other)), results(&text));
}

#[test]
fn a_seed_is_replayed_with_its_trace() {
    let run = || stdout(&sim(&["--seed", "3"]).output().unwrap());
    let (first, second) = (run(), run());
    let last = first.lines().last().unwrap();
    assert!(last.starts_with("seed 3: ") && last.contains(", hash "), "{last}");
    assert!(first.lines().count() > 1000);
    assert!(first == second, "two traces differ");
}

#[test]
fn determinism_is_verified() {
    let output = sim(&["--verify-determinism", "3"]).output().unwrap();
    assert_eq!((status(&output), &*stdout(&output)), (0, "3 seeds, each run twice: the same\n"));
}

#[test]
fn regressions_are_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("seeds");
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        sim(&["--regressions"]).arg(&file).output().unwrap()
    };
    let output = run("# seeds that once found something\n\n3\n4 --nodes 3 --only crash # a comment\n");
    let text = stdout(&output);
    assert_eq!(status(&output), 0, "{text}");
    assert!(text.starts_with("2 seeds of "), "{text}");
    for (line, why) in [("x", "invalid value 'x'"), ("1 --only gremlins", "gremlins")] {
        let output = run(line);
        let error = stderr(&output);
        assert!(status(&output) == 2 && error.contains(line) && error.contains(why), "{error}");
    }
    for text in ["", "# none yet\n\n  # 3\n"] {
        let output = run(text);
        let error = stderr(&output);
        assert!(status(&output) == 2 && error.contains("there is no seed in it"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_finding_is_told_with_its_seed() {
    let arguments = ["--seeds", "8", "--nodes", "3", "--jobs", "2", "--mistake", "H7-retry-grants"];
    let output = sim(&arguments).output().unwrap();
    let text = stdout(&output);
    assert_eq!(status(&output), 1, "{text}");
    let found = text.lines().find_map(|line| line.strip_prefix("FOUND: seed ")).unwrap();
    let (seed, finding) = found.split_once(": ").unwrap();
    let mut replay = sim(&["--seed", seed, "--nodes", "3", "--mistake", "H7-retry-grants"]);
    let told = replay.output().unwrap();
    assert_eq!(status(&told), 1);
    assert!(stdout(&told).ends_with(&format!("FOUND: {finding}\n")));
    let untold = sim(&arguments).stdout(full()).output().unwrap();
    assert_eq!(status(&untold), 2);
    assert!(stderr(&untold).contains(&format!("FOUND: seed {seed}: {finding}\n")), "{}", stderr(&untold));
}

#[test]
fn a_run_ends_when_the_reader_of_its_trace_is_gone() {
    let mut child = sim(&["--seed", "3"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // As head -1 does.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = stderr(&output);
    assert!(line.contains("3: Plan"), "{line}");
    assert!(error.starts_with("sim: seed 3: the run ends with its trace: standard output can't be written"), "{error}");
    assert_eq!((status(&output), error.lines().count()), (2, 1), "{error}");
}

#[test]
fn a_wrong_command_line_is_told_so() {
    for (arguments, why) in [
        (&[][..], "say what to do"),
        (&["--seeds", "many"], "invalid value 'many'"),
        (&["--seeds", "0"], "invalid value '0'"),
        (&["--verify-determinism", "0"], "invalid value '0'"),
        (&["--seeds", "5", "--seed", "5"], "cannot be used with"),
        (&["--seeds", "5", "--start", "18446744073709551614"], "there are no 5 seeds from 18446744073709551614 on"),
        (&["--verify-determinism", "1", "--start", "18446744073709551615"], "there are no 1 seeds"),
        (&["--canaries", "--start", "18446744073709551615"], "there are no "),
        (&["--seeds", "5", "--jobs", "0"], "--jobs"),
        (&["--seeds", "5", "--nodes", "0..3"], "a range of 1..7"),
        (&["--seeds", "5", "--nodes", "5..3"], "a range of 1..7"),
        (&["--seeds", "5", "--only", "gremlins"], "possible values"),
        (&["--seeds", "5", "--mistake", "unheard-of"], "there is no such mistake"),
        (&["--seeds", "5", "--mistake", "H1"], "there is no such mistake"),
        (&["--canaries", "H1", "H1-s"], "there is no such mistake; there are: H1-serves-after-restart "),
        (&["--regressions", "/no/such/file"], "/no/such/file: "),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        let output = sim(arguments).output().unwrap();
        let error = stderr(&output);
        assert_eq!(status(&output), 2, "{arguments:?}: {error}");
        assert!(error.contains(why) && output.stdout.is_empty(), "{arguments:?}: {error}");
    }
}

#[test]
fn nothing_begins_after_the_time() {
    // All that can be; more than can be listed. It wouldn't end otherwise.
    let seeds = ["--seeds", "18446744073709551615", "--start", "0", "--nodes", "3"];
    let output = sim(&seeds).args(["--time", "2", "--jobs", "2"]).output().unwrap();
    let text = stdout(&output);
    assert_eq!(status(&output), 0, "{text}");
    assert!(!text.contains("the worker died"), "{text}");
}

#[test]
fn the_time_may_be_for_ever() {
    let output = sim(&["--seeds", "1", "--nodes", "3", "--time", "18446744073709551615"]).output().unwrap();
    assert_eq!(status(&output), 0, "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn a_result_that_nobody_takes_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("seeds");
    fs::write(&file, "3 --nodes 3\n").unwrap();
    for (arguments, result) in [
        (&["--seeds", "2", "--nodes", "3"][..], " 2 seeds in "),
        (&["--seed", "3"], "seed 3: "),
        (&["--verify-determinism", "1"], "1 seeds, each run twice: the same"),
        (&["--canaries", "H7-retry-grants", "--nodes", "3"], "found     H7-retry-grants"),
        (&["--regressions", file.to_str().unwrap()], "1 seeds of "),
    ] {
        let output = sim(arguments).stdout(full()).output().unwrap();
        let error = stderr(&output);
        assert_eq!(status(&output), 2, "{arguments:?}: {error}");
        assert!(error.contains(result) && error.contains("standard output can't be written: "), "{error}");
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        // A reader that is gone, and nobody to complain to.
        let mut child = sim(arguments).stdout(Stdio::piped()).stderr(full()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_says_what_each_status_means() {
    let output = sim(&["--help"]).output().unwrap();
    let text = stdout(&output);
    assert!(status(&output) == 0 && text.contains("Exit status: 0 if nothing was found"), "{text}");
    assert!(!text.contains("--worker"), "{text}");
    let unread = sim(&["--help"]).stdout(full()).output().unwrap();
    assert!(!stderr(&unread).contains("panicked"), "{}", stderr(&unread));
}

/// Sends a signal to a process, or to a group if its number is negative; whether there was any.
fn signal(signal: &str, id: i64) -> bool {
    let command = Command::new("kill").args([signal, "--", &id.to_string()]).stderr(Stdio::null()).status();
    command.unwrap().success()
}

#[test]
fn no_worker_outlives_the_program() {
    for (how, group) in [("-INT", true), ("-TERM", false), ("-KILL", false)] {
        let arguments = ["--seeds", "1000000", "--nodes", "3", "--jobs", "2"];
        let mut child = sim(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let id = i64::from(child.id());
        sleep(Duration::from_secs(1));
        // As Ctrl-C does, or who knows the program only.
        assert!(signal(how, if group { -id } else { id }));
        assert!(!child.wait().unwrap().success());
        let deadline = now() + Duration::from_secs(60);
        while signal("-0", -id) {
            assert!(now() < deadline, "{how}: a worker is left");
            sleep(Duration::from_millis(50));
        }
    }
}

/// A job whose workers are a shell script; in it, $START and $END are a worker's seeds.
fn script(text: &str, seeds: std::ops::Range<u64>) -> Job {
    let script = format!("while [ \"$1\" != --worker ]; do shift; done; START=$2; END=$(($2 + $3))\n{text}");
    let command = ["sh", "-c", &script, "worker"].map(Into::into).to_vec();
    Job { seeds, command, jobs: 3, until: Instant::NEVER, stop_at_finding: false }
}

/// Writes the line of each seed.
const WELL: &str = "printf 'seed\\t%s\\t1\\t2\\t1000\\t5\\t77\\t0\\t-\\n' $seed";

#[test]
fn a_worker_that_dies_is_a_finding_and_the_rest_is_run() {
    let text = format!(
        "for seed in $(seq $START $((END - 1))); do
           case $seed in
             7) echo one >&2; echo two >&2; kill -9 $$;;
             9) printf 'seed\\t9\\t1\\t2\\t1000\\t5\\t77\\t0'; exit 0;;
             11) exit 3;;
           esac
           {WELL}
         done
         printf 'count\\tstart\\t%s\\n' $((END - START))"
    );
    let totals = workers::run(&script(&text, 1..40), |_| {}).unwrap();
    assert_eq!(totals.findings.keys().copied().collect::<Vec<_>>(), [7, 9, 11]);
    assert!(totals.findings[&7].starts_with("the worker died: signal: 9"), "{}", totals.findings[&7]);
    assert!(totals.findings[&7].ends_with(": one | two"), "{}", totals.findings[&7]);
    assert!(totals.findings[&9].starts_with("the worker died: exit status: 0"), "{}", totals.findings[&9]);
    assert!(totals.findings[&11].starts_with("the worker died: exit status: 3"), "{}", totals.findings[&11]);
    // Each other seed once.
    assert_eq!((totals.seeds, totals.acknowledged), (36, 36));
    assert!(totals.counts["start"] <= 36);
}

#[test]
fn a_worker_that_dies_at_its_very_end_is_a_finding_of_its_last_seed() {
    let text = format!("for seed in $(seq $START $((END - 1))); do {WELL}; done; [ $END -lt 24 ]");
    let totals = workers::run(&Job { jobs: 1, ..script(&text, 0..24) }, |_| {}).unwrap();
    assert_eq!((totals.findings.keys().copied().collect::<Vec<_>>(), totals.seeds), (vec![23], 24));
}

#[test]
fn a_worker_may_complain_at_length() {
    let text =
        format!("head -c 1000000 /dev/zero | tr '\\0' x >&2; for seed in $(seq $START $((END - 1))); do {WELL}; done");
    let totals = workers::run(&script(&text, 0..5), |_| {}).unwrap();
    assert_eq!((totals.findings.len(), totals.seeds), (0, 5));
}

#[test]
fn one_finding_may_be_enough() {
    let text = "for seed in $(seq $START $((END - 1))); do
                  printf 'seed\\t%s\\t1\\t2\\t1000\\t5\\t77\\t0\\t+wrong\\n' $seed; sleep 0.2
                done";
    let job = Job { stop_at_finding: true, ..script(text, 0..100_000) };
    let began = now();
    let totals = workers::run(&job, |_| {}).unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!((1..10).contains(&totals.findings.len()) && totals.findings.values().all(|finding| finding == "wrong"));
}

#[test]
fn a_program_that_cannot_be_started_is_an_error() {
    let job = Job { command: vec!["/no/such/program".into()], ..script("", 0..10) };
    assert!(workers::run(&job, |_| {}).is_err());
    assert!(workers::run(&Job { command: vec![], ..job }, |_| {}).is_err());
}
