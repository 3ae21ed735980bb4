//! The primary is killed under load and started again: how long is no request answered?

use std::time::Duration;

use rt::time::now;

use super::{GENEROUS, NODES, PAUSE_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::distribution::Distribution;
use crate::keepers::Keepers;
use crate::trouble::{Trouble, between, ensure, nap};

const KILLS: u32 = 50;
const KEEPERS: usize = 4;
/// The goals are reported beside the figures; only this fails.
const BOUND: Duration = Duration::from_secs(10);
const GOALS: &str = "goals: p50 <= 0.5 s, max <= 1 s";

pub(super) fn check(setup: &Setup) -> Result<String, Trouble> {
    let kills = setup.rounds(KILLS);
    let mut cluster = Cluster::start(&setup.lock_server, NODES)?;
    let mut keepers = Keepers::connect(&cluster.names(), KEEPERS)?;
    let (mut killed, mut joined) = (Distribution::default(), Distribution::default());
    keepers.run()?;
    for _ in 0..kills {
        let (at_kill, at_join) = kill(&mut cluster, &keepers)?;
        killed.add(at_kill);
        joined.add(at_join);
    }
    keepers.pause(PAUSE_PATIENCE)?;
    keepers.audit()?;
    let requests = keepers.answers().count();
    drop(keepers);
    let last = cluster.compare_states()?;
    cluster.passed();
    ensure(killed.max() <= BOUND, || format!("no answer for longer than {BOUND:?}: {killed}"))?;
    Ok(format!(
        "{} kills of the primary: gap {killed} ({GOALS}); when it joins again: {joined}; {requests} requests, states equal \
         at {last}",
        killed.len()
    ))
}

/// Gives the longest time without an answer after the kill, and after the restart.
fn kill(cluster: &mut Cluster, keepers: &Keepers) -> Result<(Duration, Duration), Trouble> {
    let primary = cluster.await_whole(GENEROUS)?[0];
    keepers.await_all_since(now(), GENEROUS)?;
    nap(between(200, 600))?;
    keepers.answers().measure();
    cluster.kill(primary)?;
    let killed = now();
    keepers.await_all_since(killed, GENEROUS)?;
    nap(between(50, 300))?;
    let at_kill = keepers.answers().longest_gap();
    keepers.answers().measure();
    cluster.start_node(primary)?;
    cluster.await_whole(GENEROUS)?;
    keepers.await_all_since(now(), GENEROUS)?;
    Ok((at_kill, keepers.answers().longest_gap()))
}
