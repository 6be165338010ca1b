//! What kernels there are, and what mesh-init has to do on each: the one table of expectations.

use super::common::Family::{self, V4, V6};

/// A guest kernel. No module can be loaded later than at its start.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Parameters of the kernel's own.
    pub(crate) parameters: &'static str,
    /// The modules that it has besides those that these need.
    pub(crate) modules: &'static [&'static [&'static str]],
    /// What preflight says of Kata.
    pub(crate) kata: &'static str,
    pub(crate) pods: &'static [Pod],
}

/// A pod in the guest, a command line, and what has to come of it.
pub(crate) struct Pod {
    /// Families in which the pod has an address that others can reach.
    pub(crate) addresses: &'static [Family],
    /// The mesh and its flags.
    pub(crate) words: &'static [&'static str],
    pub(crate) preflight: Preflight,
    pub(crate) outcome: Outcome,
}

/// How preflight has to end: its exit code, and checks with their verdict and words of their evidence. Of the checks of packet
/// filters there are no others.
pub(crate) struct Preflight(pub(crate) i32, pub(crate) &'static [&'static [Found]]);

/// The name of a check, its verdict, and words of its evidence.
pub(crate) type Found = (&'static str, &'static str, &'static str);

/// What comes of `apply`, and then of `verify`, without and with `--probe`.
pub(crate) enum Outcome {
    /// The rules are there.
    Captured {
        /// What both verbs say.
        said: &'static [&'static str],
        /// What the probe says.
        probe: &'static [&'static str],
        /// The families whose connections go to the proxy.
        families: &'static [Family],
    },
    /// Nothing is changed.
    Refused {
        apply: Verdict,
        verify: Verdict,
        /// Where it cannot even be compared there is nothing to try.
        probe: Verdict,
    },
}

/// How a run has to end: its exit code, and what it has to write.
#[derive(Clone, Copy)]
pub(crate) struct Verdict(pub(crate) i32, pub(crate) &'static [&'static str]);

/// A list of the table.
type List<T> = &'static [T];

const fn captured(
    addresses: List<Family>,
    words: List<&'static str>,
    found: List<List<Found>>,
    said: List<&'static str>,
    probe: List<&'static str>,
    families: List<Family>,
) -> Pod {
    Pod { addresses, words, preflight: Preflight(0, found), outcome: Outcome::Captured { said, probe, families } }
}

const fn refused(addresses: List<Family>, words: List<&'static str>, found: List<List<Found>>, verdict: Verdict) -> Pod {
    let outcome = Outcome::Refused { apply: verdict, verify: verdict, probe: verdict };
    Pod { addresses, words, preflight: Preflight(4, found), outcome }
}

/// `verify` compares all the same.
const fn missing(addresses: List<Family>, words: List<&'static str>, found: List<List<Found>>, apply: Verdict, probe: Verdict) -> Pod {
    let outcome = Outcome::Refused { apply, verify: Verdict(3, &["missing: IPv4 nat OUTPUT 1"]), probe };
    Pod { addresses, words, preflight: Preflight(4, found), outcome }
}

const VETH: &[&str] = &["veth"];
const NFTABLES: &[&str] = &["nf_tables", "nft_chain_nat", "nft_redir", "nft_ct", "nft_tproxy"];
const NFTABLES_WITHOUT_REDIR: &[&str] = &["nf_tables", "nft_chain_nat", "nft_ct", "nft_tproxy"];
const NFTABLES_WITHOUT_TPROXY: &[&str] = &["nf_tables", "nft_chain_nat", "nft_redir", "nft_ct"];
const LEGACY_NAT: &[&str] = &["iptable_nat", "ip6table_nat"];
const LEGACY_V4: &[&str] = &["iptable_nat", "iptable_mangle", "iptable_raw", "iptable_filter"];
const LEGACY_V6: &[&str] = &["ip6table_nat", "ip6table_mangle", "ip6table_raw", "ip6table_filter"];
/// Matches and targets of both families.
const XT: &[&str] =
    &["xt_tcpudp", "xt_REDIRECT", "xt_owner", "xt_comment", "xt_multiport", "xt_mark", "xt_connmark", "xt_conntrack", "xt_TPROXY", "xt_CT"];
const XT_WITHOUT_OWNER: &[&str] = &["xt_tcpudp", "xt_REDIRECT", "xt_comment", "xt_multiport"];

const V4_ALONE: &[Family] = &[V4];
const BOTH: &[Family] = &[V4, V6];

/// What Istio's injector passes.
const ISTIO: &[&str] =
    &["istio", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"];
const ISTIO_DUAL: &[&str] = &["istio", "-u", "1337", "-i", "*", "-b", "*", "--dual-stack"];
const ISTIO_DUAL_LEGACY: &[&str] = &["istio", "-u", "1337", "-i", "*", "-b", "*", "--dual-stack", "--backend", "legacy"];
const ISTIO_DUAL_NFTABLES: &[&str] = &["istio", "-u", "1337", "-i", "*", "-b", "*", "--dual-stack", "--backend", "nftables"];
/// All tables: nat, mangle for TPROXY, raw for DNS.
const ISTIO_ALL: &[&str] =
    &["istio", "-u", "1337", "-i", "*", "-b", "*", "--dual-stack", "-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "--drop-invalid"];
/// For a kernel without IPv6, where no address shows that it is wanted.
const ISTIO_TOLD_OF_IPV6: &[&str] = &["istio", "-u", "1337", "-i", "*", "-b", "*", "--dual-stack", "--pod-ip", "10.9.0.2,2001:db8:9::2"];
/// What Linkerd's injector passes.
const LINKERD: &[&str] = &["linkerd", "-p", "4143", "-o", "4140", "--proxy-uid", "2102", "--inbound-ports-to-ignore", "4190,4191"];
const LINKERD_ALONE: &[&str] = &["linkerd", "-p", "4143", "-o", "4140", "--proxy-uid", "2102", "--ipv6=false"];

/// What is said of global IPv6 addresses that the flags do not capture.
const NOT_CAPTURED: &str = "warning: IPv6 traffic is not captured although the pod has the address 2001:db8:9::2";
const LEFT_OUT: &str = "warning: IPv6 is left out";
const NO_NFTABLES: &str = "the kernel has no nf_tables";
const NO_LEGACY: &str = "the kernel has no legacy packet filter for it (ENOPROTOOPT)";

// What preflight says of each packet filter, by family where only one may be planned.
const NFT_TAKES_V4: &[Found] =
    &[("nftables-ipv4", "ok", "takes the "), ("legacy-ipv4", "ok", "not needed, since nftables takes the rules")];
const NFT_TAKES_V6: &[Found] =
    &[("nftables-ipv6", "ok", "takes the "), ("legacy-ipv6", "ok", "not needed, since nftables takes the rules")];
/// Whether there is a legacy table nobody can say without making it.
const LEGACY_MAY_V4: &[Found] =
    &[("nftables-ipv4", "ok", "not needed, since legacy takes the rules"), ("legacy-ipv4", "warning", "may take the ")];
const LEGACY_MAY_V6: &[Found] =
    &[("nftables-ipv6", "ok", "not needed, since legacy takes the rules"), ("legacy-ipv6", "warning", "may take the ")];
const NOTHING_V4: &[Found] = &[("nftables-ipv4", "blocker", NO_NFTABLES), ("legacy-ipv4", "blocker", NO_LEGACY)];
const NOTHING_V6: &[Found] = &[("nftables-ipv6", "blocker", NO_NFTABLES), ("legacy-ipv6", "blocker", NO_LEGACY)];
const NO_REDIR_V4: &[Found] = &[("nftables-ipv4", "blocker", "redir"), ("legacy-ipv4", "blocker", NO_LEGACY)];
const NO_REDIR_V6: &[Found] = &[("nftables-ipv6", "blocker", "redir"), ("legacy-ipv6", "blocker", NO_LEGACY)];
const NO_TPROXY_V4: &[Found] = &[("nftables-ipv4", "blocker", "tproxy"), ("legacy-ipv4", "blocker", NO_LEGACY)];
const NO_TPROXY_V6: &[Found] = &[("nftables-ipv6", "blocker", "tproxy"), ("legacy-ipv6", "blocker", NO_LEGACY)];
const NO_OWNER_V4: &[Found] = &[("nftables-ipv4", "blocker", NO_NFTABLES), ("legacy-ipv4", "blocker", "the match owner")];
const NO_OWNER_V6: &[Found] = &[("nftables-ipv6", "blocker", NO_NFTABLES), ("legacy-ipv6", "blocker", "the match owner")];
// With --backend the other one is not asked.
const LEGACY_ALONE: &[Found] = &[("legacy-ipv4", "warning", "may take the "), ("legacy-ipv6", "warning", "may take the ")];
const NO_LEGACY_ALONE: &[Found] = &[("legacy-ipv4", "blocker", NO_LEGACY), ("legacy-ipv6", "blocker", NO_LEGACY)];
const NO_NFTABLES_ALONE: &[Found] = &[("nftables-ipv4", "blocker", NO_NFTABLES), ("nftables-ipv6", "blocker", NO_NFTABLES)];
// And of IPv6.
const V6_LEFT_OUT: &[Found] = &[
    ("ipv6", "warning", "IPv6 is left out: "),
    ("nftables-ipv6", "ok", "not needed, since IPv6 is left out"),
    ("legacy-ipv6", "ok", "not needed, since IPv6 is left out"),
];
const NO_V6_STACK: &[Found] = &[("ipv6", "warning", "IPv6 is left out: the kernel has no IPv6")];
const LO_WITHOUT_V6: &[Found] = &[("ipv6", "ok", "lo has it disabled, which matters to nothing that is planned")];
const LO_LACKS_V6: &[Found] = &[("ipv6", "blocker", "lo has IPv6 disabled, where the plan needs the address ::6")];

// What the probe says.
const ISTIO_V4: &str = "probe: IPv4: a connection to 192.0.2.1:15002 arrived at port 15001, with its original destination";
const ISTIO_V6: &str = "probe: IPv6: a connection to [2001:db8::1]:15002 arrived at port 15001, with its original destination";
const LINKERD_V4: &str = "probe: IPv4: a connection to 192.0.2.1:15002 arrived at port 4140, with its original destination";
const LINKERD_V6: &str = "probe: IPv6: a connection to [2001:db8::1]:15002 arrived at port 4140, with its original destination";
const DNS_V4: &str = "probe: IPv4: a DNS query to ";
const DNS_V6: &str = "probe: IPv6: a DNS query to ";
const NO_ROUTE_V6: &str = "probe: not tried: IPv6: there is no route to [2001:db8::1]:15002";
const ISTIO_FAILS: Verdict = Verdict(3, &["probe: failed: IPv4: what was sent to 192.0.2.1:15002 did not arrive at 127.0.0.1:15001"]);
const LINKERD_FAILS: Verdict = Verdict(3, &["probe: failed: IPv4: what was sent to 192.0.2.1:15002 did not arrive at 127.0.0.1:4140"]);

// Why rules are refused.
const NEITHER: Verdict = Verdict(
    12,
    &[
        "neither packet filter takes the IPv4 rules",
        NO_NFTABLES,
        NO_LEGACY,
        "CONFIG_NF_TABLES=y",
        "CONFIG_IP_NF_IPTABLES_LEGACY=y and CONFIG_IP_NF_NAT=y",
    ],
);
/// A global address that is to be captured, and nothing that could.
const NO_IPV6_NAT: Verdict = Verdict(
    12,
    &[
        "neither packet filter takes the IPv6 rules",
        "cannot read nat rules (legacy, IPv6): the kernel has no legacy packet filter for it (ENOPROTOOPT)",
        "CONFIG_IP6_NF_IPTABLES_LEGACY=y and CONFIG_IP6_NF_NAT=y",
        "or leave IPv6 alone (Linkerd: --ipv6=false; Istio: no --dual-stack)",
    ],
);
const NO_REDIR: Verdict =
    Verdict(13, &["neither packet filter takes the IPv4 rules", "the kernel lacks the expression redir", NO_LEGACY, "CONFIG_NFT_REDIR"]);
const NO_TPROXY: Verdict =
    Verdict(13, &["neither packet filter takes the IPv4 rules", "the kernel lacks the expression tproxy", NO_LEGACY, "CONFIG_NFT_TPROXY"]);
const NO_OWNER: Verdict = Verdict(
    13,
    &["neither packet filter takes the IPv4 rules", NO_NFTABLES, "the kernel lacks the match owner", "CONFIG_NETFILTER_XT_MATCH_OWNER=y"],
);
const NO_TABLE: Verdict = Verdict(
    13,
    &["neither packet filter takes the IPv4 rules", NO_NFTABLES, "the kernel has no such table (ENOENT)", "CONFIG_IP_NF_IPTABLES_LEGACY=y"],
);
const NO_PASSTHROUGH: Verdict = Verdict(1, &["cannot add ::6/128 to lo: lo has IPv6 disabled", "net.ipv6.conf.lo.disable_ipv6=0"]);
const NO_LEGACY_ASKED_FOR: Verdict = Verdict(12, &[NO_LEGACY, "CONFIG_IP_NF_NAT=y"]);
const NO_NFTABLES_ASKED_FOR: Verdict = Verdict(12, &[NO_NFTABLES, "CONFIG_NF_TABLES=y"]);

const NFT: &[List<Found>] = &[NFT_TAKES_V4, NFT_TAKES_V6];
const LEGACY: &[List<Found>] = &[LEGACY_MAY_V4, LEGACY_MAY_V6];
const NOTHING: &[List<Found>] = &[NOTHING_V4, NOTHING_V6];
const PROBED_ALL: &[&str] = &[ISTIO_V4, ISTIO_V6, DNS_V4, DNS_V6];

/// Where nf_tables takes everything.
const IN_NFTABLES: &[Pod] = &[
    captured(V4_ALONE, ISTIO, &[NFT_TAKES_V4], &["18 rules of istio (nftables, IPv4)"], &[ISTIO_V4], V4_ALONE),
    captured(V4_ALONE, LINKERD, NFT, &["14 rules of linkerd (nftables, IPv4 and IPv6)"], &[LINKERD_V4, NO_ROUTE_V6], V4_ALONE),
    captured(BOTH, ISTIO_DUAL, NFT, &["30 rules of istio (nftables, IPv4 and IPv6)"], &[ISTIO_V4, ISTIO_V6], BOTH),
    captured(BOTH, ISTIO_ALL, NFT, &["80 rules of istio (nftables, IPv4 and IPv6)"], PROBED_ALL, BOTH),
    captured(BOTH, LINKERD, NFT, &["14 rules of linkerd (nftables, IPv4 and IPv6)"], &[LINKERD_V4, LINKERD_V6], BOTH),
    captured(BOTH, ISTIO, &[NFT_TAKES_V4], &[NOT_CAPTURED, "18 rules of istio (nftables, IPv4)"], &[ISTIO_V4], V4_ALONE),
    captured(BOTH, LINKERD_ALONE, &[NFT_TAKES_V4], &[NOT_CAPTURED, "6 rules of linkerd (nftables, IPv4)"], &[LINKERD_V4], V4_ALONE),
];

const NO_KATA: &str = "nothing shows that this is a Kata guest";

pub(crate) const SHAPES: &[Shape] = &[
    Shape {
        name: "both",
        parameters: "agent.log=info",
        modules: &[VETH, NFTABLES, LEGACY_V4, LEGACY_V6, XT],
        kata: "its kernel has the packet filters of Kata 3.23 or 3.24",
        pods: IN_NFTABLES,
    },
    Shape {
        name: "both-legacy-asked-for",
        parameters: "",
        modules: &[VETH, NFTABLES, LEGACY_V4, LEGACY_V6, XT],
        kata: NO_KATA,
        pods: &[captured(
            BOTH,
            ISTIO_DUAL_LEGACY,
            &[LEGACY_ALONE],
            &["30 rules of istio (legacy, IPv4 and IPv6)"],
            &[ISTIO_V4, ISTIO_V6],
            BOTH,
        )],
    },
    // Native expressions alone: nothing of x_tables, and so no nft_compat.
    Shape { name: "nftables", parameters: "", modules: &[VETH, NFTABLES], kata: NO_KATA, pods: IN_NFTABLES },
    Shape {
        name: "legacy",
        parameters: "",
        modules: &[VETH, LEGACY_V4, LEGACY_V6, XT],
        kata: NO_KATA,
        pods: &[
            captured(V4_ALONE, ISTIO, &[LEGACY_MAY_V4], &["18 rules of istio (legacy, IPv4)"], &[ISTIO_V4], V4_ALONE),
            captured(V4_ALONE, LINKERD, LEGACY, &["14 rules of linkerd (legacy, IPv4 and IPv6)"], &[LINKERD_V4, NO_ROUTE_V6], V4_ALONE),
            captured(BOTH, ISTIO_DUAL, LEGACY, &["30 rules of istio (legacy, IPv4 and IPv6)"], &[ISTIO_V4, ISTIO_V6], BOTH),
            captured(BOTH, ISTIO_ALL, LEGACY, &["80 rules of istio (legacy, IPv4 and IPv6)"], PROBED_ALL, BOTH),
            captured(BOTH, LINKERD, LEGACY, &["14 rules of linkerd (legacy, IPv4 and IPv6)"], &[LINKERD_V4, LINKERD_V6], BOTH),
            captured(BOTH, ISTIO, &[LEGACY_MAY_V4], &[NOT_CAPTURED, "18 rules of istio (legacy, IPv4)"], &[ISTIO_V4], V4_ALONE),
            refused(BOTH, ISTIO_DUAL_NFTABLES, &[NO_NFTABLES_ALONE], NO_NFTABLES_ASKED_FOR),
        ],
    },
    // No NAT of IPv6 at all.
    Shape {
        name: "legacy-ipv4",
        parameters: "agent.log=info",
        modules: &[VETH, LEGACY_V4, XT],
        kata: "its kernel has the packet filters of Kata 2.0 to 3.20",
        pods: &[
            captured(V4_ALONE, ISTIO, &[LEGACY_MAY_V4], &["18 rules of istio (legacy, IPv4)"], &[ISTIO_V4], V4_ALONE),
            captured(
                V4_ALONE,
                LINKERD,
                &[LEGACY_MAY_V4, V6_LEFT_OUT],
                &[LEFT_OUT, "7 rules of linkerd (legacy, IPv4)"],
                &[LINKERD_V4],
                V4_ALONE,
            ),
            refused(BOTH, ISTIO_DUAL, &[LEGACY_MAY_V4, NOTHING_V6], NO_IPV6_NAT),
            refused(BOTH, LINKERD, &[LEGACY_MAY_V4, NOTHING_V6], NO_IPV6_NAT),
            captured(BOTH, ISTIO, &[LEGACY_MAY_V4], &[NOT_CAPTURED, "18 rules of istio (legacy, IPv4)"], &[ISTIO_V4], V4_ALONE),
            captured(BOTH, LINKERD_ALONE, &[LEGACY_MAY_V4], &[NOT_CAPTURED, "6 rules of linkerd (legacy, IPv4)"], &[LINKERD_V4], V4_ALONE),
        ],
    },
    // IPv6 by nf_tables alone.
    Shape {
        name: "legacy-ipv4-and-nftables",
        parameters: "agent.log=info",
        modules: &[VETH, NFTABLES, LEGACY_V4, XT],
        kata: "its kernel has the packet filters of Kata 3.21 or 3.22",
        pods: IN_NFTABLES,
    },
    Shape {
        name: "neither",
        parameters: "agent.log=info",
        modules: &[VETH],
        kata: "its kernel has other packet filters than Kata's own kernels",
        pods: &[
            refused(V4_ALONE, ISTIO, &[NOTHING_V4], NEITHER),
            refused(V4_ALONE, LINKERD, &[NOTHING_V4, V6_LEFT_OUT], NEITHER),
            refused(BOTH, ISTIO_DUAL, NOTHING, NEITHER),
            refused(BOTH, LINKERD, NOTHING, NEITHER),
            refused(BOTH, ISTIO_DUAL_LEGACY, &[NO_LEGACY_ALONE], NO_LEGACY_ASKED_FOR),
            refused(BOTH, ISTIO_DUAL_NFTABLES, &[NO_NFTABLES_ALONE], NO_NFTABLES_ASKED_FOR),
        ],
    },
    Shape {
        name: "ipv6-disabled",
        parameters: "ipv6.disable=1",
        modules: &[VETH, NFTABLES, LEGACY_V4, LEGACY_V6, XT],
        kata: NO_KATA,
        pods: &[
            captured(V4_ALONE, ISTIO, &[NFT_TAKES_V4], &["18 rules of istio (nftables, IPv4)"], &[ISTIO_V4], V4_ALONE),
            captured(
                V4_ALONE,
                LINKERD,
                &[NFT_TAKES_V4, NO_V6_STACK],
                &[LEFT_OUT, "7 rules of linkerd (nftables, IPv4)"],
                &[LINKERD_V4],
                V4_ALONE,
            ),
            captured(
                V4_ALONE,
                ISTIO_TOLD_OF_IPV6,
                &[NFT_TAKES_V4, NO_V6_STACK],
                &[LEFT_OUT, "15 rules of istio (nftables, IPv4)"],
                &[ISTIO_V4],
                V4_ALONE,
            ),
        ],
    },
    // The stack is there, and no device has it.
    Shape {
        name: "ipv6-off",
        parameters: "ipv6.disable_ipv6=1",
        modules: &[VETH, NFTABLES, LEGACY_V4, LEGACY_V6, XT],
        kata: NO_KATA,
        pods: &[
            captured(
                V4_ALONE,
                LINKERD,
                &[NFT_TAKES_V4, NFT_TAKES_V6, LO_WITHOUT_V6],
                &["14 rules of linkerd (nftables, IPv4 and IPv6)"],
                &[LINKERD_V4, NO_ROUTE_V6],
                V4_ALONE,
            ),
            missing(V4_ALONE, ISTIO_TOLD_OF_IPV6, &[NFT_TAKES_V4, NFT_TAKES_V6, LO_LACKS_V6], NO_PASSTHROUGH, ISTIO_FAILS),
        ],
    },
    Shape {
        name: "nftables-without-redir",
        parameters: "",
        modules: &[VETH, NFTABLES_WITHOUT_REDIR],
        kata: NO_KATA,
        pods: &[refused(V4_ALONE, ISTIO, &[NO_REDIR_V4], NO_REDIR), refused(BOTH, LINKERD, &[NO_REDIR_V4, NO_REDIR_V6], NO_REDIR)],
    },
    Shape {
        name: "nftables-without-tproxy",
        parameters: "",
        modules: &[VETH, NFTABLES_WITHOUT_TPROXY],
        kata: NO_KATA,
        pods: &[
            captured(V4_ALONE, ISTIO, &[NFT_TAKES_V4], &["18 rules of istio (nftables, IPv4)"], &[ISTIO_V4], V4_ALONE),
            refused(BOTH, ISTIO_ALL, &[NO_TPROXY_V4, NO_TPROXY_V6], NO_TPROXY),
        ],
    },
    Shape {
        name: "legacy-without-owner",
        parameters: "",
        modules: &[VETH, LEGACY_V4, LEGACY_V6, XT_WITHOUT_OWNER],
        kata: NO_KATA,
        pods: &[
            missing(V4_ALONE, ISTIO, &[NO_OWNER_V4], NO_OWNER, ISTIO_FAILS),
            missing(BOTH, LINKERD, &[NO_OWNER_V4, NO_OWNER_V6], NO_OWNER, LINKERD_FAILS),
        ],
    },
    // Tables that preflight cannot ask for: unknown, and then not there.
    Shape {
        name: "legacy-with-nat-alone",
        parameters: "",
        modules: &[VETH, LEGACY_NAT, XT],
        kata: NO_KATA,
        pods: &[
            captured(BOTH, LINKERD, LEGACY, &["14 rules of linkerd (legacy, IPv4 and IPv6)"], &[LINKERD_V4, LINKERD_V6], BOTH),
            Pod {
                addresses: BOTH,
                words: ISTIO_ALL,
                preflight: Preflight(0, LEGACY),
                outcome: Outcome::Refused { apply: NO_TABLE, verify: NO_TABLE, probe: NO_TABLE },
            },
        ],
    },
];
