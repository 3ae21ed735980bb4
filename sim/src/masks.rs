//! What is known to be open in the code, by name: faults that show it aren't injected, or checks that see it are off.

use std::collections::BTreeSet;

/// A hole that is known and not yet closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownOpen {
    /// Its name on the command line.
    pub name: &'static str,
    /// The rows of docs/differences.md that it belongs to.
    pub rows: &'static str,
    /// What is not injected or not checked while it is masked.
    pub mask: &'static str,
}

/// All of them. It should be empty.
pub const KNOWN_OPEN: &[KnownOpen] = &[
    KnownOpen { name: "H4", rows: "H4", mask: "a request that a client sends again may be executed again" },
    KnownOpen {
        name: "from-nothing",
        rows: "H1, H3, rule 5",
        mask: "no power cut of all, no crash of the last node that holds the state; if nobody holds it, the run ends",
    },
    KnownOpen {
        name: "lost-first-disk",
        rows: "S6",
        mask: "a first node that lost its disk starts when no node counts it as a member, and to join another one",
    },
    KnownOpen {
        name: "lost-disk",
        rows: "S4, S5",
        mask: "any other node that lost its disk starts when no node counts it as a member",
    },
];

/// The holes that are masked in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masks(BTreeSet<&'static str>);

impl Masks {
    /// Masks these; `all` and `none` mean what they say.
    ///
    /// # Errors
    /// The name that isn't known, or that `none` contradicts.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut masks, mut none) = (BTreeSet::new(), false);
        for name in names {
            match name {
                "all" => masks.extend(KNOWN_OPEN.iter().map(|open| open.name)),
                "none" => none = true,
                _ => {
                    let open = KNOWN_OPEN.iter().find(|open| open.name == name);
                    masks
                        .insert(open.ok_or_else(|| format!("nothing is known to be open under the name {name}"))?.name);
                }
            }
        }
        if none && !masks.is_empty() { Err("none contradicts the other names".to_owned()) } else { Ok(Masks(masks)) }
    }

    /// Masks all that is known.
    pub fn all() -> Self {
        Masks(KNOWN_OPEN.iter().map(|open| open.name).collect())
    }

    /// Whether a hole is masked.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().copied()
    }
}
