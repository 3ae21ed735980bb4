//! The lab's bytes, from its table: nothing of this is shared with the crates under test.

/// Procedure numbers.
pub(crate) const BIND: u32 = 1;
pub(crate) const ACQUIRE: u32 = 0x7001;
pub(crate) const RELEASE: u32 = 0x7002;
pub(crate) const STAT: u32 = 0x7003;
pub(crate) const REVOKE: u32 = 0x8001;
pub(crate) const RETRY: u32 = 0x8002;
pub(crate) const CLIENT_INVOKE: u32 = 0x9001;
pub(crate) const CLIENT_MEMBERS: u32 = 0x9002;
pub(crate) const INVOKE: u32 = 0x10001;
pub(crate) const TRANSFERREQ: u32 = 0x10002;
pub(crate) const TRANSFERDONEREQ: u32 = 0x10003;
pub(crate) const JOINREQ: u32 = 0x10004;
pub(crate) const PREPAREREQ: u32 = 0x11001;
pub(crate) const ACCEPTREQ: u32 = 0x11002;
pub(crate) const DECIDEREQ: u32 = 0x11003;
pub(crate) const HEARTBEAT: u32 = 0x11004;
pub(crate) const NET_REPAIR: u32 = 0x12001;
pub(crate) const BREAKPOINT: u32 = 0x12002;

/// What every protocol calls success.
pub(crate) const OK: i32 = 0;
/// lock_protocol
pub(crate) const LOCK_RETRY: i32 = 1;
pub(crate) const LOCK_RPCERR: i32 = 2;
pub(crate) const LOCK_NOENT: i32 = 3;
/// rsm_client_protocol
pub(crate) const CLIENT_NOTPRIMARY: i32 = 2;
pub(crate) const CLIENT_BUSY: i32 = 3;
/// rsm_protocol, paxos_protocol and rsm_test_protocol
pub(crate) const ERR: i32 = 1;
/// rsm_protocol
pub(crate) const BUSY: i32 = 2;
/// rpc_const
pub(crate) const UNMARSHAL_ARGS: i32 = -2;
pub(crate) const ATMOSTONCE: i32 = -4;
pub(crate) const OLDSRV: i32 = -5;

pub(crate) const HEADER: usize = 24;
pub(crate) const MAX_PDU: usize = 10 << 20;

/// What C++ leaves in memory that it doesn't set.
pub(crate) fn garbage() -> u32 {
    rt::random::u32()
}

/// Appends values (lab: `marshall`).
#[derive(Clone, Default)]
pub(crate) struct Enc(pub(crate) Vec<u8>);

impl Enc {
    pub(crate) fn new() -> Enc {
        Enc::default()
    }

    pub(crate) fn flag(mut self, value: bool) -> Enc {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Enc {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn i32(self, value: i32) -> Enc {
        self.u32(value.cast_unsigned())
    }

    pub(crate) fn u64(self, value: u64) -> Enc {
        self.u32((value >> 32) as u32).u32(value as u32)
    }

    pub(crate) fn bytes(mut self, value: &[u8]) -> Enc {
        self = self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, value: &str) -> Enc {
        self.bytes(value.as_bytes())
    }
}

/// Takes values off the front (lab: `unmarshall`); panics where that would fail.
pub(crate) struct Dec<'a> {
    rest: &'a [u8],
    what: &'a str,
}

impl<'a> Dec<'a> {
    pub(crate) fn new(what: &'a str, bytes: &'a [u8]) -> Dec<'a> {
        Dec { rest: bytes, what }
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        assert!(count <= self.rest.len(), "{}: {count} bytes wanted, {:02x?} left", self.what, self.rest);
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        taken
    }

    /// C++ writes 0 or 1.
    pub(crate) fn flag(&mut self) -> bool {
        let byte = self.take(1)[0];
        assert!(byte <= 1, "{}: a bool of {byte}", self.what);
        byte == 1
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.take(4).iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    pub(crate) fn i32(&mut self) -> i32 {
        self.u32().cast_signed()
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let high = self.u32();
        u64::from(high) << 32 | u64::from(self.u32())
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let count = self.u32() as usize;
        self.take(count).to_vec()
    }

    pub(crate) fn text(&mut self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    pub(crate) fn texts(&mut self) -> Vec<String> {
        (0..self.u32()).map(|_| self.text()).collect()
    }

    /// The lab's `okdone`.
    pub(crate) fn end(self) {
        assert!(self.rest.is_empty(), "{}: surplus bytes {:02x?}", self.what, self.rest);
    }
}

/// The whole of a result, of which only this is wanted.
pub(crate) fn only<T>(what: &str, bytes: &[u8], read: impl FnOnce(&mut Dec<'_>) -> T) -> T {
    let mut dec = Dec::new(what, bytes);
    let value = read(&mut dec);
    dec.end();
    value
}

/// A request's header, and its arguments behind it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) xid: i32,
    pub(crate) procedure: u32,
    pub(crate) client: u32,
    pub(crate) server: u32,
    pub(crate) xid_rep: i32,
    pub(crate) args: Vec<u8>,
}

impl Request {
    pub(crate) fn pdu(&self) -> Vec<u8> {
        let header = Enc::new().u32((HEADER + self.args.len()) as u32).i32(self.xid).u32(self.procedure);
        [header.u32(self.client).u32(self.server).i32(self.xid_rep).0, self.args.clone()].concat()
    }

    pub(crate) fn parse(pdu: &[u8]) -> Request {
        let mut dec = Dec::new("a request's header", pdu);
        assert_eq!(dec.u32() as usize, pdu.len());
        let (xid, procedure, client, server, xid_rep) = (dec.i32(), dec.u32(), dec.u32(), dec.u32(), dec.i32());
        Request { xid, procedure, client, server, xid_rep, args: pdu[HEADER..].to_vec() }
    }
}

/// A reply, with garbage where nobody looks.
pub(crate) fn reply(xid: i32, value: i32, result: &[u8]) -> Vec<u8> {
    let header = Enc::new().u32((HEADER + result.len()) as u32).i32(xid).i32(value);
    [header.u32(garbage()).u32(garbage()).u32(garbage()).0, result.to_vec()].concat()
}

/// The xid, value and result of a reply.
pub(crate) fn parse_reply(pdu: &[u8]) -> (i32, i32, Vec<u8>) {
    let mut dec = Dec::new("a reply's header", pdu);
    assert_eq!(dec.u32() as usize, pdu.len());
    (dec.i32(), dec.i32(), pdu[HEADER..].to_vec())
}
