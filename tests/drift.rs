//! Drift is found, named and repaired: whatever was changed in the kernel, `verify` exits 3 and lists it, and `apply`
//! brings the pod back to exactly the plan.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::{Vector, vector};
use common::{Namespace, check_all};

/// One thing that somebody did to a pod: a name, shell commands, and what `verify` has to mention.
type Deed = (&'static str, &'static [&'static str], &'static [&'static str]);

const ISTIO: &[Deed] = &[
    ("a lost rule", &["iptables-legacy -t nat -D ISTIO_OUTPUT 1"], &["missing", "ISTIO_OUTPUT", "127.0.0.6"]),
    ("a lost rule of IPv6", &["ip6tables-legacy -t nat -D ISTIO_OUTPUT 1"], &["missing", "ISTIO_OUTPUT", "::6"]),
    ("an extra rule", &["iptables-legacy -t nat -I ISTIO_INBOUND 1 -p tcp --dport 7777 -j RETURN"], &["extra", "ISTIO_INBOUND", "7777"]),
    (
        "a changed rule",
        &["iptables-legacy -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15555"],
        &["ISTIO_REDIRECT", "15555", "15001"],
    ),
    (
        "rules out of order",
        &["iptables-legacy -t nat -D ISTIO_OUTPUT 1", "iptables-legacy -t nat -A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN"],
        &["ISTIO_OUTPUT", "127.0.0.6"],
    ),
    ("a lost jump", &["iptables-legacy -t nat -D OUTPUT -j ISTIO_OUTPUT"], &["missing", "OUTPUT", "ISTIO_OUTPUT"]),
    ("a jump twice", &["iptables-legacy -t nat -A OUTPUT -j ISTIO_OUTPUT"], &["extra", "OUTPUT", "ISTIO_OUTPUT"]),
    ("a lost rule of mangle", &["iptables-legacy -t mangle -D ISTIO_TPROXY 1"], &["missing", "mangle", "ISTIO_TPROXY"]),
    ("a chain too many", &["iptables-legacy -t nat -N ISTIO_OLD"], &["ISTIO_OLD"]),
    ("an emptied chain", &["ip6tables-legacy -t raw -F ISTIO_OUTPUT_DNS"], &["missing", "raw", "ISTIO_OUTPUT_DNS"]),
    ("a family gone", &["ip6tables-legacy -t nat -F", "ip6tables-legacy -t nat -X"], &["nat", "missing"]),
    ("a table gone", &["iptables-legacy -t mangle -F", "iptables-legacy -t mangle -X"], &["mangle", "missing"]),
    (
        "half a run of the original",
        &["ip6tables-legacy -t nat -F", "ip6tables-legacy -t nat -X", "ip6tables-legacy -t nat -N ISTIO_INBOUND"],
        &["nat", "missing"],
    ),
    ("::6 gone", &["ip -6 addr del ::6/128 dev lo"], &["::6"]),
    ("the ip rule gone", &["ip -4 rule del fwmark 1337 lookup 133"], &["fwmark", "133"]),
    ("the ip rule twice", &["ip -6 rule add fwmark 1337 lookup 133 pref 77"], &["fwmark", "133"]),
    ("the route gone", &["ip -4 route flush table 133"], &["133"]),
];

const LINKERD: &[Deed] = &[
    ("a lost rule", &["iptables-legacy -t nat -D PROXY_INIT_OUTPUT 1"], &["missing", "PROXY_INIT_OUTPUT", "2102"]),
    ("an extra rule", &["ip6tables-legacy -t nat -I PROXY_INIT_REDIRECT 1 -j RETURN"], &["extra", "PROXY_INIT_REDIRECT"]),
    ("a lost jump", &["iptables-legacy -t nat -F PREROUTING"], &["missing", "PREROUTING", "PROXY_INIT_REDIRECT"]),
    (
        "rules out of order",
        &[
            "iptables-legacy -t nat -D PROXY_INIT_OUTPUT -o lo -m comment --comment proxy-init/ignore-loopback -j RETURN",
            "iptables-legacy -t nat -A PROXY_INIT_OUTPUT -o lo -m comment --comment proxy-init/ignore-loopback -j RETURN",
        ],
        &["PROXY_INIT_OUTPUT", "ignore-loopback"],
    ),
];

fn check(vector: &Vector, deeds: &[Deed]) {
    let (_judge, expected) = vector.expected();
    check_all(
        deeds,
        |(name, _, _)| (*name).to_owned(),
        |(_, commands, mentions)| {
            let pod = vector.pod();
            let first = vector.verb(&pod, "apply");
            if first.code != 0 {
                return vec![first.to_string()];
            }
            for command in *commands {
                pod.output(&command.split(' ').collect::<Vec<_>>());
            }
            let mut problems = Vec::new();
            let verified = vector.verb(&pod, "verify");
            if verified.code != 3 || mentions.iter().any(|word| !verified.stdout.contains(word)) {
                problems.push(format!("expected exit 3 and {mentions:?}: {verified}"));
            }
            let repaired = vector.verb(&pod, "apply");
            if repaired.code != 0 || repaired.text().contains("already in place") {
                problems.push(repaired.to_string());
            }
            problems.extend(vector.wrong_in(&pod, &expected));
            let verified = vector.verb(&pod, "verify");
            if verified.code != 0 {
                problems.push(format!("after the repair: {verified}"));
            }
            problems
        },
    );
}

#[test]
fn drift_of_istios_rules_is_found_and_repaired() {
    require_root!();
    let everything = vector("tproxy-everything");
    // In list mode every chain is there; the tests above speak of its marks, table and servers.
    assert_eq!((everything.policy_routes.len(), everything.lo_has_6), (2, true));
    check(&everything, ISTIO);
}

#[test]
fn drift_of_linkerds_rules_is_found_and_repaired() {
    require_root!();
    check(&vector("injected-ipv6"), LINKERD);
}

#[test]
fn drop_ins_repair_drift_too() {
    require_root!();
    for name in ["injected-default", "injected-ipv6"] {
        let vector = vector(name);
        let (_judge, expected) = vector.expected();
        let pod = vector.pod();
        vector.drop_in(&pod).expect(0);
        pod.output(&["iptables-legacy", "-t", "nat", "-F", "OUTPUT"]);
        vector.drop_in(&pod).expect(0);
        assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
    }
}

#[test]
fn rules_of_other_options_are_replaced() {
    require_root!();
    let pairs = [
        ("tproxy-everything", "injected-default"),
        ("injected-default", "tproxy-all"),
        ("dns-all", "injected-default"),
        ("dns-v4", "dns-all"),
        ("groups-include-numbers", "outbound-virtual-none"),
        ("multiport", "listed"),
        ("injected-ipv6", "injected"),
    ];
    check_all(
        &pairs,
        |pair| format!("{pair:?}"),
        |(before, after)| {
            let (before, after) = (vector(before), vector(after));
            let pod = before.pod();
            let (_judge, expected) = after.expected();
            let first = before.verb(&pod, "apply");
            let drifted = after.verb(&pod, "verify");
            let second = after.verb(&pod, "apply");
            if (first.code, drifted.code, second.code) != (0, 3, 0) {
                return vec![first.to_string(), drifted.to_string(), second.to_string()];
            }
            // Where the first pod had IPv6 rules and the second plan has none, they belong to us and go.
            after.wrong_in(&pod, &expected)
        },
    );
}

#[test]
fn verify_without_any_rules_is_drift_and_makes_no_tables() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for args in [&["verify", "istio", "-b", "*", "-i", "*"][..], &["verify", "linkerd", "-p", "4143", "-o", "4140"]] {
        let outcome = pod.mesh_init(args).run().expect(3);
        assert!(outcome.stdout.contains("missing"), "{outcome}");
    }
}
