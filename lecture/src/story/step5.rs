//! The view server, and a primary that was deposed and doesn't know it.

use processes::trouble::Trouble;
use rt::time::now;

use super::timeline::{self, Line};
use super::{Stage, Step};

pub(super) const STEP: Step = Step {
    number: 5,
    title: "a view server, and the true moment of switch-over",
    expect: "\
A view server says who is the primary and who the backup, view by view. Servers ping it; nobody decides alone. The primary
forwards each operation and waits for the backup to accept it. Then the primary is cut off from the view server, but neither
from its backup nor from its clients: the view server takes it for dead and forms view 2. The old primary still believes to be
the primary, and still acts as one, until its backup hears of view 2: that is the true moment of switch-over. From then on
the backup, a primary now, rejects what is forwarded to it, the old primary answers with an error, and the client asks the
view server and sends its request again. Nothing is lost, and nothing executed twice.",
    run,
};

fn run(stage: &mut Stage) -> Result<(), Trouble> {
    let slow = ["--interval", "400"];
    let views = timeline::view_server(stage, &["--interval", "400", "--pings", "2"])?;
    let [(one, s1), (two, s2)] = timeline::servers(stage, &views, ["a", "b"], &[&slow[..], &["--test"]].concat())?;
    let client = stage.start("pb_client", &[&views.1, "--seed", "1", "--pause", "10"])?;
    stage.await_lines("b", 10)?;

    stage.run("cut", &[&s1, &views.1])?;
    let began = now();
    stage.await_output(views.0, "view 2: ")?;
    let before = stage.lines("a").len();
    let lines = [
        Line { who: "view server", job: views.0, part: "view 2: ", means: "" },
        Line { who: &s2, job: two, part: "kind=\"primary\"", means: "THE TRUE MOMENT OF SWITCH-OVER" },
        Line { who: &s2, job: two, part: "rejects ", means: "not the backup any more" },
        Line { who: &s1, job: one, part: " rejects what was forwarded", means: "so it answers with an error" },
        Line { who: "client", job: client, part: "# view 2", means: "has asked the view server" },
    ];
    let times = timeline::show(stage, began, &lines)?;
    let (formed, heard) = (times[0], times[1]);
    let last = stage.lines("a").len();
    stage.note(format_args!(
        "now the view server says {s2}; {s1} believes in view 1 and itself, {s2} in view 2 and itself"
    ))?;
    stage.claim(
        format_args!(
            "{s1} acts as the primary until {s2} hears of view 2, {:.2} s after it was formed",
            heard - formed
        ),
        formed <= heard && heard <= times[3],
    )?;
    stage.claim("it still believes to be the primary of view 1", !stage.output(one).contains("in view 2"))?;
    stage.await_lines("b", last + 20)?;
    stage.claim(
        format_args!(
            "all {last} operations that it executed, {} of them since view 2, are in b as well, and b goes on",
            last - before
        ),
        stage.lines("a").len() == last && stage.lines("b")[..last] == stage.lines("a"),
    )?;

    stage.note("the network is whole again")?;
    stage.run("cut", &[&s1])?;
    let lines = [
        Line { who: &s1, job: one, part: "in view 3", means: "" },
        Line { who: &s1, job: one, part: "has the state of", means: "the complete state, before it counts" },
        Line { who: "view server", job: views.0, part: "view 3 is acknowledged", means: "" },
    ];
    timeline::show(stage, began, &lines)?;
    let length = stage.lines("b").len();
    stage.await_lines("b", length + 10)?;
    let status = stage.interrupt(client)?;
    let differ = stage.show_both("a", "b")?;
    let (count, said) = (stage.lines("b").len(), stage.output(client));
    stage.claim("both servers have the same log", differ.is_none())?;
    stage.claim(
        format_args!("each of the client's {count} operations was executed once"),
        status == 0 && said.contains(&format!("\n{count} operations, {count} answered")),
    )
}
