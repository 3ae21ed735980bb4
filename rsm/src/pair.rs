//! Whether a node's two files belong together, its Paxos log and its journal. Pure.
//!
//! A view is in the Paxos log before anything of the journal speaks of it (docs/durable-state.md, "What is synced before
//! what"). So a journal that speaks of later views, or was written beside another Paxos log, shows that this one is an old
//! copy, or another disk's: votes are lost with what is missing, and that is a lost disk (rule 3).

use std::path::{Path, PathBuf};

use yfs_paxos::{DiskId, Instance, Value};

use crate::journal::Recovered;

/// The two files don't belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The journal is another node's.
    #[error("{}: this is node {name}'s file", path.display())]
    OtherNode {
        /// The journal.
        path: PathBuf,
        /// Whose it is.
        name: String,
    },
    /// The journal was written beside another Paxos log of this node, before or after its disk was lost.
    #[error(
        "{}: this is the file of this node's disk {disk}, and the Paxos log beside it is of another one: one of them is an \
         old copy",
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
         {spoken_of}: what the node has voted since is lost",
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
    /// An operator's command has written the journal, and not the Paxos log.
    #[error("{}: a start-over was cut short: run `--start-over {me} --yes` again", path.display())]
    StartOver {
        /// The journal.
        path: PathBuf,
        /// The node.
        me: String,
    },
}

/// What a Paxos log says that a journal has to fit.
pub struct Votes<'a> {
    /// The node.
    pub me: &'a str,
    /// The number of its disk.
    pub disk: DiskId,
    /// Its last view; 0 if there is none.
    pub vid: Instance,
    /// Each of its views.
    pub view: &'a dyn Fn(Instance) -> Option<Value>,
}

/// Whether the journal at `path`, as it was read, belongs to a Paxos log.
///
/// # Errors
/// [`PairError`].
pub fn check(path: &Path, votes: &Votes<'_>, journal: &Recovered) -> Result<(), PairError> {
    let Votes { me, disk, vid, view } = *votes;
    check_name(path, me, journal)?;
    if journal.owner.disk != disk {
        return Err(PairError::OtherDisk { path: path.to_owned(), disk: journal.owner.disk });
    }
    // Its state is in sync there alone; and who went on without would vote with a log that may lack votes.
    if let Some(alone) = journal.start_over
        && !(alone <= vid && view(alone).is_some_and(|view| view.members() == [me]))
    {
        return Err(PairError::StartOver { path: path.to_owned(), me: me.to_owned() });
    }
    let spoken_of = journal.mark.max(journal.last().vid);
    // A service's first state is there before its first view is.
    let begins = vid == 0 && spoken_of == 1 && journal.requests.is_empty();
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
    let name = &journal.owner.name;
    if name == me { Ok(()) } else { Err(PairError::OtherNode { path: path.to_owned(), name: name.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Logged, Owner};
    use crate::protocol::Viewstamp;

    const DISK: DiskId = DiskId(7);

    fn journal(mark: u32, base_vid: u32, vids: &[u32]) -> Recovered {
        let logged = |vid| Logged { offset: 0, vs: Viewstamp { vid, seqno: 1 }, procedure: 1, args: Vec::new() };
        Recovered {
            owner: Owner { name: "a".to_owned(), disk: DISK },
            mark,
            base_last: Viewstamp { vid: base_vid, seqno: 0 },
            state: Vec::new(),
            requests: vids.iter().copied().map(logged).collect(),
            start_over: None,
        }
    }

    fn checked(vid: Instance, journal: &Recovered) -> Result<(), PairError> {
        // The node is alone from view 3 on.
        let view = |at| (at <= vid).then(|| Value::parse(if at < 3 { "a b " } else { "a " }).unwrap());
        check(Path::new("rsm-a.log"), &Votes { me: "a", disk: DISK, vid, view: &view }, journal)
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
    }

    #[test]
    fn a_start_over_counts_when_the_paxos_log_has_its_view() {
        let cut_short = Err(PairError::StartOver { path: "rsm-a.log".into(), me: "a".to_owned() });
        for (vid, alone, expected) in
            [(3, 3, Ok(())), (5, 4, Ok(())), (3, 4, cut_short.clone()), (0, 3, cut_short.clone()), (3, 2, cut_short)]
        {
            let mark = alone.min(2);
            assert_eq!(checked(vid, &Recovered { start_over: Some(alone), ..journal(mark, mark, &[]) }), expected);
        }
        // Its state isn't of later views than that one.
        let refused = PairError::VotesLost { path: "rsm-a.log".into(), vid: 3, spoken_of: 5 };
        assert_eq!(checked(3, &Recovered { start_over: Some(3), ..journal(5, 5, &[]) }), Err(refused));
    }

    #[test]
    fn a_journal_of_another_node_or_disk_is_not_this_ones() {
        let of = |name: &str, disk| Owner { name: name.to_owned(), disk };
        let error = checked(3, &Recovered { owner: of("b", DISK), ..journal(3, 3, &[]) }).unwrap_err();
        assert_eq!(error.to_string(), "rsm-a.log: this is node b's file");
        let error = checked(3, &Recovered { owner: of("a", DiskId(8)), ..journal(3, 3, &[]) }).unwrap_err();
        assert_eq!(error, PairError::OtherDisk { path: "rsm-a.log".into(), disk: DiskId(8) });
    }
}
