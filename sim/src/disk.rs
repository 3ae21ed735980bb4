//! Disks in memory, never lost.
#![expect(clippy::disallowed_types, reason = "a backend's own lock; it is never held across a switch")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rt::backend::File;

#[derive(Default)]
struct Inode {
    bytes: Vec<u8>,
    locked: bool,
}

#[derive(Clone, Default)]
pub struct Disks(Arc<Mutex<Tree>>);

#[derive(Default)]
struct Tree {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<Mutex<Inode>>>,
}

impl Tree {
    /// `NotFound` unless the folder is there. The empty one always is.
    fn check_folder(&self, folder: Option<&Path>) -> io::Result<()> {
        match folder {
            Some(folder) if !folder.as_os_str().is_empty() && !self.folders.contains(folder) => {
                Err(ErrorKind::NotFound.into())
            }
            _ => Ok(()),
        }
    }
}

impl Disks {
    /// Empty disks.
    pub fn new(_kernel: &crate::kernel::Kernel) -> Self {
        Disks::default()
    }

    pub fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    pub fn open(&self, path: &Path, new: bool) -> io::Result<OpenFile> {
        let mut tree = self.0.lock().unwrap();
        tree.check_folder(path.parent())?;
        if new && tree.files.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = tree.files.entry(path.to_owned()).or_default().clone();
        Ok(OpenFile { inode, has_lock: Mutex::new(false) })
    }

    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let tree = self.0.lock().unwrap();
        let inode = tree.files.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(inode.lock().unwrap().bytes.clone())
    }

    pub fn exists(&self, path: &Path) -> bool {
        let tree = self.0.lock().unwrap();
        tree.files.contains_key(path) || tree.folders.contains(path)
    }

    pub fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let tree = self.0.lock().unwrap();
        tree.check_folder(Some(path))?;
        let inside = tree.files.keys().chain(&tree.folders).filter(|p| p.parent() == Some(path));
        let mut names: Vec<_> = inside.filter_map(|p| p.file_name()).map(OsString::from).collect();
        names.sort();
        Ok(names)
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.0.lock().unwrap();
        let inode = tree.files.remove(from).ok_or(ErrorKind::NotFound)?;
        tree.files.insert(to.to_owned(), inode);
        Ok(())
    }

    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().files.remove(path).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().folders.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }
}

pub struct OpenFile {
    inode: Arc<Mutex<Inode>>,
    has_lock: Mutex<bool>,
}

impl File for OpenFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inode.lock().unwrap().bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inode.lock().unwrap().bytes.resize(length as usize, 0);
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut mine = self.has_lock.lock().unwrap();
        let mut inode = self.inode.lock().unwrap();
        if !inode.locked {
            (inode.locked, *mine) = (true, true);
        }
        Ok(*mine)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if *self.has_lock.lock().unwrap() {
            self.inode.lock().unwrap().locked = false;
        }
    }
}
