//! Flags of the originals that say "do something else than install": under `apply` as in the drop-ins.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Family, Namespace};

const PROXY: [&str; 4] = ["-p", "4143", "-o", "4140"];
const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

fn rules(pod: &Namespace) -> Vec<String> {
    Family::BOTH.iter().flat_map(|family| pod.legacy_save(*family).meaningful().lines()).collect()
}

#[test]
fn a_dry_run_prints_the_plan_and_installs_nothing() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let dump = pod.mesh_init(&["dump", "istio", "-i", "*"]).run().expect(0);
    for program in [
        pod.mesh_init(&["apply", "istio", "-i", "*", "--dry-run"]),
        pod.mesh_init(&["apply", "istio", "-i", "*"]).env("DRY_RUN", "true"),
        pod.mesh_init(&["istio-iptables", "-i", "*", "-n"]),
    ] {
        let outcome = program.run().expect(0);
        assert!(outcome.stdout.contains(&dump.stdout), "{outcome}");
    }
    let dump = pod.mesh_init(&[&["dump", "linkerd"], &PROXY[..]].concat()).run().expect(0);
    let simulated = [&PROXY[..], &["--simulate", "--timeout-close-wait-secs", "77"]].concat();
    for arguments in [[&["apply", "linkerd"], &simulated[..]].concat(), simulated.clone()] {
        let outcome = pod.mesh_init(&arguments).run().expect(0);
        assert!(outcome.stdout.contains(&dump.stdout), "{outcome}");
    }
    assert!(pod.legacy_tables().is_empty(), "a table was made");
    assert_ne!(pod.output(&["cat", CLOSE_WAIT]).trim(), "77");
}

#[test]
fn rules_are_skipped_or_cleaned_up_as_the_flags_say() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for verb in [&["apply", "istio"][..], &["istio-iptables"]] {
        pod.mesh_init(&[verb, &["-i", "*", "--skip-rule-apply"]].concat()).run().expect(0);
        assert!(rules(&pod).is_empty());
        pod.mesh_init(&[verb, &["-i", "*"]].concat()).run().expect(0);
        assert!(!rules(&pod).is_empty());
        let outcome = pod.mesh_init(&[verb, &["--cleanup-only"]].concat()).run().expect(0);
        assert!(rules(&pod).is_empty() && !outcome.text().contains("warn"), "{outcome}");
    }
}

#[test]
fn the_close_wait_timeout_is_set_with_the_rules_and_put_back_without_them() {
    require_root!();
    for verb in [&["apply", "linkerd"][..], &[]] {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        let before = pod.output(&["cat", CLOSE_WAIT]);
        let arguments = [verb, &PROXY, &["--timeout-close-wait-secs", "77"]].concat();
        // A table that cannot be written: IPv6 has the address, and the kernel's answer is made to be an error.
        let failing = pod.mesh_init(&arguments).command();
        let mut traced = std::process::Command::new("strace");
        traced.args(["-f", "-o", "/dev/null", "-e", "trace=setsockopt", "-e", "inject=setsockopt:error=ENOMEM:when=3+"]);
        traced.arg(failing.get_program()).args(failing.get_args());
        traced.envs(failing.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_eq!(traced.output().unwrap().status.code(), Some(1));
        assert_eq!(pod.output(&["cat", CLOSE_WAIT]), before);
        pod.mesh_init(&arguments).run().expect(0);
        assert_eq!(pod.output(&["cat", CLOSE_WAIT]).trim(), "77");
    }
}

#[test]
fn a_read_only_proc_sys_is_an_error_that_says_what_to_set() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let program = pod.mesh_init(&[&PROXY[..], &["--timeout-close-wait-secs", "77"]].concat()).command();
    let mut words =
        vec!["unshare", "-m", "sh", "-c", "mount -o bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"", "sh"];
    words.push(program.get_program().to_str().unwrap());
    words.extend(program.get_args().map(|argument| argument.to_str().unwrap()));
    let output = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("net.netfilter.nf_conntrack_tcp_timeout_close_wait") && text.contains("securityContext.sysctls"), "{text}");
    assert!(rules(&pod).is_empty());
}

#[test]
fn where_names_meet_the_drop_in_takes_the_originals_values() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for level in ["panic", "fatal", "error", "warn", "warning", "info", "debug", "trace", "Warning"] {
        for format in ["plain", "json", "text"] {
            let flags = ["--simulate", "--log-level", level, "--log-format", format];
            pod.mesh_init(&[&PROXY[..], &flags].concat()).run().expect(0);
        }
    }
    let ours = pod.mesh_init(&[&["apply", "linkerd"], &PROXY[..], &["--simulate", "--log-level", "trace"]].concat()).run().expect(2);
    assert!(ours.stderr.contains("--log-level"), "{ours}");
    // Ours is still there as a variable.
    pod.mesh_init(&[&PROXY[..], &["--simulate"]].concat()).env("MESH_INIT_NETNS", "/nowhere").run().expect(1);
}

#[test]
fn a_stderr_that_takes_nothing_does_not_change_the_end() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for (arguments, code) in
        [(&["istio-iptables", "--bogus"][..], 255), (&["--bogus"], 1), (&["apply", "consul"], 2), (&["apply", "istio", "-i", "x"], 2)]
    {
        let mut command = pod.mesh_init(arguments).command();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(command.stderr(full).status().unwrap().code(), Some(code), "{arguments:?}");
    }
}
