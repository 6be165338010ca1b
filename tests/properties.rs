//! Whatever an option vector says, as long as it is accepted: the kernel takes the rules and reads back equal, the real
//! iptables understands every one of them, and nothing is left after `remove`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};

use common::{Family, Namespace, Saved};
use mesh_init::ruleset::Interface;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

/// A command line, an environment and a pod.
#[derive(Clone, Debug)]
struct Told {
    mesh: &'static str,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    addresses: &'static [&'static str],
}

/// The group file in which named groups are.
const GROUPS: &str = "root:x:0:\njava:x:202:\nweb:x:33:www\n";

impl Told {
    fn run(&self, pod: &Namespace, verb: &str, more: &[String]) -> common::Outcome {
        // Nobody else writes here: what is not right at once never will be.
        let group_file = format!("--group-file={}", pod.file("groups", GROUPS).display());
        let words = [verb.to_owned(), self.mesh.to_owned(), "--deadline=2s".to_owned(), group_file];
        let mut program = pod.mesh_init(&[&words[..], &self.args, more].concat());
        for (name, value) in &self.env {
            program = program.env(name, value);
        }
        program.run()
    }

    /// What is promised for it, and the first way in which it does not hold.
    fn check(&self) -> Result<(), String> {
        let expect = |outcome: common::Outcome, code| if outcome.code == code { Ok(outcome) } else { Err(outcome.to_string()) };
        let pod = Namespace::pod(self.addresses);
        let before = pod.state();
        expect(self.run(&pod, "apply", &[]), 0)?;
        let saved = Family::BOTH.map(|family| save(&pod, family));
        for text in &saved {
            if let Some(line) = text.lines().find(|line| ["unsupported", "unknown", "UNKNOWN"].iter().any(|word| line.contains(word))) {
                return Err(format!("iptables does not know what it reads: {line}"));
            }
        }
        expect(self.run(&pod, "verify", &[]), 0)?;
        let again = expect(self.run(&pod, "apply", &[]), 0)?;
        if !again.text().contains("already in place") {
            return Err(format!("a second run finds something to do: {again}"));
        }
        if Family::BOTH.map(|family| save(&pod, family)).map(rules) != saved.clone().map(rules) {
            return Err(format!("a second run changes rules: {again}"));
        }
        self.check_dump(&pod, &saved)?;
        expect(pod.mesh_init(&["remove", self.mesh]).run(), 0)?;
        let left = before.differences(&pod.state());
        if left.is_empty() { Ok(()) } else { Err(format!("after remove: {}", left.join("\n"))) }
    }

    /// The dump's text, loaded by the real iptables elsewhere, is what the program left in the kernel.
    fn check_dump(&self, pod: &Namespace, saved: &[String; 2]) -> Result<(), String> {
        let elsewhere = Namespace::new();
        for (family, saved) in Family::BOTH.into_iter().zip(saved) {
            let dump = self.run(pod, "dump", &[format!("--family={}", family.digit())]);
            if dump.code != 0 {
                return Err(dump.to_string());
            }
            elsewhere.try_legacy_restore(family, &dump.stdout).map_err(|error| format!("{error}\n{}", dump.stdout))?;
            let differences = Saved::parse(saved, false).differences(&elsewhere.legacy_save(family));
            if !differences.is_empty() {
                return Err(format!("{}: the dump differs from the kernel\n{}", family.iptables(), differences.join("\n")));
            }
        }
        Ok(())
    }
}

fn save(pod: &Namespace, family: Family) -> String {
    pod.output(&[&format!("{}-legacy-save", family.iptables())])
}

fn rules(text: String) -> Saved {
    Saved::parse(&text, false)
}

/// Checks what `told` makes, fewer times than proptest would by itself: each takes a namespace of its own and a dozen
/// programs. PROPTEST_CASES asks for more.
fn check(told: impl Strategy<Value = Told>) {
    let cases = std::env::var("PROPTEST_CASES").map_or(40, |text| text.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&told, |told| told.check().map_err(TestCaseError::fail));
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn port() -> impl Strategy<Value = String> {
    prop_oneof![4 => 1..=u16::MAX, 1 => Just(1), 1 => Just(u16::MAX), 1 => Just(53), 1 => Just(15008)].prop_map(|port| port.to_string())
}

fn ordered(first: u16, last: u16, between: char) -> String {
    format!("{}{between}{}", first.min(last), first.max(last))
}

/// `80`, `8000:9000`, `:1023`, `1024:`
fn colon_ports() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => port(),
        3 => (0..=u16::MAX, 1..u16::MAX).prop_map(|(first, last)| ordered(first.min(65534), last, ':')),
        1 => (1..u16::MAX).prop_map(|last| format!(":{last}")),
        1 => (1..=u16::MAX).prop_map(|first| format!("{first}:")),
    ]
}

/// `80`, `8000-9000`
fn dashed_ports() -> impl Strategy<Value = String> {
    prop_oneof![3 => port(), 2 => (0..=u16::MAX, 1..=u16::MAX).prop_map(|(first, last)| ordered(first, last, '-'))]
}

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..=70_000u32, 1 => 0..u32::MAX, 1 => Just(1337), 1 => Just(u32::MAX - 1)]
}

/// `1337`, `1337-1340`
fn ids() -> impl Strategy<Value = String> {
    prop_oneof![3 => id().prop_map(|id| id.to_string()), 1 => (id(), id()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)))]
}

fn v4_net() -> impl Strategy<Value = String> {
    (any::<[u8; 4]>(), 0..=32u8).prop_map(|(octets, length)| format!("{}/{length}", Ipv4Addr::from(octets)))
}

fn net() -> impl Strategy<Value = String> {
    let v6 = (any::<[u8; 16]>(), 0..=128u8).prop_map(|(octets, length)| format!("{}/{length}", Ipv6Addr::from(octets)));
    let special =
        prop_oneof![Just("0.0.0.0/0"), Just("::/0"), Just("127.0.0.1/32"), Just("::1/128"), Just("10.96.0.2/24"), Just("::6/128")];
    prop_oneof![3 => v4_net(), 3 => v6, 1 => special.prop_map(str::to_owned)]
}

/// Names of all that a kernel takes, most of them usual ones.
fn interface() -> impl Strategy<Value = String> {
    let odd = r##"[a-z0-9#$%&()*;<=>?@^_`{|}~+.-]{1,15}"##.prop_filter("no interface name", |name| Interface::new(name).is_some());
    prop_oneof![4 => r"[a-z][a-z0-9._]{0,14}", 3 => r"[a-z][a-z0-9]{0,5}\+", 1 => Just("+".to_owned()), 1 => Just("lo".to_owned()), 2 => odd]
}

fn group() -> impl Strategy<Value = String> {
    prop_oneof![3 => ids(), 1 => Just("java".to_owned()), 1 => Just("web".to_owned())]
}

/// A comma separated list as people write them.
fn list<S: Strategy<Value = String>>(item: S, most: usize) -> impl Strategy<Value = String> {
    (vec(item, 1..=most), prop_oneof![3 => Just(","), 1 => Just(", "), 1 => Just(",,")]).prop_map(|(items, comma)| items.join(comma))
}

fn all_or(list: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop_oneof![2 => Just("*".to_owned()), 1 => Just(String::new()), 3 => list]
}

fn switch() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just("true"), 1 => Just("1"), 1 => Just("false")].prop_map(str::to_owned)
}

/// `--flag=value`, or nothing.
fn flag(name: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = Option<String>> {
    of(value.prop_map(move |value| format!("--{name}={value}")))
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![2 => 1..=252u32, 1 => 256..=u32::MAX, 1 => Just(1337), 1 => Just(u32::MAX)]
}

/// Decimal or hexadecimal.
fn written(number: impl Strategy<Value = u32>) -> impl Strategy<Value = String> {
    (number, any::<bool>()).prop_map(|(number, hex)| if hex { format!("{number:#x}") } else { number.to_string() })
}

fn pod_addresses() -> impl Strategy<Value = &'static [&'static str]> {
    prop_oneof![
        2 => Just(&["10.9.0.2/24"][..]),
        3 => Just(&["10.9.0.2/24", "2001:db8:9::2/64"][..]),
        1 => Just(&["2001:db8:9::2/64"][..]),
    ]
}

fn istio() -> impl Strategy<Value = Told> {
    let ports = (
        flag("envoy-port", port()),
        flag("inbound-capture-port", port()),
        flag("inbound-tunnel-port", port()),
        flag("istio-inbound-ports", all_or(list(colon_ports(), 4))),
        flag("istio-local-exclude-ports", list(colon_ports(), 4)),
        flag("istio-outbound-ports", list(colon_ports(), 3)),
        flag("istio-local-outbound-ports-exclude", list(colon_ports(), 3)),
    );
    let places = (
        flag("istio-service-cidr", all_or(list(net(), 4))),
        flag("istio-service-exclude-cidr", list(net(), 4)),
        flag("istio-exclude-interfaces", list(interface(), 3)),
        flag("kube-virt-interfaces", list(interface(), 3)),
    );
    let owners = (flag("proxy-uid", list(ids(), 3)), flag("proxy-gid", list(ids(), 3)));
    let tproxy = (
        flag(
            "istio-inbound-interception-mode",
            prop_oneof![3 => Just("TPROXY"), 1 => Just("REDIRECT"), 1 => Just("")].prop_map(str::to_owned),
        ),
        flag("istio-inbound-tproxy-mark", written(number())),
        flag("istio-inbound-tproxy-route-table", written(number())),
    );
    let servers = prop_oneof![Just("10.96.0.10"), Just("fd00:10:96::a"), Just("10.96.0.10,169.254.20.10,fd00:10:96::a")];
    let switches = (
        servers.prop_map(|servers| format!("--dns-server={servers}")),
        flag("redirect-dns", switch()),
        flag("capture-all-dns", switch()),
        flag("drop-invalid", switch()),
        flag("dual-stack", switch()),
    );
    let env = (
        of(all_or(list(group(), 4))),
        of(list(group(), 4)),
        of((0..=255u8, 8..=32u8).prop_map(|(last, length)| format!("127.0.0.{last}/{length}"))),
    );
    (ports, places, owners, tproxy, switches, env, pod_addresses()).prop_map(|(a, b, c, d, e, env, addresses)| {
        let args = [a.0, a.1, a.2, a.3, a.4, a.5, a.6, b.0, b.1, b.2, b.3, c.0, c.1, d.0, d.1, d.2, Some(e.0), e.1, e.2, e.3, e.4];
        let env = [
            ("ISTIO_OUTBOUND_OWNER_GROUPS", env.0),
            ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", env.1),
            ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", env.2),
        ];
        Told {
            mesh: "istio",
            args: args.into_iter().flatten().collect(),
            env: env.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            addresses,
        }
    })
}

fn linkerd() -> impl Strategy<Value = Told> {
    let ports = (
        port().prop_map(|port| format!("--incoming-proxy-port={port}")),
        port().prop_map(|port| format!("--outgoing-proxy-port={port}")),
        flag("ports-to-redirect", list(port(), 5)),
        flag("inbound-ports-to-ignore", list(dashed_ports(), 40)),
        flag("outbound-ports-to-ignore", list(dashed_ports(), 40)),
    );
    let rest = (
        flag("subnets-to-ignore", list(net(), 4)),
        flag("proxy-uid", id().prop_map(|id| id.to_string())),
        flag("proxy-gid", id().prop_map(|id| id.to_string())),
        flag("ipv6", switch()),
    );
    (ports, rest, pod_addresses()).prop_map(|(a, b, addresses)| {
        let args = [Some(a.0), Some(a.1), a.2, a.3, a.4, b.0, b.1, b.2, b.3];
        Told { mesh: "linkerd", args: args.into_iter().flatten().collect(), env: Vec::new(), addresses }
    })
}

#[test]
fn what_istio_may_be_told_is_installed_read_back_and_removed() {
    require_root!();
    check(istio());
}

#[test]
fn what_linkerd_may_be_told_is_installed_read_back_and_removed() {
    require_root!();
    check(linkerd());
}
