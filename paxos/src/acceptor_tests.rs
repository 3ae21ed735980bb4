use super::*;
use crate::record::tests::LAB_LOG;
use rt::sync::Rank;
use rt::thread::{JoinHandle, spawn};
use rt::time::{now, sleep};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

const TEST: Rank = Rank::new(1000, "test");
const PATIENCE: Duration = Duration::from_secs(20);

fn fatal_is_a_bug() -> OnFatal {
    Arc::new(|error| panic!("{error}"))
}

fn n(n: u32, node: &str) -> ProposalNumber {
    ProposalNumber { n, node: node.into() }
}

/// Hears of commits, slowly.
struct Listener {
    heard: Mutex<Vec<(Instance, String)>>,
    pause: Duration,
    /// Takes a lock of the lowest rank: an upcall under any lock would be found.
    low: Mutex<()>,
}

impl Listener {
    fn new(pause: Duration) -> Arc<Self> {
        Arc::new(Listener { heard: Mutex::new(TEST, Vec::new()), pause, low: Mutex::new(Rank::new(2, "test.low"), ()) })
    }
}

impl PaxosChange for Listener {
    fn paxos_commit(&self, instance: Instance, value: &Value) {
        let _low = self.low.lock();
        sleep(self.pause);
        self.heard.lock().push((instance, value.to_string()));
    }
}

#[test]
fn h28_upcalls_come_once_in_order_with_no_lock_held() {
    let dir = TempDir::new().unwrap();
    let acceptor = Acceptor::open(dir.path(), "a", fatal_is_a_bug()).unwrap();
    let listener = Listener::new(Duration::from_millis(2));
    let change: Weak<dyn PaxosChange> = Arc::downgrade(&listener) as Weak<dyn PaxosChange>;
    acceptor.set_change(change);
    assert!(acceptor.bootstrap().unwrap());
    assert!(!acceptor.bootstrap().unwrap(), "only once");
    // Eight threads commit the same instances as fast as they can.
    let threads: Vec<JoinHandle> = (0..8)
        .map(|_| {
            let acceptor = acceptor.clone();
            let commit = move || {
                for instance in 2..=20 {
                    acceptor.commit(instance, "a ");
                }
            };
            spawn("committer", commit).unwrap()
        })
        .collect();
    assert!(threads.iter().all(|thread| thread.join_until(now() + PATIENCE)));
    let deadline = now() + PATIENCE;
    while listener.heard.lock().len() < 20 && now() < deadline {
        sleep(Duration::from_millis(5));
    }
    let expected: Vec<(Instance, String)> = (1..=20).map(|i| (i, "a".to_string())).collect();
    assert_eq!(*listener.heard.lock(), expected);
}

#[test]
fn h05_votes_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    {
        let acceptor = Acceptor::open(dir.path(), "43000", fatal_is_a_bug()).unwrap();
        assert!(acceptor.is_new());
        assert_eq!(acceptor.restore(LAB_LOG, None), Ok(5));
        let arg = PrepareArg { instance: 6, n: n(4, "41000") };
        assert!(acceptor.preparereq("41000", &arg).1.accept);
        let arg = AcceptArg { instance: 6, n: n(4, "41000"), v: "41000 43000 ".into() };
        assert_eq!(acceptor.acceptreq("41000", &arg), (PaxosStatus::OK, true));
        assert!(acceptor.is_in_other_round(PATIENCE) && !acceptor.is_in_other_round(Duration::ZERO));
    }
    let acceptor = Acceptor::open(dir.path(), "43000", fatal_is_a_bug()).unwrap();
    assert_eq!((acceptor.instance(), acceptor.promised()), (5, Some(n(4, "41000"))));
    assert!(!acceptor.is_new());
    let (status, res) = acceptor.preparereq("42000", &PrepareArg { instance: 6, n: n(5, "42000") });
    assert_eq!((status, res.accept), (PaxosStatus::OK, true));
    assert_eq!((res.n_a, res.v_a.as_str()), (n(4, "41000"), "41000 43000 "));
    // What a joiner gets is the lab's text.
    let dump = acceptor.dump();
    assert!(!dump.contains("crc"), "{dump}");
    assert!(dump.starts_with("done 1 41000\ndone 2 41000 42000 \n"), "{dump}");
    assert!(
        dump.ends_with(
            "done 5 41000 42000 43000 \npropseen 4 41000\naccepted 4 41000 41000 43000 \npropseen 5 42000\n"
        )
    );
}

/// The number of a service is drawn by its first node, told with each old instance, kept, and never replaced. It isn't in
/// what a lab node may be given.
#[test]
fn s06_a_service_is_told_from_one_that_was_begun_again_with_the_same_names() {
    let dir = TempDir::new().unwrap();
    let ask = |acceptor: &Acceptor| acceptor.preparereq("b", &PrepareArg { instance: 1, n: n(0, "b") }).1;
    let services: Vec<PrepareRes> = ["first", "second"]
        .iter()
        .map(|disk| {
            let disk = dir.path().join(disk);
            rt::fs::create_dir_all(&disk).unwrap();
            Acceptor::open(&disk, "a", fatal_is_a_bug()).unwrap().bootstrap().unwrap();
            let again = Acceptor::open(&disk, "a", fatal_is_a_bug()).unwrap();
            assert_eq!(again.dump(), "done 1 a\n");
            let res = ask(&again);
            assert_eq!(again.is_of_this_service(&res), Some(true));
            res
        })
        .collect();
    let joiner = Acceptor::open(dir.path(), "b", fatal_is_a_bug()).unwrap();
    assert!(services.iter().all(|res| joiner.is_of_this_service(res).is_none()), "it is new");
    joiner.restore("done 1 a\ndone 2 a b \n", services[0].service()).unwrap();
    drop(joiner);
    let joiner = Acceptor::open(dir.path(), "b", fatal_is_a_bug()).unwrap();
    joiner.restore("done 1 a\ndone 2 a b \n", services[1].service()).unwrap();
    assert_eq!(
        services.iter().map(|res| joiner.is_of_this_service(res)).collect::<Vec<_>>(),
        [Some(true), Some(false)]
    );
    assert_eq!(ask(&joiner).service(), services[0].service());
    // A node of an older version, or of the lab, doesn't know it.
    assert_eq!(joiner.is_of_this_service(&PrepareRes { oldinstance: true, ..PrepareRes::default() }), None);
}

#[test]
fn h27_a_late_answer_to_a_join_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let acceptor = Acceptor::open(dir.path(), "43000", fatal_is_a_bug()).unwrap();
    acceptor.restore(LAB_LOG, None).unwrap();
    acceptor.preparereq("42000", &PrepareArg { instance: 6, n: n(4, "42000") });
    assert_eq!(acceptor.restore(LAB_LOG, None), Ok(5));
    assert_eq!(acceptor.promised(), Some(n(4, "42000")));
    assert!(acceptor.restore("done 6 someone else\n", None).is_err());
    assert_eq!(acceptor.instance(), 5);
}

#[test]
fn h05_a_node_that_cannot_write_tells_its_owner_and_votes_no_more() {
    let dir = TempDir::new().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let on_fatal: OnFatal = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let acceptor = Acceptor::open(dir.path(), "a", on_fatal).unwrap();
    acceptor.bootstrap().unwrap();
    acceptor.state.lock().log.break_it();
    let arg = PrepareArg { instance: 2, n: n(1, "a") };
    for _ in 0..3 {
        assert_eq!(acceptor.preparereq("a", &arg), (PaxosStatus::ERR, PrepareRes::default()));
    }
    assert_eq!(acceptor.acceptreq("a", &AcceptArg { instance: 2, n: n(1, "a"), v: "a ".into() }).0, PaxosStatus::ERR);
    assert!(!acceptor.commit(2, "a "));
    assert_eq!(acceptor.restore("done 1 a\ndone 2 a \n", None), Err(RestoreError::Log));
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

fn log_len(dir: &TempDir) -> u64 {
    rt::fs::read(&dir.path().join(log::file_name("a"))).unwrap().len() as u64
}

/// When the disk was last found to work.
fn proven(acceptor: &Acceptor) -> Option<Instant> {
    acceptor.writing.lock().proven
}

#[test]
fn a_disk_is_proven_by_four_writes_a_second_whoever_asks() {
    let dir = TempDir::new().unwrap();
    let acceptor = Acceptor::open(dir.path(), "a", fatal_is_a_bug()).unwrap();
    let disk = acceptor.disk();
    assert!(disk.is_some());
    let before = log_len(&dir);
    let (begun, mut asked, mut proofs) = (now(), 0, BTreeSet::new());
    while asked < 200 || begun.elapsed() < 4 * PROOF_LASTS {
        assert_eq!(acceptor.prove_disk(), disk);
        proofs.extend(proven(&acceptor));
        asked += 1;
        sleep(Duration::from_millis(1));
    }
    let most = begun.elapsed().as_millis() / PROOF_LASTS.as_millis() + 1;
    assert!(proofs.len() >= 2 && proofs.len() as u128 <= most, "{} proofs for {asked} askers", proofs.len());
    // None of them makes a file longer.
    assert_eq!(log_len(&dir), before);
    assert_eq!(rt::fs::read(&acceptor.state.lock().proof.path).unwrap(), b".");
}

#[test]
fn a_disk_that_cannot_be_proven_stops_the_node() {
    let dir = TempDir::new().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let on_fatal: OnFatal = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let acceptor = Acceptor::open(dir.path(), "a", on_fatal).unwrap();
    acceptor.state.lock().proof.file = File::append(Path::new("/dev/full")).unwrap();
    for _ in 0..3 {
        assert_eq!(acceptor.prove_disk(), None);
    }
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert!(acceptor.bootstrap().is_ok_and(|done| !done) || !acceptor.commit(2, "a "));
    assert_eq!(acceptor.stalled(), Duration::ZERO);
}

#[test]
fn another_write_proves_the_disk_too_but_not_one_that_failed_or_is_under_way() {
    let dir = TempDir::new().unwrap();
    let acceptor = Acceptor::open(dir.path(), "a", Arc::new(|_| {})).unwrap();
    acceptor.bootstrap().unwrap();
    let before = log_len(&dir);
    if proven(&acceptor).is_some_and(|at| at.elapsed() < PROOF_LASTS / 2) {
        let first = proven(&acceptor);
        assert_eq!(acceptor.prove_disk(), acceptor.disk());
        assert_eq!(proven(&acceptor), first);
    }
    // The disk is at work on something: the proof waits for its turn.
    let begun = now();
    acceptor.writing.lock().since = Some(begun);
    assert_eq!(acceptor.prove_disk(), acceptor.disk());
    assert!(proven(&acceptor) >= Some(begun));
    assert_eq!(log_len(&dir), before);
    // Somebody waits already.
    acceptor.writing.lock().proving = true;
    assert_eq!(acceptor.prove_disk(), None);
    acceptor.writing.lock().proving = false;
    acceptor.state.lock().log.break_it();
    assert!(!acceptor.commit(2, "a "));
    assert_eq!(acceptor.prove_disk(), None);
}
