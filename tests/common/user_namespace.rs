//! User namespaces of the tests' own, and network namespaces that belong to them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A user namespace in which users and groups 0 to 65535 are themselves and nobody else is. It has a network namespace
/// of its own. Both live as long as this.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    holder: Child,
}

impl UserNamespace {
    pub(crate) fn new() -> UserNamespace {
        let holder = Command::new("unshare").args(["-U", "-n", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let namespace = UserNamespace { holder };
        let give_up = Instant::now() + Duration::from_secs(5);
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        // The network namespace is made after the user namespace.
        while fs::read_link(namespace.file("net")).unwrap() == ours {
            assert!(Instant::now() < give_up, "no user namespace can be made here");
            std::thread::sleep(Duration::from_millis(2));
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", namespace.pid()), "0 0 65536\n").unwrap();
        }
        namespace
    }

    /// The process that keeps it alive.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// What `nsenter --user` takes.
    pub(crate) fn path(&self) -> PathBuf {
        self.file("user")
    }

    fn file(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.pid()))
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
