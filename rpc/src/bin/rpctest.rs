//! Tests the RPC runtime, also against one written in another language (lab 1: `rpctest.cc`).
//!
//! A server with four procedures and a client that tries them, in one process or in two; each may be the lab's. The
//! tests are the lab's, in its order: marshalling, simple calls, ten threads on two clients, the same while connections
//! are cut, and, where the server is in this process, dead and restarted servers.
//!
//! Deviations from the lab: the test under loss has the calls of the one without, from ten threads, and not one thread
//! for ten seconds; a loss asked for in the environment holds for all tests; nobody listens on the port where nobody
//! may answer, because it is taken.

use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rt::console::{self, Unsaid};
use rt::net::TcpPort;
use rt::time::now;
use yfs_rpc::pdu::{self, ClientNonce, HEADER_BYTES, RequestHeader, ServerNonce, Xid};
use yfs_rpc::{CallError, Client, Options, Procedure, Server, Status, TO_MAX, marshall};

/// Concatenates two strings.
const CONCAT: Procedure<(String, String), String> = Procedure::new(22);
/// Adds 1 at once.
const FAST: Procedure<(i32,), i32> = Procedure::new(23);
/// Sleeps a little and adds 2.
const SLOW: Procedure<(i32,), i32> = Procedure::new(24);
/// Returns so many `x`.
const BIG_REPLY: Procedure<(i32,), String> = Procedure::new(25);

/// How long `SLOW` sleeps at most.
const MAX_NAP: Duration = Duration::from_millis(5);
/// What `BIG_REPLY` returns at most; it fits a PDU.
const MAX_REPLY_BYTES: i32 = 10_000_000;
/// For calls that must not time out although they could.
const SHORT: Duration = Duration::from_secs(3);
const BIG_REPLY_TIME: Duration = Duration::from_secs(200);

const CLIENTS: usize = 2;
const THREADS: usize = 10;
/// The loss of `-l`, and at least that of the test under loss.
const LOSS_PERCENT: u8 = 5;

/// Tests the RPC runtime. Alone, it runs a server and the client that tests it; with -s and -c the two may be two
/// processes, and one of them the lab's.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Run the server; alone: until it is killed
    #[arg(short)]
    server: bool,
    /// Run the client, against the server at -p
    #[arg(short)]
    client: bool,
    /// The server's port; without it the server takes any free one
    #[arg(short, value_name = "PORT", required_if_eq("client", "true"))]
    port: Option<NonZeroU16>,
    /// How much to log: 0 warnings, 1 states, 2 requests, 3 everything
    #[arg(short, value_name = "LEVEL", default_value_t = 0)]
    debug: u8,
    /// Lose connections: as RPC_LOSSY=5
    #[arg(short)]
    lossy: bool,
    /// Shut the connection down before so many percent of the sends
    #[arg(long, value_name = "PERCENT", env = "RPC_LOSSY", default_value = "0", value_parser = percent)]
    rpc_lossy: u8,
    /// Log the number of calls of each procedure after every so many requests
    #[arg(long, value_name = "N", env = "RPC_COUNT", default_value = "0", value_parser = count)]
    rpc_count: u32,
}

/// As the lab reads its variables: nothing is 0.
fn count(text: &str) -> Result<u32, String> {
    if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| "a number is wanted".to_owned()) }
}

fn percent(text: &str) -> Result<u8, String> {
    let percent = count(text)?;
    u8::try_from(percent).ok().filter(|percent| *percent < 100).ok_or_else(|| "0 to 99 are wanted".to_owned())
}

fn main() {
    let mut args = Args::parse();
    (args.server, args.client) = (args.server || !args.client, args.client || !args.server);
    log_to_stderr(args.debug, args.rpc_count);
    let lossy_percent = if args.lossy { LOSS_PERCENT } else { args.rpc_lossy };
    let options = Options { lossy_percent, count_every: args.rpc_count, ..Options::default() };

    test_marshalling();
    let mut addr = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port.map_or(0, NonZeroU16::get)));
    let mut server = None;
    if args.server {
        let started = start_server(addr, &options);
        addr.set_port(started.local_addr().port());
        say(format_args!("starting server on port {} RPC_HEADER_SZ {HEADER_BYTES}", addr.port()));
        server = Some(started);
    }
    if args.client {
        Tester { addr, options, server }.run();
        say("rpctest OK");
        return;
    }
    loop {
        rt::time::sleep(Duration::from_secs(3600));
    }
}

fn log_to_stderr(level: u8, rpc_count: u32) {
    let level = match level {
        0 if rpc_count == 0 => tracing::Level::WARN,
        0 | 1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt().log_internal_errors(false).with_max_level(level).with_writer(io::stderr).init();
}

/// The lab's VERIFY: the first thing that is wrong ends the program.
fn verify(holds: bool, what: impl Display) {
    if !holds {
        fail(what);
    }
}

fn fail(what: impl Display) -> ! {
    console::complain(format_args!("rpctest: {what}"));
    rt::process::exit(1)
}

fn start_server(addr: SocketAddr, options: &Options) -> Server {
    let start = || -> io::Result<Server> {
        let server = Server::bind(addr, options.clone())?;
        server.reg(CONCAT, |one: String, other: String| (Status::OK, one + &other));
        server.reg(FAST, |n: i32| (Status::OK, n.wrapping_add(1)));
        server.reg(SLOW, |n: i32| {
            rt::time::sleep(rt::random::duration_below(MAX_NAP));
            (Status::OK, n.wrapping_add(2))
        });
        server.reg(BIG_REPLY, |bytes: i32| {
            // Never negative, so the cast keeps it.
            (Status::OK, "x".repeat(bytes.clamp(0, MAX_REPLY_BYTES) as usize))
        });
        server.start()?;
        Ok(server)
    };
    start().unwrap_or_else(|error| fail(format_args!("port {}: {error}", addr.port())))
}

fn test_marshalling() {
    let header = RequestHeader {
        xid: Xid(1),
        procedure: 2,
        client_nonce: ClientNonce(3),
        server_nonce: ServerNonce(4),
        xid_rep: Xid(5),
    };
    let values = (12345_i32, 1_223_344_455_u64, "hallo....".to_owned());
    let Ok(bytes) = pdu::request(&header, &values) else { fail("marshalling: a small request is too long") };
    verify(bytes.len() == HEADER_BYTES + 4 + 8 + 4 + values.2.len(), "marshalling: the length is wrong");
    let Some((read, args)) = RequestHeader::parse(&bytes) else { fail("marshalling: the request is no request") };
    verify(read == header, "marshalling: the header has changed");
    verify(marshall::decode(args) == Ok(values), "marshalling: the values have changed");
}

struct Tester {
    addr: SocketAddr,
    options: Options,
    /// Set if the server is in this process.
    server: Option<Server>,
}

impl Tester {
    fn run(mut self) {
        let clients = self.bind_clients(&self.options);
        simple_tests(&clients[0], &self.options);
        say_part(format_args!("start concurrent_test ({THREADS} threads) ..."));
        concurrent_test(&clients);
        say(" OK");
        drop(clients);
        let clients = self.lossy_test();
        let Some(server) = self.server.take() else { return };
        self.failure_test(server, clients);
    }

    fn bind_clients(&self, options: &Options) -> Vec<Arc<Client>> {
        (0..CLIENTS).map(|_| bound_client(self.addr, options)).collect()
    }

    /// Returns clients that live on.
    fn lossy_test(&mut self) -> Vec<Arc<Client>> {
        say_part("start lossy_test ...");
        let options = Options { lossy_percent: self.options.lossy_percent.max(LOSS_PERCENT), ..self.options.clone() };
        if let Some(server) = self.server.take() {
            stop(server);
            self.server = Some(start_server(self.addr, &options));
        }
        concurrent_test(&self.bind_clients(&options));
        say(".. OK");
        self.bind_clients(&self.options)
    }

    fn failure_test(&self, server: Server, clients: Vec<Arc<Client>>) {
        say("failure_test");
        let [old, ..] = &clients[..] else { fail("no clients") };
        stop(server);

        let refused = Client::new(self.addr, self.options.clone()).bind(SHORT);
        verify(refused == Err(CallError::Bind), format_args!("bind to a dead server: {refused:?}"));
        say("   -- create new client and try to bind to failed server .. failed ok");

        let server = start_server(self.addr, &self.options);
        let reply = old.call(CONCAT, ("hello".into(), " goodbye".into()), TO_MAX);
        verify(reply == Err(CallError::OldServer), format_args!("old client, restarted server: {reply:?}"));
        say("   -- call recovered server with old client .. failed ok");

        drop(clients);
        let client = bound_client(self.addr, &self.options);
        test_concat(&client);
        say("   -- delete existing rpc client, create replacement rpc client .. ok");

        say_part(format_args!("   -- concurrent test on new rpc client w/ {THREADS} threads .."));
        impatient_test(&client);
        say("ok");

        stop(server);
        drop(client);
        let server = start_server(self.addr, &self.options);
        let client = bound_client(self.addr, &self.options);
        say("   -- delete existing rpc client and server, create replacements.. ok");

        say_part(format_args!("   -- concurrent test on new client and server w/ {THREADS} threads .."));
        impatient_test(&client);
        say("ok");
        stop(server);
        say("failure_test OK");
    }
}

fn bound_client(addr: SocketAddr, options: &Options) -> Arc<Client> {
    let client = Client::new(addr, options.clone());
    if let Err(error) = client.bind(TO_MAX) {
        fail(format_args!("bind to port {}: {error}", addr.port()));
    }
    Arc::new(client)
}

fn stop(server: Server) {
    verify(server.shutdown(), "the server's threads don't end");
}

fn simple_tests(client: &Client, options: &Options) {
    say("simple_tests");
    test_concat(client);
    say("   -- string concat RPC .. ok");

    let reply = client.call(BIG_REPLY, (70_000,), BIG_REPLY_TIME);
    verify(reply == Ok((0, "x".repeat(70_000))), "70,000-byte reply: it is another");
    say("   -- small request, big reply .. ok");

    let reply = client.call(FAST, (77,), SHORT);
    verify(reply == Ok((0, 78)), format_args!("call with a short time-out: {reply:?}"));
    say("   -- no spurious timeout .. ok");

    let reply = client.call(CONCAT, ("x".repeat(1000), "x".into()), SHORT);
    verify(reply == Ok((0, "x".repeat(1001))), "bigger call with a short time-out: the reply is another");
    say("   -- no spurious timeout .. ok");

    let big = "x".repeat(1_000_000);
    let reply = client.call(CONCAT, (big.clone(), "z".into()), TO_MAX);
    verify(reply == Ok((0, big + "z")), "1 MB request: the reply is another");
    say("   -- huge 1M rpc request .. ok");

    // Taken, but nobody listens there.
    let port = TcpPort::bind((Ipv4Addr::LOCALHOST, 0).into());
    let Ok(nobody) = port.as_ref().map_err(ToString::to_string).and_then(|p| p.local_addr().map_err(|e| e.to_string()))
    else {
        fail("no free port");
    };
    let began = now();
    let bound = Client::new(nobody, options.clone()).bind(SHORT);
    verify(bound == Err(CallError::Bind), format_args!("bind to nobody: {bound:?}"));
    verify(began.elapsed() < 2 * SHORT, format_args!("bind to nobody took {:?}", began.elapsed()));
    say("   -- rpc timeout .. ok");
    say("simple_tests OK");
}

fn test_concat(client: &Client) {
    let reply = client.call(CONCAT, ("hello".into(), " goodbye".into()), TO_MAX);
    verify(reply == Ok((0, "hello goodbye".into())), format_args!("string concat: {reply:?}"));
}

/// Many calls in parallel, whose replies come in another order.
fn concurrent_test(clients: &[Arc<Client>]) {
    in_threads(|number| {
        let client = clients[number % clients.len()].clone();
        move || {
            for _ in 0..100 {
                let bytes = random_below(2000);
                let reply = client.call(BIG_REPLY, (bytes,), TO_MAX);
                let asked = "x".repeat(bytes as usize);
                verify(reply == Ok((0, asked)), format_args!("{bytes} bytes asked for, {reply:?}"));
            }
            for _ in 0..100 {
                let n = random_below(1000);
                let (procedure, answer) = if random_below(2) == 0 { (FAST, n + 1) } else { (SLOW, n + 2) };
                let reply = client.call(procedure, (n,), TO_MAX);
                verify(reply == Ok((0, answer)), format_args!("{answer} expected, {reply:?}"));
            }
        }
    });
}

/// Calls that may time out, but must not be answered wrongly.
fn impatient_test(client: &Arc<Client>) {
    in_threads(|_| {
        let client = client.clone();
        move || {
            for n in 0..4 {
                let reply = client.call(SLOW, (n,), SHORT);
                let right = matches!(reply, Err(CallError::Timeout | CallError::Bind)) || reply == Ok((0, n + 2));
                verify(right, format_args!("{} expected, {reply:?}", n + 2));
            }
        }
    });
}

fn in_threads<Work: FnOnce() + Send + 'static>(mut work: impl FnMut(usize) -> Work) {
    let threads: Vec<_> = (0..THREADS).map(|number| rt::thread::spawn("client", work(number))).collect();
    // Every call ends in TO_MAX, and one of these threads makes 200.
    let deadline = now() + 200 * TO_MAX;
    for thread in threads {
        match thread {
            Ok(thread) => verify(thread.join_until(deadline), "a client's thread doesn't end"),
            Err(error) => fail(format_args!("no thread: {error}")),
        }
    }
}

fn random_below(bound: u32) -> i32 {
    // Small, so the cast keeps it.
    rt::random::below(u64::from(bound)) as i32
}

/// What nobody reads ends the program, too.
fn say(line: impl Display) {
    heard(console::say(line));
}

fn say_part(part: impl Display) {
    heard(console::say_part(part));
}

fn heard(said: Result<(), Unsaid>) {
    said.unwrap_or_else(|unsaid| console::end("rpctest", &unsaid, 1));
}
