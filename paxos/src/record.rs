//! The text of the Paxos log: one record a line (lab: `log.cc`).
//!
//! ```text
//! propseen N NODE          a promise: no proposal below (N, NODE)
//! accepted N NODE VALUE    a vote; it promises (N, NODE) too
//! done INSTANCE VALUE      a decided value
//! ```
//! propseen and accepted belong to the instance after the last done. A value is each member and one blank.
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
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::PropSeen(n) => writeln!(f, "propseen {n}"),
            Record::Accepted(n, v) => writeln!(f, "accepted {n} {}", v.as_str()),
            Record::Done(instance, v) => writeln!(f, "done {instance} {}", v.as_str()),
        }
    }
}

impl Record {
    /// The record that `line` is, its end of line taken off.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let (word, rest) = line.split_once(' ').ok_or("no record")?;
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
            _ => Err("no record".into()),
        }
    }

    /// Whether `bytes` are the beginning of a record's line, or all of it but its end of line: whether anything can
    /// follow that makes them a line that [`Record::parse`] takes.
    pub(crate) fn may_begin(bytes: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Some((word, rest)) = text.split_once(' ') else {
            return ["propseen", "accepted", "done"].iter().any(|word| word.starts_with(text));
        };
        match word {
            "propseen" => after_number(rest, name_may_begin),
            "accepted" => after_number(rest, |rest| match rest.split_once(' ') {
                Some((node, v)) => value::check_name(node).is_ok() && value_may_begin(v),
                None => name_may_begin(rest),
            }),
            "done" => !rest.starts_with('0') && after_number(rest, value_may_begin),
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
    // What can still grow may become another name: it need not differ from the others yet.
    let (before, last) = text.rsplit_once(' ').map_or(("", text), |(before, last)| (before, last));
    let may_grow = (1..value::MAX_NAME_BYTES).contains(&last.len()) && name_may_begin(last);
    text.is_empty()
        || Value::parse(text).is_ok()
        || may_grow && Value::parse(before).is_ok_and(|value| value.members().len() < value::MAX_MEMBERS)
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
        ] {
            let text = format!("done 1 a \n{line}\n");
            assert!(matches!(parse_text(&text), Err(RestoreError::Line { line: 2, .. })), "{line:?}");
        }
        assert!(parse_text("done 1 a \ndone 2 a b").is_err(), "cut short: it might be a shorter name");
        assert_eq!(parse_text(""), Ok(Vec::new()));
    }
}
