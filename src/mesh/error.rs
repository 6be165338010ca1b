//! Why there is no plan.

use super::flag::BadValue;

/// A mesh's options cannot be understood, or cannot be planned in these surroundings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A flag or variable has a value that it does not take.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// One of Linkerd's two ports, which have no default, was not given.
    #[error("--{flag} must be a valid TCP port number (1 to 65535), and it was not given")]
    MissingPort {
        /// The port's flag.
        flag: &'static str,
    },
    /// The pod has no address by which the family of its traffic could be told.
    #[error(
        "no valid local IP address found: loopback and link-local addresses do not count; give the pod's interface an address first, \
         or name one with --pod-ip"
    )]
    NoLocalAddress,
    /// The DNS servers whose traffic is to be captured are not known.
    #[error(
        "failed to load /etc/resolv.conf, which names the DNS servers to capture: {reason}; make it readable, name the servers with \
         --dns-server, or capture all DNS with --capture-all-dns"
    )]
    DnsServers {
        /// Why they are not known.
        reason: String,
    },
}
