//! A plan as nf_tables can hold it, with the same outcome for every packet.
//!
//! iptables and nf_tables differ in three ways that the meshes' rules meet:
//!
//! - **Packets without a socket.** `! --uid-owner X` holds for them, since they have no owner; `meta skuid != X` ends
//!   the rule, since there is nothing to compare. A rule with such matches is written the other way round: packets of
//!   the owner go to the rest of the chain, which becomes a chain of its own (`ISTIO_OUTPUT-2`), and to all others the
//!   rule applies.
//! - **TPROXY without a listener.** The xtables target drops the packet, the expression ends the rule. A rule that
//!   drops the same packets follows it.
//! - **Lists.** Neighbouring rules that differ in one port or address alone become one rule with a set where order
//!   allows that, so that a packet's cost does not grow with the list.

use std::collections::HashMap;

use super::value::merged_ports;
use super::{AddressRange, AddressSet, Chain, Condition, Match, PortRange, Rule, Ruleset, Table, Target, order};

/// So many neighbouring rules that differ in one port or address become one rule. Fewer stay as they are: each then has
/// a counter and a comment of its own, and a set would be no quicker.
const MANY: usize = 8;

/// `plan` as nf_tables holds it. What is inserted before foreign rules in iptables goes before the other mesh's here: others
/// have nothing in the table.
pub fn native(plan: &Ruleset) -> Ruleset {
    let mut native = Ruleset::new(plan.family);
    for table in &plan.tables {
        let own = native.table_mut(table.name);
        for chain in &table.chains {
            write_chain(own, chain);
        }
    }
    native
}

fn write_chain(table: &mut Table, chain: &Chain) {
    let mut part = 1;
    let mut name = chain.name.clone();
    // Rules at the head are of interfaces alone, so that each stays one.
    let (head, behind) = chain.rules.split_at(chain.base.map_or(0, |base| base.head));
    let mut rules = condensed(head);
    if let (Some(base), Some(planned)) = (&mut table.chain_mut(&name).base, &chain.base) {
        base.policy = planned.policy;
        base.head = rules.len();
    }
    rules.extend(condensed(behind));
    let last = rules.len().saturating_sub(1);
    for (index, rule) in rules.into_iter().enumerate() {
        let drops = matches!(rule.target, Target::Tproxy { .. }).then(|| Rule::new(rule.matches.clone(), Target::Drop));
        let (not_owned, others): (Vec<Match>, Vec<Match>) = rule
            .matches
            .iter()
            .cloned()
            .partition(|wanted| wanted.negated && matches!(wanted.condition, Condition::Uid(_) | Condition::Gid(_)));
        if not_owned.is_empty() {
            table.chain_mut(&name).rules.extend([rule].into_iter().chain(drops));
            continue;
        }
        part += 1;
        let rest = format!("{}-{part}", chain.name);
        // Behind the last rule there is nothing to go to.
        let away = || if index == last { Target::Return } else { Target::Goto(rest.clone()) };
        let rules = &mut table.chain_mut(&name).rules;
        for owner in not_owned {
            let owned = others.iter().cloned().chain([Match { negated: false, ..owner }]);
            rules.push(Rule::new(owned, away()));
        }
        rules.push(Rule { matches: others, ..rule });
        if index != last {
            rules.push(Rule::new([], away()));
            table.chain_mut(&rest);
            name = rest;
        }
    }
}

/// The field in which neighbouring rules may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Field {
    Source,
    Destination,
    SourcePort,
    DestinationPort,
}

impl Field {
    /// The field of a condition that is a value or a list of values.
    fn of(condition: &Condition) -> Option<Field> {
        match condition {
            Condition::Source(_) => Some(Field::Source),
            Condition::Destination(_) => Some(Field::Destination),
            Condition::SourcePort(_) | Condition::SourcePorts(_) => Some(Field::SourcePort),
            Condition::DestinationPort(_) | Condition::DestinationPorts(_) => Some(Field::DestinationPort),
            _ => None,
        }
    }
}

/// What rules that may become one have in common.
#[derive(Debug)]
struct Shape {
    field: Field,
    /// Text that is the same for rules that differ in the field alone.
    rest: String,
}

/// Which match of a rule may become a set: that of an address before that of a port.
fn listed(rule: &Rule) -> Option<(usize, Shape)> {
    let may_be = |wanted: &Match| Field::of(&wanted.condition).filter(|_| !wanted.negated);
    let places = rule.matches.iter().enumerate().filter_map(|(at, wanted)| Some((at, may_be(wanted)?)));
    let (at, field) = places.min_by_key(|(_, field)| !matches!(field, Field::Source | Field::Destination))?;
    let one_of =
        matches!(rule.target, Target::Return | Target::Accept | Target::Drop | Target::Redirect(_) | Target::Jump(_) | Target::Goto(_));
    one_of.then(|| {
        let mut others = rule.clone();
        others.matches.remove(at);
        (at, Shape { field, rest: others.meaning() })
    })
}

/// `rules` with long lists as sets.
fn condensed(rules: &[Rule]) -> Vec<Rule> {
    let shapes: Vec<Option<(usize, Shape)>> = rules.iter().map(listed).collect();
    let mut condensed = Vec::with_capacity(rules.len());
    let mut at = 0;
    while at < rules.len() {
        let run = shapes[at..].iter().take_while(|shape| shape.is_some()).count();
        // The longest stretch whose order is of no account.
        let same_target = rules[at..at + run].iter().take_while(|rule| rule.target == rules[at].target).count();
        let length = if run > same_target && apart(&rules[at..at + run], &shapes[at..at + run]) { run } else { same_target };
        if length < MANY {
            // Too short to be a list: the rule stays, and the next may begin a stretch.
            let step = length.max(1);
            condensed.extend(rules[at..at + step].iter().map(canonical));
            at += step;
            continue;
        }
        condensed.extend(gathered(&rules[at..at + length], &shapes[at..at + length]));
        at += length;
    }
    condensed
}

/// Whether rules of several shapes are about the same values, all apart from each other, and meet each value in the same order:
/// then the rules of each shape can be gathered, since no packet meets two values.
fn apart(rules: &[Rule], shapes: &[Option<(usize, Shape)>]) -> bool {
    // Those of each shape, the shape that is met first before the others.
    let mut groups: Vec<(Field, Vec<(usize, &Condition)>)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (place, (rule, shape)) in rules.iter().zip(shapes).enumerate() {
        let Some((at, shape)) = shape else { return false };
        let group = *known.entry(&shape.rest).or_insert_with(|| {
            groups.push((shape.field, Vec::new()));
            groups.len() - 1
        });
        if groups[group].0 != shape.field {
            return false;
        }
        groups[group].1.push((place, &rule.matches[*at].condition));
    }
    let follows = |(before, after): (&(usize, &Condition), &(usize, &Condition))| before.0 < after.0 && before.1 == after.1;
    let in_turn = |pair: &[(Field, Vec<(usize, &Condition)>)]| {
        let [(field, before), (other, after)] = pair else { return false };
        field == other && before.len() == after.len() && before.iter().zip(after).all(follows)
    };
    let values: Vec<&Condition> = groups.first().map(|(_, first)| first.iter().map(|(_, value)| *value).collect()).unwrap_or_default();
    groups.windows(2).all(in_turn) && are_disjoint(&values)
}

fn are_disjoint(conditions: &[&Condition]) -> bool {
    let ports: Vec<PortRange> = conditions.iter().flat_map(|condition| ports(condition)).collect();
    let nets: Vec<AddressRange> = conditions.iter().filter_map(|condition| address(condition)).collect();
    let mut spans: Vec<(u128, u128)> = ports.iter().map(|range| (range.first.into(), range.last.into())).collect();
    spans.extend(nets.iter().map(|range| (number(range.first()), number(range.last()))));
    order::sort_by(&mut spans, Ord::cmp);
    spans.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

fn number(address: std::net::IpAddr) -> u128 {
    match address {
        std::net::IpAddr::V4(address) => u32::from(address).into(),
        std::net::IpAddr::V6(address) => address.into(),
    }
}

fn ports(condition: &Condition) -> Vec<PortRange> {
    match condition {
        Condition::SourcePort(range) | Condition::DestinationPort(range) => vec![*range],
        Condition::SourcePorts(list) | Condition::DestinationPorts(list) => list.clone(),
        _ => Vec::new(),
    }
}

fn address(condition: &Condition) -> Option<AddressRange> {
    match condition {
        Condition::Source(net) | Condition::Destination(net) => Some(AddressRange::from(*net)),
        _ => None,
    }
}

/// One rule for each shape that many of `rules` have, in the place of the first of them; the others as they are.
fn gathered(rules: &[Rule], shapes: &[Option<(usize, Shape)>]) -> Vec<Rule> {
    let mut groups: Vec<(usize, Field, Vec<&Rule>)> = Vec::new();
    let mut known: HashMap<(&str, Field), usize> = HashMap::new();
    for (rule, shape) in rules.iter().zip(shapes) {
        let Some((at, shape)) = shape else { continue };
        let group = *known.entry((&shape.rest, shape.field)).or_insert_with(|| {
            groups.push((*at, shape.field, Vec::new()));
            groups.len() - 1
        });
        groups[group].2.push(rule);
    }
    let mut gathered = Vec::new();
    for (at, field, members) in groups {
        match members.as_slice() {
            [first, ..] if members.len() >= MANY => gathered.push(merged(at, field, first, &members)),
            few => gathered.extend(few.iter().map(|rule| canonical(rule))),
        }
    }
    gathered
}

/// One rule for `members`, which differ from `first` in the match at `at` alone.
fn merged(at: usize, field: Field, first: &Rule, members: &[&Rule]) -> Rule {
    let values = || {
        members.iter().filter_map(|rule| rule.matches.iter().find(|wanted| !wanted.negated && Field::of(&wanted.condition) == Some(field)))
    };
    let nets = || values().filter_map(|wanted| address(&wanted.condition)).collect::<AddressSet>();
    let ports = || values().flat_map(|wanted| ports(&wanted.condition)).collect::<Vec<PortRange>>();
    let mut rule = (*first).clone();
    rule.matches[at].condition = match field {
        Field::Source => Condition::Sources(nets()),
        Field::Destination => Condition::Destinations(nets()),
        Field::SourcePort => Condition::SourcePorts(ports()),
        Field::DestinationPort => Condition::DestinationPorts(ports()),
    };
    rule.comment = common_comment(members);
    canonical(&rule)
}

/// What the comments of all rules begin with; where they differ, up to the last `-` before that.
fn common_comment(members: &[&Rule]) -> Option<String> {
    let comments = members.iter().map(|rule| rule.comment.as_deref()).collect::<Option<Vec<&str>>>()?;
    let (first, others) = comments.split_first()?;
    let shared = |comment: &&str| first.bytes().zip(comment.bytes()).take_while(|(a, b)| a == b).count();
    let mut common = others.iter().map(shared).min().unwrap_or(first.len());
    if comments.iter().any(|comment| comment.len() != common) {
        common = first.as_bytes()[..common].iter().rposition(|byte| *byte == b'-').unwrap_or(0);
    }
    (common > 0).then(|| first[..common].to_owned())
}

/// The rule with its lists in ascending order, what touches made one, and lists of one as that one: as nf_tables tells
/// them.
pub fn canonical(rule: &Rule) -> Rule {
    let mut rule = rule.clone();
    for wanted in &mut rule.matches {
        match &mut wanted.condition {
            Condition::SourcePorts(list) | Condition::DestinationPorts(list) => *list = merged_ports(list),
            _ => {}
        }
        let single = match &wanted.condition {
            Condition::SourcePorts(list) if list.len() == 1 => Condition::SourcePort(list[0]),
            Condition::DestinationPorts(list) if list.len() == 1 => Condition::DestinationPort(list[0]),
            Condition::Sources(set) => match only_net(set) {
                Some(net) => Condition::Source(net),
                None => continue,
            },
            Condition::Destinations(set) => match only_net(set) {
                Some(net) => Condition::Destination(net),
                None => continue,
            },
            _ => continue,
        };
        wanted.condition = single;
    }
    // Lists that have become every address there is are no match.
    rule.matches.retain(|wanted| !wanted.is_always_true());
    rule
}

fn only_net(set: &AddressSet) -> Option<ipnet::IpNet> {
    match set.ranges() {
        [range] => Some(range.nets()).filter(|nets| nets.len() == 1).map(|nets| nets[0]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::print::iptables::specification;
    use super::*;
    use crate::ruleset::{Family, IdRange, Interface, MarkMask, Protocol, StateSet, TableName};

    fn tcp() -> Match {
        Condition::Protocol(Protocol::TCP).into()
    }

    fn port(port: u16) -> Match {
        Condition::DestinationPort(PortRange::single(port)).into()
    }

    fn to(net: &str) -> Match {
        Condition::Destination(net.parse().unwrap()).into()
    }

    fn lines(rules: &[Rule]) -> Vec<String> {
        rules.iter().map(|rule| specification(rule, Family::V4)).collect()
    }

    fn in_native(rules: Vec<Rule>) -> Vec<(String, Vec<String>)> {
        let mut plan = Ruleset::new(Family::V4);
        plan.table_mut(TableName::Nat).chain_mut("OWN").rules = rules;
        native(&plan).tables[0].chains.iter().map(|chain| (chain.name.clone(), lines(&chain.rules))).collect()
    }

    #[test]
    fn what_is_not_the_owners_is_what_is_left_when_the_owners_has_gone_on() {
        let lo = || Match::from(Condition::OutInterface(Interface::loopback()));
        let chains = in_native(vec![
            Rule::new([lo(), !Condition::Uid(IdRange::single(7))], Target::Return),
            Rule::new([tcp()], Target::Redirect(1)),
        ]);
        assert_eq!(
            chains,
            [
                ("OWN".to_owned(), ["-o lo -m owner --uid-owner 7 -g OWN-2", "-o lo -j RETURN", "-g OWN-2"].map(str::to_owned).to_vec()),
                ("OWN-2".to_owned(), vec!["-p tcp -j REDIRECT --to-ports 1".to_owned()]),
            ]
        );
        let groups = [1, 2].map(|id| !Condition::Gid(IdRange::single(id)));
        assert_eq!(
            in_native(vec![Rule::new(groups, Target::Drop)]),
            [(
                "OWN".to_owned(),
                ["-m owner --gid-owner 1 -j RETURN", "-m owner --gid-owner 2 -j RETURN", "-j DROP"].map(str::to_owned).to_vec()
            )]
        );
    }

    #[test]
    fn a_packet_that_finds_no_proxy_is_dropped() {
        let chains = in_native(vec![Rule::new([tcp()], Target::Tproxy { port: 1, mark: MarkMask::full(2) })]);
        assert_eq!(chains[0].1[1..], ["-p tcp -j DROP"]);
    }

    #[test]
    fn a_long_list_is_one_rule_and_a_short_one_is_not() {
        let rules = |count: u16| (0..count).map(|number| Rule::new([to(&format!("10.0.{}.0/24", 2 * number))], Target::Return)).collect();
        assert_eq!(in_native(rules(7))[0].1.len(), 7);
        let native = in_native(rules(8));
        assert_eq!(native[0].1.len(), 1);
        assert!(native[0].1[0].contains("10.0.0.0/24, 10.0.2.0/24"), "{native:?}");
    }

    #[test]
    fn rules_of_two_shapes_may_take_turns() {
        let udp = || Match::from(Condition::Protocol(Protocol::UDP));
        let rules = (1..=9_u16).flat_map(|number| {
            [Rule::new([tcp(), port(number * 2)], Target::Return), Rule::new([udp(), port(number * 2)], Target::Return)]
        });
        let chains = in_native(rules.chain([Rule::new([tcp()], Target::Drop)]).collect());
        assert_eq!(chains[0].1.len(), 3, "{chains:?}");
        assert!(chains[0].1[0].starts_with("-p tcp") && chains[0].1[1].starts_with("-p udp"));
    }

    #[test]
    fn rules_of_two_targets_take_turns_only_over_values_that_are_apart() {
        let known = || Match::from(Condition::State(StateSet::ESTABLISHED));
        let turns = |ports: &[u16]| {
            let rules = ports.iter().flat_map(|number| {
                [
                    Rule::new([tcp(), port(*number), known()], Target::Jump("A".into())),
                    Rule::new([tcp(), port(*number)], Target::Jump("B".into())),
                ]
            });
            in_native(rules.collect())[0].1.len()
        };
        assert_eq!(turns(&[2, 4, 6, 8, 10, 12, 14, 16]), 2);
        assert_eq!(turns(&[2, 4, 6, 8, 10, 12, 14, 2]), 16);

        // Each value has both rules, but some the other way round.
        let rules = (1..=8_u16).flat_map(|number| {
            let mut pair = [
                Rule::new([tcp(), port(2 * number), known()], Target::Jump("A".into())),
                Rule::new([tcp(), port(2 * number)], Target::Jump("B".into())),
            ];
            if number > 4 {
                pair.reverse();
            }
            pair
        });
        assert_eq!(in_native(rules.collect())[0].1.len(), 16);
    }

    #[test]
    fn a_rule_with_another_target_ends_a_list() {
        let mut rules: Vec<Rule> = (1..=20).map(|number| Rule::new([tcp(), port(number)], Target::Return)).collect();
        rules[10].target = Target::Accept;
        let native = in_native(rules);
        assert_eq!(native[0].1.len(), 3);
        assert!(native[0].1[1].ends_with("-j ACCEPT"));
    }

    #[test]
    fn comments_are_shortened_to_what_they_share() {
        let rule =
            |number: u16| Rule::new([tcp(), port(number * 2)], Target::Return).with_comment(format!("proxy-init/ignore-port-{number}"));
        let mut plan = Ruleset::new(Family::V4);
        plan.table_mut(TableName::Nat).chain_mut("OWN").rules = (1..=30).map(rule).collect();
        let native = native(&plan);
        assert_eq!(native.tables[0].chains[0].rules[0].comment.as_deref(), Some("proxy-init/ignore-port"));
    }

    #[test]
    fn lists_are_canonical() {
        let list = vec![PortRange { first: 5, last: 9 }, PortRange::single(1), PortRange::single(10)];
        let rule = canonical(&Rule::new([tcp(), Condition::DestinationPorts(list).into()], Target::Return));
        assert_eq!(specification(&rule, Family::V4), "-p tcp -m multiport --dports 1,5:10 -j RETURN");
        let rule = canonical(&Rule::new([tcp(), Condition::DestinationPorts(vec![PortRange::single(4)]).into()], Target::Return));
        assert_eq!(rule.matches[1], port(4));
    }
}
