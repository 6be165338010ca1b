//! Which packet filter holds which family's rules.
//!
//! A kernel says what it cannot hold when it is given the rules, and not before: so the choice is made by trying. What one
//! packet filter refuses the other one is given; both families go to the same one if any can hold both.

use super::backend::BackendName;
use super::error::Error;
use crate::ruleset::Family;

/// Which of the distribution's iptables programs, where they are what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Programs {
    /// `iptables`, whichever that is.
    #[default]
    Plain,
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
}

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The backend that is asked for.
    pub wish: Option<BackendName>,
    /// Whether no other will do.
    pub firm: bool,
    /// Who asks: the name of an option.
    pub asked_by: &'static str,
    /// By which programs, if by any.
    pub programs: Programs,
}

impl Choice {
    /// No other backend than this.
    pub fn firmly(backend: BackendName, asked_by: &'static str) -> Choice {
        Choice { wish: Some(backend), firm: true, asked_by, programs: Programs::Plain }
    }

    /// This backend, if the kernel has it.
    pub fn preferably(backend: BackendName, asked_by: &'static str) -> Choice {
        Choice { wish: Some(backend), firm: false, asked_by, programs: Programs::Plain }
    }

    /// The backend without which nothing is done.
    pub fn only(&self) -> Option<BackendName> {
        self.wish.filter(|_| self.firm)
    }
}

/// Which backend each planned family goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(Vec<(Family, BackendName)>);

impl Assignment {
    /// The backend of a family, if anything is planned for it.
    pub fn of(&self, family: Family) -> Option<BackendName> {
        self.0.iter().find(|(known, _)| *known == family).map(|(_, backend)| *backend)
    }

    /// Each family with its backend.
    pub fn families(&self) -> &[(Family, BackendName)] {
        &self.0
    }

    /// Whether any family goes to `backend`.
    pub fn uses(&self, backend: BackendName) -> bool {
        self.0.iter().any(|(_, assigned)| *assigned == backend)
    }
}

/// What has been learnt so far of what the kernel cannot hold.
#[derive(Debug)]
pub(super) struct Trial {
    /// The backends to be tried, the first one first.
    order: Vec<BackendName>,
    refusals: Vec<(BackendName, Family, Error)>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// To try this.
    Try(Assignment),
    /// No packet filter takes the rules of this family.
    Nowhere(Family),
}

impl Trial {
    pub(super) fn new(order: Vec<BackendName>) -> Trial {
        Trial { order, refusals: Vec::new() }
    }

    /// Remembers what was refused.
    pub(super) fn refused(&mut self, backend: BackendName, refusals: Vec<(Family, Error)>) {
        for (family, error) in refusals {
            if !self.is_refused(backend, family) {
                self.refusals.push((backend, family, error));
            }
        }
    }

    fn is_refused(&self, backend: BackendName, family: Family) -> bool {
        self.refusals.iter().any(|(by, of, _)| (*by, *of) == (backend, family))
    }

    /// What to try for `families`.
    pub(super) fn next(&self, families: &[Family]) -> Next {
        let takes_all = |backend: &&BackendName| families.iter().all(|family| !self.is_refused(**backend, *family));
        if let Some(backend) = self.order.iter().find(takes_all) {
            return Next::Try(Assignment(families.iter().map(|family| (*family, *backend)).collect()));
        }
        let mut assignment = Vec::new();
        for family in families {
            match self.order.iter().find(|backend| !self.is_refused(**backend, *family)) {
                Some(backend) => assignment.push((*family, *backend)),
                None => return Next::Nowhere(*family),
            }
        }
        Next::Try(Assignment(assignment))
    }

    /// The first refusal of a backend, of any family.
    pub(super) fn reason(&self, backend: BackendName) -> Option<&Error> {
        self.refusals.iter().find(|(by, _, _)| *by == backend).map(|(_, _, error)| error)
    }

    /// Why no packet filter takes the rules of `family`, all reasons in one error.
    pub(super) fn nowhere(self, family: Family) -> Error {
        let reasons = self.refusals.into_iter().filter(|(_, of, _)| *of == family).map(|(_, _, error)| error);
        let mut reasons: Vec<Error> = reasons.collect();
        match reasons.pop() {
            Some(only) if reasons.is_empty() => only,
            last => {
                reasons.extend(last);
                Error::Nowhere { family, reasons }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::error::{Action, Cause};
    use crate::ruleset::TableName;

    const BOTH: [Family; 2] = Family::ALL;

    fn refusal(family: Family) -> (Family, Error) {
        (family, Error::Table { action: Action::Write, family, table: TableName::Nat, cause: Cause::NoTable })
    }

    fn tried(refusals: &[(BackendName, Family)]) -> String {
        let mut trial = Trial::new(BackendName::ALL.to_vec());
        for (backend, family) in refusals {
            trial.refused(*backend, vec![refusal(*family)]);
        }
        match trial.next(&BOTH) {
            Next::Try(assignment) => format!("{} {}", assignment.of(Family::V4).unwrap(), assignment.of(Family::V6).unwrap()),
            Next::Nowhere(family) => format!("nowhere {family}"),
        }
    }

    #[test]
    fn both_families_go_together_where_one_backend_takes_both() {
        use BackendName::Nftables;
        use Family::{V4, V6};
        assert_eq!(tried(&[]), "nftables nftables");
        assert_eq!(tried(&[(Nftables, V4)]), "legacy legacy");
        assert_eq!(tried(&[(Nftables, V6)]), "legacy legacy");
        assert_eq!(tried(&[(Nftables, V4), (Nftables, V6)]), "legacy legacy");
    }

    #[test]
    fn and_apart_where_none_does() {
        use BackendName::{Legacy, Nftables};
        use Family::{V4, V6};
        assert_eq!(tried(&[(Nftables, V4), (Legacy, V6)]), "legacy nftables");
        assert_eq!(tried(&[(Nftables, V6), (Legacy, V4)]), "nftables legacy");
        assert_eq!(tried(&[(Nftables, V6), (Legacy, V6)]), "nowhere IPv6");
        assert_eq!(tried(&[(Nftables, V4), (Nftables, V6), (Legacy, V6)]), "nowhere IPv6");
        assert_eq!(tried(&[(Nftables, V4), (Legacy, V4), (Legacy, V6)]), "nowhere IPv4");
    }

    #[test]
    fn an_error_of_both_names_both_reasons() {
        let mut trial = Trial::new(BackendName::ALL.to_vec());
        for backend in BackendName::ALL {
            trial.refused(backend, vec![refusal(Family::V4)]);
        }
        assert!(matches!(trial.nowhere(Family::V4), Error::Nowhere { .. }));
        let mut trial = Trial::new(vec![BackendName::Legacy]);
        trial.refused(BackendName::Legacy, vec![refusal(Family::V4)]);
        assert!(matches!(trial.nowhere(Family::V4), Error::Table { .. }));
    }
}
