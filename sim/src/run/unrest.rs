//! A member that comes and goes, with everybody else well: views must not change for ever (L8).
//!
//! All nodes come together, and for a minute or two one of them crashes in a loop, or the smallest doesn't reach another
//! member, and it isn't the primary. Requests complete meanwhile, and views become rare: what may be formed follows from
//! the waits of rsm/src/joiners.rs, and from how many short lives rsm/src/recovery.rs lets pass.

use std::time::Duration;

use rt::time::{Instant, sleep};

use super::{Director, FURTHER_REQUESTS, LOOK, PATIENCE};
use crate::cluster::{Cluster, Kill, Phase};
use crate::net::LinkState;
use crate::plan::Fault;

/// How long a node crashes in a loop, and how long two members don't reach each other: they take longer to notice it.
const CRASH_LOOP: Duration = Duration::from_secs(60);
const APART: Duration = Duration::from_secs(120);
/// How often a name that leaves soon is admitted in a minute: it waits 1, 2, 4, 8, 16 and 30 s by the primary's clock, which
/// may be a tenth fast.
const ADMISSIONS: u64 = 8;
/// How many starts there are before a node asks to be removed, the one that is under way included. In each it proposes
/// the same members, and perhaps the primary does, too.
const STARTS: u64 = 6;
/// Each admission is a view with the node, and one without it. The first time it is removed it wasn't new.
const VIEWS_OF_A_CRASH_LOOP: u64 = 2 * STARTS + 1 + 2 * ADMISSIONS;
/// One of the two goes 4 s after both have met, and finds the primary after a second. Whichever goes each time, with the
/// waits there are no more views than 30, or 33 if the primary's clock is a tenth fast (rsm/src/joiners.rs tries all ways),
/// and one that adds the smallest before. Without waits there would be 38 and more.
const VIEWS_OF_TWO_APART: u64 = 34;

/// What was there when the unrest began.
struct Beginning {
    at: Instant,
    view: u32,
    completed: u64,
    /// So long it goes on, and so many views may be formed.
    lasts: Duration,
    views: u64,
}

impl Director {
    /// The phase of unrest, if the run has one.
    pub(super) fn unrest(&mut self) {
        let plan = self.cluster.plan().clone();
        let (loops, apart) = (plan.has(Fault::CrashLoop), plan.has(Fault::SmallestApart));
        if !loops && !apart || plan.nodes < 3 {
            return;
        }
        self.all_well(Phase::Unrest);
        if !self.come_together(Cluster::is_together) {
            return;
        }
        if loops {
            self.crash_loop();
        }
        if apart && plan.nodes > 3 && !self.kernel.is_over() {
            self.smallest_apart();
        }
    }

    fn crash_loop(&mut self) {
        let victim = self.dice.below(self.cluster.len() as u64) as usize;
        self.kernel.count("fault: crash loop");
        self.kernel.note(&self.cluster.name(victim), || "begins to crash in a loop".to_owned());
        self.show(&self.cluster.name(victim), || "begins to crash in a loop".to_owned());
        let beginning = self.begins(CRASH_LOOP, VIEWS_OF_A_CRASH_LOOP);
        while self.goes_on(&beginning) {
            sleep(self.dice.between(Duration::from_millis(20), Duration::from_millis(900)));
            self.cluster.kill(victim, Kill::Process);
            sleep(self.dice.between(Duration::from_millis(1), Duration::from_millis(90)));
            self.cluster.start(victim);
        }
    }

    fn smallest_apart(&mut self) {
        let members: Vec<(String, usize)> = (0..self.cluster.len()).map(|m| (self.cluster.name(m), m)).collect();
        let Some((name, smallest)) = members.iter().min().cloned() else { return };
        if self.primary().as_ref() == Some(&name) && !self.removed(smallest) {
            return;
        }
        self.cluster.start(smallest);
        if !self.wait(PATIENCE * 2, Cluster::is_together) {
            return;
        }
        let primary = self.primary();
        let others: Vec<usize> = members
            .iter()
            .filter(|(other, _)| *other != name && Some(other) != primary.as_ref())
            .map(|(_, m)| *m)
            .collect();
        let Some(victim) = self.dice.pick(&others).copied() else { return };
        if primary == Some(name) || !self.removed(victim) {
            return;
        }
        self.kernel.count("fault: smallest apart");
        let (a, b) = (self.cluster.host(smallest), self.cluster.host(victim));
        self.show_between(a, b, "these don't reach each other");
        self.cluster.world().net.set_link(a, b, LinkState::Cut);
        self.cluster.world().net.set_link(b, a, LinkState::Cut);
        let beginning = self.begins(APART, VIEWS_OF_TWO_APART);
        self.cluster.start(victim);
        while self.goes_on(&beginning) {
            sleep(LOOK);
        }
    }

    fn primary(&self) -> Option<String> {
        self.cluster.oracles().latest_view().1.first().cloned()
    }

    /// Ends a node, and waits until the others have removed it.
    fn removed(&self, member: usize) -> bool {
        self.cluster.kill(member, Kill::Process);
        let name = self.cluster.name(member);
        self.wait(PATIENCE, |cluster| !cluster.oracles().latest_view().1.contains(&name))
    }

    fn begins(&self, lasts: Duration, views: u64) -> Beginning {
        let (view, _) = self.cluster.oracles().latest_view();
        Beginning { at: self.kernel.now(), view, completed: self.cluster.completed_requests(), lasts, views }
    }

    /// Whether it isn't over; and what is wrong.
    fn goes_on(&self, beginning: &Beginning) -> bool {
        let so_far = self.kernel.now() - beginning.at;
        let views = u64::from(self.cluster.oracles().latest_view().0 - beginning.view);
        if views > beginning.views {
            self.kernel.find(format!("views-for-ever: {views} views in {so_far:?}, and one node comes and goes"));
        }
        let late = |since: &Instant| self.kernel.now() > (*since).max(beginning.at) + PATIENCE;
        let pending = self.cluster.pending();
        if let Some((what, _)) = pending.iter().find(|(_, since)| late(since)) {
            self.kernel.find(format!("stuck: {what} isn't complete, though only one node comes and goes"));
        }
        let over = so_far >= beginning.lasts;
        if over && self.cluster.completed_requests() < beginning.completed + FURTHER_REQUESTS {
            self.kernel.find(format!("idle: clients make no progress while one node comes and goes: {pending:?}"));
        }
        !over && !self.kernel.is_over()
    }
}
