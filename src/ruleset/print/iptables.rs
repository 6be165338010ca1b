//! Rules in the language of `iptables-save` and `iptables-restore`.
//!
//! A rule is printed as `iptables-save` 1.8 prints it, so that the text can be compared with the real tool's. What
//! has no words there (an [`Opaque`] match or target) makes its line a comment: the text stays loadable and nothing
//! is hidden.

use std::fmt::{self, Write};

use crate::ruleset::{Chain, Condition, Counters, Family, MarkMask, Match, Opaque, Ownership, PortRange, Rule, Ruleset, Table, Target};

/// What is printed besides the rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style<'a> {
    /// Packet and byte counters before each rule and behind each policy, as `iptables-save -c` does.
    pub counters: bool,
    /// Who may own a rule: a comment says whose the rules below it are. None: nothing is said.
    pub owners: &'a [Ownership],
}

/// The whole rule set: every table from its `*name` line to `COMMIT`, loadable with `iptables-restore --noflush`
/// (for IPv6: `ip6tables-restore --noflush`).
///
/// Built-in chains whose policy a plan leaves alone are not declared, because a declaration would set it.
pub fn ruleset(ruleset: &Ruleset, style: Style<'_>) -> String {
    let mut text = String::new();
    for table in &ruleset.tables {
        // Writing to a String cannot fail.
        let _ = write_table(&mut text, ruleset.family, table, style);
    }
    text
}

fn write_table(out: &mut String, family: Family, table: &Table, style: Style<'_>) -> fmt::Result {
    writeln!(out, "*{}", table.name)?;
    for chain in &table.chains {
        match &chain.base {
            None => writeln!(out, ":{} - [0:0]", chain.name)?,
            Some(base) => {
                if let Some(policy) = base.policy {
                    let Counters { packets, bytes } = base.counters.filter(|_| style.counters).unwrap_or_default();
                    writeln!(out, ":{} {} [{packets}:{bytes}]", chain.name, policy.as_str())?;
                }
            }
        }
    }
    let mut whose = None;
    for chain in &table.chains {
        for (index, rule) in chain.rules.iter().enumerate() {
            if !style.owners.is_empty() {
                let owner = style.owners.iter().find(|owner| owner.owns_rule(table.name, chain, index));
                let owner = owner.map_or("foreign", |owner| owner.mesh().as_str());
                if whose.replace(owner) != Some(owner) {
                    writeln!(out, "# {owner}")?;
                }
            }
            for rule in spelled_out(rule) {
                if rule.is_opaque() {
                    out.push_str("# ");
                }
                if let (true, Some(Counters { packets, bytes })) = (style.counters, rule.counters) {
                    write!(out, "[{packets}:{bytes}] ")?;
                }
                writeln!(out, "{}", command(chain, index, &rule, family))?;
            }
        }
    }
    out.push_str("COMMIT\n");
    Ok(())
}

/// How many ports one multiport match holds, a range counting as two.
const MULTIPORT_MAX: usize = 15;

/// The rule as rules that iptables has words for: what nf_tables holds as one with a long list is several. They have no
/// counters, as nobody counted them one by one.
fn spelled_out(rule: &Rule) -> Vec<Rule> {
    let sets = rule.matches.iter().enumerate().find_map(|(at, wanted)| {
        let conditions: Vec<Condition> = match &wanted.condition {
            _ if wanted.negated => return None,
            Condition::Sources(set) => set.ranges().iter().flat_map(|range| range.nets()).map(Condition::Source).collect(),
            Condition::Destinations(set) => set.ranges().iter().flat_map(|range| range.nets()).map(Condition::Destination).collect(),
            Condition::SourcePorts(list) if places(list) > MULTIPORT_MAX => in_parts(list, Condition::SourcePorts),
            Condition::DestinationPorts(list) if places(list) > MULTIPORT_MAX => in_parts(list, Condition::DestinationPorts),
            _ => return None,
        };
        Some((at, conditions))
    });
    let Some((at, conditions)) = sets else { return vec![rule.clone()] };
    let several = conditions.len() > 1;
    let one = |condition| {
        let mut one = rule.clone();
        one.matches[at].condition = condition;
        one.counters = one.counters.filter(|_| !several);
        one
    };
    conditions.into_iter().map(one).collect()
}

fn places(list: &[PortRange]) -> usize {
    list.iter().map(|range| if range.is_range() { 2 } else { 1 }).sum()
}

fn in_parts(list: &[PortRange], wrap: fn(Vec<PortRange>) -> Condition) -> Vec<Condition> {
    list.chunks(MULTIPORT_MAX / 2).map(|part| wrap(part.to_vec())).collect()
}

/// The rule at `index` of `chain` with the command that puts it there: `-A CHAIN …`, or `-I CHAIN n …` for one that
/// goes before foreign rules.
pub fn command(chain: &Chain, index: usize, rule: &Rule, family: Family) -> String {
    let inserted = chain.base.is_some_and(|base| index < base.head);
    let place = if inserted { format!("-I {} {}", chain.name, index + 1) } else { format!("-A {}", chain.name) };
    let specification = specification(rule, family);
    if specification.is_empty() { place } else { format!("{place} {specification}") }
}

/// The rule without chain: `-p tcp -m tcp --dport 15008 -j RETURN`.
pub fn specification(rule: &Rule, family: Family) -> String {
    let mut words = Vec::new();
    let mut ports_open = false;
    for wanted in &rule.matches {
        let port = matches!(wanted.condition, Condition::SourcePort(_) | Condition::DestinationPort(_));
        words.push(match_text(wanted, rule, port && ports_open));
        ports_open = port;
    }
    if let Some(comment) = &rule.comment {
        words.push(format!("-m comment --comment {}", quoted(comment)));
    }
    let target = target_text(&rule.target, family);
    if !target.is_empty() {
        words.push(target);
    }
    words.join(" ")
}

/// One match. `same_extension` says that the rule's tcp or udp match was named just before.
fn match_text(wanted: &Match, rule: &Rule, same_extension: bool) -> String {
    let not = if wanted.negated { "! " } else { "" };
    let ports = |option: &str, ports: &dyn fmt::Display| match rule.protocol() {
        _ if same_extension => format!("{not}{option} {ports}"),
        Some(protocol) => format!("-m {protocol} {not}{option} {ports}"),
        None => format!("{not}{option} {ports}"),
    };
    match &wanted.condition {
        Condition::Source(net) => format!("{not}-s {net}"),
        Condition::Destination(net) => format!("{not}-d {net}"),
        Condition::Sources(set) => format!("{not}-s {{ {set} }}"),
        Condition::Destinations(set) => format!("{not}-d {{ {set} }}"),
        Condition::InInterface(interface) => format!("{not}-i {interface}"),
        Condition::OutInterface(interface) => format!("{not}-o {interface}"),
        Condition::Protocol(protocol) => format!("{not}-p {protocol}"),
        Condition::SourcePort(port) => ports("--sport", port),
        Condition::DestinationPort(port) => ports("--dport", port),
        Condition::SourcePorts(list) => format!("-m multiport {not}--sports {}", comma_separated(list)),
        Condition::DestinationPorts(list) => format!("-m multiport {not}--dports {}", comma_separated(list)),
        Condition::Uid(id) => format!("-m owner {not}--uid-owner {id}"),
        Condition::Gid(id) => format!("-m owner {not}--gid-owner {id}"),
        Condition::Mark(mark) => format!("-m mark {not}--mark {}", mark_text(*mark)),
        Condition::Connmark(mark) => format!("-m connmark {not}--mark {}", mark_text(*mark)),
        Condition::State(states) => format!("-m conntrack {not}--ctstate {states}"),
        Condition::Opaque(opaque) => format!("{not}-m {}", opaque_text(opaque)),
    }
}

fn target_text(target: &Target, family: Family) -> String {
    match target {
        Target::Continue => String::new(),
        Target::Accept => "-j ACCEPT".to_owned(),
        Target::Drop => "-j DROP".to_owned(),
        Target::Return => "-j RETURN".to_owned(),
        Target::Jump(chain) => format!("-j {chain}"),
        Target::Goto(chain) => format!("-g {chain}"),
        Target::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Target::Tproxy { port, mark } => {
            let any = match family {
                Family::V4 => "0.0.0.0",
                Family::V6 => "::",
            };
            format!("-j TPROXY --on-port {port} --on-ip {any} --tproxy-mark {mark}")
        }
        Target::Mark(mark) => format!("-j MARK --set-xmark {mark}"),
        Target::SaveMark => "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned(),
        Target::RestoreMark => "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff".to_owned(),
        Target::CtZone(zone) => format!("-j CT --zone {zone}"),
        Target::Opaque(opaque) => format!("-j {}", opaque_text(opaque)),
    }
}

/// A mark that is compared: the mask is left out when all bits count.
fn mark_text(mark: MarkMask) -> String {
    if mark.mask == u32::MAX { format!("{:#x}", mark.value) } else { mark.to_string() }
}

/// `ports` as `80,8000:9000`.
pub fn comma_separated<T: fmt::Display>(ports: &[T]) -> String {
    ports.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn opaque_text(opaque: &Opaque) -> String {
    let mut text = format!("{} <revision {}, {} bytes", opaque.name, opaque.revision, opaque.data.len());
    if !opaque.data.is_empty() {
        text.push_str(": ");
        text.push_str(&opaque.hex());
    }
    text.push('>');
    text
}

/// `text` as libxtables saves a string: in double quotes unless it is made of letters, digits, `_` and `-` alone.
fn quoted(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{IdRange, Interface, Protocol, StateSet, TableName};

    fn tcp() -> Match {
        Condition::Protocol(Protocol::TCP).into()
    }

    #[test]
    fn a_rule_reads_as_iptables_save_prints_it() {
        let rule = Rule::new(
            [
                tcp(),
                !Condition::DestinationPort(PortRange::single(15008)),
                Condition::OutInterface(Interface::loopback()).into(),
                !Condition::Destination("127.0.0.1/32".parse().unwrap()),
                Condition::Uid(IdRange::single(1337)).into(),
            ],
            Target::Jump("ISTIO_IN_REDIRECT".into()),
        );
        assert_eq!(
            specification(&rule, Family::V4),
            "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
        );
    }

    #[test]
    fn extensions_read_as_iptables_save_prints_them() {
        let text = |matches: Vec<Match>, target| specification(&Rule::new(matches, target), Family::V6);
        assert_eq!(
            text(
                vec![
                    tcp(),
                    Condition::SourcePort(PortRange { first: 1, last: 2 }).into(),
                    Condition::DestinationPort(PortRange::single(3)).into()
                ],
                Target::Redirect(15001)
            ),
            "-p tcp -m tcp --sport 1:2 --dport 3 -j REDIRECT --to-ports 15001"
        );
        assert_eq!(
            text(
                vec![
                    tcp(),
                    !Condition::DestinationPorts(vec![PortRange::single(53), PortRange { first: 80, last: 90 }]),
                    !Condition::Gid(IdRange { first: 1, last: 2 })
                ],
                Target::Return
            ),
            "-p tcp -m multiport ! --dports 53,80:90 -m owner ! --gid-owner 1-2 -j RETURN"
        );
        assert_eq!(
            text(vec![tcp(), !Condition::Mark(MarkMask::full(1338))], Target::Tproxy { port: 15006, mark: MarkMask::full(1337) }),
            "-p tcp -m mark ! --mark 0x53a -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff"
        );
        assert_eq!(
            text(
                vec![Condition::State(StateSet::ESTABLISHED.union(StateSet::RELATED)).into()],
                Target::Mark(MarkMask { value: 1, mask: 3 })
            ),
            "-m conntrack --ctstate RELATED,ESTABLISHED -j MARK --set-xmark 0x1/0x3"
        );
        assert_eq!(
            text(vec![Condition::Connmark(MarkMask { value: 1, mask: 3 }).into()], Target::RestoreMark),
            "-m connmark --mark 0x1/0x3 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
        );
        assert_eq!(text(vec![], Target::CtZone(2)), "-j CT --zone 2");
        assert_eq!(text(vec![], Target::Continue), "");
    }

    #[test]
    fn a_prefix_of_length_zero_is_no_match() {
        let any = Rule::new([Condition::Destination("0.0.0.0/0".parse().unwrap()).into()], Target::Return);
        assert_eq!(specification(&any, Family::V4), "-j RETURN");
    }

    #[test]
    fn comments_are_quoted_as_libxtables_does() {
        assert_eq!(quoted("plain-word_1"), "plain-word_1");
        assert_eq!(quoted("proxy-init/x"), "\"proxy-init/x\"");
        assert_eq!(quoted("it's \"so\""), "\"it\\'s \\\"so\\\"\"");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn tables_are_printed_for_iptables_restore() {
        let mut rules = Ruleset::new(Family::V4);
        let nat = rules.table_mut(TableName::Nat);
        nat.chain_mut("OWN").rules.push(Rule::new([tcp()], Target::Redirect(1)));
        nat.chain_mut("PREROUTING").rules.push(Rule::new([tcp()], Target::Jump("OWN".into())));
        nat.chain_mut("PREROUTING").insert_first(Rule::new([], Target::Return));
        nat.chain_mut("PREROUTING").insert_first(Rule::new([], Target::Accept));
        assert_eq!(
            ruleset(&rules, Style::default()),
            "*nat\n:OWN - [0:0]\n-I PREROUTING 1 -j ACCEPT\n-I PREROUTING 2 -j RETURN\n-A PREROUTING -p tcp -j OWN\n\
             -A OWN -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n"
        );
    }

    #[test]
    fn what_is_not_known_is_shown_as_a_comment() {
        let mut rules = Ruleset::new(Family::V4);
        let opaque = Opaque { name: "limit".into(), revision: 0, data: vec![0xab, 1] };
        let mut rule = Rule::new([Condition::Opaque(opaque).into()], Target::Accept);
        rule.counters = Some(Counters { packets: 3, bytes: 180 });
        rules.table_mut(TableName::Filter).chain_mut("INPUT").rules.push(rule);
        assert_eq!(
            ruleset(&rules, Style { counters: true, ..Style::default() }),
            "*filter\n# [3:180] -A INPUT -m limit <revision 0, 2 bytes: ab01> -j ACCEPT\nCOMMIT\n"
        );
    }
}
