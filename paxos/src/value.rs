//! A value: a view as Paxos decides it (lab: `config::members`, `config::value`).
//!
//! In text a value is the names of the members in order, each followed by one blank. (The lab's very first value, the
//! first node alone, has no blank at its end; both are read, and the text is kept as it came, because lab nodes
//! compare texts.) The first name is that of the primary.
//!
//! Invariants:
//! 1. A [`Value`] has at least one and at most [`MAX_MEMBERS`] members, no name twice, each name one that
//!    [`check_name`] allows. So its text is one line, and its members can be had without failing.
//! 2. Which values may follow a view is [`Value::may_follow`]: the same, one name more at the end, or one name less.

/// A view has at most this many members. The lab's text values have no limit; this one keeps a hostile value small.
pub const MAX_MEMBERS: usize = 128;
/// A name is at most this long.
pub const MAX_NAME_BYTES: usize = 255;

/// A view as a value: its members in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    text: String,
    members: Vec<String>,
}

/// Why a text is not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A view needs a member.
    #[error("a view without members")]
    Empty,
    /// More than [`MAX_MEMBERS`].
    #[error("a view of more than {MAX_MEMBERS} members")]
    TooMany,
    /// The same name twice.
    #[error("a view that names {0} twice")]
    Twice(String),
    /// What is no name of a node.
    #[error("{0:?} can't be the name of a node")]
    Name(String),
    /// More than one blank between names, or one before the first.
    #[error("names must be separated by one blank")]
    Blanks,
}

/// Checks that `name` may be a node's name: 1 to 255 visible ASCII characters, none of them a slash or semicolon (a
/// name is part of a file's name, and some labs end a view's members with a semicolon).
///
/// # Errors
/// [`ValueError::Name`].
pub fn check_name(name: &str) -> Result<(), ValueError> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    if fits && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b';') {
        Ok(())
    } else {
        Err(ValueError::Name(name.chars().take(MAX_NAME_BYTES).collect()))
    }
}

/// How many of so many members are a majority.
pub fn majority_of(members: usize) -> usize {
    if rt::probe::weakened("mutant-majority-is-half") { members.div_ceil(2) } else { members / 2 + 1 }
}

impl Value {
    /// The value with these members.
    ///
    /// # Errors
    /// When they can't be a view.
    pub fn of<S: AsRef<str>>(members: &[S]) -> Result<Self, ValueError> {
        let members: Vec<String> = members.iter().map(|m| m.as_ref().to_owned()).collect();
        let text = members.iter().flat_map(|m| [m.as_str(), " "]).collect();
        Self::checked(text, members)
    }

    /// The lab's first value: one node alone, without a blank at its end.
    ///
    /// # Errors
    /// When `node` can't be a name.
    pub fn first(node: &str) -> Result<Self, ValueError> {
        Self::checked(node.to_owned(), vec![node.to_owned()])
    }

    /// The value that `text` is.
    ///
    /// # Errors
    /// When it isn't one.
    #[doc(alias = "members")]
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.len() > MAX_MEMBERS * (MAX_NAME_BYTES + 1) {
            return Err(ValueError::TooMany);
        }
        let names = text.strip_suffix(' ').unwrap_or(text);
        if names.is_empty() {
            return Err(ValueError::Empty);
        }
        let members: Vec<String> = names.split(' ').map(str::to_owned).collect();
        if members.iter().any(String::is_empty) {
            return Err(ValueError::Blanks);
        }
        Self::checked(text.to_owned(), members)
    }

    fn checked(text: String, members: Vec<String>) -> Result<Self, ValueError> {
        if members.is_empty() {
            return Err(ValueError::Empty);
        }
        if members.len() > MAX_MEMBERS {
            return Err(ValueError::TooMany);
        }
        for (at, name) in members.iter().enumerate() {
            check_name(name)?;
            if members.iter().take(at).any(|other| other == name) {
                return Err(ValueError::Twice(name.clone()));
            }
        }
        Ok(Value { text, members })
    }

    /// The members, in order. Never empty.
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// The text, as it came.
    #[doc(alias = "value")]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `name` is a member.
    #[doc(alias = "isamember")]
    pub fn contains(&self, name: &str) -> bool {
        self.members.iter().any(|m| m == name)
    }

    /// How many votes are a majority of the members.
    pub fn majority(&self) -> usize {
        majority_of(self.members.len())
    }

    /// Whether two values name the same members in the same order. (Their texts may differ by the last blank.)
    pub fn same_view(&self, other: &Value) -> bool {
        self.members == other.members
    }

    /// The same members and `name` after them.
    ///
    /// # Errors
    /// When it is a member, or can't be one.
    pub fn with(&self, name: &str) -> Result<Self, ValueError> {
        let mut members = self.members.clone();
        members.push(name.to_owned());
        Self::of(&members)
    }

    /// The members but `name`.
    ///
    /// # Errors
    /// When nobody would be left.
    pub fn without(&self, name: &str) -> Result<Self, ValueError> {
        let members: Vec<&String> = self.members.iter().filter(|m| *m != name).collect();
        Self::of(&members)
    }

    /// Invariant 2: whether this may be the view after `old`.
    pub fn may_follow(&self, old: &Value) -> bool {
        let (new, old) = (&self.members, &old.members);
        if new.len() == old.len() + 1 {
            return new.starts_with(old);
        }
        if new.len() > old.len() || new.len() + 1 < old.len() {
            return false;
        }
        let common = new.iter().zip(old).take_while(|(a, b)| a == b).count();
        // The rest must be the same but for the one name that left.
        new.get(common..) == old.get(common + (old.len() - new.len())..)
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::parse(text).unwrap()
    }

    #[test]
    fn text_is_each_member_and_a_blank() {
        let v = Value::of(&["21000", "10.0.0.5:4000"]).unwrap();
        assert_eq!(v.as_str(), "21000 10.0.0.5:4000 ");
        assert_eq!(value(v.as_str()), v);
        assert_eq!(Value::first("21000").unwrap().as_str(), "21000");
        assert!(value("21000").same_view(&value("21000 ")));
        assert_eq!(value("21000").with("22000").unwrap().as_str(), "21000 22000 ");
    }

    #[test]
    fn h16_hostile_values_are_refused() {
        for text in ["", " ", "a  b", " a", "a b a", "a\nb", "a/b", "\u{e9}", "a\tb", "a ;", "a\0"] {
            assert!(Value::parse(text).is_err(), "{text:?}");
        }
        assert!(Value::parse(&"x".repeat(MAX_NAME_BYTES + 1)).is_err());
        let many: Vec<String> = (0..=MAX_MEMBERS).map(|i| i.to_string()).collect();
        assert_eq!(Value::of(&many), Err(ValueError::TooMany));
        assert!(Value::parse(&many.join(" ")).is_err());
        assert_eq!(value("a").without("a"), Err(ValueError::Empty));
    }

    #[test]
    fn a_view_is_followed_by_itself_one_more_at_the_end_or_one_less() {
        let old = value("a b c ");
        for good in ["a b c", "a b c d", "b c", "a c", "a b"] {
            assert!(value(good).may_follow(&old), "{good}");
        }
        for bad in ["a", "b", "c b a", "a c b", "d a b c", "a b d", "a b c d e", "x", "a b d c", "c b", "x y z"] {
            assert!(!value(bad).may_follow(&old), "{bad}");
        }
        assert!(value("a").may_follow(&value("a b")));
        assert!(value("b").may_follow(&value("a b")));
        assert!(!value("b a").may_follow(&value("a b")));
    }

    #[test]
    fn majorities() {
        for (text, majority) in [("a", 1), ("a b", 2), ("a b c", 2), ("a b c d", 3), ("a b c d e", 3)] {
            assert_eq!(value(text).majority(), majority);
        }
    }
}
