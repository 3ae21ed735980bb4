//! What a replicated server has: the log of operations, and what follows from it. Pure and deterministic.
//!
//! Invariants:
//! 1. Accounts and last answers follow from the log alone: who has the log has the same state.
//! 2. An operation of a client is executed once: its number tells it from those before, and its answer is kept until the
//!    client's next one.
//! 3. A state that arrives is only taken if its log gives the accounts that came with it.

use std::collections::BTreeMap;

use yfs_rpc::marshall::{UnmarshalError, decode, encode};

use crate::bank::{Accounts, Op};
use crate::file;
use crate::pb_protocol::Entry;

/// Operations that a log holds; it has to fit into one message.
pub const MAX_LOG: usize = 20_000;
/// Clients whose last answer is kept. Of more, the one that was silent longest is forgotten.
pub const MAX_CLIENTS: usize = 1000;

/// Why bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadState {
    /// They can't be read.
    Unreadable(UnmarshalError),
    /// An operation in the log can't be, or there are too many.
    Log,
    /// The accounts don't follow from the log.
    Accounts,
}

impl std::fmt::Display for BadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadState::Unreadable(error) => write!(f, "{error}"),
            BadState::Log => f.write_str("its log can't be executed"),
            BadState::Accounts => f.write_str("its accounts don't follow from its log"),
        }
    }
}

/// What was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Its place in the log, from 1.
    pub place: u64,
    /// What the client is told.
    pub answer: String,
    /// The line for the server's file: `17 transfer alice bob 5 -> 95 | alice 95, bob 105`.
    pub line: String,
}

/// What is known of a client's operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// It was executed, with this answer.
    Answered(String),
    /// A later one was executed.
    Stale,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    number: u64,
    place: u64,
    answer: String,
}

/// Log, accounts, last answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    log: Vec<Entry>,
    accounts: Accounts,
    last: BTreeMap<u64, Last>,
}

impl State {
    /// How many operations were executed.
    pub fn len(&self) -> u64 {
        self.log.len() as u64
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Whether the log holds no more.
    pub fn is_full(&self) -> bool {
        self.log.len() >= MAX_LOG
    }

    /// The accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The operation that was executed last.
    pub fn newest(&self) -> Option<&Entry> {
        self.log.last()
    }

    /// What is known of an operation.
    pub fn known(&self, client: u64, number: u64) -> Known {
        match self.last.get(&client) {
            Some(last) if last.number == number => Known::Answered(last.answer.clone()),
            Some(last) if last.number > number => Known::Stale,
            _ => Known::No,
        }
    }

    /// Executes an operation that isn't known yet; `None` if its words are none.
    pub fn execute(&mut self, entry: Entry) -> Option<Executed> {
        let op: Op = entry.op.parse().ok()?;
        let answer = self.accounts.apply(&op);
        let place = self.len() + 1;
        if self.last.len() >= MAX_CLIENTS && !self.last.contains_key(&entry.client) {
            let silent = self.last.iter().min_by_key(|(_, last)| last.place).map(|(client, _)| *client);
            silent.and_then(|client| self.last.remove(&client));
        }
        self.last.insert(entry.client, Last { number: entry.number, place, answer: answer.clone() });
        // As it is shown: an amount may have been spelt with any number of zeros.
        self.log.push(Entry { op: op.to_string(), ..entry });
        let accounts = self.accounts.to_string();
        let line = file::Entry { number: place, op, answer: answer.clone(), accounts }.to_string();
        Some(Executed { place, answer, line })
    }

    /// The complete state.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&(&self.log, self.accounts.to_string()))
    }

    /// Reads a complete state, by executing its log; and the lines of the file that belongs to it.
    ///
    /// # Errors
    /// [`BadState`].
    pub fn from_bytes(bytes: &[u8]) -> Result<(State, Vec<String>), BadState> {
        let (log, accounts): (Vec<Entry>, String) = decode(bytes).map_err(BadState::Unreadable)?;
        if log.len() > MAX_LOG {
            return Err(BadState::Log);
        }
        let (mut state, mut lines) = (State::default(), Vec::with_capacity(log.len()));
        for entry in log {
            if state.known(entry.client, entry.number) != Known::No {
                return Err(BadState::Log);
            }
            lines.push(state.execute(entry).ok_or(BadState::Log)?.line);
        }
        if state.accounts.to_string() != accounts {
            return Err(BadState::Accounts);
        }
        Ok((state, lines))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn entry(client: u64, number: u64, op: &str) -> Entry {
        Entry { client, number, op: op.to_owned() }
    }

    #[test]
    fn an_operation_is_logged_and_its_answer_kept_until_the_next_one() {
        let mut state = State::default();
        state.execute(entry(7, 1, "deposit alice 10")).unwrap();
        let done = state.execute(entry(7, 2, "transfer alice bob 4")).unwrap();
        assert_eq!(done.line, "2 transfer alice bob 4 -> 6 | alice 6, bob 4");
        assert_eq!(state.known(7, 2), Known::Answered("6".to_owned()));
        assert_eq!(state.known(7, 1), Known::Stale);
        assert_eq!((state.known(7, 3), state.known(8, 1)), (Known::No, Known::No));
        assert_eq!(state.execute(entry(7, 3, "steal alice 4")), None);
        assert_eq!(state.len(), 2);
        let first = State::default().execute(entry(7, 1, "read alice")).unwrap();
        assert_eq!(first.line, "1 read alice -> 0 |", "as in every server's file");
    }

    #[test]
    fn a_state_travels_whole_and_a_wrong_one_is_refused() {
        let mut state = State::default();
        for n in 1..9 {
            state.execute(entry(n % 3, n, "deposit alice 1")).unwrap();
        }
        let (copy, lines) = State::from_bytes(&state.to_bytes()).unwrap();
        assert_eq!(copy, state);
        assert_eq!(lines[7], "8 deposit alice 1 -> 8 | alice 8");
        let wrong = encode(&(&state.log, "alice 9"));
        assert_eq!(State::from_bytes(&wrong), Err(BadState::Accounts));
        let twice = encode(&(vec![entry(1, 1, "read a"), entry(1, 1, "read a")], ""));
        assert_eq!(State::from_bytes(&twice), Err(BadState::Log));
        assert!(matches!(State::from_bytes(&wrong[1..]), Err(BadState::Unreadable(_))));
    }

    #[test]
    fn answers_are_kept_for_so_many_clients() {
        let mut state = State::default();
        (0..=MAX_CLIENTS as u64).for_each(|client| drop(state.execute(entry(client, 1, "read a")).unwrap()));
        assert_eq!((state.known(0, 1), state.last.len()), (Known::No, MAX_CLIENTS));
        assert_ne!(state.known(1, 1), Known::No);
    }
}
