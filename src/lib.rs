//! mesh-init installs the packet filter rules that send a pod's traffic to its sidecar proxy, and checks them.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "system calls that no crate wraps")]
pub mod host;
#[expect(unsafe_code, reason = "system calls that no crate wraps")]
pub mod kernel;
pub mod mesh;
pub mod ruleset;
