//! The testers' door to a node: partitions and places to die (lab: `rsm_tester`'s server).
//!
//! It listens on loopback, on a port of its own so that it can't cut itself off, and only where it was asked for (H20).
//! Locks: `rsm.test` guards the switches.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};

use rt::sync::{Mutex, Rank};
use yfs_rpc::{Options, PollMgr, Server};

use crate::protocol::{BREAKPOINT, CUT_MEMBERS, NET_REPAIR, TestStatus};

const SWITCHES_RANK: Rank = Rank::new(80, "rsm.test");

/// Exit status of a node that dies at a breakpoint.
const DIED_AT_BREAKPOINT: i32 = 1;

/// What the test server needs of its node.
pub(crate) trait Partition: Send + Sync {
    /// Cuts the node off from everybody but the tester, or heals (lab: `net_repair_wo`).
    fn net_repair(&self, heal: bool);
    /// Cuts the node off from the members only, or heals.
    fn cut_members(&self, heal: bool);
    /// Sets config's and Paxos's breakpoints, 3 and 4.
    fn breakpoint(&self, b: i32);
}

#[derive(Default)]
struct State {
    dopartition: bool,
    break1: bool,
    break2: bool,
}

/// The switches of one node.
pub(crate) struct Switches(Mutex<State>);

impl Switches {
    pub(crate) fn new() -> Self {
        Switches(Mutex::new(SWITCHES_RANK, State::default()))
    }

    /// After the first backup has answered (primary), or after a request was executed and before it is answered (backup).
    pub(crate) fn breakpoint1(&self) {
        if self.0.lock().break1 {
            die(1);
        }
    }

    /// After a new view with this node was committed.
    pub(crate) fn breakpoint2(&self) {
        if self.0.lock().break2 {
            die(2);
        }
    }

    /// Whether the partition is due: after the first backup has answered, once.
    pub(crate) fn partition1(&self) -> bool {
        std::mem::take(&mut self.0.lock().dopartition)
    }

    fn set_partition1(&self, due: bool) {
        self.0.lock().dopartition = due;
    }

    fn breakpointreq(&self, b: i32) {
        let mut state = self.0.lock();
        match b {
            1 => state.break1 = true,
            2 => state.break2 = true,
            _ => {}
        }
    }
}

fn die(b: i32) -> ! {
    tracing::info!(breakpoint = b, "dying at a breakpoint");
    rt::process::exit(DIED_AT_BREAKPOINT)
}

/// Opens the test port.
pub(crate) fn start(
    pollmgr: &PollMgr,
    options: Options,
    port: u16,
    switches: Arc<Switches>,
    node: Weak<dyn Partition>,
) -> std::io::Result<Server> {
    let server = Server::bind_on(pollmgr, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), options)?;
    let (of_repair, of_node) = (switches.clone(), node.clone());
    server.reg(NET_REPAIR, move |heal: i32| {
        let heal = heal != 0;
        tracing::info!(heal, "net_repair asked for");
        of_repair.set_partition1(!heal);
        if heal && let Some(node) = of_node.upgrade() {
            node.net_repair(true);
        }
        (TestStatus::OK, 0)
    });
    let of_node = node.clone();
    server.reg(CUT_MEMBERS, move |heal: i32| {
        tracing::info!(heal = heal != 0, "cut from members asked for");
        if let Some(node) = of_node.upgrade() {
            node.cut_members(heal != 0);
        }
        (TestStatus::OK, 0)
    });
    server.reg(BREAKPOINT, move |b: i32| {
        tracing::info!(breakpoint = b, "breakpoint asked for");
        match b {
            1 | 2 => switches.breakpointreq(b),
            3 | 4 => {
                if let Some(node) = node.upgrade() {
                    node.breakpoint(b);
                }
            }
            // As the lab's: the result says it once more.
            _ => return (TestStatus::ERR, TestStatus::ERR as i32),
        }
        (TestStatus::OK, 0)
    });
    server.start()?;
    Ok(server)
}
