//! The kernel's side: packet filters, addresses and routes of the network namespace that the thread is in.
//!
//! A [`Kernel`] compares what is there with what is [`Wanted`] and brings it about, all of it or nothing. Rules go
//! through a [`Backend`]. Rules that mesh-init writes carry a mark of its own where the filter has room for one that
//! other tools neither show nor lose, so that they are known again without the options that they were made from.

pub mod backend;
pub mod error;
mod families;
mod install;
pub mod legacy;
pub mod netlink;
pub mod route;
mod signals;

pub use self::backend::Backend;
pub use self::error::{Action, Cause, Error};
pub use self::families::settle_ipv6;
pub use self::install::{Drift, Kernel, Outcome, Wanted, addresses};
pub use self::signals::{HeldSignals, hold_signals};
