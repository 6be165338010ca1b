//! The one kernel setting that a mesh may change: how long connection tracking keeps a connection in CLOSE_WAIT.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::Error;

/// The setting's name.
pub const CLOSE_WAIT: &str = "net.netfilter.nf_conntrack_tcp_timeout_close_wait";

/// The network settings of the calling thread's namespace.
const ROOT: &str = "/proc/sys";

/// Sets the seconds that a connection may stay in CLOSE_WAIT. What they were is the result, for a roll-back; nothing
/// is written if they are right already.
pub fn set_close_wait_timeout(seconds: u32) -> Result<u32, Error> {
    set(Path::new(ROOT), CLOSE_WAIT, seconds)
}

/// Whether [`set_close_wait_timeout`] would succeed, as far as that can be told without setting anything.
pub fn check_close_wait_timeout(seconds: u32) -> Result<(), Error> {
    check(Path::new(ROOT), CLOSE_WAIT, seconds).map(drop)
}

fn file(root: &Path, name: &str) -> PathBuf {
    root.join(name.replace('.', "/"))
}

fn read(root: &Path, name: &'static str) -> Result<u32, Error> {
    let text = std::fs::read_to_string(file(root, name)).map_err(|source| Error::Sysctl { doing: "read".to_owned(), name, source })?;
    text.trim().parse().map_err(|_| Error::SysctlValue { name, text: text.trim().to_owned() })
}

fn set(root: &Path, name: &'static str, value: u32) -> Result<u32, Error> {
    let (before, file) = check(root, name, value)?;
    if let Some(mut file) = file {
        io::Write::write_all(&mut file, value.to_string().as_bytes()).map_err(|source| unwritten(name, value, source))?;
    }
    Ok(before)
}

/// What the setting is, and where it is to be written if that is not `value`. It is not created: what is not there
/// cannot be set.
fn check(root: &Path, name: &'static str, value: u32) -> Result<(u32, Option<File>), Error> {
    let before = read(root, name)?;
    if before == value {
        return Ok((before, None));
    }
    let opened = OpenOptions::new().write(true).open(file(root, name));
    opened.map(|file| (before, Some(file))).map_err(|source| unwritten(name, value, source))
}

fn unwritten(name: &'static str, value: u32, source: io::Error) -> Error {
    Error::Sysctl { doing: format!("write {value} to"), name, source }
}

/// What to do about a setting that cannot be read or written.
pub(super) fn hint(name: &str, error: &io::Error) -> Option<String> {
    Some(match Errno::from_raw(error.raw_os_error()?) {
        Errno::EROFS => format!(
            "/proc/sys is read-only in an unprivileged container: set {name} in the pod's securityContext.sysctls \
             (the kubelet has to allow it) or on the node, or run the container privileged"
        ),
        Errno::EACCES | Errno::EPERM => {
            format!("run as uid 0 with CAP_NET_ADMIN, or set {name} in the pod's securityContext.sysctls or on the node")
        }
        Errno::ENOENT => "connection tracking is not in the kernel: load nf_conntrack on the node, or build the kernel with \
             CONFIG_NF_CONNTRACK=y and CONFIG_SYSCTL=y"
            .to_owned(),
        Errno::EINVAL => "the kernel takes whole seconds up to 2147483".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_new_namespace, run};

    #[test]
    fn the_timeout_is_written_into_this_namespace() {
        in_new_namespace("close wait", |_| {
            let before = read(Path::new(ROOT), CLOSE_WAIT).unwrap();
            assert_eq!(set_close_wait_timeout(before + 7).unwrap(), before);
            assert_eq!(read(Path::new(ROOT), CLOSE_WAIT).unwrap(), before + 7);
            assert_eq!(run("cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").trim(), (before + 7).to_string());
            assert_eq!(set_close_wait_timeout(before).unwrap(), before + 7);
            let error = set_close_wait_timeout(u32::MAX).unwrap_err();
            assert_eq!(
                error.to_string(),
                "cannot write 4294967295 to net.netfilter.nf_conntrack_tcp_timeout_close_wait: Invalid argument (os error 22)"
            );
            assert_eq!(error.hint().as_deref(), Some("the kernel takes whole seconds up to 2147483"));
        });
    }

    #[test]
    fn a_setting_that_is_not_there_says_what_is_missing() {
        let error = read(Path::new("/nonexistent"), CLOSE_WAIT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read net.netfilter.nf_conntrack_tcp_timeout_close_wait: No such file or directory (os error 2)"
        );
        assert!(error.hint().unwrap().starts_with("connection tracking is not in the kernel"));
    }

    #[test]
    fn a_read_only_or_forbidden_setting_says_what_to_set() {
        for (errno, start) in [(Errno::EROFS, "/proc/sys is read-only"), (Errno::EACCES, "run as uid 0")] {
            let source = io::Error::from(errno);
            let error = Error::Sysctl { doing: "write 30 to".to_owned(), name: CLOSE_WAIT, source };
            let hint = error.hint().unwrap();
            assert!(hint.starts_with(start), "{hint}");
            assert!(hint.contains("set net.netfilter.nf_conntrack_tcp_timeout_close_wait in the pod's securityContext.sysctls"), "{hint}");
        }
    }
}
