//! What the kernel could do, found out without anything being made or changed.

use super::backend::{BackendName, Finding, Held, Look, Means, Need};
use super::error::Error;
use super::found::forms;
use super::install::Kernel;
use super::route;
use super::wanted::Wanted;
use crate::ruleset::{Family, NftTable, Ruleset};

/// What the kernel could do with a plan.
#[derive(Debug)]
pub struct Survey {
    /// The packet filters that would be tried, the first one first, each with its answers or why it gave none.
    pub filters: Vec<(BackendName, Result<Vec<Answer>, Error>)>,
    /// Each planned family with the packet filter that would get its rules, if one takes them.
    pub assigned: Vec<(Family, Option<BackendName>)>,
    /// Why the IPv6 rules would be left out, if they would be.
    pub left_out: Option<&'static str>,
    /// The families in which policy routing is wanted and not there.
    pub no_policy_routing: Vec<Family>,
}

/// What a packet filter says of a family's rules.
#[derive(Debug)]
pub struct Answer {
    /// The family.
    pub family: Family,
    /// How many rules there are.
    pub rules: usize,
    /// What they need.
    pub needs: Vec<Need>,
    /// What the packet filter would do with them.
    pub finding: Finding,
}

/// What there is already.
#[derive(Debug, Default)]
pub struct Presence {
    /// What the packet filters hold.
    pub held: Vec<Held>,
    /// Whether there is nf_tables; `None`: not known.
    pub has_nftables: Option<bool>,
    /// All its tables.
    pub tables: Vec<NftTable>,
    /// What could not be looked at, a sentence each.
    pub unknown: Vec<String>,
}

impl Kernel {
    /// What is there, as far as it is there without being asked for.
    pub fn presence(&mut self) -> Presence {
        let mut presence = Presence::default();
        for backend in &mut self.backends {
            let mut read = || {
                for family in Family::ALL {
                    presence.held.extend(backend.read(family, &[], Look::Listed)?);
                }
                presence.tables.extend(backend.tables()?);
                Ok(())
            };
            let answer: Result<(), Error> = read();
            let is_absent = answer.as_ref().is_err_and(Error::is_filter_absent);
            if backend.name() == BackendName::Nftables {
                presence.has_nftables = (answer.is_ok() || is_absent).then_some(!is_absent);
            }
            presence.unknown.extend(answer.err().filter(|_| !is_absent).map(|error| error.to_string()));
        }
        presence.unknown.extend(self.notes());
        presence
    }

    /// Asks the kernel what it could do with what is wanted, which is fitted to what the kernel has. `held` is what is
    /// there.
    pub fn survey(&mut self, wanted: &mut Wanted, held: &[Held], means: &Means<'_>) -> Result<Survey, Error> {
        let mut survey = Survey { filters: Vec::new(), assigned: Vec::new(), left_out: None, no_policy_routing: Vec::new() };
        if !route::has_ipv6() {
            survey.left_out = wanted.plans(Family::V6).then_some("the kernel has no IPv6");
            wanted.leave_ipv6_out();
        }
        for policy in &wanted.routing.policy {
            if route::rules(&mut self.route, policy.family)?.is_empty() && !survey.no_policy_routing.contains(&policy.family) {
                survey.no_policy_routing.push(policy.family);
            }
        }
        let plans: Vec<Ruleset> = wanted.planned().cloned().collect();
        for name in self.order_from(&forms(held, wanted.mesh)) {
            let Some(backend) = self.backends.iter_mut().find(|backend| backend.name() == name) else { continue };
            let findings = backend.survey(wanted.mesh, &plans, means);
            let answer = |(plan, finding): (&Ruleset, Finding)| Answer {
                family: plan.family,
                rules: plan.rule_count(),
                needs: backend.needs(plan),
                finding,
            };
            survey.filters.push((name, findings.map(|findings| plans.iter().zip(findings).map(answer).collect())));
        }
        survey.assigned = survey.assign(&plans);
        let all_answered = survey.filters.iter().all(|(_, answers)| answers.is_ok());
        if survey.assigned.contains(&(Family::V6, None)) && all_answered && self.without_ipv6(Family::V6)? {
            survey.left_out = Some("no packet filter takes the IPv6 rules, and the pod has no global IPv6 address");
            wanted.leave_ipv6_out();
            let plans: Vec<Ruleset> = wanted.planned().cloned().collect();
            survey.assigned = survey.assign(&plans);
        }
        Ok(survey)
    }
}

impl Survey {
    /// Which packet filter would get the rules of which family: one that takes all of them, or for each the first that does.
    fn assign(&self, plans: &[Ruleset]) -> Vec<(Family, Option<BackendName>)> {
        let takes = |answers: &[Answer], family: Family| {
            answers.iter().any(|answer| answer.family == family && matches!(answer.finding, Finding::Takes(_)))
        };
        let first = |families: &[Family]| {
            let takes_them = |(_, answers): &&(BackendName, Result<Vec<Answer>, Error>)| {
                answers.as_ref().is_ok_and(|answers| families.iter().all(|family| takes(answers, *family)))
            };
            self.filters.iter().find(takes_them).map(|(name, _)| *name)
        };
        let families: Vec<Family> = plans.iter().map(|plan| plan.family).collect();
        let whole = first(&families);
        families.iter().map(|family| (*family, whole.or_else(|| first(&[*family])))).collect()
    }

    /// The packet filter that would get the family's rules.
    pub fn assigned(&self, family: Family) -> Option<BackendName> {
        self.assigned.iter().find(|(known, _)| *known == family).and_then(|(_, backend)| *backend)
    }
}
