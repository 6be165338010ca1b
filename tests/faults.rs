//! All or nothing: whichever system call fails, the pod ends either as planned or exactly as it was, and writers that
//! work on the same tables at the same time lose nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::{Vector, vector};
use common::{Family, Namespace, check_all, strace};

/// Runs a verb while the `nth` of these system calls fails. Returns the exit code, what was written, and whether
/// there was such a call.
fn with_failing(vector: &Vector, pod: &Namespace, verb: &str, calls: &str, nth: usize) -> (i32, String, bool) {
    let program = vector.program(pod, &[verb, vector.mesh]);
    let options = [format!("trace={calls}"), format!("inject={calls}:error=ENOMEM:when={nth}")];
    let ended = strace::start(pod, &program, &["-e", &options[0], "-e", &options[1]]).end();
    let injected = ended.calls.iter().any(|call| call.contains("(INJECTED)"));
    (ended.code.unwrap_or(-1), ended.text, injected)
}

/// Makes each call of a run fail in turn and looks at the pod afterwards. `before` is what the pod had before.
fn fail_each(before: Option<&Vector>, after: &Vector, calls: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let (_judge, expected) = after.expected();
    for nth in 1..100 {
        let pod = after.pod();
        pod.output(&["iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "--dport", "31000", "-j", "RETURN", "-c", "7", "700"]);
        if let Some(before) = before {
            before.verb(&pod, "apply").expect(0);
        }
        let was = pod.state();
        let (code, text, injected) = with_failing(after, &pod, "apply", calls, nth);
        let is = pod.state();
        let counted = pod.legacy_save_counted(Family::V4).lines();
        if !counted.iter().any(|line| line.contains("[7:700]") && line.contains("31000")) {
            problems.push(format!("call {nth} failed, exit {code}: the foreign rule's counters are lost: {counted:?}"));
        }
        if !injected {
            assert_eq!(code, 0, "{text}");
            return problems;
        }
        if code == 0 {
            // A call whose failure does not matter, or that was tried again.
            pod.output(&["iptables-legacy", "-t", "nat", "-D", "OUTPUT", "-p", "udp", "--dport", "31000", "-j", "RETURN"]);
            problems.extend(after.wrong_in(&pod, &expected).into_iter().map(|problem| format!("call {nth} failed, exit 0: {problem}")));
        } else {
            problems.extend(was.differences(&is).into_iter().map(|line| format!("call {nth} failed, exit {code}: {line}")));
            if text.trim().is_empty() {
                problems.push(format!("call {nth} failed, exit {code}, and nothing is said"));
            }
        }
    }
    problems.push("a run that needs more than a hundred calls".to_owned());
    problems
}

#[test]
fn a_failed_call_leaves_everything_as_it_was() {
    require_root!();
    if !strace::strace_or_skip() {
        return;
    }
    let (everything, default, linkerd) = (vector("tproxy-everything"), vector("dual-stack"), vector("injected-ipv6"));
    let cases: Vec<(&str, Option<&Vector>, &Vector)> = ["setsockopt", "getsockopt", "sendto,sendmsg"]
        .into_iter()
        .flat_map(|calls| [(calls, None, &everything), (calls, Some(&default), &everything), (calls, None, &linkerd)])
        .collect();
    check_all(
        &cases,
        |(calls, before, after)| format!("{calls}: {:?} then {}", before.map(|vector| &vector.name), after.name),
        |(calls, before, after)| fail_each(*before, after, calls),
    );
}

#[test]
fn an_address_that_cannot_be_added_leaves_nothing_behind() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    pod.output(&["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6"]);
    let outcome = pod.mesh_init(&["apply", "istio", "--dual-stack", "-b", "*", "-i", "*", "-m", "TPROXY"]).run();
    assert_ne!(outcome.code, 0, "{outcome}");
    assert!(outcome.text().contains("::6"), "{outcome}");
    for family in Family::BOTH {
        assert!(pod.legacy_save(family).is_empty());
    }
    assert!(pod.policy_routes().is_empty());
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    require_root!();
    let vector = vector("dual-stack");
    let (_judge, expected) = vector.expected();
    let pod = vector.pod();
    let foreign: Vec<String> = (31000..31060).map(|port| format!("-A OUTPUT -p udp -m udp --dport {port} -j RETURN")).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..15 {
                    let outcome = vector.verb(&pod, "apply");
                    assert_eq!(outcome.code, 0, "{outcome}");
                }
            });
        }
        scope.spawn(|| {
            for rule in &foreign {
                let words = ["iptables-legacy", "-w", "-t", "nat"].into_iter().chain(rule.split(' '));
                pod.output(&words.collect::<Vec<_>>());
            }
        });
    });
    let saved = pod.legacy_save(Family::V4);
    let lost: Vec<&String> = foreign.iter().filter(|rule| !saved.rules("nat", "OUTPUT").contains(rule)).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    vector.verb(&pod, "verify").expect(0);
    pod.output(&["iptables-legacy", "-w", "-t", "nat", "-F", "OUTPUT"]);
    vector.verb(&pod, "apply").expect(0);
    assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
}
