//! The bank: accounts, the operations on them, and what each answers. Pure and deterministic.
//!
//! Operations travel, and are logged, as the words that a reader sees: `transfer alice bob 5`. What isn't deterministic is
//! not done here: a `bonus` has to be drawn by whoever gives operations their order, and is a deposit from then on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Accounts' names have so many letters at most.
pub const MAX_NAME_BYTES: usize = 32;
/// So many accounts at most: each line of a server's file shows all of them.
pub const MAX_ACCOUNTS: usize = 100;
/// The largest bonus.
pub const MAX_BONUS: u64 = 20;

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Puts money into an account, which is opened if it isn't there.
    Deposit(String, u64),
    /// Takes money out of an account that has so much.
    Withdraw(String, u64),
    /// Takes money out of the first account, if that has so much, and puts it into the second one.
    Transfer(String, String, u64),
    /// Answers with what is in an account.
    Read(String),
    /// A deposit of a random amount: the server without replicas draws it itself; a replica would draw another one.
    Bonus(String),
}

/// A line that is no operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoOp(String);

impl fmt::Display for NoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no operation: deposit NAME AMOUNT, withdraw NAME AMOUNT, transfer FROM TO AMOUNT, read NAME, \
             bonus NAME; a NAME is 1 to {MAX_NAME_BYTES} letters a-z, A-Z and digits, an AMOUNT a whole number up to {}",
            self.0,
            u64::MAX
        )
    }
}

impl std::error::Error for NoOp {}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Deposit(name, amount) => write!(f, "deposit {name} {amount}"),
            Op::Withdraw(name, amount) => write!(f, "withdraw {name} {amount}"),
            Op::Transfer(from, to, amount) => write!(f, "transfer {from} {to} {amount}"),
            Op::Read(name) => write!(f, "read {name}"),
            Op::Bonus(name) => write!(f, "bonus {name}"),
        }
    }
}

impl FromStr for Op {
    type Err = NoOp;

    fn from_str(text: &str) -> Result<Op, NoOp> {
        let refused = || NoOp(text.chars().take(80).collect());
        let name = |word: &str| {
            let good = (1..=MAX_NAME_BYTES).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric());
            good.then(|| word.to_owned()).ok_or_else(refused)
        };
        let amount = |word: &str| word.parse().map_err(|_| refused());
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["deposit", account, sum] => Ok(Op::Deposit(name(account)?, amount(sum)?)),
            ["withdraw", account, sum] => Ok(Op::Withdraw(name(account)?, amount(sum)?)),
            ["transfer", from, to, sum] => Ok(Op::Transfer(name(from)?, name(to)?, amount(sum)?)),
            ["read", account] => Ok(Op::Read(name(account)?)),
            ["bonus", account] => Ok(Op::Bonus(name(account)?)),
            _ => Err(refused()),
        }
    }
}

impl Op {
    /// The operation with its chance taken out: what all replicas are to execute.
    #[must_use]
    pub fn drawn(self, amount: impl FnOnce() -> u64) -> Op {
        match self {
            Op::Bonus(name) => Op::Deposit(name, amount()),
            other => other,
        }
    }
}

/// The state of the bank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts(BTreeMap<String, u64>);

impl Accounts {
    /// Executes an operation, and says what came of it: the new balance of the account that it names first, or why not.
    pub fn apply(&mut self, op: &Op) -> String {
        match op {
            Op::Deposit(name, amount) => self.put(name, *amount),
            Op::Withdraw(name, amount) => self.take(name, *amount),
            Op::Transfer(from, to, amount) => {
                if let Err(refused) = self.room_for(to, *amount) {
                    return refused;
                }
                let answer = self.take(from, *amount);
                if !answer.starts_with("refused") {
                    self.put(to, *amount);
                }
                if from == to { self.balance(from).to_string() } else { answer }
            }
            Op::Read(name) => self.balance(name).to_string(),
            Op::Bonus(_) => "refused: a bonus has to be drawn first".to_owned(),
        }
    }

    /// What is in an account; nothing if it isn't there.
    pub fn balance(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// What would be in an account with so much more, or why that can't be.
    fn room_for(&self, name: &str, amount: u64) -> Result<u64, String> {
        if self.0.len() >= MAX_ACCOUNTS && !self.0.contains_key(name) {
            return Err(format!("refused: {name} would be one account too many, there are {MAX_ACCOUNTS}"));
        }
        self.balance(name).checked_add(amount).ok_or_else(|| format!("refused: {name} can't hold so much"))
    }

    fn put(&mut self, name: &str, amount: u64) -> String {
        match self.room_for(name, amount) {
            Ok(balance) => {
                self.0.insert(name.to_owned(), balance);
                balance.to_string()
            }
            Err(refused) => refused,
        }
    }

    fn take(&mut self, name: &str, amount: u64) -> String {
        let balance = self.balance(name);
        let Some(left) = balance.checked_sub(amount) else { return format!("refused: {name} has {balance}") };
        // Nothing can be taken out of an account that isn't there, and doesn't open it.
        self.0.get_mut(name).into_iter().for_each(|account| *account = left);
        left.to_string()
    }
}

/// All accounts, in the order of their names: `alice 5, bob 7`.
impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts: Vec<String> = self.0.iter().map(|(name, balance)| format!("{name} {balance}")).collect();
        f.write_str(&accounts.join(", "))
    }
}

/// Reads what [`Accounts`] is shown as.
impl FromStr for Accounts {
    type Err = NoOp;

    fn from_str(text: &str) -> Result<Accounts, NoOp> {
        let refused = || NoOp(text.chars().take(80).collect());
        let mut accounts = Accounts::default();
        for account in text.split(", ").filter(|account| !account.is_empty()) {
            let (name, balance) = account.split_once(' ').ok_or_else(refused)?;
            let Ok(op @ Op::Deposit(..)) = format!("deposit {name} {balance}").parse() else { return Err(refused()) };
            if accounts.apply(&op) != balance {
                return Err(refused());
            }
        }
        Ok(accounts)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_they_are_shown() {
        for text in ["deposit alice 5", "withdraw alice 5", "transfer alice bob 5", "read alice", "bonus bob"] {
            assert_eq!(text.parse::<Op>().unwrap().to_string(), text);
        }
        for text in
            ["", "deposit", "deposit alice -5", "read alice bob", "read a/b", "Read alice", "read  alice", "read a\n"]
        {
            assert!(text.parse::<Op>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn money_is_neither_made_nor_lost_by_transfers_and_refusals() {
        let mut accounts = Accounts::default();
        let mut does = |text: &str| accounts.apply(&text.parse().unwrap());
        assert_eq!(does("deposit alice 10"), "10");
        assert_eq!(does("transfer alice bob 4"), "6");
        assert_eq!(does("transfer alice bob 7"), "refused: alice has 6");
        assert_eq!(does("transfer alice alice 6"), "6");
        assert_eq!(does("withdraw carol 1"), "refused: carol has 0");
        assert_eq!(does("withdraw carol 0"), "0");
        assert_eq!(does("read bob"), "4");
        assert_eq!(does("deposit bob 18446744073709551615"), "refused: bob can't hold so much");
        assert_eq!(does("bonus bob"), "refused: a bonus has to be drawn first");
        assert_eq!(accounts.to_string(), "alice 6, bob 4");
        assert_eq!(accounts.to_string().parse(), Ok(accounts));
    }

    #[test]
    fn accounts_are_bounded() {
        let mut accounts = Accounts::default();
        (0..MAX_ACCOUNTS).for_each(|n| drop(accounts.apply(&Op::Deposit(format!("a{n}"), 1))));
        let refused = format!("refused: b would be one account too many, there are {MAX_ACCOUNTS}");
        assert_eq!(accounts.apply(&Op::Deposit("b".to_owned(), 1)), refused);
        assert_eq!(accounts.apply(&Op::Transfer("a1".to_owned(), "b".to_owned(), 1)), refused);
        assert_eq!(accounts.balance("a1"), 1);
    }
}
