//! View service and servers together, without a network: random events, and what must hold whatever happens.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use lecture::pb::{Begun, Due, Outcome, Server};
use lecture::pb_protocol::{Entry, RequestStatus};
use lecture::pb_state::State;
use lecture::views::{Life, Role, Settings, View, Views};
use proptest::prelude::*;
use rt::time::Instant;

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// So many tenths of an interval pass.
    Pass(u32),
    /// A server pings, if it runs.
    Ping(usize),
    /// A server does what a backup has to do to count; its primary may be stopped.
    Fetch(usize),
    /// A client sends a deposit of 1 to a server. The answer, or that of the backup, may be lost.
    Deposit(usize, Lost),
    /// A server loses its state, and begins again.
    Restart(usize),
    /// A server stops, or goes on.
    Stop(usize),
    Continue(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    Nothing,
    Forward,
    Accepted,
}

const SERVERS: usize = 4;

fn settings() -> Settings {
    Settings { interval: Duration::from_millis(100), pings: 2, acks: true }
}

fn event() -> impl Strategy<Value = Event> {
    let lost = prop_oneof![8 => Just(Lost::Nothing), 1 => Just(Lost::Forward), 1 => Just(Lost::Accepted)];
    prop_oneof![
        4 => (1_u32..20).prop_map(Event::Pass),
        16 => (0..SERVERS).prop_map(Event::Ping),
        8 => (0..SERVERS).prop_map(Event::Fetch),
        8 => ((0..SERVERS), lost).prop_map(|(n, lost)| Event::Deposit(n, lost)),
        1 => (0..SERVERS).prop_map(Event::Restart),
        1 => (0..SERVERS).prop_map(Event::Stop),
        3 => (0..SERVERS).prop_map(Event::Continue),
    ]
}

struct Model {
    views: Views,
    now: Instant,
    servers: Vec<Server>,
    lives: [u64; SERVERS],
    stopped: [bool; SERVERS],
    formed: Vec<View>,
    sent: u64,
    /// Deposits that were acknowledged.
    acknowledged: u64,
    /// What is wrong, if anything.
    wrong: Option<String>,
}

fn number(name: &str) -> usize {
    name.parse().unwrap()
}

impl Model {
    fn new(settings: Settings) -> Self {
        let views = Views::new(settings, Life(1));
        Model {
            formed: vec![views.view()],
            views,
            now: Instant::ZERO,
            servers: (0..SERVERS).map(|n| Server::new(&n.to_string())).collect(),
            lives: [1; SERVERS],
            stopped: [false; SERVERS],
            sent: 0,
            acknowledged: 0,
            wrong: None,
        }
    }

    fn run(mut self, events: &[Event]) -> Self {
        for event in events {
            self.happen(event);
            self.look();
        }
        self
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Pass(tenths) => {
                self.now = self.now + settings().interval * tenths / 10;
                self.views.tick(self.now);
            }
            Event::Ping(n) if !self.stopped[n] => {
                let (knows, life) = (self.servers[n].acknowledges(), Life(self.lives[n]));
                let (status, view) = self.views.ping(&n.to_string(), life, knows, self.now);
                self.servers[n].learn(status, view);
            }
            Event::Fetch(n) if !self.stopped[n] => self.fetch(n),
            Event::Deposit(n, lost) if !self.stopped[n] => self.deposit(n, lost),
            Event::Restart(n) => {
                self.servers[n] = Server::new(&n.to_string());
                self.lives[n] += 1;
            }
            Event::Stop(n) => self.stopped[n] = true,
            Event::Continue(n) => self.stopped[n] = false,
            Event::Ping(_) | Event::Fetch(_) | Event::Deposit(..) => {}
        }
    }

    fn fetch(&mut self, n: usize) {
        let due = self.servers[n].due();
        match due {
            Some(Due::Fetch(primary, view)) if !self.stopped[number(&primary)] => {
                if let Some(state) = self.servers[number(&primary)].give(view, &n.to_string()) {
                    assert!(self.servers[n].install(view, State::from_bytes(&state.0).unwrap().0));
                }
            }
            Some(Due::Tell(primary, view, length)) if !self.stopped[number(&primary)] => {
                let counts = self.servers[number(&primary)].backup_counts(view, &n.to_string(), length);
                counts.then(|| self.servers[n].told(view));
            }
            _ => {}
        }
    }

    fn deposit(&mut self, n: usize, lost: Lost) {
        self.sent += 1;
        let entry = Entry { client: 1, number: self.sent, op: "deposit alice 1".to_owned() };
        // One that was under way before goes first.
        if let Some(answer) = self.try_deposit(n, &entry, lost).or_else(|| self.try_deposit(n, &entry, lost)) {
            self.acknowledged += 1;
            let total: u64 = answer.parse().unwrap();
            if total < self.acknowledged || total > self.sent {
                self.wrong =
                    Some(format!("{n} answers {total}: {} acknowledged, {} sent", self.acknowledged, self.sent));
            }
        }
    }

    fn try_deposit(&mut self, n: usize, entry: &Entry, lost: Lost) -> Option<String> {
        match self.servers[n].begin(entry.clone()) {
            Begun::Answer(RequestStatus::OK, answer) => Some(answer),
            Begun::Answer(..) => None,
            Begun::Executed(executed) => Some(executed.answer),
            Begun::Forward(backup, forward) => {
                let backup = number(&backup);
                let outcome = if self.stopped[backup] || lost == Lost::Forward {
                    Outcome::NoAnswer
                } else {
                    match self.servers[backup].accept(forward.clone()) {
                        _ if lost == Lost::Accepted => Outcome::NoAnswer,
                        Some(_) => Outcome::Accepted,
                        None => Outcome::Rejected,
                    }
                };
                let executed = self.servers[n].forwarded(&forward, outcome);
                executed.filter(|_| forward.entry == *entry).map(|executed| executed.answer)
            }
        }
    }

    /// The invariants of `views`, and of each server.
    fn look(&mut self) {
        let view = self.views.view();
        let before = self.formed.last().unwrap();
        if *before != view {
            assert_eq!(view.id.number, before.id.number + 1, "invariant 1: none is left out");
            let was_seated = [Some(&before.primary), before.backup.as_ref()].contains(&Some(&view.primary));
            assert!(before.id.number == 0 || was_seated, "invariant 2: {before}, {view}");
            self.formed.push(view);
        }
        for (n, server) in self.servers.iter().enumerate() {
            if server.role() == Role::Primary && !server.is_complete() {
                self.wrong = Some(format!("{n} is the primary of view {} without the state", server.view()));
            }
            let balance = server.state().accounts().balance("alice");
            if server.role() == Role::Primary && server.view() == &self.views.view() && balance < self.acknowledged {
                self.wrong = Some(format!("the primary {n} has {balance} of {}", self.acknowledged));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_acks_nothing_acknowledged_is_lost(events in prop::collection::vec(event(), 1..300)) {
        let wrong = Model::new(settings()).run(&events).wrong;
        prop_assert_eq!(wrong, None);
    }

    #[test]
    fn without_acks_too_no_view_is_left_out_and_no_idle_server_promoted(
        events in prop::collection::vec(event(), 1..300),
    ) {
        Model::new(settings().without_ack()).run(&events);
    }
}

/// For so many intervals these servers ping; the others are silent.
fn pings(events: &mut Vec<Event>, rounds: usize, servers: &[usize]) {
    for _ in 0..rounds {
        events.push(Event::Pass(10));
        events.extend(servers.iter().map(|n| Event::Ping(*n)));
    }
}

/// The lecture's S1-S2-S3 example, with S1 as 0: the model sees what is lost without acknowledgements.
#[test]
fn without_acks_the_model_loses_the_state() {
    let mut events = vec![];
    pings(&mut events, 5, &[0, 1, 2]);
    events.extend([Event::Fetch(1), Event::Fetch(1)]);
    pings(&mut events, 1, &[0, 1, 2]);
    events.push(Event::Deposit(0, Lost::Nothing));
    pings(&mut events, 4, &[1, 2]);
    pings(&mut events, 4, &[2]);
    events.push(Event::Deposit(2, Lost::Nothing));
    let with = Model::new(settings()).run(&events);
    assert_eq!((with.wrong, with.acknowledged), (None, 1));
    assert_eq!(with.formed.last().unwrap().to_string(), "2: 1 2");
    let without = Model::new(settings().without_ack()).run(&events);
    assert_eq!(without.formed.last().unwrap().to_string(), "3: 2 --");
    assert_eq!(without.wrong.unwrap(), "the primary 2 has 1 of 2");
}

/// The random events above do reach far enough to mean something.
#[test]
fn when_all_is_well_views_and_deposits_go_on() {
    let mut events = vec![];
    for round in 0..8 {
        pings(&mut events, 5, &[0, 1, 2, 3]);
        (0..SERVERS).for_each(|n| events.extend([Event::Fetch(n), Event::Fetch(n)]));
        pings(&mut events, 1, &[0, 1, 2, 3]);
        for lost in [Lost::Accepted, Lost::Forward, Lost::Nothing] {
            (0..SERVERS).for_each(|n| events.push(Event::Deposit(n, lost)));
        }
        events.push(Event::Restart(round % SERVERS));
    }
    let model = Model::new(settings()).run(&events);
    assert_eq!((model.wrong, model.acknowledged), (None, 8));
    assert!(model.formed.len() > 6, "{:?}", model.formed);
}
