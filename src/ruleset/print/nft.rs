//! Rules in the language of `nft`.
//!
//! A rule is printed as `nft list ruleset` of nft 1.0.6 prints it, so that the text can be compared with the real
//! tool's. What has no words there (an [`Opaque`] match or target) is shown between `/*` and `*/`, which `nft` refuses
//! to load: better no rules than rules of which one is missing.

use std::fmt::{Display, Write};

use crate::ruleset::{
    AddressRange, Condition, Counters, Family, MarkMask, Match, Opaque, PortRange, Protocol, Rule, StateSet, Target, order,
};

/// The rule without chain: `tcp dport 15008 counter return`. `name` tells what the chain that a rule jumps to is called
/// in nf_tables.
pub fn specification(rule: &Rule, family: Family, name: impl Fn(&str) -> String) -> String {
    words(rule, family, true, name)
}

/// The rule, with a counter or without.
pub(crate) fn words(rule: &Rule, family: Family, counted: bool, name: impl Fn(&str) -> String) -> String {
    let header = header_name(rule.protocol());
    // A match of the header's ports says what the protocol is.
    let is_said = header.is_some() && rule.matches.iter().any(|wanted| is_port(&wanted.condition));
    let is_shown = |wanted: &&Match| !is_said || wanted.negated || !matches!(wanted.condition, Condition::Protocol(_));
    let mut matches: Vec<&Match> = rule.matches.iter().filter(is_shown).collect();
    order::sort_by_key(&mut matches, |wanted| rank(&wanted.condition));

    let mut words: Vec<String> = matches.into_iter().map(|wanted| match_text(wanted, family, header.unwrap_or("th"))).collect();
    words.extend(counted.then(|| "counter".to_owned()));
    if let Some(Counters { packets, bytes }) = rule.counters.filter(|_| counted) {
        words.push(format!("packets {packets} bytes {bytes}"));
    }
    words.extend(target_text(&rule.target, name));
    if let Some(comment) = &rule.comment {
        // nft has no way to write a double quote in a string.
        words.push(format!("comment \"{}\"", comment.replace('"', "'")));
    }
    words.join(" ")
}

/// The place of a match in the rule: interfaces, addresses, protocol, then the others in the rule's order.
pub(crate) fn rank(condition: &Condition) -> u8 {
    match condition {
        Condition::InInterface(_) => 0,
        Condition::OutInterface(_) => 1,
        Condition::Source(_) | Condition::Sources(_) => 2,
        Condition::Destination(_) | Condition::Destinations(_) => 3,
        Condition::Protocol(_) => 4,
        _ => 5,
    }
}

pub(crate) fn is_port(condition: &Condition) -> bool {
    matches!(
        condition,
        Condition::SourcePort(_) | Condition::SourcePorts(_) | Condition::DestinationPort(_) | Condition::DestinationPorts(_)
    )
}

/// nft's name of the protocol's header, if it has one with ports.
fn header_name(protocol: Option<Protocol>) -> Option<&'static str> {
    match protocol?.0 {
        6 => Some("tcp"),
        17 => Some("udp"),
        132 => Some("sctp"),
        _ => None,
    }
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// One match; `header` is what ports belong to.
fn match_text(wanted: &Match, family: Family, header: &str) -> String {
    let (not, none) = if wanted.negated { ("!= ", "! ") } else { ("", "") };
    let ip = family_name(family);
    let ports = |field: &str, list: &[PortRange]| format!("{header} {field} {not}{}", one_of(list.iter().map(|range| port_text(*range))));
    match &wanted.condition {
        Condition::Source(net) => format!("{ip} saddr {not}{}", AddressRange::from(*net)),
        Condition::Destination(net) => format!("{ip} daddr {not}{}", AddressRange::from(*net)),
        Condition::Sources(set) => format!("{ip} saddr {not}{}", one_of(set.ranges())),
        Condition::Destinations(set) => format!("{ip} daddr {not}{}", one_of(set.ranges())),
        Condition::InInterface(interface) => format!("iifname {not}{}", interface_text(interface.pattern())),
        Condition::OutInterface(interface) => format!("oifname {not}{}", interface_text(interface.pattern())),
        Condition::Protocol(protocol) => format!("meta l4proto {not}{protocol}"),
        Condition::SourcePort(port) => ports("sport", &[*port]),
        Condition::SourcePorts(list) => ports("sport", list),
        Condition::DestinationPort(port) => ports("dport", &[*port]),
        Condition::DestinationPorts(list) => ports("dport", list),
        Condition::Uid(id) => format!("meta skuid {not}{id}"),
        Condition::Gid(id) => format!("meta skgid {not}{id}"),
        Condition::Mark(mark) => format!("meta mark {}", compared_mark(*mark, wanted.negated)),
        Condition::Connmark(mark) => format!("ct mark {}", compared_mark(*mark, wanted.negated)),
        // `!= a,b` would be true of every state, since none is both.
        Condition::State(states) => format!("ct state {none}{}", states_text(*states)),
        Condition::Opaque(opaque) => format!("{none}{}", opaque_text(opaque)),
    }
}

/// A set of values; nft shows a set of one as that one.
fn one_of<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    match values.as_slice() {
        [value] => value.clone(),
        values => format!("{{ {} }}", values.join(", ")),
    }
}

fn port_text(range: PortRange) -> String {
    if range.is_range() { format!("{}-{}", range.first, range.last) } else { range.first.to_string() }
}

/// An interface's name: a `*` at the end stands for any ending, unless it is escaped.
fn interface_text((start, open): (&str, bool)) -> String {
    match start.strip_suffix('*') {
        _ if open => format!("\"{start}*\""),
        Some(start) => format!("\"{start}\\*\""),
        None => format!("\"{start}\""),
    }
}

/// What a mark is compared with. A mask of leading ones is a prefix to nft, even in a mark.
fn compared_mark(MarkMask { value, mask }: MarkMask, negated: bool) -> String {
    let not = if negated { "!= " } else { "" };
    match mask.leading_ones() {
        32 => format!("{not}{value:#010x}"),
        prefix if prefix + mask.trailing_zeros() == 32 => format!("{not}{value:#010x}/{prefix}"),
        _ => format!("& {mask:#010x} {} {value:#010x}", if negated { "!=" } else { "==" }),
    }
}

/// The value that a mark is set to. nft tells bits that are zeroed, those that are turned and those that are set apart.
fn new_mark(MarkMask { value, mask }: MarkMask) -> String {
    if mask == u32::MAX {
        return format!("{value:#010x}");
    }
    let (set, turned) = (value & mask, value & !mask);
    let kept = !mask | set;
    let mut text = "meta mark".to_owned();
    for (sign, bits, idle) in [('&', kept, u32::MAX), ('^', turned, 0), ('|', set, 0)] {
        if bits != idle {
            // Writing to a String cannot fail.
            let _ = write!(text, " {sign} {bits:#010x}");
        }
    }
    text
}

/// Connection tracking states in the order of nft, that of their bits in the kernel.
fn states_text(states: StateSet) -> String {
    const NAMES: [(StateSet, &str); 5] = [
        (StateSet::INVALID, "invalid"),
        (StateSet::ESTABLISHED, "established"),
        (StateSet::RELATED, "related"),
        (StateSet::NEW, "new"),
        (StateSet::UNTRACKED, "untracked"),
    ];
    NAMES.into_iter().filter(|(state, _)| states.contains(*state)).map(|(_, name)| name).collect::<Vec<_>>().join(",")
}

fn target_text(target: &Target, name: impl Fn(&str) -> String) -> Option<String> {
    Some(match target {
        Target::Continue => return None,
        Target::Accept => "accept".to_owned(),
        Target::Drop => "drop".to_owned(),
        Target::Return => "return".to_owned(),
        Target::Jump(chain) => format!("jump {}", name(chain)),
        Target::Goto(chain) => format!("goto {}", name(chain)),
        Target::Redirect(port) => format!("redirect to :{port}"),
        Target::Tproxy { port, mark } => format!("tproxy to :{port} meta mark set {} accept", new_mark(*mark)),
        Target::Mark(mark) => format!("meta mark set {}", new_mark(*mark)),
        Target::SaveMark => "ct mark set meta mark".to_owned(),
        Target::RestoreMark => "meta mark set ct mark".to_owned(),
        Target::CtZone(zone) => format!("ct zone set {zone}"),
        Target::Opaque(opaque) => opaque_text(opaque),
    })
}

fn opaque_text(opaque: &Opaque) -> String {
    let text = format!("/* {}: revision {}, {} bytes {}", opaque.name, opaque.revision, opaque.data.len(), opaque.hex());
    format!("{} */", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{IdRange, Interface};

    const TCP: Condition = Condition::Protocol(Protocol::TCP);

    fn text(family: Family, matches: impl IntoIterator<Item = Match>, target: Target) -> String {
        specification(&Rule::new(matches, target), family, |chain| format!("raw-{chain}"))
    }

    fn matched(wanted: impl Into<Match>) -> String {
        text(Family::V4, [wanted.into()], Target::Continue).trim_end_matches(" counter").to_owned()
    }

    fn done(target: Target) -> String {
        text(Family::V4, [], target).trim_start_matches("counter ").to_owned()
    }

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    fn to(net: &str) -> Condition {
        Condition::Destination(net.parse().unwrap())
    }

    fn from_any(ranges: &[(&str, &str)]) -> Condition {
        let range = |(first, last): &(&str, &str)| AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        Condition::Sources(ranges.iter().map(range).collect())
    }

    fn interface(name: &str) -> Interface {
        Interface::new(name).unwrap()
    }

    #[test]
    fn a_rule_reads_as_nft_lists_it() {
        let matches = [
            TCP.into(),
            !Condition::DestinationPort(PortRange::single(15008)),
            Condition::OutInterface(Interface::loopback()).into(),
            !to("127.0.0.1/32"),
            Condition::Uid(IdRange::single(1337)).into(),
        ];
        let mut rule = Rule::new(matches, Target::Jump("ISTIO_IN_REDIRECT".into())).with_comment("the \"proxy\"");
        rule.counters = Some(Counters { packets: 3, bytes: 180 });
        assert_eq!(
            specification(&rule, Family::V4, str::to_owned),
            "oifname \"lo\" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter packets 3 bytes 180 \
             jump ISTIO_IN_REDIRECT comment \"the 'proxy'\""
        );
        let matches =
            [to("fd00::/8").into(), !Condition::Source("::1/128".parse().unwrap()), Condition::InInterface(interface("e0")).into()];
        assert_eq!(text(Family::V6, matches, Target::Return), "iifname \"e0\" ip6 saddr != ::1 ip6 daddr fd00::/8 counter return");
    }

    #[test]
    fn a_port_says_what_the_protocol_is() {
        let uid = || Match::from(Condition::Uid(IdRange::single(7)));
        let port = || Match::from(Condition::DestinationPort(PortRange::single(80)));
        let from = || !Condition::SourcePort(range(1, 9));
        let text = |matches: Vec<Match>| text(Family::V4, matches, Target::Continue);
        assert_eq!(text(vec![TCP.into(), uid()]), "meta l4proto tcp meta skuid 7 counter");
        assert_eq!(text(vec![!TCP]), "meta l4proto != tcp counter");
        assert_eq!(text(vec![TCP.into(), uid(), port()]), "meta skuid 7 tcp dport 80 counter");
        assert_eq!(text(vec![Condition::Protocol(Protocol::UDP).into(), from(), port()]), "udp sport != 1-9 udp dport 80 counter");
        assert_eq!(text(vec![Condition::Protocol(Protocol(200)).into(), port()]), "meta l4proto 200 th dport 80 counter");
    }

    #[test]
    fn lists_are_sets() {
        let ports = |list: &[PortRange]| text(Family::V4, [TCP.into(), !Condition::DestinationPorts(list.to_vec())], Target::Drop);
        assert_eq!(ports(&[range(53, 53), range(80, 90)]), "tcp dport != { 53, 80-90 } counter drop");
        assert_eq!(ports(&[range(80, 90)]), "tcp dport != 80-90 counter drop");
        let nets = [("10.0.0.0", "10.255.255.255"), ("11.1.0.1", "11.1.0.9"), ("12.0.0.2", "12.0.0.2")];
        assert_eq!(matched(from_any(&nets)), "ip saddr { 10.0.0.0/8, 11.1.0.1-11.1.0.9, 12.0.0.2 }");
        assert_eq!(matched(!from_any(&nets[1..2])), "ip saddr != 11.1.0.1-11.1.0.9");
        assert_eq!(
            text(Family::V6, [from_any(&[("fd00::1", "fd00::3"), ("::1", "::1")]).into()], Target::Accept),
            "ip6 saddr { ::1, fd00::1-fd00::3 } counter accept"
        );
    }

    #[test]
    fn matches_are_in_the_words_of_nft() {
        let marks = |value, mask| MarkMask { value, mask };
        assert_eq!(matched(!to("0.0.0.0/0")), "ip daddr != 0.0.0.0/0");
        assert_eq!(matched(!Condition::InInterface(interface("eth+"))), "iifname != \"eth*\"");
        assert_eq!(matched(Condition::OutInterface(interface("a*"))), "oifname \"a\\*\"");
        assert_eq!(matched(Condition::OutInterface(interface("a*+"))), "oifname \"a**\"");
        assert_eq!(matched(!Condition::Uid(IdRange::single(1337))), "meta skuid != 1337");
        assert_eq!(matched(Condition::Gid(IdRange { first: 1337, last: 1340 })), "meta skgid 1337-1340");
        assert_eq!(matched(Condition::Mark(MarkMask::full(1337))), "meta mark 0x00000539");
        assert_eq!(matched(!Condition::Connmark(MarkMask::full(1337))), "ct mark != 0x00000539");
        assert_eq!(matched(Condition::Mark(marks(1, 0xff))), "meta mark & 0x000000ff == 0x00000001");
        assert_eq!(matched(!Condition::Connmark(marks(1, 0xff))), "ct mark & 0x000000ff != 0x00000001");
        assert_eq!(matched(!Condition::Mark(marks(0x0100_0000, 0xff00_0000))), "meta mark != 0x01000000/8");
        assert_eq!(matched(Condition::Connmark(marks(0, 0))), "ct mark 0x00000000/0");
        let known = StateSet::RELATED.union(StateSet::ESTABLISHED);
        assert_eq!(matched(Condition::State(known)), "ct state established,related");
        assert_eq!(matched(!Condition::State(known)), "ct state ! established,related");
        let all = known.union(StateSet::NEW).union(StateSet::UNTRACKED).union(StateSet::INVALID);
        assert_eq!(matched(Condition::State(all)), "ct state invalid,established,related,new,untracked");
    }

    #[test]
    fn targets_are_in_the_words_of_nft() {
        let marked = |value, mask| done(Target::Mark(MarkMask { value, mask }));
        assert_eq!(done(Target::Goto("OWN".into())), "goto raw-OWN");
        assert_eq!(text(Family::V4, [TCP.into()], Target::Redirect(15001)), "meta l4proto tcp counter redirect to :15001");
        assert_eq!(
            text(Family::V6, [TCP.into()], Target::Tproxy { port: 15006, mark: MarkMask::full(1337) }),
            "meta l4proto tcp counter tproxy to :15006 meta mark set 0x00000539 accept"
        );
        assert_eq!(marked(1337, u32::MAX), "meta mark set 0x00000539");
        assert_eq!(marked(1, 3), "meta mark set meta mark & 0xfffffffd | 0x00000001");
        assert_eq!(marked(3, 3), "meta mark set meta mark | 0x00000003");
        assert_eq!(marked(0, 3), "meta mark set meta mark & 0xfffffffc");
        assert_eq!(marked(5, 3), "meta mark set meta mark & 0xfffffffd ^ 0x00000004 | 0x00000001");
        assert_eq!(marked(0, 0), "meta mark set meta mark");
        assert_eq!(done(Target::SaveMark), "ct mark set meta mark");
        assert_eq!(done(Target::RestoreMark), "meta mark set ct mark");
        assert_eq!(done(Target::CtZone(2)), "ct zone set 2");
    }

    #[test]
    fn what_is_not_known_is_no_valid_rule() {
        let opaque = |data: &[u8]| Opaque { name: "limit".into(), revision: 0, data: data.to_vec() };
        assert_eq!(
            text(Family::V4, [!Condition::Opaque(opaque(&[0xab, 1]))], Target::Opaque(opaque(&[]))),
            "! /* limit: revision 0, 2 bytes ab01 */ counter /* limit: revision 0, 0 bytes */"
        );
    }
}
