//! Images that are pulled inside a Kata guest: the agent's own connections, made by user 0 in the pod's network, meet the
//! mesh's rules before a proxy runs.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cli::check::{Check, Verdict};
use crate::cli::session::MeshOptions;
use crate::mesh::istio::OutboundRanges;
use crate::ruleset::PortRange;

/// Where images are pulled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    host: String,
    port: u16,
}

/// `HOST:PORT`; none where nothing is said.
pub(super) fn parse(text: &str) -> Result<Option<Registry>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || "is not a registry (HOST:PORT, as registry.example:5000, 10.1.2.3:443 or [fd00::5]:443)".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0 && text.ends_with(|last: char| last.is_ascii_digit())).ok_or_else(wrong)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok()).ok_or_else(wrong)?,
        None => host,
    };
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if bare.is_empty() || (bare == host && !is_name(host)) {
        return Err(wrong());
    }
    Ok(Some(Registry { host: bare.to_owned(), port }))
}

impl Registry {
    fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// The annotations of an injected pod that leave the registry alone. They stand in for those that the plan was made of.
fn annotations(options: &MeshOptions, registry: &Registry) -> String {
    let port = [registry.port.to_string()];
    match options {
        MeshOptions::Istio(options) => {
            let ports = joined(options.outbound_ports_exclude.iter().map(ToString::to_string).chain(port));
            let ports = format!("traffic.sidecar.istio.io/excludeOutboundPorts: \"{ports}\"");
            let Some(address) = registry.address() else {
                return format!("{ports} or traffic.sidecar.istio.io/excludeOutboundIPRanges: with the addresses of {}", registry.host);
            };
            let ranges = joined(options.outbound_ip_ranges_exclude.iter().chain([&IpNet::from(address)]).map(ToString::to_string));
            format!("traffic.sidecar.istio.io/excludeOutboundIPRanges: \"{ranges}\" or {ports}")
        }
        MeshOptions::Linkerd(options) => {
            let dashed = |ports: &PortRange| ports.to_string().replace(':', "-");
            let ports = joined(options.outbound_ports_to_ignore.iter().map(dashed).chain(port));
            format!("config.linkerd.io/skip-outbound-ports: \"{ports}\"")
        }
    }
}

/// Whether the options leave connections to the registry alone.
fn is_excluded(options: &MeshOptions, registry: &Registry) -> bool {
    let within = |ports: &[PortRange]| ports.iter().any(|range| (range.first..=range.last).contains(&registry.port));
    match options {
        MeshOptions::Istio(options) => {
            let among = |ranges: &[IpNet]| registry.address().is_some_and(|address| ranges.iter().any(|range| range.contains(&address)));
            let included = match &options.outbound_ip_ranges_include {
                OutboundRanges::All => true,
                // A name may stand for any address.
                OutboundRanges::Only(ranges) => among(ranges) || (registry.address().is_none() && !ranges.is_empty()),
            };
            within(&options.outbound_ports_exclude)
                || among(&options.outbound_ip_ranges_exclude)
                || !(included || within(&options.outbound_ports_include))
        }
        MeshOptions::Linkerd(options) => within(&options.outbound_ports_to_ignore),
    }
}

/// Whether the pull of an image would be redirected to a proxy that does not run yet. `pulled`: this container's image was
/// pulled inside the guest.
pub(super) fn check(options: &MeshOptions, registry: Option<&Registry>, pulled: bool) -> Check {
    const NAME: &str = "guest-pull";
    let Some(registry) = registry else {
        return match pulled {
            false => Check::ok(NAME, "nothing shows that images are pulled inside the guest"),
            true => Check::new(
                NAME,
                Verdict::Warning,
                "images are pulled inside the guest: the agent's connections, as user 0, would be redirected before the proxy runs",
                Some("pass --registry HOST:PORT, and put the annotations that it gives on the pod".to_owned()),
            ),
        };
    };
    let Registry { host, port } = registry;
    if is_excluded(options, registry) {
        return Check::ok(NAME, format!("connections to {host} port {port} are left alone"));
    }
    let (verdict, whether) = if pulled { (Verdict::Blocker, "are") } else { (Verdict::Warning, "may be") };
    Check::new(
        NAME,
        verdict,
        format!(
            "images {whether} pulled inside the guest: the agent's connections to {host} port {port}, as user 0, would be redirected \
             before the proxy runs"
        ),
        Some(format!("annotate the pod: {}", annotations(options, registry))),
    )
}

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
