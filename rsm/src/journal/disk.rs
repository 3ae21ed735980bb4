//! The file of a journal: written by its one writer, read once at a start. Invariants 2 to 4 of journal.rs.

use std::path::{Path, PathBuf};

use rt::fs::{self, File};

use super::error::{JournalError, io, too_long};
use super::format::{self, Refused, Scan, Writer};
use super::{Item, Owner, Recovered};
use crate::protocol::Viewstamp;

/// What is written at once, and what is synced at once.
const CHUNK_BYTES: usize = 1 << 20;
const CHUNKS_A_SYNC: usize = 16;

/// The file, as its only writer has it.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) owner: Owner,
    /// `None` until this process has begun one.
    pub(super) generation: Option<Generation>,
}

pub(super) struct Generation {
    file: File,
    writer: Writer,
}

impl Disk {
    /// Writes items and returns when they are on the disk. Says so when it has got on.
    pub(super) fn write(&mut self, batch: Vec<Item>, gets_on: &dyn Fn()) -> Result<(), JournalError> {
        let mut items = batch.into_iter().peekable();
        if let Some(Item::Base { mark, last, state }) = items.next_if(|item| matches!(item, Item::Base { .. })) {
            let rest: Vec<Item> = items.collect();
            self.generation = Some(self.replace(mark, last, state, &rest, gets_on)?);
            return Ok(());
        }
        let path = &self.path;
        let Generation { file, writer } = self.generation.as_mut().expect("the first item is a base");
        let bytes = frames(path, writer, Vec::new(), &items.collect::<Vec<_>>())?;
        write_in_chunks(path, file, &[&bytes], gets_on)
    }

    /// Puts a new generation in the place of the one before, if any (invariant 4).
    fn replace(
        &self,
        mark: u32,
        last: Viewstamp,
        state: Vec<u8>,
        rest: &[Item],
        gets_on: &dyn Fn(),
    ) -> Result<Generation, JournalError> {
        let path = &self.path;
        let new = fs::beside(path, ".new");
        fs::remove_leftover(&new).map_err(io(&new, "remove"))?;
        let (mut writer, head) = Writer::begin(&self.owner, mark, last, &state).map_err(too_long(path))?;
        let tail = frames(path, &mut writer, format::end_of_base(), rest)?;
        let mut file = File::create_new(&new).map_err(io(&new, "open"))?;
        let written = write_in_chunks(&new, &mut file, &[&head, &state, &tail], gets_on);
        written.and_then(|()| fs::rename(&new, path).map_err(io(path, "replace"))).inspect_err(|_| {
            // A full disk needs the room.
            let _ = fs::remove_file(&new);
        })?;
        sync_folder(path)?;
        Ok(Generation { file, writer })
    }

    /// Whether the generation still has its name. A folder that can't be looked at proves nothing.
    pub(super) fn look(&self) -> Result<(), JournalError> {
        match &self.generation {
            Some(generation) if !generation.file.is_at(&self.path).unwrap_or(true) => {
                Err(JournalError::Gone { path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Writes these bytes, one after the other, and returns when all are on the disk.
fn write_in_chunks(path: &Path, file: &mut File, parts: &[&[u8]], gets_on: &dyn Fn()) -> Result<(), JournalError> {
    let mut chunks = 0;
    for chunk in parts.iter().flat_map(|part| part.chunks(CHUNK_BYTES)) {
        file.write_all(chunk).map_err(io(path, "write"))?;
        gets_on();
        chunks += 1;
        if chunks % CHUNKS_A_SYNC == 0 {
            file.sync_data().map_err(io(path, "sync"))?;
            gets_on();
        }
    }
    file.sync_data().map_err(io(path, "sync"))
}

/// Adds the frames of requests and marks to `out`.
fn frames(path: &Path, writer: &mut Writer, mut out: Vec<u8>, items: &[Item]) -> Result<Vec<u8>, JournalError> {
    out.reserve_exact(items.iter().map(format::frame_bytes).sum());
    for item in items {
        writer.frame(&mut out, item).map_err(too_long(path))?;
    }
    Ok(out)
}

/// What the file at `path` says.
pub(super) fn read(path: &Path, me: &str) -> Result<Recovered, JournalError> {
    // To read a pipe would take for ever.
    if !fs::is_file(path).map_err(io(path, "look for"))? {
        return Err(JournalError::NoFile { path: path.to_owned() });
    }
    let bytes = fs::read(path).map_err(io(path, "read"))?;
    let Scan { recovered, keep } = Scan::of(&bytes).map_err(|refused| match refused {
        Refused::Damaged { offset, what } => JournalError::Damaged { path: path.to_owned(), offset, what },
        Refused::Format(format) => JournalError::Format { path: path.to_owned(), format },
    })?;
    if keep < bytes.len() {
        let to = bytes.len();
        tracing::warn!(node = me, file = %path.display(), from = keep, to, "torn end of journal dropped");
    }
    Ok(recovered)
}

pub(super) fn exists(path: &Path) -> Result<bool, JournalError> {
    fs::exists(path).map_err(io(path, "look for"))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), JournalError> {
    fs::sync_folder_of(path).map_err(io(path, "sync the folder of"))
}
