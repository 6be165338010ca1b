//! CAP_NET_ADMIN is enough, and without it one sentence says why: the ways that a pod gives or withholds it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Family, Namespace, Privilege, strace};

const APPLY: [&str; 6] = ["apply", "istio", "-b", "*", "-i", "*"];

const BACKENDS: [&str; 2] = ["legacy", "nftables"];

fn installed(pod: &Namespace) -> bool {
    !pod.legacy_save(Family::V4).rules("nat", "ISTIO_OUTPUT").is_empty() || pod.nft_ruleset().contains("chain ISTIO_OUTPUT {")
}

fn assert_nothing_made(pod: &Namespace) {
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    assert_eq!(pod.nft_ruleset(), "");
}

#[test]
fn net_admin_alone_is_enough() {
    require_root!();
    let cases = [Privilege::NetAdmin, Privilege::Ambient(65534)].into_iter().flat_map(|privilege| [(privilege, false), (privilege, true)]);
    for ((privilege, read_only), backend) in cases.flat_map(|case| BACKENDS.map(|backend| (case, backend))) {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        for args in [&APPLY[..], &["verify", "istio", "-b", "*", "-i", "*"], &["dump", "live"]] {
            let mut program = pod.mesh_init(args).backend(backend).with(privilege);
            if read_only {
                program = program.read_only();
            }
            program.run().expect(0);
        }
        assert!(installed(&pod));
        pod.mesh_init(&["remove"]).backend(backend).with(privilege).run().expect(0);
        assert!(!installed(&pod));
    }
}

#[test]
fn a_file_capability_is_raised() {
    require_root!();
    // Under the ban on new privileges too, as long as the runtime has left the capability in the permitted set.
    let privileges = [Privilege::FileCapability(65534), Privilege::Granted(65534)];
    for (privilege, backend) in privileges.into_iter().flat_map(|privilege| BACKENDS.map(|backend| (privilege, backend))) {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        let program = pod.mesh_init(&APPLY).backend(backend).with(privilege);
        program.give_file_capability();
        program.run().expect(0);
        assert!(installed(&pod));
    }
}

#[test]
fn the_reason_for_missing_privilege_is_told() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    for backend in ["legacy", "nftables", "auto"] {
        let mut reasons = Vec::new();
        for privilege in [Privilege::RootWithout, Privilege::None(65534), Privilege::Granted(65534)] {
            for args in [&APPLY[..], &["remove", "istio"]] {
                let outcome = pod.mesh_init(args).backend(backend).with(privilege).run().expect(10);
                let lines = outcome.lines();
                assert_eq!(lines.len(), 1, "{outcome}");
                assert!(lines[0].contains("NET_ADMIN"), "{outcome}");
                reasons.push(lines[0].clone());
            }
            assert_nothing_made(&pod);
        }
        assert_ne!(reasons[2], reasons[4], "not granted, and granted but not effective, have different remedies");
    }
}

#[test]
fn a_file_capability_that_no_new_privs_took_away_is_told() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let program = pod.mesh_init(&APPLY).with(Privilege::Stripped(65534));
    program.give_file_capability();
    let outcome = program.run().expect(10);
    assert!(outcome.text().contains("file capability"), "{outcome}");
}

#[test]
fn drop_ins_keep_their_exit_codes_without_privilege() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    pod.mesh_init(&["istio-iptables", "-b", "*"]).with(Privilege::RootWithout).run().expect(1);
    let linkerd = ["-p", "4143", "-o", "4140"];
    pod.mesh_init(&linkerd).called("linkerd2-proxy-init").with(Privilege::Granted(65534)).run().expect(1);
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
}

#[test]
fn every_drop_in_name_works() {
    require_root!();
    let istio = ["-b", "*", "-i", "*"];
    let linkerd = ["-p", "4143", "-o", "4140", "-u", "2102", "--ipv6=false"];
    let starts: [(&str, Vec<&str>, &str); 6] = [
        ("mesh-init", [&["istio-iptables"], &istio[..]].concat(), "ISTIO_OUTPUT"),
        ("pilot-agent", [&["istio-iptables"], &istio[..]].concat(), "ISTIO_OUTPUT"),
        ("istio-iptables", istio.to_vec(), "ISTIO_OUTPUT"),
        ("mesh-init", linkerd.to_vec(), "PROXY_INIT_OUTPUT"),
        ("linkerd2-proxy-init", linkerd.to_vec(), "PROXY_INIT_OUTPUT"),
        ("proxy-init", linkerd.to_vec(), "PROXY_INIT_OUTPUT"),
    ];
    for (name, args, chain) in starts {
        let pod = Namespace::pod(&["10.9.0.2/24"]);
        let outcome = pod.mesh_init(&args).called(name).run().expect(0);
        assert!(!pod.legacy_save(Family::V4).rules("nat", chain).is_empty(), "{outcome}");
    }
}

#[test]
fn another_namespace_is_entered_by_path() {
    require_root!();
    let (here, pod) = (Namespace::pod(&["10.8.0.2/24"]), Namespace::pod(&["10.9.0.2/24"]));
    let path = pod.path().display().to_string();
    let args = [&APPLY[..], &["--netns", &path]].concat();
    let outcome = here.mesh_init(&args).run();
    assert_ne!(outcome.code, 0, "{outcome}");
    assert!(outcome.text().contains("SYS_ADMIN"), "{outcome}");
    here.mesh_init(&args).with(Privilege::NetAdminAndSysAdmin).run().expect(0);
    assert!(installed(&pod));
    assert_eq!(here.legacy_tables(), Vec::<String>::new());
    let linkerd = ["-p", "4143", "-o", "4140", "--netns", &path];
    here.mesh_init(&linkerd).called("proxy-init").with(Privilege::NetAdminAndSysAdmin).run().expect(0);
    assert!(!pod.legacy_save(Family::V6).rules("nat", "PROXY_INIT_OUTPUT").is_empty());
}

#[test]
fn nothing_else_is_executed() {
    require_root!();
    if !strace::strace_or_skip() {
        return;
    }
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    let verbs = [&APPLY[..], &["apply", "istio", "--dual-stack", "-b", "80", "-i", "*", "-m", "TPROXY"], &["remove"]];
    for (args, backend) in verbs.into_iter().flat_map(|args| ["legacy", "auto"].map(|backend| (args, backend))) {
        let trace = ["-e", "trace=process,openat,open,creat,mkdir,unlink,rename"];
        let ended = strace::start(&pod, &pod.mesh_init(args).backend(backend), &trace).end();
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        // Everything up to the last program that was started is the harness.
        let own = ended.calls;
        let start = own.iter().rposition(|line| line.contains("execve(")).unwrap();
        assert!(own[start].contains("/mesh-init\""), "{}", own[start]);
        let bad: Vec<&String> = own[start + 1..]
            .iter()
            .filter(|line| {
                ["execve", "fork(", "clone", "creat(", "mkdir", "unlink", "rename", "O_CREAT"].iter().any(|call| line.contains(call))
            })
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}
