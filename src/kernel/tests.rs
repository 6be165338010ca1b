//! Where rules go when packet filters refuse them: with doubles of both.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::backend::{Backend, BackendName, Form, Held, Look, WriteError};
use super::error::{Action, Cause, NftCause};
use super::{Choice, Error, Kernel, Outcome, Wanted};
use crate::ruleset::native::native;
use crate::ruleset::{Family, Mesh, Routing, Rule, Ruleset, TableName, Target};

/// A packet filter in memory, which cannot hold some families.
struct Double {
    name: BackendName,
    refuses: Vec<Family>,
    /// Whether it tells of other rules than it was given.
    misreads: bool,
    holds: Vec<Ruleset>,
    before: Vec<Vec<Ruleset>>,
    /// What both filters were told, in order.
    told: Arc<Mutex<Vec<String>>>,
}

impl Double {
    fn refusal(&self, family: Family) -> Error {
        match self.name {
            BackendName::Nftables => Error::Nftables {
                action: Action::Write,
                family: Some(family),
                object: "a rule".to_owned(),
                cause: NftCause::Missing {
                    feature: "redir".to_owned(),
                    option: "CONFIG_NFT_REDIR".to_owned(),
                    errno: nix::errno::Errno::ENOENT,
                },
            },
            _ => Error::Table { action: Action::Write, family, table: TableName::Nat, cause: Cause::NoTable },
        }
    }
}

impl Backend for Double {
    fn name(&self) -> BackendName {
        self.name
    }

    fn form(&mut self, _: Family) -> Result<Form, Error> {
        Ok(if self.name == BackendName::Nftables { Form::MeshInit } else { Form::Legacy })
    }

    fn read(&mut self, family: Family, _: &[TableName], _: Look) -> Result<Vec<Held>, Error> {
        let form = self.form(family)?;
        let there = self.holds.iter().filter(|there| there.family == family && !there.tables.is_empty());
        let held = |there: &Ruleset| {
            let mut ruleset = if form == Form::MeshInit { native(there) } else { there.clone() };
            if self.misreads {
                ruleset.table_mut(TableName::Nat).chain_mut("OUTPUT").rules.clear();
            }
            Held { ruleset, ..Held::new(form, family) }
        };
        Ok(there.map(held).collect())
    }

    fn write(&mut self, _: Mesh, plans: &[Ruleset], _: &[Held], _: &[(Family, Form)], _: Instant) -> Result<(), WriteError> {
        let planned = plans.iter().filter(|plan| !plan.tables.is_empty());
        let refusals: Vec<_> =
            planned.filter(|plan| self.refuses.contains(&plan.family)).map(|plan| (plan.family, self.refusal(plan.family))).collect();
        if !refusals.is_empty() {
            return Err(WriteError::Refused(refusals));
        }
        self.before.push(self.holds.clone());
        for plan in plans {
            let what = if plan.tables.is_empty() { "nothing" } else { "rules" };
            self.told.lock().unwrap().push(format!("{} {} {what}", self.name, plan.family));
            self.holds.retain(|there| there.family != plan.family);
            self.holds.push(plan.clone());
        }
        Ok(())
    }

    fn rehearse(&mut self, _: Mesh, plans: &[Ruleset]) -> Result<(), WriteError> {
        let refused = plans.iter().filter(|plan| self.refuses.contains(&plan.family));
        let refusals: Vec<_> = refused.map(|plan| (plan.family, self.refusal(plan.family))).collect();
        if refusals.is_empty() { Ok(()) } else { Err(WriteError::Refused(refusals)) }
    }

    fn is_undisturbed(&self) -> bool {
        self.has_written()
    }

    fn undo(&mut self, _: Instant) -> Vec<Error> {
        if let Some(before) = self.before.first().cloned() {
            self.holds = before;
            self.told.lock().unwrap().push(format!("{} undone", self.name));
        }
        self.before.clear();
        Vec::new()
    }

    fn has_written(&self) -> bool {
        !self.before.is_empty()
    }

    fn commit(&mut self) {
        self.before.clear();
    }
}

fn plan(family: Family) -> Ruleset {
    let mut plan = Ruleset::new(family);
    let nat = plan.table_mut(TableName::Nat);
    nat.chain_mut("PROXY_INIT_OUTPUT").rules.push(Rule::new([], Target::Redirect(4140)));
    nat.chain_mut("OUTPUT").rules.push(Rule::new([], Target::Jump("PROXY_INIT_OUTPUT".into())));
    plan
}

struct Scene {
    kernel: Kernel,
    told: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    /// Filters that refuse these families; the legacy one holds the rules of others already.
    fn new(nftables_refuses: &[Family], legacy_refuses: &[Family], legacy_holds: &[Family], choice: Choice) -> Scene {
        let told = Arc::new(Mutex::new(Vec::new()));
        let double = |name, refuses: &[Family], holds: &[Family]| -> Box<dyn Backend> {
            let holds = holds.iter().map(|family| plan(*family)).collect();
            Box::new(Double { name, refuses: refuses.to_vec(), misreads: false, holds, before: Vec::new(), told: Arc::clone(&told) })
        };
        let backends =
            vec![double(BackendName::Nftables, nftables_refuses, &[]), double(BackendName::Legacy, legacy_refuses, legacy_holds)];
        let kernel = Kernel::new(backends, choice, Instant::now() + Duration::from_secs(5)).unwrap();
        Scene { kernel, told }
    }

    /// What an installation came to: the backends, or the error; and what the filters were told.
    fn install(&mut self, families: &[Family]) -> (Result<(Outcome, String), String>, Vec<String>) {
        let rulesets = families.iter().map(|family| plan(*family)).collect();
        let mut wanted = Wanted { mesh: Mesh::Linkerd, rulesets, routing: Routing::default(), removal: false };
        let result = self.kernel.install(&mut wanted);
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        let outcome = result.map(|(outcome, settled)| (outcome, settled.backends())).map_err(|error| error.to_string());
        (outcome, told)
    }
}

const V4: Family = Family::V4;
const V6: Family = Family::V6;
const BOTH: &[Family] = &Family::ALL;

#[test]
fn nf_tables_is_first_and_the_legacy_filter_is_not_touched() {
    let mut scene = Scene::new(&[], &[], &[], Choice::default());
    let (outcome, told) = scene.install(BOTH);
    assert_eq!(outcome, Ok((Outcome::Changed, "nftables".to_owned())));
    assert_eq!(told, ["nftables IPv4 rules", "nftables IPv6 rules"]);
    assert_eq!(scene.install(BOTH), (Ok((Outcome::AlreadyInPlace, "nftables".to_owned())), Vec::new()));
}

#[test]
fn what_nf_tables_refuses_of_one_family_sends_both_to_the_legacy_filter() {
    let mut scene = Scene::new(&[V4], &[], &[], Choice::default());
    let (outcome, told) = scene.install(BOTH);
    assert_eq!(outcome, Ok((Outcome::Changed, "legacy".to_owned())));
    assert_eq!(told, ["legacy IPv4 rules", "legacy IPv6 rules"]);
    assert_eq!(scene.install(BOTH).0, Ok((Outcome::AlreadyInPlace, "legacy".to_owned())));
}

#[test]
fn families_go_apart_where_neither_takes_both() {
    let mut scene = Scene::new(&[V4], &[V6], &[], Choice::default());
    let (outcome, told) = scene.install(BOTH);
    assert_eq!(outcome, Ok((Outcome::Changed, "legacy (IPv4) and nftables (IPv6)".to_owned())));
    assert_eq!(told.iter().filter(|told| told.ends_with("rules")).collect::<Vec<_>>(), ["legacy IPv4 rules", "nftables IPv6 rules"]);
    assert_eq!(scene.install(BOTH).0, Ok((Outcome::AlreadyInPlace, "legacy (IPv4) and nftables (IPv6)".to_owned())));
}

#[test]
fn what_neither_takes_is_one_error_and_everything_is_as_it_was() {
    let mut scene = Scene::new(&[V4], &[V4], &[], Choice::default());
    let (outcome, told) = scene.install(&[V4]);
    let error = outcome.unwrap_err();
    assert!(
        error.starts_with("neither packet filter takes the IPv4 rules") && error.contains("redir") && error.contains("ENOENT"),
        "{error}"
    );
    assert_eq!(told, Vec::<String>::new());
}

#[test]
fn rules_stay_where_they_are_unless_another_backend_is_asked_for() {
    let mut scene = Scene::new(&[], &[], BOTH, Choice::default());
    assert_eq!(scene.install(BOTH), (Ok((Outcome::AlreadyInPlace, "legacy".to_owned())), Vec::new()));
    scene.kernel.choose(Choice::firmly(BackendName::Nftables, "--backend"));
    let (outcome, told) = scene.install(BOTH);
    assert_eq!(outcome, Ok((Outcome::Changed, "nftables".to_owned())));
    // The new is in before the old goes.
    assert_eq!(told, ["nftables IPv4 rules", "nftables IPv6 rules", "legacy IPv4 nothing", "legacy IPv6 nothing"]);
}

#[test]
fn a_preference_that_cannot_be_met_falls_back() {
    let mut scene = Scene::new(&[], BOTH, &[], Choice::preferably(BackendName::Legacy, "--iptables-mode"));
    assert_eq!(scene.install(BOTH).0, Ok((Outcome::Changed, "nftables".to_owned())));
    let mut scene = Scene::new(&[], BOTH, &[], Choice::firmly(BackendName::Legacy, "--backend"));
    assert!(scene.install(BOTH).0.is_err());
}

#[test]
fn what_the_kernel_tells_otherwise_though_nobody_has_written_is_an_error_at_once() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let double = Double {
        name: BackendName::Nftables,
        refuses: Vec::new(),
        misreads: true,
        holds: Vec::new(),
        before: Vec::new(),
        told: told.clone(),
    };
    let kernel = Kernel::new(vec![Box::new(double)], Choice::default(), Instant::now() + Duration::from_secs(3600)).unwrap();
    let (outcome, told) = Scene { kernel, told }.install(&[V4]);
    let error = outcome.unwrap_err();
    assert!(error.starts_with("the rules were written, but the kernel tells of others: "), "{error}");
    assert_eq!(told, ["nftables IPv4 rules", "nftables IPv6 nothing", "nftables undone"]);
}
