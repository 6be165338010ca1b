//! The base chains of all tables, as packets meet them: by hook and priority, whichever packet filter they are in.

use crate::ruleset::layout::Seat;
use crate::ruleset::nft_table::Place;
use crate::ruleset::print::{iptables, nft};
use crate::ruleset::{
    Condition, Family, Hook, Match, Mesh, NftChain, NftRule, NftTable, Ownership, Policy, Rule, Ruleset, Table, TableName, Target,
};

/// Where the kernel's own connection tracking stands at its hooks.
#[doc(alias = "NF_IP_PRI_CONNTRACK")]
pub(super) const CONNECTION_TRACKING: i32 = -200;

/// Where nat chains are called from that change destinations.
#[doc(alias = "NF_IP_PRI_NAT_DST")]
const DESTINATIONS: i32 = -100;

/// Where those are called from that change sources.
#[doc(alias = "NF_IP_PRI_NAT_SRC")]
const SOURCES: i32 = 100;

/// The tables of one family, in the kernel's order.
#[derive(Clone, Debug, Default)]
pub struct Layers<'a> {
    all: Vec<Layer<'a>>,
}

/// One base chain with the chains that it leads to.
#[derive(Clone, Debug)]
pub struct Layer<'a> {
    pub(super) source: Source<'a>,
    pub(super) family: Family,
    pub(super) hook: Hook,
    /// When its turn is at the hook.
    pub(super) turn: i32,
    /// Its own priority, which for nat chains orders them among each other only.
    priority: i32,
    /// Whether it is asked for a connection's first packet alone.
    pub(super) is_nat: bool,
    /// Whether a changed mark makes the kernel look for a route again.
    pub(super) reroutes: bool,
    pub(super) drops: bool,
    pub(super) base: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// A table of iptables: planned, or in the legacy packet filter.
    Iptables(&'a Table),
    Nft(&'a NftTable),
}

impl<'a> Layers<'a> {
    /// What the plan of a family alone makes a packet meet.
    pub fn of_plan(plan: &'a Ruleset) -> Layers<'a> {
        Layers::new(plan.family, Some(plan), &[])
    }

    /// The base chains of `legacy`, a rule set of the legacy packet filter (or a plan), and of all tables of nf_tables, as
    /// far as packets of `family` meet them.
    pub fn new(family: Family, legacy: Option<&'a Ruleset>, tables: &'a [NftTable]) -> Layers<'a> {
        let mut all = Vec::new();
        for table in legacy.into_iter().flat_map(|rules| &rules.tables) {
            for chain in &table.chains {
                let Some(base) = chain.base else { continue };
                let Some(seat) = Seat::of(table.name, base.hook) else { continue };
                let drops = base.policy == Some(Policy::Drop);
                let place = Place { hook: base.hook, seat, drops };
                add(&mut all, Source::Iptables(table), family, place, &chain.name, chain.rules.is_empty());
            }
        }
        // Of a table's chains with one priority, the one that came last is asked first.
        for table in tables.iter().rev().filter(|table| !table.dormant && is_of(family, table.family)) {
            for chain in table.chains.iter().rev() {
                let Some(place) = chain.place else { continue };
                let is_idle = chain.rules.iter().all(|rule| !concerns(rule, family));
                add(&mut all, Source::Nft(table), family, place, &chain.name, is_idle);
            }
        }
        Layers { all }
    }

    /// Whether no packet meets any rule.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The ports that rules redirect to at a hook, each once.
    pub fn redirects(&self, hook: Hook) -> Vec<u16> {
        let rules = self.at(hook, 0).into_iter().flat_map(Layer::all_rules);
        let mut ports = Vec::new();
        for (_, rule) in rules {
            if let Target::Redirect(port) = rule.target
                && !ports.contains(&port)
            {
                ports.push(port);
            }
        }
        ports
    }

    /// Those at a hook, in turn. Of tables with the same turn the one that came last is asked first. The kernel does not tell which
    /// that is: each of them is the first at one `rotation`.
    pub(super) fn at(&self, hook: Hook, rotation: usize) -> Vec<&Layer<'a>> {
        let mut layers: Vec<&Layer<'a>> = self.all.iter().filter(|layer| layer.hook == hook).collect();
        if rotation > 0 {
            for tied in layers.chunk_by_mut(|a, b| a.has_turn_of(b)) {
                let tables: Vec<usize> = tied.chunk_by(|a, b| a.is_beside(b)).map(<[_]>::len).collect();
                tied.rotate_left(tables[..rotation % tables.len()].iter().sum());
            }
        }
        layers
    }

    /// How many tables have the same turn, at most.
    pub(super) fn tied(&self) -> usize {
        let tables = |tied: &[Layer<'a>]| tied.chunk_by(Layer::is_beside).count();
        self.all.chunk_by(Layer::has_turn_of).map(tables).max().unwrap_or_default()
    }
}

fn add<'a>(all: &mut Vec<Layer<'a>>, source: Source<'a>, family: Family, place: Place, base: &'a str, is_idle: bool) {
    let Place { hook, seat: Seat { kind, priority }, drops } = place;
    if is_idle && !drops {
        return;
    }
    let is_nat = kind == "nat";
    // All nat chains of a hook are called from one place there.
    let turn = match hook {
        Hook::Prerouting | Hook::Output if is_nat => DESTINATIONS,
        _ if is_nat => SOURCES,
        _ => priority,
    };
    let layer = Layer { source, family, hook, turn, priority, is_nat, reroutes: kind == "route", drops, base };
    // There are few, and a sort is much code.
    let place = all.iter().position(|other| layer.turn() < other.turn());
    all.insert(place.unwrap_or(all.len()), layer);
}

fn is_of(family: Family, name: &str) -> bool {
    match name {
        "inet" => true,
        "ip" => family == Family::V4,
        "ip6" => family == Family::V6,
        _ => false,
    }
}

fn concerns(rule: &NftRule, family: Family) -> bool {
    rule.only.is_none_or(|only| only == family)
}

/// A rule with its place among those of its chain.
pub(super) type Placed<'a> = (usize, &'a Rule);

impl<'a> Layer<'a> {
    /// When it is asked: what orders layers.
    fn turn(&self) -> (Hook, i32, i32) {
        (self.hook, self.turn, self.priority)
    }

    fn has_turn_of(&self, other: &Layer<'_>) -> bool {
        self.turn() == other.turn()
    }

    /// Whether it is in the same table.
    fn is_beside(&self, other: &Layer<'_>) -> bool {
        match (self.source, other.source) {
            (Source::Nft(table), Source::Nft(other)) => std::ptr::eq(table, other),
            (Source::Iptables(table), Source::Iptables(other)) => std::ptr::eq(table, other),
            _ => false,
        }
    }

    fn is_legacy(&self) -> bool {
        matches!(self.source, Source::Iptables(_))
    }

    /// Whether rules mean what xtables' extensions mean: those of iptables, whichever packet filter they are in.
    pub(super) fn is_xtables(&self) -> bool {
        match self.source {
            Source::Iptables(_) => true,
            Source::Nft(table) => is_iptables_nft(table),
        }
    }

    /// The table's name, with its family where nf_tables has it: `nat`, `ip mesh-init`.
    pub fn table(&self) -> String {
        match self.source {
            Source::Iptables(table) => table.name.to_string(),
            Source::Nft(table) => format!("{} {}", table.family, table.name),
        }
    }

    /// The packet filter that it is in: `legacy` or `nftables`.
    pub fn filter(&self) -> &'static str {
        if self.is_legacy() { "legacy" } else { "nftables" }
    }

    /// The hook.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Its priority at the hook.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// The base chain's name.
    pub fn chain(&self) -> &'a str {
        self.base
    }

    /// Whether its policy drops what comes to its end.
    pub fn drops(&self) -> bool {
        self.drops
    }

    /// The rules of a chain that packets of the family meet.
    pub(super) fn rules(&self, name: &str) -> Vec<Placed<'a>> {
        match self.source {
            Source::Iptables(table) => table.chain(name).into_iter().flat_map(|chain| chain.rules.iter().enumerate()).collect(),
            Source::Nft(table) => {
                let rules = nft_chain(table, name).into_iter().flat_map(|chain| chain.rules.iter().enumerate());
                rules.filter(|(_, rule)| concerns(rule, self.family)).map(|(index, rule)| (index, &rule.rule)).collect()
            }
        }
    }

    /// The rules of all chains that it leads to, its own first.
    pub(super) fn all_rules(&self) -> Vec<Placed<'a>> {
        let mut chains = vec![self.base];
        let mut rules: Vec<Placed<'a>> = Vec::new();
        let mut at = 0;
        while let Some(chain) = chains.get(at) {
            for (index, rule) in self.rules(chain) {
                rules.push((index, rule));
                if let Target::Jump(to) | Target::Goto(to) = &rule.target
                    && let Some(name) = self.own_name(to).filter(|name| !chains.contains(name))
                {
                    chains.push(name);
                }
            }
            at += 1;
        }
        rules
    }

    /// Whose a rule is.
    pub(super) fn owner(&self, name: &str, index: usize, legacy: &[Ownership]) -> Option<Mesh> {
        match self.source {
            Source::Iptables(table) => {
                let chain = table.chain(name)?;
                legacy.iter().find(|owner| owner.owns_rule(table.name, chain, index)).map(Ownership::mesh)
            }
            Source::Nft(table) => {
                let chain = nft_chain(table, name)?;
                chain.owner.or(chain.rules.get(index)?.owner)
            }
        }
    }

    /// The chain's name as the table itself holds it.
    pub(super) fn own_name(&self, name: &str) -> Option<&'a str> {
        match self.source {
            Source::Iptables(table) => table.chain(name).map(|chain| chain.name.as_str()),
            Source::Nft(table) => nft_chain(table, name).map(|chain| chain.name.as_str()),
        }
    }

    /// One match of a rule, likewise.
    pub fn match_text(&self, rule: &Rule, wanted: &Match) -> String {
        // Ports belong to a protocol, whose name is part of their match.
        let protocol =
            rule.protocol().filter(|_| nft::is_port(&wanted.condition)).map(|protocol| Match::from(Condition::Protocol(protocol)));
        self.text(&Rule { matches: protocol.into_iter().chain([wanted.clone()]).collect(), ..Rule::new([], Target::Continue) })
    }

    /// A rule of the table in the words of the program that writes such tables.
    pub fn text(&self, rule: &Rule) -> String {
        if self.is_xtables() { iptables::specification(rule, self.family) } else { nft::words(rule, self.family, false, str::to_owned) }
    }
}

fn is_iptables_nft(table: &NftTable) -> bool {
    table.family != "inet" && TableName::ALL.iter().any(|name| name.as_str() == table.name)
}

fn nft_chain<'a>(table: &'a NftTable, name: &str) -> Option<&'a NftChain> {
    table.chains.iter().find(|chain| chain.name == name)
}
