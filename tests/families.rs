//! What a kernel lacks: IPv6 altogether, its packet filter, the filter of IPv4, a table, matches and targets. IPv6 is
//! left out where nobody can reach the pod over it, and everything else that is missing stops the run before anything
//! is changed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::vector;
use common::seccomp::{Level, Refusal};
use common::{Family, Namespace, Outcome, check_all};

const V4: &str = "10.9.0.2/24";
const GLOBAL: &str = "2001:db8:9::2/64";

/// Command lines that capture IPv6: Linkerd by its default, Istio by a flag or by its pod's address.
const CAPTURING: [&[&str]; 3] = [
    &["linkerd", "-p", "4143", "-o", "4140", "-u", "2102"],
    &["istio", "--dual-stack", "-b", "*", "-i", "*", "--pod-ip", "10.9.0.2,2001:db8:9::2"],
    &["istio", "-m", "TPROXY", "-b", "*", "-i", "*", "--pod-ip", "2001:db8:9::2"],
];

fn run(pod: &Namespace, verb: &str, words: &[&str], refusals: &[Refusal]) -> Outcome {
    pod.mesh_init(&[&[verb], words].concat()).refusing(refusals.to_vec()).run()
}

/// The same words as the original tool would be given them.
fn drop_in(pod: &Namespace, words: &[&str], refusals: &[Refusal]) -> Outcome {
    match words[0] {
        "istio" => pod.mesh_init(&[&["istio-iptables"], &words[1..]].concat()).refusing(refusals.to_vec()).run(),
        _ => pod.mesh_init(&words[1..]).called("linkerd2-proxy-init").refusing(refusals.to_vec()).run(),
    }
}

/// The jump into the mesh's chain for outgoing traffic.
fn has_rules(pod: &Namespace, family: Family, mesh: &str) -> bool {
    let chain = if mesh == "istio" { "ISTIO_OUTPUT" } else { "PROXY_INIT_OUTPUT" };
    pod.legacy_save(family).rules("nat", "OUTPUT").iter().any(|rule| rule.ends_with(&format!("-j {chain}")))
}

/// Applies, verifies and removes where IPv6 is to be left out, with one warning that says so.
fn check_left_out(pod: &Namespace, words: &[&str], refusals: &[Refusal]) -> Vec<String> {
    let before = pod.state();
    let mut problems = Vec::new();
    let mut warned_once = |outcome: Outcome| {
        let warnings = outcome.warnings();
        if outcome.code != 0 || warnings.len() != 1 || !warnings[0].contains("IPv6 is left out") {
            problems.push(format!("exit 0 and one warning expected: {outcome}"));
        }
        outcome
    };
    warned_once(run(pod, "apply", words, refusals));
    let verified = warned_once(run(pod, "verify", words, refusals));
    let again = warned_once(run(pod, "apply", words, refusals));
    warned_once(drop_in(pod, words, refusals));
    if !verified.stdout.starts_with("in place:") || !again.text().contains("already in place") {
        problems.push(format!("{verified}\n{again}"));
    }
    if !has_rules(pod, Family::V4, words[0]) || !pod.legacy_save(Family::V6).is_empty() || pod.lo_has_6() {
        problems.push("rules of IPv4 alone are expected".to_owned());
    }
    if pod.policy_routes().iter().any(|policy| policy.family == 6) {
        problems.push(format!("routes of IPv4 alone are expected: {:?}", pod.policy_routes()));
    }
    let removed = run(pod, "remove", &words[..1], refusals);
    if removed.code != 0 || !removed.warnings().is_empty() {
        problems.push(removed.to_string());
    }
    problems.extend(before.differences(&pod.state()));
    problems
}

#[test]
fn without_an_ipv6_stack_ipv6_is_left_out_with_a_warning() {
    require_root!();
    check_all(&CAPTURING, |words| words.join(" "), |words| check_left_out(&Namespace::pod(&[V4]), words, &Refusal::no_ipv6()));
}

#[test]
fn without_an_ipv6_filter_a_pod_that_nobody_reaches_over_ipv6_goes_without() {
    require_root!();
    for refusals in [Refusal::no_filter(Level::V6), Refusal::no_table(Level::V6)] {
        check_all(
            &CAPTURING,
            |words| words.join(" "),
            |words| {
                let pod = Namespace::pod(&[V4]);
                pod.ip(&["addr add fe80::9/64 dev eth0 nodad"]);
                check_left_out(&pod, words, &refusals)
            },
        );
    }
}

#[test]
fn without_an_ipv6_filter_global_addresses_that_are_to_be_captured_stop_the_run() {
    require_root!();
    for (refusals, code) in [(Refusal::no_filter(Level::V6), 12), (Refusal::no_table(Level::V6), 13), (Refusal::no_features(Level::V6), 13)]
    {
        check_all(
            &CAPTURING,
            |words| words.join(" "),
            |words| {
                let pod = Namespace::pod(&[V4, GLOBAL]);
                let before = pod.state();
                let mut problems = Vec::new();
                let mut refused = |outcome: Outcome, code| {
                    let lines = outcome.lines();
                    let named = lines.last().is_some_and(|line| line.contains("IPv6") && line.contains("CONFIG_"));
                    if outcome.code != code || !named || !outcome.warnings().is_empty() {
                        problems.push(format!("exit {code} and IPv6 and an option of the kernel expected: {outcome}"));
                    }
                };
                refused(run(&pod, "apply", words, &refusals), code);
                refused(drop_in(&pod, words, &refusals), 1);
                problems.extend(before.differences(&pod.state()));
                problems
            },
        );
    }
}

#[test]
fn a_failure_of_ipv6_keeps_the_rules_that_were_in_force() {
    require_root!();
    for refusals in [Refusal::no_filter(Level::V6), Refusal::no_features(Level::V6)] {
        let (before, after) = (vector("injected-default"), vector("tproxy-everything"));
        let pod = after.pod();
        let (_judge, expected) = before.expected();
        before.verb(&pod, "apply").expect(0);
        let outcome = after.program(&pod, &["apply", "istio"]).refusing(refusals).run();
        assert!([12, 13].contains(&outcome.code), "{outcome}");
        assert_eq!(before.wrong_in(&pod, &expected), Vec::<String>::new());
    }
}

#[test]
fn global_addresses_that_are_not_to_be_captured_are_named_in_a_warning() {
    require_root!();
    let told: [&[&str]; 2] = [&["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"], &["istio", "-b", "*", "-i", "*"]];
    for refusals in [Vec::new(), Refusal::no_filter(Level::V6)] {
        check_all(
            &told,
            |words| words.join(" "),
            |words| {
                let pod = Namespace::pod(&[V4, GLOBAL]);
                let mut problems = Vec::new();
                for outcome in
                    [run(&pod, "apply", words, &refusals), run(&pod, "verify", words, &refusals), drop_in(&pod, words, &refusals)]
                {
                    let warnings = outcome.warnings();
                    if outcome.code != 0 || warnings.len() != 1 || !warnings[0].contains("2001:db8:9::2") {
                        problems.push(format!("exit 0 and one warning with the address expected: {outcome}"));
                    }
                }
                if !has_rules(&pod, Family::V4, words[0]) || !pod.legacy_save(Family::V6).is_empty() {
                    problems.push("rules of IPv4 alone are expected".to_owned());
                }
                problems
            },
        );
    }
}

#[test]
fn a_pod_without_global_ipv6_is_not_warned_when_ipv6_is_not_wanted() {
    require_root!();
    let told: [&[&str]; 2] = [&["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"], &["istio", "-b", "*", "-i", "*"]];
    for (refusals, words) in
        [Refusal::no_ipv6(), Refusal::no_filter(Level::V6)].iter().flat_map(|refusals| told.map(|words| (refusals, words)))
    {
        let pod = Namespace::pod(&[V4]);
        for verb in ["apply", "verify"] {
            let outcome = run(&pod, verb, words, refusals).expect(0);
            assert!(outcome.warnings().is_empty(), "{outcome}");
        }
        assert!(has_rules(&pod, Family::V4, words[0]));
    }
}

/// Command lines of IPv4 alone.
const PLAIN: [&[&str]; 2] = [&["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"], &["istio", "-b", "*", "-i", "*", "-m", "TPROXY"]];

/// What is said when IPv4's filter lacks something: the exit code and words of the one line.
fn check_refused(refusals: &[Refusal], code: i32, mentions: &[&str]) {
    check_all(
        &PLAIN,
        |words| words.join(" "),
        |words| {
            let pod = Namespace::pod(&[V4]);
            let before = pod.state();
            let mut problems = Vec::new();
            let outcomes = [(run(&pod, "apply", words, refusals), code), (drop_in(&pod, words, refusals), 1)];
            for (outcome, code) in outcomes {
                let lines = outcome.lines();
                let line = lines.last().cloned().unwrap_or_default();
                if outcome.code != code || !mentions.iter().all(|mention| line.contains(mention)) {
                    problems.push(format!("exit {code} and {mentions:?} expected: {outcome}"));
                }
            }
            problems.extend(before.differences(&pod.state()));
            problems
        },
    );
}

#[test]
fn a_kernel_without_a_packet_filter_is_told() {
    require_root!();
    check_refused(&Refusal::no_filter(Level::V4), 12, &["IPv4", "no legacy packet filter", "CONFIG_IP_NF_IPTABLES_LEGACY=y"]);
}

#[test]
fn a_missing_table_is_told() {
    require_root!();
    check_refused(&Refusal::no_table(Level::V4), 13, &["IPv4", "no such table", "CONFIG_IP_NF_"]);
}

#[test]
fn missing_matches_and_targets_are_told() {
    require_root!();
    check_refused(&Refusal::no_features(Level::V4), 13, &["the kernel lacks the match ", "the target ", "CONFIG_NETFILTER_XT_TARGET_"]);
    let pod = Namespace::pod(&[V4]);
    let outcome = run(&pod, "apply", &["istio", "-b", "*", "-i", "*"], &Refusal::no_features(Level::V4));
    for feature in
        ["match tcp", "match owner", "target REDIRECT", "CONFIG_NETFILTER_XT_MATCH_OWNER=y", "CONFIG_NETFILTER_XT_TARGET_REDIRECT=y"]
    {
        assert!(outcome.text().contains(feature), "{feature}: {outcome}");
    }
    assert!(!outcome.text().contains("TPROXY"), "what is not needed is not missed: {outcome}");
}

#[test]
fn a_refusal_despite_the_capability_is_told() {
    require_root!();
    check_refused(&Refusal::forbidden(Level::V4), 1, &["EPERM", "although the capability is effective", "seccomp"]);
}

#[test]
fn other_verbs_tell_what_is_missing_too() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    for (refusals, code) in [(Refusal::no_filter(Level::V4), 12), (Refusal::no_table(Level::V4), 13), (Refusal::forbidden(Level::V4), 1)] {
        let outcome = run(&pod, "verify", PLAIN[0], &refusals).expect(code);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
    // Where there is no filter there is nothing to remove or to show.
    let nothing = [Refusal::no_filter(Level::V4), Refusal::no_filter(Level::V6)].concat();
    pod.mesh_init(&["remove"]).refusing(nothing.clone()).run().expect(0);
    let shown = pod.mesh_init(&["dump", "live"]).refusing(nothing).run().expect(0);
    assert!(!shown.stdout.contains('*'), "{shown}");
}
