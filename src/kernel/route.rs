//! Addresses, policy rules and routes of the network namespace, over rtnetlink.
//!
//! What a plan wants of them is a [`Routing`]: [`ensure`] brings it about, [`check`] says what is missing. What is there
//! and no longer wanted is [`Stale`], which [`remove`] takes away. Everything that changes the kernel writes down a [`Change`] that can be undone, also
//! when it fails half way, so that a transaction over more than routes can be rolled back.

mod address;
mod error;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod journal;
mod local;
mod rule;
mod stale;

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Instant;

use nix::libc;

pub use address::{
    Address, Ipv6State, add_passthrough_v6, addresses, has_ipv6, has_passthrough_v6, ipv6_state, loopback_index, passthrough_v6_protocol,
    remove_passthrough_v6,
};
pub use error::{RouteError, policy_routing_option};
pub use journal::{Change, Journal, roll_back};
pub use local::{ensure_route, has_route};
pub use rule::{Rule, count_rules, ensure_rule, rules};
pub use stale::{Stale, remove, stale_rules};

use super::netlink::{Protocol, Socket};
use crate::ruleset::routing::PASSTHROUGH_V6;
use crate::ruleset::{Family, PolicyRoute, Routing};

/// Who added a policy rule or an address, as the kernel keeps it beside them: the number by which ours are known again.
/// `ip` shows it as `proto 109`; neither the kernel nor any routing daemon uses it.
#[doc(alias = "FRA_PROTOCOL")]
#[doc(alias = "IFA_PROTO")]
pub const OUR_PROTOCOL: u8 = 109;

/// A socket for everything in this module, in the calling thread's network namespace. Nothing is waited for after
/// `deadline`.
pub fn open(deadline: Instant) -> Result<Socket, RouteError> {
    Socket::open(Protocol::Route, deadline).map_err(RouteError::reading("addresses and routes"))
}

/// Brings about everything in `routing`: the address, then for each family the policy rule and then the route. What
/// is there already is left alone; a policy rule that is there more than once is reduced to one.
///
/// The rule comes first because a kernel without policy routing refuses it; the same kernel would put the route into
/// its main table.
pub fn ensure(socket: &mut Socket, routing: &Routing, journal: &mut Journal) -> Result<(), RouteError> {
    if routing.passthrough_v6 {
        add_passthrough_v6(socket, journal)?;
    }
    for policy in &routing.policy {
        ensure_rule(socket, policy, journal)?;
        ensure_route(socket, policy, journal)?;
    }
    Ok(())
}

/// What of `routing` the kernel lacks, or has too often.
pub fn check(socket: &mut Socket, routing: &Routing) -> Result<Vec<RoutingDrift>, RouteError> {
    let mut drift = Vec::new();
    if routing.passthrough_v6 && !has_passthrough_v6(socket)? {
        drift.push(RoutingDrift::PassthroughMissing);
    }
    for policy in &routing.policy {
        match count_rules(socket, policy)? {
            0 => drift.push(RoutingDrift::RuleMissing(*policy)),
            1 => {}
            times => drift.push(RoutingDrift::RuleRepeated { policy: *policy, times }),
        }
        if !has_route(socket, policy)? {
            drift.push(RoutingDrift::RouteMissing(*policy));
        }
    }
    Ok(drift)
}

/// One difference between a [`Routing`] and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingDrift {
    /// `::6` is not on `lo`.
    PassthroughMissing,
    /// There is no such policy rule.
    RuleMissing(PolicyRoute),
    /// The policy rule is there more than once.
    RuleRepeated {
        /// The rule.
        policy: PolicyRoute,
        /// How often.
        times: usize,
    },
    /// The table does not deliver to the loopback device.
    RouteMissing(PolicyRoute),
}

impl fmt::Display for RoutingDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoutingDrift::PassthroughMissing => write!(f, "missing address {PASSTHROUGH_V6}/128 on lo"),
            RoutingDrift::RuleMissing(policy) => write!(f, "missing {}", rule::describe(policy)),
            RoutingDrift::RuleRepeated { policy, times } => write!(f, "{times} times instead of once {}", rule::describe(policy)),
            RoutingDrift::RouteMissing(policy) => write!(f, "missing {}", local::describe(policy.family, policy.table)),
        }
    }
}

/// The family's number in rtnetlink's messages.
fn family_number(family: Family) -> u8 {
    // Both constants are below 256.
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// The family with that number.
fn family_of(number: u8) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family_number(*family) == number)
}

/// A table's number as the one byte that the messages' fixed parts have for it; 0 when only the attribute can say it.
fn short_table(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(libc::RT_TABLE_UNSPEC)
}

/// Whether `address` is only of use within the pod or on its link: loopback, link-local, unspecified or [`PASSTHROUGH_V6`].
fn is_local_v6(address: Ipv6Addr) -> bool {
    address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local() || address == PASSTHROUGH_V6
}

#[cfg(test)]
mod tests;
