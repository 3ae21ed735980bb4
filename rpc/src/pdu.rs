//! The header of a PDU, and PDUs out of a stream of bytes (lab: `rpc.h`'s headers, `connection::readpdu`).
//!
//! All of it is pure: no socket, no clock, no lock. Everything is big-endian, and both headers have 24 bytes:
//!
//! ```text
//!          request                          reply
//!  0..4    length of the whole PDU          same
//!  4..8    xid                              xid
//!  8..12   procedure                        value (negative: a CallError's code)
//! 12..16   client nonce                     anything (ours: 0)
//! 16..20   server nonce                     anything (ours: 0)
//! 20..24   xid_rep                          anything (ours: 0)
//! 24..     arguments                        result
//! ```
//!
//! Invariants:
//! 1. What is built here has between [`HEADER_BYTES`] and [`MAX_PDU_BYTES`] bytes, and its first four say how many.
//! 2. The decoder hands on the stream's PDUs, all, once and in order, however the stream is cut into reads.
//! 3. The decoder's memory follows what has arrived, never what a length claims; with no PDU begun it has none.
//! 4. A PDU that is whole in the bytes that were read is handed on where it lies. Only one that is spread over several
//!    reads is copied, once (and again while its buffer doubles).
//!
//! Failures: a value too big to send is [`TooLong`] and nothing is sent. A length out of bounds is a [`FrameError`]:
//! there is no telling where the next PDU starts, so the connection has to be closed, and the decoder repeats the error.
//! A PDU that is too short to have a header can't come out of the decoder; parsed alone, it is `None`.

use std::ops::ControlFlow;

use byteorder::{BigEndian, ByteOrder};

use crate::marshall::Marshal;

/// The length of a header, the four bytes of the PDU's length included.
pub const HEADER_BYTES: usize = 24;

/// The longest PDU, the lab's. A longer one is not sent ([`TooLong`]), and not taken ([`FrameError`]).
pub const MAX_PDU_BYTES: usize = 10 << 20;

/// The bytes that hold a PDU's length.
const LENGTH_BYTES: usize = 4;

/// A request's number, counted by its client from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub i32);

/// A client's random number, its name in the server's reply window. 0 asks for no at-most-once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNonce(pub u32);

/// A server's random number, another one after each restart. 0 is a client's that isn't bound yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerNonce(pub u32);

/// What stands before a request's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The request's number.
    pub xid: Xid,
    /// The procedure's number.
    pub procedure: u32,
    /// Who asks.
    pub client_nonce: ClientNonce,
    /// Whom the client believes to ask.
    pub server_nonce: ServerNonce,
    /// The client needs no reply any more to a request with this number or a lower one.
    pub xid_rep: Xid,
}

/// What stands before a reply's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The number of the request that it answers.
    pub xid: Xid,
    /// The handler's status, or a negative [`crate::CallError`] code, which no result follows.
    pub value: i32,
}

/// A PDU would be longer than [`MAX_PDU_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a PDU of {bytes} bytes is too long to be sent")]
pub struct TooLong {
    /// How long it would be.
    pub bytes: usize,
}

/// Bytes that are marshalled already, and appended as they are: without a count, unlike
/// [`Bytes`](crate::marshall::Bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbatim<'a>(pub &'a [u8]);

impl Marshal for Verbatim<'_> {
    fn marshal(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

/// A whole request PDU. Arguments that are bytes already come as [`Verbatim`].
///
/// # Errors
/// [`TooLong`], after the arguments were marshalled: only then is it known.
pub fn request(header: &RequestHeader, args: &(impl Marshal + ?Sized)) -> Result<Vec<u8>, TooLong> {
    let mut pdu = vec![0; HEADER_BYTES];
    BigEndian::write_i32(&mut pdu[4..8], header.xid.0);
    BigEndian::write_u32(&mut pdu[8..12], header.procedure);
    BigEndian::write_u32(&mut pdu[12..16], header.client_nonce.0);
    BigEndian::write_u32(&mut pdu[16..20], header.server_nonce.0);
    BigEndian::write_i32(&mut pdu[20..24], header.xid_rep.0);
    args.marshal(&mut pdu);
    with_length(pdu)
}

/// Writes the fields that are only known when a request leaves into a PDU that [`request`] made.
pub(crate) fn stamp(request: &mut [u8], xid: Xid, server_nonce: ServerNonce, xid_rep: Xid) {
    if let Some(fields) = request.first_chunk_mut::<HEADER_BYTES>() {
        BigEndian::write_i32(&mut fields[4..8], xid.0);
        BigEndian::write_u32(&mut fields[16..20], server_nonce.0);
        BigEndian::write_i32(&mut fields[20..24], xid_rep.0);
    }
}

/// A whole reply PDU. A result that is bytes already comes as [`Verbatim`]; a failure's is `()`.
///
/// # Errors
/// [`TooLong`]. The client has to get some answer all the same: send a failure in its place.
pub fn reply(header: &ReplyHeader, result: &(impl Marshal + ?Sized)) -> Result<Vec<u8>, TooLong> {
    let mut pdu = vec![0; HEADER_BYTES];
    BigEndian::write_i32(&mut pdu[4..8], header.xid.0);
    BigEndian::write_i32(&mut pdu[8..12], header.value);
    result.marshal(&mut pdu);
    with_length(pdu)
}

fn with_length(mut pdu: Vec<u8>) -> Result<Vec<u8>, TooLong> {
    let bytes = pdu.len();
    match u32::try_from(bytes) {
        Ok(length) if bytes <= MAX_PDU_BYTES => BigEndian::write_u32(&mut pdu[..LENGTH_BYTES], length),
        _ => return Err(TooLong { bytes }),
    }
    Ok(pdu)
}

impl RequestHeader {
    /// The header and the marshalled arguments of a whole PDU. `None` if it is none.
    pub fn parse(pdu: &[u8]) -> Option<(RequestHeader, &[u8])> {
        let (fields, args) = split(pdu)?;
        let header = RequestHeader {
            xid: Xid(BigEndian::read_i32(&fields[4..8])),
            procedure: BigEndian::read_u32(&fields[8..12]),
            client_nonce: ClientNonce(BigEndian::read_u32(&fields[12..16])),
            server_nonce: ServerNonce(BigEndian::read_u32(&fields[16..20])),
            xid_rep: Xid(BigEndian::read_i32(&fields[20..24])),
        };
        Some((header, args))
    }
}

impl ReplyHeader {
    /// The header and the marshalled result of a whole PDU. `None` if it is none.
    pub fn parse(pdu: &[u8]) -> Option<(ReplyHeader, &[u8])> {
        let (fields, result) = split(pdu)?;
        // Bytes 12 to 24 are whatever was in a C++ server's memory.
        let header =
            ReplyHeader { xid: Xid(BigEndian::read_i32(&fields[4..8])), value: BigEndian::read_i32(&fields[8..12]) };
        Some((header, result))
    }
}

fn split(pdu: &[u8]) -> Option<(&[u8; HEADER_BYTES], &[u8])> {
    let (fields, body) = pdu.split_first_chunk::<HEADER_BYTES>()?;
    let length = BigEndian::read_u32(&fields[..LENGTH_BYTES]) as usize;
    (length == pdu.len() && length <= MAX_PDU_BYTES).then_some((fields, body))
}

/// Why a stream of bytes can't be cut into PDUs any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that leaves no room for the header.
    #[error("a PDU claims {0} bytes, fewer than its header has")]
    TooShort(u32),
    /// A length above [`MAX_PDU_BYTES`].
    #[error("a PDU claims {0} bytes, more than the longest may have")]
    TooLong(u32),
}

/// The length that the PDU at the start of `bytes` claims, as soon as it can be read.
fn claimed_length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(field) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let claim = u32::from_be_bytes(*field);
    match claim as usize {
        length if length < HEADER_BYTES => Err(FrameError::TooShort(claim)),
        length if length > MAX_PDU_BYTES => Err(FrameError::TooLong(claim)),
        length => Ok(Some(length)),
    }
}

/// Cuts one connection's stream of bytes into PDUs.
///
/// It holds less than one PDU, and no more than twice what has arrived of it. While its receiver has stopped it (see
/// [`feed`](FrameDecoder::feed)) it also holds the rest of the read that was being cut up; the owner reads no further
/// then, so that this stays one read.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// What has been kept; only `kept[taken..]` is still to be handed on.
    kept: Vec<u8>,
    taken: usize,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        FrameDecoder::default()
    }

    /// How many bytes are held back: of an unfinished PDU, or behind one at which the receiver stopped.
    pub fn buffered(&self) -> usize {
        self.kept.len() - self.taken
    }

    /// Hands each PDU that `bytes` completes to `on_pdu`, whole, its four length bytes included.
    ///
    /// `on_pdu` returns [`ControlFlow::Break`] when it took this PDU and can take no more for now. The decoder keeps the
    /// rest of `bytes` then, and `feed(&[], ..)` continues with it; until that, the owner should not read.
    ///
    /// # Errors
    /// [`FrameError`], once the PDUs before it have been handed on. It is final: each later call returns it again.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_pdu: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let fed = self.feed_kept(&mut bytes, &mut on_pdu).and_then(|flow| match flow {
            ControlFlow::Continue(()) => self.feed_read(bytes, &mut on_pdu),
            ControlFlow::Break(()) => {
                self.keep(bytes, usize::MAX);
                Ok(())
            }
        });
        if let Err(error) = fed {
            self.failed = Some(error);
            self.release();
        }
        fed
    }

    /// Hands on the PDUs that begin among the kept bytes, the last of which `bytes` may complete. When it continues,
    /// either nothing is kept or nothing is left of `bytes`.
    fn feed_kept(
        &mut self,
        bytes: &mut &[u8],
        on_pdu: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, FrameError> {
        while self.buffered() > 0 {
            let length = claimed_length(&self.kept[self.taken..])?;
            let wanted = length.unwrap_or(LENGTH_BYTES);
            if let Some(missing) = wanted.checked_sub(self.buffered()).filter(|&missing| missing > 0) {
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.keep(head, wanted);
                *bytes = rest;
                if head.len() < missing {
                    return Ok(ControlFlow::Continue(()));
                }
                if length.is_none() {
                    continue;
                }
            }
            let end = self.taken + wanted;
            let flow = on_pdu(&self.kept[self.taken..end]);
            self.taken = end;
            if self.buffered() == 0 {
                self.release();
            }
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Hands on the PDUs that are whole in `bytes` and keeps what is left. Nothing may be kept before.
    fn feed_read(
        &mut self,
        mut bytes: &[u8],
        on_pdu: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), FrameError> {
        let mut limit = LENGTH_BYTES;
        while let Some(length) = claimed_length(bytes)? {
            let Some((pdu, rest)) = bytes.split_at_checked(length) else {
                limit = length;
                break;
            };
            bytes = rest;
            if on_pdu(pdu).is_break() {
                limit = usize::MAX;
                break;
            }
        }
        self.keep(bytes, limit);
        Ok(())
    }

    /// Appends to what is kept. The buffer doubles as bytes arrive, but not beyond `limit`, the end of the PDU.
    fn keep(&mut self, bytes: &[u8], limit: usize) {
        if bytes.is_empty() {
            return;
        }
        if self.kept.len() + bytes.len() > self.kept.capacity() {
            self.kept.drain(..self.taken);
            self.taken = 0;
            let needed = self.kept.len() + bytes.len();
            let roomy = needed.max(self.kept.capacity() * 2).min(limit.max(needed));
            self.kept.reserve_exact(roomy - self.kept.len());
        }
        self.kept.extend_from_slice(bytes);
    }

    /// Gives the memory back, so that an idle connection holds none.
    fn release(&mut self) {
        self.kept = Vec::new();
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts the stream when all of it is there.
    fn naive(mut stream: &[u8]) -> (Vec<Vec<u8>>, usize, Option<FrameError>) {
        let mut pdus = Vec::new();
        while stream.len() >= 4 {
            let claim = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]);
            let length = claim as usize;
            if length < HEADER_BYTES {
                return (pdus, 0, Some(FrameError::TooShort(claim)));
            }
            if length > MAX_PDU_BYTES {
                return (pdus, 0, Some(FrameError::TooLong(claim)));
            }
            if length > stream.len() {
                break;
            }
            pdus.push(stream[..length].to_vec());
            stream = &stream[length..];
        }
        (pdus, stream.len(), None)
    }

    fn pdu_of(bytes: usize) -> Vec<u8> {
        let header = ReplyHeader { xid: Xid(1), value: 0 };
        reply(&header, &Verbatim(&vec![7; bytes - HEADER_BYTES])).unwrap()
    }

    fn go_on(_: &[u8]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn request_has_the_labs_bytes() {
        let header = RequestHeader {
            xid: Xid(2),
            procedure: 0x10004,
            client_nonce: ClientNonce(0x57aa_b51a),
            server_nonce: ServerNonce(0x5fb3_6cc9),
            xid_rep: Xid(1),
        };
        let pdu = request(&header, &(Verbatim(b"args"),)).unwrap();
        let bytes = [
            0, 0, 0, 28, 0, 0, 0, 2, 0, 1, 0, 4, 0x57, 0xaa, 0xb5, 0x1a, 0x5f, 0xb3, 0x6c, 0xc9, 0, 0, 0, 1, b'a',
            b'r', b'g', b's',
        ];
        assert_eq!(pdu, bytes);
        assert_eq!(RequestHeader::parse(&pdu), Some((header, &b"args"[..])));
    }

    #[test]
    fn reply_has_the_labs_bytes_and_its_garbage_is_ignored() {
        let header = ReplyHeader { xid: Xid(-1), value: -4 };
        let mut pdu = reply(&header, &()).unwrap();
        let mut bytes = [0; HEADER_BYTES];
        bytes[..12].copy_from_slice(&[0, 0, 0, 24, 255, 255, 255, 255, 255, 255, 255, 252]);
        assert_eq!(pdu, bytes);
        pdu[12..].fill(0xa5);
        assert_eq!(ReplyHeader::parse(&pdu), Some((header, &[][..])));
    }

    #[test]
    fn pdu_of_another_length_than_it_says_is_not_parsed() {
        let pdu = pdu_of(30);
        assert!(ReplyHeader::parse(&pdu).is_some());
        for end in 0..30 {
            assert_eq!(ReplyHeader::parse(&pdu[..end]), None);
            assert_eq!(RequestHeader::parse(&pdu[..end]), None);
        }
    }

    #[test]
    fn longest_pdu_is_built_and_a_longer_one_is_refused() {
        assert_eq!(pdu_of(MAX_PDU_BYTES).len(), MAX_PDU_BYTES);
        let header = ReplyHeader { xid: Xid(1), value: 0 };
        let body = vec![0; MAX_PDU_BYTES - HEADER_BYTES + 1];
        assert_eq!(reply(&header, &Verbatim(&body)), Err(TooLong { bytes: MAX_PDU_BYTES + 1 }));
    }

    #[test]
    fn whole_pdus_are_handed_on_where_they_lie() {
        let stream = [pdu_of(24), pdu_of(100), pdu_of(24)].concat();
        let mut decoder = FrameDecoder::new();
        let mut at = 0;
        let fed = decoder.feed(&stream, |pdu| {
            assert_eq!(pdu.as_ptr(), stream[at..].as_ptr());
            at += pdu.len();
            ControlFlow::Continue(())
        });
        assert_eq!((fed, at), (Ok(()), 148));
        assert_eq!(decoder.kept.capacity(), 0);
    }

    #[test]
    fn h18_memory_follows_what_arrives_not_what_is_claimed() {
        let pdu = pdu_of(MAX_PDU_BYTES);
        let mut decoder = FrameDecoder::new();
        for chunk in pdu[..5000].chunks(1) {
            decoder.feed(chunk, go_on).unwrap();
        }
        assert_eq!(decoder.buffered(), 5000);
        assert!(decoder.kept.capacity() <= 10_000);
        let mut seen = 0;
        for chunk in pdu[5000..].chunks(60_000) {
            assert_eq!(seen, 0);
            decoder
                .feed(chunk, |whole| {
                    seen = whole.len();
                    ControlFlow::Continue(())
                })
                .unwrap();
            assert!(decoder.kept.capacity() <= MAX_PDU_BYTES);
        }
        assert_eq!((seen, decoder.buffered(), decoder.kept.capacity()), (MAX_PDU_BYTES, 0, 0));
    }

    #[test]
    fn bad_length_is_final_and_frees_the_memory() {
        let mut decoder = FrameDecoder::new();
        decoder.feed(&[0, 0xa0, 0], go_on).unwrap();
        assert_eq!(decoder.feed(&[1], go_on), Err(FrameError::TooLong(MAX_PDU_BYTES as u32 + 1)));
        assert_eq!((decoder.buffered(), decoder.kept.capacity()), (0, 0));
        let again = decoder.feed(&pdu_of(24), |_| panic!("the stream is lost"));
        assert_eq!(again, Err(FrameError::TooLong(MAX_PDU_BYTES as u32 + 1)));
        assert_eq!(FrameDecoder::new().feed(&[0, 0, 0, 23], go_on), Err(FrameError::TooShort(23)));
    }

    #[test]
    fn stopped_receiver_gets_the_rest_later() {
        let stream = [pdu_of(24), pdu_of(30), pdu_of(40), pdu_of(50)].concat();
        let mut decoder = FrameDecoder::new();
        let mut lengths = Vec::new();
        let mut stop = |pdu: &[u8]| {
            lengths.push(pdu.len());
            ControlFlow::Break(())
        };
        decoder.feed(&stream[..100], &mut stop).unwrap();
        assert_eq!(decoder.buffered(), 76);
        decoder.feed(&[], &mut stop).unwrap();
        decoder.feed(&[], &mut stop).unwrap();
        decoder.feed(&[], &mut stop).unwrap();
        assert_eq!(decoder.buffered(), 6);
        decoder.feed(&stream[100..], &mut stop).unwrap();
        assert_eq!(decoder.kept.capacity(), 0);
        assert_eq!(lengths, [24, 30, 40, 50]);
    }

    proptest! {
        #[test]
        fn headers_round_trip(
            xid: i32, procedure: u32, client: u32, server: u32, rep: i32, value: i32,
            body in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let header = RequestHeader {
                xid: Xid(xid),
                procedure,
                client_nonce: ClientNonce(client),
                server_nonce: ServerNonce(server),
                xid_rep: Xid(rep),
            };
            let pdu = request(&header, &Verbatim(&body)).unwrap();
            prop_assert_eq!(RequestHeader::parse(&pdu), Some((header, &body[..])));
            let header = ReplyHeader { xid: Xid(xid), value };
            let pdu = reply(&header, &Verbatim(&body)).unwrap();
            prop_assert_eq!(ReplyHeader::parse(&pdu), Some((header, &body[..])));
        }

        /// The same PDUs, the same rest and the same error as the naive decoder, wherever the reads end and whenever
        /// the receiver stops.
        #[test]
        fn decoder_agrees_with_the_naive_one(
            sizes in proptest::collection::vec(24_usize..200, 0..20),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
            tail_zeros in 0_usize..4,
            cuts in proptest::collection::vec(1_usize..150, 1..60),
            stops in proptest::collection::vec(any::<bool>(), 1..10),
        ) {
            let mut stream: Vec<u8> = sizes.iter().flat_map(|&bytes| pdu_of(bytes)).collect();
            stream.extend(std::iter::repeat_n(0, tail_zeros));
            stream.extend(tail);
            let (pdus, rest, error) = naive(&stream);

            let mut decoder = FrameDecoder::new();
            let mut seen = Vec::new();
            let mut failed = None;
            let mut cuts = cuts.iter().cycle();
            let mut stops = stops.iter().cycle();
            let mut unread = &stream[..];
            let mut stopped = false;
            while failed.is_none() && (stopped || !unread.is_empty()) {
                let (chunk, later) = unread.split_at(if stopped { 0 } else { unread.len().min(*cuts.next().unwrap()) });
                unread = later;
                stopped = false;
                let fed = decoder.feed(chunk, |pdu| {
                    assert!(!stopped, "handed on after a stop");
                    seen.push(pdu.to_vec());
                    stopped = *stops.next().unwrap();
                    if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                failed = fed.err();
                prop_assert!(decoder.kept.capacity() <= 2 * (decoder.buffered() + 200) || stopped);
                if decoder.buffered() == 0 {
                    prop_assert_eq!(decoder.kept.capacity(), 0);
                }
            }
            prop_assert_eq!(seen, pdus);
            prop_assert_eq!(failed, error);
            if error.is_none() {
                prop_assert_eq!(decoder.buffered(), rest);
            }
        }

        /// Any bytes at all: no panic, and no more memory than they justify.
        #[test]
        fn h15_decoder_survives_any_bytes(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..100), 0..20,
        )) {
            let mut decoder = FrameDecoder::new();
            let mut arrived = 0;
            for chunk in &chunks {
                arrived += chunk.len();
                let _ = decoder.feed(chunk, |pdu| {
                    assert!(RequestHeader::parse(pdu).is_some() && ReplyHeader::parse(pdu).is_some());
                    ControlFlow::Continue(())
                });
                prop_assert!(decoder.kept.capacity() <= 2 * arrived);
            }
        }
    }
}
