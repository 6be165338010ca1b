//! What a mesh is to have in the kernel, and how the kernel may differ from that.

use std::fmt;

use super::backend::Form;
use super::route::RoutingDrift;
use crate::ruleset::{Difference, Family, Mesh, PolicyRoute, Routing, Ruleset};

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
    /// Nothing of the mesh.
    pub fn nothing(mesh: Mesh) -> Wanted {
        Wanted { mesh, rulesets: Family::ALL.map(Ruleset::new).to_vec(), routing: Routing::default(), removal: true }
    }

    /// The rule sets with rules in them.
    pub fn planned(&self) -> impl Iterator<Item = &Ruleset> {
        self.rulesets.iter().filter(|plan| !plan.tables.is_empty())
    }

    /// Whether anything is planned for `family`.
    pub fn plans(&self, family: Family) -> bool {
        self.planned().any(|plan| plan.family == family)
    }

    /// Wants nothing of IPv6, not even what is there from before looked at.
    pub fn leave_ipv6_out(&mut self) {
        self.rulesets.retain(|ruleset| ruleset.family != Family::V6);
        self.routing.policy.retain(|policy| policy.family != Family::V6);
        self.routing.passthrough_v6 = false;
    }
}

/// One way in which the kernel is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// A rule, a chain or a policy.
    Rule(Difference),
    /// A rule or a chain where there should be none, since the mesh's rules are somewhere else.
    Elsewhere {
        /// Where.
        form: Form,
        /// What.
        difference: Difference,
    },
    /// A table or a chain that does not catch what it should.
    Fault(String),
    /// Something else that keeps packets from the proxy, such as a foreign rule.
    Finding(String),
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
            Drift::Elsewhere { form, difference } => write!(f, "{difference} (in {})", form.describe()),
            Drift::Fault(fault) => write!(f, "changed: {fault}"),
            Drift::Finding(text) => f.write_str(text),
            Drift::Routing(drift) => drift.fmt(f),
            Drift::ExtraPassthrough => write!(f, "extra: address {}/128 on lo", crate::ruleset::routing::PASSTHROUGH_V6),
            Drift::ExtraPolicy(PolicyRoute { family, mark, table }) => {
                write!(f, "extra: {family} rule fwmark {mark:#x} lookup {table}")
            }
        }
    }
}
