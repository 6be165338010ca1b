//! Programs that are not there, fail or hang: it is told, and the pod is as it was.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::common::{Family, Namespace, Saved, check_all};
use super::{PATH, both, dual_stack, fakes, istio, restore, saved, send, state};
use crate::require_root;

#[test]
fn a_program_that_is_not_there_is_named_with_a_remedy() {
    require_root!();
    let pod = dual_stack();
    let folder = pod.folder().join("few");
    fs::create_dir(&folder).unwrap();
    for name in ["nsenter", "setpriv"] {
        let found = PATH.split(':').map(|folder| PathBuf::from(folder).join(name)).find(|path| path.exists()).unwrap();
        symlink(found, folder.join(name)).unwrap();
    }
    let before = state(&pod);
    for (words, program) in [(&["--backend", "iptables"][..], "iptables "), (&["--force-iptables-binary", "nft"], "iptables-nft ")] {
        let outcome = istio(&pod, "apply", words).env("PATH", &folder.display().to_string()).run().expect(1);
        assert!(outcome.stderr.contains(&format!("{program}is not in PATH; put the distribution's iptables into the image")), "{outcome}");
        assert_eq!(state(&pod), before);
    }
    // Without one for IPv6, whose rules are not planned, IPv4 works.
    for name in ["iptables", "iptables-restore"] {
        symlink(PathBuf::from("/usr/sbin").join(name), folder.join(name)).unwrap();
    }
    let path = folder.display().to_string();
    let ipv4 = ["apply", "istio", "-b", "*", "-i", "*", "--backend", "iptables"];
    istio(&pod, "apply", &["--backend", "nftables"]).run().expect(0);
    pod.mesh_init(&ipv4).env("MESH_INIT_BACKEND", "").env("PATH", &path).run().expect(0);
    assert!(!saved(&pod, "nft", Family::V4, false).is_empty() && saved(&pod, "nft", Family::V6, false).is_empty());
    assert!(!pod.output(&["nft", "list", "tables"]).contains("mesh-init"));
}

/// Runs that begin with rules which differ from the plan, in every place where rules can be.
fn drifted_pods() -> Vec<(&'static str, Namespace)> {
    let pods = ["clean", "nftables", "legacy", "iptables"].map(|backend| {
        let pod = dual_stack();
        restore(&pod, "nft", Family::V4, "*nat\n[4:400] -A OUTPUT -p tcp -m tcp --dport 8 -j ACCEPT\nCOMMIT\n");
        if backend != "clean" {
            istio(&pod, "apply", &["--backend", backend, "-o", "5432"]).run().expect(0);
            send(&pod);
        }
        if backend == "iptables" {
            // A rule that only the program has words for.
            pod.output(&["iptables-nft", "-t", "nat", "-A", "ISTIO_OUTPUT", "-m", "limit", "--limit", "3/hour", "-j", "RETURN"]);
        }
        (backend, pod)
    });
    pods.into()
}

#[test]
fn a_failure_is_told_and_leaves_everything_as_it_was() {
    require_root!();
    const ONCE: &str = "[ -e \"$0.done\" ] && exec /usr/sbin/$(basename \"$0\") \"$@\"; case \"$*\" in *--noflush*) ;; *) \
                        exec /usr/sbin/$(basename \"$0\") \"$@\";; esac; touch \"$0.done\"; ";
    let half = format!("{ONCE} sed /COMMIT/q | /usr/sbin/iptables-restore \"$@\"; echo 'out of luck' >&2; exit 4");
    let whole = format!("{ONCE} /usr/sbin/ip6tables-restore \"$@\"; kill -9 $$");
    let cases: [(&str, &str, &str); 6] = [
        ("iptables-restore", "echo one >&2; echo; echo 'two of us' >&2; exit 4", "iptables-restore failed with exit code 4: two of us"),
        ("ip6tables-restore", "echo 'only here'; exit 1", "ip6tables-restore failed with exit code 1: only here"),
        ("iptables-restore", &half, "iptables-restore failed with exit code 4: out of luck"),
        ("ip6tables-restore", &whole, "ip6tables-restore failed with signal 9"),
        // The check behind it.
        (
            "iptables",
            "case \"$*\" in *-C*) echo 'iptables: Bad rule.' >&2; exit 1;; *) exec /usr/sbin/iptables \"$@\";; esac",
            "iptables failed with exit code 1: iptables: Bad rule.",
        ),
        (
            "iptables-restore",
            "case \"$*\" in *--version*) echo 'iptables-restore v1.8.9 (legacy)';; *) exec /usr/sbin/iptables-restore \"$@\";; esac",
            "iptables and iptables-restore are of different kinds",
        ),
    ];
    check_all(
        &cases,
        |(name, script, _)| format!("{name}: {script}"),
        |(name, script, message)| {
            let mut problems = Vec::new();
            for (what, pod) in drifted_pods() {
                let before = state(&pod);
                let path = fakes(&pod, &[(name, script)]);
                let words = ["--backend", "iptables", "-m", "TPROXY", "--redirect-dns", "--drop-invalid"];
                let outcome = istio(&pod, "apply", &words).env("PATH", &path).run();
                if outcome.code != 1 || !outcome.stderr.lines().last().is_some_and(|line| line.contains(message)) {
                    problems.push(format!("{what}: {outcome}"));
                }
                let after = state(&pod);
                problems.extend(after.iter().filter(|line| !before.contains(line)).map(|line| format!("{what}: + {line}")));
                problems.extend(before.iter().filter(|line| !after.contains(line)).map(|line| format!("{what}: - {line}")));
                if before.len() != after.len() {
                    problems.push(format!("{what}: {before:#?}\n{after:#?}"));
                }
            }
            problems
        },
    );
}

#[test]
fn a_removal_that_fails_half_way_is_undone() {
    require_root!();
    let pod = dual_stack();
    istio(&pod, "apply", &["--backend", "iptables", "--redirect-dns"]).run().expect(0);
    pod.output(&["iptables-nft", "-t", "nat", "-A", "ISTIO_OUTPUT", "-m", "limit", "--limit", "3/hour", "-j", "RETURN"]);
    send(&pod);
    let before = state(&pod);
    let is_counted = |line: &String| line.starts_with("nft V4 nat [1:") && line.ends_with("-A OUTPUT -j ISTIO_OUTPUT");
    assert!(before.iter().any(is_counted), "{before:#?}");
    let script = "case \"$*\" in *'-X ISTIO_REDIRECT'*) echo 'Too many links.' >&2; exit 4;; *) exec /usr/sbin/ip6tables \"$@\";; esac";
    let path = fakes(&pod, &[("ip6tables", script)]);
    let outcome = istio(&pod, "remove", &["--backend", "iptables"]).env("PATH", &path).run().expect(1);
    assert!(outcome.stderr.contains("ip6tables failed with exit code 4: Too many links."), "{outcome}");
    assert_eq!(state(&pod), before);
    istio(&pod, "remove", &["--backend", "iptables"]).run().expect(0);
    assert!(both(&pod, "nft").iter().all(Saved::is_empty));
}

#[test]
fn a_program_that_hangs_is_stopped_at_the_deadline() {
    require_root!();
    let tool = "case \"$*\" in *--version*) exec /usr/sbin/iptables \"$@\";; esac; sleep 60 & sleep 60";
    for (name, script) in [("iptables-restore", "sleep 60 & sleep 60"), ("ip6tables-restore", "sleep 60"), ("iptables", tool)] {
        let pod = dual_stack();
        istio(&pod, "apply", &["--backend", "iptables", "-o", "5432"]).run().expect(0);
        let before = state(&pod);
        let path = fakes(&pod, &[(name, script)]);
        let began = Instant::now();
        let outcome = istio(&pod, "apply", &["--backend", "iptables", "--deadline", "1s"]).env("PATH", &path).run().expect(1);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert!(outcome.stderr.contains(&format!("{name} did not end before the deadline and was stopped")), "{outcome}");
        assert_eq!(state(&pod), before, "{name}");
    }
}

#[test]
fn a_lock_file_that_cannot_be_opened_is_told_with_a_remedy() {
    require_root!();
    let pod = dual_stack();
    let apply = istio(&pod, "apply", &["--force-iptables-binary", "legacy"]).env("XTABLES_LOCKFILE", "/nowhere/lock");
    let outcome = apply.run().expect(1);
    assert!(outcome.stderr.contains("iptables-legacy failed with exit code 4: Fatal: can't open lock file /nowhere/lock"), "{outcome}");
    assert!(outcome.stderr.contains("set XTABLES_LOCKFILE to a file that can be written"), "{outcome}");
}

#[test]
fn a_table_that_the_kernel_does_not_have_is_told_and_done_without_where_that_can_be() {
    require_root!();
    let script = "case \"$*\" in *--version*) exec /usr/sbin/ip6tables \"$@\";; esac; echo \"ip6tables v1.8.9 (legacy): can't initialize \
                  ip6tables table \\`nat': Table does not exist (do you need to insmod?)\" >&2; \
                  echo 'Perhaps ip6tables or your kernel needs to be upgraded.' >&2; exit 3";
    let words = ["apply", "linkerd", "-p", "4143", "-o", "4140", "-u", "2102", "--ipv6=true", "--backend", "iptables"];
    let run = |pod: &Namespace, code: i32| {
        let path = fakes(pod, &[("ip6tables", script)]);
        pod.mesh_init(&words).env("MESH_INIT_BACKEND", "").env("PATH", &path).run().expect(code)
    };
    let pod = dual_stack();
    let before = state(&pod);
    let outcome = run(&pod, 12);
    assert!(outcome.stderr.contains("ip6tables failed with exit code 3: ip6tables v1.8.9 (legacy): can't initialize"), "{outcome}");
    assert_eq!(state(&pod), before);
    // Nobody reaches this one over IPv6.
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let outcome = run(&pod, 0);
    assert!(outcome.stderr.contains("IPv6 is left out, for which the pod has no global address"), "{outcome}");
    assert!(!saved(&pod, "nft", Family::V4, false).is_empty() && saved(&pod, "nft", Family::V6, false).is_empty());
    let verify = [&["verify"], &words[1..]].concat();
    let path = fakes(&pod, &[("ip6tables", script)]);
    pod.mesh_init(&verify).env("MESH_INIT_BACKEND", "").env("PATH", &path).run().expect(0);
}
