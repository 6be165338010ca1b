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

/// How a run has to end: its exit code, and words that it writes.
pub(crate) struct Verdict(pub(crate) i32, pub(crate) &'static [&'static str]);

const VETH: &[&str] = &["veth"];
const NFT: &[&str] = &["nf_tables", "nft_chain_nat", "nft_redir", "nft_ct", "nft_tproxy"];
const NFT_WITHOUT_REDIR: &[&str] = &["nf_tables", "nft_chain_nat", "nft_ct", "nft_tproxy"];
const LEGACY_V4: &[&str] = &["iptable_nat", "iptable_mangle", "iptable_raw", "iptable_filter"];
const LEGACY_V6: &[&str] = &["ip6table_nat", "ip6table_mangle", "ip6table_raw", "ip6table_filter"];
const XT: &[&str] =
    &["xt_tcpudp", "xt_REDIRECT", "xt_owner", "xt_comment", "xt_multiport", "xt_mark", "xt_connmark", "xt_conntrack", "xt_TPROXY", "xt_CT"];
const XT_WITHOUT_OWNER: &[&str] = &["xt_tcpudp", "xt_REDIRECT", "xt_comment", "xt_multiport"];

const V4_ALONE: &[Family] = &[V4];
const DUAL: &[Family] = &[V4, V6];
const NONE: &[Family] = &[];

/// What Istio's injector passes.
const ISTIO: &[&str] =
    &["istio", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020"];
const ISTIO_DUAL: &[&str] = &["istio", "-u", "1337", "-i", "*", "-b", "*", "--dual-stack"];
/// What Linkerd's injector passes.
const LINKERD: &[&str] = &["linkerd", "-p", "4143", "-o", "4140", "--proxy-uid", "2102", "--inbound-ports-to-ignore", "4190,4191"];

const fn pod(addresses: &'static [Family], words: &'static [&'static str], captured: &'static [Family]) -> Pod {
    Pod { addresses, words, apply: Verdict(0, &[]), verify: Verdict(0, &[]), captured }
}

const EXPLORE: &[Pod] = &[
    pod(V4_ALONE, ISTIO, V4_ALONE),
    pod(V4_ALONE, LINKERD, V4_ALONE),
    pod(DUAL, ISTIO_DUAL, DUAL),
    pod(DUAL, LINKERD, DUAL),
    pod(DUAL, ISTIO, V4_ALONE),
];

pub(crate) const SHAPES: &[Shape] = &[
    Shape { name: "both", parameters: "", modules: &[VETH, NFT, LEGACY_V4, LEGACY_V6, XT], pods: EXPLORE },
    Shape { name: "nftables", parameters: "", modules: &[VETH, NFT], pods: EXPLORE },
    Shape { name: "legacy", parameters: "", modules: &[VETH, LEGACY_V4, LEGACY_V6, XT], pods: EXPLORE },
    Shape { name: "legacy-ipv4", parameters: "", modules: &[VETH, LEGACY_V4, XT], pods: EXPLORE },
    Shape { name: "neither", parameters: "", modules: &[VETH], pods: EXPLORE },
    Shape {
        name: "ipv6-disabled",
        parameters: "ipv6.disable=1",
        modules: &[VETH, NFT, LEGACY_V4, LEGACY_V6, XT],
        pods: &[pod(V4_ALONE, ISTIO, V4_ALONE), pod(V4_ALONE, LINKERD, V4_ALONE), pod(V4_ALONE, ISTIO_DUAL, V4_ALONE)],
    },
    Shape { name: "legacy-ipv4-and-nftables", parameters: "", modules: &[VETH, NFT, LEGACY_V4, XT], pods: EXPLORE },
    Shape { name: "nftables-without-redir", parameters: "", modules: &[VETH, NFT_WITHOUT_REDIR], pods: EXPLORE },
    Shape { name: "legacy-without-owner", parameters: "", modules: &[VETH, LEGACY_V4, LEGACY_V6, XT_WITHOUT_OWNER], pods: EXPLORE },
];
