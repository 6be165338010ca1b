//! `preflight`: what it finds in every kind of pod, and that it changes nothing by looking.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fs;

use common::preflight::{Checks, assert_blocked, checks};
use common::seccomp::{Level, Refusal};
use common::{Family, Namespace, Privilege, UserNamespace, check_all};
use nix::errno::Errno;
use nix::libc;

const V4: &str = "10.9.0.2/24";
const BOTH: [&str; 2] = [V4, "2001:db8:9::2/64"];

const ISTIO: [&str; 10] = ["preflight", "istio", "-b", "*", "-i", "*", "-u", "1337", "-d", "15090,15021"];
const LINKERD: [&str; 8] = ["preflight", "linkerd", "-p", "4143", "-o", "4140", "-u", "2102"];
/// As much as a plan can want.
const EVERYTHING: [&str; 15] = [
    "preflight",
    "istio",
    "--dual-stack",
    "-m",
    "TPROXY",
    "-b",
    "*",
    "-i",
    "*",
    "-u",
    "1337",
    "--redirect-dns",
    "--capture-all-dns",
    "--drop-invalid",
    "--backend=nftables",
];

/// What must not change by looking.
fn traces(pod: &Namespace) -> (Vec<String>, String, String) {
    (pod.legacy_tables(), pod.nft_ruleset(), pod.routing_text())
}

#[test]
fn a_usual_pod_is_found_fit_and_left_as_it_was() {
    require_root!();
    for addresses in [&[V4][..], &BOTH] {
        for words in [&ISTIO[..], &LINKERD, &EVERYTHING, &["preflight"]] {
            let pod = Namespace::pod(addresses);
            let before = traces(&pod);
            let found = checks(pod.mesh_init(words).backend("auto"), 0);
            for name in ["kernel-release", "capability", "user-namespace", "ipv6", "nftables-ipv4", "rules", "gvisor", "kata"] {
                found.expect(name, "ok");
            }
            assert!(!found.evidence("nftables-ipv4").is_empty());
            assert_eq!(traces(&pod), before, "{words:?}");
        }
    }
}

#[test]
fn every_verdict_is_what_apply_does() {
    require_root!();
    for backend in ["auto", "legacy", "nftables"] {
        for words in [&ISTIO[..], &LINKERD] {
            let pod = Namespace::pod(&BOTH);
            checks(pod.mesh_init(words).backend(backend), 0);
            let apply = [&["apply"], &words[1..]].concat();
            pod.mesh_init(&apply).backend(backend).run().expect(0);
            let before = traces(&pod);
            // With rules of ours there, too.
            let found = checks(pod.mesh_init(words).backend(backend), 0);
            assert!(found.evidence("rules").contains(&format!("rules of {} are in", words[1])), "{found:?}");
            assert_eq!(traces(&pod), before, "{backend} {words:?}");
        }
    }
}

#[test]
fn a_line_has_the_verdict_the_evidence_and_the_remedy() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let outcome = pod.mesh_init(&ISTIO).backend("auto").with(Privilege::RootWithout).run().expect(4);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("ok       kernel-release: ")), "{outcome}");
    let line = "blocker  capability: CAP_NET_ADMIN is missing: it was not granted to this container; \
                add NET_ADMIN to securityContext.capabilities.add";
    assert!(lines.contains(&line), "{outcome}");
    // The same in JSON, whose keys stay.
    let outcome = pod.mesh_init(&[&ISTIO[..], &["--format", "json"]].concat()).backend("auto").run().expect(0);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["checks", "exit_code", "mesh", "verb", "verdict"]);
    assert_eq!((&report["verb"], &report["mesh"], &report["exit_code"]), (&"preflight".into(), &"istio".into(), &0.into()));
    for check in report["checks"].as_array().unwrap() {
        let keys: Vec<&str> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["evidence", "name", "remedy", "verdict"]);
    }
    // Without a mesh, each plan's checks say whose they are.
    let found = checks(pod.mesh_init(&["preflight"]).backend("auto"), 0);
    let of = |mesh: &str| found.0.iter().filter(|check| check["name"] == "nftables-ipv4" && check["mesh"] == mesh).count();
    assert_eq!((of("istio"), of("linkerd")), (1, 1), "{found:?}");
}

#[test]
fn each_state_of_privileges_is_told() {
    require_root!();
    for backend in ["auto", "legacy"] {
        let pod = Namespace::pod(&[V4]);
        let found = |privilege, code| checks(pod.mesh_init(&ISTIO).backend(backend).with(privilege), code);
        for fit in [Privilege::NetAdmin, Privilege::NetAdminAndNetRaw, Privilege::NetAdminAndSysAdmin] {
            found(fit, 0).expect("capability", "ok");
        }
        // The list of legacy tables is root's alone.
        let ambient = found(Privilege::Ambient(65534), 0);
        ambient.expect("capability", "ok");
        ambient.expect("rules", "warning");
        for (without, why) in [
            (Privilege::RootWithout, "not granted"),
            (Privilege::None(1337), "not granted"),
            (Privilege::Granted(65534), "user 65534 is not root"),
        ] {
            let found = found(without, 4);
            assert_blocked(&found, &["capability"]);
            assert!(found.evidence("capability").contains(why) && !found.remedy("capability").is_empty(), "{found:?}");
            // Nothing that could not be asked is said to be well, nor to be in the way.
            found.expect("legacy-ipv4", "warning");
            assert!(found.evidence("legacy-ipv4").contains("unknown"), "{found:?}");
        }
        let no_filter = pod.mesh_init(&ISTIO).backend(backend).with(Privilege::RootWithout).refusing(Refusal::no_filter(Level::V4));
        assert_blocked(&checks(no_filter, 4), &["capability"]);
        assert_eq!(traces(&pod).0, Vec::<String>::new());
    }
}

#[test]
fn a_file_capability_counts_or_is_told_to_be_lost() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    for (privilege, code) in [(Privilege::FileCapability(65534), 0), (Privilege::Granted(65534), 0), (Privilege::Stripped(65534), 4)] {
        let program = pod.mesh_init(&ISTIO).backend("auto").with(privilege);
        program.give_file_capability();
        let found = checks(program, code);
        if code == 4 {
            assert!(found.evidence("capability").contains("no_new_privs"), "{found:?}");
        }
    }
}

/// A backend, what the kernel lacks, the exit code, and the verdicts on some checks.
type Lack = (&'static str, Vec<Refusal>, i32, &'static [(&'static str, &'static str)]);

#[test]
fn what_a_kernel_lacks_blocks_only_where_nothing_else_does() {
    require_root!();
    let no_nft = Refusal::no_netfilter_netlink;
    let legacy = |refusal: fn(Level) -> Vec<Refusal>| [Level::V4, Level::V6].map(refusal).concat();
    let cases: [Lack; 9] = [
        ("auto", no_nft(), 0, &[("nftables-ipv4", "ok"), ("legacy-ipv4", "ok"), ("legacy-ipv6", "ok")]),
        ("nftables", no_nft(), 4, &[("nftables-ipv4", "blocker"), ("nftables-ipv6", "blocker")]),
        ("auto", legacy(Refusal::no_filter), 0, &[("nftables-ipv4", "ok"), ("legacy-ipv4", "ok"), ("legacy-ipv6", "ok")]),
        ("legacy", legacy(Refusal::no_filter), 4, &[("legacy-ipv4", "blocker"), ("legacy-ipv6", "blocker")]),
        ("legacy", legacy(Refusal::no_features), 4, &[("legacy-ipv4", "blocker"), ("legacy-ipv6", "blocker")]),
        (
            "auto",
            [no_nft(), legacy(Refusal::no_filter)].concat(),
            4,
            &[("nftables-ipv4", "blocker"), ("legacy-ipv4", "blocker"), ("legacy-ipv6", "blocker")],
        ),
        (
            "auto",
            [no_nft(), Refusal::no_filter(Level::V6)].concat(),
            4,
            &[("legacy-ipv4", "ok"), ("legacy-ipv6", "blocker"), ("nftables-ipv6", "blocker"), ("nftables-ipv4", "ok")],
        ),
        ("auto", Refusal::forbidden_netfilter_netlink(), 0, &[("nftables-ipv4", "ok"), ("legacy-ipv4", "ok")]),
        ("legacy", legacy(Refusal::forbidden), 4, &[("legacy-ipv4", "blocker"), ("capability", "ok")]),
    ];
    check_all(
        &cases,
        |case| format!("{} {:?}", case.0, case.1),
        |(backend, refusals, code, expected)| {
            let pod = Namespace::pod(&BOTH);
            let before = traces(&pod);
            let found = checks(pod.mesh_init(&LINKERD).backend(backend).refusing(refusals.clone()), *code);
            for (name, verdict) in *expected {
                found.expect(name, verdict);
                let told = found.evidence(name).contains("CONFIG_") || found.remedy(name).contains("CONFIG_");
                assert!(told || found.evidence(name).contains("EPERM") || *verdict == "ok", "{name}: {found:?}");
            }
            let apply = [&["apply"], &LINKERD[1..]].concat();
            let applied = pod.mesh_init(&apply).backend(backend).refusing(refusals.clone());
            assert_eq!(traces(&pod), before);
            assert_eq!(applied.run().code != 0, *code != 0);
            Vec::new()
        },
    );
}

#[test]
fn a_packet_filter_that_says_nothing_blocks_only_where_it_is_needed() {
    require_root!();
    for refusals in [Refusal::no_sockets(libc::AF_INET, Errno::EPERM), Refusal::unanswered(Level::V4)] {
        let pod = Namespace::pod(&[V4]);
        let found = |backend| pod.mesh_init(&ISTIO).backend(backend).refusing(refusals.clone());
        let auto = checks(found("auto"), 0);
        auto.expect("legacy-ipv4", "ok");
        assert!(auto.evidence("legacy-ipv4").contains("not needed, since nftables takes the rules"), "{auto:?}");
        assert_blocked(&checks(found("legacy"), 4), &["legacy-ipv4"]);
        // Where nf_tables is not there, nothing takes the rules.
        let neither = [refusals.clone(), Refusal::no_netfilter_netlink()].concat();
        checks(pod.mesh_init(&ISTIO).backend("auto").refusing(neither), 4).expect("legacy-ipv4", "blocker");
        let apply = [&["apply"], &ISTIO[1..]].concat();
        pod.mesh_init(&apply).backend("auto").refusing(refusals).run().expect(0);
    }
}

#[test]
fn without_netlink_there_is_a_report_still() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let refused = |words: &[&str], errno| pod.mesh_init(words).backend("auto").refusing(Refusal::no_sockets(libc::AF_NETLINK, errno));
    for words in [&ISTIO[..], &LINKERD, &["preflight"]] {
        for errno in [Errno::EAFNOSUPPORT, Errno::EPERM] {
            let found = checks(refused(words, errno), 4);
            assert_blocked(&found, &["netlink"]);
            assert!(found.evidence("netlink").contains(&format!("{errno:?}")) && !found.remedy("netlink").is_empty(), "{found:?}");
            for name in ["kernel-release", "capability", "gvisor", "kata"] {
                found.expect(name, "ok");
            }
            assert!(!found.has("rules"), "{found:?}");
        }
    }
    // What can be planned is looked at; the rest is not known.
    let registry = ["--registry", "10.1.2.3:443"];
    checks(refused(&[&ISTIO[..], &registry].concat(), Errno::EPERM), 4).expect("guest-pull", "warning");
    let planned = [&ISTIO[..], &registry, &["--pod-ip", "10.9.0.2", "-o", "443"]].concat();
    let found = checks(refused(&planned, Errno::EPERM), 4);
    found.expect("guest-pull", "ok");
    found.expect("user-namespace", "ok");
}

#[test]
fn ipv6_that_is_left_out_is_a_warning() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let found = checks(pod.mesh_init(&LINKERD).backend("auto").refusing(Refusal::no_ipv6()), 0);
    found.expect("ipv6", "warning");
    found.expect("nftables-ipv4", "ok");
    let no_v6 = [Refusal::no_netfilter_netlink(), Refusal::no_filter(Level::V6)].concat();
    let words = [&LINKERD[..], &["--registry", "[fd00::1]:443"]].concat();
    let found = checks(pod.mesh_init(&words).backend("auto").refusing(no_v6), 0);
    found.expect("ipv6", "warning");
    found.expect("guest-pull", "ok");
    found.expect("legacy-ipv4", "ok");
    found.expect("legacy-ipv6", "ok");
    // What is in the way of IPv4 is in the way of nothing else.
    let nothing = [Refusal::no_netfilter_netlink(), Refusal::no_filter(Level::V4), Refusal::no_filter(Level::V6)].concat();
    let found = checks(pod.mesh_init(&LINKERD).backend("auto").refusing(nothing), 4);
    assert_blocked(&found, &["nftables-ipv4", "legacy-ipv4"]);
    found.expect("ipv6", "warning");
}

#[test]
fn what_a_plan_leaves_alone_is_a_warning() {
    require_root!();
    let pod = Namespace::pod(&BOTH);
    let found = checks(pod.mesh_init(&ISTIO).backend("auto"), 0);
    found.expect("plan", "warning");
    assert!(found.evidence("plan").contains("IPv6 traffic is not captured"), "{found:?}");
    let found = checks(pod.mesh_init(&[&ISTIO[..], &["--dual-stack"]].concat()).backend("auto"), 0);
    assert!(found.0.iter().all(|check| check["name"] != "plan"), "{found:?}");
}

#[test]
fn an_address_that_lo_refuses_is_a_blocker() {
    require_root!();
    let pod = Namespace::pod(&BOTH);
    pod.inside(|| fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap());
    let found = checks(pod.mesh_init(&EVERYTHING), 4);
    assert_blocked(&found, &["ipv6"]);
    assert!(found.remedy("ipv6").contains("net.ipv6.conf.lo.disable_ipv6=0"), "{found:?}");
    // Linkerd needs no address there.
    assert!(checks(pod.mesh_init(&LINKERD).backend("auto"), 0).evidence("ipv6").contains("disabled"));
}

#[test]
fn a_table_that_nobody_can_ask_for_is_unknown_unless_the_configuration_tells() {
    require_root!();
    let pod = Namespace::pod(&BOTH);
    let words = [&EVERYTHING[..14], &["--backend=legacy"]].concat();
    // A Kata guest has no /proc/config.gz.
    let found = checks(pod.mesh_init(&words).with_file("/proc/config.gz", ""), 0);
    for family in ["legacy-ipv4", "legacy-ipv6"] {
        found.expect(family, "warning");
        for table in ["raw", "mangle", "nat"] {
            assert!(found.evidence(family).contains(&format!("the table {table} ")), "{found:?}");
        }
    }
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    // Where nothing depends on them there is no question.
    let found = checks(pod.mesh_init(&words[..14]).backend("auto").with_file("/proc/config.gz", ""), 0);
    for family in ["legacy-ipv4", "legacy-ipv6"] {
        found.expect(family, "ok");
        let evidence = found.evidence(family);
        assert!(evidence.contains("not needed, since nftables") && !evidence.contains("unknown"), "{found:?}");
    }
    let with = |text: &str| {
        let path = pod.file("config", text);
        common::namespace::run(std::process::Command::new("gzip").args(["-kf"]).arg(&path));
        fs::rename(path.with_extension("gz"), pod.folder().join("packed")).unwrap();
        pod.mesh_init(&ISTIO).with_folder("/proc/config.gz", &pod.folder().join("packed"))
    };
    checks(with("CONFIG_A=y\nCONFIG_IP_NF_NAT=y\nCONFIG_B=y\n"), 0).expect("legacy-ipv4", "ok");
    checks(with("CONFIG_IP_NF_NAT=m\n"), 0).expect("legacy-ipv4", "warning");
    let found = checks(with("# CONFIG_IP_NF_NAT is not set\nCONFIG_IP_NF_NATIVE=y\n"), 4);
    assert_blocked(&found, &["legacy-ipv4"]);
    assert!(found.remedy("legacy-ipv4").contains("CONFIG_IP_NF_NAT=y"), "{found:?}");
    // A table that is there already is known to be.
    pod.legacy_save(Family::V4);
    pod.mesh_init(&["apply", "istio", "-b", "*", "-i", "*"]).run().expect(0);
    checks(with("CONFIG_IP_NF_NAT=m\n"), 0).expect("legacy-ipv4", "ok");
}

#[test]
fn whose_rules_are_there_is_told() {
    require_root!();
    let pod = Namespace::pod(&BOTH);
    pod.mesh_init(&[&["apply"], &LINKERD[1..]].concat()).backend("nftables").run().expect(0);
    pod.output(&["nft", "add table inet fence"]);
    pod.output(&["iptables-legacy", "-A", "INPUT", "-p", "udp", "-j", "ACCEPT"]);
    let found = checks(pod.mesh_init(&LINKERD).backend("auto"), 0);
    found.expect("rules", "ok");
    for part in ["rules of linkerd are in mesh-init's nf_tables table", "1 foreign IPv4 rule is in the legacy", "inet fence"] {
        assert!(found.evidence("rules").contains(part), "{part}: {found:?}");
    }
    let found = checks(pod.mesh_init(&ISTIO).backend("auto"), 0);
    found.expect("rules", "warning");
    assert!(found.remedy("rules").contains("mesh-init remove linkerd"), "{found:?}");
}

#[test]
fn a_foreign_rule_is_told_once() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let told = || checks(pod.mesh_init(&ISTIO).backend("auto"), 0).evidence("rules").to_owned();
    let add = ["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT"];
    pod.output(&add);
    assert_eq!(told(), "1 foreign IPv4 rule is in iptables-nft's tables");
    pod.output(&add);
    assert_eq!(told(), "2 foreign IPv4 rules are in iptables-nft's tables");
    // Tables of other families and names, and those without a rule, are told by name.
    for table in ["ip6 nat", "ip filter", "ip fence"] {
        pod.output(&[&["nft", "add", "table"], &table.split(' ').collect::<Vec<_>>()[..]].concat());
    }
    let told = told();
    let names = ["ip6 nat", "ip filter", "ip fence"].map(|name| format!("the nf_tables table {name} is somebody else's"));
    assert!(names.iter().all(|name| told.contains(name)) && !told.contains("table ip nat"), "{told}");
}

#[test]
fn user_namespaces_are_told() {
    require_root!();
    let users = UserNamespace::new();
    let (own, other) = (Namespace::pod_of(&users, &[V4]), Namespace::pod(&[V4]));
    let found = checks(other.mesh_init(&ISTIO).backend("auto").in_user_namespace(&users), 4);
    found.expect("user-namespace", "blocker");
    assert!(found.remedy("user-namespace").contains("hostUsers: true"), "{found:?}");
    checks(own.mesh_init(&ISTIO).backend("auto").in_user_namespace(&users), 0).expect("user-namespace", "ok");
    let stranger = ["preflight", "linkerd", "-p", "4143", "-o", "4140", "-u", "70000", "--ipv6=false"];
    let found = checks(own.mesh_init(&stranger).backend("auto").in_user_namespace(&users), 0);
    found.expect("user-namespace", "warning");
    assert!(found.evidence("user-namespace").contains("user 70000"), "{found:?}");
    // The legacy packet filter refuses such a rule: the kernel's own check says so.
    let found = checks(own.mesh_init(&stranger).backend("legacy").in_user_namespace(&users), 4);
    found.expect("legacy-ipv4", "blocker");
    assert_eq!(own.legacy_tables(), Vec::<String>::new());
}

#[test]
fn a_setting_that_cannot_be_written_is_a_blocker() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let words = [&LINKERD[..], &["--timeout-close-wait-secs", "77"]].concat();
    checks(pod.mesh_init(&words).backend("auto"), 0).expect("proc-sys", "ok");
    assert_ne!(pod.output(&["cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait"]).trim(), "77");
    let found = checks(pod.mesh_init(&words).backend("auto").read_only_settings(), 4);
    assert_blocked(&found, &["proc-sys"]);
    assert!(found.remedy("proc-sys").contains("securityContext.sysctls"), "{found:?}");
    // Without a setting to be changed there is no such question.
    assert!(!checks(pod.mesh_init(&LINKERD).backend("auto"), 0).has("proc-sys"));
}

#[test]
fn gvisor_and_kata_are_known_by_their_proc() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let gvisor = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n";
    let found = checks(pod.mesh_init(&ISTIO).with_file("/proc/version", gvisor), 0);
    found.expect("gvisor", "warning");
    // It would take the rules that other kernels only check.
    assert!(found.evidence("legacy-ipv4").contains("agrees"), "{found:?}");
    let command_line = "tsc=reliable systemd.unit=kata-containers.target agent.log_vport=1025\n";
    let found = checks(pod.mesh_init(&ISTIO).backend("auto").with_file("/proc/cmdline", command_line), 0);
    found.expect("kata", "ok");
    assert!(found.evidence("kata").contains("Kata 3.2"), "{found:?}");
    found.expect("guest-pull", "ok");
}

#[test]
fn a_registry_gets_its_annotations() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let found = |words: &[&str], registry: &str| checks(pod.mesh_init(&[words, &["--registry", registry]].concat()).backend("auto"), 0);
    let istio = found(&ISTIO, "10.1.2.3:5000");
    istio.expect("guest-pull", "warning");
    for annotation in
        [r#"traffic.sidecar.istio.io/excludeOutboundIPRanges: "10.1.2.3/32""#, r#"traffic.sidecar.istio.io/excludeOutboundPorts: "5000""#]
    {
        assert!(istio.remedy("guest-pull").contains(annotation), "{istio:?}");
    }
    // What is excluded already stays so.
    let istio = found(
        &[&ISTIO[..], &["--dual-stack", "--pod-ip", "10.9.0.2,2001:db8:9::2", "-o", "25", "-x", "10.9.0.0/16"]].concat(),
        "[fd00::5]:443",
    );
    assert!(istio.remedy("guest-pull").contains(r#"excludeOutboundIPRanges: "10.9.0.0/16,fd00::5/128""#), "{istio:?}");
    assert!(istio.remedy("guest-pull").contains(r#"excludeOutboundPorts: "25,443""#), "{istio:?}");
    let linkerd = found(&[&LINKERD[..], &["--outbound-ports-to-ignore", "25,100-200"]].concat(), "registry.example:443");
    assert!(linkerd.remedy("guest-pull").contains(r#"config.linkerd.io/skip-outbound-ports: "25,100-200,443""#), "{linkerd:?}");
    // A name may stand for any address.
    for words in [&["preflight", "istio", "-b", "*", "-i", "10.0.0.0/8,192.168.0.0/16", "-x", "10.0.0.0/24"][..], &LINKERD] {
        found(words, "registry.example:443").expect("guest-pull", "warning");
    }
    let excluded = checks(
        pod.mesh_init(&[&ISTIO[..], &["--registry", "10.1.2.3:443"]].concat())
            .backend("auto")
            .env("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "0"),
        0,
    );
    excluded.expect("guest-pull", "ok");
    for (words, registry) in [
        // No rules for it at all.
        (&["preflight", "istio", "-i", "*", "--pod-ip", "10.1.1.1"][..], "[fd00::1]:443"),
        (&[&LINKERD[..], &["--ipv6=false"]].concat(), "[fd00::1]:443"),
        (&["preflight", "istio", "-b", "*", "-i", "", "-x", "10.0.0.0/8"], "registry.example:443"),
        (&ISTIO, "127.0.0.1:5000"),
        (&[&ISTIO[..], &["-x", "10.0.0.0/8"]].concat(), "[::ffff:10.1.2.3]:443"),
        (&[&ISTIO[..], &["-o", "443"]].concat(), "registry.example:443"),
        (&[&ISTIO[..], &["-x", "10.0.0.0/8"]].concat(), "10.1.2.3:443"),
        (&["preflight", "istio", "-b", "*", "-i", "192.168.0.0/16"], "10.1.2.3:443"),
        (&[&LINKERD[..], &["--outbound-ports-to-ignore", "440-450"]].concat(), "registry.example:443"),
    ] {
        found(words, registry).expect("guest-pull", "ok");
    }
}

#[test]
fn bad_input_is_named_and_nothing_is_asked() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    for (words, parts) in [
        (&[&ISTIO[..], &["--format", "yaml"]].concat()[..], ["--format", "yaml", "text or json"]),
        (&[&ISTIO[..], &["--registry", "registry.example"]].concat(), ["--registry", "registry.example", "HOST:PORT"]),
        (&["preflight", "linkerd", "-p", "x"], ["--incoming-proxy-port", "x", "1 to 65535"]),
        (&["preflight", "consul"], ["consul", "consul", ""]),
        (&[&ISTIO[..], &["--trust-upstream-fixes=maybe"]].concat(), ["--trust-upstream-fixes", "maybe", "true"]),
    ] {
        let outcome = pod.mesh_init(words).run().expect(2);
        assert_eq!((outcome.lines().len(), outcome.stdout.as_str()), (1, ""), "{outcome}");
        assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{outcome}");
    }
}

#[test]
fn a_blocker_is_in_the_termination_log() {
    require_root!();
    let pod = Namespace::pod(&[V4]);
    let devices = pod.folder().join("dev");
    fs::create_dir(&devices).unwrap();
    let log = devices.join("termination-log");
    for (privilege, code, begins) in [(Privilege::RootWithout, 4, "blocker  capability: "), (Privilege::NetAdmin, 0, "")] {
        fs::write(&log, "").unwrap();
        let _: Checks = checks(pod.mesh_init(&ISTIO).backend("auto").with(privilege).with_folder("/dev", &devices), code);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.starts_with(begins) && text.lines().count() == usize::from(code != 0), "{text:?}");
    }
}
