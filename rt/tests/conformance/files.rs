//! Files and folders.

use std::io::ErrorKind;
use std::path::Path;

use rt::fs::{self, File};

use super::Check;

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("what_is_appended_is_read_back", what_is_appended_is_read_back),
    ("a_cut_file_goes_on_at_its_new_end", a_cut_file_goes_on_at_its_new_end),
    ("a_renamed_file_replaces_the_other", a_renamed_file_replaces_the_other),
    ("what_is_not_there_is_not_found", what_is_not_there_is_not_found),
    ("a_lock_on_a_file_has_one_holder", a_lock_on_a_file_has_one_holder),
];

fn what_is_appended_is_read_back(folder: &Path) {
    let path = folder.join("log");
    let mut file = File::append(&path).unwrap();
    file.write_all(b"one ").unwrap();
    file.sync_data().unwrap();
    fs::sync_dir(folder).unwrap();
    drop(file);
    let mut file = File::append(&path).unwrap();
    file.write_all(b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    assert_eq!(File::create_new(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
    File::create_new(&folder.join("fresh")).unwrap().write_all(b"x").unwrap();
    assert_eq!(fs::read(&folder.join("fresh")).unwrap(), b"x");
}

fn a_cut_file_goes_on_at_its_new_end(folder: &Path) {
    let path = folder.join("log");
    let mut file = File::append(&path).unwrap();
    file.write_all(b"good torn").unwrap();
    file.set_len(5).unwrap();
    file.write_all(b"again").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"good again");
}

fn a_renamed_file_replaces_the_other(folder: &Path) {
    let (old, new) = (folder.join("snapshot"), folder.join("snapshot.new"));
    File::create_new(&old).unwrap().write_all(b"old").unwrap();
    File::create_new(&new).unwrap().write_all(b"new").unwrap();
    assert_eq!(fs::list(folder).unwrap(), ["snapshot", "snapshot.new"]);
    fs::rename(&new, &old).unwrap();
    fs::sync_dir(folder).unwrap();
    assert_eq!(fs::read(&old).unwrap(), b"new");
    assert_eq!(fs::list(folder).unwrap(), ["snapshot"]);
    fs::remove_file(&old).unwrap();
    assert!(fs::list(folder).unwrap().is_empty());
}

fn what_is_not_there_is_not_found(folder: &Path) {
    let (file, deep) = (folder.join("file"), folder.join("a").join("b"));
    assert!(!fs::exists(&file).unwrap());
    assert_eq!(fs::read(&file).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(fs::remove_file(&file).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(fs::rename(&file, &folder.join("other")).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(fs::list(&deep).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(File::append(&deep.join("log")).err().unwrap().kind(), ErrorKind::NotFound);
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(&deep).unwrap();
    assert!(fs::exists(&folder.join("a")).unwrap());
    File::append(&deep.join("log")).unwrap();
    assert!(fs::exists(&deep.join("log")).unwrap());
}

fn a_lock_on_a_file_has_one_holder(folder: &Path) {
    let path = folder.join("lock");
    let first = File::append(&path).unwrap();
    let second = File::append(&path).unwrap();
    assert!(first.try_lock().unwrap());
    assert!(!second.try_lock().unwrap());
    drop(first);
    assert!(second.try_lock().unwrap());
}
