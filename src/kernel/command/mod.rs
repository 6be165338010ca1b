//! The distribution's iptables programs, for when neither of the other backends will do.
//!
//! They write, and the native backends read: so what they write is compared like everything else. Each family's rules
//! are given to one `iptables-restore`, which replaces table after table, each as a whole; what goes out altogether is taken
//! out by single commands. What a failed run has changed is put back the same way.
//!
//! The programs know nothing of mesh-init's mark. What they have written looks like what istio-iptables or linkerd2-proxy-init has
//! written, and is known by the same signs.

mod edit;
mod error;
mod kit;
mod program;

use std::time::Instant;

use tracing::{debug, warn};

use self::edit::Words;
pub use self::error::{Ending, ProgramError, Reason};
use self::kit::Kit;
use super::backend::{Backend, BackendName, Form, Held, Look, WriteError, rehearsed};
use super::choice::Programs;
use super::error::Error;
use super::legacy::{Legacy, claimed_by_form};
use super::nftables::Nftables;
use crate::ruleset::{Family, Mesh, Ownership, Ruleset, TableName};

/// The programs in PATH, at work in the network namespace that the thread is in.
#[derive(Debug)]
pub struct IptablesCommand {
    programs: Programs,
    deadline: Instant,
    kits: [Option<Kit>; 2],
    journal: Vec<Replaced>,
}

/// What there was before something was written.
#[derive(Debug)]
struct Replaced {
    mesh: Mesh,
    before: Ruleset,
    /// The words of its rules that mesh-init has none for.
    words: Words,
    plan: Ruleset,
}

impl IptablesCommand {
    /// The programs that `programs` names, started when they are first needed; none is at work after `deadline`.
    pub fn new(programs: Programs, deadline: Instant) -> IptablesCommand {
        IptablesCommand { programs, deadline, kits: [None, None], journal: Vec::new() }
    }

    fn kit(&mut self, family: Family) -> Result<&mut Kit, ProgramError> {
        let slot = &mut self.kits[usize::from(family == Family::V6)];
        match slot {
            Some(kit) => Ok(kit),
            None => Ok(slot.insert(Kit::open(self.programs, family, self.deadline)?)),
        }
    }

    /// Whether the program reaches the tables of a plan.
    fn probe(&mut self, plan: &Ruleset, deadline: Instant) -> Result<(), ProgramError> {
        let tables: Vec<TableName> = plan.tables.iter().map(|table| table.name).collect();
        self.kit(plan.family)?.probe(&tables, deadline)
    }

    /// Makes the mesh's part of a family what `plan` says.
    fn write_family(&mut self, mesh: Mesh, plan: &Ruleset, deadline: Instant) -> Result<(), Error> {
        let kit = self.kit(plan.family)?.clone();
        let before = read(kit.form(), plan.family, deadline)?;
        let edits = edit::to_plan(mesh, &before, plan);
        if edits.is_empty() {
            return Ok(());
        }
        tell(mesh, &before, plan);
        let words = words(&kit, mesh, &before, plan, deadline)?;
        self.journal.push(Replaced { mesh, before, words, plan: plan.clone() });
        if plan.tables.is_empty() {
            let steps = edit::steps(&edits);
            debug!("{steps:?}");
            return Ok(kit.remove(&steps, deadline)?);
        }
        self.kit(plan.family)?.restore(&edit::text(&edits), deadline)?;
        Ok(kit.check(&edit::jumps(plan), deadline)?)
    }

    fn put_back(&mut self, replaced: &Replaced, deadline: Instant) -> Result<(), Error> {
        let Replaced { mesh, before, words, plan } = replaced;
        let kit = self.kit(before.family)?;
        let now = read(kit.form(), before.family, deadline)?;
        let edits = edit::back_to(*mesh, &now, before, plan, words);
        if edits.is_empty() { Ok(()) } else { Ok(kit.restore(&edit::text(&edits), deadline)?) }
    }
}

impl Backend for IptablesCommand {
    fn name(&self) -> BackendName {
        BackendName::Iptables
    }

    fn form(&mut self, family: Family) -> Result<Form, Error> {
        Ok(self.kit(family)?.form())
    }

    /// The native backends read what the programs have written.
    fn read(&mut self, _family: Family, _needed: &[TableName], _look: Look) -> Result<Vec<Held>, Error> {
        Ok(Vec::new())
    }

    fn write(
        &mut self,
        mesh: Mesh,
        plans: &[Ruleset],
        held: &[Held],
        _staying: &[(Family, Form)],
        deadline: Instant,
    ) -> Result<(), WriteError> {
        // What the kernel does not have is found out before anything is written.
        for plan in plans.iter().filter(|plan| !plan.tables.is_empty()) {
            self.probe(plan, deadline).map_err(Error::from)?;
        }
        for plan in plans {
            let may_have = |held: &Held| matches!(held.form, Form::Legacy | Form::IptablesNft) && held.has(mesh);
            if plan.tables.is_empty() && !held.iter().any(|held| held.ruleset.family == plan.family && may_have(held)) {
                continue;
            }
            match self.write_family(mesh, plan, deadline) {
                // What is only to go does not need this program: the native backends take it out.
                Err(Error::Program(ProgramError::NotFound { program })) if plan.tables.is_empty() => debug!("there is no {program}"),
                result => result?,
            }
        }
        Ok(())
    }

    /// Asks for the tables alone.
    fn rehearse(&mut self, _mesh: Mesh, plans: &[Ruleset]) -> Result<(), WriteError> {
        let deadline = self.deadline;
        rehearsed(plans, |plan| Ok(self.probe(plan, deadline)?))
    }

    fn undo(&mut self, deadline: Instant) -> Vec<Error> {
        let mut errors = Vec::new();
        while let Some(replaced) = self.journal.pop() {
            errors.extend(self.put_back(&replaced, deadline).err());
        }
        errors
    }

    fn has_written(&self) -> bool {
        !self.journal.is_empty()
    }

    fn commit(&mut self) {
        self.journal.clear();
    }
}

/// What the kernel holds of `family` in the tables that the programs see.
fn read(form: Form, family: Family, deadline: Instant) -> Result<Ruleset, Error> {
    let read = match form {
        Form::Legacy => Legacy::default().read(family, &[], Look::Everything),
        _ => Nftables::new(deadline).read(family, &[], Look::Everything),
    };
    let held = match read {
        // The program says more of why.
        Err(error) if error.is_filter_absent() => Vec::new(),
        read => read?,
    };
    Ok(held.into_iter().find(|held| held.form == form).map_or_else(|| Ruleset::new(family), |held| held.ruleset))
}

/// Says which rules go that look foreign, or are.
fn tell(mesh: Mesh, before: &Ruleset, plan: &Ruleset) {
    let family = before.family;
    let ownership = Ownership::of(mesh, before, Some(plan));
    for table in &before.tables {
        for rule in claimed_by_form(family, table, &ownership, plan.table(table.name)) {
            debug!("taken for a rule of {}, and taken out: {family} {} {rule}", mesh.as_str(), table.name);
        }
    }
    for (table, chain, place) in edit::dangling(mesh, before, plan) {
        warn!("the foreign rule {family} {table} {chain} {} jumped to a chain that goes, and goes with it", place + 1);
    }
}

/// The words of rules that are to go, where mesh-init has none, from the program that has: so that they can be put back.
fn words(kit: &Kit, mesh: Mesh, before: &Ruleset, plan: &Ruleset, deadline: Instant) -> Result<Words, Error> {
    let wordless = edit::wordless(mesh, before, plan);
    if wordless.is_empty() {
        return Ok(Words::new());
    }
    let saved = kit.save(deadline)?;
    let mut words = Words::new();
    for (table, chain, place) in wordless {
        let there = before.table(table).and_then(|table| table.chain(&chain)).map_or(0, |chain| chain.rules.len());
        let lines = edit::saved_rules(&saved, table, &chain);
        // Another number of rules: it sees something else than was read.
        let Some(line) = lines.get(place).filter(|_| lines.len() == there) else {
            let rule = format!("{table} {chain} {}", place + 1);
            return Err(ProgramError::NotShown { program: kit.save_program(), family: before.family, rule }.into());
        };
        words.insert((table, chain, place), (*line).to_owned());
    }
    Ok(words)
}
