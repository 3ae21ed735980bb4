//! A member is stopped for a while (SIGSTOP) and goes on (H9): the service comes back by itself, all are members again,
//! and have the same locks.

use std::time::Duration;

use rt::time::now;

use super::{GENEROUS, NODES, PAUSE_PATIENCE, Setup};
use crate::cluster::Cluster;
use crate::keepers::Keepers;
use crate::os::Signal;
use crate::trouble::{Trouble, nap};
use crate::users::{Crowd, Users};

const KEEPERS: usize = 4;
const CROWD: Crowd = Crowd { clients: 2, threads: 1, locks: 2 };
/// The place in the view of who is stopped, and for how long.
const STOPS: [(usize, Duration); 4] = [
    (0, Duration::from_millis(1300)),
    (NODES - 1, Duration::from_millis(1300)),
    (0, Duration::from_secs(10)),
    (NODES - 1, Duration::from_secs(10)),
];

pub(super) fn check(setup: &Setup) -> Result<String, Trouble> {
    let mut cluster = Cluster::start(&setup.lock_server, NODES)?;
    let mut keepers = Keepers::connect(&cluster.names(), KEEPERS)?;
    let mut users = Users::connect(&cluster.names(), CROWD)?;
    let mut figures = Vec::new();
    for (member, time) in STOPS {
        let who = if member == 0 { "primary" } else { "backup" };
        let [gap, whole, views] =
            stop(&mut cluster, &mut keepers, &mut users, member, time).map_err(|trouble| match trouble {
                Trouble::Failed(what) => Trouble::Failed(format!("a {who} stopped for {time:?}: {what}")),
                Trouble::Interrupted | Trouble::Unread => trouble,
            })?;
        figures.push(format!("{who} {time:?}: gap {gap}, whole again after {whole}, {views} views"));
    }
    let calls = users.checked();
    drop((keepers, users));
    let last = cluster.compare_states()?;
    cluster.passed();
    Ok(format!("{}; {calls} calls linearizable, states equal at {last}", figures.join("; ")))
}

/// Gives the longest time without an answer, how long after it went on all were members, and how many views that took.
fn stop(
    cluster: &mut Cluster,
    keepers: &mut Keepers,
    users: &mut Users,
    member: usize,
    time: Duration,
) -> Result<[String; 3], Trouble> {
    let members = cluster.await_whole(GENEROUS)?;
    let (node, other) = (members[member], members[1]);
    let views = cluster.views(other);
    keepers.run()?;
    users.run()?;
    keepers.await_all_since(now(), GENEROUS)?;
    keepers.answers().measure();
    cluster.signal(node, Signal::Stop)?;
    nap(time)?;
    cluster.signal(node, Signal::Continue)?;
    let went_on = now();
    keepers.await_all_since(went_on, GENEROUS)?;
    // A member that was not missed is noticed late to be behind: look again after a while.
    cluster.await_whole(GENEROUS)?;
    let whole = went_on.elapsed();
    keepers.await_all_since(now(), GENEROUS)?;
    let gap = keepers.answers().longest_gap();
    keepers.pause(PAUSE_PATIENCE)?;
    users.pause_and_check(PAUSE_PATIENCE)?;
    keepers.audit()?;
    cluster.await_whole(GENEROUS)?;
    let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
    Ok([seconds(gap), seconds(whole), (cluster.views(other) - views).to_string()])
}
