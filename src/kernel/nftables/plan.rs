//! A batch that makes a mesh's part of nf_tables what a plan says.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::abi;
use super::batch::{Batch, BatchError, Position};
use super::decode;
use super::read::{ChainData, RuleData, TableData};
use super::view::{self, ISTIO_TABLES, Seen};
use crate::kernel::backend::{Form, Held};
use crate::ruleset::layout::{self, OWN_TABLE};
use crate::ruleset::print::iptables;
use crate::ruleset::{Counters, Family, Mesh, Ownership, Ruleset, native};

/// Adds to `batch` what makes the mesh's part of each planned family what its rule set says: the own table anew if it is
/// not right, and what the original tool left in nf_tables gone, but for the forms that are `staying`.
///
/// A table is replaced as a whole, since that sets everything right at once: flags, hooks, priorities and rules. Where
/// there is none, nothing is deleted: the kernel waits for packets on their way before it frees what is deleted.
///
/// `dangling` gets the foreign rules that have to go because they jump to a chain that goes.
pub(super) fn write(
    batch: &mut Batch,
    mesh: Mesh,
    plans: &[Ruleset],
    staying: &[(Family, Form)],
    seen: &Seen,
    dangling: &mut Vec<String>,
) -> Result<(), BatchError> {
    for plan in plans.iter().filter(|plan| !staying.contains(&(plan.family, Form::IptablesNft))) {
        if let Some(held) = seen.in_form(Form::IptablesNft, plan.family) {
            remove_from_iptables(batch, mesh, held, seen, dangling)?;
        }
    }
    if mesh == Mesh::Istio {
        for table in ISTIO_TABLES.iter().filter_map(|(name, _)| seen.snapshot.table(abi::INET, name)) {
            batch.delete_table(table)?;
        }
    }
    for plan in plans {
        write_own_table(batch, mesh, plan, seen)?;
    }
    Ok(())
}

fn write_own_table(batch: &mut Batch, mesh: Mesh, plan: &Ruleset, seen: &Seen) -> Result<(), BatchError> {
    let family = plan.family;
    let mut wanted = native::native(plan);
    let there = seen.snapshot.table(abi::number(family), OWN_TABLE).zip(seen.in_form(Form::MeshInit, family));
    let mut kept = Vec::new();
    if let Some((table, held)) = there {
        if held.agrees(mesh, plan) && held.has(mesh) != plan.tables.is_empty() {
            return Ok(());
        }
        kept = others(table, held, &held.ownership(mesh, None));
        carry_counters(&mut wanted, &held.ruleset);
        batch.delete_table(table)?;
    }
    if wanted.tables.is_empty() && kept.is_empty() {
        return Ok(());
    }
    batch.own_table(family)?;
    for table in &wanted.tables {
        for chain in &table.chains {
            batch.own_chain(family, table.name, chain)?;
        }
    }
    if let Some((table, _)) = there {
        keep_chains(batch, table, &kept, &wanted)?;
    }
    for table in &wanted.tables {
        for chain in &table.chains {
            let kept = kept.iter().find(|kept| kept.data.name == layout::chain_name(table.name, &chain.name));
            let (count, head) = (chain.rules.len(), chain.base.map_or(0, |base| base.head));
            batch.own_rules(family, table.name, chain, 0..head)?;
            if let Some(kept) = kept {
                kept.recreate(batch, 0..kept.before)?;
            }
            batch.own_rules(family, table.name, chain, head..count)?;
            if let Some(kept) = kept {
                kept.recreate(batch, kept.before..kept.rules.len())?;
            }
        }
    }
    for kept in kept.iter().filter(|kept| !is_wanted(&wanted, kept.data)) {
        kept.recreate(batch, 0..kept.rules.len())?;
    }
    Ok(())
}

/// What is the other mesh's of a chain.
struct Kept<'a> {
    table: &'a TableData,
    data: &'a ChainData,
    rules: Vec<&'a RuleData>,
    /// How many of them stood before the mesh's own, and do so again; all, where it had none.
    before: usize,
}

impl Kept<'_> {
    fn recreate(&self, batch: &mut Batch, which: Range<usize>) -> Result<(), BatchError> {
        for rule in self.rules.iter().take(which.end).skip(which.start) {
            batch.recreate_rule(self.table, self.data, rule, Position::Last)?;
        }
        Ok(())
    }
}

/// What is the other mesh's in the own table: it comes back as it was, byte for byte.
fn others<'a>(table: &'a TableData, held: &Held, ownership: &Ownership) -> Vec<Kept<'a>> {
    let mut kept = Vec::new();
    for data in &table.chains {
        let (name, chain) = layout::chain_of(&data.name);
        let Some(view) = held.ruleset.table(name).and_then(|table| table.chain(chain)) else { continue };
        let is_own: Vec<bool> = (0..data.rules.len()).map(|index| ownership.owns_rule(name, view, index)).collect();
        let rules: Vec<&RuleData> = data.rules.iter().zip(&is_own).filter(|(_, is_own)| !**is_own).map(|(rule, _)| rule).collect();
        let last = is_own.iter().rposition(|is_own| *is_own);
        let before = last.map_or(rules.len(), |last| is_own[..last].iter().filter(|is_own| !**is_own).count());
        let is_kept = if view.base.is_some() { !rules.is_empty() } else { !ownership.owns_chain(chain) };
        if is_kept {
            kept.push(Kept { table, data, rules, before });
        }
    }
    kept
}

fn is_wanted(wanted: &Ruleset, data: &ChainData) -> bool {
    let (table, chain) = layout::chain_of(&data.name);
    wanted.table(table).is_some_and(|table| table.chain(chain).is_some())
}

/// Makes the chains that are kept and not wanted besides, and the sets and objects that kept rules use.
fn keep_chains(batch: &mut Batch, table: &TableData, kept: &[Kept<'_>], wanted: &Ruleset) -> Result<(), BatchError> {
    for kept in kept.iter().filter(|kept| !is_wanted(wanted, kept.data)) {
        batch.recreate_chain(table, kept.data)?;
    }
    let rules = || kept.iter().flat_map(|kept| &kept.rules).map(|rule| rule.expressions.as_slice());
    if rules().any(decode::uses_objects) {
        for object in &table.objects {
            batch.recreate_object(table, object)?;
        }
    }
    let used: Vec<String> = rules().flat_map(decode::sets_of).collect();
    for set in table.sets.iter().filter(|set| used.contains(&set.name)) {
        batch.recreate_set(table, set)?;
    }
    Ok(())
}

/// Rules that are there already go on counting from where they are.
fn carry_counters(wanted: &mut Ruleset, held: &Ruleset) {
    for table in &mut wanted.tables {
        let Some(there) = held.table(table.name) else { continue };
        for chain in &mut table.chains {
            let Some(there) = there.chain(&chain.name) else { continue };
            let mut known: HashMap<String, VecDeque<Counters>> = HashMap::new();
            for rule in &there.rules {
                known.entry(rule.meaning()).or_default().extend(rule.counters);
            }
            for rule in &mut chain.rules {
                rule.counters = known.get_mut(&rule.meaning()).and_then(VecDeque::pop_front);
            }
        }
    }
}

/// Takes the mesh's rules and chains out of iptables-nft's tables; what is foreign stays, the table and its built-in
/// chains too.
fn remove_from_iptables(batch: &mut Batch, mesh: Mesh, held: &Held, seen: &Seen, dangling: &mut Vec<String>) -> Result<(), BatchError> {
    let family = held.ruleset.family;
    let ownership = held.ownership(mesh, None);
    for table in &held.ruleset.tables {
        let data = seen.snapshot.table(abi::number(family), table.name.as_str());
        let Some(data) = data.filter(|_| ownership.owns_any(table)) else { continue };
        let is_own = |chain: &&ChainData| chain.base.is_none() && mesh.owns_chain(&chain.name);
        for chain_data in &data.chains {
            if is_own(&chain_data) {
                if !chain_data.rules.is_empty() {
                    batch.flush_chain(data, chain_data)?;
                }
                continue;
            }
            // A base chain of another name has no part in the view, but may jump to the mesh's chains.
            let view = table.chain(&chain_data.name);
            for (index, source) in chain_data.rules.iter().enumerate() {
                let is_owned = view.is_some_and(|view| ownership.owns_rule(table.name, view, index));
                // The kernel deletes no chain that a rule jumps to.
                let rule = view::rule(Form::IptablesNft, data, table.name, source)?.rule;
                if mesh.owns_target(&rule) && !is_owned {
                    let text = iptables::specification(&rule, family);
                    dangling.push(format!("{family} {} -A {} {text}", table.name, chain_data.name));
                }
                if is_owned || mesh.owns_target(&rule) {
                    batch.delete_rule(data, chain_data, source)?;
                }
            }
        }
        for chain in data.chains.iter().filter(is_own) {
            batch.delete_chain(data, chain)?;
        }
    }
    Ok(())
}
