//! What all loads share: threads that run until they are told to stop, and the first thing that one saw go wrong.
//!
//! Locks: `torture.trouble` guards what was seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::thread::JoinHandle;
use rt::time::now;

use crate::trouble::{Trouble, await_within, ensure};

const TROUBLE_RANK: Rank = Rank::new(3, "torture.trouble");

/// What a load's threads and its owner share.
#[derive(Debug)]
pub(crate) struct Reins {
    stop: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Reins {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A thread saw something that must not be: the load stops.
    pub(crate) fn fail(&self, what: String) {
        self.trouble.lock().get_or_insert(what);
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The threads of a load.
#[derive(Debug)]
pub(crate) struct Threads {
    reins: Arc<Reins>,
    running: Vec<JoinHandle>,
}

impl Threads {
    pub(crate) fn new() -> Self {
        let reins = Reins { stop: AtomicBool::new(false), trouble: Mutex::new(TROUBLE_RANK, None) };
        Threads { reins: Arc::new(reins), running: Vec::new() }
    }

    /// The next threads may run.
    pub(crate) fn allow(&self) {
        self.reins.stop.store(self.reins.trouble.lock().is_some(), Ordering::Relaxed);
    }

    pub(crate) fn spawn(&mut self, name: &str, work: impl FnOnce(&Reins) + Send + 'static) -> Result<(), Trouble> {
        let reins = self.reins.clone();
        let thread = rt::thread::spawn(name, move || work(&reins)).map_err(|e| format!("no thread: {e}"))?;
        self.running.push(thread);
        Ok(())
    }

    /// Fails with what a thread saw, if one did.
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        let trouble = self.reins.trouble.lock().clone();
        trouble.map_or(Ok(()), |what| Err(Trouble::Failed(what)))
    }

    /// Has the threads stop after what they are doing.
    pub(crate) fn stop(&mut self, within: Duration) -> Result<(), Trouble> {
        self.reins.stop.store(true, Ordering::Relaxed);
        let ended = |thread: &JoinHandle| thread.join_until(now());
        await_within(within, "all calls of clients return", || Ok(self.running.iter().all(ended)))?;
        self.running.clear();
        self.check()
    }

    /// Waits for a condition as long as nothing goes wrong.
    pub(crate) fn await_within(
        &self,
        within: Duration,
        what: &str,
        condition: impl Fn() -> bool,
    ) -> Result<Duration, Trouble> {
        await_within(within, what, || {
            self.check()?;
            ensure(self.reins.goes_on() || condition(), || "the load has stopped".to_owned())?;
            Ok(condition())
        })
    }
}

impl Drop for Threads {
    /// They end by themselves after their calls, unless the program ends before.
    fn drop(&mut self) {
        self.reins.stop.store(true, Ordering::Relaxed);
    }
}
