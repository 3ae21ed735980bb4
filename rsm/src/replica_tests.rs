//! The sequencing rules, one by one, and three replicas against random events.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn vs(vid: u32, seqno: u32) -> Viewstamp {
    Viewstamp { vid, seqno }
}

/// The first node of a service of three, in sync in view 3.
fn primary() -> Replica {
    let mut a = Replica::new("a", 0, Vec::new());
    assert!(a.commit(1, names(&["a"])));
    a.begin_first_view();
    assert!(a.begin_sync());
    a.end_view_change();
    assert!(a.commit(3, names(&NAMES)));
    assert!(!a.begin_sync());
    for backup in ["b", "c"] {
        assert_eq!(a.transfer_done(backup, 3), RsmStatus::OK);
    }
    assert!(a.is_synced());
    a.end_view_change();
    a
}

/// A backup of it, in sync.
fn backup() -> Replica {
    let mut b = Replica::new("b", 0, Vec::new());
    assert!(b.commit(3, names(&NAMES)));
    b.installed(vs(0, 0));
    b.end_view_change();
    b
}

#[test]
fn a_request_is_executed_by_the_primary_when_all_backups_have_executed_it() {
    let mut a = primary();
    assert_eq!(a.may_stamp(), Ok(()));
    let outstanding = a.stamp();
    assert_eq!(outstanding.vs, vs(3, 1));
    assert_eq!(a.may_stamp(), Err(ClientStatus::BUSY), "one at a time");
    assert!(!a.acknowledged(vs(3, 1), "b"));
    assert!(!a.acknowledged(vs(3, 1), "b"), "twice is once");
    assert!(!a.acknowledged(vs(3, 2), "c"), "another stamp is not this one");
    assert!(!a.acknowledged(vs(3, 1), "stranger"));
    assert_eq!(a.last_myvs(), vs(0, 0), "last_myvs moves with execution only");
    assert!(a.acknowledged(vs(3, 1), "c"));
    a.executed(vs(3, 1));
    assert_eq!(a.last_myvs(), vs(3, 1));
    assert_eq!(a.stamp().vs, vs(3, 2));
}

#[test]
fn a_backup_executes_the_next_request_once_and_no_other() {
    let mut b = backup();
    assert_eq!(b.check_invoke(vs(3, 2)), Verdict::Refuse, "a gap");
    assert_eq!(b.check_invoke(vs(2, 1)), Verdict::Refuse, "another view");
    assert_eq!(b.check_invoke(vs(4, 1)), Verdict::Refuse, "another view");
    assert_eq!(b.check_invoke(vs(3, 1)), Verdict::Execute);
    b.executed(vs(3, 1));
    assert_eq!(b.check_invoke(vs(3, 1)), Verdict::Again);
    assert_eq!(b.check_invoke(vs(3, 2)), Verdict::Execute);
    assert_eq!(b.may_stamp(), Err(ClientStatus::NOTPRIMARY));
}

#[test]
fn a_new_view_drops_what_is_outstanding_before_any_state_is_handed_out() {
    let mut a = primary();
    a.stamp();
    assert!(!a.acknowledged(vs(3, 1), "b"));
    assert!(a.commit(4, names(&["a", "b"])));
    assert!(!a.acknowledged(vs(3, 1), "c"), "too late");
    assert_eq!(a.may_stamp(), Err(ClientStatus::BUSY));
    assert!(!a.may_transfer(4), "not before begin_sync");
    a.begin_sync();
    assert!(a.may_transfer(4) && !a.may_transfer(3) && !a.may_transfer(5));
    assert_eq!(a.transfer_done("b", 4), RsmStatus::OK);
    assert!(a.is_synced());
    a.end_view_change();
    assert_eq!(a.transfer_done("b", 4), RsmStatus::OK, "said twice");
    assert_eq!(a.stamp().vs, vs(4, 1));
}

#[test]
fn an_older_view_is_ignored() {
    let mut a = primary();
    assert!(!a.commit(3, names(&["a"])));
    assert!(!a.commit(2, names(&["a"])));
    assert_eq!(a.members(), names(&NAMES));
}

#[test]
fn a_restarted_member_takes_part_only_in_a_later_view() {
    let mut b = Replica::new("b", 3, names(&NAMES));
    assert!(b.is_member() && !b.takes_part() && !b.holds_state());
    assert_eq!(b.check_invoke(vs(3, 1)), Verdict::Refuse);
    assert!(b.commit(4, names(&["a", "b"])));
    assert!(b.takes_part() && !b.holds_state());
    assert_eq!(b.check_invoke(vs(4, 1)), Verdict::Refuse, "not before it is in sync");
}

#[test]
fn a_member_without_the_state_hands_none_out_though_it_is_the_first() {
    let mut a = Replica::new("a", 3, names(&NAMES));
    assert!(a.commit(4, names(&["a", "b"])));
    assert!(a.is_primary());
    assert!(!a.may_transfer(4));
    assert_eq!(a.may_stamp(), Err(ClientStatus::BUSY));
    assert_eq!(a.transfer_done("b", 4), RsmStatus::BUSY);
}

#[test]
fn the_state_is_lost_with_membership() {
    let mut b = backup();
    assert!(b.holds_state());
    assert!(b.commit(4, names(&["a", "c"])));
    assert!(!b.holds_state());
    assert!(b.commit(5, names(&["b", "a"])));
    assert!(!b.holds_state(), "what it held is of a former membership");
}

#[test]
fn who_was_in_sync_and_asks_to_join_has_lost_its_state() {
    let mut a = primary();
    assert!(a.is_proven("b") && a.is_proven("c") && !a.is_proven("a"));
    assert!(a.commit(4, names(&["a", "b"])));
    assert!(a.is_proven("b") && !a.is_proven("c"));
    assert!(a.commit(5, names(&["a", "b", "c"])));
    assert!(!a.is_proven("c"), "added again, and not yet in sync");
}

#[test]
fn numbers_do_not_wrap_but_a_new_view_is_wanted_in_time() {
    let mut a = primary();
    let mut b = backup();
    let at = |replica: &mut Replica, seqno| replica.installed(vs(3, seqno));
    at(&mut a, RENEWAL - 1);
    assert!(!a.wants_renewal());
    assert_eq!(a.stamp().vs, vs(3, RENEWAL));
    a.executed(vs(3, RENEWAL));
    assert!(a.wants_renewal(), "and serves on meanwhile");
    assert_eq!(a.stamp().vs, vs(3, RENEWAL + 1));
    at(&mut b, RENEWAL);
    assert!(!b.wants_renewal(), "that's for the primary");
    // The last one, if no view comes.
    a.executed(vs(3, RENEWAL + 1));
    at(&mut a, u32::MAX - 2);
    assert_eq!(a.stamp().vs, vs(3, u32::MAX - 1));
    at(&mut b, u32::MAX - 2);
    assert_eq!(b.check_invoke(vs(3, u32::MAX - 1)), Verdict::Execute);
    b.executed(vs(3, u32::MAX - 1));
    a.executed(vs(3, u32::MAX - 1));
    assert_eq!(a.may_stamp(), Err(ClientStatus::BUSY));
    for seqno in [0, 1, u32::MAX] {
        assert_eq!(b.check_invoke(vs(3, seqno)), Verdict::Refuse);
    }
    assert_eq!(b.check_invoke(vs(3, u32::MAX - 1)), Verdict::Again);
    assert!(!b.has_missed(vs(3, u32::MAX)));
    // The new view.
    assert!(a.wants_renewal());
    assert!(a.commit(4, names(&NAMES)));
    assert!(!a.wants_renewal());
    a.begin_sync();
    assert!(["b", "c"].iter().all(|backup| a.transfer_done(backup, 4) == RsmStatus::OK));
    a.end_view_change();
    assert!(!a.wants_renewal());
    assert_eq!(a.stamp().vs, vs(4, 1));
}

#[derive(Clone, Debug)]
enum Event {
    Stamp,
    /// The primary's request, as it is now, arrives at a backup, and the answer comes back.
    Deliver(usize),
    /// The same, but the answer is lost.
    DeliverUnanswered(usize),
    /// The same members form a new view, and all sync.
    NewView,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Stamp),
        4 => (1..3_usize).prop_map(Event::Deliver),
        2 => (1..3_usize).prop_map(Event::DeliverUnanswered),
        1 => Just(Event::NewView),
    ]
}

proptest! {
    /// Equal viewstamps mean equal histories, what the primary executed all have executed, and no stamp is used twice.
    #[test]
    fn histories_agree(events in proptest::collection::vec(event(), 0..200)) {
        let mut replicas: Vec<Replica> = NAMES.iter().map(|name| Replica::new(name, 0, Vec::new())).collect();
        let mut histories = vec![Vec::<(Viewstamp, u32)>::new(); 3];
        let mut request = 0;
        let mut vid = 1;
        let sync = |replicas: &mut Vec<Replica>, histories: &mut Vec<Vec<(Viewstamp, u32)>>, vid: u32| {
            for replica in replicas.iter_mut() {
                replica.commit(vid, names(&NAMES));
            }
            if !replicas[0].holds_state() {
                replicas[0].recovered(Viewstamp::default(), true);
            }
            replicas[0].begin_sync();
            let last = replicas[0].last_myvs();
            for at in 1..3 {
                assert!(replicas[0].may_transfer(vid));
                if replicas[at].last_myvs() == last {
                    // The lab's shortcut: equal stamps, so nothing is transferred.
                    assert_eq!(histories[at], histories[0]);
                } else {
                    histories[at] = histories[0].clone();
                    replicas[at].installed(last);
                }
                replicas[at].end_view_change();
                replicas[0].transfer_done(NAMES[at], vid);
            }
            assert!(replicas[0].is_synced());
            replicas[0].end_view_change();
        };
        sync(&mut replicas, &mut histories, vid);
        for event in events {
            match event {
                Event::Stamp => {
                    if replicas[0].may_stamp().is_ok() {
                        request += 1;
                        let stamp = replicas[0].stamp().vs;
                        prop_assert!(histories.iter().flatten().all(|(used, of)| *used != stamp || *of == request));
                    }
                }
                Event::Deliver(at) | Event::DeliverUnanswered(at) => {
                    let Some(outstanding) = replicas[0].outstanding().cloned() else { continue };
                    match replicas[at].check_invoke(outstanding.vs) {
                        Verdict::Execute => {
                            replicas[at].executed(outstanding.vs);
                            histories[at].push((outstanding.vs, request));
                        }
                        Verdict::Again => prop_assert_eq!(histories[at].last(), Some(&(outstanding.vs, request))),
                        Verdict::Refuse => prop_assert!(false, "in sync, and refused"),
                    }
                    if matches!(event, Event::Deliver(_)) && replicas[0].acknowledged(outstanding.vs, NAMES[at]) {
                        replicas[0].executed(outstanding.vs);
                        histories[0].push((outstanding.vs, request));
                        prop_assert_eq!(&histories[1], &histories[0]);
                        prop_assert_eq!(&histories[2], &histories[0]);
                    }
                }
                Event::NewView => {
                    vid += 1;
                    sync(&mut replicas, &mut histories, vid);
                }
            }
        }
    }
}

#[test]
fn a_holder_can_be_ahead_by_the_outstanding_request_and_by_no_more() {
    let at = |vid, seqno| Viewstamp { vid, seqno };
    let mut replica = Replica::new("a", 3, names(&["a", "b"]));
    replica.recovered(at(3, 7), true);
    for (theirs, overtaken) in [
        (at(3, 7), false),
        (at(3, 8), false),
        (at(3, 9), true),
        (at(5, 1), false),
        (at(5, 2), true),
        (at(2, 100), false),
        (at(0, 0), false),
    ] {
        assert_eq!(replica.is_overtaken_by(theirs), overtaken, "{theirs}");
    }
    replica.state_lost();
    assert!(!replica.holds_state() && !replica.may_transfer(3));
}
