//! A replicated counter is added to while its primary is killed again and again: it ends at what was acknowledged, and
//! at most what clients were told nobody knows of.

use std::sync::Arc;
use std::time::Duration;

use rt::sync::{Mutex, Rank};
use rt::time::{now, sleep};
use yfs_rsm::{RsmClient, RsmClientError};

use super::{GENEROUS, NODES, PAUSE_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::counter_node::ADD;
use crate::load::{Reins, Threads};
use crate::trouble::{Trouble, ensure, nap};

const SUMS_RANK: Rank = Rank::new(5, "torture.sums");
/// Kills of the primary.
const KILLS: u32 = 15;
const INTERVAL: Duration = Duration::from_secs(2);
const DOWN: Duration = Duration::from_millis(300);
const CLIENTS: usize = 8;
/// Some calls must end without an answer, or nothing would be unknown: a new primary takes about as long.
const CALL_PATIENCE: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(1);

/// What clients were told.
#[derive(Debug, Default)]
struct Sums {
    acknowledged: u64,
    unknown: u64,
    refused: u64,
    /// Each total that was returned, once.
    totals: std::collections::BTreeSet<u64>,
}

pub(super) fn check(setup: &Setup) -> Result<String, Trouble> {
    let kills = setup.rounds(KILLS);
    let mut cluster = Cluster::start(&setup.counter_node, NODES)?;
    let sums = Arc::new(Mutex::new(SUMS_RANK, Sums::default()));
    let mut threads = Threads::new();
    let connect = || RsmClient::connect(&cluster.names(), GENEROUS).map_err(|e| format!("no counter: {e}"));
    let reader = connect()?;
    for number in 0..CLIENTS {
        let (client, sums) = (connect()?, sums.clone());
        // Every other client waits as long as it takes.
        let patience = if number % 2 == 0 { CALL_PATIENCE } else { PAUSE_PATIENCE };
        threads.spawn("adder", move |reins| add(reins, &client, patience, &sums))?;
    }
    for _ in 0..kills {
        let began = now();
        nap(INTERVAL / 2)?;
        let primary = cluster.await_whole(GENEROUS)?[0];
        cluster.kill(primary)?;
        nap(DOWN)?;
        cluster.start_node(primary)?;
        nap(INTERVAL.saturating_sub(began.elapsed()))?;
        threads.check()?;
    }
    cluster.await_whole(GENEROUS)?;
    threads.stop(PAUSE_PATIENCE)?;
    let (_, total) = reader.call(ADD, (0,), GENEROUS).map_err(|e| format!("the total can't be read: {e}"))?;
    let sums = std::mem::take(&mut *sums.lock());
    let Sums { acknowledged, unknown, refused, totals } = sums;
    let said = format!("{acknowledged} acknowledged, {unknown} unknown, {refused} not executed, the total is {total}");
    ensure(total >= acknowledged, || format!("lost: {said}"))?;
    ensure(total <= acknowledged + unknown, || format!("executed twice: {said}"))?;
    ensure(totals.len() as u64 == acknowledged, || format!("two calls were told the same total: {said}"))?;
    ensure(acknowledged > 0, || "nothing was added".to_owned())?;
    cluster.passed();
    Ok(format!("{kills} kills of the primary, one each {INTERVAL:?}, {CLIENTS} clients: {said}"))
}

fn add(reins: &Reins, client: &RsmClient, patience: Duration, sums: &Mutex<Sums>) {
    while reins.goes_on() {
        let called = client.call(ADD, (1,), patience);
        let mut sums = sums.lock();
        match called {
            Ok((0, total)) => {
                sums.acknowledged += 1;
                sums.totals.insert(total);
            }
            Err(RsmClientError::Unknown) => sums.unknown += 1,
            Err(RsmClientError::Unreachable) => sums.refused += 1,
            other => return reins.fail(format!("an addition gave {other:?}")),
        }
        drop(sums);
        sleep(PAUSE);
    }
}
