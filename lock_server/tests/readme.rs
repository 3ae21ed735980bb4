//! The README's Rust code is that of the examples, and they work.
#![allow(clippy::unwrap_used, reason = "a test, all of it")]

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rsm::Options;

#[path = "../examples/locks.rs"]
#[expect(dead_code, reason = "its main is the example's")]
mod locks;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    String::from_utf8(rt::fs::read(&path).unwrap()).unwrap()
}

#[test]
fn the_readmes_code_is_that_of_the_examples() {
    let readme = text("README.md");
    let examples = text("lock_server/examples/locks.rs") + &text("rsm/examples/counter.rs");
    let blocks: Vec<&str> = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        assert!(examples.contains(block), "not in an example:\n{block}");
    }
}

#[test]
fn the_example_uses_locks() {
    let dir = TempDir::new().unwrap();
    let node = LockServer::start(Options { dir: dir.path().to_owned(), ..Options::new("0", "0") }).unwrap();
    locks::use_locks(&[node.rsm().me().to_owned()]).unwrap();
    node.shutdown();
}

/// What the README says of exit statuses.
#[test]
fn a_wrong_command_line_is_2_and_any_other_failure_1() {
    let status = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(!output.stderr.is_empty(), "{program} says why");
        output.status.code()
    };
    let lock_server = env!("CARGO_BIN_EXE_lock_server");
    assert_eq!(status(lock_server, &["21000"]), Some(2));
    assert_eq!(status(lock_server, &["21000", "port"]), Some(2));
    assert_eq!(status(lock_server, &["65535", "65535"]), Some(1));
    assert_eq!(status(env!("CARGO_BIN_EXE_lock_tester"), &["21000", "6"]), Some(2));
}
