//! The program under strace: calls that fail, are delayed, or are the last before a signal.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::program::Program;

/// How long is waited for a program to get somewhere.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether strace is there. Where `CI` is set a test may not be skipped for want of it.
pub(crate) fn strace_or_skip() -> bool {
    if Command::new("strace").arg("-V").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "strace is needed, and CI must not skip this test");
    eprintln!("skipped: there is no strace");
    false
}

/// `program` under strace with these options; what is traced goes to `log`.
pub(crate) fn command(program: &Program<'_>, log: &Path, options: &[&str]) -> Command {
    let program = program.command();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o"]).arg(log).args(options).arg(program.get_program()).args(program.get_args()).env_clear();
    traced.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    traced
}

/// A traced run that has been started.
#[derive(Debug)]
pub(crate) struct Traced {
    strace: Child,
    log: PathBuf,
}

/// What a traced run left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<Signal>,
    /// Everything written.
    pub(crate) text: String,
    /// The calls, a line each.
    pub(crate) calls: Vec<String>,
}

/// Starts `program` under strace with these options.
pub(crate) fn start(namespace: &Namespace, program: &Program<'_>, options: &[&str]) -> Traced {
    let log = namespace.folder().join("strace");
    let strace = command(program, &log, options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    Traced { strace, log }
}

impl Traced {
    /// The program's process: strace's child, which the harness's own programs have turned into it.
    fn pid(&self) -> Option<i32> {
        let strace = self.strace.id();
        let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
        let pid = children.split_whitespace().next()?.parse().ok()?;
        (fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "mesh-init").then_some(pid)
    }

    /// Whether the program is replacing a table: in `setsockopt` with a table's level and option.
    pub(crate) fn is_replacing(&self) -> bool {
        let syscall = self.pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/syscall")).ok()).unwrap_or_default();
        let words: Vec<&str> = syscall.split(' ').collect();
        let [call, _socket, level, option, ..] = words[..] else { return false };
        call == libc::SYS_setsockopt.to_string() && ["0x0", "0x29"].contains(&level) && option == "0x40"
    }

    /// Waits until the program is replacing a table, which takes a while when it is delayed.
    pub(crate) fn wait_until_replacing(&mut self) {
        self.wait_until("replace a table", Traced::is_replacing);
    }

    /// Waits until the program holds a signal off.
    pub(crate) fn wait_until_held_off(&mut self, signal: Signal) {
        self.wait_until("hold a signal off", |traced| {
            let status = traced.pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok()).unwrap_or_default();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or("0");
            u64::from_str_radix(blocked.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
        });
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Traced) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(self.is_running() && Instant::now() < give_up, "the program did not come to {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the program runs still.
    pub(crate) fn is_running(&mut self) -> bool {
        self.strace.try_wait().unwrap().is_none()
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().expect("the program runs")), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn end(self) -> Ended {
        let output = self.strace.wait_with_output().unwrap();
        let calls = fs::read_to_string(&self.log).unwrap().lines().map(str::to_owned).collect();
        Ended {
            code: output.status.code(),
            // strace ends as the program did.
            signal: output.status.signal().map(|number| Signal::try_from(number).unwrap()),
            text: [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat(),
            calls,
        }
    }
}
