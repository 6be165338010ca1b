//! The packet that is walked, the pod that it is walked in, and the words that describe a packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::ruleset::routing::PASSTHROUGH_V6;
use crate::ruleset::{Family, Interface, PolicyRoute, Protocol, Routing, StateSet};

/// Which way a packet goes, as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Sent by a process of the pod.
    Out,
    /// Received from outside.
    In,
}

/// A packet. What is `None` is not known, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which way it goes.
    pub way: Way,
    /// The layer 4 protocol.
    pub protocol: Protocol,
    /// Where it comes from. `None` for one that goes out: the address that the kernel would choose.
    pub source: Option<IpAddr>,
    /// `None`: any.
    pub source_port: Option<u16>,
    /// Where it goes. `None` for one that comes in: the pod's own address.
    pub destination: Option<IpAddr>,
    /// The port that it goes to; `None` for a protocol without ports.
    pub destination_port: Option<u16>,
    /// The device that it comes in by, or goes out by if it does not stay in the pod. `None`: any but lo.
    pub device: Option<String>,
    /// The user of the socket that sent it; `None`: it has no socket.
    pub uid: Option<u32>,
    /// The group of that socket.
    pub gid: Option<u32>,
    /// Its mark.
    pub mark: u32,
    /// The state of its connection: one of [`StateSet::NAMES`].
    pub state: StateSet,
}

/// The user and the group of an application of which nothing is said.
pub const APPLICATION: u32 = 1000;

impl Packet {
    /// The first packet of a connection from an application to there.
    pub fn out(protocol: Protocol, destination: IpAddr, port: u16) -> Packet {
        Packet {
            way: Way::Out,
            protocol,
            source: None,
            source_port: None,
            destination: Some(destination),
            destination_port: Some(port),
            device: None,
            uid: Some(APPLICATION),
            gid: Some(APPLICATION),
            mark: 0,
            state: StateSet::NEW,
        }
    }

    /// The first packet of a connection from outside to that port of the pod.
    pub fn incoming(protocol: Protocol, source: IpAddr, port: u16) -> Packet {
        Packet { way: Way::In, source: Some(source), uid: None, gid: None, destination: None, ..Packet::out(protocol, source, port) }
    }

    /// The same packet sent by a user and a group.
    #[must_use]
    pub fn by(mut self, uid: u32, gid: u32) -> Packet {
        (self.uid, self.gid) = (Some(uid), Some(gid));
        self
    }

    /// The family that it belongs to: that of its addresses, or of the pod's first that others can reach.
    pub fn family(&self, pod: &Pod) -> Family {
        self.destination.or(self.source).map_or_else(|| pod.family(), family_of)
    }
}

/// What of a pod matters to a packet besides the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its own addresses, in the kernel's order. Loopback needs no mention.
    pub addresses: Vec<IpAddr>,
    /// Marks with which packets are routed to lo.
    pub policy: Vec<PolicyRoute>,
}

impl Pod {
    /// A pod with these addresses and what a plan adds to them.
    pub fn new(mut addresses: Vec<IpAddr>, routing: &Routing) -> Pod {
        addresses.extend(routing.passthrough_v6.then_some(IpAddr::V6(PASSTHROUGH_V6)));
        Pod { addresses, policy: routing.policy.clone() }
    }

    /// Whether the pod itself is at home there.
    pub fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// The first address of the family that others can reach, those of the link last.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let mut others = self.reachable().filter(|address| is_of(family, *address));
        let first = others.clone().next();
        others.find(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())).or(first)
    }

    /// The family of its first address that others can reach; IPv4 without any.
    pub fn family(&self) -> Family {
        self.reachable().next().map_or(Family::V4, family_of)
    }

    /// Its addresses without those that lead back to itself.
    fn reachable(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.addresses.iter().copied().filter(|address| !address.is_loopback() && *address != PASSTHROUGH_V6)
    }

    pub(super) fn routes_to_lo(&self, family: Family, mark: u32) -> bool {
        self.policy.iter().any(|policy| policy.family == family && policy.mark == mark)
    }
}

pub(super) fn is_of(family: Family, address: IpAddr) -> bool {
    family_of(address) == family
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// 127.0.0.1 or ::1.
pub fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// What may be said of a packet, once.
const NAMES: [&str; 7] = ["from", "to", "uid", "gid", "dev", "mark", "state"];

/// `out tcp 10.0.0.1:443 uid 1000`, `in tcp from 10.1.2.3 to :8080`, `out udp [fd00::a]:53 uid 1337 gid 1337`.
impl FromStr for Packet {
    type Err = String;

    fn from_str(text: &str) -> Result<Packet, String> {
        let mut words = text.split_whitespace();
        let way = match words.next() {
            Some("out") => Way::Out,
            Some("in") => Way::In,
            other => return Err(format!("{:?} is no way for a packet (out or in)", other.unwrap_or_default())),
        };
        let protocol = protocol(words.next().unwrap_or_default())?;
        let socket = (way == Way::Out).then_some(APPLICATION);
        let mut packet = Packet {
            way,
            protocol,
            source: None,
            source_port: None,
            destination: None,
            destination_port: None,
            device: None,
            uid: socket,
            gid: socket,
            mark: 0,
            state: StateSet::NEW,
        };
        let mut said: Vec<&str> = Vec::new();
        while let Some(word) = words.next() {
            let known = NAMES.contains(&word);
            if !known && !word.contains([':', '.']) {
                return Err(format!("{word:?} is not known (ADDRESS:PORT, from, to, uid, gid, dev, mark or state)"));
            }
            let (name, value) = if known { (word, words.next().unwrap_or_default()) } else { ("to", word) };
            if said.contains(&name) {
                return Err(format!("{name}: it is said twice"));
            }
            said.push(name);
            match name {
                "to" => (packet.destination, packet.destination_port) = end(value)?,
                "from" => (packet.source, packet.source_port) = end(value)?,
                "uid" if way == Way::Out => packet.uid = id(name, value)?,
                "gid" if way == Way::Out => packet.gid = id(name, value)?,
                "uid" | "gid" => return Err(format!("{name}: a packet that comes in has no owner here")),
                "dev" => {
                    let device = Interface::new(value).filter(|device| !device.pattern().1);
                    packet.device = Some(device.ok_or_else(|| wrong(name, value, "is not a device's name"))?.as_str().to_owned());
                }
                "mark" => {
                    let mark = value.strip_prefix("0x").map_or_else(|| value.parse(), |digits| u32::from_str_radix(digits, 16));
                    packet.mark = mark.map_err(|_| wrong(name, value, "is not a number of 32 bits (1337 or 0x539)"))?;
                }
                _ => {
                    let state = StateSet::NAMES.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(value));
                    let state = state.ok_or_else(|| wrong(name, value, "is none (new, established, related, invalid or untracked)"))?;
                    packet.state = state.0;
                }
            }
        }
        if (packet.uid.is_none()) != (packet.gid.is_none()) {
            if said.contains(&"uid") && said.contains(&"gid") {
                return Err("uid and gid: a packet without a socket has neither".to_owned());
            }
            (packet.uid, packet.gid) = (None, None);
        }
        complete(packet)
    }
}

/// The packet, if nothing is missing and its parts go together.
fn complete(mut packet: Packet) -> Result<Packet, String> {
    let unspecified = packet.destination.filter(IpAddr::is_unspecified);
    if packet.way == Way::Out {
        // For the kernel that is a socket that is not bound, and the host itself: with IPv4 where the socket is bound.
        packet.source = packet.source.filter(|source| !source.is_unspecified());
        if let Some(any) = unspecified {
            packet.destination = packet.source.filter(|source| any.is_ipv4() && source.is_ipv4()).or(Some(loopback(family_of(any))));
        }
    } else if let Some(any) = unspecified {
        return Err(format!("no packet comes in to {any}: leave the address out for the pod's own"));
    }
    let ends = (packet.source, packet.destination);
    if let (Some(source), Some(destination)) = ends
        && source.is_ipv4() != destination.is_ipv4()
    {
        return Err(format!("{source} and {destination} are of two families"));
    }
    if has_ports(packet.protocol) != packet.destination_port.is_some() {
        let wants = if has_ports(packet.protocol) { "needs a port: ADDRESS:PORT or [ADDRESS]:PORT" } else { "has no ports" };
        return Err(format!("{} {wants}", packet.protocol));
    }
    if packet.source_port.is_some() && !has_ports(packet.protocol) {
        return Err(format!("{} has no ports", packet.protocol));
    }
    if packet.way == Way::Out && packet.destination.is_none() {
        return Err("a packet that goes out needs an address to go to: ADDRESS:PORT".to_owned());
    }
    Ok(packet)
}

fn has_ports(protocol: Protocol) -> bool {
    // TCP, UDP, DCCP, SCTP, UDP-Lite.
    matches!(protocol.0, 6 | 17 | 33 | 132 | 136)
}

fn protocol(word: &str) -> Result<Protocol, String> {
    let number = match word {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "icmp" => 1,
        "icmpv6" | "ipv6-icmp" => 58,
        _ => word.parse().map_err(|_| format!("{word:?} is not a protocol (tcp, udp, sctp, icmp, icmpv6 or a number up to 255)"))?,
    };
    Ok(Protocol(number))
}

/// `10.0.0.1:443`, `[fd00::a]:53`, `:8080`, or an address alone.
fn end(text: &str) -> Result<(Option<IpAddr>, Option<u16>), String> {
    let wrong = || format!("{text:?} is not ADDRESS:PORT, [ADDRESS]:PORT, :PORT or ADDRESS, with a port from 1 to 65535");
    // To the kernel an IPv4 address in IPv6's clothes is one of IPv4.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((Some(address.to_canonical()), None));
    }
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?);
    if address.is_empty() {
        return Ok((None, port));
    }
    let inner = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    let address: IpAddr = inner.unwrap_or(address).parse().map_err(|_| wrong())?;
    // Without brackets nobody knows where an IPv6 address ends.
    if address.is_ipv6() == inner.is_some() { Ok((Some(address.to_canonical()), port)) } else { Err(wrong()) }
}

/// An id, or `none` for a packet without a socket.
fn id(name: &str, value: &str) -> Result<Option<u32>, String> {
    if value == "none" {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| wrong(name, value, "is not a number of 32 bits, nor none"))
}

fn wrong(name: &str, value: &str, problem: &str) -> String {
    format!("{name}: {value:?} {problem}")
}

/// The words that describe it.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.way == Way::Out { "out " } else { "in " })?;
        self.protocol.fmt(f)?;
        for (name, address, port) in [(" from ", self.source, self.source_port), (" to ", self.destination, self.destination_port)] {
            if address.is_some() || port.is_some() {
                f.write_str(name)?;
                write_end(f, address, port)?;
            }
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        match (self.way, self.uid, self.gid) {
            (Way::Out, Some(uid), Some(gid)) => write!(f, " uid {uid} gid {gid}")?,
            (Way::Out, ..) => f.write_str(" uid none")?,
            _ => {}
        }
        if self.mark != 0 {
            write!(f, " mark {:#x}", self.mark)?;
        }
        if self.state == StateSet::NEW { Ok(()) } else { write!(f, " state {}", self.state) }
    }
}

pub(super) fn write_end(out: &mut impl fmt::Write, address: Option<IpAddr>, port: Option<u16>) -> fmt::Result {
    match (address, port) {
        (Some(address @ IpAddr::V6(_)), Some(_)) => write!(out, "[{address}]")?,
        (Some(address), _) => write!(out, "{address}")?,
        (None, _) => {}
    }
    port.map_or(Ok(()), |port| write!(out, ":{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_make_a_packet_and_a_packet_words() {
        let packet: Packet = "out tcp 10.0.0.1:443 uid 7".parse().unwrap();
        assert_eq!(packet, Packet { uid: Some(7), ..Packet::out(Protocol::TCP, "10.0.0.1".parse().unwrap(), 443) });
        for (words, full) in [
            ("out tcp 10.0.0.1:443", "out tcp to 10.0.0.1:443 uid 1000 gid 1000"),
            ("in tcp from 10.1.2.3 to :8080", "in tcp from 10.1.2.3 to :8080"),
            ("out udp [fd00::a]:53 uid 1337 gid 1338", "out udp to [fd00::a]:53 uid 1337 gid 1338"),
            ("in udp to :53 dev eth1 mark 0x10 state established", "in udp to :53 dev eth1 mark 0x10 state ESTABLISHED"),
            ("out icmp 10.0.0.1 uid none", "out icmp to 10.0.0.1 uid none"),
            ("out 132 to 10.0.0.1:1 from 10.0.0.2:9 mark 3", "out sctp from 10.0.0.2:9 to 10.0.0.1:1 uid 1000 gid 1000 mark 0x3"),
        ] {
            let packet: Packet = words.parse().unwrap();
            assert_eq!(packet.to_string(), full);
            assert_eq!(full.parse::<Packet>().unwrap(), packet);
        }
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        for (words, full) in [
            ("out tcp 0.0.0.0:80", "out tcp to 127.0.0.1:80 uid 1000 gid 1000"),
            ("out tcp 0.0.0.0:80 from 0.0.0.0", "out tcp to 127.0.0.1:80 uid 1000 gid 1000"),
            ("out tcp 0.0.0.0:80 from 10.9.0.2", "out tcp from 10.9.0.2 to 10.9.0.2:80 uid 1000 gid 1000"),
            ("out udp [::]:53", "out udp to [::1]:53 uid 1000 gid 1000"),
            ("out tcp [::]:80 from fd00::2", "out tcp from fd00::2 to [::1]:80 uid 1000 gid 1000"),
            ("out tcp [::ffff:10.1.1.1]:80", "out tcp to 10.1.1.1:80 uid 1000 gid 1000"),
            ("in tcp from ::ffff:10.1.1.1 to :80", "in tcp from 10.1.1.1 to :80"),
        ] {
            assert_eq!(words.parse::<Packet>().unwrap().to_string(), full, "{words}");
        }
    }

    #[test]
    fn a_packet_without_addresses_is_of_the_family_of_the_pods_first_that_is_not_loopback() {
        let family = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            "in tcp to :80".parse::<Packet>().unwrap().family(&Pod { addresses, policy: Vec::new() })
        };
        assert_eq!(family(&["127.0.0.1", "::1", "fd00::2", "fe80::1"]), Family::V6);
        assert_eq!(family(&["127.0.0.1", "10.9.0.2", "::1", "fd00::2"]), Family::V4);
        assert_eq!(family(&["fd00::2", "10.9.0.2"]), Family::V6);
        assert_eq!(family(&["127.0.0.1", "::1"]), Family::V4);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, error) in [
            ("", "\"\" is no way for a packet (out or in)"),
            ("up tcp :1", "\"up\" is no way for a packet (out or in)"),
            ("out http 1.2.3.4:1", "\"http\" is not a protocol (tcp, udp, sctp, icmp, icmpv6 or a number up to 255)"),
            ("out tcp 1.2.3.4", "tcp needs a port: ADDRESS:PORT or [ADDRESS]:PORT"),
            ("out icmp 1.2.3.4:1", "icmp has no ports"),
            ("in icmp from 1.2.3.4:1", "icmp has no ports"),
            ("out tcp :443", "a packet that goes out needs an address to go to: ADDRESS:PORT"),
            ("out tcp ::1:443", "tcp needs a port: ADDRESS:PORT or [ADDRESS]:PORT"),
            ("out tcp ::g:443", "\"::g:443\" is not ADDRESS:PORT, [ADDRESS]:PORT, :PORT or ADDRESS, with a port from 1 to 65535"),
            (
                "out tcp 1.2.3.4:65536",
                "\"1.2.3.4:65536\" is not ADDRESS:PORT, [ADDRESS]:PORT, :PORT or ADDRESS, with a port from 1 to 65535",
            ),
            ("in tcp from 10.0.0.1 to [fd00::1]:1", "10.0.0.1 and fd00::1 are of two families"),
            ("out tcp 1.2.3.4:1 uid", "uid: \"\" is not a number of 32 bits, nor none"),
            ("in tcp to :1 uid 3", "uid: a packet that comes in has no owner here"),
            ("out tcp 1.2.3.4:1 mark 0xg", "mark: \"0xg\" is not a number of 32 bits (1337 or 0x539)"),
            ("out tcp 1.2.3.4:1 dev eth+", "dev: \"eth+\" is not a device's name"),
            ("out tcp 1.2.3.4:1 state old", "state: \"old\" is none (new, established, related, invalid or untracked)"),
            ("out tcp 1.2.3.4:0", "\"1.2.3.4:0\" is not ADDRESS:PORT, [ADDRESS]:PORT, :PORT or ADDRESS, with a port from 1 to 65535"),
            (
                "in tcp from 1.2.3.4:0 to :1",
                "\"1.2.3.4:0\" is not ADDRESS:PORT, [ADDRESS]:PORT, :PORT or ADDRESS, with a port from 1 to 65535",
            ),
            ("out tcp 1.1.1.1:443 to 2.2.2.2:5", "to: it is said twice"),
            ("in tcp 1.1.1.1:443 2.2.2.2:5", "to: it is said twice"),
            ("out tcp 1.2.3.4:1 uid 1000 uid none", "uid: it is said twice"),
            ("out tcp 1.2.3.4:1 state new mark 1 state new", "state: it is said twice"),
            ("out tcp 1.2.3.4:1 gid 5 uid none", "uid and gid: a packet without a socket has neither"),
            ("in tcp to 0.0.0.0:1", "no packet comes in to 0.0.0.0: leave the address out for the pod's own"),
            ("out tcp [::]:1 from 10.0.0.1", "10.0.0.1 and ::1 are of two families"),
            ("out tcp 1.2.3.4:1 please", "\"please\" is not known (ADDRESS:PORT, from, to, uid, gid, dev, mark or state)"),
        ] {
            assert_eq!(words.parse::<Packet>().unwrap_err(), error, "{words}");
        }
    }
}
