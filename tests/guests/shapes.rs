//! What kernels there are, and what mesh-init has to do on each: the one table of expectations.

use super::common::Family::{self, V4, V6};

/// A guest kernel. No module can be loaded later than at its start.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Parameters of the kernel's own.
    pub(crate) parameters: &'static str,
    /// The modules that it has besides those that these need.
    pub(crate) modules: &'static [&'static [&'static str]],
    pub(crate) pods: &'static [Pod],
}

/// A pod in the guest, a command line, and what has to come of it.
pub(crate) struct Pod {
    /// Families in which the pod has an address that others can reach.
    pub(crate) addresses: &'static [Family],
    /// The mesh and its flags.
    pub(crate) words: &'static [&'static str],
    pub(crate) apply: Verdict,
    pub(crate) verify: Verdict,
    /// Families whose connections go to the proxy afterwards.
    pub(crate) captured: &'static [Family],
}

/// How a run has to end: its exit code, and what it has to write.
pub(crate) struct Verdict(pub(crate) i32, pub(crate) &'static [&'static str]);

const VETH: &[&str] = &["veth"];
const NFT: &[&str] = &["nf_tables", "nft_chain_nat", "nft_redir", "nft_ct", "nft_tproxy"];
const NFT_WITHOUT_REDIR: &[&str] = &["nf_tables", "nft_chain_nat", "nft_ct", "nft_tproxy"];
const LEGACY_V4: &[&str] = &["iptable_nat", "iptable_mangle", "iptable_raw", "iptable_filter"];
const LEGACY_V6: &[&str] = &["ip6table_nat", "ip6table_mangle", "ip6table_raw", "ip6table_filter"];
/// Matches and targets of both families.
const XT: &[&str] =
    &["xt_tcpudp", "xt_REDIRECT", "xt_owner", "xt_comment", "xt_multiport", "xt_mark", "xt_connmark", "xt_conntrack", "xt_TPROXY", "xt_CT"];
const XT_WITHOUT_OWNER: &[&str] = &["xt_tcpudp", "xt_REDIRECT", "xt_comment", "xt_multiport"];

const V4_ALONE: &[Family] = &[V4];
const BOTH: &[Family] = &[V4, V6];
const NONE: &[Family] = &[];

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
const LINKERD_V4: &[&str] = &["linkerd", "-p", "4143", "-o", "4140", "--proxy-uid", "2102", "--ipv6=false"];

const fn pod(
    addresses: &'static [Family],
    words: &'static [&'static str],
    apply: Verdict,
    verify: Verdict,
    captured: &'static [Family],
) -> Pod {
    Pod { addresses, words, apply, verify, captured }
}

const fn done(words: &'static [&'static str]) -> Verdict {
    Verdict(0, words)
}

/// What is said of global IPv6 addresses that the flags do not capture.
const NOT_CAPTURED: &str = "warning: IPv6 traffic is not captured although the pod has the address 2001:db8:9::2";
const LEFT_OUT: &str = "warning: IPv6 is left out";
const NO_NFTABLES: &str = "the kernel has no nf_tables";

/// Where nf_tables takes everything.
const IN_NFTABLES: &[Pod] = &[
    pod(V4_ALONE, ISTIO, done(&["installed and verified: 18 rules of istio (nftables, IPv4)"]), done(&["in place: 18"]), V4_ALONE),
    pod(V4_ALONE, LINKERD, done(&["14 rules of linkerd (nftables, IPv4 and IPv6)"]), done(&["in place: 14"]), V4_ALONE),
    pod(BOTH, ISTIO_DUAL, done(&["30 rules of istio (nftables, IPv4 and IPv6)"]), done(&["in place: 30"]), BOTH),
    pod(BOTH, ISTIO_ALL, done(&["rules of istio (nftables, IPv4 and IPv6)"]), done(&["in place: "]), BOTH),
    pod(BOTH, LINKERD, done(&["14 rules of linkerd (nftables, IPv4 and IPv6)"]), done(&["in place: 14"]), BOTH),
    pod(BOTH, ISTIO, done(&[NOT_CAPTURED, "18 rules of istio (nftables, IPv4)"]), done(&[NOT_CAPTURED, "in place: 18"]), V4_ALONE),
    pod(BOTH, LINKERD_V4, done(&[NOT_CAPTURED, "(nftables, IPv4)"]), done(&[NOT_CAPTURED, "in place: "]), V4_ALONE),
];

const NEITHER: Verdict = Verdict(
    12,
    &[
        "neither packet filter takes the IPv4 rules",
        NO_NFTABLES,
        "the kernel has no legacy packet filter for it (ENOPROTOOPT)",
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

const NO_REDIR: Verdict = Verdict(
    13,
    &[
        "neither packet filter takes the IPv4 rules",
        "the kernel lacks the expression redir",
        "the kernel has no legacy packet filter",
        "CONFIG_NFT_REDIR",
    ],
);

const NO_OWNER: Verdict = Verdict(
    13,
    &["neither packet filter takes the IPv4 rules", NO_NFTABLES, "the kernel lacks the match owner", "CONFIG_NETFILTER_XT_MATCH_OWNER=y"],
);

const NO_LEGACY_ASKED_FOR: Verdict = Verdict(12, &["the kernel has no legacy packet filter for it (ENOPROTOOPT)", "CONFIG_IP_NF_NAT=y"]);
const NO_NFTABLES_ASKED_FOR: Verdict = Verdict(12, &[NO_NFTABLES, "CONFIG_NF_TABLES=y"]);

pub(crate) const SHAPES: &[Shape] = &[
    // As Kata's since 3.23.
    Shape { name: "both", parameters: "agent.log=info", modules: &[VETH, NFT, LEGACY_V4, LEGACY_V6, XT], pods: IN_NFTABLES },
    Shape {
        name: "both-legacy-asked-for",
        parameters: "",
        modules: &[VETH, NFT, LEGACY_V4, LEGACY_V6, XT],
        pods: &[pod(BOTH, ISTIO_DUAL_LEGACY, done(&["30 rules of istio (legacy, IPv4 and IPv6)"]), done(&["in place: 30"]), BOTH)],
    },
    // Native expressions alone: nothing of x_tables, and so no nft_compat.
    Shape { name: "nftables", parameters: "", modules: &[VETH, NFT], pods: IN_NFTABLES },
    Shape {
        name: "legacy",
        parameters: "",
        modules: &[VETH, LEGACY_V4, LEGACY_V6, XT],
        pods: &[
            pod(V4_ALONE, ISTIO, done(&[NO_NFTABLES, "18 rules of istio (legacy, IPv4)"]), done(&["in place: 18"]), V4_ALONE),
            pod(V4_ALONE, LINKERD, done(&["14 rules of linkerd (legacy, IPv4 and IPv6)"]), done(&["in place: 14"]), V4_ALONE),
            pod(BOTH, ISTIO_DUAL, done(&["30 rules of istio (legacy, IPv4 and IPv6)"]), done(&["in place: 30"]), BOTH),
            pod(BOTH, ISTIO_ALL, done(&["rules of istio (legacy, IPv4 and IPv6)"]), done(&["in place: "]), BOTH),
            pod(BOTH, LINKERD, done(&["14 rules of linkerd (legacy, IPv4 and IPv6)"]), done(&["in place: 14"]), BOTH),
            pod(BOTH, ISTIO, done(&[NOT_CAPTURED, "(legacy, IPv4)"]), done(&[NOT_CAPTURED, "in place: 18"]), V4_ALONE),
            pod(BOTH, ISTIO_DUAL_NFTABLES, NO_NFTABLES_ASKED_FOR, NO_NFTABLES_ASKED_FOR, NONE),
        ],
    },
    // As Kata's up to 3.20: no NAT of IPv6 at all.
    Shape {
        name: "legacy-ipv4",
        parameters: "agent.log=info",
        modules: &[VETH, LEGACY_V4, XT],
        pods: &[
            pod(V4_ALONE, ISTIO, done(&["18 rules of istio (legacy, IPv4)"]), done(&["in place: 18"]), V4_ALONE),
            pod(V4_ALONE, LINKERD, done(&[LEFT_OUT, "7 rules of linkerd (legacy, IPv4)"]), done(&[LEFT_OUT, "in place: 7"]), V4_ALONE),
            pod(BOTH, ISTIO_DUAL, NO_IPV6_NAT, NO_IPV6_NAT, NONE),
            pod(BOTH, LINKERD, NO_IPV6_NAT, NO_IPV6_NAT, NONE),
            pod(BOTH, ISTIO, done(&[NOT_CAPTURED, "18 rules of istio (legacy, IPv4)"]), done(&[NOT_CAPTURED, "in place: 18"]), V4_ALONE),
            pod(BOTH, LINKERD_V4, done(&[NOT_CAPTURED, "(legacy, IPv4)"]), done(&[NOT_CAPTURED, "in place: "]), V4_ALONE),
        ],
    },
    // As Kata's 3.21 and 3.22: IPv6 by nf_tables alone.
    Shape { name: "legacy-ipv4-and-nftables", parameters: "agent.log=info", modules: &[VETH, NFT, LEGACY_V4, XT], pods: IN_NFTABLES },
    Shape {
        name: "neither",
        parameters: "",
        modules: &[VETH],
        pods: &[
            pod(V4_ALONE, ISTIO, NEITHER, NEITHER, NONE),
            pod(V4_ALONE, LINKERD, NEITHER, NEITHER, NONE),
            pod(BOTH, ISTIO_DUAL, NEITHER, NEITHER, NONE),
            pod(BOTH, LINKERD, NEITHER, NEITHER, NONE),
            pod(BOTH, ISTIO_DUAL_LEGACY, NO_LEGACY_ASKED_FOR, NO_LEGACY_ASKED_FOR, NONE),
            pod(BOTH, ISTIO_DUAL_NFTABLES, NO_NFTABLES_ASKED_FOR, NO_NFTABLES_ASKED_FOR, NONE),
        ],
    },
    Shape {
        name: "ipv6-disabled",
        parameters: "ipv6.disable=1",
        modules: &[VETH, NFT, LEGACY_V4, LEGACY_V6, XT],
        pods: &[
            pod(V4_ALONE, ISTIO, done(&["18 rules of istio (nftables, IPv4)"]), done(&["in place: 18"]), V4_ALONE),
            pod(V4_ALONE, LINKERD, done(&[LEFT_OUT, "7 rules of linkerd (nftables, IPv4)"]), done(&[LEFT_OUT, "in place: 7"]), V4_ALONE),
            pod(V4_ALONE, ISTIO_TOLD_OF_IPV6, done(&[LEFT_OUT, "(nftables, IPv4)"]), done(&[LEFT_OUT, "in place: "]), V4_ALONE),
        ],
    },
    Shape {
        name: "nftables-without-redir",
        parameters: "",
        modules: &[VETH, NFT_WITHOUT_REDIR],
        pods: &[pod(V4_ALONE, ISTIO, NO_REDIR, NO_REDIR, NONE), pod(BOTH, LINKERD, NO_REDIR, NO_REDIR, NONE)],
    },
    Shape {
        name: "legacy-without-owner",
        parameters: "",
        modules: &[VETH, LEGACY_V4, LEGACY_V6, XT_WITHOUT_OWNER],
        pods: &[
            pod(V4_ALONE, ISTIO, NO_OWNER, Verdict(3, &["missing: IPv4 nat OUTPUT 1"]), NONE),
            pod(BOTH, LINKERD, NO_OWNER, Verdict(3, &["missing: IPv6 nat OUTPUT 1"]), NONE),
        ],
    },
];
