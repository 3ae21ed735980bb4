//! The sequencing of requests and view changes, without I/O, lock, thread or clock.
//!
//! A replica is in a view that it learnt from config. After each change of the view its members sync: the primary's
//! state is the authority, the backups fetch it, and only when all of them have said so does the primary stamp requests
//! again. Between two views at most one request is outstanding: stamped, but not yet executed by the primary.
//!
//! Invariants (and the rules of docs/protocols.md that they follow):
//! 1. `last_myvs` moves with execution only, or with a state that was installed whole.
//! 2. A stamp that was sent is neither skipped nor given to another request: while one is outstanding no other is given,
//!    and a new view drops it before any state is handed out (rule 4).
//! 3. A replica hands out its state, and serves, only if it holds the state: it was in sync in some view s, now or
//!    before it was restarted, and is named by every view from s on (rule 0).
//! 4. A backup executes the stamp after its last one and no other, only in the current view, only when in sync in it.
//! 5. The primary is the first name of the view: joiners come last, and views differ by one name, so it is the
//!    primary of the view before if that one is a member, or else the first member of the view before that still is.
//!
//! 6. A replica takes part only in views formed after its start (rule 1), but votes at once.
//! 7. Numbers don't wrap: 2^20 before their end the primary wants a view with the same members, where they begin again;
//!    the last one is given to no request.

use std::collections::BTreeSet;

use yfs_config::Role;

use crate::protocol::{ClientStatus, RsmStatus, Viewstamp};

/// From this number on a new view is wanted. What is left until the last one takes minutes at least.
pub(crate) const RENEWAL: u32 = u32::MAX - (1 << 20);

/// A request that the primary has stamped and not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Its stamp.
    pub vs: Viewstamp,
    /// The backups that have not yet executed it.
    pub missing: BTreeSet<String>,
}

/// What a backup does with a request of its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    Execute,
    /// It has been executed already; say so again.
    Again,
    /// It is of another view, or there is a gap.
    Refuse,
}

/// Where a replica stands.
#[derive(Clone, Debug)]
pub struct Replica {
    me: String,
    /// The latest view, 0 before the first (lab: `vid_commit`).
    vid_commit: u32,
    members: Vec<String>,
    /// The view change isn't over (lab: `inviewchange`).
    inviewchange: bool,
    /// The primary hands out its state (lab: `insync`).
    insync: bool,
    /// The members that are not yet in sync in this view (lab: `backups`).
    backups: BTreeSet<String>,
    /// The members that have been in sync in this view or the one before, and are members still.
    proven: BTreeSet<String>,
    last_myvs: Viewstamp,
    outstanding: Option<Outstanding>,
    holds_state: bool,
    /// The last view at the start; it was formed without this process.
    vid_start: u32,
}

impl Replica {
    /// A replica that starts. `vid` and `members` are the last view of its Paxos log, (0, none) without one.
    pub fn new(me: &str, vid: u32, members: Vec<String>) -> Self {
        let member = members.iter().any(|name| name == me);
        Replica {
            me: me.to_owned(),
            vid_commit: vid,
            members,
            inviewchange: true,
            insync: false,
            backups: BTreeSet::new(),
            proven: BTreeSet::new(),
            last_myvs: Viewstamp::default(),
            outstanding: None,
            holds_state: member && rt::probe::weakened("H1-serves-after-restart"),
            vid_start: vid,
        }
    }

    /// The latest view.
    pub fn vid(&self) -> u32 {
        self.vid_commit
    }

    /// The members of the latest view.
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// The primary of the latest view, if there is a view (invariant 5).
    pub fn primary(&self) -> Option<&str> {
        self.members.first().map(String::as_str)
    }

    /// Whether this node is the primary of the latest view.
    pub fn is_primary(&self) -> bool {
        self.primary() == Some(&self.me)
    }

    /// Whether the latest view names this node.
    pub fn is_member(&self) -> bool {
        self.members.contains(&self.me)
    }

    /// Whether this node takes part in replication: the latest view names it and was formed after it started.
    pub fn takes_part(&self) -> bool {
        self.is_member() && self.vid_commit > self.vid_start
    }

    /// Whether this node serves, or would if it were the primary.
    pub fn in_view_change(&self) -> bool {
        self.inviewchange
    }

    /// Invariant 3.
    pub fn holds_state(&self) -> bool {
        self.holds_state
    }

    /// The last request executed.
    pub fn last_myvs(&self) -> Viewstamp {
        self.last_myvs
    }

    /// The request that is stamped and not executed.
    pub fn outstanding(&self) -> Option<&Outstanding> {
        self.outstanding.as_ref()
    }

    /// The members that are not in sync yet, while the primary waits for them.
    pub fn backups(&self) -> &BTreeSet<String> {
        &self.backups
    }

    /// A view was committed; false if it is no newer than the latest one (lab: `commit_change_wo`).
    pub fn commit(&mut self, vid: u32, members: Vec<String>) -> bool {
        if vid <= self.vid_commit {
            return false;
        }
        self.vid_commit = vid;
        self.members = members;
        self.inviewchange = true;
        self.insync = false;
        self.backups.clear();
        if !rt::probe::weakened("S10-late-acknowledgement") {
            self.outstanding = None;
        }
        self.holds_state |= self.is_holder_untransferred();
        self.holds_state &= self.is_member();
        let members = &self.members;
        self.proven.retain(|name| members.contains(name));
        true
    }

    /// Never, but for the mistakes that a simulator may put back: a member of a new view counts as one that holds the
    /// state (lab).
    fn is_holder_untransferred(&self) -> bool {
        rt::probe::weakened("S1-member-holds-state")
            || rt::probe::weakened("S3-same-members-again")
            || rt::probe::weakened("H3-joiners-outnumber")
    }

    /// The first node has formed the first view, alone: its empty state is the state.
    pub fn begin_first_view(&mut self) {
        assert!(self.members == [self.me.clone()], "the first view is the first node alone");
        self.holds_state = true;
    }

    /// The state was taken over from the disk, at the start. `holds`: invariant 3.
    pub fn recovered(&mut self, last: Viewstamp, holds: bool) {
        self.last_myvs = last;
        self.holds_state = holds;
    }

    /// What this node is for the others (rule 0). A primary without the state, or one that was named before it was started
    /// and has none, has lost it.
    pub fn role(&self) -> Role {
        if self.holds_state {
            Role::Holder
        } else if self.is_member() && (!self.takes_part() || self.is_primary()) {
            Role::Lost
        } else {
            Role::Joiner
        }
    }

    /// Whether this node was restarted, and is named by the last view: one is needed that is formed with it (rule 1).
    pub fn wants_new_view(&self) -> bool {
        self.is_member() && self.holds_state && !self.takes_part()
    }

    /// The primary begins to sync the view: from now on it hands out its state (lab: `sync_with_backups`). True if there
    /// is nobody to wait for.
    pub fn begin_sync(&mut self) -> bool {
        assert!(self.is_primary() && self.holds_state, "only a primary that holds the state hands it out");
        self.insync = true;
        self.backups = self.members.iter().filter(|name| **name != self.me).cloned().collect();
        self.backups.is_empty()
    }

    /// Whether the state may be handed out for view `vid` (lab: `transferreq`).
    pub fn may_transfer(&self, vid: u32) -> bool {
        self.is_primary() && self.holds_state && vid == self.vid_commit && (self.insync || !self.inviewchange)
    }

    /// A member says that it is in sync in view `vid` (lab: `transferdonereq`). Saying it twice does no harm.
    pub fn transfer_done(&mut self, name: &str, vid: u32) -> RsmStatus {
        let late = vid < self.vid_commit && rt::probe::weakened("mutant-late-transferdone-counts");
        let over = !self.insync && rt::probe::weakened("L5-done-counts-once");
        if over || !self.may_transfer(if late { self.vid_commit } else { vid }) {
            return RsmStatus::BUSY;
        }
        self.backups.remove(name);
        if self.members.iter().any(|member| member == name) {
            self.proven.insert(name.to_owned());
        }
        RsmStatus::OK
    }

    /// Whether all backups are in sync.
    pub fn is_synced(&self) -> bool {
        self.insync && (self.backups.is_empty() || rt::probe::weakened("mutant-serves-before-sync"))
    }

    /// Whether `name` is a member that was in sync, so that it must have lost its state if it asks to join.
    pub fn is_proven(&self, name: &str) -> bool {
        self.proven.contains(name)
    }

    /// The view change is over; stamps begin at 1.
    pub fn end_view_change(&mut self) {
        self.insync = false;
        self.inviewchange = false;
        self.outstanding = None;
        self.holds_state = true;
    }

    /// Whether a holder of the state whose last request is `theirs` shows that requests are missing here that were
    /// acknowledged: it can be ahead by one, the outstanding one, and by no more.
    pub fn is_overtaken_by(&self, theirs: Viewstamp) -> bool {
        let mine = self.last_myvs;
        let outstanding = if theirs.vid == mine.vid { mine.seqno.saturating_add(1) } else { 1 };
        theirs > mine && theirs.seqno > outstanding
    }

    /// This node's disk has lost requests: it doesn't hold the state any more, nor serve, and has to be sent it.
    pub fn state_lost(&mut self) {
        self.holds_state = false;
        self.inviewchange = true;
        self.insync = false;
        self.outstanding = None;
    }

    /// Whether view `vid` was formed before this node was started.
    pub fn is_of_an_earlier_life(&self, vid: u32) -> bool {
        vid <= self.vid_start
    }

    /// A state was installed whole.
    pub fn installed(&mut self, last: Viewstamp) {
        self.last_myvs = last;
    }

    /// Whether a client's request may be stamped now, by us.
    ///
    /// # Errors
    /// What to tell the client.
    pub fn may_stamp(&self) -> Result<(), ClientStatus> {
        if !self.is_primary() {
            return Err(ClientStatus::NOTPRIMARY);
        }
        let outstanding = self.outstanding.is_some() && !rt::probe::weakened("S9-stamp-given-again");
        if self.inviewchange || outstanding || self.next().is_none() {
            return Err(ClientStatus::BUSY);
        }
        Ok(())
    }

    /// Whether this primary needs a view with the same members, because the numbers of this one come to their end.
    pub fn wants_renewal(&self) -> bool {
        self.is_primary()
            && !self.inviewchange
            && self.last_myvs.vid == self.vid_commit
            && self.last_myvs.seqno >= RENEWAL
    }

    /// Stamps a request. To be called after `may_stamp`.
    pub fn stamp(&mut self) -> Outstanding {
        assert!(self.may_stamp().is_ok(), "invariant 2");
        let vs = self.next().expect("invariant 7");
        let missing = self.members.iter().filter(|name| **name != self.me).cloned().collect();
        let outstanding = Outstanding { vs, missing };
        self.outstanding = Some(outstanding.clone());
        if rt::probe::weakened("H2-stamp-moves-last") {
            self.last_myvs = outstanding.vs;
        }
        outstanding
    }

    /// A backup has executed the request `vs`. True if all have: then it is to be executed here, and `executed` called.
    pub fn acknowledged(&mut self, vs: Viewstamp, name: &str) -> bool {
        match &mut self.outstanding {
            Some(outstanding) if outstanding.vs == vs => {
                let enough = rt::probe::weakened("mutant-first-answer-is-enough");
                outstanding.missing.remove(name) && (outstanding.missing.is_empty() || enough)
            }
            _ => false,
        }
    }

    /// What a backup does with the request `vs` of its primary (invariant 4).
    pub fn check_invoke(&self, vs: Viewstamp) -> Verdict {
        if self.inviewchange || self.is_primary() || !self.is_member() || vs.vid != self.vid_commit {
            Verdict::Refuse
        } else if Some(vs) == self.next() {
            Verdict::Execute
        } else if vs == self.last_myvs && !rt::probe::weakened("mutant-backup-executes-again") {
            Verdict::Again
        } else if vs == self.last_myvs {
            Verdict::Execute
        } else {
            Verdict::Refuse
        }
    }

    /// Whether a request of this view before `vs` never came here.
    pub fn has_missed(&self, vs: Viewstamp) -> bool {
        !self.inviewchange
            && !self.is_primary()
            && vs.vid == self.vid_commit
            && self.next().is_some_and(|next| vs > next)
    }

    /// The request `vs` was executed here.
    pub fn executed(&mut self, vs: Viewstamp) {
        assert!(Some(vs) == self.next() || is_order_weakened(), "requests are executed in the order of their stamps");
        self.last_myvs = vs;
        self.outstanding = None;
    }

    /// The stamp after the last one (lab: `myvs`). `None`: the view has no more (invariant 7).
    fn next(&self) -> Option<Viewstamp> {
        let last = if self.last_myvs.vid == self.vid_commit { self.last_myvs.seqno } else { 0 };
        let seqno = last.checked_add(1).filter(|seqno| *seqno < u32::MAX)?;
        Some(Viewstamp { vid: self.vid_commit, seqno })
    }
}

/// Whether a simulator has put a mistake back that breaks the order of the stamps.
fn is_order_weakened() -> bool {
    ["H2-stamp-moves-last", "S10-late-acknowledgement", "mutant-backup-executes-again"]
        .into_iter()
        .any(rt::probe::weakened)
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
