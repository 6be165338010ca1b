//! All or nothing in nf_tables too: whichever system call fails, the pod ends either as planned or exactly as it was, whoever's
//! rules were there before.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;

use common::fixture::{Vector, vector};
use common::native::{Native, natives};
use common::nft::line_differences;
use common::original::{add_foreign, original};
use common::{Family, Namespace, check_all, strace};

/// Everything in nf_tables that may be restored, table by table; a chain that was made anew is listed last.
fn snapshot(pod: &Namespace) -> BTreeMap<String, Vec<String>> {
    let mut state: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for family in Family::BOTH {
        let text = String::from_utf8(pod.iptables_nft_save(family, true).stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        state.insert(format!("iptables-nft {family:?}"), lines);
        // A legacy table that has come into being stays there, empty.
        let text = pod.legacy_save_counted(family).lines().into_iter().filter(|line| line.contains("-A ")).collect();
        state.insert(format!("iptables-legacy {family:?}"), text);
    }
    for table in
        pod.nft("list tables").lines().filter(|table| !table.ends_with(" nat") && !table.ends_with(" raw") && !table.ends_with(" mangle"))
    {
        state.insert(table.to_owned(), vec![pod.nft(&format!("list {table}"))]);
    }
    state.insert("routing".to_owned(), vec![pod.routing_text(), pod.lo_has_6().to_string()]);
    state
}

/// Lets the nth of these calls fail, for every nth there is, and looks at the pod afterwards.
fn fail_each(prepare: &(dyn Fn() -> Namespace + Sync), vector: &Vector, backend: &str, calls: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for nth in 1..200 {
        let pod = prepare();
        let was = snapshot(&pod);
        let program = vector.program(&pod, &["apply", vector.mesh]).backend(backend).env("MESH_INIT_DEADLINE", "5s");
        let options = [format!("trace={calls}"), format!("inject={calls}:error=ENOMEM:when={nth}")];
        let ended = strace::start(&pod, &program, &["-e", &options[0], "-e", &options[1]]).end();
        let injected = ended.calls.iter().any(|call| call.contains("(INJECTED)"));
        if !injected {
            assert_eq!(ended.code, Some(0), "{}", ended.text);
            return problems;
        }
        let is = snapshot(&pod);
        if ended.code == Some(0) {
            let verified = vector.program(&pod, &["verify", vector.mesh]).backend("auto").run();
            if verified.code != 0 {
                problems.push(format!("call {nth} failed, exit 0: {verified}"));
            }
        } else {
            for (part, lines) in &was {
                let now = is.get(part).cloned().unwrap_or_default();
                let differences = line_differences(&lines.join("\n"), &now.join("\n"));
                if !differences.is_empty() {
                    problems.push(format!("call {nth} failed, exit {:?}: {part}:\n{}", ended.code, differences.join("\n")));
                }
            }
            problems.extend(is.keys().filter(|part| !was.contains_key(*part)).map(|part| format!("call {nth} failed: {part} is new")));
            if ended.text.trim().is_empty() {
                problems.push(format!("call {nth} failed, exit {:?}, and nothing is said", ended.code));
            }
        }
    }
    problems.push("a run that needs more than two hundred calls".to_owned());
    problems
}

#[test]
fn a_failed_call_leaves_everything_as_it_was() {
    require_root!();
    if !strace::strace_or_skip() {
        return;
    }
    let everything = vector("tproxy-everything");
    let (default, other) = (vector("dual-stack"), vector("dns-both"));
    let native = natives().into_iter().find(|native: &Native| native.name == "tproxy").unwrap();
    let clean = || everything.pod();
    let from_iptables_nft = || {
        let pod = original(&default);
        add_foreign(&pod);
        pod
    };
    // Sets, maps and objects, used or not, in tables that are replaced as a whole.
    let extras = |pod: &Namespace, table: &str, chain: &str| {
        for command in [
            &format!("add counter {table} seen '{{ packets 9 bytes 900 }}'"),
            &format!("add rule {table} {chain} tcp dport 2 counter name seen"),
            &format!("add set {table} known '{{ type ipv4_addr; flags interval; elements = {{ 192.0.2.0/24, 198.51.100.1 }} }}'"),
            &format!("add rule {table} {chain} ip saddr @known counter return"),
            &format!("add set {table} idle '{{ type inet_service; elements = {{ 7, 8 }} }}'"),
            &format!("add map {table} ways '{{ type inet_service : verdict; elements = {{ 77 : jump {chain} }} }}'"),
        ] {
            pod.nft(command);
        }
    };
    let from_native = || {
        let pod = default.pod();
        native.load(&pod);
        extras(&pod, "inet istio-proxy-nat", "istio-redirect");
        pod
    };
    let from_own = || {
        let pod = other.pod();
        default.program(&pod, &["apply", "istio"]).backend("nftables").run().expect(0);
        pod.nft("add rule ip mesh-init ISTIO_REDIRECT tcp dport 1 counter return");
        extras(&pod, "ip mesh-init", "ISTIO_REDIRECT");
        pod
    };
    let from_legacy = || {
        let pod = other.pod();
        default.program(&pod, &["apply", "istio"]).backend("legacy").run().expect(0);
        pod
    };
    type Prepare<'a> = &'a (dyn Fn() -> Namespace + Sync);
    let places: [(&str, Prepare<'_>, &Vector, &str); 6] = [
        ("a clean pod", &clean, &everything, "nftables"),
        ("iptables-nft's rules", &from_iptables_nft, &other, "nftables"),
        ("Istio's own nft rules", &from_native, &default, "nftables"),
        ("our own rules", &from_own, &other, "nftables"),
        ("legacy rules", &from_legacy, &other, "nftables"),
        ("our own rules, to the legacy filter", &from_own, &other, "legacy"),
    ];
    let cases: Vec<_> = places.into_iter().flat_map(|place| ["sendto,sendmsg", "recvfrom"].map(|calls| (place, calls))).collect();
    check_all(
        &cases,
        |((name, _, _, backend), calls)| format!("{name}, {backend}, {calls}"),
        |((_, prepare, after, backend), calls)| fail_each(*prepare, after, backend, calls),
    );
}
