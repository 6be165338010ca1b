//! Packet filter rules as typed values: the one language that planners, printers, comparison and kernel backends share.
//!
//! Nothing in here knows a mesh's options, a kernel interface or the machine it runs on.

pub mod compare;
pub mod equivalent;
pub mod layout;
pub mod model;
pub mod native;
pub mod nft_table;
pub mod order;
pub mod owner;
pub mod print;
pub mod routing;
pub mod rule;
pub mod value;
pub mod walk;

pub use compare::{Difference, compare};
pub use model::{Base, Chain, Family, Hook, Policy, Ruleset, Table, TableName};
pub use nft_table::{NftChain, NftRule, NftTable, Place};
pub use owner::{Mesh, Ownership, Traces};
pub use routing::{PolicyRoute, Routing};
pub use rule::{Condition, Counters, Match, Opaque, Rule, Target};
pub use value::{AddressRange, AddressSet, IdRange, Interface, MarkMask, PortRange, Protocol, StateSet};
