//! A node of the replicated lock service (lab 7's `lock_server`).

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rt::console::{complain, end, say};
use tracing_subscriber::filter::LevelFilter;
use yfs_lock::lock_server_cache_rsm::LockServer;
use yfs_rsm::{Options, Survivor};

use common::{Common, FAILED, server_name};

/// A node of the replicated, caching lock service.
///
/// The first node of a service names itself twice; each further one names a node of the service, and itself. A node that
/// was stopped or killed is started again with the same command line.
#[derive(Parser, Debug)]
#[command(
    name = "lock_server",
    version,
    after_help = "\
A name is a port of this machine, or host:port. All nodes must use the same names for each other.

Example, three nodes on this machine, each in a terminal of its own:
  lock_server 21000 21000
  lock_server 21000 22000
  lock_server 21000 23000
Then ask them for locks:
  lock_demo 21000
  lock_tester 21000

Files, in the folder it is started in:
  paxos-ME.log   the views that the node took part in, and what it promised. Keep it: a node without its log is a
                 new node. If FIRST is ME and there is no log, a new service begins.
  rsm-ME.log     the locks: a state, and the requests since. It belongs to the other file.
If a node's disk is lost, start it again in an empty folder: the others remove it, and add it as a new one. If it is the
one with FIRST = ME, give it another node as FIRST.

When so many disks are lost that no majority is left, the service is out. Then, with all nodes stopped:
  lock_server --start-over ME         shows what the node ME, whose files are here, has
  lock_server --start-over ME --yes   makes ME the only member: start it as always, then the others, each in an empty
                                      folder and with this ME as FIRST. What ME doesn't have is lost for good.

Ports: ME's port serves clients and other nodes. ME's port + 1, on 127.0.0.1 only, lets rsm_tester cut the node off or
make it exit: don't forward it to anybody.

Exit status: 2 after a wrong command line, 1 after any other failure. 0 after --yes says that it is done."
)]
struct Arguments {
    /// A node of the service to join, or ME to be its first.
    #[arg(value_name = "FIRST", value_parser = server_name, required_unless_present = "start_over")]
    first: Option<String>,

    /// This node: the port, or host:port, at which clients and other nodes reach it.
    #[arg(value_name = "ME", value_parser = server_name, required_unless_present = "start_over")]
    me: Option<String>,

    /// A further node to join through, should FIRST be gone (may be repeated).
    #[arg(long, value_name = "NODE", value_parser = server_name)]
    also: Vec<String>,

    /// Show what node ME has, to start over from it when too many disks are lost; see below.
    #[arg(long, value_name = "ME", value_parser = server_name, conflicts_with_all = ["first", "me", "also"])]
    start_over: Option<String>,

    /// Do start over: the other members are removed, and what this node lacks is lost.
    #[arg(long, requires = "start_over")]
    yes: bool,

    #[command(flatten)]
    common: Common,
}

fn main() {
    let arguments = Arguments::parse();
    arguments.common.set_up(LevelFilter::INFO);
    if let Some(me) = &arguments.start_over {
        return start_over(me, arguments.yes);
    }
    let (Some(first), Some(me)) = (&arguments.first, &arguments.me) else { return };
    match start(&arguments, first, me) {
        Ok(server) => serve(&server),
        Err(reason) => fail(&reason),
    }
}

/// The operator's command after too many disks were lost.
fn start_over(me: &str, yes: bool) {
    let survivor = match yfs_rsm::start_over(Path::new("."), me, yes) {
        Ok(survivor) => survivor,
        Err(error) => fail(&error.explain_start_over()),
    };
    let Survivor { vid, members, last, in_sync } = survivor;
    let mut lines = vec![
        format!("last view {vid}: {}", members.join(" ")),
        format!("last request {last}: number {} of view {}; in sync last in view {in_sync}", last.seqno, last.vid),
    ];
    if in_sync < vid {
        lines.push(format!(
            "warning: it was in sync last in view {in_sync}, and its last view is {vid}: requests that were acknowledged \
             since may be missing"
        ));
    }
    if in_sync > vid {
        lines.push(format!(
            "warning: its Paxos log ends before view {in_sync}: it isn't the one that the state was written with, or an old copy"
        ));
    }
    lines.push(if yes {
        format!(
            "{me} is the only member now: start it as always, then the others, each in an empty folder and with {me} as FIRST"
        )
    } else {
        "nothing was changed. The best node to start over from is the one that was in sync in the greatest view; of several, \
         the one with the greatest last request, by its view and then by its number"
            .to_owned()
    });
    // With --yes it is done, whoever hears of it.
    if let Err(unsaid) = lines.iter().try_for_each(say)
        && !yes
    {
        end("lock_server", &unsaid, FAILED);
    }
}

fn start(arguments: &Arguments, first: &str, me: &str) -> Result<LockServer, String> {
    let test_port = test_port(me)?;
    let options = Options {
        test_port: Some(test_port),
        rpc: arguments.common.rpc(),
        on_fatal: Arc::new(|reason| fail(reason)),
        also: arguments.also.clone(),
        ..Options::new(first, me)
    };
    let server = LockServer::start(options).map_err(|error| error.explain())?;
    tracing::info!(first, me, test_port, "lock_server started");
    Ok(server)
}

/// The port after this node's own.
fn test_port(me: &str) -> Result<u16, String> {
    let address = yfs_rpc::names::address(me).map_err(|e| e.to_string())?;
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.and_then(|port| port.checked_add(1))
        .ok_or_else(|| format!("there is no port after {me}'s for the test server: choose a lower one"))
}

/// The node's own threads do all the work.
fn serve(_server: &LockServer) -> ! {
    loop {
        rt::time::sleep(Duration::from_secs(3600));
    }
}

fn fail(reason: &str) -> ! {
    complain(format_args!("lock_server: {reason}"));
    rt::process::exit(FAILED)
}
