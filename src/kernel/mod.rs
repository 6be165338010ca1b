//! The kernel's side: packet filters, addresses and routes of the network namespace that the thread is in.
//!
//! A [`Kernel`] compares what is there with what is [`Wanted`] and brings it about, all of it or nothing. Rules go
//! through a [`Backend`]. Rules that mesh-init writes carry a mark of its own where the filter has room for one that
//! other tools neither show nor lose, so that they are known again without the options that they were made from.

pub mod backend;
mod choice;
#[cfg(feature = "iptables-command")]
pub mod command;
pub mod error;
mod found;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guard;
mod install;
pub mod legacy;
mod look;
pub mod netlink;
pub mod nftables;
pub mod route;
mod signals;
mod survey;
#[cfg(test)]
mod tests;
mod wanted;

pub use self::backend::{Backend, BackendName, Finding, Form, Held, Look, Means, Need, Unasked};
pub use self::choice::{Assignment, Choice, Programs};
pub use self::error::{Action, Cause, Error, NftCause};
pub use self::found::{forms, stays_with};
pub use self::install::{Kernel, Outcome, Settled, places};
pub use self::look::{Live, addresses};
pub use self::signals::{HeldSignals, hold_signals};
pub use self::survey::{Answer, Presence, Survey};
pub use self::wanted::{Drift, Wanted};
