//! The lecture's examples as golden tests. tests/views.rs has random ones.

use super::*;

/// Servers by name, at a time that moves on by intervals.
struct Lecture {
    views: Views,
    now: Instant,
}

impl Lecture {
    fn new(settings: Settings) -> Self {
        Lecture { views: Views::new(settings), now: Instant::ZERO }
    }

    /// These servers ping for so many intervals, with these numbers; the view then.
    fn ping(&mut self, intervals: u32, servers: &[(&str, u64)]) -> String {
        for _ in 0..intervals {
            self.now = self.now + self.views.settings.interval;
            for (name, knows) in servers {
                self.views.ping(name, Life(1), *knows, self.now);
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
    let mut views = Views::new(Settings::default());
    let at = |ms| Instant::from_start(Duration::from_millis(ms));
    views.ping("S1", Life(1), 0, at(0));
    views.ping("S2", Life(1), 0, at(0));
    views.ping("S2", Life(1), 0, at(500));
    assert_eq!(views.ping("S1", Life(1), 0, at(550)).1.to_string(), "1: S1 S2");
    assert_eq!(views.ping("S1", Life(1), 1, at(560)), (PingStatus::OK, views.view()));
    // Its state is lost: it isn't the primary any more, though it was never silent. As a new server it's the backup.
    let (status, view) = views.ping("S1", Life(2), 0, at(570));
    assert_eq!((status, view.to_string()), (PingStatus::OK, "2: S2 S1".to_owned()));
    views.ping("S2", Life(1), 2, at(600));
    // Nobody else has the state: the view stays, and the restarted server is told that it isn't meant.
    assert_eq!(views.ping("S1", Life(2), 2, at(1160)).1.to_string(), "3: S1 --");
    let (status, view) = views.ping("S1", Life(3), 0, at(1170));
    assert_eq!((status, view.to_string()), (PingStatus::STRANGER, "3: S1 --".to_owned()));
}

#[test]
fn a_restarted_view_service_forms_no_view_and_a_stray_server_does_no_harm() {
    let mut views = Views::new(Settings::default());
    views.ping("S3", Life(1), 0, Instant::ZERO);
    assert_eq!(views.ping("S1", Life(1), 4, Instant::ZERO).0, PingStatus::FORGOTTEN);
    views.tick(Instant::from_start(Duration::from_secs(9)));
    assert_eq!(views.ping("S3", Life(1), 0, Instant::ZERO), (PingStatus::FORGOTTEN, View::default()));

    let mut lecture = Lecture::new(Settings::default());
    assert_eq!(lecture.ping(ENOUGH, &[("S1", 0), ("S2", 0)]), "1: S1 S2");
    assert_eq!(lecture.views.ping("S9", Life(1), 4, lecture.now).0, PingStatus::FOREIGN);
}

#[test]
fn servers_are_bounded_and_the_dead_are_forgotten() {
    let mut views = Views::new(Settings::default());
    (0..MAX_SERVERS).for_each(|n| assert_eq!(views.ping(&n.to_string(), Life(1), 0, Instant::ZERO).0, PingStatus::OK));
    assert_eq!(views.ping("one more", Life(1), 0, Instant::ZERO).0, PingStatus::FULL);
    views.tick(Instant::from_start(Duration::from_secs(1)));
    assert_eq!(views.ping("one more", Life(1), 0, Instant::from_start(Duration::from_secs(1))).0, PingStatus::OK);
}

#[test]
fn views_are_shown_and_travel() {
    let view = View { number: 3, primary: "S2".to_owned(), backup: None };
    assert_eq!(view.to_string(), "3: S2 --");
    for view in [View::default(), view.clone(), View { backup: Some("S1".to_owned()), ..view }] {
        assert_eq!(yfs_rpc::marshall::decode(&yfs_rpc::marshall::encode(&view)), Ok(view));
    }
}
