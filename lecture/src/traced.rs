//! What the lecture's messages are called in pictures (crate trace).

use yfs_rpc::marshall::{UnmarshalError, Unmarshaller};

use crate::pb_protocol::{COUNTS, FORWARD, Forward, PING, Ping, REQUEST, TRANSFER, VIEW};
use crate::protocol::{CUT, LAST, NUMBERED, OPERATION};
use crate::rsm_bank;
use crate::views::ViewId;

/// Says what a message asks for; `None` if it is none of the lecture's. Arguments that can't be read aren't shown.
pub fn describe(procedure: u32, args: &[u8]) -> Option<String> {
    let mut args = Unmarshaller::new(args);
    let (name, detail) = match procedure {
        n if n == OPERATION.number || n == rsm_bank::OPERATION.number => ("operation", operation(&mut args)),
        n if n == NUMBERED.number => ("numbered", numbered(&mut args)),
        n if n == LAST.number => ("last?", Ok(String::new())),
        n if n == CUT.number => ("cut", Ok(String::new())),
        n if n == PING.number => ("ping", ping(&mut args)),
        n if n == VIEW.number => ("which view?", Ok(String::new())),
        n if n == REQUEST.number => ("request", request(&mut args)),
        n if n == FORWARD.number => ("forward", forward(&mut args)),
        n if n == TRANSFER.number => ("the state, please", of_view(&mut args)),
        n if n == COUNTS.number => ("I have the state", of_view(&mut args)),
        n if n == rsm_bank::ACCOUNTS.number => ("accounts?", Ok(String::new())),
        _ => return None,
    };
    Some(match detail {
        // An operation's words say what it is.
        Ok(words) if matches!(name, "operation" | "request") => words,
        Ok(detail) if !detail.is_empty() => format!("{name} {detail}"),
        _ => name.to_owned(),
    })
}

type Read = Result<String, UnmarshalError>;

fn operation(args: &mut Unmarshaller<'_>) -> Read {
    args.read()
}

fn numbered(args: &mut Unmarshaller<'_>) -> Read {
    let (number, op): (u64, String) = args.read()?;
    Ok(format!("{number}: {op}"))
}

fn ping(args: &mut Unmarshaller<'_>) -> Read {
    let Ping { knows, .. } = args.read()?;
    Ok(format!("knows view {knows}"))
}

fn request(args: &mut Unmarshaller<'_>) -> Read {
    let (_, _, op): (u64, u64, String) = args.read()?;
    Ok(op)
}

fn forward(args: &mut Unmarshaller<'_>) -> Read {
    let Forward { view, place, entry, .. } = args.read()?;
    Ok(format!("{place}: {} (in view {view})", entry.op))
}

fn of_view(args: &mut Unmarshaller<'_>) -> Read {
    let view: ViewId = args.read()?;
    Ok(format!("(view {view})"))
}

#[cfg(test)]
mod tests {
    use yfs_rpc::marshall::encode;

    use super::*;
    use crate::pb_protocol::Entry;
    use crate::views::Life;

    #[test]
    fn messages_are_told_by_what_they_ask_for() {
        let op = "deposit alice 5".to_owned();
        assert_eq!(describe(OPERATION.number, &encode(&(op.clone(),))).as_deref(), Some("deposit alice 5"));
        assert_eq!(
            describe(NUMBERED.number, &encode(&(7_u64, op.clone()))).as_deref(),
            Some("numbered 7: deposit alice 5")
        );
        let knows = ViewId { life: Life(9), number: 2 };
        let ping = encode(&(Ping { name: "5001".to_owned(), life: Life(1), knows, interval: 100 },));
        assert_eq!(describe(PING.number, &ping).as_deref(), Some("ping knows view 2"));
        let entry = Entry { client: 1, number: 2, op };
        let view = ViewId { number: 3, ..knows };
        let forward = encode(&(Forward { from: "5001".to_owned(), view, place: 4, entry },));
        assert_eq!(describe(FORWARD.number, &forward).as_deref(), Some("forward 4: deposit alice 5 (in view 3)"));
        assert_eq!(describe(LAST.number, &[]).as_deref(), Some("last?"));
        assert_eq!(describe(1, &[]), None);
    }

    #[test]
    fn garbage_is_no_more_than_its_name() {
        for (number, name) in
            [(OPERATION.number, "operation"), (FORWARD.number, "forward"), (COUNTS.number, "I have the state")]
        {
            assert_eq!(describe(number, &[0xff; 6]).as_deref(), Some(name));
        }
    }
}
