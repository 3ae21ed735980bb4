//! Nodes of the lab and nodes of ours in one view.

use std::time::Duration;

use rt::time::now;
use yfs_lock::lock_protocol::{self, ClientId, LockId, Xid};
use yfs_rsm::{Options, RsmClient, Timing};

use crate::client::StrictClient;
use crate::lab_node::LabNode;
use crate::lock_service::{LabLockClient, client_invoke, client_members};
use crate::wire::{ACQUIRE, Enc, JOINREQ, OK, RELEASE};
use crate::{Ours, PATIENCE, eventually};

/// The lab's cadence five times over.
const QUIET: Duration = Duration::from_secs(16);

/// Waits until the lab's node and all of ours are in sync in a view of that size.
fn wait_for_all(ours: &Ours, labs: &LabNode, size: usize) {
    ours.wait_for_members(size);
    eventually("the lab's node is in sync", || labs.view().1.len() == size && labs.is_in_sync());
    eventually("somebody serves", || {
        let primary = labs.view().1[0].clone();
        labs.name() == primary || ours.nodes.iter().any(|node| node.rsm().amiprimary())
    });
}

/// Takes and gives back a lock so many times, as a client of the lab.
fn lock_and_unlock(client: &LabLockClient, lock: u64, xids: std::ops::Range<u64>) {
    for xid in xids {
        for procedure in [ACQUIRE, RELEASE] {
            eventually("a request is served", || {
                let args = Enc::new().u64(lock).text(&client.id).u64(xid);
                let (status, answer) = client_invoke(&client.rsm, procedure, args);
                if let Some((status, _)) = answer {
                    assert_eq!(status, OK, "{procedure:#x} with xid {xid}");
                }
                status == OK
            });
        }
    }
}

/// All of ours have executed as much.
fn ours_agree(ours: &Ours) {
    eventually("our nodes agree", || {
        let state = |at: usize| ours.nodes[at].rsm().inspect(yfs_lock::lock_table::LockTable::marshal);
        (1..ours.nodes.len()).all(|at| state(at) == state(0))
    });
}

#[test]
fn a_lab_node_joins_ours_executes_as_a_backup_and_dies() {
    let ours = Ours::service(2);
    let labs = LabNode::joining(ours.name(0));
    wait_for_all(&ours, &labs, 3);
    assert_eq!(labs.view(), ours.view(0), "the same view under the same number");
    let client = LabLockClient::new(ours.name(0));
    lock_and_unlock(&client, 1, 0..20);
    let stamps = labs.executed();
    assert!(stamps.len() >= 40, "{stamps:?}");
    assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
    ours_agree(&ours);

    // It can't be asked for its name, but it is known by its nonce.
    let stranger = StrictClient::bound(ours.name(0));
    let (view, last) = (ours.view(0), ours.nodes[0].rsm().last_executed());
    for host in ["0.0.0.0", "[::ffff:127.0.0.1]", "localhost"] {
        let args = Enc::new().text(&format!("{host}:{}", labs.name())).u32(last.vid).u32(last.seqno);
        let (status, _) = stranger.call(JOINREQ, args, PATIENCE).unwrap();
        assert_ne!(status, OK, "{host}");
    }
    assert_eq!(ours.view(0), view);

    labs.die();
    ours.wait_for_members(2);
    lock_and_unlock(&client, 1, 20..30);
    assert_eq!(client.stat(1), 30);
    ours_agree(&ours);
}

/// It would abort at a request in a session.
#[test]
fn h04_a_lab_backup_sees_no_session_of_our_client() {
    let ours = Ours::service(2);
    let labs = LabNode::joining(ours.name(0));
    wait_for_all(&ours, &labs, 3);
    let client = RsmClient::connect(&[ours.name(0).to_owned()], PATIENCE).unwrap();
    let lock_and_unlock = |xid: u64| {
        for procedure in [lock_protocol::ACQUIRE, lock_protocol::RELEASE] {
            let args = (LockId(1), ClientId::new("127.0.0.1:1"), Xid(xid));
            assert_eq!(client.call(procedure, args, PATIENCE).unwrap().0, OK);
        }
    };
    (0..5).for_each(lock_and_unlock);
    assert_eq!(labs.executed().len(), 10);

    labs.die();
    ours.wait_for_members(2);
    (5..10).for_each(lock_and_unlock);
    assert_eq!(client.call(lock_protocol::STAT, (LockId(1),), PATIENCE).unwrap().1, 10);
    // The session was opened, and the requests were executed in it.
    assert!(ours.nodes[0].rsm().last_executed().seqno >= 12);
    ours_agree(&ours);
}

#[test]
fn ours_follow_a_lab_primary_and_survive_it() {
    let labs = LabNode::first();
    let mut ours = Ours::none();
    for size in 2..=3 {
        ours.start(labs.name());
        wait_for_all(&ours, &labs, size);
    }
    assert_eq!(labs.view(), ours.view(0));
    let (members, primary) = client_members(&StrictClient::bound(ours.name(1)));
    assert_eq!((members, primary.as_str()), (labs.view().1, labs.name()), "ours say who is the primary");

    let client = LabLockClient::new(labs.name());
    lock_and_unlock(&client, 1, 0..20);
    assert_eq!(client.stat(1), 20);
    let last = *labs.executed().last().unwrap();
    for node in &ours.nodes {
        let executed = node.rsm().last_executed();
        assert_eq!((executed.vid, executed.seqno), last);
        assert_eq!(node.rsm().inspect(|table| table.stat(1.into())), 20);
    }
    ours_agree(&ours);

    labs.die();
    ours.wait_for_members(2);
    eventually("the first of ours is the primary", || ours.nodes[0].rsm().amiprimary());
    let client = LabLockClient::new(ours.name(0));
    assert_eq!(client.stat(1), 20);
    lock_and_unlock(&client, 1, 0..5);
    ours_agree(&ours);
}

/// A lab primary that got no answer to an invoke in time goes on with the next stamp, and never sends the lost one again.
#[test]
fn ours_gets_over_a_stamp_that_a_lab_primary_skips() {
    let labs = LabNode::first();
    let mut ours = Ours::none();
    ours.start(labs.name());
    wait_for_all(&ours, &labs, 2);
    let client = LabLockClient::new(labs.name());
    lock_and_unlock(&client, 1, 0..3);
    let (vid, members) = labs.view();
    labs.lose_a_stamp();
    lock_and_unlock(&client, 1, 3..6);
    assert_eq!(labs.view(), (vid + 1, members), "one view more re-synced it");
    assert_eq!(ours.nodes[0].rsm().inspect(|table| table.stat(1.into())), 6);
}

/// What is missing of several views only joinreq's log tells: a lab node tells one value at a time, to one that is next.
#[test]
fn ours_comes_back_though_the_labs_nodes_are_views_ahead() {
    let labs = LabNode::first();
    let second = LabNode::joining(labs.name());
    eventually("two of the lab", || second.is_in_sync() && second.view().1.len() == 2);
    let mut ours = Ours::none();
    // It suspects nobody: a round of its own would tell it the next view, and hide what is tested.
    let patient = Timing {
        refused: Duration::from_secs(3600),
        silence: Duration::from_secs(3600),
        silence_of_lab: Duration::from_secs(3600),
        ..Timing::default()
    };
    ours.start_with(labs.name(), |options| Options { timing: patient, ..options });
    wait_for_all(&ours, &labs, 3);
    let (vid, _) = labs.view();
    ours.nodes[0].rsm().cut_members(true);
    eventually("ours is removed", || labs.view().1.len() == 2);
    let third = LabNode::joining(labs.name());
    eventually("a third of the lab", || third.is_in_sync() && third.view().1.len() == 3);
    assert!(labs.view().0 >= vid + 2);
    ours.nodes[0].rsm().cut_members(false);
    wait_for_all(&ours, &labs, 4);
    lock_and_unlock(&LabLockClient::new(labs.name()), 1, 0..5);
}

#[test]
fn a_lab_node_votes_for_the_removal_of_a_dead_one_and_hears_what_was_decided() {
    let mut ours = Ours::service(2);
    let labs = LabNode::joining(ours.name(0));
    wait_for_all(&ours, &labs, 3);
    let (vid, _) = ours.view(0);
    let dead = ours.nodes.remove(1);
    dead.shutdown();
    wait_for_all(&ours, &labs, 2);
    assert_eq!(ours.view(0), (vid + 1, vec![ours.name(0).to_owned(), labs.name().to_owned()]));
    assert_eq!(labs.view(), ours.view(0));
    lock_and_unlock(&LabLockClient::new(ours.name(0)), 1, 0..5);
}

/// A lab node aborts at a decide of what it didn't accept, and at one that is not for its next instance; and it votes in
/// any instance. So it hears nothing of a round without its vote, and is not asked in later ones until it knows.
#[test]
fn a_lab_node_that_did_not_accept_is_told_nothing_that_would_stop_it() {
    let mut ours = Ours::service(5);
    let labs = LabNode::joining(ours.name(0));
    wait_for_all(&ours, &labs, 6);
    let (vid, _) = ours.view(0);
    // A view that is decided without the lab's vote, and one while it doesn't know the one before.
    labs.set_mute(true);
    ours.nodes.pop().unwrap().shutdown();
    eventually("a view without the dead", || ours.view(0).0 > vid);
    labs.set_mute(false);
    ours.nodes.pop().unwrap().shutdown();
    eventually("a view without the second", || ours.view(0).0 > vid + 1);
    // It finds out by a round of its own, or is removed and joins anew.
    eventually("all are in one view again", || {
        let (vid, members) = ours.view(0);
        members.len() == 4 && labs.view() == (vid, members) && labs.is_in_sync()
    });
    lock_and_unlock(&LabLockClient::new(ours.name(0)), 1, 0..5);
}

#[test]
fn healthy_members_stay() {
    let ours_first = Ours::service(2);
    let backup = LabNode::joining(ours_first.name(0));
    let primary = LabNode::first();
    let mut ours_second = Ours::none();
    for size in 2..=3 {
        ours_second.start(primary.name());
        wait_for_all(&ours_second, &primary, size);
    }
    wait_for_all(&ours_first, &backup, 3);
    let before = (ours_first.view(0), ours_second.view(0), backup.removals(), primary.removals());
    let deadline = now() + QUIET;
    let clients = [LabLockClient::new(ours_first.name(0)), LabLockClient::new(primary.name())];
    let mut xid = 0;
    while now() < deadline {
        clients.iter().for_each(|client| lock_and_unlock(client, 1, xid..xid + 1));
        xid += 1;
        rt::time::sleep(Duration::from_millis(100));
    }
    assert_eq!((ours_first.view(0), ours_second.view(0), backup.removals(), primary.removals()), before);
}
