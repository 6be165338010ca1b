//! The default route that delivers to the loopback device: `local default dev lo table TABLE`.

use nix::errno::Errno;
use nix::libc::{self, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE};

use super::journal::{Change, Journal, record, was_gone};
use super::{RouteError, family_number, family_of, loopback_index, short_table};
use crate::kernel::netlink::wire::{Malformed, Message, u8_at, u32_at};
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::ruleset::{Family, PolicyRoute};

/// The length of a route message's fixed part: family, lengths of destination and source prefix, TOS, table,
/// protocol, scope, type, then flags of four bytes.
#[doc(alias = "rtmsg")]
const ROUTE_LEN: usize = 12;

/// Where the flags are in the fixed part.
const FLAGS: std::ops::Range<usize> = 8..12;

/// The gateway is on the link, whatever its address: the only flag of a route that a user sets.
#[doc(alias = "RTNH_F_ONLINK")]
const ONLINK: u32 = 4;

/// The tables that every kernel has and that are never anybody's own.
const OWN_TABLES_OF_THE_KERNEL: [u32; 4] =
    [libc::RT_TABLE_UNSPEC as u32, libc::RT_TABLE_DEFAULT as u32, libc::RT_TABLE_MAIN as u32, libc::RT_TABLE_LOCAL as u32];

/// A route of one table.
#[derive(Debug)]
pub(super) struct Route {
    /// Whether it is the local default route by the loopback device.
    is_local_default: bool,
    /// What the kernel said of it, without the flags that only the kernel sets.
    payload: Vec<u8>,
}

/// The route in the words of `ip`.
pub(super) fn describe(family: Family, table: u32) -> String {
    format!("{family} route local default dev lo table {table}")
}

pub(super) fn parse(message: &Message<'_>, policy: &PolicyRoute, lo: u32) -> Result<Option<Route>, Malformed> {
    let payload = message.payload;
    if message.kind != RTM_NEWROUTE || family_of(u8_at(payload, 0)?) != Some(policy.family) {
        return Ok(None);
    }
    let mut table = u32::from(u8_at(payload, 4)?);
    let mut by_lo = false;
    let mut plain = u8_at(payload, 1)? == 0 && u8_at(payload, 2)? == 0 && u8_at(payload, 3)? == 0;
    for attribute in message.attributes(ROUTE_LEN)? {
        let attribute = attribute?;
        match attribute.kind {
            libc::RTA_TABLE => table = attribute.u32()?,
            libc::RTA_OIF => by_lo = attribute.u32()? == lo,
            libc::RTA_GATEWAY | libc::RTA_MULTIPATH | libc::RTA_IIF => plain = false,
            _ => {}
        }
    }
    if table != policy.table || u32_at(payload, FLAGS.start)? & libc::RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let flags = u32_at(payload, FLAGS.start)? & ONLINK;
    let mut payload = payload.to_vec();
    payload[FLAGS].copy_from_slice(&flags.to_ne_bytes());
    Ok(Some(Route { is_local_default: plain && by_lo && payload[7] == libc::RTN_LOCAL, payload }))
}

/// The routes of the policy's table.
fn table(socket: &mut Socket, policy: &PolicyRoute, lo: u32) -> Result<Vec<Route>, RouteError> {
    let mut fixed = [0; ROUTE_LEN];
    fixed[0] = family_number(policy.family);
    match socket.dump(RTM_GETROUTE, &fixed, |message| parse(message, policy, lo)) {
        // The family is missing altogether, or (with checks that newer kernels may apply) the table.
        Err(NetlinkError::Refused { errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::ENOENT, .. }) => Ok(Vec::new()),
        routes => routes.map_err(RouteError::reading(&format!("the {} routes", policy.family))),
    }
}

/// Whether the policy's table delivers everything to the loopback device.
pub fn has_route(socket: &mut Socket, policy: &PolicyRoute) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    Ok(table(socket, policy, lo)?.iter().any(|route| route.is_local_default))
}

/// Sees to it that the policy's table delivers everything to the loopback device; whether the route had to be added
/// is the result.
pub fn ensure_route(socket: &mut Socket, policy: &PolicyRoute, journal: &mut Journal) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    if table(socket, policy, lo)?.iter().any(|route| route.is_local_default) {
        return Ok(false);
    }
    let doing = || format!("add {}", describe(policy.family, policy.table));
    let added = add(socket, policy, lo);
    match record(journal, Change::RouteAdded { policy: *policy, lo }, added) {
        Ok(()) => Ok(true),
        Err(refused) if refused.errno() == Some(Errno::EEXIST) => {
            // Somebody else may have added the same one since we looked.
            let taken = !table(socket, policy, lo)?.iter().any(|route| route.is_local_default);
            if taken { Err(RouteError::RouteTaken { doing: doing() }) } else { Ok(false) }
        }
        Err(refused) => Err(RouteError::changing(doing(), policy.family)(refused)),
    }
}

/// The local default routes of the policy's table if there is nothing else in it (there may be none at all), and
/// nothing of the kernel's own tables.
fn sole_routes(socket: &mut Socket, policy: &PolicyRoute, lo: u32) -> Result<Option<Vec<Route>>, RouteError> {
    if OWN_TABLES_OF_THE_KERNEL.contains(&policy.table) {
        return Ok(None);
    }
    let routes = table(socket, policy, lo)?;
    Ok(routes.iter().all(|route| route.is_local_default).then_some(routes))
}

/// Whether the policy's table looks as if made for TPROXY alone: it holds the local default route, or nothing.
pub(super) fn is_for_policy_alone(socket: &mut Socket, policy: &PolicyRoute) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    Ok(sole_routes(socket, policy, lo)?.is_some())
}

/// Takes the local default route away if the policy's table holds nothing else.
pub(super) fn remove_sole_route(socket: &mut Socket, policy: &PolicyRoute, journal: &mut Journal) -> Result<bool, RouteError> {
    let lo = loopback_index(socket)?;
    let mut routes = sole_routes(socket, policy, lo)?.unwrap_or_default();
    // One that says who made it is that program's.
    routes.retain(|route| matches!(route.payload.get(5), Some(&(libc::RTPROT_UNSPEC | libc::RTPROT_BOOT))));
    let removed = !routes.is_empty();
    for Route { payload, .. } in routes {
        let error = RouteError::changing(format!("delete {}", describe(policy.family, policy.table)), policy.family);
        let deleted = socket.request(RTM_DELROUTE, 0, &payload, |_| {});
        if was_gone(&deleted, Errno::ESRCH) {
            continue;
        }
        record(journal, Change::RouteRemoved { policy: *policy, payload }, deleted).map_err(error)?;
    }
    Ok(removed)
}

fn add(socket: &mut Socket, policy: &PolicyRoute, lo: u32) -> Result<(), NetlinkError> {
    let mut fixed = [0; ROUTE_LEN];
    fixed[0] = family_number(policy.family);
    fixed[4] = short_table(policy.table);
    fixed[5] = libc::RTPROT_BOOT;
    fixed[6] = libc::RT_SCOPE_HOST;
    fixed[7] = libc::RTN_LOCAL;
    socket.request(RTM_NEWROUTE, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16, &fixed, |attributes| {
        attributes.u32(libc::RTA_TABLE, policy.table).u32(libc::RTA_OIF, lo);
    })
}

pub(super) fn undo_add(socket: &mut Socket, policy: &PolicyRoute, lo: u32) -> Result<(), RouteError> {
    // There was no such route before. The whole description deletes no other default route of the table.
    let Some(route) = table(socket, policy, lo)?.into_iter().find(|route| route.is_local_default) else { return Ok(()) };
    match socket.request(RTM_DELROUTE, 0, &route.payload, |_| {}) {
        // Somebody else was faster.
        Err(refused) if refused.errno() == Some(Errno::ESRCH) => Ok(()),
        result => {
            let doing = format!("delete {} again", describe(policy.family, policy.table));
            result.map_err(RouteError::changing(doing, policy.family))
        }
    }
}

pub(super) fn undo_remove(socket: &mut Socket, policy: &PolicyRoute, payload: &[u8]) -> Result<(), RouteError> {
    match socket.request(RTM_NEWROUTE, libc::NLM_F_CREATE as u16 | libc::NLM_F_EXCL as u16, payload, |_| {}) {
        Err(refused) if refused.errno() == Some(Errno::EEXIST) => Ok(()),
        result => {
            let doing = format!("put back {}", describe(policy.family, policy.table));
            result.map_err(RouteError::changing(doing, policy.family))
        }
    }
}
