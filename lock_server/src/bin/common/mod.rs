//! What the three programs share: the lab's settings from the environment, logging, and how they fail.

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

/// Exit status for everything but a wrong command line, which is clap's 2.
pub(crate) const FAILED: i32 = 1;

/// Settings that every program takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// How much to log to standard output: off, error, warn, info, debug or trace [default: info for a server, else warn].
    #[arg(long, value_name = "LEVEL")]
    log: Option<LevelFilter>,

    /// Break the connection before this many of 100 messages, to test what that does.
    #[arg(long, value_name = "PERCENT", env = "RPC_LOSSY", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    rpc_lossy: u8,

    /// Log after so many requests how many there were of each procedure; 0: never.
    #[arg(long, value_name = "REQUESTS", env = "RPC_COUNT", default_value_t = 0)]
    rpc_count: u32,
}

impl Common {
    /// Starts logging, raises the limit of open files, and lets a full file be an error. To be called once, first.
    pub(crate) fn set_up(&self, default: LevelFilter) {
        let level = self.log.unwrap_or(default);
        // A log that can't be written (its disk is full, its reader gone) is no reason to stop serving.
        tracing_subscriber::fmt()
            .log_internal_errors(false)
            .with_max_level(level)
            .with_target(false)
            .with_ansi(false)
            .init();
        rt::process::outlive_file_size_limit();
        let limit = rt::process::raise_file_limit();
        tracing::debug!(limit, "open files");
    }

    /// The RPC runtime's settings.
    pub(crate) fn rpc(&self) -> yfs_rpc::Options {
        yfs_rpc::Options { lossy_percent: self.rpc_lossy, count_every: self.rpc_count, ..yfs_rpc::Options::default() }
    }
}

/// A name of a server, as the command lines have it: `port` or `host:port`.
pub(crate) fn server_name(text: &str) -> Result<String, String> {
    yfs_rpc::names::address(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}
