//! rpctest against peers as strict as the lab's rpctest: its client against a strict server, its server against a strict
//! client. The strict peers share no code with the runtime under test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

#[allow(dead_code, reason = "the lock server's tests use all of it")]
#[path = "../../lock_server/tests/strict_peer/client.rs"]
mod client;
#[allow(dead_code, reason = "the lock server's tests use all of it")]
#[path = "../../lock_server/tests/strict_peer/server.rs"]
mod server;
#[path = "../../lock_server/tests/strict_peer/socket.rs"]
mod socket;
#[allow(dead_code, reason = "the lock server's tests use all of it")]
#[path = "../../lock_server/tests/strict_peer/wire.rs"]
mod wire;

use client::StrictClient;
use server::{Reserved, StrictServer};
use wire::{Enc, OK, OLDSRV, UNMARSHAL_ARGS, only};

/// What must happen happens within this time, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

const RPCTEST: &str = env!("CARGO_BIN_EXE_rpctest");

const CONCAT: u32 = 22;
const FAST: u32 = 23;
const SLOW: u32 = 24;
const BIG_REPLY: u32 = 25;

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rpctests_client_and_a_strict_server() {
    let server = StrictServer::start(Arc::new(|procedure, args| {
        let int = || only("an int", args, |dec| dec.i32());
        let result = match procedure {
            CONCAT => {
                let (one, other) = only("two strings", args, |dec| (dec.text(), dec.text()));
                Enc::new().text(&(one + &other))
            }
            FAST => Enc::new().i32(int() + 1),
            SLOW => {
                rt::time::sleep(rt::random::duration_below(Duration::from_millis(5)));
                Enc::new().i32(int() + 2)
            }
            BIG_REPLY => Enc::new().text(&"x".repeat(usize::try_from(int()).unwrap())),
            other => panic!("procedure {other} stops a C++ server"),
        };
        (OK, result.0)
    }));
    let output = Command::new(RPCTEST).args(["-c", "-p", &server.name()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.lines().last(), Some("rpctest OK"), "{text}");
}

#[test]
fn rpctests_server_and_a_strict_client() {
    let reserved = Reserved::any();
    let port = reserved.port().to_string();
    drop(reserved);
    let running = Command::new(RPCTEST).args(["-s", "-p", &port]).stdout(Stdio::null()).spawn();
    let _running = Running(running.unwrap());
    let client = StrictClient::of(&port);
    let nonce = client.bind(PATIENCE).unwrap();
    let call = |procedure, args| client.call(procedure, args, PATIENCE).unwrap();

    let big = "x".repeat(1_000_000);
    for (one, other) in [("hello", " goodbye"), ("", ""), (big.as_str(), "z")] {
        let (status, result) = call(CONCAT, Enc::new().text(one).text(other));
        assert_eq!(status, OK);
        assert_eq!(only("a string", &result, |dec| dec.text()), format!("{one}{other}"));
    }
    for (procedure, more) in [(FAST, 1), (SLOW, 2)] {
        let (status, result) = call(procedure, Enc::new().i32(77));
        assert_eq!((status, only("an int", &result, |dec| dec.i32())), (OK, 77 + more));
    }
    for bytes in [0, 70_000] {
        let (status, result) = call(BIG_REPLY, Enc::new().i32(bytes));
        assert_eq!((status, only("a string", &result, |dec| dec.bytes()).len()), (OK, bytes.cast_unsigned() as usize));
    }
    for (procedure, args) in [(CONCAT, Enc::new().text("one")), (FAST, Enc::new().i32(1).flag(true)), (26, Enc::new())]
    {
        assert_eq!(call(procedure, args), (UNMARSHAL_ARGS, Vec::new()), "what stops a C++ server");
    }
    client.break_connection();
    assert_eq!(call(FAST, Enc::new().i32(1)).0, OK, "on a new connection");
    client.remember(nonce ^ 1);
    assert_eq!(call(FAST, Enc::new().i32(1)), (OLDSRV, Vec::new()));
}
