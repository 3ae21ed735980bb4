//! From a writer's bytes to packets, and what befalls whole frames on the way.

use std::mem;
use std::time::Duration;

use super::{Fate, Frame, Kind};
use crate::net::Inner;
use crate::net::frames::procedure;

/// Frames longer than this pass without faults: nobody holds them whole.
const LONGEST_HIT: usize = 256 << 10;
/// Requests of a connection whose procedure is remembered for the reply's name.
const REMEMBERED: usize = 1024;
/// A delayed frame, or its copy, comes later by up to one of these, in microseconds: some when the caller has long given up
/// and asked again.
const LATE: [u64; 5] = [1_000, 10_000, 100_000, 2_000_000, 10_000_000];
/// A reordered frame waits so long for the next one.
const LONGEST_REORDERING: Duration = Duration::from_millis(50);

impl Inner {
    /// Takes bytes from a writer.
    pub(super) fn send(&mut self, number: u64, side: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(connection) = self.connections.get_mut(number) else { return };
            let same = connection.ends[0].host == connection.ends[1].host;
            let breaks = connection.breaks_next;
            let flow = &mut connection.flows[side];
            if flow.framer.at_start() && !flow.framer.is_plain() {
                let faults = if side == 0 { self.conditions.requests } else { self.conditions.replies };
                let hits = [faults.dropped, faults.doubled, faults.delayed, faults.reordered];
                flow.fate = Fate::Pass;
                if !same && hits != [0; 4] {
                    let mut roll = self.kernel.below(1024);
                    for (share, fate) in hits.into_iter().zip([Fate::Drop, Fate::Double, Fate::Delay, Fate::Reorder]) {
                        if roll < share {
                            flow.fate = fate;
                            break;
                        }
                        roll -= share;
                    }
                }
            }
            let (length, info) = flow.framer.cut(bytes);
            let (piece, rest) = bytes.split_at(length);
            bytes = rest;
            if let Some(info) = info
                && side == 0
            {
                connection.asked.insert(info.xid, procedure(info.word));
                if connection.asked.len() > REMEMBERED {
                    connection.asked.pop_first();
                }
            }
            if flow.fate == Fate::Pass {
                self.enqueue(number, side, Kind::Data(piece.to_vec(), info));
            } else {
                flow.captured.extend_from_slice(piece);
                if flow.framer.is_plain() || flow.captured.len() > LONGEST_HIT {
                    flow.fate = Fate::Pass;
                    let bytes = mem::take(&mut flow.captured);
                    self.enqueue(number, side, Kind::Data(bytes, info));
                } else if let Some(info) = info {
                    let fate = mem::take(&mut flow.fate);
                    let frame = Frame { bytes: mem::take(&mut flow.captured), info };
                    if !self.befall(number, side, fate, frame) {
                        // Nothing has passed, and so nobody was overtaken.
                        continue;
                    }
                }
            }
            if info.is_some() {
                self.release_pending(number, side);
                if breaks {
                    return self.break_connection(number, Some(side));
                }
            }
        }
    }

    /// Deals with a frame that doesn't just pass. False if nothing of it was sent yet.
    pub(super) fn befall(&mut self, number: u64, side: usize, fate: Fate, frame: Frame) -> bool {
        let [request, reply] = match fate {
            Fate::Pass => ["", ""],
            Fate::Drop => ["fault: request dropped", "fault: reply dropped"],
            Fate::Double => ["fault: request doubled", "fault: reply doubled"],
            Fate::Delay => ["fault: request delayed", "fault: reply delayed"],
            Fate::Reorder => ["fault: request reordered", "fault: reply reordered"],
        };
        let what = if side == 0 { request } else { reply };
        self.kernel.count(what);
        self.note_fault(number, side, || format!("{what} xid={}", frame.info.xid));
        let micros = Duration::from_micros;
        let later = micros(100);
        match fate {
            Fate::Drop => false,
            Fate::Pass | Fate::Double => {
                let copy = frame.bytes.clone();
                self.enqueue(number, side, Kind::Data(copy, Some(frame.info)));
                if self.kernel.chance(512) {
                    self.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
                } else {
                    let most = micros(LATE[self.kernel.below(LATE.len() as u64) as usize]);
                    let pause = self.kernel.between(later, most);
                    self.put_off(number, side, frame, pause);
                }
                true
            }
            Fate::Delay => {
                let most = micros(LATE[self.kernel.below(LATE.len() as u64) as usize]);
                let pause = self.kernel.between(later, most);
                self.put_off(number, side, frame, pause);
                false
            }
            Fate::Reorder => {
                let held = self.put_off(number, side, frame, LONGEST_REORDERING);
                if let Some(connection) = self.connections.get_mut(number) {
                    connection.flows[side].reordered.push(held);
                }
                false
            }
        }
    }

    /// Sends a frame later.
    pub(super) fn put_off(&mut self, number: u64, side: usize, frame: Frame, pause: Duration) -> u64 {
        let held = self.number();
        if let Some(connection) = self.connections.get_mut(number) {
            connection.flows[side].delayed.insert(held, frame);
        }
        self.after(pause, move |inner| {
            let Some(connection) = inner.connections.get_mut(number) else { return };
            let flow = &mut connection.flows[side];
            let Some(frame) = flow.delayed.remove(&held) else { return };
            flow.reordered.retain(|other| *other != held);
            if flow.is_amid() {
                flow.pending.push(frame);
            } else {
                inner.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
            }
            inner.forget_if_over(number);
        });
        held
    }

    /// A frame has passed: those come that have waited for this.
    pub(super) fn release_pending(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let flow = &mut connection.flows[side];
        if flow.pending.is_empty() && flow.reordered.is_empty() {
            return;
        }
        let mut frames = mem::take(&mut flow.pending);
        for held in mem::take(&mut flow.reordered) {
            frames.extend(flow.delayed.remove(&held));
        }
        for frame in frames {
            self.enqueue(number, side, Kind::Data(frame.bytes, Some(frame.info)));
        }
    }
}
