//! One step of a round: the same call to many nodes at once.
//!
//! Locks: `paxos.answers`, taken for moments by completions (on the RPC runtime's thread) and by the one who waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Condvar, Mutex};
use rt::time::now;
use yfs_rpc::marshall::{Marshal, Unmarshal};
use yfs_rpc::{CallError, Handles, Procedure};

use crate::ranks;

type Answer<R> = Result<(i32, R), CallError>;

struct Answers<R> {
    got: Mutex<Vec<(String, Answer<R>)>>,
    /// Notified with each answer.
    more: Condvar,
}

/// Calls that are under way.
pub(crate) struct Calls<R> {
    answers: Arc<Answers<R>>,
    waiting: BTreeSet<String>,
    deadline: rt::time::Instant,
}

/// What the one who waits wants to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait on.
    More,
    /// The step has what it needs; give those still missing a moment.
    Enough,
    /// The step is over.
    Stop,
}

impl<R: Unmarshal + Send + 'static> Calls<R> {
    /// Sends the call to every one of `peers`. None of them is waited for longer than `total`.
    pub(crate) fn start<A: Marshal + Clone>(
        handles: &Handles,
        peers: &[String],
        procedure: Procedure<A, R>,
        args: &A,
        total: Duration,
    ) -> Self {
        let answers = Arc::new(Answers { got: Mutex::new(ranks::ANSWERS, Vec::new()), more: Condvar::new() });
        for peer in peers {
            let (answers, name) = (answers.clone(), peer.clone());
            let done = move |answer| {
                answers.got.lock().push((name, answer));
                answers.more.notify_one();
            };
            match handles.client(peer) {
                Ok(client) => client.call_async(procedure, args.clone(), total, done),
                Err(_) => done(Err(CallError::Bind)),
            }
        }
        Calls { answers, waiting: peers.iter().cloned().collect(), deadline: now() + total }
    }

    /// Hands each answer to `on_answer` until all are there, it says stop, or the time is up; once it has said enough,
    /// at most `grace` longer, and not for `unlikely` peers.
    pub(crate) fn wait(
        mut self,
        unlikely: &BTreeSet<String>,
        grace: Duration,
        mut on_answer: impl FnMut(&str, Answer<R>) -> Next,
    ) {
        let mut enough = false;
        loop {
            if self.waiting.is_empty() || (enough && self.waiting.is_subset(unlikely)) {
                return;
            }
            let arrived = {
                let mut got = self.answers.got.lock();
                while got.is_empty() {
                    if !self.answers.more.wait_until(&mut got, self.deadline) && got.is_empty() {
                        return;
                    }
                }
                std::mem::take(&mut *got)
            };
            for (peer, answer) in arrived {
                self.waiting.remove(&peer);
                match on_answer(&peer, answer) {
                    Next::Stop => return,
                    Next::Enough if !enough => {
                        enough = true;
                        self.deadline = self.deadline.min(now() + grace);
                    }
                    Next::Enough | Next::More => {}
                }
            }
        }
    }
}
