//! The kernel's legacy tables as the real iptables sees them, in a form that can be compared.

use std::collections::BTreeMap;

use iptables::IPTables;

use super::Family;
use super::namespace::{Namespace, run, try_feed};

/// The tables of one family: what `iptables-save` prints, less what does not matter (comments, the order of chains).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) tables: BTreeMap<String, BTreeMap<String, Chain>>,
}

/// One chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `ACCEPT`, `DROP`, or `-` for a chain that is not built in.
    pub(crate) policy: String,
    /// Packets and bytes of the policy, where counters were asked for.
    pub(crate) counters: Option<(u64, u64)>,
    /// The rules in order, `-A CHAIN …`; with counters `[packets:bytes] -A CHAIN …`.
    pub(crate) rules: Vec<String>,
}

impl Saved {
    /// Reads the output of `iptables-save`, with counters if it was run with `-c`.
    pub(crate) fn parse(text: &str, counters: bool) -> Saved {
        let mut tables: BTreeMap<String, BTreeMap<String, Chain>> = BTreeMap::new();
        let mut table = String::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty() && *line != "COMMIT") {
            if let Some(name) = line.strip_prefix('*') {
                name.trim().clone_into(&mut table);
                tables.entry(table.clone()).or_default();
            } else if let Some(head) = line.strip_prefix(':') {
                let words: Vec<&str> = head.split_whitespace().collect();
                let chain = tables.get_mut(&table).unwrap().entry(words[0].to_owned()).or_default();
                words[1].clone_into(&mut chain.policy);
                chain.counters = counters.then(|| pair(words[2]));
            } else {
                let rule = if counters { line } else { line.find("-A ").map_or(line, |start| &line[start..]) };
                let name = line[line.find("-A ").expect("a rule")..].split_whitespace().nth(1).unwrap();
                tables.get_mut(&table).unwrap().entry(name.to_owned()).or_default().rules.push(rule.trim_end().to_owned());
            }
        }
        Saved { tables }
    }

    /// Without the tables that hold nothing but empty built-in chains that accept: looking at a table makes one.
    pub(crate) fn meaningful(mut self) -> Saved {
        self.tables.retain(|_, chains| chains.values().any(|chain| !chain.rules.is_empty() || chain.policy != "ACCEPT"));
        self
    }

    /// Whether there is nothing in it but empty built-in chains that accept.
    pub(crate) fn is_empty(&self) -> bool {
        self.clone().meaningful().tables.is_empty()
    }

    /// The rules of one chain; none if there is no such chain.
    pub(crate) fn rules(&self, table: &str, chain: &str) -> &[String] {
        self.tables.get(table).and_then(|chains| chains.get(chain)).map_or(&[], |chain| &chain.rules)
    }

    /// One line a policy and a rule, by table and chain.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (table, chains) in &self.tables {
            for (name, chain) in chains {
                lines.push(format!("{table} :{name} {}", chain.policy));
                lines.extend(chain.rules.iter().map(|rule| format!("{table} {rule}")));
            }
        }
        lines
    }

    /// How `found` differs from what was expected, a line each: `-` is missing, `+` is too much, with the order of
    /// the rules of a chain respected.
    pub(crate) fn differences(&self, found: &Saved) -> Vec<String> {
        let (expected, found) = (self.clone().meaningful().lines(), found.clone().meaningful().lines());
        if expected == found { Vec::new() } else { diff(&expected, &found) }
    }
}

fn pair(text: &str) -> (u64, u64) {
    let (packets, bytes) = text.trim_matches(['[', ']']).split_once(':').unwrap();
    (packets.parse().unwrap(), bytes.parse().unwrap())
}

/// The shortest difference by longest common subsequence; the texts are a few hundred lines at most.
fn diff(old: &[String], new: &[String]) -> Vec<String> {
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            common[i][j] = if a == b { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("  - {}", old[i]));
            i += 1;
        } else {
            lines.push(format!("  + {}", new[j]));
            j += 1;
        }
    }
    lines
}

impl Namespace {
    /// What the real `iptables-legacy-save` prints. Tables that nobody has asked for do not come to be by it.
    pub(crate) fn legacy_save(&self, family: Family) -> Saved {
        Saved::parse(&run(&mut self.command(&format!("{}-legacy-save", family.iptables()))), false)
    }

    /// The same with all counters.
    pub(crate) fn legacy_save_counted(&self, family: Family) -> Saved {
        Saved::parse(&run(self.command(&format!("{}-legacy-save", family.iptables())).arg("-c")), true)
    }

    /// Loads text with the real `iptables-legacy-restore --noflush`; its complaint if it does not take it.
    pub(crate) fn try_legacy_restore(&self, family: Family, text: &str) -> Result<(), String> {
        try_feed(self.command(&format!("{}-legacy-restore", family.iptables())).arg("--noflush"), text)
    }

    /// The same for text that it has to take.
    pub(crate) fn legacy_restore(&self, family: Family, text: &str) {
        self.try_legacy_restore(family, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }

    /// One table as `iptables -S` lists it, through the `iptables` crate: a second reader beside `iptables-save`.
    pub(crate) fn listed(&self, family: Family, table: &str) -> Vec<String> {
        let cmd = match family {
            Family::V4 => "iptables-legacy",
            Family::V6 => "ip6tables-legacy",
        };
        let mut lines = self.inside(|| {
            let reader = IPTables { cmd, has_check: true, has_wait: true, is_numeric: false };
            reader.list_table(table).map_err(|error| error.to_string())
        });
        // The crate does not say that the program failed; a table without policies is how that shows.
        let lines = lines.as_mut().unwrap();
        assert!(lines.iter().any(|line| line.starts_with("-P ")), "{cmd} -t {table} -S lists nothing");
        // Chains come in any order; their rules keep theirs, since the sort is stable.
        lines.sort_by_key(|line| line.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>());
        std::mem::take(lines)
    }
}
