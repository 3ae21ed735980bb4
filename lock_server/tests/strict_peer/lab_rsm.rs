//! A lab node's replication: recovery, transfers, requests one at a time, one backup after the other.
//!
//! Its state is marshalled in a layout of its own, as every implementation's is; whatever else it is handed, it panics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rt::time::now;

use crate::client::Answer;
use crate::lab_node::{CALL, Inner, State, Work};
use crate::lock_service::Locks;
use crate::wire::{
    BUSY, CLIENT_BUSY, CLIENT_NOTPRIMARY, Dec, ERR, Enc, INVOKE, JOINREQ, OK, TRANSFERDONEREQ, TRANSFERREQ, garbage,
    only,
};

/// The lab's joiner waits so long for its answer.
const JOIN: Duration = Duration::from_secs(120);
/// The pause before it asks again (lab: 5 to 30 s).
const JOIN_PAUSE: Duration = Duration::from_secs(2);
const TRANSFER_PAUSE: Duration = Duration::from_millis(2);

type Viewstamp = (u32, u32);

pub(crate) struct Replication {
    pub(crate) primary: String,
    insync: bool,
    pub(crate) inviewchange: bool,
    pub(crate) vid_commit: u32,
    vid_insync: u32,
    backups: BTreeSet<String>,
    myvs: Viewstamp,
    last_myvs: Viewstamp,
    locks: Locks,
    /// All that was ever executed: the state, as it is marshalled.
    requests: Vec<(u32, Vec<u8>)>,
    /// The stamps of what was executed here.
    pub(crate) stamps: Vec<Viewstamp>,
    /// How often a backup said that it is in sync, and was believed.
    pub(crate) transfers_done: u32,
}

impl Replication {
    pub(crate) fn new(primary: &str, vid_commit: u32) -> Replication {
        Replication {
            primary: primary.to_owned(),
            insync: false,
            inviewchange: true,
            vid_commit,
            vid_insync: 0,
            backups: BTreeSet::new(),
            myvs: (0, 1),
            last_myvs: (0, 0),
            locks: Locks::default(),
            requests: Vec::new(),
            stamps: Vec::new(),
            transfers_done: 0,
        }
    }

    fn execute(&mut self, procedure: u32, args: &[u8]) -> Vec<u8> {
        self.requests.push((procedure, args.to_vec()));
        self.stamps.push(self.myvs);
        self.last_myvs = self.myvs;
        self.myvs.1 += 1;
        self.locks.execute(procedure, args).0
    }

    pub(crate) fn lose_a_stamp(&mut self) {
        self.myvs.1 += 1;
    }

    fn marshal_state(&self) -> Vec<u8> {
        let all = Enc::new().u32(self.requests.len() as u32);
        self.requests.iter().fold(all, |all, (procedure, args)| all.u32(*procedure).bytes(args)).0
    }

    fn unmarshal_state(&mut self, state: &[u8]) {
        let mut dec = Dec::new("a lab node's state", state);
        self.requests.clear();
        for _ in 0..dec.u32() {
            self.requests.push((dec.u32(), dec.bytes()));
        }
        dec.end();
        self.locks = Locks::default();
        for (procedure, args) in &self.requests {
            self.locks.execute(*procedure, args);
        }
    }
}

impl State {
    /// rsm::commit_change_wo
    pub(crate) fn commit_change(&mut self, vid: u32) {
        if vid <= self.rsm.vid_commit {
            return;
        }
        self.rsm.vid_commit = vid;
        self.rsm.inviewchange = true;
        let (now, before) = (self.view(vid), self.view(vid - 1));
        assert!(!now.is_empty(), "C++ aborts: a view without members");
        if !now.contains(&self.rsm.primary) {
            self.rsm.primary = before.into_iter().find(|m| now.contains(m)).expect("C++ aborts: no primary");
        }
    }

    fn is_member(&self, name: &str) -> bool {
        self.view(self.rsm.vid_commit).iter().any(|m| m == name)
    }
}

impl Inner {
    pub(crate) fn recovery(self: Arc<Self>) {
        while !self.is_dead() {
            let (member, primary) = {
                let mut state = self.state.lock();
                state.rsm.vid_insync = state.rsm.vid_commit;
                (state.is_member(&self.me), state.rsm.primary.clone())
            };
            if !member {
                if !self.join(&primary) {
                    self.sleep_until(now() + JOIN_PAUSE);
                }
                continue;
            }
            let synced = if primary == self.me { self.sync_with_backups() } else { self.sync_with_primary(&primary) };
            let mut state = self.state.lock();
            if synced && state.rsm.vid_insync == state.rsm.vid_commit {
                state.rsm.myvs = (state.rsm.vid_commit, 1);
                state.rsm.inviewchange = false;
            }
            while state.rsm.vid_insync == state.rsm.vid_commit && !self.is_dead() {
                self.wait(&mut state);
            }
        }
    }

    fn join(&self, primary: &str) -> bool {
        let last = self.state.lock().rsm.last_myvs;
        let args = Enc::new().text(&self.me).u32(last.0).u32(last.1);
        let Some((status, result)) = self.call(primary, Work::Recovery, JOINREQ, args, JOIN) else { return false };
        if status < 0 {
            return false;
        }
        let log = only("joinreq's result", &result, |dec| dec.text());
        if status != OK {
            return false;
        }
        let mut state = self.state.lock();
        state.acceptor.restore(&log);
        let vid = state.myvid();
        state.commit_change(vid);
        true
    }

    fn sync_with_backups(&self) -> bool {
        // Waits for the request that is under way.
        drop(self.invoke_turn.lock());
        let mut state = self.state.lock();
        let view = state.view(state.rsm.vid_insync);
        state.rsm.insync = true;
        state.rsm.backups = view.into_iter().filter(|m| *m != self.me).collect();
        while state.rsm.vid_insync == state.rsm.vid_commit && !state.rsm.backups.is_empty() && !self.is_dead() {
            self.wait(&mut state);
        }
        state.rsm.insync = false;
        state.rsm.backups.is_empty()
    }

    fn sync_with_primary(&self, primary: &str) -> bool {
        loop {
            let (last, vid) = {
                let state = self.state.lock();
                if state.rsm.vid_insync != state.rsm.vid_commit || self.is_dead() {
                    return false;
                }
                (state.rsm.last_myvs, state.rsm.vid_insync)
            };
            let args = Enc::new().text(&self.me).u32(last.0).u32(last.1).u32(vid);
            if let Some((status, result)) = self.call(primary, Work::Recovery, TRANSFERREQ, args, CALL)
                && status >= 0
            {
                let read = |dec: &mut Dec<'_>| (dec.bytes(), (dec.u32(), dec.u32()));
                let (bytes, theirs) = only("transferreq's result", &result, read);
                if status == OK {
                    let mut state = self.state.lock();
                    if last != theirs {
                        state.rsm.unmarshal_state(&bytes);
                    }
                    state.rsm.last_myvs = theirs;
                    break;
                }
                assert!(bytes.is_empty() && theirs == (0, 0), "status {status} with a result that is none");
            }
            rt::time::sleep(TRANSFER_PAUSE);
        }
        let vid = self.state.lock().rsm.vid_insync;
        let args = Enc::new().text(&self.me).u32(vid);
        match self.call(primary, Work::Recovery, TRANSFERDONEREQ, args, CALL) {
            Some((status, result)) if status >= 0 => {
                only("transferdonereq's result", &result, |dec| dec.u32());
                status == OK
            }
            _ => false,
        }
    }

    pub(crate) fn client_members(&self) -> Answer {
        let state = self.state.lock();
        let mut all = state.view(state.rsm.vid_commit);
        all.push(state.rsm.primary.clone());
        (OK, all.iter().fold(Enc::new().u32(all.len() as u32), |enc, m| enc.text(m)).0)
    }

    pub(crate) fn client_invoke(&self, args: &[u8]) -> Answer {
        let (procedure, request) = only("client_invoke", args, |dec| (dec.u32(), dec.bytes()));
        let nothing = Enc::new().bytes(&[]).0;
        let _turn = self.invoke_turn.lock();
        let (vs, backups) = {
            let state = self.state.lock();
            if state.rsm.inviewchange {
                return (CLIENT_BUSY, nothing);
            }
            if state.rsm.primary != self.me {
                return (CLIENT_NOTPRIMARY, nothing);
            }
            (state.rsm.myvs, state.view(state.rsm.vid_commit))
        };
        let args = Enc::new().u32(procedure).u32(vs.0).u32(vs.1).bytes(&request);
        for backup in backups.iter().filter(|m| **m != self.me) {
            let answer = self.call(backup, Work::Invokes, INVOKE, args.clone(), CALL);
            if let Some((status, result)) = &answer
                && *status >= 0
            {
                only("invoke's result", result, |dec| dec.u32());
            }
            if answer.is_none_or(|(status, _)| status != OK) {
                // The stamp is used up.
                let mut state = self.state.lock();
                if state.rsm.myvs == vs {
                    state.rsm.lose_a_stamp();
                }
                return (CLIENT_BUSY, nothing);
            }
        }
        let mut state = self.state.lock();
        if state.rsm.myvs != vs {
            return (CLIENT_BUSY, nothing);
        }
        let answer = state.rsm.execute(procedure, &request);
        (OK, Enc::new().bytes(&answer).0)
    }

    pub(crate) fn invoke(&self, args: &[u8]) -> Answer {
        let read = |dec: &mut Dec<'_>| (dec.u32(), (dec.u32(), dec.u32()), dec.bytes());
        let (procedure, vs, request) = only("invoke", args, read);
        let mut state = self.state.lock();
        let dummy = Enc::new().u32(garbage()).0;
        let member = state.is_member(&self.me);
        if state.rsm.inviewchange || state.rsm.primary == self.me || !member || vs != state.rsm.myvs {
            return (ERR, dummy);
        }
        state.rsm.execute(procedure, &request);
        (OK, dummy)
    }

    pub(crate) fn transferreq(&self, args: &[u8]) -> Answer {
        let read = |dec: &mut Dec<'_>| (dec.text(), (dec.u32(), dec.u32()), dec.u32());
        let (_src, last, vid) = only("transferreq", args, read);
        let state = self.state.lock();
        if !state.rsm.insync || vid != state.rsm.vid_insync {
            return (BUSY, Enc::new().bytes(&[]).u32(0).u32(0).0);
        }
        let mine = state.rsm.last_myvs;
        let bytes = if last == mine { Vec::new() } else { state.rsm.marshal_state() };
        (OK, Enc::new().bytes(&bytes).u32(mine.0).u32(mine.1).0)
    }

    pub(crate) fn transferdonereq(&self, args: &[u8]) -> Answer {
        let (m, vid) = only("transferdonereq", args, |dec| (dec.text(), dec.u32()));
        let mut state = self.state.lock();
        let dummy = Enc::new().u32(garbage()).0;
        if !state.rsm.insync || vid != state.rsm.vid_insync {
            return (BUSY, dummy);
        }
        state.rsm.backups.remove(&m);
        state.rsm.transfers_done += 1;
        self.changed.notify_all();
        (OK, dummy)
    }

    pub(crate) fn joinreq(&self, args: &[u8]) -> Answer {
        let (m, _last) = only("joinreq", args, |dec| (dec.text(), (dec.u32(), dec.u32())));
        let vid = {
            let state = self.state.lock();
            if state.is_member(&m) {
                return (OK, Enc::new().text(&state.acceptor.log).0);
            }
            if state.rsm.primary != self.me {
                return (BUSY, Enc::new().text("").0);
            }
            state.rsm.vid_commit
        };
        self.add(&m, vid);
        let state = self.state.lock();
        let added = state.view(state.myvid()).contains(&m);
        if added { (OK, Enc::new().text(&state.acceptor.log).0) } else { (BUSY, Enc::new().text("").0) }
    }
}
