//! What the whole-program tests share: network namespaces, the program under test, the real iptables as the judge,
//! recorded expectations, and traffic.
//!
//! Nothing here knows how the program works inside; it is started as a user would start it.

#![allow(dead_code, unused_imports, reason = "every test file uses its own part of the harness")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

pub(crate) mod container;
pub(crate) mod fixture;
pub(crate) mod matrix;
pub(crate) mod namespace;
pub(crate) mod native;
pub(crate) mod nft;
pub(crate) mod original;
pub(crate) mod preflight;
pub(crate) mod program;
pub(crate) mod routing;
pub(crate) mod saved;
pub(crate) mod seccomp;
pub(crate) mod state;
pub(crate) mod strace;
pub(crate) mod traffic;
pub(crate) mod user_namespace;
pub(crate) mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use namespace::Namespace;
pub(crate) use program::{Outcome, Privilege};
pub(crate) use saved::Saved;
pub(crate) use state::State;
pub(crate) use user_namespace::UserNamespace;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// `4` or `6`, as `ip -4` and `--family 4` have it.
    pub(crate) fn digit(self) -> &'static str {
        match self {
            Family::V4 => "4",
            Family::V6 => "6",
        }
    }

    /// `iptables` or `ip6tables`.
    pub(crate) fn iptables(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }
}

/// Whether a test that needs root may run. Without root it is skipped with a line that says so, but where `CI` is
/// set it fails, since there a skipped test is a promise that nobody checked.
pub(crate) fn root_or_skip(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root, and CI must not skip it");
    eprintln!("skipped: {test} needs root");
    false
}

/// Returns from a test that cannot run, see [`root_or_skip`].
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::common::root_or_skip(concat!(module_path!(), ":", line!())) {
            return;
        }
    };
}

/// Runs `check` over all `items` on two threads and fails once, with everything that went wrong.
pub(crate) fn check_all<T: Sync>(items: &[T], name: impl Fn(&T) -> String + Sync, check: impl Fn(&T) -> Vec<String> + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let problems = catch_unwind(AssertUnwindSafe(|| check(item))).unwrap_or_else(|panic| vec![panic_text(&*panic)]);
                    if !problems.is_empty() {
                        let report = format!("## {}\n{}", name(item), problems.join("\n"));
                        failures.lock().unwrap().push(report);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} failed:\n\n{}", failures.len(), items.len(), failures.join("\n\n"));
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a message"))
}
