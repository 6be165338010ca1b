//! Destinations that a plan captures, found by walking packets through it: something to try out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::ruleset::walk::{Layers, Outcome, Packet, Pod, walk};
use crate::ruleset::{Condition, Family, Ruleset, Target};

/// Addresses of which documents say that nobody has them, in networks of their own (RFC 5737, RFC 3849).
const NOBODYS: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1)),
];

/// Whether nobody has that address.
pub fn is_nobodys(address: IpAddr) -> bool {
    NOBODYS.contains(&address)
}

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
    let (mut candidates, mut ports) = (given.to_vec(), PORTS.to_vec());
    candidates.extend(NOBODYS);
    named(plan, &mut candidates, &mut ports);
    if let Some(port) = port {
        ports = vec![port];
    }
    let mut left = WALKS;
    let mut packet = packet.clone();
    for address in candidates {
        if address.is_ipv4() != (plan.family == Family::V4) {
            continue;
        }
        let Some(device) = device(address) else { continue };
        packet.device = device;
        for port in &ports {
            left = left.checked_sub(1)?;
            let to = SocketAddr::new(address, *port);
            if let Ok(port) = goes_to(&layers, pod, &mut packet, to) {
                return Some(Captured { to, port });
            }
        }
    }
    None
}

/// The port that `packet` is redirected to when it is made to go to `to`, or what becomes of it instead.
pub fn goes_to(layers: &Layers<'_>, pod: &Pod, packet: &mut Packet, to: SocketAddr) -> Result<u16, Outcome> {
    (packet.destination, packet.destination_port) = (Some(to.ip()), Some(to.port()));
    match walk(layers, packet, pod).outcome {
        Outcome::Redirected { port, .. } => Ok(port),
        other => Err(other),
    }
}

/// Users and groups for whom the plan may be another than for the rest: anybody's, and those of groups that it names.
pub fn owners(plan: &Ruleset) -> Vec<(u32, u32)> {
    /// Above every id that is given to anybody; the last of all stands for none.
    const ANYBODY: u32 = u32::MAX - 1;
    let mut owners = vec![(ANYBODY, ANYBODY), (0, 0)];
    each_condition(plan, &mut |_, condition| {
        if let Condition::Gid(ids) = condition {
            owners.push((ANYBODY, ids.first));
        }
    });
    owners
}

/// The first and the last addresses of networks, and the first of ports, for which rules do anything but leave packets
/// alone.
fn named(plan: &Ruleset, addresses: &mut Vec<IpAddr>, ports: &mut Vec<u16>) {
    each_condition(plan, &mut |target, condition| match condition {
        _ if matches!(target, Target::Return | Target::Accept) => {}
        Condition::Destination(net) => addresses.extend(ends(net)),
        Condition::DestinationPort(range) => ports.push(range.first.max(1)),
        Condition::DestinationPorts(ranges) => {
            for range in ranges {
                ports.push(range.first.max(1));
            }
        }
        _ => {}
    });
}

/// The conditions of all rules that are not negated, with their rules' targets.
fn each_condition(plan: &Ruleset, visit: &mut dyn FnMut(&Target, &Condition)) {
    for chain in plan.tables.iter().flat_map(|table| &table.chains) {
        for rule in &chain.rules {
            for wanted in rule.matches.iter().filter(|wanted| !wanted.negated) {
                visit(&rule.target, &wanted.condition);
            }
        }
    }
}

/// Hosts at both ends of a network.
fn ends(net: &IpNet) -> [IpAddr; 2] {
    let [first, last] = [net.network(), net.broadcast()];
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (first.to_bits(), last.to_bits());
            let inner = u32::from(last - first > 1);
            [IpAddr::V4((first + inner).into()), IpAddr::V4((last - inner).into())]
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => {
            let inner = u128::from(high.to_bits() - low.to_bits() > 1);
            [IpAddr::V6((low.to_bits() + inner).into()), IpAddr::V6((high.to_bits() - inner).into())]
        }
        both => both.into(),
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
