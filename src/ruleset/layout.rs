//! Where the tables and chains of iptables stand in nf_tables: their names in mesh-init's own table, and the type and
//! priority of the chain at each hook.
//!
//! mesh-init has one table of its own in each family. The chains of nat keep their names there; those of other tables
//! have the table's before theirs (`mangle-PREROUTING`, `raw-ISTIO_INBOUND`), since a mesh gives the same name to chains
//! of several tables.

use super::{Hook, TableName};

/// The name of mesh-init's own table: `table ip mesh-init` and `table ip6 mesh-init`.
pub const OWN_TABLE: &str = "mesh-init";

/// The name in [`OWN_TABLE`] of a table's chain.
pub fn chain_name(table: TableName, chain: &str) -> String {
    match table {
        TableName::Nat => chain.to_owned(),
        other => format!("{other}-{chain}"),
    }
}

/// The table and the chain whose name in [`OWN_TABLE`] is `name`.
pub fn chain_of(name: &str) -> (TableName, &str) {
    let prefixed = |table: TableName| Some((table, name.strip_prefix(table.as_str())?.strip_prefix('-')?));
    TableName::ALL.into_iter().filter(|table| *table != TableName::Nat).find_map(prefixed).unwrap_or((TableName::Nat, name))
}

/// The place of a built-in chain in nf_tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The chain's type: `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// Its priority at the hook, iptables' own (`enum nf_ip_hook_priorities` in `linux/netfilter_ipv4.h`).
    pub priority: i32,
}

impl Seat {
    /// The place of a table's built-in chain; `None` where the table has none at that hook.
    pub fn of(table: TableName, hook: Hook) -> Option<Seat> {
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let (kind, priority) = match (table, hook) {
            (TableName::Raw, Prerouting | Output) => ("filter", -300),
            // A changed mark or address makes the kernel look for a route again, as the mangle table does.
            (TableName::Mangle, Output) => ("route", -150),
            (TableName::Mangle, _) => ("filter", -150),
            (TableName::Nat, Prerouting | Output) => ("nat", -100),
            (TableName::Nat, Input | Postrouting) => ("nat", 100),
            (TableName::Filter, Input | Forward | Output) => ("filter", 0),
            (TableName::Security, Input | Forward | Output) => ("filter", 50),
            _ => return None,
        };
        Some(Seat { kind, priority })
    }

    /// The table whose built-in chain at `hook` has this type and priority.
    pub fn table(kind: &str, hook: Hook, priority: i32) -> Option<TableName> {
        TableName::ALL.into_iter().find(|table| Seat::of(*table, hook).is_some_and(|seat| seat.kind == kind && seat.priority == priority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_table_and_chain() {
        for table in TableName::ALL {
            for chain in ["OUTPUT", "ISTIO_OUTPUT-2"] {
                assert_eq!(chain_of(&chain_name(table, chain)), (table, chain));
            }
        }
        assert_eq!(chain_of("raw"), (TableName::Nat, "raw"));
    }

    #[test]
    fn every_seat_belongs_to_one_table() {
        for table in TableName::ALL {
            for hook in Hook::ALL {
                if let Some(seat) = Seat::of(table, hook) {
                    assert_eq!(Seat::table(seat.kind, hook, seat.priority), Some(table));
                }
            }
        }
    }
}
