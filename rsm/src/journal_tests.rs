use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rt::time::now;
use tempfile::TempDir;

use super::*;

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

fn scan(bytes: &[u8]) -> Result<(Recovered, usize), Refused> {
    Scan::of(bytes).map(|scan| (scan.recovered, scan.keep))
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
fn the_file_has_the_bytes_that_its_format_says() {
    let dir = TempDir::new().unwrap();
    let items = [base(b"st"), request(2, 8, b"arg"), Item::Mark { vid: 3 }, Item::StartOver { vid: 5 }];
    write_all(&dir, &items);
    // The checksums are Python's.
    #[rustfmt::skip]
    let bytes = [
        0x79, 0x66, 0x73, 0x2d, 0x72, 0x73, 0x6d, 0x0a, 0, 0, 0, 0x02, 0x37, 0xb6, 0x43, 0x4c,
        0x42, 0, 0, 0, 0x1f, 0xfb, 0x8e, 0x47, 0x44, 0x43, 0x10, 0x19, 0x84,
        0, 0, 0, 0x02, 0, 0, 0, 0x02, 0, 0, 0, 0x07,
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0, 0, 0x05,
        0x34, 0x31, 0x30, 0x30, 0x30, 0x73, 0x74, 0xa5,
        0x52, 0, 0, 0, 0x0f, 0x2e, 0xa9, 0x4f, 0xff, 0x2b, 0x2d, 0xf9, 0xaa,
        0, 0, 0, 0x02, 0, 0, 0, 0x08, 0, 0, 0x70, 0x01, 0x61, 0x72, 0x67, 0xa5,
        0x4d, 0, 0, 0, 0x04, 0xb8, 0x4d, 0x8e, 0xa6, 0x71, 0xc5, 0x22, 0x5d, 0, 0, 0, 0x03, 0xa5,
        0x53, 0, 0, 0, 0x04, 0x51, 0x2e, 0x2b, 0x93, 0xd2, 0x40, 0x90, 0xa4, 0, 0, 0, 0x05, 0xa5,
    ];
    assert_eq!(fs::read(&path_in(&dir)).unwrap(), bytes);
    assert_eq!(file_of(&items).0, bytes);
    assert_eq!(fs::list(dir.path()).unwrap(), ["rsm-41000.log"]);
    assert_eq!(open(&dir).unwrap().1, Some(recovered(&items)));
}

#[test]
fn a_node_without_a_journal_has_no_state() {
    let dir = TempDir::new().unwrap();
    assert_eq!(open(&dir).unwrap().1, None);
    assert!(fs::list(dir.path()).unwrap().is_empty(), "and has none before it has a state");
}

#[test]
fn of_a_torn_write_the_whole_frames_are_kept_and_the_rest_is_dropped() {
    let (file, ends) = file_of(&history());
    for cut in ends[0]..=file.len() {
        // Without its last byte a frame is whole: its checksum says so.
        let complete = ends.iter().filter(|end| **end <= cut + 1).count();
        for zeros in [0, 1, 2, 5, 30, 200] {
            let bytes = [&file[..cut], &vec![0; zeros]].concat();
            // Zeros may be what was written.
            let shown = bytes.iter().zip(&file).take_while(|(is, was)| is == was).count();
            let complete = complete.max(ends.iter().filter(|end| **end <= shown + 1).count());
            let (read, keep) = scan(&bytes).unwrap_or_else(|e| panic!("cut at {cut}, {zeros} zeros: {e:?}"));
            assert_eq!(read, recovered(&history()[..complete]), "cut at {cut}, {zeros} zeros");
            assert!(keep <= bytes.len() && keep + 1 >= ends[complete - 1] && keep <= ends[complete - 1]);
        }
    }
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
fn a_base_that_is_not_whole_is_damage() {
    let (file, ends) = file_of(&history()[..1]);
    for cut in 0..ends[0] {
        for zeros in [0, 1, 100] {
            let bytes = [&file[..cut], &vec![0; zeros]].concat();
            let refused = scan(&bytes).unwrap_err();
            assert!(
                matches!(refused, Refused::Damaged { offset: 0 | 16, .. }),
                "cut at {cut}, {zeros} zeros: {refused:?}"
            );
        }
    }
}

/// A file as any one byte has become any other one, and where.
fn with_one_wrong_byte(file: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let changes = (0..file.len()).flat_map(|at| (1..=255u8).map(move |change| (at, change)));
    changes.map(|(at, change)| {
        let mut bytes = file.to_vec();
        bytes[at] ^= change;
        (at, bytes)
    })
}

#[test]
fn one_wrong_byte_is_an_error_at_its_frame_or_nothing_is_missing() {
    for count in 1..=history().len() {
        let items = &history()[..count];
        let (file, ends) = file_of(items);
        for (at, bytes) in with_one_wrong_byte(&file) {
            match scan(&bytes) {
                Err(Refused::Damaged { offset, .. }) => {
                    let frame = [0, 16].iter().chain(&ends).rfind(|begin| **begin <= at);
                    assert_eq!(Some(&offset), frame, "byte {at} is {}", bytes[at]);
                }
                Err(refused) => panic!("byte {at} is {}: {refused:?}", bytes[at]),
                Ok((read, _)) => {
                    assert_eq!(read, recovered(items));
                    assert!(at == file.len() - 1 && bytes[at] == 0 && count > 1, "byte {at} is {}", bytes[at]);
                }
            }
        }
    }
}

#[test]
fn one_wrong_byte_in_a_torn_file_is_an_error_or_in_what_is_dropped() {
    let (file, ends) = file_of(&history());
    for cut in [ends[1] + 1, ends[1] + 7, ends[1] + 11, ends[1] + 14, ends[3] + 15, ends[5] + 24] {
        let items = &history()[..ends.iter().filter(|end| **end <= cut).count()];
        for (at, bytes) in with_one_wrong_byte(&file[..cut]) {
            match scan(&bytes) {
                Ok((read, keep)) => {
                    assert_eq!(read, recovered(items));
                    assert!(at >= ends[items.len() - 1] - 1 && at + 1 >= keep, "cut at {cut}, byte {at}");
                }
                Err(refused) => assert!(matches!(refused, Refused::Damaged { .. }), "{refused:?}"),
            }
        }
    }
}

#[test]
fn a_frame_that_vanished_is_repeated_or_comes_from_another_file_is_damage() {
    let items = [base(b""), request(2, 8, b"a"), Item::Mark { vid: 2 }, Item::Mark { vid: 2 }, request(2, 9, b"b")];
    let (file, ends) = file_of(&items);
    let frame = |number: usize| &file[ends[number - 1]..ends[number]];
    for number in 1..4 {
        let without = [&file[..ends[number - 1]], &file[ends[number]..]].concat();
        assert_eq!(scan(&without).unwrap_err(), no_frame(ends[number - 1]));
        let twice = [&file[..ends[number]], frame(number)].concat();
        assert_eq!(scan(&twice).unwrap_err(), no_frame(ends[number]));
    }
    let (other, _) = file_of(&[base(b"other")]);
    let at = other.len();
    assert_eq!(scan(&[&other[..], frame(1)].concat()).unwrap_err(), no_frame(at));
    let (two, _) = file_of(&[base(b"")]);
    let begin = two.len();
    assert!(scan(&[&two[..], &two[16..]].concat()).is_err_and(|e| e == no_frame(begin)), "a second base");
}

fn no_frame(offset: usize) -> Refused {
    Refused::Damaged { offset, what: "no frame begins like this".to_owned() }
}

#[test]
fn what_is_out_of_order_is_damage() {
    let seven = |item: Item| [base(b""), item];
    for (item, what) in [
        (request(2, 7, b""), "request (2,7) comes after (2,7)"),
        (request(2, 9, b""), "request (2,9) comes after (2,7)"),
        (request(1, 1, b""), "request (1,1) comes after (2,7)"),
        (request(3, 2, b""), "request (3,2) comes after (2,7)"),
        (request(3, 0, b""), "request (3,0) comes after (2,7)"),
        (Item::Mark { vid: 1 }, "in sync in view 1 comes after 2"),
        (Item::StartOver { vid: 1 }, "started over into view 1 comes after 2"),
    ] {
        let (file, ends) = file_of(&seven(item));
        assert_eq!(scan(&file).unwrap_err(), Refused::Damaged { offset: ends[0], what: what.to_owned() });
    }
    for item in [request(2, 8, b""), request(3, 1, b""), Item::Mark { vid: 2 }] {
        assert!(scan(&file_of(&seven(item)).0).is_ok());
    }
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

/// A file with a base, and a frame behind it whose checksums fit whatever it is.
fn with_frame(kind: u8, length: u32, body: &[u8]) -> (Vec<u8>, usize) {
    let (mut file, ends) = file_of(&[base(b"")]);
    let link = &file[25..29];
    let mut head = vec![kind];
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
    let link = crc32fast::hash(&[link, &head].concat());
    file.extend_from_slice(&head);
    file.extend_from_slice(&link.to_be_bytes());
    file.extend_from_slice(body);
    file.push(0xa5);
    (file, ends[0])
}

#[test]
fn kinds_and_lengths_that_nobody_writes_are_damage_though_their_checksums_fit() {
    let body = [0; 20];
    for (kind, length, what) in [
        (b'R', u32::MAX, "this kind can't have this length"),
        (b'R', (10 << 20) + 13, "this kind can't have this length"),
        (b'R', 11, "this kind can't have this length"),
        (b'M', 5, "this kind can't have this length"),
        (b'B', 20, "this kind can't be here"),
        (b'X', 20, "this kind can't be here"),
        (0, 20, "this kind can't be here"),
    ] {
        let (file, offset) = with_frame(kind, length, &body);
        assert_eq!(scan(&file).unwrap_err(), Refused::Damaged { offset, what: what.to_owned() }, "{kind} {length}");
    }
    // The longest that may be there, and isn't.
    let (file, keep) = with_frame(b'R', (10 << 20) + 12, &body);
    assert_eq!(scan(&file).unwrap(), (recovered(&[base(b"")]), keep));
    let (whole, offset) = with_frame(b'R', 15, &[0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3]);
    let logged = Logged { offset, vs: vs(2, 8), procedure: 1, args: vec![1, 2, 3] };
    assert_eq!(scan(&whole).unwrap().0.requests, [logged]);
}

#[test]
fn a_head_that_no_write_begins_with_is_damage() {
    let (file, ends) = file_of(&history()[..1]);
    for end in [&b"X"[..], b"B", b"R\xff", b"R\0\xa0\0\x0d", b"M\0\0\0\x05", b"M\x01", b"R\0\0\0\x01", b"\0R"] {
        assert_eq!(scan(&[&file[..], end].concat()).unwrap_err(), no_frame(ends[0]), "{end:?}");
    }
    for end in
        [&b"R"[..], b"M", b"R\0\xa0\0\x0c", b"R\0\0\0\x0c", b"M\0\0\0\x04", b"M\0\0", b"R\0\0\0\x0c\x01\x02", b"\0\0"]
    {
        assert_eq!(scan(&[&file[..], end].concat()).unwrap(), (recovered(&history()[..1]), ends[0]), "{end:?}");
    }
}

#[test]
fn another_format_is_not_called_damage() {
    let dir = TempDir::new().unwrap();
    for format in [1, 3] {
        let mut file = file_of(&history()).0;
        file[11] = format;
        let crc = crc32fast::hash(&file[..12]).to_be_bytes();
        file[12..16].copy_from_slice(&crc);
        assert_eq!(scan(&file).unwrap_err(), Refused::Format(format.into()));
        put(&path_in(&dir), &file);
        let message = open(&dir).unwrap_err().to_string();
        let end = format!("rsm-41000.log: of format {format}, which this version can't read");
        assert!(message.ends_with(&end), "{message}");
    }
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

#[test]
fn a_tail_can_be_cut_off_at_any_frame() {
    let (file, ends) = file_of(&history());
    for (number, end) in ends.iter().enumerate() {
        assert_eq!(scan(&file[..*end]).unwrap(), (recovered(&history()[..=number]), *end));
    }
}

/// Items of any history.
fn items() -> impl Strategy<Value = Vec<Item>> {
    let steps =
        prop::collection::vec((0..4u32, prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40)), 0..12);
    (any::<u16>(), 0..9u32, steps).prop_map(|(vid, seqno, steps)| {
        let (mut mark, mut last) = (u32::from(vid), vs(u32::from(vid), seqno));
        let mut items = vec![Item::Base { mark, last, state: vec![3; seqno as usize] }];
        for (step, args) in steps {
            items.push(match step {
                0 => {
                    mark += args.len() as u32;
                    Item::Mark { vid: mark }
                }
                more => {
                    last = if more == 1 { vs(last.vid + 1, 1) } else { vs(last.vid, last.seqno + 1) };
                    Item::Request { vs: last, procedure: 7, args }
                }
            });
        }
        items
    })
}

proptest! {
    #[test]
    fn what_a_cut_leaves_is_a_prefix(items in items(), cut in any::<prop::sample::Index>(), zeros in 0..60usize) {
        let (file, ends) = file_of(&items);
        let cut = ends[0] + cut.index(file.len() - ends[0] + 1);
        let (read, _) = scan(&[&file[..cut], &vec![0; zeros]].concat()).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count();
        prop_assert!((whole..=items.len()).any(|count| read == recovered(&items[..count])));
        if zeros == 0 && !ends.contains(&(cut + 1)) {
            prop_assert_eq!(read, recovered(&items[..whole]));
        }
    }

    #[test]
    fn garbage_is_an_error_or_dropped(
        items in items(),
        at in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let _ = scan(&garbage);
        let (mut file, _) = file_of(&items);
        let at = at.index(file.len());
        let before = file.clone();
        let end = file.len().min(at + garbage.len());
        file[at..end].copy_from_slice(&garbage[..end - at]);
        if let Ok((read, _)) = scan(&file) {
            prop_assert!((1..=items.len()).any(|count| read == recovered(&items[..count])));
            prop_assert!(file == before || file.last() == Some(&0));
        }
    }

    #[test]
    fn garbage_behind_is_never_read(items in items(), garbage in prop::collection::vec(any::<u8>(), 0..40)) {
        let (file, _) = file_of(&items);
        if let Ok((read, keep)) = scan(&[&file[..], &garbage].concat()) {
            prop_assert_eq!(read, recovered(&items));
            prop_assert_eq!(keep, file.len());
        }
    }
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
