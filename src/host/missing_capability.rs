//! Why CAP_NET_ADMIN is missing. A container runtime, the user and the program's file all have a say in it, and what
//! to do depends on which of them said no.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::statvfs::{FsFlags, statvfs};

/// CAP_NET_ADMIN in a mask of capabilities.
const NET_ADMIN: u64 = 1 << 12;

/// The program's own file.
const PROGRAM: &std::ffi::CStr = c"/proc/self/exe";

/// Who refused CAP_NET_ADMIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingNetAdmin {
    /// It is not in the bounding set.
    #[error("it was not granted to this container")]
    NotGranted,
    /// The user is not root, and the program's file has no capability to give.
    #[error("it was granted, but user {uid} is not root and the program has no file capability, so that it is not effective")]
    NotEffective {
        /// The effective user.
        uid: u32,
    },
    /// The user is not root, and the program's file system shows no file capabilities.
    #[error(
        "it was granted, but user {uid} is not root and the program's file system shows no extended attributes \
         (as virtiofs without xattr), so that no file capability is seen"
    )]
    NoAttributes {
        /// The effective user.
        uid: u32,
    },
    /// The program's file has the capability, and its mount does not let it count.
    #[error("it was granted and the program has the file capability, but the program's file system is mounted nosuid")]
    Nosuid,
    /// The program's file has the capability, but no program may gain anything, and the runtime left nothing permitted.
    #[error("it was granted and the program has the file capability, but no_new_privs is set and the runtime left no permitted capability")]
    NoNewPrivs,
    /// The program's file has the capability, and the kernel gave it nothing for another reason.
    #[error("it was granted and the program has the file capability, but the kernel did not honour it")]
    NotHonoured,
    /// Root in its container, with the capability granted, and yet without it.
    #[error("it was granted and the user is root, but whatever started the program took it away{}", if *no_new_privs { " under no_new_privs" } else { "" })]
    TakenFromRoot {
        /// Whether no_new_privs is set.
        no_new_privs: bool,
    },
    /// There is no /proc to look at.
    #[error("the reason is hidden because /proc/thread-self/status cannot be read")]
    Unknown,
}

impl MissingNetAdmin {
    /// Finds out by looking at this thread and the program's file.
    pub fn find_out() -> MissingNetAdmin {
        let Ok(status) = Status::read() else { return MissingNetAdmin::Unknown };
        MissingNetAdmin::from(&status, file_capability(), on_nosuid_mount())
    }

    fn from(status: &Status, file: FileCapability, nosuid: bool) -> MissingNetAdmin {
        let uid = status.effective_uid;
        let no_new_privs = status.no_new_privs;
        if status.bounding & NET_ADMIN == 0 {
            return MissingNetAdmin::NotGranted;
        }
        if uid == 0 {
            return MissingNetAdmin::TakenFromRoot { no_new_privs };
        }
        match file {
            FileCapability::NoAttributes => MissingNetAdmin::NoAttributes { uid },
            FileCapability::Absent => MissingNetAdmin::NotEffective { uid },
            FileCapability::Present if nosuid => MissingNetAdmin::Nosuid,
            FileCapability::Present if no_new_privs => MissingNetAdmin::NoNewPrivs,
            FileCapability::Present => MissingNetAdmin::NotHonoured,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            MissingNetAdmin::NotGranted => "add NET_ADMIN to securityContext.capabilities.add",
            MissingNetAdmin::NotEffective { .. } => "run as uid 0, or put the capability on the program (setcap cap_net_admin+p)",
            MissingNetAdmin::NoAttributes { .. } => "run as uid 0, or turn extended attributes on for the file system",
            MissingNetAdmin::Nosuid => "run as uid 0, or from a file system that is not mounted nosuid",
            MissingNetAdmin::NoNewPrivs => "run as uid 0, or set securityContext.allowPrivilegeEscalation to true",
            MissingNetAdmin::NotHonoured => "run as uid 0",
            MissingNetAdmin::TakenFromRoot { .. } => "start the program with CAP_NET_ADMIN in its permitted set",
            MissingNetAdmin::Unknown => return None,
        })
    }
}

/// What /proc tells of a thread's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The effective user.
    pub effective_uid: u32,
    /// `CapInh`
    pub inheritable: u64,
    /// `CapPrm`
    pub permitted: u64,
    /// `CapEff`
    pub effective: u64,
    /// `CapBnd`
    pub bounding: u64,
    /// `CapAmb`; 0 on kernels that have no such set.
    pub ambient: u64,
    /// `NoNewPrivs`; false on kernels that do not tell.
    pub no_new_privs: bool,
}

impl Status {
    /// The calling thread's.
    pub fn read() -> io::Result<Status> {
        Status::parse(&std::fs::read_to_string("/proc/thread-self/status")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What `text`, in the form of `/proc/PID/status`, says.
    pub fn parse(text: &str) -> Option<Status> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let set = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Status {
            // Real, effective, saved, file system.
            effective_uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            ambient: set("CapAmb").unwrap_or(0),
            no_new_privs: field("NoNewPrivs") == Some("1"),
        })
    }
}

/// What the program's file has to say of CAP_NET_ADMIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileCapability {
    /// The file system has no extended attributes, or hides them.
    NoAttributes,
    /// The file permits no CAP_NET_ADMIN.
    Absent,
    /// The file permits it.
    Present,
}

/// What `data`, the file attribute `security.capability`, says. Its form is `struct vfs_cap_data`: the revision and
/// flags, then for each half of the capabilities the permitted and the inheritable ones, all little endian.
#[doc(alias = "vfs_cap_data")]
fn parse_file_capability(data: &[u8]) -> FileCapability {
    /// The lengths of revisions 1 to 3; the third ends with the user namespace's root.
    const LENGTHS: [usize; 3] = [12, 20, 24];
    let permitted = data.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    let known = LENGTHS.contains(&data.len());
    if known && u64::from(permitted) & NET_ADMIN != 0 { FileCapability::Present } else { FileCapability::Absent }
}

/// Reads an extended attribute of a file into `value`; how long it is is the result.
fn attribute(path: &std::ffi::CStr, name: &std::ffi::CStr, value: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: both names end with NUL and outlive the call; the kernel writes at most value.len() bytes into value.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(Errno::result(len)?).map_err(|_| Errno::EIO)
}

fn file_capability() -> FileCapability {
    let mut data = [0; 64];
    match attribute(PROGRAM, c"security.capability", &mut data) {
        Ok(len) => parse_file_capability(data.get(..len).unwrap_or_default()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => FileCapability::NoAttributes,
        Err(_) => FileCapability::Absent,
    }
}

fn on_nosuid_mount() -> bool {
    statvfs(PROGRAM).is_ok_and(|found| found.flags().contains(FsFlags::ST_NOSUID))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBERNETES_NON_ROOT: &str = "Name:\tmesh-init\nUmask:\t0022\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000001000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\n";

    fn status(text: &str) -> Status {
        Status::parse(text).unwrap()
    }

    #[test]
    fn status_is_read_field_by_field() {
        assert_eq!(
            status(KUBERNETES_NON_ROOT),
            Status {
                effective_uid: 65534,
                inheritable: 0,
                permitted: 0,
                effective: 0,
                bounding: NET_ADMIN,
                ambient: 0,
                no_new_privs: true
            }
        );
        assert_eq!(Status::parse("Uid:\t0\n"), None);
        assert_eq!(Status::parse(&KUBERNETES_NON_ROOT.replace("CapBnd:\t0", "CapBnd:\tx")), None);
        let old_kernel: String =
            KUBERNETES_NON_ROOT.lines().filter(|line| !line.starts_with("CapAmb")).fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(status(&old_kernel), status(KUBERNETES_NON_ROOT));
        assert!(Status::read().is_ok());
    }

    #[test]
    fn each_cause_is_told_apart() {
        use FileCapability::{Absent, NoAttributes, Present};
        let user = status(KUBERNETES_NON_ROOT);
        let root = Status { effective_uid: 0, ..user };
        let may_gain = Status { no_new_privs: false, ..user };
        for (status, file, nosuid, expected) in [
            (Status { bounding: !NET_ADMIN, ..user }, Present, false, MissingNetAdmin::NotGranted),
            (Status { bounding: 0, ..root }, Absent, false, MissingNetAdmin::NotGranted),
            (user, Absent, false, MissingNetAdmin::NotEffective { uid: 65534 }),
            (user, NoAttributes, false, MissingNetAdmin::NoAttributes { uid: 65534 }),
            (user, Present, false, MissingNetAdmin::NoNewPrivs),
            (user, Present, true, MissingNetAdmin::Nosuid),
            (may_gain, Present, false, MissingNetAdmin::NotHonoured),
            (root, Absent, false, MissingNetAdmin::TakenFromRoot { no_new_privs: true }),
        ] {
            assert_eq!(MissingNetAdmin::from(&status, file, nosuid), expected);
        }
    }

    #[test]
    fn a_message_says_what_and_the_hint_what_to_do() {
        let error = crate::host::Error::NetAdmin(MissingNetAdmin::NotEffective { uid: 65534 });
        assert_eq!(
            error.to_string(),
            "CAP_NET_ADMIN is missing: it was granted, but user 65534 is not root and the program has no file capability, so that it is not effective"
        );
        assert_eq!(error.hint().as_deref(), Some("run as uid 0, or put the capability on the program (setcap cap_net_admin+p)"));
    }

    #[test]
    fn file_capabilities_are_read_in_every_revision() {
        // cap_net_admin+p and cap_net_admin,cap_net_raw+eip as setcap writes them.
        let permitted = [0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let both = [1, 0, 0, 2, 0, 0x30, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse_file_capability(&permitted), FileCapability::Present);
        assert_eq!(parse_file_capability(&both), FileCapability::Present);
        assert_eq!(parse_file_capability(&[&permitted[..], &[0; 4]].concat()), FileCapability::Present);
        let raw_only = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let inheritable_only = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for data in [&raw_only[..], &inheritable_only, &permitted[..19], &[]] {
            assert_eq!(parse_file_capability(data), FileCapability::Absent);
        }
    }

    #[test]
    fn the_programs_own_file_can_be_asked() {
        assert_ne!(file_capability(), FileCapability::Present);
        assert_eq!(attribute(c"/nonexistent", c"security.capability", &mut []), Err(Errno::ENOENT));
    }

    /// The launcher that a container runtime is for a user other than root, with `more` options.
    fn as_user(bounding: &str, more: &str) -> String {
        format!("setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all{bounding} {more}")
    }

    #[test]
    fn the_kernel_and_we_agree_on_who_refused() {
        use crate::host::testing::{Rerun, case, is_root, run};
        use crate::host::{Error, capability};
        let Some(case) = case() else {
            if is_root("causes of a missing capability") {
                let name = "host::missing_capability::tests::the_kernel_and_we_agree_on_who_refused";
                let rerun = Rerun::new();
                rerun.run(&as_user("", ""), name, "not-granted");
                rerun.run(&as_user(",+net_admin", "--no-new-privs"), name, "not-effective");
                run(&format!("setcap cap_net_admin+p {}", rerun.program().display()));
                rerun.run(&as_user(",+net_admin", ""), name, "granted");
                // Leaves the permitted set as it was for root, as runc does.
                rerun.run(&as_user(",+net_admin", "--no-new-privs"), name, "granted");
                // Leaves none of it, since the second setpriv has no file capability.
                rerun.run(&as_user(",+net_admin", "--no-new-privs setpriv --no-new-privs"), name, "no-new-privs");
                let directory = rerun.program().parent().unwrap().display().to_string();
                let nosuid = format!(
                    "unshare -m --propagation private sh -ec 'mount --bind {directory} {directory};                      mount -o remount,bind,nosuid {directory}; exec {} \"$@\"' sh",
                    as_user(",+net_admin", "")
                );
                rerun.run(&nosuid, name, "nosuid");
            }
            return;
        };
        let expected = match case.as_str() {
            "granted" => {
                capability::raise_net_admin().unwrap();
                assert!(capability::has_net_admin().unwrap());
                return;
            }
            "not-granted" => MissingNetAdmin::NotGranted,
            "not-effective" => MissingNetAdmin::NotEffective { uid: 65534 },
            "no-new-privs" => MissingNetAdmin::NoNewPrivs,
            _ => MissingNetAdmin::Nosuid,
        };
        match capability::raise_net_admin() {
            Err(Error::NetAdmin(missing)) => assert_eq!(missing, expected),
            other => panic!("{case}: {other:?}"),
        }
    }
}
