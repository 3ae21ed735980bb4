#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use yfs_rpc::marshall::encode;

use super::*;

/// With room for so many replies of [`reply`], and sessions that may be dropped at any age.
fn sessions(sessions: usize, replies: usize) -> Sessions {
    kept(sessions, replies, 1)
}

/// Those used are kept for so long.
fn kept(sessions: usize, replies: usize, kept: u64) -> Sessions {
    let limits = Limits { sessions, reply_bytes: replies * counts(&reply(0)), kept, fresh: 1 };
    Sessions { limits, ..Sessions::default() }
}

fn reply(seq: u64) -> Bytes {
    Bytes(encode(&seq))
}

fn request(session: SessionId, seq: u64, answered: u64) -> Request<'static> {
    Request { session, seq, answered, given_up: Vec::new(), procedure: 1, args: &[] }
}

const EXPIRED: Turn = Turn::Refuse(SessionStatus::EXPIRED);
const AHEAD: Turn = Turn::Refuse(SessionStatus::AHEAD);
const BUSY: Turn = Turn::Refuse(SessionStatus::BUSY);
const UNKEPT_REPLY: Turn = Turn::Refuse(SessionStatus::UNKEPT);

impl Sessions {
    fn opened(&mut self, owner: u64) -> SessionId {
        self.open(owner).expect("there is room")
    }

    /// As the machine does it.
    fn take(&mut self, session: SessionId, seq: u64, answered: u64) -> Turn {
        self.take_with(session, seq, answered, &[])
    }

    fn take_with(&mut self, session: SessionId, seq: u64, answered: u64, given_up: &[u64]) -> Turn {
        let request = Request { given_up: given_up.to_vec(), ..request(session, seq, answered) };
        self.take_for(&request, reply(seq))
    }

    fn take_for(&mut self, request: &Request<'_>, reply: Bytes) -> Turn {
        let turn = self.begin(request);
        if turn == Turn::Execute {
            self.executed(request.session, request.seq, reply);
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

    /// The invariants 6 and 8, and that a copy is the same.
    fn check(&self) {
        let by_use = |unused| -> BTreeMap<u64, SessionId> {
            let those = self.sessions.iter().filter(|(_, session)| session.is_unused() == unused);
            those.map(|(id, session)| (session.used, *id)).collect()
        };
        assert_eq!((by_use(false), by_use(true)), (self.used.clone(), self.unused.clone()));
        assert_eq!(self.used.len() + self.unused.len(), self.sessions.len());
        let replying = self.sessions.iter().filter(|(_, session)| !session.replies.is_empty());
        assert_eq!(replying.map(|(id, session)| (session.used, *id)).collect::<BTreeMap<_, _>>(), self.holding);
        assert!(self.sessions.len() <= self.limits.sessions);
        let mut all = 0;
        for session in self.sessions.values() {
            let in_window = |seq: &u64| *seq >= session.answered && seq - session.answered < WINDOW;
            assert!(session.replies.keys().all(|seq| in_window(seq) && !session.given_up.contains(*seq)));
            all += session.replies.values().map(counts).sum::<usize>();
        }
        assert_eq!(all, self.reply_bytes);
        assert!(all <= self.limits.reply_bytes + self.sessions.len() * SLOT);
        let copy = self.read(&self.bytes()).unwrap();
        assert_eq!(copy.sessions, self.sessions);
        assert_eq!((&copy.used, &copy.unused, &copy.holding), (&self.used, &self.unused, &self.holding));
        assert_eq!((copy.next, copy.uses, copy.reply_bytes), (self.next, self.uses, self.reply_bytes));
    }
}

#[test]
fn a_copy_gets_the_reply_until_the_client_has_it() {
    let mut sessions = sessions(2, 10);
    let id = sessions.opened(7);
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
    let id = sessions.opened(7);
    assert_eq!(sessions.take(id, 1, 1), Turn::Execute);
    assert_eq!(sessions.take(id, 0, 0), EXPIRED);
    // What says of itself that it is answered isn't executed either.
    assert_eq!(sessions.take(id, 5, 6), EXPIRED);
}

#[test]
fn what_is_too_far_ahead_is_refused() {
    let mut sessions = sessions(2, 10);
    let id = sessions.opened(7);
    assert_eq!(sessions.take(id, WINDOW, 0), AHEAD);
    assert_eq!(sessions.take(id, WINDOW, 1), Turn::Execute);
    assert_eq!(sessions.take(id, u64::MAX, 1), AHEAD);
    assert_eq!(sessions.take(id, u64::MAX, u64::MAX), Turn::Execute);
    assert_eq!(sessions.take(id, u64::MAX - 1, 0), EXPIRED);
}

#[test]
fn who_was_used_least_recently_goes_first_and_never_comes_back() {
    let mut sessions = sessions(2, 10);
    let (first, second) = (sessions.opened(7), sessions.opened(7));
    assert_eq!(sessions.take(first, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(second, 0, 0), Turn::Execute);
    // To be sent again is a use.
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)));
    let third = sessions.opened(7);
    assert!(third != second && third != first);
    assert_eq!(sessions.take(second, 0, 0), EXPIRED);
    assert_eq!(sessions.take(second, 1, 0), EXPIRED);
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)));
}

#[test]
fn who_was_used_lately_is_not_dropped_for_others_who_are_told_busy() {
    let mut sessions = kept(2, 10, 6);
    let (first, second) = (sessions.opened(7), sessions.opened(7));
    assert_eq!(sessions.take(first, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(second, 0, 0), Turn::Execute);
    for _ in 0..4 {
        assert_eq!(sessions.open(8), None);
        sessions.check();
    }
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)), "five uses later");
    // Now the second one is six uses old.
    let third = sessions.opened(8);
    assert_eq!(sessions.take(second, 0, 0), EXPIRED);
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)));
    // One that was never used has nothing to lose. To be refused is no use of a session.
    assert_eq!(sessions.take(third, WINDOW, 0), AHEAD);
    let fourth = sessions.opened(9);
    assert_eq!(sessions.take(third, 0, 0), EXPIRED);
    assert_eq!(sessions.take(fourth, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(first, 0, 0), Turn::Again(reply(0)));
}

#[test]
fn what_was_opened_and_never_used_goes_before_what_was_but_not_at_once() {
    let mut sessions = kept(4, 10, 3);
    sessions.limits.fresh = 3;
    let old = sessions.opened(1);
    assert_eq!(sessions.take(old, 0, 0), Turn::Execute);
    let opened: Vec<SessionId> = (2..5).map(|owner| sessions.opened(owner)).collect();
    // Old enough: the first that was never used goes.
    sessions.opened(5);
    assert!(sessions.sessions.contains_key(&old) && !sessions.sessions.contains_key(&opened[0]));
    // Those left are used or fresh: the old one goes, though it was used.
    assert_eq!(sessions.take(opened[1], 0, 0), Turn::Execute);
    assert_eq!(sessions.take(opened[2], 0, 0), Turn::Execute);
    sessions.limits.fresh = 9;
    sessions.opened(6);
    assert!(!sessions.sessions.contains_key(&old));
    // Nobody is old enough: the one that was never used, though it's fresh.
    assert_eq!(sessions.take(opened[1], 1, 1), Turn::Execute);
    assert_eq!(sessions.take(opened[2], 1, 1), Turn::Execute);
    sessions.opened(7);
    assert_eq!(sessions.take(opened[1], 1, 1), Turn::Again(reply(1)));
    assert_eq!(sessions.take(opened[2], 1, 1), Turn::Again(reply(1)));
}

#[test]
fn when_replies_have_no_room_each_session_goes_on_one_by_one() {
    let mut sessions = kept(10, 3, 100);
    let (idle, busy) = (sessions.opened(7), sessions.opened(8));
    assert_eq!(sessions.take(idle, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(busy, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(busy, 1, 0), BUSY, "a reply of 48 bytes has no room");
    for seq in 1..10 {
        assert_eq!(sessions.take(busy, seq, seq), Turn::Execute, "the lowest one has");
        assert_eq!(sessions.take(busy, seq + 2, seq), BUSY);
        assert_eq!(sessions.take(busy, seq, seq), Turn::Again(reply(seq)));
    }
    assert_eq!(sessions.take(idle, 0, 0), Turn::Again(reply(0)), "nobody paid for it");
    // Who was asked to wait is executed when its turn comes.
    assert_eq!(sessions.take(busy, 11, 11), Turn::Execute);
}

#[test]
fn idle_replies_make_room_when_they_are_old() {
    let mut sessions = kept(10, 6, 8);
    let (idle, busy) = (sessions.opened(7), sessions.opened(8));
    assert_eq!(sessions.take(idle, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(busy, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(busy, 1, 0), Turn::Execute);
    // Three have 60 of 120 bytes: there is room for one more, as long as it may be.
    assert_eq!(sessions.take(busy, 2, 0), Turn::Execute);
    for _ in 0..4 {
        assert_eq!(sessions.take(busy, 3, 0), BUSY);
    }
    assert_eq!(sessions.take(busy, 3, 0), Turn::Execute);
    assert_eq!(sessions.take(idle, 0, 0), EXPIRED);
}

#[test]
fn for_room_for_a_reply_only_sessions_are_dropped_that_have_replies() {
    let mut sessions = kept(10, 4, 8);
    let (done, idle, busy) = (sessions.opened(7), sessions.opened(8), sessions.opened(9));
    // It has all answers, and says so with a number that is refused.
    assert_eq!(sessions.take(done, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(done, 1 + WINDOW, 1), AHEAD);
    assert_eq!(sessions.take(idle, 0, 0), Turn::Execute);
    assert_eq!(sessions.take(busy, 0, 0), Turn::Execute);
    for _ in 0..5 {
        assert_eq!(sessions.take(busy, 1, 0), BUSY);
    }
    assert_eq!(sessions.take(busy, 1, 0), BUSY, "only what holds nothing is old enough");
    assert_eq!(sessions.take(busy, 1, 0), Turn::Execute);
    assert_eq!(sessions.take(idle, 0, 0), EXPIRED);
    assert_eq!(sessions.take(done, 1, 1), Turn::Execute, "it is still there");
}

#[test]
fn a_large_reply_costs_nobody_its_place_and_is_known_to_have_been_executed() {
    let mut all = Sessions::default();
    let (idle, greedy) = (all.opened(7), all.opened(8));
    assert_eq!(all.take(idle, 0, 0), Turn::Execute);
    let large = |bytes: usize| Bytes(vec![1; bytes]);
    let half = large(1 << 20);
    assert_eq!(all.take_for(&request(greedy, 0, 0), half.clone()), Turn::Execute);
    assert_eq!(all.take(greedy, 0, 0), Turn::Again(half.clone()));
    assert_eq!(all.take_for(&request(greedy, 1, 0), large(5 << 20)), Turn::Execute);
    assert_eq!(all.take_for(&request(greedy, 2, 0), half.clone()), Turn::Execute);
    let mut all = all.read(&all.bytes()).unwrap();
    assert_eq!(all.take(greedy, 1, 0), UNKEPT_REPLY, "not executed again");
    assert_eq!(all.take(greedy, 2, 0), UNKEPT_REPLY);
    assert_eq!(all.take(idle, 0, 0), Turn::Again(reply(0)));
    assert_eq!(all.take_for(&request(greedy, 3, 3), half.clone()), Turn::Execute);
    assert_eq!(all.take(greedy, 3, 3), Turn::Again(half));
}

/// What a reviewer did: each of these made a victim's retransmission EXPIRED.
#[test]
fn a_flood_of_opens_or_of_numbers_given_up_costs_no_live_retransmission() {
    let mut all = Sessions::default();
    let victim = all.opened(7);
    assert_eq!(all.take(victim, 0, 0), Turn::Execute);
    for owner in 0..29_000 {
        // Used or not.
        if let Some(id) = all.open(owner).filter(|_| owner % 3 == 0 && owner < 24_000) {
            all.begin(&request(id, 0, 1));
        }
    }
    assert_eq!(all.take(victim, 0, 0), Turn::Again(reply(0)));
    let given_up: Vec<u64> = (1..WINDOW).collect();
    for owner in 0..70 {
        let id = all.opened(owner);
        all.begin(&Request { given_up: given_up.clone(), ..request(id, 0, 0) });
        all.executed(id, 0, reply(0));
    }
    assert_eq!(all.take(victim, 0, 0), Turn::Again(reply(0)));
}

/// Clients that come, ask once and go, for ever.
#[test]
fn a_service_of_short_lived_clients_refuses_none() {
    let mut all = Sessions::default();
    for owner in 0..70_000 {
        let id = all.opened(owner);
        assert_eq!(all.begin(&request(id, 0, 0)), Turn::Execute);
        all.executed(id, 0, Bytes(vec![0; 12]));
    }
    all.check();
    assert_eq!(all.sessions.len(), 20_000);
    assert!(all.bytes().len() < 1_400_000);
}

/// Each has as much as it may.
#[test]
fn all_sessions_fit_into_a_transfer() {
    let mut all = Sessions::default();
    all.limits.kept = 1_000_000;
    let given_up: Vec<u64> = (1..WINDOW).step_by(2).collect();
    let small = Bytes(vec![0; ALWAYS_KEPT]);
    let greedy = all.opened(0);
    let ids: Vec<SessionId> = (1..20_000).map(|owner| all.opened(owner)).collect();
    for seq in (2..).step_by(2) {
        let large = Bytes(vec![0; 104_000 - REPLY_OVERHEAD]);
        match all.begin(&request(greedy, seq, 0)) {
            Turn::Execute => all.executed(greedy, seq, if seq < 42 { large } else { small.clone() }),
            turn => {
                assert_eq!(turn, BUSY);
                break;
            }
        }
    }
    for id in ids {
        all.begin(&Request { given_up: given_up.clone(), ..request(id, 0, 0) });
        all.executed(id, 0, small.clone());
    }
    all.check();
    assert!((6_600_000..6_700_000).contains(&all.bytes().len()), "{}", all.bytes().len());
}

/// A service that has lost its state counts from 0 again.
#[test]
fn another_clients_session_of_the_same_number_is_not_taken_for_ones_own() {
    let mut lost = sessions(10, 10);
    let before = lost.opened(7);
    let mut begun = sessions(10, 10);
    let after = begun.opened(8);
    assert_eq!(before.number, after.number);
    assert_eq!(begun.take(before, 0, 0), EXPIRED);
}

#[test]
fn damaged_bytes_are_refused() {
    let mut sessions = sessions(3, 10);
    for seq in 0..3 {
        let id = sessions.opened(7);
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
        s.opened(7);
    };
    assert!(damaged(&one_more), "too many");
    let huge = Bytes(vec![0; 100 * counts(&reply(0))]);
    assert!(damaged(&|s| drop(s.sessions.get_mut(&id).unwrap().replies.insert(2, huge.clone()))), "too many bytes");
    let marks = |words: &[u64]| damaged(&|s| s.sessions.get_mut(&id).unwrap().given_up.words = words.to_vec());
    assert!(marks(&[4]) && marks(&[4; 17]), "none, or all of the window");
    assert!(marks(&[0; 16]), "no number is none");
    assert!(marks(&[2; 16]), "it was executed");
    assert!(!marks(&[4; 16]));
}

#[test]
fn what_was_given_up_is_not_executed_behind_a_later_request() {
    let mut all = sessions(2, 10);
    let id = all.opened(7);
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
    /// A request of one of the sessions opened, or a copy; how long the reply is to be.
    Request {
        session: usize,
        seq: u64,
        answered: u64,
        given_up: Vec<u64>,
        bytes: usize,
    },
    /// Another replica goes on, with what it was sent.
    Transfer,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let bytes = || prop_oneof![4 => 8..ALWAYS_KEPT + 1, 1 => ALWAYS_KEPT..400];
    let op = prop_oneof![
        2 => (0..3_u64).prop_map(Op::Open),
        20 => (0..8_usize, 0..12_u64, 0..4_u64, bytes()).prop_map(|(session, seq, behind, bytes)| {
            Op::Request { session, seq, answered: seq.saturating_sub(behind), given_up: Vec::new(), bytes }
        }),
        4 => (0..8_usize, 0..12_u64, proptest::collection::vec(0..14_u64, 1..3), bytes())
            .prop_map(|(session, seq, given_up, bytes)| Op::Request { session, seq, answered: 0, given_up, bytes }),
        1 => (0..8_usize, 0..12_u64, 0..2 * WINDOW, bytes()).prop_map(|(session, seq, answered, bytes)| {
            Op::Request { session, seq, answered, given_up: vec![answered + 1, answered + WINDOW], bytes }
        }),
        1 => Just(Op::Transfer),
    ];
    proptest::collection::vec(op, 1..300)
}

/// The rules in the simplest form: nothing is forgotten but by them, everything is looked up anew each time.
#[derive(Default)]
struct Model {
    uses: u64,
    sessions: Vec<ModelSession>,
}

struct ModelSession {
    id: SessionId,
    is_there: bool,
    last_use: u64,
    answered: u64,
    given_up: BTreeSet<u64>,
    /// All that was ever executed, and whether the reply was kept.
    executed: BTreeMap<u64, (Bytes, bool)>,
}

impl ModelSession {
    fn is_unused(&self) -> bool {
        self.answered == 0 && self.executed.is_empty() && self.given_up.is_empty()
    }

    fn reply_bytes(&self) -> usize {
        let replies = self.executed.range(self.answered..).filter(|_| self.is_there);
        replies.map(|(_, (reply, is_kept))| if *is_kept { reply.0.len() + 12 } else { 12 }).sum()
    }
}

impl Model {
    /// The one used least recently of these, if old enough.
    fn drop_oldest(&mut self, which: impl Fn(&ModelSession) -> bool, age: u64) -> bool {
        let uses = self.uses;
        let there = self.sessions.iter_mut().filter(|s| s.is_there && which(s));
        let oldest = there.min_by_key(|s| s.last_use).filter(|s| uses - s.last_use >= age);
        oldest.map(|s| s.is_there = false).is_some()
    }

    fn has_room(&mut self, limits: &Limits, bytes: usize) -> bool {
        let all = |model: &Model| model.sessions.iter().map(ModelSession::reply_bytes).sum::<usize>();
        while bytes <= limits.reply_bytes && all(self) + bytes > limits.reply_bytes {
            if !self.drop_oldest(|session| session.reply_bytes() > 0, limits.kept) {
                return false;
            }
        }
        bytes <= limits.reply_bytes
    }

    fn open(&mut self, limits: &Limits) -> bool {
        self.uses += 1;
        self.sessions.iter().filter(|s| s.is_there).count() < limits.sessions
            || self.drop_oldest(ModelSession::is_unused, limits.fresh)
            || self.drop_oldest(|session| !session.is_unused(), limits.kept)
            || self.drop_oldest(ModelSession::is_unused, 0)
    }

    fn opened(&mut self, id: SessionId) {
        let last_use = self.uses;
        let (given_up, executed) = (BTreeSet::new(), BTreeMap::new());
        self.sessions.push(ModelSession { id, is_there: true, last_use, answered: 0, given_up, executed });
    }

    fn take(&mut self, limits: &Limits, at: usize, request: &Request<'_>, reply: &Bytes) -> Turn {
        let session = &mut self.sessions[at];
        if !session.is_there {
            return EXPIRED;
        }
        self.uses += 1;
        session.last_use = self.uses;
        session.answered = session.answered.max(request.answered);
        let window = session.answered..session.answered + WINDOW;
        session.given_up.retain(|number| window.contains(number));
        if request.seq < window.start {
            return EXPIRED;
        }
        if request.seq >= window.end {
            return AHEAD;
        }
        for number in request.given_up.iter().filter(|n| window.contains(n) && **n != request.seq) {
            if !session.executed.contains_key(number) {
                session.given_up.insert(*number);
            }
        }
        match session.executed.get(&request.seq) {
            _ if session.given_up.contains(&request.seq) => return EXPIRED,
            Some((reply, true)) => return Turn::Again(reply.clone()),
            Some((_, false)) => return UNKEPT_REPLY,
            None => {}
        }
        if request.seq != window.start && !self.has_room(limits, 60) {
            return BUSY;
        }
        let is_kept = reply.0.len() <= 48 || self.has_room(limits, reply.0.len() + 12);
        self.sessions[at].executed.insert(request.seq, (reply.clone(), is_kept));
        Turn::Execute
    }
}

proptest! {
    /// Against the model; and whatever the rules are, against all that was ever executed or given up.
    #[test]
    fn h04_nothing_is_executed_twice_in_whatever_order_copies_come(
        ops in ops(),
        limits in (1..6_usize, 1..30_usize, 1..40_u64, 1..20_u64),
    ) {
        let mut sessions = kept(limits.0, limits.1, limits.2);
        sessions.limits.fresh = limits.3;
        let limits = sessions.limits;
        let mut model = Model::default();
        let mut executed: BTreeSet<(SessionId, u64)> = BTreeSet::new();
        let mut given: BTreeSet<(SessionId, u64)> = BTreeSet::new();
        for op in ops {
            match op {
                Op::Open(owner) => {
                    let has_room = model.open(&limits);
                    let id = sessions.open(owner);
                    prop_assert_eq!(id.is_some(), has_room);
                    if let Some(id) = id {
                        prop_assert!(model.sessions.iter().all(|session| session.id != id));
                        model.opened(id);
                    }
                }
                Op::Request { session, seq, answered, given_up, bytes } => {
                    let Some(at) = model.sessions.len().checked_sub(session + 1) else { continue };
                    let (id, was_there) = (model.sessions[at].id, model.sessions[at].is_there);
                    let reply = Bytes(vec![seq as u8; bytes]);
                    let request = Request { given_up: given_up.clone(), ..request(id, seq, answered) };
                    let turn = sessions.take_for(&request, reply.clone());
                    prop_assert_eq!(&turn, &model.take(&limits, at, &request, &reply));
                    prop_assert!(!was_there || model.sessions[at].is_there, "what is in use isn't dropped");
                    if turn == Turn::Execute {
                        prop_assert!(!given.contains(&(id, seq)), "{seq} of {id:?} was given up");
                        prop_assert!(executed.insert((id, seq)), "{seq} of {id:?} is executed twice");
                    }
                    if ![EXPIRED, AHEAD].contains(&turn) {
                        given.extend(given_up.into_iter().filter(|n| *n < answered + WINDOW).map(|n| (id, n)));
                        given.retain(|(id, n)| !executed.contains(&(*id, *n)) && (*id, *n) != (request.session, seq));
                    }
                }
                Op::Transfer => sessions = sessions.read(&sessions.bytes()).unwrap(),
            }
            sessions.check();
            let there: Vec<SessionId> = model.sessions.iter().filter(|s| s.is_there).map(|s| s.id).collect();
            prop_assert_eq!(sessions.sessions.keys().copied().collect::<Vec<_>>(), there);
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
