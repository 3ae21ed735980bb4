#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use yfs_rpc::marshall::encode;

use super::*;

fn sessions(sessions: usize, replies: usize) -> Sessions {
    Sessions { limits: Limits { sessions, reply_bytes: replies * counts(&reply(0)) }, ..Sessions::default() }
}

fn reply(seq: u64) -> Bytes {
    Bytes(encode(&seq))
}

fn request(session: SessionId, seq: u64, answered: u64) -> Request<'static> {
    Request { session, seq, answered, given_up: Vec::new(), procedure: 1, args: &[] }
}

const EXPIRED: Turn = Turn::Refuse(SessionStatus::EXPIRED);
const AHEAD: Turn = Turn::Refuse(SessionStatus::AHEAD);

impl Sessions {
    /// As the machine does it.
    fn take(&mut self, session: SessionId, seq: u64, answered: u64) -> Turn {
        self.take_with(session, seq, answered, &[])
    }

    fn take_with(&mut self, session: SessionId, seq: u64, answered: u64, given_up: &[u64]) -> Turn {
        let turn = self.begin(&Request { given_up: given_up.to_vec(), ..request(session, seq, answered) });
        if turn == Turn::Execute {
            self.executed(session, seq, reply(seq));
        }
        self.check();
        turn
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.marshal(&mut out);
        out
    }

    fn read(&self, bytes: &[u8]) -> Result<Sessions, SessionsError> {
        let mut input = Unmarshaller::new(bytes);
        let read = self.unmarshal(&mut input)?;
        input.finish()?;
        Ok(read)
    }

    /// The invariants 3 and 4, and that a copy is the same.
    fn check(&self) {
        let by_use: BTreeMap<u64, SessionId> = self.sessions.iter().map(|(id, session)| (session.used, *id)).collect();
        assert_eq!(by_use, self.by_use);
        assert!(self.sessions.len() <= self.limits.sessions.max(1));
        assert!(self.reply_bytes <= self.limits.reply_bytes || self.sessions.len() == 1);
        let mut all = 0;
        for session in self.sessions.values() {
            assert_eq!(session.reply_bytes, session.replies.values().map(counts).sum::<usize>());
            assert!(session.replies.keys().all(|seq| *seq >= session.answered && seq - session.answered < WINDOW));
            all += session.reply_bytes;
        }
        assert_eq!(all, self.reply_bytes);
        let copy = self.read(&self.bytes()).unwrap();
        assert_eq!(copy.sessions, self.sessions);
        assert_eq!(copy.by_use, self.by_use);
        assert_eq!((copy.next, copy.uses, copy.reply_bytes), (self.next, self.uses, self.reply_bytes));
    }
}

#[test]
fn a_copy_gets_the_reply_until_the_client_has_it() {
    let mut sessions = sessions(2, 10);
    let id = sessions.open(7);
    assert_eq!(sessions.take(id, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(id, 1, 0), Turn::Execute);
    assert_eq!(sessions.take(id, 0, 0), Turn::Again(reply(0)));
    assert_eq!(sessions.take(id, 2, 1), Turn::Execute);
    assert_eq!(sessions.take(id, 0, 0), EXPIRED);
    assert_eq!(sessions.take(id, 1, 0), Turn::Again(reply(1)));
}

#[test]
fn a_request_that_was_given_up_is_not_executed_when_it_comes_late() {
    let mut sessions = sessions(2, 10);
    let id = sessions.open(7);
    assert_eq!(sessions.take(id, 1, 1), Turn::Execute);
    assert_eq!(sessions.take(id, 0, 0), EXPIRED);
    // What says of itself that it is answered isn't executed either.
    assert_eq!(sessions.take(id, 5, 6), EXPIRED);
}

#[test]
fn what_is_too_far_ahead_is_refused() {
    let mut sessions = sessions(2, 10);
    let id = sessions.open(7);
    assert_eq!(sessions.take(id, WINDOW, 0), AHEAD);
    assert_eq!(sessions.take(id, WINDOW, 1), Turn::Execute);
    assert_eq!(sessions.take(id, u64::MAX, 1), AHEAD);
    assert_eq!(sessions.take(id, u64::MAX, u64::MAX), Turn::Execute);
    assert_eq!(sessions.take(id, u64::MAX - 1, 0), EXPIRED);
}

#[test]
fn who_was_used_least_recently_goes_first_and_never_comes_back() {
    let mut sessions = sessions(2, 10);
    let (first, second) = (sessions.open(7), sessions.open(7));
    assert_eq!(sessions.take(first, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(second, 0, 0), Turn::Execute);
    // To be sent again is a use.
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)));
    let third = sessions.open(7);
    assert!(third != second && third != first);
    assert_eq!(sessions.take(second, 0, 0), EXPIRED);
    assert_eq!(sessions.take(second, 1, 0), EXPIRED);
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)));
}

#[test]
fn replies_are_bounded_and_a_session_that_has_too_many_ends() {
    let mut sessions = sessions(10, 3);
    let (idle, busy) = (sessions.open(7), sessions.open(8));
    assert_eq!(sessions.take(idle, 0, 0), Turn::Execute);
    for seq in 0..4 {
        assert_eq!(sessions.take(busy, seq, 0), Turn::Execute);
    }
    assert_eq!(sessions.take(idle, 0, 0), EXPIRED);
    assert_eq!(sessions.take(busy, 3, 0), Turn::Again(reply(3)));
    // More than all may have: it ends with its next request, unless it says that it has some replies.
    assert_eq!(sessions.clone().take(busy, 4, 1), Turn::Execute);
    assert_eq!(sessions.take(busy, 4, 0), EXPIRED);
    assert_eq!(sessions.take(busy, 4, 1), EXPIRED);
    assert_eq!(sessions.reply_bytes, 0);
}

/// A service that has lost its state counts from 0 again.
#[test]
fn another_clients_session_of_the_same_number_is_not_taken_for_ones_own() {
    let mut lost = sessions(10, 10);
    let before = lost.open(7);
    let mut begun = sessions(10, 10);
    let after = begun.open(8);
    assert_eq!(before.number, after.number);
    assert_eq!(begun.take(before, 0, 0), EXPIRED);
}

#[test]
fn damaged_bytes_are_refused() {
    let mut sessions = sessions(3, 10);
    for seq in 0..3 {
        let id = sessions.open(7);
        sessions.take(id, seq, 0);
    }
    let bytes = sessions.bytes();
    for end in 0..bytes.len() {
        assert!(sessions.read(&bytes[..end]).is_err(), "{end}");
    }
    let damaged = |change: &dyn Fn(&mut Sessions)| {
        let mut changed = sessions.clone();
        change(&mut changed);
        matches!(sessions.read(&changed.bytes()), Err(SessionsError::Damaged(_)))
    };
    let id = SessionId { number: 1, owner: 7 };
    assert!(!damaged(&|_| {}));
    assert!(damaged(&|s| s.next = 2), "a number not yet given");
    assert!(damaged(&|s| s.uses = 1), "a use to come");
    assert!(damaged(&|s| s.next = u64::MAX) && damaged(&|s| s.uses = u64::MAX), "they couldn't be counted on");
    assert!(damaged(&|s| s.sessions.get_mut(&id).unwrap().used = 0), "never used");
    assert!(damaged(&|s| s.sessions.get_mut(&id).unwrap().used = s.uses), "one use of two sessions");
    assert!(damaged(&|s| s.sessions.get_mut(&id).unwrap().answered = 2), "a reply that is answered");
    assert!(damaged(&|s| drop(s.sessions.get_mut(&id).unwrap().replies.insert(WINDOW, reply(0)))), "a reply ahead");
    assert!(
        damaged(&|s| drop(s.sessions.insert(SessionId { number: 1, owner: 8 }, Session::default()))),
        "a number twice"
    );
    let one_more = |s: &mut Sessions| {
        s.limits.sessions = 4;
        s.open(7);
    };
    assert!(damaged(&one_more), "too many");
    let huge = Bytes(vec![0; 100 * counts(&reply(0))]);
    assert!(damaged(&|s| drop(s.sessions.get_mut(&id).unwrap().replies.insert(2, huge.clone()))), "too many bytes");
}

#[test]
fn what_was_given_up_is_not_executed_behind_a_later_request() {
    let mut all = sessions(2, 10);
    let id = all.open(7);
    assert_eq!(all.take(id, 0, 0), Turn::Execute);
    // 0 was executed: its reply stays. 1 hasn't come yet.
    assert_eq!(all.take_with(id, 2, 0, &[0, 1, 2, WINDOW]), Turn::Execute);
    assert_eq!(all.take(id, 1, 0), EXPIRED);
    assert_eq!(all.take(id, 0, 0), Turn::Again(reply(0)));
    let mut all = all.read(&all.bytes()).unwrap();
    assert_eq!(all.take(id, 1, 0), EXPIRED, "everywhere");
    assert_eq!(all.take(id, WINDOW, 3), Turn::Execute);
}

#[derive(Clone, Debug)]
enum Op {
    Open(u64),
    /// A request of one of the sessions opened, or a copy.
    Request {
        session: usize,
        seq: u64,
        answered: u64,
        given_up: Vec<u64>,
    },
    /// Another replica goes on, with what it was sent.
    Transfer,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        1 => (0..3_u64).prop_map(Op::Open),
        20 => (0..8_usize, 0..12_u64, 0..4_u64).prop_map(|(session, seq, behind)| {
            Op::Request { session, seq, answered: seq.saturating_sub(behind), given_up: Vec::new() }
        }),
        4 => (0..8_usize, 0..12_u64, proptest::collection::vec(0..14_u64, 1..3))
            .prop_map(|(session, seq, given_up)| Op::Request { session, seq, answered: 0, given_up }),
        1 => (0..8_usize, 0..12_u64, 0..2 * WINDOW)
            .prop_map(|(session, seq, answered)| Op::Request { session, seq, answered, given_up: Vec::new() }),
        1 => Just(Op::Transfer),
    ];
    proptest::collection::vec(op, 1..300)
}

proptest! {
    /// Against a model that forgets nothing: whatever was executed, with its reply.
    #[test]
    fn h04_nothing_is_executed_twice_in_whatever_order_copies_come(ops in ops(), limits in (1..6_usize, 1..30_usize)) {
        let mut sessions = sessions(limits.0, limits.1);
        let mut ids: Vec<SessionId> = Vec::new();
        let mut executed: BTreeSet<(SessionId, u64)> = BTreeSet::new();
        let mut given: BTreeSet<(SessionId, u64)> = BTreeSet::new();
        for op in ops {
            match op {
                Op::Open(owner) => {
                    let id = sessions.open(owner);
                    prop_assert!(!ids.contains(&id));
                    ids.push(id);
                }
                Op::Request { session, seq, answered, given_up } => {
                    let Some(&id) = ids.iter().rev().nth(session) else { continue };
                    let known = sessions.sessions.get(&id).map(|session| session.answered.max(answered));
                    let turn = sessions.take_with(id, seq, answered, &given_up);
                    if known.is_some_and(|answered| (answered..answered + WINDOW).contains(&seq)) {
                        given.extend(given_up.into_iter().filter(|number| *number != seq).map(|number| (id, number)));
                    }
                    match turn {
                        Turn::Execute => {
                            prop_assert!(!given.contains(&(id, seq)), "{seq} of {id:?} was given up");
                            prop_assert!(executed.insert((id, seq)), "{seq} of {id:?} is executed twice");
                            // What is in use isn't dropped.
                            prop_assert!(sessions.sessions.contains_key(&id));
                        }
                        Turn::Again(kept) => {
                            prop_assert!(executed.contains(&(id, seq)));
                            prop_assert_eq!(kept, reply(seq));
                        }
                        // A client that goes by the rules, with a session that is there, isn't sent away.
                        Turn::Refuse(SessionStatus::AHEAD) => {
                            prop_assert!(known.is_some_and(|answered| seq >= answered + WINDOW));
                        }
                        Turn::Refuse(status) => {
                            prop_assert_eq!(status, SessionStatus::EXPIRED);
                            let ended = !sessions.sessions.contains_key(&id);
                            let gone = given.contains(&(id, seq)) && !executed.contains(&(id, seq));
                            prop_assert!(ended || gone || known.is_some_and(|answered| seq < answered));
                        }
                    }
                }
                Op::Transfer => sessions = sessions.read(&sessions.bytes()).unwrap(),
            }
            sessions.check();
        }
    }

    #[test]
    fn any_bytes_are_sessions_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
        let sessions = sessions(3, 10);
        if small {
            bytes.iter_mut().for_each(|byte| *byte &= 1);
        }
        if let Ok(read) = sessions.read(&bytes) {
            read.check();
        }
    }
}
