//! The view service: who is primary and who is backup, view by view. Pure: no I/O, no clock, no lock, no thread.
//!
//! Servers ping it, each with the number of the last view that it knows; a primary with that of the last view that it
//! acknowledges: its backup has the state. A server that missed N pings in a row is dead, one ping makes it live. Servers
//! that are neither primary nor backup are idle, and replace a backup that is dead or was promoted.
//!
//! Invariants:
//! 1. Views are numbered from 1, none is left out, and a number is one view for ever.
//! 2. The primary of view i was primary or backup in view i - 1 (the lecture's rule 2). An idle server never becomes
//!    primary; if primary and backup are dead, the view stays.
//! 3. A backup is promoted only from a view that its primary has acknowledged: it has the state. [`Settings::acks`] false
//!    is the lecture's mistake: then a backup is promoted that may have nothing.
//! 4. A seat belongs to one life of a server. One that was restarted pings with another life, and has lost its state: in
//!    its seat it counts as dead, and it may become a backup as any idle server.
//! 5. A view belongs to one life of the service: one that was restarted has forgotten its views, and counts anew. A server
//!    that has been in a view of another life is foreign: it is never seated. As long as one pings no first view is formed,
//!    since it may have what was acknowledged.
//!
//! The first view waits as long as a death takes, so that all who live have pinged; the first of them is its primary.
//!
//! Deviation: the lecture stays with a view until it is acknowledged, whatever happens. A backup that dies before it has
//! the state would then stop the service for ever. Here it is replaced: the primary stays, so nothing can be lost.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rt::time::Instant;
use yfs_rpc::marshall::{Marshal, Unmarshal, UnmarshalError, Unmarshaller};
use yfs_rpc::wire_struct;

/// Servers that are known at once; further ones are refused.
pub const MAX_SERVERS: usize = 100;

/// Tells a server, or a view service, from itself before a restart. Drawn when it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(pub u64);

impl Marshal for Life {
    fn marshal(&self, out: &mut Vec<u8>) {
        self.0.marshal(out);
    }
}

impl Unmarshal for Life {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        input.read().map(Life)
    }
}

wire_struct! {
    /// Which view: another life of the service has others with the same numbers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ViewId {
        /// The life of the service that formed it.
        pub life: Life,
        /// Its number.
        pub number: u64,
    }
}

/// As its number: whoever reads it has one service in mind.
impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// A view. Number 0 is none: no server has been seated yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Which one.
    pub id: ViewId,
    /// The primary's name; empty in view 0.
    pub primary: String,
    /// The backup's name, if it has one.
    pub backup: Option<String>,
}

/// What a server is in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves clients.
    Primary,
    /// It accepts what the primary forwards.
    Backup,
    /// It waits.
    Idle,
}

impl View {
    /// What the server `name` is in this view.
    pub fn role_of(&self, name: &str) -> Role {
        if self.id.number > 0 && self.primary == name {
            Role::Primary
        } else if self.backup.as_deref() == Some(name) {
            Role::Backup
        } else {
            Role::Idle
        }
    }
}

/// As in the lecture: `2: S2 --`.
impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = if self.id.number == 0 { "--" } else { &self.primary };
        write!(f, "{}: {primary} {}", self.id, self.backup.as_deref().unwrap_or("--"))
    }
}

impl Marshal for View {
    fn marshal(&self, out: &mut Vec<u8>) {
        (self.id, &self.primary, self.backup.as_deref().unwrap_or("")).marshal(out);
    }
}

impl Unmarshal for View {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        let (id, primary, backup): (ViewId, String, String) = input.read()?;
        Ok(View { id, primary, backup: Some(backup).filter(|name| !name.is_empty()) })
    }
}

/// How a view service decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often servers ping.
    pub interval: Duration,
    /// A server that missed so many pings in a row is dead.
    pub pings: u32,
    /// Whether a backup is promoted only from an acknowledged view.
    pub acks: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { interval: Duration::from_millis(100), pings: 5, acks: true }
    }
}

impl Settings {
    /// The lecture's mistake: views change without the primary's acknowledgement.
    #[must_use]
    pub fn without_ack(self) -> Self {
        Settings { acks: false, ..self }
    }

    /// A server that hasn't pinged for so long is dead: a ping is missed when it is half an interval late.
    pub fn silence(&self) -> Duration {
        self.interval * self.pings + self.interval / 2
    }
}

yfs_rpc::wire_status! {
    /// What a ping comes to.
    pub enum PingStatus {
        /// The server is known.
        OK = 0,
        /// The view names an earlier life of the server: it isn't meant.
        STRANGER = 1,
        /// The server has been in a view that this service never formed: the service was restarted since.
        FOREIGN = 2,
        /// There are too many servers.
        FULL = 3,
        /// The name isn't one under which clients could reach the server.
        NAME = 4,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seat {
    name: String,
    life: Life,
}

#[derive(Debug)]
struct Server {
    life: Life,
    last_ping: Instant,
    /// Invariant 5.
    is_foreign: bool,
    /// Its place among the servers, in the order in which their lives became known.
    order: u64,
}

/// The state of the view service.
#[derive(Debug)]
pub struct Views {
    settings: Settings,
    id: ViewId,
    primary: Option<Seat>,
    backup: Option<Seat>,
    is_acknowledged: bool,
    servers: BTreeMap<String, Server>,
    next_order: u64,
    /// Of a server that may be seated.
    first_ping: Option<Instant>,
}

impl Views {
    /// A service that has formed no view, in this life of it.
    pub fn new(settings: Settings, life: Life) -> Self {
        Views {
            settings,
            id: ViewId { life, number: 0 },
            primary: None,
            backup: None,
            is_acknowledged: false,
            servers: BTreeMap::new(),
            next_order: 0,
            first_ping: None,
        }
    }

    /// A server's ping, with the last view that it knows (a primary: that it acknowledges); the default is none.
    pub fn ping(&mut self, name: &str, life: Life, knows: ViewId, now: Instant) -> (PingStatus, View) {
        let is_foreign = knows != ViewId::default() && (knows.life != self.id.life || knows.number > self.id.number);
        if !self.enter(name, life, is_foreign, now) {
            return (PingStatus::FULL, self.view());
        }
        if is_foreign {
            self.tick(now);
            return (PingStatus::FOREIGN, self.view());
        }
        self.first_ping.get_or_insert(now);
        let meant = |seat: &Option<Seat>| seat.as_ref().is_some_and(|seat| seat.name == name && seat.life == life);
        if meant(&self.primary) && knows == self.id {
            self.is_acknowledged = true;
        }
        self.tick(now);
        let view = self.view();
        let named = view.role_of(name) != Role::Idle;
        let status = if named && !self.is_seated(name, life) { PingStatus::STRANGER } else { PingStatus::OK };
        (status, view)
    }

    /// Time has passed: forms the next view, if there is a reason and it may be. To be called every interval or so.
    pub fn tick(&mut self, now: Instant) {
        if let Some((primary, backup)) = self.next(now) {
            let was = |seat: &Option<Seat>| seat.as_ref() == Some(&primary);
            assert!(self.id.number == 0 || was(&self.primary) || was(&self.backup), "invariant 2");
            assert!(backup.as_ref().is_none_or(|backup| backup.name != primary.name), "one server, two seats");
            self.id.number += 1;
            (self.primary, self.backup, self.is_acknowledged) = (Some(primary), backup, false);
        }
        // The dead are forgotten, but for those in the view: they may come back into it.
        let silence = self.settings.silence();
        let seats = [&self.primary, &self.backup];
        self.servers.retain(|name, server| {
            now - server.last_ping < silence || seats.iter().any(|seat| seat.as_ref().is_some_and(|s| s.name == *name))
        });
    }

    /// The view now.
    pub fn view(&self) -> View {
        let name = |seat: &Option<Seat>| seat.as_ref().map(|seat| seat.name.clone());
        View { id: self.id, primary: name(&self.primary).unwrap_or_default(), backup: name(&self.backup) }
    }

    /// Whether the primary has acknowledged the view.
    pub fn is_acknowledged(&self) -> bool {
        self.is_acknowledged
    }

    /// The servers that live, in the order in which they became known, with what each is.
    pub fn living(&self, now: Instant) -> Vec<(String, Role)> {
        let mut living: Vec<_> = self.servers.iter().filter(|(_, server)| self.is_recent(server, now)).collect();
        living.sort_by_key(|(_, server)| server.order);
        let role = |name: &String, server: &Server| match self.view().role_of(name) {
            role if self.is_seated(name, server.life) => role,
            _ => Role::Idle,
        };
        living.into_iter().map(|(name, server)| (name.clone(), role(name, server))).collect()
    }

    /// The living servers that have been in a view of another life of the service.
    pub fn foreign(&self, now: Instant) -> impl Iterator<Item = &str> {
        let foreign = self.servers.iter().filter(move |(_, server)| server.is_foreign && self.is_recent(server, now));
        foreign.map(|(name, _)| name.as_str())
    }

    /// For so long the service itself looked at nothing: that is nobody's silence.
    pub fn slept(&mut self, how_long: Duration) {
        self.servers.values_mut().for_each(|server| server.last_ping = server.last_ping + how_long);
        self.first_ping = self.first_ping.map(|first| first + how_long);
    }

    /// Notes the server; false if there are too many.
    fn enter(&mut self, name: &str, life: Life, is_foreign: bool, now: Instant) -> bool {
        let is_full = self.servers.len() >= MAX_SERVERS;
        match self.servers.get_mut(name) {
            Some(server) if server.life == life => (server.last_ping, server.is_foreign) = (now, is_foreign),
            None if is_full => return false,
            _ => {
                let server = Server { life, last_ping: now, is_foreign, order: self.next_order };
                self.servers.insert(name.to_owned(), server);
                self.next_order += 1;
            }
        }
        true
    }

    /// Who is to be primary and backup next; `None` to stay with the view.
    fn next(&self, now: Instant) -> Option<(Seat, Option<Seat>)> {
        let Some(primary) = &self.primary else {
            let began = self.first_ping?;
            let may_be = self.foreign(now).next().is_none() && now - began >= self.settings.silence();
            let primary = self.idle(None, now).filter(|_| may_be)?;
            return Some((primary.clone(), self.idle(Some(&primary), now)));
        };
        match (self.lives(primary, now), self.backup.as_ref()) {
            // A backup is promoted.
            (false, Some(backup)) if self.lives(backup, now) && (self.is_acknowledged || !self.settings.acks) => {
                Some((backup.clone(), self.idle(Some(backup), now)))
            }
            // A dead backup is replaced, or done without.
            (true, Some(backup)) if !self.lives(backup, now) => Some((primary.clone(), self.idle(Some(primary), now))),
            // There is none, and one is to be had.
            (true, None) if self.is_acknowledged || !self.settings.acks => {
                self.idle(Some(primary), now).map(|backup| (primary.clone(), Some(backup)))
            }
            _ => None,
        }
    }

    /// The living server that has been known longest, but for one.
    fn idle(&self, but: Option<&Seat>, now: Instant) -> Option<Seat> {
        let others = self.servers.iter().filter(|(name, _)| but.is_none_or(|seat| seat.name != **name));
        let living = others.filter(|(_, server)| !server.is_foreign && self.is_recent(server, now));
        living.min_by_key(|(_, s)| s.order).map(|(name, s)| Seat { name: name.clone(), life: s.life })
    }

    fn lives(&self, seat: &Seat, now: Instant) -> bool {
        self.servers.get(&seat.name).is_some_and(|server| server.life == seat.life && self.is_recent(server, now))
    }

    fn is_recent(&self, server: &Server, now: Instant) -> bool {
        now - server.last_ping < self.settings.silence()
    }

    fn is_seated(&self, name: &str, life: Life) -> bool {
        [&self.primary, &self.backup].iter().any(|s| s.as_ref().is_some_and(|s| s.name == name && s.life == life))
    }
}

#[cfg(test)]
#[path = "views_tests.rs"]
mod tests;
