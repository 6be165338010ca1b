//! Linkerd's rules.

use super::options::Options;
use crate::host::Surroundings;
use crate::mesh::matches::{gid, port, source, tcp, to_loopback, uid};
use crate::mesh::{Error, Mesh, Plan, address};
use crate::ruleset::{Condition, Family, IdRange, PortRange, Routing, Rule, Ruleset, TableName, Target};

const REDIRECT: &str = "PROXY_INIT_REDIRECT";
const OUTPUT: &str = "PROXY_INIT_OUTPUT";

/// How many ports one multiport match holds, a range counting as two.
const MULTIPORT_MAX: usize = 15;

/// What linkerd2-proxy-init would leave in the kernel with `options` in these `surroundings`.
pub fn plan(options: &Options, surroundings: &Surroundings) -> Result<Plan, Error> {
    let families = if options.ipv6 { &Family::ALL[..] } else { &[Family::V4] };
    let mut warnings = options.warnings.clone();
    if let (false, Some(address)) = (options.ipv6, address::first_global_v6(&surroundings.addresses)) {
        warnings.push(format!("IPv6 traffic is not captured although the pod has the address {address}; pass --ipv6=true to capture it"));
    }
    Ok(Plan {
        mesh: Mesh::Linkerd,
        rulesets: families.iter().map(|family| rules(*family, options)).collect(),
        routing: Routing::default(),
        warnings,
    })
}

/// The rules of one family.
fn rules(family: Family, options: &Options) -> Ruleset {
    let mut set = Ruleset::new(family);
    let nat = set.table_mut(TableName::Nat);
    nat.chain_mut(REDIRECT).rules = inbound(family, options);
    nat.chain_mut(OUTPUT).rules = outbound(options);
    nat.chain_mut("PREROUTING")
        .rules
        .push(Rule::new([], Target::Jump(REDIRECT.to_owned())).with_comment(comment("install-proxy-init-prerouting")));
    nat.chain_mut("OUTPUT").rules.push(Rule::new([], Target::Jump(OUTPUT.to_owned())).with_comment(comment("install-proxy-init-output")));
    set
}

fn comment(text: impl std::fmt::Display) -> String {
    format!("proxy-init/{text}")
}

/// Incoming connections: exceptions, then the proxy.
fn inbound(family: Family, options: &Options) -> Vec<Rule> {
    let to_proxy = Target::Redirect(options.incoming_proxy_port);
    let mut rules = ignored_ports(&options.inbound_ports_to_ignore);
    rules.extend(options.subnets_to_ignore.iter().filter(|subnet| Family::of(&subnet.net) == family).map(|subnet| {
        Rule::new([source(subnet.net)], Target::Return).with_comment(comment(format_args!("ignore-subnet-{}", subnet.text)))
    }));
    if options.ports_to_redirect.is_empty() {
        rules.push(Rule::new([tcp()], to_proxy).with_comment(comment("redirect-all-incoming-to-proxy-port")));
    } else {
        rules.extend(options.ports_to_redirect.iter().map(|number| {
            Rule::new([tcp(), port(*number)], to_proxy.clone()).with_comment(comment(format_args!("redirect-port-{number}-to-proxy-port")))
        }));
    }
    rules
}

/// Outgoing connections: the proxy's own, those inside the pod, exceptions, then the proxy.
fn outbound(options: &Options) -> Vec<Rule> {
    let user =
        options.proxy_uid.map(|id| Rule::new([uid(IdRange::single(id))], Target::Return).with_comment(comment("ignore-proxy-user-id")));
    let group =
        options.proxy_gid.map(|id| Rule::new([gid(IdRange::single(id))], Target::Return).with_comment(comment("ignore-proxy-group-id")));
    let mut rules: Vec<Rule> = user.into_iter().chain(group).collect();
    rules.push(Rule::new([to_loopback()], Target::Return).with_comment(comment("ignore-loopback")));
    rules.extend(ignored_ports(&options.outbound_ports_to_ignore));
    let to_proxy = Target::Redirect(options.outgoing_proxy_port);
    rules.push(Rule::new([tcp()], to_proxy).with_comment(comment("redirect-all-outgoing-to-proxy-port")));
    rules
}

/// One rule for each group of ports that multiport can hold.
fn ignored_ports(ports: &[PortRange]) -> Vec<Rule> {
    groups(ports)
        .into_iter()
        .map(|group| {
            let list = group.iter().map(PortRange::to_string).collect::<Vec<_>>().join(",");
            Rule::new([tcp(), Condition::DestinationPorts(group).into()], Target::Return)
                .with_comment(comment(format_args!("ignore-port-{list}")))
        })
        .collect()
}

/// `ports` in order, in groups that are as large as multiport allows.
fn groups(ports: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut groups: Vec<Vec<PortRange>> = Vec::new();
    let mut room = 0;
    for range in ports {
        let size = if range.is_range() { 2 } else { 1 };
        match groups.last_mut() {
            Some(group) if size <= room => group.push(*range),
            _ => {
                groups.push(vec![*range]);
                room = MULTIPORT_MAX;
            }
        }
        room -= size;
    }
    groups
}

#[cfg(test)]
mod tests;
