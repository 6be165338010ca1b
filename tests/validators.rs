//! The originals' validators, which run without any capability where a CNI plugin installs the rules: Linkerd's network
//! validator and Istio's `istio-validation` container.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use common::traffic::{Servers, at};
use common::world::{Out, World};
use common::{Family, Namespace, Outcome, Privilege};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The user that Linkerd's validator is run as.
const NOBODY: Privilege = Privilege::None(65534);
const BACKENDS: [&str; 2] = ["legacy", "nftables"];
/// As an injected pod has it.
const LINKERD: [&str; 6] = ["-p", "4143", "-o", "4140", "-u", "2102"];
/// Where the validator is told to connect to and to listen.
const ADDRESSES: [(&str, &str); 2] = [("1.1.1.1:20001", "0.0.0.0:4140"), ("[fd00::1]:20001", "[::]:4140")];

fn validate(pod: &Namespace, (connect, listen): (&str, &str), timeout: &str) -> Outcome {
    validate_as(pod, NOBODY, &["--connect-addr", connect, "--listen-addr", listen, "--timeout", timeout])
}

fn validate_as(pod: &Namespace, privilege: Privilege, args: &[&str]) -> Outcome {
    pod.mesh_init(args).called("linkerd2-network-validator").with(privilege).read_only().run()
}

fn install(world: &World, backend: &str) {
    world.mesh_init(backend, &[&["apply", "linkerd"], &LINKERD[..]].concat()).run().expect(0);
}

#[test]
fn linkerds_validator_passes_on_our_rules() {
    require_root!();
    for backend in BACKENDS {
        let world = World::new();
        install(&world, backend);
        for (connect, listen) in ADDRESSES {
            for _ in 0..3 {
                let outcome = validate(&world.pod, (connect, listen), "10s").expect(0);
                assert!(outcome.stdout.ends_with(" INFO linkerd_network_validator: Validated\n"), "{outcome}");
                assert_eq!(outcome.stderr, "", "{outcome}");
                // The proxy can have the port, and need not be willing to share it.
                world.pod.bind_at_once(listen.parse().unwrap());
            }
        }
        // What it is told by default suits IPv4.
        validate_as(&world.pod, NOBODY, &[]).expect(0);
        assert_eq!(world.out(), Out::NOTHING);
    }
}

#[test]
fn linkerds_validator_fails_without_rules_and_reaches_nobody() {
    require_root!();
    let world = World::new();
    let _servers = Servers::tcp(&world.beyond, &[20001]);
    for addresses in ADDRESSES {
        let outcome = validate(&world.pod, addresses, "5s").expect(95);
        assert!(outcome.text().contains(&format!("cannot connect to {}: EHOSTUNREACH", addresses.0)), "{outcome}");
    }
    let out = world.out();
    assert!(out.first_hop > 0 && out.further == 0, "{out:?}");
}

#[test]
fn linkerds_validator_wants_the_token_back() {
    require_root!();
    let world = World::new();
    // It answers as long as a token is, and is on the pod's own link.
    for (address, listen) in World::ROUTER.into_iter().zip(["0.0.0.0:4140", "[::]:4140"]) {
        let to = at(address, 20001);
        let server = world.router.inside(|| TcpListener::bind(to).unwrap());
        let thread = std::thread::spawn(move || server.accept().unwrap().0.write_all(&[b'a'; 64]).unwrap());
        let outcome = validate(&world.pod, (&to.to_string(), listen), "5s").expect(95);
        thread.join().unwrap();
        assert!(outcome.text().contains("what came back is not the token"), "{outcome}");
    }
}

#[test]
fn linkerds_validator_says_what_is_wrong() {
    require_root!();
    let failing = |world: &World, privilege, args: &[&str], expected: &str| {
        let outcome = validate_as(&world.pod, privilege, args).expect(95);
        assert!(outcome.text().contains(expected), "{outcome}");
    };
    let world = World::with(&[Family::V4]);
    install(&world, "nftables");
    // Redirected, and nobody there.
    failing(&world, NOBODY, &["--listen-addr", "0.0.0.0:4141"], "cannot connect to 192.0.2.2:1404: ECONNREFUSED");
    // The proxy's own connections are not redirected.
    failing(&world, Privilege::None(2102), &[], "cannot connect to 192.0.2.2:1404: EHOSTUNREACH");
    // The pod has no IPv6.
    failing(&world, NOBODY, &["--connect-addr", "[2001:db8::1]:1"], "cannot connect to [2001:db8::1]:1: ENETUNREACH");
    let _proxy = Servers::tcp(&world.pod, &[4140]);
    failing(&world, NOBODY, &[], "cannot listen on 0.0.0.0:4140: EADDRINUSE");
    let dropped = World::with(&[Family::V4]);
    dropped.pod.nft(
        "add table ip t; nft add chain ip t c '{ type filter hook postrouting priority 0; }'; nft add rule ip t c tcp dport 1404 drop",
    );
    failing(&dropped, NOBODY, &["--timeout", "200ms"], "192.0.2.2:1404");
}

#[test]
fn linkerds_validator_takes_its_own_flags_and_variables_alone() {
    require_root!();
    let pod = Namespace::new();
    for args in
        [&["--timeout", "120"][..], &["--listen-addr", "4140"], &["--proxy-uid", "1"], &["word"], &["--log-level", "loud"], &["--timeout"]]
    {
        let outcome = validate_as(&pod, NOBODY, args).expect(2);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
    for (args, said) in [("--help", "--connect-addr"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let outcome = validate_as(&pod, NOBODY, &[args]).expect(0);
        assert!(outcome.stdout.contains(said), "{outcome}");
    }
    let json = pod
        .mesh_init::<&str>(&[])
        .called("linkerd2-network-validator")
        .with(NOBODY)
        .env("LINKERD_NETWORK_VALIDATOR_LOG_FORMAT", "json")
        .env("LINKERD_NETWORK_VALIDATOR_LOG_LEVEL", "error")
        .run()
        .expect(95);
    let line: serde_json::Value = serde_json::from_str(json.stdout.trim_end()).unwrap();
    assert_eq!((&line["level"], &line["target"]), (&"ERROR".into(), &"linkerd_network_validator".into()));
    assert!(line["fields"]["message"].as_str().unwrap().contains("ENETUNREACH"), "{line}");
}

#[test]
fn linkerds_validator_ends_with_its_code_when_told_to_end() {
    require_root!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let world = World::with(&[Family::V4]);
        // Nothing answers, not even the first hop.
        world.router.ip(&["link set pod0 down"]);
        world.pod.ip(&["neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent"]);
        world.pod.ip(&["link add w0 type veth peer name w1", "addr add 10.7.0.2/24 dev w0", "link set w0 up", "link set w1 up"]);
        world.pod.ip(&["neigh add 10.7.0.1 lladdr 02:00:00:00:00:01 dev w0 nud permanent", "route replace default via 10.7.0.1"]);
        let mut command = world.pod.mesh_init(&["--timeout", "1h"]).called("linkerd2-network-validator").with(NOBODY).command();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("connecting to") {
            assert_ne!(std::io::BufRead::read_line(&mut output, &mut line).unwrap(), 0, "{line}");
        }
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(95), "{signal}");
    }
}

const PROXY: Privilege = Privilege::None(1337);
/// What istio-init and, in its place, `istio-validation` are told.
const ISTIO: [&str; 16] = [
    "istio-iptables",
    "-p",
    "15001",
    "-z",
    "15006",
    "-u",
    "1337",
    "-m",
    "REDIRECT",
    "-i",
    "*",
    "-x",
    "",
    "-b",
    "*",
    "--log_output_level=default:info",
];

fn installed(world: &World, backend: &str, flags: &[&str]) {
    world.mesh_init(backend, &[&ISTIO[..], flags].concat()).run().expect(0);
}

/// Runs `istio-validation` without any capability.
fn istio_validation(world: &World, privilege: Privilege, flags: &[&str], env: &[(&str, &str)]) -> Outcome {
    let words = [&ISTIO[..], &["--run-validation", "--skip-rule-apply"], flags].concat();
    let program = world.pod.mesh_init(&words).with(privilege).read_only();
    env.iter().fold(program, |program, (name, value)| program.env(name, value)).run()
}

#[track_caller]
fn assert_invalid(outcome: Outcome, words: &str) {
    let outcome = outcome.expect(126);
    for words in [words, "iptables validation failed; workload is not ready for Istio."] {
        assert!(outcome.text().contains(words), "{words:?} is missing: {outcome}");
    }
}

#[test]
fn istios_validation_passes_on_our_rules() {
    require_root!();
    const PASSED: &str = "Validation passed, iptables rules established";
    for backend in BACKENDS {
        for (families, here) in [(&[Family::V4][..], "127.0.0.1"), (&[Family::V6], "::1"), (&Family::BOTH, "127.0.0.1")] {
            let world = World::with(families);
            installed(&world, backend, &["--dual-stack"]);
            for _ in 0..2 {
                let outcome = istio_validation(&world, PROXY, &["--dual-stack"], &[]).expect(0);
                assert!(outcome.stdout.contains(PASSED), "{outcome}");
                for port in [15001, 15006] {
                    world.pod.bind_at_once(at(here, port));
                }
            }
            assert_eq!(world.out(), Out::NOTHING);
        }
        let world = World::with(&[Family::V4]);
        installed(&world, backend, &["-m", "TPROXY"]);
        istio_validation(&world, PROXY, &["-m", "TPROXY"], &[]).expect(0);
        // The user of a platform that gives each project its own.
        let project = ["-u", "1000629999"];
        installed(&world, backend, &project);
        istio_validation(&world, Privilege::None(1_000_629_999), &project, &[]).expect(0);
        // As a sidecar that runs already, which shares its port as Envoy does.
        installed(&world, backend, &[]);
        let _outbound = Servers::tcp(&world.pod, &[15001]);
        istio_validation(&world, PROXY, &[], &[]).expect(0);
    }
}

#[test]
fn istios_validation_fails_with_its_code() {
    require_root!();
    let quick = [("PROBE_TIMEOUT", "300ms")];
    for family in Family::BOTH {
        let world = World::with(&[family]);
        let refused = match family {
            Family::V4 => {
                "no connection to 127.0.0.6:15002 was redirected to the proxy's ports within 300ms (the last connection failed: ECONNREFUSED"
            }
            Family::V6 => "no connection to [::6]:15002 was redirected to the proxy's ports within 300ms (the last connection failed: ",
        };
        assert_invalid(istio_validation(&world, PROXY, &[], &quick), refused);
        installed(&world, "nftables", &["-z", "15009"]);
        assert_invalid(istio_validation(&world, PROXY, &[], &quick), "validation timeout");
        // Not by the rules of another port either.
        installed(&world, "nftables", &[]);
        istio_validation(&world, PROXY, &["--iptables-probe-port", "15777"], &[]).expect(0);
        istio_validation(&world, PROXY, &[], &[("IPTABLES_PROBE_PORT", "15778"), ("PROBE_TIMEOUT", "30s")]).expect(0);
        let _proxy = Servers::tcp(&world.pod, &[15001, 15006]);
        assert_invalid(istio_validation(&world, PROXY, &[], &[]), "no listener available: ");
        assert_eq!(world.out(), Out::NOTHING);
    }
    let world = World::with(&[Family::V4]);
    let timeout = istio_validation(&world, PROXY, &["--probe-timeout", "soon"], &[]).expect(255);
    assert!(timeout.text().contains("--probe-timeout: \"soon\" is not a time"), "{timeout}");
}

#[test]
fn the_variables_alone_ask_for_istios_validation() {
    require_root!();
    let world = World::with(&[Family::V4]);
    installed(&world, "legacy", &[]);
    let run = || {
        let program = world.pod.mesh_init(&ISTIO).with(PROXY).read_only();
        program.env("RUN_VALIDATION", "true").env("SKIP_RULE_APPLY", "true").env("PROBE_TIMEOUT", "400ms").run()
    };
    run().expect(0);
    world.pod.mesh_init(&["remove"]).run().expect(0);
    assert_invalid(run(), "within 400ms");
}

#[test]
fn another_user_than_the_proxys_validates_by_what_it_may_do() {
    require_root!();
    let quick = [("PROBE_TIMEOUT", "300ms")];
    let world = World::new();
    let both = ["--dual-stack"];
    installed(&world, "legacy", &both);
    // It may read the rules.
    let compared = istio_validation(&world, Privilege::NetAdmin, &both, &quick).expect(0);
    assert!(compared.text().contains("the kernel holds the planned rules"), "{compared}");
    // It may connect.
    let tried = istio_validation(&world, Privilege::None(1000), &both, &quick).expect(0);
    for words in ["probe: IPv4: a connection to ", "probe: IPv6: a connection to ", "connections of user 1000 arrive at the proxy's port"] {
        assert!(tried.text().contains(words), "{tried}");
    }
    assert_eq!(world.out(), Out::NOTHING);
    world.pod.mesh_init(&["remove"]).run().expect(0);
    assert_invalid(istio_validation(&world, Privilege::NetAdmin, &both, &quick), "the kernel does not hold the planned rules");
    assert_invalid(istio_validation(&world, Privilege::None(1000), &both, &quick), "the probe failed: IPv4: ");
    // Nothing is captured that it could try.
    installed(&world, "legacy", &["-i", ""]);
    assert_invalid(istio_validation(&world, Privilege::None(1000), &["-i", ""], &quick), "cannot validate: user 1000 is not the proxy's");
}
