//! Why something around the program could not be read or changed.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::kernel_release::Deadlock;
use super::missing_capability::MissingNetAdmin;
use super::user_namespace::ForeignNamespace;

/// A failure of the surroundings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file is unreasonably long.
    #[error("cannot read {path}: it is longer than the {limit} bytes that such a file may have", path = path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// How long it may be.
        limit: u64,
    },
    /// `CAP_NET_ADMIN` is not there.
    #[error("CAP_NET_ADMIN is missing: {0}")]
    NetAdmin(MissingNetAdmin),
    /// The kernel refuses although `CAP_NET_ADMIN` is effective.
    #[error("the kernel refuses CAP_NET_ADMIN: {0}")]
    ForeignNamespace(ForeignNamespace),
    /// The proxy would hang on this kernel.
    #[error("kernel {release}: {why}")]
    Deadlock {
        /// The release.
        release: String,
        /// The fault.
        why: Deadlock,
    },
    /// The capabilities could not be read or changed.
    #[error("cannot {doing}: {reason}")]
    Capabilities {
        /// What was being done.
        doing: &'static str,
        /// The reason in the words of the library.
        reason: String,
    },

    /// There is no file at a namespace's path.
    #[error("no network namespace {path}: there is no such file", path = path.display())]
    NoSuchNamespace {
        /// The path.
        path: PathBuf,
    },
    /// A namespace's file could not be opened.
    #[error("cannot open the network namespace {path}: {errno}", path = path.display())]
    OpenNamespace {
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
    /// What is at the path is no namespace.
    #[error("{path} is not a namespace", path = path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// What is at the path is a namespace of another kind.
    #[error("{path} is a namespace, but not a network namespace", path = path.display())]
    NotANetworkNamespace {
        /// The path.
        path: PathBuf,
    },
    /// Entering a namespace takes another capability.
    #[error("cannot enter the network namespace {path}: --netns needs CAP_SYS_ADMIN", path = path.display())]
    NamespaceNotPermitted {
        /// The path.
        path: PathBuf,
    },
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {path}: {errno}", path = path.display())]
    EnterNamespace {
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },

    /// A kernel setting could not be read or written.
    #[error("cannot {doing} {name}: {source}")]
    Sysctl {
        /// What was being done: `read`, or `write 30 to`.
        doing: String,
        /// The setting's name, with dots.
        name: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A kernel setting holds no number.
    #[error("cannot read {name}: {text:?} is not a number")]
    SysctlValue {
        /// The setting's name, with dots.
        name: &'static str,
        /// What it holds.
        text: String,
    },
}

impl Error {
    /// What to do about it, where that can be said: a sentence without full stop, to be put after the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NetAdmin(missing) => missing.hint().map(str::to_owned),
            Error::Deadlock { why, .. } => Some(why.hint()),
            Error::ForeignNamespace(foreign) => Some(foreign.hint().to_owned()),
            Error::NoSuchNamespace { .. } | Error::NotANamespace { .. } | Error::NotANetworkNamespace { .. } => {
                Some("pass the file of a network namespace, such as /run/netns/NAME or /proc/PID/ns/net".to_owned())
            }
            Error::OpenNamespace { errno: Errno::EACCES | Errno::EPERM, .. } => Some(
                "the namespace of another user's process is only open to root with CAP_SYS_PTRACE; use a file in /run/netns".to_owned(),
            ),
            Error::NamespaceNotPermitted { .. } => {
                Some("add SYS_ADMIN to securityContext.capabilities.add, or start mesh-init in that namespace".to_owned())
            }
            Error::Sysctl { name, source, .. } => super::sysctl::hint(name, source),
            _ => None,
        }
    }
}
