//! Foreign rules that take packets away from a mesh are named, whichever packet filter and table they are in: by `apply` in a
//! warning, by `verify` as a difference. So is a proxy that does not hear what is redirected to it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::TcpListener;

use common::{Namespace, Outcome, check_all};

const ISTIO: [&str; 8] = ["-i", "*", "-b", "*", "-d", "15020", "-u", "1337"];

fn pod() -> Namespace {
    Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"])
}

fn run(pod: &Namespace, verb: &str, backend: &str, more: &[&str]) -> Outcome {
    let words = [&[verb, "istio", "--dual-stack"], &ISTIO[..], more].concat();
    pod.mesh_init(&words).env("MESH_INIT_BACKEND", backend).run()
}

fn lines(pod: &Namespace, lines: &[&str]) {
    for line in lines {
        pod.output(&line.split(' ').collect::<Vec<_>>());
    }
}

/// Foreign rules, made after the mesh's or before, the words by which the guilty one is named, and where it is guilty.
struct Case {
    rules: &'static [&'static str],
    named: &'static str,
    /// By the backend that the mesh's rules are in: in one packet filter's table, order is all that counts.
    legacy: Guilt,
    nftables: Guilt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guilt {
    Yes,
    /// Which table of two is asked first is not known.
    Maybe,
    No,
}

use Guilt::{Maybe, No, Yes};

const CASES: &[Case] = &[
    Case {
        rules: &["iptables-legacy -t nat -I OUTPUT -p tcp -j ACCEPT"],
        named: "IPv4 rule 1 of nat OUTPUT (legacy), -p tcp -j ACCEPT,",
        legacy: Yes,
        nftables: No,
    },
    Case {
        rules: &["ip6tables-legacy -t nat -I PREROUTING -p tcp --dport 8080 -j RETURN"],
        named: "IPv6 rule 1 of nat PREROUTING (legacy), -p tcp -m tcp --dport 8080 -j RETURN,",
        legacy: Yes,
        nftables: No,
    },
    Case {
        rules: &[
            "iptables-legacy -t nat -N MINE",
            "iptables-legacy -t nat -A MINE -p tcp -j REDIRECT --to-ports 9999",
            "iptables-legacy -t nat -I PREROUTING -j MINE",
        ],
        named: "IPv4 rule 1 of nat MINE (legacy), -p tcp -j REDIRECT --to-ports 9999,",
        legacy: Yes,
        nftables: Maybe,
    },
    Case {
        rules: &["iptables-legacy -t filter -A OUTPUT -p tcp --dport 15001 -j DROP"],
        named: "IPv4 rule 1 of filter OUTPUT (legacy), -p tcp -m tcp --dport 15001 -j DROP,",
        legacy: Yes,
        nftables: Yes,
    },
    Case {
        rules: &["iptables-legacy -t raw -A PREROUTING -p tcp -j DROP"],
        named: "IPv4 rule 1 of raw PREROUTING (legacy), -p tcp -j DROP,",
        legacy: Yes,
        nftables: Yes,
    },
    Case {
        rules: &["ip6tables-legacy -t filter -P INPUT DROP"],
        named: "IPv6 the policy DROP of filter INPUT (legacy)",
        legacy: Yes,
        nftables: Yes,
    },
    Case {
        rules: &["iptables-nft -t mangle -A OUTPUT -p tcp -d 192.0.2.0/24 -j DROP"],
        named: "IPv4 rule 1 of ip mangle OUTPUT (nftables), -d 192.0.2.0/24 -p tcp -j DROP,",
        legacy: Yes,
        nftables: Yes,
    },
    Case {
        rules: &[
            "nft add table inet mine",
            "nft add chain inet mine c { type nat hook output priority -150; }",
            "nft add rule inet mine c ip daddr 192.0.2.1 tcp dport 443 redirect to :9999",
        ],
        named: "IPv4 rule 1 of inet mine c (nftables), ip daddr 192.0.2.1 tcp dport 443 redirect to :9999,",
        legacy: Yes,
        nftables: Yes,
    },
    Case {
        rules: &[
            "nft add table ip6 mine",
            "nft add chain ip6 mine c { type filter hook input priority 5; }",
            "nft add rule ip6 mine c tcp dport 15006 log drop",
        ],
        named: "IPv6 rule 1 of ip6 mine c (nftables)",
        legacy: Yes,
        nftables: Yes,
    },
];

/// Foreign rules that take nothing away.
const HARMLESS: &[&str] = &[
    "iptables-legacy -t nat -A OUTPUT -p tcp -j ACCEPT",
    "iptables-legacy -t nat -I OUTPUT -p udp --dport 31000 -j RETURN",
    "iptables-legacy -t filter -A OUTPUT -j ACCEPT",
    "iptables-legacy -t filter -A INPUT -p tcp --dport 23 -j DROP",
    "ip6tables-nft -t mangle -A OUTPUT -p tcp -j ACCEPT",
    "iptables-nft -t nat -A POSTROUTING -j MASQUERADE",
    "nft add table inet mine",
    "nft add chain inet mine c { type filter hook output priority 7; }",
    "nft add rule inet mine c tcp dport 443 counter accept",
    // What no packet from outside has, and what the mesh leaves alone anyway.
    "iptables-legacy -t nat -I PREROUTING -s 10.9.0.2 -p tcp -j ACCEPT",
    "iptables-legacy -t nat -I PREROUTING -s 127.0.0.0/8 -p tcp -j ACCEPT",
    "iptables-legacy -t nat -I PREROUTING -p tcp --dport 15020 -j ACCEPT",
    "iptables-legacy -t nat -I OUTPUT -d 127.0.0.0/8 -j ACCEPT",
];

#[test]
fn what_takes_packets_away_is_named() {
    require_root!();
    let cases: Vec<(&Case, &str, bool)> = CASES
        .iter()
        .flat_map(|case| [("legacy", true), ("legacy", false), ("nftables", true), ("nftables", false)].map(|(b, first)| (case, b, first)))
        .collect();
    let name = |(case, backend, first): &(&Case, &str, bool)| format!("{} by {backend}, first: {first}", case.named);
    check_all(&cases, name, |(case, backend, first)| {
        let pod = pod();
        let mut problems = Vec::new();
        if *first {
            // What is appended stands behind the mesh's rules, once those are inserted behind what was there.
            lines(&pod, case.rules);
        }
        let apply = run(&pod, "apply", backend, &[]);
        if !*first {
            lines(&pod, case.rules);
        }
        let guilt = if *backend == "legacy" { case.legacy } else { case.nftables };
        let verify = run(&pod, "verify", backend, &[]);
        let again = run(&pod, "apply", backend, &[]);
        let (verb, example) = if guilt == Maybe { ("may take", "whether \"") } else { ("takes", " instead of sent to port 150") };
        let says = |text: &str| {
            text.contains(case.named) && text.contains(&format!(" {verb} packets away from the mesh: ")) && text.contains(example)
        };
        if (verify.code, says(&verify.stdout)) != (if guilt == Yes { 3 } else { 0 }, guilt == Yes) {
            problems.push(verify.to_string());
        }
        let warns = |outcome: &Outcome| outcome.warnings().iter().any(|warning| says(warning));
        if warns(&verify) != (guilt == Maybe) {
            problems.push(verify.to_string());
        }
        for apply in [apply, again].iter().skip(usize::from(!*first)) {
            if apply.code != 0 || warns(apply) != (guilt != No) {
                problems.push(apply.to_string());
            }
        }
        problems
    });
}

#[test]
fn what_takes_nothing_away_is_not_named() {
    require_root!();
    for backend in ["legacy", "nftables"] {
        let pod = pod();
        run(&pod, "apply", backend, &[]).expect(0);
        lines(&pod, HARMLESS);
        let verify = run(&pod, "verify", backend, &[]).expect(0);
        assert!(!verify.text().contains("takes packets away") && verify.warnings().is_empty(), "{verify}");
        let apply = run(&pod, "apply", backend, &[]).expect(0);
        assert!(apply.warnings().is_empty(), "{apply}");
    }
}

#[test]
fn what_may_take_packets_away_is_a_warning_and_no_difference() {
    require_root!();
    let pod = pod();
    run(&pod, "apply", "legacy", &[]).expect(0);
    lines(&pod, &["iptables-legacy -t nat -I OUTPUT -p tcp -m statistic --mode random --probability 0.5 -j ACCEPT"]);
    for verb in ["verify", "apply"] {
        let outcome = run(&pod, verb, "legacy", &[]).expect(0);
        let warnings = outcome.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("IPv4 rule 1 of nat OUTPUT (legacy), -p tcp -m statistic"), "{outcome}");
        assert!(warnings[0].contains(" is sent to port 15001, original destination 192.0.2.1:443 depends on -m statistic "), "{outcome}");
    }
}

#[test]
fn a_report_has_it_too() {
    require_root!();
    let pod = pod();
    run(&pod, "apply", "nftables", &[]).expect(0);
    lines(&pod, CASES[3].rules);
    let verify = run(&pod, "verify", "nftables", &["--report=-"]).expect(3);
    let report: serde_json::Value = serde_json::from_str(&verify.stdout).unwrap();
    assert_eq!(report["outcome"], "differs");
    assert!(report["differences"][0].as_str().unwrap().starts_with("foreign: IPv4 rule 1 of filter OUTPUT (legacy)"), "{report}");
    let apply = run(&pod, "apply", "nftables", &["--report=-"]).expect(0);
    let report: serde_json::Value = serde_json::from_str(&apply.stdout).unwrap();
    assert!(report["warnings"][0].as_str().unwrap().contains("takes packets away"), "{report}");
}

#[test]
fn a_proxy_that_does_not_hear_what_is_redirected_is_named() {
    require_root!();
    for (addresses, unheard) in [
        (&["10.9.0.2:15001"][..], Some("127.0.0.1:15001, and the proxy listens on 10.9.0.2:15001 alone; let it listen on 0.0.0.0")),
        (&["[2001:db8:9::2]:15001"], Some("[::1]:15001, and the proxy listens on [2001:db8:9::2]:15001 alone; let it listen on ::")),
        (&["10.9.0.2:15001", "127.0.0.1:15001"], None),
        (&["10.9.0.2:15006", "0.0.0.0:15001"], Some("127.0.0.1:15006, and the proxy listens on 10.9.0.2:15006 alone")),
        (&["[::]:15001"], None),
        (&["0.0.0.0:15001"], None),
        (&["10.9.0.2:15002"], None),
        (&[], None),
    ] {
        // A program that another test starts at this moment may hold a socket a little longer: each case has a pod of its own.
        let pod = pod();
        run(&pod, "apply", "nftables", &[]).expect(0);
        let listen = |address: &&str| pod.inside(|| TcpListener::bind(address).unwrap());
        let _listeners: Vec<TcpListener> = addresses.iter().map(listen).collect();
        let verify = run(&pod, "verify", "nftables", &[]);
        assert_eq!(verify.code, if unheard.is_some() { 3 } else { 0 }, "{addresses:?}: {verify}");
        let named = unheard.is_none_or(|text| verify.stdout.contains(&format!("unheard: connections are redirected to {text}")));
        assert!(named && verify.stdout.contains("unheard") == unheard.is_some(), "{addresses:?}: {verify}");
    }
}

/// Several rules of which each alone would do: all are named.
#[test]
fn rules_that_hide_behind_each_other_are_all_named() {
    require_root!();
    let accept = "iptables-legacy -t nat -I OUTPUT -p tcp -j ACCEPT";
    let redirect = "iptables-legacy -t nat -I OUTPUT -p tcp -j REDIRECT --to-ports 25001";
    let both = |first: &'static str, second: &'static str| vec![first, second];
    for (backend, rules, named) in [
        ("legacy", both(accept, accept), ["IPv4 rule 1 of nat OUTPUT (legacy)", "IPv4 rule 2 of nat OUTPUT (legacy)"]),
        ("legacy", both(redirect, redirect), ["IPv4 rule 1 of nat OUTPUT (legacy)", "IPv4 rule 2 of nat OUTPUT (legacy)"]),
        (
            "nftables",
            both(
                "iptables-legacy -t filter -A OUTPUT -p tcp --dport 15001 -j DROP",
                "iptables-legacy -t filter -A INPUT -p tcp --dport 15001 -j DROP",
            ),
            ["IPv4 rule 1 of filter OUTPUT (legacy)", "IPv4 rule 1 of filter INPUT (legacy)"],
        ),
        (
            "nftables",
            vec![
                "nft add table ip mine",
                "nft add chain ip mine c { type filter hook output priority 5; }",
                "nft add rule ip mine c tcp dport 15001 drop",
                "nft add rule ip mine c tcp dport 15001 drop",
            ],
            ["IPv4 rule 1 of ip mine c (nftables)", "IPv4 rule 2 of ip mine c (nftables)"],
        ),
        // What the policy would drop, and an ACCEPT that is right to stand there.
        (
            "legacy",
            vec![
                accept,
                "iptables-legacy -t filter -P INPUT DROP",
                "iptables-legacy -t filter -A OUTPUT -p tcp -j ACCEPT",
                "iptables-legacy -t filter -P OUTPUT DROP",
            ],
            ["IPv4 rule 1 of nat OUTPUT (legacy)", "IPv4 the policy DROP of filter INPUT (legacy)"],
        ),
    ] {
        let pod = pod();
        run(&pod, "apply", backend, &[]).expect(0);
        lines(&pod, &rules);
        let verify = run(&pod, "verify", backend, &[]).expect(3);
        let apply = run(&pod, "apply", backend, &[]).expect(0);
        for named in named {
            assert!(verify.stdout.contains(&format!("foreign: {named}")), "{named}: {verify}");
            assert!(apply.warnings().iter().any(|warning| warning.contains(named)), "{named}: {apply}");
        }
        assert!(!verify.stdout.contains("filter OUTPUT (legacy), -p tcp -j ACCEPT"), "{verify}");
    }
}

/// Two redirects of which each would do, where it is not known whether they or the mesh's rules come first.
#[test]
fn rules_that_may_come_first_together_are_a_warning() {
    require_root!();
    let pod = pod();
    run(&pod, "apply", "nftables", &[]).expect(0);
    lines(&pod, &["iptables-legacy -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 25001"; 2]);
    for verb in ["verify", "apply"] {
        let outcome = run(&pod, verb, "nftables", &[]).expect(0);
        let warnings = outcome.warnings();
        for named in ["IPv4 rule 1 of nat OUTPUT (legacy)", "IPv4 rule 2 of nat OUTPUT (legacy)"] {
            assert!(warnings.iter().any(|warning| warning.contains(named) && warning.contains(" may take ")), "{named}: {outcome}");
        }
    }
}

/// Foreign rules about what neither the mesh's rules nor the usual questions mention.
#[test]
fn what_only_foreign_rules_mention_is_asked_about() {
    require_root!();
    for (rules, named) in [
        (&["iptables-legacy -t nat -I OUTPUT -p tcp --dport 3306 -j ACCEPT"][..], "to 192.0.2.1:3306 uid 1000"),
        (&["iptables-legacy -t nat -I OUTPUT -d 172.20.0.0/16 -p tcp -j ACCEPT"], "to 172.20.0.1:443 uid 1000"),
        (&["iptables-legacy -t nat -I PREROUTING -p tcp -m multiport --dports 15020,3306 -j ACCEPT"], " to :3306\" is"),
        (&["iptables-legacy -t nat -I OUTPUT -p tcp -m owner --uid-owner 7 -j ACCEPT"], "uid 7 "),
        (&["iptables-legacy -t nat -I PREROUTING -s 203.0.113.0/24 -p tcp -j ACCEPT"], "in tcp from 203.0.113.1 "),
        // What leads there is asked for as well.
        (
            &[
                "iptables-legacy -t nat -N MINE",
                "iptables-legacy -t nat -A MINE -d 172.20.0.0/16 -j ACCEPT",
                "iptables-legacy -t nat -I OUTPUT -p tcp --dport 3306 -j MINE",
            ],
            "to 172.20.0.1:3306 uid 1000",
        ),
        (
            &[
                "nft add table ip mine",
                "nft add chain ip mine c { type filter hook output priority -200; }",
                "nft add rule ip mine c ip daddr 172.20.0.0/16 tcp dport 3306 drop",
            ],
            "to 172.20.0.1:3306 uid 1000",
        ),
    ] {
        let pod = pod();
        run(&pod, "apply", "legacy", &[]).expect(0);
        lines(&pod, rules);
        let verify = run(&pod, "verify", "legacy", &[]).expect(3);
        assert!(verify.stdout.contains("foreign: IPv4 rule 1 of ") && verify.stdout.contains(named), "{named}: {verify}");
        let apply = run(&pod, "apply", "legacy", &[]).expect(0);
        assert!(apply.warnings().iter().any(|warning| warning.contains(named)), "{named}: {apply}");
    }
}

/// Rules that cannot be evaluated are tried both ways, which would take minutes with many of them.
#[test]
fn what_would_take_too_long_is_not_known() {
    require_root!();
    let pod = pod();
    let excluded: Vec<String> = (0..4000).map(|number| format!("10.{}.{}.0/24", number / 256, number % 256)).collect();
    let excluded = ["-x", &excluded.join(",")];
    run(&pod, "apply", "legacy", &excluded).expect(0);
    lines(&pod, &["nft add table ip mine", "nft add chain ip mine c { type filter hook input priority 5; }"]);
    let rules: Vec<String> = (0..100)
        .map(|length| format!("nft add rule ip mine c tcp flags syn meta length {length} limit rate over 10/second drop"))
        .collect();
    lines(&pod, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    let verify = run(&pod, "verify", "legacy", &excluded).expect(0);
    let warnings = verify.warnings();
    let named = "IPv4 one of 100 foreign rules, the first of them rule 1 of ip mine c (nftables), ";
    assert!(warnings.iter().any(|warning| warning.contains(named) && warning.contains(" may take ")), "{warnings:?}");
    let given_up = "whether more IPv4 packets are taken away from the mesh is not known";
    assert!(warnings.iter().any(|warning| warning.contains(given_up)), "{warnings:?}");
}

/// Where another redirect sends packets need not be known: it is not where the mesh wants them.
#[test]
fn a_redirect_that_is_not_understood_takes_packets_away() {
    require_root!();
    let table = ["nft add table ip mine", "nft add chain ip mine c { type nat hook output priority -150; }"];
    let nft = |rule: &'static str| [&table[..], &[rule]].concat();
    for (rules, named) in [
        (vec!["iptables-legacy -t nat -I OUTPUT -p tcp -j DNAT --to-destination 127.0.0.1:25001"], "IPv4 rule 1 of nat OUTPUT (legacy), "),
        (vec!["iptables-legacy -t nat -I OUTPUT -p tcp -j REDIRECT"], "IPv4 rule 1 of nat OUTPUT (legacy), "),
        (nft("nft add rule ip mine c tcp dport 443 dnat to 127.0.0.1:25001"), "IPv4 rule 1 of ip mine c (nftables), "),
        (nft("nft add rule ip mine c meta l4proto tcp redirect"), "IPv4 rule 1 of ip mine c (nftables), "),
    ] {
        let pod = pod();
        run(&pod, "apply", "legacy", &[]).expect(0);
        lines(&pod, &rules);
        let verify = run(&pod, "verify", "legacy", &[]).expect(3);
        let line = verify.stdout.lines().find(|line| line.contains(named)).unwrap_or_default();
        assert!(line.contains(" takes packets away from the mesh: ") && line.len() < 320, "{verify}");
        let apply = run(&pod, "apply", "legacy", &[]).expect(0);
        assert!(apply.warnings().iter().any(|warning| warning.contains(named) && warning.contains(" takes ")), "{apply}");
    }
    // Whether it is asked at all is another thing.
    let limit = "iptables-legacy -t nat -I OUTPUT -p tcp -m limit --limit 1/s -j DNAT --to-destination 127.0.0.1:25001";
    let set =
        [&table[..], &["nft add set ip mine s { type inet_service; }", "nft add rule ip mine c tcp dport @s redirect to :25001"]].concat();
    for rules in [vec![limit], set] {
        let pod = pod();
        run(&pod, "apply", "legacy", &[]).expect(0);
        lines(&pod, &rules);
        let verify = run(&pod, "verify", "legacy", &[]).expect(0);
        assert!(
            verify.warnings().iter().any(|warning| warning.contains(" may take packets away") && !warning.contains("000000000")),
            "{verify}"
        );
    }
}

/// The mesh in nf_tables, and a foreign table with these chains of it; and what `verify` says then.
fn beside(chains: &str) -> (Namespace, Outcome) {
    let pod = pod();
    run(&pod, "apply", "nftables", &[]).expect(0);
    for line in ["add table ip f"].into_iter().chain(chains.split(" | ")) {
        pod.nft(&format!("'{line}'"));
    }
    let outcome = run(&pod, "verify", "nftables", &[]);
    (pod, outcome)
}

#[test]
fn what_is_left_behind_all_exemptions_is_asked_about() {
    require_root!();
    for chains in [
        "add chain ip f c { type nat hook output priority -150; } | add rule ip f c meta skuid 1000 accept | \
         add rule ip f c meta skuid 1337 accept | add rule ip f c meta l4proto tcp redirect to :1",
        "add chain ip f c { type nat hook prerouting priority -150; } | add rule ip f c tcp dport 8080 accept | \
         add rule ip f c meta l4proto tcp redirect to :1",
        "add chain ip f c { type filter hook output priority -150; policy drop; } | add rule ip f c meta skuid 1000 accept | \
         add rule ip f c meta skuid 1337 accept | \
         add rule ip f c oifname lo accept | add rule ip f c tcp dport 15001 accept",
    ] {
        let (_pod, verified) = beside(chains);
        assert!(verified.code == 3 && verified.stdout.contains("takes packets away from the mesh"), "{chains}: {verified}");
    }
}

#[test]
fn what_rewrites_packets_is_never_passed_over() {
    require_root!();
    for (chains, packet) in [
        ("add chain ip f c { type filter hook output priority -150; } | add rule ip f c tcp dport 443 ip daddr set 127.0.0.1", "443"),
        ("add chain ip f c { type route hook output priority -150; } | add rule ip f c meta mark set 0x10 meta mark 0x10 drop", "443"),
        ("add chain ip f c { type filter hook output priority -300; } | add rule ip f c tcp dport 9443 tcp dport set 443", "9443"),
    ] {
        let (pod, verified) = beside(chains);
        assert!(!verified.warnings().is_empty(), "{chains}: {verified}");
        let packet = format!("out tcp 9.9.9.9:{packet} uid 1000");
        let explained = pod.mesh_init(&["explain", "live", "--packet", &packet]).run().expect(0);
        assert!(explained.stdout.contains("depends on"), "{chains}: {explained}");
    }
}

#[test]
fn many_foreign_rules_hide_none_without_a_word() {
    require_root!();
    let pod = pod();
    run(&pod, "apply", "legacy", &[]).expect(0);
    let rules = |from: u16| -> String {
        (from..from + 300).map(|port| format!("-A OUTPUT -p tcp --dport {port} -d 10.0.0.1 -j ACCEPT\n")).collect()
    };
    let text = format!("*raw\n{}-A OUTPUT -p tcp --dport 9999 -j DROP\n{}COMMIT\n", rules(1000), rules(2000));
    pod.legacy_restore(common::Family::V4, &text);
    let verified = run(&pod, "verify", "legacy", &[]);
    assert!(verified.code == 3 || verified.warnings().iter().any(|warning| warning.contains("is not known")), "{verified}");
}

/// One packet may meet more rules than anybody can wait for.
#[test]
fn a_walk_ends_where_the_patience_ends() {
    require_root!();
    let mut chains = String::new();
    for level in (0..14).rev() {
        chains += &format!("add chain ip f n{level} | ");
        for _ in 0..3 {
            for wanted in ["tcp dport 443".to_owned(), format!("ip daddr != 3.3.3.{level}")] {
                let verdict = if level == 13 { "counter".to_owned() } else { format!("jump n{}", level + 1) };
                chains += &format!("add rule ip f n{level} {wanted} {verdict} | ");
            }
        }
    }
    chains += "add chain ip f c { type filter hook output priority -150; } | add rule ip f c jump n0";
    let (_pod, verified) = beside(&chains);
    assert!(verified.warnings().iter().any(|warning| warning.contains("is not known")), "{verified}");
}
