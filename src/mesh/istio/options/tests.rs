use super::*;
use crate::mesh::istio::FLAGS;
use crate::mesh::testing;

fn options(arguments: &[&str]) -> Options {
    testing::with(FLAGS, arguments, Options::new).unwrap()
}

fn error(arguments: &[&str]) -> String {
    testing::with(FLAGS, arguments, Options::new).unwrap_err().to_string()
}

#[test]
fn nothing_said_gives_the_defaults() {
    let options = options(&[]);
    assert_eq!((options.proxy_port, options.inbound_capture_port, options.inbound_tunnel_port), (15001, 15006, 15008));
    assert_eq!((options.iptables_probe_port, options.probe_timeout), (15002, Duration::from_secs(5)));
    assert_eq!((options.inbound_tproxy_mark, options.inbound_tproxy_route_table), (1337, 133));
    assert_eq!(options.inbound_ports_include, InboundPorts::None);
    assert_eq!(options.outbound_ip_ranges_include, OutboundRanges::Only(Vec::new()));
    assert_eq!(options.owner_groups, OwnerGroups::AllBut(Vec::new()));
    assert_eq!(options.host_ipv4_loopback_cidr.to_string(), "127.0.0.1/32");
    assert_eq!((options.log_output_level, options.log_format), (Level::Info, Format::Plain));
    assert_eq!((options.force_iptables_binary, options.network_namespace), (None, None));
    assert_eq!(options.log_target, ["stdout"]);
    assert!(options.proxy_uid.is_empty() && options.warnings.is_empty());
}

#[test]
fn switches_reach_their_fields() {
    let all = options(&[
        "-n",
        "--skip-rule-apply",
        "--run-validation",
        "--drop-invalid",
        "--dual-stack",
        "--cni-mode",
        "--reconcile",
        "--cleanup-only",
        "--force-apply",
        "--native-nftables",
        "--log_as_json",
    ]);
    assert!(all.dry_run && all.skip_rule_apply && all.run_validation && all.drop_invalid && all.dual_stack && all.cni_mode);
    assert!(all.reconcile && all.cleanup_only && all.force_apply && all.native_nftables && all.log_format == Format::Json);
    let off = options(&["DRY_RUN=true", "--dry-run=false", "RECONCILE=", "SKIP_RULE_APPLY=F"]);
    assert!(!off.dry_run && !off.reconcile && !off.skip_rule_apply);
}

#[test]
fn variables_stand_in_for_flags_in_their_order() {
    let options = options(&[
        "ENVOY_PORT=9",
        "INBOUND_CAPTURE_PORT=16006",
        "INVALID_DROP=1",
        "DROP_INVALID=0",
        "ISTIO_META_DNS_CAPTURE=true",
        "ISTIO_DUAL_STACK=false",
        "DUAL_STACK=true",
        "PROXY_UID=5",
        "-u",
        "6",
        "DRY_RUN_FILE_PATH=/tmp/x",
        "PROBE_TIMEOUT=1m",
        "IPTABLES_PROBE_PORT=0x10",
    ]);
    assert_eq!((options.proxy_port, options.inbound_capture_port), (15001, 16006));
    assert!(options.drop_invalid && !options.dual_stack);
    assert_eq!(options.dns_capture, DnsCapture::Servers);
    assert_eq!(options.proxy_uid, [IdRange::single(6)]);
    assert_eq!(options.dry_run_file_path.as_deref(), Some("/tmp/x"));
    assert_eq!((options.probe_timeout, options.iptables_probe_port), (Duration::from_secs(60), 16));
}

#[test]
fn capturing_all_dns_needs_redirection() {
    assert_eq!(options(&["--capture-all-dns"]).dns_capture, DnsCapture::Off);
    assert_eq!(options(&["--redirect-dns", "CAPTURE_ALL_DNS=true"]).dns_capture, DnsCapture::All);
}

#[test]
fn a_star_is_everything_and_no_item() {
    assert_eq!(options(&["-b", "*"]).inbound_ports_include, InboundPorts::All);
    assert_eq!(options(&["-b", ""]).inbound_ports_include, InboundPorts::None);
    assert_eq!(options(&["-b", ","]).inbound_ports_include, InboundPorts::Only(Vec::new()));
    assert_eq!(options(&["-i", "*"]).outbound_ip_ranges_include, OutboundRanges::All);
    assert_eq!(error(&["-b", "80,*"]), "--istio-inbound-ports: \"*\" stands for everything and cannot be one port of a list");
    assert_eq!(error(&["-i", "10.0.0.0/8,*"]), "--istio-service-cidr: \"*\" stands for everything and cannot be one CIDR of a list");
    assert!(error(&["-x", "*"]).starts_with("--istio-service-exclude-cidr: \"*\" is no destination to exclude"));
    assert!(error(&["ISTIO_OUTBOUND_OWNER_GROUPS=1,*"]).starts_with("$ISTIO_OUTBOUND_OWNER_GROUPS: \"*\" stands for everything"));
}

#[test]
fn bad_values_are_named_with_their_flag() {
    let ports = ["envoy-port", "inbound-capture-port", "inbound-tunnel-port", "iptables-probe-port"];
    for flag in ports {
        for value in ["0", "65536", "http", ""] {
            let expected = format!("--{flag}: {value:?} is not a port (1 to 65535)");
            assert_eq!(error(&[&format!("--{flag}={value}")]), expected);
        }
    }
    let lists = ["istio-inbound-ports", "istio-local-exclude-ports", "istio-outbound-ports", "istio-local-outbound-ports-exclude"];
    for flag in lists {
        for value in ["0", "65536", "http", "90:80", "-j", "80-90"] {
            let start = format!("--{flag}: {value:?} is not a port or a range of ports (1 to 65535");
            assert!(error(&[&format!("--{flag}=443,{value}")]).starts_with(&start), "{flag} {value}");
        }
    }
    let others = [
        ("--proxy-uid=istio-proxy", "\"istio-proxy\" is not a user id"),
        ("--proxy-uid=,", "\",\" names no id"),
        ("--proxy-gid=4294967295", "\"4294967295\" is not a group id"),
        ("--istio-exclude-interfaces=eth0,a234567890123456", "\"a234567890123456\" is not an interface name (at most 15 bytes"),
        ("--kube-virt-interfaces=-j", "\"-j\" is not an interface name"),
        ("--istio-service-cidr=10.0.0.0", "\"10.0.0.0\" is not a CIDR"),
        ("--istio-service-exclude-cidr=10.0.0.0/33", "\"10.0.0.0/33\" is not a CIDR"),
        ("--istio-inbound-tproxy-mark=0", "\"0\" would match every packet"),
        ("--istio-inbound-tproxy-route-table=254", "\"254\" is one of the system's routing tables"),
        ("--probe-timeout=-5s", "\"-5s\" is negative"),
        ("--probe-timeout=5", "\"5\" is not a time"),
        ("--dry-run=maybe", "\"maybe\" is neither true nor false"),
        ("--force-iptables-binary=x", "\"x\" is refused: invalid FORCE_IPTABLES_BINARY value \"x\""),
        ("--log_output_level=loud", "\"loud\" is not a log level"),
        ("--log_stacktrace_level=x", "\"x\" is not a log level"),
        ("--vklog=x", "\"x\" is not a verbosity"),
    ];
    for (argument, start) in others {
        let flag = argument.split_once('=').unwrap().0;
        assert!(error(&[argument]).starts_with(&format!("{flag}: {start}")), "{argument}: {}", error(&[argument]));
    }
}

#[test]
fn bad_variables_are_refused_too() {
    assert!(error(&["DRY_RUN=garbage"]).starts_with("$DRY_RUN: \"garbage\" is neither true nor false"));
    assert!(error(&["PROBE_TIMEOUT="]).starts_with("$PROBE_TIMEOUT: \"\" is not a time"));
    assert!(error(&["ISTIO_META_DNS_CAPTURE=on"]).starts_with("$ISTIO_META_DNS_CAPTURE: \"on\""));
}

#[test]
fn at_most_64_owner_groups() {
    let list = |count: u32| format!("ISTIO_OUTBOUND_OWNER_GROUPS={}", (1..=count).map(|id| id.to_string()).collect::<Vec<_>>().join(","));
    assert!(matches!(options(&[&list(64)]).owner_groups, OwnerGroups::Only(groups) if groups.len() == 64));
    let refused = error(&[&list(65)]);
    assert!(refused.starts_with("$ISTIO_OUTBOUND_OWNER_GROUPS: ") && refused.ends_with("redirected to Envoy cannot exceed 64, got 65"));
    assert!(error(&["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=-1"]).starts_with("$ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE: \"-1\" is not a group"));
}

#[test]
fn the_loopback_range_is_part_of_127() {
    let bad = |value: &str| error(&[&format!("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR={value}")]);
    assert_eq!(options(&["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.1/8"]).host_ipv4_loopback_cidr.prefix_len(), 8);
    assert!(bad("x").contains("failed to parse CIDR x"));
    assert!(bad("").starts_with("$ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: \"\""));
    assert!(bad("10.0.0.0/8").contains("expected valid IPv4 loopback address in CIDR 10.0.0.0/8"));
    assert!(bad("::1/128").contains("expected valid IPv4 loopback address"));
    assert!(bad("127.0.0.1/7").contains("to have mask in range [8, 32]; found 7"));
}
