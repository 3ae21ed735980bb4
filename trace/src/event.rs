//! One thing that happened.

use serde::{Deserialize, Serialize};

/// What sort of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A message left; `message` says which.
    Sent,
    /// A message came in; `message` says which.
    Received,
    /// The node learnt a view; the text has its number behind the word "view".
    View,
    /// The node serves as the primary from now on; the text has the view's number behind the word "view".
    Primary,
    /// A request was executed.
    Execute,
    /// A state was installed.
    Transfer,
    /// The node began.
    Start,
    /// The node ended.
    Crash,
    /// What a tester or a simulator did to it: a cut, a pause, a full disk.
    Fault,
    /// Anything else.
    Note,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Sent,
        Kind::Received,
        Kind::View,
        Kind::Primary,
        Kind::Execute,
        Kind::Transfer,
        Kind::Start,
        Kind::Crash,
        Kind::Fault,
        Kind::Note,
    ];

    /// Its name in a line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Sent => "sent",
            Kind::Received => "received",
            Kind::View => "view",
            Kind::Primary => "primary",
            Kind::Execute => "execute",
            Kind::Transfer => "transfer",
            Kind::Start => "start",
            Kind::Crash => "crash",
            Kind::Fault => "fault",
            Kind::Note => "note",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is about a message.
    pub const fn is_message(self) -> bool {
        matches!(self, Kind::Sent | Kind::Received)
    }
}

/// One thing that happened at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds: of virtual time, or of the machine's monotonic clock.
    pub at: u64,
    /// Where: the node's or the client's name. Empty: everywhere, as the cut of a network.
    pub node: String,
    /// What sort of thing.
    pub kind: Kind,
    /// What, in a few words.
    pub text: String,
    /// Of a message: what tells it from others, the same where it left and where it came in. A reply has its request's
    /// with " reply" behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of a message: the other end, as this one knows it, by a name or an address. Only so it is known where a message was
    /// to go that never came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// What a reply's `message` has behind its request's.
pub const REPLY: &str = " reply";

impl Event {
    /// Something that isn't about a message.
    pub fn new(at: u64, node: &str, kind: Kind, text: impl Into<String>) -> Event {
        Event { at, node: node.to_owned(), kind, text: text.into(), message: None, peer: None }
    }

    /// Whether it is a reply's coming or going.
    pub fn is_reply(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.ends_with(REPLY))
    }
}
