//! At-most-once: which requests a server has seen, and what it answered (lab 1: `rpcs`'s reply window).
//!
//! [`ReplyWindow`] is one client's, [`ReplyWindows`] are all of them and know on which connections each client is. Both
//! are pure: no clock, no lock, no I/O. The server asks them before it runs a handler and tells them each answer.
//!
//! A request's states, by its client nonce and xid; no arrow leads back:
//!
//! ```text
//! (not seen) --admit: New--> in progress --complete--> done --acknowledged or evicted--> forgotten
//!      \------------------acknowledged, or the client's entry is gone-------------------/
//! ```
//!
//! Invariants:
//! 1. `New` is said once for a number. What is dropped, for whatever reason, is `Forgotten` from then on.
//! 2. A request in progress is remembered until it completes; neither an acknowledgement nor a bound drops it.
//! 3. Without eviction the verdict is the one of a server that remembers everything. Eviction turns `Done` into
//!    `Forgotten`, and only where a bound says so `New` into `Forgotten`.
//! 4. All requests in progress of a client lie within 2^31 numbers, so that an xid names one of them.
//! 5. A nonce without an entry is `Forgotten` (hole H19): only a bind makes one. A client whose bind was answered binds
//!    no more, and a bind that comes late, on an older connection than a dropped client was on, makes no entry. So an
//!    entry may be dropped at any time without a request being executed twice.
//! 6. `held` is the sum over all clients of what they hold; each bound of [`Limits`] holds after each call.
//!
//! Numbers: an xid is taken for the number nearest to the highest one seen, modulo 2^32, so a client may run over the
//! end of `i32`. Numbers may come in any order and with gaps, because many threads share a client and a lost request
//! comes again later than its successors. Gaps are remembered as ranges: a jump of a billion costs one.
//!
//! An xid_rep acknowledges replies up to itself, so one slow call holds back the acknowledgement of all after it.
//! Replies are therefore dropped in the order of completion, not of their numbers: the oldest call, which may take its
//! 120 s, keeps its answer as long as any other does. What a client can still be missing was answered on its last
//! connection, so it is no more than what it had outstanding when that died. At the default limits those are more than
//! 100,000 small replies: a client with hundreds of calls outstanding meets a `Forgotten` only if their results have
//! 16 MiB together, or if all clients together hold 256 MiB and it holds the most.
//!
//! Garbage: an xid_rep that isn't below the xid beside it, or is behind an earlier one, acknowledges nothing. An xid
//! that runs 2^31 numbers ahead of one that is still remembered is `Forgotten`.
//!
//! Deviations from the lab: it takes a client nonce without an entry for a new client, and keeps every entry forever.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::pdu::{ClientNonce, Xid};

/// What is counted for a kept reply beside its bytes: map slot, queue slot, allocations.
const REPLY_COST: usize = 128;

/// What is counted for a gap.
const GAP_COST: usize = 32;

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Execute it, and [`complete`](ReplyWindows::complete) it.
    New,
    /// Drop it: it is being executed, and will be answered.
    InProgress,
    /// Send this answer again.
    Done(Arc<Vec<u8>>),
    /// Refuse it ([`AtMostOnce`](crate::CallError::AtMostOnce)): it may have been executed, and the answer is gone.
    Forgotten,
}

/// The bounds. Each says what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What the replies of one client may hold. Beyond it, its earliest completed replies are dropped; the
    /// last one is kept whatever its size, so one reply of the longest PDU's size may come on top.
    pub reply_bytes_per_client: usize,
    /// What the replies and gaps of all clients may hold. Beyond it, the clients that hold most lose half of theirs, earliest completed
    /// replies first, until a sixteenth is free. So a client that hoards can't make a modest one forget.
    pub held_bytes: usize,
    /// Requests of one client in progress. One more is `Forgotten`, for good: a server that reads on must be given
    /// something, and it can't be run. Servers stop reading a connection long before.
    pub in_progress_per_client: usize,
    /// Ranges of numbers that one client has left out. Beyond it the lowest one is `Forgotten` when it comes after all.
    /// An honest client leaves out what was lost with its last connection, at most its calls outstanding.
    pub gaps_per_client: usize,
    /// Clients remembered. For one more, the least recently used is dropped, first among those without a live
    /// connection, but none with a request in progress. Should all have one, the bind is refused.
    pub clients: usize,
    /// Clients on one connection; an honest one carries one. For one more, the least recently used of *that connection*
    /// leaves it, and is dropped if it has no other and nothing in progress. So nobody drives out other connections'
    /// clients by inventing nonces, if connections times this stay below `clients`. Should all have a request in
    /// progress, the bind is refused, and requests are `Forgotten`.
    pub clients_per_connection: usize,
    /// Live connections remembered for one client; an honest one has one, and for a moment its last one. One more drops
    /// the oldest: no answers go there any more, until the client uses it again.
    pub connections_per_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            reply_bytes_per_client: 16 << 20,
            held_bytes: 256 << 20,
            in_progress_per_client: 65_536,
            gaps_per_client: 16_384,
            clients: 65_536,
            clients_per_connection: 4,
            connections_per_client: 4,
        }
    }
}

/// How much is remembered, of one client and in all, and the bounds on it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The client's replies.
    pub replies: usize,
    /// What they hold.
    pub reply_bytes: usize,
    /// The client's requests in progress.
    pub in_progress: usize,
    /// The ranges of numbers that the client has left out.
    pub gaps: usize,
    /// The connections that the client is on.
    pub connections: usize,
    /// The most clients on one of these.
    pub sharing: usize,
    /// All clients.
    pub clients: usize,
    /// What the replies and gaps of all clients hold.
    pub held: usize,
    /// The bounds.
    pub limits: Limits,
}

impl fmt::Debug for Sizes {
    /// Without the bounds: they are always the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { replies, reply_bytes, in_progress, gaps, connections, sharing, clients, held, limits: _ } = self;
        write!(f, "client: {replies} replies of {reply_bytes}, {in_progress} in progress, {gaps} gaps, ")?;
        write!(f, "{connections} connections of {sharing}; all: {clients} clients, {held}")
    }
}

#[derive(Debug)]
enum Slot {
    InProgress,
    Done(Arc<Vec<u8>>),
}

fn cost(reply: &Vec<u8>) -> usize {
    reply.capacity() + REPLY_COST
}

/// The requests of one client nonce. See the module for states and invariants.
#[derive(Debug)]
pub struct ReplyWindow {
    limits: Limits,
    /// The highest number seen.
    highest: i64,
    /// The client has the replies up to this number. Never above `highest`.
    acked: i64,
    /// What is in progress, and what is done and not acknowledged.
    slots: BTreeMap<i64, Slot>,
    in_progress: usize,
    /// The numbers up to `highest` that were never seen and may still be new: first to last of each range.
    gaps: BTreeMap<i64, i64>,
    /// The numbers of the done slots, as completed. Acknowledged ones are left in it until they are many.
    completed: VecDeque<i64>,
    reply_bytes: usize,
}

impl ReplyWindow {
    /// The window of a client that has sent no request yet: each one will be new.
    pub fn new(limits: Limits) -> Self {
        // As if all negative xids and 0 had been left out.
        let (lowest, highest) = (-(1 << 31), 0);
        ReplyWindow {
            limits,
            highest,
            acked: lowest - 1,
            slots: BTreeMap::new(),
            in_progress: 0,
            gaps: BTreeMap::from([(lowest, highest)]),
            completed: VecDeque::new(),
            reply_bytes: 0,
        }
    }

    /// Says what to do with a request, and drops what its xid_rep acknowledges.
    pub fn admit(&mut self, xid: Xid, xid_rep: Xid) -> Verdict {
        let Some(number) = self.number(xid) else { return Verdict::Forgotten };
        let verdict = self.verdict(number);
        // Taken relative to its own request: the client had both at hand at once.
        let behind = xid.0.wrapping_sub(xid_rep.0);
        if behind > 0 {
            self.acknowledge(number - i64::from(behind));
        }
        verdict
    }

    /// Keeps the reply of a request in progress, unless it is acknowledged already. False, and nothing done, if the
    /// request isn't in progress.
    pub fn complete(&mut self, xid: Xid, reply: Arc<Vec<u8>>) -> bool {
        // Right by invariant 4: what is in progress lies less than 2^31 behind.
        let number = self.nearest(xid).unwrap_or(self.highest);
        let Some(slot @ Slot::InProgress) = self.slots.get_mut(&number) else { return false };
        self.in_progress -= 1;
        if number <= self.acked {
            self.slots.remove(&number);
            return true;
        }
        self.reply_bytes += cost(&reply);
        *slot = Slot::Done(reply);
        self.completed.push_back(number);
        while self.reply_bytes > self.limits.reply_bytes_per_client && self.done() > 1 {
            self.evict();
        }
        true
    }

    /// How many requests are being executed.
    pub fn in_progress(&self) -> usize {
        self.in_progress
    }

    /// How many bytes can be had back by forgetting.
    pub fn held(&self) -> usize {
        self.reply_bytes + self.gaps.len() * GAP_COST
    }

    /// Forgets replies, earliest completed first, then gaps, until no more than this is held.
    pub fn trim(&mut self, bytes: usize) {
        while self.held() > bytes && self.done() > 0 {
            self.evict();
        }
        while self.held() > bytes && self.gaps.pop_first().is_some() {}
    }

    /// The number nearest to the highest one that this xid may stand for.
    fn nearest(&self, xid: Xid) -> Option<i64> {
        // Cut to 32 bits on purpose: numbers are counted on where xids wrap.
        let ahead = xid.0.wrapping_sub(self.highest as i32);
        self.highest.checked_add(i64::from(ahead))
    }

    /// As [`ReplyWindow::nearest`], unless it would break invariant 4.
    fn number(&self, xid: Xid) -> Option<i64> {
        let number = self.nearest(xid)?;
        let oldest = self.slots.first_key_value().map_or(number, |(&oldest, _)| oldest);
        (number - oldest < 1 << 31).then_some(number)
    }

    fn verdict(&mut self, number: i64) -> Verdict {
        match self.slots.get(&number) {
            Some(Slot::InProgress) if rt::probe::weakened("mutant-copy-runs") => return Verdict::New,
            Some(Slot::InProgress) => return Verdict::InProgress,
            Some(Slot::Done(reply)) => return Verdict::Done(reply.clone()),
            None => {}
        }
        if !self.see(number) || self.in_progress >= self.limits.in_progress_per_client {
            return Verdict::Forgotten;
        }
        self.slots.insert(number, Slot::InProgress);
        self.in_progress += 1;
        Verdict::New
    }

    /// Marks a number as seen. Whether it wasn't before.
    fn see(&mut self, number: i64) -> bool {
        if number > self.highest {
            if number > self.highest + 1 {
                self.gaps.insert(self.highest + 1, number - 1);
            }
            self.highest = number;
        } else {
            let Some((&first, &last)) = self.gaps.range(..=number).next_back() else { return false };
            if last < number {
                return false;
            }
            self.gaps.remove(&first);
            if first < number {
                self.gaps.insert(first, number - 1);
            }
            if number < last {
                self.gaps.insert(number + 1, last);
            }
        }
        while self.gaps.len() > self.limits.gaps_per_client {
            self.gaps.pop_first();
        }
        true
    }

    /// Drops the replies and gaps up to this number.
    fn acknowledge(&mut self, number: i64) {
        if number <= self.acked {
            return;
        }
        let mut from = self.acked + 1;
        while let Some((&next, slot)) = self.slots.range(from..).next().filter(|(next, _)| **next <= number) {
            if let Slot::Done(reply) = slot
                && !rt::probe::weakened("mutant-window-never-shrinks")
            {
                self.reply_bytes -= cost(reply);
                self.slots.remove(&next);
            }
            from = next + 1;
        }
        while let Some(gap) = self.gaps.first_entry().filter(|gap| *gap.key() <= number) {
            let last = gap.remove();
            if last > number {
                self.gaps.insert(number + 1, last);
            }
        }
        self.acked = number;
        self.tidy();
    }

    /// Keeps the queue proportional to what is done, at a constant cost for each completion.
    fn tidy(&mut self) {
        let slots = &self.slots;
        while self.completed.front().is_some_and(|number| !slots.contains_key(number)) {
            self.completed.pop_front();
        }
        if self.completed.len() > 2 * self.done() + 64 {
            self.completed.retain(|number| slots.contains_key(number));
        }
        // An idle client gives its memory back.
        if self.completed.capacity() > 4 * self.completed.len() + 256 {
            self.completed.shrink_to(2 * self.completed.len());
        }
    }

    fn done(&self) -> usize {
        self.slots.len() - self.in_progress
    }

    /// Forgets the reply that was completed first.
    fn evict(&mut self) {
        while let Some(number) = self.completed.pop_front() {
            if let Some(Slot::Done(reply)) = self.slots.get(&number) {
                self.reply_bytes -= cost(reply);
                self.slots.remove(&number);
                return;
            }
        }
    }
}

#[derive(Debug)]
struct Client {
    window: ReplyWindow,
    /// Its live connections, ascending.
    connections: Vec<u64>,
    /// The newest connection that it was ever on.
    newest: u64,
    /// When it was last heard of; no two clients have the same.
    used: u64,
}

impl Client {
    /// Whether it waits in `gone` to be dropped.
    fn is_gone(&self) -> bool {
        self.connections.is_empty() && self.window.in_progress() == 0
    }
}

/// The windows of all clients of a server, and the connections they are on.
///
/// Connection ids grow in the order of acceptance and are not used again: the newest is the highest. After
/// [`disconnected`](ReplyWindows::disconnected) a connection must not be named again.
///
/// Client nonce 0 wants no at-most-once. It never gets an entry: each of its requests is `New`, and it is answered on
/// the connection that it came on.
#[derive(Debug, Default)]
pub struct ReplyWindows {
    limits: Limits,
    clients: BTreeMap<ClientNonce, Client>,
    /// The clients on each connection that has any.
    connections: BTreeMap<u64, Vec<ClientNonce>>,
    /// The clients that may be dropped without anybody noticing now, by when they were last used.
    gone: BTreeMap<u64, ClientNonce>,
    /// Some of the least recently used clients at some time, the first to go last. Checked when taken.
    next_to_drop: Vec<(u64, ClientNonce)>,
    /// The newest connection that a dropped client was ever on (invariant 5).
    dropped_on: u64,
    /// Counts uses, to order them.
    uses: u64,
    held: usize,
}

impl ReplyWindows {
    /// No clients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No clients yet, and other bounds than the default ones.
    pub fn with_limits(limits: Limits) -> Self {
        ReplyWindows { limits, ..Self::default() }
    }

    /// Takes notice of a bind, before it is answered. A client that is known keeps its entry: it has sent its bind again,
    /// on a new connection. False if there is no room, or the bind is late (invariant 5): then it must not be answered,
    /// and the connection be closed, so that the client comes again on a new one.
    #[must_use]
    pub fn bind(&mut self, nonce: ClientNonce, connection: u64) -> bool {
        if nonce == ClientNonce(0) {
            return true;
        }
        if self.clients.contains_key(&nonce) {
            return self.attach(nonce, connection);
        }
        if connection < self.dropped_on || !self.make_room_on(connection) || !self.make_room() {
            return false;
        }
        self.uses += 1;
        let window = ReplyWindow::new(self.limits);
        self.held += window.held();
        let client = Client { window, connections: vec![connection], newest: connection, used: self.uses };
        self.clients.insert(nonce, client);
        self.connections.entry(connection).or_default().push(nonce);
        self.trim();
        true
    }

    /// Says what to do with a request that names this server's nonce.
    pub fn admit(&mut self, nonce: ClientNonce, connection: u64, xid: Xid, xid_rep: Xid) -> Verdict {
        if nonce == ClientNonce(0) {
            return Verdict::New;
        }
        let is_known =
            self.attach(nonce, connection) || rt::probe::weakened("H19-unknown-is-new") && self.bind(nonce, connection);
        if !is_known {
            return Verdict::Forgotten;
        }
        let Some(client) = self.clients.get_mut(&nonce) else { return Verdict::Forgotten };
        let before = client.window.held();
        let verdict = client.window.admit(xid, xid_rep);
        self.held = self.held - before + client.window.held();
        self.trim();
        verdict
    }

    /// Keeps the reply of a request that was `New`. Returns the connection to send it on: the client's newest live one,
    /// whichever the request came on. `None` if it has none; it will ask again.
    pub fn complete(&mut self, nonce: ClientNonce, xid: Xid, reply: Arc<Vec<u8>>) -> Option<u64> {
        let client = self.clients.get_mut(&nonce)?;
        let before = client.window.held();
        if !client.window.complete(xid, reply) {
            return None;
        }
        self.held = self.held - before + client.window.held();
        if client.is_gone() {
            self.gone.insert(client.used, nonce);
        }
        let newest = client.connections.last().copied();
        self.trim();
        newest
    }

    /// Takes notice that a connection is closed. Its clients keep their entries.
    pub fn disconnected(&mut self, connection: u64) {
        for nonce in self.connections.remove(&connection).unwrap_or_default() {
            self.forget_connection(nonce, connection);
            // Right, as long as what is unknown isn't new.
            if rt::probe::weakened("H19-unknown-is-new") && self.clients.get(&nonce).is_some_and(Client::is_gone) {
                self.drop_client(nonce);
            }
        }
    }

    /// How many clients are remembered.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether no client is remembered.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// How many bytes the replies and gaps of all clients hold.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How much is remembered of a client and in all.
    pub fn sizes(&self, nonce: ClientNonce) -> Sizes {
        let all = Sizes { clients: self.clients.len(), held: self.held, limits: self.limits, ..Sizes::default() };
        let Some(Client { window, connections, .. }) = self.clients.get(&nonce) else { return all };
        let sharing = connections.iter().filter_map(|connection| Some(self.connections.get(connection)?.len())).max();
        Sizes {
            replies: window.done(),
            reply_bytes: window.reply_bytes,
            in_progress: window.in_progress,
            gaps: window.gaps.len(),
            connections: connections.len(),
            sharing: sharing.unwrap_or(0),
            ..all
        }
    }

    /// Notes that a client is on a connection. False if it is unknown, or there is no room on the connection.
    fn attach(&mut self, nonce: ClientNonce, connection: u64) -> bool {
        let Some(client) = self.clients.get_mut(&nonce) else { return false };
        if client.connections.contains(&connection) {
            self.uses += 1;
            client.used = self.uses;
            return true;
        }
        if !self.make_room_on(connection) {
            return false;
        }
        let Some(client) = self.clients.get_mut(&nonce) else { return false };
        if client.is_gone() {
            self.gone.remove(&client.used);
        }
        self.uses += 1;
        client.used = self.uses;
        client.newest = client.newest.max(connection);
        let at = client.connections.partition_point(|&other| other < connection);
        client.connections.insert(at, connection);
        self.connections.entry(connection).or_default().push(nonce);
        if client.connections.len() > self.limits.connections_per_client {
            let oldest = client.connections.remove(0);
            self.take_off(oldest, nonce);
        }
        true
    }

    /// Makes room for one more client on a connection, at the cost of the others there.
    fn make_room_on(&mut self, connection: u64) -> bool {
        let Some(there) = self.connections.get(&connection) else { return true };
        if there.len() < self.limits.clients_per_connection {
            return true;
        }
        let idle = there.iter().filter_map(|nonce| Some((self.clients.get(nonce)?, *nonce)));
        let Some((_, nonce)) = idle
            .filter(|(client, _)| client.window.in_progress() == 0)
            .map(|(client, nonce)| (client.used, nonce))
            .min()
        else {
            return false;
        };
        self.take_off(connection, nonce);
        self.forget_connection(nonce, connection);
        if self.clients.get(&nonce).is_some_and(Client::is_gone) {
            self.drop_client(nonce);
        }
        true
    }

    /// Makes room for one more client.
    fn make_room(&mut self) -> bool {
        if self.clients.len() < self.limits.clients {
            return true;
        }
        let next = self.gone.first_key_value().map(|(_, &nonce)| nonce).or_else(|| self.least_recently_used());
        if let Some(nonce) = next {
            self.drop_client(nonce);
        }
        next.is_some()
    }

    /// The connected client that may be dropped first, for when all are connected. Looks at all clients, but then knows
    /// what to answer for a while.
    fn least_recently_used(&mut self) -> Option<ClientNonce> {
        loop {
            while let Some((used, nonce)) = self.next_to_drop.pop() {
                let unchanged = |client: &Client| client.used == used && client.window.in_progress() == 0;
                if self.clients.get(&nonce).is_some_and(unchanged) {
                    return Some(nonce);
                }
            }
            let idle = self.clients.iter().filter(|(_, client)| client.window.in_progress() == 0);
            self.next_to_drop = idle.map(|(&nonce, client)| (client.used, nonce)).collect();
            if self.next_to_drop.is_empty() {
                return None;
            }
            self.next_to_drop.sort_unstable();
            self.next_to_drop.truncate(1 + self.limits.clients / 16);
            self.next_to_drop.shrink_to_fit();
            self.next_to_drop.reverse();
        }
    }

    fn drop_client(&mut self, nonce: ClientNonce) {
        let Some(client) = self.clients.remove(&nonce) else { return };
        self.held -= client.window.held();
        self.dropped_on = self.dropped_on.max(client.newest);
        if client.is_gone() {
            self.gone.remove(&client.used);
        }
        for connection in client.connections {
            self.take_off(connection, nonce);
        }
    }

    /// The half of leaving a connection that concerns the client.
    fn forget_connection(&mut self, nonce: ClientNonce, connection: u64) {
        let Some(client) = self.clients.get_mut(&nonce) else { return };
        client.connections.retain(|&other| other != connection);
        if client.is_gone() {
            self.gone.insert(client.used, nonce);
        }
    }

    /// The half of leaving a connection that concerns the connection.
    fn take_off(&mut self, connection: u64, nonce: ClientNonce) {
        let Some(there) = self.connections.get_mut(&connection) else { return };
        there.retain(|&other| other != nonce);
        if there.is_empty() {
            self.connections.remove(&connection);
        }
    }

    /// Keeps the total in its bound. Frees a sixteenth at once, so that looking at all clients is rare.
    fn trim(&mut self) {
        if self.held <= self.limits.held_bytes {
            return;
        }
        let enough = self.limits.held_bytes - self.limits.held_bytes / 16;
        let mut holders: Vec<(usize, ClientNonce)> =
            self.clients.iter().map(|(&nonce, client)| (client.window.held(), nonce)).collect();
        holders.sort_unstable_by(|one, other| other.cmp(one));
        for (held, nonce) in holders {
            if self.held <= enough {
                break;
            }
            if let Some(client) = self.clients.get_mut(&nonce) {
                client.window.trim(held / 2);
                self.held = self.held - held + client.window.held();
            }
        }
    }
}

#[cfg(test)]
mod tests;
