//! What istio-iptables was told, typed and checked, under the original's names.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::mesh::duration::duration;
use crate::mesh::flag::{BadValue, Given, Setting};
use crate::mesh::log::{Format, Level, istio_level};
use crate::mesh::{Error, IptablesMode, value};
use crate::ruleset::{IdRange, Interface, PortRange};

/// How incoming connections reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterceptionMode {
    /// Their destination is rewritten.
    Redirect,
    /// They are delivered to the proxy as they are.
    Tproxy,
}

/// Which incoming ports are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundPorts {
    /// None, and nothing is prepared for it.
    None,
    /// All but the excluded ones.
    All,
    /// These.
    Only(Vec<PortRange>),
}

/// Which destinations are captured on the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundRanges {
    /// All.
    All,
    /// These; none when empty. Host bits are kept: whether the address itself is a loopback one matters.
    Only(Vec<IpNet>),
}

/// A group whose sockets are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// By number.
    Id(IdRange),
    /// By a name that the group file has to know.
    Name(String),
}

/// Whose outgoing traffic is captured, by the group of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerGroups {
    /// That of all groups but these.
    AllBut(Vec<Group>),
    /// That of these groups; nobody's when empty.
    Only(Vec<Group>),
}

/// Which DNS queries are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsCapture {
    /// None.
    Off,
    /// Those to the servers in resolv.conf.
    Servers,
    /// Those to any server.
    All,
}

/// What istio-iptables was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Port of the proxy's listener for outgoing connections.
    pub proxy_port: u16,
    /// Port of the proxy's listener for incoming connections.
    pub inbound_capture_port: u16,
    /// Port of the mesh's HTTP tunnel.
    pub inbound_tunnel_port: u16,
    /// User ids of the proxy as given; see [`Options::proxy_uids`] for those that hold.
    pub proxy_uid: Vec<IdRange>,
    /// Group ids of the proxy as given; see [`Options::proxy_gids`] for those that hold.
    pub proxy_gid: Vec<IdRange>,
    /// The user whose id is the proxy's when none is given.
    pub envoy_user: String,
    /// How incoming connections reach the proxy.
    pub inbound_interception_mode: InterceptionMode,
    /// Mark of connections that TPROXY captured.
    pub inbound_tproxy_mark: u32,
    /// Routing table for them.
    pub inbound_tproxy_route_table: u32,
    /// Incoming ports that are captured.
    pub inbound_ports_include: InboundPorts,
    /// Incoming ports that are not, when all are.
    pub inbound_ports_exclude: Vec<PortRange>,
    /// Outgoing ports that are captured whatever the address.
    pub outbound_ports_include: Vec<PortRange>,
    /// Outgoing ports that are not captured.
    pub outbound_ports_exclude: Vec<PortRange>,
    /// Destinations that are captured.
    pub outbound_ip_ranges_include: OutboundRanges,
    /// Destinations that are not.
    pub outbound_ip_ranges_exclude: Vec<IpNet>,
    /// Groups whose outgoing traffic is captured.
    pub owner_groups: OwnerGroups,
    /// Interfaces inside the pod whose traffic counts as outgoing.
    pub reroute_virtual_interfaces: Vec<Interface>,
    /// Interfaces on which nothing is captured.
    pub exclude_interfaces: Vec<Interface>,
    /// What counts as the pod itself in IPv4.
    pub host_ipv4_loopback_cidr: Ipv4Net,
    /// Which DNS queries are captured.
    pub dns_capture: DnsCapture,
    /// Whether packets that connection tracking finds invalid are dropped.
    pub drop_invalid: bool,
    /// Whether any IPv6 address brings IPv6 rules, and not only the first address.
    pub dual_stack: bool,
    /// Print the plan and change nothing.
    pub dry_run: bool,
    /// Where a dry run writes its plan to.
    pub dry_run_file_path: Option<String>,
    /// Install nothing.
    pub skip_rule_apply: bool,
    /// Connect through the rules afterwards.
    pub run_validation: bool,
    /// The port to which that connection goes.
    pub iptables_probe_port: u16,
    /// How long it may take.
    pub probe_timeout: Duration,
    /// Take the rules out and install none.
    pub cleanup_only: bool,
    /// Repair rules that differ.
    pub reconcile: bool,
    /// Install rules that are already there.
    pub force_apply: bool,
    /// nf_tables was asked for.
    pub native_nftables: bool,
    /// The iptables program that was asked for.
    pub force_iptables_binary: Option<IptablesMode>,
    /// Path of the pod's network namespace: told, not entered.
    pub network_namespace: Option<String>,
    /// Started by the CNI plugin.
    pub cni_mode: bool,
    /// How much is logged.
    pub log_output_level: Level,
    /// In which form.
    pub log_format: Format,
    /// Where to.
    pub log_target: Vec<String>,
    /// What is odd about the options though they are accepted, one sentence each.
    pub warnings: Vec<String>,
}

impl Options {
    /// The options that `given` holds.
    pub fn new(given: &Given<'_>) -> Result<Options, Error> {
        check_unused_log_flags(given)?;
        let mode = given.get("istio-inbound-interception-mode");
        let switch = |long| given.get(long).switch();
        let port = |long| given.get(long).read(value::port);
        let ports = |long| given.get(long).read_list(value::colon_ports);
        let interfaces = |long| given.get(long).read_list(value::interface);
        Ok(Options {
            proxy_port: port("envoy-port")?,
            inbound_capture_port: port("inbound-capture-port")?,
            inbound_tunnel_port: port("inbound-tunnel-port")?,
            proxy_uid: ids(&given.get("proxy-uid"), value::users)?,
            proxy_gid: ids(&given.get("proxy-gid"), value::groups)?,
            envoy_user: given.env("ENVOY_USER").map_or_else(|| "istio-proxy".to_owned(), |setting| setting.text),
            inbound_interception_mode: if mode.text == "TPROXY" { InterceptionMode::Tproxy } else { InterceptionMode::Redirect },
            inbound_tproxy_mark: given.get("istio-inbound-tproxy-mark").read(value::mark)?,
            inbound_tproxy_route_table: given.get("istio-inbound-tproxy-route-table").read(value::route_table)?,
            inbound_ports_include: inbound_ports(&given.get("istio-inbound-ports"))?,
            inbound_ports_exclude: ports("istio-local-exclude-ports")?,
            outbound_ports_include: ports("istio-outbound-ports")?,
            outbound_ports_exclude: ports("istio-local-outbound-ports-exclude")?,
            outbound_ip_ranges_include: outbound_ranges(&given.get("istio-service-cidr"))?,
            outbound_ip_ranges_exclude: excluded_ranges(&given.get("istio-service-exclude-cidr"))?,
            owner_groups: owner_groups(given)?,
            reroute_virtual_interfaces: interfaces("kube-virt-interfaces")?,
            exclude_interfaces: interfaces("istio-exclude-interfaces")?,
            host_ipv4_loopback_cidr: loopback_cidr(given)?,
            dns_capture: match (switch("redirect-dns")?, switch("capture-all-dns")?) {
                (false, _) => DnsCapture::Off,
                (true, false) => DnsCapture::Servers,
                (true, true) => DnsCapture::All,
            },
            drop_invalid: switch("drop-invalid")?,
            dual_stack: switch("dual-stack")?,
            dry_run: switch("dry-run")?,
            dry_run_file_path: given.env("DRY_RUN_FILE_PATH").and_then(unless_empty),
            skip_rule_apply: switch("skip-rule-apply")?,
            run_validation: switch("run-validation")?,
            iptables_probe_port: given.get("iptables-probe-port").read(value::go_port)?,
            probe_timeout: given.get("probe-timeout").read(duration)?,
            cleanup_only: switch("cleanup-only")?,
            reconcile: switch("reconcile")?,
            force_apply: switch("force-apply")?,
            native_nftables: switch("native-nftables")?,
            force_iptables_binary: iptables_binary(&given.get("force-iptables-binary"))?,
            network_namespace: unless_empty(given.get("network-namespace")),
            cni_mode: switch("cni-mode")?,
            log_output_level: given.get("log_output_level").read(|text| istio_level(text, Level::Info))?,
            log_format: if switch("log_as_json")? { Format::Json } else { Format::Plain },
            log_target: given.get("log_target").items().map(str::to_owned).collect(),
            warnings: unknown_mode(&mode).into_iter().collect(),
        })
    }
}

fn unless_empty(setting: Setting) -> Option<String> {
    (!setting.text.is_empty()).then_some(setting.text)
}

/// Flags that change nothing here still have to be well formed, as the original demands.
fn check_unused_log_flags(given: &Given<'_>) -> Result<(), BadValue> {
    given.get("log_stacktrace_level").read(|text| istio_level(text, Level::None))?;
    given.get("vklog").read(|text| match value::go_integer(text).map(i32::try_from) {
        Some(Ok(_)) => Ok(()),
        _ => Err("is not a verbosity (a number)".to_owned()),
    })
}

/// The original takes any mode but TPROXY for REDIRECT.
fn unknown_mode(mode: &Setting) -> Option<String> {
    let known = matches!(mode.text.as_str(), "" | "REDIRECT" | "TPROXY");
    (!known).then(|| {
        format!("{}: {:?} is neither REDIRECT nor TPROXY, so incoming connections are redirected (REDIRECT)", mode.origin, mode.text)
    })
}

/// The proxy's ids. Nothing is a default, but a list in which nothing is left would send the proxy's own traffic back
/// to it for ever.
fn ids(setting: &Setting, read: fn(&str) -> Result<IdRange, String>) -> Result<Vec<IdRange>, BadValue> {
    let ids = setting.read_list(read)?;
    if ids.is_empty() && !setting.text.is_empty() {
        return Err(setting.bad(&setting.text, "names no id (a number, a range as 1337-1340, or a comma separated list of them)"));
    }
    Ok(ids)
}

fn inbound_ports(setting: &Setting) -> Result<InboundPorts, BadValue> {
    match setting.text.trim() {
        "" => Ok(InboundPorts::None),
        "*" => Ok(InboundPorts::All),
        _ => setting.read_list(|item| not_a_star(item, "port").and_then(value::colon_ports)).map(InboundPorts::Only),
    }
}

fn outbound_ranges(setting: &Setting) -> Result<OutboundRanges, BadValue> {
    match setting.text.trim() {
        "*" => Ok(OutboundRanges::All),
        _ => setting.read_list(|item| not_a_star(item, "CIDR").and_then(value::cidr)).map(OutboundRanges::Only),
    }
}

fn excluded_ranges(setting: &Setting) -> Result<Vec<IpNet>, BadValue> {
    setting.read_list(|item| match item {
        "*" => Err("is no destination to exclude (a CIDR); to capture nothing on the way out, pass --istio-service-cidr ''".to_owned()),
        _ => value::cidr(item),
    })
}

fn not_a_star<'a>(item: &'a str, what: &str) -> Result<&'a str, String> {
    if item == "*" { Err(format!("stands for everything and cannot be one {what} of a list")) } else { Ok(item) }
}

fn owner_groups(given: &Given<'_>) -> Result<OwnerGroups, BadValue> {
    /// How many groups one rule may hold.
    const MAX: usize = 64;
    let include = given.env("ISTIO_OUTBOUND_OWNER_GROUPS");
    match include {
        Some(include) if include.text.trim() != "*" => {
            let groups = include.read_list(|item| not_a_star(item, "group").and_then(group))?;
            if groups.len() > MAX {
                let problem = format!(
                    "is too long: number of owner groups whose outgoing traffic should be redirected to Envoy cannot exceed {MAX}, got {}",
                    groups.len()
                );
                return Err(include.bad(&include.text, problem));
            }
            Ok(OwnerGroups::Only(groups))
        }
        _ => {
            let exclude = given.env("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE");
            exclude.map_or(Ok(Vec::new()), |exclude| exclude.read_list(group)).map(OwnerGroups::AllBut)
        }
    }
}

/// A group by number, or by a name that could stand in a group file.
fn group(item: &str) -> Result<Group, String> {
    let numeric = item.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    match value::ids(item) {
        Some(ids) => Ok(Group::Id(ids)),
        None if numeric || item.contains([':', ' ', '*', '!']) => {
            Err("is not a group (a name in the group file, 0 to 4294967294, or low-high as 1000-1010)".to_owned())
        }
        None => Ok(Group::Name(item.to_owned())),
    }
}

/// Which addresses are the pod itself. The messages keep the original's words.
fn loopback_cidr(given: &Given<'_>) -> Result<Ipv4Net, BadValue> {
    const ALLOWED: &str = "(allowed is part of 127.0.0.0/8, as 127.0.0.1/32)";
    let Some(setting) = given.env("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR") else {
        return Ok(Ipv4Net::from(std::net::Ipv4Addr::LOCALHOST));
    };
    let text = &setting.text;
    setting.read(|trimmed| match value::parse_cidr(trimmed.trim()) {
        None => Err(format!("is no CIDR: failed to parse CIDR {text} {ALLOWED}")),
        Some(IpNet::V4(net)) if net.addr().is_loopback() => match net.prefix_len() {
            8..=32 => Ok(net),
            found => Err(format!("is too wide: expected CIDR {text} to have mask in range [8, 32]; found {found} {ALLOWED}")),
        },
        Some(_) => Err(format!("is not loopback: expected valid IPv4 loopback address in CIDR {text} {ALLOWED}")),
    })
}

fn iptables_binary(setting: &Setting) -> Result<Option<IptablesMode>, BadValue> {
    setting.read(|text| match text {
        "" => Ok(None),
        "legacy" => Ok(Some(IptablesMode::Legacy)),
        "nft" => Ok(Some(IptablesMode::Nft)),
        _ => Err(format!("is refused: invalid FORCE_IPTABLES_BINARY value {text:?} (legacy, nft, or nothing)")),
    })
}

#[cfg(test)]
mod tests;
