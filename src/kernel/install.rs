//! What is wanted, compared with what the kernel holds, and brought about: all of it or nothing.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::netlink::Socket;
use super::route::{self, OUR_PROTOCOL, RouteError, RoutingDrift, Stale};
use super::signals::hold_signals;
use super::{Backend, Error};
use crate::ruleset::{Difference, Family, Mesh, Ownership, PolicyRoute, Routing, Ruleset, TableName, compare, owner};

/// What a mesh is to have in the kernel.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The mesh.
    pub mesh: Mesh,
    /// The rules of each family that is to be looked at. One without tables means that the mesh has nothing there.
    pub rulesets: Vec<Ruleset>,
    /// The addresses and routes.
    pub routing: Routing,
    /// Whether the mesh is to have nothing at all: what it left in the routing is looked for even without its rules.
    pub removal: bool,
}

impl Wanted {
    /// Nothing of the mesh in `families`.
    pub fn nothing(mesh: Mesh, families: &[Family]) -> Wanted {
        let rulesets = families.iter().map(|family| Ruleset::new(*family)).collect();
        Wanted { mesh, rulesets, routing: Routing::default(), removal: true }
    }
}

/// One way in which the kernel is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// A rule, a chain or a policy.
    Rule(Difference),
    /// An address or a route that is wanted.
    Routing(RoutingDrift),
    /// The passthrough address, which is not wanted.
    ExtraPassthrough,
    /// A policy route that is not wanted.
    ExtraPolicy(PolicyRoute),
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Drift::Rule(difference) => difference.fmt(f),
            Drift::Routing(drift) => drift.fmt(f),
            Drift::ExtraPassthrough => write!(f, "extra: address {}/128 on lo", crate::ruleset::routing::PASSTHROUGH_V6),
            Drift::ExtraPolicy(PolicyRoute { family, mark, table }) => {
                write!(f, "extra: {family} rule fwmark {mark:#x} lookup {table}")
            }
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as wanted; nothing was written.
    AlreadyInPlace,
    /// It is as wanted now.
    Changed,
}

/// The kernel, as far as a mesh's rules go.
pub struct Kernel {
    backend: Box<dyn Backend>,
    route: Socket,
    deadline: Instant,
}

/// What the kernel holds.
struct Found {
    /// The rules, a rule set for each that is wanted.
    held: Vec<Ruleset>,
    /// The routing that is wanted and not there.
    routing: Vec<RoutingDrift>,
    /// The routing that is there and not wanted.
    stale: Stale,
    /// The families in which `stale` was looked for.
    searched: Vec<Family>,
}

impl Found {
    fn is_as_wanted(&self, wanted: &Wanted) -> bool {
        self.routing.is_empty()
            && self.stale == Stale::default()
            && wanted.rulesets.iter().zip(&self.held).all(|(plan, held)| {
                let ownership = Ownership::of(wanted.mesh, held, Some(plan));
                compare::agrees(plan, held, &ownership)
            })
    }

    fn drift(&self, wanted: &Wanted) -> Vec<Drift> {
        let rules = wanted.rulesets.iter().zip(&self.held).flat_map(|(plan, held)| {
            let ownership = Ownership::of(wanted.mesh, held, Some(plan));
            compare::compare(plan, held, &ownership)
        });
        let routing = self.routing.iter().copied().map(Drift::Routing);
        let address = self.stale.passthrough_v6.then_some(Drift::ExtraPassthrough);
        let policy = self.stale.policies().into_iter().map(Drift::ExtraPolicy);
        rules.map(Drift::Rule).chain(routing).chain(address).chain(policy).collect()
    }
}

/// How long to wait before writing again what somebody else has changed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long putting things back may take when the deadline has passed already.
const UNDO_TIME: Duration = Duration::from_secs(10);

impl Kernel {
    /// The kernel through `backend`; nothing is waited for after `deadline`.
    pub fn new(backend: Box<dyn Backend>, deadline: Instant) -> Result<Kernel, Error> {
        Ok(Kernel { backend, route: route::open(deadline)?, deadline })
    }

    /// The packet filter.
    pub fn backend(&mut self) -> &mut dyn Backend {
        self.backend.as_mut()
    }

    /// The rtnetlink socket.
    pub(super) fn route(&mut self) -> &mut Socket {
        &mut self.route
    }

    /// The local addresses, in the kernel's order.
    pub fn addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        local_addresses(&mut self.route)
    }

    /// How the kernel differs from what is wanted.
    pub fn check(&mut self, wanted: &Wanted) -> Result<Vec<Drift>, Error> {
        let found = self.look(wanted, None)?;
        warn_of_guards(wanted, &found.held);
        Ok(found.drift(wanted))
    }

    /// Brings about what is wanted. On an error everything is as it was before.
    pub fn install(&mut self, wanted: &Wanted) -> Result<Outcome, Error> {
        let found = self.look(wanted, None)?;
        warn_of_guards(wanted, &found.held);
        if found.is_as_wanted(wanted) {
            return Ok(Outcome::AlreadyInPlace);
        }
        let _signals = hold_signals();
        let mut journal = route::Journal::new();
        match self.converge(wanted, found, &mut journal) {
            Ok(()) => {
                self.backend.commit();
                Ok(Outcome::Changed)
            }
            Err(cause) => Err(self.roll_back(cause, journal)),
        }
    }

    /// Writes until the kernel holds what is wanted, which another program's writing may make necessary more than once.
    fn converge(&mut self, wanted: &Wanted, mut found: Found, journal: &mut route::Journal) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            route::ensure(&mut self.route, &wanted.routing, journal)?;
            self.backend.write(wanted.mesh, &wanted.rulesets, &found.held, self.deadline)?;
            route::remove(&mut self.route, &found.stale, journal)?;
            found = self.look(wanted, Some(found.searched))?;
            if found.is_as_wanted(wanted) {
                return Ok(());
            }
            let drift = found.drift(wanted);
            let first = drift.first().map(ToString::to_string).unwrap_or_default();
            debug!("the kernel does not hold what was written: {first}");
            if Instant::now() >= self.deadline {
                return Err(Error::NotHeld { first, more: drift.len().saturating_sub(1) });
            }
            // Whoever writes at the same time gets time to end.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn roll_back(&mut self, cause: Error, journal: route::Journal) -> Error {
        let deadline = Instant::now() + UNDO_TIME;
        let changed = !journal.is_empty() || self.backend.has_written();
        let mut problems: Vec<String> = self.backend.undo(deadline).iter().map(ToString::to_string).collect();
        if !journal.is_empty() {
            match route::open(deadline) {
                Ok(mut socket) => problems.extend(route::roll_back(&mut socket, journal).iter().map(ToString::to_string)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        if problems.is_empty() {
            if changed {
                info!("everything that was changed has been put back");
            }
            return cause;
        }
        Error::NotUndone { cause: Box::new(cause), problems }
    }

    /// Reads everything that can differ. After the first look of a run, `searched` says where stale routing was looked for:
    /// rules that the run itself has written are no reason to look elsewhere.
    fn look(&mut self, wanted: &Wanted, searched: Option<Vec<Family>>) -> Result<Found, Error> {
        let mut held = Vec::new();
        for plan in &wanted.rulesets {
            let needed: Vec<TableName> = plan.tables.iter().map(|table| table.name).collect();
            held.push(self.backend.read(plan.family, &needed)?);
        }
        let routing = route::check(&mut self.route, &wanted.routing)?;
        let searched = searched
            .unwrap_or_else(|| held.iter().filter(|there| may_have_stale_routing(wanted, there)).map(|there| there.family).collect());
        let stale = self.stale(wanted, &held, &searched)?;
        Ok(Found { held, routing, stale, searched })
    }

    /// The routing of the mesh, in the families `searched`, that is there and not wanted: its policy rules (see
    /// [`route::stale_rules`]), and the passthrough address if it is ours or stands beside IPv6 rules of Istio's.
    fn stale(&mut self, wanted: &Wanted, held: &[Ruleset], searched: &[Family]) -> Result<Stale, RouteError> {
        let mut stale = Stale::default();
        for there in held.iter().filter(|there| searched.contains(&there.family)) {
            let marks = there.table(TableName::Mangle).map(owner::divert_marks).unwrap_or_default();
            stale.rules.extend(route::stale_rules(&mut self.route, there.family, &wanted.routing.policy, &marks)?);
            if there.family == Family::V6 && !wanted.routing.passthrough_v6 {
                let protocol = route::passthrough_v6_protocol(&mut self.route)?;
                let istio_is_here = owner::is_present(wanted.mesh, there);
                stale.passthrough_v6 = protocol.is_some_and(|protocol| protocol == OUR_PROTOCOL || istio_is_here);
            }
        }
        Ok(stale)
    }
}

/// Rules that stop all traffic, as istio-iptables puts in while it reconciles, are foreign where nothing else tells of it.
fn warn_of_guards(wanted: &Wanted, held: &[Ruleset]) {
    for there in held {
        let guards = there.table(TableName::Filter).filter(|filter| owner::is_guarded(filter));
        if let Some(filter) = guards.filter(|filter| !Ownership::of(wanted.mesh, there, None).owns_any(filter)) {
            warn!(
                "the {} {} rules begin by dropping all TCP and UDP; if an interrupted istio-iptables left that, take it out: \
                 the pod has no traffic",
                there.family, filter.name
            );
        }
    }
}

/// The local addresses, in the kernel's order; nothing is waited for after `deadline`.
pub fn addresses(deadline: Instant) -> Result<Vec<IpAddr>, Error> {
    local_addresses(&mut route::open(deadline)?)
}

fn local_addresses(socket: &mut Socket) -> Result<Vec<IpAddr>, Error> {
    Ok(route::addresses(socket)?.into_iter().map(|found| found.address).collect())
}

/// Whether stale routing is worth looking for in the family of `there`. Each look asks the kernel for whole lists, which
/// a plan of REDIRECT rules alone, in a pod that Istio was never in, need not pay for: what was left without Istio's
/// rules is found when the mesh is removed or TPROXY is at work.
fn may_have_stale_routing(wanted: &Wanted, there: &Ruleset) -> bool {
    let plan = wanted.rulesets.iter().find(|plan| plan.family == there.family);
    let mangle = |rules: &Ruleset| rules.table(TableName::Mangle).is_some();
    wanted.mesh == Mesh::Istio && (wanted.removal || plan.is_some_and(mangle) || mangle(there) || owner::is_present(wanted.mesh, there))
}
