//! The limitation: the view server itself dies.

use std::time::Duration;

use processes::trouble::{Trouble, nap};

use super::timeline;
use super::{Stage, Step};

pub(super) const STEP: Step = Step {
    number: 7,
    title: "the view server dies",
    expect: "\
The view server is one machine. Without it the servers go on in their view, for clients that know it; a new client finds
nobody. Then a server dies, and nothing moves any more, though the other one lives and has everything. Started again the view
server has forgotten its views, and must not begin new ones: it doesn't know who has the state. Only when the servers are
started again, and have nothing, it forms a view: what was acknowledged is lost. It can't be simply doubled either: two of
them could disagree, which is where step 4 began.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    let views = timeline::view_server(stage, &["--pings", "3"])?;
    let [(one, _), (two, s2)] = timeline::servers(stage, &views, ["a", "b"], &[])?;
    let client = stage.start("pb_client", &[&views.1, "--seed", "1", "--pause", "20"])?;
    stage.await_lines("b", 10)?;
    stage.kill(views.0)?;
    stage.await_output(two, "the view server doesn't answer")?;
    let before = stage.lines("b").len();
    stage.await_lines("b", before + 20)?;
    stage.claim("the servers go on in view 1, for a client that knows it", stage.lines("a").len() > before)?;
    let other = [&*views.1, "--within", "700", "--do", "read alice"];
    let (status, answer) = stage.run("pb_client", &other)?;
    stage.claim("another client finds nobody", status == 1 && answer.contains("the view server doesn't answer"))?;

    stage.kill(one)?;
    let (executed, said) = (stage.lines("b").len(), stage.output(client).len());
    nap(Duration::from_millis(1500))?;
    let still = stage.output(two);
    stage.claim(
        format_args!("{s2} lives, has all {executed} operations, and may not serve: nothing moves"),
        stage.lines("b").len() == executed && stage.output(client).len() == said && !still.contains("kind=\"primary\""),
    )?;

    stage.note("the view server is started again")?;
    let again = stage.start("view_server", &[&views.1, "--pings", "3"])?;
    stage.await_output(two, "the view server was restarted")?;
    nap(Duration::from_millis(700))?;
    let (status, _) = stage.run("pb_client", &other)?;
    stage.claim(
        "it has forgotten its views, and forms none",
        status == 1 && !stage.output(again).contains("view 1: "),
    )?;
    stage.kill(two)?;
    timeline::servers(stage, &(again, views.1.clone()), ["a", "b"], &[])?;
    let (status, answer) = stage.run("pb_client", &other)?;
    stage.claim(
        "the servers are started again: the bank begins anew, with nothing",
        status == 0 && answer.contains("-> 0"),
    )?;
    stage.note("who knows the views has to be more than one machine, and these have to agree: Paxos, step 8")
}
