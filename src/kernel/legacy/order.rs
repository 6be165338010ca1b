//! In which order a family's tables are replaced: each replacement is atomic, their sequence is not.
//!
//! What adds capture comes before what takes it away, so that in between a packet is captured by the old rules, by the
//! new ones, or by both, and never by none.

use crate::ruleset::{Ruleset, Table, TableName, Target, order};

/// The tables to write for `plan`: those it has, and those that `held` has besides.
pub(in crate::kernel) fn writing_order(plan: &Ruleset, held: &Ruleset) -> Vec<TableName> {
    let mut tables: Vec<TableName> =
        TableName::ALL.into_iter().filter(|name| plan.table(*name).is_some() || held.table(*name).is_some()).collect();
    order::sort_by_key(&mut tables, |name| stage(*name, plan.table(*name)));
    tables
}

fn stage(name: TableName, plan: Option<&Table>) -> u8 {
    match name {
        // DNS queries get their zone before they are redirected, and lose it after.
        TableName::Raw if plan.is_some() => 0,
        // With TPROXY the nat table gives up what the mangle table now captures; without, it takes over.
        TableName::Mangle if plan.is_some_and(captures) => 1,
        TableName::Nat => 2,
        TableName::Mangle => 3,
        TableName::Raw => 4,
        // Rules that stop all traffic while others are changed go when the others are in force.
        TableName::Filter | TableName::Security => 5,
    }
}

fn captures(table: &Table) -> bool {
    table.chains.iter().flat_map(|chain| &chain.rules).any(|rule| matches!(rule.target, Target::Tproxy { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Family, MarkMask, Rule};

    fn tables(with: &[(TableName, Target)]) -> Ruleset {
        let mut ruleset = Ruleset::new(Family::V4);
        for (name, target) in with {
            ruleset.table_mut(*name).chain_mut("ISTIO_X").rules.push(Rule::new([], target.clone()));
        }
        ruleset
    }

    #[test]
    fn capture_moves_to_mangle_before_nat_gives_it_up_and_back_after_nat_takes_it() {
        use TableName::{Filter, Mangle, Nat, Raw};
        let tproxy = Target::Tproxy { port: 15006, mark: MarkMask::full(1337) };
        let redirect = Target::Redirect(15001);
        let both = tables(&[(Mangle, tproxy), (Nat, redirect.clone())]);
        let nat = tables(&[(Nat, redirect.clone())]);
        assert_eq!(writing_order(&both, &nat), [Mangle, Nat]);
        assert_eq!(writing_order(&nat, &both), [Nat, Mangle]);
        let drop_invalid = tables(&[(Mangle, Target::Drop), (Nat, redirect.clone())]);
        assert_eq!(writing_order(&drop_invalid, &both), [Nat, Mangle]);
        let dns = tables(&[(Raw, Target::CtZone(1)), (Nat, redirect)]);
        assert_eq!(writing_order(&dns, &nat), [Raw, Nat]);
        assert_eq!(writing_order(&nat, &dns), [Nat, Raw]);
        let guarded = tables(&[(Filter, Target::Drop)]);
        assert_eq!(writing_order(&both, &guarded), [Mangle, Nat, Filter]);
    }
}
