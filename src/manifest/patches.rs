//! Changes as patches for other programs: RFC 6902, and kustomize.

use serde_json::{Value, json};

use super::align::{Fate, align};
use super::object::group;
use super::path::Path;
use super::{PatchedObject, render};

/// The operations of an RFC 6902 patch that make the object what it is now. Before an item of a list is changed its name is
/// tested, so that the patch fails where it does not belong.
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
    if let Some(name) = item.get("name").filter(|name| name.is_string()) {
        operations.push(json!({"op": "test", "path": at.key("name").pointer(), "value": name}));
    }
}

/// One RFC 6902 patch for each object, as a JSON array; of several, each is a YAML document that says in a comment whose it is.
/// Of nothing, an empty patch.
pub fn json_patches(objects: &[&PatchedObject]) -> String {
    let pretty = |operations: &[Value]| format!("{:#}\n", Value::from(operations));
    match objects {
        [] => pretty(&[]),
        [one] => pretty(&json_patch(one)),
        several => {
            let document = |patched: &&PatchedObject| {
                format!("---\n# {} ({})\n{}", patched.object, patched.object.api_version, pretty(&json_patch(patched)))
            };
            several.iter().map(document).collect()
        }
    }
}

/// A kustomization that lists `resources` and patches the objects in them.
pub fn kustomization(resources: &[String], objects: &[&PatchedObject]) -> String {
    let mut text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n".to_owned();
    if !resources.is_empty() {
        text.push_str("resources:\n");
        resources.iter().for_each(|resource| text.push_str(&format!("- {}\n", render::string(resource))));
    }
    if !objects.is_empty() {
        text.push_str("patches:\n");
    }
    for patched in objects {
        let object = &patched.object;
        let version = object.api_version.rsplit('/').next().unwrap_or_default();
        let group = group(&object.api_version);
        text.push_str("- target:\n");
        // The names of a target are regular expressions.
        let (name, namespace) = (object.name.replace('.', "\\."), object.namespace.as_deref().unwrap_or_default().replace('.', "\\."));
        for (key, value) in [("group", group), ("version", version), ("kind", &object.kind), ("name", &name), ("namespace", &namespace)] {
            if !value.is_empty() {
                text.push_str(&format!("    {key}: {}\n", render::string(value)));
            }
        }
        text.push_str("  patch: |-\n");
        format!("{:#}", Value::from(json_patch(patched))).lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}
