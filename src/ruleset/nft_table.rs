//! Tables of nf_tables as they are, whoever made them, for showing.

use super::layout::Seat;
use super::{Hook, Mesh, Rule};

/// A table of nf_tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftTable {
    /// The family, as `nft` calls it: `ip`, `ip6`, `inet`, `arp`, `bridge`, `netdev`.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it is switched off: its chains catch nothing.
    pub dormant: bool,
    /// Its chains, in the kernel's order.
    pub chains: Vec<NftChain>,
}

impl NftTable {
    /// Whether any chain or rule of it belongs to a mesh.
    pub fn is_a_meshs(&self) -> bool {
        self.chains.iter().any(|chain| chain.owner.is_some() || chain.rules.iter().any(|rule| rule.owner.is_some()))
    }
}

/// A chain of such a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftChain {
    /// Its name.
    pub name: String,
    /// Where packets come to it, as `nft` says it: `type nat hook output priority -100; policy accept;`. `None` for a
    /// chain that rules jump to.
    pub base: Option<String>,
    /// The same as far as packets of IP meet it: `None` also at other hooks.
    pub place: Option<Place>,
    /// The mesh that it belongs to, if it is no base chain; `None`: nobody that is known here.
    pub owner: Option<Mesh>,
    /// Its rules.
    pub rules: Vec<NftRule>,
}

/// The place of a base chain at a hook of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The hook.
    pub hook: Hook,
    /// Type and priority.
    pub seat: Seat,
    /// Whether its policy is to drop.
    pub drops: bool,
}

/// A rule of such a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftRule {
    /// What it means; jumps name chains as this table does.
    pub rule: Rule,
    /// In a table of several families: the only one whose packets it matches, 4 or 6.
    pub only: Option<super::Family>,
    /// The mesh that it belongs to.
    pub owner: Option<Mesh>,
}
