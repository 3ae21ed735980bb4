//! What tests with nodes on real ports share.

use std::time::Duration;

use rt::net::TcpPort;
use rt::time::now;

/// What must happen happens within this time, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "{what}: not within {PATIENCE:?}");
        rt::time::sleep(Duration::from_millis(5));
    }
}

/// A port that was free a moment ago, and the one after it too. Not of those that the system gives to whoever asks for
/// any: other tests do.
pub(crate) fn free_port() -> u16 {
    let taken = |port: u16| TcpPort::bind(([127, 0, 0, 1], port).into()).is_err();
    loop {
        let port = 10_000 + rt::random::below(20_000) as u16;
        if !taken(port) && !taken(port + 1) {
            return port;
        }
    }
}
