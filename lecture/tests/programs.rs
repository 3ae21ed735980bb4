//! The programs, from their command lines to their exit statuses, and steps of the story with them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use processes::os::{Signal, draw_port, send};
use rt::fs::{File, read};
use rt::time::{now, sleep};

const SRV: &str = env!("CARGO_BIN_EXE_srv");
const CLIENT: &str = env!("CARGO_BIN_EXE_client");
const COORD: &str = env!("CARGO_BIN_EXE_coord");
const CUT: &str = env!("CARGO_BIN_EXE_cut");
const LECTURE: &str = env!("CARGO_BIN_EXE_lecture");

fn output(program: &str, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn steps_1_and_3_are_as_expected() {
    for step in ["1", "3"] {
        let folder = tempfile::tempdir().unwrap();
        let (status, told, error) = output(LECTURE, &[step, "--keep", folder.path().to_str().unwrap()]);
        assert_eq!((status, &*error), (0, ""), "{told}");
        assert!(told.contains(&format!("Step {step}: ")) && !told.contains("FAIL"), "{told}");
        assert!(told.ends_with("PASS  all was as expected, what must go wrong included\n"), "{told}");
        let file = read(&folder.path().join(format!("step{step}/a"))).unwrap();
        assert!(String::from_utf8(file).unwrap().starts_with("1 "));
        let (status, _, error) = output(LECTURE, &[step, "--keep", folder.path().to_str().unwrap()]);
        assert!(status == 1 && error.contains("is not empty"), "{error}");
    }
}

#[test]
fn what_cannot_be_used_is_told_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    let file = file.to_str().unwrap();
    let port = draw_port().unwrap().number.to_string();
    let mut first = Command::new(SRV).args([file, &port, "--log", "off"]).spawn().unwrap();
    let deadline = now() + Duration::from_secs(20);
    while output(CLIENT, &[&port, "--do", "deposit alice 5"]).0 != 0 {
        assert!(now() < deadline);
        sleep(Duration::from_millis(20));
    }
    let garbage = folder.path().join("garbage");
    File::append(&garbage).unwrap().write_all(b"1 deposit alice 5 -> 5 | alice 5\nhello\n").unwrap();
    let garbage = garbage.to_str().unwrap();
    let free = draw_port().unwrap().number.to_string();
    for (program, arguments, why) in [
        (SRV, &[garbage, &free][..], "line 2: it doesn't begin as \"2 \", an operation, \" -> \": move the file away"),
        (SRV, &["/dev/full", &free], "/dev/full: this is no file"),
        (
            SRV,
            &["/no/such/folder/a", &free],
            "/no/such/folder/a: No such file or directory (os error 2): create the folder",
        ),
        (SRV, &[file, "nohost.invalid:5001"], "check the host's name"),
        (SRV, &[file, &free], "another server uses this file"),
        (SRV, &["/dev/null/a", &port], "stop the program that uses the port"),
        (COORD, &[&port, "1", "2"], "stop the program that uses the port"),
        (CLIENT, &[&free], "no server answers"),
        (CLIENT, &[&free, "--turn", "--do", "read alice"], "no server answers"),
        (CUT, &[&port, &free], "start it with --test"),
        (CUT, &[&free], "check that it runs"),
    ] {
        let (status, _, error) = output(program, arguments);
        assert!(status == 1 && error.contains(why) && error.lines().count() == 1, "{arguments:?}: {status} {error}");
    }
    for (program, arguments, why) in [
        (SRV, &[file][..], "PORT"),
        (SRV, &[file, "0"], "neither a port nor host:port"),
        (CLIENT, &[], "PORT"),
        (CLIENT, &["5001", "--do", "burn alice"], "is no operation"),
        (COORD, &["5099"], "SRV"),
        (COORD, &["5099", "5001", "127.0.0.1:5001"], "Usage: coord "),
        (COORD, &["5099", "5099", "5001"], "5099 is named twice"),
        (CLIENT, &["5001", "5001"], "5001 is named twice"),
        (CLIENT, &["5001", "--pause", "86400001"], "--pause"),
        (LECTURE, &["99"], "99"),
    ] {
        let (status, _, error) = output(program, arguments);
        assert!(status == 2 && error.contains(why), "{arguments:?}: {status} {error}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn each_program_has_help() {
    for program in [SRV, CLIENT, COORD, CUT, LECTURE] {
        let (status, help, _) = output(program, &["--help"]);
        assert!(status == 0 && help.contains("Exit status: 0"), "{help}");
    }
}

/// What half a line may have been written for is executed no more, and no operation after it.
#[test]
fn a_server_whose_file_cannot_be_written_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let port = draw_port().unwrap().number.to_string();
    let mut limited = Command::new("/bin/sh");
    // A KiB or half of one, as the shell has it.
    limited.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\"", SRV, "a", &port, "--log", "off"]);
    let srv = limited.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut refused = String::new();
    let deadline = now() + Duration::from_secs(20);
    while !refused.contains("refuses: a: ") {
        assert!(now() < deadline, "{refused}");
        refused = output(CLIENT, &[&port, "--ops", "100", "--pause", "0"]).1;
    }
    let ended = srv.wait_with_output().unwrap();
    let error = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && error.starts_with("srv: a: File too large"), "{error}");
    assert!(error.contains("make room, then start again"), "{error}");
    // What of the last line is there it drops, and goes on.
    let mut again =
        Command::new(SRV).args(["a", &port]).current_dir(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = now() + Duration::from_secs(20);
    while output(CLIENT, &[&port, "--do", "deposit alice 5"]).0 != 0 {
        assert!(now() < deadline);
        sleep(Duration::from_millis(20));
    }
    send(&again, Signal::Interrupt).unwrap();
    let mut told = String::new();
    again.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(again.wait().unwrap().success() && told.contains("WARN drops the last line, which is cut short"), "{told}");
}

#[test]
fn a_pause_ends_at_a_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let port = draw_port().unwrap().number.to_string();
    let mut srv =
        Command::new(SRV).args(["a", &port]).current_dir(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(srv.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut client = Command::new(CLIENT).args([&*port, "--pause", "86400000"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(client.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    send(&client, Signal::Interrupt).unwrap();
    let began = now();
    line.clear();
    out.read_to_string(&mut line).unwrap();
    assert!(line.starts_with("1 operations sent, 1 answered") && client.wait().unwrap().success(), "{line}");
    assert!(began.elapsed() < Duration::from_secs(10));
    srv.kill().unwrap();
    srv.wait().unwrap();
}

#[test]
fn the_whole_lecture_ends_with_its_programs_at_a_ctrl_c() {
    let mut lecture = Command::new(LECTURE).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(lecture.stdout.take().unwrap());
    let mut told = String::new();
    while !told.contains("$ client") {
        assert!(out.read_line(&mut told).unwrap() > 0, "{told}");
    }
    send(&lecture, Signal::Interrupt).unwrap();
    out.read_to_string(&mut told).unwrap();
    assert_eq!(lecture.wait().unwrap().code(), Some(130), "{told}");
    // "$ srv a 12345 &"
    let ports = told.lines().filter_map(|line| line.trim().strip_prefix("$ srv a ")?.strip_suffix(" &"));
    for port in ports {
        assert_eq!(output(CLIENT, &[port, "--do", "read alice"]).0, 1, "a server is left");
    }
}
