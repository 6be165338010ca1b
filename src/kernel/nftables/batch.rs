//! A batch: messages that the kernel carries out all together or not at all.

use std::ops::Range;

use super::abi::{self, elements, message};
use super::encode::{self, ANONYMOUS_SET, EncodeError, SetContents};
use super::read::{ChainData, RuleData, TableData, bytes_of};
use super::sets::Set;
use crate::kernel::netlink::wire::{AttributeWriter, Attributes, Header, Malformed, TooLong, append_message};
use crate::ruleset::{Chain, Family, Policy, Rule, TableName, layout};

const REQUEST: u16 = nix::libc::NLM_F_REQUEST as u16;
const ACK: u16 = nix::libc::NLM_F_ACK as u16;
const CREATE: u16 = nix::libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = nix::libc::NLM_F_EXCL as u16;
const APPEND: u16 = nix::libc::NLM_F_APPEND as u16;

/// How many elements of a set go into one message: its list may have 64 KiB at most.
const ELEMENTS_A_MESSAGE: usize = 1500;

/// What a message is about, to say so if the kernel refuses it.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// Its family, where it is one of ours.
    pub(super) family: Option<Family>,
    /// What it makes or takes away.
    pub(super) object: Object,
    /// Where the message begins in the batch.
    pub(super) at: usize,
}

/// The object of a message.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Batch,
    Table(String),
    Chain {
        table: TableName,
        chain: String,
    },
    Rule {
        table: TableName,
        chain: String,
        number: usize,
    },
    /// Something that is to go.
    Gone(String),
    /// Something that was there before and comes back.
    Old(String),
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Object::Batch => f.write_str("the rules"),
            Object::Table(name) => write!(f, "the table {name}"),
            Object::Chain { table, chain } => write!(f, "the {table} chain {chain}"),
            Object::Rule { table, chain, number } => write!(f, "the {table} rule {number} of {chain}"),
            Object::Gone(what) | Object::Old(what) => f.write_str(what),
        }
    }
}

/// Why a batch could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A table that has to go belongs to the process with this netlink port.
    #[error("the table {table} belongs to the process with the netlink port {port}")]
    Owned { table: String, port: u32 },
}

/// Messages in the making.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    first: u32,
    about: Vec<About>,
    sets: u32,
}

impl Batch {
    /// A batch that counts only if the rules are of `generation` still. `first` is the number of its first message.
    pub(super) fn new(first: u32, generation: u32) -> Result<Batch, BatchError> {
        let mut batch = Batch { bytes: Vec::new(), first, about: Vec::new(), sets: 0 };
        batch.message(None, Object::Batch, abi::BATCH_BEGIN, 0, abi::head(abi::UNSPEC, abi::SUBSYSTEM), |attributes| {
            attributes.u32_be(abi::BATCH_GENID, generation);
        })?;
        Ok(batch)
    }

    /// Whether it would do nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.about.len() <= 1
    }

    /// Ends the batch. Without its end the kernel only checks it.
    pub(super) fn end(mut self, commit: bool) -> Result<Complete, BatchError> {
        // Its last message is acknowledged, so that it is known when all answers are there.
        if let Some(last) = self.about.last() {
            let flags_at = last.at + 6;
            let flags = u16::from_ne_bytes([self.bytes[flags_at], self.bytes[flags_at + 1]]) | ACK;
            self.bytes[flags_at..flags_at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
        let last = self.sequence() - 1;
        if commit {
            let header = Header { kind: abi::BATCH_END, flags: REQUEST, sequence: self.sequence() };
            append_message(&mut self.bytes, header, &abi::head(abi::UNSPEC, abi::SUBSYSTEM), |_| {})?;
        }
        Ok(Complete { bytes: self.bytes, first: self.first, last, about: self.about })
    }

    /// The number of the next message.
    fn sequence(&self) -> u32 {
        self.first.wrapping_add(self.about.len() as u32)
    }

    fn message(
        &mut self,
        family: Option<Family>,
        object: Object,
        kind: u16,
        flags: u16,
        head: [u8; abi::HEAD],
        fill: impl FnOnce(&mut AttributeWriter<'_>),
    ) -> Result<(), BatchError> {
        let at = self.bytes.len();
        let header = Header { kind, flags: REQUEST | flags, sequence: self.sequence() };
        append_message(&mut self.bytes, header, &head, fill)?;
        self.about.push(About { family, object, at });
        Ok(())
    }

    /// Makes mesh-init's own table, which is not there.
    pub(super) fn own_table(&mut self, family: Family) -> Result<(), BatchError> {
        let object = Object::Table(layout::OWN_TABLE.to_owned());
        self.message(Some(family), object, message::NEWTABLE, CREATE | EXCLUSIVE, abi::head(abi::number(family), 0), |attributes| {
            attributes.text(abi::table::NAME, layout::OWN_TABLE).u32_be(abi::table::FLAGS, 0);
        })
    }

    /// Makes a planned chain in the own table, without its rules.
    pub(super) fn own_chain(&mut self, family: Family, table: TableName, chain: &Chain) -> Result<(), BatchError> {
        let object = Object::Chain { table, chain: chain.name.clone() };
        self.message(Some(family), object, message::NEWCHAIN, CREATE, abi::head(abi::number(family), 0), |attributes| {
            attributes.text(abi::chain::TABLE, layout::OWN_TABLE).text(abi::chain::NAME, &layout::chain_name(table, &chain.name));
            let seat = chain.base.as_ref().and_then(|base| Some((base, layout::Seat::of(table, base.hook)?)));
            let Some((base, seat)) = seat else { return };
            attributes.nested(abi::chain::HOOK, |hook| {
                hook.u32_be(abi::chain::HOOK_NUMBER, base.hook as u32).u32_be(abi::chain::HOOK_PRIORITY, seat.priority as u32);
            });
            let policy = if base.policy == Some(Policy::Drop) { abi::DROP } else { abi::ACCEPT };
            attributes.text(abi::chain::TYPE, seat.kind).u32_be(abi::chain::POLICY, policy);
        })
    }

    /// Appends some rules of a planned chain to it in the own table.
    pub(super) fn own_rules(&mut self, family: Family, table: TableName, chain: &Chain, which: Range<usize>) -> Result<(), BatchError> {
        let name = layout::chain_name(table, &chain.name);
        for (index, rule) in chain.rules.iter().enumerate().take(which.end).skip(which.start) {
            let object = Object::Rule { table, chain: chain.name.clone(), number: index + 1 };
            self.own_rule(family, table, &name, rule, object)?;
        }
        Ok(())
    }

    fn own_rule(&mut self, family: Family, table: TableName, chain: &str, rule: &Rule, object: Object) -> Result<(), BatchError> {
        let mut ids = Vec::new();
        for contents in encode::sets(family, rule)? {
            ids.push(self.anonymous_set(family, object.clone(), &contents)?);
        }
        self.message(Some(family), object, message::NEWRULE, CREATE | APPEND, abi::head(abi::number(family), 0), |attributes| {
            attributes.text(abi::rule::TABLE, layout::OWN_TABLE).text(abi::rule::CHAIN, chain);
            attributes.nested(abi::rule::EXPRESSIONS, |list| encode::write(list, family, table, rule, &ids));
            if let Some(comment) = &rule.comment {
                attributes.bytes(abi::rule::USERDATA, &encode::user_data(comment));
            }
        })
    }

    fn anonymous_set(&mut self, family: Family, object: Object, contents: &SetContents) -> Result<u32, BatchError> {
        self.sets += 1;
        let (id, head) = (self.sets, abi::head(abi::number(family), 0));
        self.message(Some(family), object.clone(), message::NEWSET, CREATE, head, |attributes| {
            attributes.text(abi::set::TABLE, layout::OWN_TABLE).text(abi::set::NAME, ANONYMOUS_SET);
            attributes.u32_be(abi::set::FLAGS, abi::SET_ANONYMOUS | abi::SET_CONSTANT | abi::SET_INTERVAL);
            attributes.u32_be(abi::set::KEY_TYPE, contents.key_type).u32_be(abi::set::KEY_LEN, contents.key_len as u32);
            attributes.u32_be(abi::set::ID, id);
        })?;
        let bounds = contents.intervals.iter().flat_map(|(first, end)| [Some((first, false)), end.as_ref().map(|end| (end, true))]);
        let bounds: Vec<(&Vec<u8>, bool)> = bounds.flatten().collect();
        for part in bounds.chunks(ELEMENTS_A_MESSAGE) {
            self.message(Some(family), object.clone(), message::NEWSETELEM, CREATE, head, |attributes| {
                attributes.text(elements::TABLE, layout::OWN_TABLE).text(elements::SET, ANONYMOUS_SET).u32_be(elements::SET_ID, id);
                attributes.nested(elements::ELEMENTS, |list| {
                    for (value, ends) in part {
                        list.nested(abi::LIST_ELEMENT, |element| {
                            if *ends {
                                element.u32_be(abi::ELEMENT_FLAGS, abi::INTERVAL_END);
                            }
                            element.nested(abi::ELEMENT_KEY, |key| {
                                key.bytes(abi::DATA_VALUE, value);
                            });
                        });
                    }
                });
            })?;
        }
        Ok(id)
    }

    /// Deletes a table with all that is in it.
    pub(super) fn delete_table(&mut self, table: &TableData) -> Result<(), BatchError> {
        may_be_changed(table)?;
        let object = Object::Gone(format!("the table {}", table_text(table)));
        self.message(None, object, message::DELTABLE, 0, abi::head(table.family, 0), |attributes| {
            attributes.bytes(abi::table::NAME, &bytes_of(&table.name));
        })
    }

    /// Deletes a rule.
    pub(super) fn delete_rule(&mut self, table: &TableData, chain: &ChainData, rule: &RuleData) -> Result<(), BatchError> {
        may_be_changed(table)?;
        let object = Object::Gone(rule_text(table, chain));
        self.message(None, object, message::DELRULE, 0, abi::head(table.family, 0), |attributes| {
            attributes.bytes(abi::rule::TABLE, &bytes_of(&table.name)).bytes(abi::rule::CHAIN, &bytes_of(&chain.name));
            attributes.bytes(abi::rule::HANDLE, &rule.handle.to_be_bytes());
        })
    }

    /// Deletes all rules of a chain.
    pub(super) fn flush_chain(&mut self, table: &TableData, chain: &ChainData) -> Result<(), BatchError> {
        may_be_changed(table)?;
        let object = Object::Gone(rule_text(table, chain));
        self.message(None, object, message::DELRULE, 0, abi::head(table.family, 0), |attributes| {
            attributes.bytes(abi::rule::TABLE, &bytes_of(&table.name)).bytes(abi::rule::CHAIN, &bytes_of(&chain.name));
        })
    }

    /// Deletes a chain, which has no rules any more and none that jump to it.
    pub(super) fn delete_chain(&mut self, table: &TableData, chain: &ChainData) -> Result<(), BatchError> {
        may_be_changed(table)?;
        let object = Object::Gone(chain_text(table, chain));
        self.message(None, object, message::DELCHAIN, 0, abi::head(table.family, 0), |attributes| {
            attributes.bytes(abi::chain::TABLE, &bytes_of(&table.name)).bytes(abi::chain::NAME, &bytes_of(&chain.name));
        })
    }

    /// Makes a table again that is not there, as it was when it was read.
    pub(super) fn recreate_table(&mut self, table: &TableData) -> Result<(), BatchError> {
        let object = Object::Old(format!("the table {}", table_text(table)));
        self.message(None, object, message::NEWTABLE, CREATE | EXCLUSIVE, abi::head(table.family, 0), |attributes| {
            attributes.bytes(abi::table::NAME, &bytes_of(&table.name)).u32_be(abi::table::FLAGS, table.flags);
        })?;
        for object in &table.objects {
            self.recreate_object(table, object)?;
        }
        // Maps may lead to chains.
        for chain in &table.chains {
            self.recreate_chain(table, chain)?;
        }
        for set in &table.sets {
            self.recreate_set(table, set)?;
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                self.recreate_rule(table, chain, rule, Position::Last)?;
            }
        }
        Ok(())
    }

    pub(super) fn recreate_object(&mut self, table: &TableData, attributes: &[u8]) -> Result<(), BatchError> {
        use abi::object::{DATA, NAME, TABLE, TYPE};
        let mut kept = Vec::new();
        for attribute in Attributes::new(attributes) {
            let attribute = attribute?;
            if matches!(attribute.kind, TABLE | NAME | TYPE | DATA) {
                kept.push(attribute);
            }
        }
        let object = Object::Old(format!("an object of the table {}", table.name));
        self.message(None, object, message::NEWOBJ, CREATE, abi::head(table.family, 0), |attributes| {
            for attribute in kept {
                attributes.bytes(attribute.kind, attribute.value);
            }
        })
    }

    /// Makes a set again, with its elements.
    pub(super) fn recreate_set(&mut self, table: &TableData, set: &Set) -> Result<(), BatchError> {
        self.sets += 1;
        let (id, head) = (self.sets, abi::head(table.family, 0));
        let object = Object::Old(format!("the set {} of the table {}", set.name, table.name));
        let mut kept = Vec::new();
        for attribute in Attributes::new(&set.attributes) {
            let attribute = attribute?;
            // What the kernel gives a set, and what later kernels say besides.
            if attribute.kind < abi::set::HANDLE && attribute.kind != abi::set::ID {
                kept.push(attribute);
            }
        }
        self.message(None, object.clone(), message::NEWSET, CREATE, head, |attributes| {
            for attribute in kept {
                attributes.bytes(attribute.kind, attribute.value);
            }
            attributes.u32_be(abi::set::ID, id);
        })?;
        for list in &set.elements {
            self.message(None, object.clone(), message::NEWSETELEM, CREATE, head, |attributes| {
                attributes
                    .bytes(elements::TABLE, &bytes_of(&table.name))
                    .bytes(elements::SET, &bytes_of(&set.name))
                    .u32_be(elements::SET_ID, id);
                attributes.nested(elements::ELEMENTS, |nested| nested.raw(list));
            })?;
        }
        Ok(())
    }

    /// Makes a chain again, without its rules.
    pub(super) fn recreate_chain(&mut self, table: &TableData, chain: &ChainData) -> Result<(), BatchError> {
        use abi::chain::{HOOK, NAME, POLICY, TABLE, TYPE};
        let mut kept = Vec::new();
        for attribute in Attributes::new(&chain.attributes) {
            let attribute = attribute?;
            if matches!(attribute.kind, TABLE | NAME | HOOK | POLICY | TYPE) {
                kept.push(attribute);
            }
        }
        self.message(None, Object::Old(chain_text(table, chain)), message::NEWCHAIN, CREATE, abi::head(table.family, 0), |attributes| {
            for attribute in kept {
                attributes.bytes(attribute.kind, attribute.value);
            }
        })
    }

    /// Makes a rule again, counters included.
    pub(super) fn recreate_rule(
        &mut self,
        table: &TableData,
        chain: &ChainData,
        rule: &RuleData,
        position: Position,
    ) -> Result<(), BatchError> {
        let flags = match position {
            Position::Last => CREATE | APPEND,
            Position::Before(_) => CREATE,
        };
        let compat = super::view::compat_protocol(table, rule);
        self.message(None, Object::Old(rule_text(table, chain)), message::NEWRULE, flags, abi::head(table.family, 0), |attributes| {
            attributes.bytes(abi::rule::TABLE, &bytes_of(&table.name)).bytes(abi::rule::CHAIN, &bytes_of(&chain.name));
            if let Position::Before(handle) = position {
                attributes.bytes(abi::rule::POSITION, &handle.to_be_bytes());
            }
            attributes.nested(abi::rule::EXPRESSIONS, |list| list.raw(&rule.expressions));
            if !rule.user_data.is_empty() {
                attributes.bytes(abi::rule::USERDATA, &rule.user_data);
            }
            if let Some((protocol, negated)) = compat {
                attributes.nested(abi::rule::COMPAT, |compat| {
                    let flags = if negated { abi::COMPAT_INVERTED } else { 0 };
                    compat.u32_be(abi::rule::COMPAT_PROTOCOL, protocol.into()).u32_be(abi::rule::COMPAT_FLAGS, flags);
                });
            }
        })
    }
}

/// Where in its chain a rule is made again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Position {
    /// Behind all others.
    Last,
    /// Before the rule of this handle.
    Before(u64),
}

/// The kernel lets nobody but its owner change a table that has one.
fn may_be_changed(table: &TableData) -> Result<(), BatchError> {
    table.owner.map_or(Ok(()), |port| Err(BatchError::Owned { table: table_text(table), port }))
}

fn table_text(table: &TableData) -> String {
    format!("{} {}", abi::family_name(table.family), table.name)
}

fn rule_text(table: &TableData, chain: &ChainData) -> String {
    format!("a rule of {} in the table {}", chain.name, table_text(table))
}

fn chain_text(table: &TableData, chain: &ChainData) -> String {
    format!("the chain {} of the table {}", chain.name, table_text(table))
}

/// A batch that is ready to be sent.
#[derive(Debug)]
pub(super) struct Complete {
    pub(super) bytes: Vec<u8>,
    /// The numbers of its first and last message, its end not counted.
    pub(super) first: u32,
    pub(super) last: u32,
    about: Vec<About>,
}

impl Complete {
    /// What the message of that number is about.
    pub(super) fn about(&self, sequence: u32) -> Option<&About> {
        self.about.get(sequence.checked_sub(self.first)? as usize)
    }

    /// The name of the expression that a refused message's error points to.
    pub(super) fn expression(&self, about: &About, offset: u32) -> Option<String> {
        super::decode::name_at(&self.bytes[about.at..], offset as usize)
    }
}
