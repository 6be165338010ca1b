//! mesh-patch: what it makes of injected manifests, that it leaves every other byte, and what it says where it cannot.

#![cfg(feature = "manifest")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod bad;
mod command_line;
mod edits;
mod fixtures;
mod injection;
mod kata;
mod kustomize;
mod program;
mod properties;
mod styles;
