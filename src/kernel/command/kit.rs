//! The programs of one family, and what they are asked to do.
//!
//! Single steps go through the `iptables` crate: whether the program is there and reaches the kernel, whether it finds a
//! rule, and taking rules and chains out. Whole tables go to `iptables-restore`, which makes all of a table's changes at
//! once.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, Instant};

use iptables::IPTables;
use tracing::debug;

use super::error::ProgramError;
use super::program::{self, Trouble};
use crate::kernel::backend::Form;
use crate::kernel::choice::Programs;
use crate::ruleset::{Family, TableName};

/// The programs of one family.
#[derive(Clone, Debug)]
pub(super) struct Kit {
    family: Family,
    /// The one that works on single rules; the others' names begin with its name.
    tool: &'static str,
    form: Form,
    version: Version,
    /// Whether the one that works on whole tables is known to be of the same kind.
    is_uniform: bool,
}

type Version = [u32; 3];

/// The first version in which `iptables-restore` waits for the lock.
const RESTORE_WAITS: Version = [1, 6, 2];
/// The first version in which `iptables` does.
const TOOL_WAITS: Version = [1, 4, 20];

/// The longest that a program is told to wait for the lock: it has to be a number that it can count.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// A step that takes something out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The rule with that number, from 1.
    Rule(TableName, String, usize),
    /// All rules of a chain.
    Rules(TableName, String),
    /// A chain, which has to be empty.
    Chain(TableName, String),
}

/// A rule that has to be there, and lead to a chain that is there.
#[derive(Clone, Debug)]
pub(super) struct Jump {
    pub(super) table: TableName,
    pub(super) chain: String,
    pub(super) rule: String,
    pub(super) target: String,
}

impl Kit {
    /// The programs that `programs` names, of which the first is asked what it is.
    pub(super) fn open(programs: Programs, family: Family, deadline: Instant) -> Result<Kit, ProgramError> {
        let tool = match (family, programs) {
            (Family::V4, Programs::Plain) => "iptables",
            (Family::V4, Programs::Legacy) => "iptables-legacy",
            (Family::V4, Programs::Nft) => "iptables-nft",
            (Family::V6, Programs::Plain) => "ip6tables",
            (Family::V6, Programs::Legacy) => "ip6tables-legacy",
            (Family::V6, Programs::Nft) => "ip6tables-nft",
        };
        let answer = program::run(tool, family, &["--version"], "", deadline)?;
        let kit = Kit { family, tool, form: form(&answer), version: version(&answer), is_uniform: false };
        debug!("{tool}: {}, version {:?}", kit.form.describe(), kit.version);
        Ok(kit)
    }

    /// The form in which its rules stand.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Whether the program reaches these tables of the kernel.
    pub(super) fn probe(&self, tables: &[TableName], deadline: Instant) -> Result<(), ProgramError> {
        self.with_crate(deadline, |tool| {
            for table in tables {
                let output = tool.execute(table.as_str(), "-S").map_err(trouble)?;
                if !output.status.success() {
                    return Err(Trouble::of(output.status, &output.stdout, &output.stderr));
                }
            }
            Ok(())
        })
    }

    /// Gives `text` to `iptables-restore`.
    pub(super) fn restore(&mut self, text: &str, deadline: Instant) -> Result<(), ProgramError> {
        let program = self.restore_program();
        if !self.is_uniform {
            match program::run(&program, self.family, &["--version"], "", deadline) {
                Ok(answer) if form(&answer) != self.form => return Err(ProgramError::Mixed { tool: self.tool, restore: program }),
                Err(error @ (ProgramError::NotFound { .. } | ProgramError::Overdue { .. })) => return Err(error),
                // Old ones do not tell their version.
                Ok(_) | Err(_) => self.is_uniform = true,
            }
        }
        let wait = format!("--wait={}", wait_seconds(deadline));
        let mut arguments = vec!["--noflush", "--counters"];
        // nf_tables has no lock.
        if self.form == Form::Legacy && self.version >= RESTORE_WAITS {
            arguments.push(&wait);
        }
        debug!("{program} {}\n{text}", arguments.join(" "));
        program::run(&program, self.family, &arguments, text, deadline).map(drop)
    }

    fn restore_program(&self) -> String {
        format!("{}-restore", self.tool)
    }

    /// The name of the program that prints all tables.
    pub(super) fn save_program(&self) -> String {
        format!("{}-save", self.tool)
    }

    /// What that program prints.
    pub(super) fn save(&self, deadline: Instant) -> Result<String, ProgramError> {
        program::run(&self.save_program(), self.family, &[], "", deadline)
    }

    /// Whether the program finds all of `jumps`: an error tells of the first that it does not.
    pub(super) fn check(&self, jumps: &[Jump], deadline: Instant) -> Result<(), ProgramError> {
        self.with_crate(deadline, |tool| {
            for Jump { table, chain, rule, target } in jumps {
                let table = table.as_str();
                // Of what it asks for and does not find, the crate does not say why.
                let why = |command: String| match tool.execute(table, &command).map_err(trouble) {
                    Ok(output) => Trouble::of(output.status, &output.stdout, &output.stderr),
                    Err(trouble) => trouble,
                };
                if !tool.exists(table, chain, rule).map_err(trouble)? {
                    return Err(why(format!("-C {chain} {rule}")));
                }
                if !tool.chain_exists(table, target).map_err(trouble)? {
                    return Err(why(format!("-L {target} -n")));
                }
            }
            Ok(())
        })
    }

    /// Takes out what `steps` name, one by one.
    pub(super) fn remove(&self, steps: &[Step], deadline: Instant) -> Result<(), ProgramError> {
        self.with_crate(deadline, |tool| {
            for step in steps {
                let done = match step {
                    Step::Rule(table, chain, number) => tool.delete(table.as_str(), chain, &number.to_string()),
                    Step::Rules(table, chain) => tool.flush_chain(table.as_str(), chain),
                    Step::Chain(table, chain) => tool.delete_chain(table.as_str(), chain),
                };
                done.map_err(trouble)?;
            }
            Ok(())
        })
    }

    fn with_crate(&self, deadline: Instant, work: impl FnOnce(&IPTables) -> Result<(), Trouble>) -> Result<(), ProgramError> {
        let tool = IPTables { cmd: self.tool, has_check: true, has_wait: self.version >= TOOL_WAITS, is_numeric: true };
        program::supervised(self.tool, self.family, deadline, || work(&tool))
    }
}

/// What the crate's error means.
fn trouble(error: Box<dyn StdError>) -> Trouble {
    if let Some(failed) = error.downcast_ref::<iptables::error::IptablesError>() {
        return Trouble::Failed { code: Some(failed.code), signal: None, text: failed.msg.clone() };
    }
    match error.downcast_ref::<io::Error>() {
        Some(source) if source.kind() == io::ErrorKind::NotFound => Trouble::NotFound,
        _ => Trouble::NotRun(error.to_string()),
    }
}

/// Which packet filter a program says that it is for: `iptables v1.8.9 (nf_tables)`. Before there were two it said nothing.
fn form(answer: &str) -> Form {
    if answer.contains("(nf_tables)") { Form::IptablesNft } else { Form::Legacy }
}

fn version(answer: &str) -> Version {
    let number =
        answer.split_whitespace().find_map(|word| word.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())));
    let mut version = [0; 3];
    for (part, text) in version.iter_mut().zip(number.unwrap_or_default().split('.')) {
        *part = text.parse().unwrap_or_default();
    }
    version
}

/// How long a program may wait for the lock: a little less than until it is stopped, so that it can still say why.
fn wait_seconds(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
    left.as_secs().saturating_sub(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_tells_what_it_is() {
        for (answer, expected) in [
            ("iptables v1.8.9 (nf_tables)\n", (Form::IptablesNft, [1, 8, 9])),
            ("ip6tables v1.8.10 (legacy)\n", (Form::Legacy, [1, 8, 10])),
            ("iptables v1.6.1\n", (Form::Legacy, [1, 6, 1])),
            ("", (Form::Legacy, [0, 0, 0])),
        ] {
            assert_eq!((form(answer), version(answer)), expected, "{answer}");
        }
    }
}
