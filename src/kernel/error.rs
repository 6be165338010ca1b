//! What can go wrong between mesh-init and the kernel.

use std::fmt;

use nix::errno::Errno;

use super::legacy::{EncodeError, Feature, LayoutError};
use crate::ruleset::{Family, TableName};

/// What was being done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading it.
    Read,
    /// Putting rules into it or taking them out.
    Write,
}

/// A failed dealing with the kernel's packet filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something about a table.
    #[error("cannot {} {table} rules (legacy, {family}): {cause}", match action { Action::Read => "read", Action::Write => "install" })]
    Table {
        /// What was being done.
        action: Action,
        /// The family.
        family: Family,
        /// The table.
        table: TableName,
        /// Why.
        cause: Cause,
    },
    /// Other programs kept writing rules.
    #[error("other programs kept changing the {family} {table} rules until the deadline")]
    Contended {
        /// The family.
        family: Family,
        /// The table.
        table: TableName,
    },
    /// What was read back after everything was written is not what was planned.
    #[error("the rules were written, but the kernel holds others: {first} (and {more} more differences)")]
    NotHeld {
        /// The first difference.
        first: String,
        /// How many others there are.
        more: usize,
    },
    /// A table whose bytes make no sense.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A rule that has no legacy form.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Something about addresses, policy rules or routes.
    #[error(transparent)]
    Route(#[from] super::route::RouteError),
    /// Something failed, and taking back what was done before it failed too.
    #[error("{cause}; and putting back what was there before failed too: {}", problems.join("; "))]
    NotUndone {
        /// The first failure.
        cause: Box<Error>,
        /// What could not be put back.
        problems: Vec<String>,
    },
}

/// Why the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has no such address family (EAFNOSUPPORT).
    NoFamily,
    /// It has no legacy packet filter for the family (ENOPROTOOPT).
    NoFilter,
    /// It has no such table (ENOENT).
    NoTable,
    /// It lacks matches or targets.
    NoFeature(Vec<Feature>),
    /// It wants CAP_NET_ADMIN over the network namespace (EPERM).
    Denied,
    /// An error without a meaning of its own here.
    Errno(Errno),
}

impl Cause {
    /// The cause behind an errno of a table's socket option.
    pub(super) fn of(errno: Errno) -> Cause {
        match errno {
            Errno::EAFNOSUPPORT => Cause::NoFamily,
            Errno::ENOPROTOOPT => Cause::NoFilter,
            Errno::ENOENT => Cause::NoTable,
            Errno::EPERM => Cause::Denied,
            errno => Cause::Errno(errno),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NoFamily => f.write_str("the kernel has no such address family"),
            Cause::NoFilter => f.write_str("the kernel has no legacy packet filter for it (ENOPROTOOPT)"),
            Cause::NoTable => f.write_str("the kernel has no such table (ENOENT)"),
            Cause::NoFeature(features) => {
                let names: Vec<String> = features.iter().map(Feature::to_string).collect();
                write!(f, "the kernel lacks {}", names.join(", "))
            }
            Cause::Denied => f.write_str("the kernel wants CAP_NET_ADMIN for it (EPERM)"),
            Cause::Errno(errno) => write!(f, "{} ({errno:?})", errno.desc()),
        }
    }
}

impl Error {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Table { family, table, cause, .. } => cause_hint(*family, *table, cause),
            Error::Contended { .. } | Error::NotHeld { .. } => {
                Some("find the program that changes the rules, or give more time with --deadline".to_owned())
            }
            Error::NotUndone { cause, .. } => cause.hint(),
            // The texts of routing errors hold the remedy.
            Error::Layout(_) | Error::Encode(_) | Error::Route(_) => None,
        }
    }

    /// The error that set things going, when undoing failed too.
    pub fn root(&self) -> &Error {
        match self {
            Error::NotUndone { cause, .. } => cause.root(),
            error => error,
        }
    }

    /// Whether the kernel has no rules of this family, in the table in question at least.
    pub fn is_filter_absent(&self) -> bool {
        matches!(self, Error::Table { cause: Cause::NoFamily | Cause::NoFilter | Cause::NoTable, .. })
    }
}

fn cause_hint(family: Family, table: TableName, cause: &Cause) -> Option<String> {
    let prefix = match family {
        Family::V4 => "CONFIG_IP_NF",
        Family::V6 => "CONFIG_IP6_NF",
    };
    let table_option = format!("{prefix}_{}", table.as_str().to_ascii_uppercase());
    let module = match family {
        Family::V4 => format!("iptable_{table}"),
        Family::V6 => format!("ip6table_{table}"),
    };
    let without_v6 = if family == Family::V6 { ", or leave IPv6 alone (Linkerd: --ipv6=false; Istio: no --dual-stack)" } else { "" };
    Some(match cause {
        Cause::NoFamily => "boot the kernel without ipv6.disable=1, or leave IPv6 alone".to_owned(),
        Cause::NoFilter | Cause::NoTable => {
            format!(
                "load the module {module} on the node, or build the kernel with {prefix}_IPTABLES_LEGACY=y and {table_option}=y{without_v6}"
            )
        }
        Cause::NoFeature(features) => {
            let options: Vec<String> = features.iter().map(|feature| format!("{}=y", feature.kernel_option())).collect();
            format!("build the kernel with {}", options.join(" "))
        }
        Cause::Denied => return None,
        Cause::Errno(Errno::EINVAL | Errno::EOPNOTSUPP) if table == TableName::Raw => {
            "connection tracking zones need CONFIG_NF_CONNTRACK_ZONES=y; the kernel's log tells more".to_owned()
        }
        Cause::Errno(Errno::EINVAL) => {
            "an owner's uid or gid that is not mapped in the pod's user namespace is refused so; the kernel's log tells more".to_owned()
        }
        Cause::Errno(_) => return None,
    })
}
