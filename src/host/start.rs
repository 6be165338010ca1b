//! Where the program begins: from C's `main` to a function of ours.
//!
//! Rust's own start code looks for the end of the stack in /proc/self/maps and sets up a second one on which to report that
//! the first is full. In a program that runs for a millisecond and recurses nowhere that is a tenth of its own time, and it
//! brings C's `scanf` into the binary. What is of use in it is done here.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};

/// How a process ends, as its parent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(u8);

impl ExitCode {
    /// 0
    pub const SUCCESS: ExitCode = ExitCode(0);
}

impl From<u8> for ExitCode {
    fn from(code: u8) -> ExitCode {
        ExitCode(code)
    }
}

/// Makes the program's `main` of a function from its arguments, of which the first is its name, to its exit code.
#[macro_export]
macro_rules! main_is {
    ($run:path) => {
        /// What C's start code calls.
        ///
        /// # Safety
        ///
        /// For that code alone.
        // SAFETY: it has the type that C gives `main`, and the program has no other.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn main(count: ::std::ffi::c_int, arguments: *const *const ::std::ffi::c_char) -> ::std::ffi::c_int {
            // SAFETY: they come from C's start code as they are.
            unsafe { $crate::host::start::start(count, arguments, $run) }
        }
    };
}

/// Runs `run` and ends the process.
///
/// # Safety
///
/// `arguments` are `count` pointers to strings with a NUL at their end, as C's `main` gets them.
pub unsafe fn start(count: c_int, arguments: *const *const c_char, run: fn(Vec<OsString>) -> ExitCode) -> c_int {
    open_standard_files();
    // A closed pipe is an error of the writing, and no reason to be killed in the middle.
    // SAFETY: nothing is called for a signal that is ignored.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let count = usize::try_from(count).unwrap_or_default();
    let argument = |index| {
        // SAFETY: there are `count` of them, each a string.
        let text = unsafe { CStr::from_ptr(*arguments.add(index)) };
        OsStr::from_bytes(text.to_bytes()).to_owned()
    };
    let ExitCode(code) = run((0..count).map(argument).collect());
    // Flushes what is still to be printed.
    std::process::exit(code.into())
}

/// Opens /dev/null in the place of a standard file that is closed: else a socket would get its number, and what is printed
/// would go there.
fn open_standard_files() {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let mut files = [input.as_fd(), output.as_fd(), error.as_fd()].map(|file| PollFd::new(file, PollFlags::empty()));
    if poll(&mut files, PollTimeout::ZERO).is_err() {
        return;
    }
    let closed = files.iter().filter(|file| file.revents().is_some_and(|events| events.contains(PollFlags::POLLNVAL)));
    for _ in closed {
        // The lowest free number is taken.
        if let Ok(file) = OpenOptions::new().read(true).write(true).open("/dev/null") {
            let _ = file.into_raw_fd();
        }
    }
}
