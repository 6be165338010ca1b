//! Rules of other tools' making: understood to the last bit, or not at all.

use super::abi::{self, bitwise, byteorder, cmp, ct, immediate, lookup, meta, payload};
use super::decode::{self, Source};
use super::sets::Set;
use crate::kernel::netlink::wire::{AttributeWriter, Attributes, Header, Messages, append_message};
use crate::ruleset::{Condition, Rule, StateSet, Target};

type Write<'a> = Box<dyn Fn(&mut AttributeWriter<'_>) + 'a>;

/// An expression of this name with these attributes.
fn expression<'a>(name: &'a str, data: impl Fn(&mut AttributeWriter<'_>) + 'a) -> Write<'a> {
    Box::new(move |list| {
        list.nested(abi::LIST_ELEMENT, |element| {
            element.text(abi::EXPRESSION_NAME, name).nested(abi::EXPRESSION_DATA, |writer| data(writer));
        });
    })
}

fn load_meta(key: u32) -> Write<'static> {
    expression("meta", move |data| {
        data.u32_be(abi::META_DREG, 1).u32_be(abi::META_KEY, key);
    })
}

fn set_mark() -> Write<'static> {
    expression("meta", |data| {
        data.u32_be(abi::META_KEY, meta::MARK).u32_be(abi::META_SREG, 1);
    })
}

fn load_ct(key: u32) -> Write<'static> {
    expression("ct", move |data| {
        data.u32_be(abi::CT_DREG, 1).u32_be(abi::CT_KEY, key);
    })
}

fn load_payload(base: u32, offset: u32, len: u32) -> Write<'static> {
    expression("payload", move |data| {
        data.u32_be(payload::DREG, 1).u32_be(payload::BASE, base).u32_be(payload::OFFSET, offset).u32_be(payload::LEN, len);
    })
}

fn value(data: &mut AttributeWriter<'_>, kind: u16, value: &[u8]) {
    data.nested(kind, |data| {
        data.bytes(abi::DATA_VALUE, value);
    });
}

fn load(bytes: &[u8]) -> Write<'_> {
    expression("immediate", move |data| value(data.u32_be(immediate::DREG, 1), immediate::DATA, bytes))
}

fn compare(operation: u32, bytes: &[u8]) -> Write<'_> {
    expression("cmp", move |data| value(data.u32_be(cmp::SREG, 1).u32_be(cmp::OPERATION, operation), cmp::DATA, bytes))
}

fn to_network() -> Write<'static> {
    expression("byteorder", |data| {
        data.u32_be(byteorder::SREG, 1).u32_be(byteorder::DREG, 1).u32_be(byteorder::OPERATION, byteorder::TO_NETWORK);
        data.u32_be(byteorder::LEN, 4).u32_be(byteorder::SIZE, 4);
    })
}

fn mask<'a>(mask: &'a [u8], xor: &'a [u8]) -> Write<'a> {
    expression("bitwise", move |data| {
        data.u32_be(bitwise::SREG, 1).u32_be(bitwise::DREG, 1).u32_be(bitwise::LEN, mask.len() as u32);
        value(data, bitwise::MASK, mask);
        value(data, bitwise::XOR, xor);
    })
}

fn look_up() -> Write<'static> {
    expression("lookup", |data| {
        data.text(lookup::SET, "set").u32_be(lookup::SREG, 1);
    })
}

fn read_with(set: Option<&Set>, expressions: &[Write<'_>]) -> Rule {
    let mut bytes = Vec::new();
    let header = Header { kind: 0, flags: 0, sequence: 0 };
    append_message(&mut bytes, header, &[], |list| expressions.iter().for_each(|write| write(list))).unwrap();
    let message = Messages::new(&bytes).next().unwrap().unwrap();
    let source = Source { family: abi::IPV4, expressions: message.payload, user_data: &[] };
    decode::rule(source, &|_| set, &str::to_owned).unwrap().rule
}

/// What an IPv4 rule of these expressions means.
fn read(expressions: &[Write<'_>]) -> Rule {
    read_with(None, expressions)
}

/// A set of these flags with these elements: keys with their flags, or an element for all others.
fn set(flags: u32, elements: &[(Option<&[u8]>, u32)]) -> Set {
    let mut bytes = Vec::new();
    append_message(&mut bytes, Header { kind: 0, flags: 0, sequence: 0 }, &[], |message| {
        message.nested(abi::elements::ELEMENTS, |list| {
            for (key, flags) in elements {
                list.nested(abi::LIST_ELEMENT, |element| {
                    element.u32_be(abi::ELEMENT_FLAGS, *flags);
                    if let Some(key) = key {
                        value(element, abi::ELEMENT_KEY, key);
                    }
                });
            }
        });
    })
    .unwrap();
    let list = Attributes::new(Messages::new(&bytes).next().unwrap().unwrap().payload).next().unwrap().unwrap();
    let mut set = Set { name: "set".to_owned(), flags, intervals: None, attributes: Vec::new(), elements: Vec::new() };
    set.fill(vec![list.value.to_vec()]).unwrap();
    set
}

const STATES: u32 = 2 | 4;

#[test]
fn a_packet_is_never_of_two_states() {
    let state = |value: u32| read(&[load_ct(ct::STATE), compare(cmp::EQUAL, &value.to_ne_bytes())]);
    assert_eq!(state(2).matches, [Condition::State(StateSet::ESTABLISHED).into()]);
    assert!(state(STATES).is_opaque());
    let any = read(&[load_ct(ct::STATE), mask(&STATES.to_ne_bytes(), &[0; 4]), compare(cmp::UNEQUAL, &[0; 4])]);
    assert_eq!(any.matches, [Condition::State(StateSet::ESTABLISHED.union(StateSet::RELATED)).into()]);
}

#[test]
fn what_is_done_before_a_match_does_not_wait_for_it() {
    let port = || [load_payload(payload::TRANSPORT, 2, 2), compare(cmp::EQUAL, &[0, 80])];
    let marking = || [load(&[1, 0, 0, 0]), set_mark()];
    let after: Vec<Write<'_>> = port().into_iter().chain(marking()).collect();
    assert!(matches!(read(&after).target, Target::Mark(_)));
    let before: Vec<Write<'_>> = marking().into_iter().chain(port()).collect();
    assert!(matches!(&read(&before).target, Target::Opaque(opaque) if opaque.name == "several statements"));
}

#[test]
fn only_ids_are_understood_in_another_byte_order() {
    assert!(!read(&[load_meta(meta::SOCKET_UID), to_network(), compare(cmp::AT_LEAST, &[0, 0, 4, 0])]).is_opaque());
    for expressions in [
        vec![load_meta(meta::MARK), to_network(), compare(cmp::EQUAL, &[0, 0, 4, 0])],
        vec![
            load_meta(meta::MARK),
            to_network(),
            expression("ct", |data| {
                data.u32_be(abi::CT_KEY, ct::MARK).u32_be(abi::CT_SREG, 1);
            }),
        ],
        vec![load_ct(ct::MARK), to_network(), set_mark()],
        vec![load(&[1, 0, 0, 0]), to_network(), set_mark()],
        vec![load_payload(payload::NETWORK, 12, 4), to_network(), compare(cmp::EQUAL, &[10, 0, 0, 1])],
        vec![load_payload(payload::TRANSPORT, 2, 2), to_network(), compare(cmp::AT_LEAST, &[0, 80])],
    ] {
        assert!(read(&expressions).is_opaque());
    }
}

#[test]
fn names_and_addresses_have_one_length() {
    let name = |value: &[u8]| read(&[load_meta(meta::IN_NAME), compare(cmp::EQUAL, value)]).is_opaque();
    assert!(!name(b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0"));
    assert!(name(b"lo\0x"));
    let source = |value: &[u8]| read(&[load_payload(payload::NETWORK, 12, 4), compare(cmp::EQUAL, value)]).is_opaque();
    assert!(!source(&[10, 0, 0, 1]));
    assert!(source(&[10, 0, 0, 1, 0]));
    assert!(read(&[load_payload(payload::NETWORK, 12, 4), compare(cmp::AT_LEAST, &[0; 16])]).is_opaque());
    assert!(read(&[load_payload(payload::NETWORK, 12, 4), mask(&[255, 0], &[0, 0]), compare(cmp::EQUAL, &[10, 0, 0, 0])]).is_opaque());
    assert!(read(&[load_meta(meta::L4PROTO), compare(cmp::EQUAL, &[6, 0])]).is_opaque());
}

#[test]
fn a_set_is_a_list_of_values_of_the_fields_length() {
    let source = |set: &Set| read_with(Some(set), &[load_payload(payload::NETWORK, 12, 4), look_up()]);
    let one: (Option<&[u8]>, u32) = (Some(&[10, 0, 0, 1]), 0);
    let wanted = Rule::new([Condition::Source("10.0.0.1/32".parse().unwrap()).into()], Target::Continue);
    let fixed = abi::SET_ANONYMOUS | abi::SET_CONSTANT;
    assert!(source(&set(fixed, &[one])).same_meaning(&wanted));
    // Four fields of four bytes are no IPv6 address.
    assert!(source(&set(fixed, &[(Some(&[10; 16]), 0)])).is_opaque());
    // All others as well.
    assert!(source(&set(fixed, &[one, (None, 0)])).is_opaque());
    // Not one that changes while the rule stays, nor one that says what is done.
    assert!(source(&set(0, &[one])).is_opaque());
    assert!(source(&set(fixed | abi::SET_MAP, &[one])).is_opaque());
}
