//! All nodes are killed at a random moment under load, and started again with the same command lines. Every acquire and
//! release that was acknowledged, before or after, must be there.

use rt::time::now;

use super::{GENEROUS, NODES, PAUSE_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::distribution::Distribution;
use crate::keepers::Keepers;
use crate::trouble::{Trouble, between, ensure, nap};
use crate::users::{Crowd, Users};

const ROUNDS: u32 = 50;
const KEEPERS: usize = 4;
const CROWD: Crowd = Crowd { clients: 3, threads: 1, locks: 2 };

pub(super) fn check(setup: &Setup) -> Result<String, Trouble> {
    let rounds = setup.rounds(ROUNDS);
    let mut cluster = Cluster::start(&setup.lock_server, NODES)?;
    let mut keepers = Keepers::connect(&cluster.names(), KEEPERS)?;
    let mut users = Users::connect(&cluster.names(), CROWD)?;
    let (mut back, mut held) = (Distribution::default(), 0);
    for round in 1..=rounds {
        let in_round = |trouble| match trouble {
            Trouble::Failed(what) => Trouble::Failed(format!("round {round}: {what}")),
            Trouble::Interrupted | Trouble::Unread => trouble,
        };
        let (took, locks) = kill_all(&mut cluster, &mut keepers, &mut users).map_err(in_round)?;
        back.add(took);
        held += locks;
    }
    let (requests, calls) = (keepers.answers().count(), users.checked());
    drop((keepers, users));
    let last = cluster.compare_states()?;
    cluster.passed();
    ensure(held > 0 || rounds < 5, || "no lock was ever held across a kill".to_owned())?;
    Ok(format!(
        "{rounds} times all {NODES} nodes: {requests} acknowledged requests there, {held} times a lock held across a \
         kill, {calls} calls of caching clients linearizable, states equal at {last}; first answer after {back}"
    ))
}

/// One round; gives how long the service was back after the restart, and how many locks were held across it.
fn kill_all(
    cluster: &mut Cluster,
    keepers: &mut Keepers,
    users: &mut Users,
) -> Result<(std::time::Duration, usize), Trouble> {
    keepers.run()?;
    users.run()?;
    nap(between(50, 400))?;
    // In no order: rotated, each node may die last.
    let first = rt::random::below(NODES as u64) as usize;
    let all: Vec<usize> = (first..first + NODES).map(|node| node % NODES).collect();
    cluster.kill_all(&all)?;
    nap(between(0, 200))?;
    let started = now();
    for node in 0..NODES {
        cluster.start_node(node)?;
    }
    let back = await_back(cluster, keepers, started)?;
    // What was sent before the kill is answered with what came after.
    keepers.await_all_since(started, GENEROUS)?;
    keepers.pause(PAUSE_PATIENCE)?;
    users.pause_and_check(PAUSE_PATIENCE)?;
    let held = keepers.audit()?;
    cluster.await_whole(GENEROUS)?;
    Ok((back, held))
}

fn await_back(
    cluster: &mut Cluster,
    keepers: &Keepers,
    started: rt::time::Instant,
) -> Result<std::time::Duration, Trouble> {
    keepers.await_any_since(started, GENEROUS)?;
    let back = started.elapsed();
    cluster.watch()?;
    Ok(back)
}
