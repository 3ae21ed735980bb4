//! The lecture's examples as golden tests. tests/views.rs has random ones.

use super::*;

const LIFE: Life = Life(7);

fn id(number: u64) -> ViewId {
    // None is known yet.
    if number == 0 { ViewId::default() } else { ViewId { life: LIFE, number } }
}

fn foreign(number: u64) -> ViewId {
    ViewId { life: Life(6), number }
}

fn at(ms: u64) -> Instant {
    Instant::from_start(Duration::from_millis(ms))
}

/// Servers by name, at a time that moves on by intervals.
struct Lecture {
    views: Views,
    now: Instant,
}

impl Lecture {
    fn new(settings: Settings) -> Self {
        Lecture { views: Views::new(settings, LIFE), now: Instant::ZERO }
    }

    /// These servers ping for so many intervals, with these numbers; the view then.
    fn ping(&mut self, intervals: u32, servers: &[(&str, u64)]) -> String {
        for _ in 0..intervals {
            self.now = self.now + self.views.settings.interval;
            for (name, knows) in servers {
                self.views.ping(name, Life(1), id(*knows), self.now);
            }
            self.views.tick(self.now);
        }
        self.views.view().to_string()
    }
}

const ENOUGH: u32 = 7;

#[test]
fn the_lectures_first_example() {
    let mut lecture = Lecture::new(Settings::default());
    assert_eq!(lecture.ping(1, &[("S1", 0), ("S2", 0)]), "0: -- --");
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0)]), "1: S1 S2");
    assert_eq!(lecture.ping(1, &[("S1", 1), ("S2", 1)]), "1: S1 S2");
    assert_eq!(lecture.ping(ENOUGH, &[("S2", 1)]), "2: S2 --");
    // S3 is there as soon as the view is acknowledged.
    assert_eq!(lecture.ping(1, &[("S2", 1), ("S3", 0)]), "2: S2 --");
    assert_eq!(lecture.ping(1, &[("S2", 2), ("S3", 2)]), "3: S2 S3");
}

#[test]
fn an_idle_server_replaces_the_dead_one_in_the_next_view() {
    let mut lecture = Lecture::new(Settings::default());
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0), ("S3", 0), ("S4", 0)]), "1: S1 S2");
    lecture.ping(1, &[("S1", 1)]);
    assert_eq!(lecture.views.living(lecture.now).last(), Some(&("S4".to_owned(), Role::Idle)));
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 1), ("S3", 1), ("S4", 1)]), "2: S1 S3");
}

#[test]
fn without_acks_the_lectures_second_example_promotes_a_server_without_the_state() {
    for (settings, expected) in [(Settings::default(), "2: S2 S3"), (Settings::default().without_ack(), "3: S3 --")] {
        let mut lecture = Lecture::new(settings);
        assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0), ("S3", 0)]), "1: S1 S2");
        lecture.ping(1, &[("S1", 1)]);
        assert_eq!(lecture.ping(ENOUGH, &[("S2", 1), ("S3", 1)]), "2: S2 S3");
        // S2 stops pinging at once, so it never says that S3 has the state.
        assert_eq!(lecture.ping(ENOUGH, &[("S3", 2)]), expected);
    }
}

#[test]
fn one_ping_makes_the_primary_of_an_unacknowledged_view_live_again() {
    let mut lecture = Lecture::new(Settings::default());
    lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0)]);
    assert_eq!(lecture.ping(ENOUGH, &[("S2", 1)]), "1: S1 S2");
    assert_eq!(lecture.ping(1, &[("S1", 1), ("S2", 1)]), "1: S1 S2");
    assert!(lecture.views.is_acknowledged());
    assert_eq!(lecture.ping(ENOUGH, &[("S2", 1)]), "2: S2 --");
}

#[test]
fn a_backup_that_dies_before_it_has_the_state_is_replaced() {
    let mut lecture = Lecture::new(Settings::default());
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0), ("S3", 0)]), "1: S1 S2");
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S3", 0)]), "2: S1 S3");
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0)]), "3: S1 --");
}

#[test]
fn a_restarted_server_counts_as_dead_once() {
    let mut views = Views::new(Settings::default(), LIFE);
    views.ping("S1", Life(1), id(0), at(0));
    views.ping("S2", Life(1), id(0), at(0));
    views.ping("S2", Life(1), id(0), at(500));
    assert_eq!(views.ping("S1", Life(1), id(0), at(550)).1.to_string(), "1: S1 S2");
    assert_eq!(views.ping("S1", Life(1), id(1), at(560)), (PingStatus::OK, views.view()));
    // Its state is lost: it isn't the primary any more, though it was never silent. As a new server it's the backup.
    let (status, view) = views.ping("S1", Life(2), id(0), at(570));
    assert_eq!((status, view.to_string()), (PingStatus::OK, "2: S2 S1".to_owned()));
    views.ping("S2", Life(1), id(2), at(600));
    // Nobody else has the state: the view stays, and the restarted server is told that it isn't meant.
    assert_eq!(views.ping("S1", Life(2), id(2), at(1160)).1.to_string(), "3: S1 --");
    let (status, view) = views.ping("S1", Life(3), id(0), at(1170));
    assert_eq!((status, view.to_string()), (PingStatus::STRANGER, "3: S1 --".to_owned()));
}

#[test]
fn a_restarted_view_service_forms_no_view_while_a_server_lives_that_has_been_in_one() {
    let mut views = Views::new(Settings::default(), LIFE);
    // S1 may have what was acknowledged, in whatever view it was, even before it acknowledged that.
    for number in [0, 1, 4] {
        assert_eq!(views.ping("S1", Life(1), foreign(number), at(0)), (PingStatus::FOREIGN, views.view()));
    }
    for ms in (0..3000).step_by(100) {
        views.ping("S1", Life(1), foreign(4), at(ms));
        assert_eq!(views.ping("S3", Life(1), id(0), at(ms)).1.to_string(), "0: -- --");
    }
    assert_eq!(views.foreign(at(3000)).collect::<Vec<_>>(), ["S1"]);
    // It dies, and S3 begins anew.
    views.ping("S3", Life(1), id(0), at(3400));
    views.tick(at(3440));
    assert_eq!(views.view().to_string(), "0: -- --");
    views.tick(at(3460));
    assert_eq!((views.view().to_string(), views.foreign(at(3460)).count()), ("1: S3 --".to_owned(), 0));
}

#[test]
fn servers_that_are_all_restarted_begin_anew_with_a_restarted_view_service() {
    let mut views = Views::new(Settings::default(), LIFE);
    for name in ["S1", "S2"] {
        views.ping(name, Life(1), foreign(1), at(0));
    }
    views.ping("S1", Life(2), id(0), at(300));
    views.ping("S1", Life(2), id(0), at(700));
    views.ping("S2", Life(1), foreign(1), at(800));
    assert_eq!(views.ping("S1", Life(2), id(0), at(900)).1.to_string(), "0: -- --");
    assert_eq!(views.ping("S2", Life(2), id(0), at(900)).1.to_string(), "1: S1 S2");
}

#[test]
fn a_server_of_another_life_is_never_seated_whatever_its_views_number() {
    let mut lecture = Lecture::new(Settings::default());
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0)]), "1: S1 S2");
    for number in [0, 1, 2, 4] {
        for _ in 0..ENOUGH {
            assert_eq!(lecture.views.ping("S9", Life(1), foreign(number), lecture.now).0, PingStatus::FOREIGN);
            // S2 is dead: there is a seat.
            lecture.ping(1, &[("S1", 1)]);
        }
    }
    assert_eq!(lecture.views.view().to_string(), "2: S1 --");
    assert_eq!(lecture.views.ping("S9", Life(1), id(9), lecture.now).0, PingStatus::FOREIGN, "none of its own");
}

#[test]
fn while_the_service_sleeps_nobody_is_silent() {
    let mut views = Views::new(Settings::default(), LIFE);
    let ping = |views: &mut Views, name: &str, knows, ms| views.ping(name, Life(1), id(knows), at(ms)).1.to_string();
    for (ms, name) in [(0, "S1"), (0, "S2"), (500, "S2"), (550, "S1")] {
        ping(&mut views, name, 0, ms);
    }
    ping(&mut views, "S1", 1, 600);
    views.slept(Duration::from_secs(3));
    assert_eq!(ping(&mut views, "S1", 1, 3600), "1: S1 S2");
    // S2 had been silent for 100 ms, and still has the rest.
    assert_eq!(ping(&mut views, "S1", 1, 4040), "1: S1 S2");
    assert_eq!(ping(&mut views, "S1", 1, 4060), "2: S1 --");
}

#[test]
fn servers_are_bounded_and_the_dead_are_forgotten() {
    let mut views = Views::new(Settings::default(), LIFE);
    (0..MAX_SERVERS)
        .for_each(|n| assert_eq!(views.ping(&n.to_string(), Life(1), id(0), Instant::ZERO).0, PingStatus::OK));
    assert_eq!(views.ping("one more", Life(1), id(0), Instant::ZERO).0, PingStatus::FULL);
    views.tick(Instant::from_start(Duration::from_secs(1)));
    assert_eq!(views.ping("one more", Life(1), id(0), Instant::from_start(Duration::from_secs(1))).0, PingStatus::OK);
}

#[test]
fn views_are_shown_and_travel() {
    let view = View { id: id(3), primary: "S2".to_owned(), backup: None };
    assert_eq!(view.to_string(), "3: S2 --");
    for view in [View::default(), view.clone(), View { backup: Some("S1".to_owned()), ..view }] {
        assert_eq!(yfs_rpc::marshall::decode(&yfs_rpc::marshall::encode(&view)), Ok(view));
    }
}
