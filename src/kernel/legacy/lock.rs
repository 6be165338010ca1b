//! The lock that iptables-legacy takes: `flock` on `$XTABLES_LOCKFILE` or /run/xtables.lock.
//!
//! The kernel knows nothing of it. It keeps an iptables-legacy that shares the file from writing between our reading
//! and our writing; a container's private /run has no such file, and none is made.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use tracing::{debug, warn};

const DEFAULT: &str = "/run/xtables.lock";
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// The lock, held until it is dropped; or none where there is no file to lock.
#[derive(Debug)]
pub(super) struct XtablesLock {
    _held: Option<Flock<File>>,
}

impl XtablesLock {
    /// Takes the lock if its file exists and opens. Waits for another holder for a second at most, then warns and
    /// goes on without.
    pub(super) fn take() -> XtablesLock {
        let path =
            std::env::var_os("XTABLES_LOCKFILE").filter(|path| !path.is_empty()).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from);
        // Non-blocking, so that a FIFO of that name does not stop us.
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path) {
            Ok(file) => file,
            Err(error) => {
                debug!("no lock is taken: {}: {error}", path.display());
                return XtablesLock { _held: None };
            }
        };
        let give_up = Instant::now() + PATIENCE;
        let mut file = file;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return XtablesLock { _held: Some(held) },
                Err((returned, Errno::EWOULDBLOCK)) if Instant::now() < give_up => {
                    file = returned;
                    std::thread::sleep(PAUSE);
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    warn!("{} has been locked by another program for a second; going on without the lock", path.display());
                    return XtablesLock { _held: None };
                }
                Err((_, errno)) => {
                    debug!("no lock is taken: {}: {errno}", path.display());
                    return XtablesLock { _held: None };
                }
            }
        }
    }
}
