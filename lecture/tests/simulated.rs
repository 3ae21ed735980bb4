//! Steps 2 and 4 of the lecture in the simulator: what must go wrong goes wrong every time, and is repaired every time.
//!
//! Servers, coordinators and clients are those of the programs, each on a machine of its own.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_types,
    reason = "what a run leaves behind is read after it: its threads keep their locks for ever"
)]

mod machines;

use std::net::IpAddr;
use std::path::Path;

use lecture::bank::Op;
use lecture::client::{self, Heard, Options, To, Totals};
use lecture::coord::{self, Coord};
use lecture::peers::Peers;
use lecture::srv::Srv;
use rt::time::{Instant, now, sleep};
use sim::net::{Conditions, LinkState, Net};
use yfs_rpc::PollMgr;

use machines::{begin, ms, on};

/// The machines of the servers, of the clients; coordinators stand beside the servers.
const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const ONE: &str = "10.0.1.1";
const OTHER: &str = "10.0.1.2";
const COORDINATOR: &str = "10.0.0.9:5099";

/// The two servers' files after a run.
type Files = [Vec<String>; 2];

/// Runs `program` beside the servers A and B, and gives their files.
fn run(seed: u64, program: impl FnOnce(&Net) + Send + 'static) -> Files {
    let files = machines::run(seed, |net| {
        let servers = [A, B].map(|host| {
            on(host, move || Srv::start(&PollMgr::new().unwrap(), &server(host), Path::new("file")).unwrap())
        });
        program(&net);
        (vec![A, B], servers)
    });
    files.try_into().unwrap()
}

fn server(host: &str) -> String {
    format!("{host}:5001")
}

fn coordinator(name: &str, servers: [&str; 2], alone: bool) {
    let options = coord::Options { name: name.to_owned(), servers: servers.map(server).to_vec(), alone, test: false };
    on(name, move || std::mem::forget(Coord::start(&PollMgr::new().unwrap(), options).unwrap()));
}

/// What a client did and heard.
type Sent = (Totals, Vec<Heard>);

/// A client that sends these operations.
fn client(servers: Vec<String>, to: To, operations: Vec<Op>) -> Sent {
    let peers = Peers::new(&PollMgr::new().unwrap(), "client");
    let mut heard = Vec::new();
    let options = Options { servers, to };
    let pauses = (0..).map(|count| {
        if count > 0 {
            sleep(ms(1))
        }
    });
    let operations = operations.into_iter().zip(pauses).map(|(op, ())| op);
    let hear = |what| {
        heard.push(what);
        Ok::<(), ()>(())
    };
    let totals = client::run(&peers, &options, operations, hear).unwrap();
    (totals, heard)
}

/// Sends one operation from a machine to both servers: the answers, or what else was heard.
fn to_both(host: &str, op: &str) -> String {
    let op: Op = op.parse().unwrap();
    let (_, heard) = on(host, move || client([A, B].map(server).to_vec(), To::All, vec![op]));
    heard.iter().map(Heard::to_string).collect::<Vec<_>>().join("; ")
}

/// Sends one operation from a machine to the first coordinator that answers.
fn to_one(host: &str, coordinators: [&str; 2], op: &str) -> String {
    let op: Op = op.parse().unwrap();
    let servers = coordinators.map(str::to_owned).to_vec();
    let (_, heard) = on(host, move || client(servers, To::One, vec![op]));
    heard.iter().map(Heard::to_string).collect::<Vec<_>>().join("; ")
}

fn set_link(net: &Net, one: &str, other: &str, state: LinkState) {
    let (one, other): (IpAddr, IpAddr) = (one.parse().unwrap(), other.parse().unwrap());
    net.set_link(one, other, state);
    net.set_link(other, one, state);
}

/// Two clients with random operations, who send at the same time, to `servers`; what they did.
fn two_clients(servers: &[String]) -> [Sent; 2] {
    let clients = [(ONE, 1), (OTHER, 2)].map(|(host, seed)| {
        let servers = servers.to_vec();
        begin(host, move || client(servers, To::All, client::operations(seed, false).take(60).collect()))
    });
    clients.map(|(thread, sent)| {
        assert!(thread.join_until(Instant::NEVER));
        let sent = sent.lock().unwrap().take();
        sent.unwrap()
    })
}

// --- step 2 ---

#[test]
fn step2_an_operation_that_is_late_at_one_server_divides_them_for_ever() {
    let [a, b] = run(1, |net| {
        assert_eq!(to_both(ONE, "deposit alice 100"), "deposit alice 100 -> 100");
        // The one's operation reaches A at once, and B after the other's.
        set_link(net, ONE, B, LinkState::Cut);
        let (thread, late) = begin(ONE, || to_both(ONE, "withdraw alice 80"));
        sleep(ms(500));
        assert_eq!(
            to_both(OTHER, "withdraw alice 60"),
            "THE SERVERS DIFFER, after 0 operations: withdraw alice 60 -> 10.0.0.1:5001: refused: alice has 20 / \
             10.0.0.2:5001: 40"
        );
        set_link(net, ONE, B, LinkState::Open);
        assert!(thread.join_until(now() + ms(10_000)));
        let late = late.lock().unwrap().take().unwrap();
        assert!(late.ends_with("10.0.0.1:5001: 20 / 10.0.0.2:5001: refused: alice has 40"), "{late}");
        to_both(ONE, "read alice");
    });
    let both = "1 deposit alice 100 -> 100 | alice 100";
    assert_eq!(
        a,
        [
            both,
            "2 withdraw alice 80 -> 20 | alice 20",
            "3 withdraw alice 60 -> refused: alice has 20 | alice 20",
            "4 read alice -> 20 | alice 20"
        ]
    );
    assert_eq!(
        b,
        [
            both,
            "2 withdraw alice 60 -> 40 | alice 40",
            "3 withdraw alice 80 -> refused: alice has 40 | alice 40",
            "4 read alice -> 40 | alice 40"
        ]
    );
}

/// The same clients as in `make lecture`, on a network where no two packets take the same time.
fn strawman(seed: u64) -> Files {
    run(seed, |net| {
        net.set_conditions(Conditions { jitter: ms(2), ..Conditions::default() });
        let sent = two_clients(&[A, B].map(server));
        assert!(sent.iter().all(|(totals, _)| totals.answered == 60));
        assert!(sent.iter().any(|(totals, _)| totals.differing > 0), "a client says so");
        let firsts = |sent: &Sent| sent.1.iter().filter(|heard| matches!(heard, Heard::Differ { .. })).count();
        assert!(sent.iter().all(|sent| firsts(sent) == usize::from(sent.0.differing > 0)), "and says it once");
    })
}

#[test]
fn step2_two_clients_divide_the_servers_under_every_seed_and_the_same_way_under_the_same() {
    let mut lasting = 0;
    for seed in 1..=8 {
        let [a, b] = strawman(seed);
        assert_eq!((a.len(), b.len()), (120, 120), "seed {seed}");
        assert_ne!(a, b, "seed {seed}");
        lasting += u32::from(accounts(&a) != accounts(&b));
    }
    // Another order alone comes to the same sums; what one refuses and the other doesn't stays.
    assert!(lasting >= 2, "{lasting}");
    assert_eq!(strawman(1), strawman(1));
}

#[test]
fn step2_a_bonus_divides_them_with_a_single_client() {
    let [a, b] = run(1, |_| {
        let heard = (0..4).map(|_| to_both(ONE, "bonus alice")).collect::<Vec<_>>();
        assert!(heard.iter().any(|heard| heard.starts_with("THE SERVERS DIFFER")), "{heard:?}");
    });
    assert_ne!(a, b);
}

#[test]
fn step3_the_coordinator_keeps_the_servers_the_same() {
    for seed in 1..=5 {
        let [a, b] = run(seed, |_| {
            coordinator(COORDINATOR, [A, B], false);
            let sent = two_clients(&[COORDINATOR.to_owned()]);
            assert!(sent.iter().all(|(totals, _)| totals.answered == 60 && totals.differing == 0));
            for _ in 0..4 {
                let one = on(ONE, || client(vec![COORDINATOR.to_owned()], To::All, vec!["bonus bob".parse().unwrap()]));
                assert_eq!(one.0.answered, 1);
            }
        });
        assert_eq!(a.len(), 124, "seed {seed}");
        assert_eq!(a, b, "seed {seed}");
    }
}

/// The accounts after the last operation.
fn accounts(file: &[String]) -> &str {
    file.last().and_then(|line| line.split_once(" | ")).map_or("", |(_, accounts)| accounts)
}

// --- step 4 ---

const FIRST: &str = "10.0.0.1:5098";
const SECOND: &str = "10.0.0.2:5099";

/// A coordinator beside each server; a client on each side of the partition.
fn partition(net: &Net, state: LinkState) {
    for (here, there) in [(A, B), (A, OTHER), (ONE, B), (ONE, OTHER)] {
        set_link(net, here, there, state);
    }
}

#[test]
fn step4_two_coordinators_and_a_partition_split_the_brain() {
    let [a, b] = run(1, |net| {
        coordinator(FIRST, [A, B], true);
        coordinator(SECOND, [B, A], true);
        let both = [FIRST, SECOND];
        assert_eq!(to_one(ONE, both, "deposit alice 100"), "deposit alice 100 -> 100");
        assert_eq!(to_one(OTHER, both, "read alice"), "read alice -> 100");
        partition(net, LinkState::Cut);
        assert_eq!(to_one(ONE, both, "withdraw alice 100"), "withdraw alice 100 -> 0", "acknowledged");
        let stale = to_one(OTHER, both, "read alice");
        assert!(stale.contains(&format!("turning to {SECOND}")), "{stale}");
        assert!(stale.ends_with("read alice -> 100"), "an old balance, after the withdrawal was acknowledged: {stale}");
        let twice = to_one(OTHER, [SECOND, FIRST], "withdraw alice 100");
        assert_eq!(twice, "withdraw alice 100 -> 0", "the same money, once more");
        partition(net, LinkState::Open);
        sleep(ms(10_000));
        assert_eq!(to_one(ONE, both, "deposit alice 7"), "deposit alice 7 -> 7");
        assert_eq!(to_one(ONE, [SECOND, FIRST], "read alice"), "read alice -> 0", "a client that goes back and forth");
    });
    let common = ["1 deposit alice 100 -> 100 | alice 100", "2 read alice -> 100 | alice 100"];
    assert_eq!((&a[..2], &b[..2]), (&common.map(str::to_owned)[..], &common.map(str::to_owned)[..]));
    assert_eq!(a[2..], ["3 withdraw alice 100 -> 0 | alice 0", "4 deposit alice 7 -> 7 | alice 7"]);
    assert_eq!(
        b[2..],
        ["3 read alice -> 100 | alice 100", "4 withdraw alice 100 -> 0 | alice 0", "5 read alice -> 0 | alice 0"]
    );
}

#[test]
fn step4_a_majority_prevents_the_split_brain_and_serves_nobody_until_the_network_is_whole() {
    let [a, b] = run(1, |net| {
        coordinator(FIRST, [A, B], false);
        coordinator(SECOND, [B, A], false);
        let both = [FIRST, SECOND];
        assert_eq!(to_one(ONE, both, "deposit alice 100"), "deposit alice 100 -> 100");
        partition(net, LinkState::Cut);
        let paid = to_one(ONE, both, "withdraw alice 100");
        assert!(paid.contains("refuses: stopped: operation 2 has 1 of 2 answers that it needs"), "{paid}");
        let paid = to_one(OTHER, both, "withdraw alice 100");
        assert!(paid.contains("refuses: stopped: the question where the servers are has 1 of 2 answers"), "{paid}");
        partition(net, LinkState::Open);
        sleep(ms(10_000));
        // What was under way is executed first: the withdrawal, which nobody was told of.
        assert_eq!(to_one(ONE, both, "read alice"), "read alice -> 0");
    });
    assert_eq!(a, b);
    assert_eq!(a.len(), 3);
}
