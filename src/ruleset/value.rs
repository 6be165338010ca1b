//! What matches and targets are made of: protocols, interfaces, ports, ids, marks, states.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use super::order;

/// A layer 4 protocol's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("ipv6-icmp"),
            132 => f.write_str("sctp"),
            number => write!(f, "{number}"),
        }
    }
}

/// An interface's name; with a `+` at the end every interface whose name begins so. At most 15 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface(String);

impl Interface {
    /// The longest name, `IFNAMSIZ` less its NUL.
    pub const MAX: usize = 15;

    /// `name` as an interface, or `None` when no interface can be called so.
    pub fn new(name: &str) -> Option<Interface> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ',' | '!' | ':' | '"' | '\'' | '\\');
        let fits = !name.is_empty() && name.len() <= Interface::MAX && !name.starts_with('-') && !name.contains(bad);
        (fits && name != "." && name != "..").then(|| Interface(name.to_owned()))
    }

    /// The loopback device.
    pub fn loopback() -> Interface {
        Interface("lo".to_owned())
    }

    /// The name as iptables takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's fixed part, and whether more may follow it.
    pub fn pattern(&self) -> (&str, bool) {
        match self.0.strip_suffix('+') {
            Some(start) => (start, true),
            None => (&self.0, false),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// One port.
    pub fn single(port: u16) -> PortRange {
        PortRange { first: port, last: port }
    }

    /// Whether `port` is in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether it is more than one port.
    pub fn is_range(self) -> bool {
        self.first != self.last
    }
}

/// `80` or `8000:9000`
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_range() { write!(f, "{}:{}", self.first, self.last) } else { write!(f, "{}", self.first) }
    }
}

/// `ranges` in ascending order, those that overlap or touch made one.
pub fn merged_ports(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    order::sort_by_key(&mut sorted, |range| (range.first, range.last));
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

/// Addresses of one family from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The addresses from `first` to `last`; `None` if they are of two families or the other way round.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<AddressRange> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(AddressRange { first, last })
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> IpAddr {
        self.last
    }

    /// Whether `address` is in the range. Any address of IPv4 is less than any of IPv6.
    pub fn contains(self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }

    /// The fewest networks that hold these addresses and no others.
    pub fn nets(self) -> Vec<IpNet> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }

    /// The address behind the last one; none behind the highest there is.
    pub fn end(self) -> Option<IpAddr> {
        match self.last {
            IpAddr::V4(last) => u32::from(last).checked_add(1).map(|end| Ipv4Addr::from(end).into()),
            IpAddr::V6(last) => u128::from(last).checked_add(1).map(|end| Ipv6Addr::from(end).into()),
        }
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> AddressRange {
        AddressRange { first: net.network(), last: net.broadcast() }
    }
}

/// `10.0.0.0/8`, `10.0.0.1` or, where it is no network, `10.0.0.1-10.0.0.9`: as nft prints it.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        let net = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let mask = !(u32::from(first) ^ u32::from(last));
                Ipv4Net::with_netmask(first, mask.into()).ok().map(IpNet::V4)
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let mask = !(u128::from(first) ^ u128::from(last));
                Ipv6Net::with_netmask(first, mask.into()).ok().map(IpNet::V6)
            }
            _ => None,
        };
        match net.filter(|net| AddressRange::from(*net) == *self) {
            Some(net) => net.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Addresses of one family, as disjoint ranges in ascending order: two sets of the same addresses are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressSet(Vec<AddressRange>);

impl AddressSet {
    /// The ranges.
    pub fn ranges(&self) -> &[AddressRange] {
        &self.0
    }

    /// Whether `address` is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }
}

impl FromIterator<AddressRange> for AddressSet {
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> AddressSet {
        let mut sorted: Vec<AddressRange> = ranges.into_iter().collect();
        order::sort_by_key(&mut sorted, |range| (range.first, range.last));
        let mut merged: Vec<AddressRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.first <= last.last || last.end() == Some(range.first) => last.last = last.last.max(range.last),
                _ => merged.push(range),
            }
        }
        AddressSet(merged)
    }
}

/// `10.0.0.0/8, 192.168.0.1`
impl fmt::Display for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

/// User or group ids from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The lowest id.
    pub first: u32,
    /// The highest id.
    pub last: u32,
}

impl IdRange {
    /// One id.
    pub fn single(id: u32) -> IdRange {
        IdRange { first: id, last: id }
    }

    /// Whether `id` is in the range.
    pub fn contains(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// `1337` or `1337-1340`
impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A mark and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkMask {
    /// The value.
    pub value: u32,
    /// The bits that are compared or written.
    pub mask: u32,
}

impl MarkMask {
    /// A mark of which all bits count.
    pub fn full(value: u32) -> MarkMask {
        MarkMask { value, mask: u32::MAX }
    }
}

/// `0x539/0xffffffff`
impl fmt::Display for MarkMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// A set of connection tracking states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateSet(u8);

impl StateSet {
    /// Packets that belong to no connection and cannot begin one.
    pub const INVALID: StateSet = StateSet(1);
    /// The first packet of a connection.
    pub const NEW: StateSet = StateSet(2);
    /// A connection that another one announced.
    pub const RELATED: StateSet = StateSet(4);
    /// A connection seen in both directions.
    pub const ESTABLISHED: StateSet = StateSet(8);
    /// Packets that connection tracking leaves alone.
    pub const UNTRACKED: StateSet = StateSet(16);

    /// The states with the names that iptables gives them, in the order in which it prints them.
    pub const NAMES: [(StateSet, &'static str); 5] = [
        (StateSet::INVALID, "INVALID"),
        (StateSet::NEW, "NEW"),
        (StateSet::RELATED, "RELATED"),
        (StateSet::ESTABLISHED, "ESTABLISHED"),
        (StateSet::UNTRACKED, "UNTRACKED"),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: StateSet) -> StateSet {
        StateSet(self.0 | other.0)
    }

    /// Whether all states of `other` are in this set.
    pub const fn contains(self, other: StateSet) -> bool {
        self.0 & other.0 == other.0
    }
}

/// `RELATED,ESTABLISHED`
impl fmt::Display for StateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (state, name) in StateSet::NAMES {
            if self.contains(state) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nets: &[&str]) -> AddressSet {
        nets.iter().map(|net| AddressRange::from(net.parse::<IpNet>().unwrap())).collect()
    }

    #[test]
    fn addresses_are_the_same_however_they_are_listed() {
        assert_eq!(set(&["10.0.0.0/9", "10.128.0.0/9"]), set(&["10.0.0.0/8", "10.1.0.0/16"]));
        assert_eq!(set(&["fd00::/8", "::1/128"]).to_string(), "::1, fd00::/8");
        assert_eq!(set(&["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"]).to_string(), "10.0.0.1-10.0.0.3");
        assert_eq!(set(&["0.0.0.0/0", "255.255.255.255/32"]).to_string(), "0.0.0.0/0");
        assert_eq!(set(&["10.0.0.6/31", "10.0.0.8/32"]).to_string(), "10.0.0.6-10.0.0.8");
    }

    #[test]
    fn a_range_is_made_of_the_fewest_networks() {
        let range = AddressRange::new("10.0.0.1".parse().unwrap(), "10.0.0.6".parse().unwrap()).unwrap();
        let nets: Vec<String> = range.nets().iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]);
        assert_eq!(AddressRange::from("::/0".parse::<IpNet>().unwrap()).end(), None);
        assert!(AddressRange::new("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()).is_none());
    }

    #[test]
    fn ports_are_merged() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(merged_ports(&[range(80, 80), range(1, 5), range(6, 9), range(3, 4)]), [range(1, 9), range(80, 80)]);
        assert_eq!(merged_ports(&[range(65535, 65535), range(0, 65535)]), [range(0, 65535)]);
    }
}
