//! Pods as an original tool leaves them in nf_tables, and foreign rules beside its.

use super::Family;
use super::fixture::Vector;
use super::namespace::Namespace;

/// Foreign rules in iptables-nft's tables, with counters, and a foreign table.
pub(crate) fn add_foreign(pod: &Namespace) {
    for family in Family::BOTH {
        let program = format!("{}-nft", family.iptables());
        for rule in ["-A OUTPUT -p udp --dport 31000 -j RETURN -c 7 700", "-A PREROUTING -m limit --limit 5/s -j RETURN -c 3 300"] {
            let words: Vec<&str> = [program.as_str(), "-t", "nat"].into_iter().chain(rule.split(' ')).collect();
            pod.output(&words);
        }
    }
    pod.nft_load("table inet mine {\nchain c {\ntype filter hook output priority 7\ntcp dport 1 counter packets 7 bytes 700\n}\n}\n");
}

/// The foreign rules as they are now, with their counters.
pub(crate) fn foreign_lines(pod: &Namespace) -> Vec<String> {
    // A legacy table makes iptables-nft-save warn of it, which is its own affair.
    let saved = Family::BOTH.map(|family| String::from_utf8(pod.iptables_nft_save(family, true).stdout).unwrap()).concat();
    let mut lines: Vec<String> =
        saved.lines().filter(|line| line.contains("--dport 31000") || line.contains("-m limit")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 4, "{saved}");
    lines.push(pod.nft("list table inet mine"));
    lines
}

/// The pod as the original leaves it with iptables-nft.
pub(crate) fn original(vector: &Vector) -> Namespace {
    let pod = vector.pod();
    for family in Family::BOTH {
        pod.iptables_nft_restore(family, &vector.text(family));
    }
    pod.give_routing(&vector.policy_routes, vector.lo_has_6);
    pod
}
