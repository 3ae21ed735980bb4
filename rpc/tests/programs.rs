//! rpctest, as people run it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const RPCTEST: &str = env!("CARGO_BIN_EXE_rpctest");

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its last line, if it ends well.
fn last_line(command: &mut Command) -> Option<String> {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| text.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn rpctest_alone_passes() {
    assert_eq!(last_line(&mut Command::new(RPCTEST)).as_deref(), Some("rpctest OK"));
}

#[test]
fn rpctest_alone_passes_on_lossy_connections() {
    assert_eq!(last_line(Command::new(RPCTEST).env("RPC_LOSSY", "5")).as_deref(), Some("rpctest OK"));
}

#[test]
fn rpctest_in_two_processes_passes() {
    let server = Command::new(RPCTEST).arg("-s").env("RPC_COUNT", "100").stdout(Stdio::piped()).spawn();
    let mut server = Running(server.unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.split_whitespace().nth(4).unwrap();
    assert_eq!(last_line(Command::new(RPCTEST).args(["-c", "-p", port])).as_deref(), Some("rpctest OK"));
    assert!(server.0.try_wait().unwrap().is_none(), "the server has ended");
}

#[test]
fn rpctest_explains_wrong_use() {
    for args in [&["-c"][..], &["-p", "0"], &["-p", "x"], &["-x"], &["--rpc-lossy", "101"], &["surplus"]] {
        let output = Command::new(RPCTEST).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}
