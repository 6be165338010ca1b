//! Any bytes as nf_tables' answers.

mod machine;
mod meaning;

use std::cell::Cell;

use super::abi::{self, elements, message};
use super::batch::{Batch, BatchError};
use super::decode::{self, Source};
use super::plan;
use super::read::{self, Lists, RuleData, Snapshot, TableData};
use super::sets::Set;
use super::view::{self, Seen};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netlink::wire::{AttributeWriter, Header, Malformed, Message, Messages, append_message};
use crate::ruleset::print::{iptables, json, nft_tables};
use crate::ruleset::{Chain, Family, Mesh, Ownership, Rule, Ruleset, TableName, Target};

/// Messages that answer every question.
struct Recording<'a>(Vec<Message<'a>>);

impl Lists for Recording<'_> {
    fn list<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        fill: impl Fn(&mut AttributeWriter<'_>),
        mut parse: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut question = Vec::new();
        append_message(&mut question, Header { kind, flags: 0, sequence: 1 }, fixed, fill)?;
        let set = Messages::new(&question).flatten().next().filter(|_| kind == message::GETSETELEM).map(|question| set_of(&question));
        let answers = self.0.iter().filter(|answer| set.is_none_or(|set| answer.kind == message::NEWSETELEM && set_of(answer) == set));
        // What is malformed is passed over: the others are to be read all the same.
        Ok(answers.filter_map(|answer| parse(answer).ok().flatten()).collect())
    }
}

/// The family, table and set that a message about elements names.
fn set_of<'a>(message: &Message<'a>) -> (Option<u8>, [Option<&'a str>; 2]) {
    let name = |kind| message.attributes(abi::HEAD).ok()?.find(kind).ok()??.text().ok();
    (message.payload.first().copied(), [elements::TABLE, elements::SET].map(name))
}

/// Reads `bytes` as a kernel's answers and does with them what is done with those.
pub(in crate::kernel) fn answers(bytes: &[u8]) {
    let messages = Messages::new(bytes).map_while(Result::ok).collect();
    let Ok(tables) = read::read_tables(&mut Recording(messages), &|_, _| true) else { return };
    for table in &tables {
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            assert_stable(table, rule);
        }
        restore(table);
    }
    if let Ok(seen) = Seen::new(Snapshot { generation: 1, tables }) {
        show(&seen);
        remove(&seen);
    }
}

/// Prints everything in every form.
fn show(seen: &Seen) {
    if let Ok(tables) = view::tables(seen) {
        let _ = nft_tables::listing(&tables);
        for table in &tables {
            let _ = serde_json::to_string(&json::ForeignTableView::new(table));
        }
    }
    for held in &seen.held {
        let owners: Vec<Ownership> = Mesh::ALL.map(|mesh| held.ownership(mesh, None)).to_vec();
        let _ = iptables::ruleset(&held.ruleset, iptables::Style { counters: true, owners: &owners });
        let _ = serde_json::to_string(&json::RulesetView::new(&held.ruleset, &owners));
    }
}

/// Writes what takes either mesh's rules out.
fn remove(seen: &Seen) {
    for mesh in Mesh::ALL {
        let Ok(mut batch) = Batch::new(1, seen.snapshot.generation) else { continue };
        let written = plan::write(&mut batch, mesh, &Family::ALL.map(Ruleset::new), &[], seen, &mut Vec::new());
        assert!(!matches!(written, Err(BatchError::Encode(_))), "{mesh:?} cannot be removed: {written:?}");
        end(batch);
    }
}

/// Writes what makes the table again.
fn restore(table: &TableData) {
    let Ok(mut batch) = Batch::new(1, 1) else { return };
    let _ = batch.recreate_table(table);
    end(batch);
}

fn end(batch: Batch) {
    if let Ok(complete) = batch.end(true) {
        assert!(Messages::new(&complete.bytes).all(|message| message.is_ok()), "a batch that cannot be read");
    }
}

/// A rule that is understood and that can be written is the same when it is read again.
fn assert_stable(table: &TableData, data: &RuleData) {
    let source = Source { family: table.family, expressions: &data.expressions, user_data: &data.user_data };
    let set = |name: &str| table.set(name);
    let Ok(decoded) = decode::rule(source, &set, &str::to_owned) else { return };
    meaning::assert_same(table.family, &data.expressions, &decoded, &set);
    // A name of bytes that are no text is shown, never written.
    if matches!(&decoded.rule.target, Target::Jump(chain) | Target::Goto(chain) if chain.contains('\\')) {
        return;
    }
    let family = match table.family {
        abi::IPV6 => Family::V6,
        _ => decoded.family.unwrap_or(Family::V4),
    };
    let Ok(messages) = written(family, &decoded.rule) else { return };
    let again = reread(family, &messages);
    assert!(again.same_meaning(&decoded.rule), "{family}: {again:?} when read again, not {:?}", decoded.rule);
    assert_eq!(again.counters, Some(decoded.rule.counters.unwrap_or_default()));
    assert_eq!(again.comment.is_some(), decoded.rule.comment.is_some());
}

/// The messages that make a rule.
fn written(family: Family, rule: &Rule) -> Result<Vec<u8>, BatchError> {
    let chain = Chain { name: "CHAIN".to_owned(), base: None, rules: vec![rule.clone()] };
    let mut batch = Batch::new(1, 1)?;
    batch.own_rules(family, TableName::Nat, &chain, 0..chain.rules.len())?;
    Ok(batch.end(true)?.bytes)
}

/// The rule that [`written`] wrote.
fn reread(family: Family, messages: &[u8]) -> Rule {
    let read = || {
        let (mut sets, mut lists) = (Vec::new(), Vec::<Vec<Vec<u8>>>::new());
        let (mut expressions, mut user_data) = (&[][..], &[][..]);
        for message in Messages::new(messages) {
            let message = message?;
            let value = |kind| Ok::<_, Malformed>(message.attributes(abi::HEAD)?.find(kind)?.map_or(&[][..], |attribute| attribute.value));
            match message.kind {
                message::NEWSET => {
                    sets.extend(Set::parse(&message)?);
                    lists.push(Vec::new());
                }
                message::NEWSETELEM => lists.last_mut().into_iter().try_for_each(|last| {
                    last.push(value(elements::ELEMENTS)?.to_vec());
                    Ok(())
                })?,
                message::NEWRULE => (expressions, user_data) = (value(abi::rule::EXPRESSIONS)?, value(abi::rule::USERDATA)?),
                _ => {}
            }
        }
        for (set, lists) in sets.iter_mut().zip(lists) {
            set.fill(lists)?;
        }
        // All have the same name until the kernel gives them one; they come in the order of the lookups.
        let next = Cell::new(0);
        let set = |_: &str| sets.get(next.replace(next.get() + 1));
        decode::rule(Source { family: abi::number(family), expressions, user_data }, &set, &str::to_owned)
    };
    match read() {
        Ok(decoded) => decoded.rule,
        Err(malformed) => panic!("a rule was written that cannot be read: {malformed}"),
    }
}
