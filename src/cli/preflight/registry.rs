//! Images that are pulled inside a Kata guest: the agent's own connections, made by user 0 in the pod's network, meet the
//! mesh's rules before a proxy runs.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::filters::Planned;
use crate::cli::check::{Checks, Verdict};
use crate::cli::session::MeshOptions;
use crate::ruleset::walk::{Layers, Outcome, Packet, elsewhere, walk};
use crate::ruleset::{Condition, Family, Protocol, Ruleset, Target};

/// Where images are pulled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    host: String,
    port: u16,
}

/// `HOST:PORT`; none where nothing is said.
pub(super) fn parse(text: &str) -> Result<Option<Registry>, String> {
    match (text.is_empty(), registry(text)) {
        (true, _) => Ok(None),
        (_, None) => Err("is not a registry (HOST:PORT, as registry.example:5000, 10.1.2.3:443 or [fd00::5]:443)".to_owned()),
        (_, registry) => Ok(registry),
    }
}

fn registry(text: &str) -> Option<Registry> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|number| *number != 0 && !port.starts_with('+'))?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let inside = rest.strip_suffix(']')?;
            inside.parse::<Ipv6Addr>().ok()?;
            inside
        }
        None => host,
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') || (byte == b':' && text.starts_with('['));
    (!host.is_empty() && host.bytes().all(fits)).then(|| Registry { host: host.to_owned(), port })
}

impl Registry {
    fn address(&self) -> Option<IpAddr> {
        // The kernel sends IPv4 to an IPv4 address in IPv6's clothes.
        self.host.parse().ok().map(|address: IpAddr| address.to_canonical())
    }
}

/// What is excluded already and what is to be, with commas between.
fn list<T: Display>(excluded: &[T], more: &dyn Display) -> String {
    let mut list = String::new();
    for item in excluded {
        list.push_str(&format!("{item},"));
    }
    list + &more.to_string()
}

/// The annotations of an injected pod that leave the registry alone. They stand in for those that the plan was made of.
fn annotations(options: &MeshOptions, registry: &Registry) -> String {
    match options {
        MeshOptions::Istio(options) => {
            const PREFIX: &str = "traffic.sidecar.istio.io/excludeOutbound";
            let ports = list(&options.outbound_ports_exclude, &registry.port);
            match registry.address() {
                Some(address) => {
                    let ranges = list(&options.outbound_ip_ranges_exclude, &IpNet::from(address));
                    format!("{PREFIX}IPRanges: \"{ranges}\" or {PREFIX}Ports: \"{ports}\"")
                }
                None => format!("{PREFIX}Ports: \"{ports}\", or {PREFIX}IPRanges with the addresses of {}", registry.host),
            }
        }
        MeshOptions::Linkerd(options) => {
            let ports = list(&options.outbound_ports_to_ignore, &registry.port).replace(':', "-");
            format!("config.linkerd.io/skip-outbound-ports: \"{ports}\"")
        }
    }
}

/// Whether the planned rules leave the agent's connections to the registry alone.
fn is_left_alone(planned: &Planned, registry: &Registry) -> bool {
    let agent = |address| Packet::out(Protocol::TCP, address, registry.port).by(0, 0);
    let is_delivered = |plan: &Ruleset, address: IpAddr| {
        planned.pod.owns(address) || walk(&Layers::of_plan(plan), &agent(address), &planned.pod).outcome == Outcome::Delivered
    };
    planned.rulesets.iter().all(|plan| match registry.address() {
        Some(address) => address.is_ipv4() != (plan.family == Family::V4) || is_delivered(plan, address),
        // A name may stand for any address, also for one of those that rules send elsewhere.
        None => {
            let mut networks = taken(plan).flat_map(|net| [net.network(), net.broadcast()]);
            is_delivered(plan, elsewhere(plan.family)) && networks.all(|address| is_delivered(plan, address))
        }
    })
}

/// The networks of which some connections at least are not left alone.
fn taken(plan: &Ruleset) -> impl Iterator<Item = IpNet> {
    let rules = plan.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules);
    let wanted = rules.filter(|rule| rule.target != Target::Return).flat_map(|rule| &rule.matches);
    wanted.filter_map(|wanted| match wanted.condition {
        Condition::Destination(net) => Some(net),
        _ => None,
    })
}

/// Whether the pull of an image would be redirected to a proxy that does not run yet. `pulled`: this container's image was
/// pulled inside the guest.
pub(super) fn check(checks: &mut Checks, options: &MeshOptions, planned: Option<&Planned>, registry: Option<&Registry>, pulled: bool) {
    const NAME: &str = "guest-pull";
    let whether = if pulled { "are" } else { "may be" };
    let Some(registry) = registry else {
        return match pulled {
            false => checks.ok(NAME, "nothing shows that images are pulled inside the guest"),
            true => checks.add(
                NAME,
                Verdict::Warning,
                &format!("images {whether} pulled inside the guest: {REDIRECTED}"),
                "pass --registry HOST:PORT, and put the annotations that it gives on the pod",
            ),
        };
    };
    let Registry { host, port } = registry;
    let Some(planned) = planned else {
        return checks.add(NAME, Verdict::Warning, &format!("unknown without a plan whether connections to {host} are left alone"), "");
    };
    if is_left_alone(planned, registry) {
        return checks.ok(NAME, &format!("connections to {host} port {port} are left alone"));
    }
    let verdict = if pulled { Verdict::Blocker } else { Verdict::Warning };
    let evidence = format!("images {whether} pulled inside the guest from {host} port {port}: {REDIRECTED}");
    checks.add(NAME, verdict, &evidence, &format!("annotate the pod: {}", annotations(options, registry)));
}

const REDIRECTED: &str = "the agent's connections, as user 0, would be redirected before the proxy runs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_host_and_a_port() {
        let registry = |host: &str, port| Ok(Some(Registry { host: host.to_owned(), port }));
        assert_eq!(parse("registry.example:5000"), registry("registry.example", 5000));
        assert_eq!(parse("10.1.2.3:443"), registry("10.1.2.3", 443));
        assert_eq!(parse("[fd00::5]:443"), registry("fd00::5", 443));
        assert_eq!(parse(""), Ok(None));
        for text in [
            "registry",
            "registry:",
            ":443",
            "registry:0",
            "registry:65536",
            "registry:+443",
            "registry:443 ",
            "fd00::5:443",
            "[10.1.2.3]:443",
            "[fd00::5:443",
            "https://registry:443",
            "a/b:443",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
