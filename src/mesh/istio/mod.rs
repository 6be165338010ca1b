//! Istio: the options of `pilot-agent istio-iptables` and the rules that follow from them.

mod facts;
mod flags;
mod options;
mod plan;

pub use facts::Local;
pub use flags::FLAGS;
pub use options::{DnsCapture, Group, InboundPorts, InterceptionMode, Options, OutboundRanges, OwnerGroups};
pub use plan::plan;
