//! A pod of a mesh: its init containers, the privileges of the others, volumes that nobody needs any more, Kata Containers.

use super::draft::{Draft, Fault};
use super::error::Cause;
use super::init::{self, Role};
use super::kata;
use super::object::Pod;
use super::path::Path;
use super::settings::{Kata, Settings};

/// Fields that hold containers.
pub(super) const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What was found besides changes.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What keeps the manifest from being patched.
    pub(super) faults: Vec<Fault>,
    /// What somebody should know.
    pub(super) warnings: Vec<(Path, String)>,
    /// A mark for injection that nobody has acted on yet.
    pub(super) marked: Option<(Path, String)>,
    /// The names of the pod's containers.
    pub(super) containers: Vec<String>,
}

/// A container's place and name.
type Container = (Path, String);

/// Patches the pod, unless it has no mesh.
pub(super) fn patch(
    draft: &mut Draft,
    pod: &Pod,
    settings: &Settings,
    mark: impl FnOnce(&Draft) -> Result<Option<(Path, String)>, Fault>,
) -> Findings {
    let mut findings = Findings::default();
    if let Err(fault) = work(draft, pod, settings, mark, &mut findings) {
        findings.faults.push(fault);
    }
    findings
}

fn work(
    draft: &mut Draft,
    pod: &Pod,
    settings: &Settings,
    mark: impl FnOnce(&Draft) -> Result<Option<(Path, String)>, Fault>,
    findings: &mut Findings,
) -> Result<(), Fault> {
    let mut all = Vec::new();
    for key in CONTAINERS {
        all.extend(containers(draft, &pod.spec.key(key))?);
    }
    findings.containers = all.iter().map(|(_, name)| name.clone()).collect();
    let first = pod.spec.key("initContainers");
    let inits: Vec<(&Container, Role)> = all
        .iter()
        .filter(|(path, _)| path.steps().starts_with(first.steps()))
        .filter_map(|container| Some((container, Role::of(&container.1)?)))
        .collect();
    if inits.is_empty() && !has_proxy(draft, pod, &all) {
        findings.marked = mark(draft)?;
        if let Some(kata) = settings.kata.as_ref().filter(|kata| !is_sent(draft, pod, kata)) {
            let text = if findings.marked.is_some() {
                let field = kata.annotation().map_or("runtimeClassName".to_owned(), |(key, _)| format!("the annotation {key}"));
                format!(
                    "{kata} is not applied to this pod, which has yet to be injected, and neither the webhook nor the policy in image/ \
                     sets a runtime class; inject it first, or set {field} by hand"
                )
            } else {
                format!("this pod has no mesh, so {kata} does not change it")
            };
            findings.warnings.push((pod.spec.clone(), text));
        }
        return Ok(());
    }
    let mut unmounted = Vec::new();
    for ((path, _), role) in &inits {
        match init::patch(draft, pod, path, *role, settings) {
            Ok(volumes) => unmounted.extend(volumes),
            Err(fault) => findings.faults.push(fault),
        }
    }
    for (path, name) in &all {
        if !inits.iter().any(|((init, _), _)| init == path) {
            lower(draft, path, name, settings, findings)?;
        }
    }
    drop_volumes(draft, pod, &unmounted)?;
    if let Some(kata) = &settings.kata {
        findings.warnings.extend(kata::enter(draft, pod, kata)?);
    }
    let asked_for = kata::asked_for(draft, pod)?;
    if settings.kata.is_some() || asked_for.is_some() {
        findings.faults.extend(kata::impossible(draft, pod)?);
        if settings.non_root && !inits.is_empty() {
            let why =
                "the image's file capability does not reach the guest, so that its init container has to be root's; leave --non-root out";
            findings.faults.push(Fault::new(&asked_for.unwrap_or_else(|| pod.spec.key("runtimeClassName")), Cause::Kata(why)));
        }
    } else if draft.is(&pod.spec.key("hostNetwork"))? && !inits.is_empty() {
        let text = "the mesh's rules would be put into the node's own network; neither mesh injects such a pod";
        findings.warnings.push((pod.spec.key("hostNetwork"), text.to_owned()));
    }
    Ok(())
}

/// Whether the pod says already what sends it into a guest.
fn is_sent(draft: &Draft, pod: &Pod, kata: &Kata) -> bool {
    let (at, wanted) = match (kata, kata.annotation()) {
        (Kata::RuntimeClass(name), _) => (pod.spec.key("runtimeClassName"), name.as_str()),
        (_, Some((annotation, value))) => (pod.metadata.key("annotations").key(annotation), value),
        _ => return false,
    };
    draft.get(&at).is_some_and(|value| value == wanted)
}

/// The containers in a field of a pod.
fn containers(draft: &Draft, at: &Path) -> Result<Vec<Container>, Fault> {
    let mut containers = Vec::new();
    for index in 0..draft.list(at)?.len() {
        let path = at.index(index);
        draft.object(&path)?;
        let name = draft.text(&path.key("name"))?.unwrap_or_default().to_owned();
        containers.push((path, name));
    }
    Ok(containers)
}

/// Whether a mesh has been here without an init container, as where nothing is to be intercepted. A gateway's proxy is there
/// without the mark of an injection.
fn has_proxy(draft: &Draft, pod: &Pod, containers: &[Container]) -> bool {
    let has = |name: &str| containers.iter().any(|(_, other)| other == name);
    let injected = |key: &str| draft.get(&pod.metadata.key("annotations").key(key)).is_some();
    (has("istio-proxy") && injected("sidecar.istio.io/status")) || (has("linkerd-proxy") && injected("linkerd.io/proxy-version"))
}

/// Takes the privileges of a container away that is not a mesh's init container.
fn lower(draft: &mut Draft, path: &Path, name: &str, settings: &Settings, findings: &mut Findings) -> Result<(), Fault> {
    let context = path.key("securityContext");
    draft.object(&context)?;
    let is_kept = settings.keep_privileged.iter().any(|kept| kept == name);
    if !draft.is(&context.key("privileged"))? || is_kept {
        return Ok(());
    }
    draft.set(
        &context,
        "privileged",
        false,
        "with a mesh's rules in place no container has to be privileged (--keep-privileged excepts one)",
    )?;
    if name == "enable-core-dump" {
        let text = "enable-core-dump sets a kernel parameter and cannot do so unprivileged: the pod will not start; take it out \
                    (global.proxy.enableCoreDump=false, or the annotation sidecar.istio.io/enableCoreDump: \"false\"), or pass \
                    --keep-privileged enable-core-dump";
        findings.warnings.push((path.clone(), text.to_owned()));
    }
    Ok(())
}

/// Takes those volumes out of the pod that no container mounts any more.
fn drop_volumes(draft: &mut Draft, pod: &Pod, unmounted: &[String]) -> Result<(), Fault> {
    let mut mounted = Vec::new();
    for key in CONTAINERS {
        for (path, _) in containers(draft, &pod.spec.key(key))? {
            let mounts = path.key("volumeMounts");
            for index in 0..draft.list(&mounts)?.len() {
                mounted.extend(draft.text(&mounts.index(index).key("name"))?.map(str::to_owned));
            }
        }
    }
    let volumes = pod.spec.key("volumes");
    let count = draft.list(&volumes)?.len();
    let mut idle = Vec::new();
    for index in (0..count).rev() {
        let name = draft.text(&volumes.index(index).key("name"))?.unwrap_or_default();
        if unmounted.iter().any(|other| other == name) && !mounted.iter().any(|other| other == name) {
            idle.push(volumes.index(index));
        }
    }
    let why = "it was there for the lock file alone";
    if idle.len() == count && count > 0 {
        draft.remove(&volumes, why);
    } else {
        idle.iter().for_each(|volume| draft.remove(volume, why));
    }
    Ok(())
}
