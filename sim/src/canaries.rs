//! Known mistakes that can be put back: a simulator is worth what it finds.
//!
//! Each is made where the code asks [`rt::probe::weakened`] for its name, and nowhere else (sim/tests/canaries.rs checks
//! it). The comment above an entry says which faults lead to it and which check sees it.
//!
//! Rows of docs/differences.md and docs/protocols.md that aren't here:
//!
//! | row | why |
//! |---|---|
//! | H6 | nobody proposes an empty value: it takes a peer that lies |
//! | H15, H17, H18, H20 | hostile or clumsy input: well-behaved nodes don't send it |
//! | H21, H22, H23, H24 | growth: no run is long enough |
//! | S8 | is H27 |

/// A mistake that the simulator has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Its name, given to [`rt::probe::weakened`].
    pub name: &'static str,
    /// The hole or rule.
    pub row: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Within how many seeds it is to be found.
    pub seeds: u64,
}

impl Canary {
    /// Whether it is meant by `name`: its own, or the whole one of its hole or rule.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.row.split(", ").any(|row| row == name)
    }
}

/// What is said of a name that no mistake has.
pub fn unknown() -> String {
    let names: Vec<_> = CANARIES.iter().map(|canary| canary.name).collect();
    format!("there is no such mistake; there are: {}", names.join(" "))
}

const fn canary(name: &'static str, row: &'static str, what: &'static str) -> Canary {
    Canary { name, row, what, seeds: 1000 }
}

/// One that takes hundreds of seeds.
const fn rare(name: &'static str, row: &'static str, what: &'static str) -> Canary {
    Canary { seeds: 5000, ..canary(name, row, what) }
}

/// All of them.
pub const CANARIES: &[Canary] = &[
    // A primary restarts before it is removed, waits for backups that need nothing, and removes them one by one:
    // served-without-state.
    canary("H1-serves-after-restart", "H1", "a member that restarts goes on with the empty state that it has"),
    // A backup dies or leaves while a request is under way, and another one has it: diverged, served-unsynced.
    canary("H2-stamp-moves-last", "H2", "the primary's last viewstamp moves when a stamp is given"),
    // Any start: false-holder.
    canary("H3-joiners-outnumber", "H3", "joiners are admitted while others wait for the state, and count as holders"),
    // A client is told BUSY after a second, or loses the answer, and asks again: executed-twice.
    canary("H4-retries-execute", "H4", "a request that was executed runs again when it comes again"),
    // A power cut after a promise, vote or view was answered for: vote-forgotten.
    canary("H5-answer-before-sync", "H5", "what is appended to the Paxos log isn't synced before the answer"),
    // A power cut in the middle of an append, and a start: stopped-without-cause.
    canary("H5-torn-end-stops", "H5", "a node whose log has a torn end doesn't start"),
    // A newcomer is granted the lock while the retry to the head of the queue is on its way: two-holders.
    canary("H7-retry-grants", "H7", "a client takes a lock on a retry's word"),
    // Any contention: two-holders, or a release that is refused.
    canary("H7-revoke-takes", "H7", "a client gives a lock back on a revoke's word, though a thread has it"),
    // A primary restarts before it is removed: heartbeats are answered, and it says BUSY for ever: stuck.
    canary(
        "H8-restart-unannounced",
        "H8",
        "a member that restarts neither asks to be removed nor proposes the same members",
    ),
    // A backup is paused or cut off for more than one second and less than it takes to be removed: stuck.
    canary("H9-invoke-sent-once", "H9", "a request that a backup didn't answer isn't sent again, and nobody is told"),
    // A primary is cut off from the members, and not from the clients, until they have a new one and it knows no
    // better: stuck.
    canary("H10-clings-to-busy", "H10", "a client asks a node that says BUSY again and again"),
    // Several members lose the smallest one at a time, and their rounds fail: no-back-off.
    canary("H11-no-back-off", "H11", "proposers neither queue up nor back off nor wait for another's round"),
    // The primary dies with a lock cached at one client and wanted by another: stuck.
    canary("H12-nothing-due", "H12", "a new primary doesn't derive from the state whom it has to tell what"),
    // A removal while a member is silent takes time, in which pings come: rounds fail, members are removed: stuck.
    canary("H13-heartbeat-waits", "H13", "the heartbeat's handler waits for the node's own round to end"),
    // A client is cut off from all nodes for some seconds: stuck.
    canary("H14-list-runs-dry", "H14", "a client forgets nodes that don't answer"),
    // A decide is lost, and the next one comes: a panic.
    canary("H16-decide-stops", "H16", "a decide after a gap stops the node"),
    // A member that missed two views is asked whether it is alive: a panic.
    canary("H16-heartbeat-stops", "H16", "a heartbeat from two views ahead stops the node"),
    // A reply is lost with its connection: handled-twice.
    canary("H19-unknown-is-new", "H19", "a client without an entry is new, and entries go with their connections"),
    // The first node is removed and comes back: apart.
    canary("H25-joiner-asks-first-only", "H25", "a joiner asks nobody but FIRST"),
    // Two joiners, or two requests that wait for a backup, keep votes, transfers and heartbeats waiting: stuck, apart.
    canary("H26-one-pool", "H26", "all handlers, heartbeats too, run on one small pool"),
    // A joiner votes in the next instance before the answer to its joinreq is there, and for a lower number afterwards:
    // vote-forgotten.
    canary("H27-join-forgets-promises", "H27, S8", "another node's log takes the place of own promises and votes"),
    // Two threads commit views one after the other, as one that restores a log and a decide's handler: view-order, stuck.
    rare("H28-two-tell-at-once", "H28", "two threads tell the layer above of views, each of its own"),
    // Any start: false-holder.
    canary("S1-member-holds-state", "S1", "a member of a view counts as one that holds the state"),
    // A joiner dies before it has the state, and has one from an earlier membership: false-holder.
    canary("S2-old-state-counts", "S2", "a member that restarts counts any state on its disk"),
    // Any start: false-holder.
    canary(
        "S3-same-members-again",
        "S3",
        "a member that restarts without its state proposes the same members and goes on",
    ),
    // A member loses its disk, and asks to join, before it is removed: vote-after-lost-disk.
    canary("S4-member-again", "S4", "a member that lost its disk is told that it is one"),
    // A member loses its disk, the new one hangs while it starts, and the others are restarted before it goes on:
    // vote-after-lost-disk.
    rare("S4-blank-is-hidden", "S4", "a node that asks to be removed doesn't say that it knows no view"),
    // A round to add a node is finished by the next primary: added-by-another.
    canary("S5-inherited-add-counts", "S5", "whoever is in the view was added for its present disk"),
    // Any start: two-services.
    canary("S6-first-begins-again", "S6", "a node without a log begins a service, though it isn't told to"),
    // A node asks to join while the first one begins the service: service-unknown.
    canary("S6-number-not-learnt", "S6", "a joiner asks for the service's number before it is added, and not again"),
    // A node is one view behind when a round for the next one begins: voted-ahead.
    canary("S7-votes-ahead", "S7", "a node votes in an instance beyond the one after its last view"),
    // A backup answers no request for more than a second, and isn't removed: stamp-reused.
    canary("S9-stamp-given-again", "S9", "a stamp that not all have acknowledged is given to the next request"),
    // A view comes while an acknowledgement is on its way: diverged, out-of-turn.
    canary("S10-late-acknowledgement", "S10", "a new view doesn't drop the request that is under way"),
    // Any request: answered-undurable.
    canary("S11-answer-before-sync", "S11", "the primary answers before the request is on its own disk"),
    // A backup that was a request ahead restarts after it has installed the primary's state: a panic, unknown-state.
    canary("S12-old-log-goes-on", "S12", "an installed state doesn't begin a new log"),
    // A stranger proposes with the highest number that there is, to all nodes: stuck.
    canary("S13-strangers-count", "S13", "a node promises whoever asks, under whatever name"),
    // A decide comes late, and a ping in between: needless-removal.
    canary("L1-behind-is-dead", "L1", "a member in an older view is removed at once"),
    // A majority is away, and one goes on alone; or its rounds are rejected: round-alone, numbers-crawl.
    canary("L2-numbers-crawl", "L2", "rounds are tried without a majority, and a rejected number grows by one"),
    // A node's disk hangs: stuck.
    canary("L4-waits-for-ever", "L4", "a member that answers pings and transfers nothing is waited for"),
    // A reply is a second late, as a backup is paused or cut off for less than it takes to be removed: done-refused.
    canary(
        "L5-done-counts-once",
        "L5",
        "transferdonereq counts only while the primary waits for it, and is asked again after a second",
    ),
    // A member dies, and a joiner asks before that is noticed: unguarded-addition.
    canary("L7-joiner-beside-the-dead", "L7", "a joiner is added though not all members answer"),
    // A node crashes in a loop: views-for-ever.
    canary("L8-restarts-uncounted", "L8", "a member that crashes in a loop proposes the same members each time"),
    // The same; or the smallest member doesn't reach another one: views-for-ever.
    canary("L8-comes-and-goes", "L8", "who leaves soon after it was added is admitted again at once"),
    // Two of four, or one of two, are cut off from the others: decided-unchosen, wrong-proposal.
    canary("mutant-majority-is-half", "mutant", "half of the members are a majority"),
    // A round that one too few answer in its second step: decided-unchosen.
    canary("mutant-own-vote-twice", "mutant", "a proposer counts its own vote twice"),
    // Two proposers at once: decided-unchosen.
    canary("mutant-any-answer-accepts", "mutant", "whatever an acceptor answers to accept counts as a vote"),
    // A proposer dies, or is cut off, after a vote for its value: wrong-proposal.
    canary("mutant-nothing-inherited", "mutant", "a proposer ignores what acceptors have accepted before"),
    // Two proposers die or are cut off, one after the other, each after votes for another value: wrong-proposal.
    rare("mutant-lowest-inherited", "mutant", "a proposer takes over the value accepted first, not last"),
    // A write or sync fails: answered-after-error.
    canary("mutant-disk-error-ignored", "mutant", "an error of the disk is ignored"),
    // Two proposers at once: vote-forgotten.
    canary("mutant-promise-unchecked", "mutant", "an acceptor accepts below its promise"),
    // A node restarts between a promise and the view that follows: vote-forgotten.
    canary("mutant-promise-not-read", "mutant", "promises in the log are skipped at a start"),
    // A node restarts between a vote and the view that follows: vote-forgotten.
    canary("mutant-vote-not-read", "mutant", "votes in the log are skipped at a start"),
    // A power cut in the middle of an append, two starts: stopped-without-cause.
    canary(
        "mutant-torn-end-stays",
        "mutant",
        "a torn end of the log isn't cut off, and the next append goes behind it",
    ),
    // A bit flips in a number or name of the log: vote-forgotten, two-values.
    canary("mutant-crc-unchecked", "mutant", "checksums in the log aren't compared"),
    // Two members die, and one comes back without its state before the other's death is noticed: stuck.
    canary("mutant-removal-unguarded", "mutant", "a member is removed though no majority would be left that answers"),
    // Each view with a backup that takes its time: served-unsynced.
    canary("mutant-serves-before-sync", "mutant", "the primary serves before all members are in sync"),
    // Two views one after the other, and a transferdonereq on its way: served-unsynced.
    canary("mutant-late-transferdone-counts", "mutant", "transferdonereq of an older view counts for the present one"),
    // Two views one after the other, and a transfer under way: out-of-turn.
    canary("mutant-late-state-installed", "mutant", "a state that was asked for in an older view is installed"),
    // The primary's view changes while a backup is a request ahead of it: served-unsynced, diverged.
    canary("mutant-newer-state-kept", "mutant", "a backup that is ahead of the primary keeps its state"),
    // The primary's second backup is slower than the first: not-replicated.
    canary("mutant-first-answer-is-enough", "mutant", "the primary executes and answers after the first backup"),
    // Any request whose last backup is slower with its disk than the primary: answered-undurable.
    canary("mutant-backup-acks-unsynced", "mutant", "a backup acknowledges a request before it is on its disk"),
    // A backup's answer is lost for more than a second: out-of-turn.
    canary("mutant-backup-executes-again", "mutant", "a backup executes a request that is sent again once more"),
    // A client was told BUSY, and its request is executed later: answered-unexecuted.
    canary("mutant-anothers-answer", "mutant", "a client is given the answer to an earlier request"),
    // Any client that makes a second call: window-bounds.
    canary("mutant-window-never-shrinks", "mutant", "replies that a client has acknowledged are kept"),
    // A connection breaks while a request is executed: handled-twice.
    canary("mutant-copy-runs", "mutant", "a copy of a request that is in progress is run, too"),
    // A backup fetches the state, and a client asks again for what is in it: diverged, executed-twice.
    canary("mutant-reply-forgotten", "mutant", "replies aren't transferred with the state"),
    // A client gives up waiting while another one has the lock: two-holders.
    canary("mutant-release-by-anybody", "mutant", "a release frees the lock, whoever sends it"),
    // A client's acquire is sent again after BUSY or to a new primary: stuck.
    canary("mutant-acquire-runs-again", "mutant", "a repeated acquire finds the lock taken, by its own client"),
    // A revoke is lost while its client is paused or cut off: stuck.
    canary("mutant-revoke-sent-once", "mutant", "a revoke that failed isn't sent again"),
    // A backup fetches the state while a lock is free, wanted, and a newcomer was sent away: unknown-state, diverged.
    canary("mutant-flag-not-transferred", "mutant", "a transferred state lacks a field"),
];
