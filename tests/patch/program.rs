//! Starting mesh-patch, and the judges of what it does.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The image that tests ask for.
pub(crate) const IMAGE: &str = "registry.example/mesh-init:9";

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails the test unless the program ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Runs mesh-patch with these arguments and this input.
pub(crate) fn mesh_patch<S: AsRef<std::ffi::OsStr>>(arguments: &[S], input: impl AsRef<[u8]>) -> Ran {
    mesh_patch_in(Path::new("."), arguments, input)
}

/// The same in the folder `here`.
pub(crate) fn mesh_patch_in<S: AsRef<std::ffi::OsStr>>(here: &Path, arguments: &[S], input: impl AsRef<[u8]>) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-patch"))
        .args(arguments)
        .current_dir(here)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses its arguments reads nothing.
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What `input` becomes, with these flags.
#[track_caller]
pub(crate) fn patched(input: &str, flags: &[&str]) -> String {
    mesh_patch(&[&["--image", IMAGE], flags].concat(), input).expect(0).stdout
}

/// The lines that differ, with `-` and `+` before them and without those around them.
#[track_caller]
pub(crate) fn changed_lines(input: &str, flags: &[&str]) -> Vec<String> {
    let diff = mesh_patch(&[&["--diff", "--image", IMAGE], flags].concat(), input).expect(0).stdout;
    let of_file = |line: &&str| line.starts_with("--- stdin") || line.starts_with("+++ stdin");
    diff.lines().filter(|line| line.starts_with(['-', '+'])).filter(|line| !of_file(line)).map(str::to_owned).collect()
}

/// A folder of the test's own, gone at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("mesh-patch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A manifest of `tests/fixtures/manifests`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifests").join(name)
}

/// The names of all of them.
pub(crate) fn fixtures() -> Vec<String> {
    let names = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert!(names.len() > 20, "{names:?}");
    names
}

/// A program of the Python environment `name` that tests/setup.sh makes. Where it is missing the test is skipped with a line that
/// says so, but fails where `CI` is set.
pub(crate) fn python(name: &str, program: &str) -> Option<Command> {
    // The build folder, or the one of a target in it.
    let folders = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors().skip(1).take(2);
    let Some(path) = folders.map(|folder| folder.join(name).join("bin").join(program)).find(|path| path.exists()) else {
        assert!(std::env::var_os("CI").is_none(), "{program} of {name} is missing, and CI must not skip what needs it");
        eprintln!("skipped: {program} of {name} is missing; tests/setup.sh test makes it");
        return None;
    };
    Some(Command::new(path))
}

/// Asks `judge.py`, and returns what it prints.
#[track_caller]
pub(crate) fn judge<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/patch/judge.py");
    let output = python("kubernetes-validate", "python")?.arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
