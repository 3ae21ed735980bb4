//! How the network behaves during a run.

use std::time::Duration;

/// Of 1024 frames so many are hit. The rest passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFaults {
    /// Never arrive.
    pub dropped: u64,
    /// Arrive twice, the second time at once or later.
    pub doubled: u64,
    /// Arrive later, by 100 us to 2 s, when others have overtaken them.
    pub delayed: u64,
    /// Change places with the next.
    pub reordered: u64,
}

impl FrameFaults {
    /// Nothing happens.
    pub const NONE: FrameFaults = FrameFaults { dropped: 0, doubled: 0, delayed: 0, reordered: 0 };
}

/// How the network behaves during a run. The default delays, and does nothing worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Between machines: each direction of each pair takes so long, drawn once.
    pub delay: (Duration, Duration),
    /// Each packet between machines takes up to so much longer.
    pub jitter: Duration,
    /// A packet that stays on its machine takes so long.
    pub loopback: (Duration, Duration),
    /// Of 1024 directions of pairs so many are slow: they take `slow_by` times as long.
    pub slow_links: u64,
    /// How much slower a slow link is.
    pub slow_by: (u64, u64),
    /// Of 1024 reads so many get only a part of what is there.
    pub short_reads: u64,
    /// Of 1024 writes so many take only a part of what there is room for.
    pub short_writes: u64,
    /// What befalls requests between machines: frames from the side that connected.
    pub requests: FrameFaults,
    /// What befalls replies between machines: frames to the side that connected.
    pub replies: FrameFaults,
}

impl Default for Conditions {
    fn default() -> Self {
        Conditions {
            delay: (Duration::from_micros(50), Duration::from_micros(500)),
            jitter: Duration::from_micros(50),
            loopback: (Duration::from_micros(5), Duration::from_micros(30)),
            slow_links: 0,
            slow_by: (10, 100),
            short_reads: 0,
            short_writes: 0,
            requests: FrameFaults::NONE,
            replies: FrameFaults::NONE,
        }
    }
}

/// One direction between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Packets pass.
    Open,
    /// Packets are held back until it is open again.
    Cut,
}
