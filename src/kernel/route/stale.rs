//! What a mesh has left in the kernel's routing and needs no longer: whose a policy rule is, and taking it away.

use super::journal::Journal;
use super::rule::{self, Rule, rules};
use super::{RouteError, local, remove_passthrough_v6};
use crate::kernel::netlink::Socket;
use crate::ruleset::{Family, PolicyRoute};

/// Routing that is there and not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// Whether the passthrough address is to go.
    pub passthrough_v6: bool,
    /// The policy rules that are to go, each with the route that only it leads to.
    pub rules: Vec<Rule>,
}

impl Stale {
    /// What the rules ask for, each thing once.
    pub fn policies(&self) -> Vec<PolicyRoute> {
        let mut policies = Vec::new();
        for policy in self.rules.iter().filter_map(Rule::policy) {
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        policies
    }
}

/// The policy rules of `family` that are the mesh's and not among `wanted`. `marks` are those that the mesh's rules in
/// the packet filter set or test.
///
/// A rule of our own says so, whatever its mark and table: that finds also what a run left that was killed. The original
/// tool's rules (and ours on kernels before 4.17) name nobody. They are known by a mark in `marks` and a table that
/// holds the local default route alone, as long as the mark has no rule of ours and none is wanted for it: beside those,
/// other rules for the mark are somebody else's.
pub fn stale_rules(socket: &mut Socket, family: Family, wanted: &[PolicyRoute], marks: &[u32]) -> Result<Vec<Rule>, RouteError> {
    let listed = rules(socket, family)?;
    let has_mark = |policy: &PolicyRoute, mark: u32| policy.family == family && policy.mark == mark;
    let is_claimed = |mark: u32| {
        let ours = listed.iter().filter(|rule| rule.is_ours()).filter_map(Rule::policy);
        ours.chain(wanted.iter().copied()).any(|policy| has_mark(&policy, mark))
    };
    let unclaimed: Vec<u32> = marks.iter().copied().filter(|mark| !is_claimed(*mark)).collect();
    let mut stale = Vec::new();
    for rule in listed {
        let Some(policy) = rule.policy().filter(|policy| !wanted.contains(policy)) else { continue };
        let of_original = rule.names_nobody() && unclaimed.contains(&policy.mark);
        if rule.is_ours() || (of_original && local::is_for_policy_alone(socket, &policy)?) {
            stale.push(rule);
        }
    }
    Ok(stale)
}

/// Takes away what of `stale` is there: the routes that no other rule leads to, from tables that hold nothing else; then
/// the rules; the address last.
///
/// The routes go before the rules, so that whatever a run leaves that is killed in between, a rule of ours leads to it.
pub fn remove(socket: &mut Socket, stale: &Stale, journal: &mut Journal) -> Result<(), RouteError> {
    for family in Family::ALL {
        let extra: Vec<Rule> = stale.rules.iter().filter(|rule| rule.family == family).cloned().collect();
        if extra.is_empty() {
            continue;
        }
        let listed = rules(socket, family)?;
        let mut emptied = Vec::new();
        for policy in extra.iter().filter_map(Rule::policy) {
            let still_used = listed.iter().any(|rule| rule.table == policy.table && !extra.contains(rule));
            if !still_used && !emptied.contains(&policy.table) {
                emptied.push(policy.table);
                local::remove_sole_route(socket, &policy, journal)?;
            }
        }
        rule::delete(socket, &extra, listed, journal)?;
    }
    if stale.passthrough_v6 {
        remove_passthrough_v6(socket, journal)?;
    }
    Ok(())
}
