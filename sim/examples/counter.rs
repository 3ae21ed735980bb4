//! How a replicated state machine of one's own is simulated: the counter of rsm/examples/counter.rs, on three to seven
//! nodes that crash, are cut off and lose their disks, one run a seed.
//!
//! cargo run --release --package sim --example counter [SEEDS]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sim::run::{Settings, run_service};
use sim::service::{Client, Replica, Service};
use sim::totals::Totals;
use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, RsmError, StateMachine};

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

/// The service, and what its clients know of it: what they have added, and the greatest total that they have seen.
#[derive(Default)]
struct CounterService(Arc<(AtomicU64, AtomicU64)>);

impl Service for CounterService {
    /// What a node does when it starts, as in a program that isn't simulated.
    fn start(&self, options: Options) -> Result<Arc<dyn Replica>, RsmError> {
        let rsm = Rsm::new(options, Counter(0))?;
        rsm.reg(ADD, |counter: &mut Counter, (n,): (u64,)| {
            counter.0 += n;
            (0, counter.0)
        });
        rsm.start()?;
        Ok(Arc::new(rsm))
    }

    /// What a client does, as long as the run goes on.
    fn client(&self, client: &Client) {
        let seen = self.0.clone();
        client.each_thread(move |client, _thread| {
            let Some(service) = client.connect() else { return };
            let mut last = 0;
            while client.goes_on() {
                let n = 1 + rt::random::below(9);
                match client.request(&format!("add {n}"), || service.call(ADD, (n,), Client::FOR_EVER)) {
                    Ok((_, total)) if total >= last + n => {
                        last = total;
                        seen.0.fetch_add(n, Ordering::Relaxed);
                        seen.1.fetch_max(total, Ordering::Relaxed);
                    }
                    Ok((_, total)) => client.found(format!("{last}, and {n} added, is {total}")),
                    Err(error) => client.found(format!("a request failed: {error}")),
                }
                client.idle(Duration::from_millis(25));
            }
        });
    }

    /// What has to be so at the end. The total may be greater: a request that is sent again may be executed again.
    fn check(&self) -> Result<(), String> {
        let (added, total) = (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed));
        if total < added { Err(format!("{added} was added, and the total is {total}")) } else { Ok(()) }
    }
}

/// Runs the seeds from 1.
pub fn simulate(seeds: u64) -> Totals {
    let mut totals = Totals::default();
    for seed in 1..=seeds {
        totals.take(&run_service(seed, &Settings::default(), Arc::new(CounterService::default())));
    }
    totals
}

fn main() -> ExitCode {
    let Ok(seeds) = std::env::args().nth(1).map_or(Ok(50), |text| text.parse()) else {
        eprintln!("counter: the argument is a number of seeds");
        return ExitCode::from(2);
    };
    let totals = simulate(seeds);
    let (acknowledged, faults) = (totals.acknowledged, totals.faults());
    println!("{seeds} seeds: {acknowledged} requests acknowledged, {} view changes, {faults} faults", totals.views);
    totals.findings.iter().for_each(|(seed, finding)| println!("FOUND: seed {seed}: {finding}"));
    if totals.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
