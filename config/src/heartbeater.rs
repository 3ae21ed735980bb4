//! The thread that pings, removes and catches up (lab: `config::heartbeater`, `doheartbeat`).
//!
//! Each turn: wait for a tick or a kick; ask a node that is ahead; ping whom the detector names; if it suspects somebody,
//! propose the view without it. Proposers that notice the same death at the same time queue up by their place in the
//! view, and whoever has just voted for another's round waits how that ends: so a removal takes one or two rounds (H11).
//!
//! Threads: this one, one a node. Answers to pings come in on the RPC runtime's thread. The thread holds its node for
//! one turn at a time, so that a node that is dropped takes it along.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rt::probe::observe;
use rt::time::{Instant, now};
use yfs_paxos::Outcome;
use yfs_paxos::protocol::{HEARTBEAT, PaxosStatus};
use yfs_rpc::{CallError, Client};

use crate::config::Config;
use crate::detector::{FailureDetector, Pong, Reason};
use crate::events::Event;
use crate::roles::Role;
use crate::view::ViewId;

/// A lab node stops at a ping from two views behind if that comes during a round, as the one that adds this node. So a
/// node that finds itself there leaves the lab's alone for so long, or until it learns a view.
const LAB_REST: Duration = Duration::from_secs(3);
/// How often the heartbeater looks whether the Paxos log still has its name.
const LOG_LOOK: Duration = Duration::from_millis(250);
/// Another's round is waited for so long.
const OTHERS_ROUND: Duration = Duration::from_millis(300);

/// The heartbeater's own memory.
struct Heartbeater {
    /// No round before this time.
    not_before: Instant,
    back_off: Duration,
    /// The view in which rounds failed.
    vid: ViewId,
    /// When to look next whether the log is where it was.
    looks: Instant,
}

/// The thread's main function. Ends when the node is told to stop, or is gone.
pub(crate) fn run(config: &Weak<Config>) {
    let mut me = Heartbeater { not_before: Instant::ZERO, back_off: Duration::ZERO, vid: ViewId(0), looks: now() };
    // A turn holds the node for a tick at most (or a round); between turns it may go.
    while let Some(config) = config.upgrade() {
        if !config.wait_for_turn() {
            return;
        }
        if now() >= me.looks {
            me.looks = now() + LOG_LOOK;
            config.acceptor.look();
        }
        config.follow_those_ahead();
        config.ping_those_due();
        config.note_return_of_majority();
        config.tell_of_lost_disks();
        // The dead first: that is a new view too.
        me.remove_suspect(&config);
        me.propose_same_if_wanted(&config);
    }
}

impl Heartbeater {
    /// Proposes the same members again if the layer above asked for it, until a view comes.
    fn propose_same_if_wanted(&mut self, config: &Config) {
        let vid = {
            let mut state = config.state.lock();
            state.same_wanted = state.same_wanted.filter(|vid| *vid == state.views.vid());
            let Some(vid) = state.same_wanted else { return };
            vid
        };
        if self.may_propose(config, vid) {
            tracing::info!(node = %config.myaddr(), %vid, "proposing the same members");
            let outcome = config.propose(Some(vid), None, |view| Some(view.clone()));
            self.note(config, &outcome);
        }
    }

    /// Whether the back-off after a round that failed in this view is over.
    fn may_propose(&mut self, config: &Config, vid: ViewId) -> bool {
        if self.vid != vid {
            (self.vid, self.not_before, self.back_off) = (vid, Instant::ZERO, config.options.timing.back_off);
        }
        now() >= self.not_before || rt::probe::weakened("H11-no-back-off")
    }

    fn note(&mut self, config: &Config, outcome: &Outcome) {
        if !outcome.is_decided() {
            observe(|| Event::Failed { vid: self.vid });
            let pause = self.back_off / 2 + rt::random::duration_below(self.back_off);
            tracing::debug!(node = %config.myaddr(), ?outcome, ?pause, "the round failed");
            self.not_before = now() + pause;
            self.back_off = (self.back_off * 2).min(config.options.timing.max_back_off);
        }
    }

    fn remove_suspect(&mut self, config: &Config) {
        let (suspects, vid) = {
            let state = config.state.lock();
            let may_remove = state.views.last().is_some_and(|view| state.role.may_remove(view.members().len()));
            if !may_remove || state.wants_out(config.myaddr()) {
                return;
            }
            // One that asks may hold the state, and a joiner doesn't.
            let spares = state.role != Role::Holder || now() < state.spares_askers_until;
            let mut suspects = state.detector.suspects(now());
            suspects.retain(|(_, reason)| !spares || *reason != Reason::Asked);
            (suspects, state.views.vid())
        };
        if suspects.is_empty() || !self.may_propose(config, vid) {
            return;
        }
        // The first whose removal leaves a majority that is well: else the next death would end the service.
        let asked = now();
        observe(|| Event::Probing);
        let leaves =
            |detector: &FailureDetector| suspects.iter().find(|(name, _)| detector.leaves_majority(name, asked));
        config.probe(|detector, _| leaves(detector).is_some());
        let (suspect, place) = {
            let state = config.state.lock();
            match leaves(&state.detector) {
                Some(suspect) => (suspect.clone(), state.detector.place(&suspect.0)),
                None if rt::probe::weakened("L2-numbers-crawl") => (suspects[0].clone(), 0),
                None => {
                    drop(state);
                    config.check_majority();
                    return self.note(config, &Outcome::NoMajority);
                }
            }
        };
        if !config.queue_up(&suspect, vid, place) {
            return;
        }
        let (name, reason) = suspect;
        tracing::info!(node = %config.myaddr(), member = name, ?reason, vid = %vid, "proposing a removal");
        observe(|| Event::Removing { vid, member: name.clone(), reason });
        let outcome = config.propose(Some(vid), None, |view| view.without(&name).ok());
        if reason == Reason::Behind && !outcome.is_decided() {
            config.note_if_foreign(&name);
        }
        self.note(config, &outcome);
    }
}

impl Config {
    /// Waits for the next tick, or a kick. False if the node stops.
    fn wait_for_turn(&self) -> bool {
        let deadline = now() + self.options.timing.tick;
        let mut state = self.state.lock();
        state.detector.rest(now());
        while !state.stopping && !state.kicked && self.changed.wait_until(&mut state, deadline) {}
        state.kicked = false;
        state.detector.tick(now());
        !state.stopping
    }

    /// Asks a node that is ahead for what was decided, as long as it is one to be believed.
    fn follow_those_ahead(&self) {
        let ahead = self.state.lock().ahead.take();
        let Some((peer, vid)) = ahead else { return };
        while self.believes(&peer) {
            if vid > self.vid().next() && !self.is_ours(&peer) {
                if self.state.lock().is_alone(self.myaddr()) {
                    return;
                }
                let change = self.state.lock().change.as_ref().and_then(Weak::upgrade);
                if let Some(change) = change {
                    change.left_behind();
                }
                return;
            }
            if !self.ask_for_next(&peer) {
                return;
            }
        }
    }

    fn ping_those_due(&self) {
        let peers = self.state.lock().detector.peers();
        for peer in peers {
            let Ok(client) = self.handles.client(&peer) else { continue };
            let (refused, ours) = (client.refused_since(), client.is_ours() == Some(true));
            self.state.lock().detector.observe(&peer, refused, ours);
        }
        let due = self.state.lock().detector.to_ping(now());
        due.iter().for_each(|peer| self.doheartbeat(peer));
    }

    fn note_return_of_majority(&self) {
        let back = {
            let state = self.state.lock();
            !state.majority && state.detector.has_majority(now())
        };
        if back {
            self.note_majority(true);
        }
    }

    /// That too many disks are lost is an outage which only an operator can end (rule 3).
    fn tell_of_lost_disks(&self) {
        let lost = {
            let mut state = self.state.lock();
            let lost = state.detector.lost_disks(now());
            if lost == state.told_lost {
                return;
            }
            state.told_lost.clone_from(&lost);
            lost
        };
        if !lost.is_empty() {
            tracing::error!(node = %self.myaddr(), members = lost.join(" "), "these members have lost their disks, and without \
                their votes no view can be formed: the service is out until members that have theirs are started again, or an \
                operator starts over from one that has the state (docs/durable-state.md)");
        }
    }

    /// Sends one ping; its answer goes to the detector.
    pub(crate) fn doheartbeat(&self, peer: &str) {
        // Asked only then: a silent node would keep this thread from the others for a second.
        if !self.labs_rest() || self.is_ours(peer) {
            self.ping(peer, self.handles.client(peer).ok());
        }
    }

    fn labs_rest(&self) -> bool {
        self.state.lock().lab_rests_until.is_some_and(|until| now() < until)
    }

    fn ping(&self, peer: &str, client: Option<Arc<Client>>) {
        let vid = {
            let mut state = self.state.lock();
            state.detector.pinged(peer, now());
            state.views.vid()
        };
        let Some(client) = client else {
            // A name without an address is a silent node.
            self.state.lock().detector.unanswered(peer);
            return;
        };
        let config = self.weak.clone();
        let name = peer.to_owned();
        let args = (self.myaddr().to_owned(), vid.0);
        client.call_async(HEARTBEAT, args, self.options.timing.ping_timeout, move |answer| {
            if let Some(config) = config.upgrade() {
                config.ponged(&name, vid, answer);
            }
        });
    }

    fn ponged(&self, peer: &str, asked: ViewId, answer: Result<(i32, i32), CallError>) {
        let ours = self.handles.is_ours(peer) == Some(true);
        {
            let mut state = self.state.lock();
            match answer {
                Ok((status, theirs)) => {
                    let (theirs, mine) = (ViewId(theirs.cast_unsigned()), state.views.vid());
                    let ok = status == PaxosStatus::OK as i32;
                    // Nobody reads the number beside a lab node's OK: it needn't be one.
                    let theirs = if ok && !ours { mine } else { theirs };
                    let pong = if !ok && theirs == asked {
                        Pong::Remove
                    } else if theirs == ViewId(0) && mine > theirs && ours {
                        Pong::Blank
                    } else if theirs < mine {
                        Pong::Behind
                    } else {
                        Pong::Well
                    };
                    state.detector.answered(peer, pong, now());
                    observe(|| Event::Answered { peer: peer.to_owned() });
                    if !ours && theirs > mine.next() {
                        state.lab_rests_until = Some(now() + LAB_REST);
                    }
                    if theirs > mine && pong == Pong::Well {
                        self.follow(&mut state, peer, theirs);
                    }
                }
                Err(_) => state.detector.unanswered(peer),
            }
        }
        self.changed.notify_all();
        // It was restarted: the client that is made now will find the new server (lab: deletes the handle). This runs on the
        // RPC runtime's thread, which can't wait for a name's address: the heartbeater does.
        if answer == Err(CallError::OldServer) && !self.state.lock().stopping && !self.labs_rest() {
            match self.handles.client_at_hand(peer) {
                Some(client) => self.ping(peer, Some(client)),
                None => self.suspect(peer),
            }
        }
    }

    /// Lets others propose first. False if the removal isn't wanted any more, or not now.
    fn queue_up(&self, (name, _): &(String, Reason), vid: ViewId, place: usize) -> bool {
        if rt::probe::weakened("H11-no-back-off") {
            return true;
        }
        let step = self.options.timing.stagger;
        let queue = step * u32::try_from(place).unwrap_or(0) + rt::random::duration_below(step / 2);
        let deadline = now() + queue;
        let mut state = self.state.lock();
        while !state.stopping && state.views.vid() == vid && self.changed.wait_until(&mut state, deadline) {}
        if state.stopping || state.views.vid() != vid || state.detector.reason_of(name, now()).is_none() {
            return false;
        }
        drop(state);
        !self.acceptor.is_in_other_round(OTHERS_ROUND)
    }
}
