use super::*;
use crate::ruleset::{Family, Interface, Match, Opaque, PortRange, Protocol};

const NAT: TableName = TableName::Nat;

fn port(port: u16, target: Target) -> Rule {
    let conditions = [Condition::Protocol(Protocol::TCP).into(), Condition::DestinationPort(PortRange::single(port)).into()];
    Rule::new(conditions, target)
}

fn jump(to: &str) -> Rule {
    Rule::new([], Target::Jump(to.into()))
}

fn counted(rule: Rule, packets: u64) -> Rule {
    Rule { counters: Some(Counters { packets, bytes: packets * 100 }), ..rule }
}

fn from(interface: &str, target: Target) -> Rule {
    Rule::new([Match::from(Condition::InInterface(Interface::new(interface).unwrap()))], target)
}

/// Chains of the nat table with their rules.
fn nat(chains: &[(&str, &[Rule])]) -> Ruleset {
    let mut ruleset = Ruleset::new(Family::V4);
    for (chain, rules) in chains {
        ruleset.table_mut(NAT).chain_mut(chain).rules.extend_from_slice(rules);
    }
    ruleset
}

fn plan() -> Ruleset {
    nat(&[("OUTPUT", &[jump("ISTIO_OUTPUT")]), ("ISTIO_OUTPUT", &[port(80, Target::Return)])])
}

fn planned(now: &Ruleset, plan: &Ruleset) -> String {
    text(&to_plan(Mesh::Istio, now, plan))
}

/// What puts `then` back, and what `plan` made of it: nothing if `now` is what was there.
fn undone(now: &Ruleset, then: &Ruleset, plan: &Ruleset) -> String {
    text(&back_to(Mesh::Istio, now, then, plan, &Words::new()))
}

#[test]
fn chains_are_made_and_jumps_put_in_where_they_belong() {
    let mut plan = plan();
    plan.table_mut(NAT).chain_mut("PREROUTING").rules.push(jump("ISTIO_OUTPUT"));
    plan.table_mut(NAT).chain_mut("PREROUTING").insert_first(from("net1", Target::Return));
    plan.table_mut(NAT).chain_mut("PREROUTING").insert_first(from("net1", Target::Jump("ISTIO_OUTPUT".into())));
    let foreign = nat(&[("PREROUTING", &[port(7, Target::Accept)]), ("OUTPUT", &[port(8, Target::Accept)])]);
    let expected = "*nat\n\
                    :ISTIO_OUTPUT - [0:0]\n\
                    [0:0] -A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\n\
                    [0:0] -I PREROUTING 1 -i net1 -j ISTIO_OUTPUT\n\
                    [0:0] -I PREROUTING 2 -i net1 -j RETURN\n\
                    [0:0] -A PREROUTING -j ISTIO_OUTPUT\n\
                    [0:0] -A OUTPUT -j ISTIO_OUTPUT\n\
                    COMMIT\n";
    assert_eq!(planned(&foreign, &plan), expected);
    assert_eq!(planned(&plan, &plan), "");
}

#[test]
fn a_repair_leaves_what_is_right_and_goes_on_counting() {
    let now = nat(&[
        ("OUTPUT", &[port(7, Target::Accept), counted(jump("ISTIO_OUTPUT"), 5), port(8, Target::Accept)]),
        ("ISTIO_OUTPUT", &[port(81, Target::Return), counted(port(80, Target::Return), 3)]),
    ]);
    assert_eq!(planned(&now, &plan()), "*nat\n:ISTIO_OUTPUT - [0:0]\n[3:300] -A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\nCOMMIT\n");
    let twice = nat(&[
        ("OUTPUT", &[counted(jump("ISTIO_OUTPUT"), 5), port(7, Target::Accept), jump("ISTIO_OUTPUT"), port(8, Target::Accept)]),
        ("ISTIO_OUTPUT", &[port(80, Target::Return)]),
    ]);
    // The last place counts.
    assert_eq!(planned(&twice, &plan()), "*nat\n-D OUTPUT 3\n-D OUTPUT 1\n[5:500] -I OUTPUT 2 -j ISTIO_OUTPUT\nCOMMIT\n");
}

#[test]
fn rules_with_our_mark_do_not_stay_beside_such_without_it() {
    let tagged = |rule: Rule| Rule { tagged: true, ..rule };
    let now = nat(&[
        ("OUTPUT", &[port(7, Target::Accept), tagged(jump("ISTIO_OUTPUT")), port(8, Target::Accept)]),
        ("ISTIO_OUTPUT", &[tagged(port(80, Target::Return))]),
    ]);
    assert_eq!(planned(&now, &plan()), "", "all is right");
    let mut more = plan();
    more.table_mut(NAT).chain_mut("PREROUTING").rules.push(from("net1", Target::Return));
    assert_eq!(
        planned(&now, &more),
        "*nat\n:ISTIO_OUTPUT - [0:0]\n-D OUTPUT 2\n[0:0] -A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\n\
         [0:0] -I OUTPUT 2 -j ISTIO_OUTPUT\n[0:0] -A PREROUTING -i net1 -j RETURN\nCOMMIT\n"
    );
}

#[test]
fn what_is_not_planned_goes_with_what_leads_to_it() {
    let now = nat(&[
        ("OUTPUT", &[jump("ISTIO_OLD"), port(7, Target::Accept)]),
        ("ISTIO_OLD", &[jump("ISTIO_OLDER")]),
        ("ISTIO_OLDER", &[]),
        ("MINE", &[port(9, Target::Accept), jump("ISTIO_OLD")]),
    ]);
    let removal = Ruleset::new(Family::V4);
    assert_eq!(dangling(Mesh::Istio, &now, &removal), [(NAT, "MINE".to_owned(), 1)]);
    let edits = to_plan(Mesh::Istio, &now, &removal);
    let chain = |name: &str| name.to_owned();
    assert_eq!(
        steps(&edits),
        [
            Step::Rule(NAT, chain("OUTPUT"), 1),
            Step::Rule(NAT, chain("MINE"), 2),
            Step::Rules(NAT, chain("ISTIO_OLD")),
            Step::Rules(NAT, chain("ISTIO_OLDER")),
            Step::Chain(NAT, chain("ISTIO_OLD")),
            Step::Chain(NAT, chain("ISTIO_OLDER")),
        ]
    );
    assert_eq!(
        planned(&now, &plan()),
        "*nat\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_OLD - [0:0]\n:ISTIO_OLDER - [0:0]\n-D OUTPUT 1\n-D MINE 2\n\
         [0:0] -A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\n[0:0] -I OUTPUT 1 -j ISTIO_OUTPUT\n\
         -X ISTIO_OLD\n-X ISTIO_OLDER\nCOMMIT\n"
    );
}

#[test]
fn what_was_there_comes_back_in_its_place() {
    let then = nat(&[
        ("OUTPUT", &[port(7, Target::Accept), counted(jump("ISTIO_OLD"), 4), port(8, Target::Accept)]),
        ("ISTIO_OLD", &[counted(port(1, Target::Return), 2)]),
        ("MINE", &[jump("ISTIO_OLD"), port(9, Target::Accept)]),
    ]);
    // As the plan was written.
    let now = nat(&[
        ("OUTPUT", &[port(7, Target::Accept), jump("ISTIO_OUTPUT"), port(8, Target::Accept)]),
        ("ISTIO_OUTPUT", &[port(80, Target::Return)]),
        ("MINE", &[port(9, Target::Accept)]),
        ("PREROUTING", &[jump("ISTIO_OUTPUT")]),
    ]);
    assert_eq!(
        undone(&now, &then, &plan()),
        "*nat\n:ISTIO_OLD - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-D PREROUTING 1\n-D OUTPUT 2\n\
         [2:200] -A ISTIO_OLD -p tcp -m tcp --dport 1 -j RETURN\n[4:400] -I OUTPUT 2 -j ISTIO_OLD\n\
         [0:0] -I MINE 1 -j ISTIO_OLD\n-X ISTIO_OUTPUT\nCOMMIT\n"
    );
    assert_eq!(undone(&then, &then, &plan()), "");
    // Half taken out.
    let mut half = then.clone();
    half.table_mut(NAT).chain_mut("OUTPUT").rules.remove(1);
    half.table_mut(NAT).chain_mut("ISTIO_OLD").rules.clear();
    assert_eq!(
        undone(&half, &then, &plan()),
        "*nat\n:ISTIO_OLD - [0:0]\n[2:200] -A ISTIO_OLD -p tcp -m tcp --dport 1 -j RETURN\n[4:400] -I OUTPUT 2 -j ISTIO_OLD\nCOMMIT\n"
    );
    // A chain that was not there.
    let nothing = Ruleset::new(Family::V4);
    assert_eq!(undone(&plan(), &nothing, &plan()), "*nat\n:ISTIO_OUTPUT - [0:0]\n-D OUTPUT 1\n-X ISTIO_OUTPUT\nCOMMIT\n");
}

#[test]
fn what_mesh_init_has_no_words_for_is_said_in_those_of_the_program() {
    let limit = Rule::new([Condition::Opaque(Opaque { name: "limit".into(), revision: 0, data: vec![1] }).into()], Target::Return);
    let mut then = plan();
    then.table_mut(NAT).chain_mut("ISTIO_OUTPUT").rules.push(counted(limit.clone(), 6));
    let mut now = plan();
    for ruleset in [&mut then, &mut now] {
        ruleset.table_mut(NAT).chain_mut("OUTPUT").rules.push(limit.clone());
    }
    let place = (NAT, "ISTIO_OUTPUT".to_owned(), 1);
    assert_eq!(wordless(Mesh::Istio, &then, &plan()), std::slice::from_ref(&place));
    let saved = "*raw\n-A ISTIO_OUTPUT -j WRONG\nCOMMIT\n*nat\n:ISTIO_OUTPUT - [0:0]\n-A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\n\
                 -A ISTIO_OUTPUT_MORE -j WRONG\n-A ISTIO_OUTPUT -m limit --limit 3/hour -j RETURN\nCOMMIT\n";
    let rules = saved_rules(saved, NAT, "ISTIO_OUTPUT");
    assert_eq!(rules, ["-p tcp -m tcp --dport 80 -j RETURN", "-m limit --limit 3/hour -j RETURN"]);
    let words = Words::from([(place, rules[1].to_owned())]);
    assert_eq!(
        text(&back_to(Mesh::Istio, &now, &then, &plan(), &words)),
        "*nat\n:ISTIO_OUTPUT - [0:0]\n[0:0] -A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\n\
         [6:600] -A ISTIO_OUTPUT -m limit --limit 3/hour -j RETURN\nCOMMIT\n"
    );
}

#[test]
fn the_jumps_of_a_plan_are_checked_in_the_words_of_iptables() {
    let found: Vec<String> =
        jumps(&plan()).iter().map(|jump| format!("{} {} {} {}", jump.table, jump.chain, jump.rule, jump.target)).collect();
    assert_eq!(found, ["nat OUTPUT -j ISTIO_OUTPUT ISTIO_OUTPUT"]);
}
