//! What such a program needs of the operating system and no node does: processes and signals, ports that others leave
//! alone, and what a process uses.
#![expect(unsafe_code, clippy::disallowed_types, clippy::disallowed_methods, reason = "the testers' own door")]

use std::fs::OpenOptions;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ports below those that the kernel hands out: nobody takes a dead node's.
const PORTS: std::ops::Range<u64> = 10_000..32_000;

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on Ctrl-C and the like are only noted.
pub fn catch_interrupts() {
    let handler: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only writes an atomic.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether somebody wants this program to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Starts a process that a Ctrl-C doesn't reach, and that ends with the calling thread, however that ends.
///
/// # Errors
/// What the operating system says.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let kill_with_parent = || {
        // SAFETY: prctl with these arguments reads and writes no memory of ours.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes one system call, and takes no lock and no memory.
    unsafe { command.pre_exec(kill_with_parent) };
    command.process_group(0).spawn()
}

/// From now on the command's standard output and standard error are appended to a file.
///
/// # Errors
/// When the file can't be written.
pub fn write_output_to(command: &mut Command, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    command.stdout(file.try_clone()?).stderr(file);
    Ok(())
}

/// What is sent to a process.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// It runs no more.
    Stop,
    /// It runs again.
    Continue,
    /// Ctrl-C.
    Interrupt,
}

/// Sends a signal to a process that was started here and not waited for: its id is still its own.
///
/// # Errors
/// What the operating system says.
pub fn send(child: &Child, signal: Signal) -> io::Result<()> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let number = match signal {
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
        Signal::Interrupt => libc::SIGINT,
    };
    // SAFETY: kill reads and writes no memory of ours.
    match unsafe { libc::kill(pid, number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A port, and the next one, which other testers of this project leave alone as long as this lives (as Cluster.pm does).
#[derive(Debug)]
pub struct Port {
    /// The first one of the two.
    pub number: u16,
    _reservations: [UdpSocket; 2],
}

/// A port that is free, as is the next one.
///
/// # Errors
/// When none is found.
pub fn draw_port() -> io::Result<Port> {
    let draw = || {
        let number = u16::try_from(PORTS.start + rt::random::below(PORTS.end - PORTS.start)).ok()?;
        let hold = |port: u16| {
            let reservation = UdpSocket::bind(("0.0.0.0", port)).ok()?;
            TcpListener::bind(("127.0.0.1", port)).ok()?;
            Some(reservation)
        };
        Some(Port { number, _reservations: [hold(number)?, hold(number + 1)?] })
    };
    (0..1000).find_map(|_| draw()).ok_or_else(|| io::Error::other("no two free ports in a row were found"))
}

/// How many bytes the files in a folder take on the disk.
///
/// # Errors
/// What the operating system says.
pub fn disk_use(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        // A file may vanish between the two calls.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.blocks() * 512);
    }
    Ok(bytes)
}
