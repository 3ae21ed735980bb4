//! What a client's command line says of its operations.

use std::time::Duration;

use clap::Args;
use lecture::bank::Op;
use lecture::client::operations;
use processes::trouble::nap;

/// A day: whoever waits longer has mistyped something.
pub(crate) const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;

/// The operations that a client sends.
#[derive(Args, Debug)]
pub(crate) struct Work {
    /// Send these operations, one after the other, and none at random.
    #[arg(long = "do", value_name = "OPERATION", conflicts_with_all = ["ops", "seed", "bonus"])]
    operations: Vec<Op>,

    /// End after so many operations.
    #[arg(long, value_name = "N")]
    ops: Option<usize>,

    /// Rest so long after each operation that is drawn.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=LONGEST_MS))]
    pause: u64,

    /// What the operations follow from [default: drawn].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Have some operations whose outcome is left to chance.
    #[arg(long)]
    bonus: bool,
}

impl Work {
    /// How many operations are named; 0 if they are to be drawn.
    pub(crate) fn named(&self) -> usize {
        self.operations.len()
    }

    /// The operations, until Ctrl-C: those that are named, or those that follow from the seed; without one, from a number
    /// that is drawn. Rests between those that are drawn.
    pub(crate) fn operations(self) -> Box<dyn Iterator<Item = Op>> {
        let go_on = |rest| nap(rest).is_ok();
        if self.operations.is_empty() {
            let seed = self.seed.unwrap_or_else(rt::random::u64);
            let rests = std::iter::once(Duration::ZERO).chain(std::iter::repeat(Duration::from_millis(self.pause)));
            let ops = operations(seed, self.bonus).take(self.ops.unwrap_or(usize::MAX));
            Box::new(ops.zip(rests).map_while(move |(op, rest)| go_on(rest).then_some(op)))
        } else {
            Box::new(self.operations.into_iter().take_while(move |_| go_on(Duration::ZERO)))
        }
    }
}
