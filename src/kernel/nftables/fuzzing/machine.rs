//! What expressions do to a packet, as the kernel carries them out: a second opinion on what the decoder makes of them.

use super::super::abi::{
    self, bitwise, byteorder, cmp, counter, ct, immediate, lookup, meta, payload, range, redir, tproxy,
    {CT_DIRECTION, CT_DREG, CT_KEY, CT_SREG}, {META_DREG, META_KEY, META_SREG},
};
use super::super::encode::address_field;
use super::super::read::name_of;
use super::super::sets::Set;
use crate::kernel::netlink::wire::{Attribute, Attributes};
use crate::ruleset::{Family, MarkMask, Target};

/// A packet, with the connection and the socket that it belongs to.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet {
    pub(super) v6: bool,
    pub(super) protocol: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    pub(super) ports: [u16; 2],
    pub(super) interfaces: [[u8; 16]; 2],
    pub(super) mark: u32,
    pub(super) connection_mark: u32,
    /// One bit of `NF_CT_STATE_BIT`.
    pub(super) state: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Packet {
    pub(super) fn family(&self) -> Family {
        if self.v6 { Family::V6 } else { Family::V4 }
    }

    /// The network header up to its addresses.
    fn network(&self) -> ([u8; 40], usize) {
        let (at, len) = address_field(self.family());
        let mut header = [0; 40];
        header[if self.v6 { 6 } else { 9 }] = self.protocol;
        header[at..at + len].copy_from_slice(&self.source[..len]);
        header[at + len..at + 2 * len].copy_from_slice(&self.destination[..len]);
        (header, at + 2 * len)
    }

    /// The ports.
    fn transport(&self) -> ([u8; 40], usize) {
        let mut header = [0; 40];
        for (place, port) in header.chunks_exact_mut(2).zip(self.ports) {
            place.copy_from_slice(&port.to_be_bytes());
        }
        (header, 4)
    }
}

/// What has become of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// A verdict; `None` if the next rule is asked.
    pub(super) verdict: Option<Target>,
    pub(super) mark: Option<u32>,
    pub(super) connection_mark: Option<u32>,
    pub(super) zone: Option<u16>,
    pub(super) redirected: Option<u16>,
    pub(super) taken: Option<u16>,
}

/// The registers: `NFT_REG_1` to `NFT_REG_4` of 16 bytes, or `NFT_REG32_00` to `NFT_REG32_15` of 4, are the same bytes.
struct Registers([u8; 64]);

impl Registers {
    fn at(register: u32) -> Option<usize> {
        match register {
            1..=4 => Some((register as usize - 1) * 16),
            8..=23 => Some((register as usize - 8) * 4),
            _ => None,
        }
    }

    fn get(&self, register: u32, len: usize) -> Option<&[u8]> {
        let at = Registers::at(register)?;
        self.0.get(at..at + len)
    }

    /// Whole words are written.
    fn put(&mut self, register: u32, value: &[u8]) -> Option<()> {
        let at = Registers::at(register)?;
        let place = self.0.get_mut(at..at + value.len().next_multiple_of(4))?;
        place.fill(0);
        place[..value.len()].copy_from_slice(value);
        Some(())
    }
}

/// How a packet goes on after an expression.
enum Next {
    Expression,
    Rule,
}

struct Machine<'p, 'a> {
    packet: &'p Packet,
    registers: Registers,
    outcome: Outcome,
    set: &'a dyn Fn(&str) -> Option<&'a Set>,
}

/// What the rule does to the packet; `None` if there is something in it that this machine has not learnt, or that a kernel
/// would have refused.
pub(super) fn run<'a>(expressions: &[u8], packet: &Packet, set: &'a dyn Fn(&str) -> Option<&'a Set>) -> Option<Outcome> {
    let mut machine = Machine { packet, registers: Registers([0; 64]), outcome: Outcome::default(), set };
    for element in Attributes::new(expressions) {
        let parts = element.ok()?.nested();
        let name = parts.find(abi::EXPRESSION_NAME).ok()??.text().ok()?;
        let data = parts.find(abi::EXPRESSION_DATA).ok()?.map_or(Attributes::new(&[]), |data| data.nested());
        match machine.step(name, &Data(data))? {
            Next::Expression => {}
            Next::Rule => break,
        }
    }
    Some(machine.outcome)
}

/// An expression's attributes.
struct Data<'a>(Attributes<'a>);

impl<'a> Data<'a> {
    fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.0.find(kind).ok()?
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.find(kind)?.u32_be().ok()
    }

    fn value(&self, kind: u16) -> Option<&'a [u8]> {
        let value = self.find(kind)?.nested().find(abi::DATA_VALUE).ok()??.value;
        (1..=16).contains(&value.len()).then_some(value)
    }
}

impl Machine<'_, '_> {
    fn step(&mut self, name: &str, data: &Data<'_>) -> Option<Next> {
        match name {
            "counter" => [counter::BYTES, counter::PACKETS].iter().all(|kind| data.find(*kind).is_some()).then_some(Next::Expression),
            "meta" => self.meta(data),
            "ct" => self.connection(data),
            "payload" => self.payload(data),
            "immediate" => self.immediate(data),
            "bitwise" => self.bitwise(data),
            "byteorder" => self.byteorder(data),
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.look_up(data),
            "redir" => {
                (data.find(redir::REG_MAX).is_none() && data.number(redir::FLAGS).is_none_or(|flags| flags == redir::PORT)).then_some(())?;
                self.outcome.redirected = Some(self.port(data.number(redir::REG_MIN)?)?);
                Some(Next::Expression)
            }
            "tproxy" => {
                data.find(tproxy::REG_ADDRESS).is_none().then_some(())?;
                self.outcome.taken = Some(self.port(data.number(tproxy::REG_PORT)?)?);
                Some(Next::Expression)
            }
            _ => None,
        }
    }

    fn port(&self, register: u32) -> Option<u16> {
        Some(u16::from_be_bytes(self.registers.get(register, 2)?.try_into().ok()?))
    }

    fn meta(&mut self, data: &Data<'_>) -> Option<Next> {
        let key = data.number(META_KEY)?;
        let Some(to) = data.number(META_DREG) else {
            (key == meta::MARK).then_some(())?;
            self.outcome.mark = Some(u32::from_ne_bytes(self.registers.get(data.number(META_SREG)?, 4)?.try_into().ok()?));
            return Some(Next::Expression);
        };
        let packet = self.packet;
        let mark = self.outcome.mark.unwrap_or(packet.mark);
        match key {
            meta::MARK => self.registers.put(to, &mark.to_ne_bytes()),
            meta::IN_NAME => self.registers.put(to, &packet.interfaces[0]),
            meta::OUT_NAME => self.registers.put(to, &packet.interfaces[1]),
            meta::SOCKET_UID => self.registers.put(to, &packet.uid.to_ne_bytes()),
            meta::SOCKET_GID => self.registers.put(to, &packet.gid.to_ne_bytes()),
            meta::NFPROTO => self.registers.put(to, &[abi::number(packet.family())]),
            meta::L4PROTO => self.registers.put(to, &[packet.protocol]),
            _ => None,
        }
        .map(|()| Next::Expression)
    }

    fn connection(&mut self, data: &Data<'_>) -> Option<Next> {
        let key = data.number(CT_KEY)?;
        data.find(CT_DIRECTION).is_none().then_some(())?;
        if let Some(to) = data.number(CT_DREG) {
            let value = match key {
                ct::STATE => self.packet.state,
                ct::MARK => self.outcome.connection_mark.unwrap_or(self.packet.connection_mark),
                _ => return None,
            };
            return self.registers.put(to, &value.to_ne_bytes()).map(|()| Next::Expression);
        }
        let from = data.number(CT_SREG)?;
        match key {
            ct::MARK => self.outcome.connection_mark = Some(u32::from_ne_bytes(self.registers.get(from, 4)?.try_into().ok()?)),
            ct::ZONE => self.outcome.zone = Some(u16::from_ne_bytes(self.registers.get(from, 2)?.try_into().ok()?)),
            _ => return None,
        }
        Some(Next::Expression)
    }

    fn payload(&mut self, data: &Data<'_>) -> Option<Next> {
        let (header, end) = match data.number(payload::BASE)? {
            payload::NETWORK => self.packet.network(),
            payload::TRANSPORT => self.packet.transport(),
            _ => return None,
        };
        let (at, len) = (data.number(payload::OFFSET)? as usize, data.number(payload::LEN)? as usize);
        // What is behind these headers is not known here.
        let value = header[..end].get(at..at.checked_add(len)?).filter(|value| !value.is_empty())?;
        self.registers.put(data.number(payload::DREG)?, value).map(|()| Next::Expression)
    }

    fn immediate(&mut self, data: &Data<'_>) -> Option<Next> {
        let to = data.number(immediate::DREG)?;
        if to != abi::REGISTER_VERDICT {
            return self.registers.put(to, data.value(immediate::DATA)?).map(|()| Next::Expression);
        }
        let verdict = data.find(immediate::DATA)?.nested().find(abi::DATA_VERDICT).ok()??.nested();
        let chain = || Some(name_of(&verdict.find(abi::VERDICT_CHAIN).ok()??));
        self.outcome.verdict = Some(match verdict.find(abi::VERDICT_CODE).ok()??.u32_be().ok()? {
            abi::ACCEPT => Target::Accept,
            abi::DROP => Target::Drop,
            abi::RETURN => Target::Return,
            abi::JUMP => Target::Jump(chain()?),
            abi::GOTO => Target::Goto(chain()?),
            _ => return None,
        });
        Some(Next::Rule)
    }

    fn bitwise(&mut self, data: &Data<'_>) -> Option<Next> {
        matches!(data.number(bitwise::OPERATION), None | Some(0)).then_some(())?;
        let (mask, xor) = (data.value(bitwise::MASK)?, data.value(bitwise::XOR)?);
        let len = data.number(bitwise::LEN)? as usize;
        (mask.len() == len && xor.len() == len).then_some(())?;
        let mut value = [0; 16];
        value[..len].copy_from_slice(self.registers.get(data.number(bitwise::SREG)?, len)?);
        for ((byte, mask), xor) in value.iter_mut().zip(mask).zip(xor) {
            *byte = *byte & mask ^ xor;
        }
        self.registers.put(data.number(bitwise::DREG)?, &value[..len]).map(|()| Next::Expression)
    }

    fn byteorder(&mut self, data: &Data<'_>) -> Option<Next> {
        (data.number(byteorder::SIZE)? == 4 && data.number(byteorder::LEN)? == 4).then_some(())?;
        let value: [u8; 4] = self.registers.get(data.number(byteorder::SREG)?, 4)?.try_into().ok()?;
        // Both ways are the same.
        let value = u32::from_ne_bytes(value).to_be_bytes();
        self.registers.put(data.number(byteorder::DREG)?, &value).map(|()| Next::Expression)
    }

    fn compare(&mut self, data: &Data<'_>) -> Option<Next> {
        let value = data.value(cmp::DATA)?;
        let order = self.registers.get(data.number(cmp::SREG)?, value.len())?.cmp(value);
        let holds = match data.number(cmp::OPERATION)? {
            cmp::EQUAL => order.is_eq(),
            cmp::UNEQUAL => order.is_ne(),
            cmp::AT_MOST => order.is_le(),
            cmp::AT_LEAST => order.is_ge(),
            _ => return None,
        };
        Some(if holds { Next::Expression } else { Next::Rule })
    }

    fn range(&mut self, data: &Data<'_>) -> Option<Next> {
        let (first, last) = (data.value(range::FROM)?, data.value(range::TO)?);
        (first.len() == last.len()).then_some(())?;
        let value = self.registers.get(data.number(range::SREG)?, first.len())?;
        let inside = first <= value && value <= last;
        let holds = match data.number(range::OPERATION)? {
            cmp::EQUAL => inside,
            cmp::UNEQUAL => !inside,
            _ => return None,
        };
        Some(if holds { Next::Expression } else { Next::Rule })
    }

    fn look_up(&mut self, data: &Data<'_>) -> Option<Next> {
        data.find(lookup::DREG).is_none().then_some(())?;
        let set = (self.set)(&name_of(&data.find(lookup::SET)?)).filter(|set| set.flags & abi::SET_MAP == 0)?;
        let from = data.number(lookup::SREG)?;
        let mut below: Option<(&[u8], bool)> = None;
        let (mut found, mut rest) = (false, false);
        for element in set.elements.iter().flat_map(|list| Attributes::new(list)) {
            let parts = element.ok()?.nested();
            // Several fields that are ranges, and elements that do not stay, are not learnt.
            let known = [abi::ELEMENT_KEY, abi::ELEMENT_FLAGS, abi::ELEMENT_USERDATA, abi::ELEMENT_PAD];
            parts.clone().all(|part| part.is_ok_and(|part| known.contains(&part.kind))).then_some(())?;
            let Some(key) = parts.find(abi::ELEMENT_KEY).ok()? else {
                rest = true;
                continue;
            };
            let key = key.nested().find(abi::DATA_VALUE).ok()??.value;
            let ends = parts.find(abi::ELEMENT_FLAGS).ok()?.and_then(|flags| flags.u32_be().ok()).unwrap_or(0) & abi::INTERVAL_END != 0;
            let value = self.registers.get(from, key.len())?;
            found |= value == key;
            // At the same value an interval may end and another begin.
            if key <= value && below.is_none_or(|(other, other_ends)| (key, !ends) > (other, !other_ends)) {
                below = Some((key, ends));
            }
        }
        if set.flags & abi::SET_INTERVAL != 0 {
            found = below.is_some_and(|(_, ends)| !ends);
        }
        let inverted = data.number(lookup::FLAGS).unwrap_or(0) & lookup::INVERTED != 0;
        Some(if (found || rest) != inverted { Next::Expression } else { Next::Rule })
    }
}

/// The mark after a target that sets bits of it.
pub(super) fn marked(old: u32, MarkMask { value, mask }: MarkMask) -> u32 {
    old & !mask ^ value
}
