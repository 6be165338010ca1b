//! Kernels on which the proxy would hang, known by their release: `preflight` says so, nothing is installed on them, and
//! nobody asks such a kernel for an original destination.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::preflight::{assert_blocked, checks};
use common::program::Program;
use common::strace;
use common::{Namespace, check_all};

/// Where the program learns the release.
const OSRELEASE: &str = "/proc/sys/kernel/osrelease";

const ISTIO: [&str; 7] = ["istio", "-b", "*", "-i", "*", "-u", "1337"];
const LINKERD: [&str; 6] = ["-p", "4143", "-o", "4140", "-u", "2102"];
const TRUST: &str = "--trust-upstream-fixes";

/// What may be done on a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Everything.
    Fine,
    /// Nothing, unless its upstream fixes are trusted.
    Documented,
    /// Nothing.
    Deadlocks,
}

use Fate::{Deadlocks, Documented, Fine};

const RELEASES: [(&str, Fate); 34] = [
    ("3.18.95", Fine),
    ("3.18.96", Deadlocks),
    ("3.18.96-perf-g0123456", Deadlocks),
    ("3.18.97", Fine),
    ("4.4.117", Fine),
    ("4.4.118", Deadlocks),
    ("4.4.119", Fine),
    ("4.9.83", Fine),
    ("4.9.84", Deadlocks),
    ("4.9.85", Fine),
    ("4.14.21", Fine),
    ("4.14.21-22-vendor", Fine),
    ("4.14.22", Deadlocks),
    ("4.14.22+", Deadlocks),
    ("4.14.22-coreos", Deadlocks),
    ("4.14.22-41.42.container", Deadlocks),
    ("4.14.23", Documented),
    ("4.14.30-cos", Documented),
    ("4.14.40", Documented),
    ("4.14.40-1-lts", Documented),
    ("4.14.41", Fine),
    ("4.14.225-168.357.amzn2.x86_64", Fine),
    ("4.15", Fine),
    ("4.15.0-22-generic", Fine),
    ("4.15.5", Fine),
    ("4.15.6-1-ARCH", Deadlocks),
    ("4.15.7", Fine),
    ("4.16.0-rc1", Documented),
    ("4.16.0", Fine),
    ("5.4.71", Fine),
    ("5.10.25", Fine),
    ("6.1.0-41-cloud-amd64", Fine),
    ("6.12.47", Fine),
    ("6.18.35", Fine),
];

fn on<'a>(pod: &'a Namespace, release: &str, words: &[&str]) -> Program<'a> {
    pod.mesh_init(words).with_file(OSRELEASE, &format!("{release}\n"))
}

#[test]
fn preflight_knows_each_side_of_every_boundary() {
    require_root!();
    check_all(
        &RELEASES,
        |(release, _)| (*release).to_owned(),
        |(release, fate)| {
            let pod = Namespace::pod(&["10.9.0.2/24"]);
            let words = [&["preflight"], &ISTIO[..]].concat();
            let found = checks(on(&pod, release, &words), if *fate == Fine { 0 } else { 4 });
            assert!(found.evidence("kernel-release").contains(release), "{found:?}");
            if *fate != Fine {
                assert_blocked(&found, &["kernel-release"]);
            }
            let trusting = checks(on(&pod, release, &[&words[..], &[TRUST]].concat()), if *fate == Deadlocks { 4 } else { 0 });
            trusting.expect("kernel-release", if *fate == Deadlocks { "blocker" } else { "ok" });
            assert_eq!(pod.legacy_tables(), Vec::<String>::new());
            Vec::new()
        },
    );
}

#[test]
fn apply_refuses_and_so_do_the_drop_ins() {
    require_root!();
    check_all(
        &RELEASES,
        |(release, _)| (*release).to_owned(),
        |(release, fate)| {
            let pod = Namespace::pod(&["10.9.0.2/24"]);
            let own = |words: &[&str]| on(&pod, release, &[&["apply"], words].concat());
            let istio = on(&pod, release, &[&["istio-iptables"], &ISTIO[1..]].concat());
            let linkerd = on(&pod, release, &LINKERD).called("linkerd2-proxy-init");
            let runs = [(own(&ISTIO), 15), (own(&[&["linkerd"], &LINKERD[..]].concat()), 15), (istio, 1), (linkerd, 1)];
            for (program, code) in runs {
                let outcome = program.run().expect(if *fate == Fine { 0 } else { code });
                let said = outcome.text().contains(&format!("kernel {release}: ")) && outcome.text().contains("SO_ORIGINAL_DST");
                assert_eq!(said, *fate != Fine, "{outcome}");
                assert_eq!(pod.legacy_tables().is_empty(), *fate != Fine, "{outcome}");
            }
            own(&[&ISTIO[..], &[TRUST]].concat()).run().expect(if *fate == Deadlocks { 15 } else { 0 });
            Vec::new()
        },
    );
}

#[test]
fn the_message_tells_both_facts() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let apply = [&["apply"], &ISTIO[..]].concat();
    let line = |release| on(&pod, release, &apply).run().expect(15).lines().pop().unwrap();
    let documented = line("4.14.30");
    for part in ["Kata", "Linkerd", "4.14.22 to 4.14.40", "4.14.23", TRUST] {
        assert!(documented.contains(part), "{documented}");
    }
    let certain = line("4.14.22+");
    assert!(certain.contains("4.14.23") && !certain.contains(TRUST), "{certain}");
    // The variable says the same as the flag, on the drop-ins too.
    let variable = "MESH_INIT_TRUST_UPSTREAM_FIXES";
    on(&pod, "4.14.30", &apply).env(variable, "true").run().expect(0);
    on(&pod, "4.14.30", &LINKERD).called("proxy-init").env(variable, "true").run().expect(0);
    on(&pod, "4.14.30", &[&["istio-iptables", TRUST], &ISTIO[1..]].concat()).run().expect(0);
}

#[test]
fn what_redirects_nothing_is_done_on_any_kernel() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    pod.mesh_init(&[&["apply"], &ISTIO[..]].concat()).run().expect(0);
    for words in [
        &[&["verify"], &ISTIO[..]].concat()[..],
        &[&["dump"], &ISTIO[..]].concat(),
        &["dump", "live"],
        &["istio-iptables", "-b", "*", "--dry-run"],
        &["istio-iptables", "--cleanup-only"],
        &["-p", "4143", "-o", "4140", "--simulate"],
        &["remove"],
    ] {
        on(&pod, "4.14.22", words).run().expect(0);
    }
}

#[test]
fn no_original_destination_is_asked_for() {
    require_root!();
    if !strace::strace_or_skip() {
        return;
    }
    for words in [&["--skip-rule-apply"][..], &["--dry-run"], &[]] {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        let words = [&["istio-iptables", "-b", "*", "-i", "*", "--run-validation", "--probe-timeout", "1s"], words].concat();
        let trace = ["-e", "trace=getsockopt,connect,listen"];
        let calls = |release: &str| {
            let ended = strace::start(&pod, &on(&pod, release, &words), &trace).end();
            let calls: Vec<String> = ended.calls.into_iter().filter(|line| line.contains("connect(") || line.contains("listen(")).collect();
            (ended.code, calls)
        };
        assert_eq!(calls("4.14.22"), (Some(1), Vec::new()), "{words:?}");
    }
}
