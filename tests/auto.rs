//! The backend is chosen by the kernel: what one packet filter lacks or refuses, the other one is given; if neither takes
//! the rules, one error says why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::nft::assert_in_place;
use common::seccomp::{Level, Refusal};
use common::{Family, Namespace, Outcome, Privilege};

const ISTIO: [&str; 5] = ["istio", "-b", "*", "-i", "*"];

fn pod() -> Namespace {
    Namespace::pod(&["10.9.0.2/24"])
}

fn run(pod: &Namespace, verb: &str, more: &[&str], refusals: &[Refusal]) -> Outcome {
    pod.mesh_init(&[&[verb], &ISTIO[..], more].concat()).backend("auto").refusing(refusals.to_vec()).run()
}

fn is_in_nf_tables(pod: &Namespace) -> bool {
    pod.nft("list tables").contains("mesh-init")
}

fn is_in_legacy(pod: &Namespace) -> bool {
    !pod.legacy_save(Family::V4).rules("nat", "OUTPUT").is_empty()
}

#[test]
fn a_kernel_without_nf_tables_gets_legacy_rules() {
    require_root!();
    for refusals in [Refusal::no_netfilter_netlink(), Refusal::forbidden_netfilter_netlink()] {
        let pod = pod();
        let outcome = run(&pod, "apply", &[], &refusals).expect(0);
        assert!(outcome.text().contains("backend: legacy (") && outcome.text().contains("no nf_tables"), "{outcome}");
        assert!(outcome.warnings().is_empty(), "{outcome}");
        assert!(is_in_legacy(&pod) && !is_in_nf_tables(&pod));
        run(&pod, "verify", &[], &refusals).expect(0);
        assert_in_place(run(&pod, "apply", &[], &refusals));
        // The rules stay where they are, whatever else there is.
        assert_in_place(run(&pod, "apply", &[], &[]));
    }
}

#[test]
fn a_kernel_without_the_legacy_filter_gets_nf_tables_rules() {
    require_root!();
    let refusals = [Refusal::no_filter(Level::V4), Refusal::no_filter(Level::V6)].concat();
    let pod = pod();
    for verb in ["apply", "verify", "apply"] {
        let outcome = run(&pod, verb, &[], &refusals).expect(0);
        assert!(outcome.text().contains("backend: nftables ("), "{outcome}");
    }
    assert!(is_in_nf_tables(&pod));
    pod.mesh_init(&["dump", "live"]).backend("auto").refusing(refusals.clone()).run().expect(0);
    pod.mesh_init(&["remove"]).backend("auto").refusing(refusals).run().expect(0);
    assert!(!is_in_nf_tables(&pod));
}

#[test]
fn a_kernel_without_either_gets_one_error_with_both_reasons() {
    require_root!();
    let no_legacy = [Refusal::no_filter(Level::V4), Refusal::no_filter(Level::V6)].concat();
    let refusals = [no_legacy, Refusal::no_netfilter_netlink()].concat();
    let pod = pod();
    for verb in ["apply", "verify"] {
        let outcome = run(&pod, verb, &[], &refusals).expect(12);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
        for word in ["nf_tables", "legacy", "CONFIG_NF_TABLES=y", "CONFIG_IP_NF_NAT=y"] {
            assert!(outcome.text().contains(word), "{word}: {outcome}");
        }
    }
    let lacking = [Refusal::no_features(Level::V4), Refusal::no_netfilter_netlink()].concat();
    let outcome = run(&pod, "apply", &[], &lacking).expect(13);
    assert!(outcome.text().contains("match owner") && outcome.text().contains("nf_tables"), "{outcome}");
    assert_eq!(pod.nft_ruleset(), "");
}

#[test]
fn a_backend_that_is_asked_for_and_missing_is_an_error() {
    require_root!();
    let pod = pod();
    let outcome = run(&pod, "apply", &["--backend", "nftables"], &Refusal::no_netfilter_netlink()).expect(12);
    assert!(outcome.text().contains("nf_tables") && !outcome.text().contains("legacy"), "{outcome}");
    run(&pod, "apply", &["--backend", "legacy"], &Refusal::no_filter(Level::V4)).expect(12);
    run(&pod, "apply", &["--backend", "pf"], &[]).expect(2);
    assert_eq!(pod.nft_ruleset(), "");
}

#[test]
fn what_the_meshs_flags_prefer_falls_back_with_a_warning() {
    require_root!();
    let no_legacy = [Refusal::no_filter(Level::V4), Refusal::no_filter(Level::V6)].concat();
    let linkerd = ["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"];
    let cases: [(&[&str], &str, Vec<Refusal>); 6] = [
        (&[&ISTIO[..], &["--native-nftables"]].concat(), "nftables", Refusal::no_netfilter_netlink()),
        (&[&ISTIO[..], &["--force-iptables-binary", "legacy"]].concat(), "legacy", no_legacy.clone()),
        (&[&ISTIO[..], &["--force-iptables-binary", "nft"]].concat(), "nftables", Refusal::no_netfilter_netlink()),
        (&[&linkerd[..], &["--iptables-mode", "nft"]].concat(), "nftables", Refusal::no_netfilter_netlink()),
        (&[&linkerd[..], &["--firewall-bin-path", "iptables-nft"]].concat(), "nftables", Refusal::no_netfilter_netlink()),
        (&[&linkerd[..], &["--iptables-mode", "legacy"]].concat(), "legacy", no_legacy),
    ];
    for (arguments, preferred, refusals) in cases {
        let apply = |pod: &Namespace, refusals: &[Refusal]| {
            pod.mesh_init(&[&["apply"], arguments].concat()).backend("auto").refusing(refusals.to_vec()).run().expect(0)
        };
        let pod = pod();
        let outcome = apply(&pod, &[]);
        let is_preferred = |outcome: &Outcome| outcome.lines().last().unwrap().contains(&format!(" ({preferred}, "));
        assert!(is_preferred(&outcome) && outcome.warnings().is_empty(), "{outcome}");
        let pod = self::pod();
        let outcome = apply(&pod, &refusals);
        assert!(!is_preferred(&outcome), "{outcome}");
        let warnings = outcome.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(&format!("asks for {preferred}")), "{outcome}");
        let again = apply(&pod, &refusals);
        assert!(again.text().contains("already in place"), "{again}");
    }
}

#[test]
fn families_go_apart_where_neither_filter_takes_both() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    let dual = ["--dual-stack"];
    // Kata guests up to 3.20: legacy IPv4 and nothing for IPv6, which a pod with a global address cannot do without.
    let old_guest = [Refusal::no_filter(Level::V6), Refusal::no_netfilter_netlink()].concat();
    let outcome = run(&pod, "apply", &dual, &old_guest).expect(12);
    assert!(outcome.text().contains("IPv6") && outcome.text().contains("CONFIG_IP6_NF"), "{outcome}");
    assert!(pod.legacy_save(Family::V4).is_empty());
    // A guest with nf_tables and legacy IPv4 alone: both families go to nf_tables.
    let newer_guest = Refusal::no_filter(Level::V6);
    let outcome = run(&pod, "apply", &dual, &newer_guest).expect(0);
    assert!(outcome.text().contains("(nftables, IPv4 and IPv6)"), "{outcome}");
    run(&pod, "verify", &dual, &newer_guest).expect(0);
}

#[test]
fn ipv6_is_left_out_where_no_filter_has_it_and_nobody_needs_it() {
    require_root!();
    let pod = pod();
    let refusals = [Refusal::no_filter(Level::V6), Refusal::no_netfilter_netlink()].concat();
    let linkerd = ["linkerd", "-p", "4143", "-o", "4140"];
    for verb in ["apply", "verify", "apply"] {
        let outcome = pod.mesh_init(&[&[verb], &linkerd[..]].concat()).backend("auto").refusing(refusals.clone()).run().expect(0);
        assert!(outcome.text().contains("(legacy, IPv4)"), "{outcome}");
        let left_out: Vec<String> = outcome.warnings().into_iter().filter(|line| line.contains("IPv6 is left out")).collect();
        assert_eq!(left_out.len(), 1, "{outcome}");
    }
}

#[test]
fn a_user_who_cannot_list_legacy_tables_is_told_and_makes_none() {
    require_root!();
    let pod = pod();
    let apply = |report: &[&str]| {
        pod.mesh_init(&[&["apply"], &ISTIO[..], report].concat()).backend("auto").with(Privilege::Ambient(65534)).run().expect(0)
    };
    let outcome = apply(&["--report", "-"]);
    assert!(is_in_nf_tables(&pod));
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    let warnings = outcome.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("ip_tables_names"), "{outcome}");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(report["warnings"][0].as_str().unwrap().contains("ip_tables_names"), "{report}");
    // Asked for in so many words, the tables are looked at.
    let verify = pod.mesh_init(&[&["verify"], &ISTIO[..]].concat()).backend("auto").with(Privilege::Ambient(65534)).run().expect(0);
    assert!(verify.warnings().is_empty(), "{verify}");
}

#[test]
fn reports_say_which_backend_and_why() {
    require_root!();
    let pod = pod();
    let report = |outcome: Outcome| serde_json::from_str::<serde_json::Value>(&outcome.stdout).unwrap();
    let applied = report(run(&pod, "apply", &["--report", "-"], &[]).expect(0));
    assert_eq!((&applied["backend"], &applied["outcome"], &applied["exit_code"]), (&"nftables".into(), &"changed".into(), &0.into()));
    assert!(applied["why"].as_str().unwrap().contains("no rules of istio"), "{applied}");
    assert_eq!(applied["families"], serde_json::json!([{"family": 4, "backend": "nftables", "form": "mesh-init", "rules": 18 - 3}]));
    assert!(applied["microseconds"].as_u64().unwrap() > 0);
    let verified = report(run(&pod, "verify", &["--report", "-"], &[]).expect(0));
    assert_eq!((&verified["backend"], &verified["outcome"]), (&"nftables".into(), &"in place".into()));
    pod.nft("flush chain ip mesh-init ISTIO_REDIRECT");
    let differs = report(run(&pod, "verify", &["--report", "-"], &[]).expect(3));
    assert_eq!((&differs["outcome"], &differs["exit_code"]), (&"differs".into(), &3.into()));
    assert!(differs["differences"][0].as_str().unwrap().contains("ISTIO_REDIRECT"), "{differs}");
    let live = report(pod.mesh_init(&["dump", "live", "--format", "json"]).backend("auto").run().expect(0));
    assert_eq!((&live["backends"][0]["mesh"], &live["backends"][0]["backend"]), (&"istio".into(), &"nftables".into()));
    let file = pod.folder().join("report.json");
    let failed =
        run(&pod, "apply", &["--backend", "legacy", "--report", file.to_str().unwrap()], &Refusal::no_filter(Level::V4)).expect(12);
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&written["outcome"], &written["exit_code"]), (&"failed".into(), &12.into()), "{failed}");
    run(&pod, "apply", &["--report", "/nowhere/report.json"], &[]).expect(1);
}

#[test]
fn a_second_writer_is_no_reason_to_fail() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    let istio = |excluded: &str| {
        let arguments = ["apply", "istio", "--dual-stack", "-b", "*", "-i", "*", "-d", excluded];
        pod.mesh_init(&arguments).backend("nftables").run()
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..15 {
                    istio("15020").expect(0);
                }
            });
        }
        scope.spawn(|| {
            for number in 0..60 {
                pod.nft(&format!("add table inet foreign{number}"));
            }
        });
    });
    let tables = pod.nft("list tables");
    assert_eq!(tables.matches("foreign").count(), 60, "{tables}");
    assert!(istio("15020").expect(0).text().contains("already in place"));
}
