//! The journal on the simulated disks: what it has confirmed survives whatever they do, and what is read is a prefix of
//! what was appended.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_types,
    reason = "a dead node's threads keep their locks: what outlives them needs another"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rt::sync::Rank;
use rt::thread::Node;
use rt::time::{Instant, now, sleep};
use sim::disk::{DiskFaults, Disks, Tearing};
use sim::kernel::{Kernel, Schedule};
use sim::world::World;
use yfs_paxos::DiskId;
use yfs_rsm::journal::{Item, Journal, JournalError, Logged, Position, Recovered};
use yfs_rsm::protocol::Viewstamp;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ME: &str = "10.0.0.1:5000";
const DISK: DiskId = DiskId(1);
const FILE: &str = "rsm-10.0.0.1:5000.log";
const ALWAYS: u64 = 1024;
const SYNC_FAILS: DiskFaults =
    DiskFaults { write_errors: 0, sync_errors: ALWAYS, full: false, slow: false, hung: false, hangs_after: None };

/// Runs `program` beside the machine, in virtual time.
fn run(seed: u64, program: impl FnOnce(Kernel, Disks) + Send + 'static) {
    let schedule = Schedule { yields: 256, spurious: 32, ..Schedule::default() };
    let world = World::new(Kernel::new(seed, schedule, false));
    let (kernel, disks) = (world.kernel.clone(), world.disks.clone());
    disks.set_tearing(Tearing { zeros: 256, garbage: 0 });
    let limit = Instant::from_start(Duration::from_secs(60));
    let report = world.run(&Node::new("10.0.0.9:1"), limit, move || {
        program(kernel.clone(), disks);
        kernel.end();
    });
    assert_eq!(report.finding, None, "seed {seed}");
}

fn node() -> Node {
    Node::new(ME)
}

fn open() -> Result<(Journal, Option<Recovered>), JournalError> {
    node().enter(|| Journal::open(Path::new(""), ME, DISK))
}

fn request(seqno: u32) -> Item {
    Item::Request { vs: Viewstamp { vid: 1, seqno }, procedure: seqno, args: vec![0; seqno as usize % 7] }
}

/// Begins a generation with this state.
fn begin(journal: &Journal, mark: u32, last: Viewstamp, state: Vec<u8>) -> Result<(), JournalError> {
    journal.append(Item::Base { mark, last, state });
    journal.write_queued()
}

/// A journal with an empty base, its thread at work.
fn started() -> Journal {
    let (journal, _) = open().unwrap();
    node().enter(|| begin(&journal, 1, Viewstamp { vid: 1, seqno: 0 }, Vec::new())).unwrap();
    journal.start(&node(), |_| {}, |_| {}).unwrap();
    journal
}

/// Begins a new generation with what was read, and returns how many requests that were.
fn believed() -> usize {
    let (journal, recovered) = open().unwrap();
    let recovered = recovered.unwrap();
    let last = recovered.last();
    let Recovered { mark, state, requests, .. } = recovered;
    let state = vec![0; state.len() + requests.len()];
    let count = state.len();
    node().enter(|| begin(&journal, mark, last, state)).unwrap();
    count
}

#[test]
fn a_request_that_was_read_survives_though_its_sync_failed() {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    for seed in 0..200 {
        let seen = seen.clone();
        run(seed, move |kernel, disks| {
            let journal = started();
            assert!(journal.wait(journal.append(request(1)), None).unwrap());
            disks.set_faults(HOST, SYNC_FAILS);
            let error = journal.wait(journal.append(request(2)), None).unwrap_err();
            assert!(matches!(error, JournalError::Io { doing: "sync", .. }), "{error}");
            // Nothing more is written.
            disks.heal(HOST);
            assert!(journal.wait(journal.append(request(3)), None).is_err());
            kernel.crash(&node());
            if seed % 4 == 0 {
                disks.power_off(HOST);
            } else {
                disks.process_died(HOST);
            }
            // The page cache may have it; the node answers accordingly.
            let count = believed();
            disks.power_off(HOST);
            assert_eq!(believed(), count);
            seen.lock().unwrap().insert((seed % 4 == 0, count));
        });
    }
    assert_eq!(*seen.lock().unwrap(), BTreeSet::from([(false, 2), (true, 1), (true, 2)]));
}

#[test]
fn a_full_disk_says_so_and_loses_nothing_that_was_confirmed() {
    for seed in 0..100 {
        run(seed, |kernel, disks| {
            let journal = started();
            assert!(journal.wait(journal.append(request(1)), None).unwrap());
            disks.set_faults(HOST, DiskFaults { full: true, ..DiskFaults::default() });
            let error = journal.wait(journal.append(request(2)), None).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{FILE}: can't write it: ")), "{error}");
            kernel.crash(&node());
            disks.power_off(HOST);
            let (full, recovered) = open().unwrap();
            let requests = recovered.unwrap().requests.len();
            assert!((1..=2).contains(&requests));
            let begun = node().enter(|| begin(&full, 1, Viewstamp { vid: 1, seqno: 1 }, Vec::new()));
            let message = begun.unwrap_err().to_string();
            assert!(message.starts_with(&format!("{FILE}.new: can't write it: ")), "{message}");
            assert!(!node().enter(|| rt::fs::exists(Path::new(&format!("{FILE}.new")))).unwrap(), "it would take room");
            // The old generation is there still.
            disks.power_off(HOST);
            disks.heal(HOST);
            assert_eq!(believed(), requests);
        });
    }
}

#[test]
fn a_flipped_bit_is_an_error() {
    for seed in 0..500 {
        run(seed, |kernel, disks| {
            let journal = started();
            let last = (1..5).fold(Position(0), |_, seqno| journal.append(request(seqno)));
            assert!(journal.wait(last, None).unwrap());
            assert!(journal.stop(now() + Duration::from_secs(1)));
            kernel.crash(&node());
            disks.process_died(HOST);
            assert_eq!(disks.flip_bit(HOST).unwrap().0, Path::new(FILE));
            let error = open().map(|_| ()).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
        });
    }
}

#[test]
fn a_journal_that_is_set_aside_is_not_read_after_a_power_cut() {
    for seed in 0..50 {
        run(seed, |kernel, disks| {
            drop(started());
            kernel.crash(&node());
            disks.process_died(HOST);
            let said = open().unwrap().1;
            assert!(node().enter(|| yfs_rsm::journal::set_aside(Path::new(""), ME, said)).unwrap().is_some());
            disks.power_off(HOST);
            assert_eq!(open().unwrap().1, None);
        });
    }
}

/// What a journal says, but for how it is divided into base and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    mark: u32,
    last: Viewstamp,
    digest: u64,
}

impl Summary {
    fn execute(&mut self, vs: Viewstamp, procedure: u32, args: &[u8]) {
        self.last = vs;
        let number = u64::from(procedure) << 32 | args.len() as u64;
        self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7);
    }

    fn of(recovered: &Recovered) -> Summary {
        let Recovered { mark, base_last, state, requests, .. } = recovered;
        // States are longer than a digest, so that they can be torn.
        let digest = u64::from_be_bytes(*state.first_chunk().unwrap());
        let mut summary = Summary { mark: *mark, last: *base_last, digest };
        for Logged { vs, procedure, args, .. } in requests {
            summary.execute(*vs, *procedure, args);
        }
        summary
    }

    fn state(&self) -> Vec<u8> {
        self.digest.to_be_bytes().repeat(1 + self.digest as usize % 40)
    }

    fn base(&self) -> Item {
        Item::Base { mark: self.mark, last: self.last, state: self.state() }
    }

    /// Something that may come next.
    fn next(&mut self, kernel: &Kernel) -> Item {
        match kernel.below(16) {
            0 => self.base(),
            1 => {
                self.mark += kernel.below(2) as u32;
                Item::Mark { vid: self.mark }
            }
            other => {
                let Viewstamp { vid, seqno } = self.last;
                let vs =
                    if other == 2 { Viewstamp { vid: vid + 1, seqno: 1 } } else { Viewstamp { vid, seqno: seqno + 1 } };
                let (procedure, args) = (kernel.roll() as u32, vec![0; kernel.below(90) as usize]);
                self.execute(vs, procedure, &args);
                Item::Request { vs, procedure, args }
            }
        }
    }
}

/// What outlives the node.
struct Truth {
    /// What the journal would say after each append.
    history: Vec<Summary>,
    /// The last of them that is known to be on the disk.
    confirmed: usize,
    /// Where in the history this life's first append is.
    offset: usize,
    told: u64,
    appended: u64,
    /// Starts that found more than was confirmed, and that found less than was appended.
    found_more: u64,
    found_less: u64,
    failed: u64,
}

type Shared = Arc<Mutex<Truth>>;

fn look(truth: &Shared) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap()
}

impl Truth {
    fn new() -> Self {
        let empty = Summary { mark: 0, last: Viewstamp::default(), digest: 0 };
        Truth {
            history: vec![empty],
            confirmed: 0,
            offset: 0,
            told: 0,
            appended: 0,
            found_more: 0,
            found_less: 0,
            failed: 0,
        }
    }

    fn confirm(&mut self, position: Position) {
        self.confirmed = self.confirmed.max(self.offset + position.0 as usize - 1);
    }

    /// What was read at a start has to be there.
    fn find(&mut self, recovered: Option<&Recovered>) -> (usize, Summary) {
        let is = recovered.map_or_else(|| self.history[0].clone(), Summary::of);
        assert!(recovered.is_some() || self.confirmed == 0, "a confirmed base is gone");
        let at = self.history.iter().rposition(|summary| *summary == is);
        let at = at.unwrap_or_else(|| panic!("{is:?} never was"));
        assert!(at >= self.confirmed, "{is:?}: {at} of {}, {} were confirmed", self.history.len(), self.confirmed);
        self.found_more += u64::from(at > self.confirmed);
        self.found_less += u64::from(at + 1 < self.history.len());
        (at, is)
    }
}

/// What a node does from its start on, until it dies. Returns when the disk fails.
fn live(kernel: &Kernel, truth: &Shared, disk_works: bool) -> Result<(), JournalError> {
    let refused = |error: JournalError| {
        assert!(!disk_works && matches!(error, JournalError::Io { .. }), "{error}");
        look(truth).failed += 1;
        error
    };
    let (journal, recovered) = Journal::open(Path::new(""), ME, DISK).map_err(refused)?;
    let (at, is) = look(truth).find(recovered.as_ref());
    begin(&journal, is.mark, is.last, is.state()).map_err(refused)?;
    {
        let mut truth = look(truth);
        truth.history.truncate(at + 1);
        truth.history.push(is.clone());
        truth.offset = at + 1;
        truth.confirm(Position(1));
    }
    let told = truth.clone();
    let on_synced = move |position: Position| {
        let mut told = look(&told);
        assert!(told.offset + position.0 as usize > told.confirmed, "told of in order");
        told.told += 1;
        told.confirm(position);
    };
    let failed = truth.clone();
    let on_fatal = move |error: &JournalError| {
        assert!(!disk_works, "{error}");
        look(&failed).failed += 1;
    };
    journal.start(&Node::current(), on_synced, on_fatal).unwrap();
    let turn = Arc::new(rt::sync::Mutex::new(Rank::new(22, "test.turn"), is));
    for _ in 0..4 {
        let (journal, turn, truth, kernel) = (journal.clone(), turn.clone(), truth.clone(), kernel.clone());
        let work = move || {
            loop {
                let position = {
                    let mut state = turn.lock();
                    let item = state.next(&kernel);
                    let mut truth = look(&truth);
                    truth.history.push(state.clone());
                    truth.appended += 1;
                    drop(truth);
                    journal.append(item)
                };
                match journal.wait(position, None) {
                    Ok(in_time) => {
                        assert!(in_time && journal.durable() >= position);
                        look(&truth).confirm(position);
                    }
                    Err(JournalError::Stopped { .. }) => return,
                    Err(error) => return assert!(!disk_works, "{error}"),
                }
                sleep(kernel.between(Duration::ZERO, Duration::from_millis(1)));
            }
        };
        rt::thread::spawn("worker", work).unwrap();
    }
    if kernel.chance(256) {
        sleep(kernel.between(Duration::ZERO, Duration::from_millis(10)));
        assert!(journal.stop(now() + Duration::from_secs(1)));
    }
    Ok(())
}

#[test]
fn what_was_confirmed_is_there_after_any_power_cut_and_what_is_read_is_a_prefix() {
    let totals = Arc::new(Mutex::new([0; 5]));
    for seed in 0..150 {
        let totals = totals.clone();
        run(seed, move |kernel, disks| {
            let truth = Arc::new(Mutex::new(Truth::new()));
            for _ in 0..30 {
                let faults = match kernel.below(6) {
                    0 => DiskFaults { write_errors: 200, sync_errors: 200, ..DiskFaults::default() },
                    1 => DiskFaults { full: kernel.below(3) == 0, sync_errors: 60, ..DiskFaults::default() },
                    _ => DiskFaults::default(),
                };
                let disk_works = faults == DiskFaults::default();
                disks.set_faults(HOST, faults);
                let (inside, in_it) = (kernel.clone(), truth.clone());
                node().spawn("main", move || drop(live(&inside, &in_it, disk_works))).unwrap();
                // From the middle of the first generation to many batches later.
                let most = if kernel.below(2) == 0 { 6 } else { 40 };
                sleep(kernel.between(Duration::ZERO, Duration::from_millis(most)));
                kernel.crash(&node());
                if kernel.below(3) == 0 {
                    disks.process_died(HOST);
                } else {
                    disks.power_off(HOST);
                }
            }
            let truth = look(&truth);
            let counts = [truth.appended, truth.told, truth.found_more, truth.found_less, truth.failed];
            totals.lock().unwrap().iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        });
    }
    let [appended, told, found_more, found_less, failed] = *totals.lock().unwrap();
    let counts = format!("{appended} {told} {found_more} {found_less} {failed}");
    assert!(appended > 10_000 && told * 5 < appended * 4, "several appends a sync: {counts}");
    assert!(found_more > 500 && found_less > 500 && failed > 100, "{counts}");
}
