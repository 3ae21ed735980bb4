//! The table of canaries and the code speak of the same mistakes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use sim::canaries::CANARIES;

/// The crates that mistakes may be put into.
const CRATES: [&str; 5] = ["rpc", "paxos", "config", "rsm", "lock_server"];

/// The names that a folder's sources ask for.
fn asked_for(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            asked_for(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            for rest in source.split("weakened(\"").skip(1) {
                names.insert(rest.split('"').next().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn each_mistake_is_in_the_code_and_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut names = BTreeSet::new();
    CRATES.iter().for_each(|name| asked_for(&root.join(name).join("src"), &mut names));
    let table: BTreeSet<String> = CANARIES.iter().map(|canary| canary.name.to_owned()).collect();
    assert_eq!(table.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "in the table, not in the code");
    assert_eq!(names.difference(&table).collect::<Vec<_>>(), Vec::<&String>::new(), "in the code, not in the table");
    assert_eq!(table.len(), CANARIES.len(), "a name twice");
}

#[test]
fn a_hole_is_meant_by_its_whole_name() {
    let called = |name: &str| CANARIES.iter().filter(|c| c.is_called(name)).map(|c| c.name).collect::<Vec<_>>();
    assert_eq!(called("H1"), ["H1-serves-after-restart"], "and not H10 to H19");
    assert_eq!(called("H5"), ["H5-answer-before-sync", "H5-torn-end-stops"]);
    assert_eq!(called("S8"), ["H27-join-forgets-promises"], "a row of two names");
    assert_eq!(called("S10-late-acknowledgement"), ["S10-late-acknowledgement"]);
    assert!(called("H").is_empty() && called("S10-late").is_empty());
    // What make sim promises.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    let names = makefile.lines().find_map(|line| line.split_once("sim --canaries ")).unwrap().1;
    assert_eq!(names.split_whitespace().map(|name| called(name).len()).sum::<usize>(), 3);
}

#[test]
fn names_begin_with_their_rows() {
    for canary in CANARIES {
        let (row, rest) = canary.name.split_once('-').unwrap();
        assert!(canary.row.split(", ").any(|known| known == row), "{}", canary.name);
        assert!(rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", canary.name);
        assert!(!canary.what.is_empty() && canary.seeds >= 1000);
    }
    assert!(CANARIES.iter().filter(|canary| canary.seeds > 1000).count() <= 3);
}
