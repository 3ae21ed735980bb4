//! PDUs in a stream of bytes, and what they are called.
//!
//! Invariants:
//! 1. The framer never holds bytes back: it tells where frames end, as the bytes pass.
//! 2. After a length that no PDU has, the rest of the stream is plain bytes, for good.

/// The shortest PDU is a header.
const SHORTEST: usize = 24;
/// The longest PDU; see `rpc/src/pdu.rs`.
const LONGEST: usize = 10 << 20;
/// So much of a frame tells what it is.
const HEAD: usize = 12;

/// A procedure, and its two counters.
pub(super) struct Procedure {
    number: u32,
    pub(super) name: &'static str,
    pub(super) message: &'static str,
    pub(super) reply: &'static str,
}

macro_rules! procedure {
    ($number:literal, $name:literal) => {
        Procedure {
            number: $number,
            name: $name,
            message: concat!("message: ", $name),
            reply: concat!("reply: ", $name),
        }
    };
}

/// What is called in a cluster, by number. The lock table's procedures travel inside of `client_invoke` and `invoke`.
static PROCEDURES: [Procedure; 16] = [
    procedure!(1, "bind"),
    procedure!(0x8001, "revoke"),
    procedure!(0x8002, "retry"),
    procedure!(0x9001, "client_invoke"),
    procedure!(0x9002, "client_members"),
    procedure!(0x10001, "invoke"),
    procedure!(0x10002, "transferreq"),
    procedure!(0x10003, "transferdonereq"),
    procedure!(0x10004, "joinreq"),
    procedure!(0x11001, "preparereq"),
    procedure!(0x11002, "acceptreq"),
    procedure!(0x11003, "decidereq"),
    procedure!(0x11004, "heartbeat"),
    procedure!(0x12001, "net_repair"),
    procedure!(0x12002, "breakpoint"),
    procedure!(0x12003, "cut_members"),
];

/// Any other.
pub(super) static OTHER: Procedure = procedure!(0, "other");

/// The counters of messages and replies, that of unknown ones excepted.
pub(super) fn counters() -> impl Iterator<Item = &'static str> {
    PROCEDURES.iter().flat_map(|procedure| [procedure.message, procedure.reply])
}

/// The procedure of a number.
pub(super) fn procedure(number: u32) -> &'static Procedure {
    let found = PROCEDURES.binary_search_by_key(&number, |procedure| procedure.number);
    found.ok().and_then(|at| PROCEDURES.get(at)).unwrap_or(&OTHER)
}

/// A frame that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) xid: i32,
    /// The procedure of a request, the status of a reply.
    pub(super) word: u32,
    pub(super) length: usize,
}

/// Cuts one direction of a connection into frames.
#[derive(Default)]
pub(super) struct Framer {
    head: [u8; HEAD],
    /// Bytes of the frame that have passed.
    got: usize,
    /// The frame's length, once it is known.
    length: usize,
    plain: bool,
}

impl Framer {
    /// No frame has begun.
    pub(super) fn at_start(&self) -> bool {
        self.got == 0
    }

    /// The stream isn't PDUs.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// How many of `bytes` still belong to the frame, and the frame if they end it.
    pub(super) fn cut(&mut self, bytes: &[u8]) -> (usize, Option<Info>) {
        let mut taken = 0;
        if self.plain {
            return (bytes.len(), None);
        }
        if self.got < 4 {
            taken = self.take(bytes, 4);
            if self.got < 4 {
                return (taken, None);
            }
            self.length = self.word(0) as usize;
            if !(SHORTEST..=LONGEST).contains(&self.length) {
                self.plain = true;
                return (bytes.len(), None);
            }
        }
        taken += self.take(bytes.get(taken..).unwrap_or_default(), self.length);
        if self.got < self.length {
            return (taken, None);
        }
        self.got = 0;
        let info = Info { xid: self.word(4) as i32, word: self.word(8), length: self.length };
        (taken, Some(info))
    }

    /// Takes what there is of the frame's bytes up to `end`.
    fn take(&mut self, bytes: &[u8], end: usize) -> usize {
        let count = bytes.len().min(end - self.got);
        for (to, byte) in self.head.iter_mut().skip(self.got).zip(&bytes[..count]) {
            *to = *byte;
        }
        self.got += count;
        count
    }

    fn word(&self, at: usize) -> u32 {
        self.head[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, xid: u32, word: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = [length, xid, word].iter().flat_map(|w| w.to_be_bytes()).collect();
        bytes.resize(length as usize, 7);
        bytes
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = [frame(24, 1, 1), frame(84, 2, 0x10001), frame(30, 3, 0x11004)].concat();
        for step in 1..stream.len() {
            let mut framer = Framer::default();
            let mut found = Vec::new();
            for mut bytes in stream.chunks(step) {
                while !bytes.is_empty() {
                    let (taken, info) = framer.cut(bytes);
                    bytes = &bytes[taken..];
                    found.extend(info);
                }
            }
            let lengths: Vec<_> = found.iter().map(|i| (i.xid, procedure(i.word).name, i.length)).collect();
            assert_eq!(lengths, [(1, "bind", 24), (2, "invoke", 84), (3, "heartbeat", 30)]);
            assert!(framer.at_start() && !framer.is_plain());
        }
    }

    #[test]
    fn an_absurd_length_makes_the_rest_plain() {
        for absurd in [&b"ping and more"[..], &[0, 0, 0, 23, 1], &[0; 40]] {
            let mut framer = Framer::default();
            assert_eq!(framer.cut(&frame(24, 1, 1)).0, 24);
            assert_eq!(framer.cut(absurd), (absurd.len(), None));
            assert!(framer.is_plain());
            assert_eq!(framer.cut(&frame(24, 1, 1)), (24, None));
        }
    }

    #[test]
    fn procedures_are_sorted_by_number() {
        assert!(PROCEDURES.is_sorted_by_key(|procedure| procedure.number));
        assert_eq!(procedure(0x7001).name, "other");
    }
}
