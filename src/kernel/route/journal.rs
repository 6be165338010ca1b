//! What was changed, and how to undo it.

use std::fmt;

use nix::errno::Errno;

use super::{RouteError, address, local, rule};
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::ruleset::PolicyRoute;
use crate::ruleset::routing::PASSTHROUGH_V6;

/// Changes in the order in which they were made.
pub type Journal = Vec<Change>;

/// One change of the kernel's addresses, policy rules or routes, made or possibly made, with everything that undoing it
/// takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The passthrough address was put on the loopback device.
    PassthroughAdded {
        /// The device's number.
        lo: u32,
    },
    /// The passthrough address was taken off the loopback device.
    PassthroughRemoved {
        /// The kernel's description of it.
        payload: Vec<u8>,
    },
    /// A policy rule was added.
    RuleAdded(PolicyRoute),
    /// A policy rule was deleted.
    RuleRemoved {
        /// What it did.
        policy: PolicyRoute,
        /// The kernel's description of it, priority included.
        payload: Vec<u8>,
        /// How many rules of exactly this description there were before.
        copies: usize,
        /// The descriptions of the rules that stood behind it at the same priority.
        followers: Vec<Vec<u8>>,
    },
    /// A local default route was added.
    RouteAdded {
        /// Its family and table.
        policy: PolicyRoute,
        /// The loopback device's number.
        lo: u32,
    },
    /// A local default route was deleted.
    RouteRemoved {
        /// Its family and table.
        policy: PolicyRoute,
        /// The kernel's description of it.
        payload: Vec<u8>,
    },
}

impl Change {
    /// Makes the kernel as it was before the change. It looks first, since the change may not have taken place (the
    /// kernel's answer was lost) or may be undone already: neither is an error.
    pub fn undo(self, socket: &mut Socket) -> Result<(), RouteError> {
        match self {
            Change::PassthroughAdded { lo } => address::undo_add(socket, lo),
            Change::PassthroughRemoved { payload } => address::undo_remove(socket, &payload),
            Change::RuleAdded(policy) => rule::undo_add(socket, &policy),
            Change::RuleRemoved { policy, payload, copies, followers } => rule::undo_remove(socket, &policy, &payload, copies, &followers),
            Change::RouteAdded { policy, lo } => local::undo_add(socket, &policy, lo),
            Change::RouteRemoved { policy, payload } => local::undo_remove(socket, &policy, &payload),
        }
    }
}

/// `added IPv4 rule fwmark 0x539 lookup 133`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::PassthroughAdded { .. } => write!(f, "added {PASSTHROUGH_V6}/128 to lo"),
            Change::PassthroughRemoved { .. } => write!(f, "removed {PASSTHROUGH_V6} from lo"),
            Change::RuleAdded(policy) => write!(f, "added {}", rule::describe(policy)),
            Change::RuleRemoved { policy, .. } => write!(f, "deleted {}", rule::describe(policy)),
            Change::RouteAdded { policy, .. } => write!(f, "added {}", local::describe(policy.family, policy.table)),
            Change::RouteRemoved { policy, .. } => write!(f, "deleted {}", local::describe(policy.family, policy.table)),
        }
    }
}

/// Writes `change` down unless `outcome`, that of the request which was to make it, says for sure that the kernel did
/// not make it. When the kernel's answer is lost the change may have been made, and has to be undone with the others.
pub(super) fn record(journal: &mut Journal, change: Change, outcome: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    if outcome.as_ref().err().is_none_or(NetlinkError::leaves_doubt) {
        journal.push(change);
    }
    outcome
}

/// Whether a deletion found nothing to delete, which the kernel says by `errno`: somebody else was faster. Nothing was
/// changed then, and there is nothing to undo.
pub(super) fn was_gone(outcome: &Result<(), NetlinkError>, errno: Errno) -> bool {
    outcome.as_ref().is_err_and(|refused| refused.errno() == Some(errno))
}

/// Undoes all of `journal`, the last change first. One that cannot be undone does not keep the others from it; the
/// errors are the result.
pub fn roll_back(socket: &mut Socket, journal: Journal) -> Vec<RouteError> {
    journal.into_iter().rev().filter_map(|change| change.undo(socket).err()).collect()
}
