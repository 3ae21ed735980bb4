//! The lecture's rules, one by one.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::views::Life;

fn id(number: u64) -> ViewId {
    ViewId { life: Life(1), number }
}

fn view(number: u64, primary: &str, backup: &str) -> View {
    View {
        id: id(number),
        primary: primary.to_owned(),
        backup: Some(backup.to_owned()).filter(|name| !name.is_empty()),
    }
}

fn entry(number: u64, op: &str) -> Entry {
    Entry { client: 7, number, op: op.to_owned() }
}

fn learn(server: &mut Server, view: View) {
    assert!(server.learn(PingStatus::OK, view));
}

/// S1 and S2 in view 1, the backup counts.
fn pair() -> (Server, Server) {
    let (mut s1, mut s2) = (Server::new("S1"), Server::new("S2"));
    [&mut s1, &mut s2].into_iter().for_each(|server| learn(server, view(1, "S1", "S2")));
    transfer(&mut s1, &mut s2);
    (s1, s2)
}

fn transfer(primary: &mut Server, backup: &mut Server) {
    let view = primary.view.id;
    let Bytes(state) = primary.give(view, &backup.name).unwrap();
    assert!(backup.install(view, State::from_bytes(&state).unwrap().0));
    assert!(primary.backup_counts(view, &backup.name, backup.state.len()));
    backup.told(view);
    assert_eq!(backup.due(), None);
}

fn forward(primary: &mut Server, entry: Entry) -> Forward {
    match primary.begin(entry) {
        Begun::Forward(_, forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn status(begun: Begun) -> RequestStatus {
    match begun {
        Begun::Answer(status, _) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rule_4_the_primary_executes_what_its_backup_has_accepted() {
    let (mut s1, mut s2) = pair();
    let under_way = forward(&mut s1, entry(1, "deposit alice 5"));
    assert!(s1.state.is_empty());
    assert_eq!(s2.accept(under_way.clone()).unwrap().unwrap().answer, "5");
    assert_eq!(s1.forwarded(&under_way, Outcome::Accepted).unwrap().line, "1 deposit alice 5 -> 5 | alice 5");
    assert_eq!(s1.state, s2.state);
    // Sent again it isn't executed again.
    assert_eq!(s1.begin(entry(1, "deposit alice 5")), Begun::Answer(RequestStatus::OK, "5".to_owned()));
    assert_eq!(status(s1.begin(entry(0, "deposit alice 5"))), RequestStatus::STALE);
}

#[test]
fn rule_6_what_the_backup_may_have_is_forwarded_again_before_anything_else() {
    let (mut s1, mut s2) = pair();
    let first = forward(&mut s1, entry(1, "deposit alice 5"));
    assert!(s2.accept(first.clone()).is_some());
    assert_eq!(s1.forwarded(&first, Outcome::NoAnswer), None);
    let again = forward(&mut s1, Entry { client: 8, number: 1, op: "deposit bob 1".to_owned() });
    assert_eq!(again, first);
    assert_eq!(s2.accept(again), Some(None));
    assert!(s1.forwarded(&first, Outcome::Accepted).is_some());
    assert_eq!(s1.state, s2.state);
}

#[test]
fn rules_1_and_3_others_reject() {
    let (mut s1, mut s2) = pair();
    assert_eq!(status(s2.begin(entry(1, "read alice"))), RequestStatus::NOTPRIMARY);
    assert_eq!(status(Server::new("S3").begin(entry(1, "read alice"))), RequestStatus::NOTPRIMARY);
    let under_way = forward(&mut s1, entry(1, "read alice"));
    assert_eq!(s1.accept(under_way.clone()), None);
    assert_eq!(Server::new("S3").accept(under_way.clone()), None);
    assert_eq!(s2.accept(Forward { view: id(0), ..under_way.clone() }), None);
    let of_another_life = ViewId { life: Life(2), number: 1 };
    assert_eq!(s2.accept(Forward { view: of_another_life, ..under_way.clone() }), None);
    assert_eq!(s1.give(of_another_life, "S2"), None);
    assert!(!s1.backup_counts(of_another_life, "S2", 0));
    assert_eq!(s2.accept(Forward { place: 7, ..under_way }), None);
}

#[test]
fn the_true_moment_of_switch_over_is_when_the_backup_hears_of_the_view() {
    let (mut s1, mut s2) = pair();
    // S1 is cut off from the view server. S2 hasn't heard of view 2: S1 still acts as the primary.
    let before = forward(&mut s1, entry(1, "deposit alice 5"));
    assert!(s2.accept(before.clone()).is_some());
    assert!(s1.forwarded(&before, Outcome::Accepted).is_some());
    learn(&mut s2, view(2, "S2", ""));
    let after = forward(&mut s1, entry(2, "deposit alice 5"));
    assert_eq!(s2.accept(after.clone()), None);
    assert_eq!(s1.forwarded(&after, Outcome::Rejected), None);
    assert_eq!(s1.role, Role::Primary);
    let Begun::Executed(done) = s2.begin(entry(2, "deposit alice 5")) else { panic!() };
    assert_eq!(done.answer, "10");
}

#[test]
fn rule_5_a_backup_counts_when_it_has_the_state_and_the_view_is_acknowledged_then() {
    let (mut s1, _) = pair();
    assert_eq!(s1.acknowledges, 1);
    learn(&mut s1, view(2, "S1", ""));
    assert_eq!(s1.acknowledges, 2);
    let Begun::Executed(_) = s1.begin(entry(1, "deposit alice 5")) else { panic!() };
    let mut s3 = Server::new("S3");
    [&mut s1, &mut s3].into_iter().for_each(|server| learn(server, view(3, "S1", "S3")));
    assert_eq!((s1.acknowledges, status(s1.begin(entry(2, "read alice")))), (2, RequestStatus::BUSY));
    assert_eq!(s3.due(), Some(Due::Fetch("S1".to_owned(), id(3))));
    let early = Forward { from: "S1".to_owned(), view: id(3), place: 1, entry: entry(2, "read alice") };
    assert_eq!(s3.accept(early), None);
    assert_eq!((s1.give(id(2), "S3"), s1.give(id(3), "S2"), s3.give(id(3), "S3")), (None, None, None));
    transfer(&mut s1, &mut s3);
    assert_eq!((s1.acknowledges, s3.state.accounts().balance("alice")), (3, 5));
}

#[test]
fn a_deposed_primary_that_comes_back_as_a_backup_fetches_the_state() {
    let (mut s1, mut s2) = pair();
    learn(&mut s2, view(2, "S2", ""));
    let Begun::Executed(_) = s2.begin(entry(1, "deposit alice 5")) else { panic!() };
    // S1 has something under way that nobody is to have.
    forward(&mut s1, entry(1, "deposit alice 9"));
    [&mut s1, &mut s2].into_iter().for_each(|server| learn(server, view(3, "S2", "S1")));
    assert!(!s1.is_complete);
    transfer(&mut s2, &mut s1);
    assert_eq!(s1.state, s2.state);
}

#[test]
fn a_server_is_complete_if_it_was_in_the_view_before() {
    let (mut s1, mut s2) = pair();
    learn(&mut s2, view(2, "S2", "S3"));
    assert!(s2.is_complete);
    let mut s3 = Server::new("S3");
    learn(&mut s3, view(2, "S2", "S3"));
    // The lecture's mistake: it has nothing and has to serve.
    learn(&mut s3, view(3, "S3", ""));
    assert!(!s3.is_complete);
    let Begun::Executed(done) = s3.begin(entry(1, "read alice")) else { panic!() };
    assert_eq!(done.answer, "0");
    // A restarted server is not the one that the view names.
    let mut again = Server::new("S1");
    assert!(again.learn(PingStatus::STRANGER, view(1, "S1", "S2")));
    assert_eq!((again.role, again.acknowledges), (Role::Idle, 1));
    assert!(!s1.learn(PingStatus::OK, view(1, "S2", "S1")));
    assert!(!s1.learn(PingStatus::FOREIGN, view(5, "S2", "S1")));
}

#[test]
fn rule_8_a_server_learns_nothing_from_another_life_of_the_view_server() {
    let (mut s1, mut s2) = pair();
    for server in [&mut s1, &mut s2] {
        for number in [1, 2, 9] {
            let view = View { id: ViewId { life: Life(2), number }, ..view(1, "S2", "S1") };
            assert!(!server.learn(PingStatus::OK, view));
        }
        assert_eq!(server.view, view(1, "S1", "S2"));
    }
    // Its pings say so even before it acknowledges anything.
    let mut fresh = Server::new("S1");
    assert_eq!(fresh.acknowledges(), ViewId::default());
    learn(&mut fresh, view(1, "S1", "S2"));
    assert_eq!(fresh.acknowledges(), id(0));
}
