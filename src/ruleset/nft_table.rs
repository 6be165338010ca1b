//! Tables of nf_tables as they are, whoever made them, for showing.

use super::{Mesh, Rule};

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
    /// The mesh that it belongs to, if it is no base chain; `None`: nobody that is known here.
    pub owner: Option<Mesh>,
    /// Its rules.
    pub rules: Vec<NftRule>,
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
