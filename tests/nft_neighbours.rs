//! What others have in nf_tables, be it odd or in the way: it is understood for what it is, it stays as it is, and what
//! cannot be done beside it is refused in words.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use common::fixture::vector;
use common::nft::assert_in_place;
use common::original::original;
use common::{Family, Namespace, Outcome, strace};

const ISTIO: [&str; 5] = ["istio", "-b", "*", "-i", "*"];
const LINKERD: [&str; 6] = ["linkerd", "-p", "4143", "-o", "4140", "--ipv6=false"];

fn pod() -> Namespace {
    Namespace::pod(&["10.9.0.2/24"])
}

fn run(pod: &Namespace, verb: &str, mesh: &[&str]) -> Outcome {
    pod.mesh_init(&[&[verb], mesh].concat()).backend("auto").run()
}

/// An `nft` that a table belongs to, which goes when its input ends.
struct Owner(Child);

impl Owner {
    fn of(pod: &Namespace, table: &str, chains: &str) -> Owner {
        let mut nft = pod.command("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The answer to the second command shows that the first is done.
        let commands = format!("table {table} {{ flags owner; {chains} }}\nlist tables\n");
        nft.stdin.as_mut().unwrap().write_all(commands.as_bytes()).unwrap();
        let mut output = BufReader::new(nft.stdout.take().unwrap());
        let mut answer = String::new();
        while !answer.contains(&format!("table {table}")) {
            assert_ne!(output.read_line(&mut answer).unwrap(), 0, "{answer}");
        }
        Owner(nft)
    }

    fn end(mut self) {
        // Closes its input first.
        self.0.wait().unwrap();
    }
}

#[test]
fn names_that_are_not_text_are_no_reason_to_fail() {
    require_root!();
    let pod = pod();
    let name = r"$(printf 'caf\351')";
    for family in Family::BOTH {
        let iptables = format!("{}-nft", family.iptables());
        pod.output(&["sh", "-c", &format!("{iptables} -t nat -N {name} && {iptables} -t nat -A OUTPUT -p udp -j {name}")]);
    }
    pod.output(&[
        "sh",
        "-c",
        "iptables-nft -t nat -A OUTPUT -o \"$(printf 'eth\\351')\" -m comment --comment \"$(printf '\\377')\" -j RETURN",
    ]);
    let chains = || pod.output(&["sh", "-c", "(iptables-nft-save; ip6tables-nft-save) | tr -d '\\351\\377'"]).matches("caf").count();
    assert_eq!(chains(), 4);
    run(&pod, "apply", &ISTIO).expect(0);
    run(&pod, "verify", &ISTIO).expect(0);
    assert_in_place(run(&pod, "apply", &ISTIO));
    for format in ["iptables", "nft", "json"] {
        let live = pod.mesh_init(&["dump", "live", "--format", format]).run().expect(0);
        assert!(live.stdout.contains("caf"), "{live}");
    }
    run(&pod, "remove", &[]).expect(0);
    assert_eq!(chains(), 4);

    // What goes may have such a name too, or stand in a chain of such a name.
    for words in
        ["-N ISTIO_OUTPUT", r"-N ISTIO_$(printf '\351')", r"-A $(printf 'caf\351') -p tcp -j ISTIO_OUTPUT", "-A OUTPUT -j ISTIO_OUTPUT"]
    {
        pod.output(&["sh", "-c", &format!("iptables-nft -t nat {words}")]);
    }
    let outcome = run(&pod, "apply", &ISTIO).expect(0);
    assert!(outcome.warnings()[0].contains(r"-A caf\xe9 -p tcp -j ISTIO_OUTPUT"), "{outcome}");
    assert_eq!(chains(), 4);
    assert!(!pod.output(&["sh", "-c", "iptables-nft-save | tr -d '\\351\\377'"]).contains("ISTIO"));
}

#[test]
fn networks_that_are_everything_together_are_everything() {
    require_root!();
    let halves = "0.0.0.0/1,128.0.0.0/1";
    let quarters = "0.0.0.0/3,32.0.0.0/3,64.0.0.0/3,96.0.0.0/3,128.0.0.0/3,160.0.0.0/3,192.0.0.0/3,224.0.0.0/3";
    for flag in ["-x", "-i"] {
        for list in [halves, quarters, "0.0.0.0/0"] {
            let pod = pod();
            let arguments = ["istio", "-b", "*", flag, list];
            run(&pod, "apply", &arguments).expect(0);
            run(&pod, "verify", &arguments).expect(0);
            assert_in_place(run(&pod, "apply", &arguments));
        }
    }
}

#[test]
fn what_leads_to_a_chain_that_goes_is_named() {
    require_root!();
    let vector = vector("dual-stack");
    let pod = original(&vector);
    pod.nft("add map ip nat ways '{ type inet_service : verdict; elements = { 77 : jump ISTIO_REDIRECT }; }'");
    let before = pod.nft("list ruleset");
    let outcome = vector.program(&pod, &["apply", "istio"]).backend("auto").run().expect(1);
    for part in ["remove", "ISTIO_REDIRECT", "verdict map", "EBUSY", "nft list ruleset"] {
        assert!(outcome.stderr.contains(part), "{part}: {outcome}");
    }
    assert_eq!(pod.nft("list ruleset"), before);
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
}

#[test]
fn a_foreign_hook_in_a_table_of_iptables_is_nobodys_but_its_owners() {
    require_root!();
    let vector = vector("dual-stack");
    let pod = original(&vector);
    pod.nft("add chain ip nat mine '{ type nat hook output priority 7; policy accept; }'");
    pod.nft("add rule ip nat mine tcp dport 7 counter accept");
    pod.nft("add chain ip nat PREROUTING_2 '{ type nat hook prerouting priority -90; policy drop; }'");
    let foreign = || pod.nft("list chain ip nat mine") + &pod.nft("list chain ip nat PREROUTING_2");
    let before = foreign();
    vector.program(&pod, &["verify", "istio"]).backend("auto").run().expect(0);
    // What jumps to a chain that goes has to go, wherever it is.
    pod.nft("add rule ip nat mine tcp dport 8 counter jump ISTIO_REDIRECT");
    let outcome = vector.program(&pod, &["apply", "istio"]).backend("auto").run().expect(0);
    assert!(outcome.warnings().len() == 1 && outcome.warnings()[0].contains("-A mine"), "{outcome}");
    assert_eq!(foreign(), before);
    run(&pod, "remove", &[]).expect(0);
    assert_eq!(foreign(), before);
}

#[test]
fn what_is_the_other_meshs_comes_back_as_it_was() {
    require_root!();
    let pod = pod();
    run(&pod, "apply", &LINKERD).expect(0);
    // None of it is what mesh-init would write.
    for command in [
        "insert rule ip mesh-init PROXY_INIT_OUTPUT limit rate 5/second return comment \\\"odd\\\"",
        "insert rule ip mesh-init PROXY_INIT_OUTPUT tcp dport 80 counter packets 7 bytes 700 drop",
        "insert rule ip mesh-init PROXY_INIT_OUTPUT ip daddr . tcp dport { 10.0.0.1 . 80, 10.0.0.2 . 81 } drop",
        "add set ip mesh-init known '{ type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }'",
        "insert rule ip mesh-init PROXY_INIT_REDIRECT ip saddr @known return",
        "add counter ip mesh-init seen '{ packets 9 bytes 900 }'",
        "insert rule ip mesh-init PROXY_INIT_REDIRECT tcp dport 9 counter name seen",
    ] {
        pod.nft(command);
    }
    let chain = |name: &str| pod.nft(&format!("list chain ip mesh-init {name}"));
    let chains = || chain("PROXY_INIT_OUTPUT") + &chain("PROXY_INIT_REDIRECT");
    let before = chains();
    run(&pod, "apply", &ISTIO).expect(0);
    assert_eq!(chains(), before);
    run(&pod, "remove", &["istio"]).expect(0);
    assert_eq!(chains(), before);
    run(&pod, "verify", &LINKERD).expect(3);
    run(&pod, "apply", &LINKERD).expect(0);
    run(&pod, "verify", &LINKERD).expect(0);
}

#[test]
fn a_dump_for_nft_takes_out_the_family_that_is_not_planned() {
    require_root!();
    let pod = Namespace::pod(&["10.9.0.2/24", "2001:db8:9::2/64"]);
    run(&pod, "apply", &[&ISTIO[..], &["--dual-stack"]].concat()).expect(0);
    let linkerd_too = ["linkerd", "-p", "4143", "-o", "4140"];
    let dump = |mesh: &[&str]| pod.mesh_init(&[&["dump"], mesh, &["--format", "nft"]].concat()).run().expect(0).stdout;
    pod.nft_load(&dump(&linkerd_too));
    assert_eq!(pod.nft("list tables"), "table ip mesh-init\ntable ip6 mesh-init\n");
    pod.nft_load(&dump(&LINKERD));
    assert_eq!(pod.nft("list tables"), "table ip mesh-init\n");
    run(&pod, "verify", &LINKERD).expect(0);
}

#[test]
fn a_table_that_belongs_to_a_process_is_left_to_it() {
    require_root!();
    let pod = pod();
    let owner = Owner::of(&pod, "ip mesh-init", "chain ISTIO_OUTPUT { };");
    let verified = run(&pod, "verify", &ISTIO).expect(3);
    assert!(verified.stdout.contains("belongs to a process (netlink port "), "{verified}");
    let applied = run(&pod, "apply", &ISTIO).expect(1);
    assert!(applied.stderr.contains("it belongs to the process with the netlink port "), "{applied}");
    assert_eq!(pod.legacy_tables(), Vec::<String>::new());
    owner.end();
    assert_eq!(pod.nft_ruleset(), "");
    run(&pod, "apply", &ISTIO).expect(0);
}

#[test]
fn rules_that_are_too_long_for_a_message_go_to_the_legacy_filter() {
    require_root!();
    if !strace::strace_or_skip() {
        return;
    }
    let ended = |backend: &str| {
        (1..30).find_map(|nth| {
            let pod = pod();
            let program = pod.mesh_init(&[&["apply"], &ISTIO[..]].concat()).backend(backend);
            let inject = format!("inject=sendto,sendmsg:error=EMSGSIZE:when={nth}");
            let ended = strace::start(&pod, &program, &["-e", "trace=sendto,sendmsg", "-e", &inject]).end();
            ended.text.contains("too long for one message").then_some((ended.code, ended.text, pod.legacy_tables(), pod.nft_ruleset()))
        })
    };
    let (code, text, _, left) = ended("auto").unwrap();
    assert!(code == Some(0) && text.contains("(legacy, IPv4)") && left.is_empty(), "{text}");
    let (code, text, tables, left) = ended("nftables").unwrap();
    assert!(code == Some(1) && text.contains("net.core.wmem_max") && tables.is_empty() && left.is_empty(), "{text}");
}

#[test]
fn the_meshes_keep_their_order_and_what_has_to_be_first_is_first() {
    require_root!();
    let order = |pod: &Namespace, chain: &str| -> Vec<String> {
        let listing = pod.nft(&format!("list chain ip mesh-init {chain}"));
        let target =
            |line: &str| line.split_once("bytes 0 ").map(|(_, target)| target.split(" comment").next().unwrap_or_default().to_owned());
        listing.lines().filter_map(target).collect()
    };
    let istio = |verb: &str, pod: &Namespace, more: &[&str]| run(pod, verb, &[&ISTIO[..], &["-k", "v0"], more].concat());
    let pod = pod();
    istio("apply", &pod, &[]).expect(0);
    run(&pod, "apply", &LINKERD).expect(0);
    let wanted = ["jump ISTIO_REDIRECT", "return", "jump ISTIO_INBOUND", "jump PROXY_INIT_REDIRECT"];
    assert_eq!(order(&pod, "PREROUTING"), wanted);
    assert_eq!(order(&pod, "OUTPUT"), ["jump ISTIO_OUTPUT", "jump PROXY_INIT_OUTPUT"]);
    // A change of either mesh leaves them where they are.
    istio("apply", &pod, &["-o", "99"]).expect(0);
    assert_eq!(order(&pod, "PREROUTING"), wanted);
    run(&pod, "apply", &[&LINKERD[..], &["--outbound-ports-to-ignore", "99"]].concat()).expect(0);
    assert_eq!(order(&pod, "PREROUTING"), wanted);
    istio("verify", &pod, &["-o", "99"]).expect(0);

    // What is inserted first goes before a mesh that was there already.
    let pod = self::pod();
    run(&pod, "apply", &LINKERD).expect(0);
    istio("apply", &pod, &[]).expect(0);
    let behind = ["jump ISTIO_REDIRECT", "return", "jump PROXY_INIT_REDIRECT", "jump ISTIO_INBOUND"];
    assert_eq!(order(&pod, "PREROUTING"), behind);
    pod.nft("insert rule ip mesh-init PREROUTING counter jump PROXY_INIT_REDIRECT");
    istio("verify", &pod, &[]).expect(3);
    run(&pod, "verify", &LINKERD).expect(3);
    run(&pod, "apply", &LINKERD).expect(0);
    istio("apply", &pod, &[]).expect(0);
    assert_eq!(order(&pod, "PREROUTING"), behind);
    istio("verify", &pod, &[]).expect(0);
    run(&pod, "verify", &LINKERD).expect(0);
}

#[test]
fn a_chain_of_the_same_name_in_another_table_is_another() {
    require_root!();
    let vector = vector("tproxy-everything");
    let pod = vector.pod();
    let run = |verb: &str| vector.program(&pod, &[verb, "istio"]).backend("nftables").run();
    run("apply").expect(0);
    let own = pod.nft("list table ip mesh-init");
    let astray = own.replace("jump ISTIO_OUTPUT_DNS", "jump raw-ISTIO_OUTPUT_DNS");
    assert_ne!(own, astray);
    pod.nft_load(&format!("delete table ip mesh-init\n{astray}"));
    let verified = run("verify").expect(3);
    assert!(verified.stdout.contains("raw-ISTIO_OUTPUT_DNS"), "{verified}");
    run("apply").expect(0);
    run("verify").expect(0);
    assert!(!pod.nft("list chain ip mesh-init ISTIO_OUTPUT").contains("raw-"));
}

#[test]
fn what_is_left_of_a_family_that_is_not_planned_is_found_and_taken_out() {
    require_root!();
    for left in [
        &["add table ip6 mesh-init"][..],
        &["add table ip6 mesh-init", "add chain ip6 mesh-init filter-OUTPUT '{ type filter hook output priority 0; policy drop; }'"],
    ] {
        let pod = pod();
        run(&pod, "apply", &ISTIO).expect(0);
        let leave = || left.iter().for_each(|command| drop(pod.nft(command)));
        leave();
        run(&pod, "verify", &ISTIO).expect(3);
        run(&pod, "apply", &ISTIO).expect(0);
        assert_eq!(pod.nft("list tables"), "table ip mesh-init\n");
        run(&pod, "verify", &ISTIO).expect(0);
        run(&pod, "remove", &[]).expect(0);
        leave();
        run(&pod, "remove", &[]).expect(0);
        assert_eq!(pod.nft_ruleset(), "");
    }
}

#[test]
fn istios_own_tables_hide_nothing() {
    require_root!();
    let native = common::native::natives().into_iter().find(|native| native.name == "ipv4").unwrap();
    let commands: [&[&str]; 2] = [
        &[
            "add chain inet istio-proxy-nat istio_redirect",
            "add rule inet istio-proxy-nat istio_redirect meta l4proto tcp counter redirect to :16001",
            "flush chain inet istio-proxy-nat istio-redirect",
        ],
        &["add table inet istio-proxy-raw"],
    ];
    for commands in commands {
        let pod = native.pod();
        for command in commands {
            pod.nft(command);
        }
        native.program(&pod, "verify").run().expect(3);
        native.program(&pod, "apply").run().expect(0);
        native.program(&pod, "verify").run().expect(0);
        assert!(!pod.nft("list tables").contains("istio-proxy"));
    }
}

#[test]
fn sets_that_the_other_meshs_rules_fill_are_kept() {
    require_root!();
    let pod = pod();
    run(&pod, "apply", &LINKERD).expect(0);
    pod.nft("add set ip mesh-init seen '{ type ipv4_addr; flags timeout; }'");
    pod.nft("add rule ip mesh-init PROXY_INIT_OUTPUT counter add @seen '{ ip saddr timeout 5m }'");
    let verified = run(&pod, "verify", &LINKERD).expect(3);
    assert!(!verified.stdout.contains("unexpected set"), "{verified}");
    let chain = || pod.nft("list chain ip mesh-init PROXY_INIT_OUTPUT");
    let before = chain();
    run(&pod, "apply", &ISTIO).expect(0);
    assert_eq!(chain(), before);
}

#[test]
fn iptables_tables_that_belong_to_a_process_are_named() {
    require_root!();
    let pod = pod();
    let chains = "chain ISTIO_OUTPUT { }; chain OUTPUT { type nat hook output priority -100; jump ISTIO_OUTPUT; };";
    let owner = Owner::of(&pod, "ip nat", chains);
    let applied = run(&pod, "apply", &ISTIO).expect(1);
    assert!(applied.stderr.contains("the table ip nat") && applied.stderr.contains("belongs to the process"), "{applied}");
    owner.end();
    run(&pod, "apply", &ISTIO).expect(0);
}

#[test]
fn foreign_rules_that_no_longer_exempt_are_told() {
    require_root!();
    for (program, backend) in [("iptables-nft", "auto"), ("iptables-legacy", "nftables")] {
        let pod = pod();
        pod.output(&[program, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "5", "-j", "ACCEPT"]);
        let text = pod.mesh_init(&[&["dump"], &ISTIO[..]].concat()).run().expect(0).stdout;
        match program {
            "iptables-nft" => pod.iptables_nft_restore(Family::V4, &text),
            _ => pod.legacy_restore(Family::V4, &text),
        }
        let verified = run(&pod, "verify", &ISTIO).expect(3);
        assert!(verified.stdout.lines().count() == 2 && verified.stdout.contains("--dport 5 -j ACCEPT, takes packets away"), "{verified}");
        let apply = || pod.mesh_init(&[&["apply"], &ISTIO[..]].concat()).backend(backend).run().expect(0);
        let outcome = apply();
        assert!(outcome.warnings().len() == 1 && outcome.warnings()[0].contains("foreign rules of IPv4 nat OUTPUT"), "{outcome}");
        assert!(apply().warnings().is_empty());
    }
}
