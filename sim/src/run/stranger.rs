//! Somebody who is no member, and speaks to all nodes as if it were one, of instances and with numbers that it made up.
//! No word of it may count (S13), and whoever may join is admitted as if it weren't there.

use std::net::IpAddr;
use std::time::Duration;

use rt::thread::Node;
use rt::time::sleep;
use yfs_paxos::protocol::{
    ACCEPTREQ, AcceptArg, DECIDEREQ, DecideArg, HEARTBEAT, PREPAREREQ, PrepareArg, ProposalNumber,
};
use yfs_rpc::{Client, Options, PollMgr};
use yfs_rsm::protocol::{JOINREQ, Viewstamp};

use super::Director;

/// Its machine, and the name that it gives: nobody listens there.
const HOST: [u8; 4] = [10, 0, 3, 1];
const NAME: &str = "10.0.3.1:5000";
/// How long a call may take.
const TOTAL: Duration = Duration::from_secs(2);

impl Director {
    pub(super) fn stranger(&mut self) {
        let last = self.cluster.oracles().latest_view().0;
        let vid = [last.saturating_add(1), last.saturating_add(2), u32::MAX][self.dice.below(3) as usize];
        let n = ProposalNumber { n: [1_000, u32::MAX][self.dice.below(2) as usize], node: NAME.to_owned() };
        self.kernel.count("fault: stranger");
        self.show("", || format!("a stranger speaks of view {vid} with number {}", n.n));
        let nodes = (0..self.cluster.len()).map(|member| self.cluster.name(member)).collect();
        let told = Node::new(&IpAddr::from(HOST).to_string()).spawn("stranger", move || speak(nodes, vid, &n));
        if let Err(error) = told {
            self.kernel.find(format!("no thread: {error}"));
        }
    }
}

/// Says everything that a member may say.
fn speak(nodes: Vec<String>, vid: u32, n: &ProposalNumber) {
    let Ok(pollmgr) = PollMgr::new() else { return };
    let addresses = nodes.iter().filter_map(|name| name.parse().ok());
    let clients: Vec<_> = addresses.map(|address| Client::new_on(&pollmgr, address, Options::default())).collect();
    let me = || NAME.to_owned();
    for client in &clients {
        let prepare = PrepareArg { instance: vid, n: n.clone() };
        let accept = AcceptArg { instance: vid, n: n.clone(), v: me() };
        client.call_async(HEARTBEAT, (me(), vid), TOTAL, |_| {});
        client.call_async(PREPAREREQ, (me(), prepare), TOTAL, |_| {});
        client.call_async(ACCEPTREQ, (me(), accept), TOTAL, |_| {});
        client.call_async(DECIDEREQ, (me(), DecideArg { instance: vid, v: me() }), TOTAL, |_| {});
        client.call_async(JOINREQ, (me(), Viewstamp::default()), TOTAL, |_| {});
    }
    // Whoever drops a client ends its calls.
    sleep(TOTAL);
}
