//! A mesh's part of a table taken out and another put in its place; everything foreign stays as it was.

use std::collections::{HashMap, HashSet, VecDeque};

use super::decode;
use super::encode::{self, EncodeError};
use super::entry::{Entry, Lead};
use super::feature::Feature;
use super::table::{RawChain, RawTable};
use crate::ruleset::{Chain, Condition, Counters, Family, Hook, Ownership, Rule, Table};

/// What a mesh has in a table.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The mesh's chains.
    chains: Vec<RawChain>,
    /// Its rules in built-in chains.
    base: HashMap<Hook, BasePart>,
}

#[derive(Debug, Default)]
struct BasePart {
    /// Rules that go before foreign ones.
    head: Vec<Entry>,
    /// Rules that go after them.
    tail: Vec<Entry>,
}

impl Part {
    /// What `plan` wants in the table; nothing without a plan. Of the features in `later` the kernel has the later
    /// revision.
    pub(super) fn planned(family: Family, plan: Option<&Table>, later: &[Feature]) -> Result<Part, EncodeError> {
        let mut part = Part::default();
        for chain in plan.map_or(&[][..], |table| &table.chains) {
            let mut entries = chain.rules.iter().map(|rule| encode::entry(family, rule, later)).collect::<Result<Vec<_>, _>>()?;
            match &chain.base {
                Some(base) => {
                    let tail = entries.split_off(base.head.min(entries.len()));
                    part.base.insert(base.hook, BasePart { head: entries, tail });
                }
                None => part.chains.push(RawChain { rules: entries, ..RawChain::new(family, &chain.name) }),
            }
        }
        Ok(part)
    }

    /// What a mesh had in `raw`, each entry with the counters that `counters` has for it.
    pub(super) fn of(raw: &RawTable, held: &Table, ownership: &Ownership, counters: &[Counters]) -> Part {
        let detached = |entry: &Entry| {
            let carried = entry.origin.and_then(|origin| counters.get(origin)).copied().unwrap_or_default();
            Entry { origin: None, carried, ..entry.clone() }
        };
        let mut part = Part::default();
        for (raw_chain, chain) in raw.chains.iter().zip(&held.chains) {
            match raw_chain.hook() {
                Some(hook) => {
                    let base: &mut BasePart = part.base.entry(hook).or_default();
                    let mut foreign_seen = false;
                    for (index, entry) in raw_chain.rules.iter().enumerate() {
                        let owned = ownership.owns_rule(raw.name, chain, index);
                        foreign_seen |= !owned;
                        if owned {
                            let first = !foreign_seen && !is_anchor(&chain.rules[index]);
                            let list = if first { &mut base.head } else { &mut base.tail };
                            list.push(detached(entry));
                        }
                    }
                }
                None if ownership.owns_chain(&raw_chain.name) => part
                    .chains
                    .push(RawChain { rules: raw_chain.rules.iter().map(detached).collect(), ..RawChain::new(raw.family, &raw_chain.name) }),
                None => {}
            }
        }
        part
    }
}

/// What [`splice`] made.
#[derive(Debug)]
pub(super) struct Spliced {
    /// The new table.
    pub(super) table: RawTable,
    /// Foreign rules that had to go because they jumped to a chain that is no more, as `chain: rule number`.
    pub(super) dangling: Vec<String>,
}

/// `raw` with the mesh's part replaced by `part`. Rules that are there already are kept with their counters, but carry
/// the mark of those wanted; the order of a built-in chain in which the mesh's rules are already right is kept too.
pub(super) fn splice(raw: &RawTable, held: &Table, ownership: &Ownership, part: Part) -> Spliced {
    let family = raw.family;
    let mut table = raw.clone();
    let mut dangling = Vec::new();
    let wanted: HashSet<String> = part.chains.iter().map(|chain| chain.name.clone()).collect();
    let gone = |entry: &Entry| matches!(&entry.lead, Lead::Chain(name) if ownership.owns_chain(name) && !wanted.contains(name));

    table.chains.retain(|chain| chain.hook().is_some() || !ownership.owns_chain(&chain.name) || wanted.contains(&chain.name));
    let Part { chains, mut base } = part;
    let views: HashMap<&str, &Chain> = held.chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
    for chain in &mut table.chains {
        let Some(view) = views.get(chain.name.as_str()) else { continue };
        match chain.hook() {
            Some(hook) => {
                let owned: Vec<bool> = (0..chain.rules.len()).map(|index| ownership.owns_rule(raw.name, view, index)).collect();
                merge_base(family, chain, &view.rules, &owned, base.remove(&hook).unwrap_or_default());
            }
            None if !ownership.owns_chain(&chain.name) => {
                let numbers = chain.rules.iter().enumerate().filter(|(_, entry)| gone(entry)).map(|(index, _)| index + 1);
                dangling.extend(numbers.map(|number| format!("{} {number}", chain.name)));
                chain.rules.retain(|entry| !gone(entry));
            }
            None => {}
        }
    }
    for mut new in chains {
        match table.chains.iter_mut().find(|chain| chain.name == new.name) {
            Some(chain) => {
                let there = std::mem::take(&mut chain.rules);
                chain.rules = Reuse::new(family, there).take_all(new.rules);
            }
            None => {
                new.rules = Reuse::new(family, Vec::new()).take_all(new.rules);
                // By name among the chains that are not built in, as iptables orders them.
                let at = table.chains.iter().position(|chain| chain.hook().is_none() && chain.name > new.name);
                table.chains.insert(at.unwrap_or(table.chains.len()), new);
            }
        }
    }
    Spliced { table, dangling }
}

/// Puts the mesh's rules into a built-in chain: `head` first, `tail` where its rules ended until now, or last.
fn merge_base(family: Family, chain: &mut RawChain, view: &[Rule], owned: &[bool], wanted: BasePart) {
    let planned: Vec<Rule> = wanted.head.iter().chain(&wanted.tail).map(|entry| decode::rule(family, entry)).collect();
    let held: Vec<&Rule> = view.iter().zip(owned).filter(|(_, owned)| **owned).map(|(rule, _)| rule).collect();
    let first = owned.iter().take_while(|owned| **owned).count() >= wanted.head.len();
    if first && planned.len() == held.len() && planned.iter().zip(&held).all(|(planned, held)| planned.same_meaning(held)) {
        let there = chain.rules.iter_mut().zip(owned).filter(|(_, owned)| **owned).map(|(entry, _)| entry);
        for (entry, wanted) in there.zip(wanted.head.iter().chain(&wanted.tail)) {
            entry.take_tag_of(wanted, family);
        }
        return;
    }
    let last = view.iter().zip(owned).rposition(|(rule, owned)| *owned && is_anchor(rule));
    let (mut ours, mut foreign) = (Vec::new(), Vec::new());
    let mut before_tail = None;
    for (index, entry) in std::mem::take(&mut chain.rules).into_iter().enumerate() {
        if owned[index] {
            ours.push(entry);
        } else {
            foreign.push(entry);
        }
        if Some(index) == last {
            before_tail = Some(foreign.len());
        }
    }
    let after = foreign.split_off(before_tail.unwrap_or(foreign.len()));
    let mut reuse = Reuse::new(family, ours);
    chain.rules = reuse.take_all(wanted.head);
    chain.rules.extend(foreign);
    chain.rules.extend(reuse.take_all(wanted.tail));
    chain.rules.extend(after);
}

/// Whether the rule shows where a mesh's rules end. One for an incoming interface does not: it may have been put
/// before foreign rules.
fn is_anchor(rule: &Rule) -> bool {
    !rule.matches.iter().any(|wanted| matches!(wanted.condition, Condition::InInterface(_)))
}

/// Entries that are already in the table, to be taken instead of new ones with the same meaning.
struct Reuse {
    family: Family,
    entries: Vec<Option<Entry>>,
    by_meaning: HashMap<String, VecDeque<usize>>,
}

impl Reuse {
    fn new(family: Family, entries: Vec<Entry>) -> Reuse {
        let mut by_meaning: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            by_meaning.entry(decode::rule(family, entry).meaning()).or_default().push_back(index);
        }
        Reuse { family, entries: entries.into_iter().map(Some).collect(), by_meaning }
    }

    fn take_all(&mut self, wanted: Vec<Entry>) -> Vec<Entry> {
        if self.by_meaning.is_empty() {
            return wanted;
        }
        wanted.into_iter().map(|entry| self.take(&entry).unwrap_or(entry)).collect()
    }

    fn take(&mut self, wanted: &Entry) -> Option<Entry> {
        let index = self.by_meaning.get_mut(&decode::rule(self.family, wanted).meaning())?.pop_front()?;
        let mut entry = self.entries.get_mut(index)?.take()?;
        entry.take_tag_of(wanted, self.family);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{empty, installed, reread, with_foreign};
    use super::*;
    use crate::ruleset::print::iptables::specification;
    use crate::ruleset::{Interface, Mesh, PortRange, Protocol, Ruleset, TableName, Target};

    fn port(port: u16, target: Target) -> Rule {
        let conditions = [Condition::Protocol(Protocol::TCP).into(), Condition::DestinationPort(PortRange::single(port)).into()];
        Rule::new(conditions, target)
    }

    fn from_virtual(target: Target) -> Rule {
        Rule::new([Condition::InInterface(Interface::new("net1").unwrap()).into()], target)
    }

    fn jump(to: &str) -> Rule {
        Rule::new([], Target::Jump(to.into()))
    }

    /// Istio's rules for one excluded port, with virtual interfaces if asked for.
    fn plan(excluded: u16, virtual_interfaces: bool) -> Table {
        let mut table = Table { name: TableName::Nat, chains: Vec::new() };
        table.chain_mut("ISTIO_REDIRECT").rules.push(port(1, Target::Redirect(15001)));
        table.chain_mut("ISTIO_OUTPUT").rules.extend([port(excluded, Target::Return), jump("ISTIO_REDIRECT")]);
        table.chain_mut("OUTPUT").rules.push(jump("ISTIO_OUTPUT"));
        table.chain_mut("PREROUTING").rules.push(jump("ISTIO_OUTPUT"));
        if virtual_interfaces {
            table.chain_mut("PREROUTING").insert_first(from_virtual(Target::Return));
            table.chain_mut("PREROUTING").insert_first(from_virtual(Target::Jump("ISTIO_REDIRECT".into())));
        }
        table
    }

    fn foreign(rules: &[(&str, Rule)]) -> Table {
        let mut table = Table { name: TableName::Nat, chains: Vec::new() };
        for (chain, rule) in rules {
            table.chain_mut(chain).rules.push(rule.clone());
        }
        table
    }

    fn lines(raw: &RawTable, chain: &str) -> Vec<String> {
        let table = decode::table(raw);
        table.chain(chain).unwrap().rules.iter().map(|rule| specification(rule, raw.family)).collect()
    }

    fn with_mine() -> RawTable {
        let mut table = empty(Family::V4, TableName::Nat);
        table.chain_mut("MINE");
        with_foreign(&table, &foreign(&[("OUTPUT", port(7, Target::Jump("MINE".into()))), ("MINE", port(8, Target::Accept))]))
    }

    #[test]
    fn jumps_are_appended_and_virtual_interfaces_inserted() {
        let before = with_foreign(&with_mine(), &foreign(&[("PREROUTING", port(9, Target::Accept))]));
        let after = installed(&before, Some(&plan(80, true)));
        assert_eq!(
            lines(&after, "PREROUTING"),
            ["-i net1 -j ISTIO_REDIRECT", "-i net1 -j RETURN", "-p tcp -m tcp --dport 9 -j ACCEPT", "-j ISTIO_OUTPUT"]
        );
        assert_eq!(lines(&after, "OUTPUT"), ["-p tcp -m tcp --dport 7 -j MINE", "-j ISTIO_OUTPUT"]);
        let names: Vec<&str> = after.chains.iter().skip(4).map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["ISTIO_OUTPUT", "ISTIO_REDIRECT", "MINE"]);
    }

    #[test]
    fn removal_brings_back_the_table_that_was() {
        for virtual_interfaces in [false, true] {
            let before = with_mine();
            let after = installed(&before, Some(&plan(80, virtual_interfaces)));
            assert!(installed(&after, None).same_rules(&before));
        }
    }

    #[test]
    fn a_repair_leaves_foreign_rules_where_they_are() {
        let after = installed(&with_mine(), Some(&plan(80, false)));
        let later = with_foreign(&after, &foreign(&[("OUTPUT", port(9, Target::Accept))]));
        let mut damaged = later.clone();
        damaged.chain_mut("OUTPUT").rules.push(later.chains[2].rules[1].clone());
        let repaired = installed(&reread(&damaged), Some(&plan(80, false)));
        // The jump stands twice, and the last place counts.
        assert_eq!(lines(&repaired, "OUTPUT"), ["-p tcp -m tcp --dport 7 -j MINE", "-p tcp -m tcp --dport 9 -j ACCEPT", "-j ISTIO_OUTPUT"]);
        let changed = installed(&later, Some(&plan(81, false)));
        assert_eq!(lines(&changed, "OUTPUT"), ["-p tcp -m tcp --dport 7 -j MINE", "-j ISTIO_OUTPUT", "-p tcp -m tcp --dport 9 -j ACCEPT"]);
        assert_eq!(lines(&changed, "ISTIO_OUTPUT")[0], "-p tcp -m tcp --dport 81 -j RETURN");
    }

    #[test]
    fn rules_that_stay_keep_their_counters() {
        let mut before = installed(&with_mine(), Some(&plan(80, false)));
        for (number, entry) in before.entries_mut().enumerate() {
            entry.count(Family::V4, number as u64 + 1, 0);
        }
        let held = decode::table(&before);
        let wanted = plan(81, false);
        let alone = |table: &Table| Ruleset { family: Family::V4, tables: vec![table.clone()] };
        let ownership = Ownership::of(Mesh::Istio, &alone(&held), Some(&alone(&wanted)));
        let part = Part::planned(Family::V4, Some(&wanted), &[]).unwrap();
        let after = splice(&before, &held, &ownership, part).table;
        for chain in &after.chains {
            for (entry, line) in chain.rules.iter().zip(lines(&after, &chain.name)) {
                let new = line.contains("--dport 81");
                assert_eq!(entry.origin.is_none(), new, "{line}");
                assert_eq!(entry.origin.map(|origin| origin as u64 + 1).unwrap_or_default(), entry.counters(Family::V4).packets, "{line}");
            }
        }
    }

    #[test]
    fn a_foreign_jump_to_a_chain_that_goes_is_reported_and_goes_too() {
        let after = installed(&with_mine(), Some(&plan(80, false)));
        let tangled = with_foreign(&after, &foreign(&[("MINE", jump("ISTIO_REDIRECT"))]));
        let held = decode::table(&tangled);
        let alone = Ruleset { family: Family::V4, tables: vec![held.clone()] };
        let spliced = splice(&tangled, &held, &Ownership::of(Mesh::Istio, &alone, None), Part::default());
        assert_eq!(spliced.dangling, ["MINE 2"]);
        assert!(reread(&spliced.table).same_rules(&with_mine()));
    }
}
