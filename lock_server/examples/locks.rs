//! Uses a lock service: `cargo run --release -p yfs-lock --example locks 21000`

use std::error::Error;
use std::time::Duration;

use rt::time::now;
use yfs_lock::lock_client_cache_rsm::{AcquireError, LockClient, LockClientOptions};

/// `servers` are nodes of the service, by their names; one that answers is enough.
pub(crate) fn use_locks(servers: &[String]) -> Result<(), Box<dyn Error>> {
    let client = LockClient::connect(servers, LockClientOptions::default())?;

    let guard = client.lock(7)?; // waits as long as it takes while the service answers
    println!("{} has lock {}", client.id(), guard.id());
    drop(guard); // the lock stays cached here until somebody else wants it

    if let Some(_guard) = client.try_lock(7)? {
        println!("had it without asking: granted {} times so far", client.stat(7)?);
    }
    match client.acquire_until(8, now() + Duration::from_secs(5)) {
        Ok(()) => client.release(8)?,
        Err(AcquireError::TimedOut) => println!("somebody else has lock 8"),
        Err(error) => return Err(error.into()),
    }
    Ok(()) // dropping the client gives its locks back
}

fn main() -> Result<(), Box<dyn Error>> {
    let servers: Vec<String> = std::env::args().skip(1).collect();
    use_locks(&servers)
}
