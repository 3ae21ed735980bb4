//! The text of the Paxos log: one record a line (lab: `log.cc`).
//!
//! ```text
//! propseen N NODE          a promise: no proposal below (N, NODE)
//! accepted N NODE VALUE    a vote; it promises (N, NODE) too
//! done INSTANCE VALUE      a decided value
//! service ID               ours: the number of the service, drawn by its first node
//! disk ID NODE             ours: the number of this disk, drawn when the log was made, and whose log it is
//! added INSTANCE NODE ID   ours: this node proposed to add NODE, on the disk ID, in INSTANCE, and inherited nothing
//! starts N                 ours: so many lives of this node before this one were short, one after the other
//! lived                    ours: this life isn't short
//! ```
//! propseen and accepted belong to the instance after the last done. A value is each member and one blank. An ID has 16
//! hexadecimal digits, that of a service 8.
//!
//! This text also travels: the answer to a node that joins is the log of the node that it asked (lab: `acceptor::dump`
//! and `restore`). There it may be anything, so [`parse_text`] takes whole lines that are records, and nothing else.

use std::fmt;

use crate::{Instance, ProposalNumber, Value, value};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A promise.
    #[doc(alias = "logprop")]
    PropSeen(ProposalNumber),
    /// A vote.
    #[doc(alias = "logaccept")]
    Accepted(ProposalNumber, Value),
    /// A decided value.
    #[doc(alias = "loginstance")]
    Done(Instance, Value),
    /// The number of the service whose views these are.
    Service(ServiceId),
    /// The number of the disk that the log is on, and whose log it is.
    Disk(DiskId, String),
    /// A majority had promised this node an instance in which nothing had been accepted, when it was to add a node; it is
    /// safe for that node, if it is added in the instance and still has this disk, to vote in later ones (rule 3).
    Added(Instance, String, DiskId),
    /// So many lives of this node in a row, up to the one before this start, ended before it was in service for a second.
    Starts(u32),
    /// This life has been in service for a second.
    Lived,
}

/// Tells a disk from the one that was there before it was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskId(pub u64);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Tells a service from another one, perhaps of nodes of the same names: one that was begun again after its first node lost
/// its disk. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceId(std::num::NonZeroU32);

impl ServiceId {
    /// The one with this number; `None` for 0, which stands for a service whose number isn't known.
    pub fn new(number: u32) -> Option<Self> {
        std::num::NonZeroU32::new(number).map(ServiceId)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0.get()
    }

    /// A new one.
    pub(crate) fn drawn() -> Self {
        let number = u32::try_from(rt::random::below(u64::from(u32::MAX))).unwrap_or(0);
        ServiceId(std::num::NonZeroU32::MIN.saturating_add(number))
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::PropSeen(n) => writeln!(f, "propseen {n}"),
            Record::Accepted(n, v) => writeln!(f, "accepted {n} {}", v.as_str()),
            Record::Done(instance, v) => writeln!(f, "done {instance} {}", v.as_str()),
            Record::Service(service) => writeln!(f, "service {service}"),
            Record::Disk(disk, node) => writeln!(f, "disk {disk} {node}"),
            Record::Added(instance, node, disk) => writeln!(f, "added {instance} {node} {disk}"),
            Record::Starts(n) => writeln!(f, "starts {n}"),
            Record::Lived => writeln!(f, "lived"),
        }
    }
}

impl Record {
    /// The record that `line` is, its end of line taken off.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let Some((word, rest)) = line.split_once(' ') else {
            return if line == "lived" { Ok(Record::Lived) } else { Err("no record".into()) };
        };
        match word {
            "propseen" => {
                let (n, node) = rest.split_once(' ').ok_or("propseen without a node")?;
                Ok(Record::PropSeen(parse_proposal(n, node)?))
            }
            "accepted" => {
                let (n, rest) = rest.split_once(' ').ok_or("accepted without a node")?;
                let (node, v) = rest.split_once(' ').ok_or("accepted without a value")?;
                Ok(Record::Accepted(parse_proposal(n, node)?, parse_value(v)?))
            }
            "done" => {
                let (instance, v) = rest.split_once(' ').ok_or("done without a value")?;
                match parse_number(instance)? {
                    0 => Err("there is no instance 0".into()),
                    instance => Ok(Record::Done(instance, parse_value(v)?)),
                }
            }
            "service" => parse_service(rest).map(Record::Service),
            "disk" => {
                let (disk, node) = rest.split_once(' ').ok_or("disk without a node")?;
                value::check_name(node).map_err(|e| e.to_string())?;
                Ok(Record::Disk(parse_disk(disk)?, node.to_owned()))
            }
            "added" => {
                let (instance, rest) = rest.split_once(' ').ok_or("added without a node")?;
                let (node, disk) = rest.split_once(' ').ok_or("added without a disk")?;
                value::check_name(node).map_err(|e| e.to_string())?;
                Ok(Record::Added(parse_number(instance)?, node.to_owned(), parse_disk(disk)?))
            }
            "starts" => Ok(Record::Starts(parse_number(rest)?)),
            _ => Err("no record".into()),
        }
    }

    /// Whether the lab has such records. The others are this node's own business, and don't travel.
    pub(crate) fn is_of_the_lab(&self) -> bool {
        !matches!(self, Record::Added(..) | Record::Service(_)) && !self.is_of_the_disk()
    }

    /// Whether each start writes it anew, at the log's beginning.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        matches!(self, Record::Disk(..) | Record::Starts(_) | Record::Lived)
    }

    /// Whether `bytes` are the beginning of a record's line, or all of it but its end of line: whether anything can
    /// follow that makes them a line that [`Record::parse`] takes.
    pub(crate) fn may_begin(bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Some((word, rest)) = text.split_once(' ') else {
            let words = ["propseen", "accepted", "done", "service", "disk", "added", "starts", "lived"];
            return words.iter().any(|word| word.starts_with(text));
        };
        match word {
            "propseen" => after_number(rest, name_may_begin),
            "accepted" => after_number(rest, |rest| match rest.split_once(' ') {
                Some((node, v)) => value::check_name(node).is_ok() && value_may_begin(v),
                None => name_may_begin(rest),
            }),
            "done" => !rest.starts_with('0') && after_number(rest, value_may_begin),
            "service" => parse_service(rest).is_ok() || rest.len() < 8 && disk_may_begin(rest),
            "disk" => match rest.split_once(' ') {
                Some((disk, node)) => parse_disk(disk).is_ok() && name_may_begin(node),
                None => disk_may_begin(rest),
            },
            "added" => after_number(rest, |rest| match rest.split_once(' ') {
                Some((node, disk)) => value::check_name(node).is_ok() && disk_may_begin(disk),
                None => name_may_begin(rest),
            }),
            "starts" => rest.is_empty() || parse_number(rest).is_ok(),
            _ => false,
        }
    }
}

/// As it is written: 0, or digits that don't begin with it.
fn parse_number(text: &str) -> Result<u32, String> {
    if !text.bytes().all(|b| b.is_ascii_digit()) || text.len() > 1 && text.starts_with('0') {
        return Err(format!("{text:?} is no number"));
    }
    text.parse().map_err(|_| format!("{text:?} is no number that fits"))
}

fn parse_proposal(n: &str, node: &str) -> Result<ProposalNumber, String> {
    value::check_name(node).map_err(|e| e.to_string())?;
    Ok(ProposalNumber { n: parse_number(n)?, node: node.to_owned() })
}

fn parse_disk(text: &str) -> Result<DiskId, String> {
    if text.len() != 16 || !disk_may_begin(text) {
        return Err(format!("{text:?} is no number of a disk"));
    }
    u64::from_str_radix(text, 16).map(DiskId).map_err(|e| e.to_string())
}

fn parse_service(text: &str) -> Result<ServiceId, String> {
    let number = if text.len() == 8 && disk_may_begin(text) { u32::from_str_radix(text, 16).ok() } else { None };
    number.and_then(ServiceId::new).ok_or_else(|| format!("{text:?} is no number of a service"))
}

fn disk_may_begin(text: &str) -> bool {
    text.len() <= 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn parse_value(text: &str) -> Result<Value, String> {
    Value::parse(text).map_err(|e| e.to_string())
}

/// Whether `text` is a number, a blank and what `may_begin`, or begins like that.
fn after_number(text: &str, may_begin: impl FnOnce(&str) -> bool) -> bool {
    match text.split_once(' ') {
        Some((number, rest)) => parse_number(number).is_ok() && may_begin(rest),
        None => text.is_empty() || parse_number(text).is_ok(),
    }
}

fn name_may_begin(text: &str) -> bool {
    text.is_empty() || value::check_name(text).is_ok()
}

fn value_may_begin(text: &str) -> bool {
    // A last name that can still grow need not differ from the others yet.
    let (before, last) = text.rsplit_once(' ').unwrap_or(("", text));
    let may_grow = value::check_name(last).is_ok() && last.len() < value::MAX_NAME_BYTES;
    let may_be_next =
        !before.ends_with(' ') && Value::parse(before).is_ok_and(|value| value.members().len() < value::MAX_MEMBERS);
    text.is_empty() || Value::parse(text).is_ok() || may_grow && may_be_next
}

/// Why another node's log can't be taken over. Nothing of it has been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A line is no record, or the text doesn't end with a line's end.
    #[error("line {line} of the other node's log: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The instances of its done records don't go on from this node's last.
    #[error("the other node's log has instance {found} where {expected} was expected")]
    Sequence {
        /// The instance that had to come.
        expected: Instance,
        /// The instance that came.
        found: Instance,
    },
    /// It has another value for an instance that this node knows.
    #[error(
        "the other node's log has another value for instance {0}: it is of another service, or one of both is wrong"
    )]
    OtherValue(Instance),
    /// A value may not come after the one before it.
    #[error("in the other node's log the value of instance {0} can't follow the one before")]
    Step(Instance),
    /// This node's own log couldn't be written.
    #[error("this node's own log can't be written")]
    Log,
}

/// The records of another node's log.
///
/// # Errors
/// [`RestoreError::Line`].
pub fn parse_text(text: &str) -> Result<Vec<Record>, RestoreError> {
    let mut records = Vec::new();
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let error = |what: &str| RestoreError::Line { line: at + 1, what: what.to_owned() };
        let line = line.strip_suffix('\n').ok_or_else(|| error("it is cut short"))?;
        records.push(Record::parse(line).map_err(|what| error(&what))?);
    }
    Ok(records)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a C++ primary (41000) answered to the join of its third node after a removal of it: joinreq's log.
    pub(crate) const LAB_LOG: &str = "done 1 41000\npropseen 1 41000\naccepted 1 41000 41000 42000 \ndone 2 41000 42000 \n\
        propseen 2 41000\naccepted 2 41000 41000 42000 43000 \ndone 3 41000 42000 43000 \n\
        propseen 3 41000\naccepted 3 41000 41000 42000 \ndone 4 41000 42000 \n\
        propseen 4 41000\naccepted 4 41000 41000 42000 43000 \ndone 5 41000 42000 43000 \n";

    #[test]
    fn a_log_of_the_lab_is_read_and_written_back_byte_by_byte() {
        let records = parse_text(LAB_LOG).unwrap();
        assert_eq!(records.len(), 13);
        assert_eq!(records.iter().map(Record::to_string).collect::<String>(), LAB_LOG);
    }

    #[test]
    fn h27_hostile_lines_are_refused_with_their_number() {
        for line in [
            "",
            " ",
            "done",
            "done 1",
            "done 1 ",
            "done  a ",
            "done 0 a ",
            "done +1 a ",
            "done 01 a ",
            "propseen 00 a",
            "done -1 a ",
            "done 1 a a ",
            "done 4294967296 a ",
            "done 1 a  b ",
            "done x a ",
            "propseen 1",
            "propseen 1 a b",
            "propseen 1 ",
            "accepted 1 a",
            "accepted 1 a ",
            "accepted 1 a b  c",
            "crc 00000000",
            "Done 1 a ",
            "\u{fc}",
            "done 1 a\r",
            "done 1 \0 ",
            "starts",
            "starts ",
            "starts 01",
            "starts -1",
            "starts 4294967296",
            "starts 1 ",
            "lived ",
            "lived 1",
            "Lived",
            "disk 0123456789abcdef",
            "disk 0123456789abcdef ",
            "service 00000000",
            "service 0123456",
            "service 012345678",
            "service 0123456G",
        ] {
            let text = format!("done 1 a \n{line}\n");
            assert!(matches!(parse_text(&text), Err(RestoreError::Line { line: 2, .. })), "{line:?}");
        }
        assert!(parse_text("done 1 a \ndone 2 a b").is_err(), "cut short: it might be a shorter name");
        assert_eq!(parse_text(""), Ok(Vec::new()));
    }

    /// Lines of each kind, and such that are at a limit.
    fn lines() -> Vec<String> {
        let long = "x".repeat(value::MAX_NAME_BYTES);
        let many = (0..value::MAX_MEMBERS).map(|i| format!("{i} ")).collect::<String>();
        let mut lines: Vec<String> = LAB_LOG.lines().map(str::to_owned).collect();
        lines.extend([
            "propseen 4294967295 10.0.0.1:5000".to_owned(),
            "propseen 0 done".to_owned(),
            "accepted 10 crc a b ab aba ".to_owned(),
            "accepted 1 propseen done".to_owned(),
            "done 4294967295 crc 00000000".to_owned(),
            "service 00000001".to_owned(),
            "service ffffffff".to_owned(),
            "disk 0123456789abcdef 41000".to_owned(),
            format!("disk 0123456789abcdef {long}"),
            "added 7 41000 00000000ffffffff".to_owned(),
            "starts 0".to_owned(),
            "starts 4294967295".to_owned(),
            "lived".to_owned(),
            format!("added 4294967295 {long} 0000000000000000"),
            format!("propseen 1 {long}"),
            format!("accepted 1 {long} a {long} b "),
            format!("done 1 {many}"),
        ]);
        lines
    }

    /// Something that makes a line of `text`, if anything can.
    fn completion(text: &str) -> Option<String> {
        let (disk, zeros) = ("disk 0000000000000000 a", "0".repeat(16));
        let added = "added 1 a 0000000000000000";
        let words =
            ["propseen 1 a", "accepted 1 a b", "done 1 a", "service 00000001", disk, added, "starts 1", "lived"];
        let begun = words.iter().filter_map(|line| line.strip_prefix(text).map(str::to_owned));
        let names = ["", "Z", "ZZ", "Z Z", "Z ZZ"];
        let more = names.iter().flat_map(|n| [n.to_string(), format!(" {n}"), format!("1 {n}")]);
        let added = names.iter().flat_map(|n| ["", " ", "1 "].map(|before| format!("{before}{n} {zeros}")));
        let disks = (0..=16).flat_map(|digits| ["", " Z"].map(|node| format!("{}{node}", &zeros[..digits])));
        let services = (0..=8).map(|digits| "1".repeat(digits));
        let (disks, added): (Vec<_>, Vec<_>) = (disks.collect(), added.collect());
        begun
            .chain(more)
            .chain(services)
            .chain(disks)
            .chain(added)
            .find(|end| Record::parse(&format!("{text}{end}")).is_ok())
    }

    #[test]
    fn what_begins_a_line_and_nothing_else_may_begin_one() {
        let mut refused = 0;
        for line in lines() {
            assert!(Record::parse(&line).is_ok(), "{line}");
            for length in 0..=line.len() {
                assert!(Record::may_begin(&line.as_bytes()[..length]), "{line} cut after {length}");
            }
            // Another byte, at the end or a few bytes before it.
            let places = (0..line.len()).filter(|at| *at < 30 || *at + 3 > line.len());
            for (at, byte) in places.flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
                for length in [at + 1, at + 4] {
                    let mut bytes = line.as_bytes()[..length.min(line.len())].to_vec();
                    bytes[at] = byte;
                    let begins = std::str::from_utf8(&bytes).is_ok_and(|text| completion(text).is_some());
                    assert_eq!(Record::may_begin(&bytes), begins, "{:?}", bytes.escape_ascii().to_string());
                    refused += u32::from(!begins);
                }
            }
        }
        assert!(refused > 10_000);
        for text in [
            "b",
            "accepted 1 a/",
            "crc ",
            "done 0",
            "done 1  ",
            "done 1 a  b",
            "done 1 a  ",
            "done 4294967296",
            "done 1 a/",
            "disk 0123456789abcdef0",
            "disk 0123456789ABCDEF",
            "disk 0123456789abcde ",
            "disk 0123456789abcdef a b",
            "disk 0123456789abcdef  ",
            "added 1 a g",
            "starts 00",
            "starts 1 ",
            "lived ",
            "livedx",
        ] {
            assert!(!Record::may_begin(text.as_bytes()), "{text}");
        }
        let long = "x".repeat(value::MAX_NAME_BYTES);
        assert!(!Record::may_begin(format!("done 1 {long} {long}").as_bytes()), "it can't become another name");
        assert!(!Record::may_begin(format!("propseen 1 {long}x").as_bytes()));
        let many = (0..value::MAX_MEMBERS).map(|i| format!("{i} ")).collect::<String>();
        assert!(!Record::may_begin(format!("done 1 {many}x").as_bytes()), "one member more than there can be");
    }

    #[test]
    fn a_line_is_as_it_would_be_written() {
        for line in lines() {
            let record = Record::parse(&line).unwrap();
            assert_eq!(record.to_string(), format!("{line}\n"));
        }
    }
}
