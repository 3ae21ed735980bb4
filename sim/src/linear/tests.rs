use super::*;
use crate::dice::Dice;

const LIMIT: u64 = 1_000_000;

fn op(client: u32, kind: LockKind, invoked: u64, returned: impl Into<Option<u64>>) -> LockOp {
    LockOp { client, thread: 0, kind, invoked, returned: returned.into() }
}

fn verdict(ops: &[LockOp]) -> Verdict<u64> {
    check_locks(ops.iter().map(|op| (7, *op)), LIMIT)
}

fn violation(ops: &[LockOp]) -> Explanation {
    match verdict(ops) {
        Verdict::Violation { key: 7, explanation } => explanation,
        other => panic!("{other:?}"),
    }
}

use LockKind::{Acquire, Release, TryAcquire};

#[test]
fn one_after_the_other() {
    assert_eq!(verdict(&[]), Verdict::Linearizable);
    let ops = [op(1, Acquire, 1, 2), op(1, Release, 3, 4), op(2, TryAcquire(true), 5, 6), op(2, Release, 7, 8)];
    assert_eq!(verdict(&ops), Verdict::Linearizable);
    // The second waits while the first has it.
    let ops = [op(1, Acquire, 1, 3), op(2, Acquire, 2, 6), op(1, Release, 4, 7), op(2, Release, 8, 9)];
    assert_eq!(verdict(&ops), Verdict::Linearizable);
}

#[test]
fn two_holders() {
    let explanation =
        violation(&[op(1, Acquire, 1, 2), op(2, Acquire, 3, 4), op(1, Release, 5, 6), op(2, Release, 7, 8)]);
    assert_eq!(explanation.placed, ["LockStep { user: (1, 0), kind: Acquire } from 1 to 2"]);
    assert_eq!(explanation.state, "Some((1, 0))");
    assert!(explanation.stuck.starts_with("LockStep { user: (2, 0), kind: Acquire }"));
    assert!(explanation.to_string().contains("no place for: LockStep { user: (2, 0)"));
    violation(&[op(1, Acquire, 1, 2), op(2, TryAcquire(true), 3, 4)]);
    // Two threads of a client are two users.
    let second = LockOp { thread: 1, ..op(1, Acquire, 3, 4) };
    violation(&[op(1, Acquire, 1, 2), second]);
}

#[test]
fn releases_that_are_lost_or_never_were() {
    violation(&[op(1, Acquire, 1, 2), op(2, Acquire, 3, 10)]);
    violation(&[op(1, Release, 1, 2)]);
    violation(&[op(1, Acquire, 1, 2), op(2, Release, 3, 4)]);
    violation(&[op(1, Acquire, 1, 2), op(1, Release, 3, 4), op(1, Release, 5, 6)]);
    // Nobody is given what isn't released, but nobody waits for it for ever in vain either: that isn't a violation.
    assert_eq!(verdict(&[op(1, Acquire, 1, 2), op(2, Acquire, 3, None)]), Verdict::Linearizable);
}

#[test]
fn crashed_users_calls_may_take_effect_late() {
    // The release never returned, and takes effect long after the crash.
    let ops = [op(1, Acquire, 1, 2), op(1, Release, 3, None), op(2, TryAcquire(false), 10, 11), op(2, Acquire, 20, 30)];
    assert_eq!(verdict(&ops), Verdict::Linearizable);
    // But not before it was called.
    violation(&[op(1, Acquire, 1, 2), op(2, Acquire, 3, 4), op(1, Release, 5, None)]);
    // And once only.
    let again = [op(2, Acquire, 4, 5), op(3, Acquire, 6, 7)];
    violation(&[&[op(1, Acquire, 1, 2), op(1, Release, 3, None)], &again[..]].concat());
    // An acquire that never returned has it, or not.
    let late = [op(1, Acquire, 1, None), op(1, Release, 5, 6)];
    assert_eq!(verdict(&late), Verdict::Linearizable);
    let not = [op(1, Acquire, 1, None), op(2, Acquire, 5, 6), op(2, Release, 7, 8), op(3, Acquire, 9, 10)];
    assert_eq!(verdict(&not), Verdict::Linearizable);
    // What a try that never returned would have said isn't known.
    let tried = [op(1, TryAcquire(false), 1, None), op(1, Release, 5, 6)];
    assert_eq!(verdict(&tried), Verdict::Linearizable);
}

#[test]
fn a_try_may_always_fail() {
    let ops = [op(1, TryAcquire(false), 1, 2), op(1, Acquire, 3, 4), op(2, TryAcquire(false), 5, 6)];
    assert_eq!(verdict(&ops), Verdict::Linearizable);
    assert_eq!(Mutex::step(&None, &LockStep { user: (1, 0), kind: TryAcquire(false) }), Some(None));
}

#[test]
fn real_time_order_counts() {
    let ops = [op(1, Release, 1, 2), op(1, Acquire, 3, 4)];
    violation(&ops);
    assert!(brute_force::<Mutex>(&calls(&ops), false), "but for the time there is an order");
    // Touching numbers: concurrent.
    assert_eq!(verdict(&[op(1, Release, 1, 3), op(1, Acquire, 3, 4)]), Verdict::Linearizable);
}

#[test]
fn locks_are_checked_one_by_one() {
    let good = [(1, op(1, Acquire, 1, 2)), (2, op(2, Acquire, 3, 4))];
    assert_eq!(check_locks(good, LIMIT), Verdict::Linearizable);
    let bad = good.into_iter().chain([(2, op(3, Acquire, 5, 6))]);
    assert!(matches!(check_locks(bad, LIMIT), Verdict::Violation { key: 2, .. }));
}

fn add(n: u64, total: impl Into<Option<u64>>, invoked: u64, returned: impl Into<Option<u64>>) -> Call<Add> {
    Call { op: Add { n, total: total.into() }, invoked, returned: returned.into() }
}

fn counted(calls: &[Call<Add>]) -> Verdict<()> {
    check::<Counter, ()>(calls.iter().map(|call| ((), call.clone())), LIMIT)
}

#[test]
fn adds_are_counted_once() {
    assert_eq!(counted(&[add(1, 3, 1, 5), add(2, 2, 2, 4)]), Verdict::Linearizable);
    // Executed twice.
    assert!(matches!(counted(&[add(1, 1, 1, 2), add(2, 5, 3, 4)]), Verdict::Violation { .. }));
    // Forgotten.
    assert!(matches!(counted(&[add(1, 1, 1, 2), add(2, 2, 3, 4)]), Verdict::Violation { .. }));
    // Unreturned: once, or not at all, not twice, and at any time.
    assert_eq!(counted(&[add(1, None, 1, None), add(2, 3, 2, 4)]), Verdict::Linearizable);
    assert_eq!(counted(&[add(1, None, 1, None), add(2, 2, 2, 4), add(4, 7, 5, 6)]), Verdict::Linearizable);
    assert!(matches!(counted(&[add(1, None, 1, None), add(2, 4, 2, 4)]), Verdict::Violation { .. }));
}

fn calls(ops: &[LockOp]) -> Vec<Call<LockStep>> {
    ops.iter()
        .map(|op| {
            let tried = matches!(op.kind, TryAcquire(_)) && op.returned.is_none();
            let kind = if tried { TryAcquire(true) } else { op.kind };
            let step = LockStep { user: (op.client, op.thread), kind };
            Call { op: step, invoked: op.invoked, returned: op.returned }
        })
        .collect()
}

/// Tries every order of every set of calls with all that returned; with or without regard to time.
fn brute_force<M: Model>(calls: &[Call<M::Op>], in_time: bool) -> bool {
    fn go<M: Model>(calls: &[Call<M::Op>], in_time: bool, state: &M::State, order: &mut Vec<usize>) -> bool {
        let all = (0..calls.len()).all(|i| calls[i].returned.is_none() || order.contains(&i));
        let timely = || {
            order.iter().enumerate().all(|(position, later)| {
                // Nothing that is placed later, or not at all, returned before this was invoked.
                let before = &order[..position];
                (0..calls.len()).filter(|i| !before.contains(i)).all(|i| {
                    calls[i].returned.is_none_or(|returned| returned.max(calls[i].invoked) >= calls[*later].invoked)
                })
            })
        };
        if all && (!in_time || timely()) {
            return true;
        }
        (0..calls.len()).any(|i| {
            if order.contains(&i) {
                return false;
            }
            let Some(after) = M::step(state, &calls[i].op) else { return false };
            order.push(i);
            let found = go::<M>(calls, in_time, &after, order);
            order.pop();
            found
        })
    }
    go::<M>(calls, in_time, &M::start(), &mut Vec::new())
}

/// A random history of up to seven calls: one that happened, or the same with something changed.
fn random_locks(dice: &mut Dice) -> Vec<LockOp> {
    let clients = 2 + dice.below(2) as u32;
    let mut holder = None;
    let mut ops = Vec::new();
    for i in 0..2 + dice.below(6) {
        let client = holder.filter(|_| !dice.one_in(4)).unwrap_or(dice.below(u64::from(clients)) as u32);
        let kind = match holder {
            None if dice.one_in(3) => TryAcquire(true),
            None => Acquire,
            Some(holder) if holder == client => Release,
            Some(_) => TryAcquire(dice.one_in(6)),
        };
        match kind {
            Acquire | TryAcquire(true) => holder = Some(client),
            Release => holder = None,
            TryAcquire(false) => {}
        }
        // It takes effect at 10 i; the more it reaches out, the more is concurrent.
        let at = 100 + 10 * i;
        let returned = (!dice.one_in(6)).then(|| at + dice.below(25));
        ops.push(op(client, kind, at - dice.below(25), returned));
    }
    if dice.one_in(3) && !ops.is_empty() {
        let changed = dice.below(ops.len() as u64) as usize;
        ops[changed].kind = [Acquire, Release, TryAcquire(true)][dice.below(3) as usize];
    }
    if dice.one_in(3) {
        // Not in time: each of two happens when the other did.
        let two = [0, 1].map(|_| dice.below(ops.len() as u64) as usize);
        let times = two.map(|i| (ops[i].invoked, ops[i].returned));
        (ops[two[0]].invoked, ops[two[0]].returned) = times[1];
        (ops[two[1]].invoked, ops[two[1]].returned) = times[0];
    }
    if dice.one_in(4) {
        let lost = dice.below(ops.len() as u64) as usize;
        ops.remove(lost);
    }
    // The order in which they are recorded is nobody's business.
    for i in 1..ops.len() {
        ops.swap(i, dice.below(i as u64 + 1) as usize);
    }
    ops
}

#[test]
fn agrees_with_brute_force_on_locks() {
    let mut dice = Dice::new(1);
    let (mut good, mut bad, mut for_time, mut unreturned) = (0, 0, 0, 0);
    for round in 0..6000 {
        let ops = random_locks(&mut dice);
        let calls = calls(&ops);
        let expected = brute_force::<Mutex>(&calls, true);
        match verdict(&ops) {
            Verdict::Linearizable => assert!(expected, "round {round}: {ops:?}"),
            Verdict::Violation { explanation, .. } => assert!(!expected, "round {round}: {ops:?}\n{explanation}"),
            Verdict::GaveUp => panic!("round {round}"),
        }
        *if expected { &mut good } else { &mut bad } += 1;
        // What a checker would get wrong that doesn't look at the time.
        for_time += u32::from(!expected && brute_force::<Mutex>(&calls, false));
        unreturned += u32::from(expected && ops.iter().any(|op| op.returned.is_none()));
    }
    assert!(good > 1500 && bad > 1500 && for_time > 300 && unreturned > 500, "{good} {bad} {for_time} {unreturned}");
}

#[test]
fn agrees_with_brute_force_on_counters() {
    let mut dice = Dice::new(2);
    let (mut good, mut bad, mut for_time) = (0, 0, 0);
    for round in 0..4000 {
        let mut total = 0;
        let count = 2 + dice.below(5);
        // Not in time: one happens at another's.
        let (early, late) = if dice.one_in(2) { (dice.below(count), dice.below(count)) } else { (0, 0) };
        let calls: Vec<Call<Add>> = (0..count)
            .map(|i| {
                let n = 1 + dice.below(3);
                let at = 100 + 10 * if i == early { late } else { i };
                let lost = dice.one_in(5);
                // Lost before or after it was executed; a few are executed twice.
                total += if lost && dice.one_in(2) { 0 } else { n };
                let seen = total;
                total += if dice.one_in(12) { n } else { 0 };
                let returned = (!lost).then(|| at + dice.below(30));
                add(n, (!lost).then_some(seen), at - dice.below(30), returned)
            })
            .collect();
        let expected = brute_force::<Counter>(&calls, true);
        assert_eq!(counted(&calls) == Verdict::Linearizable, expected, "round {round}: {calls:?}");
        *if expected { &mut good } else { &mut bad } += 1;
        for_time += u32::from(!expected && brute_force::<Counter>(&calls, false));
    }
    assert!(good > 1000 && bad > 500 && for_time > 50, "{good} {bad} {for_time}");
}

/// A long history of a few clients, two of which wait while one has the lock.
fn long(calls: u64, clients: u32) -> Vec<LockOp> {
    let mut dice = Dice::new(3);
    let mut free_since = vec![0; clients as usize];
    let mut ops = Vec::new();
    let mut at: u64 = 0;
    for _ in 0..calls / 2 {
        let client = dice.below(u64::from(clients)) as u32;
        let since: u64 = free_since[client as usize];
        // It asked for the lock some time after its last call, and has it now.
        let asked = (at + 1).saturating_sub(dice.below(300)).max(since + 1);
        at = at.max(asked) + 10;
        ops.push(op(client, Acquire, asked, at + 1 + dice.below(5)));
        at += 20;
        let returned = at + 1 + dice.below(40);
        ops.push(op(client, Release, at - 3, returned));
        free_since[client as usize] = returned;
    }
    ops
}

#[test]
fn long_histories_are_quick() {
    let ops = long(5000, 5);
    let before = rt::time::now();
    // The steps are what counts; the time depends on the machine.
    assert_eq!(check_locks(ops.iter().map(|op| ((), *op)), 50_000), Verdict::Linearizable);
    println!("5000 calls: {:?}", before.elapsed());
    // Crashed users, at all times.
    let mut crashed = ops.clone();
    for i in 0..10 {
        crashed.push(op(100 + i, Acquire, u64::from(i) * 5000, None));
    }
    let before = rt::time::now();
    assert_eq!(check_locks(crashed.iter().map(|op| ((), *op)), 500_000), Verdict::Linearizable);
    println!("with 10 that crashed: {:?}", before.elapsed());
    // A mistake at the very end.
    let mut bad = ops;
    let end = bad.iter().filter_map(|op| op.returned).max().unwrap_or(0);
    bad.extend([op(8, Acquire, end + 1, end + 2), op(9, Acquire, end + 3, end + 4)]);
    let before = rt::time::now();
    let Verdict::Violation { explanation, .. } = check_locks(bad.iter().map(|op| ((), *op)), 200_000) else {
        panic!("a violation isn't found");
    };
    println!("wrong at the end: {:?}", before.elapsed());
    assert_eq!(explanation.placed.len(), 5001);
    assert!(explanation.stuck.contains("user: (9, 0)"));
}

#[test]
fn gives_up_when_told_to() {
    // Sums of many adds whose totals aren't known: each subset is another state.
    let unknown = (0..40).map(|i| add(1 << i, None, 1, None));
    let wrong = add(0, 1 << 41, 2, 3);
    let calls: Vec<_> = unknown.chain([wrong]).map(|call| ((), call)).collect();
    assert_eq!(check::<Counter, ()>(calls, 10_000), Verdict::GaveUp);
    assert_eq!(check::<Counter, ()>([((), add(1, 1, 1, 2))], 0), Verdict::GaveUp);
    // A violation elsewhere is found all the same.
    let both =
        (0..40).map(|i| (1, add(1 << i, None, 1, None))).chain([(1, add(0, 1 << 41, 2, 3)), (2, add(1, 5, 1, 2))]);
    assert!(matches!(check::<Counter, i32>(both, 10_000), Verdict::Violation { key: 2, .. }));
}
