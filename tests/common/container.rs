//! Containers as a container runtime makes them: runc, with what a kubelet or podman would ask it for.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::Namespace;
use super::namespace::run;

/// What the runtime is asked to give the process of CAP_NET_ADMIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// What a kubelet asks for with `capabilities: {drop: [ALL], add: [NET_ADMIN]}`. The kernel leaves nothing of it to
    /// users other than root but the bounding set.
    Kubernetes,
    /// What podman asks for: the capability is ambient, so that other users have it too.
    Podman,
    /// Nothing.
    None,
}

/// What a container ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A container whose image holds the program alone, in the network namespace of a pod.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pod: &'a Namespace,
    bundle: PathBuf,
    uid: u32,
    grant: Grant,
}

impl<'a> Container<'a> {
    pub(crate) fn new(pod: &'a Namespace, uid: u32, grant: Grant) -> Container<'a> {
        let bundle = pod.folder().join(format!("bundle-{uid}-{grant:?}"));
        for folder in ["proc", "dev", "sys"] {
            fs::create_dir_all(bundle.join("rootfs").join(folder)).unwrap();
        }
        let container = Container { pod, bundle, uid, grant };
        run(Command::new("install").args(["-m", "755", env!("CARGO_BIN_EXE_mesh-init")]).arg(container.program()));
        container
    }

    fn program(&self) -> PathBuf {
        self.bundle.join("rootfs/mesh-init")
    }

    /// Gives the image's program the file capability that the image of a user other than root has.
    pub(crate) fn with_file_capability(self) -> Self {
        run(Command::new("setcap").arg("cap_net_admin+p").arg(self.program()));
        self
    }

    /// Runs the program in it: a read-only image, no new privileges, /proc/sys read-only.
    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        let net_admin = ["CAP_NET_ADMIN"];
        let (granted, ambient) = match self.grant {
            Grant::Kubernetes => (&net_admin[..], &[][..]),
            Grant::Podman => (&net_admin[..], &net_admin[..]),
            Grant::None => (&[][..], &[][..]),
        };
        let mut namespaces: Vec<_> = ["pid", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
        namespaces.push(json!({"type": "network", "path": self.pod.path()}));
        let args = [&["/mesh-init"], words].concat();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": self.uid, "gid": self.uid},
                "args": args,
                "env": ["PATH=/"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {
                    "bounding": granted, "effective": granted, "permitted": granted, "inheritable": ambient, "ambient": ambient,
                },
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            ],
            "linux": {
                "namespaces": namespaces,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        fs::write(self.bundle.join("config.json"), config.to_string()).unwrap();
        let name = self.bundle.strip_prefix(std::env::temp_dir()).unwrap().display().to_string().replace('/', "-");
        let output = Command::new("runc")
            .arg("--root")
            .arg(self.pod.folder().join("runc"))
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(name)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
