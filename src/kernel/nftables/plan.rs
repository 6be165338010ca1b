//! A batch that makes a mesh's part of nf_tables what a plan says.

use std::collections::{HashMap, VecDeque};

use super::abi;
use super::batch::{Batch, BatchError};
use super::encode;
use super::read::{Snapshot, TableData};
use super::view::{self, ISTIO_TABLES};
use crate::kernel::backend::{Form, Held};
use crate::ruleset::layout::OWN_TABLE;
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
    snapshot: &Snapshot,
    dangling: &mut Vec<String>,
) -> Result<(), BatchError> {
    for plan in plans {
        for held in view::held(snapshot, plan.family)? {
            if held.form == Form::IptablesNft && !staying.contains(&(plan.family, held.form)) {
                remove_from_iptables(batch, mesh, &held, snapshot, dangling)?;
            }
        }
    }
    if mesh == Mesh::Istio {
        for (name, _) in ISTIO_TABLES {
            if snapshot.table(abi::INET, name).is_some() {
                batch.delete_table(abi::INET, name)?;
            }
        }
    }
    for plan in plans {
        write_own_table(batch, mesh, plan, snapshot)?;
    }
    Ok(())
}

fn write_own_table(batch: &mut Batch, mesh: Mesh, plan: &Ruleset, snapshot: &Snapshot) -> Result<(), BatchError> {
    let family = plan.family;
    let there = snapshot.table(abi::number(family), OWN_TABLE);
    let held = view::held(snapshot, family)?.into_iter().find(|held| held.form == Form::MeshInit);
    let mut wanted = native::native(plan);
    if let Some(held) = &held {
        if held.agrees(mesh, plan) && (!plan.tables.is_empty() || !held.ruleset.tables.is_empty()) {
            return Ok(());
        }
        keep(&mut wanted, held, &held.ownership(mesh, None));
        carry_counters(&mut wanted, &held.ruleset);
    }
    if there.is_some() {
        batch.delete_table(abi::number(family), OWN_TABLE)?;
    }
    if wanted.tables.is_empty() {
        return Ok(());
    }
    batch.own_table(family)?;
    for table in &wanted.tables {
        for chain in &table.chains {
            batch.own_chain(family, table.name, chain)?;
        }
        for chain in &table.chains {
            batch.own_rules(family, table.name, chain)?;
        }
    }
    Ok(())
}

/// Puts what is the other mesh's in the own table into `wanted` as well.
fn keep(wanted: &mut Ruleset, held: &Held, ownership: &Ownership) {
    let family = wanted.family;
    for table in &held.ruleset.tables {
        for chain in &table.chains {
            let rules = || chain.rules.iter().enumerate().filter(|(index, _)| !ownership.owns_rule(table.name, chain, *index));
            let is_others = match &chain.base {
                Some(_) => rules().next().is_some(),
                None => !ownership.owns_chain(&chain.name),
            };
            if is_others {
                // Those that nf_tables cannot be told again were nobody's: the table is the meshes' alone.
                let kept = rules().map(|(_, rule)| rule.clone()).filter(|rule| encode::sets(family, rule).is_ok());
                wanted.table_mut(table.name).chain_mut(&chain.name).rules.extend(kept);
            }
        }
    }
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
fn remove_from_iptables(
    batch: &mut Batch,
    mesh: Mesh,
    held: &Held,
    snapshot: &Snapshot,
    dangling: &mut Vec<String>,
) -> Result<(), BatchError> {
    let family = held.ruleset.family;
    let ownership = held.ownership(mesh, None);
    for table in &held.ruleset.tables {
        let Some(data) = snapshot.table(abi::number(family), table.name.as_str()).filter(|_| ownership.owns_any(table)) else { continue };
        for chain in &table.chains {
            let Some(chain_data) = data.chain(&chain.name) else { continue };
            if chain.base.is_none() && ownership.owns_chain(&chain.name) {
                if !chain_data.rules.is_empty() {
                    batch.flush_chain(data, chain_data)?;
                }
                continue;
            }
            for (index, source) in chain_data.rules.iter().enumerate() {
                let is_owned = ownership.owns_rule(table.name, chain, index);
                // The kernel deletes no chain that a rule jumps to.
                let leads_there = chain.rules.get(index).filter(|rule| mesh.owns_target(rule));
                if let Some(rule) = leads_there.filter(|_| !is_owned) {
                    dangling.push(format!("{family} {} {}", table.name, iptables::command(chain, index, rule, family)));
                }
                if is_owned || leads_there.is_some() {
                    batch.delete_rule(data, chain_data, source)?;
                }
            }
        }
        for chain in own_chains(data, mesh) {
            batch.delete_chain(data, chain)?;
        }
    }
    Ok(())
}

fn own_chains(table: &TableData, mesh: Mesh) -> impl Iterator<Item = &super::read::ChainData> {
    table.chains.iter().filter(move |chain| chain.base.is_none() && mesh.owns_chain(&chain.name))
}

#[cfg(test)]
mod tests {
    use super::super::read::{ChainData, RuleData};
    use super::*;
    use crate::kernel::netlink::wire::{AttributeWriter, Header, Messages, append_message};
    use crate::ruleset::{Condition, PortRange, Rule, TableName, Target};

    fn data(handle: u64, rule: &Rule) -> RuleData {
        let mut bytes = Vec::new();
        let write = |list: &mut AttributeWriter<'_>| encode::write(list, Family::V4, TableName::Nat, rule, &[]);
        append_message(&mut bytes, Header { kind: 0, flags: 0, sequence: 0 }, &[], write).unwrap();
        let expressions = Messages::new(&bytes).next().unwrap().unwrap().payload.to_vec();
        RuleData { handle, expressions, user_data: Vec::new() }
    }

    #[test]
    fn a_rule_that_cannot_be_written_again_stops_no_removal() {
        let chain = |name: &str, rules| ChainData { name: name.to_owned(), base: None, attributes: Vec::new(), rules };
        let foreign = Rule::new([Condition::DestinationPort(PortRange::single(80)).into()], Target::Drop);
        assert!(encode::sets(Family::V4, &foreign).is_err() && !foreign.is_opaque());
        let istio = chain("ISTIO_OUTPUT", vec![data(1, &foreign), data(2, &Rule::new([], Target::Return))]);
        let table = TableData {
            family: abi::IPV4,
            name: OWN_TABLE.to_owned(),
            flags: 0,
            chains: vec![istio, chain("PROXY_INIT_OUTPUT", Vec::new())],
            sets: Vec::new(),
        };
        let snapshot = Snapshot { generation: 1, tables: vec![table] };
        let mut batch = Batch::new(1, 1).unwrap();
        write(&mut batch, Mesh::Linkerd, &[Ruleset::new(Family::V4)], &[], &snapshot, &mut Vec::new()).unwrap();
        let complete = batch.end(true).unwrap();
        let made = |kind| Messages::new(&complete.bytes).flatten().filter(|message| message.kind == kind).count();
        assert_eq!((made(abi::message::NEWCHAIN), made(abi::message::NEWRULE)), (1, 1));
    }
}
