//! The view server: [`crate::views`] behind a port, with a clock.
//!
//! There is one of it, and what it knows isn't on any disk: the lecture's limitation. Started again it seats no server that
//! has been in a view, and forms none while such a server lives (`views`, invariant 5).
//!
//! Threads: those of its port, and `view_server.clock`. Locks: `view_server.state` guards views and clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::JoinHandle;
use rt::time::{Instant, now};
use yfs_rpc::{PollMgr, Server, Status, Workers, names};

use crate::pb_protocol::{PING, Ping, VIEW};
use crate::peers::{StartError, cannot_listen, listen};
use crate::views::{Life, MAX_SERVERS, PingStatus, Settings, View, Views};

/// What to do after a restart of the view server.
pub(crate) const BEGIN_ANEW: &str = "To begin anew stop all servers, then start them again: what they have is lost";

const STATE_RANK: Rank = Rank::new(34, "view_server.state");
/// Names of servers are no longer.
const MAX_NAME_BYTES: usize = 255;
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

struct State {
    views: Views,
    /// What was logged: the view, whether it was acknowledged, who lives.
    told: (View, bool, BTreeSet<String>),
    /// Servers of which was logged that they have been in a view of another life, or ping at another interval.
    warned: BTreeSet<String>,
    /// When it last looked at what time it is.
    looked: Instant,
    stopping: bool,
}

impl State {
    /// Notes it. What servers say doesn't fill the memory: at some time there were warnings enough.
    fn is_to_be_warned_of(&mut self, what: String) -> bool {
        self.warned.len() < MAX_SERVERS && self.warned.insert(what)
    }
}

struct Inner {
    name: String,
    interval: Duration,
    state: Mutex<State>,
    /// Notified when it stops.
    stops: Condvar,
}

/// A view server. Dropping it ends it.
pub struct ViewServer {
    server: Server,
    inner: Arc<Inner>,
    clock: JoinHandle,
}

impl ViewServer {
    /// Serves at the port that `name` says.
    ///
    /// # Errors
    /// When the port can't be used, or there is no thread.
    pub fn start(pollmgr: &PollMgr, name: &str, settings: Settings) -> Result<ViewServer, StartError> {
        let server = listen(pollmgr, name)?;
        tracing::info!(node = name, kind = "start", pings = settings.pings, acks = settings.acks, "view server");
        // 0 is none.
        let views = Views::new(settings, Life(rt::random::u64().max(1)));
        let told = (views.view(), false, BTreeSet::new());
        let state = State { views, told, warned: BTreeSet::new(), looked: now(), stopping: false };
        let state = Mutex::new(STATE_RANK, state);
        let interval = settings.interval;
        let inner = Arc::new(Inner { name: name.to_owned(), interval, state, stops: Condvar::new() });

        let own = inner.clone();
        server.reg_on(Workers::Peers, PING, move |ping: Ping| own.ping(&ping));
        let own = inner.clone();
        server.reg(VIEW, move || (Status::OK, own.state.lock().views.view()));
        let own = inner.clone();
        let clock = rt::thread::spawn("view_server.clock", move || own.clock());
        let clock = clock.map_err(|e| StartError(format!("cannot start a thread: {e}")))?;
        server.start().map_err(|e| cannot_listen(name, &e))?;
        Ok(ViewServer { server, inner, clock })
    }

    /// The view now.
    pub fn view(&self) -> View {
        self.inner.state.lock().views.view()
    }

    /// Whether the primary has acknowledged the view.
    pub fn is_acknowledged(&self) -> bool {
        self.inner.state.lock().views.is_acknowledged()
    }

    /// Closes the port, and ends the clock.
    pub fn shutdown(&self) {
        self.inner.stop();
        self.server.shutdown();
        self.clock.join_until(now() + SHUTDOWN_PATIENCE);
    }
}

impl Drop for ViewServer {
    fn drop(&mut self) {
        self.inner.stop();
    }
}

impl Inner {
    fn stop(&self) {
        self.state.lock().stopping = true;
        self.stops.notify_all();
    }

    /// The clock's thread: servers die while nobody pings. It looks often, so that a view isn't formed late.
    fn clock(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let now = self.look(&mut state);
            state.views.tick(now);
            self.tell(&mut state);
            let until = now + self.interval / 10;
            self.stops.wait_until(&mut state, until);
        }
    }

    fn ping(&self, ping: &Ping) -> (PingStatus, View) {
        let Ping { name, life, knows, interval } = ping;
        let mut state = self.state.lock();
        if name.len() > MAX_NAME_BYTES || names::address(name).is_err() {
            return (PingStatus::NAME, state.views.view());
        }
        let now = self.look(&mut state);
        let answer = state.views.ping(name, *life, *knows, now);
        self.tell(&mut state);
        let expected = self.interval.as_millis();
        if u128::from(*interval) != expected && state.is_to_be_warned_of(format!("{name} each {interval}")) {
            let node = self.name.as_str();
            tracing::warn!(
                node,
                kind = "note",
                "{name} pings each {interval} ms, not each {expected}: give both the same --interval"
            );
        }
        answer
    }

    /// What time it is. If nobody has looked for longer than an interval, this process was stopped or starved: pings wait
    /// to be read, and nobody was silent.
    fn look(&self, state: &mut State) -> Instant {
        let now = now();
        let slept = now - state.looked;
        if slept > self.interval {
            state.views.slept(slept);
        }
        state.looked = now;
        now
    }

    /// Logs what is new.
    fn tell(&self, state: &mut State) {
        let node = self.name.as_str();
        let living: BTreeSet<String> = state.views.living(state.looked).into_iter().map(|(name, _)| name).collect();
        let foreign: Vec<String> = state.views.foreign(state.looked).map(str::to_owned).collect();
        for server in foreign.into_iter().filter(|server| state.is_to_be_warned_of(format!("{server} is foreign"))) {
            tracing::warn!(
                node,
                kind = "note",
                "{server} has been in a view that this view server doesn't know: it gets no seat, and there is no \
                 first view while it lives. {BEGIN_ANEW}"
            );
        }
        let (view, is_acknowledged, lived) = &state.told;
        for server in living.difference(lived) {
            tracing::info!(node, kind = "note", "{server} lives");
        }
        for server in lived.difference(&living) {
            tracing::info!(node, kind = "note", "{server} is dead: it missed its pings");
        }
        let new = (state.views.view(), state.views.is_acknowledged(), living);
        if new.0 != *view {
            tracing::info!(node, kind = "view", "view {}", new.0);
        }
        if new.1 && (new.0 != *view || !is_acknowledged) {
            tracing::info!(node, kind = "view", "view {} is acknowledged", new.0.id);
        }
        state.told = new;
    }
}
