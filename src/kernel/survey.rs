//! What the kernel could do, found out without anything being made or changed.

use super::backend::{BackendName, Finding, Held, Look, Means, Need};
use super::error::Error;
use super::found::forms;
use super::install::Kernel;
use super::route;
use super::wanted::Wanted;
use crate::ruleset::{Family, NftTable};

/// What the kernel could do with a plan.
#[derive(Debug, Default)]
pub struct Survey {
    /// What the packet filters that would be tried say of each planned family, the first to be tried first.
    pub answers: Vec<Answer>,
    /// Those that say nothing, and why.
    pub silent: Vec<(BackendName, Error)>,
    /// All that would be tried, in turn.
    order: Vec<BackendName>,
    /// The planned families, each with the packet filter that would get its rules, if one takes them.
    pub assigned: Vec<(Family, Option<BackendName>)>,
    /// Why the IPv6 rules would be left out, if they would be.
    pub left_out: Option<&'static str>,
    /// The families in which policy routing is wanted and not there.
    pub no_policy_routing: Vec<Family>,
}

/// What a packet filter says of a family's rules.
#[derive(Debug)]
pub struct Answer {
    /// The packet filter.
    pub backend: BackendName,
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
        let mut survey = Survey::default();
        if !route::has_ipv6() {
            survey.left_out = wanted.plans(Family::V6).then_some("the kernel has no IPv6");
            wanted.leave_ipv6_out();
        }
        for policy in &wanted.routing.policy {
            if route::rules(&mut self.route, policy.family)?.is_empty() && !survey.no_policy_routing.contains(&policy.family) {
                survey.no_policy_routing.push(policy.family);
            }
        }
        let order = self.order_from(&forms(held, wanted.mesh));
        for backend in &order {
            let Some(filter) = self.backends.iter_mut().find(|filter| filter.name() == *backend) else { continue };
            match filter.survey(wanted.mesh, &wanted.rulesets, means) {
                Ok(findings) => {
                    for (plan, finding) in wanted.rulesets.iter().zip(findings) {
                        if !plan.tables.is_empty() {
                            let (family, rules, needs) = (plan.family, plan.rule_count(), filter.needs(plan));
                            survey.answers.push(Answer { backend: *backend, family, rules, needs, finding });
                        }
                    }
                }
                Err(error) => survey.silent.push((*backend, error)),
            }
        }
        let mut families: Vec<Family> = wanted.planned().map(|plan| plan.family).collect();
        survey.order = order;
        survey.assign(&families);
        if survey.assigned.contains(&(Family::V6, None)) && survey.silent.is_empty() && self.without_ipv6(Family::V6)? {
            survey.left_out = Some("no packet filter takes its rules, and the pod has no global IPv6 address");
            wanted.leave_ipv6_out();
            families.retain(|family| *family == Family::V4);
            survey.assign(&families);
        }
        Ok(survey)
    }
}

impl Survey {
    /// Finds out which packet filter would get the rules of which family: the first that takes all of them, or for each the
    /// first that takes its own.
    fn assign(&mut self, families: &[Family]) {
        let whole = self.first_for(families);
        self.assigned.clear();
        for family in families {
            self.assigned.push((*family, whole.or_else(|| self.first_for(&[*family]))));
        }
    }

    /// The first packet filter that takes the rules of all these families.
    fn first_for(&self, families: &[Family]) -> Option<BackendName> {
        let takes = |backend: BackendName, family: Family| {
            let is_asked_for = |answer: &&Answer| (answer.backend, answer.family) == (backend, family);
            self.answers.iter().find(is_asked_for).is_some_and(|answer| matches!(answer.finding, Finding::Takes(_)))
        };
        self.order.iter().copied().find(|backend| families.iter().all(|family| takes(*backend, *family)))
    }

    /// The packet filter that would get the family's rules.
    pub fn taker(&self, family: Family) -> Option<BackendName> {
        self.assigned.iter().find(|(known, _)| *known == family).and_then(|(_, backend)| *backend)
    }

    /// The packet filter that would get the family's rules before the silent one `backend` is tried, with which everything
    /// would end.
    pub fn taker_before(&self, backend: BackendName, family: Family) -> Option<BackendName> {
        let mut before = self.order.iter().take_while(|other| **other != backend);
        self.taker(family).filter(|taker| before.any(|other| other == taker))
    }
}
