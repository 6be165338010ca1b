//! DNS servers from resolv.conf(5).

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::{Error, files};

/// The servers in the file at `path`.
pub fn read(path: &Path) -> Result<Vec<IpAddr>, Error> {
    Ok(parse(&files::read_text(path)?))
}

/// The addresses after `nameserver` in `text`, in order.
///
/// There is no limit of three, although the C library has one: other resolvers use all of them. What is no address
/// is left out, and so is everything after the address. Two forms are brought to what a packet shows: a link-local
/// server's zone (`fe80::1%eth0`) is dropped, and an IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) is an IPv4 one.
pub fn parse(text: &str) -> Vec<IpAddr> {
    text.lines().filter_map(server).collect()
}

fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
    let address: IpAddr = match address.split_once('%') {
        Some((address, zone)) if !zone.is_empty() => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
        _ => address.parse().ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(text: &str) -> Vec<String> {
        parse(text).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn every_server_counts() {
        let text = "# a cluster's\nsearch default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\tnameserver\tfd00::a  # second\n\
            options ndots:5\nnameserver 1.1.1.1\nnameserver 8.8.8.8\nnameserver 9.9.9.9\n";
        assert_eq!(texts(text), ["10.96.0.10", "fd00::a", "1.1.1.1", "8.8.8.8", "9.9.9.9"]);
    }

    #[test]
    fn what_is_no_server_is_left_out() {
        assert_eq!(texts(""), [""; 0]);
        let text = "#nameserver 1.1.1.1\n;nameserver 1.1.1.1\nnameserver\nnameserver dns.example\nnameserver 1.1.1.1#53\nnameserver 1.1.1\n\
            nameservers 1.1.1.1\nNAMESERVER 1.1.1.1\nnameserver 010.0.0.1\nnameserver 1.1.1.1%eth0\nnameserver fe80::1%\n";
        assert_eq!(texts(text), [""; 0]);
    }

    #[test]
    fn addresses_are_brought_to_what_a_packet_shows() {
        assert_eq!(texts("nameserver fe80::1%eth0\r\nnameserver ::ffff:10.0.0.1\r\n"), ["fe80::1", "10.0.0.1"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(nameserver|[ -~\n\t%é])*") {
            let _ = parse(&text);
        }
    }
}
