//! The log's file: `paxos-<me>.log` (lab: `log.cc`).
//!
//! ```text
//! done 1 41000
//! crc 6f0a6d52
//! propseen 1 41000
//! crc 9c0c5f1a
//! ```
//! After each append comes a line `crc HEX`: the CRC-32 of the bytes since the last such line, or since the beginning.
//! The lab's testers, which read this file while the node runs, skip it. A log of the lab has no such line at all; it is
//! read, and the first append of ours covers it.
//!
//! Invariants:
//! 1. One append is one write, and is on the disk before [`Log::append`] returns; the file's name is before
//!    [`Log::open`] does.
//! 2. After an error of the disk nothing more is written or answered: what was written isn't known.
//! 3. What a crash leaves of the last append is cut off at the next start. Everything else that isn't as it was written
//!    is an error with the file and the byte, never a different log: a checksum that doesn't fit (that of the last
//!    append too: it may have been answered for), a line that is no record, a number out of sequence.
//! 4. Only one process at a time has the file.
//!
//! Deviation from the lab: it neither syncs nor checks, and a torn line stops it (H5). Left out: dropping the oldest
//! instances (H22); a log may begin with any instance, so a shorter file can be put in its place.

use std::io;
use std::path::{Path, PathBuf};

use rt::fs::{self, File};

use crate::record::Record;
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
    /// An earlier write failed; the node must stop.
    #[error("{}: not written since an error", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

/// The file of a node's Paxos log, open for appending.
pub struct Log {
    path: PathBuf,
    file: File,
    /// Over the bytes since the last crc line.
    crc: crc32fast::Hasher,
    /// The records' lines, without the crc lines.
    text: String,
    failed: bool,
}

/// The name of a node's log in its folder.
pub fn file_name(me: &str) -> String {
    format!("paxos-{me}.log")
}

impl Log {
    /// Opens the log at `path`, or makes an empty one, and hands over what it says. Cuts off a torn end.
    ///
    /// # Errors
    /// When the file is in use, damaged, or can't be read and written.
    pub fn open(path: &Path, me: &str) -> Result<(Log, AcceptorState), LogError> {
        let io = |doing| move |source| LogError::Io { path: path.to_owned(), doing, source };
        let file = File::append(path).map_err(io("open"))?;
        if !file.try_lock().map_err(io("lock"))? {
            return Err(LogError::InUse { path: path.to_owned() });
        }
        fs::sync_dir(path.parent().unwrap_or(Path::new(""))).map_err(io("sync the folder of"))?;
        let bytes = fs::read(path).map_err(io("read"))?;
        let scan = Scan::of(&bytes, me).map_err(|Damage { offset, what }| LogError::Damaged {
            path: path.to_owned(),
            offset,
            what,
        })?;
        if scan.keep < bytes.len() {
            tracing::warn!(node = me, file = %path.display(), from = scan.keep, to = bytes.len(), "torn end of log cut off");
            let keep = if rt::probe::weakened("mutant-torn-end-stays") { bytes.len() } else { scan.keep };
            file.set_len(keep as u64).map_err(io("cut"))?;
        }
        // Also for bytes that an earlier process wrote and didn't live to sync: what is read now may be answered for.
        file.sync_data().map_err(io("sync"))?;
        let log = Log { path: path.to_owned(), file, crc: scan.crc, text: scan.text, failed: false };
        Ok((log, scan.state))
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
        self.crc.update(lines.as_bytes());
        let crc = std::mem::take(&mut self.crc).finalize();
        let whole = format!("{lines}crc {crc:08x}\n");
        self.text.push_str(&lines);
        let io = |doing| move |source| (doing, source);
        let written = self.file.write_all(whole.as_bytes()).map_err(io("write"));
        let sync = || if rt::probe::weakened("H5-answer-before-sync") { Ok(()) } else { self.file.sync_data() };
        written.and_then(|()| sync().map_err(io("sync"))).map_err(|(doing, source)| {
            self.failed = true;
            LogError::Io { path: self.path.clone(), doing, source }
        })
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

/// What is wrong with a log, and where.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    offset: usize,
    what: String,
}

/// What the bytes of a log say. Pure.
struct Scan {
    state: AcceptorState,
    text: String,
    /// How many bytes are good; what follows is a torn append.
    keep: usize,
    crc: crc32fast::Hasher,
}

impl Scan {
    fn of(bytes: &[u8], me: &str) -> Result<Scan, Damage> {
        let mut scan =
            Scan { state: AcceptorState::new(me), text: String::new(), keep: 0, crc: crc32fast::Hasher::new() };
        let mut has_crcs = false;
        // The lines since the last crc line, and where each begins.
        let mut block: Vec<(usize, &str)> = Vec::new();
        let mut offset = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let damage = |what: &str| Damage { offset, what: what.to_owned() };
            let Some(whole) = line.strip_suffix(b"\n") else {
                // After a power cut some file systems show bytes that were appended and not synced as zeros.
                let zeros = line.iter().rev().take_while(|byte| **byte == 0).count();
                let torn = line.get(..line.len() - zeros).unwrap_or_default();
                let legible = Record::may_begin(torn) && !rt::probe::weakened("H5-torn-end-stops");
                if !torn.is_empty() && !legible {
                    return Err(damage("no record begins like this"));
                }
                break;
            };
            let whole = std::str::from_utf8(whole).map_err(|_| damage("no text"))?;
            match whole.strip_prefix("crc ") {
                Some(hex) => {
                    let since = block.first().map_or(offset, |(at, _)| *at);
                    let is = crc32fast::hash(bytes.get(since..offset).unwrap_or_default());
                    if hex != format!("{is:08x}") && !rt::probe::weakened("mutant-crc-unchecked") {
                        return Err(Damage { offset: since, what: "the checksum doesn't fit".to_owned() });
                    }
                    scan.take(&block)?;
                    block.clear();
                    has_crcs = true;
                    scan.keep = offset + line.len();
                }
                None => {
                    Record::parse(whole).map_err(|what| damage(&what))?;
                    block.push((offset, whole));
                }
            }
            offset += line.len();
        }
        if !has_crcs {
            // A log of the lab: what is whole counts, and our first crc line will cover all of it. (Or our own very first
            // append, torn: its whole lines count too. They have not been answered for; a vote more is always safe.)
            scan.take(&block)?;
            scan.keep = offset;
            scan.crc.update(bytes.get(..offset).unwrap_or_default());
        }
        Ok(scan)
    }

    fn take(&mut self, block: &[(usize, &str)]) -> Result<(), Damage> {
        for (offset, line) in block {
            let replayed = Record::parse(line).and_then(|record| self.state.replay(record));
            replayed.map_err(|what| Damage { offset: *offset, what })?;
            self.text.push_str(line);
            self.text.push('\n');
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
