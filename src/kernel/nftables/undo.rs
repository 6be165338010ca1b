//! What was there before, put back.

use std::time::Instant;

use super::batch::{Batch, BatchError, Position};
use super::read::{BaseData, ChainData, RuleData, Snapshot, TableData};
use super::view::{self, is_replaced_whole};
use super::{FIRST_PAUSE, Nftables, Sent, write_error};
use crate::kernel::error::Error;

impl Nftables {
    /// Makes nf_tables' tables of the meshes what they were in `before`. It looks first at what is there, since it may
    /// not be known whether anything was changed, and somebody else may have written meanwhile.
    pub(super) fn put_back(&mut self, before: &Snapshot) -> Result<(), Error> {
        let mut cautious = false;
        loop {
            let now = self.snapshot_of(&view::may_be_a_meshs)?;
            let batch = self.batch(&now, true, |batch| restore(batch, before, &now, cautious))?;
            let Some(batch) = batch else { return Ok(()) };
            match self.send(&batch).map_err(|error| write_error(error, "what was there before"))? {
                Sent::Committed => return Ok(()),
                Sent::Outdated if Instant::now() < self.deadline => std::thread::sleep(FIRST_PAUSE),
                Sent::Outdated => return Err(Error::NftablesContended),
                // A rule beside which another stood has gone: behind the others is as near as can be.
                Sent::Refused(_) if !cautious => cautious = true,
                Sent::Refused(mut errors) => return errors.pop().map_or(Ok(()), Err),
            }
        }
    }
}

fn restore(batch: &mut Batch, before: &Snapshot, now: &Snapshot, cautious: bool) -> Result<(), BatchError> {
    let new = now.tables.iter().filter(|table| before.table(table.family, &table.name).is_none());
    for table in before.tables.iter().chain(new).filter(|table| is_replaced_whole(table)) {
        let (then, there) = (before.table(table.family, &table.name), now.table(table.family, &table.name));
        if then.zip(there).is_some_and(|(then, there)| is_same(then, there)) {
            continue;
        }
        if let Some(there) = there {
            batch.delete_table(there)?;
        }
        if let Some(then) = then {
            batch.recreate_table(then)?;
        }
    }
    for then in before.tables.iter().filter(|table| !is_replaced_whole(table)) {
        // A table that somebody deleted meanwhile was foreign.
        if let Some(there) = now.table(then.family, &then.name) {
            restore_rules(batch, then, there, cautious)?;
        }
    }
    Ok(())
}

/// Whether it is still the table that it was: the same chains, and the same rules by their handles, which no two have.
fn is_same(then: &TableData, now: &TableData) -> bool {
    let chains = |table: &TableData| -> Vec<(String, Option<BaseData>, Vec<u64>)> {
        let handles = |chain: &ChainData| chain.rules.iter().map(|rule| rule.handle).collect();
        table.chains.iter().map(|chain| (chain.name.clone(), chain.base.clone(), handles(chain))).collect()
    };
    then.flags == now.flags && chains(then) == chains(now)
}

/// Puts the chains and rules back that are in `then` and not in `there`.
fn restore_rules(batch: &mut Batch, then: &TableData, there: &TableData, cautious: bool) -> Result<(), BatchError> {
    let gone = |chain: &&ChainData| there.chain(&chain.name).is_none();
    for chain in then.chains.iter().filter(gone) {
        batch.recreate_chain(then, chain)?;
    }
    // Rules jump to chains, so that all of those come first.
    for chain in &then.chains {
        let left: &[RuleData] = there.chain(&chain.name).map_or(&[], |chain| &chain.rules);
        let is_left = |rule: &RuleData| left.iter().any(|other| other.handle == rule.handle);
        for (index, rule) in chain.rules.iter().enumerate().filter(|(_, rule)| !is_left(rule)) {
            let next = chain.rules[index + 1..].iter().find(|next| is_left(next)).filter(|_| !cautious);
            batch.recreate_rule(then, chain, rule, next.map_or(Position::Last, |next| Position::Before(next.handle)))?;
        }
    }
    Ok(())
}
