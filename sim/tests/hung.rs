//! A node whose disk hangs takes nothing more on than it can keep.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rt::thread::Node;
use rt::time::{Instant, now, sleep};
use sim::disk::DiskFaults;
use sim::kernel::{Kernel, Schedule};
use sim::world::World;
use yfs_rpc::marshall::{Bytes, UnmarshalError, decode, encode};
use yfs_rpc::{Handles, PollMgr, Procedure};
use yfs_rsm::protocol::{CLIENT_INVOKE, ClientStatus};
use yfs_rsm::{Options, Rsm, StateMachine};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ME: &str = "10.0.0.1:5000";
const ADD: Procedure<(u64,), u64> = Procedure::new(1);

struct Total(u64);

impl StateMachine for Total {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        encode(&self.0)
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.0 = decode(state)?;
        Ok(())
    }
}

/// A service of one node, so that no other one replaces it. Each request that it stamped stayed in memory, up to 9 MiB a
/// second.
#[test]
fn a_primary_whose_disk_hangs_stamps_no_more_requests_until_it_works_again() {
    let world = World::new(Kernel::new(1, Schedule::default(), false));
    let (kernel, disks) = (world.kernel.clone(), world.disks.clone());
    let report = world.run(&Node::new(ME), Instant::from_start(Duration::from_secs(120)), move || {
        let pollmgr = PollMgr::new().unwrap();
        let options = Options {
            dir: PathBuf::new(),
            pollmgr: pollmgr.clone(),
            on_fatal: Arc::new(|reason| panic!("{reason}")),
            ..Options::new(ME, ME)
        };
        let rsm = Rsm::new(options, Total(0)).unwrap();
        rsm.reg(ADD, |total: &mut Total, (more,): (u64,)| {
            total.0 += more;
            (0, total.0)
        });
        rsm.start().unwrap();
        let handles = Handles::new(&pollmgr, yfs_rpc::Options::default());
        let client = handles.client(ME).unwrap();
        let call = || {
            let request = (ADD.number, Bytes(encode(&1_u64)));
            client.call(CLIENT_INVOKE, request, Duration::from_secs(5)).unwrap().0
        };
        while !rsm.amiprimary() {
            sleep(Duration::from_millis(10));
        }
        assert_eq!(call(), ClientStatus::OK as i32);

        disks.set_faults(HOST, DiskFaults { hung: true, ..DiskFaults::default() });
        let until = now() + Duration::from_secs(10);
        let mut refused = 0;
        while now() < until {
            assert_eq!(call(), ClientStatus::BUSY as i32);
            refused += 1;
            sleep(Duration::from_millis(100));
        }
        let executed = rsm.last_executed().seqno;
        assert!(executed <= 3 && refused > 50, "{executed} were executed, {refused} refused");

        disks.heal(HOST);
        sleep(Duration::from_secs(1));
        assert_eq!(call(), ClientStatus::OK as i32);
        assert_eq!(rsm.inspect(|total| total.0), u64::from(executed) + 1);
        kernel.end();
    });
    assert_eq!(report.finding, None);
}
