//! mesh-init installs the packet filter rules that send a pod's traffic to its sidecar proxy, and checks them.
//!
//! It does the work of `istio-init` and `linkerd-init` with CAP_NET_ADMIN alone, speaking to the kernel itself. What
//! happens, from left to right:
//!
//! 1. [`cli`] reads the command line, the originals' ones among them;
//! 2. [`mesh`] turns a mesh's options into a plan, purely, from what [`host`] has learnt of the machine;
//! 3. the plan is a [`ruleset`], the one language of the program: it can be printed, and compared with another;
//! 4. [`kernel`] compares it with what the kernel holds and brings it about, all of it or nothing.
//!
//! The cargo feature `manifest` brings a second program, mesh-patch, and the module of that name: Kubernetes manifests that a mesh has
//! injected, made to fit. mesh-init itself reads no YAML.
//!
//! Imports point downwards: `cli`, then `manifest`, then `mesh` and `kernel`, then `host`, then `ruleset`, which imports nothing of ours.
//! `unsafe` is in `kernel` and `host` only, and in the few lines that [`main_is`] writes into the program.

#![deny(unsafe_code)]

pub mod cli;
#[expect(unsafe_code, reason = "system calls that no crate wraps")]
pub mod host;
#[expect(unsafe_code, reason = "system calls that no crate wraps")]
pub mod kernel;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod mesh;
pub mod ruleset;
