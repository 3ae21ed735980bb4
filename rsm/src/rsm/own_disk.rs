//! What a replica does with its own disk: takes over what is there at the start, and notices when it hangs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rt::probe::observe;
use rt::time::now;
use yfs_config::ViewId;

use super::{Inner, RsmError, State};
use crate::advice;
use crate::events::Event;
use crate::journal::{self, Aside, Journal, Logged, Position, Recovered};
use crate::pair::{self, PairError, Votes};
use crate::state_machine::{self, StateError, StateMachine};

/// A disk that hasn't done what it was asked for so long is broken: the node asks to be removed.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// How often a node looks at that.
const DISK_LOOK: Duration = Duration::from_millis(250);

/// The journal beside a Paxos log, and what it says, if it is this node's.
pub(super) fn open_journal(
    dir: &Path,
    is_first: bool,
    votes: &Votes<'_>,
) -> Result<(Journal, Option<Recovered>), RsmError> {
    let path = dir.join(journal::file_name(votes.me));
    let journal = Journal::at(dir, votes.me, votes.disk);
    let read = Journal::look(dir, votes.me);
    let check = |recovered: &Recovered| pair::check(&path, votes, recovered);
    if votes.vid > 0 {
        let recovered = read?;
        recovered.as_ref().map_or(Ok(()), check)?;
        return Ok((journal, recovered));
    }
    // Without a view in its Paxos log it is a new node, whatever else lies there; unless that shows that there were views.
    let recovered = read.ok().flatten();
    if let Some(Err(error @ (PairError::VotesLost { .. } | PairError::StartOver { .. }))) =
        recovered.as_ref().map(check)
    {
        return Err(error.into());
    }
    if let Some(aside) = journal::set_aside(dir, votes.me, recovered)? {
        warn_of_aside(votes.me, &aside, is_first);
    }
    Ok((journal, None))
}

/// An operator may have lost a Paxos log, and not know that a state goes with it.
fn warn_of_aside(me: &str, aside: &Aside, is_first: bool) {
    let Aside { from, to, said } = aside;
    let (file, aside) = (from.display(), to.display());
    let said = said
        .map_or("can't be read".to_owned(), |(mark, last)| format!("in sync last in view {mark}, last request {last}"));
    if is_first {
        tracing::warn!(
            node = me, %file, %aside, said,
            "no Paxos log, but a state: it was set aside, and a NEW, EMPTY SERVICE begins. If that is wrong, stop this node. If \
             there are others, move its files away and give it one of them as FIRST; if not, move the state back and start \
             over from it"
        );
    } else {
        tracing::warn!(node = me, %file, %aside, said, "no Paxos log, but a state: it was set aside, this is a new node");
    }
}

impl<S: StateMachine> Inner<S> {
    /// Takes over what the journal has, and begins to write.
    pub(super) fn start_journal(self: &Arc<Self>) -> Result<(), RsmError> {
        let recovered = self.parts.lock().recovered.take();
        if let Some(recovered) = recovered.filter(|_| !rt::probe::weakened("H1-serves-after-restart")) {
            let mut state = self.state.lock();
            self.take_over(&mut state, recovered)?;
            state.log_base(&self.journal);
        }
        let (weak, on_fatal) = (Arc::downgrade(self), self.options.on_fatal.clone());
        let synced = move |position| {
            if let Some(rsm) = weak.upgrade() {
                rsm.synced(position);
            }
        };
        self.journal
            .start(&self.node, synced, move |error| on_fatal(&advice::explain_journal(error)))
            .map_err(RsmError::Thread)?;
        let logged = self.state.lock().logged;
        self.journal.wait(logged, None)?;
        Ok(())
    }

    /// The state that this node had when it ended. It holds it if it was in sync once and has been a member since (rule 0).
    fn take_over(&self, state: &mut State<S>, recovered: Recovered) -> Result<(), RsmError> {
        let last = recovered.last();
        let Recovered { mark, state: bytes, requests, start_over, .. } = recovered;
        let path = || self.options.dir.join(journal::file_name(&self.me));
        let unreadable = |error: StateError| RsmError::State { path: path(), error: error.to_string() };
        state.machine.unmarshal_state(&bytes).map_err(unreadable)?;
        for Logged { offset, procedure, args, .. } in requests {
            if procedure == state_machine::NOTHING {
                continue;
            }
            // It was known when it was executed.
            if !state.machine.knows(procedure, &args) {
                let (procedure, _) = state_machine::inner(procedure, &args);
                return Err(RsmError::Procedure { path: path(), offset, procedure });
            }
            state.machine.execute(procedure, &args);
        }
        // Sent, or derived from the state by the next primary.
        drop(state.machine.state.take_effects());
        let vid = state.replica.vid();
        // If there was one, it wasn't cut short (pair.rs).
        let mark = start_over.unwrap_or(mark);
        let holds = mark > 0 && (mark..=vid).all(|since| self.cfg.ismember(&self.me, ViewId(since)));
        let holds = holds || state.replica.is_member() && rt::probe::weakened("S2-old-state-counts");
        (state.mark, state.mark_at_start, state.is_from_disk) = (mark, mark, holds);
        state.replica.recovered(last, holds);
        observe(|| Event::Recovered { last, state: state.digest(), holds });
        tracing::info!(node = %self.me, %last, mark, holds, "state from the log");
        Ok(())
    }

    /// Begins a service: the state is there before the view that makes it one (rule 0).
    pub(crate) fn begin_service(&self) -> Result<(), RsmError> {
        let logged = {
            let mut state = self.state.lock();
            state.log_in_sync(&self.journal, 1, true);
            state.logged
        };
        self.journal.wait(logged, None)?;
        if self.cfg.bootstrap()? {
            let mut state = self.await_views();
            if !state.stopping {
                state.replica.begin_first_view();
                observe(|| Event::FirstView);
            }
        }
        Ok(())
    }

    /// A node whose disk hangs still answers pings, and does nothing else: the others must know (L4). And one whose file is
    /// removed would acknowledge what goes with it.
    pub(super) fn watch_disk(self: &Arc<Self>) {
        self.journal.watch();
        let hangs = self.journal.stalled().max(self.cfg.disk_stalled()) >= DISK_PATIENCE
            && !rt::probe::weakened("L4-waits-for-ever");
        let before = {
            let mut state = self.state.lock();
            if state.stopping {
                return;
            }
            std::mem::replace(&mut state.disk_hangs, hangs)
        };
        self.cfg.set_disk_hangs(hangs);
        if hangs && !before {
            tracing::error!(node = %self.me, "the disk hangs: this node asks to be removed");
        } else if before && !hangs {
            tracing::info!(node = %self.me, "the disk works again");
        }
        let weak = Arc::downgrade(self);
        self.options.pollmgr.run_at(now() + DISK_LOOK, move || {
            if let Some(rsm) = weak.upgrade() {
                rsm.watch_disk();
            }
        });
    }

    /// Waits until so much is on the disk, as long as the view stays. False if it isn't.
    pub(crate) fn await_disk(&self, logged: Position, vid: u32) -> bool {
        loop {
            match self.journal.wait(logged, Some(now() + DISK_LOOK)) {
                Ok(true) => return true,
                Ok(false) => {
                    let state = self.state.lock();
                    if state.replica.vid() != vid || state.stopping {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// So much of the journal is on the disk.
    fn synced(&self, position: Position) {
        self.emit(|state| {
            let mut due = Vec::new();
            while state.effects.front().is_some_and(|(at, _)| *at <= position) {
                due.extend(state.effects.pop_front().into_iter().flat_map(|(_, effects)| effects));
            }
            due
        });
    }
}
