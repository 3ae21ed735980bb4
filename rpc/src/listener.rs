//! Accepts a server's connections (lab: `tcpsconn`).
//!
//! Invariant: running out of descriptors, or reaching the server's bound of connections, pauses accepting and is said
//! once an episode; those who wait are taken when there is room again.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::net::{TcpListener, TcpPort, Token};
use rt::time::now;

use crate::pollmgr::{PollMgr, Source};
use crate::rpcs::Inner;

/// Connections accepted before others get their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after an accept that failed, or when there is no room.
const BACK_OFF: Duration = Duration::from_millis(100);

pub(crate) struct Listener {
    token: Token,
    listener: TcpListener,
    pollmgr: PollMgr,
    server: Weak<Inner>,
    /// An episode of trouble has been reported; it ends when nobody waits any more.
    in_trouble: AtomicBool,
    /// The timer runs. One is enough, however many knock meanwhile.
    retries: AtomicBool,
}

impl Listener {
    pub(crate) fn start(port: TcpPort, pollmgr: &PollMgr, server: Weak<Inner>) -> io::Result<Arc<Self>> {
        let listener = Arc::new(Listener {
            token: pollmgr.token(),
            listener: port.listen()?,
            pollmgr: pollmgr.clone(),
            server,
            in_trouble: AtomicBool::new(false),
            retries: AtomicBool::new(false),
        });
        pollmgr.add_listener(listener.token, &listener.listener, listener.clone())?;
        Ok(listener)
    }

    pub(crate) fn close(&self) {
        self.pollmgr.remove_listener(self.token, &self.listener);
    }

    fn back_off(self: &Arc<Self>, why: &dyn std::fmt::Display) -> ControlFlow<()> {
        if !self.in_trouble.swap(true, Ordering::Relaxed) {
            tracing::warn!(%why, "accepting no connections for now");
        }
        if !self.retries.swap(true, Ordering::Relaxed) {
            let listener = Arc::downgrade(self);
            self.pollmgr.at(now() + BACK_OFF, move || {
                if let Some(listener) = listener.upgrade() {
                    listener.retries.store(false, Ordering::Relaxed);
                    listener.pollmgr.again(listener.token);
                }
            });
        }
        ControlFlow::Break(())
    }
}

impl Source for Listener {
    fn ready(self: Arc<Self>, _: &mut [u8]) -> ControlFlow<()> {
        let Some(server) = self.server.upgrade() else {
            self.close();
            return ControlFlow::Break(());
        };
        for _ in 0..ACCEPTS_PER_TURN {
            if !server.has_room() {
                return self.back_off(&"as many connections as this server may hold are open");
            }
            match self.listener.accept() {
                Ok((stream, _)) => server.accepted(stream),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.in_trouble.swap(false, Ordering::Relaxed) {
                        tracing::info!("accepting connections again");
                    }
                    return ControlFlow::Break(());
                }
                // The peer gave up while it waited.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return self.back_off(&e),
            }
        }
        ControlFlow::Continue(())
    }
}
