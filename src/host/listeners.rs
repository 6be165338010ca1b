//! Which addresses and ports programs of the network namespace listen on over TCP.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::error::Error;
use super::files::read_text;

/// The state of a socket that listens, in the kernel's lists.
#[doc(alias = "TCP_LISTEN")]
const LISTENS: &str = "0A";

/// Where programs listen in the thread's network namespace. A list that is not there, as that of IPv6 in a kernel without, is
/// empty.
pub fn listeners() -> Result<Vec<SocketAddr>, Error> {
    let mut found = Vec::new();
    for name in ["tcp", "tcp6"] {
        // The thread's own view: /proc/net is that of the process's first thread.
        let path = format!("/proc/thread-self/net/{name}");
        if std::path::Path::new(&path).exists() {
            found.extend(read_text(path.as_ref())?.lines().filter_map(listener));
        }
    }
    Ok(found)
}

/// The listening socket that a line tells of: number, own address, the other's, state, and more. An IPv4 address in an IPv6
/// socket counts as what it is.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    let (own, state) = (words.nth(1)?, words.nth(1)?);
    let (address, port) = own.split_once(':').filter(|_| state == LISTENS)?;
    let port = u16::from_str_radix(port, 16).ok().filter(|_| port.len() == 4)?;
    // Words of four bytes, each as a number of this machine.
    let word = |at: usize| Some(u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_line_is_read_field_by_field() {
        let rest = "00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0";
        let read = |own: &str, state: &str| listener(&format!("   0: {own} 00000000:0000 {state} {rest}")).map(|found| found.to_string());
        if cfg!(target_endian = "little") {
            assert_eq!(read("0100007F:1F90", "0A").as_deref(), Some("127.0.0.1:8080"));
            assert_eq!(read("00000000000000000000000001000000:3A99", "0A").as_deref(), Some("[::1]:15001"));
            assert_eq!(read("0000000000000000FFFF00000200090A:3A99", "0A").as_deref(), Some("10.9.0.2:15001"));
        }
        assert_eq!(read("00000000:0016", "0A").as_deref(), Some("0.0.0.0:22"));
        for (own, state) in [
            ("0100007F:1F90", "01"),
            ("0100007F1F90", "0A"),
            ("0100007F:", "0A"),
            ("0100007F:1F90F", "0A"),
            ("0100007F:1G90", "0A"),
            ("0100007:1F90", "0A"),
            ("0100007F00:1F90", "0A"),
            ("0000000000000000FFFF0000020009Zz:3A99", "0A"),
            ("\u{e9}100007:1F90", "0A"),
        ] {
            assert_eq!(read(own, state), None, "{own}");
        }
        for line in ["", "  sl  local_address rem_address   st tx_queue rx_queue", "0:", "0: 0100007F:1F90 00000000:0000"] {
            assert_eq!(listener(line), None, "{line}");
        }
    }

    #[test]
    fn sockets_of_this_namespace_are_found() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        let found = listeners().unwrap();
        assert!(found.contains(&listening.local_addr().unwrap()));
        assert!(!found.contains(&connected.local_addr().unwrap()));
    }
}
