//! A node of the lab: what its handlers answer, its heartbeats, its rounds of Paxos, when it would abort.
//!
//! Locks: one for all its state, as nothing here has to be fast; never held across a call. Replication is in `lab_rsm`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rt::sync::{Condvar, Mutex, MutexGuard, Rank};
use rt::time::{Instant, now};

use crate::client::{Answer, StrictClient};
use crate::lab_paxos::{Acceptor, members, value};
use crate::lab_rsm::Replication;
use crate::server::{Reserved, StrictServer};
use crate::wire::{
    ACCEPTREQ, ATMOSTONCE, CLIENT_INVOKE, CLIENT_MEMBERS, DECIDEREQ, ERR, Enc, HEARTBEAT, INVOKE, JOINREQ, OK, OLDSRV,
    PREPAREREQ, TRANSFERDONEREQ, TRANSFERREQ, garbage, only,
};

/// The lab's cadence.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// The total time of the calls between nodes, binds included.
pub(crate) const CALL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(20);

/// One client a peer and kind of work: calls of one client here wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Heartbeats,
    Paxos,
    Invokes,
    Recovery,
}

pub(crate) struct State {
    pub(crate) acceptor: Acceptor,
    /// A proposer is running (lab: `!stable`).
    pub(crate) running: bool,
    my_n: u32,
    pub(crate) rsm: Replication,
}

impl State {
    /// The latest view's number (lab: `myvid`).
    pub(crate) fn myvid(&self) -> u32 {
        self.acceptor.instance_h
    }

    pub(crate) fn view(&self, vid: u32) -> Vec<String> {
        self.acceptor.values.get(&vid).map_or(Vec::new(), |v| members(v))
    }
}

pub(crate) struct Inner {
    pub(crate) me: String,
    pub(crate) state: Mutex<State>,
    /// Notified when a view is committed, when a backup is in sync, when the node dies.
    pub(crate) changed: Condvar,
    /// The order of client requests (lab: `invoke_mutex`).
    pub(crate) invoke_turn: Mutex<()>,
    handles: Mutex<BTreeMap<(String, Work), Arc<StrictClient>>>,
    dead: AtomicBool,
    /// It accepts nothing, as if its answers came late.
    mute: AtomicBool,
    /// Removals that its heartbeats have led to.
    removals: AtomicU32,
}

/// Dies when dropped.
pub(crate) struct LabNode {
    pub(crate) inner: Arc<Inner>,
    server: StrictServer,
}

impl LabNode {
    /// The first node of a service.
    pub(crate) fn first() -> LabNode {
        LabNode::start(None)
    }

    /// A node that joins through `first`.
    pub(crate) fn joining(first: &str) -> LabNode {
        LabNode::start(Some(first))
    }

    fn start(first: Option<&str>) -> LabNode {
        let port = Reserved::any();
        let me = port.port().to_string();
        let state = State {
            acceptor: Acceptor::new(&me, first.is_none()),
            running: false,
            my_n: 0,
            rsm: Replication::new(first.unwrap_or(&me), u32::from(first.is_none())),
        };
        let inner = Arc::new(Inner {
            me,
            state: Mutex::new(Rank::new(310, "lab.state"), state),
            changed: Condvar::new(),
            invoke_turn: Mutex::new(Rank::new(300, "lab.invoke"), ()),
            handles: Mutex::new(Rank::new(320, "lab.handles"), BTreeMap::new()),
            dead: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            removals: AtomicU32::new(0),
        });
        let serving = inner.clone();
        let server = port.serve(Arc::new(move |procedure, args| serving.handle(procedure, args)));
        let (beating, recovering) = (inner.clone(), inner.clone());
        rt::thread::spawn("lab heartbeater", move || beating.heartbeater()).unwrap();
        rt::thread::spawn("lab recovery", move || recovering.recovery()).unwrap();
        LabNode { inner, server }
    }

    pub(crate) fn name(&self) -> &str {
        &self.inner.me
    }

    /// As by `kill -9`.
    pub(crate) fn die(&self) {
        self.inner.dead.store(true, Ordering::SeqCst);
        self.server.stop();
        self.inner.changed.notify_all();
        self.inner.handles.lock().clear();
    }

    pub(crate) fn view(&self) -> (u32, Vec<String>) {
        let state = self.inner.state.lock();
        (state.myvid(), state.view(state.myvid()))
    }

    /// Whether it serves as a primary, or executes as a backup.
    pub(crate) fn is_in_sync(&self) -> bool {
        let state = self.inner.state.lock();
        !state.rsm.inviewchange && state.view(state.rsm.vid_commit).contains(&self.inner.me)
    }

    /// The requests executed, with their viewstamps.
    pub(crate) fn executed(&self) -> Vec<(u32, u32)> {
        self.inner.state.lock().rsm.stamps.clone()
    }

    pub(crate) fn transfers_done(&self) -> u32 {
        self.inner.state.lock().rsm.transfers_done
    }

    pub(crate) fn removals(&self) -> u32 {
        self.inner.removals.load(Ordering::SeqCst)
    }

    /// A stamp is used up, as by an invoke that a backup didn't answer in time.
    pub(crate) fn lose_a_stamp(&self) {
        self.inner.state.lock().rsm.lose_a_stamp();
    }

    pub(crate) fn set_mute(&self, mute: bool) {
        self.inner.mute.store(mute, Ordering::SeqCst);
    }
}

impl Drop for LabNode {
    fn drop(&mut self) {
        self.die();
    }
}

impl Inner {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Waits a tick, or for what it is notified of.
    pub(crate) fn wait(&self, state: &mut MutexGuard<'_, State>) {
        self.changed.wait_until(state, now() + TICK);
    }

    /// One call to another node: a bound client, or none (lab: `handle(..).safebind()`).
    pub(crate) fn call(&self, peer: &str, work: Work, procedure: u32, args: Enc, total: Duration) -> Option<Answer> {
        let key = (peer.to_owned(), work);
        let client = {
            let mut handles = self.handles.lock();
            handles.entry(key.clone()).or_insert_with(|| Arc::new(StrictClient::of(peer))).clone()
        };
        if self.is_dead() {
            return None;
        }
        if !client.is_bound() && client.bind(CALL).is_err() {
            self.handles.lock().remove(&key);
            return None;
        }
        client.call(procedure, args, total).ok()
    }

    fn delete_handle(&self, peer: &str) {
        self.handles.lock().retain(|(name, _), _| name != peer);
    }

    fn handle(self: &Arc<Self>, procedure: u32, args: &[u8]) -> Answer {
        match procedure {
            PREPAREREQ => self.state.lock().acceptor.preparereq(args),
            ACCEPTREQ if self.mute.load(Ordering::SeqCst) => (OK, Enc::new().flag(false).0),
            ACCEPTREQ => self.state.lock().acceptor.acceptreq(args),
            DECIDEREQ => {
                let (answer, chosen) = self.state.lock().acceptor.decidereq(args);
                if let Some((instance, v)) = chosen {
                    self.commit(instance, &v);
                }
                answer
            }
            HEARTBEAT => self.heartbeat(args),
            CLIENT_MEMBERS => {
                only("client_members", args, |dec| dec.i32());
                self.client_members()
            }
            CLIENT_INVOKE => self.client_invoke(args),
            INVOKE => self.invoke(args),
            TRANSFERREQ => self.transferreq(args),
            TRANSFERDONEREQ => self.transferdonereq(args),
            JOINREQ => self.joinreq(args),
            other => panic!("C++ aborts: procedure {other:#x}"),
        }
    }

    /// Acceptor's commit, config's and the RSM's upcalls in one.
    pub(crate) fn commit(&self, instance: u32, v: &str) {
        let gone: Vec<String> = {
            let mut state = self.state.lock();
            let before = state.view(state.myvid());
            if !state.acceptor.commit(instance, v) {
                return;
            }
            state.commit_change(instance);
            before.into_iter().filter(|m| *m != self.me && !members(v).contains(m)).collect()
        };
        gone.iter().for_each(|peer| self.delete_handle(peer));
        self.changed.notify_all();
    }

    fn heartbeat(&self, args: &[u8]) -> Answer {
        let (m, vid) = only("heartbeat", args, |dec| (dec.text(), dec.u32()));
        let state = self.state.lock();
        let myvid = state.myvid();
        let status = if vid == myvid {
            OK
        } else if state.running {
            assert!(vid == myvid + 1 || vid + 1 == myvid, "C++ aborts: {m} is in view {vid}, {} in {myvid}", self.me);
            OK
        } else {
            ERR
        };
        // The number counts only beside a refusal.
        (status, Enc::new().u32(if status == OK { garbage() } else { myvid }).0)
    }

    fn heartbeater(self: Arc<Self>) {
        loop {
            let deadline = now() + HEARTBEAT_INTERVAL;
            while now() < deadline {
                if self.is_dead() {
                    return;
                }
                rt::time::sleep(TICK);
            }
            let (vid, view) = {
                let state = self.state.lock();
                (state.myvid(), state.view(state.myvid()))
            };
            if !view.contains(&self.me) {
                continue;
            }
            let smallest = view.iter().min().unwrap();
            let suspect = if *smallest == self.me {
                view.iter().find(|m| **m != self.me && !self.doheartbeat(m, vid)).cloned()
            } else {
                Some(smallest.clone()).filter(|m| !self.doheartbeat(m, vid))
            };
            if let Some(suspect) = suspect.filter(|_| self.state.lock().myvid() == vid && !self.is_dead()) {
                self.removals.fetch_add(1, Ordering::SeqCst);
                let rest: Vec<String> = view.iter().filter(|m| **m != suspect).cloned().collect();
                self.run(vid + 1, &view, &value(&rest));
            }
        }
    }

    /// False: the peer has to go.
    fn doheartbeat(&self, peer: &str, vid: u32) -> bool {
        let args = Enc::new().text(&self.me).u32(vid);
        match self.call(peer, Work::Heartbeats, HEARTBEAT, args, CALL) {
            Some((status, result)) if status >= 0 => {
                only("heartbeat's result", &result, |dec| dec.u32());
                status == OK
            }
            Some((OLDSRV | ATMOSTONCE, _)) => {
                self.delete_handle(peer);
                true
            }
            Some(_) | None => false,
        }
    }

    /// config::add
    pub(crate) fn add(&self, m: &str, vid: u32) {
        let view = {
            let state = self.state.lock();
            if state.myvid() != vid {
                return;
            }
            state.view(vid)
        };
        let mut with = view.clone();
        with.push(m.to_owned());
        self.run(vid + 1, &view, &value(&with));
    }

    /// One round, one node after the other, this one among them.
    fn run(&self, instance: u32, view: &[String], newv: &str) -> bool {
        let n = {
            let mut state = self.state.lock();
            if state.running {
                return false;
            }
            state.running = true;
            let highest = state.my_n.max(state.acceptor.n_h.0);
            state.my_n = highest.checked_add(1).unwrap_or_else(|| panic!("a number after {}", state.acceptor.log));
            state.my_n
        };
        let decided = self.round(instance, n, view, newv);
        self.state.lock().running = false;
        decided
    }

    fn paxos(&self, peer: &str, procedure: u32, args: &Enc) -> Option<Vec<u8>> {
        let answer = if peer == self.me {
            let mut state = self.state.lock();
            Some(match procedure {
                PREPAREREQ => state.acceptor.preparereq(&args.0),
                _ => state.acceptor.acceptreq(&args.0),
            })
        } else {
            self.call(peer, Work::Paxos, procedure, args.clone(), CALL)
        };
        let (status, result) = answer?;
        let whole = match procedure {
            PREPAREREQ => 10,
            ACCEPTREQ => 1,
            _ => 4,
        };
        assert!(status < 0 || result.len() >= whole, "{procedure:#x}: status {status} with {result:02x?}");
        (status == OK).then_some(result)
    }

    fn round(&self, instance: u32, n: u32, view: &[String], newv: &str) -> bool {
        let (mut promised, mut v, mut max) = (Vec::new(), String::new(), (0, String::new()));
        let args = Enc::new().text(&self.me).u32(instance).u32(n).text(&self.me);
        for peer in view {
            let Some(result) = self.paxos(peer, PREPAREREQ, &args) else { continue };
            let (old, accept, n_a, v_a) = only("preparereq's result", &result, |dec| {
                (dec.flag(), dec.flag(), (dec.u32(), dec.text()), dec.text())
            });
            if old {
                self.commit(instance, &v_a);
                return false;
            }
            if accept {
                promised.push(peer.clone());
                if n_a > max {
                    (max, v) = (n_a, v_a);
                }
            }
        }
        let majority = view.len() / 2 + 1;
        if promised.len() < majority {
            return false;
        }
        let v = if v.is_empty() { newv } else { &v };
        let args = Enc::new().text(&self.me).u32(instance).u32(n).text(&self.me).text(v);
        let voted = |peer: &&String| {
            self.paxos(peer, ACCEPTREQ, &args).is_some_and(|r| only("acceptreq's result", &r, |dec| dec.flag()))
        };
        let accepted: Vec<&String> = promised.iter().filter(voted).collect();
        if accepted.len() < majority {
            return false;
        }
        let args = Enc::new().text(&self.me).u32(instance).text(v);
        for peer in accepted {
            if *peer == self.me {
                self.commit(instance, v);
            } else if let Some(result) = self.paxos(peer, DECIDEREQ, &args) {
                only("decidereq's result", &result, |dec| dec.u32());
            }
        }
        true
    }

    /// The end of a wait that the lab makes with `sleep`.
    pub(crate) fn sleep_until(&self, deadline: Instant) {
        while now() < deadline && !self.is_dead() {
            rt::time::sleep(TICK);
        }
    }
}
