//! A kustomization for the current folder: which files it lists, and by which names.

use std::path::Path;

use super::{Done, one_line};
use crate::cli::complain;
use crate::cli::failure::{Code, Failure};
use crate::manifest::{PatchedObject, patches};

/// Files that kustomize reads by itself, in every folder.
const OWN: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// The kustomization. Files that kustomize would not take are left out of it, and that is said.
pub(super) fn kustomization(done: &[Done<'_>]) -> Result<String, Failure> {
    let here = std::env::current_dir()
        .and_then(|here| here.canonicalize())
        .map_err(|error| failed(format!("--output kustomize: the current folder cannot be found: {error}")))?;
    let mut resources = Vec::new();
    for Done { input, patched } in done {
        let Some(path) = &input.path else { continue };
        let is_own = OWN.iter().any(|own| path.file_name().is_some_and(|name| name == *own));
        if is_own || patched.documents.iter().any(|object| object.api_version.starts_with("kustomize.config.k8s.io/")) {
            // The one that the shell has made for this very output is empty.
            leave_out(&input.name, !input.text.is_empty(), "it is kustomize's own");
        } else if patched.documents.is_empty() && patched.objects.is_empty() {
            leave_out(&input.name, true, "no document in it is a Kubernetes object");
        } else {
            resources.push(resource(path, &here, &input.name)?);
        }
    }
    let objects: Vec<(&Done<'_>, &PatchedObject)> =
        done.iter().flat_map(|done| done.patched.objects.iter().map(move |object| (done, object))).collect();
    patches::kustomization(&resources, &objects.iter().map(|(_, object)| *object).collect::<Vec<_>>()).map_err(|(at, why)| {
        let (done, patched) = objects[at];
        let place = patched.changes.first().map(|change| change.place).unwrap_or_default();
        failed(format!("{}: {place}: {}: --output kustomize: {why}", done.input.name, patched.object))
    })
}

fn leave_out(name: &str, is_news: bool, why: &str) {
    if is_news {
        complain(&one_line(&format!("mesh-patch: warning: {name}: not among the resources: {why}")));
    }
}

/// The name by which a kustomization in the folder `here` lists the file.
fn resource(path: &Path, here: &Path, name: &str) -> Result<String, Failure> {
    let below = path.strip_prefix(here).map_err(|_| {
        let here = here.display();
        failed(format!("{name}: --output kustomize: kustomize reads no file outside of the kustomization's folder, here {here}"))
    })?;
    let text = below.to_str().ok_or_else(|| failed(format!("{name}: --output kustomize: the file's name is not UTF-8")))?;
    Ok(text.to_owned())
}

fn failed(text: String) -> Failure {
    Failure::new(Code::Failed, one_line(&text), None)
}
