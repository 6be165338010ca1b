//! The flags of istio-iptables, those that it inherits for logging included.

use crate::mesh::flag::{Flag, Kind};

const fn value(long: &'static str, short: char, env: &'static [&'static str], default: &'static str, help: &'static str) -> Flag {
    Flag { long, short: Some(short), kind: Kind::Value, env, default, help }
}

const fn long_value(long: &'static str, env: &'static [&'static str], default: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, kind: Kind::Value, env, default, help }
}

const fn switch(long: &'static str, env: &'static [&'static str], help: &'static str) -> Flag {
    Flag { long, short: None, kind: Kind::Switch, env, default: "false", help }
}

/// Every flag of istio-iptables with its environment variables and defaults.
pub const FLAGS: &[Flag] = &[
    value("envoy-port", 'p', &[], "15001", "Port of the proxy's listener for outgoing connections"),
    value("inbound-capture-port", 'z', &["INBOUND_CAPTURE_PORT"], "15006", "Port of the proxy's listener for incoming connections"),
    value("inbound-tunnel-port", 'e', &["INBOUND_TUNNEL_PORT"], "15008", "Port of the mesh's HTTP tunnel, which is never redirected"),
    value("proxy-uid", 'u', &["PROXY_UID"], "", "User ids of the proxy, whose own traffic passes; default: that of $ENVOY_USER, or 1337"),
    value("proxy-gid", 'g', &["PROXY_GID"], "", "Group ids of the proxy, whose own traffic passes; default: the same as --proxy-uid"),
    value(
        "istio-inbound-interception-mode",
        'm',
        &["ISTIO_INBOUND_INTERCEPTION_MODE"],
        "",
        "How incoming connections reach the proxy: REDIRECT, or TPROXY to keep the client's address",
    ),
    value("istio-inbound-ports", 'b', &["ISTIO_INBOUND_PORTS"], "", "Incoming ports to capture: * for all, a list, or nothing for none"),
    value(
        "istio-local-exclude-ports",
        'd',
        &["ISTIO_LOCAL_EXCLUDE_PORTS"],
        "",
        "Incoming ports not to capture; counts only with --istio-inbound-ports='*'",
    ),
    value("istio-exclude-interfaces", 'c', &["ISTIO_EXCLUDE_INTERFACES"], "", "Interfaces on which nothing is captured, in or out"),
    value(
        "istio-service-cidr",
        'i',
        &["ISTIO_SERVICE_CIDR"],
        "",
        "Destinations to capture on the way out: * for all, a list of CIDRs, or nothing for none",
    ),
    value("istio-service-exclude-cidr", 'x', &["ISTIO_SERVICE_EXCLUDE_CIDR"], "", "Destinations not to capture on the way out, as CIDRs"),
    value("istio-outbound-ports", 'q', &["ISTIO_OUTBOUND_PORTS"], "", "Outgoing ports to capture whatever the destination's address"),
    value(
        "istio-local-outbound-ports-exclude",
        'o',
        &["ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"],
        "",
        "Outgoing ports not to capture, TCP and UDP",
    ),
    value(
        "kube-virt-interfaces",
        'k',
        &["KUBE_VIRT_INTERFACES"],
        "",
        "Interfaces of virtual machines or containers inside the pod, whose traffic counts as outgoing",
    ),
    value("istio-inbound-tproxy-mark", 't', &["ISTIO_INBOUND_TPROXY_MARK"], "1337", "Firewall mark of connections that TPROXY captured"),
    value(
        "istio-inbound-tproxy-route-table",
        'r',
        &["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"],
        "133",
        "Routing table that delivers marked packets locally for TPROXY",
    ),
    Flag { short: Some('n'), ..switch("dry-run", &["DRY_RUN"], "Print the plan and change nothing") },
    long_value("iptables-probe-port", &["IPTABLES_PROBE_PORT"], "15002", "Port to which --run-validation connects"),
    long_value("probe-timeout", &["PROBE_TIMEOUT"], "5s", "How long --run-validation may take"),
    switch("skip-rule-apply", &["SKIP_RULE_APPLY"], "Install neither rules nor routes nor addresses"),
    switch("run-validation", &["RUN_VALIDATION"], "Connect through the rules as the proxy's user to see that they work"),
    switch("redirect-dns", &["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"], "Send DNS queries to the proxy's resolver on port 15053"),
    switch("drop-invalid", &["DROP_INVALID", "INVALID_DROP"], "Drop incoming packets that connection tracking finds invalid"),
    switch(
        "dual-stack",
        &["DUAL_STACK", "ISTIO_DUAL_STACK"],
        "Capture IPv6 too when any local address is IPv6, not only when the first is",
    ),
    switch("capture-all-dns", &["CAPTURE_ALL_DNS"], "With --redirect-dns: queries to any server, not only those in resolv.conf"),
    long_value("network-namespace", &["NETWORK_NAMESPACE"], "", "Path of the pod's network namespace, told by the CNI plugin"),
    switch("cni-mode", &["CNI_MODE"], "The program was started by the CNI plugin on the node"),
    switch("reconcile", &["RECONCILE"], "Repair rules that differ instead of failing"),
    switch("cleanup-only", &["CLEANUP_ONLY"], "Take the rules out and install none"),
    switch("force-apply", &["FORCE_APPLY"], "Install the rules even when they are already in place"),
    switch("native-nftables", &["NATIVE_NFTABLES"], "Use nf_tables rules of its own instead of iptables' tables"),
    long_value("force-iptables-binary", &["FORCE_IPTABLES_BINARY"], "", "The packet filter to use: legacy or nft; default: the better one"),
    long_value("log_output_level", &[], "default:info", "How much is logged: scope:level, or a list of them"),
    switch("log_as_json", &[], "Log lines as JSON objects"),
    Flag { kind: Kind::List, ..long_value("log_target", &[], "stdout", "Where log lines go; may be repeated") },
    long_value("log_stacktrace_level", &[], "default:none", "From which level on stack traces are logged: scope:level, or a list of them"),
    long_value("log_caller", &[], "", "Scopes whose log lines name the calling function"),
    long_value("vklog", &[], "0", "Verbosity of the Kubernetes client's log"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_its_variable_save_the_port_and_the_log() {
        let inherited = |long: &str| long.starts_with("log_") || long == "vklog";
        assert_eq!(FLAGS.iter().filter(|flag| !inherited(flag.long)).count(), 32);
        for flag in FLAGS.iter().filter(|flag| !inherited(flag.long) && flag.long != "envoy-port") {
            let own = flag.long.to_uppercase().replace('-', "_");
            assert_eq!(flag.env.first().copied(), Some(own.as_str()));
        }
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut names: Vec<String> =
            FLAGS.iter().flat_map(|flag| flag.short.map(String::from).into_iter().chain([flag.long.into()])).collect();
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(names.iter().filter(|name| name.len() == 1).count(), 17);
    }
}
