//! The strawman: clients send each operation to both servers.

use processes::trouble::Trouble;

use super::{Stage, Step};

pub(super) const STEP: Step = Step {
    number: 2,
    title: "the strawman: two servers, and clients that send to both",
    expect: "\
With one client the files are the same, and one server may die. With two clients their operations reach the servers in
different orders: answers differ, and as soon as one server refuses what the other executes, so do the accounts, for ever.
And an operation that isn't deterministic goes wrong with a single client: each server draws a bonus of its own.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    stage.scene("the strawman, one client")?;
    let (_, a) = stage.server("a")?;
    let (second, b) = stage.server("b")?;
    let (status, _) = stage.run("client", &[&a, &b, "--seed", "1", "--ops", "50", "--pause", "0", "--quiet"])?;
    let differ = stage.show_both("a", "b")?;
    stage.claim("one client: the files are the same", status == 0 && differ.is_none())?;
    stage.kill(second)?;
    let (status, _) = stage.run("client", &[&a, &b, "--do", "deposit alice 5", "--do", "read alice"])?;
    stage.claim("one server dead: the client goes on with the other", status == 0 && stage.lines("a").len() == 52)?;

    stage.scene("the strawman, two clients, and new servers")?;
    let (_, a) = stage.server("c")?;
    let (_, b) = stage.server("d")?;
    let one = stage.start("client", &[&a, &b, "--seed", "1", "--pause", "0", "--quiet"])?;
    let other = stage.start("client", &[&a, &b, "--seed", "2", "--pause", "0", "--quiet"])?;
    stage.await_that("a client sees the servers differ", |stage| {
        Ok([one, other].iter().any(|client| stage.output(*client).contains("THE SERVERS DIFFER")))
    })?;
    let statuses = [stage.interrupt(one)?, stage.interrupt(other)?];
    for client in [one, other] {
        if let Some(line) = stage.output(client).lines().find(|line| line.starts_with("THE SERVERS DIFFER")) {
            stage.note(line)?;
        }
    }
    let differ = stage.show_both("c", "d")?;
    stage.claim("two clients: the servers answer differently", statuses.contains(&3))?;
    stage.claim(format_args!("the files differ, from line {}", differ.unwrap_or(0)), differ.is_some())?;

    stage.scene("the strawman, one client, and operations left to chance")?;
    let (_, a) = stage.server("e")?;
    let (_, b) = stage.server("f")?;
    // That both draw the same eight times doesn't happen.
    let bonus = ["--do", "bonus alice"].repeat(8);
    let (status, _) = stage.run("client", &[&[&*a, &*b], &*bonus].concat())?;
    let differ = stage.show_both("e", "f")?;
    stage.claim("a bonus: each server draws its own", status == 3 && differ.is_some())
}
