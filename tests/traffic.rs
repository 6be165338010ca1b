//! Traffic goes where it should: real connections between two network namespaces, over IPv4 and IPv6.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;

use common::Namespace;
use common::namespace::Network;
use common::traffic::{APP, ISTIO_PROXY, LINKERD_PROXY, Seen, Servers, Who, at};

/// The ports of Istio's proxy, an application, and ports that the tests exclude.
const POD_PORTS: [u16; 8] = [15001, 15006, 15008, 15020, 8080, 8081, 4140, 4143];
const OUTSIDE_PORTS: [u16; 5] = [80, 81, 22, 6005, 53];

/// A pod with a mesh's rules and everybody at home.
struct Scene {
    network: Network,
    _servers: Vec<Servers>,
}

impl Scene {
    fn new(apply: &[&str]) -> Scene {
        let network = Network::new();
        network.pod.mesh_init(&[&["apply"], apply].concat()).run().expect(0);
        let servers = vec![Servers::tcp(&network.pod, &POD_PORTS), Servers::tcp(&network.outside, &OUTSIDE_PORTS)];
        Scene { network, _servers: servers }
    }

    fn istio(flags: &[&str]) -> Scene {
        Scene::new(&[&["istio", "--dual-stack", "-b", "*", "-i", "*"], flags].concat())
    }

    fn linkerd(flags: &[&str]) -> Scene {
        Scene::new(&[&["linkerd", "-p", "4143", "-o", "4140", "-u", "2102"], flags].concat())
    }

    /// From the pod to anywhere.
    #[track_caller]
    fn outbound(&self, who: Who, to: SocketAddr) -> Seen {
        connect(&self.network.pod, who, to)
    }

    /// From the neighbour to the pod.
    #[track_caller]
    fn inbound(&self, to: SocketAddr) -> Seen {
        connect(&self.network.outside, (0, 0), to)
    }
}

#[track_caller]
fn connect(from: &Namespace, who: Who, to: SocketAddr) -> Seen {
    from.connect(who, to).unwrap_or_else(|error| panic!("no answer from {to} to {who:?}: {error:?}"))
}

/// The filter sent the connection to `port` instead.
#[track_caller]
fn assert_caught(seen: &Seen, port: u16, wanted: SocketAddr) {
    assert_eq!((seen.port, seen.original), (port, Some(wanted)), "{seen:?}");
}

/// The connection went where it was meant to.
#[track_caller]
fn assert_passed(seen: &Seen, wanted: SocketAddr) {
    assert_eq!((seen.port, seen.local, seen.original), (wanted.port(), wanted, None), "{seen:?}");
}

#[test]
fn without_rules_nothing_is_caught() {
    require_root!();
    let network = Network::new();
    let _servers = [Servers::tcp(&network.pod, &POD_PORTS), Servers::tcp(&network.outside, &OUTSIDE_PORTS)];
    for (far, pod) in Network::FAR.into_iter().zip(Network::POD) {
        assert_passed(&connect(&network.pod, APP, at(far, 80)), at(far, 80));
        assert_passed(&connect(&network.outside, APP, at(pod, 8080)), at(pod, 8080));
    }
}

#[test]
fn an_application_reaches_its_proxy_instead_of_the_outside() {
    require_root!();
    let scene = Scene::istio(&[]);
    for to in Network::FAR.into_iter().chain(Network::NEIGHBOUR) {
        assert_caught(&scene.outbound(APP, at(to, 80)), 15001, at(to, 80));
        assert_caught(&scene.outbound((0, 0), at(to, 81)), 15001, at(to, 81));
    }
}

#[test]
fn the_outside_reaches_the_proxy_instead_of_the_application() {
    require_root!();
    let scene = Scene::istio(&["-d", "15020,8081"]);
    for pod in Network::POD {
        assert_caught(&scene.inbound(at(pod, 8080)), 15006, at(pod, 8080));
        for excluded in [15020, 8081, 15008] {
            assert_passed(&scene.inbound(at(pod, excluded)), at(pod, excluded));
        }
    }
}

#[test]
fn listed_inbound_ports_and_ranges_alone_are_caught() {
    require_root!();
    let scene = Scene::new(&["istio", "--dual-stack", "-b", "8079:8080"]);
    for pod in Network::POD {
        assert_caught(&scene.inbound(at(pod, 8080)), 15006, at(pod, 8080));
        assert_passed(&scene.inbound(at(pod, 8081)), at(pod, 8081));
    }
}

#[test]
fn the_proxys_own_connections_pass() {
    require_root!();
    let scene = Scene::istio(&[]);
    for far in Network::FAR {
        for who in [ISTIO_PROXY, (1337, 5000), (5000, 1337)] {
            assert_passed(&scene.outbound(who, at(far, 80)), at(far, 80));
        }
    }
}

#[test]
fn loopback_passes_and_the_proxys_call_to_its_own_pod_comes_in() {
    require_root!();
    let scene = Scene::istio(&[]);
    for (pod, loopback) in Network::POD.into_iter().zip(["127.0.0.1", "::1"]) {
        assert_passed(&scene.outbound(APP, at(loopback, 8080)), at(loopback, 8080));
        assert_passed(&scene.outbound(APP, at(pod, 8080)), at(pod, 8080));
        assert_passed(&scene.outbound(ISTIO_PROXY, at(loopback, 8080)), at(loopback, 8080));
        assert_caught(&scene.outbound(ISTIO_PROXY, at(pod, 8080)), 15006, at(pod, 8080));
        // A socket of the proxy's group alone is caught by the rule for the user first.
        assert_passed(&scene.outbound((5000, 1337), at(pod, 8080)), at(pod, 8080));
        assert_passed(&scene.outbound(ISTIO_PROXY, at(pod, 15008)), at(pod, 15008));
    }
    assert_caught(&scene.outbound(ISTIO_PROXY, at("127.0.0.6", 15002)), 15006, at("127.0.0.6", 15002));
}

#[test]
fn excluded_outbound_ports_ranges_and_networks_pass() {
    require_root!();
    let scene = Scene::istio(&["-o", "22,6000:6063", "-x", "198.51.100.7/24,2001:db8:eeee::/48"]);
    for (far, further) in Network::FAR.into_iter().zip(Network::FURTHER) {
        assert_passed(&scene.outbound(APP, at(far, 22)), at(far, 22));
        assert_passed(&scene.outbound(APP, at(far, 6005)), at(far, 6005));
        assert_passed(&scene.outbound(APP, at(further, 80)), at(further, 80));
        assert_caught(&scene.outbound(APP, at(far, 80)), 15001, at(far, 80));
    }
}

#[test]
fn included_networks_and_ports_alone_are_caught() {
    require_root!();
    let scene = Scene::new(&["istio", "--dual-stack", "-i", "198.51.100.7/24,2001:db8:eeee::/48", "-q", "81"]);
    for (far, further) in Network::FAR.into_iter().zip(Network::FURTHER) {
        assert_passed(&scene.outbound(APP, at(far, 80)), at(far, 80));
        assert_caught(&scene.outbound(APP, at(far, 81)), 15001, at(far, 81));
        assert_caught(&scene.outbound(APP, at(further, 80)), 15001, at(further, 80));
    }
}

#[test]
fn excluded_interfaces_pass_both_ways() {
    require_root!();
    let scene = Scene::istio(&["-c", "eth+"]);
    for (far, pod) in Network::FAR.into_iter().zip(Network::POD) {
        assert_passed(&scene.outbound(APP, at(far, 80)), at(far, 80));
        assert_passed(&scene.inbound(at(pod, 8080)), at(pod, 8080));
    }
}

#[test]
fn what_enters_a_virtual_interface_is_outbound() {
    require_root!();
    let scene = Scene::istio(&["-k", "eth0"]);
    for pod in Network::POD {
        assert_caught(&scene.inbound(at(pod, 8080)), 15001, at(pod, 8080));
    }
}

#[test]
fn excluded_groups_pass() {
    require_root!();
    let network = Network::new();
    let flags = ["apply", "istio", "--dual-stack", "-b", "*", "-i", "*"];
    network.pod.mesh_init(&flags).env("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "2000").run().expect(0);
    let _servers = [Servers::tcp(&network.pod, &POD_PORTS), Servers::tcp(&network.outside, &OUTSIDE_PORTS)];
    for far in Network::FAR {
        assert_passed(&connect(&network.pod, (1000, 2000), at(far, 80)), at(far, 80));
        assert_caught(&connect(&network.pod, (1000, 2001), at(far, 80)), 15001, at(far, 80));
    }
}

#[test]
fn included_groups_alone_are_caught() {
    require_root!();
    let network = Network::new();
    let flags = ["apply", "istio", "--dual-stack", "-b", "*", "-i", "*"];
    let program = network.pod.mesh_init(&flags).with_file("/etc/group", "java:x:2000:\n");
    program.env("ISTIO_OUTBOUND_OWNER_GROUPS", "java,2001").run().expect(0);
    let _servers = [Servers::tcp(&network.pod, &POD_PORTS), Servers::tcp(&network.outside, &OUTSIDE_PORTS)];
    for far in Network::FAR {
        assert_caught(&connect(&network.pod, (1000, 2000), at(far, 80)), 15001, at(far, 80));
        assert_caught(&connect(&network.pod, (1000, 2001), at(far, 80)), 15001, at(far, 80));
        assert_passed(&connect(&network.pod, (1000, 2002), at(far, 80)), at(far, 80));
    }
}

#[test]
fn tproxy_keeps_both_addresses() {
    require_root!();
    let network = Network::new();
    let flags = ["apply", "istio", "--dual-stack", "-m", "TPROXY", "-b", "*", "-i", "*", "-d", "15020"];
    network.pod.mesh_init(&flags).run().expect(0);
    let _servers = [
        Servers::transparent(&network.pod, ISTIO_PROXY, &[15006]),
        Servers::tcp(&network.pod, &[15001, 15020, 8080]),
        Servers::tcp(&network.outside, &OUTSIDE_PORTS),
    ];
    for index in 0..2 {
        let (pod, neighbour, far) = (Network::POD[index], Network::NEIGHBOUR[index], Network::FAR[index]);
        let seen = connect(&network.outside, (0, 0), at(pod, 8080));
        assert_eq!((seen.port, seen.local), (15006, at(pod, 8080)), "{seen:?}");
        assert_eq!(seen.peer.ip().to_string(), neighbour, "{seen:?}");
        assert_passed(&connect(&network.outside, (0, 0), at(pod, 15020)), at(pod, 15020));
        assert_caught(&connect(&network.pod, APP, at(far, 80)), 15001, at(far, 80));
        assert_passed(&connect(&network.pod, ISTIO_PROXY, at(far, 80)), at(far, 80));
    }
}

/// A pod whose DNS goes to the proxy, and the world's own DNS servers.
fn dns_scene(flags: &[&str]) -> (Network, Vec<Servers>) {
    let network = Network::new();
    let words = [&["apply", "istio", "--dual-stack", "-b", "*", "-i", "*", "--redirect-dns"], flags].concat();
    let servers = format!("nameserver {}\nnameserver {}\n", Network::FAR[0], Network::FAR[1]);
    network.pod.mesh_init(&words).with_file("/etc/resolv.conf", &servers).run().expect(0);
    let world: Vec<SocketAddr> = Network::FAR.into_iter().chain(Network::FURTHER).map(|address| at(address, 53)).collect();
    let servers = vec![
        Servers::udp(&network.pod, ISTIO_PROXY, &[at("127.0.0.1", 15053), at("::1", 15053)]),
        Servers::udp(&network.outside, (0, 0), &world),
        Servers::tcp(&network.pod, &[15001, 15053]),
        Servers::tcp(&network.outside, &[53]),
    ];
    (network, servers)
}

#[test]
fn questions_to_the_pods_dns_servers_are_answered_by_the_proxy() {
    require_root!();
    let (network, _servers) = dns_scene(&[]);
    for (far, further) in Network::FAR.into_iter().zip(Network::FURTHER) {
        assert_eq!(network.pod.ask(APP, at(far, 53)).unwrap().port, 15053, "UDP to {far}");
        assert_caught(&connect(&network.pod, APP, at(far, 53)), 15053, at(far, 53));
        // The proxy asks the real server, and another server is none of its business.
        assert_eq!(network.pod.ask(ISTIO_PROXY, at(far, 53)).unwrap().local, at(far, 53));
        assert_passed(&connect(&network.pod, ISTIO_PROXY, at(far, 53)), at(far, 53));
        assert_eq!(network.pod.ask(APP, at(further, 53)).unwrap().local, at(further, 53));
        assert_caught(&connect(&network.pod, APP, at(further, 53)), 15001, at(further, 53));
    }
}

#[test]
fn questions_to_any_dns_server_are_answered_by_the_proxy() {
    require_root!();
    let (network, _servers) = dns_scene(&["--capture-all-dns"]);
    for server in Network::FAR.into_iter().chain(Network::FURTHER) {
        assert_eq!(network.pod.ask(APP, at(server, 53)).unwrap().port, 15053, "UDP to {server}");
        assert_caught(&connect(&network.pod, APP, at(server, 53)), 15053, at(server, 53));
        assert_eq!(network.pod.ask(ISTIO_PROXY, at(server, 53)).unwrap().local, at(server, 53));
    }
}

#[test]
fn istios_own_probe_passes_on_our_rules() {
    require_root!();
    for address in ["10.9.0.2/24", "2001:db8:9::2/64"] {
        let pod = Namespace::pod(&[address]);
        let flags = ["istio-iptables", "-b", "*", "-i", "*", "-u", "1337"];
        let probe = [&flags[..], &["--skip-rule-apply", "--run-validation", "--probe-timeout", "3s"]].concat();
        let proxy = common::Privilege::None(1337);
        pod.mesh_init(&flags).run().expect(0);
        pod.mesh_init(&probe).with(proxy).run().expect(0);
        pod.mesh_init(&["remove"]).run().expect(0);
        let failed = pod.mesh_init(&probe).with(proxy).run().expect(126);
        let said = "iptables validation failed; workload is not ready for Istio.";
        assert!(failed.text().contains(said), "{failed}");
    }
}

#[test]
fn no_connection_escapes_while_rules_are_replaced() {
    require_root!();
    let scene = Scene::istio(&["-d", "15020"]);
    let far = at(Network::FAR[0], 80);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_caught(&scene.outbound(APP, far), 15001, far);
                count += 1;
            }
            count
        });
        for run in 0..10 {
            let excluded = if run % 2 == 0 { "15020,15021" } else { "15020" };
            let flags = ["apply", "istio", "--dual-stack", "-b", "*", "-i", "*", "-d", excluded];
            let outcome = scene.network.pod.mesh_init(&flags).run();
            if outcome.code != 0 {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{outcome}");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let connections = watch.join().unwrap();
        assert!(connections > 10, "only {connections} connections were tried");
    });
}

#[test]
fn linkerd_catches_both_directions() {
    require_root!();
    let scene = Scene::linkerd(&["--inbound-ports-to-ignore", "15020,8081-8090", "--outbound-ports-to-ignore", "22,6000-6063"]);
    for index in 0..2 {
        let (pod, far) = (Network::POD[index], Network::FAR[index]);
        assert_caught(&scene.outbound(APP, at(far, 80)), 4140, at(far, 80));
        assert_caught(&scene.inbound(at(pod, 8080)), 4143, at(pod, 8080));
        for ignored in [15020, 8081] {
            assert_passed(&scene.inbound(at(pod, ignored)), at(pod, ignored));
        }
        for ignored in [22, 6005] {
            assert_passed(&scene.outbound(APP, at(far, ignored)), at(far, ignored));
        }
        assert_passed(&scene.outbound(LINKERD_PROXY, at(far, 80)), at(far, 80));
        assert_caught(&scene.outbound((5000, 2102), at(far, 80)), 4140, at(far, 80));
        assert_passed(&scene.outbound(APP, at(["127.0.0.1", "::1"][index], 8080)), at(["127.0.0.1", "::1"][index], 8080));
        assert_passed(&scene.outbound(LINKERD_PROXY, at(pod, 8080)), at(pod, 8080));
    }
}

#[test]
fn linkerd_lets_the_proxys_group_and_ignored_sources_pass() {
    require_root!();
    let scene = Scene::linkerd(&["-g", "2103", "--subnets-to-ignore", "10.9.0.1/32, 2001:db8:9::1/128"]);
    for index in 0..2 {
        let (pod, far) = (Network::POD[index], Network::FAR[index]);
        assert_passed(&scene.outbound((5000, 2103), at(far, 80)), at(far, 80));
        assert_caught(&scene.outbound(APP, at(far, 80)), 4140, at(far, 80));
        assert_passed(&scene.inbound(at(pod, 8080)), at(pod, 8080));
    }
}

#[test]
fn linkerd_catches_listed_ports_alone() {
    require_root!();
    let scene = Scene::linkerd(&["-r", "8080"]);
    for pod in Network::POD {
        assert_caught(&scene.inbound(at(pod, 8080)), 4143, at(pod, 8080));
        assert_passed(&scene.inbound(at(pod, 8081)), at(pod, 8081));
    }
}
