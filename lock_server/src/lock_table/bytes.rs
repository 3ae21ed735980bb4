//! The bytes of a [`LockTable`] (lab: `marshal_state`, `unmarshal_state`), all big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | u32 u32 | the magic `YFSL`, the version of this layout (1) |
//! | u64 u64 | the clock, the number of locks |
//! | a lock, in the order of ids: u64 u32 bool u64 | id, grants, deferred, the number of records |
//! | a record, in the order of clients: string u64 u8 | client, xid, place: 0 owner, 1 waits, 2 idle and was granted, 3 idle and was not |
//! | for places 1 to 3: u64 | the ticket or the moment of falling idle |
//! | for place 1: u8 | how often it was overtaken |
//!
//! The lab's lock servers begin with a count or a lock id: their states are refused by the magic.

use yfs_rpc::marshall::{Marshal, UnmarshalError, Unmarshaller};

use super::{Lock, LockTable, MAX_CLIENT_ID, MAX_OVERTAKEN, Place, Record};
use crate::lock_protocol::{ClientId, LockId};

const MAGIC: u32 = u32::from_be_bytes(*b"YFSL");
const VERSION: u32 = 1;
/// Nothing is ever counted so far.
const MAX_CLOCK: u64 = u64::MAX >> 1;

const OWNER: u8 = 0;
const WAITING: u8 = 1;
const IDLE_GRANTED: u8 = 2;
const IDLE_NOT_GRANTED: u8 = 3;

/// What a lock has in the state, but for its records.
pub(super) const LOCK: usize = 8 + 4 + 1 + 8;

/// The most that a client's record has in the state, wherever the client stands.
pub(super) fn of_record(client: &ClientId) -> usize {
    4 + client.as_str().len() + 8 + 1 + 9
}

/// Why bytes are not the state of a lock table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// They end too early, or too late.
    #[error("the state can't be read: {0}")]
    Unreadable(#[from] UnmarshalError),
    /// They were written by another program.
    #[error("the state is not one of this lock server: a lab server's state can't be taken over")]
    Foreign,
    /// They were written by another version of this program.
    #[error("the state has layout version {0}, this program knows version {VERSION} only")]
    Version(u32),
    /// They break an invariant.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
}

impl LockTable {
    /// The state's bytes.
    pub fn marshal(&self) -> Vec<u8> {
        let mut out = Vec::new();
        (MAGIC, VERSION, self.clock, self.locks.len() as u64).marshal(&mut out);
        for (id, lock) in &self.locks {
            (id, lock.granted, lock.deferred, lock.records.len() as u64).marshal(&mut out);
            for (client, record) in &lock.records {
                (client, record.xid).marshal(&mut out);
                match record.place {
                    Place::Owner => OWNER.marshal(&mut out),
                    Place::Waiting { ticket, overtaken } => (WAITING, ticket, overtaken).marshal(&mut out),
                    Place::Idle { since, granted: true } => (IDLE_GRANTED, since).marshal(&mut out),
                    Place::Idle { since, granted: false } => (IDLE_NOT_GRANTED, since).marshal(&mut out),
                }
            }
        }
        out
    }

    /// Takes over the state that `bytes` are; on an error nothing changes. Effects that wait are dropped: they belong to
    /// the old state.
    ///
    /// # Errors
    /// [`StateError`], if the bytes aren't exactly what [`LockTable::marshal`] writes.
    pub fn unmarshal(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut input = Unmarshaller::new(bytes);
        // Whatever is too short to have the magic has none.
        if input.read::<u32>() != Ok(MAGIC) {
            return Err(StateError::Foreign);
        }
        let version = input.read::<u32>()?;
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let mut table = LockTable::with_limits(self.limits);
        table.clock = input.read()?;
        if table.clock > MAX_CLOCK {
            return Err(StateError::Damaged("more than anybody counts"));
        }
        let locks = input.read::<u64>()?;
        for _ in 0..locks {
            let id: LockId = input.read()?;
            if table.locks.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(StateError::Damaged("locks out of order"));
            }
            let lock = table.read_lock(id, &mut input)?;
            table.waiting += lock.queue.len();
            if !lock.queue.is_empty() {
                table.contended.insert(id);
            }
            table.bytes += LOCK + lock.records.keys().map(of_record).sum::<usize>();
            table.locks.insert(id, lock);
        }
        input.finish()?;
        *self = table;
        Ok(())
    }

    fn read_lock(&mut self, id: LockId, input: &mut Unmarshaller<'_>) -> Result<Lock, StateError> {
        let mut lock = Lock { granted: input.read()?, deferred: read_bool(input)?, ..Lock::default() };
        if rt::probe::weakened("mutant-flag-not-transferred") {
            lock.deferred = false;
        }
        let records = input.read::<u64>()?;
        for _ in 0..records {
            let client: ClientId = input.read()?;
            if client.as_str().is_empty() || client.as_str().len() > MAX_CLIENT_ID {
                return Err(StateError::Damaged("a client's name is empty or too long"));
            }
            if lock.records.last_key_value().is_some_and(|(last, _)| *last >= client) {
                return Err(StateError::Damaged("clients out of order"));
            }
            let xid = input.read()?;
            let place = read_place(input)?;
            let before = match place {
                Place::Owner => lock.owner.replace(client.clone()).is_some(),
                Place::Waiting { ticket, .. } => {
                    ticket >= self.clock || lock.queue.insert(ticket, client.clone()).is_some()
                }
                Place::Idle { since, .. } => {
                    since >= self.clock || self.idle.insert(since, (id, client.clone())).is_some()
                }
            };
            if before {
                return Err(StateError::Damaged("two owners, or a number given twice"));
            }
            lock.records.insert(client, Record { xid, place });
        }
        if lock.deferred && lock.owner.is_some() {
            return Err(StateError::Damaged("a lock with an owner that sends newcomers away"));
        }
        if lock.records.is_empty() {
            return Err(StateError::Damaged("a lock that no client knows"));
        }
        Ok(lock)
    }
}

fn read_place(input: &mut Unmarshaller<'_>) -> Result<Place, StateError> {
    Ok(match input.read::<u8>()? {
        OWNER => Place::Owner,
        WAITING => {
            let (ticket, overtaken) = input.read()?;
            if overtaken >= MAX_OVERTAKEN {
                return Err(StateError::Damaged("a client that should have lost its place"));
            }
            Place::Waiting { ticket, overtaken }
        }
        IDLE_GRANTED => Place::Idle { since: input.read()?, granted: true },
        IDLE_NOT_GRANTED => Place::Idle { since: input.read()?, granted: false },
        _ => return Err(StateError::Damaged("an unknown place")),
    })
}

/// A bool that is 0 or 1: with others, equal states could have different bytes.
fn read_bool(input: &mut Unmarshaller<'_>) -> Result<bool, StateError> {
    match input.read::<u8>()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(StateError::Damaged("a bool that is neither 0 nor 1")),
    }
}
