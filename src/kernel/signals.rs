//! Signals held off while the kernel's rules are in between.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use tracing::debug;

/// While it lives, signals that ask the program to end wait. When it goes they are delivered.
#[derive(Debug)]
#[must_use]
pub struct HeldSignals {
    before: Option<SigSet>,
}

/// Holds SIGTERM, SIGINT, SIGHUP and SIGQUIT back from this thread, the only one. May be done again while it is done.
pub fn hold_signals() -> HeldSignals {
    let ending: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
    let mut before = SigSet::empty();
    match pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ending), Some(&mut before)) {
        Ok(()) => HeldSignals { before: Some(before) },
        Err(errno) => {
            debug!("signals cannot be held off: {errno}");
            HeldSignals { before: None }
        }
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Fails only for an unknown `how`.
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(before), None);
        }
    }
}
