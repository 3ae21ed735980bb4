//! What stands behind rt in a run: the scheduler, the network and the disks, together a backend.

use std::any::Any;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rt::backend::{self, Backend, Event, File, Listener, Poll, Stream};
use rt::thread::Node;
use rt::time::Instant;

use crate::disk::Disks;
use crate::kernel::{Kernel, Report};
use crate::net::Net;
use crate::recording::Recording;
use crate::trace::{LogLine, Recorded};

/// Is told what happens in the code under test (see [`rt::probe::observe`]), on the node's own thread.
pub type Observer = Arc<dyn Fn(&Node, &dyn Any) + Send + Sync>;

/// The world of one run. Clones are the same one.
#[derive(Clone)]
pub struct World {
    /// Threads, time, dice.
    pub kernel: Kernel,
    /// The network.
    pub net: Net,
    /// The disks.
    pub disks: Disks,
    /// What happens, for a picture.
    pub recording: Recording,
    observer: Option<Observer>,
    weakened: Option<&'static str>,
}

/// The address of a node's machine: its name, up to the port.
pub fn host_of(node: &Node) -> Option<IpAddr> {
    let name = node.name();
    name.parse().ok().or_else(|| name.parse::<SocketAddr>().ok().map(|addr| addr.ip()))
}

impl World {
    /// A world with an empty network and empty disks.
    pub fn new(kernel: Kernel) -> Self {
        let (net, disks) = (Net::new(&kernel), Disks::new(&kernel));
        World { net, disks, kernel, recording: Recording::default(), observer: None, weakened: None }
    }

    /// Sets who is told of the events of the code under test.
    #[must_use]
    pub fn with_observer(self, observer: Observer) -> Self {
        World { observer: Some(observer), ..self }
    }

    /// Keeps what happens.
    #[must_use]
    pub fn with_recording(self, recording: Recording) -> Self {
        World { recording, ..self }
    }

    /// Puts a known mistake back; see [`rt::probe::weakened`].
    #[must_use]
    pub fn with_mistake(self, name: Option<&'static str>) -> Self {
        World { weakened: name, ..self }
    }

    /// Runs `program` as the first thread of `node`, and all that it spawns, until somebody calls [`Kernel::end`] or
    /// finds something wrong, at most until `limit`.
    pub fn run(self, node: &Node, limit: Instant, program: impl FnOnce() + Send + 'static) -> Report {
        let kernel = self.kernel.clone();
        let _entered = backend::enter(Rc::new(self));
        if let Err(error) = node.spawn("main", program) {
            kernel.find(format!("no first thread: {error}"));
        }
        kernel.run(limit);
        kernel.report()
    }
}

impl Backend for World {
    fn now(&self) -> Instant {
        self.kernel.local_now()
    }

    fn machine_clock(&self) -> Duration {
        self.kernel.now().since_start()
    }

    fn random(&self) -> u64 {
        self.kernel.roll()
    }

    fn spawn(&self, node: &Node, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.kernel.spawn(node, name, body);
        Ok(())
    }

    fn park(&self, key: usize, deadline: Option<Instant>) -> bool {
        self.kernel.park(key, deadline)
    }

    fn unpark(&self, key: usize, count: usize) {
        self.kernel.unpark(key, count);
    }

    fn yield_point(&self) {
        self.kernel.yield_point();
    }

    fn exit(&self, status: i32) -> ! {
        self.kernel.exit(status)
    }

    fn observe(&self, event: &dyn Event) {
        let node = Node::current();
        if (event as &dyn Any).is::<LogLine>() {
            return self.kernel.line(node.name(), || format!("  {event:?}"));
        }
        if let Some(Recorded(event)) = (event as &dyn Any).downcast_ref() {
            return self.recording.push(|| event.clone());
        }
        self.kernel.note(node.name(), || format!("{event:?}"));
        if let Some(observer) = &self.observer {
            observer(&node, event);
        }
    }

    fn is_weakened(&self, name: &str) -> bool {
        self.weakened == Some(name)
    }

    fn file_limit(&self) -> u64 {
        1024
    }

    fn poll(&self) -> io::Result<Box<dyn Poll>> {
        Ok(Box::new(self.net.poll()))
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(self.net.bind(addr)?))
    }

    fn connect(&self, addr: SocketAddr) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.net.connect(addr)?))
    }

    fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        host_port.parse().map(|addr| vec![addr]).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(self.disks.open(path, false)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(self.disks.open(path, true)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disks.read(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.disks.exists(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.disks.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disks.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disks.remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disks.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disks.sync_dir(path)
    }
}
