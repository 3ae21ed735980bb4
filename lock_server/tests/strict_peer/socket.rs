//! One connection, waited for.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rt::net::{Interest, TcpStream};
use rt::sync::{Mutex, Rank};
use rt::time::{Instant, now};

use crate::wire::{HEADER, MAX_PDU};

/// How often whoever waits looks whether it should stop.
const TICK: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_secs(1);

pub(crate) struct Socket {
    stream: TcpStream,
    kept: Mutex<Vec<u8>>,
    /// One PDU is written at a time.
    writing: Mutex<()>,
}

impl Socket {
    pub(crate) fn of(stream: TcpStream) -> Socket {
        let kept = Mutex::new(Rank::new(410, "strict.kept"), Vec::new());
        Socket { stream, kept, writing: Mutex::new(Rank::new(411, "strict.writing"), ()) }
    }

    pub(crate) fn connect(addr: SocketAddr) -> io::Result<Socket> {
        let stream = TcpStream::connect(addr)?;
        if !stream.wait(Interest::WRITE, Some(now() + CONNECT))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.take_error()?.map_or(Ok(Socket::of(stream)), Err)
    }

    /// False if the connection is dead.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> bool {
        let _turn = self.writing.lock();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.stream.wait(Interest::WRITE, Some(now() + crate::PATIENCE)).unwrap_or(false) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// The next PDU. An error: the connection is dead (`UnexpectedEof`), or nothing came (`TimedOut`).
    pub(crate) fn pdu(&self, deadline: Instant, stop: impl Fn() -> bool) -> io::Result<Vec<u8>> {
        let mut kept = self.kept.lock();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(field) = kept.first_chunk::<4>() {
                let length = u32::from_be_bytes(*field) as usize;
                assert!((HEADER..=MAX_PDU).contains(&length), "a PDU of {length} bytes");
                if kept.len() >= length {
                    return Ok(kept.drain(..length).collect());
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => kept.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if stop() || now() >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let _ = self.stream.wait(Interest::READ, Some(deadline.min(now() + TICK)));
                }
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    pub(crate) fn close(&self) {
        let _ = self.stream.shutdown();
    }
}
