//! Whose a policy rule, its route and `::6` are: the mesh's go when they are no longer wanted, also after a run that was
//! killed or was the original tool's; everybody else's stay.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::process::{Command, Output};

use common::fixture::{Vector, vectors};
use common::{Family, Namespace, Saved, check_all};

const TPROXY: &[&str] = &["istio", "-b", "*", "-i", "*", "-m", "TPROXY"];
/// The number by which the kernel knows our policy rules, as `ip` shows it.
const OURS: &str = "proto 109";

fn pod() -> Namespace {
    Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"])
}

fn words(verb: &'static str, more: &[&'static str]) -> Vec<&'static str> {
    [&[verb], TPROXY, more].concat()
}

/// Waits for what the kernel does by itself a moment after it took an IPv6 address: its local route.
fn settle(pod: &Namespace) {
    for _ in 0..300 {
        let (addresses, routes) = (pod.output(&["ip", "-6", "-o", "addr"]), pod.output(&["ip", "-6", "route", "show", "table", "local"]));
        let ready = |line: &str| {
            let address = line.split_whitespace().nth(3).and_then(|prefix| prefix.split('/').next()).unwrap();
            address.starts_with("fe80:") || (!line.contains("tentative") && routes.contains(&format!("local {address} ")))
        };
        if addresses.lines().all(ready) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the addresses of {pod:?} do not become usable");
}

/// Addresses on `lo`, rules and routes.
fn routing(pod: &Namespace) -> String {
    settle(pod);
    pod.routing_text() + &pod.output(&["ip", "addr", "show", "lo"])
}

fn state(pod: &Namespace) -> ([Saved; 2], String) {
    (Family::BOTH.map(|family| pod.legacy_save(family).meaningful()), routing(pod))
}

/// The policy rules for `mark` of a family.
fn rules_for(pod: &Namespace, family: &str, mark: u32) -> Vec<String> {
    let mark = format!("fwmark {mark:#x} ");
    let listed = pod.output(&["ip", family, "rule"]);
    listed.lines().filter(|line| line.contains(&mark)).map(str::to_owned).collect()
}

fn strace_or_skip() -> bool {
    if Command::new("strace").arg("-V").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "strace is needed, and CI must not skip this test");
    eprintln!("skipped: there is no strace");
    false
}

/// Runs the program under strace, which does `inject`. The result and the calls that it logged.
fn traced(pod: &Namespace, words: &[&str], inject: &str) -> (Output, String) {
    let program = pod.mesh_init(words).command();
    let log = pod.folder().join("strace");
    let call = inject.split(':').next().unwrap();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", &format!("trace={call}"), "-e", &format!("inject={inject}"), "-o"]).arg(&log);
    traced.arg(program.get_program()).args(program.get_args()).env_clear();
    traced.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = traced.output().unwrap();
    (output, std::fs::read_to_string(&log).unwrap())
}

/// Rules, a route and an address like those of a mesh, which somebody else made.
fn add_foreign(pod: &Namespace) {
    for family in ["", "-6 "] {
        pod.output(&[
            "sh",
            "-c",
            &format!("ip {family}rule add fwmark 1337 lookup 133 && ip {family}route add local default dev lo table 133"),
        ]);
    }
    pod.output(&["ip", "addr", "add", "::6/128", "dev", "lo"]);
}

#[test]
fn what_looks_like_ours_stays_in_a_pod_without_istio() {
    require_root!();
    let pod = pod();
    add_foreign(&pod);
    let before = routing(&pod);
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(routing(&pod), before);
    // Rules for IPv4 that need no policy route, and taking them away again, are no reason either.
    pod.mesh_init(&["apply", "istio", "-b", "*", "-i", "*"]).run().expect(0);
    assert_eq!(routing(&pod), before);
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(routing(&pod), before);
}

#[test]
fn a_foreign_rule_for_our_mark_stays_beside_ours() {
    require_root!();
    let pod = pod();
    for family in ["-4", "-6"] {
        pod.output(&["ip", family, "rule", "add", "fwmark", "1337", "lookup", "500"]);
        pod.output(&["ip", family, "route", "add", "local", "default", "dev", "lo", "table", "500"]);
    }
    let before = routing(&pod);
    let dual = |verb, more: &[&'static str]| words(verb, &[&["--dual-stack"], more].concat());
    for round in 0..2 {
        pod.mesh_init(&dual("apply", &[])).run().expect(0);
        for family in ["-4", "-6"] {
            let rules = rules_for(&pod, family, 1337);
            assert_eq!(rules.len(), 2, "round {round}: {rules:?}");
            assert!(rules[0].contains("lookup 133") && rules[0].contains(OURS), "{rules:?}");
            assert!(rules[1].contains("lookup 500") && !rules[1].contains(OURS), "{rules:?}");
        }
        assert!(pod.lo_has_6());
        pod.mesh_init(&dual("verify", &[])).run().expect(0);
    }
    // Another table for the same mark: only ours moves.
    pod.mesh_init(&dual("apply", &["-r", "134"])).run().expect(0);
    for family in ["-4", "-6"] {
        let rules = rules_for(&pod, family, 1337);
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert!(rules[0].contains("lookup 134") && rules[1].contains("lookup 500"), "{rules:?}");
    }
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(routing(&pod), before);
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let other_marks = words("apply", &["--dual-stack", "-t", "77", "-r", "78"]);
    let apply = words("apply", &["--dual-stack", "-t", "99", "-r", "98"]);
    let (remove, repair) = (vec!["remove", "istio"], words("apply", &["--dual-stack"]));
    // Which requests may be the last one, and what the killed run was doing. strace does not always know the numbers' names.
    for (last, number) in [("RTM_DELRULE", "0x21"), ("RTM_DELROUTE", "0x19")] {
        let is_last = |line: &str| [last, number].iter().any(|kind| line.contains(&format!("nlmsg_type={kind}")));
        for killed in [&remove, &repair] {
            for next in [&remove, &other_marks] {
                let pod = pod();
                let clean = routing(&pod);
                pod.mesh_init(&apply).run().expect(0);
                let (_, log) = traced(&pod, killed, "sendto:delay_enter=1");
                let when = log.lines().filter(|line| line.contains("sendto(")).position(is_last).unwrap_or_else(|| panic!("{log}")) + 1;
                // That was the rehearsal. The same again, up to that request.
                pod.mesh_init(&["remove", "istio"]).run().expect(0);
                assert_eq!(routing(&pod), clean);
                pod.mesh_init(&apply).run().expect(0);
                let (_, log) = traced(&pod, killed, &format!("sendto:signal=KILL:when={when}"));
                assert!(log.contains("killed by SIGKILL"), "{log}");
                assert!(!rules_for(&pod, "-4", 99).is_empty(), "{last} {killed:?} left nothing");

                pod.mesh_init(next).run().expect(0);
                for family in ["-4", "-6"] {
                    assert_eq!(rules_for(&pod, family, 99), [""; 0], "{last} {killed:?} {next:?}");
                    assert_eq!(rules_for(&pod, family, 1337), [""; 0], "{last} {killed:?} {next:?}");
                }
                if *next == remove {
                    assert_eq!(routing(&pod), clean, "{last} {killed:?}");
                } else {
                    pod.mesh_init(&words("verify", &["--dual-stack", "-t", "77", "-r", "78"])).run().expect(0);
                    pod.mesh_init(&["remove", "istio"]).run().expect(0);
                    assert_eq!(routing(&pod), clean, "{last} {killed:?} {next:?}");
                }
            }
        }
    }
}

#[test]
fn a_clean_pod_without_tproxy_is_not_asked_for_policy_rules() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let pod = pod();
    let asked = |words: &[&str]| {
        let (output, log) = traced(&pod, words, "sendto:delay_enter=1");
        assert!(output.status.success(), "{output:?}");
        assert!(log.contains("sendto("), "{log}");
        log.contains("nlmsg_type=RTM_GETRULE") || log.contains("nlmsg_type=0x22")
    };
    assert!(!asked(&["apply", "istio", "-b", "*", "-i", "*"]));
    // Istio's rules may have had such beside them.
    assert!(asked(&["verify", "istio", "-b", "*", "-i", "*"]));
    assert!(asked(&["remove", "istio"]));
}

/// Loses each answer of the kernel in turn; the run ends well, or everything is as it was.
fn lose_each_answer(before: &[&str], after: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for nth in 1..300 {
        let pod = pod();
        if !before.is_empty() {
            pod.mesh_init(before).run().expect(0);
        }
        let was = state(&pod);
        let (output, log) = traced(&pod, after, &format!("recvfrom:error=ENOMEM:when={nth}"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !log.contains("(INJECTED)") {
            assert!(output.status.success(), "{text}");
            assert!(nth > 10, "only {nth} answers");
            return problems;
        }
        if output.status.success() {
            let mut verify = vec!["verify"];
            verify.extend(&after[1..]);
            if after[0] == "apply" && pod.mesh_init(&verify).run().code != 0 {
                problems.push(format!("answer {nth} lost, exit 0, but not in place"));
            }
            continue;
        }
        let is = state(&pod);
        for (was, is) in was.0.iter().zip(&is.0) {
            problems.extend(was.differences(is).into_iter().map(|line| format!("answer {nth} lost: {line}")));
        }
        if was.1 != is.1 {
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            let (was, is) = (lines(&was.1), lines(&is.1));
            problems.extend(was.iter().filter(|line| !is.contains(line)).map(|line| format!("answer {nth} lost, gone: {line}")));
            problems.extend(is.iter().filter(|line| !was.contains(line)).map(|line| format!("answer {nth} lost, new: {line}")));
            problems.push(format!("answer {nth} lost, routing differs: {text}"));
        }
    }
    problems.push("a run with more than 300 answers".to_owned());
    problems
}

#[test]
fn a_lost_answer_leaves_everything_as_it_was() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let first = words("apply", &["-t", "99", "-r", "98", "--dual-stack"]);
    let second = words("apply", &["--dual-stack"]);
    let cases = [(vec![], first.clone()), (first.clone(), second), (first, vec!["remove", "istio"])];
    check_all(&cases, |(before, after)| format!("{before:?} then {after:?}"), |(before, after)| lose_each_answer(before, after));
}

/// A pod as the original tool leaves it, all of whose rules are known by their marks alone.
fn after_the_original(vector: &Vector) -> Namespace {
    let pod = vector.pod();
    for family in Family::BOTH {
        pod.legacy_restore(family, &vector.text(family));
    }
    add_foreign(&pod);
    pod
}

#[test]
fn the_originals_rules_are_taken_over() {
    require_root!();
    let vector = vectors("istio").into_iter().find(|vector| vector.name == "tproxy-dual").unwrap();
    let clean = routing(&vector.pod());

    let pod = after_the_original(&vector);
    let before = routing(&pod);
    vector.verb(&pod, "apply").expect(0);
    assert_eq!(routing(&pod), before, "one rule of the kind is enough");
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(routing(&pod), clean);

    // Without a run of ours before.
    let pod = after_the_original(&vector);
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(routing(&pod), clean);

    // A run that wants another mark replaces them.
    let pod = after_the_original(&vector);
    pod.mesh_init(&words("apply", &["--dual-stack", "-t", "99", "-r", "98"])).run().expect(0);
    for family in ["-4", "-6"] {
        assert_eq!(rules_for(&pod, family, 1337), [""; 0]);
        assert_eq!(rules_for(&pod, family, 99).len(), 1);
    }
    pod.mesh_init(&["remove", "istio"]).run().expect(0);
    assert_eq!(routing(&pod), clean);
}

#[test]
fn a_rule_that_says_who_made_it_is_never_taken() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    pod.ip(&["rule add fwmark 0x539 lookup 200 proto static", "route add local default dev lo table 200 proto static"]);
    let rules = pod.policy_routes();
    let tproxy = ["apply", "istio", "-m", "TPROXY", "-i", "*"];
    for inbound in ["", "*", "", "*"] {
        pod.mesh_init(&[&tproxy[..], &["-b", inbound]].concat()).run().expect(0);
        assert!(rules.iter().all(|rule| pod.policy_routes().contains(rule)), "-b {inbound:?}: {:?}", pod.policy_routes());
    }
    pod.mesh_init(&["remove"]).run().expect(0);
    assert_eq!(pod.policy_routes(), rules);
}
