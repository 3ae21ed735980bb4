//! A replicated counter: three replicas in one process, one of them stopped while a client adds to it.

use std::error::Error;
use std::time::Duration;

use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, RsmClient, StateMachine};

struct Counter(u64);

impl StateMachine for Counter {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        encode(&self.0)
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        self.0 = decode(state)?;
        Ok(())
    }
}

const ADD: Procedure<(u64,), u64> = Procedure::new(1);

/// A replica on a free port of this machine; the first one begins the service, the others join through it.
fn replica(first: &str, dir: &tempfile::TempDir) -> Result<Rsm<Counter>, Box<dyn Error>> {
    let rsm = Rsm::new(Options { dir: dir.path().into(), ..Options::new(first, "0") }, Counter(0))?;
    rsm.reg(ADD, |counter: &mut Counter, (n,): (u64,)| {
        counter.0 += n;
        (0, counter.0)
    });
    rsm.start()?;
    Ok(rsm)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let first = replica("0", &dir)?;
    let others = [replica(first.me(), &dir)?, replica(first.me(), &dir)?];
    let (ten_seconds, tick) = (Duration::from_secs(10), Duration::from_millis(10));
    while others[1].view().1.len() < 3 {
        rt::time::sleep(tick);
    }

    let client = RsmClient::connect(&[first.me().to_owned()], ten_seconds)?;
    for n in 1..=10 {
        let (_, total) = client.call(ADD, (n,), ten_seconds)?;
        println!("added {n}: {total}");
        if n == 5 {
            println!("the primary, {}, stops: {}", first.me(), first.shutdown());
        }
    }
    println!("view {:?}", others[0].view());
    for replica in &others {
        replica.shutdown();
    }
    Ok(())
}
