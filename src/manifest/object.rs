//! The objects of a document, and the pods that they describe.

use serde_json::Value;

use super::draft::{Draft, Fault};
use super::path::{Path, Step};

/// An object that describes pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its API group and version, such as `apps/v1`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name, or the beginning of it; empty if it has none.
    pub name: String,
    /// Whether the cluster makes up the end of its name (`generateName`).
    pub is_generated: bool,
    /// Its namespace, if it says one.
    pub namespace: Option<String>,
    /// Where in the document it is.
    pub(super) path: Path,
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(if self.name.is_empty() { "without a name" } else { &self.name })
    }
}

impl Object {
    /// Whether it is a document of its own, or an item of a list, of lists as well.
    pub(super) fn is_listed(&self) -> bool {
        let mut steps = self.path.steps().chunks(2);
        steps.all(|step| matches!(step, [Step::Key(key), Step::Index(_)] if key == "items"))
    }
}

/// A pod, or the template of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) metadata: Path,
    pub(super) spec: Path,
    /// Whether no cluster that takes it knows the field `seccompProfile`.
    pub(super) is_old: bool,
}

impl Pod {
    fn at(path: &Path) -> Pod {
        Pod { metadata: path.key("metadata"), spec: path.key("spec"), is_old: false }
    }
}

/// Versions of the API that were gone (in Kubernetes 1.16) before the field came (in 1.19).
const OLD: [&str; 3] = ["extensions/v1beta1", "apps/v1beta1", "apps/v1beta2"];

/// Calls `found` with every object in `document`, those in lists of any kind among them.
pub(super) fn each(document: &Value, found: &mut impl FnMut(Object, &Value)) {
    visit(document, &Path::default(), None, found);
}

fn visit(value: &Value, path: &Path, kind_of_items: Option<(&str, &str)>, found: &mut impl FnMut(Object, &Value)) {
    match value {
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str);
            // The items of a PodList may leave out what they are.
            let head = text("apiVersion").zip(text("kind")).or(kind_of_items);
            if let Some((api_version, kind)) = head {
                found(object(api_version, kind, value, path), value);
            }
            let items =
                head.and_then(|(api_version, kind)| Some((api_version, kind.strip_suffix("List").filter(|kind| !kind.is_empty())?)));
            for (key, value) in fields {
                match (key.as_str(), items, value) {
                    ("items", Some(items), Value::Array(list)) => {
                        for (at, item) in list.iter().enumerate() {
                            visit(item, &path.key(key).index(at), Some(items), found);
                        }
                    }
                    _ => visit(value, &path.key(key), None, found),
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                visit(item, &path.index(at), None, found);
            }
        }
        _ => {}
    }
}

fn object(api_version: &str, kind: &str, value: &Value, path: &Path) -> Object {
    let metadata = |key: &str| value.get("metadata")?.get(key)?.as_str().map(str::to_owned);
    let (name, beginning) = (metadata("name"), metadata("generateName"));
    Object {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        is_generated: name.is_none() && beginning.is_some(),
        name: name.or(beginning).unwrap_or_default(),
        namespace: metadata("namespace"),
        path: path.clone(),
    }
}

/// The pods that `object` describes.
pub(super) fn pods(draft: &Draft, object: &Object) -> Result<Vec<Pod>, Fault> {
    let template: &[&str] = match (group(&object.api_version), object.kind.as_str()) {
        ("", "Pod") => &[],
        ("", "PodTemplate") => &["template"],
        ("", "ReplicationController" | "DeploymentConfig")
        | ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("apps.openshift.io", "DeploymentConfig") => &["spec", "template"],
        ("batch", "CronJob" | "ScheduledJob") => &["spec", "jobTemplate", "spec", "template"],
        // Its items are found by themselves, though they may leave out what they are.
        (_, kind) if kind.ends_with("List") && draft.get(&object.path.key("items")).is_some_and(Value::is_array) => return Ok(Vec::new()),
        _ => {
            let mut found = Vec::new();
            if let Some(value) = draft.get(&object.path) {
                templates(value, &object.path, &mut found);
            }
            return Ok(found);
        }
    };
    let mut path = object.path.clone();
    for key in template {
        path = path.key(key);
        draft.object(&path)?;
    }
    let pod = Pod { is_old: OLD.contains(&object.api_version.as_str()), ..Pod::at(&path) };
    Ok(if draft.object(&pod.spec)?.is_some() { vec![pod] } else { Vec::new() })
}

/// The group of an `apiVersion`; nothing for the core group.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// What looks like a pod's template in an object of a kind that is not known: `template`, or `…Template`, with containers.
/// Objects inside are found by themselves.
fn templates(value: &Value, path: &Path, found: &mut Vec<Pod>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(_, value)| !is_object(value)) {
                let path = path.key(key);
                if (key == "template" || key.ends_with("Template")) && has_containers(value) {
                    found.push(Pod::at(&path));
                } else {
                    templates(value, &path, found);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate().filter(|(_, item)| !is_object(item)) {
                templates(item, &path.index(at), found);
            }
        }
        _ => {}
    }
}

/// Whether it says what it is.
fn is_object(value: &Value) -> bool {
    ["apiVersion", "kind"].iter().all(|key| value.get(key).is_some_and(Value::is_string))
}

fn has_containers(template: &Value) -> bool {
    let containers = template.get("spec").and_then(|spec| spec.get("containers")).and_then(Value::as_array);
    containers.is_some_and(|containers| !containers.is_empty() && containers.iter().all(Value::is_object))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(document: Value) -> Vec<(String, Vec<String>)> {
        let mut objects = Vec::new();
        each(&document, &mut |object, _| objects.push(object));
        let draft = Draft::new(document);
        let pods = |object: &Object| pods(&draft, object).unwrap().iter().map(|pod| pod.spec.to_string()).collect();
        objects.iter().map(|object| (object.to_string(), pods(object))).collect()
    }

    fn one(object: &str, spec: &str) -> Vec<(String, Vec<String>)> {
        vec![(object.to_owned(), vec![spec.to_owned()])]
    }

    #[test]
    fn pods_are_found_in_every_kind_that_has_a_template() {
        let template = json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}});
        for (api_version, kind) in [
            ("apps/v1", "Deployment"),
            ("apps/v1beta2", "StatefulSet"),
            ("extensions/v1beta1", "DaemonSet"),
            ("apps/v1", "ReplicaSet"),
            ("v1", "ReplicationController"),
            ("batch/v1", "Job"),
            ("apps.openshift.io/v1", "DeploymentConfig"),
            ("v1", "DeploymentConfig"),
            ("argoproj.io/v1alpha1", "Rollout"),
            ("serving.knative.dev/v1", "Service"),
        ] {
            let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": {"template": template}});
            assert_eq!(found(object), one(&format!("{kind} x"), "spec.template.spec"));
        }
        let cron = json!({"apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": {"generateName": "c-", "namespace": "n"}, "spec": {"jobTemplate": {"spec": {"template": template}}}});
        assert_eq!(found(cron), one("CronJob n/c-", "spec.jobTemplate.spec.template.spec"));
        assert_eq!(found(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []}})), one("Pod without a name", "spec"));
        assert_eq!(
            found(json!({"apiVersion": "v1", "kind": "PodTemplate", "template": template})),
            one("PodTemplate without a name", "template.spec")
        );
        let set = json!({"apiVersion": "jobset.x-k8s.io/v1", "kind": "JobSet", "spec": {"replicatedJobs": [{"template": {"spec": {"template": template}}}]}});
        assert_eq!(found(set), one("JobSet without a name", "spec.replicatedJobs[0].template.spec.template.spec"));
    }

    #[test]
    fn lists_of_any_kind_are_gone_into() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
        let list = json!({"apiVersion": "v1", "kind": "PodList", "items": [pod, pod]});
        let found = found(list);
        assert_eq!(
            found[1..],
            [("Pod p".to_owned(), vec!["items[0].spec".to_owned()]), ("Pod p".to_owned(), vec!["items[1].spec".to_owned()])]
        );
    }

    #[test]
    fn an_object_in_a_list_is_nobody_elses() {
        let template = json!({"spec": {"containers": [{"name": "app"}]}});
        let deployment =
            |name: &str| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"template": template}});
        for list in [
            json!({"apiVersion": "v1", "kind": "List", "items": [deployment("a")]}),
            json!({"apiVersion": "template.openshift.io/v1", "kind": "Template", "objects": [deployment("a")]}),
            json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{"metadata": {"name": "a"}, "spec": {"template": template}}]}),
            json!({"apiVersion": "x/v1", "kind": "Bundle", "spec": {"manifest": deployment("a")}}),
        ] {
            let found = found(list);
            assert_eq!((found.len(), found[0].1.len()), (2, 0), "{found:?}");
            assert_eq!((found[1].0.as_str(), found[1].1.len()), ("Deployment a", 1), "{found:?}");
        }
    }

    #[test]
    fn what_has_no_pods_is_left_alone() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"template": "spec:\n  containers: []"}});
        assert_eq!(found(map), [("ConfigMap without a name".to_owned(), vec![])]);
        assert_eq!(found(json!({"a": {"template": {"spec": {"containers": [{}]}}}})), []);
        assert_eq!(
            found(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}})),
            [("Deployment without a name".to_owned(), vec![])]
        );
    }

    #[test]
    fn a_known_kind_with_something_else_in_its_templates_place_is_wrong() {
        let draft = Draft::new(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": [1]}}));
        let object = object("apps/v1", "Deployment", &json!({}), &Path::default());
        assert_eq!(pods(&draft, &object).unwrap_err().path.to_string(), "spec.template");
    }
}
