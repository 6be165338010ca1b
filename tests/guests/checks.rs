//! What is looked at in a guest, a line each: `ok`, or `FAIL` and what came instead.

use super::common::namespace::{Namespace, Network, run as output_of};
use super::common::traffic::{APP, ISTIO_PROXY, LINKERD_PROXY, Servers, Who, at};
use super::common::{Family, Privilege};
use super::shapes::{Pod, Shape, Verdict};

/// Nobody's business but the application's.
const PORT: u16 = 8080;

/// A mesh's ports and its proxy's user.
struct Mesh {
    outgoing: u16,
    incoming: u16,
    proxy: Who,
}

const ISTIO: Mesh = Mesh { outgoing: 15001, incoming: 15006, proxy: ISTIO_PROXY };
const LINKERD: Mesh = Mesh { outgoing: 4140, incoming: 4143, proxy: LINKERD_PROXY };

/// Counts, and writes down.
struct Results {
    shape: &'static str,
    pod: String,
    checks: usize,
    failures: usize,
}

impl Results {
    fn tell(&mut self, what: &str, found: &str, right: bool) {
        let word = if right { "ok  " } else { "FAIL" };
        println!("{word} {}: {}: {what}: {found}", self.shape, self.pod);
        self.checks += 1;
        self.failures += usize::from(!right);
    }
}

/// Every pod of the table. The first one is the guest's own network namespace, which in Kata all containers share; the
/// others are new.
pub(crate) fn run(shape: &'static Shape) {
    let mut results = Results { shape: shape.name, pod: String::new(), checks: 0, failures: 0 };
    for (index, pod) in shape.pods.iter().enumerate() {
        let namespace = if index == 0 { Namespace::of_process(1) } else { Namespace::new() };
        let stacks = pod.addresses.iter().map(|family| family.digit()).collect::<Vec<_>>().join("+");
        results.pod = format!("IPv{stacks}, {}", pod.words.join(" "));
        check(&mut results, pod, namespace);
    }
    println!("end: {} checks, {} failed", results.checks, results.failures);
}

fn check(results: &mut Results, pod: &Pod, namespace: Namespace) {
    let network = Network::of(namespace, pod.addresses);
    let mesh = if pod.words[0] == "istio" { ISTIO } else { LINKERD };
    check_privileges(results, &network.pod);
    verb(results, &network.pod, "apply", &[], pod.words, &pod.apply);
    verb(results, &network.pod, "verify", &[], pod.words, &pod.verify);
    {
        let _outside = Servers::tcp(&network.outside, &[PORT]);
        let _inside = Servers::tcp(&network.pod, &[PORT, mesh.outgoing, mesh.incoming]);
        for &family in pod.addresses {
            check_connections(results, &network, &mesh, family, pod.captured.contains(&family));
        }
        verb(results, &network.pod, "remove", &[], &pod.words[..1], &Verdict(0, &[]));
        for &family in pod.addresses {
            check_connections(results, &network, &mesh, family, false);
        }
    }
    network.pod.ip(&["link del eth0"]);
}

/// What a process that is started as mesh-init is started may do.
fn check_privileges(results: &mut Results, pod: &Namespace) {
    let status = output_of(pod.command("setpriv").args(Privilege::NetAdmin.setpriv()).args(["cat", "/proc/self/status"]));
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    let found = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"].map(value);
    let net_admin = "0000000000001000";
    let none = "0000000000000000";
    results.tell("privileges", &found.join(" "), found == [none, net_admin, net_admin, net_admin, none, "1"]);
}

fn verb(results: &mut Results, pod: &Namespace, verb: &str, options: &[&str], words: &[&str], Verdict(code, wanted): &Verdict) {
    let outcome = pod.mesh_init(&[&[verb], words, options].concat()).env("MESH_INIT_BACKEND", "auto").run();
    let text = outcome.text();
    let right = outcome.code == *code && wanted.iter().all(|word| text.contains(word));
    let found = format!("{}: {}", outcome.code, text.trim_end().replace('\n', " | "));
    results.tell(&[&[verb], options].concat().join(" "), &found, right);
}

/// Where connections of one family come out: the application's outgoing one, one from outside, and the proxy's own.
fn check_connections(results: &mut Results, network: &Network, mesh: &Mesh, family: Family, captured: bool) {
    let of = |addresses: [&str; 2]| at(addresses[usize::from(family == Family::V6)], PORT);
    let (far, own) = (of(Network::FAR), of(Network::POD));
    let connections = [
        ("the application's connection", &network.pod, APP, far, captured.then_some(mesh.outgoing)),
        ("a connection from outside", &network.outside, APP, own, captured.then_some(mesh.incoming)),
        ("the proxy's connection", &network.pod, mesh.proxy, far, None),
    ];
    for (what, from, who, to, proxy) in connections {
        let (found, right) = match from.connect(who, to) {
            Ok(seen) => {
                let original = seen.original.map_or_else(String::new, |original| format!(", original destination {original}"));
                (format!("port {}{original}", seen.port), (seen.port, seen.original) == (proxy.unwrap_or(PORT), proxy.map(|_| to)))
            }
            Err(error) => (error.to_string(), false),
        };
        results.tell(&format!("{what} to {to}"), &found, right);
    }
}
