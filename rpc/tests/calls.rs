use std::time::Duration;

use yfs_rpc::{Client, Options, Procedure, Server, Status};

const ADD: Procedure<(i32,), i32> = Procedure::new(23);

#[test]
fn a_call_is_answered() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Options::default()).unwrap();
    server.reg(ADD, |n: i32| (Status::OK, n + 1));
    server.start().unwrap();
    let client = Client::new(server.local_addr(), Options::default());
    assert_eq!(client.call(ADD, (1,), Duration::from_secs(20)), Ok((0, 2)));
    assert_eq!(client.call(ADD, (2,), Duration::from_secs(20)), Ok((0, 3)));
    assert!(server.shutdown());
}
