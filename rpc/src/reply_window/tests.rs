//! The windows beside naive ones that remember everything.

use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits {
    reply_bytes_per_client: 6 * REPLY_COST,
    held_bytes: 10 * REPLY_COST,
    in_progress_per_client: 5,
    gaps_per_client: 4,
    clients: 3,
    clients_per_connection: 2,
    connections_per_client: 2,
};

fn reply(text: &str) -> Arc<Vec<u8>> {
    Arc::new(text.as_bytes().to_vec())
}

impl ReplyWindow {
    fn check(&self) {
        let done = |slot: &Slot| match slot {
            Slot::InProgress => None,
            Slot::Done(reply) => Some(cost(reply)),
        };
        assert_eq!(self.in_progress, self.slots.values().filter(|slot| done(slot).is_none()).count());
        assert_eq!(self.reply_bytes, self.slots.values().filter_map(done).sum::<usize>());
        for (number, slot) in &self.slots {
            assert!(*number > self.acked || done(slot).is_none());
            assert!(done(slot).is_none() || self.completed.iter().filter(|other| *other == number).count() == 1);
            assert!(*number <= self.highest && self.highest - number < 1 << 31, "invariant 4");
        }
        let mut free = self.acked + 1;
        for (&first, &last) in &self.gaps {
            assert!(free <= first && first <= last && last <= self.highest);
            assert!(self.slots.range(first..=last).next().is_none());
            free = last + 1;
        }
        assert!(self.completed.len() <= 2 * self.done() + 64 + 1);
        assert!(self.reply_bytes <= self.limits.reply_bytes_per_client || self.done() <= 1);
        assert!(self.in_progress <= self.limits.in_progress_per_client);
        assert!(self.gaps.len() <= self.limits.gaps_per_client);
    }
}

impl ReplyWindows {
    fn check(&self) {
        let mut gone = BTreeMap::new();
        let mut connections: BTreeMap<u64, Vec<ClientNonce>> = BTreeMap::new();
        let mut held = 0;
        for (&nonce, client) in &self.clients {
            client.window.check();
            held += client.window.held();
            if client.is_gone() {
                gone.insert(client.used, nonce);
            }
            assert!(client.connections.is_sorted());
            assert!(client.connections.len() <= self.limits.connections_per_client);
            client.connections.iter().for_each(|&id| connections.entry(id).or_default().push(nonce));
        }
        let mut noted = self.connections.clone();
        noted.values_mut().for_each(|nonces| nonces.sort());
        assert_eq!(noted, connections);
        assert!(noted.values().all(|nonces| nonces.len() <= self.limits.clients_per_connection));
        assert_eq!(self.gone, gone);
        assert_eq!(self.held, held);
        assert!(held <= self.limits.held_bytes && self.clients.len() <= self.limits.clients, "invariant 6");
    }
}

/// What a window would say that remembers everything, by searching.
struct Naive {
    seen: BTreeMap<i64, NaiveState>,
    highest: i64,
    acked: i64,
}

#[derive(Clone, PartialEq)]
enum NaiveState {
    InProgress,
    Done(Arc<Vec<u8>>),
    Refused,
}

impl Naive {
    fn new() -> Self {
        Naive { seen: BTreeMap::new(), highest: 0, acked: i64::MIN }
    }

    fn number(&self, xid: i32) -> i64 {
        let near = self.highest.div_euclid(1 << 32) * (1 << 32);
        let all = (-1..=1).map(|round| near + (round << 32) + i64::from(xid as u32));
        all.min_by_key(|number| ((number - self.highest).abs(), *number)).unwrap()
    }

    fn admit(&mut self, xid: i32, rep: i32) -> Verdict {
        let number = self.number(xid);
        let remembered = self.seen.iter().find(|(number, state)| match state {
            NaiveState::InProgress => true,
            NaiveState::Done(_) => **number > self.acked,
            NaiveState::Refused => false,
        });
        if remembered.is_some_and(|(oldest, _)| number - oldest >= 1 << 31) {
            return Verdict::Forgotten;
        }
        let verdict = match self.seen.get(&number) {
            Some(NaiveState::InProgress) => Verdict::InProgress,
            Some(NaiveState::Done(reply)) if number > self.acked => Verdict::Done(reply.clone()),
            None if number > self.acked => Verdict::New,
            _ => Verdict::Forgotten,
        };
        self.highest = self.highest.max(number);
        if verdict == Verdict::New {
            self.seen.insert(number, NaiveState::InProgress);
        }
        let behind = xid.wrapping_sub(rep);
        if behind > 0 {
            self.acked = self.acked.max(number - i64::from(behind));
        }
        verdict
    }

    fn in_progress(&self) -> Vec<i64> {
        let running = self.seen.iter().filter(|(_, state)| **state == NaiveState::InProgress);
        running.map(|(number, _)| *number).collect()
    }

    /// What an honest client would acknowledge.
    fn honest_rep(&self) -> i32 {
        let missing = (1..).find(|number| !matches!(self.seen.get(number), Some(NaiveState::Done(_))));
        missing.map_or(0, |number| number as i32 - 1)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Admit { xid: Number, rep: Number },
    Complete { which: prop::sample::Index, bytes: usize },
}

#[derive(Clone, Debug)]
enum Number {
    Near(i32),
    Exactly(i32),
    Honest,
}

fn ops(garbage: impl Strategy<Value = i32> + Clone + 'static) -> impl Strategy<Value = Vec<Op>> {
    let xid = prop_oneof![
        20 => (-12..=3).prop_map(Number::Near),
        1 => garbage.clone().prop_map(Number::Exactly),
    ];
    let rep = prop_oneof![
        6 => Just(Number::Honest),
        4 => Just(Number::Exactly(0)),
        2 => (-20..=2).prop_map(Number::Near),
        1 => garbage.prop_map(Number::Exactly),
    ];
    let op = prop_oneof![
        3 => (xid, rep).prop_map(|(xid, rep)| Op::Admit { xid, rep }),
        2 => (any::<prop::sample::Index>(), 0_usize..150)
            .prop_map(|(which, bytes)| Op::Complete { which, bytes }),
    ];
    proptest::collection::vec(op, 1..250)
}

/// Runs the operations on both. What differs is given to `differs`, which panics if it mustn't.
fn compare(limits: Limits, ops: Vec<Op>, differs: impl Fn(&Verdict, &Verdict)) {
    let mut window = ReplyWindow::new(limits);
    let mut naive = Naive::new();
    for op in ops {
        match op {
            Op::Admit { xid, rep } => {
                let number = |number| match number {
                    Number::Near(offset) => (naive.highest as i32).wrapping_add(offset),
                    Number::Exactly(xid) => xid,
                    Number::Honest => naive.honest_rep(),
                };
                let (xid, rep) = (number(xid), number(rep));
                let verdict = window.admit(Xid(xid), Xid(rep));
                let number = naive.number(xid);
                let expected = naive.admit(xid, rep);
                if verdict != expected {
                    differs(&verdict, &expected);
                    if expected == Verdict::New {
                        naive.seen.insert(number, NaiveState::Refused);
                    }
                }
            }
            Op::Complete { which, bytes } => {
                let running = naive.in_progress();
                assert_eq!(running.len(), window.in_progress(), "invariant 2");
                if running.is_empty() {
                    continue;
                }
                let number = running[which.index(running.len())];
                let reply = Arc::new(vec![number as u8; bytes]);
                naive.seen.insert(number, NaiveState::Done(reply.clone()));
                assert!(window.complete(Xid(number as i32), reply.clone()));
                assert!(!window.complete(Xid(number as i32), reply));
            }
        }
        window.check();
    }
}

proptest! {
    #[test]
    fn window_agrees_with_one_that_remembers_everything(ops in ops(any::<i32>())) {
        compare(Limits::default(), ops, |verdict, expected| panic!("{verdict:?}, not {expected:?}"));
    }

    #[test]
    fn bounds_only_make_it_forget(ops in ops(-(1 << 24)..1 << 24)) {
        compare(SMALL, ops, |verdict, expected| {
            assert_eq!(verdict, &Verdict::Forgotten);
            assert!(matches!(expected, Verdict::Done(_) | Verdict::New), "forgot {expected:?}");
        });
    }

    /// Where only replies are short of room, new requests stay new.
    #[test]
    fn evicted_replies_only_turn_done_into_forgotten(ops in ops(-(1 << 24)..1 << 24)) {
        let limits = Limits { reply_bytes_per_client: 20 * REPLY_COST, ..Limits::default() };
        compare(limits, ops, |verdict, expected| {
            assert_eq!(verdict, &Verdict::Forgotten);
            assert!(matches!(expected, Verdict::Done(_)), "forgot {expected:?}");
        });
    }
}

fn request(window: &mut ReplyWindow, xid: i32, rep: i32) -> Verdict {
    window.admit(Xid(xid), Xid(rep))
}

#[test]
fn request_goes_through_its_states() {
    let mut window = ReplyWindow::new(Limits::default());
    assert_eq!(request(&mut window, 2, 1), Verdict::New);
    assert_eq!(request(&mut window, 2, 1), Verdict::InProgress);
    assert!(window.complete(Xid(2), reply("two")));
    assert_eq!(request(&mut window, 2, 1), Verdict::Done(reply("two")));
    assert_eq!(request(&mut window, 3, 2), Verdict::New);
    assert_eq!(request(&mut window, 2, 1), Verdict::Forgotten);
    assert_eq!(request(&mut window, 1, 0), Verdict::Forgotten);
    // The client gave up on 3 while it was executed: nobody needs the answer.
    assert_eq!(request(&mut window, 4, 3), Verdict::New);
    assert_eq!(request(&mut window, 3, 2), Verdict::InProgress);
    assert!(window.complete(Xid(3), reply("three")));
    assert_eq!(request(&mut window, 3, 2), Verdict::Forgotten);
    assert!(!window.complete(Xid(9), reply("never asked")));
    assert_eq!(window.held(), 0);
}

#[test]
fn garbage_xid_rep_acknowledges_nothing() {
    let mut window = ReplyWindow::new(Limits::default());
    for xid in 1..=3 {
        request(&mut window, xid, 0);
        window.complete(Xid(xid), reply("x"));
    }
    for rep in [i32::MAX, i32::MIN, -1, 0, 3, 4, 1 << 30] {
        assert_eq!(request(&mut window, 3, rep), Verdict::Done(reply("x")));
    }
    for xid in 1..=3 {
        assert_eq!(request(&mut window, xid, 0), Verdict::Done(reply("x")), "xid {xid}");
    }
    assert_eq!(request(&mut window, 3, 2), Verdict::Done(reply("x")));
    assert_eq!(request(&mut window, 3, 0), Verdict::Done(reply("x")));
    assert_eq!(request(&mut window, 2, 0), Verdict::Forgotten);
}

#[test]
fn numbers_run_over_the_end_of_i32() {
    let mut window = ReplyWindow::new(Limits::default());
    let mut xid = i32::MAX - 3;
    assert_eq!(request(&mut window, xid, xid - 1), Verdict::New);
    window.complete(Xid(xid), reply("x"));
    for _ in 0..8 {
        let next = xid.wrapping_add(1);
        assert_eq!(request(&mut window, next, xid), Verdict::New);
        assert_eq!(request(&mut window, xid, xid.wrapping_sub(1)), Verdict::Forgotten);
        assert!(window.complete(Xid(next), reply("x")));
        assert_eq!(request(&mut window, next, xid), Verdict::Done(reply("x")));
        xid = next;
        window.check();
    }
    assert_eq!(xid, i32::MIN + 4);
}

#[test]
fn jump_past_a_request_in_progress_is_forgotten() {
    let mut window = ReplyWindow::new(Limits::default());
    assert_eq!(request(&mut window, 1, 0), Verdict::New);
    assert_eq!(request(&mut window, i32::MAX, 0), Verdict::New);
    assert_eq!(request(&mut window, i32::MIN, 0), Verdict::New);
    assert_eq!(request(&mut window, i32::MIN + 1, 0), Verdict::Forgotten);
    window.check();
    assert!(window.complete(Xid(1), reply("x")));
    assert_eq!(request(&mut window, i32::MIN, i32::MAX), Verdict::InProgress);
    assert_eq!(request(&mut window, i32::MIN + 1, i32::MAX), Verdict::New);
}

/// 300 calls outstanding; the oldest takes as long as 90,000 others, and its answer is lost with its connection.
#[test]
fn slow_oldest_call_among_hundreds_keeps_its_answer() {
    let mut window = ReplyWindow::new(Limits::default());
    let small = Arc::new(vec![0; 28]);
    for xid in 1..=90_000 {
        assert_eq!(request(&mut window, xid, 0), Verdict::New);
        if xid > 300 {
            assert!(window.complete(Xid(xid - 299), small.clone()));
        }
    }
    assert!(window.complete(Xid(1), reply("slow")));
    for xid in 2..=90_000 {
        let verdict = request(&mut window, xid, 0);
        let done = xid <= 90_000 - 299;
        assert_eq!(verdict, if done { Verdict::Done(small.clone()) } else { Verdict::InProgress });
    }
    // Even past the bound: the last answers are kept, not the ones with the highest numbers.
    for xid in 90_001..=400_000 {
        assert_eq!(request(&mut window, xid, 0), Verdict::New);
        assert!(window.complete(Xid(xid), small.clone()));
        if xid == 300_000 {
            assert_eq!(request(&mut window, 1, 0), Verdict::Forgotten);
            assert!(window.complete(Xid(90_000), reply("slower")));
        }
    }
    assert_eq!(request(&mut window, 90_000, 0), Verdict::Done(reply("slower")));
    assert!(window.held() <= Limits::default().reply_bytes_per_client);
    // 298 are still in progress; all answers go with one acknowledgement.
    assert_eq!(request(&mut window, 400_001, 400_000), Verdict::New);
    assert_eq!((window.held(), window.in_progress()), (0, 299));
    assert!(window.completed.capacity() < 1000);
}

#[test]
fn late_request_in_a_gap_is_new_once() {
    let mut window = ReplyWindow::new(Limits::default());
    assert_eq!(request(&mut window, 1_000_000_000, 0), Verdict::New);
    assert_eq!(request(&mut window, 5, 0), Verdict::New);
    assert_eq!(request(&mut window, 5, 0), Verdict::InProgress);
    assert_eq!(request(&mut window, 4, 0), Verdict::New);
    assert!(window.complete(Xid(5), reply("five")));
    assert_eq!(request(&mut window, 5, 0), Verdict::Done(reply("five")));
    assert_eq!(window.gaps.len(), 2);
    window.check();
}

#[test]
fn last_reply_is_kept_whatever_its_size() {
    let mut window = ReplyWindow::new(SMALL);
    let big = Arc::new(vec![0; 10 * SMALL.reply_bytes_per_client]);
    for xid in 1..=2 {
        assert_eq!(request(&mut window, xid, 0), Verdict::New);
        assert!(window.complete(Xid(xid), big.clone()));
    }
    assert_eq!(request(&mut window, 1, 0), Verdict::Forgotten);
    assert_eq!(request(&mut window, 2, 0), Verdict::Done(big));
}

fn nonce(number: u32) -> ClientNonce {
    ClientNonce(number)
}

/// One request from its arrival to its answer.
fn serve(windows: &mut ReplyWindows, client: u32, connection: u64, xid: i32, answer: &Arc<Vec<u8>>) -> Verdict {
    let verdict = windows.admit(nonce(client), connection, Xid(xid), Xid(0));
    if verdict == Verdict::New {
        assert_eq!(windows.complete(nonce(client), Xid(xid), answer.clone()), Some(connection));
    }
    windows.check();
    verdict
}

#[test]
fn h19_request_without_an_entry_is_forgotten() {
    let mut windows = ReplyWindows::new();
    assert_eq!(windows.admit(nonce(7), 1, Xid(2), Xid(1)), Verdict::Forgotten);
    assert!(windows.is_empty());
    assert!(windows.bind(nonce(7), 1));
    assert_eq!(windows.admit(nonce(7), 1, Xid(2), Xid(1)), Verdict::New);
    assert_eq!(windows.complete(nonce(8), Xid(2), reply("x")), None);
    windows.check();
}

#[test]
fn h19_entries_are_bounded_and_the_unconnected_go_first() {
    let mut windows = ReplyWindows::with_limits(SMALL);
    for client in 1..=3 {
        assert!(windows.bind(nonce(client), u64::from(client)));
        assert_eq!(serve(&mut windows, client, u64::from(client), 2, &reply("x")), Verdict::New);
    }
    windows.disconnected(2);
    assert!(windows.bind(nonce(4), 4));
    windows.check();
    assert_eq!(windows.admit(nonce(2), 5, Xid(2), Xid(1)), Verdict::Forgotten);
    assert_eq!(windows.admit(nonce(1), 1, Xid(2), Xid(1)), Verdict::Done(reply("x")));
    // All are connected: the least recently used.
    assert!(windows.bind(nonce(5), 5));
    assert_eq!(windows.admit(nonce(3), 3, Xid(2), Xid(1)), Verdict::Forgotten);
    // All have a request in progress: no room.
    for (client, connection) in [(1, 1), (4, 4), (5, 5)] {
        assert_eq!(windows.admit(nonce(client), connection, Xid(3), Xid(1)), Verdict::New);
    }
    assert!(!windows.bind(nonce(6), 6));
    windows.disconnected(4);
    assert!(!windows.bind(nonce(6), 6));
    assert_eq!(windows.complete(nonce(4), Xid(3), reply("x")), None);
    assert!(windows.bind(nonce(6), 6));
    windows.check();
    assert_eq!(windows.len(), 3);
}

#[test]
fn bind_sent_again_keeps_the_entry() {
    let mut windows = ReplyWindows::new();
    assert!(windows.bind(nonce(1), 1));
    assert_eq!(windows.admit(nonce(1), 1, Xid(2), Xid(1)), Verdict::New);
    windows.disconnected(1);
    assert!(windows.bind(nonce(1), 2));
    assert_eq!(windows.admit(nonce(1), 2, Xid(2), Xid(1)), Verdict::InProgress);
    assert_eq!(windows.complete(nonce(1), Xid(2), reply("x")), Some(2));
    windows.check();
}

#[test]
fn late_bind_does_not_bring_a_dropped_client_back() {
    let mut windows = ReplyWindows::with_limits(Limits { clients: 1, ..SMALL });
    assert!(windows.bind(nonce(1), 2));
    assert_eq!(serve(&mut windows, 1, 2, 2, &reply("x")), Verdict::New);
    windows.disconnected(2);
    assert!(windows.bind(nonce(9), 3));
    assert!(!windows.bind(nonce(1), 1), "from before connection 2");
    assert_eq!(windows.admit(nonce(1), 4, Xid(2), Xid(1)), Verdict::Forgotten);
    windows.check();
}

#[test]
fn reply_goes_to_the_newest_live_connection() {
    let mut windows = ReplyWindows::new();
    assert!(windows.bind(nonce(1), 1));
    for xid in 2..=5 {
        assert_eq!(windows.admit(nonce(1), 1, Xid(xid), Xid(1)), Verdict::New);
    }
    assert_eq!(windows.admit(nonce(1), 8, Xid(2), Xid(1)), Verdict::InProgress);
    // Read late, from a connection that the client left.
    assert_eq!(windows.admit(nonce(1), 5, Xid(2), Xid(1)), Verdict::InProgress);
    assert_eq!(windows.complete(nonce(1), Xid(2), reply("x")), Some(8));
    windows.disconnected(8);
    assert_eq!(windows.complete(nonce(1), Xid(3), reply("x")), Some(5));
    windows.disconnected(1);
    windows.disconnected(5);
    assert_eq!(windows.complete(nonce(1), Xid(4), reply("x")), None);
    assert_eq!(windows.admit(nonce(1), 9, Xid(4), Xid(1)), Verdict::Done(reply("x")));
    assert_eq!(windows.complete(nonce(1), Xid(5), reply("x")), Some(9));
    windows.check();
}

#[test]
fn h19_flood_of_nonces_on_one_connection_drops_only_its_own() {
    let mut windows = ReplyWindows::with_limits(Limits { clients: 6, ..SMALL });
    assert!(windows.bind(nonce(1), 1) && windows.bind(nonce(2), 2));
    assert_eq!(serve(&mut windows, 1, 1, 2, &reply("x")), Verdict::New);
    assert_eq!(serve(&mut windows, 2, 2, 2, &reply("x")), Verdict::New);
    windows.disconnected(2);
    for client in 100..1000 {
        assert!(windows.bind(nonce(client), 3));
        assert_eq!(serve(&mut windows, client, 3, 2, &reply("y")), Verdict::New);
    }
    assert_eq!(windows.len(), 4);
    assert_eq!(serve(&mut windows, 1, 1, 2, &reply("x")), Verdict::Done(reply("x")));
    assert_eq!(serve(&mut windows, 2, 4, 2, &reply("x")), Verdict::Done(reply("x")));
}

#[test]
fn h19_flood_cannot_drop_a_client_by_naming_it() {
    let mut windows = ReplyWindows::with_limits(Limits { clients: 6, ..SMALL });
    assert!(windows.bind(nonce(1), 1));
    assert_eq!(serve(&mut windows, 1, 1, 2, &reply("x")), Verdict::New);
    assert!(windows.bind(nonce(1), 3));
    for client in 100..200 {
        assert!(windows.bind(nonce(client), 3));
        windows.check();
    }
    assert_eq!(serve(&mut windows, 1, 1, 2, &reply("x")), Verdict::Done(reply("x")));
}

#[test]
fn hoarders_do_not_make_a_modest_client_forget() {
    let limits = Limits { held_bytes: 1 << 16, ..Limits::default() };
    let mut windows = ReplyWindows::with_limits(limits);
    for client in 1..=3 {
        assert!(windows.bind(nonce(client), u64::from(client)));
    }
    assert_eq!(serve(&mut windows, 3, 3, 2, &reply("modest")), Verdict::New);
    let hoard = Arc::new(vec![0; 1000]);
    for xid in 2..500 {
        assert_eq!(serve(&mut windows, 1, 1, xid, &hoard), Verdict::New);
        assert_eq!(serve(&mut windows, 2, 2, xid, &hoard), Verdict::New);
        assert!(windows.held() <= limits.held_bytes);
    }
    assert_eq!(serve(&mut windows, 3, 3, 2, &reply("modest")), Verdict::Done(reply("modest")));
    assert_eq!(serve(&mut windows, 1, 1, 2, &hoard), Verdict::Forgotten);
    assert_eq!(serve(&mut windows, 1, 1, 499, &hoard), Verdict::Done(hoard));
}

#[test]
fn nonce_zero_wants_no_memory() {
    let mut windows = ReplyWindows::new();
    assert!(windows.bind(nonce(0), 1));
    for _ in 0..3 {
        assert_eq!(windows.admit(nonce(0), 1, Xid(2), Xid(1)), Verdict::New);
    }
    assert_eq!(windows.complete(nonce(0), Xid(2), reply("x")), None);
    assert!(windows.is_empty());
    windows.check();
}

/// A client as an honest one is: it opens one connection after the other, sends its bind on each until one is
/// answered, and then requests on the newest.
#[derive(Default)]
struct HonestClient {
    bound: bool,
    connection: Option<u64>,
    /// Connections with a bind under way.
    binds: Vec<u64>,
    seen: BTreeMap<i32, NaiveState>,
}

#[derive(Clone, Debug)]
enum ClientOp {
    Connect,
    DeliverBind(prop::sample::Index),
    Request { xid: i32, rep: i32 },
    Complete(prop::sample::Index),
    Disconnect(prop::sample::Index),
}

fn client_op() -> impl Strategy<Value = ClientOp> {
    prop_oneof![
        2 => Just(ClientOp::Connect),
        3 => any::<prop::sample::Index>().prop_map(ClientOp::DeliverBind),
        6 => (2..14, 0..6).prop_map(|(xid, rep)| ClientOp::Request { xid, rep }),
        4 => any::<prop::sample::Index>().prop_map(ClientOp::Complete),
        1 => any::<prop::sample::Index>().prop_map(ClientOp::Disconnect),
    ]
}

proptest! {
    /// Many clients, tight bounds, late binds: nothing runs twice, what runs is never called something else, and
    /// what is answered again is the first answer.
    #[test]
    fn h19_nothing_runs_twice_however_clients_come_and_go(
        share in any::<bool>(),
        ops in proptest::collection::vec((0_usize..6, client_op()), 1..300),
    ) {
        let mut windows = ReplyWindows::with_limits(SMALL);
        let mut clients: Vec<HonestClient> = (0..6).map(|_| HonestClient::default()).collect();
        let mut live: Vec<u64> = Vec::new();
        let mut last_connection = 0;
        let mut answers = 0_u32;
        for (which, op) in ops {
            let (id, client) = (nonce(which as u32 + 1), &mut clients[which]);
            match op {
                ClientOp::Connect => {
                    // Some clients share a connection, behind a proxy say.
                    if !(share && which % 2 == 1 && live.contains(&last_connection)) {
                        last_connection += 1;
                        live.push(last_connection);
                    }
                    client.connection = Some(last_connection);
                    if !client.bound {
                        client.binds.push(last_connection);
                    }
                }
                ClientOp::DeliverBind(index) => {
                    if client.binds.is_empty() {
                        continue;
                    }
                    let connection = client.binds.remove(index.index(client.binds.len()));
                    if live.contains(&connection) {
                        client.bound |= windows.bind(id, connection);
                    }
                }
                ClientOp::Request { xid, rep } => {
                    let Some(connection) = client.connection.filter(|connection| live.contains(connection)) else {
                        continue;
                    };
                    // What was sent before on the same connection has been read before.
                    if !client.bound || client.binds.contains(&connection) {
                        continue;
                    }
                    let verdict = windows.admit(id, connection, Xid(xid), Xid(rep));
                    let state = client.seen.get(&xid);
                    match &verdict {
                        Verdict::New => {
                            prop_assert!(state.is_none(), "runs twice");
                            client.seen.insert(xid, NaiveState::InProgress);
                        }
                        Verdict::InProgress => prop_assert!(state == Some(&NaiveState::InProgress)),
                        Verdict::Done(reply) => prop_assert!(state == Some(&NaiveState::Done(reply.clone()))),
                        Verdict::Forgotten => {}
                    }
                }
                ClientOp::Complete(index) => {
                    let running: Vec<i32> = client.seen.iter()
                        .filter(|(_, state)| **state == NaiveState::InProgress).map(|(xid, _)| *xid).collect();
                    if running.is_empty() {
                        continue;
                    }
                    let xid = running[index.index(running.len())];
                    answers += 1;
                    let reply = Arc::new(answers.to_be_bytes().to_vec());
                    client.seen.insert(xid, NaiveState::Done(reply.clone()));
                    let on = windows.complete(id, Xid(xid), reply);
                    prop_assert!(on.is_none_or(|connection| live.contains(&connection)));
                }
                ClientOp::Disconnect(index) => {
                    if !live.is_empty() {
                        let connection = live.remove(index.index(live.len()));
                        windows.disconnected(connection);
                    }
                }
            }
            windows.check();
        }
    }
}
