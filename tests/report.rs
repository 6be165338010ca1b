//! `apply --report`: what was done and what was found, for programs; and what a failure's line says of its cause.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;

use common::seccomp::{Level, Refusal};
use common::{Namespace, Outcome, Privilege, UserNamespace};
use serde_json::Value;

const APPLY: [&str; 8] = ["apply", "istio", "-b", "*", "-i", "*", "-u", "1337"];
const TO_STDOUT: [&str; 10] = ["apply", "istio", "-b", "*", "-i", "*", "-u", "1337", "--report", "-"];

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

/// Name and verdict of each check.
fn checks(report: &Value) -> Vec<(&str, &str)> {
    let text = |check: &'static str| move |value: &'_ Value| value[check].as_str().unwrap().to_owned().leak() as &'static str;
    report["checks"].as_array().unwrap().iter().map(|check| (text("name")(check), text("verdict")(check))).collect()
}

#[test]
fn it_tells_what_was_done_where_and_how_long_it_took() {
    require_root!();
    for (backend, form) in [("legacy", "legacy"), ("nftables", "mesh-init")] {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        let mut outcomes = Vec::new();
        for _ in 0..2 {
            let outcome = pod.mesh_init(&TO_STDOUT).backend(backend).run().expect(0);
            let report = report(&outcome);
            assert_eq!((&report["backend"], &report["exit_code"]), (&backend.into(), &0.into()), "{outcome}");
            let family = &report["families"][0];
            assert_eq!((&family["family"], &family["form"]), (&4.into(), &form.into()), "{outcome}");
            assert!(family["rules"].as_u64().unwrap() > 10 && report["microseconds"].as_u64().unwrap() > 0, "{outcome}");
            let names = ["kernel-release", "capability", "user-namespace", "gvisor", "read-back"];
            assert_eq!(checks(&report), names.map(|name| (name, "ok")), "{outcome}");
            outcomes.push(report["outcome"].as_str().unwrap().to_owned());
        }
        assert_eq!(outcomes, ["changed", "in place"]);
    }
}

#[test]
fn a_failure_is_reported_with_what_was_found() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let outcome = pod.mesh_init(&TO_STDOUT).with(Privilege::RootWithout).run().expect(10);
    let told = report(&outcome);
    assert_eq!((checks(&told), &told["outcome"]), (vec![("capability", "blocker")], &"failed".into()), "{outcome}");
    assert!(told["checks"][0]["remedy"].as_str().unwrap().contains("NET_ADMIN"), "{outcome}");
    let outcome = pod.mesh_init(&TO_STDOUT).with_file("/proc/sys/kernel/osrelease", "4.14.22\n").run().expect(15);
    assert_eq!(checks(&report(&outcome)), [("kernel-release", "blocker")], "{outcome}");
    let outcome = pod.mesh_init(&TO_STDOUT).refusing(Refusal::no_filter(Level::V4)).run().expect(12);
    let told = report(&outcome);
    assert!(!checks(&told).contains(&("read-back", "ok")) && checks(&told).contains(&("capability", "ok")), "{outcome}");
    assert_eq!(told["error"].as_str(), outcome.stderr.trim_end().strip_prefix("mesh-init: error: "), "{outcome}");
}

#[test]
fn a_report_that_cannot_be_written_changes_nothing() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let before = pod.state();
    for path in ["/nowhere/report.json", "/proc/report.json", "/tmp"] {
        let outcome = pod.mesh_init(&[&APPLY[..], &["--report", path]].concat()).run().expect(1);
        let start = format!("mesh-init: error: cannot write the report {path}: ");
        assert!(outcome.lines().len() == 1 && outcome.stderr.starts_with(&start), "{outcome}");
    }
    assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
    // What it held before is gone.
    let path = pod.file("report.json", &"x".repeat(10_000));
    pod.mesh_init(&[&APPLY[..], &["--report", path.to_str().unwrap()]].concat()).run().expect(0);
    let told: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(told["outcome"], "changed");
    // A file that takes nothing is noticed late, and is a failure.
    let outcome = pod.mesh_init(&[&APPLY[..], &["--report", "/dev/full"]].concat()).run().expect(1);
    assert!(outcome.text().contains("cannot write the report /dev/full"), "{outcome}");
}

#[test]
fn the_cause_of_a_failure_is_named_where_the_error_does_not_tell() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let line = |outcome: Outcome| outcome.lines().pop().unwrap();
    let no_filter = || [Refusal::no_netfilter_netlink(), Refusal::no_filter(Level::V4)].concat();
    let version = "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016\n";
    let command_line = "panic=1 agent.log=debug\n";
    let program = || pod.mesh_init(&APPLY).backend("auto").refusing(no_filter());
    let plain = line(program().run().expect(12));
    assert!(!plain.contains("gVisor") && !plain.contains("Kata"), "{plain}");
    let gvisor = line(program().with_file("/proc/version", version).run().expect(12));
    assert!(gvisor.contains("the kernel is gVisor's"), "{gvisor}");
    let kata = line(program().with_file("/proc/cmdline", command_line).run().expect(12));
    assert!(kata.contains("a Kata guest, as the kernel parameter agent.log=debug shows"), "{kata}");
    let can_load = std::path::Path::new("/proc/modules").exists();
    assert_eq!((kata.contains("load the module"), kata.contains("can load no modules")), (can_load, !can_load), "{kata}");
    // A missing capability is told already.
    let without = line(program().with(Privilege::RootWithout).with_file("/proc/cmdline", command_line).run().expect(10));
    assert!(!without.contains("Kata"), "{without}");

    let users = UserNamespace::new();
    let pod = Namespace::pod_of(&users, &["10.9.0.2/24"]);
    let words = ["apply", "linkerd", "-p", "4143", "-o", "4140", "-u", "70000", "--ipv6=false"];
    let unmapped = line(pod.mesh_init(&words).in_user_namespace(&users).run().expect(11));
    assert!(unmapped.contains("user 70000 of the plan is not mapped"), "{unmapped}");
}
