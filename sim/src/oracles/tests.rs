use std::any::Any;
use std::time::Duration;

use yfs_config::ViewId;
use yfs_config::detector::Reason;
use yfs_config::events::Event as Config;
use yfs_paxos::events::Event as Paxos;
use yfs_paxos::{Instance, ProposalNumber, ServiceId, Value};
use yfs_rpc::events::Event as Rpc;
use yfs_rpc::pdu::{ClientNonce, ServerNonce, Xid};
use yfs_rpc::reply_window::{Limits, Sizes};
use yfs_rsm::events::Event as Rsm;

use super::*;
use crate::kernel::Schedule;

/// A run without a run: events come from the test.
struct Run {
    kernel: Kernel,
    oracles: Oracles,
}

fn vs(vid: u32, seqno: u32) -> Viewstamp {
    Viewstamp { vid, seqno }
}

fn value(names: &[&str]) -> Value {
    Value::of(names).expect("a view")
}

fn number(n: u32) -> ProposalNumber {
    ProposalNumber { n, node: "a".to_owned() }
}

/// The state that a request leads to, if all is well.
fn after(last: Viewstamp) -> u64 {
    u64::from(last.vid) << 32 | u64::from(last.seqno)
}

impl Run {
    fn new() -> Self {
        let kernel = Kernel::new(1, Schedule::default(), false);
        Run { oracles: Oracles::new(kernel.clone(), true), kernel }
    }

    /// Nodes that have started without a log.
    fn started(names: &[&str]) -> Self {
        let run = Run::new();
        names.iter().for_each(|name| run.start(name));
        run
    }

    /// a, b and c are in sync in view 3, and a serves.
    fn of_three() -> Self {
        let run = Run::started(&["a", "b", "c"]);
        run.see("a", &Rsm::FirstView);
        run.view(1, &["a"], &["a"]);
        run.view(2, &["a", "b"], &["a", "b"]);
        run.view(3, &["a", "b", "c"], &["a", "b", "c"]);
        run.in_sync("b", 3, vs(0, 0));
        run.in_sync("c", 3, vs(0, 0));
        run.see("a", &Rsm::Serving { vid: 3 });
        run.is_well();
        run
    }

    fn see(&self, node: &str, event: &dyn Any) {
        self.oracles.observe(&Node::new(node), event, false);
    }

    fn start(&self, node: &str) {
        self.see(node, &Rsm::Started { vid: 0, members: Vec::new() });
    }

    /// Nodes promise, or vote for, what proposal n of an instance is.
    fn promise(&self, by: &[&str], instance: u32, n: u32) {
        by.iter().for_each(|node| self.see(node, &Paxos::Promised { instance, n: number(n) }));
    }

    fn vote(&self, by: &[&str], instance: u32, n: u32, members: &[&str]) {
        let vote = Paxos::Accepted { instance, n: number(n), value: value(members) };
        by.iter().for_each(|node| self.see(node, &vote));
    }

    /// A node learns a view.
    fn learn(&self, node: &str, instance: u32, members: &[&str]) {
        self.see(node, &Paxos::Committed { instance, value: value(members) });
    }

    /// A view is decided, and these nodes learn it.
    fn view(&self, vid: u32, members: &[&str], by: &[&str]) {
        let (last, voters) = self.oracles.latest_view();
        if last + 1 == vid {
            let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
            self.promise(&voters, vid, 1);
            self.vote(&voters, vid, 1, members);
        }
        for node in by {
            self.learn(node, vid, members);
            let members = members.iter().map(|name| (*name).to_owned()).collect();
            self.see(node, &Rsm::ViewCommitted { vid, members });
        }
    }

    fn in_sync(&self, node: &str, vid: u32, last: Viewstamp) {
        self.see(node, &Rsm::InSync { vid, last, state: after(last) });
    }

    fn install(&self, node: &str, vid: u32, last: Viewstamp) {
        self.see(node, &Rsm::Installed { vid, last, state: after(last) });
        self.in_sync(node, vid, last);
    }

    fn stamp(&self, node: &str, vs: Viewstamp, request: u64) {
        self.see(node, &Rsm::Stamped { vs, request });
    }

    fn execute(&self, node: &str, vs: Viewstamp, request: u64, as_primary: bool) {
        self.see(node, &Rsm::Executed { vs, request, ran: Some(request), as_primary, state: after(vs) });
        self.see(node, &Rsm::OnDisk { last: vs });
    }

    /// A request from its stamp to its answer; the first node is the primary.
    fn request(&self, nodes: &[&str], vs: Viewstamp, request: u64) {
        self.stamp(nodes[0], vs, request);
        nodes[1..].iter().for_each(|node| self.execute(node, vs, request, false));
        self.execute(nodes[0], vs, request, true);
        self.see(nodes[0], &Rsm::Answered { vs });
    }

    /// Nothing was found so far.
    fn is_well(&self) {
        assert_eq!(self.kernel.report().finding, None);
    }

    fn finds(&self, check: &str) {
        let finding = self.kernel.report().finding.unwrap_or_default();
        assert!(finding.starts_with(&format!("{check}: ")), "{check} wanted, found was: {finding}");
        assert!(self.kernel.is_over());
    }
}

/// A log without promises or votes.
fn log_of(values: Vec<(Instance, Value)>) -> Paxos {
    Paxos::Restored { service: ServiceId::new(1), values, promised: None, accepted: None }
}

#[test]
fn who_knows_views_knows_the_service_s_number() {
    let run = Run::new();
    run.see("a", &Paxos::Restored { service: None, values: Vec::new(), promised: None, accepted: None });
    run.is_well();
    let values = vec![(1, value(&["a"]))];
    run.see("a", &Paxos::Restored { service: None, values, promised: None, accepted: None });
    run.finds("service-unknown");
}

#[test]
fn one_value_an_instance() {
    let run = Run::new();
    run.learn("a", 1, &["a"]);
    run.learn("b", 1, &["a"]);
    run.promise(&["a"], 2, 1);
    run.vote(&["a"], 2, 1, &["a", "b"]);
    run.learn("a", 2, &["a", "b"]);
    assert_eq!(run.oracles.latest_view(), (2, vec!["a".to_owned(), "b".to_owned()]));
    run.oracles.node_died(&Node::new("a"));
    run.oracles.node_lost_disk(&Node::new("a"));
    run.see("a", &log_of(Vec::new()));
    run.is_well();
    run.see("a", &log_of(vec![(1, value(&["c"]))]));
    run.finds("two-values");
}

#[test]
fn replicas_know_the_decided_views() {
    let run = Run::started(&["a"]);
    run.view(1, &["a"], &["a"]);
    run.is_well();
    run.promise(&["a"], 2, 1);
    run.vote(&["a"], 2, 1, &["a", "b"]);
    run.learn("a", 2, &["a", "b"]);
    run.see("a", &Rsm::ViewCommitted { vid: 2, members: vec!["a".to_owned(), "c".to_owned()] });
    run.finds("two-values");
}

#[test]
fn views_differ_by_one_name() {
    let run = Run::started(&["a", "b"]);
    run.view(5, &["a", "b"], &["a", "b"]);
    run.view(6, &["b"], &["a", "b"]);
    run.view(7, &["b"], &["a", "b"]);
    run.is_well();
    run.view(8, &["b", "c", "d"], &["a"]);
    run.finds("view-step");
}

#[test]
fn replicas_see_each_view() {
    let run = Run::started(&["a"]);
    run.view(4, &["a"], &["a"]);
    run.view(5, &["a"], &["a"]);
    run.is_well();
    run.learn("b", 5, &["a"]);
    run.promise(&["a"], 6, 1);
    run.vote(&["a"], 6, 1, &["a"]);
    run.learn("b", 6, &["a"]);
    run.learn("a", 6, &["a"]);
    run.view(7, &["a"], &["a"]);
    run.finds("view-order");
}

#[test]
fn a_promise_is_kept() {
    let voted = || {
        let run = Run::new();
        run.learn("a", 1, &["a"]);
        run.learn("b", 1, &["a"]);
        run.promise(&["a", "b"], 2, 3);
        run.vote(&["b"], 2, 3, &["a", "b"]);
        run.promise(&["b"], 2, 5);
        assert_eq!(run.oracles.views_to_come(), [["a", "b"]]);
        run.is_well();
        run
    };
    let log = |promised: u32, accepted: bool| Paxos::Restored {
        service: ServiceId::new(1),
        values: vec![(1, value(&["a"]))],
        promised: Some(number(promised)),
        accepted: accepted.then(|| (number(3), value(&["a", "b"]))),
    };
    let run = voted();
    run.see("b", &log(5, true));
    run.vote(&["a"], 2, 3, &["a", "b"]);
    run.learn("b", 2, &["a", "b"]);
    run.promise(&["b"], 3, 1);
    run.is_well();
    assert!(run.oracles.views_to_come().is_empty());

    let run = voted();
    run.promise(&["b"], 2, 5);
    run.finds("vote-forgotten");
    let run = voted();
    run.vote(&["b"], 2, 4, &["a", "b"]);
    run.finds("vote-forgotten");
    for ahead in [1, 3] {
        let run = voted();
        run.promise(&["b"], ahead, 9);
        run.finds("voted-ahead");
        let run = voted();
        run.vote(&["b"], ahead, 9, &["a", "b"]);
        run.finds("voted-ahead");
    }
    // Another node's log was taken in, and had nothing new.
    let run = voted();
    run.see("b", &log_of(vec![(1, value(&["a"]))]));
    run.finds("vote-forgotten");
    let run = voted();
    run.see("b", &log(4, true));
    run.finds("vote-forgotten");
    let run = voted();
    run.see("b", &log(5, false));
    run.finds("vote-forgotten");
    let run = voted();
    run.see("b", &log_of(Vec::new()));
    run.finds("vote-forgotten");

    let run = voted();
    run.oracles.node_lost_disk(&Node::new("b"));
    run.see("b", &log_of(Vec::new()));
    run.is_well();
    assert_eq!(run.oracles.views_to_come(), [["a", "b"]], "the vote was given");
}

/// a, b and c vote in instance 4, which has a promise each for number 1.
fn of_three_voters() -> Run {
    let run = Run::of_three();
    run.promise(&["a", "b", "c"], 4, 1);
    run
}

#[test]
fn a_majority_chooses() {
    let run = of_three_voters();
    run.vote(&["a", "b"], 4, 1, &["a", "b"]);
    run.oracles.node_died(&Node::new("a"));
    run.oracles.node_lost_disk(&Node::new("a"));
    run.learn("b", 4, &["a", "b"]);
    run.is_well();
    assert!(run.oracles.views_to_come().is_empty());

    let run = of_three_voters();
    run.vote(&["a"], 4, 1, &["a", "b"]);
    run.learn("a", 4, &["a", "b"]);
    run.finds("decided-unchosen");

    // Two votes, with two numbers.
    let run = of_three_voters();
    run.vote(&["a"], 4, 1, &["a", "b"]);
    run.promise(&["a", "b"], 4, 2);
    run.vote(&["b"], 4, 2, &["a", "b"]);
    run.is_well();
    run.learn("a", 4, &["a", "b"]);
    run.finds("decided-unchosen");

    // Who isn't a member has no say.
    let run = of_three_voters();
    run.learn("d", 3, &["a", "b", "c"]);
    run.vote(&["a", "d"], 4, 1, &["a", "b"]);
    run.is_well();
    run.learn("a", 4, &["a", "b"]);
    run.finds("decided-unchosen");

    // Two of four.
    let run = Run::of_three();
    run.view(4, &["a", "b", "c", "d"], &["a", "b", "c"]);
    run.promise(&["a", "b", "c"], 5, 1);
    run.vote(&["a", "b"], 5, 1, &["a", "b", "c"]);
    run.is_well();
    run.learn("a", 5, &["a", "b", "c"]);
    run.finds("decided-unchosen");
}

#[test]
fn a_vote_counts_that_is_only_seen_after_a_start() {
    let run = of_three_voters();
    run.vote(&["a"], 4, 1, &["a", "b"]);
    run.oracles.node_died(&Node::new("b"));
    let values = vec![(1, value(&["a"])), (2, value(&["a", "b"])), (3, value(&["a", "b", "c"]))];
    let (promised, accepted) = (Some(number(1)), Some((number(1), value(&["a", "b"]))));
    run.see("b", &Paxos::Restored { service: ServiceId::new(1), values, promised, accepted });
    run.learn("c", 4, &["a", "b"]);
    run.is_well();
}

#[test]
fn what_is_chosen_stays_so() {
    let run = of_three_voters();
    run.vote(&["c"], 4, 1, &["a", "b"]);
    run.promise(&["a", "b"], 4, 2);
    run.vote(&["a", "b"], 4, 2, &["b", "c"]);
    run.is_well();
    assert_eq!(run.oracles.views_to_come(), [["a", "b"], ["b", "c"]]);
    // A number stands for one value.
    run.vote(&["c"], 4, 2, &["a", "b"]);
    run.finds("two-values");

    let views = || {
        let mut views = paxos::Views::default();
        views.commit(1, &value(&["a", "b", "c"])).expect("the first one is committed without votes");
        for node in ["a", "b"] {
            views.promise(node, 2, &number(1), &paxos::Votes::default());
            views.promise(node, 2, &number(2), &paxos::Votes::default());
        }
        views.vote("a", 2, &number(1), &value(&["a", "b"])).expect("nobody has voted before");
        views
    };
    // In the order of numbers or not.
    let mut chosen = views();
    chosen.vote("b", 2, &number(1), &value(&["a", "b"])).expect("the same");
    assert_eq!(chosen.vote("c", 2, &number(2), &value(&["b", "c"])).map_err(|found| found.0), Err("two-values"));
    let mut chosen = views();
    chosen.vote("c", 2, &number(2), &value(&["b", "c"])).expect("nothing is chosen");
    assert_eq!(chosen.vote("b", 2, &number(1), &value(&["a", "b"])).map_err(|found| found.0), Err("two-values"));
}

#[test]
fn a_proposal_takes_over_what_has_votes() {
    let voted_by_c = || {
        let run = of_three_voters();
        run.vote(&["c"], 4, 1, &["a", "b"]);
        run
    };
    // The majority may be a and b, who know nothing.
    for values in [["a", "b"], ["b", "c"]] {
        let run = voted_by_c();
        run.promise(&["a", "b", "c"], 4, 2);
        run.vote(&["a"], 4, 2, &values);
        run.is_well();
    }
    let run = voted_by_c();
    run.promise(&["b", "c"], 4, 2);
    run.vote(&["b"], 4, 2, &["a", "b"]);
    run.is_well();
    let run = voted_by_c();
    run.promise(&["b", "c"], 4, 2);
    run.vote(&["b"], 4, 2, &["b", "c"]);
    run.finds("wrong-proposal");

    // Of two values that with the higher number.
    let voted_twice = || {
        let run = voted_by_c();
        run.promise(&["a", "b"], 4, 2);
        run.vote(&["b"], 4, 2, &["b", "c"]);
        run.promise(&["b", "c"], 4, 3);
        run
    };
    let run = voted_twice();
    run.vote(&["c"], 4, 3, &["b", "c"]);
    run.is_well();
    let run = voted_twice();
    run.vote(&["c"], 4, 3, &["a", "b"]);
    run.finds("wrong-proposal");

    // Without a majority of promises nothing may be proposed.
    let run = Run::of_three();
    run.promise(&["a"], 4, 1);
    run.vote(&["a"], 4, 1, &["a", "b"]);
    run.finds("wrong-proposal");
}

/// What a node does in a view of three, at times of the test's.
struct Proposing {
    views: paxos::Views,
    rounds: rounds::Rounds,
}

fn at(millis: u64) -> Instant {
    Instant::from_start(Duration::from_millis(millis))
}

impl Proposing {
    /// a has learnt view 1 at second 10.
    fn new() -> Self {
        let mut views = paxos::Views::default();
        views.commit(1, &value(&["a", "b", "c"])).expect("it is the first one");
        let mut a = Proposing { views, rounds: rounds::Rounds::default() };
        let view = Paxos::Committed { instance: 1, value: value(&["a", "b", "c"]) };
        assert_eq!(a.paxos(10_000, &view), Ok(()));
        a
    }

    fn paxos(&mut self, millis: u64, event: &Paxos) -> Result<(), &'static str> {
        self.rounds.paxos(&self.views, "a", event, at(millis)).map_err(|found| found.0)
    }

    fn begin(&mut self, millis: u64, n: u32) -> Result<(), &'static str> {
        self.paxos(millis, &Paxos::RoundBegun { instance: 2, n })
    }

    fn config(&mut self, millis: u64, event: &Config) -> Result<(), &'static str> {
        self.rounds.config(&self.views, "a", event, at(millis)).map_err(|found| found.0)
    }

    fn answers(&mut self, millis: u64, peer: &str) {
        assert_eq!(self.config(millis, &Config::Answered { peer: peer.to_owned() }), Ok(()));
    }

    fn fails(&mut self, millis: u64, vid: u32) -> Result<(), &'static str> {
        self.config(millis, &Config::Failed { vid: ViewId(vid) })
    }
}

#[test]
fn rounds_need_a_majority_that_answers() {
    let mut a = Proposing::new();
    a.answers(10_000, "b");
    assert_eq!(a.begin(10_900, 1), Ok(()));
    assert_eq!(a.begin(11_300, 2), Ok(()));
    // Once is by accident.
    assert_eq!(a.begin(13_000, 3), Ok(()));
    a.answers(14_000, "c");
    assert_eq!(a.begin(15_000, 4), Ok(()));
    a.answers(16_000, "d");
    assert_eq!(a.begin(17_000, 5), Ok(()), "one that isn't a member");
    assert_eq!(a.begin(17_500, 6), Err("round-alone"));
}

#[test]
fn numbers_double_after_a_rejection() {
    let rejected = |numbers: &[u32]| {
        let mut a = Proposing::new();
        let mut last = Ok(());
        for n in numbers {
            assert_eq!(last, Ok(()));
            a.answers(10_000, "b");
            last = a.begin(10_100, *n);
            assert_eq!(a.paxos(10_200, &Paxos::RoundRejected { instance: 2 }), Ok(()));
        }
        last
    };
    assert_eq!(rejected(&[1, 2, 4, 8, 16]), Ok(()));
    assert_eq!(rejected(&[1, 2, 3]), Err("numbers-crawl"));
    let doubled: Vec<u32> = (0..40_u32).map(|k| if k < 17 { 1 << k } else { (k - 15) << 16 }).collect();
    assert_eq!(rejected(&doubled), Ok(()), "it grows by at most so much");
    let mut a = Proposing::new();
    assert_eq!(a.paxos(10_200, &Paxos::RoundRejected { instance: 1 }), Ok(()));
    assert_eq!(a.begin(10_300, 1), Ok(()), "of another instance");
}

#[test]
fn who_fails_waits_before_it_tries_again() {
    let failures = |times: &[u64]| {
        let mut a = Proposing::new();
        times.iter().try_for_each(|millis| a.fails(*millis, 1))
    };
    // 25, 50, 100, 200, 400, 500, 500 ms, by a clock that is a tenth fast.
    assert_eq!(failures(&[0, 23, 68, 158, 338, 698, 1148, 1598]), Ok(()));
    assert_eq!(failures(&[0, 22]), Err("no-back-off"));
    assert_eq!(failures(&[0, 23, 67]), Err("no-back-off"));
    assert_eq!(failures(&[0, 25, 75, 175, 375, 775, 1275, 1724]), Err("no-back-off"));
    let mut a = Proposing::new();
    assert_eq!((a.fails(0, 1), a.fails(1, 2)), (Ok(()), Ok(())), "another view");
}

#[test]
fn nobody_is_removed_for_being_behind_a_young_view() {
    let removing = |millis, vid, reason| {
        let mut a = Proposing::new();
        // What a log says again is no other view.
        let again = log_of(vec![(1, value(&["a", "b", "c"]))]);
        assert_eq!(a.paxos(millis, &again), Ok(()));
        assert_eq!(a.config(millis, &Config::Probing), Ok(()));
        assert_eq!(a.config(millis, &Config::Answered { peer: "c".to_owned() }), Ok(()));
        a.config(millis, &Config::Removing { vid: ViewId(vid), member: "b".to_owned(), reason })
    };
    assert_eq!(removing(11_799, 1, Reason::Behind), Err("needless-removal"));
    assert_eq!(removing(11_800, 1, Reason::Behind), Ok(()));
    assert_eq!(removing(10_100, 1, Reason::Refused), Ok(()));
    assert_eq!(removing(10_100, 0, Reason::Behind), Ok(()), "it hasn't heard of its own next view");
}

#[test]
fn nobody_is_removed_unless_a_majority_of_the_rest_has_just_answered() {
    let removing = |answered: &str| {
        let mut a = Proposing::new();
        assert_eq!(a.config(10_100, &Config::Probing), Ok(()));
        assert_eq!(a.config(10_150, &Config::Answered { peer: answered.to_owned() }), Ok(()));
        a.config(10_200, &Config::Removing { vid: ViewId(1), member: "b".to_owned(), reason: Reason::Asked })
    };
    assert_eq!(removing("c"), Ok(()));
    assert_eq!(removing("b"), Err("unguarded-removal"), "the one that goes doesn't count");
    let mut a = Proposing::new();
    assert_eq!(a.config(10_050, &Config::Answered { peer: "c".to_owned() }), Ok(()));
    assert_eq!(a.config(10_100, &Config::Probing), Ok(()));
    let removal = Config::Removing { vid: ViewId(1), member: "b".to_owned(), reason: Reason::Asked };
    assert_eq!(a.config(10_200, &removal), Err("unguarded-removal"), "it answered before it was asked");
}

#[test]
fn one_primary_a_view() {
    let run = Run::of_three();
    run.view(4, &["b", "c"], &["b", "c"]);
    run.in_sync("c", 4, vs(0, 0));
    run.see("b", &Rsm::Serving { vid: 4 });
    assert_eq!(run.oracles.served_views(), 2);
    run.is_well();
    run.see("b", &Rsm::Serving { vid: 4 });
    run.finds("two-primaries");
}

#[test]
fn a_view_that_is_over_may_be_served_in_late() {
    let run = Run::of_three();
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.in_sync("b", 4, vs(0, 0));
    run.in_sync("c", 4, vs(0, 0));
    run.view(5, &["b", "c"], &["b", "c"]);
    run.in_sync("c", 5, vs(0, 0));
    run.see("b", &Rsm::Serving { vid: 5 });
    run.request(&["b", "c"], vs(5, 1), 1);
    run.see("a", &Rsm::Serving { vid: 4 });
    run.is_well();
}

#[test]
fn one_service() {
    let run = Run::of_three();
    run.oracles.node_died(&Node::new("a"));
    run.oracles.node_lost_disk(&Node::new("a"));
    run.start("a");
    run.see("a", &Rsm::FirstView);
    run.finds("two-services");
}

#[test]
fn only_the_first_name_serves() {
    let run = Run::of_three();
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.see("b", &Rsm::Serving { vid: 4 });
    run.finds("wrong-primary");
}

#[test]
fn a_primary_holds_the_state() {
    let run = Run::of_three();
    assert_eq!(run.oracles.holders().into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    run.view(4, &["b", "c"], &["a", "b", "c"]);
    run.oracles.node_died(&Node::new("b"));
    assert_eq!(run.oracles.holders().into_iter().collect::<Vec<_>>(), ["c"], "a was left out, b is dead");
    run.see("b", &Rsm::Started { vid: 4, members: vec!["b".to_owned(), "c".to_owned()] });
    run.view(5, &["b", "c"], &["b", "c"]);
    run.in_sync("c", 5, vs(0, 0));
    run.see("b", &Rsm::Serving { vid: 5 });
    run.finds("served-without-state");
}

#[test]
fn a_primary_serves_when_all_are_in_sync() {
    let run = Run::of_three();
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.in_sync("b", 4, vs(0, 0));
    run.see("a", &Rsm::Serving { vid: 4 });
    run.finds("served-unsynced");

    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.in_sync("b", 4, vs(3, 1));
    run.in_sync("c", 4, vs(0, 0));
    run.see("a", &Rsm::Serving { vid: 4 });
    run.finds("served-unsynced");
}

#[test]
fn stamps_come_one_after_the_other() {
    let run = Run::of_three();
    run.request(&["a", "b", "c"], vs(3, 1), 1);
    run.request(&["a", "b", "c"], vs(3, 2), 2);
    run.view(4, &["a", "b"], &["a", "b"]);
    run.in_sync("b", 4, vs(3, 2));
    run.see("a", &Rsm::Serving { vid: 4 });
    run.request(&["a", "b"], vs(4, 1), 3);
    run.is_well();
    assert_eq!((run.oracles.acknowledged(), run.oracles.executed()), (3, 3));
    assert_eq!(run.oracles.position(&Node::new("b")), Some(vs(4, 1)));
    run.stamp("a", vs(4, 3), 4);
    run.execute("b", vs(4, 3), 4, false);
    run.finds("out-of-turn");
}

#[test]
fn a_node_executes_in_a_view_that_it_is_in_sync_in() {
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.execute("b", vs(3, 1), 1, false);
    run.finds("out-of-turn");

    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.view(4, &["a", "b", "c"], &["b"]);
    run.execute("b", vs(3, 1), 1, false);
    run.finds("out-of-turn");

    let run = Run::of_three();
    run.view(4, &["a", "b", "c"], &["a"]);
    run.stamp("a", vs(4, 1), 1);
    run.finds("out-of-turn");
}

#[test]
fn a_stamp_is_given_once() {
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.is_well();
    run.stamp("a", vs(3, 1), 2);
    run.finds("stamp-reused");
}

#[test]
fn what_is_executed_was_stamped() {
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 2, false);
    run.finds("unstamped");
}

#[test]
fn the_primary_executes_last() {
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.is_well();
    run.execute("a", vs(3, 1), 1, true);
    run.finds("not-replicated");
}

#[test]
fn equal_stamps_are_equal_states() {
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.see("c", &Rsm::Executed { vs: vs(3, 1), request: 1, ran: Some(1), as_primary: false, state: 99 });
    run.finds("diverged");

    // One of them has it already.
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.see("c", &Rsm::Executed { vs: vs(3, 1), request: 1, ran: None, as_primary: false, state: after(vs(3, 1)) });
    run.finds("diverged");

    let run = Run::of_three();
    run.request(&["a", "b", "c"], vs(3, 1), 1);
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.see("b", &Rsm::InSync { vid: 4, last: vs(3, 1), state: 99 });
    run.finds("diverged");

    // It says that it is where the primary is, and never installed that state.
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.in_sync("c", 4, vs(3, 1));
    run.finds("diverged");
}

#[test]
fn what_is_installed_was_somewhere() {
    let run = Run::of_three();
    run.request(&["a", "b", "c"], vs(3, 1), 1);
    run.start("d");
    run.view(4, &["a", "b", "c", "d"], &["a", "b", "c", "d"]);
    run.install("d", 4, vs(3, 1));
    run.is_well();
    run.install("b", 4, vs(3, 2));
    run.finds("unknown-state");
}

#[test]
fn an_answer_is_that_of_what_was_executed() {
    let run = Run::of_three();
    run.stamp("a", vs(3, 1), 1);
    run.execute("b", vs(3, 1), 1, false);
    run.execute("c", vs(3, 1), 1, false);
    run.see("a", &Rsm::Answered { vs: vs(3, 1) });
    run.finds("answered-unexecuted");
}

#[test]
fn what_is_answered_is_on_all_disks() {
    for late in ["a", "c"] {
        let run = Run::of_three();
        run.stamp("a", vs(3, 1), 1);
        for node in ["b", "c", "a"] {
            let executed = Rsm::Executed {
                vs: vs(3, 1),
                request: 1,
                ran: Some(1),
                as_primary: node == "a",
                state: after(vs(3, 1)),
            };
            run.see(node, &executed);
            if node != late {
                run.see(node, &Rsm::OnDisk { last: vs(3, 1) });
            }
        }
        run.is_well();
        run.see("a", &Rsm::Answered { vs: vs(3, 1) });
        run.finds("answered-undurable");
    }
}

#[test]
fn an_unacknowledged_request_may_be_dropped() {
    let run = Run::of_three();
    run.request(&["a", "b", "c"], vs(3, 1), 1);
    run.stamp("a", vs(3, 2), 2);
    run.execute("b", vs(3, 2), 2, false);
    run.view(4, &["a", "b", "c"], &["a", "b", "c"]);
    run.install("b", 4, vs(3, 1));
    run.in_sync("c", 4, vs(3, 1));
    run.see("a", &Rsm::Serving { vid: 4 });
    // Its client asks again, and it isn't executed twice: b has another past by now.
    run.request(&["a", "b", "c"], vs(4, 1), 2);
    run.is_well();
    assert_eq!(run.oracles.position(&Node::new("b")), Some(vs(4, 1)));
}

#[test]
fn a_later_primary_has_what_was_acknowledged() {
    let run = Run::of_three();
    run.request(&["a", "b", "c"], vs(3, 1), 1);
    run.view(4, &["b", "c"], &["b", "c"]);
    run.install("b", 4, vs(0, 0));
    run.install("c", 4, vs(0, 0));
    run.see("b", &Rsm::Serving { vid: 4 });
    run.finds("lost-acknowledged");
}

#[test]
fn nothing_is_acknowledged_that_a_later_primary_lacks() {
    let late = |b_has_it: bool| {
        let run = Run::of_three();
        run.stamp("a", vs(3, 1), 1);
        run.execute("b", vs(3, 1), 1, false);
        run.execute("c", vs(3, 1), 1, false);
        run.execute("a", vs(3, 1), 1, true);
        run.view(4, &["b", "c"], &["b", "c"]);
        let last = if b_has_it { vs(3, 1) } else { vs(0, 0) };
        run.install("b", 4, last);
        run.install("c", 4, last);
        run.see("b", &Rsm::Serving { vid: 4 });
        run.request(&["b", "c"], vs(4, 1), 2);
        run.see("a", &Rsm::Answered { vs: vs(3, 1) });
        run
    };
    late(true).is_well();
    late(false).finds("lost-acknowledged");
}

#[test]
fn nothing_is_executed_twice() {
    let again = |ran: Option<u64>| {
        let run = Run::new();
        run.start("a");
        run.see("a", &Rsm::FirstView);
        run.view(1, &["a"], &["a"]);
        run.see("a", &Rsm::Serving { vid: 1 });
        for seqno in 1..100 {
            run.request(&["a"], vs(1, seqno), u64::from(seqno));
        }
        run.is_well();
        run.stamp("a", vs(1, 100), 1);
        run.see("a", &Rsm::Executed { vs: vs(1, 100), request: 1, ran, as_primary: true, state: after(vs(1, 100)) });
        run
    };
    again(Some(1)).finds("executed-twice");
    again(Some(1000)).is_well();
    again(None).is_well();
}

fn admitted(server: u32, client: u32, xid: i32, xid_rep: i32) -> Rpc {
    let (server, client) = (ServerNonce(server), ClientNonce(client));
    Rpc::Admitted { server, client, xid: Xid(xid), xid_rep: Xid(xid_rep) }
}

fn windows(sizes: Sizes) -> Rpc {
    Rpc::Windows { server: ServerNonce(1), client: ClientNonce(7), sizes }
}

#[test]
fn a_state_on_a_disk_counts_if_it_was_in_sync_in_all_views_since() {
    let restarts = |run: &Run, holds: bool| {
        run.oracles.node_died(&Node::new("b"));
        run.start("b");
        run.see("b", &Rsm::Recovered { last: vs(0, 0), state: 0, holds });
    };
    let run = Run::of_three();
    restarts(&run, true);
    run.is_well();
    let run = Run::of_three();
    run.view(4, &["a", "c"], &["a", "b", "c"]);
    restarts(&run, false);
    run.is_well();
    restarts(&run, true);
    run.finds("false-holder");
    let run = Run::of_three();
    run.oracles.node_lost_disk(&Node::new("b"));
    restarts(&run, true);
    run.finds("false-holder");
    let run = Run::of_three();
    run.oracles.node_died(&Node::new("b"));
    run.start("b");
    run.see("b", &Rsm::Recovered { last: vs(3, 7), state: 1, holds: false });
    run.finds("unknown-state");
    // Whatever it says later, too.
    let run = Run::of_three();
    run.see("b", &Rsm::Holds);
    run.is_well();
    restarts(&run, false);
    run.see("b", &Rsm::Holds);
    run.finds("false-holder");
}

#[test]
fn who_says_again_that_it_is_in_sync_is_heard() {
    let run = Run::of_three();
    run.see("a", &Rsm::DoneRefused { vid: 3 });
    run.finds("done-refused");
}

#[test]
fn a_node_that_lost_its_disk_votes_when_it_was_added_again_and_not_where_it_had_voted() {
    let lost = || {
        let run = Run::of_three();
        run.promise(&["b"], 4, 1);
        run.oracles.node_died(&Node::new("b"));
        run.oracles.node_lost_disk(&Node::new("b"));
        let values = vec![(1, value(&["a"])), (2, value(&["a", "b"])), (3, value(&["a", "b", "c"]))];
        run.see("b", &log_of(values));
        run
    };
    let run = lost();
    run.promise(&["b"], 4, 2);
    run.finds("vote-after-lost-disk");

    let removed = || {
        let run = lost();
        run.promise(&["a", "c"], 4, 1);
        run.vote(&["a", "c"], 4, 1, &["a", "c"]);
        run.learn("a", 4, &["a", "c"]);
        run.learn("c", 4, &["a", "c"]);
        run
    };
    let run = removed();
    run.learn("b", 4, &["a", "c"]);
    run.promise(&["b"], 5, 1);
    run.finds("vote-after-lost-disk");

    let run = removed();
    run.promise(&["a", "c"], 5, 1);
    run.see("a", &Paxos::Adding { instance: 5, member: "b".to_owned() });
    run.vote(&["a", "c"], 5, 1, &["a", "c", "b"]);
    run.learn("b", 4, &["a", "c"]);
    run.learn("b", 5, &["a", "c", "b"]);
    run.promise(&["b"], 6, 1);
    run.is_well();
}

#[test]
fn a_member_is_added_when_all_others_have_just_answered() {
    let run = Run::of_three();
    let adding = |ago| Config::Adding { vid: ViewId(3), member: "d".to_owned(), asked_ago: Duration::from_millis(ago) };
    run.see("a", &Config::Answered { peer: "b".to_owned() });
    run.see("a", &Config::Answered { peer: "c".to_owned() });
    run.see("a", &adding(0));
    run.is_well();
    let run = Run::of_three();
    run.see("a", &Config::Answered { peer: "b".to_owned() });
    run.see("a", &adding(5));
    run.finds("unguarded-addition");
}

#[test]
fn a_request_reaches_a_handler_once() {
    let run = Run::new();
    let admitted = |server, client, xid| admitted(server, client, xid, 0);
    run.see("a", &admitted(1, 7, 1));
    run.see("a", &admitted(1, 7, 2));
    run.see("a", &admitted(1, 8, 1));
    run.see("b", &admitted(2, 7, 1));
    run.oracles.node_died(&Node::new("a"));
    run.see("a", &admitted(3, 7, 1));
    run.is_well();
    run.see("b", &admitted(2, 7, 1));
    run.finds("handled-twice");
}

#[test]
fn windows_stay_in_their_bounds() {
    let limits = Limits::default();
    let fits = Sizes {
        replies: 2,
        reply_bytes: limits.reply_bytes_per_client,
        in_progress: limits.in_progress_per_client,
        gaps: limits.gaps_per_client,
        connections: limits.connections_per_client,
        sharing: limits.clients_per_connection,
        clients: limits.clients,
        held: limits.held_bytes,
        limits,
    };
    let run = Run::new();
    run.see("a", &admitted(1, 7, 1, 0));
    run.see("a", &admitted(1, 7, 2, 0));
    run.see("a", &windows(fits.clone()));
    run.see("a", &windows(Sizes { replies: 1, reply_bytes: 20 << 20, ..fits.clone() }));
    run.is_well();
    for too_much in [
        Sizes { reply_bytes: fits.reply_bytes + 1, ..fits.clone() },
        Sizes { in_progress: fits.in_progress + 1, ..fits.clone() },
        Sizes { gaps: fits.gaps + 1, ..fits.clone() },
        Sizes { connections: fits.connections + 1, ..fits.clone() },
        Sizes { sharing: fits.sharing + 1, ..fits.clone() },
        Sizes { clients: fits.clients + 1, ..fits.clone() },
        Sizes { held: fits.held + 1, ..fits.clone() },
    ] {
        let run = Run::new();
        run.see("a", &windows(too_much));
        run.finds("window-bounds");
    }
}

#[test]
fn windows_keep_what_the_client_waits_for() {
    let run = Run::new();
    let replies = |replies| windows(Sizes { replies, limits: Limits::default(), ..Sizes::default() });
    run.see("a", &admitted(1, 7, 1, 0));
    run.see("a", &admitted(1, 7, 2, 0));
    run.see("a", &replies(2));
    run.see("a", &admitted(1, 7, 3, 1));
    run.see("a", &replies(2));
    // Late, and with what was true then.
    run.see("a", &admitted(1, 7, 5, 4));
    run.see("a", &admitted(1, 7, 4, 1));
    run.see("a", &replies(1));
    // It acknowledges nothing.
    run.see("a", &admitted(1, 7, 6, 6));
    run.see("a", &replies(2));
    run.is_well();
    // Another client's, and another server's.
    run.see("a", &admitted(1, 8, 7, 1));
    run.see("a", &admitted(2, 7, 7, 1));
    run.see("a", &replies(3));
    run.finds("window-bounds");
}

#[test]
fn who_was_told_of_an_error_of_its_disk_says_nothing_more() {
    let run = Run::of_three();
    run.promise(&["a", "b"], 4, 1);
    run.is_well();
    let vote = Paxos::Accepted { instance: 4, n: number(1), value: value(&["a", "b"]) };
    run.oracles.observe(&Node::new("b"), &vote, true);
    run.finds("answered-after-error");
}

#[test]
fn a_node_stops_only_because_of_its_disk() {
    let stops = |run: &Run, disk_failed| run.oracles.node_stops(&Node::new("b"), "no reason", disk_failed);
    let run = Run::of_three();
    stops(&run, true);
    run.is_well();
    stops(&run, false);
    run.finds("stopped-without-cause");

    let run = Run::of_three();
    run.oracles.node_died(&Node::new("b"));
    run.oracles.node_lost_disk(&Node::new("b"));
    stops(&run, false);
    run.is_well();
    run.learn("b", 1, &["a"]);
    run.is_well();
    stops(&run, false);
    run.finds("stopped-without-cause");
}
