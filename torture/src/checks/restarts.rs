//! A member is killed and started again 0.3 s later with the same command line (H8): a contended lock goes on changing
//! hands within 2 s.

use std::time::Duration;

use rt::time::now;

use super::{GENEROUS, NODES, PAUSE_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::distribution::Distribution;
use crate::trouble::{Trouble, ensure, nap};
use crate::users::{Crowd, Users};

/// Of each kind of member.
const ROUNDS: u32 = 3;
const DOWN: Duration = Duration::from_millis(300);
const GOAL: Duration = Duration::from_secs(2);
const PAIR: Crowd = Crowd { clients: 2, threads: 1, locks: 1 };
const MEMBERS: [&str; NODES] = ["the primary", "the second", "the last"];

pub(super) fn check(setup: &Setup) -> Result<String, Trouble> {
    let rounds = setup.rounds(ROUNDS);
    let mut cluster = Cluster::start(&setup.lock_server, NODES)?;
    let mut users = Users::connect(&cluster.names(), PAIR)?;
    let mut gaps = vec![Distribution::default(); NODES];
    for _ in 0..rounds {
        for (member, gaps) in gaps.iter_mut().enumerate() {
            let gap = restart(&mut cluster, &mut users, member)?;
            ensure(gap <= GOAL, || format!("no acquire for {gap:?} when {} was restarted", MEMBERS[member]))?;
            gaps.add(gap);
        }
    }
    let calls = users.checked();
    drop(users);
    cluster.passed();
    let lines = MEMBERS.iter().zip(&gaps);
    let figures: Vec<String> =
        lines.map(|(member, gaps)| format!("{member} {:.3} s", gaps.max().as_secs_f64())).collect();
    Ok(format!(
        "{rounds} times each member, back after {DOWN:?}: longest time without an acquire of a contended lock: {} \
         (goal: {GOAL:?}); {calls} calls linearizable",
        figures.join(", ")
    ))
}

/// Gives the longest time without an acquire.
fn restart(cluster: &mut Cluster, users: &mut Users, member: usize) -> Result<Duration, Trouble> {
    let node = cluster.await_whole(GENEROUS)?[member];
    users.run()?;
    users.await_since(now(), GENEROUS)?;
    nap(DOWN)?;
    users.answers().measure();
    cluster.kill(node)?;
    nap(DOWN)?;
    cluster.start_node(node)?;
    users.await_since(now(), GENEROUS)?;
    cluster.await_whole(GENEROUS)?;
    users.await_since(now(), GENEROUS)?;
    let gap = users.answers().longest_gap();
    users.pause_and_check(PAUSE_PATIENCE)?;
    Ok(gap)
}
