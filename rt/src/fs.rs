//! Files: read whole, appended to, synced, cut, renamed. Every path is the caller's.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::objects::AnyFile;
// A trait object brings its methods along.
#[cfg(not(feature = "sim"))]
use crate::objects::File as _;

/// A file open for appending.
pub struct File(AnyFile);

impl File {
    /// Opens a file to append to it; it is created if it isn't there.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn append(path: &Path) -> io::Result<Self> {
        redirect!(backend => backend.append(path).map(File));
        os::append(path).map(File)
    }

    /// Creates a file to write; `AlreadyExists` if there is one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        redirect!(backend => backend.create_new(path).map(File));
        os::create_new(path).map(File)
    }

    /// Writes all bytes at the end. After an error any part of them may be there.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Returns when everything written is on the disk. After an error nothing is known of it: the caller must stop.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Cuts the file off after `length` bytes.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    /// Takes the file's lock, to be released when this `File` is dropped or the process ends; false if another has it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }

    /// Whether `path` names this file: false if it names another one, or none.
    ///
    /// # Errors
    /// When the operating system can't tell.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.0.is_at(path)
    }
}

/// The whole content of a file.
///
/// # Errors
/// What the operating system says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    redirect!(backend => backend.read(path));
    os::read(path)
}

/// Whether there is something at `path`.
///
/// # Errors
/// When the operating system can't tell.
pub fn exists(path: &Path) -> io::Result<bool> {
    redirect!(backend => backend.exists(path));
    os::exists(path)
}

/// Whether what is at `path` is a file, and no folder, pipe or device.
///
/// # Errors
/// What the operating system says.
pub fn is_file(path: &Path) -> io::Result<bool> {
    // A simulated disk has nothing but files.
    redirect!(backend => backend.exists(path));
    os::is_file(path)
}

/// The names in a folder, sorted; the working directory's if `path` is empty.
///
/// # Errors
/// What the operating system says.
pub fn list(path: &Path) -> io::Result<Vec<OsString>> {
    redirect!(backend => backend.list(path));
    os::list(path)
}

/// Gives a file another name, replacing what had it. Durable after [`sync_dir`].
///
/// # Errors
/// What the operating system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    redirect!(backend => backend.rename(from, to));
    os::rename(from, to)
}

/// Removes a file. Durable after [`sync_dir`].
///
/// # Errors
/// What the operating system says.
pub fn remove_file(path: &Path) -> io::Result<()> {
    redirect!(backend => backend.remove_file(path));
    os::remove_file(path)
}

/// Makes a folder and those above it.
///
/// # Errors
/// What the operating system says.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    redirect!(backend => backend.create_dir_all(path));
    os::create_dir_all(path)
}

/// Returns when the names in a folder (creations, renames, removals) are on the disk; the working directory's if
/// `path` is empty.
///
/// # Errors
/// What the operating system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    redirect!(backend => backend.sync_dir(path));
    os::sync_dir(path)
}

/// [`sync_dir`] of the folder that `path` is in.
///
/// # Errors
/// What the operating system says.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_dir(path.parent().unwrap_or(Path::new("")))
}

/// Removes the file at `path`, if there is one.
///
/// # Errors
/// What the operating system says.
pub fn remove_leftover(path: &Path) -> io::Result<()> {
    if exists(path)? { remove_file(path) } else { Ok(()) }
}

/// The path of the file beside that at `path` whose name is longer by `end`.
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

pub(crate) mod os {
    #![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "the operating system's backend")]
    use std::ffi::OsString;
    use std::fs::{self, OpenOptions, TryLockError};
    use std::io::{self, ErrorKind, Write};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use crate::objects::{self, AnyFile, any};

    pub(crate) struct File(fs::File);

    pub(crate) fn append(path: &Path) -> io::Result<AnyFile> {
        Ok(any(File(OpenOptions::new().append(true).create(true).open(path)?)))
    }

    pub(crate) fn create_new(path: &Path) -> io::Result<AnyFile> {
        Ok(any(File(OpenOptions::new().append(true).create_new(true).open(path)?)))
    }

    impl objects::File for File {
        fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.write_all(bytes)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.0.set_len(length)
        }

        fn try_lock(&self) -> io::Result<bool> {
            match self.0.try_lock() {
                Ok(()) => Ok(true),
                Err(TryLockError::WouldBlock) => Ok(false),
                Err(TryLockError::Error(e)) => Err(e),
            }
        }

        fn is_at(&self, path: &Path) -> io::Result<bool> {
            let here = self.0.metadata()?;
            match fs::metadata(path) {
                Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        }
    }

    /// The working directory, for the folder of a bare file name.
    fn folder(path: &Path) -> &Path {
        if path.as_os_str().is_empty() { Path::new(".") } else { path }
    }

    pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    pub(crate) fn exists(path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    pub(crate) fn is_file(path: &Path) -> io::Result<bool> {
        Ok(fs::metadata(path)?.is_file())
    }

    pub(crate) fn list(path: &Path) -> io::Result<Vec<OsString>> {
        let mut names =
            fs::read_dir(folder(path))?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
        fs::File::open(folder(path))?.sync_all()
    }
}
