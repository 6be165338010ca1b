//! The judge is judged: the expected rules of every fixture are ones that the real iptables takes, and where an
//! original tool's outcome was recorded, they are what it left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::fixture::{all_vectors, recorded, repeated_names, rules_by_table, vectors};
use common::{Family, check_all};

#[test]
fn the_real_iptables_takes_every_fixture() {
    require_root!();
    let vectors = all_vectors();
    assert_eq!(repeated_names(&vectors), Vec::<String>::new());
    check_all(
        &vectors,
        |vector| vector.title(),
        |vector| {
            let (_namespace, saved) = vector.expected();
            let mut problems = Vec::new();
            for (family, saved) in Family::BOTH.into_iter().zip(saved) {
                let wanted = vector.text(family).lines().filter(|line| line.starts_with("-A ")).count();
                let found: usize = rules_by_table(&saved).values().map(Vec::len).sum();
                if found != wanted {
                    problems.push(format!("{family:?}: {found} rules in the kernel, {wanted} in the fixture"));
                }
            }
            problems
        },
    );
}

#[test]
fn fixtures_are_what_the_originals_left() {
    require_root!();
    for mesh in ["istio", "linkerd"] {
        let vectors = vectors(mesh);
        for example in recorded(mesh) {
            let vector =
                vectors.iter().find(|vector| example.is_like(vector)).unwrap_or_else(|| panic!("no fixture like {}", example.name));
            let (_namespace, saved) = vector.expected();
            for (family, saved) in Family::BOTH.into_iter().zip(saved) {
                assert_eq!(rules_by_table(&saved), example.rules(family), "{mesh} {} {family:?}", example.name);
            }
        }
    }
}
