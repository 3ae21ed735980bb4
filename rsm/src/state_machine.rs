//! What is replicated: a state, and the procedures that change it.
//!
//! The contract (the seed's rsm.cc, lines 59 to 67). Every replica executes the same requests in the same order, so a
//! procedure
//! 1. runs to completion and doesn't block;
//! 2. depends on the state and its arguments alone: no clock, no random numbers, no addresses, no iteration order that
//!    differs between runs. What isn't deterministic the client or the primary chooses before the request is stamped;
//! 3. sends nothing itself. What has to be told to others it leaves as effects, one-way messages that the primary's
//!    owner sends; nothing may depend on whether they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;

use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal, UnmarshalError, decode, encode};
use yfs_rpc::{CallError, Procedure};

/// A replicated state. See the module for what its procedures may do.
#[doc(alias = "rsm_state_transfer")]
pub trait StateMachine: Send + 'static {
    /// A one-way message that an execution asks for.
    type Effect: Send + 'static;

    /// The whole state, as bytes that [`StateMachine::unmarshal_state`] of another replica reads.
    fn marshal_state(&self) -> Vec<u8>;

    /// Becomes the state that `state` describes; on an error it stays as it is.
    ///
    /// # Errors
    /// When the bytes aren't a state, as those of another program.
    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError>;

    /// Takes the effects of what was executed since the last call.
    fn take_effects(&mut self) -> Vec<Self::Effect> {
        Vec::new()
    }

    /// What a new primary has to send again because its predecessor may have died before it did, from the state alone.
    fn due(&self) -> Vec<Self::Effect> {
        Vec::new()
    }
}

type Run<S> = Arc<dyn Fn(&mut S, &[u8]) -> Result<(i32, Vec<u8>), UnmarshalError> + Send + Sync>;

/// A state and its procedures.
pub(crate) struct Machine<S> {
    pub(crate) state: S,
    procedures: BTreeMap<u32, Run<S>>,
}

impl<S: StateMachine> Machine<S> {
    pub(crate) fn new(state: S) -> Self {
        Machine { state, procedures: BTreeMap::new() }
    }

    pub(crate) fn reg<A: Unmarshal + 'static, R: Marshal + 'static>(
        &mut self,
        procedure: Procedure<A, R>,
        handler: impl Fn(&mut S, A) -> (i32, R) + Send + Sync + 'static,
    ) {
        let run: Run<S> = Arc::new(move |state, args| {
            let (value, result) = handler(state, decode(args)?);
            Ok((value, encode(&result)))
        });
        let before = self.procedures.insert(procedure.number, run);
        assert!(before.is_none(), "procedure {:#x} is registered twice", procedure.number);
    }

    /// Whether requests of this procedure can be executed.
    pub(crate) fn knows(&self, procedure: u32) -> bool {
        self.procedures.contains_key(&procedure)
    }

    /// Executes a request. The answer is what client_invoke returns: (return value, marshalled result). A request that
    /// can't be read is answered alike by all replicas, and changes nothing.
    pub(crate) fn execute(&mut self, procedure: u32, args: &[u8]) -> Bytes {
        let run = self.procedures.get(&procedure).cloned();
        let (value, result) = run
            .and_then(|run| run(&mut self.state, args).ok())
            .unwrap_or_else(|| (CallError::UnmarshalArgs.code(), Vec::new()));
        Bytes(encode(&(value, Bytes(result))))
    }
}
