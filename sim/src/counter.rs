//! A replicated counter whose requests are all different, so that one that is executed twice shows.

use std::collections::BTreeMap;
#[expect(clippy::disallowed_types, reason = "of the simulator; it is never held across a switch")]
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use yfs_rpc::Procedure;
use yfs_rpc::marshall::{UnmarshalError, decode, encode};
use yfs_rsm::{Options, Rsm, RsmError, StateMachine};

use crate::kernel::Kernel;
use crate::linear::{self, Add, Conclude, History, check};
use crate::service::{Client, Replica, Service};

/// Steps of the search for an order of all calls.
const STEPS: u64 = 1_000_000;

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
    #[expect(clippy::disallowed_types, reason = "of the simulator; it is never held across a switch")]
    history: Arc<Mutex<History<Add>>>,
}

impl CounterService {
    /// The service.
    pub fn new(kernel: &Kernel) -> Self {
        CounterService { kernel: kernel.clone(), history: Arc::default() }
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
        let history = self.history.clone();
        client.each_thread(move |client, thread| add(&history, client, thread));
    }

    fn unique_requests(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = history.calls().iter().map(|call| ("the total", call.clone()));
        check::<linear::Counter, _>(calls, STEPS).conclude(&self.kernel)
    }
}

/// A thread that adds, and sees the total grow by what it added at least.
#[expect(clippy::disallowed_types, reason = "as above")]
fn add(history: &Mutex<History<Add>>, client: &Client, thread: usize) {
    let history = || history.lock().unwrap_or_else(PoisonError::into_inner);
    let caller = (client.number * 16 + thread) as u32;
    let Some(service) = client.connect() else { return };
    let mut last = 0;
    for request in 0.. {
        if !client.goes_on() {
            return;
        }
        let n = 1 + rt::random::below(9);
        let call = history().invoke(Add { n, total: None });
        let answer = client.request(&format!("add {n}"), || service.call(ADD, (caller, request, n), Client::FOR_EVER));
        match answer {
            Ok((_, total)) if total >= last + n => {
                history().returned(call, |add| add.total = Some(total));
                last = total;
            }
            Ok((_, total)) => client.found(format!("counter: {total} after {last} + {n}")),
            Err(error) => client.found(format!("client {}: {error}", client.number)),
        }
        client.idle(Duration::from_millis(25));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Schedule;

    fn check(totals: [u64; 2]) -> Result<(), String> {
        let kernel = Kernel::new(1, Schedule::default(), false);
        let service = CounterService::new(&kernel);
        for total in totals {
            let mut history = service.history.lock().unwrap();
            let call = history.invoke(Add { n: 2, total: None });
            history.returned(call, |add| add.total = Some(total));
        }
        service.check()
    }

    #[test]
    fn what_clients_saw_is_put_in_an_order() {
        assert_eq!(check([2, 4]), Ok(()));
        // Executed twice.
        assert!(check([2, 6]).unwrap_err().starts_with("not-linearizable: "));
    }
}
