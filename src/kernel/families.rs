//! Whether IPv6 takes part.

use super::route::{self, Ipv6State};
use super::{Error, Kernel, Wanted};
use crate::ruleset::{Family, Ruleset, TableName};

/// Fits the IPv6 part of what is wanted to the kernel; why it is left out, if it is.
///
/// - No IPv6 in the kernel: left out.
/// - No IPv6 packet filter, and only loopback and link-local addresses: left out.
/// - No IPv6 packet filter, but a global address whose traffic is wanted: the filter's error.
///
/// Where IPv6 is not wanted, rules of the mesh that are left there from before are not wanted either.
pub fn settle_ipv6(kernel: &mut Kernel, wanted: &mut Wanted) -> Result<Option<String>, Error> {
    let Some(plan) = wanted.rulesets.iter().find(|ruleset| ruleset.family == Family::V6) else {
        wanted.rulesets.push(Ruleset::new(Family::V6));
        return Ok(None);
    };
    let needed: Vec<TableName> = plan.tables.iter().map(|table| table.name).collect();
    let absent = match kernel.backend().probe(Family::V6, &needed) {
        Ok(()) if route::has_ipv6() => return Ok(None),
        Err(error) if !error.is_filter_absent() => return Err(error),
        answer => answer.err(),
    };
    let reason = match (route::ipv6_state(kernel.route())?, absent) {
        (Ipv6State::Absent, _) => "IPv6 is left out: the kernel has no IPv6".to_owned(),
        (Ipv6State::Global(_), Some(error)) => return Err(error),
        (Ipv6State::LocalOnly, Some(error)) => format!("IPv6 is left out, for which the pod has no global address: {error}"),
        (_, None) => return Ok(None),
    };
    leave_out(wanted);
    Ok(Some(reason))
}

fn leave_out(wanted: &mut Wanted) {
    wanted.rulesets.retain(|ruleset| ruleset.family != Family::V6);
    wanted.routing.policy.retain(|policy| policy.family != Family::V6);
    wanted.routing.passthrough_v6 = false;
}
