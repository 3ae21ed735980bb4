//! Disks in memory: a file tree for each machine, with a page cache above it that a power cut loses.
//!
//! The caller's machine is the IP address in the name of its node; a node without one is on 127.0.0.1. What a process
//! does to a file is seen by all at once, and becomes durable later: bytes and lengths by
//! [`File::sync_data`](rt::backend::File::sync_data), names by [`Disks::sync_dir`]. A sync takes effect at its end, for what was done before its beginning.
//!
//! Invariants:
//! 1. What was synced survives everything but [`Disks::wipe`] and [`Disks::flip_bit`], in its bytes and in its name.
//! 2. What a power cut leaves of a file's unsynced changes is a prefix of them; of the last that survives, any end may
//!    be zeros or garbage. The bytes that it had before aren't touched.
//! 3. Changes of names survive in order in each folder. A rename is done or not: there is the old name or the new one.
//! 4. Bytes of a failed sync are clean, as on Linux: readers see them, no later sync writes them, and whether they are
//!    on the disk is known after the next power cut only. If they aren't, there are zeros when later bytes follow. A
//!    length that was set is metadata and isn't lost so; nor are names, whose next sync may succeed.
//! 5. A process's end, however it ends, closes its files and frees their locks, even if no destructor runs.
//! 6. The lock here is never held across a switch.
//!
//! Simplified: folders are durable at once; only appends and set lengths fail, and syncs; reads never do.
#![expect(clippy::disallowed_types, reason = "a backend's own lock; it is never held across a switch")]

mod content;
mod machine;
mod open_file;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rt::thread::Node;

use self::content::{Content, Cut};
use self::machine::Machine;
pub use self::open_file::OpenFile;
use crate::kernel::Kernel;
use crate::world::host_of;

/// How long a sync takes.
const SYNC_LEAST: Duration = Duration::from_micros(50);
const SYNC_MOST: Duration = Duration::from_millis(2);
/// The same for a slow disk.
const SLOW_LEAST: Duration = Duration::from_millis(5);
const SLOW_MOST: Duration = Duration::from_millis(500);

const WRITE_ERROR: &str = "fault: write error";
const SYNC_ERROR: &str = "fault: sync error";
const DISK_FULL: &str = "fault: disk full";
const BYTES_LOST: &str = "fault: unsynced bytes lost";
const TORN_WRITE: &str = "fault: torn write";
const BIT_FLIPPED: &str = "fault: bit flipped";
const DISK_LOST: &str = "fault: disk lost";
const SLOW_DISK: &str = "fault: slow disk";
const HUNG_DISK: &str = "fault: hung disk";
/// How often a sync that hangs looks whether the disk is healed.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The names of all counters that the disks' faults have in the totals.
pub fn counters() -> Vec<&'static str> {
    vec![WRITE_ERROR, SYNC_ERROR, DISK_FULL, BYTES_LOST, TORN_WRITE, BIT_FLIPPED, DISK_LOST, SLOW_DISK, HUNG_DISK]
}

/// What is wrong with a machine's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Of 1024 writes (and set lengths), so many fail. Any prefix of the bytes may be there then.
    pub write_errors: u64,
    /// Of 1024 syncs, so many fail.
    pub sync_errors: u64,
    /// No write succeeds; a prefix of the bytes may find room.
    pub full: bool,
    /// Syncs take much longer.
    pub slow: bool,
    /// Syncs don't end until the disk is healed.
    pub hung: bool,
    /// So many syncs still end, and then it is hung.
    pub hangs_after: Option<u64>,
}

impl DiskFaults {
    /// Whether this sync finds the disk hung.
    fn sync_begins(&mut self) -> bool {
        self.hangs_after = self.hangs_after.and_then(|syncs| {
            self.hung |= syncs == 0;
            syncs.checked_sub(1)
        });
        self.hung
    }
}

/// What power cuts do to the last write that survives in a file. Both are numbers of 1024 cases, and add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tearing {
    /// The end of the write is zeros.
    pub zeros: u64,
    /// The end of the write is random bytes.
    pub garbage: u64,
}

impl Default for Tearing {
    fn default() -> Self {
        Tearing { zeros: 256, garbage: 128 }
    }
}

/// The disks of all machines. Clones are the same ones.
#[derive(Clone)]
pub struct Disks {
    kernel: Kernel,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    machines: BTreeMap<IpAddr, Machine>,
    tearing: Tearing,
    /// Files and handles have numbers that are never used again.
    next_number: u64,
}

fn hash_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// `path` without steps to where one is already.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The file of a handle; an error if its process is gone.
    fn opened(&mut self, handle: &OpenFile) -> io::Result<(&mut Content, &DiskFaults)> {
        let machine = self.machines.entry(handle.host).or_default();
        let content = machine.open.get(&handle.number).and_then(|file| machine.files.get_mut(file));
        content.map(|content| (content, &machine.faults)).ok_or_else(|| io::Error::other("closed with its process"))
    }

    fn failed(&mut self, handle: &OpenFile) {
        if let Some(machine) = self.machines.get_mut(&handle.host) {
            machine.failed = true;
        }
    }
}

impl Disks {
    /// Empty disks.
    pub fn new(kernel: &Kernel) -> Self {
        Disks { kernel: kernel.clone(), inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn with<T>(&self, host: IpAddr, work: impl FnOnce(&mut Machine) -> T) -> T {
        work(self.inner().machines.entry(host).or_default())
    }

    /// On the caller's machine.
    fn here<T>(&self, work: impl FnOnce(&mut Machine) -> T) -> T {
        self.with(here(), work)
    }

    /// A line of the trace about a machine.
    fn note(&self, host: IpAddr, line: impl FnOnce() -> String) {
        self.kernel.note(&host.to_string(), line);
    }

    /// A line of the trace about what the caller did.
    fn tell(&self, line: impl FnOnce() -> String) {
        self.kernel.note(Node::current().name(), line);
    }

    /// As [`rt::backend::Backend::append`], or [`rt::backend::Backend::create_new`] if `new`.
    ///
    /// # Errors
    /// `NotFound` without the folder, `AlreadyExists` if it is to be new and isn't.
    pub fn open(&self, path: &Path, new: bool) -> io::Result<OpenFile> {
        let (path, host) = (tidy(path), here());
        let mut inner = self.inner();
        let (number, fresh) = (inner.number(), inner.number());
        let machine = inner.machines.entry(host).or_default();
        machine.check_name(&path)?;
        let file = match machine.names.get(&path) {
            Some(_) if new => return Err(ErrorKind::AlreadyExists.into()),
            Some(file) => *file,
            None => {
                machine.files.insert(fresh, Content::default());
                machine.change(vec![(path.clone(), Some(fresh))]);
                fresh
            }
        };
        machine.open.insert(number, file);
        Ok(OpenFile { disks: self.clone(), host, number, name: path })
    }

    /// As [`rt::backend::Backend::read`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.here(|machine| {
            let file = machine.file(&tidy(path))?;
            Ok(machine.files.get(&file).map(|content| content.written.clone()).unwrap_or_default())
        })
    }

    /// As [`rt::backend::Backend::exists`].
    pub fn exists(&self, path: &Path) -> bool {
        let path = tidy(path);
        self.here(|machine| machine.names.contains_key(&path) || machine.check_folder(&path).is_ok())
    }

    /// As [`rt::backend::Backend::list`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let path = tidy(path);
        self.here(|machine| {
            machine.check_folder(&path)?;
            let inside = machine.names.keys().chain(&machine.folders).filter(|p| p.parent() == Some(&path));
            let mut names: Vec<_> = inside.filter_map(|p| p.file_name()).map(OsString::from).collect();
            names.sort();
            Ok(names)
        })
    }

    /// As [`rt::backend::Backend::rename`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (tidy(from), tidy(to));
        self.here(|machine| {
            let file = machine.file(&from)?;
            machine.check_name(&to)?;
            if from != to {
                machine.change(vec![(from, None), (to, Some(file))]);
            }
            Ok(())
        })
    }

    /// As [`rt::backend::Backend::remove_file`].
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let path = tidy(path);
        self.here(|machine| {
            machine.file(&path)?;
            machine.change(vec![(path, None)]);
            Ok(())
        })
    }

    /// As [`rt::backend::Backend::create_dir_all`]. Folders are durable at once.
    ///
    /// # Errors
    /// `NotADirectory` when a file is in the way.
    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = tidy(path);
        self.here(|machine| {
            let folders = || path.ancestors().filter(|folder| folder.file_name().is_some());
            if folders().any(|folder| machine.names.contains_key(folder)) {
                return Err(ErrorKind::NotADirectory.into());
            }
            machine.folders.extend(folders().map(Path::to_owned));
            Ok(())
        })
    }

    /// As [`rt::backend::Backend::sync_dir`]. After an error the names may be durable or not; the next sync tries again.
    ///
    /// # Errors
    /// `NotFound`, and the injected ones.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let (path, host) = (tidy(path), here());
        let (number, faults) = self.with(host, |machine| {
            machine.check_folder(&path).map(|()| (machine.next_change, machine.faults.clone()))
        })?;
        self.pause(host, &faults);
        self.kernel.stir(number);
        let failed = self.with(host, |machine| {
            let failed = self.kernel.chance(machine.faults.sync_errors);
            if failed {
                machine.sync_some_names(number, &self.kernel);
            } else {
                machine.sync_names(&path, number);
            }
            machine.failed |= failed;
            machine.collect();
            failed
        });
        self.synced(failed, || format!("folder {}", path.display()))
    }

    fn synced(&self, failed: bool, what: impl FnOnce() -> String) -> io::Result<()> {
        self.tell(|| format!("sync{} {}", if failed { " FAILED:" } else { "" }, what()));
        if failed {
            self.kernel.count(SYNC_ERROR);
            return Err(io::Error::other("injected: sync"));
        }
        Ok(())
    }

    /// Blocks the caller for as long as a sync takes, on its own clock.
    fn pause(&self, host: IpAddr, faults: &DiskFaults) {
        if self.with(host, |machine| machine.faults.sync_begins()) {
            self.kernel.count(HUNG_DISK);
            self.tell(|| "the disk hangs".to_owned());
            while self.with(host, |machine| machine.faults.hung) && self.sleep(LOOK_AGAIN) {}
        }
        let (least, most) = if faults.slow { (SLOW_LEAST, SLOW_MOST) } else { (SYNC_LEAST, SYNC_MOST) };
        let pause = self.kernel.between(least, most);
        if faults.slow {
            self.kernel.count(SLOW_DISK);
            self.tell(|| format!("slow disk: {pause:?}"));
        }
        self.sleep(pause);
    }

    /// Blocks the caller on its own clock. False if time stands still.
    fn sleep(&self, pause: Duration) -> bool {
        let until = self.kernel.local_now() + pause;
        let bed = 0_u8;
        loop {
            let before = self.kernel.now();
            let woken = self.kernel.park(ptr::from_ref(&bed).addr(), Some(until));
            // Time stands still if nobody can be parked: outside of a run, or while the caller unwinds.
            if !woken || self.kernel.local_now() >= until || self.kernel.now() == before {
                return self.kernel.now() > before;
            }
        }
    }

    /// The processes of a machine are gone: their files are closed, the locks free. What they wrote is there still.
    pub fn process_died(&self, host: IpAddr) {
        self.with(host, |machine| {
            machine.close_all();
            machine.collect();
        });
    }

    /// A machine has lost power, and its page cache: of what wasn't synced, some is lost. Its processes must have been
    /// ended before; what they had open is closed.
    pub fn power_off(&self, host: IpAddr) {
        let mut inner = self.inner();
        let Inner { machines, tearing, .. } = &mut *inner;
        let machine = machines.entry(host).or_default();
        machine.close_all();
        machine.sync_some_names(u64::MAX, &self.kernel);
        let names_lost = mem::take(&mut machine.unsynced).len();
        machine.names.clone_from(&machine.durable_names);
        machine.collect();
        let mut cuts = Vec::new();
        for (file, content) in &mut machine.files {
            let cut = content.cut_power(&self.kernel, tearing);
            if cut.lost > 0 {
                self.kernel.count(BYTES_LOST);
            }
            if cut.torn.is_some() {
                self.kernel.count(TORN_WRITE);
            }
            if cut.unsynced > 0 {
                self.kernel.stir(hash_of(&content.durable));
                cuts.push((*file, cut));
            }
        }
        self.note(host, || {
            let name = |file| machine.names.iter().find(|(_, f)| **f == file).map(|(name, _)| name.display());
            let cuts = cuts.iter().map(|(file, Cut { unsynced, lost, torn })| {
                let name = name(*file).map(|name| name.to_string()).unwrap_or_default();
                format!("; {name}: {lost} of {unsynced} unsynced bytes lost, torn: {}", torn.unwrap_or("no"))
            });
            format!("power off: {names_lost} changes of names lost{}", cuts.collect::<String>())
        });
    }

    /// Whether a power cut would lose something now.
    pub fn has_unsynced(&self, host: IpAddr) -> bool {
        let inner = self.inner();
        let machine = inner.machines.get(&host);
        machine.is_some_and(|machine| machine.files.values().any(|content| !content.unsynced.is_empty()))
    }

    /// Whether a process that runs on this machine was told of an error of its disk.
    pub fn has_failed(&self, host: IpAddr) -> bool {
        self.inner().machines.get(&host).is_some_and(|machine| machine.failed)
    }

    /// A machine's disk is lost, and replaced by an empty one, without folders even. What is open is closed.
    pub fn wipe(&self, host: IpAddr) {
        self.with(host, |machine| {
            *machine = Machine { faults: mem::take(&mut machine.faults), ..Machine::default() };
        });
        self.kernel.count(DISK_LOST);
        self.note(host, || "disk lost".to_owned());
    }

    /// Flips one bit of a durable byte of some file, for those who read the page cache too. Tells which byte; `None` if
    /// there is none.
    pub fn flip_bit(&self, host: IpAddr) -> Option<(PathBuf, usize)> {
        let flipped = self.with(host, |machine| {
            let Machine { names, files, .. } = machine;
            let durable = |file| files.get(file).map_or(0, |c: &Content| c.durable.len().min(c.written.len()));
            let full: Vec<_> = names.iter().filter(|(_, file)| durable(file) > 0).collect();
            let (path, file) = *full.get(self.kernel.below(full.len() as u64) as usize)?;
            let at = self.kernel.below(durable(file) as u64) as usize;
            let bit = 1 << self.kernel.below(8);
            let content = files.get_mut(file)?;
            *content.durable.get_mut(at)? ^= bit;
            *content.written.get_mut(at)? ^= bit;
            Some((path.clone(), at))
        })?;
        self.kernel.count(BIT_FLIPPED);
        self.note(host, || format!("bit flipped: {}, byte {}", flipped.0.display(), flipped.1));
        Some(flipped)
    }

    /// From now on a machine's disk has these faults.
    pub fn set_faults(&self, host: IpAddr, faults: DiskFaults) {
        self.note(host, || format!("disk: {faults:?}"));
        self.with(host, |machine| machine.faults = faults);
    }

    /// A machine's disk works again; what it has lost stays lost.
    pub fn heal(&self, host: IpAddr) {
        self.set_faults(host, DiskFaults::default());
    }

    /// From now on power cuts tear writes like this, on all machines.
    pub fn set_tearing(&self, tearing: Tearing) {
        self.inner().tearing = tearing;
    }

    /// All files of a machine, as its processes would read them, by name.
    pub fn files(&self, host: IpAddr) -> Vec<(PathBuf, Vec<u8>)> {
        self.with(host, |machine| {
            let content = |file| machine.files.get(file).map(|c| c.written.clone()).unwrap_or_default();
            machine.names.iter().map(|(path, file)| (path.clone(), content(file))).collect()
        })
    }

    /// Forgets all machines: after a run, whose abandoned stacks keep references to the disks for ever.
    pub fn clear(&self) {
        self.inner().machines.clear();
    }
}

/// The caller's machine.
fn here() -> IpAddr {
    host_of(&Node::current()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
