//! The distribution's programs as a backend: what they are made to hold, what they leave alone, and what becomes of the
//! pod when one of them fails.

#![cfg(feature = "iptables-command")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "command/failures.rs"]
mod failures;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use common::fixture::{Vector, vector};
use common::program::Program;
use common::{Family, Namespace, Privilege, Saved, check_all};

const KINDS: [&str; 2] = ["legacy", "nft"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// A dual-stack pod with TPROXY and DNS: several tables in both families, addresses and routes.
const EVERYTHING: &str = "tproxy-everything";

/// What the real `iptables-legacy-save` or `iptables-nft-save` prints, with all counters if asked for.
fn saved(pod: &Namespace, kind: &str, family: Family, counters: bool) -> Saved {
    let mut command = pod.command(&format!("{}-{kind}-save", family.iptables()));
    if counters {
        command.arg("-c");
    }
    Saved::parse(&common::namespace::run(&mut command), counters)
}

fn both(pod: &Namespace, kind: &str) -> [Saved; 2] {
    Family::BOTH.map(|family| saved(pod, kind, family, false).meaningful())
}

fn restore(pod: &Namespace, kind: &str, family: Family, text: &str) {
    common::namespace::feed(pod.command(&format!("{}-{kind}-restore", family.iptables())).args(["--noflush", "--counters"]), text);
}

/// The vector's command line, through the programs of a kind.
fn through<'a>(vector: &Vector, pod: &'a Namespace, kind: &str, verb: &str) -> Program<'a> {
    let flag = if vector.mesh == "istio" { "--force-iptables-binary" } else { "--iptables-mode" };
    let program = vector.program(pod, &[verb, vector.mesh, flag, kind]);
    program.env("MESH_INIT_BACKEND", "iptables").with(Privilege::NetAdminAndNetRaw)
}

/// `apply istio` with these words besides, through `--backend` or whatever they say.
fn istio<'a>(pod: &'a Namespace, verb: &str, words: &[&str]) -> Program<'a> {
    let all = [&[verb, "istio", "-b", "*", "-i", "*", "--dual-stack"], words].concat();
    pod.mesh_init(&all).env("MESH_INIT_BACKEND", "auto").with(Privilege::NetAdminAndNetRaw)
}

/// Sends a packet for the rules to count.
fn send(pod: &Namespace) {
    pod.output(&["bash", "-c", "echo > /dev/udp/10.9.0.2/9"]);
}

fn dual_stack() -> Namespace {
    Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"])
}

/// A folder that is first in PATH, with these scripts in it.
fn fakes(pod: &Namespace, scripts: &[(&str, &str)]) -> String {
    let folder = pod.folder().join("fakes");
    fs::create_dir_all(&folder).unwrap();
    for (name, script) in scripts {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{PATH}", folder.display())
}

/// Everything that a failed run must leave as it was, as lines; what IPv4 rules have counted, too. IPv6 talks by itself.
fn state(pod: &Namespace) -> Vec<String> {
    let mut lines = Vec::new();
    for kind in KINDS {
        for family in Family::BOTH {
            let saved = saved(pod, kind, family, family == Family::V4).meaningful();
            lines.extend(saved.lines().into_iter().map(|line| format!("{kind} {family:?} {line}")));
        }
    }
    lines.extend(pod.output(&["nft", "-s", "list", "tables"]).lines().filter(|line| line.contains("mesh-init")).map(str::to_owned));
    lines.push(pod.routing_text());
    lines
}

#[test]
fn the_programs_hold_the_plan_and_are_asked_again_only_where_it_has_drifted() {
    require_root!();
    let names = ["dual-stack", EVERYTHING, "injected-ipv6", "multiport"];
    let cases: Vec<(Vector, &str)> = names.into_iter().flat_map(|name| KINDS.map(|kind| (vector(name), kind))).collect();
    check_all(
        &cases,
        |(vector, kind)| format!("{} {kind}", vector.name),
        |(vector, kind)| {
            let (_judge, expected) = vector.expected();
            let expected = expected.map(Saved::meaningful);
            let pod = vector.pod();
            let other = if *kind == "nft" { "legacy" } else { "nft" };
            let wrong = |when: &str| -> Vec<String> {
                let here = expected.iter().zip(both(&pod, kind)).flat_map(|(expected, found)| expected.differences(&found));
                let there = both(&pod, other).into_iter().flat_map(|saved| saved.lines());
                here.chain(there).map(|line| format!("{when}: {line}")).collect()
            };
            through(vector, &pod, kind, "apply").run().expect(0);
            let mut problems = wrong("after the first run");

            let restores = ["iptables", "ip6tables"].map(|name| format!("{name}-{kind}-restore"));
            let path = fakes(&pod, &[(&restores[0], "exit 9"), (&restores[1], "exit 9")]);
            let again = through(vector, &pod, kind, "apply").env("PATH", &path).run().expect(0);
            if !again.text().contains("already in place") {
                problems.push(again.to_string());
            }
            through(vector, &pod, kind, "verify").env("PATH", &path).run().expect(0);

            for family in Family::BOTH {
                let tool = format!("{}-{kind}", family.iptables());
                let chains = expected[usize::from(family == Family::V6)].tables.get("nat").cloned().unwrap_or_default();
                let Some(own) = chains.iter().find(|(_, chain)| chain.policy == "-" && !chain.rules.is_empty()) else { continue };
                pod.output(&[&tool, "-t", "nat", "-D", own.0, "1"]);
                pod.output(&[&tool, "-t", "nat", "-A", "OUTPUT", "-j", own.0]);
            }
            through(vector, &pod, kind, "verify").run().expect(3);
            let repaired = through(vector, &pod, kind, "apply").run().expect(0);
            if !repaired.text().contains("installed and verified") || !repaired.text().contains("(iptables, ") {
                problems.push(repaired.to_string());
            }
            problems.extend(wrong("after the repair"));

            pod.mesh_init(&["remove", "--backend", "iptables"])
                .env("MESH_INIT_BACKEND", "")
                .with(Privilege::NetAdminAndNetRaw)
                .run()
                .expect(0);
            let left = both(&pod, kind).into_iter().flat_map(|saved| saved.lines());
            problems.extend(left.map(|line| format!("after removal: {line}")));
            problems
        },
    );
}

#[test]
fn rules_move_from_and_to_every_other_place_and_are_never_in_two() {
    require_root!();
    const PLACES: [(&str, &[&str]); 4] = [
        ("nftables", &["--backend", "nftables"]),
        ("legacy", &["--backend", "legacy"]),
        ("iptables-nft", &["--backend", "iptables"]),
        ("iptables-legacy", &["--force-iptables-binary", "legacy"]),
    ];
    let holds = |pod: &Namespace| {
        let of = |kind: &str| both(pod, kind).iter().all(|saved| saved.lines().iter().any(|line| line.contains("ISTIO_")));
        let any = |kind: &str| both(pod, kind).iter().any(|saved| !saved.is_empty());
        let own = pod.output(&["nft", "list", "tables"]).matches("mesh-init").count();
        assert!(of("nft") == any("nft") && of("legacy") == any("legacy") && own != 1, "{:#?}", state(pod));
        [(own == 2, "own"), (of("nft"), "nft"), (of("legacy"), "legacy")].into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
    };
    let cases: Vec<_> = PLACES.into_iter().flat_map(|from| PLACES.map(|to| (from, to))).filter(|(from, to)| from != to).collect();
    check_all(
        &cases,
        |((from, _), (to, _))| format!("from {from} to {to}"),
        |((from, first), (to, second))| {
            let pod = dual_stack();
            istio(&pod, "apply", first).run().expect(0);
            let moved = istio(&pod, "apply", second).run().expect(0);
            let verified = istio(&pod, "verify", second).run().expect(0);
            let place = |to: &str| {
                if to.ends_with("legacy") {
                    "legacy"
                } else if to == "nftables" {
                    "own"
                } else {
                    "nft"
                }
            };
            let mut problems = Vec::new();
            let held: Vec<&str> = holds(&pod);
            if held != [place(to)] {
                problems.push(format!("the rules are in {held:?}\n{moved}\n{verified}"));
            }
            // Where the rules are already, whoever wrote them, nothing is to be done.
            if (place(from) == place(to)) != moved.text().contains("already in place") {
                problems.push(moved.to_string());
            }
            istio(&pod, "remove", &[]).run().expect(0);
            let left: Vec<&str> = holds(&pod);
            problems.extend(left.iter().map(|place| format!("left in {place}")));
            problems
        },
    );
}

#[test]
fn foreign_rules_and_what_they_have_counted_stay() {
    require_root!();
    let foreign = "*nat\n:MINE - [0:0]\n[7:700] -A MINE -p udp -m limit --limit 3/hour -j RETURN\n\
                   [1:100] -A PREROUTING -p tcp -m tcp --dport 7 -j MINE\n[2:200] -A OUTPUT -m limit --limit 5/minute -j MINE\nCOMMIT\n\
                   *filter\n[3:300] -A INPUT -p tcp -m tcp --dport 9 -j DROP\nCOMMIT\n";
    let behind = "*nat\n[4:400] -A OUTPUT -p tcp -m tcp --dport 8 -j MINE\nCOMMIT\n";
    let is_foreign = |line: &String| line.contains("[7:700]") || line.contains("MINE") || line.contains("INPUT");
    for kind in KINDS {
        let pod = dual_stack();
        restore(&pod, kind, Family::V4, foreign);
        let before = saved(&pod, kind, Family::V4, true).lines();
        let apply = |words: &[&str]| istio(&pod, "apply", &[&["--force-iptables-binary", kind], words].concat()).run().expect(0);
        let tool = format!("iptables-{kind}");
        apply(&[]);
        restore(&pod, kind, Family::V4, behind);
        let with_rules = saved(&pod, kind, Family::V4, true).lines();
        let stay: Vec<String> = with_rules.iter().filter(|line| is_foreign(line)).cloned().collect();
        assert_eq!(stay.len(), before.iter().filter(|line| is_foreign(line)).count() + 1, "{with_rules:#?}");

        // Drifted inside, drifted outside, and another plan.
        pod.output(&[&tool, "-t", "nat", "-D", "ISTIO_OUTPUT", "1"]);
        apply(&[]);
        assert_eq!(saved(&pod, kind, Family::V4, true).lines(), with_rules, "{kind}");
        pod.output(&[&tool, "-t", "nat", "-I", "OUTPUT", "1", "-j", "ISTIO_REDIRECT"]);
        apply(&[]);
        assert_eq!(saved(&pod, kind, Family::V4, true).lines(), with_rules, "{kind}");
        apply(&["-o", "5432", "-m", "TPROXY"]);
        let now = saved(&pod, kind, Family::V4, true).lines();
        assert!(stay.iter().all(|line| now.contains(line)), "{kind}: {stay:#?}\n{now:#?}");

        // The foreign jump into the mesh's chain cannot stay without it.
        pod.output(&[&tool, "-t", "nat", "-A", "MINE", "-j", "ISTIO_REDIRECT"]);
        let removed = istio(&pod, "remove", &["--backend", "iptables", "--force-iptables-binary", kind]).run().expect(0);
        assert!(removed.text().contains("jumped to a chain that goes"), "{removed}");
        pod.output(&[&tool, "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "--dport", "8", "-j", "MINE"]);
        let after: Vec<String> = saved(&pod, kind, Family::V4, true).lines();
        let kept =
            |lines: &[String]| lines.iter().filter(|line| line.contains("-A ") || line.contains("MINE")).cloned().collect::<Vec<_>>();
        assert_eq!(kept(&after), kept(&before), "{kind}");
    }
}

#[test]
fn the_programs_get_the_capabilities_that_they_need_and_no_others() {
    require_root!();
    // What the program that is started may do.
    let script = "grep -E '^(CapPrm|CapBnd|NoNewPrivs)' /proc/self/status > \"$0.caps\"; exec /usr/sbin/iptables-restore \"$@\"";
    for privilege in [Privilege::NetAdmin, Privilege::NetAdminAndNetRaw, Privilege::NetAdminAndSysAdmin, Privilege::Ambient(1000)] {
        let pod = dual_stack();
        fs::set_permissions(pod.folder(), Permissions::from_mode(0o777)).unwrap();
        let path = fakes(&pod, &[("iptables-restore", script)]);
        fs::set_permissions(pod.folder().join("fakes"), Permissions::from_mode(0o777)).unwrap();
        istio(&pod, "apply", &["--backend", "iptables"]).with(privilege).env("PATH", &path).run().expect(0);
        let capabilities = fs::read_to_string(pod.folder().join("fakes/iptables-restore.caps")).unwrap();
        let expected = if privilege == Privilege::NetAdminAndNetRaw { 0x3000 } else { 0x1000 };
        assert!(capabilities.contains(&format!("CapPrm:\t{expected:016x}")), "{privilege:?}: {capabilities}");
        assert!(capabilities.contains("NoNewPrivs:\t1"), "{privilege:?}: {capabilities}");
    }
    let pod = dual_stack();
    let before = state(&pod);
    let outcome = istio(&pod, "apply", &["--force-iptables-binary", "legacy"]).with(Privilege::NetAdmin).run().expect(10);
    assert!(outcome.stderr.contains("iptables-legacy needs CAP_NET_RAW besides, which is missing; add NET_RAW"), "{outcome}");
    assert_eq!(state(&pod), before);
    istio(&pod, "apply", &["--backend", "iptables"]).with(Privilege::RootWithout).run().expect(10);
}

#[test]
fn the_drop_in_runs_the_programs_that_it_is_told_to() {
    require_root!();
    let pod = dual_stack();
    let words = ["istio-iptables", "-b", "*", "-i", "*", "--force-iptables-binary", "nft"];
    let outcome = pod.mesh_init(&words).env("MESH_INIT_BACKEND", "").run().expect(0);
    assert!(outcome.stdout.contains("--force-iptables-binary asks for iptables"), "{outcome}");
    assert!(!saved(&pod, "nft", Family::V4, false).is_empty());
    // Linkerd's prefers a packet filter and needs no program for it.
    let pod = dual_stack();
    let words = ["-p", "4143", "-o", "4140", "--firewall-bin-path", "iptables-nft"];
    pod.mesh_init(&words).called("linkerd2-proxy-init").env("MESH_INIT_BACKEND", "").run().expect(0);
    assert!(saved(&pod, "nft", Family::V4, false).is_empty() && pod.output(&["nft", "list", "tables"]).contains("mesh-init"));
}
