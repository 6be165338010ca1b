//! The originals' validators, which run without any capability where a CNI plugin installs the rules: Linkerd's network
//! validator and Istio's `istio-validation` container.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
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
                bind_at_once(&world.pod, listen.parse().unwrap());
            }
        }
        // What it is told by default suits IPv4.
        validate_as(&world.pod, NOBODY, &[]).expect(0);
        assert_eq!(world.out(), Out::NOTHING);
    }
}

/// Binds without SO_REUSEADDR, which would overlook a connection in TIME_WAIT.
#[track_caller]
fn bind_at_once(pod: &Namespace, address: SocketAddr) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    pod.inside(|| {
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address)).unwrap();
    });
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
