//! The loop of a run: timers that are due, then one turn of a thread that is drawn, and so on.

use std::cmp::Reverse;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use corosensei::CoroutineResult;
use rt::time::Instant;

use super::state::{Due, Timer};
use super::{Death, Kernel};

impl Kernel {
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
}
