//! Netlink: the form of its messages, and a socket that asks the kernel questions.
//!
//! Nothing here knows what the messages mean. [`wire`] writes and reads headers and attributes; [`Socket`] sends a
//! message, waits for the kernel's verdict and collects dumps.

mod socket;
pub mod wire;

pub use socket::{NetlinkError, Protocol, Socket};
