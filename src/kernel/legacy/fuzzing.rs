//! Any bytes as the legacy filter's answers.

use super::abi::{self, get_entries, getinfo, replace};
use super::bytes::{text, u32_at};
use super::decode;
use super::encode;
use super::feature::Feature;
use super::splice::{self, Part};
use super::table::{Info, RawTable};
use crate::ruleset::print::{iptables, json};
use crate::ruleset::{Family, Mesh, Ownership, Rule, Ruleset, TableName};

/// Reads `bytes` as a kernel's answers about one table and does with it what is done with those.
pub(in crate::kernel) fn answers(bytes: &[u8]) {
    let Some((info, entries)) = bytes.split_at_checked(getinfo::SIZE) else { return };
    let (Some(info), Some(blob)) = (Info::parse(info), entries.get(get_entries::ENTRIES..)) else { return };
    let called = text(&bytes[..getinfo::VALID_HOOKS]);
    let name = TableName::ALL.into_iter().find(|name| name.as_str() == called).unwrap_or(TableName::Nat);
    for family in Family::ALL {
        if let Ok(raw) = RawTable::parse(family, name, &info, blob) {
            table(&raw);
        }
    }
}

fn table(raw: &RawTable) {
    let held = Ruleset { family: raw.family, tables: vec![decode::table(raw)] };
    let owners = Mesh::ALL.map(|mesh| Ownership::of(mesh, &held, None));
    let _ = iptables::ruleset(&held, iptables::Style { counters: true, owners: &owners });
    let _ = serde_json::to_string(&json::RulesetView::new(&held, &owners));
    for rule in held.tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules) {
        assert_stable(raw.family, rule);
    }
    assert!(reread(raw).same_rules(raw), "another table when it is written as it is");
    for mesh in Mesh::ALL {
        let removed = without(mesh, raw);
        assert!(without(mesh, &removed).same_rules(&removed), "{mesh:?} is removed only the second time");
    }
}

/// A rule that is understood and that can be written is the same when it is read again.
fn assert_stable(family: Family, rule: &Rule) {
    for later in [&[][..], &[Feature::ConnmarkTarget]] {
        let Ok(entry) = encode::entry(family, rule, later) else { continue };
        let again = decode::rule(family, &entry);
        assert_eq!((&again.matches, &again.target, &again.comment), (&rule.matches, &rule.target, &rule.comment), "{family}");
    }
}

/// The table without the mesh's rules, as it is read after that.
fn without(mesh: Mesh, raw: &RawTable) -> RawTable {
    let held = decode::table(raw);
    let ownership = Ownership::of(mesh, &Ruleset { family: raw.family, tables: vec![held.clone()] }, None);
    reread(&splice::splice(raw, &held, &ownership, Part::default()).table)
}

/// The table as it is read after it was written.
fn reread(raw: &RawTable) -> RawTable {
    let written = raw.to_replace().and_then(|message| Some((info_after(&message)?, message.get(replace::ENTRIES..)?.to_vec())));
    let Some((info, blob)) = written else { panic!("a table that cannot be written") };
    match RawTable::parse(raw.family, raw.name, &info, &blob) {
        Ok(table) => table,
        Err(error) => panic!("a table was written that cannot be read: {error}"),
    }
}

/// What the kernel tells of a table that `message`, the argument of SET_REPLACE, has written.
pub(super) fn info_after(message: &[u8]) -> Option<Info> {
    let mut offsets = [[0; abi::HOOKS]; 2];
    for (at, offsets) in [replace::HOOK_ENTRY, replace::UNDERFLOW].into_iter().zip(&mut offsets) {
        for (hook, offset) in offsets.iter_mut().enumerate() {
            *offset = u32_at(message, at + 4 * hook)?;
        }
    }
    let [hook_entry, underflow] = offsets;
    let (valid_hooks, entries) = (u32_at(message, replace::VALID_HOOKS)?, u32_at(message, replace::NUM_ENTRIES)?);
    Some(Info { valid_hooks, hook_entry, underflow, entries, size: u32_at(message, replace::SIZE_OF_ENTRIES)? })
}
