//! Replication: who serves, in which order requests are executed, and what a client was told stays so.

use std::collections::{BTreeMap, BTreeSet};

use yfs_rsm::events::Event;
use yfs_rsm::protocol::Viewstamp;

use super::Violation;
use super::history::{BEGINNING, Histories, Moment};

/// A replica, from its start to its death.
#[derive(Debug, Default)]
struct Replica {
    vid: u32,
    members: Vec<String>,
    /// It was in sync once, and has been a member since.
    holds_state: bool,
    /// It is in sync, or serves, in this view.
    ready: Option<u32>,
    at: Moment,
    /// What it executed last as the primary.
    as_primary: Option<(Viewstamp, Moment)>,
}

#[derive(Debug)]
struct Stamp {
    request: u64,
    /// How many backups have executed it.
    backups: usize,
}

/// All replicas, and what they have done.
#[derive(Debug)]
pub(super) struct Service {
    unique_requests: bool,
    replicas: BTreeMap<String, Replica>,
    histories: Histories,
    stamps: BTreeMap<Viewstamp, Stamp>,
    /// Who was in sync in each view, at which moment, until it is served in.
    in_sync: BTreeMap<u32, BTreeMap<String, Moment>>,
    /// Who has served in each view, and from which moment on.
    served: BTreeMap<u32, (String, Moment)>,
    first_view: Option<String>,
    /// Who has been in sync once and a member since, restarts included, as far as its disk may say.
    on_disk: BTreeSet<String>,
    /// Up to where each node's disk was ever written and synced. A disk that is lost later doesn't matter.
    durable: BTreeMap<String, Viewstamp>,
    /// The last request acknowledged, by view. All are on one way through the tree.
    acknowledged: BTreeMap<u32, Moment>,
    count: u64,
}

impl Service {
    pub(super) fn new(unique_requests: bool) -> Self {
        Service {
            unique_requests,
            replicas: BTreeMap::new(),
            histories: Histories::new(),
            stamps: BTreeMap::new(),
            in_sync: BTreeMap::new(),
            served: BTreeMap::new(),
            first_view: None,
            on_disk: BTreeSet::new(),
            durable: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            count: 0,
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.count
    }

    pub(super) fn executed(&self) -> usize {
        self.histories.len()
    }

    pub(super) fn served_views(&self) -> usize {
        self.served.len()
    }

    pub(super) fn holders(&self) -> BTreeSet<String> {
        self.replicas.iter().filter(|(_, replica)| replica.holds_state).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn position(&self, node: &str) -> Option<Viewstamp> {
        self.replicas.get(node).map(|replica| self.histories.stamp(replica.at))
    }

    pub(super) fn forget(&mut self, node: &str) {
        self.replicas.remove(node);
    }

    pub(super) fn lost_disk(&mut self, node: &str) {
        self.on_disk.remove(node);
    }

    pub(super) fn take(&mut self, node: &str, event: &Event) -> Result<(), Violation> {
        if let Event::Started { vid, members } = event {
            let fresh = Replica { vid: *vid, members: members.clone(), ..Replica::default() };
            self.replicas.insert(node.to_owned(), fresh);
            if is_first(node, *vid, members) {
                self.on_disk.insert(node.to_owned());
            }
            return Ok(());
        }
        if let Event::OnDisk { last } | Event::Recovered { last, .. } = event {
            let durable = self.durable.entry(node.to_owned()).or_default();
            *durable = (*durable).max(*last);
        }
        let Some(replica) = self.replicas.get_mut(node) else {
            return Err(("out-of-turn", format!("{event:?} before its start")));
        };
        match event {
            Event::Started { .. } => Ok(()),
            Event::FirstView => {
                replica.holds_state = true;
                self.on_disk.insert(node.to_owned());
                match self.first_view.replace(node.to_owned()) {
                    None => Ok(()),
                    Some(first) => Err(("two-services", format!("begins a service beside that of {first}"))),
                }
            }
            Event::ViewCommitted { vid, members } => {
                // Nobody tells a node without a view which one comes first.
                if replica.vid != 0 && *vid != replica.vid + 1 {
                    return Err(("view-order", format!("view {vid} comes after {}", replica.vid)));
                }
                replica.vid = *vid;
                replica.members.clone_from(members);
                if is_first(node, *vid, members) {
                    self.on_disk.insert(node.to_owned());
                } else if !members.iter().any(|member| member == node) {
                    replica.holds_state = false;
                    self.on_disk.remove(node);
                }
                replica.ready = None;
                Ok(())
            }
            Event::Recovered { last, state, holds } => {
                replica.at = self.histories.find(*last, *state).map_err(|what| ("unknown-state", what))?;
                replica.holds_state = *holds;
                if *holds && !self.on_disk.contains(node) {
                    return Err((
                        "false-holder",
                        format!("its state at {last} counts, and wasn't in sync in its views"),
                    ));
                }
                Ok(())
            }
            Event::Installed { vid, last, state } => {
                in_view(replica, *vid)?;
                replica.at = self.histories.find(*last, *state).map_err(|what| ("unknown-state", what))?;
                Ok(())
            }
            Event::InSync { vid, last, state } => {
                in_view(replica, *vid)?;
                let moment = self.histories.find(*last, *state).map_err(|what| ("diverged", what))?;
                if moment != replica.at {
                    let at = self.histories.stamp(replica.at);
                    return Err(("diverged", format!("says that it is at {last}, and is at {at}")));
                }
                replica.holds_state = true;
                self.on_disk.insert(node.to_owned());
                replica.ready = Some(*vid);
                if !self.served.contains_key(vid) {
                    self.in_sync.entry(*vid).or_default().insert(node.to_owned(), moment);
                }
                Ok(())
            }
            Event::Holds if !replica.holds_state => {
                Err(("false-holder", "takes itself for one that holds the state".to_owned()))
            }
            Event::Holds => Ok(()),
            Event::Serving { vid } => self.serving(node, *vid),
            Event::DoneRefused { vid } => {
                Err(("done-refused", format!("to a member of view {vid}, in which it serves")))
            }
            Event::Stamped { vs, request } => {
                if replica.ready != Some(vs.vid) || vs.vid != replica.vid {
                    return Err((
                        "out-of-turn",
                        format!("stamps {vs} in view {}, serving {:?}", replica.vid, replica.ready),
                    ));
                }
                match self.stamps.insert(*vs, Stamp { request: *request, backups: 0 }) {
                    None => Ok(()),
                    Some(_) => Err(("stamp-reused", format!("gives {vs} a second time"))),
                }
            }
            Event::Executed { vs, request, ran, as_primary, state } => {
                self.executes(node, *vs, *request, *ran, *as_primary, *state)
            }
            Event::OnDisk { .. } => Ok(()),
            Event::Answered { vs } => match replica.as_primary {
                Some((executed, moment)) if executed == *vs => {
                    let lacks = |member: &&String| self.durable.get(*member).is_none_or(|durable| durable < vs);
                    // A later view may be known by now, with other members.
                    match replica.members.iter().find(|member| replica.vid == vs.vid && lacks(member)) {
                        None => self.acknowledge(moment),
                        Some(member) => Err(("answered-undurable", format!("{vs} isn't on the disk of {member}"))),
                    }
                }
                other => Err(("answered-unexecuted", format!("{vs} is answered, executed was {other:?}"))),
            },
        }
    }

    fn serving(&mut self, node: &str, vid: u32) -> Result<(), Violation> {
        let Some(replica) = self.replicas.get_mut(node) else { return Ok(()) };
        in_view(replica, vid)?;
        if let Some((other, _)) = self.served.get(&vid) {
            return Err(("two-primaries", format!("serves in view {vid}, in which {other} has served")));
        }
        if replica.members.first().is_none_or(|first| first != node) {
            return Err(("wrong-primary", format!("serves in view {vid} of {:?}", replica.members)));
        }
        if !replica.holds_state {
            return Err(("served-without-state", format!("serves in view {vid}")));
        }
        let in_sync = self.in_sync.remove(&vid).unwrap_or_default();
        let others = replica.members.iter().filter(|member| *member != node);
        if let Some(apart) = others.into_iter().find(|member| in_sync.get(*member) != Some(&replica.at)) {
            let at = in_sync.get(apart).map(|moment| self.histories.stamp(*moment));
            let mine = self.histories.stamp(replica.at);
            return Err((
                "served-unsynced",
                format!("serves in view {vid} at {mine}, and {apart} is in sync at {at:?}"),
            ));
        }
        let at = replica.at;
        replica.ready = Some(vid);
        self.served.insert(vid, (node.to_owned(), at));
        match self.acknowledged.range(..vid).next_back() {
            Some((_, &last)) if !self.histories.leads_to(last, at) => Err(self.lost(last, vid, at)),
            _ => Ok(()),
        }
    }

    fn lost(&self, acknowledged: Moment, vid: u32, at: Moment) -> Violation {
        let (last, at) = (self.histories.stamp(acknowledged), self.histories.stamp(at));
        (
            "lost-acknowledged",
            format!("{last} was acknowledged, and the primary of view {vid} went on from {at} without it"),
        )
    }

    fn executes(
        &mut self,
        node: &str,
        vs: Viewstamp,
        request: u64,
        ran: Option<u64>,
        as_primary: bool,
        state: u64,
    ) -> Result<(), Violation> {
        let Some(replica) = self.replicas.get_mut(node) else { return Ok(()) };
        let last = self.histories.stamp(replica.at);
        let next = if last.vid == vs.vid { last.seqno + 1 } else { 1 };
        if vs.vid != replica.vid || replica.ready != Some(vs.vid) || vs.seqno != next {
            let (vid, ready) = (replica.vid, replica.ready);
            return Err(("out-of-turn", format!("executes {vs} after {last} in view {vid}, in sync in {ready:?}")));
        }
        let Some(stamp) = self.stamps.get_mut(&vs).filter(|stamp| stamp.request == request) else {
            return Err(("unstamped", format!("executes as {vs} what wasn't stamped so")));
        };
        if as_primary && stamp.backups + 1 < replica.members.len() {
            let backups = stamp.backups;
            return Err(("not-replicated", format!("executes {vs} after {backups} backups of {:?}", replica.members)));
        }
        stamp.backups += usize::from(!as_primary);
        let (moment, first) =
            self.histories.execute(replica.at, vs, (request, ran), state).map_err(|what| ("diverged", what))?;
        replica.at = moment;
        if as_primary {
            replica.as_primary = Some((vs, moment));
        }
        match self.histories.same_before(moment).filter(|_| first && self.unique_requests) {
            Some(before) => {
                let before = self.histories.stamp(before);
                Err(("executed-twice", format!("{vs} runs the request of {before} again, which it came of")))
            }
            None => Ok(()),
        }
    }

    fn acknowledge(&mut self, moment: Moment) -> Result<(), Violation> {
        self.count += 1;
        let vid = self.histories.stamp(moment).vid;
        // Every primary of a later view that serves by now.
        for (later, (_, at)) in self.served.range(vid + 1..) {
            if !self.histories.leads_to(moment, *at) {
                return Err(self.lost(moment, *later, *at));
            }
        }
        // Those of later views went on from where that primary began, so they are on one way, as are those before.
        let last = self.acknowledged.range(..=vid).next_back().map_or(BEGINNING, |(_, last)| *last);
        if self.histories.depth(moment) < self.histories.depth(last) {
            return if self.histories.leads_to(moment, last) { Ok(()) } else { Err(self.lost(last, vid, moment)) };
        }
        if !self.histories.leads_to(last, moment) {
            return Err(self.lost(last, vid, moment));
        }
        self.acknowledged.insert(vid, moment);
        Ok(())
    }
}

/// Whoever is alone in view 1 had the empty state on its disk before that view; it may die before it says so.
fn is_first(node: &str, vid: u32, members: &[String]) -> bool {
    vid == 1 && members == [node]
}

fn in_view(replica: &Replica, vid: u32) -> Result<(), Violation> {
    if replica.vid == vid {
        return Ok(());
    }
    Err(("out-of-turn", format!("is in view {}, and takes part in {vid}", replica.vid)))
}
