//! The line that `kubectl describe pod` shows: the reason of a failure, the whole of it and nothing else, and only in a
//! file that is there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::program::Program;
use common::seccomp::{Level, Refusal};
use common::{Namespace, Outcome, Privilege};

const OLD: &str = "what somebody wrote before, which is longer than many a line of ours is, since it goes on and on\n";

/// A folder that can be put in the place of `/dev`, with a termination log in it.
fn devices(pod: &Namespace) -> PathBuf {
    let folder = pod.folder().join("dev");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("termination-log"), OLD).unwrap();
    folder
}

/// Runs a program with a termination log; what the log holds afterwards.
fn logged<'a>(pod: &'a Namespace, set_up: impl FnOnce(Program<'a>) -> Program<'a>, words: &[&str]) -> (Outcome, String) {
    let devices = devices(pod);
    let outcome = set_up(pod.mesh_init(words).with_folder("/dev", &devices)).run();
    let names: Vec<_> = fs::read_dir(&devices).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["termination-log"], "{outcome}");
    (outcome, fs::read_to_string(devices.join("termination-log")).unwrap())
}

/// Fails unless the log is the failure's line: what the program's last line says after its own head.
#[track_caller]
fn assert_is_the_line((outcome, log): (Outcome, String), code: i32) {
    let outcome = outcome.expect(code);
    let line = log.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {log:?}\n{outcome}"));
    assert!(!line.is_empty() && !line.contains('\n'), "not one line: {log:?}\n{outcome}");
    let lines = outcome.lines();
    let head = lines.last().unwrap().strip_suffix(line).unwrap_or_else(|| panic!("{log:?} is not what was said\n{outcome}"));
    let heads = ["mesh-init: error: ", "Error: ", "\terror\t"];
    assert!(heads.iter().any(|known| head.ends_with(known)), "{head:?} is part of the message: {log:?}");
}

#[test]
fn the_reason_of_a_failure_is_the_whole_log() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let istio = ["apply", "istio", "-b", "*", "-i", "*"];
    let linkerd = ["-p", "4143", "-o", "4140"];
    let no_filter = || Refusal::no_filter(Level::V4);
    assert_is_the_line(logged(&pod, |program| program.with(Privilege::RootWithout), &istio), 10);
    assert_is_the_line(logged(&pod, |program| program.refusing(no_filter()), &istio), 12);
    assert_is_the_line(logged(&pod, |program| program.refusing(Refusal::no_features(Level::V4)), &istio), 13);
    assert_is_the_line(logged(&pod, |program| program.refusing(no_filter()), &["verify", "linkerd", "-p", "1", "-o", "2"]), 12);
    assert_is_the_line(logged(&pod, |program| program.with(Privilege::RootWithout), &["remove"]), 10);
    assert_is_the_line(logged(&pod, |program| program.refusing(no_filter()), &["istio-iptables", "-b", "*"]), 1);
    assert_is_the_line(logged(&pod, |program| program.refusing(no_filter()).called("linkerd2-proxy-init"), &linkerd), 1);
}

#[test]
fn so_is_a_bad_value() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    assert_is_the_line(logged(&pod, |program| program, &["apply", "istio", "-b", "65536"]), 2);
    assert_is_the_line(logged(&pod, |program| program, &["apply", "linkerd", "-p", "1"]), 2);
    assert_is_the_line(logged(&pod, |program| program, &["istio-iptables", "-x", "nonsense"]), 1);
    assert_is_the_line(logged(&pod, |program| program, &["istio-iptables", "--nonsense"]), 255);
    assert_is_the_line(logged(&pod, |program| program, &["-p", "4143", "-o", "nonsense"]), 1);
}

#[test]
fn so_is_a_command_line_that_cannot_be_read() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    assert_is_the_line(logged(&pod, |program| program, &["apply", "istio", "--nonsense"]), 2);
    assert_is_the_line(logged(&pod, |program| program, &["apply", "istio", "-b"]), 2);
    assert_is_the_line(logged(&pod, |program| program, &["apply", "istio", "--deadline", "soon"]), 2);
    assert_is_the_line(logged(&pod, |program| program, &["install", "istio"]), 2);
}

#[test]
fn success_leaves_it_alone() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let runs: [&[&str]; 9] = [
        &["apply", "istio", "-b", "*", "-i", "*"],
        &["apply", "istio", "-b", "*", "-i", "*"],
        &["verify", "istio", "-b", "*", "-i", "*"],
        &["dump", "live"],
        &["dump", "linkerd", "-p", "1", "-o", "2"],
        &["remove"],
        &["istio-iptables", "-b", "*"],
        &["-p", "4143", "-o", "4140"],
        &["--help"],
    ];
    for words in runs {
        let (outcome, log) = logged(&pod, |program| program, words);
        assert_eq!((outcome.code, log.as_str()), (0, OLD), "{outcome}");
    }
}

#[test]
fn what_differs_is_the_reason_of_a_verify_that_fails() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let verify = ["verify", "istio", "-b", "*", "-i", "*", "--backend", "legacy"];
    pod.mesh_init(&[&["apply"], &verify[1..]].concat()).run().expect(0);
    pod.output(&["iptables-legacy", "-t", "nat", "-D", "ISTIO_REDIRECT", "1"]);
    for report in [&[][..], &["--report", "-"]] {
        let (outcome, log) = logged(&pod, |program| program, &[&verify[..], report].concat());
        let outcome = outcome.expect(3);
        assert!(
            log.starts_with("1 difference from the plan of ") && log.contains("ISTIO_REDIRECT") && log.ends_with('\n'),
            "{log:?}\n{outcome}"
        );
        assert_eq!(log.lines().count(), 1, "{log:?}");
    }
    pod.output(&["iptables-legacy", "-t", "nat", "-F", "ISTIO_IN_REDIRECT"]);
    let (outcome, log) = logged(&pod, |program| program, &verify);
    let said: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!((outcome.code, said.len(), log), (3, 3, format!("{}: {}\n", said[2], said[0])), "{outcome}");
}

#[test]
fn a_failed_dump_or_explain_is_no_pods_end() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for verb in ["dump", "explain"] {
        let (outcome, log) = logged(&pod, |program| program.with(Privilege::RootWithout), &[verb, "live"]);
        assert_eq!((outcome.code, log.as_str()), (10, OLD), "{outcome}");
    }
}

#[test]
fn a_log_that_is_not_there_is_not_made() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let folder = pod.folder().join("empty");
    fs::create_dir(&folder).unwrap();
    for words in [&["apply", "istio", "-b", "*"][..], &["istio-iptables", "-b", "*"], &["-p", "4143", "-o", "4140"]] {
        let outcome = pod.mesh_init(words).with_folder("/dev", &folder).with(Privilege::RootWithout).run();
        assert_ne!(outcome.code, 0, "{outcome}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{outcome}");
    }
}

#[test]
fn a_log_that_cannot_be_written_changes_nothing_else() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let words = ["apply", "istio", "-b", "*"];
    let (outcome, log) = logged(&pod, |program| program.with(Privilege::None(65534)), &words);
    assert_eq!((outcome.code, outcome.lines().len(), log.as_str()), (10, 1, OLD), "{outcome}");
}
