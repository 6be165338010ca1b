//! What is different between the rules that a plan wants and those that a kernel holds.
//!
//! Rules are compared by meaning and in order, chain by chain. In built-in chains only the mesh's own rules count, and
//! their order among themselves. Rules that are inserted (`iptables -I`) have to stand before all foreign ones, as
//! nothing may take packets away from them. For the others, foreign rules before, between and after them are no
//! difference: whether a foreign rule behind our jump was there before it cannot be told, and to move the jump behind it
//! could end the capture.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::print::iptables;
use super::{Chain, Family, Ownership, Rule, Ruleset, Table, TableName};

/// How a kernel differs from a plan in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Planned and not there.
    Missing,
    /// There, ours, and not planned.
    Extra,
    /// Another rule stands in the planned one's place.
    Changed,
    /// There, but before or after rules that it should follow or precede.
    OutOfPlace,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Changed => "changed",
            Kind::OutOfPlace => "out of place",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// How.
    pub kind: Kind,
    /// The family, 4 or 6.
    #[serde(serialize_with = "family_number")]
    pub family: Family,
    /// The table.
    #[serde(serialize_with = "table_name")]
    pub table: TableName,
    /// The chain.
    pub chain: String,
    /// The position, from 1: for what is there, the rule's number in the chain as `iptables -L --line-numbers` counts;
    /// for what is missing, its number among the chain's planned rules. `None` for the chain itself or its policy.
    pub position: Option<usize>,
    /// The planned rule's text, or the extra rule's.
    pub rule: String,
    /// [`Kind::Changed`]: the text of what is there instead. [`Kind::OutOfPlace`]: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// [`Kind::OutOfPlace`]: the rule's planned number among the chain's planned rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_position: Option<usize>,
}

fn family_number<S: serde::Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(family.number())
}

fn table_name<S: serde::Serializer>(table: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(table.as_str())
}

/// `missing: IPv4 nat OUTPUT 1: -A OUTPUT -j ISTIO_OUTPUT`
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {} {}", self.kind.as_str(), self.family, self.table, self.chain)?;
        if let Some(position) = self.position {
            write!(f, " {position}")?;
        }
        write!(f, ": {}", self.rule)?;
        if let Some(held) = &self.held {
            write!(f, " (instead: {held})")?;
        }
        if let Some(planned) = self.planned_position {
            write!(f, " (planned as {planned})")?;
        }
        Ok(())
    }
}

/// Compares `plan` with what `held` has of the mesh that `ownership` tells of, table by table. A family that is not
/// planned is an empty rule set.
pub fn compare(plan: &Ruleset, held: &Ruleset, ownership: &Ownership) -> Vec<Difference> {
    let mut differences = Vec::new();
    for table in TableName::ALL {
        let mut place = Place { family: plan.family, table, differences: &mut differences };
        place.compare_table(plan.table(table), held.table(table), ownership);
    }
    differences
}

/// Whether [`compare`] would find nothing, which is learnt sooner than what it would find.
pub fn agrees(plan: &Ruleset, held: &Ruleset, ownership: &Ownership) -> bool {
    TableName::ALL.into_iter().all(|name| table_agrees(name, plan.table(name), held.table(name), ownership))
}

/// Whether one table is as planned; `None` is a table without chains.
pub fn table_agrees(name: TableName, plan: Option<&Table>, held: Option<&Table>, ownership: &Ownership) -> bool {
    let planned = |chain: &str| plan.and_then(|table| table.chain(chain));
    let policy = |chain: &Chain| chain.base.and_then(|base| base.policy);
    let as_planned = plan.into_iter().flat_map(|table| &table.chains).all(|wanted| {
        let Some(have) = held.and_then(|table| table.chain(&wanted.name)) else { return wanted.base.is_some() && wanted.rules.is_empty() };
        let held_rules = owned_rules(name, have, ownership).map(|(_, rule)| rule);
        policy(wanted).is_none_or(|planned| policy(have).is_none_or(|held| planned == held))
            && held_rules.clone().count() == wanted.rules.len()
            && wanted.rules.iter().zip(held_rules).all(|(planned, held)| planned.same_meaning(held))
            && displaced(wanted, owned_rules(name, have, ownership).map(|(index, _)| index)).is_none()
    });
    as_planned
        && held.into_iter().flat_map(|table| &table.chains).filter(|have| planned(&have.name).is_none()).all(|have| {
            let foreign = have.base.is_some() || !ownership.owns_chain(&have.name);
            foreign && owned_rules(name, have, ownership).next().is_none()
        })
}

/// The first of the rules to be inserted that does not stand where it should, as its planned place. `positions` are the
/// places of the mesh's rules in the held chain.
fn displaced(wanted: &Chain, positions: impl Iterator<Item = usize>) -> Option<usize> {
    let head = wanted.base.map_or(0, |base| base.head);
    positions.take(head).enumerate().find(|(planned, held)| planned != held).map(|(planned, _)| planned)
}

/// The rules of a chain that count, with their places in it.
fn owned_rules<'a>(table: TableName, chain: &'a Chain, ownership: &'a Ownership) -> impl Iterator<Item = (usize, &'a Rule)> + Clone {
    chain.rules.iter().enumerate().filter(move |(index, _)| ownership.owns_rule(table, chain, *index))
}

struct Place<'a> {
    family: Family,
    table: TableName,
    differences: &'a mut Vec<Difference>,
}

impl Place<'_> {
    fn compare_table(&mut self, plan: Option<&Table>, held: Option<&Table>, ownership: &Ownership) {
        for wanted in plan.map_or(&[][..], |table| &table.chains) {
            let have = held.and_then(|table| table.chain(&wanted.name));
            if have.is_none() && wanted.base.is_none() {
                self.chain_itself(Kind::Missing, wanted, format!("-N {}", wanted.name), None);
            }
            self.compare_policy(wanted, have);
            self.compare_chain(Some(wanted), have, ownership);
        }
        for have in held.map_or(&[][..], |table| &table.chains) {
            if plan.is_some_and(|table| table.chain(&have.name).is_some()) {
                continue;
            }
            if have.base.is_none() && ownership.owns_chain(&have.name) {
                self.chain_itself(Kind::Extra, have, format!("-N {}", have.name), None);
            }
            self.compare_chain(None, Some(have), ownership);
        }
    }

    fn compare_policy(&mut self, wanted: &Chain, have: Option<&Chain>) {
        let policy = |chain: &Chain| chain.base.and_then(|base| base.policy);
        if let (Some(planned), Some(held)) = (policy(wanted), have.and_then(policy))
            && planned != held
        {
            let text = |policy: &str| format!("-P {} {policy}", wanted.name);
            self.chain_itself(Kind::Changed, wanted, text(planned.as_str()), Some(text(held.as_str())));
        }
    }

    fn chain_itself(&mut self, kind: Kind, chain: &Chain, rule: String, held: Option<String>) {
        let (family, table) = (self.family, self.table);
        self.differences.push(Difference {
            kind,
            family,
            table,
            chain: chain.name.clone(),
            position: None,
            rule,
            held,
            planned_position: None,
        });
    }

    fn compare_chain(&mut self, wanted: Option<&Chain>, have: Option<&Chain>, ownership: &Ownership) {
        let planned: Vec<&Rule> = wanted.into_iter().flat_map(|chain| &chain.rules).collect();
        let table = self.table;
        let (positions, held): (Vec<usize>, Vec<&Rule>) = have.into_iter().flat_map(|chain| owned_rules(table, chain, ownership)).unzip();
        let pairs = Pairs::of(&planned, &held);
        let in_order = pairs.all_in_place(planned.len(), held.len());
        let displaced = wanted.filter(|_| in_order).and_then(|wanted| displaced(wanted, positions.iter().copied()));
        if in_order && displaced.is_none() {
            return;
        }
        let Some(name) = wanted.or(have).map(|chain| chain.name.clone()) else { return };
        let (family, table) = (self.family, self.table);
        let difference = |kind, position: usize, rule: &Rule| Difference {
            kind,
            family,
            table,
            chain: name.clone(),
            position: Some(position + 1),
            rule: match (kind, wanted) {
                (Kind::Missing, Some(chain)) => iptables::command(chain, position, rule, family),
                _ => format!("-A {name} {}", iptables::specification(rule, family)).trim_end().to_owned(),
            },
            held: None,
            planned_position: None,
        };
        if let Some(index) = displaced {
            let found = difference(Kind::OutOfPlace, positions[index], planned[index]);
            self.differences.push(Difference { planned_position: Some(index + 1), ..found });
            return;
        }
        // Walk both lists from one rule that stands in its place to the next.
        let (mut at_plan, mut at_held) = (0, 0);
        for (to_plan, to_held) in pairs.in_place.iter().copied().chain([(planned.len(), held.len())]) {
            let mut extra: Vec<usize> = (at_held..to_held).filter(|index| pairs.held_partner[*index].is_none()).rev().collect();
            for (index, rule) in planned.iter().enumerate().take(to_plan).skip(at_plan) {
                self.differences.push(match (pairs.plan_partner[index], extra.pop_if(|_| pairs.plan_partner[index].is_none())) {
                    (Some(moved), _) => {
                        let found = difference(Kind::OutOfPlace, positions[moved], rule);
                        Difference { planned_position: Some(index + 1), ..found }
                    }
                    (None, Some(instead)) => {
                        let found = difference(Kind::Changed, positions[instead], rule);
                        Difference { held: Some(iptables::specification(held[instead], family)), ..found }
                    }
                    (None, None) => difference(Kind::Missing, index, rule),
                });
            }
            for index in extra.into_iter().rev() {
                self.differences.push(difference(Kind::Extra, positions[index], held[index]));
            }
            (at_plan, at_held) = (to_plan + 1, to_held + 1);
        }
    }
}

/// Which planned rule is which held one.
struct Pairs {
    /// For each planned rule, the equal held one.
    plan_partner: Vec<Option<usize>>,
    /// For each held rule, the equal planned one.
    held_partner: Vec<Option<usize>>,
    /// Of these pairs as many as possible that are in the same order on both sides.
    in_place: Vec<(usize, usize)>,
}

impl Pairs {
    /// Pairs equal rules, the first with the first. Cost: n log n in the number of rules.
    fn of(planned: &[&Rule], held: &[&Rule]) -> Pairs {
        if planned.len() == held.len() && planned.iter().zip(held).all(|(planned, held)| planned.same_meaning(held)) {
            let partner: Vec<_> = (0..planned.len()).map(Some).collect();
            let in_place = (0..planned.len()).map(|index| (index, index)).collect();
            return Pairs { plan_partner: partner.clone(), held_partner: partner, in_place };
        }
        let mut by_meaning: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, rule) in held.iter().enumerate().rev() {
            by_meaning.entry(rule.meaning()).or_default().push(index);
        }
        let plan_partner: Vec<Option<usize>> = planned.iter().map(|rule| by_meaning.get_mut(&rule.meaning()).and_then(Vec::pop)).collect();
        let mut held_partner = vec![None; held.len()];
        for (index, partner) in plan_partner.iter().enumerate() {
            if let Some(partner) = partner {
                held_partner[*partner] = Some(index);
            }
        }
        let pairs: Vec<(usize, usize)> =
            plan_partner.iter().enumerate().filter_map(|(index, partner)| partner.map(|partner| (index, partner))).collect();
        Pairs { plan_partner, held_partner, in_place: longest_rising(&pairs) }
    }

    fn all_in_place(&self, planned: usize, held: usize) -> bool {
        self.in_place.len() == planned && planned == held
    }
}

/// The longest part of `pairs`, whose first members rise, in which the second members rise too.
fn longest_rising(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // tails[n]: the index of the pair that ends the best run of n + 1 pairs; before[i]: the pair before pair i.
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (index, pair) in pairs.iter().enumerate() {
        let length = tails.partition_point(|tail| pairs[*tail].1 < pair.1);
        before.push(length.checked_sub(1).map(|last| tails[last]));
        match tails.get_mut(length) {
            Some(tail) => *tail = index,
            None => tails.push(index),
        }
    }
    let mut run: Vec<(usize, usize)> =
        std::iter::successors(tails.last().copied(), |index| before[*index]).map(|index| pairs[index]).collect();
    run.reverse();
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Condition, Mesh, Policy, PortRange, Protocol, Target};

    fn port(port: u16) -> Rule {
        let conditions = [Condition::Protocol(Protocol::TCP).into(), Condition::DestinationPort(PortRange::single(port)).into()];
        Rule::new(conditions, Target::Return)
    }

    fn own(ports: &[u16]) -> Ruleset {
        let mut rules = Ruleset::new(Family::V4);
        rules.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT").rules.extend(ports.iter().copied().map(port));
        rules
    }

    fn differences(plan: &Ruleset, held: &Ruleset) -> Vec<String> {
        let ownership = Ownership::of(Mesh::Istio, held, Some(plan));
        assert_eq!(agrees(plan, held, &ownership), compare(plan, held, &ownership).is_empty());
        compare(plan, held, &ownership).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_rules_have_no_difference() {
        assert!(differences(&own(&[1, 2, 3]), &own(&[1, 2, 3])).is_empty());
        assert!(differences(&own(&[]), &own(&[])).is_empty());
    }

    #[test]
    fn each_kind_is_named_with_its_place() {
        let text = |port| format!("-A ISTIO_OUTPUT -p tcp -m tcp --dport {port} -j RETURN");
        assert_eq!(differences(&own(&[1, 2, 3]), &own(&[1, 3])), [format!("missing: IPv4 nat ISTIO_OUTPUT 2: {}", text(2))]);
        assert_eq!(differences(&own(&[1, 3]), &own(&[1, 2, 3])), [format!("extra: IPv4 nat ISTIO_OUTPUT 2: {}", text(2))]);
        assert_eq!(
            differences(&own(&[1, 2, 3]), &own(&[1, 9, 3])),
            [format!("changed: IPv4 nat ISTIO_OUTPUT 2: {} (instead: -p tcp -m tcp --dport 9 -j RETURN)", text(2))]
        );
        assert_eq!(
            differences(&own(&[1, 2, 3]), &own(&[3, 1, 2])),
            [format!("out of place: IPv4 nat ISTIO_OUTPUT 1: {} (planned as 3)", text(3))]
        );
    }

    #[test]
    fn a_rule_twice_is_one_extra() {
        let extra = differences(&own(&[1, 2]), &own(&[1, 2, 2]));
        assert_eq!(extra, ["extra: IPv4 nat ISTIO_OUTPUT 3: -A ISTIO_OUTPUT -p tcp -m tcp --dport 2 -j RETURN"]);
    }

    #[test]
    fn chains_are_compared_too() {
        let mut plan = own(&[]);
        plan.table_mut(TableName::Mangle).chain_mut("ISTIO_DROP").rules.push(Rule::new([], Target::Drop));
        assert_eq!(
            differences(&plan, &own(&[])),
            ["missing: IPv4 mangle ISTIO_DROP: -N ISTIO_DROP", "missing: IPv4 mangle ISTIO_DROP 1: -A ISTIO_DROP -j DROP"]
        );
        assert_eq!(
            differences(&own(&[]), &plan),
            ["extra: IPv4 mangle ISTIO_DROP: -N ISTIO_DROP", "extra: IPv4 mangle ISTIO_DROP 1: -A ISTIO_DROP -j DROP"]
        );
    }

    #[test]
    fn foreign_rules_around_ours_are_no_difference() {
        let jump = || Rule::new([], Target::Jump("ISTIO_OUTPUT".into()));
        let mut plan = own(&[1]);
        plan.table_mut(TableName::Nat).chain_mut("OUTPUT").rules.push(jump());
        let mut held = own(&[1]);
        held.table_mut(TableName::Nat).chain_mut("MINE").rules.push(port(7));
        held.table_mut(TableName::Nat).chain_mut("OUTPUT").rules.extend([port(8), jump(), port(9)]);
        assert!(differences(&plan, &held).is_empty());
        held.table_mut(TableName::Nat).chain_mut("OUTPUT").rules.push(jump());
        assert_eq!(differences(&plan, &held), ["extra: IPv4 nat OUTPUT 4: -A OUTPUT -j ISTIO_OUTPUT"]);
    }

    #[test]
    fn an_inserted_rule_has_to_be_before_foreign_ones() {
        let jump = |to: &str| Rule::new([], Target::Jump(to.into()));
        let mut plan = Ruleset::new(Family::V4);
        let prerouting = plan.table_mut(TableName::Nat).chain_mut("PREROUTING");
        prerouting.rules.push(jump("ISTIO_INBOUND"));
        prerouting.insert_first(jump("ISTIO_REDIRECT"));
        let held = |rules: &[Rule]| {
            let mut held = Ruleset::new(Family::V4);
            held.table_mut(TableName::Nat).chain_mut("PREROUTING").rules.extend_from_slice(rules);
            held
        };
        assert!(differences(&plan, &held(&[jump("ISTIO_REDIRECT"), port(1), jump("ISTIO_INBOUND"), port(2)])).is_empty());
        assert_eq!(
            differences(&plan, &held(&[port(1), jump("ISTIO_REDIRECT"), jump("ISTIO_INBOUND")])),
            ["out of place: IPv4 nat PREROUTING 2: -A PREROUTING -j ISTIO_REDIRECT (planned as 1)"]
        );
    }

    #[test]
    fn the_order_of_our_rules_in_a_built_in_chain_counts() {
        let jump = |to: &str| Rule::new([], Target::Jump(to.into()));
        let mut plan = Ruleset::new(Family::V6);
        plan.table_mut(TableName::Mangle).chain_mut("OUTPUT").rules.extend([jump("ISTIO_A"), jump("ISTIO_B")]);
        let mut held = Ruleset::new(Family::V6);
        held.table_mut(TableName::Mangle).chain_mut("OUTPUT").rules.extend([jump("ISTIO_B"), port(1), jump("ISTIO_A")]);
        assert_eq!(differences(&plan, &held), ["out of place: IPv6 mangle OUTPUT 3: -A OUTPUT -j ISTIO_A (planned as 1)"]);
    }

    #[test]
    fn a_policy_counts_only_if_planned() {
        let mut plan = Ruleset::new(Family::V4);
        plan.table_mut(TableName::Nat).chain_mut("OUTPUT");
        let mut held = plan.clone();
        held.table_mut(TableName::Nat).chain_mut("OUTPUT").base.as_mut().unwrap().policy = Some(Policy::Drop);
        assert!(differences(&plan, &held).is_empty());
        plan.table_mut(TableName::Nat).chain_mut("OUTPUT").base.as_mut().unwrap().policy = Some(Policy::Accept);
        assert_eq!(differences(&plan, &held), ["changed: IPv4 nat OUTPUT: -P OUTPUT ACCEPT (instead: -P OUTPUT DROP)"]);
    }

    #[test]
    fn comments_do_not_count_but_matches_in_another_order_are_the_same() {
        let conditions =
            || [Condition::Mark(super::super::MarkMask::full(1)).into(), Condition::Uid(super::super::IdRange::single(2)).into()];
        let planned = Rule::new(conditions(), Target::Return).with_comment("a");
        let mut held = Rule::new(conditions(), Target::Return);
        held.matches.reverse();
        assert!(planned.same_meaning(&held));
        assert_eq!(planned.meaning(), held.meaning());
    }

    #[test]
    fn the_longest_rising_run_is_found() {
        let run = longest_rising(&[(0, 4), (1, 0), (2, 1), (3, 9), (4, 2), (5, 3)]);
        assert_eq!(run, [(1, 0), (2, 1), (4, 2), (5, 3)]);
        assert!(longest_rising(&[]).is_empty());
    }
}
