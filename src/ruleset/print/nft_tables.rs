//! Whole tables in the language of `nft`: a plan as a script, and what a kernel holds as a listing.

use std::fmt::{self, Write};

use super::nft::{family_name, rank, specification, words};
use crate::ruleset::layout::{OWN_TABLE, Seat, chain_name};
use crate::ruleset::{Base, Chain, Family, Mesh, NftRule, NftTable, Policy, Ruleset, Table, TableName};

/// A script for `nft -f` that puts mesh-init's own tables of the families of `plans` in the place of those that are
/// there, if any, all at once. A plan without tables only removes.
///
/// The plans are in the form that nf_tables can hold: see [`crate::ruleset::native`].
pub fn script(plans: &[Ruleset]) -> String {
    let mut text = String::new();
    for plan in plans {
        // Writing to a String cannot fail.
        let _ = write_plan(&mut text, plan);
    }
    text
}

fn write_plan(out: &mut String, plan: &Ruleset) -> fmt::Result {
    let table = format!("table {} {OWN_TABLE}", family_name(plan.family));
    writeln!(out, "# {}", plan.family)?;
    // Only a table that is there can be deleted.
    writeln!(out, "{table}\ndelete {table}")?;
    if plan.tables.is_empty() {
        return Ok(());
    }
    writeln!(out, "{table} {{")?;
    let chains = plan.tables.iter().flat_map(|table| table.chains.iter().map(move |chain| (table, chain)));
    for (index, (table, chain)) in chains.enumerate() {
        if index > 0 {
            out.push('\n');
        }
        write_chain(out, plan.family, table, chain)?;
    }
    out.push_str("}\n");
    Ok(())
}

/// Tables as `nft list ruleset` prints them, each chain and rule that is a mesh's under a comment that says whose.
pub fn listing(tables: &[NftTable]) -> String {
    let mut text = String::new();
    for table in tables {
        // Writing to a String cannot fail.
        let _ = write_table(&mut text, table);
    }
    text
}

fn write_table(out: &mut String, table: &NftTable) -> fmt::Result {
    let whose = |owner: Option<Mesh>| owner.map_or("foreign", Mesh::as_str);
    writeln!(out, "table {} {} {{", table.family, table.name)?;
    if table.dormant {
        out.push_str("\tflags dormant\n\n");
    }
    for (index, chain) in table.chains.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        match &chain.base {
            Some(base) => writeln!(out, "\tchain {} {{\n\t\t{base}", chain.name)?,
            None => writeln!(out, "\t# {}\n\tchain {} {{", whose(chain.owner), chain.name)?,
        }
        let mut last = if chain.base.is_some() { None } else { Some(chain.owner) };
        for rule in &chain.rules {
            if last != Some(rule.owner) {
                writeln!(out, "\t\t# {}", whose(rule.owner))?;
                last = Some(rule.owner);
            }
            writeln!(out, "\t\t{}", of_table(table, rule))?;
        }
        out.push_str("\t}\n");
    }
    out.push_str("}\n");
    Ok(())
}

/// A rule of a table as it is.
pub fn of_table(table: &NftTable, NftRule { rule, only, .. }: &NftRule) -> String {
    let family = only.unwrap_or(if table.family == "ip6" { Family::V6 } else { Family::V4 });
    let text = words(rule, family, rule.counters.is_some(), str::to_owned);
    // In a table of several families a rule may be for one without naming an address.
    let says_family = rule.matches.iter().any(|wanted| matches!(rank(&wanted.condition), 2 | 3));
    match only {
        Some(Family::V4) if !says_family => format!("meta nfproto ipv4 {text}"),
        Some(Family::V6) if !says_family => format!("meta nfproto ipv6 {text}"),
        _ => text,
    }
}

fn write_chain(out: &mut String, family: Family, table: &Table, chain: &Chain) -> fmt::Result {
    writeln!(out, "\tchain {} {{", chain_name(table.name, &chain.name))?;
    if let Some(base) = &chain.base {
        writeln!(out, "\t\t{}", seat_text(table.name, base))?;
    }
    for rule in &chain.rules {
        writeln!(out, "\t\t{}", specification(rule, family, |target| chain_name(table.name, target)))?;
    }
    out.push_str("\t}\n");
    Ok(())
}

fn seat_text(table: TableName, base: &Base) -> String {
    let policy = match base.policy {
        Some(Policy::Drop) => "drop",
        Some(Policy::Accept) | None => "accept",
    };
    match Seat::of(table, base.hook) {
        Some(Seat { kind, priority }) => {
            format!("type {kind} hook {} priority {priority}; policy {policy};", base.hook.chain().to_ascii_lowercase())
        }
        None => format!("# no packet comes here: {table} has no {}", base.hook.chain()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Condition, Protocol, Rule, Target};

    #[test]
    fn a_script_replaces_what_was_there() {
        let mut plan = Ruleset::new(Family::V4);
        let jump = || Rule::new([Condition::Protocol(Protocol::TCP).into()], Target::Jump("OWN".into()));
        plan.table_mut(TableName::Mangle).chain_mut("PREROUTING").rules.push(jump());
        plan.table_mut(TableName::Mangle).chain_mut("OWN").rules.push(Rule::new([], Target::Continue));
        plan.table_mut(TableName::Nat).chain_mut("OUTPUT").rules.push(jump());
        plan.table_mut(TableName::Nat).chain_mut("OUTPUT").base.as_mut().unwrap().policy = Some(Policy::Drop);
        plan.table_mut(TableName::Nat).chain_mut("OWN");
        assert_eq!(
            script(&[plan, Ruleset::new(Family::V6)]),
            "# IPv4\ntable ip mesh-init\ndelete table ip mesh-init\ntable ip mesh-init {\n\
             \tchain mangle-PREROUTING {\n\t\ttype filter hook prerouting priority -150; policy accept;\n\
             \t\tmeta l4proto tcp counter jump mangle-OWN\n\t}\n\n\
             \tchain mangle-OWN {\n\t\tcounter\n\t}\n\n\
             \tchain OUTPUT {\n\t\ttype nat hook output priority -100; policy drop;\n\
             \t\tmeta l4proto tcp counter jump OWN\n\t}\n\n\
             \tchain OWN {\n\t}\n}\n\
             # IPv6\ntable ip6 mesh-init\ndelete table ip6 mesh-init\n"
        );
    }
}
