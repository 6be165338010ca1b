//! Destinations that a plan captures, found by walking packets through it: something to try out.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::ruleset::walk::{Layers, Outcome, Packet, Pod, walk};
use crate::ruleset::{Condition, Family, IdRange, Ruleset, Target};

/// Addresses of which documents say that nobody has them, in networks of their own (RFC 5737, RFC 3849).
const NOBODYS: [&[&str]; 2] = [&["192.0.2.1", "198.51.100.1", "203.0.113.1"], &["2001:db8::1", "2001:db8:ffff:ffff::1"]];

/// Ports that are captured unless a plan names ports.
const PORTS: [u16; 3] = [15002, 20001, 1404];

/// So many packets are walked: each meets every rule.
const WALKS: usize = 256;

/// A destination, and the port at which what is sent there arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The destination.
    pub to: SocketAddr,
    /// The proxy's port.
    pub port: u16,
}

/// The device by which what goes to an address leaves, if that is known; `None` for an address that is not to be tried.
pub type DeviceTo<'a> = &'a dyn Fn(IpAddr) -> Option<Option<String>>;

/// Finds a destination, among `given` ones and then among those that `plan` names and nobody's, so that `packet` is
/// redirected when it goes there.
pub fn captured(plan: &Ruleset, pod: &Pod, packet: &Packet, given: &[IpAddr], port: Option<u16>, device: DeviceTo<'_>) -> Option<Captured> {
    let layers = Layers::of_plan(plan);
    let (addresses, named) = named(plan);
    let ports = port.map_or_else(|| [&PORTS[..], &named].concat(), |port| vec![port]);
    let nobodys = NOBODYS[usize::from(plan.family == Family::V6)].iter().filter_map(|text| text.parse().ok());
    let given = given.iter().copied().filter(|address| address.is_ipv4() == (plan.family == Family::V4));
    let mut left = WALKS;
    for address in given.chain(nobodys).chain(addresses) {
        let Some(device) = device(address) else { continue };
        for port in &ports {
            left = left.checked_sub(1)?;
            let to = SocketAddr::new(address, *port);
            if let Ok(port) = goes_to(&layers, pod, &Packet { device: device.clone(), ..packet.clone() }, to) {
                return Some(Captured { to, port });
            }
        }
    }
    None
}

/// The port that `packet` is redirected to when it goes to `to`, or what becomes of it instead.
pub fn goes_to(layers: &Layers<'_>, pod: &Pod, packet: &Packet, to: SocketAddr) -> Result<u16, Outcome> {
    let packet = Packet { destination: Some(to.ip()), destination_port: Some(to.port()), ..packet.clone() };
    match walk(layers, &packet, pod).outcome {
        Outcome::Redirected { port, .. } => Ok(port),
        other => Err(other),
    }
}

/// Users and groups for whom the plan may be another than for the rest: anybody's, and those of groups that it names.
pub fn owners(plan: &Ruleset) -> Vec<(u32, u32)> {
    let groups = conditions(plan).filter_map(|(_, condition)| match condition {
        Condition::Gid(IdRange { first, .. }) => Some((u32::MAX - 1, *first)),
        _ => None,
    });
    [(u32::MAX - 1, u32::MAX - 1), (0, 0)].into_iter().chain(groups).collect()
}

/// The first and the last addresses of networks, and the first of ports, for which rules do anything but leave packets
/// alone.
fn named(plan: &Ruleset) -> (Vec<IpAddr>, Vec<u16>) {
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    for (target, condition) in conditions(plan) {
        if matches!(target, Target::Return | Target::Accept) {
            continue;
        }
        match condition {
            Condition::Destination(net) => addresses.extend(ends(net)),
            Condition::DestinationPort(range) => ports.push(range.first.max(1)),
            Condition::DestinationPorts(ranges) => ports.extend(ranges.iter().map(|range| range.first.max(1))),
            _ => {}
        }
    }
    (addresses, ports)
}

/// The conditions of all rules that are not negated, with their rules' targets.
fn conditions(plan: &Ruleset) -> impl Iterator<Item = (&Target, &Condition)> {
    let rules = plan.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
    rules.flat_map(|rule| rule.matches.iter().filter(|one| !one.negated).map(|one| (&rule.target, &one.condition)))
}

/// Hosts at both ends of a network.
fn ends(net: &IpNet) -> [IpAddr; 2] {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let inner = u32::from(last - first > 1);
            [IpAddr::V4((first + inner).into()), IpAddr::V4((last - inner).into())]
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let inner = u128::from(last - first > 1);
            [IpAddr::V6((first + inner).into()), IpAddr::V6((last - inner).into())]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Surroundings;
    use crate::mesh::flag::Given;
    use crate::mesh::istio::{FLAGS, Options, plan};
    use crate::ruleset::Protocol;

    fn found(flags: &[(&'static str, &str)], family: Family, (uid, gid): (u32, u32)) -> Option<(String, u16)> {
        let said = [("dual-stack", "true")].iter().chain(flags);
        let said = said.map(|(name, value)| (*name, (*value).to_owned())).collect();
        let options = Options::new(&Given::new(FLAGS, said, &|_| None)).unwrap();
        let addresses: Vec<IpAddr> = ["10.9.0.2", "fd00::2"].iter().map(|text| text.parse().unwrap()).collect();
        let plan = plan(&options, &Surroundings { addresses: addresses.clone(), ..Surroundings::default() }).unwrap();
        let rules = plan.rulesets.iter().find(|rules| rules.family == family).unwrap();
        let packet = Packet::out(Protocol::TCP, addresses[0], 0).by(uid, gid);
        let packet = Packet { destination: None, ..packet };
        let device: DeviceTo<'_> = &|address| (!address.is_loopback()).then(|| Some("eth0".to_owned()));
        let captured = captured(rules, &Pod::new(addresses, &plan.routing), &packet, &[], None, device)?;
        Some((captured.to.to_string(), captured.port))
    }

    fn to(address: &str) -> Option<(String, u16)> {
        Some((address.to_owned(), 15001))
    }

    #[test]
    fn nobodys_address_is_taken_where_everything_is_captured() {
        let all = ("istio-service-cidr", "*");
        assert_eq!(found(&[all], Family::V4, (0, 0)), to("192.0.2.1:15002"));
        assert_eq!(found(&[all], Family::V6, (0, 0)), to("[2001:db8::1]:15002"));
        let excluded = ("istio-service-exclude-cidr", "192.0.2.0/24,198.51.100.0/24,2001:db8::/64");
        assert_eq!(found(&[all, excluded], Family::V4, (0, 0)), to("203.0.113.1:15002"));
        assert_eq!(found(&[all, excluded], Family::V6, (0, 0)), to("[2001:db8:ffff:ffff::1]:15002"));
        assert_eq!(found(&[all, ("istio-local-outbound-ports-exclude", "15002")], Family::V4, (0, 0)), to("192.0.2.1:20001"));
    }

    #[test]
    fn else_one_of_those_that_the_plan_names() {
        let some = ("istio-service-cidr", "10.96.0.0/12,fd01::/64");
        assert_eq!(found(&[some], Family::V4, (0, 0)), to("10.96.0.1:15002"));
        assert_eq!(found(&[some], Family::V6, (0, 0)), to("[fd01::1]:15002"));
        assert_eq!(found(&[some, ("istio-service-exclude-cidr", "10.96.0.0/16")], Family::V4, (0, 0)), to("10.111.255.254:15002"));
        assert_eq!(found(&[("istio-service-cidr", "10.1.2.3/32")], Family::V4, (0, 0)), to("10.1.2.3:15002"));
        assert_eq!(found(&[("istio-outbound-ports", "9000:9010")], Family::V4, (0, 0)), to("192.0.2.1:9000"));
    }

    #[test]
    fn nothing_is_found_where_nothing_is_captured() {
        assert_eq!(found(&[], Family::V4, (0, 0)), None);
        assert_eq!(found(&[("istio-service-cidr", "*")], Family::V4, (1337, 1337)), None);
        let nothing = [("istio-service-cidr", "10.0.0.0/8"), ("istio-service-exclude-cidr", "10.0.0.0/8")];
        assert_eq!(found(&nothing, Family::V4, (0, 0)), None);
        // By another device it would be.
        assert_eq!(found(&[("istio-service-cidr", "*"), ("istio-exclude-interfaces", "eth0")], Family::V4, (0, 0)), None);
        assert_eq!(found(&[("istio-service-cidr", "*"), ("istio-exclude-interfaces", "eth1")], Family::V4, (0, 0)), to("192.0.2.1:15002"));
    }

    #[test]
    fn the_ends_of_a_network_are_hosts() {
        let of = |text: &str| ends(&text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("10.0.0.0/8"), ["10.0.0.1", "10.255.255.254"]);
        assert_eq!(of("10.0.0.1/32"), ["10.0.0.1", "10.0.0.1"]);
        assert_eq!(of("10.0.0.0/31"), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(of("0.0.0.0/0"), ["0.0.0.1", "255.255.255.254"]);
        assert_eq!(of("::/0"), ["::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"]);
        assert_eq!(of("fd00::/127"), ["fd00::", "fd00::1"]);
    }
}
