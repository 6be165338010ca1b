//! Whether a packet is what a rule's match asks for.

use std::net::IpAddr;

use crate::ruleset::{AddressRange, Condition, Family, Match, PortRange, Protocol, StateSet};

use super::packet::Packet;

/// What is known of a packet at one moment of its way.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) source: Option<IpAddr>,
    pub(super) source_port: Option<u16>,
    pub(super) destination: Option<IpAddr>,
    pub(super) destination_port: Option<u16>,
    pub(super) in_device: Device,
    pub(super) out_device: Device,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mark: u32,
    pub(super) connmark: u32,
    pub(super) state: StateSet,
    /// Whether connection tracking has looked at it.
    pub(super) is_tracked: bool,
}

/// A device that a packet comes in by or goes out by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// None, at this hook.
    None,
    Named(String),
    /// Some device other than lo.
    Some,
}

impl Device {
    pub(super) fn loopback() -> Device {
        Device::Named("lo".to_owned())
    }

    pub(super) fn is_loopback(&self) -> bool {
        matches!(self, Device::Named(name) if name == "lo")
    }

    /// Whether the device is called so.
    fn is(&self, (start, open): (&str, bool)) -> Option<bool> {
        let is_called = |name: &str| if open { name.starts_with(start) } else { name == start };
        match self {
            Device::None => Some(is_called("")),
            Device::Named(name) => Some(is_called(name)),
            Device::Some if start == "lo" && !open => Some(false),
            Device::Some => None,
        }
    }
}

/// Whether a match holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    Unknown,
}

/// Matches that say nothing about a packet but only tell of it. nf_tables counts such statements as matches here.
const ALWAYS: [&str; 2] = ["log", "counter"];

/// What a target that is not known otherwise does with a packet, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It goes on to the next rule.
    None,
    /// It leaves the table's chain, and comes from elsewhere then.
    Translates,
    /// It is dropped, perhaps with an answer.
    Drops,
    /// Connection tracking leaves it alone.
    Untracks,
    Unknown,
}

/// The targets of xtables and the statements of nf_tables of which that much is known.
pub(super) fn effect(name: &str) -> Effect {
    match name {
        "LOG" | "NFLOG" | "TRACE" | "CHECKSUM" | "CLASSIFY" | "DSCP" | "TOS" | "TTL" | "HL" | "TCPMSS" | "TEE" | "dup" => Effect::None,
        "NOTRACK" | "notrack" => Effect::Untracks,
        "MASQUERADE" | "SNAT" | "masq" => Effect::Translates,
        "REJECT" | "reject" => Effect::Drops,
        _ => Effect::Unknown,
    }
}

impl Facts {
    /// What is known of a packet before it is anywhere.
    pub(super) fn of(packet: &Packet, family: Family) -> Facts {
        let Packet { protocol, source, source_port, destination, destination_port, uid, gid, mark, state, .. } = packet.clone();
        let (in_device, out_device) = (Device::None, Device::None);
        Facts {
            family,
            protocol,
            source,
            source_port,
            destination,
            destination_port,
            in_device,
            out_device,
            uid,
            gid,
            mark,
            connmark: 0,
            state,
            is_tracked: false,
        }
    }

    /// Whether connection tracking takes it for part of a connection.
    pub(super) fn has_connection(&self) -> bool {
        !matches!(self.state, StateSet::INVALID | StateSet::UNTRACKED)
    }

    /// Whether `wanted` holds, read as xtables' extensions do or as nf_tables' own expressions.
    pub(super) fn meet(&self, wanted: &Match, is_xtables: bool) -> Truth {
        if let Condition::Opaque(opaque) = &wanted.condition
            && ALWAYS.contains(&opaque.name.as_str())
        {
            return Truth::Yes;
        }
        // Where there is nothing to compare, a rule has no match, turned round or not.
        let is_absent = match &wanted.condition {
            Condition::Connmark(_) => !self.is_tracked,
            Condition::Uid(_) | Condition::Gid(_) => !is_xtables && self.uid.is_none(),
            _ => false,
        };
        if is_absent {
            return Truth::No;
        }
        match self.is(&wanted.condition) {
            None => Truth::Unknown,
            Some(holds) if holds == wanted.negated => Truth::No,
            Some(_) => Truth::Yes,
        }
    }

    fn is(&self, condition: &Condition) -> Option<bool> {
        match condition {
            Condition::Source(net) => self.source.map(|address| AddressRange::from(*net).contains(address)),
            Condition::Destination(net) => self.destination.map(|address| AddressRange::from(*net).contains(address)),
            Condition::Sources(set) => self.source.map(|address| set.contains(address)),
            Condition::Destinations(set) => self.destination.map(|address| set.contains(address)),
            Condition::InInterface(interface) => self.in_device.is(interface.pattern()),
            Condition::OutInterface(interface) => self.out_device.is(interface.pattern()),
            Condition::Protocol(protocol) => Some(self.protocol == *protocol),
            Condition::SourcePort(range) => self.comes_from(&[*range]),
            Condition::SourcePorts(list) => self.comes_from(list),
            Condition::DestinationPort(range) => Some(self.goes_to(&[*range])),
            Condition::DestinationPorts(list) => Some(self.goes_to(list)),
            Condition::Uid(ids) => Some(self.uid.is_some_and(|uid| ids.contains(uid))),
            Condition::Gid(ids) => Some(self.gid.is_some_and(|gid| ids.contains(gid))),
            Condition::Mark(mark) => Some(self.mark & mark.mask == mark.value),
            Condition::Connmark(mark) => Some(self.connmark & mark.mask == mark.value),
            Condition::State(states) => Some(states.contains(self.state_now())),
            Condition::Opaque(_) => None,
        }
    }

    /// Before connection tracking has looked at a packet, it belongs to no connection.
    fn state_now(&self) -> StateSet {
        if self.is_tracked || self.state == StateSet::UNTRACKED { self.state } else { StateSet::INVALID }
    }

    fn goes_to(&self, list: &[PortRange]) -> bool {
        self.destination_port.is_some_and(|port| list.iter().any(|range| range.contains(port)))
    }

    fn comes_from(&self, list: &[PortRange]) -> Option<bool> {
        match self.source_port {
            Some(port) => Some(list.iter().any(|range| range.contains(port))),
            // A protocol without ports.
            None if self.destination_port.is_none() => Some(false),
            None => {
                // Which ports the kernel gives to sockets is for each pod to say, and programs ask for others.
                let (is_all, is_none) =
                    (|range: &PortRange| range.first <= 1 && range.last == u16::MAX, |range: &PortRange| range.last == 0);
                if list.iter().any(is_all) { Some(true) } else { list.iter().all(is_none).then_some(false) }
            }
        }
    }

    /// Why it is not known whether the condition holds.
    pub(super) fn doubt(&self, condition: &Condition) -> String {
        match condition {
            Condition::InInterface(_) | Condition::OutInterface(_) => "and the packet's device is not given (dev NAME)".to_owned(),
            Condition::Opaque(_) => "which mesh-init does not know".to_owned(),
            _ => self.value(condition),
        }
    }

    /// What the packet has where the condition looks, in words.
    pub(super) fn value(&self, condition: &Condition) -> String {
        let address = |address: Option<IpAddr>| address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
        let port = |port: Option<u16>, none: &str| port.map_or_else(|| none.to_owned(), |port| format!("port {port}"));
        let device = |device: &Device, way: &str| match device {
            Device::None => format!("has no device {way}"),
            Device::Named(name) => format!("{way} by {name}"),
            Device::Some => format!("{way} by a device other than lo"),
        };
        let id = |id: Option<u32>, name: &str| id.map_or_else(|| "no socket".to_owned(), |id| format!("{name} {id}"));
        match condition {
            Condition::Source(_) | Condition::Sources(_) => format!("from {}", address(self.source)),
            Condition::Destination(_) | Condition::Destinations(_) => format!("to {}", address(self.destination)),
            Condition::InInterface(_) => device(&self.in_device, "in"),
            Condition::OutInterface(_) => device(&self.out_device, "out"),
            Condition::Protocol(_) => self.protocol.to_string(),
            Condition::SourcePort(_) | Condition::SourcePorts(_) => format!("from {}", port(self.source_port, "an unknown port")),
            Condition::DestinationPort(_) | Condition::DestinationPorts(_) => format!("to {}", port(self.destination_port, "no port")),
            Condition::Uid(_) => id(self.uid, "uid"),
            Condition::Gid(_) => id(self.gid, "gid"),
            Condition::Mark(_) => format!("mark {:#x}", self.mark),
            Condition::Connmark(_) if !self.is_tracked => "not tracked yet".to_owned(),
            Condition::Connmark(_) => format!("connection mark {:#x}", self.connmark),
            Condition::State(_) => format!("state {}", self.state_now()),
            // Never the one that fails.
            Condition::Opaque(_) => String::new(),
        }
    }
}
