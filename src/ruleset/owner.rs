//! Whose a rule is: a mesh's or somebody else's.
//!
//! A mesh's chains are known by their names, whoever wrote them: mesh-init or the mesh's original tool. In built-in
//! chains a mesh owns
//! - jumps to its chains,
//! - rules that carry mesh-init's own mark (see [`Rule::tagged`]),
//! - in a table that the original tool wrote, which has the mesh's chains and no rule with our mark: rules that equal
//!   one of a given plan, and rules that the original leaves there without a jump, recognised by their form and by where
//!   or beside what they stand: Istio's excluded and virtual interfaces and its TPROXY marks,
//! - beside such tables, the rules of the filter table that stop all traffic while istio-iptables reconciles.
//!
//! Where mesh-init wrote the table itself, a foreign rule of such a form is a foreign rule.

use std::collections::HashMap;

use super::{Chain, Condition, Hook, Interface, MarkMask, Match, Protocol, Rule, Ruleset, Table, TableName, Target, order};

/// A mesh whose rules mesh-init can plan and recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// Istio with sidecars.
    Istio,
    /// Linkerd.
    Linkerd,
}

impl Mesh {
    /// Both meshes.
    pub const ALL: [Mesh; 2] = [Mesh::Istio, Mesh::Linkerd];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mesh::Istio => "istio",
            Mesh::Linkerd => "linkerd",
        }
    }

    /// What the names of the mesh's chains begin with, in the rules of its original tool and in ours.
    pub const fn chain_prefix(self) -> &'static str {
        match self {
            Mesh::Istio => "ISTIO_",
            Mesh::Linkerd => "PROXY_INIT_",
        }
    }

    /// Whether a chain of this name is the mesh's.
    pub fn owns_chain(self, name: &str) -> bool {
        name.starts_with(self.chain_prefix())
    }

    /// Whether the rule leads into one of the mesh's chains.
    pub fn owns_target(self, rule: &Rule) -> bool {
        matches!(&rule.target, Target::Jump(chain) | Target::Goto(chain) if self.owns_chain(chain))
    }
}

/// Which chains and rules of a rule set are a mesh's.
#[derive(Clone, Debug)]
pub struct Ownership {
    mesh: Mesh,
    /// For each built-in chain that holds any of the mesh's rules, which ones.
    base: HashMap<(TableName, Hook), Vec<bool>>,
    /// Whether chains with names of nobody's are the mesh's too.
    rest: bool,
}

impl Ownership {
    /// What of `held`, read from a kernel, is `mesh`'s. A `plan` tells which rules an original tool would have written.
    pub fn of(mesh: Mesh, held: &Ruleset, plan: Option<&Ruleset>) -> Ownership {
        Ownership::with(&Traces::of(mesh, held), held, plan)
    }

    /// The same from traces that were found earlier, when there were more tables to look at, or before some of them were
    /// written.
    pub fn with(traces: &Traces, held: &Ruleset, plan: Option<&Ruleset>) -> Ownership {
        let mesh = traces.mesh;
        let mut base = HashMap::new();
        for table in &held.tables {
            for chain in &table.chains {
                let Some(hook) = chain.base.map(|base| base.hook) else { continue };
                let planned = plan.and_then(|plan| plan.table(table.name)).and_then(|table| table.chain(&chain.name));
                let owned = owned_rules(table, chain, hook, traces, planned);
                if owned.contains(&true) {
                    base.insert((table.name, hook), owned);
                }
            }
        }
        Ownership { mesh, base, rest: false }
    }

    /// What is `mesh`'s in a table that nobody but mesh-init (or the mesh's original tool) has any business in: everything
    /// but the other mesh's chains and the jumps to them. What names no mesh is Istio's if any of Istio's chains are there.
    pub fn of_own_table(mesh: Mesh, held: &Ruleset) -> Ownership {
        let others = |rule: &Rule| Mesh::ALL.iter().any(|other| *other != mesh && other.owns_target(rule));
        let chains = || held.tables.iter().flat_map(|table| &table.chains);
        let has_chains = |mesh: Mesh| chains().any(|chain| mesh.owns_chain(&chain.name));
        let rest = has_chains(mesh) && (mesh == Mesh::Istio || !has_chains(Mesh::Istio)) || !Mesh::ALL.into_iter().any(has_chains);
        let mut base = HashMap::new();
        for table in &held.tables {
            for chain in &table.chains {
                let Some(hook) = Hook::from_chain(&chain.name) else { continue };
                let owned: Vec<bool> = chain.rules.iter().map(|rule| mesh.owns_target(rule) || (rest && !others(rule))).collect();
                if owned.contains(&true) {
                    base.insert((table.name, hook), owned);
                }
            }
        }
        Ownership { mesh, base, rest }
    }

    /// The mesh that was asked for.
    pub fn mesh(&self) -> Mesh {
        self.mesh
    }

    /// Whether a chain of this name is the mesh's.
    pub fn owns_chain(&self, name: &str) -> bool {
        self.mesh.owns_chain(name) || (self.rest && !Mesh::ALL.iter().any(|other| other.owns_chain(name)))
    }

    /// Whether the rule at `index` of `chain`, in the rule set that was looked at, is the mesh's.
    pub fn owns_rule(&self, table: TableName, chain: &Chain, index: usize) -> bool {
        match &chain.base {
            None => self.owns_chain(&chain.name),
            Some(base) => self.base.get(&(table, base.hook)).is_some_and(|owned| owned.get(index) == Some(&true)),
        }
    }

    /// Whether any chain or rule of `table` is the mesh's.
    pub fn owns_any(&self, table: &Table) -> bool {
        table.chains.iter().any(|chain| match &chain.base {
            None => self.owns_chain(&chain.name),
            Some(base) => self.base.contains_key(&(table.name, base.hook)),
        })
    }
}

fn owned_rules(table: &Table, chain: &Chain, hook: Hook, traces: &Traces, planned: Option<&Chain>) -> Vec<bool> {
    let mesh = traces.mesh;
    // Only Istio's plans put rules into built-in chains that name no chain of the mesh.
    let tagged = |rule: &Rule| mesh == Mesh::Istio && is_ours(mesh, chain, rule);
    let mut owned: Vec<bool> = chain
        .rules
        .iter()
        .enumerate()
        .map(|(index, rule)| mesh.owns_target(rule) || tagged(rule) || (mesh == Mesh::Istio && traces.istio_left(table, hook, index, rule)))
        .collect();
    for wanted in planned.filter(|_| traces.originals.contains(&table.name)).map_or(&[][..], |chain| &chain.rules) {
        let have = (0..owned.len()).any(|index| owned[index] && chain.rules[index].same_meaning(wanted));
        if !have && let Some(index) = chain.rules.iter().position(|rule| rule.same_meaning(wanted)) {
            owned[index] = true;
        }
    }
    owned
}

/// What in a rule set shows that a mesh's original tool was here.
#[derive(Clone, Debug)]
pub struct Traces {
    mesh: Mesh,
    /// Tables with chains of the mesh and no rule that carries mesh-init's mark.
    originals: Vec<TableName>,
    /// The marks of the original's TPROXY rules.
    marks: Vec<u32>,
    /// The rules that stop all traffic while istio-iptables reconciles are there, and the original's tables beside them.
    guarded: bool,
}

impl Traces {
    /// The traces in `held`.
    pub fn of(mesh: Mesh, held: &Ruleset) -> Traces {
        let is_original = |table: &&Table| {
            table.chains.iter().any(|chain| mesh.owns_chain(&chain.name))
                && !table.chains.iter().any(|chain| chain.rules.iter().any(|rule| is_ours(mesh, chain, rule)))
        };
        let originals: Vec<TableName> = held.tables.iter().filter(is_original).map(|table| table.name).collect();
        let mangle = held.table(TableName::Mangle).filter(|table| originals.contains(&table.name));
        let filter = held.table(TableName::Filter).filter(|_| mesh == Mesh::Istio && !originals.is_empty());
        Traces { mesh, marks: mangle.map(tproxy_marks).unwrap_or_default(), guarded: filter.is_some_and(is_guarded), originals }
    }

    /// Whether rules of the filter table are the original's guards.
    pub fn are_guarded(&self) -> bool {
        self.guarded
    }

    /// Whether istio-iptables leaves such a rule, which names no chain of its, in this place.
    fn istio_left(&self, table: &Table, hook: Hook, index: usize, rule: &Rule) -> bool {
        if table.name == TableName::Filter {
            return self.guarded && is_guard(hook, index, rule);
        }
        self.originals.contains(&table.name)
            && (interface_of(rule, hook).is_some_and(|interface| is_istio_interface(table, interface) || is_inserted(table, hook, index))
                || (table.name == TableName::Mangle && self.marks.iter().any(|mark| is_tproxy_rule(rule, hook, *mark))))
    }
}

/// The interface of `-i X -j RETURN` in PREROUTING or `-o X -j RETURN` in OUTPUT.
fn interface_of(rule: &Rule, hook: Hook) -> Option<&Interface> {
    match (hook, rule.matches.as_slice(), &rule.target) {
        (Hook::Prerouting, [Match { negated: false, condition: Condition::InInterface(interface) }], Target::Return)
        | (Hook::Output, [Match { negated: false, condition: Condition::OutInterface(interface) }], Target::Return) => Some(interface),
        _ => None,
    }
}

/// Whether Istio excludes the interface (a RETURN in PREROUTING and one in OUTPUT) or takes it for a virtual
/// machine's (a redirect beside the RETURN in PREROUTING).
fn is_istio_interface(table: &Table, interface: &Interface) -> bool {
    let returns = |hook: Hook| {
        table.chain(hook.chain()).is_some_and(|chain| chain.rules.iter().any(|rule| interface_of(rule, hook) == Some(interface)))
    };
    let redirects = table.chain(Hook::Prerouting.chain()).is_some_and(|chain| {
        chain.rules.iter().any(|rule| {
            Mesh::Istio.owns_target(rule) && rule.matches.iter().any(|wanted| *wanted == Condition::InInterface(interface.clone()).into())
        })
    });
    redirects || (returns(Hook::Prerouting) && returns(Hook::Output))
}

/// Whether the rule at `index` is among the RETURNs and redirects for interfaces with which PREROUTING begins: there
/// istio-iptables inserts those for virtual interfaces, of which only the RETURN is left when no destination is captured.
fn is_inserted(table: &Table, hook: Hook, index: usize) -> bool {
    let for_interface = |rule: &Rule| {
        let redirect =
            Mesh::Istio.owns_target(rule) && rule.matches.iter().any(|wanted| matches!(wanted.condition, Condition::InInterface(_)));
        redirect || interface_of(rule, hook).is_some()
    };
    table.name == TableName::Nat
        && hook == Hook::Prerouting
        && table.chain(hook.chain()).is_some_and(|chain| chain.rules.iter().take(index + 1).all(for_interface))
}

/// The marks that Istio's own chains in the mangle table set or test: ISTIO_DIVERT sets the mark, and ISTIO_INBOUND
/// begins with a test for it even when no inbound port is captured.
fn tproxy_marks(mangle: &Table) -> Vec<u32> {
    let inbound = mangle.chain("ISTIO_INBOUND").into_iter().flat_map(|chain| &chain.rules).filter_map(|rule| {
        let mark = rule.matches.iter().find_map(|wanted| match wanted {
            Match { negated: false, condition: Condition::Mark(mark) } => Some(mark.value),
            _ => None,
        });
        mark.filter(|_| rule.target == Target::Return)
    });
    let mut marks: Vec<u32> = divert_marks(mangle).into_iter().chain(inbound).collect();
    order::sort_by(&mut marks, Ord::cmp);
    marks.dedup();
    marks
}

/// The mark that ISTIO_DIVERT sets: that of a policy rule, which there is only where inbound connections are captured.
pub fn divert_marks(mangle: &Table) -> Vec<u32> {
    let rules = mangle.chain("ISTIO_DIVERT").into_iter().flat_map(|chain| &chain.rules);
    rules.filter_map(|rule| if let Target::Mark(mark) = &rule.target { Some(mark.value) } else { None }).collect()
}

/// The mark that istio-iptables gives to the proxy's own connections to the application (not configurable there).
pub const TPROXY_OUTBOUND_MARK: u32 = 1338;

fn is_tproxy_rule(rule: &Rule, hook: Hook, mark: u32) -> bool {
    if rule.protocol() != Some(Protocol::TCP) {
        return false;
    }
    let has = |condition: Condition| rule.matches.iter().any(|wanted| *wanted == condition.clone().into());
    let full = MarkMask::full(mark);
    match (hook, &rule.target) {
        (Hook::Prerouting, Target::SaveMark) => has(Condition::Mark(full)),
        (Hook::Output, Target::RestoreMark) => has(Condition::Connmark(full)),
        (Hook::Output, Target::Return) => has(Condition::Mark(full)) && has(Condition::OutInterface(Interface::loopback())),
        (Hook::Output, Target::Mark(set)) => {
            *set == MarkMask::full(TPROXY_OUTBOUND_MARK) && has(Condition::OutInterface(Interface::loopback()))
        }
        _ => false,
    }
}

/// While it reconciles, istio-iptables has one rule for each of these protocols first in each chain of the filter table.
const GUARDS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

/// Fewer of the six guards than this may as well be somebody else's rules.
const GUARDS_THAT_TELL: usize = 4;

/// `-p tcp -j DROP` or `-p udp -j DROP` where istio-iptables puts it.
fn is_guard(hook: Hook, index: usize, rule: &Rule) -> bool {
    matches!(hook, Hook::Input | Hook::Forward | Hook::Output)
        && index < GUARDS.len()
        && rule.matches.len() == 1
        && rule.protocol().is_some_and(|protocol| GUARDS.contains(&protocol))
        && rule.target == Target::Drop
}

/// Whether the rule carries our mark and is, or can be, the mesh's.
fn is_ours(mesh: Mesh, chain: &Chain, rule: &Rule) -> bool {
    let other = Mesh::ALL.iter().any(|other| *other != mesh && (other.owns_target(rule) || other.owns_chain(&chain.name)));
    rule.tagged && !other
}

/// Whether so many of the guards are there that an interrupted reconciliation must have left them.
pub fn is_guarded(filter: &Table) -> bool {
    let guards = filter
        .chains
        .iter()
        .filter_map(|chain| Some((chain.base?.hook, chain)))
        .flat_map(|(hook, chain)| chain.rules.iter().enumerate().filter(move |(index, rule)| is_guard(hook, *index, rule)));
    guards.count() >= GUARDS_THAT_TELL
}

/// Whether any of the mesh's chains or rules are in `held`.
pub fn is_present(mesh: Mesh, held: &Ruleset) -> bool {
    let ownership = Ownership::of(mesh, held, None);
    held.tables.iter().any(|table| ownership.owns_any(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::Family;

    fn interface(name: &str) -> Interface {
        Interface::new(name).unwrap()
    }

    fn owned(mesh: Mesh, held: &Ruleset, table: TableName, chain: &str, plan: Option<&Ruleset>) -> Vec<bool> {
        let ownership = Ownership::of(mesh, held, plan);
        let chain = held.table(table).unwrap().chain(chain).unwrap();
        (0..chain.rules.len()).map(|index| ownership.owns_rule(table, chain, index)).collect()
    }

    fn excluded(hook: Hook, name: &str) -> Rule {
        let condition = match hook {
            Hook::Prerouting => Condition::InInterface(interface(name)),
            _ => Condition::OutInterface(interface(name)),
        };
        Rule::new([condition.into()], Target::Return)
    }

    #[test]
    fn jumps_to_a_meshs_chains_are_its_own() {
        let mut held = Ruleset::new(Family::V4);
        let nat = held.table_mut(TableName::Nat);
        nat.chain_mut("ISTIO_OUTPUT");
        nat.chain_mut("OUTPUT").rules.extend([
            Rule::new([], Target::Jump("ISTIO_OUTPUT".into())),
            Rule::new([], Target::Jump("PROXY_INIT_OUTPUT".into())),
            Rule::new([], Target::Jump("MINE".into())),
        ]);
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "OUTPUT", None), [true, false, false]);
        assert_eq!(owned(Mesh::Linkerd, &held, TableName::Nat, "OUTPUT", None), [false, true, false]);
    }

    #[test]
    fn an_excluded_interface_is_istios_only_in_both_directions() {
        let mut held = Ruleset::new(Family::V4);
        let nat = held.table_mut(TableName::Nat);
        nat.chain_mut("ISTIO_OUTPUT");
        let foreign = Rule::new([], Target::Continue);
        nat.chain_mut("PREROUTING").rules.extend([foreign, excluded(Hook::Prerouting, "eth1"), excluded(Hook::Prerouting, "eth2")]);
        nat.chain_mut("OUTPUT").rules.push(excluded(Hook::Output, "eth1"));
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "PREROUTING", None), [false, true, false]);
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "OUTPUT", None), [true]);
    }

    #[test]
    fn a_virtual_interface_is_known_by_its_redirect_or_by_being_first() {
        let mut held = Ruleset::new(Family::V4);
        let nat = held.table_mut(TableName::Nat);
        nat.chain_mut("ISTIO_REDIRECT");
        let redirect = Rule::new([Condition::InInterface(interface("net1")).into()], Target::Jump("ISTIO_REDIRECT".into()));
        let bare = excluded(Hook::Prerouting, "net3");
        let rules = [bare.clone(), Rule::new([], Target::Continue), redirect, excluded(Hook::Prerouting, "net1"), bare];
        nat.chain_mut("PREROUTING").rules.extend(rules);
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "PREROUTING", None), [true, false, true, true, false]);
    }

    #[test]
    fn in_the_originals_tables_a_plan_claims_equal_rules() {
        let mut held = Ruleset::new(Family::V4);
        let foreign = Rule::new([], Target::Continue);
        held.table_mut(TableName::Nat).chain_mut("PREROUTING").rules.extend([foreign, excluded(Hook::Prerouting, "eth1")]);
        let mut plan = Ruleset::new(Family::V4);
        plan.table_mut(TableName::Nat).chain_mut("PREROUTING").rules.push(excluded(Hook::Prerouting, "eth1"));
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "PREROUTING", Some(&plan)), [false, false]);
        held.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT");
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "PREROUTING", Some(&plan)), [false, true]);
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "PREROUTING", None), [false, false]);
    }

    #[test]
    fn where_our_mark_is_a_rule_without_it_is_foreign() {
        let mut ours = excluded(Hook::Prerouting, "eth1");
        ours.tagged = true;
        let mut held = Ruleset::new(Family::V4);
        let nat = held.table_mut(TableName::Nat);
        nat.chain_mut("ISTIO_OUTPUT");
        nat.chain_mut("PREROUTING").rules.extend([excluded(Hook::Prerouting, "eth1"), ours, excluded(Hook::Prerouting, "eth2")]);
        nat.chain_mut("OUTPUT").rules.extend([excluded(Hook::Output, "eth1"), excluded(Hook::Output, "eth2")]);
        let plan = held.clone();
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "PREROUTING", Some(&plan)), [false, true, false]);
        assert_eq!(owned(Mesh::Istio, &held, TableName::Nat, "OUTPUT", Some(&plan)), [false, false]);
    }

    #[test]
    fn tproxy_rules_are_known_by_the_mark_in_istios_chains() {
        let mut held = Ruleset::new(Family::V4);
        let mangle = held.table_mut(TableName::Mangle);
        mangle.chain_mut("ISTIO_DIVERT").rules.push(Rule::new([], Target::Mark(MarkMask::full(7))));
        let save = |mark| {
            let conditions = [Condition::Protocol(Protocol::TCP).into(), Condition::Mark(MarkMask::full(mark)).into()];
            Rule::new(conditions, Target::SaveMark)
        };
        mangle.chain_mut("PREROUTING").rules.extend([save(7), save(8)]);
        assert_eq!(owned(Mesh::Istio, &held, TableName::Mangle, "PREROUTING", None), [true, false]);
        assert_eq!(owned(Mesh::Linkerd, &held, TableName::Mangle, "PREROUTING", None), [false, false]);
    }

    #[test]
    fn guards_of_a_reconciliation_are_known_beside_the_originals_chains_only() {
        let mut held = Ruleset::new(Family::V4);
        let drop = |protocol| Rule::new([Condition::Protocol(protocol).into()], Target::Drop);
        for chain in ["INPUT", "FORWARD", "OUTPUT"] {
            held.table_mut(TableName::Filter).chain_mut(chain).rules.extend(GUARDS.map(drop));
        }
        held.table_mut(TableName::Filter).chain_mut("INPUT").rules.push(drop(Protocol::TCP));
        assert_eq!(owned(Mesh::Istio, &held, TableName::Filter, "INPUT", None), [false, false, false]);
        held.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT").rules.push(Rule::new([], Target::Return));
        assert_eq!(owned(Mesh::Istio, &held, TableName::Filter, "INPUT", None), [true, true, false]);
        assert_eq!(owned(Mesh::Linkerd, &held, TableName::Filter, "INPUT", None), [false, false, false]);
        // Interrupted while they were put in or taken out.
        held.table_mut(TableName::Filter).chain_mut("OUTPUT").rules.pop();
        assert_eq!(owned(Mesh::Istio, &held, TableName::Filter, "OUTPUT", None), [true]);
        held.table_mut(TableName::Filter).chain_mut("OUTPUT").rules.pop();
        held.table_mut(TableName::Filter).chain_mut("FORWARD").rules.pop();
        assert_eq!(owned(Mesh::Istio, &held, TableName::Filter, "INPUT", None), [false, false, false]);
        // Our chains are no sign of the original.
        held.table_mut(TableName::Filter).chain_mut("OUTPUT").rules.extend(GUARDS.map(drop));
        held.table_mut(TableName::Nat).chain_mut("ISTIO_OUTPUT").rules[0].tagged = true;
        assert_eq!(owned(Mesh::Istio, &held, TableName::Filter, "INPUT", None), [false, false, false]);
    }
}
