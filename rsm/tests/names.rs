//! What the documents say of the code is so: the functions of the seed's rsm.cc, the tests of each hole, the locks.
#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use std::path::{Path, PathBuf};

/// Every function that the lab's rsm.cc defines.
const SEED: [&str; 27] = [
    "recoverythread",
    "rsm",
    "reg1",
    "recovery",
    "operator<<",
    "sync_with_backups",
    "sync_with_primary",
    "statetransfer",
    "statetransferdone",
    "join",
    "commit_change",
    "commit_change_wo",
    "execute",
    "client_invoke",
    "invoke",
    "transferreq",
    "transferdonereq",
    "joinreq",
    "client_members",
    "set_primary",
    "amiprimary",
    "net_repair_wo",
    "test_net_repairreq",
    "breakpoint1",
    "breakpoint2",
    "partition1",
    "breakpointreq",
];

const CRATES: [&str; 6] = ["rt", "rpc", "paxos", "config", "rsm", "lock_server"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text(path: &Path) -> String {
    let bytes = rt::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8(bytes).unwrap()
}

/// All Rust files in and under a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for name in rt::fs::list(folder).unwrap() {
        let path = folder.join(name);
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        } else if rt::fs::list(&path).is_ok() {
            sources(&path, found);
        }
    }
}

/// The rows of the tables in a document, cell by cell, without blanks and backticks.
fn rows(document: &str) -> Vec<Vec<String>> {
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let document = text(&root().join("docs").join(document));
    document.lines().filter_map(|line| Some(line.strip_prefix('|')?.split('|').map(cell).collect())).collect()
}

fn defines(source: &str, function: &str) -> bool {
    ["(", "<"].iter().any(|after| source.contains(&format!("fn {function}{after}")))
}

#[test]
fn every_function_of_the_seed_has_its_name_or_a_successor() {
    let rows = rows("differences.md");
    let mut own_names = String::new();
    let mut files = Vec::new();
    sources(&root().join("rsm/src"), &mut files);
    files.iter().for_each(|file| own_names.push_str(&text(file)));
    for seed in SEED {
        let row = rows.iter().find(|row| row[0] == seed && row.len() > 4 && row[2].ends_with(".rs"));
        let row = row.unwrap_or_else(|| panic!("docs/differences.md has no row for the seed's {seed}"));
        let (file, function) = (&row[2], &row[3]);
        assert!(defines(&text(&root().join(file)), function), "docs/differences.md: {file} has no fn {function}");
        let renamed = seed != function && defines(&own_names, seed);
        assert!(!renamed, "docs/differences.md has a successor for {seed}, which is there under its own name");
    }
}

#[test]
fn every_test_that_is_to_show_a_hole_closed_is_there() {
    let mut files = Vec::new();
    CRATES.iter().for_each(|name| sources(&root().join(name), &mut files));
    let code: String = files.iter().map(|file| text(file)).collect();
    let document = text(&root().join("docs/differences.md"));
    let mut tests = 0;
    for line in document.lines().filter(|line| line.starts_with("| H")) {
        let shown_by = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let quoted = shown_by.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 2);
        for test in quoted {
            assert!(defines(&code, test), "docs/differences.md names the test {test}, which isn't there");
            tests += 1;
        }
    }
    assert!(tests > 30, "{tests}");
}

#[test]
fn every_lock_is_in_the_table_of_locks() {
    let rows = rows("architecture.md");
    let mut files = Vec::new();
    let crates = CRATES.iter().chain(&["trace", "lecture"]);
    crates.for_each(|name| sources(&root().join(name).join("src"), &mut files));
    let mut locks = 0;
    for file in files.iter().filter(|file| !file.ends_with("sync.rs")) {
        let source = text(file);
        for rank in source.split("Rank::new(").skip(1) {
            let (level, rest) = rank.split_once(", \"").unwrap();
            let name = rest.split('"').next().unwrap();
            if name.starts_with("test") {
                continue;
            }
            let level = match level {
                "u16::MAX" => "65535",
                "u16::MAX - 1" => "65534",
                level => level,
            };
            let known = rows.iter().any(|row| row.len() > 3 && row[0] == level && row[1] == name);
            assert!(known, "docs/architecture.md: the table of locks lacks {name}, rank {level}");
            locks += 1;
        }
    }
    assert_eq!(locks, rows.iter().filter(|row| row[0].parse::<u16>().is_ok() && row[1].contains('.')).count());
}
