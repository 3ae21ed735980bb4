//! A client of the lab asks our servers everything that a C++ program asks.

use std::sync::Arc;
use std::time::Duration;

use rt::time::now;

use crate::client::StrictClient;
use crate::lock_service::{LabLockClient, client_invoke, client_invoke_again, client_members};
use crate::server::StrictServer;
use crate::wire::{
    ACCEPTREQ, ACQUIRE, BREAKPOINT, BUSY, CLIENT_BUSY, CLIENT_INVOKE, CLIENT_MEMBERS, CLIENT_NOTPRIMARY, DECIDEREQ,
    ERR, Enc, HEARTBEAT, INVOKE, JOINREQ, LOCK_NOENT, LOCK_RETRY, LOCK_RPCERR, NET_REPAIR, OK, OLDSRV, PREPAREREQ,
    RELEASE, RETRY, REVOKE, STAT, TRANSFERDONEREQ, TRANSFERREQ, UNMARSHAL_ARGS, only,
};
use crate::{Ours, PATIENCE, eventually, free_port};

const LOCK: u64 = 0x1_0000_0001;

/// A call whose whole result is one value.
fn one<T>(to: &StrictClient, procedure: u32, args: Enc, read: impl FnOnce(&mut crate::wire::Dec<'_>) -> T) -> (i32, T) {
    let (status, result) = to.call(procedure, args, PATIENCE).unwrap();
    assert!(status >= 0, "{procedure:#x}: error {status}");
    (status, only("a result", &result, read))
}

fn heartbeat(to: &StrictClient, me: &str, vid: u32) -> (i32, u32) {
    one(to, HEARTBEAT, Enc::new().text(me).u32(vid), |dec| dec.u32())
}

/// status, oldinstance, accept, n_a, v_a
type Promise = (i32, bool, bool, (u32, String), String);

fn prepare(to: &StrictClient, src: &str, instance: u32, n: u32) -> Promise {
    let args = Enc::new().text(src).u32(instance).u32(n).text(src);
    let (status, (old, accept, number, node, value)) =
        one(to, PREPAREREQ, args, |dec| (dec.flag(), dec.flag(), dec.u32(), dec.text(), dec.text()));
    (status, old, accept, (number, node), value)
}

fn transferreq(to: &StrictClient, me: &str, last: (u32, u32), vid: u32) -> (i32, (Vec<u8>, u32, u32)) {
    let args = Enc::new().text(me).u32(last.0).u32(last.1).u32(vid);
    one(to, TRANSFERREQ, args, |dec| (dec.bytes(), dec.u32(), dec.u32()))
}

fn transferdonereq(to: &StrictClient, me: &str, vid: u32) -> i32 {
    one(to, TRANSFERDONEREQ, Enc::new().text(me).u32(vid), |dec| dec.u32()).0
}

fn joinreq(to: &StrictClient, me: &str) -> (i32, String) {
    one(to, JOINREQ, Enc::new().text(me).u32(0).u32(0), |dec| dec.text())
}

#[test]
fn a_lone_server_answers_to_the_byte() {
    let ours = Ours::service(1);
    let me = ours.name(0);
    let client = StrictClient::of(me);
    let nonce = client.bind(PATIENCE).unwrap();
    assert_eq!(client_members(&client), (vec![me.to_owned()], me.to_owned()));

    // What stops a C++ server: an unknown procedure, an argument too few, a byte too many, a count beyond the end.
    assert_eq!(client.call(0x4711, Enc::new().i32(0), PATIENCE), Ok((UNMARSHAL_ARGS, Vec::new())));
    for procedure in [
        CLIENT_INVOKE,
        CLIENT_MEMBERS,
        INVOKE,
        TRANSFERREQ,
        TRANSFERDONEREQ,
        JOINREQ,
        PREPAREREQ,
        ACCEPTREQ,
        DECIDEREQ,
        HEARTBEAT,
    ] {
        for args in [Enc::new(), Enc::new().flag(true), Enc::new().u32(u32::MAX - 15), Enc(vec![0; 99])] {
            if procedure == CLIENT_MEMBERS && args.0.len() == 4 {
                continue;
            }
            let answer = client.call(procedure, args, PATIENCE);
            assert_eq!(answer, Ok((UNMARSHAL_ARGS, Vec::new())), "{procedure:#x}");
        }
    }

    // Another server's nonce, as after a restart.
    client.remember(nonce ^ 1);
    assert_eq!(client.call(CLIENT_MEMBERS, Enc::new().i32(0), PATIENCE), Ok((OLDSRV, Vec::new())));
    client.remember(nonce);

    // A request that the state machine doesn't know, or can't read, stops a C++ server as well.
    assert_eq!(client_invoke(&client, 0x7777, Enc::new()), (ERR, None));
    let (status, answer) = client_invoke(&client, ACQUIRE, Enc::new().u64(1));
    assert_eq!((status, answer), (OK, Some((UNMARSHAL_ARGS, Vec::new()))));
    assert_eq!(LabLockClient::new(me).stat(1), 0, "it lives");
}

#[test]
fn locks_go_from_client_to_client() {
    let ours = Ours::service(3);
    let (one, two) = (LabLockClient::new(ours.name(0)), LabLockClient::new(ours.name(0)));
    assert_eq!(one.release(LOCK, 0), LOCK_NOENT, "never asked for");
    assert_eq!(one.stat(LOCK), 0);
    // C++ clients begin with xid 0.
    assert_eq!(one.acquire(LOCK, 0), OK);
    assert_eq!(one.acquire(LOCK, 0), OK, "the same xid, the same answer");
    assert_eq!(one.stat(LOCK), 1, "and not executed again");
    assert_eq!(two.acquire(LOCK, 5), LOCK_RETRY);
    assert_eq!(two.acquire(LOCK, 5), LOCK_RETRY);
    assert_eq!(two.acquire(LOCK, 4), LOCK_RPCERR, "a lower xid");
    one.hears(REVOKE, LOCK, 0);
    // Some C++ clients release with their next xid.
    assert_eq!(one.release(LOCK, 1), OK);
    two.hears(RETRY, LOCK, 5);
    assert_eq!(two.acquire(LOCK, 6), OK);
    assert_eq!(two.stat(LOCK), 2);
    // Others with the acquire's.
    assert_eq!(two.release(LOCK, 5), LOCK_RPCERR);
    assert_eq!(two.release(LOCK, 6), OK);
    assert_eq!(one.acquire(LOCK, 2), OK);
    assert_eq!(one.release(LOCK, 2), OK);
}

#[test]
fn a_lost_answer_is_given_again_on_a_new_connection() {
    let ours = Ours::service(2);
    let client = LabLockClient::new(ours.name(0));
    let args = || Enc::new().u64(LOCK).text(&client.id).u64(1);
    let (status, answer) = client_invoke(&client.rsm, ACQUIRE, args());
    assert_eq!((status, answer.as_ref().unwrap().0), (OK, OK));
    client.rsm.break_connection();
    assert_eq!(client_invoke_again(&client.rsm, ACQUIRE, args()), (status, answer));
    // A release executed twice would be seen: the lock is somebody else's by then.
    let other = LabLockClient::new(ours.name(0));
    client_invoke(&client.rsm, RELEASE, args());
    assert_eq!(other.acquire(LOCK, 1), OK);
    client.rsm.break_connection();
    let again = client_invoke_again(&client.rsm, RELEASE, args());
    assert_eq!(again.1.unwrap().0, OK);
    assert_eq!(other.acquire(LOCK, 1), OK);
    assert_eq!(other.stat(LOCK), 2);
}

#[test]
fn a_backup_and_strangers() {
    let ours = Ours::service(2);
    let (primary, backup) = (StrictClient::bound(ours.name(0)), StrictClient::bound(ours.name(1)));
    assert_eq!(client_members(&backup), client_members(&primary));
    assert_eq!(client_invoke(&backup, STAT, Enc::new().u64(1)), (CLIENT_NOTPRIMARY, None));
    // Complete results, whatever the status.
    assert_eq!(transferreq(&backup, "1", (0, 0), 2), (BUSY, (Vec::new(), 0, 0)));
    assert_eq!(transferreq(&primary, "1", (0, 0), 1), (BUSY, (Vec::new(), 0, 0)));
    assert_eq!(transferdonereq(&backup, "1", 2), BUSY);
    assert_eq!(transferdonereq(&primary, "1", 1), BUSY);
    assert_eq!(joinreq(&backup, &free_port().to_string()), (BUSY, String::new()));
    let invoke = || Enc::new().u32(STAT).u32(2).u32(7).bytes(&Enc::new().u64(1).0);
    assert_eq!(one(&primary, INVOKE, invoke(), |dec| dec.u32()).0, ERR);
    assert_eq!(one(&backup, INVOKE, invoke(), |dec| dec.u32()).0, ERR, "a gap");

    // Paxos: anybody may ask for what is decided; strangers neither get votes nor are believed.
    let members = format!("{} {} ", ours.name(0), ours.name(1));
    let (status, old, accept, _, value) = prepare(&backup, "1", 2, 1);
    assert_eq!((status, old, accept, value), (OK, true, false, members.clone()));
    let (status, old, _, _, value) = prepare(&backup, "1", 1, 1);
    assert_eq!((status, old, value.as_str()), (OK, true, ours.name(0)));
    for instance in [3, 4, 1 << 31] {
        let (_, old, accept, _, value) = prepare(&backup, "1", instance, 1 << 30);
        assert_eq!((old, accept, value.as_str()), (false, false, ""));
        let args = Enc::new().text("1").u32(instance).u32(1 << 30).text("1").text("1 ");
        assert!(!one(&backup, ACCEPTREQ, args, |dec| dec.flag()).1);
        one(&backup, DECIDEREQ, Enc::new().text("1").u32(instance).text("1 "), |dec| dec.u32());
    }
    assert_eq!(one(&backup, DECIDEREQ, Enc::new().text("1").u32(2).text(&members), |dec| dec.u32()).0, OK, "old news");

    // Heartbeats: the receiver's view, and OK only in the same one.
    assert_eq!(heartbeat(&backup, ours.name(0), 2), (OK, 2));
    assert_eq!(heartbeat(&backup, "1", 7), (ERR, 2));
    assert_eq!(heartbeat(&backup, "1", 0), (ERR, 2));
    assert_eq!(ours.view(1), (2, vec![ours.name(0).to_owned(), ours.name(1).to_owned()]), "nothing has changed");
}

/// A joiner that takes its time: it is a member that is not yet in sync.
#[test]
fn while_a_member_syncs_clients_are_told_busy() {
    let ours = Ours::service(1);
    let alive = StrictServer::start(Arc::new(|procedure, args| match procedure {
        HEARTBEAT => {
            let vid = only("heartbeat", args, |dec| (dec.text(), dec.u32())).1;
            (OK, Enc::new().u32(vid).0)
        }
        INVOKE => {
            only("invoke", args, |dec| (dec.u32(), dec.u32(), dec.u32(), dec.bytes()));
            (OK, Enc::new().u32(crate::wire::garbage()).0)
        }
        other => panic!("{other:#x} from a primary alone"),
    }));
    let (me, first) = (alive.name(), ours.name(0));
    let joiner = StrictClient::bound(first);
    let (status, log) = joinreq(&joiner, &me);
    assert_eq!(status, OK);
    let expected =
        format!("done 1 {first}\npropseen 1 {first}\naccepted 1 {first} {first} {me} \ndone 2 {first} {me} \n");
    assert_eq!(log, expected);

    let client = StrictClient::bound(first);
    assert_eq!(client_invoke(&client, STAT, Enc::new().u64(1)), (CLIENT_BUSY, None));
    let deadline = now() + PATIENCE;
    while transferreq(&joiner, &me, (0, 0), 2) != (OK, (Vec::new(), 0, 0)) {
        assert!(now() < deadline);
    }
    assert_eq!(transferreq(&joiner, &me, (0, 0), 3), (BUSY, (Vec::new(), 0, 0)));
    assert_eq!(client_invoke(&client, STAT, Enc::new().u64(1)), (CLIENT_BUSY, None));
    assert_eq!(transferdonereq(&joiner, &me, 3), BUSY);
    assert_eq!(transferdonereq(&joiner, &me, 2), OK);
    eventually("it serves", || client_invoke(&client, STAT, Enc::new().u64(1)).0 == OK);
    // Its answer was lost, say.
    assert_eq!(transferdonereq(&joiner, &me, 2), OK);
    assert_eq!(joinreq(&StrictClient::bound(first), "no name"), (ERR, String::new()));
}

#[test]
fn the_test_port() {
    let mut ours = Ours::none();
    let test_port = free_port();
    let first = ours.start_with("0", |options| yfs_rsm::Options { test_port: Some(test_port), ..options });
    ours.start(&first);
    ours.wait_for_members(2);
    let tester = StrictClient::bound(&test_port.to_string());
    let order = |procedure, arg| one(&tester, procedure, Enc::new().i32(arg), |dec| dec.i32());
    // The result is the status once more.
    for b in [9, 0, 5, -1] {
        assert_eq!(order(BREAKPOINT, b), (ERR, ERR));
    }
    assert_eq!(tester.call(BREAKPOINT, Enc::new(), PATIENCE), Ok((UNMARSHAL_ARGS, Vec::new())));

    let client = LabLockClient::new(&first);
    eventually("it serves", || client_invoke(&client.rsm, STAT, Enc::new().u64(1)).0 == OK);
    assert_eq!(order(NET_REPAIR, 0), (OK, OK));
    // It is cut off in the middle of this one, after its only backup has answered.
    assert_eq!(client.stat(1), 0);
    assert!(StrictClient::of(&first).bind(Duration::from_millis(300)).is_err(), "nobody is heard");
    assert_eq!(order(NET_REPAIR, 1), (OK, OK), "but for the tester");
    let client = LabLockClient::new(&first);
    eventually("it serves again", || client_invoke(&client.rsm, STAT, Enc::new().u64(1)).0 == OK);
}
