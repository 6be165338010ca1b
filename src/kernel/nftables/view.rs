//! Tables of nf_tables as rule sets: mesh-init's own, those of iptables-nft, and those that Istio's `--native-nftables`
//! makes.

use std::collections::{HashMap, HashSet};

use super::abi;
use super::decode::{self, Decoded, Source};
use super::read::{BaseData, ChainData, RuleData, Snapshot, TableData};
use crate::kernel::backend::{Fault, Form, Held};
use crate::kernel::netlink::wire::Malformed;
use crate::ruleset::layout::{self, OWN_TABLE, Seat};
use crate::ruleset::{Base, Chain, Condition, Family, Hook, Mesh, NftChain, NftRule, NftTable, Ownership, Place, Policy, Rule, TableName};

/// The tables that `pilot-agent istio-iptables --native-nftables` makes, all of family `inet`.
pub(super) const ISTIO_TABLES: [(&str, TableName); 3] =
    [("istio-proxy-raw", TableName::Raw), ("istio-proxy-mangle", TableName::Mangle), ("istio-proxy-nat", TableName::Nat)];

/// Whether a mesh's rules may be in a table of this family and name.
pub(super) fn may_be_a_meshs(family: u8, name: &str) -> bool {
    form_of(family, name).is_some()
}

/// The form in which a mesh's rules are in a table of this family and name.
pub(super) fn form_of(family: u8, name: &str) -> Option<Form> {
    match family {
        abi::IPV4 | abi::IPV6 if name == OWN_TABLE => Some(Form::MeshInit),
        abi::IPV4 | abi::IPV6 if TableName::ALL.iter().any(|table| table.as_str() == name) => Some(Form::IptablesNft),
        abi::INET if ISTIO_TABLES.iter().any(|(table, _)| *table == name) => Some(Form::IstioNft),
        _ => None,
    }
}

/// Whether the table is a mesh's as a whole: it is deleted and made again rather than changed.
pub(super) fn is_replaced_whole(table: &TableData) -> bool {
    matches!(form_of(table.family, &table.name), Some(Form::MeshInit | Form::IstioNft))
}

/// Tables as they were read, and what they mean.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) snapshot: Snapshot,
    /// What there is of each family, in each form that there is any of.
    pub(super) held: Vec<Held>,
}

impl Seen {
    pub(super) fn new(snapshot: Snapshot) -> Result<Seen, Malformed> {
        let mut all = Vec::new();
        for family in Family::ALL {
            for form in [Form::MeshInit, Form::IptablesNft, Form::IstioNft] {
                let mut held = Held::new(form, family);
                let is_seen = |table: &&TableData| {
                    form_of(table.family, &table.name) == Some(form) && (table.family == abi::INET || table.family == abi::number(family))
                };
                for table in snapshot.tables.iter().filter(is_seen) {
                    add_table(&mut held, table)?;
                }
                if !held.ruleset.tables.is_empty() || !held.faults.is_empty() {
                    all.push(held);
                }
            }
        }
        Ok(Seen { snapshot, held: all })
    }

    /// What there is of `family` in that form.
    pub(super) fn in_form(&self, form: Form, family: Family) -> Option<&Held> {
        self.held.iter().find(|held| held.form == form && held.ruleset.family == family)
    }
}

fn add_table(held: &mut Held, table: &TableData) -> Result<(), Malformed> {
    let (family, form) = (held.ruleset.family, held.form);
    let what = format!("{family} table {} {}", abi::family_name(table.family), table.name);
    let name = table_name(form, table);
    let mut fault = |table: TableName, place: Option<(&str, Option<usize>)>, fault: String| {
        let place = place.map(|(chain, rule)| (chain.to_owned(), rule));
        held.faults.push(Fault { table, place, text: format!("{what}{fault}") });
    };
    if table.flags & abi::DORMANT != 0 {
        fault(name, None, " is dormant: it catches nothing".to_owned());
    }
    if table.flags & abi::OWNED != 0 && form != Form::IptablesNft {
        fault(name, None, format!(" belongs to a process (netlink port {}), and goes when that ends", table.owner.unwrap_or_default()));
    }
    if table.chains.is_empty() && form != Form::IptablesNft {
        fault(name, None, " is empty".to_owned());
    }
    if form == Form::MeshInit {
        // Those that rules use show in the rules.
        let rules = || table.chains.iter().flat_map(|chain| &chain.rules).map(|rule| rule.expressions.as_slice());
        let used: HashSet<String> = rules().flat_map(decode::sets_of).collect();
        for set in table.sets.iter().filter(|set| !used.contains(&set.name)) {
            fault(name, None, format!(": unexpected set {}", set.name));
        }
        if !table.objects.is_empty() && !rules().any(decode::uses_objects) {
            fault(name, None, ": unexpected counters, quotas or other objects".to_owned());
        }
    }
    for data in &table.chains {
        let (name, chain) = place(form, table, data);
        // A base chain of another name in iptables-nft's tables is somebody else's.
        if form == Form::IptablesNft && data.base.is_some() && Hook::from_chain(&chain).is_none() {
            continue;
        }
        // Two names that are read as one would hide each other.
        if form == Form::IstioNft && data.name != chain.to_ascii_lowercase().replace('_', "-") {
            fault(name, None, format!(": unexpected chain {}", data.name));
            continue;
        }
        if let Some(reason) = chain_fault(name, &chain, data.base.as_ref(), form) {
            fault(name, Some((&chain, None)), format!(" chain {}: {reason}", data.name));
        }
        let mut rules = Vec::with_capacity(data.rules.len());
        for (index, source) in data.rules.iter().enumerate() {
            let decoded = rule(form, table, name, source)?;
            if form == Form::MeshInit && decoded.rule.counters.is_none() {
                fault(name, Some((&chain, Some(index))), format!(" chain {}: rule {} has no counter", data.name, index + 1));
            }
            if decoded.family.is_none_or(|only| only == family) {
                rules.push(decoded.rule);
            }
        }
        let own = held.ruleset.table_mut(name).chain_mut(&chain);
        own.rules = rules;
        own.base = data.base.as_ref().zip(Hook::from_chain(&chain)).map(|(base, hook)| Base {
            hook,
            policy: Some(if base.policy == abi::DROP { Policy::Drop } else { Policy::Accept }),
            head: 0,
            counters: None,
        });
    }
    Ok(())
}

/// The table of iptables that a table stands for; of mesh-init's own, in which all are, the one that matters most.
fn table_name(form: Form, table: &TableData) -> TableName {
    let known = match form {
        Form::IstioNft => ISTIO_TABLES.iter().find(|(known, _)| *known == table.name).map(|(_, name)| *name),
        _ => TableName::ALL.into_iter().find(|known| known.as_str() == table.name),
    };
    known.unwrap_or(TableName::Nat)
}

/// Which chain of which table it is.
fn place(form: Form, table: &TableData, chain: &ChainData) -> (TableName, String) {
    match form {
        Form::MeshInit => {
            let (table, name) = layout::chain_of(&chain.name);
            (table, name.to_owned())
        }
        Form::IstioNft => (table_name(form, table), istio_name(&chain.name)),
        Form::IptablesNft | Form::Legacy => (table_name(form, table), chain.name.clone()),
    }
}

/// `istio-output-dns` is ISTIO_OUTPUT_DNS, `prerouting` is PREROUTING.
fn istio_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// Why a chain does not catch what a chain of its name in iptables would. Hook and priority are iptables' in all forms; a
/// policy counts where nobody but the mesh can have set it.
fn chain_fault(table: TableName, chain: &str, base: Option<&BaseData>, form: Form) -> Option<String> {
    let seat = Hook::from_chain(chain).and_then(|hook| Some((hook, Seat::of(table, hook)?)));
    match (seat, base) {
        (None, None) => None,
        (Some((hook, seat)), Some(base)) => {
            let right = base.kind == seat.kind && base.hook == hook as u32 && base.priority == seat.priority;
            if !right {
                let planned = format!("type {} hook {} priority {}", seat.kind, hook.chain().to_ascii_lowercase(), seat.priority);
                return Some(format!("{}, planned as {planned}", described(base, abi::INET)));
            }
            (form != Form::IptablesNft && base.policy != abi::ACCEPT).then(|| "its policy is drop".to_owned())
        }
        (Some(_), None) => Some("it is at no hook: it catches nothing".to_owned()),
        (None, Some(base)) => Some(format!("unexpected {}", described(base, abi::INET))),
    }
}

/// A base chain's place in the words of nft.
fn described(base: &BaseData, family: u8) -> String {
    // arp and netdev number their hooks for themselves; one more hook of inet is a device's.
    let names: &[&str] = match abi::family_name(family) {
        "arp" => &["input", "output", "forward"],
        "netdev" => &["ingress", "egress"],
        _ => &["prerouting", "input", "forward", "output", "postrouting", "ingress"],
    };
    let hook = names.get(base.hook as usize).map_or_else(|| base.hook.to_string(), |name| (*name).to_owned());
    let device = base.device.as_ref().map(|device| format!(" device \"{device}\"")).unwrap_or_default();
    format!("type {} hook {hook}{device} priority {}", base.kind, base.priority)
}

/// What a rule means that is in a chain of `of`.
pub(super) fn rule(form: Form, table: &TableData, of: TableName, source: &RuleData) -> Result<Decoded, Malformed> {
    let set = |name: &str| table.set(name);
    let chain = |name: &str| match form {
        Form::MeshInit => match layout::chain_of(name) {
            (same, name) if same == of => name.to_owned(),
            // iptables has no way there.
            (other, name) => format!("{other}-{name}"),
        },
        Form::IstioNft => istio_name(name),
        Form::IptablesNft | Form::Legacy => name.to_owned(),
    };
    let mut decoded = decode::rule(source_of(table, source), &set, &chain)?;
    decoded.rule.tagged = form == Form::MeshInit;
    if form == Form::IstioNft {
        restrict_to_tcp(&mut decoded.rule);
    }
    Ok(decoded)
}

/// Of invalid packets Istio's own nft rules drop those of TCP alone, its iptables rules all. The meaning is the same for
/// what a mesh is there for.
fn restrict_to_tcp(rule: &mut Rule) {
    let is_invalid = |condition: &Condition| matches!(condition, Condition::State(states) if *states == crate::ruleset::StateSet::INVALID);
    if rule.matches.iter().any(|wanted| !wanted.negated && is_invalid(&wanted.condition)) {
        rule.matches.retain(|wanted| wanted.condition != Condition::Protocol(crate::ruleset::Protocol::TCP));
    }
}

/// The protocol that a rule with xtables extensions has to be said to be for when it is made again: the kernel does not
/// tell it in its lists.
pub(super) fn compat_protocol(table: &TableData, source: &RuleData) -> Option<(u8, bool)> {
    let decoded = rule(Form::IptablesNft, table, table_name(Form::IptablesNft, table), source).ok()?;
    decoded.rule.matches.iter().find_map(|wanted| match wanted.condition {
        Condition::Protocol(protocol) => Some((protocol.0, wanted.negated)),
        _ => None,
    })
}

/// Everything there is, to be shown.
pub(super) fn tables(seen: &Seen) -> Result<Vec<NftTable>, Malformed> {
    seen.snapshot.tables.iter().map(|table| shown(table, &seen.held)).collect()
}

/// What is a mesh's of what is held, whose chains are found by their names: there may be very many.
struct Owner<'a> {
    mesh: Mesh,
    ownership: Ownership,
    chains: HashMap<(TableName, &'a str), &'a Chain>,
}

impl Owner<'_> {
    fn new(mesh: Mesh, held: &Held) -> Owner<'_> {
        let chains =
            held.ruleset.tables.iter().flat_map(|table| table.chains.iter().map(|chain| ((table.name, chain.name.as_str()), chain)));
        Owner { mesh, ownership: held.ownership(mesh, None), chains: chains.collect() }
    }
}

fn shown(table: &TableData, held: &[Held]) -> Result<NftTable, Malformed> {
    let form = form_of(table.family, &table.name);
    let of_table =
        |held: &&Held| Some(held.form) == form && (table.family == abi::INET || abi::number(held.ruleset.family) == table.family);
    let owners: Vec<Owner<'_>> = held
        .iter()
        .filter(of_table)
        .flat_map(|held| Mesh::ALL.map(|mesh| Owner::new(mesh, held)))
        .filter(|owner| form != Some(Form::IstioNft) || owner.mesh == Mesh::Istio)
        .collect();
    let chains = table.chains.iter().map(|data| {
        let (name, chain) = form.map_or((TableName::Nat, data.name.clone()), |form| place(form, table, data));
        let viewed: Vec<Option<&Chain>> = owners.iter().map(|owner| owner.chains.get(&(name, chain.as_str())).copied()).collect();
        let rules = data.rules.iter().enumerate().map(|(index, source)| {
            let Decoded { rule, family } = decode::rule(source_of(table, source), &|set| table.set(set), &str::to_owned)?;
            // In Istio's tables all rules are Istio's, so that their places in a family's view do not matter.
            let owns = |(owner, viewed): &(&Owner<'_>, &Option<&Chain>)| {
                form == Some(Form::IstioNft) || viewed.is_some_and(|viewed| owner.ownership.owns_rule(name, viewed, index))
            };
            Ok(NftRule { rule, only: family, owner: owners.iter().zip(&viewed).find(owns).map(|(owner, _)| owner.mesh) })
        });
        Ok(NftChain {
            name: data.name.clone(),
            base: data.base.as_ref().map(|base| seat_text(base, table.family)),
            place: data.base.as_ref().filter(|_| matches!(table.family, abi::IPV4 | abi::IPV6 | abi::INET)).and_then(place_of),
            owner: owners.iter().find(|owner| owner.ownership.owns_chain(&chain)).map(|owner| owner.mesh),
            rules: rules.collect::<Result<_, _>>()?,
        })
    });
    let dormant = table.flags & abi::DORMANT != 0;
    Ok(NftTable { family: abi::family_name(table.family), name: table.name.clone(), dormant, chains: chains.collect::<Result<_, _>>()? })
}

fn source_of<'a>(table: &TableData, source: &'a RuleData) -> Source<'a> {
    Source { family: table.family, expressions: &source.expressions, user_data: &source.user_data }
}

/// Where packets of IP meet a base chain; `None` at a device's hook.
fn place_of(base: &BaseData) -> Option<Place> {
    let hook = Hook::ALL.into_iter().find(|hook| *hook as u32 == base.hook)?;
    let kind = ["filter", "nat", "route"].into_iter().find(|kind| *kind == base.kind)?;
    Some(Place { hook, seat: Seat { kind, priority: base.priority }, drops: base.policy == abi::DROP })
}

fn seat_text(base: &BaseData, family: u8) -> String {
    let policy = if base.policy == abi::DROP { "drop" } else { "accept" };
    format!("{}; policy {policy};", described(base, family))
}
