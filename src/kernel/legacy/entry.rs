//! An entry of a legacy table: a head, matches, and a target that may lead to another entry.

use super::abi::{self, Layout};
use super::bytes::{put, u16_at, u32_at, u64_at};
use crate::ruleset::{Counters, Family};

/// Where an entry's standard target leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lead {
    /// Not to another entry: a verdict, or a target of another kind.
    Nowhere,
    /// To the next entry: a rule without a target.
    Next,
    /// To the first rule of the chain of this name.
    Chain(String),
}

/// One entry: head, matches, target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As the kernel holds it. The verdict of an entry that leads somewhere is set when the table is written.
    pub(super) bytes: Vec<u8>,
    pub(super) lead: Lead,
    /// The entry's number in the table that was read, whose counters it keeps; `None` for a new one.
    pub(super) origin: Option<usize>,
    /// Counters from an earlier life, to be added when the entry is written.
    pub(super) carried: Counters,
}

impl Entry {
    /// An entry whose target gives `verdict` to every packet.
    pub(super) fn verdict(family: Family, verdict: i32) -> Entry {
        let mut target = extension(&[], "", 0, abi::STANDARD_TARGET);
        put(&mut target, abi::EXTENSION_HEAD, &verdict.to_ne_bytes());
        Entry::assemble(family, &[], &target)
    }

    /// The entry that stands before a chain's rules (`name` is the chain's) or at the table's end (`ERROR`).
    pub(super) fn marker(family: Family, name: &str) -> Entry {
        let mut name = name.as_bytes().to_vec();
        name.truncate(abi::EXTENSION_NAME_LEN);
        Entry::assemble(family, &[], &extension(&name, abi::ERROR_NAME, 0, abi::ERROR_TARGET))
    }

    /// An entry with an empty head, `matches` and `target`.
    pub(super) fn assemble(family: Family, matches: &[u8], target: &[u8]) -> Entry {
        let layout = Layout::of(family);
        let target_offset = layout.size + matches.len();
        let mut bytes = vec![0; layout.size];
        bytes.extend_from_slice(matches);
        bytes.extend_from_slice(target);
        let next = bytes.len();
        // Rules whose entry would be longer than its length can say have been refused.
        put(&mut bytes, layout.target_offset, &(target_offset as u16).to_ne_bytes());
        put(&mut bytes, layout.target_offset + 2, &(next as u16).to_ne_bytes());
        Entry { bytes, lead: Lead::Nowhere, origin: None, carried: Counters::default() }
    }

    pub(super) fn counters(&self, family: Family) -> Counters {
        let at = Layout::of(family).counters;
        Counters { packets: u64_at(&self.bytes, at).unwrap_or(0), bytes: u64_at(&self.bytes, at + 8).unwrap_or(0) }
    }

    pub(super) fn set_counters(&mut self, family: Family, counters: Counters) {
        let at = Layout::of(family).counters;
        put(&mut self.bytes, at, &counters.packets.to_ne_bytes());
        put(&mut self.bytes, at + 8, &counters.bytes.to_ne_bytes());
    }

    /// Puts mesh-init's mark on the entry.
    pub(super) fn tag(&mut self, family: Family) {
        put(&mut self.bytes, Layout::of(family).nfcache, &abi::TAG.to_ne_bytes());
    }

    /// Gives the entry the mark that `other` has: mesh-init's, or none.
    pub(super) fn take_tag_of(&mut self, other: &Entry, family: Family) {
        let at = Layout::of(family).nfcache;
        put(&mut self.bytes, at, &u32_at(&other.bytes, at).unwrap_or_default().to_ne_bytes());
    }

    /// Whether every packet that comes here gets a verdict of the target's own, as at the end of a chain.
    pub(super) fn is_unconditional_verdict(&self, family: Family) -> bool {
        let head = self.bytes.get(..Layout::of(family).nfcache);
        let leaves = |(matches, target): (Vec<Extension<'_>>, Extension<'_>)| {
            matches.is_empty() && target.standard_verdict().is_some_and(|verdict| verdict < 0)
        };
        head.is_some_and(|head| head.iter().all(|byte| *byte == 0)) && Extension::all(&self.bytes, family).is_some_and(leaves)
    }

    /// Whether both entries are the same rule: counters and the kernel's own notes are of no account.
    pub(super) fn same_rule(&self, other: &Entry, family: Family) -> bool {
        self.lead == other.lead && self.bytes.len() == other.bytes.len() && self.identity(family) == other.identity(family)
    }

    /// What makes the entry this rule, but for where it leads.
    pub(super) fn identity(&self, family: Family) -> Vec<u8> {
        let layout = Layout::of(family);
        let mut entry = self.clone();
        entry.set_counters(family, Counters::default());
        put(&mut entry.bytes, layout.comefrom, &[0; 4]);
        if entry.lead != Lead::Nowhere
            && let Some(target) = u16_at(&entry.bytes, layout.target_offset)
        {
            put(&mut entry.bytes, usize::from(target) + abi::EXTENSION_HEAD, &[0; 4]);
        }
        entry.bytes
    }
}

/// `struct xt_entry_match` or `xt_entry_target` of at least `size` bytes, aligned.
pub(super) fn extension(data: &[u8], name: &str, revision: u8, size: usize) -> Vec<u8> {
    let size = abi::aligned(size.max(abi::EXTENSION_HEAD + data.len()));
    let mut bytes = vec![0; size];
    put(&mut bytes, 0, &(size as u16).to_ne_bytes());
    put(&mut bytes, 2, name.as_bytes());
    put(&mut bytes, EXTENSION_REVISION, &[revision]);
    put(&mut bytes, abi::EXTENSION_HEAD, data);
    bytes
}

const EXTENSION_REVISION: usize = 31;

/// A match or target in an entry: what precedes its data, and the data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extension<'a> {
    pub(super) name: &'a [u8],
    pub(super) revision: u8,
    pub(super) data: &'a [u8],
}

impl<'a> Extension<'a> {
    /// Reads the extension at the start of `bytes` and says how long it is.
    fn parse(bytes: &'a [u8]) -> Option<(Extension<'a>, usize)> {
        let size = usize::from(u16_at(bytes, 0)?);
        let whole = bytes.get(..size)?;
        let name = whole.get(2..EXTENSION_REVISION)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some((Extension { name, revision: *whole.get(EXTENSION_REVISION)?, data: whole.get(abi::EXTENSION_HEAD..)? }, size))
    }

    /// The matches and the target of an entry.
    pub(super) fn all(entry: &'a [u8], family: Family) -> Option<(Vec<Extension<'a>>, Extension<'a>)> {
        let layout = Layout::of(family);
        let target_offset = usize::from(u16_at(entry, layout.target_offset)?);
        let mut rest = entry.get(layout.size..target_offset)?;
        let mut matches = Vec::new();
        while !rest.is_empty() {
            let (found, size) = Extension::parse(rest)?;
            matches.push(found);
            rest = &rest[size..];
        }
        let (target, _) = Extension::parse(entry.get(target_offset..)?)?;
        Some((matches, target))
    }

    /// The verdict of a standard target.
    pub(super) fn standard_verdict(&self) -> Option<i32> {
        if !self.name.is_empty() {
            return None;
        }
        u32_at(self.data, 0).map(|verdict| verdict as i32)
    }

    pub(super) fn is_marker(&self) -> bool {
        self.name == abi::ERROR_NAME.as_bytes()
    }
}

#[cfg(test)]
impl Entry {
    /// Takes mesh-init's mark off.
    pub(super) fn untag(&mut self, family: Family) {
        put(&mut self.bytes, Layout::of(family).nfcache, &[0; 4]);
    }

    /// Gives the entry counters, as a kernel does.
    pub(super) fn count(&mut self, family: Family, packets: u64, bytes: u64) {
        self.set_counters(family, Counters { packets, bytes });
    }
}
