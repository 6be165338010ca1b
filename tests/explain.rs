//! What `explain` says: of planned rules for a pod that is elsewhere, and of what the kernel holds in both packet filters, as
//! text and as JSON with the members that are documented.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Namespace, Outcome, Privilege};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use serde_json::Value;

const ISTIO: [&str; 11] = ["istio", "-i", "*", "-b", "*", "-d", "15020", "-u", "1337", "--pod-ip", "10.9.0.2"];

const LINKERD: [&str; 5] = ["linkerd", "--ipv6=true", "--proxy-uid=2102", "--incoming-proxy-port=4143", "--outgoing-proxy-port=4140"];

fn explain(pod: &Namespace, words: &[&str]) -> Outcome {
    pod.mesh_init(&[&["explain"], words].concat()).run()
}

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.expect(0).stdout).unwrap()
}

fn pod_with(lines: &[&str]) -> Namespace {
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    for line in lines {
        pod.output(&line.split(' ').collect::<Vec<_>>());
    }
    pod
}

#[test]
fn each_rule_that_a_packet_meets_is_told_with_the_reason_why_it_does_not_match() {
    require_root!();
    let outcome = explain(&Namespace::new(), &[&ISTIO[..], &["--packet", "out tcp 10.0.0.1:443"]].concat()).expect(0);
    assert_eq!(
        outcome.stdout,
        "out tcp to 10.0.0.1:443 uid 1000 gid 1000 (IPv4, as planned for istio)\n\
         OUTPUT of nat\n\
         \x20    1 yes -j ISTIO_OUTPUT\n\
         \x20 ISTIO_OUTPUT\n\
         \x20    1 no  -s 127.0.0.6/32 -o lo -j RETURN  [-s 127.0.0.6/32: from 10.9.0.2]\n\
         \x20    2 no  ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT  \
         [-o lo: out by a device other than lo]\n\
         \x20    3 no  -o lo -m owner ! --uid-owner 1337 -j RETURN  [-o lo: out by a device other than lo]\n\
         \x20    4 no  -m owner --uid-owner 1337 -j RETURN  [-m owner --uid-owner 1337: uid 1000]\n\
         \x20    5 no  ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT  \
         [-o lo: out by a device other than lo]\n\
         \x20    6 no  -o lo -m owner ! --gid-owner 1337 -j RETURN  [-o lo: out by a device other than lo]\n\
         \x20    7 no  -m owner --gid-owner 1337 -j RETURN  [-m owner --gid-owner 1337: gid 1000]\n\
         \x20    8 no  -d 127.0.0.1/32 -j RETURN  [-d 127.0.0.1/32: to 10.0.0.1]\n\
         \x20    9 yes -j ISTIO_REDIRECT\n\
         \x20 ISTIO_REDIRECT\n\
         \x20    1 yes -p tcp -j REDIRECT --to-ports 15001\n\
         it comes back by lo\n\
         PREROUTING of nat: not asked, the destination has been decided\n\
         => sent to port 15001, original destination 10.0.0.1:443\n"
    );
}

#[test]
fn several_packets_are_answered_in_order() {
    require_root!();
    let packets = [
        ("out tcp 10.0.0.1:443 uid 1337", "delivered as is"),
        ("in tcp from 10.1.2.3 to :8080", "sent to port 15006, original destination 10.9.0.2:8080"),
        ("in tcp to :15020", "delivered as is"),
        ("out tcp 10.9.0.2:8080 uid 1337 gid 1337", "sent to port 15006, original destination 10.9.0.2:8080"),
        ("out udp 10.0.0.1:53", "delivered as is"),
        ("out tcp [fd00::a]:53", "delivered as is"),
        ("in tcp to 10.7.7.7:80", "sent to port 15006, original destination 10.7.7.7:80"),
        ("in udp to 10.7.7.7:80", "not for the pod: passed on, if it passes packets on"),
    ];
    let words: Vec<String> = packets.iter().map(|(packet, _)| format!("--packet={packet}")).collect();
    let words: Vec<&str> = ISTIO.into_iter().chain(words.iter().map(String::as_str)).collect();
    let answers = explain(&Namespace::new(), &words).expect(0).stdout;
    let answers: Vec<&str> = answers.lines().filter_map(|line| line.strip_prefix("=> ")).collect();
    assert_eq!(answers, packets.map(|(_, answer)| answer));
}

#[test]
fn without_a_packet_the_usual_questions_are_answered_a_line_each() {
    require_root!();
    let outcome =
        explain(&Namespace::new(), &[&ISTIO[..], &["--redirect-dns", "--dns-server", "10.96.0.10", "-x", "10.5.0.0/16"]].concat());
    let text = outcome.expect(0).stdout;
    let answer = |question: &str, packet: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{question}  ")) && line.contains(packet));
        line.unwrap_or_else(|| panic!("{question}, {packet}: {text}")).split("  ").last().unwrap().trim()
    };
    assert_eq!(answer("an application to another host", "192.0.2.1:443"), "sent to port 15001, original destination 192.0.2.1:443");
    assert_eq!(answer("an application to the pod's own address", "10.9.0.2:8080"), "delivered as is");
    assert_eq!(answer("an application to loopback", "127.0.0.1:8080"), "delivered as is");
    assert_eq!(answer("an application to DNS over UDP", "10.96.0.10:53"), "sent to port 15053, original destination 10.96.0.10:53");
    assert_eq!(answer("an application to DNS over UDP", "192.0.2.1:53"), "delivered as is");
    assert_eq!(answer("an application to DNS over TCP", "10.96.0.10:53"), "sent to port 15053, original destination 10.96.0.10:53");
    assert_eq!(answer("an application to a network that rules mention", "10.5.0.1:443"), "delivered as is");
    assert_eq!(answer("user 1337 to another host", "192.0.2.1:443"), "delivered as is");
    assert_eq!(answer("another host to the pod", ":8080"), "sent to port 15006, original destination 10.9.0.2:8080");
    assert_eq!(answer("another host to a port that rules mention", ":15020"), "delivered as is");
    // Each packet is one that can be asked about.
    for line in text.lines() {
        let packet = line.split("  ").find(|part| part.trim_start().starts_with("out ") || part.trim_start().starts_with("in ")).unwrap();
        let again = explain(&Namespace::new(), &[&ISTIO[..], &["--packet", packet]].concat()).expect(0);
        assert!(again.stdout.starts_with(packet.trim()), "{again}");
    }
}

#[test]
fn a_plan_is_explained_without_privileges_and_without_a_pod() {
    require_root!();
    let pod = Namespace::new();
    for mesh in [&["istio"][..], &LINKERD] {
        let words = [&["explain"], mesh, &["--pod-ip", "10.9.0.2,fd00::2", "--packet", "out tcp 10.0.0.1:443"]].concat();
        pod.mesh_init(&words).with(Privilege::None(65534)).run().expect(0);
    }
    // The kernel's rules cannot be read so.
    let refused = pod.mesh_init(&["explain", "live"]).with(Privilege::None(65534)).run().expect(10);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("CAP_NET_ADMIN"), "{refused}");
}

#[test]
fn what_the_kernel_holds_is_met_in_its_order_in_both_packet_filters() {
    require_root!();
    let pod = pod_with(&[]);
    pod.mesh_init(&[&["apply"], &LINKERD[..]].concat()).env("MESH_INIT_BACKEND", "nftables").run().expect(0);
    for line in [
        "iptables-legacy -t raw -A OUTPUT -p tcp -j ACCEPT",
        "iptables-nft -t mangle -A OUTPUT -p udp -j DROP",
        "nft add table inet mine",
        "nft add chain inet mine c { type filter hook output priority 5; policy accept; }",
        "nft add rule inet mine c ip daddr 127.0.0.1 tcp dport 4140 counter",
        "nft add rule inet mine c meta nfproto ipv6 drop",
    ] {
        pod.output(&line.split(' ').collect::<Vec<_>>());
    }
    let before = pod.state();
    let outcome = explain(&pod, &["live", "--packet", "out tcp 10.0.0.1:443"]).expect(0);
    let told: Vec<&str> = outcome.stdout.lines().filter(|line| !line.starts_with("     ") && !line.contains(" no  ")).collect();
    assert_eq!(
        told,
        [
            "out tcp to 10.0.0.1:443 uid 1000 gid 1000 (IPv4, as the kernel holds the rules)",
            "OUTPUT of raw (legacy, priority -300)",
            "OUTPUT of ip mangle (nftables, priority -150)",
            "OUTPUT of ip mesh-init (nftables, priority -100)",
            "  PROXY_INIT_OUTPUT",
            "c of inet mine (OUTPUT, nftables, priority 5)",
            "it comes back by lo",
            "PREROUTING of ip mesh-init (nftables, priority -100): not asked, the destination has been decided",
            "=> sent to port 4140, original destination 10.0.0.1:443",
        ],
        "{outcome}"
    );
    assert!(outcome.stdout.contains("     1 no  -p udp -j DROP  [-p udp: tcp]\n"), "{outcome}");
    assert!(outcome.stdout.contains("     1 yes ip daddr 127.0.0.1 tcp dport 4140\n"), "{outcome}");
    let v6 = explain(&pod, &["live", "--packet", "out tcp [2001:db8::1]:443", "--packet", "out udp 10.0.0.1:443"]).expect(0);
    assert_eq!(v6.stdout.lines().filter(|line| *line == "=> dropped").count(), 2, "{v6}");
    let usual = explain(&pod, &["live"]).expect(0).stdout;
    assert!(usual.contains("user 2102 to another host") && usual.contains("in tcp from 2001:db8::1 to :8080"), "{usual}");
    assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
}

#[test]
fn what_cannot_be_evaluated_is_said_unless_it_makes_no_difference() {
    require_root!();
    let pod = pod_with(&[
        "iptables-legacy -t nat -A OUTPUT -p tcp -m statistic --mode random --probability 0.5 -j ACCEPT",
        "iptables-legacy -t nat -A OUTPUT -o eth1 -j RETURN",
        "iptables-legacy -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9",
        "iptables-legacy -t nat -A OUTPUT -p udp -j DNAT --to-destination 10.0.0.9",
        "iptables-legacy -t filter -A OUTPUT -p icmp -m statistic --mode random --probability 0.5 -j ACCEPT",
    ]);
    let answers = json(explain(
        &pod,
        &[
            "live",
            "--format=json",
            "--packet=out tcp 10.0.0.1:443 dev eth0",
            "--packet=out udp 10.0.0.1:443 dev eth0",
            "--packet=out icmp 10.0.0.1",
            "--packet=out tcp 10.0.0.1:443",
        ],
    ));
    let packets = answers["packets"].as_array().unwrap();
    let outcomes: Vec<&str> = packets.iter().map(|packet| packet["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["depends", "depends", "delivered", "depends"]);
    let reason = |index: usize| packets[index]["depends_on"][0].as_str().unwrap();
    assert!(reason(0).starts_with("-m statistic <") && reason(0).ends_with(">, which mesh-init does not know"), "{answers}");
    assert!(reason(1).starts_with("what -p udp -j DNAT <") && reason(1).ends_with(" does, which mesh-init does not know"), "{answers}");
    assert_eq!(packets[3]["depends_on"][1], "-o eth1, and the packet's device is not given (dev NAME)");
    assert!(packets[0]["answer"].as_str().unwrap().starts_with("depends on -m statistic <"));
}

#[test]
fn marks_lead_to_lo_where_a_route_says_so() {
    require_root!();
    let pod = pod_with(&["iptables-legacy -t mangle -A OUTPUT -p tcp -j MARK --set-mark 7", "ip rule add fwmark 7 lookup 99"]);
    let ask = || json(explain(&pod, &["live", "--format=json", "--packet=out tcp 10.0.0.1:443"]))["packets"][0].clone();
    // Without the route, the rule leads nowhere.
    assert_eq!(ask()["outcome"], "delivered");
    pod.ip(&["route add local 0.0.0.0/0 dev lo table 99"]);
    let answer = ask();
    assert_eq!((&answer["outcome"], &answer["mark"]), (&"routed-to-lo".into(), &7.into()), "{answer}");
    assert_eq!(answer["answer"], "marked 0x7 and routed to lo");
    let tproxy = explain(&pod, &["istio", "-m", "TPROXY", "-b", "*", "--packet", "in tcp to :80"]).expect(0);
    assert!(tproxy.stdout.ends_with("=> handed to the transparent socket of port 15006\n"), "{tproxy}");
}

/// Answers to packets, a line each.
fn answers(pod: &Namespace, packets: &[&str]) -> Vec<String> {
    let words: Vec<String> = packets.iter().map(|packet| format!("--packet={packet}")).collect();
    let words: Vec<&str> = ["live"].into_iter().chain(words.iter().map(String::as_str)).collect();
    explain(pod, &words).expect(0).stdout.lines().filter_map(|line| line.strip_prefix("=> ")).map(str::to_owned).collect()
}

/// Where a connection from the namespace ends: whom the listener there takes it from and what it was sent to.
fn connected(pod: &Namespace, listener: &TcpListener, to: &str) -> Option<[SocketAddr; 2]> {
    let to = to.parse().unwrap();
    pod.inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)).ok())?;
    let (stream, from) = listener.accept().unwrap();
    Some([from, stream.local_addr().unwrap()])
}

#[test]
fn addresses_that_the_kernel_reads_otherwise_are_read_so() {
    require_root!();
    let pod = pod_with(&["iptables-legacy -A OUTPUT -d 127.0.0.1 -p udp -j DROP", "ip6tables-legacy -A OUTPUT -d ::1 -p udp -j DROP"]);
    let listener = pod.inside(|| TcpListener::bind("[::]:8080").unwrap());
    for (to, is) in
        [("0.0.0.0:8080", "[::ffff:127.0.0.1]:8080"), ("[::]:8080", "[::1]:8080"), ("[::ffff:10.9.0.2]:8080", "[::ffff:10.9.0.2]:8080")]
    {
        assert_eq!(connected(&pod, &listener, to).unwrap()[1], is.parse().unwrap(), "{to}");
    }
    let packets = ["out udp 0.0.0.0:8080", "out udp [::]:8080", "out udp [::ffff:127.0.0.1]:8080", "out udp [::ffff:10.9.0.2]:8080"];
    assert_eq!(answers(&pod, &packets), ["dropped", "dropped", "dropped", "delivered as is"]);
}

#[test]
fn a_source_that_is_not_known_is_not_guessed() {
    require_root!();
    let redirect = "iptables-legacy -t nat -A OUTPUT -p tcp -d 192.0.2.1 -j REDIRECT --to-ports 15001";
    let route = "ip route add default via 10.9.0.1";
    let packet = "out tcp 192.0.2.1:443";
    let lands = |pod: &Namespace| {
        let listener = pod.inside(|| TcpListener::bind("0.0.0.0:15001").unwrap());
        connected(pod, &listener, "192.0.2.1:443")
    };
    let pod = pod_with(&[route, redirect, "iptables-legacy -t nat -A POSTROUTING -o lo -p tcp -j SNAT --to-source 10.9.0.9"]);
    assert_eq!(answers(&pod, &[packet]), ["sent to port 15001, original destination 192.0.2.1:443"]);
    pod.output(&"iptables-legacy -A INPUT -s 10.9.0.9 -j DROP".split(' ').collect::<Vec<_>>());
    assert_eq!((lands(&pod), answers(&pod, &[packet])), (None, vec!["depends on -s 10.9.0.9/32, from an unknown address".to_owned()]));

    let pod = pod_with(&[route, redirect]);
    assert!(lands(&pod).is_some());
    for line in ["sysctl -qw net.ipv4.ip_local_port_range=10000\t20000", "iptables-legacy -A OUTPUT -p tcp --sport 10000:20000 -j DROP"] {
        pod.output(&line.split(' ').collect::<Vec<_>>());
    }
    let told = vec!["depends on -p tcp -m tcp --sport 10000:20000, from an unknown port".to_owned()];
    assert_eq!((lands(&pod), answers(&pod, &[packet])), (None, told));
}

#[test]
fn a_packet_without_addresses_is_of_a_family_that_the_pod_has() {
    require_root!();
    let pod = Namespace::pod(&["2001:db8:9::2/64"]);
    pod.output(&["ip6tables-legacy", "-A", "INPUT", "-p", "tcp", "-j", "DROP"]);
    let outcome = explain(&pod, &["live", "--packet", "in tcp to :8080"]).expect(0);
    assert!(outcome.stdout.starts_with("in tcp to :8080 (IPv6, ") && outcome.stdout.ends_with("=> dropped\n"), "{outcome}");
    let usual = explain(&pod, &["live"]).expect(0).stdout;
    assert!(usual.contains("[2001:db8::1]:443") && !usual.contains("192.0.2.1"), "{usual}");
}

#[test]
fn what_is_bound_to_lo_goes_where_the_kernel_sends_it() {
    require_root!();
    let pod = pod_with(&["iptables-legacy -t mangle -A INPUT -i lo -d 10.9.0.1", "ip6tables-legacy -t mangle -A OUTPUT -d 2001:db8:9::1"]);
    pod.inside(|| {
        let send = |socket: UdpSocket, to: &str| {
            setsockopt(&socket, BindToDevice, &"lo".into()).unwrap();
            socket.send_to(b"x", to).map_err(|error| error.kind())
        };
        assert_eq!(send(UdpSocket::bind("0.0.0.0:0").unwrap(), "10.9.0.1:80"), Ok(1));
        assert_eq!(send(UdpSocket::bind("[::]:0").unwrap(), "[2001:db8:9::1]:80"), Err(ErrorKind::NetworkUnreachable));
    });
    let counted = pod.output(&["iptables-legacy", "-t", "mangle", "-nvL", "INPUT"]);
    assert!(counted.lines().last().unwrap().trim_start().starts_with("1 "), "{counted}");
    let packets = ["out udp 10.9.0.1:80 dev lo", "out udp [2001:db8:9::1]:80 dev lo", "out udp 10.9.0.2:80 dev lo"];
    assert_eq!(answers(&pod, &packets), ["routed to lo", "dropped", "delivered as is"]);
}

#[test]
fn json_has_the_documented_members() {
    require_root!();
    let pod = pod_with(&["iptables-legacy -t filter -P OUTPUT DROP"]);
    pod.mesh_init(&["apply", "istio", "-i", "*"]).run().expect(0);
    let answers =
        json(explain(&pod, &["live", "--format=json", "--packet=out tcp 10.0.0.1:443", "--packet=out tcp 10.0.0.1:443 uid 1337"]));
    assert_eq!(answers["subject"], "live");
    let packet = &answers["packets"][0];
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<String>>();
    assert_eq!(members(packet), ["answer", "family", "outcome", "packet", "steps"]);
    assert_eq!((&packet["outcome"], &packet["family"]), (&"dropped".into(), &4.into()));
    let steps = packet["steps"].as_array().unwrap();
    let of = |kind: &str| steps.iter().filter(|step| step["step"] == kind).collect::<Vec<&Value>>();
    assert_eq!(members(of("chain")[0]), ["chain", "filter", "hook", "priority", "step", "table"]);
    let chain = of("chain")[0];
    assert_eq!((&chain["hook"], &chain["filter"], &chain["table"]), (&"output".into(), &"legacy".into(), &"nat".into()));
    assert_eq!(members(of("rule")[0]), ["chain", "matched", "number", "rule", "step"]);
    let failed = of("rule").into_iter().find(|step| step["matched"] == "no").unwrap();
    assert_eq!(members(failed), ["because", "chain", "failed", "matched", "number", "rule", "step"]);
    assert_eq!((&of("policy")[0]["policy"], &of("policy")[0]["chain"]), (&"drop".into(), &"OUTPUT".into()));

    let planned = json(explain(&pod, &["istio", "-i", "*", "--format=json", "--packet=out tcp 10.0.0.1:443"]));
    let packet = &planned["packets"][0];
    assert_eq!(members(packet), ["answer", "family", "original_address", "original_port", "outcome", "packet", "port", "steps"]);
    assert_eq!((&packet["port"], &packet["original_address"], &packet["original_port"]), (&15001.into(), &"10.0.0.1".into(), &443.into()));
    assert!(packet["steps"].as_array().unwrap().iter().all(|step| step.get("filter").is_none()), "{packet}");

    let usual = json(explain(&pod, &["istio", "-i", "*", "--format=json"]));
    assert_eq!(usual["subject"], "istio");
    let first = &usual["packets"][0];
    assert_eq!(first["question"], "an application to another host");
    assert!(first.get("steps").is_none() && usual["packets"].as_array().unwrap().len() > 5, "{usual}");
}

#[test]
fn bad_input_is_named_and_changes_nothing() {
    require_root!();
    let pod = Namespace::new();
    let before = pod.state();
    for (words, error) in [
        (
            &["istio", "--packet", "up tcp 10.0.0.1:1"][..],
            "--packet: \"up tcp 10.0.0.1:1\" is no packet: \"up\" is no way for a packet (out or in)",
        ),
        (
            &["live", "--packet", "out tcp 10.0.0.1"],
            "--packet: \"out tcp 10.0.0.1\" is no packet: tcp needs a port: ADDRESS:PORT or [ADDRESS]:PORT",
        ),
        (
            &["live", "--packet", "out tcp 1.1.1.1:443 to 2.2.2.2:5"],
            "--packet: \"out tcp 1.1.1.1:443 to 2.2.2.2:5\" is no packet: to: it is said twice",
        ),
        (&["live", "--format", "nft"], "--format: \"nft\" is not a format (text or json)"),
        (&[], "a verb or a mesh is missing"),
        (&["live", "--bogus"], "unknown flag: --bogus"),
        (&["consul"], "unknown command \"consul\""),
        (&["istio", "-b", "x"], "--istio-inbound-ports: \"x\""),
        (&["linkerd", "--packet"], "--packet needs a value"),
    ] {
        let outcome = explain(&pod, words).expect(2);
        assert!(outcome.stdout.is_empty() && outcome.stderr.contains(error) && outcome.lines().len() == 1, "{outcome}");
    }
    assert_eq!(before.differences(&pod.state()), Vec::<String>::new());
    let help = explain(&pod, &["live", "--help"]).expect(0);
    assert!(help.stdout.contains("--packet") && help.stdout.contains("text or json"), "{help}");
}

#[test]
fn there_is_colour_on_a_terminal_alone() {
    let line = format!("{} explain istio --pod-ip 10.9.0.2 -i '*' --packet 'out tcp 10.0.0.1:443'", env!("CARGO_BIN_EXE_mesh-init"));
    let on_a_terminal = |no_color: Option<&str>| {
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).env_remove("NO_COLOR");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let coloured = on_a_terminal(None);
    assert!(coloured.contains("=> \x1b[32msent to port 15001, original destination 10.0.0.1:443\x1b[0m"), "{coloured}");
    assert!(on_a_terminal(Some("")).contains('\x1b'), "an empty NO_COLOR says nothing");
    let plain = on_a_terminal(Some("1"));
    assert!(plain.contains("=> sent to port 15001") && !plain.contains('\x1b'), "{plain}");
    let piped = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(!String::from_utf8(piped.stdout).unwrap().contains('\x1b'));
}
