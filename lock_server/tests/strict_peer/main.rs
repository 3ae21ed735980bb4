//! Peers that are as strict, and as careless, as the lab's C++ programs, against ours, both ways.
//!
//! Nothing here uses this project's marshalling, RPC runtime or Paxos: bytes are put together and taken apart by a few
//! lines of their own ([`wire`]), so that a mistake over there can't cancel itself out here. A strict peer panics on a
//! byte that is missing or too many, in arguments and in results, and wherever a C++ program would abort; where C++
//! sends uninitialised memory (bytes 12 to 24 of replies, int results that nobody reads) it sends random bytes.
//!
//! | file | what |
//! |---|---|
//! | wire | numbers, encoder, decoder, headers |
//! | socket | one connection, waited for |
//! | client | the lab's `rpcc` |
//! | server | the lab's `rpcs` |
//! | lock_service | a lock server of the lab, alone; the lab's way to ask for locks |
//! | lab_node, lab_paxos, lab_rsm | a node of the lab: acceptor and proposer, heartbeats, replication |
//! | our_servers, our_clients, mixed_views, foreign_state | the tests |

#![allow(clippy::unwrap_used, reason = "a test, all of it")]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod foreign_state;
mod lab_node;
mod lab_paxos;
mod lab_rsm;
mod lock_service;
mod mixed_views;
mod our_clients;
mod our_servers;
mod server;
mod socket;
mod wire;

use tempfile::TempDir;
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rsm::Options;

use common::{PATIENCE, eventually, free_port};

/// Nodes of ours in one folder; they end with it.
struct Ours {
    nodes: Vec<LockServer>,
    dir: TempDir,
}

impl Ours {
    fn none() -> Ours {
        Ours { nodes: Vec::new(), dir: TempDir::new().unwrap() }
    }

    /// Starts a node that joins through `first`, or is the first itself if that is `0`; returns its name.
    fn start(&mut self, first: &str) -> String {
        self.start_with(first, |options| options)
    }

    fn start_with(&mut self, first: &str, change: impl FnOnce(Options) -> Options) -> String {
        let options = change(Options { dir: self.dir.path().to_owned(), ..Options::new(first, "0") });
        self.nodes.push(LockServer::start(options).unwrap());
        self.nodes.last().unwrap().rsm().me().to_owned()
    }

    /// A service of ours alone, in which all are in sync.
    fn service(size: usize) -> Ours {
        let mut ours = Ours::none();
        for number in 1..=size {
            let first = ours.nodes.first().map_or("0".to_owned(), |node| node.rsm().me().to_owned());
            ours.start(&first);
            ours.wait_for_members(number);
            eventually("the first node serves", || ours.nodes[0].rsm().amiprimary());
        }
        ours
    }

    fn name(&self, at: usize) -> &str {
        self.nodes[at].rsm().me()
    }

    fn view(&self, at: usize) -> (u32, Vec<String>) {
        self.nodes[at].rsm().view()
    }

    fn wait_for_members(&self, size: usize) {
        eventually(&format!("a view of {size}"), || self.nodes.iter().all(|node| node.rsm().view().1.len() == size));
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.shutdown();
        }
    }
}
