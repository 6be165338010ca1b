//! An exit code of one's own for a program that is told to end. The first process of a container has no other way to be
//! told: for it the kernel ignores signals that nobody handles.

use std::sync::atomic::{AtomicU8, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The exit code, for the handler, which is told nothing else.
static CODE: AtomicU8 = AtomicU8::new(1);

/// Makes SIGTERM and SIGINT end the program with `code`.
pub fn exit_on_signals(code: u8) {
    CODE.store(code, Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler calls only functions that a signal handler may call.
        if let Err(errno) = unsafe { sigaction(signal, &action) } {
            tracing::debug!("{signal} is not handled: {errno}");
        }
    }
}

extern "C" fn end(_: libc::c_int) {
    const LINE: &[u8] = b"ended by a signal\n";
    // SAFETY: the bytes outlive the call, and both functions are safe in a signal handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
        libc::_exit(CODE.load(Ordering::Relaxed).into());
    }
}
