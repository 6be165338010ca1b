//! What the kernel holds, as it says it: tables, chains, rules and sets, all of one generation.

use std::collections::HashMap;
use std::time::Instant;

use nix::errno::Errno;

use super::abi::{self, message};
use super::decode;
use super::sets::Set;
use crate::kernel::legacy::extension;
use crate::kernel::netlink::wire::{Attribute, AttributeWriter, Attributes, Malformed, Message};
use crate::kernel::netlink::{NetlinkError, Socket};

/// The tables that were asked for, as they were in one generation of the rules.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) generation: u32,
    pub(super) tables: Vec<TableData>,
}

impl Snapshot {
    /// The table of that family (`NFPROTO_*`) and name.
    pub(super) fn table(&self, family: u8, name: &str) -> Option<&TableData> {
        self.tables.iter().find(|table| table.family == family && table.name == name)
    }
}

/// A table.
#[derive(Clone, Debug)]
pub(super) struct TableData {
    pub(super) family: u8,
    pub(super) name: String,
    pub(super) flags: u32,
    /// The netlink port of the process to which it belongs, if it belongs to one.
    pub(super) owner: Option<u32>,
    /// How many chains, sets and other objects there are in it.
    pub(super) used: Option<u32>,
    pub(super) chains: Vec<ChainData>,
    /// Its sets, if any of its rules looks something up, or the table is a mesh's as a whole.
    pub(super) sets: Vec<Set>,
    /// The attributes of its objects, in a table that is a mesh's as a whole.
    pub(super) objects: Vec<Vec<u8>>,
}

impl TableData {
    /// The chain of that name.
    pub(super) fn chain(&self, name: &str) -> Option<&ChainData> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The set of that name.
    pub(super) fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

/// A chain and its rules.
#[derive(Clone, Debug)]
pub(super) struct ChainData {
    pub(super) name: String,
    /// Where it is called from; `None` for a chain that rules jump to.
    pub(super) base: Option<BaseData>,
    /// Its attributes, to make it again.
    pub(super) attributes: Vec<u8>,
    pub(super) rules: Vec<RuleData>,
}

/// Type, hook, priority and policy of a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BaseData {
    pub(super) kind: String,
    /// `enum nf_inet_hooks`
    pub(super) hook: u32,
    pub(super) priority: i32,
    /// `NF_ACCEPT` or `NF_DROP`
    pub(super) policy: u32,
    /// The device at whose hook it is, for hooks that are a device's.
    pub(super) device: Option<String>,
}

/// A rule.
#[derive(Clone, Debug)]
pub(super) struct RuleData {
    pub(super) handle: u64,
    pub(super) expressions: Vec<u8>,
    pub(super) user_data: Vec<u8>,
}

/// Whoever is asked for lists: the kernel, or a record of what one answered.
pub(super) trait Lists {
    /// What `parse` makes of the entries of a list: see [`Socket::dump_of`].
    fn list<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        fill: impl Fn(&mut AttributeWriter<'_>),
        parse: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError>;
}

impl Lists for Socket {
    fn list<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        fill: impl Fn(&mut AttributeWriter<'_>),
        parse: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_of(kind, fixed, fill, parse)
    }
}

/// The number of the rules' generation, which every change makes another.
pub(super) fn generation(socket: &mut Socket) -> Result<u32, NetlinkError> {
    let parse = |answer: &Message<'_>| {
        if answer.kind != message::NEWGEN {
            return Ok(None);
        }
        let id = answer.attributes(abi::HEAD)?.find(abi::GEN_ID)?.ok_or(Malformed("generation without a number"))?;
        id.u32_be().map(Some)
    };
    socket.get(message::GETGEN, &abi::head(abi::UNSPEC, 0), parse)
}

/// Reads the tables that `wanted` chooses by family and name. If rules have changed since generation `known`, or do so
/// meanwhile, everything is read again, until `deadline`.
pub(super) fn snapshot(
    socket: &mut Socket,
    deadline: Instant,
    known: Option<u32>,
    wanted: &dyn Fn(u8, &str) -> bool,
) -> Result<Snapshot, NetlinkError> {
    let mut before = known.map_or_else(|| generation(socket), Ok)?;
    loop {
        let tables = match read_tables(socket, wanted) {
            // What was listed a moment ago has gone.
            Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => None,
            tables => Some(tables?),
        };
        if known.is_none() && tables.as_ref().is_some_and(Vec::is_empty) {
            // One list is of one generation; if that was a later one, what is written for this one is refused.
            return Ok(Snapshot { generation: before, tables: Vec::new() });
        }
        let after = generation(socket)?;
        match tables {
            Some(tables) if before == after => return Ok(Snapshot { generation: after, tables }),
            _ if Instant::now() >= deadline => return Err(NetlinkError::KeptChanging),
            _ => before = after,
        }
    }
}

/// Reads the tables that `wanted` chooses, whatever generation each answer is of.
pub(super) fn read_tables(from: &mut impl Lists, wanted: &dyn Fn(u8, &str) -> bool) -> Result<Vec<TableData>, NetlinkError> {
    let mut tables = from.list(message::GETTABLE, &abi::head(abi::UNSPEC, 0), |_| {}, |message| parse_table(message, wanted))?;
    if tables.is_empty() {
        return Ok(tables);
    }
    let chains = from.list(message::GETCHAIN, &abi::head(abi::UNSPEC, 0), |_| {}, |message| parse_chain(message, &tables))?;
    for (at, chain) in chains {
        tables[at].chains.push(chain);
    }
    for table in &mut tables {
        read_rules(from, table)?;
        let holds_more = table.used.is_none_or(|used| usize::try_from(used) != Ok(table.chains.len()));
        let is_whole = holds_more && super::view::is_replaced_whole(table);
        read_sets(from, table, is_whole)?;
        if is_whole {
            read_objects(from, table)?;
        }
    }
    Ok(tables)
}

/// A kernel lists tables of all families, chains and rules in their order.
fn family_of(message: &Message<'_>) -> u8 {
    message.payload.first().copied().unwrap_or_default()
}

fn parse_table(message: &Message<'_>, wanted: &dyn Fn(u8, &str) -> bool) -> Result<Option<TableData>, Malformed> {
    if message.kind != message::NEWTABLE {
        return Ok(None);
    }
    let (family, attributes) = (family_of(message), message.attributes(abi::HEAD)?);
    let name = required_name(&attributes, abi::table::NAME)?;
    let flags = attributes.find(abi::table::FLAGS)?.map_or(Ok(0), |flags| flags.u32_be())?;
    let owner = attributes.find(abi::table::OWNER)?.map(|owner| owner.u32_be()).transpose()?;
    let used = attributes.find(abi::table::USE)?.map(|used| used.u32_be()).transpose()?;
    let table = TableData { family, name, flags, owner, used, chains: Vec::new(), sets: Vec::new(), objects: Vec::new() };
    Ok(Some(table).filter(|table| wanted(family, &table.name)))
}

/// A name, which may be any bytes: see [`extension::text`].
pub(super) fn name_of(attribute: &Attribute<'_>) -> String {
    extension::text(attribute.value)
}

/// The bytes of a name that [`name_of`] made text of, with a NUL behind them.
pub(super) fn bytes_of(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    let mut rest = name.as_bytes();
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match (first, behind) {
            (b'\\', [b'x', high, low, behind @ ..]) => (hexadecimal(*high) << 4 | hexadecimal(*low), behind),
            (b'\\', [b't', behind @ ..]) => (b'\t', behind),
            (b'\\', [b'r', behind @ ..]) => (b'\r', behind),
            (b'\\', [b'n', behind @ ..]) => (b'\n', behind),
            (b'\\', [plain, behind @ ..]) => (*plain, behind),
            _ => (*first, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes.push(0);
    bytes
}

fn hexadecimal(digit: u8) -> u8 {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).unwrap_or_default()
}

fn required_name(attributes: &Attributes<'_>, kind: u16) -> Result<String, Malformed> {
    Ok(name_of(&attributes.find(kind)?.ok_or(Malformed("nf_tables object without a name"))?))
}

/// A chain of one of `tables`, and the number of that table.
fn parse_chain(message: &Message<'_>, tables: &[TableData]) -> Result<Option<(usize, ChainData)>, Malformed> {
    if message.kind != message::NEWCHAIN {
        return Ok(None);
    }
    let (family, attributes) = (family_of(message), message.attributes(abi::HEAD)?);
    let table = required_name(&attributes, abi::chain::TABLE)?;
    let Some(at) = tables.iter().position(|known| known.family == family && known.name == table) else { return Ok(None) };
    let name = required_name(&attributes, abi::chain::NAME)?;
    let number = |from: &Attributes<'_>, kind| from.find(kind)?.map(|attribute| attribute.u32_be()).transpose();
    let base = match attributes.find(abi::chain::HOOK)? {
        None => None,
        Some(hook) => {
            let hook = hook.nested();
            Some(BaseData {
                kind: attributes.find(abi::chain::TYPE)?.map_or(Ok(""), |kind| kind.text())?.to_owned(),
                hook: number(&hook, abi::chain::HOOK_NUMBER)?.ok_or(Malformed("hook without a number"))?,
                priority: number(&hook, abi::chain::HOOK_PRIORITY)?.unwrap_or(0) as i32,
                policy: number(&attributes, abi::chain::POLICY)?.unwrap_or(abi::ACCEPT),
                device: hook.find(abi::chain::HOOK_DEVICE)?.map(|device| name_of(&device)),
            })
        }
    };
    let bytes = message.payload.get(abi::HEAD..).unwrap_or_default().to_vec();
    Ok(Some((at, ChainData { name, base, attributes: bytes, rules: Vec::new() })))
}

fn read_rules(from: &mut impl Lists, table: &mut TableData) -> Result<(), NetlinkError> {
    let name = |attributes: &mut AttributeWriter<'_>| {
        attributes.bytes(abi::rule::TABLE, &bytes_of(&table.name));
    };
    let rules = from.list(message::GETRULE, &abi::head(table.family, 0), name, |message| parse_rule(message, table))?;
    let places: HashMap<String, usize> = table.chains.iter().enumerate().map(|(at, chain)| (chain.name.clone(), at)).collect();
    for (chain, rule) in rules {
        if let Some(chain) = places.get(&chain).and_then(|at| table.chains.get_mut(*at)) {
            chain.rules.push(rule);
        }
    }
    Ok(())
}

fn parse_rule(message: &Message<'_>, table: &TableData) -> Result<Option<(String, RuleData)>, Malformed> {
    if message.kind != message::NEWRULE || family_of(message) != table.family {
        return Ok(None);
    }
    let attributes = message.attributes(abi::HEAD)?;
    // Old kernels list the rules of all tables.
    if required_name(&attributes, abi::rule::TABLE)? != table.name {
        return Ok(None);
    }
    let chain = required_name(&attributes, abi::rule::CHAIN)?;
    let handle = attributes.find(abi::rule::HANDLE)?.ok_or(Malformed("rule without a handle"))?.u64_be()?;
    let bytes = |kind| Ok(attributes.find(kind)?.map_or(Vec::new(), |attribute| attribute.value.to_vec()));
    let rule = RuleData { handle, expressions: bytes(abi::rule::EXPRESSIONS)?, user_data: bytes(abi::rule::USERDATA)? };
    Ok(Some((chain, rule)))
}

/// Reads the table's sets if any of its rules looks something up, or `always`.
fn read_sets(from: &mut impl Lists, table: &mut TableData, always: bool) -> Result<(), NetlinkError> {
    let mut rules = table.chains.iter().flat_map(|chain| &chain.rules);
    if !always && !rules.any(|rule| !decode::sets_of(&rule.expressions).is_empty()) {
        return Ok(());
    }
    let head = abi::head(table.family, 0);
    let of_table = |attributes: &mut AttributeWriter<'_>| {
        attributes.bytes(abi::set::TABLE, &bytes_of(&table.name));
    };
    let mut sets =
        from.list(message::GETSET, &head, of_table, |message| if is_of(message, table)? { Set::parse(message) } else { Ok(None) })?;
    for set in &mut sets {
        let of_set = |attributes: &mut AttributeWriter<'_>| {
            attributes.bytes(abi::elements::TABLE, &bytes_of(&table.name)).bytes(abi::elements::SET, &bytes_of(&set.name));
        };
        let lists = from.list(message::GETSETELEM, &head, of_set, |answer| {
            if answer.kind != message::NEWSETELEM {
                return Ok(None);
            }
            let list = answer.attributes(abi::HEAD)?.find(abi::elements::ELEMENTS)?;
            Ok(list.map(|list| list.value.to_vec()))
        })?;
        set.fill(lists)?;
    }
    table.sets = sets;
    Ok(())
}

/// Whether a set or an object is of that table: all of them name it in the same attribute.
fn is_of(message: &Message<'_>, table: &TableData) -> Result<bool, Malformed> {
    Ok(family_of(message) == table.family && required_name(&message.attributes(abi::HEAD)?, abi::set::TABLE)? == table.name)
}

/// Reads the table's objects, which kernels before 4.10 do not have.
fn read_objects(from: &mut impl Lists, table: &mut TableData) -> Result<(), NetlinkError> {
    let of_table = |attributes: &mut AttributeWriter<'_>| {
        attributes.bytes(abi::object::TABLE, &bytes_of(&table.name));
    };
    let objects = from.list(message::GETOBJ, &abi::head(table.family, 0), of_table, |message| {
        let is_one = message.kind == message::NEWOBJ && is_of(message, table)?;
        Ok(is_one.then(|| message.payload.get(abi::HEAD..).unwrap_or_default().to_vec()))
    });
    table.objects = match objects {
        Err(NetlinkError::Refused { errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. }) => Vec::new(),
        objects => objects?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again() {
        for name in [&b"ISTIO_OUTPUT"[..], b"caf\xe9", "caf\u{e9}".as_bytes(), b"a\\x41", b"tab\there\r\n", b"\"'\\", b"\x01\x7f\xff"] {
            assert_eq!(bytes_of(&extension::text(name)), [name, b"\0"].concat());
        }
    }
}
