//! A program run to its end, or stopped at the deadline.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Ending, ProgramError};
use crate::ruleset::Family;

/// How long to wait before looking again whether a program has ended; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// The most that is kept of what a program writes.
const MOST_OUTPUT: u64 = 16 << 20;

/// Runs a program with `input` on its standard input and returns what it wrote to its standard output. Its failure is an
/// error.
///
/// Input and output are files in memory: nobody waits for a pipe that some child of the program holds open, and nothing
/// is written that needs a writable file system.
pub(super) fn run(program: &str, family: Family, arguments: &[&str], input: &str, deadline: Instant) -> Result<String, ProgramError> {
    let fault = |source| ProgramError::run(program, source);
    let stdin = memory(input).map_err(fault)?;
    let (mut stdout, mut stderr) = (memory("").map_err(fault)?, memory("").map_err(fault)?);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone().map_err(fault)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(fault)?))
        // Its own group, so that a signal to ours does not end it half way, and all of it can be stopped.
        .process_group(0)
        .spawn()
        .map_err(fault)?;
    let group = Pid::from_raw(child.id().cast_signed());
    let status = wait(group, deadline, || child.try_wait().transpose()).map_err(fault)?;
    let Some(status) = status else { return Err(ProgramError::Overdue { program: program.to_owned() }) };
    let out = text_of(&mut stdout).map_err(fault)?;
    if status.success() {
        return Ok(out);
    }
    let complaint = text_of(&mut stderr).map_err(fault)?;
    Err(ProgramError::failed(program, family, ending(status), if complaint.trim().is_empty() { &out } else { &complaint }))
}

/// What a failed step tells the process that waits for it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Trouble {
    /// The program was not there.
    NotFound,
    /// The program could not be run, for this reason.
    NotRun(String),
    /// The program failed: its exit code or the signal that ended it, and what it said.
    Failed { code: Option<i32>, signal: Option<i32>, text: String },
}

impl Trouble {
    pub(super) fn of(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Trouble {
        let said = if stderr.is_empty() { stdout } else { stderr };
        Trouble::Failed { code: status.code(), signal: status.signal(), text: String::from_utf8_lossy(said).into_owned() }
    }

    fn into_error(self, program: &str, family: Family) -> ProgramError {
        match self {
            Trouble::NotFound => ProgramError::NotFound { program: program.to_owned() },
            Trouble::NotRun(reason) => ProgramError::Run { program: program.to_owned(), source: io::Error::other(reason) },
            Trouble::Failed { code, signal, text } => {
                let ending = signal.map_or(Ending::Code(code.unwrap_or(-1)), Ending::Signal);
                ProgramError::failed(program, family, ending, &text)
            }
        }
    }
}

/// Does `work`, which starts a program any number of times and waits for it without limit, in a process of its own: so
/// that it can be stopped at the deadline with all that it has started.
pub(super) fn supervised(
    program: &str,
    family: Family,
    deadline: Instant,
    work: impl FnOnce() -> Result<(), Trouble>,
) -> Result<(), ProgramError> {
    let fault = |source| ProgramError::run(program, source);
    let mut answer = memory("").map_err(fault)?;
    // SAFETY: mesh-init has no other thread that could hold a lock in the copy, which ends by _exit below.
    match unsafe { fork() }.map_err(|errno| fault(errno.into()))? {
        ForkResult::Child => {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            // A panic must not go on into the work of the process that waits.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let written = done.is_ok_and(|result| serde_json::to_writer(&mut answer, &result.err()).is_ok());
            // SAFETY: ends the process at once; nothing that others rely on is left to be done by it.
            unsafe { libc::_exit(i32::from(!written)) }
        }
        ForkResult::Parent { child } => {
            // Whichever of the two comes first.
            let _ = setpgid(child, child);
            let ended = wait(child, deadline, || match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => None,
                Err(Errno::EINTR) => None,
                other => Some(other.map_err(io::Error::from)),
            });
            match ended.map_err(fault)? {
                None => Err(ProgramError::Overdue { program: program.to_owned() }),
                Some(WaitStatus::Exited(_, 0)) => match parsed::<Option<Trouble>>(&mut answer).map_err(fault)? {
                    None => Ok(()),
                    Some(trouble) => Err(trouble.into_error(program, family)),
                },
                Some(status) => Err(fault(io::Error::other(format!("the process that waits for it ended: {status:?}")))),
            }
        }
    }
}

/// Waits until `ended` gives the outcome of the process that leads `group`. At the deadline the group is stopped, and the
/// outcome is none.
fn wait<T>(group: Pid, deadline: Instant, mut ended: impl FnMut() -> Option<io::Result<T>>) -> io::Result<Option<T>> {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(outcome) = ended() {
            return outcome.map(Some);
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    // Fails only if all of it has ended meanwhile.
    let _ = killpg(group, Signal::SIGKILL);
    loop {
        if let Some(outcome) = ended() {
            return outcome.map(|_| None);
        }
        std::thread::sleep(FIRST_PAUSE);
    }
}

fn ending(status: ExitStatus) -> Ending {
    status.signal().map_or_else(|| Ending::Code(status.code().unwrap_or(-1)), Ending::Signal)
}

/// A file in memory that holds `text`, to be read from its beginning.
fn memory(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"mesh-init", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn text_of(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MOST_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parsed<T: DeserializeOwned>(file: &mut File) -> io::Result<T> {
    Ok(serde_json::from_str(&text_of(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn shell(script: &str, input: &str, deadline: Instant) -> Result<String, String> {
        run("sh", Family::V4, &["-c", script], input, deadline).map_err(|error| error.to_string())
    }

    #[test]
    fn a_program_is_fed_and_heard() {
        let long = "0123456789abcdef\n".repeat(20_000);
        assert_eq!(shell("cat", &long, soon()), Ok(long));
        assert_eq!(
            shell("echo out; echo first >&2; echo last >&2; exit 4", "", soon()),
            Err("sh failed with exit code 4: last".to_owned())
        );
        assert_eq!(shell("echo all; kill -9 $$", "", soon()), Err("sh failed with signal 9: all".to_owned()));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_fails() {
        let error = run("no-such-iptables", Family::V4, &[], "", soon()).unwrap_err();
        assert_eq!(error.to_string(), "no-such-iptables is not in PATH");
    }

    #[test]
    fn a_program_that_hangs_is_stopped_with_all_that_it_started() {
        let began = Instant::now();
        let error = shell("sleep 60 & sleep 60", "", began + Duration::from_millis(100)).unwrap_err();
        assert_eq!(error, "sh did not end before the deadline and was stopped");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
