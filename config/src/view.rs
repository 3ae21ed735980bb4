//! The views that a node knows. Pure.
//!
//! Invariants:
//! 1. Views are learnt in order, without a gap; one that comes late changes nothing (H28).

use std::collections::BTreeMap;
use std::fmt;

use yfs_paxos::Value;

/// The number of a view: the Paxos instance that decided it. 0 is before the first view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "vid")]
pub struct ViewId(pub u32);

impl ViewId {
    /// The view after this one.
    pub fn next(self) -> ViewId {
        ViewId(self.0.saturating_add(1))
    }
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All views that a node knows.
#[derive(Clone, Debug, Default)]
pub struct Views {
    known: BTreeMap<ViewId, Value>,
}

impl Views {
    /// The number of the last view; 0 if there is none.
    pub fn vid(&self) -> ViewId {
        self.known.last_key_value().map_or(ViewId(0), |(vid, _)| *vid)
    }

    /// The last view.
    pub fn last(&self) -> Option<&Value> {
        self.known.last_key_value().map(|(_, value)| value)
    }

    /// All views, the last one first.
    pub fn latest(&self) -> impl Iterator<Item = &Value> {
        self.known.values().rev()
    }

    /// A view by its number.
    pub fn get(&self, vid: ViewId) -> Option<&Value> {
        self.known.get(&vid)
    }

    /// Whether `node` is in the last view.
    pub fn is_member(&self, node: &str) -> bool {
        self.last().is_some_and(|view| view.contains(node))
    }

    /// Takes the next view. False if it isn't one (invariant 1); the very first may have any number.
    pub fn commit(&mut self, vid: ViewId, value: &Value) -> bool {
        let expected = self.known.is_empty() || vid == self.vid().next();
        if expected && vid != ViewId(0) {
            self.known.insert(vid, value.clone());
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::parse(text).unwrap()
    }

    #[test]
    fn h28_a_view_that_comes_late_or_twice_changes_nothing() {
        let mut views = Views::default();
        assert_eq!((views.vid(), views.last()), (ViewId(0), None));
        assert!(views.commit(ViewId(1), &value("a")));
        assert!(views.commit(ViewId(2), &value("a b ")));
        assert!(!views.commit(ViewId(1), &value("x")));
        assert!(!views.commit(ViewId(2), &value("x")));
        assert!(!views.commit(ViewId(4), &value("x")));
        assert_eq!(views.last(), Some(&value("a b ")));
        assert_eq!(views.get(ViewId(1)), Some(&value("a")));
        assert!(views.is_member("b") && !views.is_member("x"));
    }
}
