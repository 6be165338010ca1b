//! What can go wrong between mesh-init and the kernel.

use std::fmt;

use nix::errno::Errno;

#[cfg(feature = "iptables-command")]
use super::command::Reason;
use super::legacy::{EncodeError, Feature, LayoutError};
use super::netlink::NetlinkError;
use super::nftables;
use crate::host::machine::Machine;
use crate::ruleset::{Family, TableName};

/// What was being done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading it.
    Read,
    /// Putting rules into it or taking them out.
    Write,
    /// Taking something out of nf_tables that something else leads to.
    Remove,
}

impl Action {
    /// The word for it, after "cannot".
    const fn verb(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Write => "install",
            Action::Remove => "remove",
        }
    }
}

/// A failed dealing with the kernel's packet filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something about a table.
    #[error("cannot {} {table} rules (legacy, {family}): {cause}", action.verb())]
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
    /// nf_tables refused something.
    #[error("cannot {} {object} (nf_tables{}): {cause}", action.verb(),
            family.map(|family| format!(", {family}")).unwrap_or_default())]
    Nftables {
        /// What was being done.
        action: Action,
        /// The family, where it is one family's affair.
        family: Option<Family>,
        /// What it was done to.
        object: String,
        /// Why.
        cause: NftCause,
    },
    /// No packet filter takes the rules.
    #[error("neither packet filter takes the {family} rules: {}", reasons.iter().map(Error::to_string).collect::<Vec<_>>().join("; "))]
    Nowhere {
        /// The family.
        family: Family,
        /// What each of them said.
        reasons: Vec<Error>,
    },
    /// What was read back is not what was planned, and nobody else has written: the kernel understands the rules otherwise
    /// than mesh-init, which is a mistake of mesh-init's.
    #[error("the rules were written, but the kernel tells of others: {first} (and {more} more differences)")]
    Misread {
        /// The first difference.
        first: String,
        /// How many others there are.
        more: usize,
    },
    /// Other programs kept writing nf_tables rules.
    #[error("other programs kept changing the nf_tables rules until the deadline")]
    NftablesContended,
    /// What nf_tables tells makes no sense.
    #[error("cannot understand the nf_tables rules: {0}")]
    NftablesMalformed(#[from] super::netlink::wire::Malformed),
    /// A rule that nf_tables cannot hold.
    #[error(transparent)]
    NftablesEncode(#[from] nftables::EncodeError),
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
    /// A program of the distribution failed.
    #[cfg(feature = "iptables-command")]
    #[error(transparent)]
    Program(#[from] super::command::ProgramError),
    /// A backend that is asked for, and that this build does not have.
    #[error("this build of mesh-init has no backend {0}")]
    NoBackend(super::backend::BackendName),
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

/// Why nf_tables refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftCause {
    /// It is not in the kernel, or cannot be reached.
    Absent(Errno),
    /// It lacks something.
    Missing {
        /// What.
        feature: String,
        /// The kernel options that bring it.
        option: String,
        /// How the kernel said so.
        errno: Errno,
    },
    /// It wants CAP_NET_ADMIN over the network namespace (EPERM).
    Denied,
    /// Something that is not the mesh's leads to it (EBUSY).
    Busy,
    /// It belongs to the process with this netlink port (`flags owner`).
    Owned(u32),
    /// All rules together are longer than a message may be (EMSGSIZE).
    TooLong,
    /// An error without a meaning of its own here.
    Other(NetlinkError),
}

impl fmt::Display for NftCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NftCause::Absent(errno) => write!(f, "the kernel has no nf_tables ({errno:?})"),
            NftCause::Missing { feature, errno, .. } => write!(f, "the kernel lacks {feature} ({errno:?})"),
            NftCause::Denied => f.write_str("the kernel wants CAP_NET_ADMIN for it (EPERM)"),
            NftCause::Busy => f.write_str("something that is not the mesh's leads to it, a verdict map perhaps (EBUSY)"),
            NftCause::Owned(port) => write!(f, "it belongs to the process with the netlink port {port}, which alone may change it"),
            NftCause::TooLong => f.write_str("they are too long for one message to the kernel (EMSGSIZE)"),
            NftCause::Other(error) => error.fmt(f),
        }
    }
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
            Error::Nftables { family, cause, .. } => nftables_hint(*family, cause),
            Error::Nowhere { reasons, .. } => {
                let hints: Vec<String> = reasons.iter().filter_map(Error::hint).collect();
                (!hints.is_empty()).then(|| hints.join("; or "))
            }
            Error::Contended { .. } | Error::NftablesContended | Error::NotHeld { .. } => {
                Some("find the program that changes the rules, or give more time with --deadline".to_owned())
            }
            Error::NotUndone { cause, .. } => cause.hint(),
            #[cfg(feature = "iptables-command")]
            Error::Program(program) => program.hint().map(str::to_owned),
            // The texts of routing errors hold the remedy.
            Error::Misread { .. } => Some("please report it, with the output of dump live; another --backend may do".to_owned()),
            Error::Layout(_) | Error::Encode(_) | Error::Route(_) | Error::NftablesMalformed(_) | Error::NftablesEncode(_) => None,
            Error::NoBackend(_) => None,
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
        match self {
            Error::Table { cause, .. } => matches!(cause, Cause::NoFamily | Cause::NoFilter | Cause::NoTable),
            Error::Nftables { cause, .. } => matches!(cause, NftCause::Absent(_)),
            Error::Nowhere { reasons, .. } => reasons.iter().all(Error::is_filter_absent),
            #[cfg(feature = "iptables-command")]
            Error::Program(program) => program.refused_family().is_some(),
            _ => false,
        }
    }

    /// The family whose rules this packet filter cannot hold, where the error says so: another one may.
    pub fn refused_family(&self) -> Option<Family> {
        match self {
            Error::Table { family, cause, .. } => {
                let refused = match cause {
                    Cause::NoFamily | Cause::NoFilter | Cause::NoTable | Cause::NoFeature(_) => true,
                    Cause::Errno(errno) => matches!(errno, Errno::EINVAL | Errno::EOPNOTSUPP),
                    Cause::Denied => false,
                };
                Some(*family).filter(|_| refused)
            }
            Error::Nftables { family, cause: NftCause::Absent(_) | NftCause::Missing { .. } | NftCause::TooLong, .. } => *family,
            #[cfg(feature = "iptables-command")]
            Error::Program(program) => program.refused_family(),
            _ => None,
        }
    }

    /// Whether the legacy packet filter refuses a rule without saying why (EINVAL), as it does an unmapped owner's.
    pub fn is_rule_invalid(&self) -> bool {
        match self.root() {
            Error::Table { cause, .. } => *cause == Cause::Errno(Errno::EINVAL),
            Error::Nowhere { reasons, .. } => reasons.iter().any(Error::is_rule_invalid),
            _ => false,
        }
    }

    /// Adds what `other` finds missing in nf_tables to what this error says is missing there.
    pub(super) fn add_missing(&mut self, other: &Error) {
        let Error::Nftables { cause: NftCause::Missing { feature, option, .. }, .. } = self else { return };
        let Error::Nftables { cause: NftCause::Missing { feature: more, option: by, .. }, .. } = other else { return };
        for (list, item) in [(feature, more), (option, by)] {
            if !list.contains(item.as_str()) {
                list.push_str(", ");
                list.push_str(item);
            }
        }
    }

    /// Whether the kernel wants a privilege that is missing.
    pub fn is_denied(&self) -> bool {
        match self {
            Error::Table { cause, .. } => *cause == Cause::Denied,
            Error::Nftables { cause, .. } => *cause == NftCause::Denied,
            Error::Route(route) => route.errno() == Some(Errno::EPERM),
            #[cfg(feature = "iptables-command")]
            Error::Program(program) => matches!(program.reason(), Reason::Denied | Reason::DeniedLegacy),
            _ => false,
        }
    }
}

fn nftables_hint(family: Option<Family>, cause: &NftCause) -> Option<String> {
    match cause {
        NftCause::Absent(_) => {
            let of_family = match family {
                Some(Family::V6) => "CONFIG_NF_TABLES_IPV6=y",
                _ => "CONFIG_NF_TABLES_IPV4=y",
            };
            Some(bring("nf_tables", &format!("CONFIG_NF_TABLES=y {of_family} CONFIG_NFT_NAT=y CONFIG_NFT_REDIR=y")))
        }
        NftCause::Missing { option, .. } => {
            Some(format!("build the kernel with {}=y", option.replace(", ", "=y ").replace(" and ", "=y ")))
        }
        NftCause::Busy => Some("find what leads to it with nft list ruleset, and take that out".to_owned()),
        NftCause::Owned(_) => Some("end that process".to_owned()),
        NftCause::TooLong => Some("raise net.core.wmem_max".to_owned()),
        NftCause::Denied | NftCause::Other(_) => None,
    }
}

/// How a kernel gets what it lacks: by a module if it can load any, as a Kata guest's cannot, or by the options `options`.
fn bring(module: &str, options: &str) -> String {
    match Machine::default().has_modules() {
        true => format!("load the module {module} on the node, or build the kernel with {options}"),
        false => format!("build the kernel with {options}"),
    }
}

/// What the options of a family's legacy packet filter begin with.
const fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "CONFIG_IP_NF",
        Family::V6 => "CONFIG_IP6_NF",
    }
}

/// The option that brings a legacy table.
pub(super) fn table_option(family: Family, table: TableName) -> String {
    format!("{}_{}", prefix(family), table.as_str().to_ascii_uppercase())
}

fn cause_hint(family: Family, table: TableName, cause: &Cause) -> Option<String> {
    let prefix = prefix(family);
    let table_option = table_option(family, table);
    let module = match family {
        Family::V4 => format!("iptable_{table}"),
        Family::V6 => format!("ip6table_{table}"),
    };
    let without_v6 = if family == Family::V6 { ", or leave IPv6 alone (Linkerd: --ipv6=false; Istio: no --dual-stack)" } else { "" };
    Some(match cause {
        Cause::NoFamily => "boot the kernel without ipv6.disable=1, or leave IPv6 alone".to_owned(),
        Cause::NoFilter | Cause::NoTable => bring(&module, &format!("{prefix}_IPTABLES_LEGACY=y and {table_option}=y{without_v6}")),
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
