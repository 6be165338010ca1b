//! Which of the machine's addresses say anything about its traffic.

use std::net::{IpAddr, Ipv6Addr};

use crate::ruleset::routing::PASSTHROUGH_V6;

/// `address` in its own family (IPv4 addresses written as IPv6 unwrapped), unless it is loopback or link-local. `::6`,
/// which an earlier run may have put on `lo`, belongs to the rules and says nothing about the network either.
pub fn usable(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let local = match address {
        // 224.0.0.0/24 and ff02::/16 are multicast that stays on the link.
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6 == PASSTHROUGH_V6 || v6.is_loopback() || v6.is_unicast_link_local() || v6.segments()[0] & 0xff0f == 0xff02,
    };
    (!local).then_some(address)
}

/// The first IPv6 address through which the machine can talk beyond its own link.
pub fn first_global_v6(addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    addresses.iter().filter_map(|address| usable(*address)).find_map(|address| match address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        usable(text.parse().unwrap()).map(|address| address.to_string())
    }

    #[test]
    fn loopback_and_link_local_addresses_are_passed_over() {
        for text in ["127.0.0.1", "127.9.9.9", "169.254.1.1", "224.0.0.5", "::1", "fe80::1", "ff02::1", "::6", "::ffff:127.0.0.1"] {
            assert_eq!(of(text), None, "{text}");
        }
        for text in ["10.0.0.1", "fd00::1", "2001:db8::1", "224.0.1.1"] {
            assert_eq!(of(text).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        assert_eq!(of("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
        let addresses: Vec<IpAddr> = ["::ffff:10.0.0.1", "::6", "fe80::1", "fd00::2"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(first_global_v6(&addresses).unwrap().to_string(), "fd00::2");
    }
}
