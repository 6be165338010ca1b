//! Matches by the short names that a planner thinks in.

use ipnet::IpNet;

use crate::ruleset::{Condition, IdRange, Interface, Match, PortRange, Protocol};

/// `-p tcp`
pub(super) fn tcp() -> Match {
    Condition::Protocol(Protocol::TCP).into()
}

/// `-p udp`
pub(super) fn udp() -> Match {
    Condition::Protocol(Protocol::UDP).into()
}

/// `-i NAME`
pub(super) fn from_interface(name: &Interface) -> Match {
    Condition::InInterface(name.clone()).into()
}

/// `-o NAME`
pub(super) fn to_interface(name: &Interface) -> Match {
    Condition::OutInterface(name.clone()).into()
}

/// `-i lo`
pub(super) fn from_loopback() -> Match {
    from_interface(&Interface::loopback())
}

/// `-o lo`
pub(super) fn to_loopback() -> Match {
    to_interface(&Interface::loopback())
}

/// `-s NET`, host bits masked
pub(super) fn source(net: IpNet) -> Match {
    Condition::Source(net.trunc()).into()
}

/// `-d NET`, host bits masked
pub(super) fn destination(net: IpNet) -> Match {
    Condition::Destination(net.trunc()).into()
}

/// `! -d NET`, host bits masked
pub(super) fn not_destination(net: IpNet) -> Match {
    !Condition::Destination(net.trunc())
}

/// `--sport PORT`
pub(super) fn source_port(port: u16) -> Match {
    Condition::SourcePort(PortRange::single(port)).into()
}

/// `--dport PORT`
pub(super) fn port(port: u16) -> Match {
    ports(PortRange::single(port))
}

/// `--dport LOW:HIGH`
pub(super) fn ports(range: PortRange) -> Match {
    Condition::DestinationPort(range).into()
}

/// `! --dport PORT`
pub(super) fn not_port(port: u16) -> Match {
    !Condition::DestinationPort(PortRange::single(port))
}

/// `-m owner --uid-owner ID`
pub(super) fn uid(id: IdRange) -> Match {
    Condition::Uid(id).into()
}

/// `-m owner --gid-owner ID`
pub(super) fn gid(id: IdRange) -> Match {
    Condition::Gid(id).into()
}
