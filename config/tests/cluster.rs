//! Views under deaths, pauses and restarts: nodes in one process, over real connections.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Cluster, PATIENCE, wait_until};
use rt::time::sleep;
use std::collections::BTreeSet;
use std::time::Duration;
use yfs_config::{Outcome, Role, Standing, Timing, ViewId};

#[test]
fn nodes_join_one_after_the_other_and_all_hear_of_each_view_once_in_order() {
    let cluster = Cluster::new(3, Timing::default());
    for (at, node) in cluster.nodes.iter().enumerate() {
        let expected: Vec<ViewId> = (1..=3).map(ViewId).collect();
        // A joiner hears of the views before its own too: they are new to it.
        wait_until("all views are told", || node.events.views.lock().len() == 3);
        assert_eq!(*node.events.views.lock(), expected, "node {at}");
        assert!(node.config.ismember(&node.name, ViewId(3)));
        assert!(node.log().contains(&format!("done 3 {} \n", cluster.names.join(" "))), "{}", node.log());
    }
}

#[test]
fn a_dead_member_is_removed_whoever_it_is() {
    for gone in 0..3 {
        let mut cluster = Cluster::new(3, Timing::default());
        let name = cluster.names[gone].clone();
        cluster.kill(&name);
        cluster.wait_for_view(4, &cluster.without(&[gone]));
    }
}

#[test]
fn a_member_that_the_layer_above_suspects_is_looked_at_by_a_node_that_does_not_ping_it() {
    let mut cluster = Cluster::new(3, Timing { interval: Duration::from_secs(3600), ..Timing::default() });
    let name = cluster.names[2].clone();
    cluster.kill(&name);
    cluster.nodes[1].config.suspect(&name);
    cluster.wait_for_view(4, &cluster.without(&[2]));
    // A live one, and a stranger, come to no harm.
    cluster.nodes[1].config.suspect(&cluster.names[0]);
    cluster.nodes[1].config.suspect("nobody");
    sleep(Duration::from_millis(300));
    assert_eq!(cluster.nodes[1].config.vid(), ViewId(4));
}

#[test]
fn a_silent_member_is_removed_and_learns_it_when_it_comes_back() {
    let cluster = Cluster::new(3, Timing::default());
    cluster.nodes[2].cut_off(true);
    cluster.wait_for_view(4, &cluster.without(&[2]));
    assert_eq!(cluster.nodes[2].config.vid(), ViewId(3));
    cluster.nodes[2].cut_off(false);
    // It asks the smallest with its next ping, or proposes and is told.
    wait_until("it knows the view", || cluster.nodes[2].config.vid() == ViewId(4));
    assert!(!cluster.nodes[2].members().contains(&cluster.names[2]));
    cluster.join(0, 2);
    cluster.wait_for_view(5, &cluster.names);
}

#[test]
fn a_member_that_missed_a_view_catches_up_and_is_not_removed() {
    let cluster = Cluster::new(3, Timing { silence: PATIENCE * 2, silence_of_lab: PATIENCE * 2, ..Timing::default() });
    for gone in [2, 0] {
        let before = cluster.nodes[1].config.vid();
        cluster.nodes[gone].cut_off(true);
        wait_until("a view of the same members", || cluster.nodes[1].config.propose_same() == Outcome::Decided);
        assert_eq!(cluster.nodes[gone].config.vid(), before);
        cluster.nodes[gone].cut_off(false);
        cluster.wait_for_view(before.0 + 1, &cluster.names);
    }
    assert_eq!(cluster.nodes[0].config.vid(), ViewId(5));
}

#[test]
fn a_view_of_the_same_members_is_proposed_until_it_comes() {
    let mut cluster = Cluster::new(3, Timing::default());
    cluster.nodes[1].config.request_same(ViewId(2));
    let dead = [cluster.names[0].clone(), cluster.names[2].clone()];
    cluster.nodes.iter().filter(|node| dead.contains(&node.name)).for_each(|node| node.cut_off(true));
    dead.iter().for_each(|name| cluster.kill(name));
    cluster.nodes[0].config.request_same(ViewId(3));
    let survey = cluster.nodes[0].config.survey();
    assert!(survey.keys().eq(&dead), "{survey:?}");
    wait_until("it was tried in vain", || cluster.nodes[0].events.majority.lock().as_slice() == [false]);
    cluster.restart(&dead[0]);
    wait_until("a new view", || cluster.nodes.iter().all(|node| node.config.vid() >= ViewId(4)));
}

#[test]
fn a_node_that_may_remove_nobody_removes_nobody_and_says_how_the_others_stand() {
    let mut cluster = Cluster::new(3, Timing::default());
    for node in &cluster.nodes {
        node.config.set_role(Role::Lost);
    }
    let gone = cluster.names[1].clone();
    cluster.kill(&gone);
    let survey = || cluster.nodes[0].config.survey().into_values().collect::<Vec<_>>();
    wait_until("both are known", || survey() == [Standing::Refuses, Standing::AsksRemoval]);
    assert_eq!(cluster.nodes[0].config.vid(), ViewId(3));
    cluster.nodes[0].config.set_role(Role::Holder);
    wait_until("both are removed", || cluster.nodes[0].members() == [cluster.names[0].clone()]);
}

#[test]
fn l08_members_that_crash_in_a_loop_ask_to_be_removed_and_remove_nobody() {
    let cluster = Cluster::new(3, Timing::default());
    for node in &cluster.nodes {
        node.config.set_role(Role::Unsteady);
    }
    let survey = || cluster.nodes[0].config.survey().into_values().collect::<Vec<_>>();
    wait_until("both are known", || survey() == [Standing::AsksRemoval; 2]);
    assert!(cluster.nodes[0].config.asks_removal(&cluster.names[1]));
    assert_eq!(cluster.nodes[0].config.vid(), ViewId(3));
    // One that has been like them spares them for a while: they may all be.
    cluster.nodes[0].config.set_role(Role::Holder);
    rt::time::sleep(Duration::from_secs(1));
    assert_eq!(cluster.nodes[0].config.vid(), ViewId(3));
    wait_until("both are removed", || cluster.nodes[0].members() == [cluster.names[0].clone()]);
}

#[test]
fn who_asks_for_it_is_removed() {
    let cluster = Cluster::new(3, Timing::default());
    cluster.nodes[0].config.ask_removal(true);
    cluster.wait_for_view(4, &cluster.without(&[0]));
    // It takes part in the vote itself; and once out, it asks no more, and may come back at the end.
    wait_until("it knows", || cluster.nodes[0].config.vid() == ViewId(4));
    cluster.join(1, 0);
    let mut members = cluster.without(&[0]);
    members.push(cluster.names[0].clone());
    cluster.wait_for_view(5, &members);
    sleep(Duration::from_millis(500));
    assert_eq!(cluster.nodes[1].config.vid(), ViewId(5));
}

#[test]
fn without_a_majority_nobody_promises_anything_and_the_owner_is_told() {
    let mut cluster = Cluster::new(3, Timing::default());
    let (first, second) = (cluster.names[0].clone(), cluster.names[1].clone());
    // Both at once: one after the other might leave time for a view of two.
    let dead: Vec<_> = cluster.nodes.drain(..2).collect();
    let before = cluster.nodes[0].log();
    dead.iter().for_each(|node| node.cut_off(true));
    dead.into_iter().for_each(|node| node.kill());
    let left = &cluster.nodes[0];
    wait_until("the owner is told", || left.events.majority.lock().as_slice() == [false]);
    assert_eq!(left.config.remove(&first), Outcome::NoMajority);
    assert_eq!(left.log(), before);
    // One comes back: the other is removed, and the owner is told.
    cluster.restart(&second);
    cluster.wait_for_view(4, &cluster.without(&[0]));
    let left = &cluster.nodes[0];
    wait_until("the owner is told", || left.events.majority.lock().as_slice() == [false, true]);
}

#[test]
fn all_killed_and_started_again_go_on_from_their_logs() {
    let mut cluster = Cluster::new(3, Timing::default());
    for name in cluster.names.clone() {
        cluster.nodes.iter().for_each(|node| node.cut_off(true));
        cluster.kill(&name);
    }
    for name in cluster.names.clone() {
        cluster.restart(&name);
    }
    for node in &cluster.nodes {
        assert!(!node.config.is_new() && node.config.vid() >= ViewId(3));
        assert!(!node.config.bootstrap().unwrap(), "a first node with a log stays in its service");
    }
    let node = &cluster.nodes[1].config;
    wait_until("a view is formed", || node.propose_same().is_decided());
    wait_until("all know a new one", || cluster.nodes.iter().all(|node| node.config.vid() > ViewId(3)));
}

/// The other one doesn't know the service's number (its log is of an older version): who is alone follows it no more than one
/// of another service.
#[test]
fn s06_a_first_node_that_began_anew_takes_no_views_of_a_node_that_tells_no_number() {
    let mut cluster = Cluster::new(2, Timing::default());
    let names = cluster.names.clone();
    names.iter().for_each(|name| cluster.kill(name));
    rt::fs::remove_file(&cluster.dir.path().join(format!("paxos-{}.log", names[0]))).unwrap();
    cluster.restart(&names[0]);
    let first = &cluster.nodes[0].config;
    first.set_joins_through(&names[1..]);
    assert!(first.bootstrap().unwrap());
    cluster.restart(&names[1]);
    wait_until("it hears of the view", || cluster.nodes[0].config.take_heard_of_view().is_some());
    sleep(Duration::from_secs(1));
    assert_eq!(cluster.nodes[0].config.vid(), ViewId(1));
    assert_eq!(cluster.nodes[0].config.catch_up_from(&names[1]), ViewId(1));
    assert_eq!(cluster.nodes[1].config.vid(), ViewId(2));
}

#[test]
fn h11_a_removal_takes_one_or_two_rounds_with_seven_members() {
    let mut cluster = Cluster::new(7, Timing::default());
    let first = cluster.names[0].clone();
    cluster.kill(&first);
    cluster.wait_for_view(8, &cluster.without(&[0]));
    let mut rounds = BTreeSet::new();
    for node in &cluster.nodes {
        let log = node.log();
        let mut lines =
            log.lines().skip_while(|line| !line.starts_with("done 7 ")).take_while(|l| !l.starts_with("done 8 "));
        rounds.extend(lines.by_ref().filter(|line| line.starts_with("propseen ")).map(str::to_owned));
    }
    assert!((1..=2).contains(&rounds.len()), "{rounds:?}");
}
