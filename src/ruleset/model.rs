//! The rule set's frame: families, tables, hooks and chains.

use std::fmt;

use ipnet::IpNet;

use super::rule::{Counters, Rule};

/// An address family; a rule set belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }

    /// The family that `net` belongs to.
    pub fn of(net: &IpNet) -> Family {
        match net {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A table of the packet filter. `Security` is never planned, only read and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableName {
    /// Before connection tracking.
    Raw,
    /// Marks and TPROXY.
    Mangle,
    /// Address translation, REDIRECT among it.
    Nat,
    /// Accept or drop.
    Filter,
    /// Mandatory access control marks.
    Security,
}

impl TableName {
    /// Every table, in the order in which a packet meets them.
    pub const ALL: [TableName; 5] = [TableName::Raw, TableName::Mangle, TableName::Nat, TableName::Filter, TableName::Security];

    /// The kernel's name of the table.
    pub fn as_str(self) -> &'static str {
        match self {
            TableName::Raw => "raw",
            TableName::Mangle => "mangle",
            TableName::Nat => "nat",
            TableName::Filter => "filter",
            TableName::Security => "security",
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A netfilter hook, numbered as in `linux/netfilter.h` (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`
    Prerouting = 0,
    /// `NF_INET_LOCAL_IN`
    Input = 1,
    /// `NF_INET_FORWARD`
    Forward = 2,
    /// `NF_INET_LOCAL_OUT`
    Output = 3,
    /// `NF_INET_POST_ROUTING`
    Postrouting = 4,
}

impl Hook {
    /// All hooks in the kernel's order.
    pub const ALL: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The name of the built-in chain at this hook.
    pub fn chain(self) -> &'static str {
        match self {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        }
    }

    /// The hook whose built-in chain is called `chain`.
    pub fn from_chain(chain: &str) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| hook.chain() == chain)
    }
}

/// The rules of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The family.
    pub family: Family,
    /// Tables that hold anything, in the order of [`TableName::ALL`].
    pub tables: Vec<Table>,
}

impl Ruleset {
    /// A rule set without tables.
    pub fn new(family: Family) -> Ruleset {
        Ruleset { family, tables: Vec::new() }
    }

    /// The table called `name`.
    pub fn table(&self, name: TableName) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The table called `name`, made in its place if it is not there yet.
    pub fn table_mut(&mut self, name: TableName) -> &mut Table {
        let at = match self.tables.binary_search_by_key(&name, |table| table.name) {
            Ok(at) => at,
            Err(at) => {
                self.tables.insert(at, Table { name, chains: Vec::new() });
                at
            }
        };
        &mut self.tables[at]
    }

    /// How many rules there are in all tables.
    pub fn rule_count(&self) -> usize {
        self.tables.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum()
    }
}

/// A table with its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which table.
    pub name: TableName,
    /// Built-in chains in hook order, then own chains by name.
    pub chains: Vec<Chain>,
}

impl Table {
    /// The chain called `name`.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The chain called `name`, made in its place if it is not there yet. PREROUTING, INPUT, FORWARD, OUTPUT and
    /// POSTROUTING become built-in chains without a policy of ours.
    pub fn chain_mut(&mut self, name: &str) -> &mut Chain {
        fn key(hook: Option<Hook>, name: &str) -> (u8, &str) {
            hook.map_or((u8::MAX, name), |hook| (hook as u8, ""))
        }
        let hook = Hook::from_chain(name);
        let wanted = key(hook, name);
        let at = match self.chains.binary_search_by(|chain| key(chain.base.as_ref().map(|base| base.hook), &chain.name).cmp(&wanted)) {
            Ok(at) => at,
            Err(at) => {
                let base = hook.map(|hook| Base { hook, policy: None, head: 0, counters: None });
                self.chains.insert(at, Chain { name: name.to_owned(), base, rules: Vec::new() });
                at
            }
        };
        &mut self.chains[at]
    }
}

/// A chain and its rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The chain's name.
    pub name: String,
    /// What makes it a built-in chain; `None` for a chain that rules jump to.
    pub base: Option<Base>,
    /// The rules, in the order in which packets meet them.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Puts `rule` before every other rule, foreign ones included: `iptables -I CHAIN 1`.
    pub fn insert_first(&mut self, rule: Rule) {
        self.insert_each_first(vec![rule]);
    }

    /// Puts each of `rules` before every other rule, so that the last one is the first: `iptables -I CHAIN 1` of one after
    /// the other.
    pub fn insert_each_first(&mut self, rules: Vec<Rule>) {
        if let Some(base) = &mut self.base {
            base.head += rules.len();
        }
        self.rules.splice(0..0, rules.into_iter().rev());
    }
}

/// What a built-in chain has that others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where in the packet's way the chain stands.
    pub hook: Hook,
    /// The verdict at the chain's end. In a plan, `None` leaves whatever policy is there.
    pub policy: Option<Policy>,
    /// In a plan: how many of the rules, from the first, go before foreign rules (`iptables -I`). The others go
    /// after them (`iptables -A`). 0 in what is read from a kernel.
    pub head: usize,
    /// Read from a kernel: how often the policy was the verdict.
    pub counters: Option<Counters>,
}

/// A built-in chain's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Let the packet pass.
    Accept,
    /// Drop it.
    Drop,
}

impl Policy {
    /// `ACCEPT` or `DROP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Accept => "ACCEPT",
            Policy::Drop => "DROP",
        }
    }
}
