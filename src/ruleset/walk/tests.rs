use super::*;
use crate::ruleset::layout::Seat;
use crate::ruleset::{
    Base, Chain, Condition, IdRange, Interface, MarkMask, NftChain, NftRule, NftTable, Opaque, Place, Policy, PolicyRoute, PortRange,
    Protocol, Ruleset, TableName,
};

fn pod() -> Pod {
    Pod { addresses: vec!["10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap()], policy: Vec::new() }
}

fn tcp() -> Match {
    Condition::Protocol(Protocol::TCP).into()
}

fn to(net: &str) -> Condition {
    Condition::Destination(net.parse().unwrap())
}

fn out_by(name: &str) -> Condition {
    Condition::OutInterface(Interface::new(name).unwrap())
}

fn rule(matches: impl IntoIterator<Item = Match>, target: Target) -> Rule {
    Rule::new(matches, target)
}

fn rules(table: TableName, chain: &str, rules: Vec<Rule>) -> Ruleset {
    let mut ruleset = Ruleset::new(Family::V4);
    ruleset.table_mut(table).chain_mut(chain).rules = rules;
    ruleset
}

fn nft(hook: Hook, kind: &'static str, priority: i32, rules: Vec<Rule>) -> NftTable {
    let rules = rules.into_iter().map(|rule| NftRule { rule, only: None, owner: None }).collect();
    let place = Place { hook, seat: Seat { kind, priority }, drops: false };
    let chain = NftChain { name: "c".into(), base: Some(String::new()), place: Some(place), owner: None, rules };
    NftTable { family: "inet", name: "t".into(), dormant: false, chains: vec![chain] }
}

fn outcome(plan: &Ruleset, packet: &str) -> String {
    walk(&Layers::of_plan(plan), &packet.parse().unwrap(), &pod()).outcome.to_string()
}

/// A plan like a mesh's: what the application sends is redirected, what the proxy sends and what stays in the pod is not.
fn capture() -> Ruleset {
    let proxy = || Condition::Uid(IdRange::single(1337)).into();
    let mut plan = rules(TableName::Nat, "OUTPUT", vec![rule([tcp()], Target::Jump("OWN".into()))]);
    let nat = plan.table_mut(TableName::Nat);
    nat.chain_mut("PREROUTING").rules.push(rule([tcp()], Target::Redirect(15006)));
    nat.chain_mut("OWN").rules =
        vec![rule([proxy()], Target::Return), rule([to("127.0.0.1/32").into()], Target::Return), rule([], Target::Redirect(15001))];
    plan
}

#[test]
fn an_application_is_redirected_and_the_proxy_is_not() {
    let plan = capture();
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), "sent to port 15001, original destination 10.0.0.1:443");
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443 uid 1337"), "delivered as is");
    assert_eq!(outcome(&plan, "out udp 10.0.0.1:443"), "delivered as is");
    assert_eq!(outcome(&plan, "in tcp from 10.1.2.3 to :8080"), "sent to port 15006, original destination 10.9.0.2:8080");
    assert_eq!(outcome(&plan, "in tcp from 10.1.2.3 to 10.1.2.4:8080"), "sent to port 15006, original destination 10.1.2.4:8080");
    assert_eq!(outcome(&plan, "in udp from 10.1.2.3 to 10.1.2.4:8080"), "not for the pod: passed on, if it passes packets on");
    // What stays in the pod comes through PREROUTING, whose nat chains are not asked any more.
    assert_eq!(outcome(&plan, "out tcp 127.0.0.1:80"), "delivered as is");
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443 state invalid"), "delivered as is");
    assert_eq!(
        outcome(&plan, "out tcp 10.0.0.1:443 state established"),
        "depends on where the connection's first packet was sent (leave the state out to ask that)"
    );
}

#[test]
fn each_rule_is_told_with_the_reason_why_it_does_not_match() {
    let plan = capture();
    let layers = Layers::of_plan(&plan);
    let walk = walk(&layers, &"out tcp 10.0.0.1:443".parse().unwrap(), &pod());
    let told: Vec<String> = walk
        .steps
        .iter()
        .map(|step| match step {
            Step::Chain(layer) => format!("{} {}", layer.table(), layer.chain()),
            Step::Skipped(layer) => format!("not asked: {}", layer.chain()),
            Step::Rule(Visit { layer, chain, index, rule, met: Met::No(failed, is) }) => {
                format!("{chain} {index} {}: not {} ({is})", layer.text(rule), layer.match_text(rule, failed))
            }
            Step::Rule(visit) => format!("{} {} {}", visit.chain, visit.index, visit.layer.text(visit.rule)),
            Step::Back(chain) => format!("back to {chain}"),
            Step::Policy(_) => "policy".to_owned(),
            Step::ToLoopback => "lo".to_owned(),
        })
        .collect();
    assert_eq!(
        told,
        [
            "nat OUTPUT",
            "OUTPUT 0 -p tcp -j OWN",
            "OWN 0 -m owner --uid-owner 1337 -j RETURN: not -m owner --uid-owner 1337 (uid 1000)",
            "OWN 1 -d 127.0.0.1/32 -j RETURN: not -d 127.0.0.1/32 (to 10.0.0.1)",
            "OWN 2 -j REDIRECT --to-ports 15001",
            "lo",
            "not asked: PREROUTING",
        ]
    );
}

#[test]
fn a_drop_is_final_and_an_accept_ends_one_table() {
    let mut plan = capture();
    let filter = plan.table_mut(TableName::Filter).chain_mut("OUTPUT");
    filter
        .rules
        .push(rule([to("127.0.0.1/32").into(), tcp(), Condition::DestinationPort(PortRange::single(15001)).into()], Target::Accept));
    filter.base = Some(Base { hook: Hook::Output, policy: Some(Policy::Drop), head: 0, counters: None });
    plan.table_mut(TableName::Mangle).chain_mut("OUTPUT").rules.push(rule([], Target::Accept));
    // Behind nat the new destination shows.
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("sent to port 15001"));
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443 uid 1337"), "dropped");
    plan.table_mut(TableName::Raw).chain_mut("OUTPUT").rules.push(rule([tcp()], Target::Drop));
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), "dropped");
}

#[test]
fn jumps_gotos_and_returns_lead_where_the_kernel_goes() {
    let mut plan = Ruleset::new(Family::V4);
    let nat = plan.table_mut(TableName::Nat);
    nat.chain_mut("OUTPUT").rules = vec![rule([], Target::Jump("A".into())), rule([], Target::Redirect(1))];
    nat.chain_mut("A").rules = vec![rule([], Target::Goto("B".into())), rule([], Target::Redirect(2))];
    nat.chain_mut("B").rules = vec![rule([], Target::Return), rule([], Target::Redirect(3))];
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("sent to port 1,"));
    plan.table_mut(TableName::Nat).chain_mut("A").rules[0].target = Target::Jump("B".into());
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("sent to port 2,"));
    plan.table_mut(TableName::Nat).chain_mut("OUTPUT").rules[0].target = Target::Goto("A".into());
    plan.table_mut(TableName::Nat).chain_mut("A").rules[0].target = Target::Return;
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), "delivered as is");
    plan.table_mut(TableName::Nat).chain_mut("A").rules[0].target = Target::Jump("GONE".into());
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), "depends on the chain GONE, which is not known");
    // No kernel takes such a loop; nobody hangs in it.
    plan.table_mut(TableName::Nat).chain_mut("A").rules[0].target = Target::Jump("A".into());
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("depends on "));
}

#[test]
fn a_loop_of_gotos_ends() {
    let mut plan = Ruleset::new(Family::V4);
    let nat = plan.table_mut(TableName::Nat);
    nat.chain_mut("OUTPUT").rules = vec![rule([], Target::Goto("A".into()))];
    nat.chain_mut("A").rules = vec![rule([], Target::Goto("A".into()))];
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("depends on "));
}

#[test]
fn what_is_not_known_is_said_unless_it_makes_no_difference() {
    let opaque = |name: &str| Opaque { name: name.to_owned(), revision: 0, data: vec![1] };
    let limit = || Match::from(Condition::Opaque(opaque("limit")));
    let mut plan = rules(TableName::Nat, "OUTPUT", vec![rule([limit()], Target::Return), rule([tcp()], Target::Redirect(1))]);
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), "depends on -m limit <revision 0, 1 bytes: 01>, which mesh-init does not know");
    assert_eq!(outcome(&plan, "out udp 10.0.0.1:443"), "delivered as is");
    plan.table_mut(TableName::Nat).chain_mut("OUTPUT").rules[0] = rule([out_by("eth1").into()], Target::Return);
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), "depends on -o eth1, and the packet's device is not given (dev NAME)");
    assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443 dev eth1"), "delivered as is");
    assert!(outcome(&plan, "out tcp 10.0.0.1:443 dev eth2").starts_with("sent to port 1"));
    assert!(outcome(&plan, "out tcp 10.9.0.2:443").starts_with("sent to port 1"));
    plan.table_mut(TableName::Nat).chain_mut("OUTPUT").rules[0] = rule([], Target::Opaque(opaque("DNAT")));
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("depends on what -j DNAT <"));
    for (name, expected) in [("LOG", "sent to port 1,"), ("REJECT", "dropped"), ("NOTRACK", "delivered")] {
        let mut plan = plan.clone();
        plan.table_mut(TableName::Raw).chain_mut("OUTPUT").rules.push(rule([], Target::Opaque(opaque(name))));
        plan.table_mut(TableName::Nat).chain_mut("OUTPUT").rules.remove(0);
        assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with(expected), "{name}: {}", outcome(&plan, "out tcp 10.0.0.1:443"));
    }
}

#[test]
fn where_source_nat_lets_a_packet_come_from_is_not_known() {
    let from = |net: &str| Match::from(Condition::Source(net.parse().unwrap()));
    let unknown = "depends on -s 10.9.0.9/32, from an unknown address";
    for name in ["SNAT", "MASQUERADE"] {
        let mut plan = rules(TableName::Nat, "OUTPUT", vec![rule([tcp()], Target::Redirect(1))]);
        let opaque = Opaque { name: name.to_owned(), revision: 0, data: vec![1] };
        plan.table_mut(TableName::Nat).chain_mut("POSTROUTING").rules = vec![rule([out_by("lo").into()], Target::Opaque(opaque))];
        plan.table_mut(TableName::Filter).chain_mut("INPUT").rules = vec![rule([from("10.9.0.9/32")], Target::Drop)];
        assert_eq!(outcome(&plan, "out tcp 10.0.0.1:443"), unknown);
        let ported = "out tcp 10.0.0.1:443 from 10.9.0.2:4000";
        plan.table_mut(TableName::Filter).chain_mut("INPUT").rules =
            vec![rule([tcp(), Condition::SourcePort(PortRange::single(5000)).into()], Target::Drop)];
        assert_eq!(outcome(&plan, ported), "depends on -p tcp -m tcp --sport 5000, from an unknown port");
        // Where a connection's source was decided before, it is not known either.
        let nat = plan.table_mut(TableName::Nat);
        nat.chain_mut("OUTPUT").rules.clear();
        plan.table_mut(TableName::Filter).chain_mut("INPUT").rules = vec![rule([from("10.9.0.9/32")], Target::Drop)];
        assert_eq!(outcome(&plan, "out tcp 127.0.0.1:443 state established"), unknown);
    }
}

#[test]
fn a_source_port_of_which_nothing_is_said_may_be_any() {
    let ports = |first, last| Match::from(Condition::SourcePort(PortRange { first, last }));
    let ask = |first, last, packet: &str| {
        outcome(&rules(TableName::Filter, "OUTPUT", vec![rule([tcp(), ports(first, last)], Target::Drop)]), packet)
    };
    for (first, last) in [(10000, 20000), (32768, 60999), (0, 65534), (22, 22)] {
        assert!(ask(first, last, "out tcp 10.0.0.1:443").ends_with(", from an unknown port"), "{first} to {last}");
    }
    assert_eq!(ask(10000, 20000, "out tcp 10.0.0.1:443 from :10000"), "dropped");
    assert_eq!(ask(10000, 20000, "out tcp 10.0.0.1:443 from :9999"), "delivered as is");
    assert_eq!(ask(1, 65535, "out tcp 10.0.0.1:443"), "dropped");
    assert_eq!(ask(0, 0, "out tcp 10.0.0.1:443"), "delivered as is");
}

#[test]
fn what_is_bound_to_lo_goes_there_without_a_mark() {
    let plan = rules(TableName::Filter, "FORWARD", Vec::new());
    assert_eq!(outcome(&plan, "out tcp 10.9.0.1:80 dev lo"), "routed to lo");
    assert_eq!(outcome(&plan, "out tcp 10.9.0.2:80 dev lo"), "delivered as is");
    assert_eq!(outcome(&plan, "out tcp [fd00::1]:80 dev lo"), "dropped");
    assert_eq!(outcome(&plan, "out tcp [fd00::2]:80 dev lo"), "delivered as is");
}

#[test]
fn so_many_unknown_rules_come_to_an_end() {
    let limit = || Match::from(Condition::Opaque(Opaque { name: "limit".into(), revision: 0, data: Vec::new() }));
    let plan = rules(TableName::Nat, "OUTPUT", (0..40).map(|_| rule([limit()], Target::Continue)).collect());
    assert!(outcome(&plan, "out tcp 10.0.0.1:443").starts_with("depends on "));
}

#[test]
fn a_mark_that_has_a_route_leads_to_lo() {
    let mark = MarkMask::full(7);
    let mut plan = rules(TableName::Mangle, "OUTPUT", vec![rule([tcp()], Target::Mark(mark))]);
    let mut pod = pod();
    pod.policy.push(PolicyRoute { family: Family::V4, mark: 7, table: 9 });
    let ask = |plan: &Ruleset| walk(&Layers::of_plan(plan), &"out tcp 10.0.0.1:443".parse().unwrap(), &pod).outcome;
    assert_eq!(ask(&plan), Outcome::RoutedToLo { mark: 7 });
    let tproxy = rule([tcp()], Target::Tproxy { port: 9, mark });
    plan.table_mut(TableName::Mangle).chain_mut("PREROUTING").rules.push(tproxy);
    assert_eq!(ask(&plan), Outcome::Tproxied { port: 9 });
    // Only chains of type route look again.
    let plan = rules(TableName::Filter, "OUTPUT", vec![rule([tcp()], Target::Mark(mark))]);
    assert_eq!(ask(&plan), Outcome::Delivered);
    let packet = "in tcp from 10.1.2.3 to :80".parse().unwrap();
    let plan = rules(TableName::Mangle, "PREROUTING", vec![rule([tcp()], Target::Tproxy { port: 9, mark })]);
    assert_eq!(walk(&Layers::of_plan(&plan), &packet, &pod).outcome, Outcome::Tproxied { port: 9 });
    // The socket that a packet has been given stays its own, wherever it is sent then.
    let mut both = plan;
    both.table_mut(TableName::Nat).chain_mut("PREROUTING").rules.push(rule([tcp()], Target::Redirect(1)));
    assert_eq!(walk(&Layers::of_plan(&both), &packet, &pod).outcome, Outcome::Tproxied { port: 9 });
}

#[test]
fn a_packet_without_a_socket_has_no_owner() {
    let not_root = || !Condition::Uid(IdRange::single(0));
    let plan = rules(TableName::Nat, "OUTPUT", vec![rule([not_root()], Target::Redirect(1))]);
    assert!(outcome(&plan, "out tcp 10.0.0.1:443 uid none").starts_with("sent to port 1"));
    let tables = [nft(Hook::Output, "nat", -100, vec![rule([not_root()], Target::Redirect(1))])];
    let layers = Layers::new(Family::V4, None, &tables);
    assert_eq!(walk(&layers, &"out tcp 10.0.0.1:443 uid none".parse().unwrap(), &pod()).outcome, Outcome::Delivered);
}

#[test]
fn nat_chains_have_their_turn_together_in_the_order_of_their_priorities() {
    let drop = rule([to("127.0.0.1/32").into()], Target::Drop);
    let tables = [
        nft(Hook::Output, "nat", 50, vec![rule([], Target::Redirect(2))]),
        nft(Hook::Output, "nat", -90, vec![rule([], Target::Redirect(1))]),
        // Between the two priorities, but all of nat is asked before.
        nft(Hook::Output, "filter", -50, vec![drop]),
    ];
    let packet = "out tcp 10.0.0.1:443".parse().unwrap();
    let layers = Layers::new(Family::V4, None, &tables);
    assert_eq!(walk(&layers, &packet, &pod()).outcome, Outcome::Dropped);
    let layers = Layers::new(Family::V4, None, &tables[..2]);
    assert!(matches!(walk(&layers, &packet, &pod()).outcome, Outcome::Redirected { port: 1, .. }));
}

#[test]
fn of_tables_with_one_priority_nobody_tells_which_came_last() {
    let packet = "out tcp 10.0.0.1:443".parse().unwrap();
    let outcome = |layers: &Layers<'_>| walk(layers, &packet, &pod()).outcome.to_string();
    let table = |port| nft(Hook::Output, "nat", -100, vec![rule([], Target::Redirect(port))]);
    let unknown = "depends on which table came last, of those with the same priority";
    let plan = rules(TableName::Nat, "OUTPUT", vec![rule([], Target::Redirect(1))]);
    assert_eq!(outcome(&Layers::new(Family::V4, Some(&plan), &[table(2)])), unknown);
    assert_eq!(outcome(&Layers::new(Family::V4, None, &[table(1), table(2)])), unknown);
    let other = || nft(Hook::Output, "nat", -100, vec![rule([!Condition::Protocol(Protocol::TCP)], Target::Drop)]);
    for tables in [[table(1), other(), table(2)], [other(), table(1), table(2)], [table(2), table(1), other()]] {
        assert_eq!(outcome(&Layers::new(Family::V4, None, &tables)), unknown);
    }
    // Where it makes no difference, it does not matter.
    assert!(outcome(&Layers::new(Family::V4, Some(&plan), &[table(1), other()])).starts_with("sent to port 1,"));
    // Of one table's chains that is known.
    let mut one = table(1);
    one.chains.extend(table(2).chains.into_iter().map(|chain| NftChain { name: "d".into(), ..chain }));
    assert!(outcome(&Layers::new(Family::V4, None, &[one])).starts_with("sent to port 2,"));
}

#[test]
fn other_families_and_sleeping_tables_are_not_met() {
    let redirect = || vec![rule([], Target::Redirect(1))];
    let mut table = nft(Hook::Output, "nat", -100, redirect());
    let packet = "out tcp 10.0.0.1:443".parse().unwrap();
    let ask = |table: &NftTable| walk(&Layers::new(Family::V4, None, std::slice::from_ref(table)), &packet, &pod()).outcome;
    assert_ne!(ask(&table), Outcome::Delivered);
    table.chains[0].rules[0].only = Some(Family::V6);
    assert_eq!(ask(&table), Outcome::Delivered);
    table.chains[0].rules[0].only = Some(Family::V4);
    assert_ne!(ask(&table), Outcome::Delivered);
    assert_eq!(ask(&NftTable { dormant: true, ..table.clone() }), Outcome::Delivered);
    assert_eq!(ask(&NftTable { family: "ip6", ..table.clone() }), Outcome::Delivered);
    assert_eq!(ask(&NftTable { family: "bridge", ..table }), Outcome::Delivered);
}

#[test]
fn connection_tracking_comes_after_raw() {
    let restore = |table| {
        let mut plan = rules(
            table,
            "OUTPUT",
            vec![
                rule([Condition::State(StateSet::NEW).into()], Target::Drop),
                rule([!Condition::Connmark(MarkMask::full(1))], Target::Drop),
            ],
        );
        plan.table_mut(table).chains.push(Chain { name: "OWN".into(), base: None, rules: Vec::new() });
        outcome(&plan, "out tcp 10.0.0.1:443")
    };
    assert_eq!(restore(TableName::Raw), "delivered as is");
    assert_eq!(restore(TableName::Mangle), "dropped");
}

#[test]
fn a_rule_can_be_thought_away() {
    let plan = rules(TableName::Nat, "OUTPUT", vec![rule([], Target::Accept), rule([], Target::Redirect(1))]);
    let (layers, packet) = (Layers::of_plan(&plan), "out tcp 10.0.0.1:443".parse().unwrap());
    assert_eq!(walk(&layers, &packet, &pod()).outcome, Outcome::Delivered);
    let (is_absent, budget) = (|visit: &Visit<'_>| visit.rule.target == Target::Accept, Cell::new(3));
    let without = walk_without(&layers, &packet, &pod(), &Omission { is_absent: &is_absent, policies: false, budget: &budget });
    assert_eq!(budget.get(), 1);
    assert!(matches!(without.outcome, Outcome::Redirected { port: 1, .. }));
    assert_eq!(without.matched().count(), 1);
}

#[test]
fn a_policy_can_be_thought_away() {
    let mut plan = rules(TableName::Filter, "OUTPUT", vec![rule([tcp()], Target::Continue)]);
    plan.table_mut(TableName::Filter).chain_mut("OUTPUT").base.as_mut().unwrap().policy = Some(Policy::Drop);
    let (layers, packet) = (Layers::of_plan(&plan), "out tcp 10.0.0.1:443".parse().unwrap());
    let outcome = |policies| {
        let omission = Omission { is_absent: &|_| false, policies, budget: &Cell::new(9) };
        walk_without(&layers, &packet, &pod(), &omission).outcome
    };
    assert_eq!((outcome(false), outcome(true)), (Outcome::Dropped, Outcome::Delivered));
}

#[test]
fn without_a_budget_no_second_way_is_tried() {
    let limit = || Match::from(Condition::Opaque(Opaque { name: "limit".into(), revision: 0, data: Vec::new() }));
    let plan = rules(TableName::Nat, "OUTPUT", vec![rule([limit()], Target::Accept), rule([limit()], Target::Accept)]);
    let (layers, packet) = (Layers::of_plan(&plan), "out tcp 10.0.0.1:443".parse().unwrap());
    let outcome = |budget| {
        let omission = Omission { is_absent: &|_| false, policies: false, budget: &Cell::new(budget) };
        walk_without(&layers, &packet, &pod(), &omission).outcome
    };
    assert_eq!(outcome(100), Outcome::Delivered);
    assert!(matches!(outcome(2), Outcome::DependsOn(_)));
}
