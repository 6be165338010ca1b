//! nf_tables as the real `nft` and `iptables-nft` see it.

use std::process::Output;

use super::namespace::{Namespace, feed};
use super::program::Program;
use super::{Family, Outcome};

impl Family {
    /// `ip` or `ip6`, as nft has it.
    pub(crate) fn nft(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }
}

impl Namespace {
    /// Runs `nft` with these words, which has to succeed.
    pub(crate) fn nft(&self, words: &str) -> String {
        self.output(&["sh", "-c", &format!("nft {words}")])
    }

    /// Everything that nf_tables holds, without counters.
    pub(crate) fn nft_ruleset(&self) -> String {
        self.nft("-s list ruleset")
    }

    /// Everything with handles: whatever was made anew has others.
    pub(crate) fn nft_handles(&self) -> String {
        self.nft("-s -a list ruleset")
    }

    /// Loads a script for `nft -f`.
    pub(crate) fn nft_load(&self, script: &str) {
        feed(self.command("nft").args(["-f", "-"]), script);
    }

    /// Loads text for `iptables-restore` with the iptables that writes into nf_tables.
    pub(crate) fn iptables_nft_restore(&self, family: Family, text: &str) {
        if !text.is_empty() {
            feed(self.command(&format!("{}-nft-restore", family.iptables())).arg("--noflush"), text);
        }
    }

    /// What the iptables that reads nf_tables prints of one family, with or without counters.
    pub(crate) fn iptables_nft_save(&self, family: Family, counted: bool) -> Output {
        let mut command = self.command(&format!("{}-nft-save", family.iptables()));
        command.args(counted.then_some("-c")).output().unwrap()
    }

    /// The same as lines without comments; the program has to succeed and to say nothing else.
    pub(crate) fn iptables_nft_lines(&self, family: Family, counted: bool) -> Vec<String> {
        let output = self.iptables_nft_save(family, counted);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("incompatible"), "{text}");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }
}

impl Program<'_> {
    /// Runs it with that backend.
    pub(crate) fn backend(self, backend: &str) -> Self {
        self.env("MESH_INIT_BACKEND", backend)
    }
}

/// The differences between two texts, a line each.
pub(crate) fn line_differences(wanted: &str, found: &str) -> Vec<String> {
    let count = |text: &str, line: &str| text.lines().filter(|other| *other == line).count();
    let mut lines: Vec<&str> = wanted.lines().chain(found.lines()).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut differences = Vec::new();
    for line in lines {
        match count(wanted, line).cmp(&count(found, line)) {
            std::cmp::Ordering::Less => differences.push(format!("+ {line}")),
            std::cmp::Ordering::Greater => differences.push(format!("- {line}")),
            std::cmp::Ordering::Equal => {}
        }
    }
    if differences.is_empty() && wanted != found {
        differences.push("the same lines in another order".to_owned());
    }
    differences
}

/// Fails the test unless the run ended well and said that it changed nothing.
#[track_caller]
pub(crate) fn assert_in_place(outcome: Outcome) {
    let outcome = outcome.expect(0);
    assert!(outcome.text().contains("already in place"), "{outcome}");
}
