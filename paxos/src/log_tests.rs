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

/// A file, but for what each start writes anew: the number of its disk, which is drawn, and that of short lives.
fn read(path: &Path) -> Vec<u8> {
    let text = String::from_utf8(fs::read(path).unwrap()).unwrap();
    let rest = text.strip_prefix(HEAD).filter(|rest| rest.starts_with("disk "));
    let after = rest.map(|rest| rest.split_once("\ncrc ").unwrap().1.split_once('\n').unwrap().1);
    after.map_or(text.clone(), |after| HEAD.to_owned() + after).into_bytes()
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
    Log::open(path, "41000").map(|(log, state)| (log, state.without_disk()))
}

/// The file that these appends, given by their lines, leave.
fn file_of<S: AsRef<str>>(appends: &[S]) -> Vec<u8> {
    let blocks = appends.iter().map(|lines| lines.as_ref().to_owned() + &crc_line(lines.as_ref().as_bytes()));
    (HEAD.to_owned() + &blocks.collect::<String>()).into_bytes()
}

/// The lines of each append.
fn lines_of(appends: &[Vec<Record>]) -> Vec<String> {
    appends.iter().map(|records| records.iter().map(Record::to_string).collect()).collect()
}

#[test]
fn the_file_is_the_lab_s_with_a_checksum_at_its_beginning_and_after_each_append() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let (mut log, _) = open(&path).unwrap();
    assert_eq!(read(&path), b"crc 00000000\n", "what is over nothing has this checksum");
    history().iter().for_each(|records| log.append(records).unwrap());
    let lines = [
        "done 1 41000\n",
        "propseen 1 41000\n",
        "accepted 1 41000 41000 42000 \n",
        "done 2 41000 42000 \ndone 3 41000 42000 43000 \n",
        "propseen 7 42000\n",
    ];
    assert_eq!(read(&path), file_of(&lines));
    assert_eq!(log.dump(), lines.concat());
    drop(log);
    let (log, state) = open(&path).unwrap();
    assert_eq!(log.dump(), lines.concat());
    assert_eq!((state.instance(), state.promised()), (3, Some(&n(7, "42000"))));
    assert_eq!(read(&path), file_of(&lines), "a start changes nothing");
    let names = fs::list(dir.path()).unwrap();
    assert_eq!(names, ["paxos-41000.log", "paxos-41000.log.lock"]);
    assert_eq!(read(&dir.path().join("paxos-41000.log.lock")), b"");
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
    let whole = file_of(&lines_of(&history()));
    let ends: Vec<usize> = (1..=history().len()).map(|count| file_of(&lines_of(&history()[..count])).len()).collect();
    for cut in 0..=whole.len() {
        for zeros in [0, 1, 5] {
            write(&path, &[&whole[..cut], &vec![0; zeros]].concat());
            if cut == 0 && zeros > 0 {
                assert!(matches!(open(&path), Err(LogError::Damaged { offset: 0, .. })), "that was no crash");
                continue;
            }
            if zeros > 0 && (cut == HEAD.len() || ends.contains(&cut)) {
                // Behind a whole append, too.
                assert!(open(&path).is_ok());
            }
            // The last byte is the line feed: nothing is missing without it.
            let complete = ends.iter().filter(|end| **end <= cut + 1).count();
            let (mut log, state) = open(&path).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            assert_eq!(state, state_after(complete), "cut at {cut}");
            assert_eq!(read(&path), file_of(&lines_of(&history()[..complete])), "cut at {cut}");
            for records in &history()[complete..] {
                log.append(records).unwrap();
            }
            assert_eq!(read(&path), whole, "cut at {cut}, then written on");
        }
    }
}

#[test]
fn h05_records_without_a_checksum_count_in_a_log_of_the_lab_only() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    // A joiner's first append, which wasn't written to its end.
    for torn in ["done 1 41000\n", "done 1 41000\ndone 2 41000 42000 \n", "done 1 41000\ndone 2 41000 42"] {
        write(&path, format!("{HEAD}{torn}").as_bytes());
        let (log, state) = open(&path).unwrap();
        assert!(state.is_new() && log.dump().is_empty(), "{torn:?}");
        assert_eq!(read(&path), HEAD.as_bytes());
    }
    write(&path, b"done 1 41000\ndone 2 41000 42000 \n");
    assert_eq!(open(&path).unwrap().1.instance(), 2);
}

#[test]
fn h05_a_log_of_the_version_that_wrote_no_first_line_is_read() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let whole = file_of(&lines_of(&history()));
    for torn in ["", "done 4 41000 42000 \n", "done 4 41000 42000 \nacc", "crc"] {
        write(&path, &[&whole[HEAD.len()..], torn.as_bytes()].concat());
        let (_, state) = open(&path).unwrap();
        assert_eq!(state, state_after(history().len()));
        assert_eq!(read(&path), whole, "it has one from now on");
    }
}

/// Logs whose last appends are of each kind; some names are a bit away from having a line feed in them.
fn logs() -> Vec<Vec<String>> {
    let joiner = vec!["done 1 41000\ndone 2 41000 42000 \n".to_owned()];
    let wild = ["done 1 J*a*J\n", "accepted 1 J*a*J J*a*J *J \n", "done 2 J*a*J *J \ndone 3 *J \n"];
    let mut logs: Vec<Vec<String>> = (0..=history().len()).map(|count| lines_of(&history()[..count])).collect();
    logs.push(joiner);
    logs.extend((1..=wild.len()).map(|count| wild[..count].iter().map(|&lines| lines.to_owned()).collect()));
    logs
}

/// Holds each log of [`logs`] with one byte changed against what it says.
fn with_another_byte(others: impl Fn(u8) -> Vec<u8>) {
    let mut same = 0;
    for appends in logs() {
        let with_head = file_of(&appends);
        // Also without its first line, which is like a log of the lab if there is no append.
        for whole in [&with_head[..], &with_head[HEAD.len()..]] {
            for (at, other) in (0..whole.len()).flat_map(|at| others(whole[at]).into_iter().map(move |o| (at, o))) {
                let mut bytes = whole.to_vec();
                bytes[at] = other;
                match Scan::of(&bytes, "41000") {
                    Ok(scan) => {
                        same += 1;
                        assert_eq!(scan.text, appends.concat(), "byte {at} is {other:#x}");
                        assert_eq!(scan.file, with_head, "byte {at} is {other:#x}");
                        assert_eq!((at, other), (whole.len() - 1, 0), "nothing else can be seen through");
                    }
                    // What a new line feed has cut off begins behind it.
                    Err(damage) => assert!(damage.offset <= at + 1, "byte {at} is {other:#x}: {damage:?}"),
                }
            }
        }
    }
    assert!(same <= 2 * logs().len());
}

#[test]
fn h05_a_flipped_bit_is_an_error_wherever_it_is() {
    with_another_byte(|byte| (0..8).map(|bit| byte ^ (1 << bit)).collect());
}

#[test]
fn h05_any_other_byte_is_an_error_or_no_difference_never_another_log() {
    with_another_byte(|byte| (0..=255).filter(|other| *other != byte).collect());
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
        assert_eq!(read(&path), file_of(&["done 1 41000\n"]), "{torn:?}");
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
        ("done 1 41000\ndone 02", 13),
        ("done 1 41000\ndone 2 41000\tx", 13),
        ("done 1 41000\ncrc 42c689b0", 13),
        ("done 1 41000\ncrc 42c689b4*", 13),
        ("done 1 41000*crc 42c689b4\n", 12),
        ("crc 00000000\ndone 1 41000*crc 42c689b4\n", 25),
        ("crc 00000000*", 0),
        ("crc 00000001\n", 0),
        ("\0\0\0\0", 0),
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
fn h05_a_log_of_the_lab_is_read_its_torn_line_dropped_and_all_of_it_covered_by_a_checksum() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for torn in ["", "done 6 41000 4", "prop", "accepted 9 41000 41000 42000 "] {
        write(&path, format!("{LAB_LOG}{torn}").as_bytes());
        let (mut log, state) = open(&path).unwrap();
        assert_eq!((state.instance(), log.dump()), (5, LAB_LOG));
        log.append(&[Record::PropSeen(n(1, "42000"))]).unwrap();
        drop(log);
        assert_eq!(read(&path), file_of(&[LAB_LOG, "propseen 1 42000\n"]));
        let mut bytes = read(&path);
        bytes[HEAD.len() + 5] = b'7';
        write(&path, &bytes);
        assert!(matches!(open(&path), Err(LogError::Damaged { offset: 13, .. })));
    }
}

#[test]
fn only_one_has_the_log() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    for _ in 0..3 {
        // At its first start it makes the file, later it replaces it.
        let (mut log, _) = open(&path).unwrap();
        let before = read(&path);
        let error = open(&path).map(|_| ()).unwrap_err();
        assert!(error.to_string().ends_with("paxos-41000.log: in use by another process"), "{error}");
        assert_eq!(read(&path), before, "who is refused has done nothing to it");
        log.append(&[Record::PropSeen(n(1, "41000"))]).unwrap();
        assert!(read(&path).starts_with(&before) && read(&path).len() > before.len(), "the file is still the log");
    }
}

#[test]
fn many_who_want_the_log_have_it_one_at_a_time() {
    const ROUNDS: usize = 40;
    let dir = TempDir::new().unwrap();
    let owners = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (path, owners) = (path_in(&dir), owners.clone());
            let work = move || {
                let mut had = 0;
                while had < ROUNDS {
                    match open(&path) {
                        Ok((mut log, state)) => {
                            use std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(owners.fetch_add(1, SeqCst), 0, "two have it");
                            log.append(&[Record::Done(state.instance() + 1, value("41000 "))]).unwrap();
                            owners.fetch_sub(1, SeqCst);
                            had += 1;
                        }
                        Err(LogError::InUse { .. }) => rt::time::sleep(std::time::Duration::from_micros(50)),
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            rt::thread::spawn("owner", work).unwrap()
        })
        .collect();
    let patience = rt::time::now() + std::time::Duration::from_secs(60);
    assert!(threads.iter().all(|thread| thread.join_until(patience)));
    let (_, state) = open(&path_in(&dir)).unwrap();
    assert_eq!(state.instance(), 4 * ROUNDS as u32, "nothing that anybody has written is lost");
}

#[test]
fn what_a_crash_leaves_of_a_rewritten_log_is_never_read() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let new = dir.path().join("paxos-41000.log.new");
    let whole = file_of(&lines_of(&history()));
    for left in [&b""[..], b"nonsense", b"crc 00000000\ndone 1 4", &whole] {
        write(&new, left);
        let (log, state) = open(&path).unwrap();
        assert!(state.is_new() && log.dump().is_empty());
        assert!(!fs::exists(&new).unwrap());
        assert_eq!(read(&path), HEAD.as_bytes());
        drop(log);
        fs::remove_file(&path).unwrap();
    }
    write(&path, &whole);
    write(&new, b"crc 00000000\n");
    assert_eq!(open(&path).unwrap().1, state_after(history().len()));
    assert_eq!(read(&path), whole);
}

#[test]
fn an_empty_file_is_a_new_log() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    write(&path, b"");
    assert!(open(&path).unwrap().1.is_new());
    assert_eq!(read(&path), HEAD.as_bytes());
}

#[test]
fn a_log_says_whose_it_is_and_is_no_other_nodes() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let text = || String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let (_, state) = Log::open(&path, "41000").unwrap();
    let disk = state.disk().unwrap();
    let first = format!("disk {disk} 41000\n");
    assert_eq!(text(), format!("{HEAD}{first}{}", crc_line(first.as_bytes())));
    assert_eq!(Log::open(&path, "41000").unwrap().1.disk(), Some(disk));
    assert!(text().matches("disk ").count() == 1 && text().contains(&format!("disk {disk} 41000\n")), "{}", text());
    let error = Log::open(&path, "42000").map(|_| ()).unwrap_err();
    assert!(error.to_string().ends_with("paxos-41000.log: damaged at byte 13: this is node 41000's file"), "{error}");
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

#[test]
fn l08_short_lives_are_counted_until_one_has_lived() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    let text = || String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let looks = || Log::open(&path, "41000").unwrap().1.short_lives();
    assert_eq!([(); 3].map(|()| looks()), [0; 3], "who only opened it hasn't lived");
    let short_lives = || {
        let (mut log, state) = Log::open(&path, "41000").unwrap();
        log.append(&[Record::Starts(state.short_lives())]).unwrap();
        state.short_lives()
    };
    assert_eq!([(); 4].map(|()| short_lives()), [0, 1, 2, 3]);
    assert_eq!([(); 3].map(|()| looks()), [4; 3]);
    let disk = text().lines().nth(1).unwrap().to_owned();
    let (mut log, state) = Log::open(&path, "41000").unwrap();
    assert_eq!(state.short_lives(), 4);
    log.append(&[Record::Starts(4)]).unwrap();
    log.append(&history()[0]).unwrap();
    log.append(&[Record::Disk(state.disk().unwrap(), "41000".to_owned())]).unwrap();
    log.append(&[Record::Lived]).unwrap();
    assert_eq!(log.dump(), "done 1 41000\n", "neither travels");
    drop(log);
    assert!(text().contains("\nstarts 4\n") && text().contains("\nlived\n"));
    assert_eq!((looks(), looks()), (0, 0), "forgiven, and for good");
    assert_eq!([(); 3].map(|()| short_lives()), [0, 1, 2]);
    assert_eq!(looks(), 3);
    let own: Vec<String> = text().lines().filter(|line| !line.starts_with("crc ")).map(str::to_owned).collect();
    assert_eq!(own, [&disk, "starts 2", "done 1 41000"], "one of each, whatever was appended");
    // A lived that was torn off doesn't count.
    let whole = text() + "lived\n";
    for torn in [&whole[..], &whole[..whole.len() - 3]] {
        write(&path, torn.as_bytes());
        assert_eq!(looks(), 3, "{torn:?}");
    }
    let full = HEAD.to_owned() + "starts 4294967295\n" + &crc_line(b"starts 4294967295\n");
    write(&path, full.as_bytes());
    assert_eq!((short_lives(), short_lives()), (u32::MAX, u32::MAX));
    write(&path, LAB_LOG.as_bytes());
    assert_eq!(short_lives(), 0, "a log that doesn't say");
}

#[test]
fn to_look_changes_nothing_and_sees_what_opening_would() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    assert!(Log::look(&path, "41000").unwrap().is_none());
    assert!(fs::list(dir.path()).unwrap().is_empty());
    let torn = b"done 1 41000\npropse";
    write(&path, torn);
    assert_eq!(Log::look(&path, "41000").unwrap().unwrap().instance(), 1);
    assert_eq!(fs::read(&path).unwrap(), torn);
    assert_eq!(fs::list(dir.path()).unwrap().len(), 1, "no lock file either");
    let (log, _) = open(&path).unwrap();
    assert!(Log::look(&path, "41000").unwrap().is_some(), "who has the log isn't disturbed");
    drop(log);
    let lock = Log::lock(&path).unwrap();
    assert!(matches!(open(&path), Err(LogError::InUse { .. })) && Log::lock(&path).is_err());
    let (log, _) = Log::open_locked(&path, "41000", lock).unwrap();
    assert!(Log::lock(&path).is_err(), "the log has the lock now");
    drop(log);
    assert!(Log::lock(&path).is_ok());
}

/// A process that was killed just now may take a moment to end.
#[test]
fn a_lock_that_is_given_back_soon_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("paxos-41000.log");
    let lock = Log::lock(&path).unwrap();
    let ends = rt::thread::spawn("ends", move || {
        rt::time::sleep(std::time::Duration::from_millis(100));
        drop(lock);
    });
    assert!(open(&path).is_ok());
    assert!(ends.unwrap().join_until(rt::time::now() + std::time::Duration::from_secs(20)));
}

#[test]
fn a_folder_in_its_place_is_an_error_that_says_so() {
    let dir = TempDir::new().unwrap();
    let path = path_in(&dir);
    fs::create_dir_all(&path).unwrap();
    let error = open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::NoFile { .. }), "{error}");
}
