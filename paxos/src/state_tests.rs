use super::*;
use crate::record::tests::LAB_LOG;
use proptest::prelude::*;

fn n(n: u32, node: &str) -> ProposalNumber {
    ProposalNumber { n, node: node.into() }
}

fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

/// Node a in view 2 = {a, b, c}.
fn member() -> AcceptorState {
    let mut state = AcceptorState::new("a");
    state.replay(Record::Done(1, value("a b"))).unwrap();
    state.replay(Record::Done(2, value("a b c "))).unwrap();
    state
}

fn prepare(state: &mut AcceptorState, instance: Instance, number: u32, node: &str) -> Step<PrepareRes> {
    state.prepare(node, &PrepareArg { instance, n: n(number, node) })
}

fn accept(state: &mut AcceptorState, instance: Instance, number: u32, node: &str, v: &str) -> Step<bool> {
    state.accept(node, &AcceptArg { instance, n: n(number, node), v: v.into() })
}

fn decide(state: &mut AcceptorState, instance: Instance, node: &str, v: &str) -> Step<i32> {
    state.decide(node, &DecideArg { instance, v: v.into() })
}

#[test]
fn a_promise_is_recorded_and_lower_numbers_are_refused() {
    let mut state = member();
    let step = prepare(&mut state, 3, 5, "b");
    assert_eq!(step.record, Some(Record::PropSeen(n(5, "b"))));
    assert_eq!(step.result, PrepareRes { accept: true, n_a: n(0, "a"), ..PrepareRes::default() });
    for (number, node) in [(5, "a"), (4, "c"), (5, "b"), (1, "b")] {
        let step = prepare(&mut state, 3, number, node);
        assert_eq!((step.record, step.status, step.result.accept), (None, PaxosStatus::OK, false));
    }
    assert!(prepare(&mut state, 3, 5, "c").result.accept);
    assert!(!accept(&mut state, 3, 5, "b", "a b ").result);
}

#[test]
fn h06_an_accepted_value_is_an_option_and_comes_with_its_number() {
    let mut state = member();
    assert_eq!(state.accepted(), None);
    let step = accept(&mut state, 3, 2, "b", "a b ");
    assert_eq!(step.record, Some(Record::Accepted(n(2, "b"), value("a b "))));
    let again = accept(&mut state, 3, 2, "b", "a b ");
    assert_eq!((again.record, again.result), (None, true), "it is on the disk");
    assert!(!accept(&mut state, 3, 2, "b", "a c ").result, "a number stands for one value");
    // Accepting 2 promises 2.
    assert!(!prepare(&mut state, 3, 2, "b").result.accept);
    let step = prepare(&mut state, 3, 3, "c");
    assert_eq!((step.result.n_a, step.result.v_a.as_str()), (n(2, "b"), "a b "));
    let step = accept(&mut state, 3, 4, "b", "");
    assert_eq!((step.record, step.status), (None, PaxosStatus::ERR));
    assert_eq!(state.accepted(), Some(&(n(2, "b"), value("a b "))));
}

#[test]
fn an_old_instance_is_answered_with_its_value_to_anybody() {
    let mut state = member();
    let step = prepare(&mut state, 1, 9, "stranger");
    assert!(step.result.oldinstance && step.record.is_none());
    assert_eq!(step.result.v_a, "a b");
    assert!(!accept(&mut state, 2, 9, "b", "a b ").result);
}

#[test]
fn a_prepare_with_zero_asks_and_promises_nothing() {
    let mut state = member();
    let step = prepare(&mut state, 3, 0, "b");
    assert_eq!((step.record, step.status, step.result.accept, step.behind), (None, PaxosStatus::OK, false, false));
    assert!(prepare(&mut state, 2, 0, "b").result.oldinstance);
    assert_eq!(state.promised(), None);
    assert!(!accept(&mut state, 3, 0, "b", "a b ").result);
}

#[test]
fn h16_strangers_and_surprising_instances_get_an_error_and_change_nothing() {
    let mut state = member();
    let before = state.clone();
    for (instance, number, node) in
        [(3, 1, "x"), (3, u32::MAX, "x"), (0, 1, "b"), (4, 1, "b"), (4, 1, "x"), (u32::MAX, 1, "b"), (3, 1, "")]
    {
        let step = prepare(&mut state, instance, number, node);
        assert_eq!((step.record, step.status), (None, PaxosStatus::ERR), "{instance} {number} {node}");
        assert_eq!(step.behind, instance > 3);
        assert_eq!(accept(&mut state, instance, number, node, "a b ").status, PaxosStatus::ERR);
        assert_eq!(decide(&mut state, instance, if instance == 3 { "x" } else { node }, "a b ").record, None);
    }
    // Under another's name.
    assert_eq!(state.prepare("b", &PrepareArg { instance: 3, n: n(7, "c") }).status, PaxosStatus::ERR);
    // Values that can't follow.
    for v in ["a", "b a c ", "x ", "a b c d e ", "d a b c ", "a  b", "\n", "a b c a "] {
        assert_eq!(accept(&mut state, 3, 9, "b", v).status, PaxosStatus::ERR, "{v:?}");
        assert_eq!(decide(&mut state, 3, "b", v).status, PaxosStatus::ERR, "{v:?}");
    }
    assert_eq!(state, before);
}

#[test]
fn h16_a_decide_that_was_not_accepted_here_is_committed_from_a_member() {
    let mut state = member();
    assert!(accept(&mut state, 3, 2, "b", "a b ").result);
    let step = decide(&mut state, 3, "c", "b c ");
    assert_eq!(step.record, Some(Record::Done(3, value("b c "))));
    assert_eq!((state.instance(), state.accepted(), state.promised()), (3, None, None));
    // Again, and with another value.
    assert_eq!(decide(&mut state, 3, "c", "b c").status, PaxosStatus::OK);
    assert_eq!(decide(&mut state, 3, "c", "a b").status, PaxosStatus::ERR);
    // A gap.
    assert!(decide(&mut state, 5, "c", "b ").behind);
    assert_eq!(state.instance(), 3);
}

#[test]
fn a_node_that_knows_no_view_casts_no_vote() {
    let mut state = AcceptorState::new("a");
    assert!(state.is_new());
    for instance in [1, 2] {
        assert_eq!(prepare(&mut state, instance, 1, "a").status, PaxosStatus::ERR);
        assert_eq!(accept(&mut state, instance, 1, "a", "a").status, PaxosStatus::ERR);
        assert_eq!(decide(&mut state, instance, "a", "a").record, None);
    }
    assert!(decide(&mut state, 2, "b", "a b ").behind, "who speaks of a view is worth knowing");
    assert!(state.is_new());
    assert_eq!(state.learn(1, "a"), Some(Record::Done(1, value("a"))));
}

#[test]
fn promises_two_instances_ahead_are_not_given() {
    // S7: C, one view behind, would promise (1, b) and then (2, a) two instances ahead; learning resets the promise.
    let mut state = member();
    assert_eq!(prepare(&mut state, 4, 1, "b").status, PaxosStatus::ERR);
    assert!(prepare(&mut state, 3, 1, "b").result.accept);
    assert_eq!(state.promised(), Some(&n(1, "b")));
}

#[test]
fn h27_restore_takes_missing_done_records_and_keeps_own_promises() {
    let mut state = AcceptorState::new("43000");
    let records = state.restore(LAB_LOG).unwrap();
    assert_eq!(records.len(), 5);
    assert!(records.iter().all(|r| matches!(r, Record::Done(..))));
    assert_eq!((state.instance(), state.promised(), state.accepted()), (5, None, None));

    assert!(prepare(&mut state, 6, 7, "42000").result.accept);
    assert!(accept(&mut state, 6, 7, "42000", "42000 43000 ").result);
    let before = state.clone();
    // The primary's log, with promises of its own for the same instance.
    let text = format!("{LAB_LOG}propseen 99 41000\naccepted 99 41000 41000 42000 \n");
    assert_eq!(state.restore(&text), Ok(Vec::new()));
    assert_eq!(state, before);
}

#[test]
fn h27_hostile_logs_are_refused_whole() {
    let mut state = member();
    let before = state.clone();
    let cases = [
        ("done 1 a b \ndone 2 a b c \ndone 4 a b c \n", RestoreError::Sequence { expected: 3, found: 4 }),
        ("done 4 a b c \n", RestoreError::Sequence { expected: 3, found: 4 }),
        ("done 1 a b \ndone 3 a b \n", RestoreError::Sequence { expected: 2, found: 3 }),
        ("done 3 a b \ndone 3 a b \n", RestoreError::Sequence { expected: 4, found: 3 }),
        ("done 1 a b \ndone 2 x y z \n", RestoreError::OtherValue(2)),
        ("done 3 a b \ndone 4 x y \n", RestoreError::Step(4)),
        ("done 4294967295 a \n", RestoreError::Sequence { expected: 3, found: u32::MAX }),
    ];
    for (text, error) in cases {
        assert_eq!(state.restore(text), Err(error), "{text}");
        assert_eq!(state, before);
    }
    assert!(matches!(state.restore("done 3 a b \npropseen x\n"), Err(RestoreError::Line { line: 2, .. })));
    assert_eq!(state, before);
    // A shortened log, to a node that knows nothing.
    let mut new = AcceptorState::new("d");
    assert_eq!(new.restore("done 1000 a b \ndone 1001 a b d \n").unwrap().len(), 2);
    assert_eq!((new.instance(), new.value(999)), (1001, None));
    assert_eq!(prepare(&mut new, 5, 1, "a").status, PaxosStatus::ERR);
}

#[derive(Clone, Debug)]
enum Input {
    Prepare(Instance, u32, usize),
    Accept(Instance, u32, usize, usize),
    Decide(Instance, usize, usize),
    Learn(Instance, usize),
    Restart,
}

const NODES: [&str; 5] = ["a", "b", "c", "d", "x"];
const VALUES: [&str; 8] = ["a b c ", "a b ", "a c ", "b c ", "a b c d ", "a ", "", "x y "];

fn input() -> impl Strategy<Value = Input> {
    let (instance, number, node, v) = (0u32..6, 0u32..5, 0..NODES.len(), 0..VALUES.len());
    prop_oneof![
        (instance.clone(), number.clone(), node.clone()).prop_map(|(i, n, s)| Input::Prepare(i, n, s)),
        (instance.clone(), number, node.clone(), v.clone()).prop_map(|(i, n, s, v)| Input::Accept(i, n, s, v)),
        (instance.clone(), node, v.clone()).prop_map(|(i, s, v)| Input::Decide(i, s, v)),
        (instance, v).prop_map(|(i, v)| Input::Learn(i, v)),
        Just(Input::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes in: what was promised, accepted and learnt is in the records, and a restart changes nothing.
    #[test]
    fn h05_the_records_are_the_state(inputs in proptest::collection::vec(input(), 0..40)) {
        let mut state = member();
        let mut records = vec![Record::Done(1, value("a b")), Record::Done(2, value("a b c "))];
        for input in inputs {
            let before = state.clone();
            let record = match input {
                Input::Prepare(i, number, s) => prepare(&mut state, i, number, NODES[s]).record,
                Input::Accept(i, number, s, v) => accept(&mut state, i, number, NODES[s], VALUES[v]).record,
                Input::Decide(i, s, v) => decide(&mut state, i, NODES[s], VALUES[v]).record,
                Input::Learn(i, v) => state.learn(i, VALUES[v]),
                Input::Restart => {
                    let mut again = AcceptorState::new("a");
                    for record in &records {
                        prop_assert_eq!(again.replay(record.clone()), Ok(()));
                    }
                    prop_assert_eq!(&again, &state);
                    None
                }
            };
            prop_assert_eq!(record.is_none(), before == state, "a change without a record, or a record without one");
            prop_assert!(state.instance() > before.instance() || state.promised() >= before.promised());
            records.extend(record);
        }
    }
}
