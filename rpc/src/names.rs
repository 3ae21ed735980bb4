//! Node names, as on the lab's command lines: `21000` is port 21000 of this machine, `10.0.0.5:4000` is itself.

use std::io;
use std::net::SocketAddr;

/// A name that is neither a port nor `host:port`, with the port as it is usually written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a port nor host:port")]
pub struct BadName(pub String);

/// The `host:port` that a name stands for. Only the form is checked.
///
/// # Errors
/// [`BadName`].
pub fn address(name: &str) -> Result<String, BadName> {
    let (host, port) = name.rsplit_once(':').unwrap_or(("127.0.0.1", name));
    let blank = |c: char| c.is_whitespace() || c.is_control();
    match port.parse::<u16>() {
        // One spelling each: neither + nor zeros before it.
        Ok(number @ 1..) if !host.is_empty() && !name.contains(blank) && port == number.to_string() => {
            Ok(format!("{host}:{port}"))
        }
        _ => Err(BadName(name.to_owned())),
    }
}

/// The socket address that a name stands for. Asks the name service, and so may block, unless the host is a number.
///
/// # Errors
/// When the name is malformed or can't be resolved.
pub fn resolve(name: &str) -> io::Result<SocketAddr> {
    let address = address(name).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let first = rt::net::resolve(&address)?.into_iter().next();
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("'{name}' has no address")))
}

/// The same for a name whose host is a number: needs no name service. `None` if it is none.
pub fn number(name: &str) -> Option<SocketAddr> {
    address(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_of_this_machine() {
        assert_eq!(address("21000").as_deref(), Ok("127.0.0.1:21000"));
        assert_eq!(address("10.0.0.5:4000").as_deref(), Ok("10.0.0.5:4000"));
        assert_eq!(address("[::1]:4000").as_deref(), Ok("[::1]:4000"));
    }

    #[test]
    fn a_host_that_is_a_number_needs_no_name_service() {
        for (name, address) in
            [("21000", "127.0.0.1:21000"), ("10.0.0.5:4000", "10.0.0.5:4000"), ("[::1]:9", "[::1]:9")]
        {
            assert_eq!(number(name), Some(address.parse().unwrap()));
            assert_eq!(resolve(name).unwrap(), number(name).unwrap());
        }
        assert_eq!((number("localhost:21000"), number("x")), (None, None));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "0",
            "x",
            "70000",
            ":21000",
            "host:",
            "a b:1",
            "21000 ",
            "+21000",
            "-1",
            "host:0",
            "021000",
            "host:04000",
        ] {
            assert_eq!(address(bad), Err(BadName(bad.to_owned())), "{bad:?}");
        }
    }
}
