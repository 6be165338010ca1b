//! What Istio's rules depend on besides the options: addresses, ids of users and groups, DNS servers.

use std::net::IpAddr;

use super::options::{DnsCapture, Group, Options, OwnerGroups};
use crate::host::Surroundings;
use crate::mesh::flag::{BadValue, Origin};
use crate::mesh::{Error, Needs, address, names};
use crate::ruleset::IdRange;

/// The proxy's user id where neither options nor password file name one.
const DEFAULT_PROXY_UID: u32 = 1337;

/// What the local addresses say about the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The pod's address, whose family the original's own probe uses.
    pub host_ip: IpAddr,
    /// Whether IPv6 is captured beside IPv4.
    pub ipv6: bool,
}

impl Local {
    /// The first usable address decides, or with `--dual-stack` any that is IPv6.
    pub fn new(options: &Options, surroundings: &Surroundings) -> Result<Local, Error> {
        let mut usable = surroundings.addresses.iter().filter_map(|address| address::usable(*address));
        let host_ip = usable.next().ok_or(Error::NoLocalAddress)?;
        let ipv6 = host_ip.is_ipv6() || (options.dual_stack && usable.any(|address| address.is_ipv6()));
        Ok(Local { host_ip, ipv6 })
    }
}

impl Options {
    /// What [`plan`](super::plan) will look up.
    pub fn needs(&self) -> Needs {
        let (OwnerGroups::AllBut(groups) | OwnerGroups::Only(groups)) = &self.owner_groups;
        Needs {
            resolv_conf: self.dns_capture == DnsCapture::Servers,
            group_file: groups.iter().any(|group| matches!(group, Group::Name(_))),
            passwd_file: self.proxy_uid.is_empty(),
        }
    }

    /// The proxy's user ids: those given, or the id of `$ENVOY_USER`, or 1337.
    pub fn proxy_uids(&self, surroundings: &Surroundings) -> Vec<IdRange> {
        if !self.proxy_uid.is_empty() {
            return self.proxy_uid.clone();
        }
        let known = surroundings.users.as_deref().and_then(|users| names::user_id(users, &self.envoy_user));
        vec![IdRange::single(known.unwrap_or(DEFAULT_PROXY_UID))]
    }

    /// The proxy's group ids: those given, or the same as its user ids.
    pub fn proxy_gids(&self, surroundings: &Surroundings) -> Vec<IdRange> {
        if self.proxy_gid.is_empty() { self.proxy_uids(surroundings) } else { self.proxy_gid.clone() }
    }
}

/// Which DNS queries the rules capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dns {
    /// None.
    Off,
    /// Those to any server.
    All,
    /// Those to these servers, at least one.
    Servers(Vec<IpAddr>),
}

/// Whose outgoing traffic the rules capture, by group ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    /// That of all but these.
    AllBut(Vec<IdRange>),
    /// That of these.
    Only(Vec<IdRange>),
}

/// All that the rules depend on, with nothing left to look up.
pub(super) struct Facts {
    pub(super) ipv6: bool,
    pub(super) uids: Vec<IdRange>,
    pub(super) gids: Vec<IdRange>,
    pub(super) owners: Owners,
    pub(super) dns: Dns,
    pub(super) warnings: Vec<String>,
}

impl Facts {
    pub(super) fn new(options: &Options, surroundings: &Surroundings) -> Result<Facts, Error> {
        let ipv6 = Local::new(options, surroundings)?.ipv6;
        let dns = dns(options, surroundings)?;
        let mut warnings = Vec::new();
        if dns == Dns::Off && options.dns_capture == DnsCapture::Servers {
            warnings.push(
                "DNS is not captured: --redirect-dns is set, but resolv.conf names no server and --capture-all-dns is not set".to_owned(),
            );
        }
        if let (false, Some(address)) = (ipv6, address::first_global_v6(&surroundings.addresses)) {
            warnings
                .push(format!("IPv6 traffic is not captured although the pod has the address {address}; pass --dual-stack to capture it"));
        }
        Ok(Facts {
            ipv6,
            uids: options.proxy_uids(surroundings),
            gids: options.proxy_gids(surroundings),
            owners: owners(&options.owner_groups, surroundings)?,
            dns,
            warnings,
        })
    }
}

fn dns(options: &Options, surroundings: &Surroundings) -> Result<Dns, Error> {
    match options.dns_capture {
        DnsCapture::Off => Ok(Dns::Off),
        DnsCapture::All => Ok(Dns::All),
        DnsCapture::Servers => match &surroundings.dns_servers {
            Some(Ok(servers)) if servers.is_empty() => Ok(Dns::Off),
            Some(Ok(servers)) => Ok(Dns::Servers(servers.clone())),
            Some(Err(reason)) => Err(Error::DnsServers { reason: reason.clone() }),
            None => Err(Error::DnsServers { reason: "it was not read".to_owned() }),
        },
    }
}

fn owners(groups: &OwnerGroups, surroundings: &Surroundings) -> Result<Owners, BadValue> {
    match groups {
        OwnerGroups::AllBut(groups) => group_ids(groups, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", surroundings).map(Owners::AllBut),
        OwnerGroups::Only(groups) => group_ids(groups, "ISTIO_OUTBOUND_OWNER_GROUPS", surroundings).map(Owners::Only),
    }
}

fn group_ids(groups: &[Group], variable: &'static str, surroundings: &Surroundings) -> Result<Vec<IdRange>, BadValue> {
    groups.iter().map(|group| group_id(group, variable, surroundings)).collect()
}

fn group_id(group: &Group, variable: &'static str, surroundings: &Surroundings) -> Result<IdRange, BadValue> {
    let name = match group {
        Group::Id(ids) => return Ok(*ids),
        Group::Name(name) => name,
    };
    let problem = match &surroundings.groups {
        Some(Ok(text)) => match names::group_id(text, name) {
            Some(id) => return Ok(IdRange::single(id)),
            None => format!("is not in the group file, which has no line \"{name}:x:NUMBER:\"; add the line, or give the group's number"),
        },
        Some(Err(reason)) => format!("cannot be looked up, as the group file cannot be read ({reason}); give the group's number"),
        None => "cannot be looked up, as no group file was read; give the group's number".to_owned(),
    };
    Err(BadValue { origin: Origin::Env(variable), value: name.clone(), problem })
}
