//! What matches and targets are made of: protocols, interfaces, ports, ids, marks, states.

use std::fmt;

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
