//! What the legacy packet filter could do, asked without a table being made.
//!
//! Whether there is a match or a target the kernel tells when it is asked for its revision. Whether it would take a whole
//! table it tells when it is given one with more counters than it has room for: it checks every entry, and gives up before
//! it looks for the table that is to be replaced. Whether it has that table it cannot tell without making it.

use nix::errno::Errno;

use super::Legacy;
use super::feature::Feature;
use super::splice::{Part, splice};
use super::table::RawTable;
use super::writer::{fault, features};
use super::{decode, listed_tables};
use crate::kernel::backend::{Finding, Means, Need, Unasked};
use crate::kernel::error::{Action, Cause, Error, table_option};
use crate::ruleset::{Family, Hook, Mesh, Ownership, Ruleset, Table, TableName, Traces};

impl Legacy {
    /// What it would do with a family's rules. Only what has nothing to do with the rules is an error.
    pub(super) fn survey_family(&mut self, plan: &Ruleset, means: &Means<'_>) -> Result<Finding, Error> {
        let family = plan.family;
        let listed = listed_tables(family).unwrap_or_default();
        let mut unasked = Unasked { tables: Vec::new(), untried: !means.may_try };
        for table in &plan.tables {
            match self.survey_table(family, table, means.may_try) {
                Ok(()) if listed.contains(&table.name) => {}
                Ok(()) => {
                    let need = table_need(family, table.name);
                    match means.config.map(|config| config.get(&need.option)) {
                        Some(Some("y")) => {}
                        // A module may be loaded when it is needed, or not be there.
                        None | Some(Some(_)) => unasked.tables.push(need),
                        Some(None) => {
                            let cause = Cause::NoTable;
                            return Ok(Finding::Refuses(Error::Table { action: Action::Read, family, table: table.name, cause }));
                        }
                    }
                }
                Err(error) if error.refused_family().is_some() => return Ok(Finding::Refuses(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Finding::Takes(unasked))
    }

    fn survey_table(&mut self, family: Family, plan: &Table, may_try: bool) -> Result<(), Error> {
        let fault_of = |cause| Error::Table { action: Action::Write, family, table: plan.name, cause };
        // Any question tells whether there is such a filter.
        let there = self.socket(family).and_then(|socket| socket.has_feature(Feature::Tcp));
        there.map_err(|errno| fault_of(Cause::of(errno)))?;
        let missing = self.missing_features(family, Some(plan));
        if !missing.is_empty() {
            return Err(fault_of(Cause::NoFeature(missing)));
        }
        if !may_try {
            return Ok(());
        }
        let later = self.later_features(family, plan.name, Some(plan))?;
        let empty = RawTable::without_rules(family, plan.name, hooks(plan.name));
        let held = decode::table(&empty);
        let nothing = Ruleset { family, tables: vec![held.clone()] };
        // Nobody owns anything of an empty table.
        let ownership = Ownership::with(&Traces::of(Mesh::Istio, &nothing), &nothing, None);
        let table = splice(&empty, &held, &ownership, Part::planned(family, Some(plan), &later)?).table;
        let mut message = table.to_replace().ok_or_else(|| fault(&table, Errno::ELOOP))?;
        let checked = self.socket(family).and_then(|socket| socket.check(&mut message));
        checked.map_err(|errno| self.explain(fault(&table, errno), Some(plan)))
    }
}

/// The hooks that the kernel's table of that name is at.
fn hooks(table: TableName) -> &'static [Hook] {
    match table {
        TableName::Raw => &[Hook::Prerouting, Hook::Output],
        TableName::Nat => &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
        TableName::Mangle => &Hook::ALL,
        TableName::Filter | TableName::Security => &[Hook::Input, Hook::Forward, Hook::Output],
    }
}

fn table_need(family: Family, table: TableName) -> Need {
    let name = match table {
        TableName::Raw => "the table raw",
        TableName::Mangle => "the table mangle",
        TableName::Nat => "the table nat",
        TableName::Filter => "the table filter",
        TableName::Security => "the table security",
    };
    Need { name, option: table_option(family, table).into() }
}

/// The tables, matches and targets of a plan, each once.
pub(super) fn needs(plan: &Ruleset) -> Vec<Need> {
    let mut needs = Vec::new();
    for table in &plan.tables {
        needs.push(table_need(plan.family, table.name));
        for feature in features(Some(table)) {
            let need = Need { name: feature.name(), option: feature.kernel_option().into() };
            if !needs.contains(&need) {
                needs.push(need);
            }
        }
    }
    needs
}
