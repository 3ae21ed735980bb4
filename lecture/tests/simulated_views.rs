//! Steps 5 and 6 of the lecture in the simulator: what must go wrong goes wrong every time, and so does its repair.
//!
//! The view server, the servers and the clients are those of the programs, each on a machine of its own.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_types,
    reason = "what a run leaves behind is read after it: its threads keep their locks for ever"
)]

mod machines;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lecture::bank::Op;
use lecture::pb_client::{Answered, NoView, PbClient, Unserved};
use lecture::pb_server::{Options, PbServer};
use lecture::peers::Peers;
use lecture::view_server::ViewServer;
use lecture::views::{Role, Settings};
use rt::time::{now, sleep};
use sim::net::{LinkState, Net};
use yfs_rpc::PollMgr;

use machines::{begin, ms, on};

const VIEW_SERVER: &str = "10.0.0.9:5000";
const S1: &str = "10.0.0.1:5001";
const S2: &str = "10.0.0.2:5001";
const S3: &str = "10.0.0.3:5001";
const CLIENT: &str = "10.0.1.1";

/// What the director has: the network, the view server, the servers.
struct Director {
    net: Net,
    views: Arc<ViewServer>,
    servers: Vec<Arc<PbServer>>,
}

impl Director {
    fn set_link(&self, one: &str, other: &str, state: LinkState) {
        let ip = |name: &str| -> IpAddr { name.split(':').next().unwrap().parse().unwrap() };
        self.net.set_link(ip(one), ip(other), state);
        self.net.set_link(ip(other), ip(one), state);
    }

    fn cut(&self, one: &str, others: &[&str]) {
        others.iter().for_each(|other| self.set_link(one, other, LinkState::Cut));
    }

    /// A server joins; it has pinged when this returns.
    fn join(&mut self, name: &'static str) {
        let server = self.start(name);
        self.servers.push(server);
        sleep(ms(50));
    }

    /// A server, from 1, loses all that it has, and begins again.
    fn restart(&mut self, server: usize) {
        // Its end gives the file free.
        let old = self.servers.remove(server - 1);
        old.shutdown();
        drop(old);
        let new = self.start([S1, S2, S3][server - 1]);
        self.servers.insert(server - 1, new);
        sleep(ms(50));
    }

    fn start(&self, name: &'static str) -> Arc<PbServer> {
        on(name, move || {
            let (view_server, file) = (VIEW_SERVER.to_owned(), Some(PathBuf::from("file")));
            let interval = Settings::default().interval;
            let options = Options { name: name.to_owned(), view_server, file, interval, test: false };
            Arc::new(PbServer::start(&PollMgr::new().unwrap(), &options).unwrap())
        })
    }

    /// The view server forgets its views.
    fn restart_view_server(&mut self) {
        self.views.shutdown();
        self.views = view_server(Settings::default());
    }

    /// What a server, from 1, believes: `1: S1 S2`, and what it is in that.
    fn believes(&self, server: usize) -> (String, Role) {
        let (view, role) = self.servers[server - 1].view();
        (short(&view.to_string()), role)
    }

    fn view(&self) -> String {
        short(&self.views.view().to_string())
    }

    fn await_view(&self, view: &str) {
        await_that(view, || self.view() == view);
    }
}

fn await_that(what: &str, so: impl Fn() -> bool) {
    let deadline = now() + ms(20_000);
    while !so() {
        assert!(now() < deadline, "not: {what}");
        sleep(ms(1));
    }
}

fn short(view: &str) -> String {
    view.replace(S1, "S1").replace(S2, "S2").replace(S3, "S3")
}

fn view_server(settings: Settings) -> Arc<ViewServer> {
    on(VIEW_SERVER, move || Arc::new(ViewServer::start(&PollMgr::new().unwrap(), VIEW_SERVER, settings).unwrap()))
}

type Files = Vec<Vec<String>>;

/// Runs `program` beside a view server, and gives the files of the servers that have joined.
fn run(seed: u64, settings: Settings, program: impl FnOnce(&mut Director) + Send + 'static) -> Files {
    machines::run(seed, move |net| {
        let mut director = Director { net, views: view_server(settings), servers: Vec::new() };
        program(&mut director);
        ([S1, S2, S3][..director.servers.len()].to_vec(), director)
    })
}

/// A client that goes on where it stopped.
#[derive(Clone)]
struct Client(Arc<Mutex<Option<PbClient>>>);

impl Client {
    fn new() -> Client {
        let make = || PbClient::new(Peers::new(&PollMgr::new().unwrap(), CLIENT), VIEW_SERVER);
        Client(Arc::new(Mutex::new(Some(on(CLIENT, make)))))
    }

    fn call(&self, op: &str, within: Duration) -> std::result::Result<Answered, Unserved> {
        let (op, own): (Op, _) = (op.parse().unwrap(), self.0.clone());
        on(CLIENT, move || {
            let mut client = own.lock().unwrap().take().unwrap();
            let outcome = client.call(&op, within);
            *own.lock().unwrap() = Some(client);
            outcome
        })
    }

    /// The answer and who gave it.
    fn answer(&self, op: &str) -> (String, String) {
        let answered = self.call(op, ms(20_000)).unwrap();
        (answered.answer, short(&answered.server))
    }
}

fn by(answer: &str, server: &str) -> (String, String) {
    (answer.to_owned(), server.to_owned())
}

// --- step 5 ---

#[test]
fn step5_a_deposed_primary_is_rejected_and_its_clients_request_executes_once_at_the_new_one() {
    for seed in 1..=3 {
        let files = run(seed, Settings::default(), |director| {
            director.join(S1);
            director.join(S2);
            director.await_view("1: S1 S2");
            let client = Client::new();
            assert_eq!(client.answer("deposit alice 100"), by("100", "S1"));

            // The view server and S1 don't hear each other; S2 doesn't hear of the next view before it is told so.
            director.cut(VIEW_SERVER, &[S1]);
            await_that("S2 is about to be the primary", || director.view() != "1: S1 S2");
            // S1 still acts as the primary until S2 hears of view 2.
            let heard = director.believes(2).0 == "2: S2 --";
            let (answer, server) = client.answer("deposit alice 1");
            assert_eq!(answer, "101");
            assert!(server == "S1" || heard || director.believes(2).0 == "2: S2 --");
            await_that("S2 hears of it", || director.believes(2) == ("2: S2 --".to_owned(), Role::Primary));

            assert_eq!(director.believes(1), ("1: S1 S2".to_owned(), Role::Primary), "S1 still believes");
            let answered = client.call("deposit alice 10", ms(20_000)).unwrap();
            assert_eq!((&*answered.answer, short(&answered.server).as_str(), answered.view), ("111", "S2", 2));
            assert_eq!(director.believes(1).1, Role::Primary, "and still");

            // S1 comes back, and has everything as soon as it counts.
            director.set_link(VIEW_SERVER, S1, LinkState::Open);
            director.await_view("3: S2 S1");
            await_that("S1 counts", || director.views.is_acknowledged());
            assert_eq!(client.answer("read alice"), by("111", "S2"));
        });
        let operations =
            ["deposit alice 100 -> 100", "deposit alice 1 -> 101", "deposit alice 10 -> 111", "read alice -> 111"];
        for file in &files {
            assert_eq!(file.len(), operations.len(), "seed {seed}: {file:?}");
            assert!(file.iter().zip(operations).all(|(line, op)| line.contains(op)), "seed {seed}: {file:?}");
        }
        assert_eq!(files[0], files[1], "seed {seed}");
    }
}

#[test]
fn step5_until_the_backup_hears_of_the_view_the_old_primary_acts_and_afterwards_nothing_of_it_is_accepted() {
    let files = run(1, Settings::default(), |director| {
        director.join(S1);
        director.join(S2);
        director.await_view("1: S1 S2");
        let client = Client::new();
        assert_eq!(client.answer("deposit alice 100"), by("100", "S1"));
        director.cut(VIEW_SERVER, &[S1]);
        // S2's pings arrive, and what it is answered doesn't: it lives, and doesn't hear of view 2.
        sleep(ms(300));
        let (from, to) = (VIEW_SERVER.split(':').next().unwrap(), S2.split(':').next().unwrap());
        director.net.set_link(from.parse().unwrap(), to.parse().unwrap(), LinkState::Cut);
        director.await_view("2: S2 --");
        assert_eq!(director.believes(2), ("1: S1 S2".to_owned(), Role::Backup));
        let answered = client.call("deposit alice 1", ms(20_000)).unwrap();
        assert_eq!((&*answered.answer, &*answered.server), ("101", S1), "the old primary acts");
        // A client that has heard of view 2 is turned away until S2 has heard of it, too.
        let late = Client::new();
        assert_eq!(late.call("deposit alice 50", ms(600)), Err(Unserved::Unknown));
        director.net.set_link(from.parse().unwrap(), to.parse().unwrap(), LinkState::Open);
        await_that("the true moment of switch-over", || director.believes(2).1 == Role::Primary);
        let answered = client.call("deposit alice 2", ms(20_000)).unwrap();
        assert_eq!((&*answered.answer, &*answered.server, answered.view), ("103", S2, 2));
        assert!(answered.sent > 1, "first to S1, which says that it isn't the primary any more");
    });
    assert_eq!((files[0].len(), files[1].len()), (2, 3));
}

// --- step 6 ---

/// The lecture's example: in view 2 S3 is the new backup of S2, which stops pinging before S3 has its state.
fn s2_stops(director: &mut Director, client: &Client) {
    director.join(S1);
    director.join(S2);
    director.join(S3);
    director.await_view("1: S1 S2");
    assert_eq!(client.answer("deposit alice 100"), by("100", "S1"));
    await_that("acknowledged", || director.views.is_acknowledged());
    // S2 and S3 can't reach each other: there is no time for the transfer.
    director.cut(S2, &[S3]);
    director.cut(S1, &[VIEW_SERVER, S2, S3, CLIENT]);
    director.await_view("2: S2 S3");
    await_that("S3 hears of it", || director.believes(3) == ("2: S2 S3".to_owned(), Role::Backup));
    director.cut(S2, &[VIEW_SERVER, CLIENT]);
    sleep(ms(3000));
}

#[test]
fn step6_without_acks_the_state_is_lost_every_time() {
    for seed in 1..=5 {
        let files = run(seed, Settings::default().without_ack(), |director| {
            let client = Client::new();
            s2_stops(director, &client);
            assert_eq!(director.view(), "3: S3 --");
            assert_eq!(director.believes(3).1, Role::Primary);
            assert!(!director.servers[2].is_complete());
            // What was acknowledged is gone.
            assert_eq!(client.answer("read alice"), by("0", "S3"));
            // It doesn't come back either.
            [S2, S3, CLIENT, VIEW_SERVER].iter().for_each(|other| director.set_link(S2, other, LinkState::Open));
            director.await_view("4: S3 S2");
            await_that("S2 counts", || director.views.is_acknowledged());
            assert_eq!(client.answer("read alice"), by("0", "S3"));
        });
        assert_eq!(files[2], ["1 read alice -> 0 |", "2 read alice -> 0 |"], "seed {seed}");
        assert_eq!(files[1], files[2], "seed {seed}: and S2 has given up what it had");
    }
}

#[test]
fn step6_with_acks_the_view_stays_and_the_state_is_there_when_s2_is_back() {
    for seed in 1..=5 {
        let files = run(seed, Settings::default(), |director| {
            let client = Client::new();
            s2_stops(director, &client);
            assert_eq!(director.view(), "2: S2 S3", "better to stay: maybe S2 will revive");
            assert!(!director.views.is_acknowledged());
            assert_eq!(client.call("read alice", ms(500)), Err(Unserved::Unknown));
            [S2, S3, CLIENT, VIEW_SERVER].iter().for_each(|other| director.set_link(S2, other, LinkState::Open));
            assert_eq!(client.answer("read alice"), by("100", "S2"));
            await_that("acknowledged", || director.views.is_acknowledged());
            assert_eq!(director.view(), "2: S2 S3");
            // Now S3 may be promoted.
            director.cut(S2, &[VIEW_SERVER, S3, CLIENT]);
            assert_eq!(client.answer("read alice"), by("100", "S3"));
        });
        assert_eq!(files[2].len(), 3, "seed {seed}: {files:?}");
        assert!(files[2].iter().all(|line| line.ends_with("| alice 100")), "seed {seed}: {files:?}");
    }
}

// --- step 7 ---

#[test]
fn step7_a_restarted_view_server_takes_nobodys_state_and_begins_anew_when_all_are_started_again() {
    for seed in 1..=3 {
        let files = run(seed, Settings::default(), |director| {
            director.join(S1);
            director.join(S2);
            director.await_view("1: S1 S2");
            let mut client = Client::new();
            assert_eq!(client.answer("deposit alice 100"), by("100", "S1"));
            director.restart_view_server();
            director.join(S3);
            sleep(ms(3000));
            assert_eq!(director.view(), "0: -- --", "S1 and S2 live");
            assert_eq!(client.answer("read alice"), by("100", "S1"), "it knows their view");
            client = Client::new();
            let unserved = client.call("read alice", ms(500));
            assert_eq!(unserved, Err(Unserved::NoView(NoView::NoPrimary)));
            director.restart(2);
            sleep(ms(3000));
            assert_eq!(director.view(), "0: -- --", "S1 lives");
            director.restart(1);
            director.await_view("1: S3 S2");
            assert_eq!(client.answer("read alice"), by("0", "S3"));
        });
        assert_eq!((files[0].len(), files[1].len(), files[2].len()), (0, 1, 1), "seed {seed}: {files:?}");
    }
}

#[test]
fn step7_servers_that_a_restarted_view_server_did_not_hear_keep_what_they_have() {
    let files = run(1, Settings::default(), |director| {
        director.join(S1);
        director.join(S2);
        director.await_view("1: S1 S2");
        let client = Client::new();
        assert_eq!(client.answer("deposit alice 100"), by("100", "S1"));
        director.cut(VIEW_SERVER, &[S1, S2]);
        director.restart_view_server();
        director.join(S3);
        director.await_view("1: S3 --");
        [S1, S2].iter().for_each(|server| director.set_link(VIEW_SERVER, server, LinkState::Open));
        sleep(ms(5000));
        assert_eq!(director.view(), "1: S3 --", "nobody else is seated");
        assert_eq!(director.believes(1), ("1: S1 S2".to_owned(), Role::Primary));
        // The view server's clients turn to whom it names, also one that knew the other life's view.
        assert_eq!(Client::new().answer("read alice"), by("0", "S3"));
        director.cut(CLIENT, &[S1, S2]);
        assert_eq!(client.answer("read alice"), by("0", "S3"));
    });
    assert_eq!(files[0], ["1 deposit alice 100 -> 100 | alice 100"]);
    assert_eq!(files[0], files[1]);
}

// --- both ---

/// Servers lose the view server, each other and clients for a while, one after the other, under clients that deposit.
fn unrest(seed: u64) -> Files {
    run(seed, Settings { pings: 3, ..Settings::default() }, move |director| {
        [S1, S2, S3].into_iter().for_each(|name| director.join(name));
        director.await_view("1: S1 S2");
        let clients: Vec<_> = (1..=3)
            .map(|client| {
                let host = format!("10.0.1.{client}");
                begin(&host.clone(), move || {
                    let mut client = PbClient::new(Peers::new(&PollMgr::new().unwrap(), &host), VIEW_SERVER);
                    let op = "deposit alice 1".parse().unwrap();
                    let again = (0..30).map(|_| {
                        sleep(ms(200));
                        client.call(&op, ms(100_000)).unwrap().sent > 1
                    });
                    again.filter(|again| *again).count()
                })
            })
            .collect();
        let others = [VIEW_SERVER, S1, S2, S3, "10.0.1.1", "10.0.1.2", "10.0.1.3"];
        for _ in 0..8 {
            let server = others[1 + rt::random::below(3) as usize];
            let cut: Vec<&str> = others.into_iter().filter(|_| rt::random::below(2) == 0).collect();
            director.cut(server, &cut);
            sleep(ms(200 + rt::random::below(1500)));
            others.iter().for_each(|other| director.set_link(server, other, LinkState::Open));
            sleep(ms(rt::random::below(1000)));
        }
        let mut again = 0;
        for (thread, sent_again) in clients {
            assert!(thread.join_until(now() + ms(200_000)));
            again += sent_again.lock().unwrap().unwrap();
        }
        assert!(again > 0, "seed {seed}: something was to happen");
        let client = Client::new();
        assert_eq!(client.call("read alice", ms(20_000)).unwrap().answer, "90", "seed {seed}");
        await_that("all is well", || {
            let view = director.views.view();
            view.backup.is_some() && director.views.is_acknowledged()
        });
        let backup = director.views.view().backup.unwrap();
        let at = [S1, S2, S3].iter().position(|name| *name == backup).unwrap();
        assert_eq!(director.servers[at].accounts().0, 91, "seed {seed}: 90 deposits and the read");
    })
}

#[test]
fn with_acks_each_deposit_is_executed_once_whoever_is_cut_off() {
    for seed in 1..=8 {
        unrest(seed);
    }
    assert_eq!(unrest(1), unrest(1), "a seed is one run");
}
