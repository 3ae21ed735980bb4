//! Where a run stands: its threads and what they wait for, its nodes and their clocks, its timers. Nothing here switches.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use corosensei::Coroutine;
use corosensei::stack::DefaultStack;
use rt::backend::TaskLocals;
use rt::console::Unsaid;
use rt::thread::Node;
use rt::time::Instant;

use super::{Body, Death, Schedule};
use crate::dice::Dice;

/// Stacks kept for the next thread.
const SPARE_STACKS: usize = 256;

type Job = Coroutine<(), (), (), DefaultStack>;

pub(super) struct Task {
    pub(super) name: Arc<str>,
    pub(super) node: Node,
    pub(super) job: Job,
    pub(super) yielder: Arc<YielderCell>,
    pub(super) locals: TaskLocals,
}

/// Where the yielder of a coroutine lives: on its own stack.
#[derive(Default)]
pub(super) struct YielderCell(pub(super) Cell<usize>);

// SAFETY: only the OS thread that runs the simulation touches it; the bound is that of spawn's closure.
unsafe impl Send for YielderCell {}
// SAFETY: as above.
unsafe impl Sync for YielderCell {}

// SAFETY: tasks are created, resumed and dropped by the one OS thread that runs the simulation; the bound is that of the
// mutex around them, which is there for the objects that rt wants to be Sync.
unsafe impl Send for Task {}

pub(super) enum Timer {
    /// Ends a wait: the task, and which of its waits. True if it ends in vain, for its deadline.
    Wake(usize, u64, bool),
    Act(Body),
}

pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) number: u64,
    pub(super) timer: Timer,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A node's clock, and what is to happen to it.
#[derive(Clone, Debug)]
pub(super) struct NodeState {
    /// Millionths that its clock is faster than the true one.
    pub(super) drift: i64,
    /// Its clock stood at zero then.
    pub(super) started: Instant,
    pub(super) paused_until: Option<Instant>,
    /// Threads that could run but for the pause.
    pub(super) held: Vec<usize>,
    /// It crashes after so many turns of its threads.
    pub(super) crash_after: Option<u64>,
    pub(super) turns: u64,
}

pub(super) struct Waiting {
    pub(super) key: usize,
    pub(super) number: u64,
    pub(super) since: Instant,
}

pub(super) type Sink = Arc<dyn Fn(&str) -> Result<(), Unsaid> + Send + Sync>;
pub(super) type OnDeath = Arc<dyn Fn(&Node, &Death) + Send + Sync>;

#[derive(Default)]
pub(super) struct State {
    pub(super) now: Instant,
    pub(super) schedule: Schedule,
    pub(super) dice: Dice,
    pub(super) tasks: BTreeMap<usize, Task>,
    pub(super) next_task: usize,
    pub(super) runnable: Vec<usize>,
    /// What each blocked task waits for.
    pub(super) waiting: BTreeMap<usize, Waiting>,
    /// The tasks that wait for a key, in the order in which they came.
    pub(super) parked: BTreeMap<usize, VecDeque<usize>>,
    /// Tasks whose wait has just ended in vain.
    pub(super) in_vain: Vec<usize>,
    pub(super) next_number: u64,
    pub(super) timers: BinaryHeap<Reverse<Due>>,
    pub(super) nodes: BTreeMap<String, NodeState>,
    pub(super) running: Option<(usize, Node, Arc<YielderCell>)>,
    /// The running task's node was crashed: it must not go on.
    pub(super) doomed: bool,
    pub(super) on_death: Option<OnDeath>,
    pub(super) over: bool,
    pub(super) finding: Option<String>,
    pub(super) hash: u64,
    pub(super) turns: u64,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) trace: Option<Vec<String>>,
    /// Takes the trace's lines as they come, instead.
    pub(super) sink: Option<Sink>,
    /// Why the trace ends before the run.
    pub(super) untraced: Option<String>,
    pub(super) stacks: Vec<DefaultStack>,
}

impl State {
    pub(super) fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        let number = self.next_number();
        self.timers.push(Reverse(Due { at, number, timer }));
    }

    pub(super) fn stir(&mut self, with: u64) {
        self.hash = (self.hash.rotate_left(5) ^ with).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// A true time on a node's clock.
    pub(super) fn local(&self, node: &Node, at: Instant) -> Instant {
        let Some(node) = self.nodes.get(node.name()) else { return at };
        Instant::from_start(stretched(at - node.started, node.drift))
    }

    /// A time of a node's clock as the true one, not before it.
    pub(super) fn global(&self, node: &Node, at: Instant) -> Instant {
        let Some(node) = self.nodes.get(node.name()) else { return at };
        let since = at.since_start();
        // The clock's rate turned round, not the drift's sign: what that errs by grows with the node's age.
        let nanos = since.as_nanos() as i128 * 1_000_000 / (1_000_000 + i128::from(node.drift));
        let mut guess = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        while guess < Duration::from_nanos(u64::MAX) && stretched(guess, node.drift) < since {
            guess += Duration::from_nanos(1);
        }
        node.started + guess
    }

    pub(super) fn make_runnable(&mut self, task: usize) {
        let now = self.now;
        let node = self.tasks.get(&task).map(|t| &t.node).or(self.running.as_ref().map(|(_, node, _)| node));
        if let Some(node) = node.and_then(|node| self.nodes.get_mut(node.name()))
            && node.paused_until.is_some_and(|until| until > now)
        {
            node.held.push(task);
        } else {
            self.runnable.push(task);
        }
    }

    pub(super) fn resume_node(&mut self, node: &Node) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(node.name()) else { return };
        if node.paused_until.is_some_and(|until| until <= now) {
            node.paused_until = None;
            let held = mem::take(&mut node.held);
            self.runnable.extend(held);
        }
    }

    pub(super) fn end_wait(&mut self, task: usize) {
        let Some(Waiting { key, .. }) = self.waiting.remove(&task) else { return };
        if let Some(parked) = self.parked.get_mut(&key) {
            parked.retain(|t| *t != task);
            if parked.is_empty() {
                self.parked.remove(&key);
            }
        }
    }

    /// Removes a node and its threads. Timers of theirs find nobody.
    pub(super) fn bury(&mut self, node: &Node) {
        let dead: Vec<usize> = self.tasks.iter().filter(|(_, task)| task.node == *node).map(|(n, _)| *n).collect();
        for number in dead {
            self.end_wait(number);
            self.runnable.retain(|t| *t != number);
            self.in_vain.retain(|t| *t != number);
            if let Some(task) = self.tasks.remove(&number) {
                self.reset(task);
            }
        }
        self.nodes.remove(node.name());
    }

    /// Throws a thread away. Nothing may run on a dead node, destructors neither: what lies on its stack leaks.
    pub(super) fn reset(&mut self, mut task: Task) {
        // SAFETY: what the stack owns leaks, and nobody borrows from it: rt's bodies are 'static, and others know parked
        // threads by number only.
        unsafe { task.job.force_reset() };
        let stack = task.job.into_stack();
        self.keep_stack(stack);
    }

    pub(super) fn keep_stack(&mut self, stack: DefaultStack) {
        if self.stacks.len() < SPARE_STACKS {
            self.stacks.push(stack);
        }
    }

    pub(super) fn park_in_panic(&mut self) -> bool {
        self.over = true;
        true
    }

    pub(super) fn tear_down(&mut self) {
        for (_, task) in mem::take(&mut self.tasks) {
            self.reset(task);
        }
        self.runnable.clear();
        self.timers.clear();
        self.waiting.clear();
        self.parked.clear();
        self.on_death = None;
        self.stacks.clear();
    }
}

/// `duration` as a clock shows it that gains `drift` millionths.
pub(super) fn stretched(duration: Duration, drift: i64) -> Duration {
    let nanos = duration.as_nanos() as i128;
    let nanos = nanos + nanos * i128::from(drift) / 1_000_000;
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
