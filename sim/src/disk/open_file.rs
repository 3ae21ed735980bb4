//! A file as a process has it open: where the faults of writes and syncs are.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::PathBuf;

use rt::backend::File;

use super::content::{What, some_of};
use super::{DISK_FULL, Disks, WRITE_ERROR, hash_of};

/// A file open for appending.
pub struct OpenFile {
    pub(super) disks: Disks,
    pub(super) host: IpAddr,
    pub(super) number: u64,
    /// The name that it was opened by.
    pub(super) name: PathBuf,
}

impl File for OpenFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kernel = &self.disks.kernel;
        kernel.stir(hash_of(bytes));
        let mut inner = self.disks.inner();
        let (content, faults) = inner.opened(self)?;
        let fault = if faults.full {
            Some((DISK_FULL, ErrorKind::StorageFull))
        } else {
            kernel.chance(faults.write_errors).then_some((WRITE_ERROR, ErrorKind::Other))
        };
        let there = if fault.is_some() { some_of(kernel, bytes.len()) } else { bytes.len() };
        if there > 0 {
            let at = content.written.len();
            content.change(What::Bytes { at, bytes: bytes.get(..there).unwrap_or_default().to_vec() });
        }
        let Some((counter, kind)) = fault else { return Ok(()) };
        inner.failed(self);
        drop(inner);
        kernel.count(counter);
        self.disks.tell(|| format!("{counter}: {}, {there} of {} bytes", self.name.display(), bytes.len()));
        Err(io::Error::new(kind, "injected: write"))
    }

    fn sync_data(&self) -> io::Result<()> {
        let kernel = &self.disks.kernel;
        let (number, faults) = {
            let mut inner = self.disks.inner();
            let (content, faults) = inner.opened(self)?;
            (content.next_change, faults.clone())
        };
        self.disks.pause(self.host, &faults);
        kernel.stir(number);
        let (failed, length) = {
            let mut inner = self.disks.inner();
            let (content, faults) = inner.opened(self)?;
            let failed = kernel.chance(faults.sync_errors);
            if failed {
                content.fail_sync(number, kernel);
            } else {
                content.sync(number);
            }
            let length = content.durable.len();
            if failed {
                inner.failed(self);
            }
            (failed, length)
        };
        self.disks.synced(failed, || format!("{}, {length} bytes", self.name.display()))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let kernel = &self.disks.kernel;
        kernel.stir(length);
        let mut inner = self.disks.inner();
        let (content, faults) = inner.opened(self)?;
        if kernel.chance(faults.write_errors) {
            inner.failed(self);
            drop(inner);
            kernel.count(WRITE_ERROR);
            self.disks.tell(|| format!("{WRITE_ERROR}: {}, length not set", self.name.display()));
            return Err(io::Error::other("injected: set length"));
        }
        let length = usize::try_from(length).map_err(|_| ErrorKind::FileTooLarge)?;
        if length != content.written.len() {
            content.change(What::Length(length));
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut inner = self.disks.inner();
        let (content, _) = inner.opened(self)?;
        Ok(*content.locked_by.get_or_insert(self.number) == self.number)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut inner = self.disks.inner();
        if let Ok((content, _)) = inner.opened(self)
            && content.locked_by == Some(self.number)
        {
            content.locked_by = None;
        }
        if let Some(machine) = inner.machines.get_mut(&self.host) {
            machine.open.remove(&self.number);
        }
    }
}
