//! A linearizability checker: is there an order of all calls in which each does what it said, and in which a call that
//! returned before another was invoked comes first?
//!
//! The search is that of Wing & Gong (1993): a call that nothing unplaced precedes is placed next if the model lets it;
//! where no call fits, the last placed is taken back. Lowe (2017): what was placed, as a set, and the state that it led
//! to are remembered, and nothing is tried twice from there. Each key is checked by itself, since calls on different
//! keys don't interfere.
//!
//! Invariants:
//! 1. A verdict depends on the history only. [`Verdict::Linearizable`] and [`Verdict::Violation`] are certain.
//! 2. A call that never returned may be placed anywhere after its invocation, or nowhere.
//! 3. The list holds the events of the unplaced calls, in order. So the calls before its first return are those that
//!    may come next, and the call of that return is the one that has to come before anything after it.
//!
//! Numbers of events should all be different, best those of a counter of events: two calls whose numbers touch count as
//! concurrent, even if one thread made them.
//!
//! Its tests are the simulator's (sim/src/linear/tests.rs), which has the dice for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Debug;

/// What calls do, one at a time.
pub trait Model {
    /// What they work on.
    type State: Clone + Ord + Debug;
    /// A call with what it returned. One that may not have returned needs a value for that.
    type Op: Debug;

    /// The state before the first call.
    fn start() -> Self::State;

    /// The state after a call; `None` if it can't be called there, or would have returned something else.
    fn step(state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// A call of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O> {
    /// What was called and what it returned.
    pub op: O,
    /// When it was invoked.
    pub invoked: u64,
    /// When it returned. `None`: never, or with an error that doesn't tell; it may have taken effect or not.
    pub returned: Option<u64>,
}

impl<O: Debug> fmt::Display for Call<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {} ", self.op, self.invoked)?;
        match self.returned {
            Some(returned) => write!(f, "to {returned}"),
            None => write!(f, "on, never returned"),
        }
    }
}

/// What is to be said of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<K> {
    /// There is such an order, for each key.
    Linearizable,
    /// There is none for this key.
    Violation {
        /// The first such key.
        key: K,
        /// How far the search came.
        explanation: Explanation,
    },
    /// It wasn't found out in so many steps.
    GaveUp,
}

/// How far the search for an order came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The longest order found of calls that fit.
    pub placed: Vec<String>,
    /// The state that it leads to.
    pub state: String,
    /// The call that had to come next, or before, and didn't fit.
    pub stuck: String,
}

/// So many calls are shown.
const SHOWN: usize = 12;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.placed.len().saturating_sub(SHOWN);
        if hidden > 0 {
            writeln!(f, "({hidden} calls)")?;
        }
        for call in self.placed.iter().skip(hidden) {
            writeln!(f, "{call}")?;
        }
        write!(f, "state {}; no place for: {}", self.state, self.stuck)
    }
}

/// Checks a history, in at most `limit` steps of the model for each key.
pub fn check<M: Model, K: Ord>(history: impl IntoIterator<Item = (K, Call<M::Op>)>, limit: u64) -> Verdict<K> {
    let mut keys: BTreeMap<K, Vec<Call<M::Op>>> = BTreeMap::new();
    for (key, call) in history {
        keys.entry(key).or_default().push(call);
    }
    let mut verdict = Verdict::Linearizable;
    for (key, calls) in keys {
        match search::<M>(&calls, limit) {
            Found::Order => {}
            Found::None(explanation) => return Verdict::Violation { key, explanation },
            // A violation elsewhere says more.
            Found::TooMany => verdict = Verdict::GaveUp,
        }
    }
    verdict
}

/// Calls as they happen. Its numbers are those of a counter of events: virtual time stands still during a turn.
#[derive(Clone, Debug)]
pub struct History<O> {
    calls: Vec<Call<O>>,
    events: u64,
}

impl<O> Default for History<O> {
    fn default() -> Self {
        History { calls: Vec::new(), events: 0 }
    }
}

impl<O> History<O> {
    /// A call is about to be made; gives its number. As long as it hasn't returned it counts as one whose effect isn't
    /// known.
    pub fn invoke(&mut self, op: O) -> usize {
        self.events += 1;
        self.calls.push(Call { op, invoked: self.events, returned: None });
        self.calls.len() - 1
    }

    /// A call has returned, with what is to be noted in it.
    pub fn returned(&mut self, call: usize, note: impl FnOnce(&mut O)) {
        self.events += 1;
        if let Some(call) = self.calls.get_mut(call) {
            call.returned = Some(self.events);
            note(&mut call.op);
        }
    }

    /// The calls so far, in the order in which they were made.
    pub fn calls(&self) -> &[Call<O>] {
        &self.calls
    }
}

enum Found {
    Order,
    None(Explanation),
    TooMany,
}

fn search<M: Model>(calls: &[Call<M::Op>], limit: u64) -> Found {
    let mut list = List::of(calls);
    let mut unplaced = calls.iter().filter(|call| call.returned.is_some()).count();
    let mut set = Set::of(calls);
    let mut seen = BTreeSet::new();
    let mut state = M::start();
    // The calls in their order, each with the state before it.
    let mut placed: Vec<(usize, M::State)> = Vec::new();
    // The longest order so far that didn't go on, its state, and the call that didn't fit.
    let mut longest: Option<(Vec<usize>, M::State, usize)> = None;
    let mut steps = 0;
    let mut at = list.first();
    while unplaced > 0 {
        // The list isn't at its end: it holds a return.
        let Event { call, is_return } = list.events[at];
        if !is_return {
            if steps == limit {
                return Found::TooMany;
            }
            steps += 1;
            if let Some(after) = M::step(&state, &calls[call].op) {
                set.flip(call);
                if seen.insert((set.key(), after.clone())) {
                    list.lift(call);
                    unplaced -= usize::from(calls[call].returned.is_some());
                    placed.push((call, std::mem::replace(&mut state, after)));
                    at = list.first();
                    continue;
                }
                set.flip(call);
            }
            at = list.next[at];
            continue;
        }
        if longest.as_ref().is_none_or(|(calls, _, _)| calls.len() < placed.len()) {
            longest = Some((placed.iter().map(|(call, _)| *call).collect(), state.clone(), call));
        }
        let Some((last, before)) = placed.pop() else {
            let (order, state, stuck) = longest.unwrap_or((Vec::new(), state, call));
            return Found::None(Explanation {
                placed: order.iter().map(|call| calls[*call].to_string()).collect(),
                state: format!("{state:?}"),
                stuck: calls[stuck].to_string(),
            });
        };
        state = before;
        set.flip(last);
        list.unlift(last);
        unplaced += usize::from(calls[last].returned.is_some());
        at = list.next[list.places[last].0];
    }
    Found::Order
}

#[derive(Clone, Copy)]
struct Event {
    call: usize,
    is_return: bool,
}

/// The events in order; those of placed calls are lifted out. The last place is the list's beginning and end.
struct List {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each call's events are.
    places: Vec<(usize, Option<usize>)>,
}

impl List {
    fn of<O>(calls: &[Call<O>]) -> List {
        let mut order: Vec<(u64, bool, usize)> = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            order.push((call.invoked, false, number));
            order.extend(call.returned.map(|returned| (returned.max(call.invoked), true, number)));
        }
        // At the same time invocations come first: the calls are concurrent.
        order.sort_unstable();
        let mut places = vec![(0, None); calls.len()];
        for (place, (_, is_return, call)) in order.iter().enumerate() {
            if *is_return {
                places[*call].1 = Some(place);
            } else {
                places[*call].0 = place;
            }
        }
        let end = order.len();
        List {
            events: order.into_iter().map(|(_, is_return, call)| Event { call, is_return }).collect(),
            next: (1..=end).chain([0]).collect(),
            previous: std::iter::once(end).chain(0..end).collect(),
            places,
        }
    }

    fn first(&self) -> usize {
        self.next[self.events.len()]
    }

    fn lift(&mut self, call: usize) {
        let (invocation, answer) = self.places[call];
        for place in std::iter::once(invocation).chain(answer) {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// The call must be the last lifted.
    fn unlift(&mut self, call: usize) {
        let (invocation, answer) = self.places[call];
        for place in answer.into_iter().chain([invocation]) {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
    }
}

/// A set of calls, kept apart by whether they returned: of those that did, in the order of their invocation, all early
/// ones are in it and no late ones, so that few words tell it.
struct Set {
    words: [Vec<u64>; 2],
    /// Which words, and which bit there.
    places: Vec<(usize, usize)>,
}

/// How many words at the beginning are full, those that follow up to the last that isn't empty, and the same of the
/// calls that never returned.
type SetKey = [(usize, Vec<u64>); 2];

impl Set {
    fn of<O>(calls: &[Call<O>]) -> Set {
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|call| calls[*call].invoked);
        let mut places = vec![(0, 0); calls.len()];
        let mut counts = [0; 2];
        for call in order {
            let part = usize::from(calls[call].returned.is_none());
            places[call] = (part, counts[part]);
            counts[part] += 1;
        }
        Set { words: counts.map(|count| vec![0; count / 64 + 1]), places }
    }

    fn flip(&mut self, call: usize) {
        let (part, bit) = self.places[call];
        self.words[part][bit / 64] ^= 1 << (bit % 64);
    }

    fn key(&self) -> SetKey {
        self.words.each_ref().map(|words| {
            let full = words.iter().take_while(|word| **word == u64::MAX).count();
            let end = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
            (full, words.get(full..end).unwrap_or_default().to_vec())
        })
    }
}

/// What a lock's user called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// It has the lock when this returns.
    Acquire,
    /// True: it has the lock. A caching client may say false when the lock is merely not there in time, so false is
    /// always right. What one says that never returned doesn't matter.
    TryAcquire(bool),
    /// It gives the lock back.
    Release,
}

/// A call of a lock's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOp {
    /// Whose.
    pub client: u32,
    /// Which of the client's threads; it is the thread that holds a lock, and releases it.
    pub thread: u32,
    /// What was called.
    pub kind: LockKind,
    /// As in [`Call`].
    pub invoked: u64,
    /// As in [`Call`].
    pub returned: Option<u64>,
}

/// A lock as the users see it: nobody has it, or one thread of a client.
pub struct Mutex;

/// A call that takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockStep {
    /// Client and thread.
    pub user: (u32, u32),
    /// What was called.
    pub kind: LockKind,
}

impl Model for Mutex {
    type State = Option<(u32, u32)>;
    type Op = LockStep;

    fn start() -> Self::State {
        None
    }

    fn step(holder: &Self::State, op: &LockStep) -> Option<Self::State> {
        match op.kind {
            LockKind::Acquire | LockKind::TryAcquire(true) => holder.is_none().then_some(Some(op.user)),
            LockKind::TryAcquire(false) => Some(*holder),
            LockKind::Release => (*holder == Some(op.user)).then_some(None),
        }
    }
}

/// Checks what users called on locks, in at most `limit` steps a lock.
pub fn check_locks<K: Ord>(history: impl IntoIterator<Item = (K, LockOp)>, limit: u64) -> Verdict<K> {
    let calls = history.into_iter().filter_map(|(lock, op)| {
        let kind = match (op.kind, op.returned) {
            // Nothing to place: it is right anywhere, and changes nothing.
            (LockKind::TryAcquire(false), Some(_)) => return None,
            (LockKind::TryAcquire(_), None) => LockKind::TryAcquire(true),
            (kind, _) => kind,
        };
        let step = LockStep { user: (op.client, op.thread), kind };
        Some((lock, Call { op: step, invoked: op.invoked, returned: op.returned }))
    });
    check::<Mutex, K>(calls, limit)
}

/// A counter that is added to.
pub struct Counter;

/// A call of [`Counter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What is added.
    pub n: u64,
    /// The sum that was returned; `None` if it isn't known.
    pub total: Option<u64>,
}

impl Model for Counter {
    type State = u64;
    type Op = Add;

    fn start() -> u64 {
        0
    }

    fn step(total: &u64, add: &Add) -> Option<u64> {
        let after = total.wrapping_add(add.n);
        add.total.is_none_or(|total| total == after).then_some(after)
    }
}
