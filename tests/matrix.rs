//! Wherever a connection goes by the originals' rules it goes by ours: the same ones are tried in a pod that the program
//! has prepared and in one in which the real iptables has loaded the expected rules.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;

use common::fixture::{Vector, all_vectors, vectors};
use common::matrix::{Answers, PATIENCE, Scene, differences, is_a_matter_of_time, unanswered, zones_are_shown};
use common::namespace::Network;
use common::{Family, check_all};

/// Fewer questions than these would not tell much.
const FEW: usize = 200;
/// Of so many questions, one may be without an answer: packets are lost where nobody waits for them.
const SILENT: usize = 10;

/// The tests of each backend, which is chosen as in a pod: by the environment.
macro_rules! on_backends {
    ($($backend:ident)*) => {$(
        mod $backend {
            #[test]
            fn every_vector_sends_traffic_where_the_real_iptables_does_for_istio() {
                crate::require_root!();
                crate::check_mesh("istio", stringify!($backend));
            }

            #[test]
            fn every_vector_sends_traffic_where_the_real_iptables_does_for_linkerd() {
                crate::require_root!();
                crate::check_mesh("linkerd", stringify!($backend));
            }
        }
    )*};
}

on_backends!(legacy nftables);

fn check_mesh(mesh: &'static str, backend: &str) {
    let vectors: Vec<Vector> = vectors(mesh).into_iter().filter(Vector::suits_verbs).collect();
    check_all(&vectors, Vector::title, |vector| {
        let mut problems = Vec::new();
        for patience in PATIENCE {
            let expected = Scene::with_expected_rules(vector).answers(patience);
            let found = prepared_by_us(vector, backend).answers(patience);
            problems = differences(&expected, &found);
            let silent = unanswered(&expected);
            if expected.len() < FEW || silent * SILENT > expected.len() {
                problems.push(format!("{} questions, {silent} without an answer", expected.len()));
            }
            if !is_a_matter_of_time(&expected, &found) {
                break;
            }
        }
        problems
    });
}

/// A pod after `apply`.
fn prepared_by_us(vector: &Vector, backend: &str) -> Scene {
    Scene::new(vector, |Network { pod, .. }| {
        let program = vector.program(pod, &["apply", vector.mesh]).env("MESH_INIT_BACKEND", backend);
        let outcome = program.run().expect(0);
        assert!(outcome.text().contains(&format!("({backend}, ")), "not by {backend}: {outcome}");
    })
}

#[test]
fn a_pod_without_rules_answers_otherwise() {
    require_root!();
    // One of each kind: files are by what their vectors are about.
    let mut kinds = BTreeMap::new();
    for vector in all_vectors().into_iter().filter(Vector::suits_verbs) {
        kinds.insert((vector.mesh, vector.file.clone()), vector);
    }
    let kinds: Vec<Vector> = kinds.into_values().collect();
    assert!(kinds.len() > 10, "{kinds:?}");
    check_all(&kinds, Vector::title, |vector| {
        let expected = Scene::with_expected_rules(vector).answers(PATIENCE[0]);
        let found = Scene::new(vector, |_| ()).answers(PATIENCE[0]);
        let count = differences(&expected, &found).len();
        if count < 20 { vec![format!("only {count} of {} answers differ", expected.len())] } else { Vec::new() }
    });
}

/// Vectors that have most kinds of rules between them.
const TELLING: [(&str, &str); 8] = [
    ("istio", "injected-default"),
    ("istio", "injected-kubevirt"),
    ("istio", "tproxy-all"),
    ("istio", "dns-drop-invalid"),
    ("istio", "outbound-virtual-list"),
    ("istio", "groups-exclude"),
    ("linkerd", "injected-gid"),
    ("linkerd", "injected-annotations"),
];

/// Rules whose absence changes nothing, in all vectors or in one: others do the same with all that could meet them.
const REDUNDANT: [(&str, &str); 9] = [
    // What is on lo has left the chain by the rules for the proxy's user, whoever sent it.
    ("", "-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT"),
    ("", "-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN"),
    ("", "-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --gid-owner 1337 -j RETURN"),
    ("", "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN"),
    // A rule before it catches TCP, and nothing catches the rest.
    ("injected-kubevirt", "-A PREROUTING -i net1 -j RETURN"),
    // The proxy's resolver answers as its user and its group.
    ("", "-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2"),
    ("", "-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2"),
    // What has the mark comes over lo, and a rule for that lets it pass as well.
    ("", "-A ISTIO_INBOUND -p tcp -m mark --mark 1337 -j RETURN"),
    // Nothing leads to nat's chain of that name with TPROXY.
    ("tproxy-all", "-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN"),
];

/// A vector, the answers with all its rules, and its rules without one.
struct Case<'a> {
    vector: &'a Vector,
    expected: &'a Answers,
    rules: [String; 2],
    missing: String,
}

#[test]
fn a_pod_without_one_of_the_rules_answers_otherwise() {
    require_root!();
    let is_telling = |vector: &Vector| TELLING.contains(&(vector.mesh, vector.name.as_str()));
    let vectors = all_vectors().into_iter().filter(is_telling);
    let known: Vec<(Vector, Answers)> =
        vectors.map(|vector| (vector.clone(), Scene::with_expected_rules(&vector).answers(PATIENCE[0]))).collect();
    assert_eq!(known.len(), TELLING.len());
    let mut cases = Vec::new();
    for (vector, expected) in &known {
        let [v4, v6] = Family::BOTH.map(|family| vector.text(family));
        let lines: Vec<&str> = v4.lines().collect();
        // The table of zones is the last.
        let shown = if zones_are_shown() { lines.len() } else { lines.iter().position(|line| *line == "*raw").unwrap_or(lines.len()) };
        let matters = |rule: &str| {
            rule.starts_with("-A") && !REDUNDANT.iter().any(|(name, other)| rule == *other && (name.is_empty() || *name == vector.name))
        };
        let rules = lines[..shown].iter().enumerate().filter(|(_, line)| matters(line));
        cases.extend(rules.map(|(index, missing)| {
            let rest = [&lines[..index], &lines[index + 1..]].concat().join("\n") + "\n";
            Case { vector, expected, rules: [rest, v6.clone()], missing: (*missing).to_owned() }
        }));
    }
    assert!(cases.len() > 100, "only {} cases", cases.len());
    check_all(
        &cases,
        |case| format!("{} {} without {}", case.vector.mesh, case.vector.name, case.missing),
        |case| {
            let found = Scene::with_rules(case.vector, &case.rules).answers(PATIENCE[0]);
            if differences(case.expected, &found).is_empty() { vec!["answers the same".to_owned()] } else { Vec::new() }
        },
    );
}
