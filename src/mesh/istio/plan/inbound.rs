//! Incoming connections, and interfaces that are special in either direction.

use super::{DIVERT, DROP, IN_REDIRECT, INBOUND, InboundPorts, REDIRECT, Rules, TPROXY, jump};
use crate::mesh::matches::{from_interface, not_destination, port, ports, tcp, to_interface};
use crate::ruleset::{Condition, MarkMask, Match, PortRange, Rule, StateSet, TableName, Target};

/// `-m conntrack --ctstate RELATED,ESTABLISHED`
fn known_connection() -> Match {
    Condition::State(StateSet::RELATED.union(StateSet::ESTABLISHED)).into()
}

impl Rules<'_> {
    /// Nothing is captured on excluded interfaces.
    pub(super) fn exclude_interfaces(&mut self) {
        let options = self.options;
        let tables: &[TableName] = if self.tproxy() { &[TableName::Nat, TableName::Mangle] } else { &[TableName::Nat] };
        for table in tables {
            for name in &options.exclude_interfaces {
                self.append(*table, "PREROUTING", [from_interface(name)], Target::Return);
                self.append(*table, "OUTPUT", [to_interface(name)], Target::Return);
            }
        }
    }

    /// What comes from inside the pod is not incoming, whatever else is done with it.
    pub(super) fn pass_virtual_interfaces(&mut self) {
        let interfaces = self.options.reroute_virtual_interfaces.iter();
        self.prepend_prerouting(interfaces.map(|name| Rule::new([from_interface(name)], Target::Return)).collect());
    }

    /// Out-of-window packets would make the kernel reset the proxied connection.
    pub(super) fn drop_invalid(&mut self) {
        if self.options.drop_invalid {
            self.append(TableName::Mangle, "PREROUTING", [Condition::State(StateSet::INVALID).into()], jump(DROP));
            self.append(TableName::Mangle, DROP, [], Target::Drop);
        }
    }

    /// The chains that end at the proxy, and the tunnel's exemption; there even when nothing jumps to them.
    pub(super) fn define_redirects(&mut self) {
        let options = self.options;
        self.append(TableName::Nat, INBOUND, [tcp(), port(options.inbound_tunnel_port)], Target::Return);
        self.append(TableName::Nat, REDIRECT, [tcp()], Target::Redirect(options.proxy_port));
        self.append(TableName::Nat, IN_REDIRECT, [tcp()], Target::Redirect(options.inbound_capture_port));
    }

    /// Incoming connections go to the proxy.
    pub(super) fn capture_inbound(&mut self) {
        let options = self.options;
        if options.inbound_ports_include == InboundPorts::None {
            return;
        }
        if self.tproxy() {
            self.define_tproxy();
        }
        let table = if self.tproxy() { TableName::Mangle } else { TableName::Nat };
        self.append(table, "PREROUTING", [tcp()], jump(INBOUND));
        match &options.inbound_ports_include {
            InboundPorts::None => {}
            InboundPorts::All => {
                for range in &options.inbound_ports_exclude {
                    self.append(table, INBOUND, [tcp(), ports(*range)], Target::Return);
                }
                self.capture_ports(None);
            }
            InboundPorts::Only(list) => list.iter().for_each(|range| self.capture_ports(Some(*range))),
        }
    }

    /// The chains that mark a packet of a known connection, and that give a new one to the proxy's socket.
    fn define_tproxy(&mut self) {
        let mark = MarkMask::full(self.options.inbound_tproxy_mark);
        let target = Target::Tproxy { port: self.options.inbound_capture_port, mark };
        self.append(TableName::Mangle, DIVERT, [], Target::Mark(mark));
        self.append(TableName::Mangle, DIVERT, [], Target::Accept);
        self.append(TableName::Mangle, TPROXY, [not_destination(self.loopback()), tcp()], target);
    }

    /// `range`, or every port, is captured.
    fn capture_ports(&mut self, range: Option<PortRange>) {
        let matches = || [tcp()].into_iter().chain(range.map(ports));
        if self.tproxy() {
            let known = Rule::new(matches().chain([known_connection()]), jump(DIVERT));
            self.append_rule(TableName::Mangle, INBOUND, known);
            self.append_rule(TableName::Mangle, INBOUND, Rule::new(matches(), jump(TPROXY)));
        } else {
            self.append_rule(TableName::Nat, INBOUND, Rule::new(matches(), jump(IN_REDIRECT)));
        }
    }
}
