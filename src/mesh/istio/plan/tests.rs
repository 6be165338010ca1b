use super::*;
use crate::mesh::istio::FLAGS;
use crate::mesh::testing;

const V4: &[&str] = &["127.0.0.1", "10.9.0.2", "::1", "fe80::1"];
const DUAL: &[&str] = &["127.0.0.1", "10.9.0.2", "::1", "2001:db8::2", "fe80::1"];
const V6: &[&str] = &["127.0.0.1", "::1", "2001:db8::2"];

fn surroundings(addresses: &[&str]) -> Surroundings {
    let address = |text: &&str| text.parse().unwrap();
    Surroundings {
        addresses: addresses.iter().map(address).collect(),
        dns_servers: Some(Ok(["10.96.0.10", "fd00:10:96::a"].iter().map(address).collect())),
        groups: Some(Ok("java:x:202:\nweb:x:33:\n".to_owned())),
        users: Some("root:x:0:0::/:/bin/sh\nistio-proxy:x:1400:1400::/:/bin/sh\n".to_owned()),
    }
}

fn planned(arguments: &[&str], surroundings: &Surroundings) -> Result<Plan, Error> {
    plan(&testing::with(FLAGS, arguments, Options::new)?, surroundings)
}

fn on(arguments: &[&str], addresses: &[&str]) -> Plan {
    planned(arguments, &surroundings(addresses)).unwrap()
}

fn table(plan: &Plan, at: usize, name: TableName) -> Vec<String> {
    testing::table(&plan.rulesets[at], name).lines().map(str::to_owned).collect()
}

fn chain(plan: &Plan, at: usize, name: TableName, chain: &str) -> Vec<String> {
    table(plan, at, name).iter().filter_map(|line| line.strip_prefix(chain)?.strip_prefix(' ')).map(str::to_owned).collect()
}

const INJECTED: &[&str] = &["-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"];

#[test]
fn the_default_pod_gets_the_well_known_18_rules() {
    let plan = on(INJECTED, V4);
    assert_eq!(plan.rulesets.len(), 1);
    assert_eq!(plan.rulesets[0].tables.len(), 1);
    assert_eq!(
        table(&plan, 0, TableName::Nat).join("\n"),
        "PREROUTING -p tcp -j ISTIO_INBOUND
OUTPUT -j ISTIO_OUTPUT
ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
ISTIO_OUTPUT -j ISTIO_REDIRECT
ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"
    );
    assert_eq!(plan.routing, Routing::default());
    assert!(plan.warnings.is_empty());
}

#[test]
fn ipv6_is_the_same_with_its_own_addresses() {
    let plan = on(&[INJECTED, &["--dual-stack", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.1/8"]].concat(), DUAL);
    let v4 = table(&plan, 0, TableName::Nat).join("\n").replace("127.0.0.6/32", "::6/128").replace("127.0.0.0/8", "::1/128");
    assert_eq!(table(&plan, 1, TableName::Nat).join("\n"), v4);
    assert!(plan.routing.passthrough_v6 && plan.routing.policy.is_empty());
}

#[test]
fn the_first_usable_address_decides_about_ipv6() {
    let families = |plan: Plan| plan.rulesets.iter().map(|set| set.family).collect::<Vec<_>>();
    assert_eq!(families(on(&[], V6)), Family::ALL);
    assert_eq!(families(on(&["--dual-stack"], V4)), [Family::V4]);
    assert_eq!(families(on(&["--dual-stack"], &["::ffff:10.0.0.1"])), [Family::V4]);
    let uncaptured = on(&[], DUAL);
    assert_eq!(
        uncaptured.warnings,
        ["IPv6 traffic is not captured although the pod has the address 2001:db8::2; pass --dual-stack to capture it"]
    );
    assert_eq!(families(uncaptured), [Family::V4]);
}

#[test]
fn a_pod_without_address_has_no_plan() {
    let error = planned(&[], &surroundings(&["127.0.0.1", "fe80::1", "::6"])).unwrap_err();
    assert_eq!(error, Error::NoLocalAddress);
    assert!(error.to_string().starts_with("no valid local IP address found") && error.to_string().contains("--pod-ip"));
}

#[test]
fn nothing_included_leaves_only_what_is_always_there() {
    let plan = on(&["-u", "1337"], V4);
    assert!(chain(&plan, 0, TableName::Nat, "PREROUTING").is_empty());
    assert_eq!(chain(&plan, 0, TableName::Nat, "ISTIO_INBOUND"), ["-p tcp -m tcp --dport 15008 -j RETURN"]);
    assert!(!chain(&plan, 0, TableName::Nat, "ISTIO_OUTPUT").contains(&"-j ISTIO_REDIRECT".to_owned()));
}

#[test]
fn listed_inbound_ports_ignore_the_excluded_ones() {
    let plan = on(&["-b", "1, 8000:9000,,:3", "-d", "5"], V4);
    assert_eq!(
        chain(&plan, 0, TableName::Nat, "ISTIO_INBOUND"),
        [
            "-p tcp -m tcp --dport 15008 -j RETURN",
            "-p tcp -m tcp --dport 1 -j ISTIO_IN_REDIRECT",
            "-p tcp -m tcp --dport 8000:9000 -j ISTIO_IN_REDIRECT",
            "-p tcp -m tcp --dport 0:3 -j ISTIO_IN_REDIRECT",
        ]
    );
    assert_eq!(chain(&on(&["-b", ","], V4), 0, TableName::Nat, "PREROUTING"), ["-p tcp -j ISTIO_INBOUND"]);
}

#[test]
fn virtual_interfaces_come_first_in_reverse_and_redirect_before_returning() {
    let plan = on(&["-k", "eth1,eth2", "-c", "eth9", "-i", "*", "-b", "*"], V4);
    assert_eq!(
        chain(&plan, 0, TableName::Nat, "PREROUTING"),
        [
            "-i eth2 -j ISTIO_REDIRECT",
            "-i eth1 -j ISTIO_REDIRECT",
            "-i eth2 -j RETURN",
            "-i eth1 -j RETURN",
            "-i eth9 -j RETURN",
            "-p tcp -j ISTIO_INBOUND",
        ]
    );
    assert_eq!(chain(&plan, 0, TableName::Nat, "OUTPUT"), ["-o eth9 -j RETURN", "-j ISTIO_OUTPUT"]);
    let head = |plan: &Plan| plan.rulesets[0].table(TableName::Nat).unwrap().chain("PREROUTING").unwrap().base.unwrap().head;
    assert_eq!(head(&plan), 4);
    let listed = on(&["-k", "eth1,eth2", "-i", "10.0.0.0/8,fd00::/8,10.1.2.3/16"], V4);
    assert_eq!(
        chain(&listed, 0, TableName::Nat, "PREROUTING")[..5],
        [
            "-d 10.1.0.0/16 -i eth2 -j ISTIO_REDIRECT",
            "-d 10.1.0.0/16 -i eth1 -j ISTIO_REDIRECT",
            "-d 10.0.0.0/8 -i eth2 -j ISTIO_REDIRECT",
            "-d 10.0.0.0/8 -i eth1 -j ISTIO_REDIRECT",
            "-i eth2 -j RETURN",
        ]
    );
    assert_eq!(head(&listed), 6);
}

#[test]
fn destinations_go_to_their_family_and_lose_their_host_bits() {
    let plan =
        on(&["-u", "1", "-x", "10.96.0.2/24,fd00::1/64,0.0.0.0/0", "-i", "10.0.0.1/8,2001:db8::1/32", "-q", "80,90:91", "-o", "53"], V6);
    let tail = |at| chain(&plan, at, TableName::Nat, "ISTIO_OUTPUT").split_off(9);
    let ports = ["-p tcp -m tcp --dport 80 -j ISTIO_REDIRECT", "-p tcp -m tcp --dport 90:91 -j ISTIO_REDIRECT"];
    assert_eq!(
        tail(0),
        [&["-d 127.0.0.1/32 -j RETURN", "-d 10.96.0.0/24 -j RETURN", "-j RETURN"], &ports[..], &["-d 10.0.0.0/8 -j ISTIO_REDIRECT"]]
            .concat()
    );
    assert_eq!(
        tail(1),
        [&["-d ::1/128 -j RETURN", "-d fd00::/64 -j RETURN"], &ports[..], &["-d 2001:db8::/32 -j ISTIO_REDIRECT"]].concat()
    );
    assert_eq!(
        chain(&plan, 1, TableName::Nat, "ISTIO_OUTPUT")[..3],
        ["-p tcp -m tcp --dport 53 -j RETURN", "-p udp -m udp --dport 53 -j RETURN", "-s ::6/128 -o lo -j RETURN"]
    );
}

#[test]
fn an_included_loopback_address_of_either_family_is_not_passed() {
    let passes =
        |ranges: &str| chain(&on(&["-i", ranges], V4), 0, TableName::Nat, "ISTIO_OUTPUT").iter().any(|rule| rule.contains("! --uid"));
    for ranges in ["127.0.0.1/24", "10.0.0.0/8,127.1.2.3/32", "::1/64", "127.9.9.9/0"] {
        assert!(!passes(ranges), "{ranges}");
    }
    for ranges in ["*", "", "0.0.0.0/0", "::/0", "10.0.0.0/8"] {
        assert!(passes(ranges), "{ranges}");
    }
}

#[test]
fn every_id_has_its_three_rules_in_turn() {
    let plan = on(&["-u", "3,4-6", "-g", "7"], V4);
    let rules = chain(&plan, 0, TableName::Nat, "ISTIO_OUTPUT");
    let owners: Vec<&str> =
        rules.iter().filter_map(|rule| rule.split_once("-m owner ")?.1.split_once(" -j").map(|(owner, _)| owner)).collect();
    assert_eq!(
        owners,
        [
            "--uid-owner 3",
            "! --uid-owner 3",
            "--uid-owner 3",
            "--uid-owner 4-6",
            "! --uid-owner 4-6",
            "--uid-owner 4-6",
            "--gid-owner 7",
            "! --gid-owner 7",
            "--gid-owner 7",
        ]
    );
}

#[test]
fn the_proxys_ids_come_from_the_password_file_when_none_is_given() {
    let ids = |arguments: &[&str], surroundings: &Surroundings| {
        let options = testing::with(FLAGS, arguments, Options::new).unwrap();
        (options.proxy_uids(surroundings)[0].first, options.proxy_gids(surroundings)[0].first)
    };
    let with_users = surroundings(V4);
    assert_eq!(ids(&[], &with_users), (1400, 1400));
    assert_eq!(ids(&["ENVOY_USER=root"], &with_users), (0, 0));
    assert_eq!(ids(&["ENVOY_USER=nobody"], &with_users), (1337, 1337));
    assert_eq!(ids(&[], &Surroundings { users: None, ..surroundings(V4) }), (1337, 1337));
    assert_eq!(ids(&["-u", "5"], &with_users), (5, 5));
    assert_eq!(ids(&["-u", "5", "-g", "6"], &with_users), (5, 6));
}

#[test]
fn owner_groups_are_excluded_one_by_one_and_included_together() {
    let owners = |arguments: &[&str]| {
        let rules = chain(&on(&[&["-u", "1"], arguments].concat(), V4), 0, TableName::Nat, "ISTIO_OUTPUT");
        rules[7..rules.len() - 1].to_vec()
    };
    assert!(owners(&[]).is_empty());
    assert!(owners(&["ISTIO_OUTBOUND_OWNER_GROUPS=*"]).is_empty());
    assert_eq!(
        owners(&["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=java,1000-1010"]),
        ["-m owner --gid-owner 202 -j RETURN", "-m owner --gid-owner 1000-1010 -j RETURN"]
    );
    assert_eq!(
        owners(&["ISTIO_OUTBOUND_OWNER_GROUPS=web, 9", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=java"]),
        ["-m owner ! --gid-owner 33 -m owner ! --gid-owner 9 -j RETURN"]
    );
    assert_eq!(owners(&["ISTIO_OUTBOUND_OWNER_GROUPS="]), ["-j RETURN"]);
}

#[test]
fn a_group_that_cannot_be_looked_up_is_named() {
    let arguments = ["ISTIO_OUTBOUND_OWNER_GROUPS=9,wheel"];
    let error = |groups| planned(&arguments, &Surroundings { groups, ..surroundings(V4) }).unwrap_err().to_string();
    assert_eq!(
        error(Some(Ok("web:x:33:".to_owned()))),
        "$ISTIO_OUTBOUND_OWNER_GROUPS: \"wheel\" is not in the group file, which has no line \"wheel:x:NUMBER:\"; add the line, or give the \
         group's number"
    );
    assert!(error(Some(Err("permission denied".to_owned()))).contains("permission denied"));
    assert!(error(None).contains("give the group's number"));
    assert!(planned(&["ISTIO_OUTBOUND_OWNER_GROUPS=9"], &Surroundings { groups: None, ..surroundings(V4) }).is_ok());
}

#[test]
fn dns_goes_to_the_resolver_for_the_familys_own_servers() {
    let plan = on(&[INJECTED, &["--redirect-dns", "-g", "7", "--dual-stack"]].concat(), DUAL);
    let output = chain(&plan, 0, TableName::Nat, "ISTIO_OUTPUT");
    assert_eq!(
        output[1..],
        [
            "! -d 127.0.0.1/32 -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
            "-o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN",
            "-m owner --uid-owner 1337 -j RETURN",
            "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 7 -j ISTIO_IN_REDIRECT",
            "-o lo -p tcp -m tcp ! --dport 53 -m owner ! --gid-owner 7 -j RETURN",
            "-m owner --gid-owner 7 -j RETURN",
            "-j ISTIO_OUTPUT_DNS",
            "-d 127.0.0.1/32 -j RETURN",
            "-j ISTIO_REDIRECT",
        ]
    );
    let nat_v6 = chain(&plan, 1, TableName::Nat, "ISTIO_OUTPUT_DNS");
    assert_eq!(
        nat_v6,
        [
            "-d fd00:10:96::a/128 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
            "-d fd00:10:96::a/128 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        ]
    );
    assert_eq!(
        table(&plan, 0, TableName::Raw),
        [
            "PREROUTING -j ISTIO_INBOUND",
            "OUTPUT -j ISTIO_OUTPUT_DNS",
            "ISTIO_INBOUND -s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1",
            "ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1",
            "ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2",
            "ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -m owner --gid-owner 7 -j CT --zone 1",
            "ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --gid-owner 7 -j CT --zone 2",
            "ISTIO_OUTPUT_DNS -d 10.96.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2",
        ]
    );
}

#[test]
fn a_family_without_servers_has_zones_but_no_redirect() {
    let only_v4 = Surroundings { dns_servers: Some(Ok(vec!["10.96.0.10".parse().unwrap()])), ..surroundings(DUAL) };
    let plan = planned(&["--redirect-dns", "--dual-stack", "-u", "1"], &only_v4).unwrap();
    assert!(!chain(&plan, 1, TableName::Nat, "ISTIO_OUTPUT").contains(&"-j ISTIO_OUTPUT_DNS".to_owned()));
    assert!(chain(&plan, 1, TableName::Raw, "PREROUTING").is_empty());
    assert_eq!(chain(&plan, 1, TableName::Raw, "OUTPUT"), ["-j ISTIO_OUTPUT_DNS"]);
    assert_eq!(chain(&plan, 1, TableName::Raw, "ISTIO_OUTPUT_DNS").len(), 4);
}

#[test]
fn all_dns_is_captured_whatever_the_servers() {
    let unknown = Surroundings { dns_servers: Some(Err("no such file".to_owned())), ..surroundings(V4) };
    let plan = planned(&["REDIRECT_DNS=1", "--capture-all-dns", "-u", "1"], &unknown).unwrap();
    assert_eq!(
        chain(&plan, 0, TableName::Nat, "ISTIO_OUTPUT_DNS"),
        ["-p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053", "-p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"]
    );
    let raw = chain(&plan, 0, TableName::Raw, "ISTIO_OUTPUT_DNS");
    assert_eq!((raw.len(), raw[4].as_str()), (5, "-p udp -m udp --dport 53 -j CT --zone 2"));
    assert_eq!(chain(&plan, 0, TableName::Raw, "ISTIO_INBOUND"), ["-p udp -m udp --sport 53 -j CT --zone 1"]);

    let error = planned(&["--redirect-dns"], &unknown).unwrap_err().to_string();
    assert!(error.starts_with("failed to load /etc/resolv.conf") && error.contains("no such file") && error.contains("--dns-server"));
    assert!(planned(&["--capture-all-dns"], &unknown).is_ok());
}

#[test]
fn dns_without_servers_is_left_alone_with_a_warning() {
    let none = Surroundings { dns_servers: Some(Ok(Vec::new())), ..surroundings(V4) };
    let plan = planned(&["--redirect-dns", "-u", "1"], &none).unwrap();
    assert_eq!(plan.rulesets, on(&["-u", "1"], V4).rulesets);
    assert!(plan.warnings[0].starts_with("DNS is not captured"));
}

#[test]
fn tproxy_marks_diverts_and_follows() {
    let plan = on(&["-u", "1337", "-m", "TPROXY", "-b", "*", "-d", "15021", "-c", "eth9", "--drop-invalid", "-r", "200"], V4);
    assert_eq!(
        table(&plan, 0, TableName::Mangle).join("\n"),
        "PREROUTING -i eth9 -j RETURN
PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP
PREROUTING -p tcp -j ISTIO_INBOUND
PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
OUTPUT -o eth9 -j RETURN
OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN
OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff
ISTIO_DIVERT -j ACCEPT
ISTIO_DROP -j DROP
ISTIO_INBOUND -p tcp -m mark --mark 0x539 -j RETURN
ISTIO_INBOUND -s 127.0.0.6/32 -i lo -p tcp -j RETURN
ISTIO_INBOUND -i lo -p tcp -m mark ! --mark 0x53a -j RETURN
ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
ISTIO_INBOUND -p tcp -j ISTIO_TPROXY
ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"
    );
    assert_eq!(chain(&plan, 0, TableName::Nat, "PREROUTING"), ["-i eth9 -j RETURN"]);
    assert_eq!(plan.routing.policy, [PolicyRoute { family: Family::V4, mark: 1337, table: 200 }]);
}

#[test]
fn tproxy_with_listed_ports_diverts_each() {
    let plan = on(&["-m", "TPROXY", "-b", "80,90", "-t", "0x10"], V6);
    assert_eq!(
        chain(&plan, 1, TableName::Mangle, "ISTIO_INBOUND"),
        [
            "-p tcp -m mark --mark 0x10 -j RETURN",
            "-s ::6/128 -i lo -p tcp -j RETURN",
            "-i lo -p tcp -m mark ! --mark 0x53a -j RETURN",
            "-p tcp -m tcp --dport 80 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
            "-p tcp -m tcp --dport 80 -j ISTIO_TPROXY",
            "-p tcp -m tcp --dport 90 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
            "-p tcp -m tcp --dport 90 -j ISTIO_TPROXY",
        ]
    );
    let route = |family| PolicyRoute { family, mark: 16, table: 133 };
    assert_eq!(plan.routing, Routing { passthrough_v6: true, policy: Family::ALL.map(route).into() });
}

#[test]
fn tproxy_without_inbound_ports_still_marks_but_routes_nothing() {
    let plan = on(&["-m", "TPROXY", "-b", "", "-u", "1"], V4);
    assert_eq!(chain(&plan, 0, TableName::Mangle, "ISTIO_INBOUND").len(), 3);
    assert_eq!(chain(&plan, 0, TableName::Mangle, "PREROUTING").len(), 1);
    assert!(plan.rulesets[0].table(TableName::Mangle).unwrap().chain("ISTIO_TPROXY").is_none());
    assert!(plan.routing.policy.is_empty());
}

#[test]
fn an_unknown_mode_redirects_with_a_warning() {
    let plan = on(&["-m", "tproxy", "-b", "*"], V4);
    assert!(plan.rulesets[0].table(TableName::Mangle).is_none());
    assert!(plan.warnings[0].starts_with("--istio-inbound-interception-mode: \"tproxy\" is neither REDIRECT nor TPROXY"));
}

#[test]
fn every_chain_that_is_jumped_to_exists() {
    let plan = on(&["-m", "TPROXY", "-b", ",", "-i", "*", "--redirect-dns", "--dual-stack", "--drop-invalid"], DUAL);
    for set in &plan.rulesets {
        for table in &set.tables {
            for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
                if let Target::Jump(called) = &rule.target {
                    assert!(table.chain(called).is_some(), "{called} in {}", table.name);
                }
            }
        }
    }
}
