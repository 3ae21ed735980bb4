//! Worker threads for handlers (lab: `thr_pool.h`).
//!
//! A pool has at most so many threads, started when there is work and nobody idle. Whoever adds work calls one thread,
//! unless one is on its way; who comes calls the next before starting, if there is more to do. So a burst costs its
//! sender one wake-up, and work that blocks keeps no other waiting while there are threads left.
//!
//! The queue has a soft bound: whoever adds work is told when the pool is full, and then stops reading from the
//! connection that brought the work. So it exceeds that bound by one request a connection. Connections come and go, and
//! leave their requests behind: beyond a hard bound nothing is added.
//!
//! Threads: named after the pool. Locks: `rpc.thr_pool` guards the queue; work runs with no lock held.

use std::collections::VecDeque;
use std::sync::Arc;

use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::{JoinHandle, Node};
use rt::time::Instant;

/// Requests that wait, and their bytes, before the pool counts as full.
const QUEUE_JOBS: usize = 1024;
const QUEUE_BYTES: usize = 64 << 20;
/// The same, and connections that wait for room, before nothing more may be added.
const MOST_JOBS: usize = 1 << 16;
const MOST_BYTES: usize = 256 << 20;
const STATE_RANK: Rank = Rank::new(115, "rpc.thr_pool");

struct Job {
    bytes: usize,
    work: Box<dyn FnOnce() + Send>,
}

struct State {
    queue: VecDeque<Job>,
    queued_bytes: usize,
    /// Threads that wait for work.
    idle: usize,
    /// A thread was called, or started, and hasn't come yet.
    coming: bool,
    threads: Vec<JoinHandle>,
    /// Called once when the queue has drained after it was full.
    on_room: Vec<Box<dyn FnOnce() + Send>>,
    stopping: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_JOBS || self.queued_bytes >= QUEUE_BYTES
    }

    fn is_overfull(&self) -> bool {
        self.queue.len().max(self.on_room.len()) >= MOST_JOBS || self.queued_bytes >= MOST_BYTES
    }

    fn has_drained(&self) -> bool {
        self.queue.len() <= QUEUE_JOBS / 2 && self.queued_bytes <= QUEUE_BYTES / 2
    }
}

struct Shared {
    name: &'static str,
    node: Node,
    max_threads: usize,
    state: Mutex<State>,
    /// Notified when work is queued, and when the pool stops.
    work: Condvar,
}

/// Threads that run what they are given, in order of arrival.
pub(crate) struct ThrPool(Arc<Shared>);

impl ThrPool {
    pub(crate) fn new(name: &'static str, node: Node, max_threads: usize) -> Self {
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            idle: 0,
            coming: false,
            threads: Vec::new(),
            on_room: Vec::new(),
            stopping: false,
        };
        ThrPool(Arc::new(Shared {
            name,
            node,
            max_threads,
            state: Mutex::new(STATE_RANK, state),
            work: Condvar::new(),
        }))
    }

    /// Queues work that holds `bytes` of memory. After `stop` it is dropped.
    pub(crate) fn add(&self, bytes: usize, work: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        if state.stopping {
            return;
        }
        state.queue.push_back(Job { bytes, work: Box::new(work) });
        state.queued_bytes += bytes;
        let call = self.0.wants_worker(&mut state);
        drop(state);
        if call {
            self.0.work.notify_one();
        }
    }

    /// Whether nothing may be added now.
    pub(crate) fn is_overfull(&self) -> bool {
        self.0.state.lock().is_overfull()
    }

    /// If the pool is full, has `resume` called when it no longer is, and returns true.
    pub(crate) fn wait_for_room(&self, resume: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.0.state.lock();
        let full = state.is_full() && !state.stopping;
        if full {
            state.on_room.push(Box::new(resume));
        }
        full
    }

    /// Drops what is queued and lets the threads end after what they are doing.
    pub(crate) fn stop(&self) {
        let dropped = {
            let mut state = self.0.state.lock();
            state.stopping = true;
            state.on_room.clear();
            std::mem::take(&mut state.queue)
        };
        drop(dropped);
        self.0.work.notify_all();
    }

    /// Waits for the threads to end, after `stop`. False if some still run at the deadline. Not to be called on one of them.
    pub(crate) fn join_until(&self, deadline: Instant) -> bool {
        let threads = std::mem::take(&mut self.0.state.lock().threads);
        threads.iter().all(|thread| thread.join_until(deadline))
    }
}

impl Shared {
    /// Sees to it that somebody does what is queued. True if one of those who wait is to be called.
    fn wants_worker(self: &Arc<Self>, state: &mut State) -> bool {
        if state.coming || state.queue.is_empty() {
            return false;
        }
        if state.idle > 0 {
            state.coming = true;
            return true;
        }
        if state.threads.len() < self.max_threads {
            let shared = self.clone();
            match self.node.spawn(self.name, move || worker_thread_main(&shared)) {
                Ok(thread) => {
                    state.threads.push(thread);
                    state.coming = true;
                }
                // The threads that there are do the work; with none at all the next request tries again.
                Err(error) => tracing::warn!(%error, pool = self.name, "no thread to be had"),
            }
        }
        false
    }
}

fn worker_thread_main(shared: &Arc<Shared>) {
    let mut state = shared.state.lock();
    state.coming = false;
    while !state.stopping {
        let Some(job) = state.queue.pop_front() else {
            state.idle += 1;
            shared.work.wait(&mut state);
            state.idle -= 1;
            state.coming = false;
            continue;
        };
        state.queued_bytes -= job.bytes;
        let call = shared.wants_worker(&mut state);
        let resumed = if state.has_drained() { std::mem::take(&mut state.on_room) } else { Vec::new() };
        drop(state);
        if call {
            shared.work.notify_one();
        }
        for resume in resumed {
            resume();
        }
        (job.work)();
        state = shared.state.lock();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rt::thread::Node;
    use rt::time::now;

    use super::*;

    #[test]
    fn a_pool_is_full_before_it_is_overfull() {
        let pool = ThrPool::new("test.pool", Node::current(), 0);
        assert!(!pool.wait_for_room(|| {}));
        pool.add(QUEUE_BYTES, || {});
        assert!(pool.wait_for_room(|| {}) && !pool.is_overfull());
        (1..4).for_each(|_| pool.add(QUEUE_BYTES, || {}));
        assert!(pool.is_overfull(), "of bytes");

        let pool = ThrPool::new("test.pool", Node::current(), 0);
        (1..MOST_JOBS).for_each(|_| pool.add(1, || {}));
        assert!(pool.wait_for_room(|| {}) && !pool.is_overfull());
        pool.add(1, || {});
        assert!(pool.is_overfull(), "of jobs");
        pool.stop();
        assert!(pool.join_until(now() + Duration::from_secs(10)));
    }
}
