use super::*;
use crate::mesh::linkerd::FLAGS;
use crate::mesh::testing;

const PORTS: &[&str] = &["-p", "4143", "-o", "4140"];

fn planned(arguments: &[&str]) -> Plan {
    let options = testing::with(FLAGS, &[PORTS, arguments].concat(), Options::new).unwrap();
    let addresses = ["10.9.0.2", "fe80::1", "2001:db8::2"].iter().map(|text| text.parse().unwrap()).collect();
    plan(&options, &Surroundings { addresses, ..Surroundings::default() }).unwrap()
}

fn nat(plan: &Plan, at: usize) -> String {
    testing::table(&plan.rulesets[at], TableName::Nat)
}

fn chain(plan: &Plan, at: usize, chain: &str) -> Vec<String> {
    nat(plan, at).lines().filter_map(|line| line.strip_prefix(chain)?.strip_prefix(' ')).map(str::to_owned).collect()
}

#[test]
fn an_injected_pod_gets_the_originals_rules() {
    let plan = planned(&["-u", "2102", "--inbound-ports-to-ignore", "4190,4191, 4567,4568", "--outbound-ports-to-ignore", "4567,4568"]);
    assert_eq!(
        nat(&plan, 0),
        "PREROUTING -m comment --comment \"proxy-init/install-proxy-init-prerouting\" -j PROXY_INIT_REDIRECT
OUTPUT -m comment --comment \"proxy-init/install-proxy-init-output\" -j PROXY_INIT_OUTPUT
PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -m comment --comment \"proxy-init/ignore-proxy-user-id\" -j RETURN
PROXY_INIT_OUTPUT -o lo -m comment --comment \"proxy-init/ignore-loopback\" -j RETURN
PROXY_INIT_OUTPUT -p tcp -m multiport --dports 4567,4568 -m comment --comment \"proxy-init/ignore-port-4567,4568\" -j RETURN
PROXY_INIT_OUTPUT -p tcp -m comment --comment \"proxy-init/redirect-all-outgoing-to-proxy-port\" -j REDIRECT --to-ports 4140
PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191,4567,4568 -m comment --comment \"proxy-init/ignore-port-4190,4191,4567,4568\" -j RETURN
PROXY_INIT_REDIRECT -p tcp -m comment --comment \"proxy-init/redirect-all-incoming-to-proxy-port\" -j REDIRECT --to-ports 4143
"
    );
    assert_eq!(nat(&plan, 1), nat(&plan, 0));
    assert_eq!((plan.rulesets[1].family, plan.routing, plan.warnings), (Family::V6, Routing::default(), Vec::new()));
}

#[test]
fn without_ipv6_a_global_address_is_warned_of() {
    let plan = planned(&["--ipv6=false"]);
    assert_eq!(plan.rulesets.len(), 1);
    assert_eq!(
        plan.warnings,
        ["IPv6 traffic is not captured although the pod has the address 2001:db8::2; pass --ipv6=true to capture it"]
    );
}

#[test]
fn listed_ports_are_redirected_one_by_one() {
    let plan = planned(&["-r", "9090", "-r", "9099", "-g", "7"]);
    assert_eq!(
        chain(&plan, 0, "PROXY_INIT_REDIRECT"),
        [
            "-p tcp -m tcp --dport 9090 -m comment --comment \"proxy-init/redirect-port-9090-to-proxy-port\" -j REDIRECT --to-ports 4143",
            "-p tcp -m tcp --dport 9099 -m comment --comment \"proxy-init/redirect-port-9099-to-proxy-port\" -j REDIRECT --to-ports 4143",
        ]
    );
    assert_eq!(
        chain(&plan, 0, "PROXY_INIT_OUTPUT")[0],
        "-m owner --gid-owner 7 -m comment --comment \"proxy-init/ignore-proxy-group-id\" -j RETURN"
    );
}

#[test]
fn subnets_go_to_their_family_with_the_comment_as_given() {
    let plan = planned(&["--subnets-to-ignore", "0.0.0.0/0, 10.1.2.3/8,fd00::1/64"]);
    assert_eq!(
        chain(&plan, 0, "PROXY_INIT_REDIRECT")[..2],
        [
            "-m comment --comment \"proxy-init/ignore-subnet-0.0.0.0/0\" -j RETURN",
            "-s 10.0.0.0/8 -m comment --comment \"proxy-init/ignore-subnet-10.1.2.3/8\" -j RETURN",
        ]
    );
    assert_eq!(
        chain(&plan, 1, "PROXY_INIT_REDIRECT")[0],
        "-s fd00::/64 -m comment --comment \"proxy-init/ignore-subnet-fd00::1/64\" -j RETURN"
    );
}

#[test]
fn a_multiport_rule_holds_15_ports_and_a_range_is_two() {
    let ports = "22-23,25-27,33-34,35-35,37-38,50-54,56,58,60,63,70-72";
    let rules = chain(&planned(&["--inbound-ports-to-ignore", ports]), 0, "PROXY_INIT_REDIRECT");
    let lists: Vec<&str> = rules.iter().filter_map(|rule| rule.split_once("--dports ")?.1.split_once(' ').map(|(list, _)| list)).collect();
    assert_eq!(lists, ["22:23,25:27,33:34,35,37:38,50:54,56,58,60,63", "70:72"]);
    assert!(rules[1].contains("proxy-init/ignore-port-70:72\""));

    let range = |first, last| PortRange { first, last };
    let singles: Vec<PortRange> = (1..=14).map(PortRange::single).collect();
    assert_eq!(groups(&[&singles[..], &[range(20, 30)]].concat()).len(), 2);
    assert_eq!(groups(&[&singles[..13], &[range(20, 30)]].concat()).len(), 1);
    assert!(groups(&[]).is_empty());
}

#[test]
fn the_proxys_user_and_group_are_separate_rules() {
    let plan = planned(&["-u", "2102", "-g", "2103"]);
    let output = chain(&plan, 0, "PROXY_INIT_OUTPUT");
    assert!(output[0].contains("--uid-owner 2102") && output[1].contains("--gid-owner 2103"));
    let zero = planned(&["-u", "0"]);
    assert!(chain(&zero, 0, "PROXY_INIT_OUTPUT")[0].starts_with("-o lo"));
    assert_eq!(zero.warnings, ["--proxy-uid: 0 excludes nothing: the traffic of user 0 is captured like any other's"]);
}
