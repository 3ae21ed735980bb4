use super::*;
use crate::record::tests::LAB_LOG;
use crate::{ProposalNumber, Value};
use tempfile::TempDir;

fn n(n: u32, node: &str) -> ProposalNumber {
    ProposalNumber { n, node: node.into() }
}

fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

/// The appends of a small history, each with the record lines that it adds.
fn history() -> Vec<Vec<Record>> {
    vec![
        vec![Record::Done(1, Value::first("41000").unwrap())],
        vec![Record::PropSeen(n(1, "41000"))],
        vec![Record::Accepted(n(1, "41000"), value("41000 42000 "))],
        vec![Record::Done(2, value("41000 42000 ")), Record::Done(3, value("41000 42000 43000 "))],
        vec![Record::PropSeen(n(7, "42000"))],
    ]
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn write(path: &Path, bytes: &[u8]) {
    if fs::exists(path).unwrap() {
        fs::remove_file(path).unwrap();
    }
    File::create_new(path).unwrap().write_all(bytes).unwrap();
}

fn path_in(dir: &TempDir) -> PathBuf {
    dir.path().join(file_name("41000"))
}

fn open(path: &Path) -> Result<(Log, AcceptorState), LogError> {
    Log::open(path, "41000")
}

#[test]
fn the_file_is_the_lab_s_with_a_checksum_after_each_append() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let (mut log, _) = open(&path).unwrap();
    history().iter().for_each(|records| log.append(records).unwrap());
    let lines = [
        "done 1 41000\n",
        "propseen 1 41000\n",
        "accepted 1 41000 41000 42000 \n",
        "done 2 41000 42000 \ndone 3 41000 42000 43000 \n",
        "propseen 7 42000\n",
    ];
    let whole: String = lines.iter().map(|l| format!("{l}crc {:08x}\n", crc32fast::hash(l.as_bytes()))).collect();
    assert_eq!(String::from_utf8(read(&path)).unwrap(), whole);
    assert_eq!(log.dump(), lines.concat());
    drop(log);
    let (log, state) = open(&path).unwrap();
    assert_eq!(log.dump(), lines.concat());
    assert_eq!((state.instance(), state.promised()), (3, Some(&n(7, "42000"))));
}

/// The state after the first `count` appends.
fn state_after(count: usize) -> AcceptorState {
    let mut state = AcceptorState::new("41000");
    history().into_iter().take(count).flatten().for_each(|record| state.replay(record).unwrap());
    state
}

#[test]
fn h05_a_crash_at_any_byte_leaves_the_appends_before_and_the_log_goes_on() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let mut ends = vec![0];
    let (mut log, _) = open(&path).unwrap();
    for records in history() {
        log.append(&records).unwrap();
        ends.push(read(&path).len());
    }
    drop(log);
    let whole = read(&path);
    for cut in 0..=whole.len() {
        write(&path, &whole[..cut]);
        let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
        let (mut log, state) = open(&path).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        // The very first append may count as soon as its line is whole (it looks like a log of the lab).
        let first_line = b"done 1 41000\n".len();
        let complete = if complete == 0 && cut >= first_line { 1 } else { complete };
        assert_eq!(state, state_after(complete), "cut at {cut}");
        for records in &history()[complete..] {
            log.append(records).unwrap();
        }
        drop(log);
        let (_, state) = open(&path).unwrap_or_else(|e| panic!("cut at {cut}, then written on: {e}"));
        assert_eq!(state, state_after(history().len()), "cut at {cut}, then written on");
    }
}

#[test]
fn h05_any_other_byte_is_an_error_or_no_difference_never_another_log() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let (mut log, _) = open(&path).unwrap();
    history().iter().for_each(|records| log.append(records).unwrap());
    drop(log);
    let whole = read(&path);
    let good = state_after(history().len());
    for at in 0..whole.len() {
        for flip in [0x01, 0x20, 0x80, whole[at]] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            match Scan::of(&bytes, "41000") {
                // The end of the last line: then the append is a torn one.
                Ok(scan) => {
                    assert!(at == whole.len() - 1 && scan.keep < whole.len() || scan.state == good, "byte {at}")
                }
                Err(damage) => assert!(damage.offset <= at, "byte {at}: {damage:?}"),
            }
        }
    }
}

#[test]
fn h05_a_tail_of_zeros_is_dropped() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for torn in ["\0\0\0\0", "done 2 410\0\0", "\0"] {
        write(&path, format!("done 1 41000\n{torn}").as_bytes());
        let (log, _) = open(&path).unwrap();
        assert_eq!(log.dump(), "done 1 41000\n", "{torn:?}");
        drop(log);
        assert_eq!(read(&path), b"done 1 41000\n", "{torn:?}");
    }
}

#[test]
fn h05_damage_is_told_with_file_and_byte() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for (text, offset) in [
        ("done 1 41000\ncrc 00000000\ndone 2 41000 \n", 0),
        ("done 1 41000\n\0\0\0\0\n", 13),
        ("done 1 41000\nnonsense\ndone 2 41000 \n", 13),
        ("done 1 41000\ndone 3 41000 42000 \n", 13),
        ("done 1 41000\ndone 1 41000\n", 13),
        ("done 1 41000\ndone 2 41000 42000 41000 \n", 13),
        ("done 1 41000\n\u{fc}\n", 13),
    ] {
        write(&path, text.as_bytes());
        let error = open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(error, LogError::Damaged { offset: at, .. } if at == offset), "{text:?}: {error}");
        let message = error.to_string();
        assert!(message.contains("paxos-41000.log") && message.contains(&format!("byte {offset}")), "{message}");
        assert_eq!(read(&path), text.as_bytes(), "a damaged log is left as it is");
    }
}

#[test]
fn h05_a_log_of_the_lab_is_read_its_torn_line_dropped_and_all_of_it_covered_by_the_first_checksum() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for torn in ["", "done 6 41000 4", "prop", "accepted 9 41000 41000 42000 "] {
        write(&path, format!("{LAB_LOG}{torn}").as_bytes());
        let (mut log, state) = open(&path).unwrap();
        assert_eq!((state.instance(), log.dump()), (5, LAB_LOG));
        log.append(&[Record::PropSeen(n(1, "42000"))]).unwrap();
        drop(log);
        let lines = format!("{LAB_LOG}propseen 1 42000\n");
        let crc = crc32fast::hash(lines.as_bytes());
        assert_eq!(String::from_utf8(read(&path)).unwrap(), format!("{lines}crc {crc:08x}\n"));
        let mut bytes = read(&path);
        bytes[5] = b'7';
        write(&path, &bytes);
        assert!(matches!(open(&path), Err(LogError::Damaged { offset: 0, .. })));
    }
}

#[test]
fn only_one_has_the_file() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let (log, _) = open(&path).unwrap();
    let error = open(&path).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(log);
    open(&path).unwrap();
}

#[test]
fn h22_a_log_may_begin_with_any_instance() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    write(&path, b"done 5000 41000 42000 \ndone 5001 41000 \n");
    let (_, state) = open(&path).unwrap();
    assert_eq!((state.instance(), state.views().len()), (5001, 2));
}

#[test]
fn after_an_error_nothing_is_written() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let (mut log, _) = open(&path).unwrap();
    log.append(&history()[0]).unwrap();
    let before = read(&path);
    log.break_it();
    assert!(matches!(log.append(&history()[1]), Err(LogError::Failed { .. })));
    assert_eq!(read(&path), before);
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    let error = open(&dir.path().join("none").join("paxos-41000.log")).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Io { doing: "open", .. }), "{error}");
}
