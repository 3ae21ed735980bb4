//! The bytes of a journal's file, and what a file of them says. Pure.
//!
//! ```text
//! file       79 66 73 2d 72 73 6d 0a ("yfs-rsm", line feed)   u32 format = 2   u32 CRC-32 of these 12 bytes
//!            frames: a base, then requests and marks
//! frame      u8 kind   u32 length of the body   u32 CRC-32 of the body   u32 link
//!            body
//!            u8 a5
//! base       kind 42 ("B")   u32 mark   u32 vid   u32 seqno   u64 disk   u32 length   the node's name   state
//! request    kind 52 ("R")   u32 vid   u32 seqno   u32 procedure   arguments
//! mark       kind 4d ("M")   u32 vid
//! start over kind 53 ("S")   u32 vid
//! ```
//! Numbers have their highest byte first. A link is the CRC-32 of the link before (in the first frame: of the file's
//! checksum) and the 9 bytes in front of it. So a wrong length is noticed before it is used, and a frame fits at its own
//! place only: one that vanished, or came from another file, breaks the chain.
//!
//! Any frame's end is a good end of the file: a tail is cut off by setting the length to where a frame begins, and
//! syncing that before anything is appended; the next link goes on from the frame before.
//!
//! What a write that didn't come to its end leaves is its beginning, perhaps with zeros behind it. A whole frame ends
//! with a byte that isn't zero, so where the file isn't zeros any more tells which frames are whole. What is left then
//! must be the beginning of a frame; if it's all of it but the last byte, nothing is missing.

use std::ops::RangeInclusive;

use yfs_paxos::DiskId;

use super::{Item, Logged, Owner, Recovered};
use crate::protocol::Viewstamp;

const MAGIC: [u8; 8] = *b"yfs-rsm\n";
const FORMAT: u32 = 2;
/// Magic, format, checksum.
const FILE_HEAD_BYTES: usize = 16;
/// Kind, length, checksum, link.
const HEAD_BYTES: usize = 13;
/// What of that the link covers.
const LINKED_BYTES: usize = 9;
/// The last byte of each frame; not zero, nor one wrong bit away from it.
const END: u8 = 0xa5;

/// The longest state.
pub(super) const MAX_STATE_BYTES: usize = 1 << 30;
/// The longest arguments of a request: longer than any that a PDU has room for.
pub(super) const MAX_ARGS_BYTES: usize = 10 << 20;
/// The longest that comes before the state in a base: its numbers, and a name.
const MAX_PREFIX_BYTES: usize = 12 + 12 + 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Base,
    Request,
    Mark,
    StartOver,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Base, Kind::Request, Kind::Mark, Kind::StartOver];

    const fn byte(self) -> u8 {
        match self {
            Kind::Base => b'B',
            Kind::Request => b'R',
            Kind::Mark => b'M',
            Kind::StartOver => b'S',
        }
    }

    fn of(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.byte() == byte)
    }

    /// How long a body may be.
    const fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Kind::Base => 12..=MAX_PREFIX_BYTES + MAX_STATE_BYTES,
            Kind::Request => 12..=12 + MAX_ARGS_BYTES,
            Kind::Mark | Kind::StartOver => 4..=4,
        }
    }
}

/// An item is longer than a frame can be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong {
    pub(super) bytes: usize,
}

/// The link of a frame whose head begins with `linked`.
fn link_of(before: u32, linked: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_be_bytes());
    hasher.update(linked);
    hasher.finalize()
}

/// The first bytes of a file, and the link that its first frame goes on from.
fn file_head() -> ([u8; FILE_HEAD_BYTES], u32) {
    let mut head = [0; FILE_HEAD_BYTES];
    let (covered, crc) = head.split_at_mut(FILE_HEAD_BYTES - 4);
    covered[..8].copy_from_slice(&MAGIC);
    covered[8..].copy_from_slice(&FORMAT.to_be_bytes());
    let link = crc32fast::hash(covered);
    crc.copy_from_slice(&link.to_be_bytes());
    (head, link)
}

/// Makes frames, one after the other.
pub(super) struct Writer {
    link: u32,
}

impl Writer {
    /// The bytes of a new file up to its state; after these come the state and [`end_of_base`].
    pub(super) fn begin(owner: &Owner, mark: u32, last: Viewstamp, state: &[u8]) -> Result<(Writer, Vec<u8>), TooLong> {
        let (head, link) = file_head();
        let mut out = head.to_vec();
        let mut writer = Writer { link };
        let mut prefix = numbers(&[mark, last.vid, last.seqno]);
        prefix.extend_from_slice(&owner.disk.0.to_be_bytes());
        prefix.extend_from_slice(&u32::try_from(owner.name.len()).unwrap_or(u32::MAX).to_be_bytes());
        prefix.extend_from_slice(owner.name.as_bytes());
        if prefix.len() > MAX_PREFIX_BYTES || state.len() > MAX_STATE_BYTES {
            return Err(TooLong { bytes: state.len() });
        }
        writer.head(&mut out, Kind::Base, &prefix, state)?;
        Ok((writer, out))
    }

    /// Adds the frame of a request or a mark.
    pub(super) fn frame(&mut self, out: &mut Vec<u8>, item: &Item) -> Result<(), TooLong> {
        match item {
            Item::Base { .. } => unreachable!("a base begins a file"),
            Item::Request { vs, procedure, args } => {
                self.head(out, Kind::Request, &numbers(&[vs.vid, vs.seqno, *procedure]), args)?;
                out.extend_from_slice(args);
            }
            Item::Mark { vid } => self.head(out, Kind::Mark, &numbers(&[*vid]), &[])?,
            Item::StartOver { vid } => self.head(out, Kind::StartOver, &numbers(&[*vid]), &[])?,
        }
        out.push(END);
        Ok(())
    }

    /// Adds the beginning of a frame: its head and what comes before the `rest` of its body.
    fn head(&mut self, out: &mut Vec<u8>, kind: Kind, prefix: &[u8], rest: &[u8]) -> Result<(), TooLong> {
        let bytes = prefix.len() + rest.len();
        let length = u32::try_from(bytes).ok().filter(|_| kind.lengths().contains(&bytes));
        let length = length.ok_or(TooLong { bytes: rest.len() })?;
        let mut body = crc32fast::Hasher::new();
        body.update(prefix);
        body.update(rest);
        let mut linked = vec![kind.byte()];
        linked.extend_from_slice(&length.to_be_bytes());
        linked.extend_from_slice(&body.finalize().to_be_bytes());
        self.link = link_of(self.link, &linked);
        out.extend_from_slice(&linked);
        out.extend_from_slice(&self.link.to_be_bytes());
        out.extend_from_slice(prefix);
        Ok(())
    }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// What follows the state in a base's frame.
pub(super) fn end_of_base() -> Vec<u8> {
    vec![END]
}

/// How many bytes an item is in the file, but for a base's owner.
pub(super) fn frame_bytes(item: &Item) -> usize {
    let body = match item {
        Item::Base { state, .. } => 12 + state.len(),
        Item::Request { args, .. } => 12 + args.len(),
        Item::Mark { .. } | Item::StartOver { .. } => 4,
    };
    HEAD_BYTES + body + 1
}

/// What may follow in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    mark: u32,
    last: Viewstamp,
}

impl Order {
    /// After a base.
    pub(super) fn new(mark: u32, last: Viewstamp) -> Self {
        Order { mark, last }
    }

    /// A request follows.
    pub(super) fn request(&mut self, vs: Viewstamp) -> Result<(), String> {
        let last = self.last;
        let follows = if vs.vid == last.vid { Some(vs.seqno) == last.seqno.checked_add(1) } else { vs.seqno == 1 };
        if !follows || vs.vid < last.vid {
            return Err(format!("request {vs} comes after {last}"));
        }
        self.last = vs;
        Ok(())
    }

    /// A mark follows.
    pub(super) fn mark(&mut self, vid: u32) -> Result<(), String> {
        if vid < self.mark {
            return Err(format!("in sync in view {vid} comes after {}", self.mark));
        }
        self.mark = vid;
        Ok(())
    }

    /// A start-over follows.
    pub(super) fn start_over(&mut self, vid: u32) -> Result<(), String> {
        if vid < self.mark {
            return Err(format!("started over into view {vid} comes after {}", self.mark));
        }
        Ok(())
    }
}

/// Why a file isn't read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It isn't what was written.
    Damaged { offset: usize, what: String },
    /// It's of another version of this program.
    Format(u32),
}

/// What the bytes of a file say.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) recovered: Recovered,
    /// How many bytes are good; what follows is a torn write.
    pub(super) keep: usize,
}

impl Scan {
    pub(super) fn of(bytes: &[u8]) -> Result<Scan, Refused> {
        let damaged = |offset: usize, what: &str| Refused::Damaged { offset, what: what.to_owned() };
        let (head, _) = bytes.split_first_chunk().ok_or_else(|| damaged(0, "the file's head isn't whole"))?;
        let mut link = check_file_head(head)?;
        let mut at = FILE_HEAD_BYTES;
        // From here on there are only zeros.
        let solid = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let mut found: Option<(Recovered, Order)> = None;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let shown = solid.saturating_sub(at);
            let frame = Frame::read(rest, shown, link, found.is_none()).map_err(|what| damaged(at, what))?;
            let Some(frame) = frame else { break };
            found = Some(
                match found {
                    None => frame.take_base(),
                    Some(before) => frame.take(before, at),
                }
                .map_err(|what| damaged(at, &what))?,
            );
            link = frame.link;
            at += frame.bytes;
        }
        match found {
            Some((recovered, _)) => Ok(Scan { recovered, keep: at }),
            None => Err(damaged(at, "the base isn't there")),
        }
    }
}

/// The link that a file's first frame goes on from.
fn check_file_head(head: &[u8; FILE_HEAD_BYTES]) -> Result<u32, Refused> {
    let damaged = |what: &str| Refused::Damaged { offset: 0, what: what.to_owned() };
    let (covered, crc) = head.split_at(FILE_HEAD_BYTES - 4);
    let link = crc32fast::hash(covered);
    if crc != link.to_be_bytes() {
        return Err(damaged("the checksum of the file's head doesn't fit"));
    }
    let format = covered.strip_prefix(&MAGIC).and_then(|format| format.try_into().ok());
    match format.map(u32::from_be_bytes) {
        Some(FORMAT) => Ok(link),
        Some(other) => Err(Refused::Format(other)),
        None => Err(damaged("no such file begins like this")),
    }
}

struct Frame<'a> {
    kind: Kind,
    body: &'a [u8],
    link: u32,
    /// How many it has.
    bytes: usize,
}

impl<'a> Frame<'a> {
    /// The frame at the beginning of `rest`, of which all but the first `shown` bytes are zeros; `None` if it's torn.
    fn read(rest: &'a [u8], shown: usize, before: u32, is_first: bool) -> Result<Option<Self>, &'static str> {
        let seen = rest.get(..shown).unwrap_or_default();
        let torn = |is_legible: bool, what| if is_legible && !is_first { Ok(None) } else { Err(what) };
        if seen.is_empty() {
            return torn(true, "the base isn't whole");
        }
        let Some((kind, length, crc, link)) = rest.first_chunk().and_then(|head| parse_head(head, before)) else {
            return torn(begins_a_head(seen, before), "no frame begins like this");
        };
        let kind = Kind::of(kind).filter(|kind| (*kind == Kind::Base) == is_first).ok_or("this kind can't be here")?;
        let length = usize::try_from(length).ok().filter(|length| kind.lengths().contains(length));
        let length = length.ok_or("this kind can't have this length")?;
        let body = rest.get(HEAD_BYTES..HEAD_BYTES + length);
        let good = body.filter(|body| crc32fast::hash(body) == crc);
        let bytes = HEAD_BYTES + length + 1;
        if shown < bytes {
            // Torn, but for a frame that lacks its last byte.
            return match good {
                Some(body) if !is_first => Ok(Some(Frame { kind, body, link, bytes: bytes.min(rest.len()) })),
                _ => torn(true, "the base isn't whole"),
            };
        }
        if rest.get(bytes - 1) != Some(&END) {
            return Err("no frame ends like this");
        }
        let body = good.ok_or("the checksum doesn't fit")?;
        Ok(Some(Frame { kind, body, link, bytes }))
    }

    /// What a base says.
    fn take_base(&self) -> Result<(Recovered, Order), String> {
        let mut fields = Fields(self.body);
        let (mark, base_last) = (fields.number()?, fields.viewstamp()?);
        let owner = fields.owner()?;
        let state = fields.0.to_vec();
        let recovered = Recovered { owner, mark, base_last, state, requests: Vec::new(), start_over: None };
        Ok((recovered, Order::new(mark, base_last)))
    }

    /// Adds what it says to what the frames before it say. It begins at `offset`.
    fn take(&self, before: (Recovered, Order), offset: usize) -> Result<(Recovered, Order), String> {
        let mut fields = Fields(self.body);
        let (mut recovered, mut order) = before;
        match self.kind {
            Kind::Mark => {
                recovered.mark = fields.number()?;
                order.mark(recovered.mark)?;
            }
            Kind::StartOver => {
                let vid = fields.number()?;
                order.start_over(vid)?;
                recovered.start_over = Some(vid);
            }
            Kind::Base | Kind::Request => {
                let (vs, procedure) = (fields.viewstamp()?, fields.number()?);
                order.request(vs)?;
                recovered.requests.push(Logged { offset, vs, procedure, args: fields.0.to_vec() });
            }
        }
        Ok((recovered, order))
    }
}

/// Kind, length, checksum and link of a head whose link fits.
fn parse_head(head: &[u8; HEAD_BYTES], before: u32) -> Option<(u8, u32, u32, u32)> {
    let mut fields = Fields(head.get(1..)?);
    let (length, crc, link) = (fields.number().ok()?, fields.number().ok()?, fields.number().ok()?);
    (link == link_of(before, head.get(..LINKED_BYTES)?)).then_some((head[0], length, crc, link))
}

/// Whether a frame that isn't the first can begin with these bytes, fewer than a head has.
fn begins_a_head(seen: &[u8], before: u32) -> bool {
    if seen.len() >= HEAD_BYTES {
        return false;
    }
    let Some((kind, more)) = seen.split_first() else { return true };
    let Some(kind) = Kind::of(*kind).filter(|kind| *kind != Kind::Base) else { return false };
    let length = |fill: u8| {
        let mut bytes = [fill; 4];
        bytes.iter_mut().zip(more).for_each(|(to, from)| *to = *from);
        u32::from_be_bytes(bytes) as usize
    };
    let fits = length(0) <= *kind.lengths().end() && length(0xff) >= *kind.lengths().start();
    let linked = || seen.split_at_checked(LINKED_BYTES);
    fits && linked().is_none_or(|(linked, link)| link_of(before, linked).to_be_bytes().starts_with(link))
}

/// What isn't read yet of some bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number(&mut self) -> Result<u32, String> {
        let (number, rest) = self.0.split_first_chunk().ok_or("too short")?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn owner(&mut self) -> Result<Owner, String> {
        let disk = DiskId(u64::from(self.number()?) << 32 | u64::from(self.number()?));
        let length = usize::try_from(self.number()?).map_err(|_| "too short")?;
        let (name, rest) = self.0.split_at_checked(length).ok_or("too short")?;
        self.0 = rest;
        let name = std::str::from_utf8(name).map_err(|_| "the node's name is no text")?;
        Ok(Owner { name: name.to_owned(), disk })
    }

    fn viewstamp(&mut self) -> Result<Viewstamp, String> {
        Ok(Viewstamp { vid: self.number()?, seqno: self.number()? })
    }
}
