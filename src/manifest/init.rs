//! The init container of a mesh: mesh-init's image, and the privileges that it needs.

use serde_json::{Value, json};

use super::command;
use super::draft::{Draft, Fault};
use super::error::Cause;
use super::object::Pod;
use super::path::Path;
use super::settings::Settings;

/// What an init container of a mesh is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `istio-init`: installs the rules.
    IstioInit,
    /// `istio-validation`: tries the rules that a CNI plugin has installed.
    IstioValidation,
    /// `linkerd-init`: installs the rules.
    LinkerdInit,
    /// `linkerd-network-validator`: tries the rules that a CNI plugin has installed.
    LinkerdValidator,
}

impl Role {
    /// The role of the init container called `name`, if it is a mesh's.
    pub(super) fn of(name: &str) -> Option<Role> {
        [Role::IstioInit, Role::IstioValidation, Role::LinkerdInit, Role::LinkerdValidator].into_iter().find(|role| role.name() == name)
    }

    /// The container's name.
    fn name(self) -> &'static str {
        match self {
            Role::IstioInit => "istio-init",
            Role::IstioValidation => "istio-validation",
            Role::LinkerdInit => "linkerd-init",
            Role::LinkerdValidator => "linkerd-network-validator",
        }
    }

    /// Whether it writes rules, which takes CAP_NET_ADMIN.
    fn installs(self) -> bool {
        matches!(self, Role::IstioInit | Role::LinkerdInit)
    }
}

/// A user other than root who is nobody else in the pod: those of the proxies would be exempt from the rules.
const NOBODY: u32 = 65534;

/// Patches the container at `path`. Returns the volumes that it no longer mounts.
pub(super) fn patch(draft: &mut Draft, pod: &Pod, path: &Path, role: Role, settings: &Settings) -> Result<Vec<String>, Fault> {
    let name = role.name();
    command::keep_working(draft, path, role, settings.accepts)?;
    draft.set(path, "image", settings.image.as_str(), "mesh-init in the place of the original")?;
    let keeps = settings.keep_privileged.iter().any(|kept| kept == name);
    if !keeps && let Some(flag) = command::close_wait_timeout(draft, path)? {
        let text = "writing this kernel setting takes a privileged container; leave it out, or except the container with --keep-privileged linkerd-init";
        return Err(Fault::new(&flag, Cause::Privilege(text.to_owned())));
    }
    security(draft, path, role, keeps, settings.non_root)?;
    seccomp(draft, pod, path, role)?;
    if let Some(resources) = &settings.resources {
        let new = resources.value(&draft.object(&path.key("resources"))?.cloned().unwrap_or_default());
        draft.set(path, "resources", new, "--resources")?;
    }
    drop_lock_mounts(draft, path)
}

fn security(draft: &mut Draft, path: &Path, role: Role, keeps_privileged: bool, non_root: bool) -> Result<(), Fault> {
    let context = path.key("securityContext");
    draft.object(&context)?;
    if !keeps_privileged {
        draft.set(&context, "allowPrivilegeEscalation", false, "nothing is gained while it runs")?;
    }
    let capabilities = context.key("capabilities");
    let added = if role.installs() { vec!["NET_ADMIN"] } else { Vec::new() };
    if draft.texts(&capabilities.key("add"))? != added {
        if added.is_empty() {
            draft.remove(&capabilities.key("add"), "the validator needs no capability");
        } else {
            draft.set(&capabilities, "add", added, "the one capability that the rules take; no raw socket is opened")?;
        }
    }
    if draft.texts(&capabilities.key("drop"))? != ["ALL"] {
        draft.set(&capabilities, "drop", vec!["ALL"], "no other capability is needed")?;
    }
    if !keeps_privileged {
        draft.set(&context, "privileged", false, "CAP_NET_ADMIN is enough")?;
    }
    draft.set(&context, "readOnlyRootFilesystem", true, "no file is written, no lock taken")?;
    if role.installs() {
        user(draft, &context, non_root)?;
    }
    Ok(())
}

/// The runtime's own profile, unless somebody has chosen one of the node's.
fn seccomp(draft: &mut Draft, pod: &Pod, path: &Path, role: Role) -> Result<(), Fault> {
    let why = "no system call outside the runtime's profile is needed";
    let context = path.key("securityContext");
    let profile = context.key("seccompProfile");
    if pod.is_old {
        let annotations = pod.metadata.key("annotations");
        let annotation = format!("container.seccomp.security.alpha.kubernetes.io/{}", role.name());
        let is_chosen = draft.text(&annotations.key(&annotation))?.is_some_and(|chosen| chosen.starts_with("localhost/"));
        return if is_chosen { Ok(()) } else { draft.set(&annotations, &annotation, "runtime/default", why) };
    }
    match (draft.object(&profile)?.is_some(), draft.text(&profile.key("type"))?) {
        (_, Some("Localhost")) => Ok(()),
        (true, _) => draft.set(&profile, "type", "RuntimeDefault", why),
        (false, _) => draft.set(&context, "seccompProfile", json!({"type": "RuntimeDefault"}), why),
    }
}

fn user(draft: &mut Draft, context: &Path, non_root: bool) -> Result<(), Fault> {
    if !non_root {
        let why = "the image's file capability does not reach a Kata guest (--non-root for nodes where it counts)";
        draft.set(context, "runAsNonRoot", false, why)?;
        return draft.set(context, "runAsUser", 0, why);
    }
    let why = "--non-root: the image's file capability is enough";
    for key in ["runAsGroup", "runAsUser"] {
        if draft.get(&context.key(key)).and_then(Value::as_u64).is_none_or(|id| id == 0) {
            draft.set(context, key, NOBODY, why)?;
        }
    }
    draft.set(context, "runAsNonRoot", true, why)
}

/// Takes out what is mounted for iptables' lock file alone, and returns the volumes' names.
fn drop_lock_mounts(draft: &mut Draft, path: &Path) -> Result<Vec<String>, Fault> {
    let at = path.key("volumeMounts");
    let count = draft.list(&at)?.len();
    let mut lock = Vec::new();
    for index in (0..count).rev() {
        let mount = at.index(index);
        draft.object(&mount)?;
        let name = draft.text(&mount.key("name"))?.unwrap_or_default().to_owned();
        let place = draft.text(&mount.key("mountPath"))?.unwrap_or_default().trim_end_matches('/');
        if name.ends_with("xtables-lock") || matches!(place, "/run" | "/run/xtables.lock" | "/var/run/xtables.lock") {
            lock.push((mount, name));
        }
    }
    let why = "there is no lock file to be written";
    if lock.len() == count && count > 0 {
        draft.remove(&at, why);
    } else {
        lock.iter().for_each(|(mount, _)| draft.remove(mount, why));
    }
    Ok(lock.into_iter().map(|(_, name)| name).collect())
}
