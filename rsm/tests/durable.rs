//! What is on the disks: restarts of all, lost disks, damage, and the operator's command.
#![allow(clippy::unwrap_used, reason = "a test, all of it")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Cluster, Numbers, append, wait_until};
use rt::fs::{self, File};
use rt::sync::{Mutex, Rank};
use yfs_paxos::log::Log;
use yfs_rsm::protocol::{CLIENT_MEMBERS, ClientStatus};
use yfs_rsm::{JournalError, LogError, Options, PairError, Rsm, RsmClient, RsmError, start_over};

/// What nodes gave as the reason why they can't go on.
#[derive(Clone)]
struct Reasons(Arc<Mutex<Vec<String>>>);

impl Reasons {
    fn new() -> Self {
        Reasons(Arc::new(Mutex::new(Rank::new(65_000, "test.reasons"), Vec::new())))
    }

    /// Options of a node that gives them here, instead of ending the process.
    fn of(&self, options: Options) -> Options {
        let reasons = self.0.clone();
        Options { on_fatal: Arc::new(move |reason| reasons.lock().push(reason.to_owned())), ..options }
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    let mut file = File::create_new(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// Names and contents.
fn files_in(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = fs::list(dir).unwrap().into_iter().map(|name| name.into_string().unwrap());
    names.map(|name| (name.clone(), fs::read(&dir.join(&name)).unwrap())).collect()
}

/// A service of which all nodes have a first request, and its client.
fn started(nodes: usize) -> (Cluster, RsmClient) {
    let cluster = Cluster::start(nodes);
    let client = cluster.client();
    append(&client, 1);
    cluster.wait_for_equal_states(&(0..nodes).collect::<Vec<_>>());
    (cluster, client)
}

/// All orders of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The lab's first node begins anew with view 1, and what was acknowledged is in nobody's memory.
#[test]
fn h01_all_members_end_and_come_back_with_the_state_whatever_the_order() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    let mut numbers = Vec::new();
    for (round, order) in (1..).zip(ORDERS) {
        append(&client, round);
        numbers.push(round);
        let (vid, _) = cluster.node(0).view();
        (0..3).for_each(|at| cluster.kill(at));
        order.into_iter().for_each(|at| cluster.restart(at));
        cluster.wait_for_members(&[0, 1, 2]);
        assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), numbers, "order {order:?}");
        assert!(cluster.node(0).view().0 > vid, "they take part in a later view only");
    }
}

/// A majority that holds the state is enough, the others come later; fewer wait.
#[test]
fn h01_two_of_three_come_back_and_one_alone_serves_nothing() {
    let (mut cluster, client) = started(3);
    (0..3).for_each(|at| cluster.kill(at));
    cluster.restart(2);
    let alone = client.call(common::APPEND, (9,), Duration::from_secs(1));
    assert!(alone.is_err() && !cluster.node(2).amiprimary());
    cluster.restart(1);
    cluster.wait_for_members(&[1, 2]);
    append(&client, 2);
    let numbers = cluster.wait_for_equal_states(&[1, 2]);
    assert!(numbers.starts_with(&[1]) && numbers.ends_with(&[2]), "{numbers:?}");
    cluster.restart(0);
    cluster.wait_for_members(&[0, 1, 2]);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), numbers);
}

/// The lab's joiners count as members before they have the state, and may outnumber the one that has it.
#[test]
fn h03_joiners_that_outlive_the_first_have_all_that_was_acknowledged() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client();
    (1..=100).for_each(|n| assert_eq!(append(&client, n), n));
    for at in 1..=2 {
        cluster.nodes.push(None);
        cluster.names.push("0".to_owned());
        cluster.restart(at);
        cluster.names[at] = cluster.node(at).me().to_owned();
    }
    // A joiner that hasn't heard yet that it is a member can't vote: then two of three would be down.
    wait_until("both know that they are members", || [1, 2].iter().all(|at| cluster.node(*at).view().1.len() == 3));
    cluster.kill(0);
    cluster.wait_for_members(&[1, 2]);
    append(&cluster.client(), 101);
    assert_eq!(cluster.wait_for_equal_states(&[1, 2]), (1..=101).collect::<Vec<u64>>());
}

/// Rule 3: the disk that comes with the name is another one, so the node is removed, and added again.
#[test]
fn s04_a_member_that_lost_its_disk_is_removed_and_added_again_and_votes() {
    let (mut cluster, client) = started(3);
    cluster.kill(2);
    cluster.lose_disk(2);
    cluster.restart(2);
    cluster.wait_for_members(&[0, 1, 2]);
    wait_until("its view is one that it was added in", || cluster.node(2).view().0 >= 5);
    append(&client, 2);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2]);
    let text = String::from_utf8(fs::read(&cluster.paxos_log(0)).unwrap()).unwrap();
    let of_two = format!(" {} ", cluster.names[2]);
    let disks: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("added ") && line.contains(&of_two))
        .map(|line| &line[line.len() - 16..])
        .collect();
    assert_eq!(disks.len(), 2, "{text}");
    // Without its vote there is no view any more.
    cluster.kill(0);
    cluster.wait_for_members(&[1, 2]);
    append(&client, 3);
    assert_eq!(cluster.wait_for_equal_states(&[1, 2]), [1, 2, 3]);
}

/// The number after `starts` in a node's Paxos log.
fn short_lives(cluster: &Cluster, at: usize) -> u32 {
    let log = String::from_utf8(fs::read(&cluster.paxos_log(at)).unwrap()).unwrap();
    log.lines().rev().find_map(|line| line.strip_prefix("starts ")).unwrap().parse().unwrap()
}

/// L8: nobody is left who could remove those that ask for it, so they go on by themselves.
#[test]
fn l08_all_members_have_many_short_lives_and_come_back_and_live() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    append(&client, 1);
    for _ in 0..7 {
        (0..3).for_each(|at| cluster.kill(at));
        (0..3).for_each(|at| cluster.restart(at));
    }
    assert!((0..3).all(|at| short_lives(&cluster, at) > 4));
    cluster.wait_for_members(&[0, 1, 2]);
    append(&client, 2);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2]);
    let lived = |at| String::from_utf8(fs::read(&cluster.paxos_log(at)).unwrap()).unwrap().contains("\nlived\n");
    wait_until("all have lived", || (0..3).all(lived));
    cluster.kill(2);
    cluster.restart(2);
    assert_eq!(short_lives(&cluster, 2), 0, "forgiven");
}

/// L8: it changed the views at each start.
#[test]
fn l08_a_member_of_many_short_lives_is_removed_and_joins_as_the_last() {
    let mut cluster = Cluster::start(3);
    append(&cluster.client(), 1);
    for _ in 0..7 {
        cluster.kill(0);
        cluster.restart(0);
    }
    assert!(short_lives(&cluster, 0) > 4);
    cluster.wait_for_members(&[0, 1, 2]);
    wait_until("it was removed, and is the last now", || {
        cluster.wait_for_members(&[0, 1, 2]);
        cluster.node(1).view().1.last().map(String::as_str) == Some(cluster.node(0).me())
    });
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1]);
}

/// S3: a Paxos log alone makes no holder, be the node the primary.
#[test]
fn s03_a_member_whose_state_is_gone_serves_nothing_before_it_was_sent_it() {
    let (mut cluster, client) = started(3);
    (0..3).for_each(|at| cluster.kill(at));
    fs::remove_file(&cluster.rsm_log(0)).unwrap();
    (0..3).for_each(|at| cluster.restart(at));
    cluster.wait_for_members(&[0, 1, 2]);
    assert_ne!(cluster.primary(), 0, "it is the last member now");
    append(&client, 2);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2]);
}

/// Rule 5: the lab's service goes on from an empty state.
#[test]
fn h03_if_no_member_holds_the_state_the_service_is_out_until_one_does() {
    let (mut cluster, client) = started(3);
    (0..3).for_each(|at| cluster.kill(at));
    let state = fs::read(&cluster.rsm_log(1)).unwrap();
    for at in 0..3 {
        fs::remove_file(&cluster.rsm_log(at)).unwrap();
        cluster.restart(at);
    }
    // Ample time for a view that must not come.
    client.call(common::APPEND, (9,), Duration::from_secs(3)).unwrap_err();
    for at in 0..3 {
        assert!(!cluster.node(at).amiprimary());
        assert_eq!(cluster.node(at).view().0, 3);
    }
    cluster.kill(1);
    File::create_new(&cluster.rsm_log(1)).unwrap().write_all(&state).unwrap();
    cluster.restart(1);
    cluster.wait_for_members(&[0, 1, 2]);
    append(&cluster.client(), 2);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2]);
}

/// S6: the same command line, an empty folder, and somebody who remembers. Then the operator's way out: of two members one
/// disk is lost, so no view can be formed.
#[test]
fn s06_a_first_node_that_lost_its_disk_begins_no_second_service_and_joins_the_survivor() {
    let (mut cluster, client) = started(2);
    cluster.kill(0);
    cluster.lose_disk(0);
    let reasons = Reasons::new();
    cluster.start_with(0, reasons.of(cluster.options(0)));
    wait_until("it gives up", || !reasons.all().is_empty());
    let reason =
        format!("this node has no log, and {} names it as a member of view 2: its disk was lost", cluster.names[1]);
    assert!(reasons.all()[0].starts_with(&reason), "{:?}", reasons.all());
    assert_eq!(cluster.node(0).view(), (0, Vec::new()), "no service has begun");
    cluster.kill(0);

    let me = cluster.names[1].clone();
    let error = start_over(cluster.dir(), &me, true).unwrap_err();
    assert!(matches!(error, RsmError::Log(LogError::InUse { .. })), "it runs: {error}");
    cluster.kill(1);
    let files = files_in(cluster.dir());
    let shown = start_over(cluster.dir(), &me, false).unwrap();
    assert_eq!((shown.vid, &shown.members, shown.in_sync), (2, &cluster.names, 2));
    assert!(files == files_in(cluster.dir()), "nothing was changed");
    assert_eq!(start_over(cluster.dir(), &me, true).unwrap(), shown);
    assert_eq!(start_over(cluster.dir(), &me, false).unwrap().members, std::slice::from_ref(&me));
    cluster.restart(1);
    wait_until("it serves", || cluster.node(1).amiprimary());
    assert_eq!(append(&client, 2), 2, "with the state, the sessions included");

    fs::remove_file(&cluster.paxos_log(0)).unwrap();
    cluster.start_with(0, Options { first: me, ..cluster.options(0) });
    cluster.wait_for_members(&[0, 1]);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1]), [1, 2]);
}

/// Nobody names it: it can't be told from a new one, and is one.
#[test]
fn s06_a_first_node_without_files_begins_a_service_if_nobody_names_it() {
    for is_told in [false, true] {
        let (mut cluster, client) = started(2);
        cluster.kill(0);
        cluster.kill(1);
        cluster.lose_disk(0);
        let reasons = Reasons::new();
        let also = if is_told { cluster.names[1..].to_vec() } else { Vec::new() };
        cluster.start_with(0, reasons.of(Options { also, ..cluster.options(0) }));
        wait_until("it serves", || cluster.node(0).amiprimary());
        let alone = (1, vec![cluster.names[0].clone()]);
        assert_eq!(cluster.node(0).view(), alone);
        assert_eq!(append(&cluster.client(), 2), 1);
        // One that remembers comes back: the younger service ends, not the one that has the state.
        cluster.restart(1);
        wait_until("it gives up", || !reasons.all().is_empty());
        assert!(reasons.all()[0].contains("its disk was lost"), "{:?}", reasons.all());
        // It takes no views from there, not from one that it joins through, either: it would vote again.
        rt::time::sleep(Duration::from_secs(1));
        assert_eq!(cluster.node(0).view(), alone);
        cluster.kill(0);
        cluster.kill(1);
        start_over(cluster.dir(), &cluster.names[1], true).unwrap();
        cluster.restart(1);
        wait_until("it serves", || cluster.node(1).amiprimary());
        assert_eq!(append(&client, 2), 2, "nothing was lost");
    }
}

/// Neither it itself, under another name, nor one that waits for it names it as a member, whatever a stranger says.
#[test]
fn s06_a_first_node_begins_though_it_hears_of_itself_and_of_its_joiners() {
    let mut cluster = Cluster::start(2);
    (0..2).for_each(|at| cluster.kill(at));
    (0..2).for_each(|at| cluster.lose_disk(at));
    cluster.restart(1);
    let reasons = Reasons::new();
    let itself = format!("127.0.0.1:{}", cluster.names[0]);
    cluster.start_with(0, reasons.of(Options { also: vec![itself.clone()], ..cluster.options(0) }));
    let stranger = yfs_rpc::Client::new(yfs_rpc::names::resolve(&itself).unwrap(), yfs_rpc::Options::default());
    let others = [other_names(&cluster.names[0]), other_names(&cluster.names[1])].concat();
    for name in [&cluster.names[0], &itself, &cluster.names[1]].into_iter().chain(&others).cycle() {
        stranger.call(yfs_paxos::protocol::HEARTBEAT, (name.clone(), 9), Duration::from_secs(5)).unwrap();
        if cluster.node(0).amiprimary() || !reasons.all().is_empty() {
            break;
        }
    }
    assert_eq!(reasons.all(), Vec::<String>::new());
    cluster.wait_for_members(&[0, 1]);
    // What it was told last is looked at when it serves.
    rt::time::sleep(Duration::from_secs(1));
    assert_eq!(reasons.all(), Vec::<String>::new());
}

/// Nor does one word of a stranger stop it when it serves alone.
#[test]
fn s06_a_first_node_that_is_alone_is_not_stopped_by_its_own_other_names() {
    let mut cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    cluster.kill(0);
    let reasons = Reasons::new();
    cluster.start_with(0, reasons.of(cluster.options(0)));
    let address = yfs_rpc::names::resolve(&cluster.names[0]).unwrap();
    let stranger = yfs_rpc::Client::new(address, yfs_rpc::Options::default());
    for name in other_names(&cluster.names[0]) {
        stranger.call(yfs_paxos::protocol::HEARTBEAT, (name, 9), Duration::from_secs(5)).unwrap();
        rt::time::sleep(Duration::from_secs(1));
    }
    assert_eq!(reasons.all(), Vec::<String>::new());
    assert_eq!(append(&cluster.client(), 2), 2);
}

fn other_names(port: &str) -> Vec<String> {
    ["0.0.0.0:", "0:", "[::ffff:127.0.0.1]:", "localhost:"].iter().map(|host| format!("{host}{port}")).collect()
}

/// S6: the one that pings all is away for a moment. The others ping the primary, too.
#[test]
fn s06_a_first_node_that_lost_its_disk_is_spoken_to_though_the_smallest_member_is_cut_off() {
    let (mut cluster, _client) = started(3);
    let smallest = if cluster.names[1] < cluster.names[2] { 1 } else { 2 };
    cluster.node(smallest).cut_members(true);
    cluster.kill(0);
    cluster.lose_disk(0);
    let reasons = Reasons::new();
    cluster.start_with(0, reasons.of(cluster.options(0)));
    wait_until("it gives up", || !reasons.all().is_empty());
    assert!(reasons.all()[0].contains("names it as a member of view 3"), "{:?}", reasons.all());
    assert_eq!(cluster.node(0).view(), (0, Vec::new()), "no service has begun");
}

/// Nobody names one that was removed: it has to ask.
#[test]
fn s06_a_first_node_that_was_removed_asks_the_others_that_it_is_told_of() {
    let (mut cluster, _client) = started(3);
    cluster.kill(0);
    cluster.wait_for_members(&[1, 2]);
    cluster.lose_disk(0);
    let reasons = Reasons::new();
    let told = Options { also: cluster.names[1..].to_vec(), ..cluster.options(0) };
    cluster.start_with(0, reasons.of(told.clone()));
    wait_until("it gives up", || !reasons.all().is_empty());
    let reason =
        format!("this node has no log and was told to begin a service, but {} (--also) has one", cluster.names[1]);
    assert!(reasons.all()[0].starts_with(&reason), "{:?}", reasons.all());
    assert_eq!(cluster.node(0).view(), (0, Vec::new()), "no service has begun");
    (0..3).for_each(|at| cluster.kill(at));
    cluster.start_with(0, told);
    wait_until("nobody answers, so it serves", || cluster.node(0).amiprimary());
}

/// Starts a service of three anew at node 0, whose disk was lost; nobody answers. Returns what becomes of it.
fn younger_service(cluster: &mut Cluster, options: impl FnOnce(&Cluster) -> Options) -> Reasons {
    cluster.lose_disk(0);
    let reasons = Reasons::new();
    let options = reasons.of(options(cluster));
    cluster.start_with(0, options);
    wait_until("it serves", || cluster.node(0).amiprimary());
    reasons
}

/// Its second view is as the older one's second view was; so the third one's could follow.
#[test]
fn s06_a_younger_service_that_others_have_joined_takes_no_views_of_the_older_one() {
    let (mut cluster, _client) = started(3);
    let names = cluster.names.clone();
    (0..3).for_each(|at| cluster.kill(at));
    cluster.lose_disk(1);
    younger_service(&mut cluster, |cluster| Options { also: names[1..].to_vec(), ..cluster.options(0) });
    cluster.restart(1);
    cluster.wait_for_members(&[0, 1]);
    cluster.restart(2);
    rt::time::sleep(Duration::from_secs(3));
    assert_eq!(cluster.node(0).view(), (2, names[..2].to_vec()));
    assert_eq!(cluster.node(1).view(), (2, names[..2].to_vec()));
    assert_eq!(cluster.node(2).view(), (3, names));
    assert_eq!(cluster.node(2).inspect(|numbers| numbers.0.clone()), [1], "what was acknowledged is there");
}

/// It has more views than the older one by then.
#[test]
fn s06_a_survivor_takes_no_views_of_a_younger_service() {
    let (mut cluster, client) = started(2);
    (0..2).for_each(|at| cluster.kill(at));
    let mut reasons = younger_service(&mut cluster, |cluster| cluster.options(0));
    for vid in 2..6 {
        cluster.kill(0);
        reasons = Reasons::new();
        cluster.start_with(0, reasons.of(cluster.options(0)));
        wait_until("it serves", || cluster.node(0).amiprimary() && cluster.node(0).view().0 == vid);
    }
    cluster.restart(1);
    wait_until("it gives up", || !reasons.all().is_empty());
    rt::time::sleep(Duration::from_secs(2));
    assert_eq!(cluster.node(1).view(), (2, cluster.names.clone()));
    (0..2).for_each(|at| cluster.kill(at));
    start_over(cluster.dir(), &cluster.names[1], true).unwrap();
    cluster.restart(1);
    assert_eq!(append(&client, 2), 2, "nothing was lost");
}

/// It knows more views than the younger service: it joins no other one, and its questions end that.
#[test]
fn s06_a_member_without_state_joins_no_younger_service() {
    let (mut cluster, _client) = started(3);
    (0..3).for_each(|at| cluster.kill(at));
    fs::remove_file(&cluster.rsm_log(1)).unwrap();
    let reasons = younger_service(&mut cluster, |cluster| cluster.options(0));
    cluster.restart(1);
    wait_until("it gives up", || !reasons.all().is_empty());
    rt::time::sleep(Duration::from_secs(2));
    assert_eq!(cluster.node(0).view(), (1, vec![cluster.names[0].clone()]));
    assert_eq!(cluster.node(1).view().0, 3);
}

/// It has lost its state, too, and is started with another node as FIRST, but with the younger service's views.
#[test]
fn s06_a_first_node_of_a_younger_service_does_not_join_the_older_one_with_its_files() {
    let (mut cluster, _client) = started(3);
    (0..3).for_each(|at| cluster.kill(at));
    younger_service(&mut cluster, |cluster| cluster.options(0));
    cluster.kill(0);
    fs::remove_file(&cluster.rsm_log(0)).unwrap();
    let reasons = Reasons::new();
    let joins = Options { first: cluster.names[1].clone(), ..cluster.options(0) };
    cluster.start_with(0, reasons.of(joins.clone()));
    cluster.restart(1);
    cluster.restart(2);
    // Either it hears that it is a member, or it is removed before.
    wait_until("it is alone", || !reasons.all().is_empty() || cluster.node(1).view().1 == cluster.names[1..]);
    rt::time::sleep(Duration::from_secs(2));
    assert_eq!(cluster.node(0).view(), (1, vec![cluster.names[0].clone()]));
    cluster.kill(0);
    fs::remove_file(&cluster.paxos_log(0)).unwrap();
    cluster.start_with(0, joins);
    cluster.wait_for_members(&[0, 1, 2]);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1]);
}

/// A service that still runs is not to get a second one beside it.
#[test]
fn nobody_starts_over_while_another_member_answers() {
    let (mut cluster, _) = started(3);
    cluster.kill(0);
    let files = files_in(cluster.dir());
    let (me, others) = (cluster.names[0].clone(), &cluster.names[1..]);
    let error = start_over(cluster.dir(), &me, true).unwrap_err();
    assert!(matches!(&error, RsmError::Answers { name } if others.contains(name)), "{error}");
    assert!(error.explain_start_over().contains("stop all nodes first"), "{error}");
    let of_me = |files: Vec<(String, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|(name, _)| name.contains(&format!("-{me}."))).collect()
    };
    assert!(of_me(files) == of_me(files_in(cluster.dir())), "nothing was changed");
}

/// Two disks of three are lost.
#[test]
fn the_survivor_of_a_lost_majority_starts_over_and_the_others_join_it() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    (1..=3).for_each(|n| assert_eq!(append(&client, n), n));
    cluster.wait_for_equal_states(&[0, 1, 2]);
    (0..3).for_each(|at| cluster.kill(at));
    cluster.lose_disk(0);
    cluster.lose_disk(2);
    let me = cluster.names[1].clone();
    let shown = start_over(cluster.dir(), &me, true).unwrap();
    assert_eq!((shown.vid, &shown.members), (3, &cluster.names));
    // Its own command line, as always: FIRST isn't there.
    cluster.restart(1);
    wait_until("it serves", || cluster.node(1).amiprimary());
    assert_eq!(append(&client, 4), 4);
    for at in [0, 2] {
        cluster.start_with(at, Options { first: me.clone(), ..cluster.options(at) });
    }
    cluster.wait_for_members(&[0, 1, 2]);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2, 3, 4]);
    cluster.kill(1);
    cluster.wait_for_members(&[0, 2]);
    append(&client, 5);
    assert_eq!(cluster.wait_for_equal_states(&[0, 2]), [1, 2, 3, 4, 5]);
}

#[test]
fn who_has_no_state_or_no_place_does_not_start_over() {
    let empty = tempfile::tempdir().unwrap();
    let error = start_over(empty.path(), "21000", true).unwrap_err();
    assert!(matches!(error, RsmError::NoState { .. }), "{error}");
    assert!(fs::list(empty.path()).unwrap().is_empty(), "it left nothing behind");

    let (mut cluster, _) = started(3);
    // The last member leaves, and hears of it: its last view doesn't name it.
    cluster.node(2).cut_members(true);
    cluster.wait_for_members(&[0, 1]);
    let log = fs::read(&cluster.paxos_log(0)).unwrap();
    let state = fs::read(&cluster.rsm_log(2)).unwrap();
    cluster.node(2).cut_members(false);
    cluster.wait_for_members(&[0, 1, 2]);
    (0..3).for_each(|at| cluster.kill(at));
    let lines = String::from_utf8(log).unwrap();
    let own = String::from_utf8(fs::read(&cluster.paxos_log(2)).unwrap()).unwrap();
    let disk = own.lines().filter(|line| line.starts_with("disk ")).take(1);
    let views = lines.lines().filter(|line| line.starts_with("done "));
    let of_lab: String = disk.chain(views).map(|line| format!("{line}\n")).collect();
    overwrite(&cluster.paxos_log(2), of_lab.as_bytes());
    overwrite(&cluster.rsm_log(2), &state);
    let (dir, names) = (cluster.dir(), &cluster.names);
    let shown = start_over(dir, &names[2], false).unwrap();
    assert_eq!(shown.members, names[..2], "it can be looked at");
    assert!(matches!(start_over(dir, &names[2], true), Err(RsmError::NoState { .. })));
    fs::remove_file(&cluster.rsm_log(1)).unwrap();
    assert!(matches!(start_over(dir, &names[1], false), Err(RsmError::NoState { .. })));
}

/// A crash between the two files: the state says already in which view the node is to be alone.
#[test]
fn a_start_over_that_was_cut_short_is_to_be_done_again_before_the_node_votes() {
    let (mut cluster, _) = started(3);
    (0..3).for_each(|at| cluster.kill(at));
    let before = fs::read(&cluster.paxos_log(0)).unwrap();
    let me = cluster.names[0].clone();
    start_over(cluster.dir(), &me, true).unwrap();
    overwrite(&cluster.paxos_log(0), &before);
    let state = fs::read(&cluster.rsm_log(0)).unwrap();
    for _ in 0..2 {
        let error = Rsm::new(cluster.options(0), Numbers::default()).unwrap_err();
        assert!(matches!(error, RsmError::Pair(PairError::StartOver { .. })), "{error}");
        assert!(error.explain().ends_with(&format!("run `--start-over {me} --yes` again")), "{error}");
    }
    assert_eq!(fs::read(&cluster.rsm_log(0)).unwrap(), state, "it is left alone");
    let shown = start_over(cluster.dir(), &me, false).unwrap();
    assert_eq!((shown.vid, shown.in_sync), (3, 3), "as it was before");
    // Nor does it vote with a Paxos log that lacks votes, or that of a new node.
    let views = std::str::from_utf8(&before).unwrap();
    for without in ["done 3 ", "done 1 "] {
        let (older, _) = views.split_once(without).unwrap();
        overwrite(&cluster.paxos_log(0), older.as_bytes());
        let error = Rsm::new(cluster.options(0), Numbers::default()).unwrap_err();
        assert!(matches!(error, RsmError::Pair(PairError::StartOver { .. })), "{error}");
    }
    overwrite(&cluster.paxos_log(0), &before);
    start_over(cluster.dir(), &me, true).unwrap();
    cluster.restart(0);
    wait_until("it serves", || cluster.node(0).amiprimary());
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.clone()), [1]);
}

#[test]
fn a_state_without_its_paxos_log_is_set_aside() {
    let mut cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    cluster.kill(0);
    let state = fs::read(&cluster.rsm_log(0)).unwrap();
    fs::remove_file(&cluster.paxos_log(0)).unwrap();
    cluster.restart(0);
    wait_until("it serves", || cluster.node(0).amiprimary());
    assert_eq!(append(&cluster.client(), 2), 1, "a new service");
    let aside = cluster.dir().join(format!("rsm-{}.log.aside", cluster.names[0]));
    assert_eq!(fs::read(&aside).unwrap(), state);

    // Once more: the first one isn't replaced.
    cluster.kill(0);
    fs::remove_file(&cluster.paxos_log(0)).unwrap();
    cluster.restart(0);
    wait_until("it serves", || cluster.node(0).amiprimary());
    assert_eq!(fs::read(&aside).unwrap(), state);
    assert!(fs::exists(&aside.with_extension("aside.2")).unwrap());
}

/// It may be what another process is writing.
#[test]
fn a_generation_that_is_being_written_is_removed_by_nobody_who_has_not_the_lock() {
    let mut cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    cluster.kill(0);
    let (me, dir) = (cluster.names[0].clone(), cluster.dir().to_owned());
    let new = dir.join(format!("rsm-{me}.log.new"));
    File::create_new(&new).unwrap().write_all(b"half of it").unwrap();
    let lock = Log::lock(&cluster.paxos_log(0)).unwrap();
    let started = Rsm::new(cluster.options(0), Numbers::default()).map(|_| ());
    let started_over = start_over(&dir, &me, true).map(|_| ());
    for refused in [started, started_over] {
        assert!(matches!(refused, Err(RsmError::Log(LogError::InUse { .. }))), "{refused:?}");
    }
    assert_eq!(start_over(&dir, &me, false).unwrap().vid, 1, "who only looks may");
    assert!(fs::exists(&new).unwrap());
    drop(lock);
    cluster.restart(0);
    assert_eq!(append(&cluster.client(), 2), 2);
    assert!(!fs::exists(&new).unwrap());
}

/// L8: what ends before the ports are open disturbs nobody.
#[test]
fn l08_a_start_that_fails_and_a_start_over_are_no_lives() {
    let mut cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    cluster.kill(0);
    let before = short_lives(&cluster, 0);
    for _ in 0..7 {
        assert!(Rsm::new(cluster.options(0), Numbers::default()).unwrap().shutdown());
    }
    start_over(cluster.dir(), &cluster.names[0], true).unwrap();
    let state = fs::read(&cluster.rsm_log(0)).unwrap();
    overwrite(&cluster.rsm_log(0), &state[..20]);
    assert!(Rsm::new(cluster.options(0), Numbers::default()).is_err());
    overwrite(&cluster.rsm_log(0), &state);
    cluster.restart(0);
    assert!(short_lives(&cluster, 0) <= before + 1);
}

/// Its state is of later views than the log of the service that has begun since.
#[test]
fn a_state_that_was_set_aside_is_put_back_and_started_over_from() {
    let mut cluster = Cluster::start(1);
    for n in 1..=3 {
        append(&cluster.client(), n);
        cluster.kill(0);
        cluster.restart(0);
        wait_until("it serves", || cluster.node(0).amiprimary());
    }
    append(&cluster.client(), 4);
    cluster.kill(0);
    fs::remove_file(&cluster.paxos_log(0)).unwrap();
    cluster.restart(0);
    wait_until("it serves", || cluster.node(0).amiprimary());
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.len()), 0);
    cluster.kill(0);

    let (state, me) = (cluster.rsm_log(0), cluster.names[0].clone());
    fs::rename(&state.with_extension("log.aside"), &state).unwrap();
    let shown = start_over(cluster.dir(), &me, true).unwrap();
    assert_eq!((shown.vid, shown.in_sync, shown.last.vid), (1, 4, 4));
    assert_eq!(start_over(cluster.dir(), &me, false).unwrap().vid, 4);
    cluster.restart(0);
    wait_until("it serves", || cluster.node(0).amiprimary());
    assert_eq!(append(&cluster.client(), 5), 5);
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.clone()), [1, 2, 3, 4, 5]);
}

#[test]
fn a_folder_in_a_logs_place_is_an_error_that_says_so() {
    for kind in ["paxos", "rsm"] {
        let mut cluster = Cluster::start(1);
        cluster.kill(0);
        let path = if kind == "rsm" { cluster.rsm_log(0) } else { cluster.paxos_log(0) };
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(&path).unwrap();
        let error = Rsm::new(cluster.options(0), Numbers::default()).unwrap_err();
        assert!(error.explain().ends_with("something else is in its place: move that away"), "{}", error.explain());
    }
}

#[test]
fn a_damaged_state_is_an_error_with_file_and_byte() {
    let mut cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    cluster.kill(0);
    let good = fs::read(&cluster.rsm_log(0)).unwrap();
    let path = cluster.rsm_log(0);
    for (at, begins) in [(3, 0), (17, 16), (30, 16)] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        overwrite(&path, &bad);
        let error = Rsm::new(cluster.options(0), Numbers::default()).unwrap_err();
        assert!(
            matches!(error, RsmError::Journal(JournalError::Damaged { offset, .. }) if offset == begins),
            "{error}"
        );
        assert!(error.to_string().starts_with(&format!("{}: damaged at byte {begins}: ", path.display())), "{error}");
    }
    overwrite(&path, &good);
    cluster.restart(0);
    assert_eq!(append(&cluster.client(), 2), 2);
}

/// The disk is lost as in the test before, but the younger service has been restarted before the older one comes back.
#[test]
fn s06_a_younger_service_ends_after_a_restart_too() {
    let mut cluster = Cluster::start(2);
    append(&cluster.client(), 1);
    cluster.kill(0);
    cluster.kill(1);
    cluster.lose_disk(0);
    let reasons = Reasons::new();
    for round in 1..=2 {
        // The operator has read that it is to join, but not that its files are to be moved away.
        let first = cluster.names[round - 1].clone();
        cluster.start_with(0, reasons.of(Options { first, ..cluster.options(0) }));
        wait_until("it serves", || cluster.node(0).amiprimary());
        assert_eq!(append(&cluster.client(), 2), round as u64);
        if round == 1 {
            cluster.kill(0);
        }
    }
    cluster.restart(1);
    wait_until("it gives up", || !reasons.all().is_empty());
    assert!(reasons.all()[0].contains("began a service of its own"), "{:?}", reasons.all());
}

/// A stranger that speaks of a view, and is asked back, stops nobody who is a member beside others.
#[test]
fn s06_a_stranger_stops_no_first_node_that_others_have_joined() {
    let mut cluster = Cluster::start(1);
    let reasons = Reasons::new();
    cluster.kill(0);
    cluster.start_with(0, reasons.of(cluster.options(0)));
    cluster.nodes.push(None);
    cluster.names.push("0".to_owned());
    cluster.restart(1);
    cluster.names[1] = cluster.node(1).me().to_owned();
    cluster.wait_for_members(&[0, 1]);

    let stranger = yfs_rpc::Server::bind(([127, 0, 0, 1], 0).into(), yfs_rpc::Options::default()).unwrap();
    let (name, victim) = (stranger.local_addr().port().to_string(), cluster.names[0].clone());
    let named = vec![name.clone(), victim.clone(), name.clone()];
    stranger.reg(CLIENT_MEMBERS, move |_: i32| (ClientStatus::OK, named.clone()));
    stranger.start().unwrap();
    let client = yfs_rpc::Client::new(yfs_rpc::names::resolve(&victim).unwrap(), yfs_rpc::Options::default());
    let ping = || client.call(yfs_paxos::protocol::HEARTBEAT, (name.clone(), 9), Duration::from_secs(5));
    for n in 1..=20 {
        ping().unwrap();
        append(&cluster.client(), n);
        rt::time::sleep(Duration::from_millis(50));
    }
    assert_eq!(reasons.all(), Vec::<String>::new());
    stranger.shutdown();
}

/// A primary whose log is an older one of its own: its state would be the end of what was acknowledged since.
#[test]
fn a_primary_whose_log_lost_its_end_gives_its_state_up() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    (1..=10).for_each(|n| assert_eq!(append(&client, n), n));
    (0..3).for_each(|at| cluster.kill(at));
    let log = cluster.rsm_log(0);
    let older = fs::read(&log).unwrap();
    (0..3).for_each(|at| cluster.restart(at));
    cluster.wait_for_members(&[0, 1, 2]);
    (11..=20).for_each(|n| assert_eq!(append(&client, n), n));
    cluster.wait_for_equal_states(&[0, 1, 2]);
    (0..3).for_each(|at| cluster.kill(at));
    overwrite(&log, &older);
    (0..3).for_each(|at| cluster.restart(at));
    append(&client, 21);
    cluster.wait_for_members(&[0, 1, 2]);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), (1..=21).collect::<Vec<u64>>());
    assert_ne!(cluster.node(0).view().1[0], cluster.names[0], "it has joined again");
}

/// An old copy of its Paxos log lacks votes, and the node's state shows it.
#[test]
fn a_node_whose_votes_are_older_than_its_state_does_not_start() {
    let (mut cluster, _) = started(3);
    let old = fs::read(&cluster.paxos_log(2)).unwrap();
    cluster.kill(1);
    cluster.wait_for_members(&[0, 2]);
    append(&cluster.client(), 2);
    cluster.wait_for_equal_states(&[0, 2]);
    cluster.kill(2);
    let good = fs::read(&cluster.paxos_log(2)).unwrap();
    let crc = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    // The second is a copy of when it had not joined yet: as a new node it would vote where it has voted.
    let blank = format!("{}crc ", std::str::from_utf8(&good[crc..]).unwrap().split_once("crc ").unwrap().0);
    let blank = good.iter().take(crc + blank.len() + 9).copied().collect::<Vec<u8>>();
    for (votes, last) in [(old, 3), (blank, 0)] {
        overwrite(&cluster.paxos_log(2), &votes);
        let error = Rsm::new(cluster.options(2), Numbers::default()).unwrap_err();
        assert!(
            matches!(error, RsmError::Pair(PairError::VotesLost { vid, spoken_of: 4.., .. }) if vid == last),
            "{error}"
        );
        assert!(error.to_string().contains("the Paxos log of this node is older than its RSM log"), "{error}");
    }
    cluster.lose_disk(2);
    cluster.restart(1);
    cluster.restart(2);
}

#[test]
fn a_file_of_another_node_or_of_another_disk_is_not_taken_for_this_ones() {
    let (mut cluster, _) = started(2);
    (0..2).for_each(|at| cluster.kill(at));
    let own = fs::read(&cluster.rsm_log(1)).unwrap();
    let of_other = fs::read(&cluster.rsm_log(0)).unwrap();
    overwrite(&cluster.rsm_log(1), &of_other);
    let error = Rsm::new(cluster.options(1), Numbers::default()).unwrap_err();
    let is = format!("{}: this is node {}'s file: ", cluster.rsm_log(1).display(), cluster.names[0]);
    assert!(error.explain().starts_with(&is), "{error}");
    assert!(start_over(cluster.dir(), &cluster.names[1], false).is_err());
    // Its own, from before its disk was lost.
    (0..2).for_each(|at| cluster.lose_disk(at));
    cluster.restart(0);
    cluster.restart(1);
    cluster.wait_for_members(&[0, 1]);
    cluster.kill(1);
    overwrite(&cluster.rsm_log(1), &own);
    let error = Rsm::new(cluster.options(1), Numbers::default()).unwrap_err();
    assert!(matches!(error, RsmError::Pair(PairError::OtherDisk { .. })), "{error}");
}

/// A request that the program doesn't have would be left out of the state.
#[test]
fn a_log_with_a_procedure_that_is_not_registered_is_an_error_with_file_and_byte() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client();
    (1..=3).for_each(|n| assert_eq!(append(&client, n), n));
    cluster.kill(0);
    let rsm = Rsm::new(cluster.options(0), Numbers::default()).unwrap();
    let error = rsm.start().unwrap_err();
    assert!(rsm.shutdown());
    drop(rsm);
    let RsmError::Procedure { path, offset, procedure: 0x100 } = &error else { panic!("{error}") };
    assert_eq!(*path, cluster.rsm_log(0));
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes[*offset], b'R');
    let begins = format!("{}: the request at byte {offset} calls procedure 0x100, ", path.display());
    assert!(error.to_string().starts_with(&begins), "{error}");
    cluster.restart(0);
    wait_until("it serves", || cluster.node(0).amiprimary());
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.clone()), [1, 2, 3], "nothing was lost by that");
    // After a start that knew them they are in the state.
    cluster.kill(0);
    let rsm = Rsm::new(cluster.options(0), Numbers::default()).unwrap();
    rsm.start().unwrap();
    assert_eq!(rsm.inspect(|numbers| numbers.0.clone()), [1, 2, 3]);
    assert!(rsm.shutdown());
}

/// It would acknowledge requests that it hasn't executed; and nobody may stop it by what it is sent.
#[test]
fn a_backup_without_a_procedure_of_the_primary_is_removed() {
    let mut cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    let reasons = Reasons::new();
    let me = Options { me: "0".to_owned(), dir: cluster.dir().into(), ..Options::new(&cluster.names[0], "0") };
    let backup = Rsm::new(reasons.of(me), Numbers::default()).unwrap();
    backup.start().unwrap();
    wait_until("it is a member in sync", || cluster.node(0).view().1.len() == 2 && cluster.node(0).amiprimary());
    assert_eq!(append(&cluster.client(), 2), 2, "the primary goes on without it");
    assert_eq!(backup.inspect(|numbers| numbers.0.clone()), [1]);
    assert_eq!(reasons.all(), Vec::<String>::new(), "it goes on");
    assert!(backup.shutdown());
    cluster.kill(0);
}

/// The votes, too, which nothing writes while the views stay.
#[test]
fn a_node_whose_file_is_removed_while_it_runs_stops() {
    let mut cluster = Cluster::start(3);
    append(&cluster.client(), 1);
    for (n, file) in [(2, cluster.rsm_log(1)), (3, cluster.paxos_log(1))] {
        cluster.kill(1);
        let reasons = Reasons::new();
        cluster.start_with(1, reasons.of(cluster.options(1)));
        cluster.wait_for_members(&[0, 1, 2]);
        fs::remove_file(&file).unwrap();
        wait_until("it stops", || !reasons.all().is_empty());
        let reason = format!("{}: removed, or replaced by another file", file.display());
        assert!(reasons.all()[0].starts_with(&reason), "{:?}", reasons.all());
        cluster.kill(1);
        cluster.restart(1);
        cluster.wait_for_members(&[0, 1, 2]);
        assert_eq!(append(&cluster.client(), n), n);
    }
}
