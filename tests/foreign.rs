//! What is not ours is left alone: foreign rules, chains and counters are the same after apply, repair and remove, in
//! every table and both families, and `remove` leaves the tables as they were before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;

use common::fixture::{Vector, all_vectors};
use common::namespace::feed;
use common::saved::Chain;
use common::{Family, Namespace, Saved, check_all};

/// Rules of somebody else, with counters: chains that jump to each other over several steps, rules that the meshes
/// use too, extensions that they do not, and policies that are not the default.
fn foreign_text(family: Family) -> String {
    let net = if family == Family::V4 { "203.0.113.0/24" } else { "2001:db8:cafe::/48" };
    let icmp = if family == Family::V4 { "icmp -m icmp --icmp-type 8" } else { "ipv6-icmp -m icmp6 --icmpv6-type 128" };
    format!(
        r#"*raw
:PREROUTING ACCEPT [11:1111]
:OUTPUT ACCEPT [12:1212]
:FOREIGN_RAW - [0:0]
[101:10101] -A PREROUTING -s {net} -p tcp -m tcp --dport 31000 -j FOREIGN_RAW
[102:10202] -A OUTPUT -d {net} -p udp -m comment --comment "foreign zone" -j CT --zone 9
[103:10303] -A FOREIGN_RAW -m comment --comment "foreign no track" -j CT --notrack
COMMIT
*mangle
:PREROUTING ACCEPT [21:2121]
:INPUT ACCEPT [22:2222]
:FORWARD DROP [23:2323]
:OUTPUT ACCEPT [24:2424]
:POSTROUTING ACCEPT [25:2525]
:FOREIGN_MARK - [0:0]
[201:20101] -A PREROUTING -s {net} -j FOREIGN_MARK
[202:20202] -A OUTPUT -d {net} -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1300
[203:20303] -A POSTROUTING -d {net} -j MARK --set-xmark 0x77/0xff
[204:20404] -A FOREIGN_MARK -m mark --mark 0x77/0xff -j RETURN
[205:20505] -A FOREIGN_MARK -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
COMMIT
*nat
:PREROUTING ACCEPT [31:3131]
:INPUT ACCEPT [32:3232]
:OUTPUT ACCEPT [33:3333]
:POSTROUTING ACCEPT [34:3434]
:FOREIGN_A - [0:0]
:FOREIGN_B - [0:0]
:FOREIGN_C - [0:0]
:FOREIGN_EMPTY - [0:0]
[301:30101] -A PREROUTING -d {net} -p tcp -m tcp --dport 31000 -j FOREIGN_A
[302:30202] -A OUTPUT -d {net} -p tcp -m tcp --dport 31001 -j FOREIGN_B
[303:30303] -A OUTPUT -d {net} -p udp -m udp --dport 31002 -g FOREIGN_C
[307:30707] -A OUTPUT -d {net} -m owner ! --uid-owner 0-99 -j FOREIGN_C
[304:30404] -A POSTROUTING -s {net} -o foreign+ -j MASQUERADE
[305:30505] -A FOREIGN_A -p tcp -m multiport --dports 1:9,20 -j FOREIGN_C
[306:30606] -A FOREIGN_A -j FOREIGN_B
[308:30808] -A FOREIGN_B -p tcp -j REDIRECT --to-ports 32000-32010
[309:30909] -A FOREIGN_C -m statistic --mode nth --every 2 --packet 0 -j RETURN
[310:31010] -A FOREIGN_C -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [41:4141]
:FORWARD DROP [42:4242]
:OUTPUT ACCEPT [43:4343]
:FOREIGN_IN - [0:0]
[401:40101] -A INPUT -s {net} -p {icmp} -m limit --limit 5/sec -j ACCEPT
[402:40202] -A INPUT -s {net} -j FOREIGN_IN
[403:40303] -A FOREIGN_IN -m conntrack --ctstate INVALID -j DROP
[404:40404] -A FOREIGN_IN -p tcp -j REJECT --reject-with tcp-reset
COMMIT
"#
    )
}

/// A pod in which the foreign rules were first.
fn crowded(vector: &Vector) -> Namespace {
    let pod = vector.pod();
    for family in Family::BOTH {
        let mut restore = pod.command(&format!("{}-legacy-restore", family.iptables()));
        // `--counters`: the numbers in the text are taken over.
        feed(restore.arg("--counters"), &foreign_text(family));
    }
    pod
}

/// Everything with its counters, the built-in chains' own counters apart: packets of the kernel's own (neighbour and
/// router discovery) make those grow.
type Snapshot = [(Saved, BTreeMap<String, (u64, u64)>); 2];

fn snapshot(pod: &Namespace) -> Snapshot {
    Family::BOTH.map(|family| {
        let mut saved = pod.legacy_save_counted(family);
        let mut policies = BTreeMap::new();
        for (table, chains) in &mut saved.tables {
            for (name, chain) in chains {
                if let Some(counters) = chain.counters.take() {
                    policies.insert(format!("{table} {name}"), counters);
                }
            }
        }
        (saved, policies)
    })
}

/// Only what is foreign: chains called so, and rules in built-in chains that were there before.
fn foreign_part(saved: &Saved, before: &Saved) -> Saved {
    let mut part = Saved::default();
    for (table, chains) in &saved.tables {
        let Some(known) = before.tables.get(table) else { continue };
        let kept = chains.iter().filter_map(|(name, chain)| {
            let known = known.get(name)?;
            let rules = chain.rules.iter().filter(|rule| known.rules.contains(rule)).cloned().collect();
            Some((name.clone(), Chain { rules, ..chain.clone() }))
        });
        part.tables.insert(table.clone(), kept.collect());
    }
    part
}

/// What happened to the foreign part between two snapshots, counters included.
fn harm(when: &str, before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut harm = Vec::new();
    for ((family, (before, policies)), (after, policies_after)) in Family::BOTH.into_iter().zip(before).zip(after) {
        let differences = before.differences(&foreign_part(after, before));
        if !differences.is_empty() {
            harm.push(format!("{when}, {}: foreign rules changed\n{}", family.iptables(), differences.join("\n")));
        }
        for (chain, counters) in policies {
            if policies_after.get(chain).is_none_or(|now| now < counters) {
                harm.push(format!(
                    "{when}, {}: policy counters of {chain} were {counters:?}, are {:?}",
                    family.iptables(),
                    policies_after.get(chain)
                ));
            }
        }
    }
    harm
}

/// What `remove` left or took too much of: the tables have to be what they were.
fn leftovers(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut left = harm("after remove", before, after);
    for (family, ((before, _), (after, _))) in Family::BOTH.into_iter().zip(before.iter().zip(after)) {
        let differences = before.differences(after);
        if !differences.is_empty() {
            left.push(format!("{}: remove left something\n{}", family.iptables(), differences.join("\n")));
        }
    }
    left
}

/// Whether that line of `verify` says nothing of the mesh's own rules. Some of the foreign rules take packets away, and are named.
fn is_no_drift(line: &str) -> bool {
    (line.starts_with("foreign: ") && line.contains(" FOREIGN_")) || line.contains(" from the plan of ") || line.starts_with("in place: ")
}

fn installing() -> Vec<Vector> {
    all_vectors().into_iter().filter(|vector| vector.suits_verbs() && vector.file != "recorded.json").collect()
}

#[test]
fn foreign_rules_and_counters_survive_apply_and_remove() {
    require_root!();
    check_all(&installing(), Vector::title, |vector| {
        let pod = crowded(vector);
        let before = snapshot(&pod);
        let applied = vector.verb(&pod, "apply");
        if applied.code != 0 {
            return vec![applied.to_string()];
        }
        let mut problems = harm("after apply", &before, &snapshot(&pod));
        let verified = vector.verb(&pod, "verify");
        if !matches!(verified.code, 0 | 3) || !verified.stdout.lines().all(is_no_drift) {
            problems.push(format!("foreign rules are no drift: {verified}"));
        }
        let removed = pod.mesh_init(&["remove", vector.mesh]).run();
        if removed.code != 0 {
            problems.push(removed.to_string());
        }
        problems.extend(leftovers(&before, &snapshot(&pod)));
        if !pod.policy_routes().is_empty() || pod.lo_has_6() {
            problems.push(format!("remove left {:?}, ::6 on lo: {}", pod.policy_routes(), pod.lo_has_6()));
        }
        problems
    });
}

/// A handful of vectors that use every table.
fn few() -> Vec<Vector> {
    let names = ["injected-default", "tproxy-everything", "dns-all-dual", "outbound-virtual-list", "injected-ipv6", "subnets-both"];
    installing().into_iter().filter(|vector| names.contains(&vector.name.as_str())).collect()
}

#[test]
fn ours_come_after_foreign_rules_where_the_original_appends() {
    require_root!();
    check_all(&few(), Vector::title, |vector| {
        let pod = crowded(vector);
        let outcome = vector.verb(&pod, "apply");
        let saved = pod.legacy_save(Family::V4);
        let chain = saved.rules("nat", "OUTPUT");
        let jump = if vector.mesh == "istio" { "-j ISTIO_OUTPUT" } else { "-j PROXY_INIT_OUTPUT" };
        let last = chain.last().is_some_and(|rule| rule.ends_with(jump));
        if last { Vec::new() } else { vec![format!("{outcome}\n{chain:#?}")] }
    });
}

/// How many rules for virtual interfaces a pod has at the head of nat PREROUTING, if it has any.
fn virtual_rules(pod: &Namespace, family: Family, wanted: usize) -> usize {
    let rules = pod.legacy_save(family).rules("nat", "PREROUTING").to_vec();
    let last = rules.iter().rposition(|rule| rule.contains(" -i net") && (wanted > 0) && !rule.contains("net9"));
    last.map_or(0, |last| last + 1)
}

#[test]
fn foreign_rules_between_ours_survive_and_are_no_drift() {
    require_root!();
    check_all(&few(), Vector::title, |vector| {
        let pod = vector.pod();
        let applied = vector.verb(&pod, "apply");
        if applied.code != 0 {
            return vec![applied.to_string()];
        }
        // Before, between and after ours: at the head, at the second place and at the tail of each built-in chain. Rules
        // for virtual interfaces have to stay first.
        let inserted = vector.args.iter().filter(|argument| *argument == "-k").count();
        for family in Family::BOTH {
            for (table, chain) in [("nat", "PREROUTING"), ("nat", "OUTPUT"), ("mangle", "PREROUTING"), ("raw", "OUTPUT")] {
                let first = if (table, chain) == ("nat", "PREROUTING") { virtual_rules(&pod, family, inserted) + 1 } else { 1 };
                let second = first + 1;
                let text = format!(
                    "*{table}\n:FOREIGN_X - [0:0]\n:FOREIGN_Y - [0:0]\n-I {chain} {first} -p udp -m udp --dport 31000 -j FOREIGN_X\n\
                     -I {chain} {second} -p udp -m udp --dport 31001 -j FOREIGN_Y\n-A {chain} -p udp -m udp --dport 31002 -j FOREIGN_X\n\
                     -A FOREIGN_X -j FOREIGN_Y\n-A FOREIGN_Y -j RETURN\nCOMMIT\n"
                );
                pod.legacy_restore(family, &text);
            }
        }
        let with_foreign = snapshot(&pod);
        let mut problems = Vec::new();
        let verified = vector.verb(&pod, "verify");
        if verified.code != 0 {
            problems.push(format!("foreign rules are no drift: {verified}"));
        }
        // A repair: our rules for the application's traffic are lost.
        let (chain, mesh) = if vector.mesh == "istio" { ("ISTIO_REDIRECT", "istio") } else { ("PROXY_INIT_OUTPUT", "linkerd") };
        pod.output(&["iptables-legacy", "-w", "-t", "nat", "-F", chain]);
        let drifted = vector.verb(&pod, "verify");
        if drifted.code != 3 || !drifted.stdout.contains(chain) {
            problems.push(format!("a lost rule of {chain} is drift: {drifted}"));
        }
        let repaired = vector.verb(&pod, "apply");
        if repaired.code != 0 {
            problems.push(repaired.to_string());
        }
        for ((family, (before, _)), (after, _)) in Family::BOTH.into_iter().zip(&with_foreign).zip(&snapshot(&pod)) {
            let only = |saved: &Saved| -> Vec<String> {
                let all = saved.lines().into_iter();
                all.filter(|line| line.contains("FOREIGN_")).map(|line| line.trim_start().to_owned()).collect()
            };
            if only(before) != only(after) {
                problems.push(format!("{}: a repair changed foreign rules\n{:#?}\n{:#?}", family.iptables(), only(before), only(after)));
            }
        }
        if vector.verb(&pod, "verify").code != 0 {
            problems.push("the repair is not verified".to_owned());
        }
        let removed = pod.mesh_init(&["remove", mesh]).run();
        let ours: Vec<String> = Family::BOTH
            .iter()
            .flat_map(|family| pod.legacy_save(*family).lines())
            .filter(|line| line.contains("-A ") && !line.contains("FOREIGN_"))
            .collect();
        if removed.code != 0 || !ours.is_empty() {
            problems.push(format!("remove left {ours:?}: {removed}"));
        }
        problems
    });
}

#[test]
fn counters_of_ours_survive_a_repair_elsewhere() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let apply = ["apply", "istio", "-b", "*", "-i", "*"];
    pod.mesh_init(&apply).run().expect(0);
    // Foreign counters that were made by packets, not by a number in a text.
    let foreign = ["iptables-legacy", "-w", "-t", "nat", "-I", "OUTPUT", "1", "-p", "udp", "--dport", "31000"];
    pod.output(&foreign);
    pod.inside(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..5 {
            let _ = socket.send_to(b"x", "127.0.0.1:31000");
        }
    });
    let counted = |pod: &Namespace| pod.legacy_save_counted(Family::V4).rules("nat", "OUTPUT")[0].clone();
    let before = counted(&pod);
    assert!(!before.starts_with("[0:"), "{before}");
    pod.output(&["iptables-legacy", "-w", "-t", "nat", "-D", "ISTIO_INBOUND", "1"]);
    pod.mesh_init(&apply).run().expect(0);
    assert_eq!(counted(&pod), before, "after the repair");
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(counted(&pod), before, "after remove");
}

#[test]
fn remove_without_a_mesh_takes_out_both_and_needs_no_flags() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    let flags = ["istio", "--dual-stack", "-m", "TPROXY", "-b", "80", "-i", "10.0.0.0/8", "-t", "0x600", "-r", "200"];
    pod.mesh_init(&[&["apply"], &flags[..]].concat()).run().expect(0);
    pod.mesh_init(&["apply", "linkerd", "-p", "4143", "-o", "4140"]).run().expect(0);
    assert_eq!(pod.policy_routes().len(), 2);
    pod.mesh_init(&["remove"]).run().expect(0);
    for family in Family::BOTH {
        assert!(pod.legacy_save(family).is_empty(), "{:?}", pod.legacy_save(family));
    }
    assert_eq!((pod.policy_routes(), pod.lo_has_6()), (Vec::new(), false));
}

#[test]
fn remove_leaves_the_other_mesh_alone() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    pod.mesh_init(&["apply", "linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"]).run().expect(0);
    let linkerd = snapshot(&pod);
    pod.mesh_init(&["apply", "istio", "-b", "*", "-i", "*"]).run().expect(0);
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(linkerd[0].0.differences(&snapshot(&pod)[0].0), Vec::<String>::new());
    pod.mesh_init(&["verify", "linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"]).run().expect(0);
}

#[test]
fn remove_on_an_untouched_pod_touches_nothing() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let routing = pod.routing_text();
    for args in [&["remove"][..], &["remove", "istio"], &["remove", "linkerd"]] {
        pod.mesh_init(args).run().expect(0);
        assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    }
    assert_eq!(pod.routing_text(), routing);
}

#[test]
fn foreign_policy_routes_survive() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    pod.ip(&["rule add fwmark 0x99 lookup 99", "rule add from 203.0.113.0/24 lookup 98", "route add local default dev lo table 99"]);
    let before = pod.routing_text();
    let apply = ["apply", "istio", "--dual-stack", "-m", "TPROXY", "-b", "*", "-i", "*"];
    for _ in 0..2 {
        pod.mesh_init(&apply).run().expect(0);
        assert_eq!(pod.policy_routes().len(), 3, "ours once a family, and the foreign one");
    }
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(pod.routing_text(), before);
}
