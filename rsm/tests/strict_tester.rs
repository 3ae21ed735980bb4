//! rsm_tester against a test server as strict as the lab's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
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

use wire::{BREAKPOINT, ERR, Enc, NET_REPAIR, OK, garbage, only};

/// What must happen happens within this time, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn orders_and_exit_statuses() {
    let server = server::StrictServer::start(Arc::new(|procedure, args| {
        assert!([NET_REPAIR, BREAKPOINT].contains(&procedure), "procedure {procedure:#x} stops a C++ server");
        let arg = only("an int", args, |dec| dec.i32());
        let status = if procedure == BREAKPOINT && !(1..=4).contains(&arg) { ERR } else { OK };
        (status, Enc::new().u32(garbage()).0)
    }));
    for (args, says) in [
        (["partition", "0"], Some("net_repair returned 0")),
        (["partition", "1"], Some("net_repair returned 0")),
        (["breakpoint", "3"], Some("breakpoint 3 returned 0")),
        (["breakpoint", "9"], None),
    ] {
        let tester = Command::new(env!("CARGO_BIN_EXE_rsm_tester")).arg(server.name()).args(args).output().unwrap();
        assert_eq!(tester.status.success(), says.is_some(), "{args:?}: {tester:?}");
        let text = String::from_utf8(tester.stdout).unwrap();
        assert_eq!(text.lines().next(), says);
    }
}
