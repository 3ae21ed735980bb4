//! The simulated disks: every fault does what it says, and what was synced survives.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rt::backend::File as _;
use rt::fs::{self, File};
use rt::thread::Node;
use rt::time::{self, Instant};
use sim::dice::Dice;
use sim::disk::{DiskFaults, Disks, OpenFile, Tearing, counters};
use sim::kernel::{Kernel, Report, Schedule};
use sim::world::World;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const ALWAYS: u64 = 1024;
const NEVER: Tearing = Tearing { zeros: 0, garbage: 0 };

/// Does something as a process on HOST, without a run around it: syncs take no time then.
fn on<T>(host: IpAddr, work: impl FnOnce() -> T) -> T {
    Node::new(&format!("{host}:4000")).enter(work)
}

fn disks(seed: u64) -> (Kernel, Disks) {
    let kernel = Kernel::new(seed, Schedule::default(), false);
    (kernel.clone(), Disks::new(&kernel))
}

/// A file with a durable name and these durable bytes.
fn synced(disks: &Disks, path: &str, bytes: &[u8]) -> OpenFile {
    on(HOST, || {
        let mut file = disks.open(Path::new(path), false).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_data().unwrap();
        disks.sync_dir(Path::new(path).parent().unwrap()).unwrap();
        file
    })
}

fn read(disks: &Disks, path: &str) -> Vec<u8> {
    on(HOST, || disks.read(Path::new(path)).unwrap())
}

#[test]
fn each_machine_has_a_disk_of_its_own() {
    let (_, disks) = disks(1);
    synced(&disks, "log", b"mine");
    assert!(!on(OTHER, || disks.exists(Path::new("log"))));
    assert!(!disks.exists(Path::new("log")), "the unnamed node's is 127.0.0.1");
    disks.open(Path::new("log"), true).unwrap();
    assert_eq!(disks.files(IpAddr::V4(Ipv4Addr::LOCALHOST)), [(PathBuf::from("log"), vec![])]);
    disks.power_off(OTHER);
    disks.wipe(OTHER);
    assert_eq!(disks.files(HOST), [(PathBuf::from("log"), b"mine".to_vec())]);
    disks.clear();
    assert!(disks.files(HOST).is_empty());
}

#[test]
fn paths_are_compared_without_dots() {
    let (_, disks) = disks(1);
    synced(&disks, "./log", b"x");
    assert_eq!(read(&disks, "log"), b"x");
    on(HOST, || {
        disks.create_dir_all(Path::new("/a/./b")).unwrap();
        disks.open(Path::new("/a/b/file"), true).unwrap();
        assert_eq!(disks.list(Path::new("/a/b/.")).unwrap(), ["file"]);
        assert_eq!(disks.open(Path::new("log/file"), true).err().unwrap().kind(), ErrorKind::NotADirectory);
        assert_eq!(disks.create_dir_all(Path::new("log/b")).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(disks.open(Path::new("/a"), false).err().unwrap().kind(), ErrorKind::IsADirectory);
        assert_eq!(disks.sync_dir(Path::new("nowhere")).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_processs_death_frees_locks_and_keeps_the_cache() {
    let (_, disks) = disks(1);
    let mut file = synced(&disks, "log", b"synced ");
    file.write_all(b"written").unwrap();
    let second = on(HOST, || disks.open(Path::new("log"), false).unwrap());
    assert!(file.try_lock().unwrap() && file.try_lock().unwrap());
    assert!(!second.try_lock().unwrap());
    disks.process_died(HOST);
    assert!(file.write_all(b"by a ghost").is_err() && file.sync_data().is_err());
    assert_eq!(read(&disks, "log"), b"synced written");
    let third = on(HOST, || disks.open(Path::new("log"), false).unwrap());
    assert!(third.try_lock().unwrap());
    drop((file, second));
    let fourth = on(HOST, || disks.open(Path::new("log"), false).unwrap());
    assert!(!fourth.try_lock().unwrap(), "a ghost's destructor frees nobody else's lock");
    drop(on(HOST, || disks.open(Path::new("log"), false).unwrap()));
    assert!(!fourth.try_lock().unwrap(), "nor does that of a file without the lock");
    drop(third);
    assert!(fourth.try_lock().unwrap());
}

#[test]
fn power_cuts_leave_prefixes_and_all_of_them() {
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        let (kernel, disks) = disks(seed);
        disks.set_tearing(NEVER);
        let mut file = synced(&disks, "log", b"ab");
        file.write_all(b"cd").unwrap();
        file.set_len(3).unwrap();
        file.write_all(b"ef").unwrap();
        disks.power_off(HOST);
        let left = read(&disks, "log");
        let lost = kernel.report().counts.contains_key("fault: unsynced bytes lost");
        assert_eq!(lost, left != b"abcef");
        seen.insert(String::from_utf8(left).unwrap());
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["ab", "abc", "abcd", "abce", "abcef"]);
}

#[test]
fn torn_writes_spoil_only_the_last_write() {
    let (mut zeros, mut garbage) = (0, 0);
    for seed in 0..400 {
        let (kernel, disks) = disks(seed);
        disks.set_tearing(if seed % 2 == 0 {
            Tearing { zeros: ALWAYS, garbage: 0 }
        } else {
            Tearing { zeros: 0, garbage: ALWAYS }
        });
        let mut file = synced(&disks, "log", b"synced");
        file.write_all(b"first").unwrap();
        file.write_all(b"second").unwrap();
        disks.power_off(HOST);
        let left = read(&disks, "log");
        let torn = kernel.report().counts.contains_key("fault: torn write");
        assert_eq!(torn, left != b"synced");
        if !torn {
            continue;
        }
        let (whole, last): (&[u8], &[u8]) =
            if left.len() == 11 { (b"synced", b"first") } else { (b"syncedfirst", b"second") };
        let tail = left.strip_prefix(whole).unwrap();
        assert_eq!(tail.len(), last.len());
        let good = tail.iter().zip(last).take_while(|(a, b)| a == b).count();
        assert!(good < last.len() || seed % 2 == 1);
        if seed % 2 == 0 {
            assert!(tail[good..].iter().all(|byte| *byte == 0));
            zeros += 1;
        } else {
            garbage += 1;
        }
    }
    assert!(zeros > 50 && garbage > 50);
}

#[test]
fn names_are_lost_unless_the_folder_was_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        let (_, disks) = disks(seed);
        synced(&disks, "log", b"old");
        on(HOST, || {
            let mut new = disks.open(Path::new("log.new"), true).unwrap();
            new.write_all(b"new").unwrap();
            new.sync_data().unwrap();
            disks.rename(Path::new("log.new"), Path::new("log")).unwrap();
            if seed % 4 == 0 {
                disks.sync_dir(Path::new(".")).unwrap();
            }
        });
        disks.power_off(HOST);
        let files = disks.files(HOST);
        let text = files.iter().map(|(path, bytes)| format!("{}={} ", path.display(), String::from_utf8_lossy(bytes)));
        let text: String = text.collect();
        assert!(seed % 4 > 0 || text == "log=new ");
        seen.insert(text);
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["log=new ", "log=old ", "log=old log.new=new "]);
}

#[test]
fn failed_writes_leave_a_prefix() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let (kernel, disks) = disks(seed);
        let mut file = synced(&disks, "log", b"ab");
        let full = seed % 2 == 0;
        disks.set_faults(
            HOST,
            DiskFaults { write_errors: if full { 0 } else { ALWAYS }, full, ..DiskFaults::default() },
        );
        let error = file.write_all(b"cde").unwrap_err().kind();
        assert_eq!(error, if full { ErrorKind::StorageFull } else { ErrorKind::Other });
        assert_eq!(file.set_len(1).is_err(), !full, "there is always room for less");
        disks.heal(HOST);
        file.write_all(b"!").unwrap();
        let counts = kernel.report().counts;
        assert_eq!(counts.get("fault: disk full").copied().unwrap_or(0), u64::from(full));
        assert_eq!(counts.get("fault: write error").copied().unwrap_or(0), if full { 0 } else { 2 });
        if !full {
            seen.insert(String::from_utf8(read(&disks, "log")).unwrap());
        }
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["ab!", "abc!", "abcd!", "abcde!"]);
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let (kernel, disks) = disks(seed);
        disks.set_tearing(NEVER);
        let mut file = synced(&disks, "log", b"ab");
        file.write_all(b"cd").unwrap();
        disks.set_faults(HOST, DiskFaults { sync_errors: ALWAYS, ..DiskFaults::default() });
        file.sync_data().unwrap_err();
        disks.heal(HOST);
        assert_eq!(kernel.report().counts["fault: sync error"], 1);
        file.sync_data().unwrap();
        if seed % 2 == 0 {
            file.write_all(b"ef").unwrap();
            file.sync_data().unwrap();
        }
        disks.process_died(HOST);
        assert!(read(&disks, "log").starts_with(b"abcd"), "the cache hides it");
        disks.power_off(HOST);
        seen.insert(String::from_utf8(read(&disks, "log")).unwrap());
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["ab", "ab\0\0ef", "abcd", "abcdef"]);
}

#[test]
fn a_failed_folder_sync_may_be_repeated() {
    let mut kept = BTreeSet::new();
    for seed in 0..100 {
        let (_, disks) = disks(seed);
        disks.set_faults(HOST, DiskFaults { sync_errors: ALWAYS, ..DiskFaults::default() });
        on(HOST, || {
            disks.open(Path::new("log"), true).unwrap();
            disks.sync_dir(Path::new("")).unwrap_err();
            disks.heal(HOST);
            if seed % 2 == 0 {
                disks.sync_dir(Path::new("")).unwrap();
            }
        });
        disks.power_off(HOST);
        kept.insert((seed % 2 == 0, disks.files(HOST).len()));
    }
    assert_eq!(kept, BTreeSet::from([(true, 1), (false, 0), (false, 1)]));
}

#[test]
fn flipped_bits_are_single_and_durable() {
    let (kernel, disks) = disks(7);
    assert_eq!(disks.flip_bit(HOST), None);
    on(HOST, || disks.open(Path::new("unsynced"), true).unwrap().write_all(b"xyz").unwrap());
    assert_eq!(disks.flip_bit(HOST), None, "nothing is durable");
    on(HOST, || disks.remove(Path::new("unsynced")).unwrap());
    synced(&disks, "log", &[0; 40]);
    let mut bytes = BTreeSet::new();
    for _ in 0..200 {
        let before = read(&disks, "log");
        let (path, at) = disks.flip_bit(HOST).unwrap();
        assert_eq!(path, Path::new("log"));
        let after = read(&disks, "log");
        let differ: Vec<_> = (0..40).filter(|i| before[*i] != after[*i]).collect();
        assert_eq!(differ, [at]);
        assert_eq!((before[at] ^ after[at]).count_ones(), 1);
        bytes.insert(at);
        disks.power_off(HOST);
        assert_eq!(read(&disks, "log"), after);
    }
    assert!(bytes.len() > 30);
    assert_eq!(kernel.report().counts["fault: bit flipped"], 200);
}

#[test]
fn a_wiped_disk_is_empty() {
    let (kernel, disks) = disks(1);
    on(HOST, || disks.create_dir_all(Path::new("a")).unwrap());
    let mut file = synced(&disks, "a/log", b"x");
    disks.wipe(HOST);
    assert!(disks.files(HOST).is_empty());
    assert!(file.write_all(b"x").is_err());
    assert!(!on(HOST, || disks.exists(Path::new("a"))));
    assert_eq!(kernel.report().counts["fault: disk lost"], 1);
}

/// What a file was made of since all of it was last known to be durable.
#[derive(Default)]
struct Naive {
    base: Vec<u8>,
    steps: Vec<Step>,
    /// So many steps were synced.
    synced: usize,
}

enum Step {
    Append(Vec<u8>),
    Cut(usize),
}

impl Naive {
    fn after(&self, steps: usize) -> Vec<u8> {
        let mut bytes = self.base.clone();
        for step in &self.steps[..steps] {
            match step {
                Step::Append(more) => bytes.extend(more),
                Step::Cut(length) => bytes.resize(*length, 0),
            }
        }
        bytes
    }

    fn now(&self) -> Vec<u8> {
        self.after(self.steps.len())
    }

    /// Whether a power cut may leave this.
    fn may_become(&self, left: &[u8]) -> bool {
        (self.synced..=self.steps.len()).any(|steps| {
            let before = self.after(steps);
            before == left
                || match self.steps.get(steps) {
                    Some(Step::Append(more)) => left.strip_prefix(&*before).is_some_and(|tail| {
                        // Whole but torn, or a part.
                        tail.len() == more.len() || more.starts_with(tail)
                    }),
                    _ => false,
                }
        })
    }
}

/// The names in the two folders since all were known to be durable.
#[derive(Default)]
struct NaiveNames {
    base: BTreeMap<PathBuf, u64>,
    steps: Vec<Vec<(PathBuf, Option<u64>)>>,
    /// So many of the steps of each folder were synced.
    synced: [usize; 2],
}

const FOLDERS: [&str; 2] = ["a", "b"];

impl NaiveNames {
    fn touches(step: &[(PathBuf, Option<u64>)], folder: usize) -> bool {
        step.iter().any(|(path, _)| path.starts_with(FOLDERS[folder]))
    }

    fn count(&self, folder: usize) -> usize {
        self.steps.iter().filter(|step| Self::touches(step, folder)).count()
    }

    /// The names after so many steps of each folder; none if a rename from one to the other would be half done.
    fn after(&self, counts: [usize; 2]) -> Option<BTreeMap<PathBuf, u64>> {
        let mut names = self.base.clone();
        let mut done = [0; 2];
        for step in &self.steps {
            let touched: Vec<usize> = (0..2).filter(|folder| Self::touches(step, *folder)).collect();
            let applied: BTreeSet<bool> = touched.iter().map(|folder| done[*folder] < counts[*folder]).collect();
            touched.iter().for_each(|folder| done[*folder] += 1);
            if applied.len() > 1 {
                return None;
            }
            if applied.contains(&true) {
                for (path, file) in step {
                    match file {
                        Some(file) => names.insert(path.clone(), *file),
                        None => names.remove(path),
                    };
                }
            }
        }
        Some(names)
    }

    fn now(&self) -> BTreeMap<PathBuf, u64> {
        self.after([self.count(0), self.count(1)]).unwrap()
    }

    fn may_become(&self, left: &BTreeMap<PathBuf, u64>) -> bool {
        (self.synced[0]..=self.count(0))
            .any(|a| (self.synced[1]..=self.count(1)).any(|b| self.after([a, b]).as_ref() == Some(left)))
    }
}

/// The bytes at the beginning of each file that tell which it is; they are always synced.
const ID_BYTES: usize = 8;

fn id_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..ID_BYTES].try_into().unwrap())
}

/// One random history against the naive model. Tells how often a power cut lost bytes, and names.
fn compare(seed: u64) -> (u64, u64) {
    let (_, disks) = disks(seed);
    let mut dice = Dice::new(seed ^ 0xfeed);
    let mut files: BTreeMap<u64, Naive> = BTreeMap::new();
    let mut names = NaiveNames::default();
    let (mut bytes_lost, mut names_lost) = (0, 0);
    let folders = || FOLDERS.iter().for_each(|folder| disks.create_dir_all(Path::new(folder)).unwrap());
    folders();
    disks.set_faults(HOST, DiskFaults { write_errors: 64, ..DiskFaults::default() });
    on(HOST, folders);
    for round in 0..60 {
        let path = PathBuf::from(format!("{}/{}", FOLDERS[dice.below(2) as usize], dice.below(3)));
        let there = names.now();
        let file = there.get(&path).copied();
        match (dice.below(12), file) {
            (0..2, None) => on(HOST, || {
                let mut made = disks.open(&path, true).unwrap();
                while made.write_all(&u64::to_le_bytes(round)).is_err() {
                    while made.set_len(0).is_err() {}
                }
                made.sync_data().unwrap();
                files.insert(round, Naive { base: u64::to_le_bytes(round).to_vec(), ..Naive::default() });
                names.steps.push(vec![(path, Some(round))]);
            }),
            (0..4, Some(file)) => on(HOST, || {
                let naive = files.get_mut(&file).unwrap();
                let more: Vec<u8> = (0..1 + dice.below(6)).map(|_| dice.roll() as u8).collect();
                let result = disks.open(&path, false).unwrap().write_all(&more);
                let now = disks.read(&path).unwrap();
                let there = now.strip_prefix(&*naive.now()).unwrap();
                assert!(more.starts_with(there) && (result.is_err() || there.len() == more.len()));
                if !there.is_empty() {
                    naive.steps.push(Step::Append(there.to_vec()));
                }
            }),
            (4, Some(file)) => on(HOST, || {
                let naive = files.get_mut(&file).unwrap();
                let length = ID_BYTES + dice.below(12) as usize;
                if disks.open(&path, false).unwrap().set_len(length as u64).is_ok() {
                    naive.steps.push(Step::Cut(length));
                }
            }),
            (5, Some(file)) => on(HOST, || {
                disks.open(&path, false).unwrap().sync_data().unwrap();
                let naive = files.get_mut(&file).unwrap();
                naive.synced = naive.steps.len();
            }),
            (6..8, Some(file)) => on(HOST, || {
                let to = PathBuf::from(format!("{}/{}", FOLDERS[dice.below(2) as usize], dice.below(3)));
                disks.rename(&path, &to).unwrap();
                if to != path {
                    names.steps.push(vec![(path, None), (to, Some(file))]);
                }
            }),
            (8, Some(_)) => on(HOST, || {
                disks.remove(&path).unwrap();
                names.steps.push(vec![(path, None)]);
            }),
            (9, _) => on(HOST, || {
                let folder = dice.below(2) as usize;
                disks.sync_dir(Path::new(FOLDERS[folder])).unwrap();
                names.synced[folder] = names.count(folder);
            }),
            (10, _) => disks.process_died(HOST),
            (11, _) => {
                disks.power_off(HOST);
                let left: BTreeMap<PathBuf, u64> =
                    disks.files(HOST).into_iter().map(|(path, bytes)| (path, id_of(&bytes))).collect();
                assert!(names.may_become(&left), "seed {seed}: {left:?}");
                names_lost += u64::from(left != names.now());
                for (path, bytes) in disks.files(HOST) {
                    let naive = files.get_mut(&left[&path]).unwrap();
                    assert!(naive.may_become(&bytes), "seed {seed}: {}", path.display());
                    bytes_lost += u64::from(bytes != naive.now());
                    *naive = Naive { base: bytes, ..Naive::default() };
                }
                names = NaiveNames { base: left, ..NaiveNames::default() };
            }
            _ => {}
        }
        let is: BTreeMap<PathBuf, Vec<u8>> = disks.files(HOST).into_iter().collect();
        let should: BTreeMap<PathBuf, Vec<u8>> =
            names.now().into_iter().map(|(path, file)| (path, files[&file].now())).collect();
        assert_eq!(is, should, "seed {seed}");
    }
    (bytes_lost, names_lost)
}

#[test]
fn what_was_synced_survives() {
    let (mut bytes, mut names) = (0, 0);
    for seed in 0..2000 {
        let lost = compare(seed);
        bytes += lost.0;
        names += lost.1;
    }
    assert!(bytes > 500 && names > 500, "{bytes} {names}");
}

/// Two processes on two machines, whose disks do all that disks do; ended and started again.
fn run(seed: u64, traced: bool) -> Report {
    let kernel = Kernel::new(seed, Schedule { spurious: 128, ..Schedule::default() }, traced);
    let world = World::new(kernel.clone());
    let faults =
        DiskFaults { write_errors: 50, sync_errors: 50, full: false, slow: seed < 20, ..DiskFaults::default() };
    for (host, at) in [(HOST, 40), (OTHER, 50)] {
        let (kernel, disks) = (kernel.clone(), world.disks.clone());
        disks.set_faults(host, DiskFaults { full: host == OTHER, ..faults.clone() });
        let node = Node::new(&format!("{host}:4000"));
        kernel.clone().after(Duration::from_millis(at), move || {
            kernel.crash(&node);
            disks.power_off(host);
            disks.flip_bit(host);
            if host == OTHER {
                disks.wipe(host);
            }
            kernel.spawn(&node.clone(), "main", Box::new(move || node.enter(|| work(10))));
        });
    }
    let disks = world.disks.clone();
    kernel
        .after(Duration::from_millis(10), move || disks.set_faults(HOST, DiskFaults { hung: true, ..faults.clone() }));
    let disks = world.disks.clone();
    kernel.after(Duration::from_millis(30), move || disks.heal(HOST));
    let node = Node::new(&format!("{OTHER}:4000"));
    world.run(&Node::new(&format!("{HOST}:4000")), Instant::from_start(Duration::from_secs(60)), move || {
        node.spawn("main", || work(1000)).unwrap();
        kernel.clone().after(Duration::from_secs(1), move || kernel.end());
        work(1000);
    })
}

fn work(rounds: u64) {
    let path = Path::new("log");
    let mut file = File::append(path).unwrap();
    assert!(file.try_lock().unwrap(), "the last process's lock is free");
    let _ = fs::sync_dir(Path::new(""));
    for round in 0..rounds {
        let _ = file.write_all(format!("round {round}\n").as_bytes());
        let _ = file.sync_data();
    }
}

#[test]
fn a_seed_gives_one_run_and_every_fault_is_counted() {
    let mut counted = BTreeSet::new();
    let mut hashes = BTreeSet::new();
    for seed in 0..100 {
        let report = run(seed, false);
        assert_eq!(report.finding, None);
        let again = run(seed, true);
        assert_eq!((report.hash, report.turns, &report.counts), (again.hash, again.turns, &again.counts));
        assert!(again.trace.iter().any(|line| line.contains("sync")));
        counted.extend(report.counts.keys().copied());
        hashes.insert(report.hash);
    }
    assert_eq!(hashes.len(), 100);
    let missing: Vec<_> = counters().into_iter().filter(|counter| !counted.contains(counter)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_sync_on_a_hung_disk_ends_when_the_disk_is_healed() {
    let kernel = Kernel::new(1, Schedule::default(), false);
    let world = World::new(kernel.clone());
    let disks = world.disks.clone();
    disks.set_faults(HOST, DiskFaults { hung: true, ..DiskFaults::default() });
    kernel.after(Duration::from_secs(3), move || disks.heal(HOST));
    let report =
        world.run(&Node::new(&format!("{HOST}:4000")), Instant::from_start(Duration::from_secs(60)), move || {
            let mut file = File::append(Path::new("log")).unwrap();
            file.write_all(b"bytes").unwrap();
            file.sync_data().unwrap();
            let after = kernel.now().since_start();
            assert!((3.0..3.1).contains(&after.as_secs_f64()), "{after:?}");
            kernel.end();
        });
    assert_eq!(report.finding, None);
    assert_eq!(report.counts.get("fault: hung disk"), Some(&1));
}

#[test]
fn a_sync_takes_time_and_takes_effect_at_its_end() {
    let mut lost = 0;
    for seed in 0..50 {
        let kernel = Kernel::new(seed, Schedule::default(), false);
        let world = World::new(kernel.clone());
        let disks = world.disks.clone();
        disks.set_tearing(NEVER);
        let node = Node::new(&format!("{HOST}:4000"));
        let report = world.run(&node.clone(), Instant::from_start(Duration::from_secs(60)), {
            let disks = disks.clone();
            move || {
                kernel.add_node(&node, 200);
                let mut file = File::create_new(Path::new("log")).unwrap();
                let before = time::now();
                fs::sync_dir(Path::new("")).unwrap();
                assert!(before.elapsed() >= Duration::from_micros(50));
                file.write_all(b"abc").unwrap();
                kernel.clone().after(Duration::from_micros(40), move || {
                    disks.power_off(HOST);
                    kernel.end();
                });
                let _ = file.sync_data();
                unreachable!("the machine has no power");
            }
        });
        assert_eq!(report.finding, None);
        lost += u64::from(disks.files(HOST)[0].1 != b"abc");
    }
    assert!(lost > 10);
}

#[test]
fn what_is_written_during_a_sync_is_not_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let kernel = Kernel::new(seed, Schedule::default(), false);
        let world = World::new(kernel.clone());
        let disks = world.disks.clone();
        disks.set_tearing(NEVER);
        let node = Node::new(&format!("{HOST}:4000"));
        let report = world.run(&node.clone(), Instant::from_start(Duration::from_secs(60)), move || {
            let mut file = File::create_new(Path::new("log")).unwrap();
            fs::sync_dir(Path::new("")).unwrap();
            file.write_all(b"before ").unwrap();
            node.spawn("writer", || File::append(Path::new("log")).unwrap().write_all(b"during").unwrap()).unwrap();
            file.sync_data().unwrap();
            assert_eq!(fs::read(Path::new("log")).unwrap(), b"before during");
            kernel.end();
        });
        assert_eq!(report.finding, None);
        disks.power_off(HOST);
        seen.insert(String::from_utf8(disks.files(HOST)[0].1.clone()).unwrap());
    }
    assert!(seen.contains("before ") && seen.contains("before during"));
    assert!(seen.iter().all(|left| left.starts_with("before ")));
}
