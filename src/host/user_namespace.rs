//! Why the kernel says EPERM although CAP_NET_ADMIN is effective: a capability counts only for what the user
//! namespace of its holder owns.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{fstat, stat};

/// How the network namespace is another user namespace's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignNamespace {
    /// The kernel says whose the network namespace is: not ours.
    #[error("the network namespace belongs to another user namespace than the program's")]
    Owned,
    /// The kernel cannot be asked, but the program is in a user namespace.
    #[error("the program is in a user namespace, and the network namespace seems to belong to another one")]
    Likely,
}

impl ForeignNamespace {
    /// Whether the calling thread's network namespace is not its user namespace's. Worth asking when the kernel says
    /// EPERM although CAP_NET_ADMIN is effective; if the answer is `None`, a security module or seccomp is left.
    pub fn find_out() -> Option<ForeignNamespace> {
        match ours() {
            Some(true) => None,
            Some(false) => Some(ForeignNamespace::Owned),
            None => {
                let map = std::fs::read_to_string("/proc/thread-self/uid_map").ok()?;
                (!is_identity(&map)).then_some(ForeignNamespace::Likely)
            }
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        "run the pod without a user namespace (hostUsers: true); in a Kata guest the network belongs to the guest itself"
    }
}

/// Whether `map`, in the form of `/proc/PID/uid_map`, has a user of the number `id`: nobody can be another user.
pub fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => (first..first.saturating_add(count)).contains(&u64::from(id)),
            _ => false,
        }
    })
}

/// Whether `map`, in the form of `/proc/PID/uid_map`, changes no user's number: the initial user namespace's does not.
fn is_identity(map: &str) -> bool {
    let fields: Vec<&str> = map.split_whitespace().collect();
    fields == ["0", "0", "4294967295"]
}

/// Whether the network namespace is the user namespace's own; `None` if the kernel cannot tell.
fn ours() -> Option<bool> {
    let net = File::open("/proc/thread-self/ns/net").ok()?;
    match owner(&net) {
        Ok(owner) => {
            let (owner, own) = (fstat(&owner).ok()?, stat("/proc/thread-self/ns/user").ok()?);
            Some((owner.st_dev, owner.st_ino) == (own.st_dev, own.st_ino))
        }
        // It is one that we may not even look at.
        Err(Errno::EPERM) => Some(false),
        Err(_) => None,
    }
}

/// The user namespace that owns `namespace`.
#[doc(alias = "NS_GET_USERNS")]
fn owner(namespace: &impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), libc::NS_GET_USERNS) })?;
    // SAFETY: the kernel has just opened this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{Rerun, case, in_new_namespace, is_root};

    #[test]
    fn the_initial_map_is_told_from_others() {
        assert!(is_identity("         0          0 4294967295\n"));
        for map in ["", "0 1000 1\n", "0 100000 65536\n", "0 0 65536\n", "0 0 4294967295\n1 1 1\n"] {
            assert!(!is_identity(map), "{map:?}");
        }
    }

    #[test]
    fn users_are_mapped_line_by_line() {
        let pod = "0 100000 65536\n70000 200000 2\n";
        for (id, expected) in [(0, true), (1337, true), (65535, true), (65536, false), (70001, true), (70002, false), (u32::MAX, false)] {
            assert_eq!(is_mapped(pod, id), expected, "{id}");
        }
        assert!(is_mapped("0 0 4294967295\n", u32::MAX - 1));
        for map in ["", "x y z\n", "0 0\n"] {
            assert!(!is_mapped(map, 0), "{map:?}");
        }
    }

    #[test]
    fn a_namespace_of_our_own_is_ours() {
        in_new_namespace("own namespace", |_| assert_eq!(ForeignNamespace::find_out(), None));
    }

    #[test]
    fn a_network_namespace_from_outside_the_user_namespace_is_not() {
        // The kernel moves no process of several threads into a new user namespace, so this takes another process.
        match case().as_deref() {
            Some("outside") => assert_eq!(ForeignNamespace::find_out(), Some(ForeignNamespace::Owned)),
            Some(_) => assert_eq!(ForeignNamespace::find_out(), None),
            None if is_root("user namespaces") => {
                let name = "host::user_namespace::tests::a_network_namespace_from_outside_the_user_namespace_is_not";
                let rerun = Rerun::new();
                rerun.run("unshare -U -r", name, "outside");
                rerun.run("unshare -U -r -n", name, "inside");
            }
            None => {}
        }
    }
}
