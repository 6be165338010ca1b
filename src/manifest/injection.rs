//! Templates that are marked for a mesh's webhook and have nothing of the mesh in them yet.

use std::collections::BTreeMap;

use serde_json::Value;

use super::draft::{Draft, Fault};
use super::object::{Object, Pod};
use super::path::Path;
use crate::mesh::Mesh;

/// The marks of the namespaces that stand in the same input, by their names.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(BTreeMap<String, Marks>);

/// What a namespace says to the webhooks.
#[derive(Clone, Debug, Default)]
struct Marks {
    /// Who is to inject the pods in it.
    marks: Vec<Mark>,
    /// Whether none of Istio's webhooks looks at them, whatever else the namespace and the pods say.
    without_istio: bool,
}

/// Who is to inject, and where that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    mesh: Mesh,
    text: String,
}

impl Namespaces {
    /// Takes note of `object` if it is a namespace.
    pub(super) fn add(&mut self, object: &Object, value: &Value) {
        if object.kind != "Namespace" || object.api_version != "v1" {
            return;
        }
        let metadata = |list: &str, key: &str| said(value.get("metadata").and_then(|metadata| metadata.get(list)?.get(key)));
        let marks = self.0.entry(object.name.clone()).or_default();
        let mark = |mesh, what: &str| Mark { mesh, text: format!("{what} of namespace {}", object.name) };
        // The webhook of a revision leaves a namespace alone that has the other label, whatever that says.
        match (metadata("labels", "istio-injection").as_deref(), metadata("labels", "istio.io/rev")) {
            (Some("enabled"), _) => marks.marks.push(mark(Mesh::Istio, "the label istio-injection=enabled")),
            (Some(_), _) => marks.without_istio = true,
            (None, Some(revision)) => marks.marks.push(mark(Mesh::Istio, &format!("the label istio.io/rev={revision}"))),
            (None, None) => {}
        }
        if let Some(inject @ ("enabled" | "ingress")) = metadata("annotations", "linkerd.io/inject").as_deref() {
            marks.marks.push(mark(Mesh::Linkerd, &format!("the annotation linkerd.io/inject: {inject}")));
        }
    }
}

/// What says that a webhook will inject the pod: the place and a text, if anything does.
pub(super) fn mark(draft: &Draft, object: &Object, pod: &Pod, namespaces: &Namespaces) -> Result<Option<(Path, String)>, Fault> {
    // Neither webhook touches a pod in the node's network.
    if draft.is(&pod.spec.key("hostNetwork"))? {
        return Ok(None);
    }
    let (labels, annotations) = (pod.metadata.key("labels"), pod.metadata.key("annotations"));
    let namespace = namespaces.0.get(object.namespace.as_deref().unwrap_or("default"));
    let without_istio = namespace.is_some_and(|namespace| namespace.without_istio);
    let mut out = if without_istio { vec![Mesh::Istio] } else { Vec::new() };
    for (at, mesh) in [
        (annotations.key("linkerd.io/inject"), Mesh::Linkerd),
        (labels.key("sidecar.istio.io/inject"), Mesh::Istio),
        (annotations.key("sidecar.istio.io/inject"), Mesh::Istio),
    ] {
        match said(draft.get(&at)).as_deref() {
            Some(word @ ("enabled" | "ingress" | "true")) if !(mesh == Mesh::Istio && without_istio) => {
                let list = if at == labels.key("sidecar.istio.io/inject") { "label" } else { "annotation" };
                let key = if mesh == Mesh::Linkerd { "linkerd.io/inject" } else { "sidecar.istio.io/inject" };
                return Ok(Some((at, format!("the {list} {key}: {word}"))));
            }
            Some("disabled" | "false") => out.push(mesh),
            _ => {}
        }
    }
    let revision = labels.key("istio.io/rev");
    if let Some(name) = said(draft.get(&revision)).filter(|_| !out.contains(&Mesh::Istio)) {
        return Ok(Some((revision, format!("the label istio.io/rev: {name}"))));
    }
    let marks = namespace.map_or(&[][..], |namespace| &namespace.marks);
    Ok(marks.iter().find(|mark| !out.contains(&mark.mesh)).map(|mark| (pod.metadata.clone(), mark.text.clone())))
}

/// A label's or annotation's text; people forget the quotes.
fn said(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
