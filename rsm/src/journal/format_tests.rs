//! What the bytes of a file say: whole, torn, and wrong.

use proptest::prelude::*;

use super::super::format::{Refused, Scan};
use super::*;

fn scan(bytes: &[u8]) -> Result<(Recovered, usize), Refused> {
    Scan::of(bytes).map(|scan| (scan.recovered, scan.keep))
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
