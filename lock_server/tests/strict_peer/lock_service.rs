//! Locks as the lab has them: a lock server alone behind client_invoke, and a client that asks in the lab's way.

use std::collections::BTreeMap;
use std::sync::Arc;

use rt::sync::{Condvar, Mutex, Rank};
use rt::time::now;

use crate::PATIENCE;
use crate::client::{Answer, StrictClient};
use crate::server::{Reserved, StrictServer};
use crate::wire::{
    ACQUIRE, CLIENT_BUSY, CLIENT_INVOKE, CLIENT_MEMBERS, Dec, Enc, LOCK_NOENT, LOCK_RETRY, LOCK_RPCERR, OK, RELEASE,
    RETRY, REVOKE, STAT, garbage, only,
};

/// revoke or retry, to a client: procedure, client, lock, xid.
pub(crate) type Hint = (u32, String, u64, u64);

#[derive(Default)]
struct Lock {
    owner: Option<(String, u64)>,
    waiting: Vec<(String, u64)>,
    /// The last xid of each client, and what it was answered.
    last: BTreeMap<String, (u64, i32)>,
    granted: i32,
}

/// The state of a lock server of the lab.
#[derive(Default)]
pub(crate) struct Locks(BTreeMap<u64, Lock>);

impl Locks {
    /// What client_invoke returns in its string, and what clients have to be told.
    pub(crate) fn execute(&mut self, procedure: u32, args: &[u8]) -> (Vec<u8>, Vec<Hint>) {
        let mut dec = Dec::new("a lock request", args);
        let id = dec.u64();
        if procedure == STAT {
            dec.end();
            let granted = self.0.get(&id).map_or(0, |lock| lock.granted);
            return (Enc::new().i32(OK).bytes(&Enc::new().i32(granted).0).0, Vec::new());
        }
        let (client, xid) = (dec.text(), dec.u64());
        dec.end();
        assert!(client.starts_with("127.0.0.1:"), "{client}");
        let lock = self.0.entry(id).or_default();
        let (status, hints) = match procedure {
            ACQUIRE => lock.acquire(id, &client, xid),
            RELEASE => lock.release(id, &client, xid),
            other => panic!("{other:#x} is not a lock procedure"),
        };
        (Enc::new().i32(status).bytes(&Enc::new().u32(garbage()).0).0, hints)
    }
}

impl Lock {
    fn acquire(&mut self, id: u64, client: &str, xid: u64) -> (i32, Vec<Hint>) {
        match self.last.get(client) {
            Some((last, _)) if xid < *last => return (LOCK_RPCERR, Vec::new()),
            Some((last, status)) if xid == *last => return (*status, Vec::new()),
            _ => {}
        }
        let (status, hints) = match &self.owner {
            Some((owner, owners_xid)) => {
                assert_ne!(owner, client, "a client that has the lock asks for it");
                self.waiting.retain(|(waiting, _)| waiting != client);
                self.waiting.push((client.to_owned(), xid));
                (LOCK_RETRY, vec![(REVOKE, owner.clone(), id, *owners_xid)])
            }
            None => {
                self.waiting.retain(|(waiting, _)| waiting != client);
                self.owner = Some((client.to_owned(), xid));
                self.granted += 1;
                let wanted = !self.waiting.is_empty();
                (OK, if wanted { vec![(REVOKE, client.to_owned(), id, xid)] } else { Vec::new() })
            }
        };
        self.last.insert(client.to_owned(), (xid, status));
        (status, hints)
    }

    fn release(&mut self, id: u64, client: &str, xid: u64) -> (i32, Vec<Hint>) {
        match self.last.get(client) {
            None => return (LOCK_NOENT, Vec::new()),
            Some((last, _)) if xid < *last => return (LOCK_RPCERR, Vec::new()),
            _ => {}
        }
        self.waiting.retain(|(waiting, _)| waiting != client);
        if self.owner.as_ref().is_some_and(|(owner, _)| owner == client) {
            self.owner = None;
        }
        let next = self.waiting.first().filter(|_| self.owner.is_none());
        (OK, next.map(|(next, xid)| (RETRY, next.clone(), id, *xid)).into_iter().collect())
    }
}

/// Tells a client, on a thread of its own; who doesn't answer isn't told.
pub(crate) fn send_hint((procedure, client, id, xid): Hint) {
    let tell = move || {
        let to = StrictClient::of(&client);
        if to.bind(PATIENCE / 10).is_ok() {
            let (status, result) = to.call(procedure, Enc::new().u64(id).u64(xid), PATIENCE).unwrap();
            assert_eq!(status, OK, "{procedure:#x}");
            only("a hint's result", &result, |dec| dec.u32());
        }
    };
    rt::thread::spawn("strict hint", tell).unwrap();
}

/// One lock server of the lab, the only member of its view.
pub(crate) struct LabLockService {
    pub(crate) server: StrictServer,
    locks: Arc<Mutex<Locks>>,
}

impl LabLockService {
    /// `busy`: so many of the first requests are answered BUSY.
    pub(crate) fn start(busy: usize) -> LabLockService {
        let port = Reserved::any();
        let me = port.port().to_string();
        let locks = Arc::new(Mutex::new(Rank::new(300, "strict.locks"), Locks::default()));
        let busy_left = Mutex::new(Rank::new(299, "strict.busy"), busy);
        let table = locks.clone();
        let handler = move |procedure: u32, args: &[u8]| -> Answer {
            let mut dec = Dec::new("a client's request", args);
            match procedure {
                CLIENT_MEMBERS => {
                    dec.i32();
                    dec.end();
                    (OK, Enc::new().u32(2).text(&me).text(&me).0)
                }
                CLIENT_INVOKE => {
                    let (inner, inner_args) = (dec.u32(), dec.bytes());
                    dec.end();
                    let mut left = busy_left.lock();
                    if *left > 0 {
                        *left -= 1;
                        return (CLIENT_BUSY, Enc::new().bytes(&[]).0);
                    }
                    drop(left);
                    let (answer, hints) = table.lock().execute(inner, &inner_args);
                    hints.into_iter().for_each(send_hint);
                    (OK, Enc::new().bytes(&answer).0)
                }
                other => panic!("procedure {other:#x} stops a C++ server"),
            }
        };
        LabLockService { server: port.serve(Arc::new(handler)), locks }
    }

    pub(crate) fn granted(&self, lock: u64) -> i32 {
        self.locks.lock().0.get(&lock).map_or(0, |lock| lock.granted)
    }
}

/// client_invoke, taken apart: its status, and what is in its string if that is OK.
pub(crate) fn client_invoke(to: &StrictClient, procedure: u32, args: Enc) -> (i32, Option<Answer>) {
    taken_apart(to.call(CLIENT_INVOKE, Enc::new().u32(procedure).bytes(&args.0), PATIENCE).unwrap())
}

/// The same request again, as after a lost answer.
pub(crate) fn client_invoke_again(to: &StrictClient, procedure: u32, args: Enc) -> (i32, Option<Answer>) {
    taken_apart(to.again(CLIENT_INVOKE, Enc::new().u32(procedure).bytes(&args.0), PATIENCE).unwrap())
}

fn taken_apart((status, result): Answer) -> (i32, Option<Answer>) {
    assert!(status >= 0, "client_invoke: error {status}");
    // A whole string, whatever the status.
    let answer = only("client_invoke's result", &result, |dec| dec.bytes());
    if status != OK {
        assert!(answer.is_empty(), "status {status} with {answer:02x?}");
        return (status, None);
    }
    let inner = only("client_invoke's string", &answer, |dec| (dec.i32(), dec.bytes()));
    (status, Some(inner))
}

type Heard = (Mutex<Vec<(u32, u64, u64)>>, Condvar);

/// A lock client as the lab has it: it asks again only when it is told to.
pub(crate) struct LabLockClient {
    pub(crate) rsm: StrictClient,
    pub(crate) id: String,
    /// Serves as long as the client lives.
    _server: StrictServer,
    heard: Arc<Heard>,
}

impl LabLockClient {
    pub(crate) fn new(node: &str) -> LabLockClient {
        let heard: Arc<Heard> = Arc::new((Mutex::new(Rank::new(300, "strict.heard"), Vec::new()), Condvar::new()));
        let hearing = heard.clone();
        let server = StrictServer::start(Arc::new(move |procedure, args| {
            assert!([REVOKE, RETRY].contains(&procedure), "procedure {procedure:#x} stops a C++ client");
            let (lock, xid) = only("a hint", args, |dec| (dec.u64(), dec.u64()));
            hearing.0.lock().push((procedure, lock, xid));
            hearing.1.notify_all();
            (OK, Enc::new().u32(garbage()).0)
        }));
        let id = format!("127.0.0.1:{}", server.name());
        LabLockClient { rsm: StrictClient::bound(node), id, _server: server, heard }
    }

    fn ask(&self, procedure: u32, lock: u64, xid: u64) -> i32 {
        let args = Enc::new().u64(lock).text(&self.id).u64(xid);
        let (status, answer) = client_invoke(&self.rsm, procedure, args);
        assert_eq!(status, OK);
        let (status, result) = answer.unwrap();
        only("an int", &result, |dec| dec.i32());
        status
    }

    pub(crate) fn acquire(&self, lock: u64, xid: u64) -> i32 {
        self.ask(ACQUIRE, lock, xid)
    }

    pub(crate) fn release(&self, lock: u64, xid: u64) -> i32 {
        self.ask(RELEASE, lock, xid)
    }

    pub(crate) fn stat(&self, lock: u64) -> i32 {
        let (status, answer) = client_invoke(&self.rsm, STAT, Enc::new().u64(lock));
        let (inner, result) = answer.unwrap();
        assert_eq!((status, inner), (OK, OK));
        only("stat's int", &result, |dec| dec.i32())
    }

    /// Waits until the server has told this client so.
    pub(crate) fn hears(&self, procedure: u32, lock: u64, xid: u64) {
        let mut heard = self.heard.0.lock();
        let deadline = now() + PATIENCE;
        while !heard.contains(&(procedure, lock, xid)) {
            let notified = self.heard.1.wait_until(&mut heard, deadline);
            assert!(notified, "{} never hears {procedure:#x} with xid {xid}: {:?}", self.id, *heard);
        }
    }
}

/// client_members: the members, and the primary.
pub(crate) fn client_members(to: &StrictClient) -> (Vec<String>, String) {
    let (status, result) = to.call(CLIENT_MEMBERS, Enc::new().i32(0), PATIENCE).unwrap();
    assert_eq!(status, OK);
    let mut members = only("client_members", &result, |dec| dec.texts());
    let primary = members.pop().expect("the primary");
    (members, primary)
}
