//! Changes as patches for other programs: RFC 6902, and kustomize.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::align::{Fate, align};
use super::object::{Object, group};
use super::path::Path;
use super::{PatchedObject, render};

/// The operations of an RFC 6902 patch that make the object what it is now. Before an item of a list is changed or taken out its
/// name is tested, of one that has none its value, so that the patch fails where it does not belong.
pub fn json_patch(patched: &PatchedObject) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(&patched.old, &patched.new, &Path::default(), &mut operations);
    operations
}

fn compare(old: &Value, new: &Value, path: &Path, operations: &mut Vec<Value>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, old) in before {
                match after.get(key) {
                    Some(new) => compare(old, new, &path.key(key), operations),
                    None => operations.push(json!({"op": "remove", "path": path.key(key).pointer()})),
                }
            }
            for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                operations.push(json!({"op": "add", "path": path.key(key).pointer(), "value": new}));
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            // Where the next item is, after the operations so far.
            let mut next = 0;
            for fate in align(before, after) {
                let at = path.index(next);
                match fate {
                    Fate::Kept { old, new } => {
                        if before[old] != after[new] {
                            test(&before[old], &at, operations);
                        }
                        compare(&before[old], &after[new], &at, operations);
                        next += 1;
                    }
                    Fate::Removed { old } => {
                        test(&before[old], &at, operations);
                        operations.push(json!({"op": "remove", "path": at.pointer()}));
                    }
                    Fate::Added { new } => {
                        operations.push(json!({"op": "add", "path": at.pointer(), "value": after[new]}));
                        next += 1;
                    }
                }
            }
        }
        _ => operations.push(json!({"op": "replace", "path": path.pointer(), "value": new})),
    }
}

fn test(item: &Value, at: &Path, operations: &mut Vec<Value>) {
    let (at, value) = match item.get("name").filter(|name| name.is_string()) {
        Some(name) => (at.key("name"), name),
        None => (at.clone(), item),
    };
    operations.push(json!({"op": "test", "path": at.pointer(), "value": value}));
}

/// RFC 6902 patches as JSON: of one object its patch, of several a list of `{"target": …, "patch": […]}`, of nothing an empty patch.
pub fn json_patches(objects: &[&PatchedObject]) -> String {
    let patch = match objects {
        [one] => Value::from(json_patch(one)),
        all => all.iter().map(|patched| json!({"target": target(&patched.object), "patch": json_patch(patched)})).collect(),
    };
    format!("{patch:#}\n")
}

/// Which object a patch is for, in the fields that the object itself has.
fn target(object: &Object) -> Value {
    let mut target = json!({"apiVersion": object.api_version, "kind": object.kind});
    if let Some(namespace) = &object.namespace {
        target["namespace"] = json!(namespace);
    }
    if !object.name.is_empty() {
        target[if object.is_generated { "generateName" } else { "name" }] = json!(object.name);
    }
    target
}

/// Why kustomize would patch another object than this one, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// It is in an object that is not a list.
    #[error("kustomize patches documents and the items of lists, and this is inside another object")]
    Inside,
    /// It has no name, or only the beginning of one.
    #[error("kustomize patches objects by metadata.name, and this one has none")]
    Nameless,
    /// Two are the same to it.
    #[error("kustomize takes only one object of this version, kind, name and namespace, and here is a second one")]
    Twice,
}

/// A kustomization that lists `resources` and patches the objects in them; or the object for which that cannot be done, by its place
/// among `objects`.
pub fn kustomization(resources: &[String], objects: &[&PatchedObject]) -> Result<String, (usize, NoTarget)> {
    let mut text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n".to_owned();
    if !resources.is_empty() {
        text.push_str("resources:\n");
        resources.iter().for_each(|resource| text.push_str(&format!("- {}\n", render::string(resource))));
    }
    if !objects.is_empty() {
        text.push_str("patches:\n");
    }
    let mut seen = HashSet::new();
    for (at, patched) in objects.iter().enumerate() {
        let target = kustomize_target(&patched.object).map_err(|why| (at, why))?;
        text.push_str(&format!("- target:\n{target}  patch: |-\n"));
        if !seen.insert(target) {
            return Err((at, NoTarget::Twice));
        }
        format!("{:#}", Value::from(json_patch(patched))).lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    Ok(text)
}

/// The lines of a patch's target, which match this object alone.
fn kustomize_target(object: &Object) -> Result<String, NoTarget> {
    if !object.is_listed() {
        return Err(NoTarget::Inside);
    }
    if object.name.is_empty() || object.is_generated {
        return Err(NoTarget::Nameless);
    }
    // Names in a target are regular expressions. A target without a namespace matches objects of all of them, and objects
    // without one are in "default" for kustomize.
    let name = object.name.replace('.', "\\.");
    let namespace = object.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default").replace('.', "\\.");
    let version = object.api_version.rsplit('/').next().unwrap_or_default();
    let fields =
        [("group", group(&object.api_version)), ("version", version), ("kind", &object.kind), ("name", &name), ("namespace", &namespace)];
    let lines = fields.iter().filter(|(_, value)| !value.is_empty());
    Ok(lines.map(|(key, value)| format!("    {key}: {}\n", render::string(value))).collect())
}
