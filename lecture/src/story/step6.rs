//! The primary's acknowledgement, and what is lost without it.

use std::time::Duration;

use processes::trouble::{Trouble, nap};

use super::timeline;
use super::{Job, Stage, Step};

pub(super) const STEP: Step = Step {
    number: 6,
    title: "a view is acknowledged before the next one",
    expect: "\
Three servers, S1 S2 S3. S1 dies: view 2 is S2 with S3 as its new backup. S2 becomes unreachable at once, before S3 has its state.
A view server that goes on to view 3, S3 alone, makes a server without the state the primary: all that was acknowledged is
lost, every time (--without-ack). So the primary acknowledges each view when its backup has the state, and until then no
backup is promoted: the bank waits, maybe S2 will revive. It does, and everything is there.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    stage.scene("without acknowledgements")?;
    let lost = lectures_example(stage, &["--without-ack"], ["a", "b", "c"])?;
    stage.await_output(lost.views.0, &format!("view 3: {} --", lost.s3))?;
    stage.await_output(lost.three, "without the state")?;
    stage.tell(&format!("view server: view 3: {} --", lost.s3))?;
    let (status, answer) = stage.run("pb_client", &[&lost.views.1, "--do", "read alice", "--do", "read bob"])?;
    stage.show_head("b", 3)?;
    stage.show_head("c", 3)?;
    stage.claim(
        "alice and bob have nothing: what was acknowledged is lost",
        status == 0 && answer.contains("read alice -> 0") && answer.contains("read bob -> 0"),
    )?;

    stage.scene("with acknowledgements")?;
    let kept = lectures_example(stage, &[], ["d", "e", "f"])?;
    nap(Duration::from_millis(1500))?;
    let said = stage.output(kept.views.0);
    stage.claim("the view server stays with view 2", said.contains("view 2: ") && !said.contains("view 3: "))?;
    let read = ["--do", "read alice", "--do", "read bob"];
    let (status, _) = stage.run("pb_client", &[&[&*kept.views.1, "--within", "700"], &read[..2]].concat())?;
    stage.claim("nobody is served meanwhile", status == 1)?;
    stage.note(format_args!("{} revives", kept.s2))?;
    stage.run("cut", &[&kept.s3])?;
    stage.run("cut", &[&kept.s2])?;
    stage.await_output(kept.views.0, "view 2 is acknowledged")?;
    let (status, answer) = stage.run("pb_client", &[&[&*kept.views.1], &read[..]].concat())?;
    stage.show_head("f", 4)?;
    stage.claim(
        "alice has her 100 and bob his 50: nothing is lost",
        status == 0 && answer.contains("read alice -> 100") && answer.contains("read bob -> 50"),
    )?;
    stage.claim("and the new backup has the whole log", stage.lines("e") == stage.lines("f"))
}

/// What is left of it.
struct Left {
    views: (Job, String),
    s2: String,
    three: Job,
    s3: String,
}

/// The lecture's S1-S2-S3 example, until S2 can't be reached any more.
fn lectures_example(stage: &mut Stage, options: &[&str], files: [&str; 3]) -> Result<Left, Trouble> {
    let views = timeline::view_server(stage, &[options, &["--pings", "3"]].concat())?;
    let [(one, _), (_, s2), (three, s3)] = timeline::servers(stage, &views, files, &["--test"])?;
    stage.run("pb_client", &[&views.1, "--do", "deposit alice 100", "--do", "deposit bob 50"])?;
    stage.note(format_args!("{s2} and {s3} don't reach each other: there will be no time for the transfer"))?;
    stage.run("cut", &[&s3, &s2])?;
    stage.kill(one)?;
    stage.await_output(views.0, &format!("view 2: {s2} {s3}"))?;
    stage.tell(&format!("view server: view 2: {s2} {s3}"))?;
    // It has to hear of the view, to believe in it.
    stage.await_output(three, "backup in view 2")?;
    stage.run("cut", &[&s2, &views.1, &s3])?;
    Ok(Left { views, s2, three, s3 })
}
