//! What the kernel lacks when it refuses a message, and the option that brings it.

use nix::errno::Errno;

use super::abi;
use super::batch::{About, Complete, Object};
use crate::kernel::backend::Need;
use crate::kernel::error::{Action, Error, NftCause};
use crate::kernel::netlink::NetlinkError;
use crate::ruleset::{Condition, Family, Ruleset, TableName, Target};

/// Errors by which the kernel says that it does not have something.
fn is_absence(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ENOPROTOOPT)
        || errno as i32 == ENOTSUPP
}

/// The kernel's own ENOTSUPP, which no C library knows.
const ENOTSUPP: i32 = 524;

/// The options that bring an expression.
fn option_of(expression: &str) -> &'static str {
    match expression {
        "redir" => "CONFIG_NFT_REDIR",
        "tproxy" => "CONFIG_NFT_TPROXY",
        "ct" => "CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_MARK and CONFIG_NF_CONNTRACK_ZONES",
        "counter" => "CONFIG_NFT_COUNTER",
        _ => "CONFIG_NF_TABLES",
    }
}

/// The option that brings tables of a family.
fn table_option(family: Family) -> &'static str {
    match family {
        Family::V4 => "CONFIG_NF_TABLES_IPV4",
        Family::V6 => "CONFIG_NF_TABLES_IPV6",
    }
}

const NAT_OPTION: &str = "CONFIG_NFT_NAT and CONFIG_NF_NAT";

/// What a plan needs besides what nf_tables always has.
pub(super) fn needs(plan: &Ruleset) -> Vec<Need> {
    let mut names = vec![TABLES];
    for table in &plan.tables {
        if table.name == TableName::Nat {
            names.push(NAT_CHAINS);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                names.push(match rule.target {
                    Target::Redirect(_) => "redir",
                    Target::Tproxy { .. } => "tproxy",
                    Target::CtZone(_) | Target::SaveMark | Target::RestoreMark => "ct",
                    _ => TABLES,
                });
                for wanted in &rule.matches {
                    if matches!(wanted.condition, Condition::Connmark(_) | Condition::State(_)) {
                        names.push("ct");
                    }
                }
            }
        }
    }
    let mut needs: Vec<Need> = Vec::new();
    for name in names {
        let option = match name {
            TABLES => table_option(plan.family),
            NAT_CHAINS => NAT_OPTION,
            expression => option_of(expression),
        };
        if !needs.iter().any(|need| need.name == name) {
            needs.push(Need { name, option: option.into() });
        }
    }
    needs
}

const TABLES: &str = "tables";
const NAT_CHAINS: &str = "chains of the type nat";

/// Why nf_tables cannot be spoken to, from the answer to the first question: it is not there, or it is not ours to ask.
pub(super) fn unreachable(error: &NetlinkError) -> NftCause {
    match error {
        // Whatever keeps the socket from being opened, a policy included, the other packet filter may be open still.
        NetlinkError::Open { errno, .. } => NftCause::Absent(*errno),
        NetlinkError::Refused { errno: Errno::EPERM, .. } => NftCause::Denied,
        NetlinkError::Refused { errno, .. } if is_absence(*errno) => NftCause::Absent(*errno),
        other => NftCause::Other(other.clone()),
    }
}

/// What a refusal of a message of `batch` means.
pub(super) fn refusal(batch: &Complete, sequence: u32, error: NetlinkError) -> Error {
    let Some(about) = batch.about(sequence) else {
        return Error::Nftables { action: Action::Write, family: None, object: Object::Batch.to_string(), cause: NftCause::Other(error) };
    };
    let action = if matches!(about.object, Object::Gone(_)) { Action::Remove } else { Action::Write };
    let cause = match &error {
        NetlinkError::Refused { errno: Errno::EPERM, .. } => NftCause::Denied,
        NetlinkError::Refused { errno: Errno::EBUSY, .. } if action == Action::Remove => NftCause::Busy,
        NetlinkError::Refused { errno, .. } if matches!(about.object, Object::Batch) && is_absence(*errno) => NftCause::Absent(*errno),
        NetlinkError::Refused { errno, offset, .. } if is_absence(*errno) => missing(batch, about, *errno, *offset),
        _ => NftCause::Other(error),
    };
    Error::Nftables { action, family: about.family, object: about.object.to_string(), cause }
}

fn missing(batch: &Complete, about: &About, errno: Errno, offset: Option<u32>) -> NftCause {
    let found = |feature: String, option: &str| NftCause::Missing { feature, option: option.to_owned(), errno };
    let family = about.family.unwrap_or(Family::V4);
    match &about.object {
        Object::Table(_) => found(format!("tables of the family {}", abi::family_name(abi::number(family))), table_option(family)),
        Object::Chain { table: TableName::Nat, .. } => found(NAT_CHAINS.to_owned(), NAT_OPTION),
        Object::Chain { .. } => found("chains of this type".to_owned(), "CONFIG_NF_TABLES"),
        Object::Rule { .. } => match offset.and_then(|offset| batch.expression(about, offset)) {
            Some(name) => {
                let option = option_of(&name);
                found(format!("the expression {name} as it is used there"), option)
            }
            None => found("an expression of it".to_owned(), "CONFIG_NFT_REDIR, CONFIG_NFT_CT and CONFIG_NFT_TPROXY"),
        },
        Object::Batch | Object::Gone(_) | Object::Old(_) => NftCause::Other(NetlinkError::Refused { errno, text: None, offset }),
    }
}

/// The same refusal for each family that is planned.
pub(super) fn for_all(plans: &[Ruleset], cause: &NftCause) -> Vec<(Family, Error)> {
    let planned = plans.iter().filter(|plan| !plan.tables.is_empty());
    let error = |family: Family| Error::Nftables {
        action: Action::Write,
        family: Some(family),
        object: format!("{} rules", abi::family_name(abi::number(family))),
        cause: cause.clone(),
    };
    planned.map(|plan| (plan.family, error(plan.family))).collect()
}
