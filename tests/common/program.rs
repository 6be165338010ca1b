//! Starting the program under test the ways that it is started in a pod.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::namespace::{Namespace, run};
use super::seccomp::{self, Refusal};
use super::user_namespace::UserNamespace;

/// What the program may do, see capabilities(7). All but one of them forbid new privileges, as a pod's
/// `allowPrivilegeEscalation: false` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// User 0 with CAP_NET_ADMIN and nothing else.
    NetAdmin,
    /// User 0 with CAP_NET_ADMIN and CAP_SYS_ADMIN, which `--netns` needs.
    NetAdminAndSysAdmin,
    /// User 0 with CAP_NET_ADMIN and CAP_NET_RAW, which iptables-legacy needs.
    NetAdminAndNetRaw,
    /// User 0 with CAP_NET_ADMIN and CAP_SETUID.
    NetAdminAndSetuid,
    /// Another user with CAP_NET_ADMIN as an ambient capability.
    Ambient(u32),
    /// Another user to whom CAP_NET_ADMIN is granted but not effective, as Kubernetes does it.
    Granted(u32),
    /// Another user to whom CAP_NET_ADMIN is granted, without the ban on new privileges: a capability of the
    /// program's file counts.
    FileCapability(u32),
    /// The same, but started by somebody whose permitted set is empty: nothing a file says can add to it.
    Stripped(u32),
    /// A user with no capability at all.
    None(u32),
    /// User 0 with no capability at all.
    RootWithout,
}

impl Privilege {
    /// The arguments of setpriv that bring it about.
    pub(crate) fn setpriv(self) -> Vec<String> {
        let user = |uid: u32| vec![format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
        let (mut words, sets): (Vec<String>, &[&str]) = match self {
            Privilege::NetAdmin => (vec![], &["--inh-caps=-all", "--bounding-set=-all,+net_admin"]),
            Privilege::NetAdminAndSysAdmin => (vec![], &["--inh-caps=-all", "--bounding-set=-all,+net_admin,+sys_admin"]),
            Privilege::NetAdminAndNetRaw => (vec![], &["--inh-caps=-all", "--bounding-set=-all,+net_admin,+net_raw"]),
            Privilege::NetAdminAndSetuid => (vec![], &["--inh-caps=-all", "--bounding-set=-all,+net_admin,+setuid"]),
            Privilege::Ambient(uid) => {
                (user(uid), &["--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin"])
            }
            Privilege::Granted(uid) | Privilege::FileCapability(uid) | Privilege::Stripped(uid) => {
                (user(uid), &["--inh-caps=-all", "--bounding-set=-all,+net_admin"])
            }
            Privilege::None(uid) => (user(uid), &["--inh-caps=-all", "--bounding-set=-all"]),
            Privilege::RootWithout => (vec![], &["--inh-caps=-all", "--bounding-set=-all"]),
        };
        words.extend(sets.iter().map(|word| (*word).to_owned()));
        if let Privilege::Stripped(_) = self {
            // What this one keeps in its permitted set while it changes users is lost when it starts the next.
            words.extend(["--", "setpriv"].map(str::to_owned));
        }
        if !matches!(self, Privilege::FileCapability(_)) {
            words.push("--no-new-privs".to_owned());
        }
        words
    }
}

/// One run of the program, being put together.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    namespace: &'a Namespace,
    name: &'a str,
    args: Vec<String>,
    env: Vec<(String, String)>,
    mounts: Vec<(PathBuf, &'static str)>,
    privilege: Privilege,
    read_only: bool,
    read_only_settings: bool,
    refusals: Vec<Refusal>,
    user_namespace: Option<PathBuf>,
}

/// What a run left: its exit code (-1 after a signal) and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    what: String,
}

impl Outcome {
    /// Everything written, wherever to.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The warnings among them, in any of the program's forms.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| [" warning: ", "level=warning", "\twarn\t"].iter().any(|mark| line.contains(mark))).collect()
    }

    /// The lines of everything written that are neither empty nor white space alone.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.text().lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    }

    /// Fails the test unless the program ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Outcome {
        assert_eq!(self.code, code, "{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nexit {}\nstdout: {}\nstderr: {}", self.what, self.code, self.stdout.trim_end(), self.stderr.trim_end())
    }
}

impl Namespace {
    /// The program with these arguments, to be run in the namespace with CAP_NET_ADMIN alone.
    pub(crate) fn mesh_init<S: AsRef<str>>(&self, args: &[S]) -> Program<'_> {
        Program {
            namespace: self,
            name: "mesh-init",
            args: args.iter().map(|arg| arg.as_ref().to_owned()).collect(),
            env: vec![
                ("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
                ("XTABLES_LOCKFILE".to_owned(), self.lock_file().display().to_string()),
                ("MESH_INIT_BACKEND".to_owned(), "legacy".to_owned()),
            ],
            mounts: Vec::new(),
            privilege: Privilege::NetAdmin,
            read_only: false,
            read_only_settings: false,
            refusals: Vec::new(),
            user_namespace: None,
        }
    }
}

impl<'a> Program<'a> {
    /// Starts it under another name, as an image's symbolic link does.
    pub(crate) fn called(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    /// Adds an environment variable. Without this the program sees a path, the lock's path and the backend.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts `text` where `path` is, for the program alone.
    pub(crate) fn with_file(mut self, path: &'static str, text: &str) -> Self {
        let source = self.namespace.file(&path.replace('/', "_"), text);
        self.mounts.push((source, path));
        self
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Puts the folder or file `source` where `path` is, for the program alone.
    pub(crate) fn with_folder(mut self, path: &'static str, source: &Path) -> Self {
        self.mounts.push((source.to_owned(), path));
        self
    }

    /// Lets these system calls fail.
    pub(crate) fn refusing(mut self, refusals: Vec<Refusal>) -> Self {
        self.refusals = refusals;
        self
    }

    /// Runs it as user 0 of a user namespace. Its network namespace stays the one that it was made for.
    pub(crate) fn in_user_namespace(mut self, namespace: &UserNamespace) -> Self {
        self.user_namespace = Some(namespace.path());
        self
    }

    /// Runs it with other privileges.
    pub(crate) fn with(mut self, privilege: Privilege) -> Self {
        self.privilege = privilege;
        self
    }

    /// Runs it with a root file system that nobody can write to.
    pub(crate) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Runs it with a read-only /proc/sys, as an unprivileged container has it.
    pub(crate) fn read_only_settings(mut self) -> Self {
        self.read_only_settings = true;
        self
    }

    /// Gives the program's file `cap_net_admin+p`, on a copy of its own.
    pub(crate) fn give_file_capability(&self) {
        let path = named(self.namespace, "mesh-init");
        fs::remove_file(&path).unwrap();
        run(Command::new("install").args(["-m", "755", env!("CARGO_BIN_EXE_mesh-init")]).arg(&path));
        run(Command::new("setcap").arg("cap_net_admin+p").arg(&path));
    }

    /// The command that runs it.
    pub(crate) fn command(&self) -> Command {
        let mut words = vec![format!("--net={}", self.namespace.path().display())];
        words.extend(self.user_namespace.iter().map(|path| format!("--user={}", path.display())));
        words.extend(["--", "setpriv"].map(str::to_owned));
        words.extend(self.privilege.setpriv());
        words.push(named(self.namespace, self.name).display().to_string());
        words.extend(self.args.iter().cloned());
        let mut command;
        if self.mounts.is_empty() && !self.read_only && !self.read_only_settings {
            command = Command::new("nsenter");
        } else {
            let mut script: String =
                self.mounts.iter().map(|(source, target)| format!("mount --bind {} {target} && ", source.display())).collect();
            if self.read_only_settings {
                script.push_str("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && ");
            }
            if self.read_only {
                script.push_str("mount -o remount,bind,ro / && ");
            }
            script.push_str("exec nsenter \"$@\"");
            command = Command::new("unshare");
            command.args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"]);
        }
        command.args(words).env_clear().envs(self.env.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Outcome {
        let mut command = self.command();
        let output = if self.refusals.is_empty() { command.output().unwrap() } else { seccomp::output(&mut command, &self.refusals) };
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            what: format!("{} {:?} {:?}", self.name, self.args, self.env.get(3..).unwrap_or_default()),
        }
    }
}

/// The program where every user can run it, under any name: a link to it or a copy of it in the namespace's folder,
/// and a symbolic link to that.
fn named(namespace: &Namespace, name: &str) -> PathBuf {
    /// Two threads may start programs in one namespace.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let program = namespace.folder().join("mesh-init");
    if !program.exists() {
        let built = Path::new(env!("CARGO_BIN_EXE_mesh-init"));
        // A hard link costs nothing, but cannot cross file systems and has the built file's permissions. The copy is
        // made by another process: a program that some thread of ours holds open for writing cannot be started.
        if fs::metadata(built).unwrap().permissions().mode() & 0o005 != 0o005 || fs::hard_link(built, &program).is_err() {
            run(Command::new("install").args(["-m", "755"]).args([built, &program]));
        }
    }
    let path = namespace.folder().join(name);
    if !path.exists() {
        symlink(&program, &path).unwrap();
    }
    path
}
