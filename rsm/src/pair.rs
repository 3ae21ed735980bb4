//! Whether a node's two files belong together, its Paxos log and its journal. Pure.
//!
//! A view is in the Paxos log before anything of the journal speaks of it (docs/durable-state.md, "What is synced before
//! what"). So a journal that speaks of later views, or was written beside another Paxos log, shows that this one is an old
//! copy, or another disk's: votes are lost with what is missing, and that is a lost disk (rule 3).

use std::path::{Path, PathBuf};

use yfs_paxos::{DiskId, Instance};

use crate::journal::{Owner, Recovered};

/// The two files don't belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The journal is another node's.
    #[error(
        "{}: this is node {name}'s file: put this node's own one in its place; if that is lost, move this one away, but \
         keep the Paxos log, and start the node again: it is sent the state by the others",
        path.display()
    )]
    OtherNode {
        /// The journal.
        path: PathBuf,
        /// Whose it is.
        name: String,
    },
    /// The journal was written beside another Paxos log of this node, before or after its disk was lost.
    #[error(
        "{}: this is the file of this node's disk {disk}, and the Paxos log beside it is of another one: one of them is an \
         old copy: move both away; the node is then added again as a new one: FIRST must not be ME then",
        path.display()
    )]
    OtherDisk {
        /// The journal.
        path: PathBuf,
        /// The disk that it is of.
        disk: DiskId,
    },
    /// The journal speaks of views that the Paxos log doesn't have.
    #[error(
        "{}: the Paxos log of this node is older than its RSM log: it ends with view {vid}, and the RSM log speaks of view \
         {spoken_of}: what the node has voted since is lost: move both away; the node is then added again as a new one: \
         FIRST must not be ME then. If no other node has the state, start over from this one instead",
        path.display()
    )]
    VotesLost {
        /// The journal.
        path: PathBuf,
        /// The last view of the Paxos log.
        vid: Instance,
        /// The last view that the journal speaks of.
        spoken_of: u32,
    },
}

/// Whether the journal at `path`, as it was read, belongs to a Paxos log: that of node `me`, on `disk`, with `vid` as its
/// last view.
///
/// # Errors
/// [`PairError`].
pub fn check(path: &Path, me: &str, disk: DiskId, vid: Instance, journal: &Recovered) -> Result<(), PairError> {
    check_name(path, me, journal)?;
    if let Some(owner) = journal.owner.as_ref().filter(|owner| owner.disk != disk) {
        return Err(PairError::OtherDisk { path: path.to_owned(), disk: owner.disk });
    }
    let spoken_of = journal.mark.max(journal.last().vid);
    // A service's first state is there before its first view is; and who starts over may do so with a state whose Paxos log
    // is lost.
    let begins = vid == 0 && spoken_of == 1 && journal.requests.is_empty() || journal.start_over.is_some();
    if spoken_of > vid && !begins {
        return Err(PairError::VotesLost { path: path.to_owned(), vid, spoken_of });
    }
    Ok(())
}

/// Whether the journal at `path`, as it was read, is that of node `me`.
///
/// # Errors
/// [`PairError::OtherNode`].
pub fn check_name(path: &Path, me: &str, journal: &Recovered) -> Result<(), PairError> {
    match &journal.owner {
        Some(Owner { name, .. }) if name != me => {
            Err(PairError::OtherNode { path: path.to_owned(), name: name.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Logged;
    use crate::protocol::Viewstamp;

    const DISK: DiskId = DiskId(7);

    fn journal(mark: u32, base_vid: u32, vids: &[u32]) -> Recovered {
        let logged = |vid| Logged { offset: 0, vs: Viewstamp { vid, seqno: 1 }, procedure: 1, args: Vec::new() };
        Recovered {
            owner: Some(Owner { name: "a".to_owned(), disk: DISK }),
            mark,
            base_last: Viewstamp { vid: base_vid, seqno: 0 },
            state: Vec::new(),
            requests: vids.iter().copied().map(logged).collect(),
            start_over: None,
        }
    }

    fn checked(vid: Instance, journal: &Recovered) -> Result<(), PairError> {
        check(Path::new("rsm-a.log"), "a", DISK, vid, journal)
    }

    #[test]
    fn a_journal_that_speaks_of_later_views_shows_that_votes_are_lost() {
        for (vid, journal, spoken_of) in [
            (3, journal(5, 5, &[]), 5),
            (3, journal(3, 4, &[]), 4),
            (3, journal(3, 3, &[3, 4]), 4),
            (3, journal(4, 2, &[]), 4),
            (0, journal(2, 0, &[]), 2),
            (0, journal(1, 0, &[1]), 1),
        ] {
            let refused = PairError::VotesLost { path: "rsm-a.log".into(), vid, spoken_of };
            assert_eq!(checked(vid, &journal), Err(refused));
        }
        for (vid, journal) in
            [(3, journal(3, 3, &[])), (4, journal(3, 2, &[3])), (0, journal(1, 0, &[])), (9, journal(0, 0, &[]))]
        {
            assert_eq!(checked(vid, &journal), Ok(()));
        }
        // The view of a start-over is still to come, if that was cut short.
        for started_over in [journal(3, 3, &[]), journal(5, 5, &[])] {
            assert_eq!(checked(3, &Recovered { start_over: Some(5), ..started_over }), Ok(()));
        }
    }

    #[test]
    fn a_journal_of_another_node_or_disk_is_not_this_ones() {
        let of = |name: &str, disk| Some(Owner { name: name.to_owned(), disk });
        let error = checked(3, &Recovered { owner: of("b", DISK), ..journal(3, 3, &[]) }).unwrap_err();
        assert!(error.to_string().starts_with("rsm-a.log: this is node b's file: "), "{error}");
        let error = checked(3, &Recovered { owner: of("a", DiskId(8)), ..journal(3, 3, &[]) }).unwrap_err();
        assert_eq!(error, PairError::OtherDisk { path: "rsm-a.log".into(), disk: DiskId(8) });
        assert_eq!(checked(3, &Recovered { owner: None, ..journal(3, 3, &[]) }), Ok(()), "format 1 doesn't say");
    }
}
