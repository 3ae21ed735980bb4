use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rt::fs::{self, File};
use tempfile::TempDir;

use super::aside::MAX_ASIDE;
use super::format::Writer;
use super::*;

#[path = "journal/format_tests.rs"]
mod format_tests;

const ME: &str = "41000";
const DISK: DiskId = DiskId(0x0123_4567_89ab_cdef);

fn owner() -> Owner {
    Owner { name: ME.to_owned(), disk: DISK }
}

fn vs(vid: u32, seqno: u32) -> Viewstamp {
    Viewstamp { vid, seqno }
}

fn base(state: &[u8]) -> Item {
    Item::Base { mark: 2, last: vs(2, 7), state: state.to_vec() }
}

fn request(vid: u32, seqno: u32, args: &[u8]) -> Item {
    Item::Request { vs: vs(vid, seqno), procedure: 0x7001, args: args.to_vec() }
}

/// A small history; a state, arguments and marks with zeros at their ends.
fn history() -> Vec<Item> {
    vec![
        base(b"locks\0\0"),
        request(2, 8, b"acquire a"),
        request(2, 9, b""),
        Item::Mark { vid: 3 },
        request(3, 1, &[0, 0, 0]),
        Item::Mark { vid: 0x100 },
        request(0x100, 1, b"release a"),
        Item::StartOver { vid: 0x102 },
    ]
}

/// The file that these items leave, and where each ends in it.
fn file_of(items: &[Item]) -> (Vec<u8>, Vec<usize>) {
    let Some((Item::Base { mark, last, state }, rest)) = items.split_first() else { panic!("no base") };
    let (mut writer, mut file) = Writer::begin(&owner(), *mark, *last, state).unwrap();
    file.extend_from_slice(state);
    file.extend_from_slice(&format::end_of_base());
    let mut ends = vec![file.len()];
    for item in rest {
        writer.frame(&mut file, item).unwrap();
        ends.push(file.len());
    }
    (file, ends)
}

/// What is to be read of them.
fn recovered(items: &[Item]) -> Recovered {
    let Some((Item::Base { mark, last, state }, rest)) = items.split_first() else { panic!("no base") };
    let mut all = Recovered {
        owner: owner(),
        mark: *mark,
        base_last: *last,
        state: state.clone(),
        requests: Vec::new(),
        start_over: None,
    };
    for (item, offset) in rest.iter().zip(file_of(items).1) {
        match item {
            Item::Base { .. } => panic!("a second base"),
            Item::Request { vs, procedure, args } => {
                all.requests.push(Logged { offset, vs: *vs, procedure: *procedure, args: args.clone() });
            }
            Item::Mark { vid } => all.mark = *vid,
            Item::StartOver { vid } => all.start_over = Some(*vid),
        }
    }
    all
}

fn path_in(dir: &TempDir) -> PathBuf {
    dir.path().join(file_name(ME))
}

fn put(path: &Path, bytes: &[u8]) {
    if fs::exists(path).unwrap() {
        fs::remove_file(path).unwrap();
    }
    File::create_new(path).unwrap().write_all(bytes).unwrap();
}

fn open(dir: &TempDir) -> Result<(Journal, Option<Recovered>), JournalError> {
    Journal::open(dir.path(), ME, DISK)
}

fn soon() -> Instant {
    now() + Duration::from_secs(10)
}

/// Begins a generation with this state.
fn begin(journal: &Journal, mark: u32, last: Viewstamp, state: Vec<u8>) -> Result<(), JournalError> {
    journal.append(Item::Base { mark, last, state });
    journal.write_queued()
}

/// Starts the thread; nothing is to fail.
fn start(journal: &Journal) {
    journal.start(&Node::new(ME), |_| {}, |error| panic!("{error}")).unwrap();
}

/// Writes these items, and stops.
fn write_all(dir: &TempDir, items: &[Item]) {
    let (journal, _) = open(dir).unwrap();
    start(&journal);
    let last = items.iter().fold(Position(0), |_, item| journal.append(item.clone()));
    assert!(journal.wait(last, Some(soon())).unwrap());
    assert!(journal.stop(soon()));
}

#[test]
fn a_node_without_a_journal_has_no_state() {
    let dir = TempDir::new().unwrap();
    assert_eq!(open(&dir).unwrap().1, None);
    assert!(fs::list(dir.path()).unwrap().is_empty(), "and has none before it has a state");
}

#[test]
fn a_torn_end_on_the_disk_is_dropped_and_a_new_generation_has_the_rest() {
    let dir = TempDir::new().unwrap();
    let (file, ends) = file_of(&history());
    put(&path_in(&dir), &file[..ends[3] + 20]);
    let (journal, read) = open(&dir).unwrap();
    assert_eq!(read, Some(recovered(&history()[..4])));
    assert_eq!(fs::read(&path_in(&dir)).unwrap().len(), ends[3] + 20, "nothing is done to what was read");
    begin(&journal, 3, vs(2, 9), b"new".to_vec()).unwrap();
    let begun = [Item::Base { mark: 3, last: vs(2, 9), state: b"new".to_vec() }];
    assert_eq!(fs::read(&path_in(&dir)).unwrap(), file_of(&begun).0);
}

#[test]
#[should_panic(expected = "request (2,9) comes after (2,7)")]
fn what_is_out_of_order_is_not_appended() {
    let journal = Journal::memory();
    journal.append(base(b""));
    journal.append(request(2, 9, b""));
}

#[test]
#[should_panic(expected = "nothing comes before the first base")]
fn nothing_is_appended_to_what_was_read() {
    let dir = TempDir::new().unwrap();
    write_all(&dir, &history());
    open(&dir).unwrap().0.append(request(0x100, 2, b""));
}

#[test]
fn damage_is_said_with_file_and_byte() {
    let dir = TempDir::new().unwrap();
    let (mut file, ends) = file_of(&history());
    file[ends[0] + 15] ^= 1;
    put(&path_in(&dir), &file);
    let message = open(&dir).unwrap_err().to_string();
    let end = format!("rsm-41000.log: damaged at byte {}: the checksum doesn't fit", ends[0]);
    assert!(message.ends_with(&end), "{message}");
}

/// The turn in which requests get their numbers, as under `rsm.state`.
const TURN: Rank = Rank::new(22, "test.turn");
const TOLD: Rank = Rank::new(201, "test.told");

#[test]
fn what_is_queued_together_is_synced_together_and_told_in_order() {
    const THREADS: u64 = 8;
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(&dir).unwrap();
    begin(&journal, 2, vs(2, 0), b"".to_vec()).unwrap();
    assert_eq!(journal.durable(), Position(1));
    let told = Arc::new(Mutex::new(TOLD, Vec::new()));
    let (all, in_queue) = (told.clone(), journal.clone());
    let on_synced = move |position| {
        all.lock().push(position);
        // A slow disk: all the others come meanwhile.
        while in_queue.0.state.lock().appended < Position(1 + THREADS) {
            rt::time::sleep(Duration::from_millis(1));
        }
    };
    journal.start(&Node::new(ME), on_synced, |error| panic!("{error}")).unwrap();
    let next = Arc::new(Mutex::new(TURN, 0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (journal, next) = (journal.clone(), next.clone());
            let work = move || {
                let position = {
                    let mut next = next.lock();
                    *next += 1;
                    journal.append(request(2, *next, b"x"))
                };
                assert!(journal.wait(position, None).unwrap());
                assert!(journal.durable() >= position);
            };
            rt::thread::spawn("test", work).unwrap()
        })
        .collect();
    assert!(threads.iter().all(|thread| thread.join_until(soon())));
    assert!(journal.stop(soon()));
    let told = told.lock().clone();
    assert!(told.is_sorted() && told.last() == Some(&Position(1 + THREADS)), "{told:?}");
    assert!(told.len() <= 3, "one is for the first to come, at least; the rest came in one: {told:?}");
    assert_eq!(open(&dir).unwrap().1.unwrap().requests.len(), THREADS as usize);
}

#[test]
fn a_base_replaces_the_file_and_what_was_queued_before_it() {
    let dir = TempDir::new().unwrap();
    write_all(&dir, &history());
    let (journal, _) = open(&dir).unwrap();
    let later = [Item::Base { mark: 9, last: vs(8, 2), state: b"later".to_vec() }, request(9, 1, b"more")];
    // All in one batch: the thread isn't there yet.
    history().into_iter().chain(later.clone()).for_each(|item| {
        journal.append(item);
    });
    assert!(journal.queued_bytes() > 0);
    start(&journal);
    assert!(journal.wait(Position(10), Some(soon())).unwrap());
    assert_eq!(journal.queued_bytes(), 0);
    assert_eq!(fs::read(&path_in(&dir)).unwrap(), file_of(&later).0);
    // And once more, with a thread that has another file open.
    journal.append(request(9, 2, b""));
    let last = journal.append(Item::Mark { vid: 10 });
    assert!(journal.wait(last, Some(soon())).unwrap());
    journal.append(base(b"third"));
    let last = journal.append(request(2, 8, b"y"));
    assert!(journal.wait(last, Some(soon())).unwrap());
    assert!(journal.stop(soon()));
    assert_eq!(fs::read(&path_in(&dir)).unwrap(), file_of(&[base(b"third"), request(2, 8, b"y")]).0);
    assert_eq!(fs::list(dir.path()).unwrap(), ["rsm-41000.log"]);
}

#[test]
fn a_crash_at_any_step_of_a_new_generation_leaves_the_old_one_or_the_new_one() {
    let (old, _) = file_of(&history());
    let new_items = [base(b"new")];
    let (new, _) = file_of(&new_items);
    for cut in 0..=new.len() {
        let dir = TempDir::new().unwrap();
        let leftover = dir.path().join("rsm-41000.log.new");
        put(&path_in(&dir), &old);
        put(&leftover, &new[..cut]);
        assert_eq!(open(&dir).unwrap().1, Some(recovered(&history())), "{cut} bytes of .new written");
        assert!(!fs::exists(&leftover).unwrap());
        fs::remove_file(&path_in(&dir)).unwrap();
        put(&leftover, &new[..cut]);
        assert_eq!(open(&dir).unwrap().1, None, "the very first one");
    }
    let dir = TempDir::new().unwrap();
    put(&path_in(&dir), &new);
    assert_eq!(open(&dir).unwrap().1, Some(recovered(&new_items)), "renamed");
}

#[test]
fn an_error_of_the_disk_is_told_to_all_and_for_ever() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(&dir).unwrap();
    begin(&journal, 2, vs(2, 7), b"old".to_vec()).unwrap();
    let new = dir.path().join("rsm-41000.log.new");
    fs::create_dir_all(&new).unwrap();
    let fatal = Arc::new(AtomicUsize::new(0));
    let (count, of) = (fatal.clone(), journal.clone());
    let on_fatal = move |error: &JournalError| {
        assert!(matches!(error, JournalError::Io { doing: "remove", .. }), "{error}");
        // No lock is held.
        of.durable();
        count.fetch_add(1, Ordering::SeqCst);
    };
    let before = journal.append(request(2, 8, b""));
    let lost = journal.append(base(b"new"));
    journal.start(&Node::new(ME), |position| panic!("{position:?} was synced"), on_fatal).unwrap();
    for position in [before, lost, journal.append(request(2, 8, b""))] {
        let error = journal.wait(position, Some(soon())).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("rsm-41000.log.new: can't remove it: "), "{message}");
    }
    assert!(journal.wait(Position(1), None).unwrap(), "what was confirmed is there");
    assert!(journal.stop(soon()));
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
    assert_eq!((journal.durable(), journal.queued_bytes()), (Position(1), 0));
    // The rest wasn't written: the base would have been.
    assert_eq!(fs::read(&path_in(&dir)).unwrap(), file_of(&[base(b"old")]).0);
}

#[test]
fn a_generation_that_cannot_begin_is_an_error_at_once() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(&dir).unwrap();
    let folder = dir.path().to_owned();
    drop(dir);
    let error = begin(&journal, 1, vs(0, 0), Vec::new()).unwrap_err();
    let path = folder.join("rsm-41000.log.new");
    assert!(error.to_string().starts_with(&format!("{}: can't open it: ", path.display())), "{error}");
    assert!(journal.wait(Position(1), None).is_err());
    assert!(begin(&journal, 1, vs(0, 0), Vec::new()).is_err(), "for ever");
}

#[test]
fn arguments_that_are_too_long_are_an_error_and_not_written() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(&dir).unwrap();
    begin(&journal, 2, vs(2, 7), Vec::new()).unwrap();
    journal.append(request(2, 8, &vec![1; 10 << 20]));
    let position = journal.append(request(2, 9, &vec![1; (10 << 20) + 1]));
    journal.start(&Node::new(ME), |_| {}, |_| {}).unwrap();
    let error = journal.wait(position, Some(soon())).unwrap_err();
    assert!(matches!(error, JournalError::TooLong { bytes: 10_485_761, .. }), "{error}");
    assert!(journal.stop(soon()));
    assert!(open(&dir).unwrap().1.is_some());
}

#[test]
fn a_stop_tells_those_who_wait_and_loses_nothing_that_was_confirmed() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(&dir).unwrap();
    begin(&journal, 2, vs(2, 7), Vec::new()).unwrap();
    let queued = journal.append(request(2, 8, b""));
    assert!(!journal.wait(queued, Some(now() + Duration::from_millis(1))).unwrap(), "nobody writes");
    let waiting = journal.clone();
    let waiter = rt::thread::spawn("test", move || {
        assert!(matches!(waiting.wait(queued, None), Err(JournalError::Stopped { .. })));
    })
    .unwrap();
    assert!(journal.stop(soon()));
    assert!(waiter.join_until(soon()));
    let after = journal.append(request(2, 9, b""));
    assert!(matches!(journal.wait(after, None), Err(JournalError::Stopped { .. })));
    assert!(journal.wait(Position(1), None).unwrap());
    assert!(journal.stop(soon()), "twice");
    assert!(matches!(begin(&journal, 9, vs(9, 1), Vec::new()), Err(JournalError::Stopped { .. })));
    assert_eq!(open(&dir).unwrap().1, Some(recovered(&[base(b"")])));
}

#[test]
fn in_memory_all_is_durable_at_once_and_told() {
    let told = Arc::new(Mutex::new(TOLD, BTreeSet::new()));
    let journal = Journal::memory();
    begin(&journal, 2, vs(2, 7), Vec::new()).unwrap();
    assert!(journal.wait(Position(1), None).unwrap());
    let all = told.clone();
    let on_synced = move |position| {
        all.lock().insert(position);
    };
    journal.start(&Node::new(ME), on_synced, |error| panic!("{error}")).unwrap();
    let last = journal.append(request(2, 8, &vec![0; 9 << 20]));
    assert_eq!(journal.durable(), last);
    assert!(!journal.wants_base());
    let until = soon();
    while told.lock().last() != Some(&last) {
        assert!(now() < until);
        rt::time::sleep(Duration::from_millis(1));
    }
    assert!(journal.stop(soon()));
}

#[test]
fn a_base_is_wanted_after_a_mebibyte_or_twice_its_own_length_and_not_by_all_at_once() {
    const REQUEST: usize = 1 << 16;
    let dir = TempDir::new().unwrap();
    let mut all = BTreeSet::new();
    for me in ["21000", "22000", "23000", "10.0.0.5:4000"] {
        let (journal, _) = Journal::open(dir.path(), me, DISK).unwrap();
        for (state, tail) in [(0, 1 << 20), (1 << 20, 2 << 20)] {
            journal.append(Item::Base { mark: 2, last: vs(2, 0), state: vec![0; state] });
            let mut bytes = 0;
            for seqno in 1.. {
                journal.append(request(2, seqno, &vec![0; REQUEST]));
                bytes += REQUEST;
                if journal.wants_base() {
                    break;
                }
            }
            assert!(bytes >= tail && bytes <= tail * 3 / 2 + 2 * REQUEST, "{bytes} bytes after {state}");
            all.insert((state, bytes));
        }
        journal.append(base(b""));
        assert!(!journal.wants_base());
    }
    assert!(all.len() >= 6, "{all:?}");
}

#[test]
fn a_disk_that_does_not_keep_up_is_behind_until_it_has() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(&dir).unwrap();
    begin(&journal, 2, vs(2, 0), Vec::new()).unwrap();
    assert!(!journal.is_behind());
    for seqno in 1..=7 {
        journal.append(request(2, seqno, &vec![0; 10 << 20]));
        assert_eq!(journal.is_behind(), seqno == 7, "nobody writes; {seqno} requests");
    }
    let last = journal.append(Item::Base { mark: 2, last: vs(2, 7), state: Vec::new() });
    assert!(!journal.is_behind() && journal.queued_bytes() < 100, "the base has what was queued");
    while journal.stalled() < Duration::from_secs(1) {
        rt::time::sleep(Duration::from_millis(10));
    }
    assert!(journal.is_behind(), "few bytes, and for too long");
    start(&journal);
    assert!(journal.wait(last, Some(soon())).unwrap());
    assert!(!journal.is_behind() && journal.stalled() == Duration::ZERO);
    assert!(journal.stop(soon()));
}

#[test]
fn what_is_long_gets_on_in_between() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk { path: path_in(&dir), owner: owner(), generation: None };
    let steps = AtomicUsize::new(0);
    let gets_on = || {
        steps.fetch_add(1, Ordering::SeqCst);
    };
    let base = Item::Base { mark: 2, last: vs(2, 7), state: vec![7; 40 << 20] };
    disk.write(vec![base.clone()], &gets_on).unwrap();
    assert!(steps.swap(0, Ordering::SeqCst) >= 40);
    let requests = [request(2, 8, &vec![8; 9 << 20]), request(2, 9, &vec![9; 9 << 20])];
    disk.write(requests.to_vec(), &gets_on).unwrap();
    assert!(steps.swap(0, Ordering::SeqCst) >= 18);
    let [first, second] = requests;
    assert_eq!(open(&dir).unwrap().1, Some(recovered(&[base, first, second])));
}

#[test]
fn a_file_that_is_removed_or_replaced_is_an_error_of_the_disk() {
    for replaced in [false, true] {
        let dir = TempDir::new().unwrap();
        let (journal, _) = open(&dir).unwrap();
        journal.watch();
        begin(&journal, 2, vs(2, 7), Vec::new()).unwrap();
        let reasons = Arc::new(Mutex::new(TOLD, Vec::new()));
        let all = reasons.clone();
        let on_fatal = move |error: &JournalError| all.lock().push(error.to_string());
        journal.start(&Node::new(ME), |_| {}, on_fatal).unwrap();
        // The second one comes under another file's name.
        for (seqno, is_base) in [(8, false), (9, true), (9, false)] {
            let item = if is_base {
                Item::Base { mark: 2, last: vs(2, 8), state: Vec::new() }
            } else {
                request(2, seqno, b"")
            };
            let position = journal.append(item);
            journal.watch();
            assert!(journal.wait(position, Some(soon())).unwrap());
            journal.watch();
        }
        fs::remove_file(&path_in(&dir)).unwrap();
        if replaced {
            put(&path_in(&dir), b"another");
        }
        let until = soon();
        while reasons.lock().is_empty() {
            assert!(now() < until);
            journal.watch();
            rt::time::sleep(Duration::from_millis(1));
        }
        let position = journal.append(request(2, 10, b""));
        assert!(matches!(journal.wait(position, None), Err(JournalError::Gone { .. })));
        assert!(journal.stop(soon()));
        let reasons = reasons.lock().clone();
        assert!(reasons.len() == 1 && reasons[0].contains("rsm-41000.log: removed, or replaced by"), "{reasons:?}");
    }
}

#[test]
fn the_journals_of_earlier_lives_are_set_aside_and_none_is_replaced() {
    let dir = TempDir::new().unwrap();
    assert_eq!(set_aside(dir.path(), ME, says(&dir)).unwrap(), None);
    let path = |end: &str| dir.path().join(format!("rsm-41000.log{end}"));
    let first = Item::Base { mark: 3, last: Viewstamp { vid: 2, seqno: 7 }, state: b"one".to_vec() };
    for (at, end) in (1..=MAX_ASIDE).map(|at| (at, if at == 1 { ".aside".to_owned() } else { format!(".aside.{at}") }))
    {
        write_all(&dir, std::slice::from_ref(&first));
        let said = Some((3, Viewstamp { vid: 2, seqno: 7 }));
        assert_eq!(
            set_aside(dir.path(), ME, says(&dir)).unwrap(),
            Some(Aside { from: path(""), to: path(&end), said }),
            "{at}"
        );
        assert_eq!(open(&dir).unwrap().1, None);
        assert_eq!(fs::read(&path(&end)).unwrap(), file_of(std::slice::from_ref(&first)).0);
    }
    write_all(&dir, std::slice::from_ref(&first));
    let error = set_aside(dir.path(), ME, says(&dir)).unwrap_err();
    assert!(matches!(error, JournalError::Aside { .. }), "{error}");
    fs::remove_file(&path(".aside.2")).unwrap();
    fs::remove_file(&path("")).unwrap();
    File::create_new(&path("")).unwrap().write_all(b"?").unwrap();
    let aside = set_aside(dir.path(), ME, says(&dir)).unwrap().unwrap();
    assert_eq!((aside.to, aside.said), (path(".aside.2"), None), "one that can't be read");
}

/// What the file says, if it can be read.
fn says(dir: &TempDir) -> Option<Recovered> {
    Journal::look(dir.path(), ME).ok().flatten()
}

/// What a first node leaves that ended before its first view.
#[test]
fn a_journal_without_a_request_is_not_set_aside_but_removed() {
    let dir = TempDir::new().unwrap();
    write_all(&dir, &[Item::Base { mark: 1, last: Viewstamp::default(), state: Vec::new() }]);
    assert_eq!(set_aside(dir.path(), ME, says(&dir)).unwrap(), None);
    assert!(fs::list(dir.path()).unwrap().is_empty());
}

#[test]
fn to_look_changes_nothing_and_what_is_queued_before_the_start_is_one_generation() {
    let dir = TempDir::new().unwrap();
    assert_eq!(Journal::look(dir.path(), ME).unwrap(), None);
    let (journal, _) = open(&dir).unwrap();
    let items = [base(b"old"), Item::Mark { vid: 9 }];
    for item in &items {
        journal.append(item.clone());
    }
    assert!(fs::list(dir.path()).unwrap().is_empty(), "nothing is written yet");
    journal.write_queued().unwrap();
    let path = dir.path().join(file_name(ME));
    assert_eq!(fs::read(&path).unwrap(), file_of(&items).0);
    let new = dir.path().join("rsm-41000.log.new");
    File::create_new(&new).unwrap();
    assert_eq!(Journal::look(dir.path(), ME).unwrap().unwrap().mark, 9);
    assert!(fs::exists(&new).unwrap());
    clean_up(dir.path(), ME).unwrap();
    assert_eq!(fs::list(dir.path()).unwrap(), ["rsm-41000.log"]);
}

#[test]
fn a_folder_in_its_place_is_an_error_that_says_so() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(&dir.path().join(file_name(ME))).unwrap();
    let error = open(&dir).map(|_| ()).unwrap_err();
    assert!(matches!(error, JournalError::NoFile { .. }), "{error}");
}
