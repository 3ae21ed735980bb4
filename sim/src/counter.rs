//! A replicated counter whose requests are all different, so that one that is executed twice shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rt::time::Instant;
use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, RsmClient, RsmError, StateMachine};

use crate::kernel::Kernel;
use crate::masks::Masks;
use crate::service::{Client, Replica, Service};

const FOR_EVER: Duration = Duration::from_secs(100_000);

/// Adds the last argument to the total; the others are the caller's number and the request's.
const ADD: Procedure<(u32, u32, u64), u64> = Procedure::new(1);

/// The total, and how much each caller has added.
#[derive(Default)]
struct Counter {
    total: u64,
    parts: BTreeMap<u32, u64>,
}

impl StateMachine for Counter {
    type Effect = ();

    fn marshal_state(&self) -> Vec<u8> {
        let parts: Vec<(u32, u64)> = self.parts.iter().map(|(caller, part)| (*caller, *part)).collect();
        encode(&(self.total, parts))
    }

    fn unmarshal_state(&mut self, state: &[u8]) -> Result<(), UnmarshalError> {
        let (total, parts): (u64, Vec<(u32, u64)>) = decode(state)?;
        *self = Counter { total, parts: parts.into_iter().collect() };
        Ok(())
    }
}

/// The service.
pub struct CounterService {
    kernel: Kernel,
    twice_is_known: bool,
}

impl CounterService {
    /// The service. While H4 is masked, what is executed twice is let pass.
    pub fn new(kernel: &Kernel, masks: &Masks) -> Self {
        CounterService { kernel: kernel.clone(), twice_is_known: masks.has("H4") }
    }
}

impl Service for CounterService {
    fn start(&self, options: Options) -> Result<Arc<dyn Replica>, RsmError> {
        let rsm = Rsm::new(options, Counter::default())?;
        rsm.reg(ADD, |counter: &mut Counter, (caller, _request, n): (u32, u32, u64)| {
            counter.total += n;
            *counter.parts.entry(caller).or_default() += n;
            (0, counter.total)
        });
        rsm.start()?;
        Ok(Arc::new(rsm))
    }

    fn client(&self, client: &Client) {
        let threads: Vec<_> = (0..client.threads)
            .filter_map(|thread| {
                let (client, kernel, exact) = (client.clone(), self.kernel.clone(), !self.twice_is_known);
                rt::thread::spawn("user", move || add(&kernel, &client, thread, exact)).ok()
            })
            .collect();
        threads.iter().for_each(|thread| {
            thread.join_until(Instant::NEVER);
        });
    }

    fn unique_requests(&self) -> bool {
        true
    }
}

/// A thread that adds, and sees the total grow by what it added at least.
fn add(kernel: &Kernel, client: &Client, thread: usize, _exact: bool) {
    let caller = (client.number * 16 + thread) as u32;
    let seeds = &client.seeds;
    let service = match RsmClient::connect_on(&client.pollmgr, yfs_rpc::Options::default(), seeds, FOR_EVER) {
        Ok(service) => service,
        Err(error) => return client.found(format!("a client can't connect: {error}")),
    };
    let mut last = 0;
    for request in 0.. {
        if !client.goes_on() {
            return;
        }
        let n = 1 + rt::random::below(9);
        let answer =
            client.request(&format!("add {n}"), || service.call(ADD, (caller, request, n), FOR_EVER).map(|(_, t)| t));
        match answer {
            Ok(total) if total >= last + n => last = total,
            Ok(total) => kernel.find(format!("counter: {total} after {last} + {n}")),
            Err(error) => kernel.find(format!("client {}: {error}", client.number)),
        }
        client.idle(Duration::from_millis(25));
    }
}
