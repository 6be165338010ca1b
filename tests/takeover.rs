//! What an original tool left is recognised in any of its forms, and taken over without a gap: at no moment is there no
//! capture, in the end there is one set of rules, and what is foreign is as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::fixture::{Vector, all_vectors, vector};
use common::namespace::Network;
use common::native::natives;
use common::nft::assert_in_place;
use common::original::{add_foreign, foreign_lines, original};
use common::traffic::{APP, Servers, at};
use common::{Family, Namespace, Outcome, check_all};

/// What of a mesh's iptables names is left outside mesh-init's own table.
fn left_overs(pod: &Namespace) -> Vec<String> {
    let mut left: Vec<String> = Family::BOTH.into_iter().flat_map(|family| pod.iptables_nft_lines(family, false)).collect();
    left.retain(|line| line.contains("ISTIO_") || line.contains("PROXY_INIT_"));
    left.extend(pod.nft("list tables").lines().filter(|table| table.contains("istio-proxy")).map(str::to_owned));
    left
}

fn auto(vector: &Vector, pod: &Namespace, verb: &str) -> Outcome {
    vector.program(pod, &[verb, vector.mesh]).backend("auto").run()
}

#[test]
fn what_iptables_nft_left_is_verified_and_taken_over() {
    require_root!();
    // Those that ask for the legacy filter are moved there.
    let prefers_legacy = |vector: &Vector| vector.args.iter().chain(vector.env.values()).any(|text| text.contains("legacy"));
    let vectors: Vec<Vector> = all_vectors().into_iter().filter(|vector| vector.suits_verbs() && !prefers_legacy(vector)).collect();
    check_all(&vectors, Vector::title, |vector| {
        let pod = original(vector);
        add_foreign(&pod);
        let foreign = foreign_lines(&pod);
        let mut problems = Vec::new();
        let verified = auto(vector, &pod, "verify");
        if verified.code != 0 || !verified.stdout.contains("(nftables, ") {
            problems.push(verified.to_string());
        }
        let applied = auto(vector, &pod, "apply");
        if applied.code != 0 || !applied.text().contains("installed and verified") {
            problems.push(applied.to_string());
        }
        problems.extend(left_overs(&pod));
        if foreign_lines(&pod) != foreign {
            problems.push(format!("foreign rules: {:#?}\nwere {foreign:#?}", foreign_lines(&pod)));
        }
        let verified = auto(vector, &pod, "verify");
        if verified.code != 0 {
            problems.push(verified.to_string());
        }
        problems.extend(pod.legacy_tables());
        problems
    });
}

#[test]
fn what_iptables_nft_left_wrong_is_found_out() {
    require_root!();
    let vector = vector("dual-stack");
    for (command, words) in [
        ("iptables-nft -t nat -D ISTIO_OUTPUT 1", ["missing", "127.0.0.6"]),
        ("ip6tables-nft -t nat -I ISTIO_INBOUND 1 -p tcp --dport 7777 -j RETURN", ["extra", "7777"]),
        ("iptables-nft -t nat -F OUTPUT", ["missing", "OUTPUT"]),
        ("iptables-legacy -t nat -A OUTPUT -j ISTIO_OUTPUT", ["extra", "in the legacy packet filter"]),
        ("nft add table ip nat { flags dormant; }", ["dormant", "changed"]),
    ] {
        let pod = original(&vector);
        if command.contains("legacy") {
            pod.output(&["iptables-legacy", "-t", "nat", "-N", "ISTIO_OUTPUT"]);
        }
        pod.output(&command.split(' ').collect::<Vec<_>>());
        let verified = auto(&vector, &pod, "verify").expect(3);
        assert!(words.iter().all(|word| verified.stdout.contains(word)), "{command}: {verified}");
    }
}

#[test]
fn a_foreign_rule_that_jumps_to_a_chain_that_goes_goes_with_it() {
    require_root!();
    let vector = vector("dual-stack");
    let pod = original(&vector);
    for words in ["-N MINE", "-A MINE -p tcp --dport 77 -j ISTIO_REDIRECT", "-A MINE -p tcp --dport 78 -j ACCEPT", "-A OUTPUT -j MINE"] {
        pod.output(&["iptables-nft", "-t", "nat"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    }
    let outcome = auto(&vector, &pod, "apply").expect(0);
    let warnings = outcome.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("-A MINE -p tcp -m tcp --dport 77 -j ISTIO_REDIRECT"), "{outcome}");
    let lines = pod.iptables_nft_lines(Family::V4, false);
    let kept: Vec<&String> = lines.iter().filter(|line| line.contains("MINE") && line.starts_with("-A")).collect();
    assert_eq!(kept, ["-A OUTPUT -j MINE", "-A MINE -p tcp -m tcp --dport 78 -j ACCEPT"]);
}

#[test]
fn what_istios_own_nft_rules_left_is_verified_and_taken_over() {
    require_root!();
    check_all(
        &natives(),
        |native| native.name.clone(),
        |native| {
            let pod = native.pod();
            add_foreign(&pod);
            let foreign = foreign_lines(&pod);
            let mut problems = Vec::new();
            for verb in ["verify", "apply", "verify"] {
                let outcome = native.program(&pod, verb).run();
                if outcome.code != 0 {
                    problems.push(outcome.to_string());
                }
            }
            problems.extend(left_overs(&pod));
            if foreign_lines(&pod) != foreign {
                problems.push(format!("foreign rules: {:#?}\nwere {foreign:#?}", foreign_lines(&pod)));
            }
            problems
        },
    );
}

#[test]
fn what_istios_own_nft_rules_left_wrong_is_found_out() {
    require_root!();
    let native = natives().into_iter().find(|native| native.name == "ipv4").unwrap();
    for (command, words) in [
        ("flush chain inet istio-proxy-nat istio-redirect", ["missing", "16001"]),
        ("insert rule inet istio-proxy-nat istio-output tcp dport 7777 counter return", ["extra", "7777"]),
        ("insert rule inet istio-proxy-nat output counter accept", ["extra", "ACCEPT"]),
        ("add table inet istio-proxy-nat '{ flags dormant; }'", ["dormant", "changed"]),
        ("chain inet istio-proxy-nat output '{ policy drop; }'", ["output", "policy"]),
    ] {
        let pod = native.pod();
        native.program(&pod, "verify").run().expect(0);
        pod.nft(command);
        let verified = native.program(&pod, "verify").run().expect(3);
        assert!(words.iter().all(|word| verified.stdout.contains(word)), "{command}: {verified}");
    }
}

#[test]
fn rules_in_the_legacy_filter_stay_there_until_another_is_asked_for() {
    require_root!();
    let vector = vector("dual-stack");
    let (_judge, expected) = vector.expected();
    let pod = vector.pod();
    for family in Family::BOTH {
        pod.legacy_restore(family, &vector.text(family));
    }
    pod.give_routing(&vector.policy_routes, vector.lo_has_6);
    auto(&vector, &pod, "verify").expect(0);
    assert_in_place(auto(&vector, &pod, "apply"));
    assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
    assert_eq!(pod.nft_ruleset(), "");

    let moved = vector.program(&pod, &["apply", "istio"]).backend("nftables").run().expect(0);
    assert!(moved.text().contains("installed and verified") && moved.text().contains("(nftables, "), "{moved}");
    for family in Family::BOTH {
        assert!(pod.legacy_save(family).is_empty(), "{:?}", pod.legacy_save(family).lines());
    }
    auto(&vector, &pod, "verify").expect(0);
    assert_in_place(auto(&vector, &pod, "apply"));

    vector.program(&pod, &["apply", "istio"]).backend("legacy").run().expect(0);
    assert_eq!(pod.nft_ruleset(), "");
    assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
    assert_in_place(auto(&vector, &pod, "apply"));
}

#[test]
fn rules_in_both_filters_end_in_nf_tables() {
    require_root!();
    let vector = vector("dual-stack");
    let pod = original(&vector);
    for family in Family::BOTH {
        pod.legacy_restore(family, &vector.text(family));
    }
    auto(&vector, &pod, "verify").expect(3);
    auto(&vector, &pod, "apply").expect(0);
    for family in Family::BOTH {
        assert!(pod.legacy_save(family).is_empty());
    }
    assert_eq!(left_overs_of_nft(&pod), Vec::<String>::new());
    auto(&vector, &pod, "verify").expect(0);
}

/// As [`left_overs`], where iptables-nft warns of legacy tables.
fn left_overs_of_nft(pod: &Namespace) -> Vec<String> {
    let tables = pod.nft("list tables");
    let foreign = tables.lines().filter(|table| !table.ends_with(" mesh-init"));
    let listing: String = foreign.map(|table| pod.nft(&format!("list {table}"))).collect();
    listing.lines().filter(|line| line.contains("ISTIO_")).map(str::to_owned).collect()
}

#[test]
fn everything_is_removed_in_whatever_form() {
    require_root!();
    let everything = vector("tproxy-everything");
    let pod = original(&everything);
    natives().into_iter().find(|native| native.name == "ipv4").unwrap().load(&pod);
    add_foreign(&pod);
    let foreign = foreign_lines(&pod);
    everything.program(&pod, &["apply", "istio"]).backend("legacy").run().expect(0);
    pod.mesh_init(&["remove"]).backend("auto").run().expect(0);
    assert_eq!(left_overs_of_nft(&pod), Vec::<String>::new());
    for family in Family::BOTH {
        assert!(pod.legacy_save(family).is_empty());
    }
    assert!(!pod.lo_has_6() && pod.policy_routes().is_empty());
    assert_eq!(foreign_lines(&pod), foreign);
}

/// Connects all the time while `change` is made: every connection has to reach the proxy.
fn nothing_escapes(network: &Network, change: impl FnOnce()) {
    let far = at(Network::FAR[0], 80);
    let _servers = [Servers::tcp(&network.pod, &[15001]), Servers::tcp(&network.outside, &[80])];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut count, mut escaped) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                let seen = network.pod.connect(APP, far);
                if seen.as_ref().map(|seen| (seen.port, seen.original)) != Ok((15001, Some(far))) {
                    escaped.push(format!("{seen:?}"));
                }
                count += 1;
            }
            (count, escaped)
        });
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        std::thread::sleep(std::time::Duration::from_millis(20));
        done.store(true, Ordering::Relaxed);
        let (count, escaped) = watch.join().unwrap();
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(escaped.is_empty(), "{} of {count}: {escaped:?}", escaped.len());
        assert!(count > 10, "only {count} connections were tried");
    });
}

const PLAIN: [&str; 6] = ["istio", "-b", "*", "-i", "*", "--dual-stack"];

/// Puts the original's rules for [`PLAIN`] into one of the filters.
fn leave(pod: &Namespace, form: &str) {
    let text = |family: Family| {
        let words = [&["dump"], &PLAIN[..], &["--family", family.digit()]].concat();
        pod.mesh_init(&words).run().expect(0).stdout
    };
    for family in Family::BOTH {
        match form {
            "legacy" => pod.legacy_restore(family, &text(family)),
            "iptables-nft" => pod.iptables_nft_restore(family, &text(family)),
            _ => {}
        }
    }
    if form == "istio-native" {
        // The same tables as its own, but that they are Istio's.
        let own = pod.mesh_init(&[&["dump"], &PLAIN[..], &["--format", "nft", "--family", "4"]].concat()).run().expect(0).stdout;
        let renamed = own.replace("table ip mesh-init", "table inet istio-proxy-nat").replace("ISTIO_OUTPUT-", "ISTIO_REST_");
        let (_, script) = renamed.split_once("delete table inet istio-proxy-nat\n").unwrap();
        let lower = script.replace("PREROUTING", "prerouting").replace("OUTPUT", "output");
        pod.nft_load(&lower);
    }
    pod.give_routing(&[], true);
}

#[test]
fn no_connection_escapes_while_rules_change_hands() {
    require_root!();
    for (form, backend) in
        [("legacy", "nftables"), ("iptables-nft", "auto"), ("iptables-nft", "legacy"), ("istio-native", "auto"), ("istio-native", "legacy")]
    {
        let network = Network::new();
        leave(&network.pod, form);
        nothing_escapes(&network, || {
            let run = |backend: &str| network.pod.mesh_init(&[&["apply"], &PLAIN[..]].concat()).backend(backend).run().expect(0);
            run(backend);
            // To and fro between mesh-init's own.
            for _ in 0..3 {
                run("legacy");
                run("nftables");
            }
        });
        assert_eq!(left_overs_of_nft(&network.pod), Vec::<String>::new());
        for family in Family::BOTH {
            assert!(network.pod.legacy_save(family).is_empty());
        }
    }
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn within_nf_tables_there_are_never_two_sets_nor_none() {
    require_root!();
    for form in ["iptables-nft", "istio-native"] {
        let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
        leave(&pod, form);
        let (done, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
                while !done.load(Ordering::Relaxed) {
                    let listing = pod.nft("list ruleset ip") + &pod.nft("list ruleset inet");
                    let sets = listing.matches("redirect to :15001").count() + listing.matches("REDIRECT --to-ports 15001").count();
                    *counts.entry(sets).or_default() += 1;
                    looks.fetch_add(1, Ordering::Relaxed);
                }
                counts
            });
            let looked = |times| std::iter::from_fn(|| (looks.load(Ordering::Relaxed) < times).then(|| std::thread::sleep(MOMENT))).count();
            looked(3);
            let outcome = pod.mesh_init(&[&["apply"], &PLAIN[..]].concat()).backend("auto").run();
            looked(looks.load(Ordering::Relaxed) + 4);
            done.store(true, Ordering::Relaxed);
            let counts = watch.join().unwrap();
            outcome.expect(0);
            // The two listings of one look are made one after the other, so that a change may fall between them.
            let other: usize = counts.iter().filter(|(sets, _)| **sets != 1).map(|(_, times)| times).sum();
            assert!(other <= 1 && counts.contains_key(&1), "{form}: {counts:?}");
        });
    }
}
