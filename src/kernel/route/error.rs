//! Why an address, a rule or a route could not be read or changed.

use nix::errno::Errno;

use crate::kernel::netlink::NetlinkError;
use crate::ruleset::Family;

/// A failure of rtnetlink, with what was being done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The loopback device has IPv6 switched off.
    #[error("cannot {doing}: lo has IPv6 disabled; set net.ipv6.conf.lo.disable_ipv6=0")]
    Ipv6DisabledOnLoopback {
        /// What was being done, to be read after "cannot".
        doing: String,
    },
    /// The kernel has no IPv6, or it was started without.
    #[error("cannot {doing}: the kernel has no IPv6 ({errno})")]
    NoIpv6 {
        /// What was being done.
        doing: String,
        /// `EAFNOSUPPORT` or `EOPNOTSUPP`
        errno: Errno,
    },
    /// The namespace has no loopback device, or this device has no part in IPv6.
    #[error("cannot {doing}: there is no usable lo in this network namespace ({errno})")]
    NoLoopback {
        /// What was being done.
        doing: String,
        /// `ENODEV`
        errno: Errno,
    },
    /// The loopback device is down.
    #[error("cannot {doing}: lo is down; set it up first (ip link set lo up)")]
    LoopbackDown {
        /// What was being done.
        doing: String,
    },
    /// The kernel was built without policy rules.
    #[error("cannot {doing}: the kernel has no policy routing; build it with {}=y", policy_routing_option(*family))]
    NoPolicyRouting {
        /// What was being done.
        doing: String,
        /// The family in which there are no rules.
        family: Family,
    },
    /// The routing table has another default route already.
    #[error("cannot {doing}: the table has another default route; choose another table or delete that route")]
    RouteTaken {
        /// What was being done.
        doing: String,
    },
    /// Everything else.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// The kernel's answer, or why there is none.
        source: NetlinkError,
    },
}

/// The option of the kernel's configuration that brings policy rules.
pub fn policy_routing_option(family: Family) -> &'static str {
    match family {
        Family::V4 => "CONFIG_IP_MULTIPLE_TABLES",
        Family::V6 => "CONFIG_IPV6_MULTIPLE_TABLES",
    }
}

impl RouteError {
    /// The kernel's error number, where it gave one that no other variant tells.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            RouteError::Kernel { source, .. } => source.errno(),
            RouteError::NoIpv6 { errno, .. } | RouteError::NoLoopback { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// An error of a list or a lookup, which has no special cases.
    pub(super) fn reading(what: &str) -> impl Fn(NetlinkError) -> RouteError {
        move |source| RouteError::Kernel { doing: format!("read {what}"), source }
    }

    /// An error of a change to an address or route of `family` on the loopback device.
    pub(super) fn changing(doing: String, family: Family) -> impl FnOnce(NetlinkError) -> RouteError {
        move |source| match (source.errno(), family) {
            (Some(Errno::EACCES), Family::V6) => RouteError::Ipv6DisabledOnLoopback { doing },
            (Some(errno @ (Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)), Family::V6) => RouteError::NoIpv6 { doing, errno },
            (Some(errno @ Errno::ENODEV), _) => RouteError::NoLoopback { doing, errno },
            (Some(Errno::ENETDOWN), _) => RouteError::LoopbackDown { doing },
            _ => RouteError::Kernel { doing, source },
        }
    }

    /// An error of a change to the policy rules of `family`.
    pub(super) fn changing_rules(doing: String, family: Family) -> impl FnOnce(NetlinkError) -> RouteError {
        move |source| match source.errno() {
            Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) => RouteError::NoPolicyRouting { doing, family },
            _ => RouteError::Kernel { doing, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: Errno) -> NetlinkError {
        NetlinkError::Refused { errno, text: None, offset: None }
    }

    fn address(errno: Errno) -> String {
        RouteError::changing("add ::6/128 to lo".to_owned(), Family::V6)(refused(errno)).to_string()
    }

    #[test]
    fn each_way_of_lacking_ipv6_has_its_own_message() {
        assert_eq!(address(Errno::EACCES), "cannot add ::6/128 to lo: lo has IPv6 disabled; set net.ipv6.conf.lo.disable_ipv6=0");
        assert_eq!(
            address(Errno::EOPNOTSUPP),
            "cannot add ::6/128 to lo: the kernel has no IPv6 (EOPNOTSUPP: Operation not supported on transport endpoint)"
        );
        assert_eq!(
            address(Errno::EAFNOSUPPORT),
            "cannot add ::6/128 to lo: the kernel has no IPv6 (EAFNOSUPPORT: Address family not supported by protocol)"
        );
        assert_eq!(
            address(Errno::ENODEV),
            "cannot add ::6/128 to lo: there is no usable lo in this network namespace (ENODEV: No such device)"
        );
        assert_eq!(address(Errno::EPERM), "cannot add ::6/128 to lo: EPERM: Operation not permitted");
    }

    #[test]
    fn a_kernel_without_policy_routing_is_told_what_to_build() {
        for errno in [Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT] {
            for (family, option) in [(Family::V4, "CONFIG_IP_MULTIPLE_TABLES=y"), (Family::V6, "CONFIG_IPV6_MULTIPLE_TABLES=y")] {
                let error = RouteError::changing_rules("add it".to_owned(), family)(refused(errno));
                assert_eq!(error.to_string(), format!("cannot add it: the kernel has no policy routing; build it with {option}"));
            }
        }
    }
}
