//! The bank's client (the lecture's `client.py`): sends operations, one after the other, and compares what it is answered.
//!
//! | it is given | what it does |
//! |---|---|
//! | servers ([`To::All`]) | sends each operation to all of them: the strawman. Who doesn't answer is left out from then on |
//! | one coordinator | the same, of one |
//! | coordinators ([`To::One`]) | sends each operation to one of them, and turns to the next one when that doesn't answer |
//!
//! Its operations follow from a seed, or are given; pauses are theirs. No threads, no locks.
//!
//! Left out: an operation that wasn't answered may have been executed, and `To::One` sends it again, to somebody else.

use std::fmt;
use std::time::Duration;

use crate::bank::Op;
use crate::peers::Peers;
use crate::protocol::{Ended, OPERATION};

/// How long a server may take; a coordinator waits for its servers meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// The customers.
const NAMES: [&str; 3] = ["alice", "bob", "carol"];

/// Who gets an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// All servers.
    All,
    /// The first one that answers, and that one again.
    One,
}

/// What a client is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers, or coordinators.
    pub servers: Vec<String>,
    /// Which of them get an operation.
    pub to: To,
}

/// Something that a client tells its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An operation was answered, by each server with the same.
    Agreed {
        /// The operation.
        op: Op,
        /// The answer.
        answer: String,
    },
    /// Servers answered differently. Only the first time is told.
    Differ {
        /// How many operations there were before, in this client.
        after: u64,
        /// The operation.
        op: Op,
        /// Servers, each with its answer.
        answers: Vec<(String, String)>,
    },
    /// A server doesn't answer, and is left out, or another one is turned to.
    Silent {
        /// The server.
        server: String,
        /// Why.
        why: String,
        /// Who is asked instead; `None`: the rest.
        instead: Option<String>,
    },
    /// A server answers that it won't. Told again only if it says something else.
    Refused {
        /// The server.
        server: String,
        /// What it says.
        why: String,
    },
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heard::Agreed { op, answer } => write!(f, "{op} -> {answer}"),
            Heard::Differ { after, op, answers } => {
                let answers: Vec<String> =
                    answers.iter().map(|(server, answer)| format!("{server}: {answer}")).collect();
                write!(f, "THE SERVERS DIFFER, after {after} operations: {op} -> {}", answers.join(" / "))
            }
            Heard::Silent { server, why, instead: None } => write!(f, "{server}: {why}: going on without it"),
            Heard::Silent { server, why, instead: Some(other) } => write!(f, "{server}: {why}: turning to {other}"),
            Heard::Refused { server, why } => write!(f, "{server} refuses: {why}"),
        }
    }
}

/// What a client did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Operations sent.
    pub sent: u64,
    /// Of these, answered by somebody.
    pub answered: u64,
    /// Of these, answered differently.
    pub differing: u64,
    /// Of those sent, refused.
    pub refused: u64,
    /// How often a server didn't answer.
    pub silent: u64,
    /// It ended because nobody answers.
    pub deserted: bool,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { sent, answered, differing, refused, .. } = self;
        write!(f, "{sent} operations sent, {answered} answered, {differing} of them differently, {refused} refused")
    }
}

/// Operations without end, the same for the same seed. With `bonus` some of them are left to chance.
pub fn operations(seed: u64, bonus: bool) -> impl Iterator<Item = Op> {
    let mut state = seed;
    let mut below = move |bound: u64| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(bits ^ (bits >> 31)) * u128::from(bound)) >> 64) as u64
    };
    std::iter::repeat_with(move || {
        let first = below(3) as usize;
        let [one, other] = [first, first + 1 + below(2) as usize].map(|at| NAMES[at % NAMES.len()].to_owned());
        // Accounts stay low: what is refused then depends on what came before.
        let (little, amount) = (5 * (1 + below(10)), 5 * (1 + below(20)));
        match below(if bonus { 10 } else { 8 }) {
            0..=2 => Op::Deposit(one, little),
            3..=4 => Op::Withdraw(one, amount),
            5..=6 => Op::Transfer(one, other, amount),
            7 => Op::Read(one),
            _ => Op::Bonus(one),
        }
    })
}

/// Sends operations until there are no more, or until no server is left; `hear` is told what is answered.
///
/// # Errors
/// Those of `hear`.
pub fn run<E>(
    peers: &Peers,
    options: &Options,
    operations: impl IntoIterator<Item = Op>,
    hear: impl FnMut(Heard) -> Result<(), E>,
) -> Result<Totals, E> {
    let Options { servers, to } = options;
    tracing::info!(node = peers.name(), kind = "start", servers = servers.join(" "), "client");
    let mut client = Client { peers, hear, servers: servers.clone(), totals: Totals::default(), refusal: None };
    for op in operations {
        client.totals.sent += 1;
        match to {
            To::All => client.send_to_all(op)?,
            To::One => client.send_to_one(op)?,
        }
        if client.servers.is_empty() {
            client.totals.deserted = true;
            break;
        }
    }
    Ok(client.totals)
}

struct Client<'a, F> {
    peers: &'a Peers,
    hear: F,
    /// Those that answer; of [`To::One`] the one that is asked first.
    servers: Vec<String>,
    totals: Totals,
    /// What was last refused, and why.
    refusal: Option<(String, String)>,
}

/// What one server made of an operation.
enum Answer {
    Executed(String),
    Refused(String),
    None(String),
}

impl<E, F: FnMut(Heard) -> Result<(), E>> Client<'_, F> {
    fn send_to_all(&mut self, op: Op) -> Result<(), E> {
        let mut answers = Vec::new();
        let mut refused = false;
        for server in self.servers.clone() {
            match self.ask(&server, &op) {
                Answer::Executed(answer) => answers.push((server, answer)),
                Answer::Refused(why) => {
                    refused = true;
                    self.refused(server, why)?;
                }
                Answer::None(why) => {
                    self.servers.retain(|other| *other != server);
                    self.silent(server, why, None)?;
                }
            }
        }
        self.totals.refused += u64::from(refused);
        self.answered(op, answers)
    }

    fn send_to_one(&mut self, op: Op) -> Result<(), E> {
        for _ in 0..self.servers.len() {
            let server = self.servers[0].clone();
            match self.ask(&server, &op) {
                Answer::Executed(answer) => return self.answered(op, vec![(server, answer)]),
                Answer::Refused(why) => {
                    self.totals.refused += 1;
                    return self.refused(server, why);
                }
                Answer::None(why) => {
                    self.servers.rotate_left(1);
                    let instead = self.servers.first().filter(|other| **other != server).cloned();
                    self.silent(server, why, instead)?;
                }
            }
        }
        self.servers.clear();
        Ok(())
    }

    fn ask(&self, server: &str, op: &Op) -> Answer {
        match self.peers.call(server, OPERATION, (op.to_string(),), PATIENCE) {
            Ok((status, answer)) if status == Ended::Executed as i32 => Answer::Executed(answer),
            Ok((_, why)) => Answer::Refused(why),
            Err(error) => Answer::None(error.to_string()),
        }
    }

    /// Compares the answers, and tells.
    fn answered(&mut self, op: Op, answers: Vec<(String, String)>) -> Result<(), E> {
        let Some((_, answer)) = answers.first().cloned() else { return Ok(()) };
        self.totals.answered += 1;
        if !differ(&answers) {
            return (self.hear)(Heard::Agreed { op, answer });
        }
        self.totals.differing += 1;
        match self.totals.differing {
            1 => (self.hear)(Heard::Differ { after: self.totals.sent - 1, op, answers }),
            _ => Ok(()),
        }
    }

    fn refused(&mut self, server: String, why: String) -> Result<(), E> {
        let refusal = Some((server.clone(), why.clone()));
        if self.refusal == refusal {
            return Ok(());
        }
        self.refusal = refusal;
        (self.hear)(Heard::Refused { server, why })
    }

    fn silent(&mut self, server: String, why: String, instead: Option<String>) -> Result<(), E> {
        tracing::warn!(node = self.peers.name(), kind = "fault", server, why, "silent");
        self.totals.silent += 1;
        (self.hear)(Heard::Silent { server, why, instead })
    }
}

/// Whether servers answered differently.
pub fn differ(answers: &[(String, String)]) -> bool {
    answers.windows(2).any(|two| two[0].1 != two[1].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared() {
        let answers = |texts: &[&str]| -> Vec<(String, String)> {
            texts.iter().enumerate().map(|(n, text)| (n.to_string(), (*text).to_owned())).collect()
        };
        for (texts, differs) in [
            (&[][..], false),
            (&["5"], false),
            (&["5", "5", "5"], false),
            (&["5", "6"], true),
            (&["5", "5", "refused: alice has 5"], true),
            (&["6", "5", "6"], true),
        ] {
            assert_eq!(differ(&answers(texts)), differs, "{texts:?}");
        }
    }

    #[test]
    fn operations_follow_from_the_seed() {
        let take = |seed| operations(seed, true).take(200).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert!(take(1).iter().any(|op| matches!(op, Op::Bonus(_))));
        assert!(operations(1, false).take(1000).all(|op| !matches!(op, Op::Bonus(_))));
        assert!(take(1).iter().all(|op| op.to_string().parse().as_ref() == Ok(op)));
    }

    #[test]
    fn what_a_client_hears_is_told_in_a_line() {
        let answers = vec![("5001".to_owned(), "5".to_owned()), ("5002".to_owned(), "7".to_owned())];
        let differ = Heard::Differ { after: 3, op: Op::Read("bob".to_owned()), answers };
        assert_eq!(differ.to_string(), "THE SERVERS DIFFER, after 3 operations: read bob -> 5001: 5 / 5002: 7");
    }
}
