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

mod state;
mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};
use rt::backend::TaskLocals;
use rt::console::Unsaid;
use rt::thread::Node;
use rt::time::Instant;

use self::state::{NodeState, State, Task, Timer, Waiting, YielderCell};
use crate::dice::Dice;

/// The stack of a simulated thread; only what is touched takes memory.
const STACK_BYTES: usize = 512 << 10;

type Body = Box<dyn FnOnce() + Send>;

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

/// A node has died by itself or by a crash that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It called exit with this status.
    Exit(i32),
    /// It was to crash at some switch.
    Crash,
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

    /// Hands the trace's lines on as they come; a run that hangs shows what it did. The run ends with the first line that
    /// isn't taken.
    pub fn trace_to(&self, sink: impl Fn(&str) -> Result<(), Unsaid> + Send + Sync + 'static) {
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
                    if let Err(unsaid) = sink(&text) {
                        self.end_trace(&unsaid);
                    }
                }
            }
        }
    }

    /// Nobody takes the trace: there is nothing to run for.
    fn end_trace(&self, unsaid: &Unsaid) {
        let mut state = self.state();
        (state.trace, state.sink, state.over) = (None, None, true);
        state.untraced.get_or_insert(unsaid.to_string());
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
            untraced: state.untraced.take(),
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
    /// Why the trace, and with it the run, ended early.
    pub untraced: Option<String>,
}
