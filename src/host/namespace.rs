//! Going into another network namespace.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::Error;

/// Moves the calling thread into the network namespace at `path`. Needs CAP_SYS_ADMIN, so that it comes before
/// capabilities are given up; sockets that are open already stay where they are.
#[doc(alias = "setns")]
pub fn enter(path: &Path) -> Result<(), Error> {
    let owned = || path.to_owned();
    // Not waiting: the path may be a pipe's.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => Error::NoSuchNamespace { path: owned() },
        errno => Error::OpenNamespace { path: owned(), errno },
    })?;
    // Namespaces are files of a file system of their own; a name in /run/netns whose mount is gone is an empty file.
    if !fstatfs(&file).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC) {
        return Err(Error::NotANamespace { path: owned() });
    }
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EINVAL => Error::NotANetworkNamespace { path: owned() },
        Errno::EPERM => Error::NamespaceNotPermitted { path: owned() },
        errno => Error::EnterNamespace { path: owned(), errno },
    })
}

#[cfg(test)]
mod tests {
    use std::fs::read_link;

    use super::*;
    use crate::host::testing::in_new_namespace;

    fn message(path: &str) -> String {
        enter(Path::new(path)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_network_namespace_is_named_for_what_it_is() {
        assert_eq!(message("/nonexistent/ns"), "no network namespace /nonexistent/ns: there is no such file");
        assert_eq!(message("/proc/self/status/x"), "no network namespace /proc/self/status/x: there is no such file");
        assert_eq!(message("/proc/self/status"), "/proc/self/status is not a namespace");
        assert_eq!(message("/"), "/ is not a namespace");
        assert_eq!(message("/dev/null"), "/dev/null is not a namespace");
        assert_eq!(message("/proc/self/ns/uts"), "/proc/self/ns/uts is a namespace, but not a network namespace");
    }

    #[test]
    fn the_thread_goes_into_the_namespace_and_only_with_sys_admin() {
        let name = || read_link("/proc/thread-self/ns/net").unwrap();
        in_new_namespace("enter", |_| {
            let inside = name();
            enter(Path::new("/proc/self/ns/net")).unwrap();
            assert_ne!(name(), inside);
            caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap();
            assert_eq!(
                message("/proc/thread-self/ns/net"),
                "cannot enter the network namespace /proc/thread-self/ns/net: --netns needs CAP_SYS_ADMIN"
            );
        });
    }
}
