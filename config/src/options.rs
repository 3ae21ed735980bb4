//! Timers and their defaults.

use std::path::PathBuf;
use std::time::Duration;

/// Where and who a node is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's name, as it stands in views.
    pub me: String,
    /// The folder of the Paxos log.
    pub dir: PathBuf,
    /// Timers.
    pub timing: Timing,
}

/// The timers of failure detection. Times of silence are of the asker's own running time: while it is stopped or
/// starved, they stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Pause between two pings of the same node (lab: 3 s; lab nodes don't mind).
    pub interval: Duration,
    /// How often the heartbeater looks at what it knows.
    pub tick: Duration,
    /// A ping's total time (lab: 1 s).
    pub ping_timeout: Duration,
    /// Refused connections are death after this time.
    pub refused: Duration,
    /// Silence is death after this time.
    pub silence: Duration,
    /// The same for lab nodes, which don't answer while they run a round.
    pub silence_of_lab: Duration,
    /// A member that stays behind for so long is removed.
    pub mismatch: Duration,
    /// A new member isn't suspected for so long.
    pub newcomer: Duration,
    /// A tick that comes later than this shows that this node itself was stopped or starved.
    pub late: Duration,
    /// An answer counts for so long towards the majority without which no round is started.
    pub lately: Duration,
    /// Between proposers that notice the same thing at the same time: a place in the queue is worth so much delay.
    pub stagger: Duration,
    /// The first back-off after a round that failed; it doubles.
    pub back_off: Duration,
    /// The longest back-off.
    pub max_back_off: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            interval: Duration::from_millis(150),
            tick: Duration::from_millis(25),
            ping_timeout: Duration::from_secs(1),
            refused: Duration::from_millis(100),
            silence: Duration::from_millis(1500),
            silence_of_lab: Duration::from_secs(4),
            mismatch: Duration::from_secs(2),
            newcomer: Duration::from_secs(1),
            late: Duration::from_millis(150),
            lately: Duration::from_secs(1),
            stagger: Duration::from_millis(25),
            back_off: Duration::from_millis(50),
            max_back_off: Duration::from_secs(1),
        }
    }
}
