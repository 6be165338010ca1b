//! Bad input gets one clear line and touches nothing: the line names the flag or variable and the value, the exit
//! code is the promised one, and the kernel is as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Namespace, check_all};

/// One command line that has to be refused.
struct Case {
    /// Arguments without verb or program name.
    args: Vec<&'static str>,
    env: Vec<(&'static str, String)>,
    /// What the one line has to contain: the flag or variable, and the value.
    names: Vec<&'static str>,
    /// The exit codes of the drop-in that are right.
    drop_in: &'static [i32],
    /// The exit codes of our own verbs that are right.
    verb: &'static [i32],
}

/// A flag whose value is refused, with all else as in a usual pod. `names` is the flag and then the value.
fn flag(args: &[&'static str], names: &[&'static str], drop_in: &'static [i32]) -> Case {
    Case { args: args.to_vec(), env: Vec::new(), names: names.to_vec(), drop_in, verb: &[2] }
}

fn variable(name: &'static str, value: &'static str) -> Case {
    Case { args: vec!["-b", "*", "-i", "*"], env: vec![(name, value.to_owned())], names: vec![name, value], drop_in: &[1, 255], verb: &[2] }
}

/// A setting that the original refuses when it looks at the settings together.
const CONFIG: &[i32] = &[1];
/// A value that the original's flag parser refuses.
const PARSE: &[i32] = &[255];

/// What the original takes and we do not.
const EITHER: &[i32] = &[1, 255];

fn istio_cases() -> Vec<Case> {
    let mut cases = vec![
        flag(&["--bogus"], &["--bogus"], PARSE),
        flag(&["-y", "1"], &["-y"], PARSE),
        flag(&["--restore-format"], &["--restore-format"], PARSE),
        flag(&["-b", "*", "-p"], &["-p"], PARSE),
        flag(&["--iptables-probe-port", "65536"], &["--iptables-probe-port", "65536"], PARSE),
        flag(&["--iptables-probe-port=port"], &["--iptables-probe-port", "port"], PARSE),
        flag(&["--probe-timeout", "5"], &["--probe-timeout", "5"], PARSE),
        flag(&["--dry-run=maybe"], &["--dry-run", "maybe"], PARSE),
        flag(&["--redirect-dns=yes"], &["--redirect-dns", "yes"], PARSE),
        flag(&["--log_output_level=default:loud"], &["--log_output_level", "loud"], PARSE),
        flag(&["--force-iptables-binary", "ebtables"], &["--force-iptables-binary", "ebtables"], CONFIG),
        flag(&["-x", "*"], &["--istio-service-exclude-cidr", "*"], CONFIG),
        flag(&["-t", "mark"], &["--istio-inbound-tproxy-mark", "mark"], CONFIG),
        flag(&["-t", "0x100000000"], &["--istio-inbound-tproxy-mark", "0x100000000"], CONFIG),
        flag(&["-r", "table"], &["--istio-inbound-tproxy-route-table", "table"], CONFIG),
        flag(&["-u", "root"], &["--proxy-uid", "root"], CONFIG),
        flag(&["-u", "1337,4294967296"], &["--proxy-uid", "4294967296"], CONFIG),
        flag(&["-u", "-1"], &["--proxy-uid", "-1"], CONFIG),
        flag(&["-u", "9-5"], &["--proxy-uid", "9-5"], CONFIG),
        flag(&["-g", "staff"], &["--proxy-gid", "staff"], CONFIG),
        flag(&["-c", "abcdefghijklmnop"], &["--istio-exclude-interfaces", "abcdefghijklmnop"], CONFIG),
        flag(&["-k", "net1,abcdefghijklmnop"], &["--kube-virt-interfaces", "abcdefghijklmnop"], CONFIG),
        flag(&["-b", "-d", "15020"], &["--istio-inbound-ports", "-d"], EITHER),
        flag(&["-i", "--redirect-dns"], &["--istio-service-cidr", "--redirect-dns"], EITHER),
    ];
    for (long, short) in [("--envoy-port", "-p"), ("--inbound-capture-port", "-z"), ("--inbound-tunnel-port", "-e")] {
        for value in ["0", "65536", "http", "-1", ""] {
            cases.push(flag(&[short, value], &[long, value], CONFIG));
        }
    }
    for (long, short) in [
        ("--istio-inbound-ports", "-b"),
        ("--istio-local-exclude-ports", "-d"),
        ("--istio-outbound-ports", "-q"),
        ("--istio-local-outbound-ports-exclude", "-o"),
    ] {
        for (value, named) in [("0", "0"), ("80,65536", "65536"), ("80,http", "http"), ("90:80", "90:80"), ("80,*", "*")] {
            // The exclude list only counts beside the star.
            let args = if short == "-b" { vec![short, value] } else { vec!["-b", "*", short, value] };
            cases.push(flag(&args, &[long, named], CONFIG));
        }
    }
    for (long, short) in [("--istio-service-cidr", "-i"), ("--istio-service-exclude-cidr", "-x")] {
        for (value, named) in [
            ("10.0.0.0", "10.0.0.0"),
            ("10.0.0.0/33", "10.0.0.0/33"),
            ("10.0.0.0/8,fd00::/129", "fd00::/129"),
            ("300.0.0.0/8", "300.0.0.0/8"),
            ("10.0.0.0/8,*", "*"),
            ("10.0.0.0/255.0.0.0", "10.0.0.0/255.0.0.0"),
        ] {
            cases.push(flag(&[short, value], &[long, named], CONFIG));
        }
    }
    cases.extend([
        variable("DRY_RUN", "garbage"),
        variable("PROBE_TIMEOUT", "soon"),
        variable("IPTABLES_PROBE_PORT", "70000"),
        variable("ISTIO_META_DNS_CAPTURE", "on"),
        variable("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "10.0.0.0/8"),
        variable("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1"),
        variable("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/7"),
        variable("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "::1/128"),
        variable("ISTIO_OUTBOUND_OWNER_GROUPS", "nosuchgroup"),
        variable("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "nosuchgroup"),
        variable("INBOUND_CAPTURE_PORT", "0"),
        variable("ISTIO_LOCAL_EXCLUDE_PORTS", "ssh"),
        variable("PROXY_UID", "nobody"),
        variable("FORCE_IPTABLES_BINARY", "ebtables"),
    ]);
    let groups: Vec<String> = (3000..3065).map(|group| group.to_string()).collect();
    cases.push(Case {
        args: vec!["-b", "*", "-i", "*"],
        env: vec![("ISTIO_OUTBOUND_OWNER_GROUPS", groups.join(","))],
        names: vec!["ISTIO_OUTBOUND_OWNER_GROUPS", "64", "65"],
        drop_in: CONFIG,
        verb: &[2],
    });
    cases
}

fn linkerd_cases() -> Vec<Case> {
    let ports = ["--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140"];
    let mut cases = vec![
        flag(&["-o", "4140"], &["--incoming-proxy-port"], &[1]),
        flag(&["-p", "4143"], &["--outgoing-proxy-port"], &[1]),
        flag(&["-o", "4140", "-p"], &["-p"], &[1]),
        flag(&["--bogus", "-p", "4143", "-o", "4140"], &["--bogus"], &[1]),
    ];
    for value in ["0", "65536", "-1", "http", ""] {
        cases.push(flag(&["-o", "4140", "-p", value], &["--incoming-proxy-port", value], &[1]));
        cases.push(flag(&["-p", "4143", "-o", value], &["--outgoing-proxy-port", value], &[1]));
    }
    let options: [(&[&'static str], &[&'static str]); 22] = [
        (&["-r", "0"], &["--ports-to-redirect", "0"]),
        (&["-r", "80,http"], &["--ports-to-redirect", "http"]),
        (&["-r", "65536"], &["--ports-to-redirect", "65536"]),
        (&["--inbound-ports-to-ignore", "80,abc"], &["--inbound-ports-to-ignore", "abc"]),
        (&["--inbound-ports-to-ignore", "20-10"], &["--inbound-ports-to-ignore", "20-10"]),
        (&["--inbound-ports-to-ignore", "10-70000"], &["--inbound-ports-to-ignore", "70000"]),
        (&["--inbound-ports-to-ignore", "1-2-3"], &["--inbound-ports-to-ignore", "1-2-3"]),
        (&["--outbound-ports-to-ignore", "0"], &["--outbound-ports-to-ignore", "0"]),
        (&["--outbound-ports-to-ignore", "https"], &["--outbound-ports-to-ignore", "https"]),
        (&["--subnets-to-ignore", "10.0.0.1"], &["--subnets-to-ignore", "10.0.0.1", "is not a valid CIDR address"]),
        (&["--subnets-to-ignore", "10.0.0.0/8,fd00::/129"], &["--subnets-to-ignore", "fd00::/129"]),
        (&["-u", "abc"], &["--proxy-uid", "abc"]),
        (&["-u", "4294967296"], &["--proxy-uid", "4294967296"]),
        (&["-g", "users"], &["--proxy-gid", "users"]),
        (&["--ipv6=maybe"], &["--ipv6", "maybe"]),
        (&["--simulate=si"], &["--simulate", "si"]),
        (&["--log-level", "loud"], &["--log-level", "loud"]),
        (&["--iptables-mode", "zzz"], &["--iptables-mode", "zzz"]),
        (&["--firewall-bin-path", "/sbin/iptables"], &["--firewall-bin-path", "/sbin/iptables"]),
        (&["--timeout-close-wait-secs", "abc"], &["--timeout-close-wait-secs", "abc"]),
        (&["--timeout-close-wait-secs", "-5"], &["--timeout-close-wait-secs", "-5"]),
        (&["--inbound-ports-to-ignore", "--simulate"], &["--inbound-ports-to-ignore", "--simulate"]),
    ];
    for (args, names) in options {
        cases.push(flag(&[&ports, args].concat(), names, &[1]));
    }
    let mut no_namespace = flag(&[&ports[..], &["--netns", "/nowhere/net"]].concat(), &["--netns", "/nowhere/net"], &[1]);
    no_namespace.verb = &[1, 2];
    cases.push(no_namespace);
    let mut not_a_namespace = flag(&[&ports[..], &["--netns", "/etc/hostname"]].concat(), &["--netns", "/etc/hostname"], &[1]);
    not_a_namespace.verb = &[1, 2];
    cases.push(not_a_namespace);
    cases
}

/// What is wrong with how a command line was refused.
fn problems(outcome: &common::Outcome, codes: &[i32], names: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    if !codes.contains(&outcome.code) {
        problems.push(format!("exit {}, expected {codes:?}", outcome.code));
    }
    let lines = outcome.lines();
    let naming = lines.iter().filter(|line| names.iter().all(|name| line.contains(name))).count();
    if naming != 1 {
        problems.push(format!("{naming} lines name {names:?}, expected one"));
    }
    if lines.len() != 1 {
        problems.push(format!("{} lines, expected one", lines.len()));
    }
    problems
}

/// What a refused command line left in the kernel.
fn traces(pod: &Namespace) -> Vec<String> {
    let mut traces = pod.legacy_tables();
    traces.extend(pod.policy_routes().iter().map(|route| format!("{route:?}")));
    if pod.lo_has_6() {
        traces.push("::6 on lo".to_owned());
    }
    traces
}

fn check(mesh: &'static str, cases: &[Case]) {
    check_all(
        cases,
        |case| format!("{mesh} {:?} {:?}", case.args, case.env.iter().map(|(name, _)| name).collect::<Vec<_>>()),
        |case| {
            let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
            let run = |first: &[&str], codes: &[i32]| {
                let args: Vec<&str> = first.iter().chain(&case.args).copied().collect();
                let mut program = pod.mesh_init(&args);
                if first.is_empty() {
                    program = program.called("linkerd2-proxy-init");
                }
                for (name, value) in &case.env {
                    program = program.env(name, value);
                }
                // `--netns` needs SYS_ADMIN, and without it that would be the answer.
                if case.args.contains(&"--netns") {
                    program = program.with(common::Privilege::NetAdminAndSysAdmin);
                }
                let outcome = program.run();
                let mut problems = problems(&outcome, codes, &case.names);
                problems.extend(traces(&pod).into_iter().map(|trace| format!("left behind: {trace}")));
                if problems.is_empty() { Vec::new() } else { [problems, vec![outcome.to_string()]].concat() }
            };
            let drop_in: &[&str] = if mesh == "istio" { &["istio-iptables"] } else { &[] };
            let mut all = run(drop_in, case.drop_in);
            for verb in ["apply", "verify", "dump"] {
                // A plan that is only printed looks into no namespace.
                if verb != "dump" || !case.args.contains(&"--netns") {
                    all.extend(run(&[verb, mesh], case.verb));
                }
            }
            all
        },
    );
}

#[test]
fn istio_refuses_bad_values() {
    require_root!();
    check("istio", &istio_cases());
}

#[test]
fn linkerd_refuses_bad_values() {
    require_root!();
    check("linkerd", &linkerd_cases());
}

#[test]
fn our_own_options_refuse_bad_values() {
    require_root!();
    let apply = |words: &[&'static str]| [&["apply", "istio", "-b", "*"], words].concat();
    let dump = |words: &[&'static str]| [&["dump", "istio", "-b", "*", "--pod-ip", "10.9.0.2"], words].concat();
    let cases: Vec<(Vec<&str>, Vec<&str>, &[i32])> = vec![
        (vec!["frobnicate"], vec!["frobnicate"], &[2]),
        (vec!["apply"], vec!["istio", "linkerd"], &[2]),
        (vec!["apply", "consul"], vec!["consul", "istio", "linkerd"], &[2]),
        (vec!["remove", "consul"], vec!["consul"], &[2]),
        (apply(&["--backend", "ebtables"]), vec!["--backend", "ebtables", "legacy"], &[2]),
        #[cfg(not(feature = "iptables-command"))]
        (apply(&["--backend", "iptables"]), vec!["--backend", "iptables", "not in this build", "iptables-command"], &[2]),
        (apply(&["--deadline", "soon"]), vec!["--deadline", "soon"], &[2]),
        (apply(&["--log-format", "xml"]), vec!["--log-format", "xml", "json"], &[2]),
        (apply(&["--log-level", "loud"]), vec!["--log-level", "loud"], &[2]),
        (apply(&["--netns", "/nowhere/net"]), vec!["--netns", "/nowhere/net"], &[1, 2]),
        (apply(&["--netns", "/etc/hostname"]), vec!["--netns", "/etc/hostname"], &[1, 2]),
        (dump(&["--pod-ip", "10.9.0"]), vec!["--pod-ip", "10.9.0"], &[2]),
        (dump(&["--dns-server", "dns"]), vec!["--dns-server", "dns"], &[2]),
        (dump(&["--format", "xml"]), vec!["--format", "xml", "iptables", "json"], &[2]),
        (dump(&["--family", "5"]), vec!["--family", "5", "all"], &[2]),
    ];
    check_all(
        &cases,
        |(args, _, _)| format!("{args:?}"),
        |(args, names, codes)| {
            let pod = Namespace::pod(&["10.9.0.2/24"]);
            let outcome = pod.mesh_init(args).with(common::Privilege::NetAdminAndSysAdmin).run();
            let mut problems = problems(&outcome, codes, names);
            problems.extend(traces(&pod));
            if problems.is_empty() { Vec::new() } else { [problems, vec![outcome.to_string()]].concat() }
        },
    );
}

#[test]
fn our_variables_are_checked_as_our_options_are() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let outcome = pod.mesh_init(&["apply", "istio", "-b", "*"]).env("MESH_INIT_BACKEND", "ebtables").run();
    assert_eq!(problems(&outcome, &[2], &["MESH_INIT_BACKEND", "ebtables"]), Vec::<String>::new(), "{outcome}");
    assert_eq!(traces(&pod), Vec::<String>::new());
}

#[test]
fn as_many_groups_as_allowed_are_taken() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let groups: Vec<String> = (3000..3064).map(|group| group.to_string()).collect();
    pod.mesh_init(&["istio-iptables", "-b", "*", "-i", "*"]).env("ISTIO_OUTBOUND_OWNER_GROUPS", &groups.join(",")).run().expect(0);
    let saved = pod.legacy_save(common::Family::V4);
    let rule = saved.rules("nat", "ISTIO_OUTPUT").iter().find(|rule| rule.contains("--gid-owner 3000")).unwrap();
    assert_eq!(rule.matches("! --gid-owner").count(), 64, "{rule}");
}

#[test]
fn a_resolv_conf_that_cannot_be_read_is_named() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for first in [&["istio-iptables"][..], &["apply", "istio"]] {
        let args = [first, &["-b", "*", "-i", "*", "--redirect-dns"]].concat();
        let program = pod.mesh_init(&args).with_file("/etc/resolv.conf", "nameserver 10.96.0.10\n");
        // Not even user 0 may read it without the capability to override permissions.
        fs::set_permissions(pod.folder().join("_etc_resolv.conf"), fs::Permissions::from_mode(0o000)).unwrap();
        let outcome = program.run();
        assert_eq!(problems(&outcome, &[1], &["/etc/resolv.conf"]), Vec::<String>::new(), "{outcome}");
        assert_eq!(traces(&pod), Vec::<String>::new());
    }
}

#[test]
fn a_pod_without_addresses_is_refused() {
    require_root!();
    let pod = Namespace::new();
    for first in [&["istio-iptables"][..], &["apply", "istio"]] {
        let outcome = pod.mesh_init(&[first, &["-b", "*", "-i", "*"]].concat()).run();
        assert_eq!(problems(&outcome, &[1], &["address"]), Vec::<String>::new(), "{outcome}");
        assert_eq!(traces(&pod), Vec::<String>::new());
    }
}
