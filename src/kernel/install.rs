//! What is wanted, brought about: all of it or nothing.

use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::backend::{Backend, BackendName, Form, Look, WriteError};
use super::choice::{Assignment, Choice, Next, Trial};
use super::error::Error;
use super::found::{Found, form_of, stays_with};
use super::guard;
use super::look::{lost_exemptions, warn_of_guards};
use super::netlink::Socket;
use super::route::{self, Ipv6State, RouteError};
use super::signals::hold_signals;
use super::wanted::{Drift, Wanted};
use crate::ruleset::{Family, Mesh, Ruleset, TableName};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as wanted; nothing was written.
    AlreadyInPlace,
    /// It is as wanted now.
    Changed,
}

/// Where the rules are, and why there.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Each planned family with the form in which it was compared.
    pub families: Vec<(Family, Form)>,
    /// Why this backend, in words.
    pub why: String,
    /// The only backend that was to be used.
    pub only: Option<BackendName>,
    /// What the user should know, a sentence each: a family that was left out, a packet filter that could not be looked at.
    pub warnings: Vec<String>,
}

impl Settled {
    /// The backends, each once: `nftables`, or `legacy (IPv4) and nftables (IPv6)`.
    pub fn backends(&self) -> String {
        let backend = |form: Form| self.only.unwrap_or(form.backend());
        let mut names: Vec<&str> = self.families.iter().map(|(_, form)| backend(*form).as_str()).collect();
        names.dedup();
        match names.as_slice() {
            [] => "none".to_owned(),
            [one] => (*one).to_owned(),
            _ => {
                let each = self.families.iter().map(|(family, form)| format!("{} ({family})", form.backend()));
                each.collect::<Vec<_>>().join(" and ")
            }
        }
    }
}

/// The kernel, as far as a mesh's rules go.
pub struct Kernel {
    /// The distribution's programs, if they are to be used; nf_tables; the legacy packet filter.
    pub(super) backends: Vec<Box<dyn Backend>>,
    pub(super) choice: Choice,
    pub(super) route: Socket,
    deadline: Instant,
}

/// How long to wait before writing again what somebody else has changed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long putting things back may take when the deadline has passed already.
const UNDO_TIME: Duration = Duration::from_secs(10);

/// Why an attempt ended.
enum Attempt {
    Refused(BackendName, Vec<(Family, Error)>),
    Failed(Error),
}

/// Where a family's rules go: by which backend, and in which form.
type Place<'a> = (&'a Assignment, &'a [(Family, Form)]);

impl From<RouteError> for Attempt {
    fn from(error: RouteError) -> Attempt {
        Attempt::Failed(error.into())
    }
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Attempt {
        Attempt::Failed(error)
    }
}

impl Kernel {
    /// The kernel through `backends`, of which `choice` says which is wanted; nothing is waited for after `deadline`.
    pub fn new(backends: Vec<Box<dyn Backend>>, choice: Choice, deadline: Instant) -> Result<Kernel, Error> {
        Ok(Kernel { backends, choice, route: route::open(deadline)?, deadline })
    }

    /// Says which backend is wanted.
    pub fn choose(&mut self, choice: Choice) {
        self.choice = choice;
    }

    /// How the kernel differs from what is wanted, which is fitted to what the kernel has: IPv6 is left out where there is
    /// none to speak of.
    pub fn check(&mut self, wanted: &mut Wanted) -> Result<(Vec<Drift>, Settled), Error> {
        let mut settled = Settled { only: self.choice.only(), ..Settled::default() };
        self.leave_out_absent_ipv6(wanted, &mut settled);
        let mut found = self.look(wanted, Look::Everything, &[], None)?;
        let absent: Vec<Ruleset> = wanted.planned().filter(|plan| !found.has_any(wanted.mesh, plan.family)).cloned().collect();
        if let Some(reason) = self.rehearse(wanted.mesh, &absent)? {
            settled.warnings.push(reason);
            wanted.leave_ipv6_out();
            found = self.look(wanted, Look::Everything, &[], None)?;
        }
        warn_of_guards(wanted, &found.held);
        let usual = self.order(&found, wanted.mesh).first().copied().unwrap_or(BackendName::Nftables);
        let families: Vec<(Family, BackendName)> = wanted.planned().map(|plan| (plan.family, usual)).collect();
        settled.families = found.compared_in(wanted, self.choice.only(), &self.targets(&families)?);
        settled.why = self.why(&found, wanted.mesh);
        settled.warnings.extend(self.notes());
        let mut drift = found.drift(wanted, &settled.families);
        for taking in self.takings(wanted, Look::Everything, &[])? {
            match taking.is_certain {
                true => drift.push(Drift::Finding(format!("foreign: {}", taking.text))),
                false => settled.warnings.push(taking.text),
            }
        }
        Ok((drift, settled))
    }

    /// Brings about what is wanted, but for IPv6 where there is none to speak of. On an error everything is as it was
    /// before.
    pub fn install(&mut self, wanted: &mut Wanted) -> Result<(Outcome, Settled), Error> {
        let mut settled = Settled { only: self.choice.only(), ..Settled::default() };
        self.leave_out_absent_ipv6(wanted, &mut settled);
        let look = if wanted.removal || self.choice.only() == Some(BackendName::Legacy) { Look::Everything } else { Look::Listed };
        let first = self.look(wanted, look, &[], None)?;
        warn_of_guards(wanted, &first.held);
        let mut trial = Trial::new(self.order(&first, wanted.mesh));
        let why = self.why(&first, wanted.mesh);
        let mut first = Some(first);
        loop {
            let families: Vec<Family> = wanted.planned().map(|plan| plan.family).collect();
            let assignment = match trial.next(&families) {
                Next::Try(assignment) => assignment,
                Next::Nowhere(family) => match self.without_ipv6(family)? {
                    false => return Err(trial.nowhere(family)),
                    true => {
                        settled
                            .warnings
                            .push(format!("IPv6 is left out, for which the pod has no global address: {}", trial.nowhere(family)));
                        wanted.leave_ipv6_out();
                        trial = Trial::new(self.order_now(wanted)?);
                        first = None;
                        continue;
                    }
                },
            };
            let targets = self.targets(assignment.families())?;
            // What the legacy packet filter is to hold, it may be asked for.
            let look = if targets.iter().any(|(_, form)| *form == Form::Legacy) { Look::Everything } else { look };
            let found = match first.take().filter(|_| look == Look::Listed || wanted.removal) {
                Some(found) => found,
                None => self.look(wanted, look, &[], None)?,
            };
            let in_own_tables = |plan: &&Ruleset| form_of(&targets, plan.family) == Some(Form::MeshInit);
            let has_others = guard::has_others(wanted.mesh, &found.held);
            let exemptions = lost_exemptions(wanted.mesh, wanted.planned().filter(in_own_tables), &found.held);
            let outcome = if found.is_as_wanted(wanted, &targets) {
                Outcome::AlreadyInPlace
            } else {
                match self.attempt(wanted, (&assignment, &targets), look, found) {
                    Ok(()) => {
                        settled.warnings.extend(exemptions);
                        Outcome::Changed
                    }
                    Err(Attempt::Failed(error)) => return Err(error),
                    Err(Attempt::Refused(backend, refusals)) => {
                        for (_, refusal) in &refusals {
                            debug!("{refusal}");
                        }
                        trial.refused(backend, refusals);
                        continue;
                    }
                }
            };
            settled.families = targets;
            let refusal = BackendName::ALL.into_iter().find_map(|backend| trial.reason(backend));
            if let (Some(refusal), Some(wish)) = (refusal, self.choice.wish.filter(|wish| !assignment.uses(*wish))) {
                settled.warnings.push(format!("{} asks for {wish}, which this kernel cannot do: {refusal}", self.choice.asked_by));
            }
            settled.why = refusal.map_or(why, |refusal| format!("{refusal}"));
            settled.warnings.extend(self.notes());
            if has_others || self.backends.iter().any(|backend| backend.has_other_tables()) {
                match self.takings(wanted, look, &in_legacy_tables(wanted, &settled.families)) {
                    Ok(takings) => settled.warnings.extend(takings.into_iter().map(|taking| taking.text)),
                    Err(error) => debug!("whether foreign rules take packets away is not known: {error}"),
                }
            }
            return Ok((outcome, settled));
        }
    }

    /// The form in which each family's rules will be, if the backend writes them.
    fn targets(&mut self, families: &[(Family, BackendName)]) -> Result<Vec<(Family, Form)>, Error> {
        let form = |(family, name): &(Family, BackendName)| {
            let backend = self.backends.iter_mut().find(|backend| backend.name() == *name);
            Ok((*family, backend.ok_or(Error::NoBackend(*name))?.form(*family)?))
        };
        families.iter().map(form).collect()
    }

    /// Writes what is wanted where `place` says, by backend and by form, or puts everything back.
    fn attempt(&mut self, wanted: &Wanted, place: Place<'_>, look: Look, found: Found) -> Result<(), Attempt> {
        let _signals = hold_signals();
        let mut journal = route::Journal::new();
        match self.converge(wanted, place, look, found, &mut journal) {
            Ok(()) => {
                for backend in &mut self.backends {
                    backend.commit();
                }
                Ok(())
            }
            Err(Attempt::Failed(cause)) => Err(Attempt::Failed(self.roll_back(cause, journal))),
            Err(Attempt::Refused(by, mut refusals)) => {
                let problems = self.put_back(journal);
                match refusals.pop() {
                    Some((_, cause)) if !problems.is_empty() => Err(Attempt::Failed(Error::NotUndone { cause: Box::new(cause), problems })),
                    last => {
                        refusals.extend(last);
                        Err(Attempt::Refused(by, refusals))
                    }
                }
            }
        }
    }

    /// Writes until the kernel holds what is wanted, which another program's writing may make necessary more than once.
    fn converge(
        &mut self,
        wanted: &Wanted,
        (assignment, targets): Place<'_>,
        look: Look,
        mut found: Found,
        journal: &mut route::Journal,
    ) -> Result<(), Attempt> {
        let mut pause = FIRST_PAUSE;
        loop {
            route::ensure(&mut self.route, &wanted.routing, journal)?;
            self.write(wanted, (assignment, targets), &found)?;
            route::remove(&mut self.route, &found.stale, journal)?;
            let needed = in_legacy_tables(wanted, targets);
            found = self.look(wanted, look, &needed, Some(found.searched))?;
            if found.is_as_wanted(wanted, targets) {
                return Ok(());
            }
            let drift = found.drift(wanted, targets);
            let first = drift.first().map(ToString::to_string).unwrap_or_default();
            let more = drift.len().saturating_sub(1);
            debug!("the kernel does not hold what was written: {first}");
            if self.is_misread(&drift, targets) {
                return Err(Attempt::Failed(Error::Misread { first, more }));
            }
            if Instant::now() >= self.deadline {
                return Err(Attempt::Failed(Error::NotHeld { first, more }));
            }
            // Whoever writes at the same time gets time to end.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether no waiting helps: the drift is in nf_tables alone, and nobody has written there since.
    fn is_misread(&self, drift: &[Drift], targets: &[(Family, Form)]) -> bool {
        let in_nftables = |drift: &Drift| match drift {
            Drift::Rule(_) | Drift::Fault(_) => targets.iter().all(|(_, form)| form.backend() == BackendName::Nftables),
            Drift::Elsewhere { form, .. } => form.backend() == BackendName::Nftables,
            _ => false,
        };
        let mut backends = self.backends.iter();
        let undisturbed = backends.any(|backend| backend.name() == BackendName::Nftables && backend.is_undisturbed());
        undisturbed && !drift.is_empty() && drift.iter().all(in_nftables)
    }

    /// Writes once: what the distribution's programs or the legacy packet filter are to hold; then all of nf_tables in one
    /// step; then the legacy packet filter gives up what others have now. So there is capture at every moment.
    fn write(&mut self, wanted: &Wanted, (assignment, targets): Place<'_>, found: &Found) -> Result<(), Attempt> {
        let plans_for = |backend: BackendName| -> Vec<Ruleset> {
            let plan = |plan: &Ruleset| match assignment.of(plan.family) == Some(backend) {
                true => plan.clone(),
                false => Ruleset::new(plan.family),
            };
            wanted.rulesets.iter().map(plan).collect()
        };
        let (kept, given_up): (Vec<Ruleset>, Vec<Ruleset>) =
            plans_for(BackendName::Legacy).into_iter().partition(|plan| !plan.tables.is_empty());
        // A family that has nothing there is not touched.
        let legacy_has = |plan: &Ruleset| {
            found.held.iter().any(|held| held.form == Form::Legacy && held.ruleset.family == plan.family && held.has(wanted.mesh))
        };
        let given_up: Vec<Ruleset> = given_up.into_iter().filter(legacy_has).collect();
        let in_nftables = plans_for(BackendName::Nftables);
        let nftables_matters = assignment.uses(BackendName::Nftables) || found.is_in(wanted.mesh, BackendName::Nftables);
        // Where they are wanted they take out what goes, too.
        let by_programs = self.choice.only() == Some(BackendName::Iptables);
        // What those have written is not in the native backends' own form.
        let staying = if by_programs { targets } else { &[] };
        let steps = [
            (BackendName::Iptables, plans_for(BackendName::Iptables), by_programs),
            (BackendName::Legacy, kept, true),
            (BackendName::Nftables, in_nftables, nftables_matters),
            (BackendName::Legacy, given_up, true),
        ];
        for (name, plans, matters) in steps {
            let backend = self.backends.iter_mut().find(|backend| backend.name() == name).filter(|_| matters && !plans.is_empty());
            let Some(backend) = backend else { continue };
            backend.write(wanted.mesh, &plans, &found.held, staying, self.deadline).map_err(|error| match error {
                WriteError::Refused(refusals) => Attempt::Refused(name, refusals),
                WriteError::Failed(error) => Attempt::Failed(error),
            })?;
        }
        Ok(())
    }

    fn roll_back(&mut self, cause: Error, journal: route::Journal) -> Error {
        let changed = !journal.is_empty() || self.backends.iter().any(|backend| backend.has_written());
        let problems = self.put_back(journal);
        if problems.is_empty() {
            if changed {
                info!("everything that was changed has been put back");
            }
            return cause;
        }
        Error::NotUndone { cause: Box::new(cause), problems }
    }

    /// Puts back what was changed; what could not be is the result. What was put into the legacy packet filter after
    /// nf_tables was changed, or taken out of it, is put right first; what programs wrote was there before both.
    fn put_back(&mut self, journal: route::Journal) -> Vec<String> {
        let deadline = Instant::now() + UNDO_TIME;
        let mut problems = Vec::new();
        for backend in self.backends.iter_mut().rev() {
            problems.extend(backend.undo(deadline).iter().map(ToString::to_string));
        }
        if !journal.is_empty() {
            match route::open(deadline) {
                Ok(mut socket) => problems.extend(route::roll_back(&mut socket, journal).iter().map(ToString::to_string)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems
    }

    /// The backends to be tried, the first one first: the one that is asked for; else the one that has the mesh's rules
    /// already; else nf_tables.
    fn order(&self, found: &Found, mesh: Mesh) -> Vec<BackendName> {
        self.order_from(&found.forms(mesh))
    }

    /// The same, where the mesh has rules in these forms.
    pub(super) fn order_from(&self, forms: &[Form]) -> Vec<BackendName> {
        match (self.choice.wish, self.choice.firm) {
            (Some(wish), true) => vec![wish],
            (Some(wish), false) => vec![wish, wish.other()],
            (None, _) => {
                let first = stays_with(forms).unwrap_or(BackendName::Nftables);
                vec![first, first.other()]
            }
        }
    }

    fn order_now(&mut self, wanted: &Wanted) -> Result<Vec<BackendName>, Error> {
        let found = self.look(wanted, Look::Listed, &[], None)?;
        Ok(self.order(&found, wanted.mesh))
    }

    /// Why the first backend of [`Kernel::order`] is the first.
    fn why(&self, found: &Found, mesh: Mesh) -> String {
        if let Some(wish) = self.choice.wish {
            return format!("{} asks for {wish}", self.choice.asked_by);
        }
        let forms = found.forms(mesh);
        if forms.is_empty() { format!("no rules of {} are there yet", mesh.as_str()) } else { places(mesh, &forms) }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.backends.iter().flat_map(|backend| backend.notes()).collect()
    }

    /// Leaves IPv6 out where the kernel has none. Where it is there and not wanted, rules of the mesh that are left from
    /// before are not wanted either.
    fn leave_out_absent_ipv6(&mut self, wanted: &mut Wanted, settled: &mut Settled) {
        if route::has_ipv6() {
            if !wanted.rulesets.iter().any(|plan| plan.family == Family::V6) {
                wanted.rulesets.push(Ruleset::new(Family::V6));
            }
            return;
        }
        if wanted.plans(Family::V6) {
            settled.warnings.push("IPv6 is left out: the kernel has no IPv6".to_owned());
        }
        wanted.leave_ipv6_out();
    }

    /// Whether the rules of `family`, which no packet filter takes, can be done without: those of IPv6 in a pod that nobody
    /// beyond its link can reach over it.
    pub(super) fn without_ipv6(&mut self, family: Family) -> Result<bool, Error> {
        Ok(family == Family::V6 && route::ipv6_state(&mut self.route)? == Ipv6State::LocalOnly)
    }

    /// Whether the rules of `plans`, of which none are there, could be: why those of IPv6 cannot, if they can be done
    /// without. If rules that cannot be done without cannot be there, an error says why.
    fn rehearse(&mut self, mesh: Mesh, plans: &[Ruleset]) -> Result<Option<String>, Error> {
        if plans.is_empty() {
            return Ok(None);
        }
        let order = self.choice.only().map_or(BackendName::ALL.to_vec(), |only| vec![only]);
        let mut trial = Trial::new(order.clone());
        for backend in self.backends.iter_mut().filter(|backend| order.contains(&backend.name())) {
            match backend.rehearse(mesh, plans) {
                Ok(()) => return Ok(None),
                Err(WriteError::Refused(refusals)) => trial.refused(backend.name(), refusals),
                Err(WriteError::Failed(error)) => return Err(error),
            }
        }
        let families: Vec<Family> = plans.iter().map(|plan| plan.family).collect();
        match trial.next(&families) {
            Next::Try(_) => Ok(None),
            Next::Nowhere(family) if self.without_ipv6(family)? => Ok(Some(left_out(&trial.nowhere(family)))),
            Next::Nowhere(family) => Err(trial.nowhere(family)),
        }
    }
}

/// The tables of the legacy packet filter that the plans go to.
fn in_legacy_tables(wanted: &Wanted, targets: &[(Family, Form)]) -> Vec<(Family, TableName)> {
    let plans = wanted.planned().filter(|plan| form_of(targets, plan.family) == Some(Form::Legacy));
    plans.flat_map(|plan| plan.tables.iter().map(|table| (plan.family, table.name))).collect()
}

/// `rules of istio are in the legacy packet filter`
pub fn places(mesh: Mesh, forms: &[Form]) -> String {
    let places: Vec<&str> = forms.iter().map(|form| form.describe()).collect();
    format!("rules of {} are in {}", mesh.as_str(), places.join(" and "))
}

fn left_out(reason: &Error) -> String {
    format!("IPv6 is left out, for which the pod has no global address: {reason}")
}
