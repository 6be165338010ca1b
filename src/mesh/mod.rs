//! The meshes: what they were told (their own flags and environment) becomes a plan of rules.
//!
//! Everything here is pure: no kernel, no clock, no files. What a plan needs to know of the machine comes in as
//! [`Surroundings`](crate::host::Surroundings).

pub mod address;
pub mod captured;
pub(crate) mod duration;
mod error;
pub mod flag;
pub mod istio;
pub mod linkerd;
pub mod log;
mod matches;
mod names;
#[cfg(test)]
mod testing;
pub(crate) mod value;

pub use error::Error;

pub use crate::ruleset::Mesh;
use crate::ruleset::{Routing, Ruleset};

/// Which of the distribution's iptables programs the original tool was told to run: a wish for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IptablesMode {
    /// `iptables-legacy`: xtables.
    Legacy,
    /// `iptables-nft`: nf_tables.
    Nft,
    /// `iptables`, whichever that is.
    Plain,
}

/// Which files a mesh's options make a plan depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The resolver's configuration, for the DNS servers in it.
    pub resolv_conf: bool,
    /// The group file, for the number of a named group.
    pub group_file: bool,
    /// The password file, for the proxy's user.
    pub passwd_file: bool,
}

/// What a mesh wants to find in the kernel.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The mesh.
    pub mesh: Mesh,
    /// The rules, IPv4 first. A family that the mesh was told to leave alone has no rule set.
    pub rulesets: Vec<Ruleset>,
    /// Addresses and policy routes.
    pub routing: Routing,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}
