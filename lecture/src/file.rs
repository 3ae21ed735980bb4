//! A server's file: one line for each operation, with its number, what was answered, and the accounts after it.
//!
//! ```text
//! 17 transfer alice bob 5 -> 95 | alice 95, bob 105
//! ```
//!
//! Invariants: 1. The file has the operations from 1 on, without a gap, each in the order in which it was executed. 2. What
//! stands behind an operation follows from the lines before it: a start executes all of them again, and takes nothing else.
//! 3. A last line without its end was never answered: a start drops it.
//!
//! Left out: syncs, checksums, a shorter file. A killed server finds all its lines again; after a power cut it may not.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rt::fs::{self, File};

use crate::bank::{Accounts, Op};

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From 1.
    pub number: u64,
    /// What was executed.
    pub op: Op,
    /// What was answered.
    pub answer: String,
    /// All accounts after it.
    pub accounts: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {} |", self.number, self.op, self.answer)?;
        if self.accounts.is_empty() { Ok(()) } else { write!(f, " {}", self.accounts) }
    }
}

/// Why a file can't be used.
#[derive(Debug)]
pub enum LedgerError {
    /// The operating system says so.
    Io(io::Error),
    /// It is a device, a pipe, or the like.
    NoFile,
    /// Another process has it open.
    InUse,
    /// A line, counted from 1, isn't what it should be, and why.
    Line(usize, String),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerError::Io(error) => f.write_str(&advised(error)),
            LedgerError::NoFile => f.write_str("this is no file: choose another one"),
            LedgerError::InUse => f.write_str("another server uses this file: stop it, or choose another file"),
            LedgerError::Line(line, why) => write!(f, "line {line}: {why}: move the file away, or name another one"),
        }
    }
}

impl std::error::Error for LedgerError {}

impl From<io::Error> for LedgerError {
    fn from(error: io::Error) -> Self {
        LedgerError::Io(error)
    }
}

/// Why the operating system refuses something about a file, and what to do.
pub fn advised(error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::NotFound => "create the folder, or name another file",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "name a file that may be written to",
        ErrorKind::IsADirectory => "name a file in it",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "make room, then start again",
        _ => "name another file",
    };
    format!("{error}: {advice}")
}

/// The accounts, and the file that they come from.
pub struct Ledger {
    path: PathBuf,
    file: File,
    accounts: Accounts,
    last: Option<Entry>,
    /// Why the file can't be written: from then on nothing is executed, since half a line may be there.
    broken: Option<String>,
}

impl Ledger {
    /// Opens the file, which is created if it isn't there, and executes what is in it. An unfinished last line is cut off.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let file = File::append(path)?;
        if !fs::is_file(path)? {
            return Err(LedgerError::NoFile);
        }
        if !file.try_lock()? {
            return Err(LedgerError::InUse);
        }
        let bytes = fs::read(path)?;
        let (accounts, last, whole) = replay(&bytes)?;
        if whole < bytes.len() {
            let number = 1 + last.as_ref().map_or(0, |entry| entry.number);
            let path = path.display();
            tracing::warn!(kind = "fault", number, file = %path, "drops the last line, which is cut short: nobody was answered");
            file.set_len(whole as u64)?;
        }
        Ok(Ledger { path: path.to_owned(), file, accounts, last, broken: None })
    }

    /// Executes the next operation, and writes its line before anybody is told.
    ///
    /// # Errors
    /// When the file can't be written, now or earlier.
    pub fn execute(&mut self, op: Op) -> Result<&Entry, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let last = self.number();
        let entry = next(&mut self.accounts, last, op);
        if let Err(error) = self.file.write_all(format!("{entry}\n").as_bytes()) {
            let why = format!("{}: {}", self.path.display(), advised(&error));
            self.broken = Some(why.clone());
            return Err(why);
        }
        Ok(self.last.insert(entry))
    }

    /// The last operation's number; 0 before the first one.
    pub fn number(&self) -> u64 {
        self.last.as_ref().map_or(0, |entry| entry.number)
    }

    /// The last operation.
    pub fn last(&self) -> Option<&Entry> {
        self.last.as_ref()
    }

    /// Why the file can't be written any more.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

/// Executes `op` as the one after number `last`.
fn next(accounts: &mut Accounts, last: u64, op: Op) -> Entry {
    let answer = accounts.apply(&op);
    Entry { number: last + 1, op, answer, accounts: accounts.to_string() }
}

/// The operation in the line with this number.
///
/// # Errors
/// How the line should begin.
pub(crate) fn operation_of(line: &str, number: u64) -> Result<Op, String> {
    let start = format!("{number} ");
    let op = line.strip_prefix(&start).and_then(|rest| rest.split_once(" -> "));
    let (op, _) = op.ok_or_else(|| format!("it doesn't begin as {start:?}, an operation, \" -> \""))?;
    op.parse().map_err(|no_op| format!("{no_op}"))
}

/// Executes the lines of a file, each of which must be what its operation makes of those before it. Gives how many bytes
/// they are; only the beginning of one more line may follow.
pub(crate) fn replay(bytes: &[u8]) -> Result<(Accounts, Option<Entry>, usize), LedgerError> {
    let (mut accounts, mut last) = (Accounts::default(), None::<Entry>);
    let (whole, rest) = bytes.split_at(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    let text = String::from_utf8_lossy(whole);
    let mut count = 0;
    for line in text.lines() {
        count += 1;
        let wrong = |why: String| LedgerError::Line(count, why);
        let number = last.as_ref().map_or(0, |entry| entry.number);
        let entry = next(&mut accounts, number, operation_of(line, number + 1).map_err(wrong)?);
        if entry.to_string() != line {
            return Err(wrong(format!("it should be {:?}", entry.to_string())));
        }
        last = Some(entry);
    }
    // A file of somebody else's must not lose its only line: without a whole one it may be anybody's.
    let start = format!("{} ", last.as_ref().map_or(0, |entry| entry.number) + 1).into_bytes();
    let is_next = last.is_some() && (rest.starts_with(&start) || start.starts_with(rest));
    if !rest.is_empty() && !is_next {
        return Err(LedgerError::Line(count + 1, "it is cut short, and may not be a server's".to_owned()));
    }
    Ok((accounts, last, whole.len()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn op(text: &str) -> Op {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut ledger = Ledger::open(&path).unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::InUse)));
        assert_eq!(ledger.execute(op("deposit alice 100")).unwrap().answer, "100");
        assert_eq!(ledger.execute(op("read bob")).unwrap().answer, "0");
        let entry = ledger.execute(op("transfer alice bob 5")).unwrap().clone();
        assert_eq!(entry.to_string(), "3 transfer alice bob 5 -> 95 | alice 95, bob 5");
        drop(ledger);
        let mut again = Ledger::open(&path).unwrap();
        assert_eq!((again.number(), again.last()), (3, Some(&entry)));
        assert_eq!(again.execute(op("withdraw bob 9")).unwrap().answer, "refused: bob has 5");
        drop(again);
        assert!(replay(b"1 read alice -> 0 |\n").is_ok(), "no accounts yet");
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        assert_eq!(text.lines().last(), Some("4 withdraw bob 9 -> refused: bob has 5 | alice 95, bob 5"));
    }

    #[test]
    fn a_last_line_that_is_cut_short_is_dropped_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        for (at, rest) in ["2", "2 ", "2 rea", "2 read alice -> 5 | alice 5"].iter().enumerate() {
            let path = folder.path().join(at.to_string());
            let whole = "1 deposit alice 5 -> 5 | alice 5\n";
            File::append(&path).unwrap().write_all(format!("{whole}{rest}").as_bytes()).unwrap();
            let mut ledger = Ledger::open(&path).unwrap();
            assert_eq!(ledger.number(), 1, "{rest:?}");
            ledger.execute(op("read bob")).unwrap();
            drop(ledger);
            assert_eq!(fs::read(&path).unwrap(), format!("{whole}2 read bob -> 0 | alice 5\n").into_bytes());
        }
    }

    #[test]
    fn what_is_no_file_of_a_server_is_told_with_its_line() {
        for (text, line, why) in [
            ("hello\n", 1, "doesn't begin as \"1 \""),
            ("1 deposit alice 5 -> 5 | alice 5\n3 read alice -> 5 | alice 5\n", 2, "doesn't begin as \"2 \""),
            ("1 deposit alice 5 -> 5 | alice 5\n\n", 2, "doesn't begin as \"2 \""),
            ("1 burn alice 5 -> 5 | alice 5\n", 1, "is no operation"),
            ("1 deposit alice 5 -> 6 | alice 6\n", 1, "it should be \"1 deposit alice 5 -> 5 | alice 5\""),
            ("1 shopping list", 1, "may not be a server's"),
            ("hello", 1, "may not be a server's"),
            ("1 deposit alice 5 -> 5 | alice 5\n3 rea", 2, "may not be a server's"),
            ("\u{0}\u{fffd}\n", 1, "doesn't begin"),
        ] {
            let error = replay(text.as_bytes()).unwrap_err();
            let LedgerError::Line(at, what) = &error else { panic!("{text:?}: {error}") };
            assert!(*at == line && what.contains(why), "{text:?}: {error}");
        }
        assert!(replay(b"\xff\xfe\n").is_err());
    }
}
