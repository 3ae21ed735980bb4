//! The coordinator: one order for all.

use processes::trouble::Trouble;

use super::{Stage, Step};

pub(super) const STEP: Step = Step {
    number: 3,
    title: "the coordinator",
    expect: "\
All clients send to the coordinator, which gives each operation a number, draws what is left to chance, and waits for a
majority of the servers before it answers. The files agree to the last line. A client may be killed at any time. Of two
servers a majority is both: with one killed the coordinator stops, and says so, until that one is back.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    let (_, a) = stage.server("a")?;
    let (second, b) = stage.server("b")?;
    let port = stage.port()?;
    let coord = stage.coordinator(&[], &port, &[&a, &b])?;
    let one = stage.start("client", &[&port, "--seed", "1", "--pause", "5", "--bonus", "--quiet"])?;
    let other = stage.start("client", &[&port, "--seed", "2", "--pause", "5", "--bonus", "--quiet"])?;
    stage.await_lines("b", 60)?;

    stage.kill(one)?;
    let before = stage.lines("b").len();
    stage.await_lines("b", before + 20)?;
    stage.claim("one client killed: the other is served on", true)?;

    stage.kill(second)?;
    stage.await_output(coord, "stopped")?;
    stage.await_output(other, "refuses")?;
    let said = stage.output(coord);
    stage.tell(said.lines().rfind(|line| line.contains("stopped")).unwrap_or_default())?;
    let (here, there) = (stage.lines("a").len(), stage.lines("b").len());
    let (status, answer) = stage.run("client", &[&port, "--do", "deposit alice 5"])?;
    stage.claim("one server killed: the coordinator stops, and says so", status == 1 && answer.contains("stopped"))?;
    let (here_now, there_now) = (stage.lines("a").len(), stage.lines("b").len());
    stage.claim(
        format_args!("the files stand still: {here_now} and {there_now} operations"),
        (here_now, there_now) == (here, there) && here <= there + 1,
    )?;

    stage.server_at("b", &b)?;
    stage.await_lines("b", there + 20)?;
    stage.claim("that server started again: the coordinator goes on", true)?;
    let status = stage.interrupt(other)?;
    stage.interrupt(coord)?;
    let differ = stage.show_both("a", "b")?;
    stage.claim("the files agree to the last line", status == 0 && differ.is_none())
}
