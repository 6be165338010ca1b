//! The TCP sockets of this network namespace, as the kernel lists them to everybody.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use super::Error;

/// One TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; a port of 0 for one that listens.
    pub remote: SocketAddr,
    /// Whether it waits for connections.
    pub listens: bool,
    /// Whose it is. Nobody's, 0, while a connection is in the making.
    pub uid: u32,
}

impl Connection {
    /// Whether a listener gets connections to `address`.
    pub fn hears(&self, address: IpAddr) -> bool {
        let own = self.local.ip();
        // An IPv6 socket on all addresses gets IPv4 connections too, unless it says that it does not want them.
        own == address || (own.is_unspecified() && (own.is_ipv6() || address.is_ipv4()))
    }
}

/// The state of a socket that listens.
#[doc(alias = "TCP_LISTEN")]
const LISTEN: &str = "0A";

/// Those sockets of both families for which `wanted` holds. A list that is not there, as that of IPv6 in a kernel without,
/// is empty.
pub fn connections(wanted: &dyn Fn(&Connection) -> bool) -> Result<Vec<Connection>, Error> {
    let mut found = Vec::new();
    // The thread's own view: /proc/net is that of the process's first thread.
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match read(path, wanted, &mut found) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::ReadFile { path: path.into(), source: error }),
            _ => {}
        }
    }
    Ok(found)
}

/// Line by line: a busy pod has many.
fn read(path: &str, wanted: &dyn Fn(&Connection) -> bool, found: &mut Vec<Connection>) -> io::Result<()> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        found.extend(parse(&line).filter(wanted));
        line.clear();
    }
    Ok(())
}

/// `  0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337 …`; `None` for the heading.
fn parse(line: &str) -> Option<Connection> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let listens = words.next()? == LISTEN;
    Some(Connection { local, remote, listens, uid: words.nth(3)?.parse().ok()? })
}

/// Words of four bytes as the machine has them in memory, in hexadecimal, then the port. An IPv4 address that is written
/// as IPv6 is one.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address: IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            bytes.into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::host::testing::in_new_namespace;

    #[test]
    fn listeners_and_connections_of_this_namespace_are_found() {
        in_new_namespace("connections", |_| {
            for any in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
                let listener = TcpListener::bind(any).unwrap();
                let port = listener.local_addr().unwrap().port();
                let found = connections(&|one| one.listens && one.local.port() == port).unwrap();
                let expected = SocketAddr::new(listener.local_addr().unwrap().ip(), port);
                assert_eq!(found.iter().map(|one| (one.local, one.uid)).collect::<Vec<_>>(), [(expected, 0)]);

                // [::] takes IPv4 connections too, and such an address is then shown as what it is.
                let client = TcpStream::connect(("127.0.0.1", port)).or_else(|_| TcpStream::connect(("::1", port))).unwrap();
                let own = client.local_addr().unwrap();
                let found = connections(&|one| one.remote == own).unwrap();
                assert_eq!(found.iter().map(|one| (one.local, one.listens)).collect::<Vec<_>>(), [(client.peer_addr().unwrap(), false)]);
            }
        });
    }

    #[test]
    fn a_line_is_read_field_by_field() {
        let rest = "00000000:00000000 00:00000000 00000000  1337        0 1 1 0 100 0 0 10 0";
        let read = |own: &str, state: &str| {
            let found = parse(&format!("   0: {own} 00000000:0000 {state} {rest}"))?;
            Some((found.local.to_string(), found.listens, found.uid))
        };
        let expect = |text: &str, listens| Some((text.to_owned(), listens, 1337));
        if cfg!(target_endian = "little") {
            assert_eq!(read("0100007F:1F90", "0A"), expect("127.0.0.1:8080", true));
            assert_eq!(read("0100007F:1F90", "01"), expect("127.0.0.1:8080", false));
            assert_eq!(read("00000000000000000000000001000000:3A99", "0A"), expect("[::1]:15001", true));
            assert_eq!(read("0000000000000000FFFF00000200090A:3A99", "0A"), expect("10.9.0.2:15001", true));
        }
        for own in ["0100007F1F90", "0100007F:", "0100007F:1F90F", "0100007F:1G90", "0100007:1F90", "0100007F00:1F90", "\u{e9}100007:1F90"]
        {
            assert_eq!(read(own, "0A"), None, "{own}");
        }
    }

    #[test]
    fn lines_that_are_cut_or_strange_are_passed_over() {
        let line = "   0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 41295313 2";
        assert_eq!(parse(line).unwrap().uid, 1337);
        // The user is the eighth word.
        let words: Vec<&str> = line.split_whitespace().collect();
        for length in 0..8 {
            assert_eq!(parse(&words[..length].join(" ")), None);
        }
        for strange in ["", "  sl  local_address rem_address   st", "0: 0100:3A99 00000000:0000 0A 0 0 0 0", "0: ä100007F:1 ä:0 0A 0 0 0 0"]
        {
            assert_eq!(parse(strange), None, "{strange}");
        }
    }
}
