use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_start(Duration::from_millis(ms))
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// `me` among `members` since long ago, ticking every 25 ms.
struct World {
    detector: FailureDetector,
    now: u64,
}

impl World {
    fn new(me: &str, members: &[&str]) -> World {
        let mut detector = FailureDetector::new(me, Timing::default());
        detector.view_changed(&names(members), at(0));
        detector.tick(at(9_975));
        detector.late = false;
        World { detector, now: 10_000 }
    }

    fn now(&self) -> Instant {
        at(self.now)
    }

    /// Pings who is due and has `answer` answer for each; until `ms` have passed. Returns the first suspect, and when.
    fn run(&mut self, ms: u64, answer: impl Fn(&str, u64) -> Option<Pong>) -> Option<(String, Reason, u64)> {
        let begin = self.now;
        while self.now <= begin + ms {
            let now = self.now();
            self.detector.tick(now);
            for name in self.detector.to_ping(now) {
                self.detector.pinged(&name, now);
            }
            for name in self.detector.peers() {
                if self.detector.peers[&name].outstanding
                    && let Some(pong) = answer(&name, self.now - begin)
                {
                    self.detector.answered(&name, pong, now);
                }
            }
            if let Some((name, reason)) = self.detector.suspects(now).into_iter().next() {
                return Some((name, reason, self.now - begin));
            }
            self.now += 25;
        }
        None
    }
}

#[test]
fn the_smallest_pings_all_and_the_others_ping_the_smallest_and_the_primary() {
    for (me, pings) in [("10", vec!["20", "30", "9"]), ("20", vec!["10"]), ("9", vec!["10", "20"])] {
        let mut world = World::new(me, &["20", "10", "9", "30"]);
        if me == "9" {
            assert_eq!(world.detector.to_ping(world.now()), ["10"], "the primary may be of the lab");
        }
        world.detector.observe("20", None, true);
        assert_eq!(world.detector.to_ping(world.now()), pings, "{me}");
        assert_eq!(world.detector.everybody().len(), 3);
    }
    let stranger = World::new("x", &["a", "b"]);
    assert!(stranger.detector.to_ping(stranger.now()).is_empty());
    assert!(!stranger.detector.has_majority(stranger.now()) && !stranger.detector.has_all(stranger.now()));
    let alone = World::new("a", &["a"]);
    assert!(alone.detector.has_majority(alone.now()) && alone.detector.has_all(alone.now()));
}

#[test]
fn one_ping_at_a_time_and_not_too_often() {
    let mut world = World::new("a", &["a", "b"]);
    world.detector.pinged("b", world.now());
    assert!(world.detector.to_ping(at(world.now + 60_000)).is_empty(), "one is outstanding");
    world.detector.answered("b", Pong::Well, world.now());
    assert!(world.detector.to_ping(at(world.now + 149)).is_empty());
    assert_eq!(world.detector.to_ping(at(world.now + 150)), ["b"]);
}

#[test]
fn silence_is_suspected_after_its_time_and_that_of_lab_nodes_later() {
    let mut world = World::new("a", &["a", "b", "c"]);
    world.detector.observe("b", None, true);
    let quiet = |name: &str, _| (name == "c").then_some(Pong::Well);
    assert_eq!(world.run(10_000, quiet), Some(("b".into(), Reason::Silent, 1_500)));
    let mut world = World::new("a", &["a", "b", "c"]);
    assert_eq!(world.run(10_000, quiet), Some(("b".into(), Reason::Silent, 4_000)));
    // A pause that ends in time is none.
    let mut world = World::new("a", &["a", "b", "c"]);
    world.detector.observe("b", None, true);
    let pauses = |name: &str, ms| (name == "c" || ms % 3_000 > 1_300).then_some(Pong::Well);
    assert_eq!(world.run(60_000, pauses), None);
}

#[test]
fn refused_connections_are_certain_after_100_ms_and_only_news_counts() {
    let mut world = World::new("a", &["a", "b"]);
    world.detector.observe("b", Some(world.now()), true);
    assert_eq!(world.run(5_000, |_, _| None), Some(("b".into(), Reason::Refused, 100)));
    // Refused ten seconds ago, when nobody had asked for anything since: not before it is asked again.
    let mut world = World::new("c", &["a", "b", "c"]);
    world.detector.observe("b", Some(at(1)), true);
    assert_eq!(world.run(3_000, |name, _| (name == "a").then_some(Pong::Well)), None);
    assert!(world.detector.doubt("b"));
    assert_eq!(
        world.run(3_000, |name, _| (name == "a").then_some(Pong::Well)),
        Some(("b".into(), Reason::Refused, 100))
    );
    // It came back.
    let mut world = World::new("a", &["a", "b"]);
    world.detector.observe("b", Some(world.now()), true);
    assert_eq!(world.run(75, |_, _| None), None);
    world.detector.observe("b", None, true);
    assert_eq!(world.run(1_000, |_, _| Some(Pong::Well)), None);
}

#[test]
fn another_view_number_is_no_reason_unless_it_stays_behind() {
    // L1: a decide that is a little late.
    let mut world = World::new("a", &["a", "b"]);
    let late = |_: &str, ms| Some(if ms < 1_900 { Pong::Behind } else { Pong::Well });
    assert_eq!(world.run(10_000, late), None);
    let suspect = world.run(10_000, |_, _| Some(Pong::Behind)).unwrap();
    assert_eq!((suspect.0.as_str(), suspect.1), ("b", Reason::Behind));
    assert!((2_000..2_200).contains(&suspect.2), "{suspect:?}");
}

#[test]
fn who_asks_to_be_removed_is_suspected_at_once_even_when_new() {
    let mut world = World::new("a", &["a", "b"]);
    world.detector.view_changed(&names(&["a", "b", "c"]), world.now());
    let asks = |name: &str, _| Some(if name == "c" { Pong::Remove } else { Pong::Well });
    assert_eq!(world.run(1_000, asks), Some(("c".into(), Reason::Asked, 0)));
}

#[test]
fn a_new_member_is_spared_for_a_second() {
    let mut world = World::new("a", &["a", "b"]);
    world.detector.view_changed(&names(&["a", "b", "c"]), world.now());
    world.detector.observe("c", Some(world.now()), true);
    assert_eq!(
        world.run(5_000, |name, _| (name == "b").then_some(Pong::Well)),
        Some(("c".into(), Reason::Refused, 1_000))
    );
}

#[test]
fn a_node_that_was_stopped_suspects_nobody_for_what_it_missed() {
    let mut world = World::new("a", &["a", "b", "c"]);
    world.detector.observe("b", None, true);
    world.detector.observe("c", None, true);
    assert_eq!(world.run(100, |_, _| None), None);
    // Stopped for ten seconds while pings were under way; then b answers, c is dead.
    world.now += 10_000;
    world.detector.observe("c", Some(at(world.now - 10_050)), true);
    world.detector.tick(world.now());
    assert_eq!(world.detector.suspects(world.now()), []);
    world.now += 25;
    let suspect = world.run(5_000, |name, _| (name == "b").then_some(Pong::Well));
    assert_eq!(suspect.map(|(name, ..)| name), Some("c".into()));
    // Nobody answers after a stop: the full silence has to pass.
    let mut world = World::new("a", &["a", "b", "c"]);
    world.detector.observe("b", None, true);
    assert_eq!(world.run(1_000, |_, _| None), None);
    world.now += 30_000;
    assert_eq!(world.run(400, |_, _| None), None);
}

#[test]
fn a_majority_is_of_all_members_and_of_late() {
    let mut world = World::new("a", &["a", "b", "c", "d"]);
    world.detector.answered("b", Pong::Well, world.now());
    assert!(!world.detector.has_majority(world.now()), "two of four");
    world.detector.answered("c", Pong::Behind, world.now());
    assert!(world.detector.has_majority(world.now()) && !world.detector.has_all(world.now()));
    assert!(!world.detector.has_majority(at(world.now + 1_000)));
    world.detector.answered("d", Pong::Well, world.now());
    assert!(world.detector.has_all(world.now()));
}

#[test]
fn who_owes_an_answer_is_asked_again_whatever_the_roles() {
    let mut world = World::new("b", &["a", "b", "c"]);
    world.detector.pinged("c", world.now());
    world.detector.unanswered("c");
    assert_eq!(world.detector.to_ping(at(world.now + 200)), ["a", "c"]);
    world.detector.answered("c", Pong::Well, world.now());
    assert_eq!(world.detector.to_ping(at(world.now + 200)), ["a"]);
}

#[test]
fn h11_proposers_queue_up_by_name() {
    let members = ["3", "1", "2", "4"];
    let places: Vec<usize> = ["2", "3", "4"].iter().map(|me| World::new(me, &members).detector.place("1")).collect();
    assert_eq!(places, [0, 1, 2]);
}

#[test]
fn one_that_asked_to_be_removed_and_died_goes_before_one_that_asks() {
    let mut detector = FailureDetector::new("1", Timing::default());
    detector.view_changed(&["1", "2", "3"].map(str::to_owned), Instant::ZERO);
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    for name in ["2", "3"] {
        detector.pinged(name, at(2));
        detector.answered(name, Pong::Remove, at(2));
    }
    // 2 goes on asking, 3 falls silent.
    detector.pinged("3", at(3));
    detector.pinged("2", at(9));
    detector.answered("2", Pong::Remove, at(9));
    let expected = [("3".to_owned(), Reason::Silent), ("2".to_owned(), Reason::Asked)];
    assert_eq!(detector.suspects(at(9)), expected);
}

#[test]
fn one_that_joins_spares_only_who_comes_after_it() {
    let mut joiner = FailureDetector::new("30", Timing::default());
    let suspects_after = |detector: &mut FailureDetector, name: &str, ms: u64| {
        detector.pinged(name, at(ms));
        detector.unanswered(name);
        detector.observe(name, Some(at(ms)), true);
        let time = at(ms) + Timing::default().refused;
        detector.rest(time);
        detector.reason_of(name, time)
    };
    joiner.tick(at(0));
    joiner.view_changed(&names(&["10", "20"]), at(10));
    joiner.view_changed(&names(&["10", "20", "30"]), at(20));
    assert_eq!(suspects_after(&mut joiner, "10", 30), Some(Reason::Refused), "it was there before");
    joiner.view_changed(&names(&["20", "30", "40"]), at(200));
    assert_eq!(suspects_after(&mut joiner, "40", 210), None, "a newcomer");

    let mut alone = FailureDetector::new("10", Timing::default());
    alone.tick(at(0));
    alone.view_changed(&names(&["10"]), at(10));
    alone.view_changed(&names(&["10", "20"]), at(20));
    assert_eq!(suspects_after(&mut alone, "20", 30), None, "the second node of a service is a newcomer");

    let mut started = FailureDetector::new("10", Timing::default());
    started.view_changed(&names(&["10", "20"]), at(0));
    started.tick(at(5));
    assert_eq!(suspects_after(&mut started, "20", 10), None, "it may be starting, too");
}

#[test]
fn disks_are_lost_if_too_few_members_are_left_that_know_a_view() {
    for (members, lost) in [(vec!["1", "2", "3"], vec!["2", "3"]), (vec!["1", "2", "3", "4", "5"], vec![])] {
        let mut detector = FailureDetector::new("1", Timing::default());
        detector.view_changed(&names(&members), at(0));
        for (ms, expected) in [(1_000, vec![]), (2_000, vec![]), (5_000, lost)] {
            for name in detector.peers() {
                detector.pinged(&name, at(ms));
                let blank = ["2", "3"].contains(&name.as_str());
                detector.answered(&name, if blank { Pong::Blank } else { Pong::Well }, at(ms));
            }
            assert_eq!(detector.lost_disks(at(ms)), expected, "{members:?} after {ms} ms");
        }
    }
}
