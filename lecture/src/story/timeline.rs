//! Who said what when; and what the steps with a view server have in common.

use processes::trouble::Trouble;
use rt::console::say;
use rt::time::{Instant, now};

use super::{Job, Stage};

/// Something that a program is going to say.
pub(super) struct Line<'a> {
    /// Who.
    pub(super) who: &'a str,
    /// The program.
    pub(super) job: Job,
    /// A part of the line.
    pub(super) part: &'a str,
    /// What it means, shown behind it.
    pub(super) means: &'a str,
}

/// Waits until all these lines were said, and shows them in the order in which they were, with the time since `began`. Gives
/// these times, in the order of `lines`: causes first.
pub(super) fn show(stage: &mut Stage, began: Instant, lines: &[Line<'_>]) -> Result<Vec<f64>, Trouble> {
    let mut seen: Vec<Option<(f64, String)>> = lines.iter().map(|_| None).collect();
    let what = lines.iter().map(|line| format!("{} says {:?}", line.who, line.part)).collect::<Vec<_>>().join(", ");
    stage.await_that(&what, |stage| {
        // What is caused is looked for before its cause, and both get the same time: no cause is seen after what it causes.
        let time = (now() - began).as_secs_f64();
        for (line, seen) in lines.iter().zip(&mut seen).rev().filter(|(_, seen)| seen.is_none()) {
            let output = stage.output(line.job);
            // A line may be there in part.
            let said = output.split_inclusive('\n').find(|said| said.contains(line.part) && said.ends_with('\n'));
            *seen = said.map(|said| (time, bare(said)));
        }
        Ok(seen.iter().all(Option::is_some))
    })?;
    let times: Vec<f64> = seen.iter().flatten().map(|(time, _)| *time).collect();
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
    for at in order {
        let (Some((time, said)), Line { who, means, .. }) = (&seen[at], &lines[at]) else { continue };
        let arrow = if means.is_empty() { "" } else { "   <- " };
        say(format_args!("      {time:5.2} s  {who:<11} {said}{arrow}{means}"))?;
    }
    Ok(times)
}

/// A line of a log without its level and its fields.
fn bare(line: &str) -> String {
    let line = line.trim();
    let line = ["INFO ", "WARN ", "ERROR "].iter().find_map(|level| line.strip_prefix(level)).unwrap_or(line);
    line.split(" node=").next().unwrap_or(line).to_owned()
}

/// Starts a view server.
pub(super) fn view_server(stage: &mut Stage, options: &[&str]) -> Result<(Job, String), Trouble> {
    let port = stage.port()?;
    let job = stage.start("view_server", &[&[&*port], options].concat())?;
    stage.await_output(job, "kind=\"start\"")?;
    Ok((job, port))
}

/// Starts servers with these files, one after the other, so that the first becomes the primary and the second the backup;
/// returns when the view is acknowledged.
pub(super) fn servers<const N: usize>(
    stage: &mut Stage,
    views: &(Job, String),
    files: [&str; N],
    options: &[&str],
) -> Result<[(Job, String); N], Trouble> {
    let mut started = Vec::new();
    for file in files {
        let port = stage.port()?;
        let job = stage.start("pb_srv", &[&[file, &port, &views.1], options].concat())?;
        stage.await_output(views.0, &format!("{port} lives"))?;
        started.push((job, port));
    }
    stage.await_output(views.0, "view 1 is acknowledged")?;
    let said = stage.output(views.0);
    let view = said.lines().find(|line| line.contains("view 1: ")).unwrap_or_default();
    stage.note(format_args!("the view server: {}", bare(view)))?;
    started.try_into().map_err(|_| Trouble::Failed("not all were started".to_owned()))
}
