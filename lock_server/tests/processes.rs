//! Whole processes, killed and started again with the same command line: what is on their disks.
#![allow(clippy::unwrap_used, reason = "a test, all of it")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rt::fs::{self, File};
use tempfile::TempDir;
use yfs_lock::lock_client_cache_rsm::{LockClient, LockClientOptions};
use yfs_lock::lock_protocol::LockId;
use yfs_rpc::Client;
use yfs_rsm::protocol::CLIENT_MEMBERS;

use common::{PATIENCE, eventually, free_port};

const LOCK: LockId = LockId(7);

/// Nodes as processes, each in a folder of its own.
struct Service {
    dir: TempDir,
    names: Vec<String>,
    processes: Vec<Option<Child>>,
}

impl Service {
    fn start(size: usize) -> Service {
        let mut service = Service { dir: TempDir::new().unwrap(), names: Vec::new(), processes: Vec::new() };
        for at in 0..size {
            service.names.push(free_port().to_string());
            service.processes.push(None);
            fs::create_dir_all(&service.folder(at)).unwrap();
            service.run(at, 0);
            service.wait_for_members(size.min(at + 1), at);
        }
        service
    }

    fn folder(&self, at: usize) -> PathBuf {
        self.dir.path().join(at.to_string())
    }

    fn file(&self, at: usize, kind: &str) -> PathBuf {
        self.folder(at).join(format!("{kind}-{}.log", self.names[at]))
    }

    fn command(&self, at: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lock_server"));
        command.args(["--log", "off"]).args(arguments).current_dir(self.folder(at));
        command
    }

    /// Starts a node with `first` as FIRST.
    fn run(&mut self, at: usize, first: usize) {
        let mut command = self.command(at, &[&self.names[first], &self.names[at]]);
        self.processes[at] = Some(command.stderr(Stdio::null()).spawn().unwrap());
    }

    /// What a command of a node says that ends by itself.
    fn output(&self, at: usize, arguments: &[&str]) -> Output {
        self.command(at, arguments).output().unwrap()
    }

    /// kill -9.
    fn kill(&mut self, at: usize) {
        let mut process = self.processes[at].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until `at` says that the view has so many members.
    fn wait_for_members(&self, size: usize, at: usize) {
        let client = Client::new(yfs_rpc::names::resolve(&self.names[at]).unwrap(), yfs_rpc::Options::default());
        eventually("the view has all members", || {
            let answer = client.call(CLIENT_MEMBERS, (0,), Duration::from_secs(1));
            // And the primary once more.
            answer.is_ok_and(|(_, members)| members.len() == size + 1)
        });
    }

    fn client(&self) -> LockClient {
        let options = LockClientOptions { patience: PATIENCE, ..LockClientOptions::default() };
        LockClient::connect(&self.names, options).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// As after a power cut that took the whole service.
#[test]
fn h01_a_lock_is_held_though_all_processes_are_killed() {
    let mut service = Service::start(3);
    let (holder, other) = (service.client(), service.client());
    let guard = holder.lock(LOCK).unwrap();
    for last in 0..3 {
        (0..3).for_each(|at| service.kill(at));
        (0..3).filter(|at| *at != last).for_each(|at| service.run(at, 0));
        service.run(last, 0);
        assert_eq!(other.try_acquire(LOCK), Ok(false), "somebody has it");
        assert_eq!(other.stat(LOCK), Ok(1));
    }
    drop(guard);
    other.acquire(LOCK).unwrap();
    assert_eq!(other.stat(LOCK), Ok(2));
}

/// Two disks of three are lost: the operator's command, as docs/durable-state.md has it.
#[test]
fn the_operator_starts_over_from_the_one_disk_that_is_left() {
    let mut service = Service::start(3);
    let (holder, other) = (service.client(), service.client());
    let guard = holder.lock(LOCK).unwrap();
    service.wait_for_members(3, 1);
    let me = service.names[1].clone();
    assert_eq!(service.output(1, &["--start-over", &me]).status.code(), Some(0), "a look disturbs nobody");
    let running = service.output(1, &["--start-over", &me, "--yes"]);
    assert_eq!(running.status.code(), Some(1));
    assert!(text(&running.stderr).contains("in use by another process: the node runs in this folder: stop it first"));
    service.kill(1);
    let others = service.output(1, &["--start-over", &me, "--yes"]);
    assert_eq!(others.status.code(), Some(1));
    let wanted =
        format!("lock_server: {} answers, a member of the last view: nothing was changed: stop", service.names[0]);
    assert!(text(&others.stderr).starts_with(&wanted), "{others:?}");
    [0, 2].into_iter().for_each(|at| service.kill(at));
    for at in [0, 2] {
        fs::remove_file(&service.file(at, "paxos")).unwrap();
        fs::remove_file(&service.file(at, "rsm")).unwrap();
        let nothing = service.output(at, &["--start-over", &service.names[at], "--yes"]);
        assert_eq!(nothing.status.code(), Some(1));
        let wanted = format!("paxos-{}.log: no log of a node", service.names[at]);
        assert!(text(&nothing.stderr).contains(&wanted), "{nothing:?}");
    }
    let before = (fs::read(&service.file(1, "paxos")).unwrap(), fs::read(&service.file(1, "rsm")).unwrap());
    let shown = service.output(1, &["--start-over", &me]);
    assert_eq!(shown.status.code(), Some(0));
    let lines = text(&shown.stdout);
    let names = service.names.join(" ");
    assert!(lines.starts_with(&format!("last view 3: {names}\nlast request (3,")), "{lines}");
    assert!(lines.contains(" of view 3; in sync last in view 3\nnothing was changed."), "{lines}");
    assert_eq!(before, (fs::read(&service.file(1, "paxos")).unwrap(), fs::read(&service.file(1, "rsm")).unwrap()));
    // As with `| head -0`: nobody reads it, and it is done.
    let mut unread = service.command(1, &["--start-over", &me, "--yes"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(0));
    let done = service.output(1, &["--start-over", &me, "--yes"]);
    assert_eq!(done.status.code(), Some(0));
    assert!(!text(&done.stdout).contains("warning"), "it lacks nothing that it had: {done:?}");
    assert!(text(&done.stdout).contains(&format!("{me} is the only member now: start it as always")));

    service.run(1, 0);
    service.wait_for_members(1, 1);
    assert_eq!(other.try_acquire(LOCK), Ok(false), "the survivor has the locks");
    for at in [0, 2] {
        service.run(at, 1);
    }
    service.wait_for_members(3, 1);
    drop(guard);
    other.acquire(LOCK).unwrap();
    service.kill(1);
    assert_eq!(holder.try_acquire(LOCK), Ok(false), "and the others have them, too");
    assert_eq!(other.stat(LOCK), Ok(2));
}

#[test]
fn a_damaged_file_stops_the_start_with_its_name_and_byte() {
    let mut service = Service::start(1);
    let client = service.client();
    client.acquire(LOCK).unwrap();
    service.kill(0);
    let me = service.names[0].clone();
    let advice = "Only a copy made after the node last ran may be put in its place";
    for (kind, at, begins) in [("rsm", 20, 16), ("paxos", 15, 13)] {
        let path = service.file(0, kind);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        overwrite(&path, &bad);
        let output = service.output(0, &[&me, &me]);
        assert_eq!(output.status.code(), Some(1));
        let wanted = format!("lock_server: ./{kind}-{me}.log: damaged at byte {begins}: no ");
        let said = text(&output.stderr);
        assert!(said.starts_with(&wanted) && said.contains(advice), "{said}");
        overwrite(&path, &good);
    }
    service.run(0, 0);
    assert_eq!(client.stat(LOCK), Ok(1));
}

#[test]
fn a_program_whose_reader_is_gone_ends_quietly_and_gives_its_locks_back() {
    let service = Service::start(1);
    let name = &service.names[0];
    for program in [env!("CARGO_BIN_EXE_lock_demo"), env!("CARGO_BIN_EXE_lock_tester")] {
        let mut child =
            Command::new(program).args([name, "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // As head does, sooner or later.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(141), ""), "{program}");
        assert_eq!(service.client().try_acquire(LockId(1)), Ok(true), "{program}");

        let full =
            Command::new("sh").args(["-c", r#"exec "$0" "$@" >/dev/full"#, program, name, "1"]).output().unwrap();
        let said = text(&full.stderr);
        assert!(full.status.code() == Some(1) && said.contains("standard output can't be written: No space"), "{said}");
    }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    File::create_new(path).unwrap().write_all(bytes).unwrap();
}
