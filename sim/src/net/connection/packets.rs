//! Packets under way: when they arrive, what holds them up, and what they do where they arrive.

use std::io::ErrorKind;
use std::mem;
use std::time::Duration;

use rt::time::Instant;

use super::{Flow, Kind, Packet, Wire};
use crate::net::frames::{Info, OTHER, procedure};
use crate::net::{BACKLOG, CONNECT_TIME_OUT, Inner, STALL_TIME_OUT};

/// Content that goes into the run's hash, of each packet.
const HASHED: usize = 1 << 10;

impl Inner {
    /// Puts a packet on its way.
    pub(super) fn enqueue(&mut self, number: u64, side: usize, kind: Kind) {
        let Some(connection) = self.connections.get(number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        let (delay, slow) = self.delay(from, to);
        if slow && matches!(kind, Kind::Data(..)) {
            self.kernel.count("fault: slow link delivery");
        }
        let arrives = self.kernel.now() + delay;
        let Some(connection) = self.connections.get_mut(number) else { return };
        let flow = &mut connection.flows[side];
        if matches!(kind, Kind::Reset) && mem::replace(&mut flow.resets, true) {
            return;
        }
        flow.last_arrival = flow.last_arrival.max(arrives);
        if let Kind::Data(bytes, _) = &kind {
            flow.queued_bytes += bytes.len();
        }
        flow.queue.push_back(Packet { arrives: flow.last_arrival, kind });
        self.schedule(number, side);
    }

    /// Sets the timer of the next arrival.
    pub(super) fn schedule(&mut self, number: u64, side: usize) {
        let pump = self.number();
        let Some(connection) = self.connections.get_mut(number) else { return };
        let flow = &mut connection.flows[side];
        let Some(first) = flow.queue.front() else { return };
        if flow.held || flow.pump != 0 {
            return;
        }
        flow.pump = pump;
        let arrives = first.arrives;
        self.at(arrives, move |inner| inner.pump(number, side, pump));
    }

    /// Delivers what has arrived.
    pub(super) fn pump(&mut self, number: u64, side: usize, pump: u64) {
        let now = self.kernel.now();
        match self.connections.get_mut(number) {
            Some(connection) if connection.flows[side].pump == pump => connection.flows[side].pump = 0,
            _ => return,
        }
        while let Some(connection) = self.connections.get_mut(number) {
            let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
            let flow = &mut connection.flows[side];
            if flow.held || flow.pump != 0 || flow.queue.front().is_none_or(|packet| packet.arrives > now) {
                break;
            }
            if !self.is_open(from, to) {
                self.hold(number, side);
                break;
            }
            let Some(connection) = self.connections.get_mut(number) else { break };
            let flow = &mut connection.flows[side];
            let Some(packet) = flow.queue.pop_front() else { break };
            match &packet.kind {
                Kind::Data(bytes, _) => flow.queued_bytes -= bytes.len(),
                Kind::Reset => flow.resets = false,
                _ => {}
            }
            if matches!(packet.kind, Kind::Data(..) | Kind::Fin) {
                if self.is_open(to, from) {
                    self.acknowledged(number, side);
                } else {
                    self.stall(number, side);
                }
            }
            self.deliver(number, side, packet.kind);
        }
        self.schedule(number, side);
        self.forget_if_over(number);
    }

    /// Nothing gets through: what is under way waits.
    pub(super) fn hold(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        let wire = connection.ends[side].wire;
        let flow = &mut connection.flows[side];
        if wire == Wire::Dead {
            // Nobody is left who would send it again, but a question is answered with a reset again.
            flow.queue.retain(|packet| matches!(packet.kind, Kind::Reset | Kind::Refused));
            flow.queued_bytes = 0;
            flow.forget_frames();
        }
        let Some(first) = flow.queue.front() else { return };
        flow.held = true;
        let handshake = matches!(first.kind, Kind::Syn | Kind::SynAck | Kind::Refused);
        let what = match (self.machines[to].off, handshake) {
            (true, _) => "fault: packets to a machine that is off",
            (false, true) => "fault: link cut held a connect",
            (false, false) => "fault: link cut held bytes",
        };
        self.kernel.count(what);
        self.kernel.note(&self.machines[from].name, || format!("-> {} {what}", self.machines[to].name));
        if handshake {
            self.time_out_connect(number);
        } else if wire != Wire::Dead {
            self.stall(number, side);
        }
    }

    pub(super) fn acknowledged(&mut self, number: u64, side: usize) {
        if let Some(connection) = self.connections.get_mut(number) {
            connection.flows[side].stalled = None;
        }
    }

    /// What `side` has sent isn't acknowledged for now.
    pub(super) fn stall(&mut self, number: u64, side: usize) {
        let stall = self.number();
        let Some(connection) = self.connections.get_mut(number) else { return };
        let flow = &mut connection.flows[side];
        if flow.stalled.is_some() {
            return;
        }
        flow.stalled = Some(stall);
        self.after(STALL_TIME_OUT, move |inner| {
            let Some(connection) = inner.connections.get_mut(number) else { return };
            if connection.flows[side].stalled == Some(stall) {
                inner.kernel.count("fault: connection timed out");
                inner.note_fault(number, side, || "the connection times out".to_owned());
                inner.fail_end(number, side, ErrorKind::TimedOut);
                inner.forget_if_over(number);
            }
        });
    }

    pub(super) fn time_out_connect(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        if mem::replace(&mut connection.times_out, true) {
            return;
        }
        self.after(CONNECT_TIME_OUT, move |inner| {
            let Some(connection) = inner.connections.get(number) else { return };
            if connection.ends[0].wire == Wire::Connecting {
                inner.kernel.count("fault: connect timed out");
                inner.note_fault(number, 0, || "the connection attempt times out".to_owned());
                inner.fail_end(number, 0, ErrorKind::TimedOut);
                inner.forget_if_over(number);
            }
        });
    }

    /// Packets pass again from one machine to another.
    pub(in crate::net) fn heal(&mut self, from: usize, to: usize) {
        if !self.is_open(from, to) {
            return;
        }
        for number in self.between(from, to) {
            let Some(connection) = self.connections.get(number) else { continue };
            for side in 0..2 {
                if connection.ends[side].host != from || connection.ends[1 - side].host != to {
                    continue;
                }
                self.resume(number, side);
                self.tell_of_room(number, 1 - side);
                if let Some(connection) = self.connections.get_mut(number)
                    && !connection.flows[1 - side].held
                {
                    // The acknowledgement gets through.
                    connection.flows[1 - side].stalled = None;
                }
                break;
            }
        }
    }

    /// What was held is sent again, soon.
    pub(super) fn resume(&mut self, number: u64, side: usize) {
        let soon = self.kernel.now() + self.kernel.between(Duration::from_millis(1), Duration::from_millis(200));
        let Some(connection) = self.connections.get_mut(number) else { return };
        let flow = &mut connection.flows[side];
        if mem::replace(&mut flow.held, false) {
            flow.delay_until(soon);
            self.schedule(number, side);
        }
    }

    pub(super) fn deliver(&mut self, number: u64, side: usize, kind: Kind) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let there = 1 - side;
        let [from, to] = [connection.ends[side].host, connection.ends[there].host];
        let wire = connection.ends[there].wire;
        self.kernel.stir(number << 1 | side as u64);
        match kind {
            Kind::Syn => self.asked_for(number),
            Kind::SynAck if wire == Wire::Connecting => {
                connection.ends[there].wire = Wire::Open;
                // It needn't ask again.
                let flow = &mut connection.flows[there];
                flow.queue.retain(|packet| !matches!(packet.kind, Kind::Syn));
                let held = flow.held;
                self.kernel.note(&self.machines[to].name, || format!("connected to {}", self.machines[from].name));
                self.enqueue(number, there, Kind::Ack);
                if held {
                    self.stall(number, there);
                }
                self.fire_end(number, there);
            }
            Kind::Ack => {
                let Wire::Asked(listener) = wire else { return self.enqueue(number, there, Kind::Reset) };
                connection.ends[there].wire = Wire::Open;
                connection.ends[there].owned = true;
                match self.ports.get_mut(&listener) {
                    Some(port) => {
                        port.accepted.push_back(number);
                        self.fire_port(listener);
                    }
                    None => self.reset_end(number, there),
                }
            }
            Kind::Refused | Kind::Reset if wire == Wire::Connecting => {
                self.kernel.note(&self.machines[to].name, || format!("refused by {}", self.machines[from].name));
                self.fail_end(number, there, ErrorKind::ConnectionRefused);
            }
            Kind::Refused => {}
            Kind::Data(bytes, info) => {
                let end = &mut connection.ends[there];
                if wire != Wire::Open || end.shut {
                    // Nobody will read it.
                    if wire == Wire::Open {
                        self.fail_end(number, there, ErrorKind::BrokenPipe);
                    }
                    return self.enqueue(number, there, Kind::Reset);
                }
                if bytes.is_empty() {
                    // A question for room; see `probe`.
                    return;
                }
                end.inbox.extend(&bytes);
                self.kernel.stir(hash(&bytes));
                if mem::take(&mut connection.flows[side].late) {
                    self.kernel.count("fault: late bytes of a broken connection");
                    self.note_fault(number, side, || "late bytes of a broken connection".to_owned());
                }
                if let Some(info) = info {
                    self.count_frame(number, side, info);
                }
                self.fire_end(number, there);
            }
            Kind::Fin if wire == Wire::Open => {
                connection.ends[there].ended = true;
                self.fire_end(number, there);
            }
            Kind::Fin if wire == Wire::Closed => {}
            Kind::SynAck | Kind::Fin => self.enqueue(number, there, Kind::Reset),
            Kind::Reset if wire == Wire::Dead => {}
            Kind::Reset => {
                self.kernel.note(&self.machines[to].name, || format!("reset by {}", self.machines[from].name));
                self.fail_end(number, there, ErrorKind::ConnectionReset);
            }
        }
    }

    /// The first packet has come to the machine that is to be connected to.
    pub(super) fn asked_for(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let [from, to] = connection.hosts();
        let machine = &self.machines[to];
        let listener = machine.listeners.get(&connection.ends[1].addr.port()).copied();
        let refuses = self.kernel.now() < machine.refuses_until;
        match listener {
            Some(_) if connection.ends[1].wire != Wire::Dead => {}
            Some(listener) if !refuses => {
                if self.ports.get(&listener).is_some_and(|port| port.accepted.len() >= BACKLOG) {
                    // It is asked again a second later.
                    self.after(Duration::from_secs(1), move |inner| inner.ask_again(number));
                    return;
                }
                connection.ends[1].wire = Wire::Asked(listener);
                self.enqueue(number, 1, Kind::SynAck);
            }
            _ => {
                if listener.is_some() {
                    self.kernel.count("fault: connect refused");
                    self.kernel.note(&machine.name, || format!("fault: refuses {}", self.machines[from].name));
                }
                self.enqueue(number, 1, Kind::Refused);
            }
        }
    }

    /// Side 0 still waits for an answer: it asks again.
    pub(in crate::net) fn ask_again(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        if connection.ends[0].wire != Wire::Connecting {
            return;
        }
        if !connection.flows[0].queue.iter().any(|packet| matches!(packet.kind, Kind::Syn)) {
            self.enqueue(number, 0, Kind::Syn);
        }
    }

    /// Counts a frame that has arrived.
    pub(super) fn count_frame(&self, number: u64, side: usize, info: Info) {
        let Some(connection) = self.connections.get(number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        let procedure = match side {
            0 => procedure(info.word),
            _ => connection.asked.get(&info.xid).copied().unwrap_or(&OTHER),
        };
        self.kernel.count(if side == 0 { procedure.message } else { procedure.reply });
        self.kernel.note(&self.machines[from].name, || {
            let Info { xid, word, length } = info;
            let what = if side == 0 { String::new() } else { format!(" reply {}", word as i32) };
            format!("-> {} {}{what} xid={xid} {length} bytes", self.machines[to].name, procedure.name)
        });
    }

    pub(super) fn note_fault(&self, number: u64, side: usize, what: impl FnOnce() -> String) {
        let Some(connection) = self.connections.get(number) else { return };
        let [from, to] = [connection.ends[side].host, connection.ends[1 - side].host];
        self.kernel.note(&self.machines[from].name, || format!("-> {} {}", self.machines[to].name, what()));
    }
}

impl Flow {
    /// Nothing that is under way arrives before this.
    pub(super) fn delay_until(&mut self, at: Instant) {
        self.pump = 0;
        self.last_arrival = self.last_arrival.max(at);
        for packet in &mut self.queue {
            packet.arrives = packet.arrives.max(at);
        }
    }
}

/// A number that tells bytes from others.
fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes[..bytes.len().min(HASHED)].as_chunks::<8>();
    let rest = rest.iter().fold(bytes.len() as u64, |word, byte| word << 8 ^ u64::from(*byte));
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    words.fold(rest, |hash, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
