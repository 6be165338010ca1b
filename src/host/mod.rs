//! The machine around the program: capabilities, namespaces, files, settings. Everything a plan needs to know of it is
//! gathered once into [`Surroundings`].

pub mod capability;
mod error;
pub mod files;
pub mod listeners;
pub mod missing_capability;
pub mod namespace;
pub mod probe;
pub mod resolv_conf;
pub mod start;
pub mod sysctl;
pub mod termination_log;
#[cfg(test)]
pub(crate) mod testing;
pub mod user_namespace;

use std::net::IpAddr;
use std::path::Path;

pub use error::Error;

/// What a plan may depend on besides its options. Facts that could not be learnt hold the reason; only a plan that
/// needs them fails.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Local addresses in the kernel's order (all IPv4, then all IPv6), loopback and link-local ones included.
    pub addresses: Vec<IpAddr>,
    /// Addresses after `nameserver` in resolv.conf, in order; or why they are not known.
    pub dns_servers: Option<Result<Vec<IpAddr>, String>>,
    /// The text of the group file (group(5)); or why it is not known.
    pub groups: Option<Result<String, String>>,
    /// The text of the password file (passwd(5)), where there is one.
    pub users: Option<String>,
}

/// Where [`Surroundings`] come from.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// The local addresses.
    pub addresses: Vec<IpAddr>,
    /// Servers to take instead of those in resolv.conf.
    pub dns_servers: Option<Vec<IpAddr>>,
    /// The resolver's configuration; `None`: not needed.
    pub resolv_conf: Option<&'a Path>,
    /// The group file; `None`: not needed.
    pub group_file: Option<&'a Path>,
    /// The password file; `None`: not needed.
    pub passwd_file: Option<&'a Path>,
}

impl Default for Sources<'_> {
    /// No addresses, and the files in `/etc`.
    fn default() -> Self {
        Sources {
            addresses: Vec::new(),
            dns_servers: None,
            resolv_conf: Some(Path::new("/etc/resolv.conf")),
            group_file: Some(Path::new("/etc/group")),
            passwd_file: Some(Path::new("/etc/passwd")),
        }
    }
}

impl Surroundings {
    /// Reads every file once. One that cannot be read may not be needed, and is no failure.
    pub fn gather(sources: &Sources<'_>) -> Surroundings {
        let dns_servers = match (&sources.dns_servers, sources.resolv_conf) {
            (Some(servers), _) => Some(Ok(servers.clone())),
            (None, path) => path.map(|path| resolv_conf::read(path).map_err(|error| error.to_string())),
        };
        Surroundings {
            addresses: sources.addresses.clone(),
            dns_servers,
            groups: sources.group_file.map(|path| files::read_text(path).map_err(|error| error.to_string())),
            users: sources.passwd_file.and_then(|path| files::read_text(path).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_files_are_reasons_and_not_failures() {
        let nowhere = Path::new("/nonexistent/file");
        let addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap()];
        let sources = Sources {
            addresses: addresses.clone(),
            dns_servers: None,
            resolv_conf: Some(nowhere),
            group_file: Some(nowhere),
            passwd_file: Some(nowhere),
        };
        let found = Surroundings::gather(&sources);
        let reason = "cannot read /nonexistent/file: No such file or directory (os error 2)";
        assert_eq!(found.addresses, addresses);
        assert_eq!(found.dns_servers, Some(Err(reason.to_owned())));
        assert_eq!(found.groups, Some(Err(reason.to_owned())));
        assert_eq!(found.users, None);
    }

    #[test]
    fn given_servers_are_taken_and_files_that_are_not_needed_are_not_read() {
        let servers: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap()];
        let sources =
            Sources { dns_servers: Some(servers.clone()), resolv_conf: None, group_file: None, passwd_file: None, ..Sources::default() };
        let found = Surroundings::gather(&sources);
        assert_eq!(found.dns_servers, Some(Ok(servers)));
        assert_eq!((found.groups, found.users), (None, None));
    }
}
