//! What a client was told is done, is done once (H4).
#![allow(clippy::unwrap_used, reason = "a test, all of it")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{APPEND, Cluster, DEADLINE, append, wait_until};
use rt::sync::{Mutex, Rank};
use yfs_rpc::marshall::{Bytes, Unmarshal, decode, encode};
use yfs_rpc::{Client, Procedure};
use yfs_rsm::protocol::{CLIENT_INVOKE, ClientStatus, OPEN, REQUEST, RequestRes, SessionId, SessionStatus};
use yfs_rsm::{Options, Rsm, RsmClientError};

const THREADS: u64 = 8;

fn times(numbers: &[u64]) -> BTreeMap<u64, u64> {
    numbers.iter().fold(BTreeMap::new(), |mut times, number| {
        *times.entry(*number).or_default() += 1;
        times
    })
}

/// Threads append numbers, each another one, until they are told to stop.
fn appenders(cluster: &Cluster, stop: &Arc<AtomicBool>, total: Duration) -> Vec<Outcomes> {
    let client = Arc::new(cluster.client());
    (0..THREADS)
        .map(|thread| {
            let outcomes = Outcomes::default();
            let (client, stop, of_thread) = (client.clone(), stop.clone(), outcomes.clone());
            rt::thread::spawn("appender", move || {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let number = thread << 32 | n;
                    match client.call(APPEND, (number,), total) {
                        Ok(_) => of_thread.numbers.lock().push((number, 1, 1)),
                        Err(RsmClientError::Unknown) => of_thread.numbers.lock().push((number, 0, 1)),
                        Err(error) => {
                            assert_eq!(error, RsmClientError::Unreachable);
                            of_thread.numbers.lock().push((number, 0, 0));
                        }
                    }
                }
                of_thread.ended.store(true, Ordering::SeqCst);
            })
            .unwrap();
            outcomes
        })
        .collect()
}

/// What a thread was told.
#[derive(Clone)]
struct Outcomes {
    /// Each number, and how often it is there, at least and at most.
    numbers: Arc<Mutex<Vec<(u64, u64, u64)>>>,
    ended: Arc<AtomicBool>,
}

impl Default for Outcomes {
    fn default() -> Self {
        let numbers = Mutex::new(Rank::new(65_000, "test.outcomes"), Vec::new());
        Outcomes { numbers: Arc::new(numbers), ended: Arc::default() }
    }
}

/// Each number is there as often as its caller was told; returns how many were acknowledged.
fn check(outcomes: &[Outcomes], numbers: &[u64]) -> u64 {
    let times = times(numbers);
    let (mut known, mut acknowledged) = (0, 0);
    for outcomes in outcomes {
        for (number, least, most) in outcomes.numbers.lock().iter() {
            let there = times.get(number).copied().unwrap_or_default();
            assert!((*least..=*most).contains(&there), "{number:#x} is there {there} times, not {least} to {most}");
            known += there;
            acknowledged += least;
        }
    }
    assert_eq!(known, numbers.len() as u64, "nothing else is there");
    acknowledged
}

/// Appends while nodes die, round after round: the primary, or all of them.
fn nodes_die(total: Duration, rounds: usize, all: bool) -> u64 {
    let mut cluster = Cluster::start(3);
    let stop = Arc::new(AtomicBool::new(false));
    let outcomes = appenders(&cluster, &stop, total);
    for _ in 0..rounds {
        let before: usize = outcomes.iter().map(|outcomes| outcomes.numbers.lock().len()).sum();
        wait_until("more calls end", || {
            outcomes.iter().map(|outcomes| outcomes.numbers.lock().len()).sum::<usize>() >= before + 100
        });
        let primary = cluster.primary();
        cluster.kill(primary);
        let others: Vec<usize> = (0..3).filter(|at| *at != primary).collect();
        if all {
            others.iter().for_each(|at| cluster.kill(*at));
            others.iter().for_each(|at| cluster.restart(*at));
        } else {
            cluster.wait_for_members(&others);
        }
        cluster.restart(primary);
        cluster.wait_for_members(&[0, 1, 2]);
    }
    stop.store(true, Ordering::SeqCst);
    wait_until("all threads end", || outcomes.iter().all(|outcomes| outcomes.ended.load(Ordering::SeqCst)));
    let numbers = cluster.wait_for_equal_states(&[0, 1, 2]);
    check(&outcomes, &numbers)
}

#[test]
fn h04_what_is_acknowledged_is_executed_once_though_primaries_die() {
    assert!(nodes_die(DEADLINE, 4, false) >= 400);
}

/// The time of a call is up while there is no primary: what is unknown is executed once at most.
#[test]
fn h04_what_is_unknown_is_executed_once_at_most() {
    nodes_die(Duration::from_millis(100), 3, false);
}

/// The service has no process left, and comes back from its disks.
#[test]
fn h04_what_is_acknowledged_is_executed_once_though_all_nodes_die() {
    assert!(nodes_die(DEADLINE, 3, true) >= 300);
}

/// A lab client's call: no session.
fn plain(client: &Client, n: u64) -> u64 {
    invoke(client, APPEND.number, &encode(&(n,))).1
}

/// A call of client_invoke, as it travels.
fn invoke<R: Unmarshal>(client: &Client, procedure: u32, args: &[u8]) -> (i32, R) {
    let (status, answer) = client.call(CLIENT_INVOKE, (procedure, Bytes(args.to_vec())), DEADLINE).unwrap();
    assert_eq!(status, ClientStatus::OK as i32);
    let (value, Bytes(result)) = decode::<(i32, Bytes)>(&answer.0).unwrap();
    (value, decode(&result).unwrap())
}

fn in_session(client: &Client, session: SessionId, seq: u64, n: u64) -> (i32, Bytes) {
    let args = encode(&(session, seq, 0_u64, Vec::<u64>::new(), APPEND.number, Bytes(encode(&(n,)))));
    let (status, (of, number, reply)) = invoke::<RequestRes>(client, REQUEST.number, &args);
    assert_eq!((of, number), (session, seq));
    (status, reply)
}

fn to(cluster: &Cluster, at: usize) -> Client {
    Client::new(yfs_rpc::names::resolve(&cluster.names[at]).unwrap(), yfs_rpc::Options::default())
}

#[test]
fn h04_a_lab_client_is_served_without_a_session() {
    let cluster = Cluster::start(2);
    let client = to(&cluster, cluster.primary());
    assert_eq!(plain(&client, 5), 1);
    // Two equal requests are two requests.
    assert_eq!(plain(&client, 5), 2);
    assert_eq!(append(&cluster.client(), 6), 3);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1]), [5, 5, 6]);
}

#[test]
fn h04_the_next_primary_has_the_reply_and_a_joiner_too() {
    let mut cluster = Cluster::start(3);
    let client = to(&cluster, 0);
    let (status, session) = invoke::<SessionId>(&client, OPEN.number, &encode(&(7_u64,)));
    assert_eq!(status, SessionStatus::OK as i32);
    let first = in_session(&client, session, 0, 5);
    assert_eq!(first.0, SessionStatus::OK as i32);
    assert_eq!(in_session(&client, session, 0, 5), first);
    cluster.kill(0);
    cluster.wait_for_members(&[1, 2]);
    assert_eq!(in_session(&to(&cluster, 1), session, 0, 5), first);
    // One that got the sessions with the state.
    cluster.restart(0);
    cluster.wait_for_members(&[0, 1, 2]);
    cluster.kill(1);
    cluster.wait_for_members(&[0, 2]);
    cluster.restart(1);
    cluster.wait_for_members(&[0, 1, 2]);
    cluster.kill(2);
    cluster.wait_for_members(&[0, 1]);
    assert_eq!(cluster.primary(), 0);
    let client = to(&cluster, 0);
    assert_eq!(in_session(&client, session, 0, 5), first);
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.clone()), [5]);
    let stranger = SessionId { number: session.number, owner: 8 };
    assert_eq!(in_session(&client, stranger, 1, 6).0, SessionStatus::EXPIRED as i32);
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.clone()), [5]);
}

/// Its session is part of the state, and so is on the disk.
#[test]
fn h04_a_session_outlives_all_processes() {
    let mut cluster = Cluster::start(2);
    let client = to(&cluster, 0);
    let (_, session) = invoke::<SessionId>(&client, OPEN.number, &encode(&(7_u64,)));
    let first = in_session(&client, session, 0, 5);
    assert_eq!(first.0, SessionStatus::OK as i32);
    cluster.kill(0);
    cluster.kill(1);
    cluster.restart(1);
    cluster.restart(0);
    cluster.wait_for_members(&[0, 1]);
    assert_eq!(in_session(&to(&cluster, cluster.primary()), session, 0, 5), first, "the reply, not a second execution");
    assert_eq!(cluster.wait_for_equal_states(&[0, 1]), [5]);
}

/// Its session is gone with all that the service had.
#[test]
fn h04_a_client_whose_session_is_gone_opens_another_one() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client();
    append(&client, 1);
    cluster.kill(0);
    cluster.lose_disk(0);
    cluster.restart(0);
    // It may have been sent to the node that died.
    let error = client.call(APPEND, (2,), DEADLINE).err();
    assert!(error.is_none_or(|error| error == RsmClientError::Unknown));
    append(&client, 3);
    append(&client, 4);
    let numbers = cluster.node(0).inspect(|numbers| numbers.0.clone());
    assert!(numbers.ends_with(&[3, 4]) && numbers.len() <= 3, "{numbers:?}");
}

#[test]
fn h04_more_threads_than_the_window_is_wide_share_a_session() {
    let cluster = Cluster::start(1);
    let client = Arc::new(cluster.client());
    let done = Arc::new(AtomicU64::new(0));
    for n in 0..1200 {
        let (client, done) = (client.clone(), done.clone());
        rt::thread::spawn("appender", move || {
            append(&client, n);
            done.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
    }
    wait_until("all are served", || done.load(Ordering::SeqCst) == 1200);
    let times = times(&cluster.node(0).inspect(|numbers| numbers.0.clone()));
    assert!(times.len() == 1200 && times.values().all(|times| *times == 1));
}

#[test]
fn h04_what_makes_no_sense_in_a_session_is_refused() {
    let cluster = Cluster::start(1);
    let client = to(&cluster, 0);
    let (_, session) = invoke::<SessionId>(&client, OPEN.number, &encode(&(7_u64,)));
    let request =
        |procedure: u32, args: Vec<u8>| encode(&(session, 0_u64, 0_u64, Vec::<u64>::new(), procedure, Bytes(args)));
    for args in [request(0x101, Vec::new()), request(REQUEST.number, request(APPEND.number, encode(&(1_u64,))))] {
        let (status, _) = client.call(CLIENT_INVOKE, (REQUEST.number, Bytes(args)), DEADLINE).unwrap();
        assert_eq!(status, ClientStatus::ERR as i32);
    }
    let (status, _) = client.call(CLIENT_INVOKE, (REQUEST.number, Bytes(vec![0; 20])), DEADLINE).unwrap();
    assert_eq!(status, ClientStatus::ERR as i32);
    assert!(cluster.node(0).inspect(|numbers| numbers.0.is_empty()));
}

#[test]
#[should_panic(expected = "is the RSM's own")]
fn h04_no_procedure_has_a_number_of_the_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let rsm =
        Rsm::new(Options { dir: dir.path().into(), ..Options::new("0", "0") }, common::Numbers::default()).unwrap();
    let taken: Procedure<(u64,), u64> = Procedure::new(REQUEST.number);
    rsm.reg(taken, |_, (n,)| (0, n));
}
