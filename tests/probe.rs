//! `--probe` tells whether traffic really arrives at the proxy: it passes where it does, says why where it does not, and
//! nothing of it leaves the pod or stays in the proxy's way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::traffic::{ISTIO_PROXY, Servers, Who, at, listener};
use common::world::{Out, World};
use common::{Family, Outcome, Privilege};

const BACKENDS: [&str; 2] = ["legacy", "nftables"];
const ISTIO: [&str; 6] = ["istio", "--dual-stack", "-b", "*", "-i", "*"];
const LINKERD: [&str; 7] = ["linkerd", "-p", "4143", "-o", "4140", "-u", "2102"];
/// Where redirected connections arrive.
const HERE: [&str; 2] = ["127.0.0.1", "::1"];
const ANY: [&str; 2] = ["0.0.0.0", "::"];

fn run(world: &World, backend: &str, verb: &str, flags: &[&str], more: &[&str]) -> Outcome {
    world.mesh_init(backend, &[&[verb], flags, more].concat()).run()
}

fn apply(world: &World, backend: &str, flags: &[&str]) {
    run(world, backend, "apply", flags, &[]).expect(0);
}

#[track_caller]
fn verify(world: &World, backend: &str, flags: &[&str], code: i32) -> Outcome {
    run(world, backend, "verify", flags, &["--probe"]).expect(code)
}

#[track_caller]
fn assert_says(outcome: &Outcome, words: &[&str]) {
    for words in words {
        assert!(outcome.text().contains(words), "{words:?} is missing: {outcome}");
    }
}

#[test]
fn it_passes_where_the_rules_are_and_leaves_nothing_behind() {
    require_root!();
    for backend in BACKENDS {
        for (flags, port) in [(&ISTIO[..], 15001), (&LINKERD, 4140)] {
            let world = World::new();
            let words = ["192.0.2.1:15002", "[2001:db8::1]:15002"]
                .map(|to| format!("a connection to {to} arrived at port {port}, with its original destination"));
            let words = [words[0].as_str(), words[1].as_str()];
            assert_says(&run(&world, backend, "apply", flags, &["--probe"]).expect(0), &words);
            for _ in 0..3 {
                assert_says(&verify(&world, backend, flags, 0), &words);
                for any in ANY {
                    world.pod.bind_at_once(at(any, port));
                }
            }
            assert_eq!(world.out(), Out::NOTHING);
        }
    }
}

#[test]
fn without_rules_it_fails_and_reaches_nobody() {
    require_root!();
    let world = World::new();
    // Whoever is asked answers.
    let _servers = Servers::tcp(&world.beyond, &[15002]);
    let outcome = verify(&world, "legacy", &ISTIO, 3);
    assert_says(
        &outcome,
        &[
            "probe: failed: IPv4: what was sent to 192.0.2.1:15002 did not arrive at 127.0.0.1:15001: EHOSTUNREACH",
            "probe: failed: IPv6: what was sent to [2001:db8::1]:15002 did not arrive at [::1]:15001: EHOSTUNREACH",
            "it left the pod for the first hop: no rule caught it",
        ],
    );
    let out = world.out();
    assert!(out.first_hop > 0 && out.further == 0, "{out:?}");
}

#[test]
fn rules_that_send_it_elsewhere_are_found_out() {
    require_root!();
    for backend in BACKENDS {
        let world = World::new();
        apply(&world, backend, &[&ISTIO[..], &["-p", "15009"]].concat());
        let refused = verify(&world, backend, &ISTIO, 3);
        assert_says(&refused, &["192.0.2.1:15002 did not arrive at 127.0.0.1:15001: ECONNREFUSED", "nobody listens where it came out"]);
        let _other = Servers::tcp(&world.pod, &[15009]);
        let astray = verify(&world, backend, &ISTIO, 3);
        assert_says(
            &astray,
            &[
                "a connection to 192.0.2.1:15002 arrived at port 15009 instead of 127.0.0.1:15001",
                "a connection to [2001:db8::1]:15002 arrived at port 15009 instead of [::1]:15001",
            ],
        );
        assert_eq!(world.out(), Out::NOTHING);
    }
}

#[test]
fn dropped_packets_are_told_from_slow_ones_by_the_time_alone() {
    require_root!();
    let world = World::with(&[Family::V4]);
    let flags = [&ISTIO[..], &["--redirect-dns", "--capture-all-dns"]].concat();
    apply(&world, "legacy", &flags);
    world.pod.nft_load("table ip t {\nchain c {\ntype filter hook input priority 0;\ntcp dport 15001 drop\n}\n}");
    let outcome = run(&world, "legacy", "verify", &flags, &["--probe", "--probe-timeout", "300ms"]);
    assert_ne!(outcome.code, 0, "{outcome}");
    assert_says(&outcome, &["nothing sent to 192.0.2.1:15002 arrived at 127.0.0.1:15001 within 300ms", "allow more with --probe-timeout"]);
    world.pod.nft_load("flush ruleset\ntable ip t {\nchain c {\ntype filter hook output priority 0;\nudp dport 15053 drop\n}\n}");
    let outcome = run(&world, "legacy", "verify", &flags, &["--probe"]);
    assert_says(
        &outcome,
        &["what was sent to 192.0.2.1:53 did not arrive at 127.0.0.1:15053: EPERM", "a rule of the packet filter drops or rejects it"],
    );
}

#[test]
fn a_proxy_that_listens_is_tried_without_its_knowing() {
    require_root!();
    for backend in BACKENDS {
        for everywhere in [ANY, HERE] {
            let world = World::new();
            apply(&world, backend, &ISTIO);
            let (uid, gid) = ISTIO_PROXY;
            let proxies = everywhere.map(|address| world.pod.inside_as(uid, gid, || listener(at(address, 15001), false)));
            let outcome = verify(&world, backend, &ISTIO, 0);
            let words = ["192.0.2.1:15002", "[2001:db8::1]:15002"]
                .map(|to| format!("a connection to {to} arrived at port 15001, where user 1337 listens already"));
            assert_says(&outcome, &[&words[0], &words[1]]);
            for proxy in &proxies {
                assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            }
            assert_eq!(world.out(), Out::NOTHING);
        }
    }
}

#[test]
fn a_proxy_that_listens_without_rules_gets_nothing() {
    require_root!();
    let world = World::with(&[Family::V4]);
    let (uid, gid) = ISTIO_PROXY;
    let proxy = world.pod.inside_as(uid, gid, || listener(at(ANY[0], 15001), false));
    let outcome = run(&world, "legacy", "verify", &ISTIO, &["--probe", "--probe-timeout", "200ms"]).expect(3);
    assert_says(&outcome, &["probe: failed: IPv4: "]);
    assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    apply(&world, "legacy", &[&ISTIO[..], &["-p", "15009"]].concat());
    let outcome = run(&world, "legacy", "verify", &ISTIO, &["--probe", "--probe-timeout", "200ms"]).expect(3);
    assert_says(&outcome, &["what was sent to 192.0.2.1:15002 did not arrive at 127.0.0.1:15001: ECONNREFUSED"]);
    assert_eq!(world.out().further, 0);
}

#[test]
fn one_listener_for_both_families_is_enough() {
    require_root!();
    let world = World::new();
    apply(&world, "legacy", &ISTIO);
    let (uid, gid) = ISTIO_PROXY;
    let _proxy = world.pod.inside_as(uid, gid, || std::net::TcpListener::bind("[::]:15001").unwrap());
    let outcome = verify(&world, "legacy", &ISTIO, 0);
    assert_eq!(outcome.stdout.matches("where user 1337 listens already").count(), 2, "{outcome}");
}

/// A pod with Istio's rules for IPv4.
fn istio_pod() -> World {
    let world = World::with(&[Family::V4]);
    apply(&world, "legacy", &ISTIO);
    world
}

#[test]
fn a_port_that_somebody_else_has_is_named() {
    require_root!();
    let world = istio_pod();
    let _other = world.pod.inside(|| listener(at(ANY[0], 15001), false));
    let outcome = verify(&world, "legacy", &ISTIO, 1);
    assert_says(&outcome, &["arrived at port 15001, but user 0 listens there, who is not the proxy's"]);
    // With TPROXY the proxy is root, and known by its group.
    let tproxy = [&ISTIO[..], &["-m", "TPROXY"]].concat();
    apply(&world, "legacy", &tproxy);
    assert_says(&verify(&world, "legacy", &tproxy, 0), &["arrived at port 15001, where user 0 listens already"]);
}

#[test]
fn a_port_that_is_bound_and_not_listened_on_is_named() {
    require_root!();
    let world = istio_pod();
    let _held = world.pod.inside(|| {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(at(HERE[0], 15001))).unwrap();
        fd
    });
    assert_says(&verify(&world, "legacy", &ISTIO, 1), &["127.0.0.1:15001 is taken by a program that does not listen there"]);
}

#[test]
fn a_proxy_that_does_not_listen_on_loopback_is_named() {
    require_root!();
    let world = istio_pod();
    let (uid, gid) = ISTIO_PROXY;
    let _deaf = world.pod.inside_as(uid, gid, || listener(at(World::POD[0], 15001), false));
    let words = ["user 1337 that listens on 10.9.0.2:15001", "let it listen on loopback too"];
    assert_says(&verify(&world, "legacy", &ISTIO, 3), &words);
    assert_says(&run(&world, "legacy", "apply", &ISTIO, &["--probe"]).expect(1), &words);
}

#[test]
fn without_a_route_it_says_so() {
    require_root!();
    let world = World::new();
    apply(&world, "nftables", &ISTIO);
    world.pod.ip(&["route del ::/0"]);
    let one = verify(&world, "nftables", &ISTIO, 0);
    assert_says(&one, &["probe: IPv4: a connection", "probe: not tried: IPv6: there is no route to [2001:db8::1]:15002 (ENETUNREACH"]);
    world.pod.ip(&["route del default"]);
    let none = verify(&world, "nftables", &ISTIO, 1);
    assert_says(&none, &["there is no route to 192.0.2.1:15002", "give the pod a default route"]);
    assert_eq!(world.out(), Out::NOTHING);
}

#[test]
fn a_pod_with_one_family_is_tried_in_that() {
    require_root!();
    for backend in BACKENDS {
        let six = World::with(&[Family::V6]);
        apply(&six, backend, &ISTIO);
        let outcome = verify(&six, backend, &ISTIO, 0);
        assert_says(&outcome, &["probe: IPv6: a connection to [2001:db8::1]:15002 arrived"]);
        six.pod.mesh_init(&["remove"]).run().expect(0);
        apply(&six, backend, &LINKERD);
        let outcome = verify(&six, backend, &LINKERD, 0);
        assert_says(&outcome, &["probe: not tried: IPv4: there is no route", "probe: IPv6: a connection to [2001:db8::1]:15002 arrived"]);
        let four = World::with(&[Family::V4]);
        apply(&four, backend, &LINKERD);
        let outcome = verify(&four, backend, &LINKERD, 0);
        assert_says(&outcome, &["probe: IPv4: a connection to 192.0.2.1:15002 arrived", "probe: not tried: IPv6: there is no route"]);
    }
}

/// Answers as a resolver does to what it does not understand, until it is dropped.
struct Resolver {
    stop: std::sync::Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Resolver {
    fn new(world: &World, (uid, gid): Who, answers: bool) -> Resolver {
        let stop = std::sync::Arc::<AtomicBool>::default();
        let threads = HERE.map(|here| {
            let socket = world.pod.inside_as(uid, gid, || UdpSocket::bind(at(here, 15053)).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut query = [0; 512];
                while !stop.load(Ordering::Relaxed) {
                    if let (Ok((length, from)), true) = (socket.recv_from(&mut query), answers) {
                        // No question at all: a format error.
                        assert_eq!((length, &query[2..12]), (12, &[0; 10][..]));
                        (query[2], query[3]) = (0x80, 1);
                        socket.send_to(&query[..length], from).unwrap();
                    }
                }
            })
        });
        Resolver { stop, threads: threads.into() }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.threads.drain(..).map(std::thread::JoinHandle::join);
        assert!(ends.filter(Result::is_err).count() == 0 || std::thread::panicking());
    }
}

#[test]
fn dns_queries_are_tried_where_they_are_captured() {
    require_root!();
    const SERVERS: [&str; 2] = ["10.96.0.10:53", "[fd00::10]:53"];
    let flags = [&ISTIO[..], &["--redirect-dns", "--dns-server", "10.96.0.10,fd00::10"]].concat();
    for backend in BACKENDS {
        let world = World::new();
        apply(&world, backend, &flags);
        let outcome = verify(&world, backend, &flags, 0);
        for server in SERVERS {
            assert_says(&outcome, &[&format!("a DNS query to {server} arrived at port 15053; only the proxy's user could answer it")]);
        }
        let outcome =
            world.mesh_init(backend, &[&["verify"], &flags[..], &["--probe"]].concat()).with(Privilege::NetAdminAndSetuid).run().expect(0);
        for server in SERVERS {
            assert_says(&outcome, &[&format!("a DNS query to {server} arrived at port 15053, and its answer came back from {server}")]);
        }
        {
            let _agent = Resolver::new(&world, ISTIO_PROXY, true);
            let outcome = verify(&world, backend, &flags, 0);
            assert_says(
                &outcome,
                &[
                    "a DNS query to 10.96.0.10:53 was answered from there by the resolver that listens on port 15053",
                    "probe: not tried: IPv6: should the rules fail, a query to [fd00::10]:53 could reach a real resolver",
                ],
            );
            let nobodys = [&ISTIO[..], &["--redirect-dns", "--capture-all-dns"]].concat();
            apply(&world, backend, &nobodys);
            let outcome = verify(&world, backend, &nobodys, 0);
            for server in ["192.0.2.1:53", "[2001:db8::1]:53"] {
                assert_says(&outcome, &[&format!("a DNS query to {server} was answered from there")]);
            }
            apply(&world, backend, &flags);
        }
        assert_eq!(world.out(), Out::NOTHING);
    }
}

#[test]
fn dns_queries_that_get_nowhere_are_failures() {
    require_root!();
    let flags = [&ISTIO[..], &["--redirect-dns", "--capture-all-dns"]].concat();
    let world = World::with(&[Family::V4]);
    apply(&world, "legacy", &flags);
    let quick = [&flags[..], &["--probe-timeout", "300ms"]].concat();
    {
        let _mute = Resolver::new(&world, ISTIO_PROXY, false);
        assert_says(
            &verify(&world, "legacy", &quick, 1),
            &["the program that holds 127.0.0.1:15053 did not answer a query to 192.0.2.1:53"],
        );
    }
    // An answer that is not translated back: its sender's zone is another.
    world.pod.legacy_restore(Family::V4, "*raw\n:ISTIO_OUTPUT_DNS -\nCOMMIT\n");
    let outcome = world.mesh_init("legacy", &[&["verify"], &quick[..], &["--probe"]].concat()).with(Privilege::NetAdminAndSetuid).run();
    outcome.expect(3);
    let outcome = verify(&World::with(&[Family::V4]), "legacy", &quick, 3);
    assert_says(&outcome, &["what was sent to 192.0.2.1:53 did not arrive at 127.0.0.1:15053: EHOSTUNREACH"]);
}

#[test]
fn the_proxys_user_goes_through_the_passthrough_address() {
    require_root!();
    for backend in BACKENDS {
        let world = World::new();
        apply(&world, backend, &ISTIO);
        let outcome =
            world.mesh_init(backend, &[&["verify"], &ISTIO[..], &["--probe"]].concat()).with(Privilege::Ambient(1337)).run().expect(0);
        assert_says(
            &outcome,
            &[
                "connections of user 1337 and group 1337 are exempt from the capture",
                "a connection to 127.0.0.6:15002 arrived at port 15006, with its original destination",
                "a connection to [::6]:15002 arrived at port 15006, with its original destination",
            ],
        );
        assert_eq!(world.out(), Out::NOTHING);
        let linkerd =
            world.mesh_init(backend, &[&["apply"], &LINKERD[..], &["--probe"]].concat()).with(Privilege::Ambient(2102)).run().expect(0);
        assert_says(&linkerd, &["probe: not tried: IPv4: connections of user 2102 and group 2102 are exempt"]);
    }
}

#[test]
fn an_applications_user_is_as_good_as_root() {
    require_root!();
    let world = World::new();
    apply(&world, "nftables", &ISTIO);
    let words = [&["verify"], &ISTIO[..], &["--probe"]].concat();
    for privilege in [Privilege::Ambient(1000), Privilege::None(1000), Privilege::RootWithout] {
        let outcome = world.mesh_init("nftables", &words).with(privilege).read_only().run().expect(0);
        assert_says(&outcome, &["a connection to 192.0.2.1:15002 arrived at port 15001"]);
        let compares = matches!(privilege, Privilege::Ambient(_));
        assert_eq!(outcome.text().contains("the rules are not compared with the plan: CAP_NET_ADMIN is missing"), !compares, "{outcome}");
    }
    world.mesh_init("nftables", &["remove"]).run().expect(0);
    let outcome = world.mesh_init("nftables", &words).with(Privilege::None(1000)).run().expect(1);
    assert_says(&outcome, &["the probe failed: IPv4: what was sent to 192.0.2.1:15002 did not arrive"]);
}

#[test]
fn destinations_follow_from_the_plan() {
    require_root!();
    let world = World::with(&[Family::V4]);
    for (flags, words) in [
        (&["-i", ""][..], "nothing to try: no destination beyond the pod's own link was found that the plan captures"),
        (&["-i", "10.96.0.0/12"], "a connection to 10.96.0.1:15002 arrived"),
        // Neighbours could be reached.
        (&["-i", "10.9.0.0/16"], "a connection to 10.9.255.254:15002 arrived"),
        (&["-i", "10.9.0.1/32"], "nothing to try"),
        (&["-i", "*", "-o", "15002", "-x", "192.0.2.0/24"], "a connection to 198.51.100.1:20001 arrived"),
        (&["-q", "9000"], "a connection to 192.0.2.1:9000 arrived"),
        (&["-i", "*", "-c", "eth0"], "nothing to try"),
        (&["-i", "*", "-c", "eth1"], "a connection to 192.0.2.1:15002 arrived"),
        (&["-i", "*", "-m", "TPROXY"], "a connection to 192.0.2.1:15002 arrived"),
        (&["-i", "*", "--connect-addr", "10.8.0.1:81"], "a connection to 10.8.0.1:81 arrived"),
    ] {
        let outcome = run(&world, "nftables", "apply", &["istio", "-b", "*"], &[flags, &["--probe"]].concat()).expect(0);
        assert_says(&outcome, &[words]);
    }
    let excluded = ["-i", "*", "-x", "10.9.0.0/24", "--probe", "--connect-addr", "10.9.0.1:81"];
    let outcome = run(&world, "nftables", "apply", &["istio"], &excluded).expect(1);
    assert_says(&outcome, &["the plan does not redirect connections of user 0 to 10.9.0.1:81: delivered as is"]);
    assert_eq!(world.out(), Out::NOTHING);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    require_root!();
    let world = World::with(&[Family::V4]);
    for (flags, words) in [
        (&["--probe", "--connect-addr", "10.0.0.1"][..], "--connect-addr: \"10.0.0.1\" is not an address and a port"),
        (&["--connect-addr", "10.0.0.1:1"], "--connect-addr: nothing is connected to without --probe"),
        (&["--probe", "--probe-timeout", "5"], "--probe-timeout: \"5\" is not a time"),
        (&["--probe=perhaps"], "--probe: \"perhaps\" is neither true nor false"),
        (&["--probe", "--dry-run"], "--probe: with --dry-run no rules are installed"),
        (&["--probe", "--cleanup-only"], "--probe: with --cleanup-only no rules are installed"),
    ] {
        let outcome = run(&world, "legacy", "apply", &ISTIO, flags).expect(2);
        assert_says(&outcome, &[words]);
    }
    let outcome = run(&world, "legacy", "apply", &LINKERD, &["--probe", "--simulate"]).expect(2);
    assert_says(&outcome, &["--probe: with --simulate no rules are installed"]);
    // Nothing was changed.
    assert_eq!(world.pod.legacy_tables(), Vec::<String>::new());
    // Only where there is something to try.
    run(&world, "legacy", "dump", &ISTIO, &["--probe"]).expect(2);
    world.mesh_init("legacy", &["istio-iptables", "--probe"]).run().expect(255);
}

#[test]
fn the_report_has_what_was_tried() {
    require_root!();
    let world = World::new();
    let outcome = run(&world, "nftables", "apply", &ISTIO, &["--probe", "--report", "-"]).expect(0);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let tried = |report: &serde_json::Value| -> Vec<(String, String)> {
        let checks = report["checks"].as_array().unwrap().iter();
        let tried = checks.filter(|check| check["name"].as_str().unwrap().starts_with("probe-"));
        tried.map(|check| (check["name"].as_str().unwrap().to_owned(), check["verdict"].as_str().unwrap().to_owned())).collect()
    };
    let all = |verdict: &str| ["probe-ipv4", "probe-ipv6"].map(|name| (name.to_owned(), verdict.to_owned()));
    assert_eq!(tried(&report), all("ok"));
    let _other = ANY.map(|any| world.pod.inside(|| listener(at(any, 15001), false)));
    let outcome = run(&world, "nftables", "verify", &ISTIO, &["--probe", "--report", "-"]).expect(1);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(tried(&report), all("blocker"));
    assert_eq!(report["outcome"], "failed");
    assert!(report["error"].as_str().unwrap().starts_with("the probe failed: IPv4: a connection to 192.0.2.1:15002"), "{report}");
}

#[test]
fn rules_stay_when_the_probe_fails_after_an_installation() {
    require_root!();
    let world = World::with(&[Family::V4]);
    let _other: Vec<_> = [15001].map(|port| world.pod.inside(|| listener(at(ANY[0], port), false))).into();
    run(&world, "legacy", "apply", &ISTIO, &["--probe"]).expect(1);
    run(&world, "legacy", "verify", &ISTIO, &[]).expect(0);
}

#[test]
fn applications_of_one_pod_do_not_disturb_it() {
    require_root!();
    let world = World::with(&[Family::V4]);
    apply(&world, "nftables", &ISTIO);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let to: SocketAddr = at("198.51.100.1", 80);
            while !done.load(Ordering::Relaxed) {
                let _ = world.pod.connect(common::traffic::APP, to);
            }
        });
        let outcomes: Vec<Outcome> = (0..10).map(|_| run(&world, "nftables", "verify", &ISTIO, &["--probe"])).collect();
        done.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            outcome.expect(0);
        }
    });
}

#[test]
fn on_a_kernel_that_would_hang_the_original_destination_is_not_asked_for() {
    require_root!();
    if !common::strace::strace_or_skip() {
        return;
    }
    let world = World::with(&[Family::V4]);
    apply(&world, "legacy", &ISTIO);
    for (release, more, code, asks) in [
        ("4.14.22-coreos-r1", &[][..], 15, false),
        ("4.14.40", &[], 15, false),
        ("4.14.40", &["--trust-upstream-fixes"], 0, true),
        ("4.14.41", &[], 0, true),
    ] {
        let words = [&["verify"], &ISTIO[..], &["--probe"], more].concat();
        let program = world.mesh_init("legacy", &words).with_file("/proc/sys/kernel/osrelease", &format!("{release}\n"));
        let log = world.pod.folder().join("calls");
        let output = common::strace::command(&program, &log, &["-e", "trace=getsockopt"]).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{release}: {said}");
        let calls = std::fs::read_to_string(log).unwrap();
        // Option 80 of IP; the packet filter's own are 64 to 67.
        let asked =
            calls.lines().any(|call| call.contains("getsockopt(") && (call.contains("SO_ORIGINAL_DST") || call.contains(", 0x50 ")));
        assert_eq!(asked, asks, "{release}: {calls}");
        let words = if asks { "with its original destination" } else { "its original destination was not asked for" };
        assert!(said.contains(words), "{release}: {said}");
    }
}

#[test]
fn another_namespaces_pod_is_tried_there() {
    require_root!();
    let world = World::new();
    let path = world.pod.path().display().to_string();
    let flags = [&ISTIO[..], &["--redirect-dns", "--capture-all-dns", "--netns", &path, "--probe"]].concat();
    let outcome = world
        .beyond
        .mesh_init(&[&["apply"], &flags[..]].concat())
        .env("MESH_INIT_BACKEND", "nftables")
        .with(Privilege::NetAdminAndSysAdmin)
        .run()
        .expect(0);
    for words in
        ["a connection to 192.0.2.1:15002 arrived", "a DNS query to 192.0.2.1:53 arrived", "a DNS query to [2001:db8::1]:53 arrived"]
    {
        assert_says(&outcome, &[words]);
    }
    assert_eq!(world.out(), Out::NOTHING);
}

#[test]
fn an_address_written_as_ipv6_is_what_it_is() {
    require_root!();
    let world = World::with(&[Family::V4]);
    let _servers = Servers::tcp(&world.beyond, &[80]);
    let flags = ["--probe", "--connect-addr", "[::ffff:198.51.100.1]:80"];
    let outcome = run(&world, "legacy", "verify", &ISTIO, &flags).expect(3);
    assert_says(&outcome, &["what was sent to 198.51.100.1:80 did not arrive at 127.0.0.1:15001"]);
    assert_eq!(world.out().further, 0);
    run(&world, "legacy", "apply", &ISTIO, &flags).expect(0);
}

#[test]
fn variables_ask_for_it_too() {
    require_root!();
    let world = World::with(&[Family::V4]);
    let apply = |env: &[(&str, &str)]| {
        let program = world.mesh_init("legacy", &[&["apply"], &ISTIO[..]].concat());
        env.iter().fold(program, |program, (name, value)| program.env(name, value)).run().expect(0)
    };
    let to = ("MESH_INIT_CONNECT_ADDR", "198.51.100.7:7");
    let outcome = apply(&[("MESH_INIT_PROBE", "true"), to, ("MESH_INIT_PROBE_TIMEOUT", "")]);
    assert_says(&outcome, &["probe: IPv4: a connection to 198.51.100.7:7 arrived at port 15001"]);
    // Nothing is asked for.
    for env in [&[to][..], &[("MESH_INIT_PROBE", ""), to], &[("MESH_INIT_PROBE_TIMEOUT", "soon")]] {
        assert!(!apply(env).text().contains("probe"));
    }
}

/// Everybody's UDP port 53 in the router, at these addresses besides its own.
fn resolvers(world: &World, addresses: &[&str]) -> Vec<UdpSocket> {
    let add: Vec<String> = addresses.iter().map(|address| format!("addr add {address} dev lo")).collect();
    world.router.ip(&add.iter().map(String::as_str).collect::<Vec<_>>());
    let sockets = world.router.inside(|| ANY.map(|any| UdpSocket::bind(at(any, 53)).or_else(|_| UdpSocket::bind(at("::1", 53))).unwrap()));
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    sockets.into()
}

#[test]
fn no_program_of_the_first_hop_hears_of_a_query() {
    require_root!();
    let flags = [&ISTIO[..], &["--redirect-dns", "--probe-timeout", "300ms"]].concat();
    // A node's own resolver, the service's address on the node, the gateway itself.
    for servers in ["169.254.20.10,fd00::10", "10.96.0.10,fd00::10", "10.9.0.1,2001:db8:9::1"] {
        let world = World::new();
        let sockets = resolvers(&world, &["169.254.20.10/32", "10.96.0.10/32", "fd00::10/128"]);
        let flags = [&flags[..], &["--dns-server", servers]].concat();
        let outcome = verify(&world, "legacy", &flags, 3);
        for socket in &sockets {
            assert_eq!(socket.recv_from(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{servers}");
        }
        assert_says(&outcome, &["probe: failed: IPv4: nothing sent to ", "probe: failed: IPv6: nothing sent to "]);
        // It tells no less where the rules are.
        for backend in BACKENDS {
            apply(&world, backend, &flags);
            let program = world.mesh_init(backend, &[&["verify"], &flags[..], &["--probe"]].concat());
            let outcome = program.with(Privilege::NetAdminAndSetuid).run().expect(0);
            assert_eq!(outcome.stdout.matches(", and its answer came back from ").count(), 2, "{outcome}");
            world.pod.mesh_init(&["remove"]).run().expect(0);
        }
    }
}

#[test]
fn a_query_that_cannot_be_kept_in_the_pod_is_not_sent() {
    require_root!();
    let world = World::with(&[Family::V4]);
    let flags = [&ISTIO[..], &["--redirect-dns", "--dns-server", "10.96.0.10", "-c", "lo"]].concat();
    let outcome = run(&world, "nftables", "apply", &flags, &["--probe"]).expect(0);
    assert_says(&outcome, &["probe: not tried: IPv4: should the rules fail, a query to 10.96.0.10:53 could reach a real resolver"]);
    assert_eq!(world.out(), Out::NOTHING);
}

#[test]
fn no_program_of_the_first_hop_hears_of_a_connection() {
    require_root!();
    let world = World::new();
    world.router.ip(&["addr add 10.96.0.1/32 dev lo", "addr add fd00::10/128 dev lo"]);
    world.pod.ip(&["route add 172.16.0.0/12 dev eth0"]);
    let servers = ANY.map(|any| world.router.inside(|| listener(at(any, 8080), false)));
    for (to, said) in [
        ("10.9.0.1:8080", "10.9.0.1:8080 is on the pod's own link"),
        ("[2001:db8:9::1]:8080", "[2001:db8:9::1]:8080 is on the pod's own link"),
        ("169.254.20.10:8080", "169.254.20.10:8080 is on the pod's own link"),
        ("172.16.0.1:8080", "172.16.0.1:8080 is on the pod's own link"),
        // These cannot be known for the router's.
        ("10.96.0.1:8080", "nothing sent to 10.96.0.1:8080 arrived"),
        ("[fd00::10]:8080", "nothing sent to [fd00::10]:8080 arrived"),
    ] {
        let more = ["--probe", "--connect-addr", to, "--probe-timeout", "300ms"];
        let outcome = run(&world, "legacy", "verify", &ISTIO, &more).expect(3);
        for server in &servers {
            assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{to}");
        }
        assert_says(&outcome, &[said]);
    }
}

#[test]
fn two_at_once_wait_for_each_other() {
    require_root!();
    let world = World::new();
    apply(&world, "nftables", &ISTIO);
    std::thread::scope(|scope| {
        let probes: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..5).for_each(|_| drop(verify(&world, "nftables", &ISTIO, 0))))).collect();
        for probe in probes {
            probe.join().unwrap();
        }
    });
}
