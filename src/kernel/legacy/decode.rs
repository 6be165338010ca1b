//! Legacy entries into rules. What is not understood to the last bit becomes an [`Opaque`].

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::abi::{self, Layout, inversion};
use super::bytes::{text, u16_at, u32_at};
use super::encode::INTERFACE_SIZE;
use super::entry::{Entry, Extension, Lead};
use super::extension::{self, Known};
use super::table::{RawChain, RawTable};
use crate::ruleset::{Base, Chain, Condition, Family, Interface, Match, Opaque, Policy, Protocol, Rule, Table, Target};

/// The table's rules.
pub(super) fn table(raw: &RawTable) -> Table {
    Table { name: raw.name, chains: raw.chains.iter().map(|raw_chain| chain(raw.family, raw_chain)).collect() }
}

fn chain(family: Family, raw: &RawChain) -> Chain {
    let base = raw.hook().map(|hook| {
        let verdict = Extension::all(&raw.end.bytes, family).and_then(|(_, target)| target.standard_verdict());
        let policy = match verdict {
            Some(abi::VERDICT_ACCEPT) => Some(Policy::Accept),
            Some(abi::VERDICT_DROP) => Some(Policy::Drop),
            _ => None,
        };
        Base { hook, policy, head: 0, counters: Some(raw.end.counters(family)) }
    });
    Chain { name: raw.name.clone(), base, rules: raw.rules.iter().map(|entry| rule(family, entry)).collect() }
}

/// The rule that an entry holds.
pub(super) fn rule(family: Family, entry: &Entry) -> Rule {
    let layout = Layout::of(family);
    let bytes = &entry.bytes;
    let mut matches = head(layout, family, bytes);
    let mut comment = None;
    // An entry in a parsed table is whole, so that the default is never taken.
    let Some((extensions, found)) = Extension::all(bytes, family) else {
        return Rule::new([], Target::Opaque(Opaque { name: String::new(), revision: 0, data: bytes.clone() }));
    };
    for found in &extensions {
        match extension::matches(&text(found.name), found.revision, found.data) {
            Some(Known::Comment(text)) if comment.is_none() => comment = Some(text),
            Some(Known::Matches(known)) => matches.extend(known),
            _ => matches.push(Condition::Opaque(opaque(found)).into()),
        }
    }
    let goto = bytes.get(layout.flags).is_some_and(|flags| flags & layout.flag_goto != 0);
    let mut rule = Rule::new(matches, target(family, entry, found, goto));
    rule.comment = comment;
    rule.tagged = u32_at(bytes, layout.nfcache) == Some(abi::TAG);
    rule.counters = Some(entry.counters(family));
    rule
}

fn opaque(found: &Extension<'_>) -> Opaque {
    Opaque { name: text(found.name), revision: found.revision, data: found.data.to_vec() }
}

/// The matches in the entry's head.
fn head(layout: &Layout, family: Family, bytes: &[u8]) -> Vec<Match> {
    let field = |at: usize, len: usize| bytes.get(at..at + len).unwrap_or_default();
    let flags = bytes.get(layout.flags).copied().unwrap_or_default();
    let inversions = bytes.get(layout.inversions).copied().unwrap_or_default();
    let mut matches = Vec::new();
    let mut add = |condition: Condition, bit: u8| matches.push(Match { negated: inversions & bit != 0, condition });
    // What no part below understands is kept whole.
    let unknown = |name: &str, parts: &[&[u8]]| Condition::Opaque(Opaque { name: name.to_owned(), revision: 0, data: parts.concat() });

    for (place, bit, name) in [(0, inversion::SOURCE, "source"), (1, inversion::DESTINATION, "destination")] {
        let address = field(layout.source + place * layout.address, layout.address);
        let mask = field(layout.source + (place + 2) * layout.address, layout.address);
        if inversions & bit == 0 && mask.iter().all(|byte| *byte == 0) {
            continue;
        }
        let condition = network(address, mask)
            .map_or_else(|| unknown(name, &[address, mask]), if place == 0 { Condition::Source } else { Condition::Destination });
        add(condition, bit);
    }
    for (place, bit, name) in [(0, inversion::IN, "in-interface"), (1, inversion::OUT, "out-interface")] {
        let value = field(layout.in_interface + place * INTERFACE_SIZE, INTERFACE_SIZE);
        let mask = field(layout.in_interface + (place + 2) * INTERFACE_SIZE, INTERFACE_SIZE);
        if inversions & bit == 0 && mask.iter().all(|byte| *byte == 0) {
            continue;
        }
        let wrap = if place == 0 { Condition::InInterface } else { Condition::OutInterface };
        add(interface(value, mask).map_or_else(|| unknown(name, &[value, mask]), wrap), bit);
    }
    let protocol = u16_at(bytes, layout.protocol).unwrap_or_default();
    if protocol != 0 || inversions & inversion::PROTOCOL != 0 {
        let condition = u8::try_from(protocol)
            .map_or_else(|_| unknown("protocol", &[&protocol.to_ne_bytes()]), |number| Condition::Protocol(Protocol(number)));
        add(condition, inversion::PROTOCOL);
    }
    // Fragments (IPv4), type of service (IPv6) and bits that no kernel defines yet.
    let known = inversion::IN | inversion::OUT | inversion::SOURCE | inversion::DESTINATION | inversion::PROTOCOL;
    let other_flags = flags & !(layout.flag_goto | layout.flag_protocol);
    if other_flags != 0 || inversions & !known != 0 {
        let class = match family {
            Family::V4 => &[][..],
            Family::V6 => field(layout.protocol + 2, 1),
        };
        add(unknown("ip-flags", &[&[other_flags, inversions & !known], class]), 0);
    }
    matches
}

/// An address and a mask of leading ones.
fn network(address: &[u8], mask: &[u8]) -> Option<IpNet> {
    let net = match address.len() {
        4 => {
            let parse = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
            IpNet::V4(Ipv4Net::with_netmask(parse(address)?, parse(mask)?).ok()?)
        }
        _ => {
            let parse = |bytes: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?));
            IpNet::V6(Ipv6Net::with_netmask(parse(address)?, parse(mask)?).ok()?)
        }
    };
    (net.trunc() == net).then_some(net)
}

fn interface(value: &[u8], mask: &[u8]) -> Option<Interface> {
    let name = value.split(|byte| *byte == 0).next()?;
    let covered = mask.iter().take_while(|byte| **byte == 0xff).count();
    if mask[covered..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    let found = match covered.checked_sub(name.len())? {
        0 => Interface::new(&format!("{name}+"))?,
        1 if !name.ends_with('+') => Interface::new(name)?,
        _ => return None,
    };
    Some(found)
}

fn target(family: Family, entry: &Entry, found: Extension<'_>, goto: bool) -> Target {
    let chain = match &entry.lead {
        Lead::Next => return Target::Continue,
        Lead::Chain(name) => Some(name.clone()),
        Lead::Nowhere => None,
    };
    let known = match (chain, found.standard_verdict()) {
        (Some(name), _) => Some(if goto { Target::Goto(name) } else { Target::Jump(name) }),
        (None, Some(abi::VERDICT_ACCEPT)) => Some(Target::Accept),
        (None, Some(abi::VERDICT_DROP)) => Some(Target::Drop),
        (None, Some(abi::VERDICT_RETURN)) => Some(Target::Return),
        (None, Some(_)) => None,
        (None, None) => extension::target(family, &text(found.name), found.revision, found.data),
    };
    known.unwrap_or_else(|| Target::Opaque(opaque(&found)))
}

#[cfg(test)]
mod tests {
    use super::super::feature::Feature;
    use super::super::{encode, testing};
    use super::*;
    use crate::ruleset::{Hook, IdRange, MarkMask, PortRange, StateSet, TableName};

    fn net(family: Family, text: (&str, &str)) -> IpNet {
        match family {
            Family::V4 => text.0.parse().unwrap(),
            Family::V6 => text.1.parse().unwrap(),
        }
    }

    fn written_and_read(family: Family, rule: &Rule, later: &[Feature]) -> Rule {
        // In a table, so that jumps have somewhere to lead.
        let mut table = testing::empty(family, TableName::Nat);
        table.chain_mut("CHAIN");
        table.chain_mut(Hook::Output.chain()).rules.push(encode::entry(family, rule, later).unwrap());
        let table = super::table(&testing::reread(&table));
        table.chain("OUTPUT").unwrap().rules[0].clone()
    }

    /// Every match and target that a plan can hold, by itself.
    fn rules(family: Family) -> Vec<Rule> {
        let interface = |name| Interface::new(name).unwrap();
        let (port, ports) = (PortRange::single(80), PortRange { first: 0, last: 1023 });
        let tcp = || Match::from(Condition::Protocol(Protocol::TCP));
        let udp = || Match::from(Condition::Protocol(Protocol::UDP));
        let conditions = [
            Condition::Source(net(family, ("10.1.2.0/23", "fd00:2::/31"))),
            Condition::Destination(net(family, ("127.0.0.6/32", "::6/128"))),
            Condition::InInterface(interface("fifteen-letters")),
            Condition::InInterface(interface("+")),
            Condition::OutInterface(interface("eth+")),
            Condition::OutInterface(interface("lo")),
            Condition::Protocol(Protocol(132)),
            Condition::SourcePorts(vec![port, ports]),
            Condition::DestinationPorts(vec![PortRange::single(1); 15]),
            Condition::Uid(IdRange { first: 1337, last: u32::MAX - 1 }),
            Condition::Gid(IdRange::single(0)),
            Condition::Mark(MarkMask::full(1338)),
            Condition::Connmark(MarkMask { value: 1, mask: 0xff }),
            Condition::State(StateSet::INVALID.union(StateSet::UNTRACKED)),
            Condition::State(StateSet::NEW.union(StateSet::RELATED).union(StateSet::ESTABLISHED)),
        ];
        let mut rules: Vec<Rule> = conditions
            .into_iter()
            .flat_map(|condition| [Match::from(condition.clone()), !condition])
            .map(|wanted| Rule::new([wanted], Target::Return))
            .collect();
        for protocol in [tcp, udp] {
            rules.push(Rule::new([protocol(), Condition::DestinationPort(ports).into()], Target::Return));
            rules.push(Rule::new([protocol(), !Condition::SourcePort(port), Condition::DestinationPort(port).into()], Target::Return));
        }
        rules.extend(
            [
                Target::Continue,
                Target::Accept,
                Target::Drop,
                Target::Jump("CHAIN".into()),
                Target::Goto("CHAIN".into()),
                Target::Redirect(15001),
                Target::Tproxy { port: 15006, mark: MarkMask::full(1337) },
                Target::Mark(MarkMask { value: 1, mask: 3 }),
                Target::SaveMark,
                Target::RestoreMark,
                Target::CtZone(2),
            ]
            .map(|target| Rule::new([tcp()], target)),
        );
        rules.push(Rule::new([tcp()], Target::Return).with_comment("proxy-init/x \"y\""));
        rules
    }

    #[test]
    fn every_match_and_target_is_read_as_it_was_written() {
        for family in Family::ALL {
            for rule in rules(family) {
                for later in [&[][..], &[Feature::ConnmarkTarget]] {
                    let read = written_and_read(family, &rule, later);
                    assert!(read.tagged);
                    let wanted = Rule { tagged: true, counters: read.counters, ..rule.clone() };
                    // "+" is every interface, which iptables takes for no match.
                    assert_eq!(read, wanted, "{family}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_to_the_last_bit_is_opaque() {
        let tcp =
            Rule::new([Condition::Protocol(Protocol::TCP).into(), Condition::DestinationPort(PortRange::single(1)).into()], Target::Return);
        let mut table = testing::empty(Family::V4, TableName::Nat);
        let mut entry = encode::entry(Family::V4, &tcp, &[]).unwrap();
        // struct xt_tcp: a test of flags, as --syn makes.
        entry.bytes[112 + 32 + 9] = 2;
        table.chain_mut("OUTPUT").rules.push(entry);
        let read = super::table(&testing::reread(&table));
        let matches = &read.chain("OUTPUT").unwrap().rules[0].matches;
        assert!(matches!(&matches[1].condition, Condition::Opaque(opaque) if opaque.name == "tcp" && opaque.data.len() == 16));
    }
}
