//! One lock as a caching client sees it; pure. The states are the lab's: NONE, FREE, LOCKED, ACQUIRING, RELEASING.
//!
//! ```text
//!           want                     Granted                 release
//!   None ---------> Asking -------------------------> Locked -------> Free   (cached: want locks it again)
//!     ^              ^  |  |                            ^ |   <------
//!     |  hint, time  |  |  | NoAnswer                   | | release after a revoke, or
//!     |              |  v  +--> Doubt --+               | | revoke while Free
//!     |             Queued --+          | nobody wants  | v
//!     +----------------------+----------+------------> Releasing
//!              given back
//! ```
//! Asking, Queued and Doubt are the lab's ACQUIRING: a request is under way; the service said RETRY, so this client is in
//! its queue; it isn't known what the service did, since nobody answered.
//!
//! One local thread at a time is the *asker*: it calls the service, or waits for a retry. The others wait for their turn.
//!
//! # Invariants
//! 1. Only the answer OK to an acquire leads to Locked; from there on to Free, and nothing but [`CachedLock::release`],
//!    by the holder, leads away from Locked. Hints never do: they raise a flag (H7).
//! 2. The service is asked with a new xid, but from Doubt: there with the same, so that it gives the same answer if it has
//!    answered already.
//! 3. Whatever the service may think to be this client's (granted, queued, in doubt) is either wanted by a local thread,
//!    cached, or on its way back.
//! 4. There is an asker in Asking, and none in None, Free, Locked, Doubt, Releasing.
//! 5. Revoked locks go back to the service when their holder releases them, though other local threads wait: they go
//!    through the service again.
//! 6. At most [`OVERTAKES`] local newcomers get a cached lock before one that waits.

#[cfg(test)]
mod tests;

use std::time::Duration;

use rt::time::Instant;

use crate::lock_protocol::Xid;

/// How long a queued client waits for a retry until it asks by itself, at first and at most.
pub const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// How many newcomers may overtake waiting threads of the same client.
pub const OVERTAKES: u8 = 16;

/// What the service said to an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// OK.
    Granted,
    /// RETRY.
    Queued,
    /// It didn't execute the acquire and never will.
    Refused,
    /// It wasn't asked: this call was not executed. An earlier one with the same xid may have been.
    NotAsked,
    /// Nothing: it may have done anything.
    NoAnswer,
}

/// What a thread that wants the lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has just come.
    Newcomer,
    /// It has waited for its turn.
    Waiting,
    /// It asks the service.
    Asker,
}

/// What a thread that wants the lock has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it has the lock.
    Taken,
    /// Be the asker, call acquire with this xid, then [`CachedLock::answered`].
    Ask(Xid),
    /// Be the asker, wait for a retry, at most until then.
    AwaitHint(Instant),
    /// Wait for its turn.
    AwaitTurn,
    /// Give up: there are no more xids.
    NoXid,
}

/// What else has to be done after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Wake one thread that waits for its turn.
    WakeWaiting,
    /// Wake the asker.
    WakeAsker,
    /// Have the releaser call release with this xid, then [`CachedLock::given_back`].
    GiveBack(Xid),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    None,
    /// `again`: nobody answered an earlier call with this xid.
    Asking {
        xid: Xid,
        again: bool,
    },
    Queued {
        xid: Xid,
        poll_at: Instant,
    },
    Doubt {
        xid: Xid,
    },
    Free {
        xid: Xid,
    },
    Locked {
        xid: Xid,
    },
    Releasing {
        xid: Xid,
        was_held: bool,
    },
}

/// A lock.
#[derive(Clone, Debug)]
pub struct CachedLock {
    phase: Phase,
    /// There is an asker.
    asker: bool,
    /// A retry came for the acquire under way or queued.
    retry: bool,
    /// The service wants the lock back.
    revoked: bool,
    /// Polls since the last grant.
    polls: u32,
    /// Local threads that wait for their turn.
    waiting: u32,
    /// Newcomers that got the lock though others wait.
    overtakes: u8,
    /// The last acquire that was given up without an answer. A copy of it may be executed behind the release that ended
    /// it, as long as no later acquire was answered.
    given_up: Option<Xid>,
}

impl Default for CachedLock {
    fn default() -> Self {
        CachedLock {
            phase: Phase::None,
            asker: false,
            retry: false,
            revoked: false,
            polls: 0,
            waiting: 0,
            overtakes: 0,
            given_up: None,
        }
    }
}

impl CachedLock {
    /// A thread wants the lock. `next_xid` is called if the service is asked anew.
    pub fn want(&mut self, role: Role, now: impl FnOnce() -> Instant, next_xid: impl FnOnce() -> Option<Xid>) -> Next {
        match self.phase {
            Phase::Free { xid } => {
                if role == Role::Newcomer && self.waiting > 0 {
                    if self.overtakes >= OVERTAKES {
                        return Next::AwaitTurn;
                    }
                    self.overtakes += 1;
                } else {
                    self.overtakes = 0;
                }
                self.phase = Phase::Locked { xid };
                Next::Taken
            }
            Phase::None => self.ask_anew(next_xid()),
            // The flags stay: they are about the same acquire.
            Phase::Doubt { xid } => self.ask(xid, true),
            Phase::Queued { xid, poll_at } if role == Role::Asker || !self.asker => {
                if self.retry && rt::probe::weakened("H7-retry-grants") {
                    (self.phase, self.asker) = (Phase::Locked { xid }, false);
                    return Next::Taken;
                }
                if self.retry || now() >= poll_at {
                    return self.ask_anew(next_xid());
                }
                self.asker = true;
                Next::AwaitHint(poll_at)
            }
            Phase::Queued { .. } | Phase::Asking { .. } | Phase::Locked { .. } | Phase::Releasing { .. } => {
                Next::AwaitTurn
            }
        }
    }

    fn ask_anew(&mut self, xid: Option<Xid>) -> Next {
        let Some(xid) = xid else { return Next::NoXid };
        (self.retry, self.revoked) = (false, false);
        self.ask(xid, false)
    }

    fn ask(&mut self, xid: Xid, again: bool) -> Next {
        self.phase = Phase::Asking { xid, again };
        self.asker = true;
        Next::Ask(xid)
    }

    /// A thread begins to wait for its turn.
    pub fn begin_wait(&mut self) {
        self.waiting += 1;
    }

    /// It has ended to wait, woken or not. It calls [`CachedLock::want`] next.
    pub fn end_wait(&mut self) {
        assert!(self.waiting > 0, "nobody waits");
        self.waiting -= 1;
    }

    /// The service answered the asker's call, or didn't. After `Granted` the asker has the lock; after `Queued` it is the
    /// asker still, and calls [`CachedLock::want`]; after the others it is no longer, and gives up.
    pub fn answered(&mut self, answer: Answer, now: Instant) -> Then {
        let Phase::Asking { xid, again } = self.phase else { panic!("invariant 4: an answer in {:?}", self.phase) };
        assert!(self.asker, "invariant 4: an answer without an asker");
        match answer {
            Answer::Granted => {
                self.phase = Phase::Locked { xid };
                (self.asker, self.polls, self.given_up) = (false, 0, None);
                Then::Nothing
            }
            Answer::Queued => {
                let (first, most) = POLL;
                let pause = first.saturating_mul(1 << self.polls.min(8)).min(most);
                self.polls = self.polls.saturating_add(1);
                // The retry flag stays: the hint may have been faster than the answer.
                self.given_up = None;
                self.phase = Phase::Queued { xid, poll_at: now + pause };
                Then::Nothing
            }
            Answer::NotAsked if !again => self.refused(),
            Answer::Refused => self.refused(),
            Answer::NotAsked | Answer::NoAnswer => {
                self.phase = Phase::Doubt { xid };
                self.asker = false;
                self.abandon()
            }
        }
    }

    fn refused(&mut self) -> Then {
        self.phase = Phase::None;
        (self.asker, self.polls) = (false, 0);
        self.wake_next()
    }

    /// A thread stops wanting the lock, without having it. One that waited has called [`CachedLock::end_wait`].
    pub fn give_up(&mut self, role: Role) -> Then {
        if role == Role::Asker {
            assert!(matches!(self.phase, Phase::Queued { .. }), "invariant 4: the asker gives up in {:?}", self.phase);
            self.asker = false;
        }
        // What this thread was woken for, another must see to.
        self.abandon()
    }

    /// The lock is queued or in doubt, perhaps without an asker: another thread must go on, or it must go back.
    fn abandon(&mut self) -> Then {
        match self.phase {
            Phase::Queued { xid, .. } if !self.asker && self.waiting == 0 => self.back(xid, false),
            Phase::Doubt { xid } if self.waiting == 0 => {
                self.given_up = Some(xid);
                self.back(xid, false)
            }
            _ => self.wake_next(),
        }
    }

    /// The holder releases the lock. `cache`: whether it may stay here.
    ///
    /// # Errors
    /// If no local thread has the lock.
    pub fn release(&mut self, cache: bool) -> Result<Then, NotHeld> {
        let Phase::Locked { xid } = self.phase else { return Err(NotHeld) };
        // With threads that wait it stays all the same: they would ask for it at once.
        if self.revoked || (!cache && self.waiting == 0) {
            return Ok(self.back(xid, true));
        }
        self.phase = Phase::Free { xid };
        Ok(self.wake_next())
    }

    /// The service wants the lock back, says somebody.
    pub fn revoke(&mut self, about: Xid) -> Then {
        match self.phase {
            Phase::Free { xid } if concerns(about, xid) => return self.back(xid, true),
            Phase::Locked { xid } if concerns(about, xid) && rt::probe::weakened("H7-revoke-takes") => {
                return self.back(xid, true);
            }
            // What was given up came to life. Should the hint be wrong, then the release changes nothing.
            Phase::None if self.given_up.is_some_and(|last| about <= last) => {
                return self.given_up.map_or(Then::Nothing, |last| self.back(last, false));
            }
            Phase::Locked { xid } | Phase::Asking { xid, .. } | Phase::Doubt { xid } if concerns(about, xid) => {
                self.revoked = true
            }
            _ => {}
        }
        Then::Nothing
    }

    /// It's worth to ask again, says somebody.
    pub fn retry(&mut self, about: Xid) -> Then {
        match self.phase {
            Phase::Asking { xid, .. } | Phase::Queued { xid, .. } | Phase::Doubt { xid } if concerns(about, xid) => {
                self.retry = true;
                if self.asker { Then::WakeAsker } else { Then::Nothing }
            }
            _ => Then::Nothing,
        }
    }

    /// The client shuts down, and no thread of its uses the lock: what is cached, held or abandoned goes back.
    pub fn close(&mut self) -> Then {
        match self.phase {
            Phase::Free { xid } | Phase::Locked { xid } => self.back(xid, true),
            Phase::Queued { xid, .. } | Phase::Doubt { xid } => {
                self.asker = false;
                self.back(xid, false)
            }
            Phase::None | Phase::Asking { .. } | Phase::Releasing { .. } => Then::Nothing,
        }
    }

    fn back(&mut self, xid: Xid, was_held: bool) -> Then {
        self.phase = Phase::Releasing { xid, was_held };
        self.revoked = false;
        Then::GiveBack(xid)
    }

    /// Whether the lock that is going back was really this client's: then its user is told before.
    pub fn was_held(&self) -> bool {
        matches!(self.phase, Phase::Releasing { was_held: true, .. })
    }

    /// The service has executed the release.
    pub fn given_back(&mut self) -> Then {
        assert!(matches!(self.phase, Phase::Releasing { .. }), "given back in {:?}", self.phase);
        self.phase = Phase::None;
        self.polls = 0;
        self.wake_next()
    }

    /// Whether a local thread has the lock.
    pub fn is_locked(&self) -> bool {
        matches!(self.phase, Phase::Locked { .. })
    }

    /// Whether the lock is cached and free.
    pub fn is_free(&self) -> bool {
        matches!(self.phase, Phase::Free { .. })
    }

    /// Whether the lock is on its way back to the service.
    pub fn is_releasing(&self) -> bool {
        matches!(self.phase, Phase::Releasing { .. })
    }

    /// Whether nothing would be lost by forgetting the lock.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::None && self.waiting == 0 && self.given_up.is_none()
    }

    /// Wakes one that waits, if it could do something.
    fn wake_next(&self) -> Then {
        let can_move = match self.phase {
            Phase::None | Phase::Free { .. } | Phase::Doubt { .. } => true,
            Phase::Queued { .. } => !self.asker,
            Phase::Asking { .. } | Phase::Locked { .. } | Phase::Releasing { .. } => false,
        };
        if can_move && self.waiting > 0 { Then::WakeWaiting } else { Then::Nothing }
    }
}

/// No local thread has the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no thread of this client has the lock")]
pub struct NotHeld;

/// Whether a hint is about the acquire with this xid. Some lab servers send 0 always, which is never one of ours.
fn concerns(hint: Xid, xid: Xid) -> bool {
    hint == xid || hint == Xid(0)
}
