//! What goes with the rules outside the packet filter: local addresses and policy routes.

use std::net::Ipv6Addr;

use super::Family;

/// `::6`, the address from which Istio's proxy connects to the application over IPv6 (IPv4 uses 127.0.0.6, which
/// every host already answers to).
pub const PASSTHROUGH_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Sends packets that carry a mark to the loopback device: `ip rule add fwmark MARK lookup TABLE` and
/// `ip route add local default dev lo table TABLE`, what TPROXY needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRoute {
    /// The family of the rule and of the route.
    pub family: Family,
    /// The firewall mark, compared in full (mask 0xffffffff).
    pub mark: u32,
    /// The routing table's number.
    pub table: u32,
}

/// Addresses and routes that a plan needs besides its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Whether `::6/128` has to be on `lo`.
    pub passthrough_v6: bool,
    /// Policy routes, at most one a family.
    pub policy: Vec<PolicyRoute>,
}
