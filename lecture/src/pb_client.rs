//! The client of a replicated server: asks the view server who is the primary, sends to that one, and on an error or
//! without an answer asks again and sends the same request again.
//!
//! Its number tells the servers the one from the other (`pb_state`, invariant 2): a request that is sent again isn't
//! executed again. No threads, no locks.

use std::fmt;
use std::time::Duration;

use rt::time::{now, sleep};

use crate::bank::Op;
use crate::pb_protocol::{REQUEST, RequestStatus, VIEW};
use crate::peers::Peers;
use crate::views::View;

/// How long the primary may take; it waits for its backup meanwhile.
const REQUEST_PATIENCE: Duration = Duration::from_millis(500);
const VIEW_PATIENCE: Duration = Duration::from_millis(300);
/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A client.
pub struct PbClient {
    peers: Peers,
    view_server: String,
    client: u64,
    number: u64,
    view: Option<View>,
    ended: fn() -> bool,
}

/// An operation was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What came of it.
    pub answer: String,
    /// Who answered.
    pub server: String,
    /// The view in which the client believed to be.
    pub view: u64,
    /// How often it was sent.
    pub sent: u32,
}

/// It wasn't, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The server says why.
    Refused(String),
    /// It was sent to somebody, and nobody answered in time: it may have been executed, or may yet be, once.
    Unknown,
    /// It was sent to nobody: no view server answers, or there is no view.
    NoView,
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unserved::Refused(why) if why.is_empty() => f.write_str("refused"),
            Unserved::Refused(why) => write!(f, "refused: {why}"),
            Unserved::Unknown => f.write_str("no answer in time: it may have been executed, or may yet be"),
            Unserved::NoView => f.write_str("the view server doesn't answer, or knows no primary: not sent"),
        }
    }
}

impl std::error::Error for Unserved {}

impl PbClient {
    /// A client that hasn't asked yet.
    pub fn new(peers: Peers, view_server: &str) -> Self {
        let client = rt::random::u64();
        PbClient { peers, view_server: view_server.to_owned(), client, number: 0, view: None, ended: || false }
    }

    /// The same, but it gives up as soon as `ended` says so.
    #[must_use]
    pub fn until(self, ended: fn() -> bool) -> Self {
        PbClient { ended, ..self }
    }

    /// The view in which it believes to be.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Has an operation executed once.
    ///
    /// # Errors
    /// [`Unserved`].
    pub fn call(&mut self, op: &Op, within: Duration) -> Result<Answered, Unserved> {
        self.number += 1;
        let (deadline, mut sent) = (now() + within, 0);
        loop {
            if let Some(view) = self.view.clone().or_else(|| self.ask()) {
                sent += 1;
                if let Some(end) = self.send(op, &view, sent) {
                    return end;
                }
                self.view = None;
            }
            if now() >= deadline || (self.ended)() {
                return Err(if sent > 0 { Unserved::Unknown } else { Unserved::NoView });
            }
            sleep(PAUSE);
        }
    }

    /// Who is the primary?
    fn ask(&mut self) -> Option<View> {
        let (_, view) = self.peers.call(&self.view_server, VIEW, (), VIEW_PATIENCE).ok()?;
        if view.number == 0 {
            return None;
        }
        tracing::info!(node = self.peers.name(), kind = "view", "view {view}");
        self.view = Some(view);
        self.view.clone()
    }

    /// Sends it once; `None` if it is to be sent again.
    fn send(&self, op: &Op, view: &View, sent: u32) -> Option<Result<Answered, Unserved>> {
        let args = (self.client, self.number, op.to_string());
        let node = self.peers.name();
        let primary = &view.primary;
        let (status, answer) = match self.peers.call(primary, REQUEST, args, REQUEST_PATIENCE) {
            Ok((status, answer)) => (RequestStatus::from_wire(status), answer),
            Err(error) => {
                tracing::info!(node, kind = "note", "{op}: {primary}: {error}");
                return None;
            }
        };
        match status {
            Some(RequestStatus::OK) => Some(Ok(Answered { answer, server: primary.clone(), view: view.number, sent })),
            Some(RequestStatus::NOTPRIMARY) => {
                tracing::info!(node, kind = "note", "{op}: {primary} isn't the primary, or not any more");
                None
            }
            Some(RequestStatus::BUSY) => None,
            Some(RequestStatus::STALE) => Some(Err(Unserved::Unknown)),
            Some(RequestStatus::REFUSED) | None => Some(Err(Unserved::Refused(answer))),
        }
    }
}
