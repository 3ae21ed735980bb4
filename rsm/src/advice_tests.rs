#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;

fn full() -> io::Error {
    io::Error::from(ErrorKind::StorageFull)
}

#[test]
fn a_full_disk_has_the_same_advice_at_the_start_and_later() {
    let (path, doing) = (PathBuf::from("x"), "write");
    let log = LogError::Io { path: path.clone(), doing, source: full() };
    let journal = JournalError::Io { path, doing, source: Arc::new(full()) };
    let said = [explain_log(&log), explain_journal(&journal), RsmError::Log(log).explain()];
    let journal = RsmError::Journal(journal);
    for said in said.into_iter().chain([journal.explain(), journal.explain_start_over()]) {
        assert!(said.starts_with("x: can't write it: ") && said.contains(": make room on its disk"), "{said}");
    }
}

/// An older copy loses what was acknowledged since; the last state must not be moved away.
#[test]
fn nobody_is_told_to_restore_an_older_copy_or_to_move_the_last_state_away() {
    let damaged = || JournalError::Damaged { path: PathBuf::from("x"), offset: 1, what: "y".to_owned() };
    let said = RsmError::Journal(damaged()).explain();
    assert!(
        said.contains("it is sent the state by the others. If none does, keep it. Only a copy made after"),
        "{said}"
    );
    let last = RsmError::Journal(damaged()).explain_start_over();
    assert!(!last.contains("move it away") && last.contains("keep it"), "{last}");
    let other_version = RsmError::Journal(JournalError::Format { path: PathBuf::from("x"), format: 3 });
    let other_layout = RsmError::State { path: PathBuf::from("x"), error: "it has layout version 3".to_owned() };
    for error in [other_version, other_layout] {
        for said in [error.explain(), error.explain_start_over()] {
            assert!(said.ends_with("never move it away"), "{said}");
        }
    }
    let votes_lost = PairError::VotesLost { path: PathBuf::from("x"), vid: 1, spoken_of: 2 };
    for error in [votes_lost, PairError::OtherDisk { path: PathBuf::from("x"), disk: yfs_paxos::DiskId(1) }] {
        let said = RsmError::Pair(error).explain();
        assert!(said.contains("FIRST must not be ME") && said.contains("start over from this one"), "{said}");
    }
}
