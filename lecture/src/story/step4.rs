//! Where that design ends: two coordinators and a partition.

use processes::trouble::Trouble;

use super::{Stage, Step};

pub(super) const STEP: Step = Step {
    number: 4,
    title: "two coordinators, a partition, the split brain",
    expect: "\
A coordinator that dies stops the bank. So let there be one beside each server; a client that can't reach the first turns to
the second; and a coordinator goes on without a server that it takes for dead (--alone). That is well while machines only
die. Then the network breaks in two, between the machines {first coordinator, a} and {second coordinator, b}: both go on,
neither sees the other's operations, and the bank pays out the same 100 twice. With a majority instead of --alone nothing
is paid twice, but nobody is served.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    stage.scene("two coordinators, each of which goes on alone")?;
    let (_, a) = stage.server("a")?;
    let (_, b) = stage.server("b")?;
    let (one, two) = (stage.port()?, stage.port()?);
    let first = stage.coordinator(&["--alone", "--test"], &one, &[&a, &b])?;
    let second = stage.coordinator(&["--alone", "--test"], &two, &[&b, &a])?;
    stage.run("client", &["--turn", &one, &two, "--do", "deposit alice 100"])?;
    let together = stage.show_both("a", "b")?;
    stage.claim(
        "before the partition both servers have the deposit",
        together.is_none() && stage.lines("a").len() == 1,
    )?;

    stage.note(format_args!("the partition: {{{one}, {a}, a client}} | {{{two}, {b}, another client}}"))?;
    stage.run("cut", &[&one, &b])?;
    stage.run("cut", &[&two, &a])?;
    let (paid, answer) = stage.run("client", &["--turn", &one, &two, "--do", "withdraw alice 100"])?;
    stage.claim("the first pays out 100, and says so", paid == 0 && answer.contains("withdraw alice 100 -> 0"))?;
    let there = ["--turn", &one, &two, "--cut", &one];
    let (read, answer) = stage.run("client", &[&there[..], &["--do", "read alice"]].concat())?;
    stage.claim(
        "the other client turns to the second, and reads the balance before the withdrawal",
        read == 0 && answer.contains("turning to") && answer.contains("read alice -> 100"),
    )?;
    let (paid, answer) = stage.run("client", &[&there[..], &["--do", "withdraw alice 100"]].concat())?;
    stage.claim("the second pays out the same 100", paid == 0 && answer.contains("withdraw alice 100 -> 0"))?;
    let primaries = [first, second].iter().filter(|job| stage.output(**job).contains("kind=\"primary\"")).count();
    stage.claim("two primaries: the split brain", primaries == 2)?;

    stage.note("the network is whole again; nobody notices")?;
    stage.run("cut", &[&one])?;
    stage.run("cut", &[&two])?;
    stage.run("client", &["--turn", &one, &two, "--do", "deposit alice 7"])?;
    stage.run("client", &["--turn", &two, &one, "--do", "deposit bob 9"])?;
    let differ = stage.show_both("a", "b")?;
    stage.claim("two histories, and no way back", differ == Some(2) && stage.lines("a").len() == 3)?;

    without_alone(stage)
}

/// The same with a majority.
fn without_alone(stage: &mut Stage) -> Result<(), Trouble> {
    stage.scene("two coordinators and a majority, which of two is both")?;
    let (_, a) = stage.server("c")?;
    let (_, b) = stage.server("d")?;
    let (one, two) = (stage.port()?, stage.port()?);
    stage.coordinator(&["--test"], &one, &[&a, &b])?;
    stage.coordinator(&["--test"], &two, &[&b, &a])?;
    stage.run("client", &["--turn", &one, &two, "--do", "deposit alice 100"])?;
    stage.run("cut", &[&one, &b])?;
    stage.run("cut", &[&two, &a])?;
    let (paid, _) = stage.run("client", &["--turn", &one, &two, "--do", "withdraw alice 100"])?;
    let there = ["--turn", &one, &two, "--cut", &one, "--do", "withdraw alice 100"];
    let (paid_there, _) = stage.run("client", &there)?;
    stage.claim("nobody is paid: no split brain, and no bank", paid == 1 && paid_there == 1)?;
    stage.note("who may go on is for somebody else to say, whom all ask: the view server, step 5")
}
