//! What a packet filter must be able to do to hold a mesh's rules.

use std::borrow::Cow;
use std::time::Instant;

use super::Error;
use crate::host::kernel_config::KernelConfig;
use crate::ruleset::{Difference, Family, Mesh, NftTable, Ownership, Ruleset, TableName, compare, equivalent, native, owner};

/// A way of putting rules into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendName {
    /// nf_tables, in a table of mesh-init's own.
    Nftables,
    /// The legacy packet filter.
    Legacy,
    /// The distribution's iptables programs, whichever packet filter they write to (cargo feature `iptables-command`).
    Iptables,
}

impl BackendName {
    /// Every backend that is tried without being asked for, the first to be tried first.
    pub const ALL: [BackendName; 2] = [BackendName::Nftables, BackendName::Legacy];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackendName::Nftables => "nftables",
            BackendName::Legacy => "legacy",
            BackendName::Iptables => "iptables",
        }
    }

    /// The other one to be tried.
    #[must_use]
    pub const fn other(self) -> BackendName {
        match self {
            BackendName::Nftables => BackendName::Legacy,
            BackendName::Legacy | BackendName::Iptables => BackendName::Nftables,
        }
    }
}

impl std::fmt::Display for BackendName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where in a packet filter a mesh's rules stand, which depends on who wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Legacy tables: mesh-init's rules, or those of iptables-legacy.
    Legacy,
    /// mesh-init's own table in nf_tables.
    MeshInit,
    /// The tables of iptables-nft: xtables extensions in nf_tables.
    IptablesNft,
    /// The tables that Istio makes with `--native-nftables`.
    IstioNft,
}

impl Form {
    /// The native backend whose packet filter it is.
    pub const fn backend(self) -> BackendName {
        match self {
            Form::Legacy => BackendName::Legacy,
            Form::MeshInit | Form::IptablesNft | Form::IstioNft => BackendName::Nftables,
        }
    }

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Form::Legacy => "legacy",
            Form::MeshInit => "mesh-init",
            Form::IptablesNft => "iptables-nft",
            Form::IstioNft => "istio-native-nftables",
        }
    }

    /// What people call it.
    pub const fn describe(self) -> &'static str {
        match self {
            Form::Legacy => "the legacy packet filter",
            Form::MeshInit => "mesh-init's nf_tables table",
            Form::IptablesNft => "iptables-nft's tables",
            Form::IstioNft => "Istio's own nf_tables tables",
        }
    }
}

/// What a packet filter holds of one family in one form, foreign rules included.
#[derive(Clone, Debug)]
pub struct Held {
    /// The form.
    pub form: Form,
    /// The rules.
    pub ruleset: Ruleset,
    /// Why chains that are there may not catch what they should: a table that is switched off, a hook or a priority that
    /// is not the planned one.
    pub faults: Vec<Fault>,
}

/// Something about a table that no rule tells.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The table.
    pub table: TableName,
    /// The chain that it is about, and which of its rules; the whole table without one.
    pub place: Option<(String, Option<usize>)>,
    /// What is wrong, with the place in it.
    pub text: String,
}

impl Held {
    /// Nothing, in that form.
    pub fn new(form: Form, family: Family) -> Held {
        Held { form, ruleset: Ruleset::new(family), faults: Vec::new() }
    }

    /// Which of it is `mesh`'s.
    pub fn ownership(&self, mesh: Mesh, plan: Option<&Ruleset>) -> Ownership {
        match self.form {
            Form::Legacy | Form::IptablesNft => Ownership::of(mesh, &self.ruleset, plan),
            Form::MeshInit | Form::IstioNft => Ownership::of_own_table(mesh, &self.ruleset),
        }
    }

    /// Whether any of it is `mesh`'s.
    pub fn has(&self, mesh: Mesh) -> bool {
        match self.form {
            Form::Legacy | Form::IptablesNft => owner::is_present(mesh, &self.ruleset),
            Form::MeshInit => {
                let owns = |mesh: Mesh| {
                    let ownership = self.ownership(mesh, None);
                    self.ruleset.tables.iter().any(|table| ownership.owns_any(table))
                };
                // What is nobody's, an empty table or hooks for nothing, is left of something.
                owns(mesh) || !Mesh::ALL.into_iter().any(owns)
            }
            Form::IstioNft => mesh == Mesh::Istio,
        }
    }

    /// Whether the mesh's part of it is what `plan` says.
    pub fn agrees(&self, mesh: Mesh, plan: &Ruleset) -> bool {
        match self.form {
            Form::Legacy => compare::agrees(plan, &self.ruleset, &self.ownership(mesh, Some(plan))),
            Form::MeshInit => {
                self.faults_that_count(mesh, plan).is_empty()
                    && compare::agrees(&native::native(plan), &self.ruleset, &self.ownership(mesh, None))
            }
            Form::IptablesNft | Form::IstioNft => self.differences(mesh, plan).is_empty() && self.faults_that_count(mesh, plan).is_empty(),
        }
    }

    /// How the mesh's part of it differs from `plan`.
    pub fn differences(&self, mesh: Mesh, plan: &Ruleset) -> Vec<Difference> {
        match self.form {
            Form::Legacy | Form::IptablesNft => compare::compare(plan, &self.ruleset, &self.ownership(mesh, Some(plan))),
            Form::MeshInit => compare::compare(&native::native(plan), &self.ruleset, &self.ownership(mesh, None)),
            Form::IstioNft => {
                // Its tables are for both families: rules that name none are there for IPv6 too, wanted or not.
                if plan.tables.is_empty() && plan.family == Family::V6 {
                    return Vec::new();
                }
                let (plan, held) = (equivalent::simplified(plan), equivalent::simplified(&self.ruleset));
                compare::compare(&plan, &held, &Ownership::of_own_table(mesh, &held))
            }
        }
    }

    /// The faults of tables in which the mesh has anything, of chains and rules that are its own or planned; and where
    /// nobody else has any business, what is there for nothing.
    pub fn faults_that_count(&self, mesh: Mesh, plan: &Ruleset) -> Vec<String> {
        let ownership = self.ownership(mesh, None);
        let is_planned = |table: TableName, chain: &str| plan.table(table).is_some_and(|table| table.chain(chain).is_some());
        let is_own = |table: TableName, chain: &str, rule: Option<usize>| {
            let there = self.ruleset.table(table).and_then(|table| table.chain(chain));
            there.is_some_and(|there| match rule {
                Some(index) => ownership.owns_rule(table, there, index),
                None => ownership.owns_chain(chain) || (0..there.rules.len()).any(|index| ownership.owns_rule(table, there, index)),
            })
        };
        let counts = |fault: &&Fault| match (self.form, &fault.place) {
            (Form::MeshInit, Some((chain, None))) if is_planned(fault.table, chain) => true,
            (Form::MeshInit, Some((chain, rule))) => is_own(fault.table, chain, *rule),
            (Form::MeshInit | Form::IstioNft, _) => self.has(mesh),
            (Form::Legacy | Form::IptablesNft, _) => self.ruleset.table(fault.table).is_some_and(|table| ownership.owns_any(table)),
        };
        let faults = self.faults.iter().filter(counts).map(|fault| fault.text.clone());
        let tables = self.ruleset.tables.iter().filter(|_| self.form == Form::MeshInit);
        let idle = tables.flat_map(|table| {
            let chains = table.chains.iter().filter(|chain| chain.base.is_some() && chain.rules.is_empty());
            let unplanned = chains.filter(|chain| !is_planned(table.name, &chain.name));
            unplanned.map(|chain| format!("{} {} {}: a base chain without rules", self.ruleset.family, table.name, chain.name))
        });
        faults.chain(idle).collect()
    }
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Only what is there without being asked for: no legacy table is made by looking.
    Listed,
    /// Everything that may be there.
    Everything,
}

/// A failed attempt to write.
#[derive(Debug)]
pub enum WriteError {
    /// The kernel cannot hold the rules of these families in this packet filter. Nothing was written.
    Refused(Vec<(Family, Error)>),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for WriteError {
    fn from(error: Error) -> WriteError {
        match error.refused_family() {
            Some(family) => WriteError::Refused(vec![(family, error)]),
            None => WriteError::Failed(error),
        }
    }
}

/// The outcome of a rehearsal: what `probe` says of each plan.
pub(super) fn rehearsed(plans: &[Ruleset], probe: impl FnMut(&Ruleset) -> Result<(), Error>) -> Result<(), WriteError> {
    let mut refusals = Vec::new();
    for error in plans.iter().map(probe).filter_map(Result::err) {
        match error.refused_family() {
            Some(family) => refusals.push((family, error)),
            None => return Err(WriteError::Failed(error)),
        }
    }
    if refusals.is_empty() { Ok(()) } else { Err(WriteError::Refused(refusals)) }
}

/// What a packet filter would do with a family's rules.
#[derive(Debug)]
pub enum Finding {
    /// It takes them, as far as it can be asked.
    Takes(Unasked),
    /// It does not.
    Refuses(Error),
}

/// How something may be found out.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// A kernel that checks rules before it refuses them for another reason may be given them.
    pub may_try: bool,
    /// What the kernel was built with, where that is known.
    pub config: Option<&'a KernelConfig>,
}

/// What was not asked, since asking would change something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unasked {
    /// Tables that the namespace does not have so far.
    pub tables: Vec<Need>,
    /// Whether the kernel was not given the rules to be checked.
    pub untried: bool,
}

/// Something that a packet filter needs to have for a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is called.
    pub name: &'static str,
    /// The options of the kernel's configuration that bring it.
    pub option: Cow<'static, str>,
}

/// `redir (CONFIG_NFT_REDIR)`
impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.option)
    }
}

/// A packet filter of the network namespace that the thread is in.
pub trait Backend {
    /// Which one.
    fn name(&self) -> BackendName;

    /// The form in which it writes a family's rules.
    fn form(&mut self, family: Family) -> Result<Form, Error>;

    /// Reads what there is of a mesh's rules, in each form that there is any of, foreign rules of the same tables
    /// included: of one family, the tables that are there, and those `needed` besides. A needed table that the kernel does
    /// not have is an error.
    fn read(&mut self, family: Family, needed: &[TableName], look: Look) -> Result<Vec<Held>, Error>;

    /// Makes the mesh's part of each family that `plans` names what the rule set there says; one without tables takes
    /// the part out. It is taken out of every other form as well, but for those that are `staying`: another backend has
    /// written there. Foreign rules and all counters stay. What adds capture is written before what takes it away. `held` is
    /// what [`Backend::read`] answered a moment ago: it tells what may have to be written, and is not relied on for more.
    ///
    /// After an error, and after success too, [`Backend::undo`] puts everything back.
    fn write(
        &mut self,
        mesh: Mesh,
        plans: &[Ruleset],
        held: &[Held],
        staying: &[(Family, Form)],
        deadline: Instant,
    ) -> Result<(), WriteError>;

    /// Whether the kernel would take these plans, without anything being changed but what it makes when it is asked.
    fn rehearse(&mut self, mesh: Mesh, plans: &[Ruleset]) -> Result<(), WriteError>;

    /// What the packet filter would do with each plan, found out without anything being made or changed.
    fn survey(&mut self, mesh: Mesh, plans: &[Ruleset], _means: &Means<'_>) -> Result<Vec<Finding>, Error> {
        let mut refusals = match self.rehearse(mesh, plans) {
            Ok(()) => Vec::new(),
            Err(WriteError::Refused(refusals)) => refusals,
            Err(WriteError::Failed(error)) => return Err(error),
        };
        let finding = |plan: &Ruleset| match refusals.iter().position(|(family, _)| *family == plan.family) {
            Some(at) => Finding::Refuses(refusals.swap_remove(at).1),
            None => Finding::Takes(Unasked::default()),
        };
        Ok(plans.iter().map(finding).collect())
    }

    /// What it needs to have for a plan.
    fn needs(&self, _plan: &Ruleset) -> Vec<Need> {
        Vec::new()
    }

    /// Whether nobody has written since this backend has, as far as its last reading tells.
    fn is_undisturbed(&self) -> bool {
        false
    }

    /// Puts back all that was written since the backend was opened or last committed; the errors are what could not be.
    fn undo(&mut self, deadline: Instant) -> Vec<Error>;

    /// Whether there is anything to undo.
    fn has_written(&self) -> bool;

    /// Forgets how to undo what was written.
    fn commit(&mut self);

    /// Whether there were tables, when it was last read, in which no mesh's rules can be.
    fn has_other_tables(&self) -> bool {
        false
    }

    /// All tables of nf_tables, foreign ones included, to be shown; none in another packet filter.
    fn tables(&mut self) -> Result<Vec<NftTable>, Error> {
        Ok(Vec::new())
    }

    /// What could not be looked at, a sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
