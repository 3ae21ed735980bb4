//! A run of C++ nodes as it went over the wire: what this crate reads of it, it writes again, byte for byte.
//!
//! The argument and result types are the lab's, spelled here once more: the protocols' own constants live in higher
//! crates, and this test must not follow them in a mistake.

#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::ControlFlow;

use yfs_rpc::marshall::{Bytes, Marshal, Unmarshal, decode, encode};
use yfs_rpc::pdu::{self, ClientNonce, FrameDecoder, HEADER_BYTES, ReplyHeader, RequestHeader, ServerNonce, Xid};

const RUN: &str = include_str!("data/lab-run.txt");

type Viewstamp = (u32, u32);
type Proposal = (u32, String);

const BIND: u32 = 1;
const ACQUIRE: u32 = 0x7001;
const RELEASE: u32 = 0x7002;
const STAT: u32 = 0x7003;
const REVOKE: u32 = 0x8001;
const RETRY: u32 = 0x8002;
const CLIENT_INVOKE: u32 = 0x9001;
const CLIENT_MEMBERS: u32 = 0x9002;
const INVOKE: u32 = 0x10001;
const TRANSFERREQ: u32 = 0x10002;
const TRANSFERDONEREQ: u32 = 0x10003;
const JOINREQ: u32 = 0x10004;
const PREPAREREQ: u32 = 0x11001;
const ACCEPTREQ: u32 = 0x11002;
const DECIDEREQ: u32 = 0x11003;
const HEARTBEAT: u32 = 0x11004;

/// One line of the capture.
struct Line<'a> {
    from: &'a str,
    to: &'a str,
    is_request: bool,
    name: &'a str,
    pdu: Vec<u8>,
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn lines() -> impl Iterator<Item = Line<'static>> {
    RUN.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [_, ends, kind, name, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (from, to) = ends.split_once('>').unwrap();
        Line { from, to, is_request: kind == "request", name, pdu: unhex(hex) }
    })
}

fn number_of(name: &str) -> u32 {
    match name {
        "bind" => BIND,
        "revoke" => REVOKE,
        "retry" => RETRY,
        "client_invoke" => CLIENT_INVOKE,
        "client_members" => CLIENT_MEMBERS,
        "invoke" => INVOKE,
        "transferreq" => TRANSFERREQ,
        "transferdonereq" => TRANSFERDONEREQ,
        "joinreq" => JOINREQ,
        "preparereq" => PREPAREREQ,
        "acceptreq" => ACCEPTREQ,
        "decidereq" => DECIDEREQ,
        "heartbeat" => HEARTBEAT,
        other => panic!("{other} is not in the lab's table"),
    }
}

/// Reads a value to the last byte, and writes it as it was.
fn exactly<T: Marshal + Unmarshal + Debug>(bytes: &[u8]) -> T {
    let value: T = decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    assert_eq!(encode(&value), bytes, "{value:?}");
    value
}

/// A request to the state machine, inside client_invoke and invoke.
fn check_inner_args(procedure: u32, args: &Bytes) {
    match procedure {
        ACQUIRE | RELEASE => {
            let (_, client, _) = exactly::<(u64, String, u64)>(&args.0);
            assert!(client.starts_with("127.0.0.1:"), "{client}");
        }
        STAT => drop(exactly::<(u64,)>(&args.0)),
        other => panic!("{other:#x} is not a lock procedure"),
    }
}

fn check_args(procedure: u32, args: &[u8]) {
    match procedure {
        BIND => assert_eq!(exactly::<(i32,)>(args), (0,)),
        REVOKE | RETRY => drop(exactly::<(u64, u64)>(args)),
        CLIENT_INVOKE => {
            let (inner, inner_args) = exactly::<(u32, Bytes)>(args);
            check_inner_args(inner, &inner_args);
        }
        CLIENT_MEMBERS => drop(exactly::<(i32,)>(args)),
        INVOKE => {
            let (inner, (vid, _), inner_args) = exactly::<(u32, Viewstamp, Bytes)>(args);
            assert!(vid > 0);
            check_inner_args(inner, &inner_args);
        }
        TRANSFERREQ => drop(exactly::<(String, Viewstamp, u32)>(args)),
        TRANSFERDONEREQ => drop(exactly::<(String, u32)>(args)),
        JOINREQ => drop(exactly::<(String, Viewstamp)>(args)),
        PREPAREREQ => drop(exactly::<(String, (u32, Proposal))>(args)),
        ACCEPTREQ => {
            let (_, (_, (_, node), value)) = exactly::<(String, (u32, Proposal, String))>(args);
            assert!(value.contains(&node), "{node} proposes {value}");
        }
        DECIDEREQ => drop(exactly::<(String, (u32, String))>(args)),
        HEARTBEAT => drop(exactly::<(String, u32)>(args)),
        other => panic!("{other:#x} is not in the lab's table"),
    }
}

fn check_result(procedure: u32, result: &[u8]) {
    match procedure {
        // Often uninitialised memory, but always four bytes of it.
        REVOKE | RETRY | INVOKE | TRANSFERDONEREQ | DECIDEREQ => drop(exactly::<i32>(result)),
        BIND => assert_ne!(exactly::<u32>(result), 0),
        HEARTBEAT => assert_ne!(exactly::<u32>(result), 0),
        CLIENT_INVOKE => {
            let inner: Bytes = exactly(result);
            let (status, inner_result) = exactly::<(i32, Bytes)>(&inner.0);
            assert!((0..=4).contains(&status));
            exactly::<i32>(&inner_result.0);
        }
        CLIENT_MEMBERS => {
            let members: Vec<String> = exactly(result);
            let (primary, members) = members.split_last().unwrap();
            assert!(members.contains(primary));
        }
        TRANSFERREQ => drop(exactly::<(Bytes, Viewstamp)>(result)),
        JOINREQ => assert!(exactly::<String>(result).starts_with("done 1 41000\n")),
        PREPAREREQ => drop(exactly::<(bool, bool, Proposal, String)>(result)),
        ACCEPTREQ => drop(exactly::<bool>(result)),
        other => panic!("{other:#x} is not in the lab's table"),
    }
}

#[test]
fn every_request_is_read_and_written_again() {
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    for line in lines().filter(|line| line.is_request) {
        let (header, args) = RequestHeader::parse(&line.pdu).unwrap();
        assert_eq!(header.procedure, number_of(line.name));
        assert_ne!(header.client_nonce, ClientNonce(0));
        assert_eq!(header.server_nonce == ServerNonce(0), header.procedure == BIND);
        // What the reply window builds on.
        assert!(header.xid_rep < header.xid && header.xid >= Xid(1));
        check_args(header.procedure, args);
        assert_eq!(pdu::request(&header, &pdu::Verbatim(args)).as_ref(), Ok(&line.pdu));
        *seen.entry(header.procedure).or_default() += 1;
    }
    assert_eq!(seen.len(), 13, "{seen:?}");
    assert_eq!(seen[&CLIENT_INVOKE], 21);
}

#[test]
fn every_reply_is_read_and_written_again() {
    // A reply doesn't name its procedure; its request on the same connection does.
    let mut asked: BTreeMap<(&str, &str, Xid), u32> = BTreeMap::new();
    let mut replies = 0;
    for line in lines() {
        if line.is_request {
            let (header, _) = RequestHeader::parse(&line.pdu).unwrap();
            asked.insert((line.from, line.to, header.xid), header.procedure);
            continue;
        }
        let (header, result) = ReplyHeader::parse(&line.pdu).unwrap();
        let procedure = number_of(line.name);
        let request = asked.get(&(line.to, line.from, header.xid));
        assert!(request.is_none_or(|&request| request == procedure), "{} {:?}", line.name, header.xid);
        assert_eq!(header.value, 0);
        check_result(procedure, result);

        let built = pdu::reply(&header, &pdu::Verbatim(result)).unwrap();
        assert_eq!(built[..12], line.pdu[..12]);
        assert_eq!(built[12..HEADER_BYTES], [0; 12]);
        assert_eq!(built[HEADER_BYTES..], line.pdu[HEADER_BYTES..]);
        replies += 1;
    }
    assert_eq!(replies, 138);
}

#[test]
fn whole_run_as_one_stream_is_cut_into_its_pdus() {
    let pdus: Vec<Vec<u8>> = lines().map(|line| line.pdu).collect();
    let stream = pdus.concat();
    for read in [1, 7, 24, 100, 4096, stream.len()] {
        let mut decoder = FrameDecoder::new();
        let mut next = pdus.iter();
        for chunk in stream.chunks(read) {
            let fed = decoder.feed(chunk, |pdu| {
                assert_eq!(Some(pdu), next.next().map(Vec::as_slice));
                ControlFlow::Continue(())
            });
            assert_eq!(fed, Ok(()));
        }
        assert_eq!((next.next(), decoder.buffered()), (None, 0));
    }
}
