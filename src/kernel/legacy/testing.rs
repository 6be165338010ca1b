//! Tables for unit tests, without a kernel.

use super::abi;
use super::table::{Info, RawTable};
use super::{encode, splice};
use crate::ruleset::{Family, Hook, Mesh, Ownership, Ruleset, Table, TableName};

/// The argument of SET_REPLACE as the kernel would answer GET_INFO and GET_ENTRIES afterwards.
pub(super) fn answers(message: &[u8]) -> (Info, Vec<u8>) {
    let info = super::fuzzing::info_after(message).unwrap();
    (info, message[abi::replace::ENTRIES..].to_vec())
}

/// What would be read back if `table` were written.
pub(super) fn reread(table: &RawTable) -> RawTable {
    let (info, blob) = answers(&table.to_replace().unwrap());
    RawTable::parse(table.family, table.name, &info, &blob).unwrap()
}

/// A table with its built-in chains and nothing in them.
pub(super) fn empty(family: Family, name: TableName) -> RawTable {
    let hooks: &[Hook] = match name {
        TableName::Raw => &[Hook::Prerouting, Hook::Output],
        TableName::Nat => &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
        TableName::Mangle => &Hook::ALL,
        TableName::Filter | TableName::Security => &[Hook::Input, Hook::Forward, Hook::Output],
    };
    reread(&RawTable::without_rules(family, name, hooks))
}

/// `raw` with the rules of `foreign` as well, which are nobody's.
pub(super) fn with_foreign(raw: &RawTable, foreign: &Table) -> RawTable {
    let mut table = raw.clone();
    for chain in &foreign.chains {
        let rules = chain.rules.iter().map(|rule| {
            let mut entry = encode::entry(raw.family, rule, &[]).unwrap();
            entry.untag(raw.family);
            entry
        });
        table.chain_mut(&chain.name).rules.extend(rules);
    }
    reread(&table)
}

/// `raw` after `plan` was installed for Istio; nothing of Istio's is left without one.
pub(super) fn installed(raw: &RawTable, plan: Option<&Table>) -> RawTable {
    let held = super::decode::table(raw);
    let alone = |table: &Table| Ruleset { family: raw.family, tables: vec![table.clone()] };
    let ownership = Ownership::of(Mesh::Istio, &alone(&held), plan.map(alone).as_ref());
    let part = splice::Part::planned(raw.family, plan, &[]).unwrap();
    reread(&splice::splice(raw, &held, &ownership, part).table)
}
