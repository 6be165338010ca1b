//! Foreign rules that take packets away from a mesh's capture: an ACCEPT before the mesh's jump, a DROP, another redirect, in
//! any table of either packet filter.
//!
//! They are found by walking packets that the plan captures through the plan alone, and through what the kernel holds: those
//! of the usual questions, some that no rule names, and some made for the foreign rules. Where the outcome is another one,
//! the rules without which it would be the planned one are to blame.

use std::cell::{Cell, RefCell};

use super::backend::{Form, Held};
use super::look::Live;
use crate::ruleset::walk::{
    AIMED, Layers, Omission, Outcome, Packet, Pod, Step, Visit, Walk, aimed, questions, unnamed, walk, walk_without,
};
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
    let budget = Cell::new(BUDGET);
    let mut takings: Vec<(Taking, Option<&Rule>)> = Vec::new();
    let usual = questions(&planned, plan.family, &wanted_pod);
    let mut packets: Vec<Packet> = usual.into_iter().map(|question| question.packet).collect();
    let device = packets.first().and_then(|packet| packet.device.clone());
    packets.extend(unnamed(&there, plan.family, device.as_ref()));
    let for_rules = aimed(&there, plan.family, device.as_ref(), &is_foreign);
    let are_all = for_rules.len() < AIMED;
    packets.extend(for_rules);
    // From outside nothing comes that is from the pod itself.
    packets.retain(|packet| packet.source.is_none_or(|source| !pod.owns(source)));
    for packet in packets {
        let wanted = walk(&planned, &packet, &wanted_pod).outcome;
        if !matches!(wanted, Outcome::Redirected { .. } | Outcome::Tproxied { .. }) {
            continue;
        }
        let search = Search { there: &there, packet: &packet, pod, wanted: &wanted, is_foreign: &is_foreign, budget: &budget };
        let found = search.walk(&|_| false, false);
        if found.outcome == wanted {
            continue;
        }
        let is_certain = found.is_elsewhere || !matches!(found.outcome, Outcome::DependsOn(_));
        let is_known = |(taking, _): &&(Taking, Option<&Rule>)| taking.is_certain >= is_certain;
        let known: Vec<&Rule> = takings.iter().filter(is_known).filter_map(|(_, rule)| *rule).collect();
        let is_explained = !known.is_empty() && search.is_wanted_without(&known, false);
        let consequence = if found.is_elsewhere {
            format!("takes packets away from the mesh: \"{packet}\" is sent elsewhere instead of {wanted}")
        } else if is_certain {
            format!("takes packets away from the mesh: \"{packet}\" is {} instead of {wanted}", found.outcome)
        } else {
            format!("may take packets away from the mesh: whether \"{packet}\" is {wanted} {}", found.outcome)
        };
        for (place, rule) in if is_explained { Vec::new() } else { search.culprits() } {
            let text = shortened(&format!("{} {place} {consequence}", plan.family));
            let taking = (Taking { place, text, is_certain }, rule);
            match takings.iter_mut().find(|(known, _)| known.place == taking.0.place) {
                Some((known, _)) if known.is_certain >= is_certain => {}
                Some(known) => *known = taking,
                None => takings.push(taking),
            }
        }
        if budget.get() == 0 {
            break;
        }
    }
    if budget.get() == 0 || !are_all {
        let text =
            format!("whether more {} packets are taken away from the mesh is not known: there are too many rules to tell", plan.family);
        takings.push((Taking { place: String::new(), text, is_certain: false }, None));
    }
    takings.into_iter().map(|(taking, _)| taking).collect()
}

/// So many rules are met at most before the guard gives up.
const BUDGET: u32 = 1_000_000;

/// Of so many foreign rules those to blame are looked for.
const SUSPECTS: usize = 64;

/// What to look for: why `packet` does not become what is wanted.
struct Search<'t, 'a> {
    there: &'a Layers<'a>,
    packet: &'t Packet,
    pod: &'t Pod,
    wanted: &'t Outcome,
    is_foreign: &'t dyn Fn(&Visit<'_>) -> bool,
    budget: &'t Cell<u32>,
}

impl<'a> Search<'_, 'a> {
    fn walk(&self, is_absent: &dyn Fn(&Visit<'a>) -> bool, policies: bool) -> Walk<'a> {
        walk_without(self.there, self.packet, self.pod, &Omission { is_absent, policies, budget: self.budget })
    }

    fn is_wanted_without(&self, absent: &[&Rule], policies: bool) -> bool {
        self.walk(&|visit| is_among(absent, visit.rule), policies).outcome == *self.wanted
    }

    /// The foreign rules without which the outcome is the wanted one, as few as possible, and a policy, if it is to blame
    /// too. None if the mesh's own rules are not as planned.
    fn culprits(&self) -> Vec<(String, Option<&'a Rule>)> {
        if self.walk(&|visit| (self.is_foreign)(visit), true).outcome != *self.wanted {
            return Vec::new();
        }
        // Rules that are hidden behind others are met once those are away.
        let met: RefCell<Vec<Visit<'a>>> = RefCell::default();
        let mut absent: Vec<&'a Rule> = Vec::new();
        while self.walk(&|visit| is_among(&absent, visit.rule) || self.note(visit, &met), true).outcome != *self.wanted {
            let all: Vec<&'a Rule> = met.borrow().iter().map(|visit| visit.rule).collect();
            if all.len() == absent.len() || all.len() > SUSPECTS {
                return several(&met.borrow());
            }
            absent = all;
        }
        let met = met.into_inner();
        // Those that led to a rule come before it, and are not to blame for it.
        let mut at = 0;
        while at < absent.len() {
            let suspect = absent.remove(at);
            if !self.is_wanted_without(&absent, true) {
                absent.insert(at, suspect);
                at += 1;
            }
        }
        if self.budget.get() == 0 {
            return several(&met);
        }
        let mut culprits: Vec<_> =
            met.iter().filter(|visit| is_among(&absent, visit.rule)).map(|visit| (visit.place(), Some(visit.rule))).collect();
        let rest = self.walk(&|visit| is_among(&absent, visit.rule), false);
        if let (true, Some(Step::Policy(layer))) = (rest.outcome != *self.wanted, rest.steps.last()) {
            culprits.push((format!("the policy DROP of {} {} ({})", layer.table(), layer.chain(), layer.filter()), None));
        }
        culprits
    }

    /// Notes a foreign rule that is met.
    fn note(&self, visit: &Visit<'a>, met: &RefCell<Vec<Visit<'a>>>) -> bool {
        let mut met = met.borrow_mut();
        if (self.is_foreign)(visit) && !met.iter().any(|known| std::ptr::eq(known.rule, visit.rule)) {
            met.push(visit.clone());
        }
        false
    }
}

/// What is said where those to blame are not known among those that were met.
fn several<'a>(met: &[Visit<'a>]) -> Vec<(String, Option<&'a Rule>)> {
    met.first()
        .map(|first| (format!("one of {} foreign rules, the first of them {}", met.len(), first.place()), None))
        .into_iter()
        .collect()
}

fn is_among(rules: &[&Rule], rule: &Rule) -> bool {
    rules.iter().any(|known| std::ptr::eq(*known, rule))
}

/// The text with little more than the beginning of what has no words in it, which is given in hexadecimal digits.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    let mut digits = 0;
    for c in text.chars() {
        digits = if c.is_ascii_hexdigit() { digits + 1 } else { 0 };
        match digits {
            0..=8 => short.push(c),
            9 => short.push('…'),
            _ => {}
        }
    }
    short
}
