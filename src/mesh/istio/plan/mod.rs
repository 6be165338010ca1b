//! Istio's rules. One file a direction of traffic; what both families share is written once, over [`Rules`], which
//! knows what differs between them.
//!
//! The order of the calls in [`rules`] is the order in which the original appends its rules, and packets meet them so.

mod dns;
mod inbound;
mod outbound;
mod tproxy;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::facts::Facts;
use super::options::{InboundPorts, InterceptionMode, Options};
use crate::host::Surroundings;
use crate::mesh::{Error, Mesh, Plan};
use crate::ruleset::routing::PASSTHROUGH_V6;
use crate::ruleset::{Family, Match, PolicyRoute, Routing, Rule, Ruleset, TableName, Target};

const INBOUND: &str = "ISTIO_INBOUND";
const OUTPUT: &str = "ISTIO_OUTPUT";
const OUTPUT_DNS: &str = "ISTIO_OUTPUT_DNS";
const REDIRECT: &str = "ISTIO_REDIRECT";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const DIVERT: &str = "ISTIO_DIVERT";
const TPROXY: &str = "ISTIO_TPROXY";
const DROP: &str = "ISTIO_DROP";

/// Where DNS servers listen.
const DNS_PORT: u16 = 53;

/// What istio-iptables would leave in the kernel with `options` in these `surroundings`.
pub fn plan(options: &Options, surroundings: &Surroundings) -> Result<Plan, Error> {
    let facts = Facts::new(options, surroundings)?;
    let families = if facts.ipv6 { &Family::ALL[..] } else { &[Family::V4] };
    let marked = options.inbound_interception_mode == InterceptionMode::Tproxy && options.inbound_ports_include != InboundPorts::None;
    let route =
        |family: &Family| PolicyRoute { family: *family, mark: options.inbound_tproxy_mark, table: options.inbound_tproxy_route_table };
    Ok(Plan {
        mesh: Mesh::Istio,
        rulesets: families.iter().map(|family| rules(*family, options, &facts)).collect(),
        routing: Routing { passthrough_v6: facts.ipv6, policy: if marked { families.iter().map(route).collect() } else { Vec::new() } },
        warnings: options.warnings.iter().chain(&facts.warnings).cloned().collect(),
    })
}

/// The rules of one family.
fn rules(family: Family, options: &Options, facts: &Facts) -> Ruleset {
    let mut rules = Rules { options, facts, family, set: Ruleset::new(family) };
    rules.exclude_interfaces();
    rules.pass_virtual_interfaces();
    rules.drop_invalid();
    rules.define_redirects();
    rules.capture_inbound();
    rules.exclude_outbound_ports();
    rules.pass_proxy();
    rules.pass_owner_groups();
    rules.capture_dns();
    rules.exclude_destinations();
    rules.capture_outbound_ports();
    rules.capture_destinations();
    if rules.tproxy() {
        rules.mark_tproxied();
    }
    rules.set
}

/// One family's rules in the making.
struct Rules<'a> {
    options: &'a Options,
    facts: &'a Facts,
    family: Family,
    set: Ruleset,
}

impl Rules<'_> {
    /// Appends a rule; a chain that it jumps to is there afterwards, if only empty.
    fn append<const N: usize>(&mut self, table: TableName, chain: &str, matches: [Match; N], target: Target) {
        self.append_rule(table, chain, Rule::new(matches, target));
    }

    fn append_rule(&mut self, table: TableName, chain: &str, rule: Rule) {
        let table = self.set.table_mut(table);
        if let Target::Jump(called) = &rule.target {
            table.chain_mut(called);
        }
        table.chain_mut(chain).rules.push(rule);
    }

    /// Inserts each rule before all others of nat PREROUTING, foreign ones included.
    fn prepend_prerouting(&mut self, rules: Vec<Rule>) {
        if !rules.is_empty() {
            self.set.table_mut(TableName::Nat).chain_mut("PREROUTING").insert_each_first(rules);
        }
    }

    fn tproxy(&self) -> bool {
        self.options.inbound_interception_mode == InterceptionMode::Tproxy
    }

    /// The pod itself: `127.0.0.1/32` unless told otherwise, `::1/128`.
    fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => self.options.host_ipv4_loopback_cidr.into(),
            Family::V6 => host(Ipv6Addr::LOCALHOST.into()),
        }
    }

    /// The source of connections that the proxy passes on to the application.
    fn passthrough(&self) -> IpNet {
        host(match self.family {
            Family::V4 => Ipv4Addr::new(127, 0, 0, 6).into(),
            Family::V6 => PASSTHROUGH_V6.into(),
        })
    }

    /// Those of `nets` that are of this family.
    fn own<'n>(&self, nets: &'n [IpNet]) -> impl Iterator<Item = IpNet> + use<'n> {
        let family = self.family;
        nets.iter().copied().filter(move |net| Family::of(net) == family)
    }
}

/// `-j CHAIN`
fn jump(chain: &str) -> Target {
    Target::Jump(chain.to_owned())
}

/// The prefix that holds one address.
fn host(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
        IpAddr::V6(v6) => Ipv6Net::from(v6).into(),
    }
}

#[cfg(test)]
mod tests;
