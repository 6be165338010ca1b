//! Policy rules: those that send packets with a mark to a routing table.

use nix::errno::Errno;
use nix::libc::{self, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE};

use super::journal::{Change, Journal, record, was_gone};
use super::{OUR_PROTOCOL, RouteError, family_number, family_of, short_table};
use crate::kernel::netlink::wire::{AttributeWriter, Malformed, Message, u8_at, u32_at};
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::ruleset::{Family, MarkMask, PolicyRoute};

/// The length of a rule message's fixed part: family, lengths of destination and source prefix, TOS, table, two
/// reserved bytes, action, then flags of four bytes.
#[doc(alias = "fib_rule_hdr")]
const RULE_LEN: usize = 12;

/// Look the packet up in a table.
#[doc(alias = "FR_ACT_TO_TBL")]
const TO_TABLE: u8 = 1;

/// In the flags: the rule is for packets that its selectors do not match.
#[doc(alias = "FIB_RULE_INVERT")]
const INVERT: u32 = 2;

#[doc(alias = "FRA_PRIORITY")]
const PRIORITY: u16 = 6;
#[doc(alias = "FRA_FWMARK")]
const FWMARK: u16 = 10;
#[doc(alias = "FRA_SUPPRESS_IFGROUP")]
const SUPPRESS_IFGROUP: u16 = 13;
#[doc(alias = "FRA_SUPPRESS_PREFIXLEN")]
const SUPPRESS_PREFIXLEN: u16 = 14;
#[doc(alias = "FRA_TABLE")]
const TABLE: u16 = 15;
#[doc(alias = "FRA_FWMASK")]
const FWMASK: u16 = 16;
#[doc(alias = "FRA_PAD")]
const PAD: u16 = 18;
#[doc(alias = "FRA_PROTOCOL")]
const PROTOCOL: u16 = 21;

/// A policy rule of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its place: lower ones come first.
    pub priority: u32,
    /// The firewall mark that it asks for.
    pub mark: Option<MarkMask>,
    /// The routing table that it leads to; 0 if it does something else.
    pub table: u32,
    /// Whether it leads to a table and looks at nothing but the mark.
    pub mark_only: bool,
    /// Who added it, 0 when that is not known: [`OUR_PROTOCOL`] for our own, on a kernel that keeps it (since 4.17).
    pub protocol: u8,
    /// What the kernel said of it, which makes the same rule again when it is said to the kernel.
    payload: Vec<u8>,
}

impl Rule {
    pub(super) fn parse(message: &Message<'_>) -> Result<Option<Rule>, Malformed> {
        let payload = message.payload;
        let Some(family) = family_of(u8_at(payload, 0)?).filter(|_| message.kind == RTM_NEWRULE) else { return Ok(None) };
        let action = u8_at(payload, 7)?;
        let mut rule = Rule {
            family,
            priority: 0,
            mark: None,
            table: u32::from(u8_at(payload, 4)?),
            mark_only: true,
            protocol: 0,
            payload: payload.to_vec(),
        };
        let selects_by_header = u8_at(payload, 1)? != 0 || u8_at(payload, 2)? != 0 || u8_at(payload, 3)? != 0;
        rule.mark_only = action == TO_TABLE && !selects_by_header && u32_at(payload, 8)? & INVERT == 0;
        let (mut value, mut mask) = (None, None);
        for attribute in message.attributes(RULE_LEN)? {
            let attribute = attribute?;
            match attribute.kind {
                PRIORITY => rule.priority = attribute.u32()?,
                FWMARK => value = Some(attribute.u32()?),
                FWMASK => mask = Some(attribute.u32()?),
                TABLE => rule.table = attribute.u32()?,
                PROTOCOL => rule.protocol = attribute.u8()?,
                PAD => {}
                // Both are there with all bits set when they do nothing.
                SUPPRESS_IFGROUP | SUPPRESS_PREFIXLEN => rule.mark_only &= attribute.u32()? == u32::MAX,
                _ => rule.mark_only = false,
            }
        }
        if action != TO_TABLE {
            rule.table = 0;
        }
        // The kernel leaves out what is zero, and an absent mask of a mark means all bits.
        if value.is_some() || mask.is_some() {
            rule.mark = Some(MarkMask { value: value.unwrap_or(0), mask: mask.unwrap_or(u32::MAX) });
        }
        Ok(Some(rule))
    }

    /// Whether the rule does what `policy` asks for, no more and no less, at whatever priority.
    pub fn is(&self, policy: &PolicyRoute) -> bool {
        self.policy().as_ref() == Some(policy)
    }

    /// What the rule asks for if it looks at nothing but a mark, all of whose bits it compares.
    pub fn policy(&self) -> Option<PolicyRoute> {
        let mark = self.mark.filter(|mark| self.mark_only && *mark == MarkMask::full(mark.value))?;
        Some(PolicyRoute { family: self.family, mark: mark.value, table: self.table })
    }

    /// Whether it was this program that added it.
    pub fn is_ours(&self) -> bool {
        self.protocol == OUR_PROTOCOL
    }

    /// Whether it does not say who added it: as the originals' and such that `ip rule add` makes.
    pub fn names_nobody(&self) -> bool {
        matches!(self.protocol, libc::RTPROT_UNSPEC | libc::RTPROT_BOOT)
    }
}

/// The policy rule in the words of `ip`.
pub(super) fn describe(policy: &PolicyRoute) -> String {
    format!("{} rule fwmark {:#x} lookup {}", policy.family, policy.mark, policy.table)
}

/// Every policy rule of `family`, in the order in which the kernel asks them; none on a kernel that has no policy
/// routing.
pub fn rules(socket: &mut Socket, family: Family) -> Result<Vec<Rule>, RouteError> {
    let mut fixed = [0; RULE_LEN];
    fixed[0] = family_number(family);
    match socket.dump(RTM_GETRULE, &fixed, Rule::parse) {
        Err(NetlinkError::Refused { errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP, .. }) => Ok(Vec::new()),
        // A kernel without rules of this family may answer for another one.
        listed => {
            let mut listed = listed.map_err(RouteError::reading(&format!("the {family} policy rules")))?;
            listed.retain(|rule| rule.family == family);
            Ok(listed)
        }
    }
}

/// How many policy rules equal `policy`.
pub fn count_rules(socket: &mut Socket, policy: &PolicyRoute) -> Result<usize, RouteError> {
    Ok(rules(socket, policy.family)?.iter().filter(|rule| rule.is(policy)).count())
}

/// Sees to it that exactly one policy rule equals `policy`; whether anything had to be changed is the result. The
/// kernel takes a second one of the same kind without complaint, so that it has to be asked first. Of several, the
/// one that is asked first stays.
pub fn ensure_rule(socket: &mut Socket, policy: &PolicyRoute, journal: &mut Journal) -> Result<bool, RouteError> {
    let before = rules(socket, policy.family)?;
    let equal: Vec<Rule> = before.iter().filter(|rule| rule.is(policy)).cloned().collect();
    match equal.as_slice() {
        [] => add(socket, policy, journal).map(|()| true),
        [_] => Ok(false),
        [_, extra @ ..] => delete(socket, extra, before, journal).map(|()| true),
    }
}

/// The fixed part of the message that adds the rule.
pub(super) fn fixed_part(policy: &PolicyRoute) -> [u8; RULE_LEN] {
    let mut fixed = [0; RULE_LEN];
    fixed[0] = family_number(policy.family);
    fixed[4] = short_table(policy.table);
    fixed[7] = TO_TABLE;
    fixed
}

/// The attributes of that message.
pub(super) fn write_attributes(policy: &PolicyRoute, attributes: &mut AttributeWriter<'_>) {
    attributes.u32(TABLE, policy.table).u32(FWMARK, policy.mark).u32(FWMASK, u32::MAX).u8(PROTOCOL, OUR_PROTOCOL);
}

fn add(socket: &mut Socket, policy: &PolicyRoute, journal: &mut Journal) -> Result<(), RouteError> {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let added = socket.request(RTM_NEWRULE, flags, &fixed_part(policy), |attributes| write_attributes(policy, attributes));
    let error = RouteError::changing_rules(format!("add {}", describe(policy)), policy.family);
    record(journal, Change::RuleAdded(*policy), added).map_err(error)
}

/// Deletes the rules `extra`, each as often as it is named. `listed` is what the kernel holds now; what is not in it is
/// passed over.
pub(super) fn delete(socket: &mut Socket, extra: &[Rule], mut listed: Vec<Rule>, journal: &mut Journal) -> Result<(), RouteError> {
    for rule in extra {
        // Of several that are alike to the last bit, the kernel deletes the first.
        let (Some(policy), Some(at)) = (rule.policy(), listed.iter().position(|there| there == rule)) else { continue };
        let copies = listed.iter().filter(|there| *there == rule).count();
        let gone = listed.remove(at);
        let followers = listed[at..].iter().take_while(|rule| rule.priority == gone.priority).map(|rule| rule.payload.clone()).collect();
        let deleted = socket.request(RTM_DELRULE, 0, &gone.payload, |_| {});
        if was_gone(&deleted, Errno::ENOENT) {
            continue;
        }
        let error = RouteError::changing_rules(format!("delete {}", describe(&policy)), policy.family);
        record(journal, Change::RuleRemoved { policy, payload: gone.payload, copies, followers }, deleted).map_err(error)?;
    }
    Ok(())
}

/// Deletes the rule that was added, if it was. No equal one was there before, so that one is ours which says so or, on
/// a kernel that does not tell, any.
pub(super) fn undo_add(socket: &mut Socket, policy: &PolicyRoute) -> Result<(), RouteError> {
    let listed = rules(socket, policy.family)?;
    let mut equal = listed.iter().filter(|rule| rule.is(policy));
    let added = equal.clone().find(|rule| rule.is_ours()).or_else(|| equal.find(|rule| rule.protocol == 0));
    let Some(added) = added else { return Ok(()) };
    match socket.request(RTM_DELRULE, 0, &added.payload, |_| {}) {
        // Somebody else was faster.
        Err(refused) if refused.errno() == Some(Errno::ENOENT) => Ok(()),
        result => result.map_err(RouteError::changing_rules(format!("delete {} again", describe(policy)), policy.family)),
    }
}

/// Puts a rule back in its place. The kernel puts a new rule behind those of the same priority; `followers`, which
/// were behind it, are therefore added anew and their first copies deleted, so that none is ever absent. A rule that is
/// there `copies` times, as often as before, is in its place already.
pub(super) fn undo_remove(
    socket: &mut Socket,
    policy: &PolicyRoute,
    payload: &[u8],
    copies: usize,
    followers: &[Vec<u8>],
) -> Result<(), RouteError> {
    if rules(socket, policy.family)?.iter().filter(|rule| rule.payload == payload).count() >= copies {
        return Ok(());
    }
    let error = || RouteError::changing_rules(format!("put back {}", describe(policy)), policy.family);
    let create = libc::NLM_F_CREATE as u16;
    socket.request(RTM_NEWRULE, create, payload, |_| {}).map_err(error())?;
    for follower in followers {
        socket.request(RTM_NEWRULE, create, follower, |_| {}).map_err(error())?;
        socket.request(RTM_DELRULE, 0, follower, |_| {}).map_err(error())?;
    }
    Ok(())
}
