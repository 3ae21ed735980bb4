//! The client's calls, and a node that is a machine and nothing else.
#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use std::sync::Arc;

use yfs_rpc::Server;
use yfs_rpc::marshall::UnmarshalError;

use super::*;
use crate::protocol::{RequestArgs, RequestRes};
use crate::state_machine::{Machine, StateMachine};

const PATIENCE: Duration = Duration::from_secs(20);
const APPEND: Procedure<(u64,), u64> = Procedure::new(0x100);
const BULKY: Procedure<(u64,), Bytes> = Procedure::new(0x101);
/// Its reply leaves no room for another one.
const FILLING: Procedure<(u64,), Bytes> = Procedure::new(0x102);

#[derive(Default)]
struct Numbers(Vec<u64>);

impl StateMachine for Numbers {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        encode(&self.0)
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.0 = decode(state)?;
        Ok(())
    }
}

/// What the node has, and all that it was sent.
struct Node {
    machine: Machine<Numbers>,
    heard: Vec<(u32, Bytes)>,
    /// How many requests in sessions it executes without an answer that says so.
    mute: usize,
    /// How many requests in sessions it answers as those of another client, and doesn't execute.
    mistaken: usize,
    /// What it goes back to after that.
    older: Option<Vec<u8>>,
}

fn node() -> (Server, Arc<Mutex<Node>>, RsmClient) {
    let server = Server::bind_on(&PollMgr::shared(), "127.0.0.1:0".parse().unwrap(), Options::default()).unwrap();
    let mut machine = Machine::new(Numbers::default());
    machine.reg(APPEND, |numbers: &mut Numbers, (n,): (u64,)| {
        numbers.0.push(n);
        (0, numbers.0.len() as u64)
    });
    machine.reg(BULKY, |numbers: &mut Numbers, (n,): (u64,)| {
        numbers.0.push(n);
        (0, Bytes(vec![0; 3 << 20]))
    });
    machine.reg(FILLING, |numbers: &mut Numbers, (n,): (u64,)| {
        numbers.0.push(n);
        (0, Bytes(vec![0; (2 << 20) - 64]))
    });
    let node = Node { machine, heard: Vec::new(), mute: 0, mistaken: 0, older: None };
    let node = Arc::new(Mutex::new(Rank::new(65_000, "test.node"), node));
    let of_calls = node.clone();
    server.reg(CLIENT_INVOKE, move |procedure: u32, args: Bytes| {
        let mut node = of_calls.lock();
        if procedure == REQUEST.number && node.mistaken > 0 {
            node.mistaken -= 1;
            let (mut session, seq, ..) = decode::<RequestArgs>(&args.0).unwrap();
            session.owner ^= node.mistaken as u64;
            let reply = Bytes(encode(&(0, Bytes(encode(&1000_u64)))));
            let of_another = (session, seq + u64::from(node.mistaken == 0), reply);
            return (ClientStatus::OK, crate::state_machine::answer(SessionStatus::OK as i32, &of_another));
        }
        let (answer, _) = node.machine.execute(procedure, &args.0);
        node.heard.push((procedure, args));
        if procedure == REQUEST.number && node.mute > 0 {
            node.mute -= 1;
            if let Some(older) = node.older.take() {
                node.machine.unmarshal_state(&older).unwrap();
            }
            return (ClientStatus::BUSY, Bytes::default());
        }
        (ClientStatus::OK, answer)
    });
    let name = server.local_addr().to_string();
    let of_members = name.clone();
    server.reg(CLIENT_MEMBERS, move |_unused: i32| (ClientStatus::OK, vec![of_members.clone(), of_members.clone()]));
    server.start().unwrap();
    let client = RsmClient::connect(&[name], PATIENCE).unwrap();
    (server, node, client)
}

fn append(client: &RsmClient, n: u64) -> Result<(i32, u64), RsmClientError> {
    client.call(APPEND, (n,), PATIENCE)
}

/// Two clients draw one nonce about once in four billion times: the node takes their requests for copies.
#[test]
fn h04_the_answer_to_another_client_is_none() {
    let (server, node, client) = node();
    assert_eq!(append(&client, 0), Ok((0, 1)));
    node.lock().mistaken = 2;
    assert_eq!(append(&client, 1), Ok((0, 2)));
    assert_eq!(node.lock().mistaken, 0);
    assert_eq!(node.lock().machine.state.0, [0, 1]);
    assert!(server.shutdown());
}

/// An operator starts over from a node that had none of it.
#[test]
fn h04_a_session_never_has_the_id_of_one_that_is_lost() {
    let (server, node, client) = node();
    let older = node.lock().machine.marshal_state();
    for n in 0..5 {
        append(&client, n).unwrap();
    }
    // Another thread has begun a call in the session.
    let late = client.session.ticket(now() + PATIENCE, || Err(())).unwrap().unwrap();
    node.lock().machine.unmarshal_state(&older).unwrap();
    let copies = std::mem::take(&mut node.lock().heard);
    assert_eq!(append(&client, 10), Ok((0, 1)), "in a new session");
    let opens: Vec<Bytes> =
        node.lock().heard.iter().filter(|(p, _)| *p == OPEN.number).map(|(_, a)| a.clone()).collect();
    assert!(opens.len() == 1 && copies.iter().all(|(_, args)| *args != opens[0]));
    // Its end has nothing to do with the new session.
    client.session.ended(&late, Ended::GivenUp);
    client.session.expired(late.session);
    // Late copies of all that the lost session has ever sent.
    for (procedure, args) in copies.into_iter().filter(|(procedure, _)| *procedure == REQUEST.number) {
        let (session, ..) = decode::<RequestArgs>(&args.0).unwrap();
        assert_eq!(session, late.session);
        let (answer, ran) = node.lock().machine.execute(procedure, &args.0);
        let expired = in_session::<RequestRes>(&answer).is_some_and(|(status, _)| status == SessionStatus::EXPIRED);
        assert!(!ran && expired);
    }
    for n in 11..15 {
        assert_eq!(append(&client, n), Ok((0, n - 9)));
    }
    assert_eq!(node.lock().machine.state.0, [10, 11, 12, 13, 14]);
    assert_eq!(node.lock().heard.len(), 7, "a request that came in vain, one session, five requests");
    assert!(server.shutdown());
}

/// Its call is under way when the service goes back: nobody can tell what became of it.
#[test]
fn h04_a_call_in_a_session_that_is_lost_is_unknown_and_not_sent_in_another_one() {
    let (server, node, client) = node();
    let older = node.lock().machine.marshal_state();
    append(&client, 1).unwrap();
    {
        let mut node = node.lock();
        (node.mute, node.older) = (1, Some(older));
    }
    assert_eq!(append(&client, 2), Err(RsmClientError::Unknown));
    assert_eq!(append(&client, 3), Ok((0, 1)));
    assert_eq!(node.lock().machine.state.0, [3]);
    assert!(server.shutdown());
}

/// Others' replies fill all the room there is: of a session only the lowest number without an answer is executed. Each copy
/// said what was answered when its call began, and one that began behind others was told BUSY for ever.
#[test]
fn h04_a_call_told_to_wait_for_room_has_its_turn_when_those_before_it_are_answered() {
    let (server, node, client) = node();
    {
        let mut node = node.lock();
        let (answer, _) = node.machine.execute(OPEN.number, &encode(&(7_u64,)));
        let (_, other) = in_session::<SessionId>(&answer).unwrap();
        let args = Bytes(encode(&(1_u64,)));
        let fill = encode(&(other.unwrap(), 0_u64, 0_u64, Vec::<u64>::new(), FILLING.number, args));
        assert!(node.machine.execute(REQUEST.number, &fill).1);
    }
    append(&client, 2).unwrap();
    let first = client.session.ticket(now() + PATIENCE, || Err(())).unwrap().unwrap();
    let client = Arc::new(client);
    let second = rt::thread::spawn("second", {
        let client = client.clone();
        move || assert_eq!(append(&client, 3), Ok((0, 3)))
    })
    .unwrap();
    let heard = || node.lock().heard.len();
    let deadline = now() + PATIENCE;
    while heard() < 4 && now() < deadline {
        rt::time::sleep(Duration::from_millis(1));
    }
    assert_eq!(node.lock().machine.state.0, [1, 2], "it has heard the second call, and waits for the first one");
    client.session.ended(&first, Ended::Answered);
    assert!(second.join_until(now() + 2 * PATIENCE));
    assert_eq!(node.lock().machine.state.0, [1, 2, 3]);
    assert!(server.shutdown());
}

#[test]
fn h04_a_reply_too_large_to_be_kept_is_no_result_and_the_request_is_not_executed_again() {
    let (server, node, client) = node();
    assert!(client.call(BULKY, (1,), PATIENCE).is_ok(), "it has its answer at once");
    node.lock().mute = 1;
    assert_eq!(client.call(BULKY, (2,), PATIENCE), Err(RsmClientError::Result));
    assert_eq!(append(&client, 3), Ok((0, 3)), "in the same session");
    assert_eq!(node.lock().heard.iter().filter(|(procedure, _)| *procedure == OPEN.number).count(), 1);
    assert!(server.shutdown());
}
