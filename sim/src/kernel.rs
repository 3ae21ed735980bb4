//! The scheduler: simulated threads as coroutines on one OS thread, their clock, and the dice.
//!
//! One thread runs at a time, until it blocks, or until the dice say so where it takes a lock. The next is drawn from
//! those that can run. Each turn costs a little virtual time; when nobody can run, the clock jumps to the next timer.
//!
//! Invariants:
//! 1. A seed gives one run: nothing here depends on addresses, on the real time, or on the order of a map with random
//!    state. Keys of [`Kernel::park`] are addresses, and are only ever looked up.
//! 2. A node that was crashed never runs again, destructors neither: its stacks are reset, and what lies on them leaks.
//! 3. A paused node's threads aren't drawn; its clock goes on.
//! 4. Timers fire in the order of their time, and at the same time in the order in which they were set.
//! 5. After a finding the run ends: nothing is drawn any more.
#![expect(unsafe_code, reason = "a coroutine suspends itself through the address of its yielder, and is reset")]
#![expect(clippy::disallowed_types, reason = "the backend's own lock; it is never held across a switch")]

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use rt::backend::TaskLocals;
use rt::thread::Node;
use rt::time::Instant;

use crate::dice::Dice;

/// The stack of a simulated thread; only what is touched takes memory.
const STACK_BYTES: usize = 512 << 10;
/// Stacks kept for the next thread.
const SPARE_STACKS: usize = 256;

type Body = Box<dyn FnOnce() + Send>;
type Job = Coroutine<(), (), (), DefaultStack>;

/// How a run switches between threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Of 1024 locks taken, so many let another thread go first.
    pub yields: u64,
    /// Of 1024 waits, so many end early for no reason.
    pub spurious: u64,
    /// The longest time that one turn of a thread takes.
    pub turn: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { yields: 64, spurious: 0, turn: Duration::from_micros(2) }
    }
}

struct Task {
    name: Arc<str>,
    node: Node,
    job: Job,
    yielder: Arc<YielderCell>,
    locals: TaskLocals,
}

/// Where the yielder of a coroutine lives: on its own stack.
#[derive(Default)]
struct YielderCell(Cell<usize>);

// SAFETY: only the OS thread that runs the simulation touches it; the bound is that of spawn's closure.
unsafe impl Send for YielderCell {}
// SAFETY: as above.
unsafe impl Sync for YielderCell {}

// SAFETY: tasks are created, resumed and dropped by the one OS thread that runs the simulation; the bound is that of the
// mutex around them, which is there for the objects that rt wants to be Sync.
unsafe impl Send for Task {}

enum Timer {
    /// Ends a wait: the task, and which of its waits. True if it ends in vain, for its deadline.
    Wake(usize, u64, bool),
    Act(Body),
}

struct Due {
    at: Instant,
    number: u64,
    timer: Timer,
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
struct NodeState {
    /// Millionths that its clock is faster than the true one.
    drift: i64,
    /// Its clock stood at zero then.
    started: Instant,
    paused_until: Option<Instant>,
    /// Threads that could run but for the pause.
    held: Vec<usize>,
    /// It crashes after so many turns of its threads.
    crash_after: Option<u64>,
    turns: u64,
}

struct Waiting {
    key: usize,
    number: u64,
    since: Instant,
}

/// A node has died by itself or by a crash that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It called exit with this status.
    Exit(i32),
    /// It was to crash at some switch.
    Crash,
}

type Sink = Arc<dyn Fn(&str) + Send + Sync>;
type OnDeath = Arc<dyn Fn(&Node, &Death) + Send + Sync>;

#[derive(Default)]
struct State {
    now: Instant,
    schedule: Schedule,
    dice: Dice,
    tasks: BTreeMap<usize, Task>,
    next_task: usize,
    runnable: Vec<usize>,
    /// What each blocked task waits for.
    waiting: BTreeMap<usize, Waiting>,
    /// The tasks that wait for a key, in the order in which they came.
    parked: BTreeMap<usize, VecDeque<usize>>,
    /// Tasks whose wait has just ended in vain.
    in_vain: Vec<usize>,
    next_number: u64,
    timers: BinaryHeap<Reverse<Due>>,
    nodes: BTreeMap<String, NodeState>,
    running: Option<(usize, Node, Arc<YielderCell>)>,
    /// The running task's node was crashed: it must not go on.
    doomed: bool,
    on_death: Option<OnDeath>,
    over: bool,
    finding: Option<String>,
    hash: u64,
    turns: u64,
    counts: BTreeMap<&'static str, u64>,
    trace: Option<Vec<String>>,
    /// Takes the trace's lines as they come, instead.
    sink: Option<Sink>,
    stacks: Vec<DefaultStack>,
}

/// The scheduler of one run. Clones are the same one.
#[derive(Clone, Default)]
pub struct Kernel(Arc<Mutex<State>>);

impl Kernel {
    /// A scheduler whose choices follow from `seed`. With `traced`, lines given to [`Kernel::note`] are kept.
    pub fn new(seed: u64, schedule: Schedule, traced: bool) -> Self {
        let state = State {
            dice: Dice::new(seed),
            schedule,
            trace: traced.then(Vec::new),
            hash: 0xcbf2_9ce4_8422_2325,
            ..State::default()
        };
        Kernel(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a fault of the simulator's; the run ends anyway.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The true time.
    pub fn now(&self) -> Instant {
        self.state().now
    }

    /// The time on the caller's clock.
    pub fn local_now(&self) -> Instant {
        let state = self.state();
        match &state.running {
            Some((_, node, _)) => state.local(node, state.now),
            None => state.now,
        }
    }

    /// A random number, all bits uniform. Everything random is drawn from one stream, in the order of the run.
    pub fn roll(&self) -> u64 {
        self.state().dice.roll()
    }

    /// A random number below `bound`, 0 if that is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.state().dice.below(bound)
    }

    /// True in `of_1024` of 1024 cases. Draws nothing if that is 0.
    pub fn chance(&self, of_1024: u64) -> bool {
        of_1024 > 0 && self.state().dice.below(1024) < of_1024
    }

    /// A random duration from `least` to `most`.
    pub fn between(&self, least: Duration, most: Duration) -> Duration {
        self.state().dice.between(least, most)
    }

    /// Adds one to a counter of the totals.
    pub fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    /// Hands the trace's lines on as they come; a run that hangs shows what it did.
    pub fn trace_to(&self, sink: impl Fn(&str) + Send + Sync + 'static) {
        let mut state = self.state();
        state.trace.get_or_insert_default();
        state.sink = Some(Arc::new(sink));
    }

    /// Whether lines given to [`Kernel::note`] are kept.
    pub fn is_traced(&self) -> bool {
        self.state().trace.is_some()
    }

    /// Adds to the run's hash. Two runs of a seed that differ anywhere are to differ here.
    pub fn stir(&self, with: u64) {
        self.state().stir(with);
    }

    /// Adds a line to the trace, if there is one, under the time and `who`.
    pub fn line(&self, who: &str, line: impl FnOnce() -> String) {
        let mut state = self.state();
        let now = state.now.since_start().as_secs_f64();
        if state.trace.is_some() {
            drop(state);
            let text = format!("{now:>12.6} {who:<16} {}", line());
            state = self.state();
            match state.sink.clone() {
                None => state.trace.get_or_insert_default().push(text),
                Some(sink) => {
                    drop(state);
                    sink(&text);
                }
            }
        }
    }

    /// As [`Kernel::line`], and the event goes into the run's hash.
    pub fn note(&self, who: &str, line: impl FnOnce() -> String) {
        {
            let mut state = self.state();
            let now = state.now.since_start().as_nanos() as u64;
            state.stir(now);
        }
        self.line(who, line);
    }

    /// Something is wrong: the run ends with this.
    pub fn find(&self, finding: String) {
        self.note("FINDING", || finding.clone());
        for (name, does) in self.threads() {
            self.line(&name, || does);
        }
        let mut state = self.state();
        state.finding.get_or_insert(finding);
        state.over = true;
    }

    /// What each thread does, if there is a trace to print it.
    fn threads(&self) -> Vec<(String, String)> {
        let state = self.state();
        if state.trace.is_none() {
            return Vec::new();
        }
        let does = |number: &usize| match state.waiting.get(number) {
            Some(waiting) => {
                let others = state.parked.get(&waiting.key).map_or(0, VecDeque::len) - 1;
                format!("waits since {:?}, beside {others} others", waiting.since)
            }
            None if state.runnable.contains(number) => "can run".to_owned(),
            None => "is paused".to_owned(),
        };
        state.tasks.iter().map(|(number, task)| (task.name.to_string(), does(number))).collect()
    }

    /// The run ends, and all is well.
    pub fn end(&self) {
        self.state().over = true;
    }

    /// Whether the run is to end.
    pub fn is_over(&self) -> bool {
        self.state().over
    }

    /// Does something at a true time, while no thread runs. It must not block.
    pub fn at(&self, at: Instant, act: impl FnOnce() + Send + 'static) {
        self.state().set_timer(at, Timer::Act(Box::new(act)));
    }

    /// As [`Kernel::at`], so much after now.
    pub fn after(&self, pause: Duration, act: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        let at = state.now + pause;
        state.set_timer(at, Timer::Act(Box::new(act)));
    }

    /// Sets what is called, while no thread runs or by the thread that exits, when a node dies by itself.
    pub fn on_death(&self, call: impl Fn(&Node, &Death) + Send + Sync + 'static) {
        self.state().on_death = Some(Arc::new(call));
    }

    /// A node begins: its clock is at zero now and gains `drift` millionths.
    pub fn add_node(&self, node: &Node, drift: i64) {
        let mut state = self.state();
        let started = state.now;
        let fresh = NodeState { drift, started, paused_until: None, held: Vec::new(), crash_after: None, turns: 0 };
        state.nodes.insert(node.name().to_owned(), fresh);
    }

    /// Ends all threads of a node, at once and without destructors. If the caller is one of them it never goes on.
    pub fn crash(&self, node: &Node) {
        let mut state = self.state();
        state.bury(node);
        let own = state.running.as_ref().is_some_and(|(_, running, _)| running == node);
        if own {
            state.doomed = true;
            drop(state);
            self.suspend();
            unreachable!("a dead node's thread runs");
        }
    }

    /// The node dies after so many turns of its threads, and `on_death` is told.
    pub fn crash_after(&self, node: &Node, turns: u64) {
        if let Some(node) = self.state().nodes.get_mut(node.name()) {
            node.crash_after = Some(node.turns + turns);
        }
    }

    /// Takes [`Kernel::crash_after`] back.
    pub fn spare(&self, node: &Node) {
        if let Some(node) = self.state().nodes.get_mut(node.name()) {
            node.crash_after = None;
        }
    }

    /// Stops a node's threads for a time.
    pub fn pause(&self, node: &Node, duration: Duration) {
        let mut state = self.state();
        let until = state.now + duration;
        let State { nodes, tasks, runnable, .. } = &mut *state;
        let Some(paused) = nodes.get_mut(node.name()) else { return };
        paused.paused_until = Some(until);
        runnable.retain(|task| {
            let runs = tasks.get(task).is_none_or(|task| task.node != *node);
            if !runs {
                paused.held.push(*task);
            }
            runs
        });
        let (kernel, node) = (self.clone(), node.clone());
        state.set_timer(until, Timer::Act(Box::new(move || kernel.state().resume_node(&node))));
    }

    /// Ends a pause now.
    pub fn resume(&self, node: &Node) {
        let mut state = self.state();
        let now = state.now;
        if let Some(paused) = state.nodes.get_mut(node.name()).and_then(|node| node.paused_until.as_mut()) {
            *paused = now;
        }
        state.resume_node(node);
    }

    /// Starts a thread of a node. It doesn't run before the caller switches.
    pub fn spawn(&self, node: &Node, name: &str, body: Body) {
        let yielder = Arc::new(YielderCell::default());
        let cell = yielder.clone();
        let stack = self.state().stacks.pop().or_else(|| DefaultStack::new(STACK_BYTES).ok());
        // Out of memory: nothing could be simulated any more.
        let Some(stack) = stack else { return self.find("no stack for another thread".to_owned()) };
        let job = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            cell.0.set(ptr::from_ref(yielder).addr());
            body();
        });
        let mut state = self.state();
        let number = state.next_task;
        state.next_task += 1;
        let name = format!("{}/{name}", node.name()).into();
        let task = Task { name, node: node.clone(), job, yielder, locals: TaskLocals::default() };
        state.tasks.insert(number, task);
        state.make_runnable(number);
    }

    /// Blocks the caller; see [`rt::backend::Backend::park`].
    pub fn park(&self, key: usize, deadline: Option<Instant>) -> bool {
        if std::thread::panicking() {
            // A switch would let other threads see themselves panicking. The wait ends early instead, and a loop around
            // it for good: the run is over anyway.
            return self.state().park_in_panic();
        }
        let task = {
            let mut state = self.state();
            let Some((task, node, _)) = &state.running else {
                drop(state);
                if deadline.is_some() {
                    return false;
                }
                // A caller that tries again would do so for ever.
                panic!("a timer of the simulator's waits for a lock of the code under test");
            };
            let (task, node) = (*task, node.clone());
            let number = state.next_number();
            if let Some(deadline) = deadline
                && deadline < Instant::NEVER
            {
                let at = state.global(&node, deadline);
                state.set_timer(at, Timer::Wake(task, number, true));
            }
            let spurious = state.schedule.spurious;
            if spurious > 0 && state.dice.below(1024) < spurious {
                let at = state.now + state.dice.between(Duration::ZERO, Duration::from_millis(2));
                state.set_timer(at, Timer::Wake(task, number, false));
                *state.counts.entry("fault: spurious wake-up").or_default() += 1;
            }
            let since = state.now;
            state.waiting.insert(task, Waiting { key, number, since });
            state.parked.entry(key).or_default().push_back(task);
            task
        };
        self.suspend();
        let in_vain = &mut self.state().in_vain;
        match in_vain.iter().position(|t| *t == task) {
            None => true,
            Some(at) => {
                in_vain.swap_remove(at);
                false
            }
        }
    }

    /// Wakes threads; see [`rt::backend::Backend::unpark`].
    pub fn unpark(&self, key: usize, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            let Some(parked) = state.parked.get(&key).map(VecDeque::len) else { break };
            let at = if parked > 1 { state.dice.below(parked as u64) as usize } else { 0 };
            let Some(task) = state.parked.get(&key).and_then(|parked| parked.get(at)).copied() else { break };
            state.end_wait(task);
            state.make_runnable(task);
        }
    }

    /// Perhaps lets another thread go first.
    pub fn yield_point(&self) {
        if std::thread::panicking() {
            return;
        }
        {
            let mut state = self.state();
            let Some((task, _, _)) = &state.running else { return };
            let task = *task;
            let yields = state.schedule.yields;
            if yields == 0 || state.dice.below(1024) >= yields {
                return;
            }
            state.make_runnable(task);
        }
        self.suspend();
    }

    /// Ends the caller's node.
    pub fn exit(&self, status: i32) -> ! {
        let Some((_, node, _)) = self.state().running.as_ref().map(|(t, n, y)| (*t, n.clone(), y.clone())) else {
            unreachable!("exit outside of a run");
        };
        self.die(&node, &Death::Exit(status));
        unreachable!("a dead node's thread runs")
    }

    fn die(&self, node: &Node, death: &Death) {
        let on_death = self.state().on_death.clone();
        if let Some(on_death) = on_death {
            on_death(node, death);
        }
        self.crash(node);
    }

    /// Stops the running thread until it is drawn again.
    fn suspend(&self) {
        let Some(address) = self.state().running.as_ref().map(|(_, _, yielder)| yielder.0.get()) else { return };
        // SAFETY: the yielder lives on the running coroutine's stack as long as the coroutine; we are on that stack. The
        // address was exposed by nothing but this cell, which was filled from a reference to it.
        unsafe { (*ptr::with_exposed_provenance::<Yielder<(), ()>>(address)).suspend(()) };
    }

    /// Runs until the run is over, nobody will ever run again, or the time is `limit`.
    pub fn run(&self, limit: Instant) {
        loop {
            self.fire_due();
            let mut state = self.state();
            if state.over {
                break;
            }
            let idle = state.runnable.is_empty();
            let next = if idle { state.timers.peek().map(|Reverse(due)| due.at) } else { Some(state.now) };
            let Some(next) = next else {
                drop(state);
                self.find("no thread will ever run again".to_owned());
                break;
            };
            // Also while somebody can always run: threads may keep each other awake.
            if next > limit {
                drop(state);
                self.find(format!("the run isn't over after {:?}", limit.since_start()));
                break;
            }
            if idle {
                state.now = state.now.max(next);
                continue;
            }
            let runnable = state.runnable.len() as u64;
            let drawn = state.dice.below(runnable) as usize;
            let task = state.runnable.swap_remove(drawn);
            drop(state);
            self.turn(task);
        }
        self.state().tear_down();
    }

    fn fire_due(&self) {
        loop {
            let act = {
                let mut state = self.state();
                let now = state.now;
                if state.over || state.timers.peek().is_none_or(|Reverse(due)| due.at > now) {
                    return;
                }
                match state.timers.pop() {
                    Some(Reverse(Due { timer: Timer::Act(act), .. })) => act,
                    Some(Reverse(Due { timer: Timer::Wake(task, number, in_vain), .. })) => {
                        if state.waiting.get(&task).is_some_and(|waiting| waiting.number == number) {
                            state.end_wait(task);
                            if in_vain {
                                state.in_vain.push(task);
                            }
                            state.make_runnable(task);
                        }
                        continue;
                    }
                    None => return,
                }
            };
            act();
        }
    }

    fn turn(&self, number: usize) {
        let (mut task, dies) = {
            let mut state = self.state();
            let Some(task) = state.tasks.remove(&number) else { return };
            let turn = state.schedule.turn;
            let cost = state.dice.between(Duration::from_nanos(100), turn);
            state.now = state.now + cost;
            state.turns += 1;
            state.stir(number as u64);
            let dies = state.nodes.get_mut(task.node.name()).is_some_and(|node| {
                node.turns += 1;
                node.crash_after.is_some_and(|after| node.turns >= after)
            });
            state.running = Some((number, task.node.clone(), task.yielder.clone()));
            (task, dies)
        };
        if dies {
            let mut state = self.state();
            state.running = None;
            let node = task.node.clone();
            state.tasks.insert(number, task);
            drop(state);
            return self.die(&node, &Death::Crash);
        }
        task.locals.swap();
        let result = catch_unwind(AssertUnwindSafe(|| task.job.resume(())));
        task.locals.swap();
        let mut state = self.state();
        state.running = None;
        let doomed = mem::take(&mut state.doomed);
        match result {
            Ok(CoroutineResult::Yield(())) if !doomed => {
                state.tasks.insert(number, task);
            }
            Ok(CoroutineResult::Yield(())) => state.reset(task),
            Ok(CoroutineResult::Return(())) => {
                let stack = task.job.into_stack();
                state.keep_stack(stack);
            }
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                    .unwrap_or_default();
                let finding = format!("{} panicked: {text}", task.name);
                drop(state);
                self.find(finding);
            }
        }
    }

    /// What came of the run.
    pub fn report(&self) -> Report {
        let mut state = self.state();
        Report {
            finding: state.finding.take(),
            ended_at: state.now,
            turns: state.turns,
            hash: state.hash,
            counts: mem::take(&mut state.counts),
            trace: state.trace.take().unwrap_or_default(),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, if anything.
    pub finding: Option<String>,
    /// The true time at the end.
    pub ended_at: Instant,
    /// How often a thread was drawn.
    pub turns: u64,
    /// The same for two runs of a seed.
    pub hash: u64,
    /// The counters.
    pub counts: BTreeMap<&'static str, u64>,
    /// One line an event.
    pub trace: Vec<String>,
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn set_timer(&mut self, at: Instant, timer: Timer) {
        let number = self.next_number();
        self.timers.push(Reverse(Due { at, number, timer }));
    }

    fn stir(&mut self, with: u64) {
        self.hash = (self.hash.rotate_left(5) ^ with).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// A true time on a node's clock.
    fn local(&self, node: &Node, at: Instant) -> Instant {
        let Some(node) = self.nodes.get(node.name()) else { return at };
        Instant::from_start(stretched(at - node.started, node.drift))
    }

    /// A time of a node's clock as the true one, not before it.
    fn global(&self, node: &Node, at: Instant) -> Instant {
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

    fn make_runnable(&mut self, task: usize) {
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

    fn resume_node(&mut self, node: &Node) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(node.name()) else { return };
        if node.paused_until.is_some_and(|until| until <= now) {
            node.paused_until = None;
            let held = mem::take(&mut node.held);
            self.runnable.extend(held);
        }
    }

    fn end_wait(&mut self, task: usize) {
        let Some(Waiting { key, .. }) = self.waiting.remove(&task) else { return };
        if let Some(parked) = self.parked.get_mut(&key) {
            parked.retain(|t| *t != task);
            if parked.is_empty() {
                self.parked.remove(&key);
            }
        }
    }

    /// Removes a node and its threads. Timers of theirs find nobody.
    fn bury(&mut self, node: &Node) {
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
    fn reset(&mut self, mut task: Task) {
        // SAFETY: what the stack owns leaks, and nobody borrows from it: rt's bodies are 'static, and others know parked
        // threads by number only.
        unsafe { task.job.force_reset() };
        let stack = task.job.into_stack();
        self.keep_stack(stack);
    }

    fn keep_stack(&mut self, stack: DefaultStack) {
        if self.stacks.len() < SPARE_STACKS {
            self.stacks.push(stack);
        }
    }

    fn park_in_panic(&mut self) -> bool {
        self.over = true;
        true
    }

    fn tear_down(&mut self) {
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
fn stretched(duration: Duration, drift: i64) -> Duration {
    let nanos = duration.as_nanos() as i128;
    let nanos = nanos + nanos * i128::from(drift) / 1_000_000;
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
