//! What the stack's messages and log lines are called in a trace.
//!
//! Procedures are told by their numbers (docs/protocols.md), and their arguments are read leniently: they may be cut off,
//! and come from anywhere. Log lines are told by their module and the message, which are stable.

use crate::event::Kind;

/// Says in a few words what a procedure with these arguments asks for; `None` if it isn't one of its own.
pub type Describer = fn(procedure: u32, args: &[u8]) -> Option<String>;

/// Requests travel inside of one another so deep: client_invoke, a session's request, the state machine's own.
const DEPTH: usize = 3;

/// Reads the wire's big-endian values off the front, as far as there are any.
struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*head))
    }

    /// Counted bytes, or what is left of them.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()? as usize;
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A viewstamp.
    fn stamp(&mut self) -> Option<String> {
        Some(format!("({},{})", self.u32()?, self.u32()?))
    }
}

/// What a request asks for: in the words of one of `own`, or of the stack, or by its number.
pub fn describe(procedure: u32, args: &[u8], own: &[Describer]) -> String {
    describe_inside(procedure, args, own, DEPTH)
}

fn describe_inside(procedure: u32, args: &[u8], own: &[Describer], depth: usize) -> String {
    if let Some(text) = own.iter().find_map(|describer| describer(procedure, args)) {
        return text;
    }
    let name = match procedure {
        0 => "?",
        1 => "bind",
        0x7001 => "acquire",
        0x7002 => "release",
        0x7003 => "stat",
        0x8001 => "revoke",
        0x8002 => "retry",
        0x9001 => "client_invoke",
        0x9002 => "client_members",
        0x10001 => "invoke",
        0x10002 => "transfer",
        0x10003 => "transferdone",
        0x10004 => "join",
        0x11001 => "prepare",
        0x11002 => "accept",
        0x11003 => "decide",
        0x11004 => "heartbeat",
        0x11005 => "disk",
        0x12001 => "net_repair",
        0x12002 => "breakpoint",
        0x12003 => "cut_members",
        0x5946_0001 => "open session",
        0x5946_0002 => "request",
        _ => return format!("procedure {procedure:#x}"),
    };
    let mut args = Args(args);
    let inside = |args: &mut Args<'_>| {
        let (procedure, bytes) = (args.u32()?, args.bytes()?);
        Some(describe_inside(procedure, bytes, own, depth.checked_sub(1)?))
    };
    let detail = (|| match procedure {
        0x7001..=0x7003 | 0x8001..=0x8002 => args.u64().map(|lock| lock.to_string()),
        0x9001 => inside(&mut args),
        0x10001 => {
            let (procedure, stamp, bytes) = (args.u32()?, args.stamp()?, args.bytes()?);
            let inner = describe_inside(procedure, bytes, own, depth.checked_sub(1)?);
            Some(format!("{stamp} {inner}"))
        }
        0x10002 => {
            let (_, last, vid) = (args.bytes()?, args.stamp()?, args.u32()?);
            Some(format!("of view {vid}, has {last}"))
        }
        0x10003 => {
            let (_, vid) = (args.bytes()?, args.u32()?);
            Some(format!("of view {vid}"))
        }
        0x10004 => {
            let (_, last) = (args.bytes()?, args.stamp()?);
            Some(format!("has {last}"))
        }
        0x11001 => {
            let (_, instance, n) = (args.bytes()?, args.u32()?, args.u32()?);
            Some(format!("{instance} n={n}"))
        }
        0x11002 => {
            let (_, instance, n, _) = (args.bytes()?, args.u32()?, args.u32()?, args.bytes()?);
            Some(format!("{instance} n={n}: {}", args.text()?))
        }
        0x11003 => {
            let (_, instance) = (args.bytes()?, args.u32()?);
            Some(format!("{instance}: {}", args.text()?))
        }
        0x12001 | 0x12003 => args.u32().map(|heal| if heal == 0 { "cut".to_owned() } else { "heal".to_owned() }),
        0x12002 => args.u32().map(|number| number.to_string()),
        0x5946_0002 => {
            // The session's two numbers, the request's, the first that isn't answered; those that were given up.
            (0..4).try_for_each(|_| args.u64().map(drop))?;
            (0..args.u32()?).try_for_each(|_| args.u64().map(drop))?;
            inside(&mut args)
        }
        _ => None,
    })();
    match detail {
        // What is inside says it all.
        Some(detail) if procedure == 0x5946_0002 => detail,
        Some(detail) => format!("{name} {detail}"),
        None => name.to_owned(),
    }
}

/// What to make of a log line of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// An event of this kind; in the text each `{field}` stands for a field's value.
    Shown(Kind, &'static str),
    /// Nothing: another line says it.
    Hidden,
}

const LINES: &[(&str, &str, Line)] = &[
    ("yfs_config::config", "view", Line::Shown(Kind::View, "view {vid}: {members}")),
    ("yfs_config::config", "view from the log", Line::Shown(Kind::View, "view {vid}: {members} (from the log)")),
    ("yfs_rsm::rsm", "commit_change", Line::Hidden),
    ("yfs_rsm::rsm", "executed", Line::Shown(Kind::Execute, "execute {vs}")),
    ("yfs_rsm::rsm", "net_repair", Line::Shown(Kind::Fault, "network: heal {heal}")),
    ("yfs_rsm::rsm", "the disk hangs: this node asks to be removed", Line::Shown(Kind::Fault, "the disk hangs")),
    ("yfs_rsm::rsm", "the node stops", Line::Shown(Kind::Fault, "stops: {reason}")),
    ("yfs_rsm::recovery", "serving", Line::Shown(Kind::Primary, "primary in view {vid}")),
    ("yfs_rsm::recovery", "in sync", Line::Shown(Kind::Note, "in sync in view {vid}")),
    ("yfs_rsm::recovery", "sync_with_backups", Line::Hidden),
    ("yfs_rsm::recovery", "transferreq", Line::Hidden),
    ("yfs_rsm::recovery", "joinreq", Line::Hidden),
    (
        "yfs_rsm::recovery",
        "statetransfer",
        Line::Shown(Kind::Transfer, "state of {primary} up to {last}, {bytes} bytes"),
    ),
    ("yfs_paxos::acceptor", "promise", Line::Shown(Kind::Note, "promise {instance} n={n}")),
    ("yfs_paxos::acceptor", "accept", Line::Shown(Kind::Note, "accept {instance} n={n}: {value}")),
    ("yfs_paxos::acceptor", "decide", Line::Shown(Kind::Note, "decide {instance}: {value}")),
    ("yfs_paxos::proposer", "round", Line::Shown(Kind::Note, "round {instance}: {outcome}")),
    ("yfs_paxos::proposer", "dying at breakpoint 1 of the proposer", Line::Shown(Kind::Fault, "dies at breakpoint 3")),
    ("yfs_paxos::proposer", "dying at breakpoint 2 of the proposer", Line::Shown(Kind::Fault, "dies at breakpoint 4")),
];

/// What to make of a line with this target and message; `None` if it isn't in the table.
pub(crate) fn line(target: &str, message: &str) -> Option<Line> {
    // A line may stand in a module's part.
    let is_in =
        |module: &str| target.strip_prefix(module).is_some_and(|part| part.is_empty() || part.starts_with("::"));
    LINES.iter().find(|(module, m, _)| is_in(module) && *m == message).map(|(_, _, line)| *line)
}
