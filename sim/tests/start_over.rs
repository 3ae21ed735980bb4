//! The operator's command on the simulated disks: a crash at any moment leaves the old state or all of the new one.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_types,
    reason = "a dead node's threads keep their locks: what outlives them needs another"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rt::thread::Node;
use rt::time::{Instant, now, sleep};
use sim::disk::{Disks, Tearing};
use sim::kernel::{Kernel, Schedule};
use sim::world::World;
use yfs_paxos::Value;
use yfs_paxos::log::Log;
use yfs_paxos::record::Record;
use yfs_rsm::journal::{Item, Journal, Recovered};
use yfs_rsm::protocol::Viewstamp;
use yfs_rsm::start_over;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ME: &str = "10.0.0.1:5000";
const LOG: &str = "paxos-10.0.0.1:5000.log";
const REQUESTS: u32 = 200;
/// The members look for each other before anything is written; this is more than what comes after it.
const WRITING: Duration = Duration::from_millis(60);

/// Runs `program` beside the machine, in virtual time.
fn run(seed: u64, program: impl FnOnce(&Kernel, &Disks) + Send + 'static) {
    let schedule = Schedule { yields: 256, spurious: 32, ..Schedule::default() };
    let world = World::new(Kernel::new(seed, schedule, false));
    let (kernel, disks) = (world.kernel.clone(), world.disks.clone());
    disks.set_tearing(Tearing { zeros: 256, garbage: 0 });
    let limit = Instant::from_start(Duration::from_secs(60));
    let report = world.run(&Node::new("10.0.0.9:1"), limit, move || {
        program(&kernel, &disks);
        kernel.end();
    });
    assert_eq!(report.finding, None, "seed {seed}");
}

/// A member of three, with a base and many requests.
fn write_files() {
    let views = [ME.to_owned(), format!("{ME} 10.0.0.2:5000 "), format!("{ME} 10.0.0.2:5000 10.0.0.3:5000 ")];
    let (mut log, paxos) = Log::open(Path::new(LOG), ME).unwrap();
    let done = |(vid, view): (u32, &String)| Record::Done(vid, Value::parse(view).unwrap());
    log.append(&(1..).zip(&views).map(done).collect::<Vec<_>>()).unwrap();
    let (journal, _) = Journal::open(Path::new(""), ME, paxos.disk().unwrap()).unwrap();
    journal.append(Item::Base { mark: 3, last: Viewstamp { vid: 3, seqno: 0 }, state: vec![7; 99] });
    for seqno in 1..=REQUESTS {
        journal.append(Item::Request { vs: Viewstamp { vid: 3, seqno }, procedure: seqno, args: vec![1; 40] });
    }
    journal.write_queued().unwrap();
}

/// How many milliseconds the command takes if nothing stops it.
fn time_of(seed: u64) -> Duration {
    let took = Arc::new(Mutex::new(Duration::ZERO));
    let out = took.clone();
    run(seed, move |_, _| {
        let command = move || {
            write_files();
            let before = now();
            start_over(Path::new(""), ME, true).unwrap();
            *out.lock().unwrap() = before.elapsed();
        };
        let thread = Node::new(ME).spawn("main", command).unwrap();
        assert!(thread.join_until(now() + Duration::from_secs(50)));
    });
    let took = *took.lock().unwrap();
    assert!(took > Duration::ZERO);
    took
}

#[test]
fn c1_a_crash_leaves_the_old_state_or_all_of_the_new_one() {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let took = (0..20).map(time_of).max().unwrap();
    for seed in 0..400 {
        let seen = seen.clone();
        run(seed, move |kernel, disks| {
            let thread = Node::new(ME).spawn("main", write_files).unwrap();
            assert!(thread.join_until(now() + Duration::from_secs(1)));
            disks.process_died(HOST);
            Node::new(ME).spawn("main", || drop(start_over(Path::new(""), ME, true))).unwrap();
            sleep(kernel.between(took.saturating_sub(WRITING), took));
            kernel.crash(&Node::new(ME));
            if seed % 3 == 0 {
                disks.process_died(HOST)
            } else {
                disks.power_off(HOST)
            }
            Node::new(ME).enter(|| {
                let Recovered { mark, requests, state, start_over, .. } =
                    Journal::look(Path::new(""), ME).unwrap().unwrap();
                assert_eq!(mark, 3, "seed {seed}: what it was in sync with");
                let mark = start_over.unwrap_or(mark);
                assert_eq!((requests.len(), state.len()), (REQUESTS as usize, 99), "seed {seed}");
                let vid = Log::look(Path::new(LOG), ME).unwrap().unwrap().instance();
                assert!(matches!((mark, vid), (3, 3) | (5, 3 | 5)), "seed {seed}: mark {mark}, view {vid}");
                *seen.lock().unwrap().entry((mark, vid)).or_insert(0) += 1;
            });
        });
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 3 && seen.values().all(|count| *count > 5), "each was seen: {seen:?}");
}
