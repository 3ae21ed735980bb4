//! One server.

use processes::trouble::Trouble;

use super::{Stage, Step};

pub(super) const STEP: Step = Step {
    number: 1,
    title: "one server",
    expect: "\
A bank with one server, and a client that sends it deposits, withdrawals, transfers and reads. The server's file is the log of
all operations, in the order in which it executed them. Killed and started again it goes on where the file ends. But while
it is dead there is no bank: that is what replicas are for.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    let (srv, port) = stage.server("a")?;
    let client = stage.start("client", &[&port, "--seed", "1", "--pause", "20"])?;
    stage.await_lines("a", 25)?;
    let status = stage.interrupt(client)?;
    stage.show_head("a", 10)?;
    let lines = stage.lines("a");
    let count = lines.len();
    let said = stage.output(client);
    let total = said.lines().last().unwrap_or_default();
    stage.claim(
        "what the client was answered is what the file has",
        status == 0 && total.starts_with(&format!("{count} operations sent, {count} answered")),
    )?;
    stage.claim("reads are in the log, too", lines.iter().any(|line| line.contains(" read ")))?;

    stage.kill(srv)?;
    let (status, _) = stage.run("client", &[&port, "--do", "read alice"])?;
    stage.claim("without the server there is no bank", status == 1)?;
    stage.server_at("a", &port)?;
    let (status, answer) = stage.run("client", &[&port, "--do", "deposit alice 5"])?;
    let now = stage.lines("a");
    stage.claim(
        format_args!("started again it goes on with operation {}", count + 1),
        status == 0
            && now.len() == count + 1
            && now[..count] == lines
            && answer.starts_with("deposit alice 5 -> ")
            && now[count].starts_with(&format!("{} {}", count + 1, answer.trim_end())),
    )
}
