//! Sessions of clients, a part of the replicated state: a request that is sent again isn't executed again (H4).
//!
//! A client opens a session, and numbers its requests in it from 0. With each request it says below which number it has
//! all answers. The replies from there on are kept here, and given again. All replicas execute the same requests in the
//! same order, so they keep the same replies, and whoever is the primary next has them.
//!
//! Pure and deterministic: no I/O, no lock, no thread, no clock.
//!
//! Invariants:
//! 1. A (session, number) is executed at most once, ever: a number that is new lies in the window, at or above what is
//!    answered, and has no reply. What is answered only grows, and a reply below it is all that is ever forgotten of a
//!    session that is there.
//! 2. A session that isn't there is never new: its requests are EXPIRED. Ids are given once: they count up, and carry a
//!    number of the client's choice, so that not even a service that lost its state takes another client for this one.
//! 3. There are at most `Limits::sessions`; and replies of at most `Limits::reply_bytes` in all, or those of one session
//!    alone, which ends with its next request. The least recently used one is dropped first, never the one in use. Each
//!    request is a use, also one that is sent again: a client that still asks is never among the first.
//! 4. A number that its client has given up is never executed after a later request of that session that says so: instead
//!    of a reply it has [`GIVEN_UP`], which no reply is. Who has given up a request and undoes it can't be overtaken.
//! 5. `by_use` names each session once, under its last use; `reply_bytes` is what all replies count.

use std::collections::BTreeMap;

use yfs_rpc::marshall::{Bytes, Marshal, UnmarshalError, Unmarshaller};

use crate::protocol::{SessionId, SessionStatus};

/// How many numbers of a session may be under way: from what is answered on.
pub(crate) const WINDOW: u64 = 1024;

/// Nothing here is ever counted so far.
const MAX_COUNT: u64 = u64::MAX >> 1;

/// Stands for the reply to a request that was given up: a reply has bytes.
const GIVEN_UP: Bytes = Bytes(Vec::new());

/// What a reply counts beside its bytes.
const REPLY_OVERHEAD: usize = 64;

/// Bounds. All replicas must have the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sessions at once.
    pub(crate) sessions: usize,
    /// Bytes of all replies that are kept.
    pub(crate) reply_bytes: usize,
}

/// What fits into one answer beside a state, as long as a state is transferred in one (H21).
impl Default for Limits {
    fn default() -> Self {
        Limits { sessions: 10_000, reply_bytes: 4 << 20 }
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

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// All numbers below are answered, and forgotten.
    answered: u64,
    /// Its last use.
    used: u64,
    replies: BTreeMap<u64, Bytes>,
    /// What its replies count.
    reply_bytes: usize,
}

/// All sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    limits: Limits,
    /// The next session's number.
    next: u64,
    /// How often any session was used.
    uses: u64,
    sessions: BTreeMap<SessionId, Session>,
    by_use: BTreeMap<u64, SessionId>,
    reply_bytes: usize,
}

fn counts(reply: &Bytes) -> usize {
    reply.0.len() + REPLY_OVERHEAD
}

impl Session {
    /// The client has all answers below `answered`. Returns what was forgotten.
    fn forget_below(&mut self, answered: u64) -> usize {
        if answered <= self.answered {
            return 0;
        }
        self.answered = answered;
        let kept = self.replies.split_off(&answered);
        let forgotten = std::mem::replace(&mut self.replies, kept).values().map(counts).sum();
        self.reply_bytes -= forgotten;
        forgotten
    }
}

impl Sessions {
    /// Opens a session for a client that has chosen the number `owner` at random.
    pub(crate) fn open(&mut self, owner: u64) -> SessionId {
        let id = SessionId { number: self.next, owner };
        self.next += 1;
        self.uses += 1;
        self.sessions.insert(id, Session { used: self.uses, ..Session::default() });
        self.by_use.insert(self.uses, id);
        self.drop_unused();
        id
    }

    /// A request has come, for the first time or again.
    pub(crate) fn begin(&mut self, request: &Request<'_>) -> Turn {
        let (id, seq) = (request.session, request.seq);
        let Some(session) = self.sessions.get_mut(&id) else { return Turn::Refuse(SessionStatus::EXPIRED) };
        self.by_use.remove(&session.used);
        self.uses += 1;
        session.used = self.uses;
        self.by_use.insert(self.uses, id);
        self.reply_bytes -= session.forget_below(request.answered);
        if seq < session.answered {
            return Turn::Refuse(SessionStatus::EXPIRED);
        }
        if seq - session.answered >= WINDOW {
            return Turn::Refuse(SessionStatus::AHEAD);
        }
        for &number in &request.given_up {
            let in_window = number.checked_sub(session.answered).is_some_and(|ahead| ahead < WINDOW);
            if in_window && number != seq && !session.replies.contains_key(&number) {
                session.reply_bytes += counts(&GIVEN_UP);
                self.reply_bytes += counts(&GIVEN_UP);
                session.replies.insert(number, GIVEN_UP);
            }
        }
        let turn = match session.replies.get(&seq) {
            Some(reply) if *reply == GIVEN_UP => Turn::Refuse(SessionStatus::EXPIRED),
            Some(reply) if !rt::probe::weakened("H4-retries-execute") => Turn::Again(reply.clone()),
            _ if session.reply_bytes > self.limits.reply_bytes => {
                self.remove(id);
                Turn::Refuse(SessionStatus::EXPIRED)
            }
            _ => Turn::Execute,
        };
        self.drop_unused();
        turn
    }

    /// A request that was to be executed has been, with this reply.
    pub(crate) fn executed(&mut self, id: SessionId, seq: u64, reply: Bytes) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let more = counts(&reply);
        let less = session.replies.insert(seq, reply).as_ref().map_or(0, counts);
        session.reply_bytes = session.reply_bytes + more - less;
        self.reply_bytes = self.reply_bytes + more - less;
        self.drop_unused();
    }

    /// Invariant 3. The one in use was used last.
    fn drop_unused(&mut self) {
        let Limits { sessions, reply_bytes } = self.limits;
        while self.sessions.len() > 1 && (self.sessions.len() > sessions || self.reply_bytes > reply_bytes) {
            let Some((_, &unused)) = self.by_use.first_key_value() else { return };
            self.remove(unused);
        }
    }

    fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&session.used);
            self.reply_bytes -= session.reply_bytes;
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
/// | a session, in the order of ids: u64 u64 u64 u64 u32 | its number, its owner, what is answered, its last use, the number of replies |
/// | a reply, in order: u64 string | the request's number, the reply |
impl Sessions {
    /// Appends their bytes.
    pub(crate) fn marshal(&self, out: &mut Vec<u8>) {
        let forgotten = rt::probe::weakened("mutant-reply-forgotten");
        (self.next, self.uses, self.sessions.len() as u64).marshal(out);
        for (id, session) in &self.sessions {
            (id, session.answered, session.used).marshal(out);
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
            if id.number >= read.next || used > read.uses || used == 0 || read.by_use.insert(used, id).is_some() {
                return Err(SessionsError::Damaged("a number not yet given, or given twice"));
            }
            let mut session = Session { answered, used, ..Session::default() };
            for (seq, reply) in input.read::<Vec<(u64, Bytes)>>()? {
                if session.replies.last_key_value().is_some_and(|(last, _)| *last >= seq) {
                    return Err(SessionsError::Damaged("replies out of order"));
                }
                if seq.checked_sub(answered).is_none_or(|ahead| ahead >= WINDOW) {
                    return Err(SessionsError::Damaged("a reply out of the window"));
                }
                session.reply_bytes += counts(&reply);
                session.replies.insert(seq, reply);
            }
            read.reply_bytes += session.reply_bytes;
            read.sessions.insert(id, session);
        }
        if read.reply_bytes > read.limits.reply_bytes && read.sessions.len() > 1 {
            return Err(SessionsError::Damaged("too many bytes of replies"));
        }
        Ok(read)
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
