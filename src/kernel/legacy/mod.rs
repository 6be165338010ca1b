//! The legacy packet filter (ip_tables, ip6_tables): whole tables are read and replaced through socket options.
//!
//! A replacement is atomic: packets meet the old table or the new one. The kernel refuses it (EAGAIN) when the number
//! of entries has changed since it was read. A writer that changes entries and keeps their number goes unnoticed; that
//! is why a table is read immediately before it is replaced, under iptables' lock where there is one, and why the
//! result is read back.

mod abi;
mod bytes;
mod decode;
mod encode;
mod entry;
pub(in crate::kernel) mod extension;
mod feature;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod lock;
mod order;
mod socket;
mod splice;
mod survey;
mod table;
#[cfg(test)]
mod testing;
mod writer;

use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use tracing::debug;

pub use self::encode::EncodeError;
pub use self::feature::Feature;
use self::lock::XtablesLock;
#[cfg(feature = "iptables-command")]
pub(in crate::kernel) use self::order::writing_order;
use self::socket::TableSocket;
pub use self::table::LayoutError;
use self::table::RawTable;
use self::writer::Replaced;
#[cfg(feature = "iptables-command")]
pub(in crate::kernel) use self::writer::claimed_by_form;
use super::backend::{Backend, BackendName, Finding, Form, Held, Look, Means, Need, WriteError, rehearsed};
use super::error::{Action, Cause, Error};
use crate::host::files::read_text;
use crate::ruleset::{Family, Mesh, Ruleset, TableName, Traces};

/// The legacy packet filter of the network namespace that the thread is in.
#[derive(Debug, Default)]
pub struct Legacy {
    sockets: [Option<TableSocket>; 2],
    journal: Vec<Replaced>,
    /// Held from the first write to the commit.
    lock: Option<XtablesLock>,
    /// Why the list of tables could not be read where nothing else was to be asked.
    unlisted: Option<String>,
    /// The families of which no table was there when the first look was taken. What others add before the run ends is another
    /// run's matter.
    empty: Vec<Family>,
}

impl Backend for Legacy {
    fn name(&self) -> BackendName {
        BackendName::Legacy
    }

    fn form(&mut self, _family: Family) -> Result<Form, Error> {
        Ok(Form::Legacy)
    }

    /// The kernel makes a table when it is asked for; only tables that it lists already, or that are needed, are
    /// asked for. Where the list cannot be read (it is root's), all are if everything is to be looked at.
    fn read(&mut self, family: Family, needed: &[TableName], look: Look) -> Result<Vec<Held>, Error> {
        let listed = if self.empty.contains(&family) {
            Ok(Vec::new())
        } else {
            let listed = listed_tables(family);
            self.empty.extend(listed.as_ref().is_ok_and(Vec::is_empty).then_some(family));
            listed
        };
        if look == Look::Listed {
            self.unlisted = self.unlisted.take().or_else(|| listed.as_ref().err().cloned());
        }
        let mut held = Held::new(Form::Legacy, family);
        for name in TableName::ALL {
            let is_needed = needed.contains(&name);
            let is_there = match &listed {
                Ok(listed) => listed.contains(&name),
                Err(_) => name != TableName::Security && look == Look::Everything,
            };
            if !is_needed && !is_there {
                continue;
            }
            match self.read_table(family, name) {
                Ok(raw) => held.ruleset.tables.push(decode::table(&raw)),
                Err(error) if !is_needed && error.is_filter_absent() => debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(if held.ruleset.tables.is_empty() { Vec::new() } else { vec![held] })
    }

    fn write(
        &mut self,
        mesh: Mesh,
        plans: &[Ruleset],
        held: &[Held],
        staying: &[(Family, Form)],
        deadline: Instant,
    ) -> Result<(), WriteError> {
        let is_to_be_written = |plan: &&Ruleset| !plan.tables.is_empty() || !staying.contains(&(plan.family, Form::Legacy));
        // A table that the kernel does not have is found out before anything is written.
        for plan in plans {
            for table in &plan.tables {
                self.read_table(plan.family, table.name)?;
            }
        }
        self.lock.get_or_insert_with(XtablesLock::take);
        for plan in plans.iter().filter(is_to_be_written) {
            let nothing = Ruleset::new(plan.family);
            let there = held.iter().find(|held| held.form == Form::Legacy && held.ruleset.family == plan.family);
            let there = there.map_or(&nothing, |held| &held.ruleset);
            let traces = Traces::of(mesh, there);
            if traces.are_guarded() {
                // What shows whose they are goes before they do: from now on they show it themselves.
                self.claim(mesh, &traces, (plan.family, TableName::Filter), deadline)?;
            }
            for name in order::writing_order(plan, there) {
                self.write_table(mesh, &traces, (plan.family, name), plan.table(name), deadline)?;
            }
        }
        if self.journal.is_empty() {
            // A program that is started later may want it.
            self.lock = None;
        }
        Ok(())
    }

    /// Asks for the tables alone: what else may be missing shows when they are written.
    fn rehearse(&mut self, _mesh: Mesh, plans: &[Ruleset]) -> Result<(), WriteError> {
        rehearsed(plans, |plan| plan.tables.iter().try_for_each(|table| self.probe(plan.family, table.name)))
    }

    fn survey(&mut self, _mesh: Mesh, plans: &[Ruleset], means: &Means<'_>) -> Result<Vec<Finding>, Error> {
        plans.iter().map(|plan| self.survey_family(plan, means)).collect()
    }

    fn needs(&self, plan: &Ruleset) -> Vec<Need> {
        survey::needs(plan)
    }

    fn undo(&mut self, deadline: Instant) -> Vec<Error> {
        self.empty.clear();
        let mut errors = Vec::new();
        while let Some(replaced) = self.journal.pop() {
            errors.extend(self.put_back(&replaced, deadline).err());
        }
        self.lock = None;
        errors
    }

    fn has_written(&self) -> bool {
        !self.journal.is_empty()
    }

    fn commit(&mut self) {
        self.empty.clear();
        self.journal.clear();
        self.lock = None;
    }

    fn notes(&self) -> Vec<String> {
        let note = |reason| format!("which legacy tables there are is not known, and they are taken to be empty: {reason}");
        self.unlisted.iter().map(note).collect()
    }
}

impl Legacy {
    fn socket(&mut self, family: Family) -> Result<&TableSocket, Errno> {
        let slot = &mut self.sockets[usize::from(family == Family::V6)];
        if let Some(socket) = slot {
            return Ok(socket);
        }
        Ok(slot.insert(TableSocket::open(family)?))
    }

    /// Whether the kernel has that table.
    fn probe(&mut self, family: Family, table: TableName) -> Result<(), Error> {
        let answer = self.socket(family).and_then(|socket| socket.info(table));
        answer.map(drop).map_err(|errno| Error::Table { action: Action::Read, family, table, cause: Cause::of(errno) })
    }

    fn read_table(&mut self, family: Family, name: TableName) -> Result<RawTable, Error> {
        let fault = |errno| Error::Table { action: Action::Read, family, table: name, cause: Cause::of(errno) };
        let socket = self.socket(family).map_err(fault)?;
        let mut attempts = 0;
        loop {
            let info = socket.info(name).map_err(fault)?;
            // A table of the same size that took its place in between shows in the second answer.
            let answer = socket.entries(name, &info).and_then(|blob| Ok((blob, socket.info(name)?)));
            match answer {
                Ok((blob, after)) if after == info => return Ok(RawTable::parse(family, name, &info, &blob)?),
                // Reading is quick: somebody who wins this race for ever does nothing else.
                Ok(_) | Err(Errno::EAGAIN) if attempts < READ_ATTEMPTS => attempts += 1,
                Ok(_) => return Err(fault(Errno::EAGAIN)),
                Err(errno) => return Err(fault(errno)),
            }
        }
    }
}

const READ_ATTEMPTS: usize = 1000;

/// The tables that the namespace has, from /proc; none where the kernel has no such filter, or has not loaded it. The
/// error says why the list cannot be read, which is root's.
fn listed_tables(family: Family) -> Result<Vec<TableName>, String> {
    // The thread's own view: /proc/net is that of the process's first thread.
    let directory = Path::new("/proc/thread-self/net");
    let path = directory.join(match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    });
    let names = match read_text(&path) {
        Ok(names) => names,
        Err(_) if directory.exists() && !path.exists() => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    Ok(TableName::ALL.into_iter().filter(|table| names.lines().any(|line| line == table.as_str())).collect())
}
