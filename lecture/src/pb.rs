//! The replicated server: what it does with a client's request, with what is forwarded to it, with a state, with a new
//! view. Pure: no I/O, no clock, no lock, no thread; `pb_server` is the shell.
//!
//! The lecture's rules:
//! 1. A server that isn't the backup rejects what is forwarded to it.
//! 2. The primary of view i was primary or backup in view i - 1: the view server sees to it (`views`).
//! 3. A server that isn't the primary rejects clients' requests.
//! 4. The primary waits for the backup to accept each request; only then does it execute and answer it.
//!
//! And what makes them enough:
//! 5. A backup accepts nothing before it has fetched the complete state from the primary of its view. Until then the primary
//!    serves nobody, so that the state can't change meanwhile, and doesn't acknowledge the view.
//! 6. One request is under way at a time. One that the backup may have is sent again before any other, until the backup
//!    accepts it or the view ends.
//! 7. Of a server that was deposed and doesn't know it, nobody gets a wrong answer: its backup of then is the primary now,
//!    or idle, and rejects what it forwards.
//! 8. A server stays with the view server's life in which it learned its first view: another one knows nothing of what was
//!    acknowledged. Views are told apart by number and life, in all that servers say to each other.
//!
//! Every view with a backup begins with a transfer: a backup is never the backup of the view before with another primary.
//! The lecture's "was not in view i - 1" is always true.

use yfs_rpc::marshall::Bytes;

use crate::pb_protocol::{Entry, Forward, RequestStatus};
use crate::pb_state::{Executed, Known, MAX_LOG, State};
use crate::views::{PingStatus, Role, View, ViewId};

/// What comes of a client's request at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is answered: it was executed before, or isn't to be.
    Answer(RequestStatus, String),
    /// It was executed: there is no backup to wait for.
    Executed(Executed),
    /// This has to be accepted by the backup of that name: it, or one before it that is still under way.
    Forward(String, Forward),
}

/// What the backup said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has it.
    Accepted,
    /// It isn't the backup, any more or yet.
    Rejected,
    /// Nothing, or nothing that can be told from that.
    NoAnswer,
}

/// What a backup has to do to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask this primary for the state, in this view.
    Fetch(String, ViewId),
    /// Tell this primary that it counts in this view, with so long a log.
    Tell(String, ViewId, u64),
}

/// A server.
#[derive(Debug)]
pub struct Server {
    name: String,
    view: View,
    role: Role,
    /// A primary's: it had the state when it became primary. A backup's: it has fetched the state in this view.
    is_complete: bool,
    /// The primary knows that its backup has the state, or there is none; the backup has told.
    backup_counts: bool,
    /// The number that it pings with.
    acknowledges: u64,
    /// Rule 6.
    under_way: Option<Entry>,
    state: State,
}

impl Server {
    /// A server that has just started: it knows no view, and has nothing.
    pub fn new(name: &str) -> Self {
        Server {
            name: name.to_owned(),
            view: View::default(),
            role: Role::Idle,
            is_complete: false,
            backup_counts: false,
            acknowledges: 0,
            under_way: None,
            state: State::default(),
        }
    }

    /// The last view that it heard of.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What it believes to be.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it has all that was ever acknowledged, as far as it knows.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What it has.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What to ping with: the number of its view, but a primary's only when the view may be acknowledged (rule 5).
    pub fn acknowledges(&self) -> ViewId {
        ViewId { number: self.acknowledges, ..self.view.id }
    }

    /// What the view server answered. True if the view is new to this server.
    pub fn learn(&mut self, status: PingStatus, view: View) -> bool {
        let (new, old) = (view.id, self.view.id);
        let is_next = new.number > old.number && (old.number == 0 || new.life == old.life);
        if !matches!(status, PingStatus::OK | PingStatus::STRANGER) || !is_next {
            return false;
        }
        let was = (self.role, self.is_complete);
        // As a stranger it isn't the one that the view names.
        self.role = if status == PingStatus::OK { view.role_of(&self.name) } else { Role::Idle };
        // The first primary's state is complete: there is nothing yet. That's who hears as the primary that there is a
        // view: a backup that is promoted has heard of the view in which it fetched the state.
        let is_first = new.number == 1 || old.number == 0;
        self.is_complete = self.role == Role::Primary && (is_first || (was.0 != Role::Idle && was.1));
        self.backup_counts = self.role == Role::Primary && view.backup.is_none();
        if self.role != Role::Primary || self.backup_counts {
            self.acknowledges = new.number;
        }
        self.under_way = None;
        self.view = view;
        true
    }

    /// A client's request. The words are an operation's, its chance taken out.
    pub fn begin(&mut self, entry: Entry) -> Begun {
        let refuse = |status| Begun::Answer(status, String::new());
        if self.role != Role::Primary {
            return refuse(RequestStatus::NOTPRIMARY);
        }
        match self.state.known(entry.client, entry.number) {
            Known::Answered(answer) => return Begun::Answer(RequestStatus::OK, answer),
            Known::Stale => return refuse(RequestStatus::STALE),
            Known::No => {}
        }
        if !self.backup_counts {
            return refuse(RequestStatus::BUSY);
        }
        if self.state.is_full() {
            return Begun::Answer(RequestStatus::REFUSED, format!("the log is full: it has {MAX_LOG} operations"));
        }
        match &self.view.backup {
            None => self.state.execute(entry).map_or_else(|| refuse(RequestStatus::REFUSED), Begun::Executed),
            Some(backup) => {
                let entry = self.under_way.get_or_insert(entry).clone();
                let (from, view, place) = (self.name.clone(), self.view.id, self.state.len() + 1);
                Begun::Forward(backup.clone(), Forward { from, view, place, entry })
            }
        }
    }

    /// What the backup said to a forwarded request. What was executed, if it was: the view may have ended meanwhile.
    pub fn forwarded(&mut self, forward: &Forward, outcome: Outcome) -> Option<Executed> {
        if self.view.id != forward.view || self.under_way.as_ref() != Some(&forward.entry) {
            return None;
        }
        match outcome {
            Outcome::Accepted => self.under_way.take().and_then(|entry| self.state.execute(entry)),
            Outcome::Rejected => {
                self.under_way = None;
                None
            }
            Outcome::NoAnswer => None,
        }
    }

    /// What a primary forwards. `None` rejects it (rule 1); otherwise what was executed, if it is new.
    pub fn accept(&mut self, forward: Forward) -> Option<Option<Executed>> {
        let Forward { view, place, entry, .. } = forward;
        if self.role != Role::Backup || view != self.view.id || !self.is_complete {
            return None;
        }
        if place == self.state.len() && self.state.newest() == Some(&entry) {
            return Some(None);
        }
        if place != self.state.len() + 1 || self.state.known(entry.client, entry.number) != Known::No {
            return None;
        }
        self.state.execute(entry).map(Some)
    }

    /// The complete state, for the backup of the view if it asks in it.
    pub fn give(&self, view: ViewId, backup: &str) -> Option<Bytes> {
        let asks = view == self.view.id && self.view.backup.as_deref() == Some(backup);
        (self.role == Role::Primary && asks && !self.backup_counts).then(|| Bytes(self.state.to_bytes()))
    }

    /// The backup of the view has the state, with so long a log: rule 5 is met. False if that isn't so.
    pub fn backup_counts(&mut self, view: ViewId, backup: &str, length: u64) -> bool {
        let meant = view == self.view.id && self.view.backup.as_deref() == Some(backup);
        if self.role != Role::Primary || !meant {
            return false;
        }
        // It may say so twice, and the log has grown since.
        if !self.backup_counts && length == self.state.len() {
            self.backup_counts = true;
            self.acknowledges = view.number;
        }
        self.backup_counts
    }

    /// What a backup has to do next.
    pub fn due(&self) -> Option<Due> {
        let (primary, view) = (self.view.primary.clone(), self.view.id);
        match self.role {
            Role::Backup if !self.is_complete => Some(Due::Fetch(primary, view)),
            Role::Backup if !self.backup_counts => Some(Due::Tell(primary, view, self.state.len())),
            _ => None,
        }
    }

    /// The state that the primary gave in `view`. False if it's not needed any more.
    pub fn install(&mut self, view: ViewId, state: State) -> bool {
        let needed = self.due() == Some(Due::Fetch(self.view.primary.clone(), view));
        if needed {
            (self.state, self.is_complete) = (state, true);
        }
        needed
    }

    /// The primary knows that this backup counts in `view`.
    pub fn told(&mut self, view: ViewId) {
        if self.role == Role::Backup && view == self.view.id {
            self.backup_counts = true;
        }
    }
}

#[cfg(test)]
#[path = "pb_tests.rs"]
mod tests;
