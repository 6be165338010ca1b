//! The matches and targets that the meshes' rules use, as the kernel names them.

/// An extension of the packet filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Ports of TCP.
    Tcp,
    /// Ports of UDP.
    Udp,
    /// Lists of ports.
    Multiport,
    /// The user or group of a packet's socket.
    Owner,
    /// The packet's mark, compared.
    MarkMatch,
    /// The connection's mark, compared.
    ConnmarkMatch,
    /// The connection's state.
    Conntrack,
    /// Comments.
    Comment,
    /// Redirection to a local port.
    Redirect,
    /// Delivery to a transparent socket.
    Tproxy,
    /// The packet's mark, set.
    MarkTarget,
    /// The connection's mark, saved or restored.
    ConnmarkTarget,
    /// Connection tracking zones.
    Ct,
}

impl Feature {
    const ALL: [Feature; 13] = [
        Feature::Tcp,
        Feature::Udp,
        Feature::Multiport,
        Feature::Owner,
        Feature::MarkMatch,
        Feature::ConnmarkMatch,
        Feature::Conntrack,
        Feature::Comment,
        Feature::Redirect,
        Feature::Tproxy,
        Feature::MarkTarget,
        Feature::ConnmarkTarget,
        Feature::Ct,
    ];

    /// Whether it is a target; else a match.
    pub fn is_target(self) -> bool {
        matches!(self, Feature::Redirect | Feature::Tproxy | Feature::MarkTarget | Feature::ConnmarkTarget | Feature::Ct)
    }

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Tcp => "tcp",
            Feature::Udp => "udp",
            Feature::Multiport => "multiport",
            Feature::Owner => "owner",
            Feature::MarkMatch => "mark",
            Feature::ConnmarkMatch => "connmark",
            Feature::Conntrack => "conntrack",
            Feature::Comment => "comment",
            Feature::Redirect => "REDIRECT",
            Feature::Tproxy => "TPROXY",
            Feature::MarkTarget => "MARK",
            Feature::ConnmarkTarget => "CONNMARK",
            Feature::Ct => "CT",
        }
    }

    /// The revision that every kernel has, and that mesh-init writes unless a later one is there that
    /// iptables knows too.
    pub fn revision(self) -> u8 {
        match self {
            Feature::Tcp | Feature::Udp | Feature::Comment | Feature::Redirect => 0,
            Feature::MarkTarget | Feature::Ct => 2,
            Feature::Conntrack => 3,
            _ => 1,
        }
    }

    /// A revision that later kernels have. iptables takes no other than the latest for its own: it shows an older one as
    /// "unsupported".
    pub(super) fn later_revision(self) -> Option<u8> {
        (self == Feature::ConnmarkTarget).then_some(2)
    }

    /// Options of the kernel's configuration that bring it.
    pub fn kernel_option(self) -> &'static str {
        match self {
            Feature::Tcp | Feature::Udp => "CONFIG_NETFILTER_XTABLES",
            Feature::Multiport => "CONFIG_NETFILTER_XT_MATCH_MULTIPORT",
            Feature::Owner => "CONFIG_NETFILTER_XT_MATCH_OWNER",
            Feature::MarkMatch => "CONFIG_NETFILTER_XT_MATCH_MARK",
            Feature::ConnmarkMatch => "CONFIG_NETFILTER_XT_MATCH_CONNMARK",
            Feature::Conntrack => "CONFIG_NETFILTER_XT_MATCH_CONNTRACK",
            Feature::Comment => "CONFIG_NETFILTER_XT_MATCH_COMMENT",
            Feature::Redirect => "CONFIG_NETFILTER_XT_TARGET_REDIRECT",
            Feature::Tproxy => "CONFIG_NETFILTER_XT_TARGET_TPROXY",
            Feature::MarkTarget => "CONFIG_NETFILTER_XT_TARGET_MARK",
            Feature::ConnmarkTarget => "CONFIG_NETFILTER_XT_TARGET_CONNMARK",
            Feature::Ct => "CONFIG_NETFILTER_XT_TARGET_CT",
        }
    }

    /// The match of this name and revision.
    pub(super) fn of_match(name: &str, revision: u8) -> Option<Feature> {
        Feature::find(name, revision, false)
    }

    /// The target of this name and revision. Of CT and CONNMARK iptables writes other revisions than mesh-init too.
    pub(super) fn of_target(name: &str, revision: u8) -> Option<Feature> {
        match (name, revision) {
            ("CT", 1) => Some(Feature::Ct),
            ("CONNMARK", 2) => Some(Feature::ConnmarkTarget),
            _ => Feature::find(name, revision, true),
        }
    }

    fn find(name: &str, revision: u8, target: bool) -> Option<Feature> {
        Feature::ALL.into_iter().find(|feature| feature.is_target() == target && feature.name() == name && feature.revision() == revision)
    }
}

/// `the match owner (revision 1)`
impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_target() { "target" } else { "match" };
        write!(f, "the {kind} {} (revision {})", self.name(), self.revision())
    }
}
