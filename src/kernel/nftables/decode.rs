//! Expressions into rules. What is not understood becomes an [`Opaque`].
//!
//! Not only what mesh-init writes is understood, but what `nft` and `iptables-nft` make of such rules, xtables extensions
//! included: each expression is followed through the registers that it reads and writes.

mod expression;
mod register;

use self::expression::{Expression, xtables};
use self::register::{Loaded, What, address_range, closed, host, interface, mark_set, net, port_condition, prefix_mask, range_of, states};
use super::abi::{
    self, EXTHDR_SREG, bitwise, byteorder, cmp, counter, ct, immediate, lookup, meta, payload, range, redir, tproxy,
    {CT_DIRECTION, CT_DREG, CT_KEY, CT_SREG}, {META_DREG, META_KEY, META_SREG},
};
use super::encode::address_field;
use super::read::name_of;
use super::sets::Set;
use crate::kernel::legacy::extension;
use crate::kernel::netlink::wire::{Attributes, Malformed};
use crate::ruleset::{AddressSet, Condition, Counters, Family, IdRange, MarkMask, Match, Opaque, PortRange, Protocol, Rule, Target};

/// A rule as a kernel tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// The table's family (`NFPROTO_*`).
    pub(super) family: u8,
    /// The value of `NFTA_RULE_EXPRESSIONS`.
    pub(super) expressions: &'a [u8],
    /// The value of `NFTA_RULE_USERDATA`.
    pub(super) user_data: &'a [u8],
}

/// What a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) rule: Rule,
    /// The only family whose packets it matches, in a table of both.
    pub(super) family: Option<Family>,
}

/// What the expressions mean. `set` finds the sets of the rule's table, `chain` the model's name for a chain of it.
pub(super) fn rule<'s>(
    source: Source<'_>,
    set: &dyn Fn(&str) -> Option<&'s Set>,
    chain: &dyn Fn(&str) -> String,
) -> Result<Decoded, Malformed> {
    let mut reading = Reading {
        inet: source.family == abi::INET,
        family: match source.family {
            abi::IPV4 => Some(Family::V4),
            abi::IPV6 => Some(Family::V6),
            _ => None,
        },
        registers: Vec::new(),
        matches: Vec::new(),
        open_range: None,
        actions: Vec::new(),
        late_match: false,
        comment: comment(source.user_data),
        counters: None,
        set,
        chain,
    };
    // How much is tested before the first thing is done.
    let mut first_tests = 0;
    for element in Attributes::new(source.expressions) {
        let expression = Expression::parse(element?)?;
        let (acted, tested) = (!reading.actions.is_empty(), reading.tested());
        if !acted {
            first_tests = reading.matches.len();
        }
        // An expression with a part that is missing or of another length is one that is not known.
        if !matches!(reading.follow(&expression), Ok(Some(()))) {
            reading.unknown(&expression);
        }
        reading.late_match |= acted && reading.tested() != tested;
    }
    if reading.late_match {
        // The others do not keep what comes before them from being done.
        reading.matches.truncate(first_tests);
    }
    let target = reading.target(source.expressions);
    let family = reading.family.filter(|_| reading.inet);
    let rule = Rule { comment: reading.comment, counters: reading.counters, ..Rule::new(reading.matches, target) };
    Ok(Decoded { rule, family })
}

/// The comment in a rule's user data: type, length and value, one after the other.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *kind == abi::USERDATA_COMMENT {
            return Some(extension::readable(value));
        }
        data = &rest[value.len()..];
    }
    None
}

/// The names of the sets that a rule uses, be it that it looks something up there or puts something in.
pub(super) fn sets_of(expressions: &[u8]) -> Vec<String> {
    let sets = Attributes::new(expressions).flatten().filter_map(|element| {
        let expression = Expression::parse(element).ok()?;
        let kind = match expression.name {
            "lookup" => lookup::SET,
            "dynset" => abi::DYNSET_SET,
            "objref" => abi::OBJREF_SET,
            _ => return None,
        };
        Some(name_of(&expression.data.find(kind).ok()??))
    });
    sets.collect()
}

/// Whether a rule uses counters, quotas or other objects of its table.
pub(super) fn uses_objects(expressions: &[u8]) -> bool {
    Attributes::new(expressions).flatten().any(|element| Expression::parse(element).is_ok_and(|expression| expression.name == "objref"))
}

/// The name of the expression that is the list element at `offset` of `message`.
pub(super) fn name_at(message: &[u8], offset: usize) -> Option<String> {
    let element = Attributes::new(message.get(offset..)?).next()?.ok()?;
    Some(Expression::parse(element).ok()?.name.to_owned())
}

/// Something that a rule does.
#[derive(Clone, Debug)]
enum Action {
    Verdict(Target),
    SetMark(Loaded),
    Do(Target),
    TproxyTo(u16),
    Unknown(Opaque),
}

struct Reading<'r, 's> {
    inet: bool,
    family: Option<Family>,
    registers: Vec<(u32, Loaded)>,
    matches: Vec<Match>,
    /// The register of which the last match has found that it is at least something.
    open_range: Option<u32>,
    actions: Vec<Action>,
    /// Something is done before all has been tested, whatever the later tests find. No target does that.
    late_match: bool,
    comment: Option<String>,
    counters: Option<Counters>,
    set: &'r dyn Fn(&str) -> Option<&'s Set>,
    chain: &'r dyn Fn(&str) -> String,
}

impl Reading<'_, '_> {
    fn loaded(&self, register: u32) -> Option<&Loaded> {
        self.registers.iter().find(|(number, _)| *number == register).map(|(_, loaded)| loaded)
    }

    /// What grows or changes with every test.
    fn tested(&self) -> (usize, Option<Family>) {
        (self.matches.len(), self.family)
    }

    fn load(&mut self, register: u32, loaded: Loaded) {
        self.forget(register);
        self.registers.push((register, loaded));
    }

    fn forget(&mut self, register: u32) {
        self.registers.retain(|(number, _)| *number != register);
    }

    /// Takes the expression in; nothing if it is not known. What it leaves in registers then is not known either.
    fn follow(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let open_range = self.open_range.take();
        match expression.name {
            "counter" => self.count(expression),
            "meta" => self.meta(expression),
            "ct" => self.connection(expression),
            "payload" => self.payload(expression),
            "immediate" => self.immediate(expression),
            "bitwise" => self.bitwise(expression),
            "byteorder" => self.byteorder(expression),
            "cmp" => self.compare(expression, open_range),
            "range" => self.range(expression),
            "lookup" => self.look_up(expression),
            "redir" => self.redirect(expression),
            "tproxy" => self.tproxy(expression),
            "match" => self.extension(expression),
            "target" => self.extension_target(expression),
            _ => Ok(None),
        }
    }

    fn count(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let number = |kind| expression.data.find(kind)?.map_or(Ok(0), |value| value.u64_be());
        self.counters = Some(Counters { packets: number(counter::PACKETS)?, bytes: number(counter::BYTES)? });
        Ok(Some(()))
    }

    fn meta(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some(key), sets) = (expression.number(META_KEY)?, expression.number(META_SREG)?) else { return Ok(None) };
        if let Some(register) = expression.number(META_DREG)? {
            self.load(register, Loaded::plain(What::Meta(key)));
            return Ok(Some(()));
        }
        let value = sets.and_then(|register| self.loaded(register)).filter(|_| key == meta::MARK).cloned();
        self.actions.extend(value.clone().map(Action::SetMark));
        Ok(value.map(|_| ()))
    }

    fn connection(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let Some(key) = expression.number(CT_KEY)?.filter(|_| !matches!(expression.has(CT_DIRECTION), Ok(true))) else { return Ok(None) };
        if let Some(register) = expression.number(CT_DREG)? {
            self.load(register, Loaded::plain(What::Ct(key)));
            return Ok(Some(()));
        }
        let from = expression.number(CT_SREG)?.and_then(|register| self.loaded(register));
        let done = match (key, from) {
            (ct::MARK, Some(Loaded { what: What::Meta(meta::MARK), mask: None, turned: false })) => Target::SaveMark,
            (ct::ZONE, Some(Loaded { what: What::Value(value), mask: None, turned: false })) => match value.first_chunk() {
                Some(zone) => Target::CtZone(u16::from_ne_bytes(*zone)),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.actions.push(Action::Do(done));
        Ok(Some(()))
    }

    fn payload(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let number = |kind| expression.number(kind);
        let (Some(register), Some(base)) = (number(payload::DREG)?, number(payload::BASE)?) else { return Ok(None) };
        let (Some(offset), Some(len)) = (number(payload::OFFSET)?, number(payload::LEN)?) else { return Ok(None) };
        self.load(register, Loaded::plain(What::Payload { base, offset: offset as usize, len: len as usize }));
        Ok(Some(()))
    }

    fn immediate(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some(register), Some(data)) = (expression.number(immediate::DREG)?, expression.data.find(immediate::DATA)?) else {
            return Ok(None);
        };
        let Some(verdict) = data.nested().find(abi::DATA_VERDICT)? else {
            let Some(value) = expression.value(immediate::DATA)? else { return Ok(None) };
            self.load(register, Loaded::plain(What::Value(value.to_vec())));
            return Ok(Some(()));
        };
        let Some(code) = verdict.nested().find(abi::VERDICT_CODE)? else { return Ok(None) };
        let to = || {
            let chain = verdict.nested().find(abi::VERDICT_CHAIN)?.ok_or(Malformed("jump without a chain"))?;
            Ok((self.chain)(&name_of(&chain)))
        };
        let target = match code.u32_be()? {
            abi::ACCEPT => Target::Accept,
            abi::DROP => Target::Drop,
            abi::RETURN => Target::Return,
            abi::JUMP => Target::Jump(to()?),
            abi::GOTO => Target::Goto(to()?),
            _ => return Ok(None),
        };
        self.actions.push(Action::Verdict(target));
        Ok(Some(()))
    }

    fn bitwise(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some(from), Some(to)) = (expression.number(bitwise::SREG)?, expression.number(bitwise::DREG)?) else { return Ok(None) };
        let before = self.loaded(from).filter(|loaded| loaded.mask.is_none() && !loaded.turned).cloned();
        self.forget(to);
        let (Some(before), None | Some(0)) = (before, expression.number(bitwise::OPERATION)?) else { return Ok(None) };
        let (Some(mask), Some(xor)) = (expression.value(bitwise::MASK)?, expression.value(bitwise::XOR)?) else { return Ok(None) };
        self.load(to, Loaded { mask: Some((mask.to_vec(), xor.to_vec())), ..before });
        Ok(Some(()))
    }

    fn byteorder(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some(from), Some(to)) = (expression.number(byteorder::SREG)?, expression.number(byteorder::DREG)?) else { return Ok(None) };
        let before = self.loaded(from).filter(|loaded| loaded.mask.is_none() && !loaded.turned).cloned();
        self.forget(to);
        let known =
            expression.number(byteorder::OPERATION)? == Some(byteorder::TO_NETWORK) && expression.number(byteorder::SIZE)? == Some(4);
        let Some(before) = before.filter(|_| known) else { return Ok(None) };
        self.load(to, Loaded { turned: true, ..before });
        Ok(Some(()))
    }

    fn compare(&mut self, expression: &Expression<'_>, open_range: Option<u32>) -> Result<Option<()>, Malformed> {
        let (Some(register), Some(operation)) = (expression.number(cmp::SREG)?, expression.number(cmp::OPERATION)?) else {
            return Ok(None);
        };
        let (Some(loaded), Some(value)) = (self.loaded(register).cloned(), expression.value(cmp::DATA)?) else { return Ok(None) };
        let found = match operation {
            cmp::EQUAL | cmp::UNEQUAL => return Ok(self.equals(&loaded, value, operation == cmp::UNEQUAL)),
            cmp::AT_LEAST => range_of(&loaded, self.family, Some(value), None),
            cmp::AT_MOST if open_range == Some(register) => {
                let whole = self.matches.last().and_then(|last| closed(&last.condition, value));
                let Some(whole) = whole else { return Ok(None) };
                self.matches.pop();
                Some(whole)
            }
            cmp::AT_MOST => range_of(&loaded, self.family, None, Some(value)),
            _ => None,
        };
        let Some(found) = found else { return Ok(None) };
        self.open_range = (operation == cmp::AT_LEAST).then_some(register);
        self.matches.push(found.into());
        Ok(Some(()))
    }

    fn equals(&mut self, loaded: &Loaded, value: &[u8], negated: bool) -> Option<()> {
        let mut negated = negated;
        let condition = match &loaded.what {
            _ if loaded.turned => return None,
            What::Meta(meta::NFPROTO) if self.inet && !negated && loaded.mask.is_none() => {
                self.family = match value {
                    [abi::IPV4] => Some(Family::V4),
                    [abi::IPV6] => Some(Family::V6),
                    _ => return None,
                };
                return Some(());
            }
            What::Ct(ct::STATE) => {
                let bits = match (&loaded.mask, host(value)?) {
                    // A packet has one state, which is never two.
                    (None, bits) if bits.is_power_of_two() => bits,
                    // Any of the bits: what is left is not nothing.
                    (Some((mask, xor)), 0) if xor.iter().all(|byte| *byte == 0) => {
                        negated = !negated;
                        host(mask)?
                    }
                    _ => return None,
                };
                Condition::State(states(bits)?)
            }
            What::Meta(meta::MARK) => Condition::Mark(MarkMask { value: host(value)?, mask: loaded.mark_mask()? }),
            What::Ct(ct::MARK) => Condition::Connmark(MarkMask { value: host(value)?, mask: loaded.mark_mask()? }),
            What::Payload { base: payload::NETWORK, offset, len } => self.network_field(*offset, *len, loaded.mask.as_ref(), value)?,
            _ if loaded.mask.is_some() => return None,
            What::Meta(meta::IN_NAME) => Condition::InInterface(interface(value)?),
            What::Meta(meta::OUT_NAME) => Condition::OutInterface(interface(value)?),
            What::Meta(meta::L4PROTO) => Condition::Protocol(Protocol(u8::from_ne_bytes(value.try_into().ok()?))),
            What::Meta(meta::SOCKET_UID) => Condition::Uid(IdRange::single(host(value)?)),
            What::Meta(meta::SOCKET_GID) => Condition::Gid(IdRange::single(host(value)?)),
            What::Payload { base: payload::TRANSPORT, offset, len: 2 } => {
                let port = u16::from_be_bytes(value.try_into().ok()?);
                port_condition(*offset, PortRange::single(port))?
            }
            _ => return None,
        };
        self.matches.push(Match { negated, condition });
        Some(())
    }

    /// An address, the beginning of one, or the protocol in the header itself.
    fn network_field(&self, offset: usize, len: usize, mask: Option<&(Vec<u8>, Vec<u8>)>, value: &[u8]) -> Option<Condition> {
        let family = self.family?;
        // IPv6 has extension headers between its own and that of the protocol.
        if (family, offset, len) == (Family::V4, 9, 1) && mask.is_none() {
            return Some(Condition::Protocol(Protocol(u8::from_ne_bytes(value.try_into().ok()?))));
        }
        let (source, whole) = address_field(family);
        if len > whole || value.len() != len {
            return None;
        }
        let bits = match mask {
            None => 8 * len,
            Some((mask, xor)) => {
                (mask.len() == len).then_some(())?;
                let ones = mask.iter().map(|byte| byte.leading_ones() as usize).take_while(|ones| *ones > 0).sum::<usize>();
                let contiguous = mask.iter().map(|byte| byte.count_ones() as usize).sum::<usize>() == ones && prefix_mask(mask);
                Some(ones).filter(|_| contiguous && xor.iter().all(|byte| *byte == 0))?
            }
        };
        let net = net(family, value, bits)?;
        match offset {
            at if at == source => Some(Condition::Source(net)),
            at if at == source + whole => Some(Condition::Destination(net)),
            _ => None,
        }
    }

    fn range(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some(register), Some(operation)) = (expression.number(range::SREG)?, expression.number(range::OPERATION)?) else {
            return Ok(None);
        };
        let loaded = self.loaded(register).cloned();
        let condition = loaded.and_then(|loaded| {
            range_of(&loaded, self.family, Some(expression.value(range::FROM).ok()??), Some(expression.value(range::TO).ok()??))
        });
        let Some(condition) = condition else { return Ok(None) };
        self.matches.push(Match { negated: operation == cmp::UNEQUAL, condition });
        Ok(Some(()))
    }

    fn look_up(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some(register), Some(name)) = (expression.number(lookup::SREG)?, expression.data.find(lookup::SET)?) else { return Ok(None) };
        let negated = expression.number(lookup::FLAGS)?.unwrap_or(0) & lookup::INVERTED != 0;
        let set = (self.set)(&name_of(&name)).filter(|_| !matches!(expression.has(lookup::DREG), Ok(true)));
        let Some((loaded, set)) = self.loaded(register).filter(|loaded| loaded.mask.is_none() && !loaded.turned).zip(set) else {
            return Ok(None);
        };
        let Some(condition) = self.in_set(&loaded.what, set) else { return Ok(None) };
        self.matches.push(Match { negated, condition });
        Ok(Some(()))
    }

    fn in_set(&self, what: &What, set: &Set) -> Option<Condition> {
        let intervals = set.intervals.as_ref()?;
        match what {
            What::Payload { base: payload::TRANSPORT, offset, len: 2 } => {
                let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
                let ports = intervals.iter().map(|(first, last)| Some(PortRange { first: port(first)?, last: port(last)? }));
                let list = ports.collect::<Option<Vec<PortRange>>>()?;
                match offset {
                    0 => Some(Condition::SourcePorts(list)),
                    2 => Some(Condition::DestinationPorts(list)),
                    _ => None,
                }
            }
            What::Payload { base: payload::NETWORK, offset, len } => {
                let (source, whole) = address_field(self.family?);
                let ranges = intervals.iter().map(|(first, last)| address_range(whole, first, last));
                let addresses = ranges.collect::<Option<AddressSet>>().filter(|_| *len == whole)?;
                match *offset {
                    at if at == source => Some(Condition::Sources(addresses)),
                    at if at == source + whole => Some(Condition::Destinations(addresses)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn redirect(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let first = expression.number(redir::REG_MIN)?;
        let port = first.and_then(|register| self.port_value(register));
        let one_port = expression.number(redir::REG_MAX)?.is_none_or(|last| Some(last) == first);
        let known_flags = expression.number(redir::FLAGS)?.unwrap_or(0) & !redir::PORT == 0;
        let port = port.filter(|_| one_port && known_flags);
        self.actions.extend(port.map(|port| Action::Do(Target::Redirect(port))));
        Ok(port.map(|_| ()))
    }

    fn port_value(&self, register: u32) -> Option<u16> {
        match self.loaded(register)? {
            Loaded { what: What::Value(value), mask: None, turned: false } => Some(u16::from_be_bytes(*value.first_chunk()?)),
            _ => None,
        }
    }

    fn tproxy(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let port = expression.number(tproxy::REG_PORT)?.and_then(|register| self.port_value(register));
        let port = port.filter(|_| !matches!(expression.has(tproxy::REG_ADDRESS), Ok(true)));
        self.actions.extend(port.map(Action::TproxyTo));
        Ok(port.map(|_| ()))
    }

    fn extension(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let Some((name, revision, data)) = xtables(expression)? else { return Ok(None) };
        match extension::matches(name, revision, data) {
            Some(extension::Known::Matches(found)) => self.matches.extend(found),
            Some(extension::Known::Comment(text)) if self.comment.is_none() => self.comment = Some(text),
            _ => self.matches.push(Condition::Opaque(Opaque { name: name.to_owned(), revision, data: data.to_vec() }).into()),
        }
        Ok(Some(()))
    }

    fn extension_target(&mut self, expression: &Expression<'_>) -> Result<Option<()>, Malformed> {
        let (Some((name, revision, data)), Some(family)) = (xtables(expression)?, self.family) else { return Ok(None) };
        let unknown = || Target::Opaque(Opaque { name: name.to_owned(), revision, data: data.to_vec() });
        self.actions.push(Action::Do(extension::target(family, name, revision, data).unwrap_or_else(unknown)));
        Ok(Some(()))
    }

    /// What an expression that is not known leaves in the registers is not known either; it counts as a match.
    fn unknown(&mut self, expression: &Expression<'_>) {
        // Which attribute names a register is the expression's own affair, so that none is trusted.
        if expression.name != "cmp" {
            self.registers.clear();
        }
        let statement = matches!(
            expression.name,
            "nat" | "masq" | "redir" | "tproxy" | "reject" | "queue" | "notrack" | "dup" | "fwd" | "dynset" | "objref" | "target"
        );
        let sets = |kind| matches!(expression.has(kind), Ok(true));
        let writes = match expression.name {
            "meta" => sets(META_SREG),
            "ct" => sets(CT_SREG),
            "payload" => sets(payload::SREG),
            "exthdr" => sets(EXTHDR_SREG),
            _ => false,
        };
        let maps = expression.name == "lookup" && matches!(expression.number(lookup::DREG), Ok(Some(abi::REGISTER_VERDICT)));
        let jumps = expression.name == "immediate" && matches!(expression.number(immediate::DREG), Ok(Some(abi::REGISTER_VERDICT)));
        if statement || writes || maps || jumps {
            self.actions.push(Action::Unknown(expression.opaque()));
        } else {
            self.matches.push(Condition::Opaque(expression.opaque()).into());
        }
    }

    fn target(&self, expressions: &[u8]) -> Target {
        let known = match self.actions.as_slice() {
            _ if self.late_match => None,
            [] => Some(Target::Continue),
            [Action::Verdict(target) | Action::Do(target)] => Some(target.clone()),
            [Action::Unknown(opaque)] => Some(Target::Opaque(opaque.clone())),
            [Action::SetMark(Loaded { what: What::Ct(ct::MARK), mask: None, turned: false })] => Some(Target::RestoreMark),
            [Action::SetMark(loaded)] => mark_set(loaded).map(Target::Mark),
            [Action::TproxyTo(port), Action::SetMark(loaded), Action::Verdict(Target::Accept)] => {
                mark_set(loaded).map(|mark| Target::Tproxy { port: *port, mark })
            }
            _ => None,
        };
        let unknown = || Opaque { name: "several statements".to_owned(), revision: 0, data: expressions.to_vec() };
        known.unwrap_or_else(|| Target::Opaque(unknown()))
    }
}
