//! A table replaced, and put back: entries, and the counters that they had.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use nix::errno::Errno;
use tracing::{debug, info, warn};

use super::splice::{Part, Spliced, splice};
use super::table::RawTable;
use super::{Feature, Legacy, decode, encode};
use crate::kernel::error::{Action, Cause, Error};
use crate::ruleset::print::iptables;
use crate::ruleset::{Chain, Counters, Family, Mesh, Ownership, Rule, Ruleset, Table, TableName, Traces, compare};

/// A replaced table: what is needed to put the old one back.
#[derive(Debug)]
pub(super) struct Replaced {
    mesh: Mesh,
    before: RawTable,
    before_counters: Vec<Counters>,
    written: RawTable,
    /// Whether the written entries got the counters of those that they were.
    counters_kept: bool,
}

/// How often counters are added again when the table changes in between.
const COUNTER_ATTEMPTS: usize = 100;

impl Legacy {
    /// Makes the mesh's part of a table what `plan` says, nothing without a plan, unless it is so already. What was done
    /// is in the journal, also when not all of it could be.
    pub(super) fn write_table(
        &mut self,
        mesh: Mesh,
        traces: &Traces,
        (family, name): (Family, TableName),
        plan: Option<&Table>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let later = self.later_features(family, name, plan)?;
        retry(family, name, deadline, || {
            let raw = self.read_table(family, name)?;
            let held = decode::table(&raw);
            let alone = |table: &Table| Ruleset { family, tables: vec![table.clone()] };
            let ownership = Ownership::with(traces, &alone(&held), plan.map(alone).as_ref());
            if compare::table_agrees(name, plan, Some(&held), &ownership) {
                return Ok(());
            }
            for rule in claimed_by_form(family, &held, &ownership, plan) {
                info!("taken for a rule that istio-iptables left, and taken out: {family} {name} {rule}");
            }
            let Spliced { table, dangling } = splice(&raw, &held, &ownership, Part::planned(family, plan, &later)?);
            for rule in &dangling {
                warn!("the foreign rule {family} {name} {rule} jumped to a chain that goes, and goes with it");
            }
            if table.same_rules(&raw) {
                return Ok(());
            }
            self.exchange(mesh, raw, table).map_err(|error| self.explain(error, plan))
        })
    }

    /// Puts our mark on the mesh's rules in the built-in chains of a table and leaves them as they are else.
    pub(super) fn claim(
        &mut self,
        mesh: Mesh,
        traces: &Traces,
        (family, name): (Family, TableName),
        deadline: Instant,
    ) -> Result<(), Error> {
        retry(family, name, deadline, || {
            let raw = self.read_table(family, name)?;
            let held = decode::table(&raw);
            let ownership = Ownership::with(traces, &Ruleset { family, tables: vec![held.clone()] }, None);
            let mut table = raw.clone();
            for (chain, view) in table.chains.iter_mut().zip(&held.chains).filter(|(chain, _)| chain.hook().is_some()) {
                for (index, entry) in chain.rules.iter_mut().enumerate().filter(|(index, _)| ownership.owns_rule(name, view, *index)) {
                    debug!("{family} {name} {} {} is taken for the original tool's", view.name, index + 1);
                    entry.tag(family);
                }
            }
            if table.same_rules(&raw) { Ok(()) } else { self.exchange(mesh, raw, table) }
        })
    }

    /// Writes `table` over `raw` and gives it the counters; both steps can be undone.
    fn exchange(&mut self, mesh: Mesh, raw: RawTable, table: RawTable) -> Result<(), Error> {
        let before_counters = self.replace(&table, &raw)?;
        let kept = kept_counters(&table, &before_counters);
        self.journal.push(Replaced { mesh, before: raw, before_counters, written: table.clone(), counters_kept: false });
        self.restore_counters(&table, &kept)?;
        if let Some(last) = self.journal.last_mut() {
            last.counters_kept = true;
        }
        Ok(())
    }

    /// Puts back what a replacement took away. Counters go on from where they are now.
    pub(super) fn put_back(&mut self, replaced: &Replaced, deadline: Instant) -> Result<(), Error> {
        let Replaced { mesh, before, before_counters, written, counters_kept } = replaced;
        retry(before.family, before.name, deadline, || {
            let now = self.read_table(before.family, before.name)?;
            let table = if now.same_rules(written) {
                restored(replaced)
            } else {
                // Somebody else has written since: only our part is put back.
                let of = |raw: &RawTable| {
                    let held = decode::table(raw);
                    let ownership = Ownership::of(*mesh, &Ruleset { family: raw.family, tables: vec![held.clone()] }, None);
                    (held, ownership)
                };
                let (then, owned_then) = of(before);
                let (held, owned) = of(&now);
                let mut table = splice(&now, &held, &owned, Part::of(before, &then, &owned_then, before_counters)).table;
                if !counters_kept {
                    // The entries that are still there lost what they had counted.
                    let lost = counters_of(&now, before, before_counters);
                    for entry in table.entries_mut() {
                        if let Some(counters) = entry.origin.and_then(|origin| lost.get(origin)) {
                            entry.carried = *counters;
                        }
                    }
                }
                table
            };
            let gone = self.replace(&table, &now)?;
            self.restore_counters(&table, &kept_counters(&table, &gone))
        })
    }

    /// Replaces `old` by `new` and returns the old entries' counters.
    fn replace(&mut self, new: &RawTable, old: &RawTable) -> Result<Vec<Counters>, Error> {
        let fault = |errno| fault(new, errno);
        let mut message = new.to_replace().ok_or_else(|| fault(Errno::ELOOP))?;
        let old_entries = u32::try_from(old.entries().count()).map_err(|_| fault(Errno::EOVERFLOW))?;
        self.socket(new.family).and_then(|socket| socket.replace(&mut message, old_entries)).map_err(fault)
    }

    /// Adds `kept` to the counters of the entries of `written`, which the kernel began at zero. If another program has
    /// replaced the table since, the entries that it left are looked for.
    fn restore_counters(&mut self, written: &RawTable, kept: &[Counters]) -> Result<(), Error> {
        if kept.iter().all(|counters| *counters == Counters::default()) {
            return Ok(());
        }
        for _ in 0..COUNTER_ATTEMPTS {
            // What is added to is looked at first: a table of the same size takes counters without complaint.
            let now = self.read_table(written.family, written.name)?;
            let wanted = if now.same_rules(written) { kept.to_vec() } else { counters_of(&now, written, kept) };
            match self.socket(written.family).and_then(|socket| socket.add_counters(written.name, &wanted)) {
                // The table has another number of entries.
                Err(Errno::EINVAL) => {
                    debug!("the {} {} table has changed before its counters were restored", written.family, written.name);
                }
                answer => return answer.map_err(|errno| fault(written, errno)),
            }
        }
        Err(fault(written, Errno::EINVAL))
    }

    /// The matches and targets of the plan that the kernel does not have.
    pub(super) fn missing_features(&mut self, family: Family, plan: Option<&Table>) -> Vec<Feature> {
        let Ok(socket) = self.socket(family) else { return Vec::new() };
        let is_missing = |feature: &Feature| socket.has_feature(*feature) == Ok(false);
        features(plan).into_iter().filter(is_missing).collect()
    }

    /// The matches and targets of the plan that the kernel has in a later revision than all kernels.
    pub(super) fn later_features(&mut self, family: Family, table: TableName, plan: Option<&Table>) -> Result<Vec<Feature>, Error> {
        let mut later = Vec::new();
        for feature in features(plan) {
            if let Some(revision) = feature.later_revision() {
                let answer = self.socket(family).and_then(|socket| socket.has_revision(feature, revision));
                let has = answer.map_err(|errno| Error::Table { action: Action::Write, family, table, cause: Cause::of(errno) })?;
                later.extend(has.then_some(feature));
            }
        }
        Ok(later)
    }

    /// ENOENT of a replacement does not say what is missing: asks for each match and target.
    pub(super) fn explain(&mut self, error: Error, plan: Option<&Table>) -> Error {
        match error {
            Error::Table { action: Action::Write, family, table, cause: Cause::NoTable } => {
                let missing = self.missing_features(family, plan);
                let cause = if missing.is_empty() { Cause::NoTable } else { Cause::NoFeature(missing) };
                Error::Table { action: Action::Write, family, table, cause }
            }
            error => error,
        }
    }
}

/// The rules in built-in chains that are the mesh's by nothing but their form, and that no plan has.
pub(in crate::kernel) fn claimed_by_form(family: Family, held: &Table, ownership: &Ownership, plan: Option<&Table>) -> Vec<String> {
    let planned = |chain: &Chain, rule: &Rule| {
        let chain = plan.and_then(|table| table.chain(&chain.name));
        chain.is_some_and(|chain| chain.rules.iter().any(|planned| planned.same_meaning(rule)))
    };
    let bases = held.chains.iter().filter(|chain| chain.base.is_some());
    let rules = bases.flat_map(|chain| chain.rules.iter().enumerate().map(move |(index, rule)| (chain, index, rule)));
    rules
        .filter(|(chain, index, rule)| {
            let named = rule.tagged || Mesh::ALL.iter().any(|mesh| mesh.owns_target(rule));
            !named && ownership.owns_rule(held.name, chain, *index) && !planned(chain, rule)
        })
        .map(|(chain, index, rule)| iptables::command(chain, index, rule, family))
        .collect()
}

pub(super) fn fault(table: &RawTable, errno: Errno) -> Error {
    Error::Table { action: Action::Write, family: table.family, table: table.name, cause: Cause::of(errno) }
}

/// The matches and targets that a plan uses, each once.
pub(super) fn features(plan: Option<&Table>) -> Vec<Feature> {
    let mut used = Vec::new();
    for rule in plan.into_iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules) {
        for feature in encode::features(rule) {
            if !used.contains(&feature) {
                used.push(feature);
            }
        }
    }
    used
}

/// The counters that each entry of a new table is to have: those of the old entry that it was, `gone`, and those that it
/// carries.
fn kept_counters(new: &RawTable, gone: &[Counters]) -> Vec<Counters> {
    let kept = new.entries().map(|entry| {
        let before = entry.origin.and_then(|origin| gone.get(origin)).copied().unwrap_or_default();
        Counters { packets: before.packets.wrapping_add(entry.carried.packets), bytes: before.bytes.wrapping_add(entry.carried.bytes) }
    });
    kept.collect()
}

/// For each entry of `now`, what `kept` has for the same entry of `written`.
fn counters_of(now: &RawTable, written: &RawTable, kept: &[Counters]) -> Vec<Counters> {
    let mut known: HashMap<_, VecDeque<Counters>> = HashMap::new();
    for (identity, counters) in written.identities().zip(kept) {
        known.entry(identity).or_default().push_back(*counters);
    }
    now.identities().map(|identity| known.get_mut(&identity).and_then(VecDeque::pop_front).unwrap_or_default()).collect()
}

/// The table as it was, to be written over the one that was written: entries that both have go on counting.
fn restored(replaced: &Replaced) -> RawTable {
    let Replaced { before, before_counters, written, counters_kept, .. } = replaced;
    let mut number_now = HashMap::new();
    for (number, entry) in written.entries().enumerate() {
        if let Some(origin) = entry.origin {
            number_now.insert(origin, number);
        }
    }
    let mut table = before.clone();
    for entry in table.entries_mut() {
        let then = entry.origin;
        entry.origin = then.and_then(|then| number_now.get(&then)).copied();
        if entry.origin.is_none() || !counters_kept {
            entry.carried = then.and_then(|then| before_counters.get(then)).copied().unwrap_or_default();
        }
    }
    table
}

/// Does `step` until the kernel does not answer that the table has changed since it was read.
fn retry<T>(family: Family, table: TableName, deadline: Instant, mut step: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match step() {
            Err(Error::Table { action: Action::Write, cause: Cause::Errno(Errno::EAGAIN), .. }) => {
                if Instant::now() >= deadline {
                    return Err(Error::Contended { family, table });
                }
                debug!("the {family} {table} table has changed since it was read; once more");
            }
            result => return result,
        }
    }
}
