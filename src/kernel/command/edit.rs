//! What has to be changed in a table, as text for `iptables-restore` or as single steps.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write};

use super::kit::{Jump, Step};
use crate::kernel::legacy::writing_order;
use crate::ruleset::print::iptables;
use crate::ruleset::{Chain, Condition, Counters, Mesh, Ownership, Rule, Ruleset, Table, TableName, Target, compare};

/// The words of rules that the kernel holds and mesh-init has none for, by table, chain and place.
pub(super) type Words = HashMap<(TableName, String, usize), String>;

/// What has to be changed in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    table: TableName,
    /// The mesh's chains that are to be there, with their rules. They are made, or emptied first.
    chains: Vec<(String, Vec<Line>)>,
    /// The mesh's chains that are to go.
    gone: Vec<String>,
    /// Changes of other chains.
    seats: Vec<Seat>,
}

/// A rule to be put in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    counters: Counters,
    words: String,
}

/// A chain that the mesh's rules stand in among others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seat {
    chain: String,
    /// How many rules there are now.
    length: usize,
    /// What there is to be, in order.
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    /// The rule that stands at that place now.
    Stays(usize),
    /// A rule of the mesh.
    New(Line),
}

impl Seat {
    /// The places of the rules that go, the last one first: so the others' numbers stay right.
    fn removals(&self) -> impl Iterator<Item = usize> {
        (0..self.length).rev().filter(|place| !self.items.contains(&Item::Stays(*place)))
    }

    fn changes_nothing(&self) -> bool {
        self.items.len() == self.length && self.items.iter().enumerate().all(|(place, item)| *item == Item::Stays(place))
    }
}

impl Edit {
    fn changes_nothing(&self) -> bool {
        self.chains.is_empty() && self.gone.is_empty() && self.seats.is_empty()
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "*{}", self.table)?;
        // A chain that is declared is emptied: so nothing leads from one that goes to another.
        for chain in self.chains.iter().map(|(chain, _)| chain).chain(&self.gone) {
            writeln!(out, ":{chain} - [0:0]")?;
        }
        for seat in &self.seats {
            for place in seat.removals() {
                writeln!(out, "-D {} {}", seat.chain, place + 1)?;
            }
        }
        for (chain, lines) in &self.chains {
            for line in lines {
                line.write(out, &format!("-A {chain}"))?;
            }
        }
        for seat in &self.seats {
            let last_there = seat.items.iter().rposition(|item| matches!(item, Item::Stays(_)));
            for (place, item) in seat.items.iter().enumerate() {
                if let Item::New(line) = item {
                    let before_others = last_there.is_some_and(|last| place < last);
                    let command = if before_others { format!("-I {} {}", seat.chain, place + 1) } else { format!("-A {}", seat.chain) };
                    line.write(out, &command)?;
                }
            }
        }
        for chain in &self.gone {
            writeln!(out, "-X {chain}")?;
        }
        out.push_str("COMMIT\n");
        Ok(())
    }
}

impl Line {
    fn write(&self, out: &mut String, command: &str) -> fmt::Result {
        let Line { counters: Counters { packets, bytes }, words } = self;
        writeln!(out, "{}", format!("[{packets}:{bytes}] {command} {words}").trim_end())
    }
}

/// All of `edits` as text for `iptables-restore --noflush --counters`.
pub(super) fn text(edits: &[Edit]) -> String {
    let mut text = String::new();
    for edit in edits {
        // Writing to a String cannot fail.
        let _ = edit.write(&mut text);
    }
    text
}

/// All of `edits`, which put nothing in, as single steps.
pub(super) fn steps(edits: &[Edit]) -> Vec<Step> {
    let mut steps = Vec::new();
    for Edit { table, gone, seats, .. } in edits {
        steps.extend(seats.iter().flat_map(|seat| seat.removals().map(|place| Step::Rule(*table, seat.chain.clone(), place + 1))));
        steps.extend(gone.iter().map(|chain| Step::Rules(*table, chain.clone())));
        steps.extend(gone.iter().map(|chain| Step::Chain(*table, chain.clone())));
    }
    steps
}

/// The jumps of a plan from built-in chains.
pub(super) fn jumps(plan: &Ruleset) -> Vec<Jump> {
    let chains = plan.tables.iter().flat_map(|table| table.chains.iter().map(move |chain| (table.name, chain)));
    let bases = chains.filter(|(_, chain)| chain.base.is_some());
    let rules = bases.flat_map(|(table, chain)| chain.rules.iter().map(move |rule| (table, chain, rule)));
    let jump = |(table, chain, rule): (TableName, &Chain, &Rule)| match &rule.target {
        Target::Jump(target) => {
            let rule = iptables::specification(rule, plan.family);
            Some(Jump { table, chain: chain.name.clone(), rule, target: target.clone() })
        }
        _ => None,
    };
    rules.filter_map(jump).collect()
}

/// What makes the mesh's part of `now` what `plan` says.
pub(super) fn to_plan(mesh: Mesh, now: &Ruleset, plan: &Ruleset) -> Vec<Edit> {
    let ownership = Ownership::of(mesh, now, Some(plan));
    let words = |chain: &Chain| -> Vec<String> { chain.rules.iter().map(|rule| iptables::specification(rule, plan.family)).collect() };
    let mut edits = Vec::new();
    for name in writing_order(plan, now) {
        let (wanted, held) = (plan.table(name), now.table(name));
        if compare::table_agrees(name, wanted, held, &ownership) {
            continue;
        }
        let mut edit = Edit { table: name, chains: Vec::new(), gone: gone(mesh, held, wanted), seats: Vec::new() };
        for chain in chains_of(wanted).iter().filter(|chain| chain.base.is_none()) {
            let there = held.and_then(|held| held.chain(&chain.name));
            if there.is_some_and(|there| is_same(there, chain) && !is_tagged(&there.rules)) {
                continue;
            }
            edit.chains.push((chain.name.clone(), Counted::of(there, |_| true).lines(chain, words(chain))));
        }
        let stays = |chain: &str| wanted.is_some_and(|wanted| wanted.chain(chain).is_some());
        for (held, wanted) in seats_of(mesh, held, wanted) {
            let Some(chain) = held.or(wanted) else { continue };
            let marked = marks(mesh, name, held, &ownership, stays);
            let mut counted = Counted::of(held, |place| marked[place]);
            let new = wanted.map(|wanted| counted.lines(wanted, words(wanted))).unwrap_or_default();
            let seat = Seat { chain: chain.name.clone(), length: marked.len(), items: merged(held, &marked, wanted, new) };
            edit.seats.extend(Some(seat).filter(|seat| !seat.changes_nothing()));
        }
        edits.push(edit);
    }
    edits
}

/// What makes the mesh's part of `now` what it was in `then`, before `plan` was written. `words` has those of rules that
/// mesh-init has none for.
pub(super) fn back_to(mesh: Mesh, now: &Ruleset, then: &Ruleset, plan: &Ruleset, words: &Words) -> Vec<Edit> {
    let (owned_now, owned_then) = (Ownership::of(mesh, now, Some(plan)), Ownership::of(mesh, then, Some(plan)));
    let mut edits = Vec::new();
    for name in writing_order(then, now) {
        let (before, held) = (then.table(name), now.table(name));
        let mut edit = Edit { table: name, chains: Vec::new(), gone: gone(mesh, held, before), seats: Vec::new() };
        let words_of = |chain: &Chain| -> Vec<String> {
            let own = |rule: &Rule| iptables::specification(rule, then.family);
            let words = |place: usize| words.get(&(name, chain.name.clone(), place)).cloned();
            chain.rules.iter().enumerate().map(|(place, rule)| words(place).unwrap_or_else(|| own(rule))).collect()
        };
        for chain in chains_of(before).iter().filter(|chain| chain.base.is_none() && mesh.owns_chain(&chain.name)) {
            let there = held.and_then(|held| held.chain(&chain.name));
            if there.is_some_and(|there| is_same(there, chain)) {
                continue;
            }
            edit.chains.push((chain.name.clone(), Counted::of(there, |_| true).lines(chain, words_of(chain))));
        }
        for (held, before) in seats_of(mesh, held, before) {
            let Some(chain) = before.or(held).filter(|_| !held.zip(before).is_some_and(|(held, before)| is_same(held, before))) else {
                continue;
            };
            let marked_now = marks(mesh, name, held, &owned_now, |_| false);
            let marked_then = marks(mesh, name, before, &owned_then, |_| false);
            let mut foreign = (0..marked_now.len()).filter(|place| !marked_now[*place]);
            let mut counted = Counted::of(held, |place| marked_now[place]);
            let lines = before.map(|before| counted.lines(before, words_of(before))).unwrap_or_default();
            let mut items = Vec::new();
            for (marked, line) in marked_then.iter().zip(lines) {
                items.extend(if *marked { Some(Item::New(line)) } else { foreign.next().map(Item::Stays) });
            }
            items.extend(foreign.map(Item::Stays));
            let seat = Seat { chain: chain.name.clone(), length: marked_now.len(), items };
            edit.seats.extend(Some(seat).filter(|seat| !seat.changes_nothing()));
        }
        edits.extend(Some(edit).filter(|edit| !edit.changes_nothing()));
    }
    edits
}

/// The rules that [`to_plan`] may take out and mesh-init has no words for.
pub(super) fn wordless(mesh: Mesh, now: &Ruleset, plan: &Ruleset) -> Vec<(TableName, String, usize)> {
    let ownership = Ownership::of(mesh, now, Some(plan));
    let mut found = Vec::new();
    for table in &now.tables {
        for chain in &table.chains {
            let marked = marks(mesh, table.name, Some(chain), &ownership, |_| false);
            let places = (0..marked.len()).filter(|place| marked[*place] && chain.rules[*place].is_opaque());
            found.extend(places.map(|place| (table.name, chain.name.clone(), place)));
        }
    }
    found
}

/// The foreign rules that [`to_plan`] takes out because they lead to a chain that goes.
pub(super) fn dangling(mesh: Mesh, now: &Ruleset, plan: &Ruleset) -> Vec<(TableName, String, usize)> {
    let mut found = Vec::new();
    for table in &now.tables {
        let goes = |to: &str| mesh.owns_chain(to) && plan.table(table.name).is_none_or(|wanted| wanted.chain(to).is_none());
        for chain in table.chains.iter().filter(|chain| chain.base.is_none() && !mesh.owns_chain(&chain.name)) {
            let leads_nowhere = |rule: &Rule| matches!(&rule.target, Target::Jump(to) | Target::Goto(to) if goes(to));
            let places = (0..chain.rules.len()).filter(|place| leads_nowhere(&chain.rules[*place]));
            found.extend(places.map(|place| (table.name, chain.name.clone(), place)));
        }
    }
    found
}

/// The rules of a chain in what `iptables-save` prints, without the command.
pub(super) fn saved_rules<'a>(saved: &'a str, table: TableName, chain: &str) -> Vec<&'a str> {
    let command = format!("-A {chain}");
    let mut in_table = false;
    let mut rules = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            in_table = name.trim() == table.as_str();
        } else if let Some(rest) = line.strip_prefix(&command).filter(|rest| in_table && (rest.is_empty() || rest.starts_with(' '))) {
            rules.push(rest.trim());
        }
    }
    rules
}

fn chains_of(table: Option<&Table>) -> &[Chain] {
    table.map_or(&[], |table| &table.chains)
}

/// The mesh's chains in `held` that are not in `wanted`.
fn gone(mesh: Mesh, held: Option<&Table>, wanted: Option<&Table>) -> Vec<String> {
    let is_wanted = |name: &str| wanted.is_some_and(|wanted| wanted.chain(name).is_some());
    let chains = chains_of(held).iter().filter(|chain| chain.base.is_none() && mesh.owns_chain(&chain.name));
    chains.filter(|chain| !is_wanted(&chain.name)).map(|chain| chain.name.clone()).collect()
}

/// The chains that are not the mesh's own, as they are held and as they are wanted.
fn seats_of<'a>(
    mesh: Mesh,
    held: Option<&'a Table>,
    wanted: Option<&'a Table>,
) -> impl Iterator<Item = (Option<&'a Chain>, Option<&'a Chain>)> {
    let is_seat = move |chain: &&Chain| chain.base.is_some() || !mesh.owns_chain(&chain.name);
    let in_table = |table: Option<&'a Table>, name: &str| table.and_then(|table| table.chain(name));
    let there = chains_of(held).iter().filter(is_seat).map(move |chain| (Some(chain), in_table(wanted, &chain.name)));
    let new = chains_of(wanted).iter().filter(is_seat).filter(move |chain| in_table(held, &chain.name).is_none());
    there.chain(new.map(|chain| (None, Some(chain))))
}

/// Which rules of a chain that is not the mesh's own have to go: the mesh's, and foreign ones that lead to a chain of the
/// mesh that does not stay.
fn marks(mesh: Mesh, table: TableName, chain: Option<&Chain>, ownership: &Ownership, stays: impl Fn(&str) -> bool) -> Vec<bool> {
    let Some(chain) = chain else { return Vec::new() };
    let leads_nowhere = |rule: &Rule| matches!(&rule.target, Target::Jump(to) | Target::Goto(to) if mesh.owns_chain(to) && (chain.base.is_some() || !stays(to)));
    let marked = |(place, rule): (usize, &Rule)| ownership.owns_rule(table, chain, place) || leads_nowhere(rule);
    chain.rules.iter().enumerate().map(marked).collect()
}

/// A built-in chain with the planned rules in the place of the mesh's: those to be inserted first, the others where the
/// mesh's ended until now, or last. If they are right already, they stay.
fn merged(held: Option<&Chain>, marked: &[bool], wanted: Option<&Chain>, new: Vec<Line>) -> Vec<Item> {
    let rules = held.map_or(&[][..], |chain| &chain.rules);
    let planned = wanted.map_or(&[][..], |chain| &chain.rules);
    let head = wanted.and_then(|chain| chain.base).map_or(0, |base| base.head).min(planned.len());
    let ours = || rules.iter().zip(marked).filter(|(_, marked)| **marked).map(|(rule, _)| rule);
    let is_first = marked.iter().take_while(|marked| **marked).count() >= head;
    let is_right = is_first && ours().count() == planned.len() && ours().zip(planned).all(|(there, planned)| there.same_meaning(planned));
    if is_right && !is_tagged(ours()) {
        return (0..rules.len()).map(Item::Stays).collect();
    }
    let mut new = new.into_iter().map(Item::New);
    if is_right {
        return marked
            .iter()
            .enumerate()
            .filter_map(|(place, marked)| if *marked { new.next() } else { Some(Item::Stays(place)) })
            .collect();
    }
    let end = (0..rules.len()).rfind(|place| marked[*place] && is_anchor(&rules[*place])).unwrap_or(rules.len());
    let foreign = |range: std::ops::Range<usize>| range.filter(|place| !marked[*place]).map(Item::Stays);
    let mut items: Vec<Item> = new.by_ref().take(head).collect();
    items.extend(foreign(0..end));
    items.extend(new);
    items.extend(foreign(end..rules.len()));
    items
}

/// Whether the rule shows where a mesh's rules end. One for an incoming interface does not: it may have been put before
/// foreign rules.
fn is_anchor(rule: &Rule) -> bool {
    !rule.matches.iter().any(|wanted| matches!(wanted.condition, Condition::InInterface(_)))
}

/// Whether any of the rules carries mesh-init's mark, which the programs do not know: rules without it that stand beside such
/// with it would be taken for foreign ones. So in a table that is changed all of the mesh's are made anew.
fn is_tagged<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> bool {
    rules.into_iter().any(|rule| rule.tagged)
}

/// Whether two chains have the same rules, whatever these have counted.
fn is_same(one: &Chain, other: &Chain) -> bool {
    let same = |(one, other): (&Rule, &Rule)| one.same_meaning(other) && one.comment == other.comment;
    one.rules.len() == other.rules.len() && one.rules.iter().zip(&other.rules).all(same)
}

/// The counters of rules that are there, to go on from.
struct Counted(HashMap<String, VecDeque<Counters>>);

impl Counted {
    /// Those of the rules of `chain` whose places `counts` picks.
    fn of(chain: Option<&Chain>, counts: impl Fn(usize) -> bool) -> Counted {
        let mut known: HashMap<String, VecDeque<Counters>> = HashMap::new();
        let rules = chain.into_iter().flat_map(|chain| chain.rules.iter().enumerate()).filter(|(place, _)| counts(*place));
        for (_, rule) in rules {
            known.entry(rule.meaning()).or_default().extend(rule.counters);
        }
        Counted(known)
    }

    /// The rules of `chain`, said in `words`, as lines with the counters of such of the same meaning, or their own.
    fn lines(&mut self, chain: &Chain, words: Vec<String>) -> Vec<Line> {
        let mut line = |(rule, words): (&Rule, String)| {
            let known = self.0.get_mut(&rule.meaning()).and_then(VecDeque::pop_front);
            Line { counters: known.or(rule.counters).unwrap_or_default(), words }
        };
        chain.rules.iter().zip(words).map(&mut line).collect()
    }
}

#[cfg(test)]
mod tests;
