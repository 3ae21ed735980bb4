//! The lock service's replicated state: who has which lock, who waits for it (lab 4 and 7).
//!
//! Pure and deterministic: no I/O, no clock, no thread. The replicas execute the same requests in the same order and
//! hold the same bytes. What has to be told to clients comes out as [`Effect`]s.
//!
//! # The rules
//! - **Xids**, per lock and client: an acquire with a lower xid than the last is answered RPCERR and the last, with the
//!   same xid the same answer again without being executed again, with a higher one it is new. A release is accepted with
//!   any xid from the acquire's on: some lab clients send the acquire's, some their next. So it doesn't raise the xid.
//! - **acquire** of a free lock that nobody waits for grants it; of an owned one it joins the queue (RETRY). The owner
//!   that acquires again (it was restarted, or gave up on an answer) keeps the lock, under the new xid.
//! - **release** by the owner frees the lock, by a waiting client leaves the queue, by a client that has done either
//!   already is OK again, by one that never asked is NOENT.
//! - **The queue is first come, first served, but a dead head starves nobody.** A freed lock is nobody's: the head is
//!   told to ask again. Until it does, any client that waits gets the lock if it asks (the primary tells the next one
//!   when it can't reach the head, and clients of ours ask by themselves now and then). A newcomer is sent to the queue,
//!   but only one: the next newcomer finds that the head had its chance, and gets the lock. Without that one, an owner
//!   that releases and asks again would overtake the head half of the time.
//! - A head that was overtaken [`MAX_OVERTAKEN`] times without asking loses its place, and is told a last time: it joins
//!   again if it lives. So the dead vanish from the queue.
//!
//! # What is bounded
//! A client's last xid is kept per lock, also when it neither has the lock nor waits: an *idle* record, so that a late
//! copy of an old acquire is recognised. [`Limits`] bounds the idle records of the whole table; the longest idle is
//! forgotten first, and a lock without any record with it (its grants count from 0 again). Forgetting is safe once no
//! copy of the forgotten acquire can still arrive: the RSM drops copies of our clients' requests itself, and a lab
//! client's copies are seconds old, not a million releases. Locks, waiting clients, and the bytes of all are bounded by
//! refusal (IOERR): names may be long.
//!
//! # Invariants
//! 1. A lock has at most one owner, and `Lock::owner` is the client whose record says so.
//! 2. `Lock::queue` holds exactly the clients whose records say that they wait, in the order of their tickets.
//! 3. `contended` holds exactly the locks that somebody waits for, `waiting` counts those who wait.
//! 4. `idle` holds exactly the idle records, and no more than the limit.
//! 5. A lock has at least one record.
//! 6. `bytes` is what all locks and records count, never less than their bytes in the marshalled state.
//! 7. The bytes of a state are canonical: equal states have equal bytes, and no other bytes are read.
//!
//! Leases (a later step) belong into the owner's record (`Place::Owner`) and behind a new version number of the bytes.

mod bytes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::lock_protocol::{ClientId, LockId, Status, Xid};

pub use bytes::StateError;

/// Longer names of clients are refused: `host:port` with the longest host name fits.
pub const MAX_CLIENT_ID: usize = 262;

/// How often a head of a queue is overtaken until it loses its place.
pub const MAX_OVERTAKEN: u8 = 3;

/// How many waiting clients an [`Effect::Retry`] names.
pub const NEXT_IN_LINE: usize = 8;

/// Bounds of a table. All replicas must have the same.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Locks that are known at once; an acquire of one more is answered IOERR.
    pub locks: usize,
    /// Clients that wait at once, all locks together; one more is answered IOERR.
    pub waiting: usize,
    /// Idle records, all locks together; the longest idle is forgotten for one more.
    pub idle: usize,
    /// Bytes of the marshalled state, at most; an acquire that needs more is answered IOERR. The RSM's log takes states of
    /// 1 GiB, the sessions included.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { locks: 1 << 24, waiting: 1 << 20, idle: 100_000, bytes: 1 << 29 }
    }
}

/// One acquire: who asked, and with which xid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The client.
    pub client: ClientId,
    /// The acquire's xid.
    pub xid: Xid,
}

/// What has become due after a request. Of several about one lock the last counts, but for `Overtaken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What was due before isn't any more: a new primary begins.
    Anew,
    /// The owner is to be told that its lock is wanted, until something else is due.
    Revoke {
        /// The lock.
        lock: LockId,
        /// Its owner.
        owner: Claim,
    },
    /// The lock is free: the first of these who can be reached is to be told to ask again.
    Retry {
        /// The lock.
        lock: LockId,
        /// The first [`NEXT_IN_LINE`] who wait, in order.
        waiters: Vec<Claim>,
    },
    /// Nobody wants the lock any more but who has it.
    Settled {
        /// The lock.
        lock: LockId,
    },
    /// This client lost its place in the queue and is to be told, once, to ask again.
    Overtaken {
        /// The lock.
        lock: LockId,
        /// Who lost its place.
        waiter: Claim,
    },
}

/// Where a client stands with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has the lock.
    Owner,
    /// It waits. Tickets are served in order.
    Waiting { ticket: u64, overtaken: u8 },
    /// Neither; `granted` tells what its last acquire was answered.
    Idle { since: u64, granted: bool },
}

/// The last acquire of a lock by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    xid: Xid,
    place: Place,
}

#[derive(Clone, Debug, Default)]
struct Lock {
    /// Derived from `records`.
    owner: Option<ClientId>,
    /// Derived from `records`: by ticket.
    queue: BTreeMap<u64, ClientId>,
    records: BTreeMap<ClientId, Record>,
    granted: u32,
    /// Since the lock became free, a newcomer was sent to the queue. False while it has an owner.
    deferred: bool,
}

/// All locks.
#[derive(Clone, Debug, Default)]
pub struct LockTable {
    locks: BTreeMap<LockId, Lock>,
    /// The next ticket, and the next moment of falling idle.
    clock: u64,
    limits: Limits,
    /// Derived: locks with a queue.
    contended: BTreeSet<LockId>,
    /// Derived: how many clients wait.
    waiting: usize,
    /// Derived: idle records, the longest idle first.
    idle: BTreeMap<u64, (LockId, ClientId)>,
    /// Derived: see [`bytes::LOCK`] and [`bytes::of_record`].
    bytes: usize,
    /// Not part of the state: what nobody has taken yet.
    effects: Vec<Effect>,
}

impl LockTable {
    /// No locks.
    pub fn new() -> Self {
        Self::default()
    }

    /// No locks, and other bounds than the default's.
    pub fn with_limits(limits: Limits) -> Self {
        LockTable { limits, ..Self::default() }
    }

    /// `client` asks for `lock` (lab: `lock_server_cache_rsm::acquire`). With RPCERR for a low xid comes the last one.
    pub fn acquire(&mut self, lock: LockId, client: &ClientId, xid: Xid) -> (Status, Option<Xid>) {
        let last = self.locks.get(&lock).and_then(|entry| entry.records.get(client)).map(|record| record.xid);
        match last {
            Some(last) if xid < last => (Status::RpcErr, Some(last)),
            _ => (self.take_or_wait(lock, client, xid), None),
        }
    }

    fn take_or_wait(&mut self, lock: LockId, client: &ClientId, xid: Xid) -> Status {
        if client.as_str().is_empty() || client.as_str().len() > MAX_CLIENT_ID {
            return Status::RpcErr;
        }
        let Some(entry) = self.locks.get(&lock) else {
            if self.locks.len() >= self.limits.locks || !self.has_room(bytes::LOCK + bytes::of_record(client)) {
                return Status::IoErr;
            }
            self.locks.insert(lock, Lock::default());
            self.bytes += bytes::LOCK;
            return self.grant(lock, client, xid);
        };
        let record = entry.records.get(client).copied();
        if let Some(record) = record
            && xid == record.xid
            && !rt::probe::weakened("mutant-acquire-runs-again")
        {
            return record.place.answer();
        }
        if record.is_none() && !self.has_room(bytes::of_record(client)) {
            return Status::IoErr;
        }
        let waits = matches!(record, Some(Record { place: Place::Waiting { .. }, .. }));
        let newcomer_defers = !waits && !entry.deferred;
        match &entry.owner {
            Some(owner) if owner == client && !rt::probe::weakened("mutant-acquire-runs-again") => {
                self.grant(lock, client, xid)
            }
            Some(_) => self.enqueue(lock, client, xid),
            None if !entry.queue.is_empty() && newcomer_defers => self.enqueue(lock, client, xid),
            None => self.grant(lock, client, xid),
        }
    }

    /// `client` gives `lock` back, or stops waiting for it (lab: `lock_server_cache_rsm::release`).
    pub fn release(&mut self, lock: LockId, client: &ClientId, xid: Xid) -> Status {
        let Some(entry) = self.locks.get_mut(&lock) else { return Status::NoEnt };
        let Some(record) = entry.records.get(client).copied() else { return Status::NoEnt };
        if xid < record.xid {
            return Status::RpcErr;
        }
        if rt::probe::weakened("mutant-release-by-anybody") {
            entry.owner = None;
        }
        match record.place {
            Place::Owner => {
                entry.owner = None;
                self.fall_idle(lock, client, true);
                self.tell(lock);
            }
            Place::Waiting { ticket, .. } => {
                self.leave_queue(lock, ticket);
                self.fall_idle(lock, client, false);
                // An owner need not hear again that others wait.
                if self.locks.get(&lock).is_none_or(|entry| entry.owner.is_none() || entry.queue.is_empty()) {
                    self.tell(lock);
                }
            }
            Place::Idle { .. } => {}
        }
        Status::Ok
    }

    /// How often `lock` was granted (lab: `lock_server_cache_rsm::stat`).
    pub fn stat(&self, lock: LockId) -> u32 {
        self.locks.get(&lock).map_or(0, |entry| entry.granted)
    }

    /// Who has `lock`.
    pub fn owner(&self, lock: LockId) -> Option<&ClientId> {
        self.locks.get(&lock)?.owner.as_ref()
    }

    /// What has become due since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What is due by the state alone: what a new primary has to see to.
    pub fn due(&self) -> Vec<Effect> {
        let all = self.contended.iter().filter_map(|lock| self.standing(*lock));
        std::iter::once(Effect::Anew).chain(all).collect()
    }

    fn has_room(&self, more: usize) -> bool {
        self.bytes + more <= self.limits.bytes
    }

    /// Gives `client` the lock, which is free or its own.
    fn grant(&mut self, lock: LockId, client: &ClientId, xid: Xid) -> Status {
        let Some(entry) = self.locks.get_mut(&lock) else { return Status::IoErr };
        assert!(entry.owner.as_ref().is_none_or(|owner| owner == client), "invariant 1: {lock} has an owner");
        let was_contended = !entry.queue.is_empty();
        entry.owner = Some(client.clone());
        entry.granted = entry.granted.saturating_add(1);
        entry.deferred = false;
        let before = entry.records.insert(client.clone(), Record { xid, place: Place::Owner });
        match before.map(|record| record.place) {
            // The owner asks again: nobody was overtaken.
            Some(Place::Owner) => {}
            Some(Place::Waiting { ticket, .. }) => {
                self.leave_queue(lock, ticket);
                self.overtake(lock, ticket);
            }
            Some(Place::Idle { since, .. }) => {
                self.idle.remove(&since);
                self.overtake(lock, u64::MAX);
            }
            None => {
                self.bytes += bytes::of_record(client);
                self.overtake(lock, u64::MAX);
            }
        }
        if was_contended {
            self.tell(lock);
        }
        Status::Ok
    }

    /// Lets `client` wait for the lock; it keeps its place if it does already.
    fn enqueue(&mut self, lock: LockId, client: &ClientId, xid: Xid) -> Status {
        let Some(entry) = self.locks.get_mut(&lock) else { return Status::IoErr };
        if let Some(Record { xid: last, place: Place::Waiting { overtaken, .. } }) = entry.records.get_mut(client) {
            *last = xid;
            *overtaken = 0;
            return Status::Retry;
        }
        if self.waiting >= self.limits.waiting {
            return Status::IoErr;
        }
        let ticket = self.clock;
        self.clock += 1;
        let first = entry.queue.is_empty();
        entry.deferred |= entry.owner.is_none();
        let place = Place::Waiting { ticket, overtaken: 0 };
        let before = entry.records.insert(client.clone(), Record { xid, place });
        match before {
            Some(Record { place: Place::Idle { since, .. }, .. }) => {
                self.idle.remove(&since);
            }
            Some(_) => {}
            None => self.bytes += bytes::of_record(client),
        }
        entry.queue.insert(ticket, client.clone());
        let free = entry.owner.is_none();
        self.waiting += 1;
        if first {
            self.contended.insert(lock);
        }
        if first || free {
            self.tell(lock);
        }
        Status::Retry
    }

    /// Somebody with `ticket` got the free lock; a head before it missed its turn.
    fn overtake(&mut self, lock: LockId, ticket: u64) {
        let Some(entry) = self.locks.get_mut(&lock) else { return };
        let Some((head, client)) = entry.queue.first_key_value() else { return };
        if *head > ticket {
            return;
        }
        let (head, client) = (*head, client.clone());
        let Some(record) = entry.records.get_mut(&client) else { return };
        let Place::Waiting { overtaken, .. } = &mut record.place else { return };
        *overtaken += 1;
        if *overtaken >= MAX_OVERTAKEN {
            let waiter = Claim { client: client.clone(), xid: record.xid };
            self.leave_queue(lock, head);
            self.fall_idle(lock, &client, false);
            self.effects.push(Effect::Overtaken { lock, waiter });
        }
    }

    fn leave_queue(&mut self, lock: LockId, ticket: u64) {
        let Some(entry) = self.locks.get_mut(&lock) else { return };
        let left = entry.queue.remove(&ticket);
        assert!(left.is_some(), "invariant 2: ticket {ticket} of {lock} is not in the queue");
        self.waiting -= 1;
        if entry.queue.is_empty() {
            self.contended.remove(&lock);
        }
    }

    /// Keeps the client's xid for a while, at the cost of the record that has been kept longest.
    fn fall_idle(&mut self, lock: LockId, client: &ClientId, granted: bool) {
        let since = self.clock;
        self.clock += 1;
        if let Some(record) = self.locks.get_mut(&lock).and_then(|entry| entry.records.get_mut(client)) {
            record.place = Place::Idle { since, granted };
            self.idle.insert(since, (lock, client.clone()));
        }
        while self.idle.len() > self.limits.idle {
            let Some((_, (lock, client))) = self.idle.pop_first() else { return };
            let Some(entry) = self.locks.get_mut(&lock) else { continue };
            if entry.records.remove(&client).is_some() {
                self.bytes -= bytes::of_record(&client);
            }
            if entry.records.is_empty() {
                self.locks.remove(&lock);
                self.bytes -= bytes::LOCK;
            }
        }
    }

    /// What is due for the lock now; none if nobody waits for it.
    fn standing(&self, lock: LockId) -> Option<Effect> {
        let entry = self.locks.get(&lock)?;
        if entry.queue.is_empty() {
            return None;
        }
        let claim = |client: &ClientId| {
            let xid = entry.records.get(client)?.xid;
            Some(Claim { client: client.clone(), xid })
        };
        Some(match &entry.owner {
            Some(owner) => Effect::Revoke { lock, owner: claim(owner)? },
            None => {
                let waiters = entry.queue.values().take(NEXT_IN_LINE).filter_map(claim).collect();
                Effect::Retry { lock, waiters }
            }
        })
    }

    fn tell(&mut self, lock: LockId) {
        let effect = self.standing(lock).unwrap_or(Effect::Settled { lock });
        self.effects.push(effect);
    }
}

impl Place {
    /// What the acquire that led here was answered.
    fn answer(self) -> Status {
        match self {
            Place::Owner | Place::Idle { granted: true, .. } => Status::Ok,
            Place::Waiting { .. } | Place::Idle { granted: false, .. } => Status::Retry,
        }
    }
}
