//! The lecture's messages: every procedure's number, its arguments and its result. Operations and answers are text, as
//! in [`crate::bank`] and in the servers' files.
//!
//! | number | procedure | from | to |
//! |---|---|---|---|
//! | 0x19001 | [`OPERATION`] | client | server, coordinator |
//! | 0x19002 | [`NUMBERED`] | coordinator | server |
//! | 0x19003 | [`LAST`] | coordinator | server |
//! | 0x190f0 | [`CUT`] | the story | whatever was started with `--test` |

use yfs_rpc::{Procedure, wire_status};

/// Executes an operation, and answers what came of it; or says why not.
pub const OPERATION: Procedure<(String,), String> = Procedure::new(0x19001);

/// Executes an operation as the one with this number; or says why not. Sent again it is not executed again.
pub const NUMBERED: Procedure<(u64, String), String> = Procedure::new(0x19002);

/// The number of the last operation, and its line in the file; 0 and nothing before the first one.
pub const LAST: Procedure<(), (u64, String)> = Procedure::new(0x19003);

/// From now on the node sends nothing to these others, and to all others again. Nobody is told: its calls are not answered,
/// as those into a partitioned network.
pub const CUT: Procedure<(Vec<String>,), i32> = Procedure::new(0x190f0);

wire_status! {
    /// How a request ended. With all but the first the answer says why.
    pub enum Ended {
        /// Executed: what came of it.
        Executed = 0,
        /// That is no operation.
        NoOp = 1,
        /// The server hasn't all operations before that number.
        Lacking = 2,
        /// The server has another operation with that number.
        Another = 3,
        /// The coordinator can't go on. It may have been executed, or may yet be.
        Stopped = 4,
        /// The server can't write its file.
        Broken = 5,
    }
}
