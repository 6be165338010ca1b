//! Rules into legacy entries. The structures are those of `linux/netfilter/xt_*.h`.

use ipnet::IpNet;

use super::abi::{self, Layout, inversion};
use super::bytes::put;
use super::entry::{Entry, Lead, extension};
use super::feature::Feature;
use crate::ruleset::{Condition, Family, IdRange, Interface, MarkMask, Match, PortRange, Protocol, Rule, StateSet, Target};

/// A rule that the legacy interface cannot hold: a planner's mistake, never a user's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no legacy {family} entry can hold this rule: {problem}")]
pub struct EncodeError {
    family: Family,
    problem: &'static str,
}

/// `rule` as an entry, marked as mesh-init's. Of the features in `later` the kernel has the later revision.
pub(super) fn entry(family: Family, rule: &Rule, later: &[Feature]) -> Result<Entry, EncodeError> {
    let fault = |problem| EncodeError { family, problem };
    let mut matches = Vec::new();
    let mut head = Head::new(family);
    let mut rest = rule.matches.as_slice();
    while let Some((wanted, after)) = rest.split_first() {
        rest = after;
        match &wanted.condition {
            Condition::SourcePort(_) | Condition::DestinationPort(_) => {
                // One extension tests both ports of a packet.
                let (ports, other) = rest.split_at(rest.iter().take_while(|next| is_port(next)).count());
                rest = other;
                matches.extend(port_match(rule.protocol(), wanted, ports).ok_or_else(|| fault("a port without tcp or udp"))?);
            }
            condition => match extension_match(condition, wanted.negated).map_err(fault)? {
                Some(bytes) => matches.extend(bytes),
                None => head.set(wanted).map_err(fault)?,
            },
        }
    }
    if let Some(comment) = &rule.comment {
        if comment.len() >= COMMENT_SIZE {
            return Err(fault("its comment is too long"));
        }
        matches.extend(extension(comment.as_bytes(), Feature::Comment.name(), 0, abi::EXTENSION_HEAD + COMMENT_SIZE));
    }
    let (target, lead) = target(family, &rule.target, later).map_err(fault)?;
    if matches!(rule.target, Target::Goto(_)) {
        head.flags |= Layout::of(family).flag_goto;
    }
    if Layout::of(family).size + matches.len() + target.len() > usize::from(u16::MAX) {
        return Err(fault("it has too many matches"));
    }
    let mut entry = Entry::assemble(family, &matches, &target);
    entry.lead = lead;
    head.write(&mut entry.bytes);
    Ok(entry)
}

/// The extensions that `rule` needs besides the family's own head and verdicts.
pub(super) fn features(rule: &Rule) -> Vec<Feature> {
    let mut needed: Vec<Feature> = rule
        .matches
        .iter()
        .filter_map(|wanted| match &wanted.condition {
            Condition::SourcePort(_) | Condition::DestinationPort(_) if rule.protocol() == Some(Protocol::UDP) => Some(Feature::Udp),
            Condition::SourcePort(_) | Condition::DestinationPort(_) => Some(Feature::Tcp),
            Condition::SourcePorts(_) | Condition::DestinationPorts(_) => Some(Feature::Multiport),
            Condition::Uid(_) | Condition::Gid(_) => Some(Feature::Owner),
            Condition::Mark(_) => Some(Feature::MarkMatch),
            Condition::Connmark(_) => Some(Feature::ConnmarkMatch),
            Condition::State(_) => Some(Feature::Conntrack),
            _ => None,
        })
        .collect();
    if rule.comment.is_some() {
        needed.push(Feature::Comment);
    }
    needed.extend(match &rule.target {
        Target::Redirect(_) => Some(Feature::Redirect),
        Target::Tproxy { .. } => Some(Feature::Tproxy),
        Target::Mark(_) => Some(Feature::MarkTarget),
        Target::SaveMark | Target::RestoreMark => Some(Feature::ConnmarkTarget),
        Target::CtZone(_) => Some(Feature::Ct),
        _ => None,
    });
    needed
}

/// `XT_MAX_COMMENT_LEN`
const COMMENT_SIZE: usize = 256;

/// The part of an entry before its matches.
struct Head {
    family: Family,
    bytes: Vec<u8>,
    flags: u8,
    inversions: u8,
}

impl Head {
    fn new(family: Family) -> Head {
        Head { family, bytes: vec![0; Layout::of(family).size], flags: 0, inversions: 0 }
    }

    fn set(&mut self, wanted: &Match) -> Result<(), &'static str> {
        let layout = Layout::of(self.family);
        let bit = match &wanted.condition {
            Condition::Source(net) => {
                self.address(0, net)?;
                inversion::SOURCE
            }
            Condition::Destination(net) => {
                self.address(1, net)?;
                inversion::DESTINATION
            }
            Condition::InInterface(interface) => {
                self.interface(0, interface);
                inversion::IN
            }
            Condition::OutInterface(interface) => {
                self.interface(1, interface);
                inversion::OUT
            }
            Condition::Protocol(protocol) => {
                put(&mut self.bytes, layout.protocol, &u16::from(protocol.0).to_ne_bytes());
                self.flags |= layout.flag_protocol;
                inversion::PROTOCOL
            }
            _ => return Err("a match that is not known is never written"),
        };
        if wanted.negated {
            self.inversions |= bit;
        }
        Ok(())
    }

    /// Source (0) or destination (1): the address, and its mask two places after it.
    fn address(&mut self, place: usize, net: &IpNet) -> Result<(), &'static str> {
        if Family::of(net) != self.family {
            return Err("an address of the other family");
        }
        let (address, mask) = match net {
            IpNet::V4(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
            IpNet::V6(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        };
        let layout = Layout::of(self.family);
        put(&mut self.bytes, layout.source + place * layout.address, &address);
        put(&mut self.bytes, layout.source + (place + 2) * layout.address, &mask);
        Ok(())
    }

    /// In (0) or out (1): the name, and its mask two places after it. The mask of a whole name covers its NUL too.
    fn interface(&mut self, place: usize, interface: &Interface) {
        let (name, more) = interface.pattern();
        let at = Layout::of(self.family).in_interface;
        let covered = name.len() + usize::from(!more);
        put(&mut self.bytes, at + place * INTERFACE_SIZE, name.as_bytes());
        put(&mut self.bytes, at + (place + 2) * INTERFACE_SIZE, &vec![0xff; covered]);
    }

    /// Writes everything but the entry's lengths, which are in `entry` already.
    fn write(&self, entry: &mut [u8]) {
        let layout = Layout::of(self.family);
        put(entry, 0, &self.bytes[..layout.flags]);
        put(entry, layout.flags, &[self.flags]);
        put(entry, layout.inversions, &[self.inversions]);
        put(entry, layout.nfcache, &abi::TAG.to_ne_bytes());
    }
}

/// `IFNAMSIZ`
pub(super) const INTERFACE_SIZE: usize = 16;

fn is_port(wanted: &Match) -> bool {
    matches!(wanted.condition, Condition::SourcePort(_) | Condition::DestinationPort(_))
}

/// `struct xt_tcp` or `struct xt_udp`.
fn port_match(protocol: Option<Protocol>, first: &Match, more: &[Match]) -> Option<Vec<u8>> {
    let (feature, size, inversions_at) = match protocol? {
        Protocol::TCP => (Feature::Tcp, 12, 11),
        Protocol::UDP => (Feature::Udp, 10, 8),
        _ => return None,
    };
    let mut data = vec![0; size];
    for place in [2, 6] {
        put(&mut data, place, &u16::MAX.to_ne_bytes());
    }
    for wanted in std::iter::once(first).chain(more) {
        let (at, bit, range) = match &wanted.condition {
            Condition::SourcePort(range) => (0, 1, range),
            Condition::DestinationPort(range) => (4, 2, range),
            _ => return None,
        };
        put(&mut data, at, &range.first.to_ne_bytes());
        put(&mut data, at + 2, &range.last.to_ne_bytes());
        if wanted.negated {
            data[inversions_at] |= bit;
        }
    }
    Some(extension(&data, feature.name(), feature.revision(), 0))
}

/// Matches that are extensions; `None` for one that is in the entry's head.
fn extension_match(condition: &Condition, negated: bool) -> Result<Option<Vec<u8>>, &'static str> {
    let (feature, data) = match condition {
        Condition::SourcePorts(list) => (Feature::Multiport, multiport(0, list, negated)?),
        Condition::DestinationPorts(list) => (Feature::Multiport, multiport(1, list, negated)?),
        Condition::Uid(id) => (Feature::Owner, owner(0, 1, *id, negated)),
        Condition::Gid(id) => (Feature::Owner, owner(8, 2, *id, negated)),
        Condition::Mark(mark) => (Feature::MarkMatch, mark_match(*mark, negated)),
        Condition::Connmark(mark) => (Feature::ConnmarkMatch, mark_match(*mark, negated)),
        Condition::State(states) => (Feature::Conntrack, conntrack(*states, negated)),
        _ => return Ok(None),
    };
    Ok(Some(extension(&data, feature.name(), feature.revision(), 0)))
}

/// How many ports `struct xt_multiport_v1` holds; a range takes two places.
pub(super) const MULTIPORT_PLACES: usize = 15;

fn multiport(direction: u8, list: &[PortRange], negated: bool) -> Result<Vec<u8>, &'static str> {
    let mut data = vec![0; 48];
    let mut places = 0;
    for range in list {
        let ports: &[u16] = if range.is_range() { &[range.first, range.last] } else { &[range.first] };
        if places + ports.len() > MULTIPORT_PLACES {
            return Err("more than 15 ports in one multiport match");
        }
        if range.is_range() {
            data[32 + places] = 1;
        }
        for port in ports {
            put(&mut data, 2 + 2 * places, &port.to_ne_bytes());
            places += 1;
        }
    }
    data[0] = direction;
    data[1] = places as u8;
    data[47] = u8::from(negated);
    Ok(data)
}

/// `struct xt_owner_match_info`: ids at `at`, the flag that they count.
fn owner(at: usize, flag: u8, id: IdRange, negated: bool) -> Vec<u8> {
    let mut data = vec![0; 20];
    put(&mut data, at, &id.first.to_ne_bytes());
    put(&mut data, at + 4, &id.last.to_ne_bytes());
    data[16] = flag;
    data[17] = if negated { flag } else { 0 };
    data
}

/// `struct xt_mark_mtinfo1`, `struct xt_connmark_mtinfo1`
fn mark_match(mark: MarkMask, negated: bool) -> Vec<u8> {
    let mut data = vec![0; 12];
    put(&mut data, 0, &mark.value.to_ne_bytes());
    put(&mut data, 4, &mark.mask.to_ne_bytes());
    data[8] = u8::from(negated);
    data
}

/// `XT_CONNTRACK_STATE`
pub(super) const CONNTRACK_STATE: u16 = 1;

/// The bits of `XT_CONNTRACK_STATE_*` in `struct xt_conntrack_mtinfo3`.
pub(super) const CONNTRACK_BITS: [(StateSet, u16); 5] =
    [(StateSet::INVALID, 1), (StateSet::ESTABLISHED, 2), (StateSet::RELATED, 4), (StateSet::NEW, 8), (StateSet::UNTRACKED, 256)];

fn conntrack(states: StateSet, negated: bool) -> Vec<u8> {
    let mut data = vec![0; 164];
    let bits = CONNTRACK_BITS.into_iter().filter(|(state, _)| states.contains(*state)).fold(0, |bits, (_, bit)| bits | bit);
    put(&mut data, 146, &CONNTRACK_STATE.to_ne_bytes());
    put(&mut data, 148, &(if negated { CONNTRACK_STATE } else { 0 }).to_ne_bytes());
    put(&mut data, 150, &u16::to_ne_bytes(bits));
    data
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED`
pub(super) const RANGE_PORT: u32 = 2;

fn target(family: Family, target: &Target, later: &[Feature]) -> Result<(Vec<u8>, Lead), &'static str> {
    let verdict = |verdict: i32, lead| {
        let bytes = extension(&verdict.to_ne_bytes(), "", 0, abi::STANDARD_TARGET);
        Ok((bytes, lead))
    };
    let (feature, data) = match target {
        Target::Accept => return verdict(abi::VERDICT_ACCEPT, Lead::Nowhere),
        Target::Drop => return verdict(abi::VERDICT_DROP, Lead::Nowhere),
        Target::Return => return verdict(abi::VERDICT_RETURN, Lead::Nowhere),
        Target::Continue => return verdict(0, Lead::Next),
        Target::Jump(chain) | Target::Goto(chain) => return verdict(0, Lead::Chain(chain.clone())),
        Target::Redirect(port) => (Feature::Redirect, redirect(family, *port)),
        Target::Tproxy { port, mark } => {
            let mut data = vec![0; 28];
            put(&mut data, 0, &mark.mask.to_ne_bytes());
            put(&mut data, 4, &mark.value.to_ne_bytes());
            put(&mut data, 24, &port.to_be_bytes());
            (Feature::Tproxy, data)
        }
        Target::Mark(mark) => {
            let mut data = vec![0; 8];
            put(&mut data, 0, &mark.value.to_ne_bytes());
            put(&mut data, 4, &mark.mask.to_ne_bytes());
            (Feature::MarkTarget, data)
        }
        Target::SaveMark => return Ok((connmark(CONNMARK_SAVE, later), Lead::Nowhere)),
        Target::RestoreMark => return Ok((connmark(CONNMARK_RESTORE, later), Lead::Nowhere)),
        Target::CtZone(zone) => {
            let mut data = vec![0; 72];
            put(&mut data, 2, &zone.to_ne_bytes());
            (Feature::Ct, data)
        }
        Target::Opaque(_) => return Err("a target that is not known is never written"),
    };
    Ok((extension(&data, feature.name(), feature.revision(), 0), Lead::Nowhere))
}

/// `struct nf_nat_ipv4_multi_range_compat` with one range, or `struct nf_nat_range`.
fn redirect(family: Family, port: u16) -> Vec<u8> {
    let (size, flags_at, port_at) = match family {
        Family::V4 => (20, 4, 16),
        Family::V6 => (40, 0, 36),
    };
    let mut data = vec![0; size];
    if family == Family::V4 {
        put(&mut data, 0, &1_u32.to_ne_bytes());
    }
    put(&mut data, flags_at, &RANGE_PORT.to_ne_bytes());
    put(&mut data, port_at, &port.to_be_bytes());
    put(&mut data, port_at + 2, &port.to_be_bytes());
    data
}

/// `XT_CONNMARK_SAVE`
pub(super) const CONNMARK_SAVE: u8 = 1;
/// `XT_CONNMARK_RESTORE`
pub(super) const CONNMARK_RESTORE: u8 = 2;

/// `struct xt_connmark_tginfo1` for all bits; of revision 2, `struct xt_connmark_tginfo2` without a shift.
fn connmark(mode: u8, later: &[Feature]) -> Vec<u8> {
    let feature = Feature::ConnmarkTarget;
    let (revision, mode_at) = match feature.later_revision() {
        Some(revision) if later.contains(&feature) => (revision, 14),
        _ => (feature.revision(), 12),
    };
    let mut data = vec![0; 16];
    put(&mut data, 4, &u32::MAX.to_ne_bytes());
    put(&mut data, 8, &u32::MAX.to_ne_bytes());
    data[mode_at] = mode;
    extension(&data, feature.name(), revision, 0)
}
