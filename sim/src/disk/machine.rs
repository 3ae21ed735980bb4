//! The disk of one machine: its folders, names and files, and which of its names are durable (invariant 3 of [`super`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::DiskFaults;
use super::content::{Content, some_of};
use crate::kernel::Kernel;

#[derive(Default)]
pub(super) struct Machine {
    pub(super) faults: DiskFaults,
    pub(super) folders: BTreeSet<PathBuf>,
    /// The file of each name, as processes see it.
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    /// What leads from the durable names to the others, in order.
    pub(super) unsynced: Vec<NameChange>,
    pub(super) next_change: u64,
    pub(super) files: BTreeMap<u64, Content>,
    /// The file of each open handle.
    pub(super) open: BTreeMap<u64, u64>,
    /// Its processes were told of an error.
    pub(super) failed: bool,
}

/// Names get a file or lose it, all at once.
pub(super) struct NameChange {
    pub(super) number: u64,
    pub(super) set: Vec<(PathBuf, Option<u64>)>,
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl NameChange {
    pub(super) fn touches(&self, folder: &Path) -> bool {
        self.set.iter().any(|(path, _)| folder_of(path) == folder)
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        for (path, file) in &self.set {
            match file {
                Some(file) => names.insert(path.clone(), *file),
                None => names.remove(path),
            };
        }
    }
}

impl Machine {
    /// `NotFound` unless the folder is there. The working directory and the root always are.
    pub(super) fn check_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.file_name().is_none() || self.folders.contains(folder) {
            return Ok(());
        }
        Err(if self.names.contains_key(folder) { ErrorKind::NotADirectory } else { ErrorKind::NotFound }.into())
    }

    /// An error if `path` can't be a file's name.
    pub(super) fn check_name(&self, path: &Path) -> io::Result<()> {
        self.check_folder(folder_of(path))?;
        if path.file_name().is_none() || self.folders.contains(path) {
            return Err(ErrorKind::IsADirectory.into());
        }
        Ok(())
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        self.check_name(path)?;
        self.names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) fn change(&mut self, set: Vec<(PathBuf, Option<u64>)>) {
        let change = NameChange { number: self.next_change, set };
        self.next_change += 1;
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }

    /// Makes the changes before `number` durable that touch `folder`, and with a rename from or to another folder those
    /// that came before it there.
    pub(super) fn sync_names(&mut self, folder: &Path, number: u64) {
        let mut folders = BTreeSet::from([folder.to_owned()]);
        let mut synced = BTreeSet::new();
        for change in self.unsynced.iter().rev().filter(|change| change.number < number) {
            if folders.iter().any(|folder| change.touches(folder)) {
                folders.extend(change.set.iter().map(|(path, _)| folder_of(path).to_owned()));
                synced.insert(change.number);
            }
        }
        self.unsynced.retain(|change| {
            let stays = !synced.contains(&change.number);
            if !stays {
                change.apply(&mut self.durable_names);
            }
            stays
        });
    }

    /// Makes a drawn prefix of each folder's changes durable, of those before `number`. The rest stays as it is.
    pub(super) fn sync_some_names(&mut self, number: u64, kernel: &Kernel) {
        let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (path, _) in self.unsynced.iter().filter(|change| change.number < number).flat_map(|change| &change.set) {
            *counts.entry(folder_of(path).to_owned()).or_default() += 1;
        }
        let mut left: BTreeMap<PathBuf, usize> =
            counts.into_iter().map(|(folder, count)| (folder, some_of(kernel, count))).collect();
        self.unsynced.retain(|change| {
            let folders = || change.set.iter().map(|(path, _)| folder_of(path));
            let survives = change.number < number && folders().all(|folder| left.get(folder).is_some_and(|n| *n > 0));
            for folder in folders() {
                // Nothing overtakes what is lost.
                left.entry(folder.to_owned()).and_modify(|n| *n = if survives { n.saturating_sub(1) } else { 0 });
            }
            if survives {
                change.apply(&mut self.durable_names);
            }
            !survives
        });
    }

    /// Forgets files that nobody can reach any more.
    pub(super) fn collect(&mut self) {
        let Machine { names, durable_names, unsynced, open, files, .. } = self;
        let changes = unsynced.iter().flat_map(|change| &change.set).filter_map(|(_, file)| *file);
        let reached: BTreeSet<u64> =
            names.values().chain(durable_names.values()).chain(open.values()).copied().chain(changes).collect();
        files.retain(|file, _| reached.contains(file));
    }

    pub(super) fn close_all(&mut self) {
        self.open.clear();
        self.failed = false;
        self.files.values_mut().for_each(|content| content.locked_by = None);
    }
}
