#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn views(members: &str, vid: Instance, in_sync: u32, last: u32) -> Result<Vec<String>, RsmError> {
    let view = Value::parse(members).unwrap();
    let members = view.members().to_vec();
    let survivor = Survivor { vid, members, last: Viewstamp { vid: last, seqno: 1 }, in_sync };
    Ok(views_to_come("b", &view, &survivor)?.iter().map(|view| view.as_str().to_owned()).collect())
}

#[test]
fn one_member_leaves_a_view_until_one_is_left() {
    assert_eq!(views("a b c ", 3, 3, 3).unwrap(), ["b c ", "b "]);
    assert_eq!(views("b ", 3, 3, 2).unwrap(), [""; 0]);
}

/// A mark must not fall, and a request of the view to come must not be numbered below one that was executed.
#[test]
fn the_views_reach_up_to_that_of_the_state() {
    assert_eq!(views("b ", 1, 3, 2).unwrap(), ["b ", "b "]);
    assert_eq!(views("a b ", 1, 2, 4).unwrap(), ["b ", "b ", "b "]);
    assert_eq!(views("a b c ", 3, 5, 3).unwrap(), ["b c ", "b "], "a try that was cut short, again");
    let error = views("b ", 1, u32::MAX, 2).unwrap_err();
    assert!(matches!(error, RsmError::Apart { vid: 1, state: u32::MAX }), "{error}");
}
