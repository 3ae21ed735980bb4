//! A run that is recorded is the run that isn't, and its picture has what happened.

use sim::recording::Recording;
use sim::run::{Settings, run_seed};
use sim::trace::LogLines;
use trace::{Kind, Lines, columns, html, pairs};

#[test]
fn a_recorded_run_is_the_same_run() {
    let settings = Settings { nodes: 3..=3, ..Settings::default() };
    let plain = run_seed(2, &settings);
    LogLines::install_recording(Lines::new());
    let recording = Recording::new();
    let recorded = run_seed(2, &Settings { recording: recording.clone(), ..settings });
    assert_eq!((plain.report.hash, plain.report.turns), (recorded.report.hash, recorded.report.turns));
    assert_eq!(plain.report.counts, recorded.report.counts);

    let picture = recording.picture("seed 2".into(), "sim --seed 2".into(), None);
    let count = |kind| picture.events.iter().filter(|event| event.kind == kind).count() as u64;
    assert!(count(Kind::Start) > recorded.report.counts["start"], "clients start, too");
    for kind in Kind::ALL {
        assert!(count(kind) > 0, "{kind:?}");
    }
    assert!(picture.events.iter().any(|event| event.text.starts_with("invoke (3,1) ")));
    assert!(picture.events.iter().any(|event| event.text == "primary in view 3"));
    // Each that came in was sent, and hardly any is lost.
    let found = pairs(&picture.events);
    assert_eq!(found.unsent, [] as [usize; 0]);
    assert!(found.arrows.len() as u64 > count(Kind::Sent) / 10 * 9);
    assert!(found.arrows.iter().all(|arrow| picture.events[arrow.sent].at < picture.events[arrow.received].at));
    assert!(columns(&picture, 120).lines().count() > 5_000);
    assert_eq!(html("", &[picture]).left_out, [] as [&str; 0]);
}
