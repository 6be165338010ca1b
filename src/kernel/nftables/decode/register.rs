//! What is in a register, and what it means to compare it with values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::super::abi::{self, meta, payload};
use super::super::encode::address_field;
use crate::ruleset::{AddressRange, AddressSet, Condition, Family, IdRange, Interface, MarkMask, PortRange, StateSet};

/// What is in a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) what: What,
    /// Bits that were kept, and those that were then turned.
    pub(super) mask: Option<(Vec<u8>, Vec<u8>)>,
    /// Turned into network order.
    pub(super) turned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Meta(u32),
    Ct(u32),
    Payload { base: u32, offset: usize, len: usize },
    Value(Vec<u8>),
}

impl Loaded {
    pub(super) fn plain(what: What) -> Loaded {
        Loaded { what, mask: None, turned: false }
    }

    /// The mask, if it only takes bits away; all bits without one.
    pub(super) fn mark_mask(&self) -> Option<u32> {
        match &self.mask {
            None => Some(u32::MAX),
            Some((mask, xor)) => Some(host(mask)?).filter(|_| xor.iter().all(|byte| *byte == 0)),
        }
    }
}

/// What a mark becomes that is set from this: the bits that are written, and their values.
pub(super) fn mark_set(loaded: &Loaded) -> Option<MarkMask> {
    match (&loaded.what, &loaded.mask) {
        _ if loaded.turned => None,
        (What::Value(value), None) => Some(MarkMask::full(host(value)?)),
        (What::Meta(meta::MARK), Some((mask, xor))) => Some(MarkMask { value: host(xor)?, mask: !host(mask)? }),
        _ => None,
    }
}

pub(super) fn host(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn network(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

pub(super) fn states(bits: u32) -> Option<StateSet> {
    let known = abi::STATE_BITS.iter().fold(0, |known, bit| known | bit);
    let named = StateSet::NAMES.iter().zip(abi::STATE_BITS).filter(|(_, bit)| bits & bit != 0);
    (bits & !known == 0).then(|| named.fold(StateSet::default(), |set, ((state, _), _)| set.union(*state)))
}

/// A name up to its NULs; without one, the beginning of a name.
pub(super) fn interface(value: &[u8]) -> Option<Interface> {
    match value.split_once_nul() {
        // The kernel pads names with NULs, so that nothing else behind the first one is ever found.
        Some(name) if value[name.len()..].iter().any(|byte| *byte != 0) => None,
        Some(name) => Interface::new(std::str::from_utf8(name).ok()?).filter(|name| !name.pattern().1),
        None => Interface::new(&format!("{}+", std::str::from_utf8(value).ok()?)),
    }
}

trait UpToNul {
    /// What precedes the first NUL, if there is one.
    fn split_once_nul(&self) -> Option<&[u8]>;
}

impl UpToNul for [u8] {
    fn split_once_nul(&self) -> Option<&[u8]> {
        let end = self.iter().position(|byte| *byte == 0)?;
        Some(&self[..end])
    }
}

pub(super) fn port_condition(offset: usize, ports: PortRange) -> Option<Condition> {
    match offset {
        0 => Some(Condition::SourcePort(ports)),
        2 => Some(Condition::DestinationPort(ports)),
        _ => None,
    }
}

/// From `first` to `last`, or to where numbers of the kind end.
pub(super) fn range_of(loaded: &Loaded, family: Option<Family>, first: Option<&[u8]>, last: Option<&[u8]>) -> Option<Condition> {
    if loaded.mask.is_some() {
        return None;
    }
    match &loaded.what {
        What::Payload { .. } if loaded.turned => None,
        What::Payload { base: payload::NETWORK, offset, len } => {
            let (source, whole) = address_field(family?);
            let (lowest, highest) = (vec![0; whole], vec![0xff; whole]);
            let range = address_range(whole, first.unwrap_or(&lowest), last.unwrap_or(&highest)).filter(|_| *len == whole)?;
            let set = AddressSet::from_iter([range]);
            match *offset {
                at if at == source => Some(Condition::Sources(set)),
                at if at == source + whole => Some(Condition::Destinations(set)),
                _ => None,
            }
        }
        What::Payload { base: payload::TRANSPORT, offset, len: 2 } => {
            let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
            let ports = PortRange { first: first.map_or(Some(0), port)?, last: last.map_or(Some(u16::MAX), port)? };
            port_condition(*offset, ports)
        }
        What::Meta(key @ (meta::SOCKET_UID | meta::SOCKET_GID)) if loaded.turned => {
            let ids = IdRange { first: first.map_or(Some(0), network)?, last: last.map_or(Some(u32::MAX), network)? };
            Some(if *key == meta::SOCKET_UID { Condition::Uid(ids) } else { Condition::Gid(ids) })
        }
        _ => None,
    }
}

/// The range of `condition`, which is open at its end, up to `last`.
pub(super) fn closed(condition: &Condition, last: &[u8]) -> Option<Condition> {
    let port = || Some(u16::from_be_bytes(last.try_into().ok()?));
    Some(match condition {
        Condition::SourcePort(ports) => Condition::SourcePort(PortRange { last: port()?, ..*ports }),
        Condition::DestinationPort(ports) => Condition::DestinationPort(PortRange { last: port()?, ..*ports }),
        Condition::Uid(ids) => Condition::Uid(IdRange { last: network(last)?, ..*ids }),
        Condition::Gid(ids) => Condition::Gid(IdRange { last: network(last)?, ..*ids }),
        Condition::Sources(set) => Condition::Sources(up_to(set, last)?),
        Condition::Destinations(set) => Condition::Destinations(up_to(set, last)?),
        _ => return None,
    })
}

/// The one range of `set`, ending at `last`.
pub(super) fn up_to(set: &AddressSet, last: &[u8]) -> Option<AddressSet> {
    let first = set.ranges().first()?.first();
    Some(AddressSet::from_iter([AddressRange::new(first, address(last)?)?]))
}

/// Whether ones come before zeros.
pub(super) fn prefix_mask(mask: &[u8]) -> bool {
    let mut bits = mask.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    !bits.by_ref().any(|bit| bit == 0) || bits.all(|bit| bit == 0)
}

/// The network with these first bytes of its address.
pub(super) fn net(family: Family, first: &[u8], bits: usize) -> Option<IpNet> {
    let mut octets = first.to_vec();
    octets.resize(address_field(family).1, 0);
    let net = IpNet::new(address(&octets)?, u8::try_from(bits).ok()?).ok()?;
    (net.trunc() == net).then_some(net)
}

/// Addresses of `len` bytes. Keys of several fields together may be as long as addresses of the other family.
pub(super) fn address_range(len: usize, first: &[u8], last: &[u8]) -> Option<AddressRange> {
    AddressRange::new(address(first)?, address(last)?).filter(|_| first.len() == len)
}

pub(super) fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}
