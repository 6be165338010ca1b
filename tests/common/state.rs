//! Everything in a pod that the program may change, to be compared with what it was.

use super::namespace::Namespace;
use super::{Family, Saved};

/// The tables of both families, the rules and routes, and the addresses on `lo`.
#[derive(Clone, Debug)]
pub(crate) struct State {
    saved: [Saved; 2],
    routing: String,
    lo_has_6: bool,
}

impl Namespace {
    /// What there is now.
    pub(crate) fn state(&self) -> State {
        State { saved: Family::BOTH.map(|family| self.legacy_save(family)), routing: self.routing_text(), lo_has_6: self.lo_has_6() }
    }
}

impl State {
    /// How `now` differs from it, a line each.
    pub(crate) fn differences(&self, now: &State) -> Vec<String> {
        let mut differences = Vec::new();
        for ((family, was), is) in Family::BOTH.into_iter().zip(&self.saved).zip(&now.saved) {
            differences.extend(was.differences(is).into_iter().map(|line| format!("{}: {line}", family.iptables())));
        }
        if self.routing != now.routing {
            differences.push(format!("routing was {}\nis {}", self.routing, now.routing));
        }
        if self.lo_has_6 != now.lo_has_6 {
            differences.push(format!("::6 on lo: was {}, is {}", self.lo_has_6, now.lo_has_6));
        }
        differences
    }
}
