//! A legacy table as the kernel gives and takes it: entries, grouped into chains.
//!
//! Entries stay bytes here. Only what moves when entries move is understood: the chains' bounds and the targets of
//! jumps, which the kernel writes as offsets and this module as chain names.

use std::collections::HashMap;

use super::abi::{self, Layout};
use super::bytes::{put, text, u16_at, u32_at};
use super::entry::{Entry, Extension, Lead};
use crate::ruleset::{Counters, Family, Hook, TableName};

/// A table's bytes that are not laid out as iptables and the kernel lay them out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {family} {table} table is not laid out as expected: {problem}")]
pub struct LayoutError {
    family: Family,
    table: TableName,
    problem: &'static str,
}

/// What `IPT_SO_GET_INFO` says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) valid_hooks: u32,
    pub(super) hook_entry: [u32; abi::HOOKS],
    pub(super) underflow: [u32; abi::HOOKS],
    pub(super) entries: u32,
    pub(super) size: u32,
}

impl Info {
    pub(super) fn parse(bytes: &[u8]) -> Option<Info> {
        use abi::getinfo::{HOOK_ENTRY, NUM_ENTRIES, SIZE_OF_ENTRIES, UNDERFLOW, VALID_HOOKS};
        let offsets = |at| {
            let mut offsets = [0; abi::HOOKS];
            for (hook, offset) in offsets.iter_mut().enumerate() {
                *offset = u32_at(bytes, at + 4 * hook)?;
            }
            Some(offsets)
        };
        Some(Info {
            valid_hooks: u32_at(bytes, VALID_HOOKS)?,
            hook_entry: offsets(HOOK_ENTRY)?,
            underflow: offsets(UNDERFLOW)?,
            entries: u32_at(bytes, NUM_ENTRIES)?,
            size: u32_at(bytes, SIZE_OF_ENTRIES)?,
        })
    }

    fn has(&self, hook: Hook) -> bool {
        self.valid_hooks & (1 << hook as u32) != 0
    }
}

/// A chain's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawChain {
    pub(super) name: String,
    pub(super) kind: RawKind,
    pub(super) rules: Vec<Entry>,
    /// The last entry: a built-in chain's policy, or the RETURN that ends another.
    pub(super) end: Entry,
}

/// What begins a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawKind {
    /// A hook: packets come in at the first rule.
    Base(Hook),
    /// An entry that holds the chain's name.
    Own(Entry),
}

impl RawChain {
    /// A chain without rules.
    pub(super) fn new(family: Family, name: &str) -> RawChain {
        RawChain {
            name: name.to_owned(),
            kind: RawKind::Own(Entry::marker(family, name)),
            rules: Vec::new(),
            end: Entry::verdict(family, abi::VERDICT_RETURN),
        }
    }

    pub(super) fn hook(&self) -> Option<Hook> {
        match self.kind {
            RawKind::Base(hook) => Some(hook),
            RawKind::Own(_) => None,
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let head = match &self.kind {
            RawKind::Base(_) => None,
            RawKind::Own(head) => Some(head),
        };
        head.into_iter().chain(&self.rules).chain([&self.end])
    }
}

/// A table: its chains and the entry after the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawTable {
    pub(super) family: Family,
    pub(super) name: TableName,
    pub(super) valid_hooks: u32,
    pub(super) chains: Vec<RawChain>,
    end: Entry,
}

impl RawTable {
    /// Reads the entries of a table. Every length and offset is checked.
    pub(super) fn parse(family: Family, name: TableName, info: &Info, blob: &[u8]) -> Result<RawTable, LayoutError> {
        let fault = |problem| LayoutError { family, table: name, problem };
        let (mut entries, offsets) = split(family, blob).map_err(fault)?;
        if entries.len() != info.entries as usize {
            return Err(fault("it has another number of entries than the kernel says"));
        }
        let (chains, end) = group(family, info, &mut entries, &offsets).map_err(fault)?;
        Ok(RawTable { family, name, valid_hooks: info.valid_hooks, chains, end })
    }

    /// A table of built-in chains that accept everything.
    pub(super) fn without_rules(family: Family, name: TableName, hooks: &[Hook]) -> RawTable {
        let chain = |hook: &Hook| RawChain {
            name: hook.chain().to_owned(),
            kind: RawKind::Base(*hook),
            rules: Vec::new(),
            end: Entry::verdict(family, abi::VERDICT_ACCEPT),
        };
        let valid_hooks = hooks.iter().fold(0, |bits, hook| bits | 1 << *hook as u32);
        RawTable { family, name, valid_hooks, chains: hooks.iter().map(chain).collect(), end: Entry::marker(family, abi::ERROR_NAME) }
    }

    /// All entries in the order in which they are written.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chains.iter().flat_map(RawChain::entries).chain([&self.end])
    }

    /// All entries in the order in which they are written.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        let chains = self.chains.iter_mut().flat_map(|chain| {
            let head = match &mut chain.kind {
                RawKind::Base(_) => None,
                RawKind::Own(head) => Some(head),
            };
            head.into_iter().chain(&mut chain.rules).chain([&mut chain.end])
        });
        chains.chain([&mut self.end])
    }

    /// Of each entry in the order in which they are written, what tells it from others: its chain, where it leads, and
    /// the rest of it.
    pub(super) fn identities(&self) -> impl Iterator<Item = (&str, &Lead, Vec<u8>)> {
        let chains = self.chains.iter().flat_map(|chain| chain.entries().map(|entry| (chain.name.as_str(), entry)));
        chains.chain([("", &self.end)]).map(|(chain, entry)| (chain, &entry.lead, entry.identity(self.family)))
    }

    /// Whether both tables hold the same rules in the same chains.
    pub(super) fn same_rules(&self, other: &RawTable) -> bool {
        self.entries().count() == other.entries().count()
            && self.chains.len() == other.chains.len()
            && self.chains.iter().zip(&other.chains).all(|(a, b)| a.name == b.name && a.rules.len() == b.rules.len())
            && self.entries().zip(other.entries()).all(|(a, b)| a.same_rule(b, self.family))
    }

    /// The argument of `IPT_SO_SET_REPLACE`, but for the place of the old counters. `None` if a rule jumps to a chain
    /// that is not in the table.
    pub(super) fn to_replace(&self) -> Option<Vec<u8>> {
        use abi::replace;
        // A jump leads to the first rule of a chain, so that all places must be known before the first entry is written.
        let mut starts: HashMap<&str, usize> = HashMap::new();
        let (mut hook_entry, mut underflow) = ([0_u32; abi::HOOKS], [0_u32; abi::HOOKS]);
        let mut at = 0;
        for chain in &self.chains {
            match &chain.kind {
                RawKind::Base(hook) => hook_entry[*hook as usize] = u32::try_from(at).ok()?,
                RawKind::Own(head) => {
                    at += head.bytes.len();
                    starts.insert(&chain.name, at);
                }
            }
            at += chain.rules.iter().map(|rule| rule.bytes.len()).sum::<usize>();
            if let RawKind::Base(hook) = chain.kind {
                underflow[hook as usize] = u32::try_from(at).ok()?;
            }
            at += chain.end.bytes.len();
        }
        let size = at + self.end.bytes.len();

        let mut message = vec![0; replace::ENTRIES];
        message.reserve_exact(size);
        let mut number = 0_u32;
        for entry in self.entries() {
            number += 1;
            let start = message.len();
            message.extend_from_slice(&entry.bytes);
            let verdict = match &entry.lead {
                Lead::Nowhere => continue,
                Lead::Next => message.len() - replace::ENTRIES,
                Lead::Chain(name) => *starts.get(name.as_str())?,
            };
            let target = usize::from(u16_at(&entry.bytes, Layout::of(self.family).target_offset)?);
            put(&mut message, start + target + abi::EXTENSION_HEAD, &i32::try_from(verdict).ok()?.to_ne_bytes());
        }
        put(&mut message, 0, self.name.as_str().as_bytes());
        put(&mut message, replace::VALID_HOOKS, &self.valid_hooks.to_ne_bytes());
        put(&mut message, replace::NUM_ENTRIES, &number.to_ne_bytes());
        put(&mut message, replace::SIZE_OF_ENTRIES, &u32::try_from(size).ok()?.to_ne_bytes());
        for hook in 0..abi::HOOKS {
            put(&mut message, replace::HOOK_ENTRY + 4 * hook, &hook_entry[hook].to_ne_bytes());
            put(&mut message, replace::UNDERFLOW + 4 * hook, &underflow[hook].to_ne_bytes());
        }
        Some(message)
    }
}

/// Cuts a blob into entries and tells where each began.
fn split(family: Family, blob: &[u8]) -> Result<(Vec<Entry>, Vec<usize>), &'static str> {
    let layout = Layout::of(family);
    let (mut entries, mut offsets) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < blob.len() {
        let rest = &blob[at..];
        let length = u16_at(rest, layout.target_offset + 2).map(usize::from).ok_or("an entry is cut off")?;
        if length < layout.size + abi::EXTENSION_HEAD || !length.is_multiple_of(abi::ALIGNMENT) {
            return Err("an entry has an impossible length");
        }
        let bytes = rest.get(..length).ok_or("an entry is cut off")?;
        if Extension::all(bytes, family).is_none() {
            return Err("the matches and the target of an entry do not fit into it");
        }
        offsets.push(at);
        let origin = Some(entries.len());
        entries.push(Entry { bytes: bytes.to_vec(), lead: Lead::Nowhere, origin, carried: Counters::default() });
        at += length;
    }
    Ok((entries, offsets))
}

/// Sorts entries into chains by the kernel's hook offsets and by the entries that hold chain names, and turns the
/// offsets of jumps into names.
fn group(family: Family, info: &Info, entries: &mut Vec<Entry>, offsets: &[usize]) -> Result<(Vec<RawChain>, Entry), &'static str> {
    let end = entries.pop().ok_or("it is empty")?;
    let marker_name = |entry: &Entry| {
        let (_, target) = Extension::all(&entry.bytes, family)?;
        target.is_marker().then(|| text(target.data))
    };
    if marker_name(&end).is_none() {
        return Err("it does not end with an ERROR entry");
    }

    let at_offset = |offset: u32| offsets.binary_search(&(offset as usize)).map_err(|_| "a hook begins inside an entry");
    let mut begins = HashMap::new();
    let mut ends = HashMap::new();
    for hook in Hook::ALL.into_iter().filter(|hook| info.has(*hook)) {
        begins.insert(at_offset(info.hook_entry[hook as usize])?, hook);
        ends.insert(at_offset(info.underflow[hook as usize])?, hook);
    }
    let hooks = Hook::ALL.into_iter().filter(|hook| info.has(*hook)).count();
    let last_index = entries.len();
    if hooks != begins.len() || hooks != ends.len() || ends.contains_key(&last_index) || begins.contains_key(&last_index) {
        return Err("two hooks begin or end at the same entry");
    }

    // Where each chain's rules begin, for the jumps: by the offset of the entry after its head.
    let mut chains: Vec<RawChain> = Vec::new();
    let mut starts: HashMap<usize, String> = HashMap::new();
    let mut open: Option<(String, RawKind, Vec<Entry>)> = None;
    for (index, entry) in std::mem::take(entries).into_iter().enumerate() {
        let head = marker_name(&entry);
        if begins.contains_key(&index) || head.is_some() {
            match open.take() {
                None => {}
                Some((_, RawKind::Base(_), _)) => return Err("a built-in chain has no policy at its end"),
                Some((name, kind, rules)) => chains.push(close(family, name, kind, rules)?),
            }
        }
        match (begins.get(&index), head) {
            (Some(_), Some(_)) => return Err("a hook begins at a chain's name"),
            (Some(hook), None) => open = Some((hook.chain().to_owned(), RawKind::Base(*hook), Vec::new())),
            (None, Some(name)) => {
                starts.insert(offsets[index] + entry.bytes.len(), name.clone());
                open = Some((name, RawKind::Own(entry), Vec::new()));
                continue;
            }
            (None, None) => {}
        }
        let Some((_, kind, rules)) = &mut open else { return Err("an entry is in no chain") };
        rules.push(entry);
        if let Some(hook) = ends.get(&index) {
            if *kind != RawKind::Base(*hook) {
                return Err("a hook ends in another chain");
            }
            if let Some((name, kind, rules)) = open.take() {
                chains.push(close(family, name, kind, rules)?);
            }
        }
    }
    match open.take() {
        None => {}
        Some((_, RawKind::Base(_), _)) => return Err("a built-in chain has no policy at its end"),
        Some((name, kind, rules)) => chains.push(close(family, name, kind, rules)?),
    }
    if chains.iter().filter(|chain| chain.hook().is_some()).count() != hooks {
        return Err("a hook is missing");
    }
    let mut names = std::collections::HashSet::new();
    if !chains.iter().all(|chain| names.insert(chain.name.as_str())) {
        return Err("two chains have the same name");
    }
    for chain in &mut chains {
        for entry in &mut chain.rules {
            entry.lead = lead(entry, family, offsets, &starts)?;
        }
    }
    Ok((chains, end))
}

fn close(family: Family, name: String, kind: RawKind, mut rules: Vec<Entry>) -> Result<RawChain, &'static str> {
    let end = rules.pop().ok_or("a chain has no entry at its end")?;
    // Anything else would be a rule, which nobody would see here, and a jump would lead astray when entries move.
    if !end.is_unconditional_verdict(family) {
        return Err("a chain ends with a rule");
    }
    Ok(RawChain { name, kind, rules, end })
}

fn lead(entry: &Entry, family: Family, offsets: &[usize], starts: &HashMap<usize, String>) -> Result<Lead, &'static str> {
    let verdict = Extension::all(&entry.bytes, family).and_then(|(_, target)| target.standard_verdict());
    let Some(offset) = verdict.and_then(|verdict| usize::try_from(verdict).ok()) else { return Ok(Lead::Nowhere) };
    let own = entry.origin.and_then(|origin| offsets.get(origin)).copied().unwrap_or_default();
    if offset == own + entry.bytes.len() {
        return Ok(Lead::Next);
    }
    starts.get(&offset).cloned().map(Lead::Chain).ok_or("a rule jumps to no chain's first rule")
}

#[cfg(test)]
impl RawTable {
    /// The chain called `name`, made if it is not there yet.
    pub(super) fn chain_mut(&mut self, name: &str) -> &mut RawChain {
        let at = self.chains.iter().position(|chain| chain.name == name).unwrap_or_else(|| {
            self.chains.push(RawChain::new(self.family, name));
            self.chains.len() - 1
        });
        &mut self.chains[at]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{decode, testing};
    use super::*;
    use crate::ruleset::{Condition, Protocol, Rule, Table, Target};

    fn sample(family: Family) -> RawTable {
        let mut foreign = Table { name: TableName::Nat, chains: Vec::new() };
        let tcp = || Condition::Protocol(Protocol::TCP).into();
        foreign.chain_mut("INNER").rules.push(Rule::new([tcp()], Target::Redirect(1)));
        foreign.chain_mut("EMPTY");
        let rules = [Target::Jump("INNER".into()), Target::Goto("EMPTY".into()), Target::Continue, Target::Return];
        foreign.chain_mut("OUTER").rules.extend(rules.map(|target| Rule::new([tcp()], target)));
        foreign.chain_mut("OUTPUT").rules.push(Rule::new([], Target::Jump("OUTER".into())));
        let mut table = testing::empty(family, TableName::Nat);
        for name in ["INNER", "EMPTY", "OUTER"] {
            table.chain_mut(name);
        }
        testing::with_foreign(&table, &foreign)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for family in Family::ALL {
            let table = sample(family);
            assert!(testing::reread(&table).same_rules(&table));
            let names: Vec<&str> = table.chains.iter().map(|chain| chain.name.as_str()).collect();
            assert_eq!(names, ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "INNER", "EMPTY", "OUTER"]);
            let leads: Vec<&Lead> = table.chains[6].rules.iter().map(|entry| &entry.lead).collect();
            assert_eq!(leads, [&Lead::Chain("INNER".into()), &Lead::Chain("EMPTY".into()), &Lead::Next, &Lead::Nowhere]);
            assert_eq!(
                table.entries().map(|entry| entry.origin).collect::<Vec<_>>(),
                (0..table.entries().count()).map(Some).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_jump_to_a_chain_that_is_not_there_is_never_written() {
        let mut table = sample(Family::V4);
        table.chains.retain(|chain| chain.name != "INNER");
        assert_eq!(table.to_replace(), None);
    }

    #[test]
    fn a_rule_at_the_end_of_a_chain_is_not_overlooked() {
        for family in Family::ALL {
            let mut table = sample(family);
            let chain = table.chain_mut("OUTER");
            let [jump, .., last] = chain.rules.as_slice() else { panic!() };
            for end in [jump.clone(), last.clone()] {
                let mut table = sample(family);
                table.chain_mut("OUTER").end = Entry { lead: Lead::Nowhere, ..end };
                let (info, blob) = testing::answers(&table.to_replace().unwrap());
                let problem = RawTable::parse(family, TableName::Nat, &info, &blob).unwrap_err().problem;
                assert_eq!(problem, "a chain ends with a rule");
            }
        }
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let (info, blob) = testing::answers(&sample(Family::V4).to_replace().unwrap());
        let parse = |info: &Info, blob: &[u8]| RawTable::parse(Family::V4, TableName::Nat, info, blob).map(drop);
        assert_eq!(parse(&info, &blob), Ok(()));
        for cut in 0..blob.len() {
            assert!(parse(&info, &blob[..cut]).is_err(), "cut at {cut}");
        }
        assert!(parse(&Info { entries: info.entries + 1, ..info }, &blob).is_err());
        assert!(parse(&Info { valid_hooks: 0x1f, ..info }, &blob).is_err());
        let mut moved = info;
        moved.hook_entry[0] += 8;
        assert!(parse(&moved, &blob).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for family in Family::ALL {
                if let Some(info) = Info::parse(&bytes) {
                    let _ = RawTable::parse(family, TableName::Nat, &info, &bytes);
                }
            }
        }

        /// A table with some bytes changed is refused, or read as some other table.
        #[test]
        fn damaged_tables_are_read_without_panic(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            offset in 0_u32..2000,
        ) {
            for family in Family::ALL {
                let (mut info, mut blob) = testing::answers(&sample(family).to_replace().unwrap());
                for (at, value) in &damage {
                    let at = at.index(blob.len());
                    blob[at] = *value;
                }
                info.hook_entry[(offset % 5) as usize] = offset;
                for info in [info, Info { hook_entry: testing::answers(&sample(family).to_replace().unwrap()).0.hook_entry, ..info }] {
                    if let Ok(table) = RawTable::parse(family, TableName::Nat, &info, &blob) {
                        let _ = decode::table(&table);
                        let _ = table.to_replace();
                    }
                }
            }
        }
    }
}
