//! Coroutines on one OS thread, under a fake clock.
//!
//! One thread runs until it parks, or until the dice say so where it takes a lock. The next one is drawn from those that
//! can run; when none can, the clock jumps to the next deadline. One seed gives one run.
#![expect(unsafe_code, reason = "a coroutine suspends itself through the address of its yielder")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use corosensei::{Coroutine, CoroutineResult, Yielder};
use rt::backend::{self, Backend, File, Listener, Poll, Stream, TaskLocals};
use rt::thread::Node;
use rt::time::Instant;

use crate::files::Files;
use crate::net::Net;

type YielderAddress = Rc<Cell<*const Yielder<(), ()>>>;

struct Task {
    name: String,
    node: Node,
    coroutine: Coroutine<(), (), ()>,
    yielder: YielderAddress,
    locals: TaskLocals,
}

struct Parked {
    task: usize,
    key: usize,
    deadline: Instant,
}

#[derive(Default)]
struct State {
    now: Instant,
    dice: u64,
    next_task: usize,
    /// All but the one that runs.
    tasks: BTreeMap<usize, Task>,
    runnable: Vec<usize>,
    parked: Vec<Parked>,
    /// Woken by their deadlines, and not told yet.
    timed_out: Vec<usize>,
    /// The task that runs: its number, its node, its yielder.
    running: Option<(usize, Node, YielderAddress)>,
    dead: Vec<(Node, i32)>,
    trace: Vec<String>,
}

impl State {
    fn roll(&mut self) -> u64 {
        // splitmix64
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn roll_below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    /// The task to run next, after a jump of the clock if need be; `None` if none will ever run again.
    fn draw(&mut self) -> Option<usize> {
        if self.runnable.is_empty() {
            let next = self.parked.iter().map(|p| p.deadline).min().filter(|d| *d < Instant::NEVER)?;
            self.now = self.now.max(next);
            let (due, waiting) = mem::take(&mut self.parked).into_iter().partition(|p| p.deadline <= self.now);
            self.parked = waiting;
            self.timed_out = due.iter().map(|p: &Parked| p.task).collect();
            self.runnable.clone_from(&self.timed_out);
        }
        let at = self.roll_below(self.runnable.len());
        Some(self.runnable.swap_remove(at))
    }
}

/// How a run went.
pub(crate) struct Report {
    /// Who ran, and when.
    pub(crate) trace: Vec<String>,
    pub(crate) ended_at: Instant,
    /// The nodes that called exit, with what status.
    pub(crate) dead: Vec<(Node, i32)>,
}

pub(crate) struct Engine {
    state: RefCell<State>,
    net: Net,
    files: Files,
}

impl Engine {
    /// Runs `program` as the first thread of a new world, and all that it spawns, to the end.
    ///
    /// # Panics
    /// If a thread panics, or waits for ever.
    pub(crate) fn run(seed: u64, program: impl FnOnce() + Send + 'static) -> Report {
        let state = RefCell::new(State { dice: seed, ..State::default() });
        let engine = Rc::new(Engine { state, net: Net::default(), files: Files::default() });
        let _entered = backend::enter(engine.clone());
        Node::new("main").spawn("main", program).unwrap();
        loop {
            let Some(number) = engine.state.borrow_mut().draw() else { break };
            engine.resume(number);
        }
        let mut state = engine.state.borrow_mut();
        let stuck: Vec<_> = state.tasks.values().map(|t| &t.name).collect();
        assert!(stuck.is_empty(), "wait for ever: {stuck:?}");
        Report { trace: mem::take(&mut state.trace), ended_at: state.now, dead: mem::take(&mut state.dead) }
    }

    fn resume(&self, number: usize) {
        let mut state = self.state.borrow_mut();
        let mut task = state.tasks.remove(&number).unwrap();
        let line = format!("{:?} {}", state.now, task.name);
        state.trace.push(line);
        state.running = Some((number, task.node.clone(), task.yielder.clone()));
        drop(state);

        task.locals.swap();
        let result = task.coroutine.resume(());
        task.locals.swap();

        let mut state = self.state.borrow_mut();
        state.running = None;
        if let CoroutineResult::Yield(()) = result {
            state.tasks.insert(number, task);
        }
        bury(&mut state);
    }

    /// Stops the running thread until it is drawn again.
    fn suspend(&self) {
        let yielder = self.state.borrow().running.as_ref().unwrap().2.get();
        // SAFETY: the yielder lives on the running coroutine's stack as long as the coroutine; we are on that stack.
        unsafe { (*yielder).suspend(()) };
    }

    /// The running thread, unless the caller is none.
    fn running(&self) -> Option<usize> {
        self.state.borrow().running.as_ref().map(|r| r.0)
    }
}

/// Throws the threads of dead nodes away. Their stacks leak: nothing may run on a dead node, destructors neither.
fn bury(state: &mut State) {
    let dead = |task: &Task| state.dead.iter().any(|(node, _)| *node == task.node);
    let numbers: Vec<_> = state.tasks.iter().filter(|(_, task)| dead(task)).map(|(number, _)| *number).collect();
    for number in numbers {
        mem::forget(state.tasks.remove(&number));
        state.runnable.retain(|task| *task != number);
        state.parked.retain(|parked| parked.task != number);
    }
}

impl Backend for Engine {
    fn now(&self) -> Instant {
        self.state.borrow().now
    }

    fn random(&self) -> u64 {
        self.state.borrow_mut().roll()
    }

    fn spawn(&self, node: &Node, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let yielder = YielderAddress::new(Cell::new(std::ptr::null()));
        let address = yielder.clone();
        let coroutine = Coroutine::new(move |yielder: &Yielder<(), ()>, ()| {
            address.set(yielder);
            body();
        });
        let state = &mut *self.state.borrow_mut();
        let number = state.next_task;
        state.next_task += 1;
        let name = format!("{}/{name}", node.name());
        state
            .tasks
            .insert(number, Task { name, node: node.clone(), coroutine, yielder, locals: TaskLocals::default() });
        state.runnable.push(number);
        Ok(())
    }

    fn park(&self, key: usize, deadline: Option<Instant>) -> bool {
        let task = self.running().expect("a lock is contended outside of the run");
        let deadline = deadline.unwrap_or(Instant::NEVER);
        self.state.borrow_mut().parked.push(Parked { task, key, deadline });
        self.suspend();
        let timed_out = &mut self.state.borrow_mut().timed_out;
        match timed_out.iter().position(|t| *t == task) {
            None => true,
            Some(at) => {
                timed_out.remove(at);
                false
            }
        }
    }

    fn unpark(&self, key: usize, count: usize) {
        let state = &mut *self.state.borrow_mut();
        for _ in 0..count {
            let waiting: Vec<_> = (0..state.parked.len()).filter(|at| state.parked[*at].key == key).collect();
            if waiting.is_empty() {
                break;
            }
            let at = waiting[state.roll_below(waiting.len())];
            let woken = state.parked.remove(at);
            state.runnable.push(woken.task);
        }
    }

    fn yield_point(&self) {
        if let Some(task) = self.running()
            && self.random().is_multiple_of(2)
        {
            self.state.borrow_mut().runnable.push(task);
            self.suspend();
        }
    }

    fn exit(&self, status: i32) -> ! {
        let node = self.state.borrow().running.as_ref().unwrap().1.clone();
        assert_eq!(node, Node::current());
        self.state.borrow_mut().dead.push((node, status));
        self.suspend();
        unreachable!("a dead node's thread runs")
    }

    fn file_limit(&self) -> u64 {
        100
    }

    fn poll(&self) -> io::Result<Box<dyn Poll>> {
        Ok(Box::new(self.net.poll()))
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(self.net.bind(addr)?))
    }

    fn connect(&self, addr: SocketAddr) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.net.connect(addr)))
    }

    fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        host_port.parse().map(|addr| vec![addr]).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(self.files.open(path, false)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(self.files.open(path, true)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.read(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.exists(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.files.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir_all(path);
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
