//! What `dump` prints: plans for a pod that is elsewhere, and what the kernel holds, foreign rules included, as text that
//! iptables loads and as JSON with the members that are documented.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::vector;
use common::{Family, Namespace, Outcome, Privilege, Saved};
use serde_json::{Value, json};

const ISTIO: [&str; 9] = ["istio", "--dual-stack", "-m", "TPROXY", "-b", "*", "-i", "*", "--drop-invalid"];
const POD: [&str; 2] = ["10.9.0.2/24", "2001:db8:9::2/64"];

fn dump(pod: &Namespace, words: &[&str]) -> Outcome {
    pod.mesh_init(&[&["dump"], words].concat()).run().expect(0)
}

fn dump_json(pod: &Namespace, words: &[&str]) -> Value {
    serde_json::from_str(&dump(pod, &[words, &["--format", "json"]].concat()).stdout).unwrap()
}

/// The members of an object, in the order of their names.
fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn list<'a>(value: &'a Value, member: &str) -> &'a Vec<Value> {
    value[member].as_array().unwrap_or_else(|| panic!("{member} of {value}"))
}

/// Fails unless `value` has all of `always`, and besides only what is among `sometimes`.
#[track_caller]
fn assert_members(value: &Value, always: &[&str], sometimes: &[&str]) {
    let members = members(value);
    assert!(always.iter().all(|member| members.contains(member)), "{always:?}: {value}");
    assert!(members.iter().all(|member| always.contains(member) || sometimes.contains(member)), "{always:?} {sometimes:?}: {value}");
}

/// Checks the form of the rule sets in a dump and returns all of its rules, with the family and the names of table and
/// chain.
fn checked_rules(dump: &Value, live: bool) -> Vec<(u64, String, String, Value)> {
    let mut rules = Vec::new();
    for set in list(dump, "rulesets") {
        let place: &[&str] = if live { &["backend", "form"] } else { &[] };
        assert_members(set, &[&["family", "tables"], place].concat(), &[]);
        let family = set["family"].as_u64().unwrap();
        assert!([4, 6].contains(&family));
        for table in list(set, "tables") {
            assert_members(table, &["table", "chains"], &[]);
            for chain in list(table, "chains") {
                assert_members(chain, &["chain", "rules"], &["hook", "policy", "packets", "bytes", "owner"]);
                let base = chain.get("hook").is_some();
                let name = chain["chain"].as_str().unwrap();
                assert_eq!(base, ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&name), "{chain}");
                if base {
                    assert_eq!(chain["hook"], name.to_lowercase());
                }
                assert_eq!(chain.get("owner").is_some(), live && !base, "{chain}");
                assert_eq!(chain.get("policy").is_some(), live && base, "{chain}");
                for rule in list(chain, "rules") {
                    let counted: &[&str] = if live { &["owner", "packets", "bytes"] } else { &[] };
                    assert_members(rule, &[&["rule", "matches", "target"], counted].concat(), &["comment"]);
                    assert!(rule["rule"].as_str().unwrap().contains(name), "{rule}");
                    for wanted in list(rule, "matches") {
                        assert_members(wanted, &["match", "negated", "value"], &["opaque"]);
                        assert!(wanted["match"].is_string() && wanted["negated"].is_boolean() && wanted["value"].is_string(), "{wanted}");
                    }
                    assert_members(&rule["target"], &["target"], &["value", "mark", "opaque"]);
                    rules.push((family, table["table"].as_str().unwrap().to_owned(), name.to_owned(), rule.clone()));
                }
            }
        }
    }
    rules
}

#[test]
fn a_plan_as_json_has_rules_and_routing() {
    require_root!();
    let pod = Namespace::pod(&POD);
    let plan = dump_json(&pod, &ISTIO);
    assert_members(&plan, &["subject", "rulesets", "routing"], &[]);
    assert_eq!(plan["subject"], "istio");
    assert_eq!(
        plan["routing"],
        json!({
            "loopback_addresses": ["::6/128"],
            "policy": [{"family": 4, "mark": 1337, "table": 133}, {"family": 6, "mark": 1337, "table": 133}],
        })
    );
    let rules = checked_rules(&plan, false);
    let text = dump(&pod, &ISTIO).stdout;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('-')).collect();
    assert_eq!(rules.iter().map(|(_, _, _, rule)| rule["rule"].as_str().unwrap()).collect::<Vec<_>>(), lines);
    let tproxy = rules.iter().find(|(family, _, chain, _)| (*family, chain.as_str()) == (6, "ISTIO_TPROXY")).unwrap();
    assert_eq!(
        tproxy.3,
        json!({
            "rule": "-A ISTIO_TPROXY ! -d ::1/128 -p tcp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff",
            "matches": [
                {"match": "destination", "negated": true, "value": "::1/128"},
                {"match": "protocol", "negated": false, "value": "tcp"},
            ],
            "target": {"target": "tproxy", "value": "15006", "mark": "0x539/0xffffffff"},
        })
    );

    let linkerd = dump_json(&pod, &["linkerd", "-p", "4143", "-o", "4140"]);
    assert_eq!((&linkerd["subject"], &linkerd["routing"]), (&json!("linkerd"), &json!({"loopback_addresses": [], "policy": []})));
    for (_, _, _, rule) in checked_rules(&linkerd, false) {
        assert!(rule["comment"].as_str().unwrap().starts_with("proxy-init/"), "{rule}");
    }
}

#[test]
fn live_rules_as_json_have_owners_and_counters() {
    require_root!();
    let pod = Namespace::pod(&POD);
    pod.mesh_init(&[&["apply"], &ISTIO[..]].concat()).run().expect(0);
    pod.mesh_init(&["apply", "linkerd", "-p", "4143", "-o", "4140"]).run().expect(0);
    pod.legacy_restore(
        Family::V4,
        "*filter\n:INPUT DROP [0:0]\n:MINE - [0:0]\n-A INPUT -p icmp -j MINE\n-A MINE -m comment --comment \"not \\\"ours\\\"\" -j RETURN\nCOMMIT\n",
    );
    let live = dump_json(&pod, &["live"]);
    assert_members(&live, &["subject", "backends", "rulesets", "foreign_tables"], &[]);
    assert_eq!((&live["subject"], &live["foreign_tables"]), (&json!("live"), &json!([])));
    let backend = |mesh| json!({"mesh": mesh, "backend": "legacy", "why": format!("rules of {mesh} are in the legacy packet filter")});
    assert_eq!(live["backends"], json!([backend("istio"), backend("linkerd")]));
    let rules = checked_rules(&live, true);
    for (_, table, chain, rule) in &rules {
        let text = rule["rule"].as_str().unwrap();
        let owner = match (chain.as_str(), table.as_str()) {
            (_, "filter") => "foreign",
            ("PREROUTING" | "OUTPUT", _) if text.contains("PROXY_INIT") => "linkerd",
            _ if chain.starts_with("PROXY_INIT_") => "linkerd",
            _ => "istio",
        };
        assert_eq!(rule["owner"], owner, "{table} {rule}");
    }
    let filter = &list(&live["rulesets"][0], "tables").iter().find(|table| table["table"] == "filter").unwrap()["chains"];
    assert_eq!((&filter[0]["chain"], &filter[0]["policy"]), (&json!("INPUT"), &json!("DROP")));
    let mine = rules.iter().find(|(_, _, chain, _)| chain == "MINE").unwrap();
    assert_eq!(mine.3["comment"], "not \"ours\"");
}

/// Rules with matches and targets that no mesh uses.
const FOREIGN: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:FOREIGN - [0:0]
[7:700] -A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.9.9:8080
[8:800] -A OUTPUT -m addrtype --dst-type LOCAL -j FOREIGN
[9:900] -A OUTPUT -p tcp -j FOREIGN
[10:1000] -A POSTROUTING -s 203.0.113.0/24 ! -o lo -j MASQUERADE
[11:1100] -A FOREIGN -p udp -m udp --sport 1:9 --dport 53 -g FOREIGN_2
[13:1300] -A FOREIGN_2 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
[12:1200] -A INPUT -m limit --limit 5/min -j LOG --log-prefix "seen: "
COMMIT
"#;

#[test]
fn foreign_rules_are_shown_whether_known_or_not() {
    require_root!();
    let pod = Namespace::pod(&POD);
    let foreign = FOREIGN.replace(":FOREIGN - [0:0]", ":FOREIGN - [0:0]\n:FOREIGN_2 - [0:0]");
    common::namespace::feed(pod.command("iptables-legacy-restore").arg("--counters"), &foreign);
    let text = dump(&pod, &["live", "--family", "4"]).stdout;
    // What has no words is a comment that names it, its rule's counters, and all that is known besides.
    for (start, parts) in [
        ("# [7:700] -A PREROUTING ", &["-d 203.0.113.1/32", "-p tcp -m tcp --dport 80", "-j DNAT <revision "][..]),
        ("# [8:800] -A OUTPUT ", &["-m addrtype <revision ", "-j FOREIGN"]),
        ("# [10:1000] -A POSTROUTING ", &["-s 203.0.113.0/24", "! -o lo", "-j MASQUERADE <revision 0, "]),
        ("# [12:1200] -A INPUT ", &["-m limit <revision 0, ", "-j LOG <revision 0, "]),
    ] {
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}\n{text}"));
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }
    for line in [
        "[9:900] -A OUTPUT -p tcp -j FOREIGN",
        "[11:1100] -A FOREIGN -p udp -m udp --sport 1:9 --dport 53 -g FOREIGN_2",
        "[13:1300] -A FOREIGN_2 -j RETURN",
        ":FORWARD DROP [0:0]",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // The rest loads, counters and all.
    let elsewhere = Namespace::new();
    common::namespace::feed(elsewhere.command("iptables-legacy-restore").args(["--noflush", "--counters"]), &text);
    let without: Vec<String> = foreign
        .lines()
        .filter(|line| !["limit", "addrtype", "DNAT", "MASQ"].iter().any(|word| line.contains(word)))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let judge = Namespace::new();
    common::namespace::feed(judge.command("iptables-legacy-restore").arg("--counters"), &without.concat());
    let rules = |pod: &Namespace| -> Vec<String> {
        pod.legacy_save_counted(Family::V4).lines().into_iter().filter(|line| line.contains("-A ")).collect()
    };
    assert_eq!(rules(&elsewhere), rules(&judge));
    assert_eq!(rules(&elsewhere).len(), 3);

    let live = dump_json(&pod, &["live", "--family=4"]);
    let rules = checked_rules(&live, true);
    assert_eq!(rules.len(), 7);
    for (_, _, _, rule) in &rules {
        assert_eq!(rule["owner"], "foreign");
        assert_eq!(rule["bytes"].as_u64().unwrap(), rule["packets"].as_u64().unwrap() * 100, "{rule}");
    }
    let log = rules.iter().find(|(_, table, _, _)| table == "filter").unwrap();
    assert_eq!(
        (&log.3["matches"][0]["match"], &log.3["target"]["target"], &log.3["target"]["value"]),
        (&json!("opaque"), &json!("opaque"), &json!("LOG"))
    );
    let data = log.3["target"]["opaque"]["data"].as_str().unwrap();
    let prefix: String = "seen: ".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(data.contains(&prefix), "nothing of a rule is hidden: {log:?}");
}

#[test]
fn a_plan_in_the_kernel_is_dumped_as_it_was_planned() {
    require_root!();
    let vector = vector("tproxy-everything");
    let (pod, elsewhere) = (vector.pod(), Namespace::new());
    vector.verb(&pod, "apply").expect(0);
    for family in Family::BOTH {
        let live = pod.mesh_init(&["dump", "live", "--family", family.digit()]).run().expect(0);
        assert!(!live.stdout.lines().any(|line| line.starts_with("# [")), "every rule has words: {live}");
        elsewhere.legacy_restore(family, &live.stdout);
        assert_eq!(pod.legacy_save(family).differences(&elsewhere.legacy_save(family)), Vec::<String>::new());
    }
}

/// The text without `[packets:bytes]`: the kernel's own packets are counted too.
fn without_counters(text: &str) -> String {
    let plain = |line: &str| line.split(' ').filter(|word| !word.starts_with('[')).collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(plain).collect()
}

#[test]
fn families_are_chosen() {
    require_root!();
    let pod = Namespace::pod(&POD);
    pod.mesh_init(&[&["apply"], &ISTIO[..]].concat()).run().expect(0);
    for subject in [&ISTIO[..], &["live"]] {
        let families = |words: &[&str]| -> Vec<u64> {
            let dump = dump_json(&pod, &[subject, words].concat());
            list(&dump, "rulesets").iter().map(|set| set["family"].as_u64().unwrap()).collect()
        };
        assert_eq!(families(&[]), [4, 6]);
        assert_eq!(families(&["--family", "all"]), [4, 6]);
        assert_eq!(families(&["--family", "4"]), [4]);
        assert_eq!(families(&["--family=6"]), [6]);
        let text = |family| without_counters(&dump(&pod, &[subject, &["--family", family]].concat()).stdout);
        assert_eq!(text("4") + &text("6"), text("all"));
        let place = if subject == ["live"] { ", in the legacy packet filter" } else { "" };
        assert!(text("6").starts_with(&format!("# IPv6{place}: ip6tables-restore --noflush\n")), "{}", text("6"));
    }
    for (words, flag) in [(["--family", "5"], "--family"), (["--format", "yaml"], "--format")] {
        let outcome = pod.mesh_init(&[&["dump", "live"], &words[..]].concat()).run().expect(2);
        assert!(outcome.lines().len() == 1 && outcome.stderr.contains(flag) && outcome.stderr.contains(words[1]), "{outcome}");
    }
}

#[test]
fn a_plan_needs_no_privilege_and_touches_nothing() {
    require_root!();
    let pod = Namespace::pod(&POD);
    let usual = dump(&pod, &ISTIO).stdout;
    for privilege in [Privilege::None(65534), Privilege::RootWithout] {
        let words = [&["dump"], &ISTIO[..]].concat();
        let outcome = pod.mesh_init(&words).with(privilege).read_only().run().expect(0);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), (usual.as_str(), ""));
    }
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
}

#[test]
fn live_rules_need_the_capability_and_the_reason_for_its_absence_is_told() {
    require_root!();
    let pod = Namespace::pod(&POD);
    for (privilege, sentence) in [
        (Privilege::None(65534), "it was not granted to this container; add NET_ADMIN"),
        (Privilege::RootWithout, "it was not granted to this container; add NET_ADMIN"),
        (Privilege::Granted(65534), "user 65534 is not root and the program has no file capability"),
    ] {
        let outcome = pod.mesh_init(&["dump", "live"]).with(privilege).run().expect(10);
        assert!(outcome.stdout.is_empty() && outcome.lines().len() == 1, "{outcome}");
        assert!(outcome.stderr.contains("CAP_NET_ADMIN is missing") && outcome.stderr.contains(sentence), "{outcome}");
    }
    dump(&pod, &["live"]);
    assert_eq!(pod.legacy_tables(), Vec::<String>::new(), "to look at tables does not make them");
    pod.mesh_init(&["dump", "live"]).with(Privilege::Ambient(65534)).run().expect(0);
}

#[test]
fn addresses_servers_and_groups_stand_in_for_a_pod() {
    require_root!();
    let nowhere = Namespace::new();
    let words = ["dump", "istio", "--dual-stack", "-b", "*", "--redirect-dns", "-u", "1337"];
    // Not even an address of its own: there is nothing to plan for.
    let outcome = nowhere.mesh_init(&words).run().expect(1);
    assert!(outcome.lines().len() == 1 && outcome.stdout.is_empty(), "{outcome}");

    let groups = nowhere.file("groups", "java:x:4321:\n").display().to_string();
    let stand_in = |words: &[&str], more: &[&str]| {
        let program = nowhere.mesh_init(&[words, more].concat()).env("ISTIO_OUTBOUND_OWNER_GROUPS", "java").with(Privilege::None(65534));
        program.run().expect(0).stdout
    };
    let all = ["--pod-ip", "10.9.0.2,2001:db8:9::2", "--dns-server", "192.0.2.53", "--dns-server=2001:db8::53", "--group-file", &groups];
    let text = stand_in(&words, &all);
    for part in ["# IPv6: ", "-d 192.0.2.53/32 -p tcp -m tcp --dport 53", "-d 2001:db8::53/128 -p udp", "! --gid-owner 4321"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // As `ip address` prints them, and by variables.
    let with_lengths = ["--pod-ip", "10.9.0.2/24", "--pod-ip", "2001:db8:9::2/64"];
    assert_eq!(stand_in(&words, &[&with_lengths[..], &all[2..]].concat()), text);
    let by_variables = nowhere
        .mesh_init(&words)
        .env("ISTIO_OUTBOUND_OWNER_GROUPS", "java")
        .env("MESH_INIT_POD_IP", "10.9.0.2,2001:db8:9::2")
        .env("MESH_INIT_DNS_SERVER", "192.0.2.53,2001:db8::53")
        .env("MESH_INIT_GROUP_FILE", &groups)
        .run()
        .expect(0);
    assert_eq!(by_variables.stdout, text);
    // Without IPv6 there are no rules of it, and the text is one that iptables loads.
    let v4 = stand_in(&words, &[&["--pod-ip", "10.9.0.2"], &all[2..]].concat());
    assert!(!v4.contains("IPv6"), "{v4}");
    nowhere.legacy_restore(Family::V4, &v4);
    assert_ne!(nowhere.legacy_save(Family::V4), Saved::default());

    for (flag, value) in [("--pod-ip", "10.9.0"), ("--dns-server", "dns.example"), ("--pod-ip", "2001:db8::g")] {
        let outcome = nowhere.mesh_init(&[&words[..], &[flag, value]].concat()).run().expect(2);
        assert!(outcome.lines().len() == 1 && outcome.stderr.contains(flag) && outcome.stderr.contains(value), "{outcome}");
    }
    // A file that is not there matters to those alone who name a group.
    let missing = ["--pod-ip", "10.9.0.2", "--dns-server", "192.0.2.53", "--group-file", "/nonexistent/group"];
    nowhere.mesh_init(&[&words[..], &missing].concat()).run().expect(0);
    let outcome = nowhere.mesh_init(&[&words[..], &missing].concat()).env("ISTIO_OUTBOUND_OWNER_GROUPS", "java").run();
    assert!(
        [1, 2].contains(&outcome.code) && outcome.stderr.contains("java") && outcome.stderr.contains("/nonexistent/group"),
        "{outcome}"
    );
}
