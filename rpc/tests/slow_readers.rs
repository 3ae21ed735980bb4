//! Peers that ask for much and don't read it. A test binary of its own, because it looks at the process's memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Bystander, PATIENCE, Raw, anywhere, eventually, request, resident_bytes, server_at};
use rt::time::now;
use yfs_rpc::pdu::ClientNonce;
use yfs_rpc::{Options, Procedure, Status};

const INLINE: Procedure<(u32,), String> = Procedure::new(0x401);
const ON_WORKERS: Procedure<(u32,), String> = Procedure::new(0x402);

/// Replies of 70,000 bytes that one connection asks for: 2.8 GB.
const REQUESTS: usize = 40_000;
/// One connection's unsent bytes may be 64 MiB, while its buffer doubles three times that; the reply window has 16 MiB,
/// the queue of the workers no more than their requests.
const MEMORY_BYTES: usize = 320 << 20;

#[test]
fn h18_a_peer_that_does_not_read_is_cut_off_and_costs_little() {
    let options = Options { peer_patience: Duration::from_secs(1), ..Options::default() };
    let server = server_at(anywhere(), options, |server| {
        server.reg_inline(INLINE, |bytes: u32| (Status::OK, "x".repeat(bytes as usize)));
        server.reg(ON_WORKERS, |bytes: u32| (Status::OK, "x".repeat(bytes as usize)));
    });
    let bystander = Bystander::start(server.local_addr());
    bystander.is_served();
    let before = resident_bytes();
    for procedure in [INLINE, ON_WORKERS] {
        for client in [ClientNonce(1), ClientNonce(0)] {
            let (raw, nonce) = Raw::bound(server.local_addr(), client);
            let requests: Vec<u8> = (2..)
                .take(REQUESTS)
                .flat_map(|xid| request(xid, procedure.number, client, nonce, &70_000_u32.to_be_bytes()))
                .collect();
            let watcher = rt::thread::spawn("greedy", move || {
                // Its requests may all fit into the sockets' buffers; its connection ends in any case.
                raw.send(&requests);
                let deadline = now() + PATIENCE;
                while raw.is_open() {
                    assert!(now() < deadline, "the connection lives");
                    rt::time::sleep(Duration::from_millis(10));
                }
            })
            .unwrap();
            let mut most = before;
            while !watcher.join_until(now() + Duration::from_millis(20)) {
                most = most.max(resident_bytes());
            }
            assert!(most < before + MEMORY_BYTES, "from {before} to {most} bytes");
            bystander.is_served();
        }
    }
    eventually("the server has forgotten them", || server.connections() == 1);
    bystander.stop();
    assert!(server.shutdown());
}
