//! Runs that are interrupted, and others that write at the same time: whatever happens in between, the pod ends as
//! planned, or as it was, and the next run puts right what a killed one left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::fixture::{Vector, vector};
use common::strace::{self, Traced, strace_or_skip};
use common::{Family, Namespace, Outcome, check_all};
use nix::sys::signal::Signal;

/// A dual-stack pod with TPROXY and DNS: several tables in both families, addresses and routes.
const EVERYTHING: &str = "tproxy-everything";

/// Somebody who takes no lock that mesh-init could hold.
fn iptables(pod: &Namespace, words: &str) {
    let mut command = pod.command("iptables-legacy");
    command.env("XTABLES_LOCKFILE", pod.folder().join("another.lock")).args(words.split(' '));
    common::namespace::run(&mut command);
}

/// Which call of `setsockopt`, counted from 1, is the first that replaces a table when `vector` is applied.
fn first_replacement(vector: &Vector) -> usize {
    let pod = vector.pod();
    let ended = strace::start(&pod, &vector.program(&pod, &["apply", vector.mesh]), &["-e", "trace=setsockopt"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let mut calls = ended.calls.iter().filter(|call| call.contains("setsockopt("));
    1 + calls.position(|call| call.contains("SO_SET_REPLACE")).unwrap()
}

/// Starts `apply` with the first replacement of a table delayed on the way in (`enter`) or out (`exit`), and waits
/// until it is on its way.
fn start_delayed(vector: &Vector, pod: &Namespace, way: &str) -> Traced {
    let delay = format!("inject=setsockopt:delay_{way}=500000:when={}", first_replacement(vector));
    let program = vector.program(pod, &["apply", vector.mesh]);
    let mut traced = strace::start(pod, &program, &["-e", "trace=setsockopt", "-e", &delay]);
    traced.wait_until_replacing();
    traced
}

#[test]
fn a_signal_to_end_waits_until_the_rules_are_complete() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector(EVERYTHING);
    let (_judge, expected) = vector.expected();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let pod = vector.pod();
        let traced = start_delayed(&vector, &pod, "enter");
        traced.signal(signal);
        let ended = traced.end();
        assert_eq!((ended.signal, ended.code), (Some(signal), None), "{}", ended.text);
        assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
    }
}

#[test]
fn a_signal_to_end_waits_until_everything_is_put_back() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector(EVERYTHING);
    let pod = vector.pod();
    let before = pod.state();
    // The third table fails, after a while. Later numbers depend on whether there are counters to be carried over.
    let inject = format!("inject=setsockopt:delay_enter=300000:error=ENOMEM:when={}", first_replacement(&vector) + 2);
    let mut traced = strace::start(&pod, &vector.program(&pod, &["apply", "istio"]), &["-e", "trace=setsockopt", "-e", &inject]);
    traced.wait_until_held_off(Signal::SIGTERM);
    traced.signal(Signal::SIGTERM);
    let ended = traced.end();
    assert_eq!(ended.signal, Some(Signal::SIGTERM), "{}", ended.text);
    assert!(ended.calls.iter().any(|call| call.contains("(INJECTED)")), "{:#?}", ended.calls);
    assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
}

/// Kills a run before the `nth` of its `calls`; whether it came to it.
fn kill_before(vector: &Vector, pod: &Namespace, calls: &str, nth: usize) -> bool {
    let options = [format!("trace={calls}"), format!("inject={calls}:signal=KILL:when={nth}")];
    let ended = strace::start(pod, &vector.program(pod, &["apply", vector.mesh]), &["-e", &options[0], "-e", &options[1]]).end();
    match (ended.signal, ended.code) {
        (Some(Signal::SIGKILL), _) => true,
        (None, Some(0)) => false,
        _ => panic!("{}", ended.text),
    }
}

#[test]
fn after_a_kill_half_way_the_next_run_repairs() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let (everything, default) = (vector(EVERYTHING), vector("dual-stack"));
    let cases =
        [("setsockopt", None, &everything, 6), ("sendto,sendmsg", None, &everything, 5), ("setsockopt", Some(&default), &everything, 6)];
    check_all(
        &cases,
        |(calls, before, after, _)| format!("{calls}: {:?}, then {}", before.map(|vector| &vector.name), after.name),
        |(calls, before, after, least)| {
            let (_judge, expected) = after.expected();
            let (mut problems, mut kills, mut half) = (Vec::new(), 0, 0);
            for nth in 1..100 {
                let pod = after.pod();
                let untouched = pod.state();
                if let Some(before) = before {
                    before.verb(&pod, "apply").expect(0);
                }
                let was = pod.state();
                if !kill_before(after, &pod, calls, nth) {
                    break;
                }
                kills += 1;
                half += usize::from(!was.differences(&pod.state()).is_empty() && after.verb(&pod, "verify").code == 3);
                let repaired = after.verb(&pod, "apply");
                let verified = after.verb(&pod, "verify");
                if (repaired.code, verified.code) != (0, 0) {
                    problems.push(format!("killed before call {nth}: {repaired}\n{verified}"));
                }
                let mut wrong = after.wrong_in(&pod, &expected);
                pod.mesh_init(&["remove"]).run().expect(0);
                wrong.extend(untouched.differences(&pod.state()));
                problems.extend(wrong.into_iter().map(|problem| format!("killed before call {nth}: {problem}")));
            }
            if kills < *least || half == 0 {
                problems.push(format!("the test tests nothing: {kills} kills, {half} of them half way"));
            }
            problems
        },
    );
}

#[test]
fn after_a_kill_half_way_no_routes_stay_that_nobody_knows_of() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let after = vector("dual-stack");
    let tproxy = ["apply", "istio", "--dual-stack", "-m", "TPROXY", "-b", "*", "-i", "*", "-t", "0x600", "-r", "200"];
    for nth in 1..100 {
        let pod = after.pod();
        pod.mesh_init(&tproxy).run().expect(0);
        if !kill_before(&after, &pod, "setsockopt", nth) {
            assert!(nth > 4, "the test tests nothing");
            return;
        }
        after.verb(&pod, "apply").expect(0);
        assert_eq!(pod.policy_routes(), Vec::new(), "killed before call {nth}");
    }
}

/// The first `count` lines of a text for iptables-restore, with what makes each table complete.
fn beginning(text: &str, count: usize) -> String {
    let mut lines: Vec<&str> = text.lines().take(count).collect();
    if lines.last().is_some_and(|line| *line != "COMMIT") {
        lines.push("COMMIT");
    }
    lines.join("\n") + "\n"
}

#[test]
fn half_finished_runs_of_the_originals_are_completed() {
    require_root!();
    // Linkerd's tool runs one command a rule, IPv4 first; Istio's one a family. Each can end anywhere between.
    let mut cases = Vec::new();
    for name in ["injected-ipv6", "multiport", "dual-stack", EVERYTHING] {
        let vector = vector(name);
        for family in Family::BOTH {
            let lines = vector.text(family).lines().count();
            let counts = [2, 3, lines / 2, lines.saturating_sub(2)].into_iter().filter(|count| *count < lines);
            cases.extend(counts.map(|count| (vector.clone(), family, count)));
        }
    }
    check_all(
        &cases,
        |(vector, family, count)| format!("{}: {} ends after line {count}", vector.name, family.iptables()),
        |(vector, family, count)| {
            let (_judge, expected) = vector.expected();
            let pod = vector.pod();
            if *family == Family::V6 {
                pod.legacy_restore(Family::V4, &vector.text(Family::V4));
            }
            pod.legacy_restore(*family, &beginning(&vector.text(*family), *count));
            let drifted = vector.verb(&pod, "verify");
            let applied = vector.verb(&pod, "apply");
            let again = vector.verb(&pod, "apply");
            let mut problems = vector.wrong_in(&pod, &expected);
            if (drifted.code, applied.code) != (3, 0) || !again.text().contains("already in place") {
                problems.push(format!("{drifted}\n{applied}\n{again}"));
            }
            problems
        },
    );
}

#[test]
fn the_guards_of_an_interrupted_reconciliation_go_last() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector("dual-stack");
    let (_judge, expected) = vector.expected();
    let guards: String =
        ["INPUT", "FORWARD", "OUTPUT"].map(|chain| format!("-A {chain} -p tcp -j DROP\n-A {chain} -p udp -j DROP\n")).concat();
    let pod = vector.pod();
    for family in Family::BOTH {
        pod.legacy_restore(family, &vector.text(family));
        pod.legacy_restore(family, &format!("*filter\n{guards}COMMIT\n"));
        pod.output(&[&format!("{}-legacy", family.iptables()), "-t", "nat", "-D", "ISTIO_OUTPUT", "1"]);
    }
    let ended = strace::start(&pod, &vector.program(&pod, &["apply", "istio"]), &["-e", "trace=setsockopt"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
    for level in ["SOL_IP,", "SOL_IPV6,"] {
        let tables: Vec<&str> = ended
            .calls
            .iter()
            .filter(|call| call.contains(level) && call.contains("SO_SET_REPLACE"))
            .map(|call| if call.contains("\"filter") { "filter" } else { "another" })
            .collect();
        // First the guards get our mark, so that a run that is killed before they go leaves them known.
        assert_eq!(tables, ["filter", "another", "filter"], "{:#?}", ended.calls);
    }
    vector.verb(&pod, "verify").expect(0);
}

#[test]
fn five_of_the_six_guards_are_somebody_elses() {
    require_root!();
    let vector = vector("dual-stack");
    let pod = vector.pod();
    let rules = "*filter\n-A INPUT -p tcp -j DROP\n-A INPUT -p udp -j DROP\n-A FORWARD -p tcp -j DROP\n-A OUTPUT -p tcp -j DROP\n\
                 -A OUTPUT -p udp -j DROP\nCOMMIT\n";
    pod.legacy_restore(Family::V4, rules);
    vector.verb(&pod, "apply").expect(0);
    assert_eq!(pod.legacy_save(Family::V4).rules("filter", "INPUT").len(), 2);
    pod.mesh_init(&["remove"]).run().expect(0);
    assert_eq!(pod.legacy_save(Family::V4).rules("filter", "OUTPUT").len(), 2);
}

const APPLY: [&str; 6] = ["apply", "istio", "-b", "*", "-i", "*"];

/// Applies while another process holds the lock for `seconds`; how long that took.
fn apply_under_lock(pod: &Namespace, seconds: &str) -> (Outcome, Duration) {
    let mut holder = Command::new("flock")
        .args(["--no-fork", pod.lock_file().to_str().unwrap(), "sh", "-c", &format!("echo; exec sleep {seconds}")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A line tells that the lock is held.
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let start = Instant::now();
    let outcome = pod.mesh_init(&APPLY).run();
    let took = start.elapsed();
    let _ = holder.kill();
    holder.wait().unwrap();
    (outcome, took)
}

#[test]
fn the_lock_is_waited_for_a_second_at_most() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let (outcome, took) = apply_under_lock(&pod, "20");
    assert_eq!((outcome.code, outcome.warnings().len()), (0, 1), "{outcome}");
    assert!(outcome.warnings()[0].contains(pod.lock_file().to_str().unwrap()), "{outcome}");
    assert!(Duration::from_millis(900) < took && took < Duration::from_millis(2500), "{took:?}");
    pod.mesh_init(&["verify", "istio", "-b", "*", "-i", "*"]).run().expect(0);

    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let (outcome, took) = apply_under_lock(&pod, "0.4");
    assert_eq!((outcome.code, outcome.warnings().len()), (0, 0), "{outcome}");
    assert!(Duration::from_millis(200) < took && took < Duration::from_millis(950), "{took:?}");
}

#[test]
fn rules_that_are_in_place_need_no_lock() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    pod.mesh_init(&APPLY).run().expect(0);
    let (outcome, took) = apply_under_lock(&pod, "20");
    assert!(outcome.text().contains("already in place") && outcome.warnings().is_empty(), "{outcome}");
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[test]
fn the_lock_keeps_the_real_iptables_out_until_the_end() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector("injected-default");
    let pod = vector.pod();
    let traced = start_delayed(&vector, &pod, "enter");
    // The real tool waits its turn, and so nothing has to be tried twice.
    let start = Instant::now();
    pod.output(&["iptables-legacy", "-w", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "--dport", "31000", "-j", "RETURN"]);
    assert!(start.elapsed() > Duration::from_millis(100), "the lock was not held");
    let ended = traced.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(!ended.calls.iter().any(|call| call.contains("EAGAIN")), "{:#?}", ended.calls);
    assert_eq!(pod.legacy_save(Family::V4).rules("nat", "OUTPUT").len(), 2);
    vector.verb(&pod, "verify").expect(0);
}

#[test]
fn a_lock_file_that_is_not_there_or_does_not_open_is_done_without() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    fs::remove_file(pod.lock_file()).unwrap();
    let outcome = pod.mesh_init(&APPLY).run().expect(0);
    assert!(outcome.warnings().is_empty() && !pod.lock_file().exists(), "{outcome}");

    fs::write(pod.lock_file(), "").unwrap();
    fs::set_permissions(pod.lock_file(), Permissions::from_mode(0o000)).unwrap();
    pod.mesh_init(&["remove"]).run().expect(0);
    pod.mesh_init(&APPLY).run().expect(0);

    fs::remove_file(pod.lock_file()).unwrap();
    nix::unistd::mkfifo(&pod.lock_file(), nix::sys::stat::Mode::S_IRUSR).unwrap();
    pod.mesh_init(&["remove"]).run().expect(0);
    let outcome = pod.mesh_init(&APPLY).env("XTABLES_LOCKFILE", "/nonexistent/lock").run().expect(0);
    assert!(outcome.text().contains("installed and verified"), "{outcome}");
}

#[test]
fn a_rule_that_is_added_between_read_and_write_survives() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector("dual-stack");
    let pod = vector.pod();
    let traced = start_delayed(&vector, &pod, "enter");
    iptables(&pod, "-t nat -A OUTPUT -p udp --dport 31000 -j RETURN");
    let ended = traced.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(ended.calls.iter().any(|call| call.contains("EAGAIN")), "{:#?}", ended.calls);
    let saved = pod.legacy_save(Family::V4);
    assert_eq!(saved.rules("nat", "OUTPUT"), ["-A OUTPUT -p udp -m udp --dport 31000 -j RETURN", "-A OUTPUT -j ISTIO_OUTPUT"]);
    vector.verb(&pod, "verify").expect(0);
}

#[test]
fn rules_of_ours_that_somebody_overwrites_are_noticed_and_written_again() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector("injected-default");
    let (_judge, expected) = vector.expected();
    let pod = vector.pod();
    let mut traced = start_delayed(&vector, &pod, "exit");
    while pod.legacy_save(Family::V4).rules("nat", "ISTIO_REDIRECT").is_empty() {
        assert!(traced.is_running());
        sleep(Duration::from_millis(5));
    }
    // The number of entries stays the same, so that the kernel refuses nothing.
    iptables(&pod, "-t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 1");
    assert!(traced.is_replacing(), "the other writer was too late");
    let ended = traced.end();
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(ended.text.contains("installed and verified"), "{}", ended.text);
    assert_eq!(vector.wrong_in(&pod, &expected), Vec::<String>::new());
}

#[test]
fn contention_ends_at_the_deadline_with_everything_put_back() {
    require_root!();
    if !strace_or_skip() {
        return;
    }
    let vector = vector("dual-stack");
    let first = first_replacement(&vector);
    for (words, code) in [(&["apply", "istio"][..], 14), (&["istio-iptables"], 1)] {
        let pod = vector.pod();
        pod.mesh_init(&["apply", "istio", "-b", "8080", "-i", "10.0.0.0/8"]).run().expect(0);
        let before = pod.state();
        // IPv4's table is written; then somebody changes IPv6's before each attempt.
        let delay = format!("inject=setsockopt:delay_enter=700000:when={first}+");
        let program = vector.program(&pod, &[words, &["--deadline", "1s"]].concat());
        let mut traced = strace::start(&pod, &program, &["-e", "trace=setsockopt", "-e", &delay]);
        traced.wait_until_replacing();
        let mut port = 31000;
        while traced.is_running() {
            let mut command = pod.command("ip6tables-legacy");
            command.env("XTABLES_LOCKFILE", pod.folder().join("another.lock"));
            command.args(["-t", "nat", "-A", "OUTPUT", "-p", "udp", "--dport", &port.to_string(), "-j", "RETURN"]);
            common::namespace::run(&mut command);
            port += 1;
            sleep(Duration::from_millis(20));
        }
        let ended = traced.end();
        assert_eq!(ended.code, Some(code), "{}", ended.text);
        let last = ended.text.lines().last().unwrap();
        assert!(last.contains("IPv6 nat") && last.contains("--deadline"), "{}", ended.text);
        let v6 = pod.legacy_save(Family::V6);
        let rules = v6.rules("nat", "OUTPUT");
        let foreign: Vec<String> = (31000..port).map(|port| format!("-A OUTPUT -p udp -m udp --dport {port} -j RETURN")).collect();
        assert_eq!(rules, foreign);
        pod.output(&["ip6tables-legacy", "-t", "nat", "-F"]);
        assert!(ended.calls.iter().filter(|call| call.contains("SOL_IP, IPT_SO_SET_REPLACE")).count() >= 2, "{:#?}", ended.calls);
        assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
    }
}
