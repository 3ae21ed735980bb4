//! The bank on yfs-rsm: no single machine matters.

use processes::trouble::Trouble;
use rt::time::now;

use super::{Job, Stage, Step};

pub(super) const STEP: Step = Step {
    number: 8,
    title: "Paxos in the view server's place",
    expect: "\
The same bank on the library of this repository: three replicas agree by Paxos on each view, the first of a view is its
primary, and there is no view server. Each machine dies once under a client, the primary first, and is started again with
the same command line. The client notices a pause of some tenths of a second; every operation is executed once.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    let ports = [stage.port()?, stage.port()?, stage.port()?];
    let mut jobs = Vec::new();
    for port in &ports {
        let job = replica(stage, &ports[0], port)?;
        // The next one joins when this one is a member.
        stage.await_output(job, "in sync")?;
        jobs.push(job);
    }
    let names: Vec<&str> = ports.iter().map(String::as_str).collect();
    let client = stage.start("rsm_client", &[&names[..], &["--seed", "1", "--pause", "10"]].concat())?;
    await_answers(stage, client, 10)?;
    for (at, port) in ports.iter().enumerate() {
        let said = stage.output(client);
        let was_primary = said.lines().rfind(|line| line.starts_with("# ")).is_some_and(|line| line.ends_with(port));
        stage.kill(jobs[at])?;
        let (killed, answers) = (now(), answers(stage, client));
        // One may have been on its way.
        await_answers(stage, client, answers + 2)?;
        let pause = (now() - killed).as_secs_f64();
        let what = if was_primary { "the primary" } else { "a backup" };
        stage.claim(format_args!("{port}, {what}, is dead: the bank goes on after {pause:.2} s"), true)?;
        jobs[at] = replica(stage, &ports[0], port)?;
        stage.await_output(jobs[at], "in sync")?;
    }
    let status = stage.interrupt(client)?;
    let said = stage.output(client);
    let count = said.lines().filter(|line| line.contains(" -> ")).count();
    let (read, accounts) = stage.run("rsm_client", &[names[0], "--accounts"])?;
    stage.claim(
        format_args!("each machine has died once, and each of the client's {count} operations was executed once"),
        status == 0
            && read == 0
            && said.contains(&format!("\n{count} operations, {count} answered"))
            && accounts.starts_with(&format!("after {count} operations: ")),
    )
}

fn replica(stage: &mut Stage, first: &str, me: &str) -> Result<Job, Trouble> {
    stage.start("rsm_srv", &[first, me])
}

fn answers(stage: &Stage, client: Job) -> usize {
    stage.output(client).lines().filter(|line| line.contains(" -> ")).count()
}

fn await_answers(stage: &mut Stage, client: Job, count: usize) -> Result<(), Trouble> {
    stage.await_that(&format!("{count} answers"), |stage| Ok(answers(stage, client) >= count))
}
