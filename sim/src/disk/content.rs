//! What is in a file: what processes see, what is durable, and what a power cut leaves of the difference (invariants 2 and
//! 4 of [`super`]).

use std::mem;

use super::Tearing;
use crate::kernel::Kernel;

/// What is in a file.
#[derive(Default)]
pub(super) struct Content {
    /// As processes see it.
    pub(super) written: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Dirty, in order.
    pub(super) unsynced: Vec<Change>,
    pub(super) next_change: u64,
    /// The handle that has the lock.
    pub(super) locked_by: Option<u64>,
}

pub(super) struct Change {
    pub(super) number: u64,
    pub(super) what: What,
}

pub(super) enum What {
    Bytes { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// What a power cut did to a file.
#[derive(Default)]
pub(super) struct Cut {
    /// So many bytes (a length counts as one) weren't durable, and so many of them are gone.
    pub(super) unsynced: usize,
    pub(super) lost: usize,
    pub(super) torn: Option<&'static str>,
}

impl Change {
    /// What a power cut counts.
    pub(super) fn size(&self) -> usize {
        match &self.what {
            What::Bytes { bytes, .. } => bytes.len(),
            What::Length(_) => 1,
        }
    }
}

impl Content {
    pub(super) fn change(&mut self, what: What) {
        what.apply(&mut self.written);
        self.unsynced.push(Change { number: self.next_change, what });
        self.next_change += 1;
    }

    /// Takes the changes before `number` off the dirty ones.
    pub(super) fn take_before(&mut self, number: u64) -> Vec<Change> {
        let split = self.unsynced.partition_point(|change| change.number < number);
        let rest = self.unsynced.split_off(split);
        mem::replace(&mut self.unsynced, rest)
    }

    pub(super) fn sync(&mut self, number: u64) {
        for change in self.take_before(number) {
            change.what.apply(&mut self.durable);
        }
    }

    /// Each write reaches the disk or doesn't, and won't be tried again.
    pub(super) fn fail_sync(&mut self, number: u64, kernel: &Kernel) {
        for change in self.take_before(number) {
            if matches!(change.what, What::Length(_)) || kernel.chance(512) {
                change.what.apply(&mut self.durable);
            }
        }
    }

    pub(super) fn cut_power(&mut self, kernel: &Kernel, tearing: &Tearing) -> Cut {
        let unsynced = self.unsynced.iter().map(Change::size).sum();
        let mut cut = Cut { unsynced, ..Cut::default() };
        if unsynced > 0 {
            let kept = some_of(kernel, unsynced);
            cut.lost = unsynced - kept;
            let mut left = kept;
            let mut last = None;
            for change in mem::take(&mut self.unsynced) {
                if left == 0 {
                    break;
                }
                let size = change.size();
                last = match change.what {
                    What::Bytes { at, bytes } => {
                        put(&mut self.durable, at, bytes.get(..left).unwrap_or(&bytes));
                        Some((at, bytes.len()))
                    }
                    length @ What::Length(_) => {
                        length.apply(&mut self.durable);
                        None
                    }
                };
                left = left.saturating_sub(size);
            }
            if let Some((at, length)) = last {
                cut.torn = self.tear(at, length, kernel, tearing);
            }
        }
        self.written.clone_from(&self.durable);
        self.locked_by = None;
        cut
    }

    /// Perhaps spoils the end of the last write: the length is on the disk, the bytes are not.
    pub(super) fn tear(
        &mut self,
        at: usize,
        length: usize,
        kernel: &Kernel,
        tearing: &Tearing,
    ) -> Option<&'static str> {
        let drawn = kernel.below(1024);
        let garbage = drawn < tearing.garbage;
        if !garbage && drawn >= tearing.garbage + tearing.zeros {
            return None;
        }
        let from = kernel.below(length as u64) as usize;
        let tail: Vec<u8> = (from..length).map(|_| if garbage { kernel.roll() as u8 } else { 0 }).collect();
        put(&mut self.durable, at + from, &tail);
        Some(if garbage { "garbage" } else { "zeros" })
    }
}

impl What {
    pub(super) fn apply(&self, to: &mut Vec<u8>) {
        match self {
            What::Bytes { at, bytes } => put(to, *at, bytes),
            What::Length(length) => to.resize(*length, 0),
        }
    }
}

/// Bytes that aren't there before `at` are zeros.
pub(super) fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    if let Some(place) = to.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

/// A number from 0 to `all`; the ends are drawn often.
pub(super) fn some_of(kernel: &Kernel, all: usize) -> usize {
    match kernel.below(4) {
        0 => 0,
        1 => all,
        _ => kernel.below(all as u64 + 1) as usize,
    }
}
