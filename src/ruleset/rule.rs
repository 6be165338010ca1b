//! Rules: matches, targets, comments and counters.
//!
//! Matches and targets are exactly those that the meshes use. Everything else that a kernel may hold is kept as
//! [`Opaque`], so that it can be shown and left alone without being understood.

use ipnet::IpNet;

use super::native::canonical;
use super::order;
use super::value::{AddressSet, IdRange, Interface, MarkMask, PortRange, Protocol, StateSet};

/// A rule's packet and byte counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that met the rule and matched.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One rule: all matches must hold for the target to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The matches, in the order in which iptables prints them: see [`Rule::new`].
    pub matches: Vec<Match>,
    /// What happens to a packet that matches.
    pub target: Target,
    /// The rule's comment.
    pub comment: Option<String>,
    /// Read from a kernel: the rule carries mesh-init's own invisible mark (see [`crate::kernel`]).
    pub tagged: bool,
    /// Read from a kernel: how often the rule matched.
    pub counters: Option<Counters>,
}

impl Rule {
    /// A rule with `matches` and `target`. Matches that iptables keeps in the entry's head come first, in its order
    /// (source, destination, interfaces, protocol); the others keep the order given. A prefix of length 0 and the
    /// interface `+` match everything and are left out, as iptables does.
    pub fn new(matches: impl IntoIterator<Item = Match>, target: Target) -> Rule {
        let mut matches: Vec<Match> = matches.into_iter().filter(|wanted| !wanted.is_always_true()).collect();
        order::sort_by_key(&mut matches, |wanted| wanted.condition.rank());
        Rule { matches, target, comment: None, tagged: false, counters: None }
    }

    /// The same rule with a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Rule {
        self.comment = Some(comment.into());
        self
    }

    /// The protocol that the rule is limited to.
    pub fn protocol(&self) -> Option<Protocol> {
        self.matches.iter().find_map(|wanted| match (&wanted.condition, wanted.negated) {
            (Condition::Protocol(protocol), false) => Some(*protocol),
            _ => None,
        })
    }

    /// Whether there is a match or a target in it that mesh-init does not know.
    pub fn is_opaque(&self) -> bool {
        matches!(self.target, Target::Opaque(_)) || self.matches.iter().any(|wanted| matches!(wanted.condition, Condition::Opaque(_)))
    }

    /// Whether `self` and `other` do the same to every packet: comments, counters, marks and the order of matches and of
    /// ports in a list are of no account.
    pub fn same_meaning(&self, other: &Rule) -> bool {
        self.target == other.target && (self.matches == other.matches || self.meaning() == other.meaning())
    }

    /// A text that two rules share exactly if they have the [same meaning](Rule::same_meaning).
    pub fn meaning(&self) -> String {
        let canonical = canonical(self);
        let mut matches: Vec<String> = canonical.matches.iter().map(|wanted| format!("{wanted:?}")).collect();
        order::sort_by(&mut matches, Ord::cmp);
        format!("{matches:?}{:?}", canonical.target)
    }
}

/// One condition of a rule, possibly negated (`!`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Whether the condition must not hold.
    pub negated: bool,
    /// The condition.
    pub condition: Condition,
}

impl Match {
    pub(super) fn is_always_true(&self) -> bool {
        match &self.condition {
            Condition::Source(net) | Condition::Destination(net) => !self.negated && net.prefix_len() == 0,
            Condition::InInterface(name) | Condition::OutInterface(name) => !self.negated && name.as_str() == "+",
            _ => false,
        }
    }
}

impl From<Condition> for Match {
    fn from(condition: Condition) -> Match {
        Match { negated: false, condition }
    }
}

/// `! condition`
impl std::ops::Not for Condition {
    type Output = Match;

    fn not(self) -> Match {
        Match { negated: true, condition: self }
    }
}

/// What a match looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `-s`: the source address; host bits are zero.
    Source(IpNet),
    /// `-d`: the destination address; host bits are zero.
    Destination(IpNet),
    /// The source address is one of many. No plan has it, but what nf_tables holds of a plan (see [`super::native`]).
    Sources(AddressSet),
    /// The destination address is one of many, likewise.
    Destinations(AddressSet),
    /// `-i`: the interface that the packet came in by.
    InInterface(Interface),
    /// `-o`: the interface that it leaves by.
    OutInterface(Interface),
    /// `-p`: the layer 4 protocol.
    Protocol(Protocol),
    /// `--sport` of the match named like the rule's protocol (tcp or udp).
    SourcePort(PortRange),
    /// `--dport` of the match named like the rule's protocol (tcp or udp).
    DestinationPort(PortRange),
    /// `-m multiport --sports`: at most 15 ports, a range counting as two; any number in nf_tables.
    SourcePorts(Vec<PortRange>),
    /// `-m multiport --dports`: likewise.
    DestinationPorts(Vec<PortRange>),
    /// `-m owner --uid-owner`: the user of the socket that sent the packet. A packet without a socket has none, so
    /// that only the negated match holds for it.
    Uid(IdRange),
    /// `-m owner --gid-owner`: the group of that socket.
    Gid(IdRange),
    /// `-m mark --mark`: the packet's mark.
    Mark(MarkMask),
    /// `-m connmark --mark`: the connection's mark.
    Connmark(MarkMask),
    /// `-m conntrack --ctstate`: the connection's state is one of these.
    State(StateSet),
    /// A match that mesh-init does not know.
    Opaque(Opaque),
}

impl Condition {
    /// The place that iptables gives the match: its own fields in this order, then extensions.
    fn rank(&self) -> u8 {
        match self {
            Condition::Source(_) | Condition::Sources(_) => 0,
            Condition::Destination(_) | Condition::Destinations(_) => 1,
            Condition::InInterface(_) => 2,
            Condition::OutInterface(_) => 3,
            Condition::Protocol(_) => 4,
            _ => 5,
        }
    }
}

/// What happens to a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// No target: the rule only counts.
    Continue,
    /// `ACCEPT`
    Accept,
    /// `DROP`
    Drop,
    /// `RETURN`
    Return,
    /// `-j CHAIN`
    Jump(String),
    /// `-g CHAIN`
    Goto(String),
    /// `REDIRECT --to-ports`
    Redirect(u16),
    /// `TPROXY --on-port PORT --tproxy-mark MARK`
    Tproxy {
        /// The port of the listening socket.
        port: u16,
        /// The mark put on the packet.
        mark: MarkMask,
    },
    /// `MARK --set-xmark`: zero the mask's bits, then exclusive-or the value.
    Mark(MarkMask),
    /// `CONNMARK --save-mark`: the packet's mark to the connection, all bits.
    SaveMark,
    /// `CONNMARK --restore-mark`: the connection's mark to the packet, all bits.
    RestoreMark,
    /// `CT --zone`: the connection tracking zone, both directions.
    CtZone(u16),
    /// A target that mesh-init does not know.
    Opaque(Opaque),
}

/// A match or target as the kernel holds it, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The extension's name.
    pub name: String,
    /// Its revision.
    pub revision: u8,
    /// Its data.
    pub data: Vec<u8>,
}

impl Opaque {
    /// The data as hexadecimal digits.
    pub fn hex(&self) -> String {
        self.data.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
