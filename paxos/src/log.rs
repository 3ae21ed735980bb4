//! The log's file: `paxos-<me>.log` (lab: `log.cc`).
//!
//! ```text
//! crc 00000000
//! disk 5f0c3e9a71b2d846 41000
//! crc 459fc600
//! starts 0
//! crc 1e104f3f
//! done 1 41000
//! crc 42c689b4
//! propseen 1 41000
//! crc bc7467e9
//! ```
//! After each append comes a line `crc HEX`: the CRC-32 of the bytes since the last such line. The first one is over
//! nothing: it says that the log is ours, and that no record of it counts without a crc line after it. The lab's
//! testers, which read this file while the node runs, skip such lines. A log of the lab has none at all; it is read, and
//! rewritten with them.
//!
//! Two files beside it: `paxos-<me>.log.lock` belongs to the process that has the log (it is empty, or one byte long:
//! acceptor.rs proves with it that the disk works); `paxos-<me>.log.new` is the log while it is rewritten, and what a crash
//! leaves of it is never read.
//!
//! To open it writes the number of the disk and that of short lives anew, at the beginning: so there is one of each,
//! whatever was appended before. A life counts when the node says so, with a new number of them ([`Record::Starts`]).
//!
//! Invariants:
//! 1. One append is one write, and is on the disk before [`Log::append`] returns. What [`Log::open`] hands over is on
//!    the disk, too, in a file that was written anew: the bytes read may be those of a failed sync, which the operating
//!    system reports once and then shows as long as it remembers them, and no sync of that file writes them again.
//! 2. After an error of the disk nothing more is written or answered: what was written isn't known.
//! 3. What a crash leaves of the last append is cut off at the next start, all of it. Everything else that isn't as it
//!    was written is an error with the file and the byte, never a different log: a checksum that doesn't fit (that of
//!    the last append too: it may have been answered for), a line that is no record, a number out of sequence, an end
//!    that isn't the beginning of what could have been written there.
//! 4. Only one process at a time has the log. The lock is on a file that is never renamed nor removed, and is held
//!    before the log is looked at: a lock on the log itself would stay with a file that has been replaced.
//!
//! Deviation from the lab: it neither syncs nor checks, and a torn line stops it (H5). Left out: dropping the oldest
//! instances (H22); a log may begin with any instance, so a shorter file can be put in its place.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rt::fs::{self, File};
use rt::time::{now, sleep};

use crate::record::{DiskId, Record};
use crate::state::AcceptorState;

/// Why the log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{}: can't {doing} it: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is no file.
    #[error("{}: no file, but a folder, a pipe or the like", path.display())]
    NoFile {
        /// What lies there.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{}: in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It isn't what was written.
    #[error("{}: damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where what can't be read begins, counted from 0.
        offset: usize,
        /// What is wrong.
        what: String,
    },
    /// It was removed or replaced while the node ran; what is written would go with it.
    #[error("{}: removed, or replaced by another file, while the node ran", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// An earlier write failed; the node must stop.
    #[error("{}: not written since an error", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

/// The first line of each log: a crc line over nothing.
const HEAD: &str = "crc 00000000\n";
/// How long another process may keep the lock before it is said to run.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The file of a node's Paxos log, open for appending.
pub struct Log {
    path: PathBuf,
    file: File,
    /// The records' lines, without the crc lines.
    text: String,
    failed: bool,
    /// Held for invariant 4.
    _lock: Lock,
}

/// Keeps other processes from a log, as long as it isn't dropped.
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

/// The name of a node's log in its folder.
pub fn file_name(me: &str) -> String {
    format!("paxos-{me}.log")
}

/// An error of the operating system, about a file.
fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { path: path.to_owned(), doing, source }
}

/// The line that covers these bytes.
fn crc_line(bytes: &[u8]) -> String {
    format!("crc {:08x}\n", crc32fast::hash(bytes))
}

impl Log {
    /// Opens the log at `path`, or makes an empty one, and hands over what it says. Cuts off a torn end.
    ///
    /// # Errors
    /// When the file is in use, damaged, or can't be read and written.
    pub fn open(path: &Path, me: &str) -> Result<(Log, AcceptorState), LogError> {
        Log::open_locked(path, me, Log::lock(path)?)
    }

    /// Locks the log at `path`, be there one or not.
    ///
    /// # Errors
    /// When another process has it for a second, or the operating system refuses.
    pub fn lock(path: &Path) -> Result<Lock, LogError> {
        let lock_path = fs::beside(path, ".lock");
        let lock = File::append(&lock_path).map_err(io(&lock_path, "open"))?;
        // A process that was killed just now may still be ending.
        let deadline = now() + LOCK_PATIENCE;
        while !lock.try_lock().map_err(io(&lock_path, "lock"))? {
            if now() >= deadline {
                return Err(LogError::InUse { path: path.to_owned() });
            }
            sleep(LOCK_INTERVAL);
        }
        Ok(Lock(lock))
    }

    /// As [`Log::open`], with the lock of that log.
    ///
    /// # Errors
    /// When the file is damaged, or can't be read and written.
    pub fn open_locked(path: &Path, me: &str, lock: Lock) -> Result<(Log, AcceptorState), LogError> {
        let bytes = read(path)?.unwrap_or_default();
        let Scan { mut state, text, mut file, keep, .. } = Scan::of(&bytes, me).map_err(damaged(path))?;
        let torn = bytes.get(keep..).unwrap_or_default();
        if !torn.is_empty() {
            tracing::warn!(node = me, file = %path.display(), from = keep, to = bytes.len(), "torn end of log cut off");
            if rt::probe::weakened("mutant-torn-end-stays") {
                file.extend_from_slice(torn);
            }
        }
        let disk = state.disk().unwrap_or_else(|| DiskId(rt::random::u64()));
        // This life doesn't count yet: the next one reads the same.
        let counted = state.counted().map_or(String::new(), |counted| Record::Starts(counted).to_string());
        let own_disk = Record::Disk(disk, me.to_owned());
        let lines = own_disk.to_string() + &counted;
        file.splice(HEAD.len()..HEAD.len(), (lines.clone() + &crc_line(lines.as_bytes())).into_bytes());
        for record in [own_disk, Record::Starts(state.counted().map_or(0, |before| before.saturating_add(1)))] {
            // They are right whatever came before them.
            state.replay(record).map_err(|what| LogError::Damaged { path: path.to_owned(), offset: keep, what })?;
        }
        let file = replace(path, &file)?;
        Ok((Log { path: path.to_owned(), file, text, failed: false, _lock: lock }, state))
    }

    /// What the log at `path` says, if there is one. Changes nothing, and keeps nobody out: who has the log may be writing
    /// it, and what is written just now may be missing.
    ///
    /// # Errors
    /// When the file is damaged or can't be read.
    pub fn look(path: &Path, me: &str) -> Result<Option<AcceptorState>, LogError> {
        let Some(bytes) = read(path)? else { return Ok(None) };
        Ok(Some(Scan::of(&bytes, me).map_err(damaged(path))?.state))
    }

    /// Appends records, in one write, and returns when they are on the disk.
    ///
    /// # Errors
    /// When they may not be: then the node must not answer for them, nor go on.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed { path: self.path.clone() });
        }
        if records.is_empty() {
            return Ok(());
        }
        let lines: String = records.iter().map(Record::to_string).collect();
        let whole = lines.clone() + &crc_line(lines.as_bytes());
        records.iter().filter(|record| record.is_of_the_lab()).for_each(|record| self.text += &record.to_string());
        let written = self.file.write_all(whole.as_bytes()).map_err(io(&self.path, "write"));
        let sync = || if rt::probe::weakened("H5-answer-before-sync") { Ok(()) } else { self.file.sync_data() };
        let synced = written.and_then(|()| sync().map_err(io(&self.path, "sync")));
        if rt::probe::weakened("mutant-disk-error-ignored") {
            return Ok(());
        }
        synced.inspect_err(|_| self.failed = true)
    }

    /// Whether the file still has its name. A folder that can't be looked at proves nothing.
    ///
    /// # Errors
    /// When it hasn't.
    pub fn look_for(&self) -> Result<(), LogError> {
        if self.file.is_at(&self.path).unwrap_or(true) {
            Ok(())
        } else {
            Err(LogError::Gone { path: self.path.clone() })
        }
    }

    /// The records' lines, as a lab node would have them: what a joining node is given.
    pub fn dump(&self) -> &str {
        &self.text
    }

    /// Makes every later append fail.
    #[cfg(test)]
    pub(crate) fn break_it(&mut self) {
        self.failed = true;
    }
}

/// The bytes of the file at `path`, if there is one.
fn read(path: &Path) -> Result<Option<Vec<u8>>, LogError> {
    if !fs::exists(path).map_err(io(path, "look for"))? {
        return Ok(None);
    }
    // To read a pipe would take for ever.
    if !fs::is_file(path).map_err(io(path, "look for"))? {
        return Err(LogError::NoFile { path: path.to_owned() });
    }
    fs::read(path).map(Some).map_err(io(path, "read"))
}

/// What is wrong with a log, about its file.
fn damaged(path: &Path) -> impl FnOnce(Damage) -> LogError {
    move |Damage { offset, what }| LogError::Damaged { path: path.to_owned(), offset, what }
}

/// Puts a file with these bytes in the place of the one at `path`, for sure, and opens it for appending. A crash leaves
/// the one or the other.
fn replace(path: &Path, bytes: &[u8]) -> Result<File, LogError> {
    let new = fs::beside(path, ".new");
    fs::remove_leftover(&new).map_err(io(&new, "remove"))?;
    let mut file = File::create_new(&new).map_err(io(&new, "open"))?;
    let written = file.write_all(bytes).map_err(io(&new, "write"));
    let synced = written.and_then(|()| file.sync_data().map_err(io(&new, "sync")));
    synced.and_then(|()| fs::rename(&new, path).map_err(io(path, "replace"))).inspect_err(|_| {
        // A full disk needs the room.
        let _ = fs::remove_file(&new);
    })?;
    fs::sync_folder_of(path).map_err(io(path, "sync the folder of"))?;
    Ok(file)
}

/// What is wrong with a log, and where.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    offset: usize,
    what: String,
}

/// What the bytes of a log say. Pure.
struct Scan {
    me: String,
    state: AcceptorState,
    text: String,
    /// The log as it is to be: the same records, but for those that each start writes anew, all of them covered.
    file: Vec<u8>,
    /// How many bytes are good; what follows is a torn append.
    keep: usize,
}

impl Scan {
    fn of(bytes: &[u8], me: &str) -> Result<Scan, Damage> {
        let mut scan =
            Scan { me: me.to_owned(), state: AcceptorState::new(me), text: String::new(), file: HEAD.into(), keep: 0 };
        let mut has_crcs = false;
        // The lines since the last crc line, where each begins, and where the first does.
        let mut block: Vec<(usize, &str)> = Vec::new();
        let mut since = 0;
        let mut offset = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let damage = |what: &str| Damage { offset, what: what.to_owned() };
            let covered = bytes.get(since..offset).unwrap_or_default();
            let Some(whole) = line.strip_suffix(b"\n") else {
                // After a power cut some file systems show bytes that were appended and not synced as zeros.
                let zeros = line.iter().rev().take_while(|byte| **byte == 0).count();
                let torn = line.get(..line.len() - zeros).unwrap_or_default();
                let crc = crc_line(covered);
                let legible = crc.as_bytes().starts_with(torn) || Record::may_begin(torn);
                // A log of ours doesn't begin with zeros: it has its first line before it has its name.
                let fits =
                    if torn.is_empty() { offset > 0 } else { legible && !rt::probe::weakened("H5-torn-end-stops") };
                if !fits {
                    return Err(damage("no record begins like this"));
                }
                if torn == crc.trim_end().as_bytes() {
                    // Nothing but the line feed is missing.
                    scan.take(&mut block)?;
                    has_crcs = true;
                    scan.keep = offset + torn.len();
                }
                break;
            };
            let whole = std::str::from_utf8(whole).map_err(|_| damage("no text"))?;
            if whole.starts_with("crc ") {
                if line != crc_line(covered).as_bytes() && !rt::probe::weakened("mutant-crc-unchecked") {
                    return Err(Damage { offset: since, what: "the checksum doesn't fit".to_owned() });
                }
                scan.take(&mut block)?;
                has_crcs = true;
                since = offset + line.len();
                scan.keep = since;
            } else {
                Record::parse(whole).map_err(|what| damage(&what))?;
                block.push((offset, whole));
            }
            offset += line.len();
        }
        let uncovered = bytes.get(since..offset).unwrap_or_default();
        if let Some(at) = missing_line_feed(uncovered) {
            return Err(Damage { offset: since + at, what: "no line feed before the checksum".to_owned() });
        }
        if !has_crcs {
            // A log of the lab: what is whole counts.
            scan.take(&mut block)?;
            scan.keep = offset;
        }
        Ok(scan)
    }

    /// Takes over the records of a block, which is empty then.
    fn take(&mut self, block: &mut Vec<(usize, &str)>) -> Result<(), Damage> {
        if block.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for (offset, line) in block.drain(..) {
            let damage = |what| Damage { offset, what };
            let record = Record::parse(line).map_err(damage)?;
            if let Record::Disk(_, node) = &record
                && *node != self.me
            {
                return Err(damage(format!("this is node {node}'s file")));
            }
            if !record.is_of_the_disk() {
                lines.push_str(line);
                lines.push('\n');
            }
            if record.is_of_the_lab() {
                self.text += &record.to_string();
            }
            self.state.replay(record).map_err(damage)?;
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.file.extend_from_slice(lines.as_bytes());
        self.file.extend_from_slice(crc_line(lines.as_bytes()).as_bytes());
        Ok(())
    }
}

/// Where a line feed has become something else, so that a record and the crc line after it look like one record, one
/// without a crc line. Everywhere else a wrong byte leaves a crc line that doesn't fit.
fn missing_line_feed(uncovered: &[u8]) -> Option<usize> {
    let (records, crc) = uncovered.split_at_checked(uncovered.len().checked_sub(HEAD.len())?)?;
    let (_, rest) = records.split_last()?;
    (crc == crc_line(&[rest, b"\n"].concat()).as_bytes()).then_some(rest.len())
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
