//! Local addresses: reading them all, and the one that a plan may add to the loopback device.

use std::net::{IpAddr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc::{self, RTM_DELADDR, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket as open_socket};

use super::journal::{Change, Journal, record, was_gone};
use super::{OUR_PROTOCOL, RouteError, family_number, is_local_v6};
use crate::kernel::netlink::wire::{Attribute, AttributeWriter, Malformed, Message, u8_at, u32_at};
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::ruleset::Family;
use crate::ruleset::routing::PASSTHROUGH_V6;

/// The length of an address message's fixed part.
#[doc(alias = "ifaddrmsg")]
const ADDRESS_LEN: usize = 8;

/// Who added the address; kernels before 5.18 neither keep nor tell it.
#[doc(alias = "IFA_PROTO")]
const PROTOCOL: u16 = 11;

/// The length of a link message's fixed part.
#[doc(alias = "ifinfomsg")]
pub(super) const LINK_LEN: usize = 16;

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<libc::ifaddrmsg>() == ADDRESS_LEN);
    assert!(offset_of!(libc::ifaddrmsg, ifa_family) == 0);
    assert!(offset_of!(libc::ifaddrmsg, ifa_prefixlen) == 1);
    assert!(offset_of!(libc::ifaddrmsg, ifa_flags) == 2);
    assert!(offset_of!(libc::ifaddrmsg, ifa_scope) == 3);
    assert!(offset_of!(libc::ifaddrmsg, ifa_index) == 4);
    assert!(size_of::<libc::ifinfomsg>() == LINK_LEN);
    assert!(offset_of!(libc::ifinfomsg, ifi_index) == 4);
};

/// An address of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix_len: u8,
    /// The number of its interface.
    pub ifindex: u32,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub scope: u8,
}

impl Address {
    /// The address's family.
    pub fn family(&self) -> Family {
        match self.address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    pub(super) fn parse(message: &Message<'_>) -> Result<Option<Address>, Malformed> {
        if message.kind != RTM_NEWADDR {
            return Ok(None);
        }
        let attributes = message.attributes(ADDRESS_LEN)?;
        let own = match attributes.find(libc::IFA_LOCAL)? {
            // Where the two differ, the other one is the far end of a point-to-point link.
            Some(local) => Some(local),
            None => attributes.find(libc::IFA_ADDRESS)?,
        };
        let family = u8_at(message.payload, 0)?;
        let Some(address) = own.and_then(|own| ip(family, &own)) else { return Ok(None) };
        Ok(Some(Address {
            address,
            prefix_len: u8_at(message.payload, 1)?,
            ifindex: u32_at(message.payload, 4)?,
            scope: u8_at(message.payload, 3)?,
        }))
    }
}

fn ip(family: u8, attribute: &Attribute<'_>) -> Option<IpAddr> {
    match super::family_of(family)? {
        Family::V4 => <[u8; 4]>::try_from(attribute.value).ok().map(IpAddr::from),
        Family::V6 => <[u8; 16]>::try_from(attribute.value).ok().map(IpAddr::from),
    }
}

/// Every IPv4 and IPv6 address in the kernel's order: all IPv4, then all IPv6. Interfaces that are down count.
pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>, RouteError> {
    socket.dump(RTM_GETADDR, &[0; ADDRESS_LEN], Address::parse).map_err(RouteError::reading("the local addresses"))
}

/// The number of the loopback device, 1 on every kernel so far.
pub fn loopback_index(socket: &mut Socket) -> Result<u32, RouteError> {
    let name = |attributes: &mut AttributeWriter<'_>| {
        attributes.text(libc::IFLA_IFNAME, "lo");
    };
    let index = |message: &Message<'_>| u32_at(message.payload, 4).map(Some);
    let doing = || "find the loopback device".to_owned();
    let found = socket.query(RTM_GETLINK, 0, &[0; LINK_LEN], name, index).map_err(RouteError::changing(doing(), Family::V4))?;
    found.first().copied().ok_or_else(|| RouteError::NoLoopback { doing: doing(), errno: Errno::ENODEV })
}

/// The passthrough address on `lo`.
struct Passthrough {
    /// Who added it, 0 when that is not known.
    protocol: u8,
    /// What the kernel says of it.
    payload: Vec<u8>,
}

fn find_passthrough_v6(socket: &mut Socket, lo: u32) -> Result<Option<Passthrough>, RouteError> {
    let fixed = [family_number(Family::V6), 0, 0, 0, 0, 0, 0, 0];
    // A kernel without IPv6 answers with the addresses of all other families.
    let parse = |message: &Message<'_>| {
        let found = Address::parse(message)?.is_some_and(|found| found.ifindex == lo && found.address == IpAddr::V6(PASSTHROUGH_V6));
        if !found {
            return Ok(None);
        }
        let protocol = message.attributes(ADDRESS_LEN)?.find(PROTOCOL)?.map_or(Ok(0), |protocol| protocol.u8())?;
        Ok(Some(Passthrough { protocol, payload: message.payload.to_vec() }))
    };
    let found = match socket.dump(RTM_GETADDR, &fixed, parse) {
        Err(NetlinkError::Refused { errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP, .. }) => Vec::new(),
        found => found.map_err(RouteError::reading("the IPv6 addresses"))?,
    };
    Ok(found.into_iter().next())
}

/// Whether [`PASSTHROUGH_V6`] is on the loopback device, with whatever prefix.
pub fn has_passthrough_v6(socket: &mut Socket) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    Ok(find_passthrough_v6(socket, lo)?.is_some())
}

/// The number of whoever put [`PASSTHROUGH_V6`] on the loopback device ([`OUR_PROTOCOL`] is ours, 0 says nothing), if it
/// is there.
pub fn passthrough_v6_protocol(socket: &mut Socket) -> Result<Option<u8>, RouteError> {
    let lo = loopback_index(socket)?;
    Ok(find_passthrough_v6(socket, lo)?.map(|found| found.protocol))
}

/// Puts [`PASSTHROUGH_V6`]`/128` on the loopback device; whether it was not there before is the result.
pub fn add_passthrough_v6(socket: &mut Socket, journal: &mut Journal) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    if find_passthrough_v6(socket, lo)?.is_some() {
        return Ok(false);
    }
    let error = RouteError::changing(format!("add {PASSTHROUGH_V6}/128 to lo"), Family::V6);
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let octets = PASSTHROUGH_V6.octets();
    // The loopback device does no duplicate address detection.
    let added = socket.request(RTM_NEWADDR, flags, &passthrough_fixed(lo), |attributes| {
        attributes.bytes(libc::IFA_LOCAL, &octets).bytes(libc::IFA_ADDRESS, &octets).u8(PROTOCOL, OUR_PROTOCOL);
    });
    match record(journal, Change::PassthroughAdded { lo }, added) {
        Ok(()) => Ok(true),
        // Somebody else added it since we looked.
        Err(refused) if refused.errno() == Some(Errno::EEXIST) => Ok(false),
        Err(refused) => Err(error(refused)),
    }
}

/// Takes [`PASSTHROUGH_V6`] off the loopback device; whether it was there is the result.
pub fn remove_passthrough_v6(socket: &mut Socket, journal: &mut Journal) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    let Some(Passthrough { payload, .. }) = find_passthrough_v6(socket, lo)? else { return Ok(false) };
    let deleted = delete(socket, &payload);
    if was_gone(&deleted, Errno::EADDRNOTAVAIL) {
        return Ok(false);
    }
    record(journal, Change::PassthroughRemoved { payload }, deleted).map_err(not_deleted())?;
    Ok(true)
}

fn passthrough_fixed(lo: u32) -> [u8; ADDRESS_LEN] {
    let [a, b, c, d] = lo.to_ne_bytes();
    [family_number(Family::V6), 128, 0, libc::RT_SCOPE_UNIVERSE, a, b, c, d]
}

/// Deletes exactly the address of this description, with its own prefix length.
fn delete(socket: &mut Socket, payload: &[u8]) -> Result<(), NetlinkError> {
    socket.request(RTM_DELADDR, 0, payload, |_| {})
}

fn not_deleted() -> impl FnOnce(NetlinkError) -> RouteError {
    RouteError::changing(format!("remove {PASSTHROUGH_V6} from lo"), Family::V6)
}

pub(super) fn undo_add(socket: &mut Socket, lo: u32) -> Result<(), RouteError> {
    match find_passthrough_v6(socket, lo)? {
        Some(found) => delete(socket, &found.payload).map_err(not_deleted()),
        None => Ok(()),
    }
}

pub(super) fn undo_remove(socket: &mut Socket, payload: &[u8]) -> Result<(), RouteError> {
    match socket.request(RTM_NEWADDR, libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16, payload, |_| {}) {
        Err(refused) if refused.errno() == Some(Errno::EEXIST) => Ok(()),
        result => result.map_err(RouteError::changing(format!("put {PASSTHROUGH_V6} back on lo"), Family::V6)),
    }
}

/// What there is of IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipv6State {
    /// The kernel has no IPv6, or was started without.
    Absent,
    /// There are at most loopback and link-local addresses ([`PASSTHROUGH_V6`] counts as one): nobody outside the
    /// link can be reached.
    LocalOnly,
    /// There are these other addresses.
    Global(Vec<Ipv6Addr>),
}

impl Ipv6State {
    /// The state on a kernel that has IPv6, with these addresses.
    pub(super) fn of(addresses: &[Address]) -> Ipv6State {
        let global: Vec<Ipv6Addr> = addresses
            .iter()
            .filter_map(|found| match found.address {
                IpAddr::V6(address) if !is_local_v6(address) => Some(address),
                _ => None,
            })
            .collect();
        if global.is_empty() { Ipv6State::LocalOnly } else { Ipv6State::Global(global) }
    }
}

/// What there is of IPv6 in this network namespace.
pub fn ipv6_state(socket: &mut Socket) -> Result<Ipv6State, RouteError> {
    if !has_ipv6() { Ok(Ipv6State::Absent) } else { Ok(Ipv6State::of(&addresses(socket)?)) }
}

/// Whether the kernel has an IPv6 stack.
pub fn has_ipv6() -> bool {
    // Disabled as a whole (`ipv6.disable=1`) it is not registered as a family either.
    let refused = open_socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).err();
    refused != Some(Errno::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address { address: text.parse().unwrap(), prefix_len: 64, ifindex: 2, scope: 0 }
    }

    #[test]
    fn only_addresses_that_reach_beyond_the_link_are_global() {
        let local = ["10.0.0.2", "::1", "fe80::1", "::6"].map(address);
        assert_eq!(Ipv6State::of(&local), Ipv6State::LocalOnly);
        let unique: Ipv6Addr = "fd00::5".parse().unwrap();
        let both = [&local[..], &[address("fd00::5")]].concat();
        assert_eq!(Ipv6State::of(&both), Ipv6State::Global(vec![unique]));
        assert_eq!(Ipv6State::of(&[]), Ipv6State::LocalOnly);
    }
}
