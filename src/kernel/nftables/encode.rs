//! Rules into expressions.
//!
//! Rules come in the form that [`crate::ruleset::native`] gives them. The expressions are those that `nft` would make of
//! them, so that `nft list ruleset` shows them as it shows its own. Everything goes through one register.

use super::abi;
use super::expressions::{Expressions, octets};
use crate::kernel::netlink::wire::AttributeWriter;
use crate::ruleset::print::nft;
use crate::ruleset::{AddressSet, Condition, Family, Match, PortRange, Protocol, Rule, TableName, Target, order};

/// A rule that nf_tables cannot hold as it is: a planner's mistake, never a user's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no nf_tables {family} rule can hold this: {problem}")]
pub struct EncodeError {
    family: Family,
    problem: &'static str,
}

/// The values of an anonymous set, which a rule looks its packets up in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetContents {
    /// What `nft` calls the kind of key.
    pub(super) key_type: u32,
    /// The keys' length in bytes.
    pub(super) key_len: usize,
    /// The first value of each interval, and the first behind it; `None` if there is none behind it.
    pub(super) intervals: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl SetContents {
    fn of_ports(list: &[PortRange]) -> SetContents {
        let bytes = |port: u16| port.to_be_bytes().to_vec();
        let interval = |range: &PortRange| (bytes(range.first), range.last.checked_add(1).map(bytes));
        SetContents { key_type: abi::KEY_SERVICE, key_len: 2, intervals: list.iter().map(interval).collect() }
    }

    fn of_addresses(family: Family, set: &AddressSet) -> SetContents {
        let (key_type, key_len) = match family {
            Family::V4 => (abi::KEY_IPV4, 4),
            Family::V6 => (abi::KEY_IPV6, 16),
        };
        let intervals = set.ranges().iter().map(|range| (octets(range.first()), range.end().map(octets))).collect();
        SetContents { key_type, key_len, intervals }
    }
}

/// Checks that the rule has a form, and returns the sets that it needs, in the order in which
/// [`write`] takes their numbers.
pub(super) fn sets(family: Family, rule: &Rule) -> Result<Vec<SetContents>, EncodeError> {
    let fault = |problem| EncodeError { family, problem };
    let mut sets = Vec::new();
    for wanted in in_order(rule) {
        match &wanted.condition {
            Condition::SourcePort(_) | Condition::DestinationPort(_) | Condition::SourcePorts(_) | Condition::DestinationPorts(_)
                if !matches!(rule.protocol(), Some(Protocol::TCP | Protocol::UDP)) =>
            {
                return Err(fault("a port without tcp or udp"));
            }
            Condition::SourcePorts(list) | Condition::DestinationPorts(list) => sets.push(SetContents::of_ports(list)),
            Condition::Source(net) | Condition::Destination(net) if Family::of(net) != family => {
                return Err(fault("an address of the other family"));
            }
            Condition::Sources(set) | Condition::Destinations(set) => {
                if set.ranges().is_empty() {
                    return Err(fault("a list without addresses"));
                }
                if set.ranges().iter().any(|range| range.first().is_ipv4() != (family == Family::V4)) {
                    return Err(fault("an address of the other family"));
                }
                if set.ranges().len() > 1 {
                    sets.push(SetContents::of_addresses(family, set));
                }
            }
            Condition::Uid(_) | Condition::Gid(_) if wanted.negated => {
                return Err(fault("an owner that is negated, which a packet without a socket would not match"));
            }
            Condition::Opaque(_) => return Err(fault("a match that is not known is never written")),
            _ => {}
        }
    }
    match rule.target {
        Target::Opaque(_) => Err(fault("a target that is not known is never written")),
        _ => Ok(sets),
    }
}

/// Writes the rule's expressions; `set_ids` are the numbers of its [`sets`].
pub(super) fn write(list: &mut AttributeWriter<'_>, family: Family, table: TableName, rule: &Rule, set_ids: &[u32]) {
    let mut expressions = Expressions { list, family, set_ids: set_ids.iter() };
    for wanted in in_order(rule) {
        expressions.condition(wanted);
    }
    expressions.counter(rule.counters.unwrap_or_default());
    expressions.target(table, &rule.target);
}

/// The matches in the order in which `nft` would have them: what a port is looked for in before the port.
fn in_order(rule: &Rule) -> Vec<&Match> {
    let mut matches: Vec<&Match> = rule.matches.iter().collect();
    order::sort_by_key(&mut matches, |wanted| nft::rank(&wanted.condition));
    matches
}

/// The rule's user data: its comment, cut to what `nft` takes.
pub(super) fn user_data(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(abi::COMMENT_SIZE - 1);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    // A length with its NUL fits in a byte.
    let mut data = vec![abi::USERDATA_COMMENT, (end + 1) as u8];
    data.extend_from_slice(&comment.as_bytes()[..end]);
    data.push(0);
    data
}

/// The kernel puts a number in the place of `%d`.
pub(super) const ANONYMOUS_SET: &str = "__set%d";

/// `IFNAMSIZ`
pub(super) const INTERFACE_SIZE: usize = 16;

/// Where in the family's header the source address is, and how long it is; the destination follows it.
pub(super) const fn address_field(family: Family) -> (usize, usize) {
    match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    }
}
