//! The example for those who simulate a state machine of their own works.

#[path = "../examples/counter.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program")]
mod counter;

#[test]
fn a_counter_is_simulated() {
    let totals = counter::simulate(2);
    assert_eq!(totals.findings.into_iter().collect::<Vec<_>>(), []);
    assert_eq!(totals.seeds, 2);
    assert!(totals.acknowledged > 100 && totals.views > 2 && totals.counts.contains_key("start"));
}
