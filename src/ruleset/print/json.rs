//! Rules as JSON values, for programs that read them. README.md documents the form.

use serde::Serialize;

use super::{iptables, nft_tables};
use crate::ruleset::{Chain, Condition, Counters, Match, NftTable, Opaque, Ownership, Ruleset, Table, TableName, Target};

/// A rule set, ready to be serialized.
#[derive(Debug, Serialize)]
pub struct RulesetView {
    family: u8,
    /// Of what was read from a kernel: the packet filter, and in whose form the rules stand there.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
    tables: Vec<TableView>,
}

#[derive(Debug, Serialize)]
struct TableView {
    table: &'static str,
    chains: Vec<ChainView>,
}

#[derive(Debug, Serialize)]
struct ChainView {
    chain: String,
    /// The hook's chain name in small letters; missing for a chain that rules jump to.
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'static str>,
    rules: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
struct RuleView {
    rule: String,
    matches: Vec<MatchView>,
    target: TargetView,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct MatchView {
    #[serde(rename = "match")]
    name: &'static str,
    negated: bool,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    opaque: Option<OpaqueView>,
}

#[derive(Debug, Serialize)]
struct TargetView {
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opaque: Option<OpaqueView>,
}

#[derive(Debug, Serialize)]
struct OpaqueView {
    revision: u8,
    data: String,
}

impl RulesetView {
    /// A view of `ruleset`. `owners` tells of what was read from a kernel whose each chain and rule is; a plan has
    /// none, being all its mesh's.
    pub fn new(ruleset: &Ruleset, owners: &[Ownership]) -> RulesetView {
        let tables = ruleset.tables.iter().map(|table| TableView::new(table, ruleset, owners)).collect();
        RulesetView { family: ruleset.family.number(), backend: None, form: None, faults: Vec::new(), tables }
    }

    /// The same view, of rules in that packet filter and form, which may have faults.
    #[must_use]
    pub fn in_form(self, backend: &'static str, form: &'static str, faults: Vec<String>) -> RulesetView {
        RulesetView { backend: Some(backend), form: Some(form), faults, ..self }
    }
}

/// A table of nf_tables that no mesh's rules can be in.
#[derive(Debug, Serialize)]
pub struct ForeignTableView {
    family: &'static str,
    table: String,
    dormant: bool,
    chains: Vec<ForeignChainView>,
}

#[derive(Debug, Serialize)]
struct ForeignChainView {
    chain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    rules: Vec<String>,
}

impl ForeignTableView {
    /// A view of `table`, its rules as `nft` prints them.
    pub fn new(table: &NftTable) -> ForeignTableView {
        let chains = table.chains.iter().map(|chain| ForeignChainView {
            chain: chain.name.clone(),
            base: chain.base.clone(),
            rules: chain.rules.iter().map(|rule| nft_tables::of_table(table, rule)).collect(),
        });
        ForeignTableView { family: table.family, table: table.name.clone(), dormant: table.dormant, chains: chains.collect() }
    }
}

impl TableView {
    fn new(table: &Table, ruleset: &Ruleset, owners: &[Ownership]) -> TableView {
        let chains = table.chains.iter().map(|chain| ChainView::new(table.name, chain, ruleset, owners)).collect();
        TableView { table: table.name.as_str(), chains }
    }
}

impl ChainView {
    fn new(table: TableName, chain: &Chain, ruleset: &Ruleset, owners: &[Ownership]) -> ChainView {
        let owner = |owns: &dyn Fn(&Ownership) -> bool| {
            if owners.is_empty() {
                return None;
            }
            Some(owners.iter().find(|owner| owns(owner)).map_or("foreign", |owner| owner.mesh().as_str()))
        };
        let rules = chain.rules.iter().enumerate().map(|(index, rule)| RuleView {
            rule: iptables::command(chain, index, rule, ruleset.family),
            matches: rule.matches.iter().map(MatchView::new).collect(),
            target: TargetView::new(&rule.target),
            comment: rule.comment.clone(),
            owner: owner(&|owner| owner.owns_rule(table, chain, index)),
            packets: rule.counters.map(|Counters { packets, .. }| packets),
            bytes: rule.counters.map(|Counters { bytes, .. }| bytes),
        });
        let counters = chain.base.and_then(|base| base.counters);
        ChainView {
            chain: chain.name.clone(),
            packets: counters.map(|counters| counters.packets),
            bytes: counters.map(|counters| counters.bytes),
            hook: chain.base.as_ref().map(|base| base.hook.chain().to_ascii_lowercase()),
            policy: chain.base.as_ref().and_then(|base| base.policy).map(|policy| policy.as_str()),
            owner: if chain.base.is_some() { None } else { owner(&|owner| owner.owns_chain(&chain.name)) },
            rules: rules.collect(),
        }
    }
}

impl MatchView {
    fn new(wanted: &Match) -> MatchView {
        let (name, value) = match &wanted.condition {
            Condition::Source(net) => ("source", net.to_string()),
            Condition::Destination(net) => ("destination", net.to_string()),
            Condition::Sources(set) => ("sources", set.to_string()),
            Condition::Destinations(set) => ("destinations", set.to_string()),
            Condition::InInterface(interface) => ("in-interface", interface.to_string()),
            Condition::OutInterface(interface) => ("out-interface", interface.to_string()),
            Condition::Protocol(protocol) => ("protocol", protocol.to_string()),
            Condition::SourcePort(port) => ("source-port", port.to_string()),
            Condition::DestinationPort(port) => ("destination-port", port.to_string()),
            Condition::SourcePorts(list) => ("source-ports", iptables::comma_separated(list)),
            Condition::DestinationPorts(list) => ("destination-ports", iptables::comma_separated(list)),
            Condition::Uid(id) => ("uid", id.to_string()),
            Condition::Gid(id) => ("gid", id.to_string()),
            Condition::Mark(mark) => ("mark", mark.to_string()),
            Condition::Connmark(mark) => ("connmark", mark.to_string()),
            Condition::State(states) => ("state", states.to_string()),
            Condition::Opaque(opaque) => ("opaque", opaque.name.clone()),
        };
        let opaque = match &wanted.condition {
            Condition::Opaque(opaque) => Some(OpaqueView::new(opaque)),
            _ => None,
        };
        MatchView { name, negated: wanted.negated, value, opaque }
    }
}

impl TargetView {
    fn new(target: &Target) -> TargetView {
        let mut view = TargetView { target: "continue", value: None, mark: None, opaque: None };
        view.target = match target {
            Target::Continue => "continue",
            Target::Accept => "accept",
            Target::Drop => "drop",
            Target::Return => "return",
            Target::Jump(chain) => {
                view.value = Some(chain.clone());
                "jump"
            }
            Target::Goto(chain) => {
                view.value = Some(chain.clone());
                "goto"
            }
            Target::Redirect(port) => {
                view.value = Some(port.to_string());
                "redirect"
            }
            Target::Tproxy { port, mark } => {
                view.value = Some(port.to_string());
                view.mark = Some(mark.to_string());
                "tproxy"
            }
            Target::Mark(mark) => {
                view.mark = Some(mark.to_string());
                "mark"
            }
            Target::SaveMark => "save-mark",
            Target::RestoreMark => "restore-mark",
            Target::CtZone(zone) => {
                view.value = Some(zone.to_string());
                "ct-zone"
            }
            Target::Opaque(opaque) => {
                view.value = Some(opaque.name.clone());
                view.opaque = Some(OpaqueView::new(opaque));
                "opaque"
            }
        };
        view
    }
}

impl OpaqueView {
    fn new(opaque: &Opaque) -> OpaqueView {
        OpaqueView { revision: opaque.revision, data: opaque.hex() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Family, MarkMask, Mesh, PortRange, Protocol, Rule};

    #[test]
    fn a_plan_has_matches_targets_and_text() {
        let mut rules = Ruleset::new(Family::V4);
        let chain = rules.table_mut(TableName::Mangle).chain_mut("ISTIO_TPROXY");
        chain.rules.push(Rule::new(
            [Condition::Protocol(Protocol::TCP).into(), !Condition::DestinationPort(PortRange { first: 80, last: 90 })],
            Target::Tproxy { port: 15006, mark: MarkMask::full(1337) },
        ));
        let json = serde_json::to_value(RulesetView::new(&rules, &[])).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"family": 4, "tables": [{"table": "mangle", "chains": [{"chain": "ISTIO_TPROXY", "rules": [{
                "rule": "-A ISTIO_TPROXY -p tcp -m tcp ! --dport 80:90 -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
                "matches": [
                    {"match": "protocol", "negated": false, "value": "tcp"},
                    {"match": "destination-port", "negated": true, "value": "80:90"},
                ],
                "target": {"target": "tproxy", "value": "15006", "mark": "0x539/0xffffffff"},
            }]}]}]})
        );
    }

    #[test]
    fn what_is_read_from_a_kernel_names_its_owner() {
        let mut rules = Ruleset::new(Family::V6);
        let nat = rules.table_mut(TableName::Nat);
        nat.chain_mut("ISTIO_OUTPUT");
        nat.chain_mut("OUTPUT").rules.push(Rule::new([], Target::Jump("ISTIO_OUTPUT".into())));
        let opaque = Opaque { name: "LOG".into(), revision: 0, data: vec![4, 0] };
        nat.chain_mut("OUTPUT").rules.push(Rule::new([], Target::Opaque(opaque)));
        let owners = Mesh::ALL.map(|mesh| Ownership::of(mesh, &rules, None));
        let json = serde_json::to_value(RulesetView::new(&rules, &owners)).unwrap();
        let chains = &json["tables"][0]["chains"];
        assert_eq!(chains[0]["hook"], "output");
        assert_eq!(chains[0]["rules"][0]["owner"], "istio");
        assert_eq!(chains[0]["rules"][1]["owner"], "foreign");
        assert_eq!(chains[0]["rules"][1]["target"]["opaque"], serde_json::json!({"revision": 0, "data": "0400"}));
        assert_eq!(chains[1]["owner"], "istio");
    }
}
