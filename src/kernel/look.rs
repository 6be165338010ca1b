//! What there is: the rules and the routing that a mesh may have, read from every packet filter.

use std::net::IpAddr;
use std::time::Instant;

use tracing::{debug, warn};

use super::backend::{BackendName, Form, Held, Look};
use super::error::Error;
use super::found::Found;
use super::guard::{self, Taking};
use super::install::Kernel;
use super::netlink::Socket;
use super::route::{self, OUR_PROTOCOL, RouteError, Stale};
use super::wanted::Wanted;
use crate::ruleset::walk::{Layers, Pod};
use crate::ruleset::{Family, Mesh, NftTable, Ownership, Ruleset, TableName, Target, owner};

/// What the packet filters hold.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// What there is in tables that a mesh's rules may be in, by family and form.
    pub held: Vec<Held>,
    /// All tables of nf_tables.
    pub tables: Vec<NftTable>,
}

impl Live {
    /// The rules of `family` in the order in which packets meet them.
    pub fn layers(&self, family: Family) -> Layers<'_> {
        Layers::new(family, self.legacy(family).map(|held| &held.ruleset), &self.tables)
    }

    /// What the legacy packet filter holds of `family`.
    pub(super) fn legacy(&self, family: Family) -> Option<&Held> {
        self.held.iter().find(|held| held.form == Form::Legacy && held.ruleset.family == family)
    }
}

impl Kernel {
    /// The local addresses, in the kernel's order.
    pub fn addresses(&mut self) -> Result<Vec<IpAddr>, Error> {
        local_addresses(&mut self.route)
    }

    /// What matters to packets besides the rules: the local addresses, and the marks that have a route to lo.
    pub fn pod(&mut self) -> Result<Pod, Error> {
        let mut policy = Vec::new();
        for family in Family::ALL {
            let rules = route::rules(&mut self.route, family)?;
            for found in rules.iter().filter_map(route::Rule::policy) {
                if route::has_route(&mut self.route, &found)? {
                    policy.push(found);
                }
            }
        }
        Ok(Pod { addresses: self.addresses()?, policy })
    }

    /// Reads everything that can differ. After the first look of a run, `searched` says where stale routing was looked for:
    /// rules that the run itself has written are no reason to look elsewhere.
    pub(super) fn look(
        &mut self,
        wanted: &Wanted,
        look: Look,
        needed: &[(Family, TableName)],
        searched: Option<Vec<Family>>,
    ) -> Result<Found, Error> {
        let mut held = Vec::new();
        for plan in &wanted.rulesets {
            for backend in &mut self.backends {
                let needed = needed_of(backend.name(), plan.family, needed);
                match backend.read(plan.family, &needed, look) {
                    Ok(there) => held.extend(there),
                    Err(error) if error.is_filter_absent() && needed.is_empty() => debug!("{error}"),
                    Err(error) => return Err(error),
                }
            }
        }
        let routing = route::check(&mut self.route, &wanted.routing)?;
        let searched = searched.unwrap_or_else(|| {
            let families = wanted.rulesets.iter().map(|plan| plan.family);
            families.filter(|family| may_have_stale_routing(wanted, *family, &held)).collect()
        });
        let stale = self.stale(wanted, &held, &searched)?;
        Ok(Found { held, routing, stale, searched })
    }

    /// The routing of the mesh, in the families `searched`, that is there and not wanted: its policy rules (see
    /// [`route::stale_rules`]), and the passthrough address if it is ours or stands beside IPv6 rules of Istio's.
    fn stale(&mut self, wanted: &Wanted, held: &[Held], searched: &[Family]) -> Result<Stale, RouteError> {
        let mut stale = Stale::default();
        for family in searched {
            let there = || held.iter().filter(|held| held.ruleset.family == *family);
            let marks: Vec<u32> = there().filter_map(|held| held.ruleset.table(TableName::Mangle)).flat_map(owner::divert_marks).collect();
            stale.rules.extend(route::stale_rules(&mut self.route, *family, &wanted.routing.policy, &marks)?);
            if *family == Family::V6 && !wanted.routing.passthrough_v6 {
                let protocol = route::passthrough_v6_protocol(&mut self.route)?;
                let istio_is_here = there().any(|held| held.has(wanted.mesh));
                stale.passthrough_v6 = protocol.is_some_and(|protocol| protocol == OUR_PROTOCOL || istio_is_here);
            }
        }
        Ok(stale)
    }

    /// Everything that the packet filters hold in tables that a mesh's rules may be in, foreign rules included; and all
    /// tables of nf_tables, to be shown.
    pub fn live(&mut self) -> Result<Live, Error> {
        self.all(Look::Everything, &[])
    }

    /// What in the packet filters takes packets away from what is wanted. `needed` are legacy tables that are there by now, if
    /// they were not when the first look was taken.
    pub(super) fn takings(&mut self, wanted: &Wanted, look: Look, needed: &[(Family, TableName)]) -> Result<Vec<Taking>, Error> {
        let (live, pod) = (self.all(look, needed)?, self.pod()?);
        Ok(wanted.planned().flat_map(|plan| guard::takings(plan, &wanted.routing, &live, &pod)).collect())
    }

    fn all(&mut self, look: Look, needed: &[(Family, TableName)]) -> Result<Live, Error> {
        let mut live = Live::default();
        for family in Family::ALL {
            for backend in &mut self.backends {
                let needed = needed_of(backend.name(), family, needed);
                match backend.read(family, &needed, look) {
                    Ok(held) => live.held.extend(held),
                    Err(error) if error.is_filter_absent() => debug!("{error}"),
                    Err(error) => return Err(error),
                }
            }
        }
        for backend in &mut self.backends {
            match backend.tables() {
                Ok(tables) => live.tables.extend(tables),
                Err(error) if error.is_filter_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(live)
    }
}

/// The tables of `needed` that a backend is to be asked for: only legacy tables come into being by that.
fn needed_of(backend: BackendName, family: Family, needed: &[(Family, TableName)]) -> Vec<TableName> {
    let is_asked = |of: &Family| backend == BackendName::Legacy && *of == family;
    needed.iter().filter(|(of, _)| is_asked(of)).map(|(_, table)| *table).collect()
}

/// Rules that stop all traffic, as istio-iptables puts in while it reconciles, are foreign where nothing else tells of it.
pub(super) fn warn_of_guards(wanted: &Wanted, held: &[Held]) {
    for there in held.iter().filter(|held| matches!(held.form, Form::Legacy | Form::IptablesNft)) {
        let guards = there.ruleset.table(TableName::Filter).filter(|filter| owner::is_guarded(filter));
        if let Some(filter) = guards.filter(|filter| !Ownership::of(wanted.mesh, &there.ruleset, None).owns_any(filter)) {
            warn!(
                "the {} {} rules begin by dropping all TCP and UDP; if an interrupted istio-iptables left that, take it out: \
                 the pod has no traffic",
                there.ruleset.family, filter.name
            );
        }
    }
}

/// Foreign rules that exempted packets from the mesh's rules behind them, as long as these were in the same chain; in nf_tables
/// the verdict of a chain ends that chain alone. A sentence for each chain of `plans` that has them.
pub(super) fn lost_exemptions<'a>(mesh: Mesh, plans: impl Iterator<Item = &'a Ruleset>, held: &[Held]) -> Vec<String> {
    let mut sentences = Vec::new();
    for plan in plans {
        let of_family = |held: &&Held| held.ruleset.family == plan.family && matches!(held.form, Form::Legacy | Form::IptablesNft);
        for held in held.iter().filter(of_family) {
            let ownership = held.ownership(mesh, Some(plan));
            for table in &held.ruleset.tables {
                for chain in table.chains.iter().filter(|chain| chain.base.is_some()) {
                    let owned = |index: &usize| ownership.owns_rule(table.name, chain, *index);
                    let before = (0..chain.rules.len()).rposition(|index| owned(&index)).unwrap_or_default();
                    let exempts = |index: &usize| !owned(index) && matches!(chain.rules[*index].target, Target::Accept | Target::Return);
                    if (0..before).any(|index| exempts(&index)) {
                        sentences.push(format!(
                            "foreign rules of {} {} {} in {} accept packets before the mesh's rules see them; they no longer do, since in nf_tables \
                             that ends their own chain alone: exclude such packets by the mesh's flags",
                            plan.family,
                            table.name,
                            chain.name,
                            held.form.describe()
                        ));
                    }
                }
            }
        }
    }
    sentences
}

/// The local addresses, in the kernel's order; nothing is waited for after `deadline`.
pub fn addresses(deadline: Instant) -> Result<Vec<IpAddr>, Error> {
    local_addresses(&mut route::open(deadline)?)
}

fn local_addresses(socket: &mut Socket) -> Result<Vec<IpAddr>, Error> {
    Ok(route::addresses(socket)?.into_iter().map(|found| found.address).collect())
}

/// Whether stale routing is worth looking for in a family. Each look asks the kernel for whole lists, which a plan of
/// REDIRECT rules alone, in a pod that Istio was never in, need not pay for: what was left without Istio's rules is found
/// when the mesh is removed or TPROXY is at work.
fn may_have_stale_routing(wanted: &Wanted, family: Family, held: &[Held]) -> bool {
    let plan = wanted.rulesets.iter().find(|plan| plan.family == family);
    let mangle = |rules: &Ruleset| rules.table(TableName::Mangle).is_some();
    let there = || held.iter().filter(|held| held.ruleset.family == family);
    wanted.mesh == Mesh::Istio
        && (wanted.removal || plan.is_some_and(mangle) || there().any(|held| mangle(&held.ruleset) || held.has(wanted.mesh)))
}
