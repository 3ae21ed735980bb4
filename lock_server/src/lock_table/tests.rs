use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const L: LockId = LockId(7);

fn id(name: &str) -> ClientId {
    ClientId::new(name)
}

fn claim(client: &str, xid: u64) -> Claim {
    Claim { client: id(client), xid: Xid(xid) }
}

fn retry(waiters: &[(&str, u64)]) -> Effect {
    Effect::Retry { lock: L, waiters: waiters.iter().map(|(c, x)| claim(c, *x)).collect() }
}

fn revoke(client: &str, xid: u64) -> Effect {
    Effect::Revoke { lock: L, owner: claim(client, xid) }
}

/// A table and one lock of it, for short sentences.
struct One(LockTable);

impl One {
    fn new() -> Self {
        One(LockTable::new())
    }

    fn acquire(&mut self, client: &str, xid: u64) -> Status {
        let (status, _known) = self.0.acquire(L, &id(client), Xid(xid));
        check(&self.0);
        status
    }

    fn release(&mut self, client: &str, xid: u64) -> Status {
        let status = self.0.release(L, &id(client), Xid(xid));
        check(&self.0);
        status
    }

    fn owner(&self) -> Option<&str> {
        self.0.owner(L).map(ClientId::as_str)
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.0.take_effects()
    }
}

/// The invariants of the header, from scratch.
fn check(table: &LockTable) {
    let mut contended = BTreeSet::new();
    let mut idle = BTreeMap::new();
    let mut waiting = 0;
    for (lock_id, lock) in &table.locks {
        assert!(!lock.records.is_empty(), "invariant 5");
        let mut owners = Vec::new();
        let mut queue = BTreeMap::new();
        for (client, record) in &lock.records {
            match record.place {
                Place::Owner => owners.push(client),
                Place::Waiting { ticket, overtaken } => {
                    assert!(ticket < table.clock && overtaken < MAX_OVERTAKEN);
                    assert_eq!(queue.insert(ticket, client.clone()), None);
                }
                Place::Idle { since, .. } => {
                    assert!(since < table.clock);
                    assert_eq!(idle.insert(since, (*lock_id, client.clone())), None);
                }
            }
        }
        assert!(owners.len() <= 1, "invariant 1");
        assert_eq!(owners.first().copied(), lock.owner.as_ref(), "invariant 1");
        assert!(!lock.deferred || lock.owner.is_none());
        assert_eq!(queue, lock.queue, "invariant 2");
        waiting += queue.len();
        if !queue.is_empty() {
            contended.insert(*lock_id);
        }
    }
    assert_eq!((&contended, waiting), (&table.contended, table.waiting), "invariant 3");
    assert_eq!(idle, table.idle, "invariant 4");
    assert!(idle.len() <= table.limits.idle, "invariant 4");
    let bytes = table.marshal();
    let names = |lock: &Lock| lock.records.keys().map(|client| client.as_str().len()).sum::<usize>();
    let counted: usize = table.locks.values().map(|lock| 21 + 22 * lock.records.len() + names(lock)).sum();
    assert_eq!(table.bytes, counted, "invariant 6");
    assert!(bytes.len() <= 24 + counted, "invariant 6");
    let mut copy = LockTable::with_limits(table.limits);
    assert_eq!(copy.unmarshal(&bytes), Ok(()));
    assert_eq!(copy.marshal(), bytes, "invariant 7");
    assert_eq!(copy.bytes, table.bytes, "invariant 6");
    assert_eq!(copy.due(), table.due());
}

#[test]
fn xid_lower_equal_higher() {
    let mut t = One::new();
    assert_eq!(t.acquire("a", 5), Status::Ok);
    assert_eq!(t.0.acquire(L, &id("a"), Xid(4)), (Status::RpcErr, Some(Xid(5))), "lower: what is known");
    assert_eq!(t.acquire("a", 5), Status::Ok, "equal: the same answer");
    assert_eq!(t.acquire("b", 1), Status::Retry);
    assert_eq!(t.acquire("b", 1), Status::Retry, "equal: the same answer");
    assert_eq!(t.0.stat(L), 1, "one grant");
    assert_eq!(t.release("a", 4), Status::RpcErr, "below the acquire's");
    assert_eq!(t.owner(), Some("a"));
    assert_eq!(t.release("a", 5), Status::Ok);
    assert_eq!(t.release("a", 5), Status::Ok, "again");
    assert_eq!(t.acquire("a", 5), Status::Ok, "equal: the same answer, without being executed");
    assert_eq!(t.acquire("b", 1), Status::Retry, "equal: the same answer, without being executed");
    assert_eq!(t.owner(), None);
    assert_eq!(t.acquire("b", 2), Status::Ok, "higher");
    assert_eq!((t.owner(), t.0.stat(L)), (Some("b"), 2));
}

#[test]
fn a_lab_client_releases_with_its_next_xid_and_acquires_with_it() {
    let mut t = One::new();
    for xid in 1..10 {
        assert_eq!(t.acquire("a", xid), Status::Ok);
        assert_eq!(t.0.stat(L), u32::try_from(xid).unwrap());
        assert_eq!(t.release("a", xid + 1), Status::Ok);
    }
}

#[test]
fn release_of_what_was_never_asked_for() {
    let mut t = One::new();
    assert_eq!(t.release("a", 1), Status::NoEnt, "no such lock");
    t.acquire("a", 1);
    assert_eq!(t.release("b", 9), Status::NoEnt, "no such client");
    assert_eq!(t.owner(), Some("a"));
    assert_eq!(t.0.locks[&L].records.len(), 1, "a stranger's release leaves nothing behind");
}

#[test]
fn malformed_names_are_refused() {
    let mut t = One::new();
    assert_eq!(t.acquire("", 1), Status::RpcErr);
    assert_eq!(t.acquire(&"x".repeat(MAX_CLIENT_ID + 1), 1), Status::RpcErr);
    assert!(t.0.locks.is_empty());
    assert_eq!(t.acquire(&"x".repeat(MAX_CLIENT_ID), 1), Status::Ok);
}

#[test]
fn waiters_are_served_in_order() {
    let mut t = One::new();
    t.acquire("a", 1);
    assert_eq!(t.effects(), []);
    t.acquire("c", 1);
    assert_eq!(t.effects(), [revoke("a", 1)]);
    t.acquire("b", 1);
    assert_eq!(t.effects(), [], "the owner knows already");
    t.release("a", 1);
    assert_eq!(t.effects(), [retry(&[("c", 1), ("b", 1)])]);
    assert_eq!(t.acquire("a", 2), Status::Retry, "who has just released doesn't overtake the head");
    assert_eq!(t.effects(), [retry(&[("c", 1), ("b", 1), ("a", 2)])]);
    assert_eq!(t.acquire("c", 2), Status::Ok);
    assert_eq!(t.effects(), [revoke("c", 2)], "others wait");
    t.release("c", 2);
    assert_eq!(t.effects(), [retry(&[("b", 1), ("a", 2)])]);
    t.acquire("b", 2);
    t.release("b", 2);
    t.effects();
    assert_eq!(t.acquire("a", 3), Status::Ok);
    assert_eq!(t.effects(), [Effect::Settled { lock: L }]);
}

#[test]
fn a_dead_head_starves_nobody() {
    let mut t = One::new();
    t.acquire("a", 1);
    t.acquire("dead", 1);
    t.acquire("b", 1);
    t.release("a", 1);
    assert_eq!(t.acquire("b", 2), Status::Ok, "who waits gets it");
    assert_eq!(t.release("b", 2), Status::Ok);
    assert_eq!(t.acquire("c", 1), Status::Retry, "one newcomer lets the head go first");
    assert_eq!(t.acquire("d", 1), Status::Ok, "the next doesn't");
    t.release("d", 1);
    t.effects();
    assert_eq!(t.acquire("c", 2), Status::Ok);
    let lost = Effect::Overtaken { lock: L, waiter: claim("dead", 1) };
    assert_eq!(t.effects(), [lost, Effect::Settled { lock: L }], "the dead is gone after {MAX_OVERTAKEN} times");
    t.release("c", 2);
    assert_eq!(t.acquire("dead", 1), Status::Retry, "a late copy of its old acquire changes nothing");
    assert_eq!(t.owner(), None);
    assert_eq!(t.acquire("dead", 2), Status::Ok, "it may come back");
}

#[test]
fn asking_again_keeps_the_place() {
    let mut t = One::new();
    t.acquire("a", 1);
    t.acquire("b", 1);
    t.acquire("c", 1);
    assert_eq!(t.acquire("b", 2), Status::Retry);
    t.effects();
    t.release("a", 1);
    assert_eq!(t.effects(), [retry(&[("b", 2), ("c", 1)])]);
}

#[test]
fn a_waiter_leaves_the_queue_by_a_release() {
    let mut t = One::new();
    t.acquire("a", 1);
    t.acquire("b", 1);
    t.effects();
    assert_eq!(t.release("b", 1), Status::Ok);
    assert_eq!(t.effects(), [Effect::Settled { lock: L }]);
    assert_eq!(t.owner(), Some("a"));
    assert_eq!(t.acquire("b", 1), Status::Retry, "a late copy doesn't bring it back");
    assert!(t.0.contended.is_empty());
    t.acquire("b", 2);
    t.acquire("c", 1);
    t.release("a", 1);
    t.effects();
    assert_eq!(t.release("b", 2), Status::Ok);
    assert_eq!(t.effects(), [retry(&[("c", 1)])], "the next one's turn");
}

#[test]
fn an_owner_that_asks_again_keeps_the_lock_under_the_new_xid() {
    let mut t = One::new();
    t.acquire("a", 1);
    t.acquire("b", 1);
    t.effects();
    assert_eq!(t.acquire("a", 9), Status::Ok);
    assert_eq!(t.effects(), [revoke("a", 9)]);
    assert_eq!(t.release("a", 8), Status::RpcErr);
    assert_eq!(t.release("a", 9), Status::Ok);
}

#[test]
fn h12_a_new_primary_knows_what_is_due() {
    let mut t = One::new();
    t.acquire("a", 1);
    assert_eq!(t.0.due(), [Effect::Anew]);
    t.acquire("b", 1);
    t.acquire("c", 3);
    let mut next = One::new();
    next.0.unmarshal(&t.0.marshal()).unwrap();
    assert_eq!(next.0.due(), [Effect::Anew, revoke("a", 1)]);
    next.release("a", 1);
    assert_eq!(next.0.due(), [Effect::Anew, retry(&[("b", 1), ("c", 3)])]);
}

#[test]
fn bounds_are_kept() {
    let mut t = LockTable::with_limits(Limits { locks: 2, waiting: 1, idle: 3, ..Limits::default() });
    let (a, b, c) = (id("a"), id("b"), id("c"));
    assert_eq!(t.acquire(LockId(1), &a, Xid(1)).0, Status::Ok);
    assert_eq!(t.acquire(LockId(2), &a, Xid(1)).0, Status::Ok);
    assert_eq!(t.acquire(LockId(3), &a, Xid(1)).0, Status::IoErr, "too many locks");
    assert_eq!(t.acquire(LockId(1), &b, Xid(1)).0, Status::Retry);
    assert_eq!(t.acquire(LockId(1), &c, Xid(1)).0, Status::IoErr, "too many wait");
    assert_eq!(t.acquire(LockId(1), &c, Xid(1)).0, Status::IoErr, "and it left nothing behind");
    check(&t);
    for client in 0..50_u64 {
        let client = id(&client.to_string());
        t.release(LockId(2), &a, Xid(1));
        assert_eq!(t.acquire(LockId(2), &client, Xid(1)).0, Status::Ok);
        assert_eq!(t.release(LockId(2), &client, Xid(1)), Status::Ok);
        check(&t);
    }
    assert_eq!(t.locks[&LockId(2)].records.len(), 3);
    // Locks that only idle records remember are forgotten with the last of them.
    t.release(LockId(1), &b, Xid(1));
    for lock in 100..200 {
        t.release(LockId(1), &a, Xid(1));
        t.acquire(LockId(lock), &a, Xid(1));
        t.release(LockId(lock), &a, Xid(1));
        check(&t);
        assert!(t.locks.len() <= 4);
    }
}

/// Names may be long: as many as the count allows wouldn't fit into the RSM's log.
#[test]
fn the_bytes_of_all_names_are_bounded() {
    let limits = Limits { bytes: 2 * (21 + 22 + 200) + 22 + 1, idle: 1, ..Limits::default() };
    let mut t = LockTable::with_limits(limits);
    let long = id(&"x".repeat(200));
    assert_eq!(t.acquire(LockId(1), &long, Xid(1)).0, Status::Ok);
    assert_eq!(t.acquire(LockId(2), &long, Xid(1)).0, Status::Ok);
    let full = t.marshal();
    assert_eq!(t.acquire(LockId(3), &id("a"), Xid(1)).0, Status::IoErr, "one more lock is too much");
    assert_eq!(t.acquire(LockId(1), &id("ab"), Xid(1)).0, Status::IoErr, "and so is who would wait");
    assert_eq!(t.marshal(), full, "it left nothing behind");
    assert_eq!(t.acquire(LockId(1), &id("a"), Xid(1)).0, Status::Retry, "there is room for this one");
    check(&t);
    assert_eq!(t.acquire(LockId(1), &long, Xid(2)).0, Status::Ok, "who is known needs no room");
    assert_eq!(t.release(LockId(1), &long, Xid(2)), Status::Ok);
    assert_eq!(t.acquire(LockId(1), &id("a"), Xid(2)).0, Status::Ok);
    assert_eq!(t.release(LockId(2), &long, Xid(1)), Status::Ok, "the longer idle record of the two is forgotten");
    check(&t);
    assert_eq!(t.acquire(LockId(1), &id("b"), Xid(1)).0, Status::Retry, "and there is room again");
    check(&t);
}

#[test]
fn the_bytes_stay_as_they_are() {
    let mut t = LockTable::new();
    t.acquire(LockId(1), &id("a:1"), Xid(5));
    t.acquire(LockId(1), &id("b:2"), Xid(6));
    t.acquire(LockId(2), &id("a:1"), Xid(7));
    t.release(LockId(2), &id("a:1"), Xid(7));
    let golden = [
        "YFSL",
        "\0\0\0\x01",         // magic, version
        "\0\0\0\0\0\0\0\x02", // clock
        "\0\0\0\0\0\0\0\x02", // locks
        "\0\0\0\0\0\0\0\x01",
        "\0\0\0\x01",
        "\0",
        "\0\0\0\0\0\0\0\x02", // lock 1: grants, deferred, records
        "\0\0\0\x03a:1",
        "\0\0\0\0\0\0\0\x05",
        "\0", // owner
        "\0\0\0\x03b:2",
        "\0\0\0\0\0\0\0\x06",
        "\x01",
        "\0\0\0\0\0\0\0\0",
        "\0", // waits: ticket, overtaken
        "\0\0\0\0\0\0\0\x02",
        "\0\0\0\x01",
        "\0",
        "\0\0\0\0\0\0\0\x01", // lock 2
        "\0\0\0\x03a:1",
        "\0\0\0\0\0\0\0\x07",
        "\x02",
        "\0\0\0\0\0\0\0\x01", // idle, was granted: since
    ];
    assert_eq!(String::from_utf8(t.marshal()).unwrap(), golden.concat());
}

#[test]
fn foreign_and_damaged_states_change_nothing() {
    let mut t = One::new();
    t.acquire("a", 1);
    t.acquire("b", 2);
    let before = t.0.marshal();
    let mut refused = |bytes: &[u8], error: StateError| {
        assert_eq!(t.0.unmarshal(bytes), Err(error));
        assert_eq!(t.0.marshal(), before);
    };
    refused(b"", StateError::Foreign);
    refused(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7], StateError::Foreign);
    refused(b"YFSL\0\0\0\x02", StateError::Version(2));
    let short = StateError::Unreadable(yfs_rpc::marshall::UnmarshalError::Short);
    refused(b"YFSL\0\0\0\x01\0\0", short);
    let mut counts = b"YFSL\0\0\0\x01".to_vec();
    counts.extend([0xff; 16]);
    refused(&counts, StateError::Damaged("more than anybody counts"));
    counts[8] = 0;
    refused(&counts, short);
    refused(&[&before[..], b"!"].concat(), StateError::Unreadable(yfs_rpc::marshall::UnmarshalError::Surplus(1)));
    for cut in 0..before.len() {
        assert!(t.0.unmarshal(&before[..cut]).is_err());
    }
}

/// The same rules, written down with lists and without any index.
#[derive(Default)]
struct Naive {
    owner: Option<u8>,
    queue: Vec<u8>,
    missed: BTreeMap<u8, u8>,
    last: BTreeMap<u8, (u64, Status)>,
    grants: u32,
    sent_away: bool,
}

impl Naive {
    fn acquire(&mut self, client: u8, xid: u64) -> Status {
        if let Some((last, answer)) = self.last.get(&client) {
            if xid < *last {
                return Status::RpcErr;
            }
            if xid == *last {
                return *answer;
            }
        }
        let queued = self.queue.contains(&client);
        let free = self.owner.is_none() && (self.queue.is_empty() || queued || self.sent_away);
        let answer = if self.owner == Some(client) || free {
            if self.owner.is_none() {
                let head = self.queue.first().copied().filter(|head| *head != client);
                self.queue.retain(|c| *c != client);
                if let Some(head) = head {
                    let missed = self.missed.entry(head).or_default();
                    *missed += 1;
                    if *missed == MAX_OVERTAKEN {
                        self.queue.remove(0);
                    }
                }
            }
            self.owner = Some(client);
            self.grants += 1;
            self.sent_away = false;
            Status::Ok
        } else {
            if !queued {
                self.queue.push(client);
            }
            self.missed.insert(client, 0);
            self.sent_away |= self.owner.is_none();
            Status::Retry
        };
        self.last.insert(client, (xid, answer));
        answer
    }

    fn release(&mut self, client: u8, xid: u64) -> Status {
        match self.last.get(&client) {
            None => return Status::NoEnt,
            Some((last, _)) if xid < *last => return Status::RpcErr,
            _ => {}
        }
        if self.owner == Some(client) {
            self.owner = None;
            self.sent_away = false;
        }
        self.queue.retain(|c| *c != client);
        Status::Ok
    }
}

#[derive(Clone, Debug)]
struct Request {
    acquire: bool,
    lock: u64,
    client: u8,
    /// Relative to the client's last.
    xid: i64,
}

fn request() -> impl Strategy<Value = Request> {
    let xid = prop_oneof![1 => Just(-1), 2 => Just(0), 8 => Just(1)];
    (any::<bool>(), 0..2_u64, 0..5_u8, xid).prop_map(|(acquire, lock, client, xid)| Request {
        acquire,
        lock,
        client,
        xid,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_naive_one_does(requests in prop::collection::vec(request(), 1..80)) {
        let mut table = LockTable::new();
        let mut naive: [Naive; 2] = Default::default();
        for Request { acquire, lock, client, xid } in requests {
            let model = &mut naive[usize::try_from(lock).unwrap()];
            let last = model.last.get(&client).map_or(0, |(xid, _)| *xid);
            let xid = last.saturating_add_signed(if acquire { xid } else { xid.min(0) });
            let (lock, name) = (LockId(lock), id(&client.to_string()));
            if acquire {
                let status = model.acquire(client, xid);
                let known = (status == Status::RpcErr).then_some(Xid(last));
                prop_assert_eq!(table.acquire(lock, &name, Xid(xid)), (status, known));
            } else {
                prop_assert_eq!(table.release(lock, &name, Xid(xid)), model.release(client, xid));
            }
            let owner = model.owner.map(|owner| owner.to_string());
            prop_assert_eq!(table.owner(lock).map(ClientId::as_str), owner.as_deref());
            prop_assert_eq!(table.stat(lock), model.grants);
            let queue: Vec<String> = model.queue.iter().map(u8::to_string).collect();
            let in_table: Option<Vec<String>> = table.locks.get(&lock).map(|l| l.queue.values().map(ClientId::to_string).collect());
            prop_assert_eq!(in_table.unwrap_or_default(), queue);
            check(&table);
        }
    }

    /// Whoever follows the effects alone knows what is due.
    #[test]
    fn the_last_effect_of_a_lock_is_what_is_due(requests in prop::collection::vec(request(), 1..60)) {
        let mut table = LockTable::new();
        let mut told: BTreeMap<LockId, Effect> = BTreeMap::new();
        let mut xid = 0;
        for Request { acquire, lock, client, .. } in requests {
            xid += 1;
            let (lock, name) = (LockId(lock), id(&client.to_string()));
            if acquire { table.acquire(lock, &name, Xid(xid)).0 } else { table.release(lock, &name, Xid(xid)) };
            for effect in table.take_effects() {
                match effect {
                    Effect::Settled { lock } => { told.remove(&lock); }
                    Effect::Revoke { lock, .. } | Effect::Retry { lock, .. } => { told.insert(lock, effect); }
                    Effect::Anew | Effect::Overtaken { .. } => {}
                }
            }
            let due: Vec<Effect> = std::iter::once(Effect::Anew).chain(told.values().cloned()).collect();
            prop_assert_eq!(table.due(), due);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_canonical(mut bytes in prop::collection::vec(any::<u8>(), 0..200), real in any::<bool>()) {
        if real {
            bytes.splice(0..0, *b"YFSL\0\0\0\x01");
        }
        let mut table = LockTable::new();
        if table.unmarshal(&bytes).is_ok() {
            check(&table);
            prop_assert_eq!(table.marshal(), bytes);
        }
    }
}
