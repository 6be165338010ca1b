//! What TPROXY needs besides the capture itself: marks that follow a connection, and the proxy's calls to itself.

use super::{INBOUND, Rules};
use crate::mesh::matches::{from_loopback, gid, not_destination, source, tcp, to_loopback, uid};
use crate::ruleset::{Condition, MarkMask, Match, Rule, TableName, Target};

/// The mark of the proxy's calls to its own application, which tells them from everything else on loopback. The original
/// has no option for it.
const SELF_CALL: MarkMask = MarkMask { value: 1338, mask: u32::MAX };

impl Rules<'_> {
    /// The proxy keeps a captured connection's mark on its socket; answers get it back from the connection so that they
    /// are routed to the proxy. These rules are there even when no incoming port is captured.
    pub(super) fn mark_tproxied(&mut self) {
        let facts = self.facts;
        let mark = MarkMask::full(self.options.inbound_tproxy_mark);
        let marked = || Match::from(Condition::Mark(mark));
        self.append(TableName::Mangle, "PREROUTING", [tcp(), marked()], Target::SaveMark);
        self.append(TableName::Mangle, "OUTPUT", [tcp(), to_loopback(), marked()], Target::Return);
        let proxy = facts.uids.iter().map(|id| uid(*id)).chain(facts.gids.iter().map(|id| gid(*id)));
        for owner in proxy {
            let matches = [not_destination(self.loopback()), tcp(), to_loopback(), owner];
            self.append(TableName::Mangle, "OUTPUT", matches, Target::Mark(SELF_CALL));
        }
        self.append(TableName::Mangle, "OUTPUT", [tcp(), Condition::Connmark(mark).into()], Target::RestoreMark);

        let first = [
            Rule::new([tcp(), marked()], Target::Return),
            Rule::new([tcp(), source(self.passthrough()), from_loopback()], Target::Return),
            Rule::new([tcp(), from_loopback(), !Condition::Mark(SELF_CALL)], Target::Return),
        ];
        self.set.table_mut(TableName::Mangle).chain_mut(INBOUND).rules.splice(0..0, first);
    }
}
