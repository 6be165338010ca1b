//! What a rule of the model does to packets, beside what its expressions do.

use std::net::IpAddr;

use super::super::abi;
use super::super::decode::{Decoded, sets_of};
use super::super::sets::Set;
use super::machine::{Outcome, Packet, marked, run};
use crate::kernel::netlink::wire::Attributes;
use crate::ruleset::{AddressRange, Condition, Family, Interface, Match, PortRange, Rule, StateSet, Target};

/// So many values of a rule are tried in packets.
const VALUES: usize = 8;

/// A rule that is understood does to every packet what its expressions do.
pub(super) fn assert_same<'a>(family: u8, expressions: &[u8], decoded: &Decoded, set: &'a dyn Fn(&str) -> Option<&'a Set>) {
    if decoded.rule.is_opaque() {
        return;
    }
    for packet in packets(family, expressions, &decoded.rule, set) {
        let Some(outcome) = run(expressions, &packet, set) else { return };
        assert_eq!(expected(decoded, &packet), outcome, "{decoded:?} of {packet:?}");
    }
}

fn expected(decoded: &Decoded, packet: &Packet) -> Outcome {
    let mut outcome = Outcome::default();
    let is_of = decoded.family.is_none_or(|family| family == packet.family());
    if !is_of || !decoded.rule.matches.iter().all(|wanted| holds(wanted, packet)) {
        return outcome;
    }
    match &decoded.rule.target {
        Target::Continue | Target::Opaque(_) => {}
        Target::Accept | Target::Drop | Target::Return | Target::Jump(_) | Target::Goto(_) => {
            outcome.verdict = Some(decoded.rule.target.clone());
        }
        Target::Redirect(port) => outcome.redirected = Some(*port),
        Target::Tproxy { port, mark } => {
            outcome =
                Outcome { taken: Some(*port), mark: Some(marked(packet.mark, *mark)), verdict: Some(Target::Accept), ..Outcome::default() };
        }
        Target::Mark(mark) => outcome.mark = Some(marked(packet.mark, *mark)),
        Target::SaveMark => outcome.connection_mark = Some(packet.mark),
        Target::RestoreMark => outcome.mark = Some(packet.connection_mark),
        Target::CtZone(zone) => outcome.zone = Some(*zone),
    }
    outcome
}

fn holds(wanted: &Match, packet: &Packet) -> bool {
    let address = |octets: &[u8; 16]| match packet.family() {
        Family::V4 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
        Family::V6 => IpAddr::from(*octets),
    };
    let within = |range: AddressRange, address: IpAddr| {
        range.first().is_ipv4() == address.is_ipv4() && (range.first()..=range.last()).contains(&address)
    };
    let (source, destination) = (address(&packet.source), address(&packet.destination));
    let port = |range: &PortRange, port: u16| (range.first..=range.last).contains(&port);
    let [from, to] = packet.ports;
    let found = match &wanted.condition {
        Condition::Source(net) => within(AddressRange::from(*net), source),
        Condition::Destination(net) => within(AddressRange::from(*net), destination),
        Condition::Sources(set) => set.ranges().iter().any(|range| within(*range, source)),
        Condition::Destinations(set) => set.ranges().iter().any(|range| within(*range, destination)),
        Condition::InInterface(name) => is_called(&packet.interfaces[0], name),
        Condition::OutInterface(name) => is_called(&packet.interfaces[1], name),
        Condition::Protocol(protocol) => packet.protocol == protocol.0,
        Condition::SourcePort(range) => port(range, from),
        Condition::DestinationPort(range) => port(range, to),
        Condition::SourcePorts(list) => list.iter().any(|range| port(range, from)),
        Condition::DestinationPorts(list) => list.iter().any(|range| port(range, to)),
        Condition::Uid(ids) => ids.contains(packet.uid),
        Condition::Gid(ids) => ids.contains(packet.gid),
        Condition::Mark(mark) => packet.mark & mark.mask == mark.value,
        Condition::Connmark(mark) => packet.connection_mark & mark.mask == mark.value,
        Condition::State(states) => {
            let bits = StateSet::NAMES.iter().zip(abi::STATE_BITS);
            bits.filter(|((state, _), _)| states.contains(*state)).any(|(_, bit)| packet.state & bit != 0)
        }
        Condition::Opaque(_) => false,
    };
    found != wanted.negated
}

fn is_called(name: &[u8; 16], wanted: &Interface) -> bool {
    let (text, more) = wanted.pattern();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    if more { name.starts_with(text.as_bytes()) } else { &name[..end] == text.as_bytes() }
}

/// A packet that the rule matches, if any does, and others that differ from it in one field, by values that stand in the
/// rule and in its sets.
fn packets<'a>(family: u8, expressions: &[u8], rule: &Rule, set: &'a dyn Fn(&str) -> Option<&'a Set>) -> Vec<Packet> {
    let mut values = vec![Vec::new(), vec![0xff; 16]];
    collect(expressions, 5, &mut values);
    for set in sets_of(expressions).iter().filter_map(|name| set(name)) {
        set.elements.iter().for_each(|list| collect(list, 4, &mut values));
    }
    values.truncate(VALUES);
    let near: Vec<Vec<u8>> = values.iter().map(|value| above(value)).collect();
    values.extend(near);
    values.iter_mut().for_each(|value| value.resize(16, 0));

    let mut base = Packet { state: 2, ..Packet::default() };
    rule.matches.iter().filter(|wanted| !wanted.negated).for_each(|wanted| make_hold(&wanted.condition, &mut base));
    let mut packets: Vec<Packet> =
        (0..FIELDS).flat_map(|at| values.iter().map(move |value| (at, value))).map(|(at, value)| with(&base, at, value)).collect();
    packets.push(base);
    let families: &[bool] = match family {
        abi::IPV4 => &[false],
        abi::IPV6 => &[true],
        _ => &[false, true],
    };
    families.iter().flat_map(|v6| packets.iter().map(|packet| Packet { v6: *v6, ..packet.clone() })).collect()
}

/// Makes the condition true of the packet.
fn make_hold(condition: &Condition, packet: &mut Packet) {
    let octets = |address: IpAddr| {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => octets = address.octets(),
        }
        octets
    };
    match condition {
        Condition::Source(net) => packet.source = octets(net.network()),
        Condition::Destination(net) => packet.destination = octets(net.network()),
        Condition::Sources(set) => packet.source = set.ranges().first().map_or([0; 16], |range| octets(range.first())),
        Condition::Destinations(set) => packet.destination = set.ranges().first().map_or([0; 16], |range| octets(range.first())),
        Condition::InInterface(name) | Condition::OutInterface(name) => {
            let mut bytes = name.pattern().0.as_bytes().to_vec();
            bytes.resize(16, 0);
            let at = usize::from(matches!(condition, Condition::OutInterface(_)));
            *packet = with(packet, 5 + at, &bytes);
        }
        Condition::Protocol(protocol) => packet.protocol = protocol.0,
        Condition::SourcePort(range) => packet.ports[0] = range.first,
        Condition::DestinationPort(range) => packet.ports[1] = range.first,
        Condition::SourcePorts(list) => packet.ports[0] = list.first().map_or(0, |range| range.first),
        Condition::DestinationPorts(list) => packet.ports[1] = list.first().map_or(0, |range| range.first),
        Condition::Uid(ids) => packet.uid = ids.first,
        Condition::Gid(ids) => packet.gid = ids.first,
        Condition::Mark(mark) => packet.mark = mark.value,
        Condition::Connmark(mark) => packet.connection_mark = mark.value,
        Condition::State(states) => {
            let mut named = StateSet::NAMES.iter().zip(abi::STATE_BITS).filter(|((state, _), _)| states.contains(*state));
            packet.state = named.next().map_or(2, |(_, bit)| bit);
        }
        Condition::Opaque(_) => {}
    }
}

const FIELDS: usize = 12;

/// The packet with `value`, or its first bytes, in one field.
fn with(packet: &Packet, field: usize, value: &[u8]) -> Packet {
    let mut packet = packet.clone();
    let (Some(long), Some(four), Some(two)) = (value.first_chunk::<16>(), value.first_chunk::<4>(), value.first_chunk::<2>()) else {
        return packet;
    };
    let (number, reversed) = (u32::from_ne_bytes(*four), u32::from_be_bytes(*four));
    match field {
        0 => packet.protocol = two[0],
        1 => packet.source = *long,
        2 => packet.destination = *long,
        3 | 4 => packet.ports[field - 3] = u16::from_be_bytes(*two),
        5 | 6 => packet.interfaces[field - 5] = named(long),
        7 => packet.mark = number,
        8 => packet.connection_mark = number,
        9 => packet.state = abi::STATE_BITS.into_iter().find(|bit| number & bit != 0).unwrap_or(2),
        10 => (packet.uid, packet.gid) = (number, number),
        _ => (packet.uid, packet.gid) = (reversed, reversed),
    }
    packet
}

/// An interface's name ends with NULs.
fn named(value: &[u8; 16]) -> [u8; 16] {
    let mut name = *value;
    let end = name.iter().take(15).position(|byte| *byte == 0).unwrap_or(15);
    name[end..].fill(0);
    name
}

/// The number behind `value`.
fn above(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    for byte in value.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    value
}

/// The short values at any depth.
fn collect(bytes: &[u8], depth: u32, values: &mut Vec<Vec<u8>>) {
    for attribute in Attributes::new(bytes).flatten() {
        if attribute.kind == abi::DATA_VALUE
            && (1..=16).contains(&attribute.value.len())
            && !values.iter().any(|value| value == attribute.value)
        {
            values.push(attribute.value.to_vec());
        }
        if depth > 0 {
            collect(attribute.value, depth - 1, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::encode;
    use super::*;
    use crate::kernel::netlink::wire::{AttributeWriter, Header, Messages, append_message};
    use crate::ruleset::{Protocol, TableName};

    #[test]
    fn another_meaning_is_noticed() {
        let to_port = |first| {
            let port = Condition::DestinationPort(PortRange { first, last: 90 });
            Rule::new([Condition::Protocol(Protocol::TCP).into(), port.into()], Target::Redirect(15001))
        };
        let mut bytes = Vec::new();
        let write = |list: &mut AttributeWriter<'_>| encode::write(list, Family::V4, TableName::Nat, &to_port(80), &[]);
        append_message(&mut bytes, Header { kind: 0, flags: 0, sequence: 0 }, &[], write).unwrap();
        let expressions = Messages::new(&bytes).next().unwrap().unwrap().payload;
        let check = |rule| assert_same(abi::IPV4, expressions, &Decoded { rule, family: None }, &|_| None);
        check(to_port(80));
        for wrong in [to_port(81), Rule::new(to_port(80).matches, Target::Redirect(15002)), Rule::new([], Target::Redirect(15001))] {
            assert!(std::panic::catch_unwind(|| check(wrong)).is_err());
        }
    }
}
