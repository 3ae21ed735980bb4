//! A primary is cut off from its members but not from its clients (H10): they fail over within 2 s of the new view.

use std::time::Duration;

use rt::time::now;
use yfs_rsm::protocol::CUT_MEMBERS;

use super::{GENEROUS, NODES, PAUSE_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::distribution::Distribution;
use crate::keepers::Keepers;
use crate::trouble::{Trouble, await_within, ensure};

const ROUNDS: u32 = 3;
const KEEPERS: usize = 8;
const GOAL: Duration = Duration::from_secs(2);

pub(super) fn check(setup: &Setup) -> Result<String, Trouble> {
    let rounds = setup.rounds(ROUNDS);
    let mut cluster = Cluster::start(&setup.lock_server, NODES)?;
    let mut keepers = Keepers::connect(&cluster.names(), KEEPERS)?;
    let (mut views, mut failovers) = (Distribution::default(), Distribution::default());
    for _ in 0..rounds {
        let (view, failover) = cut(&mut cluster, &mut keepers)?;
        ensure(failover <= GOAL, || format!("a client failed over {failover:?} after the new view"))?;
        views.add(view);
        failovers.add(failover);
    }
    drop(keepers);
    let last = cluster.compare_states()?;
    cluster.passed();
    Ok(format!(
        "{rounds} times: a new view after at most {:.3} s, the last of {KEEPERS} clients answered at most {:.3} s after \
         it (goal: {GOAL:?}); states equal at {last}",
        views.max().as_secs_f64(),
        failovers.max().as_secs_f64()
    ))
}

/// Gives how long after the cut there was a new view, and how long after that all clients were answered.
fn cut(cluster: &mut Cluster, keepers: &mut Keepers) -> Result<(Duration, Duration), Trouble> {
    let members = cluster.await_whole(GENEROUS)?;
    let (primary, other) = (members[0], members[1]);
    keepers.run()?;
    keepers.await_all_since(now(), GENEROUS)?;
    cluster.test_port(primary, CUT_MEMBERS, 0)?;
    let cut = now();
    let old = cluster.name(primary).to_owned();
    await_within(GENEROUS, "the others form a view", || {
        let named = cluster.members_by(other);
        Ok(named.is_some_and(|names| names.first().is_some_and(|name| !name.is_empty()) && !names.contains(&old)))
    })?;
    let formed = now();
    let failover = keepers.await_all_since(formed, GENEROUS)?;
    cluster.test_port(primary, CUT_MEMBERS, 1)?;
    cluster.await_whole(GENEROUS)?;
    keepers.await_all_since(now(), GENEROUS)?;
    keepers.pause(PAUSE_PATIENCE)?;
    keepers.audit()?;
    Ok((formed - cut, failover))
}
