//! How a run ends: exit codes, and one line that says what failed, why, and what to do about it.

use std::fmt;

use crate::host::{self, capability, user_namespace::ForeignNamespace};
#[cfg(feature = "iptables-command")]
use crate::kernel::command::Reason;
use crate::kernel::route::RouteError;
use crate::kernel::{self, Cause, NftCause};
use crate::mesh;

/// Exit codes of mesh-init's own verbs. In a confidential guest the code may be all that gets out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    /// Done.
    Done = 0,
    /// Failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The kernel differs from the plan.
    Differs = 3,
    /// Preflight says that it cannot work.
    CannotWork = 4,
    /// CAP_NET_ADMIN is missing.
    NoCapability = 10,
    /// The kernel refuses because of a user namespace.
    UserNamespace = 11,
    /// The kernel has no packet filter.
    NoFilter = 12,
    /// The packet filter lacks something that is needed.
    NoFeature = 13,
    /// Other programs kept changing the rules.
    Contended = 14,
    /// On this kernel SO_ORIGINAL_DST deadlocks.
    Deadlock = 15,
    /// `--run-validation` failed, with istio-iptables' own code for it.
    Invalid = 126,
}

/// A run that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>, hint: Option<String>) -> Failure {
        Failure { code, message: message.into(), hint }
    }

    /// What failed and why, and what to do about it.
    pub(super) fn parts(&self) -> (&str, &str) {
        (&self.message, self.hint.as_deref().unwrap_or_default())
    }

    /// What an error of the kernel's comes to.
    pub(super) fn of_kernel(error: &kernel::Error) -> Failure {
        let code = match error.root() {
            root if root.is_denied() => return denied(error),
            root => code_of(root),
        };
        Failure::new(code, error.to_string(), error.hint())
    }

    /// The same failure, of what `subject` names.
    pub(super) fn about(self, subject: &str) -> Failure {
        Failure { message: format!("{subject}: {}", self.message), ..self }
    }

    /// The same failure, with what brings it about if that is known.
    pub(super) fn because(self, cause: Option<String>) -> Failure {
        match cause {
            Some(cause) => Failure { message: format!("{}; {cause}", self.message), ..self },
            None => self,
        }
    }

    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, message, None)
    }
}

/// Always one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace('\n', " "))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl From<mesh::Error> for Failure {
    fn from(error: mesh::Error) -> Failure {
        let code = match &error {
            mesh::Error::BadValue(_) | mesh::Error::MissingPort { .. } => Code::Usage,
            mesh::Error::NoLocalAddress | mesh::Error::DnsServers { .. } => Code::Failed,
        };
        Failure::new(code, error.to_string(), None)
    }
}

impl From<host::Error> for Failure {
    fn from(error: host::Error) -> Failure {
        let code = match &error {
            host::Error::NetAdmin(_) => Code::NoCapability,
            host::Error::ForeignNamespace(_) => Code::UserNamespace,
            host::Error::Deadlock { .. } => Code::Deadlock,
            _ => Code::Failed,
        };
        Failure::new(code, error.to_string(), error.hint())
    }
}

impl From<kernel::Error> for Failure {
    fn from(error: kernel::Error) -> Failure {
        Failure::of_kernel(&error)
    }
}

fn code_of(error: &kernel::Error) -> Code {
    match error {
        kernel::Error::Table { cause: Cause::NoFamily | Cause::NoFilter, .. }
        | kernel::Error::Nftables { cause: NftCause::Absent(_), .. } => Code::NoFilter,
        kernel::Error::Table { cause: Cause::NoTable | Cause::NoFeature(_), .. }
        | kernel::Error::Nftables { cause: NftCause::Missing { .. }, .. }
        | kernel::Error::Route(RouteError::NoPolicyRouting { .. }) => Code::NoFeature,
        // A packet filter that lacks something is nearer to what is needed than one that is not there.
        kernel::Error::Nowhere { reasons, .. } => {
            let mut nearer = reasons.iter().map(code_of).filter(|code| *code != Code::NoFilter);
            match (nearer.next(), nearer.next()) {
                (None, _) => Code::NoFilter,
                (Some(only), None) => only,
                _ => Code::NoFeature,
            }
        }
        #[cfg(feature = "iptables-command")]
        kernel::Error::Program(program) => match program.reason() {
            Reason::NoFilter => Code::NoFilter,
            Reason::Locked => Code::Contended,
            _ => Code::Failed,
        },
        kernel::Error::Contended { .. } | kernel::Error::NftablesContended | kernel::Error::NotHeld { .. } => Code::Contended,
        _ => Code::Failed,
    }
}

/// EPERM: without the capability the reason is on our side, with it on the namespace's.
fn denied(error: &kernel::Error) -> Failure {
    if let Err(missing) = capability::raise_net_admin() {
        let Failure { code, message, hint } = missing.into();
        return Failure::new(code, format!("{error}: {message}"), hint);
    }
    #[cfg(feature = "iptables-command")]
    if matches!(error.root(), kernel::Error::Program(program) if program.reason() == Reason::DeniedLegacy) && !capability::has_net_raw() {
        return Failure::new(
            Code::NoCapability,
            format!("{error}: iptables-legacy needs CAP_NET_RAW besides, which is missing"),
            Some("add NET_RAW to securityContext.capabilities.add, or use --backend legacy, which needs NET_ADMIN alone".to_owned()),
        );
    }
    match ForeignNamespace::find_out() {
        Some(foreign) => Failure::new(Code::UserNamespace, format!("{error}: {foreign}"), Some(foreign.hint().to_owned())),
        None => Failure::new(
            Code::Failed,
            format!("{error} although the capability is effective"),
            Some("look for a security module (SELinux, AppArmor) or a seccomp profile that denies it".to_owned()),
        ),
    }
}
