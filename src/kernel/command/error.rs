//! How a program of the distribution can fail.

use std::fmt;
use std::io;

use crate::ruleset::Family;

/// A program of the distribution that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such program.
    #[error("{program} is not in PATH")]
    NotFound {
        /// Its name.
        program: String,
    },
    /// It could not be started, or not be given its input.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Its name.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed with {ending}{}{line}", if line.is_empty() { "" } else { ": " })]
    Failed {
        /// Its name.
        program: String,
        /// The family whose rules it was for.
        family: Family,
        /// How it ended.
        ending: Ending,
        /// The last line of its output that says anything.
        line: String,
        /// What that means, as far as it is known.
        reason: Reason,
    },
    /// It was at work for too long.
    #[error("{program} did not end before the deadline and was stopped")]
    Overdue {
        /// Its name.
        program: String,
    },
    /// The programs write to different packet filters.
    #[error("{tool} and {restore} are of different kinds: one is for the legacy packet filter, the other for nf_tables")]
    Mixed {
        /// The one that works on single rules.
        tool: &'static str,
        /// The one that works on whole tables.
        restore: String,
    },
    /// A rule that the program does not show as the kernel has it: it could not be put back.
    #[error("{program} does not show the {family} rule {rule}, which is to be replaced and could not be put back")]
    NotShown {
        /// Its name.
        program: String,
        /// The family.
        family: Family,
        /// `nat ISTIO_OUTPUT 3`
        rule: String,
    },
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exit code {code}"),
            Ending::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Why a program failed, by what it said. The programs' exit codes tell hardly more than that they failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel has no such packet filter, or no such table.
    NoFilter,
    /// A privilege is missing.
    Denied,
    /// The same of a program for the legacy packet filter, which needs CAP_NET_RAW besides.
    DeniedLegacy,
    /// The lock file cannot be opened.
    LockFile,
    /// Somebody else held the lock for too long.
    Locked,
    /// Nothing that is known here.
    Other,
}

impl Reason {
    fn of(text: &str) -> Reason {
        const KNOWN: [(&str, Reason); 10] = [
            ("lock file", Reason::LockFile),
            ("xtables lock", Reason::Locked),
            ("must be root", Reason::Denied),
            ("Permission denied", Reason::Denied),
            ("Operation not permitted", Reason::Denied),
            ("do you need to insmod", Reason::NoFilter),
            ("Failed to initialize nft", Reason::NoFilter),
            ("generation id: Invalid argument", Reason::NoFilter),
            ("Address family not supported", Reason::NoFilter),
            ("Protocol not supported", Reason::NoFilter),
        ];
        match KNOWN.into_iter().find(|(words, _)| text.contains(words)).map_or(Reason::Other, |(_, reason)| reason) {
            Reason::Denied if text.contains("can't initialize") => Reason::DeniedLegacy,
            reason => reason,
        }
    }
}

impl ProgramError {
    /// The failure of a program that ended so and wrote `text`.
    pub(super) fn failed(program: &str, family: Family, ending: Ending, text: &str) -> ProgramError {
        let (line, reason) = (last_line(text).to_owned(), Reason::of(text));
        ProgramError::Failed { program: program.to_owned(), family, ending, line, reason }
    }

    /// The failure to start or feed a program.
    pub(super) fn run(program: &str, source: io::Error) -> ProgramError {
        let program = program.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => ProgramError::NotFound { program },
            _ => ProgramError::Run { program, source },
        }
    }

    /// Why it failed, where it said so.
    pub fn reason(&self) -> Reason {
        match self {
            ProgramError::Failed { reason, .. } => *reason,
            _ => Reason::Other,
        }
    }

    /// The family that the kernel has no packet filter for, if that is what is wrong.
    pub fn refused_family(&self) -> Option<Family> {
        match self {
            ProgramError::Failed { family, reason: Reason::NoFilter, .. } => Some(*family),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ProgramError::NotFound { .. } => {
                Some("put the distribution's iptables into the image, or use --backend auto, which needs no program")
            }
            ProgramError::Overdue { .. } => Some("give it more time with --deadline, or use --backend auto, which needs no program"),
            ProgramError::Mixed { .. } => Some("set both with the distribution's update-alternatives"),
            ProgramError::Run { .. } | ProgramError::NotShown { .. } => None,
            ProgramError::Failed { reason, .. } => match reason {
                Reason::NoFilter => Some("load the kernel's modules for it on the node, or use --backend auto"),
                Reason::LockFile => Some("set XTABLES_LOCKFILE to a file that can be written, or use --backend legacy, which needs none"),
                Reason::Locked => Some("find the program that holds the lock, or give more time with --deadline"),
                Reason::Denied | Reason::DeniedLegacy | Reason::Other => None,
            },
        }
    }
}

/// The last line that tells what is wrong: not the advice that the programs put behind it.
fn last_line(text: &str) -> &str {
    const EMPTY: [&str; 4] = ["Try `", "Error occurred at line", "Perhaps ", "# Warning"];
    let tells = |line: &&str| !line.is_empty() && !EMPTY.iter().any(|start| line.starts_with(start));
    text.lines().map(str::trim).rfind(tells).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32, text: &str) -> ProgramError {
        ProgramError::failed("iptables-restore", Family::V6, Ending::Code(code), text)
    }

    #[test]
    fn an_error_names_program_exit_code_and_the_line_that_tells() {
        let text = "# Warning: iptables-legacy tables present\n\
                    iptables-restore v1.8.9 (legacy): Couldn't load match `x':No such file or directory\n\nError occurred at line: 3\n\
                    Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n";
        assert_eq!(
            failure(2, text).to_string(),
            "iptables-restore failed with exit code 2: iptables-restore v1.8.9 (legacy): Couldn't load match `x':No such file or directory"
        );
        assert_eq!(failure(1, "").to_string(), "iptables-restore failed with exit code 1");
        let killed = ProgramError::failed("iptables", Family::V4, Ending::Signal(9), "\n");
        assert_eq!(killed.to_string(), "iptables failed with signal 9");
    }

    #[test]
    fn what_the_programs_say_is_understood() {
        let reasons = [
            ("can't initialize iptables table `nat': Permission denied (you must be root)\nPerhaps iptables …", Reason::DeniedLegacy),
            ("Could not fetch rule set generation id: Permission denied (you must be root)", Reason::Denied),
            ("can't initialize iptables table `nat': Table does not exist (do you need to insmod?)", Reason::NoFilter),
            ("can't initialize ip6tables table `nat': Address family not supported by protocol", Reason::NoFilter),
            ("iptables/1.8.9 Failed to initialize nft: Protocol not supported", Reason::NoFilter),
            ("Fatal: can't open lock file /run/xtables.lock: Permission denied", Reason::LockFile),
            ("Another app is currently holding the xtables lock. Stopped waiting after 1s.", Reason::Locked),
            ("iptables-restore: line 2 failed", Reason::Other),
        ];
        for (text, reason) in reasons {
            assert_eq!(failure(4, text).reason(), reason, "{text}");
            assert_eq!(failure(4, text).refused_family(), Some(Family::V6).filter(|_| reason == Reason::NoFilter));
        }
    }
}
