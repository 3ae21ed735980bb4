//! What is replicated: a state, and the procedures that change it.
//!
//! The contract (the seed's rsm.cc, lines 59 to 67). Every replica executes the same requests in the same order, so a
//! procedure
//! 1. runs to completion and doesn't block;
//! 2. depends on the state and its arguments alone: no clock, no random numbers, no addresses, no iteration order that
//!    differs between runs. What isn't deterministic the client or the primary chooses before the request is stamped;
//! 3. sends nothing itself. What has to be told to others it leaves as effects, one-way messages that the primary's
//!    owner sends; nothing may depend on whether they arrive;
//! 4. does with a request what it did when the request was first executed: a node that starts executes those in its log
//!    once more, maybe with a newer version of the program. What is to do something else gets a new number, and one that
//!    may be in a log stays registered (docs/durable-state.md, "A new version of a program").

use std::collections::BTreeMap;
use std::sync::Arc;

use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal, UnmarshalError, Unmarshaller, decode, encode};
use yfs_rpc::{CallError, Procedure};

use crate::protocol::{OPEN, REQUEST, SessionStatus};
use crate::sessions::{Request, Sessions, SessionsError, Turn};

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

/// What a state's bytes begin with; no lab state does.
const MAGIC: u32 = u32::from_be_bytes(*b"YFSM");
const VERSION: u32 = 2;

/// Why bytes are not a machine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    /// They were written by another program.
    #[error("it was not written by a node of this kind")]
    Foreign,
    /// They were written by another version of this program.
    #[error("it has layout version {0}, this program knows version {VERSION} only")]
    Version(u32),
    /// The clients' sessions.
    #[error("{0}")]
    Sessions(#[from] SessionsError),
    /// The state machine's own part.
    #[error("{0}")]
    State(#[from] UnmarshalError),
}

/// A state with its procedures, and its clients' sessions.
pub(crate) struct Machine<S> {
    pub(crate) state: S,
    procedures: BTreeMap<u32, Run<S>>,
    sessions: Sessions,
}

/// What the journal has instead of a request whose procedure no program of ours has: a lab primary gives stamps to those,
/// too.
pub(crate) const NOTHING: u32 = 0x5946_0000;

/// Whether a procedure is ours alone, and not the state machine's: no lab node may get it.
pub(crate) fn is_of_sessions(procedure: u32) -> bool {
    [NOTHING, OPEN.number, REQUEST.number].contains(&procedure)
}

/// What client_invoke returns: (return value, marshalled result).
pub(crate) fn answer<R: Marshal>(value: i32, result: &R) -> Bytes {
    Bytes(encode(&(value, Bytes(encode(result)))))
}

/// The procedure and arguments of what a request has executed, if it was executed: those in it, if it is one in a session.
pub(crate) fn inner(procedure: u32, args: &[u8]) -> (u32, &[u8]) {
    match Request::read(args) {
        Ok(request) if procedure == REQUEST.number => (request.procedure, request.args),
        _ => (procedure, args),
    }
}

impl<S: StateMachine> Machine<S> {
    pub(crate) fn new(state: S) -> Self {
        Machine { state, procedures: BTreeMap::new(), sessions: Sessions::default() }
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
        assert!(!is_of_sessions(procedure.number), "procedure {:#x} is the RSM's own", procedure.number);
        let before = self.procedures.insert(procedure.number, run);
        assert!(before.is_none(), "procedure {:#x} is registered twice", procedure.number);
    }

    /// Whether a request can be executed: its procedure is known, also that inside of a session's.
    pub(crate) fn knows(&self, procedure: u32, args: &[u8]) -> bool {
        match procedure {
            _ if procedure == OPEN.number => true,
            _ if procedure == REQUEST.number => {
                Request::read(args).is_ok_and(|request| self.procedures.contains_key(&request.procedure))
            }
            _ => self.procedures.contains_key(&procedure),
        }
    }

    /// Executes a request. Returns what client_invoke does, and whether the state machine ran: it doesn't for a request
    /// that opens a session, was executed before, comes too late, or can't be read. All replicas do alike.
    pub(crate) fn execute(&mut self, procedure: u32, args: &[u8]) -> (Bytes, bool) {
        if procedure == OPEN.number {
            let Ok((owner,)) = decode::<(u64,)>(args) else { return (unreadable(), false) };
            let answer = match self.sessions.open(owner) {
                Some(id) => answer(SessionStatus::OK as i32, &id),
                None => answer(SessionStatus::BUSY as i32, &Bytes::default()),
            };
            return (answer, false);
        }
        if procedure != REQUEST.number {
            return self.run(procedure, args);
        }
        let Ok(request) = Request::read(args) else { return (unreadable(), false) };
        let answer = |status, reply: &Bytes| answer(status as i32, &(request.session, request.seq, reply));
        match self.sessions.begin(&request) {
            Turn::Execute => {
                let (reply, ran) = self.run(request.procedure, request.args);
                let answer = answer(SessionStatus::OK, &reply);
                self.sessions.executed(request.session, request.seq, reply);
                (answer, ran)
            }
            Turn::Again(reply) => (answer(SessionStatus::OK, &reply), false),
            Turn::Refuse(status) => (answer(status, &Bytes::default()), false),
        }
    }

    /// Runs a procedure of the state machine. A request that can't be read changes nothing.
    fn run(&mut self, procedure: u32, args: &[u8]) -> (Bytes, bool) {
        let run = self.procedures.get(&procedure).cloned();
        match run.and_then(|run| run(&mut self.state, args).ok()) {
            Some((value, result)) => (Bytes(encode(&(value, Bytes(result)))), true),
            None => (unreadable(), false),
        }
    }

    /// The whole state, with the sessions: magic, version, sessions, and the state machine's own bytes to the end.
    pub(crate) fn marshal_state(&self) -> Vec<u8> {
        let mut out = encode(&(MAGIC, VERSION));
        self.sessions.marshal(&mut out);
        out.extend_from_slice(&self.state.marshal_state());
        out
    }

    /// Becomes the state that `bytes` describe; on an error it stays as it is.
    pub(crate) fn unmarshal_state(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut input = Unmarshaller::new(bytes);
        // Whatever is too short to have the magic has none.
        if input.read::<u32>() != Ok(MAGIC) {
            return Err(StateError::Foreign);
        }
        let version = input.read::<u32>()?;
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let sessions = self.sessions.unmarshal(&mut input)?;
        let own = input.take(input.remaining())?;
        self.state.unmarshal_state(own)?;
        self.sessions = sessions;
        Ok(())
    }
}

fn unreadable() -> Bytes {
    Bytes(encode(&(CallError::UnmarshalArgs.code(), Bytes::default())))
}
