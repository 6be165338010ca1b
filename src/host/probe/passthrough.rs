//! Istio's own check that the rules work: a connection of the proxy's user to the passthrough address has to come out
//! at one of the proxy's ports.
//!
//! It passes only when it runs as the proxy's user, because it is the rule for that user's connections over `lo` that
//! it goes through. It tells nothing about other connections.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::passthrough;
use crate::host::socket::{self, Handshake};
use crate::ruleset::Family;
use crate::ruleset::walk::loopback;

/// How often a connection is tried.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often the listening sockets are looked at in between. Over `lo` a connection is nearly always there at once.
const LOOK: Duration = Duration::from_millis(5);

/// The probe and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// The family in which the connection is made.
    pub family: Family,
    /// The proxy's port for outgoing connections.
    pub proxy_port: u16,
    /// The proxy's port for incoming connections.
    pub inbound_port: u16,
    /// The port that is connected to, where nothing listens.
    pub probe_port: u16,
    /// How long to try.
    pub timeout: Duration,
}

/// Why the probe did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassthroughError {
    /// Neither of the proxy's ports could be listened on.
    #[error("no listener available: {0}")]
    NoListener(String),
    /// No redirected connection came.
    #[error("validation timeout: no connection to {to} was redirected to the proxy's ports within {after:?} ({last})")]
    Timeout {
        /// The address that was connected to.
        to: SocketAddr,
        /// How long it was tried.
        after: Duration,
        /// What the last try met with.
        last: String,
    },
}

impl Passthrough {
    /// Listens where the proxy will, connects to the passthrough address every second, and returns when a connection
    /// comes that was meant for the probe's port.
    pub fn run(&self) -> Result<(), PassthroughError> {
        let deadline = Instant::now() + self.timeout;
        let listeners = self.listeners()?;
        let target = self.target();
        let mut next = Instant::now();
        let mut last = String::from("no attempt was made");
        // Open until the next attempt, so that the other end finds a live connection.
        let mut _connection;
        loop {
            let now = Instant::now();
            if now >= next {
                next = now + INTERVAL;
                let left = INTERVAL.min(deadline.saturating_duration_since(now));
                match socket::dial(Some(loopback(self.family)), target, Handshake::Full, left) {
                    Ok(connection) => {
                        last = "the last connection was accepted, but not by the proxy's ports".to_owned();
                        _connection = connection;
                    }
                    Err(errno) => {
                        tracing::warn!("Error connecting to {target}: {errno}");
                        last = format!("the last connection failed: {errno}");
                    }
                }
            }
            for listener in &listeners {
                while let Some((stream, _)) = socket::accept(listener) {
                    match self.original_port(&stream) {
                        Ok(port) if port == self.probe_port => return Ok(()),
                        Ok(port) => last = format!("the last connection was meant for port {port}"),
                        Err(errno) => last = format!("the last connection has no original destination: {errno}"),
                    }
                }
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(PassthroughError::Timeout { to: target, after: self.timeout, last });
            }
            std::thread::sleep(LOOK.min(deadline - now));
        }
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(passthrough(self.family), self.probe_port)
    }

    /// One port that cannot be had is no matter: something may listen there already.
    fn listeners(&self) -> Result<Vec<TcpListener>, PassthroughError> {
        let (mut listeners, mut failures) = (Vec::new(), Vec::new());
        for port in [self.proxy_port, self.inbound_port] {
            let address = SocketAddr::new(loopback(self.family), port);
            match socket::listen_on(address, true) {
                Ok(listener) => listeners.push(listener),
                Err(errno) => {
                    tracing::warn!("cannot listen on {address}: {errno}");
                    failures.push(format!("{address}: {errno}"));
                }
            }
        }
        if listeners.is_empty() { Err(PassthroughError::NoListener(failures.join("; "))) } else { Ok(listeners) }
    }

    /// The port that the connection was meant for.
    fn original_port(&self, stream: &TcpStream) -> Result<u16, Errno> {
        socket::original_destination(stream, self.family == Family::V4).map(|original| original.port())
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::*;
    use crate::host::testing::{in_new_namespace, in_thread, run};
    use crate::kernel::route::{Journal, add_passthrough_v6};

    const UID: u32 = 1337;

    fn probe(family: Family) -> Passthrough {
        Passthrough { family, proxy_port: 15001, inbound_port: 15006, probe_port: 15002, timeout: Duration::from_millis(300) }
    }

    /// Runs `test` in a thread that has another user and group.
    fn as_proxy<T: Send>(test: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
                // SAFETY: the raw calls change the ids of this thread only, and touch no memory.
                assert_eq!(unsafe { libc::syscall(call, UID, UID, UID) }, 0);
            }
            test()
        })
    }

    fn install(family: Family, port: u16) {
        let (command, loopback) = match family {
            Family::V4 => ("iptables-legacy-restore", "127.0.0.1/32"),
            Family::V6 => ("ip6tables-legacy-restore", "::1/128"),
        };
        let lock = std::env::temp_dir().join(format!("mesh-init-probe-{}-{family}-{port}.lock", std::process::id()));
        run(&format!(
            "XTABLES_LOCKFILE={} {command} <<EOF\n*nat\n-A OUTPUT ! -d {loopback} -o lo -p tcp -m owner --uid-owner {UID} \
             -j REDIRECT --to-ports {port}\nCOMMIT\nEOF",
            lock.display()
        ));
        let _ = std::fs::remove_file(lock);
    }

    #[test]
    fn with_the_rules_in_place_the_proxys_user_passes_and_root_does_not() {
        for family in Family::ALL {
            in_new_namespace("probe", |socket| {
                add_passthrough_v6(socket, &mut Journal::new()).unwrap();
                install(family, 15006);
                assert_eq!(as_proxy(|| probe(family).run()), Ok(()));
                let error = probe(family).run().unwrap_err();
                assert!(error.to_string().contains("ECONNREFUSED"), "{error}");
            });
        }
    }

    #[test]
    fn without_rules_it_times_out_and_says_what_happened() {
        in_new_namespace("probe without rules", |_| {
            let start = Instant::now();
            assert_eq!(
                as_proxy(|| probe(Family::V4).run()).unwrap_err().to_string(),
                "validation timeout: no connection to 127.0.0.6:15002 was redirected to the proxy's ports within 300ms \
                 (the last connection failed: ECONNREFUSED: Connection refused)"
            );
            assert!(start.elapsed() >= Duration::from_millis(300));
            // Without ::6 on lo there is nowhere to go.
            let error = as_proxy(|| probe(Family::V6).run()).unwrap_err().to_string();
            assert!(error.contains("the last connection failed: ENETUNREACH"), "{error}");
        });
    }

    #[test]
    fn a_connection_that_comes_out_elsewhere_or_nowhere_is_no_success() {
        in_new_namespace("probe elsewhere", |_| {
            install(Family::V4, 15007);
            let _other = TcpListener::bind("127.0.0.1:15007").unwrap();
            let error = as_proxy(|| probe(Family::V4).run()).unwrap_err().to_string();
            assert!(error.contains("accepted, but not by the proxy's ports"), "{error}");
        });
        in_new_namespace("probe dropped", |_| {
            run("XTABLES_LOCKFILE=/dev/null iptables-legacy -A OUTPUT -d 127.0.0.6 -j DROP");
            let start = Instant::now();
            let error = as_proxy(|| probe(Family::V4).run()).unwrap_err().to_string();
            assert!(error.contains("ETIMEDOUT") || error.contains("EPERM"), "{error}");
            assert!(start.elapsed() < Duration::from_secs(3));
        });
    }

    #[test]
    fn one_port_in_use_is_tolerated_and_two_are_not() {
        in_new_namespace("probe ports", |_| {
            install(Family::V4, 15006);
            // Held without SO_REUSEPORT.
            let _proxy = TcpListener::bind("127.0.0.1:15001").unwrap();
            assert_eq!(as_proxy(|| probe(Family::V4).run()), Ok(()));
            let _inbound = TcpListener::bind("127.0.0.1:15006").unwrap();
            assert_eq!(
                as_proxy(|| probe(Family::V4).run()).unwrap_err().to_string(),
                "no listener available: 127.0.0.1:15001: EADDRINUSE: Address already in use; 127.0.0.1:15006: EADDRINUSE: Address already in use"
            );
        });
    }
}
