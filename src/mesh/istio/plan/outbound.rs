//! Outgoing connections.

use super::{DNS_PORT, IN_REDIRECT, OUTPUT, REDIRECT, Rules, jump};
use crate::mesh::istio::facts::{Dns, Owners};
use crate::mesh::istio::options::OutboundRanges;
use crate::mesh::matches::{destination, from_interface, gid, not_destination, not_port, ports, source, tcp, to_loopback, udp, uid};
use crate::ruleset::{Condition, Match, PortRange, Rule, TableName, Target};

impl Rules<'_> {
    /// Appends to nat ISTIO_OUTPUT.
    fn output<const N: usize>(&mut self, matches: [Match; N], target: Target) {
        self.append(TableName::Nat, OUTPUT, matches, target);
    }

    /// All protocols take the way through ISTIO_OUTPUT; excluded ports leave it at once.
    pub(super) fn exclude_outbound_ports(&mut self) {
        self.append(TableName::Nat, "OUTPUT", [], jump(OUTPUT));
        for range in &self.options.outbound_ports_exclude {
            self.output([tcp(), ports(*range)], Target::Return);
            self.output([udp(), ports(*range)], Target::Return);
        }
    }

    /// The proxy's own traffic passes, save where it calls the application that it stands for.
    pub(super) fn pass_proxy(&mut self) {
        self.output([to_loopback(), source(self.passthrough())], Target::Return);
        let facts = self.facts;
        for id in &facts.uids {
            // With DNS captured, the agent's queries to a server on this host must not come back as incoming ones.
            let not_incoming = match &facts.dns {
                Dns::Off => not_port(self.options.inbound_tunnel_port),
                Dns::All | Dns::Servers(_) => {
                    !Condition::DestinationPorts([DNS_PORT, self.options.inbound_tunnel_port].map(PortRange::single).into())
                }
            };
            self.pass_owner(uid(*id), not_incoming);
        }
        for id in &facts.gids {
            self.pass_owner(gid(*id), not_port(self.options.inbound_tunnel_port));
        }
    }

    /// The three rules for one user or group of the proxy: calls to itself come in through the proxy, the
    /// application's calls to itself pass, and whatever else the proxy sends passes.
    fn pass_owner(&mut self, owner: Match, not_incoming: Match) {
        let others = Match { negated: true, condition: owner.condition.clone() };
        self.output([to_loopback(), not_destination(self.loopback()), tcp(), not_incoming, owner.clone()], jump(IN_REDIRECT));
        if !self.loopback_included() {
            match self.facts.dns {
                Dns::Off => self.output([to_loopback(), others], Target::Return),
                Dns::All | Dns::Servers(_) => self.output([to_loopback(), tcp(), not_port(DNS_PORT), others], Target::Return),
            }
        }
        self.output([owner], Target::Return);
    }

    /// Whether a destination to capture is given by a loopback address, of either family.
    fn loopback_included(&self) -> bool {
        match &self.options.outbound_ip_ranges_include {
            OutboundRanges::All => false,
            OutboundRanges::Only(nets) => nets.iter().any(|net| net.addr().to_canonical().is_loopback()),
        }
    }

    /// Groups whose traffic is not captured.
    pub(super) fn pass_owner_groups(&mut self) {
        match &self.facts.owners {
            Owners::AllBut(groups) => groups.iter().for_each(|group| self.output([gid(*group)], Target::Return)),
            Owners::Only(groups) => {
                let in_none = groups.iter().map(|group| !Condition::Gid(*group));
                self.append_rule(TableName::Nat, OUTPUT, Rule::new(in_none, Target::Return));
            }
        }
    }

    /// The pod itself and excluded destinations.
    pub(super) fn exclude_destinations(&mut self) {
        self.output([destination(self.loopback())], Target::Return);
        for net in self.own(&self.options.outbound_ip_ranges_exclude) {
            self.output([destination(net)], Target::Return);
        }
    }

    /// Ports that are captured whatever the address.
    pub(super) fn capture_outbound_ports(&mut self) {
        for range in &self.options.outbound_ports_include {
            self.output([tcp(), ports(*range)], jump(REDIRECT));
        }
    }

    /// Destinations that are captured, for the pod and for what runs inside it.
    pub(super) fn capture_destinations(&mut self) {
        let options = self.options;
        match &options.outbound_ip_ranges_include {
            OutboundRanges::All => {
                self.output([], jump(REDIRECT));
                let interfaces = options.reroute_virtual_interfaces.iter();
                self.prepend_prerouting(interfaces.map(|name| Rule::new([from_interface(name)], jump(REDIRECT))).collect());
            }
            OutboundRanges::Only(nets) => {
                let mut from_virtual = Vec::new();
                for net in self.own(nets) {
                    let rule = |name| Rule::new([from_interface(name), destination(net)], jump(REDIRECT));
                    from_virtual.extend(options.reroute_virtual_interfaces.iter().map(rule));
                    self.output([destination(net)], jump(REDIRECT));
                }
                self.prepend_prerouting(from_virtual);
            }
        }
    }
}
