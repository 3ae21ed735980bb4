//! The client of a replicated server: asks the view server who is the primary, sends to that one, and on an error or
//! without an answer asks again and sends the same request again.
//!
//! Its number tells the servers the one from the other (`pb_state`, invariant 2): a request that is sent again isn't
//! executed again. No threads, no locks.

use std::fmt;
use std::time::Duration;

use rt::time::{now, sleep};
use yfs_rpc::CallError;

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
    /// It was sent to nobody, and why.
    NoView(NoView),
}

/// Why it isn't known who the primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoView {
    /// The view server doesn't answer.
    Silent,
    /// Somebody else does.
    NoViewServer,
    /// It has formed no view.
    NoPrimary,
}

impl fmt::Display for NoView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoView::Silent => "the view server doesn't answer",
            NoView::NoViewServer => "what answers is no view server",
            NoView::NoPrimary => "the view server knows no primary: its log says who lives",
        })
    }
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unserved::Refused(why) if why.is_empty() => f.write_str("refused"),
            Unserved::Refused(why) => write!(f, "refused: {why}"),
            Unserved::Unknown => f.write_str("no answer in time: it may have been executed, or may yet be"),
            Unserved::NoView(why) => write!(f, "not sent: {why}"),
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
            let not_sent = match self.view.take().map_or_else(|| self.ask(), Ok) {
                Ok(view) => {
                    sent += 1;
                    if let Some(end) = self.send(op, &view, sent) {
                        self.view = Some(view);
                        return end;
                    }
                    None
                }
                Err(why) => Some(why),
            };
            if now() >= deadline || (self.ended)() {
                return Err(not_sent.filter(|_| sent == 0).map_or(Unserved::Unknown, Unserved::NoView));
            }
            sleep(PAUSE);
        }
    }

    /// Who is the primary?
    fn ask(&self) -> Result<View, NoView> {
        let view = match self.peers.call(&self.view_server, VIEW, (), VIEW_PATIENCE) {
            Ok((_, view)) => view,
            Err(CallError::UnmarshalArgs | CallError::UnmarshalReply) => return Err(NoView::NoViewServer),
            Err(_) => return Err(NoView::Silent),
        };
        if view.id.number == 0 {
            return Err(NoView::NoPrimary);
        }
        tracing::info!(node = self.peers.name(), kind = "view", "view {view}");
        Ok(view)
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
            Some(RequestStatus::OK) => {
                Some(Ok(Answered { answer, server: primary.clone(), view: view.id.number, sent }))
            }
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
