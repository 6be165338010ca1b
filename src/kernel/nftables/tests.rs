//! nf_tables against a kernel's double: what is written is read back, and refusals are understood.

use std::time::Instant;

use super::testing::{Lacks, nftables};
use super::{Backend, Nftables, WriteError};
use crate::kernel::backend::{Held, Look};
use crate::kernel::error::{Error, NftCause};
use crate::ruleset::{
    Condition, Family, IdRange, Interface, MarkMask, Match, Mesh, PortRange, Protocol, Rule, Ruleset, StateSet, TableName, Target,
};

use nix::errno::Errno;

fn net(family: Family, text: (&str, &str)) -> ipnet::IpNet {
    match family {
        Family::V4 => text.0.parse().unwrap(),
        Family::V6 => text.1.parse().unwrap(),
    }
}

/// A plan with every match and target that needs no set.
fn plan(family: Family) -> Ruleset {
    let tcp = || Match::from(Condition::Protocol(Protocol::TCP));
    let interface = |name| Interface::new(name).unwrap();
    let ports = PortRange { first: 80, last: 90 };
    let mut plan = Ruleset::new(family);
    let nat = plan.table_mut(TableName::Nat);
    let conditions = [
        Condition::Source(net(family, ("10.1.2.0/23", "fd00:2::/31"))),
        Condition::Source(net(family, ("10.0.0.0/8", "fd00::/16"))),
        Condition::Destination(net(family, ("127.0.0.6/32", "::6/128"))),
        Condition::InInterface(interface("fifteen-letters")),
        Condition::InInterface(interface("eth+")),
        Condition::OutInterface(interface("lo")),
        Condition::Protocol(Protocol(132)),
        Condition::Mark(MarkMask::full(1338)),
        Condition::Mark(MarkMask { value: 1, mask: 3 }),
        Condition::Connmark(MarkMask { value: 1, mask: 0xff }),
        Condition::State(StateSet::INVALID.union(StateSet::UNTRACKED)),
        Condition::State(StateSet::NEW.union(StateSet::RELATED).union(StateSet::ESTABLISHED)),
    ];
    let negatable = conditions.into_iter().flat_map(|condition| [Match::from(condition.clone()), !condition]);
    nat.chain_mut("ISTIO_OUTPUT").rules.extend(negatable.map(|wanted| Rule::new([wanted], Target::Return)));
    for wanted in [
        Match::from(Condition::Uid(IdRange::single(1337))),
        Condition::Gid(IdRange { first: 1337, last: 1340 }).into(),
        Condition::Uid(IdRange { first: 0, last: u32::MAX }).into(),
    ] {
        nat.chain_mut("ISTIO_OUTPUT").rules.push(Rule::new([wanted], Target::Return).with_comment("who \"it\" is"));
    }
    for wanted in [
        Match::from(Condition::DestinationPort(ports)),
        !Condition::DestinationPort(ports),
        !Condition::SourcePort(PortRange::single(53)),
        Condition::SourcePort(PortRange { first: 0, last: u16::MAX }).into(),
    ] {
        nat.chain_mut("ISTIO_OUTPUT").rules.push(Rule::new([tcp(), wanted], Target::Redirect(15001)));
    }
    nat.chain_mut("OUTPUT").rules.push(Rule::new([], Target::Jump("ISTIO_OUTPUT".into())));
    let mangle = plan.table_mut(TableName::Mangle);
    for target in [
        Target::Continue,
        Target::Accept,
        Target::Drop,
        Target::Goto("ISTIO_DIVERT".into()),
        Target::Tproxy { port: 15006, mark: MarkMask::full(1337) },
        Target::Tproxy { port: 15006, mark: MarkMask { value: 1, mask: 3 } },
        Target::Mark(MarkMask::full(7)),
        Target::Mark(MarkMask { value: 1, mask: 3 }),
        Target::SaveMark,
        Target::RestoreMark,
        Target::CtZone(2),
    ] {
        mangle.chain_mut("ISTIO_INBOUND").rules.push(Rule::new([tcp()], target));
    }
    mangle.chain_mut("ISTIO_DIVERT");
    mangle.chain_mut("OUTPUT").rules.push(Rule::new([tcp()], Target::Jump("ISTIO_INBOUND".into())));
    plan
}

fn both() -> Vec<Ruleset> {
    Family::ALL.map(plan).to_vec()
}

fn write(nftables: &mut Nftables, plans: &[Ruleset]) -> Result<(), WriteError> {
    let deadline = nftables.deadline;
    nftables.write(Mesh::Istio, plans, &[], &[], deadline)
}

fn read(nftables: &mut Nftables, family: Family) -> Held {
    let mut held = nftables.read(family, &[], Look::Listed).unwrap();
    assert_eq!(held.len(), 1);
    held.remove(0)
}

#[test]
fn what_is_written_is_read_back() {
    let (mut nftables, told) = nftables(Lacks::default());
    write(&mut nftables, &both()).unwrap();
    for family in Family::ALL {
        let held = read(&mut nftables, family);
        let differences = held.differences(Mesh::Istio, &plan(family));
        assert!(differences.is_empty() && held.faults.is_empty(), "{differences:#?} {:?}", held.faults);
        assert!(held.agrees(Mesh::Istio, &plan(family)));
        assert_eq!(
            held.ruleset.table(TableName::Nat).unwrap().chain("ISTIO_OUTPUT").unwrap().rules[24].comment.as_deref(),
            Some("who \"it\" is")
        );
    }
    // Nothing is left to do.
    write(&mut nftables, &both()).unwrap();
    assert_eq!(told.lock().unwrap().batches, 1);
}

/// The families that are refused with these things lacking, and the errors.
fn refusals(lacks: Lacks) -> Vec<(Family, String)> {
    let (mut nftables, told) = nftables(lacks);
    match write(&mut nftables, &both()) {
        Err(WriteError::Refused(refusals)) => {
            assert!(!nftables.has_written());
            assert!(told.lock().unwrap().batches <= 1);
            let text = |error: &Error| format!("{error}; {}", error.hint().unwrap_or_default());
            refusals.iter().map(|(family, error)| (*family, text(error))).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_kernel_lacks_is_named_with_its_option() {
    for (lacks, words) in [
        (Lacks { expression: Some(("redir", Errno::ENOENT)), ..Lacks::default() }, ["redir", "CONFIG_NFT_REDIR"]),
        (Lacks { expression: Some(("tproxy", Errno::ENOENT)), ..Lacks::default() }, ["tproxy", "CONFIG_NFT_TPROXY"]),
        (Lacks { expression: Some(("ct", Errno::EOPNOTSUPP)), ..Lacks::default() }, ["ct", "CONFIG_NF_CONNTRACK_ZONES"]),
        (Lacks { chain_type: Some("nat"), ..Lacks::default() }, ["type nat", "CONFIG_NFT_NAT"]),
        (Lacks { everything: true, ..Lacks::default() }, ["no nf_tables", "CONFIG_NF_TABLES=y"]),
    ] {
        let refusals = refusals(lacks.clone());
        assert_eq!(refusals.iter().map(|(family, _)| *family).collect::<Vec<_>>(), Family::ALL, "{lacks:?}");
        for (_, text) in refusals {
            assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        }
    }
}

#[test]
fn only_the_family_that_is_refused_is_refused() {
    let refusals = refusals(Lacks { family: Some(super::abi::IPV6), ..Lacks::default() });
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].0, Family::V6);
    assert!(refusals[0].1.contains("CONFIG_NF_TABLES_IPV6"), "{refusals:?}");
}

#[test]
fn rules_of_another_generation_are_read_again() {
    let (mut nftables, told) = nftables(Lacks { outdated: 3, ..Lacks::default() });
    write(&mut nftables, &both()).unwrap();
    assert_eq!(told.lock().unwrap().batches, 4);
    let (mut nftables, _) = self::nftables(Lacks { outdated: usize::MAX, ..Lacks::default() });
    // The deadline passes while rules are read, or before they are written again.
    assert!(matches!(write(&mut nftables, &both()), Err(WriteError::Failed(_))));
}

#[test]
fn an_answer_without_a_change_is_no_success() {
    let (mut nftables, told) = nftables(Lacks { idle: true, ..Lacks::default() });
    assert!(matches!(write(&mut nftables, &both()), Err(WriteError::Failed(_))));
    assert!(told.lock().unwrap().batches > 1);
}

#[test]
fn an_interrupted_list_is_read_again() {
    let (mut nftables, _) = nftables(Lacks { interrupted: 2, ..Lacks::default() });
    write(&mut nftables, &both()).unwrap();
    assert!(read(&mut nftables, Family::V6).agrees(Mesh::Istio, &plan(Family::V6)));
    let (mut nftables, _) = self::nftables(Lacks { interrupted: usize::MAX, ..Lacks::default() });
    assert!(Instant::now() < nftables.deadline);
    assert!(nftables.read(Family::V4, &[], Look::Listed).is_err());
}

#[test]
fn a_rehearsal_changes_nothing() {
    let (mut nftables, told) = nftables(Lacks::default());
    nftables.rehearse(Mesh::Istio, &both()).unwrap();
    assert_eq!(told.lock().unwrap().batches, 1);
    assert!(nftables.read(Family::V4, &[], Look::Listed).unwrap().is_empty());
    let (mut nftables, _) = self::nftables(Lacks { expression: Some(("redir", Errno::ENOENT)), ..Lacks::default() });
    assert!(matches!(nftables.rehearse(Mesh::Istio, &both()), Err(WriteError::Refused(_))));
}

#[test]
fn a_kernel_that_is_not_there_is_no_hindrance_to_wanting_nothing() {
    let (mut nftables, _) = nftables(Lacks { everything: true, ..Lacks::default() });
    write(&mut nftables, &Family::ALL.map(Ruleset::new)).unwrap();
    let error = nftables.read(Family::V4, &[], Look::Everything).unwrap_err();
    assert!(matches!(error, Error::Nftables { cause: NftCause::Absent(_), .. }), "{error}");
}
