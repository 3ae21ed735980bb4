//! The ranks of the locks that each thread holds, in debug builds; nothing in release builds.

#[cfg(debug_assertions)]
pub(crate) use checked::*;
#[cfg(not(debug_assertions))]
pub(crate) use unchecked::*;

#[cfg(debug_assertions)]
mod checked {
    use std::cell::RefCell;

    use crate::sync::Rank;

    /// What a thread holds, in the order taken.
    #[cfg(feature = "sim")]
    pub(crate) type List = Vec<Rank>;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    /// Exchanges `list` with the calling thread's.
    #[cfg(feature = "sim")]
    pub(crate) fn swap(list: &mut List) {
        HELD.with_borrow_mut(|held| std::mem::swap(held, list));
    }

    /// The thread holds a lock of this rank, until dropped.
    pub(crate) struct Held(Rank);

    impl Held {
        /// For a lock that the thread is about to wait for.
        pub(crate) fn take(rank: Rank) -> Self {
            check(rank, HELD.with_borrow(|held| highest(held.iter())));
            Self::take_unordered(rank)
        }

        /// For a lock that the thread has got without waiting.
        pub(crate) fn take_unordered(rank: Rank) -> Self {
            HELD.with_borrow_mut(|held| held.push(rank));
            Held(rank)
        }

        /// Before the thread lets the lock go and waits for it again, keeping the others.
        pub(crate) fn check_retake(&self) {
            let highest_other = HELD.with_borrow(|held| {
                let own = held.iter().rposition(|h| *h == self.0);
                highest(held.iter().enumerate().filter(|(at, _)| Some(*at) != own).map(|(_, rank)| rank))
            });
            check(self.0, highest_other);
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.with_borrow_mut(|held| {
                if let Some(at) = held.iter().rposition(|h| *h == self.0) {
                    held.remove(at);
                }
            });
        }
    }

    fn highest<'a>(held: impl Iterator<Item = &'a Rank>) -> Option<Rank> {
        held.max_by_key(|rank| rank.level).copied()
    }

    /// Called with HELD not borrowed: a panic hook may take locks.
    fn check(wanted: Rank, held: Option<Rank>) {
        if let Some(over) = held.filter(|held| held.level >= wanted.level) {
            // Already unwinding: a second panic would hide the first.
            assert!(std::thread::panicking(), "lock order: {wanted:?} wanted while {over:?} is held");
        }
    }
}

#[cfg(not(debug_assertions))]
mod unchecked {
    use crate::sync::Rank;

    /// Nothing.
    #[cfg(feature = "sim")]
    pub(crate) type List = ();

    #[cfg(feature = "sim")]
    pub(crate) fn swap(_: &mut List) {}

    pub(crate) struct Held;

    impl Held {
        pub(crate) fn take(_: Rank) -> Self {
            Held
        }

        pub(crate) fn take_unordered(_: Rank) -> Self {
            Held
        }

        pub(crate) fn check_retake(&self) {}
    }
}
