//! A client's session with the service, as the client keeps it: who of its threads has which number under way.
//!
//! Invariants:
//! 1. A number is given to one call, and goes with each copy of that call's request. The service knows copies by it alone.
//! 2. What is said to be answered is at most the lowest number under way: no call under way loses its reply. Each copy says
//!    what it is by then: the service, when it has no room for replies, goes on with the lowest number only, and must hear
//!    which that is.
//! 3. What was given up without an answer is told with each later request until one of these has an answer: then it won't
//!    be executed any more.
//! 4. No number is given that the service would refuse as too far ahead.
//!
//! Lock: `rsm_client.session` guards it, and is held across no call.

use std::collections::BTreeSet;

use rt::sync::{Condvar, Mutex, Rank};
use rt::time::Instant;

use crate::protocol::SessionId;
use crate::sessions::WINDOW;

const SESSION_RANK: Rank = Rank::new(68, "rsm_client.session");

/// A call's place in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) session: SessionId,
    pub(crate) seq: u64,
    /// Below which number the client has all answers, as of the copy sent last.
    pub(crate) answered: u64,
    /// What was given up from there on before the ticket was given.
    pub(crate) given_up: Vec<u64>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer.
    Answered,
    /// Without one, and nothing was sent that could still be executed.
    Unsent,
    /// Without one.
    GivenUp,
}

#[derive(Debug, Default)]
struct State {
    session: Option<SessionId>,
    /// Somebody is opening one.
    opening: bool,
    next: u64,
    under_way: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
}

/// Shared by the threads of a client.
pub(crate) struct ClientSession {
    state: Mutex<State>,
    /// Notified when a session was opened, or could not be, or has ended; and when a call has.
    cond: Condvar,
}

impl ClientSession {
    pub(crate) fn new() -> Self {
        ClientSession { state: Mutex::new(SESSION_RANK, State::default()), cond: Condvar::new() }
    }

    /// A place for a call. Opens a session with `open` if there is none, one thread at a time. `Ok(None)`: not by
    /// `deadline`.
    ///
    /// # Errors
    /// That of `open`.
    pub(crate) fn ticket<E>(
        &self,
        deadline: Instant,
        open: impl Fn() -> Result<SessionId, E>,
    ) -> Result<Option<Ticket>, E> {
        let mut state = self.state.lock();
        loop {
            match state.session {
                Some(session) => {
                    let seq = state.next;
                    let answered = state.under_way.first().copied().unwrap_or(seq);
                    if seq - answered < WINDOW {
                        state.next += 1;
                        state.under_way.insert(seq);
                        state.given_up = state.given_up.split_off(&answered);
                        let given_up = state.given_up.iter().copied().collect();
                        return Ok(Some(Ticket { session, seq, answered, given_up }));
                    }
                }
                None if !state.opening => {
                    state.opening = true;
                    drop(state);
                    let opened = open();
                    state = self.state.lock();
                    state.opening = false;
                    self.cond.notify_all();
                    *state = State { session: Some(opened?), ..State::default() };
                    continue;
                }
                None => {}
            }
            if !self.cond.wait_until(&mut state, deadline) {
                return Ok(None);
            }
        }
    }

    /// Another copy of a call's request is about to be sent: says in it what is answered by now.
    ///
    /// That is safe. The call is under way until [`ClientSession::ended`], and so are those of other threads: what is
    /// answered is at most the lowest of their numbers. It only grows, for a number comes under way above all that were:
    /// a copy that is late says less than the service may know, never more. The service tells copies apart by session and
    /// number alone, so that they differ doesn't matter; copies that rpc makes of one call of its own don't differ.
    ///
    /// What was given up since is left to the calls that came since: whoever gives a call up and undoes it does so by a
    /// later one. So no copy is longer than the first: none is refused for its size of which an earlier one was executed.
    pub(crate) fn renew(&self, ticket: &mut Ticket) {
        let state = self.state.lock();
        if state.session == Some(ticket.session)
            && let Some(&lowest) = state.under_way.first()
        {
            ticket.answered = lowest;
            ticket.given_up.retain(|number| *number >= lowest);
        }
    }

    /// A call has its answer, or is given up: the service may forget its reply, and refuses copies of it.
    pub(crate) fn ended(&self, ticket: &Ticket, how: Ended) {
        let mut state = self.state.lock();
        if state.session == Some(ticket.session) {
            state.under_way.remove(&ticket.seq);
            match how {
                Ended::Answered => state.given_up.retain(|number| !ticket.given_up.contains(number)),
                Ended::Unsent => {}
                Ended::GivenUp => {
                    state.given_up.insert(ticket.seq);
                }
            }
            self.cond.notify_all();
        }
    }

    /// The service has dropped a session: calls that come next open another one.
    pub(crate) fn expired(&self, session: SessionId) {
        let mut state = self.state.lock();
        if state.session == Some(session) {
            *state = State::default();
            self.cond.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FIRST: SessionId = SessionId { number: 1, owner: 7 };
    const SECOND: SessionId = SessionId { number: 2, owner: 7 };

    fn ticket(calls: &ClientSession, opened: SessionId) -> Option<Ticket> {
        let deadline = rt::time::now() + Duration::from_millis(10);
        calls.ticket(deadline, || Ok::<_, ()>(opened)).expect("it opens")
    }

    #[test]
    fn what_is_answered_is_below_all_that_is_under_way() {
        let calls = ClientSession::new();
        let tickets: Vec<_> = (0..3).filter_map(|_| ticket(&calls, FIRST)).collect();
        assert_eq!(tickets.iter().map(|t| (t.seq, t.answered)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0)]);
        calls.ended(&tickets[1], Ended::Answered);
        assert_eq!(ticket(&calls, SECOND), Some(Ticket { session: FIRST, seq: 3, answered: 0, given_up: Vec::new() }));
        calls.ended(&tickets[0], Ended::Answered);
        assert_eq!(ticket(&calls, SECOND), Some(Ticket { session: FIRST, seq: 4, answered: 2, given_up: Vec::new() }));
    }

    #[test]
    fn each_copy_says_what_is_answered_by_then() {
        let calls = ClientSession::new();
        let lost = ticket(&calls, FIRST).expect("it opens");
        let slow = ticket(&calls, FIRST).expect("it opens");
        let given_up = ticket(&calls, FIRST).expect("it opens");
        calls.ended(&given_up, Ended::GivenUp);
        let mut last = ticket(&calls, FIRST).expect("it opens");
        assert_eq!((last.seq, last.answered, &last.given_up), (3, 0, &vec![2]));
        calls.ended(&lost, Ended::GivenUp);
        calls.renew(&mut last);
        assert_eq!((last.seq, last.answered, &last.given_up), (3, 1, &vec![2]));
        calls.ended(&slow, Ended::Answered);
        let next = ticket(&calls, FIRST);
        assert_eq!(next.map(|t| (t.seq, t.answered)), Some((4, 3)));
        calls.renew(&mut last);
        assert_eq!((last.seq, last.answered, &last.given_up), (3, 3, &Vec::new()));
        // Another session has other numbers.
        calls.expired(FIRST);
        let mut other = ticket(&calls, SECOND).expect("it opens");
        calls.renew(&mut last);
        assert_eq!((last.seq, last.answered), (3, 3));
        calls.renew(&mut other);
        assert_eq!((other.seq, other.answered), (0, 0));
    }

    #[test]
    fn a_call_waits_for_the_window() {
        let calls = ClientSession::new();
        let first = ticket(&calls, FIRST).expect("there is room");
        for _ in 1..WINDOW {
            calls.ended(&ticket(&calls, FIRST).expect("there is room"), Ended::Answered);
        }
        assert_eq!(ticket(&calls, FIRST), None);
        calls.ended(&first, Ended::Answered);
        assert_eq!(
            ticket(&calls, FIRST),
            Some(Ticket { session: FIRST, seq: WINDOW, answered: WINDOW, given_up: Vec::new() })
        );
    }

    #[test]
    fn what_ends_late_changes_nothing_in_the_next_session() {
        let calls = ClientSession::new();
        let late = ticket(&calls, FIRST).expect("there is room");
        calls.expired(FIRST);
        let next = ticket(&calls, SECOND);
        assert_eq!(next, Some(Ticket { session: SECOND, seq: 0, answered: 0, given_up: Vec::new() }));
        calls.ended(&late, Ended::GivenUp);
        calls.expired(FIRST);
        assert_eq!(ticket(&calls, FIRST), Some(Ticket { session: SECOND, seq: 1, answered: 0, given_up: Vec::new() }));
    }

    #[test]
    fn a_session_that_does_not_open_is_tried_again() {
        let calls = ClientSession::new();
        let deadline = rt::time::now() + Duration::from_millis(10);
        assert_eq!(calls.ticket(deadline, || Err("closed")), Err("closed"));
        assert!(ticket(&calls, FIRST).is_some());
    }

    #[test]
    fn what_is_given_up_is_told_until_somebody_has_heard() {
        let calls = ClientSession::new();
        let (slow, lost) = (ticket(&calls, FIRST).expect("it opens"), ticket(&calls, FIRST).expect("it opens"));
        let unsent = ticket(&calls, FIRST).expect("it opens");
        calls.ended(&lost, Ended::GivenUp);
        calls.ended(&unsent, Ended::Unsent);
        let (next, other) = (ticket(&calls, FIRST).expect("it opens"), ticket(&calls, FIRST).expect("it opens"));
        assert_eq!((&next.given_up, &other.given_up), (&vec![1], &vec![1]));
        calls.ended(&other, Ended::GivenUp);
        calls.ended(&next, Ended::Answered);
        assert_eq!(ticket(&calls, FIRST).map(|t| t.given_up), Some(vec![4]));
        // What lies below what is answered is refused anyway.
        calls.ended(&slow, Ended::Answered);
        assert_eq!(ticket(&calls, FIRST).map(|t| (t.answered, t.given_up)), Some((5, Vec::new())));
    }
}
