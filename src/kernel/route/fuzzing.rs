//! Any bytes as rtnetlink's answers.

use nix::libc::RTM_NEWRULE;

use super::address::{Address, Ipv6State};
use super::local;
use super::rule::{self, Rule};
use crate::kernel::netlink::wire::{Header, Message, Messages, append_message};
use crate::ruleset::{Family, PolicyRoute};

/// Reads `bytes` as lists of addresses, policy rules and routes.
pub(in crate::kernel) fn answers(bytes: &[u8]) {
    let messages: Vec<Message<'_>> = Messages::new(bytes).map_while(Result::ok).collect();
    let addresses: Vec<Address> = messages.iter().filter_map(|message| Address::parse(message).ok().flatten()).collect();
    let _ = (Ipv6State::of(&addresses), addresses.iter().map(Address::family).count());

    let rules: Vec<Rule> = messages.iter().filter_map(|message| Rule::parse(message).ok().flatten()).collect();
    let mut policies = Family::ALL.map(|family| PolicyRoute { family, mark: 1337, table: 133 }).to_vec();
    policies.extend(rules.iter().filter_map(Rule::policy));
    policies.dedup();
    for policy in &policies {
        assert_stable(policy);
        for message in &messages {
            let _ = local::parse(message, policy, 1);
        }
    }
}

/// The rule that is added for a policy is read as one for that policy, and as ours.
fn assert_stable(policy: &PolicyRoute) {
    let mut bytes = Vec::new();
    let header = Header { kind: RTM_NEWRULE, flags: 0, sequence: 1 };
    let written = append_message(&mut bytes, header, &rule::fixed_part(policy), |attributes| rule::write_attributes(policy, attributes));
    assert!(written.is_ok());
    let read = Messages::new(&bytes).flatten().find_map(|message| Rule::parse(&message).ok().flatten());
    assert!(read.is_some_and(|read| read.is(policy) && read.is_ours()), "{policy:?}");
}
