//! What a packet filter must be able to do to hold a mesh's rules.

use std::time::Instant;

use super::Error;
use crate::ruleset::{Family, Mesh, Ruleset, TableName};

/// A packet filter of the network namespace that the thread is in.
pub trait Backend {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// Whether the kernel has these tables in a family: an error tells why not.
    fn probe(&mut self, family: Family, tables: &[TableName]) -> Result<(), Error>;

    /// Reads the rules of one family, foreign ones included: the tables that are there, and those `needed` besides.
    /// A needed table that the kernel does not have is an error.
    fn read(&mut self, family: Family, needed: &[TableName]) -> Result<Ruleset, Error>;

    /// Makes the mesh's part of each family that `plans` names what the rule set there says; one without tables takes
    /// the part out. Foreign rules and all counters stay. What adds capture is written before what takes it away.
    /// `held` is what [`Backend::read`] answered a moment ago, a rule set for each plan: it tells what may have to be
    /// written, and is not relied on for more.
    ///
    /// After an error, and after success too, [`Backend::undo`] puts everything back.
    fn write(&mut self, mesh: Mesh, plans: &[Ruleset], held: &[Ruleset], deadline: Instant) -> Result<(), Error>;

    /// Puts back all that was written since the backend was opened or last committed; the errors are what could not be.
    fn undo(&mut self, deadline: Instant) -> Vec<Error>;

    /// Whether there is anything to undo.
    fn has_written(&self) -> bool;

    /// Forgets how to undo what was written.
    fn commit(&mut self);
}
