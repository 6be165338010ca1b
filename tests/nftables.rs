//! nf_tables holds what is planned: in tables of mesh-init's own, as the real `nft` reads and writes them, and nothing else
//! is touched.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::{Vector, all_vectors, vector};
use common::nft::{assert_in_place, line_differences};
use common::{Family, Namespace, check_all};

fn installing() -> Vec<Vector> {
    all_vectors().into_iter().filter(Vector::suits_verbs).collect()
}

/// Both of mesh-init's own tables; a table that was made anew is listed behind the others.
fn own_tables(pod: &Namespace) -> String {
    Family::BOTH.map(|family| pod.nft(&format!("-s list table {} mesh-init", family.nft()))).concat()
}

fn run(vector: &Vector, pod: &Namespace, verb: &str) -> common::Outcome {
    vector.program(pod, &[verb, vector.mesh]).backend("nftables").run()
}

#[test]
fn every_vector_is_installed_and_a_second_run_changes_nothing() {
    require_root!();
    check_all(&installing(), Vector::title, |vector| {
        let pod = vector.pod();
        let first = run(vector, &pod, "apply");
        if first.code != 0 || !first.text().contains("installed and verified") {
            return vec![first.to_string()];
        }
        let mut problems = Vec::new();
        let handles = pod.nft_handles();
        let verified = run(vector, &pod, "verify");
        if verified.code != 0 {
            problems.push(verified.to_string());
        }
        let second = run(vector, &pod, "apply");
        if second.code != 0 || !second.text().contains("already in place") {
            problems.push(second.to_string());
        }
        problems.extend(line_differences(&handles, &pod.nft_handles()));
        if pod.policy_routes() != vector.policy_routes || pod.lo_has_6() != vector.lo_has_6 {
            problems.push(format!("policy routes {:?}, ::6 on lo {}", pod.policy_routes(), pod.lo_has_6()));
        }
        problems.extend(pod.legacy_tables());
        for family in Family::BOTH {
            problems.extend(pod.iptables_nft_lines(family, false));
            let tables = pod.nft("list tables");
            let own = format!("table {} mesh-init", family.nft());
            if tables.lines().any(|table| table == own) != vector.text(family).lines().next().is_some() {
                problems.push(format!("{family:?}: {tables}"));
            }
        }
        let removed = pod.mesh_init(&["remove"]).backend("nftables").run();
        if removed.code != 0 || !pod.nft_ruleset().is_empty() || pod.lo_has_6() || !pod.policy_routes().is_empty() {
            problems.push(format!("{removed}\n{}", pod.nft_ruleset()));
        }
        problems
    });
}

#[test]
fn what_dump_prints_nft_loads_as_what_apply_leaves() {
    require_root!();
    check_all(&installing(), Vector::title, |vector| {
        let (pod, elsewhere) = (vector.pod(), Namespace::new());
        let applied = run(vector, &pod, "apply");
        let dumped = vector.program(&pod, &["dump", vector.mesh, "--format", "nft"]).run();
        if applied.code != 0 || dumped.code != 0 {
            return vec![applied.to_string(), dumped.to_string()];
        }
        // Twice: it takes the place of what is there.
        elsewhere.nft_load(&dumped.stdout);
        elsewhere.nft_load(&dumped.stdout);
        line_differences(&pod.nft_ruleset(), &elsewhere.nft_ruleset())
    });
}

#[test]
fn auto_takes_nf_tables_and_makes_no_legacy_table() {
    require_root!();
    for name in ["dual-stack", "injected-ipv6"] {
        let vector = vector(name);
        let pod = vector.pod();
        let outcome = vector.program(&pod, &["apply", vector.mesh]).backend("auto").run().expect(0);
        assert!(outcome.text().contains("backend: nftables ("), "{outcome}");
        assert!(pod.nft("list tables").contains("mesh-init"));
        assert_in_place(vector.program(&pod, &["apply", vector.mesh]).backend("auto").run());
        assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    }
}

#[test]
fn rules_have_counters_comments_and_the_meshs_names() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let arguments =
        ["apply", "linkerd", "-p", "4143", "-o", "4140", "-u", "2102", "--ipv6=false", "--inbound-ports-to-ignore", "4190,4191"];
    pod.mesh_init(&arguments).backend("nftables").run().expect(0);
    let listing = pod.nft("list ruleset");
    for line in [
        "counter packets 0 bytes 0 jump PROXY_INIT_REDIRECT comment \"proxy-init/install-proxy-init-prerouting\"",
        "tcp dport { 4190-4191 } counter packets 0 bytes 0 return comment \"proxy-init/ignore-port-4190,4191\"",
        "meta skuid 2102 counter packets 0 bytes 0 return comment \"proxy-init/ignore-proxy-user-id\"",
        "meta l4proto tcp counter packets 0 bytes 0 redirect to :4140 comment \"proxy-init/redirect-all-outgoing-to-proxy-port\"",
    ] {
        let plain = line.replace("{ 4190-4191 }", "4190-4191");
        assert!(listing.contains(line) || listing.contains(&plain), "{line}\n{listing}");
    }
    let vector = vector("tproxy-everything");
    let pod = vector.pod();
    run(&vector, &pod, "apply").expect(0);
    let listing = pod.nft_ruleset();
    for chain in ["ISTIO_INBOUND", "mangle-ISTIO_INBOUND", "raw-ISTIO_INBOUND", "mangle-OUTPUT"] {
        assert!(listing.contains(&format!("\tchain {chain} {{")), "{chain}\n{listing}");
    }
    assert!(listing.contains("type route hook output priority mangle"), "{listing}");
}

#[test]
fn a_long_list_is_one_rule_whatever_it_is_a_list_of() {
    require_root!();
    let list = |count: u32, item: fn(u32) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let cidrs = |count| list(count, |n| format!("10.{}.{}.0/24", n / 128, n % 128 * 2));
    let ports = |count| list(count, |n| (20000 + 2 * n).to_string());
    let istio = |flag: &str, value: String| vec!["istio".to_owned(), "-b".into(), "*".into(), flag.to_owned(), value];
    let linkerd =
        |flag: &str, value: String| ["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false", flag, &value].map(str::to_owned).to_vec();
    type Arguments<'a> = Box<dyn Fn(u32) -> Vec<String> + 'a>;
    let lists: Vec<(&str, Arguments<'_>)> = vec![
        ("excluded networks", Box::new(|count| istio("-x", cidrs(count)))),
        ("captured networks", Box::new(|count| istio("-i", cidrs(count)))),
        ("excluded outgoing ports", Box::new(|count| istio("-o", ports(count)))),
        ("captured outgoing ports", Box::new(|count| istio("-q", ports(count)))),
        ("excluded incoming ports", Box::new(|count| istio("-d", ports(count)))),
        ("captured incoming ports", Box::new(|count| ["istio", "-b", &ports(count)].map(str::to_owned).to_vec())),
        ("captured incoming ports of TPROXY", Box::new(|count| ["istio", "-m", "TPROXY", "-b", &ports(count)].map(str::to_owned).to_vec())),
        ("ports that Linkerd ignores", Box::new(|count| linkerd("--outbound-ports-to-ignore", ports(count)))),
        ("sources that Linkerd ignores", Box::new(|count| linkerd("--subnets-to-ignore", cidrs(count)))),
    ];
    check_all(
        &lists.iter().map(|(name, arguments)| (*name, arguments(200), arguments(2000))).collect::<Vec<_>>(),
        |(name, ..)| (*name).to_owned(),
        |(_, some, many)| {
            let rules = |arguments: &[String]| {
                let pod = Namespace::pod(&["10.9.0.2/24"]);
                let with = |verb: &str| pod.mesh_init(&[&[verb.to_owned()], arguments].concat()).backend("nftables");
                with("apply").run().expect(0);
                with("verify").run().expect(0);
                assert_in_place(with("apply").run());
                pod.nft_ruleset().lines().filter(|line| line.contains(" counter")).count()
            };
            let (some, many) = (rules(some), rules(many));
            if some == many && some < 60 { Vec::new() } else { vec![format!("{some} rules, and {many} with a longer list")] }
        },
    );
}

#[test]
fn a_first_run_deletes_nothing() {
    require_root!();
    if !common::strace::strace_or_skip() {
        return;
    }
    // `NFT_MSG_NEWRULE`, and `NFT_MSG_DELTABLE`, `DELCHAIN`, `DELRULE`, `DELSET`, of the subsystem nf_tables.
    let all = ["0xa06", "0xa02", "0xa05", "0xa08", "0xa0b"];
    let vector = vector("tproxy-everything");
    let pod = vector.pod();
    let sends = |kinds: &[&str]| {
        let program = vector.program(&pod, &["apply", "istio"]).backend("nftables");
        let ended = common::strace::start(&pod, &program, &["-v", "-e", "trace=sendto,sendmsg", "-s", "8"]).end();
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        kinds.iter().map(|kind| ended.calls.join("").contains(&format!("nlmsg_type={kind} "))).collect::<Vec<bool>>()
    };
    assert_eq!(sends(&all), [true, false, false, false, false]);
    // A table that has to be replaced is deleted, which is seen.
    pod.nft("flush chain ip mesh-init ISTIO_REDIRECT");
    assert_eq!(sends(&all), [true, true, false, false, false]);
}

/// One thing that somebody did with `nft`, and what `verify` has to mention.
type Deed = (&'static str, &'static [&'static str], &'static [&'static str]);

const DEEDS: &[Deed] = &[
    ("a lost rule", &["flush chain ip mesh-init ISTIO_REDIRECT"], &["missing", "ISTIO_REDIRECT", "15001"]),
    ("an extra rule", &["insert rule ip mesh-init ISTIO_INBOUND tcp dport 7777 counter return"], &["extra", "ISTIO_INBOUND", "7777"]),
    ("an extra rule where packets come in", &["insert rule ip6 mesh-init OUTPUT counter accept"], &["extra", "OUTPUT", "ACCEPT"]),
    ("a rule that nobody knows", &["insert rule ip mesh-init OUTPUT limit rate 5/second accept"], &["extra", "OUTPUT", "limit"]),
    ("a table switched off", &["add table ip mesh-init '{ flags dormant; }'"], &["dormant"]),
    ("a policy", &["chain ip mesh-init PREROUTING '{ policy drop; }'"], &["PREROUTING", "policy"]),
    ("a chain too many", &["add chain ip6 mesh-init ISTIO_OLD"], &["extra", "ISTIO_OLD"]),
    ("a chain of nobody's", &["add chain ip mesh-init MINE"], &["extra", "MINE"]),
    ("a hook too many", &["add chain ip mesh-init mine '{ type filter hook input priority 0; }'"], &["unexpected", "mine"]),
    ("a family gone", &["delete table ip6 mesh-init"], &["missing", "IPv6"]),
    ("a set of nobody's", &["add set ip mesh-init mine '{ type ipv4_addr; }'"], &["unexpected set mine"]),
    ("a counter of nobody's", &["add counter ip mesh-init mine"], &["unexpected counters"]),
    ("a hook for nothing", &["add chain ip mesh-init INPUT '{ type nat hook input priority 100; }'"], &["INPUT", "without rules"]),
    (
        "a rule that no longer counts",
        &["flush chain ip6 mesh-init ISTIO_REDIRECT", "add rule ip6 mesh-init ISTIO_REDIRECT meta l4proto tcp redirect to :15001"],
        &["ISTIO_REDIRECT", "no counter"],
    ),
    (
        "ports that come and go",
        &[
            "add set ip mesh-init mine '{ type inet_service; timeout 1h; elements = { 7777 }; }'",
            "insert rule ip mesh-init ISTIO_INBOUND tcp dport @mine counter return",
        ],
        &["extra", "ISTIO_INBOUND", "lookup in mine"],
    ),
    (
        "the protocol of another header",
        &["flush chain ip6 mesh-init ISTIO_REDIRECT", "add rule ip6 mesh-init ISTIO_REDIRECT ip6 nexthdr tcp counter redirect to :15001"],
        &["changed", "ISTIO_REDIRECT"],
    ),
    (
        "a hook with another priority",
        &[
            "flush chain ip mesh-init raw-OUTPUT",
            "delete chain ip mesh-init raw-OUTPUT",
            "add chain ip mesh-init raw-OUTPUT '{ type filter hook output priority 10; }'",
            "add rule ip mesh-init raw-OUTPUT counter jump raw-ISTIO_OUTPUT_DNS",
        ],
        &["raw-OUTPUT", "priority 10", "priority -300"],
    ),
    (
        "a chain without its hook",
        &[
            "flush chain ip mesh-init raw-OUTPUT",
            "delete chain ip mesh-init raw-OUTPUT",
            "add chain ip mesh-init raw-OUTPUT",
            "add rule ip mesh-init raw-OUTPUT counter jump raw-ISTIO_OUTPUT_DNS",
        ],
        &["raw-OUTPUT", "no hook"],
    ),
    (
        "rules out of order",
        &[
            "flush chain ip mesh-init mangle-ISTIO_DIVERT",
            "add rule ip mesh-init mangle-ISTIO_DIVERT counter accept",
            "add rule ip mesh-init mangle-ISTIO_DIVERT counter meta mark set 0x539",
        ],
        &["ISTIO_DIVERT", "out of place"],
    ),
];

#[test]
fn drift_is_named_and_repaired() {
    require_root!();
    let vector = vector("tproxy-everything");
    check_all(
        DEEDS,
        |(name, ..)| (*name).to_owned(),
        |(_, commands, mentions)| {
            let pod = vector.pod();
            pod.nft_load(
                "table inet mine {\nchain c {\ntype filter hook output priority 7\ntcp dport 1 counter packets 7 bytes 700\n}\n}\n",
            );
            run(&vector, &pod, "apply").expect(0);
            let before = own_tables(&pod);
            for command in *commands {
                pod.nft(command);
            }
            let mut problems = Vec::new();
            let verified = run(&vector, &pod, "verify");
            if verified.code != 3 || mentions.iter().any(|word| !verified.stdout.contains(word)) {
                problems.push(format!("expected exit 3 and {mentions:?}: {verified}"));
            }
            let repaired = run(&vector, &pod, "apply");
            if repaired.code != 0 || !repaired.text().contains("installed and verified") {
                problems.push(repaired.to_string());
            }
            problems.extend(line_differences(&before, &own_tables(&pod)));
            if !pod.nft("list table inet mine").contains("packets 7 bytes 700") {
                problems.push("a foreign counter is lost".to_owned());
            }
            problems
        },
    );
}

#[test]
fn counters_of_rules_that_stay_go_on() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let apply = || pod.mesh_init(&["apply", "istio", "-b", "*", "-i", "*"]).backend("nftables").run().expect(0);
    apply();
    pod.inside(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
    });
    let counted = |listing: String| {
        let line = listing.lines().find(|line| line.contains("jump ISTIO_OUTPUT")).unwrap().to_owned();
        line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = counted(pod.nft("list chain ip mesh-init OUTPUT"));
    assert!(before > 0);
    pod.nft("flush chain ip mesh-init ISTIO_REDIRECT");
    apply();
    assert!(counted(pod.nft("list chain ip mesh-init OUTPUT")) >= before);
}

#[test]
fn two_meshes_share_the_table_and_each_is_removed_alone() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24"]);
    let istio = ["istio", "-b", "*", "-i", "*", "-c", "net1"];
    let linkerd = ["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"];
    let run = |verb: &str, arguments: &[&str]| pod.mesh_init(&[&[verb], arguments].concat()).backend("nftables").run();
    run("apply", &linkerd).expect(0);
    let alone = pod.nft_ruleset();
    run("apply", &istio).expect(0);
    for arguments in [&istio[..], &linkerd] {
        run("verify", arguments).expect(0);
        assert_in_place(run("apply", arguments));
    }
    run("remove", &["istio"]).expect(0);
    assert_eq!(pod.nft_ruleset(), alone);
    run("verify", &linkerd).expect(0);
    run("remove", &[]).expect(0);
    assert_eq!(pod.nft_ruleset(), "");
}
