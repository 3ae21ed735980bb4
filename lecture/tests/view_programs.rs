//! The programs of steps 5 to 8, from their command lines to their exit statuses, and the steps themselves.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output, Stdio};

use lecture::bank::{MAX_ACCOUNTS, MAX_NAME_BYTES};
use lecture::pb_state::MAX_LOG;
use processes::os::draw_port;
use rt::fs::File;
use rt::net::TcpPort;

const LECTURE: &str = env!("CARGO_BIN_EXE_lecture");
const VIEW_SERVER: &str = env!("CARGO_BIN_EXE_view_server");
const PB_SRV: &str = env!("CARGO_BIN_EXE_pb_srv");
const PB_CLIENT: &str = env!("CARGO_BIN_EXE_pb_client");
const RSM_SRV: &str = env!("CARGO_BIN_EXE_rsm_srv");
const RSM_CLIENT: &str = env!("CARGO_BIN_EXE_rsm_client");

fn output(program: &str, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn is_as_expected(step: &str) {
    let (status, told, error) = output(LECTURE, &[step]);
    assert_eq!((status, &*error), (0, ""), "{told}");
    assert!(told.contains(&format!("Step {step}: ")) && !told.contains("FAIL"), "{told}");
}

#[test]
fn step_5_is_as_expected() {
    is_as_expected("5");
}

#[test]
fn step_6_is_as_expected() {
    is_as_expected("6");
}

#[test]
fn step_7_is_as_expected() {
    is_as_expected("7");
}

#[test]
fn step_8_is_as_expected_and_has_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let (status, told, error) = output(LECTURE, &["8", "--html", page.to_str().unwrap()]);
    assert!(status == 0 && error.is_empty() && told.contains("page.html: open it in a browser"), "{told} {error}");
    let page = String::from_utf8(rt::fs::read(&page).unwrap()).unwrap();
    for event in [
        "Step 8: Paxos",
        "\"replica ",
        "\"client 1\"",
        "\"killed\"",
        "\"primary in view 4\"",
        "execute (3,2) withdraw bob 45",
    ] {
        assert!(page.contains(event), "{event}");
    }
}

#[test]
fn a_page_or_a_trace_that_cannot_be_written_is_told_at_once() {
    let (status, told, error) = output(LECTURE, &["--html", "/no/such/folder/page.html"]);
    assert!(status == 1 && told.is_empty() && error.contains("/no/such/folder/page.html: No such file"), "{error}");
    let (status, _, error) = output(VIEW_SERVER, &["5000", "--trace", "/no/such/folder/v"]);
    assert!(status == 1 && error.contains("/no/such/folder/v: No such file"), "{error}");
}

#[test]
fn what_cannot_be_used_is_told_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage");
    File::append(&garbage).unwrap().write_all(b"hello\n").unwrap();
    let garbage = garbage.to_str().unwrap();
    let file = folder.path().join("a");
    let file = file.to_str().unwrap();
    // Somebody listens here.
    let listener = TcpPort::bind("127.0.0.1:0".parse().unwrap()).unwrap().listen().unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    let free = draw_port().unwrap().number.to_string();
    for (program, arguments, why) in [
        (VIEW_SERVER, &[&*taken][..], "stop the program that uses the port"),
        (PB_SRV, &[garbage, &free, &taken], "line 1: it doesn't begin as \"1 \""),
        (PB_SRV, &["/no/such/folder/a", &free, &taken], "/no/such/folder/a: No such file or directory"),
        (PB_SRV, &[file, &taken, &taken], "stop the program that uses the port"),
        (RSM_CLIENT, &[&free, "--within", "300"], "rsm_client: "),
        (RSM_SRV, &[&free, &free, "--dir", "/dev/null/a"], "/dev/null/a: "),
    ] {
        let (status, _, error) = output(program, arguments);
        assert!(status == 1 && error.contains(why) && error.lines().count() == 1, "{arguments:?}: {status} {error}");
    }
    for (program, arguments, why) in [
        (VIEW_SERVER, &["5000", "--pings", "0"][..], "--pings"),
        (PB_SRV, &[file, "5001"], "VIEWSERVER"),
        (PB_SRV, &[file, "0", "5000"], "neither a port nor host:port"),
        (PB_CLIENT, &["5000", "--do", "burn alice"], "is no operation"),
        (RSM_SRV, &["5001"], "ME"),
        (RSM_CLIENT, &[], "SERVER"),
    ] {
        let (status, _, error) = output(program, arguments);
        assert!(status == 2 && error.contains(why), "{arguments:?}: {status} {error}");
    }
    for program in [VIEW_SERVER, PB_SRV, PB_CLIENT, RSM_SRV, RSM_CLIENT] {
        let (status, help, _) = output(program, &["--help"]);
        assert!(status == 0 && help.contains("Example") && help.contains("Exit status: 0"), "{help}");
    }
}

#[test]
fn limits_are_told() {
    for (program, is_logged) in [(PB_SRV, true), (env!("CARGO_BIN_EXE_srv"), false)] {
        let (_, help, _) = output(program, &["--help"]);
        let told = |limit: &str| help.contains(limit);
        assert!(told(&format!("{MAX_ACCOUNTS} accounts")), "{help}");
        assert!(told(&format!("1 to {MAX_NAME_BYTES} letters")) && told(&u64::MAX.to_string()), "{help}");
        assert!(!is_logged || told(&format!("{MAX_LOG} operations")), "{help}");
    }
}
