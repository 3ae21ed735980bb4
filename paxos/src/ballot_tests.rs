use super::*;
use crate::protocol::{AcceptArg, DecideArg, PrepareArg};
use crate::record::Record;
use crate::state::AcceptorState;
use proptest::prelude::*;

fn n(n: u32, node: &str) -> ProposalNumber {
    ProposalNumber { n, node: node.into() }
}

fn value(text: &str) -> Value {
    Value::parse(text).unwrap()
}

fn promise(n_a: ProposalNumber, v_a: &str) -> Result<(i32, PrepareRes), CallError> {
    Ok((0, PrepareRes { oldinstance: false, accept: true, n_a, v_a: v_a.into() }))
}

#[test]
fn a_majority_is_of_all_members() {
    let mut ballot = Ballot::new(value("a b c d "), value("a b c "));
    ballot.promise("a", promise(n(0, "a"), ""));
    ballot.promise("a", promise(n(0, "a"), ""));
    ballot.promise("stranger", promise(n(9, "z"), "a b d "));
    ballot.promise("b", promise(n(0, "b"), ""));
    assert!(!ballot.is_prepared() && !ballot.is_lost());
    ballot.promise("c", promise(n(0, "c"), ""));
    assert!(ballot.is_prepared());
    assert_eq!((ballot.value(), ballot.is_inherited()), (&value("a b c "), false));
    ballot.end_of_prepare();
    for peer in ["a", "b", "d"] {
        ballot.accept(peer, Ok((0, true)));
    }
    assert!(!ballot.is_chosen(), "d didn't promise");
    ballot.accept("c", Err(CallError::Timeout));
    assert!(!ballot.is_chosen() && !ballot.is_lost() && !ballot.is_outvoted());
    ballot.accept("c", Ok((0, true)));
    assert!(ballot.is_chosen());
}

#[test]
fn h06_the_value_with_the_highest_number_is_inherited_and_an_empty_one_is_none() {
    let mut ballot = Ballot::new(value("a b c d e "), value("a b c d "));
    ballot.promise("a", promise(n(9, "z"), ""));
    ballot.promise("b", promise(n(3, "b"), "b c d e "));
    ballot.promise("c", promise(n(3, "c"), "a b c e "));
    ballot.promise("d", promise(n(2, "d"), "a c d e "));
    assert_eq!((ballot.value(), ballot.is_inherited()), (&value("a b c e "), true));
}

#[test]
fn h16_nonsense_in_a_promise_is_no_promise() {
    let mut ballot = Ballot::new(value("a b c "), value("a b "));
    ballot.promise("a", promise(n(5, "a"), "x y z "));
    ballot.promise("b", promise(n(5, "b"), "\0"));
    assert!(ballot.is_lost() && !ballot.is_outvoted());
    let mut ballot = Ballot::new(value("a b c "), value("a b "));
    ballot.promise("a", Ok((0, PrepareRes { oldinstance: true, ..PrepareRes::default() })));
    ballot.promise("b", Ok((0, PrepareRes { oldinstance: true, v_a: "x ".into(), ..PrepareRes::default() })));
    assert_eq!((ballot.decided(), ballot.is_lost()), (None, true));
    ballot.promise("c", Ok((0, PrepareRes { oldinstance: true, v_a: "b c ".into(), ..PrepareRes::default() })));
    assert_eq!(ballot.decided(), Some(&value("b c ")));
}

#[test]
fn a_rejection_is_told_from_silence() {
    let mut ballot = Ballot::new(value("a b c "), value("a b "));
    ballot.promise("b", Ok((0, PrepareRes::default())));
    assert!(ballot.is_outvoted() && !ballot.is_lost());
    ballot.promise("c", Err(CallError::Bind));
    assert!(ballot.is_lost());
    let mut ballot = Ballot::new(value("a b c "), value("a b "));
    ballot.promise("b", Ok((1, PrepareRes::default())));
    ballot.promise("c", Err(CallError::Timeout));
    assert!(ballot.is_lost() && !ballot.is_outvoted());
}

/// Acceptors that only remember what they wrote, proposers that forget everything when they crash, and a network that
/// delays, drops and doubles.
struct World {
    nodes: Vec<&'static str>,
    acceptors: Vec<AcceptorState>,
    disks: Vec<Vec<Record>>,
    rounds: Vec<Option<Round>>,
    /// In no order; messages are taken out of it, or left in it to be doubled.
    network: Vec<Message>,
    chosen: Vec<Value>,
}

struct Round {
    n: ProposalNumber,
    ballot: Ballot,
    accepting: bool,
}

#[derive(Clone)]
enum Message {
    Prepare { to: usize, from: usize, n: ProposalNumber },
    Promise { to: usize, from: usize, n: ProposalNumber, res: PrepareRes },
    Accept { to: usize, from: usize, n: ProposalNumber, v: String },
    Accepted { to: usize, from: usize, n: ProposalNumber, yes: bool },
    Decide { to: usize, from: usize, v: String },
}

const VIEW: [&str; 5] = ["a", "b", "c", "d", "e"];
const INSTANCE: u32 = 2;

impl World {
    fn new(size: usize) -> World {
        let nodes: Vec<&str> = VIEW[..size].to_vec();
        let view = Value::of(&nodes).unwrap();
        let mut acceptors = Vec::new();
        for node in &nodes {
            let mut acceptor = AcceptorState::new(node);
            acceptor.replay(Record::Done(1, view.clone())).unwrap();
            acceptors.push(acceptor);
        }
        let disks = vec![vec![Record::Done(1, view)]; size];
        World {
            rounds: nodes.iter().map(|_| None).collect(),
            nodes,
            acceptors,
            disks,
            network: Vec::new(),
            chosen: vec![],
        }
    }

    fn start(&mut self, at: usize, without: usize) {
        let view = Value::of(&self.nodes).unwrap();
        if self.acceptors[at].instance() != INSTANCE - 1 {
            return;
        }
        let next = self.acceptors[at].promised().map_or(0, |n| n.n) + 1;
        let n = n(next, self.nodes[at]);
        let mut ballot = Ballot::new(view.clone(), view.without(self.nodes[without]).unwrap());
        // Its own promise, on its own disk, comes first.
        let step = self.acceptors[at].prepare(self.nodes[at], &PrepareArg { instance: INSTANCE, n: n.clone() });
        self.disks[at].extend(step.record);
        ballot.promise(self.nodes[at], Ok((step.status as i32, step.result)));
        let others = (0..self.nodes.len()).filter(|to| *to != at);
        self.network.extend(others.map(|to| Message::Prepare { to, from: at, n: n.clone() }));
        self.rounds[at] = Some(Round { n, ballot, accepting: false });
    }

    fn restart(&mut self, at: usize) {
        self.rounds[at] = None;
        self.acceptors[at] = AcceptorState::new(self.nodes[at]);
        for record in &self.disks[at] {
            self.acceptors[at].replay(record.clone()).unwrap();
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Prepare { to, from, n } => {
                let step =
                    self.acceptors[to].prepare(self.nodes[from], &PrepareArg { instance: INSTANCE, n: n.clone() });
                self.disks[to].extend(step.record);
                self.network.push(Message::Promise { to: from, from: to, n, res: step.result });
            }
            Message::Promise { to, from, n, res } => {
                let Some(round) = self.rounds[to].as_mut().filter(|r| r.n == n && !r.accepting) else { return };
                round.ballot.promise(self.nodes[from], Ok((0, res)));
                if let Some(decided) = round.ballot.decided().cloned() {
                    self.disks[to].extend(self.acceptors[to].learn(INSTANCE, decided.as_str()));
                } else if round.ballot.is_prepared() {
                    round.accepting = true;
                    round.ballot.end_of_prepare();
                    let v = round.ballot.value().as_str().to_owned();
                    for peer in round.ballot.promised().clone() {
                        let peer = self.nodes.iter().position(|node| *node == peer).unwrap();
                        self.network.push(Message::Accept { to: peer, from: to, n: n.clone(), v: v.clone() });
                    }
                }
            }
            Message::Accept { to, from, n, v } => {
                let arg = AcceptArg { instance: INSTANCE, n: n.clone(), v };
                let step = self.acceptors[to].accept(self.nodes[from], &arg);
                self.disks[to].extend(step.record);
                self.network.push(Message::Accepted { to: from, from: to, n, yes: step.result });
            }
            Message::Accepted { to, from, n, yes } => {
                let Some(round) = self.rounds[to].as_mut().filter(|r| r.n == n && r.accepting) else { return };
                round.ballot.accept(self.nodes[from], Ok((0, yes)));
                if round.ballot.is_chosen() {
                    let value = round.ballot.value().clone();
                    self.disks[to].extend(self.acceptors[to].learn(INSTANCE, value.as_str()));
                    let v = value.as_str().to_owned();
                    self.chosen.push(value);
                    self.network.extend((0..self.nodes.len()).map(|peer| Message::Decide {
                        to: peer,
                        from: to,
                        v: v.clone(),
                    }));
                    self.rounds[to] = None;
                }
            }
            Message::Decide { to, from, v } => {
                let step = self.acceptors[to].decide(self.nodes[from], &DecideArg { instance: INSTANCE, v });
                self.disks[to].extend(step.record);
            }
        }
    }

    fn check(&self) {
        let learnt = self.acceptors.iter().filter_map(|a| a.value(INSTANCE)).chain(&self.chosen);
        let all: Vec<&Value> = learnt.collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "two values were decided: {all:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Rounds that compete, over a network that reorders, drops and doubles, with crashes: one value at most.
    #[test]
    fn two_proposers_never_decide_two_values(size in 3usize..=5, steps in proptest::collection::vec((0u8..20, any::<u16>()), 20..300)) {
        let mut world = World::new(size);
        for (kind, pick) in steps {
            let pick = usize::from(pick);
            match kind {
                0 | 1 => world.start(pick % size, (pick / size) % size),
                2 => world.restart(pick % size),
                _ if world.network.is_empty() => world.start(pick % size, (pick / size) % size),
                3 => drop(world.network.swap_remove(pick % world.network.len())),
                4 => {
                    let message = world.network[pick % world.network.len()].clone();
                    world.deliver(message);
                }
                _ => {
                    let message = world.network.swap_remove(pick % world.network.len());
                    world.deliver(message);
                }
            }
            world.check();
        }
    }

    /// A crash after the value is chosen: whoever runs the next round, the value is finished.
    #[test]
    fn the_next_round_finishes_what_was_chosen(size in 3usize..=5, first in 0usize..5, without in 0usize..5, order in any::<u64>()) {
        let mut world = World::new(size);
        let (first, without) = (first % size, without % size);
        world.start(first, without);
        // Until everybody who promised has accepted; nobody hears of it.
        for _ in 0..size * 4 {
            let Some(at) = world.network.iter().position(|m| !matches!(m, Message::Accepted { .. } | Message::Decide { .. })) else { break };
            let message = world.network.remove(at);
            world.deliver(message);
        }
        world.network.clear();
        let chosen = Value::of(&world.nodes).unwrap().without(world.nodes[without]).unwrap();
        (0..size).for_each(|node| world.restart(node));
        let second = (first + 1 + order as usize % (size - 1)) % size;
        world.start(second, (without + 1) % size);
        // The first stays dead: no message reaches it.
        for _ in 0..size * 8 {
            let alive = |m: &Message| !matches!(m, Message::Prepare { to, .. } | Message::Accept { to, .. } | Message::Decide { to, .. } if *to == first);
            let Some(at) = world.network.iter().position(alive) else { break };
            let message = world.network.remove(at);
            world.deliver(message);
        }
        prop_assert_eq!(world.chosen.first(), Some(&chosen));
        world.check();
    }
}
