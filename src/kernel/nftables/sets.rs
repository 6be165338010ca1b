//! Sets of values that rules look packets up in.

use super::abi;
use super::read::name_of;
use crate::kernel::netlink::wire::{Attributes, Malformed, Message};
use crate::ruleset::order;

/// A set as a kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// Its name in its table.
    pub(super) name: String,
    /// `NFT_SET_*`
    pub(super) flags: u32,
    /// First and last value of each interval, in ascending order; single values are both. `None` for a set that is more
    /// than a list of values which stays as it is: a map, one whose elements time out, one with an element for all that is
    /// not listed, and every one that has a name of its own.
    pub(super) intervals: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    /// The attributes of the set, to make it again.
    pub(super) attributes: Vec<u8>,
    /// Its elements as the kernel lists them, to make them again: values of `NFTA_SET_ELEM_LIST_ELEMENTS`.
    pub(super) elements: Vec<Vec<u8>>,
}

impl Set {
    /// The set that a message of a list describes, without its elements.
    pub(super) fn parse(message: &Message<'_>) -> Result<Option<Set>, Malformed> {
        if message.kind != abi::message::NEWSET {
            return Ok(None);
        }
        let attributes = message.attributes(abi::HEAD)?;
        let name = name_of(&attributes.find(abi::set::NAME)?.ok_or(Malformed("set without a name"))?);
        let flags = attributes.find(abi::set::FLAGS)?.map_or(Ok(0), |flags| flags.u32_be())?;
        let bytes = message.payload.get(abi::HEAD..).unwrap_or_default().to_vec();
        Ok(Some(Set { name, flags, intervals: None, attributes: bytes, elements: Vec::new() }))
    }

    /// Takes the lists of elements in.
    pub(super) fn fill(&mut self, lists: Vec<Vec<u8>>) -> Result<(), Malformed> {
        self.intervals = None;
        let fixed = abi::SET_ANONYMOUS | abi::SET_CONSTANT;
        if self.flags & !abi::SET_INTERVAL == fixed
            && let Some(keys) = lists.iter().map(|list| keys_of(list)).collect::<Result<Option<Vec<_>>, _>>()?
        {
            let keys = keys.concat();
            let mut intervals = match self.flags & abi::SET_INTERVAL {
                0 => keys.into_iter().map(|(key, _)| (key.clone(), key)).collect(),
                _ => intervals(keys),
            };
            order::sort_by(&mut intervals, Ord::cmp);
            self.intervals = Some(intervals);
        }
        self.elements = lists;
        Ok(())
    }
}

/// A key, and whether an interval ends before it.
type Key = (Vec<u8>, bool);

/// The keys in a list of elements; `None` if an element is not one value, or the beginning or end of an interval.
fn keys_of(list: &[u8]) -> Result<Option<Vec<Key>>, Malformed> {
    let mut keys = Vec::new();
    for element in Attributes::new(list) {
        let parts = element?.nested();
        let flags = parts.find(abi::ELEMENT_FLAGS)?.map_or(Ok(0), |flags| flags.u32_be())?;
        // An element for whatever is in no interval has no key; one of several fields that are ranges has two, and others
        // have a time after which they go.
        let known = [abi::ELEMENT_KEY, abi::ELEMENT_FLAGS, abi::ELEMENT_USERDATA, abi::ELEMENT_PAD];
        for part in parts.clone() {
            if !known.contains(&part?.kind) {
                return Ok(None);
            }
        }
        let Some(key) = parts.find(abi::ELEMENT_KEY)? else { return Ok(None) };
        let value = key.nested().find(abi::DATA_VALUE)?.ok_or(Malformed("set element without a value"))?.value;
        keys.push((value.to_vec(), flags & abi::INTERVAL_END != 0));
    }
    Ok(Some(keys))
}

/// Beginnings and ends into intervals.
fn intervals(mut keys: Vec<Key>) -> Vec<(Vec<u8>, Vec<u8>)> {
    // An end before a beginning of the same value.
    order::sort_by(&mut keys, |(a, a_ends), (b, b_ends)| (a, !a_ends).cmp(&(b, !b_ends)));
    let mut intervals = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for (key, ends) in keys {
        // Where an interval begins at the end of another, that end may be missing.
        if let Some(first) = open.take().filter(|first| *first != key) {
            intervals.push((first, before(key.clone())));
        }
        open = Some(key).filter(|_| !ends);
    }
    if let Some(first) = open {
        let last = vec![0xff; first.len()];
        intervals.push((first, last));
    }
    intervals
}

/// The value before `key`, a number in network order; the highest before 0.
fn before(mut key: Vec<u8>) -> Vec<u8> {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_and_ends_in_any_order_are_intervals() {
        let keys = |keys: &[(u8, bool)]| keys.iter().map(|(key, ends)| (vec![*key, 0], *ends)).collect();
        let found = intervals(keys(&[(9, false), (4, true), (2, false), (1, true), (4, false), (5, true)]));
        assert_eq!(found, [(vec![2, 0], vec![3, 255]), (vec![4, 0], vec![4, 255]), (vec![9, 0], vec![255, 255])]);
        // Where one ends and the next begins, `nft` names the beginning alone.
        let found = intervals(keys(&[(2, false), (4, false), (5, true)]));
        assert_eq!(found, [(vec![2, 0], vec![3, 255]), (vec![4, 0], vec![4, 255])]);
        assert_eq!(before(vec![1, 0, 0]), [0, 255, 255]);
    }
}
