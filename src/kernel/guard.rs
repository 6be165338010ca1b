//! Foreign rules that take packets away from a mesh's capture: an ACCEPT before the mesh's jump, a DROP, another redirect, in
//! any table of either packet filter.
//!
//! They are found by walking the packets of the usual questions that the plan captures through the plan alone, and through
//! what the kernel holds. Where the outcome is another one, the rule without which it would be the planned one is to blame.

use std::cell::RefCell;

use super::backend::{Form, Held};
use super::look::Live;
use crate::ruleset::walk::{Layers, Outcome, Packet, Pod, Step, Visit, Walk, questions, walk, walk_without};
use crate::ruleset::{Mesh, Ownership, Policy, Routing, Rule, Ruleset, Target};

/// What takes packets away, or may do so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taking {
    /// The rule and where it is, or the policy.
    place: String,
    /// In words, with the rule and an example.
    pub(super) text: String,
    /// Whether it does.
    pub(super) is_certain: bool,
}

/// Whether there is anything beside the mesh's rules in `held` that a packet may meet: a cheap look, so that a guard costs
/// nothing where it has nothing to do.
pub(super) fn has_others(mesh: Mesh, held: &[Held]) -> bool {
    let is_other = |rule: &Rule| !rule.tagged && !mesh.owns_target(rule);
    let of_others = held.iter().filter(|held| matches!(held.form, Form::Legacy | Form::IptablesNft));
    of_others
        .flat_map(|held| &held.ruleset.tables)
        .flat_map(|table| &table.chains)
        .any(|chain| chain.base.is_some_and(|base| base.policy == Some(Policy::Drop) || chain.rules.iter().any(is_other)))
}

/// What takes packets away from `plan`'s capture in what is there, each rule once.
pub(super) fn takings(plan: &Ruleset, routing: &Routing, live: &Live, pod: &Pod) -> Vec<Taking> {
    let (planned, there) = (Layers::of_plan(plan), live.layers(plan.family));
    let wanted_pod = Pod::new(pod.addresses.clone(), routing);
    let legacy = live.legacy(plan.family);
    let owners: Vec<Ownership> = legacy.iter().flat_map(|held| Mesh::ALL.map(|mesh| held.ownership(mesh, Some(plan)))).collect();
    // What the original tool has put into built-in chains may not show whose it is.
    let built_in = || plan.tables.iter().flat_map(|table| &table.chains).filter(|chain| chain.base.is_some());
    let is_planned = |rule: &Rule| built_in().any(|chain| chain.rules.iter().any(|planned| planned.same_meaning(rule)));
    let is_foreign = |visit: &Visit<'_>| visit.owner(&owners).is_none() && !is_planned(visit.rule) && visit.rule.target != Target::Continue;
    let mut takings: Vec<Taking> = Vec::new();
    for question in questions(&planned, plan.family, &wanted_pod) {
        let packet = question.packet;
        let wanted = walk(&planned, &packet, &wanted_pod).outcome;
        if !matches!(wanted, Outcome::Redirected { .. } | Outcome::Tproxied { .. }) {
            continue;
        }
        let found = walk(&there, &packet, pod);
        if found.outcome == wanted {
            continue;
        }
        let is_certain = !matches!(found.outcome, Outcome::DependsOn(_));
        let consequence = match is_certain {
            true => format!("takes packets away from the mesh: \"{packet}\" is {} instead of {wanted}", found.outcome),
            false => format!("may take packets away from the mesh: whether \"{packet}\" is {wanted} {}", found.outcome),
        };
        for place in culprits(&there, &packet, pod, &found, &wanted, &is_foreign) {
            let text = format!("{} {place} {consequence}", plan.family);
            if !takings.iter().any(|known| known.place == place) {
                takings.push(Taking { place, text, is_certain });
            }
        }
    }
    takings
}

/// Of so many foreign rules the one to blame is looked for where it is not known which of them match.
const SUSPECTS: usize = 64;

/// The foreign rules without which the outcome is the wanted one, as few as possible; the policy, if that is it.
fn culprits<'a>(
    there: &'a Layers<'a>,
    packet: &Packet,
    pod: &Pod,
    found: &Walk<'a>,
    wanted: &Outcome,
    is_foreign: &dyn Fn(&Visit<'a>) -> bool,
) -> Vec<String> {
    if let (Some(Step::Policy(layer)), Outcome::Dropped) = (found.steps.last(), &found.outcome) {
        return vec![format!("the policy DROP of {} {} ({})", layer.table(), layer.chain(), layer.filter())];
    }
    let mut suspects: Vec<Visit<'a>> = found.matched().filter(|visit| is_foreign(visit)).cloned().collect();
    if matches!(found.outcome, Outcome::DependsOn(_)) {
        // Also what was met on other ways.
        let met = RefCell::new(Vec::new());
        walk_without(there, packet, pod, &|visit| {
            let is_new = !met.borrow().iter().any(|known: &Visit<'a>| std::ptr::eq(known.rule, visit.rule));
            if is_new && is_foreign(visit) && met.borrow().len() < SUSPECTS {
                met.borrow_mut().push(visit.clone());
            }
            false
        });
        suspects = met.into_inner();
    }
    let outcome_without = |absent: &[Visit<'a>]| {
        walk_without(there, packet, pod, &|visit| absent.iter().any(|absent| std::ptr::eq(absent.rule, visit.rule))).outcome
    };
    // What is decided in a chain is not the fault of the rule that led there.
    let alone = suspects.iter().rev().find(|suspect| outcome_without(std::slice::from_ref(suspect)) == *wanted);
    match alone {
        Some(one) => vec![one.place()],
        None if outcome_without(&suspects) == *wanted => suspects.iter().map(Visit::place).collect(),
        None => Vec::new(),
    }
}
