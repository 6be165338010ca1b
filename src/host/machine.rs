//! What kind of machine the program is on, as /proc tells: the kernel's release, gVisor, a Kata guest, modules.

use std::path::PathBuf;

use super::Error;
use super::files::read_text;
use super::kernel_release::Release;

/// The machine, looked at through its /proc.
#[derive(Clone, Debug)]
pub struct Machine {
    proc: PathBuf,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::at("/proc")
    }
}

/// gVisor's kernel has been built at the same moment for ever, whichever release it claims to be.
const GVISOR_BUILD: &str = "Sun Jan 10 15:06:54 PST 2016";

/// What a mount of a Kata guest's containers is called: the folder shared with the host, or the agent's own.
const KATA_MOUNTS: [&str; 2] = ["kataShared", "/kata-containers/"];

/// Where a Kata guest keeps the images that it has pulled itself.
const PULLED_IMAGES: &str = "/kata-containers/image";

impl Machine {
    /// The machine whose /proc is there.
    pub fn at(proc: impl Into<PathBuf>) -> Machine {
        Machine { proc: proc.into() }
    }

    /// The text of a file of /proc.
    pub fn text(&self, file: &str) -> Result<String, Error> {
        read_text(&self.path(file))
    }

    /// Whether there is such a file in /proc.
    pub fn has(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// Where a file of /proc is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.proc.join(file)
    }

    /// The kernel's release, as `uname -r` has it.
    pub fn release(&self) -> Result<String, Error> {
        self.text("sys/kernel/osrelease").map(|text| text.trim().to_owned())
    }

    /// Refuses a kernel on which `SO_ORIGINAL_DST` deadlocks. One whose fault is only said to be there passes if its
    /// upstream fixes are `trusted`. A release that cannot be read passes: no proxy of today is on such a kernel.
    pub fn check_release(&self, trusted: bool) -> Result<(), Error> {
        let Ok(release) = self.release() else { return Ok(()) };
        match Release::parse(&release).and_then(|release| release.deadlock()) {
            Some(why) if !(trusted && why.may_be_fixed()) => Err(Error::Deadlock { release, why }),
            _ => Ok(()),
        }
    }

    /// Whether the kernel is gVisor's.
    pub fn is_gvisor(&self) -> bool {
        self.text("version").is_ok_and(|version| version.contains("gvisor") || version.contains(GVISOR_BUILD))
    }

    /// Whether the kernel checks legacy rules and then refuses them, if they come with too many counters: an older one, and
    /// gVisor's, would take them.
    pub fn may_try_rules(&self) -> bool {
        let number = self.release().ok().and_then(|release| Release::parse(&release)).map(|release| release.number);
        number.is_some_and(|number| number >= [4, 17, 0]) && !self.is_gvisor()
    }

    /// Whether the kernel can load modules.
    pub fn has_modules(&self) -> bool {
        self.has("modules")
    }

    /// What shows that this is a Kata guest, if anything does: a parameter of its kernel, or a mount.
    pub fn kata_sign(&self) -> Option<String> {
        let parameters = self.text("cmdline").unwrap_or_default();
        let is_katas = |word: &&str| word.starts_with("agent.") || word.contains("kata-containers");
        if let Some(parameter) = parameters.split_whitespace().find(is_katas) {
            return Some(format!("the kernel parameter {parameter}"));
        }
        let mounts = self.text("thread-self/mountinfo").unwrap_or_default();
        let sign = KATA_MOUNTS.into_iter().find(|sign| mounts.contains(sign))?;
        Some(format!("a mount of {sign}"))
    }

    /// Whether the container's image was pulled inside the guest.
    pub fn image_was_pulled_in_guest(&self) -> bool {
        let mounts = self.text("thread-self/mountinfo").unwrap_or_default();
        // Number, parent, device, root, place.
        let mut roots = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
        roots.any(|line| line.contains(PULLED_IMAGES))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A /proc of the test's own, with these files.
    struct Proc(PathBuf);

    impl Proc {
        fn with(files: &[(&str, &str)]) -> Proc {
            static COUNTER: AtomicU32 = AtomicU32::new(0);
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("mesh-init-proc-{}-{number}", std::process::id()));
            fs::create_dir(&folder).unwrap();
            for (name, text) in files {
                let path = folder.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Proc(folder)
        }

        fn machine(&self) -> Machine {
            Machine::at(&self.0)
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const RELEASE: &str = "sys/kernel/osrelease";
    const MOUNTS: &str = "thread-self/mountinfo";

    #[test]
    fn releases_are_refused_or_trusted() {
        for (release, refused, refused_if_trusted) in [
            ("4.14.21", false, false),
            ("4.14.22-cos", true, true),
            ("4.14.30", true, false),
            ("4.14.40", true, false),
            ("4.14.41", false, false),
            ("5.4.71", false, false),
            ("whatever", false, false),
        ] {
            let proc = Proc::with(&[(RELEASE, &format!("{release}\n"))]);
            assert_eq!(proc.machine().release().unwrap(), release);
            let refuses = |trusted| proc.machine().check_release(trusted).is_err();
            assert_eq!((refuses(false), refuses(true)), (refused, refused_if_trusted), "{release}");
        }
        let nothing = Proc::with(&[]);
        assert!(nothing.machine().release().is_err() && nothing.machine().check_release(false).is_ok());
    }

    #[test]
    fn gvisor_is_known_by_its_version() {
        let version = |text: &str| Proc::with(&[("version", text), (RELEASE, "4.19.0\n")]);
        for text in ["Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n", "Linux version 4.19.0-gvisor #1 SMP\n"] {
            let proc = version(text);
            assert!(proc.machine().is_gvisor() && !proc.machine().may_try_rules(), "{text}");
        }
        let linux = version("Linux version 4.19.0 (builder@host) #1 SMP Mon Jan 11 15:06:54 PST 2016\n");
        assert!(!linux.machine().is_gvisor() && linux.machine().may_try_rules());
        assert!(!Proc::with(&[]).machine().is_gvisor());
    }

    #[test]
    fn rules_are_only_tried_where_the_kernel_stops_in_time() {
        for (release, expected) in [("4.16.18", false), ("4.17.0", true), ("4.17", true), ("6.18.35", true), ("?", false)] {
            assert_eq!(Proc::with(&[(RELEASE, release)]).machine().may_try_rules(), expected, "{release}");
        }
    }

    #[test]
    fn a_kata_guest_is_known_by_its_parameters_or_its_mounts() {
        let sign = |files: &[(&str, &str)]| Proc::with(files).machine().kata_sign();
        let plain = "27 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert_eq!(sign(&[("cmdline", "root=/dev/vda quiet user_agent.x=1"), (MOUNTS, plain)]), None);
        for parameter in ["agent.log=debug", "systemd.unit=kata-containers.target"] {
            let found = sign(&[("cmdline", &format!("quiet {parameter} panic=1\n"))]).unwrap();
            assert_eq!(found, format!("the kernel parameter {parameter}"));
        }
        let shared = "30 27 0:25 /abc-hosts /etc/hosts rw - virtiofs kataShared rw\n";
        assert_eq!(sign(&[("cmdline", "quiet"), (MOUNTS, shared)]).as_deref(), Some("a mount of kataShared"));
    }

    #[test]
    fn an_image_pulled_in_the_guest_shows_in_the_root_mount() {
        let pulled = |mounts: &str| Proc::with(&[(MOUNTS, mounts)]).machine().image_was_pulled_in_guest();
        let layers = "lowerdir=/run/kata-containers/image/layers/a:/run/kata-containers/image/layers/b";
        assert!(pulled(&format!("40 27 0:30 / / rw,relatime - overlay overlay rw,{layers}\n41 40 0:5 / /proc rw - proc proc rw\n")));
        assert!(!pulled(&format!("40 27 0:30 / /data rw - overlay overlay rw,{layers}\n")));
        assert!(!pulled("40 27 0:30 /abc/rootfs / rw - virtiofs kataShared rw\n"));
        assert!(!pulled(""));
    }

    #[test]
    fn modules_can_be_loaded_where_they_are_listed() {
        assert!(Proc::with(&[("modules", "")]).machine().has_modules());
        assert!(!Proc::with(&[]).machine().has_modules());
    }
}
