//! All histories that a state has had: a tree, because requests that nobody was told of may be dropped.
//!
//! A moment is a state after a request. Its viewstamp names it: two moments with one viewstamp are a violation.

use std::collections::BTreeMap;

use yfs_rsm::protocol::Viewstamp;

/// A place in the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment(usize);

/// The empty state.
pub(super) const BEGINNING: Moment = Moment(0);

#[derive(Debug, Default)]
struct Entry {
    vs: Viewstamp,
    /// The request, and what the state machine ran of it, if anything.
    request: (u64, Option<u64>),
    /// Unknown of the empty state before anybody says it.
    state: Option<u64>,
    parent: usize,
    /// An ancestor further up; these make the way to any ancestor logarithmic.
    jump: usize,
    depth: usize,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Histories {
    entries: Vec<Entry>,
    by_stamp: BTreeMap<Viewstamp, Moment>,
    by_ran: BTreeMap<u64, Vec<Moment>>,
}

impl Histories {
    /// The empty state alone.
    pub(super) fn new() -> Self {
        let by_stamp = BTreeMap::from([(Viewstamp::default(), BEGINNING)]);
        Histories { entries: vec![Entry::default()], by_stamp, by_ran: BTreeMap::new() }
    }

    /// How many requests have been executed anywhere.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - 1
    }

    /// The last request of a moment.
    pub(super) fn stamp(&self, moment: Moment) -> Viewstamp {
        self.entries[moment.0].vs
    }

    /// How many requests led to a moment.
    pub(super) fn depth(&self, moment: Moment) -> usize {
        self.entries[moment.0].depth
    }

    /// A request was executed at `parent`, and maybe the state machine ran something. True if that is the first time.
    ///
    /// # Errors
    /// When the same stamp has led to anything else.
    pub(super) fn execute(
        &mut self,
        parent: Moment,
        vs: Viewstamp,
        request: (u64, Option<u64>),
        state: u64,
    ) -> Result<(Moment, bool), String> {
        if let Some(&moment) = self.by_stamp.get(&vs) {
            let entry = &self.entries[moment.0];
            if entry.request != request {
                return Err(format!("{vs} is another request elsewhere, or runs there and not here"));
            }
            if entry.parent != parent.0 {
                let (here, there) = (self.stamp(parent), self.stamp(Moment(entry.parent)));
                return Err(format!("{vs} comes after {here} here, and after {there} elsewhere"));
            }
            self.same_state(moment, state)?;
            return Ok((moment, false));
        }
        let above = &self.entries[parent.0];
        let (far, farther) = (&self.entries[above.jump], self.entries[above.jump].jump);
        let evenly = above.depth - far.depth == far.depth - self.entries[farther].depth;
        let jump = if evenly { farther } else { parent.0 };
        let entry = Entry { vs, request, state: Some(state), parent: parent.0, jump, depth: above.depth + 1 };
        let moment = Moment(self.entries.len());
        self.entries.push(entry);
        self.by_stamp.insert(vs, moment);
        if let Some(ran) = request.1 {
            self.by_ran.entry(ran).or_default().push(moment);
        }
        Ok((moment, true))
    }

    /// The moment of a state that somebody says he has.
    ///
    /// # Errors
    /// When nobody has ever been there, or the state was another one.
    pub(super) fn find(&mut self, last: Viewstamp, state: u64) -> Result<Moment, String> {
        let Some(&moment) = self.by_stamp.get(&last) else { return Err(format!("nobody has executed {last}")) };
        self.same_state(moment, state)?;
        Ok(moment)
    }

    fn same_state(&mut self, moment: Moment, state: u64) -> Result<(), String> {
        let entry = &mut self.entries[moment.0];
        if *entry.state.get_or_insert(state) == state {
            return Ok(());
        }
        Err(format!("two states after {}: {state:016x} and {:016x}", entry.vs, entry.state.unwrap_or_default()))
    }

    /// Whether `later` is `earlier`, or came of it.
    pub(super) fn leads_to(&self, earlier: Moment, later: Moment) -> bool {
        let depth = self.depth(earlier);
        let mut at = later.0;
        while self.entries[at].depth > depth {
            let Entry { jump, parent, .. } = self.entries[at];
            at = if self.entries[jump].depth >= depth { jump } else { parent };
        }
        at == earlier.0
    }

    /// An earlier moment of the same history at which the state machine ran the same.
    pub(super) fn same_before(&self, moment: Moment) -> Option<Moment> {
        let same = self.by_ran.get(&self.entries[moment.0].request.1?)?;
        same.iter().copied().find(|&earlier| earlier != moment && self.leads_to(earlier, moment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vs(vid: u32, seqno: u32) -> Viewstamp {
        Viewstamp { vid, seqno }
    }

    #[test]
    fn ancestors_are_those_on_the_way_to_the_beginning() {
        let mut histories = Histories::new();
        let mut chains: Vec<Vec<Moment>> = vec![vec![BEGINNING]];
        // A branch off the first chain after each 97 of its requests.
        for seqno in 1..=1000 {
            let parent = chains[0][seqno as usize - 1];
            let (moment, first) = histories.execute(parent, vs(1, seqno), (1, Some(1)), 1).expect("it is new");
            assert!(first);
            chains[0].push(moment);
            if seqno % 97 == 0 {
                let branch = chains[0].clone();
                chains.push(branch);
            }
        }
        for (number, chain) in chains.iter_mut().enumerate().skip(1) {
            for seqno in 1..=50 {
                let parent = chain.last().copied().unwrap_or_default();
                let (moment, _) =
                    histories.execute(parent, vs(number as u32 + 1, seqno), (1, Some(1)), 1).expect("it is new");
                chain.push(moment);
            }
        }
        for chain in &chains {
            let last = chain.last().copied().unwrap_or_default();
            for number in 0..histories.entries.len() {
                assert_eq!(histories.leads_to(Moment(number), last), chain.contains(&Moment(number)), "{number}");
            }
        }
    }

    #[test]
    fn ways_are_short() {
        let mut histories = Histories::new();
        let mut at = BEGINNING;
        for seqno in 1..=100_000 {
            at = histories.execute(at, vs(1, seqno), (1, Some(1)), 1).expect("it is new").0;
        }
        let mut steps = 0;
        let mut here = at.0;
        while here != 0 {
            here = histories.entries[here].jump;
            steps += 1;
        }
        assert!(steps < 40, "{steps}");
    }

    #[test]
    fn a_stamp_leads_to_one_state() {
        let mut histories = Histories::new();
        let (one, _) = histories.execute(BEGINNING, vs(1, 1), (7, Some(7)), 70).expect("it is new");
        assert_eq!(histories.execute(BEGINNING, vs(1, 1), (7, Some(7)), 70), Ok((one, false)));
        assert_eq!(histories.find(vs(1, 1), 70), Ok(one));
        assert!(histories.execute(BEGINNING, vs(1, 1), (8, Some(8)), 70).is_err(), "another request");
        assert!(histories.execute(BEGINNING, vs(1, 1), (7, Some(7)), 71).is_err(), "another state");
        let (two, _) = histories.execute(one, vs(1, 2), (8, Some(8)), 80).expect("it is new");
        assert!(histories.execute(two, vs(1, 1), (7, Some(7)), 70).is_err(), "after another one");
        assert!(histories.find(vs(1, 3), 70).is_err(), "unknown");
        assert!(histories.find(vs(1, 2), 70).is_err(), "another state");
        assert_eq!(histories.find(vs(0, 0), 1), Ok(BEGINNING));
        assert!(histories.find(vs(0, 0), 2).is_err(), "two empty states");
    }
}
