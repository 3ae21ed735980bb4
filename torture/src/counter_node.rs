//! A node of a replicated counter, as a process: `torture counter-node FIRST ME`, its files in the working folder.

use std::time::Duration;

use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, StateMachine};

/// Adds to the counter; returns the total.
pub(crate) const ADD: Procedure<(u64,), u64> = Procedure::new(1);

struct Counter(u64);

impl StateMachine for Counter {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        encode(&self.0)
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.0 = decode(state)?;
        Ok(())
    }
}

/// Runs until the process is ended.
pub(crate) fn run(first: &str, me: &str) -> Result<(), String> {
    tracing_subscriber::fmt().with_target(false).with_ansi(false).init();
    let rsm = Rsm::new(Options::new(first, me), Counter(0)).map_err(|e| e.to_string())?;
    rsm.reg(ADD, |counter: &mut Counter, (n,): (u64,)| {
        counter.0 = counter.0.wrapping_add(n);
        (0, counter.0)
    });
    rsm.start().map_err(|e| e.to_string())?;
    loop {
        rt::time::sleep(Duration::from_secs(3600));
    }
}
