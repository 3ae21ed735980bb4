//! How connections end before their time, and who hears of it.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::mem;
use std::time::Duration;

use rt::net::Event;

use super::{Connection, Kind, Packet, Wire};
use crate::net::{Inner, Watch, address};

impl Inner {
    /// This end has failed: what it has sent, and not yet delivered, is lost.
    pub(super) fn fail_end(&mut self, number: u64, side: usize, error: ErrorKind) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        connection.flows[side].clear();
        self.fail_only_end(number, side, error);
    }

    /// As [`Inner::fail_end`], but what is under way arrives.
    pub(super) fn fail_only_end(&mut self, number: u64, side: usize, error: ErrorKind) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let end = &mut connection.ends[side];
        end.wire = Wire::Dead;
        if !mem::replace(&mut end.failed, true) && !end.shut {
            end.error = Some(error);
        }
        self.fire_end(number, side);
    }

    /// The machine has lost its power: it knows nothing any more. What is under way from it still arrives.
    pub(in crate::net) fn vanish_end(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let end = &mut connection.ends[side];
        end.wire = Wire::Dead;
        end.owned = false;
        end.watch = None;
        end.inbox = VecDeque::new();
        connection.flows[side].forget_frames();
        self.wake_waiters(number, side);
        if side == 1 {
            self.ask_again(number);
        }
        self.probe(number, 1 - side);
        self.forget_if_over(number);
    }

    /// Who waits for room asks for it now and then, and so finds out that nobody is there.
    pub(super) fn probe(&mut self, number: u64, side: usize) {
        if self.connections.get(number).is_some_and(|connection| connection.ends[side].blocked) {
            self.enqueue(number, side, Kind::Data(Vec::new(), None));
        }
    }

    /// Breaks a connection. Bytes that `late` has sent, or perhaps either side, arrive long after the sender knows.
    pub(in crate::net) fn break_connection(&mut self, number: u64, late: Option<usize>) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        if !connection.is_open() {
            return;
        }
        connection.breaks_next = false;
        let has_data =
            |side: &usize| connection.flows[*side].queue.iter().any(|packet| matches!(packet.kind, Kind::Data(..)));
        let sides: Vec<usize> = (0..2).filter(has_data).collect();
        let late = match late {
            Some(side) => sides.contains(&side).then_some(side),
            None if self.kernel.chance(512) => sides.get(self.kernel.below(sides.len() as u64) as usize).copied(),
            None => None,
        };
        self.kernel.count("fault: connection broken");
        self.note_fault(number, 0, || "fault: connection broken".to_owned());
        match late {
            Some(side) => {
                let late_by = self.kernel.between(Duration::from_millis(1), Duration::from_millis(500));
                let soon = self.kernel.now() + late_by;
                let cut = self.kernel.chance(256);
                let roll = self.kernel.roll();
                let Some(connection) = self.connections.get_mut(number) else { return };
                let flow = &mut connection.flows[side];
                flow.forget_frames();
                flow.queue.retain(|packet| matches!(packet.kind, Kind::Data(..)));
                flow.late = true;
                flow.held = false;
                if cut
                    && let Some(Packet { kind: Kind::Data(bytes, info), .. }) = flow.queue.back_mut()
                    && bytes.len() > 1
                {
                    // Half a frame.
                    let kept = 1 + roll as usize % (bytes.len() - 1);
                    flow.queued_bytes -= bytes.len() - kept;
                    bytes.truncate(kept);
                    *info = None;
                }
                flow.delay_until(soon);
                self.enqueue(number, side, Kind::Reset);
                // The other direction's bytes find nobody.
                if let Some(connection) = self.connections.get_mut(number) {
                    connection.flows[1 - side].clear();
                }
                self.fail_only_end(number, side, ErrorKind::ConnectionReset);
            }
            None => {
                self.fail_end(number, 0, ErrorKind::ConnectionReset);
                self.fail_end(number, 1, ErrorKind::ConnectionReset);
            }
        }
        self.forget_if_over(number);
    }

    /// The connection breaks when one side has written the next whole frame, which arrives late.
    pub(in crate::net) fn break_next(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(number) {
            connection.breaks_next = true;
        }
    }

    /// One end forgets the connection, and the other isn't told.
    pub(in crate::net) fn half_open(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        if !connection.is_open() {
            return;
        }
        let side = self.kernel.below(2) as usize;
        self.kernel.count("fault: half-open");
        self.note_fault(number, side, || "fault: half-open".to_owned());
        self.fail_end(number, side, ErrorKind::TimedOut);
        self.probe(number, 1 - side);
        self.forget_if_over(number);
    }

    /// Something has happened to this end.
    pub(in crate::net) fn fire_end(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get(number) else { return };
        let end = &connection.ends[side];
        let (readable, writable) = end.ready();
        if let Some(Watch { poll, token, interest }) = end.watch {
            let event = Event {
                token,
                readable: readable && interest.read || end.failed,
                writable: writable && interest.write || end.failed,
            };
            self.fire(poll, event);
        }
        self.wake_waiters(number, side);
    }

    pub(super) fn wake_waiters(&self, number: u64, side: usize) {
        let key = self.connections.get(number).and_then(|connection| connection.ends[side].key.as_deref());
        if let Some(key) = key {
            self.kernel.unpark(address(key), usize::MAX);
        }
    }

    pub(super) fn forget_if_over(&mut self, number: u64) {
        if self.connections.get(number).is_some_and(Connection::is_over)
            && let Some(connection) = self.connections.remove(number)
        {
            for host in connection.hosts() {
                self.machines[host].connections.remove(&number);
            }
        }
    }
}
