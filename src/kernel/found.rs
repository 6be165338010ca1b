//! What the kernel holds, compared with what is wanted.

use super::backend::{BackendName, Form, Held};
use super::route::{RoutingDrift, Stale};
use super::wanted::{Drift, Wanted};
use crate::ruleset::{Family, Mesh, Ruleset};

/// What the kernel holds.
#[derive(Debug)]
pub(super) struct Found {
    /// The rules, in each form and family that there is any of.
    pub(super) held: Vec<Held>,
    /// The routing that is wanted and not there.
    pub(super) routing: Vec<RoutingDrift>,
    /// The routing that is there and not wanted.
    pub(super) stale: Stale,
    /// The families in which `stale` was looked for.
    pub(super) searched: Vec<Family>,
}

impl Found {
    /// What is there of `family` that is `mesh`'s, the form that is to be preferred first.
    fn of(&self, mesh: Mesh, family: Family) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |held| held.ruleset.family == family && held.has(mesh))
    }

    /// Whether `mesh` has anything in `family`.
    pub(super) fn has_any(&self, mesh: Mesh, family: Family) -> bool {
        self.of(mesh, family).next().is_some()
    }

    /// The forms in which `mesh` has rules.
    pub(super) fn forms(&self, mesh: Mesh) -> Vec<Form> {
        forms(&self.held, mesh)
    }

    /// Whether `mesh` has rules in that packet filter.
    pub(super) fn is_in(&self, mesh: Mesh, backend: BackendName) -> bool {
        self.forms(mesh).iter().any(|form| form.backend() == backend)
    }

    fn routing_is_as_wanted(&self) -> bool {
        self.routing.is_empty() && self.stale == Stale::default()
    }

    /// Whether everything is in the form that `targets` has for its family, and nowhere else.
    pub(super) fn is_as_wanted(&self, wanted: &Wanted, targets: &[(Family, Form)]) -> bool {
        let mesh = wanted.mesh;
        self.routing_is_as_wanted()
            && wanted.rulesets.iter().all(|plan| {
                let target = form_of(targets, plan.family).filter(|_| !plan.tables.is_empty());
                let is_target = |held: &&Held| Some(held.form) == target;
                target.is_none_or(|target| match self.held_in(target, plan.family) {
                    Some(held) => held.agrees(mesh, plan),
                    None => false,
                }) && self.of(mesh, plan.family).all(|held| is_target(&held))
            })
    }

    fn held_in(&self, form: Form, family: Family) -> Option<&Held> {
        self.held.iter().find(|held| held.form == form && held.ruleset.family == family)
    }

    /// The form in which each planned family is compared: that of `firm`, or the one that holds the plan, or any that holds
    /// something, or that in `usual`.
    pub(super) fn compared_in(&self, wanted: &Wanted, firm: Option<BackendName>, usual: &[(Family, Form)]) -> Vec<(Family, Form)> {
        let form = |plan: &Ruleset| {
            let usual = form_of(usual, plan.family).unwrap_or(Form::MeshInit);
            let mut there = self.of(wanted.mesh, plan.family);
            match firm {
                Some(firm) => there.find(|held| held.form.backend() == firm).map_or(usual, |held| held.form),
                None => {
                    let all: Vec<&Held> = there.collect();
                    let right = all.iter().find(|held| held.agrees(wanted.mesh, plan));
                    right.or(all.first()).map_or(usual, |held| held.form)
                }
            }
        };
        wanted.planned().map(|plan| (plan.family, form(plan))).collect()
    }

    /// How the kernel differs from what is wanted, each family compared in its form.
    pub(super) fn drift(&self, wanted: &Wanted, compared: &[(Family, Form)]) -> Vec<Drift> {
        let mesh = wanted.mesh;
        let mut drift = Vec::new();
        // Istio's own tables are for both families at once.
        let for_both = compared.iter().any(|(_, form)| *form == Form::IstioNft);
        for plan in &wanted.rulesets {
            let form = form_of(compared, plan.family);
            if let Some(form) = form {
                let nothing = Held::new(form, plan.family);
                let held = self.held_in(form, plan.family).unwrap_or(&nothing);
                drift.extend(held.faults_that_count(mesh, plan).into_iter().map(Drift::Fault));
                drift.extend(held.differences(mesh, plan).into_iter().map(Drift::Rule));
            }
            for held in self.of(mesh, plan.family).filter(|held| Some(held.form) != form) {
                if held.form == Form::IstioNft && for_both {
                    continue;
                }
                let nothing = Ruleset::new(plan.family);
                if matches!(held.form, Form::MeshInit | Form::IstioNft) {
                    drift.extend(held.faults_that_count(mesh, &nothing).into_iter().map(Drift::Fault));
                }
                let extra = held.differences(mesh, &nothing);
                drift.extend(extra.into_iter().map(|difference| Drift::Elsewhere { form: held.form, difference }));
            }
        }
        drift.extend(self.routing.iter().copied().map(Drift::Routing));
        drift.extend(self.stale.passthrough_v6.then_some(Drift::ExtraPassthrough));
        drift.extend(self.stale.policies().into_iter().map(Drift::ExtraPolicy));
        drift
    }
}

/// What `forms` has for `family`.
pub(super) fn form_of(forms: &[(Family, Form)], family: Family) -> Option<Form> {
    forms.iter().find(|(known, _)| *known == family).map(|(_, form)| *form)
}

/// The forms in which `mesh` has rules, each once.
pub fn forms(held: &[Held], mesh: Mesh) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    for held in held.iter().filter(|held| held.has(mesh)) {
        if !forms.contains(&held.form) {
            forms.push(held.form);
        }
    }
    forms
}

/// The backend that a mesh with rules in these forms stays with; none where it has none.
pub fn stays_with(forms: &[Form]) -> Option<BackendName> {
    let is_in = |backend: &BackendName| forms.iter().any(|form| form.backend() == *backend);
    BackendName::ALL.into_iter().find(is_in)
}
