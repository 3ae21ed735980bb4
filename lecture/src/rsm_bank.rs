//! The bank on yfs-rsm, where Paxos takes the view server's place and no single machine matters.
//!
//! All that the other systems do by themselves is the library's here: who is a member and who the primary, the order, the
//! transfer of the state, requests that are sent again. What is left is the bank.

use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, RsmClient, RsmClientError, RsmError, StateMachine};

use crate::bank::{Accounts, MAX_BONUS, Op};

/// Executes an operation: its words, its chance taken out by the client. The answer.
pub const OPERATION: Procedure<(String,), String> = Procedure::new(0x19021);
/// All accounts, and how many operations there were.
pub const ACCOUNTS: Procedure<(), (u64, String)> = Procedure::new(0x19022);

/// The replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    accounts: Accounts,
    operations: u64,
}

impl Bank {
    fn execute(&mut self, text: &str) -> String {
        match text.parse::<Op>() {
            Ok(op) => {
                self.operations += 1;
                self.accounts.apply(&op)
            }
            Err(error) => format!("refused: {error}"),
        }
    }
}

impl StateMachine for Bank {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        encode(&(self.operations, self.accounts.to_string()))
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        let (operations, accounts): (u64, String) = decode(state)?;
        let accounts = accounts.parse().map_err(|_| UnmarshalError::NotText)?;
        *self = Bank { accounts, operations };
        Ok(())
    }
}

/// Starts a replica of the bank.
///
/// # Errors
/// [`RsmError`].
pub fn start(options: Options) -> Result<Rsm<Bank>, RsmError> {
    let rsm = Rsm::new(options, Bank::default())?;
    rsm.reg(OPERATION, |bank: &mut Bank, (text,): (String,)| (0, bank.execute(&text)));
    rsm.reg(ACCOUNTS, |bank: &mut Bank, ()| (0, (bank.operations, bank.accounts.to_string())));
    rsm.start()?;
    Ok(rsm)
}

/// Has an operation executed, exactly once.
///
/// # Errors
/// [`RsmClientError`].
pub fn call(client: &RsmClient, op: Op, within: std::time::Duration) -> Result<String, RsmClientError> {
    // A replica would draw another amount than the others: the client draws.
    let op = op.drawn(|| 1 + rt::random::below(MAX_BONUS));
    client.call(OPERATION, (op.to_string(),), within).map(|(_, answer)| answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_state_travels() {
        let mut bank = Bank::default();
        assert_eq!(bank.execute("deposit alice 5"), "5");
        assert_eq!(bank.execute("bonus alice"), "refused: a bonus has to be drawn first");
        assert!(bank.execute("rob alice").starts_with("refused: "));
        let mut other = Bank::default();
        other.unmarshal_state(&bank.marshal_state()).unwrap();
        assert_eq!(other, bank);
        assert!(other.unmarshal_state(&[1]).is_err());
        assert_eq!(other, bank);
    }
}
