//! The bank's server (the lecture's `srv.py`): executes operations in the order in which they come, reads included, and
//! keeps all of them in a file ([`crate::file`]).
//!
//! Alone it is a correct bank. With two of them, each has an order of its own ([`OPERATION`]) unless somebody else gives
//! the operations their numbers ([`NUMBERED`]). It draws a bonus only if it is asked directly.
//!
//! Threads: those of its port. Locks: `lecture.ledger` guards accounts and file; the file is written under it, since the
//! order of the lines is that of the executions.

use std::path::Path;
use std::sync::Arc;

use rt::sync::{Mutex, Rank};
use yfs_rpc::{PollMgr, Server, Status};

use crate::bank::{MAX_BONUS, Op};
use crate::file::{Entry, Ledger};
use crate::peers::{StartError, cannot_listen, listen};
use crate::protocol::{Ended, LAST, NUMBERED, OPERATION};

const LEDGER_RANK: Rank = Rank::new(30, "lecture.ledger");

/// A server. Dropping it ends it.
pub struct Srv {
    server: Server,
    ledger: Arc<Mutex<Ledger>>,
}

impl Srv {
    /// Reads the file, which is created if it isn't there, and serves at the port that `name` says.
    ///
    /// # Errors
    /// When the file or the port can't be used.
    pub fn start(pollmgr: &PollMgr, name: &str, path: &Path) -> Result<Srv, StartError> {
        let server = listen(pollmgr, name)?;
        let ledger = Ledger::open(path).map_err(|e| StartError(format!("{}: {e}", path.display())))?;
        tracing::info!(node = name, kind = "start", file = %path.display(), operations = ledger.number(), "server");
        let ledger = Arc::new(Mutex::new(LEDGER_RANK, ledger));
        let node: Arc<str> = name.into();

        let (state, me) = (ledger.clone(), node.clone());
        server.reg(OPERATION, move |text: String| answer(operation(&me, &mut state.lock(), &text)));
        let (state, me) = (ledger.clone(), node);
        server.reg(NUMBERED, move |number: u64, text: String| answer(numbered(&me, &mut state.lock(), number, &text)));
        let state = ledger.clone();
        server.reg(LAST, move || (Status::OK, last(&state.lock())));

        server.start().map_err(|e| cannot_listen(name, &e))?;
        Ok(Srv { server, ledger })
    }

    /// The number of the last operation.
    pub fn number(&self) -> u64 {
        self.ledger.lock().number()
    }

    /// Why the file can't be written any more.
    pub fn broken(&self) -> Option<String> {
        self.ledger.lock().broken().map(str::to_owned)
    }

    /// Closes the port; what is under way is finished first.
    pub fn shutdown(&self) {
        self.server.shutdown();
    }
}

fn answer(result: Result<String, (Ended, String)>) -> (Ended, String) {
    result.map_or_else(|refusal| refusal, |answer| (Ended::Executed, answer))
}

/// An operation of a client: the next one, whatever the other servers do.
fn operation(node: &str, ledger: &mut Ledger, text: &str) -> Result<String, (Ended, String)> {
    let op: Op = text.parse().map_err(|no_op| (Ended::NoOp, format!("{no_op}")))?;
    execute(node, ledger, op.drawn(|| 1 + rt::random::below(MAX_BONUS)))
}

/// An operation of a coordinator: only if it is the next one, or the last one once more.
fn numbered(node: &str, ledger: &mut Ledger, number: u64, text: &str) -> Result<String, (Ended, String)> {
    let op: Op = text.parse().map_err(|no_op| (Ended::NoOp, format!("{no_op}")))?;
    let has = ledger.number();
    if number > has + 1 {
        return Err((Ended::Lacking, format!("it has {has} operations")));
    }
    if number <= has {
        return match ledger.last() {
            Some(last) if last.number == number && last.op == op => Ok(last.answer.clone()),
            Some(last) if last.number == number => {
                Err((Ended::Another, format!("its operation {number} is {}", last.op)))
            }
            _ => Err((Ended::Another, format!("it has {has} operations"))),
        };
    }
    execute(node, ledger, op)
}

fn execute(node: &str, ledger: &mut Ledger, op: Op) -> Result<String, (Ended, String)> {
    let entry = ledger.execute(op).map_err(|why| (Ended::Broken, why))?;
    tracing::debug!(node, kind = "execute", number = entry.number, answer = entry.answer, "{}", entry.op);
    Ok(entry.answer.clone())
}

fn last(ledger: &Ledger) -> (u64, String) {
    (ledger.number(), ledger.last().map(Entry::to_string).unwrap_or_default())
}
