//! Very many connections. A test binary of its own, because it takes most of the process's descriptors.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{ADD, Bystander, PATIENCE, Raw, anywhere, eventually, resident_bytes, server_at};
use yfs_rpc::pdu::ClientNonce;
use yfs_rpc::{Client, Options, Procedure};

#[test]
fn h17_idle_connections_cost_memory_only() {
    // Both ends of each connection are in this process.
    let idle = (rt::process::raise_file_limit().saturating_sub(200) / 2).min(1500) as usize;
    let server = server_at(anywhere(), Options::default(), |_| {});
    let bystander = Bystander::start(server.local_addr());
    bystander.is_served();
    let before = resident_bytes();
    let connections: Vec<_> = (1..=idle as u32).map(|n| Raw::bound(server.local_addr(), ClientNonce(n))).collect();
    assert_eq!(server.connections(), idle + 1);
    bystander.is_served();
    assert!(resident_bytes() < before + idle * (16 << 10));
    drop(connections);
    eventually("the connections are gone", || server.connections() == 1);
    bystander.stop();
    assert!(server.shutdown());
}

#[test]
fn h17_past_its_own_limit_a_server_lets_others_wait() {
    let server = server_at(anywhere(), Options { max_connections: 10, ..Options::default() }, |_| {});
    let bystander = Bystander::start(server.local_addr());
    bystander.is_served();
    let mut idle: Vec<_> = (0..30).map(|_| Raw::connect(server.local_addr())).collect();
    eventually("the server is full", || server.connections() == 10);
    let client = Client::new(server.local_addr(), Options::default());
    assert!(client.bind(Duration::from_millis(300)).is_err());
    bystander.is_served();
    // The client's turn comes after the others'.
    idle.truncate(5);
    assert_eq!(client.call(ADD, (1,), PATIENCE), Ok((0, 2)));
    drop(idle);
    bystander.stop();
    assert!(server.shutdown());
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn h17_past_the_file_limit_accept_backs_off_says_so_and_resumes() {
    const FAST: Procedure<(i32,), i32> = Procedure::new(23);
    let command = format!("ulimit -n 20 && exec {} -s", env!("CARGO_BIN_EXE_rpctest"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Server(shell.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
    let addr = ([127, 0, 0, 1], port).into();

    let early = Client::new(addr, Options::default());
    assert_eq!(early.call(FAST, (1,), PATIENCE), Ok((0, 2)));
    let mut idle: Vec<_> = (0..60).map(|_| Raw::connect(addr)).collect();
    let late = Client::new(addr, Options::default());
    assert!(late.bind(Duration::from_millis(500)).is_err(), "the server has more descriptors than it may");
    for n in 0..100 {
        assert_eq!(early.call(FAST, (n,), PATIENCE), Ok((0, n + 1)));
    }
    idle.truncate(2);
    assert_eq!(late.call(FAST, (1,), PATIENCE), Ok((0, 2)));
    assert!(server.0.try_wait().unwrap().is_none());

    server.0.kill().unwrap();
    let mut said = String::new();
    server.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("accepting no connections").count(), 1, "{said}");
}
