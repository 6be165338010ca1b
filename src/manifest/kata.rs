//! Pods for Kata Containers: how they get into a guest, and what a guest does not have.

use super::draft::{Draft, Fault};
use super::error::Cause;
use super::object::Pod;
use super::path::Path;
use super::pod::CONTAINERS;
use super::settings::Kata;

/// Sends the pod into a guest. Returns warnings.
pub(super) fn enter(draft: &mut Draft, pod: &Pod, kata: &Kata) -> Result<Vec<(Path, String)>, Fault> {
    let class = pod.spec.key("runtimeClassName");
    match kata {
        Kata::RuntimeClass(name) => {
            draft.set(&pod.spec, "runtimeClassName", name.as_str(), "the pod runs in a Kata guest")?;
            leave_containerds_annotation(draft, pod)?;
            // The agent fetches images from inside the guest, by the guest's own network.
            let pulls = ["coco", "snp", "tdx", "-se", "remote"].iter().any(|part| name.contains(part));
            let text = "runtime classes that pull images inside the guest do so through the mesh's rules once they are in: except the \
                        registry's and the attestation service's ports from the mesh (excludeOutboundPorts, skip-outbound-ports)";
            Ok(if pulls { vec![(class, text.to_owned())] } else { Vec::new() })
        }
        Kata::CriO | Kata::Containerd => {
            let Some((annotation, value)) = kata.annotation() else { return Ok(Vec::new()) };
            if *kata == Kata::Containerd && draft.get(&class).is_some() {
                return Err(Fault::new(&class, Cause::RuntimeClass { annotation }));
            }
            let annotations = pod.metadata.key("annotations");
            draft.set(&annotations, annotation, value, "the pod runs in a Kata guest, if the container runtime heeds this")?;
            let text = if *kata == Kata::CriO {
                "CRI-O ignores this annotation since 1.14: the pod runs without a virtual machine and nothing says so; use --runtime-class"
            } else {
                "containerd needs a runtime handler named \"untrusted\" for this annotation, which kata-deploy does not configure: without \
                 it the pod is not created; use --runtime-class"
            };
            Ok(vec![(annotations.key(annotation), text.to_owned())])
        }
    }
}

/// containerd refuses a pod that has a runtime class and its annotation of old.
fn leave_containerds_annotation(draft: &mut Draft, pod: &Pod) -> Result<(), Fault> {
    let Some(path) = annotated(draft, pod, &Kata::Containerd) else { return Ok(()) };
    let annotations = pod.metadata.key("annotations");
    let is_alone = draft.object(&annotations)?.is_some_and(|all| all.len() == 1);
    draft.remove(if is_alone { &annotations } else { &path }, "the runtime class does it; containerd refuses a pod that has both");
    Ok(())
}

/// The annotation that `kata` sets, if the pod has it with that value.
fn annotated(draft: &Draft, pod: &Pod, kata: &Kata) -> Option<Path> {
    let (annotation, value) = kata.annotation()?;
    let path = pod.metadata.key("annotations").key(annotation);
    (draft.get(&path)?.as_str() == Some(value)).then_some(path)
}

/// The field by which the pod asks for a guest.
pub(super) fn asked_for(draft: &Draft, pod: &Pod) -> Result<Option<Path>, Fault> {
    let class = pod.spec.key("runtimeClassName");
    if draft.text(&class)?.is_some_and(|name| name.contains("kata")) {
        return Ok(Some(class));
    }
    Ok([Kata::Containerd, Kata::CriO].iter().find_map(|kata| annotated(draft, pod, kata)))
}

/// What a guest cannot give the pod.
pub(super) fn impossible(draft: &Draft, pod: &Pod) -> Result<Vec<Fault>, Fault> {
    let mut faults = Vec::new();
    for (key, why) in [
        ("hostNetwork", "the guest has a network of its own, not the node's"),
        ("hostPID", "the guest sees none of the node's processes"),
        ("hostIPC", "the guest shares no memory with the node's processes"),
    ] {
        let path = pod.spec.key(key);
        if draft.is(&path)? {
            faults.push(Fault::new(&path, Cause::Kata(why)));
        }
    }
    let users = pod.spec.key("hostUsers");
    if draft.get(&users).is_some() && !draft.is(&users)? {
        faults.push(Fault::new(
            &users,
            Cause::Kata("in a user namespace the guest's packet filter refuses everything; leave this field out"),
        ));
    }
    for key in CONTAINERS {
        let at = pod.spec.key(key);
        for index in 0..draft.list(&at)?.len() {
            let added = at.index(index).key("securityContext").key("capabilities").key("add");
            for (item, name) in draft.texts(&added)?.iter().enumerate() {
                // Runtimes take the names in any case.
                let name = name.to_ascii_uppercase();
                if matches!(name.strip_prefix("CAP_").unwrap_or(&name), "SYS_MODULE" | "ALL") {
                    let why = "SYS_MODULE, which ALL includes, loads modules, and the guest's kernel has none; all that the rules need is built in";
                    faults.push(Fault::new(&added.index(item), Cause::Kata(why)));
                }
            }
        }
    }
    Ok(faults)
}
