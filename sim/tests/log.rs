//! The Paxos log on the simulated disks: what it has answered for survives whatever they do, and nothing else is read.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rt::backend;
use rt::thread::Node;
use rt::time::Instant;
use sim::dice::Dice;
use sim::disk::{DiskFaults, Disks, Tearing};
use sim::kernel::{Kernel, Schedule};
use sim::world::World;
use yfs_paxos::log::{Log, LogError};
use yfs_paxos::record::Record;
use yfs_paxos::state::AcceptorState;
use yfs_paxos::{Instance, ProposalNumber, Value};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ME: &str = "10.0.0.1:5000";
const LOG: &str = "paxos-10.0.0.1:5000.log";
const ALWAYS: u64 = 1024;

/// Does something on a machine of its own, without a run around it: syncs take no time then.
fn on_disks(seed: u64, work: impl FnOnce(&Disks)) {
    let world = World::new(Kernel::new(seed, Schedule::default(), false));
    let disks = world.disks.clone();
    disks.set_tearing(Tearing { zeros: 256, garbage: 0 });
    let _entered = backend::enter(Rc::new(world));
    Node::new(ME).enter(|| work(&disks));
}

fn open() -> Result<(Log, AcceptorState), LogError> {
    Log::open(Path::new(LOG), ME)
}

fn promise(n: u32) -> Record {
    Record::PropSeen(ProposalNumber { n, node: ME.to_owned() })
}

fn done(instance: Instance) -> Record {
    Record::Done(instance, Value::first(ME).unwrap())
}

fn text(records: &[Record]) -> String {
    records.iter().map(Record::to_string).collect()
}

/// Some appends, synced.
fn written(appends: &[Vec<Record>]) -> String {
    let (mut log, _) = open().unwrap();
    appends.iter().for_each(|records| log.append(records).unwrap());
    log.dump().to_owned()
}

#[test]
fn a_vote_that_was_read_survives_though_its_sync_failed() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        on_disks(seed, |disks| {
            written(&[vec![done(1)]]);
            let (mut log, _) = open().unwrap();
            disks.set_faults(HOST, DiskFaults { sync_errors: ALWAYS, ..DiskFaults::default() });
            assert!(matches!(log.append(&[promise(1)]), Err(LogError::Io { doing: "sync", .. })));
            disks.process_died(HOST);
            disks.heal(HOST);
            // The page cache has it; the node promises accordingly.
            let promised = open().unwrap().1.promised().cloned();
            assert!(promised.is_some());
            disks.power_off(HOST);
            seen.insert(open().unwrap().1.promised().cloned() == promised);
        });
    }
    assert_eq!(seen, BTreeSet::from([true]));
}

#[test]
fn of_a_first_append_all_is_read_or_nothing() {
    let all = [done(1), done(2), done(3), done(4)];
    let mut seen = BTreeSet::new();
    for seed in 0..1000 {
        on_disks(seed, |disks| {
            let (mut log, _) = open().unwrap();
            let full = seed % 2 == 0;
            let faults = DiskFaults { full, sync_errors: ALWAYS, ..DiskFaults::default() };
            disks.set_faults(HOST, faults);
            assert!(log.append(&all).is_err());
            disks.process_died(HOST);
            disks.power_off(HOST);
            disks.heal(HOST);
            seen.insert(open().unwrap().0.dump().to_owned());
        });
    }
    assert_eq!(seen, BTreeSet::from([String::new(), text(&all)]));
}

/// Appends, ends of processes, power cuts and disks that fail, at random. Returns how many appends failed, and how many
/// of them were read all the same.
fn live(seed: u64) -> (u32, u32) {
    let (mut failed, mut kept) = (0, 0);
    let mut dice = Dice::new(seed);
    on_disks(seed, |disks| {
        // What has been answered for, and an append that hasn't.
        let mut known = String::new();
        let mut pending = String::new();
        let mut log: Option<Log> = None;
        let mut instance = 0;
        for step in 0..60 {
            let faults = match dice.below(4) {
                0 => DiskFaults { write_errors: 300, sync_errors: 300, ..DiskFaults::default() },
                1 => DiskFaults { full: dice.below(3) == 0, sync_errors: 100, ..DiskFaults::default() },
                _ => DiskFaults::default(),
            };
            let well = faults == DiskFaults::default();
            disks.set_faults(HOST, faults);
            match &mut log {
                None => match open() {
                    Ok((opened, state)) => {
                        let is = opened.dump();
                        let both = known.clone() + &pending;
                        assert!(is == known || is == both, "seed {seed}, step {step}: {is:?}, not {both:?}");
                        kept += u32::from(!pending.is_empty() && is == both);
                        known = is.to_owned();
                        pending.clear();
                        instance = state.instance();
                        log = Some(opened);
                    }
                    Err(error) => {
                        assert!(!well && matches!(error, LogError::Io { .. }), "seed {seed}, step {step}: {error}");
                        disks.process_died(HOST);
                    }
                },
                Some(opened) => {
                    let count = dice.below(4) as u32;
                    let records: Vec<Record> = if count == 0 {
                        vec![promise(step)]
                    } else {
                        (1..=count).map(|more| done(instance + more)).collect()
                    };
                    match opened.append(&records) {
                        Ok(()) => {
                            known += &text(&records);
                            instance += count;
                        }
                        Err(_) => {
                            failed += 1;
                            pending = text(&records);
                            (log, _) = (None, disks.process_died(HOST));
                        }
                    }
                }
            }
            match dice.below(8) {
                0 => (log, _) = (None, disks.process_died(HOST)),
                1 => (log, _) = (None, disks.power_off(HOST)),
                _ => {}
            }
        }
    });
    (failed, kept)
}

#[test]
fn what_was_answered_for_is_there_and_an_append_is_read_whole_or_not_at_all() {
    let (mut failed, mut kept) = (0, 0);
    for seed in 0..1000 {
        let (more, of_them) = live(seed);
        failed += more;
        kept += of_them;
    }
    assert!(kept > 100 && failed > kept + 100, "{failed} {kept}");
}

#[test]
fn a_power_cut_during_a_start_costs_nothing() {
    let mut lengths = BTreeSet::new();
    for seed in 0..300 {
        let kernel = Kernel::new(seed, Schedule::default(), false);
        let world = World::new(kernel.clone());
        let disks = world.disks.clone();
        let before = on_world(&world, || written(&[vec![done(1)], vec![promise(1)], vec![done(2), done(3)]]));
        let cut = {
            let (kernel, disks) = (kernel.clone(), disks.clone());
            move || {
                disks.power_off(HOST);
                kernel.end();
            }
        };
        let at = Duration::from_micros(seed * 10);
        let report = world.clone().run(&Node::new(ME), Instant::from_start(Duration::from_secs(60)), move || {
            kernel.after(at, cut);
            let _opened = open();
            rt::time::sleep(Duration::from_secs(1));
        });
        assert_eq!(report.finding, None);
        lengths.insert(disks.files(HOST).len());
        on_world(&world, || {
            let (log, _) = open().unwrap();
            assert_eq!(log.dump(), before, "seed {seed}");
        });
    }
    assert!(lengths.len() > 1, "cut before and after the rename: {lengths:?}");
}

fn on_world<T>(world: &World, work: impl FnOnce() -> T) -> T {
    let _entered = backend::enter(Rc::new(world.clone()));
    Node::new(ME).enter(work)
}

#[test]
fn a_flipped_bit_is_an_error() {
    for seed in 0..2000 {
        on_disks(seed, |disks| {
            written(&[vec![done(1)], vec![promise(1)], vec![done(2), done(3)]]);
            disks.process_died(HOST);
            assert_eq!(disks.flip_bit(HOST).unwrap().0, Path::new(LOG));
            let error = open().map(|_| ()).unwrap_err();
            assert!(matches!(error, LogError::Damaged { .. }), "seed {seed}: {error}");
        });
    }
}
