//! The nodes of a service, as processes of this machine, each in a folder of its own under a temporary one.
//!
//! Whatever ends this program ends them: dropping a [`Cluster`] does, by process id, and the kernel does if the program is
//! killed. The main thread alone starts processes, since they end with the thread that started them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rt::console::complain;
use rt::fs;
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rpc::{Handles, PollMgr, Procedure};
use yfs_rsm::protocol::{CLIENT_MEMBERS, Viewstamp};
use yfs_rsm::{Options, StateMachine};

use crate::os::{self, Port, Signal};
use crate::trouble::{Trouble, await_within, ensure};

/// How long a node may take to name the members.
const MEMBERS_PATIENCE: Duration = Duration::from_millis(300);
/// How long a test port may take.
const TEST_PORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a new service may take to have all its members.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// So much of a dead node's output is shown.
const SHOWN_LINES: usize = 5;

/// What the nodes run: its arguments go before FIRST and ME.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Whether logs and disks are kept though all went well.
    pub(crate) keep: bool,
}

#[derive(Debug)]
struct Node {
    port: Port,
    name: String,
    folder: PathBuf,
    process: Option<Child>,
}

/// A service.
#[derive(Debug)]
pub(crate) struct Cluster {
    program: Program,
    nodes: Vec<Node>,
    handles: Handles,
    folder: PathBuf,
    passed: bool,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) rss_kib: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
    pub(crate) disk_kib: u64,
}

impl Cluster {
    /// Starts a service of so many nodes, and returns when all are members.
    pub(crate) fn start(program: &Program, count: usize) -> Result<Cluster, Trouble> {
        let folder = tempfile::Builder::new().prefix("yfs-torture-").tempdir().map_err(no_folder)?.keep();
        let to_nodes = yfs_rpc::Options { refused_patience: Some(Duration::ZERO), ..yfs_rpc::Options::default() };
        let handles = Handles::new(&PollMgr::shared(), to_nodes);
        // Made first: from here on it is tidied up.
        let mut cluster = Cluster { program: program.clone(), nodes: Vec::new(), handles, folder, passed: false };
        for number in 0..count {
            let port = os::draw_port().map_err(|e| e.to_string())?;
            let name = port.number.to_string();
            let folder = cluster.folder.join(&name);
            fs::create_dir_all(&folder).map_err(no_folder)?;
            cluster.nodes.push(Node { port, name, folder, process: None });
            cluster.start_node(number)?;
            cluster.await_members(number + 1, START_PATIENCE)?;
        }
        Ok(cluster)
    }

    /// The nodes' names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    pub(crate) fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    // --- what is done to nodes ---

    /// Starts a node, always with the same command line.
    pub(crate) fn start_node(&mut self, node: usize) -> Result<(), Trouble> {
        let first = self.nodes[0].name.clone();
        let output = self.output_of(node);
        let Node { name, folder, process, .. } = &mut self.nodes[node];
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.arguments).args([&first, &*name]).current_dir(folder).stdin(Stdio::null());
        os::write_output_to(&mut command, &output).map_err(|e| format!("{}: {e}", output.display()))?;
        let started = os::spawn(&mut command);
        *process = Some(started.map_err(|e| format!("{} can't be started: {e}", self.program.path.display()))?);
        Ok(())
    }

    /// Kills a node with SIGKILL, and returns when it has ended.
    pub(crate) fn kill(&mut self, node: usize) -> Result<(), Trouble> {
        self.kill_all(&[node])
    }

    /// Kills nodes with SIGKILL at once, and returns when they have ended.
    pub(crate) fn kill_all(&mut self, nodes: &[usize]) -> Result<(), Trouble> {
        self.watch()?;
        let failed = |e: std::io::Error| Trouble::Failed(format!("a node can't be killed: {e}"));
        for node in nodes {
            self.nodes[*node].process.as_mut().map_or(Ok(()), Child::kill).map_err(failed)?;
        }
        for node in nodes {
            if let Some(mut process) = self.nodes[*node].process.take() {
                process.wait().map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(crate) fn signal(&self, node: usize, signal: Signal) -> Result<(), Trouble> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        os::send(process, signal).map_err(|e| Trouble::Failed(format!("{signal:?} of a node: {e}")))
    }

    /// Asks something of a node's test port; 0 breaks, 1 heals.
    pub(crate) fn test_port(&self, node: usize, procedure: Procedure<(i32,), i32>, heal: i32) -> Result<(), Trouble> {
        let port = (self.nodes[node].port.number + 1).to_string();
        // Each time anew: a node may have been restarted since.
        self.handles.forget(&port);
        let client = self.handles.client(&port).map_err(|e| e.to_string())?;
        let answer = client.call(procedure, (heal,), TEST_PORT_PATIENCE);
        ensure(matches!(answer, Ok((0, _))), || format!("test port {port} answered {answer:?}"))
    }

    // --- what nodes say ---

    /// Fails if a node has ended by itself.
    pub(crate) fn watch(&mut self) -> Result<(), Trouble> {
        for number in 0..self.nodes.len() {
            let Some(process) = &mut self.nodes[number].process else { continue };
            if let Ok(Some(status)) = process.try_wait() {
                self.nodes[number].process = None;
                let output = fs::read(&self.output_of(number)).unwrap_or_default();
                let output = String::from_utf8_lossy(&output);
                let lines: Vec<&str> = output.lines().collect();
                let last = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().join("\n  ");
                let name = self.name(number);
                return Err(Trouble::Failed(format!("node {name} ended by itself with {status}:\n  {last}")));
            }
        }
        Ok(())
    }

    /// The members that a node names, the primary first.
    pub(crate) fn members_by(&self, node: usize) -> Option<Vec<String>> {
        self.nodes[node].process.as_ref()?;
        let client = self.handles.client(self.name(node)).ok()?;
        let (_, mut members) = client.call(CLIENT_MEMBERS, (0,), MEMBERS_PATIENCE).ok()?;
        let primary = members.pop()?;
        members.retain(|member| *member != primary);
        members.insert(0, primary);
        Some(members)
    }

    /// Waits until all nodes, as many as that, run and name each other, and gives them: the primary first.
    pub(crate) fn await_members(&mut self, count: usize, within: Duration) -> Result<Vec<usize>, Trouble> {
        let mut members = Vec::new();
        let mut said = Vec::new();
        let waited = await_within(within, "all nodes are members", || {
            self.watch()?;
            said = (0..count).map(|node| self.members_by(node)).collect();
            members = said.first().cloned().flatten().unwrap_or_default();
            let number = |name: &String| self.nodes.iter().position(|node| node.name == *name);
            let numbers: Vec<usize> = members.iter().filter_map(number).collect();
            Ok(numbers.len() == count && said.iter().all(|names| names.as_ref() == Some(&members)))
        });
        if let Err(Trouble::Failed(what)) = waited {
            return Err(Trouble::Failed(format!("{what}; they say {said:?}")));
        }
        waited?;
        Ok(members.iter().filter_map(|name| self.nodes.iter().position(|node| node.name == *name)).collect())
    }

    /// As [`Cluster::await_members`], of all nodes.
    pub(crate) fn await_whole(&mut self, within: Duration) -> Result<Vec<usize>, Trouble> {
        self.await_members(self.nodes.len(), within)
    }

    /// How many views a node's Paxos log has.
    pub(crate) fn views(&self, node: usize) -> usize {
        let Node { name, folder, .. } = &self.nodes[node];
        let log = fs::read(&folder.join(format!("paxos-{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.starts_with("done ")).count()
    }

    /// What a node's process uses, and its folder.
    pub(crate) fn usage(&self, node: usize) -> Option<Usage> {
        let Node { folder, process, .. } = &self.nodes[node];
        let usage = usage_of(&process.as_ref()?.id().to_string())?;
        Some(Usage { disk_kib: os::disk_use(folder).ok()? / 1024, ..usage })
    }

    /// Kills all nodes, and compares the locks that they have on their disks; gives the last request. Clients must have
    /// their answers: what nobody waits for any more may be on some disks only.
    pub(crate) fn compare_states(&mut self) -> Result<Viewstamp, Trouble> {
        self.kill_all(&(0..self.len()).collect::<Vec<_>>())?;
        let states = (0..self.len()).map(|node| self.state_on_disk(node)).collect::<Result<Vec<_>, _>>()?;
        let stamps: Vec<String> = states.iter().map(|(last, state)| format!("{last}/{} bytes", state.len())).collect();
        ensure(states.iter().all(|state| *state == states[0]), || format!("the nodes' states differ: {stamps:?}"))?;
        Ok(states[0].0)
    }

    /// What a node that doesn't run would start with: a node in this process, alone, takes it over from the disk.
    fn state_on_disk(&self, node: usize) -> Result<(Viewstamp, Vec<u8>), Trouble> {
        let Node { name, folder, .. } = &self.nodes[node];
        let options = Options { dir: folder.clone(), ..Options::new(self.name(0), name) };
        let on_fatal = Arc::new(|reason: &str| complain(format_args!("a node that was only looked at: {reason}")));
        let server = LockServer::start(Options { on_fatal, ..options })
            .map_err(|e| format!("the disk of node {name} can't be read: {e}"))?;
        let last = server.rsm().last_executed();
        let state = server.rsm().inspect(StateMachine::marshal_state);
        server.shutdown();
        Ok((last, state))
    }

    /// All is well: the folder isn't needed any more.
    pub(crate) fn passed(mut self) {
        self.passed = true;
    }

    /// A node's output. Not in its folder, which is measured.
    fn output_of(&self, node: usize) -> PathBuf {
        self.folder.join(format!("{}.out", self.nodes[node].name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
        let well = self.passed || (os::interrupted() && !std::thread::panicking());
        if well && !self.program.keep {
            remove(&self.folder);
        } else {
            complain(format_args!("    logs and disks of the nodes are in {}", self.folder.display()));
        }
    }
}

/// Removes a folder with what is in it; what can't be removed stays.
fn remove(folder: &Path) {
    #[expect(clippy::disallowed_methods, reason = "no node removes folders, so rt has nothing for it")]
    if let Err(error) = std::fs::remove_dir_all(folder) {
        complain(format_args!("{}: can't be removed: {error}", folder.display()));
    }
}

fn no_folder(error: std::io::Error) -> Trouble {
    Trouble::Failed(format!("no temporary folder: {error}"))
}

/// What a process uses, but for disks: `self` or its id.
pub(crate) fn usage_of(process: &str) -> Option<Usage> {
    let folder = Path::new("/proc").join(process);
    let status = String::from_utf8(fs::read(&folder.join("status")).ok()?).ok()?;
    let descriptors = fs::list(&folder.join("fd")).ok()?.len() as u64;
    let (rss_kib, threads) = (field(&status, "VmRSS:")?, field(&status, "Threads:")?);
    Some(Usage { rss_kib, threads, descriptors, disk_kib: 0 })
}

/// A number in /proc/PID/status.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = usage_of("self").expect("there is /proc");
        assert!(usage.rss_kib > 100 && usage.threads >= 1 && usage.descriptors >= 3, "{usage:?}");
        assert_eq!(field("Name:\tx\nVmRSS:\t  1234 kB\nThreads:\t5\n", "VmRSS:"), Some(1234));
        assert_eq!(field("Name:\tx\n", "VmRSS:"), None);
    }
}
