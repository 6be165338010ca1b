//! What tests of more than one module need: a network namespace of their own, and commands run in it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

use crate::kernel::netlink::{Protocol, Socket};

/// Whether the test may go on: it needs root. Without root it is left out with a line that says so; in CI that is a
/// failure.
pub(crate) fn is_root(test: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root, and CI must not leave it out");
        eprintln!("left out, needs root: {test}");
    }
    root
}

/// Runs `test` in a thread that has a network namespace of its own, with `lo` up and nothing else. The namespace
/// goes with the thread, whatever happens. Commands that the test runs are in it too.
pub(crate) fn in_new_namespace(name: &str, test: impl FnOnce(&mut Socket) + Send) {
    if !is_root(name) {
        return;
    }
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        let mut socket = Socket::open(Protocol::Route, Instant::now() + Duration::from_secs(60)).expect("socket");
        loopback_up(&mut socket);
        test(&mut socket);
    });
}

/// Runs `test` in a thread of its own, since namespaces, capabilities and ids are a thread's.
pub(crate) fn in_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(test).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn loopback_up(socket: &mut Socket) {
    let lo = crate::kernel::route::loopback_index(socket).unwrap();
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    let fixed = [[0; 4], lo.to_ne_bytes(), up, up].concat();
    socket.request(libc::RTM_NEWLINK, 0, &fixed, |_| {}).unwrap();
}

/// What the shell command prints, run in this thread's namespace.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Names the case to a test that runs once more in a process of its own.
const CASE: &str = "MESH_INIT_TEST_CASE";

/// The case that [`Rerun::run`] asked for, in the process that it started.
pub(crate) fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// A copy of the test program that other users may run.
pub(crate) struct Rerun {
    directory: PathBuf,
}

impl Rerun {
    pub(crate) fn new() -> Rerun {
        use std::os::unix::fs::PermissionsExt;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("mesh-init-rerun-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
        let rerun = Rerun { directory };
        // By another process: a descriptor of ours, open for writing, could be in a child of another test for a moment,
        // and then the kernel would not execute the file.
        run(&format!("cp {} {}", std::env::current_exe().unwrap().display(), rerun.program().display()));
        rerun
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.join("program")
    }

    /// Runs only the test called `test`, started by `launcher`, with `case` to find in [`case`].
    pub(crate) fn run(&self, launcher: &str, test: &str, case: &str) {
        run(&format!("{CASE}={case} {launcher} {} --exact {test} --nocapture", self.program().display()));
    }
}

impl Drop for Rerun {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
