//! Replicas in one process: views, failures, restarts.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::{APPEND, Cluster, DEADLINE, append, wait_until};
use yfs_rpc::{Client, Procedure};
use yfs_rsm::protocol::{CLIENT_INVOKE, CUT_MEMBERS, ClientStatus, JOINREQ, RsmStatus, Viewstamp};
use yfs_rsm::{Options, RsmClient, RsmClientError};

#[test]
fn three_nodes_execute_everything_in_the_same_order() {
    let cluster = Cluster::start(3);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let client = cluster.client();
            rt::thread::spawn("appender", move || {
                for n in 0..25 {
                    append(&client, thread * 1000 + n);
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        assert!(thread.join_until(rt::time::now() + DEADLINE));
    }
    let mut numbers = cluster.wait_for_equal_states(&[0, 1, 2]);
    numbers.sort_unstable();
    let wanted: Vec<u64> = (0..4).flat_map(|thread| (0..25).map(move |n| thread * 1000 + n)).collect();
    assert_eq!(numbers, wanted);
}

#[test]
fn a_dead_backup_is_removed_and_comes_back() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    append(&client, 1);
    cluster.kill(2);
    append(&client, 2);
    cluster.wait_for_members(&[0, 1]);
    cluster.restart(2);
    cluster.wait_for_members(&[0, 1, 2]);
    append(&client, 3);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2, 3]);
}

#[test]
fn a_dead_primary_is_followed_by_the_next_member_and_comes_back_as_the_last() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    append(&client, 1);
    cluster.kill(0);
    append(&client, 2);
    cluster.wait_for_members(&[1, 2]);
    assert_eq!(cluster.primary(), 1);
    // With FIRST = ME, and a log: it joins.
    cluster.restart(0);
    cluster.wait_for_members(&[0, 1, 2]);
    assert_eq!(cluster.primary(), 1);
    append(&client, 3);
    assert_eq!(cluster.wait_for_equal_states(&[0, 1, 2]), [1, 2, 3]);
}

#[test]
fn h08_a_member_that_restarts_at_once_is_one_again_and_nothing_is_lost() {
    for victim in [0, 1, 2] {
        let mut cluster = Cluster::start(3);
        let client = cluster.client();
        append(&client, 1);
        cluster.kill(victim);
        cluster.restart(victim);
        append(&client, 2);
        cluster.wait_for_members(&[0, 1, 2]);
        append(&client, 3);
        let numbers = cluster.wait_for_equal_states(&[0, 1, 2]);
        assert_eq!(numbers, [1, 2, 3], "victim {victim}");
    }
}

/// Killed at any moment, again and again, it has what it has acknowledged.
#[test]
fn a_single_node_restarts() {
    let mut cluster = Cluster::start(1);
    let client = cluster.client();
    for n in 1..=5 {
        assert_eq!(append(&client, n), n);
        cluster.kill(0);
        cluster.restart(0);
    }
    assert_eq!(append(&client, 6), 6);
    assert_eq!(cluster.node(0).inspect(|numbers| numbers.0.clone()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(cluster.node(0).view(), (6, vec![cluster.names[0].clone()]), "a view of the same members a start");
}

/// The lab's client asks a primary that is cut off again and again.
#[test]
fn h10_clients_leave_a_primary_that_is_cut_off_from_its_backups() {
    let cluster = Cluster::start(3);
    let client = cluster.client();
    append(&client, 1);
    let primary = cluster.primary();
    cluster.node(primary).cut_members(true);
    append(&client, 2);
    let others: Vec<usize> = (0..3).filter(|at| *at != primary).collect();
    cluster.wait_for_members(&others);
    cluster.node(primary).cut_members(false);
    cluster.wait_for_members(&[0, 1, 2]);
    append(&client, 3);
    let numbers = cluster.wait_for_equal_states(&[0, 1, 2]);
    assert!(numbers.starts_with(&[1]) && numbers.ends_with(&[3]) && numbers.contains(&2), "{numbers:?}");
}

/// The lab's client takes names off a list that runs dry.
#[test]
fn h14_a_client_that_has_nobody_left_starts_over_from_its_seeds() {
    let mut cluster = Cluster::start(2);
    let client = cluster.client();
    append(&client, 1);
    cluster.kill(1);
    cluster.kill(0);
    let error = client.call(APPEND, (2,), Duration::from_millis(700)).unwrap_err();
    assert!(matches!(error, RsmClientError::Unreachable | RsmClientError::Unknown), "{error}");
    cluster.restart(0);
    cluster.restart(1);
    // Its session is there still.
    let length = append(&client, 3);
    let numbers = cluster.wait_for_equal_states(&[0, 1]);
    assert_eq!(numbers.len() as u64, length);
    assert!(numbers == [1, 3] || error == RsmClientError::Unknown && numbers == [1, 2, 3], "{error}: {numbers:?}");
}

#[test]
fn h14_a_client_without_a_service_says_so() {
    let seeds = ["1".to_owned()];
    let error = RsmClient::connect(&seeds, Duration::from_millis(300)).unwrap_err();
    assert_eq!(error, RsmClientError::Unreachable);
    assert_eq!(RsmClient::connect(&[], DEADLINE).unwrap_err(), RsmClientError::NoSeed);
    let error = RsmClient::connect(&["no name".to_owned()], DEADLINE).unwrap_err();
    assert!(matches!(error, RsmClientError::Seed(_)), "{error}");
}

/// The lab's test port is always open, to everybody.
#[test]
fn h20_there_is_no_test_port_unless_asked_for_and_it_is_on_loopback() {
    let mut cluster = Cluster::start(1);
    let test_port = {
        let free = yfs_rpc::Server::bind("127.0.0.1:0".parse().unwrap(), yfs_rpc::Options::default()).unwrap();
        free.local_addr().port()
    };
    let addr = |host: [u8; 4]| std::net::SocketAddr::from((host, test_port));
    let call = |host| {
        let client = Client::new(addr(host), yfs_rpc::Options::default());
        client.call(CUT_MEMBERS, (1,), Duration::from_millis(500))
    };
    assert!(call([127, 0, 0, 1]).is_err(), "nobody has asked for a test port");
    cluster.kill(0);
    cluster.start_with(0, Options { test_port: Some(test_port), ..cluster.options(0) });
    assert!(call([127, 0, 0, 1]).is_ok());
    // 127.0.0.2 is this machine too, but not the address that the test port is on.
    assert!(call([127, 0, 0, 2]).is_err());
}

/// The lab's joiner asks FIRST only.
#[test]
fn h25_a_node_comes_back_though_its_first_is_dead() {
    let mut cluster = Cluster::start(4);
    let client = cluster.client();
    append(&client, 1);
    cluster.kill(0);
    cluster.wait_for_members(&[1, 2, 3]);
    cluster.kill(3);
    append(&client, 2);
    cluster.wait_for_members(&[1, 2]);
    // Its command line still names node 0.
    cluster.restart(3);
    cluster.wait_for_members(&[1, 2, 3]);
    assert_eq!(cluster.wait_for_equal_states(&[1, 2, 3]), [1, 2]);
}

#[test]
fn what_the_state_machine_does_not_know_is_refused() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    let unknown: Procedure<(u64,), u64> = Procedure::new(0x101);
    assert_eq!(client.call(unknown, (1,), DEADLINE).unwrap_err(), RsmClientError::Refused);
    let too_few: Procedure<(), u64> = Procedure::new(APPEND.number);
    assert_eq!(client.call(too_few, (), DEADLINE).unwrap_err(), RsmClientError::Refused);
    assert_eq!(append(&client, 1), 1);
}

#[test]
fn a_backup_refers_clients_to_the_primary() {
    let cluster = Cluster::start(2);
    let addr = yfs_rpc::names::resolve(&cluster.names[1]).unwrap();
    let client = Client::new(addr, yfs_rpc::Options::default());
    let request = (APPEND.number, yfs_rpc::marshall::Bytes::default());
    wait_until("the backup has the view", || cluster.node(1).view().0 == 2);
    let (status, result) = client.call(CLIENT_INVOKE, request, DEADLINE).unwrap();
    assert_eq!(status, ClientStatus::NOTPRIMARY as i32);
    assert!(result.0.is_empty());
    // Asked at the wrong place, the client finds the right one.
    assert_eq!(append(&RsmClient::connect(&cluster.names[1..], DEADLINE).unwrap(), 1), 1);
}

/// Anybody may ask to join; a name at which nobody answers would cost the service its next failure.
#[test]
fn a_joiner_that_nobody_can_reach_is_not_admitted() {
    let cluster = Cluster::start(2);
    let client = Client::new(yfs_rpc::names::resolve(&cluster.names[0]).unwrap(), yfs_rpc::Options::default());
    for stranger in ["1", "127.0.0.1:1", "no such name", "", &cluster.names[0]] {
        let (status, log) = client.call(JOINREQ, (stranger.to_owned(), Viewstamp::default()), DEADLINE).unwrap();
        assert_ne!(status, RsmStatus::OK as i32, "{stranger:?}");
        assert!(log.0.is_empty());
    }
    assert_eq!(cluster.node(0).view().0, 2);
    assert_eq!(append(&cluster.client(), 1), 1);
}

/// An address has many names. A node that is added under another one than its own would never come into sync.
#[test]
fn nobody_is_added_under_a_name_that_is_not_its_own_or_out_of_another_service() {
    let cluster = Cluster::start(2);
    let other = Cluster::start(2);
    append(&cluster.client(), 1);
    let client = Client::new(yfs_rpc::names::resolve(&cluster.names[0]).unwrap(), yfs_rpc::Options::default());
    for port in cluster.names.iter().chain(&other.names) {
        for host in ["", "localhost:", "0.0.0.0:", "0:", "127.1:", "[::ffff:127.0.0.1]:", "[::FFFF:7f00:1]:"] {
            for zeros in ["", "0"] {
                let name = format!("{host}{zeros}{port}");
                let (status, _) = client.call(JOINREQ, (name.clone(), Viewstamp::default()), DEADLINE).unwrap();
                assert_ne!(status, RsmStatus::OK as i32, "{name:?}");
            }
        }
    }
    assert_eq!((cluster.node(0).view().0, other.node(0).view().0), (2, 2));
    assert_eq!(append(&cluster.client(), 2), 2);
}

/// Of those that its log names nobody is left; it is told of others.
#[test]
fn a_first_node_comes_back_with_its_command_line_though_all_others_were_replaced() {
    let mut cluster = Cluster::start(3);
    append(&cluster.client(), 1);
    cluster.wait_for_equal_states(&[0, 1, 2]);
    cluster.kill(0);
    cluster.wait_for_members(&[1, 2]);
    for at in [3, 4] {
        cluster.nodes.push(None);
        cluster.names.push("0".to_owned());
        cluster.start_with(at, Options { first: cluster.names[1].clone(), ..cluster.options(at) });
        cluster.names[at] = cluster.node(at).me().to_owned();
        cluster.wait_for_members(&(1..=at).collect::<Vec<_>>());
    }
    cluster.kill(1);
    cluster.wait_for_members(&[2, 3, 4]);
    cluster.kill(2);
    cluster.wait_for_members(&[3, 4]);
    cluster.start_with(0, Options { also: cluster.names[3..].to_vec(), ..cluster.options(0) });
    cluster.wait_for_members(&[0, 3, 4]);
    assert_eq!(cluster.wait_for_equal_states(&[0, 3, 4]), [1]);
}

/// A lab node with another state answers, at as many names as it likes. No connection to it may stay.
#[test]
fn joiners_that_are_not_admitted_leave_no_connections_behind() {
    let cluster = Cluster::start(1);
    append(&cluster.client(), 1);
    let lab = LabNode::start();
    let client = Client::new(yfs_rpc::names::resolve(&cluster.names[0]).unwrap(), yfs_rpc::Options::default());
    for host in 1..=100 {
        let name = format!("127.0.1.{host}:{}", lab.port);
        let answer = client.call(JOINREQ, (name, Viewstamp { vid: 9, seqno: 9 }), DEADLINE);
        assert_eq!(answer.unwrap().0, RsmStatus::BUSY as i32);
    }
    wait_until("connections are closed", || lab.connections().1 == 0);
    assert!(lab.connections().0 >= 100);
}

/// To ask each back takes a second: nothing answers at that name, and nothing refuses.
#[test]
fn strangers_that_ask_to_join_keep_no_member_from_coming_back() {
    let mut cluster = Cluster::start(3);
    append(&cluster.client(), 1);
    cluster.kill(2);
    cluster.wait_for_members(&[0, 1]);
    let mute = yfs_rpc::Server::bind(([127, 0, 0, 1], 0).into(), yfs_rpc::Options::default()).unwrap();
    let name = mute.local_addr().port().to_string();
    let client = Client::new(yfs_rpc::names::resolve(&cluster.names[0]).unwrap(), yfs_rpc::Options::default());
    for _ in 0..400 {
        client.call_async(JOINREQ, (name.clone(), Viewstamp::default()), 10 * DEADLINE, |_| {});
    }
    cluster.restart(2);
    cluster.wait_for_members(&[0, 1, 2]);
    mute.shutdown();
}

/// The one that comes back wants a view formed with it; the dead one has to be removed for that.
#[test]
fn two_of_three_die_and_one_comes_back() {
    for (survivor, dead, back) in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)] {
        let mut cluster = Cluster::start(3);
        let client = cluster.client();
        append(&client, 1);
        cluster.wait_for_equal_states(&[0, 1, 2]);
        cluster.kill(dead);
        cluster.kill(back);
        cluster.restart(back);
        cluster.wait_for_members(&[survivor, back]);
        append(&client, 2);
        assert_eq!(cluster.wait_for_equal_states(&[survivor, back]), [1, 2], "{survivor} {dead} {back}");
        cluster.restart(dead);
        cluster.wait_for_members(&[0, 1, 2]);
    }
}

/// Answers every request as the lab's server answers its bind, without a word of ours in it.
struct LabNode {
    port: u16,
    /// How many connections were made, and how many are left.
    connections: Arc<(AtomicUsize, AtomicUsize)>,
}

#[allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, reason = "a test; it isn't ours")]
impl LabNode {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let counted = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, counted) = (stream.unwrap(), counted.clone());
                counted.0.fetch_add(1, SeqCst);
                counted.1.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    let _ = answer_all(&mut stream);
                    counted.1.fetch_sub(1, SeqCst);
                });
            }
        });
        LabNode { port, connections }
    }

    fn connections(&self) -> (usize, usize) {
        (self.connections.0.load(SeqCst), self.connections.1.load(SeqCst))
    }
}

#[allow(clippy::disallowed_types, reason = "it isn't ours")]
fn answer_all(stream: &mut std::net::TcpStream) -> std::io::Result<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize - size.len()];
        stream.read_exact(&mut request)?;
        // Size, the request's number, no checksum and no result, the status; and a nonce.
        let mut reply = vec![0, 0, 0, 28];
        reply.extend(&request[..4]);
        reply.extend([0; 16]);
        reply.extend([0, 0, 0, 7]);
        stream.write_all(&reply)?;
    }
}
