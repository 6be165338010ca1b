//! mesh-init installs the packet filter rules that send a pod's traffic to its sidecar proxy, and checks them.
#![deny(unsafe_code)]

pub mod ruleset;
