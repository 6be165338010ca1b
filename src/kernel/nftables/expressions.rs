//! The expressions of one rule, written as attributes of its message.

use std::net::IpAddr;

use ipnet::IpNet;

use super::abi::{
    self, bitwise, byteorder, cmp, counter, ct, immediate, lookup, meta, payload, range, redir, tproxy, {CT_DREG, CT_KEY, CT_SREG},
    {META_DREG, META_KEY, META_SREG},
};
use super::encode::{ANONYMOUS_SET, INTERFACE_SIZE, address_field};
use crate::kernel::netlink::wire::AttributeWriter;
use crate::ruleset::{
    AddressSet, Condition, Counters, Family, IdRange, Interface, MarkMask, Match, PortRange, StateSet, TableName, Target, layout,
};

/// The bytes of an address, as packets have them.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Which end of a packet's way.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// Writes expressions into a rule's list.
pub(super) struct Expressions<'a, 'b> {
    pub(super) list: &'a mut AttributeWriter<'b>,
    pub(super) family: Family,
    /// The numbers of the sets that the rule looks packets up in, in the order of its matches.
    pub(super) set_ids: std::slice::Iter<'a, u32>,
}

impl Expressions<'_, '_> {
    fn add(&mut self, name: &str, data: impl FnOnce(&mut AttributeWriter<'_>)) {
        self.list.nested(abi::LIST_ELEMENT, |element| {
            element.text(abi::EXPRESSION_NAME, name);
            element.nested(abi::EXPRESSION_DATA, |writer| data(writer));
        });
    }

    /// What a match tests.
    pub(super) fn condition(&mut self, wanted: &Match) {
        let negated = wanted.negated;
        match &wanted.condition {
            Condition::Source(net) => self.network(End::Source, net, negated),
            Condition::Destination(net) => self.network(End::Destination, net, negated),
            Condition::Sources(set) => self.addresses(End::Source, set, negated),
            Condition::Destinations(set) => self.addresses(End::Destination, set, negated),
            Condition::InInterface(name) => self.interface(meta::IN_NAME, name, negated),
            Condition::OutInterface(name) => self.interface(meta::OUT_NAME, name, negated),
            Condition::Protocol(protocol) => {
                self.load_meta(meta::L4PROTO);
                self.equals(&[protocol.0], negated);
            }
            Condition::SourcePort(ports) => self.port(End::Source, *ports, negated),
            Condition::DestinationPort(ports) => self.port(End::Destination, *ports, negated),
            Condition::SourcePorts(_) => {
                self.load_port(End::Source);
                self.look_up(negated);
            }
            Condition::DestinationPorts(_) => {
                self.load_port(End::Destination);
                self.look_up(negated);
            }
            Condition::Uid(ids) => self.owner(meta::SOCKET_UID, *ids),
            Condition::Gid(ids) => self.owner(meta::SOCKET_GID, *ids),
            Condition::Mark(mark) => {
                self.load_meta(meta::MARK);
                self.mark(*mark, negated);
            }
            Condition::Connmark(mark) => {
                self.load_ct(ct::MARK);
                self.mark(*mark, negated);
            }
            Condition::State(states) => self.state(*states, negated),
            // `sets` has refused it.
            Condition::Opaque(_) => {}
        }
    }

    fn load_meta(&mut self, key: u32) {
        self.add("meta", |data| {
            data.u32_be(META_DREG, abi::REGISTER).u32_be(META_KEY, key);
        });
    }

    fn set_meta(&mut self, key: u32) {
        self.add("meta", |data| {
            data.u32_be(META_KEY, key).u32_be(META_SREG, abi::REGISTER);
        });
    }

    fn load_ct(&mut self, key: u32) {
        self.add("ct", |data| {
            data.u32_be(CT_DREG, abi::REGISTER).u32_be(CT_KEY, key);
        });
    }

    fn set_ct(&mut self, key: u32) {
        self.add("ct", |data| {
            data.u32_be(CT_KEY, key).u32_be(CT_SREG, abi::REGISTER);
        });
    }

    fn compare(&mut self, operation: u32, value: &[u8]) {
        self.add("cmp", |data| {
            data.u32_be(cmp::SREG, abi::REGISTER).u32_be(cmp::OPERATION, operation).nested(cmp::DATA, |data| {
                data.bytes(abi::DATA_VALUE, value);
            });
        });
    }

    fn equals(&mut self, value: &[u8], negated: bool) {
        self.compare(if negated { cmp::UNEQUAL } else { cmp::EQUAL }, value);
    }

    /// Whether the register's value, in network order, is from `first` to `last`.
    fn within(&mut self, first: &[u8], last: &[u8], negated: bool) {
        if !negated {
            self.compare(cmp::AT_LEAST, first);
            self.compare(cmp::AT_MOST, last);
            return;
        }
        self.add("range", |data| {
            data.u32_be(range::SREG, abi::REGISTER).u32_be(range::OPERATION, cmp::UNEQUAL);
            for (kind, value) in [(range::FROM, first), (range::TO, last)] {
                data.nested(kind, |data| {
                    data.bytes(abi::DATA_VALUE, value);
                });
            }
        });
    }

    /// `(register & mask) ^ xor` into the register.
    fn mask(&mut self, mask: &[u8], xor: &[u8]) {
        self.add("bitwise", |data| {
            data.u32_be(bitwise::SREG, abi::REGISTER).u32_be(bitwise::DREG, abi::REGISTER);
            data.u32_be(bitwise::LEN, mask.len() as u32);
            for (kind, value) in [(bitwise::MASK, mask), (bitwise::XOR, xor)] {
                data.nested(kind, |data| {
                    data.bytes(abi::DATA_VALUE, value);
                });
            }
        });
    }

    fn look_up(&mut self, negated: bool) {
        let id = self.set_ids.next().copied().unwrap_or_default();
        self.add("lookup", |data| {
            data.text(lookup::SET, ANONYMOUS_SET).u32_be(lookup::SREG, abi::REGISTER).u32_be(lookup::SET_ID, id);
            if negated {
                data.u32_be(lookup::FLAGS, lookup::INVERTED);
            }
        });
    }

    fn load_payload(&mut self, base: u32, offset: usize, len: usize) {
        self.add("payload", |data| {
            data.u32_be(payload::DREG, abi::REGISTER).u32_be(payload::BASE, base);
            data.u32_be(payload::OFFSET, offset as u32).u32_be(payload::LEN, len as u32);
        });
    }

    /// Loads an address, or the first bytes of it.
    fn load_address(&mut self, end: End, len: Option<usize>) {
        let (source, whole) = address_field(self.family);
        let offset = match end {
            End::Source => source,
            End::Destination => source + whole,
        };
        self.load_payload(payload::NETWORK, offset, len.unwrap_or(whole));
    }

    fn addresses(&mut self, end: End, set: &AddressSet, negated: bool) {
        self.load_address(end, None);
        match set.ranges() {
            [range] => self.within(&octets(range.first()), &octets(range.last()), negated),
            _ => self.look_up(negated),
        }
    }

    fn network(&mut self, end: End, net: &IpNet, negated: bool) {
        let address = octets(net.network());
        let (bytes, bits) = (usize::from(net.prefix_len() / 8), net.prefix_len() % 8);
        if bits == 0 && bytes > 0 {
            self.load_address(end, Some(bytes));
            self.equals(&address[..bytes], negated);
            return;
        }
        self.load_address(end, None);
        self.mask(&octets(net.netmask()), &vec![0; address.len()]);
        self.equals(&address, negated);
    }

    /// A whole name is compared with its padding, the beginning of one without.
    fn interface(&mut self, key: u32, name: &Interface, negated: bool) {
        let (text, more) = name.pattern();
        let mut value = text.as_bytes().to_vec();
        if !more {
            value.resize(INTERFACE_SIZE, 0);
        }
        self.load_meta(key);
        self.equals(&value, negated);
    }

    fn load_port(&mut self, end: End) {
        let offset = match end {
            End::Source => 0,
            End::Destination => 2,
        };
        self.load_payload(payload::TRANSPORT, offset, 2);
    }

    fn port(&mut self, end: End, ports: PortRange, negated: bool) {
        self.load_port(end);
        match ports.is_range() {
            false => self.equals(&ports.first.to_be_bytes(), negated),
            true => self.within(&ports.first.to_be_bytes(), &ports.last.to_be_bytes(), negated),
        }
    }

    fn owner(&mut self, key: u32, ids: IdRange) {
        self.load_meta(key);
        if ids.first == ids.last {
            self.equals(&ids.first.to_ne_bytes(), false);
            return;
        }
        self.add("byteorder", |data| {
            data.u32_be(byteorder::SREG, abi::REGISTER).u32_be(byteorder::DREG, abi::REGISTER);
            data.u32_be(byteorder::OPERATION, byteorder::TO_NETWORK).u32_be(byteorder::LEN, 4).u32_be(byteorder::SIZE, 4);
        });
        self.within(&ids.first.to_be_bytes(), &ids.last.to_be_bytes(), false);
    }

    fn mark(&mut self, mark: MarkMask, negated: bool) {
        if mark.mask != u32::MAX {
            self.mask(&mark.mask.to_ne_bytes(), &[0; 4]);
        }
        self.equals(&mark.value.to_ne_bytes(), negated);
    }

    fn state(&mut self, states: StateSet, negated: bool) {
        let named = StateSet::NAMES.iter().zip(abi::STATE_BITS).filter(|((state, _), _)| states.contains(*state));
        let bits = named.fold(0, |bits, (_, bit)| bits | bit);
        self.load_ct(ct::STATE);
        self.mask(&bits.to_ne_bytes(), &[0; 4]);
        self.equals(&[0; 4], !negated);
    }

    /// A counter that begins at these values.
    pub(super) fn counter(&mut self, counters: Counters) {
        self.add("counter", |data| {
            data.u64_be(counter::BYTES, counters.bytes).u64_be(counter::PACKETS, counters.packets);
        });
    }

    fn load(&mut self, value: &[u8]) {
        self.add("immediate", |data| {
            data.u32_be(immediate::DREG, abi::REGISTER).nested(immediate::DATA, |data| {
                data.bytes(abi::DATA_VALUE, value);
            });
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.add("immediate", |data| {
            data.u32_be(immediate::DREG, abi::REGISTER_VERDICT).nested(immediate::DATA, |data| {
                data.nested(abi::DATA_VERDICT, |verdict| {
                    verdict.u32_be(abi::VERDICT_CODE, code);
                    if let Some(chain) = chain {
                        verdict.text(abi::VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }

    /// What is done in the end.
    pub(super) fn target(&mut self, table: TableName, target: &Target) {
        match target {
            // `sets` has refused what is opaque.
            Target::Continue | Target::Opaque(_) => {}
            Target::Accept => self.verdict(abi::ACCEPT, None),
            Target::Drop => self.verdict(abi::DROP, None),
            Target::Return => self.verdict(abi::RETURN, None),
            Target::Jump(chain) => self.verdict(abi::JUMP, Some(&layout::chain_name(table, chain))),
            Target::Goto(chain) => self.verdict(abi::GOTO, Some(&layout::chain_name(table, chain))),
            Target::Redirect(port) => {
                self.load(&port.to_be_bytes());
                self.add("redir", |data| {
                    data.u32_be(redir::REG_MIN, abi::REGISTER).u32_be(redir::FLAGS, redir::PORT);
                });
            }
            Target::Tproxy { port, mark } => {
                let family = u32::from(abi::number(self.family));
                self.load(&port.to_be_bytes());
                self.add("tproxy", |data| {
                    data.u32_be(tproxy::FAMILY, family).u32_be(tproxy::REG_PORT, abi::REGISTER);
                });
                self.set_mark(*mark);
                self.verdict(abi::ACCEPT, None);
            }
            Target::Mark(mark) => self.set_mark(*mark),
            Target::SaveMark => {
                self.load_meta(meta::MARK);
                self.set_ct(ct::MARK);
            }
            Target::RestoreMark => {
                self.load_ct(ct::MARK);
                self.set_meta(meta::MARK);
            }
            Target::CtZone(zone) => {
                self.load(&zone.to_ne_bytes());
                self.set_ct(ct::ZONE);
            }
        }
    }

    fn set_mark(&mut self, mark: MarkMask) {
        if mark.mask == u32::MAX {
            self.load(&mark.value.to_ne_bytes());
        } else {
            self.load_meta(meta::MARK);
            self.mask(&(!mark.mask).to_ne_bytes(), &mark.value.to_ne_bytes());
        }
        self.set_meta(meta::MARK);
    }
}
