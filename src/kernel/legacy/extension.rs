//! What the data of matches and targets means. It is the same in legacy tables and in nf_tables' `match` and `target`
//! expressions, which iptables-nft writes.

use super::bytes::{u16_at, u32_at};
use super::encode::{CONNMARK_RESTORE, CONNMARK_SAVE, CONNTRACK_BITS, CONNTRACK_STATE, MULTIPORT_PLACES, RANGE_PORT};
use super::feature::Feature;
use crate::ruleset::{Condition, Family, IdRange, MarkMask, Match, PortRange, StateSet, Target};

pub(in crate::kernel) use super::bytes::{readable, text};

/// A match that is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Known {
    /// What it tests.
    Matches(Vec<Match>),
    /// It tests nothing.
    Comment(String),
}

/// The match of this name and revision, if all that its data says is understood.
pub(in crate::kernel) fn matches(name: &str, revision: u8, data: &[u8]) -> Option<Known> {
    match Feature::of_match(name, revision)? {
        Feature::Comment => (data.len() >= 8).then(|| Known::Comment(readable(data))),
        feature => known_match(feature, data).map(Known::Matches),
    }
}

/// The target of this name and revision, if all that its data says is understood.
pub(in crate::kernel) fn target(family: Family, name: &str, revision: u8, data: &[u8]) -> Option<Target> {
    known_target(family, Feature::of_target(name, revision)?, revision, data)
}

/// The conditions of a match of a known kind and revision, if all that it holds is known.
fn known_match(feature: Feature, data: &[u8]) -> Option<Vec<Match>> {
    match feature {
        Feature::Tcp if data.get(8..11)? == [0, 0, 0] => ports(data, 11),
        Feature::Udp => ports(data, 8),
        Feature::Multiport => multiport(data),
        Feature::Owner => owner(data),
        Feature::MarkMatch => mark_match(data, Condition::Mark),
        Feature::ConnmarkMatch => mark_match(data, Condition::Connmark),
        Feature::Conntrack => conntrack(data),
        _ => None,
    }
}

fn negatable(condition: Condition, negated: bool) -> Match {
    Match { negated, condition }
}

fn ports(data: &[u8], inversions_at: usize) -> Option<Vec<Match>> {
    let inversions = *data.get(inversions_at)?;
    let mut matches = Vec::new();
    for (at, bit, wrap) in [(0, 1, Condition::SourcePort as fn(PortRange) -> Condition), (4, 2, Condition::DestinationPort)] {
        let range = PortRange { first: u16_at(data, at)?, last: u16_at(data, at + 2)? };
        let all = range == PortRange { first: 0, last: u16::MAX };
        if !all || inversions & bit != 0 {
            matches.push(negatable(wrap(range), inversions & bit != 0));
        }
    }
    // `-m tcp` with nothing to test has no words of its own.
    (inversions & !3 == 0 && !matches.is_empty()).then_some(matches)
}

fn multiport(data: &[u8]) -> Option<Vec<Match>> {
    let (direction, count, negated) = (*data.first()?, usize::from(*data.get(1)?), *data.get(47)? != 0);
    if count > MULTIPORT_PLACES {
        return None;
    }
    let mut list = Vec::new();
    let mut place = 0;
    while place < count {
        let first = u16_at(data, 2 + 2 * place)?;
        let is_range = *data.get(32 + place)? != 0;
        place += 1;
        let last = if is_range { u16_at(data, 2 + 2 * place).filter(|_| place < count)? } else { first };
        place += usize::from(is_range);
        list.push(PortRange { first, last });
    }
    let condition = match direction {
        0 => Condition::SourcePorts(list),
        1 => Condition::DestinationPorts(list),
        _ => return None,
    };
    Some(vec![negatable(condition, negated)])
}

fn owner(data: &[u8]) -> Option<Vec<Match>> {
    let (wanted, inverted) = (*data.get(16)?, *data.get(17)?);
    let ids = |at| Some(IdRange { first: u32_at(data, at)?, last: u32_at(data, at + 4)? });
    let mut matches = Vec::new();
    if wanted & 1 != 0 {
        matches.push(negatable(Condition::Uid(ids(0)?), inverted & 1 != 0));
    }
    if wanted & 2 != 0 {
        matches.push(negatable(Condition::Gid(ids(8)?), inverted & 2 != 0));
    }
    (wanted & !3 == 0 && inverted & !wanted == 0).then_some(matches)
}

fn mark_match(data: &[u8], wrap: fn(MarkMask) -> Condition) -> Option<Vec<Match>> {
    let mark = MarkMask { value: u32_at(data, 0)?, mask: u32_at(data, 4)? };
    Some(vec![negatable(wrap(mark), *data.get(8)? != 0)])
}

fn conntrack(data: &[u8]) -> Option<Vec<Match>> {
    let (wanted, inverted, bits) = (u16_at(data, 146)?, u16_at(data, 148)?, u16_at(data, 150)?);
    let known = CONNTRACK_BITS.iter().fold(0, |known, (_, bit)| known | bit);
    if wanted != CONNTRACK_STATE || inverted & !CONNTRACK_STATE != 0 || bits & !known != 0 {
        return None;
    }
    let states = CONNTRACK_BITS.iter().filter(|(_, bit)| bits & bit != 0).fold(StateSet::default(), |set, (state, _)| set.union(*state));
    Some(vec![negatable(Condition::State(states), inverted != 0)])
}

fn known_target(family: Family, feature: Feature, revision: u8, data: &[u8]) -> Option<Target> {
    let zero = |range: std::ops::Range<usize>| data.get(range).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
    match feature {
        Feature::Redirect => redirect(family, data),
        Feature::Tproxy if zero(8..24) => Some(Target::Tproxy {
            port: u16_at(data, 24).map(u16::from_be)?,
            mark: MarkMask { value: u32_at(data, 4)?, mask: u32_at(data, 0)? },
        }),
        Feature::MarkTarget => Some(Target::Mark(MarkMask { value: u32_at(data, 0)?, mask: u32_at(data, 4)? })),
        Feature::ConnmarkTarget if u32_at(data, 4)? == u32::MAX && u32_at(data, 8)? == u32::MAX => {
            // Revision 2 has a shift, direction and bits, before the mode.
            let mode_at = if revision == 2 { 14 } else { 12 };
            match *data.get(mode_at)? {
                CONNMARK_SAVE if zero(12..mode_at) => Some(Target::SaveMark),
                CONNMARK_RESTORE if zero(12..mode_at) => Some(Target::RestoreMark),
                _ => None,
            }
        }
        // Flags, events, helper and timeout policy: none of them.
        Feature::Ct if zero(0..2) && zero(4..60) => u16_at(data, 2).map(Target::CtZone),
        _ => None,
    }
}

fn redirect(family: Family, data: &[u8]) -> Option<Target> {
    let (flags_at, port_at) = match family {
        Family::V4 => (4, 16),
        Family::V6 => (0, 36),
    };
    let ports = (u16_at(data, port_at).map(u16::from_be)?, u16_at(data, port_at + 2).map(u16::from_be)?);
    let one_range = family == Family::V6 || u32_at(data, 0) == Some(1);
    (one_range && u32_at(data, flags_at)? == RANGE_PORT && ports.0 == ports.1).then_some(Target::Redirect(ports.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_data_of_a_known_extension_is_read_without_panic(name in 0_usize..13, data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let features = [
                Feature::Tcp, Feature::Udp, Feature::Multiport, Feature::Owner, Feature::MarkMatch, Feature::ConnmarkMatch, Feature::Conntrack,
                Feature::Comment, Feature::Redirect, Feature::Tproxy, Feature::MarkTarget, Feature::ConnmarkTarget, Feature::Ct,
            ];
            let feature = features[name];
            if feature.is_target() {
                for family in Family::ALL {
                    for revision in 0..3 {
                        let _ = known_target(family, feature, revision, &data);
                    }
                }
            } else {
                let _ = known_match(feature, &data);
            }
        }
    }
}
