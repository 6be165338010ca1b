//! Rule sets with the same outcome, made alike.
//!
//! Istio's rules for nft are not word for word those for iptables: some stand in another order where order is of no
//! account, and a chain that one family needs is there, empty, for the other one. What is left after both rule sets are
//! simplified is what makes a difference.

use std::collections::HashSet;

use super::{Rule, Ruleset, Table, Target, order};

/// The rule set without empty chains and jumps to them, neighbouring rules of the same final verdict in one order.
pub fn simplified(ruleset: &Ruleset) -> Ruleset {
    let mut simple = ruleset.clone();
    for table in &mut simple.tables {
        drop_empty_chains(table);
        for chain in &mut table.chains {
            if let Some(base) = &mut chain.base {
                (base.head, base.policy) = (0, None);
            }
            for stretch in chain.rules.chunk_by_mut(|a, b| a.target == b.target && is_final(a)) {
                let mut rules: Vec<(String, Rule)> = stretch.iter().map(|rule| (rule.meaning(), rule.clone())).collect();
                order::sort_by(&mut rules, |a, b| a.0.cmp(&b.0));
                stretch.iter_mut().zip(rules).for_each(|(place, (_, rule))| *place = rule);
            }
        }
    }
    simple.tables.retain(|table| !table.chains.is_empty());
    simple
}

/// Whether the order of neighbouring rules with this target is of no account.
fn is_final(rule: &Rule) -> bool {
    matches!(rule.target, Target::Return | Target::Accept | Target::Drop)
}

fn drop_empty_chains(table: &mut Table) {
    loop {
        let empty: HashSet<String> = table.chains.iter().filter(|chain| chain.rules.is_empty()).map(|chain| chain.name.clone()).collect();
        if empty.is_empty() {
            return;
        }
        table.chains.retain(|chain| !empty.contains(&chain.name));
        for chain in &mut table.chains {
            chain.rules.retain(|rule| !matches!(&rule.target, Target::Jump(to) if empty.contains(to)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Condition, Family, Protocol, TableName};

    #[test]
    fn what_makes_no_difference_is_alike() {
        let rule = |protocol, target| Rule::new([Condition::Protocol(Protocol(protocol)).into()], target);
        let mut one = Ruleset::new(Family::V6);
        let chain = one.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT");
        chain.rules.extend([rule(1, Target::Return), rule(2, Target::Return), rule(3, Target::Drop)]);
        let mut other = Ruleset::new(Family::V6);
        other.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT_DNS");
        other.table_mut(TableName::Raw).chain_mut("PREROUTING").rules.push(rule(6, Target::Jump("ISTIO_INBOUND".into())));
        other.table_mut(TableName::Raw).chain_mut("ISTIO_INBOUND");
        let chain = other.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT");
        chain.rules.push(rule(2, Target::Return));
        chain.rules.push(Rule::new([], Target::Jump("ISTIO_OUTPUT_DNS".into())));
        chain.rules.extend([rule(1, Target::Return), rule(3, Target::Drop)]);
        assert_eq!(simplified(&one), simplified(&other));
        other.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT").rules.swap(2, 3);
        assert_ne!(simplified(&one), simplified(&other));
    }
}
