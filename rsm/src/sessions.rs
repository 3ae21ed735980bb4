//! Sessions of clients, a part of the replicated state: a request that is sent again isn't executed again (H4).
//!
//! A client opens a session, and numbers its requests in it from 0. With each request it says below which number it has
//! all answers. The replies from there on are kept here, and given again. All replicas execute the same requests in the
//! same order, so they keep the same replies, and whoever is the primary next has them.
//!
//! Pure and deterministic: no I/O, no lock, no thread, no clock.
//!
//! What is kept, and for how long. A request for sessions, OPEN or one in a session that is there, is a *use*; a session's
//! age is the number of uses since its last one. Nothing else here is like time. Who asks again renews its session, so
//! only requests of others that come between two copies count, and none are executed while there is no primary.
//!
//! Invariants:
//! 1. A (session, number) is executed at most once, ever: a number that is new lies in the window, at or above what is
//!    answered, and has no reply. What is answered only grows, and a reply below it is all that is ever forgotten of a
//!    session that is there.
//! 2. A session that isn't there is never new: its requests are EXPIRED. Ids never come again: they count up, and carry a
//!    number that the client draws for each OPEN, so that not even a service that goes on from an older state, or from
//!    none, takes one session for another.
//! 3. **No live retransmission is forgotten**: a session in which something was executed is there until its age is
//!    [`Limits::kept`], whatever others do. When there is no room, those who come are told BUSY, and nothing is executed.
//! 4. For room for a session one is dropped: the oldest that was opened and never used, if [`Limits::fresh`] uses old; else
//!    the least recently used, if old enough by 3; else the oldest never used, at whatever age; else none.
//! 5. The reply to an executed request is kept until its client has it, or 3 ends. Only one of more than [`ALWAYS_KEPT`]
//!    bytes is not, if there is no room among the replies of all (it never costs another one its place): then it is known
//!    that the request was executed, and copies are told so, [`SessionStatus::UNKEPT`].
//! 6. There is at most [`Limits::reply_bytes`] of replies, and one of [`ALWAYS_KEPT`] bytes a session: when there is no
//!    room, the lowest number that isn't answered is executed all the same, others wait for it. So a client never waits
//!    for what others hold but to have several requests executed at once.
//! 7. A number that its client has given up is never executed after a later request of that session that says so. Who has
//!    given up a request and undoes it can't be overtaken. It costs no room.
//! 8. Each session is named once in `used` or, if never used, in `unused`, under its last use, and in `holding` too if it
//!    has replies; `reply_bytes` is what all replies count.
//! 9. For room for a reply only sessions are dropped that have replies: of others nothing is gained.
//!
//! How many clients: [`Limits::sessions`], idle or not, are remembered. OPEN is refused only if all of them were used in
//! the last [`Limits::kept`] uses; those that were also opened within these made two each. So with 20,000 and 30,000 at
//! least 10,000 clients, all of them in use, are there before another one is refused; and services whose clients come,
//! ask once and go refuse nobody. A client of ours that has no answer asks again within some 3 s: to be forgotten, 30,000
//! requests of others have to be executed in that time, one after the other, each synced to all disks. One that is cut off
//! for longer may be forgotten; it is told EXPIRED, and its caller `Unknown`.

use std::collections::BTreeMap;

use yfs_rpc::marshall::{Bytes, Marshal, UnmarshalError, Unmarshaller};

use crate::protocol::{SessionId, SessionStatus};

/// How many numbers of a session may be under way: from what is answered on.
pub(crate) const WINDOW: u64 = 1024;

/// Nothing here is ever counted so far.
const MAX_COUNT: u64 = u64::MAX >> 1;

/// Replies up to this size are never left out. Those of the lock service have 12 bytes.
const ALWAYS_KEPT: usize = 48;

/// Stands for a reply that was not kept: a reply has bytes.
const UNKEPT: Bytes = Bytes(Vec::new());

/// What a reply counts beside its bytes: its number and its length, as they are transferred.
const REPLY_OVERHEAD: usize = 12;

/// What a reply may count that is never left out.
const SLOT: usize = ALWAYS_KEPT + REPLY_OVERHEAD;

/// Bounds. All replicas must have the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sessions at once.
    pub(crate) sessions: usize,
    /// Bytes of all replies that are kept.
    pub(crate) reply_bytes: usize,
    /// At what age a session may be dropped that was used. Less than twice `sessions`: where each client comes, asks once
    /// and goes, the oldest one's age is twice the sessions when there is no more room.
    pub(crate) kept: u64,
    /// At what age one that was never used is the first to be dropped: many clients may open theirs at once.
    pub(crate) fresh: u64,
}

/// At worst these are 6.7 MB, what fits into one answer beside a state, as long as a state is transferred in one (H21). The
/// sessions of 20,000 clients of the lock service that are gone are 1.3 MB.
impl Default for Limits {
    fn default() -> Self {
        Limits { sessions: 20_000, reply_bytes: 2 << 20, kept: 30_000, fresh: 1_000 }
    }
}

/// A request in a session, as it travels: see [`crate::protocol::REQUEST`].
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) session: SessionId,
    pub(crate) seq: u64,
    pub(crate) answered: u64,
    pub(crate) given_up: Vec<u64>,
    pub(crate) procedure: u32,
    pub(crate) args: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads the arguments of REQUEST, without copying those inside.
    pub(crate) fn read(args: &'a [u8]) -> Result<Self, UnmarshalError> {
        let mut input = Unmarshaller::new(args);
        let (session, seq, answered) = (input.read()?, input.read()?, input.read()?);
        let (given_up, procedure) = (input.read()?, input.read()?);
        let length = input.read::<u32>()?;
        let args = input.take(length as usize)?;
        input.finish()?;
        Ok(Request { session, seq, answered, given_up, procedure, args })
    }
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is new: execute it, and have the reply kept.
    Execute,
    /// It was executed, with this reply.
    Again(Bytes),
    /// It isn't to be executed; what to answer.
    Refuse(SessionStatus),
}

/// Numbers of a session's window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    /// A bit a number, at its remainder; none if there is no number.
    words: Vec<u64>,
}

impl Marks {
    const WORDS: usize = WINDOW as usize / 64;

    fn place(number: u64) -> (usize, u64) {
        let at = (number % WINDOW) as usize;
        (at / 64, 1 << (at % 64))
    }

    fn contains(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.words.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn insert(&mut self, number: u64) {
        self.words.resize(Self::WORDS, 0);
        let (word, bit) = Self::place(number);
        if let Some(bits) = self.words.get_mut(word) {
            *bits |= bit;
        }
    }

    /// The window begins at `to`, not at `from` any more.
    fn forget(&mut self, from: u64, to: u64) {
        if self.words.is_empty() {
            return;
        }
        for number in from..to.min(from.saturating_add(WINDOW)) {
            let (word, bit) = Self::place(number);
            if let Some(bits) = self.words.get_mut(word) {
                *bits &= !bit;
            }
        }
        if self.words.iter().all(|bits| *bits == 0) {
            self.words = Vec::new();
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// All numbers below are answered, and forgotten.
    answered: u64,
    /// Its last use.
    used: u64,
    given_up: Marks,
    replies: BTreeMap<u64, Bytes>,
}

/// All sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    limits: Limits,
    /// The next session's number.
    next: u64,
    /// How many uses there were.
    uses: u64,
    sessions: BTreeMap<SessionId, Session>,
    /// Those in which something was executed or said to be answered, by their last use.
    used: BTreeMap<u64, SessionId>,
    /// The others.
    unused: BTreeMap<u64, SessionId>,
    /// Those of `used` that have replies.
    holding: BTreeMap<u64, SessionId>,
    reply_bytes: usize,
}

fn counts(reply: &Bytes) -> usize {
    reply.0.len() + REPLY_OVERHEAD
}

impl Session {
    /// The client has all answers below `answered`. Returns what is no more counted.
    fn forget_below(&mut self, answered: u64) -> usize {
        if answered <= self.answered {
            return 0;
        }
        self.given_up.forget(self.answered, answered);
        self.answered = answered;
        let kept = self.replies.split_off(&answered);
        std::mem::replace(&mut self.replies, kept).values().map(counts).sum()
    }

    /// Whether dropping it would forget nothing.
    fn is_unused(&self) -> bool {
        self.answered == 0 && self.replies.is_empty() && self.given_up.words.is_empty()
    }
}

impl Sessions {
    /// Opens a session for a client that has drawn the number `owner` for it. `None`: there is no room.
    pub(crate) fn open(&mut self, owner: u64) -> Option<SessionId> {
        self.uses += 1;
        if self.sessions.len() >= self.limits.sessions {
            let unused = self.unused.first_key_value().map(|(at, id)| (self.uses - at, *id));
            let old = unused.filter(|(age, _)| *age >= self.limits.fresh);
            let (_, dropped) = old.or(self.oldest(&self.used).map(|id| (0, id))).or(unused)?;
            self.remove(dropped);
        }
        let id = SessionId { number: self.next, owner };
        self.next += 1;
        self.sessions.insert(id, Session { used: self.uses, ..Session::default() });
        self.unused.insert(self.uses, id);
        Some(id)
    }

    /// A request has come, for the first time or again.
    pub(crate) fn begin(&mut self, request: &Request<'_>) -> Turn {
        let id = request.session;
        let Some(session) = self.sessions.get_mut(&id) else { return Turn::Refuse(SessionStatus::EXPIRED) };
        self.uses += 1;
        // Nobody drops it meanwhile: it isn't named.
        self.used.remove(&session.used);
        self.unused.remove(&session.used);
        self.holding.remove(&session.used);
        session.used = self.uses;
        self.reply_bytes -= session.forget_below(request.answered);
        let turn = self.turn(request);
        let is_unused = self.sessions.get(&id).is_some_and(Session::is_unused) && turn != Turn::Execute;
        if self.sessions.get(&id).is_some_and(|session| !session.replies.is_empty()) {
            self.holding.insert(self.uses, id);
        }
        let index = if is_unused { &mut self.unused } else { &mut self.used };
        index.insert(self.uses, id);
        turn
    }

    fn turn(&mut self, request: &Request<'_>) -> Turn {
        let seq = request.seq;
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return Turn::Refuse(SessionStatus::EXPIRED);
        };
        let answered = session.answered;
        if seq < answered {
            return Turn::Refuse(SessionStatus::EXPIRED);
        }
        if seq - answered >= WINDOW {
            return Turn::Refuse(SessionStatus::AHEAD);
        }
        for &number in &request.given_up {
            let in_window = number.checked_sub(answered).is_some_and(|ahead| ahead < WINDOW);
            if in_window && number != seq && !session.replies.contains_key(&number) {
                session.given_up.insert(number);
            }
        }
        match session.replies.get(&seq) {
            _ if session.given_up.contains(seq) => return Turn::Refuse(SessionStatus::EXPIRED),
            Some(reply) if *reply == UNKEPT => return Turn::Refuse(SessionStatus::UNKEPT),
            Some(reply) if !rt::probe::weakened("H4-retries-execute") => return Turn::Again(reply.clone()),
            _ => {}
        }
        let may_run = seq == answered || self.has_room(SLOT);
        if may_run { Turn::Execute } else { Turn::Refuse(SessionStatus::BUSY) }
    }

    /// A request that was to be executed has been, with this reply.
    pub(crate) fn executed(&mut self, id: SessionId, seq: u64, reply: Bytes) {
        let is_kept = counts(&reply) <= SLOT || self.has_room(counts(&reply));
        let reply = if is_kept { reply } else { UNKEPT };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.holding.insert(session.used, id);
        self.reply_bytes += counts(&reply);
        self.reply_bytes -= session.replies.insert(seq, reply).as_ref().map_or(0, counts);
    }

    /// Whether there is room for so many bytes of replies, now that sessions with replies are dropped that are old enough.
    fn has_room(&mut self, bytes: usize) -> bool {
        if bytes > self.limits.reply_bytes {
            return false;
        }
        while self.reply_bytes + bytes > self.limits.reply_bytes {
            let Some(oldest) = self.oldest(&self.holding) else { return false };
            self.remove(oldest);
        }
        true
    }

    /// The session among these that was used least recently, if it may be dropped (invariant 3).
    fn oldest(&self, by_use: &BTreeMap<u64, SessionId>) -> Option<SessionId> {
        let (at, &id) = by_use.first_key_value()?;
        (self.uses - at >= self.limits.kept).then_some(id)
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.used.remove(&session.used);
            self.unused.remove(&session.used);
            self.holding.remove(&session.used);
            self.reply_bytes -= session.replies.values().map(counts).sum::<usize>();
        }
    }
}

/// Why bytes are not the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionsError {
    /// They end too early.
    #[error("the sessions can't be read: {0}")]
    Unreadable(#[from] UnmarshalError),
    /// They break an invariant.
    #[error("the sessions are damaged: {0}")]
    Damaged(&'static str),
}

/// The bytes, all big-endian:
///
/// | bytes | what |
/// |---|---|
/// | u64 u64 u64 | the next session's number, the uses, the number of sessions |
/// | a session, in the order of ids: u64 u64 u64 u64 | its number, its owner, what is answered, its last use |
/// | then: u32, 0 or 16, and so many u64 | the numbers given up: number n is bit n % 64 of word n % 1,024 / 64; 0 if there are none |
/// | then: u32 | the number of replies |
/// | a reply, in order: u64 string | the request's number, the reply; empty if it wasn't kept |
impl Sessions {
    /// Appends their bytes.
    pub(crate) fn marshal(&self, out: &mut Vec<u8>) {
        let forgotten = rt::probe::weakened("mutant-reply-forgotten");
        (self.next, self.uses, self.sessions.len() as u64).marshal(out);
        for (id, session) in &self.sessions {
            (id, session.answered, session.used).marshal(out);
            session.given_up.words.marshal(out);
            if forgotten {
                0_u32.marshal(out);
            } else {
                session.replies.marshal(out);
            }
        }
    }

    /// The sessions that the next bytes are, within the limits of these.
    ///
    /// # Errors
    /// [`SessionsError`], if they aren't what [`Sessions::marshal`] writes.
    pub(crate) fn unmarshal(&self, input: &mut Unmarshaller<'_>) -> Result<Sessions, SessionsError> {
        let mut read = Sessions { limits: self.limits, next: input.read()?, uses: input.read()?, ..Self::default() };
        if read.next > MAX_COUNT || read.uses > MAX_COUNT {
            return Err(SessionsError::Damaged("more than anybody counts"));
        }
        let count = input.read::<u64>()?;
        if count > read.limits.sessions as u64 {
            return Err(SessionsError::Damaged("too many"));
        }
        for _ in 0..count {
            let (id, answered, used) = (input.read::<SessionId>()?, input.read()?, input.read()?);
            if read.sessions.last_key_value().is_some_and(|(last, _)| last.number >= id.number) {
                return Err(SessionsError::Damaged("out of order"));
            }
            if id.number >= read.next || used > read.uses || used == 0 {
                return Err(SessionsError::Damaged("a number not yet given"));
            }
            let given_up = Marks { words: input.read()? };
            let is_canonical = given_up.words.len() == Marks::WORDS && given_up.words.iter().any(|bits| *bits != 0);
            if !given_up.words.is_empty() && !is_canonical {
                return Err(SessionsError::Damaged("numbers given up"));
            }
            let mut session = Session { answered, used, given_up, ..Session::default() };
            for (seq, reply) in input.read::<Vec<(u64, Bytes)>>()? {
                if session.replies.last_key_value().is_some_and(|(last, _)| *last >= seq) {
                    return Err(SessionsError::Damaged("replies out of order"));
                }
                if seq.checked_sub(answered).is_none_or(|ahead| ahead >= WINDOW) {
                    return Err(SessionsError::Damaged("a reply out of the window"));
                }
                if session.given_up.contains(seq) {
                    return Err(SessionsError::Damaged("a reply to what was given up"));
                }
                read.reply_bytes += counts(&reply);
                session.replies.insert(seq, reply);
            }
            let is_new = !read.used.contains_key(&used) && !read.unused.contains_key(&used);
            if !is_new {
                return Err(SessionsError::Damaged("one use of two sessions"));
            }
            let index = if session.is_unused() { &mut read.unused } else { &mut read.used };
            index.insert(used, id);
            if !session.replies.is_empty() {
                read.holding.insert(used, id);
            }
            read.sessions.insert(id, session);
        }
        if read.reply_bytes > read.limits.reply_bytes + read.sessions.len() * SLOT {
            return Err(SessionsError::Damaged("too many bytes of replies"));
        }
        Ok(read)
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
