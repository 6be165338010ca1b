//! What is looked at in a guest, a line each: `ok`, or `FAIL` and what came instead.

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;

use super::common::namespace::{Namespace, Network, run as output_of};
use super::common::traffic::{APP, ISTIO_PROXY, LINKERD_PROXY, Servers, Who, at};
use super::common::{Family, Outcome as Run, Privilege};
use super::shapes::{Found, Outcome, Pod, Preflight, Shape};

/// Nobody's business but the application's.
const PORT: u16 = 8080;

/// Istio's resolver in the pod.
const DNS: u16 = 15053;

/// Where Kubernetes puts a file for a container's last words.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// A mesh's ports and its proxy's user.
struct Mesh {
    outgoing: u16,
    incoming: u16,
    proxy: Who,
    drop_in: &'static str,
}

const ISTIO: Mesh = Mesh { outgoing: 15001, incoming: 15006, proxy: ISTIO_PROXY, drop_in: "istio-iptables" };
const LINKERD: Mesh = Mesh { outgoing: 4140, incoming: 4143, proxy: LINKERD_PROXY, drop_in: "linkerd2-proxy-init" };

/// Writes down, and counts.
#[derive(Default)]
struct Results {
    checks: usize,
    failures: usize,
}

impl Results {
    /// One check; `wanted` is told where it went wrong.
    fn tell(&mut self, right: bool, what: &str, found: &str, wanted: &str) {
        self.checks += 1;
        if right {
            println!("ok   {what}: {found}");
        } else {
            self.failures += 1;
            println!("FAIL {what}: {found}; expected: {wanted}");
        }
    }
}

/// Every pod of the table. The first one is the guest's own network namespace, which in Kata all containers share; the
/// others are new.
pub(crate) fn run(shape: &'static Shape) {
    let mut results = Results::default();
    for (index, pod) in shape.pods.iter().enumerate() {
        let (namespace, which) =
            if index == 0 { (Namespace::of_process(1), "the first namespace") } else { (Namespace::new(), "a new namespace") };
        let addresses: Vec<&str> = pod.addresses.iter().map(|family| family.digit()).collect();
        let words: Vec<String> = pod.words.iter().map(|word| if word.is_empty() { "''".to_owned() } else { (*word).to_owned() }).collect();
        println!("== {}: {which}, IPv{}: {}", shape.name, addresses.join(" and IPv"), words.join(" "));
        check(&mut results, shape, pod, &Network::of(namespace, pod.addresses));
    }
    println!("end: {}: {} checks, {} failed", shape.name, results.checks, results.failures);
}

fn check(results: &mut Results, shape: &Shape, pod: &Pod, network: &Network) {
    let mesh = if pod.words[0] == "istio" { ISTIO } else { LINKERD };
    let run = |verb: &str, options: &[&str]| network.pod.mesh_init(&[&[verb], pod.words, options].concat()).backend("auto").run();
    check_privileges(results, &network.pod);

    let tables = network.pod.legacy_tables();
    check_preflight(results, &run("preflight", &["--format", "json"]), shape, &pod.preflight);
    let after = network.pod.legacy_tables();
    results.tell(tables == after, "legacy tables after preflight", &format!("{after:?}"), &format!("{tables:?}"));

    let drop_in = || network.pod.mesh_init(&pod.words[1..]).called(mesh.drop_in).backend("auto").run();
    fs::write(TERMINATION_LOG, "").unwrap();
    let applied = run("apply", &[]);
    check_last_words(results, &applied);
    match pod.outcome {
        Outcome::Captured { said, probe, .. } => {
            verdict(results, "apply", &applied, 0, &[&["installed and verified: "], said].concat());
            verdict(results, "apply again", &run("apply", &[]), 0, &[&["already in place: "], said].concat());
            verdict(results, "apply --probe", &run("apply", &["--probe"]), 0, probe);
            verdict(results, mesh.drop_in, &drop_in(), 0, &["already in place: ", "COMMIT"]);
            verdict(results, "verify", &run("verify", &[]), 0, &[&["in place: "], said].concat());
            verdict(results, "verify --probe", &run("verify", &["--probe"]), 0, probe);
        }
        Outcome::Refused { apply, verify, probe } => {
            verdict(results, "apply", &applied, apply.0, apply.1);
            verdict(results, mesh.drop_in, &drop_in(), 1, apply.1);
            verdict(results, "verify", &run("verify", &[]), verify.0, verify.1);
            verdict(results, "verify --probe", &run("verify", &["--probe"]), probe.0, probe.1);
        }
    }
    {
        let _outside = Servers::tcp(&network.outside, &[PORT]);
        let _app = Servers::tcp(&network.pod, &[PORT]);
        let _proxy = Servers::transparent(&network.pod, mesh.proxy, &[mesh.outgoing, mesh.incoming]);
        let (families, removed) = match pod.outcome {
            Outcome::Captured { families, .. } => {
                let beside = run("verify", &["--probe"]);
                verdict(results, "verify --probe beside the proxy", &beside, 0, &["in place: ", "listens already"]);
                (families, "are removed")
            }
            Outcome::Refused { .. } => (&[][..], "nothing of"),
        };
        // They answer anything with what they saw, which is no DNS: nobody but our own clients asks them.
        let far: Vec<SocketAddr> = pod.addresses.iter().map(|family| at(of(*family, Network::FAR), 53)).collect();
        let own: Vec<SocketAddr> = pod.addresses.iter().map(|family| at(of(*family, ["127.0.0.1", "::1"]), DNS)).collect();
        let _far_dns = Servers::udp(&network.outside, (0, 0), &far);
        let _dns = Servers::udp(&network.pod, mesh.proxy, &own);
        check_connections(results, network, &mesh, pod, families);
        verdict(results, "remove", &network.pod.mesh_init(&["remove", pod.words[0]]).run(), 0, &[removed]);
        check_connections(results, network, &mesh, pod, &[]);
    }
    if pod.addresses.contains(&Family::V6) {
        let (routes, passthrough) = (network.pod.policy_routes(), network.pod.lo_has_6());
        results.tell(routes.is_empty() && !passthrough, "what is left", &format!("{routes:?}, ::6 on lo: {passthrough}"), "nothing");
    }
    // With it goes its other end.
    network.pod.ip(&["link del eth0"]);
}

/// What a process may do that is started as mesh-init is.
fn check_privileges(results: &mut Results, pod: &Namespace) {
    let status = output_of(pod.command("setpriv").args(Privilege::NetAdmin.setpriv()).args(["cat", "/proc/self/status"]));
    let found: Vec<&str> = status.lines().filter(|line| line.starts_with("Cap") || line.starts_with("NoNewPrivs")).collect();
    let found = found.join(" ").replace('\t', "");
    let net_admin_alone = "CapInh:0000000000000000 CapPrm:0000000000001000 CapEff:0000000000001000 CapBnd:0000000000001000 \
                           CapAmb:0000000000000000 NoNewPrivs:1";
    results.tell(found == net_admin_alone, "privileges", &found, net_admin_alone);
}

/// Preflight's exit code, what it has to say of the packet filters (of all families that are planned, and of no other) and
/// of Kata, and what is alike in all guests.
fn check_preflight(results: &mut Results, outcome: &Run, shape: &Shape, Preflight(code, groups): &Preflight) {
    const EVERYWHERE: [Found; 5] = [
        ("kernel-release", "ok", ""),
        ("capability", "ok", "CAP_NET_ADMIN is effective"),
        ("user-namespace", "ok", ""),
        ("rules", "ok", "none are there"),
        ("gvisor", "ok", ""),
    ];
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
    let checks: Vec<&Value> = report["checks"].as_array().into_iter().flatten().collect();
    let text = |check: &Value, member: &str| check[member].as_str().unwrap_or_default().to_owned();
    let verdict = text(&report, "verdict");
    let right = outcome.code == *code && report["exit_code"] == *code && (verdict == "blocker") == (*code == 4);
    results.tell(right, "preflight", &format!("{}: {verdict}{}", outcome.code, outcome.stderr.trim_end()), &code.to_string());

    let mut expected: Vec<Found> = groups.concat();
    let is_filter = |name: &str| name.starts_with("nftables-") || name.starts_with("legacy-");
    let found: Vec<String> = checks.iter().map(|check| text(check, "name")).filter(|name| is_filter(name)).collect();
    let mut unexpected = found.clone();
    unexpected.retain(|name| !expected.iter().any(|(known, _, _)| known == name));
    results.tell(unexpected.is_empty(), "preflight asks", &found.join(" "), "not all of them");

    expected.extend(EVERYWHERE);
    expected.push(("kata", "ok", shape.kata));
    for (name, verdict, evidence) in expected {
        let of_name: Vec<&&Value> = checks.iter().filter(|check| check["name"] == name).collect();
        let right = |check: &Value| {
            let has_remedy = !text(check, "remedy").is_empty();
            check["verdict"] == verdict && text(check, "evidence").contains(evidence) && (has_remedy || verdict != "blocker")
        };
        let all_right = matches!(of_name[..], [check] if right(check));
        let told: Vec<String> = of_name.iter().map(|check| format!("{}: {}", text(check, "verdict"), text(check, "evidence"))).collect();
        results.tell(all_right, &format!("preflight {name}"), &told.join(" | "), &format!("{verdict}: {evidence:?}"));
    }
}

fn verdict(results: &mut Results, what: &str, outcome: &Run, code: i32, words: &[&str]) {
    let text = outcome.text();
    let right = outcome.code == code && words.iter().all(|word| text.contains(word));
    let found = text.trim_end().replace('\n', " | ");
    // What a success prints besides is seen elsewhere.
    let found = if right && found.len() > 400 { format!("{}…", found.chars().take(400).collect::<String>()) } else { found };
    results.tell(right, what, &format!("{}: {found}", outcome.code), &format!("{code}, {words:?}"));
}

/// What stands in the termination log: nothing, or the line that ended the run.
fn check_last_words(results: &mut Results, outcome: &Run) {
    let last_words = fs::read_to_string(TERMINATION_LOG).unwrap();
    let last_words = last_words.trim_end();
    let lines = outcome.lines();
    let expected = if outcome.code == 0 { "" } else { lines.last().map_or("", |line| line.trim_start_matches("mesh-init: error: ")) };
    let right = if outcome.code == 0 { last_words.is_empty() } else { !last_words.is_empty() && last_words.ends_with(expected) };
    results.tell(right, "termination log", if last_words.is_empty() { "empty" } else { "the error" }, expected);
}

/// Where connections come out: the application's outgoing one, one from outside, and the proxy's own; and its question to
/// a DNS server, if that is to be captured.
fn check_connections(results: &mut Results, network: &Network, mesh: &Mesh, pod: &Pod, captured: &[Family]) {
    for family in pod.addresses {
        let captured = captured.contains(family);
        let (far, own) = (at(of(*family, Network::FAR), PORT), at(of(*family, Network::POD), PORT));
        // What TPROXY gives to the proxy still has its destination.
        let incoming = if pod.words.contains(&"TPROXY") { (mesh.incoming, None) } else { (mesh.incoming, Some(own)) };
        let connections = [
            ("the application's connection", &network.pod, APP, far, (mesh.outgoing, Some(far))),
            ("a connection from outside", &network.outside, APP, own, incoming),
        ];
        for (what, from, who, to, by_proxy) in connections {
            let expected = if captured { by_proxy } else { (PORT, None) };
            connection(results, &format!("{what} to {to}"), from, who, to, expected);
        }
        connection(results, &format!("the proxy's connection to {far}"), &network.pod, mesh.proxy, far, (PORT, None));
        if pod.words.contains(&"--redirect-dns") {
            let server = SocketAddr::new(far.ip(), 53);
            let expected = if captured { DNS } else { 53 };
            // An answer counts only if it comes from the address that was asked.
            let (found, right) = match network.pod.ask(APP, server) {
                Ok(seen) => (format!("port {}", seen.port), seen.port == expected),
                Err(error) => (error.to_string(), false),
            };
            results.tell(right, &format!("the application's question to {server}"), &found, &format!("port {expected}"));
        }
    }
}

/// The one of two addresses that is of a family.
fn of(family: Family, addresses: [&'static str; 2]) -> &'static str {
    addresses[usize::from(family == Family::V6)]
}

/// Connects, and sees which port is reached and where the connection had been going.
fn connection(results: &mut Results, what: &str, from: &Namespace, who: Who, to: SocketAddr, expected: (u16, Option<SocketAddr>)) {
    let words = |(port, original): (u16, Option<SocketAddr>)| {
        format!("port {port}{}", original.map_or_else(String::new, |original| format!(", original destination {original}")))
    };
    let found = from.connect(who, to).map(|seen| (seen.port, seen.original));
    let text = found.map_or_else(|error| error.to_string(), words);
    results.tell(found == Ok(expected), what, &text, &words(expected));
}
