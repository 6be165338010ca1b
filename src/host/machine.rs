//! What kind of machine the program is on, as /proc tells: the kernel's release, gVisor, a Kata guest, modules.

use std::path::{Path, PathBuf};

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
        read_text(&self.proc.join(file))
    }

    /// Whether there is such a file in /proc.
    pub fn has(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// Where a file of /proc is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.proc.join(Path::new(file))
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
