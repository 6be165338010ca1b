//! DNS queries: to the proxy's resolver, and its own queries in a connection tracking zone apart.

use ipnet::IpNet;

use super::{DNS_PORT, INBOUND, OUTPUT, OUTPUT_DNS, Rules, host, jump};
use crate::mesh::istio::facts::Dns;
use crate::mesh::matches::{destination, gid, port, source, source_port, tcp, udp, uid};
use crate::ruleset::{Family, Rule, TableName, Target};

/// Where the proxy's resolver listens.
const RESOLVER_PORT: u16 = 15053;

/// The zone of the resolver's conversation with the servers.
const SERVER_ZONE: Target = Target::CtZone(1);

/// The zone of the application's conversation with the resolver.
const APPLICATION_ZONE: Target = Target::CtZone(2);

impl Rules<'_> {
    /// The DNS rules of the nat and raw tables.
    pub(super) fn capture_dns(&mut self) {
        let facts = self.facts;
        // A server of no address is any server.
        let servers: Vec<Option<IpNet>> = match &facts.dns {
            Dns::Off => return,
            Dns::All => vec![None],
            Dns::Servers(servers) => {
                servers.iter().map(|server| host(*server)).filter(|net| Family::of(net) == self.family).map(Some).collect()
            }
        };
        self.append(TableName::Raw, "OUTPUT", [], jump(OUTPUT_DNS));
        if !servers.is_empty() {
            self.append(TableName::Nat, OUTPUT, [], jump(OUTPUT_DNS));
        }
        for protocol in [tcp(), udp()] {
            for server in &servers {
                let matches = [protocol.clone(), port(DNS_PORT)].into_iter().chain(server.map(destination));
                self.append_rule(TableName::Nat, OUTPUT_DNS, Rule::new(matches, Target::Redirect(RESOLVER_PORT)));
            }
        }
        self.separate_zones(&servers);
    }

    /// Query and answer between application and resolver look, with their addresses translated, like those between
    /// resolver and server; zones keep the two connections apart. The first zone given to a packet stays, so that the
    /// proxy's rules come first.
    fn separate_zones(&mut self, servers: &[Option<IpNet>]) {
        let facts = self.facts;
        let proxy = facts.uids.iter().map(|id| uid(*id)).chain(facts.gids.iter().map(|id| gid(*id)));
        for owner in proxy {
            self.append(TableName::Raw, OUTPUT_DNS, [udp(), port(DNS_PORT), owner.clone()], SERVER_ZONE);
            self.append(TableName::Raw, OUTPUT_DNS, [udp(), source_port(RESOLVER_PORT), owner], APPLICATION_ZONE);
        }
        if !servers.is_empty() {
            self.append(TableName::Raw, "PREROUTING", [], jump(INBOUND));
        }
        for server in servers {
            let query = [udp(), port(DNS_PORT)].into_iter().chain(server.map(destination));
            self.append_rule(TableName::Raw, OUTPUT_DNS, Rule::new(query, APPLICATION_ZONE));
            let answer = [udp(), source_port(DNS_PORT)].into_iter().chain(server.map(source));
            self.append_rule(TableName::Raw, INBOUND, Rule::new(answer, SERVER_ZONE));
        }
    }
}
