//! The view server: [`crate::views`] behind a port, with a clock.
//!
//! There is one of it, and what it knows isn't on any disk: the lecture's limitation. Started again it forms no views for
//! servers that have been in one (`views`, invariant 5).
//!
//! Threads: those of its port, and `view_server.clock`. Locks: `view_server.state` guards views and clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Condvar, Mutex, Rank};
use rt::thread::JoinHandle;
use rt::time::now;
use yfs_rpc::{PollMgr, Server, Status, Workers, names};

use crate::pb_protocol::{PING, VIEW};
use crate::peers::{StartError, cannot_listen, listen};
use crate::views::{Life, PingStatus, Settings, View, Views};

const STATE_RANK: Rank = Rank::new(34, "view_server.state");
/// Names of servers are no longer.
const MAX_NAME_BYTES: usize = 255;
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

struct State {
    views: Views,
    /// What was logged: the view, whether it was acknowledged, who lives.
    told: (View, bool, BTreeSet<String>),
    stopping: bool,
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
        let told = (View::default(), false, BTreeSet::new());
        let state = Mutex::new(STATE_RANK, State { views: Views::new(settings), told, stopping: false });
        let interval = settings.interval;
        let inner = Arc::new(Inner { name: name.to_owned(), interval, state, stops: Condvar::new() });

        let own = inner.clone();
        server.reg_on(Workers::Peers, PING, move |name: String, life: u64, knows: u64| {
            let is_name = name.len() <= MAX_NAME_BYTES && names::address(&name).is_ok();
            own.with(|views| match is_name {
                true => views.ping(&name, Life(life), knows, now()),
                false => (PingStatus::NAME, views.view()),
            })
        });
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
            state.views.tick(now());
            self.tell(&mut state);
            let until = now() + self.interval / 10;
            self.stops.wait_until(&mut state, until);
        }
    }

    fn with(&self, act: impl FnOnce(&mut Views) -> (PingStatus, View)) -> (PingStatus, View) {
        let mut state = self.state.lock();
        let answer = act(&mut state.views);
        self.tell(&mut state);
        answer
    }

    /// Logs what is new.
    fn tell(&self, state: &mut State) {
        let node = self.name.as_str();
        let living: BTreeSet<String> = state.views.living(now()).into_iter().map(|(name, _)| name).collect();
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
            tracing::info!(node, kind = "view", "view {} is acknowledged", new.0.number);
        }
        state.told = new;
    }
}
