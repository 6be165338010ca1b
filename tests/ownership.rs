//! Whose a rule is: foreign rules that look like the meshes' stay foreign, and what the originals left is taken over.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Family, Namespace, check_all, strace};

const APPLY: [&str; 6] = ["apply", "istio", "-b", "*", "-i", "*"];

/// Foreign rules in the form of such that istio-iptables leaves, by name, table and chain.
const LOOK_ALIKE: &[(&str, &str)] = &[
    ("excluded interfaces", "*nat\n-A PREROUTING -i eth9 -j RETURN\n-A OUTPUT -o eth9 -j RETURN\nCOMMIT\n"),
    (
        "a firewall",
        "*filter\n-A INPUT -p tcp -j DROP\n-A INPUT -p udp -j DROP\n-A FORWARD -p tcp -j DROP\n-A FORWARD -p udp -j DROP\n\
         -A OUTPUT -p tcp -j DROP\n-A OUTPUT -p udp -j DROP\nCOMMIT\n",
    ),
    ("saved marks", "*mangle\n-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark\nCOMMIT\n"),
    ("an interface", "*nat\n-A PREROUTING -i net1 -j RETURN\nCOMMIT\n"),
];

#[test]
fn foreign_rules_that_look_like_istios_stay() {
    require_root!();
    check_all(
        LOOK_ALIKE,
        |(name, _)| (*name).to_owned(),
        |(name, text)| {
            let mut problems = Vec::new();
            for more in [&[][..], &["-c", "eth9"], &["-k", "net1"], &["-m", "TPROXY"]] {
                let pod = Namespace::pod(&["10.9.0.2/24"]);
                pod.legacy_restore(Family::V4, text);
                let before = pod.legacy_save(Family::V4).meaningful();
                let arguments = [&APPLY[..], more].concat();
                for verb in ["apply", "verify", "apply"] {
                    let outcome = pod.mesh_init(&[&[verb], &arguments[1..]].concat()).run();
                    // With all traffic dropped, nothing is captured.
                    let expected = if (*name, verb) == ("a firewall", "verify") { 3 } else { 0 };
                    if outcome.code != expected {
                        problems.push(format!("{more:?}: {outcome}"));
                    }
                }
                let during = pod.legacy_save(Family::V4).lines();
                problems.extend(
                    before
                        .lines()
                        .into_iter()
                        .filter(|line| line.contains("-A ") && !during.contains(line))
                        .map(|line| format!("{more:?}: gone: {line}")),
                );
                pod.mesh_init(&["remove"]).run().expect(0);
                problems.extend(
                    before
                        .differences(&pod.legacy_save(Family::V4).meaningful())
                        .into_iter()
                        .map(|line| format!("{more:?}, after remove: {line}")),
                );
            }
            problems
        },
    );
}

#[test]
fn a_pod_without_a_mesh_is_left_alone_by_remove() {
    require_root!();
    for (_, text) in LOOK_ALIKE {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        pod.legacy_restore(Family::V4, text);
        let before = pod.legacy_save(Family::V4);
        pod.mesh_init(&["remove"]).run().expect(0);
        assert_eq!(before.differences(&pod.legacy_save(Family::V4)), Vec::<String>::new());
    }
}

#[test]
fn what_istio_iptables_left_is_taken_over_with_all_that_names_no_chain_of_its() {
    require_root!();
    let options = ["-b", "*", "-i", "*", "-c", "eth9", "-k", "net1", "-m", "TPROXY"];
    // As the original: the same rules without our mark.
    let original = |pod: &Namespace| {
        let dump = pod.mesh_init(&[&["dump", "istio"], &options[..]].concat()).run().expect(0);
        pod.legacy_restore(Family::V4, &dump.stdout);
    };
    let removed = Namespace::pod(&["10.9.0.2/24"]);
    original(&removed);
    removed.mesh_init(&["remove", "istio"]).run().expect(0);
    assert!(removed.legacy_save(Family::V4).meaningful().is_empty());

    let changed = Namespace::pod(&["10.9.0.2/24"]);
    original(&changed);
    changed.mesh_init(&[&["verify", "istio"], &options[..]].concat()).run().expect(3);
    changed.mesh_init(&APPLY).run().expect(0);
    let fresh = Namespace::pod(&["10.9.0.2/24"]);
    fresh.mesh_init(&APPLY).run().expect(0);
    let expected = fresh.legacy_save(Family::V4).meaningful();
    assert_eq!(expected.differences(&changed.legacy_save(Family::V4).meaningful()), Vec::<String>::new());
}

#[test]
fn chains_whose_names_read_alike_are_not_taken_for_each_other() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let text = "*nat\n:A\u{1} - [0:0]\n:A\\x01 - [0:0]\n-A A\u{1} -s 192.0.2.1/32 -j RETURN\n-A A\\x01 -s 192.0.2.2/32 -j RETURN\n\
                -A OUTPUT -s 192.0.2.3/32 -j A\u{1}\nCOMMIT\n";
    pod.legacy_restore(Family::V4, text);
    let before = pod.legacy_save(Family::V4);
    assert!(before.lines().iter().any(|line| line.ends_with("-j A\u{1}")), "{:?}", before.lines());
    pod.mesh_init(&APPLY).run().expect(0);
    pod.mesh_init(&["remove"]).run().expect(0);
    assert_eq!(before.differences(&pod.legacy_save(Family::V4)), Vec::<String>::new());
}

/// Puts in what stops all traffic while istio-iptables reconciles.
fn guard(pod: &Namespace) {
    for chain in ["INPUT", "FORWARD", "OUTPUT"] {
        for protocol in ["tcp", "udp"] {
            pod.output(&["iptables-legacy", "-I", chain, "-p", protocol, "-j", "DROP"]);
        }
    }
}

#[test]
fn rules_that_stop_all_traffic_over_our_own_tables_are_told_of() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    pod.mesh_init(&APPLY).run().expect(0);
    guard(&pod);
    for (verb, code) in [("apply", 0), ("verify", 3)] {
        let outcome = pod.mesh_init(&[&[verb], &APPLY[1..]].concat()).run().expect(code);
        assert!(outcome.stderr.contains("dropping all TCP and UDP"), "{outcome}");
        assert!(outcome.text().contains("of filter INPUT (legacy), -p tcp -j DROP, takes packets away"), "{outcome}");
    }
    assert_eq!(pod.legacy_save(Family::V4).rules("filter", "INPUT").len(), 2);
}

#[test]
fn a_take_over_that_is_killed_before_the_guards_went_is_ended_by_the_next_run() {
    require_root!();
    if !strace::strace_or_skip() {
        return;
    }
    for nth in 1..20 {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        let dump = pod.mesh_init(&["dump", "istio", "-b", "*", "-i", "*"]).run().expect(0);
        pod.legacy_restore(Family::V4, &dump.stdout);
        guard(&pod);
        let changed = [&APPLY[..], &["-u", "1338"]].concat();
        let inject = format!("inject=setsockopt:signal=KILL:when={nth}");
        let ended = strace::start(&pod, &pod.mesh_init(&changed), &["-e", "trace=setsockopt", "-e", &inject]).end();
        if ended.code == Some(0) {
            assert!(nth > 3, "the test tests nothing");
            return;
        }
        pod.mesh_init(&changed).run().expect(0);
        assert!(pod.legacy_save(Family::V4).rules("filter", "INPUT").is_empty(), "killed at call {nth}");
    }
}

#[test]
fn beside_another_mesh_the_originals_rules_are_known_too() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let dump = pod.mesh_init(&["dump", "istio", "-b", "*", "-i", "*", "-c", "eth1"]).run().expect(0);
    pod.legacy_restore(Family::V4, &dump.stdout);
    pod.mesh_init(&["apply", "linkerd", "-p", "1", "-o", "2", "--ipv6=false"]).run().expect(0);
    pod.mesh_init(&["remove"]).run().expect(0);
    assert!(pod.legacy_save(Family::V4).meaningful().is_empty());
}

#[test]
fn a_virtual_interface_of_the_original_goes_though_only_its_return_is_left() {
    require_root!();
    for (options, after) in [(&["-k", "net1"][..], &[][..]), (&["-k", "net1", "-i", "10.0.0.0/8", "--dual-stack"], &["-k", "net2"])] {
        let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
        for family in Family::BOTH {
            let dump = pod.mesh_init(&[&["dump", "istio", "--family", family.digit()], options].concat()).run().expect(0);
            if !dump.stdout.is_empty() {
                pod.legacy_restore(family, &dump.stdout);
            }
        }
        let changed = if after.is_empty() { options } else { after };
        pod.mesh_init(&[&["apply", "istio"][..], changed].concat()).run().expect(0);
        assert!(after.is_empty() || !pod.legacy_save(Family::V4).lines().iter().any(|line| line.contains("net1")));
        pod.mesh_init(&["remove", "istio"]).run().expect(0);
        for family in Family::BOTH {
            assert!(pod.legacy_save(family).meaningful().is_empty(), "{options:?}: {:?}", pod.legacy_save(family).lines());
        }
    }
}
